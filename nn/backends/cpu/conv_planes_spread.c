#include "nn/backends/cpu/conv_planes_internal.h"

/* From planes to blocks: the lanes of a sum are 16 channels of y, and a tile is some pixels of two
 * rows, whose values meet the same vectors of the filter. Strides are 1. */
enum {
    PIXELS = NN_VEC_LANES == 16 ? 12 : 5, /* of a row: two rows of sums fill the registers */
    MOST_PIXELS = 12,
    ROWS = 2
};

int nn_conv_planes_spread_fits(const nn_conv2d_geom *geom)
{
    nn_conv_planes planes;

    if (geom->groups != 1 || geom->stride_h != 1 || geom->stride_w != 1 ||
        nn_cpu_is_blocked(geom->c) || !nn_cpu_is_blocked(geom->k)) {
        return 0;
    }
    nn_conv_planes_input(geom, &planes);
    return nn_conv_planes_copy_fits(&planes);
}

static int64_t filter_floats(const nn_conv2d_geom *geom)
{
    return nn_cpu_blocks(geom->k) * geom->c * geom->r * geom->s * NN_CPU_BLOCK;
}

int64_t nn_conv_planes_spread_floats(const nn_conv2d_geom *geom, int n_threads)
{
    nn_conv_planes planes;

    nn_conv_planes_input(geom, &planes);
    return filter_floats(geom) + nn_cpu_blocks(geom->k) * NN_CPU_BLOCK +
           n_threads * planes.copy_floats;
}

typedef struct spread_pass {
    nn_conv_planes planes;
    const float *x;
    const float *filter, *bias; /* (blocks, c, r, s, 16) and (blocks, 16) */
    float *y, *copies;
} spread_pass;

typedef struct tile {
    const float *x[ROWS]; /* what the first tap of the first pixel reads */
    float *y[ROWS];
    const float *filter, *bias;
} tile;

/* One channel and one row of taps. */
CVY_INLINE_ALWAYS const float *add_tap_row(const nn_conv_planes *planes, const tile *t, int64_t at,
                                           const float *filter, int n_rows, int n_pixels,
                                           nn_vec sum[ROWS][MOST_PIXELS])
{
    for (int64_t s = 0; s < planes->taps_w; s++) {
        const nn_vec f = nn_vec_load(filter);
        CVY_UNROLL(2) for (int i = 0; i < n_rows; i++)
        {
            const float *x = t->x[i] + at + s * planes->dil_w;
            CVY_UNROLL(16) for (int j = 0; j < n_pixels; j++) sum[i][j] += nn_vec_all(x[j]) * f;
        }
        filter += NN_CPU_BLOCK;
    }
    return filter;
}

CVY_INLINE_ALWAYS void run_tile(const nn_conv_planes *planes, const tile *t, int n_rows,
                                int n_pixels)
{
    for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
        const float *filter = t->filter + lane;
        const nn_vec bias = nn_vec_load(t->bias + lane);
        nn_vec sum[ROWS][MOST_PIXELS];

        CVY_UNROLL(2) for (int i = 0; i < n_rows; i++)
        {
            CVY_UNROLL(16) for (int j = 0; j < n_pixels; j++) sum[i][j] = nn_vec_all(0.0f);
        }
        for (int64_t c = 0; c < planes->src_c; c++) {
            for (int64_t r = 0; r < planes->taps_h; r++) {
                const int64_t at = c * planes->plane_floats +
                                   r * planes->dil_h * planes->row_floats;
                filter = add_tap_row(planes, t, at, filter, n_rows, n_pixels, sum);
            }
        }
        CVY_UNROLL(2) for (int i = 0; i < n_rows; i++)
        {
            CVY_UNROLL(16) for (int j = 0; j < n_pixels; j++)
            {
                nn_vec_store(t->y[i] + j * NN_CPU_BLOCK + lane, sum[i][j] + bias);
            }
        }
    }
}

/* One function per shape of tile, so that each keeps its sums in registers. */
#define UP_TO_5(X, rows) X(rows, 1) X(rows, 2) X(rows, 3) X(rows, 4) X(rows, 5)
#if defined(__AVX512F__)
#define UP_TO_MOST(X, rows)                                                                        \
    UP_TO_5(X, rows)                                                                               \
    X(rows, 6) X(rows, 7) X(rows, 8) X(rows, 9) X(rows, 10) X(rows, 11) X(rows, 12)
