#include "base/pool.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

/* How long a thread looks for work before it sleeps: longer than the serial stretch between two
 * kernels of a step, shorter than anyone would notice. */
#define SPIN_S         30e-6
#define SPINS_PER_LOOK 32 /* pauses between two looks at the clock */
#define MAX_THREADS    1024

typedef struct pool_worker {
    cvy_pool *pool;
    pthread_t thread;
    int thread_idx;
} pool_worker;

/* A thread's share of the chunks, the same part of every run: what one run wrote, the next finds in
 * the cache of the same core. Whoever is done helps the others, from the front of their shares. */
typedef struct pool_share {
    _Alignas(64) _Atomic int64_t next;
    int64_t end;
} pool_share;

/*
 * A run is open from the moment `open_run` holds its number until it is 0 again. A worker first
 * counts itself into `n_inside` and then looks at `open_run`; the caller first closes the run and
 * then looks at `n_inside`. Both orders are sequentially consistent, so either the worker sees
 * that the run is closed, or the caller sees the worker and waits for it. A worker that wakes late
 * thus costs nothing: the caller waits only for threads that hold a chunk. The sleepers' counts
 * work the same way: whoever sleeps counts itself first and then looks once more.
 */
struct cvy_pool {
    _Alignas(64) _Atomic uint64_t open_run;
    _Alignas(64) atomic_int n_inside;
    atomic_int is_caller_asleep;
    atomic_int n_asleep;
    atomic_int is_ending;

    /* Written only while no run is open and nobody is inside one. */
    _Alignas(64) cvy_pool_task task;
    void *arg;
    pool_share *shares; /* [n_threads] */
    uint64_t last_run;
    double spin_s;
    int n_threads;

    int n_started; /* of workers, for a pool that is half built */
    int has_lock, has_work_cond, has_done_cond;
    pthread_mutex_t lock;
    pthread_cond_t work_cond;
    pthread_cond_t done_cond;
    pool_worker workers[];
};

static void take_from(cvy_pool *pool, pool_share *share, int thread_idx)
{
    while (atomic_load_explicit(&share->next, memory_order_relaxed) < share->end) {
        const int64_t chunk_idx = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed);
        if (chunk_idx >= share->end) return;
        pool->task(pool->arg, chunk_idx, thread_idx);
    }
}

static void take_chunks(cvy_pool *pool, int thread_idx)
{
    for (int i = 0; i < pool->n_threads; i++) {
        take_from(pool, &pool->shares[(thread_idx + i) % pool->n_threads], thread_idx);
    }
}

static void share_out(cvy_pool *pool, int64_t n_chunks)
{
    const int64_t size = n_chunks / pool->n_threads, rest = n_chunks % pool->n_threads;
    int64_t first = 0;

    for (int i = 0; i < pool->n_threads; i++) {
        pool_share *share = &pool->shares[i];
        atomic_store_explicit(&share->next, first, memory_order_relaxed);
        first += size + (i < rest);
        share->end = first;
    }
}

static int has_news(cvy_pool *pool, uint64_t last_seen)
{
    const uint64_t run = atomic_load(&pool->open_run);

    return (run != 0 && run != last_seen) || atomic_load(&pool->is_ending);
}

static void wait_for_news(cvy_pool *pool, uint64_t last_seen)
{
    const double until_s = cvy_clock_now_s() + pool->spin_s;

    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (has_news(pool, last_seen)) return;
            CVY_CPU_RELAX();
        }
    } while (cvy_clock_now_s() < until_s);

    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->n_asleep, 1);
    while (!has_news(pool, last_seen)) pthread_cond_wait(&pool->work_cond, &pool->lock);
    atomic_fetch_sub(&pool->n_asleep, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void leave_run(cvy_pool *pool)
{
    if (atomic_fetch_sub(&pool->n_inside, 1) != 1) return;
    if (!atomic_load(&pool->is_caller_asleep)) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->done_cond);
    pthread_mutex_unlock(&pool->lock);
}

static void *work(void *arg)
{
    pool_worker *worker = arg;
    cvy_pool *pool = worker->pool;
    uint64_t last_seen = 0;

    for (;;) {
        wait_for_news(pool, last_seen);
        if (atomic_load(&pool->is_ending)) return NULL;
        const uint64_t run = atomic_load(&pool->open_run);
        if (run == 0) continue;
        atomic_fetch_add(&pool->n_inside, 1);
        if (atomic_load(&pool->open_run) == run) take_chunks(pool, worker->thread_idx);
        leave_run(pool);
        last_seen = run;
    }
}

/* Processors this process may use; where there are fewer than threads, a spinning thread keeps the
 * one it waits for from running. */
static int count_processors(void)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : MAX_THREADS;
}

