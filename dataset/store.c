#include "dataset/store.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "dataset/datum_internal.h"
#include "dataset/env_internal.h"
#include "dataset/guard_internal.h"
#include "dataset/manifest_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Records between two calls of a progress function. */
#define PROGRESS_STRIDE 256

struct dataset_store {
    char *path;                 /* owned */
    dataset_env *env;           /* a share of it */
    dataset_manifest *manifest; /* owned; NULL: none */
    char **number_names;        /* owned, one block; NULL: names are the manifest's */
    dataset_info info;          /* views into the above */
};

struct dataset_reader {
    dataset_store *store; /* borrowed */
    MDB_txn *txn;
    dataset_datum_scratch *scratch; /* owned */
    pid_t pid;
};

static cvy_status take_manifest(dataset_store *store)
{
    const dataset_manifest *manifest = store->manifest;
    dataset_info *info = &store->info;

    if (manifest->n_records != store->env->n_records) {
        return CVY_FAIL(CVY_ERR_BAD_DATA,
                        "dataset %s: manifest.json says %lld records, data.mdb has %lld; they do "
                        "not belong together",
                        store->path, (long long)manifest->n_records,
                        (long long)store->env->n_records);
    }
    info->has_manifest = 1;
    info->n_classes = manifest->n_classes;
    info->class_names = (const char *const *)manifest->class_names;
    info->channels = manifest->channels;
    info->height = manifest->height;
    info->width = manifest->width;
    info->is_encoded = manifest->is_encoded;
    info->n_channels_stat = manifest->n_stats;
    memcpy(info->mean, manifest->mean, sizeof info->mean);
    memcpy(info->deviation, manifest->deviation, sizeof info->deviation);
    info->digest = manifest->digest;
    info->identity = manifest->digest;
    return CVY_OK;
}

static cvy_status take_scan(dataset_store *store, int is_quiet)
{
    dataset_info *info = &store->info;

    CVY_RETURN_IF_ERR(dataset_env_scan(store->env, is_quiet));
    const dataset_scan *scan = &store->env->scan;
    store->number_names = dataset_number_names(scan->n_classes);
    if (store->number_names == NULL) {
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "%d class names of %s", scan->n_classes, store->path);
    }
    info->n_classes = scan->n_classes;
    info->class_names = (const char *const *)store->number_names;
    info->channels = scan->channels;
    info->height = scan->height;
    info->width = scan->width;
    info->is_encoded = scan->is_encoded;
    info->identity = scan->identity;
    return CVY_OK;
}

cvy_status dataset_store_open(const char *path, const dataset_store_options *options,
                              dataset_store **out)
{
    static const dataset_store_options defaults = {0};
    cvy_status status = CVY_OK;
    dataset_store *store = NULL;

    *out = NULL;
    if (options == NULL) options = &defaults;
    store = cvy_alloc_zero(1, sizeof *store);
    if (store == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "store of %s", path);
    store->path = cvy_strdup(path);
    if (store->path == NULL) {
        status = CVY_FAIL(CVY_ERR_NO_MEMORY, "store of %s", path);
        goto fail;
    }
    CVY_GOTO_IF_ERR(fail, status, dataset_env_open(path, options, &store->env));
    store->info.n_records = store->env->n_records;
    CVY_GOTO_IF_ERR(fail, status, dataset_manifest_read(path, &store->manifest));
    if (store->manifest != NULL) {
        CVY_GOTO_IF_ERR(fail, status, take_manifest(store));
    } else {
        CVY_GOTO_IF_ERR(fail, status, take_scan(store, options->is_quiet));
    }
    *out = store;
    return CVY_OK;

fail:
    dataset_store_close(&store);
    return status;
}

void dataset_store_close(dataset_store **store_address)
{
    if (store_address == NULL || *store_address == NULL) return;
    dataset_store *store = *store_address;
    dataset_env_close(&store->env);
    dataset_manifest_destroy(&store->manifest);
    cvy_free(store->number_names);
    cvy_free(store->path);
    cvy_free(store);
    *store_address = NULL;
}

const dataset_info *dataset_store_info(const dataset_store *store)
{
    return &store->info;
}

const char *dataset_store_path(const dataset_store *store)
{
    return store->path;
}

