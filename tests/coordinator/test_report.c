#include "coordinator/report.h"

#include "tests/coordinator/html_support.h"

#include "base/alloc.h"
#include "base/file.h"
#include "coordinator/evaluations.h"
#include "dataset/image.h"
#include "dataset/store.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 5, N_CLASSES = 3, N_RECORDS = 6 };

static const char *const class_names[N_CLASSES] = {"<script>alert(1)</script>", "b & \"c\" 'd'",
                                                   "\xc3\xa4pfel"};

/* --- A run folder ---------------------------------------------------------------------------- */

static char *join(const char *folder, const char *name)
{
    char *path = cvy_path_join(folder, name);
    assert_non_null(path);
    return path;
}

static void put(const char *run, const char *name, const char *text)
{
    char *path = join(run, name);

    assert_ok(cvy_file_replace(path, text, strlen(text)));
    cvy_free(path);
}

static void put_job(const char *run, const char *val_path)
{
    char *text = cvy_text_format("name: job-1\nmodel: {arch: lenet5, classes: 3}\n"
                                 "data: {train: {path: '<train>'}, val: {path: '%s'}}\nreplicas: "
                                 "2\nminibatch: 16\nepochs: 2\n"
                                 "seed: 1\n",
                                 val_path);

    put(run, "job.yaml", text);
    cvy_free(text);
}

static uint8_t pixel_of(int64_t record, int i)
{
    return (uint8_t)(40 * record + 3 * i);
}

/* Grey pictures, each with values of its own. */
static char *make_dataset(const char *folder)
{
    char *path = join(folder, "val.lmdb");
    const dataset_writer_options options = {
        .n_classes = N_CLASSES, .class_names = class_names, .source = "a test"};
    dataset_writer *writer = NULL;

    assert_ok(dataset_writer_create(path, &options, &writer));
    for (int64_t record = 0; record < N_RECORDS; record++) {
        uint8_t pixels[SIDE * SIDE];
        for (int i = 0; i < SIDE * SIDE; i++) pixels[i] = pixel_of(record, i);
        const dataset_datum datum = {.channels = 1,
                                     .height = SIDE,
                                     .width = SIDE,
                                     .label = (int32_t)(record % N_CLASSES),
                                     .has_label = 1,
                                     .data = pixels,
                                     .data_bytes = sizeof pixels};
        assert_ok(dataset_writer_put(writer, &datum));
    }
    assert_ok(dataset_writer_commit(&writer));
    return path;
}

/* Record i is harder than i - 1; the even ones are right. */
static void put_evaluation(const char *run, int64_t step, double loss)
{
    coordinator_evaluation *e = NULL;
    coordinator_evaluation_summary summary;
    char name[64];

    assert_ok(coordinator_evaluation_create(step, N_RECORDS, N_CLASSES, class_names, &e));
    for (int i = 0; i < N_RECORDS; i++) {
        const comm_result r = {.record = i,
                               .loss = (float)(loss * (i + 1)),
                               .confidence = 0.1f * (float)(i + 1),
                               .label = i % N_CLASSES,
                               .predicted = (i + i % 2) % N_CLASSES,
                               .rank = i % 2};
        assert_ok(coordinator_evaluation_add(e, &r, 1));
    }
    assert_ok(coordinator_evaluation_finish(e, 2, &summary));
    snprintf(name, sizeof name, "eval/" COORDINATOR_EVALUATION_NAME, (long long)step);
    char *path = join(run, name);
    assert_ok(coordinator_evaluation_write(e, path));
    cvy_free(path);
    coordinator_evaluation_destroy(&e);
}

