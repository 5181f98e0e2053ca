#ifndef NN_BACKENDS_CPU_CONV_PLANES_INTERNAL_H
#define NN_BACKENDS_CPU_CONV_PLANES_INTERNAL_H

#include "nn/backends/cpu/layout_internal.h"

/**
 * Convolutions whose output has so few channels that it lies in planes. Strides are 1.
 *
 * Forward, src is x and dst is y; for the gradient of x, src is dy, dst is dx and the taps run the
 * other way round:
 *
 *     dst[d, i, j] = sum over src channels and taps of copy[c, i + r dil_h, j + s dil_w] filter
 *
 * where copy is src with its padding. A chunk of work is some images, or a band of rows of one.
 *
 * Where src is in planes, the lanes of a vector are neighbours in a row, and a tile is some such
 * vectors of all channels of dst (conv_planes.c); with 5 rows of taps columns are transformed first
 * (conv_lines.c). Where src is in blocks, they are channels of src, whose sums are added up at the
 * end (conv_planes_fold.c).
 */
enum {
    NN_PLANES_CHANNELS = NN_CPU_BLOCKED_FROM - 1, /* of dst, at most */
    NN_PLANES_FOLD_PIXELS = 4                     /* that conv_planes_fold.c may do at once */
};

typedef struct nn_conv_planes {
    int64_t n;
    int64_t lanes; /* of the copy: 1 (planes) or 16 (blocks) */
    int is_lines;  /* done by conv_lines.c, whose bands are whole tiles but for the last */
    int64_t src_c, src_h, src_w;
    int64_t dst_c, dst_h, dst_w;
    int64_t low_h, low_w; /* place in src of the copy's first pixel */
    int64_t taps_h, taps_w, dil_h, dil_w;
    int64_t rows_per_band, n_bands, images_per_chunk;
    int64_t row_floats, plane_floats, copy_floats; /* of the copy: pitches, and all of it */
} nn_conv_planes;

/** Whether y = conv(x), and whether the gradient of x, is done this way. */
int nn_conv_planes_fits_forward(const nn_conv2d_geom *geom);
int nn_conv_planes_fits_backward(const nn_conv2d_geom *geom);
void nn_conv_planes_forward(const nn_conv2d_geom *geom, nn_conv_planes *out);
void nn_conv_planes_backward(const nn_conv2d_geom *geom, nn_conv_planes *out);
/** The forward pass with a copy in planes, whatever the layout of x: for gradients of filters. */
void nn_conv_planes_input(const nn_conv2d_geom *geom, nn_conv_planes *out);

/** A filter of KCRS: floats from one channel of dst and of src to the next. */
typedef struct nn_planes_filter {
    const float *at;
    int64_t dst_stride, src_stride;
    int is_turned; /* taps in reverse */
} nn_planes_filter;

/** dst (+)= src by the filter, + bias (or NULL). */
int64_t nn_conv_planes_workspace_floats(const nn_conv_planes *planes, int n_threads);
void nn_conv_planes_run(nn_backend *backend, const nn_conv_planes *planes, const float *src,
                        nn_planes_filter filter, const float *bias, float *dst, int accumulate,
                        float *workspace);

/** Whether the copy is small enough to be worth it. */
int nn_conv_planes_copy_fits(const nn_conv_planes *planes);
/** Copy what rows [row, row + n_rows) of dst read, of one image of src. */
void nn_conv_planes_copy(const nn_conv_planes *planes, const float *src, int64_t image, int64_t row,
                         int64_t n_rows, float *copy);

/** Rows of taps at which one of the rows [first, last] of dst meets src and not only its padding;
 *  columns likewise. */
nn_cpu_span nn_conv_planes_tap_rows(const nn_conv_planes *planes, int64_t first, int64_t last);
nn_cpu_span nn_conv_planes_tap_cols(const nn_conv_planes *planes, int64_t first, int64_t last);

/** One pass; filter is packed: (src channel, tap, dst channel), or (block of src, tap, dst channel,
 *  16), or see conv_lines_internal.h. */
typedef struct nn_planes_pass {
    const nn_conv_planes *planes;
    const float *src, *filter, *bias;
    float *dst, *copies; /* of each thread, and behind its copy what conv_lines.c needs */
    int accumulate;
} nn_planes_pass;

/** Rows of one image; lanes is 16. */
void nn_conv_planes_fold_band(const nn_planes_pass *pass, int64_t image, nn_cpu_span rows,
                              const float *copy);

/** Write the first n lanes to y, or add them. */
static inline void nn_planes_put(float *y, nn_vec value, int n, int accumulate)
{
    if (n == NN_VEC_LANES) {
        nn_vec_store(y, accumulate ? value + nn_vec_load(y) : value);
    } else {
        nn_vec_store_part(y, accumulate ? value + nn_vec_load_part(y, n) : value, n);
    }
}

/** The gradients of the filter and the bias (or NULL), where y is in planes. */
int64_t nn_conv_planes_gradient_floats(const nn_conv2d_geom *geom, int n_threads);
void nn_conv_planes_gradient_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                 const float *dy, float *dfilter, float *dbias, float *workspace);

/** The same where x is in planes and y in blocks, for some short filters. */
int nn_conv_planes_outer_fits(const nn_conv2d_geom *geom);
int64_t nn_conv_planes_outer_floats(const nn_conv2d_geom *geom, int n_threads);
void nn_conv_planes_outer_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                              const float *dy, float *dfilter, float *dbias, float *workspace);

/** y = conv(x) where x is in planes and y in blocks. */
int nn_conv_planes_spread_fits(const nn_conv2d_geom *geom);
int64_t nn_conv_planes_spread_floats(const nn_conv2d_geom *geom, int n_threads);
void nn_conv_planes_spread_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                               const float *filter, const float *bias, float *y, float *workspace);

#endif
