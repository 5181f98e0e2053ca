#include "nn/backends/cpu/conv_planes_internal.h"

#include "nn/backends/cpu/conv_lines_internal.h"

#include <string.h>

enum {
    COPY_FLOATS = 8192,       /* a band's copy stays in the first-level cache, if it can */
    MOST_COPY_FLOATS = 65536, /* else in the second */
    CHUNK_PRODUCTS = 500000,  /* multiply-adds that are worth handing to a thread */
    MIN_CHUNKS = 16,
    MOST_CHANNELS = NN_PLANES_CHANNELS,
    MOST_VECS = 4
};

/* --- Geometry --------------------------------------------------------------------------------- */

static int64_t round_up(int64_t n, int64_t multiple)
{
    return nn_cpu_div_up(n, multiple) * multiple;
}

static int64_t copied_rows(const nn_conv_planes *planes, int64_t n_rows)
{
    return n_rows + (planes->taps_h - 1) * planes->dil_h;
}

/* Bands as high as the copy may be; but not so low that most of it would be copied twice. */
static void cut_rows(nn_conv_planes *planes, int64_t n_planes)
{
    const int64_t halo = copied_rows(planes, 0);
    int64_t rows = COPY_FLOATS / (n_planes * planes->row_floats) - halo;

    rows = nn_cpu_least(planes->dst_h, nn_cpu_most(rows, nn_cpu_most(1, halo)));
    planes->n_bands = nn_cpu_div_up(planes->dst_h, rows);
    planes->rows_per_band = nn_cpu_div_up(planes->dst_h, planes->n_bands);
    if (planes->is_lines) planes->rows_per_band = round_up(planes->rows_per_band, NN_LINES_OUT);
    planes->n_bands = nn_cpu_div_up(planes->dst_h, planes->rows_per_band);
}

static void cut(nn_conv_planes *planes)
{
    const int64_t depth = planes->src_c * planes->taps_h * planes->taps_w;
    const int64_t products = planes->dst_c * planes->dst_h * planes->dst_w * depth;
    const int64_t n_planes = nn_cpu_div_up(planes->src_c, planes->lanes);
    const int64_t cols = planes->lanes == 1 ? round_up(planes->dst_w, NN_VEC_LANES)
                                            : round_up(planes->dst_w, NN_PLANES_FOLD_PIXELS);

    planes->row_floats = (cols + (planes->taps_w - 1) * planes->dil_w) * planes->lanes;
    cut_rows(planes, n_planes);
    planes->plane_floats = copied_rows(planes, planes->rows_per_band) * planes->row_floats;
    planes->copy_floats = round_up(n_planes * planes->plane_floats + NN_VEC_LANES, NN_CPU_BLOCK);
    planes->images_per_chunk = 1;
    if (planes->n_bands == 1) {
        const int64_t n = nn_cpu_most(1, CHUNK_PRODUCTS / nn_cpu_most(1, products));
        planes->images_per_chunk = nn_cpu_least(n, nn_cpu_most(1, planes->n / MIN_CHUNKS));
    }
}

static int64_t lanes_of(int64_t c)
{
    return nn_cpu_is_blocked(c) ? NN_CPU_BLOCK : 1;
}

static nn_conv_planes forward_of(const nn_conv2d_geom *geom)
{
    return (nn_conv_planes){.n = geom->n,
                            .src_c = geom->c,
                            .src_h = geom->h,
                            .src_w = geom->w,
                            .dst_c = geom->k,
                            .dst_h = geom->p,
                            .dst_w = geom->q,
                            .low_h = -geom->pad_h,
                            .low_w = -geom->pad_w,
                            .taps_h = geom->r,
                            .taps_w = geom->s,
                            .dil_h = geom->dil_h,
                            .dil_w = geom->dil_w};
}

void nn_conv_planes_forward(const nn_conv2d_geom *geom, nn_conv_planes *out)
{
    *out = forward_of(geom);
    out->lanes = lanes_of(geom->c);
    out->is_lines = nn_conv_lines_fits(out);
    cut(out);
}

