#include "nn/backends/cpu/winograd_internal.h"

#include "nn/backends/cpu/conv_sweep_internal.h"
#include "nn/backends/cpu/conv_tile_internal.h"
#include "nn/backends/cpu/layout_internal.h"

/* Tiles of a part: twice what registers take, so that a group's filters are read seldom, and
 * the transformed input stays near. */
enum {
    TILES_PER_PART = 28,
    MAX_PARTS = 8,   /* of a chunk; while one is multiplied the next is fetched */
    MIN_CHUNKS = 64, /* if there is enough work */
    SMALLEST_PLANE = 4
};

int nn_winograd_fits(const nn_conv2d_geom *geom)
{
    return geom->groups == 1 && nn_cpu_is_blocked(geom->c) && nn_cpu_is_blocked(geom->k) &&
           geom->r == 3 && geom->s == 3 && geom->stride_h == 1 && geom->stride_w == 1 &&
           geom->dil_h == 1 && geom->dil_w == 1 && geom->p >= SMALLEST_PLANE &&
           geom->q >= SMALLEST_PLANE;
}

static void cut(nn_winograd *wino)
{
    wino->src_blocks = nn_cpu_blocks(wino->src_c);
    wino->dst_blocks = nn_cpu_blocks(wino->dst_c);
    wino->tile_rows = nn_cpu_div_up(wino->dst_h, NN_WINO_OUT);
    wino->tile_cols = nn_cpu_div_up(wino->dst_w, NN_WINO_OUT);
    wino->n_tiles = wino->n * wino->tile_rows * wino->tile_cols;
    wino->tiles_per_part = nn_cpu_least(TILES_PER_PART, wino->n_tiles);
    const int64_t n_parts = nn_cpu_div_up(wino->n_tiles, wino->tiles_per_part);
    wino->parts_per_chunk = nn_cpu_most(1, nn_cpu_least(MAX_PARTS, n_parts / MIN_CHUNKS));
    /* One line more than there is data: 36 places at a power of two would share one cache set. */
    wino->src_pitch = (wino->src_blocks * wino->tiles_per_part + 1) * NN_CPU_BLOCK;
    wino->dst_pitch = (NN_TILE_BLOCKS * wino->tiles_per_part + 1) * NN_CPU_BLOCK;
}

void nn_winograd_forward(const nn_conv2d_geom *geom, nn_winograd *out)
{
    *out = (nn_winograd){.n = geom->n,
                         .src_c = geom->c,
                         .src_h = geom->h,
                         .src_w = geom->w,
                         .dst_c = geom->k,
                         .dst_h = geom->p,
                         .dst_w = geom->q,
                         .pad_h = geom->pad_h,
                         .pad_w = geom->pad_w};
    cut(out);
}

void nn_winograd_backward(const nn_conv2d_geom *geom, nn_winograd *out)
{
    *out = (nn_winograd){.n = geom->n,
                         .src_c = geom->k,
                         .src_h = geom->p,
                         .src_w = geom->q,
                         .dst_c = geom->c,
                         .dst_h = geom->h,
                         .dst_w = geom->w,
                         .pad_h = 2 - geom->pad_h,
                         .pad_w = 2 - geom->pad_w};
    cut(out);
}

/* --- Filters ---------------------------------------------------------------------------------- */

typedef struct filter_pass {
    const nn_winograd *wino;
    const float *filter;
    int64_t dst_stride, src_stride;
    int is_turned;
    float *out;
} filter_pass;

int64_t nn_winograd_filter_floats(const nn_winograd *wino)
{
    return NN_WINO_PLACES * wino->dst_blocks * wino->src_blocks * NN_CPU_BLOCK * NN_CPU_BLOCK;
}

/* taps[tap * 16 + lane] of one src channel and a block of dst channels. */
static void gather_taps(const filter_pass *pass, int64_t dst_block, int64_t c,
                        float taps[9 * NN_CPU_BLOCK])
{
    const int64_t first = dst_block * NN_CPU_BLOCK;

    for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane++) {
        const int exists = first + lane < pass->wino->dst_c && c < pass->wino->src_c;
        const float *from = pass->filter;
        if (exists) from += (first + lane) * pass->dst_stride + c * pass->src_stride;
        for (int tap = 0; tap < 9; tap++) {
            const float value = exists ? from[pass->is_turned ? 8 - tap : tap] : 0.0f;
            taps[tap * NN_CPU_BLOCK + lane] = value;
        }
    }
}

