#include "nn/backends/cpu/winograd_strided_internal.h"

#include "nn/backends/cpu/conv_sweep_internal.h"
#include "nn/backends/cpu/layout_internal.h"

/* Work is cut as in winograd.c. Here: how, and work in parts of one size of tiles after the other;
 * winograd_strided_slab.c has the rest. */

enum {
    MOST_PRODUCTS = 7, /* for an output, instead of 9 */
    /* Blocks of x times blocks of y: with fewer the transforms take what the products save. */
    MIN_FORWARD = 2,
    MIN_BACKWARD = 4,
    MIN_FILTER = 16,
    PART = 2 * NN_TILE_PIXELS, /* tiles: filters are read seldom, and products stay near */
    MIN_PARTS = 16,            /* if there is enough work */
    MIN_CHUNKS = 32,
    MAX_PARTS = 8,         /* of a chunk; while one is multiplied the next is fetched */
    MANY_GROUPS = 8,       /* of dst channels, which make chunks enough for some threads */
    MANY_FLOATS = 4 << 20, /* of transformed filters, that the last cache does not hold */
    SLAB_FLOATS = 5 << 20  /* of transformed tiles: a part of the last cache */
};

/* --- Cutting ---------------------------------------------------------------------------------- */

/* How many tiles of 4 and of 3 cover n outputs: as few as can be, and of these as many small ones
 * as will do. */
typedef struct cover {
    int64_t n_large, n_small;
} cover;

static cover cover_of(int64_t n)
{
    const int64_t n_tiles = nn_cpu_div_up(n, NN_STRIDED_SIZE);
    const int64_t n_small = nn_cpu_least(n_tiles, n_tiles * NN_STRIDED_SIZE - n);

    return (cover){n_tiles - n_small, n_small};
}

/* Positions of the lines that cover n outputs. */
static int64_t count_places(int64_t n)
{
    const cover tiles = cover_of(n);

    return tiles.n_large * (2 * NN_STRIDED_SIZE + 1) + tiles.n_small * (2 * NN_STRIDED_SIZE - 1);
}

static int fits(const nn_conv2d_geom *geom, int64_t min_block_pairs)
{
    return geom->groups == 1 && nn_cpu_is_blocked(geom->c) && nn_cpu_is_blocked(geom->k) &&
           geom->r == 3 && geom->s == 3 && geom->stride_h == 2 && geom->stride_w == 2 &&
           geom->dil_h == 1 && geom->dil_w == 1 && geom->pad_h == 1 && geom->pad_w == 1 &&
           nn_cpu_blocks(geom->c) * nn_cpu_blocks(geom->k) >= min_block_pairs &&
           count_places(geom->p) * count_places(geom->q) <= MOST_PRODUCTS * geom->p * geom->q;
}

int nn_strided_fits_forward(const nn_conv2d_geom *geom)
{
    return fits(geom, MIN_FORWARD);
}

int nn_strided_fits_backward(const nn_conv2d_geom *geom)
{
    return fits(geom, MIN_BACKWARD);
}

int nn_strided_fits_filter(const nn_conv2d_geom *geom)
{
    return fits(geom, MIN_FILTER);
}

static void add_kind(nn_strided *plan, cover rows, int is_low, cover cols, int is_narrow)
{
    const nn_strided_kind kind = {.h = NN_STRIDED_SIZE - is_low,
                                  .w = NN_STRIDED_SIZE - is_narrow,
                                  .row = is_low ? rows.n_large * NN_STRIDED_SIZE : 0,
                                  .col = is_narrow ? cols.n_large * NN_STRIDED_SIZE : 0,
                                  .rows = is_low ? rows.n_small : rows.n_large,
                                  .cols = is_narrow ? cols.n_small : cols.n_large};

    if (kind.rows * kind.cols > 0) plan->kinds[plan->n_kinds++] = kind;
}

/* Transformed filters of a group. */
int64_t nn_strided_group_floats(const nn_strided *plan)
{
    return NN_STRIDED_FILTERS * NN_STRIDED_FILTERS *
           nn_wino_filter_pitch(plan->wino.src_blocks, NN_TILE_BLOCKS);
}

static void cut_slabs(nn_strided *plan)
{
    const nn_winograd *wino = &plan->wino;
    int64_t image_floats = 0;

    for (int i = 0; i < plan->n_kinds; i++) {
        const nn_strided_kind *kind = &plan->kinds[i];
        image_floats += nn_strided_places(kind) * kind->rows * kind->cols * wino->src_blocks *
                        NN_CPU_BLOCK;
    }
    plan->images_per_slab = nn_cpu_least(wino->n, nn_cpu_most(1, SLAB_FLOATS / image_floats));
}

