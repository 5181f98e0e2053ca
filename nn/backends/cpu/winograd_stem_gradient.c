#include "nn/backends/cpu/winograd_stem_internal.h"
#include "nn/backends/cpu/winograd_stem_lines_internal.h"

#include <string.h>

/* The gradient of the filter. Parts of rows of tiles, over all images, are cut into shares; a share
 * goes through its parts some at a time, a step: B^T x B of all lanes, then for a block of outputs
 * after the other A dy, and products, which take its rows to A dy A^T where they need them: that is
 * cheaper than to store all of it. They are added to the share's sums, and shares in their order.
 * Sums are (block, position of the 7x7, lane, 16). */
enum {
    IN = NN_STEM_IN,
    OUT = NN_STEM_OUT,
    TAPS = NN_STEM_TAPS,
    BUNCH = NN_STEM_BUNCH,
    PLACES = IN * IN,
    N_SHARES = 16,
    TILES = NN_STEM_PART_TILES,       /* of a step */
    N_PAIRS = 3,                      /* of points */
    TILE_FLOATS = OUT * NN_CPU_BLOCK, /* of a row of a tile of dy */
    ROW_FLOATS = TILES * TILE_FLOATS +
                 NN_CPU_BLOCK,              /* of a step; and a line, lest rows share sets */
    MOST_SPAN = NN_VEC_LANES == 16 ? 12 : 4 /* lanes whose sums registers hold, at two positions */
};

static const float points[N_PAIRS] = {NN_STEM_A, NN_STEM_B, NN_STEM_C};

typedef struct gradient_plan {
    const nn_stem *stem;
    int64_t n_parts;
    int64_t parts_per_step, parts_per_share, n_shares, most_shares;
    int64_t block_floats, sum_floats; /* of a share's sums: a block's, all */
    int64_t input_floats, scratch_floats;
} gradient_plan;

static gradient_plan make_plan(const nn_stem *stem)
{
    gradient_plan plan = {.stem = stem};

    plan.n_parts = stem->geom.n * stem->tile_rows * stem->parts_per_row;
    plan.parts_per_step = TILES / stem->tiles_per_part;
    const int64_t n_steps = nn_cpu_div_up(plan.n_parts, plan.parts_per_step);
    plan.most_shares = nn_cpu_least(N_SHARES, n_steps);
    plan.parts_per_share = nn_cpu_div_up(n_steps, plan.most_shares) * plan.parts_per_step;
    plan.n_shares = nn_cpu_div_up(plan.n_parts, plan.parts_per_share);
    plan.block_floats = PLACES * stem->n_lanes * NN_CPU_BLOCK;
    plan.sum_floats = stem->k_blocks * plan.block_floats;
    plan.input_floats = NN_STEM_PART_BUNCHES * nn_stem_bunch_floats(stem);
    plan.scratch_floats = plan.input_floats + IN * ROW_FLOATS + NN_STEM_ROWS_FLOATS;
    return plan;
}

/* --- Gradients of y --------------------------------------------------------------------------- */

/* The rows of a tile of dy; the next column is 16 floats further. */
typedef struct dy_tile {
    const float *row[OUT];
} dy_tile;

/* A dy: (row, tile, column, 16). */
static void transform_columns(const dy_tile *tile, float *out)
{
    for (int at = 0; at < TILE_FLOATS; at += NN_VEC_LANES) {
        nn_vec y[OUT], m[IN];
        CVY_UNROLL(8) for (int i = 0; i < OUT; i++) y[i] = nn_vec_load(tile->row[i] + at);
        nn_stem_output_adjoint_line(y, m);
        CVY_UNROLL(8) for (int i = 0; i < IN; i++) nn_vec_store(out + i * ROW_FLOATS + at, m[i]);
    }
}

