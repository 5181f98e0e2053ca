#include "nn/backends/cpu/conv2d_internal.h"

#include <string.h>

typedef struct conv_pass {
    nn_cpu_conv_plan plan;
    const float *x, *filter, *bias, *dy;
    float *y, *dx, *dfilter, *dbias;
    int accumulate;
    void *workspace;
} conv_pass;

/* x as the matrix (channels, pixels) of a 1x1 convolution. */
static const float *direct_x(const nn_cpu_conv_plan *plan, const float *x, int64_t channel,
                             nn_cpu_conv_tile tile)
{
    return x + (tile.image * plan->geom->c + channel) * plan->px + tile.offset;
}

static void fill_bias(int64_t rows, int64_t cols, const float *bias, float *out, int64_t ld)
{
    for (int64_t row = 0; row < rows; row++) {
        float *to = out + row * ld;
        for (int64_t i = 0; i < cols; i++) to[i] = bias[row];
    }
}

/* out (outputs.n, tile.px) = filter cols + bias, outputs counted within the group. */
static void forward_product(const conv_pass *pass, int64_t group, nn_cpu_span outputs,
                            nn_cpu_conv_tile tile, float *cols, float *out, int64_t ld)
{
    const nn_cpu_conv_plan *plan = &pass->plan;
    const int64_t k = group * plan->group_k + outputs.first;
    const float *filter = pass->filter + k * plan->depth;
    float beta = pass->bias != NULL ? 1.0f : 0.0f;

    if (pass->bias != NULL) fill_bias(outputs.n, tile.px, pass->bias + k, out, ld);
    if (plan->is_direct) {
        const float *x = direct_x(plan, pass->x, group * plan->group_c, tile);
        nn_cpu_gemm(outputs.n, tile.px, plan->depth, (nn_cpu_matrix){filter, plan->depth, 0},
                    (nn_cpu_matrix){x, plan->px, 0}, beta, out, ld);
        return;
    }
    for (int64_t i = 0; i * plan->c_block < plan->group_c; i++) {
        nn_cpu_span block = nn_cpu_part(plan->group_c, plan->c_block, i);
        const nn_cpu_matrix part = {filter + block.first * plan->taps, plan->depth, 0};
        block.first += group * plan->group_c;
        nn_cpu_conv_gather(plan, pass->x, block, tile, cols);
        nn_cpu_gemm(outputs.n, tile.px, block.n * plan->taps, part,
                    (nn_cpu_matrix){cols, tile.px, 0}, beta, out, ld);
        beta = 1.0f;
    }
}

/* Chunks: tiles within blocks of outputs within groups. */
static void forward_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const conv_pass *pass = arg;
    const nn_cpu_conv_plan *plan = &pass->plan;
    const int64_t n_places = nn_cpu_conv_n_places(plan);
    const int64_t n_tiles = plan->n_image_tiles * n_places;
    const int64_t n_blocks = nn_cpu_div_up(plan->group_k, plan->k_block);
    const int64_t tile_idx = chunk_idx % n_tiles, group = chunk_idx / n_tiles / n_blocks;
    const nn_cpu_conv_tile tile = nn_cpu_conv_tile_at(plan, tile_idx / n_places,
                                                      tile_idx % n_places);
    const nn_cpu_span outputs = nn_cpu_part(plan->group_k, plan->k_block,
                                            chunk_idx / n_tiles % n_blocks);
    float *cols = nn_cpu_conv_cols(plan, pass->workspace, thread_idx);
    float *side = nn_cpu_conv_side(plan, pass->workspace, thread_idx);
    const int64_t k = group * plan->group_k + outputs.first;
    float *y = pass->y + (tile.image * plan->geom->k + k) * plan->px;

    if (plan->images_per_tile == 1) {
        forward_product(pass, group, outputs, tile, cols, y + tile.offset, plan->px);
        return;
    }
    forward_product(pass, group, outputs, tile, cols, side, tile.px);
    for (int64_t i = 0; i < tile.n_images; i++) {
        for (int64_t row = 0; row < outputs.n; row++) {
            memcpy(y + (i * plan->geom->k + row) * plan->px, side + row * tile.px + i * plan->px,
                   (size_t)plan->px * sizeof(float));
        }
    }
}

cvy_status nn_cpu_columns_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                  const float *filter, const float *bias, float *y, void *workspace)
{
    conv_pass pass = {.plan = nn_cpu_conv_plan_of(geom),
                      .x = x,
                      .filter = filter,
                      .bias = bias,
                      .y = y,
                      .workspace = workspace};
    const nn_cpu_conv_plan *plan = &pass.plan;

    if (plan->is_depthwise) {
        nn_cpu_depthwise_forward(backend, geom, x, filter, bias, y);
        return CVY_OK;
    }
    nn_cpu_run(backend,
               geom->groups * nn_cpu_div_up(plan->group_k, plan->k_block) * plan->n_image_tiles *
                   nn_cpu_conv_n_places(plan),
               forward_chunk, &pass);
    return CVY_OK;
}

