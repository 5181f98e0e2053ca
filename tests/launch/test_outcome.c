#include "base/file.h"
#include "launch/outcome.h"
#include "tests/support/test_support.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Wait statuses as waitpid() gives them. */
#define EXITED(code)      ((code) << 8)
#define SIGNALLED(number) (number)

static launch_ending ending_of(launch_outcome_kind kind, cvy_status status, int wait_status)
{
    return (launch_ending){.wait_status = wait_status,
                           .has_begun = 1,
                           .outcome = {.kind = kind, .status = status, .step = 7}};
}

static void written_outcome_is_read_back(void **state)
{
    const launch_outcome told[] = {{LAUNCH_OUTCOME_FINISHED, CVY_OK, 1200},
                                   {LAUNCH_OUTCOME_STOPPED, CVY_ERR_STOPPED, 3},
                                   {LAUNCH_OUTCOME_FAILED, CVY_ERR_BAD_DATA, 0}};
    char path[512];
    launch_outcome got;

    (void)state;
    snprintf(path, sizeof path, "%s/outcome", test_folder());
    assert_ok(cvy_file_replace(path, "", 0));
    launch_outcome_read(path, &got);
    assert_int_equal(got.kind, LAUNCH_OUTCOME_NONE);
    assert_int_equal(setenv("CONVOY_OUTCOME", path, 1), 0);
    for (size_t i = 0; i < sizeof told / sizeof told[0]; i++) {
        launch_outcome_write(&told[i]); /* the last one counts */
        launch_outcome_read(path, &got);
        assert_int_equal(got.kind, told[i].kind);
        assert_int_equal(got.status, told[i].status);
        assert_int_equal(got.step, told[i].step);
    }
    assert_int_equal(unsetenv("CONVOY_OUTCOME"), 0);
}

static void nothing_is_made_where_no_supervisor_made_it(void **state)
{
    const launch_outcome told = {LAUNCH_OUTCOME_FINISHED, CVY_OK, 1};
    char path[512];

    (void)state;
    snprintf(path, sizeof path, "%s/none", test_folder());
    launch_outcome_write(&told); /* no variable */
    assert_int_equal(setenv("CONVOY_OUTCOME", path, 1), 0);
    launch_outcome_write(&told); /* no file */
    assert_int_equal(unsetenv("CONVOY_OUTCOME"), 0);
    assert_int_equal(cvy_file_exists(path), 0);
}

static void damaged_outcome_counts_as_none(void **state)
{
    static const char *const texts[] = {"", "1", "1 0", "9 0 5\n", "-1 0 5\n", "done\n"};
    char path[512];
    launch_outcome got;

    (void)state;
    snprintf(path, sizeof path, "%s/damaged", test_folder());
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_ok(cvy_file_replace(path, texts[i], strlen(texts[i])));
        launch_outcome_read(path, &got);
        assert_int_equal(got.kind, LAUNCH_OUTCOME_NONE);
    }
    snprintf(path, sizeof path, "%s/nothing", test_folder());
    launch_outcome_read(path, &got);
    assert_int_equal(got.kind, LAUNCH_OUTCOME_NONE);
}

static void finished_job_ends_with_0(void **state)
{
    /* mpirun may have had to be killed after it. */
    const launch_ending told = ending_of(LAUNCH_OUTCOME_FINISHED, CVY_OK, SIGNALLED(SIGKILL));
    /* Rank 0 ran on another host, where the file is not. */
    const launch_ending untold = ending_of(LAUNCH_OUTCOME_NONE, CVY_OK, EXITED(0));

    (void)state;
    assert_int_equal(launch_ending_judge(&told, 0, 1), 0);
    assert_int_equal(launch_ending_judge(&untold, 0, 1), 0);
    assert_int_equal(launch_ending_judge(&untold, 1, 1), 0); /* the stop came too late */
}

static void stopped_job_ends_with_75(void **state)
{
    const launch_ending told = ending_of(LAUNCH_OUTCOME_STOPPED, CVY_ERR_STOPPED, EXITED(75));
    const launch_ending hasty = ending_of(LAUNCH_OUTCOME_NONE, CVY_OK, SIGNALLED(SIGUSR1));

    (void)state;
    assert_int_equal(launch_ending_judge(&told, 0, 1), 75); /* a rank was signalled */
    assert_int_equal(launch_ending_judge(&hasty, 1, 1), 75);
    assert_int_equal(launch_ending_judge(&hasty, 0, 1), LAUNCH_AGAIN);
}

static void stop_that_could_not_save_tells_so(void **state)
{
    const launch_ending told = ending_of(LAUNCH_OUTCOME_FAILED, CVY_ERR_CANNOT_WRITE, EXITED(73));

    (void)state;
    assert_int_equal(launch_ending_judge(&told, 1, 1), 73);
}

