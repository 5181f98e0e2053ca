#include "nn/backends/cpu/winograd_internal.h"

#include "nn/backends/cpu/conv_sweep_internal.h"
#include "nn/backends/cpu/layout_internal.h"
#include "nn/backends/cpu/winograd_tile_internal.h"

enum {
    PART = 2 * NN_TILE_PIXELS, /* tiles: few, so that they stay near, and filters are read seldom */
    SINGLE_PART = 32,          /* with one block of channels, which the first cache holds */
    MAX_PARTS = 8,             /* of a chunk; while one is multiplied the next is fetched */
    MIN_CHUNKS = 64,           /* if there is enough work */
    MIN_PARTS = 16,
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

/* Transformed filters of a group. */
static int64_t group_floats(const nn_winograd *wino)
{
    return NN_WINO_PLACES * nn_wino_filter_pitch(wino->src_blocks, NN_TILE_BLOCKS);
}

nn_wino_set nn_wino_set_of(int64_t blocks, int64_t width, int64_t n_tiles)
{
    /* One line more than there is data: 36 positions at a power of two would share a cache set. */
    return (nn_wino_set){.blocks = blocks,
                         .width = width,
                         .pitch = (nn_cpu_div_up(n_tiles, width) * width * blocks + 1) *
                                  NN_CPU_BLOCK};
}

static int is_single(const nn_winograd *wino)
{
    return NN_VECS_PER_BLOCK == 1 && wino->src_blocks == 1 && wino->dst_blocks == 1;
}

/* The size of equal parts of n, no larger than the most and even in number: shared by two threads.
 */
static int64_t even_part_size(int64_t n, int64_t most)
{
    const int64_t n_parts = nn_cpu_div_up(n, most);

    return nn_cpu_div_up(n, n_parts + n_parts % 2);
}

static int64_t tiles_of_part(const nn_winograd *wino)
{
    if (is_single(wino)) return SINGLE_PART;
    const int64_t wanted = nn_cpu_div_up(wino->n_tiles, MIN_PARTS * NN_TILE_PIXELS);

    return even_part_size(wino->n_tiles, nn_cpu_least(PART, wanted * NN_TILE_PIXELS));
}

/* As few tiles as there can be, and as many of 3 among them: the fewest positions. (5 outputs are
 * two tiles of 3, one of which reaches over the border.) */
static nn_wino_axis cut_axis(int64_t length)
{
    const int64_t n = nn_cpu_div_up(length, NN_WINO_OUT);
    const int64_t n_short = nn_cpu_least(n, n * NN_WINO_OUT - length);

    return (nn_wino_axis){{n - n_short, n_short}};
}

/* Whether tiles of a kind have 3 rows, 3 columns. */
static int short_rows(int kind)
{
    return kind >= 2;
}

static int short_cols(int kind)
{
    return kind == 0 || kind == 3;
}

static void cut_plane(nn_winograd *wino)
{
    wino->rows = cut_axis(wino->dst_h);
    wino->cols = cut_axis(wino->dst_w);
    for (int kind = 0; kind < NN_WINO_N_KINDS; kind++) {
        wino->n_tiles += wino->n * wino->rows.n[short_rows(kind)] * wino->cols.n[short_cols(kind)];
        wino->kind_end[kind] = wino->n_tiles;
    }
}

static void cut(nn_winograd *wino)
{
    wino->src_blocks = nn_cpu_blocks(wino->src_c);
    wino->dst_blocks = nn_cpu_blocks(wino->dst_c);
    cut_plane(wino);
    const int64_t n_groups = nn_conv_n_groups(wino->dst_blocks);
    const int is_by_slabs = n_groups >= MANY_GROUPS && n_groups * group_floats(wino) >= MANY_FLOATS;
    wino->tiles_per_part = is_by_slabs ? PART : tiles_of_part(wino);
    const int64_t n_parts = nn_cpu_div_up(wino->n_tiles, wino->tiles_per_part);
    wino->parts_per_chunk = nn_cpu_most(1, nn_cpu_least(MAX_PARTS, n_parts / MIN_CHUNKS));
    int64_t src_tiles = wino->tiles_per_part;
    if (is_by_slabs) {
        const int64_t part_floats = NN_WINO_PLACES * wino->src_blocks * NN_CPU_BLOCK * PART;
        src_tiles = nn_cpu_least(n_parts, nn_cpu_most(1, SLAB_FLOATS / part_floats)) * PART;
        wino->tiles_per_slab = src_tiles;
    }
    const int64_t width = is_single(wino) ? SINGLE_PART : NN_TILE_PIXELS;
    wino->src_set = nn_wino_set_of(wino->src_blocks, width, src_tiles);
    wino->dst_set = nn_wino_set_of(is_by_slabs ? NN_TILE_BLOCKS : wino->dst_blocks, width,
                                   wino->tiles_per_part);
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
    const float *src;
    const nn_conv_epilogue *epilogue;
    float *dst;
    int accumulate;
    float *packed; /* all transformed filters; or, by slabs, a slab of transformed tiles */
    float *scratch;
    nn_cpu_span slab;
} wino_pass;

static void filter_chunk(void *arg, int64_t group, int thread_idx)
{
    const wino_pass *pass = arg;

    (void)thread_idx;
    nn_wino_transform_filters(pass->wino, pass->filters, group,
                              pass->packed + group * group_floats(pass->wino));
}

/* --- Tiles ------------------------------------------------------------------------------------ */

nn_cpu_span nn_winograd_having(const nn_winograd *wino, nn_cpu_span tiles, int place)
{
    const int is_last_row = place / NN_WINO_IN == 1; /* in their order */
    const int is_last_col = place % NN_WINO_IN == NN_WINO_IN - 1;
    const int last_kind = is_last_row ? 1 : is_last_col ? 2 : 3; /* of 4x3, 4x4, 3x4, 3x3 */
    const int64_t first = nn_cpu_most(tiles.first, is_last_col ? wino->kind_end[0] : 0);
    const int64_t end = nn_cpu_least(tiles.first + tiles.n, wino->kind_end[last_kind]);

    return first < end ? (nn_cpu_span){first, end - first} : (nn_cpu_span){tiles.first, 0};
}

/* Where a tile stands along an axis. */
static int64_t tile_place(nn_wino_axis axis, int is_short, int64_t idx)
{
    return is_short ? axis.n[0] * NN_WINO_OUT + idx * (NN_WINO_OUT - 1) : idx * NN_WINO_OUT;
}

nn_wino_run nn_winograd_dst_run(const nn_winograd *wino, int64_t tile, int64_t most)
{
    int kind = 0;

    while (tile >= wino->kind_end[kind]) kind++;
    if (kind > 0) tile -= wino->kind_end[kind - 1];
    const int64_t n_rows = wino->rows.n[short_rows(kind)], n_cols = wino->cols.n[short_cols(kind)];
    const int64_t row = tile / n_cols % n_rows, col = tile % n_cols;
    return (nn_wino_run){.image = tile / (n_rows * n_cols),
                         .h = wino->dst_h,
                         .w = wino->dst_w,
                         .row = tile_place(wino->rows, short_rows(kind), row),
                         .col = tile_place(wino->cols, short_cols(kind), col),
                         .rows = NN_WINO_OUT - short_rows(kind),
                         .cols = NN_WINO_OUT - short_cols(kind),
                         .n = nn_cpu_least(most, n_cols - col)};
}

nn_wino_run nn_winograd_src_run(const nn_winograd *wino, int64_t tile, int64_t most)
{
    nn_wino_run run = nn_winograd_dst_run(wino, tile, most);

    run.h = wino->src_h;
    run.w = wino->src_w;
    run.row -= wino->pad_h;
    run.col -= wino->pad_w;
    return run;
}

void nn_winograd_read_tiles(const nn_winograd *wino, const float *src, nn_cpu_span tiles,
                            const nn_wino_set *set, int64_t to, float *out)
{
    const int64_t plane = wino->src_h * wino->src_w * NN_CPU_BLOCK;
    const nn_wino_blocks blocks = {wino->src_blocks, set->width * NN_CPU_BLOCK};

    for (int64_t i = 0, n = 0; i < tiles.n; i += n) {
        const int64_t most = nn_cpu_least(tiles.n - i, set->width - (to + i) % set->width);
        const nn_wino_run run = nn_winograd_src_run(wino, tiles.first + i, most);
        nn_wino_input(src + run.image * wino->src_blocks * plane, &run, &blocks, NN_WINO_ALL,
                      out + nn_wino_set_at(set, to + i), set->pitch);
        n = run.n;
    }
}

nn_wino_fetch nn_winograd_fetch_src(const nn_winograd *wino, const float *src, nn_cpu_span tiles,
                                    nn_cpu_span blocks)
{
    return (nn_wino_fetch){.wino = wino,
                           .at = src,
                           .tile = tiles.first,
                           .end = tiles.first + tiles.n,
                           .blocks = blocks};
}

nn_wino_fetch nn_winograd_fetch_dst(const nn_winograd *wino, const float *dst, nn_cpu_span tiles,
                                    nn_cpu_span blocks, int is_written)
{
    nn_wino_fetch fetch = nn_winograd_fetch_src(wino, dst, tiles, blocks);

    fetch.is_dst = 1;
    fetch.is_written = is_written;
    return fetch;
}

/* The next row of pixels: of the block, else of the next block, else of the next run. */
static int fetch_next_row(nn_wino_fetch *fetch)
{
    const nn_winograd *wino = fetch->wino;
    nn_wino_run *run = &fetch->run;

    if (fetch->rows.n == 0 && fetch->block + 1 < fetch->blocks.n && run->n > 0) {
        fetch->block++;
        fetch->rows = fetch->run_rows;
    }
    while (fetch->rows.n == 0) {
        if (fetch->tile >= fetch->end) return 0;
        const int64_t most = fetch->end - fetch->tile;
        const int64_t halo = fetch->is_dst ? 0 : NN_WINO_IN - NN_WINO_OUT;
        *run = fetch->is_dst ? nn_winograd_dst_run(wino, fetch->tile, most)
                             : nn_winograd_src_run(wino, fetch->tile, most);
        /* Tiles above and left have often just read the others. */
        fetch->run_rows = nn_cpu_common((nn_cpu_span){run->row + halo, run->rows},
                                        (nn_cpu_span){0, run->h});
        fetch->run_cols = nn_cpu_common((nn_cpu_span){run->col + halo, run->n * run->cols},
                                        (nn_cpu_span){0, run->w});
        fetch->rows = fetch->run_rows;
        fetch->block = 0;
        fetch->tile += run->n;
    }
    const int64_t n_blocks = fetch->is_dst ? wino->dst_blocks : wino->src_blocks;
    const int64_t plane = run->image * n_blocks + fetch->blocks.first + fetch->block;
    fetch->line = fetch->at +
                  ((plane * run->h + fetch->rows.first) * run->w + fetch->run_cols.first) *
                      NN_CPU_BLOCK;
    fetch->n_lines = fetch->run_cols.n;
    fetch->rows.first++;
    fetch->rows.n--;
    return 1;
}

void nn_winograd_fetch(nn_wino_fetch *fetch, int64_t n)
{
    while (n > 0 && (fetch->n_lines > 0 || fetch_next_row(fetch))) {
        const int64_t n_now = nn_cpu_least(n, fetch->n_lines);
        const float *line = fetch->line;
        if (fetch->is_written) {
            for (int64_t i = 0; i < n_now; i++) CVY_PREFETCH_WRITE(line + i * NN_CPU_BLOCK);
        } else {
            for (int64_t i = 0; i < n_now; i++) CVY_PREFETCH_READ(line + i * NN_CPU_BLOCK);
        }
        fetch->line += n_now * NN_CPU_BLOCK;
        fetch->n_lines -= n_now;
        n -= n_now;
    }
}

/* Products of some groups of dst channels, tiles that they are of, and tiles of src to be fetched
 * meanwhile. */
typedef struct wino_step {
    nn_cpu_span groups;
    const float *filter; /* of the first group */
    nn_cpu_span tiles, next;
} wino_step;

static nn_cpu_span step_blocks(const nn_winograd *wino, nn_cpu_span groups)
{
    const int64_t first = groups.first * NN_TILE_BLOCKS;

    return (nn_cpu_span){first, nn_cpu_least(groups.n * NN_TILE_BLOCKS, wino->dst_blocks - first)};
}

/* The matrix products of some tiles, v from the first of them on. */
static void multiply(const wino_pass *pass, const wino_step *step, const float *v, float *m)
{
    const nn_winograd *wino = pass->wino;
    const int64_t n_products = NN_WINO_PLACES * step->groups.n;
    nn_wino_fetch dst = nn_winograd_fetch_dst(wino, pass->dst, step->tiles,
                                              step_blocks(wino, step->groups), 1);
    nn_wino_fetch src = nn_winograd_fetch_src(wino, pass->src, step->next,
                                              (nn_cpu_span){0, wino->src_blocks});
    const int64_t n_dst = nn_cpu_div_up(nn_winograd_fetch_n(&dst), n_products);
    const int64_t n_src = nn_cpu_div_up(nn_winograd_fetch_n(&src), n_products);
    nn_wino_product product = {.src = &wino->src_set, .dst = &wino->dst_set};

    for (int place = 0; place < NN_WINO_PLACES; place++) {
        const nn_cpu_span having = nn_winograd_having(wino, step->tiles, place);
        const int64_t skipped = having.first - step->tiles.first;
        const int64_t first = skipped - skipped % wino->src_set.width;
        product.n_tiles = skipped + having.n - first;
        product.x = v + place * wino->src_set.pitch + nn_wino_set_at(&wino->src_set, first);
        for (int64_t i = 0; i < step->groups.n; i++) {
            const int n_blocks = nn_conv_group_blocks(wino->dst_blocks, step->groups.first + i);
            product.filter = step->filter + i * group_floats(wino) +
                             place * nn_wino_filter_pitch(wino->src_blocks, n_blocks);
            product.y = m + place * wino->dst_set.pitch + nn_wino_set_at(&wino->dst_set, first) +
                        i * NN_TILE_BLOCKS * wino->dst_set.width * NN_CPU_BLOCK;
            nn_winograd_fetch(&dst, n_dst);
            nn_winograd_fetch(&src, n_src);
            nn_wino_multiply(&product, n_blocks);
        }
    }
}

static void write_tiles(const wino_pass *pass, const wino_step *step, const float *m)
{
    const nn_winograd *wino = pass->wino;
    const nn_wino_set *set = &wino->dst_set;
    const nn_cpu_span blocks = step_blocks(wino, step->groups);
    const int64_t plane = wino->dst_h * wino->dst_w * NN_CPU_BLOCK;

    for (int64_t i = 0, n = 0; i < step->tiles.n; i += n) {
        const int64_t most = nn_cpu_least(step->tiles.n - i, set->width - i % set->width);
        const nn_wino_run run = nn_winograd_dst_run(wino, step->tiles.first + i, most);
        const float *from = m + nn_wino_set_at(set, i);
        for (int64_t j = 0; j < blocks.n; j++) {
            const int64_t block = blocks.first + j;
            const int64_t y = (run.image * wino->dst_blocks + block) * plane;
            const nn_conv_epilogue epilogue = nn_conv_epilogue_at(pass->epilogue, block, y);
            nn_wino_output(from + j * set->width * NN_CPU_BLOCK, set->pitch, &epilogue,
                           pass->accumulate, pass->dst + y, &run);
        }
        n = run.n;
    }
}

/* Floats of a thread's scratch. */
static int64_t scratch_floats(const nn_winograd *wino)
{
    const int64_t m = nn_wino_set_floats(&wino->dst_set);

    return m + (wino->tiles_per_slab > 0 ? group_floats(wino) : nn_wino_set_floats(&wino->src_set));
}

/* Some parts after each other, for all groups. */
static void part_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const wino_pass *pass = arg;
    const nn_winograd *wino = pass->wino;
    const nn_cpu_span chunk = nn_cpu_part(wino->n_tiles,
                                          wino->tiles_per_part * wino->parts_per_chunk, chunk_idx);
    float *const m = pass->scratch + thread_idx * scratch_floats(wino);
    float *const v = m + nn_wino_set_floats(&wino->dst_set);

