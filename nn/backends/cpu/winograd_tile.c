#include "nn/backends/cpu/winograd_internal.h"

#include <stddef.h>

/* The one-dimensional transforms at the points 0, +-a, +-b, infinity with a = 1/sqrt(2) and
 * b = sqrt(2). Applied to columns and then to rows. */
#define A  0.70710678118654752f
#define B  1.41421356237309505f
#define A2 0.5f
#define B2 2.0f
#define A3 0.35355339059327376f
#define B3 2.82842712474619010f

enum { OUT = NN_WINO_OUT, IN = NN_WINO_IN };

static inline nn_vec times(float factor, nn_vec x)
{
    return nn_vec_all(factor) * x;
}

/* B^T x: rows are the polynomials that vanish at all points but one. */
CVY_INLINE_ALWAYS void input_line(const nn_vec x[IN], nn_vec out[IN])
{
    const nn_vec even_a = x[4] - times(B2, x[2]), odd_a = times(A, x[3]) - times(B, x[1]);
    const nn_vec even_b = x[4] - times(A2, x[2]), odd_b = times(B, x[3]) - times(A, x[1]);

    out[0] = x[0] + x[4] - times(A2 + B2, x[2]);
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = x[1] + x[5] - times(A2 + B2, x[3]);
}

/* A^T m: powers of the points. */
CVY_INLINE_ALWAYS void output_line(const nn_vec m[IN], nn_vec out[OUT])
{
    const nn_vec sum_a = m[1] + m[2], difference_a = m[1] - m[2];
    const nn_vec sum_b = m[3] + m[4], difference_b = m[3] - m[4];

    out[0] = m[0] + sum_a + sum_b;
    out[1] = times(A, difference_a) + times(B, difference_b);
    out[2] = times(A2, sum_a) + times(B2, sum_b);
    out[3] = times(A3, difference_a) + times(B3, difference_b) + m[5];
}

/* A y. */
CVY_INLINE_ALWAYS void output_adjoint_line(const nn_vec y[OUT], nn_vec out[IN])
{
    const nn_vec even_a = y[0] + times(A2, y[2]), odd_a = times(A, y[1]) + times(A3, y[3]);
    const nn_vec even_b = y[0] + times(B2, y[2]), odd_b = times(B, y[1]) + times(B3, y[3]);

    out[0] = y[0];
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = y[3];
}

/* G g: values at the points, over the products of their distances: -3/2 at +-a, 6 at +-b. */
CVY_INLINE_ALWAYS void filter_line(const nn_vec g[3], nn_vec out[IN])
{
    const nn_vec even_a = times(-2.0f / 3.0f, g[0] + times(A2, g[2]));
    const nn_vec odd_a = times(-2.0f / 3.0f * A, g[1]);
    const nn_vec even_b = times(1.0f / 6.0f, g[0] + times(B2, g[2]));
    const nn_vec odd_b = times(1.0f / 6.0f * B, g[1]);

    out[0] = g[0];
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = g[2];
}

/* G^T u. */
CVY_INLINE_ALWAYS void filter_adjoint_line(const nn_vec u[IN], nn_vec out[3])
{
    const nn_vec sum_a = times(-2.0f / 3.0f, u[1] + u[2]), sum_b = times(1.0f / 6.0f, u[3] + u[4]);
    const nn_vec difference_a = times(-2.0f / 3.0f * A, u[1] - u[2]);
    const nn_vec difference_b = times(1.0f / 6.0f * B, u[3] - u[4]);

    out[0] = u[0] + sum_a + sum_b;
    out[1] = difference_a + difference_b;
    out[2] = times(A2, sum_a) + times(B2, sum_b) + u[5];
}

static int is_inside(const nn_wino_window *window, int64_t size)
{
    return window->row >= 0 && window->col >= 0 && window->row + size <= window->h &&
           window->col + size <= window->w;
}

/* Row by row: a row of x, transformed along itself, becomes a row of t. */
CVY_INLINE_ALWAYS void input_vec(const float *plane, const nn_wino_window *window, int inside,
                                 float *out, int64_t pitch)
{
    nn_vec t[IN][IN];

    CVY_UNROLL(6) for (int i = 0; i < IN; i++)
    {
        const int64_t row = window->row + i;
        nn_vec x[IN];
        CVY_UNROLL(6) for (int j = 0; j < IN; j++)
        {
            const int64_t col = window->col + j;
            const int exists = inside ||
                               (row >= 0 && row < window->h && col >= 0 && col < window->w);
            x[j] = exists ? nn_vec_load(plane + (row * window->w + col) * NN_CPU_BLOCK)
                          : nn_vec_all(0.0f);
        }
        input_line(x, t[i]);
    }
    CVY_UNROLL(6) for (int j = 0; j < IN; j++)
    {
        const nn_vec column[IN] = {t[0][j], t[1][j], t[2][j], t[3][j], t[4][j], t[5][j]};
        nn_vec v[IN];
        input_line(column, v);
        CVY_UNROLL(6) for (int i = 0; i < IN; i++) nn_vec_store(out + (i * IN + j) * pitch, v[i]);
    }
}

