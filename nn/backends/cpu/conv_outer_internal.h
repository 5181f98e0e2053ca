#ifndef NN_BACKENDS_CPU_CONV_OUTER_INTERNAL_H
#define NN_BACKENDS_CPU_CONV_OUTER_INTERNAL_H

#include "nn/backends/cpu/simd_internal.h"

#include <stdint.h>

/**
 * The innermost product of a filter's gradient: for each of some inputs, the sum over pixels of the
 * input times one or two blocks of output gradients, in registers:
 *
 *     sum[i][k] (+)= sum over image, row, col of x[image, row, col][i] * dy[image, row, col][k]
 *
 * Pixels are added in this order.
 */
typedef struct nn_conv_outer {
    int64_t n_images, n_rows, n_cols;
    const float *x;
    int64_t x_image_pitch, x_row_pitch, x_col_pitch;
    const float *dy; /* columns are 16 floats apart */
    int64_t dy_image_pitch, dy_row_pitch, dy_block_pitch;
    float *sum; /* (inputs, 16 * n_out_blocks) */
    int is_new; /* overwrite sum */
    /* Blocks only. Floats to what is read soon and fetched now; 0: nothing. x_near: by the next
     * call, into the nearest cache. */
    int64_t x_fetch, dy_fetch, x_near;
} nn_conv_outer;

/** Inputs i = 0 to 15 are the channels of a block, x[i]. n_out_blocks: 1 or 2. */
void nn_conv_outer_block(const nn_conv_outer *outer, int n_out_blocks);

/** Inputs of one call below. */
static inline int nn_conv_outer_n_taps(int n_out_blocks)
{
    return NN_OUTER_TAPS_TWO * (3 - n_out_blocks);
}
/** Inputs are nn_conv_outer_n_taps() taps of planes, x[offset[i]], columns 1 float apart. */
void nn_conv_outer_taps(const nn_conv_outer *outer, int n_out_blocks, const int64_t *offset);

#endif