void nn_conv_planes_input(const nn_conv2d_geom *geom, nn_conv_planes *out)
{
    *out = forward_of(geom);
    out->lanes = 1;
    cut(out);
}

void nn_conv_planes_backward(const nn_conv2d_geom *geom, nn_conv_planes *out)
{
    *out = (nn_conv_planes){.n = geom->n,
                            .lanes = lanes_of(geom->k),
                            .src_c = geom->k,
                            .src_h = geom->p,
                            .src_w = geom->q,
                            .dst_c = geom->c,
                            .dst_h = geom->h,
                            .dst_w = geom->w,
                            .low_h = geom->pad_h - (geom->r - 1) * geom->dil_h,
                            .low_w = geom->pad_w - (geom->s - 1) * geom->dil_w,
                            .taps_h = geom->r,
                            .taps_w = geom->s,
                            .dil_h = geom->dil_h,
                            .dil_w = geom->dil_w};
    out->is_lines = nn_conv_lines_fits(out);
    cut(out);
}

int nn_conv_planes_copy_fits(const nn_conv_planes *planes)
{
    return planes->copy_floats <= MOST_COPY_FLOATS;
}

static int fits(const nn_conv2d_geom *geom, const nn_conv_planes *planes)
{
    return geom->groups == 1 && geom->stride_h == 1 && geom->stride_w == 1 &&
           !nn_cpu_is_blocked(planes->dst_c) && nn_conv_planes_copy_fits(planes);
}

/* Both the output and the filter's gradient. */
int nn_conv_planes_fits_forward(const nn_conv2d_geom *geom)
{
    nn_conv_planes planes, input;

    nn_conv_planes_forward(geom, &planes);
    nn_conv_planes_input(geom, &input);
    return fits(geom, &planes) && fits(geom, &input);
}

int nn_conv_planes_fits_backward(const nn_conv2d_geom *geom)
{
    nn_conv_planes planes;

    nn_conv_planes_backward(geom, &planes);
    return fits(geom, &planes);
}

/* Taps that lead from outputs [first, last] to [0, extent) of src. */
static nn_cpu_span reach(int64_t low, int64_t extent, int64_t n_taps, int64_t dil, int64_t first,
                         int64_t last)
{
    const int64_t over = nn_cpu_most(0, -(low + last));
    const int64_t room = nn_cpu_most(0, extent - low - first);
    const int64_t start = nn_cpu_least(n_taps, nn_cpu_div_up(over, dil));
    const int64_t end = nn_cpu_least(n_taps, nn_cpu_div_up(room, dil));

    return (nn_cpu_span){start, nn_cpu_most(0, end - start)};
}

nn_cpu_span nn_conv_planes_tap_rows(const nn_conv_planes *planes, int64_t first, int64_t last)
{
    return reach(planes->low_h, planes->src_h, planes->taps_h, planes->dil_h, first, last);
}

nn_cpu_span nn_conv_planes_tap_cols(const nn_conv_planes *planes, int64_t first, int64_t last)
{
    return reach(planes->low_w, planes->src_w, planes->taps_w, planes->dil_w, first, last);
}

/* --- The copy of the input -------------------------------------------------------------------- */

static void clear(float *to, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] = 0.0f;
}

/* `first` zeros, n floats, and zeros up to `total`. Whole vectors are written, so up to a vector
 * more: of the next row, which comes next, or of the room behind the copy. */
static void copy_row(const float *from, int64_t first, int64_t n, int64_t total, float *to)
{
    const nn_vec zero = nn_vec_all(0.0f);
    int64_t i = 0;

    for (; i < first; i += NN_VEC_LANES) nn_vec_store(to + i, zero);
    for (i = 0; i + NN_VEC_LANES <= n; i += NN_VEC_LANES) {
        nn_vec_store(to + first + i, nn_vec_load(from + i));
    }
    if (i < n) {
        nn_vec_store(to + first + i, nn_vec_load_part(from + i, (int)(n - i)));
        i += NN_VEC_LANES;
    }
    for (i += first; i < total; i += NN_VEC_LANES) nn_vec_store(to + i, zero);
}

