#include "dataset/store.h"

#include "base/fault.h"
#include "tests/dataset/store_support.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>

static int count_entries(const char *folder)
{
    DIR *stream = opendir(folder);
    int n = 0;

    assert_non_null(stream);
    for (const struct dirent *entry; (entry = readdir(stream)) != NULL;) {
        n += entry->d_name[0] != '.';
    }
    closedir(stream);
    return n;
}

static dataset_datum tiny_record(int32_t label)
{
    static const uint8_t pixel[1] = {9};
    const dataset_datum datum = {.channels = 1,
                                 .height = 1,
                                 .width = 1,
                                 .label = label,
                                 .has_label = 1,
                                 .data = pixel,
                                 .data_bytes = 1};

    return datum;
}

static void folder_holds_the_database_and_its_manifest_alone(void **state)
{
    const char *folder = test_folder();
    const char *path = path_in(folder, "set.lmdb");
    struct stat info;
    dataset_writer *writer = NULL;
    const dataset_datum datum = tiny_record(0);

    (void)state;
    assert_ok(dataset_writer_create(path, NULL, &writer));
    assert_false(cvy_file_exists(path)); /* not before it is whole */
    assert_ok(dataset_writer_put(writer, &datum));
    assert_ok(dataset_writer_commit(&writer));
    assert_null(writer);
    assert_int_equal(count_entries(folder), 1);
    assert_int_equal(count_entries(path), 2);
    assert_int_equal(stat(path_in(path, "data.mdb"), &info), 0);
    assert_int_equal(info.st_mode & 0222, 0);
    assert_true(cvy_file_exists(path_in(path, "manifest.json")));
}

static void slash_at_the_end_of_the_path_is_fine(void **state)
{
    const char *folder = test_folder();
    const char *path = path_in(folder, "set/");
    dataset_writer *writer = NULL;
    const dataset_datum datum = tiny_record(0);

    (void)state;
    assert_ok(dataset_writer_create(path, NULL, &writer));
    assert_ok(dataset_writer_put(writer, &datum));
    assert_ok(dataset_writer_commit(&writer));
    assert_true(cvy_file_exists(path_in(folder, "set/data.mdb")));
}

static void classes_are_counted_when_not_given(void **state)
{
    const char *path = new_dataset_path();
    dataset_writer *writer = NULL;
    dataset_store *store = NULL;
    static const int32_t labels[] = {3, 0, 40, 3};

    (void)state;
    assert_ok(dataset_writer_create(path, NULL, &writer));
    for (int i = 0; i < 4; i++) {
        const dataset_datum datum = tiny_record(labels[i]);
        assert_ok(dataset_writer_put(writer, &datum));
    }
    assert_ok(dataset_writer_commit(&writer));
    open_quietly(path, &store);
    const dataset_info *info = dataset_store_info(store);
    assert_int_equal(info->n_classes, 41);
    assert_string_equal(info->class_names[40], "40");
    assert_int_equal(info->width, 1);
    dataset_store_close(&store);
}

static void map_grows_with_the_data(void **state)
{
    enum { WIDTH = 1 << 20, N = 140 }; /* twice the first map */
    const char *path = new_dataset_path();
    dataset_writer *writer = NULL;
    dataset_store *store = NULL;
    dataset_reader *reader = NULL;
    dataset_datum datum;
    uint8_t *pixels = malloc(WIDTH);

    (void)state;
    assert_non_null(pixels);
    assert_ok(dataset_writer_create(path, NULL, &writer));
    for (int i = 0; i < N; i++) {
        memset(pixels, i, WIDTH);
        datum = tiny_record(i % 2);
        datum.width = WIDTH;
        datum.data = pixels;
        datum.data_bytes = WIDTH;
        assert_ok(dataset_writer_put(writer, &datum));
    }
    free(pixels);
    assert_ok(dataset_writer_commit(&writer));
    open_quietly(path, &store);
    assert_ok(dataset_reader_create(store, &reader));
    for (int i = 0; i < N; i++) {
        assert_ok(dataset_reader_get(reader, i, &datum, NULL));
        assert_int_equal(datum.data[WIDTH - 1], i);
    }
    dataset_reader_destroy(&reader);
    dataset_store_close(&store);
}

/* More than one transaction. */
static void many_small_records_are_written_in_order(void **state)
{
    enum { N = 20000 };
    const char *path = new_dataset_path();
    dataset_writer *writer = NULL;
    dataset_store *store = NULL;
    dataset_reader *reader = NULL;
    dataset_datum datum;

    (void)state;
    assert_ok(dataset_writer_create(path, NULL, &writer));
    for (int i = 0; i < N; i++) {
        datum = tiny_record(i % 1000);
        assert_ok(dataset_writer_put(writer, &datum));
    }
    assert_ok(dataset_writer_commit(&writer));
    open_quietly(path, &store);
    assert_int_equal(dataset_store_info(store)->n_records, N);
    assert_ok(dataset_reader_create(store, &reader));
    for (int i = 0; i < N; i += 7) {
        assert_ok(dataset_reader_get(reader, i, &datum, NULL));
        assert_int_equal(datum.label, i % 1000);
    }
    dataset_reader_destroy(&reader);
    assert_ok(dataset_store_verify(store, NULL, NULL, NULL));
    dataset_store_close(&store);
}