/* A tile that reaches over the plane's border: a copy of what exists, and 0. */
static dy_tile copy_border(const float *plane, const nn_conv2d_geom *geom, int64_t row, int64_t col,
                           float copy[OUT * TILE_FLOATS])
{
    const int64_t n_rows = nn_cpu_least(OUT, geom->p - row);
    const int64_t n_cols = nn_cpu_least(OUT, geom->q - col);
    dy_tile tile;

    memset(copy, 0, OUT * TILE_FLOATS * sizeof *copy);
    for (int i = 0; i < OUT; i++) {
        tile.row[i] = copy + i * TILE_FLOATS;
        if (i >= n_rows || n_cols <= 0) continue;
        memcpy(copy + i * TILE_FLOATS, plane + ((row + i) * geom->q + col) * NN_CPU_BLOCK,
               (size_t)(n_cols * NN_CPU_BLOCK) * sizeof *copy);
    }
    return tile;
}

/* Of one block of a part, whole bunches: tiles that do not exist are 0. plane: the block's of dy.
 */
static void read_dy(const nn_stem *stem, const float *plane, const nn_stem_part *part, float *out)
{
    const nn_conv2d_geom *geom = &stem->geom;
    const int64_t row = part->tile_row * OUT, n = nn_stem_n_bunches(part) * BUNCH;
    float copy[OUT * TILE_FLOATS];

    for (int64_t i = 0; i < n; i++) {
        const int64_t col = (part->tile_col + i) * OUT;
        dy_tile tile;
        if (row + OUT > geom->p || col + OUT > geom->q) {
            tile = copy_border(plane, geom, row, col, copy);
        } else {
            for (int j = 0; j < OUT; j++) {
                tile.row[j] = plane + ((row + j) * geom->q + col) * NN_CPU_BLOCK;
            }
        }
        transform_columns(&tile, out + i * TILE_FLOATS);
    }
}

/* --- Products --------------------------------------------------------------------------------- */

/* Some lanes' inputs times a block of outputs, summed over the tiles of bunches, of one row and two
 * positions: at a point and its opposite. At infinity, which has no opposite, both are there, but
 * of different lanes; or there is only one. */
typedef struct stem_product {
    const float *x[2]; /* of the first bunch and lane */
    const float *dy;   /* A dy: (tile, column, 16) */
    float *sum[2];     /* (lane, 16) */
    float point;
    int64_t n_bunches, bunch_floats;
} stem_product;

/* What is known when the code is compiled. */
typedef struct product_form {
    int n_lanes, n_places, is_infinite;
} product_form;

/* One tile's row of A dy A^T at both positions. */
CVY_INLINE_ALWAYS void transform_row(const float *dy, const nn_vec power[3], int is_infinite,
                                     nn_vec out[2])
{
    const nn_vec last = nn_vec_load(dy + 3 * NN_CPU_BLOCK);

    if (is_infinite) {
        out[0] = out[1] = last;
        return;
    }
    const nn_vec even = nn_vec_load(dy) + power[1] * nn_vec_load(dy + 2 * NN_CPU_BLOCK);
    const nn_vec odd = power[0] * nn_vec_load(dy + NN_CPU_BLOCK) + power[2] * last;
    out[0] = even + odd;
    out[1] = even - odd;
}

CVY_INLINE_ALWAYS void add_products(const stem_product *product, int vec, product_form form)
{
    const float p = product->point, *dy = product->dy + vec;
    const float *x[2] = {product->x[0], product->x[1]};
    const nn_vec power[3] = {nn_vec_all(p), nn_vec_all(p * p), nn_vec_all(p * p * p)};
    nn_vec sum[2][MOST_SPAN];

    CVY_UNROLL(16) for (int i = 0; i < form.n_lanes; i++)
    {
        CVY_UNROLL(2) for (int j = 0; j < form.n_places; j++) sum[j][i] = nn_vec_all(0.0f);
    }
    for (int64_t bunch = 0; bunch < product->n_bunches; bunch++) {
        CVY_UNROLL(4) for (int t = 0; t < BUNCH; t++)
        {
            nn_vec m[2];
            transform_row(dy, power, form.is_infinite, m);
            CVY_UNROLL(2) for (int j = 0; j < form.n_places; j++)
            {
                CVY_UNROLL(16) for (int i = 0; i < form.n_lanes; i++)
                {
                    sum[j][i] += nn_vec_all(x[j][i * NN_STEM_LANE_FLOATS + t]) * m[j];
                }
            }
            dy += TILE_FLOATS;
        }
        CVY_UNROLL(2) for (int j = 0; j < form.n_places; j++) x[j] += product->bunch_floats;
    }
    CVY_UNROLL(16) for (int i = 0; i < form.n_lanes; i++)
    {
        CVY_UNROLL(2) for (int j = 0; j < form.n_places; j++)
        {
            float *to = product->sum[j] + i * NN_CPU_BLOCK + vec;
            nn_vec_store(to, nn_vec_load(to) + sum[j][i]);
        }
    }
}

