#include "tests/nn/kernel_support.h"

/* Pooling and batch normalisation. */

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

typedef struct bn_case {
    const char *what;
    nn_bn_geom geom;
    float offset; /* added to x */
} bn_case;

static const bn_case bn_cases[] = {
    {"two values", {2, 1, 1, 1e-5}, 0.0f},
    {"one value", {1, 3, 1, 1e-5}, 0.0f},
    {"after dense", {9, 70, 1, 1e-5}, 0.0f},
    {"odd planes", {3, 5, 35, 1e-5}, 0.0f},
    {"small planes", {5, 33, 49, 1e-3}, 0.5f},
    {"long planes", {2, 3, 5003, 1e-5}, 0.0f},
    {"many images", {61, 4, 36, 1e-5}, -2.0f},
    {"blocks, one pixel", {1, 16, 1, 1e-5}, 0.0f},
    {"blocks, long planes", {2, 19, 1003, 1e-5}, 0.0f},
    {"blocks, many images", {71, 20, 36, 1e-5}, -2.0f},
    {"blocks, mean far from 0", {4, 16, 300, 1e-5}, 1e6f},
    {"more blocks than partial sums", {3, 2070, 3, 1e-5}, 0.0f},
    {"mean far from 0", {4, 3, 300, 1e-5}, 1e6f},
};

/* out: y, mean, invstd, batch_var, inference y, dx, dx added, dgamma, dbeta. */
static int64_t n_bn_outputs(const nn_bn_geom *geom)
{
    return 4 * geom->n * geom->c * geom->spatial + 5 * geom->c;
}

static void run_batchnorm(nn_backend *backend, const void *arg, float *out)
{
    const bn_case *test = arg;
    const nn_bn_geom *geom = &test->geom;
    const nn_shape shape = kernel_shape(geom->n, geom->c, geom->spatial, 1);
    const int64_t n = nn_shape_n_elems(&shape), c = geom->c;
    const nn_backend_ops *ops = backend->ops;
    float *dense_x = kernel_random_floats(1, n), *dy = kernel_random_activation(backend, 2, &shape);
    float *gamma = kernel_random_floats(3, c), *beta = kernel_random_floats(4, c);
    float *y = kernel_blank(backend, &shape), *inferred = kernel_blank(backend, &shape);
    float *dx = kernel_blank(backend, &shape);
    float *added_dx = kernel_random_activation(backend, 5, &shape);
    float *mean = out + n, *dgamma = out + 4 * n + 3 * c;

    for (int64_t i = 0; i < n; i++) dense_x[i] += test->offset;
    float *x = kernel_pack(backend, &shape, dense_x);
    assert_ok(
        ops->batchnorm_forward(backend, geom, x, gamma, beta, y, mean, mean + c, mean + 2 * c));
    assert_ok(
        ops->batchnorm_inference(backend, geom, x, gamma, beta, mean, mean + 2 * c, inferred));
    assert_ok(ops->batchnorm_backward(backend, geom, x, dy, gamma, mean, mean + c, dx, 0, dgamma,
                                      dgamma + c));
    assert_ok(ops->batchnorm_backward(backend, geom, x, dy, gamma, mean, mean + c, added_dx, 1,
                                      dgamma, dgamma + c));
    kernel_take(backend, &shape, y, out);
    kernel_take(backend, &shape, inferred, mean + 3 * c);
    kernel_take(backend, &shape, dx, out + 2 * n + 3 * c);
    kernel_take(backend, &shape, added_dx, out + 3 * n + 3 * c);
    cvy_free(dense_x);
    cvy_free(x);
    cvy_free(dy);
    cvy_free(gamma);
    cvy_free(beta);
}

static void batchnorm_every_shape_is_as_reference_at_any_thread_count(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bn_cases / sizeof bn_cases[0]; i++) {
        /* Values of order 1 from sums in float lanes and a few roundings; wherever the mean lies,
         * for x - mean is exact there. */
        kernel_check(bn_cases[i].what, run_batchnorm, &bn_cases[i], n_bn_outputs(&bn_cases[i].geom),
                     1e-5);
    }
}

/* Backends without the kernel run the layers one by one. */
static void chain_forward(nn_backend *backend, const nn_bn_geom *geom, const nn_norm_chain *chain,
                          int64_t n)
{
    const nn_backend_ops *ops = backend->ops;

    if (ops->norm_chain_forward != NULL) {
        assert_ok(ops->norm_chain_forward(backend, geom, chain));
        return;
    }
    if (chain->running_var != NULL) {
        assert_ok(ops->batchnorm_inference(backend, geom, chain->x, chain->gamma, chain->beta,
                                           chain->running_mean, chain->running_var, chain->y));
    } else {
        assert_ok(ops->batchnorm_forward(backend, geom, chain->x, chain->gamma, chain->beta,
                                         chain->y, chain->mean, chain->invstd, chain->batch_var));
    }
    if (chain->residual != NULL) assert_ok(ops->accumulate(backend, n, chain->residual, chain->y));
    assert_ok(ops->relu_forward(backend, n, chain->y, chain->y));
}

