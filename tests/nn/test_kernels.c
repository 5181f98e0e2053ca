#include "tests/nn/kernel_support.h"

#include "nn/backends/cpu/cpu_internal.h"

#include <float.h>

/* Tables and opening, and the kernels without a geometry of planes: elementwise, updates, dropout,
 * softmax. Sizes go past one chunk of the cpu backend and end in odd places. */

static const int64_t sizes[] = {
    1, 3, 31, 1000, NN_CPU_CHUNK, NN_CPU_CHUNK + 1, 3 * NN_CPU_CHUNK + 77};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

static int is_optional(size_t slot)
{
    return slot == offsetof(nn_backend_ops, conv2d_tail_forward) / sizeof(void *) ||
           slot == offsetof(nn_backend_ops, norm_chain_forward) / sizeof(void *) ||
           slot == offsetof(nn_backend_ops, norm_chain_again) / sizeof(void *) ||
           slot == offsetof(nn_backend_ops, norm_chain_backward) / sizeof(void *);
}

/* Elements of several shapes go into a backend's layout and come out again, added if wanted. */
static void run_layout(nn_backend *backend, const void *arg, float *out)
{
    const nn_shape *shape = arg;
    const int64_t n = nn_shape_n_elems(shape);
    float *dense = kernel_random_floats(1, n);
    float *x = kernel_random_activation(backend, 2, shape);

    assert_ok(backend->ops->pack(backend, shape, dense, x, 1));
    kernel_take(backend, shape, x, out);
    cvy_free(dense);
}

static void layout_takes_elements_in_and_gives_them_back(void **state)
{
    static const nn_shape shapes[] = {
        {.n_dims = 2, .dim = {3, 37}},         {.n_dims = 4, .dim = {2, 3, 5, 7}},
        {.n_dims = 4, .dim = {2, 11, 4, 1}},   {.n_dims = 4, .dim = {3, 12, 5, 7}},
        {.n_dims = 4, .dim = {2, 32, 1, 1}},   {.n_dims = 4, .dim = {2, 33, 1, 1}},
        {.n_dims = 4, .dim = {5, 100, 9, 11}}, {.n_dims = 5, .dim = {2, 16, 2, 3, 2}}};

    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        kernel_check("layout", run_layout, &shapes[i], nn_shape_n_elems(&shapes[i]), 0.0);
    }
}

/* out: y with some channels of x, and y with them added. The rest of y are random numbers. */
static void run_copy_channels(nn_backend *backend, const void *arg, float *out)
{
    const nn_channels_geom *geom = arg;
    const nn_shape from = kernel_shape(geom->n, geom->x_c, geom->spatial, 1);
    const nn_shape to = kernel_shape(geom->n, geom->y_c, geom->spatial, 1);
    float *x = kernel_random_activation(backend, 1, &from);
    float *y = kernel_random_activation(backend, 2, &to);
    float *added = kernel_random_activation(backend, 3, &to);

    assert_ok(backend->ops->copy_channels(backend, geom, x, y, 0));
    assert_ok(backend->ops->copy_channels(backend, geom, x, added, 1));
    kernel_take(backend, &to, y, out);
    kernel_take(backend, &to, added, out + nn_shape_n_elems(&to));
    cvy_free(x);
}

static void copy_channels_moves_any_run_between_any_counts(void **state)
{
    /* n, spatial, c; x_c, x_first; y_c, y_first. */
    static const nn_channels_geom cases[] = {{2, 5, 3, 3, 0, 7, 2},     {2, 5, 3, 3, 0, 20, 17},
                                             {3, 4, 16, 16, 0, 48, 16}, {2, 6, 20, 20, 0, 40, 16},
                                             {2, 6, 20, 20, 0, 40, 20}, {2, 3, 20, 52, 32, 20, 0},
                                             {1, 7, 5, 40, 30, 5, 0},   {9, 1, 37, 37, 0, 37, 0}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kernel_check("copy_channels", run_copy_channels, &cases[i],
                     2 * cases[i].n * cases[i].y_c * cases[i].spatial, 0.0);
    }
}

