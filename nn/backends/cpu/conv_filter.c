#include "nn/backends/cpu/conv_sweep_internal.h"

/* Filters from KCRS to the order in which tiles read them. */

typedef struct packing {
    const nn_conv_sweep *sweep;
    const float *filter;
    int64_t dst_stride, src_stride;
    float *packed;
} packing;

int64_t nn_conv_sweep_filter_floats(const nn_conv_sweep *sweep)
{
    return sweep->dst_blocks * NN_CPU_BLOCK * sweep->src_blocks * sweep->lanes * sweep->n_taps;
}

/* The weights of one channel of src and one tap for some channels of dst, of which n exist. */
static void gather(const float *restrict from, int64_t stride, int64_t n, int64_t n_all,
                   float *restrict to)
{
    for (int64_t i = 0; i < n; i++) to[i] = from[i * stride];
    for (int64_t i = n; i < n_all; i++) to[i] = 0.0f;
}

/* One block of src channels for one group of dst channels. */
static void pack_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const packing *pack = arg;
    const nn_conv_sweep *sweep = pack->sweep;
    const int64_t group = chunk_idx / sweep->src_blocks, block = chunk_idx % sweep->src_blocks;
    const int64_t first = group * NN_TILE_BLOCKS * NN_CPU_BLOCK, depth = sweep->src_blocks;
    const int64_t n_all = nn_conv_group_blocks(sweep->dst_blocks, group) * NN_CPU_BLOCK;
    const int64_t n = nn_cpu_least(n_all, sweep->dst_c - first);
    float *to = pack->packed + first * depth * sweep->lanes * sweep->n_taps;

    (void)thread_idx;
    for (int64_t lane = 0; lane < sweep->lanes; lane++) {
        const int64_t c = block * sweep->lanes + lane;
        const float *from = pack->filter + first * pack->dst_stride + c * pack->src_stride;
        for (int i = 0; i < sweep->n_phases; i++) {
            const nn_conv_phase *phase = &sweep->phases[i];
            for (int j = 0; j < phase->n_taps; j++) {
                const int64_t tap = phase->first_tap * depth + block * phase->n_taps + j;
                gather(from + sweep->taps[phase->first_tap + j].idx, pack->dst_stride,
                       c < sweep->src_c ? n : 0, n_all, to + (tap * sweep->lanes + lane) * n_all);
            }
        }
    }
}

void nn_conv_sweep_pack_filter(nn_backend *backend, const nn_conv_sweep *sweep, const float *filter,
                               int64_t dst_stride, int64_t src_stride, float *packed)
{
    packing pack = {.sweep = sweep,
                    .filter = filter,
                    .dst_stride = dst_stride,
                    .src_stride = src_stride,
                    .packed = packed};

    nn_cpu_run(backend, nn_conv_n_groups(sweep->dst_blocks) * sweep->src_blocks, pack_chunk, &pack);
}
