#ifndef NN_BACKENDS_CPU_INTERNAL_H
#define NN_BACKENDS_CPU_INTERNAL_H

#include "base/pool.h"
#include "nn/backend.h"

#include <stddef.h>
#include <stdint.h>

/**
 * The kernels of the cpu backend: the formulas of nn/backend.h on all threads of a pool.
 *
 * Bits must not depend on the number of threads. So each kernel splits its outputs into chunks
 * whose shape follows from the geometry alone, one thread computes a chunk from beginning to end,
 * and no matrix product is ever cut to suit the threads: BLAS may round another shape another way.
 */
typedef struct nn_cpu {
    nn_backend base;
    cvy_pool *pool;
    double *partials; /* [NN_CPU_N_PARTIALS][NN_CPU_PARTIAL], lost from call to call */
    float *lines;     /* [NN_CPU_N_PARTIALS][NN_CPU_LINE], likewise */
} nn_cpu;

/** Partial sums of blocks of channels that a batch norm may have, and the doubles of each; the
 *  floats that its sweep over a block of channels needs. */
enum { NN_CPU_N_PARTIALS = 128, NN_CPU_PARTIAL = 32, NN_CPU_LINE = 96 };

/** Floats that one chunk of an elementwise kernel handles: 64 KiB, a part of a core's cache. */
enum { NN_CPU_CHUNK = 16384 };

/** Run a task for every chunk; a single chunk runs in place and wakes nobody. */
void nn_cpu_run(nn_backend *backend, int64_t n_chunks, cvy_pool_task task, void *arg);

/** a / b rounded up; a >= 0, b > 0. */
static inline int64_t nn_cpu_div_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}
static inline int64_t nn_cpu_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t nn_cpu_most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/** Part idx of [0, n) when it is cut into parts of at most part_size. */
typedef struct nn_cpu_span {
    int64_t first, n;
} nn_cpu_span;
nn_cpu_span nn_cpu_part(int64_t n, int64_t part_size, int64_t idx);
/** What is in both. */
static inline nn_cpu_span nn_cpu_common(nn_cpu_span a, nn_cpu_span b)
{
    const int64_t first = nn_cpu_most(a.first, b.first);
    const int64_t end = nn_cpu_least(a.first + a.n, b.first + b.n);

    return (nn_cpu_span){first, nn_cpu_most(0, end - first)};
}

/* --- matrix products (gemm.c) ------------------------------------------------------------------*/

/** A row-major matrix, or the transpose of one; ld: floats from one stored row to the next. */
typedef struct nn_cpu_matrix {
    const float *at;
    int64_t ld;
    int is_transposed;
} nn_cpu_matrix;

/** c (m, n) = a (m, k) b (k, n) + beta c, in the calling thread. With beta 0, c may hold anything.
 */
void nn_cpu_gemm(int64_t m, int64_t n, int64_t k, nn_cpu_matrix a, nn_cpu_matrix b, float beta,
                 float *c, int64_t ldc);

typedef void (*nn_cpu_gemm_function)(int64_t m, int64_t n, int64_t k, nn_cpu_matrix a,
                                     nn_cpu_matrix b, float beta, float *c, int64_t ldc);

/** Compare a matrix product with plain loops: some BLAS builds pick kernels for newer processors
 *  that compute wrong results. CVY_ERR_UNAVAILABLE (logged, with the cure) if it is wrong. */
cvy_status nn_cpu_gemm_check(nn_cpu_gemm_function gemm);

/** Make BLAS work in the calling thread alone: the pool's threads call it side by side. */
void nn_cpu_gemm_open(void);

/* --- sums (reduce.c): float lanes over blocks of 2048, blocks added in double, order fixed
 * -------*/

double nn_cpu_sum(int64_t n, const float *x);
double nn_cpu_dot(int64_t n, const float *x, const float *y);
/** *sum += sum of (x - centre), *squares += sum of (x - centre)^2. */
void nn_cpu_add_moments(int64_t n, const float *x, float centre, double *sum, double *squares);
/** sum of dy * (x - mean). */
double nn_cpu_dot_centred(int64_t n, const float *dy, const float *x, float mean);

/* --- kernels
 * -------------------------------------------------------------------------------------*/

