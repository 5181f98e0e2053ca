#include "base/hash.h"

#include "tests/support/test_support.h"

#include "base/alloc.h"

#include <string.h>

static void fill(unsigned char *bytes, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++) bytes[i] = (unsigned char)(i * 31 + (i >> 8));
}

/* XXH3_64bits("", seed 0), from the specification of XXH3. */
static void hash_of_nothing_is_the_published_value(void **state)
{
    (void)state;
    assert_true(cvy_hash64("", 0) == UINT64_C(0x2d06800538d394c2));
}

static void stream_in_pieces_equals_one_block(void **state)
{
    static const size_t pieces[] = {1, 7, 64, 240, 1000, 5000};
    unsigned char bytes[5000];

    (void)state;
    fill(bytes, sizeof bytes);
    const uint64_t whole = cvy_hash64(bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        cvy_hasher *hasher = cvy_hasher_open();
        assert_non_null(hasher);
        for (size_t at = 0; at < sizeof bytes; at += pieces[i]) {
            const size_t left = sizeof bytes - at;
            cvy_hasher_add(hasher, bytes + at, left < pieces[i] ? left : pieces[i]);
        }
        assert_true(cvy_hasher_value(hasher) == whole);
        cvy_hasher_close(&hasher);
        assert_null(hasher);
    }
}

static void value_of_a_stream_may_be_taken_in_between(void **state)
{
    (void)state;
    cvy_hasher *hasher = cvy_hasher_open();
    assert_non_null(hasher);
    assert_true(cvy_hasher_value(hasher) == cvy_hash64("", 0));
    cvy_hasher_add(hasher, "ab", 2);
    cvy_hasher_add(hasher, NULL, 0);
    assert_true(cvy_hasher_value(hasher) == cvy_hash64("ab", 2));
    cvy_hasher_add(hasher, "c", 1);
    assert_true(cvy_hasher_value(hasher) == cvy_hash64("abc", 3));
    cvy_hasher_close(&hasher);
    cvy_hasher_close(&hasher);
    cvy_hasher_close(NULL);
}

static void any_flipped_bit_changes_the_hash(void **state)
{
    unsigned char bytes[300];

    (void)state;
    fill(bytes, sizeof bytes);
    const uint64_t before = cvy_hash64(bytes, sizeof bytes);
    for (size_t i = 0; i < 8 * sizeof bytes; i++) {
        bytes[i / 8] ^= (unsigned char)(1u << i % 8);
        assert_true(cvy_hash64(bytes, sizeof bytes) != before);
        bytes[i / 8] ^= (unsigned char)(1u << i % 8);
    }
}

static void text_goes_there_and_back(void **state)
{
    static const uint64_t hashes[] = {0, 1, UINT64_MAX, UINT64_C(0x0123456789abcdef)};
    char text[17];
    uint64_t back = 0;

    (void)state;
    cvy_hash_text(UINT64_C(0x0123456789abcdef), text);
    assert_string_equal(text, "0123456789abcdef");
    for (int i = 0; i < 4; i++) {
        cvy_hash_text(hashes[i], text);
        assert_int_equal(cvy_hash_from_text(text, &back), 0);
        assert_true(back == hashes[i]);
    }
}

static void other_text_is_refused_and_leaves_the_output(void **state)
{
    static const char *const texts[] = {"",
                                        "0123456789abcde",
                                        "0123456789abcdef0",
                                        "0123456789ABCDEF",
                                        "0123456789abcdeg",
                                        " 123456789abcdef",
                                        "0x23456789abcdef"};
    uint64_t out = 42;

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_int_equal(cvy_hash_from_text(texts[i], &out), -1);
        assert_int_equal(out, 42);
    }
}

static void hasher_without_memory_is_null(void **state)
{
    cvy_alloc_counts before, after;

    (void)state;
    cvy_alloc_count(&before);
    cvy_alloc_fail_at(0);
    assert_null(cvy_hasher_open());
    cvy_alloc_count(&after);
    assert_int_equal(after.n_live, before.n_live);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(hash_of_nothing_is_the_published_value),
        cvy_unit_test(stream_in_pieces_equals_one_block),
        cvy_unit_test(value_of_a_stream_may_be_taken_in_between),
        cvy_unit_test(any_flipped_bit_changes_the_hash),
        cvy_unit_test(text_goes_there_and_back),
        cvy_unit_test(other_text_is_refused_and_leaves_the_output),
        cvy_unit_test(hasher_without_memory_is_null),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
