#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const float weights[6] = {1, -2, 3.5f, 4, 5, 6};
static const int64_t steps[1] = {123456789};
static const unsigned char bytes3[3] = {' ', 7, 255};

static const cvy_tensor_entry entries[] = {
    {.name = "n_batches", .dtype = CVY_I64, .n_dims = 0, .data = steps},
    {.name = "layer1.0.conv1.weight",
     .dtype = CVY_F32,
     .n_dims = 2,
     .dim = {2, 3},
     .data = weights},
    {.name = "\xC3\xA9/\"quoted\"\\", .dtype = CVY_U8, .n_dims = 1, .dim = {3}, .data = bytes3},
};
static const cvy_tensor_meta meta[] = {{"step", "1200"}, {"note", "two\nlines \"x\""}};

/* The written file of the entries above, read back raw; cvy_free() it. */
static char *make_file(size_t *out_size)
{
    char path[700];
    char *bytes = NULL;
    uint64_t size = 0, hash = 0, read_size = 0, read_hash = 0;

    snprintf(path, sizeof path, "%s/a.safetensors", test_folder());
    assert_ok(cvy_safetensors_write(path, entries, 3, meta, 2, &size, &hash));
    assert_ok(cvy_file_hash(path, &read_size, &read_hash, NULL));
    assert_true(size == read_size && hash == read_hash);
    assert_ok(cvy_file_read(path, 1 << 20, &bytes, out_size, NULL));
    assert_true(*out_size == size);
    return bytes;
}

static void assert_is_the_file(const cvy_safetensors *file)
{
    assert_int_equal(cvy_safetensors_n(file), 3);
    for (int i = 0; i < 3; i++) {
        const cvy_tensor_entry *got = cvy_safetensors_entry(file, i);
        assert_string_equal(got->name, entries[i].name);
        assert_int_equal(got->dtype, entries[i].dtype);
        assert_int_equal(got->n_dims, entries[i].n_dims);
        assert_ptr_equal(cvy_safetensors_find(file, entries[i].name), got);
        const size_t size = (size_t)cvy_tensor_n_elems(got) * cvy_dtype_bytes(got->dtype);
        assert_memory_equal(got->data, entries[i].data, size);
        assert_int_equal((uintptr_t)got->data % cvy_dtype_bytes(got->dtype), 0);
    }
    assert_int_equal(cvy_safetensors_entry(file, 1)->dim[1], 3);
    assert_null(cvy_safetensors_find(file, "lacking"));
}

static void written_file_is_read_back(void **state)
{
    (void)state;
    size_t size = 0;
    char *bytes = make_file(&size);
    cvy_safetensors *file = NULL;
    cvy_reason reason;

    assert_ok(cvy_safetensors_parse(bytes, size, &file, &reason));
    assert_is_the_file(file);
    assert_string_equal(cvy_safetensors_meta(file, "format"), "pt");
    assert_string_equal(cvy_safetensors_meta(file, "step"), "1200");
    assert_string_equal(cvy_safetensors_meta(file, "note"), "two\nlines \"x\"");
    assert_null(cvy_safetensors_meta(file, "lacking"));
    assert_int_equal((uintptr_t)cvy_safetensors_entry(file, 0)->data % 64, 0);
    cvy_safetensors_close(&file);
    assert_null(file);
    cvy_free(bytes);
}

static void equal_tensors_give_equal_files(void **state)
{
    (void)state;
    size_t size = 0, again_size = 0;
    char *bytes = make_file(&size), *again = make_file(&again_size);

    assert_int_equal(size, again_size);
    assert_memory_equal(bytes, again, size);
    cvy_free(bytes);
    cvy_free(again);
}

static void every_flipped_bit_is_found(void **state)
{
    (void)state;
    size_t size = 0;
    char *bytes = make_file(&size);
    cvy_reason reason;

    for (size_t bit = 0; bit < size * 8; bit++) {
        cvy_safetensors *file = NULL;
        bytes[bit / 8] = (char)(bytes[bit / 8] ^ (1 << bit % 8));
        reason.text[0] = '\0';
        const cvy_status status = cvy_safetensors_parse(bytes, size, &file, &reason);
        if (status != CVY_ERR_BAD_DATA || reason.text[0] == '\0' || file != NULL) {
            fail_msg("bit %zu of byte %zu was not found", bit % 8, bit / 8);
        }
        bytes[bit / 8] = (char)(bytes[bit / 8] ^ (1 << bit % 8));
    }
    cvy_free(bytes);
}

