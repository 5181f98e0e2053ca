#include "dataset/store.h"

#include "base/clock.h"
#include "base/rng.h"
#include "dataset/lmdb_check_internal.h"
#include "tests/dataset/store_support.h"

#include <pthread.h>
#include <string.h>

/* Opening must fail with this status, and a line with this text. */
static void expect_refused(const char *path, cvy_status status, const char *text)
{
    dataset_store *store = NULL;

    test_log_expect(text);
    const cvy_status got = dataset_store_open(path, NULL, &store);
    if (got != status) fail_msg("%s instead of %s", cvy_status_name(got), text);
    assert_null(store);
    if (!test_log_saw(text)) fail_msg("no line said: %s", text);
}

static void check_all_records(dataset_store *store, int64_t n)
{
    dataset_reader *reader = NULL;

    assert_int_equal(dataset_store_info(store)->n_records, n);
    assert_ok(dataset_reader_create(store, &reader));
    for (int64_t i = 0; i < n; i++) {
        dataset_datum datum;
        cvy_reason reason = {.text = ""};
        const int64_t idx = i * 7 % n; /* not in order, 7 does not divide n */
        if (dataset_reader_get(reader, idx, &datum, &reason) != CVY_OK) fail_msg("%s", reason.text);
        assert_true(is_test_record(&datum, idx));
        assert_int_equal(datum.has_hash, 1);
    }
    dataset_reader_destroy(&reader);
}

static void written_dataset_reads_back(void **state)
{
    const char *path = new_dataset_path();
    dataset_store *store = NULL;

    (void)state;
    make_dataset(path, 100);
    open_quietly(path, &store);
    const dataset_info *info = dataset_store_info(store);
    assert_int_equal(info->n_classes, 3);
    assert_string_equal(info->class_names[2], "cat");
    assert_int_equal(info->channels, 1);
    assert_int_equal(info->height, 1);
    assert_int_equal(info->width, 0); /* differs */
    assert_int_equal(info->is_encoded, 0);
    assert_int_equal(info->has_manifest, 1);
    assert_int_equal(info->n_channels_stat, 1);
    assert_true(info->mean[0] == 0.5 && info->deviation[0] > 0.35 && info->deviation[0] < 0.36);
    assert_true(info->digest != 0 && info->identity == info->digest);
    assert_string_equal(dataset_store_path(store), path);
    check_all_records(store, 100);
    assert_ok(dataset_store_verify(store, NULL, NULL, NULL));
    assert_ok(dataset_store_recheck(store));
    dataset_store_close(&store);
    assert_null(store);
    dataset_store_close(&store);
    dataset_store_close(NULL);
}

static void missing_paths_are_not_found(void **state)
{
    const char *folder = test_folder();
    const char *file = path_in(folder, "file");

    (void)state;
    expect_refused(path_in(folder, "none"), CVY_ERR_NOT_FOUND, "none: No such file or directory");
    write_text(file, "x", 1);
    expect_refused(file, CVY_ERR_NOT_FOUND, "not a folder; a dataset is a folder");
    expect_refused(folder, CVY_ERR_NOT_FOUND, "data.mdb: No such file or directory");
    assert_ok(cvy_file_make_folders(path_in(folder, "data.mdb")));
    expect_refused(folder, CVY_ERR_BAD_DATA, "data.mdb: not a regular file");
}

static int open_as_nobody(void *arg)
{
    dataset_store *store = NULL;

    if (become_nobody() != 0) return 99;
    return cvy_status_exit_code(dataset_store_open(arg, NULL, &store));
}

static void unreadable_file_is_permission_denied(void **state)
{
    const char *path = new_dataset_path();
    child_end end;

    (void)state;
    make_dataset(path, 5);
    open_to_nobody(path);
    assert_int_equal(chmod(path_in(path, "data.mdb"), 0), 0);
    run_child(open_as_nobody, (void *)(uintptr_t)path, &end);
    assert_int_equal(end.exit_code, 77);
    assert_non_null(strstr(end.text, "data.mdb: Permission denied"));
}