void nn_wino_input(const float *plane, nn_wino_window window, float *out, int64_t pitch)
{
    const int inside = is_inside(&window, IN);

    for (int v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
        if (inside) {
            input_vec(plane + v, &window, 1, out + v, pitch);
        } else {
            input_vec(plane + v, &window, 0, out + v, pitch);
        }
    }
}

CVY_INLINE_ALWAYS void output_vec(const float *m, int64_t pitch, nn_vec bias, int accumulate,
                                  float *plane, const nn_wino_window *window, int inside)
{
    nn_vec t[OUT][IN];

    CVY_UNROLL(6) for (int j = 0; j < IN; j++)
    {
        nn_vec column[IN], s[OUT];
        CVY_UNROLL(6) for (int i = 0; i < IN; i++)
        {
            column[i] = nn_vec_load(m + (i * IN + j) * pitch);
        }
        output_line(column, s);
        CVY_UNROLL(4) for (int i = 0; i < OUT; i++) t[i][j] = s[i];
    }
    CVY_UNROLL(4) for (int i = 0; i < OUT; i++)
    {
        nn_vec y[OUT];
        output_line(t[i], y);
        CVY_UNROLL(4) for (int j = 0; j < OUT; j++)
        {
            const int64_t row = window->row + i, col = window->col + j;
            float *at = plane + (row * window->w + col) * NN_CPU_BLOCK;
            if (!inside && (row >= window->h || col >= window->w)) continue;
            y[j] += bias;
            if (accumulate) y[j] += nn_vec_load(at);
            nn_vec_store(at, y[j]);
        }
    }
}

void nn_wino_output(const float *m, int64_t pitch, const float *bias, int accumulate, float *plane,
                    nn_wino_window window)
{
    const int inside = is_inside(&window, OUT);

    for (int v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
        const nn_vec add = bias != NULL ? nn_vec_load(bias + v) : nn_vec_all(0.0f);
        if (inside && !accumulate) {
            output_vec(m + v, pitch, add, 0, plane + v, &window, 1);
        } else {
            output_vec(m + v, pitch, add, accumulate, plane + v, &window, inside);
        }
    }
}

CVY_INLINE_ALWAYS void output_adjoint_vec(const float *plane, const nn_wino_window *window,
                                          int inside, float *out, int64_t pitch)
{
    nn_vec t[OUT][IN];

    CVY_UNROLL(4) for (int i = 0; i < OUT; i++)
    {
        const int64_t row = window->row + i;
        nn_vec y[OUT];
        CVY_UNROLL(4) for (int j = 0; j < OUT; j++)
        {
            const int64_t col = window->col + j;
            const int exists = inside || (row < window->h && col < window->w);
            y[j] = exists ? nn_vec_load(plane + (row * window->w + col) * NN_CPU_BLOCK)
                          : nn_vec_all(0.0f);
        }
        output_adjoint_line(y, t[i]);
    }
    CVY_UNROLL(6) for (int j = 0; j < IN; j++)
    {
        const nn_vec column[OUT] = {t[0][j], t[1][j], t[2][j], t[3][j]};
        nn_vec v[IN];
        output_adjoint_line(column, v);
        CVY_UNROLL(6) for (int i = 0; i < IN; i++) nn_vec_store(out + (i * IN + j) * pitch, v[i]);
    }
}

void nn_wino_output_adjoint(const float *plane, nn_wino_window window, float *out, int64_t pitch)
{
    const int inside = is_inside(&window, OUT);

    for (int v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
        if (inside) {
            output_adjoint_vec(plane + v, &window, 1, out + v, pitch);
        } else {
            output_adjoint_vec(plane + v, &window, 0, out + v, pitch);
        }
    }
}

void nn_wino_filter(const float *filter, float *out, int64_t pitch)
{
    for (int lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
        nn_vec t[3][IN];
        for (int i = 0; i < 3; i++) {
            nn_vec g[3];
            for (int j = 0; j < 3; j++) {
                g[j] = nn_vec_load(filter + (i * 3 + j) * NN_CPU_BLOCK + lane);
            }
            filter_line(g, t[i]);
        }
        for (int j = 0; j < IN; j++) {
            const nn_vec column[3] = {t[0][j], t[1][j], t[2][j]};
            nn_vec u[IN];
            filter_line(column, u);
            for (int i = 0; i < IN; i++) nn_vec_store(out + (i * IN + j) * pitch + lane, u[i]);
        }
    }
}

void nn_wino_filter_adjoint(const float *sum, int64_t pitch, float *out)
{
    for (int lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
        nn_vec t[3][IN];
        for (int j = 0; j < IN; j++) {
            nn_vec column[IN], s[3];
            for (int i = 0; i < IN; i++) column[i] = nn_vec_load(sum + (i * IN + j) * pitch + lane);
            filter_adjoint_line(column, s);
            for (int i = 0; i < 3; i++) t[i][j] = s[i];
        }
        for (int i = 0; i < 3; i++) {
            nn_vec g[3];
            filter_adjoint_line(t[i], g);
            for (int j = 0; j < 3; j++) {
                nn_vec_store(out + (i * 3 + j) * NN_CPU_BLOCK + lane, g[j]);
            }
        }
    }
}
