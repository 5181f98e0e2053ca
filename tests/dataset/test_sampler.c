#include "dataset/sampler.h"

#include "tests/support/test_support.h"

#include <stdlib.h>
#include <string.h>

#define MAX_N 70000

static uint8_t seen[MAX_N];

/* Every record of the epoch comes up once. */
static void check_bijection(uint64_t seed, int64_t epoch, int64_t n)
{
    const dataset_sampler sampler = {.seed = seed, .n = n};

    assert_true(n <= MAX_N);
    memset(seen, 0, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        const int64_t record = dataset_sampler_record(&sampler, epoch, i);
        if (record < 0 || record >= n || seen[record] != 0) {
            fail_msg("n %lld, epoch %lld, seed %llu: position %lld gives record %lld", (long long)n,
                     (long long)epoch, (unsigned long long)seed, (long long)i, (long long)record);
        }
        seen[record] = 1;
    }
}

static void every_small_size_is_permuted(void **state)
{
    (void)state;
    for (int64_t n = 1; n <= 2000; n++) check_bijection(1, n % 3, n);
}

static void tiny_sizes_are_permuted_for_many_seeds_and_epochs(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 6; seed++) {
        for (int64_t epoch = 0; epoch < 6; epoch++) {
            for (int64_t n = 1; n <= 40; n++) {
                check_bijection(seed * 0x9e3779b97f4a7c15U, epoch * 1000003, n);
            }
        }
    }
}

static void primes_and_sizes_near_powers_of_two_are_permuted(void **state)
{
    static const int64_t sizes[] = {4095, 4096, 4097, 8191, 16383, 16384, 16385, 50021, 65537};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_bijection(UINT64_MAX, 7, sizes[i]);
    }
}

static void large_sizes_give_distinct_records_in_range(void **state)
{
    enum { N_TRIED = 2000 };
    static int64_t records[N_TRIED];
    static const int64_t sizes[] = {(int64_t)1 << 32, ((int64_t)1 << 40) + 7, INT64_MAX};

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        const dataset_sampler sampler = {.seed = 3, .n = sizes[s]};
        for (int64_t i = 0; i < N_TRIED; i++) {
            records[i] = dataset_sampler_record(&sampler, 0, sizes[s] - 1 - i);
            assert_true(records[i] >= 0 && records[i] < sizes[s]);
            for (int64_t k = 0; k < i; k++) assert_true(records[k] != records[i]);
        }
    }
}

static double chi_square(const int64_t *counts, const double *expected, int n)
{
    double sum = 0.0;

    for (int i = 0; i < n; i++) {
        const double difference = (double)counts[i] - expected[i];
        sum += difference * difference / expected[i];
    }
    return sum;
}

/* 99.9 % of chi square: 27.9 at 9 degrees of freedom, 174 at 119. The draws are fixed, so the test
 * is too. */
static void first_record_is_uniform_over_epochs(void **state)
{
    const dataset_sampler sampler = {.seed = 11, .n = 10};
    int64_t counts[10] = {0};
    double expected[10];

    (void)state;
    for (int64_t epoch = 0; epoch < 10000; epoch++) {
        counts[dataset_sampler_record(&sampler, epoch, 0)]++;
    }
    for (int i = 0; i < 10; i++) expected[i] = 1000.0;
    assert_true(chi_square(counts, expected, 10) < 27.9);
}

/*
 * Place of an order in the lexicographic list of all. A Feistel network is an even permutation of
 * its 16 values; leaving out the 11 that are no records turns the sign of what is left once for
 * each that is not a cycle among themselves, so the mean sign is
 * (-1)^11 * product over m = 5..15 of (m - 1) / (m + 1) = -1/12.
 */
