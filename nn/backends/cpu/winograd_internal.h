#ifndef NN_BACKENDS_CPU_WINOGRAD_INTERNAL_H
#define NN_BACKENDS_CPU_WINOGRAD_INTERNAL_H

#include "nn/backends/cpu/conv_tile_internal.h"
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
 *
 * Of the four outputs along an axis only the last depends on the point infinity, and on the sixth
 * input. So a tile of 3 outputs is one of 4 without them: five positions, and the filters are the
 * same. Any length from 6 on is a sum of fours and threes, which cover planes without waste.
 */
enum { NN_WINO_OUT = 4, NN_WINO_IN = 6, NN_WINO_PLACES = 36 };

/** The 6x6 positions are kept by rows in the order 0, 5, 1, 2, 3, 4, i.e. the points 0 and
 * infinity, a and -a, b and -b. They are transformed all at once, or a third, two rows, after the
 * other. */
enum { NN_WINO_N_THIRDS = 3, NN_WINO_ALL = -1 };

/** Whether a convolution is done this way, in all three passes. Says nothing of the number of
 *  images: an image's result must not depend on it. */
int nn_winograd_fits(const nn_conv2d_geom *geom);

/**
 * Transformed tiles of some blocks of channels. The products read and write `width` tiles at once:
 * they lie as (position, tile / width, block, tile % width, 16), positions a pitch apart.
 */
typedef struct nn_wino_set {
    int64_t blocks, width, pitch;
} nn_wino_set;

/** For n_tiles tiles. */
nn_wino_set nn_wino_set_of(int64_t blocks, int64_t width, int64_t n_tiles);
static inline int64_t nn_wino_set_floats(const nn_wino_set *set)
{
    return NN_WINO_PLACES * set->pitch;
}
/** Floats from a set's beginning to a tile's first block, at position 0. */
static inline int64_t nn_wino_set_at(const nn_wino_set *set, int64_t tile)
{
    return (tile / set->width * set->blocks * set->width + tile % set->width) * NN_CPU_BLOCK;
}

/** Tiles along an axis: first some of 4 outputs, n[0], then some of 3, n[1]. */
typedef struct nn_wino_axis {
    int64_t n[2];
} nn_wino_axis;

/** Kinds of tiles, rows by columns: first 4x3, in all images, then 4x4, 3x4 and 3x3. In this order
 *  the tiles that have a position follow each other, whichever it is. */
enum { NN_WINO_N_KINDS = 4 };

/** One pass seen as a sweep over tiles of dst: dst[h, w] = sum of src[h - pad_h + r, ...]. */
typedef struct nn_winograd {
    int64_t n;
    int64_t src_c, src_blocks, src_h, src_w;
    int64_t dst_c, dst_blocks, dst_h, dst_w;
    int64_t pad_h, pad_w;
    nn_wino_axis rows, cols;           /* tiles of an image */
    int64_t kind_end[NN_WINO_N_KINDS]; /* tiles of a kind and of those before it */
    int64_t n_tiles;
    int64_t tiles_per_part;  /* that are transformed and multiplied together */
    int64_t parts_per_chunk; /* that one thread does after each other */
    /* With many filters: tiles of a slab are transformed first, for all; then a chunk is one group
     * of dst channels, whose filters are transformed where they are used. 0: not so. */
    int64_t tiles_per_slab;
    nn_wino_set src_set; /* of a part, or a slab */
    nn_wino_set dst_set; /* of a part: all blocks of dst; or, with slabs, a group's */
} nn_winograd;

void nn_winograd_forward(const nn_conv2d_geom *geom, nn_winograd *out);
void nn_winograd_backward(const nn_conv2d_geom *geom, nn_winograd *out);

/** A filter of KCRS: floats from one channel of dst and of src to the next. */
typedef struct nn_wino_filters {
    const float *at;
    int64_t dst_stride, src_stride;
    int is_turned; /* taps in reverse */
    /* 16 channels to 36 positions: nn_wino_filter(), or of winograd_strided_internal.h. */
    void (*transform)(const float *filter, float *out, int64_t pitch);
} nn_wino_filters;

/** dst (+)= src by the filters, written through the epilogue. */
int64_t nn_winograd_workspace_floats(const nn_winograd *wino, int n_threads);
void nn_winograd_run(nn_backend *backend, const nn_winograd *wino, const float *src,
                     const nn_wino_filters *filters, const nn_conv_epilogue *epilogue, float *dst,
                     int accumulate, float *workspace);

