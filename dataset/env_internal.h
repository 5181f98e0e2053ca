#ifndef DATASET_ENV_INTERNAL_H
#define DATASET_ENV_INTERNAL_H

#include "base/status.h"
#include "dataset/datum.h"
#include "dataset/store.h"

#include <lmdb.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/**
 * What a look at every record of a foreign dataset found, or, with a manifest, at the last one.
 * Kept with the environment, so that two stores on one file scan once.
 */
typedef struct dataset_scan {
    int is_done;
    int n_classes;                   /* largest label + 1 */
    int64_t channels, height, width; /* 0 where records differ */
    int is_encoded;
    uint64_t identity;
    /* Keys that are not "%08d" of their place: key i is key_bytes[key_starts[i]] up to
     * key_starts[i + 1]. NULL: all are. */
    unsigned char *key_bytes;
    size_t *key_starts;
} dataset_scan;

/** One open LMDB file; shared by all stores of the process that read it. */
typedef struct dataset_env {
    MDB_env *lmdb;
    MDB_dbi dbi;
    int64_t n_records;
    char *file;               /* owned: FOLDER/data.mdb, as first opened */
    const unsigned char *map; /* NULL: unknown */
    size_t map_bytes;
    int guard_slot;
    pid_t pid; /* LMDB environments do not live across fork(2) */
    dev_t device;
    ino_t inode;
    int n_users; /* under the registry's lock */
    struct dataset_env *next;
    pthread_mutex_t scan_lock;
    int has_scan_lock;
    dataset_scan scan; /* under scan_lock until is_done */
} dataset_env;

/** Open FOLDER/data.mdb or take part in the environment that the process has on it already. All
 *  failures are logged. Thread-safe. */
cvy_status dataset_env_open(const char *folder, const dataset_store_options *options,
                            dataset_env **out);
void dataset_env_close(dataset_env **env);

/** Compare the file's length with its meta pages, through the open descriptor. Quiet. */
cvy_status dataset_env_recheck(const dataset_env *env, cvy_reason *reason);

/** Whether a value that LMDB gave lies in the map, as damaged pages may lead anywhere. */
int dataset_env_holds(const dataset_env *env, const MDB_val *value);

/** Scan all records unless that was done already; for a dataset without a manifest. */
cvy_status dataset_env_scan(dataset_env *env, int is_quiet);

#endif
