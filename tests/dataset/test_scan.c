#include "dataset/datum.pb-c.h"
#include "dataset/store.h"
#include "tests/dataset/store_support.h"

#include <string.h>

/* A record as Caffe writes it: no hash, no index. */
static MDB_val caffe_value(int32_t label, int width)
{
    static uint8_t pixels[64];
    Dataset__Datum message;
    MDB_val value;

    dataset__datum__init(&message);
    message.has_channels = message.has_height = message.has_width = 1;
    message.channels = message.height = 1;
    message.width = width;
    message.has_data = 1;
    message.data.len = (size_t)width;
    message.data.data = pixels;
    message.has_label = label != INT32_MIN;
    message.label = label;
    value.mv_size = dataset__datum__get_packed_size(&message);
    value.mv_data = malloc(value.mv_size);
    assert_non_null(value.mv_data);
    dataset__datum__pack(&message, value.mv_data);
    return value;
}

static void foreign_keys_are_numbered_in_their_order(void **state)
{
    /* The first two are what their place's number would be; then convert_imageset's kind. */
    static const char *const names[] = {"00000000", "00000001", "00000002_n01/a.jpg",
                                        "00000003_n01/b.jpg", "x\x01\xff"};
    const char *path = new_dataset_path();
    MDB_val keys[5];
    MDB_val values[5];
    dataset_store *store = NULL;
    dataset_reader *reader = NULL;
    cvy_reason reason;

    (void)state;
    for (int i = 0; i < 5; i++) {
        keys[i] = text_key(names[i]);
        values[i] = caffe_value(10 * i, 8);
    }
    make_foreign(path, 0, 5, keys, values);
    open_quietly(path, &store);
    assert_true(test_log_saw("no manifest.json beside it, so its 5 records are looked at once"));
    const dataset_info *info = dataset_store_info(store);
    assert_int_equal(info->n_records, 5);
    assert_int_equal(info->n_classes, 41);
    assert_string_equal(info->class_names[40], "40");
    assert_int_equal(info->width, 8);
    assert_int_equal(info->has_manifest, 0);
    assert_int_equal(info->n_channels_stat, 0);
    assert_true(info->digest == 0 && info->identity != 0);
    assert_ok(dataset_reader_create(store, &reader));
    for (int i = 4; i >= 0; i--) {
        dataset_datum datum;
        assert_ok(dataset_reader_get(reader, i, &datum, &reason));
        assert_int_equal(datum.label, 10 * i);
    }
    dataset_reader_destroy(&reader);
    assert_ok(dataset_store_verify(store, NULL, NULL, &reason));
    dataset_store_close(&store);
    for (int i = 0; i < 5; i++) free(values[i].mv_data);
}

static void bad_foreign_records_are_counted_and_named_by_reason(void **state)
{
    static const char *const names[] = {"00000000", "00000001", "00000002", "00000003",
                                        "00000004", "00000005", "00000006", "00000007"};
    static const char *const reasons[] = {NULL,
                                          "record of 0 bytes",
                                          "not a Datum message",
                                          "values, but it has 3",
                                          "it has no label",
                                          "label -5, but there are 2 classes",
                                          NULL,
                                          "record of 67108865 bytes, the limit is 67108864"};
    const char *path = new_dataset_path();
    MDB_val keys[8];
    MDB_val values[8];
    dataset_store *store = NULL;
    dataset_reader *reader = NULL;

    (void)state;
    for (int i = 0; i < 8; i++) {
        keys[i] = text_key(names[i]);
        values[i] = caffe_value(i == 4 ? INT32_MIN : i == 5 ? -5 : i == 6, 3);
    }
    values[1].mv_size = 0;
    values[2].mv_size = 1;
    ((uint8_t *)values[3].mv_data)[5] = 4; /* width */
    free(values[7].mv_data);
    values[7].mv_size = (size_t)DATASET_RECORD_LIMIT_BYTES + 1;
    values[7].mv_data = calloc(1, values[7].mv_size);
    make_foreign(path, 0, 8, keys, values);

    test_log_expect("6 of 8 records are bad, the first is '00000001': record of 0 bytes");
    open_quietly(path, &store);
    assert_int_equal(dataset_store_info(store)->n_classes, 2);
    assert_ok(dataset_reader_create(store, &reader));
    for (int i = 0; i < 8; i++) {
        dataset_datum datum;
        cvy_reason reason = {.text = ""};
        const cvy_status status = dataset_reader_get(reader, i, &datum, &reason);
        assert_status(status, reasons[i] == NULL ? CVY_OK : CVY_ERR_BAD_DATA);
        if (reasons[i] != NULL && strstr(reason.text, reasons[i]) == NULL) {
            fail_msg("record %d: %s", i, reason.text);
        }
    }
    dataset_reader_destroy(&reader);
    dataset_store_close(&store);
    for (int i = 0; i < 8; i++) free(values[i].mv_data);
}

static void identity_depends_on_the_records(void **state)
{
    uint64_t identities[3];

    (void)state;
    for (int i = 0; i < 3; i++) {
        const char *path = new_dataset_path();
        MDB_val keys[2] = {text_key("a"), text_key("b")};
        MDB_val values[2] = {caffe_value(0, 3), caffe_value(i == 2, 3)};
        dataset_store *store = NULL;
        make_foreign(path, 0, 2, keys, values);
        open_quietly(path, &store);
        identities[i] = dataset_store_info(store)->identity;
        dataset_store_close(&store);
        for (int k = 0; k < 2; k++) free(values[k].mv_data);
    }
    assert_true(identities[0] == identities[1]);
    assert_true(identities[0] != identities[2]);
}

static void two_stores_on_one_file_scan_it_once(void **state)
{
    const char *path = new_dataset_path();
    MDB_val key = text_key("a");
    MDB_val value = caffe_value(0, 3);
    dataset_store *a = NULL;
    dataset_store *b = NULL;

    (void)state;
    make_foreign(path, 0, 1, &key, &value);
    open_quietly(path, &a);
    assert_int_equal(test_log_reset(NULL), 0);
    open_quietly(path, &b);
    assert_false(test_log_saw("looked at once"));
    assert_int_equal(dataset_store_info(b)->n_classes, 1);
    dataset_store_close(&a);
    dataset_store_close(&b);
    free(value.mv_data);
}

static void failed_allocations_are_reported_and_leak_nothing(void **state)
{
    const char *path = new_dataset_path();
    MDB_val keys[2] = {text_key("a"), text_key("b")};
    MDB_val values[2] = {caffe_value(0, 3), caffe_value(1, 3)};

    (void)state;
    make_foreign(path, 0, 2, keys, values);
    fail_every_allocation(path);
    for (int i = 0; i < 2; i++) free(values[i].mv_data);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(foreign_keys_are_numbered_in_their_order),
        cvy_unit_test(bad_foreign_records_are_counted_and_named_by_reason),
        cvy_unit_test(identity_depends_on_the_records),
        cvy_unit_test(two_stores_on_one_file_scan_it_once),
        cvy_unit_test(failed_allocations_are_reported_and_leak_nothing),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