    for (int64_t i = 0; i < chunk.n; i += wino->tiles_per_part) {
        const int64_t n = nn_cpu_least(wino->tiles_per_part, chunk.n - i);
        const wino_step step = {
            .groups = {0, nn_conv_n_groups(wino->dst_blocks)},
            .filter = pass->packed,
            .tiles = {chunk.first + i, n},
            .next = nn_cpu_common((nn_cpu_span){chunk.first + i + n, wino->tiles_per_part},
                                  (nn_cpu_span){0, wino->n_tiles})};
        nn_winograd_read_tiles(wino, pass->src, step.tiles, &wino->src_set, 0, v);
        multiply(pass, &step, v, m);
        write_tiles(pass, &step, m);
    }
}

static void read_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const wino_pass *pass = arg;
    nn_cpu_span tiles = nn_cpu_part(pass->slab.n, TILES_PER_READ, chunk_idx);
    const int64_t to = tiles.first;

    (void)thread_idx;
    tiles.first += pass->slab.first;
    nn_winograd_read_tiles(pass->wino, pass->src, tiles, &pass->wino->src_set, to, pass->packed);
}

/* One group, for all parts of a slab. */
static void group_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const wino_pass *pass = arg;
    const nn_winograd *wino = pass->wino;
    float *const m = pass->scratch + thread_idx * scratch_floats(wino);
    float *const filter = m + nn_wino_set_floats(&wino->dst_set);

    nn_wino_transform_filters(wino, pass->filters, chunk_idx, filter);
    for (int64_t i = 0; i < pass->slab.n; i += wino->tiles_per_part) {
        const wino_step step = {
            .groups = {chunk_idx, 1},
            .filter = filter,
            .tiles = {pass->slab.first + i, nn_cpu_least(wino->tiles_per_part, pass->slab.n - i)}};
        multiply(pass, &step, pass->packed + nn_wino_set_at(&wino->src_set, i), m);
        write_tiles(pass, &step, m);
    }
}

