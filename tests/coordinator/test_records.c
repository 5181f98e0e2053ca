#include "coordinator/records.h"

#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char *new_path(void)
{
    char *path = cvy_path_join(test_folder(), "metrics.jsonl");
    assert_non_null(path);
    return path;
}

static void put(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void assert_file_is(const char *path, const char *text)
{
    char *bytes = NULL;

    assert_ok(cvy_file_read(path, 1 << 20, &bytes, NULL, NULL));
    assert_string_equal(bytes, text);
    cvy_free(bytes);
}

static json_t *read_all(const char *path)
{
    json_t *list = NULL;

    assert_ok(coordinator_records_read(path, &list));
    assert_true(json_is_array(list));
    return list;
}

static json_int_t step_at(const json_t *list, size_t idx)
{
    return json_integer_value(json_object_get(json_array_get(list, idx), "step"));
}

static void append_step(coordinator_records *records, int64_t step)
{
    coordinator_records_append(records, json_pack("{s:I}", "step", (json_int_t)step));
}

static void appended_objects_are_one_line_each(void **state)
{
    (void)state;
    char *path = new_path();
    coordinator_records *records = NULL;

    assert_ok(coordinator_records_open(path, 0, &records));
    coordinator_records_append(
        records, json_pack("{s:i, s:f, s:s}", "step", 1, "loss", 0.1, "host", "two\nlines"));
    coordinator_records_append(records, NULL); /* what json_pack could not make */
    append_step(records, 2);
    coordinator_records_close(&records);
    assert_null(records);
    coordinator_records_close(&records);
    assert_file_is(path, "{\"step\":1,\"loss\":0.1,\"host\":\"two\\nlines\"}\n{\"step\":2}\n");
    json_t *list = read_all(path);
    assert_int_equal(json_array_size(list), 2);
    assert_true(json_real_value(json_object_get(json_array_get(list, 0), "loss")) == 0.1);
    json_decref(list);
    cvy_free(path);
}

static void events_carry_their_time_and_are_all_kept(void **state)
{
    (void)state;
    char *path = new_path();
    coordinator_records *records = NULL;

    for (int launch = 0; launch < 2; launch++) {
        assert_ok(coordinator_records_open(path, -1, &records));
        coordinator_records_append(records, json_pack("{s:s, s:i}", "event", "saved", "step", 900));
        coordinator_records_close(&records);
    }
    json_t *list = read_all(path);
    assert_int_equal(json_array_size(list), 2);
    for (size_t i = 0; i < 2; i++) {
        const char *time = json_string_value(json_object_get(json_array_get(list, i), "time"));
        assert_non_null(time);
        assert_int_equal(strlen(time), 24);
        assert_true(time[10] == 'T' && time[23] == 'Z');
    }
    json_decref(list);
    cvy_free(path);
}

static void missing_or_empty_file_is_an_empty_list(void **state)
{
    (void)state;
    char *path = new_path();

    json_t *list = read_all(path);
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
    put(path, "");
    list = read_all(path);
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
    cvy_free(path);
}

static void cut_last_line_is_dropped(void **state)
{
    (void)state;
    static const char whole[] = "{\"step\":1}\n{\"step\":2}\n";
    static const char text[] = "{\"step\":1}\n{\"step\":2}\n{\"step\":3}";
    char *path = new_path();
    coordinator_records *records = NULL;

    for (size_t n = sizeof whole - 1; n < sizeof text; n++) { /* cut at every byte of line 3 */
        char cut[64] = "";
        memcpy(cut, text, n);
        put(path, cut);
        json_t *list = read_all(path);
        assert_int_equal(json_array_size(list), 2);
        json_decref(list);
        assert_ok(coordinator_records_open(path, 9, &records));
        append_step(records, 3);
        coordinator_records_close(&records);
        assert_file_is(path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
    }
    cvy_free(path);
}

static void lines_that_are_no_objects_are_dropped(void **state)
{
    (void)state;
    char *path = new_path();
    coordinator_records *records = NULL;

    put(path, "\n{\"step\":1}\nnull\n[1]\n{\"step\":2\n{\"step\":2}}\n\xff\xfe\n{\"step\":3}\n");
    json_t *list = read_all(path);
    assert_int_equal(json_array_size(list), 2);
    assert_int_equal(step_at(list, 0), 1);
    assert_int_equal(step_at(list, 1), 3);
    json_decref(list);
    assert_ok(coordinator_records_open(path, -1, &records));
    coordinator_records_close(&records);
    assert_file_is(path, "{\"step\":1}\n{\"step\":3}\n");
    cvy_free(path);
}

static void resumed_run_leaves_one_contiguous_record(void **state)
{
    (void)state;
    char *path = new_path();
    coordinator_records *records = NULL;

    assert_ok(coordinator_records_open(path, 0, &records));
    for (int64_t step = 10; step <= 100; step += 10) append_step(records, step);
    coordinator_records_append(records, json_pack("{s:s}", "note", "no step"));
    coordinator_records_close(&records);
    assert_ok(coordinator_records_open(path, 55, &records)); /* a checkpoint of step 55 */
    for (int64_t step = 60; step <= 80; step += 10) append_step(records, step);
    coordinator_records_close(&records);
    json_t *list = read_all(path);
    assert_int_equal(json_array_size(list), 9);
    for (size_t i = 0; i < 5; i++) assert_int_equal(step_at(list, i), 10 * (i + 1));
    assert_non_null(json_object_get(json_array_get(list, 5), "note"));
    for (size_t i = 6; i < 9; i++) assert_int_equal(step_at(list, i), 10 * i);
    json_decref(list);
    assert_ok(coordinator_records_open(path, 0, &records)); /* from scratch */
    coordinator_records_close(&records);
    list = read_all(path);
    assert_int_equal(json_array_size(list), 1);
    json_decref(list);
    cvy_free(path);
}

/* Let files of this process grow to so many bytes at most. */
static void limit_files(rlim_t size_bytes)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = size_bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static int count_warnings(const char *log, const char *part)
{
    int n = 0;
    for (const char *at = strstr(log, part); at != NULL; at = strstr(at + 1, part)) n++;
    return n;
}

static char warnings[4096];

static void note_warning(void *arg, cvy_log_level level, const char *folder, const char *message)
{
    (void)arg;
    (void)folder;
    assert_int_equal(level, CVY_LOG_WARN);
    strncat(warnings, message, sizeof warnings - strlen(warnings) - 1);
}

static void full_disk_warns_once_and_costs_only_what_was_not_written(void **state)
{
    (void)state;
    char *path = new_path();
    coordinator_records *records = NULL;
    void (*const before)(int) = signal(SIGXFSZ, SIG_IGN);

    assert_ok(coordinator_records_open(path, 0, &records));
    warnings[0] = 0;
    cvy_log_set_sink(note_warning, NULL);
    append_step(records, 1);
    limit_files(15); /* 11 bytes are there: a part of the next line gets in, then nothing */
    for (int64_t step = 2; step <= 6; step++) append_step(records, step);
    limit_files(RLIM_INFINITY);
    append_step(records, 7);
    append_step(records, 8);
    limit_files(25);
    append_step(records, 9); /* another outage: said again */
    limit_files(RLIM_INFINITY);
    append_step(records, 10);
    (void)test_log_close(NULL);
    (void)test_log_open(NULL);
    (void)signal(SIGXFSZ, before);
    coordinator_records_close(&records);
    assert_int_equal(count_warnings(warnings, "these figures are lost, training goes on"), 2);
    assert_non_null(strstr(warnings, path));
    json_t *list = read_all(path);
    assert_int_equal(json_array_size(list), 4);
    assert_int_equal(step_at(list, 0), 1);
    assert_int_equal(step_at(list, 1), 7);
    assert_int_equal(step_at(list, 2), 8);
    assert_int_equal(step_at(list, 3), 10);
    json_decref(list);
    cvy_free(path);
}

static void odd_file_is_refused_and_named(void **state)
{
    (void)state;
    char *path = new_path();
    coordinator_records *records = NULL;
    json_t *list = NULL;

    assert_int_equal(mkfifo(path, 0600), 0); /* and nothing waits for its other end */
    test_log_expect("metrics.jsonl is not a regular file");
    assert_status(coordinator_records_open(path, 0, &records), CVY_ERR_BAD_DATA);
    assert_status(coordinator_records_read(path, &list), CVY_ERR_BAD_DATA);
    assert_null(records);
    assert_null(list);
    test_log_expect("open /nonexistent-folder/m.jsonl");
    assert_status(coordinator_records_open("/nonexistent-folder/m.jsonl", 0, &records),
                  CVY_ERR_NOT_FOUND);
    cvy_free(path);
}

static void failed_allocation_is_reported_without_a_leak(void **state)
{
    (void)state;
    char *path = new_path();
    coordinator_records *records = NULL;
    cvy_alloc_counts before, after;
    int k = 0;

    put(path, "{\"step\":1}\n{\"step\":5}\n");
    cvy_alloc_count(&before);
    test_log_expect("metrics.jsonl");
    for (;; k++) {
        cvy_alloc_fail_at(k);
        const cvy_status status = coordinator_records_open(path, 3, &records);
        cvy_alloc_fail_at(-1);
        if (status == CVY_OK) break;
        assert_status(status, CVY_ERR_NO_MEMORY);
        assert_null(records);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
    assert_true(k >= 3);
    test_log_expect("out of memory: these figures are lost");
    cvy_alloc_fail_at(0);
    append_step(records, 2);
    cvy_alloc_fail_at(-1);
    append_step(records, 3);
    coordinator_records_close(&records);
    assert_file_is(path, "{\"step\":1}\n{\"step\":3}\n");
    cvy_alloc_count(&after);
    assert_int_equal(after.n_live, before.n_live);
    cvy_free(path);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(appended_objects_are_one_line_each),
    cvy_unit_test(events_carry_their_time_and_are_all_kept),
    cvy_unit_test(missing_or_empty_file_is_an_empty_list),
    cvy_unit_test(cut_last_line_is_dropped),
    cvy_unit_test(lines_that_are_no_objects_are_dropped),
    cvy_unit_test(resumed_run_leaves_one_contiguous_record),
    cvy_unit_test(full_disk_warns_once_and_costs_only_what_was_not_written),
    cvy_unit_test(odd_file_is_refused_and_named),
    cvy_unit_test(failed_allocation_is_reported_without_a_leak),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
