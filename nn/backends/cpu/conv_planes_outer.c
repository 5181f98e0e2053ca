#include "nn/backends/cpu/conv_planes_internal.h"

#include <string.h>

/* The gradient of a filter where x is in planes and y in blocks: the lanes of a sum are 16 output
 * channels, and a tile is some rows of taps, (channel, r) with all s, that meet the same dy. Images
 * are cut into shares, whose sums are added in their order. */
enum {
    SHORT_TAPS = 3,
    LONG_TAPS = 5,
    SHORT_ROWS = NN_VEC_LANES == 16 ? 8 : 4, /* of taps: their sums fill the registers */
    LONG_ROWS = NN_VEC_LANES == 16 ? 5 : 2,
    MOST_ROWS = 8,
    MOST_SHARES = 16,
    MOST_SUMS_FLOATS = 4 * 1024 * 1024 /* of all shares: 16 MiB */
};

typedef struct outer_plan {
    nn_conv_planes planes;
    int64_t k, k_blocks, n_tap_rows;
    int64_t share_floats; /* (blocks, tap rows, s, 16), then (blocks, 16) for the bias */
    int64_t images_per_share, n_shares, most_shares;
} outer_plan;

int nn_conv_planes_outer_fits(const nn_conv2d_geom *geom)
{
    nn_conv_planes planes;

    if (geom->groups != 1 || geom->stride_h != 1 || geom->stride_w != 1 || geom->dil_w != 1 ||
        nn_cpu_is_blocked(geom->c) || !nn_cpu_is_blocked(geom->k) ||
        (geom->s != SHORT_TAPS && geom->s != LONG_TAPS)) {
        return 0;
    }
    nn_conv_planes_input(geom, &planes);
    return nn_conv_planes_copy_fits(&planes);
}

static void make_plan(const nn_conv2d_geom *geom, outer_plan *plan)
{
    nn_conv_planes_input(geom, &plan->planes);
    plan->k = geom->k;
    plan->k_blocks = nn_cpu_blocks(geom->k);
    plan->n_tap_rows = geom->c * geom->r;
    plan->share_floats = plan->k_blocks * (plan->n_tap_rows * geom->s + 1) * NN_CPU_BLOCK;
    const int64_t most = nn_cpu_most(1, MOST_SUMS_FLOATS / plan->share_floats);
    plan->most_shares = nn_cpu_least(geom->n, nn_cpu_least(MOST_SHARES, most));
    plan->images_per_share = nn_cpu_div_up(geom->n, plan->most_shares);
    plan->n_shares = nn_cpu_div_up(geom->n, plan->images_per_share);
}

int64_t nn_conv_planes_outer_floats(const nn_conv2d_geom *geom, int n_threads)
{
    outer_plan plan;

    make_plan(geom, &plan);
    return plan.most_shares * plan.share_floats + n_threads * plan.planes.copy_floats;
}

typedef struct outer_pass {
    outer_plan plan;
    const float *x, *dy;
    float *dfilter, *dbias;
    float *sums, *copies;
} outer_pass;

/* --- Tiles ------------------------------------------------------------------------------------ */

/* Some rows of one image and one block of dy, and some rows of taps. */
typedef struct tile {
    const float *dy;
    int64_t n_rows, n_cols, x_row_floats;
    const float *x[MOST_ROWS]; /* what the first tap of each row of taps reads */
    float *sum;                /* (tap rows, s, 16) */
} tile;

CVY_INLINE_ALWAYS void add_products(const tile *t, int64_t first, int n_rows, int n_taps,
                                    nn_vec sum[MOST_ROWS][LONG_TAPS])
{
    for (int64_t row = 0; row < t->n_rows; row++) {
        const float *dy = t->dy + row * t->n_cols * NN_CPU_BLOCK + first;
        const float *x[MOST_ROWS];
        CVY_UNROLL(8) for (int i = 0; i < n_rows; i++) x[i] = t->x[i] + row * t->x_row_floats;
        for (int64_t col = 0; col < t->n_cols; col++) {
            const nn_vec d = nn_vec_load(dy + col * NN_CPU_BLOCK);
            CVY_UNROLL(8) for (int i = 0; i < n_rows; i++)
            {
                CVY_UNROLL(8) for (int s = 0; s < n_taps; s++)
                {
                    sum[i][s] += nn_vec_all(x[i][col + s]) * d;
                }
            }
        }
    }
}

