#ifndef NN_BACKENDS_CPU_WINOGRAD_LINES_INTERNAL_H
#define NN_BACKENDS_CPU_WINOGRAD_LINES_INTERNAL_H

#include "nn/backends/cpu/simd_internal.h"
#include "nn/backends/cpu/winograd_internal.h"

/** The one-dimensional transforms at the points 0, +-a, +-b, infinity with a = 1/sqrt(2) and
 * b = sqrt(2). Applied to columns and then to rows. */
#define NN_WINO_A  0.70710678118654752f
#define NN_WINO_B  1.41421356237309505f
#define NN_WINO_A2 0.5f
#define NN_WINO_B2 2.0f
#define NN_WINO_A3 0.35355339059327376f
#define NN_WINO_B3 2.82842712474619010f

/** B^T x: rows are the polynomials that vanish at all points but one. */
CVY_INLINE_ALWAYS void nn_wino_input_line(const nn_vec x[NN_WINO_IN], nn_vec out[NN_WINO_IN])
{
    const nn_vec even_a = x[4] - nn_vec_times(NN_WINO_B2, x[2]),
                 odd_a = nn_vec_times(NN_WINO_A, x[3]) - nn_vec_times(NN_WINO_B, x[1]);
    const nn_vec even_b = x[4] - nn_vec_times(NN_WINO_A2, x[2]),
                 odd_b = nn_vec_times(NN_WINO_B, x[3]) - nn_vec_times(NN_WINO_A, x[1]);

    out[0] = x[0] + x[4] - nn_vec_times(NN_WINO_A2 + NN_WINO_B2, x[2]);
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = x[1] + x[5] - nn_vec_times(NN_WINO_A2 + NN_WINO_B2, x[3]);
}

/** A^T m: powers of the points. */
CVY_INLINE_ALWAYS void nn_wino_output_line(const nn_vec m[NN_WINO_IN], nn_vec out[NN_WINO_OUT])
{
    const nn_vec sum_a = m[1] + m[2], difference_a = m[1] - m[2];
    const nn_vec sum_b = m[3] + m[4], difference_b = m[3] - m[4];

    out[0] = m[0] + sum_a + sum_b;
    out[1] = nn_vec_times(NN_WINO_A, difference_a) + nn_vec_times(NN_WINO_B, difference_b);
    out[2] = nn_vec_times(NN_WINO_A2, sum_a) + nn_vec_times(NN_WINO_B2, sum_b);
    out[3] = m[5] + nn_vec_times(NN_WINO_B3, difference_b) + nn_vec_times(NN_WINO_A3, difference_a);
}

/** A y. */
CVY_INLINE_ALWAYS void nn_wino_output_adjoint_line(const nn_vec y[NN_WINO_OUT],
                                                   nn_vec out[NN_WINO_IN])
{
    const nn_vec even_a = y[0] + nn_vec_times(NN_WINO_A2, y[2]),
                 odd_a = nn_vec_times(NN_WINO_A, y[1]) + nn_vec_times(NN_WINO_A3, y[3]);
    const nn_vec even_b = y[0] + nn_vec_times(NN_WINO_B2, y[2]),
                 odd_b = nn_vec_times(NN_WINO_B, y[1]) + nn_vec_times(NN_WINO_B3, y[3]);

    out[0] = y[0];
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = y[3];
}

/** G g: values at the points, over the products of their distances: -3/2 at +-a, 6 at +-b. */
CVY_INLINE_ALWAYS void nn_wino_filter_line(const nn_vec g[3], nn_vec out[NN_WINO_IN])
{
    const nn_vec even_a = nn_vec_times(-2.0f / 3.0f, g[0] + nn_vec_times(NN_WINO_A2, g[2]));
    const nn_vec odd_a = nn_vec_times(-2.0f / 3.0f * NN_WINO_A, g[1]);
    const nn_vec even_b = nn_vec_times(1.0f / 6.0f, g[0] + nn_vec_times(NN_WINO_B2, g[2]));
    const nn_vec odd_b = nn_vec_times(1.0f / 6.0f * NN_WINO_B, g[1]);

    out[0] = g[0];
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = g[2];
}

/** G^T u. */
CVY_INLINE_ALWAYS void nn_wino_filter_adjoint_line(const nn_vec u[NN_WINO_IN], nn_vec out[3])
{
    const nn_vec sum_a = nn_vec_times(-2.0f / 3.0f, u[1] + u[2]),
                 sum_b = nn_vec_times(1.0f / 6.0f, u[3] + u[4]);
    const nn_vec difference_a = nn_vec_times(-2.0f / 3.0f * NN_WINO_A, u[1] - u[2]);
    const nn_vec difference_b = nn_vec_times(1.0f / 6.0f * NN_WINO_B, u[3] - u[4]);

    out[0] = u[0] + sum_a + sum_b;
    out[1] = difference_a + difference_b;
    out[2] = nn_vec_times(NN_WINO_A2, sum_a) + nn_vec_times(NN_WINO_B2, sum_b) + u[5];
}

#endif
