#include "nn/backends/cpu/winograd_strided_internal.h"

#include "nn/backends/cpu/conv_outer_internal.h"
#include "nn/backends/cpu/conv_sweep_internal.h"

#include <string.h>

/* Work is cut as in winograd_gradient.c: into patches of the filter (some blocks of inputs and of
 * outputs), shares of the tiles and, where patches are large, steps: rows of filters, whose sums
 * are disjoint. Within a task a part of the tiles is transformed by rows of positions, so that what
 * is multiplied stays near. Sums of a (share, patch) are (filter, block of inputs, group of
 * outputs, 16, 16 * blocks of the group); shares are added in their order. */
enum {
    N_TASKS = 16,
    PART_TILES = 56,  /* that are transformed together */
    PATCH_BLOCKS = 8, /* of inputs, of outputs */
    SMALL_PATCH = 4,  /* blocks both ways, whose sums a core's cache holds */
    N = NN_STRIDED_FILTERS,
    N_FILTERS = N * N,
    MOST_PLACES = 2 * NN_STRIDED_LINE /* that are transformed together */
};

/* A step: sets of rows of positions that it makes, and rows of filters that it sums. */
enum { N_STEPS = 3 };
typedef struct gradient_step {
    int n_sets, sets[NN_STRIDED_ROW_SETS];
    int n_rows, rows[N];
} gradient_step;
static const gradient_step steps[N_STEPS] = {
    {4, {3, 4, 5, 6}, 1, {5}}, {2, {0, 2}, 3, {0, 1, 4}}, {1, {1}, 2, {2, 3}}};

/* Blocks of a patch: as equal as can be. */
static int64_t patch_blocks(int64_t n_blocks)
{
    const int64_t each = nn_cpu_div_up(n_blocks, nn_cpu_div_up(n_blocks, PATCH_BLOCKS));

    return nn_cpu_div_up(each, NN_TILE_BLOCKS) * NN_TILE_BLOCKS;
}

void nn_strided_gradient_plan(const nn_conv2d_geom *geom, nn_strided_gradient *out)
{
    memset(out, 0, sizeof *out);
    nn_strided_forward(geom, &out->plan);
    const nn_winograd *wino = &out->plan.wino;
    out->src_blocks = patch_blocks(wino->src_blocks);
    out->dst_blocks = patch_blocks(wino->dst_blocks);
    out->n_src_parts = nn_cpu_div_up(wino->src_blocks, out->src_blocks);
    out->n_dst_parts = nn_cpu_div_up(wino->dst_blocks, out->dst_blocks);

    const int64_t n_patches = out->n_src_parts * out->n_dst_parts;
    const int64_t extent = nn_cpu_most(out->src_blocks, out->dst_blocks);
    const int has_shares = n_patches < N_TASKS;
    out->steps_per_task = extent <= SMALL_PATCH || !has_shares ? N_STEPS : 1;
    out->sum_floats = N_FILTERS * out->src_blocks * out->dst_blocks * NN_CPU_BLOCK * NN_CPU_BLOCK;
    const int64_t n_shares = nn_cpu_div_up(N_TASKS * out->steps_per_task, n_patches * N_STEPS);
    out->tiles_per_part = PART_TILES;
    const int64_t n_parts = nn_strided_count_parts(&out->plan, wino->n, PART_TILES);
    out->parts_per_share = nn_cpu_div_up(n_parts, nn_cpu_least(n_shares, n_parts));
    out->n_shares = nn_cpu_div_up(n_parts, out->parts_per_share);
    out->src_set = nn_wino_set_of(out->src_blocks, PART_TILES, PART_TILES);
    out->dst_set = nn_wino_set_of(out->dst_blocks, PART_TILES, PART_TILES);
    out->scratch_floats = MOST_PLACES * (out->src_set.pitch + out->dst_set.pitch) +
                          N_FILTERS * NN_CPU_BLOCK * NN_CPU_BLOCK * NN_TILE_BLOCKS;
    /* Where sums lie depends on the geometry without the images, and their room grows with these: a
     * smaller batch must do with the workspace of a larger one. */
    if (has_shares) {
        out->total_floats = out->sum_floats * n_patches * nn_cpu_least(n_shares, n_parts);
    } else {
        out->scratch_floats += out->sum_floats;
    }
}

