#include "comm/bucket_internal.h"

#include "base/alloc.h"
#include "base/status.h"
#include "comm/reduce.h"

#include <limits.h>

static int64_t round_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

comm_buckets comm_buckets_make(int64_t n_elems, int64_t bucket_elems, int n_workers)
{
    int64_t each = bucket_elems < COMM_BUCKET_MAX_ELEMS ? bucket_elems : COMM_BUCKET_MAX_ELEMS;

    CVY_ASSERT(n_elems > 0 && bucket_elems > 0 && n_workers > 0);
    if (each > n_elems) each = n_elems;
    each = round_up(each, COMM_REDUCE_ALIGN);
    return (comm_buckets){.n_elems = n_elems,
                          .bucket_elems = each,
                          .n_buckets = cvy_to_int((n_elems + each - 1) / each),
                          .n_workers = n_workers};
}

int64_t comm_bucket_offset(const comm_buckets *buckets, int bucket)
{
    return bucket * buckets->bucket_elems;
}

int64_t comm_bucket_n(const comm_buckets *buckets, int bucket)
{
    const int64_t left = buckets->n_elems - comm_bucket_offset(buckets, bucket);
    return left < buckets->bucket_elems ? left : buckets->bucket_elems;
}

void comm_bucket_segment(const comm_buckets *buckets, int bucket, int worker, int64_t *offset,
                         int64_t *n)
{
    const int64_t n_elems = comm_bucket_n(buckets, bucket);
    const int64_t n_units = (n_elems + COMM_REDUCE_ALIGN - 1) / COMM_REDUCE_ALIGN;
    int64_t from = n_units * worker / buckets->n_workers * COMM_REDUCE_ALIGN;
    int64_t to = n_units * (worker + 1) / buckets->n_workers * COMM_REDUCE_ALIGN;

    CVY_ASSERT(bucket >= 0 && bucket < buckets->n_buckets);
    CVY_ASSERT(worker >= 0 && worker < buckets->n_workers);
    if (from > n_elems) from = n_elems;
    if (to > n_elems) to = n_elems;
    *offset = comm_bucket_offset(buckets, bucket) + from;
    *n = to - from;
}
