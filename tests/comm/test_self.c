#include "base/alloc.h"
#include "base/clock.h"
#include "comm/comm.h"
#include "comm/protocol.h"
#include "comm/reduce.h"
#include "comm/watchdog.h"
#include "tests/support/test_support.h"

#include <pthread.h>
#include <string.h>

/* Two threads of one process: the coordinator is the test's, the worker a thread that does what the
 * test tells it and keeps a status. cmocka's assertions stay in the test's thread. */
typedef struct pair {
    comm *coordinator, *worker;
} pair;

static cvy_deadline soon(void)
{
    return cvy_deadline_in_s(20);
}

static pair open_pair(void)
{
    pair p = {NULL, NULL};
    assert_ok(comm_self_open(&p.coordinator, &p.worker));
    return p;
}

static void close_pair(pair *p)
{
    comm_close(&p->coordinator);
    comm_close(&p->worker);
    assert_null(p->coordinator);
}

static void pair_has_ranks_and_places(void **state)
{
    pair p = open_pair();
    (void)state;

    assert_int_equal(comm_rank(p.coordinator), 0);
    assert_int_equal(comm_rank(p.worker), 1);
    assert_int_equal(comm_size(p.worker), 2);
    assert_string_equal(comm_transport(p.worker), "self");
    assert_true(strlen(comm_host(p.worker, 0)) > 0);
    assert_string_equal(comm_host(p.worker, 0), comm_host(p.coordinator, 1));
    assert_int_equal(comm_local_rank(p.coordinator, 1), 1);
    assert_int_equal(comm_local_size(p.coordinator, 0), 2);
    close_pair(&p);
}

static void messages_keep_order_kind_and_size(void **state)
{
    pair p = open_pair();
    comm_message got;
    int has = 1;
    (void)state;

    assert_ok(comm_receive(p.worker, &got, &has));
    assert_false(has);
    for (int i = 0; i < 100; i++) assert_ok(comm_send(p.coordinator, 1, i, &i, sizeof i));
    assert_ok(comm_send(p.coordinator, 1, COMM_STOP, NULL, 0));
    assert_ok(comm_flush(p.coordinator, soon()));
    for (int i = 0; i < 100; i++) {
        assert_ok(comm_receive(p.worker, &got, &has));
        assert_true(has);
        assert_int_equal(got.source, 0);
        assert_int_equal(got.kind, i);
        assert_int_equal(got.size_bytes, sizeof i);
        assert_memory_equal(got.payload, &i, sizeof i);
    }
    assert_ok(comm_receive(p.worker, &got, &has));
    assert_true(has);
    assert_int_equal(got.kind, COMM_STOP);
    assert_int_equal(got.size_bytes, 0);
    assert_ok(comm_receive(p.coordinator, &got, &has));
    assert_false(has);
    close_pair(&p);
}

static void messages_outlive_their_sender(void **state)
{
    pair p = open_pair();
    comm_message got;
    int has = 0;
    (void)state;

    assert_ok(comm_send(p.coordinator, 1, 7, "bye", 4));
    comm_close(&p.coordinator);
    assert_ok(comm_receive(p.worker, &got, &has));
    assert_true(has);
    assert_string_equal(got.payload, "bye");
    close_pair(&p);
}

static void messages_beyond_the_limits_fail(void **state)
{
    const size_t size_bytes = COMM_MESSAGE_LIMIT_BYTES;
    pair p = open_pair();
    void *large = cvy_alloc(size_bytes);
    int n_sent = 0;
    (void)state;

    test_log_expect("message 1 of 67108865 bytes to rank 1");
    assert_status(comm_send(p.coordinator, 1, 1, large, size_bytes + 1), CVY_ERR_INVALID_ARG);
    test_log_expect("message 1 of 0 bytes to rank 2 of 2");
    assert_status(comm_send(p.coordinator, 2, 1, NULL, 0), CVY_ERR_INVALID_ARG);
    memset(large, 1, size_bytes);
    test_log_expect("has not received 268435456 bytes yet");
    while (comm_send(p.coordinator, 1, 1, large, size_bytes) == CVY_OK) n_sent++;
    assert_int_equal(n_sent, 4);
    cvy_free(large);
    close_pair(&p);
}

/* Warm pools: two heartbeats under way at a time. */
static void heartbeats_do_not_allocate_once_warm(void **state)
{
    pair p = open_pair();
    comm_heartbeat beat = {.phase = COMM_PHASE_DATA};
    cvy_alloc_counts before = {0}, after;
    comm_message got;
    int has = 0;
    (void)state;

    for (int i = 0; i < 1000; i++) {
        if (i == 10) cvy_alloc_count(&before);
        beat.step = i;
        assert_ok(COMM_SEND(p.worker, 0, COMM_HEARTBEAT, beat));
        assert_ok(COMM_SEND(p.worker, 0, COMM_HEARTBEAT, beat));
        for (int k = 0; k < 2; k++) {
            assert_ok(comm_receive(p.coordinator, &got, &has));
            assert_non_null(COMM_AS(comm_heartbeat, &got));
            assert_int_equal(COMM_AS(comm_heartbeat, &got)->step, i);
            assert_null(COMM_AS(comm_metrics, &got));
        }
    }
    cvy_alloc_count(&after);
    assert_int_equal(after.n_ever, before.n_ever);
    close_pair(&p);
}