typedef struct gradient_pass {
    const nn_strided_gradient *plan;
    const float *x, *dy;
    float *dfilter, *sums, *scratch;
} gradient_pass;

/* A part of the filter: blocks of inputs and of outputs. */
typedef struct gradient_patch {
    nn_cpu_span src, dst;
} gradient_patch;

static gradient_patch patch_at(const nn_strided_gradient *plan, int64_t idx)
{
    const nn_winograd *wino = &plan->plan.wino;

    return (gradient_patch){
        nn_cpu_part(wino->src_blocks, plan->src_blocks, idx / plan->n_dst_parts),
        nn_cpu_part(wino->dst_blocks, plan->dst_blocks, idx % plan->n_dst_parts)};
}

/* --- Rows of positions ------------------------------------------------------------------------ */

/* The rows of a set, in tiles that are h high, and the filters that they belong to. */
typedef struct row_set {
    int n, rows[2], filters[2];
} row_set;

static row_set rows_of(int set, int h)
{
    if (set == 0) return (row_set){2, {0, 1}, {0, 1}};
    if (set == 1) return (row_set){2, {2, 3}, {2, 3}};
    if (set == 2) return (row_set){h == 4 ? 1 : 0, {4}, {4}};
    const int middle = set - NN_STRIDED_MIDDLE_ROWS;
    return (row_set){middle < h ? 1 : 0, {h + 1 + middle}, {NN_STRIDED_POINTS}};
}

/* Tiles of some blocks of x, or of dy, transformed: rows after each other from out on. */
static void read_rows(const gradient_pass *pass, const nn_strided_part *part, int set,
                      nn_cpu_span blocks, int is_dy, float *out)
{
    const nn_strided *plan = &pass->plan->plan;
    const nn_wino_set *to = is_dy ? &pass->plan->dst_set : &pass->plan->src_set;
    const nn_strided_kind *kind = &plan->kinds[part->kind];
    const nn_wino_blocks planes = {blocks.n, to->width * NN_CPU_BLOCK};
    const int64_t all = is_dy ? plan->wino.dst_blocks : plan->wino.src_blocks;
    const int line = 2 * kind->w + 1;
    const row_set rows = rows_of(set, kind->h);
    int64_t places[NN_STRIDED_PLACES];

    for (int i = 0; i < rows.n * line; i++) {
        places[rows.rows[i / line] * line + i % line] = i * to->pitch;
    }
    for (int64_t i = 0, n = 0; i < part->tiles.n; i += n) {
        const int64_t tile = part->tiles.first + i;
        const nn_strided_tiles tiles =
            is_dy ? nn_strided_dst_tiles(plan, kind, tile, part->tiles.n - i)
                  : nn_strided_src_tiles(plan, kind, tile, part->tiles.n - i);
        const int64_t plane = tiles.plane_h * tiles.plane_w * NN_CPU_BLOCK;
        const float *from = (is_dy ? pass->dy : pass->x) +
                            (tiles.image * all + blocks.first) * plane;
        nn_strided_input(from, &tiles, &planes, is_dy ? NN_STRIDED_Y : NN_STRIDED_X, set, places,
                         out + i * NN_CPU_BLOCK);
        n = tiles.n;
    }
}

/* Floats of the sums of a block of inputs and a group of outputs for a filter. */
enum { GROUP_SUMS = NN_CPU_BLOCK * NN_CPU_BLOCK * NN_TILE_BLOCKS };

static int64_t sums_at(const nn_strided_gradient *plan, int filter, int64_t block, int64_t group)
{
    const int64_t n_groups = plan->dst_blocks / NN_TILE_BLOCKS;

    return ((filter * plan->src_blocks + block) * n_groups + group) * GROUP_SUMS;
}

