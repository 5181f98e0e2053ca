#include "nn/backends/cpu/conv_lines_internal.h"

/* A step of work is some vectors of outputs, each of 4 rows and all channels. Its products at one
 * point after the other go to scratch, whence all points of a channel are transformed back. */

enum { MOST_CHANNELS = NN_PLANES_CHANNELS, MOST_VECS = 4 };

/* --- Scratch ---------------------------------------------------------------------------------- */

/* (point, dst channel, vector): as many vectors as a step has, at most. */
static int64_t products_floats(const nn_conv_planes *planes)
{
    return NN_LINES_POINTS * planes->dst_c * MOST_VECS * NN_VEC_LANES;
}

/* As many vectors as registers have room for, with the vectors they are made of. */
static int vecs_of_step(int64_t n_channels)
{
    const int64_t n_sums = NN_VEC_LANES == 16 ? 24 : 12;

    return (int)nn_cpu_most(1, nn_cpu_least(MOST_VECS, n_sums / n_channels));
}

/* Tiles that are transformed at once: the fewest that make whole steps, for the cache's sake. */
static int64_t tiles_of_group(const nn_conv_planes *planes)
{
    const int64_t vecs_of_row = nn_cpu_div_up(planes->dst_w, NN_VEC_LANES);
    const int64_t most = vecs_of_step(planes->dst_c);
    int64_t n = 1;

    while (n < most && n * vecs_of_row % most != 0) n++;
    return n;
}

int64_t nn_conv_lines_x_floats(const nn_conv_planes *planes, int64_t n_tiles)
{
    return NN_LINES_POINTS * planes->src_c * n_tiles * nn_lines_pitch(planes);
}

int64_t nn_conv_lines_scratch_floats(const nn_conv_planes *planes)
{
    return nn_conv_lines_x_floats(planes, tiles_of_group(planes)) +
           nn_cpu_div_up(products_floats(planes), NN_CPU_BLOCK) * NN_CPU_BLOCK;
}

/* --- The transforms of x and of the filter ---------------------------------------------------- */

void nn_conv_lines_of_x(const nn_conv_planes *planes, int64_t n_tiles, const float *copy, float *x)
{
    const int64_t pitch = nn_lines_pitch(planes);
    const int64_t point_floats = planes->src_c * n_tiles * pitch;

    for (int64_t c = 0; c < planes->src_c; c++) {
        for (int64_t tile = 0; tile < n_tiles; tile++) {
            const float *from = copy + c * planes->plane_floats +
                                tile * NN_LINES_OUT * planes->row_floats;
            float *to = x + (c * n_tiles + tile) * pitch;
            for (int64_t col = 0; col < planes->row_floats; col += NN_VEC_LANES) {
                nn_vec rows[NN_LINES_POINTS], points[NN_LINES_POINTS];
                CVY_UNROLL(8) for (int i = 0; i < NN_LINES_POINTS; i++)
                {
                    rows[i] = nn_vec_load(from + i * planes->row_floats + col);
                }
                nn_lines_input(rows, points);
                CVY_UNROLL(8) for (int i = 0; i < NN_LINES_POINTS; i++)
                {
                    nn_vec_store(to + i * point_floats + col, points[i]);
                }
            }
        }
    }
}

int64_t nn_conv_lines_filter_floats(const nn_conv_planes *planes)
{
    return nn_cpu_div_up(NN_LINES_POINTS * planes->src_c * planes->taps_w * planes->dst_c,
                         NN_CPU_BLOCK) *
           NN_CPU_BLOCK;
}

