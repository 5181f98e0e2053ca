#include "nn/backends/cpu/conv_planes_internal.h"

#include <string.h>

enum {
    COPY_FLOATS = 8192,       /* a band's copy stays in the first-level cache, if it can */
    MOST_COPY_FLOATS = 65536, /* else in the second */
    CHUNK_PRODUCTS = 500000,  /* multiply-adds that are worth handing to a thread */
    MIN_CHUNKS = 16,
    MOST_CHANNELS = NN_CPU_BLOCKED_FROM - 1,
    MOST_VECS = 4
};

/* --- Geometry --------------------------------------------------------------------------------- */

static int64_t round_up(int64_t n, int64_t multiple)
{
    return nn_cpu_div_up(n, multiple) * multiple;
}

static int64_t band_floats(const nn_conv_planes *planes, int64_t n_rows)
{
    return planes->src_c * (n_rows + (planes->taps_h - 1) * planes->dil_h) * planes->row_floats;
}

static void cut(nn_conv_planes *planes)
{
    const int64_t depth = planes->src_c * planes->taps_h * planes->taps_w;
    const int64_t products = planes->dst_c * planes->dst_h * planes->dst_w * depth;

    planes->row_floats = round_up(planes->dst_w, NN_VEC_LANES) +
                         (planes->taps_w - 1) * planes->dil_w;
    const int64_t halo = (planes->taps_h - 1) * planes->dil_h;
    int64_t rows = COPY_FLOATS / (planes->src_c * planes->row_floats) - halo;

    rows = nn_cpu_least(planes->dst_h, nn_cpu_most(rows, nn_cpu_most(1, halo)));
    planes->n_bands = nn_cpu_div_up(planes->dst_h, rows);
    planes->rows_per_band = nn_cpu_div_up(planes->dst_h, planes->n_bands);
    planes->n_bands = nn_cpu_div_up(planes->dst_h, planes->rows_per_band);
    planes->plane_floats = (planes->rows_per_band + halo) * planes->row_floats;
    planes->copy_floats = round_up(band_floats(planes, planes->rows_per_band), NN_CPU_BLOCK);
    planes->images_per_chunk = 1;
    if (planes->n_bands == 1) {
        const int64_t n = nn_cpu_most(1, CHUNK_PRODUCTS / nn_cpu_most(1, products));
        planes->images_per_chunk = nn_cpu_least(n, nn_cpu_most(1, planes->n / MIN_CHUNKS));
    }
}

