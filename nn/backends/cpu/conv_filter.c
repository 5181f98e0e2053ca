#include "nn/backends/cpu/conv_sweep_internal.h"

#include <string.h>

/* Filters from KCRS to the order in which tiles read them. */

typedef struct packing {
    const nn_conv_sweep *sweep;
    const float *filter;
    int64_t dst_stride, src_stride;
    float *packed;
} packing;

int64_t nn_conv_sweep_filter_floats(const nn_conv_sweep *sweep)
{
    return sweep->n_slices * sweep->dst_blocks * NN_CPU_BLOCK * nn_conv_sweep_depth(sweep) *
           sweep->n_taps;
}

/* Where the weights of one block of src and one group of dst come from and go to. */
typedef struct filter_block {
    const float *from; /* dst channel 0, src channel 0 of the block */
    int64_t dst_stride, src_stride;
    int64_t n_dst, n_src; /* channels that exist */
    int64_t n_all;        /* dst channels of the group, with those that do not exist */
} filter_block;

/* One tap: to[lane][dst]. The inner loop runs along the closer of the two in KCRS. */
static void copy_tap(const filter_block *block, int64_t tap_idx, float *restrict to)
{
    const float *restrict from = block->from + tap_idx;
    const int64_t n_all = block->n_all;

    if (block->dst_stride < block->src_stride) {
        for (int64_t lane = 0; lane < block->n_src; lane++) {
            for (int64_t k = 0; k < block->n_dst; k++) {
                to[lane * n_all + k] = from[lane * block->src_stride + k * block->dst_stride];
            }
        }
    } else {
        for (int64_t k = 0; k < block->n_dst; k++) {
            for (int64_t lane = 0; lane < block->n_src; lane++) {
                to[lane * n_all + k] = from[lane * block->src_stride + k * block->dst_stride];
            }
        }
    }
}

/* One block of src channels for one group of dst channels of a slice. */
static void pack_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const packing *pack = arg;
    const nn_conv_sweep *sweep = pack->sweep;
    const int64_t block_idx = chunk_idx % sweep->src_blocks;
    const int64_t n_groups = nn_conv_n_groups(sweep->dst_blocks);
    const int64_t group = chunk_idx / sweep->src_blocks % n_groups;
    const int64_t slice = chunk_idx / sweep->src_blocks / n_groups;
    const int64_t first = group * NN_TILE_BLOCKS * NN_CPU_BLOCK, depth = sweep->src_blocks;
    const int64_t first_src = block_idx * sweep->lanes;
    const int64_t n_all = nn_conv_group_blocks(sweep->dst_blocks, group) * NN_CPU_BLOCK;
    const filter_block block = {.from = pack->filter +
                                        slice * sweep->dst_c * sweep->src_c * sweep->n_taps +
                                        first * pack->dst_stride + first_src * pack->src_stride,
                                .dst_stride = pack->dst_stride,
                                .src_stride = pack->src_stride,
                                .n_dst = nn_cpu_least(n_all, sweep->dst_c - first),
                                .n_src = nn_cpu_least(sweep->lanes, sweep->src_c - first_src),
                                .n_all = n_all};
    float *const to = pack->packed + (slice * sweep->dst_blocks * NN_CPU_BLOCK + first) * depth *
                                         sweep->lanes * sweep->n_taps;
    const int64_t tap_floats = sweep->lanes * n_all;
    const int is_full = block.n_dst == n_all && block.n_src == sweep->lanes;

    (void)thread_idx;
    for (int i = 0; i < sweep->n_phases; i++) {
        const nn_conv_phase *phase = &sweep->phases[i];
        for (int j = 0; j < phase->n_taps; j++) {
            const int64_t place = phase->first_tap * depth + block_idx * phase->n_taps + j;
            float *at = to + place * tap_floats;
            if (!is_full) memset(at, 0, (size_t)tap_floats * sizeof *at);
            copy_tap(&block, sweep->taps[phase->first_tap + j].idx, at);
        }
    }
}

/* One block of channels that meet those of their group only; lanes are those of src. */
static void pack_turns(void *arg, int64_t slice, int thread_idx)
{
    const packing *pack = arg;
    const nn_conv_sweep *sweep = pack->sweep;
    const int64_t m = sweep->turns;
    float *to = pack->packed + slice * NN_CPU_BLOCK * m * sweep->n_taps;

    (void)thread_idx;
    for (int i = 0; i < sweep->n_phases; i++) {
        const nn_conv_phase *phase = &sweep->phases[i];
        for (int64_t j = 0; j < m * phase->n_taps; j++, to += NN_CPU_BLOCK) {
            const int64_t differ = nn_conv_turn(j / phase->n_taps, m);
            const int64_t tap_idx = sweep->taps[phase->first_tap + j % phase->n_taps].idx;
            for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane++) {
                const int64_t channel = slice * NN_CPU_BLOCK + lane;
                const float *group = pack->filter + channel / m * m * m * sweep->n_taps;
                to[lane] = channel < sweep->all_dst_c
                               ? group[(lane ^ differ) % m * pack->dst_stride +
                                       lane % m * pack->src_stride + tap_idx]
                               : 0.0f;
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

    if (sweep->turns > 0) {
        nn_cpu_run(backend, sweep->n_slices, pack_turns, &pack);
    } else {
        nn_cpu_run(backend,
                   sweep->n_slices * nn_conv_n_groups(sweep->dst_blocks) * sweep->src_blocks,
                   pack_chunk, &pack);
    }
}