/* Pixels of a block, whose channels go to planes of their own. */
static void spread_block(const float *restrict from, int64_t n, int64_t n_channels,
                         int64_t plane_floats, float *restrict to)
{
    for (int64_t i = 0; i < n; i++) {
        for (int64_t c = 0; c < n_channels; c++) {
            to[c * plane_floats + i] = from[i * NN_CPU_BLOCK + c];
        }
    }
}

/* Columns [first, end) of the copy that lie inside src. */
typedef struct copied_cols {
    int64_t first, end, all;
} copied_cols;

static copied_cols cols_of(const nn_conv_planes *planes)
{
    copied_cols cols = {.all = planes->row_floats / planes->lanes};

    cols.first = nn_cpu_least(cols.all, nn_cpu_most(0, -planes->low_w));
    cols.end = nn_cpu_most(cols.first, nn_cpu_least(cols.all, planes->src_w - planes->low_w));
    return cols;
}

static int is_inside(const nn_conv_planes *planes, int64_t src_row)
{
    return src_row >= 0 && src_row < planes->src_h;
}

/* A plane of src to one of the copy, or a block. */
static void copy_plane(const nn_conv_planes *planes, const float *src, nn_cpu_span rows,
                       float *copy)
{
    const copied_cols cols = cols_of(planes);
    const int64_t lanes = planes->lanes;

    for (int64_t i = 0; i < rows.n; i++) {
        const int64_t src_row = rows.first + planes->low_h + i;
        float *const to = copy + i * planes->row_floats;
        if (!is_inside(planes, src_row) || cols.end == cols.first) {
            copy_row(src, 0, 0, planes->row_floats, to);
            continue;
        }
        copy_row(src + (src_row * planes->src_w + planes->low_w + cols.first) * lanes,
                 cols.first * lanes, (cols.end - cols.first) * lanes, planes->row_floats, to);
    }
}

/* A block of src to n planes of the copy. */
static void copy_block(const nn_conv_planes *planes, const float *src, nn_cpu_span rows, int64_t n,
                       float *copy)
{
    const copied_cols cols = cols_of(planes);

    for (int64_t i = 0; i < rows.n; i++) {
        const int64_t src_row = rows.first + planes->low_h + i;
        float *const to = copy + i * planes->row_floats;
        for (int64_t c = 0; c < n; c++) clear(to + c * planes->plane_floats, cols.all);
        if (!is_inside(planes, src_row) || cols.end == cols.first) continue;
        spread_block(src + (src_row * planes->src_w + planes->low_w + cols.first) * NN_CPU_BLOCK,
                     cols.end - cols.first, n, planes->plane_floats, to + cols.first);
    }
}

void nn_conv_planes_copy(const nn_conv_planes *planes, const float *src, int64_t image, int64_t row,
                         int64_t n_rows, float *copy)
{
    const int64_t src_lanes = lanes_of(planes->src_c), spatial = planes->src_h * planes->src_w;
    const int64_t stored = nn_cpu_stored_channels(planes->src_c);
    const nn_cpu_span rows = {row, copied_rows(planes, n_rows)};

    for (int64_t c = 0; c < planes->src_c; c += src_lanes) {
        const float *from = src + (image * stored + c) * spatial;
        float *const to = copy + c / planes->lanes * planes->plane_floats;
        if (src_lanes == planes->lanes) {
            copy_plane(planes, from, rows, to);
        } else {
            copy_block(planes, from, rows, nn_cpu_least(src_lanes, planes->src_c - c), to);
        }
    }
}

/* --- Tiles ------------------------------------------------------------------------------------ */

/* A vector of outputs in every channel. */
typedef struct place {
    const float *x; /* what the first tap of the first channel reads */
    float *y;       /* in the first channel */
    int64_t row;    /* of dst */
    int n;          /* lanes that are inside */
} place;

