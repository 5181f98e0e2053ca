#include "nn/backends/cpu/conv_gradient_internal.h"

#include "nn/backends/cpu/conv2d_internal.h"
#include "nn/backends/cpu/conv_outer_internal.h"
#include "nn/backends/cpu/layout_internal.h"

#include <string.h>

enum {
    N_TASKS = 32,            /* with more threads than that some idle */
    PART_FLOATS = 32 * 1024, /* sums of a part */
    PART_BLOCKS = 16,        /* of x, at most */
    ROW_PIXELS = 128,        /* of a step along one row: a block of x and two of dy are 24 KiB */
    WINDOW_PIXELS = 96       /* where a tap reads rows above and below too */
};

static int is_planes(const nn_conv_gradient *plan)
{
    return plan->sweep.lanes == 1;
}

/* n things in parts of at most part_size, all of nearly one size. */
static int64_t even_part(int64_t n, int64_t part_size)
{
    return nn_cpu_div_up(n, nn_cpu_div_up(n, part_size));
}

static void cut_steps(nn_conv_gradient *plan)
{
    const nn_conv2d_geom *geom = &plan->geom;
    const int64_t pixels = geom->r * geom->s == 1 ? ROW_PIXELS : WINDOW_PIXELS;

    plan->rows_per_band = is_planes(plan) ? plan->sweep.rows_per_band : geom->p;
    plan->images_per_step = is_planes(plan) ? 1 : nn_cpu_most(1, pixels / (geom->p * geom->q));
    plan->rows_per_step = nn_cpu_least(plan->rows_per_band, nn_cpu_most(1, pixels / geom->q));
    plan->cols_per_step = geom->p > 1 ? geom->q : even_part(geom->q, pixels);
}

/* A plane as one row, if it may be. */
static void lay_flat(nn_conv_gradient *plan)
{
    if (!plan->sweep.is_direct) return;
    plan->geom.w *= plan->geom.h;
    plan->geom.q *= plan->geom.p;
    plan->geom.h = plan->geom.p = 1;
}

static void cut_parts(nn_conv_gradient *plan)
{
    const nn_conv2d_geom *geom = &plan->geom;
    const int64_t n_groups = nn_conv_n_groups(nn_cpu_blocks(geom->k));
    const int64_t n_taps = geom->r * geom->s, c_blocks = nn_cpu_blocks(geom->c);

    if (is_planes(plan)) {
        const int64_t most = 2 * nn_conv_outer_n_taps(2); /* a multiple of both counts */
        plan->groups_per_part = plan->c_blocks_per_part = 1;
        plan->n_c_parts = 1;
        plan->n_inputs = nn_cpu_div_up(geom->c * n_taps, most) * most;
    } else {
        const int64_t one = n_taps * NN_CPU_BLOCK * NN_CPU_BLOCK * NN_TILE_BLOCKS;
        const int64_t n = nn_cpu_most(1, PART_FLOATS / one); /* blocks by groups */
        plan->c_blocks_per_part = even_part(c_blocks, nn_cpu_least(n, PART_BLOCKS));
        plan->n_c_parts = nn_cpu_div_up(c_blocks, plan->c_blocks_per_part);
        plan->groups_per_part = even_part(n_groups, nn_cpu_most(1, n / plan->c_blocks_per_part));
        plan->n_inputs = plan->c_blocks_per_part * n_taps * NN_CPU_BLOCK;
    }
    plan->n_group_parts = nn_cpu_div_up(n_groups, plan->groups_per_part);
    plan->sum_floats = plan->groups_per_part * plan->n_inputs * NN_CPU_BLOCK * NN_TILE_BLOCKS;
}

static int64_t n_parts(const nn_conv_gradient *plan)
{
    return plan->sweep.n_slices * plan->n_group_parts * plan->n_c_parts;
}

