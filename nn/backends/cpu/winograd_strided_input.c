#include "nn/backends/cpu/winograd_strided_internal.h"

/* From pixels to positions. As in winograd_tile.c a row or two of the result are made after the
 * other, each in a pass over tiles beside each other. */

enum { SIZE = NN_STRIDED_SIZE, POINTS = NN_STRIDED_POINTS, LINE = NN_STRIDED_LINE };

/* Constant wherever a pass is made: a tile's outputs, pixels from one of them to the next, and
 * whether all columns are inside the plane. */
typedef struct tile_form {
    int h, w, step, inside;
} tile_form;

#define SIZES(X) X(4, 4) X(4, 3) X(3, 4) X(3, 3)

enum { BORDER_TILES = 7 }; /* of a run that reaches over the plane's upper or lower border */

static const float zeros[(BORDER_TILES * 2 * SIZE + 1) * NN_CPU_BLOCK];

/* What a pass reads and writes: rows of pixels, from the first tile's corner on. Of a single tile
 * some columns may be outside the plane: they are read elsewhere and masked. */
typedef struct input_pass {
    const float *row[LINE];
    int64_t next_block[LINE]; /* floats from a row to that of the next block */
    int64_t n;                /* tiles */
    int is_inside;            /* all columns are */
    int64_t offset[LINE];     /* of a column's pixel in a row */
    int32_t keep[LINE];       /* 0: masked, -1: not */
    int rows;                 /* of positions: a set, or all */
    const int64_t *places;
    float *out;
} input_pass;

CVY_INLINE_ALWAYS nn_vec pixel(const input_pass *pass, const float *row, int j, tile_form form)
{
    if (form.inside) return nn_vec_load(row + j * NN_CPU_BLOCK);
    return nn_vec_where((nn_mask){0} + pass->keep[j], nn_vec_load(row + pass->offset[j]));
}

/* B^T x: rows are the polynomials that vanish at all finite points but one, so they are the same
 * for both sizes. */
CVY_INLINE_ALWAYS void points_of(int size, const nn_vec d[POINTS], nn_vec out[POINTS])
{
    const nn_vec even_a = nn_vec_times(NN_STRIDED_A, d[2]) -
                          nn_vec_times(NN_STRIDED_A * NN_STRIDED_B2, d[0]);
    const nn_vec even_b = nn_vec_times(NN_STRIDED_B, d[2]) -
                          nn_vec_times(NN_STRIDED_B * NN_STRIDED_A2, d[0]);
    const nn_vec odd_a = d[3] - nn_vec_times(NN_STRIDED_B2, d[1]);
    const nn_vec odd_b = d[3] - nn_vec_times(NN_STRIDED_A2, d[1]);

    out[0] = odd_a + even_a;
    out[1] = odd_a - even_a;
    out[2] = odd_b + even_b;
    out[3] = odd_b - even_b;
    if (size == 4) {
        out[4] = d[4] - nn_vec_times(NN_STRIDED_A2 + NN_STRIDED_B2, d[2]) +
                 nn_vec_times(NN_STRIDED_A2 * NN_STRIDED_B2, d[0]);
    }
}

CVY_INLINE_ALWAYS void store_line(const nn_vec t[LINE], tile_form form, float *out,
                                  const int64_t *places)
{
    nn_vec d[POINTS] = {{0.0f}}, v[POINTS];

    CVY_UNROLL(5) for (int i = 0; i <= form.w; i++) d[i] = t[i * form.step];
    points_of(form.w, d, v);
    CVY_UNROLL(5) for (int i = 0; i <= form.w; i++) nn_vec_store(out + places[i], v[i]);
    CVY_UNROLL(4) for (int i = 0; i < form.w; i++)
    {
        nn_vec_store(out + places[form.w + 1 + i], t[(i + 1) * form.step - 1]);
    }
}