cvy_status nn_cpu_fill(nn_backend *backend, int64_t n, float value, float *y);
cvy_status nn_cpu_copy(nn_backend *backend, int64_t n, const float *x, float *y);
cvy_status nn_cpu_accumulate(nn_backend *backend, int64_t n, const float *x, float *y);
cvy_status nn_cpu_add(nn_backend *backend, int64_t n, const float *a, const float *b, float *y);
cvy_status nn_cpu_copy_rows(nn_backend *backend, int64_t rows, int64_t cols, const float *x,
                            int64_t x_stride, float *y, int64_t y_stride, int accumulate);
cvy_status nn_cpu_relu_forward(nn_backend *backend, int64_t n, const float *x, float *y);
cvy_status nn_cpu_relu_backward(nn_backend *backend, int64_t n, const float *y, const float *dy,
                                float *dx, int accumulate);

size_t nn_cpu_conv2d_workspace_bytes(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_cpu_conv2d_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                 const float *filter, const float *bias, float *y, void *workspace);
cvy_status nn_cpu_conv2d_tail_forward(nn_backend *backend, const nn_conv2d_geom *geom,
                                      const float *x, const float *filter, const float *bias,
                                      const nn_conv_tail *tail, float *y, void *workspace);
cvy_status nn_cpu_conv2d_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                       const float *dy, const float *filter, float *dx,
                                       int accumulate, void *workspace);
cvy_status nn_cpu_conv2d_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                         const float *x, const float *dy, float *dfilter,
                                         float *dbias, void *workspace);

cvy_status nn_cpu_dense_forward(nn_backend *backend, int64_t n, int64_t c, int64_t k,
                                const float *x, const float *weight, const float *bias, float *y);
cvy_status nn_cpu_dense_backward(nn_backend *backend, int64_t n, int64_t c, int64_t k,
                                 const float *x, const float *weight, const float *dy, float *dx,
                                 int accumulate, float *dweight, float *dbias);

cvy_status nn_cpu_batchnorm_forward(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                    const float *gamma, const float *beta, float *y, float *mean,
                                    float *invstd, float *batch_var);
cvy_status nn_cpu_batchnorm_inference(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                      const float *gamma, const float *beta, const float *mean,
                                      const float *var, float *y);
cvy_status nn_cpu_batchnorm_backward(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                     const float *dy, const float *gamma, const float *mean,
                                     const float *invstd, float *dx, int accumulate, float *dgamma,
                                     float *dbeta);

cvy_status nn_cpu_norm_chain_forward(nn_backend *backend, const nn_bn_geom *geom,
                                     const nn_norm_chain *chain);
cvy_status nn_cpu_norm_chain_again(nn_backend *backend, const nn_bn_geom *geom,
                                   const nn_norm_chain *chain);
cvy_status nn_cpu_norm_chain_backward(nn_backend *backend, const nn_bn_geom *geom,
                                      const nn_norm_chain_gradient *chain);

cvy_status nn_cpu_maxpool2d_forward(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                    float *y, int32_t *argmax);
cvy_status nn_cpu_maxpool2d_backward(nn_backend *backend, const nn_pool2d_geom *geom,
                                     const float *dy, const int32_t *argmax, float *dx,
                                     int accumulate);
cvy_status nn_cpu_avgpool2d_forward(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                    float *y);
cvy_status nn_cpu_avgpool2d_backward(nn_backend *backend, const nn_pool2d_geom *geom,
                                     const float *dy, float *dx, int accumulate);

cvy_status nn_cpu_dropout_forward(nn_backend *backend, int64_t n, double rate,
                                  const nn_dropout_key *key, const float *x, float *y);
cvy_status nn_cpu_dropout_backward(nn_backend *backend, int64_t n, double rate,
                                   const nn_dropout_key *key, const float *dy, float *dx,
                                   int accumulate);

cvy_status nn_cpu_softmax_xent_forward(nn_backend *backend, const nn_xent_geom *geom,
                                       const float *logits, const int32_t *labels, float *prob,
                                       float *loss, int32_t *predicted, int32_t *rank,
                                       float *confidence);
cvy_status nn_cpu_softmax_xent_backward(nn_backend *backend, const nn_xent_geom *geom,
                                        const float *prob, const int32_t *labels, float scale,
                                        float *dx, int accumulate);

cvy_status nn_cpu_sgd_update(nn_backend *backend, int64_t n, double lr, double momentum,
                             int is_nesterov, double decay, double grad_scale, const float *grad,
                             float *m, float *w);
cvy_status nn_cpu_average_update(nn_backend *backend, int64_t n, double rate, double scale,
                                 const float *sum, float *w);
cvy_status nn_cpu_all_finite(nn_backend *backend, int64_t n, const float *x, int *out);

#endif
