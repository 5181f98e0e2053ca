#include "nn/backends/cpu/conv_outer_internal.h"
#include "nn/backends/cpu/conv_sweep_internal.h"
#include "nn/backends/cpu/winograd_internal.h"

#include <string.h>

/* Work is cut into shares of the tiles and parts of the output channels. Sums of a (share, part)
 * are (group, block of inputs, position, 16, 16 * blocks of outputs); shares are added in their
 * order. */
enum {
    N_TASKS = 16,
    PART_GROUPS = 2, /* groups that use one transform of the input, where all sums fit a cache */
    PART_FLOATS = 1 << 18
};

void nn_winograd_gradient_plan(const nn_conv2d_geom *geom, nn_winograd_gradient *out)
{
    memset(out, 0, sizeof *out);
    nn_winograd *wino = &out->wino;
    nn_winograd_forward(geom, wino);
    wino->tiles_per_slab = 0; /* a task transforms the tiles that it needs */
    wino->src_tiles = wino->tiles_per_part;
    wino->src_pitch = (wino->src_blocks * wino->src_tiles + 1) * NN_CPU_BLOCK;

    const int64_t n_groups = nn_conv_n_groups(wino->dst_blocks);
    const int64_t group_floats = NN_WINO_PLACES * wino->src_blocks * NN_CPU_BLOCK * NN_CPU_BLOCK *
                                 NN_TILE_BLOCKS;
    out->groups_per_part = PART_GROUPS * group_floats <= PART_FLOATS
                               ? nn_cpu_least(PART_GROUPS, n_groups)
                               : 1;
    out->n_parts = nn_cpu_div_up(n_groups, out->groups_per_part);
    const int64_t n_shares = nn_cpu_div_up(N_TASKS, out->n_parts);
    const int64_t n_tile_parts = nn_cpu_div_up(wino->n_tiles, wino->tiles_per_part);
    out->tiles_per_share = nn_cpu_div_up(n_tile_parts, nn_cpu_least(n_shares, n_tile_parts)) *
                           wino->tiles_per_part;
    out->n_shares = nn_cpu_div_up(wino->n_tiles, out->tiles_per_share);
    out->sum_floats = out->groups_per_part * group_floats;
    out->scratch_floats = NN_WINO_PLACES * (wino->src_pitch + wino->dst_pitch);
    /* Where sums lie depends on the geometry without the images, and their room grows with these: a
     * smaller batch must do with the workspace of a larger one. */
    if (n_shares > 1) {
        out->total_floats = out->sum_floats * nn_cpu_least(n_shares, n_tile_parts) * out->n_parts;
    } else {
        out->scratch_floats += out->sum_floats;
    }
}

typedef struct gradient_pass {
    const nn_winograd_gradient *plan;
    const float *x, *dy;
    float *dfilter, *sums, *scratch;
} gradient_pass;

static void read_dy(const gradient_pass *pass, int64_t group, nn_cpu_span tiles, float *out)
{
    const nn_winograd *wino = &pass->plan->wino;
    const int n_blocks = nn_conv_group_blocks(wino->dst_blocks, group);
    const int64_t plane = wino->dst_h * wino->dst_w * NN_CPU_BLOCK;

    for (int64_t i = 0; i < tiles.n; i++) {
        const nn_wino_place place = nn_winograd_place(wino, tiles.first + i);
        const nn_wino_window window = {
            .h = wino->dst_h, .w = wino->dst_w, .row = place.row, .col = place.col};
        for (int64_t j = 0; j < n_blocks; j++) {
            const int64_t block = place.image * wino->dst_blocks + group * NN_TILE_BLOCKS + j;
            nn_wino_output_adjoint(pass->dy + block * plane, window,
                                   out + (j * wino->tiles_per_part + i) * NN_CPU_BLOCK,
                                   wino->dst_pitch);
        }
    }
}

/* What the memory fetches while a group is multiplied: dy of tiles [first, end), and x too if this
 * is the task's first group. */
typedef struct next_tiles {
    int64_t group, first, end;
    int has_x;
} next_tiles;

static void fetch_next(const gradient_pass *pass, const next_tiles *next, int64_t idx)
{
    const nn_winograd *wino = &pass->plan->wino;

    if (next->first + idx >= next->end) return;
    nn_winograd_fetch_dst(wino, pass->dy, next->first + idx, next->group * NN_TILE_BLOCKS,
                          nn_conv_group_blocks(wino->dst_blocks, next->group), 0);
    if (next->has_x) nn_winograd_fetch_src(wino, pass->x, next->first + idx);
}

/* Sums of one group += products of the transformed tiles. */
static void add_products(const gradient_pass *pass, const next_tiles *next, int64_t n_tiles,
                         const float *v, const float *m, float *sums)
{
    const nn_winograd *wino = &pass->plan->wino;
    const int n_blocks = nn_conv_group_blocks(wino->dst_blocks, next->group);
    const int64_t block_floats = NN_CPU_BLOCK * NN_CPU_BLOCK * n_blocks;

    for (int64_t block = 0; block < wino->src_blocks; block++) {
        for (int place = 0; place < NN_WINO_PLACES; place++) {
            const nn_conv_outer outer = {
                .n_images = 1,
                .n_rows = 1,
                .n_cols = n_tiles,
                .x = v + place * wino->src_pitch + block * wino->src_tiles * NN_CPU_BLOCK,
                .x_col_pitch = NN_CPU_BLOCK,
                .dy = m + place * wino->dst_pitch,
                .dy_block_pitch = wino->tiles_per_part * NN_CPU_BLOCK,
                .sum = sums + (block * NN_WINO_PLACES + place) * block_floats};
            if (block == 0) fetch_next(pass, next, place);
            nn_conv_outer_block(&outer, n_blocks);
        }
    }
}