/* The rows at two points, or at one. */
CVY_INLINE_ALWAYS void input_points(const input_pass *pass, tile_form form, int first, int second)
{
    const int line = 2 * form.w + 1;
    const int64_t *places = pass->places;
    const float *x[POINTS];
    float *out = pass->out;

    CVY_UNROLL(5) for (int i = 0; i <= form.h; i++) x[i] = pass->row[i * form.step];
    for (int64_t tile = 0; tile < pass->n; tile++) {
        nn_vec t[2][LINE];
        CVY_UNROLL(9) for (int j = 0; j <= form.w * form.step; j++)
        {
            nn_vec d[POINTS] = {{0.0f}}, v[POINTS];
            CVY_UNROLL(5) for (int i = 0; i <= form.h; i++) d[i] = pixel(pass, x[i], j, form);
            points_of(form.h, d, v);
            t[0][j] = v[first];
            t[1][j] = v[second];
        }
        store_line(t[0], form, out, places + first * line);
        if (second != first) store_line(t[1], form, out, places + second * line);
        CVY_UNROLL(5) for (int i = 0; i <= form.h; i++) x[i] += form.w * form.step * NN_CPU_BLOCK;
        out += NN_CPU_BLOCK;
    }
}

/* A row of the middle tap. */
CVY_INLINE_ALWAYS void input_middle(const input_pass *pass, tile_form form, int i)
{
    const float *x = pass->row[(i + 1) * form.step - 1];
    const int64_t *places = pass->places + (form.h + 1 + i) * (2 * form.w + 1);
    float *out = pass->out;

    for (int64_t tile = 0; tile < pass->n; tile++) {
        nn_vec t[LINE];
        CVY_UNROLL(9) for (int j = 0; j <= form.w * form.step; j++) t[j] = pixel(pass, x, j, form);
        store_line(t, form, out, places);
        x += form.w * form.step * NN_CPU_BLOCK;
        out += NN_CPU_BLOCK;
    }
}

CVY_INLINE_ALWAYS int has_rows(const input_pass *pass, int rows)
{
    return pass->rows == NN_STRIDED_ALL_ROWS || pass->rows == rows;
}

CVY_INLINE_ALWAYS void input_rows(const input_pass *pass, tile_form form)
{
    if (has_rows(pass, 0)) input_points(pass, form, 0, 1);
    if (has_rows(pass, 1)) input_points(pass, form, 2, 3);
    if (form.h == 4 && has_rows(pass, 2)) input_points(pass, form, 4, 4);
    for (int i = 0; i < form.h; i++) {
        if (has_rows(pass, NN_STRIDED_MIDDLE_ROWS + i)) input_middle(pass, form, i);
    }
}

/* A y: what each point, and each product of the middle tap, takes of a tile's outputs. */
CVY_INLINE_ALWAYS void spread_of(int size, const nn_vec y[SIZE], nn_vec out[POINTS])
{
    const nn_vec even_a = y[0] + nn_vec_times(NN_STRIDED_A2, y[2]);
    const nn_vec even_b = y[0] + nn_vec_times(NN_STRIDED_B2, y[2]);
    nn_vec odd_a = nn_vec_times(NN_STRIDED_A, y[1]), odd_b = nn_vec_times(NN_STRIDED_B, y[1]);

    if (size == 4) {
        odd_a += nn_vec_times(NN_STRIDED_A * NN_STRIDED_A2, y[3]);
        odd_b += nn_vec_times(NN_STRIDED_B * NN_STRIDED_B2, y[3]);
        out[4] = y[3];
    }
    out[0] = even_a + odd_a;
    out[1] = even_a - odd_a;
    out[2] = even_b + odd_b;
    out[3] = even_b - odd_b;
}

CVY_INLINE_ALWAYS void store_spread(const nn_vec t[SIZE], tile_form form, float *out,
                                    const int64_t *places)
{
    nn_vec v[POINTS];

    spread_of(form.w, t, v);
    CVY_UNROLL(5) for (int i = 0; i <= form.w; i++) nn_vec_store(out + places[i], v[i]);
    CVY_UNROLL(4) for (int i = 0; i < form.w; i++)
    {
        nn_vec_store(out + places[form.w + 1 + i], t[i]);
    }
}