static void backends_have_every_slot_filled(void **state)
{
    (void)state;
    _Static_assert(sizeof(nn_backend_ops) % sizeof(void *) == 0, "all members are pointers");
    assert_true(nn_backend_count() >= 2);
    for (int idx = 0; idx < nn_backend_count(); idx++) {
        void *slots[sizeof(nn_backend_ops) / sizeof(void *)];
        memcpy(slots, nn_backend_at(idx), sizeof slots);
        for (size_t i = 0; i < sizeof slots / sizeof slots[0]; i++) {
            if (!is_optional(i)) assert_non_null(slots[i]);
        }
        assert_int_equal(nn_backend_at(idx)->norm_chain_forward == NULL,
                         nn_backend_at(idx)->norm_chain_backward == NULL);
        assert_int_equal(nn_backend_at(idx)->norm_chain_forward == NULL,
                         nn_backend_at(idx)->norm_chain_again == NULL);
    }
    assert_null(nn_backend_at(-1));
    assert_null(nn_backend_at(nn_backend_count()));
}

static void backend_unknown_name_tells_the_nearest(void **state)
{
    nn_backend *backend = NULL;

    (void)state;
    test_log_expect("did you mean 'cpu'");
    assert_status(nn_backend_open("cpuu", &(nn_backend_options){.n_threads = 1}, &backend),
                  CVY_ERR_CONFIG);
    assert_null(backend);
}

static void backend_without_threads_is_refused(void **state)
{
    nn_backend *backend = NULL;

    (void)state;
    test_log_expect("0 threads");
    assert_status(nn_backend_open("cpu", &(nn_backend_options){.n_threads = 0}, &backend),
                  CVY_ERR_INVALID_ARG);
    assert_null(backend);
}

static void backend_auto_takes_the_last_that_works(void **state)
{
    nn_backend *backend = kernel_backend("auto", 2);

    (void)state;
    assert_string_equal(backend->ops->name, "cpu");
    assert_int_equal(backend->n_threads, 2);
    nn_backend_close(&backend);
    assert_null(backend);
    nn_backend_close(&backend);
}

static void open_with_failing_allocations(const char *name)
{
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;

    cvy_alloc_count(&before);
    for (int64_t k = 0; status != CVY_OK; k++) {
        nn_backend *backend = NULL;
        assert_true(k < 100);
        cvy_alloc_fail_at(k);
        status = nn_backend_open(name, &(nn_backend_options){.n_threads = 3}, &backend);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) {
            assert_status(status, CVY_ERR_NO_MEMORY);
            assert_null(backend);
            test_log_expect("");
        }
        nn_backend_close(&backend);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
}

static void backend_open_without_memory_fails_clean(void **state)
{
    (void)state;
    for (int idx = 0; idx < nn_backend_count(); idx++) {
        open_with_failing_allocations(nn_backend_at(idx)->name);
    }
}

/* What a BLAS with a broken kernel does: one element is off. */
static void wrong_gemm(int64_t m, int64_t n, int64_t k, nn_cpu_matrix a, nn_cpu_matrix b,
                       float beta, float *c, int64_t ldc)
{
    nn_cpu_gemm(m, n, k, a, b, beta, c, ldc);
    if (b.is_transposed) c[(m - 1) * ldc + n - 1] += 0.25f;
}

static void nan_gemm(int64_t m, int64_t n, int64_t k, nn_cpu_matrix a, nn_cpu_matrix b, float beta,
                     float *c, int64_t ldc)
{
    nn_cpu_gemm(m, n, k, a, b, beta, c, ldc);
    c[0] = NAN;
}

static void wrong_blas_makes_cpu_backend_unavailable(void **state)
{
    (void)state;
    assert_ok(nn_cpu_gemm_check(nn_cpu_gemm));
    test_log_expect("set OPENBLAS_CORETYPE=Haswell");
    assert_status(nn_cpu_gemm_check(wrong_gemm), CVY_ERR_UNAVAILABLE);
    test_log_expect("set OPENBLAS_CORETYPE=Haswell");
    assert_status(nn_cpu_gemm_check(nan_gemm), CVY_ERR_UNAVAILABLE);
}

