#include "tests/nn/kernel_support.h"

/* Batch normalisation, alone and with the sum and the rectifier that follow it. */

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
    if (chain->is_relu) assert_ok(ops->relu_forward(backend, n, chain->y, chain->y));
}

/* y of the forward pass; a backend with the kernel is given it only where it must not miss it. */
static void chain_backward(nn_backend *backend, const nn_bn_geom *geom,
                           const nn_norm_chain_gradient *chain, const float *y, int64_t n)
{
    const nn_backend_ops *ops = backend->ops;

    if (ops->norm_chain_backward != NULL) {
        assert_ok(ops->norm_chain_backward(backend, geom, chain));
        return;
    }
    if (chain->is_relu) assert_ok(ops->relu_backward(backend, n, y, chain->dy, chain->dy, 0));
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
    int is_relu, has_residual, accumulate, accumulate_residual;
} chain_case;

static const chain_case chain_cases[] = {
    {"planes", {3, 3, 35, 1e-5}, 1, 0, 0, 0},
    {"planes, no rectifier", {3, 4, 35, 1e-5}, 0, 0, 0, 0},
    {"planes, sum", {3, 2, 35, 1e-5}, 1, 1, 0, 1},
    {"planes, sum, added", {3, 4, 35, 1e-5}, 1, 1, 1, 0},
    {"blocks", {5, 32, 35, 1e-5}, 1, 0, 0, 0},
    {"blocks, no rectifier", {5, 20, 35, 1e-5}, 0, 0, 0, 0},
    {"blocks, no rectifier, added", {5, 20, 35, 1e-5}, 0, 0, 1, 0},
    {"blocks, added", {5, 20, 49, 1e-5}, 1, 0, 1, 0},
    {"blocks, sum", {5, 37, 49, 1e-5}, 1, 1, 0, 0},
    {"blocks, sum, rest added", {5, 37, 49, 1e-5}, 1, 1, 0, 1},
    {"blocks, sum, added", {3, 16, 9, 1e-5}, 1, 1, 1, 0},
    {"blocks, both added", {71, 20, 16, 1e-5}, 1, 1, 1, 1},
    /* More than one thread's part of a cache: several slices. */
    {"slices", {2, 37, 22001, 1e-5}, 1, 0, 0, 0},
    {"slices, sum", {2, 37, 11001, 1e-5}, 1, 1, 0, 0},
};

/* A chain with its memory, laid out as the backend likes. */
typedef struct chain_run {
    nn_backend *backend;
    const chain_case *test;
    nn_shape shape;
    int64_t n_stored;
    float *x, *residual, *gamma, *beta;
    nn_norm_chain chain;
} chain_run;

/* numbers: 5 c. */
static chain_run chain_open(nn_backend *backend, const chain_case *test, float *numbers)
{
    const int64_t c = test->geom.c;
    chain_run run = {.backend = backend, .test = test};

    run.shape = kernel_shape(test->geom.n, c, test->geom.spatial, 1);
    run.n_stored = backend->ops->activation_elems(backend, &run.shape);
    run.x = kernel_random_activation(backend, 1, &run.shape);
    run.residual = kernel_random_activation(backend, 2, &run.shape);
    run.gamma = kernel_random_floats(3, c);
    run.beta = kernel_random_floats(4, c);
    run.chain = (nn_norm_chain){.x = run.x,
                                .residual = test->has_residual ? run.residual : NULL,
                                .gamma = run.gamma,
                                .beta = run.beta,
                                .is_relu = test->is_relu,
                                .y = kernel_blank(backend, &run.shape),
                                .mean = numbers,
                                .invstd = numbers + c,
                                .batch_var = numbers + 2 * c,
                                .scale = numbers + 3 * c,
                                .shift = numbers + 4 * c};
    return run;
}

static void chain_close(chain_run *run)
{
    cvy_free(run->x);
    cvy_free(run->residual);
    cvy_free(run->gamma);
    cvy_free(run->beta);
}

