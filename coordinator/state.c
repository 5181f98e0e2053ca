#include "coordinator/state_internal.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT_NAME    "convoy-checkpoint"
#define FORMAT_VERSION 1

/* Sorted keys and 17 digits: equal documents have equal bytes. */
#define DUMP_FLAGS ((size_t)(JSON_SORT_KEYS | JSON_INDENT(2) | JSON_REAL_PRECISION(17)))

typedef enum field_kind {
    FIELD_INTEGER,
    FIELD_LENGTH,
    FIELD_HASH,
    FIELD_REAL,
    FIELD_INT,
    FIELD_TEXT
} field_kind;

typedef struct field {
    const char *key;
    field_kind kind;
    size_t offset, size_bytes;
} field;

#define FIELD(kind, member)                                                                        \
    {                                                                                              \
#member, kind, offsetof(coordinator_state, member),                                        \
            sizeof(((coordinator_state *)0)->member)                                               \
    }

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
    FIELD(FIELD_TEXT, convoy_version),
    FIELD(FIELD_TEXT, written_at),
};
#define N_FIELDS (sizeof field_table / sizeof field_table[0])

/* One member of the struct as JSON; NULL: no memory. */
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

/* A text ends inside its array and is such as JSON can hold. */
static cvy_status check_texts(const coordinator_state *state, cvy_reason *reason)
{
    for (size_t i = 0; i < N_FIELDS; i++) {
        const field *f = &field_table[i];
        const char *text = (const char *)state + f->offset;
        if (f->kind != FIELD_TEXT) continue;
        if (memchr(text, 0, f->size_bytes) == NULL)
            return cvy_because(reason, CVY_ERR_BAD_DATA, "%s is too long", f->key);
        json_t *value = json_string(text);
        if (value == NULL) return cvy_because(reason, CVY_ERR_BAD_DATA, "%s is not UTF-8", f->key);
        json_decref(value);
    }
    return CVY_OK;
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

    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        if (ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max) {
            return cvy_because(reason, CVY_ERR_BAD_DATA, "%s %lld is outside %lld .. %lld",
                               ranges[i].key, (long long)ranges[i].value, (long long)ranges[i].min,
                               (long long)ranges[i].max);
        }
    }
    if (!isfinite(state->epoch) || state->epoch < 0.0 || state->epoch > 1e15) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "epoch %g is outside 0 .. 1e15", state->epoch);
    }
    return check_texts(state, reason);
}

/* The document without its hash; NULL: no memory. */
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

/* The text that a document is written as; NULL: no memory. */
static char *dump(const json_t *document)
{
    char *text = json_dumps(document, DUMP_FLAGS);
    char *copy = text != NULL ? cvy_text_format("%s\n", text) : NULL;

    free(text); /* jansson's own, by its default allocator */
    return copy;
}

/* Hash of a document without its self_hash; 0: no memory. */
static int hash_document(const json_t *document, char out[17])
{
    char *text = dump(document);

    if (text == NULL) return 0;
    cvy_hash_text(cvy_hash64(text, strlen(text)), out);
    cvy_free(text);
    return 1;
}

/* The text of a checked state, self-hash included; NULL: no memory. */
static char *write_text(const coordinator_state *state)
{
    char hash[17];
    char *text = NULL;
    json_t *document = make_document(state);

    if (document != NULL && hash_document(document, hash) &&
        json_object_set_new(document, "self_hash", json_string(hash)) == 0) {
        text = dump(document);
    }
    json_decref(document);
    return text;
}

cvy_status coordinator_state_to_text(const coordinator_state *state, char **out)
{
    cvy_reason reason;

    *out = NULL;
    if (coordinator_state_check(state, &reason) != CVY_OK)
        return CVY_FAIL(CVY_ERR_INTERNAL, "state of a checkpoint: %s", reason.text);
    *out = write_text(state);
    return *out != NULL ? CVY_OK : CVY_FAIL(CVY_ERR_NO_MEMORY, "text of a checkpoint's state");
}

static cvy_status check_format(const json_t *document, cvy_reason *reason)
{
    const char *format = json_string_value(json_object_get(document, "format"));
    const json_t *version = json_object_get(document, "version");

    if (format == NULL || strcmp(format, FORMAT_NAME) != 0)
        return cvy_because(reason, CVY_ERR_BAD_DATA, "no \"format\": \"%s\" in it", FORMAT_NAME);
    if (!json_is_integer(version))
        return cvy_because(reason, CVY_ERR_BAD_DATA, "its version is no integer");
    if (json_integer_value(version) > FORMAT_VERSION) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "format version %lld, this convoy reads up to %d: use a newer one",
                           (long long)json_integer_value(version), FORMAT_VERSION);
    }
    return CVY_OK;
}

/* Take all fields of a document that was parsed from text. */
static cvy_status read_document(const json_t *document, coordinator_state *out, cvy_reason *reason)
{
    CVY_RETURN_IF_ERR(check_format(document, reason));
    for (size_t i = 0; i < N_FIELDS; i++) {
        const field *f = &field_table[i];
        const json_t *value = json_object_get(document, f->key);
        if (value == NULL) return cvy_because(reason, CVY_ERR_BAD_DATA, "it has no \"%s\"", f->key);
        if (!field_from_json(f, value, out))
            return cvy_because(reason, CVY_ERR_BAD_DATA, "\"%s\" has another type or does not fit",
                               f->key);
    }
    return coordinator_state_check(out, reason);
}

cvy_status coordinator_state_from_text(const char *text, size_t size_bytes, coordinator_state *out,
                                       cvy_reason *reason)
{
    json_error_t error;
    coordinator_state state = {.step = 0};
    char *again = NULL;
    cvy_status status = CVY_OK;

    if (size_bytes > COORDINATOR_STATE_LIMIT_BYTES) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "%zu bytes, more than any state has",
                           size_bytes);
    }
    json_t *document = json_loadb(text, size_bytes, JSON_REJECT_DUPLICATES, &error);
    if (document == NULL) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "no JSON: line %d: %s", error.line,
                           error.text);
    }
    if (!json_is_object(document)) {
        json_decref(document);
        return cvy_because(reason, CVY_ERR_BAD_DATA, "a JSON text, but no object");
    }
    CVY_GOTO_IF_ERR(done, status, read_document(document, &state, reason));
    again = write_text(&state);
    if (again == NULL) {
        status = cvy_because(reason, CVY_ERR_NO_MEMORY, "out of memory for its text");
        goto done;
    }
    if (strlen(again) != size_bytes || memcmp(again, text, size_bytes) != 0) {
        status = cvy_because(reason, CVY_ERR_BAD_DATA, "its text does not match its self_hash");
        goto done;
    }
    *out = state;

done:
    cvy_free(again);
    json_decref(document);
    return status;
}

int coordinator_state_equal(const coordinator_state *a, const coordinator_state *b)
{
    for (size_t i = 0; i < N_FIELDS; i++) {
        const field *f = &field_table[i];
        const char *at = (const char *)a + f->offset, *bt = (const char *)b + f->offset;
        const int differ = f->kind == FIELD_TEXT ? strcmp(at, bt) != 0
                                                 : memcmp(at, bt, f->size_bytes) != 0;
        if (differ) return 0;
    }
    return 1;
}
