#include "dataset/datum.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "dataset/datum.pb-c.h"
#include "dataset/datum_internal.h"
#include "tests/support/test_support.h"

#include <stdlib.h>
#include <string.h>

#define MAX_BYTES 4096

static dataset_datum_scratch *scratch;

static int open_all(void **state)
{
    if (test_log_open(state) != 0) return -1;
    return dataset_datum_scratch_create(&scratch) == CVY_OK ? 0 : -1;
}

static int close_all(void **state)
{
    dataset_datum_scratch_destroy(&scratch);
    return test_log_close(state);
}

/* Parse from a block of exactly this size, so that a sanitizer sees a read beyond it. */
static cvy_status parse_exact(const uint8_t *bytes, size_t size_bytes, dataset_datum *out,
                              cvy_reason *reason)
{
    static uint8_t *block;

    free(block);
    block = malloc(size_bytes == 0 ? 1 : size_bytes);
    assert_non_null(block);
    if (size_bytes > 0) memcpy(block, bytes, size_bytes);
    reason->text[0] = '\0';
    return dataset_datum_parse(block, size_bytes, scratch, out, reason);
}

static void expect_bad(const uint8_t *bytes, size_t size_bytes, const char *part)
{
    dataset_datum datum;
    cvy_reason reason;

    assert_status(parse_exact(bytes, size_bytes, &datum, &reason), CVY_ERR_BAD_DATA);
    if (strstr(reason.text, part) == NULL) {
        fail_msg("the reason is '%s', without '%s'", reason.text, part);
    }
}

static dataset_datum raw_picture(const uint8_t *pixels)
{
    const dataset_datum datum = {.channels = 3,
                                 .height = 2,
                                 .width = 2,
                                 .label = 7,
                                 .has_label = 1,
                                 .data = pixels,
                                 .data_bytes = 12};

    return datum;
}

static void expect_equal(const dataset_datum *a, const dataset_datum *b)
{
    assert_int_equal(a->channels, b->channels);
    assert_int_equal(a->height, b->height);
    assert_int_equal(a->width, b->width);
    assert_int_equal(a->depth, b->depth);
    assert_int_equal(a->label, b->label);
    assert_int_equal(a->has_label, b->has_label);
    assert_int_equal(a->is_encoded, b->is_encoded);
    assert_int_equal(a->has_index, b->has_index);
    assert_int_equal(a->index, b->index);
    assert_int_equal(a->data_bytes, b->data_bytes);
    if (a->data_bytes > 0) assert_memory_equal(a->data, b->data, a->data_bytes);
    assert_int_equal(a->n_floats, b->n_floats);
    if (a->n_floats > 0) {
        assert_memory_equal(a->float_data, b->float_data, a->n_floats * sizeof(float));
    }
}

static void expect_round_trip(const dataset_datum *datum)
{
    uint8_t *bytes = NULL;
    size_t size_bytes = 0;
    dataset_datum back;
    cvy_reason reason;

    assert_ok(dataset_datum_pack(datum, &bytes, &size_bytes));
    assert_ok(parse_exact(bytes, size_bytes, &back, &reason));
    expect_equal(datum, &back);
    assert_int_equal(back.has_hash, 1);
    assert_true(dataset_datum_digest(bytes, size_bytes) !=
                dataset_datum_digest(bytes, size_bytes - 1));
    cvy_free(bytes);
}

static const uint8_t pixels12[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 254, 255};

static void packed_records_parse_to_what_they_were(void **state)
{
    static const float values[8] = {0.0f, -1.5f, 3e38f, 1e-40f, 5, 6, 7, 8};
    const dataset_datum raw = raw_picture(pixels12);
    dataset_datum numbered = raw;
    const dataset_datum encoded = {
        .is_encoded = 1, .label = 0, .has_label = 1, .data = pixels12, .data_bytes = 5};
    const dataset_datum volume = {.channels = 1,
                                  .depth = 2,
                                  .height = 2,
                                  .width = 2,
                                  .label = -3,
                                  .has_label = 1,
                                  .float_data = values,
                                  .n_floats = 8};
    const dataset_datum unlabelled = {
        .channels = 1, .height = 3, .width = 4, .data = pixels12, .data_bytes = 12};

    (void)state;
    numbered.has_index = 1;
    numbered.index = 99999999;
    expect_round_trip(&raw);
    expect_round_trip(&numbered);
    expect_round_trip(&encoded);
    expect_round_trip(&volume);
    expect_round_trip(&unlabelled);
}

