#ifndef COMM_REDUCE_H
#define COMM_REDUCE_H

#include "base/clock.h"
#include "base/status.h"
#include "comm/comm.h"

#include <stdint.h>

/**
 * Ordered gradient reduction with a sharded update.
 *
 * The gradients of replicas 0..R-1 are summed in one canonical binary tree over the replica
 * numbers,
 *
 *     node(level, i) = sum of replicas [i 2^level, min((i + 1) 2^level, R))
 *                    = node(level - 1, 2i) + node(level - 1, 2i + 1), or the left one alone
 *                      where the right one is empty,
 *
 * whoever carries which replica. A worker folds the replicas it carries as a binary counter would
 * and is left with the maximal nodes that lie in its range. The flat vector is cut into buckets,
 * each bucket into one segment a worker. Per bucket every worker sends its nodes of segment w to
 * worker w, which adds what is missing of the tree: so the sum has the same bits at any number of
 * workers. The owner updates its segment of the weights, and the new weights are gathered by all.
 *
 * Flow of a step, on every worker:
 *
 *     for each replica carried, in ascending order:
 *         g = comm_reducer_begin(reducer, replica)      buffer for its gradient
 *         ... backward; whenever positions >= from are final: comm_reducer_ready(reducer, from)
 *         comm_reducer_ready(reducer, 0)
 *     comm_reducer_finish(reducer, deadline)            own segments are summed
 *     for each bucket: update weights of the own segment by comm_reducer_sum(reducer, bucket)
 *     comm_reducer_gather(reducer, weights, deadline)   all segments, from their owners
 *
 * Folding of the last carried replica, and the sends of a bucket, begin in comm_reducer_ready, so
 * they overlap with backward; comm_reducer_poll moves them on and costs little.
 *
 * COMM_REDUCE_NATIVE sums each bucket with the transport's own all-reduce: bits may then differ
 * between worker counts. Collective over the workers; one thread; no allocation after creation.
 */
typedef struct comm_reducer comm_reducer;

enum { COMM_REDUCE_ORDERED, COMM_REDUCE_NATIVE };

typedef struct comm_reducer_options {
    int64_t n_elems;      /* of the flat vector */
    int64_t bucket_elems; /* about; rounded up to COMM_REDUCE_ALIGN */
    int64_t n_replicas;   /* >= workers */
    int mode;
} comm_reducer_options;

#define COMM_REDUCE_ALIGN 16

/** The contiguous replicas [*first, *first + *n) that worker w of n_workers carries: sizes differ
 * by at most one, larger first. */
void comm_replica_range(int64_t n_replicas, int n_workers, int w, int64_t *first, int64_t *n);

/** workers: borrowed. Collective. */
cvy_status comm_reducer_create(comm *workers, const comm_reducer_options *options,
                               cvy_deadline deadline, comm_reducer **out);
void comm_reducer_destroy(comm_reducer **reducer);

/** Buffer of n_elems floats for the gradient of this replica (the next one carried); a view until
 *  the next begin or finish. Its contents are arbitrary at first use 0, then what an earlier
 * replica left: the caller overwrites all that counts, gaps stay finite. */
float *comm_reducer_begin(comm_reducer *reducer, int64_t replica);
/** Positions >= from_offset of the current replica's gradient are final. Descending per replica. */
cvy_status comm_reducer_ready(comm_reducer *reducer, int64_t from_offset);
cvy_status comm_reducer_poll(comm_reducer *reducer);
cvy_status comm_reducer_finish(comm_reducer *reducer, cvy_deadline deadline);

int comm_reducer_n_buckets(const comm_reducer *reducer);
/** Segment of a bucket that a worker owns: [*offset, *offset + *n), n may be 0. */
void comm_reducer_segment(const comm_reducer *reducer, int bucket, int worker, int64_t *offset,
                          int64_t *n);
/** The sum over all replicas of this worker's segment of a bucket; may be written to (fault tests);
 *  a view until the next begin. */
float *comm_reducer_sum(comm_reducer *reducer, int bucket);
/** Gather the segments of a flat vector from their owners, in place. */
cvy_status comm_reducer_gather(comm_reducer *reducer, float *flat, cvy_deadline deadline);

/* A sharded vector (optimizer state): the own segments one after the other, by bucket. */
int64_t comm_reducer_own_elems(const comm_reducer *reducer);
/** Shards of all workers -> flat on root (out_flat NULL elsewhere). */
cvy_status comm_reducer_collect(comm_reducer *reducer, const float *shard, int root,
                                float *out_flat, cvy_deadline deadline);
/** flat on root -> shards of all workers. */
cvy_status comm_reducer_distribute(comm_reducer *reducer, const float *flat, int root,
                                   float *out_shard, cvy_deadline deadline);

/** Bytes sent by this worker in the last step, and seconds spent waiting in finish and gather. */
void comm_reducer_figures(const comm_reducer *reducer, int64_t *out_bytes, double *out_wait_s);

#endif