static void cut(nn_strided *plan)
{
    nn_winograd *wino = &plan->wino;
    const int64_t y_h = plan->is_backward ? wino->src_h : wino->dst_h;
    const int64_t y_w = plan->is_backward ? wino->src_w : wino->dst_w;
    const cover rows = cover_of(y_h), cols = cover_of(y_w);

    wino->src_blocks = nn_cpu_blocks(wino->src_c);
    wino->dst_blocks = nn_cpu_blocks(wino->dst_c);
    for (int i = 0; i < NN_STRIDED_KINDS; i++) add_kind(plan, rows, i / 2, cols, i % 2);
    const int64_t all = wino->n * (rows.n_large + rows.n_small) * (cols.n_large + cols.n_small);
    const int64_t wanted = nn_cpu_div_up(all, MIN_PARTS * NN_TILE_PIXELS);
    const int64_t n_groups = nn_conv_n_groups(wino->dst_blocks);
    const int is_by_slabs = n_groups >= MANY_GROUPS &&
                            n_groups * nn_strided_group_floats(plan) >= MANY_FLOATS;
    plan->tiles_per_part = nn_cpu_least(PART, wanted * NN_TILE_PIXELS);
    plan->parts_per_chunk = nn_cpu_least(MAX_PARTS, all / plan->tiles_per_part / MIN_CHUNKS);
    plan->parts_per_chunk = nn_cpu_most(1, plan->parts_per_chunk);
    if (is_by_slabs) cut_slabs(plan);
    plan->src_set = nn_wino_set_of(wino->src_blocks, NN_TILE_PIXELS, plan->tiles_per_part);
    plan->dst_set = nn_wino_set_of(NN_TILE_BLOCKS, NN_TILE_PIXELS, plan->tiles_per_part);
}

void nn_strided_forward(const nn_conv2d_geom *geom, nn_strided *out)
{
    *out = (nn_strided){.wino = {.n = geom->n,
                                 .src_c = geom->c,
                                 .src_h = geom->h,
                                 .src_w = geom->w,
                                 .dst_c = geom->k,
                                 .dst_h = geom->p,
                                 .dst_w = geom->q}};
    cut(out);
}

void nn_strided_backward(const nn_conv2d_geom *geom, nn_strided *out)
{
    *out = (nn_strided){.is_backward = 1,
                        .wino = {.n = geom->n,
                                 .src_c = geom->k,
                                 .src_h = geom->p,
                                 .src_w = geom->q,
                                 .dst_c = geom->c,
                                 .dst_h = geom->h,
                                 .dst_w = geom->w}};
    cut(out);
}

/* --- Tiles ------------------------------------------------------------------------------------ */

/* In y, or dy. */
static nn_strided_tiles small_tiles(const nn_strided *plan, const nn_strided_kind *kind,
                                    int64_t tile, int64_t most)
{
    const int64_t row = tile / kind->cols % kind->rows, col = tile % kind->cols;
    const nn_winograd *wino = &plan->wino;

    return (nn_strided_tiles){.h = kind->h,
                              .w = kind->w,
                              .image = tile / (kind->rows * kind->cols),
                              .plane_h = plan->is_backward ? wino->src_h : wino->dst_h,
                              .plane_w = plan->is_backward ? wino->src_w : wino->dst_w,
                              .row = kind->row + row * kind->h,
                              .col = kind->col + col * kind->w,
                              .n = nn_cpu_least(most, kind->cols - col)};
}

/* A window of x begins with the pad; dx is written from its first pixel on. */
nn_strided_tiles nn_strided_src_tiles(const nn_strided *plan, const nn_strided_kind *kind,
                                      int64_t tile, int64_t most)
{
    nn_strided_tiles tiles = small_tiles(plan, kind, tile, most);

    if (plan->is_backward) return tiles;
    tiles.plane_h = plan->wino.src_h;
    tiles.plane_w = plan->wino.src_w;
    tiles.row = 2 * tiles.row - 1;
    tiles.col = 2 * tiles.col - 1;
    return tiles;
}

nn_strided_tiles nn_strided_dst_tiles(const nn_strided *plan, const nn_strided_kind *kind,
                                      int64_t tile, int64_t most)
{
    nn_strided_tiles tiles = small_tiles(plan, kind, tile, most);

    if (!plan->is_backward) return tiles;
    tiles.plane_h = plan->wino.dst_h;
    tiles.plane_w = plan->wino.dst_w;
    tiles.row *= 2;
    tiles.col *= 2;
    return tiles;
}

