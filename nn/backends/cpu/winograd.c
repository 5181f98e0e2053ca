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
    SMALLEST_PLANE = 4,
    MANY_GROUPS = 8,       /* of dst channels, which make chunks enough for some threads */
    MANY_FLOATS = 4 << 20, /* of transformed filters, that the last cache does not hold */
    SLAB_FLOATS = 5 << 20, /* of transformed tiles: a part of the last cache */
    TILES_PER_READ = 8     /* of a slab, that a thread transforms at once */
};

int nn_winograd_fits(const nn_conv2d_geom *geom)
{
    return geom->groups == 1 && nn_cpu_is_blocked(geom->c) && nn_cpu_is_blocked(geom->k) &&
           geom->r == 3 && geom->s == 3 && geom->stride_h == 1 && geom->stride_w == 1 &&
           geom->dil_h == 1 && geom->dil_w == 1 && geom->p >= SMALLEST_PLANE &&
           geom->q >= SMALLEST_PLANE;
}

/* Transformed filters of a group: (position, block of src, 16, dst channel). */
static int64_t group_floats(const nn_winograd *wino)
{
    return NN_WINO_PLACES * wino->src_blocks * NN_CPU_BLOCK * NN_CPU_BLOCK * NN_TILE_BLOCKS;
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
    wino->src_tiles = wino->tiles_per_part;
    if (nn_conv_n_groups(wino->dst_blocks) >= MANY_GROUPS &&
        nn_conv_n_groups(wino->dst_blocks) * group_floats(wino) >= MANY_FLOATS) {
        const int64_t part_floats = NN_WINO_PLACES * wino->src_blocks * NN_CPU_BLOCK *
                                    TILES_PER_PART;
        const int64_t n_parts_of_slab = nn_cpu_most(1, SLAB_FLOATS / part_floats);
        wino->tiles_per_slab = nn_cpu_least(wino->n_tiles, n_parts_of_slab * TILES_PER_PART);
        wino->src_tiles = wino->tiles_per_slab;
    }
    /* One line more than there is data: 36 places at a power of two would share one cache set. */
    wino->src_pitch = (wino->src_blocks * wino->src_tiles + 1) * NN_CPU_BLOCK;
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

typedef struct wino_pass {
    const nn_winograd *wino;
    const nn_wino_filters *filters;
    const float *src, *bias;
    float *dst;
    int accumulate;
    float *packed; /* all transformed filters; or, by slabs, a slab of transformed tiles */
    float *scratch;
    nn_cpu_span slab;
} wino_pass;

/* taps[tap * 16 + lane] of one src channel and a block of dst channels. */
static void gather_taps(const wino_pass *pass, int64_t dst_block, int64_t c,
                        float taps[9 * NN_CPU_BLOCK])
{
    const nn_wino_filters *filters = pass->filters;
    const int64_t first = dst_block * NN_CPU_BLOCK;

    for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane++) {
        const int exists = first + lane < pass->wino->dst_c && c < pass->wino->src_c;
        const float *from = filters->at;
        if (exists) from += (first + lane) * filters->dst_stride + c * filters->src_stride;
        for (int tap = 0; tap < 9; tap++) {
            const float value = exists ? from[filters->is_turned ? 8 - tap : tap] : 0.0f;
            taps[tap * NN_CPU_BLOCK + lane] = value;
        }
    }
}

/* One block of src channels for one group of dst channels, to the group's place. */
static void transform_filters(const wino_pass *pass, int64_t group, int64_t block, float *out)
{
    const nn_winograd *wino = pass->wino;
    const int n_blocks = nn_conv_group_blocks(wino->dst_blocks, group);
    const int64_t pitch = wino->src_blocks * NN_CPU_BLOCK * NN_CPU_BLOCK * n_blocks;
    float taps[9 * NN_CPU_BLOCK];

    for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane++) {
        const int64_t c = block * NN_CPU_BLOCK + lane;
        for (int j = 0; j < n_blocks; j++) {
            gather_taps(pass, group * NN_TILE_BLOCKS + j, c, taps);
            nn_wino_filter(taps, out + (c * n_blocks + j) * NN_CPU_BLOCK, pitch);
        }
    }
}

static void filter_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const wino_pass *pass = arg;
    const int64_t group = chunk_idx / pass->wino->src_blocks;

    (void)thread_idx;
    transform_filters(pass, group, chunk_idx % pass->wino->src_blocks,
                      pass->packed + group * group_floats(pass->wino));
}

/* --- Tiles ------------------------------------------------------------------------------------ */

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
                          out + (block * wino->src_tiles + i) * NN_CPU_BLOCK, wino->src_pitch);
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

/* What a group's products read besides: its filters, and tiles that the memory fetches meanwhile.
 */
typedef struct wino_group {
    int64_t idx;
    const float *filter;
    nn_cpu_span next; /* tiles of src */
} wino_group;

static void fetch(const wino_pass *pass, const wino_group *group, nn_cpu_span tiles, int64_t i)
{
    const nn_winograd *wino = pass->wino;

    if (i < tiles.n) {
        nn_winograd_fetch_dst(wino, pass->dst, tiles.first + i, group->idx * NN_TILE_BLOCKS,
                              nn_conv_group_blocks(wino->dst_blocks, group->idx), 1);
    }
    if (i < group->next.n) nn_winograd_fetch_src(wino, pass->src, group->next.first + i);
}

