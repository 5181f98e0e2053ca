#include "nn/backends/cpu/conv_lines_internal.h"

#include <string.h>

/* The gradient of the filter. The lanes of a sum are every NN_VEC_LANES-th column; a tile of sums
 * is some channels of dy and some columns of taps, of one point and one channel of x. Images are
 * cut into shares, whose sums are added up across lanes and transformed back, and then added in
 * their order. */
enum {
    MOST_SHARES = 16,
    TILE_CHANNELS = NN_VEC_LANES == 16 ? 6 : 2, /* their vectors and sums fit the registers */
    TILE_COLS = 3
};

typedef struct gradient_plan {
    nn_conv_planes planes;
    int64_t n_sums;   /* of a share: (point, c, s, k), then k for the bias; vectors */
    int64_t dy_pitch; /* of a transformed row of dy */
    int64_t share_floats;
    int64_t images_per_share, n_shares, most_shares;
    int64_t x_floats, dy_floats, sum_floats, scratch_floats; /* of a thread: the copy, and these */
} gradient_plan;

int nn_conv_lines_gradient_fits(const nn_conv2d_geom *geom)
{
    nn_conv_planes planes;

    if (!nn_conv_planes_fits_forward(geom)) return 0;
    nn_conv_planes_forward(geom, &planes);
    return planes.is_lines;
}

static int64_t round_up(int64_t n)
{
    return nn_cpu_div_up(n, NN_CPU_BLOCK) * NN_CPU_BLOCK;
}

static gradient_plan plan_of(const nn_conv2d_geom *geom)
{
    gradient_plan plan = {.dy_pitch = round_up(geom->q)};

    nn_conv_planes_forward(geom, &plan.planes);
    const int64_t n_tiles = nn_lines_tiles(plan.planes.rows_per_band);
    plan.n_sums = (NN_LINES_POINTS * geom->c * geom->s + 1) * geom->k;
    plan.share_floats = round_up(geom->k * (geom->c * NN_LINES_TAPS * geom->s + 1));
    plan.most_shares = nn_cpu_least(geom->n, MOST_SHARES);
    plan.images_per_share = nn_cpu_div_up(geom->n, plan.most_shares);
    plan.n_shares = nn_cpu_div_up(geom->n, plan.images_per_share);
    plan.x_floats = nn_conv_lines_x_floats(&plan.planes, n_tiles);
    plan.dy_floats = NN_LINES_POINTS * geom->k * n_tiles * plan.dy_pitch;
    plan.sum_floats = nn_cpu_div_up(plan.n_sums, NN_VEC_LANES) * NN_VEC_LANES * NN_VEC_LANES;
    plan.scratch_floats = plan.planes.copy_floats + plan.x_floats + plan.dy_floats +
                          plan.sum_floats;
    return plan;
}

int64_t nn_conv_lines_gradient_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    const gradient_plan plan = plan_of(geom);

    return plan.most_shares * plan.share_floats + backend->n_threads * plan.scratch_floats;
}

typedef struct gradient_pass {
    gradient_plan plan;
    const float *x, *dy;
    float *shares, *scratch;
} gradient_pass;

/* --- The transform of dy ---------------------------------------------------------------------- */

/* Rows of all channels of an image, (k, p, q), to (point, k, tile, column); 0 beyond them. */
static void transform_dy(const gradient_plan *plan, const float *dy, nn_cpu_span rows, float *to)
{
    const nn_conv_planes *planes = &plan->planes;
    const int64_t n_tiles = nn_lines_tiles(rows.n);
    const int64_t point_floats = planes->dst_c * n_tiles * plan->dy_pitch;

    for (int64_t k = 0; k < planes->dst_c; k++) {
        for (int64_t row = 0; row < n_tiles * NN_LINES_OUT; row += NN_LINES_OUT) {
            const float *from = dy + (k * planes->dst_h + rows.first + row) * planes->dst_w;
            for (int64_t col = 0; col < planes->dst_w; col += NN_VEC_LANES) {
                const int n = (int)nn_cpu_least(NN_VEC_LANES, planes->dst_w - col);
                nn_vec y[NN_LINES_OUT], points[NN_LINES_POINTS];
                CVY_UNROLL(4) for (int i = 0; i < NN_LINES_OUT; i++)
                {
                    const float *at = from + i * planes->dst_w + col;
                    y[i] = row + i < rows.n ? nn_vec_load_part(at, n) : nn_vec_all(0.0f);
                }
                nn_lines_output_adjoint(y, points);
                CVY_UNROLL(8) for (int i = 0; i < NN_LINES_POINTS; i++)
                {
                    nn_vec_store(to + i * point_floats + col, points[i]);
                }
            }
            to += plan->dy_pitch;
        }
    }
}

/* --- Sums ------------------------------------------------------------------------------------- */

