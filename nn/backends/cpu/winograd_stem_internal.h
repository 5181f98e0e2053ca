#ifndef NN_BACKENDS_CPU_WINOGRAD_STEM_INTERNAL_H
#define NN_BACKENDS_CPU_WINOGRAD_STEM_INTERNAL_H

#include "nn/backends/cpu/conv_tile_internal.h"
#include "nn/backends/cpu/cpu_internal.h"
#include "nn/backends/cpu/simd_internal.h"

/**
 * The first convolution of many nets, of images of few channels with a large filter and stride 2,
 * by Winograd's minimal filtering F(4x4, 4x4); and the gradient of its filter.
 *
 * x falls into four phases: rows and columns that are even or odd, counted from the padding's edge.
 * Phase (a, b) meets taps (2i + a, 2j + b) alone, with stride 1. So the convolution of C channels
 * is one with stride 1 of 4C channels, called lanes here: lane (2a + b) C + c. A filter of 5 to 8
 * taps each way has at most 4x4 taps in a lane; the missing ones count as 0.
 *
 * With the matrices B (7x7), G (7x4) and A (7x4) of winograd_stem_lines_internal.h, a tile of 4x4
 * outputs is
 *
 *     y = A^T [ sum over lanes of (G filter G^T) * (B^T x B) ] A,      x: 7x7, * elementwise,
 *
 * and the filter's gradient, its adjoint, G^T [ sum over tiles of (B^T x B) * (A dy A^T) ] G. At
 * infinity stands tap 3 alone. Of 7 taps, odd phases have 3, so that they have no products there:
 * of 49 * 4C products 169 C are left, where a direct convolution has 16 * 49 C.
 *
 * Sources: Lavin & Gray 2016, arXiv:1509.09308; on the choice of points Barabasz et al. 2018,
 * arXiv:1803.10986.
 */
enum {
    NN_STEM_OUT = 4,
    NN_STEM_TAPS = 4,
    NN_STEM_IN = 7,
    NN_STEM_MOST_C = 4,
    NN_STEM_MOST_LANES = 4 * NN_STEM_MOST_C
};

/**
 * Tiles beside each other are transformed and multiplied as bunches. Values of a bunch's input lie
 * as (column of the 7x7, lane, row, tile), with 8 rows for 7: two vectors for each column and lane,
 * and what is multiplied next stands near.
 */
enum {
    NN_STEM_BUNCH = NN_VEC_LANES / 4, /* tiles */
    NN_STEM_LANE_FLOATS = 8 * NN_STEM_BUNCH,
    NN_STEM_PART_TILES = 28, /* beside each other, at most, that are transformed together */
    NN_STEM_PART_BUNCHES = NN_STEM_PART_TILES / NN_STEM_BUNCH,
    /* Of one row that is transformed: a vector for the padding on the left, the columns of all
     * tiles and of one bunch more; and a line, lest all rows share a cache set. */
    NN_STEM_ROW_FLOATS = NN_CPU_BLOCK + 8 * (NN_STEM_PART_TILES + NN_STEM_BUNCH) + NN_CPU_BLOCK,
    NN_STEM_ROWS_FLOATS = NN_STEM_IN * NN_STEM_ROW_FLOATS
};

/** The lanes that meet a column of the 7x7: n_full that have all its 7 rows, then n_rest that have
 *  none at infinity. */
typedef struct nn_stem_column {
    int n_full, n_rest;
    int lane[NN_STEM_MOST_LANES];
} nn_stem_column;

typedef struct nn_stem {
    nn_conv2d_geom geom;
    int64_t n_lanes, k_blocks;
    int full_h, full_w; /* phases, the first, that have 4 taps: rows, columns */
    nn_stem_column finite, infinite;
    int64_t tile_rows, tile_cols;
    int64_t tiles_per_part, parts_per_row; /* of a row of tiles; whole bunches */
} nn_stem;

/** Whether y = conv(x), and the filter's gradient, are done this way. */
int nn_stem_fits(const nn_conv2d_geom *geom);
void nn_stem_of(const nn_conv2d_geom *geom, nn_stem *out);

static inline const nn_stem_column *nn_stem_column_at(const nn_stem *stem, int col)
{
    return col < NN_STEM_IN - 1 ? &stem->finite : &stem->infinite;
}

/** A part of a row of tiles of an image. */
typedef struct nn_stem_part {
    int64_t image, tile_row, tile_col, n_tiles;
} nn_stem_part;
/** Parts are counted over all rows and images. */
nn_stem_part nn_stem_part_at(const nn_stem *stem, int64_t part_idx);
static inline int64_t nn_stem_n_bunches(const nn_stem_part *part)
{
    return nn_cpu_div_up(part->n_tiles, NN_STEM_BUNCH);
}
/** Floats of a bunch's transformed input. */
static inline int64_t nn_stem_bunch_floats(const nn_stem *stem)
{
    return NN_STEM_IN * stem->n_lanes * NN_STEM_LANE_FLOATS;
}

/** y = conv(x), written through the epilogue. */
int64_t nn_stem_workspace_floats(const nn_stem *stem, int n_threads);
void nn_stem_run(nn_backend *backend, const nn_stem *stem, const float *x, const float *filter,
                 const nn_conv_epilogue *epilogue, float *y, float *workspace);

/** The gradient of the filter. */
int64_t nn_stem_gradient_floats(const nn_stem *stem, int n_threads);
void nn_stem_gradient_run(nn_backend *backend, const nn_stem *stem, const float *x, const float *dy,
                          float *dfilter, float *workspace);

/** out: B^T x B of the part's bunches, tiles that do not exist included; x is (n, c, h, w) and
 *  counts as 0 outside. rows: NN_STEM_ROWS_FLOATS of scratch. */
void nn_stem_input(const nn_stem *stem, const float *x, const nn_stem_part *part, float *rows,
                   float *out);

/** What the memory is to fetch while a part is multiplied: a little between any two products, as it
 *  takes only so many requests at once. Some cache lines of some rows of some planes. */
typedef struct nn_stem_fetch {
    const float *plane; /* its first line, in the next plane */
    int64_t row_floats, plane_floats;
    int64_t n_rows, n_lines, n_planes; /* planes: that are left */
    int64_t row, line;                 /* the next */
} nn_stem_fetch;
/** What the part reads of x and the row of tiles above it does not. */
nn_stem_fetch nn_stem_fetch_of(const nn_stem *stem, const float *x, const nn_stem_part *part);
static inline int64_t nn_stem_fetch_n(const nn_stem_fetch *fetch)
{
    return fetch->n_rows * fetch->n_lines * fetch->n_planes;
}
/** The next n lines. */
void nn_stem_fetch_lines(nn_stem_fetch *fetch, int64_t n);

/** Filters of a block of outputs, transformed: (column, lane of the column, row, 16), in the order
 *  of the column's lanes, of which the rest has 6 rows. */
int64_t nn_stem_column_floats(const nn_stem_column *column);
int64_t nn_stem_filter_floats(const nn_stem *stem);
void nn_stem_filter(const nn_stem *stem, const float *filter, int64_t block, float *out);

#endif
