#include "nn/backends/cpu/conv_gradient_internal.h"

#include "nn/backends/cpu/conv2d_internal.h"
#include "nn/backends/cpu/conv_outer_internal.h"
#include "nn/backends/cpu/layout_internal.h"

#include <string.h>

enum {
    N_TASKS = 32,      /* enough for the threads of any machine that one net is run on */
    STEP_PIXELS = 256, /* of one block of x and two of dy: 48 KiB */
    PART_BLOCKS = 4    /* of x, that meet the same dy while it is in the cache */
};

static int is_planes(const nn_conv_gradient *plan)
{
    return plan->sweep.lanes == 1;
}

static void cut_steps(nn_conv_gradient *plan)
{
    const nn_conv2d_geom *geom = plan->geom;
    const int64_t image_px = geom->p * geom->q;

    plan->images_per_step = is_planes(plan) ? 1 : nn_cpu_most(1, STEP_PIXELS / image_px);
    plan->rows_per_step = nn_cpu_least(geom->p, nn_cpu_most(1, STEP_PIXELS / geom->q));
    plan->rows_per_band = is_planes(plan) && !plan->sweep.is_direct ? plan->sweep.rows_per_band
                                                                    : geom->p;
    plan->rows_per_step = nn_cpu_least(plan->rows_per_step, plan->rows_per_band);
}

void nn_conv_gradient_plan(const nn_conv2d_geom *geom, nn_conv_gradient *out)
{
    memset(out, 0, sizeof *out);
    out->geom = geom;
    nn_conv_sweep_forward(geom, &out->sweep);
    out->n_groups = nn_conv_n_groups(nn_cpu_blocks(geom->k));
    if (is_planes(out)) {
        const int64_t n = geom->c * geom->r * geom->s;
        const int64_t most = 2 * nn_conv_outer_n_taps(2); /* a multiple of both counts */
        out->n_parts = 1;
        out->n_inputs = nn_cpu_div_up(n, most) * most;
    } else {
        out->c_blocks_per_part = nn_cpu_least(PART_BLOCKS, nn_cpu_blocks(geom->c));
        out->n_parts = nn_cpu_div_up(nn_cpu_blocks(geom->c), out->c_blocks_per_part);
        out->n_inputs = out->c_blocks_per_part * geom->r * geom->s * NN_CPU_BLOCK;
    }
    cut_steps(out);
    const int64_t n_shares = nn_cpu_div_up(N_TASKS, out->n_groups * out->n_parts);
    out->images_per_share = nn_cpu_div_up(geom->n, nn_cpu_least(n_shares, geom->n));
    out->n_shares = nn_cpu_div_up(geom->n, out->images_per_share);
    out->sum_floats = out->n_inputs * NN_CPU_BLOCK * NN_TILE_BLOCKS;
    /* Where sums lie depends on the geometry without the images, and their room grows with these: a
     * smaller batch must do with the workspace of a larger one. */
    if (n_shares > 1) {
        out->total_floats = out->sum_floats * nn_cpu_least(n_shares, geom->n) * out->n_groups *
                            out->n_parts;
    } else {
        out->scratch_floats = out->sum_floats;
    }
    if (is_planes(out)) out->scratch_floats += out->sweep.src_blocks * out->sweep.block_floats;
}

typedef struct gradient_pass {
    const nn_conv_gradient *plan;
    const float *x, *dy;
    float *dfilter, *sums, *scratch;
} gradient_pass;

/* A task's place: group, part, and images. */
typedef struct task_place {
    int64_t group, part;
    int n_blocks; /* of output channels */
    nn_cpu_span images;
} task_place;

/* --- Inputs in blocks ------------------------------------------------------------------------- */

/* One tap and one block of x over some rows of some images. The sum is over pixels at which the tap
 * is inside. */
