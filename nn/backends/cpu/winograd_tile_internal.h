#ifndef NN_BACKENDS_CPU_WINOGRAD_TILE_INTERNAL_H
#define NN_BACKENDS_CPU_WINOGRAD_TILE_INTERNAL_H

#include "nn/backends/cpu/winograd_internal.h"

/** The transforms of blocks of 16 channels: tiles (winograd_tile.c) and filters
 *  (winograd_filter.c). */

/** Blocks of channels to transform: planes follow each other, results are a pitch apart. */
typedef struct nn_wino_blocks {
    int64_t n, pitch;
} nn_wino_blocks;

/** out[i * pitch + block * blocks->pitch + tile * 16] = (B^T x B)[i], i = 0 to 35, or 0 to 11 of a
 *  third, and (A dy A^T) in the same way, where the tile has the position; x and dy count as 0
 *  outside their planes. third may be NN_WINO_ALL. */
void nn_wino_input(const float *plane, const nn_wino_run *run, const nn_wino_blocks *blocks,
                   int third, float *out, int64_t pitch);
void nn_wino_output_adjoint(const float *plane, const nn_wino_run *run,
                            const nn_wino_blocks *blocks, int third, float *out, int64_t pitch);
/** y (+)= epilogue of A^T m A where a tile is inside; m[i * pitch + tile * 16]. The epilogue is
 * that of the block, its residual that of the plane. */
void nn_wino_output(const float *m, int64_t pitch, const nn_conv_epilogue *epilogue, int accumulate,
                    float *plane, const nn_wino_run *run);
/** out[i * pitch] = (G filter G^T)[i] of 16 channels, i = 0 to 35; filter[tap * 16]. */
void nn_wino_filter(const float *filter, float *out, int64_t pitch);
/** out[tap * 16] = (G^T sum G)[tap] of 16 channels; sum[i * pitch]. */
void nn_wino_filter_adjoint(const float *sum, int64_t pitch, float *out);
/** The taps of n of 16 channels to KCRS, these channels a stride apart. */
void nn_wino_scatter_taps(const float taps[9 * NN_CPU_BLOCK], int64_t n, int64_t stride, float *to);

#endif
