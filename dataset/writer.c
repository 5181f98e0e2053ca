#include "dataset/store.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "dataset/manifest_internal.h"

#include <lmdb.h>

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* A batch is one transaction, and so one fsync: large enough that syncing does not count. */
#define BATCH_BYTES   ((size_t)16 << 20)
#define BATCH_RECORDS 8192
/* The map grows from the first size in doublings, later in steps. */
#define FIRST_MAP_BYTES ((size_t)64 << 20)
#define MAP_STEP_BYTES  ((size_t)4 << 30)
/* Keys of eight digits sort as their numbers do up to here. */
#define MAX_RECORDS 100000000

/* Sums of one channel over all values seen. */
typedef struct channel_stat {
    double n, sum, sum_squares;
} channel_stat;

/* A packed record that waits for its transaction. */
typedef struct pending_record {
    uint8_t *bytes; /* owned */
    size_t size_bytes;
} pending_record;

struct dataset_writer {
    char *path;      /* owned; the final name */
    char *temporary; /* owned; PATH.tmp-RANDOM */
    char *source;    /* owned; NULL: not said */
    int has_folder;  /* temporary was made, by us */
    MDB_env *lmdb;
    size_t map_bytes;
    pending_record *pending; /* owned, BATCH_RECORDS */
    int n_pending;
    size_t pending_bytes;
    int64_t n_written;          /* records in the database */
    int n_classes_fixed;        /* 0: by labels */
    int counts_capacity;        /* of manifest.class_counts */
    dataset_manifest *manifest; /* owned; grows as records come */
    cvy_hasher *hasher;         /* owned; of the records' hashes */
    channel_stat stats[DATASET_MAX_STATS];
    cvy_status failed; /* the first failure; only discard is left after it */
};

static cvy_status fail_write(const dataset_writer *writer, const char *call, int rc)
{
    uint64_t free_bytes = 0;

    if (rc == ENOMEM) return CVY_FAIL(CVY_ERR_NO_MEMORY, "%s %s", call, writer->temporary);
    /* LMDB calls a write cut short by a full disk an input/output error: the room that is left
     * tells more. */
    cvy_log_soften(1);
    const cvy_status status = cvy_file_free_bytes(writer->temporary, &free_bytes);
    cvy_log_soften(-1);
    if (status != CVY_OK) {
        return CVY_FAIL(CVY_ERR_CANNOT_WRITE, "%s %s: %s", call, writer->temporary,
                        mdb_strerror(rc));
    }
    return CVY_FAIL(CVY_ERR_CANNOT_WRITE, "%s %s: %s (%llu MiB are free there)", call,
                    writer->temporary, mdb_strerror(rc), (unsigned long long)(free_bytes >> 20));
}

/* A name that nobody else has; mkdir(2) would refuse one that exists. */
static char *temporary_name(const char *path)
{
    uint64_t noise = 0;
    char digits[17];
    size_t n_chars = strlen(path);

    if (getrandom(&noise, sizeof noise, GRND_NONBLOCK) != (ssize_t)sizeof noise) {
        noise = (uint64_t)getpid() << 40 ^ (uint64_t)(1e9 * cvy_clock_now_s());
    }
    cvy_hash_text(noise, digits);
    while (n_chars > 1 && path[n_chars - 1] == '/') n_chars--;
    return cvy_text_format("%.*s.tmp-%s", (int)n_chars, path, digits);
}

static cvy_status check_destination(const char *path)
{
    struct stat info;

    if (lstat(path, &info) == 0) {
        return CVY_FAIL(CVY_ERR_CANNOT_WRITE,
                        "dataset %s: exists already; remove it or choose another name", path);
    }
    if (errno != ENOENT) {
        return CVY_FAIL(cvy_status_from_errno(errno), "dataset %s: %s", path, strerror(errno));
    }
    return CVY_OK;
}

