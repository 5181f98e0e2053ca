#include "nn/backends/cpu/conv_sweep_internal.h"

#include "nn/backends/cpu/layout_internal.h"

/* --- Geometry -------------------------------------------------------------------------------- */

enum {
    COPY_FLOATS = 65536,           /* a chunk's copy stays in a core's second-level cache */
    LANE_PHASE_ROWS = 2,           /* of each phase, one after the other */
    CHUNK_PRODUCTS = 4000000,      /* multiply-adds that are worth handing to a thread */
    CHUNK_LANE_PRODUCTS = 1000000, /* the same where memory is slower than they are */
    PART_FLOATS = 98304,           /* of filters that all tiles meet while they are in the cache */
    NEAR_CHANNELS = 512,           /* of a tile, that stay in the first-level cache */
    BLOCKS_AHEAD = 2
};

/* Fill in the slices; 0 if the groups are such that there are none. */
static int find_slices(const nn_conv2d_geom *geom, int64_t src_c, int64_t dst_c,
                       nn_conv_sweep *sweep)
{
    const int64_t group_src = src_c / geom->groups, group_dst = dst_c / geom->groups;

    sweep->n_slices = geom->groups;
    sweep->src_c = group_src;
    sweep->dst_c = group_dst;
    sweep->all_dst_c = dst_c;
    sweep->turns = 0;
    if (geom->groups == 1) return 1;
    if (!nn_cpu_is_blocked(src_c) || !nn_cpu_is_blocked(dst_c)) return 0;
    if (group_src % NN_CPU_BLOCK == 0 && group_dst % NN_CPU_BLOCK == 0) return 1;
    if (group_src != group_dst || NN_CPU_BLOCK % group_src != 0) return 0;
    sweep->turns = group_src;
    sweep->n_slices = nn_cpu_blocks(dst_c);
    sweep->src_c = sweep->dst_c = NN_CPU_BLOCK;
    return 1;
}

int nn_conv_sweep_fits(const nn_conv2d_geom *geom)
{
    nn_conv_sweep sweep;

    return find_slices(geom, geom->c, geom->k, &sweep) && nn_cpu_is_blocked(geom->k) &&
           geom->r * geom->s <= NN_SWEEP_MAX_TAPS && geom->stride_h <= NN_SWEEP_MAX_STEP &&
           geom->stride_w <= NN_SWEEP_MAX_STEP &&
           geom->stride_h * geom->stride_w <= NN_SWEEP_MAX_PHASES;
}

static void find_reach(nn_conv_sweep *sweep)
{
    sweep->low_h = sweep->low_w = sweep->high_h = sweep->high_w = 0;
    for (int i = 0; i < sweep->n_taps; i++) {
        const nn_conv_tap *tap = &sweep->taps[i];
        sweep->low_h = i == 0 ? tap->h : nn_cpu_least(sweep->low_h, tap->h);
        sweep->low_w = i == 0 ? tap->w : nn_cpu_least(sweep->low_w, tap->w);
        sweep->high_h = i == 0 ? tap->h : nn_cpu_most(sweep->high_h, tap->h);
        sweep->high_w = i == 0 ? tap->w : nn_cpu_most(sweep->high_w, tap->w);
    }
}

/* A 1x1 convolution without stride or padding: src is read where it lies, its plane one long row.
 */
static int try_direct(nn_conv_sweep *sweep)
{
    const nn_conv_tap *tap = &sweep->taps[0];

    if (sweep->lanes == 1 || sweep->turns > 0) return 0;
    if (sweep->n_taps != 1 || sweep->n_phases != 1 || tap->h != 0 || tap->w != 0) return 0;
    if (sweep->src_step_h != 1 || sweep->src_step_w != 1) return 0;
    if (sweep->src_h != sweep->dst_h || sweep->src_w != sweep->dst_w) return 0;
    sweep->src_w *= sweep->src_h;
    sweep->dst_w = sweep->src_w;
    sweep->src_h = sweep->dst_h = sweep->rows = 1;
    sweep->cols = sweep->src_w;
    sweep->phases[0].h = 1;
    sweep->phases[0].w = sweep->src_w;
    sweep->is_direct = 1;
    return 1;
}

