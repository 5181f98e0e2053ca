#include "base/rng.h"

#include "tests/support/test_support.h"

#include <math.h>
#include <string.h>

#define N_DRAWS 200000

typedef struct known_answer {
    uint32_t counter[4];
    uint32_t key[2];
    uint32_t out[4];
} known_answer;

/* From the known answers of the paper's own library, Random123 (kat_vectors, philox4x32 10). */
static const known_answer answers[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

static void philox_gives_the_published_answers(void **state)
{
    uint32_t out[4];

    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        cvy_philox4x32_10(answers[i].counter, answers[i].key, out);
        assert_memory_equal(out, answers[i].out, sizeof out);
    }
}

static void stream_is_the_blocks_of_its_counter(void **state)
{
    uint32_t out[4];
    cvy_rng rng = cvy_rng_open(UINT64_C(0x1122334455667788), CVY_RNG_AUGMENT,
                               UINT64_C(0xab00000001), UINT64_C(0xcd00000002));
    const uint32_t key[2] = {0x55667788, 0x11223344};

    (void)state;
    for (uint32_t block_idx = 0; block_idx < 3; block_idx++) {
        const uint32_t counter[4] = {block_idx, (uint32_t)CVY_RNG_AUGMENT << 16 | 0xabcd, 1, 2};
        cvy_philox4x32_10(counter, key, out);
        for (int i = 0; i < 4; i++) assert_int_equal(cvy_rng_u32(&rng), out[i]);
    }
}

static void streams_that_differ_in_one_argument_differ(void **state)
{
    const uint64_t top = UINT64_C(1) << 39;
    uint64_t first[8];
    cvy_rng rngs[8] = {
        cvy_rng_open(1, CVY_RNG_TEST, 0, 0),   cvy_rng_open(2, CVY_RNG_TEST, 0, 0),
        cvy_rng_open(1, CVY_RNG_INIT, 0, 0),   cvy_rng_open(1, CVY_RNG_TEST, 1, 0),
        cvy_rng_open(1, CVY_RNG_TEST, 0, 1),   cvy_rng_open(1, CVY_RNG_TEST, top, 0),
        cvy_rng_open(1, CVY_RNG_TEST, 0, top), cvy_rng_open(UINT64_C(1) << 63, CVY_RNG_TEST, 0, 0),
    };

    (void)state;
    for (int i = 0; i < 8; i++) first[i] = cvy_rng_u64(&rngs[i]);
    for (int i = 0; i < 8; i++) {
        for (int j = 0; j < i; j++) assert_true(first[i] != first[j]);
    }
}

static void same_arguments_give_the_same_stream(void **state)
{
    cvy_rng a = cvy_rng_open(7, CVY_RNG_TEST, 3, 4);
    cvy_rng b = cvy_rng_open(7, CVY_RNG_TEST, 3, 4);

    (void)state;
    for (int i = 0; i < 1000; i++) assert_true(cvy_rng_u64(&a) == cvy_rng_u64(&b));
    assert_memory_equal(&a, &b, sizeof a);
}

static void seek_continues_at_the_block(void **state)
{
    uint32_t drawn[40];
    cvy_rng rng = cvy_rng_open(7, CVY_RNG_TEST, 0, 0);

    (void)state;
    for (int i = 0; i < 40; i++) drawn[i] = cvy_rng_u32(&rng);
    for (uint32_t block_idx = 0; block_idx < 10; block_idx++) {
        cvy_rng_seek(&rng, block_idx);
        assert_int_equal(cvy_rng_u32(&rng), drawn[4 * block_idx]);
        assert_int_equal(cvy_rng_u32(&rng), drawn[4 * block_idx + 1]);
    }
}

static void wide_draw_is_low_word_then_high_word(void **state)
{
    cvy_rng a = cvy_rng_open(9, CVY_RNG_TEST, 0, 0);
    cvy_rng b = a;

    (void)state;
    const uint64_t wide = cvy_rng_u64(&a);
    assert_int_equal((uint32_t)wide, cvy_rng_u32(&b));
    assert_int_equal((uint32_t)(wide >> 32), cvy_rng_u32(&b));
}

