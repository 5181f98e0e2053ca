#ifndef NN_BACKENDS_CPU_WINOGRAD_INTERNAL_H
#define NN_BACKENDS_CPU_WINOGRAD_INTERNAL_H

#include "nn/backends/cpu/cpu_internal.h"
#include "nn/backends/cpu/simd_internal.h"

/**
 * 3x3 convolutions with stride 1 by Winograd's minimal filtering F(4x4, 3x3): a quarter of the
 * multiplications. Sources: Lavin & Gray 2016, arXiv:1509.09308; the Toom-Cook matrices at the
 * points 0, +-1/sqrt(2), +-sqrt(2), infinity, which round less than those at 0, +-1, +-2 (Barabasz
 * et al. 2018, arXiv:1803.10986, on the choice of points).
 *
 * With the matrices B (6x6), G (6x3) and A (6x4), a tile of 4x4 outputs is
 *
 *     y = A^T [ sum over c of (G filter G^T) * (B^T x B) ] A,      x: 6x6, * elementwise,
 *
 * and the filter's gradient, its adjoint, G^T [ sum over tiles of (B^T x B) * (A dy A^T) ] G.
 * Elementwise products over many tiles and channels are 36 matrix products, one a position.
 */
enum { NN_WINO_OUT = 4, NN_WINO_IN = 6, NN_WINO_PLACES = 36 };

/** Whether a convolution is done this way, in all three passes. Says nothing of the number of
 *  images: an image's result must not depend on it. */
int nn_winograd_fits(const nn_conv2d_geom *geom);

/** One pass seen as a sweep over tiles of dst: dst[h, w] = sum of src[h - pad_h + r, ...]. */
typedef struct nn_winograd {
    int64_t n;
    int64_t src_c, src_blocks, src_h, src_w;
    int64_t dst_c, dst_blocks, dst_h, dst_w;
    int64_t pad_h, pad_w;
    int64_t tile_rows, tile_cols, n_tiles; /* of an image; of all images */
    int64_t tiles_per_part;                /* that are transformed and multiplied together */
    int64_t parts_per_chunk;               /* that one thread does after each other */
    /* With many filters: tiles of a slab are transformed first, for all; then a chunk is one group
     * of dst channels, whose filters are transformed where they are used. 0: not so. */
    int64_t tiles_per_slab;
    int64_t src_tiles;            /* room for so many in the transformed src: a part, or a slab */
    int64_t src_pitch, dst_pitch; /* floats from one position to the next in a thread's scratch */
} nn_winograd;

void nn_winograd_forward(const nn_conv2d_geom *geom, nn_winograd *out);
void nn_winograd_backward(const nn_conv2d_geom *geom, nn_winograd *out);

/** A filter of KCRS: floats from one channel of dst and of src to the next. */
typedef struct nn_wino_filters {
    const float *at;
    int64_t dst_stride, src_stride;
    int is_turned; /* taps in reverse */
} nn_wino_filters;

/** dst (+)= src by the filters, + bias (dst_blocks * 16 floats, or NULL). */
int64_t nn_winograd_workspace_floats(const nn_winograd *wino, int n_threads);
void nn_winograd_run(nn_backend *backend, const nn_winograd *wino, const float *src,
                     const nn_wino_filters *filters, const float *bias, float *dst, int accumulate,
                     float *workspace);

/** Where a tile (counted over all images) stands in dst. */
typedef struct nn_wino_place {
    int64_t image, row, col;
} nn_wino_place;
nn_wino_place nn_winograd_place(const nn_winograd *wino, int64_t tile);
/** out[position * src_pitch + (block * src_tiles + tile) * 16 + lane] of transformed tiles.
 */
void nn_winograd_read_tiles(const nn_winograd *wino, const float *src, nn_cpu_span tiles,
                            float *out);

/** Fetch what a tile is the first to read of src, or writes of some blocks of dst. */
void nn_winograd_fetch_src(const nn_winograd *wino, const float *src, int64_t tile);
void nn_winograd_fetch_dst(const nn_winograd *wino, const float *dst, int64_t tile,
                           int64_t first_block, int n_blocks, int is_written);

/** The gradient of the filter. */
typedef struct nn_winograd_gradient {
    nn_winograd wino;                 /* of the forward pass */
    int64_t groups_per_part, n_parts; /* groups of output channels that a task computes */
    int64_t tiles_per_share, n_shares;
    int64_t sum_floats; /* of one (share, part) */
    int64_t total_floats, scratch_floats;
} nn_winograd_gradient;

void nn_winograd_gradient_plan(const nn_conv2d_geom *geom, nn_winograd_gradient *out);
/** sums: total_floats; scratch: scratch_floats for each thread. */
void nn_winograd_gradient_run(nn_backend *backend, const nn_winograd_gradient *plan, const float *x,
                              const float *dy, float *dfilter, float *sums, float *scratch);

/* --- Transforms of one tile and one block of 16 channels (winograd_tile.c) ----------------------
 */

/** Rows and columns of a plane (h, w, 16) that a tile covers; its corner may lie outside. */
typedef struct nn_wino_window {
    int64_t h, w;     /* of the plane */
    int64_t row, col; /* of the tile's corner */
} nn_wino_window;

/** out[i * pitch] = (B^T x B)[i], i = 0 to 35; x counts as 0 outside its plane. */
void nn_wino_input(const float *plane, nn_wino_window window, float *out, int64_t pitch);
/** y (+)= A^T m A + bias where the tile is inside; m[i * pitch]. bias: 16 floats or NULL. */
void nn_wino_output(const float *m, int64_t pitch, const float *bias, int accumulate, float *plane,
                    nn_wino_window window);
/** out[i * pitch] = (A dy A^T)[i]; dy counts as 0 outside. */
void nn_wino_output_adjoint(const float *plane, nn_wino_window window, float *out, int64_t pitch);
/** out[i * pitch] = (G filter G^T)[i] of 16 channels; filter[tap * 16]. */
void nn_wino_filter(const float *filter, float *out, int64_t pitch);
/** out[tap * 16] = (G^T sum G)[tap] of 16 channels; sum[i * pitch]. */
void nn_wino_filter_adjoint(const float *sum, int64_t pitch, float *out);

#endif
