#include "nn/backends/cpu/conv_sweep_internal.h"
#include "nn/backends/cpu/winograd_internal.h"

/* Filters of KCRS, as they are multiplied. */

/* One line more than there is data: 36 positions at a power of two would share a cache set. */
int64_t nn_wino_filter_pitch(int64_t src_blocks, int n_blocks)
{
    return (src_blocks * NN_CPU_BLOCK * n_blocks + 1) * NN_CPU_BLOCK;
}

/* taps[tap * 16 + lane] of one src channel and a block of dst channels, of which n exist. */
static void gather_taps(const nn_wino_filters *filters, const float *from, int64_t n,
                        float taps[9 * NN_CPU_BLOCK])
{
    for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane++) {
        if (lane >= n) {
            for (int tap = 0; tap < 9; tap++) taps[tap * NN_CPU_BLOCK + lane] = 0.0f;
            continue;
        }
        if (filters->is_turned) {
            for (int tap = 0; tap < 9; tap++) taps[(8 - tap) * NN_CPU_BLOCK + lane] = from[tap];
        } else {
            for (int tap = 0; tap < 9; tap++) taps[tap * NN_CPU_BLOCK + lane] = from[tap];
        }
        from += filters->dst_stride;
    }
}

void nn_wino_transform_filters(const nn_winograd *wino, const nn_wino_filters *filters,
                               int64_t group, int64_t src_block, float *out)
{
    const int n_blocks = nn_conv_group_blocks(wino->dst_blocks, group);
    const int64_t pitch = nn_wino_filter_pitch(wino->src_blocks, n_blocks);
    float taps[9 * NN_CPU_BLOCK];

    for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane++) {
        const int64_t c = src_block * NN_CPU_BLOCK + lane;
        for (int j = 0; j < n_blocks; j++) {
            const int64_t first = (group * NN_TILE_BLOCKS + j) * NN_CPU_BLOCK;
            const int64_t n = c < wino->src_c ? nn_cpu_least(NN_CPU_BLOCK, wino->dst_c - first) : 0;
            const float *from = filters->at;
            if (n > 0) from += first * filters->dst_stride + c * filters->src_stride;
            gather_taps(filters, from, n, taps);
            nn_wino_filter(taps, out + (c * n_blocks + j) * NN_CPU_BLOCK, pitch);
        }
    }
}