/* One function per form, so that each keeps its sums in registers. */
#define FEW_LANES(X, places, infinite)                                                             \
    X(1, places, infinite) X(2, places, infinite) X(3, places, infinite) X(4, places, infinite)
#if defined(__AVX512F__)
#define ALL_LANES(X, places, infinite)                                                             \
    FEW_LANES(X, places, infinite)                                                                 \
    X(6, places, infinite) X(8, places, infinite) X(12, places, infinite)
#else
#define ALL_LANES(X, places, infinite) FEW_LANES(X, places, infinite)
#endif
#define ALL_FORMS(X) ALL_LANES(X, 2, 0) ALL_LANES(X, 2, 1) ALL_LANES(X, 1, 1)

#define DEFINE(lanes, places, infinite)                                                            \
    static void add_##lanes##_##places##_##infinite(const stem_product *product)                   \
    {                                                                                              \
        for (int vec = 0; vec < NN_CPU_BLOCK; vec += NN_VEC_LANES) {                               \
            add_products(product, vec, (product_form){lanes, places, infinite});                   \
        }                                                                                          \
    }
ALL_FORMS(DEFINE)
#undef DEFINE

typedef void (*product_function)(const stem_product *product);

#define ENTRY(lanes, places, infinite)                                                             \
    [infinite][places - 1][lanes - 1] = add_##lanes##_##places##_##infinite,
static const product_function add_functions[2][2][MOST_SPAN] = {ALL_FORMS(ENTRY)};
#undef ENTRY

/* n_lanes that follow each other, of which as many at once as there is a function for. */
static void add_lanes(const stem_product *product, int64_t n_lanes, int n_places, int is_infinite)
{
    const product_function *functions = add_functions[is_infinite][n_places - 1];
    stem_product part = *product;
    int64_t span = nn_cpu_least(n_lanes, MOST_SPAN);

    while (n_lanes % span != 0 || functions[span - 1] == NULL) span--;
    for (int64_t i = 0; i < n_lanes; i += span) {
        functions[span - 1](&part);
        for (int j = 0; j < n_places; j++) {
            part.x[j] += span * NN_STEM_LANE_FLOATS;
            part.sum[j] += span * NN_CPU_BLOCK;
        }
    }
}

/* What the memory fetches meanwhile: n lines a product. */
typedef struct gradient_fetch {
    nn_stem_fetch x, dy;
    int64_t n_x, n_dy;
} gradient_fetch;

/* Two positions of a row of the 7x7 and a block, or those of the last column: x and sums of the
 * row's first position, dy of its columns. */
static void add_places(const nn_stem *stem, int row, int pair, stem_product product, const float *x,
                       float *sums)
{
    const int64_t c = stem->geom.c;
    const int64_t x_floats = stem->n_lanes * NN_STEM_LANE_FLOATS;
    const int64_t sum_floats = stem->n_lanes * NN_CPU_BLOCK;
    const int n_phases = row < IN - 1 ? 2 : stem->full_h;

    product.x[0] = x + 2 * pair * x_floats;
    product.sum[0] = sums + 2 * pair * sum_floats;
    if (pair < N_PAIRS && n_phases > 0) {
        product.point = points[pair];
        product.x[1] = product.x[0] + x_floats;
        product.sum[1] = product.sum[0] + sum_floats;
        add_lanes(&product, 2 * n_phases * c, 2, 0);
    } else if (n_phases * stem->full_w > 0) { /* the first of each phase of rows */
        product.x[1] = product.x[0] + 2 * c * NN_STEM_LANE_FLOATS;
        product.sum[1] = product.sum[0] + 2 * c * NN_CPU_BLOCK;
        add_lanes(&product, stem->full_w * c, n_phases, 1);
    }
}

