#include "nn/backends/cpu/winograd_internal.h"

#include "nn/backends/cpu/conv_outer_internal.h"
#include "nn/backends/cpu/conv_sweep_internal.h"
#include "nn/backends/cpu/winograd_tile_internal.h"

#include <string.h>

/* Work is cut into patches of the filter (some blocks of inputs and of outputs), shares of the
 * tiles and, unless a patch is small, thirds of the positions: both the sums and the transformed
 * tiles of a third stay in a core's cache, and no transform is done twice for the sake of thirds.
 * They are tasks of their own where a patch is large, or tiles are too few for shares. Sums of a
 * (share, patch, third) are (position, block of inputs, group of outputs, 16, 16 * blocks of the
 * group); shares are added in their order. */
enum {
    N_TASKS = 12,
    PART_TILES = 56,  /* that are transformed together */
    PATCH_BLOCKS = 8, /* of inputs, of outputs */
    SMALL_PATCH = 2,  /* blocks both ways, whose sums and transformed tiles a core's cache holds */
    MIDDLE_PATCH = 4, /* the sums alone */
    SHARE_TILES = 112 /* at least: a share's sums are written, read and added for them */
};

/* Blocks of a patch: as equal as can be. */
static int64_t patch_blocks(int64_t n_blocks)
{
    const int64_t each = nn_cpu_div_up(n_blocks, nn_cpu_div_up(n_blocks, PATCH_BLOCKS));

    return nn_cpu_div_up(each, NN_TILE_BLOCKS) * NN_TILE_BLOCKS;
}

void nn_winograd_gradient_plan(const nn_conv2d_geom *geom, nn_winograd_gradient *out)
{
    memset(out, 0, sizeof *out);
    nn_winograd *wino = &out->wino;
    nn_winograd_forward(geom, wino);
    out->src_blocks = patch_blocks(wino->src_blocks);
    out->dst_blocks = patch_blocks(wino->dst_blocks);
    out->n_src_parts = nn_cpu_div_up(wino->src_blocks, out->src_blocks);
    out->n_dst_parts = nn_cpu_div_up(wino->dst_blocks, out->dst_blocks);

    const int64_t n_patches = out->n_src_parts * out->n_dst_parts;
    const int64_t extent = nn_cpu_most(out->src_blocks, out->dst_blocks);
    const int has_shares = n_patches < N_TASKS;
    out->n_steps = extent <= SMALL_PATCH ? 1 : NN_WINO_N_THIRDS;
    out->places_per_step = NN_WINO_PLACES / out->n_steps;
    const int64_t wanted = nn_cpu_div_up(N_TASKS, n_patches);
    const int64_t most = nn_cpu_most(1, wino->n_tiles / SHARE_TILES);
    const int is_by_steps = has_shares && (extent > MIDDLE_PATCH || most < wanted);
    out->steps_per_task = is_by_steps ? 1 : out->n_steps;
    /* One line more than there is data: 36 positions at a power of two would share a cache set. */
    out->sum_pitch = (out->src_blocks * out->dst_blocks * NN_CPU_BLOCK + 1) * NN_CPU_BLOCK;
    out->sum_floats = out->places_per_step * out->sum_pitch;
    const int64_t n_shares = nn_cpu_least(
        most, nn_cpu_div_up(N_TASKS * out->steps_per_task, n_patches * out->n_steps));
    out->tiles_per_part = nn_cpu_least(PART_TILES, wino->n_tiles);
    const int64_t n_parts = nn_cpu_div_up(wino->n_tiles, out->tiles_per_part);
    out->tiles_per_share = nn_cpu_div_up(n_parts, nn_cpu_least(n_shares, n_parts)) *
                           out->tiles_per_part;
    out->n_shares = nn_cpu_div_up(wino->n_tiles, out->tiles_per_share);
    out->src_set = nn_wino_set_of(out->src_blocks, out->tiles_per_part, out->tiles_per_part);
    out->dst_set = nn_wino_set_of(out->dst_blocks, out->tiles_per_part, out->tiles_per_part);
    out->scratch_floats = out->places_per_step * (out->src_set.pitch + out->dst_set.pitch) +
                          NN_WINO_PLACES * NN_CPU_BLOCK * NN_CPU_BLOCK * NN_TILE_BLOCKS;
    /* Where sums lie depends on the geometry without the images, and their room grows with these: a
     * smaller batch must do with the workspace of a larger one. */
    if (has_shares) {
        out->total_floats = out->n_steps * out->sum_floats * n_patches *
                            nn_cpu_least(n_shares, n_parts);
    } else {
        out->scratch_floats += out->n_steps * out->sum_floats;
    }
}