/* Byte for byte what convert_imageset stores for a 2 x 2 colour picture of class 7. */
static const uint8_t caffe_record[] = {0x08, 3, 0x10, 2, 0x18, 2, 0x22, 12,  0,    1, 2,    3,
                                       4,    5, 6,    7, 8,    9, 254,  255, 0x28, 7, 0x38, 0};

static void record_of_caffe_is_read_as_it_is(void **state)
{
    const dataset_datum expected = raw_picture(pixels12);
    dataset_datum datum;
    cvy_reason reason;

    (void)state;
    assert_ok(parse_exact(caffe_record, sizeof caffe_record, &datum, &reason));
    expect_equal(&expected, &datum);
    assert_int_equal(datum.has_hash, 0);
}

static void unpacked_and_packed_floats_are_the_same(void **state)
{
    /* 1 x 1 x 2: two fields of wire type 5; one packed field; one of each. */
    static const uint8_t apart[] = {8, 1,    0x10, 1,    0x18, 2, 0x35, 0,
                                    0, 0x80, 0x3f, 0x35, 0,    0, 0,    0x40};
    static const uint8_t packed[] = {8, 1, 0x10, 1,    0x18, 2, 0x32, 8,
                                     0, 0, 0x80, 0x3f, 0,    0, 0,    0x40};
    static const uint8_t mixed[] = {8, 1,    0x10, 1,    0x18, 2, 0x32, 4,   0,
                                    0, 0x80, 0x3f, 0x35, 0,    0, 0,    0x40};
    const struct {
        const uint8_t *bytes;
        size_t size_bytes;
    } cases[] = {{apart, sizeof apart}, {packed, sizeof packed}, {mixed, sizeof mixed}};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        dataset_datum datum;
        cvy_reason reason;
        assert_ok(parse_exact(cases[i].bytes, cases[i].size_bytes, &datum, &reason));
        assert_int_equal(datum.n_floats, 2);
        assert_true(datum.float_data[0] == 1.0f && datum.float_data[1] == 2.0f);
    }
}

static void unknown_fields_are_skipped(void **state)
{
    uint8_t bytes[sizeof caffe_record + 16];
    /* Field 15 of each wire type. */
    static const uint8_t unknown[] = {0x78, 0xff, 1, 0x7a, 2, 9, 9, 0x7d, 1, 2, 3, 4};
    dataset_datum datum;
    cvy_reason reason;

    (void)state;
    memcpy(bytes, unknown, sizeof unknown);
    memcpy(bytes + sizeof unknown, caffe_record, sizeof caffe_record);
    assert_ok(parse_exact(bytes, sizeof unknown + sizeof caffe_record, &datum, &reason));
    assert_int_equal(datum.label, 7);
}

static void length_out_of_bounds_is_refused_unread(void **state)
{
    dataset_datum datum;
    cvy_reason reason;

    (void)state;
    expect_bad(caffe_record, 0, "record of 0 bytes");
    expect_bad(caffe_record, 1, "the field at byte 0 of 1");
    assert_status(dataset_datum_parse(caffe_record, (size_t)DATASET_RECORD_LIMIT_BYTES + 1, scratch,
                                      &datum, &reason),
                  CVY_ERR_BAD_DATA);
    assert_string_equal(reason.text, "record of 67108865 bytes, the limit is 67108864");
    assert_status(dataset_datum_parse(caffe_record, SIZE_MAX, scratch, &datum, &reason),
                  CVY_ERR_BAD_DATA);
}

static void no_prefix_of_a_record_is_accepted(void **state)
{
    uint8_t *bytes = NULL;
    size_t size_bytes = 0;
    dataset_datum datum = raw_picture(pixels12);
    cvy_reason reason;

    (void)state;
    assert_ok(dataset_datum_pack(&datum, &bytes, &size_bytes));
    for (size_t n = 0; n < size_bytes; n++) {
        const cvy_status status = parse_exact(bytes, n, &datum, &reason);
        /* Without its last fields a record may still be whole; that its hash is lost is seen by
         * who knows that it had one. */
        if (status == CVY_OK) assert_int_equal(datum.has_hash, 0);
        if (n < 20) assert_status(status, CVY_ERR_BAD_DATA);
    }
    cvy_free(bytes);
}

