#include "base/alloc.h"
#include "comm/watchdog.h"
#include "tests/support/test_support.h"

/* Three workers, ranks 1 to 3, all on given times. */
enum { N_RANKS = 4 };

static const comm_watchdog_options fixed = {
    .n_ranks = N_RANKS, .step_s = 4, .start_s = 60, .evaluate_s = 20, .save_s = 30};

static comm_watchdog *make(const comm_watchdog_options *options, double now_s)
{
    comm_watchdog *w = NULL;
    assert_ok(comm_watchdog_create(options, now_s, &w));
    return w;
}

static void hear(comm_watchdog *w, int rank, comm_phase phase, int64_t step, double now_s)
{
    const comm_heartbeat beat = {
        .phase = (int32_t)phase, .step_s = step > 0 ? 0.5f : 0, .step = step, .n_progress = step};
    comm_watchdog_hear(w, rank, &beat, now_s);
}

/* A watchdog in training: all ranks are past step 1 and heard at time 0. */
static comm_watchdog *make_training(const comm_watchdog_options *options)
{
    comm_watchdog *w = make(options, 0);
    comm_watchdog_expect(w, COMM_PHASE_FORWARD, 0);
    for (int rank = 1; rank < N_RANKS; rank++) hear(w, rank, COMM_PHASE_FORWARD, 1, 0);
    return w;
}

/* Look every 0.1 s, hearing each rank but the silent one every second, in its given phase and
 * without progress; the time at which a rank is past its deadline, or until_s. */
static double run(comm_watchdog *w, const comm_phase phases[N_RANKS], int64_t step, int silent,
                  double until_s, comm_silent *out)
{
    for (int i = 1; i <= (int)(until_s * 10 + 0.5); i++) {
        const double now_s = i * 0.1;
        for (int rank = 1; rank < N_RANKS; rank++) {
            if (rank != silent && i % 10 == rank) hear(w, rank, phases[rank], step, now_s);
        }
        if (comm_watchdog_check(w, now_s, out)) return now_s;
    }
    return until_s;
}

static const comm_phase all_reduce[N_RANKS] = {COMM_PHASE_START, COMM_PHASE_REDUCE,
                                               COMM_PHASE_REDUCE, COMM_PHASE_REDUCE};

static void ranks_that_move_raise_no_alarm(void **state)
{
    comm_watchdog *w = make_training(&fixed);
    comm_silent silent;
    (void)state;

    for (int i = 1; i < 3000; i++) {
        const double now_s = i * 0.1;
        for (int rank = 1; rank < N_RANKS; rank++) {
            if (i % 10 == rank) hear(w, rank, COMM_PHASE_REDUCE, i, now_s);
        }
        assert_false(comm_watchdog_check(w, now_s, &silent));
    }
    comm_watchdog_destroy(&w);
    assert_null(w);
}

static void silent_rank_is_named_after_the_deadline(void **state)
{
    comm_watchdog *w = make_training(&fixed);
    comm_silent silent = {0};
    (void)state;

    const double at_s = run(w, all_reduce, 1, 2, 100, &silent);
    assert_true(at_s > 4 && at_s < 4.3);
    assert_int_equal(silent.rank, 2);
    assert_false(silent.is_stuck);
    assert_int_equal(silent.phase, COMM_PHASE_FORWARD);
    assert_int_equal(silent.step, 1);
    assert_true(silent.silent_s > 4 && silent.silent_s < 4.3);
    comm_watchdog_destroy(&w);
}

static void longest_silent_of_two_is_named(void **state)
{
    comm_watchdog *w = make_training(&fixed);
    comm_silent silent = {0};
    (void)state;

    hear(w, 1, COMM_PHASE_DATA, 1, 1.0);
    hear(w, 3, COMM_PHASE_DATA, 1, 1.5);
    hear(w, 2, COMM_PHASE_DATA, 1, 1.5);
    assert_false(comm_watchdog_check(w, 3.0, &silent));
    hear(w, 2, COMM_PHASE_DATA, 2, 4.5);
    assert_false(comm_watchdog_check(w, 4.9, &silent));
    assert_true(comm_watchdog_check(w, 5.6, &silent));
    assert_int_equal(silent.rank, 1);
    comm_watchdog_destroy(&w);
}