/* One input channel of a block and one block of outputs, to KCRS. */
static void write_channel(const gradient_pass *pass, int64_t k_block, int64_t c, const float *sum,
                          int64_t pitch)
{
    const nn_winograd *wino = &pass->plan->wino;
    const int64_t first = k_block * NN_CPU_BLOCK;
    const int64_t n = nn_cpu_least(NN_CPU_BLOCK, wino->dst_c - first);
    float taps[9 * NN_CPU_BLOCK];

    nn_wino_filter_adjoint(sum, pitch, taps);
    for (int64_t k = 0; k < n; k++) {
        float *to = pass->dfilter + ((first + k) * wino->src_c + c) * 9;
        for (int tap = 0; tap < 9; tap++) to[tap] = taps[tap * NN_CPU_BLOCK + k];
    }
}

/* sums: of one block of inputs and one group of outputs. */
static void write_block(const gradient_pass *pass, int64_t group, int64_t block, const float *sums)
{
    const nn_winograd *wino = &pass->plan->wino;
    const int n_blocks = nn_conv_group_blocks(wino->dst_blocks, group);
    const int64_t pitch = NN_CPU_BLOCK * NN_CPU_BLOCK * n_blocks;

    for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane++) {
        const int64_t c = block * NN_CPU_BLOCK + lane;
        for (int64_t j = 0; c < wino->src_c && j < n_blocks; j++) {
            write_channel(pass, group * NN_TILE_BLOCKS + j, c,
                          sums + (lane * n_blocks + j) * NN_CPU_BLOCK, pitch);
        }
    }
}

/* Floats between the sums of two groups of a part. */
static int64_t group_step(const nn_winograd_gradient *plan)
{
    return plan->sum_floats / plan->groups_per_part;
}

/* Floats of the sums of one block of inputs. */
static int64_t block_step(const nn_winograd *wino, int64_t group)
{
    return NN_WINO_PLACES * NN_CPU_BLOCK * NN_CPU_BLOCK *
           nn_conv_group_blocks(wino->dst_blocks, group);
}

static void sum_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const gradient_pass *pass = arg;
    const nn_winograd_gradient *plan = pass->plan;
    const nn_winograd *wino = &plan->wino;
    const nn_cpu_span groups = nn_cpu_part(nn_conv_n_groups(wino->dst_blocks),
                                           plan->groups_per_part, chunk_idx % plan->n_parts);
    const nn_cpu_span share = nn_cpu_part(wino->n_tiles, plan->tiles_per_share,
                                          chunk_idx / plan->n_parts);
    float *const v = pass->scratch + thread_idx * plan->scratch_floats;
    float *const m = v + NN_WINO_PLACES * wino->src_pitch;
    float *const sums = plan->total_floats > 0 ? pass->sums + chunk_idx * plan->sum_floats
                                               : m + NN_WINO_PLACES * wino->dst_pitch;

    memset(sums, 0, (size_t)plan->sum_floats * sizeof(float));
    for (int64_t i = 0; i < share.n; i += wino->tiles_per_part) {
        const nn_cpu_span tiles = {share.first + i,
                                   nn_cpu_least(wino->tiles_per_part, share.n - i)};
        nn_winograd_read_tiles(wino, pass->x, tiles, v);
        for (int64_t j = 0; j < groups.n; j++) {
            const int64_t group = groups.first + j;
            read_dy(pass, group, tiles, m);
            const int64_t first = tiles.first + tiles.n, end = share.first + share.n;
            const next_tiles next = {.group = group,
                                     .first = first,
                                     .end = nn_cpu_least(end, first + wino->tiles_per_part),
                                     .has_x = j == 0};
            add_products(pass, &next, tiles.n, v, m, sums + j * group_step(plan));
        }
    }
    for (int64_t j = 0; plan->total_floats == 0 && j < groups.n; j++) {
        const int64_t group = groups.first + j;
        for (int64_t block = 0; block < wino->src_blocks; block++) {
            write_block(pass, group, block,
                        sums + j * group_step(plan) + block * block_step(wino, group));
        }
    }
}

/* Adds up the shares of one group and one block of inputs. */
static void reduce_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const gradient_pass *pass = arg;
    const nn_winograd_gradient *plan = pass->plan;
    const nn_winograd *wino = &plan->wino;
    const int64_t group = chunk_idx / wino->src_blocks, block = chunk_idx % wino->src_blocks;
    const int64_t n = block_step(wino, group), step = plan->n_parts * plan->sum_floats;
    float *restrict sums = pass->sums + group / plan->groups_per_part * plan->sum_floats +
                           group % plan->groups_per_part * group_step(plan) + block * n;

    (void)thread_idx;
    for (int64_t share = 1; share < plan->n_shares; share++) {
        const float *restrict from = sums + share * step;
        for (int64_t i = 0; i < n; i++) sums[i] += from[i];
    }
    write_block(pass, group, block, sums);
}

void nn_winograd_gradient_run(nn_backend *backend, const nn_winograd_gradient *plan, const float *x,
                              const float *dy, float *dfilter, float *sums, float *scratch)
{
    gradient_pass pass = {
        .plan = plan, .x = x, .dy = dy, .dfilter = dfilter, .sums = sums, .scratch = scratch};

    nn_cpu_run(backend, plan->n_shares * plan->n_parts, sum_chunk, &pass);
    if (plan->total_floats > 0) {
        nn_cpu_run(backend, nn_conv_n_groups(plan->wino.dst_blocks) * plan->wino.src_blocks,
                   reduce_chunk, &pass);
    }
}