/* BLAS documents that c is not read when beta is 0; here also where it holds NaN. */
static void gemm_with_beta_0_overwrites_nan(void **state)
{
    static const float a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 2, 3, 4, 5, 6};
    static const float expected[4] = {22, 28, 49, 64};
    float c[4] = {NAN, NAN, NAN, NAN};

    (void)state;
    nn_cpu_gemm(2, 2, 3, (nn_cpu_matrix){a, 3, 0}, (nn_cpu_matrix){b, 2, 0}, 0.0f, c, 2);
    assert_memory_equal(c, expected, sizeof c);
}

static void sums_of_any_length_are_near_to_double(void **state)
{
    enum { N = 10007 };
    float *x = kernel_random_floats(1, N), *y = kernel_random_floats(2, N);

    (void)state;
    for (int64_t n = 0; n <= N; n += n < 70 ? 1 : 1409) {
        double sum = 0.0, product = 0.0, squares = 0.0, centred = 0.0;
        for (int64_t i = 0; i < n; i++) {
            const double d = (double)x[i] - 0.25;
            sum += (double)x[i];
            product += (double)x[i] * (double)y[i];
            squares += d * d;
            centred += (double)y[i] * d;
        }
        /* 64 additions in a float lane, values up to 64: 4e-6 a lane, lanes in random directions.
         */
        assert_true(fabs(nn_cpu_sum(n, x) - sum) < 1e-4);
        assert_true(fabs(nn_cpu_dot(n, x, y) - product) < 1e-4);
        double shifted = 1.0, squared = 2.0;
        nn_cpu_add_moments(n, x, 0.25f, &shifted, &squared);
        assert_true(fabs(shifted - 1.0 - (sum - 0.25 * (double)n)) < 1e-4);
        assert_true(fabs(squared - 2.0 - squares) < 1e-6 * (squares + 100.0));
        assert_true(fabs(nn_cpu_dot_centred(n, y, x, 0.25f) - centred) < 1e-4);
    }
    cvy_free(x);
    cvy_free(y);
}

/* out, n each: fill, copy, accumulate, add, add in place of a, of b, of both, relu, relu in place,
 * relu backward, in place, added. */
enum { N_ELEMENTWISE = 12 };

static void run_elementwise(nn_backend *backend, const void *arg, float *out)
{
    const int64_t n = *(const int64_t *)arg;
    const nn_backend_ops *ops = backend->ops;
    float *a = kernel_random_floats(1, n), *b = kernel_random_floats(2, n);

    a[n / 2] = NAN;
    a[n - 1] = -0.0f;
    assert_ok(ops->fill(backend, n, 1.5f, out));
    assert_ok(ops->copy(backend, n, a, out += n));
    kernel_random(3, n, out += n);
    assert_ok(ops->accumulate(backend, n, b, out));
    assert_ok(ops->add(backend, n, a, b, out += n));
    kernel_random(4, n, out += n);
    assert_ok(ops->add(backend, n, out, b, out));
    kernel_random(5, n, out += n);
    assert_ok(ops->add(backend, n, b, out, out));
    kernel_random(6, n, out += n);
    assert_ok(ops->add(backend, n, out, out, out));
    assert_ok(ops->relu_forward(backend, n, a, out += n));
    assert_ok(ops->copy(backend, n, a, out += n));
    assert_ok(ops->relu_forward(backend, n, out, out));
    assert_ok(ops->relu_backward(backend, n, a, b, out += n, 0));
    assert_ok(ops->copy(backend, n, b, out += n));
    assert_ok(ops->relu_backward(backend, n, a, out, out, 0));
    kernel_random(7, n, out += n);
    assert_ok(ops->relu_backward(backend, n, a, b, out, 1));
    cvy_free(a);
    cvy_free(b);
}

static void elementwise_every_size_equals_reference_at_any_thread_count(void **state)
{
    (void)state;
    /* One rounding each, the same one: no difference. */
    for (int i = 0; i < N_SIZES; i++) {
        kernel_check("elementwise", run_elementwise, &sizes[i], N_ELEMENTWISE * sizes[i], 0.0);
    }
}