cvy_status dataset_store_recheck(const dataset_store *store)
{
    cvy_reason reason;
    const cvy_status status = dataset_env_recheck(store->env, &reason);

    if (status != CVY_OK) return CVY_FAIL(status, "%s", reason.text);
    return CVY_OK;
}

cvy_status dataset_reader_create(dataset_store *store, dataset_reader **out)
{
    cvy_status status = CVY_OK;
    dataset_reader *reader = NULL;

    *out = NULL;
    reader = cvy_alloc_zero(1, sizeof *reader);
    if (reader == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "reader of %s", store->path);
    reader->store = store;
    reader->pid = store->env->pid;
    if (getpid() != reader->pid) {
        status = CVY_FAIL(CVY_ERR_INTERNAL, "%s: read across fork(2)", store->path);
        goto fail;
    }
    CVY_GOTO_IF_ERR(fail, status, dataset_datum_scratch_create(&reader->scratch));
    const int rc = mdb_txn_begin(store->env->lmdb, NULL, MDB_RDONLY, &reader->txn);
    if (rc == MDB_MAP_RESIZED) {
        status = CVY_FAIL(CVY_ERR_BAD_DATA, "%s: grew after it was opened: somebody writes to it",
                          store->env->file);
        goto fail;
    }
    if (rc != 0) {
        status = CVY_FAIL(rc == ENOMEM ? CVY_ERR_NO_MEMORY : CVY_ERR_OS,
                          "%s: begin a read transaction: %s", store->env->file, mdb_strerror(rc));
        goto fail;
    }
    *out = reader;
    return CVY_OK;

fail:
    dataset_reader_destroy(&reader);
    return status;
}

void dataset_reader_destroy(dataset_reader **reader_address)
{
    if (reader_address == NULL || *reader_address == NULL) return;
    dataset_reader *reader = *reader_address;
    /* In a forked child the transaction is the parent's. */
    if (reader->txn != NULL && reader->pid == getpid()) mdb_txn_abort(reader->txn);
    dataset_datum_scratch_destroy(&reader->scratch);
    cvy_free(reader);
    *reader_address = NULL;
}

/* The key of a record: a number in text, or what the scan found. */
static void find_key(const dataset_store *store, int64_t idx, char text[32], MDB_val *out)
{
    const dataset_scan *scan = &store->env->scan;

    if (store->manifest == NULL && scan->key_starts != NULL) {
        out->mv_data = scan->key_bytes + scan->key_starts[idx];
        out->mv_size = scan->key_starts[idx + 1] - scan->key_starts[idx];
        return;
    }
    out->mv_size = (size_t)snprintf(text, 32, "%08lld", (long long)idx);
    out->mv_data = text;
}

/* Find a record's bytes. With the guard entered. */
static cvy_status find_value(dataset_reader *reader, int64_t idx, MDB_val *out, cvy_reason *reason)
{
    const dataset_store *store = reader->store;
    char text[32];
    MDB_val key;

    find_key(store, idx, text, &key);
    const int rc = mdb_get(reader->txn, store->env->dbi, &key, out);
    if (rc == MDB_NOTFOUND) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "damaged: key '%.*s' cannot be found",
                           (int)(key.mv_size < 60 ? key.mv_size : 60), (const char *)key.mv_data);
    }
    if (rc != 0) {
        /* A damaged page spoils the whole transaction for LMDB; other records are still good. */
        mdb_txn_reset(reader->txn);
        const int renew_rc = mdb_txn_renew(reader->txn);
        if (renew_rc != 0) {
            return CVY_FAIL(CVY_ERR_IO, "%s: renew a read transaction: %s", store->env->file,
                            mdb_strerror(renew_rc));
        }
        return cvy_because(reason, CVY_ERR_BAD_DATA, "damaged: LMDB says %s", mdb_strerror(rc));
    }
    if (!dataset_env_holds(store->env, out)) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "damaged: it leads out of the file");
    }
    return CVY_OK;
}

