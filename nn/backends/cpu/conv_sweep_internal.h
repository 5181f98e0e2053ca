#ifndef NN_BACKENDS_CPU_CONV_SWEEP_INTERNAL_H
#define NN_BACKENDS_CPU_CONV_SWEEP_INTERNAL_H

#include "nn/backends/cpu/conv_tile_internal.h"
#include "nn/backends/cpu/cpu_internal.h"
#include "nn/backends/cpu/simd_internal.h"

/**
 * A convolution seen as one sweep over its output (dst), which reads windows of its input (src).
 *
 * Forward, src is x and dst is y. The gradient of x is a sweep as well, with dy as src and dx as
 * dst. With a stride, an element of dx meets only some of the taps, the same for every stride-th
 * element: such elements are a phase, which has taps of its own.
 *
 *     dst[first + i dst_step] = sum over the phase's taps of src[i step + tap] filter[tap]
 *
 * along both axes, and over the channels of src. dst is in blocks of channels; so is src (lanes is
 * 16), or it is in planes (lanes is 1, every channel is a "block"). A chunk of work is some images,
 * or a band of rows of one. Its input is first copied with its padding, and with every step-th
 * column side by side, so that a tile reads neighbours whatever the stride.
 *
 * A convolution with groups is several such sweeps, its slices, side by side in the channels of
 * both tensors. Groups of whole blocks are a slice each. Where groups are a part of a block, of m =
 * 1, 2, 4 or 8 channels on both sides, a slice is one block, and m products of vectors, the turns
 * of nn_conv_tile_run_lanes(), are all there is to a tap. m = 1 is a depthwise convolution.
 */
enum { NN_SWEEP_MAX_TAPS = 256, NN_SWEEP_MAX_PHASES = 16, NN_SWEEP_MAX_STEP = 16 };

typedef struct nn_conv_tap {
    int64_t h, w;   /* place in src, from i step */
    int64_t idx;    /* r * S + s */
    int64_t offset; /* place in the copy, floats */
} nn_conv_tap;

typedef struct nn_conv_phase {
    int first_tap, n_taps;
    int64_t h, w, first_h, first_w; /* elements of dst: how many, and the first */
} nn_conv_phase;

typedef struct nn_conv_sweep {
    int64_t n;
    int64_t n_slices;  /* src_c, dst_c and their blocks are those of one */
    int64_t turns;     /* m, or 0 where slices are whole blocks */
    int64_t all_dst_c; /* of all slices */
    int64_t lanes, src_c, src_blocks, src_h, src_w, src_step_h, src_step_w;
    int64_t dst_c, dst_blocks, dst_h, dst_w, dst_step_h, dst_step_w;
    int64_t low_h, high_h, low_w, high_w; /* places of the outermost taps */
    int64_t rows, cols;                   /* of the largest phase */
    int n_taps, n_phases;
    int is_direct; /* src itself serves as the copy */

    int64_t images_per_chunk, rows_per_band, slices_per_chunk;
    int64_t n_image_chunks, n_bands, n_slice_chunks;
    int64_t column_floats, row_floats, block_floats; /* of the copy: pitches */
    int64_t copy_floats;                             /* of a chunk */
    uint32_t used_rows,
        used_columns; /* bit i: rows that are i past a multiple of the step are read */

    nn_conv_phase phases[NN_SWEEP_MAX_PHASES];
    nn_conv_tap taps[NN_SWEEP_MAX_TAPS];
} nn_conv_sweep;

/** Whether the geometry has few enough taps and phases, and layouts that sweeps know. */
int nn_conv_sweep_fits(const nn_conv2d_geom *geom);
void nn_conv_sweep_forward(const nn_conv2d_geom *geom, nn_conv_sweep *out);
void nn_conv_sweep_backward(const nn_conv2d_geom *geom, nn_conv_sweep *out);

/** Packed filters: slices; in each, groups of one or two blocks of dst channels; in each (phase,
 * block of src, tap, lane, dst channel), or (phase, turn, tap, dst channel); 0 for channels that do
 * not exist. */
int64_t nn_conv_sweep_filter_floats(const nn_conv_sweep *sweep);
/** Source strides, in floats of KCRS, from one channel of dst and of src to the next. */
void nn_conv_sweep_pack_filter(nn_backend *backend, const nn_conv_sweep *sweep, const float *filter,
                               int64_t dst_stride, int64_t src_stride, float *packed);

/** scratch: copy_floats for each thread. */
void nn_conv_sweep_run(nn_backend *backend, const nn_conv_sweep *sweep, const float *src,
                       const float *packed, const nn_conv_epilogue *epilogue, float *dst,
                       int accumulate, float *scratch);

/** Copy rows [row, row + n_rows) of dst's index, i.e. the src that they read, of one image. src:
 * the first block of the slice in the first image. */
void nn_conv_sweep_copy(const nn_conv_sweep *sweep, const float *src, int64_t image, int64_t row,
                        int64_t n_rows, float *copy);

/** Weights of a tap that an element of dst meets. */
static inline int64_t nn_conv_sweep_depth(const nn_conv_sweep *sweep)
{
    return sweep->turns > 0 ? sweep->turns : sweep->src_blocks * sweep->lanes;
}

/** Blocks of dst channels in group idx, and the number of groups. */
static inline int nn_conv_group_blocks(int64_t n_blocks, int64_t idx)
{
    return (int)(n_blocks - idx * NN_TILE_BLOCKS < NN_TILE_BLOCKS ? n_blocks - idx * NN_TILE_BLOCKS
                                                                  : NN_TILE_BLOCKS);
}
static inline int64_t nn_conv_n_groups(int64_t n_blocks)
{
    return (n_blocks + NN_TILE_BLOCKS - 1) / NN_TILE_BLOCKS;
}

#endif