/* Some channels of dy and some columns of taps, over all rows of tiles. */
typedef struct tile {
    const float *dy, *x;
    int64_t n_rows, n_cols, dy_pitch, x_pitch;
    int64_t dy_channel, x_tap; /* floats to the next channel, to the next column of taps */
    float *sum;                /* (column of taps, channel), sum_pitch to the next column */
    int64_t sum_pitch;
} tile;

CVY_INLINE_ALWAYS void run_tile(const tile *t, int n_channels, int n_taps)
{
    nn_vec sum[TILE_COLS][TILE_CHANNELS];

    CVY_UNROLL(4) for (int s = 0; s < n_taps; s++)
    {
        CVY_UNROLL(8) for (int k = 0; k < n_channels; k++) sum[s][k] = nn_vec_all(0.0f);
    }
    for (int64_t row = 0; row < t->n_rows; row++) {
        for (int64_t col = 0; col < t->n_cols; col += NN_VEC_LANES) {
            const float *dy = t->dy + row * t->dy_pitch + col;
            const float *x = t->x + row * t->x_pitch + col;
            nn_vec d[TILE_CHANNELS];
            CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
            {
                d[k] = nn_vec_load(dy + k * t->dy_channel);
                CVY_KEEP_VECTOR(d[k]);
            }
            CVY_UNROLL(4) for (int s = 0; s < n_taps; s++)
            {
                const nn_vec value = nn_vec_load(x + s * t->x_tap);
                CVY_UNROLL(8) for (int k = 0; k < n_channels; k++) sum[s][k] += value * d[k];
            }
        }
    }
    CVY_UNROLL(4) for (int s = 0; s < n_taps; s++)
    {
        CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
        {
            float *to = t->sum + s * t->sum_pitch + k * NN_VEC_LANES;
            nn_vec_store(to, nn_vec_load(to) + sum[s][k]);
        }
    }
}

/* One function per shape, so that each keeps its sums in registers. */
#define ALL_COLS(X, channels) X(channels, 1) X(channels, 2) X(channels, 3)
#if defined(__AVX512F__)
#define ALL_TILES(X)                                                                               \
    ALL_COLS(X, 1) ALL_COLS(X, 2) ALL_COLS(X, 3) ALL_COLS(X, 4) ALL_COLS(X, 5) ALL_COLS(X, 6)
#else
#define ALL_TILES(X) ALL_COLS(X, 1) ALL_COLS(X, 2)
#endif

#define DEFINE(channels, taps)                                                                     \
    static void tile_##channels##_##taps(const tile *t)                                            \
    {                                                                                              \
        run_tile(t, channels, taps);                                                               \
    }
ALL_TILES(DEFINE)
#undef DEFINE

#define ENTRY(channels, taps) [channels - 1][taps - 1] = tile_##channels##_##taps,
static void (*const tiles[TILE_CHANNELS][TILE_COLS])(const tile *t) = {ALL_TILES(ENTRY)};
#undef ENTRY

/* All columns of taps and all channels of dy, of one point and one channel of x. */
static void add_point(const gradient_plan *plan, tile t)
{
    const int64_t n_k = plan->planes.dst_c, n_s = plan->planes.taps_w;
    const int64_t k_size = nn_cpu_div_up(n_k, nn_cpu_div_up(n_k, TILE_CHANNELS));
    const tile all = t;

    for (int64_t s = 0; s < n_s; s += TILE_COLS) {
        for (int64_t k = 0; k < n_k; k += k_size) {
            t.x = all.x + s * all.x_tap;
            t.dy = all.dy + k * all.dy_channel;
            t.sum = all.sum + s * all.sum_pitch + k * NN_VEC_LANES;
            tiles[nn_cpu_least(k_size, n_k - k) - 1][nn_cpu_least(TILE_COLS, n_s - s) - 1](&t);
        }
    }
}

/* dy's value at the point 1 is the sum of a column of a tile. */
static void add_bias(const gradient_plan *plan, int64_t n_tiles, const float *dy, float *sum)
{
    for (int64_t k = 0; k < plan->planes.dst_c; k++) {
        const float *from = dy + (plan->planes.dst_c + k) * n_tiles * plan->dy_pitch;
        nn_vec total = nn_vec_load(sum + k * NN_VEC_LANES);
        for (int64_t row = 0; row < n_tiles; row++) {
            for (int64_t col = 0; col < plan->planes.dst_w; col += NN_VEC_LANES) {
                total += nn_vec_load(from + row * plan->dy_pitch + col);
            }
        }
        nn_vec_store(sum + k * NN_VEC_LANES, total);
    }
}