static int rank_order(const int64_t order[5], int *out_sign)
{
    int rank = 0;

    *out_sign = 1;
    for (int i = 0; i < 5; i++) {
        int n_smaller = 0;
        for (int k = i + 1; k < 5; k++) n_smaller += order[k] < order[i];
        if (n_smaller % 2 == 1) *out_sign = -*out_sign;
        rank = rank * (5 - i) + n_smaller;
    }
    return rank;
}

static void all_orders_of_five_records_are_as_frequent_as_theory_has_it(void **state)
{
    const dataset_sampler sampler = {.seed = 12, .n = 5};
    int64_t counts[120] = {0};
    double expected[120] = {0};

    (void)state;
    for (int64_t epoch = 0; epoch < 24000; epoch++) {
        int64_t order[5];
        int sign = 0;
        for (int i = 0; i < 5; i++) order[i] = dataset_sampler_record(&sampler, epoch, i);
        const int rank = rank_order(order, &sign);
        counts[rank]++;
        expected[rank] = 200.0 * (1.0 - sign / 12.0);
    }
    for (int i = 0; i < 120; i++) assert_true(expected[i] > 0.0); /* each came up */
    assert_true(chi_square(counts, expected, 120) < 174.0);
}

/* Neighbours must not stay neighbours: the mean distance of a random order is n / 3. */
static void neighbours_are_spread(void **state)
{
    const dataset_sampler sampler = {.seed = 13, .n = 10000};
    double sum = 0.0;

    (void)state;
    for (int64_t i = 0; i + 1 < sampler.n; i++) {
        const int64_t a = dataset_sampler_record(&sampler, 0, i);
        const int64_t b = dataset_sampler_record(&sampler, 0, i + 1);
        sum += (double)(a < b ? b - a : a - b);
    }
    const double mean = sum / (double)(sampler.n - 1);
    assert_true(mean > 3200.0 && mean < 3467.0);
}

static void other_epochs_and_seeds_give_other_orders(void **state)
{
    const dataset_sampler one = {.seed = 1, .n = 1000};
    const dataset_sampler other = {.seed = 2, .n = 1000};
    int n_equal_epoch = 0;
    int n_equal_seed = 0;

    (void)state;
    for (int64_t i = 0; i < 1000; i++) {
        const int64_t record = dataset_sampler_record(&one, 0, i);
        n_equal_epoch += record == dataset_sampler_record(&one, 1, i);
        n_equal_seed += record == dataset_sampler_record(&other, 0, i);
    }
    assert_in_range(n_equal_epoch, 0, 8); /* one is expected */
    assert_in_range(n_equal_seed, 0, 8);
}

/* Runs are resumed by later versions: these numbers may never change. */
static void order_is_fixed_for_all_time(void **state)
{
    static const int64_t of_ten[10] = {9, 8, 6, 1, 7, 3, 4, 2, 5, 0};
    static const int64_t of_cifar[6] = {37350, 22362, 14890, 9117, 33505, 4055};
    const dataset_sampler ten = {.seed = 1, .n = 10};
    const dataset_sampler cifar = {.seed = 1, .n = 50000};

    (void)state;
    for (int64_t i = 0; i < 10; i++) {
        assert_int_equal(dataset_sampler_record(&ten, 0, i), of_ten[i]);
    }
    for (int64_t i = 0; i < 6; i++) {
        assert_int_equal(dataset_sampler_record(&cifar, 3, 9999 * i), of_cifar[i]);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(every_small_size_is_permuted),
        cvy_unit_test(tiny_sizes_are_permuted_for_many_seeds_and_epochs),
        cvy_unit_test(primes_and_sizes_near_powers_of_two_are_permuted),
        cvy_unit_test(large_sizes_give_distinct_records_in_range),
        cvy_unit_test(first_record_is_uniform_over_epochs),
        cvy_unit_test(all_orders_of_five_records_are_as_frequent_as_theory_has_it),
        cvy_unit_test(neighbours_are_spread),
        cvy_unit_test(other_epochs_and_seeds_give_other_orders),
        cvy_unit_test(order_is_fixed_for_all_time),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