#else
#define UP_TO_MOST(X, rows) UP_TO_5(X, rows)
#endif
#define ALL_TILES(X) UP_TO_MOST(X, 1) UP_TO_MOST(X, 2)

#define DEFINE(rows, pixels)                                                                       \
    static void tile_##rows##_##pixels(const nn_conv_planes *planes, const tile *t)                \
    {                                                                                              \
        run_tile(planes, t, rows, pixels);                                                         \
    }
ALL_TILES(DEFINE)
#undef DEFINE

#define ENTRY(rows, pixels) [rows - 1][pixels - 1] = tile_##rows##_##pixels,
static void (*const tiles[ROWS][PIXELS])(const nn_conv_planes *planes,
                                         const tile *t) = {ALL_TILES(ENTRY)};
#undef ENTRY

/* y: one block of one image. */
static void run_band(const spread_pass *pass, nn_cpu_span rows, const float *copy, tile t, float *y)
{
    const nn_conv_planes *planes = &pass->planes;
    const int64_t n_parts = nn_cpu_div_up(planes->dst_w, PIXELS);
    const int64_t size = nn_cpu_div_up(planes->dst_w, n_parts);

    for (int64_t i = 0; i < rows.n; i += ROWS) {
        const int64_t n_rows = nn_cpu_least(ROWS, rows.n - i);
        for (int64_t col = 0; col < planes->dst_w; col += size) {
            for (int64_t j = 0; j < n_rows; j++) {
                t.x[j] = copy + (i + j) * planes->row_floats + col;
                t.y[j] = y + ((rows.first + i + j) * planes->dst_w + col) * NN_CPU_BLOCK;
            }
            tiles[n_rows - 1][nn_cpu_least(size, planes->dst_w - col) - 1](planes, &t);
        }
    }
}

static void spread_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const spread_pass *pass = arg;
    const nn_conv_planes *planes = &pass->planes;
    const int64_t blocks = nn_cpu_blocks(planes->dst_c);
    const int64_t plane = planes->dst_h * planes->dst_w * NN_CPU_BLOCK;
    const int64_t depth = planes->src_c * planes->taps_h * planes->taps_w;
    const nn_cpu_span images = nn_cpu_part(planes->n, planes->images_per_chunk,
                                           chunk_idx / planes->n_bands);
    const nn_cpu_span rows = nn_cpu_part(planes->dst_h, planes->rows_per_band,
                                         chunk_idx % planes->n_bands);
    float *const copy = pass->copies + thread_idx * planes->copy_floats;

    for (int64_t i = images.first; i < images.first + images.n; i++) {
        nn_conv_planes_copy(planes, pass->x, i, rows.first, rows.n, copy);
        for (int64_t block = 0; block < blocks; block++) {
            const tile t = {.filter = pass->filter + block * depth * NN_CPU_BLOCK,
                            .bias = pass->bias + block * NN_CPU_BLOCK};
            run_band(pass, rows, copy, t, pass->y + (i * blocks + block) * plane);
        }
    }
}

static void pack(const nn_conv2d_geom *geom, const float *filter, const float *bias, float *packed,
                 float *packed_bias)
{
    const int64_t depth = geom->c * geom->r * geom->s;

    for (int64_t k = 0; k < nn_cpu_blocks(geom->k) * NN_CPU_BLOCK; k++) {
        float *to = packed + k / NN_CPU_BLOCK * depth * NN_CPU_BLOCK + k % NN_CPU_BLOCK;
        for (int64_t i = 0; i < depth; i++) {
            to[i * NN_CPU_BLOCK] = k < geom->k ? filter[k * depth + i] : 0.0f;
        }
        packed_bias[k] = k < geom->k && bias != NULL ? bias[k] : 0.0f;
    }
}

void nn_conv_planes_spread_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                               const float *filter, const float *bias, float *y, float *workspace)
{
    float *const packed_bias = workspace + filter_floats(geom);
    spread_pass pass = {.x = x,
                        .filter = workspace,
                        .bias = packed_bias,
                        .y = y,
                        .copies = packed_bias + nn_cpu_blocks(geom->k) * NN_CPU_BLOCK};
    const nn_conv_planes *planes = &pass.planes;

    nn_conv_planes_input(geom, &pass.planes);
    pack(geom, filter, bias, workspace, packed_bias);
    nn_cpu_run(backend, nn_cpu_div_up(planes->n, planes->images_per_chunk) * planes->n_bands,
               spread_chunk, &pass);
}