/* One block of src channels for one group of dst channels. */
static void filter_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const filter_pass *pass = arg;
    const nn_winograd *wino = pass->wino;
    const int64_t group = chunk_idx / wino->src_blocks, block = chunk_idx % wino->src_blocks;
    const int n_blocks = nn_conv_group_blocks(wino->dst_blocks, group);
    const int64_t pitch = wino->src_blocks * NN_CPU_BLOCK * NN_CPU_BLOCK * n_blocks;
    float *out = pass->out + group * NN_TILE_BLOCKS * NN_WINO_PLACES * wino->src_blocks *
                                 NN_CPU_BLOCK * NN_CPU_BLOCK;
    float taps[9 * NN_CPU_BLOCK];

    (void)thread_idx;
    for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane++) {
        const int64_t c = block * NN_CPU_BLOCK + lane;
        for (int j = 0; j < n_blocks; j++) {
            gather_taps(pass, group * NN_TILE_BLOCKS + j, c, taps);
            nn_wino_filter(taps, out + (c * n_blocks + j) * NN_CPU_BLOCK, pitch);
        }
    }
}

void nn_winograd_filter(nn_backend *backend, const nn_winograd *wino, const float *filter,
                        int64_t dst_stride, int64_t src_stride, int is_turned, float *out)
{
    filter_pass pass = {.wino = wino,
                        .filter = filter,
                        .dst_stride = dst_stride,
                        .src_stride = src_stride,
                        .is_turned = is_turned,
                        .out = out};

    nn_cpu_run(backend, nn_conv_n_groups(wino->dst_blocks) * wino->src_blocks, filter_chunk, &pass);
}

/* --- Tiles ------------------------------------------------------------------------------------ */

typedef struct wino_pass {
    const nn_winograd *wino;
    const float *src, *filter, *bias;
    float *dst, *scratch;
    int accumulate;
} wino_pass;

int64_t nn_winograd_scratch_floats(const nn_winograd *wino)
{
    return NN_WINO_PLACES * (wino->src_pitch + wino->dst_pitch);
}

nn_wino_place nn_winograd_place(const nn_winograd *wino, int64_t tile)
{
    const int64_t in_image = tile % (wino->tile_rows * wino->tile_cols);

    return (nn_wino_place){.image = tile / (wino->tile_rows * wino->tile_cols),
                           .row = in_image / wino->tile_cols * NN_WINO_OUT,
                           .col = in_image % wino->tile_cols * NN_WINO_OUT};
}

void nn_winograd_read_tiles(const nn_winograd *wino, const float *src, nn_cpu_span tiles,
                            float *out)
{
    const int64_t plane = wino->src_h * wino->src_w * NN_CPU_BLOCK;

    for (int64_t i = 0; i < tiles.n; i++) {
        const nn_wino_place place = nn_winograd_place(wino, tiles.first + i);
        const nn_wino_window window = {.h = wino->src_h,
                                       .w = wino->src_w,
                                       .row = place.row - wino->pad_h,
                                       .col = place.col - wino->pad_w};
        for (int64_t block = 0; block < wino->src_blocks; block++) {
            nn_wino_input(src + (place.image * wino->src_blocks + block) * plane, window,
                          out + (block * wino->tiles_per_part + i) * NN_CPU_BLOCK, wino->src_pitch);
        }
    }
}

/* Fetch the 4x4 pixels at (row, col), as far as they exist, of some planes. */
static void fetch_tile(const float *planes, int64_t h, int64_t w, int64_t row, int64_t col,
                       int64_t n_planes, int is_written)
{
    for (int64_t i = 0; i < n_planes * NN_WINO_OUT; i++) {
        const int64_t y = row + i % NN_WINO_OUT;
        if (y < 0 || y >= h) continue;
        const float *at = planes + (i / NN_WINO_OUT * h + y) * w * NN_CPU_BLOCK;
        for (int64_t x = nn_cpu_most(col, 0); x < nn_cpu_least(col + NN_WINO_OUT, w); x++) {
            if (is_written) {
                CVY_PREFETCH_WRITE(at + x * NN_CPU_BLOCK);
            } else {
                CVY_PREFETCH_READ(at + x * NN_CPU_BLOCK);
            }
        }
    }
}

/* Above and left of these 4x4 pixels, tiles before have been. */
void nn_winograd_fetch_src(const nn_winograd *wino, const float *src, int64_t tile)
{
    const nn_wino_place place = nn_winograd_place(wino, tile);
    const int64_t plane = wino->src_h * wino->src_w * NN_CPU_BLOCK, halo = NN_WINO_IN - NN_WINO_OUT;

    fetch_tile(src + place.image * wino->src_blocks * plane, wino->src_h, wino->src_w,
               place.row - wino->pad_h + halo, place.col - wino->pad_w + halo, wino->src_blocks, 0);
}

void nn_winograd_fetch_dst(const nn_winograd *wino, const float *dst, int64_t tile,
                           int64_t first_block, int n_blocks, int is_written)
{
    const nn_wino_place place = nn_winograd_place(wino, tile);
    const int64_t plane = wino->dst_h * wino->dst_w * NN_CPU_BLOCK;

    fetch_tile(dst + (place.image * wino->dst_blocks + first_block) * plane, wino->dst_h,
               wino->dst_w, place.row, place.col, n_blocks, is_written);
}