void nn_conv_lines_pack(const nn_conv_planes *planes, nn_planes_filter filter, float *packed)
{
    const int64_t n_taps = NN_LINES_TAPS * planes->taps_w;
    float factors[NN_LINES_POINTS][NN_LINES_TAPS];
    float *const end = packed + NN_LINES_POINTS * planes->src_c * planes->taps_w * planes->dst_c;
    const int64_t point_floats = (end - packed) / NN_LINES_POINTS;

    for (int point = 0; point < NN_LINES_POINTS; point++) {
        for (int r = 0; r < NN_LINES_TAPS; r++) {
            factors[point][r] = nn_lines_filter_factor(point, r);
        }
    }
    for (int64_t c = 0; c < planes->src_c; c++) {
        for (int64_t s = 0; s < planes->taps_w; s++) {
            for (int64_t k = 0; k < planes->dst_c; k++) {
                const float *from = filter.at + c * filter.src_stride + k * filter.dst_stride;
                float column[NN_LINES_TAPS];
                for (int r = 0; r < NN_LINES_TAPS; r++) {
                    const int64_t tap = r * planes->taps_w + s;
                    column[r] = from[filter.is_turned ? n_taps - 1 - tap : tap];
                }
                for (int point = 0; point < NN_LINES_POINTS; point++) {
                    float sum = 0.0f;
                    for (int r = 0; r < NN_LINES_TAPS; r++) sum += factors[point][r] * column[r];
                    packed[point * point_floats] = sum;
                }
                packed++;
            }
        }
    }
}

/* --- Products --------------------------------------------------------------------------------- */

/* Some vectors of outputs. */
typedef struct step {
    const float *x[MOST_VECS]; /* what the first column of taps reads, at the first point */
    float *y[MOST_VECS];       /* the first of 4 rows, in the first channel */
    int n_rows[MOST_VECS], n_cols[MOST_VECS]; /* that are inside */
    int n;
} step;

CVY_INLINE_ALWAYS void multiply(const nn_conv_planes *planes, const step *at, int64_t x_channel,
                                const float *filter, float *products, int n_channels, int n_vecs)
{
    for (int point = 0; point < NN_LINES_POINTS; point++) {
        nn_vec sum[MOST_CHANNELS][MOST_VECS];

        CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
        {
            CVY_UNROLL(8) for (int v = 0; v < n_vecs; v++) sum[k][v] = nn_vec_all(0.0f);
        }
        for (int64_t c = 0; c < planes->src_c; c++) {
            int64_t offset = (point * planes->src_c + c) * x_channel;
            for (int64_t s = 0; s < planes->taps_w; s++) {
                nn_vec x[MOST_VECS];
                CVY_UNROLL(8) for (int v = 0; v < n_vecs; v++)
                {
                    x[v] = nn_vec_load(at->x[v] + offset);
                }
                CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
                {
                    const nn_vec f = nn_vec_all(filter[k]);
                    CVY_UNROLL(8) for (int v = 0; v < n_vecs; v++) sum[k][v] += x[v] * f;
                }
                filter += n_channels;
                offset += planes->dil_w;
            }
        }
        CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
        {
            CVY_UNROLL(8) for (int v = 0; v < n_vecs; v++)
            {
                nn_vec_store(products, sum[k][v]);
                products += NN_VEC_LANES;
            }
        }
    }
}

/* One function per shape of step, so that each keeps its sums in registers. */
#define ALL_VECS(X, channels) X(channels, 1) X(channels, 2) X(channels, 3) X(channels, 4)
#define ALL_STEPS(X)                                                                               \
    ALL_VECS(X, 1)                                                                                 \
    ALL_VECS(X, 2)                                                                                 \
    ALL_VECS(X, 3) ALL_VECS(X, 4) ALL_VECS(X, 5) ALL_VECS(X, 6) ALL_VECS(X, 7) ALL_VECS(X, 8)

#define DEFINE(channels, vecs)                                                                     \
    static void multiply_##channels##_##vecs(const nn_conv_planes *planes, const step *at,         \
                                             int64_t x_channel, const float *filter,               \
                                             float *products)                                      \
    {                                                                                              \
        multiply(planes, at, x_channel, filter, products, channels, vecs);                         \
    }
ALL_STEPS(DEFINE)
#undef DEFINE

typedef void (*multiply_function)(const nn_conv_planes *planes, const step *at, int64_t x_channel,
                                  const float *filter, float *products);

#define ENTRY(channels, vecs) [channels - 1][vecs - 1] = multiply_##channels##_##vecs,
static const multiply_function multiply_steps[MOST_CHANNELS][MOST_VECS] = {ALL_STEPS(ENTRY)};
#undef ENTRY