void nn_strided_read(const nn_strided_pass *pass, const nn_strided_tiles *tiles,
                     const int64_t *places, float *out)
{
    const nn_wino_blocks blocks = {pass->plan->wino.src_blocks, NN_TILE_PIXELS * NN_CPU_BLOCK};
    const int64_t plane = tiles->plane_h * tiles->plane_w * NN_CPU_BLOCK;

    nn_strided_input(pass->src + tiles->image * blocks.n * plane, tiles, &blocks,
                     pass->plan->is_backward ? NN_STRIDED_DY : NN_STRIDED_X, NN_STRIDED_ALL_ROWS,
                     places, out);
}

void nn_strided_write(const nn_strided_pass *pass, const nn_strided_tiles *tiles,
                      nn_cpu_span blocks, const int64_t *places, const float *m)
{
    const nn_strided *plan = pass->plan;
    const int64_t plane = tiles->plane_h * tiles->plane_w * NN_CPU_BLOCK;

    for (int64_t i = 0; i < blocks.n; i++) {
        const int64_t block = blocks.first + i;
        const int64_t y = (tiles->image * plan->wino.dst_blocks + block) * plane;
        const float *from = m + i * NN_TILE_PIXELS * NN_CPU_BLOCK;
        if (plan->is_backward) {
            nn_strided_output_phases(from, places, pass->accumulate, pass->dst + y, tiles);
        } else {
            const nn_conv_epilogue epilogue = nn_conv_epilogue_at(pass->epilogue, block, y);
            nn_strided_output(from, places, &epilogue, pass->dst + y, tiles);
        }
    }
}

int64_t nn_strided_count_parts(const nn_strided *plan, int64_t n_images, int64_t most)
{
    int64_t n = 0;

    for (int i = 0; i < plan->n_kinds; i++) {
        n += nn_cpu_div_up(n_images * nn_strided_tiles_of(&plan->kinds[i]), most);
    }
    return n;
}

nn_strided_part nn_strided_find_part(const nn_strided *plan, int64_t n_images, int64_t most,
                                     int64_t idx)
{
    int kind = 0;

    for (;; kind++) {
        const int64_t n = n_images * nn_strided_tiles_of(&plan->kinds[kind]);
        if (idx < nn_cpu_div_up(n, most)) return (nn_strided_part){kind, nn_cpu_part(n, most, idx)};
        idx -= nn_cpu_div_up(n, most);
    }
}

/* --- Parts ------------------------------------------------------------------------------------ */

static void filter_chunk(void *arg, int64_t group, int thread_idx)
{
    const nn_strided_pass *pass = arg;

    (void)thread_idx;
    nn_wino_transform_filters(&pass->plan->wino, pass->filters, group,
                              pass->packed + group * nn_strided_group_floats(pass->plan));
}

static void read_part(const nn_strided_pass *pass, const nn_strided_part *part, float *v)
{
    const nn_strided *plan = pass->plan;
    const nn_wino_set *set = &plan->src_set;
    int64_t places[NN_STRIDED_PLACES];

    for (int i = 0; i < NN_STRIDED_PLACES; i++) places[i] = i * set->pitch;
    for (int64_t i = 0, n = 0; i < part->tiles.n; i += n) {
        const int64_t most = nn_cpu_least(part->tiles.n - i, set->width - i % set->width);
        const nn_strided_tiles tiles = nn_strided_src_tiles(plan, &plan->kinds[part->kind],
                                                            part->tiles.first + i, most);
        nn_strided_read(pass, &tiles, places, v + nn_wino_set_at(set, i));
        n = tiles.n;
    }
}

static void write_part(const nn_strided_pass *pass, const nn_strided_part *part, nn_cpu_span blocks,
                       const float *m)
{
    const nn_strided *plan = pass->plan;
    const nn_wino_set *set = &plan->dst_set;
    int64_t places[NN_STRIDED_PLACES];

    for (int i = 0; i < NN_STRIDED_PLACES; i++) places[i] = i * set->pitch;
    for (int64_t i = 0, n = 0; i < part->tiles.n; i += n) {
        const int64_t most = nn_cpu_least(part->tiles.n - i, set->width - i % set->width);
        const nn_strided_tiles tiles = nn_strided_dst_tiles(plan, &plan->kinds[part->kind],
                                                            part->tiles.first + i, most);
        nn_strided_write(pass, &tiles, blocks, places, m + nn_wino_set_at(set, i));
        n = tiles.n;
    }
}

