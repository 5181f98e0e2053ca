#ifndef NN_BACKENDS_CPU_WINOGRAD_STRIDED_INTERNAL_H
#define NN_BACKENDS_CPU_WINOGRAD_STRIDED_INTERNAL_H

#include "nn/backends/cpu/winograd_internal.h"
#include "nn/backends/cpu/winograd_tile_internal.h"

/**
 * 3x3 convolutions with stride 2 and pad 1 by Winograd's minimal filtering over the phases of x.
 * Along an axis
 *
 *     y[p] = g[0] x[2p - 1] + g[2] x[2p + 1]   +   g[1] x[2p]
 *
 * is a filter of two taps over one phase of x and of one tap over the other. F(4, 2) makes 4
 * outputs of the first from 5 products, the second takes 4: a tile of 4x4 outputs takes 81 products
 * instead of 144. Tiles of 3 take 7 an axis, and cover what is no multiple of 4.
 *
 * So a line of 2 size + 1 positions along an axis is size + 1 points, and after them the size
 * products of the middle tap. The points are +-1/2, +-3/2 and, in tiles of 4, infinity (Toom-Cook;
 * Lavin & Gray 2016, arXiv:1509.09308): long sums are then off by as little as plain ones, and by
 * half as much as at 0, +-1, 1/2, infinity. Filters are the same for both sizes, and there are 6
 * both ways, as all positions of the middle tap share theirs.
 *
 * The gradient of x is the same, from lines of dy to two phases of dx,
 *
 *     dx[2p + 1] = g[2] dy[p] + g[0] dy[p + 1],   dx[2p] = g[1] dy[p].
 */
enum { NN_STRIDED_SIZE = 4, NN_STRIDED_POINTS = 5, NN_STRIDED_LINE = 9, NN_STRIDED_FILTERS = 6 };
enum { NN_STRIDED_PLACES = NN_STRIDED_LINE * NN_STRIDED_LINE, NN_STRIDED_KINDS = 4 };

/** The finite points are +-a and +-b; and their squares. */
#define NN_STRIDED_A  0.5f
#define NN_STRIDED_B  1.5f
#define NN_STRIDED_A2 0.25f
#define NN_STRIDED_B2 2.25f

/** Whether a convolution is done this way, and whether the gradients of x and of the filter are.
 *  Says nothing of the number of images. */
int nn_strided_fits_forward(const nn_conv2d_geom *geom);
int nn_strided_fits_backward(const nn_conv2d_geom *geom);
int nn_strided_fits_filter(const nn_conv2d_geom *geom);

/** Tiles of one size, which are a grid in every image. */
typedef struct nn_strided_kind {
    int h, w;           /* outputs of a tile */
    int64_t row, col;   /* of the first tile in y */
    int64_t rows, cols; /* tiles */
} nn_strided_kind;

static inline int nn_strided_places(const nn_strided_kind *kind)
{
    return (2 * kind->h + 1) * (2 * kind->w + 1);
}

/** Tiles of an image. */
static inline int64_t nn_strided_tiles_of(const nn_strided_kind *kind)
{
    return kind->rows * kind->cols;
}

/** One pass: y from x, or dx from dy. */
typedef struct nn_strided {
    nn_winograd wino; /* its images, channels and planes alone */
    int is_backward;
    int n_kinds;
    nn_strided_kind kinds[NN_STRIDED_KINDS];
    /* Few filters: tiles of one kind are transformed and multiplied together, as in winograd.c. */
    int64_t tiles_per_part, parts_per_chunk;
    nn_wino_set src_set, dst_set; /* of a part */
    /* Many filters: the tiles of some images are transformed first, for all; then a chunk is one
     * group of dst channels, whose filters are transformed where they are used. 0: not so. */
    int64_t images_per_slab;
} nn_strided;

void nn_strided_forward(const nn_conv2d_geom *geom, nn_strided *out);
void nn_strided_backward(const nn_conv2d_geom *geom, nn_strided *out);

/** dst (+)= src by the filters, written through the epilogue, which only y may have. */
int64_t nn_strided_workspace_floats(const nn_strided *plan, int n_threads);
void nn_strided_run(nn_backend *backend, const nn_strided *plan, const float *src,
                    const nn_wino_filters *filters, const nn_conv_epilogue *epilogue, float *dst,
                    int accumulate, float *workspace);

/** The gradient of the filter. */
typedef struct nn_strided_gradient {
    nn_strided plan;                  /* of the forward pass */
    int64_t src_blocks, dst_blocks;   /* of a patch of the filter; dst: whole groups */
    int64_t n_src_parts, n_dst_parts; /* patches */
    int64_t tiles_per_part;           /* of one kind */
    int64_t parts_per_share, n_shares;
    int steps_per_task;
    nn_wino_set src_set, dst_set; /* of a part, a patch and some rows of positions */
    int64_t sum_floats;           /* of one (share, patch) */
    int64_t total_floats, scratch_floats;
} nn_strided_gradient;

void nn_strided_gradient_plan(const nn_conv2d_geom *geom, nn_strided_gradient *out);
/** sums: total_floats; scratch: scratch_floats for each thread. */
void nn_strided_gradient_run(nn_backend *backend, const nn_strided_gradient *plan, const float *x,
                             const float *dy, float *dfilter, float *sums, float *scratch);