static void damaged_tensor_is_named(void **state)
{
    (void)state;
    size_t size = 0;
    char *bytes = make_file(&size);
    cvy_safetensors *file = NULL;
    cvy_reason reason;

    bytes[size - 3 - 4] ^= 1; /* in the last float */
    assert_status(cvy_safetensors_parse(bytes, size, &file, &reason), CVY_ERR_BAD_DATA);
    assert_non_null(strstr(reason.text, "tensor 'layer1.0.conv1.weight' is damaged"));
    cvy_free(bytes);
}

static void file_cut_anywhere_or_with_junk_is_refused(void **state)
{
    (void)state;
    size_t size = 0;
    char *bytes = make_file(&size);
    cvy_safetensors *file = NULL;
    cvy_reason reason;

    for (size_t n = 0; n < size; n++) {
        assert_status(cvy_safetensors_parse(bytes, n, &file, &reason), CVY_ERR_BAD_DATA);
        assert_null(file);
    }
    char *longer = cvy_alloc_zero(1, size + 1);
    assert_non_null(longer);
    memcpy(longer, bytes, size);
    assert_status(cvy_safetensors_parse(longer, size + 1, &file, &reason), CVY_ERR_BAD_DATA);
    assert_non_null(strstr(reason.text, "1 bytes of junk after the last tensor"));
    cvy_free(longer);
    cvy_free(bytes);
}