/* --- Shares ----------------------------------------------------------------------------------- */

typedef struct gradient_pass {
    gradient_plan plan;
    const float *x, *dy;
    float *dfilter, *sums, *scratch;
} gradient_pass;

/* Of the part of that number, or of none. */
static gradient_fetch fetch_of(const gradient_pass *pass, int64_t part_idx, int64_t end)
{
    const nn_stem *stem = pass->plan.stem;
    const nn_conv2d_geom *geom = &stem->geom;
    const int64_t n_products = stem->k_blocks * IN * (N_PAIRS + 1);
    gradient_fetch fetch = {0};

    if (part_idx >= end) return fetch;
    const nn_stem_part part = nn_stem_part_at(stem, part_idx);
    const int64_t row = part.tile_row * OUT, col = part.tile_col * OUT;
    const int64_t row_floats = geom->q * NN_CPU_BLOCK;
    fetch.x = nn_stem_fetch_of(stem, pass->x, &part);
    fetch.dy = (nn_stem_fetch){.row_floats = row_floats,
                               .plane_floats = geom->p * row_floats,
                               .n_rows = nn_cpu_least(OUT, geom->p - row),
                               .n_lines = nn_cpu_least(part.n_tiles * OUT, geom->q - col),
                               .n_planes = stem->k_blocks};
    fetch.dy.plane = pass->dy + part.image * stem->k_blocks * fetch.dy.plane_floats +
                     row * row_floats + col * NN_CPU_BLOCK;
    fetch.n_x = nn_cpu_div_up(nn_stem_fetch_n(&fetch.x), n_products);
    fetch.n_dy = nn_cpu_div_up(nn_stem_fetch_n(&fetch.dy), n_products);
    return fetch;
}

/* A step, of one block. x: transformed; dy: scratch; sums: the block's. */
static void add_parts(const gradient_pass *pass, nn_cpu_span parts, int64_t block, const float *x,
                      float *dy, gradient_fetch *fetch, float *sums)
{
    const nn_stem *stem = pass->plan.stem;
    const int64_t plane = stem->geom.p * stem->geom.q * NN_CPU_BLOCK;
    stem_product product = {.bunch_floats = nn_stem_bunch_floats(stem)};

    for (int64_t i = 0; i < parts.n; i++) {
        const nn_stem_part part = nn_stem_part_at(stem, parts.first + i);
        read_dy(stem, pass->dy + (part.image * stem->k_blocks + block) * plane, &part,
                dy + product.n_bunches * BUNCH * TILE_FLOATS);
        product.n_bunches += nn_stem_n_bunches(&part);
    }
    for (int pair = 0; pair <= N_PAIRS; pair++) { /* so x stays in the nearest cache */
        for (int row = 0; row < IN; row++) {
            nn_stem_fetch_lines(&fetch->x, fetch->n_x);
            nn_stem_fetch_lines(&fetch->dy, fetch->n_dy);
            product.dy = dy + row * ROW_FLOATS;
            add_places(stem, row, pair, product, x + row * BUNCH,
                       sums + row * IN * stem->n_lanes * NN_CPU_BLOCK);
        }
    }
}

static void share_chunk(void *arg, int64_t share, int thread_idx)
{
    const gradient_pass *pass = arg;
    const gradient_plan *plan = &pass->plan;
    const nn_stem *stem = plan->stem;
    const nn_cpu_span parts = nn_cpu_part(plan->n_parts, plan->parts_per_share, share);
    const int64_t end = parts.first + parts.n;
    float *const sums = pass->sums + share * plan->sum_floats;
    float *const x = pass->scratch + thread_idx * plan->scratch_floats;
    float *const dy = x + plan->input_floats, *const rows = dy + IN * ROW_FLOATS;

    memset(sums, 0, (size_t)plan->sum_floats * sizeof *sums);
    for (int64_t i = parts.first; i < end; i += plan->parts_per_step) {
        const nn_cpu_span step = {i, nn_cpu_least(plan->parts_per_step, end - i)};
        gradient_fetch fetch = fetch_of(pass, i + step.n, end);
        float *to = x;
        for (int64_t j = 0; j < step.n; j++) {
            const nn_stem_part part = nn_stem_part_at(stem, i + j);
            nn_stem_input(stem, pass->x, &part, rows, to);
            to += nn_stem_n_bunches(&part) * nn_stem_bunch_floats(stem);
        }
        for (int64_t block = 0; block < stem->k_blocks; block++) {
            add_parts(pass, step, block, x, dy, &fetch, sums + block * plan->block_floats);
        }
    }
}

