#include "coordinator/checkpoints.h"

#include "tests/coordinator/checkpoint_support.h"

#include "base/fault.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

static void inject(const char *text)
{
    assert_int_equal(setenv("CONVOY_FAULT", text, 1), 0);
    cvy_fault_open(0);
}

static void stop_injecting(void)
{
    assert_int_equal(unsetenv("CONVOY_FAULT"), 0);
    cvy_fault_open(0);
}

/* --- Failing disks --------------------------------------------------------------------------- */

/* Publish step with one fault; whatever comes of it, what stands is whole and the newest is old or
 * new. Returns 0 when the fault no longer fires: all calls have been through it. */
static int publish_with_fault(const char *run, coordinator_checkpoints *c, int64_t step,
                              const char *fault)
{
    const char *folder = NULL;
    coordinator_state written;
    const int64_t old = newest_of(c);

    assert_ok(coordinator_checkpoints_begin(c, step, &folder));
    assert_ok(fill(folder, step, &written));
    inject(fault);
    (void)test_log_reset(NULL);
    cvy_log_soften(1);
    const cvy_status status = coordinator_checkpoints_publish(c, &written);
    cvy_log_soften(-1);
    stop_injecting();
    const int has_fired = test_log_saw("fault point");
    if (status != CVY_OK) {
        assert_true(has_fired);
        assert_true(test_log_saw(run)); /* it names the file */
        assert_true(test_log_saw("Input/output error") || test_log_saw("No space left"));
    }
    (void)test_log_reset(NULL);
    /* The step is there when publish says so. When it says no it may be there too: a rename whose
     * folder could not be synced. */
    const int64_t now = newest_of(c);
    assert_true(status == CVY_OK ? now == step : now == old || now == step);
    assert_true(count_whole(run) >= 2);
    assert_int_equal(count_entries(path_in(run, "checkpoints"), ".tmp-"), 0);
    return has_fired;
}

static void fault_at_any_call_never_costs_a_checkpoint(void **state)
{
    (void)state;
    static const char *const points[] = {"file.write", "file.fsync", "file.rename"};
    char fault[64];

    for (int i = 0; i < 3; i++) {
        const char *run = test_folder();
        coordinator_checkpoints *c = open_run(run, 2);
        int64_t step = 0;
        int n_fired = 0;
        assert_ok(save(c, ++step));
        assert_ok(save(c, ++step));
        for (int k = 1;; k++) {
            snprintf(fault, sizeof fault, "%s:count=%d=%s", points[i], k, k % 2 ? "eio" : "enospc");
            if (!publish_with_fault(run, c, ++step, fault)) break;
            n_fired++;
        }
        assert_true(n_fired >= 2);
        assert_ok(save(c, ++step));
        assert_int_equal(newest_of(c), step);
        assert_int_equal(count_whole(run), 2);
        coordinator_checkpoints_close(&c);
    }
}

static void fault_while_a_step_is_replaced_keeps_the_one_that_stands(void **state)
{
    (void)state;
    static const char *const points[] = {"file.write", "file.fsync", "file.rename"};
    char fault[64];
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 2);

    assert_ok(save(c, 1));
    assert_ok(save(c, 2));
    for (int i = 0; i < 3; i++) {
        for (int k = 1;; k++) {
            snprintf(fault, sizeof fault, "%s:count=%d=eio", points[i], k);
            if (!publish_with_fault(run, c, 2, fault)) break;
        }
    }
    assert_int_equal(newest_of(c), 2);
    coordinator_checkpoints_close(&c);
}

static void damaged_write_is_not_published(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 2);
    const char *folder = NULL;
    coordinator_state written;

    assert_ok(save(c, 1));
    assert_ok(coordinator_checkpoints_begin(c, 2, &folder));
    assert_ok(fill(folder, 2, &written));
    flip_byte(path_in(folder, "model.safetensors"), 1);
    test_log_expect("reads back wrong: model.safetensors: tensor 'layer2.weight'");
    assert_status(coordinator_checkpoints_publish(c, &written), CVY_ERR_IO);
    assert_false(cvy_file_exists(step_path(run, 2)));
    assert_int_equal(newest_of(c), 1);
    coordinator_checkpoints_close(&c);
}

/* --- Death ----------------------------------------------------------------------------------- */

/* A trainer in a process of its own that saves step after step. */
static void publish_and_exit(const char *run, int64_t first, int64_t last)
{
    coordinator_checkpoints *c = NULL;

    cvy_log_set_sink(NULL, NULL);
    cvy_log_open(CVY_LOG_ERROR, -1);
    if (coordinator_checkpoints_open(run, 2, &c) != CVY_OK) _exit(2);
    for (int64_t step = first; step <= last; step++)
        if (save(c, step) != CVY_OK) _exit(3);
    coordinator_checkpoints_close(&c);
    _exit(0);
}

static int wait_for(pid_t child)
{
    int status = 0;

    while (waitpid(child, &status, 0) < 0) assert_int_equal(errno, EINTR);
    return status;
}

