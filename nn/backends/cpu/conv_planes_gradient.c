#include "nn/backends/cpu/conv_planes_internal.h"

#include <string.h>

/* The gradient of a filter where y is in planes: dfilter[k, input] = sum of dy[k] times what the
 * input, a tap of a channel, reads. The lanes of a sum are every NN_VEC_LANES-th column, and are
 * added up at the end. Images are cut into shares, whose sums are added in their order. */
enum {
    MOST_SHARES = 16,
    MOST_SUMS_FLOATS = 4 * 1024 * 1024,         /* of all shares: 16 MiB */
    TILE_CHANNELS = NN_VEC_LANES == 16 ? 6 : 2, /* their vectors and sums fill the registers */
    TILE_INPUTS = 4
};

typedef struct gradient_plan {
    nn_conv_planes planes;
    int64_t k, n_inputs;
    int64_t share_floats; /* (k, n_inputs, lanes), then (k, lanes) for the bias */
    int64_t images_per_share, n_shares, most_shares;
} gradient_plan;

static void make_plan(const nn_conv2d_geom *geom, gradient_plan *plan)
{
    nn_conv_planes_input(geom, &plan->planes);
    plan->k = geom->k;
    plan->n_inputs = geom->c * geom->r * geom->s;
    plan->share_floats =
        nn_cpu_div_up(plan->k * (plan->n_inputs + 1) * NN_VEC_LANES, NN_CPU_BLOCK) * NN_CPU_BLOCK;
    const int64_t most = nn_cpu_most(1, MOST_SUMS_FLOATS / plan->share_floats);
    plan->most_shares = nn_cpu_least(geom->n, nn_cpu_least(MOST_SHARES, most));
    plan->images_per_share = nn_cpu_div_up(geom->n, plan->most_shares);
    plan->n_shares = nn_cpu_div_up(geom->n, plan->images_per_share);
}

int64_t nn_conv_planes_gradient_floats(const nn_conv2d_geom *geom, int n_threads)
{
    gradient_plan plan;

    make_plan(geom, &plan);
    return plan.most_shares * plan.share_floats + n_threads * plan.planes.copy_floats;
}

typedef struct gradient_pass {
    gradient_plan plan;
    const float *x, *dy;
    float *dfilter, *dbias;
    float *sums, *copies;
} gradient_pass;

/* --- Tiles ------------------------------------------------------------------------------------ */

/* Some rows of some channels of dy, and some inputs. */
typedef struct tile {
    const float *dy, *x;
    int64_t n_rows, n_cols, dy_plane, x_row_floats;
    int64_t offset[TILE_INPUTS]; /* of each input in the copy */
    float *sum;                  /* of the first channel and input */
    int64_t sum_pitch;           /* from one channel to the next */
} tile;

CVY_INLINE_ALWAYS void add_products(const tile *t, const float *x, const nn_vec *d, int n_channels,
                                    int n_inputs, nn_vec sum[TILE_CHANNELS][TILE_INPUTS])
{
    CVY_UNROLL(8) for (int i = 0; i < n_inputs; i++)
    {
        const nn_vec value = nn_vec_load(x + t->offset[i]);
        CVY_UNROLL(8) for (int k = 0; k < n_channels; k++) sum[k][i] += value * d[k];
    }
}