static void rank_that_holds_up_all_others_is_named_as_stuck(void **state)
{
    static const comm_phase working[] = {COMM_PHASE_DATA, COMM_PHASE_FORWARD, COMM_PHASE_BACKWARD};
    (void)state;

    for (size_t i = 0; i < sizeof working / sizeof working[0]; i++) {
        for (int late = 1; late < N_RANKS; late++) {
            comm_watchdog *w = make_training(&fixed);
            comm_phase phases[N_RANKS] = {0};
            comm_silent silent = {0};
            for (int rank = 1; rank < N_RANKS; rank++)
                phases[rank] = rank % 2 ? COMM_PHASE_REDUCE : COMM_PHASE_UPDATE;
            phases[late] = working[i];
            const double at_s = run(w, phases, 1, 0, 100, &silent);
            assert_true(at_s > 4 && at_s < 4.3);
            assert_int_equal(silent.rank, late);
            assert_true(silent.is_stuck);
            assert_int_equal(silent.phase, working[i]);
            comm_watchdog_destroy(&w);
        }
    }
}

static void idle_rank_among_waiting_ones_is_named(void **state)
{
    const comm_phase phases[N_RANKS] = {COMM_PHASE_START, COMM_PHASE_REDUCE, COMM_PHASE_IDLE,
                                        COMM_PHASE_REDUCE};
    comm_watchdog *w = make_training(&fixed);
    comm_silent silent = {0};
    (void)state;

    (void)run(w, phases, 1, 0, 100, &silent);
    assert_int_equal(silent.rank, 2);
    assert_true(silent.is_stuck);
    comm_watchdog_destroy(&w);
}

static void rank_a_step_behind_is_named_when_all_wait(void **state)
{
    comm_watchdog *w = make_training(&fixed);
    comm_silent silent = {0};
    (void)state;

    /* The link between workers is cut: all speak, none moves, rank 3 did not finish step 6. */
    for (int i = 1; i < 6; i++) {
        const double now_s = i;
        hear(w, 1, COMM_PHASE_REDUCE, 7, now_s);
        hear(w, 2, COMM_PHASE_REDUCE, 7, now_s);
        hear(w, 3, COMM_PHASE_UPDATE, 6, now_s);
        if (comm_watchdog_check(w, now_s + 0.1, &silent)) break;
    }
    assert_int_equal(silent.rank, 3);
    assert_true(silent.is_stuck);
    comm_watchdog_destroy(&w);
}

static void stopped_rank_is_named_as_silent_not_as_stuck(void **state)
{
    comm_watchdog *w = make_training(&fixed);
    comm_silent silent = {0};
    (void)state;

    /* Its last word was that it waited, as the others do now; no progress is older than its
     * silence. */
    hear(w, 2, COMM_PHASE_REDUCE, 1, 0.8);
    assert_true(run(w, all_reduce, 1, 2, 100, &silent) < 5);
    assert_int_equal(silent.rank, 2);
    assert_false(silent.is_stuck);
    comm_watchdog_destroy(&w);
}

static void phases_have_their_own_deadlines(void **state)
{
    static const struct {
        comm_phase expected, phase;
        double limit_s;
    } cases[] = {
        {COMM_PHASE_START, COMM_PHASE_START, 60},       {COMM_PHASE_RESUME, COMM_PHASE_RESUME, 60},
        {COMM_PHASE_EVALUATE, COMM_PHASE_EVALUATE, 20}, {COMM_PHASE_IDLE, COMM_PHASE_IDLE, 4},
        {COMM_PHASE_IDLE, COMM_PHASE_SNAPSHOT, 30},     {COMM_PHASE_FORWARD, COMM_PHASE_DATA, 4},
        {COMM_PHASE_FORWARD, COMM_PHASE_SNAPSHOT, 30},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        comm_watchdog *w = make_training(&fixed);
        comm_silent silent = {0};
        comm_watchdog_expect(w, cases[i].expected, 0);
        hear(w, 2, cases[i].phase, 1, 0);
        const comm_phase phases[N_RANKS] = {COMM_PHASE_START, COMM_PHASE_IDLE, cases[i].phase,
                                            COMM_PHASE_IDLE};
        const double at_s = run(w, phases, 1, 2, 100, &silent);
        assert_int_equal(silent.rank, 2);
        assert_true(at_s > cases[i].limit_s && at_s < cases[i].limit_s + 0.3);
        comm_watchdog_destroy(&w);
    }
}