static void chain_backward(nn_backend *backend, const nn_bn_geom *geom,
                           const nn_norm_chain_gradient *chain, int64_t n)
{
    const nn_backend_ops *ops = backend->ops;

    if (ops->norm_chain_backward != NULL) {
        assert_ok(ops->norm_chain_backward(backend, geom, chain));
        return;
    }
    assert_ok(ops->relu_backward(backend, n, chain->y, chain->dy, chain->dy, 0));
    if (chain->dresidual != NULL && chain->accumulate_residual) {
        assert_ok(ops->accumulate(backend, n, chain->dy, chain->dresidual));
    } else if (chain->dresidual != NULL) {
        assert_ok(ops->copy(backend, n, chain->dy, chain->dresidual));
    }
    assert_ok(ops->batchnorm_backward(backend, geom, chain->x, chain->dy, chain->gamma, chain->mean,
                                      chain->invstd, chain->dx, chain->accumulate, chain->dgamma,
                                      chain->dbeta));
}

typedef struct chain_case {
    const char *what;
    nn_bn_geom geom;
    int has_residual, accumulate, accumulate_residual;
} chain_case;

static const chain_case chain_cases[] = {
    {"planes", {3, 5, 35, 1e-5}, 0, 0, 0},
    {"planes, sum", {3, 5, 35, 1e-5}, 1, 0, 1},
    {"blocks", {5, 32, 35, 1e-5}, 0, 0, 0},
    {"blocks, added", {5, 20, 49, 1e-5}, 0, 1, 0},
    {"blocks, sum", {5, 37, 49, 1e-5}, 1, 0, 0},
    {"blocks, sum, added", {3, 16, 9, 1e-5}, 1, 1, 0},
    {"blocks, both added", {71, 20, 16, 1e-5}, 1, 1, 1},
};

/* out: y, inference y, dx, dresidual, mean, invstd, batch_var, dgamma, dbeta. */
static void run_chain(nn_backend *backend, const void *arg, float *out)
{
    const chain_case *test = arg;
    const nn_bn_geom *geom = &test->geom;
    const nn_shape shape = kernel_shape(geom->n, geom->c, geom->spatial, 1);
    const int64_t n = nn_shape_n_elems(&shape), c = geom->c;
    const int64_t n_stored = backend->ops->activation_elems(backend, &shape);
    float *mean = out + 4 * n, *x = kernel_random_activation(backend, 1, &shape);
    float *residual = kernel_random_activation(backend, 2, &shape);
    float *gamma = kernel_random_floats(3, c), *beta = kernel_random_floats(4, c);
    float *y = kernel_blank(backend, &shape), *inferred = kernel_blank(backend, &shape);
    float *dx = kernel_random_activation(backend, 5, &shape);
    float *dresidual = kernel_random_activation(backend, 6, &shape);
    nn_norm_chain chain = {.x = x,
                           .residual = test->has_residual ? residual : NULL,
                           .gamma = gamma,
                           .beta = beta,
                           .y = y,
                           .mean = mean,
                           .invstd = mean + c,
                           .batch_var = mean + 2 * c};
    const nn_norm_chain_gradient gradient = {.x = x,
                                             .y = y,
                                             .dy = kernel_random_activation(backend, 7, &shape),
                                             .gamma = gamma,
                                             .mean = mean,
                                             .invstd = mean + c,
                                             .dx = dx,
                                             .accumulate = test->accumulate,
                                             .dresidual = test->has_residual ? dresidual : NULL,
                                             .accumulate_residual = test->accumulate_residual,
                                             .dgamma = mean + 3 * c,
                                             .dbeta = mean + 4 * c};

    chain_forward(backend, geom, &chain, n_stored);
    chain_backward(backend, geom, &gradient, n_stored);
    chain.running_mean = mean;
    chain.running_var = mean + 2 * c;
    chain.y = inferred;
    chain_forward(backend, geom, &chain, n_stored);
    kernel_take(backend, &shape, y, out);
    kernel_take(backend, &shape, inferred, out + n);
    kernel_take(backend, &shape, dx, out + 2 * n);
    kernel_take(backend, &shape, dresidual, out + 3 * n);
    cvy_free(x);
    cvy_free(residual);
    cvy_free(gamma);
    cvy_free(beta);
    cvy_free(gradient.dy);
}

static void norm_chain_is_as_its_layers_at_any_thread_count(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof chain_cases / sizeof chain_cases[0]; i++) {
        const nn_bn_geom *geom = &chain_cases[i].geom;
        /* As batch normalisation; a value that rounding moves over 0 is not larger than that. */
        kernel_check(chain_cases[i].what, run_chain, &chain_cases[i],
                     4 * geom->n * geom->c * geom->spatial + 5 * geom->c, 2e-5);
    }
}