/* The seed is fixed, so the counts are too; the bound is 5 standard deviations. */
static void draws_below_a_bound_are_uniform(void **state)
{
    int counts[7] = {0};
    cvy_rng rng = cvy_rng_open(11, CVY_RNG_TEST, 0, 0);

    (void)state;
    for (int i = 0; i < N_DRAWS; i++) {
        const uint32_t drawn = cvy_rng_below(&rng, 7);
        assert_true(drawn < 7);
        counts[drawn]++;
    }
    const double mean = N_DRAWS / 7.0;
    for (int i = 0; i < 7; i++) assert_true(fabs(counts[i] - mean) < 5.0 * sqrt(mean * 6.0 / 7.0));
    for (int i = 0; i < 10; i++) assert_int_equal(cvy_rng_below(&rng, 1), 0);
}

/* Without rejection the bound 3 * 2^30 would give each multiple of 3 twice as often: an even split
 * into thirds by remainder shows that it does not. */
static void draws_below_a_large_bound_are_unbiased(void **state)
{
    const uint32_t bound = UINT32_C(3) << 30;
    int counts[3] = {0};
    cvy_rng rng = cvy_rng_open(12, CVY_RNG_TEST, 0, 0);

    (void)state;
    for (int i = 0; i < N_DRAWS; i++) {
        const uint32_t drawn = cvy_rng_below(&rng, bound);
        assert_true(drawn < bound);
        counts[drawn % 3]++;
    }
    const double mean = N_DRAWS / 3.0;
    for (int i = 0; i < 3; i++) assert_true(fabs(counts[i] - mean) < 5.0 * sqrt(mean * 2.0 / 3.0));
}

static void floats_and_doubles_fill_zero_to_one(void **state)
{
    double sum_float = 0.0, sum_double = 0.0;
    double least = 1.0, most = 0.0;
    cvy_rng rng = cvy_rng_open(13, CVY_RNG_TEST, 0, 0);

    (void)state;
    for (int i = 0; i < N_DRAWS; i++) {
        const float f = cvy_rng_float(&rng);
        const double d = cvy_rng_double(&rng);
        assert_true(f >= 0.0f && f < 1.0f && d >= 0.0 && d < 1.0);
        sum_float += (double)f;
        sum_double += d;
        least = fmin(least, d);
        most = fmax(most, d);
    }
    const double deviation = sqrt(1.0 / 12.0 / N_DRAWS); /* of a mean of N_DRAWS */
    assert_true(fabs(sum_float / N_DRAWS - 0.5) < 5.0 * deviation);
    assert_true(fabs(sum_double / N_DRAWS - 0.5) < 5.0 * deviation);
    assert_true(least < 1e-4 && most > 1.0 - 1e-4);
}

static void normals_have_the_moments_of_the_normal_distribution(void **state)
{
    double sums[4] = {0.0};
    int n_beyond_two = 0;
    cvy_rng rng = cvy_rng_open(14, CVY_RNG_TEST, 0, 0);

    (void)state;
    for (int i = 0; i < N_DRAWS; i++) {
        const double x = (double)cvy_rng_normal(&rng);
        assert_true(isfinite(x));
        sums[0] += x;
        sums[1] += x * x;
        sums[2] += x * x * x;
        sums[3] += x * x * x * x;
        n_beyond_two += fabs(x) > 2.0;
    }
    /* Standard deviations of the sample moments: 1, sqrt 2, sqrt 15, sqrt 96 over sqrt n. */
    const double unit = 5.0 / sqrt((double)N_DRAWS);
    assert_true(fabs(sums[0] / N_DRAWS) < unit);
    assert_true(fabs(sums[1] / N_DRAWS - 1.0) < unit * sqrt(2.0));
    assert_true(fabs(sums[2] / N_DRAWS) < unit * sqrt(15.0));
    assert_true(fabs(sums[3] / N_DRAWS - 3.0) < unit * sqrt(96.0));
    assert_true(fabs(n_beyond_two / (double)N_DRAWS - 0.0455003) < unit * 0.2085);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(philox_gives_the_published_answers),
        cvy_unit_test(stream_is_the_blocks_of_its_counter),
        cvy_unit_test(streams_that_differ_in_one_argument_differ),
        cvy_unit_test(same_arguments_give_the_same_stream),
        cvy_unit_test(seek_continues_at_the_block),
        cvy_unit_test(wide_draw_is_low_word_then_high_word),
        cvy_unit_test(draws_below_a_bound_are_uniform),
        cvy_unit_test(draws_below_a_large_bound_are_unbiased),
        cvy_unit_test(floats_and_doubles_fill_zero_to_one),
        cvy_unit_test(normals_have_the_moments_of_the_normal_distribution),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
