#include "base/log.h"

#include "tests/support/test_support.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_THREADS 4
#define N_LINES   200

/* stderr of this program, while a test has it point elsewhere. */
typedef struct diversion {
    int saved_fd;
    int read_fd; /* of the file that takes its place */
} diversion;

static diversion divert_stderr(void)
{
    FILE *file = tmpfile();
    diversion to = {.saved_fd = dup(STDERR_FILENO)};

    assert_non_null(file);
    to.read_fd = dup(fileno(file));
    assert_true(to.saved_fd >= 0 && to.read_fd >= 0);
    assert_int_equal(fcntl(to.read_fd, F_SETFL, O_APPEND), 0);
    assert_true(dup2(to.read_fd, STDERR_FILENO) >= 0);
    fclose(file);
    cvy_log_set_sink(NULL, NULL);
    return to;
}

/* What was written; free() it. Puts stderr and the sink of the tests back. */
static char *restore_stderr(diversion *to)
{
    const off_t size_bytes = lseek(to->read_fd, 0, SEEK_END);
    char *text = calloc(1, (size_t)size_bytes + 1);

    dup2(to->saved_fd, STDERR_FILENO);
    assert_non_null(text);
    assert_int_equal(pread(to->read_fd, text, (size_t)size_bytes, 0), size_bytes);
    close(to->saved_fd);
    close(to->read_fd);
    cvy_log_open(CVY_LOG_DEBUG, -1);
    test_log_open(NULL);
    return text;
}

/* The first test of the program: nothing has called cvy_log_open() yet. */
static void line_before_open_is_named_convoy_and_has_no_time(void **state)
{
    (void)state;
    diversion to = divert_stderr();
    cvy_log_error("no job file");
    cvy_log_debug("not shown: the level is info");
    char *text = restore_stderr(&to);
    assert_string_equal(text, "convoy: no job file\n");
    free(text);
}

static void line_has_time_rank_level_folder_and_message(void **state)
{
    (void)state;
    diversion to = divert_stderr();
    cvy_log_open(CVY_LOG_INFO, 3);
    cvy_log_write(CVY_LOG_INFO, "nn", "epoch %d done", 5);
    char *text = restore_stderr(&to);
    assert_true(strlen(text) > 25);
    assert_string_equal(text + 24, " 3 info nn: epoch 5 done\n");
    assert_int_equal(text[10], 'T');
    assert_int_equal(text[23], 'Z');
    free(text);
}

static void line_without_rank_leaves_it_out(void **state)
{
    (void)state;
    diversion to = divert_stderr();
    cvy_log_open(CVY_LOG_INFO, -1);
    cvy_log_write(CVY_LOG_WARN, "launch", "hello");
    char *text = restore_stderr(&to);
    assert_string_equal(text + 24, " warn launch: hello\n");
    free(text);
}

static void level_hides_what_is_quieter(void **state)
{
    (void)state;
    cvy_log_open(CVY_LOG_INFO, -1);
    cvy_log_info("the info line");
    cvy_log_debug("the debug line");
    cvy_log_open(CVY_LOG_TRACE, -1);
    cvy_log_trace("the trace line");
    cvy_log_open(CVY_LOG_DEBUG, -1);
    assert_true(test_log_saw("the info line"));
    assert_false(test_log_saw("the debug line"));
    assert_true(test_log_saw("the trace line"));
}

static void message_with_control_bytes_stays_one_line(void **state)
{
    (void)state;
    diversion to = divert_stderr();
    cvy_log_open(CVY_LOG_INFO, -1);
    cvy_log_write(CVY_LOG_INFO, "nn", "a\nb\x1b[31mc\td\n");
    char *text = restore_stderr(&to);
    assert_string_equal(text + 24, " info nn: a?b?[31mc d\n");
    free(text);
}

static void long_message_is_cut_with_dots(void **state)
{
    char message[5000];

    (void)state;
    memset(message, 'm', sizeof message);
    message[sizeof message - 1] = '\0';
    diversion to = divert_stderr();
    cvy_log_open(CVY_LOG_INFO, -1);
    cvy_log_write(CVY_LOG_INFO, "nn", "%s", message);
    char *text = restore_stderr(&to);
    assert_true(strlen(text) < sizeof message);
    assert_non_null(strstr(text, "mm...\n"));
    free(text);
}

static void caught_errors_are_kept_the_first_of_them_and_not_said(void **state)
{
    char kept[12] = "x";

    (void)state;
    cvy_log_catch(kept, sizeof kept);
    assert_string_equal(kept, "");
    cvy_log_error("first\n%d", 1);
    cvy_log_error("second");
    cvy_log_catch(NULL, 0);
    assert_string_equal(kept, "first?1");
    cvy_log_catch(kept, sizeof kept);
    cvy_log_error("longer than there is room");
    cvy_log_catch(NULL, 0);
    assert_string_equal(kept, "longer than");
}