static void put_lines(const char *run)
{
    put(run, "metrics.jsonl",
        "{\"step\":10,\"epoch\":0.5,\"steps\":10,\"loss\":2.5,\"top1\":0.25,\"lr\":0.1,"
        "\"images_per_s\":320,\"step_time_s\":0.1,\"data_wait_s\":0.125,\"compute_s\":0.5,"
        "\"reduce_s\":0.25,\"update_s\":0.0625,\"worker_step_times_s\":[0.05,0.06]}\n"
        "{\"step\":20,\"epoch\":1,\"steps\":10,\"loss\":null,\"top1\":0.5,\"lr\":0.1,"
        "\"images_per_s\":640,\"step_time_s\":0.05,\"data_wait_s\":0,\"compute_s\":0.5,"
        "\"reduce_s\":0,\"update_s\":0,\"worker_step_times_s\":[0.0123,0.06]}\n"
        "{\"step\":30,\"epoch\":1.5,\"steps\":10,\"loss\":1.5,\"top1\":0.75,\"lr\":0.05,"
        "\"images_per_s\":160,\"step_time_s\":0.2,\"data_wait_s\":0,\"compute_s\":1,"
        "\"reduce_s\":0,\"update_s\":0,\"worker_step_times_s\":[0.0456,0.0789]}\n"
        "{\"step\":40,\"los"); /* cut while it was written */
    put(run, "events.jsonl",
        "{\"event\":\"workers\",\"workers\":[{\"rank\":1,\"host\":\"first\"}],\"time\":\"T0\"}\n"
        "{\"event\":\"start\",\"attempt\":1,\"step\":0,\"time\":\"T1\"}\n"
        "{\"event\":\"save_failed\",\"step\":10,\"reason\":\"disk <full>\",\"time\":\"T2\"}\n"
        "{\"event\":\"failed\",\"step\":12,\"time\":\"T3\"}\n"
        "{\"event\":\"workers\",\"workers\":[{\"rank\":1,\"host\":\"node<1>\",\"device\":\"cpu\","
        "\"first_replica\":0,\"replicas\":1},{\"rank\":2,\"host\":\"node2\",\"device\":\"cpu\","
        "\"first_replica\":1,\"replicas\":1}],\"time\":\"T4\"}\n"
        "{\"event\":\"resumed\",\"attempt\":2,\"step\":10,\"time\":\"T5\"}\n"
        "{\"event\":\"bad_record\",\"record\":3,\"reason\":\"&\",\"time\":\"T6\"}\n"
        "{\"event\":\"finished\",\"step\":30,\"time\":\"T7\"}\n");
}

static const char *make_run(char **out_dataset)
{
    static char run[1024];

    snprintf(run, sizeof run, "%s", test_folder());
    char *eval = join(run, "eval");
    char *saved = join(run, "checkpoints/step-00000030");
    assert_ok(cvy_file_make_folders(eval));
    assert_ok(cvy_file_make_folders(saved));
    cvy_free(saved);
    cvy_free(eval);
    *out_dataset = make_dataset(run);
    put_job(run, *out_dataset);
    put_lines(run);
    put_evaluation(run, 100000000, 0.5); /* a later step than the next, though sorted before it */
    put_evaluation(run, 99999999, 1.0);
    put(run, "eval/step-00000050-val.json", "{damaged");
    put(run, "eval/notes.txt", "not an evaluation");
    return run;
}

static char *read_text(const char *run, const char *name)
{
    char *path = join(run, name), *text = NULL;

    assert_ok(cvy_file_read(path, 1 << 24, &text, NULL, NULL));
    cvy_free(path);
    return text;
}

static json_t *read_report(const char *run)
{
    char *text = read_text(run, "report.json");
    json_t *report = json_loads(text, 0, NULL);

    assert_non_null(report);
    cvy_free(text);
    return report;
}

/* --- Is a page what it must be? -------------------------------------------------------------- */

static void assert_self_contained(const char *page)
{
    static const char *const outside[] = {"http://", "https://", "<script", "<link",  "@import",
                                          "url(",    "<iframe",  "onload",  "src=\"/"};

    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++)
        if (strstr(page, outside[i]) != NULL) fail_msg("the page has %s", outside[i]);
    for (size_t i = 0; page[i] != 0; i++)
        if (strncmp(page + i, "src=", 4) == 0)
            assert_int_equal(strncmp(page + i, "src=\"data:image/png;base64,", 27), 0);
}

static char *write_and_check(const char *run)
{
    assert_ok(coordinator_report_write(run));
    char *page = read_text(run, "report.html");
    assert_well_formed(page);
    assert_self_contained(page);
    return page;
}

static void assert_has(const char *page, const char *part)
{
    if (strstr(page, part) == NULL) fail_msg("the page has no %s", part);
}

/* --- Tests ----------------------------------------------------------------------------------- */

static double real(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) fail_msg("%s is no number", key);
    return json_number_value(value);
}

static void assert_text(const json_t *object, const char *key, const char *wanted)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (text == NULL || strcmp(text, wanted) != 0)
        fail_msg("%s is '%s', not '%s'", key, text != NULL ? text : "(none)", wanted);
}