static void existing_destination_is_left_alone(void **state)
{
    const char *folder = test_folder();
    const char *path = path_in(folder, "set.lmdb");
    dataset_writer *writer = NULL;
    const dataset_datum datum = tiny_record(0);

    (void)state;
    assert_ok(dataset_writer_create(path, NULL, &writer));
    assert_ok(dataset_writer_put(writer, &datum));
    write_text(path, "mine", 4); /* somebody was faster */
    test_log_expect("set.lmdb: exists already; remove it or choose another name");
    assert_status(dataset_writer_commit(&writer), CVY_ERR_CANNOT_WRITE);
    assert_null(writer);
    assert_status(dataset_writer_create(path, NULL, &writer), CVY_ERR_CANNOT_WRITE);
    assert_null(writer);
    assert_int_equal(count_entries(folder), 1);
}

static void discard_leaves_nothing(void **state)
{
    const char *folder = test_folder();
    dataset_writer *writer = NULL;
    const dataset_datum datum = tiny_record(0);

    (void)state;
    assert_ok(dataset_writer_create(path_in(folder, "set.lmdb"), NULL, &writer));
    assert_ok(dataset_writer_put(writer, &datum));
    assert_int_equal(count_entries(folder), 1);
    dataset_writer_discard(&writer);
    assert_null(writer);
    dataset_writer_discard(&writer);
    dataset_writer_discard(NULL);
    assert_int_equal(count_entries(folder), 0);
}

static void dataset_without_records_is_not_published(void **state)
{
    const char *folder = test_folder();
    dataset_writer *writer = NULL;

    (void)state;
    assert_ok(dataset_writer_create(path_in(folder, "set.lmdb"), NULL, &writer));
    test_log_expect("no records to write");
    assert_status(dataset_writer_commit(&writer), CVY_ERR_BAD_DATA);
    assert_int_equal(count_entries(folder), 0);
}

static void records_a_reader_would_refuse_are_refused(void **state)
{
    const dataset_writer_options options = {.n_classes = 2};
    const char *folder = test_folder();
    dataset_datum wrong[4] = {tiny_record(2), tiny_record(-1), tiny_record(0), tiny_record(0)};

    (void)state;
    wrong[2].has_label = 0;
    wrong[3].width = 2;
    test_log_expect("record 0 has label 2; 0 to 1 are possible");
    test_log_expect("record 0 has label -1;");
    test_log_expect("record 0 has no label");
    test_log_expect("2 values, but it has 1");
    for (int i = 0; i < 4; i++) {
        dataset_writer *writer = NULL;
        assert_ok(dataset_writer_create(path_in(folder, "set.lmdb"), &options, &writer));
        assert_status(dataset_writer_put(writer, &wrong[i]), CVY_ERR_BAD_DATA);
        /* What failed once is not published. */
        assert_status(dataset_writer_commit(&writer), CVY_ERR_BAD_DATA);
        assert_int_equal(count_entries(folder), 0);
    }
}

static void class_names_must_be_json_text(void **state)
{
    static const char *const names[] = {"\xff\xfe"};
    const dataset_writer_options options = {.n_classes = 1, .class_names = names};
    const char *folder = test_folder();
    dataset_writer *writer = NULL;
    const dataset_datum datum = tiny_record(0);

    (void)state;
    assert_ok(dataset_writer_create(path_in(folder, "set.lmdb"), &options, &writer));
    assert_ok(dataset_writer_put(writer, &datum));
    test_log_expect("is not UTF-8");
    assert_status(dataset_writer_commit(&writer), CVY_ERR_BAD_DATA);
    assert_int_equal(count_entries(folder), 0);
}

/* A limit on the size of files stands for a full disk. */
static int write_too_much(void *arg)
{
    const struct rlimit limit = {.rlim_cur = 300000, .rlim_max = 300000};
    dataset_writer *writer = NULL;
    uint8_t pixels[MAX_WIDTH];

    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 90;
    if (dataset_writer_create(arg, NULL, &writer) != CVY_OK) return 91;
    for (int64_t i = 0; i < 500; i++) {
        const dataset_datum datum = test_record(i, pixels);
        if (dataset_writer_put(writer, &datum) != CVY_OK) return 92;
    }
    return cvy_status_exit_code(dataset_writer_commit(&writer));
}

static void full_disk_cannot_write_and_leaves_nothing(void **state)
{
    const char *folder = test_folder();
    child_end end;

    (void)state;
    run_child(write_too_much, (void *)(uintptr_t)path_in(folder, "set.lmdb"), &end);
    assert_int_equal(end.exit_code, 73);
    assert_non_null(strstr(end.text, "set.lmdb.tmp-"));
    assert_non_null(strstr(end.text, "MiB are free there"));
    assert_int_equal(count_entries(folder), 0);
}