static void death_at_any_call_leaves_old_or_new(void **state)
{
    (void)state;
    static const char *const points[] = {"file.write", "file.fsync", "file.rename"};
    char fault[64];

    for (int i = 0; i < 3; i++) {
        const char *run = test_folder();
        coordinator_checkpoints *c = open_run(run, 2);
        int64_t step = 3;
        int status = 1;
        for (int64_t first = 1; first <= 3; first++) assert_ok(save(c, first));
        coordinator_checkpoints_close(&c);
        for (int k = 1; status != 0; k++) {
            snprintf(fault, sizeof fault, "%s:count=%d=kill", points[i], k);
            const pid_t child = fork();
            assert_true(child >= 0);
            if (child == 0) {
                inject(fault);
                publish_and_exit(run, step + 1, step + 1);
            }
            status = wait_for(child);
            assert_true(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
            c = open_run(run, 2);
            const int64_t now = newest_of(c);
            assert_true(now == step || now == step + 1);
            assert_true(status != 0 || now == step + 1);
            assert_true(count_whole(run) >= 2);
            assert_int_equal(count_entries(path_in(run, "checkpoints"), ".t"), 0);
            step = now;
            coordinator_checkpoints_close(&c);
        }
    }
}

static void death_at_any_time_leaves_old_or_new(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 2);
    int64_t last = 2;

    assert_ok(save(c, 1));
    assert_ok(save(c, 2));
    coordinator_checkpoints_close(&c);
    uint64_t word = 20260301;
    for (int i = 0; i < 15; i++) {
        word = word * 6364136223846793005u + 1442695040888963407u;
        const struct timespec pause = {0, 1000L * (500 + (long)(word >> 33) % 12000)};
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) publish_and_exit(run, last + 1, last + 100000);
        nanosleep(&pause, NULL);
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(WTERMSIG(wait_for(child)), SIGKILL);
        c = open_run(run, 2);
        const int64_t now = newest_of(c);
        assert_true(now >= last);
        assert_true(count_whole(run) >= 2);
        last = now;
        coordinator_checkpoints_close(&c);
    }
    assert_true(last > 2);
}

/* A job that follows a run: looks for the newest checkpoint until it is of the last step. */
static void follow_and_exit(const char *run, int64_t last)
{
    int64_t seen = 0;

    cvy_log_set_sink(NULL, NULL);
    cvy_log_open(CVY_LOG_ERROR, -1);
    while (seen < last) {
        char *folder = NULL;
        coordinator_state found;
        if (coordinator_checkpoint_locate(run, &folder, &found) != CVY_OK) _exit(2);
        if (found.step < seen || found.position != 32 * found.step) _exit(3);
        seen = found.step;
        cvy_free(folder);
    }
    _exit(0);
}

static void reader_beside_a_trainer_sees_whole_checkpoints_only(void **state)
{
    (void)state;
    enum { N_STOPS = 20 };
    const struct timespec pause = {0, 300000};
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 2);
    int64_t step = 0;
    int status = 0;

    assert_ok(save(c, ++step));
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) follow_and_exit(run, 1 + 3 * N_STOPS);
    /* Halt it anywhere in its reading while all that it may have found is pruned. */
    for (int i = 0; i < N_STOPS; i++) {
        nanosleep(&pause, NULL);
        assert_int_equal(kill(child, SIGSTOP), 0);
        assert_int_equal(waitpid(child, &status, WUNTRACED), child);
        assert_true(WIFSTOPPED(status));
        for (int k = 0; k < 3; k++) assert_ok(save(c, ++step));
        assert_int_equal(kill(child, SIGCONT), 0);
    }
    assert_int_equal(wait_for(child), 0);
    assert_int_equal(newest_of(c), step);
    coordinator_checkpoints_close(&c);
}

/* --- Memory ---------------------------------------------------------------------------------- */

static cvy_status open_save_find(const char *run, int64_t step)
{
    coordinator_checkpoints *c = NULL;
    const char *folder = NULL;
    char *located = NULL;
    coordinator_state found;

    cvy_status status = coordinator_checkpoints_open(run, 2, &c);
    if (status != CVY_OK) return status;
    status = save(c, step);
    if (status == CVY_OK) status = coordinator_checkpoints_newest(c, &folder, &found);
    if (status == CVY_OK) status = coordinator_checkpoint_locate(run, &located, &found);
    cvy_free(located);
    coordinator_checkpoints_close(&c);
    return status;
}

static void failed_allocation_is_reported_without_a_leak(void **state)
{
    (void)state;
    const char *run = test_folder();
    cvy_alloc_counts before, after;
    int64_t n_failed = 0;

    assert_ok(open_save_find(run, 1));
    assert_ok(open_save_find(run, 2));
    cvy_alloc_count(&before);
    assert_ok(open_save_find(run, 3)); /* prunes, as all below do */
    cvy_alloc_count(&after);
    const int64_t n_allocations = after.n_ever - before.n_ever;
    cvy_log_soften(1);
    for (int64_t k = 0; k <= n_allocations; k++) {
        coordinator_checkpoints *c = NULL;
        cvy_alloc_fail_at(k);
        const cvy_status status = open_save_find(run, 4 + k);
        cvy_alloc_fail_at(-1);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
        (void)test_log_reset(NULL);
        /* What fails after the rename (latest, pruning) is no failure of the save. */
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        if (k == n_allocations) assert_ok(status);
        n_failed += status != CVY_OK;
        c = open_run(run, 2);
        assert_true(newest_of(c) >= 3);
        coordinator_checkpoints_close(&c);
    }
    cvy_log_soften(-1);
    assert_true(n_failed > n_allocations / 2);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(fault_at_any_call_never_costs_a_checkpoint),
    cvy_unit_test(fault_while_a_step_is_replaced_keeps_the_one_that_stands),
    cvy_unit_test(damaged_write_is_not_published),
    cvy_unit_test(death_at_any_call_leaves_old_or_new),
    cvy_unit_test(death_at_any_time_leaves_old_or_new),
    cvy_unit_test(reader_beside_a_trainer_sees_whole_checkpoints_only),
    cvy_unit_test(failed_allocation_is_reported_without_a_leak),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