static void pulse_beats_when_due_and_when_the_deadline_changes(void **state)
{
    pair p = open_pair();
    comm_pulse pulse;
    comm_message got;
    int has = 0;
    (void)state;

    comm_pulse_open(&pulse, p.worker, 1000);
    assert_ok(comm_pulse_beat(&pulse));
    assert_ok(comm_pulse_beat(&pulse));
    comm_pulse_phase(&pulse, COMM_PHASE_IDLE);
    comm_pulse_phase(&pulse, COMM_PHASE_FORWARD);
    comm_pulse_phase(&pulse, COMM_PHASE_BACKWARD);
    assert_ok(comm_pulse_beat(&pulse));
    comm_pulse_phase(&pulse, COMM_PHASE_SNAPSHOT);
    static const comm_phase expected[] = {COMM_PHASE_START, COMM_PHASE_IDLE, COMM_PHASE_FORWARD,
                                          COMM_PHASE_SNAPSHOT};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_ok(comm_receive(p.coordinator, &got, &has));
        assert_true(has);
        assert_int_equal(got.kind, COMM_HEARTBEAT);
        assert_int_equal(COMM_AS(comm_heartbeat, &got)->phase, expected[i]);
    }
    assert_ok(comm_receive(p.coordinator, &got, &has));
    assert_false(has);
    close_pair(&p);
}

/* --- Collectives ----------------------------------------------------------------------------- */

typedef struct collective_result {
    comm *c;
    cvy_status status;
    int64_t max;
    char text[16];
    void *block;
    size_t block_bytes;
    cvy_status agreed;
    int has_group;
} collective_result;

static cvy_status do_collectives(collective_result *r)
{
    const int rank = comm_rank(r->c);
    comm *group = NULL;

    CVY_RETURN_IF_ERR(comm_barrier(r->c, soon()));
    r->max = rank == 0 ? 5 : 3;
    CVY_RETURN_IF_ERR(comm_max_i64(r->c, &r->max, 1, soon()));
    if (rank == 1) memcpy(r->text, "from 1", 7);
    CVY_RETURN_IF_ERR(comm_bcast(r->c, r->text, sizeof r->text, 1, soon()));
    CVY_RETURN_IF_ERR(comm_bcast_block(r->c, &r->block, &r->block_bytes, 0, soon()));
    r->agreed = comm_agree(r->c, rank == 1 ? CVY_ERR_IO : CVY_OK, soon());
    CVY_RETURN_IF_ERR(comm_group(r->c, 1, 1, soon(), &group));
    r->has_group = group != NULL && comm_size(group) == 1 && comm_rank(group) == 0;
    comm_close(&group);
    CVY_RETURN_IF_ERR(comm_group(r->c, 0, 2, soon(), &group));
    int64_t both = rank;
    CVY_RETURN_IF_ERR(comm_max_i64(group, &both, 1, soon()));
    comm_close(&group);
    return both == 1 ? CVY_OK : CVY_ERR_INTERNAL;
}

static void *collective_main(void *arg)
{
    collective_result *r = arg;
    r->status = do_collectives(r);
    return NULL;
}

static void collectives_join_two_threads(void **state)
{
    static char block[] = "a block of some bytes";
    pair p = open_pair();
    collective_result worker = {.c = p.worker}, coordinator = {.c = p.coordinator,
                                                               .block = block,
                                                               .block_bytes = sizeof block};
    pthread_t thread;
    (void)state;

    assert_int_equal(pthread_create(&thread, NULL, collective_main, &worker), 0);
    coordinator.status = do_collectives(&coordinator);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_ok(worker.status);
    assert_ok(coordinator.status);
    assert_int_equal(worker.max, 5);
    assert_int_equal(coordinator.max, 5);
    assert_string_equal(coordinator.text, "from 1");
    assert_int_equal(worker.block_bytes, sizeof block);
    assert_string_equal(worker.block, block);
    assert_ptr_equal(coordinator.block, block);
    assert_status(worker.agreed, CVY_ERR_IO);
    assert_status(coordinator.agreed, CVY_ERR_IO);
    assert_true(worker.has_group);
    assert_false(coordinator.has_group);
    cvy_free(worker.block);
    close_pair(&p);
}