/* What the memory is to fetch while products are computed, a little between any two of them: some
 * blocks of tiles, of src the pixels that no tile before has read. */
typedef struct tile_fetch {
    const nn_strided *plan;
    const float *at;
    nn_strided_part part; /* the rest */
    nn_cpu_span blocks;
    int is_dst;
    int64_t block;  /* the next of them, of the first tile */
    int64_t n_each; /* pairs of tile and block between two products */
} tile_fetch;

static void fetch_tile(const float *plane, const nn_strided_tiles *tiles, int64_t h, int64_t w,
                       int is_written)
{
    const int64_t end_row = nn_cpu_least(tiles->row + h, tiles->plane_h);
    const int64_t end_col = nn_cpu_least(tiles->col + w, tiles->plane_w);

    for (int64_t i = tiles->row; i < end_row; i++) {
        const float *line = plane + i * tiles->plane_w * NN_CPU_BLOCK;
        for (int64_t j = tiles->col; j < end_col; j++) {
            if (is_written) {
                CVY_PREFETCH_WRITE(line + j * NN_CPU_BLOCK);
            } else {
                CVY_PREFETCH_READ(line + j * NN_CPU_BLOCK);
            }
        }
    }
}

static void fetch_some(tile_fetch *fetch)
{
    const nn_strided *plan = fetch->plan;
    const nn_strided_kind *kind = &plan->kinds[fetch->part.kind];
    const int64_t n_blocks = fetch->is_dst ? plan->wino.dst_blocks : plan->wino.src_blocks;
    const int step = plan->is_backward == fetch->is_dst ? 2 : 1;
    const int halo = fetch->is_dst ? 0 : 1; /* tiles before have been above and left */

    for (int64_t i = 0; i < fetch->n_each && fetch->part.tiles.n > 0; i++) {
        const int64_t tile = fetch->part.tiles.first;
        nn_strided_tiles tiles = fetch->is_dst ? nn_strided_dst_tiles(plan, kind, tile, 1)
                                               : nn_strided_src_tiles(plan, kind, tile, 1);
        const int64_t block = tiles.image * n_blocks + fetch->blocks.first + fetch->block;
        tiles.row += halo;
        tiles.col += halo;
        fetch_tile(fetch->at + block * tiles.plane_h * tiles.plane_w * NN_CPU_BLOCK, &tiles,
                   kind->h * step, kind->w * step, fetch->is_dst);
        if (++fetch->block < fetch->blocks.n) continue;
        fetch->block = 0;
        fetch->part.tiles.first++;
        fetch->part.tiles.n--;
    }
}

/* One group of dst channels of a part, whose transformed tiles are v. */
typedef struct part_group {
    nn_strided_part part;
    nn_cpu_span blocks;
    const float *filter, *v;
    float *m;
    tile_fetch *src, dst;
} part_group;

/* The positions of a line that have a filter in common. */
static nn_cpu_span line_places(int filter, int size)
{
    if (filter == NN_STRIDED_POINTS) return (nn_cpu_span){size + 1, size};
    return (nn_cpu_span){filter, filter <= size ? 1 : 0};
}

/* All positions of filter i, j. */
static void multiply_filter(const nn_strided *plan, part_group *group, int i, int j)
{
    const nn_strided_kind *kind = &plan->kinds[group->part.kind];
    const nn_cpu_span rows = line_places(i, kind->h), cols = line_places(j, kind->w);
    const int n_blocks = (int)group->blocks.n;
    nn_wino_product product = {.src = &plan->src_set,
                               .dst = &plan->dst_set,
                               .filter = group->filter +
                                         (i * NN_STRIDED_FILTERS + j) *
                                             nn_wino_filter_pitch(plan->wino.src_blocks, n_blocks),
                               .n_tiles = group->part.tiles.n};

    for (int64_t place = 0; place < rows.n * cols.n; place++) {
        const int64_t row = rows.first + place / cols.n, col = cols.first + place % cols.n;
        product.x = group->v + (row * (2 * kind->w + 1) + col) * plan->src_set.pitch;
        product.y = group->m + (row * (2 * kind->w + 1) + col) * plan->dst_set.pitch;
        fetch_some(&group->dst);
        fetch_some(group->src);
        nn_wino_multiply(&product, n_blocks);
    }
}