/* The share of one tile in dx, for channels of one group. */
static void data_tile(const conv_pass *pass, int64_t group, nn_cpu_span channels,
                      nn_cpu_conv_tile tile, int thread_idx)
{
    const nn_cpu_conv_plan *plan = &pass->plan;
    float *cols = nn_cpu_conv_cols(plan, pass->workspace, thread_idx);
    float *side = nn_cpu_conv_side(plan, pass->workspace, thread_idx);
    const nn_cpu_matrix dy = nn_cpu_conv_dy(plan, pass->dy, group, tile, side);
    const nn_cpu_matrix filter = {pass->filter + group * plan->group_k * plan->depth +
                                      channels.first * plan->taps,
                                  plan->depth, 1};
    const nn_cpu_span absolute = {group * plan->group_c + channels.first, channels.n};

    if (plan->is_direct) {
        float *dx = pass->dx + (tile.image * plan->geom->c + absolute.first) * plan->px;
        nn_cpu_gemm(channels.n, tile.px, plan->group_k, filter, dy, pass->accumulate ? 1.0f : 0.0f,
                    dx + tile.offset, plan->px);
        return;
    }
    nn_cpu_gemm(channels.n * plan->taps, tile.px, plan->group_k, filter, dy, 0.0f, cols, tile.px);
    nn_cpu_conv_scatter(plan, cols, absolute, tile, pass->dx);
}

/* dx = 0 in the channels (counted over all groups) of a bundle of images. */
static void clear_input(const conv_pass *pass, int64_t first_channel, int64_t n_channels,
                        int64_t image_tile_idx)
{
    const nn_conv2d_geom *geom = pass->plan.geom;
    const nn_cpu_span images = nn_cpu_part(geom->n, pass->plan.images_per_tile, image_tile_idx);
    const int64_t size = geom->h * geom->w;

    for (int64_t n = images.first; n < images.first + images.n; n++) {
        memset(pass->dx + (n * geom->c + first_channel) * size, 0,
               (size_t)(n_channels * size) * sizeof(float));
    }
}

/* Chunks: groups and blocks of channels of a bundle of images; the tiles of an image overlap in dx,
 * so one thread adds them in order. */
static void data_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const conv_pass *pass = arg;
    const nn_cpu_conv_plan *plan = &pass->plan;
    const int64_t n_blocks = nn_cpu_div_up(plan->group_c, plan->data_c_block);
    const nn_cpu_span channels = nn_cpu_part(plan->group_c, plan->data_c_block,
                                             chunk_idx % n_blocks);
    const int64_t group = chunk_idx / n_blocks % plan->geom->groups;
    const int64_t image_tile_idx = chunk_idx / n_blocks / plan->geom->groups;

    /* The product of a 1x1 convolution overwrites. */
    if (!plan->is_direct && !pass->accumulate) {
        clear_input(pass, group * plan->group_c + channels.first, channels.n, image_tile_idx);
    }
    for (int64_t place = 0; place < nn_cpu_conv_n_places(plan); place++) {
        data_tile(pass, group, channels, nn_cpu_conv_tile_at(plan, image_tile_idx, place),
                  thread_idx);
    }
}

cvy_status nn_cpu_columns_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                        const float *dy, const float *filter, float *dx,
                                        int accumulate, void *workspace)
{
    conv_pass pass = {.plan = nn_cpu_conv_plan_of(geom),
                      .filter = filter,
                      .dy = dy,
                      .dx = dx,
                      .accumulate = accumulate,
                      .workspace = workspace};
    const nn_cpu_conv_plan *plan = &pass.plan;

    if (plan->is_depthwise) {
        nn_cpu_depthwise_backward_data(backend, geom, dy, filter, dx, accumulate);
        return CVY_OK;
    }
    nn_cpu_run(backend,
               plan->n_image_tiles * geom->groups *
                   nn_cpu_div_up(plan->group_c, plan->data_c_block),
               data_chunk, &pass);
    return CVY_OK;
}

