#include "base/clock.h"

#include "tests/support/test_support.h"

#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

static void clock_never_goes_back(void **state)
{
    (void)state;
    double last_s = cvy_clock_now_s();
    for (int i = 0; i < 10000; i++) {
        const double now_s = cvy_clock_now_s();
        assert_true(now_s >= last_s);
        last_s = now_s;
    }
}

static volatile sig_atomic_t n_signals;

static void count_signal(int signal_number)
{
    (void)signal_number;
    n_signals = n_signals + 1;
}

static void sleep_lasts_in_full_under_signals(void **state)
{
    const struct itimerval every_ms = {.it_interval = {.tv_usec = 1000},
                                       .it_value = {.tv_usec = 1000}};
    const struct itimerval off = {0};
    struct sigaction action;
    struct sigaction before;

    (void)state;
    memset(&action, 0, sizeof action);
    action.sa_handler = count_signal; /* without SA_RESTART */
    assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
    assert_int_equal(setitimer(ITIMER_REAL, &every_ms, NULL), 0);
    const double start_s = cvy_clock_now_s();
    cvy_clock_sleep_s(0.03);
    const double slept_s = cvy_clock_now_s() - start_s;
    assert_int_equal(setitimer(ITIMER_REAL, &off, NULL), 0);
    assert_int_equal(sigaction(SIGALRM, &before, NULL), 0);
    assert_true(n_signals > 0);
    assert_true(slept_s >= 0.0299);
}

static void sleep_of_nothing_returns_at_once(void **state)
{
    (void)state;
    const double start_s = cvy_clock_now_s();
    cvy_clock_sleep_s(0.0);
    cvy_clock_sleep_s(-5.0);
    cvy_clock_sleep_s((double)NAN);
    assert_true(cvy_clock_now_s() - start_s < 4.0);
}

static void wall_text_is_iso_8601_with_milliseconds(void **state)
{
    static const char shape[] = "dddd-dd-ddTdd:dd:dd.dddZ";
    char text[32];

    (void)state;
    cvy_clock_wall_text(text);
    assert_int_equal(strlen(text), 24);
    for (int i = 0; i < 24; i++) {
        if (shape[i] == 'd') {
            assert_true(text[i] >= '0' && text[i] <= '9');
        } else {
            assert_int_equal(text[i], shape[i]);
        }
    }
    assert_true(memcmp(text, "2020", 4) > 0);
}

static void deadline_ahead_is_not_past_and_one_behind_is(void **state)
{
    (void)state;
    const cvy_deadline ahead = cvy_deadline_in_s(1000.0);
    const cvy_deadline behind = cvy_deadline_in_s(-1.0);
    const cvy_deadline never = cvy_deadline_in_s((double)INFINITY);

    assert_false(cvy_deadline_is_past(ahead));
    assert_true(cvy_deadline_left_s(ahead) > 900.0 && cvy_deadline_left_s(ahead) <= 1000.0);
    assert_true(cvy_deadline_is_past(behind));
    assert_true(cvy_deadline_left_s(behind) <= -1.0);
    assert_false(cvy_deadline_is_past(never));
    assert_true(isinf(cvy_deadline_left_s(never)));
    assert_true(cvy_deadline_is_past(cvy_deadline_in_s(0.0)));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(clock_never_goes_back),
        cvy_unit_test(sleep_lasts_in_full_under_signals),
        cvy_unit_test(sleep_of_nothing_returns_at_once),
        cvy_unit_test(wall_text_is_iso_8601_with_milliseconds),
        cvy_unit_test(deadline_ahead_is_not_past_and_one_behind_is),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