static void relu_hand_values(nn_backend *backend)
{
    static const float x[5] = {-1, 0, 2, NAN, INFINITY}, dy[5] = {1, 2, 3, 4, 5};
    static const float expected_dx[5] = {10, 10, 13, 10, 15};
    float y[5], dx[5] = {10, 10, 10, 10, 10};

    assert_ok(backend->ops->relu_forward(backend, 5, x, y));
    assert_true(y[0] == 0.0f && y[1] == 0.0f && y[2] == 2.0f && isnan(y[3]) && isinf(y[4]));
    assert_ok(backend->ops->relu_backward(backend, 5, y, dy, dx, 1));
    assert_memory_equal(dx, expected_dx, sizeof dx);
}

static void relu_passes_nan_and_blocks_gradient_at_0(void **state)
{
    (void)state;
    kernel_for_each_backend(relu_hand_values);
}

typedef struct rows_case {
    int64_t rows, cols, x_stride, y_stride;
} rows_case;

static void run_copy_rows(nn_backend *backend, const void *arg, float *out)
{
    const rows_case *test = arg;
    const int64_t n = test->rows * test->y_stride;
    float *x = kernel_random_floats(1, test->rows * test->x_stride);

    assert_ok(backend->ops->copy_rows(backend, test->rows, test->cols, x, test->x_stride, out,
                                      test->y_stride, 0));
    kernel_random(2, n, out + n);
    assert_ok(backend->ops->copy_rows(backend, test->rows, test->cols, x, test->x_stride, out + n,
                                      test->y_stride, 1));
    cvy_free(x);
}

static void copy_rows_leaves_the_gaps_alone_at_any_thread_count(void **state)
{
    static const rows_case cases[] = {
        {1, 1, 1, 1}, {5, 3, 7, 4}, {700, 90, 90, 131}, {3, 20000, 20001, 20000}, {2, 0, 3, 3}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kernel_check("copy_rows", run_copy_rows, &cases[i], 2 * cases[i].rows * cases[i].y_stride,
                     0.0);
    }
}

/* out, n each: w and m of momentum, of Nesterov, w of plain sgd, w of average. */
static void run_updates(nn_backend *backend, const void *arg, float *out)
{
    const int64_t n = *(const int64_t *)arg;
    const nn_backend_ops *ops = backend->ops;
    float *grad = kernel_random_floats(1, n);

    for (int i = 0; i < 6; i++) kernel_random(10 + (uint64_t)i, n, out + i * n);
    assert_ok(ops->sgd_update(backend, n, 0.1, 0.9, 0, 1e-2, 0.125, grad, out + n, out));
    assert_ok(
        ops->sgd_update(backend, n, 0.1, 0.9, 1, 1e-2, 0.125, grad, out + 3 * n, out + 2 * n));
    assert_ok(ops->sgd_update(backend, n, 0.1, 0.9, 1, 1e-2, 0.125, grad, NULL, out + 4 * n));
    assert_ok(ops->average_update(backend, n, 0.1, 0.25, grad, out + 5 * n));
    cvy_free(grad);
}

static void updates_every_size_are_as_reference_at_any_thread_count(void **state)
{
    (void)state;
    /* Both in double, fused or not as the compiler likes: one last place of a float. */
    for (int i = 0; i < N_SIZES; i++) {
        kernel_check("updates", run_updates, &sizes[i], 6 * sizes[i], 1.2e-7);
    }
}

static void update_hand_values(nn_backend *backend)
{
    static const float grad[1] = {8};
    float w[1] = {2}, m[1] = {4};

    /* g = 8/4 + 2/2 = 3; m = 4/2 + 3 = 5; w = 2 - 5/4. */
    assert_ok(backend->ops->sgd_update(backend, 1, 0.25, 0.5, 0, 0.5, 0.25, grad, m, w));
    assert_true(m[0] == 5.0f && w[0] == 0.75f);
    /* g = 2 + 0.375 = 2.375; m = 2.5 + 2.375 = 4.875; w -= (2.375 + 2.4375) / 4. */
    assert_ok(backend->ops->sgd_update(backend, 1, 0.25, 0.5, 1, 0.5, 0.25, grad, m, w));
    assert_true(m[0] == 4.875f && w[0] == -0.453125f);
    /* g = 2; w -= 1/2. */
    assert_ok(backend->ops->sgd_update(backend, 1, 0.25, 0.5, 1, 0.0, 0.25, grad, NULL, w));
    assert_true(w[0] == -0.953125f);
    /* w += (8/4 - w) / 2. */
    w[0] = 1.0f;
    assert_ok(backend->ops->average_update(backend, 1, 0.5, 0.25, grad, w));
    assert_true(w[0] == 1.5f);
}