/* Floats of a thread's scratch: products, then transformed tiles. */
static int64_t scratch_floats(const nn_strided *plan)
{
    return NN_STRIDED_PLACES * (plan->src_set.pitch + plan->dst_set.pitch);
}

/* One part, for all groups; `next` is fetched meanwhile. Products of one group at a time, so that
 * these stay near. */
static void run_part(const nn_strided_pass *pass, const nn_strided_part *part,
                     const nn_strided_part *next, float *scratch)
{
    const nn_strided *plan = pass->plan;
    const int64_t n_places = nn_strided_places(&plan->kinds[part->kind]);
    const int64_t n_groups = nn_conv_n_groups(plan->wino.dst_blocks);
    const int64_t src_blocks = plan->wino.src_blocks;
    float *const v = scratch + NN_STRIDED_PLACES * plan->dst_set.pitch;
    tile_fetch src = {.plan = plan,
                      .at = pass->src,
                      .part = *next,
                      .blocks = {0, src_blocks},
                      .n_each = nn_cpu_div_up(next->tiles.n * src_blocks, n_places * n_groups)};

    read_part(pass, part, v);
    for (int64_t i = 0; i < n_groups; i++) {
        const nn_cpu_span blocks = {i * NN_TILE_BLOCKS,
                                    nn_conv_group_blocks(plan->wino.dst_blocks, i)};
        part_group group = {.part = *part,
                            .blocks = blocks,
                            .filter = pass->packed + i * nn_strided_group_floats(plan),
                            .v = v,
                            .m = scratch,
                            .src = &src,
                            .dst = {.plan = plan,
                                    .at = pass->dst,
                                    .part = *part,
                                    .blocks = blocks,
                                    .is_dst = 1,
                                    .n_each = nn_cpu_div_up(part->tiles.n * blocks.n, n_places)}};
        for (int f = 0; f < NN_STRIDED_FILTERS * NN_STRIDED_FILTERS; f++) {
            multiply_filter(plan, &group, f / NN_STRIDED_FILTERS, f % NN_STRIDED_FILTERS);
        }
        write_part(pass, part, blocks, scratch);
    }
}

/* Some parts after each other. */
static void part_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const nn_strided_pass *pass = arg;
    const nn_strided *plan = pass->plan;
    const nn_strided_part chunk = nn_strided_find_part(
        plan, plan->wino.n, plan->tiles_per_part * plan->parts_per_chunk, chunk_idx);
    const int64_t n_parts = nn_cpu_div_up(chunk.tiles.n, plan->tiles_per_part);

    for (int64_t i = 0; i < n_parts; i++) {
        nn_strided_part part = chunk, next = chunk;
        part.tiles = nn_cpu_part(chunk.tiles.n, plan->tiles_per_part, i);
        next.tiles = nn_cpu_part(chunk.tiles.n, plan->tiles_per_part, i + 1);
        part.tiles.first += chunk.tiles.first;
        next.tiles.first += chunk.tiles.first;
        if (i + 1 == n_parts) next.tiles.n = 0;
        run_part(pass, &part, &next, pass->scratch + thread_idx * scratch_floats(plan));
    }
}

static int64_t packed_floats(const nn_strided *plan)
{
    return nn_conv_n_groups(plan->wino.dst_blocks) * nn_strided_group_floats(plan);
}

int64_t nn_strided_workspace_floats(const nn_strided *plan, int n_threads)
{
    if (plan->images_per_slab > 0) return nn_strided_slab_workspace_floats(plan, n_threads);
    return packed_floats(plan) + n_threads * scratch_floats(plan);
}

void nn_strided_run(nn_backend *backend, const nn_strided *plan, const float *src,
                    const nn_wino_filters *filters, const nn_conv_epilogue *epilogue, float *dst,
                    int accumulate, float *workspace)
{
    const nn_winograd *wino = &plan->wino;
    const int64_t chunk_tiles = plan->tiles_per_part * plan->parts_per_chunk;
    nn_strided_pass pass = {.plan = plan,
                            .filters = filters,
                            .src = src,
                            .epilogue = epilogue,
                            .dst = dst,
                            .accumulate = accumulate};

    if (plan->images_per_slab > 0) {
        nn_strided_run_slabs(backend, &pass, workspace);
        return;
    }
    pass.packed = workspace;
    pass.scratch = workspace + packed_floats(plan);
    nn_cpu_run(backend, nn_conv_n_groups(wino->dst_blocks), filter_chunk, &pass);
    nn_cpu_run(backend, nn_strided_count_parts(plan, wino->n, chunk_tiles), part_chunk, &pass);
}