static void folder_that_cannot_hold_a_lock_is_read_without(void **state)
{
    const char *path = new_dataset_path();
    child_end end;

    (void)state;
    make_dataset(path, 5);
    open_to_nobody(path);
    assert_int_equal(chmod(path, 0555), 0);
    run_child(open_as_nobody, (void *)(uintptr_t)path, &end);
    assert_int_equal(chmod(path, 0755), 0);
    assert_int_equal(end.exit_code, 0);
    assert_non_null(strstr(end.text, "read without a lock file"));
}

static void files_that_are_no_lmdb_are_named_for_what_they_are(void **state)
{
    static const struct {
        long offset;
        uint8_t bytes[4];
        const char *text;
    } cases[] = {
        {16, {'P', 'N', 'G', 0}, "not an LMDB file: its magic number is 00474e50"},
        {16, {0xbe, 0xef, 0xc0, 0xde}, "a machine with the other byte order"},
        {12, {0xde, 0xc0, 0xef, 0xbe}, "an LMDB file of a 32-bit machine"},
        {20, {2, 0, 0, 0}, "LMDB data version 2, convoy reads version 1"},
        {40, {0, 0, 0, 0}, "page size 0;"},
        {40, {0, 0x18, 0, 0}, "page size 6144;"},
        {10, {0, 0, 0xde, 0xc0}, "damaged: meta page 0 has flags 0"},
        {4096 + 16, {1, 2, 3, 4}, "damaged: meta page 1 has flags 0x8, magic 04030201"},
        {4096 + 20, {9, 0, 0, 0}, "version 9 and page size 4096"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *path = new_dataset_path();
        const char *file = path_in(path, "data.mdb");
        make_dataset(path, 3);
        if (cases[i].offset == 12) poke(file, 16, "xxxx", 4);
        poke(file, cases[i].offset, cases[i].bytes, cases[i].offset == 10 ? 2 : 4);
        expect_refused(path, CVY_ERR_BAD_DATA, cases[i].text);
    }
}

static void empty_and_random_files_are_refused(void **state)
{
    const char *folder = test_folder();
    const char *file = path_in(folder, "data.mdb");
    uint8_t noise[9000];
    cvy_rng rng = cvy_rng_open(3, CVY_RNG_TEST, 0, 0);

    (void)state;
    write_text(file, "", 0);
    expect_refused(folder, CVY_ERR_BAD_DATA, "/data.mdb: empty");
    write_text(file, "hello", 5);
    expect_refused(folder, CVY_ERR_BAD_DATA, "file has 5 bytes, needs 8192");
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = (uint8_t)cvy_rng_u32(&rng);
    write_text(file, noise, sizeof noise);
    expect_refused(folder, CVY_ERR_BAD_DATA, "not an LMDB file: its magic number is");
    assert_false(cvy_file_exists(path_in(folder, "lock.mdb")));
}

static void file_cut_anywhere_says_what_it_needs(void **state)
{
    const char *path = new_dataset_path();
    const char *file = path_in(path, "data.mdb");
    struct stat info;

    (void)state;
    make_dataset(path, 60);
    assert_int_equal(stat(file, &info), 0);
    for (long size = (long)info.st_size - 1; size > 0; size = size * 4 / 5) {
        char text[100];
        assert_int_equal(truncate(file, size), 0);
        snprintf(text, sizeof text, "cut off: file has %ld bytes, needs %lld", size,
                 size < 8192 ? 8192LL : (long long)info.st_size);
        expect_refused(path, CVY_ERR_BAD_DATA, text);
    }
}

static void empty_or_odd_databases_are_refused(void **state)
{
    const char *path = new_dataset_path();
    MDB_val key = {.mv_size = 1, .mv_data = (char[]){"k"}};
    MDB_val value = {.mv_size = 1, .mv_data = (char[]){"v"}};

    (void)state;
    make_foreign(path, 0, 0, NULL, NULL);
    expect_refused(path, CVY_ERR_BAD_DATA, "holds no records");
    path = new_dataset_path();
    make_foreign(path, MDB_DUPSORT, 1, &key, &value);
    expect_refused(path, CVY_ERR_BAD_DATA, "no dataset: its database has the flags 0x4");
    path = new_dataset_path();
    make_foreign(path, 0, 1, &key, &value);
    expect_refused(path, CVY_ERR_BAD_DATA, "none of its 1 records can be used; record 'k': ");
}

static void manifest_must_fit_the_database(void **state)
{
    const char *path = new_dataset_path();
    const char *other = new_dataset_path();

    (void)state;
    make_dataset(path, 30);
    make_dataset(other, 31);
    assert_int_equal(rename(path_in(other, "data.mdb"), path_in(path, "data.mdb")), 0);
    expect_refused(path, CVY_ERR_BAD_DATA, "manifest.json says 30 records, data.mdb has 31");
}

static int stop_at_once(void *arg, int64_t n_done, int64_t n_all)
{
    *(int64_t *)arg = n_done * 1000 + n_all;
    return 1;
}

static void verify_finds_another_digest_and_stops_when_told(void **state)
{
    const char *path = new_dataset_path();
    dataset_store *store = NULL;
    cvy_reason reason;
    char digest[17];
    int64_t seen = 0;

    (void)state;
    make_dataset(path, 30);
    open_quietly(path, &store);
    snprintf(digest, sizeof digest, "%016llx",
             (unsigned long long)dataset_store_info(store)->digest);
    assert_status(dataset_store_verify(store, stop_at_once, &seen, &reason), CVY_ERR_STOPPED);
    assert_int_equal(seen, 30030);
    dataset_store_close(&store);
    edit_text(path_in(path, "manifest.json"), digest, "0123456789abcdef");
    open_quietly(path, &store);
    assert_status(dataset_store_verify(store, NULL, NULL, &reason), CVY_ERR_BAD_DATA);
    assert_non_null(strstr(reason.text, "manifest.json says 0123456789abcdef"));
    dataset_store_close(&store);
}

static void label_beyond_the_classes_is_a_bad_record(void **state)
{
    const char *path = new_dataset_path();
    dataset_store *store = NULL;
    dataset_reader *reader = NULL;
    dataset_datum datum;
    cvy_reason reason;

    (void)state;
    make_dataset(path, 3);
    static const char manifest[] =
        "{\"format\": \"convoy-dataset\", \"version\": 1, \"count\": 3, \"classes\": "
        "[\"a\", \"b\"], \"class_counts\": [2, 1], \"shape\": [1, 1, 0], \"encoded\": false, "
        "\"digest\": \"0000000000000000\"}";
    write_text(path_in(path, "manifest.json"), manifest, sizeof manifest - 1);
    open_quietly(path, &store);
    assert_ok(dataset_reader_create(store, &reader));
    assert_ok(dataset_reader_get(reader, 1, &datum, &reason));
    assert_status(dataset_reader_get(reader, 2, &datum, &reason), CVY_ERR_BAD_DATA);
    assert_string_equal(reason.text, "label 2, but there are 2 classes");
    test_log_expect("record 3 of 3 was asked for");
    assert_status(dataset_reader_get(reader, 3, &datum, &reason), CVY_ERR_INVALID_ARG);
    dataset_reader_destroy(&reader);
    dataset_store_close(&store);
}

static void lost_or_crossed_records_of_a_convoy_dataset_are_bad(void **state)
{
    const char *path = new_dataset_path();
    const char *from = new_dataset_path();
    dataset_store *store = NULL;
    dataset_reader *reader = NULL;
    dataset_datum datum;
    cvy_reason reason;
    MDB_env *env = NULL;
    MDB_txn *txn = NULL;
    MDB_dbi dbi = 0;
    MDB_val key = text_key("00000004");
    MDB_val value;
    char copy[MAX_WIDTH + 100];

    (void)state;
    make_dataset(path, 10);
    make_dataset(from, 10);
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_open(env, path, 0, 0664), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
    assert_int_equal(mdb_get(txn, dbi, &key, &value), 0);
    memcpy(copy, value.mv_data, value.mv_size);
    value.mv_data = copy;
    key = text_key("00000005"); /* record 4 in place of record 5 */
    assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
    key = text_key("00000006"); /* without its hash */
    value.mv_size -= 10;
    assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
    key = text_key("00000007"); /* under another key */
    assert_int_equal(mdb_del(txn, dbi, &key, NULL), 0);
    key = text_key("0000000x");
    assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);

    open_quietly(path, &store);
    assert_ok(dataset_reader_create(store, &reader));
    assert_ok(dataset_reader_get(reader, 4, &datum, &reason));
    assert_status(dataset_reader_get(reader, 5, &datum, &reason), CVY_ERR_BAD_DATA);
    assert_string_equal(reason.text, "damaged: record 4 stands in the place of record 5");
    assert_status(dataset_reader_get(reader, 6, &datum, &reason), CVY_ERR_BAD_DATA);
    assert_string_equal(reason.text, "damaged: it has lost its hash");
    assert_status(dataset_reader_get(reader, 7, &datum, &reason), CVY_ERR_BAD_DATA);
    assert_string_equal(reason.text, "damaged: key '00000007' cannot be found");
    assert_status(dataset_store_verify(store, NULL, NULL, &reason), CVY_ERR_BAD_DATA);
    assert_non_null(strstr(reason.text, "record 5: damaged"));
    dataset_reader_destroy(&reader);
    dataset_store_close(&store);
}