/* One vector of one channel; products: at the first point, a pitch apart. */
CVY_INLINE_ALWAYS void put_rows(const float *products, int64_t pitch, nn_vec bias, float *y,
                                int64_t row_floats, int n_rows, int n_cols, int accumulate)
{
    nn_vec points[NN_LINES_POINTS], rows[NN_LINES_OUT];

    CVY_UNROLL(8) for (int i = 0; i < NN_LINES_POINTS; i++)
    {
        points[i] = nn_vec_load(products + i * pitch);
    }
    nn_lines_output(points, rows);
    CVY_UNROLL(4) for (int i = 0; i < NN_LINES_OUT; i++)
    {
        if (i >= n_rows) continue;
        nn_planes_put(y + i * row_floats, rows[i] + bias, n_cols, accumulate);
    }
}

/* One channel. */
static void put_products(const nn_planes_pass *pass, const step *at, int64_t k,
                         const float *products)
{
    const nn_conv_planes *planes = pass->planes;
    const int64_t pitch = planes->dst_c * at->n * NN_VEC_LANES, row_floats = planes->dst_w;
    const int64_t plane = planes->dst_h * planes->dst_w;
    const nn_vec bias = nn_vec_all(pass->bias != NULL ? pass->bias[k] : 0.0f);

    for (int v = 0; v < at->n; v++) {
        const float *from = products + v * NN_VEC_LANES;
        float *const y = at->y[v] + k * plane;
        const int n_rows = at->n_rows[v], n_cols = at->n_cols[v];
        if (pass->accumulate || n_rows < NN_LINES_OUT) {
            put_rows(from, pitch, bias, y, row_floats, n_rows, n_cols, pass->accumulate);
        } else if (n_cols == NN_VEC_LANES) {
            put_rows(from, pitch, bias, y, row_floats, NN_LINES_OUT, NN_VEC_LANES, 0);
        } else {
            put_rows(from, pitch, bias, y, row_floats, NN_LINES_OUT, n_cols, 0);
        }
    }
}

static void run_step(const nn_planes_pass *pass, const step *at, int64_t x_channel, float *products)
{
    const int64_t n_channels = pass->planes->dst_c;

    multiply_steps[n_channels - 1][at->n - 1](pass->planes, at, x_channel, pass->filter, products);
    for (int64_t k = 0; k < n_channels; k++) {
        put_products(pass, at, k, products + k * at->n * NN_VEC_LANES);
    }
}

/* Some tiles: rows of dst, whose first reads the first of the copy. */
static void run_group(const nn_planes_pass *pass, nn_cpu_span rows, const float *copy, float *dst,
                      float *x, float *products)
{
    const nn_conv_planes *planes = pass->planes;
    const int64_t n_tiles = nn_lines_tiles(rows.n), pitch = nn_lines_pitch(planes);
    const int most = vecs_of_step(planes->dst_c);
    step at = {.n = 0};

    nn_conv_lines_of_x(planes, n_tiles, copy, x);
    for (int64_t tile = 0; tile < n_tiles; tile++) {
        const int64_t row = tile * NN_LINES_OUT;
        for (int64_t col = 0; col < planes->dst_w; col += NN_VEC_LANES) {
            at.x[at.n] = x + tile * pitch + col;
            at.y[at.n] = dst + (rows.first + row) * planes->dst_w + col;
            at.n_rows[at.n] = (int)nn_cpu_least(NN_LINES_OUT, rows.n - row);
            at.n_cols[at.n] = (int)nn_cpu_least(NN_VEC_LANES, planes->dst_w - col);
            if (++at.n < most) continue;
            run_step(pass, &at, n_tiles * pitch, products);
            at.n = 0;
        }
    }
    if (at.n > 0) run_step(pass, &at, n_tiles * pitch, products);
}

void nn_conv_lines_band(const nn_planes_pass *pass, int64_t image, nn_cpu_span rows,
                        const float *copy, float *scratch)
{
    const nn_conv_planes *planes = pass->planes;
    const int64_t n_tiles = tiles_of_group(planes), size = n_tiles * NN_LINES_OUT;
    float *const dst = pass->dst + image * planes->dst_c * planes->dst_h * planes->dst_w;
    float *const products = scratch + nn_conv_lines_x_floats(planes, n_tiles);

    for (int64_t row = 0; row < rows.n; row += size) {
        const nn_cpu_span part = {rows.first + row, nn_cpu_least(size, rows.n - row)};
        run_group(pass, part, copy + row * planes->row_floats, dst, scratch, products);
    }
}
