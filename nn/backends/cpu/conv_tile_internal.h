#ifndef NN_BACKENDS_CPU_CONV_TILE_INTERNAL_H
#define NN_BACKENDS_CPU_CONV_TILE_INTERNAL_H

#include "nn/backends/cpu/simd_internal.h"

#include <stddef.h>
#include <stdint.h>

/**
 * What becomes of a sum when it is written,
 *
 *     y = f((sum + bias - mean) * scale + shift (+ y) + residual),
 *
 * where f is the rectifier or nothing: the bias of a convolution and, in evaluation, the batch norm
 * behind it, to the bit as its own kernel computes it. Only the bias goes with (+ y).
 */
typedef struct nn_conv_epilogue {
    const float *bias;                 /* stored channels of y; NULL: 0 */
    const float *mean, *scale, *shift; /* the same, all or none */
    const float *residual;             /* laid out as y; NULL: none */
    int is_relu;
} nn_conv_epilogue;

/** The epilogue of the rest of y from a block of channels on, whose first float is at y; NULL:
 *  none. */
static inline nn_conv_epilogue nn_conv_epilogue_at(const nn_conv_epilogue *epilogue, int64_t block,
                                                   int64_t y)
{
    nn_conv_epilogue at = {0};

    if (epilogue == NULL) return at;
    at = *epilogue;
    if (at.bias != NULL) at.bias += block * NN_CPU_BLOCK;
    if (at.mean != NULL) {
        at.mean += block * NN_CPU_BLOCK;
        at.scale += block * NN_CPU_BLOCK;
        at.shift += block * NN_CPU_BLOCK;
    }
    if (at.residual != NULL) at.residual += y;
    return at;
}

/**
 * The innermost product of convolutions: a tile of output pixels by one or two blocks of output
 * channels, summed in registers over all inputs and taps and written once.
 *
 *     y[pixel][k] (+)= epilogue of the sum over block, tap, c of
 *         x[block * x_block_pitch + tap_offset[tap] + pixel * 16 + c] * filter[block][tap][c][k]
 *
 * The sum of an output runs over blocks, taps and channels in this order, whatever the tile.
 */
typedef struct nn_conv_tile {
    const float *x;            /* tap 0's offset counts from here */
    int64_t x_block_pitch;     /* floats from one block of input channels to the next */
    int64_t x_row_pitch;       /* from the tile's first row of pixels to its second */
    int64_t n_blocks;          /* of input channels */
    const int64_t *tap_offset; /* [n_taps] floats */
    int64_t n_taps;
    const float *filter;       /* (n_blocks, n_taps, 16, 16 * blocks of output channels) */
    nn_conv_epilogue epilogue; /* at the tile's first channel and pixel */
    float *y;
    int64_t y_block_pitch, y_row_pitch, y_pixel_pitch;
    int accumulate;
    int64_t fetch; /* floats from x to what is read soon, and fetched meanwhile; 0: nothing */
} nn_conv_tile;

/** The most pixels of a tile of n_out_blocks (1 or 2) blocks of output channels. */
static inline int nn_conv_tile_max_pixels(int n_out_blocks)
{
    return n_out_blocks == 2 ? NN_TILE_PIXELS : NN_TILE_PIXELS_ONE;
}

/** Compute n_rows (1 or 2) rows of n_pixels pixels; n_rows * n_pixels fits the most. */
void nn_conv_tile_run(const nn_conv_tile *tile, int n_out_blocks, int n_rows, int n_pixels);
/** The same with one input channel per tap, pixels beside each other: n_blocks is 1, and
 *     y[pixel][k] (+)= epilogue of the sum over tap of x[tap_offset[tap] + pixel] * filter[tap][k].
 */
void nn_conv_tile_run_planes(const nn_conv_tile *tile, int n_out_blocks, int n_pixels);
/** The same with one block of inputs and one of outputs, of which only channels in one group meet;
 *  the groups have as many channels as there are turns, 1, 2, 4 or 8, which n_blocks counts here:
 *     y[pixel][k ^ d] (+)= epilogue of the sum over turn, tap of
 *         x[tap_offset[tap] + pixel * 16 + k] * filter[turn][tap][k]
 *  with d = nn_conv_turn(turn, n_blocks). So products are of vectors, lane by lane, and it is sums
 *  that change lanes, once a turn.
 */
void nn_conv_tile_run_lanes(const nn_conv_tile *tile, int n_rows, int n_pixels);

/** How the lanes of inputs and outputs differ in a turn: a Gray code, every number below n_turns (a
 *  power of 2) once, from one turn to the next a change of one bit, and 0 at last. */
static inline int nn_conv_turn(int64_t turn, int64_t n_turns)
{
    const int64_t last = n_turns - 1;

    return (int)((turn ^ turn >> 1) ^ (last ^ last >> 1));
}

#endif