static void json_holds_what_lies_in_the_run_folder(void **state)
{
    (void)state;
    char *dataset = NULL;
    const char *run = make_run(&dataset);

    assert_ok(coordinator_report_write(run));
    json_t *report = read_report(run);
    const json_t *throughput = json_object_get(report, "throughput");
    const json_t *where = json_object_get(throughput, "where_worker_1_spent_it");
    const json_t *evaluations = json_object_get(report, "evaluations");
    const json_t *last = json_object_get(report, "last_evaluation");
    assert_text(report, "format", "convoy-report");
    assert_text(report, "run", run);
    assert_text(report, "name", "job-1");
    assert_text(report, "arch", "lenet5");
    assert_text(report, "train_data", "<train>");
    assert_text(report, "val_data", dataset);
    assert_text(report, "status", "finished");
    assert_true(real(report, "version") == 1 && real(report, "replicas") == 2);
    assert_true(real(report, "minibatch") == 16 && real(report, "launches") == 2);
    assert_true(real(report, "bad_records_found") == 1 && real(report, "failed_saves") == 1);
    assert_true(real(report, "newest_checkpoint_step") == 30);
    assert_int_equal(json_array_size(json_object_get(report, "metrics")), 3);
    assert_int_equal(json_array_size(json_object_get(report, "events")), 8);
    assert_int_equal(
        json_array_size(json_object_get(json_object_get(report, "workers"), "workers")), 2);
    assert_true(real(throughput, "images_per_s_median") == 320);
    assert_true(real(throughput, "images_per_s_min") == 160);
    assert_true(real(throughput, "images_per_s_max") == 640);
    assert_true(fabs(real(throughput, "train_s") - 3.5) < 1e-6);
    assert_true(real(where, "data_wait_s") == 0.125 && real(where, "compute_s") == 2);
    assert_true(real(where, "reduce_s") == 0.25 && real(where, "update_s") == 0.0625);
    assert_true(fabs(real(where, "other_s") - 1.0625) < 1e-6);
    assert_int_equal(json_array_size(evaluations), 2);
    assert_true(real(json_array_get(evaluations, 0), "step") == 99999999);
    assert_true(real(json_array_get(evaluations, 1), "step") == 100000000);
    assert_true(real(json_array_get(evaluations, 1), "top1") == 0.5);
    assert_null(json_object_get(json_array_get(evaluations, 1), "classes"));
    assert_true(real(last, "step") == 100000000);
    assert_int_equal(json_array_size(json_object_get(last, "classes")), N_CLASSES);
    assert_text(json_object_get(report, "environment"), "convoy", CONVOY_VERSION);
    json_decref(report);
    cvy_free(dataset);
}

static void page_shows_every_part(void **state)
{
    (void)state;
    char *dataset = NULL;
    const char *run = make_run(&dataset);
    char *page = write_and_check(run);
    static const char *const parts[] = {
        "<title>job-1</title>",
        "<b>50.00 %</b>validation top-1",
        "<b>1.7500</b>validation loss", /* 0.5 x (1 + ... + 6) / 6 */
        "<b>320</b>images/s (median)",
        "<b>1</b>restarts",
        "<b>30</b>step of the newest checkpoint",
        "2 replicas of 16 images",
        ">Loss</text>",
        ">Top-1 accuracy</text>",
        ">Learning rate</text>",
        ">Throughput, images/s</text>",
        "<polyline",
        "Hardest images",
        "Confusion matrix",
        "<td>50.00 %</td><td>50.00 %</td><td>50.00 %</td>",
        "Expected calibration error",
        "Where the time went",
        "<td>57.1 %</td>", /* computing: 2 of 3.5 s */
        "node&lt;1&gt;",
        "<td>45.6 ms</td>",
        "8 events",
        "disk &lt;full&gt;",
        "Environment",
        "minibatch: 16",
        "prefers-color-scheme:dark",
    };

    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) assert_has(page, parts[i]);
    cvy_free(page);
    cvy_free(dataset);
}

static void texts_from_data_are_escaped(void **state)
{
    (void)state;
    char *dataset = NULL;
    const char *run = make_run(&dataset);

    put(run, "events.jsonl",
        "{\"event\":\"<img "
        "onerror=alert(1)>\",\"<i>\":\"\\u0001\\u001b[31m\",\"time\":\"\\\"\"}\n");
    char *page = write_and_check(run);
    assert_has(page, "&lt;script&gt;alert(1)&lt;/script&gt;");
    assert_has(page, "b &amp; &quot;c&quot; &#39;d&#39;");
    assert_has(page, "\xc3\xa4pfel");
    assert_has(page, "&lt;train&gt;");
    assert_has(page, "&lt;img onerror=alert(1)&gt;");
    assert_has(page, "&lt;i&gt; ??[31m");
    cvy_free(page);
    cvy_free(dataset);
}

