#include "dataset/manifest_internal.h"

#include "base/alloc.h"
#include "base/file.h"
#include "tests/dataset/store_support.h"

/* A manifest with one member replaced: NULL key, as it is. */
static void write_manifest(const char *folder, const char *key, const char *value)
{
    static const char *const members[][2] = {
        {"format", "\"convoy-dataset\""},
        {"version", "1"},
        {"count", "5"},
        {"classes", "[\"a\", \"b\"]"},
        {"class_counts", "[2, 3]"},
        {"shape", "[3, 0, 32]"},
        {"encoded", "true"},
        {"mean", "[0.5, 0.25]"},
        {"deviation", "[0.1, 1]"},
        {"digest", "\"00000000000000ff\""},
    };
    char text[1024] = "{";
    size_t n = 1;

    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        const int is_it = key != NULL && strcmp(key, members[i][0]) == 0;
        n += (size_t)snprintf(text + n, sizeof text - n, "%s\"%s\": %s", i == 0 ? "" : ",",
                              members[i][0], is_it ? value : members[i][1]);
    }
    n += (size_t)snprintf(text + n, sizeof text - n, ", \"a member of later versions\": {}}");
    write_text(path_in(folder, "manifest.json"), text, n);
}

static void good_manifest_is_read(void **state)
{
    const char *folder = test_folder();
    dataset_manifest *manifest = NULL;

    (void)state;
    assert_ok(dataset_manifest_read(folder, &manifest));
    assert_null(manifest); /* none there */
    write_manifest(folder, NULL, NULL);
    assert_ok(dataset_manifest_read(folder, &manifest));
    assert_int_equal(manifest->n_records, 5);
    assert_int_equal(manifest->n_classes, 2);
    assert_string_equal(manifest->class_names[1], "b");
    assert_int_equal(manifest->class_counts[1], 3);
    assert_int_equal(manifest->channels, 3);
    assert_int_equal(manifest->width, 32);
    assert_int_equal(manifest->is_encoded, 1);
    assert_int_equal(manifest->n_stats, 2);
    assert_true(manifest->mean[1] == 0.25 && manifest->deviation[1] == 1.0);
    assert_int_equal(manifest->digest, 0xff);
    dataset_manifest_destroy(&manifest);
    dataset_manifest_destroy(&manifest);
}

static void written_manifest_reads_back(void **state)
{
    const char *folder = test_folder();
    char *names[] = {(char[]){"\xc3\xa9t\xc3\xa9 \"x\""}, (char[]){"b"}};
    int64_t counts[] = {1, 6};
    const dataset_manifest written = {.n_records = 7,
                                      .n_classes = 2,
                                      .class_names = names,
                                      .class_counts = counts,
                                      .channels = 1,
                                      .height = 28,
                                      .width = 29,
                                      .n_stats = 1,
                                      .mean = {0.1},
                                      .deviation = {1.0 / 3.0},
                                      .digest = 0xfedcba9876543210U};
    dataset_manifest *manifest = NULL;

    (void)state;
    assert_ok(dataset_manifest_write(folder, &written, "some folder"));
    assert_ok(dataset_manifest_read(folder, &manifest));
    assert_string_equal(manifest->class_names[0], names[0]);
    assert_int_equal(manifest->class_counts[1], 6);
    assert_int_equal(manifest->height, 28);
    assert_int_equal(manifest->is_encoded, 0);
    assert_true(manifest->mean[0] == 0.1 && manifest->deviation[0] == 1.0 / 3.0);
    assert_true(manifest->digest == written.digest);
    dataset_manifest_destroy(&manifest);
}