/* --- From shares to the gradient -------------------------------------------------------------- */

/* out: (TAPS, TAPS, 16) of a lane and a block, added up; sums: of the first share. */
static void total_taps(const gradient_plan *plan, const float *sums,
                       float out[TAPS * TAPS * NN_CPU_BLOCK])
{
    const int64_t place_floats = plan->stem->n_lanes * NN_CPU_BLOCK;

    for (int v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
        nn_vec t[TAPS][IN];
        for (int j = 0; j < IN; j++) {
            nn_vec u[IN], g[TAPS];
            for (int i = 0; i < IN; i++) {
                const float *at = sums + (i * IN + j) * place_floats + v;
                u[i] = nn_vec_load(at);
                for (int64_t share = 1; share < plan->n_shares; share++) {
                    u[i] += nn_vec_load(at + share * plan->sum_floats);
                }
            }
            nn_stem_filter_adjoint_line(u, g);
            for (int i = 0; i < TAPS; i++) t[i][j] = g[i];
        }
        for (int i = 0; i < TAPS; i++) {
            nn_vec g[TAPS];
            nn_stem_filter_adjoint_line(t[i], g);
            for (int j = 0; j < TAPS; j++) {
                nn_vec_store(out + (i * TAPS + j) * NN_CPU_BLOCK + v, g[j]);
            }
        }
    }
}

/* A lane of a block. Sums that no product went to are 0, and their taps do not exist. */
static void total_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const gradient_pass *pass = arg;
    const gradient_plan *plan = &pass->plan;
    const nn_conv2d_geom *geom = &plan->stem->geom;
    const int64_t block = chunk_idx / plan->stem->n_lanes, lane = chunk_idx % plan->stem->n_lanes;
    const int64_t c = lane % geom->c, phase_h = lane / geom->c / 2, phase_w = lane / geom->c % 2;
    const int64_t first_k = block * NN_CPU_BLOCK;
    float taps[TAPS * TAPS * NN_CPU_BLOCK];

    (void)thread_idx;
    total_taps(plan, pass->sums + block * plan->block_floats + lane * NN_CPU_BLOCK, taps);
    for (int64_t k = 0; k < nn_cpu_least(NN_CPU_BLOCK, geom->k - first_k); k++) {
        float *const to = pass->dfilter + ((first_k + k) * geom->c + c) * geom->r * geom->s;
        for (int64_t r = phase_h; r < geom->r; r += 2) {
            for (int64_t s = phase_w; s < geom->s; s += 2) {
                to[r * geom->s + s] = taps[(r / 2 * TAPS + s / 2) * NN_CPU_BLOCK + k];
            }
        }
    }
}

int64_t nn_stem_gradient_floats(const nn_stem *stem, int n_threads)
{
    const gradient_plan plan = make_plan(stem);

    return plan.most_shares * plan.sum_floats + n_threads * plan.scratch_floats;
}

void nn_stem_gradient_run(nn_backend *backend, const nn_stem *stem, const float *x, const float *dy,
                          float *dfilter, float *workspace)
{
    gradient_pass pass = {
        .plan = make_plan(stem), .x = x, .dy = dy, .dfilter = dfilter, .sums = workspace};
    const gradient_plan *plan = &pass.plan;

    pass.scratch = workspace + plan->most_shares * plan->sum_floats;
    nn_cpu_run(backend, plan->n_shares, share_chunk, &pass);
    nn_cpu_run(backend, stem->k_blocks * stem->n_lanes, total_chunk, &pass);
}