static int64_t copied_rows(const nn_conv_sweep *sweep, int64_t n_rows)
{
    return (n_rows - 1) * sweep->src_step_h + sweep->high_h - sweep->low_h + 1;
}

static void find_pitches(nn_conv_sweep *sweep)
{
    const int64_t width = (sweep->cols - 1) * sweep->src_step_w + sweep->high_w - sweep->low_w + 1;

    if (sweep->is_direct) {
        sweep->row_floats = sweep->block_floats = sweep->src_w * sweep->lanes;
        return;
    }
    sweep->column_floats = nn_cpu_div_up(width, sweep->src_step_w) * sweep->lanes;
    sweep->row_floats = sweep->column_floats * sweep->src_step_w;
    for (int i = 0; i < sweep->n_taps; i++) {
        nn_conv_tap *tap = &sweep->taps[i];
        const int64_t h = tap->h - sweep->low_h, w = tap->w - sweep->low_w;
        tap->offset = h * sweep->row_floats + w % sweep->src_step_w * sweep->column_floats +
                      w / sweep->src_step_w * sweep->lanes;
        sweep->used_rows |= 1u << h % sweep->src_step_h;
        sweep->used_columns |= 1u << w % sweep->src_step_w;
    }
}

/* Rows of a band: as many as the copy may have, and all bands alike. */
static void cut_rows(nn_conv_sweep *sweep)
{
    const int64_t row_floats = sweep->row_floats * sweep->src_blocks;
    const int64_t halo = sweep->high_h - sweep->low_h + 1 - sweep->src_step_h;
    int64_t n = (COPY_FLOATS / row_floats - halo) / sweep->src_step_h;

    n = nn_cpu_least(sweep->rows, nn_cpu_most(n, 2)); /* two, for tiles of two rows */
    sweep->n_bands = nn_cpu_div_up(sweep->rows, n);
    sweep->rows_per_band = nn_cpu_div_up(sweep->rows, sweep->n_bands);
    sweep->n_bands = nn_cpu_div_up(sweep->rows, sweep->rows_per_band);
}

/* Images and slices of a chunk: enough work for a thread; and where filters are too large for the
 * cache, two images, so that they are read half as often. */
static void cut_images(nn_conv_sweep *sweep)
{
    const int64_t depth = nn_conv_sweep_depth(sweep) * sweep->n_taps;
    const int64_t products = nn_cpu_most(1, sweep->dst_blocks * NN_CPU_BLOCK * depth * sweep->rows *
                                                sweep->cols);
    const int64_t worth = sweep->turns > 0 ? CHUNK_LANE_PRODUCTS : CHUNK_PRODUCTS;
    int64_t n = 1, n_slices = 1;

    if (sweep->n_bands == 1) {
        n = nn_cpu_most(1, worth / products);
        if (depth * sweep->dst_blocks * NN_CPU_BLOCK > 4 * COPY_FLOATS) n = nn_cpu_most(n, 2);
        n = nn_cpu_least(n, nn_cpu_most(1, sweep->n / 8));
        n_slices = nn_cpu_most(1, nn_cpu_least(worth / products / n, sweep->n_slices / 8));
    }
    sweep->images_per_chunk = n;
    sweep->slices_per_chunk = n_slices;
    sweep->n_image_chunks = nn_cpu_div_up(sweep->n, n);
    sweep->n_slice_chunks = nn_cpu_div_up(sweep->n_slices, n_slices);
}