static int64_t packed_floats(const nn_winograd *wino)
{
    if (wino->tiles_per_slab > 0) return nn_wino_set_floats(&wino->src_set);
    return nn_conv_n_groups(wino->dst_blocks) * group_floats(wino);
}

int64_t nn_winograd_workspace_floats(const nn_winograd *wino, int n_threads)
{
    return packed_floats(wino) + n_threads * scratch_floats(wino);
}

void nn_winograd_run(nn_backend *backend, const nn_winograd *wino, const float *src,
                     const nn_wino_filters *filters, const nn_conv_epilogue *epilogue, float *dst,
                     int accumulate, float *workspace)
{
    const int64_t n_groups = nn_conv_n_groups(wino->dst_blocks);
    wino_pass pass = {.wino = wino,
                      .filters = filters,
                      .src = src,
                      .epilogue = epilogue,
                      .dst = dst,
                      .accumulate = accumulate,
                      .packed = workspace,
                      .scratch = workspace + packed_floats(wino)};

    if (wino->tiles_per_slab == 0) {
        const int64_t chunk_tiles = wino->tiles_per_part * wino->parts_per_chunk;
        nn_cpu_run(backend, n_groups, filter_chunk, &pass);
        nn_cpu_run(backend, nn_cpu_div_up(wino->n_tiles, chunk_tiles), part_chunk, &pass);
        return;
    }
    for (int64_t first = 0; first < wino->n_tiles; first += wino->tiles_per_slab) {
        pass.slab = (nn_cpu_span){first, nn_cpu_least(wino->tiles_per_slab, wino->n_tiles - first)};
        nn_cpu_run(backend, nn_cpu_div_up(pass.slab.n, TILES_PER_READ), read_chunk, &pass);
        nn_cpu_run(backend, n_groups, group_chunk, &pass);
    }
}