static void updates_of_one_weight_give_hand_computed_values(void **state)
{
    (void)state;
    kernel_for_each_backend(update_hand_values);
}

static void finite_cases(nn_backend *backend)
{
    static const float bad[3] = {NAN, INFINITY, -INFINITY};
    const int64_t n = sizes[N_SIZES - 1];
    const int64_t places[5] = {0, 5, NN_CPU_CHUNK, 2 * NN_CPU_CHUNK - 1, n - 1};
    float *x = kernel_floats(n);
    int is_finite = 0;

    for (int64_t i = 0; i < n; i++) x[i] = i % 2 == 0 ? FLT_MAX : -FLT_MAX;
    assert_ok(backend->ops->all_finite(backend, n, x, &is_finite));
    assert_int_equal(is_finite, 1);
    for (int i = 0; i < 15; i++) {
        const int64_t place = places[i / 3];
        const float kept = x[place];
        x[place] = bad[i % 3];
        assert_ok(backend->ops->all_finite(backend, n, x, &is_finite));
        assert_int_equal(is_finite, 0);
        x[place] = kept;
    }
    cvy_free(x);
}

static void all_finite_finds_one_bad_number_anywhere(void **state)
{
    (void)state;
    kernel_for_each_backend(finite_cases);
}

static const nn_dropout_key dropout_key = {.seed = 5, .step = 70, .replica = 3, .layer_idx = 9};

static void run_dropout(nn_backend *backend, const void *arg, float *out)
{
    const int64_t n = *(const int64_t *)arg;
    const nn_backend_ops *ops = backend->ops;
    float *x = kernel_random_floats(1, n);

    assert_ok(ops->dropout_forward(backend, n, 0.3, &dropout_key, x, out));
    assert_ok(ops->dropout_backward(backend, n, 0.3, &dropout_key, x, out + n, 0));
    kernel_random(2, n, out + 2 * n);
    assert_ok(ops->dropout_backward(backend, n, 0.3, &dropout_key, x, out + 2 * n, 1));
    kernel_random(3, n, out + 3 * n);
    assert_ok(ops->dropout_forward(backend, n, 0.3, &dropout_key, out + 3 * n, out + 3 * n));
    cvy_free(x);
}

static void dropout_every_size_is_as_reference_at_any_thread_count(void **state)
{
    (void)state;
    /* Times 1 / 0.7 instead of divided by 0.7: one last place. */
    for (int i = 0; i < N_SIZES; i++) {
        kernel_check("dropout", run_dropout, &sizes[i], 4 * sizes[i], 1.2e-7);
    }
}

static void dropout_properties(nn_backend *backend)
{
    enum { N = 3 * NN_CPU_CHUNK + 77 };
    float *y = kernel_floats(N), *dx = kernel_floats(N), *ones = kernel_floats(N);
    cvy_rng rng = cvy_rng_open(5, CVY_RNG_DROPOUT, 70, 3 * 1048576 + 9);
    nn_dropout_key other = dropout_key;
    double sum = 0.0;
    int n_equal = 0;

    for (int i = 0; i < N; i++) ones[i] = 1.0f;
    assert_ok(backend->ops->dropout_forward(backend, N, 0.25, &dropout_key, ones, y));
    assert_ok(backend->ops->dropout_backward(backend, N, 0.25, &dropout_key, ones, dx, 0));
    assert_memory_equal(y, dx, N * sizeof(float));
    for (int i = 0; i < N; i++) {
        const float expected = (double)cvy_rng_float(&rng) >= 0.25 ? (float)(4.0 / 3.0) : 0.0f;
        assert_true(y[i] == expected);
        sum += (double)y[i];
    }
    /* Deviation of one y: sqrt(0.25 / 0.75) = 0.58; of the mean of 49229: 0.0026; 5 of them. */
    assert_true(fabs(sum / N - 1.0) < 0.013);

    other.layer_idx++;
    assert_ok(backend->ops->dropout_forward(backend, N, 0.25, &other, ones, dx));
    for (int i = 0; i < N; i++) n_equal += y[i] == dx[i];
    assert_true(n_equal < N * 7 / 10); /* 0.75^2 + 0.25^2 = 0.625 expected */
    assert_ok(backend->ops->dropout_forward(backend, N, 0.0, &dropout_key, ones, y));
    assert_memory_equal(y, ones, N * sizeof(float));
    cvy_free(y);
    cvy_free(dx);
    cvy_free(ones);
}