/* --- Parts and slabs (winograd_strided.c, winograd_strided_slab.c) ---------------------------- */

typedef struct nn_strided_pass {
    const nn_strided *plan;
    const nn_wino_filters *filters;
    const float *src;
    const nn_conv_epilogue *epilogue;
    float *dst;
    int accumulate;
    float *packed, *scratch; /* of parts: all transformed filters; transformed tiles, of a thread */
} nn_strided_pass;

int64_t nn_strided_slab_workspace_floats(const nn_strided *plan, int n_threads);
void nn_strided_run_slabs(nn_backend *backend, const nn_strided_pass *pass, float *workspace);

/** Transformed filters of a group. */
int64_t nn_strided_group_floats(const nn_strided *plan);

/** Tiles of one size beside each other, in a plane (plane_h, plane_w, 16) of an image. */
typedef struct nn_strided_tiles {
    int h, w; /* 3 or 4 */
    int64_t image, plane_h, plane_w;
    int64_t row, col; /* of the first tile's corner, which may be outside */
    int64_t n;
} nn_strided_tiles;

/** From a tile on, how many have all columns inside, one after the other; w: columns of one, step:
 *  from one to the next. */
static inline int64_t nn_strided_count_inside(const nn_strided_tiles *tiles, int64_t first,
                                              int64_t w, int64_t step)
{
    const int64_t col = tiles->col + first * step, room = tiles->plane_w - w - col;

    return col < 0 || room < 0 ? 0 : nn_cpu_least(tiles->n - first, room / step + 1);
}

/** Those of a kind, counted over the images, from `tile` on that stand beside each other, at most
 * `most`. */
nn_strided_tiles nn_strided_src_tiles(const nn_strided *plan, const nn_strided_kind *kind,
                                      int64_t tile, int64_t most);
nn_strided_tiles nn_strided_dst_tiles(const nn_strided *plan, const nn_strided_kind *kind,
                                      int64_t tile, int64_t most);

/** Transform tiles of all blocks of src, and write those of some blocks of dst. places: floats from
 *  out, or m, to each position of the first tile and block; tiles are a block of floats apart,
 *  blocks NN_TILE_PIXELS of these. */
void nn_strided_read(const nn_strided_pass *pass, const nn_strided_tiles *tiles,
                     const int64_t *places, float *out);
void nn_strided_write(const nn_strided_pass *pass, const nn_strided_tiles *tiles,
                      nn_cpu_span blocks, const int64_t *places, const float *m);

/** The tiles of each kind, of n_images, in parts of at most `most`: how many there are, and the one
 *  with a number. Tiles are counted over the images. */
typedef struct nn_strided_part {
    int kind;
    nn_cpu_span tiles;
} nn_strided_part;
int64_t nn_strided_count_parts(const nn_strided *plan, int64_t n_images, int64_t most);
nn_strided_part nn_strided_find_part(const nn_strided *plan, int64_t n_images, int64_t most,
                                     int64_t idx);

/* --- Transforms of blocks of 16 channels (winograd_strided_{input,output,filter}.c) --- */

/** What positions are made of: a window of x, 2 size + 1 pixels an axis, or one of dy, size + 1; or
 *  the outputs of a tile alone, where products are summed for the filter's gradient. */
typedef enum nn_strided_window { NN_STRIDED_X, NN_STRIDED_DY, NN_STRIDED_Y } nn_strided_window;

/** Rows of positions: all, or those that are made together. Set 0 are the points +-a, set 1 +-b,
 *  set 2 infinity (tiles of 3: none); then each row of the middle tap is one. */
enum { NN_STRIDED_ALL_ROWS = -1, NN_STRIDED_MIDDLE_ROWS = 3, NN_STRIDED_ROW_SETS = 7 };

/** out[places[i] + block * blocks->pitch + tile * 16] = the tile's positions in these rows. Pixels
 *  outside the plane are 0. */
void nn_strided_input(const float *plane, const nn_strided_tiles *tiles,
                      const nn_wino_blocks *blocks, nn_strided_window window, int rows,
                      const int64_t *places, float *out);
/** y = epilogue of the outputs where a tile is inside; m[places[i] + tile * 16]. The epilogue is
 *  that of the block, its residual that of the plane. */
void nn_strided_output(const float *m, const int64_t *places, const nn_conv_epilogue *epilogue,
                       float *plane, const nn_strided_tiles *tiles);
/** dx (+)= both phases of the outputs, 2 size pixels an axis. */
void nn_strided_output_phases(const float *m, const int64_t *places, int accumulate, float *plane,
                              const nn_strided_tiles *tiles);
/** out[i * pitch] = the 6x6 filters of 16 channels; filter[tap * 16]. */
void nn_strided_filter(const float *filter, float *out, int64_t pitch);
/** out[tap * 16] = the gradient of the taps of 16 channels; sum[i * pitch], of the 6x6 filters. */
void nn_strided_filter_adjoint(const float *sum, int64_t pitch, float *out);

#endif
