#ifndef COMM_BUCKET_INTERNAL_H
#define COMM_BUCKET_INTERNAL_H

#include <stdint.h>

/*
 * How a flat vector is cut: into buckets of equal length (the last may be shorter), each bucket
 * into one segment a worker. Every cut lies at a multiple of COMM_REDUCE_ALIGN.
 */
typedef struct comm_buckets {
    int64_t n_elems, bucket_elems;
    int n_buckets, n_workers;
} comm_buckets;

/* A bucket is one transfer at most. */
#define COMM_BUCKET_MAX_ELEMS ((int64_t)1 << 28)

comm_buckets comm_buckets_make(int64_t n_elems, int64_t bucket_elems, int n_workers);
int64_t comm_bucket_offset(const comm_buckets *buckets, int bucket);
int64_t comm_bucket_n(const comm_buckets *buckets, int bucket);
void comm_bucket_segment(const comm_buckets *buckets, int bucket, int worker, int64_t *offset,
                         int64_t *n);

#endif