static void cut(nn_conv_sweep *sweep)
{
    sweep->src_blocks = sweep->lanes == 1 ? sweep->src_c : nn_cpu_blocks(sweep->src_c);
    sweep->dst_blocks = nn_cpu_blocks(sweep->dst_c);
    for (int i = 0; i < sweep->n_phases; i++) {
        sweep->rows = nn_cpu_most(sweep->rows, sweep->phases[i].h);
        sweep->cols = nn_cpu_most(sweep->cols, sweep->phases[i].w);
    }
    find_reach(sweep);
    if (!try_direct(sweep)) sweep->is_direct = 0;
    find_pitches(sweep);
    if (sweep->is_direct) {
        sweep->rows_per_band = sweep->n_bands = 1;
    } else {
        cut_rows(sweep);
        sweep->block_floats = copied_rows(sweep, sweep->rows_per_band) * sweep->row_floats;
    }
    cut_images(sweep);
    if (!sweep->is_direct) {
        sweep->copy_floats = sweep->images_per_chunk * sweep->src_blocks * sweep->block_floats;
    }
}

void nn_conv_sweep_forward(const nn_conv2d_geom *geom, nn_conv_sweep *out)
{
    *out = (nn_conv_sweep){.n = geom->n,
                           .lanes = nn_cpu_is_blocked(geom->c) ? NN_CPU_BLOCK : 1,
                           .src_h = geom->h,
                           .src_w = geom->w,
                           .src_step_h = geom->stride_h,
                           .src_step_w = geom->stride_w,
                           .dst_h = geom->p,
                           .dst_w = geom->q,
                           .dst_step_h = 1,
                           .dst_step_w = 1,
                           .n_phases = 1};
    find_slices(geom, geom->c, geom->k, out);
    for (int64_t r = 0; r < geom->r; r++) {
        for (int64_t s = 0; s < geom->s; s++) {
            out->taps[out->n_taps++] = (nn_conv_tap){.h = r * geom->dil_h - geom->pad_h,
                                                     .w = s * geom->dil_w - geom->pad_w,
                                                     .idx = r * geom->s + s};
        }
    }
    out->phases[0] = (nn_conv_phase){.n_taps = out->n_taps, .h = geom->p, .w = geom->q};
    cut(out);
}

/* Taps through which dx at (first_h, first_w) plus multiples of the stride meets dy. */
static void add_phase(const nn_conv2d_geom *geom, int64_t first_h, int64_t first_w,
                      nn_conv_sweep *out)
{
    nn_conv_phase *phase = &out->phases[out->n_phases++];

    *phase = (nn_conv_phase){.first_tap = out->n_taps,
                             .first_h = first_h,
                             .first_w = first_w,
                             .h = nn_cpu_div_up(geom->h - first_h, geom->stride_h),
                             .w = nn_cpu_div_up(geom->w - first_w, geom->stride_w)};
    for (int64_t r = 0; r < geom->r; r++) {
        const int64_t h = first_h + geom->pad_h - r * geom->dil_h;
        if (h % geom->stride_h != 0) continue;
        for (int64_t s = 0; s < geom->s; s++) {
            const int64_t w = first_w + geom->pad_w - s * geom->dil_w;
            if (w % geom->stride_w != 0) continue;
            out->taps[out->n_taps++] = (nn_conv_tap){
                .h = h / geom->stride_h, .w = w / geom->stride_w, .idx = r * geom->s + s};
        }
    }
    phase->n_taps = out->n_taps - phase->first_tap;
}

void nn_conv_sweep_backward(const nn_conv2d_geom *geom, nn_conv_sweep *out)
{
    *out = (nn_conv_sweep){.n = geom->n,
                           .lanes = NN_CPU_BLOCK,
                           .src_h = geom->p,
                           .src_w = geom->q,
                           .src_step_h = 1,
                           .src_step_w = 1,
                           .dst_h = geom->h,
                           .dst_w = geom->w,
                           .dst_step_h = geom->stride_h,
                           .dst_step_w = geom->stride_w};
    find_slices(geom, geom->k, geom->c, out);
    for (int64_t h = 0; h < nn_cpu_least(geom->stride_h, geom->h); h++) {
        for (int64_t w = 0; w < nn_cpu_least(geom->stride_w, geom->w); w++) {
            add_phase(geom, h, w, out);
        }
    }
    cut(out);
}