static nn_norm_chain_gradient chain_gradient(const chain_run *run, float *dgamma)
{
    const nn_norm_chain *chain = &run->chain;
    const chain_case *test = run->test;

    return (nn_norm_chain_gradient){
        .x = chain->x,
        .y = test->has_residual ? chain->y : NULL,
        .is_relu = test->is_relu,
        .dy = kernel_random_activation(run->backend, 7, &run->shape),
        .gamma = chain->gamma,
        .mean = chain->mean,
        .invstd = chain->invstd,
        .scale = chain->scale,
        .shift = chain->shift,
        .dx = kernel_random_activation(run->backend, 5, &run->shape),
        .accumulate = test->accumulate,
        .dresidual = test->has_residual ? kernel_random_activation(run->backend, 6, &run->shape)
                                        : NULL,
        .accumulate_residual = test->accumulate_residual,
        .dgamma = dgamma,
        .dbeta = dgamma + test->geom.c};
}

/* out: y, inference y, dx, dresidual, mean, invstd, batch_var, dgamma, dbeta. */
static void run_chain(nn_backend *backend, const void *arg, float *out)
{
    const chain_case *test = arg;
    const nn_bn_geom *geom = &test->geom;
    const int64_t c = geom->c, n = geom->n * c * geom->spatial;
    float *numbers = kernel_random_floats(8, 5 * c), *const y = out;
    chain_run run = chain_open(backend, test, numbers);
    float *const trained = run.chain.y;
    const nn_norm_chain_gradient gradient = chain_gradient(&run, out + 4 * n + 3 * c);

    chain_forward(backend, geom, &run.chain, run.n_stored);
    memcpy(out + 4 * n, numbers, 3 * (size_t)c * sizeof *numbers);
    chain_backward(backend, geom, &gradient, trained, run.n_stored);
    run.chain.running_mean = out + 4 * n;
    run.chain.running_var = out + 4 * n + 2 * c;
    run.chain.y = kernel_blank(backend, &run.shape);
    chain_forward(backend, geom, &run.chain, run.n_stored);
    kernel_take(backend, &run.shape, trained, y);
    kernel_take(backend, &run.shape, run.chain.y, out + n);
    kernel_take(backend, &run.shape, gradient.dx, out + 2 * n);
    if (test->has_residual) kernel_take(backend, &run.shape, gradient.dresidual, out + 3 * n);
    cvy_free(gradient.dy);
    cvy_free(numbers);
    chain_close(&run);
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

static int same_bits(const float *a, const float *b, int64_t n)
{
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

/* y again is y; and so is y written over x, or over the residual. */
static void chain_again_case(nn_backend *backend, const chain_case *test)
{
    const nn_backend_ops *ops = backend->ops;
    float *numbers = kernel_random_floats(8, 5 * test->geom.c);
    chain_run run = chain_open(backend, test, numbers);
    float *y = run.chain.y, *again = kernel_random_activation(backend, 9, &run.shape);
    const size_t size_bytes = (size_t)run.n_stored * sizeof *y;
    nn_norm_chain chain = run.chain;

    assert_ok(ops->norm_chain_forward(backend, &test->geom, &chain));
    chain.y = again;
    chain.gamma = chain.beta = NULL; /* they may have been updated */
    chain.invstd = chain.batch_var = NULL;
    assert_ok(ops->norm_chain_again(backend, &test->geom, &chain));
    assert_true(same_bits(again, y, run.n_stored));

    memcpy(again, run.x, size_bytes);
    chain = run.chain;
    chain.x = chain.y = again;
    assert_ok(ops->norm_chain_forward(backend, &test->geom, &chain));
    assert_true(same_bits(again, y, run.n_stored));
    if (test->has_residual) {
        memcpy(again, run.residual, size_bytes);
        chain = run.chain;
        chain.residual = chain.y = again;
        assert_ok(ops->norm_chain_forward(backend, &test->geom, &chain));
        assert_true(same_bits(again, y, run.n_stored));
    }
    cvy_free(again);
    cvy_free(y);
    cvy_free(numbers);
    chain_close(&run);
}

/* Both gradients apart, and the one that may lie there in the memory of dy. */
static void chain_over_dy_case(nn_backend *backend, const chain_case *test)
{
    const nn_backend_ops *ops = backend->ops;
    const int64_t c = test->geom.c;
    float *numbers = kernel_random_floats(8, 7 * c), *dgammas = numbers + 5 * c;
    chain_run run = chain_open(backend, test, numbers);

    assert_ok(ops->norm_chain_forward(backend, &test->geom, &run.chain));
    const nn_norm_chain_gradient apart = chain_gradient(&run, dgammas);
    nn_norm_chain_gradient over = chain_gradient(&run, dgammas);
    float *const own = test->has_residual ? over.dresidual : over.dx;
    if (test->has_residual) {
        over.dresidual = over.dy;
    } else {
        over.dx = over.dy;
    }
    assert_ok(ops->norm_chain_backward(backend, &test->geom, &apart));
    assert_ok(ops->norm_chain_backward(backend, &test->geom, &over));
    assert_true(same_bits(over.dx, apart.dx, run.n_stored));
    if (test->has_residual) assert_true(same_bits(over.dresidual, apart.dresidual, run.n_stored));
    cvy_free(own);
    cvy_free(over.dy);
    if (test->has_residual) cvy_free(over.dx);
    cvy_free(apart.dy);
    cvy_free(apart.dx);
    cvy_free(apart.dresidual);
    cvy_free(run.chain.y);
    cvy_free(numbers);
    chain_close(&run);
}

static void chain_bits_case(nn_backend *backend)
{
    if (backend->ops->norm_chain_again == NULL) return;
    for (size_t i = 0; i < sizeof chain_cases / sizeof chain_cases[0]; i++) {
        const chain_case *test = &chain_cases[i];
        chain_again_case(backend, test);
        const int adds = test->has_residual ? test->accumulate_residual : test->accumulate;
        if (!adds) chain_over_dy_case(backend, test);
    }
}

static void norm_chain_again_and_in_place_gives_the_same_bits(void **state)
{
    (void)state;
    kernel_for_each_backend(chain_bits_case);
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

/* A tensor that one thread stores past the caches, and four do not. */
static void run_large_chain(nn_backend *backend, const chain_case *test, float *out)
{
    const int64_t c = test->geom.c;
    float *numbers = kernel_random_floats(8, 7 * c);
    chain_run run = chain_open(backend, test, numbers);
    const int64_t n = run.n_stored;
    const nn_norm_chain_gradient gradient = chain_gradient(&run, numbers + 5 * c);

    assert_ok(backend->ops->norm_chain_forward(backend, &test->geom, &run.chain));
    assert_ok(backend->ops->norm_chain_backward(backend, &test->geom, &gradient));
    memcpy(out, run.chain.y, (size_t)n * sizeof *out);
    memcpy(out + n, gradient.dx, (size_t)n * sizeof *out);
    cvy_free(run.chain.y);
    cvy_free(gradient.dy);
    cvy_free(gradient.dx);
    cvy_free(gradient.dresidual);
    cvy_free(numbers);
    chain_close(&run);
}

static void norm_chain_of_large_tensor_has_the_same_bits_past_the_caches(void **state)
{
    static const chain_case large[] = {{"large", {2, 32, 70003, 1e-5}, 1, 0, 0, 0},
                                       {"large, sum", {2, 32, 70003, 1e-5}, 1, 1, 0, 1}};

    (void)state;
    for (int i = 0; i < 2; i++) {
        const nn_bn_geom *geom = &large[i].geom;
        const int64_t n = 2 * geom->n * geom->c * geom->spatial;
        float *out[2] = {kernel_floats(n), kernel_floats(n)};
        for (int k = 0; k < 2; k++) {
            nn_backend *backend = kernel_backend("cpu", k == 0 ? 1 : 4);
            run_large_chain(backend, &large[i], out[k]);
            nn_backend_close(&backend);
        }
        assert_true(same_bits(out[0], out[1], n));
        cvy_free(out[0]);
        cvy_free(out[1]);
    }
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(batchnorm_every_shape_is_as_reference_at_any_thread_count),
    cvy_unit_test(batchnorm_of_small_tensor_gives_hand_computed_values),
    cvy_unit_test(batchnorm_in_place_gives_the_same_bits),
    cvy_unit_test(norm_chain_is_as_its_layers_at_any_thread_count),
    cvy_unit_test(norm_chain_again_and_in_place_gives_the_same_bits),
    cvy_unit_test(norm_chain_of_large_tensor_has_the_same_bits_past_the_caches),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