/* The 36 matrix products of some tiles for one group of dst channels. Meanwhile the memory fetches
 * what this group will write and, with the first group, what the next part will read. */
static void multiply(const wino_pass *pass, int64_t group, nn_cpu_span tiles, int64_t next_end,
                     const float *v, float *m)
{
    const nn_winograd *wino = pass->wino;
    const int64_t n = tiles.n, next = tiles.first + tiles.n;
    const int n_blocks = nn_conv_group_blocks(wino->dst_blocks, group);
    const int64_t place_floats = wino->src_blocks * NN_CPU_BLOCK * NN_CPU_BLOCK;
    const float *filter = pass->filter + group * NN_TILE_BLOCKS * NN_WINO_PLACES * place_floats;
    const int64_t n_parts = nn_cpu_div_up(n, nn_conv_tile_max_pixels(n_blocks));
    const int64_t no_offset = 0;
    nn_conv_tile tile = {.x_block_pitch = wino->tiles_per_part * NN_CPU_BLOCK,
                         .n_blocks = wino->src_blocks,
                         .tap_offset = &no_offset,
                         .n_taps = 1,
                         .y_block_pitch = wino->tiles_per_part * NN_CPU_BLOCK,
                         .y_pixel_pitch = NN_CPU_BLOCK};

    for (int place = 0; place < NN_WINO_PLACES; place++) {
        int64_t first = 0;
        tile.filter = filter + place * place_floats * n_blocks;
        if (place < n) {
            nn_winograd_fetch_dst(wino, pass->dst, tiles.first + place, group * NN_TILE_BLOCKS,
                                  n_blocks, 1);
        }
        if (group == 0 && next + place < next_end) {
            nn_winograd_fetch_src(wino, pass->src, next + place);
        }
        for (int64_t i = 0; i < n_parts; i++) {
            const int64_t count = (n - first) / (n_parts - i);
            tile.x = v + place * wino->src_pitch + first * NN_CPU_BLOCK;
            tile.y = m + place * wino->dst_pitch + first * NN_CPU_BLOCK;
            nn_conv_tile_run(&tile, n_blocks, 1, (int)count);
            first += count;
        }
    }
}

static void write_tiles(const wino_pass *pass, int64_t group, nn_cpu_span tiles, const float *m)
{
    const nn_winograd *wino = pass->wino;
    const int n_blocks = nn_conv_group_blocks(wino->dst_blocks, group);
    const int64_t plane = wino->dst_h * wino->dst_w * NN_CPU_BLOCK;

    for (int64_t i = 0; i < tiles.n; i++) {
        const nn_wino_place place = nn_winograd_place(wino, tiles.first + i);
        const nn_wino_window window = {
            .h = wino->dst_h, .w = wino->dst_w, .row = place.row, .col = place.col};
        for (int64_t j = 0; j < n_blocks; j++) {
            const int64_t block = group * NN_TILE_BLOCKS + j;
            nn_wino_output(m + (j * wino->tiles_per_part + i) * NN_CPU_BLOCK, wino->dst_pitch,
                           pass->bias == NULL ? NULL : pass->bias + block * NN_CPU_BLOCK,
                           pass->accumulate,
                           pass->dst + (place.image * wino->dst_blocks + block) * plane, window);
        }
    }
}

static void wino_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const wino_pass *pass = arg;
    const nn_winograd *wino = pass->wino;
    const nn_cpu_span chunk = nn_cpu_part(wino->n_tiles,
                                          wino->tiles_per_part * wino->parts_per_chunk, chunk_idx);
    const int64_t end = chunk.first + chunk.n;
    float *const v = pass->scratch + thread_idx * nn_winograd_scratch_floats(wino);
    float *const m = v + NN_WINO_PLACES * wino->src_pitch;

    for (int64_t first = chunk.first; first < end; first += wino->tiles_per_part) {
        const nn_cpu_span tiles = {first, nn_cpu_least(wino->tiles_per_part, end - first)};
        const int64_t next_end = nn_cpu_least(end, first + tiles.n + wino->tiles_per_part);
        nn_winograd_read_tiles(wino, pass->src, tiles, v);
        for (int64_t group = 0; group < nn_conv_n_groups(wino->dst_blocks); group++) {
            multiply(pass, group, tiles, next_end, v, m);
            write_tiles(pass, group, tiles, m);
        }
    }
}

void nn_winograd_run(nn_backend *backend, const nn_winograd *wino, const float *src,
                     const float *filter, const float *bias, float *dst, int accumulate,
                     float *scratch)
{
    wino_pass pass = {.wino = wino,
                      .src = src,
                      .filter = filter,
                      .bias = bias,
                      .dst = dst,
                      .scratch = scratch,
                      .accumulate = accumulate};

    const int64_t chunk_tiles = wino->tiles_per_part * wino->parts_per_chunk;
    nn_cpu_run(backend, nn_cpu_div_up(wino->n_tiles, chunk_tiles), wino_chunk, &pass);
}
