#include "tests/nn/kernel_support.h"

/* Pooling. */

typedef struct pool_case {
    const char *what;
    int64_t n, c, h, w, r, s, stride_h, stride_w, pad_h, pad_w;
    int count_include_pad;
    int extra; /* output rows and columns more than floor gives: windows past the end */
} pool_case;

static const pool_case pool_cases[] = {
    {"one of everything", 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {"2x2 by 2", 3, 5, 8, 10, 2, 2, 2, 2, 0, 0, 0, 0},
    {"2x2 by 2, odd size", 2, 3, 7, 9, 2, 2, 2, 2, 0, 0, 0, 0},
    {"2x2 by 2, rounded up", 2, 3, 7, 9, 2, 2, 2, 2, 0, 0, 0, 1},
    {"2x2 by 2, long rows", 2, 3, 5, 77, 2, 2, 2, 2, 0, 0, 0, 0},
    {"2x2 by 2, whole vectors", 2, 8, 4, 64, 2, 2, 2, 2, 0, 0, 0, 0},
    {"2x2 by 2, one window", 3, 4, 3, 3, 2, 2, 2, 2, 0, 0, 0, 0},
    {"3x3 by 2, padded", 2, 4, 9, 12, 3, 3, 2, 2, 1, 1, 0, 0},
    {"3x3 by 2, pad counts", 2, 4, 9, 12, 3, 3, 2, 2, 1, 1, 1, 0},
    {"3x3 by 2, rounded up", 3, 2, 8, 14, 3, 3, 2, 2, 0, 0, 0, 1},
    {"3x3 by 1, padded", 2, 3, 6, 37, 3, 3, 1, 1, 1, 1, 0, 0},
    {"3x2 by 3x1", 2, 3, 11, 7, 3, 2, 3, 1, 1, 1, 0, 0},
    {"stride over window", 2, 2, 11, 9, 2, 2, 4, 3, 0, 0, 0, 0},
    {"global", 4, 9, 7, 7, 7, 7, 1, 1, 0, 0, 0, 0},
    {"global, large plane", 2, 2, 61, 67, 61, 67, 1, 1, 0, 0, 1, 0},
    {"long rows", 1, 2, 2, 603, 1, 5, 1, 2, 0, 2, 0, 0},
    {"blocks, 3x3 by 2, padded", 2, 20, 9, 12, 3, 3, 2, 2, 1, 1, 0, 0},
    {"blocks, pad counts", 2, 16, 9, 12, 3, 3, 2, 2, 1, 1, 1, 0},
    {"blocks, 3x2 by 3x1", 2, 33, 11, 7, 3, 2, 3, 1, 1, 1, 0, 0},
    {"blocks, rounded up", 3, 18, 8, 14, 3, 3, 2, 2, 0, 0, 0, 1},
    {"blocks, global", 3, 37, 7, 7, 7, 7, 1, 1, 0, 0, 0, 0},
    {"many small planes", 7, 150, 4, 4, 2, 2, 2, 2, 0, 0, 0, 0},
};
enum { N_POOL_CASES = sizeof pool_cases / sizeof pool_cases[0] };

static nn_pool2d_geom pool_geom(const pool_case *test)
{
    nn_pool2d_geom geom = {.n = test->n,
                           .c = test->c,
                           .h = test->h,
                           .w = test->w,
                           .r = test->r,
                           .s = test->s,
                           .stride_h = test->stride_h,
                           .stride_w = test->stride_w,
                           .pad_h = test->pad_h,
                           .pad_w = test->pad_w,
                           .count_include_pad = test->count_include_pad};

    geom.p = (geom.h + 2 * geom.pad_h - geom.r) / geom.stride_h + 1 + test->extra;
    geom.q = (geom.w + 2 * geom.pad_w - geom.s) / geom.stride_w + 1 + test->extra;
    return geom;
}

static int64_t n_in(const nn_pool2d_geom *geom)
{
    return geom->n * geom->c * geom->h * geom->w;
}

static int64_t n_out(const nn_pool2d_geom *geom)
{
    return geom->n * geom->c * geom->p * geom->q;
}

/* Few distinct values make ties; a NaN and infinities here and there. */
static float *coarse_input(const nn_pool2d_geom *geom)
{
    float *x = kernel_random_floats(1, n_in(geom));

    for (int64_t i = 0; i < n_in(geom); i++) {
        x[i] = rintf(3.0f * x[i]);
        if (i % 53 == 31) x[i] = NAN;
        if (i % 47 == 5) x[i] = -INFINITY;
        if (i % 101 == 7) x[i] = INFINITY;
    }
    return x;
}

static nn_shape in_shape(const nn_pool2d_geom *geom)
{
    return kernel_shape(geom->n, geom->c, geom->h, geom->w);
}

static nn_shape out_shape(const nn_pool2d_geom *geom)
{
    return kernel_shape(geom->n, geom->c, geom->p, geom->q);
}

/* argmax lies as y; unpacking moves 4-byte elements, whatever they mean. */
static void take_argmax(nn_backend *backend, const nn_shape *shape, const int32_t *argmax,
                        float *out)
{
    const int64_t n = nn_shape_n_elems(shape);

    assert_ok(backend->ops->unpack(backend, shape, (const float *)(const void *)argmax, out));
    for (int64_t i = 0; i < n; i++) {
        int32_t place;
        memcpy(&place, out + i, sizeof place);
        out[i] = (float)place;
    }
}

/* out: y, argmax as numbers, dx, dx added. */
static void run_maxpool(nn_backend *backend, const void *arg, float *out)
{
    const nn_pool2d_geom geom = pool_geom(arg);
    const nn_shape in = in_shape(&geom), to = out_shape(&geom);
    float *dense_x = coarse_input(&geom), *x = kernel_pack(backend, &in, dense_x);
    float *dy = kernel_random_activation(backend, 2, &to), *y = kernel_blank(backend, &to);
    float *dx = kernel_blank(backend, &in), *added_dx = kernel_random_activation(backend, 3, &in);
    int32_t *argmax = (int32_t *)(void *)kernel_blank(backend, &to);

    assert_ok(backend->ops->maxpool2d_forward(backend, &geom, x, y, argmax));
    assert_ok(backend->ops->maxpool2d_backward(backend, &geom, dy, argmax, dx, 0));
    assert_ok(backend->ops->maxpool2d_backward(backend, &geom, dy, argmax, added_dx, 1));
    kernel_take(backend, &to, y, out);
    take_argmax(backend, &to, argmax, out + n_out(&geom));
    kernel_take(backend, &in, dx, out + 2 * n_out(&geom));
    kernel_take(backend, &in, added_dx, out + 2 * n_out(&geom) + n_in(&geom));
    cvy_free(dense_x);
    cvy_free(x);
    cvy_free(dy);
    cvy_free(argmax);
}

static void maxpool2d_every_shape_is_as_reference_at_any_thread_count(void **state)
{
    (void)state;
    for (int i = 0; i < N_POOL_CASES; i++) {
        const nn_pool2d_geom geom = pool_geom(&pool_cases[i]);
        /* The same choices and the same additions in the same order: no difference. */
        kernel_check(pool_cases[i].what, run_maxpool, &pool_cases[i],
                     2 * (n_out(&geom) + n_in(&geom)), 0.0);
    }
}

/* out: y, dx, dx added. */
static void run_avgpool(nn_backend *backend, const void *arg, float *out)
{
    const nn_pool2d_geom geom = pool_geom(arg);
    const nn_shape in = in_shape(&geom), to = out_shape(&geom);
    float *x = kernel_random_activation(backend, 1, &in), *y = kernel_blank(backend, &to);
    float *dy = kernel_random_activation(backend, 2, &to);
    float *dx = kernel_blank(backend, &in), *added_dx = kernel_random_activation(backend, 3, &in);

    assert_ok(backend->ops->avgpool2d_forward(backend, &geom, x, y));
    assert_ok(backend->ops->avgpool2d_backward(backend, &geom, dy, dx, 0));
    assert_ok(backend->ops->avgpool2d_backward(backend, &geom, dy, added_dx, 1));
    kernel_take(backend, &to, y, out);
    kernel_take(backend, &in, dx, out + n_out(&geom));
    kernel_take(backend, &in, added_dx, out + n_out(&geom) + n_in(&geom));
    cvy_free(x);
    cvy_free(dy);
}

static void avgpool2d_every_shape_is_as_reference_at_any_thread_count(void **state)
{
    (void)state;
    for (int i = 0; i < N_POOL_CASES; i++) {
        const nn_pool2d_geom geom = pool_geom(&pool_cases[i]);
        /* A window's sum in float, times a rounded 1 / count. */
        kernel_check(pool_cases[i].what, run_avgpool, &pool_cases[i],
                     n_out(&geom) + 2 * n_in(&geom), 1e-6);
    }
}

static void maxpool_hand_values(nn_backend *backend)
{
    const nn_pool2d_geom geom = pool_geom(&(pool_case){"", 1, 1, 3, 4, 2, 2, 1, 2, 0, 0, 0, 0});
    static const float x[12] = {1, 1, 5, 7, /**/ 1, 0, NAN, 9, /**/ -INFINITY, 0, 2, NAN};
    static const int32_t expected[4] = {0, 6, 4, 6}; /* first of ties, first NaN */
    float y[4];
    int32_t argmax[4];

    assert_ok(backend->ops->maxpool2d_forward(backend, &geom, x, y, argmax));
    assert_memory_equal(argmax, expected, sizeof expected);
    assert_true(y[0] == 1.0f && isnan(y[1]) && y[2] == 1.0f && isnan(y[3]));

    static const float dy[4] = {1, 2, 3, 4};
    static const float expected_dx[12] = {1, 0, 0, 0, /**/ 3, 0, 6, 0, /**/ 0, 0, 0, 0};
    float dx[12];
    assert_ok(backend->ops->maxpool2d_backward(backend, &geom, dy, argmax, dx, 0));
    assert_memory_equal(dx, expected_dx, sizeof expected_dx);
}

static void maxpool_pairs_hand_values(nn_backend *backend)
{
    const nn_pool2d_geom geom = pool_geom(&(pool_case){"", 1, 1, 3, 7, 2, 2, 2, 2, 0, 0, 0, 0});
    static const float x[21] = {1,  1,  5,  NAN, -1, -2,   90, /* the last row and column are not */
                                1,  1,  9,  NAN, -3, 0.5f, 90, /* in a window */
                                90, 90, 90, 90,  90, 90,   90};
    static const int32_t expected[3] = {0, 3, 12}; /* first of ties, first NaN */
    static const float dy[3] = {1, 2, 3};
    float y[3], dx[21];
    int32_t argmax[3];

    assert_ok(backend->ops->maxpool2d_forward(backend, &geom, x, y, argmax));
    assert_memory_equal(argmax, expected, sizeof expected);
    assert_true(y[0] == 1.0f && isnan(y[1]) && y[2] == 0.5f);
    assert_ok(backend->ops->maxpool2d_backward(backend, &geom, dy, argmax, dx, 0));
    for (int i = 0; i < 21; i++) {
        assert_true(dx[i] == (i == 0 ? 1.0f : i == 3 ? 2.0f : i == 12 ? 3.0f : 0.0f));
    }
}

static void maxpool2d_ties_and_nan_go_to_the_first_in_row_order(void **state)
{
    (void)state;
    kernel_for_each_backend(maxpool_hand_values);
    kernel_for_each_backend(maxpool_pairs_hand_values);
}

static void all_low_values(nn_backend *backend)
{
    const nn_pool2d_geom geom = pool_geom(&(pool_case){"", 1, 1, 2, 2, 2, 2, 2, 2, 1, 1, 0, 0});
    static const float x[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    static const int32_t expected[4] = {0, 1, 2, 3}; /* never a place in the padding */
    float y[4];
    int32_t argmax[4];

    assert_ok(backend->ops->maxpool2d_forward(backend, &geom, x, y, argmax));
    assert_memory_equal(argmax, expected, sizeof expected);
    assert_memory_equal(y, x, sizeof y);
}

static void maxpool2d_of_minus_infinity_stays_inside_the_plane(void **state)
{
    (void)state;
    kernel_for_each_backend(all_low_values);
}

static void avgpool_hand_values(nn_backend *backend)
{
    nn_pool2d_geom geom = pool_geom(&(pool_case){"", 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0});
    static const float x[4] = {4, 8, 12, 16};
    static const float inside[9] = {4, 6, 8, 8, 10, 12, 12, 14, 16};
    static const float padded[9] = {1, 3, 2, 4, 10, 6, 3, 7, 4};
    static const float dy[9] = {0, 0, 0, 0, 4, 0, 0, 0, 8};
    static const float expected_dx[4] = {1, 1, 1, 9};
    float y[9], dx[4];

    assert_ok(backend->ops->avgpool2d_forward(backend, &geom, x, y));
    assert_memory_equal(y, inside, sizeof y);
    assert_ok(backend->ops->avgpool2d_backward(backend, &geom, dy, dx, 0));
    assert_memory_equal(dx, expected_dx, sizeof dx);
    geom.count_include_pad = 1;
    assert_ok(backend->ops->avgpool2d_forward(backend, &geom, x, y));
    assert_memory_equal(y, padded, sizeof y);
}

static void avgpool2d_of_small_plane_gives_hand_computed_values(void **state)
{
    (void)state;
    kernel_for_each_backend(avgpool_hand_values);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(maxpool2d_every_shape_is_as_reference_at_any_thread_count),
    cvy_unit_test(avgpool2d_every_shape_is_as_reference_at_any_thread_count),
    cvy_unit_test(maxpool2d_ties_and_nan_go_to_the_first_in_row_order),
    cvy_unit_test(maxpool2d_of_minus_infinity_stays_inside_the_plane),
    cvy_unit_test(avgpool2d_of_small_plane_gives_hand_computed_values),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