static size_t decode_base64(const char *from, uint8_t *to, size_t capacity)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t word = 0;
    int n_bits = 0;
    size_t n = 0;

    for (; *from != '"' && *from != '='; from++) {
        const char *digit = strchr(digits, *from);
        assert_non_null(digit);
        word = word << 6 | (uint32_t)(digit - digits);
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        assert_true(n < capacity);
        to[n++] = (uint8_t)(word >> n_bits & 0xff);
    }
    return n;
}

static void hardest_pictures_are_the_records_themselves(void **state)
{
    (void)state;
    char *dataset = NULL;
    const char *run = make_run(&dataset);
    char *page = write_and_check(run);
    const char *at = page;

    for (int64_t record = N_RECORDS - 1; record >= N_RECORDS - 2; record--) {
        uint8_t png[4096];
        char alt[64];
        dataset_image image = {.pixels = NULL};
        const dataset_decode_options options = {.max_pixels = 1000};
        snprintf(alt, sizeof alt, "<img alt=\"record %lld\" src=\"", (long long)record);
        at = strstr(at, alt);
        assert_non_null(at);
        at = strstr(at, "base64,") + 7;
        const size_t png_bytes = decode_base64(at, png, sizeof png);
        assert_ok(dataset_image_decode(png, png_bytes, &options, &image, NULL));
        assert_int_equal(image.height, SIDE);
        assert_int_equal(image.width, SIDE);
        for (int i = 0; i < SIDE * SIDE; i++)
            assert_int_equal(image.pixels[i * image.channels], pixel_of(record, i));
        dataset_image_free(&image);
    }
    assert_null(strstr(at, "<img"));
    cvy_free(page);
    cvy_free(dataset);
}

static void page_without_the_dataset_says_so(void **state)
{
    (void)state;
    char *dataset = NULL;
    const char *run = make_run(&dataset);

    assert_ok(cvy_file_remove_tree(dataset));
    test_log_expect("val.lmdb");
    char *page = write_and_check(run);
    assert_has(page, "The validation set could not be opened at ");
    assert_has(page, "record 5, loss 3.000");
    assert_null(strstr(page, "<img"));
    cvy_free(page);
    cvy_free(dataset);
}

static void page_for_another_dataset_has_no_foreign_picture(void **state)
{
    (void)state;
    char *dataset = NULL;
    const char *run = make_run(&dataset);
    char *path = join(run, "eval/step-100000000-val.json");
    json_t *evaluation = json_load_file(path, 0, NULL);
    json_t *hardest = json_object_get(evaluation, "hardest");

    /* Records beyond the dataset's end, below 0, and none. */
    assert_int_equal(json_object_set_new(json_array_get(hardest, 0), "record", json_integer(99)),
                     0);
    assert_int_equal(json_object_set_new(json_array_get(hardest, 1), "record", json_integer(-1)),
                     0);
    assert_int_equal(json_object_set_new(json_array_get(hardest, 1), "loss", json_null()), 0);
    assert_int_equal(json_dump_file(evaluation, path, 0), 0);
    json_decref(evaluation);
    char *page = write_and_check(run);
    assert_null(strstr(page, "<img"));
    assert_has(page, "record 99, loss");
    assert_has(page, "record -1, a loss that is no number");
    cvy_free(page);
    cvy_free(path);
    cvy_free(dataset);
}

static void unfinished_run_has_a_page_that_says_what_is_missing(void **state)
{
    (void)state;
    const char *run = test_folder();

    put(run, "job.yaml", "name: x\nmodel: {arch: lenet5}\ndata: {train: {path: d}}\nepochs: 2\n");
    char *page = write_and_check(run);
    json_t *report = read_report(run);
    assert_text(report, "status", "unfinished");
    assert_true(json_is_null(json_object_get(report, "newest_checkpoint_step")));
    assert_null(json_object_get(report, "val_data"));
    assert_null(json_object_get(report, "throughput"));
    assert_int_equal(json_array_size(json_object_get(report, "evaluations")), 0);
    assert_has(page, "No figures of training are there yet.");
    assert_has(page, "No evaluation has been made in this run yet.");
    assert_has(page, "<b>0</b>restarts");
    assert_null(strstr(page, "<svg"));
    assert_null(strstr(page, "nan"));
    json_decref(report);
    cvy_free(page);
}