static void first_step_has_the_time_of_the_start(void **state)
{
    comm_watchdog *w = make(&fixed, 0);
    comm_silent silent = {0};
    (void)state;

    comm_watchdog_expect(w, COMM_PHASE_FORWARD, 0);
    const comm_phase phases[N_RANKS] = {COMM_PHASE_START, COMM_PHASE_REDUCE, COMM_PHASE_FORWARD,
                                        COMM_PHASE_REDUCE};
    const double at_s = run(w, phases, 0, 0, 100, &silent);
    assert_true(at_s > 60 && at_s < 61);
    assert_int_equal(silent.rank, 2);
    comm_watchdog_destroy(&w);
}

static void rank_that_never_leaves_the_start_is_named(void **state)
{
    comm_watchdog *w = make(&fixed, 0);
    comm_silent silent = {0};
    (void)state;

    const comm_phase phases[N_RANKS] = {COMM_PHASE_START, COMM_PHASE_IDLE, COMM_PHASE_IDLE,
                                        COMM_PHASE_START};
    const double at_s = run(w, phases, 0, 0, 100, &silent);
    assert_true(at_s > 60 && at_s < 61);
    assert_int_equal(silent.rank, 3);
    assert_true(silent.is_stuck);
    comm_watchdog_destroy(&w);
}

static void rank_stuck_alone_in_an_evaluation_is_named(void **state)
{
    comm_watchdog *w = make_training(&fixed);
    comm_silent silent = {0};
    double at_s = 0;
    (void)state;

    comm_watchdog_expect(w, COMM_PHASE_EVALUATE, 0);
    for (int i = 1; i < 1000; i++) {
        at_s = i * 0.1;
        if (i % 10 == 0) {
            hear(w, 1, COMM_PHASE_IDLE, 1, at_s);     /* done already */
            hear(w, 2, COMM_PHASE_EVALUATE, 1, at_s); /* does not move */
            hear(w, 3, COMM_PHASE_EVALUATE, i, at_s); /* moves */
        }
        if (comm_watchdog_check(w, at_s, &silent)) break;
    }
    assert_true(at_s > 20 && at_s < 20.3);
    assert_int_equal(silent.rank, 2);
    assert_true(silent.is_stuck);
    comm_watchdog_destroy(&w);
}

static void idle_ranks_owe_heartbeats_only(void **state)
{
    const comm_phase phases[N_RANKS] = {COMM_PHASE_START, COMM_PHASE_IDLE, COMM_PHASE_IDLE,
                                        COMM_PHASE_IDLE};
    comm_watchdog *w = make_training(&fixed);
    comm_silent silent = {0};
    (void)state;

    comm_watchdog_expect(w, COMM_PHASE_IDLE, 0);
    assert_true(run(w, phases, 1, 0, 200, &silent) >= 200);
    comm_watchdog_destroy(&w);
}

static void pause_of_the_watcher_restarts_all_clocks(void **state)
{
    comm_watchdog *w = make_training(&fixed);
    comm_silent silent = {0};
    (void)state;

    assert_false(comm_watchdog_check(w, 1, &silent));
    assert_false(comm_watchdog_check(w, 500, &silent));
    assert_false(comm_watchdog_check(w, 502, &silent));
    /* And when it is a message that is seen first. */
    hear(w, 1, COMM_PHASE_FORWARD, 1, 900);
    assert_false(comm_watchdog_check(w, 900.1, &silent));
    assert_false(comm_watchdog_check(w, 902, &silent));
    assert_false(comm_watchdog_check(w, 903.9, &silent));
    assert_true(comm_watchdog_check(w, 904.2, &silent));
    comm_watchdog_destroy(&w);
}