/* --- The copy of the input ------------------------------------------------------------------- */

static void copy_pixels(const float *restrict from, int64_t n, int64_t step, int64_t lanes,
                        float *restrict to)
{
    if (lanes == NN_CPU_BLOCK) {
        for (int64_t i = 0; i < n; i++) {
            for (int v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
                nn_vec_store(to + i * NN_CPU_BLOCK + v,
                             nn_vec_load(from + i * step * NN_CPU_BLOCK + v));
            }
        }
    } else {
        for (int64_t i = 0; i < n; i++) to[i] = from[i * step];
    }
}

static void clear(float *to, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] = 0.0f;
}

/* One row of src, its columns sorted by their place modulo the step. */
static void copy_row(const nn_conv_sweep *sweep, const float *src, float *to)
{
    const int64_t lanes = sweep->lanes, step = sweep->src_step_w;
    const int64_t n = sweep->column_floats / lanes;

    for (int64_t i = 0; i < step; i++) {
        float *column = to + i * sweep->column_floats;
        const int64_t low = sweep->low_w + i; /* column of src that comes first */
        if ((sweep->used_columns >> i & 1u) == 0) continue;
        const int64_t first = nn_cpu_least(n, nn_cpu_div_up(nn_cpu_most(0, -low), step));
        const int64_t room = sweep->src_w - low;
        const int64_t end = room <= 0
                                ? first
                                : nn_cpu_most(first, nn_cpu_least(n, nn_cpu_div_up(room, step)));
        clear(column, first * lanes);
        copy_pixels(src + (low + first * step) * lanes, end - first, step, lanes,
                    column + first * lanes);
        clear(column + end * lanes, (n - end) * lanes);
    }
}

/* Floats of src and of dst from one image to the next. */
static int64_t src_image_floats(const nn_conv_sweep *sweep)
{
    return sweep->n_slices * sweep->src_blocks * sweep->src_h * sweep->src_w * sweep->lanes;
}

static int64_t dst_image_floats(const nn_conv_sweep *sweep)
{
    return sweep->n_slices * sweep->dst_blocks * sweep->dst_h * sweep->dst_w * NN_CPU_BLOCK;
}

void nn_conv_sweep_copy(const nn_conv_sweep *sweep, const float *src, int64_t image, int64_t row,
                        int64_t n_rows, float *copy)
{
    const int64_t n = copied_rows(sweep, n_rows), low = row * sweep->src_step_h + sweep->low_h;
    const int64_t src_row = sweep->src_w * sweep->lanes;

    for (int64_t block = 0; block < sweep->src_blocks; block++) {
        const float *from = src + image * src_image_floats(sweep) + block * sweep->src_h * src_row;
        float *to = copy + block * sweep->block_floats;
        for (int64_t i = 0; i < n; i++) {
            if ((sweep->used_rows >> i % sweep->src_step_h & 1u) == 0) continue;
            if (low + i < 0 || low + i >= sweep->src_h) {
                clear(to + i * sweep->row_floats, sweep->row_floats);
            } else {
                copy_row(sweep, from + (low + i) * src_row, to + i * sweep->row_floats);
            }
        }
    }
}

/* --- The sweep ------------------------------------------------------------------------------- */

typedef struct sweep_pass {
    const nn_conv_sweep *sweep;
    const float *src, *packed;
    nn_conv_epilogue epilogue;
    float *dst, *scratch;
    int accumulate;
} sweep_pass;

/* y of a tile, so many floats past that of another. */
static void move_y(const nn_conv_tile *from, int64_t n, nn_conv_tile *tile)
{
    tile->y = from->y + n;
    if (from->epilogue.residual != NULL) tile->epilogue.residual = from->epilogue.residual + n;
}