static cvy_status open_folder(dataset_writer *writer)
{
    if (mkdir(writer->temporary, 0777) != 0) {
        const cvy_status status = cvy_status_from_errno(errno);
        return CVY_FAIL(status, "make folder %s: %s", writer->temporary, strerror(errno));
    }
    writer->has_folder = 1;
    int rc = mdb_env_create(&writer->lmdb);
    if (rc != 0) return fail_write(writer, "open", rc);
    writer->map_bytes = FIRST_MAP_BYTES;
    rc = mdb_env_set_mapsize(writer->lmdb, writer->map_bytes);
    /* Nobody else knows the folder yet, so no lock file is needed, nor left in it. */
    if (rc == 0) rc = mdb_env_open(writer->lmdb, writer->temporary, MDB_NOLOCK, 0666);
    if (rc != 0) return fail_write(writer, "open", rc);
    return CVY_OK;
}

static cvy_status copy_names(dataset_writer *writer, const dataset_writer_options *options)
{
    const int n = options->n_classes;

    if (n < 0 || n > DATASET_MAX_CLASSES || (n == 0 && options->class_names != NULL)) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "dataset %s: %d classes; 1 to %d are possible",
                        writer->path, n, DATASET_MAX_CLASSES);
    }
    writer->n_classes_fixed = n;
    writer->counts_capacity = n == 0 ? 16 : n;
    writer->manifest->n_classes = n;
    writer->manifest->class_counts = cvy_alloc_zero((size_t)writer->counts_capacity,
                                                    sizeof *writer->manifest->class_counts);
    if (writer->manifest->class_counts == NULL) goto no_memory;
    if (options->class_names == NULL) return CVY_OK;
    writer->manifest->class_names = cvy_alloc_zero((size_t)n,
                                                   sizeof *writer->manifest->class_names);
    if (writer->manifest->class_names == NULL) goto no_memory;
    for (int i = 0; i < n; i++) {
        writer->manifest->class_names[i] = cvy_strdup(options->class_names[i]);
        if (writer->manifest->class_names[i] == NULL) goto no_memory;
    }
    return CVY_OK;

no_memory:
    return CVY_FAIL(CVY_ERR_NO_MEMORY, "%d classes of %s", n, writer->path);
}

static cvy_status fill_writer(dataset_writer *writer, const char *path,
                              const dataset_writer_options *options)
{
    writer->path = cvy_strdup(path);
    writer->temporary = temporary_name(path);
    writer->manifest = cvy_alloc_zero(1, sizeof *writer->manifest);
    writer->hasher = cvy_hasher_open();
    writer->pending = cvy_alloc_zero(BATCH_RECORDS, sizeof *writer->pending);
    if (options->source != NULL) writer->source = cvy_strdup(options->source);
    if (writer->path == NULL || writer->temporary == NULL || writer->manifest == NULL ||
        writer->hasher == NULL || writer->pending == NULL ||
        (options->source != NULL && writer->source == NULL)) {
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "writer of %s", path);
    }
    CVY_RETURN_IF_ERR(copy_names(writer, options));
    return open_folder(writer);
}

cvy_status dataset_writer_create(const char *path, const dataset_writer_options *options,
                                 dataset_writer **out)
{
    static const dataset_writer_options defaults = {0};

    *out = NULL;
    CVY_RETURN_IF_ERR(check_destination(path));
    dataset_writer *writer = cvy_alloc_zero(1, sizeof *writer);
    if (writer == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "writer of %s", path);
    const cvy_status status = fill_writer(writer, path, options == NULL ? &defaults : options);
    if (status != CVY_OK) {
        dataset_writer_discard(&writer);
        return status;
    }
    *out = writer;
    return CVY_OK;
}

static void drop_pending(dataset_writer *writer)
{
    for (int i = 0; i < writer->n_pending; i++) cvy_free(writer->pending[i].bytes);
    writer->n_pending = 0;
    writer->pending_bytes = 0;
}