static void run_that_was_launched_again_is_unfinished_until_it_ends(void **state)
{
    (void)state;
    const char *run = test_folder();

    put(run, "job.yaml", "name: x\nmodel: {arch: lenet5}\ndata: {train: {path: d}}\nepochs: 2\n");
    put(run, "events.jsonl", "{\"event\":\"workers\",\"workers\":[]}\n{\"event\":\"stopped\"}\n");
    assert_ok(coordinator_report_write(run));
    json_t *report = read_report(run);
    assert_text(report, "status", "stopped");
    json_decref(report);
    put(run, "events.jsonl",
        "{\"event\":\"workers\"}\n{\"event\":\"stopped\"}\n{\"event\":\"workers\"}\n7\n{\"event\":"
        "3}\n");
    cvy_free(write_and_check(run));
    report = read_report(run);
    assert_text(report, "status", "unfinished");
    assert_true(real(report, "launches") == 2);
    json_decref(report);
}

static void many_classes_have_a_table_but_no_matrix(void **state)
{
    (void)state;
    enum { MANY = 41 };
    const char *run = test_folder();
    coordinator_evaluation *e = NULL;
    coordinator_evaluation_summary summary;
    const comm_result r = {.record = 0, .label = 40, .predicted = 40};

    put(run, "job.yaml", "name: x\nmodel: {arch: lenet5}\ndata: {train: {path: d}}\nepochs: 2\n");
    char *path = join(run, "eval");
    assert_ok(cvy_file_make_folders(path));
    cvy_free(path);
    assert_ok(coordinator_evaluation_create(5, 1, MANY, NULL, &e));
    assert_ok(coordinator_evaluation_add(e, &r, 1));
    assert_ok(coordinator_evaluation_finish(e, 0, &summary));
    path = join(run, "eval/step-00000005-val.json");
    assert_ok(coordinator_evaluation_write(e, path));
    coordinator_evaluation_destroy(&e);
    char *page = write_and_check(run);
    assert_has(page, "41 classes are too many to show");
    assert_has(page, "<tr><td>40</td><td>1</td><td>1</td><td>100.00 %</td>");
    assert_has(page, "<td class=\"dim\">none</td>");
    assert_null(strstr(page, "Hardest images"));
    cvy_free(page);
    cvy_free(path);
}

static void folder_that_is_no_run_is_refused(void **state)
{
    (void)state;
    const char *run = test_folder();
    char *page = join(run, "report.html");

    test_log_expect("a run folder?");
    assert_status(coordinator_report_write(run), CVY_ERR_NOT_FOUND);
    put(run, "job.yaml", "name: [\n");
    test_log_expect("job.yaml");
    assert_status(coordinator_report_write(run), CVY_ERR_CONFIG);
    assert_false(cvy_file_exists(page));
    cvy_free(page);
}

static void failed_allocation_is_reported_without_a_leak(void **state)
{
    (void)state;
    char *dataset = NULL;
    const char *run = make_run(&dataset);
    cvy_alloc_counts before, after;
    char *page = join(run, "report.html");

    assert_ok(coordinator_report_write(run));
    cvy_alloc_count(&before);
    assert_ok(coordinator_report_write(run));
    cvy_alloc_count(&after);
    const int64_t n_allocations = after.n_ever - before.n_ever;
    int64_t n_failed = 0;
    for (int64_t k = 0; k <= n_allocations; k += 1 + n_allocations / 300) {
        cvy_alloc_fail_at(k);
        const cvy_status status = coordinator_report_write(run);
        cvy_alloc_fail_at(-1);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
        /* Without memory for a picture, or to read one file, the page goes without. */
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        n_failed += status != CVY_OK;
        assert_true(cvy_file_exists(page)); /* the old one or a new one */
        (void)test_log_reset(NULL);
    }
    assert_true(n_failed > 10);
    cvy_free(page);
    cvy_free(dataset);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(json_holds_what_lies_in_the_run_folder),
    cvy_unit_test(page_shows_every_part),
    cvy_unit_test(texts_from_data_are_escaped),
    cvy_unit_test(hardest_pictures_are_the_records_themselves),
    cvy_unit_test(page_without_the_dataset_says_so),
    cvy_unit_test(page_for_another_dataset_has_no_foreign_picture),
    cvy_unit_test(unfinished_run_has_a_page_that_says_what_is_missing),
    cvy_unit_test(run_that_was_launched_again_is_unfinished_until_it_ends),
    cvy_unit_test(many_classes_have_a_table_but_no_matrix),
    cvy_unit_test(folder_that_is_no_run_is_refused),
    cvy_unit_test(failed_allocation_is_reported_without_a_leak),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
