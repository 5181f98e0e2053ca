#include "coordinator/progress.h"

#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ERASE "\r\033[K"

/* --- Texts ----------------------------------------------------------------------------------- */

static void counts_have_commas(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0, "0"},
                 {7, "7"},
                 {999, "999"},
                 {999.5, "1,000"},
                 {1240, "1,240"},
                 {12345, "12,345"},
                 {123456, "123,456"},
                 {1234567, "1,234,567"},
                 {-5, "0"},
                 {9e18, "9,000,000,000,000,000,000"}};
    char text[32];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        coordinator_text_count(cases[i].value, text);
        assert_string_equal(text, cases[i].text);
    }
    coordinator_text_count((double)NAN, text);
    assert_string_equal(text, "0");
    coordinator_text_count((double)INFINITY, text);
    assert_string_equal(text, "9,000,000,000,000,000,000");
}

static void durations_have_hours_only_when_needed(void **state)
{
    (void)state;
    static const struct {
        double seconds;
        const char *text;
    } cases[] = {
        {0, "0:00"},       {0.4, "0:00"},           {59.6, "1:00"},    {151, "2:31"},
        {3599.4, "59:59"}, {3599.5, "1:00:00"},     {3661, "1:01:01"}, {360000, "100:00:00"},
        {-3, "0:00"},      {1e300, "1000000:00:00"}};
    char text[32];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        coordinator_text_duration(cases[i].seconds, text);
        assert_string_equal(text, cases[i].text);
    }
    coordinator_text_duration((double)NAN, text);
    assert_string_equal(text, "0:00");
}

/* --- The live line --------------------------------------------------------------------------- */

/* What goes to stderr between begin and end. */
static int pipe_fd[2], kept_stderr;
static char captured[1 << 16];

static void begin_capture(void)
{
    assert_int_equal(pipe(pipe_fd), 0);
    assert_int_equal(fcntl(pipe_fd[0], F_SETFL, O_NONBLOCK), 0);
    kept_stderr = dup(STDERR_FILENO);
    assert_true(kept_stderr >= 0);
    assert_true(dup2(pipe_fd[1], STDERR_FILENO) >= 0);
}

/* What came since the last look. */
static const char *look(void)
{
    size_t size_bytes = 0;
    ssize_t n = 0;

    while ((n = read(pipe_fd[0], captured + size_bytes, sizeof captured - 1 - size_bytes)) > 0)
        size_bytes += (size_t)n;
    captured[size_bytes] = 0;
    return captured;
}

static void end_capture(void)
{
    (void)look();
    (void)dup2(kept_stderr, STDERR_FILENO);
    close(kept_stderr);
    close(pipe_fd[0]);
    close(pipe_fd[1]);
    (void)test_log_open(NULL);
}

static coordinator_progress *open_progress(int columns)
{
    const coordinator_progress_options options = {
        .total_steps = 3900, .steps_per_epoch = 390, .global_batch = 128, .columns = columns};
    coordinator_progress *p = NULL;

    assert_ok(coordinator_progress_create(&options, &p));
    return p;
}

static comm_metrics metrics_at(int64_t step)
{
    return (comm_metrics){.step = step,
                          .n_steps = 10,
                          .n_samples = 1280,
                          .n_counted = 1280,
                          .loss = 0.41234,
                          .n_top1 = 1089,
                          .seconds = 1.0};
}

static void update(coordinator_progress *p, int64_t step, double now_s)
{
    const comm_metrics m = metrics_at(step);
    coordinator_progress_update(p, &m, 0, NULL, 0, now_s);
}

static void live_line_says_everything(void **state)
{
    (void)state;
    const comm_metrics m = metrics_at(940);

    begin_capture();
    coordinator_progress *p = open_progress(200);
    coordinator_progress_update(p, &m, 2, "node7", 0.123, 0.01); /* at once, whatever the clock */
    char *line = cvy_strdup(look());
    coordinator_progress_destroy(&p);
    const int ends = strcmp(look(), "\n") == 0;
    end_capture();
    assert_null(p);
    assert_true(ends);
    /* 940 - 2 x 390 = 160 of 390; (3900 - 940) x 128 / 1280 = 296 s */
    assert_string_equal(line,
                        "epoch 3/10 [====>     ] 41 %  step 940/3900  loss 0.412  top-1 85.1 %"
                        "  1,280 images/s  4:56 left  slowest 2 (node7) +12 %");
    cvy_free(line);
    coordinator_progress_destroy(&p);
}

static void slowest_worker_is_named_only_when_it_matters(void **state)
{
    (void)state;
    const comm_metrics m = metrics_at(940);

    begin_capture();
    coordinator_progress *p = open_progress(200);
    coordinator_progress_update(p, &m, 2, "node7", 0.09, 1);
    const int is_named = strstr(look(), "slowest") != NULL;
    coordinator_progress_update(p, &m, 2, NULL, 0.5, 2);
    const int has_no_host = strstr(look(), "slowest") != NULL;
    coordinator_progress_destroy(&p);
    end_capture();
    assert_false(is_named);
    assert_false(has_no_host);
}

