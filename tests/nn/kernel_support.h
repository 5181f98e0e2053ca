#ifndef TESTS_NN_KERNEL_SUPPORT_H
#define TESTS_NN_KERNEL_SUPPORT_H

#include "base/alloc.h"
#include "base/rng.h"
#include "nn/backend.h"
#include "tests/support/test_support.h"

#include <math.h>
#include <string.h>

/* What the tests of kernels share: numbers, backends, and the comparison of every fast backend with
 * the reference at several numbers of threads. Inline, because each program is one source file. */

/** Numbers on [-1, 1), the same for the same stream and n. */
static inline void kernel_random(uint64_t stream, int64_t n, float *out)
{
    cvy_rng rng = cvy_rng_open(77, CVY_RNG_TEST, stream, 0);

    for (int64_t i = 0; i < n; i++) out[i] = 2.0f * cvy_rng_float(&rng) - 1.0f;
}

static inline float *kernel_floats(int64_t n)
{
    float *floats = cvy_alloc((size_t)n * sizeof(float));

    assert_non_null(floats);
    return floats;
}

static inline float *kernel_random_floats(uint64_t stream, int64_t n)
{
    float *floats = kernel_floats(n);

    kernel_random(stream, n, floats);
    return floats;
}

static inline nn_backend *kernel_backend(const char *name, int n_threads)
{
    nn_backend *backend = NULL;

    assert_ok(nn_backend_open(name, &(nn_backend_options){.n_threads = n_threads}, &backend));
    return backend;
}

/* Activations on their way into a backend's layout and out of it. */

static inline nn_shape kernel_shape(int64_t n, int64_t c, int64_t h, int64_t w)
{
    return (nn_shape){.n_dims = 4, .dim = {n, c, h, w}};
}

/** An activation that is not written yet: NaN, padding too. */
static inline float *kernel_blank(nn_backend *backend, const nn_shape *shape)
{
    const int64_t n = backend->ops->activation_elems(backend, shape);
    float *x = kernel_floats(n);

    for (int64_t i = 0; i < n; i++) x[i] = NAN;
    return x;
}

static inline float *kernel_pack(nn_backend *backend, const nn_shape *shape, const float *dense)
{
    float *x = kernel_blank(backend, shape);

    assert_ok(backend->ops->pack(backend, shape, dense, x, 0));
    return x;
}

/** Take an activation's elements, check that its padding is 0 everywhere, and free it. */
static inline void kernel_take(nn_backend *backend, const nn_shape *shape, float *x, float *out)
{
    const int64_t n = backend->ops->activation_elems(backend, shape);

    assert_ok(backend->ops->unpack(backend, shape, x, out));
    float *again = kernel_pack(backend, shape, out);
    if (memcmp(x, again, (size_t)n * sizeof *x) != 0) fail_msg("padding of an activation is not 0");
    cvy_free(again);
    cvy_free(x);
}

/** Random numbers in the backend's layout. */
static inline float *kernel_random_activation(nn_backend *backend, uint64_t stream,
                                              const nn_shape *shape)
{
    float *dense = kernel_random_floats(stream, nn_shape_n_elems(shape));
    float *x = kernel_pack(backend, shape, dense);

    cvy_free(dense);
    return x;
}

/** Run a case on a backend and leave its outputs, n_out floats, which hold NaN before. */
typedef void (*kernel_case)(nn_backend *backend, const void *arg, float *out);

static inline float *kernel_outputs(kernel_case run, const void *arg, const char *name,
                                    int n_threads, int64_t n_out)
{
    nn_backend *backend = kernel_backend(name, n_threads);
    float *out = kernel_floats(n_out);

    for (int64_t i = 0; i < n_out; i++) out[i] = NAN;
    run(backend, arg, out);
    nn_backend_close(&backend);
    return out;
}

/** Whether a is b within tolerance (1 + |b|); NaN is like NaN only. */
static inline int kernel_is_near(float a, float b, double tolerance)
{
    if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
    if (a == b) return 1;
    return fabs((double)a - (double)b) <= tolerance * (1.0 + fabs((double)b));
}

static inline void kernel_compare(const char *what, const float *got, const float *expected,
                                  int64_t n, double tolerance)
{
    for (int64_t i = 0; i < n; i++) {
        if (!kernel_is_near(got[i], expected[i], tolerance)) {
            fail_msg("%s: output %lld is %.9g, expected %.9g", what, (long long)i, (double)got[i],
                     (double)expected[i]);
        }
    }
}

/** Scratch full of NaN: whatever a kernel reads there it must have written. */
static inline void *kernel_spoilt_workspace(nn_backend *backend, const nn_conv2d_geom *geom)
{
    const size_t size_bytes = backend->ops->conv2d_workspace_bytes(backend, geom);
    void *workspace = backend->ops->alloc(backend, size_bytes);

    assert_non_null(workspace);
    memset(workspace, 0xff, size_bytes);
    return workspace;
}

/** What a convolution of numbers on [-1, 1) may be off. A sum of n products of them is about n^0.5
 * / 3. In float, one after the other or through Winograd's transforms, whose constants go up to 8,
 * it is off by some 30 roundings. */
static inline double kernel_conv_tolerance(const nn_conv2d_geom *geom)
{
    const int64_t taps = geom->r * geom->s;
    const int64_t sums[] = {geom->c / geom->groups * taps, geom->k / geom->groups * taps,
                            geom->n * geom->p * geom->q};
    int64_t n = 16;

    for (int i = 0; i < 3; i++) n = sums[i] > n ? sums[i] : n;
    return 4e-6 * sqrt((double)n);
}

/** Every backend but ref: near to ref, and the same bits at 1, 2, 3 and 4 threads. */
static inline void kernel_check(const char *what, kernel_case run, const void *arg, int64_t n_out,
                                double tolerance)
{
    float *expected = kernel_outputs(run, arg, "ref", 1, n_out);

    for (int idx = 1; idx < nn_backend_count(); idx++) {
        const char *name = nn_backend_at(idx)->name;
        float *one = kernel_outputs(run, arg, name, 1, n_out);

        kernel_compare(what, one, expected, n_out, tolerance);
        for (int n_threads = 2; n_threads <= 4; n_threads++) {
            float *several = kernel_outputs(run, arg, name, n_threads, n_out);
            if (memcmp(one, several, (size_t)n_out * sizeof(float)) != 0) {
                fail_msg("%s: %s differs at %d threads", what, name, n_threads);
            }
            cvy_free(several);
        }
        cvy_free(one);
    }
    cvy_free(expected);
}

/** Call a test for every backend, opened with two threads. */
static inline void kernel_for_each_backend(void (*test)(nn_backend *backend))
{
    for (int idx = 0; idx < nn_backend_count(); idx++) {
        nn_backend *backend = kernel_backend(nn_backend_at(idx)->name, 2);
        test(backend);
        nn_backend_close(&backend);
    }
}

#endif