static void add_tap(const gradient_pass *pass, const task_place *task, nn_cpu_span images,
                    nn_cpu_span rows, int64_t c_block, int64_t tap_idx, float *sum)
{
    const nn_conv2d_geom *geom = pass->plan->geom;
    const int64_t h = tap_idx / geom->s * geom->dil_h - geom->pad_h;
    const int64_t w = tap_idx % geom->s * geom->dil_w - geom->pad_w;
    const nn_cpu_span in_h = nn_cpu_conv_reach(h, geom->stride_h, geom->h, geom->p);
    const nn_cpu_span cols = nn_cpu_conv_reach(w, geom->stride_w, geom->w, geom->q);
    const int64_t row = nn_cpu_most(rows.first, in_h.first);
    const int64_t end = nn_cpu_least(rows.first + rows.n, in_h.first + in_h.n);
    const int64_t x_plane = geom->h * geom->w * NN_CPU_BLOCK;
    const int64_t dy_plane = geom->p * geom->q * NN_CPU_BLOCK;
    const int64_t c_blocks = nn_cpu_blocks(geom->c), k_blocks = nn_cpu_blocks(geom->k);

    if (row >= end || cols.n == 0) return;
    const nn_conv_outer outer = {
        .n_images = images.n,
        .n_rows = end - row,
        .n_cols = cols.n,
        .x = pass->x + (images.first * c_blocks + c_block) * x_plane +
             ((row * geom->stride_h + h) * geom->w + cols.first * geom->stride_w + w) *
                 NN_CPU_BLOCK,
        .x_image_pitch = c_blocks * x_plane,
        .x_row_pitch = geom->stride_h * geom->w * NN_CPU_BLOCK,
        .x_col_pitch = geom->stride_w * NN_CPU_BLOCK,
        .dy = pass->dy + (images.first * k_blocks + task->group * NN_TILE_BLOCKS) * dy_plane +
              (row * geom->q + cols.first) * NN_CPU_BLOCK,
        .dy_image_pitch = k_blocks * dy_plane,
        .dy_row_pitch = geom->q * NN_CPU_BLOCK,
        .dy_block_pitch = dy_plane,
        .sum = sum};
    nn_conv_outer_block(&outer, task->n_blocks);
}

static void add_step(const gradient_pass *pass, const task_place *task, nn_cpu_span images,
                     nn_cpu_span rows, float *sums)
{
    const nn_conv_gradient *plan = pass->plan;
    const int64_t n_taps = plan->geom->r * plan->geom->s;
    const int64_t tap_floats = NN_CPU_BLOCK * NN_CPU_BLOCK * task->n_blocks;
    const nn_cpu_span blocks = nn_cpu_part(nn_cpu_blocks(plan->geom->c), plan->c_blocks_per_part,
                                           task->part);

    for (int64_t block = 0; block < blocks.n; block++) {
        for (int64_t tap = 0; tap < n_taps; tap++) {
            add_tap(pass, task, images, rows, blocks.first + block, tap,
                    sums + (block * n_taps + tap) * tap_floats);
        }
    }
}

/* --- Inputs in planes ------------------------------------------------------------------------- */

/* Floats of x, or of its copy, from one output row to the next. */
static int64_t planes_row_floats(const nn_conv_gradient *plan)
{
    return plan->sweep.is_direct ? plan->geom->q : plan->sweep.src_step_h * plan->sweep.row_floats;
}

/* x: the first pixel of these rows, in the copy or in x itself. */
static void add_planes_step(const gradient_pass *pass, const task_place *task, int64_t image,
                            nn_cpu_span rows, const float *x, float *sums)
{
    const nn_conv_gradient *plan = pass->plan;
    const nn_conv_sweep *sweep = &plan->sweep;
    const int64_t dy_plane = plan->geom->p * plan->geom->q * NN_CPU_BLOCK;
    const int64_t k_blocks = nn_cpu_blocks(plan->geom->k);
    const int n_taps = nn_conv_outer_n_taps(task->n_blocks);
    const int64_t n_inputs = sweep->src_c * sweep->n_taps;
    nn_conv_outer outer = {.n_images = 1,
                           .n_rows = rows.n,
                           .n_cols = plan->geom->q,
                           .x = x,
                           .x_row_pitch = planes_row_floats(plan),
                           .dy = pass->dy +
                                 (image * k_blocks + task->group * NN_TILE_BLOCKS) * dy_plane +
                                 rows.first * plan->geom->q * NN_CPU_BLOCK,
                           .dy_row_pitch = plan->geom->q * NN_CPU_BLOCK,
                           .dy_block_pitch = dy_plane};

    for (int64_t first = 0; first < n_inputs; first += n_taps) {
        int64_t offset[2 * NN_OUTER_TAPS_TWO];
        for (int i = 0; i < n_taps; i++) { /* what is past the end is computed and not used */
            const int64_t input = nn_cpu_least(first + i, n_inputs - 1);
            offset[i] = input / sweep->n_taps * sweep->block_floats +
                        sweep->taps[input % sweep->n_taps].offset;
        }
        outer.sum = sums + first * NN_CPU_BLOCK * task->n_blocks;
        nn_conv_outer_taps(&outer, task->n_blocks, offset);
    }
}

/* --- From sums to KCRS -------------------------------------------------------------------------
 */