/* One try to write the batch; MDB_MAP_FULL leaves the database as it was. */
static int try_flush(dataset_writer *writer)
{
    MDB_txn *txn = NULL;
    MDB_dbi dbi = 0;
    int rc = mdb_txn_begin(writer->lmdb, NULL, 0, &txn);

    if (rc != 0) return rc;
    rc = mdb_dbi_open(txn, NULL, 0, &dbi);
    for (int i = 0; rc == 0 && i < writer->n_pending; i++) {
        char text[32];
        const int n_chars = snprintf(text, sizeof text, "%08lld",
                                     (long long)(writer->n_written + i));
        MDB_val key = {.mv_size = (size_t)n_chars, .mv_data = text};
        MDB_val value = {.mv_size = writer->pending[i].size_bytes,
                         .mv_data = writer->pending[i].bytes};
        rc = mdb_put(txn, dbi, &key, &value, MDB_APPEND);
    }
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

static cvy_status flush(dataset_writer *writer)
{
    int rc = try_flush(writer);

    while (rc == MDB_MAP_FULL) {
        const size_t step = writer->map_bytes < MAP_STEP_BYTES ? writer->map_bytes : MAP_STEP_BYTES;
        writer->map_bytes += step;
        rc = mdb_env_set_mapsize(writer->lmdb, writer->map_bytes);
        if (rc != 0) return fail_write(writer, "enlarge the map of", rc);
        rc = try_flush(writer);
    }
    if (rc != 0) return fail_write(writer, "write", rc);
    writer->n_written += writer->n_pending;
    drop_pending(writer);
    return CVY_OK;
}

static cvy_status count_label(dataset_writer *writer, int64_t idx, const dataset_datum *datum)
{
    dataset_manifest *manifest = writer->manifest;
    const int most = writer->n_classes_fixed > 0 ? writer->n_classes_fixed : DATASET_MAX_CLASSES;

    if (!datum->has_label || datum->label < 0 || datum->label >= most) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "dataset %s: record %lld has %s %d; 0 to %d are possible",
                        writer->path, (long long)idx, datum->has_label ? "label" : "no label, but",
                        datum->label, most - 1);
    }
    if (datum->label >= writer->counts_capacity) {
        const int capacity = 2 * (datum->label + 1);
        int64_t *grown = cvy_alloc_zero((size_t)capacity, sizeof *grown);
        if (grown == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "counts of %d classes", capacity);
        memcpy(grown, manifest->class_counts, (size_t)writer->counts_capacity * sizeof *grown);
        cvy_free(manifest->class_counts);
        manifest->class_counts = grown;
        writer->counts_capacity = capacity;
    }
    if (datum->label >= manifest->n_classes) manifest->n_classes = datum->label + 1;
    manifest->class_counts[datum->label]++;
    return CVY_OK;
}

static void take_shape(dataset_manifest *manifest, const dataset_datum *datum)
{
    if (manifest->n_records == 0) {
        manifest->channels = datum->channels;
        manifest->height = datum->height;
        manifest->width = datum->width;
    }
    if (datum->is_encoded) manifest->is_encoded = 1;
    if (datum->channels != manifest->channels) manifest->channels = 0;
    if (datum->height != manifest->height) manifest->height = 0;
    if (datum->width != manifest->width) manifest->width = 0;
    manifest->n_records++;
}

static cvy_status put(dataset_writer *writer, const dataset_datum *datum)
{
    const int64_t idx = writer->manifest->n_records;
    dataset_datum numbered = *datum;
    pending_record record = {0};

    if (idx == MAX_RECORDS) {
        return CVY_FAIL(CVY_ERR_UNSUPPORTED, "dataset %s: more than %d records", writer->path,
                        MAX_RECORDS);
    }
    numbered.index = idx;
    numbered.has_index = 1;
    CVY_RETURN_IF_ERR(dataset_datum_pack(&numbered, &record.bytes, &record.size_bytes));
    const cvy_status status = count_label(writer, idx, datum);
    if (status != CVY_OK) {
        cvy_free(record.bytes);
        return status;
    }
    take_shape(writer->manifest, datum);
    cvy_hasher_add(writer->hasher, record.bytes + record.size_bytes - 8, 8); /* field 101's value */
    writer->pending[writer->n_pending++] = record;
    writer->pending_bytes += record.size_bytes;
    if (writer->n_pending < BATCH_RECORDS && writer->pending_bytes < BATCH_BYTES) return CVY_OK;
    return flush(writer);
}

