#include "nn/backends/cpu/winograd_strided_internal.h"

enum { N = NN_STRIDED_FILTERS };

/* Values at the points, over the products of their distances: -2 at a, 2 at -a, 6 at b, -6 at -b;
 * and the middle tap. */
CVY_INLINE_ALWAYS void filter_line(const nn_vec g[3], nn_vec out[N])
{
    const nn_vec odd_a = nn_vec_times(NN_STRIDED_A, g[2]);
    const nn_vec odd_b = nn_vec_times(NN_STRIDED_B, g[2]);

    out[0] = nn_vec_times(-1.0f / 2.0f, g[0] + odd_a);
    out[1] = nn_vec_times(1.0f / 2.0f, g[0] - odd_a);
    out[2] = nn_vec_times(1.0f / 6.0f, g[0] + odd_b);
    out[3] = nn_vec_times(-1.0f / 6.0f, g[0] - odd_b);
    out[4] = g[2];
    out[5] = g[1];
}

void nn_strided_filter(const float *filter, float *out, int64_t pitch)
{
    for (int lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
        nn_vec t[3][N];
        for (int i = 0; i < 3; i++) {
            nn_vec g[3];
            for (int j = 0; j < 3; j++) {
                g[j] = nn_vec_load(filter + (i * 3 + j) * NN_CPU_BLOCK + lane);
            }
            filter_line(g, t[i]);
        }
        for (int j = 0; j < N; j++) {
            const nn_vec column[3] = {t[0][j], t[1][j], t[2][j]};
            nn_vec u[N];
            filter_line(column, u);
            for (int i = 0; i < N; i++) nn_vec_store(out + (i * N + j) * pitch + lane, u[i]);
        }
    }
}

CVY_INLINE_ALWAYS void filter_adjoint_line(const nn_vec u[N], nn_vec out[3])
{
    const nn_vec sum_a = nn_vec_times(-1.0f / 2.0f, u[0] + u[1]);
    const nn_vec difference_a = nn_vec_times(-1.0f / 2.0f, u[0] - u[1]);
    const nn_vec sum_b = nn_vec_times(1.0f / 6.0f, u[2] + u[3]);
    const nn_vec difference_b = nn_vec_times(1.0f / 6.0f, u[2] - u[3]);

    out[0] = difference_a + difference_b;
    out[1] = u[5];
    out[2] = nn_vec_times(NN_STRIDED_A, sum_a) + nn_vec_times(NN_STRIDED_B, sum_b) + u[4];
}

void nn_strided_filter_adjoint(const float *sum, int64_t pitch, float *out)
{
    for (int lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
        nn_vec t[3][N];
        for (int j = 0; j < N; j++) {
            nn_vec column[N], s[3];
            for (int i = 0; i < N; i++) column[i] = nn_vec_load(sum + (i * N + j) * pitch + lane);
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