/** Those of some tiles that have a position. */
nn_cpu_span nn_winograd_having(const nn_winograd *wino, nn_cpu_span tiles, int place);

/** Tiles beside each other, of a plane (h, w, 16) of an image; their corners may lie outside. */
typedef struct nn_wino_run {
    int64_t image, h, w;
    int64_t row, col;   /* of the first tile's corner */
    int64_t rows, cols; /* outputs of a tile, 3 or 4: corners are cols apart */
    int64_t n;
} nn_wino_run;

/** The tiles of dst from `tile` (counted over all images) on that stand beside each other, at most
 *  `most`; and the same of src, whose tiles are larger and overlap. */
nn_wino_run nn_winograd_dst_run(const nn_winograd *wino, int64_t tile, int64_t most);
nn_wino_run nn_winograd_src_run(const nn_winograd *wino, int64_t tile, int64_t most);

/** Transform tiles of src into a set, from the set's tile `to` on. */
void nn_winograd_read_tiles(const nn_winograd *wino, const float *src, nn_cpu_span tiles,
                            const nn_wino_set *set, int64_t to, float *out);

/** What the memory is to fetch while products are computed: a little between any two of them, as
 *  it takes only so many requests at once. Tiles of some blocks of src (all but the first two rows
 *  and columns of a run, which tiles above and left have often just read), or of dst. */
typedef struct nn_wino_fetch {
    const nn_winograd *wino;
    const float *at; /* src or dst */
    int64_t tile, end;
    nn_cpu_span blocks;
    int is_dst, is_written;
    /* Where it stands: lines of a row of pixels of a run of tiles; rows left of one of its blocks.
     */
    nn_wino_run run; /* before `tile` */
    nn_cpu_span run_rows, run_cols, rows;
    int64_t block;
    const float *line;
    int64_t n_lines;
} nn_wino_fetch;
nn_wino_fetch nn_winograd_fetch_src(const nn_winograd *wino, const float *src, nn_cpu_span tiles,
                                    nn_cpu_span blocks);
nn_wino_fetch nn_winograd_fetch_dst(const nn_winograd *wino, const float *dst, nn_cpu_span tiles,
                                    nn_cpu_span blocks, int is_written);
/** The next n cache lines. */
void nn_winograd_fetch(nn_wino_fetch *fetch, int64_t n);
/** Lines of a whole fetch, at most. */
static inline int64_t nn_winograd_fetch_n(const nn_wino_fetch *fetch)
{
    return (fetch->end - fetch->tile) * fetch->blocks.n * NN_WINO_OUT * NN_WINO_OUT;
}

/** Filters of a group of dst blocks, transformed: (position, src channel, dst channel of the
 *  group), positions a pitch apart. */
int64_t nn_wino_filter_pitch(int64_t src_blocks, int n_blocks);
void nn_wino_transform_filters(const nn_winograd *wino, const nn_wino_filters *filters,
                               int64_t group, float *out);

/** Products of one position: n_tiles tiles of src, all its blocks, by the filters of one or two
 *  blocks of dst. x, y: of the first tile in its set; y of the first of the two blocks. */
typedef struct nn_wino_product {
    const nn_wino_set *src, *dst;
    const float *x, *filter;
    float *y;
    int64_t n_tiles; /* the first is a multiple of the sets' width */
} nn_wino_product;
void nn_wino_multiply(const nn_wino_product *product, int n_blocks);

/** The gradient of the filter. */
typedef struct nn_winograd_gradient {
    nn_winograd wino;                 /* of the forward pass */
    int64_t src_blocks, dst_blocks;   /* of a patch of the filter; dst: whole groups */
    int64_t n_src_parts, n_dst_parts; /* patches */
    int64_t tiles_per_part;
    int64_t tiles_per_share, n_shares;
    int n_steps, steps_per_task; /* thirds of the positions, or one step of all: places_per_step */
    int places_per_step;
    nn_wino_set src_set, dst_set; /* of a part, a patch and a step */
    int64_t sum_pitch;            /* of a position */
    int64_t sum_floats;           /* of one (share, patch, step) */
    int64_t total_floats, scratch_floats;
} nn_winograd_gradient;

void nn_winograd_gradient_plan(const nn_conv2d_geom *geom, nn_winograd_gradient *out);
/** sums: total_floats; scratch: scratch_floats for each thread. */
void nn_winograd_gradient_run(nn_backend *backend, const nn_winograd_gradient *plan, const float *x,
                              const float *dy, float *dfilter, float *sums, float *scratch);

#endif