CVY_INLINE_ALWAYS void run_tile(const tile *t, int n_rows, int n_taps)
{
    for (int64_t first = 0; first < NN_CPU_BLOCK; first += NN_VEC_LANES) {
        nn_vec sum[MOST_ROWS][LONG_TAPS];

        CVY_UNROLL(8) for (int i = 0; i < n_rows; i++)
        {
            CVY_UNROLL(8) for (int s = 0; s < n_taps; s++) sum[i][s] = nn_vec_all(0.0f);
        }
        add_products(t, first, n_rows, n_taps, sum);
        CVY_UNROLL(8) for (int i = 0; i < n_rows; i++)
        {
            CVY_UNROLL(8) for (int s = 0; s < n_taps; s++)
            {
                float *to = t->sum + (i * n_taps + s) * NN_CPU_BLOCK + first;
                nn_vec_store(to, nn_vec_load(to) + sum[i][s]);
            }
        }
    }
}

/* One function per shape, so that each keeps its sums in registers. */
#define UP_TO_2(X, taps) X(1, taps) X(2, taps)
#define UP_TO_4(X, taps) UP_TO_2(X, taps) X(3, taps) X(4, taps)
#if defined(__AVX512F__)
#define SHORT_TILES(X) UP_TO_4(X, 3) X(5, 3) X(6, 3) X(7, 3) X(8, 3)
#define LONG_TILES(X)  UP_TO_4(X, 5) X(5, 5)
#else
#define SHORT_TILES(X) UP_TO_4(X, 3)
#define LONG_TILES(X)  UP_TO_2(X, 5)
#endif

#define DEFINE(rows, taps)                                                                         \
    static void tile_##rows##_##taps(const tile *t)                                                \
    {                                                                                              \
        run_tile(t, rows, taps);                                                                   \
    }
SHORT_TILES(DEFINE)
LONG_TILES(DEFINE)
#undef DEFINE

typedef void (*tile_function)(const tile *t);

#define ENTRY(rows, taps) [rows - 1] = tile_##rows##_##taps,
static const tile_function short_tiles[SHORT_ROWS] = {SHORT_TILES(ENTRY)};
static const tile_function long_tiles[LONG_ROWS] = {LONG_TILES(ENTRY)};
#undef ENTRY

/* --- Shares ----------------------------------------------------------------------------------- */

/* dy: one block of these rows. */
static void add_block(const outer_plan *plan, const float *dy, nn_cpu_span rows, const float *copy,
                      float *sums)
{
    const nn_conv_planes *planes = &plan->planes;
    const int is_long = planes->taps_w == LONG_TAPS;
    const int64_t most = is_long ? LONG_ROWS : SHORT_ROWS;
    const int64_t size = nn_cpu_div_up(plan->n_tap_rows, nn_cpu_div_up(plan->n_tap_rows, most));
    tile t = {
        .dy = dy, .n_rows = rows.n, .n_cols = planes->dst_w, .x_row_floats = planes->row_floats};

    for (int64_t i = 0; i * size < plan->n_tap_rows; i++) {
        const nn_cpu_span part = nn_cpu_part(plan->n_tap_rows, size, i);
        for (int64_t j = 0; j < part.n; j++) {
            const int64_t c = (part.first + j) / planes->taps_h;
            const int64_t r = (part.first + j) % planes->taps_h;
            t.x[j] = copy + c * planes->plane_floats + r * planes->dil_h * planes->row_floats;
        }
        t.sum = sums + part.first * planes->taps_w * NN_CPU_BLOCK;
        if (is_long) {
            long_tiles[part.n - 1](&t);
        } else {
            short_tiles[part.n - 1](&t);
        }
    }
}