CVY_INLINE_ALWAYS void spread_points(const input_pass *pass, tile_form form, int first, int second)
{
    const int line = 2 * form.w + 1;
    const float *y[SIZE];
    float *out = pass->out;

    CVY_UNROLL(4) for (int i = 0; i < form.h; i++) y[i] = pass->row[i];
    for (int64_t tile = 0; tile < pass->n; tile++) {
        nn_vec t[2][SIZE];
        CVY_UNROLL(4) for (int j = 0; j < form.w; j++)
        {
            nn_vec d[SIZE], v[POINTS];
            CVY_UNROLL(4) for (int i = 0; i < form.h; i++) d[i] = pixel(pass, y[i], j, form);
            spread_of(form.h, d, v);
            t[0][j] = v[first];
            t[1][j] = v[second];
        }
        store_spread(t[0], form, out, pass->places + first * line);
        if (second != first) store_spread(t[1], form, out, pass->places + second * line);
        CVY_UNROLL(4) for (int i = 0; i < form.h; i++) y[i] += form.w * NN_CPU_BLOCK;
        out += NN_CPU_BLOCK;
    }
}

CVY_INLINE_ALWAYS void spread_middle(const input_pass *pass, tile_form form, int i)
{
    const float *y = pass->row[i];
    float *out = pass->out;

    for (int64_t tile = 0; tile < pass->n; tile++) {
        nn_vec t[SIZE];
        CVY_UNROLL(4) for (int j = 0; j < form.w; j++) t[j] = pixel(pass, y, j, form);
        store_spread(t, form, out, pass->places + (form.h + 1 + i) * (2 * form.w + 1));
        y += form.w * NN_CPU_BLOCK;
        out += NN_CPU_BLOCK;
    }
}

CVY_INLINE_ALWAYS void spread_rows(const input_pass *pass, tile_form form)
{
    if (has_rows(pass, 0)) spread_points(pass, form, 0, 1);
    if (has_rows(pass, 1)) spread_points(pass, form, 2, 3);
    if (form.h == 4 && has_rows(pass, 2)) spread_points(pass, form, 4, 4);
    for (int i = 0; i < form.h; i++) {
        if (has_rows(pass, NN_STRIDED_MIDDLE_ROWS + i)) spread_middle(pass, form, i);
    }
}

typedef void (*input_function)(const input_pass *pass);

#define DEFINE(h, w)                                                                               \
    static void input_##h##_##w##_x(const input_pass *pass)                                        \
    {                                                                                              \
        input_rows(pass, (tile_form){h, w, 2, 1});                                                 \
    }                                                                                              \
    static void border_##h##_##w##_x(const input_pass *pass)                                       \
    {                                                                                              \
        input_rows(pass, (tile_form){h, w, 2, 0});                                                 \
    }                                                                                              \
    static void input_##h##_##w##_dy(const input_pass *pass)                                       \
    {                                                                                              \
        input_rows(pass, (tile_form){h, w, 1, 1});                                                 \
    }                                                                                              \
    static void border_##h##_##w##_dy(const input_pass *pass)                                      \
    {                                                                                              \
        input_rows(pass, (tile_form){h, w, 1, 0});                                                 \
    }                                                                                              \
    static void input_##h##_##w##_y(const input_pass *pass)                                        \
    {                                                                                              \
        spread_rows(pass, (tile_form){h, w, 1, 1});                                                \
    }                                                                                              \
    static void border_##h##_##w##_y(const input_pass *pass)                                       \
    {                                                                                              \
        spread_rows(pass, (tile_form){h, w, 1, 0});                                                \
    }
SIZES(DEFINE)
#undef DEFINE

