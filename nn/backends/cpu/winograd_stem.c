#include "nn/backends/cpu/winograd_stem_internal.h"

#include "nn/backends/cpu/conv_epilogue_internal.h"
#include "nn/backends/cpu/layout_internal.h"
#include "nn/backends/cpu/winograd_stem_lines_internal.h"

enum {
    IN = NN_STEM_IN,
    OUT = NN_STEM_OUT,
    BUNCH = NN_STEM_BUNCH,
    SMALLEST_ROW = 16, /* outputs; of less a transform costs too much */
    SMALLEST_COLUMN = 8,
    ROWS_PER_CHUNK = 4, /* of tiles */
    STEP = 2,           /* bunches whose products meet the same filters after each other */
    STEP_FLOATS = OUT * BUNCH * NN_CPU_BLOCK, /* of a bunch and a column, half transformed */
    COLUMN_FLOATS = STEP * STEP_FLOATS + NN_CPU_BLOCK, /* and a line, lest columns share sets */
    STREAM_BYTES = 4 << 20 /* of y for each thread: more than that a cache will not hold */
};

int nn_stem_fits(const nn_conv2d_geom *geom)
{
    return geom->groups == 1 && geom->stride_h == 2 && geom->stride_w == 2 && geom->dil_h == 1 &&
           geom->dil_w == 1 && geom->r >= 5 && geom->r <= 8 && geom->s >= 5 && geom->s <= 8 &&
           geom->pad_h < geom->r && geom->pad_w < geom->s && geom->c <= NN_STEM_MOST_C &&
           nn_cpu_is_blocked(geom->k) && geom->p >= SMALLEST_COLUMN && geom->q >= SMALLEST_ROW;
}

/* Phases, of taps that start at 0 or 1, in which tap 3 exists. */
static int n_full_phases(int64_t n_taps)
{
    return n_taps == 8 ? 2 : n_taps == 7 ? 1 : 0;
}

static nn_stem_column column_of(const nn_stem *stem, int n_phases_w)
{
    nn_stem_column column = {0};
    int n = 0;

    for (int lane = 0; lane < stem->n_lanes; lane++) {
        const int phase = lane / (int)stem->geom.c;
        if (phase % 2 >= n_phases_w) continue;
        column.lane[n++] = lane;
        if (phase / 2 < stem->full_h) column.n_full = n; /* these come first */
    }
    column.n_rest = n - column.n_full;
    return column;
}

void nn_stem_of(const nn_conv2d_geom *geom, nn_stem *out)
{
    *out = (nn_stem){.geom = *geom,
                     .n_lanes = 4 * geom->c,
                     .k_blocks = nn_cpu_blocks(geom->k),
                     .full_h = n_full_phases(geom->r),
                     .full_w = n_full_phases(geom->s),
                     .tile_rows = nn_cpu_div_up(geom->p, OUT),
                     .tile_cols = nn_cpu_div_up(geom->q, OUT)};
    out->finite = column_of(out, 2);
    out->infinite = column_of(out, out->full_w);
    const int64_t n = nn_cpu_div_up(out->tile_cols,
                                    nn_cpu_div_up(out->tile_cols, NN_STEM_PART_TILES));
    out->tiles_per_part = nn_cpu_div_up(n, BUNCH) * BUNCH;
    out->parts_per_row = nn_cpu_div_up(out->tile_cols, out->tiles_per_part);
}

nn_stem_part nn_stem_part_at(const nn_stem *stem, int64_t part_idx)
{
    const int64_t row = part_idx / stem->parts_per_row;
    const nn_cpu_span tiles = nn_cpu_part(stem->tile_cols, stem->tiles_per_part,
                                          part_idx % stem->parts_per_row);

    return (nn_stem_part){row / stem->tile_rows, row % stem->tile_rows, tiles.first, tiles.n};
}

/* --- Products --------------------------------------------------------------------------------- */

