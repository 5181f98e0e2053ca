#ifndef NN_BACKENDS_CPU_DENSE_DIRECT_INTERNAL_H
#define NN_BACKENDS_CPU_DENSE_DIRECT_INTERNAL_H

#include "nn/backends/cpu/cpu_internal.h"

/**
 * The three products of a dense layer whose weights stay in a core's second-level cache: without
 * the packed copies that a large matrix product needs, and that take longer than a small one.
 */
int nn_dense_direct_fits(int64_t c, int64_t k);

/** Rows of a product: how many make a chunk that is worth handing to a thread. */
int64_t nn_dense_direct_rows(int64_t products_per_row);

/** y (rows, k) = x (rows, c) weight^T (c, k) + bias (or NULL). */
void nn_dense_direct_forward(int64_t rows, int64_t c, int64_t k, const float *x,
                             const float *weight, const float *bias, float *y);

/** a[row * row_stride + i * step]: a matrix or its transpose. */
typedef struct nn_dense_factor {
    const float *at;
    int64_t row_stride, step;
} nn_dense_factor;

/** out (rows, cols) (+)= a (rows, depth) b (depth, cols). */
void nn_dense_direct_product(int64_t rows, int64_t depth, int64_t cols, nn_dense_factor a,
                             const float *b, float *out, int accumulate);

#endif