/* A row of positions, by one filter after the other; v, m: the row's. The positions of the middle
 * tap are added up as if they were more rows of pixels. */
static void add_row(const nn_strided_gradient *plan, const gradient_patch *patch,
                    const nn_strided_part *part, int filter_row, const float *v, const float *m,
                    float *sums)
{
    const int64_t width = plan->tiles_per_part * NN_CPU_BLOCK;
    const int w = plan->plan.kinds[part->kind].w;
    nn_conv_outer outer = {.n_images = 1,
                           .n_cols = part->tiles.n,
                           .x_row_pitch = plan->src_set.pitch,
                           .x_col_pitch = NN_CPU_BLOCK,
                           .dy_row_pitch = plan->dst_set.pitch,
                           .dy_block_pitch = width};

    for (int i = 0; i < N; i++) {
        const int is_middle = i == NN_STRIDED_POINTS;
        const int first = is_middle ? w + 1 : i;
        outer.n_rows = is_middle ? w : 1;
        if (!is_middle && i > w) continue;
        for (int64_t block = 0; block < patch->src.n; block++) {
            outer.x = v + first * plan->src_set.pitch + block * width;
            for (int64_t group = 0; group < nn_conv_n_groups(patch->dst.n); group++) {
                outer.dy = m + first * plan->dst_set.pitch + group * NN_TILE_BLOCKS * width;
                outer.sum = sums + sums_at(plan, filter_row * N + i, block, group);
                nn_conv_outer_block(&outer, nn_conv_group_blocks(patch->dst.n, group));
            }
        }
    }
}

/* --- From sums to KCRS ------------------------------------------------------------------------ */

/* A task's place in the filter's gradient: a block of inputs and a group of outputs of a patch. */
typedef struct gradient_block {
    int64_t patch, src, group;
} gradient_block;

/* sums: (filter, 16, 16 * blocks of the group). */
static void write_block(const gradient_pass *pass, const gradient_block *block, const float *sums)
{
    const nn_strided_gradient *plan = pass->plan;
    const nn_winograd *wino = &plan->plan.wino;
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
            nn_strided_filter_adjoint(sums + c * n_blocks * NN_CPU_BLOCK + k, GROUP_SUMS, taps);
            nn_wino_scatter_taps(taps, n, wino->src_c * 9, to);
        }
    }
}

/* The sums of a block, from all shares, to its place in the filter; sums: of the first share. */
static void reduce_block(const gradient_pass *pass, const gradient_block *block, const float *sums,
                         int64_t n_shares, float *gathered)
{
    const nn_strided_gradient *plan = pass->plan;
    const int64_t share_floats = plan->n_src_parts * plan->n_dst_parts * plan->sum_floats;

    for (int i = 0; i < N_FILTERS; i++) {
        const float *restrict from = sums + sums_at(plan, i, block->src, block->group);
        float *restrict to = gathered + i * GROUP_SUMS;
        memcpy(to, from, GROUP_SUMS * sizeof(float));
        for (int64_t share = 1; share < n_shares; share++) {
            from += share_floats;
            for (int64_t j = 0; j < GROUP_SUMS; j++) to[j] += from[j];
        }
    }
    write_block(pass, block, gathered);
}

/* --- Tasks ------------------------------------------------------------------------------------ */

static void clear_sums(const nn_strided_gradient *plan, const gradient_step *step, float *sums)
{
    const int64_t n = plan->sum_floats / N;

    for (int i = 0; i < step->n_rows; i++) {
        memset(sums + step->rows[i] * n, 0, (size_t)n * sizeof(float));
    }
}

