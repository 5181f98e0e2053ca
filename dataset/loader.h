#ifndef DATASET_LOADER_H
#define DATASET_LOADER_H

#include "base/status.h"
#include "dataset/augment.h"
#include "dataset/store.h"

#include <stdint.h>

/**
 * Minibatches in a given order, decoded ahead by threads.
 *
 * What comes k-th is told by a plan function, so training (steps x replicas) and evaluation (every
 * W-th batch of records) use the same loader. The contents of a minibatch depend on the plan alone,
 * never on threads. After creation nothing is allocated once buffers have reached their size.
 */
typedef struct dataset_item {
    int64_t record;
    int64_t epoch, position; /* keys of the augmentation */
} dataset_item;

/** Fill at most minibatch items of the k-th minibatch (k = 0, 1, ...) and return how many; 0: there
 *  is no k-th. Called from loader threads: must be a pure function. */
typedef int64_t (*dataset_plan)(const void *arg, int64_t k, dataset_item *items);

typedef struct dataset_loader_options {
    int64_t minibatch; /* most images of one */
    int n_threads;     /* >= 1 */
    int read_ahead;    /* minibatches, >= 1 */
    uint64_t seed;
    int substitute_bad; /* 1: a bad record is replaced by the next good one (idx + 1, wrapping), the
                         * same on every rank; 0: the sample is left out, is_bad set */
} dataset_loader_options;

typedef struct dataset_batch {
    int64_t n;
    const float *images;    /* (n, c, h, w) */
    const int32_t *labels;  /* (n); 0 for a bad one */
    const int64_t *records; /* (n): asked for by the plan */
    const uint8_t *is_bad;  /* (n): not substituted, image all 0 */
} dataset_batch;

typedef struct dataset_bad_record {
    int64_t record;
    char reason[120];
} dataset_bad_record;

typedef struct dataset_loader dataset_loader;

/** store, pipeline: borrowed. plan_arg: borrowed until destroy. Threads start at once. */
cvy_status dataset_loader_create(dataset_store *store, const dataset_pipeline *pipeline,
                                 const dataset_loader_options *options, dataset_plan plan,
                                 const void *plan_arg, dataset_loader **out);
/** Stops and joins the threads, at most one record later. */
void dataset_loader_destroy(dataset_loader **loader);

/**
 * The next minibatch, if it is ready.
 *
 * @param wait_s  longest wait; 0: only look. So the caller can poll other things meanwhile.
 * @param out     a view until the next call; n = 0 at the end of the plan; *out_is_ready tells.
 * @return the status of the loader's threads: an I/O error of the store, CVY_ERR_BAD_DATA when no
 *         good record is left to substitute.
 */
cvy_status dataset_loader_next(dataset_loader *loader, double wait_s, dataset_batch *out,
                               int *out_is_ready);

/** Take up to max bad records found since the last call, each distinct record once; returns how
 *  many. */
int dataset_loader_take_bad(dataset_loader *loader, int max, dataset_bad_record *out);

#endif