typedef struct gradient_pass {
    const nn_winograd_gradient *plan;
    const float *x, *dy;
    float *dfilter, *sums, *scratch;
} gradient_pass;

/* A part of the filter: blocks of inputs and of outputs. */
typedef struct gradient_patch {
    nn_cpu_span src, dst;
} gradient_patch;

static gradient_patch patch_at(const nn_winograd_gradient *plan, int64_t idx)
{
    return (gradient_patch){
        nn_cpu_part(plan->wino.src_blocks, plan->src_blocks, idx / plan->n_dst_parts),
        nn_cpu_part(plan->wino.dst_blocks, plan->dst_blocks, idx % plan->n_dst_parts)};
}

static void read_x(const gradient_pass *pass, nn_cpu_span blocks, nn_cpu_span tiles, int third,
                   float *out)
{
    const nn_winograd *wino = &pass->plan->wino;
    const nn_wino_set *set = &pass->plan->src_set;
    const int64_t plane = wino->src_h * wino->src_w * NN_CPU_BLOCK;
    const nn_wino_blocks planes = {blocks.n, set->width * NN_CPU_BLOCK};

    for (int64_t i = 0, n = 0; i < tiles.n; i += n) {
        const nn_wino_run run = nn_winograd_src_run(wino, tiles.first + i, tiles.n - i);
        nn_wino_input(pass->x + (run.image * wino->src_blocks + blocks.first) * plane, &run,
                      &planes, third, out + i * NN_CPU_BLOCK, set->pitch);
        n = run.n;
    }
}

static void read_dy(const gradient_pass *pass, nn_cpu_span blocks, nn_cpu_span tiles, int third,
                    float *out)
{
    const nn_winograd *wino = &pass->plan->wino;
    const nn_wino_set *set = &pass->plan->dst_set;
    const int64_t plane = wino->dst_h * wino->dst_w * NN_CPU_BLOCK;
    const nn_wino_blocks planes = {blocks.n, set->width * NN_CPU_BLOCK};

    for (int64_t i = 0, n = 0; i < tiles.n; i += n) {
        const nn_wino_run run = nn_winograd_dst_run(wino, tiles.first + i, tiles.n - i);
        nn_wino_output_adjoint(pass->dy + (run.image * wino->dst_blocks + blocks.first) * plane,
                               &run, &planes, third, out + i * NN_CPU_BLOCK, set->pitch);
        n = run.n;
    }
}

/* Floats of the sums of a block of inputs and a group of outputs at a position. */
enum { GROUP_SUMS = NN_CPU_BLOCK * NN_CPU_BLOCK * NN_TILE_BLOCKS };

static int64_t sums_at(const nn_winograd_gradient *plan, int place, int64_t block, int64_t group)
{
    const int64_t n_groups = plan->dst_blocks / NN_TILE_BLOCKS;

    return place * plan->sum_pitch + (block * n_groups + group) * GROUP_SUMS;
}

/* What is multiplied together: tiles of a patch, from a position on, and what is fetched meanwhile.
 */
typedef struct gradient_step {
    gradient_patch patch;
    nn_cpu_span tiles, next;
    int first_place;
    int is_new; /* the first of its sums */
} gradient_step;

