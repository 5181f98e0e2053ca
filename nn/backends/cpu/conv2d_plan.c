#include "nn/backends/cpu/conv2d_internal.h"

enum {
    TILE_PX = 256,            /* wide enough that packing the filter for each product is cheap */
    COLS_FLOATS = 128 * 1024, /* 512 KiB: half of a second-level cache of 1 MiB */
    MIN_CHUNKS = 16,          /* fewer chunks than this are cut further, for more threads */
    MIN_BLOCK = 16,           /* channels or outputs: smaller products run far below the peak */
    MAX_SUMS = 16,
    MAX_SUMS_FLOATS = 4 * 1024 * 1024, /* 16 MiB of partial sums */
    CACHE_LINE_FLOATS = CVY_ALIGN_BYTES / sizeof(float)
};

/* n cut into n_parts of nearly one size: the size of the largest. */
static int64_t even_part(int64_t n, int64_t n_parts)
{
    return nn_cpu_div_up(n, nn_cpu_most(1, nn_cpu_least(n, n_parts)));
}

static int64_t round_up(int64_t n, int64_t multiple)
{
    return nn_cpu_div_up(n, multiple) * multiple;
}

static void cut_pixels(nn_cpu_conv_plan *plan)
{
    const nn_conv2d_geom *geom = plan->geom;

    plan->images_per_tile = 1;
    plan->rows_per_tile = geom->p;
    plan->cols_per_tile = geom->q;
    if (2 * plan->px <= TILE_PX) {
        plan->images_per_tile = even_part(geom->n, nn_cpu_div_up(geom->n * plan->px, TILE_PX));
    } else if (geom->q <= 2 * TILE_PX) {
        plan->rows_per_tile = even_part(geom->p, (plan->px + TILE_PX / 2) / TILE_PX);
    } else {
        plan->rows_per_tile = 1;
        plan->cols_per_tile = even_part(geom->q, (geom->q + TILE_PX / 2) / TILE_PX);
    }
    plan->n_image_tiles = nn_cpu_div_up(geom->n, plan->images_per_tile);
    plan->n_row_tiles = nn_cpu_div_up(geom->p, plan->rows_per_tile);
    plan->n_col_tiles = nn_cpu_div_up(geom->q, plan->cols_per_tile);
    plan->tile_px = plan->images_per_tile * plan->rows_per_tile * plan->cols_per_tile;
}

/* Halve a block until there are chunks enough or it would be too small. */
static int64_t shrink_block(int64_t n, int64_t block, int64_t n_others, int64_t min_chunks)
{
    while (n_others * nn_cpu_div_up(n, block) < min_chunks && block >= 2 * MIN_BLOCK) {
        block = round_up(nn_cpu_div_up(block, 2), MIN_BLOCK);
    }
    return block;
}

static void cut_channels(nn_cpu_conv_plan *plan)
{
    const int64_t groups = plan->geom->groups;
    const int64_t n_tiles = groups * plan->n_image_tiles * plan->n_row_tiles * plan->n_col_tiles;
    const int64_t rows = nn_cpu_most(1, COLS_FLOATS / plan->tile_px);

    plan->c_block = even_part(plan->group_c, nn_cpu_div_up(plan->depth, rows));
    plan->data_c_block = shrink_block(plan->group_c, plan->c_block, groups * plan->n_image_tiles,
                                      MIN_CHUNKS);
    /* Every block of outputs gathers the input anew, hence the smaller number. */
    plan->k_block = shrink_block(plan->group_k, plan->group_k, n_tiles,
                                 plan->is_direct ? MIN_CHUNKS : MIN_CHUNKS / 2);
}

/* Partial sums are there for the threads; blocks of channels serve them just as well. */
static void cut_sums(nn_cpu_conv_plan *plan)
{
    const int64_t n_blocks = plan->geom->groups * nn_cpu_div_up(plan->group_c, plan->c_block);
    const int64_t n_weights = plan->geom->k * plan->depth;
    int64_t n_sums = nn_cpu_least(MAX_SUMS, nn_cpu_div_up(2 * MIN_CHUNKS, n_blocks));

    n_sums = nn_cpu_least(n_sums, nn_cpu_most(1, MAX_SUMS_FLOATS / n_weights));
    plan->image_tiles_per_sum = even_part(plan->n_image_tiles, n_sums);
    plan->n_sums = nn_cpu_div_up(plan->n_image_tiles, plan->image_tiles_per_sum);
}