static void live_line_is_cut_to_the_width(void **state)
{
    (void)state;
    static const int widths[] = {1, 2, 20, 80, 511, 512, 513, 10000};

    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        const comm_metrics m = metrics_at(940);
        char host[500];
        memset(host, 'h', sizeof host - 1);
        host[sizeof host - 1] = 0;
        begin_capture();
        coordinator_progress *p = open_progress(widths[i]);
        coordinator_progress_update(p, &m, 2, host, 0.5, 1);
        const size_t n = strlen(look());
        const int has_left = strstr(captured, " left") != NULL;
        coordinator_progress_destroy(&p);
        end_capture();
        /* One column stays free: a full last one would wrap. */
        assert_true(n < (size_t)widths[i]);
        if (widths[i] <= 20) assert_int_equal(n, widths[i] - 1);
        /* A usual terminal is wide enough for the time left. */
        if (widths[i] >= 80) assert_true(has_left);
    }
}

static void live_line_is_redrawn_five_times_a_second(void **state)
{
    (void)state;
    int n_drawn = 0;

    begin_capture();
    coordinator_progress *p = open_progress(100);
    for (int i = 0; i < 1000; i++) { /* 10 s, an update each 10 ms */
        update(p, 1 + i, 5 + 0.01 * i);
        n_drawn += strlen(look()) > 0;
    }
    update(p, 3899, 15.0);
    (void)look();
    update(p, 3900, 15.01); /* the last step is shown at once */
    const int has_last = strstr(look(), "step 3900/3900") != NULL;
    const int has_full = strstr(captured, "epoch 10/10 [==========] 100 %") != NULL;
    const int is_erased = strncmp(captured, ERASE, strlen(ERASE)) == 0;
    coordinator_progress_destroy(&p);
    end_capture();
    assert_true(n_drawn >= 45 && n_drawn <= 51);
    assert_true(has_last && has_full && is_erased);
}

static void log_lines_scroll_above_the_live_line(void **state)
{
    (void)state;
    char *path = cvy_path_join(test_folder(), "convoy.log");
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    char *text = NULL, *log = NULL, *at = NULL;

    assert_true(fd >= 0);
    cvy_log_copy_to(fd);
    begin_capture();
    coordinator_progress *p = open_progress(60);
    cvy_log_info("before the first figures");
    const int is_plain = strstr(look(), "\033") == NULL;
    update(p, 100, 1);
    (void)look();
    errno = ENOSPC;
    cvy_log_info("something happened");
    const int errno_after = errno;
    text = cvy_strdup(look());
    coordinator_progress_destroy(&p);
    end_capture();
    cvy_log_copy_to(-1);
    close(fd);
    assert_true(is_plain);
    assert_int_equal(errno_after, ENOSPC);
    /* erase, the line as it always looks, the live line again */
    assert_int_equal(strncmp(text, ERASE, strlen(ERASE)), 0);
    at = strstr(text, " info tests: something happened\n");
    assert_non_null(at);
    assert_int_equal(strncmp(strchr(at, '\n') + 1, "epoch 1/10 ", 11), 0);
    assert_true(strlen(strchr(at, '\n') + 1) <= 59);
    /* The copy has each line once, and nothing of the live line. */
    assert_ok(cvy_file_read(path, 1 << 20, &log, NULL, NULL));
    at = strstr(log, "something happened\n");
    assert_non_null(at);
    assert_null(strstr(at + 1, "something happened"));
    assert_null(strstr(log, "epoch"));
    cvy_free(log);
    cvy_free(text);
    cvy_free(path);
}

static void *log_many(void *arg)
{
    (void)arg;
    for (int i = 0; i < 200; i++) cvy_log_info("line %d", i);
    return NULL;
}

static void threads_may_log_while_the_line_is_drawn(void **state)
{
    (void)state;
    pthread_t thread;
    int n_lines = 0;

    begin_capture();
    coordinator_progress *p = open_progress(40);
    assert_int_equal(pthread_create(&thread, NULL, log_many, NULL), 0);
    for (int i = 0; i < 200; i++) update(p, 1 + i, i);
    assert_int_equal(pthread_join(thread, NULL), 0);
    (void)look();
    for (const char *at = strstr(captured, "tests: line "); at != NULL;
         at = strstr(at + 1, "tests: line "))
        n_lines++;
    coordinator_progress_destroy(&p);
    end_capture();
    assert_int_equal(n_lines, 200);
}

