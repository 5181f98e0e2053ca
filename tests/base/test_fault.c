#include "base/fault.h"

#include "tests/support/test_support.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void open_with(const char *text, int rank)
{
    if (text == NULL) {
        assert_int_equal(unsetenv("CONVOY_FAULT"), 0);
    } else {
        assert_int_equal(setenv("CONVOY_FAULT", text, 1), 0);
    }
    cvy_fault_open(rank);
}

static int errno_at(const char *point, int64_t step)
{
    int errno_value = 0;

    return cvy_fault_at(point, step, &errno_value) == CVY_FAULT_ERRNO ? errno_value : 0;
}

static void point_without_the_variable_does_nothing(void **state)
{
    (void)state;
    open_with(NULL, 0);
    assert_int_equal(cvy_fault_at("step.loss", 3, NULL), CVY_FAULT_NONE);
    open_with("", 0);
    assert_int_equal(cvy_fault_at("step.loss", 3, NULL), CVY_FAULT_NONE);
}

static void point_fires_once_at_its_first_pass(void **state)
{
    (void)state;
    open_with("a=nan", 0);
    assert_int_equal(cvy_fault_at("b", 0, NULL), CVY_FAULT_NONE);
    assert_int_equal(cvy_fault_at("a", 0, NULL), CVY_FAULT_NAN);
    assert_int_equal(cvy_fault_at("a", 1, NULL), CVY_FAULT_NONE);
}

static void count_step_and_rank_narrow_where_it_fires(void **state)
{
    (void)state;
    open_with("a:count=3=eio", 0);
    assert_int_equal(errno_at("a", -1), 0);
    assert_int_equal(errno_at("a", -1), 0);
    assert_int_equal(errno_at("a", -1), EIO);
    assert_int_equal(errno_at("a", -1), 0);

    open_with("a:step=5=enospc,b:rank=1=flip,c:rank=0:step=2:count=2=flip", 0);
    assert_int_equal(errno_at("a", 4), 0);
    assert_int_equal(errno_at("a", 5), ENOSPC);
    assert_int_equal(cvy_fault_at("b", 0, NULL), CVY_FAULT_NONE);
    assert_int_equal(cvy_fault_at("c", 2, NULL), CVY_FAULT_NONE);
    assert_int_equal(cvy_fault_at("c", 3, NULL), CVY_FAULT_NONE);
    assert_int_equal(cvy_fault_at("c", 2, NULL), CVY_FAULT_FLIP);

    open_with("b:rank=1=flip", 1);
    assert_int_equal(cvy_fault_at("b", 0, NULL), CVY_FAULT_FLIP);
}

static void attempt_is_compared_with_the_supervisors_count(void **state)
{
    (void)state;
    assert_int_equal(setenv("CONVOY_ATTEMPT", "2", 1), 0);
    open_with("a:attempt=1=nan,b:attempt=2=nan", 0);
    assert_int_equal(unsetenv("CONVOY_ATTEMPT"), 0);
    assert_int_equal(cvy_fault_at("a", 0, NULL), CVY_FAULT_NONE);
    assert_int_equal(cvy_fault_at("b", 0, NULL), CVY_FAULT_NAN);
}

static void two_entries_of_one_point_fire_each_in_turn(void **state)
{
    (void)state;
    open_with("a=eio,a:count=2=enospc", 0);
    assert_int_equal(errno_at("a", -1), EIO);
    assert_int_equal(errno_at("a", -1), ENOSPC);
    assert_int_equal(errno_at("a", -1), 0);
}

static void wrong_entry_is_warned_about_and_the_others_count(void **state)
{
    static const char *const wrong[] = {
        "a", "a=explode", "=nan", ":step=1=nan", "a:when=1=nan", "a:step=x=nan", "a:count=0=nan"};
    char text[100];
    char warning[100];

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        snprintf(text, sizeof text, "%s,good=nan", wrong[i]);
        snprintf(warning, sizeof warning, "'%s' is ignored", wrong[i]);
        test_log_expect(warning);
        open_with(text, 0);
        assert_int_equal(cvy_fault_at("a", 1, NULL), CVY_FAULT_NONE);
        assert_int_equal(cvy_fault_at("good", 1, NULL), CVY_FAULT_NAN);
    }
}

static void too_many_entries_and_too_long_text_are_warned_about(void **state)
{
    char many[200] = "";
    char longest[2000];

    (void)state;
    for (size_t i = 0; i < 20; i++) memcpy(many + 6 * i, "a=nan,", 7);
    test_log_expect("more than 16 entries");
    open_with(many, 0);
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    test_log_expect("CONVOY_FAULT has 1999 characters");
    open_with(longest, 0);
    assert_int_equal(cvy_fault_at("a", 1, NULL), CVY_FAULT_NONE);
}

/* Pass the point in a child and give its wait status, as soon as it ends or stops. */
static int pass_in_child(const char *text, pid_t *out_child)
{
    const struct rlimit no_core = {0};
    int wait_status = 0;

    open_with(text, 0);
    const pid_t child = fork();
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGSEGV, SIG_DFL); /* sanitizers catch it, cmocka too */
        cvy_fault_at("a", 0, NULL);
        _exit(42);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &wait_status, WUNTRACED), child);
    *out_child = child;
    return wait_status;
}

static void kill_segv_and_exit_end_the_process(void **state)
{
    pid_t child = 0;

    (void)state;
    int wait_status = pass_in_child("a=kill", &child);
    assert_true(WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGKILL);
    wait_status = pass_in_child("a=segv", &child);
    assert_true(WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGSEGV);
    wait_status = pass_in_child("a=exit", &child);
    assert_true(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 1);
    wait_status = pass_in_child("a:step=1=exit", &child);
    assert_true(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 42);
}

static void stop_waits_for_sigcont_and_goes_on(void **state)
{
    pid_t child = 0;

    (void)state;
    int wait_status = pass_in_child("a=stop", &child);
    assert_true(WIFSTOPPED(wait_status) && WSTOPSIG(wait_status) == SIGSTOP);
    assert_int_equal(kill(child, SIGCONT), 0);
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_true(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 42);
}

/* Were the point to return, the child would exit with 42 before its alarm ends it. */
static void hang_never_returns(void **state)
{
    int wait_status = 0;

    (void)state;
    open_with("a=hang", 0);
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGALRM, SIG_DFL);
        ualarm(50000, 0);
        cvy_fault_at("a", 0, NULL);
        _exit(42);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_true(WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGALRM);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(point_without_the_variable_does_nothing),
        cvy_unit_test(point_fires_once_at_its_first_pass),
        cvy_unit_test(count_step_and_rank_narrow_where_it_fires),
        cvy_unit_test(attempt_is_compared_with_the_supervisors_count),
        cvy_unit_test(two_entries_of_one_point_fire_each_in_turn),
        cvy_unit_test(wrong_entry_is_warned_about_and_the_others_count),
        cvy_unit_test(too_many_entries_and_too_long_text_are_warned_about),
        cvy_unit_test(kill_segv_and_exit_end_the_process),
        cvy_unit_test(stop_waits_for_sigcont_and_goes_on),
        cvy_unit_test(hang_never_returns),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
