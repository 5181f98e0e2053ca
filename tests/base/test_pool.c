#include "base/pool.h"

#include "tests/support/test_support.h"

#include "base/alloc.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#define MAX_CHUNKS 1000

/* What a run did: how often each chunk was done, and by whom. */
typedef struct record {
    atomic_int n_done[MAX_CHUNKS];
    atomic_int n_by_thread[16];
    int n_threads;
    atomic_int n_wrong;
} record;

static void note_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    record *seen = arg;

    if (thread_idx < 0 || thread_idx >= seen->n_threads) {
        atomic_fetch_add(&seen->n_wrong, 1);
        return;
    }
    atomic_fetch_add(&seen->n_done[chunk_idx], 1);
    atomic_fetch_add(&seen->n_by_thread[thread_idx], 1);
}

static void every_chunk_is_done_once_at_any_number_of_threads(void **state)
{
    static const int64_t chunks[] = {0, 1, 2, 3, 7, 100, MAX_CHUNKS};
    static record seen;

    (void)state;
    for (int n_threads = 1; n_threads <= 8; n_threads++) {
        cvy_pool *pool = NULL;
        assert_ok(cvy_pool_create(n_threads, &pool));
        assert_int_equal(cvy_pool_n_threads(pool), n_threads);
        for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) {
            memset(&seen, 0, sizeof seen);
            seen.n_threads = n_threads;
            cvy_pool_run(pool, chunks[c], note_chunk, &seen);
            assert_int_equal(atomic_load(&seen.n_wrong), 0);
            for (int64_t i = 0; i < MAX_CHUNKS; i++) {
                assert_int_equal(atomic_load(&seen.n_done[i]), i < chunks[c]);
            }
        }
        cvy_pool_destroy(&pool);
        assert_null(pool);
    }
}

/* The first chunk takes until all others are done: somebody else must do its thread's share. */
static void wait_for_the_others(void *arg, int64_t chunk_idx, int thread_idx)
{
    atomic_int *n_done = arg;

    (void)thread_idx;
    for (int i = 0; chunk_idx == 0 && i < 10000 && atomic_load(n_done) < 9; i++) usleep(1000);
    if (chunk_idx != 0 || atomic_load(n_done) == 9) atomic_fetch_add(n_done, 1);
}

static void threads_without_work_take_that_of_others(void **state)
{
    cvy_pool *pool = NULL;
    atomic_int n_done = 0;

    (void)state;
    assert_ok(cvy_pool_create(2, &pool));
    cvy_pool_run(pool, 10, wait_for_the_others, &n_done);
    assert_int_equal(atomic_load(&n_done), 10);
    cvy_pool_destroy(&pool);
}

/* Plain memory: what the tasks wrote must be seen by the caller, and what the caller wrote by the
 * tasks, without further ado; a thread sanitizer checks the same. */
typedef struct sums {
    int64_t in[64];
    int64_t out[64];
} sums;

static void add_one(void *arg, int64_t chunk_idx, int thread_idx)
{
    sums *data = arg;

    (void)thread_idx;
    data->out[chunk_idx] = data->in[chunk_idx] + 1;
}

static void many_short_runs_in_a_row_lose_nothing(void **state)
{
    cvy_pool *pool = NULL;
    sums data = {{0}, {0}};

    (void)state;
    assert_ok(cvy_pool_create(3, &pool));
    for (int run = 0; run < 20000; run++) {
        const int64_t n_chunks = 1 + run % 64;
        cvy_pool_run(pool, n_chunks, add_one, &data);
        for (int64_t i = 0; i < n_chunks; i++) {
            if (data.out[i] != data.in[i] + 1) fail_msg("run %d lost chunk %d", run, (int)i);
            data.in[i] = data.out[i];
        }
    }
    cvy_pool_destroy(&pool);
}

static void run_after_the_threads_fell_asleep_is_complete(void **state)
{
    cvy_pool *pool = NULL;
    static record seen;

    (void)state;
    assert_ok(cvy_pool_create(4, &pool));
    for (int run = 1; run <= 20; run++) {
        usleep(500); /* longer than threads spin */
        seen.n_threads = 4;
        cvy_pool_run(pool, 10, note_chunk, &seen);
        for (int i = 0; i < 10; i++) assert_int_equal(atomic_load(&seen.n_done[i]), run);
    }
    cvy_pool_destroy(&pool);
}

/* Each of two chunks waits for the other to begin: done only if two threads work at once. */
static void meet(void *arg, int64_t chunk_idx, int thread_idx)
{
    atomic_int *n_here = arg;

    (void)chunk_idx;
    (void)thread_idx;
    atomic_fetch_add(n_here, 1);
    while (atomic_load(n_here) < 2) usleep(10);
}