static void stores_on_one_file_share_it(void **state)
{
    const char *path = new_dataset_path();
    const char *link = path_in(test_folder(), "link");
    dataset_store *a = NULL;
    dataset_store *b = NULL;

    (void)state;
    make_dataset(path, 50);
    assert_int_equal(symlink(path, link), 0);
    open_quietly(path, &a);
    open_quietly(link, &b);
    check_all_records(a, 50);
    dataset_store_close(&a);
    check_all_records(b, 50);
    open_quietly(path, &a);
    check_all_records(a, 50);
    dataset_store_close(&b);
    dataset_store_close(&a);
}

/* What one of several threads does. */
static void *open_read_close(void *arg)
{
    for (int round = 0; round < 20; round++) {
        dataset_store *store = NULL;
        dataset_reader *reader = NULL;
        dataset_datum datum;
        cvy_status status = dataset_store_open(arg, NULL, &store);
        if (status == CVY_OK) status = dataset_reader_create(store, &reader);
        for (int64_t i = 0; status == CVY_OK && i < 50; i++) {
            status = dataset_reader_get(reader, i, &datum, NULL);
            if (status == CVY_OK && !is_test_record(&datum, i)) status = CVY_ERR_BAD_DATA;
        }
        dataset_reader_destroy(&reader);
        dataset_store_close(&store);
        if (status != CVY_OK) return arg;
    }
    return NULL;
}