CVY_INLINE_ALWAYS void run_tile(const tile *t, int n_channels, int n_inputs)
{
    const int64_t whole = t->n_cols / NN_VEC_LANES * NN_VEC_LANES;
    const int rest = (int)(t->n_cols - whole);
    nn_vec sum[TILE_CHANNELS][TILE_INPUTS], d[TILE_CHANNELS];

    CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
    {
        CVY_UNROLL(8) for (int i = 0; i < n_inputs; i++) sum[k][i] = nn_vec_all(0.0f);
    }
    for (int64_t row = 0; row < t->n_rows; row++) {
        const float *x = t->x + row * t->x_row_floats, *dy = t->dy + row * t->n_cols;
        for (int64_t col = 0; col < whole; col += NN_VEC_LANES) {
            CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
            {
                d[k] = nn_vec_load(dy + k * t->dy_plane + col);
                CVY_KEEP_VECTOR(d[k]);
            }
            add_products(t, x + col, d, n_channels, n_inputs, sum);
        }
        if (rest == 0) continue;
        CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
        {
            d[k] = nn_vec_load_part(dy + k * t->dy_plane + whole, rest);
        }
        add_products(t, x + whole, d, n_channels, n_inputs, sum);
    }
    CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
    {
        CVY_UNROLL(8) for (int i = 0; i < n_inputs; i++)
        {
            float *to = t->sum + k * t->sum_pitch + i * NN_VEC_LANES;
            nn_vec_store(to, nn_vec_load(to) + sum[k][i]);
        }
    }
}

/* One function per shape, so that each keeps its sums in registers. */
#define ALL_INPUTS(X, channels) X(channels, 1) X(channels, 2) X(channels, 3) X(channels, 4)
#if defined(__AVX512F__)
#define ALL_TILES(X)                                                                               \
    ALL_INPUTS(X, 1)                                                                               \
    ALL_INPUTS(X, 2) ALL_INPUTS(X, 3) ALL_INPUTS(X, 4) ALL_INPUTS(X, 5) ALL_INPUTS(X, 6)
#else
#define ALL_TILES(X) ALL_INPUTS(X, 1) ALL_INPUTS(X, 2)
#endif

#define DEFINE(channels, inputs)                                                                   \
    static void tile_##channels##_##inputs(const tile *t)                                          \
    {                                                                                              \
        run_tile(t, channels, inputs);                                                             \
    }
ALL_TILES(DEFINE)
#undef DEFINE

#define ENTRY(channels, inputs) [channels - 1][inputs - 1] = tile_##channels##_##inputs,
static void (*const tiles[TILE_CHANNELS][TILE_INPUTS])(const tile *t) = {ALL_TILES(ENTRY)};
#undef ENTRY

/* --- Shares ----------------------------------------------------------------------------------- */

static int64_t input_offset(const gradient_plan *plan, int64_t input)
{
    const nn_conv_planes *planes = &plan->planes;
    const int64_t n_taps = planes->taps_h * planes->taps_w;
    const int64_t tap = input % n_taps;

    return input / n_taps * planes->plane_floats +
           tap / planes->taps_w * planes->dil_h * planes->row_floats +
           tap % planes->taps_w * planes->dil_w;
}

static void add_band(const gradient_pass *pass, int64_t image, nn_cpu_span rows, const float *copy,
                     float *sums)
{
    const gradient_plan *plan = &pass->plan;
    const nn_conv_planes *planes = &plan->planes;
    const int64_t plane = planes->dst_h * planes->dst_w;
    const int64_t n_groups = nn_cpu_div_up(plan->k, TILE_CHANNELS);
    const int64_t group_size = nn_cpu_div_up(plan->k, n_groups);
    const float *dy = pass->dy + image * plan->k * plane + rows.first * planes->dst_w;
    tile t = {.x = copy,
              .n_rows = rows.n,
              .n_cols = planes->dst_w,
              .dy_plane = plane,
              .x_row_floats = planes->row_floats,
              .sum_pitch = plan->n_inputs * NN_VEC_LANES};

    for (int64_t input = 0; input < plan->n_inputs; input += TILE_INPUTS) {
        const int64_t n = nn_cpu_least(TILE_INPUTS, plan->n_inputs - input);
        for (int64_t i = 0; i < n; i++) t.offset[i] = input_offset(plan, input + i);
        for (int64_t group = 0; group < n_groups; group++) {
            const nn_cpu_span channels = nn_cpu_part(plan->k, group_size, group);
            t.dy = dy + channels.first * plane;
            t.sum = sums + channels.first * t.sum_pitch + input * NN_VEC_LANES;
            tiles[channels.n - 1][n - 1](&t);
        }
    }
}