/* sums (+)= products of the transformed tiles. */
static void add_products(const gradient_pass *pass, const gradient_step *step, const float *v,
                         const float *m, float *sums)
{
    const nn_winograd_gradient *plan = pass->plan;
    const gradient_patch *patch = &step->patch;
    const int64_t width = plan->tiles_per_part * NN_CPU_BLOCK;
    const int64_t n_groups = nn_conv_n_groups(patch->dst.n);
    nn_conv_outer outer = {.n_images = 1,
                           .n_rows = 1,
                           .x_col_pitch = NN_CPU_BLOCK,
                           .dy_block_pitch = width,
                           .is_new = step->is_new};

    nn_wino_fetch x = nn_winograd_fetch_src(&plan->wino, pass->x, step->next, patch->src);
    nn_wino_fetch dy = nn_winograd_fetch_dst(&plan->wino, pass->dy, step->next, patch->dst, 0);
    const int64_t n_products = plan->places_per_step * patch->src.n * n_groups;
    /* With many channels a cache would lose them again: the transform fetches for itself. */
    const int fetches = plan->steps_per_task == plan->n_steps && plan->total_floats > 0;
    const int64_t n_x = fetches ? nn_cpu_div_up(nn_winograd_fetch_n(&x), n_products) : 0;
    const int64_t n_dy = fetches ? nn_cpu_div_up(nn_winograd_fetch_n(&dy), n_products) : 0;

    for (int place = 0; place < plan->places_per_step; place++) {
        const nn_cpu_span having = nn_winograd_having(&plan->wino, step->tiles,
                                                      step->first_place + place);
        const int64_t skipped = (having.first - step->tiles.first) * NN_CPU_BLOCK;
        outer.n_cols = having.n;
        for (int64_t i = 0; i < patch->src.n; i++) {
            outer.x = v + place * plan->src_set.pitch + i * width + skipped;
            for (int64_t j = 0; j < n_groups; j++) {
                outer.dy = m + place * plan->dst_set.pitch + j * NN_TILE_BLOCKS * width + skipped;
                outer.sum = sums + sums_at(plan, place, i, j);
                nn_winograd_fetch(&x, n_x);
                nn_winograd_fetch(&dy, n_dy);
                nn_conv_outer_block(&outer, nn_conv_group_blocks(patch->dst.n, j));
            }
        }
    }
}

/* A task's place in the filter's gradient: a block of inputs and a group of outputs of a patch. */
typedef struct gradient_block {
    int64_t patch, src, group;
} gradient_block;

/* sums: (position, 16, 16 * blocks of the group), positions a pitch apart. */
static void write_block(const gradient_pass *pass, const gradient_block *block, const float *sums,
                        int64_t pitch)
{
    const nn_winograd_gradient *plan = pass->plan;
    const nn_winograd *wino = &plan->wino;
    const gradient_patch patch = patch_at(plan, block->patch);
    const int n_blocks = nn_conv_group_blocks(patch.dst.n, block->group);
    const int64_t first_k = (patch.dst.first + block->group * NN_TILE_BLOCKS) * NN_CPU_BLOCK;
    const int64_t first_c = (patch.src.first + block->src) * NN_CPU_BLOCK;
    const int64_t n_k = nn_cpu_least(n_blocks * NN_CPU_BLOCK, wino->dst_c - first_k);
    const int64_t n_c = nn_cpu_least(NN_CPU_BLOCK, wino->src_c - first_c);
    float taps[9 * NN_CPU_BLOCK];

    for (int64_t c = 0; c < n_c; c++) {
        for (int64_t k = 0; k < n_k; k += NN_CPU_BLOCK) {
            const int64_t n = nn_cpu_least(NN_CPU_BLOCK, n_k - k);
            float *to = pass->dfilter + ((first_k + k) * wino->src_c + first_c + c) * 9;
            nn_wino_filter_adjoint(sums + c * n_blocks * NN_CPU_BLOCK + k, pitch, taps);
            nn_wino_scatter_taps(taps, n, wino->src_c * 9, to);
        }
    }
}

/* The sums of a block, from all shares, to its place in the filter; sums: of the first share. */
static void reduce_block(const gradient_pass *pass, const gradient_block *block, const float *sums,
                         int64_t n_shares, float *gathered)
{
    const nn_winograd_gradient *plan = pass->plan;
    const int64_t share_floats = plan->n_src_parts * plan->n_dst_parts * plan->n_steps *
                                 plan->sum_floats;

    sums += sums_at(plan, 0, block->src, block->group);
    if (n_shares == 1) {
        write_block(pass, block, sums, plan->sum_pitch);
        return;
    }
    for (int place = 0; place < NN_WINO_PLACES; place++) {
        const float *restrict from = sums + place * plan->sum_pitch;
        float *restrict to = gathered + place * GROUP_SUMS;
        memcpy(to, from, GROUP_SUMS * sizeof(float));
        for (int64_t share = 1; share < n_shares; share++) {
            from += share_floats;
            for (int64_t i = 0; i < GROUP_SUMS; i++) to[i] += from[i];
        }
    }
    write_block(pass, block, gathered, GROUP_SUMS);
}