void nn_conv_planes_forward(const nn_conv2d_geom *geom, nn_conv_planes *out)
{
    *out = (nn_conv_planes){.n = geom->n,
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
    cut(out);
}

void nn_conv_planes_backward(const nn_conv2d_geom *geom, nn_conv_planes *out)
{
    *out = (nn_conv_planes){.n = geom->n,
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

int nn_conv_planes_fits_forward(const nn_conv2d_geom *geom)
{
    nn_conv_planes planes;

    nn_conv_planes_forward(geom, &planes);
    return fits(geom, &planes);
}

int nn_conv_planes_fits_backward(const nn_conv2d_geom *geom)
{
    nn_conv_planes planes;

    nn_conv_planes_backward(geom, &planes);
    return fits(geom, &planes);
}

/* --- The copy of the input -------------------------------------------------------------------- */

static void clear(float *to, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] = 0.0f;
}

/* Columns [first, first + n) of a row of src: of one plane, or of a block, whose channels go to
 * planes of their own. */
static void copy_plane(const float *restrict from, int64_t n, float *restrict to)
{
    for (int64_t i = 0; i < n; i++) to[i] = from[i];
}

static void copy_block(const float *restrict from, int64_t n, int64_t n_channels,
                       int64_t plane_floats, float *restrict to)
{
    for (int64_t i = 0; i < n; i++) {
        for (int64_t c = 0; c < n_channels; c++) {
            to[c * plane_floats + i] = from[i * NN_CPU_BLOCK + c];
        }
    }
}

/* Planes [first, first + n) of the copy from a plane or a block of src. */
static void copy_channels(const nn_conv_planes *planes, const float *src, int64_t row,
                          int64_t n_rows, int64_t n, float *copy)
{
    const int64_t lanes = nn_cpu_is_blocked(planes->src_c) ? NN_CPU_BLOCK : 1;
    const int64_t first = nn_cpu_least(planes->row_floats, nn_cpu_most(0, -planes->low_w));
    const int64_t room = planes->src_w - planes->low_w;
    const int64_t end = nn_cpu_most(first, nn_cpu_least(planes->row_floats, room));

    for (int64_t i = 0; i < n_rows; i++) {
        const int64_t src_row = row + planes->low_h + i;
        const int is_inside = src_row >= 0 && src_row < planes->src_h && end > first;
        float *to = copy + i * planes->row_floats;
        for (int64_t c = 0; c < n; c++) {
            float *plane = to + c * planes->plane_floats;
            clear(plane, is_inside ? first : planes->row_floats);
            if (is_inside) clear(plane + end, planes->row_floats - end);
        }
        if (!is_inside) continue;
        const float *from = src + (src_row * planes->src_w + planes->low_w + first) * lanes;
        if (lanes == 1) {
            copy_plane(from, end - first, to + first);
        } else {
            copy_block(from, end - first, n, planes->plane_floats, to + first);
        }
    }
}

void nn_conv_planes_copy(const nn_conv_planes *planes, const float *src, int64_t image, int64_t row,
                         int64_t n_rows, float *copy)
{
    const int64_t lanes = nn_cpu_is_blocked(planes->src_c) ? NN_CPU_BLOCK : 1;
    const int64_t stored = nn_cpu_stored_channels(planes->src_c);
    const int64_t spatial = planes->src_h * planes->src_w;
    const int64_t copied_rows = n_rows + (planes->taps_h - 1) * planes->dil_h;

    for (int64_t c = 0; c < planes->src_c; c += lanes) {
        copy_channels(planes, src + (image * stored + c) * spatial, row, copied_rows,
                      nn_cpu_least(lanes, planes->src_c - c), copy + c * planes->plane_floats);
    }
}

/* --- Tiles ------------------------------------------------------------------------------------ */

typedef struct planes_pass {
    const nn_conv_planes *planes;
    const float *src, *filter, *bias; /* filter: packed */
    float *dst, *copies;
    int accumulate;
} planes_pass;

/* A vector of outputs in every channel. */
typedef struct place {
    const float *x; /* what the first tap of the first channel reads */
    float *y;       /* in the first channel */
    int64_t row;    /* of dst */
    int n;          /* lanes that are inside */
} place;

/* Rows of taps at which one of the rows [first, last] of dst meets src and not only its padding. */
static nn_cpu_span tap_rows(const nn_conv_planes *planes, int64_t first, int64_t last)
{
    const int64_t over = nn_cpu_most(0, -(planes->low_h + last));
    const int64_t room = nn_cpu_most(0, planes->src_h - planes->low_h - first);
    const int64_t low = nn_cpu_least(planes->taps_h, nn_cpu_div_up(over, planes->dil_h));
    const int64_t end = nn_cpu_least(planes->taps_h, nn_cpu_div_up(room, planes->dil_h));

    return (nn_cpu_span){low, nn_cpu_most(0, end - low)};
}

CVY_INLINE_ALWAYS void add_taps(const nn_conv_planes *planes, const place *places,
                                const float *packed, nn_vec sum[MOST_CHANNELS][MOST_VECS],
                                int n_channels, int n_vecs)
{
    const nn_cpu_span rows = tap_rows(planes, places[0].row, places[n_vecs - 1].row);

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

static void put(float *y, nn_vec value, int n, int accumulate)
{
    if (n == NN_VEC_LANES) {
        nn_vec_store(y, accumulate ? value + nn_vec_load(y) : value);
    } else {
        nn_vec_store_part(y, accumulate ? value + nn_vec_load_part(y, n) : value, n);
    }
}

CVY_INLINE_ALWAYS void run_tile(const planes_pass *pass, const place *places, int n_channels,
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
            put(places[v].y + k * plane, sum[k][v] + bias, places[v].n, pass->accumulate);
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
    static void tile_##channels##_##vecs(const planes_pass *pass, const place *places)             \
    {                                                                                              \
        run_tile(pass, places, channels, vecs);                                                    \
    }
ALL_TILES(DEFINE)
#undef DEFINE

typedef void (*tile_function)(const planes_pass *pass, const place *places);

#define ENTRY(channels, vecs) [channels - 1][vecs - 1] = tile_##channels##_##vecs,
static const tile_function tiles[MOST_CHANNELS][MOST_VECS] = {ALL_TILES(ENTRY)};
#undef ENTRY

/* As many vectors as registers have room for, with the vectors they are made of. */
static int vecs_of_tile(int64_t n_channels)
{
    const int64_t n_sums = NN_VEC_LANES == 16 ? 24 : 12;

    return (int)nn_cpu_most(1, nn_cpu_least(MOST_VECS, n_sums / n_channels));
}

static void run_band(const planes_pass *pass, int64_t image, nn_cpu_span rows, const float *copy)
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

static void planes_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const planes_pass *pass = arg;
    const nn_conv_planes *planes = pass->planes;
    float *const copy = pass->copies + thread_idx * planes->copy_floats;
    const nn_cpu_span images = nn_cpu_part(planes->n, planes->images_per_chunk,
                                           chunk_idx / planes->n_bands);
    const nn_cpu_span rows = nn_cpu_part(planes->dst_h, planes->rows_per_band,
                                         chunk_idx % planes->n_bands);

    for (int64_t i = images.first; i < images.first + images.n; i++) {
        nn_conv_planes_copy(planes, pass->src, i, rows.first, rows.n, copy);
        run_band(pass, i, rows, copy);
    }
}

/* --- The whole pass --------------------------------------------------------------------------- */

static int64_t filter_floats(const nn_conv_planes *planes)
{
    return round_up(planes->dst_c * planes->src_c * planes->taps_h * planes->taps_w, NN_CPU_BLOCK);
}

int64_t nn_conv_planes_workspace_floats(const nn_conv_planes *planes, int n_threads)
{
    return filter_floats(planes) + n_threads * planes->copy_floats;
}

/* packed: (src channel, tap, dst channel). */
static void pack_filter(const nn_conv_planes *planes, nn_planes_filter filter, float *packed)
{
    const int64_t n_taps = planes->taps_h * planes->taps_w;

    for (int64_t c = 0; c < planes->src_c; c++) {
        for (int64_t tap = 0; tap < n_taps; tap++) {
            const float *from = filter.at + c * filter.src_stride +
                                (filter.is_turned ? n_taps - 1 - tap : tap);
            for (int64_t k = 0; k < planes->dst_c; k++) *packed++ = from[k * filter.dst_stride];
        }
    }
}

void nn_conv_planes_run(nn_backend *backend, const nn_conv_planes *planes, const float *src,
                        nn_planes_filter filter, const float *bias, float *dst, int accumulate,
                        float *workspace)
{
    planes_pass pass = {.planes = planes,
                        .src = src,
                        .filter = workspace,
                        .bias = bias,
                        .dst = dst,
                        .copies = workspace + filter_floats(planes),
                        .accumulate = accumulate};

    pack_filter(planes, filter, workspace);
    nn_cpu_run(backend, nn_cpu_div_up(planes->n, planes->images_per_chunk) * planes->n_bands,
               planes_chunk, &pass);
}