/* What can only be judged with the dataset at hand. */
static cvy_status check_record(const dataset_info *info, int64_t idx, const dataset_datum *datum,
                               cvy_reason *reason)
{
    if (info->has_manifest && !datum->has_hash) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "damaged: it has lost its hash");
    }
    if (info->has_manifest && (!datum->has_index || datum->index != idx)) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "damaged: record %lld stands in the place of record %lld",
                           (long long)datum->index, (long long)idx);
    }
    if (!datum->has_label) return cvy_because(reason, CVY_ERR_BAD_DATA, "it has no label");
    if (datum->label < 0 || datum->label >= info->n_classes) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "label %d, but there are %d classes",
                           datum->label, info->n_classes);
    }
    return CVY_OK;
}

static cvy_status get_record(dataset_reader *reader, int64_t idx, dataset_datum *out,
                             uint64_t *out_digest, cvy_reason *reason)
{
    const dataset_store *store = reader->store;
    dataset_datum datum = {0};
    MDB_val value = {0};

    if (idx < 0 || idx >= store->info.n_records) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "%s: record %lld of %lld was asked for", store->path,
                        (long long)idx, (long long)store->info.n_records);
    }
    if (reader->pid != getpid()) {
        return CVY_FAIL(CVY_ERR_INTERNAL, "%s: read across fork(2)", store->path);
    }
    dataset_guard_enter(store->env->guard_slot);
    cvy_status status = find_value(reader, idx, &value, reason);
    if (status == CVY_OK) {
        status = dataset_datum_parse(value.mv_data, value.mv_size, reader->scratch, &datum, reason);
    }
    if (status == CVY_OK && out_digest != NULL) {
        *out_digest = dataset_datum_digest(value.mv_data, value.mv_size);
    }
    dataset_guard_leave();
    if (status == CVY_OK) status = check_record(&store->info, idx, &datum, reason);
    if (status == CVY_OK) *out = datum;
    return status;
}

cvy_status dataset_reader_get(dataset_reader *reader, int64_t idx, dataset_datum *out,
                              cvy_reason *reason)
{
    return get_record(reader, idx, out, NULL, reason);
}

static cvy_status verify_records(dataset_reader *reader, cvy_hasher *hasher,
                                 int (*progress)(void *arg, int64_t n_done, int64_t n_all),
                                 void *progress_arg, cvy_reason *reason)
{
    const int64_t n = reader->store->info.n_records;

    for (int64_t i = 0; i < n; i++) {
        dataset_datum datum;
        uint64_t digest = 0;
        cvy_reason inner = {.text = ""};
        const cvy_status status = get_record(reader, i, &datum, &digest, &inner);
        if (status != CVY_OK) {
            return cvy_because(reason, status, "record %lld: %.220s", (long long)i, inner.text);
        }
        unsigned char bytes[8];
        for (int k = 0; k < 8; k++) bytes[k] = (unsigned char)(digest >> (8 * k));
        cvy_hasher_add(hasher, bytes, sizeof bytes);
        const int64_t n_done = i + 1;
        if (progress != NULL && (n_done % PROGRESS_STRIDE == 0 || n_done == n) &&
            progress(progress_arg, n_done, n) != 0) {
            return cvy_because(reason, CVY_ERR_STOPPED, "stopped after %lld of %lld records",
                               (long long)n_done, (long long)n);
        }
    }
    return CVY_OK;
}

cvy_status dataset_store_verify(dataset_store *store,
                                int (*progress)(void *arg, int64_t n_done, int64_t n_all),
                                void *progress_arg, cvy_reason *reason)
{
    cvy_status status = CVY_OK;
    dataset_reader *reader = NULL;
    cvy_hasher *hasher = cvy_hasher_open();

    if (hasher == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "hash of %s", store->path);
    CVY_GOTO_IF_ERR(done, status, dataset_reader_create(store, &reader));
    CVY_GOTO_IF_ERR(done, status, verify_records(reader, hasher, progress, progress_arg, reason));
    const uint64_t found = cvy_hasher_value(hasher);
    if (store->info.has_manifest && found != store->info.digest) {
        status = cvy_because(reason, CVY_ERR_BAD_DATA,
                             "the records give the digest %016llx, manifest.json says %016llx",
                             (unsigned long long)found, (unsigned long long)store->info.digest);
    }

done:
    dataset_reader_destroy(&reader);
    cvy_hasher_close(&hasher);
    return status;
}
