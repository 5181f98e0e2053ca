#include "base/alloc.h"
#include "base/hash.h"
#include "base/log.h"
#include "dataset/datum_internal.h"
#include "dataset/env_internal.h"
#include "dataset/guard_internal.h"
#include "dataset/manifest_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* How many records, evenly spaced, the identity of a foreign dataset is made of. */
#define N_SAMPLED 64
#define KEY_CHARS 8

/* What a scan needs while it runs. */
typedef struct scanner {
    const dataset_env *env;
    dataset_scan *scan;
    cvy_hasher *hasher;
    int64_t n_seen, n_good, n_bad;
    uint64_t n_value_bytes; /* of all records: a copy may have another file size */
    size_t n_key_bytes, key_capacity;
    const unsigned char *last_key; /* in the map */
    size_t last_key_bytes;
    cvy_reason first_bad; /* with its key */
} scanner;

static int is_number_key(const unsigned char *key, size_t size_bytes, int64_t idx)
{
    char expected[32];

    if (size_bytes != KEY_CHARS) return 0;
    snprintf(expected, sizeof expected, "%08lld", (long long)idx);
    return strlen(expected) == KEY_CHARS && memcmp(key, expected, KEY_CHARS) == 0;
}

static cvy_status keep_key(scanner *self, int64_t idx, const void *key, size_t size_bytes)
{
    dataset_scan *scan = self->scan;

    if (self->n_key_bytes + size_bytes > self->key_capacity) {
        const size_t capacity = 2 * (self->n_key_bytes + size_bytes) + 4096;
        unsigned char *grown = cvy_realloc(scan->key_bytes, capacity);
        if (grown == NULL) {
            return CVY_FAIL(CVY_ERR_NO_MEMORY, "%s: %zu bytes for its keys", self->env->file,
                            capacity);
        }
        scan->key_bytes = grown;
        self->key_capacity = capacity;
    }
    memcpy(scan->key_bytes + self->n_key_bytes, key, size_bytes);
    self->n_key_bytes += size_bytes;
    scan->key_starts[idx + 1] = self->n_key_bytes;
    return CVY_OK;
}

/* From the first key that is not its place's number on, keys are kept; those before it are made
 * again from their numbers. */
static cvy_status start_keys(scanner *self)
{
    self->scan->key_starts = cvy_alloc((size_t)(self->env->n_records + 1) * sizeof(size_t));
    if (self->scan->key_starts == NULL) {
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "%s: index of %lld keys", self->env->file,
                        (long long)self->env->n_records);
    }
    self->scan->key_starts[0] = 0;
    for (int64_t i = 0; i < self->n_seen; i++) {
        char key[32];
        snprintf(key, sizeof key, "%08lld", (long long)i);
        CVY_RETURN_IF_ERR(keep_key(self, i, key, KEY_CHARS));
    }
    return CVY_OK;
}

static cvy_status take_key(scanner *self, const MDB_val *key)
{
    const unsigned char *bytes = key->mv_data;
    const size_t least_bytes = key->mv_size < self->last_key_bytes ? key->mv_size
                                                                   : self->last_key_bytes;

    /* Keys of a tree ascend; where they do not, its links form a cycle and never end. */
    const int order = self->last_key == NULL ? -1 : memcmp(self->last_key, bytes, least_bytes);
    if (order > 0 || (order == 0 && self->last_key_bytes >= key->mv_size) ||
        self->n_seen == self->env->n_records) {
        return CVY_FAIL(CVY_ERR_BAD_DATA,
                        "%s: damaged: after %lld of %lld records its keys do not ascend",
                        self->env->file, (long long)self->n_seen, (long long)self->env->n_records);
    }
    self->last_key = bytes;
    self->last_key_bytes = key->mv_size;
    if (self->scan->key_starts == NULL) {
        if (is_number_key(bytes, key->mv_size, self->n_seen)) return CVY_OK;
        CVY_RETURN_IF_ERR(start_keys(self));
    }
    return keep_key(self, self->n_seen, bytes, key->mv_size);
}

static void count_bad(scanner *self, const MDB_val *key, const cvy_reason *reason)
{
    if (self->n_bad++ > 0) return;
    (void)cvy_because(&self->first_bad, CVY_OK, "'%.*s': %.180s",
                      (int)(key->mv_size < 60 ? key->mv_size : 60), (const char *)key->mv_data,
                      reason->text);
}

static void take_shape(scanner *self, const dataset_datum *datum)
{
    dataset_scan *scan = self->scan;

    if (datum->label >= scan->n_classes) scan->n_classes = datum->label + 1;
    if (self->n_good++ == 0) {
        scan->channels = datum->channels;
        scan->height = datum->height;
        scan->width = datum->width;
    }
    if (datum->is_encoded) scan->is_encoded = 1;
    if (datum->channels != scan->channels) scan->channels = 0;
    if (datum->height != scan->height) scan->height = 0;
    if (datum->width != scan->width) scan->width = 0;
}