/* One tile, wherever its rows and columns are. */
static void run_tile(const nn_conv_sweep *sweep, nn_conv_tile *tile, int n_blocks, int n_rows,
                     int n_cols)
{
    if (sweep->turns > 0) {
        nn_conv_tile_run_lanes(tile, n_rows, n_cols);
    } else if (sweep->lanes == NN_CPU_BLOCK) {
        nn_conv_tile_run(tile, n_blocks, n_rows, n_cols);
    } else {
        if (n_rows == 2) {
            const nn_conv_tile first = *tile;
            nn_conv_tile_run_planes(tile, n_blocks, n_cols);
            tile->x += tile->x_row_pitch;
            move_y(&first, tile->y_row_pitch, tile);
        }
        nn_conv_tile_run_planes(tile, n_blocks, n_cols);
    }
}

/* Rows of a phase for one group of dst channels: tiles of two rows where these are short. */
static void run_rows(const nn_conv_sweep *sweep, nn_conv_tile tile, int n_blocks, int64_t n_rows,
                     int64_t n_cols)
{
    const int most = nn_conv_tile_max_pixels(n_blocks);
    const int64_t n_tiles = nn_cpu_div_up(n_cols, most);
    const nn_conv_tile first = tile;
    int rows = 1;

    for (int64_t row = 0; row < n_rows; row += rows) {
        int64_t col = 0;
        rows = 2 * n_cols <= most && row + 2 <= n_rows ? 2 : 1;
        for (int64_t i = 0; i < n_tiles; i++) {
            const int64_t n = (n_cols - col) / (n_tiles - i);
            tile.x = first.x + row * tile.x_row_pitch + col * sweep->lanes;
            move_y(&first, row * tile.y_row_pitch + col * tile.y_pixel_pitch, &tile);
            run_tile(sweep, &tile, n_blocks, rows, (int)n);
            col += n;
        }
    }
}

/* One phase of one image, rows [row, row + n_rows), for one group of dst channels. x: the first
 * pixel of these rows in the copy. */
static void run_phase(const sweep_pass *pass, const nn_conv_phase *phase, int64_t group,
                      int64_t image, int64_t row, int64_t n_rows, const float *x)
{
    const nn_conv_sweep *sweep = pass->sweep;
    const int64_t depth = nn_conv_sweep_depth(sweep);
    const int64_t first = group * NN_TILE_BLOCKS; /* block of dst */
    const int n_blocks = nn_conv_group_blocks(sweep->dst_blocks, group);
    const int64_t dst_row = sweep->dst_w * NN_CPU_BLOCK;
    int64_t offsets[NN_SWEEP_MAX_TAPS];

    if (n_rows <= 0) return;
    for (int i = 0; i < phase->n_taps; i++) offsets[i] = sweep->taps[phase->first_tap + i].offset;
    const int64_t y = image * dst_image_floats(sweep) +
                      (first * sweep->dst_h + phase->first_h + row * sweep->dst_step_h) * dst_row +
                      phase->first_w * NN_CPU_BLOCK;
    const nn_conv_tile tile = {.x = x,
                               .x_block_pitch = sweep->turns > 0 ? 0 : sweep->block_floats,
                               .x_row_pitch = sweep->src_step_h * sweep->row_floats,
                               .n_blocks = sweep->turns > 0 ? sweep->turns : sweep->src_blocks,
                               .tap_offset = offsets,
                               .n_taps = phase->n_taps,
                               .filter = pass->packed +
                                         first * NN_CPU_BLOCK * depth * sweep->n_taps +
                                         phase->first_tap * depth * NN_CPU_BLOCK * n_blocks,
                               .epilogue = nn_conv_epilogue_at(&pass->epilogue, first, y),
                               .y = pass->dst + y,
                               .y_block_pitch = sweep->dst_h * dst_row,
                               .y_row_pitch = sweep->dst_step_h * dst_row,
                               .y_pixel_pitch = sweep->dst_step_w * NN_CPU_BLOCK,
                               .accumulate = pass->accumulate};
    run_rows(sweep, tile, n_blocks, n_rows, phase->w);
}

