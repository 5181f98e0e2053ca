#include "base/clock.h"
#include "comm/reduce.h"
#include "comm/reduce_internal.h"

#include <string.h>

/*
 * Segments on the move between their owners and whole vectors: new weights to all, optimizer state
 * to one rank and back. Straight from and to the caller's memory.
 */

int64_t comm_reducer_own_elems(const comm_reducer *r)
{
    int64_t n_own = 0;

    for (int bucket = 0; bucket < r->buckets.n_buckets; bucket++) {
        int64_t offset = 0, n = 0;
        comm_reducer_segment(r, bucket, r->rank, &offset, &n);
        n_own += n;
    }
    return n_own;
}

static cvy_status post_gather(comm_reducer *r, float *flat)
{
    for (int i = 1; i < r->n_workers; i++) {
        const int other = (r->rank + i) % r->n_workers;
        for (int bucket = 0; bucket < r->buckets.n_buckets; bucket++) {
            int64_t offset = 0, n = 0;
            comm_reducer_segment(r, bucket, other, &offset, &n);
            CVY_RETURN_IF_ERR(
                comm_reducer_post_receive(r, flat + offset, n, other, COMM_TAG_WEIGHTS));
        }
    }
    for (int bucket = 0; bucket < r->buckets.n_buckets; bucket++) {
        int64_t offset = 0, n = 0;
        comm_reducer_segment(r, bucket, r->rank, &offset, &n);
        for (int i = 1; i < r->n_workers; i++) {
            const int other = (r->rank + i) % r->n_workers;
            CVY_RETURN_IF_ERR(comm_reducer_post_send(r, flat + offset, n, other, COMM_TAG_WEIGHTS));
        }
    }
    return CVY_OK;
}

/* waited_s: what the wait is added to. */
static cvy_status finish(comm_reducer *r, cvy_status posted, cvy_deadline deadline,
                         double *waited_s)
{
    comm_wait wait = comm_wait_begin(deadline);

    if (posted != CVY_OK) return comm_reducer_give_up(r, posted);
    const cvy_status status = comm_reducer_complete(r, &wait);
    *waited_s += wait.waited_s;
    return status;
}

cvy_status comm_reducer_gather(comm_reducer *r, float *flat, cvy_deadline deadline)
{
    return finish(r, post_gather(r, flat), deadline, &r->waited_s);
}

/* --- Between shards and a flat vector on root; these are no part of a step's figures ------------
 */

static cvy_status post_collect(comm_reducer *r, const float *shard, int root, float *out_flat)
{
    for (int bucket = 0; bucket < r->buckets.n_buckets; bucket++) {
        int64_t offset = 0, n = 0;
        comm_reducer_segment(r, bucket, r->rank, &offset, &n);
        if (r->rank != root) {
            CVY_RETURN_IF_ERR(comm_reducer_post_send(r, shard, n, root, COMM_TAG_SHARD));
        } else if (n > 0) {
            memcpy(out_flat + offset, shard, (size_t)n * sizeof *shard);
        }
        shard += n;
        for (int w = 0; w < r->n_workers && r->rank == root; w++) {
            if (w == root) continue;
            comm_reducer_segment(r, bucket, w, &offset, &n);
            CVY_RETURN_IF_ERR(
                comm_reducer_post_receive(r, out_flat + offset, n, w, COMM_TAG_SHARD));
        }
    }
    return CVY_OK;
}

static cvy_status post_distribute(comm_reducer *r, const float *flat, int root, float *out_shard)
{
    for (int bucket = 0; bucket < r->buckets.n_buckets; bucket++) {
        int64_t offset = 0, n = 0;
        comm_reducer_segment(r, bucket, r->rank, &offset, &n);
        if (r->rank != root) {
            CVY_RETURN_IF_ERR(comm_reducer_post_receive(r, out_shard, n, root, COMM_TAG_SHARD));
        } else if (n > 0) {
            memcpy(out_shard, flat + offset, (size_t)n * sizeof *flat);
        }
        out_shard += n;
        for (int w = 0; w < r->n_workers && r->rank == root; w++) {
            if (w == root) continue;
            comm_reducer_segment(r, bucket, w, &offset, &n);
            CVY_RETURN_IF_ERR(comm_reducer_post_send(r, flat + offset, n, w, COMM_TAG_SHARD));
        }
    }
    return CVY_OK;
}

cvy_status comm_reducer_collect(comm_reducer *r, const float *shard, int root, float *out_flat,
                                cvy_deadline deadline)
{
    double unused_s = 0;
    return finish(r, post_collect(r, shard, root, out_flat), deadline, &unused_s);
}

cvy_status comm_reducer_distribute(comm_reducer *r, const float *flat, int root, float *out_shard,
                                   cvy_deadline deadline)
{
    double unused_s = 0;
    return finish(r, post_distribute(r, flat, root, out_shard), deadline, &unused_s);
}
