#include "nn/backends/cpu/conv_planes_internal.h"

/* From blocks to planes: the lanes of a sum are channels of src, so that nothing is lost where rows
 * are short, and padding is skipped. A group of 16 neighbouring outputs is added up at once. */

/* One pixel's sums of every channel of dst: (channel, pixel of the group, 16). */
typedef float group_sums[NN_PLANES_CHANNELS][NN_CPU_BLOCK][NN_CPU_BLOCK];

/* Some neighbouring outputs. */
typedef struct tile {
    const nn_conv_planes *planes;
    const float *x, *filter; /* of the first tap */
    nn_cpu_span tap_rows, tap_cols;
    int64_t pixel; /* the first, in its group */
} tile;

CVY_INLINE_ALWAYS void add_taps(const tile *t, int64_t lane, int n_channels, int n_pixels,
                                nn_vec sum[NN_PLANES_CHANNELS][NN_PLANES_FOLD_PIXELS])
{
    const nn_conv_planes *planes = t->planes;
    const int64_t tap_floats = n_channels * NN_CPU_BLOCK;

    for (int64_t first = 0; first < planes->src_c; first += NN_CPU_BLOCK) {
        const int64_t block = first / NN_CPU_BLOCK;
        for (int64_t i = 0; i < t->tap_rows.n; i++) {
            const int64_t r = t->tap_rows.first + i;
            const float *x = t->x + block * planes->plane_floats +
                             r * planes->dil_h * planes->row_floats +
                             t->tap_cols.first * planes->dil_w * NN_CPU_BLOCK + lane;
            const float *filter =
                t->filter + lane +
                ((block * planes->taps_h + r) * planes->taps_w + t->tap_cols.first) * tap_floats;
            for (int64_t s = 0; s < t->tap_cols.n; s++) {
                nn_vec pixel[NN_PLANES_FOLD_PIXELS];
                CVY_UNROLL(8) for (int j = 0; j < n_pixels; j++)
                {
                    pixel[j] = nn_vec_load(x + j * NN_CPU_BLOCK);
                }
                CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
                {
                    nn_vec f = nn_vec_load(filter + k * NN_CPU_BLOCK);
                    CVY_KEEP_VECTOR(f);
                    CVY_UNROLL(8) for (int j = 0; j < n_pixels; j++) sum[k][j] += pixel[j] * f;
                }
                x += planes->dil_w * NN_CPU_BLOCK;
                filter += tap_floats;
            }
        }
    }
}

CVY_INLINE_ALWAYS void run_tile(const tile *t, int n_channels, int n_pixels, group_sums out)
{
    for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
        nn_vec sum[NN_PLANES_CHANNELS][NN_PLANES_FOLD_PIXELS];
        CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
        {
            CVY_UNROLL(8) for (int j = 0; j < n_pixels; j++) sum[k][j] = nn_vec_all(0.0f);
        }
        add_taps(t, lane, n_channels, n_pixels, sum);
        CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
        {
            CVY_UNROLL(8) for (int j = 0; j < n_pixels; j++)
            {
                nn_vec_store(out[k][t->pixel + j] + lane, sum[k][j]);
            }
        }
    }
}

/* One function per number of channels, so that each keeps its sums in registers. The fewer pixels
 * at once, the less padding is met: as many as hide the latency of an addition. */
#define ALL_TILES(X) X(1, 4) X(2, 4) X(3, 4) X(4, 2) X(5, 2) X(6, 2) X(7, 2) X(8, 2)

#define DEFINE(channels, pixels)                                                                   \
    static void tile_##channels(const tile *t, group_sums out)                                     \
    {                                                                                              \
        run_tile(t, channels, pixels, out);                                                        \
    }
ALL_TILES(DEFINE)
#undef DEFINE

typedef struct tile_kind {
    void (*run)(const tile *t, group_sums out);
    int64_t n_pixels;
} tile_kind;

#define ENTRY(channels, pixels) [channels - 1] = {tile_##channels, pixels},
static const tile_kind kinds[NN_PLANES_CHANNELS] = {ALL_TILES(ENTRY)};
#undef ENTRY

/* y: the group's first pixel in the first channel. */
static void write_group(const nn_planes_pass *pass, group_sums sums, int64_t n_pixels, float *y)
{
    const nn_conv_planes *planes = pass->planes;

    for (int64_t k = 0; k < planes->dst_c; k++) {
        const nn_vec bias = nn_vec_all(pass->bias != NULL ? pass->bias[k] : 0.0f);
        for (int64_t first = 0; first < n_pixels; first += NN_VEC_LANES) {
            nn_vec v[NN_VEC_LANES];
            CVY_UNROLL(16) for (int i = 0; i < NN_VEC_LANES; i++)
            {
                const float *from = sums[k][first + i];
                v[i] = nn_vec_load(from);
                CVY_UNROLL(4) for (int part = 1; part < NN_VECS_PER_BLOCK; part++)
                {
                    v[i] += nn_vec_load(from + part * NN_VEC_LANES);
                }
            }
            nn_planes_put(y + k * planes->dst_h * planes->dst_w + first, nn_vec_sums(v) + bias,
                          (int)nn_cpu_least(NN_VEC_LANES, n_pixels - first), pass->accumulate);
        }
    }
}

void nn_conv_planes_fold_band(const nn_planes_pass *pass, int64_t image, nn_cpu_span rows,
                              const float *copy)
{
    const nn_conv_planes *planes = pass->planes;
    const tile_kind kind = kinds[planes->dst_c - 1];
    float *const dst = pass->dst + image * planes->dst_c * planes->dst_h * planes->dst_w;
    _Alignas(CVY_ALIGN_BYTES) group_sums sums = {0}; /* past the row's end whatever: not written */
    tile t = {.planes = planes, .filter = pass->filter};

    for (int64_t i = 0; i < rows.n; i++) {
        const int64_t row = rows.first + i;
        t.tap_rows = nn_conv_planes_tap_rows(planes, row, row);
        for (int64_t first = 0; first < planes->dst_w; first += NN_CPU_BLOCK) {
            const int64_t n = nn_cpu_least(NN_CPU_BLOCK, planes->dst_w - first);
            for (t.pixel = 0; t.pixel < n; t.pixel += kind.n_pixels) {
                const int64_t col = first + t.pixel;
                t.x = copy + i * planes->row_floats + col * NN_CPU_BLOCK;
                t.tap_cols = nn_conv_planes_tap_cols(planes, col, col + kind.n_pixels - 1);
                kind.run(&t, sums);
            }
            write_group(pass, sums, n, dst + row * planes->dst_w + first);
        }
    }
}
