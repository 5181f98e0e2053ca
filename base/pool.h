#ifndef CVY_POOL_H
#define CVY_POOL_H

#include "base/status.h"

#include <stdint.h>

/**
 * A team of threads for data-parallel loops, made once.
 *
 * The caller's thread works too, so a pool of n has n - 1 threads of its own; a pool of 1 has none
 * and runs everything in place. Chunks are handed out in any order to any thread: a task must
 * compute the same for chunk i whoever runs it, and n_chunks must not depend on n_threads, or bits
 * would. One thread uses a pool at a time; a task must not call cvy_pool_run on its own pool.
 */
typedef struct cvy_pool cvy_pool;

cvy_status cvy_pool_create(int n_threads, cvy_pool **out);
void cvy_pool_destroy(cvy_pool **pool);
int cvy_pool_n_threads(const cvy_pool *pool);

/** thread_idx in [0, n_threads): selects scratch, never results. */
typedef void (*cvy_pool_task)(void *arg, int64_t chunk_idx, int thread_idx);

/** Run task for every chunk in [0, n_chunks) and return when all are done. Never allocates. Between
 *  calls idle threads spin for some microseconds, then sleep. */
void cvy_pool_run(cvy_pool *pool, int64_t n_chunks, cvy_pool_task task, void *arg);

#endif