static void dropout_uses_its_own_stream_and_keeps_the_mean(void **state)
{
    (void)state;
    kernel_for_each_backend(dropout_properties);
}

/* out: prob, loss, predicted, rank, confidence, dx, dx added. */
static int64_t n_xent_outputs(const nn_xent_geom *geom)
{
    return 3 * geom->n * geom->classes + 4 * geom->n;
}

static void run_xent(nn_backend *backend, const void *arg, float *out)
{
    const nn_xent_geom *geom = arg;
    const int64_t n = geom->n, all = n * geom->classes;
    const nn_backend_ops *ops = backend->ops;
    float *z = kernel_random_floats(1, all), *prob = out, *loss = prob + all;
    int32_t *ints = cvy_alloc((size_t)(3 * n) * sizeof *ints);
    float *dx = loss + 4 * n;

    assert_non_null(ints);
    for (int64_t i = 0; i < all; i++) z[i] = rintf(32.0f * z[i]); /* some equal */
    for (int64_t i = 0; i < n; i++) ints[i] = (int32_t)((i * 7 + 3) % geom->classes);
    if (n > 2) z[2 * geom->classes] = INFINITY;
    if (n > 3) z[4 * geom->classes - 1] = NAN;
    assert_ok(ops->softmax_xent_forward(backend, geom, z, ints, prob, loss, ints + n, ints + 2 * n,
                                        loss + 3 * n));
    for (int64_t i = 0; i < 2 * n; i++) loss[n + i] = (float)ints[n + i];
    assert_ok(ops->softmax_xent_backward(backend, geom, prob, ints, 0.125f, dx, 0));
    kernel_random(2, all, dx + all);
    assert_ok(ops->softmax_xent_backward(backend, geom, prob, ints, 0.125f, dx + all, 1));
    cvy_free(z);
    cvy_free(ints);
}

static void softmax_xent_every_shape_is_as_reference_at_any_thread_count(void **state)
{
    static const nn_xent_geom cases[] = {{1, 1, 0.0},    {1, 2, 0.1},     {5, 10, 0.0},
                                         {7, 1000, 0.1}, {1001, 10, 0.0}, {13, 4099, 0.05}};

    (void)state;
    /* expf is off by at most one last place of values up to 1. */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kernel_check("softmax_xent", run_xent, &cases[i], n_xent_outputs(&cases[i]), 1e-6);
    }
}