static void automatic_deadline_follows_the_slowest_of_the_last_100_steps(void **state)
{
    const comm_watchdog_options automatic = {.n_ranks = N_RANKS, .start_s = 60};
    comm_watchdog *w = make(&automatic, 0);
    comm_heartbeat beat = {.phase = COMM_PHASE_FORWARD};
    (void)state;

    assert_float_equal(comm_watchdog_deadline_s(w), 10, 1e-9);
    for (int64_t step = 1; step <= 250; step++) {
        beat.step = beat.n_progress = step;
        beat.step_s = step == 50 ? 8.0f : 1.5f;
        comm_watchdog_hear(w, 1, &beat, (double)step);
        beat.step_s = 1.0f; /* another rank's shorter time of the same step changes nothing */
        comm_watchdog_hear(w, 2, &beat, (double)step);
        const double expected_s = step >= 50 && step < 150 ? 40 : 10;
        assert_float_equal(comm_watchdog_deadline_s(w), expected_s, 1e-9);
    }
    beat.step = 251;
    beat.step_s = 3.0f;
    comm_watchdog_hear(w, 3, &beat, 251);
    assert_float_equal(comm_watchdog_deadline_s(w), 15, 1e-6);
    comm_watchdog_destroy(&w);
}

static void last_heartbeat_is_kept_per_rank(void **state)
{
    comm_watchdog *w = make(&fixed, 0);
    const comm_heartbeat beat = {.phase = COMM_PHASE_DATA, .busy_s = 2.5f};
    (void)state;

    assert_null(comm_watchdog_last(w, 1));
    comm_watchdog_hear(w, 1, NULL, 1); /* another message */
    assert_null(comm_watchdog_last(w, 1));
    comm_watchdog_hear(w, 1, &beat, 1);
    assert_float_equal(comm_watchdog_last(w, 1)->busy_s, 2.5, 1e-9);
    assert_null(comm_watchdog_last(w, 2));
    comm_watchdog_hear(w, 0, &beat, 1);
    comm_watchdog_hear(w, N_RANKS, &beat, 1);
    assert_null(comm_watchdog_last(w, 0));
    assert_null(comm_watchdog_last(w, N_RANKS));
    comm_watchdog_destroy(&w);
}

static void creation_without_memory_fails_and_leaks_nothing(void **state)
{
    cvy_alloc_counts before, after;
    comm_watchdog *w = NULL;
    int n_failed = 0;
    (void)state;

    cvy_alloc_count(&before);
    for (int64_t k = 0;; k++) {
        cvy_alloc_fail_at(k);
        test_log_expect("watchdog over");
        const cvy_status status = comm_watchdog_create(&fixed, 0, &w);
        cvy_alloc_fail_at(-1);
        if (status == CVY_OK) break;
        assert_status(status, CVY_ERR_NO_MEMORY);
        assert_null(w);
        n_failed++;
    }
    assert_int_equal(n_failed, 2);
    comm_watchdog_destroy(&w);
    cvy_alloc_count(&after);
    assert_int_equal(after.n_live, before.n_live);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(ranks_that_move_raise_no_alarm),
        cvy_unit_test(silent_rank_is_named_after_the_deadline),
        cvy_unit_test(longest_silent_of_two_is_named),
        cvy_unit_test(rank_that_holds_up_all_others_is_named_as_stuck),
        cvy_unit_test(idle_rank_among_waiting_ones_is_named),
        cvy_unit_test(rank_a_step_behind_is_named_when_all_wait),
        cvy_unit_test(stopped_rank_is_named_as_silent_not_as_stuck),
        cvy_unit_test(phases_have_their_own_deadlines),
        cvy_unit_test(first_step_has_the_time_of_the_start),
        cvy_unit_test(rank_that_never_leaves_the_start_is_named),
        cvy_unit_test(rank_stuck_alone_in_an_evaluation_is_named),
        cvy_unit_test(idle_ranks_owe_heartbeats_only),
        cvy_unit_test(pause_of_the_watcher_restarts_all_clocks),
        cvy_unit_test(automatic_deadline_follows_the_slowest_of_the_last_100_steps),
        cvy_unit_test(last_heartbeat_is_kept_per_rank),
        cvy_unit_test(creation_without_memory_fails_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
