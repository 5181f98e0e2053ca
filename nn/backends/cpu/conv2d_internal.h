#ifndef NN_BACKENDS_CPU_CONV2D_INTERNAL_H
#define NN_BACKENDS_CPU_CONV2D_INTERNAL_H

#include "nn/backends/cpu/conv_tile_internal.h"
#include "nn/backends/cpu/cpu_internal.h"

/**
 * Convolutions that no other kernel knows (conv2d_columns.c): few channels with a stride, groups
 * that are neither whole blocks nor an even part of one, very large filters. Both sides are dense
 * NCHW here.
 *
 * How a convolution is cut, from its geometry alone.
 *
 * The output pixels are cut into tiles: rows (or a part of one row) of one image, or several whole
 * images where these are small. Per tile, the input under each filter tap is copied into a matrix
 * `cols` (channels * taps, pixels), and products with the filter (k, channels * taps) do the rest:
 *     y = filter cols;   dcols = filter^T dy;   dfilter = dy cols^T.
 * Channels go in blocks, so that the matrix stays in a core's second-level cache.
 */
typedef struct nn_cpu_conv_plan {
    const nn_conv2d_geom *geom;
    int64_t group_c, group_k, taps, depth, px; /* c / groups, k / groups, r s, group_c taps, p q */
    int is_depthwise;
    int is_direct; /* 1x1, stride 1, no padding, tiles within an image: x is its own cols */

    int64_t images_per_tile, rows_per_tile,
        cols_per_tile; /* one of them cuts, the rest are whole */
    int64_t n_image_tiles, n_row_tiles, n_col_tiles;
    int64_t tile_px; /* pixels of the largest tile */

    int64_t c_block;      /* channels whose taps are in the matrix at once */
    int64_t data_c_block; /* the same in backward_data, where blocks are shared out to threads */
    int64_t k_block;      /* outputs of one chunk of the forward pass */

    int64_t image_tiles_per_sum, n_sums; /* partial sums of dfilter */
    int64_t cols_floats, side_floats; /* scratch of a thread: the matrix, and a tile of y or dy */
} nn_cpu_conv_plan;

size_t nn_cpu_columns_workspace_bytes(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_cpu_columns_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                  const float *filter, const float *bias, float *y,
                                  void *workspace);
cvy_status nn_cpu_columns_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                        const float *dy, const float *filter, float *dx,
                                        int accumulate, void *workspace);
cvy_status nn_cpu_columns_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                          const float *x, const float *dy, float *dfilter,
                                          float *dbias, void *workspace);

nn_cpu_conv_plan nn_cpu_conv_plan_of(const nn_conv2d_geom *geom);

/** A tile: images [image, image + n_images), and the rectangle of output pixels in each. */
typedef struct nn_cpu_conv_tile {
    int64_t image, n_images, row, n_rows, col, n_cols;
    int64_t px;     /* all its pixels: n_images n_rows n_cols */
    int64_t offset; /* of its first pixel in an output plane */
} nn_cpu_conv_tile;

nn_cpu_conv_tile nn_cpu_conv_tile_at(const nn_cpu_conv_plan *plan, int64_t image_tile_idx,
                                     int64_t place_idx);
/** Tiles of one image (or of one bundle of images). */
int64_t nn_cpu_conv_n_places(const nn_cpu_conv_plan *plan);

/** The scratch of a thread, and the partial sums, which stand before it in the workspace. */
float *nn_cpu_conv_cols(const nn_cpu_conv_plan *plan, void *workspace, int thread_idx);
float *nn_cpu_conv_side(const nn_cpu_conv_plan *plan, void *workspace, int thread_idx);

/** cols (channels.n taps, tile.px) = the input under every tap; x: (n, c, h, w), channels counted
 *  over all groups. 0 outside the input. */
void nn_cpu_conv_gather(const nn_cpu_conv_plan *plan, const float *x, nn_cpu_span channels,
                        nn_cpu_conv_tile tile, float *cols);
/** The reverse: dx += every tap's share. cols is spoilt. */
void nn_cpu_conv_scatter(const nn_cpu_conv_plan *plan, float *cols, nn_cpu_span channels,
                         nn_cpu_conv_tile tile, float *dx);

/** A tile of dy (group_k, tile.px) as a matrix: in place, or copied to side where it spans images.
 */
nn_cpu_matrix nn_cpu_conv_dy(const nn_cpu_conv_plan *plan, const float *dy, int64_t group,
                             nn_cpu_conv_tile tile, float *side);

/* Depthwise: one input channel per group, plain sweeps over rows. */
void nn_cpu_depthwise_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                              const float *filter, const float *bias, float *y);
void nn_cpu_depthwise_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                    const float *dy, const float *filter, float *dx,
                                    int accumulate);
void nn_cpu_depthwise_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                      const float *x, const float *dy, float *dfilter);

/** Matrix products with what lies in blocks copied densely (conv2d_dense.c): fits every geometry.
 */
int nn_conv_dense_fits(const nn_conv2d_geom *geom);
int64_t nn_conv_dense_floats(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_conv_dense_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                 const float *filter, const nn_conv_epilogue *epilogue, float *y,
                                 float *workspace);
cvy_status nn_conv_dense_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                       const float *dy, const float *filter, float *dx,
                                       int accumulate, float *workspace);
cvy_status nn_conv_dense_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                         const float *x, const float *dy, float *dfilter,
                                         float *dbias, float *workspace);

/** Winograd's kernels (conv2d_winograd.c), in the form of conv2d.c's tables. */
int64_t nn_conv_winograd_floats(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_conv_winograd_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                    const float *filter, const nn_conv_epilogue *epilogue, float *y,
                                    float *workspace);
int64_t nn_conv_stem_floats(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_conv_stem_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                const float *filter, const nn_conv_epilogue *epilogue, float *y,
                                float *workspace);
int64_t nn_conv_strided_floats(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_conv_strided_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                   const float *filter, const nn_conv_epilogue *epilogue, float *y,
                                   float *workspace);
int64_t nn_conv_winograd_data_floats(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_conv_winograd_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                          const float *dy, const float *filter, float *dx,
                                          int accumulate, float *workspace);
int64_t nn_conv_strided_data_floats(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_conv_strided_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                         const float *dy, const float *filter, float *dx,
                                         int accumulate, float *workspace);
int64_t nn_conv_winograd_filter_floats(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_conv_winograd_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                            const float *x, const float *dy, float *dfilter,
                                            float *dbias, float *workspace);
int64_t nn_conv_stem_filter_floats(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_conv_stem_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                        const float *x, const float *dy, float *dfilter,
                                        float *dbias, float *workspace);
int64_t nn_conv_strided_filter_floats(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_conv_strided_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                           const float *x, const float *dy, float *dfilter,
                                           float *dbias, float *workspace);

/** Taps of a filter. */
static inline int64_t nn_conv_taps(const nn_conv2d_geom *geom)
{
    return geom->r * geom->s;
}

/** Floats of KCRS from one output channel to the next. */
static inline int64_t nn_conv_k_stride(const nn_conv2d_geom *geom)
{
    return geom->c / geom->groups * nn_conv_taps(geom);
}

/** Output positions [first, first + n) of [0, n_out) at which a tap reads inside [0, n_in). */
nn_cpu_span nn_cpu_conv_reach(int64_t tap_offset, int64_t stride, int64_t n_in, int64_t n_out);

#endif