static void every_status_is_final_or_tried_again(void **state)
{
    static const struct {
        cvy_status status;
        int code;
    } cases[] = {
        {CVY_ERR_USAGE, 64},
        {CVY_ERR_BAD_DATA, 65},
        {CVY_ERR_NOT_FOUND, 66},
        {CVY_ERR_UNAVAILABLE, 69},
        {CVY_ERR_INTERNAL, 70},
        {CVY_ERR_NO_MEMORY, 71},
        {CVY_ERR_OS, 71},
        {CVY_ERR_CANNOT_WRITE, 73},
        {CVY_ERR_NUMERIC, 76},
        {CVY_ERR_PERMISSION, 77},
        {CVY_ERR_CONFIG, 78},
        {CVY_ERR_IO, LAUNCH_AGAIN},
        {CVY_ERR_PEER_LOST, LAUNCH_AGAIN},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int code = cvy_status_exit_code(cases[i].status);
        const launch_ending told = ending_of(LAUNCH_OUTCOME_FAILED, cases[i].status, EXITED(1));
        const launch_ending untold = ending_of(LAUNCH_OUTCOME_NONE, CVY_OK, EXITED(code));
        assert_int_equal(launch_ending_judge(&told, 0, 1), cases[i].code);
        assert_int_equal(launch_ending_judge(&untold, 0, 1), cases[i].code);
        /* An evaluation has nothing to go on from. */
        assert_int_equal(launch_ending_judge(&told, 0, 0), code);
    }
}

static void death_is_tried_again_if_the_job_can_go_on(void **state)
{
    static const int deaths[] = {SIGNALLED(SIGKILL), SIGNALLED(SIGSEGV), EXITED(137),
                                 EXITED(139),        EXITED(205),        EXITED(1)};

    (void)state;
    for (size_t i = 0; i < sizeof deaths / sizeof deaths[0]; i++) {
        const launch_ending dead = ending_of(LAUNCH_OUTCOME_NONE, CVY_OK, deaths[i]);
        assert_int_equal(launch_ending_judge(&dead, 0, 1), LAUNCH_AGAIN);
        assert_int_equal(launch_ending_judge(&dead, 0, 0), 75);
    }
}

static void mpirun_that_starts_nothing_is_not_tried_again(void **state)
{
    launch_ending refused = ending_of(LAUNCH_OUTCOME_NONE, CVY_OK, EXITED(1));
    char how[160];

    (void)state;
    refused.has_begun = 0;
    assert_int_equal(launch_ending_judge(&refused, 0, 1), 69);
    launch_ending_describe(&refused, how, sizeof how);
    assert_string_equal(how, "mpirun started no rank");
}

static void endings_are_described_for_people(void **state)
{
    launch_ending hung = ending_of(LAUNCH_OUTCOME_NONE, CVY_OK, SIGNALLED(SIGKILL));
    const launch_ending failed = ending_of(LAUNCH_OUTCOME_FAILED, CVY_ERR_PEER_LOST, EXITED(75));
    const launch_ending killed = ending_of(LAUNCH_OUTCOME_NONE, CVY_OK, SIGNALLED(SIGKILL));
    const launch_ending rank = ending_of(LAUNCH_OUTCOME_NONE, CVY_OK, EXITED(139));
    const launch_ending mute = ending_of(LAUNCH_OUTCOME_NONE, CVY_OK, EXITED(205));
    char how[160];

    (void)state;
    hung.was_killed = 1;
    launch_ending_describe(&hung, how, sizeof how);
    assert_string_equal(how, "a rank died and the rest could not go on");
    hung.has_dead_rank = 1;
    hung.dead_rank = 2;
    launch_ending_describe(&hung, how, sizeof how);
    assert_string_equal(how, "rank 2 died and the rest could not go on");
    launch_ending_describe(&failed, how, sizeof how);
    assert_string_equal(how, "peer lost at step 7");
    launch_ending_describe(&killed, how, sizeof how);
    assert_string_equal(how, "signal 9 (Killed)");
    launch_ending_describe(&rank, how, sizeof how);
    assert_string_equal(how, "a rank died of signal 11 (Segmentation fault)");
    launch_ending_describe(&mute, how, sizeof how);
    assert_string_equal(how, "exit code 205 without a word of rank 0");
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(written_outcome_is_read_back),
    cvy_unit_test(nothing_is_made_where_no_supervisor_made_it),
    cvy_unit_test(damaged_outcome_counts_as_none),
    cvy_unit_test(finished_job_ends_with_0),
    cvy_unit_test(stopped_job_ends_with_75),
    cvy_unit_test(stop_that_could_not_save_tells_so),
    cvy_unit_test(every_status_is_final_or_tried_again),
    cvy_unit_test(death_is_tried_again_if_the_job_can_go_on),
    cvy_unit_test(mpirun_that_starts_nothing_is_not_tried_again),
    cvy_unit_test(endings_are_described_for_people),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