/* A part of the tiles, for a step. */
static void add_part(const gradient_pass *pass, const gradient_patch *patch,
                     const nn_strided_part *part, const gradient_step *step, float *scratch,
                     float *sums)
{
    const nn_strided_gradient *plan = pass->plan;
    const nn_strided_kind *kind = &plan->plan.kinds[part->kind];
    float *const v = scratch, *const m = scratch + MOST_PLACES * plan->src_set.pitch;

    for (int i = 0; i < step->n_sets; i++) {
        const row_set rows = rows_of(step->sets[i], kind->h);
        if (rows.n == 0) continue;
        read_rows(pass, part, step->sets[i], patch->src, 0, v);
        read_rows(pass, part, step->sets[i], patch->dst, 1, m);
        for (int j = 0; j < rows.n; j++) {
            const int first = j * (2 * kind->w + 1);
            add_row(plan, patch, part, rows.filters[j], v + first * plan->src_set.pitch,
                    m + first * plan->dst_set.pitch, sums);
        }
    }
}

static void sum_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const gradient_pass *pass = arg;
    const nn_strided_gradient *plan = pass->plan;
    const int64_t n_images = plan->plan.wino.n, n_patches = plan->n_src_parts * plan->n_dst_parts;
    const int64_t tasks_per_patch = N_STEPS / plan->steps_per_task;
    const int64_t share_patch = chunk_idx / tasks_per_patch;
    const int first_step = (int)(chunk_idx % tasks_per_patch) * plan->steps_per_task;
    const gradient_patch patch = patch_at(plan, share_patch % n_patches);
    const nn_cpu_span parts = nn_cpu_part(
        nn_strided_count_parts(&plan->plan, n_images, plan->tiles_per_part), plan->parts_per_share,
        share_patch / n_patches);
    float *const scratch = pass->scratch + thread_idx * plan->scratch_floats;
    float *const gathered = scratch + MOST_PLACES * (plan->src_set.pitch + plan->dst_set.pitch);
    float *const sums = plan->total_floats == 0 ? gathered + N_FILTERS * GROUP_SUMS
                                                : pass->sums + share_patch * plan->sum_floats;

    for (int j = 0; j < plan->steps_per_task; j++) clear_sums(plan, &steps[first_step + j], sums);
    for (int64_t i = 0; i < parts.n; i++) {
        const nn_strided_part part = nn_strided_find_part(&plan->plan, n_images,
                                                          plan->tiles_per_part, parts.first + i);
        for (int j = 0; j < plan->steps_per_task; j++) {
            add_part(pass, &patch, &part, &steps[first_step + j], scratch, sums);
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
    const nn_strided_gradient *plan = pass->plan;
    const int64_t n_groups = plan->dst_blocks / NN_TILE_BLOCKS;
    const gradient_block block = {chunk_idx / (n_groups * plan->src_blocks),
                                  chunk_idx / n_groups % plan->src_blocks, chunk_idx % n_groups};
    const gradient_patch patch = patch_at(plan, block.patch);
    float *const scratch = pass->scratch + thread_idx * plan->scratch_floats;
    float *const gathered = scratch + MOST_PLACES * (plan->src_set.pitch + plan->dst_set.pitch);

    if (block.src >= patch.src.n || block.group * NN_TILE_BLOCKS >= patch.dst.n) return;
    reduce_block(pass, &block, pass->sums + block.patch * plan->sum_floats, plan->n_shares,
                 gathered);
}

void nn_strided_gradient_run(nn_backend *backend, const nn_strided_gradient *plan, const float *x,
                             const float *dy, float *dfilter, float *sums, float *scratch)
{
    const int64_t n_patches = plan->n_src_parts * plan->n_dst_parts;
    gradient_pass pass = {
        .plan = plan, .x = x, .dy = dy, .dfilter = dfilter, .sums = sums, .scratch = scratch};

    nn_cpu_run(backend, plan->n_shares * n_patches * (N_STEPS / plan->steps_per_task), sum_chunk,
               &pass);
    if (plan->total_floats > 0) {
        nn_cpu_run(backend, n_patches * plan->src_blocks * (plan->dst_blocks / NN_TILE_BLOCKS),
                   reduce_chunk, &pass);
    }
}