static cvy_status start_workers(cvy_pool *pool)
{
    sigset_t all;
    sigset_t before;
    int rc = 0;

    /* Threads inherit the mask: signals go to the thread that set the handlers up. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 0; i < pool->n_threads - 1; i++) {
        pool_worker *worker = &pool->workers[i];
        worker->pool = pool;
        worker->thread_idx = i + 1;
        rc = pthread_create(&worker->thread, NULL, work, worker);
        if (rc != 0) break;
        pool->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        return CVY_FAIL(CVY_ERR_OS, "start thread %d of %d: %s; lower the number of threads",
                        pool->n_started + 2, pool->n_threads, strerror(rc));
    }
    return CVY_OK;
}

static cvy_status init_waiting(cvy_pool *pool)
{
    pool->has_lock = pthread_mutex_init(&pool->lock, NULL) == 0;
    pool->has_work_cond = pthread_cond_init(&pool->work_cond, NULL) == 0;
    pool->has_done_cond = pthread_cond_init(&pool->done_cond, NULL) == 0;
    if (!pool->has_lock || !pool->has_work_cond || !pool->has_done_cond) {
        return CVY_FAIL(CVY_ERR_OS, "lock and conditions of a pool of %d threads", pool->n_threads);
    }
    return CVY_OK;
}

cvy_status cvy_pool_create(int n_threads, cvy_pool **out)
{
    cvy_status status = CVY_OK;
    cvy_pool *pool = NULL;

    *out = NULL;
    if (n_threads < 1 || n_threads > MAX_THREADS) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "a pool of %d threads: wanted 1 to %d", n_threads,
                        MAX_THREADS);
    }
    pool = cvy_alloc_zero(1, sizeof *pool + (size_t)(n_threads - 1) * sizeof(pool_worker));
    if (pool == NULL) {
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "a pool of %d threads", n_threads);
    }
    pool->n_threads = n_threads;
    pool->shares = cvy_alloc_zero((size_t)n_threads, sizeof *pool->shares);
    if (pool->shares == NULL) {
        status = CVY_FAIL(CVY_ERR_NO_MEMORY, "a pool of %d threads", n_threads);
        goto fail;
    }
    pool->spin_s = n_threads <= count_processors() ? SPIN_S : 0.0;
    CVY_GOTO_IF_ERR(fail, status, init_waiting(pool));
    CVY_GOTO_IF_ERR(fail, status, start_workers(pool));
    *out = pool;
    return CVY_OK;

fail:
    cvy_pool_destroy(&pool);
    return status;
}

void cvy_pool_destroy(cvy_pool **pool_address)
{
    if (pool_address == NULL || *pool_address == NULL) return;
    cvy_pool *pool = *pool_address;
    if (pool->n_started > 0) {
        atomic_store(&pool->is_ending, 1);
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->work_cond);
        pthread_mutex_unlock(&pool->lock);
        for (int i = 0; i < pool->n_started; i++) pthread_join(pool->workers[i].thread, NULL);
    }
    if (pool->has_done_cond) pthread_cond_destroy(&pool->done_cond);
    if (pool->has_work_cond) pthread_cond_destroy(&pool->work_cond);
    if (pool->has_lock) pthread_mutex_destroy(&pool->lock);
    cvy_free(pool->shares);
    cvy_free(pool);
    *pool_address = NULL;
}

int cvy_pool_n_threads(const cvy_pool *pool)
{
    return pool->n_threads;
}

static void wake_workers(cvy_pool *pool, int64_t n_wanted)
{
    if (atomic_load(&pool->n_asleep) == 0) return;
    pthread_mutex_lock(&pool->lock);
    if (n_wanted >= pool->n_threads - 1) {
        pthread_cond_broadcast(&pool->work_cond);
    } else {
        for (int64_t i = 0; i < n_wanted; i++) pthread_cond_signal(&pool->work_cond);
    }
    pthread_mutex_unlock(&pool->lock);
}

/* Wait until no worker is in the run that was just closed. */
static void wait_until_left(cvy_pool *pool)
{
    const double until_s = cvy_clock_now_s() + pool->spin_s;

    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (atomic_load(&pool->n_inside) == 0) return;
            CVY_CPU_RELAX();
        }
    } while (cvy_clock_now_s() < until_s);

    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->is_caller_asleep, 1);
    while (atomic_load(&pool->n_inside) != 0) pthread_cond_wait(&pool->done_cond, &pool->lock);
    atomic_store(&pool->is_caller_asleep, 0);
    pthread_mutex_unlock(&pool->lock);
}

void cvy_pool_run(cvy_pool *pool, int64_t n_chunks, cvy_pool_task task, void *arg)
{
    if (pool->n_threads == 1 || n_chunks <= 1) {
        for (int64_t i = 0; i < n_chunks; i++) task(arg, i, 0);
        return;
    }
    pool->task = task;
    pool->arg = arg;
    share_out(pool, n_chunks);
    atomic_store(&pool->open_run, ++pool->last_run);
    wake_workers(pool, n_chunks - 1);
    take_chunks(pool, 0);
    atomic_store(&pool->open_run, 0);
    wait_until_left(pool);
}