cvy_status dataset_writer_put(dataset_writer *writer, const dataset_datum *datum)
{
    if (writer->failed == CVY_OK) writer->failed = put(writer, datum);
    return writer->failed;
}

void dataset_writer_add_stat(dataset_writer *writer, int channel, double n, double sum,
                             double sum_squares)
{
    CVY_ASSERT(channel >= 0);
    if (channel >= DATASET_MAX_STATS) return; /* more channels than a manifest describes */
    writer->stats[channel].n += n;
    writer->stats[channel].sum += sum;
    writer->stats[channel].sum_squares += sum_squares;
}

/* Means and deviations of the channels 0, 1, ... that have values. */
static void finish_stats(dataset_writer *writer)
{
    dataset_manifest *manifest = writer->manifest;
    int n = 0;

    for (; n < DATASET_MAX_STATS && writer->stats[n].n > 0; n++) {
        const channel_stat *stat = &writer->stats[n];
        const double mean = stat->sum / stat->n;
        const double variance = stat->sum_squares / stat->n - mean * mean;
        manifest->mean[n] = mean;
        /* A constant channel must not be divided by (nearly) nothing; it is left as it is. */
        manifest->deviation[n] = variance > 1e-12 ? sqrt(variance) : 1.0;
    }
    manifest->n_stats = n;
}

/* Readers map the file, so nobody should change it: no write permission. */
static cvy_status seal_file(const dataset_writer *writer)
{
    struct stat info;
    char *file = cvy_path_join(writer->temporary, "data.mdb");

    if (file == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of %s", writer->temporary);
    const int rc = stat(file, &info) != 0 ? -1 : chmod(file, info.st_mode & 0444);
    const cvy_status status =
        rc == 0 ? CVY_OK : CVY_FAIL(CVY_ERR_CANNOT_WRITE, "chmod %s: %s", file, strerror(errno));
    cvy_free(file);
    return status;
}

static cvy_status publish(dataset_writer *writer)
{
    if (writer->manifest->n_records == 0) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "dataset %s: no records to write", writer->path);
    }
    CVY_RETURN_IF_ERR(flush(writer));
    const int rc = mdb_env_sync(writer->lmdb, 1);
    if (rc != 0) return fail_write(writer, "sync", rc);
    mdb_env_close(writer->lmdb);
    writer->lmdb = NULL;
    CVY_RETURN_IF_ERR(seal_file(writer));
    finish_stats(writer);
    writer->manifest->digest = cvy_hasher_value(writer->hasher);
    CVY_RETURN_IF_ERR(dataset_manifest_write(writer->temporary, writer->manifest, writer->source));
    CVY_RETURN_IF_ERR(cvy_file_sync_folder(writer->temporary));
    CVY_RETURN_IF_ERR(check_destination(writer->path));
    CVY_RETURN_IF_ERR(cvy_file_rename(writer->temporary, writer->path));
    writer->has_folder = 0;
    return CVY_OK;
}

cvy_status dataset_writer_commit(dataset_writer **writer)
{
    const cvy_status status = (*writer)->failed != CVY_OK ? (*writer)->failed : publish(*writer);

    dataset_writer_discard(writer);
    return status;
}

void dataset_writer_discard(dataset_writer **writer_address)
{
    if (writer_address == NULL || *writer_address == NULL) return;
    dataset_writer *writer = *writer_address;
    if (writer->lmdb != NULL) mdb_env_close(writer->lmdb);
    /* The rename may have worked and only its fsync have failed: then the tree has the final name
     * and is left to the user, whole. */
    if (writer->has_folder) (void)cvy_file_remove_tree(writer->temporary);
    if (writer->pending != NULL) drop_pending(writer);
    cvy_free(writer->pending);
    cvy_hasher_close(&writer->hasher);
    dataset_manifest_destroy(&writer->manifest);
    cvy_free(writer->source);
    cvy_free(writer->temporary);
    cvy_free(writer->path);
    cvy_free(writer);
    *writer_address = NULL;
}