/* The lane's values of a column, n_rows for each tile, times its filters. */
CVY_INLINE_ALWAYS void add_lane(const float *x, const float *filter, int n_rows,
                                nn_vec sum[IN][BUNCH])
{
    CVY_UNROLL(8) for (int i = 0; i < n_rows; i++)
    {
        nn_vec f = nn_vec_load(filter + i * NN_CPU_BLOCK);
        CVY_KEEP_VECTOR(f);
        CVY_UNROLL(8) for (int t = 0; t < BUNCH; t++) sum[i][t] += nn_vec_all(x[i * BUNCH + t]) * f;
    }
}

/* One column of the 7x7 of a bunch by a block's filters: products, summed over lanes, and then the
 * columns' transform A^T, so that less is stored. x: the column's; out: (OUT, tile, 16). */
static void multiply_column(const nn_stem_column *column, const float *x, const float *filter,
                            float *out)
{
    for (int v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
        const float *f = filter + v;
        nn_vec sum[IN][BUNCH];
        CVY_UNROLL(8) for (int i = 0; i < IN; i++)
        {
            CVY_UNROLL(8) for (int t = 0; t < BUNCH; t++) sum[i][t] = nn_vec_all(0.0f);
        }
        for (int n = 0; n < column->n_full; n++) {
            add_lane(x + column->lane[n] * NN_STEM_LANE_FLOATS, f, IN, sum);
            f += IN * NN_CPU_BLOCK;
        }
        for (int n = column->n_full; n < column->n_full + column->n_rest; n++) {
            add_lane(x + column->lane[n] * NN_STEM_LANE_FLOATS, f, IN - 1, sum);
            f += (IN - 1) * NN_CPU_BLOCK;
        }
        CVY_UNROLL(8) for (int t = 0; t < BUNCH; t++)
        {
            nn_vec m[IN], y[OUT];
            CVY_UNROLL(8) for (int i = 0; i < IN; i++) m[i] = sum[i][t];
            nn_stem_output_line(m, y);
            CVY_UNROLL(8) for (int i = 0; i < OUT; i++)
            {
                nn_vec_store(out + (i * BUNCH + t) * NN_CPU_BLOCK + v, y[i]);
            }
        }
    }
}

/* --- Writing ---------------------------------------------------------------------------------- */

/* Where tiles of a part and a block go. */
typedef struct output_place {
    nn_epilogue_vecs vecs[NN_VECS_PER_BLOCK];
    float *y;              /* the first tile's corner */
    const float *residual; /* the same, or NULL */
    int64_t row_floats;
    int64_t n_rows, n_cols; /* from the corner on that exist */
} output_place;

/* What is known when the code is compiled: whether there is more than a bias, whether y is stored
 * past the caches, and whether all columns exist. */
typedef struct output_form {
    int has_tail, is_streamed, is_inside;
} output_form;

/* One row of a tile, some of its channels; at: floats from the corner to its first pixel. */
CVY_INLINE_ALWAYS void write_row(const output_place *place, const nn_epilogue_vecs *vecs,
                                 const float *from, int64_t at, int64_t n_cols, output_form form)
{
    nn_vec m[IN], y[OUT];

    CVY_UNROLL(8) for (int j = 0; j < IN; j++) m[j] = nn_vec_load(from + j * COLUMN_FLOATS);
    nn_stem_output_line(m, y);
    CVY_UNROLL(8) for (int j = 0; j < OUT; j++)
    {
        const int64_t to = at + j * NN_CPU_BLOCK;
        if (!form.is_inside && j >= n_cols) continue;
        y[j] += vecs->bias;
        if (form.has_tail) {
            const float *residual = place->residual != NULL ? place->residual + to : NULL;
            y[j] = nn_epilogue_tail(vecs, residual, y[j]);
        }
        if (form.is_streamed) {
            nn_vec_stream(place->y + to, y[j]);
        } else {
            nn_vec_store(place->y + to, y[j]);
        }
    }
}