static void add_bias(const float *dy, int64_t n_pixels, float *sum)
{
    for (int64_t v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
        nn_vec even = nn_vec_all(0.0f), odd = nn_vec_all(0.0f);
        int64_t i = 0;
        for (; i + 2 <= n_pixels; i += 2) {
            even += nn_vec_load(dy + i * NN_CPU_BLOCK + v);
            odd += nn_vec_load(dy + (i + 1) * NN_CPU_BLOCK + v);
        }
        if (i < n_pixels) even += nn_vec_load(dy + i * NN_CPU_BLOCK + v);
        nn_vec_store(sum + v, nn_vec_load(sum + v) + (even + odd));
    }
}

static void share_chunk(void *arg, int64_t share, int thread_idx)
{
    const outer_pass *pass = arg;
    const outer_plan *plan = &pass->plan;
    const nn_conv_planes *planes = &plan->planes;
    const nn_cpu_span images = nn_cpu_part(planes->n, plan->images_per_share, share);
    const int64_t block_floats = plan->n_tap_rows * planes->taps_w * NN_CPU_BLOCK;
    float *const copy = pass->copies + thread_idx * planes->copy_floats;
    float *const sums = pass->sums + share * plan->share_floats;

    memset(sums, 0, (size_t)plan->share_floats * sizeof(float));
    for (int64_t i = images.first; i < images.first + images.n; i++) {
        for (int64_t band = 0; band < planes->n_bands; band++) {
            const nn_cpu_span rows = nn_cpu_part(planes->dst_h, planes->rows_per_band, band);
            nn_conv_planes_copy(planes, pass->x, i, rows.first, rows.n, copy);
            for (int64_t block = 0; block < plan->k_blocks; block++) {
                const float *dy = pass->dy +
                                  (((i * plan->k_blocks + block) * planes->dst_h) + rows.first) *
                                      planes->dst_w * NN_CPU_BLOCK;
                add_block(plan, dy, rows, copy, sums + block * block_floats);
                add_bias(dy, rows.n * planes->dst_w,
                         sums + plan->k_blocks * block_floats + block * NN_CPU_BLOCK);
            }
        }
    }
}

/* --- From shares to the gradients ------------------------------------------------------------- */

/* The sum of all shares, 16 floats that start at `at` of each. */
static void total(const outer_pass *pass, int64_t at, float out[NN_CPU_BLOCK])
{
    for (int64_t v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
        nn_vec sum = nn_vec_load(pass->sums + at + v);
        for (int64_t share = 1; share < pass->plan.n_shares; share++) {
            sum += nn_vec_load(pass->sums + share * pass->plan.share_floats + at + v);
        }
        nn_vec_store(out + v, sum);
    }
}

/* One channel of x, in a block of channels of dy. */
static void total_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const outer_pass *pass = arg;
    const outer_plan *plan = &pass->plan;
    const int64_t n_c = plan->planes.src_c, n_taps = plan->planes.taps_h * plan->planes.taps_w;
    const int64_t block = chunk_idx / n_c, c = chunk_idx % n_c, first = block * NN_CPU_BLOCK;
    const int64_t n_k = nn_cpu_least(NN_CPU_BLOCK, plan->k - first);
    float sum[NN_CPU_BLOCK];

    (void)thread_idx;
    for (int64_t tap = 0; tap < n_taps; tap++) {
        total(pass, (chunk_idx * n_taps + tap) * NN_CPU_BLOCK, sum);
        for (int64_t k = 0; k < n_k; k++) {
            pass->dfilter[((first + k) * n_c + c) * n_taps + tap] = sum[k];
        }
    }
    if (c > 0 || pass->dbias == NULL) return;
    total(pass, (plan->k_blocks * n_c * n_taps + block) * NN_CPU_BLOCK, sum);
    for (int64_t k = 0; k < n_k; k++) pass->dbias[first + k] = sum[k];
}

void nn_conv_planes_outer_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                              const float *dy, float *dfilter, float *dbias, float *workspace)
{
    outer_pass pass = {.x = x, .dy = dy, .dfilter = dfilter, .dbias = dbias, .sums = workspace};

    make_plan(geom, &pass.plan);
    pass.copies = workspace + pass.plan.most_shares * pass.plan.share_floats;
    nn_cpu_run(backend, pass.plan.n_shares, share_chunk, &pass);
    nn_cpu_run(backend, pass.plan.k_blocks * geom->c, total_chunk, &pass);
}
