#ifndef NN_BACKENDS_CPU_WINOGRAD_STEM_LINES_INTERNAL_H
#define NN_BACKENDS_CPU_WINOGRAD_STEM_LINES_INTERNAL_H

#include "nn/backends/cpu/simd_internal.h"
#include "nn/backends/cpu/winograd_stem_internal.h"

/** The one-dimensional transforms of F(4, 4) at the points +-a, +-b, +-c, infinity with a = 1/4,
 * b = 7/8, c = 7/4. Applied to columns and to rows.
 *
 * Without the point 0 all others are pairs. Of the points that binary fractions are, these round
 * least: twice as much as F(4, 3) in winograd_lines_internal.h, less than F(4, 3) at 0, +-1, +-2.
 */
#define NN_STEM_A 0.25f
#define NN_STEM_B 0.875f
#define NN_STEM_C 1.75f

#define NN_STEM_SQUARE(p) ((p) * (p))
#define NN_STEM_CUBE(p)   ((p) * (p) * (p))
/** Over the product of a point's distances from all others; q and r are the other pairs. */
#define NN_STEM_WEIGHT(p, q, r)                                                                    \
    (1.0f / (2.0f * (p) * (NN_STEM_SQUARE(p) - NN_STEM_SQUARE(q)) *                                \
             (NN_STEM_SQUARE(p) - NN_STEM_SQUARE(r))))

/** The rows of B^T at p and -p: the polynomials that vanish at all points but one, (x^2 - q^2) (x^2
 *  - r^2) (x +- p), that at -p with its sign turned as its distances are. */
CVY_INLINE_ALWAYS void nn_stem_input_pair(const nn_vec x[NN_STEM_IN], float p, float q, float r,
                                          nn_vec out[2])
{
    const float sum = q * q + r * r, product = q * q * r * r;
    const nn_vec odd = x[5] - nn_vec_times(sum, x[3]) + nn_vec_times(product, x[1]);
    const nn_vec even = nn_vec_times(p, x[4]) - nn_vec_times(p * sum, x[2]) +
                        nn_vec_times(p * product, x[0]);

    out[0] = even + odd;
    out[1] = even - odd;
}

/** B^T x, n_out of its rows: without infinity 6. */
CVY_INLINE_ALWAYS void nn_stem_input_line(const nn_vec x[NN_STEM_IN], int n_out,
                                          nn_vec out[NN_STEM_IN])
{
    const float a2 = NN_STEM_SQUARE(NN_STEM_A), b2 = NN_STEM_SQUARE(NN_STEM_B),
                c2 = NN_STEM_SQUARE(NN_STEM_C);

    nn_stem_input_pair(x, NN_STEM_A, NN_STEM_B, NN_STEM_C, out);
    nn_stem_input_pair(x, NN_STEM_B, NN_STEM_A, NN_STEM_C, out + 2);
    nn_stem_input_pair(x, NN_STEM_C, NN_STEM_A, NN_STEM_B, out + 4);
    if (n_out < NN_STEM_IN) return;
    out[6] = x[6] - nn_vec_times(a2 + b2 + c2, x[4]) +
             nn_vec_times(a2 * b2 + a2 * c2 + b2 * c2, x[2]) - nn_vec_times(a2 * b2 * c2, x[0]);
}

/** A^T m: powers of the points. */
CVY_INLINE_ALWAYS void nn_stem_output_line(const nn_vec m[NN_STEM_IN], nn_vec out[NN_STEM_OUT])
{
    const nn_vec sum_a = m[0] + m[1], difference_a = m[0] - m[1];
    const nn_vec sum_b = m[2] + m[3], difference_b = m[2] - m[3];
    const nn_vec sum_c = m[4] + m[5], difference_c = m[4] - m[5];

    out[0] = sum_a + sum_b + sum_c;
    out[1] = nn_vec_times(NN_STEM_A, difference_a) + nn_vec_times(NN_STEM_B, difference_b) +
             nn_vec_times(NN_STEM_C, difference_c);
    out[2] = nn_vec_times(NN_STEM_SQUARE(NN_STEM_A), sum_a) +
             nn_vec_times(NN_STEM_SQUARE(NN_STEM_B), sum_b) +
             nn_vec_times(NN_STEM_SQUARE(NN_STEM_C), sum_c);
    out[3] = m[6] + nn_vec_times(NN_STEM_CUBE(NN_STEM_A), difference_a) +
             nn_vec_times(NN_STEM_CUBE(NN_STEM_B), difference_b) +
             nn_vec_times(NN_STEM_CUBE(NN_STEM_C), difference_c);
}

/** The rows of A y at p and -p. */
CVY_INLINE_ALWAYS void nn_stem_adjoint_pair(const nn_vec y[NN_STEM_OUT], float p, nn_vec out[2])
{
    const nn_vec even = y[0] + nn_vec_times(NN_STEM_SQUARE(p), y[2]);
    const nn_vec odd = nn_vec_times(p, y[1]) + nn_vec_times(NN_STEM_CUBE(p), y[3]);

    out[0] = even + odd;
    out[1] = even - odd;
}

/** A y. */
CVY_INLINE_ALWAYS void nn_stem_output_adjoint_line(const nn_vec y[NN_STEM_OUT],
                                                   nn_vec out[NN_STEM_IN])
{
    nn_stem_adjoint_pair(y, NN_STEM_A, out);
    nn_stem_adjoint_pair(y, NN_STEM_B, out + 2);
    nn_stem_adjoint_pair(y, NN_STEM_C, out + 4);
    out[6] = y[3];
}

/** G g: values at the points, weighted. */
CVY_INLINE_ALWAYS void nn_stem_filter_line(const nn_vec g[NN_STEM_TAPS], nn_vec out[NN_STEM_IN])
{
    static const float weight[3] = {NN_STEM_WEIGHT(NN_STEM_A, NN_STEM_B, NN_STEM_C),
                                    NN_STEM_WEIGHT(NN_STEM_B, NN_STEM_A, NN_STEM_C),
                                    NN_STEM_WEIGHT(NN_STEM_C, NN_STEM_A, NN_STEM_B)};

    nn_stem_output_adjoint_line(g, out); /* powers as well, up to the cube */
    CVY_UNROLL(8) for (int i = 0; i < 6; i++) out[i] = nn_vec_times(weight[i / 2], out[i]);
}

/** G^T u. */
CVY_INLINE_ALWAYS void nn_stem_filter_adjoint_line(const nn_vec u[NN_STEM_IN],
                                                   nn_vec out[NN_STEM_TAPS])
{
    static const float weight[3] = {NN_STEM_WEIGHT(NN_STEM_A, NN_STEM_B, NN_STEM_C),
                                    NN_STEM_WEIGHT(NN_STEM_B, NN_STEM_A, NN_STEM_C),
                                    NN_STEM_WEIGHT(NN_STEM_C, NN_STEM_A, NN_STEM_B)};
    nn_vec weighted[NN_STEM_IN];

    CVY_UNROLL(8) for (int i = 0; i < 6; i++) weighted[i] = nn_vec_times(weight[i / 2], u[i]);
    weighted[6] = u[6];
    nn_stem_output_line(weighted, out);
}

#endif
