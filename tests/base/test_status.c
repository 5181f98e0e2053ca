#include "base/status.h"

#include "tests/support/test_support.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void every_status_has_its_name_text_and_exit_code(void **state)
{
    (void)state;
#define X(name, value, exit_code, text)                                                            \
    assert_int_equal(name, value);                                                                 \
    assert_string_equal(cvy_status_name(name), #name);                                             \
    assert_string_equal(cvy_status_text(name), text);                                              \
    assert_int_equal(cvy_status_exit_code(name), exit_code);
    CVY_STATUS_LIST(X)
#undef X
}

static void value_that_is_no_status_is_unknown_and_internal(void **state)
{
    (void)state;
    assert_string_equal(cvy_status_text((cvy_status)-999), "unknown status");
    assert_string_equal(cvy_status_name((cvy_status)1), "unknown status");
    assert_int_equal(cvy_status_exit_code((cvy_status)-999), 70);
}

static void errno_maps_to_the_documented_status(void **state)
{
    static const struct {
        int errno_value;
        cvy_status status;
    } rows[] = {
        {ENOENT, CVY_ERR_NOT_FOUND},    {EACCES, CVY_ERR_PERMISSION},
        {EPERM, CVY_ERR_PERMISSION},    {ENOMEM, CVY_ERR_NO_MEMORY},
        {ENOSPC, CVY_ERR_CANNOT_WRITE}, {EDQUOT, CVY_ERR_CANNOT_WRITE},
        {EROFS, CVY_ERR_CANNOT_WRITE},  {EFBIG, CVY_ERR_CANNOT_WRITE},
        {EMFILE, CVY_ERR_OS},           {ENFILE, CVY_ERR_OS},
        {EAGAIN, CVY_ERR_OS},           {EIO, CVY_ERR_IO},
        {EEXIST, CVY_ERR_IO},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_status(cvy_status_from_errno(rows[i].errno_value), rows[i].status);
    }
}

static void fail_logs_one_error_and_yields_the_status(void **state)
{
    (void)state;
    test_log_expect("tests: open a.bin: no such thing (input/output error)");
    assert_status(CVY_FAIL(CVY_ERR_IO, "open %s: %s", "a.bin", "no such thing"), CVY_ERR_IO);
}

static void because_fills_the_reason_without_logging(void **state)
{
    cvy_reason reason;

    (void)state;
    assert_status(cvy_because(&reason, CVY_ERR_BAD_DATA, "record %d", 7), CVY_ERR_BAD_DATA);
    assert_string_equal(reason.text, "record 7");
    assert_false(test_log_saw("record 7"));
    assert_status(cvy_because(NULL, CVY_ERR_BAD_DATA, "record %d", 7), CVY_ERR_BAD_DATA);
}

static void because_cuts_long_text_and_replaces_control_bytes(void **state)
{
    char text[1000];
    cvy_reason reason;

    (void)state;
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    text[1] = '\n';
    text[2] = '\x1b';
    text[3] = '\x7f';
    cvy_because(&reason, CVY_ERR_BAD_DATA, "%s", text);
    assert_int_equal(strlen(reason.text), sizeof reason.text - 1);
    assert_memory_equal(reason.text, "x???x", 5);
}

static cvy_status pass_up(cvy_status status, int *n_passed)
{
    CVY_RETURN_IF_ERR(status);
    (*n_passed)++;
    return CVY_OK;
}

static cvy_status jump_on(cvy_status wanted, int *n_passed)
{
    cvy_status status = CVY_OK;

    CVY_GOTO_IF_ERR(done, status, wanted);
    (*n_passed)++;
done:
    return status;
}

static void jumping_macros_leave_only_on_failure(void **state)
{
    int n_passed = 0;

    (void)state;
    assert_ok(pass_up(CVY_OK, &n_passed));
    assert_ok(jump_on(CVY_OK, &n_passed));
    assert_int_equal(n_passed, 2);
    assert_status(pass_up(CVY_ERR_OS, &n_passed), CVY_ERR_OS);
    assert_status(jump_on(CVY_ERR_OS, &n_passed), CVY_ERR_OS);
    assert_int_equal(n_passed, 2);
}

static void assert_that_does_not_hold_ends_by_abort(void **state)
{
    int wait_status = 0;

    (void)state;
    CVY_ASSERT(1 + 1 == 2);
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        CVY_ASSERT(1 + 1 == 3);
        _exit(0);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_true(WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGABRT);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(every_status_has_its_name_text_and_exit_code),
        cvy_unit_test(value_that_is_no_status_is_unknown_and_internal),
        cvy_unit_test(errno_maps_to_the_documented_status),
        cvy_unit_test(fail_logs_one_error_and_yields_the_status),
        cvy_unit_test(because_fills_the_reason_without_logging),
        cvy_unit_test(because_cuts_long_text_and_replaces_control_bytes),
        cvy_unit_test(jumping_macros_leave_only_on_failure),
        cvy_unit_test(assert_that_does_not_hold_ends_by_abort),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