static void add_band(const gradient_pass *pass, int64_t image, nn_cpu_span rows, float *copy)
{
    const gradient_plan *plan = &pass->plan;
    const nn_conv_planes *planes = &plan->planes;
    const int64_t n_tiles = nn_lines_tiles(rows.n), n_k = planes->dst_c;
    float *const x = copy + planes->copy_floats, *const dy = x + plan->x_floats;
    float *sum = dy + plan->dy_floats;
    tile t = {.n_rows = n_tiles,
              .n_cols = planes->dst_w,
              .dy_pitch = plan->dy_pitch,
              .x_pitch = nn_lines_pitch(planes),
              .dy_channel = n_tiles * plan->dy_pitch,
              .x_tap = planes->dil_w,
              .sum_pitch = n_k * NN_VEC_LANES};

    nn_conv_planes_copy(planes, pass->x, image, rows.first, n_tiles * NN_LINES_OUT, copy);
    nn_conv_lines_of_x(planes, n_tiles, copy, x);
    transform_dy(plan, pass->dy + image * n_k * planes->dst_h * planes->dst_w, rows, dy);
    for (int64_t point = 0; point < NN_LINES_POINTS; point++) {
        for (int64_t c = 0; c < planes->src_c; c++) {
            t.x = x + (point * planes->src_c + c) * n_tiles * t.x_pitch;
            t.dy = dy + point * n_k * t.dy_channel;
            t.sum = sum;
            add_point(plan, t);
            sum += planes->taps_w * t.sum_pitch;
        }
    }
    add_bias(plan, n_tiles, dy, sum);
}

/* --- From sums to the gradients --------------------------------------------------------------- */

/* Float i becomes the sum of the lanes of vector i. */
static void add_lanes(int64_t n_vecs, float *sums)
{
    for (int64_t first = 0; first < n_vecs; first += NN_VEC_LANES) {
        nn_vec v[NN_VEC_LANES];
        CVY_UNROLL(16) for (int i = 0; i < NN_VEC_LANES; i++)
        {
            v[i] = nn_vec_load(sums + (first + i) * NN_VEC_LANES);
        }
        nn_vec_store(sums + first, nn_vec_sums(v));
    }
}

/* sums: (point, c, s, k), then k; share: (k, c, r, s), then k. */
static void sums_to_taps(const gradient_plan *plan, const float *sums, float *share)
{
    const nn_conv_planes *planes = &plan->planes;
    const int64_t n_k = planes->dst_c, n_s = planes->taps_w, n_taps = NN_LINES_TAPS * n_s;
    const int64_t point_floats = planes->src_c * n_s * n_k;
    float factors[NN_LINES_TAPS][NN_LINES_POINTS];

    for (int r = 0; r < NN_LINES_TAPS; r++) {
        for (int i = 0; i < NN_LINES_POINTS; i++) factors[r][i] = nn_lines_filter_factor(i, r);
    }
    for (int64_t c = 0; c < planes->src_c; c++) {
        for (int64_t s = 0; s < n_s; s++) {
            for (int64_t k = 0; k < n_k; k++) {
                const float *from = sums + (c * n_s + s) * n_k + k;
                float *const to = share + (k * planes->src_c + c) * n_taps + s;
                for (int r = 0; r < NN_LINES_TAPS; r++) {
                    float sum = 0.0f;
                    for (int i = 0; i < NN_LINES_POINTS; i++) {
                        sum += factors[r][i] * from[i * point_floats];
                    }
                    to[r * n_s] = sum;
                }
            }
        }
    }
    memcpy(share + n_k * planes->src_c * n_taps, sums + NN_LINES_POINTS * point_floats,
           (size_t)n_k * sizeof *share);
}

static void share_chunk(void *arg, int64_t share, int thread_idx)
{
    const gradient_pass *pass = arg;
    const gradient_plan *plan = &pass->plan;
    const nn_conv_planes *planes = &plan->planes;
    const nn_cpu_span images = nn_cpu_part(planes->n, plan->images_per_share, share);
    float *const copy = pass->scratch + thread_idx * plan->scratch_floats;
    float *const sums = copy + plan->scratch_floats - plan->sum_floats;

    memset(sums, 0, (size_t)plan->sum_floats * sizeof *sums);
    for (int64_t i = images.first; i < images.first + images.n; i++) {
        for (int64_t band = 0; band < planes->n_bands; band++) {
            add_band(pass, i, nn_cpu_part(planes->dst_h, planes->rows_per_band, band), copy);
        }
    }
    add_lanes(plan->n_sums, sums);
    sums_to_taps(plan, sums, pass->shares + share * plan->share_floats);
}

cvy_status nn_conv_lines_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                         const float *x, const float *dy, float *dfilter,
                                         float *dbias, float *workspace)
{
    gradient_pass pass = {.plan = plan_of(geom), .x = x, .dy = dy, .shares = workspace};
    const gradient_plan *plan = &pass.plan;
    const int64_t n = geom->k * geom->c * NN_LINES_TAPS * geom->s;

    pass.scratch = workspace + plan->most_shares * plan->share_floats;
    nn_cpu_run(backend, plan->n_shares, share_chunk, &pass);
    for (int64_t i = 0; i < n + (dbias != NULL ? geom->k : 0); i++) {
        double sum = 0.0;
        for (int64_t share = 0; share < plan->n_shares; share++) {
            sum += (double)workspace[share * plan->share_floats + i];
        }
        *(i < n ? dfilter + i : dbias + (i - n)) = (float)sum;
    }
    return CVY_OK;
}
