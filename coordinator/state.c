#include "coordinator/state_internal.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#define FORMAT_NAME    "convoy-checkpoint"
#define FORMAT_VERSION 1

/* Sorted keys and 17 digits: equal documents have equal bytes. */
#define DUMP_FLAGS ((size_t)(JSON_SORT_KEYS | JSON_INDENT(2) | JSON_REAL_PRECISION(17)))

typedef enum field_kind { FIELD_INTEGER, FIELD_LENGTH, FIELD_HASH, FIELD_REAL, FIELD_INT, FIELD_TEXT } field_kind;

typedef struct field {
    const char *key;
    field_kind kind;
    size_t offset, size_bytes;
} field;

#define FIELD(kind, member)                                                                        \
    {#member, kind, offsetof(coordinator_state, member), sizeof(((coordinator_state *)0)->member)}

/* The one list of what state.json holds besides format, version and self_hash. */
static const field field_table[] = {
    FIELD(FIELD_INTEGER, step),
    FIELD(FIELD_INTEGER, position),
    FIELD(FIELD_REAL, epoch),
    FIELD(FIELD_INTEGER, n_skipped),
    FIELD(FIELD_INTEGER, seed),
    FIELD(FIELD_INTEGER, replicas),
    FIELD(FIELD_INTEGER, minibatch),
    FIELD(FIELD_INTEGER, n_records),
    FIELD(FIELD_HASH, job_digest),
    FIELD(FIELD_HASH, data_identity),
    FIELD(FIELD_LENGTH, model_bytes),
    FIELD(FIELD_HASH, model_hash),
    FIELD(FIELD_LENGTH, optimizer_bytes),
    FIELD(FIELD_HASH, optimizer_hash),
    FIELD(FIELD_TEXT, arch),
    FIELD(FIELD_INT, n_classes),
    FIELD(FIELD_TEXT, device),
    FIELD(FIELD_TEXT, version),
    FIELD(FIELD_TEXT, written_at),
};
#define N_FIELDS (sizeof field_table / sizeof field_table[0])

/* One member of the struct as JSON; NULL: no memory, or a text that is not UTF-8. */
static json_t *field_to_json(const field *f, const coordinator_state *state)
{
    const char *at = (const char *)state + f->offset;
    int64_t integer = 0;
    uint64_t word = 0;
    int small = 0;
    double real = 0.0;
    char hex[17];

    switch (f->kind) {
    case FIELD_INTEGER:
        memcpy(&integer, at, sizeof integer);
        return json_integer((json_int_t)integer);
    case FIELD_LENGTH:
        memcpy(&word, at, sizeof word);
        return json_integer((json_int_t)word);
    case FIELD_HASH:
        memcpy(&word, at, sizeof word);
        cvy_hash_text(word, hex);
        return json_string(hex);
    case FIELD_REAL:
        memcpy(&real, at, sizeof real);
        return json_real(real);
    case FIELD_INT:
        memcpy(&small, at, sizeof small);
        return json_integer((json_int_t)small);
    case FIELD_TEXT:
        return json_string(at);
    }
    return NULL;
}

/* And back; 0 when the value has another type or does not fit. */
static int field_from_json(const field *f, const json_t *value, coordinator_state *state)
{
    char *at = (char *)state + f->offset;
    const int64_t integer = (int64_t)json_integer_value(value);
    const double real = json_real_value(value);
    const int small = (int)integer;
    uint64_t word = (uint64_t)integer;

    switch (f->kind) {
    case FIELD_INTEGER:
        memcpy(at, &integer, sizeof integer);
        return json_is_integer(value);
    case FIELD_LENGTH:
        memcpy(at, &word, sizeof word);
        return json_is_integer(value) && integer >= 0;
    case FIELD_HASH:
        if (!json_is_string(value) || cvy_hash_from_text(json_string_value(value), &word) != 0) {
            return 0;
        }
        memcpy(at, &word, sizeof word);
        return 1;
    case FIELD_REAL:
        memcpy(at, &real, sizeof real);
        return json_is_real(value);
    case FIELD_INT:
        memcpy(at, &small, sizeof small);
        return json_is_integer(value) && small == integer;
    case FIELD_TEXT:
        if (!json_is_string(value) || json_string_length(value) >= f->size_bytes) return 0;
        memset(at, 0, f->size_bytes);
        memcpy(at, json_string_value(value), json_string_length(value));
        return 1;
    }
    return 0;
}

/* Does the text end inside its array? */
static int texts_end(const coordinator_state *state, const char **out_key)
{
    for (size_t i = 0; i < N_FIELDS; i++) {
        const field *f = &field_table[i];
        if (f->kind == FIELD_TEXT &&
            memchr((const char *)state + f->offset, 0, f->size_bytes) == NULL) {
            *out_key = f->key;
            return 0;
        }
    }
    return 1;
}

cvy_status coordinator_state_check(const coordinator_state *state, cvy_reason *reason)
{
    const struct {
        const char *key;
        int64_t value, min, max;
    } ranges[] = {
        {"step", state->step, 0, COORDINATOR_MAX_STEP},
        {"position", state->position, 0, INT64_MAX / 2},
        {"n_skipped", state->n_skipped, 0, COORDINATOR_MAX_STEP},
        {"replicas", state->replicas, 1, (int64_t)1 << 24},
        {"minibatch", state->minibatch, 1, (int64_t)1 << 24},
        {"n_records", state->n_records, 1, (int64_t)1 << 48},
        {"n_classes", state->n_classes, 0, (int64_t)1 << 30},
        {"model_bytes", (int64_t)state->model_bytes, 0, (int64_t)1 << 50},
        {"optimizer_bytes", (int64_t)state->optimizer_bytes, 0, (int64_t)1 << 50},
    };
    const char *key = NULL;

    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        if (ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max) {
            return cvy_because(reason, CVY_ERR_BAD_DATA, "%s %lld is outside %lld .. %lld",
                               ranges[i].key, (long long)ranges[i].value,
                               (long long)ranges[i].min, (long long)ranges[i].max);
        }
    }
    if (!isfinite(state->epoch) || state->epoch < 0.0 || state->epoch > 1e15) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "epoch %g is outside 0 .. 1e15", state->epoch);
    }
    if (!texts_end(state, &key)) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "%s is too long", key);
    }
    return CVY_OK;
}

/* The document without its hash; NULL: no memory, or a text that is not UTF-8. */
static json_t *make_document(const coordinator_state *state)
{
    json_t *document = json_object();
    int failed = document == NULL;

    for (size_t i = 0; i < N_FIELDS && !failed; i++) {
        failed = json_object_set_new(document, field_table[i].key,
                                     field_to_json(&field_table[i], state)) != 0;
    }
    failed = failed || json_object_set_new(document, "format", json_string(FORMAT_NAME)) != 0 ||
             json_object_set_new(document, "version", json_integer(FORMAT_VERSION)) != 0;
    if (!failed) return document;
    json_decref(document);
    return NULL;
}

/* Hash of a document as it would be written; 0: no memory. */
static int hash_document(const json_t *document, char out[17])
{
    char *text = json_dumps(document, DUMP_FLAGS);

    if (text == NULL) return 0;
    cvy_hash_text(cvy_hash64(text, strlen(text)), out);
    json_object_free_text:
    (void)0;
    {
        json_malloc_t allocate = NULL;
        json_free_t release = NULL;
        json_get_alloc_funcs(&allocate, &release);
        release(text);
    }
    return 1;
}