CVY_INLINE_ALWAYS void add_taps(const nn_conv_planes *planes, const place *places,
                                const float *packed, nn_vec sum[MOST_CHANNELS][MOST_VECS],
                                int n_channels, int n_vecs)
{
    const nn_cpu_span rows = nn_conv_planes_tap_rows(planes, places[0].row, places[n_vecs - 1].row);

    for (int64_t c = 0; c < planes->src_c; c++) {
        const float *filter = packed +
                              (c * planes->taps_h + rows.first) * planes->taps_w * n_channels;
        for (int64_t r = rows.first; r < rows.first + rows.n; r++) {
            int64_t at = c * planes->plane_floats + r * planes->dil_h * planes->row_floats;
            for (int64_t s = 0; s < planes->taps_w; s++) {
                nn_vec x[MOST_VECS];
                CVY_UNROLL(8) for (int v = 0; v < n_vecs; v++)
                {
                    x[v] = nn_vec_load(places[v].x + at);
                }
                CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
                {
                    const nn_vec f = nn_vec_all(filter[k]);
                    CVY_UNROLL(8) for (int v = 0; v < n_vecs; v++) sum[k][v] += x[v] * f;
                }
                filter += n_channels;
                at += planes->dil_w;
            }
        }
    }
}

CVY_INLINE_ALWAYS void run_tile(const nn_planes_pass *pass, const place *places, int n_channels,
                                int n_vecs)
{
    const nn_conv_planes *planes = pass->planes;
    const int64_t plane = planes->dst_h * planes->dst_w;
    nn_vec sum[MOST_CHANNELS][MOST_VECS];

    CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
    {
        CVY_UNROLL(8) for (int v = 0; v < n_vecs; v++) sum[k][v] = nn_vec_all(0.0f);
    }
    add_taps(planes, places, pass->filter, sum, n_channels, n_vecs);
    CVY_UNROLL(8) for (int k = 0; k < n_channels; k++)
    {
        const nn_vec bias = nn_vec_all(pass->bias != NULL ? pass->bias[k] : 0.0f);
        CVY_UNROLL(8) for (int v = 0; v < n_vecs; v++)
        {
            nn_planes_put(places[v].y + k * plane, sum[k][v] + bias, places[v].n, pass->accumulate);
        }
    }
}

/* One function per shape of tile, so that each keeps its sums in registers. */
#define ALL_VECS(X, channels) X(channels, 1) X(channels, 2) X(channels, 3) X(channels, 4)
#define ALL_TILES(X)                                                                               \
    ALL_VECS(X, 1)                                                                                 \
    ALL_VECS(X, 2)                                                                                 \
    ALL_VECS(X, 3) ALL_VECS(X, 4) ALL_VECS(X, 5) ALL_VECS(X, 6) ALL_VECS(X, 7) ALL_VECS(X, 8)

#define DEFINE(channels, vecs)                                                                     \
    static void tile_##channels##_##vecs(const nn_planes_pass *pass, const place *places)          \
    {                                                                                              \
        run_tile(pass, places, channels, vecs);                                                    \
    }
ALL_TILES(DEFINE)
#undef DEFINE

typedef void (*tile_function)(const nn_planes_pass *pass, const place *places);

#define ENTRY(channels, vecs) [channels - 1][vecs - 1] = tile_##channels##_##vecs,
static const tile_function tiles[MOST_CHANNELS][MOST_VECS] = {ALL_TILES(ENTRY)};
#undef ENTRY

/* As many vectors as registers have room for, with the vectors they are made of. */
static int vecs_of_tile(int64_t n_channels)
{
    const int64_t n_sums = NN_VEC_LANES == 16 ? 24 : 12;

    return (int)nn_cpu_most(1, nn_cpu_least(MOST_VECS, n_sums / n_channels));
}

static void run_band(const nn_planes_pass *pass, int64_t image, nn_cpu_span rows, const float *copy)
{
    const nn_conv_planes *planes = pass->planes;
    const int64_t vecs_of_row = nn_cpu_div_up(planes->dst_w, NN_VEC_LANES);
    const int most = vecs_of_tile(planes->dst_c);
    float *const dst = pass->dst + image * planes->dst_c * planes->dst_h * planes->dst_w;
    place places[MOST_VECS];
    int n = 0;

    for (int64_t i = 0; i < rows.n; i++) {
        for (int64_t j = 0; j < vecs_of_row; j++) {
            const int64_t col = j * NN_VEC_LANES;
            places[n++] = (place){.x = copy + i * planes->row_floats + col,
                                  .y = dst + (rows.first + i) * planes->dst_w + col,
                                  .row = rows.first + i,
                                  .n = (int)nn_cpu_least(NN_VEC_LANES, planes->dst_w - col)};
            if (n < most) continue;
            tiles[planes->dst_c - 1][n - 1](pass, places);
            n = 0;
        }
    }
    if (n > 0) tiles[planes->dst_c - 1][n - 1](pass, places);
}