static void sum_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const gradient_pass *pass = arg;
    const nn_winograd_gradient *plan = pass->plan;
    const int64_t n_patches = plan->n_src_parts * plan->n_dst_parts;
    const int64_t tasks_per_patch = plan->n_steps / plan->steps_per_task;
    const int64_t share_patch = chunk_idx / tasks_per_patch;
    const int first_step = (int)(chunk_idx % tasks_per_patch) * plan->steps_per_task;
    const gradient_patch patch = patch_at(plan, share_patch % n_patches);
    const nn_cpu_span share = nn_cpu_part(plan->wino.n_tiles, plan->tiles_per_share,
                                          share_patch / n_patches);
    float *const v = pass->scratch + thread_idx * plan->scratch_floats;
    float *const m = v + plan->places_per_step * plan->src_set.pitch;
    float *const gathered = m + plan->places_per_step * plan->dst_set.pitch;
    float *const local = gathered + NN_WINO_PLACES * GROUP_SUMS;
    float *const sums = plan->total_floats == 0
                            ? local
                            : pass->sums +
                                  (share_patch * plan->n_steps + first_step) * plan->sum_floats;

    /* The next share is likely this thread's, too. */
    const nn_cpu_span near = n_patches == 1 ? (nn_cpu_span){0, plan->wino.n_tiles} : share;
    for (int64_t i = 0; i < share.n; i += plan->tiles_per_part) {
        gradient_step step = {.patch = patch, .is_new = i == 0};
        step.tiles = (nn_cpu_span){share.first + i,
                                   nn_cpu_least(plan->tiles_per_part, share.n - i)};
        for (int j = 0; j < plan->steps_per_task; j++) {
            const int third = plan->n_steps == 1 ? NN_WINO_ALL : first_step + j;
            step.first_place = (first_step + j) * plan->places_per_step;
            if (j == plan->steps_per_task - 1) {
                step.next = nn_cpu_common(
                    near, (nn_cpu_span){step.tiles.first + step.tiles.n, plan->tiles_per_part});
            }
            read_x(pass, patch.src, step.tiles, third, v);
            read_dy(pass, patch.dst, step.tiles, third, m);
            add_products(pass, &step, v, m, sums + j * plan->sum_floats);
        }
    }
    for (int64_t i = 0; plan->total_floats == 0 && i < patch.src.n; i++) {
        for (int64_t j = 0; j < nn_conv_n_groups(patch.dst.n); j++) {
            reduce_block(pass, &(gradient_block){share_patch, i, j}, sums, 1, gathered);
        }
    }
}

/* Adds up the shares of one group and one block of inputs. */
static void reduce_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const gradient_pass *pass = arg;
    const nn_winograd_gradient *plan = pass->plan;
    const int64_t n_groups = plan->dst_blocks / NN_TILE_BLOCKS;
    const gradient_block block = {chunk_idx / (n_groups * plan->src_blocks),
                                  chunk_idx / n_groups % plan->src_blocks, chunk_idx % n_groups};
    const gradient_patch patch = patch_at(plan, block.patch);
    float *const v = pass->scratch + thread_idx * plan->scratch_floats;
    float *const gathered = v + plan->places_per_step * (plan->src_set.pitch + plan->dst_set.pitch);

    if (block.src >= patch.src.n || block.group * NN_TILE_BLOCKS >= patch.dst.n) return;
    reduce_block(pass, &block, pass->sums + block.patch * plan->n_steps * plan->sum_floats,
                 plan->n_shares, gathered);
}

void nn_winograd_gradient_run(nn_backend *backend, const nn_winograd_gradient *plan, const float *x,
                              const float *dy, float *dfilter, float *sums, float *scratch)
{
    const int64_t n_patches = plan->n_src_parts * plan->n_dst_parts;
    gradient_pass pass = {
        .plan = plan, .x = x, .dy = dy, .dfilter = dfilter, .sums = sums, .scratch = scratch};

    nn_cpu_run(backend, plan->n_shares * n_patches * (plan->n_steps / plan->steps_per_task),
               sum_chunk, &pass);
    if (plan->total_floats > 0) {
        nn_cpu_run(backend, n_patches * plan->src_blocks * (plan->dst_blocks / NN_TILE_BLOCKS),
                   reduce_chunk, &pass);
    }
}
