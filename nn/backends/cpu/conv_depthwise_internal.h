#ifndef NN_BACKENDS_CPU_CONV_DEPTHWISE_INTERNAL_H
#define NN_BACKENDS_CPU_CONV_DEPTHWISE_INTERNAL_H

#include "nn/backends/cpu/conv_sweep_internal.h"

/**
 * The gradient of a filter whose groups are parts of a block, m = 1 (depthwise), 2, 4 or 8 channels
 * on both sides:
 *
 *     dfilter[k][c][tap] = sum over images and output pixels of x[pixel + tap][c] * dy[pixel][k]
 *
 * for the c and k of one group, whose lanes differ by k ^ c < m. To a tap and such a difference, a
 * turn, belongs one product of vectors, lane by lane, x times dy in another order. A task is one
 * block of channels of a share of the images, whose x is copied band by band; shares are added in
 * their order.
 */
typedef struct nn_conv_depthwise {
    nn_conv2d_geom geom;
    nn_conv_sweep sweep; /* the forward one: its taps and its copy */
    int64_t images_per_share, n_shares;
    int64_t rows_per_step;  /* of dy, that stay in the first-level cache */
    int64_t n_inputs;       /* taps, rounded up */
    int64_t sum_floats;     /* of a task: (turns, n_inputs, 16) */
    int64_t total_floats;   /* of all tasks */
    int64_t scratch_floats; /* of a thread */
} nn_conv_depthwise;

void nn_conv_depthwise_plan(const nn_conv2d_geom *geom, nn_conv_depthwise *out);
/** sums: total_floats; scratch: scratch_floats for each thread. */
void nn_conv_depthwise_run(nn_backend *backend, const nn_conv_depthwise *plan, const float *x,
                           const float *dy, float *dfilter, float *sums, float *scratch);

#endif
