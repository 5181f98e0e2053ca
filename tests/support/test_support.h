#ifndef TESTS_SUPPORT_TEST_SUPPORT_H
#define TESTS_SUPPORT_TEST_SUPPORT_H

/* cmocka wants these before its own header. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/**
 * Group fixtures for every program: from here on each logged warning or error must have been
 * announced, and a test that leaves an announced one unseen, or logs an unannounced one, fails in
 * its teardown.
 *
 *     static const struct CMUnitTest tests[] = {cvy_unit_test(name), ...};
 *     int main(void) { return cmocka_run_group_tests(tests, test_log_open, test_log_close); }
 */
#define cvy_unit_test(name) cmocka_unit_test_setup_teardown(name, test_log_reset, test_log_check)

int test_log_open(void **state);
int test_log_close(void **state);
int test_log_reset(void **state);
int test_log_check(void **state);

/** Announce that a warning or error line containing this text will be logged before the test ends;
 *  may be called before or after the line is logged. */
void test_log_expect(const char *part);
/** Whether a line containing part was logged in this test (any level). */
int test_log_saw(const char *part);

/** A fresh empty folder for this test, removed at exit of the program. */
const char *test_folder(void);

/** Fail with the status' name when it is another. */
#define assert_status(call, expected)                                                              \
    assert_string_equal(cvy_status_name(call), cvy_status_name(expected))
#define assert_ok(call) assert_status(call, CVY_OK)

#endif