/* Tiles [0, n) from a corner; from: (column, bunch, OUT, tile, 16). */
CVY_INLINE_ALWAYS void write_tiles(const output_place *place, const float *from, int64_t n,
                                   output_form form)
{
    for (int64_t i = 0; i < place->n_rows; i++) {
        for (int64_t t = 0; t < n; t++) {
            const float *tile = from + t / BUNCH * STEP_FLOATS +
                                (i * BUNCH + t % BUNCH) * NN_CPU_BLOCK;
            const int64_t at = i * place->row_floats + t * OUT * NN_CPU_BLOCK;
            CVY_UNROLL(4) for (int v = 0; v < NN_VECS_PER_BLOCK; v++) /* a line all at once */
            {
                const int lane = v * NN_VEC_LANES;
                write_row(place, &place->vecs[v], tile + lane, at + lane, place->n_cols - t * OUT,
                          form);
            }
        }
    }
}

static void write_inside(const output_place *place, const float *from, int64_t n)
{
    write_tiles(place, from, n, (output_form){.is_inside = 1});
}

static void write_inside_streamed(const output_place *place, const float *from, int64_t n)
{
    write_tiles(place, from, n, (output_form){.is_inside = 1, .is_streamed = 1});
}

static void write_inside_tail(const output_place *place, const float *from, int64_t n)
{
    write_tiles(place, from, n, (output_form){.is_inside = 1, .has_tail = 1});
}

static void write_any(const output_place *place, const float *from, int64_t n)
{
    write_tiles(place, from, n, (output_form){.has_tail = 1});
}

/* --- The pass --------------------------------------------------------------------------------- */

typedef struct stem_pass {
    const nn_stem *stem;
    const float *x, *filter;
    const nn_conv_epilogue *epilogue;
    float *y, *packed, *scratch;
    int is_streamed;
} stem_pass;

static void filter_chunk(void *arg, int64_t block, int thread_idx)
{
    const stem_pass *pass = arg;

    (void)thread_idx;
    nn_stem_filter(pass->stem, pass->filter, block,
                   pass->packed + block * nn_stem_filter_floats(pass->stem));
}

/* Some tiles of a part, from tile `first` on, of one block. */
static void write_step(const stem_pass *pass, const nn_stem_part *part, int64_t block,
                       int64_t first, int64_t n, const float *from)
{
    const nn_conv2d_geom *geom = &pass->stem->geom;
    const int64_t row = part->tile_row * OUT, col = (part->tile_col + first) * OUT;
    const int64_t plane = (part->image * pass->stem->k_blocks + block) * geom->p * geom->q;
    const int64_t at = (plane + row * geom->q + col) * NN_CPU_BLOCK;
    const nn_conv_epilogue epilogue = nn_conv_epilogue_at(pass->epilogue, block, at);
    const int is_inside = col + n * OUT <= geom->q;
    output_place place = {.y = pass->y + at,
                          .residual = epilogue.residual,
                          .row_floats = geom->q * NN_CPU_BLOCK,
                          .n_rows = nn_cpu_least(OUT, geom->p - row),
                          .n_cols = geom->q - col};

    for (int v = 0; v < NN_VECS_PER_BLOCK; v++) {
        place.vecs[v] = nn_epilogue_vecs_of(&epilogue, v * NN_VEC_LANES);
    }
    if (!is_inside) {
        write_any(&place, from, n);
    } else if (nn_epilogue_has_tail(&epilogue)) {
        write_inside_tail(&place, from, n);
    } else if (pass->is_streamed) {
        write_inside_streamed(&place, from, n);
    } else {
        write_inside(&place, from, n);
    }
}