/* A file with this header and n payload bytes; cvy_free() it. */
static char *by_hand(const char *header, size_t n, size_t *out_size)
{
    const size_t length = strlen(header);
    char *bytes = cvy_alloc_zero(1, 8 + length + n);

    assert_non_null(bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (char)((uint64_t)length >> (8 * i) & 0xFF);
    memcpy(bytes + 8, header, length);
    *out_size = 8 + length + n;
    return bytes;
}

static void refuse(const char *header, size_t n, const char *part)
{
    size_t size = 0;
    char *bytes = by_hand(header, n, &size);
    cvy_safetensors *file = NULL;
    cvy_reason reason = {{0}};

    const cvy_status status = cvy_safetensors_parse(bytes, size, &file, &reason);
    if (status != CVY_ERR_BAD_DATA || strstr(reason.text, part) == NULL) {
        fail_msg("%.200s: %s '%s', expected '%s'", header, cvy_status_name(status), reason.text,
                 part);
    }
    assert_null(file);
    cvy_free(bytes);
}

static void file_by_others_is_read_and_aligned(void **state)
{
    (void)state;
    static const char header[] =
        "{\"b\":{\"shape\":[2],\"dtype\":\"F64\",\"data_offsets\":[0,16]},\n"
        "\"a\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[16,18]}}   ";
    static const char *const paddings[] = {"",     " ",     "  ",     "   ",
                                           "    ", "     ", "      ", "       "};

    for (int i = 0; i < 8; i++) {
        char text[sizeof header + 8];
        const double values[2] = {0.5, -7};
        size_t size = 0;
        cvy_safetensors *file = NULL;
        cvy_reason reason;
        snprintf(text, sizeof text, "%s%s", header, paddings[i]);
        char *bytes = by_hand(text, 18, &size);
        memcpy(bytes + size - 18, values, 16);
        assert_ok(cvy_safetensors_parse(bytes, size, &file, &reason));
        assert_int_equal(cvy_safetensors_n(file), 2);
        const cvy_tensor_entry *b = cvy_safetensors_find(file, "b");
        assert_int_equal((uintptr_t)b->data % 8, 0);
        assert_memory_equal(b->data, values, 16);
        assert_int_equal(cvy_tensor_n_elems(cvy_safetensors_find(file, "a")), 1);
        assert_null(cvy_safetensors_meta(file, "format"));
        cvy_safetensors_close(&file);
        cvy_free(bytes);
    }
}

static void header_length_is_not_trusted(void **state)
{
    (void)state;
    static const struct {
        uint64_t length;
        const char *message;
    } cases[] = {{0, "header length 0"},
                 {1, "header length 1"},
                 {(uint64_t)1 << 63, "header length 9223372036854775808"},
                 {UINT64_MAX, "header length 18446744073709551615"},
                 {((uint64_t)16 << 20) + 1, "header length 16777217, expected 2 to 16777216"},
                 {93, "file has 100 bytes, its header alone needs 101"}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char bytes[100] = {0};
        cvy_safetensors *file = NULL;
        cvy_reason reason;
        for (int j = 0; j < 8; j++) bytes[j] = (char)(cases[i].length >> (8 * j) & 0xFF);
        assert_status(cvy_safetensors_parse(bytes, sizeof bytes, &file, &reason), CVY_ERR_BAD_DATA);
        if (strstr(reason.text, cases[i].message) == NULL) fail_msg("%s", reason.text);
    }
}

#define TENSOR(name, dtype, shape, offsets)                                                        \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(shape, offsets) "{" TENSOR("a", "F32", shape, offsets) "}"

static void hostile_shapes_and_offsets_are_refused(void **state)
{
    (void)state;
    refuse(ONE("[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "shape is no list of up to 8");
    refuse(ONE("[0]", "[0,0]"), 0, "shape is no list of up to 8 positive");
    refuse(ONE("[-1]", "[0,4]"), 4, "shape is no list");
    refuse(ONE("[1.0]", "[0,4]"), 4, "shape is no list");
    refuse(ONE("\"1\"", "[0,4]"), 4, "shape is no list");
    refuse(ONE("[1099511627776]", "[0,4398046511104]"), 4, "file has");
    refuse(ONE("[4294967296,4294967296]", "[0,0]"), 4, "shape is larger than any file");
    refuse(ONE("[9223372036854775807]", "[0,4]"), 4, "shape is larger than any file");
    refuse(ONE("[9223372036854775808]", "[0,4]"), 4, "too big integer");
    refuse(ONE("[1]", "[0,8]"), 8, "data_offsets do not fit");
    refuse(ONE("[1]", "[0,3]"), 4, "data_offsets do not fit");
    refuse(ONE("[1]", "[4,8]"), 8, "begins at 4, expected 0");
    refuse(ONE("[1]", "[-4,0]"), 4, "begins at -4, expected 0");
    refuse(ONE("[1]", "[0]"), 4, "are not two integers");
    refuse(ONE("[1]", "[0,4,8]"), 4, "are not two integers");
    refuse(ONE("[1]", "[0,4.0]"), 4, "are not two integers");
    refuse(ONE("[2]", "[0,8]"), 4, "file has");
    refuse("{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]", "[0,4]") "}", 8,
           "tensor 'b': begins at 0, expected 4"); /* overlap */
    refuse("{" TENSOR("a", "F32", "[1]", "[4,8]") "," TENSOR("b", "F32", "[1]", "[0,4]") "}", 8,
           "tensor 'a': begins at 4, expected 0"); /* descending */
    refuse("{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]", "[8,12]") "}", 12,
           "tensor 'b': begins at 8, expected 4"); /* hole */
    refuse("{" TENSOR("a", "U8", "[1]", "[0,1]") "," TENSOR("b", "F32", "[1]", "[1,5]") "}", 5,
           "tensor 'b': is misaligned");
}

static void hostile_names_and_headers_are_refused(void **state)
{
    (void)state;
    char text[1200], name[600];

    refuse("{}", 0, "no tensors");
    refuse("[1]", 0, "no JSON header");
    refuse("{\"a\":1}", 0, "expected dtype, shape and data_offsets");
    refuse("{\"a\":{}}", 0, "expected dtype, shape and data_offsets");
    refuse("{\"__metadata__\":1}", 0, "__metadata__ is no JSON object");
    refuse("{\"__metadata__\":{\"a\":1}," TENSOR("a", "U8", "[1]", "[0,1]") "}", 1,
           "metadata that is no text");
    refuse("{\"__metadata__\":{\"xxh3.a\":\"0\"}," TENSOR("a", "U8", "[1]", "[0,1]") "}", 1,
           "hash of the header is missing");
    refuse("{" TENSOR("", "U8", "[1]", "[0,1]") "}", 1, "without a name");
    refuse("{" TENSOR("a/../b", "U8", "[1]", "[0,1]") "}", 1, "name with '..'");
    refuse("{" TENSOR("a\\nb", "U8", "[1]", "[0,1]") "}", 1, "control character");
    refuse("{" TENSOR("a\\u0000b", "U8", "[1]", "[0,1]") "}", 1, "NUL");
    refuse("{" TENSOR("a\xFF", "U8", "[1]", "[0,1]") "}", 1, "unable to decode byte 0xff");
    refuse("{" TENSOR("a", "F8", "[1]", "[0,1]") "}", 1, "dtype is none of F32");
    refuse("{" TENSOR("a", "U8", "[1]", "[0,1]") "," TENSOR("a", "U8", "[1]", "[1,2]") "}", 2,
           "duplicate object key");
    refuse("{" TENSOR("a", "U8", "[1]", "[0,1]") "} x", 1, "end of file expected");
    refuse("{\"a\":[[[[1]]]]}", 0, "nested more than three levels");
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    snprintf(text, sizeof text, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
             name);
    refuse(text, 1, "name of more than 512 bytes");
}

static void header_of_many_values_is_refused_before_it_is_built(void **state)
{
    (void)state;
    const size_t size = (size_t)1 << 20;
    char *header = cvy_alloc(size + 1);

    assert_non_null(header);
    memset(header, ',', size);
    memcpy(header, "{\"a\":[", 6);
    memcpy(header + size - 2, "]}", 3);
    refuse(header, 0, "more than a file of this size can hold");
    cvy_free(header);
}

static void open_refuses_what_is_no_file_or_too_large(void **state)
{
    (void)state;
    char path[700];
    cvy_safetensors *file = NULL;
    cvy_reason reason;
    const char *folder = test_folder();

    snprintf(path, sizeof path, "%s/x", folder);
    assert_status(cvy_safetensors_open(path, 1 << 20, &file, &reason), CVY_ERR_NOT_FOUND);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_status(cvy_safetensors_open(path, 1 << 20, &file, &reason), CVY_ERR_BAD_DATA);
    assert_status(cvy_safetensors_open(folder, 1 << 20, &file, &reason), CVY_ERR_BAD_DATA);
    snprintf(path, sizeof path, "%s/a", folder);
    assert_ok(cvy_safetensors_write(path, entries, 3, meta, 2, NULL, NULL));
    assert_status(cvy_safetensors_open(path, 100, &file, &reason), CVY_ERR_BAD_DATA);
    assert_null(file);
    assert_ok(cvy_safetensors_open(path, 1 << 20, &file, &reason));
    assert_is_the_file(file);
    cvy_safetensors_close(&file);
}

static void reading_takes_less_than_twice_the_file(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    char path[700];
    cvy_alloc_counts before, after;
    cvy_safetensors *file = NULL;
    float *many = cvy_alloc_zero(N, sizeof *many);
    const cvy_tensor_entry entry = {
        .name = "w", .dtype = CVY_F32, .n_dims = 1, .dim = {N}, .data = many};

    assert_non_null(many);
    snprintf(path, sizeof path, "%s/w", test_folder());
    assert_ok(cvy_safetensors_write(path, &entry, 1, NULL, 0, NULL, NULL));
    cvy_alloc_count(&before);
    assert_ok(cvy_safetensors_open(path, (size_t)1 << 30, &file, NULL));
    cvy_alloc_count(&after);
    assert_true(after.live_bytes - before.live_bytes < 2 * N * (int64_t)sizeof *many);
    cvy_safetensors_close(&file);
    cvy_free(many);
}

static void refuse_write(const cvy_tensor_entry *bad, int n, const cvy_tensor_meta *bad_meta,
                         const char *part)
{
    char path[700];

    snprintf(path, sizeof path, "%s/x", test_folder());
    test_log_expect(part);
    assert_status(cvy_safetensors_write(path, bad, n, bad_meta, bad_meta != NULL, NULL, NULL),
                  CVY_ERR_INVALID_ARG);
    if (!test_log_saw(part)) fail_msg("no line says: %s", part);
    assert_false(cvy_file_exists(path));
}

static void unreadable_tensors_are_not_written(void **state)
{
    (void)state;
    const cvy_tensor_entry twice[] = {entries[0], entries[0]};
    const cvy_tensor_entry shifted[] = {entries[2], entries[1]};
    cvy_tensor_entry bad = entries[1];
    const cvy_tensor_meta format = {"format", "x"}, hash = {"xxh3.a", "x"}, foreign = {"a", "\xFF"};

    refuse_write(entries, 0, NULL, "no tensors to write");
    refuse_write(twice, 2, NULL, "two tensors are named 'n_batches'");
    refuse_write(shifted, 2, NULL, "would be misaligned");
    refuse_write(entries, 1, &format, "metadata key 'format' is taken");
    refuse_write(entries, 1, &hash, "metadata key 'xxh3.a' is taken");
    refuse_write(entries, 1, &foreign, "not UTF-8");
    bad.dim[0] = 0;
    refuse_write(&bad, 1, NULL, "has no valid shape");
    bad = entries[1];
    bad.name = "a..b";
    refuse_write(&bad, 1, NULL, "name with '..'");
    bad.name = NULL;
    refuse_write(&bad, 1, NULL, "without a name");
    bad = entries[1];
    bad.data = NULL;
    refuse_write(&bad, 1, NULL, "no data");
}

static void existing_file_is_not_overwritten(void **state)
{
    (void)state;
    char path[700];

    snprintf(path, sizeof path, "%s/x", test_folder());
    assert_ok(cvy_safetensors_write(path, entries, 3, NULL, 0, NULL, NULL));
    test_log_expect("x");
    assert_true(cvy_safetensors_write(path, entries, 3, NULL, 0, NULL, NULL) != CVY_OK);
    assert_true(cvy_file_exists(path));
}

static void no_memory_is_reported_and_nothing_leaks(void **state)
{
    (void)state;
    size_t size = 0;
    char *bytes = make_file(&size), path[700];
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;

    snprintf(path, sizeof path, "%s/x", test_folder());
    cvy_alloc_count(&before);
    for (int64_t k = 0; status != CVY_OK; k++) {
        cvy_safetensors *file = NULL;
        cvy_alloc_fail_at(k);
        status = cvy_safetensors_parse(bytes, size, &file, NULL);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        cvy_safetensors_close(&file);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
    test_log_expect("memory");
    status = CVY_ERR_NO_MEMORY;
    for (int64_t k = 0; status != CVY_OK; k++) {
        cvy_alloc_fail_at(k);
        status = cvy_safetensors_write(path, entries, 3, meta, 2, NULL, NULL);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        assert_int_equal(cvy_file_exists(path), status == CVY_OK);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
    cvy_free(bytes);
}

static unsigned next_random(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Of a file without hashes, so that the checks behind them are reached. */
static void mutated_files_never_crash(void **state)
{
    (void)state;
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"}," TENSOR(
        "conv.weight", "F32", "[2,3]", "[0,24]") "," TENSOR("conv.bias", "F32", "[2]",
                                                            "[24,32]") "," TENSOR("n", "I64", "[]",
                                                                                  "[32,40]") "}";
    static const char marks[] = "{}[]\",:0123456789-.eE\\ FUBI";
    size_t size = 0;
    char *valid = by_hand(header, 40, &size), *bytes = cvy_alloc(size);
    unsigned seed = 3;
    int n_good = 0;

    assert_non_null(bytes);
    for (int i = 0; i < 20000; i++) {
        cvy_safetensors *file = NULL;
        cvy_reason reason;
        size_t cut = size;
        memcpy(bytes, valid, size);
        for (unsigned n = 1 + next_random(&seed) % 3; n > 0; n--) {
            const size_t at = next_random(&seed) % size;
            const unsigned kind = next_random(&seed) % 4;
            if (kind == 0) bytes[at] = (char)next_random(&seed);
            if (kind == 1) bytes[at] = marks[next_random(&seed) % (sizeof marks - 1)];
            if (kind == 2) bytes[at] = (char)(bytes[at] ^ (1 << next_random(&seed) % 8));
            if (kind == 3 && next_random(&seed) % 4 == 0) cut = at;
        }
        const cvy_status status = cvy_safetensors_parse(bytes, cut, &file, &reason);
        assert_true(status == CVY_OK || status == CVY_ERR_BAD_DATA);
        unsigned sum = 0;
        for (int t = 0; status == CVY_OK && t < cvy_safetensors_n(file); t++) {
            const cvy_tensor_entry *entry = cvy_safetensors_entry(file, t);
            const unsigned char *data = entry->data;
            const size_t n = (size_t)cvy_tensor_n_elems(entry) * cvy_dtype_bytes(entry->dtype);
            for (size_t j = 0; j < n; j++) sum += data[j]; /* all of it can be read */
        }
        n_good += status == CVY_OK && sum < 40 * 256;
        cvy_safetensors_close(&file);
    }
    assert_true(n_good > 100);
    cvy_free(bytes);
    cvy_free(valid);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(written_file_is_read_back),
    cvy_unit_test(equal_tensors_give_equal_files),
    cvy_unit_test(every_flipped_bit_is_found),
    cvy_unit_test(damaged_tensor_is_named),
    cvy_unit_test(file_cut_anywhere_or_with_junk_is_refused),
    cvy_unit_test(file_by_others_is_read_and_aligned),
    cvy_unit_test(header_length_is_not_trusted),
    cvy_unit_test(hostile_shapes_and_offsets_are_refused),
    cvy_unit_test(hostile_names_and_headers_are_refused),
    cvy_unit_test(header_of_many_values_is_refused_before_it_is_built),
    cvy_unit_test(open_refuses_what_is_no_file_or_too_large),
    cvy_unit_test(reading_takes_less_than_twice_the_file),
    cvy_unit_test(unreadable_tensors_are_not_written),
    cvy_unit_test(existing_file_is_not_overwritten),
    cvy_unit_test(no_memory_is_reported_and_nothing_leaks),
    cvy_unit_test(mutated_files_never_crash),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