static void take_record(scanner *self, const MDB_val *key, const MDB_val *value)
{
    dataset_datum datum;
    cvy_reason reason;
    const int64_t n = self->env->n_records;

    if (!dataset_env_holds(self->env, value)) {
        (void)cvy_because(&reason, CVY_OK, "damaged: it leads out of the file");
        count_bad(self, key, &reason);
        return;
    }
    self->n_value_bytes += value->mv_size;
    if (n <= N_SAMPLED || self->n_seen % (n / N_SAMPLED) == 0) {
        cvy_hasher_add(self->hasher, value->mv_data, value->mv_size);
    }
    if (dataset_datum_outline(value->mv_data, value->mv_size, &datum, &reason) != CVY_OK) {
        count_bad(self, key, &reason);
    } else if (!datum.has_label || datum.label < 0 || datum.label >= DATASET_MAX_CLASSES) {
        (void)cvy_because(&reason, CVY_OK, "%s %d", datum.has_label ? "label" : "no label, but",
                          datum.label);
        count_bad(self, key, &reason);
    } else {
        take_shape(self, &datum);
    }
}

static cvy_status walk_records(scanner *self, MDB_cursor *cursor)
{
    MDB_val key = {0};
    MDB_val value = {0};
    int rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);

    while (rc == 0) {
        if (!dataset_env_holds(self->env, &key)) {
            rc = MDB_CORRUPTED;
            break;
        }
        CVY_RETURN_IF_ERR(take_key(self, &key));
        take_record(self, &key, &value);
        self->n_seen++;
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    if (rc != MDB_NOTFOUND || self->n_seen != self->env->n_records) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: damaged: %lld of %lld records can be reached: %s",
                        self->env->file, (long long)self->n_seen, (long long)self->env->n_records,
                        mdb_strerror(rc));
    }
    return CVY_OK;
}

static cvy_status run_scan(scanner *self)
{
    const dataset_env *env = self->env;
    MDB_txn *txn = NULL;
    MDB_cursor *cursor = NULL;

    int rc = mdb_txn_begin(env->lmdb, NULL, MDB_RDONLY, &txn);
    if (rc == 0) rc = mdb_cursor_open(txn, env->dbi, &cursor);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return CVY_FAIL(rc == ENOMEM ? CVY_ERR_NO_MEMORY : CVY_ERR_OS, "%s: begin a scan: %s",
                        env->file, mdb_strerror(rc));
    }
    dataset_guard_enter(env->guard_slot);
    const cvy_status status = walk_records(self, cursor);
    dataset_guard_leave();
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    return status;
}

static cvy_status judge(const scanner *self, int is_quiet)
{
    if (self->n_good == 0) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: none of its %lld records can be used; record %s",
                        self->env->file, (long long)self->env->n_records, self->first_bad.text);
    }
    if (self->n_bad > 0 && !is_quiet) {
        cvy_log_warn("%s: %lld of %lld records are bad, the first is %s", self->env->file,
                     (long long)self->n_bad, (long long)self->env->n_records, self->first_bad.text);
    }
    return CVY_OK;
}

static cvy_status scan_locked(dataset_env *env, int is_quiet)
{
    scanner self = {.env = env, .scan = &env->scan};

    if (!is_quiet) {
        cvy_log_info("%s: no manifest.json beside it, so its %lld records are looked at once",
                     env->file, (long long)env->n_records);
    }
    self.hasher = cvy_hasher_open();
    if (self.hasher == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "scan of %s", env->file);
    cvy_status status = run_scan(&self);
    if (status == CVY_OK) status = judge(&self, is_quiet);
    if (status == CVY_OK) {
        cvy_hasher_add(self.hasher, &env->n_records, sizeof env->n_records);
        cvy_hasher_add(self.hasher, &self.n_value_bytes, sizeof self.n_value_bytes);
        env->scan.identity = cvy_hasher_value(self.hasher);
        env->scan.is_done = 1;
    } else {
        cvy_free(env->scan.key_bytes);
        cvy_free(env->scan.key_starts);
        env->scan = (dataset_scan){0};
    }
    cvy_hasher_close(&self.hasher);
    return status;
}

cvy_status dataset_env_scan(dataset_env *env, int is_quiet)
{
    cvy_status status = CVY_OK;

    pthread_mutex_lock(&env->scan_lock);
    if (!env->scan.is_done) status = scan_locked(env, is_quiet);
    pthread_mutex_unlock(&env->scan_lock);
    return status;
}