static void no_flipped_bit_is_accepted_under_a_hash(void **state)
{
    uint8_t *bytes = NULL;
    size_t size_bytes = 0;
    const dataset_datum expected = raw_picture(pixels12);
    cvy_reason reason;

    (void)state;
    assert_ok(dataset_datum_pack(&expected, &bytes, &size_bytes));
    for (size_t bit = 0; bit < 8 * size_bytes; bit++) {
        dataset_datum datum;
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        const cvy_status status = parse_exact(bytes, size_bytes, &datum, &reason);
        if (status == CVY_OK) { /* the tag of the hash is what was hit */
            assert_int_equal(datum.has_hash, 0);
            expect_equal(&expected, &datum);
        }
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    bytes[10] ^= 1;
    expect_bad(bytes, size_bytes, "damaged: its hash is ");
    cvy_free(bytes);
}

static void hash_that_is_not_last_is_refused(void **state)
{
    uint8_t *bytes = NULL;
    size_t size_bytes = 0;
    const dataset_datum datum = raw_picture(pixels12);
    uint8_t longer[128];

    (void)state;
    assert_ok(dataset_datum_pack(&datum, &bytes, &size_bytes));
    memcpy(longer, bytes, size_bytes);
    longer[size_bytes] = 0x28; /* another label behind it */
    longer[size_bytes + 1] = 3;
    expect_bad(longer, size_bytes + 2, "its hash is not the last field");
    cvy_free(bytes);
}

/* A message with these varint fields and n bytes of data. */
static size_t compose(uint8_t *out, int64_t channels, int64_t height, int64_t width, size_t n)
{
    const int64_t dims[3] = {channels, height, width};
    size_t at = 0;

    for (size_t i = 0; i < 3; i++) {
        uint64_t value = (uint64_t)dims[i];
        out[at++] = (uint8_t)(8 * (i + 1));
        for (; value >= 0x80; value >>= 7) out[at++] = (uint8_t)(value | 0x80);
        out[at++] = (uint8_t)value;
    }
    out[at++] = 0x22;
    out[at++] = (uint8_t)n;
    memset(out + at, 1, n);
    return at + n;
}

static void dimensions_that_cannot_be_are_refused_without_allocation(void **state)
{
    static const struct {
        int64_t channels, height, width;
        size_t n;
        const char *part;
    } cases[] = {
        {0, 2, 2, 12, "channels is 0"},
        {3, 0, 2, 12, "height is 0"},
        {3, 2, -1, 12, "width is -1"},
        {3, 2, (int64_t)1 << 31, 12, "width is -2147483648"},
        {INT32_MAX, INT32_MAX, INT32_MAX, 12, "more than can be counted"},
        {INT32_MAX, INT32_MAX, 1, 12, "values, but it has 12"},
        {3, 2, 2, 11,
         "3 x 1 x 2 x 2 (channels, depth, height, width) are 12 values, but it has 11"},
        {3, 2, 2, 13, "12 values, but it has 13"},
        {3, 2, 2, 0, "12 values, but it has 0"},
    };
    uint8_t bytes[128];
    cvy_alloc_counts before;
    cvy_alloc_counts after;

    (void)state;
    cvy_alloc_count(&before);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const size_t n = compose(bytes, cases[i].channels, cases[i].height, cases[i].width,
                                 cases[i].n);
        expect_bad(bytes, n, cases[i].part);
    }
    cvy_alloc_count(&after);
    assert_int_equal(before.n_ever, after.n_ever);
}