static void softened_errors_are_warnings_until_the_last_pair_ends(void **state)
{
    (void)state;
    diversion to = divert_stderr();
    cvy_log_open(CVY_LOG_INFO, -1);
    cvy_log_soften(1);
    cvy_log_soften(1);
    cvy_log_soften(-1);
    cvy_log_write(CVY_LOG_ERROR, "nn", "first");
    cvy_log_soften(-1);
    cvy_log_write(CVY_LOG_ERROR, "nn", "second");
    char *text = restore_stderr(&to);
    assert_non_null(strstr(text, " warn nn: first\n"));
    assert_non_null(strstr(text, " error nn: second\n"));
    free(text);
}

static void copy_gets_every_line_also_beside_a_sink(void **state)
{
    char text[200] = "";

    (void)state;
    FILE *file = tmpfile();
    assert_non_null(file);
    cvy_log_copy_to(fileno(file));
    cvy_log_info("into the file");
    cvy_log_copy_to(-1);
    cvy_log_info("not into the file");
    assert_true(pread(fileno(file), text, sizeof text - 1, 0) > 0);
    assert_non_null(strstr(text, "tests: into the file\n"));
    assert_null(strstr(text, "not into the file"));
    assert_true(test_log_saw("tests: into the file"));
    fclose(file);
}

static void closed_pipe_and_closed_stderr_are_ignored(void **state)
{
    int ends[2];

    (void)state;
    assert_int_equal(signal(SIGPIPE, SIG_DFL) == SIG_ERR, 0);
    diversion to = divert_stderr();
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    cvy_log_info("nobody reads this"); /* SIGPIPE would end this program */
    close(STDERR_FILENO);
    cvy_log_info("nobody can read this");
    char *text = restore_stderr(&to);
    assert_string_equal(text, "");
    free(text);
}

static void errno_survives_a_log_line(void **state)
{
    (void)state;
    diversion to = divert_stderr();
    close(STDERR_FILENO);
    errno = ENOSPC;
    cvy_log_info("x");
    const int errno_after = errno;
    free(restore_stderr(&to));
    assert_int_equal(errno_after, ENOSPC);
}

static void *log_many(void *arg)
{
    const int thread_idx = *(const int *)arg;

    for (int i = 0; i < N_LINES; i++) cvy_log_write(CVY_LOG_INFO, "nn", "t%d l%d.", thread_idx, i);
    return NULL;
}

static void lines_of_several_threads_are_never_mixed(void **state)
{
    pthread_t threads[N_THREADS];
    int idx[N_THREADS];
    char wanted[64];
    int n_lines = 0;

    (void)state;
    diversion to = divert_stderr();
    cvy_log_open(CVY_LOG_INFO, 0);
    for (int i = 0; i < N_THREADS; i++) {
        idx[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, log_many, &idx[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) pthread_join(threads[i], NULL);
    char *text = restore_stderr(&to);
    for (const char *c = text; *c != '\0'; c++) n_lines += *c == '\n';
    assert_int_equal(n_lines, N_THREADS * N_LINES);
    for (int i = 0; i < N_THREADS * N_LINES; i++) {
        snprintf(wanted, sizeof wanted, " 0 info nn: t%d l%d.\n", i / N_LINES, i % N_LINES);
        assert_non_null(strstr(text, wanted));
    }
    free(text);
}

static void level_words_are_read_and_others_refused(void **state)
{
    static const char *const words[] = {"error", "warn", "info", "debug", "trace"};
    cvy_log_level level = CVY_LOG_ERROR;

    (void)state;
    for (int i = 0; i < 5; i++) {
        assert_ok(cvy_log_level_from_text(words[i], &level));
        assert_int_equal(level, i);
    }
    assert_status(cvy_log_level_from_text("loud", &level), CVY_ERR_INVALID_ARG);
    assert_status(cvy_log_level_from_text("", &level), CVY_ERR_INVALID_ARG);
    assert_int_equal(level, CVY_LOG_TRACE);
}

static int no_open(void **state)
{
    (void)state;
    return 0;
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(line_before_open_is_named_convoy_and_has_no_time),
        cvy_unit_test(line_has_time_rank_level_folder_and_message),
        cvy_unit_test(line_without_rank_leaves_it_out),
        cvy_unit_test(level_hides_what_is_quieter),
        cvy_unit_test(message_with_control_bytes_stays_one_line),
        cvy_unit_test(long_message_is_cut_with_dots),
        cvy_unit_test(caught_errors_are_kept_the_first_of_them_and_not_said),
        cvy_unit_test(softened_errors_are_warnings_until_the_last_pair_ends),
        cvy_unit_test(copy_gets_every_line_also_beside_a_sink),
        cvy_unit_test(closed_pipe_and_closed_stderr_are_ignored),
        cvy_unit_test(errno_survives_a_log_line),
        cvy_unit_test(lines_of_several_threads_are_never_mixed),
        cvy_unit_test(level_words_are_read_and_others_refused),
    };

    /* The log is opened by the end of the first test: it is about the time before. */
    return cmocka_run_group_tests(tests, no_open, test_log_close);
}