static void add_bias(const gradient_pass *pass, int64_t image, nn_cpu_span rows, float *sums)
{
    const nn_conv_planes *planes = &pass->plan.planes;
    const int64_t n = rows.n * planes->dst_w;

    for (int64_t k = 0; k < pass->plan.k; k++) {
        const float *dy = pass->dy +
                          ((image * pass->plan.k + k) * planes->dst_h + rows.first) * planes->dst_w;
        float *to = sums + k * NN_VEC_LANES;
        nn_vec sum[2] = {nn_vec_all(0.0f), nn_vec_all(0.0f)};
        int64_t i = 0;
        for (; i + 2 * NN_VEC_LANES <= n; i += 2 * NN_VEC_LANES) {
            sum[0] += nn_vec_load(dy + i);
            sum[1] += nn_vec_load(dy + i + NN_VEC_LANES);
        }
        for (; i < n; i += NN_VEC_LANES) {
            sum[0] += nn_vec_load_part(dy + i, (int)nn_cpu_least(NN_VEC_LANES, n - i));
        }
        nn_vec_store(to, nn_vec_load(to) + (sum[0] + sum[1]));
    }
}

static void share_chunk(void *arg, int64_t share, int thread_idx)
{
    const gradient_pass *pass = arg;
    const gradient_plan *plan = &pass->plan;
    const nn_conv_planes *planes = &plan->planes;
    const nn_cpu_span images = nn_cpu_part(planes->n, plan->images_per_share, share);
    float *const copy = pass->copies + thread_idx * planes->copy_floats;
    float *const sums = pass->sums + share * plan->share_floats;

    memset(sums, 0, (size_t)plan->share_floats * sizeof(float));
    for (int64_t i = images.first; i < images.first + images.n; i++) {
        for (int64_t band = 0; band < planes->n_bands; band++) {
            const nn_cpu_span rows = nn_cpu_part(planes->dst_h, planes->rows_per_band, band);
            nn_conv_planes_copy(planes, pass->x, i, rows.first, rows.n, copy);
            add_band(pass, i, rows, copy, sums);
            if (pass->dbias == NULL) continue;
            add_bias(pass, i, rows, sums + plan->k * plan->n_inputs * NN_VEC_LANES);
        }
    }
}

/* --- From shares to the gradients ------------------------------------------------------------- */

/* The sum of all shares and lanes, which start at `at` of each share. */
static float total(const gradient_pass *pass, int64_t at)
{
    const float *from = pass->sums + at;
    nn_vec sum = nn_vec_load(from);
    double value = 0.0;

    for (int64_t share = 1; share < pass->plan.n_shares; share++) {
        sum += nn_vec_load(from + share * pass->plan.share_floats);
    }
    for (int i = 0; i < NN_VEC_LANES; i++) value += (double)sum[i];
    return (float)value;
}

/* One output channel. */
static void total_chunk(void *arg, int64_t k, int thread_idx)
{
    const gradient_pass *pass = arg;
    const gradient_plan *plan = &pass->plan;
    const int64_t n = plan->n_inputs;

    (void)thread_idx;
    for (int64_t i = 0; i < n; i++) {
        pass->dfilter[k * n + i] = total(pass, (k * n + i) * NN_VEC_LANES);
    }
    if (pass->dbias != NULL) {
        pass->dbias[k] = total(pass, (plan->k * n + k) * NN_VEC_LANES);
    }
}

void nn_conv_planes_gradient_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                 const float *dy, float *dfilter, float *dbias, float *workspace)
{
    gradient_pass pass = {.x = x, .dy = dy, .dfilter = dfilter, .dbias = dbias, .sums = workspace};

    make_plan(geom, &pass.plan);
    pass.copies = workspace + pass.plan.most_shares * pass.plan.share_floats;
    nn_cpu_run(backend, pass.plan.n_shares, share_chunk, &pass);
    nn_cpu_run(backend, geom->k, total_chunk, &pass);
}