static void absent_peer_is_lost_at_the_deadline(void **state)
{
    pair p = open_pair();
    const double start_s = cvy_clock_now_s();
    (void)state;

    assert_status(comm_barrier(p.coordinator, cvy_deadline_in_s(0.05)), CVY_ERR_PEER_LOST);
    const double took_s = cvy_clock_now_s() - start_s;
    assert_true(took_s >= 0.05 && took_s < 1);
    close_pair(&p);
}

static cvy_status count_then_stop(void *arg)
{
    int *n_left = arg;
    return --*n_left > 0 ? CVY_OK : CVY_ERR_STOPPED;
}

static void idle_function_ends_a_wait(void **state)
{
    pair p = open_pair();
    int n_left = 5;
    (void)state;

    comm_set_idle(p.coordinator, count_then_stop, &n_left);
    assert_status(comm_barrier(p.coordinator, soon()), CVY_ERR_STOPPED);
    assert_int_equal(n_left, 0);
    close_pair(&p);
}

/* --- Reduction of one worker ----------------------------------------------------------------- */

static void *join_group_main(void *arg)
{
    collective_result *r = arg;
    comm *none = NULL;
    r->status = comm_group(r->c, 1, 1, soon(), &none);
    return NULL;
}

/* comm_group is collective: the coordinator's part runs in a thread. */
static comm *open_single(pair *p)
{
    collective_result coordinator = {.c = p->coordinator};
    comm *single = NULL;
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, join_group_main, &coordinator), 0);
    assert_ok(comm_group(p->worker, 1, 1, soon(), &single));
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_ok(coordinator.status);
    return single;
}

static void step(comm_reducer *r, int64_t n_replicas, int64_t n)
{
    for (int64_t replica = 0; replica < n_replicas; replica++) {
        float *g = comm_reducer_begin(r, replica);
        for (int64_t i = 0; i < n; i++) g[i] = (float)(replica + 1) * (float)(i % 7);
        assert_ok(comm_reducer_ready(r, n / 2));
        assert_ok(comm_reducer_ready(r, 0));
        assert_ok(comm_reducer_ready(r, 0));
    }
    assert_ok(comm_reducer_finish(r, soon()));
}

static void one_worker_sums_its_replicas_without_allocating(void **state)
{
    enum { N = 1000 };
    pair p = open_pair();
    comm *single = open_single(&p);
    cvy_alloc_counts before, after;
    (void)state;

    for (int mode = COMM_REDUCE_ORDERED; mode <= COMM_REDUCE_NATIVE; mode++) {
        for (int64_t n_replicas = 1; n_replicas <= 6; n_replicas++) {
            const comm_reducer_options options = {
                .n_elems = N, .bucket_elems = 100, .n_replicas = n_replicas, .mode = mode};
            comm_reducer *r = NULL;
            static float flat[N];
            int64_t n_bytes = -1, offset = 0, n = 0;
            double wait_s = -1;
            assert_ok(comm_reducer_create(single, &options, soon(), &r));
            cvy_alloc_count(&before);
            for (int i = 0; i < 5; i++) step(r, n_replicas, N);
            cvy_alloc_count(&after);
            assert_int_equal(after.n_ever, before.n_ever);
            assert_int_equal(comm_reducer_n_buckets(r), 9); /* of 112 */
            assert_int_equal(comm_reducer_own_elems(r), N);
            const float factor = (float)(n_replicas * (n_replicas + 1) / 2);
            for (int bucket = 0; bucket < 9; bucket++) {
                comm_reducer_segment(r, bucket, 0, &offset, &n);
                memcpy(flat + offset, comm_reducer_sum(r, bucket), (size_t)n * sizeof *flat);
            }
            for (int i = 0; i < N; i++) assert_float_equal(flat[i], factor * (float)(i % 7), 0);
            assert_ok(comm_reducer_gather(r, flat, soon()));
            comm_reducer_figures(r, &n_bytes, &wait_s);
            assert_int_equal(n_bytes, 0);
            assert_true(wait_s >= 0 && wait_s < 1);
            comm_reducer_destroy(&r);
        }
    }
    comm_close(&single);
    close_pair(&p);
}

static void single_replica_is_its_own_sum(void **state)
{
    const comm_reducer_options options = {.n_elems = 64, .bucket_elems = 16, .n_replicas = 1};
    pair p = open_pair();
    comm *single = open_single(&p);
    comm_reducer *r = NULL;
    (void)state;

    assert_ok(comm_reducer_create(single, &options, soon(), &r));
    float *g = comm_reducer_begin(r, 0);
    assert_ok(comm_reducer_ready(r, 0));
    assert_ok(comm_reducer_finish(r, soon()));
    for (int bucket = 0; bucket < 4; bucket++)
        assert_ptr_equal(comm_reducer_sum(r, bucket), g + 16 * bucket);
    comm_reducer_destroy(&r);
    comm_close(&single);
    close_pair(&p);
}