static void threads_open_read_and_close_at_once(void **state)
{
    const char *path = new_dataset_path();
    pthread_t threads[4];

    (void)state;
    make_dataset(path, 50);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(
            pthread_create(&threads[i], NULL, open_read_close, (void *)(uintptr_t)path), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *failed = NULL;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
}

/* Two readers in one thread are what LMDB refuses without MDB_NOTLS. */
static void views_of_two_readers_live_side_by_side(void **state)
{
    const char *path = new_dataset_path();
    dataset_store *store = NULL;
    dataset_reader *a = NULL;
    dataset_reader *b = NULL;
    dataset_datum datum_a;
    dataset_datum datum_b;

    (void)state;
    make_dataset(path, 9);
    open_quietly(path, &store);
    assert_ok(dataset_reader_create(store, &a));
    assert_ok(dataset_reader_create(store, &b));
    assert_ok(dataset_reader_get(a, 2, &datum_a, NULL));
    assert_ok(dataset_reader_get(b, 8, &datum_b, NULL));
    assert_true(is_test_record(&datum_a, 2) && is_test_record(&datum_b, 8));
    dataset_reader_destroy(&a);
    assert_true(is_test_record(&datum_b, 8));
    dataset_reader_destroy(&b);
    dataset_store_close(&store);
}

static int read_across_fork(void *arg)
{
    dataset_reader *reader = arg;
    dataset_datum datum;

    return cvy_status_exit_code(dataset_reader_get(reader, 0, &datum, NULL));
}

static int open_after_fork(void *arg)
{
    return open_read_close(arg) == NULL ? 0 : 1;
}

static void reader_is_not_used_across_fork(void **state)
{
    const char *path = new_dataset_path();
    dataset_store *store = NULL;
    dataset_reader *reader = NULL;
    child_end end;

    (void)state;
    make_dataset(path, 50);
    open_quietly(path, &store);
    assert_ok(dataset_reader_create(store, &reader));
    run_child(read_across_fork, reader, &end);
    assert_int_equal(end.exit_code, 70);
    assert_non_null(strstr(end.text, "read across fork(2)"));
    run_child(open_after_fork, (void *)(uintptr_t)path, &end);
    assert_int_equal(end.exit_code, 0);
    dataset_reader_destroy(&reader);
    check_all_records(store, 50);
    dataset_store_close(&store);
}

static void reading_does_not_allocate(void **state)
{
    const char *path = new_dataset_path();
    dataset_store *store = NULL;
    dataset_reader *reader = NULL;
    cvy_alloc_counts before;
    cvy_alloc_counts after;
    dataset_datum datum;

    (void)state;
    make_dataset(path, 20);
    open_quietly(path, &store);
    assert_ok(dataset_reader_create(store, &reader));
    cvy_alloc_count(&before);
    for (int64_t i = 0; i < 20; i++) assert_ok(dataset_reader_get(reader, i, &datum, NULL));
    cvy_alloc_count(&after);
    assert_int_equal(before.n_ever, after.n_ever);
    dataset_reader_destroy(&reader);
    dataset_store_close(&store);
}

static void network_file_systems_are_known_by_name(void **state)
{
    (void)state;
    assert_string_equal(dataset_network_fs_name(0x6969), "NFS");
    assert_string_equal(dataset_network_fs_name(0x0bd00bd0), "Lustre");
    assert_string_equal(dataset_network_fs_name(0xff534d42), "CIFS");
    assert_string_equal(dataset_network_fs_name(0xffffffffff534d42), "CIFS"); /* sign-extended */
    assert_null(dataset_network_fs_name(0xef53));                             /* ext4 */
    assert_null(dataset_network_fs_name(0x58465342));                         /* XFS */
    assert_null(dataset_network_fs_name(0x01021994));                         /* tmpfs */
}

static void failed_allocations_are_reported_and_leak_nothing(void **state)
{
    const char *path = new_dataset_path();

    (void)state;
    make_dataset(path, 3);
    fail_every_allocation(path);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(written_dataset_reads_back),
        cvy_unit_test(missing_paths_are_not_found),
        cvy_unit_test(unreadable_file_is_permission_denied),
        cvy_unit_test(folder_that_cannot_hold_a_lock_is_read_without),
        cvy_unit_test(files_that_are_no_lmdb_are_named_for_what_they_are),
        cvy_unit_test(empty_and_random_files_are_refused),
        cvy_unit_test(file_cut_anywhere_says_what_it_needs),
        cvy_unit_test(empty_or_odd_databases_are_refused),
        cvy_unit_test(manifest_must_fit_the_database),
        cvy_unit_test(verify_finds_another_digest_and_stops_when_told),
        cvy_unit_test(label_beyond_the_classes_is_a_bad_record),
        cvy_unit_test(lost_or_crossed_records_of_a_convoy_dataset_are_bad),
        cvy_unit_test(stores_on_one_file_share_it),
        cvy_unit_test(threads_open_read_and_close_at_once),
        cvy_unit_test(views_of_two_readers_live_side_by_side),
        cvy_unit_test(reader_is_not_used_across_fork),
        cvy_unit_test(reading_does_not_allocate),
        cvy_unit_test(network_file_systems_are_known_by_name),
        cvy_unit_test(failed_allocations_are_reported_and_leak_nothing),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