/* All phases of some rows of one image, copy being where they start; in lanes, few rows at a time,
 * so that what one phase leaves out of a row of dst is written while the row is near. */
static void run_phases(const sweep_pass *pass, int64_t group, int64_t image, nn_cpu_span rows,
                       const float *copy)
{
    const nn_conv_sweep *sweep = pass->sweep;
    const int64_t row_floats = sweep->src_step_h * sweep->row_floats;
    const int64_t step = sweep->turns > 0 && sweep->n_phases > 1 ? LANE_PHASE_ROWS : rows.n;

    for (int64_t first = 0; first < rows.n; first += step) {
        for (int i = 0; i < sweep->n_phases; i++) {
            const nn_conv_phase *phase = &sweep->phases[i];
            const int64_t row = rows.first + first;
            const int64_t n = nn_cpu_least(nn_cpu_least(step, rows.n - first), phase->h - row);
            run_phase(pass, phase, group, image, row, n, copy + first * row_floats);
        }
    }
}

static void sweep_copied(const sweep_pass *pass, nn_cpu_span images, nn_cpu_span rows, float *copy)
{
    const nn_conv_sweep *sweep = pass->sweep;
    const int64_t image_floats = sweep->src_blocks * sweep->block_floats;

    for (int64_t i = 0; i < images.n; i++) {
        nn_conv_sweep_copy(sweep, pass->src, images.first + i, rows.first, rows.n,
                           copy + i * image_floats);
    }
    for (int64_t group = 0; group < nn_conv_n_groups(sweep->dst_blocks); group++) {
        for (int64_t i = 0; i < images.n; i++) {
            run_phases(pass, group, images.first + i, rows, copy + i * image_floats);
        }
    }
}

/* --- The sweep of 1x1 convolutions, which read src where it lies --------------------------------
 */

/* One tile of pixels for some groups. The first brings the pixels near while those before are
 * multiplied; or, where all that a tile reads is more than a first-level cache, each group the
 * blocks a little ahead. */
static void run_direct_tile(const sweep_pass *pass, nn_cpu_span groups, int64_t image,
                            nn_cpu_span pixels)
{
    const nn_conv_sweep *sweep = pass->sweep;
    const int64_t depth = sweep->src_blocks * sweep->lanes, no_offset = 0;
    const int64_t dst_plane = sweep->dst_w * NN_CPU_BLOCK;

    for (int64_t i = 0; i < groups.n; i++) {
        const int64_t group = groups.first + i, first = group * NN_TILE_BLOCKS;
        const int n_blocks = nn_conv_group_blocks(sweep->dst_blocks, group);
        const int64_t y = image * dst_image_floats(sweep) + first * dst_plane +
                          pixels.first * NN_CPU_BLOCK;
        const nn_conv_tile tile = {
            .x = pass->src + image * src_image_floats(sweep) + pixels.first * sweep->lanes,
            .x_block_pitch = sweep->block_floats,
            .n_blocks = sweep->src_blocks,
            .tap_offset = &no_offset,
            .n_taps = 1,
            .filter = pass->packed + first * NN_CPU_BLOCK * depth,
            .epilogue = nn_conv_epilogue_at(&pass->epilogue, first, y),
            .y = pass->dst + y,
            .y_block_pitch = dst_plane,
            .y_pixel_pitch = NN_CPU_BLOCK,
            .accumulate = pass->accumulate,
            .fetch = i == 0 && groups.n > 1  ? pixels.n * NN_CPU_BLOCK
                     : depth > NEAR_CHANNELS ? BLOCKS_AHEAD * sweep->block_floats
                                             : 0};
        nn_conv_tile_run(&tile, n_blocks, 1, (int)pixels.n);
    }
}