static void damaged_and_newer_manifests_are_refused_with_the_reason(void **state)
{
    static const struct {
        const char *key, *value, *text;
    } cases[] = {
        {"format", "\"else\"", "format is else, not \"convoy-dataset\""},
        {"format", "3", "format is lacking"},
        {"version", "2", "version 2 needs a newer convoy; this one reads up to version 1"},
        {"version", "0", "version is not a positive integer"},
        {"version", "\"1\"", "version is not a positive integer"},
        {"count", "0", "count is not a positive integer"},
        {"count", "5.5", "count is not a positive integer"},
        {"count", "6", "class_counts do not add up to count"},
        {"classes", "[]", "classes is not a list of 1 to"},
        {"classes", "[\"a\"]", "class_counts has 2 entries for 1 classes"},
        {"classes", "[\"a\", 1]", "the name of class 1 is no text"},
        {"class_counts", "[2, -1]", "class_counts do not add up to count"},
        {"class_counts", "[9223372036854775807, 9223372036854775807]", "do not add up"},
        {"shape", "[3, 32]", "shape is not"},
        {"shape", "[3, -1, 2]", "shape is not"},
        {"encoded", "1", "encoded is not true or false"},
        {"mean", "[0.5]", "1 means, but 2 deviations"},
        {"mean", "[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]", "mean is not a list of 1 to 16 numbers"},
        {"deviation", "[0.1, 0]", "deviation 1 is not a number from 1e-12 on"},
        {"digest", "\"00FF\"", "digest is not 16 hexadecimal digits"},
        {"digest", "}", "not JSON: line 1, column"},
    };
    const char *folder = test_folder();

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        dataset_manifest *manifest = NULL;
        write_manifest(folder, cases[i].key, cases[i].value);
        test_log_expect(cases[i].text);
        assert_status(dataset_manifest_read(folder, &manifest), CVY_ERR_BAD_DATA);
        if (!test_log_saw(cases[i].text)) fail_msg("no line said: %s", cases[i].text);
        assert_null(manifest);
    }
    assert_true(test_log_saw("/manifest.json: version 2"));
}

static void manifest_that_is_no_file_is_refused(void **state)
{
    const char *folder = test_folder();
    dataset_manifest *manifest = NULL;

    (void)state;
    assert_ok(cvy_file_make_folders(path_in(folder, "manifest.json")));
    test_log_expect("manifest.json is not a regular file");
    assert_status(dataset_manifest_read(folder, &manifest), CVY_ERR_BAD_DATA);
}

static void every_cut_of_a_manifest_is_refused(void **state)
{
    const char *folder = test_folder();
    const char *file = path_in(folder, "manifest.json");
    char *text = NULL;
    size_t size_bytes = 0;

    (void)state;
    write_manifest(folder, NULL, NULL);
    assert_ok(cvy_file_read(file, 4096, &text, &size_bytes, NULL));
    test_log_expect("not JSON");
    for (size_t n = 0; n < size_bytes; n++) {
        dataset_manifest *manifest = NULL;
        write_text(file, text, n);
        assert_status(dataset_manifest_read(folder, &manifest), CVY_ERR_BAD_DATA);
    }
    cvy_free(text);
}

static void number_names_are_numbers(void **state)
{
    char **names = dataset_number_names(1000001);

    (void)state;
    assert_non_null(names);
    assert_string_equal(names[0], "0");
    assert_string_equal(names[1000000], "1000000");
    cvy_free(names);
}

static void failed_allocations_are_reported_and_leak_nothing(void **state)
{
    const char *folder = test_folder();
    cvy_alloc_counts before;
    cvy_alloc_counts after;
    int k = 0;

    (void)state;
    write_manifest(folder, NULL, NULL);
    cvy_alloc_count(&before);
    test_log_expect("out of memory");
    for (;; k++) {
        dataset_manifest *manifest = NULL;
        cvy_alloc_fail_at(k);
        const cvy_status status = dataset_manifest_read(folder, &manifest);
        cvy_alloc_fail_at(-1);
        dataset_manifest_destroy(&manifest);
        cvy_alloc_count(&after);
        assert_int_equal(before.n_live, after.n_live);
        if (status == CVY_OK) break;
        assert_status(status, CVY_ERR_NO_MEMORY);
    }
    assert_true(k >= 7);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(good_manifest_is_read),
        cvy_unit_test(written_manifest_reads_back),
        cvy_unit_test(damaged_and_newer_manifests_are_refused_with_the_reason),
        cvy_unit_test(manifest_that_is_no_file_is_refused),
        cvy_unit_test(every_cut_of_a_manifest_is_refused),
        cvy_unit_test(number_names_are_numbers),
        cvy_unit_test(failed_allocations_are_reported_and_leak_nothing),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