/* The 36 matrix products of some tiles for one group of dst channels. */
static void multiply(const wino_pass *pass, const wino_group *group, nn_cpu_span tiles,
                     const float *v, float *m)
{
    const nn_winograd *wino = pass->wino;
    const int n_blocks = nn_conv_group_blocks(wino->dst_blocks, group->idx);
    const int64_t place_floats = wino->src_blocks * NN_CPU_BLOCK * NN_CPU_BLOCK;
    const int64_t n_parts = nn_cpu_div_up(tiles.n, nn_conv_tile_max_pixels(n_blocks));
    const int64_t no_offset = 0;
    nn_conv_tile tile = {.x_block_pitch = wino->src_tiles * NN_CPU_BLOCK,
                         .n_blocks = wino->src_blocks,
                         .tap_offset = &no_offset,
                         .n_taps = 1,
                         .y_block_pitch = wino->tiles_per_part * NN_CPU_BLOCK,
                         .y_pixel_pitch = NN_CPU_BLOCK};

    for (int place = 0; place < NN_WINO_PLACES; place++) {
        int64_t first = 0;
        tile.filter = group->filter + place * place_floats * n_blocks;
        fetch(pass, group, tiles, place);
        for (int64_t i = 0; i < n_parts; i++) {
            const int64_t count = (tiles.n - first) / (n_parts - i);
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

/* Floats of a thread's scratch. */
static int64_t scratch_floats(const nn_winograd *wino)
{
    const int64_t m = NN_WINO_PLACES * wino->dst_pitch;

    return m + (wino->tiles_per_slab > 0 ? group_floats(wino) : NN_WINO_PLACES * wino->src_pitch);
}

/* Some parts after each other, for all groups. */
static void part_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const wino_pass *pass = arg;
    const nn_winograd *wino = pass->wino;
    const nn_cpu_span chunk = nn_cpu_part(wino->n_tiles,
                                          wino->tiles_per_part * wino->parts_per_chunk, chunk_idx);
    float *const m = pass->scratch + thread_idx * scratch_floats(wino);
    float *const v = m + NN_WINO_PLACES * wino->dst_pitch;

    for (int64_t i = 0; i < chunk.n; i += wino->tiles_per_part) {
        const nn_cpu_span tiles = {chunk.first + i,
                                   nn_cpu_least(wino->tiles_per_part, chunk.n - i)};
        const int64_t n_next = nn_cpu_least(wino->tiles_per_part, chunk.n - i - tiles.n);
        nn_winograd_read_tiles(wino, pass->src, tiles, v);
        for (int64_t idx = 0; idx < nn_conv_n_groups(wino->dst_blocks); idx++) {
            const wino_group group = {.idx = idx,
                                      .filter = pass->packed + idx * group_floats(wino),
                                      .next = {tiles.first + tiles.n, idx == 0 ? n_next : 0}};
            multiply(pass, &group, tiles, v, m);
            write_tiles(pass, idx, tiles, m);
        }
    }
}

static void read_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const wino_pass *pass = arg;
    nn_cpu_span tiles = nn_cpu_part(pass->slab.n, TILES_PER_READ, chunk_idx);
    float *const out = pass->packed + tiles.first * NN_CPU_BLOCK;

    (void)thread_idx;
    tiles.first += pass->slab.first;
    nn_winograd_read_tiles(pass->wino, pass->src, tiles, out);
}

/* One group, for all parts of a slab. */
static void group_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const wino_pass *pass = arg;
    const nn_winograd *wino = pass->wino;
    float *const m = pass->scratch + thread_idx * scratch_floats(wino);
    float *const filter = m + NN_WINO_PLACES * wino->dst_pitch;
    const wino_group group = {.idx = chunk_idx, .filter = filter};

    for (int64_t block = 0; block < wino->src_blocks; block++) {
        transform_filters(pass, chunk_idx, block, filter);
    }
    for (int64_t i = 0; i < pass->slab.n; i += wino->tiles_per_part) {
        const nn_cpu_span tiles = {pass->slab.first + i,
                                   nn_cpu_least(wino->tiles_per_part, pass->slab.n - i)};
        multiply(pass, &group, tiles, pass->packed + i * NN_CPU_BLOCK, m);
        write_tiles(pass, chunk_idx, tiles, m);
    }
}

static int64_t packed_floats(const nn_winograd *wino)
{
    if (wino->tiles_per_slab > 0) return NN_WINO_PLACES * wino->src_pitch;
    return nn_conv_n_groups(wino->dst_blocks) * group_floats(wino);
}

int64_t nn_winograd_workspace_floats(const nn_winograd *wino, int n_threads)
{
    return packed_floats(wino) + n_threads * scratch_floats(wino);
}

void nn_winograd_run(nn_backend *backend, const nn_winograd *wino, const float *src,
                     const nn_wino_filters *filters, const float *bias, float *dst, int accumulate,
                     float *workspace)
{
    const int64_t n_groups = nn_conv_n_groups(wino->dst_blocks);
    wino_pass pass = {.wino = wino,
                      .filters = filters,
                      .src = src,
                      .bias = bias,
                      .dst = dst,
                      .accumulate = accumulate,
                      .packed = workspace,
                      .scratch = workspace + packed_floats(wino)};

    if (wino->tiles_per_slab == 0) {
        const int64_t chunk_tiles = wino->tiles_per_part * wino->parts_per_chunk;
        nn_cpu_run(backend, n_groups * wino->src_blocks, filter_chunk, &pass);
        nn_cpu_run(backend, nn_cpu_div_up(wino->n_tiles, chunk_tiles), part_chunk, &pass);
        return;
    }
    for (int64_t first = 0; first < wino->n_tiles; first += wino->tiles_per_slab) {
        pass.slab = (nn_cpu_span){first, nn_cpu_least(wino->tiles_per_slab, wino->n_tiles - first)};
        nn_cpu_run(backend, nn_cpu_div_up(pass.slab.n, TILES_PER_READ), read_chunk, &pass);
        nn_cpu_run(backend, n_groups, group_chunk, &pass);
    }
}