static int write_as_nobody(void *arg)
{
    dataset_writer *writer = NULL;

    if (become_nobody() != 0) return 99;
    return cvy_status_exit_code(dataset_writer_create(arg, NULL, &writer));
}

static void folder_without_permission_is_named(void **state)
{
    const char *path = new_dataset_path();
    child_end end;

    (void)state;
    open_to_nobody(path);
    assert_int_equal(chmod(test_folder(), 0755), 0);
    run_child(write_as_nobody, (void *)(uintptr_t)path, &end);
    /* The owner may write there, nobody may not. */
    assert_int_equal(end.exit_code, geteuid() == 0 ? 77 : 0);
    if (geteuid() == 0) assert_non_null(strstr(end.text, "Permission denied"));
}

/* arg: a path; CONVOY_FAULT says where to fail. */
static int write_under_a_fault(void *arg)
{
    const dataset_datum datum = tiny_record(0);
    dataset_writer *writer = NULL;

    cvy_fault_open(0);
    if (dataset_writer_create(arg, NULL, &writer) != CVY_OK) return 90;
    if (dataset_writer_put(writer, &datum) != CVY_OK) return 91;
    return cvy_status_exit_code(dataset_writer_commit(&writer));
}

static void failure_at_any_step_of_the_commit_leaves_nothing_by_the_final_name(void **state)
{
    static const struct {
        const char *fault;
        int exit_code, signal, n_left;
    } cases[] = {
        {"file.write=enospc", 73, 0, 0},
        {"file.fsync=eio", 74, 0, 0},
        {"file.rename=eio", 74, 0, 0},
        {"file.rename:count=2=eio", 74, 0, 0},        /* the first is the manifest's */
        {"file.rename:count=2=kill", -1, SIGKILL, 1}, /* the temporary folder */
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *folder = test_folder();
        const char *path = path_in(folder, "set.lmdb");
        child_end end;
        assert_int_equal(setenv("CONVOY_FAULT", cases[i].fault, 1), 0);
        run_child(write_under_a_fault, (void *)(uintptr_t)path, &end);
        assert_int_equal(unsetenv("CONVOY_FAULT"), 0);
        if (end.exit_code != cases[i].exit_code || end.signal != cases[i].signal) {
            fail_msg("%s: exit code %d, signal %d, %s", cases[i].fault, end.exit_code, end.signal,
                     end.text);
        }
        assert_false(cvy_file_exists(path));
        assert_int_equal(count_entries(folder), cases[i].n_left);
    }
}

static cvy_status write_small(const char *path)
{
    static const char *const names[] = {"a", "b"};
    const dataset_writer_options options = {.n_classes = 2, .class_names = names, .source = "s"};
    dataset_writer *writer = NULL;
    const dataset_datum datum = tiny_record(1);
    cvy_status status = dataset_writer_create(path, &options, &writer);

    if (status == CVY_OK) status = dataset_writer_put(writer, &datum);
    if (status == CVY_OK) return dataset_writer_commit(&writer);
    dataset_writer_discard(&writer);
    return status;
}

static void failed_allocations_are_reported_and_leave_nothing(void **state)
{
    const char *folder = test_folder();
    const char *path = path_in(folder, "set.lmdb");
    cvy_alloc_counts before;
    cvy_alloc_counts after;
    int k = 0;

    (void)state;
    cvy_alloc_count(&before);
    test_log_expect("out of memory");
    for (;; k++) {
        cvy_alloc_fail_at(k);
        const cvy_status status = write_small(path);
        cvy_alloc_fail_at(-1);
        cvy_alloc_count(&after);
        assert_int_equal(before.n_live, after.n_live);
        if (status == CVY_OK) break;
        assert_status(status, CVY_ERR_NO_MEMORY);
        /* Only the fsync of the parent, after the rename, may come too late to undo it. */
        if (cvy_file_exists(path)) assert_ok(cvy_file_remove_tree(path));
        assert_int_equal(count_entries(folder), 0);
    }
    assert_true(k > 12);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(folder_holds_the_database_and_its_manifest_alone),
        cvy_unit_test(slash_at_the_end_of_the_path_is_fine),
        cvy_unit_test(classes_are_counted_when_not_given),
        cvy_unit_test(map_grows_with_the_data),
        cvy_unit_test(many_small_records_are_written_in_order),
        cvy_unit_test(existing_destination_is_left_alone),
        cvy_unit_test(discard_leaves_nothing),
        cvy_unit_test(dataset_without_records_is_not_published),
        cvy_unit_test(records_a_reader_would_refuse_are_refused),
        cvy_unit_test(class_names_must_be_json_text),
        cvy_unit_test(full_disk_cannot_write_and_leaves_nothing),
        cvy_unit_test(folder_without_permission_is_named),
        cvy_unit_test(failure_at_any_step_of_the_commit_leaves_nothing_by_the_final_name),
        cvy_unit_test(failed_allocations_are_reported_and_leave_nothing),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