void nn_conv_gradient_plan(const nn_conv2d_geom *geom, nn_conv_gradient *out)
{
    memset(out, 0, sizeof *out);
    out->geom = *geom;
    nn_conv_sweep_forward(geom, &out->sweep);
    out->geom.c = out->sweep.src_c;
    out->geom.k = out->sweep.dst_c;
    out->geom.groups = 1;
    lay_flat(out);
    cut_parts(out);
    cut_steps(out);
    const int64_t n_shares = nn_cpu_div_up(N_TASKS, n_parts(out));
    out->images_per_share = nn_cpu_div_up(geom->n, nn_cpu_least(n_shares, geom->n));
    out->n_shares = nn_cpu_div_up(geom->n, out->images_per_share);
    /* Where sums lie depends on the geometry without the images, and their room grows with these: a
     * smaller batch must do with the workspace of a larger one. */
    if (n_shares > 1) {
        out->total_floats = out->sum_floats * nn_cpu_least(n_shares, geom->n) * n_parts(out);
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

/* What a task sums. */
typedef struct task_place {
    int64_t slice;
    nn_cpu_span groups, blocks, images; /* of outputs, of inputs */
} task_place;

/* Pixels of dy that are added at once: images, and a rectangle of each. */
typedef struct step_place {
    nn_cpu_span images, rows, cols;
} step_place;

static int group_blocks(const gradient_pass *pass, int64_t group)
{
    return nn_conv_group_blocks(nn_cpu_blocks(pass->plan->geom.k), group);
}

/* Blocks from one image to the next, of a tensor with c channels in each slice. */
static int64_t image_blocks(const gradient_pass *pass, int64_t c)
{
    return pass->plan->sweep.n_slices * nn_cpu_blocks(c);
}

/* --- Inputs in blocks ------------------------------------------------------------------------- */

/* Floats from the first pixel of a step to that of another, of x and of dy. */
static int64_t x_between(const gradient_pass *pass, const step_place *from, const step_place *to)
{
    const nn_conv2d_geom *geom = &pass->plan->geom;
    const int64_t image = image_blocks(pass, geom->c) * geom->h * geom->w;

    return ((to->images.first - from->images.first) * image +
            (to->rows.first - from->rows.first) * geom->stride_h * geom->w +
            (to->cols.first - from->cols.first) * geom->stride_w) *
           NN_CPU_BLOCK;
}

static int64_t dy_between(const gradient_pass *pass, const step_place *from, const step_place *to)
{
    const nn_conv2d_geom *geom = &pass->plan->geom;
    const int64_t image = image_blocks(pass, geom->k) * geom->p * geom->q;

    return ((to->images.first - from->images.first) * image +
            (to->rows.first - from->rows.first) * geom->q + to->cols.first - from->cols.first) *
           NN_CPU_BLOCK;
}

/* What a tap meets in a step: pixels of dy at which it is inside x. */
typedef struct tap_window {
    int64_t n_rows, n_cols;
    int64_t x, dy; /* first floats in a plane */
    int fetches_x; /* such taps meet every pixel of x between them */
} tap_window;

static tap_window place_tap(const nn_conv2d_geom *geom, const step_place *step, int64_t r,
                            int64_t s)
{
    const int64_t h = r * geom->dil_h - geom->pad_h, w = s * geom->dil_w - geom->pad_w;
    const nn_cpu_span rows = nn_cpu_common(step->rows,
                                           nn_cpu_conv_reach(h, geom->stride_h, geom->h, geom->p));
    const nn_cpu_span cols = nn_cpu_common(step->cols,
                                           nn_cpu_conv_reach(w, geom->stride_w, geom->w, geom->q));

    return (tap_window){
        .n_rows = cols.n > 0 ? rows.n : 0,
        .n_cols = cols.n,
        .x = ((rows.first * geom->stride_h + h) * geom->w + cols.first * geom->stride_w + w) *
             NN_CPU_BLOCK,
        .dy = (rows.first * geom->q + cols.first) * NN_CPU_BLOCK,
        .fetches_x = r < geom->stride_h && s < geom->stride_w};
}

/* One block of x for one group; x and dy: their planes in the step's first image. outer has the
 * pitches. Meanwhile the next step is fetched. */
static void add_block(const tap_window *windows, int64_t n_taps, nn_conv_outer outer, int n_blocks,
                      const float *x, const float *dy)
{
    const int64_t x_fetch = outer.x_fetch;

    for (int64_t tap = 0; tap < n_taps; tap++) {
        const tap_window *window = &windows[tap];
        outer.x = x + window->x;
        outer.dy = dy + window->dy;
        outer.n_rows = window->n_rows;
        outer.n_cols = window->n_cols;
        outer.x_fetch = window->fetches_x ? x_fetch : 0;
        if (window->n_rows > 0 || outer.is_new) nn_conv_outer_block(&outer, n_blocks);
        outer.sum += NN_CPU_BLOCK * NN_CPU_BLOCK * n_blocks;
        outer.dy_fetch = 0;
    }
}

static void add_step(const gradient_pass *pass, const task_place *task, const step_place *step,
                     const step_place *next, int is_new, float *sums)
{
    const nn_conv_gradient *plan = pass->plan;
    const nn_conv2d_geom *geom = &plan->geom;
    const int64_t n_taps = geom->r * geom->s;
    const int64_t x_plane = geom->h * geom->w * NN_CPU_BLOCK;
    const int64_t dy_plane = geom->p * geom->q * NN_CPU_BLOCK;
    const int64_t c_blocks = image_blocks(pass, geom->c), k_blocks = image_blocks(pass, geom->k);
    const int64_t first_c = task->slice * nn_cpu_blocks(geom->c) + task->blocks.first;
    const int64_t first_k = task->slice * nn_cpu_blocks(geom->k);
    tap_window windows[NN_SWEEP_MAX_TAPS];

    for (int64_t i = 0; i < n_taps; i++) {
        windows[i] = place_tap(geom, step, i / geom->s, i % geom->s);
    }
    for (int64_t i = 0; i < task->groups.n; i++) {
        const int64_t group = task->groups.first + i;
        const int n_blocks = group_blocks(pass, group);
        const float *dy = pass->dy +
                          (step->images.first * k_blocks + first_k + group * NN_TILE_BLOCKS) *
                              dy_plane;
        for (int64_t j = 0; j < task->blocks.n; j++) {
            const nn_conv_outer outer = {.n_images = step->images.n,
                                         .x_image_pitch = c_blocks * x_plane,
                                         .x_row_pitch = geom->stride_h * geom->w * NN_CPU_BLOCK,
                                         .x_col_pitch = geom->stride_w * NN_CPU_BLOCK,
                                         .dy_image_pitch = k_blocks * dy_plane,
                                         .dy_row_pitch = geom->q * NN_CPU_BLOCK,
                                         .dy_block_pitch = dy_plane,
                                         .sum = sums +
                                                i * plan->n_inputs * NN_CPU_BLOCK * NN_TILE_BLOCKS +
                                                j * n_taps * NN_CPU_BLOCK * NN_CPU_BLOCK * n_blocks,
                                         .is_new = is_new,
                                         .x_near = j + 1 < task->blocks.n ? x_plane : -j * x_plane,
                                         .x_fetch = i == 0 ? x_between(pass, step, next) : 0,
                                         .dy_fetch = j == 0 ? dy_between(pass, step, next) : 0};
            add_block(windows, n_taps, outer, n_blocks,
                      pass->x + (step->images.first * c_blocks + first_c + j) * x_plane, dy);
        }
    }
}

/* --- Inputs in planes ------------------------------------------------------------------------- */

/* x: the first pixel of these rows in the copy. */
static void add_planes_step(const gradient_pass *pass, const task_place *task, int64_t image,
                            nn_cpu_span rows, const float *x, int is_new, float *sums)
{
    const nn_conv_gradient *plan = pass->plan;
    const int64_t group = task->groups.first;
    const int n_blocks = group_blocks(pass, group);
    const nn_conv_sweep *sweep = &plan->sweep;
    const int64_t dy_plane = plan->geom.p * plan->geom.q * NN_CPU_BLOCK;
    const int64_t k_blocks = nn_cpu_blocks(plan->geom.k);
    const int n_taps = nn_conv_outer_n_taps(n_blocks);
    const int64_t n_inputs = sweep->src_c * sweep->n_taps;
    nn_conv_outer outer = {.n_images = 1,
                           .n_rows = rows.n,
                           .n_cols = plan->geom.q,
                           .x = x,
                           .x_row_pitch = sweep->src_step_h * sweep->row_floats,
                           .dy = pass->dy + (image * k_blocks + group * NN_TILE_BLOCKS) * dy_plane +
                                 rows.first * plan->geom.q * NN_CPU_BLOCK,
                           .dy_row_pitch = plan->geom.q * NN_CPU_BLOCK,
                           .dy_block_pitch = dy_plane,
                           .is_new = is_new};

    for (int64_t first = 0; first < n_inputs; first += n_taps) {
        int64_t offset[2 * NN_OUTER_TAPS_TWO];
        for (int i = 0; i < n_taps; i++) { /* what is past the end is computed and not used */
            const int64_t input = nn_cpu_least(first + i, n_inputs - 1);
            offset[i] = input / sweep->n_taps * sweep->block_floats +
                        sweep->taps[input % sweep->n_taps].offset;
        }
        outer.sum = sums + first * NN_CPU_BLOCK * n_blocks;
        nn_conv_outer_taps(&outer, n_blocks, offset);
    }
}

/* --- From sums to KCRS ------------------------------------------------------------------------ */

/* sums: of one group of a part. */
static void write_group(const gradient_pass *pass, const task_place *task, int64_t group,
                        const float *sums)
{
    const nn_conv_gradient *plan = pass->plan;
    const nn_conv2d_geom *geom = &plan->geom;
    const int64_t n_taps = geom->r * geom->s, lanes = plan->sweep.lanes;
    const int64_t width = NN_CPU_BLOCK * group_blocks(pass, group);
    const int64_t first_k = group * NN_TILE_BLOCKS * NN_CPU_BLOCK;
    const int64_t n_k = nn_cpu_least(width, geom->k - first_k);
    const int64_t first_c = task->blocks.first * lanes;
    const int64_t n_c = is_planes(plan) ? geom->c
                                        : nn_cpu_least(task->blocks.n * lanes, geom->c - first_c);

    for (int64_t k = 0; k < n_k; k++) {
        float *restrict to = pass->dfilter +
                             ((task->slice * geom->k + first_k + k) * geom->c + first_c) * n_taps;
        const float *restrict block = sums + k;
        for (int64_t c = 0; c < n_c; c += lanes) {
            const int64_t n = nn_cpu_least(lanes, n_c - c);
            for (int64_t lane = 0; lane < n; lane++) {
                for (int64_t tap = 0; tap < n_taps; tap++) {
                    to[lane * n_taps + tap] = block[(tap * lanes + lane) * width];
                }
            }
            to += n * n_taps;
            block += n_taps * lanes * width;
        }
    }
}

static void write_part(const gradient_pass *pass, const task_place *task, const float *sums)
{
    const nn_conv_gradient *plan = pass->plan;

    for (int64_t i = 0; i < task->groups.n; i++) {
        write_group(pass, task, task->groups.first + i,
                    sums + i * plan->n_inputs * NN_CPU_BLOCK * NN_TILE_BLOCKS);
    }
}

/* --- Tasks ------------------------------------------------------------------------------------ */

static task_place place_task(const nn_conv_gradient *plan, int64_t task_idx)
{
    const int64_t part = task_idx % n_parts(plan);

    return (task_place){
        .slice = part / plan->n_c_parts / plan->n_group_parts,
        .groups = nn_cpu_part(nn_conv_n_groups(nn_cpu_blocks(plan->geom.k)), plan->groups_per_part,
                              part / plan->n_c_parts % plan->n_group_parts),
        .blocks = nn_cpu_part(nn_cpu_blocks(plan->geom.c), plan->c_blocks_per_part,
                              part % plan->n_c_parts),
        .images = nn_cpu_part(plan->geom.n, plan->images_per_share, task_idx / n_parts(plan))};
}

static void add_planes(const gradient_pass *pass, const task_place *task, int64_t image,
                       float *copy, int is_new, float *sums)
{
    const nn_conv_gradient *plan = pass->plan;
    const int64_t row_floats = plan->sweep.src_step_h * plan->sweep.row_floats;

    for (int64_t row = 0; row < plan->geom.p; row += plan->rows_per_band) {
        const int64_t n = nn_cpu_least(plan->rows_per_band, plan->geom.p - row);
        nn_conv_sweep_copy(&plan->sweep, pass->x, image, row, n, copy);
        for (int64_t i = 0; i < n; i += plan->rows_per_step) {
            const nn_cpu_span rows = {row + i, nn_cpu_least(plan->rows_per_step, n - i)};
            add_planes_step(pass, task, image, rows, copy + i * row_floats, is_new && row + i == 0,
                            sums);
        }
    }
}

/* Step idx of a task; images are the outermost, columns the innermost. */
static step_place place_step(const nn_conv_gradient *plan, const task_place *task, int64_t idx)
{
    const int64_t n_cols = nn_cpu_div_up(plan->geom.q, plan->cols_per_step);
    const int64_t n_rows = nn_cpu_div_up(plan->geom.p, plan->rows_per_step);
    step_place step = {
        .images = nn_cpu_part(task->images.n, plan->images_per_step, idx / n_cols / n_rows),
        .rows = nn_cpu_part(plan->geom.p, plan->rows_per_step, idx / n_cols % n_rows),
        .cols = nn_cpu_part(plan->geom.q, plan->cols_per_step, idx % n_cols)};

    step.images.first += task->images.first;
    return step;
}

static int64_t n_steps(const nn_conv_gradient *plan, const task_place *task)
{
    return nn_cpu_div_up(task->images.n, plan->images_per_step) *
           nn_cpu_div_up(plan->geom.p, plan->rows_per_step) *
           nn_cpu_div_up(plan->geom.q, plan->cols_per_step);
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

    for (int64_t i = 0; is_planes(plan) && i < task.images.n; i++) {
        add_planes(pass, &task, task.images.first + i, copy, i == 0, sums);
    }
    const int64_t n = is_planes(plan) ? 0 : n_steps(plan, &task);
    for (int64_t i = 0; i < n; i++) {
        const step_place step = place_step(plan, &task, i);
        const step_place next = i + 1 < n ? place_step(plan, &task, i + 1) : step;
        add_step(pass, &task, &step, &next, i == 0, sums);
    }
    if (plan->total_floats == 0) write_part(pass, &task, sums);
}

/* The shares of one part, in their order. */
static void reduce_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const gradient_pass *pass = arg;
    const nn_conv_gradient *plan = pass->plan;
    const task_place task = place_task(plan, chunk_idx);
    const int64_t step = n_parts(plan) * plan->sum_floats;
    float *restrict sums = pass->sums + chunk_idx * plan->sum_floats;

    (void)thread_idx;
    for (int64_t share = 1; share < plan->n_shares; share++) {
        const float *restrict from = sums + share * step;
        for (int64_t i = 0; i < plan->sum_floats; i++) sums[i] += from[i];
    }
    write_part(pass, &task, sums);
}

void nn_conv_gradient_run(nn_backend *backend, const nn_conv_gradient *plan, const float *x,
                          const float *dy, float *dfilter, float *sums, float *scratch)
{
    gradient_pass pass = {
        .plan = plan, .x = x, .dy = dy, .dfilter = dfilter, .sums = sums, .scratch = scratch};

    nn_cpu_run(backend, plan->n_shares * n_parts(plan), sum_chunk, &pass);
    if (plan->total_floats > 0) nn_cpu_run(backend, n_parts(plan), reduce_chunk, &pass);
}