/* Bunches of a part, x those of its input. */
static void run_step(const stem_pass *pass, const nn_stem_part *part, nn_cpu_span bunches,
                     const float *x, nn_stem_fetch *fetch, int64_t n_fetched, float *half)
{
    const nn_stem *stem = pass->stem;
    const int64_t first = bunches.first * BUNCH;
    const int64_t n_tiles = nn_cpu_least(bunches.n * BUNCH, part->n_tiles - first);
    const float *filter = pass->packed;

    for (int64_t block = 0; block < stem->k_blocks; block++) {
        for (int j = 0; j < IN; j++) {
            const nn_stem_column *column = nn_stem_column_at(stem, j);
            for (int64_t i = 0; i < bunches.n; i++) {
                const float *from = x + (bunches.first + i) * nn_stem_bunch_floats(stem) +
                                    j * stem->n_lanes * NN_STEM_LANE_FLOATS;
                multiply_column(column, from, filter, half + j * COLUMN_FLOATS + i * STEP_FLOATS);
            }
            filter += nn_stem_column_floats(column);
            nn_stem_fetch_lines(fetch, n_fetched);
        }
        write_step(pass, part, block, first, n_tiles, half);
    }
}

static int64_t input_floats(const nn_stem *stem)
{
    return NN_STEM_PART_BUNCHES * nn_stem_bunch_floats(stem);
}

static int64_t scratch_floats(const nn_stem *stem)
{
    return IN * COLUMN_FLOATS + input_floats(stem) + NN_STEM_ROWS_FLOATS;
}

/* Some rows of tiles of an image. */
static void rows_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const stem_pass *pass = arg;
    const nn_stem *stem = pass->stem;
    const int64_t n_chunks = nn_cpu_div_up(stem->tile_rows, ROWS_PER_CHUNK);
    const nn_cpu_span rows = nn_cpu_part(stem->tile_rows, ROWS_PER_CHUNK, chunk_idx % n_chunks);
    const int64_t first = (chunk_idx / n_chunks * stem->tile_rows + rows.first) *
                          stem->parts_per_row;
    const int64_t n_parts = rows.n * stem->parts_per_row;
    float *const half = pass->scratch + thread_idx * scratch_floats(stem);
    float *const x = half + IN * COLUMN_FLOATS;

    for (int64_t i = 0; i < n_parts; i++) {
        const nn_stem_part part = nn_stem_part_at(stem, first + i);
        const nn_stem_part next = nn_stem_part_at(stem, first + i + 1);
        const int64_t n_bunches = nn_stem_n_bunches(&part);
        const int64_t n_steps = nn_cpu_div_up(n_bunches, STEP);
        nn_stem_fetch fetch = {0};
        if (i + 1 < n_parts) fetch = nn_stem_fetch_of(stem, pass->x, &next);
        const int64_t n = nn_cpu_div_up(nn_stem_fetch_n(&fetch), n_steps * stem->k_blocks * IN);
        nn_stem_input(stem, pass->x, &part, x + input_floats(stem), x);
        for (int64_t j = 0; j < n_steps; j++) {
            run_step(pass, &part, nn_cpu_part(n_bunches, STEP, j), x, &fetch, n, half);
        }
    }
    if (pass->is_streamed) nn_vec_stream_end();
}

static int64_t packed_floats(const nn_stem *stem)
{
    return stem->k_blocks * nn_stem_filter_floats(stem);
}

int64_t nn_stem_workspace_floats(const nn_stem *stem, int n_threads)
{
    return packed_floats(stem) + n_threads * scratch_floats(stem);
}

void nn_stem_run(nn_backend *backend, const nn_stem *stem, const float *x, const float *filter,
                 const nn_conv_epilogue *epilogue, float *y, float *workspace)
{
    const nn_conv2d_geom *geom = &stem->geom;
    const int64_t size_bytes = geom->n * stem->k_blocks * NN_CPU_BLOCK * geom->p * geom->q *
                               (int64_t)sizeof(float);
    stem_pass pass = {.stem = stem,
                      .x = x,
                      .filter = filter,
                      .epilogue = epilogue,
                      .y = y,
                      .packed = workspace,
                      .scratch = workspace + packed_floats(stem),
                      .is_streamed = size_bytes > (int64_t)STREAM_BYTES * backend->n_threads};

    nn_cpu_run(backend, stem->k_blocks, filter_chunk, &pass);
    nn_cpu_run(backend, geom->n * nn_cpu_div_up(stem->tile_rows, ROWS_PER_CHUNK), rows_chunk,
               &pass);
}