static void sweep_direct(const sweep_pass *pass, nn_cpu_span images)
{
    const nn_conv_sweep *sweep = pass->sweep;
    const int64_t n_groups = nn_conv_n_groups(sweep->dst_blocks), n_pixels = sweep->dst_w;
    const int64_t group_floats = NN_TILE_BLOCKS * NN_CPU_BLOCK * sweep->src_blocks * sweep->lanes;
    const int64_t per_part = nn_cpu_most(1, PART_FLOATS / group_floats);
    const int most = nn_conv_tile_max_pixels(
        n_groups > 1 ? NN_TILE_BLOCKS : nn_conv_group_blocks(sweep->dst_blocks, 0));
    const int64_t n_tiles = nn_cpu_div_up(n_pixels, most);

    for (int64_t part = 0; part * per_part < n_groups; part++) {
        const nn_cpu_span groups = nn_cpu_part(n_groups, per_part, part);
        for (int64_t i = 0; i < images.n; i++) {
            int64_t pixel = 0;
            for (int64_t j = 0; j < n_tiles; j++) {
                const int64_t n = (n_pixels - pixel) / (n_tiles - j);
                run_direct_tile(pass, groups, images.first + i, (nn_cpu_span){pixel, n});
                pixel += n;
            }
        }
    }
}

/* The pass from a slice on. */
static sweep_pass slice_at(const sweep_pass *pass, int64_t slice)
{
    const nn_conv_sweep *sweep = pass->sweep;
    const int64_t block = slice * sweep->dst_blocks;
    const int64_t dst = block * sweep->dst_h * sweep->dst_w * NN_CPU_BLOCK;
    sweep_pass at = *pass;

    at.src += slice * sweep->src_blocks * sweep->src_h * sweep->src_w * sweep->lanes;
    at.packed += block * NN_CPU_BLOCK * nn_conv_sweep_depth(sweep) * sweep->n_taps;
    at.dst += dst;
    at.epilogue = nn_conv_epilogue_at(&pass->epilogue, block, dst);
    return at;
}

/* Chunks: some slices of some images, or of a band of rows of one. */
static void sweep_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const sweep_pass *pass = arg;
    const nn_conv_sweep *sweep = pass->sweep;
    const nn_cpu_span slices = nn_cpu_part(sweep->n_slices, sweep->slices_per_chunk,
                                           chunk_idx / sweep->n_bands % sweep->n_slice_chunks);
    const nn_cpu_span images = nn_cpu_part(sweep->n, sweep->images_per_chunk,
                                           chunk_idx / sweep->n_bands / sweep->n_slice_chunks);
    const nn_cpu_span rows = nn_cpu_part(sweep->rows, sweep->rows_per_band,
                                         chunk_idx % sweep->n_bands);

    for (int64_t i = 0; i < slices.n; i++) {
        const sweep_pass slice = slice_at(pass, slices.first + i);
        if (sweep->is_direct) {
            sweep_direct(&slice, images);
        } else {
            sweep_copied(&slice, images, rows, pass->scratch + thread_idx * sweep->copy_floats);
        }
    }
}

void nn_conv_sweep_run(nn_backend *backend, const nn_conv_sweep *sweep, const float *src,
                       const float *packed, const nn_conv_epilogue *epilogue, float *dst,
                       int accumulate, float *scratch)
{
    sweep_pass pass = {.sweep = sweep,
                       .src = src,
                       .packed = packed,
                       .epilogue = epilogue != NULL ? *epilogue : (nn_conv_epilogue){0},
                       .dst = dst,
                       .scratch = scratch,
                       .accumulate = accumulate};

    nn_cpu_run(backend, sweep->n_image_chunks * sweep->n_bands * sweep->n_slice_chunks, sweep_chunk,
               &pass);
}