static void terminal_that_is_gone_costs_nothing(void **state)
{
    (void)state;
    const int kept = dup(STDERR_FILENO);
    const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

    assert_true(kept >= 0 && full >= 0);
    coordinator_progress *p = open_progress(80);
    assert_true(dup2(full, STDERR_FILENO) >= 0);
    update(p, 10, 1);
    cvy_log_info("to nowhere");
    assert_int_equal(close(STDERR_FILENO), 0);
    update(p, 20, 2);
    cvy_log_info("to nowhere");
    coordinator_progress_destroy(&p);
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    close(full);
    (void)test_log_open(NULL);
}

/* --- Plain lines ----------------------------------------------------------------------------- */

/* How many lines n updates make, one each dt_s, always within the same epoch. */
static int count_lines(coordinator_progress *p, int n, double from_s, double dt_s)
{
    int n_lines = 0;

    for (int i = 0; i < n; i++) {
        (void)test_log_reset(NULL);
        update(p, 1 + i % 300, from_s + i * dt_s);
        n_lines += test_log_saw("epoch 1/10, step");
    }
    return n_lines;
}

static void plain_lines_come_each_10_s_then_each_minute(void **state)
{
    (void)state;
    coordinator_progress *p = open_progress(0);

    assert_int_equal(count_lines(p, 50, 0, 1), 5);    /* 0, 10, ... 40 */
    assert_int_equal(count_lines(p, 10, 50, 1), 1);   /* the sixth */
    assert_int_equal(count_lines(p, 49, 60, 1), 0);   /* until 110 */
    assert_int_equal(count_lines(p, 301, 110, 1), 6); /* 110, 170, ... 410 */
    coordinator_progress_destroy(&p);
}

static void plain_line_says_everything_and_comes_at_each_epochs_end(void **state)
{
    (void)state;
    const comm_metrics m = metrics_at(388);
    coordinator_progress *p = open_progress(0);

    coordinator_progress_update(p, &m, 3, "node9", 0.5, 100);
    assert_true(test_log_saw("coordinator: epoch 1/10, step 388/3900: loss 0.4123, top-1 85.1 %, "
                             "1,280 images/s, 5:51 left  slowest 3 (node9) +50 %"));
    update(p, 389, 100.1);
    assert_false(test_log_saw("step 389/3900"));
    update(p, 390, 100.2);
    assert_true(test_log_saw("epoch 1/10, step 390/3900"));
    update(p, 391, 100.3);
    assert_false(test_log_saw("step 391/3900"));
    update(p, 3900, 100.4);
    assert_true(test_log_saw("epoch 10/10, step 3900/3900"));
    assert_true(test_log_saw("0:00 left"));
    coordinator_progress_destroy(&p);
}

static void figures_without_samples_or_time_are_harmless(void **state)
{
    (void)state;
    const comm_metrics nothing = {.step = 0, .loss = (double)NAN};
    coordinator_progress *p = open_progress(0);

    coordinator_progress_update(p, &nothing, 0, NULL, (double)NAN, 1);
    assert_true(test_log_saw("epoch 1/10, step 0/3900: loss nan"));
    assert_true(test_log_saw("0 images/s, 0:00 left"));
    coordinator_progress_destroy(&p);
}

static void failed_allocation_is_reported(void **state)
{
    (void)state;
    const coordinator_progress_options options = {
        .total_steps = 1, .steps_per_epoch = 1, .global_batch = 1};
    cvy_alloc_counts before, after;
    coordinator_progress *p = NULL;

    cvy_alloc_count(&before);
    test_log_expect("progress");
    cvy_alloc_fail_at(0);
    assert_status(coordinator_progress_create(&options, &p), CVY_ERR_NO_MEMORY);
    cvy_alloc_fail_at(-1);
    assert_null(p);
    assert_ok(coordinator_progress_create(&options, &p));
    coordinator_progress_destroy(&p);
    cvy_alloc_count(&after);
    assert_int_equal(after.n_live, before.n_live);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(counts_have_commas),
    cvy_unit_test(durations_have_hours_only_when_needed),
    cvy_unit_test(live_line_says_everything),
    cvy_unit_test(slowest_worker_is_named_only_when_it_matters),
    cvy_unit_test(live_line_is_cut_to_the_width),
    cvy_unit_test(live_line_is_redrawn_five_times_a_second),
    cvy_unit_test(log_lines_scroll_above_the_live_line),
    cvy_unit_test(threads_may_log_while_the_line_is_drawn),
    cvy_unit_test(terminal_that_is_gone_costs_nothing),
    cvy_unit_test(plain_lines_come_each_10_s_then_each_minute),
    cvy_unit_test(plain_line_says_everything_and_comes_at_each_epochs_end),
    cvy_unit_test(figures_without_samples_or_time_are_harmless),
    cvy_unit_test(failed_allocation_is_reported),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