static void fields_of_a_wrong_kind_are_refused(void **state)
{
    static const struct {
        uint8_t bytes[12];
        size_t n;
        const char *part;
    } cases[] = {
        {{0x0a, 1, 3}, 3, "field 1 has wire type 2"},       /* channels as bytes */
        {{0x20, 1}, 2, "field 4 has wire type 0"},          /* data as a number */
        {{0x32, 3, 1, 2, 3}, 5, "field 6 has wire type 2"}, /* three bytes of floats */
        {{0xa8, 6, 1}, 3, "field 101 has wire type 0"},
        {{0x0b}, 1, "the field at byte 0 of 1"},    /* a group */
        {{0x00, 1}, 2, "the field at byte 0 of 2"}, /* field 0 */
        {{0x22, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
         11,
         "the field at byte 0"},
        {{0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2},
         11,
         "the field at byte 0"},
        {{0x38, 1}, 2, "says encoded, but has no data"},
        {{0x22, 1, 5, 0x35, 0, 0, 0, 0}, 8, "has both data and float_data"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        expect_bad(cases[i].bytes, cases[i].n, cases[i].part);
    }
}

/* A random record that may be a good one. */
static size_t random_message(cvy_rng *rng, uint8_t *out)
{
    static uint8_t pixels[512];
    static float floats[128];
    Dataset__Datum message;

    dataset__datum__init(&message);
    message.has_channels = message.has_height = message.has_width = 1;
    message.channels = (int32_t)cvy_rng_below(rng, 3) + 1;
    message.height = (int32_t)cvy_rng_below(rng, 4) + 1;
    message.width = (int32_t)cvy_rng_below(rng, 4) + 1;
    const size_t n = (size_t)(message.channels * message.height * message.width);
    message.has_label = cvy_rng_below(rng, 4) > 0;
    message.label = (int32_t)cvy_rng_u32(rng);
    message.has_index = cvy_rng_below(rng, 2) > 0;
    message.index = (int64_t)cvy_rng_u64(rng);
    for (size_t i = 0; i < n; i++) {
        pixels[i] = (uint8_t)cvy_rng_u32(rng);
        floats[i] = cvy_rng_normal(rng);
    }
    if (cvy_rng_below(rng, 2) == 0) {
        message.has_data = 1;
        message.data.len = n;
        message.data.data = pixels;
    } else {
        message.n_float_data = n;
        message.float_data = floats;
    }
    assert_true(dataset__datum__get_packed_size(&message) <= MAX_BYTES);
    return dataset__datum__pack(&message, out);
}

/* What the reader accepts, the generated unpacker accepts too, with the same values. */
static void compare_with_generated(const uint8_t *bytes, size_t n, int *n_accepted)
{
    dataset_datum datum;
    cvy_reason reason;

    if (parse_exact(bytes, n, &datum, &reason) != CVY_OK) return;
    Dataset__Datum *message = dataset__datum__unpack(NULL, n, bytes);
    assert_non_null(message);
    const dataset_datum expected = {.channels = message->channels,
                                    .height = message->height,
                                    .width = message->width,
                                    .depth = message->depth,
                                    .label = message->label,
                                    .has_label = message->has_label,
                                    .is_encoded = message->encoded,
                                    .index = message->index,
                                    .has_index = message->has_index,
                                    .data = message->data.data,
                                    .data_bytes = message->data.len,
                                    .float_data = message->float_data,
                                    .n_floats = message->n_float_data};
    expect_equal(&expected, &datum);
    dataset__datum__free_unpacked(message, NULL);
    (*n_accepted)++;
}

static void random_messages_read_as_the_generated_code_reads_them(void **state)
{
    cvy_rng rng = cvy_rng_open(1, CVY_RNG_TEST, 0, 0);
    uint8_t bytes[MAX_BYTES];
    int n_whole = 0;
    int n_changed = 0;

    (void)state;
    for (int i = 0; i < 3000; i++) {
        const size_t n = random_message(&rng, bytes);
        compare_with_generated(bytes, n, &n_whole);
        bytes[cvy_rng_below(&rng, (uint32_t)n)] ^= (uint8_t)(1u << cvy_rng_below(&rng, 8));
        compare_with_generated(bytes, n, &n_changed);
    }
    assert_int_equal(n_whole, 3000);
    assert_in_range(n_changed, 500, 2999);
}

static void random_bytes_are_never_read_beyond_their_end(void **state)
{
    cvy_rng rng = cvy_rng_open(2, CVY_RNG_TEST, 0, 0);
    uint8_t bytes[64];
    int n_accepted = 0;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        const size_t n = cvy_rng_below(&rng, sizeof bytes);
        for (size_t k = 0; k < n; k++) {
            /* Mostly tags of known fields and small numbers: pure noise ends at the first byte. */
            const uint32_t kind = cvy_rng_below(&rng, 3);
            static const uint8_t tags[] = {0x08, 0x10, 0x18, 0x22, 0x28, 0x35, 0x32, 0x38};
            bytes[k] = kind == 0   ? tags[cvy_rng_below(&rng, 8)]
                       : kind == 1 ? (uint8_t)cvy_rng_below(&rng, 4)
                                   : (uint8_t)cvy_rng_u32(&rng);
        }
        compare_with_generated(bytes, n, &n_accepted);
    }
}

static void outline_agrees_with_parse_but_for_the_hash(void **state)
{
    uint8_t *bytes = NULL;
    size_t size_bytes = 0;
    const dataset_datum expected = raw_picture(pixels12);
    dataset_datum datum;
    cvy_reason reason;

    (void)state;
    assert_ok(dataset_datum_pack(&expected, &bytes, &size_bytes));
    assert_ok(dataset_datum_outline(bytes, size_bytes, &datum, &reason));
    expect_equal(&expected, &datum);
    bytes[10] ^= 1; /* in the payload: not looked at */
    assert_ok(dataset_datum_outline(bytes, size_bytes, &datum, &reason));
    cvy_free(bytes);
}

static void records_that_would_be_refused_are_not_packed(void **state)
{
    uint8_t *bytes = NULL;
    size_t size_bytes = 0;
    dataset_datum wrong = raw_picture(pixels12);
    const dataset_datum large = {
        .is_encoded = 1, .data = pixels12, .data_bytes = (size_t)DATASET_RECORD_LIMIT_BYTES};

    (void)state;
    wrong.data_bytes = 11;
    test_log_expect("12 values, but it has 11");
    assert_status(dataset_datum_pack(&wrong, &bytes, &size_bytes), CVY_ERR_BAD_DATA);
    test_log_expect("bytes, the limit is 67108864");
    assert_status(dataset_datum_pack(&large, &bytes, &size_bytes), CVY_ERR_BAD_DATA);
    assert_null(bytes);
}

static void parsing_does_not_allocate_once_warm(void **state)
{
    static const float values[6] = {1, 2, 3, 4, 5, 6};
    const dataset_datum datum = {
        .channels = 1, .height = 2, .width = 3, .float_data = values, .n_floats = 6};
    uint8_t *bytes = NULL;
    size_t size_bytes = 0;
    dataset_datum back;
    cvy_reason reason;
    cvy_alloc_counts before;
    cvy_alloc_counts after;

    (void)state;
    assert_ok(dataset_datum_pack(&datum, &bytes, &size_bytes));
    assert_ok(dataset_datum_parse(bytes, size_bytes, scratch, &back, &reason));
    cvy_alloc_count(&before);
    for (int i = 0; i < 10; i++) {
        assert_ok(dataset_datum_parse(bytes, size_bytes, scratch, &back, &reason));
    }
    cvy_alloc_count(&after);
    assert_int_equal(before.n_ever, after.n_ever);
    cvy_free(bytes);
}

/* Everything that allocates, in one go. */
static cvy_status pack_and_parse(void)
{
    static const float values[2] = {1, 2};
    const dataset_datum datum = {
        .channels = 1, .height = 1, .width = 2, .float_data = values, .n_floats = 2};
    dataset_datum_scratch *own = NULL;
    uint8_t *bytes = NULL;
    size_t size_bytes = 0;
    dataset_datum back;
    cvy_status status = dataset_datum_scratch_create(&own);

    if (status == CVY_OK) status = dataset_datum_pack(&datum, &bytes, &size_bytes);
    if (status == CVY_OK) status = dataset_datum_parse(bytes, size_bytes, own, &back, NULL);
    cvy_free(bytes);
    dataset_datum_scratch_destroy(&own);
    return status;
}

static void failed_allocations_are_reported_and_leak_nothing(void **state)
{
    cvy_alloc_counts before;
    cvy_alloc_counts after;
    int k = 0;

    (void)state;
    cvy_alloc_count(&before);
    test_log_expect("out of memory");
    for (;; k++) {
        cvy_alloc_fail_at(k);
        const cvy_status status = pack_and_parse();
        cvy_alloc_fail_at(-1);
        cvy_alloc_count(&after);
        assert_int_equal(before.n_live, after.n_live);
        if (status == CVY_OK) break;
        assert_status(status, CVY_ERR_NO_MEMORY);
    }
    assert_int_equal(k, 3);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(packed_records_parse_to_what_they_were),
        cvy_unit_test(record_of_caffe_is_read_as_it_is),
        cvy_unit_test(unpacked_and_packed_floats_are_the_same),
        cvy_unit_test(unknown_fields_are_skipped),
        cvy_unit_test(length_out_of_bounds_is_refused_unread),
        cvy_unit_test(no_prefix_of_a_record_is_accepted),
        cvy_unit_test(no_flipped_bit_is_accepted_under_a_hash),
        cvy_unit_test(hash_that_is_not_last_is_refused),
        cvy_unit_test(dimensions_that_cannot_be_are_refused_without_allocation),
        cvy_unit_test(fields_of_a_wrong_kind_are_refused),
        cvy_unit_test(random_messages_read_as_the_generated_code_reads_them),
        cvy_unit_test(random_bytes_are_never_read_beyond_their_end),
        cvy_unit_test(outline_agrees_with_parse_but_for_the_hash),
        cvy_unit_test(records_that_would_be_refused_are_not_packed),
        cvy_unit_test(parsing_does_not_allocate_once_warm),
        cvy_unit_test(failed_allocations_are_reported_and_leak_nothing),
    };

    return cmocka_run_group_tests(tests, open_all, close_all);
}