static void batchnorm_hand_values(nn_backend *backend)
{
    /* Two images, two channels, two places; channel 0 holds 1 2 3 6, channel 1 one value. */
    const nn_bn_geom geom = {2, 2, 2, 0.5};
    static const float x[8] = {1, 2, 7, 7, 3, 6, 7, 7};
    static const float gamma[2] = {2, 3}, beta[2] = {10, 20};
    static const float expected[8] = {8, 9, 20, 20, 10, 13, 20, 20}; /* var 3.5, invstd 1/2 */
    float y[8], mean[2], invstd[2], var[2];

    assert_ok(
        backend->ops->batchnorm_forward(backend, &geom, x, gamma, beta, y, mean, invstd, var));
    kernel_compare("y", y, expected, 8, 1e-6);
    kernel_compare("mean", mean, (const float[2]){3, 7}, 2, 1e-6);
    kernel_compare("invstd", invstd, (const float[2]){0.5f, 1.41421356f}, 2, 1e-6);
    kernel_compare("var", var, (const float[2]){14.0f / 3.0f, 0}, 2, 1e-6);

    static const float running_mean[2] = {1, 2}, running_var[2] = {3.5f, 0.5f};
    static const float expected_inference[8] = {10, 11, 35, 35, 12, 15, 35, 35};
    assert_ok(backend->ops->batchnorm_inference(backend, &geom, x, gamma, beta, running_mean,
                                                running_var, y));
    kernel_compare("inference", y, expected_inference, 8, 1e-6);

    /* dy 1 0 0 0: dbeta 1, dgamma xhat0 = -1, dx = gamma invstd (dy - 1/4 + xhat / 4). */
    static const float dy[8] = {1, 0, 0, 0, 0, 0, 0, 0};
    static const float expected_dx[8] = {0.5f, -0.375f, 0, 0, -0.25f, 0.125f, 0, 0};
    float dx[8], dgamma[2], dbeta[2];
    assert_ok(backend->ops->batchnorm_backward(backend, &geom, x, dy, gamma, mean, invstd, dx, 0,
                                               dgamma, dbeta));
    kernel_compare("dx", dx, expected_dx, 8, 1e-6);
    kernel_compare("dgamma", dgamma, (const float[2]){-1, 0}, 2, 1e-6);
    kernel_compare("dbeta", dbeta, (const float[2]){1, 0}, 2, 1e-6);
}

static void batchnorm_of_small_tensor_gives_hand_computed_values(void **state)
{
    (void)state;
    kernel_for_each_backend(batchnorm_hand_values);
}

static void batchnorm_in_place_case(nn_backend *backend)
{
    const nn_bn_geom geom = {3, 4, 37, 1e-5};
    enum { N = 3 * 4 * 37 };
    float *x = kernel_random_floats(1, N), *y = kernel_floats(N), *dy = kernel_random_floats(2, N);
    float *dx = kernel_floats(N), *gamma = kernel_random_floats(3, 4);
    float mean[4], invstd[4], var[4];

    assert_ok(
        backend->ops->batchnorm_forward(backend, &geom, x, gamma, gamma, y, mean, invstd, var));
    assert_ok(backend->ops->batchnorm_backward(backend, &geom, x, dy, gamma, mean, invstd, dx, 0,
                                               var, var));
    assert_ok(backend->ops->batchnorm_backward(backend, &geom, x, dy, gamma, mean, invstd, dy, 0,
                                               var, var));
    assert_memory_equal(dx, dy, N * sizeof(float));
    assert_ok(
        backend->ops->batchnorm_forward(backend, &geom, x, gamma, gamma, x, mean, invstd, var));
    assert_memory_equal(x, y, N * sizeof(float));
    cvy_free(x);
    cvy_free(y);
    cvy_free(dy);
    cvy_free(dx);
    cvy_free(gamma);
}

static void batchnorm_in_place_gives_the_same_bits(void **state)
{
    (void)state;
    kernel_for_each_backend(batchnorm_in_place_case);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(maxpool2d_every_shape_is_as_reference_at_any_thread_count),
    cvy_unit_test(avgpool2d_every_shape_is_as_reference_at_any_thread_count),
    cvy_unit_test(maxpool2d_ties_and_nan_go_to_the_first_in_row_order),
    cvy_unit_test(maxpool2d_of_minus_infinity_stays_inside_the_plane),
    cvy_unit_test(avgpool2d_of_small_plane_gives_hand_computed_values),
    cvy_unit_test(batchnorm_every_shape_is_as_reference_at_any_thread_count),
    cvy_unit_test(norm_chain_is_as_its_layers_at_any_thread_count),
    cvy_unit_test(batchnorm_of_small_tensor_gives_hand_computed_values),
    cvy_unit_test(batchnorm_in_place_gives_the_same_bits),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
