#include "tests/support/test_support.h"

#include "dataset/image.h"

#include "base/alloc.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

static void fill(dataset_image *image, int64_t height, int64_t width, int channels, uint64_t seed)
{
    cvy_rng rng = cvy_rng_open(seed, CVY_RNG_TEST, 0, 0);
    const size_t n = (size_t)(height * width * channels);

    *image = (dataset_image){.height = height, .width = width, .channels = channels};
    image->pixels = cvy_alloc(n);
    image->capacity_bytes = n;
    assert_non_null(image->pixels);
    for (size_t i = 0; i < n; i++) image->pixels[i] = (uint8_t)cvy_rng_u32(&rng);
}

/* The definition, in double and in one go: a triangle of half width max(1, scale) on both axes. */
static double weight(int64_t i, double centre, double reach)
{
    const double away = fabs(((double)i + 0.5 - centre) / reach);

    return away < 1.0 ? 1.0 - away : 0.0;
}

static double resized_value(const dataset_image *from, int64_t height, int64_t width, int64_t y,
                            int64_t x, int c)
{
    const double sy = (double)from->height / (double)height;
    const double sx = (double)from->width / (double)width;
    double sum = 0.0, weights = 0.0;

    for (int64_t i = 0; i < from->height; i++) {
        const double wy = weight(i, ((double)y + 0.5) * sy, fmax(sy, 1.0));
        for (int64_t k = 0; k < from->width && wy > 0.0; k++) {
            const double w = wy * weight(k, ((double)x + 0.5) * sx, fmax(sx, 1.0));
            sum += w * from->pixels[(i * from->width + k) * from->channels + c];
            weights += w;
        }
    }
    return sum / weights;
}

static void sizes_of_all_kinds_match_the_definition(void **state)
{
    (void)state;
    static const int64_t cases[][4] = {
        {17, 23, 8, 11}, {8, 8, 16, 16},  {5, 9, 13, 4},    {1, 40, 3, 20}, {33, 1, 7, 1},
        {1, 1, 4, 5},    {12, 12, 12, 5}, {12, 12, 30, 12}, {64, 48, 7, 9}, {3, 3, 1, 1},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int channels = 1; channels <= 3; channels += 2) {
            dataset_image from = {0}, to = {0};
            fill(&from, cases[i][0], cases[i][1], channels, i);
            assert_ok(dataset_image_resize(&from, cases[i][2], cases[i][3], &to));
            assert_int_equal(to.height, cases[i][2]);
            assert_int_equal(to.width, cases[i][3]);
            assert_int_equal(to.channels, channels);
            for (int64_t p = 0; p < to.height * to.width * channels; p++) {
                const int64_t y = p / channels / to.width, x = p / channels % to.width;
                const double want = resized_value(&from, to.height, to.width, y, x,
                                                  (int)(p % channels));
                /* two roundings to bytes: 0.5 each, the first one averaged by the second */
                if (fabs(to.pixels[p] - want) > 1.01) fail_msg("case %zu: %g", i, want);
            }
            dataset_image_free(&from);
            dataset_image_free(&to);
        }
    }
}

/* Known answers: Pillow's resize(..., BILINEAR) of the bytes (37 * i * i + 11 * i) % 256. */
static void known_pixels_match_exactly(void **state)
{
    (void)state;
    static const uint8_t smaller[12] = {67, 119, 168, 168, 152, 127, 165, 191, 173, 114, 111, 166};
    static const uint8_t larger[24] = {0,  12, 36,  79,  140, 170, 28,  38,  57,  96,  153, 181,
                                       83, 89, 100, 129, 178, 202, 110, 114, 121, 146, 190, 212};
    dataset_image from = {0}, to = {0};

    fill(&from, 5, 7, 1, 0);
    for (int i = 0; i < 35; i++) from.pixels[i] = (uint8_t)(37 * i * i + 11 * i);
    assert_ok(dataset_image_resize(&from, 3, 4, &to));
    assert_memory_equal(to.pixels, smaller, sizeof smaller);
    from.height = 2;
    from.width = 3;
    assert_ok(dataset_image_resize(&from, 4, 6, &to));
    assert_memory_equal(to.pixels, larger, sizeof larger);
    dataset_image_free(&from);
    dataset_image_free(&to);
}

static void same_size_is_a_copy(void **state)
{
    (void)state;
    dataset_image from = {0}, to = {0};

    fill(&from, 9, 14, 3, 7);
    assert_ok(dataset_image_resize(&from, 9, 14, &to));
    assert_memory_equal(to.pixels, from.pixels, 9 * 14 * 3);
    dataset_image_free(&from);
    dataset_image_free(&to);
}

static void constant_picture_stays_constant(void **state)
{
    (void)state;
    dataset_image from = {0}, to = {0};

    for (int value = 0; value < 256; value += 51) {
        fill(&from, 31, 45, 3, 7);
        memset(from.pixels, value, 31 * 45 * 3);
        assert_ok(dataset_image_resize(&from, 13, 101, &to));
        for (int i = 0; i < 13 * 101 * 3; i++) assert_int_equal(to.pixels[i], value);
        dataset_image_free(&from);
    }
    dataset_image_free(&to);
}

static void impossible_sizes_are_refused(void **state)
{
    (void)state;
    dataset_image from = {0}, to = {0};

    test_log_expect("resize 4 x 4 x 1 to 0 x 4");
    fill(&from, 4, 4, 1, 7);
    assert_status(dataset_image_resize(&from, 0, 4, &to), CVY_ERR_INVALID_ARG);
    assert_null(to.pixels);
    dataset_image_free(&from);
}

static void failed_allocation_reports_no_memory(void **state)
{
    (void)state;
    cvy_alloc_counts before, after;
    dataset_image from = {0};
    cvy_status status = CVY_ERR_NO_MEMORY;
    int k = 0;

    test_log_expect("memory for a picture of 4 x 5");
    fill(&from, 10, 10, 3, 1);
    cvy_alloc_count(&before);
    for (; status == CVY_ERR_NO_MEMORY; k++) {
        dataset_image to = {0};
        cvy_alloc_fail_at(k);
        status = dataset_image_resize(&from, 4, 5, &to);
        cvy_alloc_fail_at(-1);
        dataset_image_free(&to);
    }
    assert_ok(status);
    assert_true(k > 3);
    cvy_alloc_count(&after);
    assert_int_equal(after.n_live, before.n_live);
    dataset_image_free(&from);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(sizes_of_all_kinds_match_the_definition),
        cvy_unit_test(known_pixels_match_exactly),
        cvy_unit_test(same_size_is_a_copy),
        cvy_unit_test(constant_picture_stays_constant),
        cvy_unit_test(impossible_sizes_are_refused),
        cvy_unit_test(failed_allocation_reports_no_memory),
    };
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