/* sums: of one group and part. */
static void write_filter(const gradient_pass *pass, const task_place *task, const float *sums)
{
    const nn_conv_gradient *plan = pass->plan;
    const nn_conv2d_geom *geom = plan->geom;
    const int64_t n_taps = geom->r * geom->s, lanes = plan->sweep.lanes;
    const int64_t first_k = task->group * NN_TILE_BLOCKS * NN_CPU_BLOCK;
    const int64_t n_k = nn_cpu_least(task->n_blocks * NN_CPU_BLOCK, geom->k - first_k);
    const int64_t first_c = task->part * plan->c_blocks_per_part * NN_CPU_BLOCK;
    const int64_t n_c = is_planes(plan) ? geom->c
                                        : nn_cpu_least(plan->c_blocks_per_part * NN_CPU_BLOCK,
                                                       geom->c - first_c);
    const int64_t width = task->n_blocks * NN_CPU_BLOCK;

    for (int64_t k = 0; k < n_k; k++) {
        float *to = pass->dfilter + ((first_k + k) * geom->c + first_c) * n_taps;
        for (int64_t c = 0; c < n_c; c++) {
            const float *from = sums + (c / lanes * n_taps * lanes + c % lanes) * width + k;
            for (int64_t tap = 0; tap < n_taps; tap++) *to++ = from[tap * lanes * width];
        }
    }
}

static task_place place_task(const nn_conv_gradient *plan, int64_t task_idx)
{
    const int64_t in_share = task_idx % (plan->n_groups * plan->n_parts);
    task_place task = {.group = in_share / plan->n_parts, .part = in_share % plan->n_parts};

    task.n_blocks = nn_conv_group_blocks(nn_cpu_blocks(plan->geom->k), task.group);
    task.images = nn_cpu_part(plan->geom->n, plan->images_per_share,
                              task_idx / (plan->n_groups * plan->n_parts));
    return task;
}

/* Some rows of some images, step by step. */
static void add_band(const gradient_pass *pass, const task_place *task, nn_cpu_span images,
                     nn_cpu_span band, float *copy, float *sums)
{
    const nn_conv_gradient *plan = pass->plan;
    const nn_conv_sweep *sweep = &plan->sweep;
    const float *x = copy;

    if (is_planes(plan) && sweep->is_direct) {
        x = pass->x + images.first * sweep->src_blocks * sweep->block_floats;
    } else if (is_planes(plan)) {
        nn_conv_sweep_copy(sweep, pass->x, images.first, band.first, band.n, copy);
    }
    for (int64_t i = 0; i < band.n; i += plan->rows_per_step) {
        const nn_cpu_span rows = {band.first + i, nn_cpu_least(plan->rows_per_step, band.n - i)};
        if (is_planes(plan)) {
            add_planes_step(pass, task, images.first, rows, x + i * planes_row_floats(plan), sums);
        } else {
            add_step(pass, task, images, rows, sums);
        }
    }
}

static void sum_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const gradient_pass *pass = arg;
    const nn_conv_gradient *plan = pass->plan;
    const task_place task = place_task(plan, chunk_idx);
    float *const scratch = pass->scratch + thread_idx * plan->scratch_floats;
    float *const sums = plan->total_floats > 0 ? pass->sums + chunk_idx * plan->sum_floats
                                               : scratch;
    float *const copy = plan->total_floats > 0 ? scratch : scratch + plan->sum_floats;

    memset(sums, 0, (size_t)plan->sum_floats * sizeof(float));
    for (int64_t i = 0; i < task.images.n; i += plan->images_per_step) {
        const nn_cpu_span images = {task.images.first + i,
                                    nn_cpu_least(plan->images_per_step, task.images.n - i)};
        for (int64_t row = 0; row < plan->geom->p; row += plan->rows_per_band) {
            const nn_cpu_span band = {row, nn_cpu_least(plan->rows_per_band, plan->geom->p - row)};
            add_band(pass, &task, images, band, copy, sums);
        }
    }
    if (plan->total_floats == 0) write_filter(pass, &task, sums);
}

/* The shares of one group and part, in their order. */
static void reduce_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const gradient_pass *pass = arg;
    const nn_conv_gradient *plan = pass->plan;
    const task_place task = place_task(plan, chunk_idx);
    const int64_t step = plan->n_groups * plan->n_parts * plan->sum_floats;
    float *restrict sums = pass->sums + chunk_idx * plan->sum_floats;

    (void)thread_idx;
    for (int64_t share = 1; share < plan->n_shares; share++) {
        const float *restrict from = sums + share * step;
        for (int64_t i = 0; i < plan->sum_floats; i++) sums[i] += from[i];
    }
    write_filter(pass, &task, sums);
}

void nn_conv_gradient_run(nn_backend *backend, const nn_conv_gradient *plan, const float *x,
                          const float *dy, float *dfilter, float *sums, float *scratch)
{
    gradient_pass pass = {
        .plan = plan, .x = x, .dy = dy, .dfilter = dfilter, .sums = sums, .scratch = scratch};
    const int64_t n_tasks = plan->n_groups * plan->n_parts;

    nn_cpu_run(backend, plan->n_shares * n_tasks, sum_chunk, &pass);
    if (plan->total_floats > 0) nn_cpu_run(backend, n_tasks, reduce_chunk, &pass);
}
