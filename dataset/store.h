#ifndef DATASET_STORE_H
#define DATASET_STORE_H

#include "base/job.h"
#include "base/status.h"
#include "dataset/datum.h"

#include <stddef.h>
#include <stdint.h>

/**
 * A dataset on disk: an LMDB folder (data.mdb, keys "%08d", Datum values) and, when convoy made it,
 * manifest.json (format, version, count, class names, record shape, mean, deviation, digest).
 *
 * LMDB trusts its own file, so opening checks first: regular file, not empty, magic, version, page
 * size, length against the last page of the newer meta page; network file systems are refused
 * unless allowed; stores of one process on the same file share one environment. A SIGBUS or SIGSEGV
 * in the map or while LMDB reads it (the file was cut while open, or its pages are damaged) ends
 * the process with one line that names the file and exit code 65. Thread-safe, except that a reader
 * belongs to one thread at a time. Open after fork(2), never before.
 */
typedef struct dataset_info {
    int64_t n_records;
    int n_classes;
    const char *const *class_names;  /* n_classes; "0", "1", ... without names */
    int64_t channels, height, width; /* of every record; 0 where records differ */
    int is_encoded;
    int has_manifest;
    int n_channels_stat;            /* length of mean and deviation; 0: unknown */
    double mean[16], deviation[16]; /* per channel, of values in [0, 1] */
    uint64_t digest;   /* XXH3 of the records' hashes in key order; 0: unknown (foreign) */
    uint64_t identity; /* for comparing ranks: digest, or a hash of count, size and samples */
} dataset_info;

typedef struct dataset_store dataset_store;

typedef struct dataset_store_options {
    int allow_network_fs;
    int is_quiet; /* log nothing at info level: all ranks but one */
} dataset_store_options;

/**
 * Open a dataset for reading. Missing: CVY_ERR_NOT_FOUND; a file, empty, damaged, zero records:
 * CVY_ERR_BAD_DATA; each one logged line. Without a manifest the records are scanned once (said at
 * info level) for count, classes and shape.
 */
cvy_status dataset_store_open(const char *path, const dataset_store_options *options,
                              dataset_store **out);
void dataset_store_close(dataset_store **store);
const dataset_info *dataset_store_info(const dataset_store *store);
const char *dataset_store_path(const dataset_store *store);

/** Compare the file's length with its meta page again (each epoch): CVY_ERR_BAD_DATA, logged. */
cvy_status dataset_store_recheck(const dataset_store *store);

/**
 * Read every record and compare with the manifest's digest: for `convoy inspect`. Quiet.
 *
 * @param progress  called now and then with records done and in all; nonzero stops; NULL: none.
 * @return CVY_ERR_BAD_DATA with a reason: the first bad record, or another digest; CVY_ERR_STOPPED.
 */
cvy_status dataset_store_verify(dataset_store *store,
                                int (*progress)(void *arg, int64_t n_done, int64_t n_all),
                                void *progress_arg, cvy_reason *reason);

/** A reader: one read transaction and scratch of one thread. */
typedef struct dataset_reader dataset_reader;
cvy_status dataset_reader_create(dataset_store *store, dataset_reader **out);
void dataset_reader_destroy(dataset_reader **reader);

/**
 * Record idx in [0, n_records), checked as in dataset_datum_parse(), label in [0, n_classes). The
 * views live until the next call with this reader. A bad record is CVY_ERR_BAD_DATA with a reason,
 * not logged. In a dataset with a manifest a record must have its hash and the right index.
 */
cvy_status dataset_reader_get(dataset_reader *reader, int64_t idx, dataset_datum *out,
                              cvy_reason *reason);

/** Writes a new dataset folder: `PATH.tmp-RANDOM` is filled, synced and renamed to PATH, which must
 *  not exist. */
typedef struct dataset_writer dataset_writer;

typedef struct dataset_writer_options {
    int n_classes;                  /* 0: the largest label + 1 */
    const char *const *class_names; /* n_classes, copied; NULL: numbers */
    const char *source;             /* for the manifest: what it was made of; NULL: not said */
} dataset_writer_options;

cvy_status dataset_writer_create(const char *path, const dataset_writer_options *options,
                                 dataset_writer **out);
/** Append one record; its key and its index are the next number. Grows the map as needed. A record
 *  that a reader would refuse is CVY_ERR_BAD_DATA; a full disk CVY_ERR_CANNOT_WRITE; after a
 *  failure only discard is left. */
cvy_status dataset_writer_put(dataset_writer *writer, const dataset_datum *datum);
/** Per-channel statistics for the manifest: n values in [0, 1] were seen with these sums. */
void dataset_writer_add_stat(dataset_writer *writer, int channel, double n, double sum,
                             double sum_squares);
/** Sync, write the manifest, rename. The writer is gone after it, and on failure what it wrote. */
cvy_status dataset_writer_commit(dataset_writer **writer);
/** Remove what was written. */
void dataset_writer_discard(dataset_writer **writer);

#endif