static void xent_hand_values(nn_backend *backend)
{
    const nn_xent_geom geom = {.n = 4, .classes = 4, .smoothing = 0.2};
    const float l2 = logf(2.0f), l5 = logf(5.0f);
    /* Probabilities: all 1/4; 1/10 2/10 2/10 5/10; one overwhelming; a row that is not finite. */
    const float z[16] = {3, 3, 3, 3, 0, l2, l2, l5, 1000, 0, 0, 0, 0, -INFINITY, 0, 0};
    const int32_t labels[4] = {2, 2, 0, 0};
    float prob[16], loss[4], confidence[4], dx[16];
    int32_t predicted[4], rank[4];

    assert_ok(backend->ops->softmax_xent_forward(backend, &geom, z, labels, prob, loss, predicted,
                                                 rank, confidence));
    kernel_compare(
        "prob", prob,
        (const float[12]){0.25f, 0.25f, 0.25f, 0.25f, 0.1f, 0.2f, 0.2f, 0.5f, 1, 0, 0, 0}, 12,
        1e-6);
    const double l10 = log(10.0), smooth = l10 - (2.0 * log(2.0) + log(5.0)) / 4.0;
    kernel_compare(
        "loss", loss,
        (const float[3]){logf(4.0f), (float)(0.8 * log(5.0) + 0.2 * smooth), 0.2f * 750.0f}, 3,
        1e-6);
    assert_true(isnan(loss[3]));
    assert_memory_equal(predicted, ((const int32_t[3]){0, 3, 0}), 3 * sizeof(int32_t));
    assert_memory_equal(rank, ((const int32_t[3]){2, 2, 0}), 3 * sizeof(int32_t));
    kernel_compare("confidence", confidence, (const float[3]){0.25f, 0.5f, 1}, 3, 1e-6);

    /* scale (prob - 0.05 - 0.8 at the label). */
    assert_ok(backend->ops->softmax_xent_backward(backend, &geom, prob, labels, 2.0f, dx, 0));
    kernel_compare("dx", dx, (const float[8]){0.4f, 0.4f, -1.2f, 0.4f, 0.1f, 0.3f, -1.3f, 0.9f}, 8,
                   1e-6);
}

static void softmax_xent_of_small_rows_gives_hand_computed_values(void **state)
{
    (void)state;
    kernel_for_each_backend(xent_hand_values);
}

static void memory_cases(nn_backend *backend)
{
    const char host[] = "seventeen letters";
    char back[sizeof host] = {0};
    void *block = backend->ops->alloc(backend, sizeof host);

    assert_non_null(block);
    assert_int_equal((uintptr_t)block % CVY_ALIGN_BYTES, 0);
    assert_ok(backend->ops->copy_in(backend, block, host, sizeof host));
    assert_ok(backend->ops->copy_out(backend, back, block, sizeof host));
    assert_ok(backend->ops->copy_in(backend, block, host, 0));
    assert_ok(backend->ops->sync(backend));
    assert_string_equal(back, host);
    backend->ops->release(backend, block);
    backend->ops->release(backend, NULL);
    cvy_alloc_fail_at(0);
    assert_null(backend->ops->alloc(backend, 64));
    cvy_alloc_fail_at(-1);
}

static void backend_memory_keeps_what_was_copied_in(void **state)
{
    (void)state;
    kernel_for_each_backend(memory_cases);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(backends_have_every_slot_filled),
    cvy_unit_test(layout_takes_elements_in_and_gives_them_back),
    cvy_unit_test(copy_channels_moves_any_run_between_any_counts),
    cvy_unit_test(backend_unknown_name_tells_the_nearest),
    cvy_unit_test(backend_without_threads_is_refused),
    cvy_unit_test(backend_auto_takes_the_last_that_works),
    cvy_unit_test(backend_open_without_memory_fails_clean),
    cvy_unit_test(backend_memory_keeps_what_was_copied_in),
    cvy_unit_test(wrong_blas_makes_cpu_backend_unavailable),
    cvy_unit_test(gemm_with_beta_0_overwrites_nan),
    cvy_unit_test(sums_of_any_length_are_near_to_double),
    cvy_unit_test(elementwise_every_size_equals_reference_at_any_thread_count),
    cvy_unit_test(relu_passes_nan_and_blocks_gradient_at_0),
    cvy_unit_test(copy_rows_leaves_the_gaps_alone_at_any_thread_count),
    cvy_unit_test(updates_every_size_are_as_reference_at_any_thread_count),
    cvy_unit_test(updates_of_one_weight_give_hand_computed_values),
    cvy_unit_test(all_finite_finds_one_bad_number_anywhere),
    cvy_unit_test(dropout_every_size_is_as_reference_at_any_thread_count),
    cvy_unit_test(dropout_uses_its_own_stream_and_keeps_the_mean),
    cvy_unit_test(softmax_xent_every_shape_is_as_reference_at_any_thread_count),
    cvy_unit_test(softmax_xent_of_small_rows_gives_hand_computed_values),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