static void two_threads_work_at_once(void **state)
{
    cvy_pool *pool = NULL;
    atomic_int n_here = 0;

    (void)state;
    assert_ok(cvy_pool_create(2, &pool));
    cvy_pool_run(pool, 2, meet, &n_here);
    assert_int_equal(atomic_load(&n_here), 2);
    cvy_pool_destroy(&pool);
}

static void run_in_a_pool_of_one_stays_on_the_caller(void **state)
{
    cvy_pool *pool = NULL;
    static record seen;

    (void)state;
    seen.n_threads = 1;
    assert_ok(cvy_pool_create(1, &pool));
    cvy_pool_run(pool, 5, note_chunk, &seen);
    assert_int_equal(atomic_load(&seen.n_by_thread[0]), 5);
    cvy_pool_destroy(&pool);
}

static void run_does_not_allocate(void **state)
{
    cvy_pool *pool = NULL;
    static record seen;
    cvy_alloc_counts before, after;

    (void)state;
    seen.n_threads = 4;
    assert_ok(cvy_pool_create(4, &pool));
    cvy_alloc_count(&before);
    for (int i = 0; i < 100; i++) cvy_pool_run(pool, 100, note_chunk, &seen);
    cvy_alloc_count(&after);
    assert_int_equal(after.n_ever, before.n_ever);
    cvy_pool_destroy(&pool);
}

typedef struct masks {
    atomic_int n_here;
    atomic_int n_blocked; /* threads other than the caller with SIGTERM blocked */
    atomic_int n_open;
} masks;

static void look_at_mask(void *arg, int64_t chunk_idx, int thread_idx)
{
    masks *seen = arg;
    sigset_t set;

    (void)chunk_idx;
    atomic_fetch_add(&seen->n_here, 1);
    while (atomic_load(&seen->n_here) < 2) usleep(10);
    if (thread_idx == 0) return;
    pthread_sigmask(SIG_SETMASK, NULL, &set);
    atomic_fetch_add(sigismember(&set, SIGTERM) ? &seen->n_blocked : &seen->n_open, 1);
}

static void signals_are_blocked_in_the_pools_threads_only(void **state)
{
    cvy_pool *pool = NULL;
    masks seen = {0};
    sigset_t set;

    (void)state;
    assert_ok(cvy_pool_create(2, &pool));
    pthread_sigmask(SIG_SETMASK, NULL, &set);
    assert_false(sigismember(&set, SIGTERM));
    cvy_pool_run(pool, 2, look_at_mask, &seen);
    assert_int_equal(atomic_load(&seen.n_blocked), 1);
    assert_int_equal(atomic_load(&seen.n_open), 0);
    cvy_pool_destroy(&pool);
}

static void impossible_numbers_of_threads_are_refused(void **state)
{
    cvy_pool *pool = NULL;

    (void)state;
    test_log_expect("a pool of 0 threads");
    assert_status(cvy_pool_create(0, &pool), CVY_ERR_INVALID_ARG);
    test_log_expect("a pool of 5000 threads");
    assert_status(cvy_pool_create(5000, &pool), CVY_ERR_INVALID_ARG);
    assert_null(pool);
    cvy_pool_destroy(&pool);
    cvy_pool_destroy(NULL);
}

static void failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    cvy_pool *pool = NULL;
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;
    int k = 0;

    (void)state;
    cvy_alloc_count(&before);
    test_log_expect("a pool of 2 threads (out of memory)");
    for (; status != CVY_OK; k++) {
        cvy_alloc_fail_at(k);
        status = cvy_pool_create(2, &pool);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
    }
    assert_true(k > 1);
    cvy_pool_destroy(&pool);
    cvy_alloc_count(&after);
    assert_int_equal(after.n_live, before.n_live);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(every_chunk_is_done_once_at_any_number_of_threads),
        cvy_unit_test(threads_without_work_take_that_of_others),
        cvy_unit_test(many_short_runs_in_a_row_lose_nothing),
        cvy_unit_test(run_after_the_threads_fell_asleep_is_complete),
        cvy_unit_test(two_threads_work_at_once),
        cvy_unit_test(run_in_a_pool_of_one_stays_on_the_caller),
        cvy_unit_test(run_does_not_allocate),
        cvy_unit_test(signals_are_blocked_in_the_pools_threads_only),
        cvy_unit_test(impossible_numbers_of_threads_are_refused),
        cvy_unit_test(failed_allocation_is_reported_and_leaks_nothing),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