/* [h - 3][w - 3][what][inside] */
#define ENTRY(h, w)                                                                                \
    [h - 3][w - 3] = {[NN_STRIDED_X] = {border_##h##_##w##_x, input_##h##_##w##_x},                \
                      [NN_STRIDED_DY] = {border_##h##_##w##_dy, input_##h##_##w##_dy},             \
                      [NN_STRIDED_Y] = {border_##h##_##w##_y, input_##h##_##w##_y}},
static const input_function input_functions[2][2][3][2] = {SIZES(ENTRY)};
#undef ENTRY

/* The next tiles of a run, h x w pixels each, that one pass can take: all inside the plane from
 * left to right, or a single one. */
static void cut_run(const float *plane, const nn_strided_tiles *tiles, int64_t col, int64_t h,
                    int64_t w, input_pass *out)
{
    const int64_t first = nn_cpu_most(0, -col), end = nn_cpu_least(w, tiles->plane_w - col);

    for (int64_t j = 0; !out->is_inside && j < w; j++) {
        out->keep[j] = j >= first && j < end ? -1 : 0;
        out->offset[j] = (out->keep[j] || first >= end ? j : first) * NN_CPU_BLOCK;
    }
    if (tiles->row < 0 || tiles->row + h > tiles->plane_h) {
        out->n = nn_cpu_least(out->n, BORDER_TILES);
    }
    for (int64_t i = 0; i < h; i++) {
        const int64_t row = tiles->row + i;
        const int exists = row >= 0 && row < tiles->plane_h && first < end;
        out->row[i] = exists ? plane + (row * tiles->plane_w + col) * NN_CPU_BLOCK : zeros;
        out->next_block[i] = exists ? tiles->plane_h * tiles->plane_w * NN_CPU_BLOCK : 0;
    }
}

/* The pixels of the next block that a pass reads and tiles above and left have not: of all rows, or
 * of those of the points, or of one of the middle tap. */
static void fetch_next_block(const input_pass *pass, const nn_strided_tiles *tiles, int step,
                             int halo)
{
    const int is_all = pass->rows == NN_STRIDED_ALL_ROWS;
    const int is_middle = pass->rows >= NN_STRIDED_MIDDLE_ROWS;
    const int middle = (pass->rows - NN_STRIDED_MIDDLE_ROWS + 1) * step - 1;
    const int end = is_middle ? middle + 1 : tiles->h * step + halo;

    for (int i = is_middle ? middle : is_all ? halo : 0; i < end; i += is_all ? 1 : step) {
        const float *line = pass->row[i] + pass->next_block[i] + halo * NN_CPU_BLOCK;
        for (int64_t j = 0; j < pass->n * tiles->w * step; j++) {
            CVY_PREFETCH_READ(line + j * NN_CPU_BLOCK);
        }
    }
}

void nn_strided_input(const float *plane, const nn_strided_tiles *tiles,
                      const nn_wino_blocks *blocks, nn_strided_window window, int rows,
                      const int64_t *places, float *out)
{
    const int step = window == NN_STRIDED_X ? 2 : 1, halo = window == NN_STRIDED_Y ? 0 : 1;
    const int h = tiles->h * step + halo, w = tiles->w * step + halo;

    for (int64_t tile = 0, n = 0; tile < tiles->n; tile += n) {
        const int64_t n_inside = nn_strided_count_inside(tiles, tile, w, tiles->w * step);
        input_pass pass = {.n = nn_cpu_most(1, n_inside),
                           .is_inside = n_inside > 0,
                           .rows = rows,
                           .places = places};
        const input_function input =
            input_functions[tiles->h - 3][tiles->w - 3][window][pass.is_inside];
        cut_run(plane, tiles, tiles->col + tile * tiles->w * step, h, w, &pass);
        n = pass.n;
        for (int64_t i = 0; i < blocks->n; i++) {
            if (i + 1 < blocks->n) fetch_next_block(&pass, tiles, step, halo);
            for (int lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
                pass.out = out + i * blocks->pitch + tile * NN_CPU_BLOCK + lane;
                input(&pass);
                for (int j = 0; j < h; j++) pass.row[j] += NN_VEC_LANES;
            }
            for (int j = 0; j < h; j++) pass.row[j] += pass.next_block[j] - NN_CPU_BLOCK;
        }
    }
}
