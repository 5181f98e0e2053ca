#include "nn/backends/cpu/winograd_tile_internal.h"

#include "nn/backends/cpu/conv_sweep_internal.h"
#include "nn/backends/cpu/winograd_lines_internal.h"

/* Filters of KCRS, as they are multiplied, and their gradients. */

enum { IN = NN_WINO_IN };

static const int row_order[IN] = {0, 5, 1, 2, 3, 4};

/* One line more than there is data: 36 positions at a power of two would share a cache set. */
int64_t nn_wino_filter_pitch(int64_t src_blocks, int n_blocks)
{
    return (src_blocks * NN_CPU_BLOCK * n_blocks + 1) * NN_CPU_BLOCK;
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
            nn_wino_filter_line(g, t[i]);
        }
        for (int j = 0; j < IN; j++) {
            const nn_vec column[3] = {t[0][j], t[1][j], t[2][j]};
            nn_vec u[IN];
            nn_wino_filter_line(column, u);
            for (int i = 0; i < IN; i++)
                nn_vec_store(out + (i * IN + j) * pitch + lane, u[row_order[i]]);
        }
    }
}

void nn_wino_filter_adjoint(const float *sum, int64_t pitch, float *out)
{
    for (int lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
        nn_vec t[3][IN];
        for (int j = 0; j < IN; j++) {
            nn_vec column[IN], s[3];
            for (int i = 0; i < IN; i++) {
                column[row_order[i]] = nn_vec_load(sum + (i * IN + j) * pitch + lane);
            }
            nn_wino_filter_adjoint_line(column, s);
            for (int i = 0; i < 3; i++) t[i][j] = s[i];
        }
        for (int i = 0; i < 3; i++) {
            nn_vec g[3];
            nn_wino_filter_adjoint_line(t[i], g);
            for (int j = 0; j < 3; j++) {
                nn_vec_store(out + (i * 3 + j) * NN_CPU_BLOCK + lane, g[j]);
            }
        }
    }
}

/* taps[tap * 16 + lane] of one src channel and a block of dst channels, of which n exist: a
 * channel's taps lie beside each other, so they are the lanes of vectors until these are
 * transposed. */
static void gather_taps(const nn_wino_filters *filters, const float *from, int64_t n,
                        float taps[9 * NN_CPU_BLOCK])
{
    for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
        CVY_UNROLL(3) for (int first = 0; first < 9; first += NN_VEC_LANES)
        {
            const int n_taps = 9 - first < NN_VEC_LANES ? 9 - first : NN_VEC_LANES;
            nn_vec v[NN_VEC_LANES];
            CVY_UNROLL(16) for (int i = 0; i < NN_VEC_LANES; i++)
            {
                const float *at = from + (lane + i) * filters->dst_stride + first;
                v[i] = lane + i < n ? nn_vec_load_part(at, n_taps) : nn_vec_all(0.0f);
            }
            nn_vec_transpose(v);
            CVY_UNROLL(16) for (int i = 0; i < n_taps; i++)
            {
                const int tap = filters->is_turned ? 8 - first - i : first + i;
                nn_vec_store(taps + tap * NN_CPU_BLOCK + lane, v[i]);
            }
        }
    }
}

/* A row of 16x16 filters, 16 of which are beside each other in KCRS. */
static inline void fetch_row(const float *row)
{
    for (int i = 0; i < 9; i++) CVY_PREFETCH_READ(row + i * NN_CPU_BLOCK);
}

void nn_wino_transform_filters(const nn_winograd *wino, const nn_wino_filters *filters,
                               int64_t group, float *out)
{
    const int n_blocks = nn_conv_group_blocks(wino->dst_blocks, group);
    const int64_t pitch = nn_wino_filter_pitch(wino->src_blocks, n_blocks);
    const int64_t row_stride = nn_cpu_most(filters->dst_stride, filters->src_stride);
    const int64_t next_block = NN_CPU_BLOCK * filters->src_stride;
    float taps[9 * NN_CPU_BLOCK];

    for (int64_t c = 0; c < wino->src_blocks * NN_CPU_BLOCK; c++) {
        const int64_t lane = c % NN_CPU_BLOCK;
        for (int j = 0; j < n_blocks; j++) {
            const int64_t first = (group * NN_TILE_BLOCKS + j) * NN_CPU_BLOCK;
            const int64_t n = c < wino->src_c ? nn_cpu_least(NN_CPU_BLOCK, wino->dst_c - first) : 0;
            const float *from = filters->at +
                                (n > 0 ? first * filters->dst_stride + c * filters->src_stride : 0);
            if (c - lane + 2 * NN_CPU_BLOCK <= wino->src_c && n == NN_CPU_BLOCK) {
                fetch_row(from - lane * filters->src_stride + next_block + lane * row_stride);
            }
            gather_taps(filters, from, n, taps);
            filters->transform(taps, out + (c * n_blocks + j) * NN_CPU_BLOCK, pitch);
        }
    }
}

void nn_wino_scatter_taps(const float taps[9 * NN_CPU_BLOCK], int64_t n, int64_t stride, float *to)
{
    for (int64_t lane = 0; lane < n; lane += NN_VEC_LANES) {
        CVY_UNROLL(3) for (int first = 0; first < 9; first += NN_VEC_LANES)
        {
            const int n_taps = 9 - first < NN_VEC_LANES ? 9 - first : NN_VEC_LANES;
            nn_vec v[NN_VEC_LANES];
            CVY_UNROLL(16) for (int i = 0; i < NN_VEC_LANES; i++)
            {
                v[i] = i < n_taps ? nn_vec_load(taps + (first + i) * NN_CPU_BLOCK + lane)
                                  : nn_vec_all(0.0f);
            }
            nn_vec_transpose(v);
            CVY_UNROLL(16) for (int i = 0; i < NN_VEC_LANES; i++)
            {
                float *at = to + (lane + i) * stride + first;
                if (lane + i < n) nn_vec_store_part(at, v[i], n_taps);
            }
        }
    }
}