static void impossible_reductions_are_refused(void **state)
{
    static const comm_reducer_options wrong[] = {
        {.n_elems = 0, .bucket_elems = 16, .n_replicas = 1},
        {.n_elems = 16, .bucket_elems = 0, .n_replicas = 1},
        {.n_elems = 16, .bucket_elems = 16, .n_replicas = 0},
    };
    pair p = open_pair();
    comm *single = open_single(&p);
    comm_reducer *r = NULL;
    (void)state;

    test_log_expect("reduction of");
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_status(comm_reducer_create(single, &wrong[i], soon(), &r), CVY_ERR_INVALID_ARG);
        assert_null(r);
    }
    comm_close(&single);
    close_pair(&p);
}

/* --- Without memory -------------------------------------------------------------------------- */

static void opening_without_memory_fails_and_leaks_nothing(void **state)
{
    cvy_alloc_counts before, after;
    int n_failed = 0;
    (void)state;

    cvy_alloc_count(&before);
    test_log_expect("communicator of 2 threads");
    test_log_expect("queues between two threads");
    for (int64_t k = 0;; k++) {
        pair p = {NULL, NULL};
        cvy_alloc_fail_at(k);
        const cvy_status status = comm_self_open(&p.coordinator, &p.worker);
        cvy_alloc_fail_at(-1);
        if (status == CVY_OK) {
            close_pair(&p);
            break;
        }
        assert_status(status, CVY_ERR_NO_MEMORY);
        assert_null(p.coordinator);
        assert_null(p.worker);
        n_failed++;
    }
    assert_int_equal(n_failed, 5);
    cvy_alloc_count(&after);
    assert_int_equal(after.n_live, before.n_live);
}

static void reduction_without_memory_fails_and_leaks_nothing(void **state)
{
    const comm_reducer_options options = {.n_elems = 100, .bucket_elems = 32, .n_replicas = 5};
    pair p = open_pair();
    comm *single = open_single(&p);
    cvy_alloc_counts before, after;
    int n_failed = 0;
    (void)state;

    cvy_alloc_count(&before);
    test_log_expect("reduction of 100 floats, 5 replicas on 1 workers");
    for (int64_t k = 0;; k++) {
        comm_reducer *r = NULL;
        cvy_alloc_fail_at(k);
        const cvy_status status = comm_reducer_create(single, &options, soon(), &r);
        cvy_alloc_fail_at(-1);
        if (status == CVY_OK) {
            comm_reducer_destroy(&r);
            break;
        }
        assert_status(status, CVY_ERR_NO_MEMORY);
        assert_null(r);
        n_failed++;
    }
    assert_true(n_failed >= 9);
    cvy_alloc_count(&after);
    assert_int_equal(after.n_live, before.n_live);
    comm_close(&single);
    close_pair(&p);
}

static void message_without_memory_fails_and_the_next_one_comes_through(void **state)
{
    pair p = open_pair();
    comm_message got;
    int has = 0;
    (void)state;

    test_log_expect("message 3 of 9 bytes to rank 1");
    cvy_alloc_fail_at(0);
    assert_status(comm_send(p.coordinator, 1, 3, "a letter", 9), CVY_ERR_NO_MEMORY);
    assert_ok(comm_send(p.coordinator, 1, 3, "a letter", 9));
    test_log_expect("message of 9 bytes from rank 0");
    cvy_alloc_fail_at(0);
    assert_status(comm_receive(p.worker, &got, &has), CVY_ERR_NO_MEMORY);
    cvy_alloc_fail_at(-1);
    assert_ok(comm_receive(p.worker, &got, &has));
    assert_true(has);
    assert_string_equal(got.payload, "a letter");
    close_pair(&p);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(pair_has_ranks_and_places),
        cvy_unit_test(messages_keep_order_kind_and_size),
        cvy_unit_test(messages_outlive_their_sender),
        cvy_unit_test(messages_beyond_the_limits_fail),
        cvy_unit_test(heartbeats_do_not_allocate_once_warm),
        cvy_unit_test(pulse_beats_when_due_and_when_the_deadline_changes),
        cvy_unit_test(collectives_join_two_threads),
        cvy_unit_test(absent_peer_is_lost_at_the_deadline),
        cvy_unit_test(idle_function_ends_a_wait),
        cvy_unit_test(one_worker_sums_its_replicas_without_allocating),
        cvy_unit_test(single_replica_is_its_own_sum),
        cvy_unit_test(impossible_reductions_are_refused),
        cvy_unit_test(opening_without_memory_fails_and_leaks_nothing),
        cvy_unit_test(reduction_without_memory_fails_and_leaks_nothing),
        cvy_unit_test(message_without_memory_fails_and_the_next_one_comes_through),
    };
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