/* Add the share of one tile to a partial sum (k, depth) of dfilter. */
static void filter_tile(const conv_pass *pass, int64_t group, nn_cpu_span channels,
                        nn_cpu_conv_tile tile, int thread_idx, float beta, float *sum)
{
    const nn_cpu_conv_plan *plan = &pass->plan;
    float *cols = nn_cpu_conv_cols(plan, pass->workspace, thread_idx);
    float *side = nn_cpu_conv_side(plan, pass->workspace, thread_idx);
    const nn_cpu_matrix dy = nn_cpu_conv_dy(plan, pass->dy, group, tile, side);
    const nn_cpu_span absolute = {group * plan->group_c + channels.first, channels.n};
    nn_cpu_matrix input = {cols, tile.px, 1};

    if (plan->is_direct) {
        input = (nn_cpu_matrix){direct_x(plan, pass->x, absolute.first, tile), plan->px, 1};
    } else {
        nn_cpu_conv_gather(plan, pass->x, absolute, tile, cols);
    }
    nn_cpu_gemm(plan->group_k, channels.n * plan->taps, tile.px, dy, input, beta,
                sum + group * plan->group_k * plan->depth + channels.first * plan->taps,
                plan->depth);
}

/* Chunks: groups and blocks of channels of one partial sum; its tiles are added in order. */
static void filter_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const conv_pass *pass = arg;
    const nn_cpu_conv_plan *plan = &pass->plan;
    const int64_t n_blocks = nn_cpu_div_up(plan->group_c, plan->c_block);
    const nn_cpu_span channels = nn_cpu_part(plan->group_c, plan->c_block, chunk_idx % n_blocks);
    const int64_t group = chunk_idx / n_blocks % plan->geom->groups;
    const int64_t sum_idx = chunk_idx / n_blocks / plan->geom->groups;
    const nn_cpu_span images = nn_cpu_part(plan->n_image_tiles, plan->image_tiles_per_sum, sum_idx);
    float *sum = plan->n_sums > 1 ? (float *)pass->workspace + sum_idx * plan->geom->k * plan->depth
                                  : pass->dfilter;
    float beta = 0.0f;

    for (int64_t i = images.first; i < images.first + images.n; i++) {
        for (int64_t place = 0; place < nn_cpu_conv_n_places(plan); place++) {
            filter_tile(pass, group, channels, nn_cpu_conv_tile_at(plan, i, place), thread_idx,
                        beta, sum);
            beta = 1.0f;
        }
    }
}

static void add_to(int64_t n, const float *restrict x, float *restrict y)
{
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

/* Add the partial sums of some weights as a binary tree: 0 + 1, 2 + 3, ... then 0 + 2, ... */
static void add_sums_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const conv_pass *pass = arg;
    const int64_t n_weights = pass->plan.geom->k * pass->plan.depth;
    const nn_cpu_span span = nn_cpu_part(n_weights, NN_CPU_CHUNK, chunk_idx);
    float *sums = (float *)pass->workspace + span.first;

    (void)thread_idx;
    for (int64_t step = 1; step < pass->plan.n_sums; step *= 2) {
        for (int64_t i = 0; i + step < pass->plan.n_sums; i += 2 * step) {
            add_to(span.n, sums + (i + step) * n_weights, sums + i * n_weights);
        }
    }
    memcpy(pass->dfilter + span.first, sums, (size_t)span.n * sizeof(float));
}

static void bias_chunk(void *arg, int64_t k, int thread_idx)
{
    const conv_pass *pass = arg;
    const nn_cpu_conv_plan *plan = &pass->plan;
    double sum = 0.0;

    (void)thread_idx;
    for (int64_t n = 0; n < plan->geom->n; n++) {
        sum += nn_cpu_sum(plan->px, pass->dy + (n * plan->geom->k + k) * plan->px);
    }
    pass->dbias[k] = (float)sum;
}

cvy_status nn_cpu_columns_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                          const float *x, const float *dy, float *dfilter,
                                          float *dbias, void *workspace)
{
    conv_pass pass = {.plan = nn_cpu_conv_plan_of(geom),
                      .x = x,
                      .dy = dy,
                      .dfilter = dfilter,
                      .dbias = dbias,
                      .workspace = workspace};
    const nn_cpu_conv_plan *plan = &pass.plan;

    if (plan->is_depthwise) {
        nn_cpu_depthwise_backward_filter(backend, geom, x, dy, dfilter);
    } else {
        nn_cpu_run(backend,
                   plan->n_sums * geom->groups * nn_cpu_div_up(plan->group_c, plan->c_block),
                   filter_chunk, &pass);
        if (plan->n_sums > 1) {
            nn_cpu_run(backend, nn_cpu_div_up(geom->k * plan->depth, NN_CPU_CHUNK), add_sums_chunk,
                       &pass);
        }
    }
    if (dbias != NULL) nn_cpu_run(backend, geom->k, bias_chunk, &pass);
    return CVY_OK;
}