/* Of a thread: the copy, then what is transformed. */
static int64_t scratch_floats(const nn_conv_planes *planes)
{
    return planes->copy_floats + (planes->is_lines ? nn_conv_lines_scratch_floats(planes) : 0);
}

static void planes_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const nn_planes_pass *pass = arg;
    const nn_conv_planes *planes = pass->planes;
    float *const copy = pass->copies + thread_idx * scratch_floats(planes);
    const nn_cpu_span images = nn_cpu_part(planes->n, planes->images_per_chunk,
                                           chunk_idx / planes->n_bands);
    const nn_cpu_span rows = nn_cpu_part(planes->dst_h, planes->rows_per_band,
                                         chunk_idx % planes->n_bands);
    const int64_t n_rows = planes->is_lines ? round_up(rows.n, NN_LINES_OUT) : rows.n;

    for (int64_t i = images.first; i < images.first + images.n; i++) {
        nn_conv_planes_copy(planes, pass->src, i, rows.first, n_rows, copy);
        if (planes->is_lines) {
            nn_conv_lines_band(pass, i, rows, copy, copy + planes->copy_floats);
        } else if (planes->lanes == 1) {
            run_band(pass, i, rows, copy);
        } else {
            nn_conv_planes_fold_band(pass, i, rows, copy);
        }
    }
}

/* --- The whole pass --------------------------------------------------------------------------- */

static int64_t filter_floats(const nn_conv_planes *planes)
{
    const int64_t src_c = round_up(planes->src_c, planes->lanes);

    if (planes->is_lines) return nn_conv_lines_filter_floats(planes);
    return round_up(planes->dst_c * src_c * planes->taps_h * planes->taps_w, NN_CPU_BLOCK);
}

int64_t nn_conv_planes_workspace_floats(const nn_conv_planes *planes, int n_threads)
{
    return filter_floats(planes) + n_threads * scratch_floats(planes);
}

/* packed: (block of lanes src channels, tap, dst channel, lane), 0 for channels that do not exist.
 */
static void pack_filter(const nn_conv_planes *planes, nn_planes_filter filter, float *packed)
{
    const int64_t n_taps = planes->taps_h * planes->taps_w, lanes = planes->lanes;

    for (int64_t first = 0; first < planes->src_c; first += lanes) {
        const int64_t n = nn_cpu_least(lanes, planes->src_c - first);
        for (int64_t tap = 0; tap < n_taps; tap++) {
            const float *from = filter.at + first * filter.src_stride +
                                (filter.is_turned ? n_taps - 1 - tap : tap);
            for (int64_t k = 0; k < planes->dst_c; k++) {
                for (int64_t c = 0; c < n; c++) {
                    packed[c] = from[k * filter.dst_stride + c * filter.src_stride];
                }
                clear(packed + n, lanes - n);
                packed += lanes;
            }
        }
    }
}

void nn_conv_planes_run(nn_backend *backend, const nn_conv_planes *planes, const float *src,
                        nn_planes_filter filter, const float *bias, float *dst, int accumulate,
                        float *workspace)
{
    nn_planes_pass pass = {.planes = planes,
                           .src = src,
                           .filter = workspace,
                           .bias = bias,
                           .dst = dst,
                           .copies = workspace + filter_floats(planes),
                           .accumulate = accumulate};

    if (planes->is_lines) {
        nn_conv_lines_pack(planes, filter, workspace);
    } else {
        pack_filter(planes, filter, workspace);
    }
    nn_cpu_run(backend, nn_cpu_div_up(planes->n, planes->images_per_chunk) * planes->n_bands,
               planes_chunk, &pass);
}