nn_cpu_conv_plan nn_cpu_conv_plan_of(const nn_conv2d_geom *geom)
{
    nn_cpu_conv_plan plan = {.geom = geom,
                             .group_c = geom->c / geom->groups,
                             .group_k = geom->k / geom->groups,
                             .taps = geom->r * geom->s,
                             .px = geom->p * geom->q};

    plan.depth = plan.group_c * plan.taps;
    plan.is_depthwise = geom->groups > 1 && plan.group_c == 1;
    cut_pixels(&plan);
    plan.is_direct = plan.taps == 1 && geom->stride_h == 1 && geom->stride_w == 1 &&
                     geom->pad_h == 0 && geom->pad_w == 0 && plan.images_per_tile == 1;
    cut_channels(&plan);
    cut_sums(&plan);
    if (!plan.is_direct) {
        plan.cols_floats = round_up(plan.c_block * plan.taps * plan.tile_px, CACHE_LINE_FLOATS);
    }
    if (plan.images_per_tile > 1) {
        plan.side_floats = round_up(plan.group_k * plan.tile_px, CACHE_LINE_FLOATS);
    }
    return plan;
}

int64_t nn_cpu_conv_n_places(const nn_cpu_conv_plan *plan)
{
    return plan->n_row_tiles * plan->n_col_tiles;
}

nn_cpu_conv_tile nn_cpu_conv_tile_at(const nn_cpu_conv_plan *plan, int64_t image_tile_idx,
                                     int64_t place_idx)
{
    const nn_conv2d_geom *geom = plan->geom;
    const nn_cpu_span images = nn_cpu_part(geom->n, plan->images_per_tile, image_tile_idx);
    const nn_cpu_span rows = nn_cpu_part(geom->p, plan->rows_per_tile,
                                         place_idx / plan->n_col_tiles);
    const nn_cpu_span cols = nn_cpu_part(geom->q, plan->cols_per_tile,
                                         place_idx % plan->n_col_tiles);

    return (nn_cpu_conv_tile){.image = images.first,
                              .n_images = images.n,
                              .row = rows.first,
                              .n_rows = rows.n,
                              .col = cols.first,
                              .n_cols = cols.n,
                              .px = images.n * rows.n * cols.n,
                              .offset = rows.first * geom->q + cols.first};
}

/* Workspace: the partial sums of dfilter, if there are several, then the scratch of each thread. */
static int64_t sums_floats(const nn_cpu_conv_plan *plan)
{
    const int64_t n_weights = plan->geom->k * plan->depth;

    return plan->n_sums > 1 ? round_up(plan->n_sums * n_weights, CACHE_LINE_FLOATS) : 0;
}

float *nn_cpu_conv_cols(const nn_cpu_conv_plan *plan, void *workspace, int thread_idx)
{
    return (float *)workspace + sums_floats(plan) +
           thread_idx * (plan->cols_floats + plan->side_floats);
}

float *nn_cpu_conv_side(const nn_cpu_conv_plan *plan, void *workspace, int thread_idx)
{
    return nn_cpu_conv_cols(plan, workspace, thread_idx) + plan->cols_floats;
}

static int64_t workspace_floats(const nn_backend *backend, const nn_conv2d_geom *geom)
{
    const nn_cpu_conv_plan plan = nn_cpu_conv_plan_of(geom);

    if (plan.is_depthwise) return 0;
    return sums_floats(&plan) + backend->n_threads * (plan.cols_floats + plan.side_floats);
}

/* A smaller batch, which may be cut another way, must do with the workspace of a larger one. */
size_t nn_cpu_columns_workspace_bytes(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv2d_geom fewer = *geom;
    int64_t most = 0;

    for (fewer.n = 1; fewer.n <= geom->n; fewer.n++) {
        most = nn_cpu_most(most, workspace_floats(backend, &fewer));
    }
    return (size_t)most * sizeof(float);
}
