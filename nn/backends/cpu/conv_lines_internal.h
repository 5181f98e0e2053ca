#ifndef NN_BACKENDS_CPU_CONV_LINES_INTERNAL_H
#define NN_BACKENDS_CPU_CONV_LINES_INTERNAL_H

#include "nn/backends/cpu/conv_planes_internal.h"

/**
 * Filters of 5 rows, from planes to planes, by Winograd's minimal filtering F(4, 5) along columns:
 * 8 products for every 4 outputs in place of 20. Across rows, where the lanes of vectors lie,
 * nothing is transformed, so that any number of columns of taps will do.
 *
 *     y = A^T [ sum over c and columns of taps of (G filter) * (B^T x) ],    x: 8 rows, y: 4
 *
 * with the Toom-Cook matrices at the points 0, +-1, +-2, +-1/2, infinity; the gradient of the
 * filter is its adjoint, G^T [ sum of (B^T x) * (A dy) ]. Source: Lavin & Gray 2016,
 * arXiv:1509.09308.
 */
enum { NN_LINES_TAPS = 5, NN_LINES_OUT = 4, NN_LINES_POINTS = 8 };

/** Tiles of 4 rows. Of those past the last, outputs are not written and gradients count as 0. */
static inline int64_t nn_lines_tiles(int64_t n_rows)
{
    return nn_cpu_div_up(n_rows, NN_LINES_OUT);
}

/** Whether src, in planes, is filtered this way: few rows do not fill tiles. */
static inline int nn_conv_lines_fits(const nn_conv_planes *planes)
{
    return planes->lanes == 1 && !nn_cpu_is_blocked(planes->dst_c) &&
           planes->taps_h == NN_LINES_TAPS && planes->dil_h == 1 && planes->dst_h >= 6;
}

/** The transform of some tiles of a copy: (point, src channel, tile, column), a row of it being
 *  nn_lines_pitch() floats. */
static inline int64_t nn_lines_pitch(const nn_conv_planes *planes)
{
    return nn_cpu_div_up(planes->row_floats, NN_CPU_BLOCK) * NN_CPU_BLOCK;
}
int64_t nn_conv_lines_x_floats(const nn_conv_planes *planes, int64_t n_tiles);
void nn_conv_lines_of_x(const nn_conv_planes *planes, int64_t n_tiles, const float *copy, float *x);

/** A thread's scratch, the filter as nn_conv_lines_band() reads it, (point, src channel, column of
 *  taps, dst channel), and rows of one image: see nn_planes_pass. */
int64_t nn_conv_lines_scratch_floats(const nn_conv_planes *planes);
int64_t nn_conv_lines_filter_floats(const nn_conv_planes *planes);
void nn_conv_lines_pack(const nn_conv_planes *planes, nn_planes_filter filter, float *packed);
void nn_conv_lines_band(const nn_planes_pass *pass, int64_t image, nn_cpu_span rows,
                        const float *copy, float *scratch);

/** The gradients of the filter and the bias (or NULL). */
int nn_conv_lines_gradient_fits(const nn_conv2d_geom *geom);
int64_t nn_conv_lines_gradient_floats(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_conv_lines_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                         const float *x, const float *dy, float *dfilter,
                                         float *dbias, float *workspace);

/* --- The transforms --------------------------------------------------------------------------- */

/** B^T x: rows are the polynomials that vanish at all points but one. */
CVY_INLINE_ALWAYS void nn_lines_input(const nn_vec x[NN_LINES_POINTS], nn_vec out[NN_LINES_POINTS])
{
    const nn_vec even_1 = x[2] + x[6] - nn_vec_times(4.25f, x[4]);
    const nn_vec odd_1 = x[1] + x[5] - nn_vec_times(4.25f, x[3]);
    const nn_vec even_2 = x[6] + nn_vec_times(0.25f, x[2]) - nn_vec_times(1.25f, x[4]);
    const nn_vec odd_2 = nn_vec_times(0.5f, x[1]) + nn_vec_times(2.0f, x[5]) -
                         nn_vec_times(2.5f, x[3]);
    const nn_vec even_half = x[6] + nn_vec_times(4.0f, x[2]) - nn_vec_times(5.0f, x[4]);
    const nn_vec odd_half = nn_vec_times(2.0f, x[1]) + nn_vec_times(0.5f, x[5]) -
                            nn_vec_times(2.5f, x[3]);

    out[0] = (x[0] - x[6]) + nn_vec_times(5.25f, x[4] - x[2]);
    out[1] = even_1 + odd_1;
    out[2] = even_1 - odd_1;
    out[3] = even_2 + odd_2;
    out[4] = even_2 - odd_2;
    out[5] = even_half + odd_half;
    out[6] = even_half - odd_half;
    out[7] = (x[7] - x[1]) + nn_vec_times(5.25f, x[3] - x[5]);
}

/** A^T m: powers of the points. */
CVY_INLINE_ALWAYS void nn_lines_output(const nn_vec m[NN_LINES_POINTS], nn_vec out[NN_LINES_OUT])
{
    const nn_vec sum_1 = m[1] + m[2], difference_1 = m[1] - m[2];
    const nn_vec sum_2 = m[3] + m[4], difference_2 = m[3] - m[4];
    const nn_vec sum_half = m[5] + m[6], difference_half = m[5] - m[6];

    out[0] = (m[0] + sum_1) + (sum_2 + sum_half);
    out[1] = difference_1 + nn_vec_times(2.0f, difference_2) + nn_vec_times(0.5f, difference_half);
    out[2] = sum_1 + nn_vec_times(4.0f, sum_2) + nn_vec_times(0.25f, sum_half);
    out[3] = (m[7] + difference_1) + nn_vec_times(8.0f, difference_2) +
             nn_vec_times(0.125f, difference_half);
}

/** A y. The value at 1 is the sum of y. */
CVY_INLINE_ALWAYS void nn_lines_output_adjoint(const nn_vec y[NN_LINES_OUT],
                                               nn_vec out[NN_LINES_POINTS])
{
    const nn_vec even_1 = y[0] + y[2], odd_1 = y[1] + y[3];
    const nn_vec even_2 = y[0] + nn_vec_times(4.0f, y[2]);
    const nn_vec odd_2 = nn_vec_times(2.0f, y[1]) + nn_vec_times(8.0f, y[3]);
    const nn_vec even_half = y[0] + nn_vec_times(0.25f, y[2]);
    const nn_vec odd_half = nn_vec_times(0.5f, y[1]) + nn_vec_times(0.125f, y[3]);

    out[0] = y[0];
    out[1] = even_1 + odd_1;
    out[2] = even_1 - odd_1;
    out[3] = even_2 + odd_2;
    out[4] = even_2 - odd_2;
    out[5] = even_half + odd_half;
    out[6] = even_half - odd_half;
    out[7] = y[3];
}

/** G: powers of the points over the products of their distances. */
static inline float nn_lines_filter_factor(int point, int tap)
{
    static const float at[NN_LINES_POINTS] = {0.0f, 1.0f, -1.0f, 2.0f, -2.0f, 0.5f, -0.5f, 0.0f};
    static const float over[NN_LINES_POINTS] = {1.0f,          -2.0f / 9.0f, -2.0f / 9.0f,
                                                1.0f / 90.0f,  1.0f / 90.0f, 32.0f / 45.0f,
                                                32.0f / 45.0f, 1.0f};
    float factor = over[point];

    if (point == NN_LINES_POINTS - 1) return tap == NN_LINES_TAPS - 1 ? 1.0f : 0.0f;
    for (int i = 0; i < tap; i++) factor *= at[point];
    return factor;
}

#endif
