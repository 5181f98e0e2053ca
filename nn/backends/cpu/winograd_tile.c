#include "nn/backends/cpu/winograd_tile_internal.h"

#include "nn/backends/cpu/conv_epilogue_internal.h"
#include "nn/backends/cpu/winograd_lines_internal.h"

#include <stddef.h>

enum { OUT = NN_WINO_OUT, IN = NN_WINO_IN, HALO = IN - OUT };

/* --- Runs of tiles ---------------------------------------------------------------------------- */

/* A transform takes the rows of its result in passes over the run, each with the columns of these
 * rows alone in registers: all 36 values at once would spill. Rows at a point and its opposite
 * differ in signs and share a pass. */

enum { BORDER_TILES = 14 }; /* of a run that reaches over the plane's upper or lower border */

static const float zeros[(BORDER_TILES * OUT + HALO) * NN_CPU_BLOCK];

/* Which columns of a tile are outside the plane. Borders of one column, as a pad of one makes them,
 * are known where a pass is compiled; others are read elsewhere and masked, as branches would cost
 * more. */
typedef enum tile_edge { EDGE_NONE, EDGE_LEFT, EDGE_RIGHT, EDGE_ANY } tile_edge;

/* What a pass reads: rows of pixels, from the first tile's corner on. */
typedef struct tile_rows {
    const float *row[IN];
    int64_t step[IN];      /* floats from a row to that of the next block of channels */
    int64_t n;             /* tiles: those inside the plane from left to right, or a single one */
    int64_t n_rows;        /* of them */
    int64_t halo, advance; /* columns that the next tile reads again; to its corner */
    tile_edge edge;
    int64_t offset[IN]; /* EDGE_ANY: of a column's pixel in a row; 0: masked, -1: not */
    int32_t keep[IN];
    int is_lost; /* rows do not lead to the next tile's, as this one is all padding */
} tile_rows;

/* From a tile of the run on; tiles are so many pixels larger than their outputs. */
static void find_rows(const float *plane, const nn_wino_run *run, int64_t tile, int64_t halo,
                      tile_rows *out)
{
    const int64_t line = run->w * NN_CPU_BLOCK;
    const float *at = plane + run->row * line + (run->col + tile * run->cols) * NN_CPU_BLOCK;

    out->is_lost = 0;
    out->n_rows = run->rows + halo;
    out->halo = halo;
    out->advance = run->cols;
    for (int64_t i = 0; i < IN; i++) {
        const int64_t row = run->row + i;
        const int exists = i < out->n_rows && row >= 0 && row < run->h;
        out->row[i] = exists ? at : zeros;
        out->step[i] = exists ? run->h * line : 0;
        at += line;
    }
}

static void mask_columns(tile_rows *rows, int64_t first, int64_t end)
{
    for (int64_t j = 0; j < rows->advance + rows->halo; j++) {
        rows->keep[j] = j >= first && j < end ? -1 : 0;
        rows->offset[j] = (rows->keep[j] || first >= end ? j : first) * NN_CPU_BLOCK;
    }
    rows->is_lost = first >= end;
    for (int64_t i = 0; rows->is_lost && i < IN; i++) {
        rows->row[i] = zeros;
        rows->step[i] = 0;
    }
}

/* How many of the tiles that are left a pass can take. */
static void cut_run(tile_rows *rows, const nn_wino_run *run, int64_t done)
{
    const int64_t n_cols = rows->advance + rows->halo, col = run->col + done * rows->advance;
    const int64_t first = nn_cpu_most(0, -col), end = nn_cpu_least(n_cols, run->w - col);

    rows->n = 1;
    rows->edge = EDGE_ANY;
    if (first == 0 && end == n_cols) {
        rows->edge = EDGE_NONE;
        while (rows->n < run->n - done && col + rows->n * rows->advance + n_cols <= run->w) {
            rows->n++;
        }
        if (run->row < 0 || run->row + rows->n_rows > run->h) {
            rows->n = nn_cpu_least(rows->n, BORDER_TILES);
        }
    } else if (first == 1 && end == n_cols) {
        rows->edge = EDGE_LEFT;
    } else if (first == 0 && end == n_cols - 1) {
        rows->edge = EDGE_RIGHT;
    } else {
        mask_columns(rows, first, end);
    }
}

/* From behind the last block to the first block of the next tiles. */
static void next_tiles(tile_rows *rows, int64_t n_blocks)
{
    const int64_t floats = rows->n * rows->advance * NN_CPU_BLOCK;

    for (int64_t i = 0; i < IN; i++) {
        if (rows->step[i] != 0) rows->row[i] += floats - n_blocks * rows->step[i];
    }
}

static void next_block(tile_rows *rows)
{
    for (int64_t i = 0; i < IN; i++) rows->row[i] += rows->step[i];
}

/* The pixels of the next block that tiles above and left have not read. (A function that only
 * fetches is one that GCC takes for void of effect, and leaves out, unless it is inlined.) */
CVY_INLINE_ALWAYS void fetch_next_block(const tile_rows *rows)
{
    for (int64_t i = rows->halo; i < rows->n_rows; i++) {
        const float *at = rows->row[i] + rows->step[i] + rows->halo * NN_CPU_BLOCK;
        for (int64_t j = 0; j < rows->n * rows->advance; j++) {
            CVY_PREFETCH_READ(at + j * NN_CPU_BLOCK);
        }
    }
}

/* Transforms one block of tiles of one kind, or a third of it. */
typedef void (*read_function)(const tile_rows *rows, int third, float *out, int64_t pitch);

static void read_run(const float *plane, const nn_wino_run *run, const nn_wino_blocks *blocks,
                     read_function transform, int64_t halo, int third, float *out, int64_t pitch)
{
    tile_rows rows;

    rows.is_lost = 1;
    for (int64_t i = 0; i < run->n; i += rows.n) {
        if (rows.is_lost) find_rows(plane, run, i, halo, &rows);
        cut_run(&rows, run, i);
        for (int64_t j = 0; j < blocks->n; j++) {
            if (j + 1 < blocks->n) fetch_next_block(&rows);
            transform(&rows, third, out + j * blocks->pitch + i * NN_CPU_BLOCK, pitch);
            next_block(&rows);
        }
        next_tiles(&rows, blocks->n);
    }
}

/* What a loop over tiles is made for: the outputs and the columns of each, which of these are
 * inside; and the first of the lanes. */
typedef struct tile_form {
    int rows, cols, n_cols;
    tile_edge edge;
    int lane;
} tile_form;

/* Pixel j of a row. */
CVY_INLINE_ALWAYS nn_vec pixel(const tile_rows *rows, const float *row, int j, tile_form form)
{
    if (form.edge == EDGE_ANY) {
        return nn_vec_where((nn_mask){0} + rows->keep[j], nn_vec_load(row + rows->offset[j]));
    }
    if ((form.edge == EDGE_LEFT && j == 0) || (form.edge == EDGE_RIGHT && j == form.n_cols - 1)) {
        return nn_vec_all(0.0f);
    }
    return nn_vec_load(row + j * NN_CPU_BLOCK);
}

CVY_INLINE_ALWAYS void store_input_row(const nn_vec t[IN], float *out, int64_t pitch,
                                       tile_form form)
{
    nn_vec v[IN];

    nn_wino_input_line(t, v);
    CVY_UNROLL(6) for (int j = 0; j < form.cols + HALO; j++) nn_vec_store(out + j * pitch, v[j]);
}

/* Two rows, at the points near and -near; far is the other pair's. */
CVY_INLINE_ALWAYS void input_pair(const tile_rows *rows, float near, float far, float *out,
                                  int64_t pitch, tile_form form)
{
    const float *x1 = rows->row[1] + form.lane, *x2 = rows->row[2] + form.lane;
    const float *x3 = rows->row[3] + form.lane, *x4 = rows->row[4] + form.lane;

    for (int64_t i = 0; i < rows->n; i++) {
        nn_vec plus[IN] = {{0.0f}}, minus[IN] = {{0.0f}};
        CVY_UNROLL(6) for (int j = 0; j < form.cols + HALO; j++)
        {
            const nn_vec even = pixel(rows, x4, j, form) -
                                nn_vec_times(far * far, pixel(rows, x2, j, form));
            const nn_vec odd = nn_vec_times(near, pixel(rows, x3, j, form)) -
                               nn_vec_times(far, pixel(rows, x1, j, form));
            plus[j] = even + odd;
            minus[j] = even - odd;
        }
        store_input_row(plus, out, pitch, form);
        store_input_row(minus, out + IN * pitch, pitch, form);
        x1 += form.cols * NN_CPU_BLOCK;
        x2 += form.cols * NN_CPU_BLOCK;
        x3 += form.cols * NN_CPU_BLOCK;
        x4 += form.cols * NN_CPU_BLOCK;
        out += NN_CPU_BLOCK;
    }
}

/* The row at 0, or with first = 1 the one at infinity. */
CVY_INLINE_ALWAYS void input_end(const tile_rows *rows, int first, float *out, int64_t pitch,
                                 tile_form form)
{
    const float *x0 = rows->row[first] + form.lane, *x2 = rows->row[first + 2] + form.lane;
    const float *x4 = rows->row[first + 4] + form.lane;

    for (int64_t i = 0; i < rows->n; i++) {
        nn_vec t[IN] = {{0.0f}};
        CVY_UNROLL(6) for (int j = 0; j < form.cols + HALO; j++)
        {
            t[j] = pixel(rows, x0, j, form) + pixel(rows, x4, j, form) -
                   nn_vec_times(NN_WINO_A2 + NN_WINO_B2, pixel(rows, x2, j, form));
        }
        store_input_row(t, out, pitch, form);
        x0 += form.cols * NN_CPU_BLOCK;
        x2 += form.cols * NN_CPU_BLOCK;
        x4 += form.cols * NN_CPU_BLOCK;
        out += NN_CPU_BLOCK;
    }
}

/* A third of the positions, or all. */
CVY_INLINE_ALWAYS void input_rows(const tile_rows *rows, int third, float *out, int64_t pitch,
                                  tile_form form)
{
    const int is_all = third == NN_WINO_ALL;

    if (third == 0 || is_all) {
        input_end(rows, 0, out, pitch, form);
        if (form.rows == OUT) input_end(rows, 1, out + IN * pitch, pitch, form);
    }
    if (is_all) out += 2 * IN * pitch;
    if (third == 1 || is_all) input_pair(rows, NN_WINO_A, NN_WINO_B, out, pitch, form);
    if (is_all) out += 2 * IN * pitch;
    if (third == 2 || is_all) input_pair(rows, NN_WINO_B, NN_WINO_A, out, pitch, form);
}

CVY_INLINE_ALWAYS void input_tiles(const tile_rows *rows, int third, float *out, int64_t pitch,
                                   int n_rows, int n_cols)
{
    for (int lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
        tile_form form = {n_rows, n_cols, n_cols + HALO, EDGE_NONE, lane};
        switch (rows->edge) {
        case EDGE_NONE:
            input_rows(rows, third, out + lane, pitch, form);
            break;
        case EDGE_LEFT:
            form.edge = EDGE_LEFT;
            input_rows(rows, third, out + lane, pitch, form);
            break;
        case EDGE_RIGHT:
            form.edge = EDGE_RIGHT;
            input_rows(rows, third, out + lane, pitch, form);
            break;
        case EDGE_ANY:
            form.edge = EDGE_ANY;
            input_rows(rows, third, out + lane, pitch, form);
            break;
        }
    }
}

static void input_4x4(const tile_rows *rows, int third, float *out, int64_t pitch)
{
    input_tiles(rows, third, out, pitch, OUT, OUT);
}

static void input_4x3(const tile_rows *rows, int third, float *out, int64_t pitch)
{
    input_tiles(rows, third, out, pitch, OUT, OUT - 1);
}

static void input_3x4(const tile_rows *rows, int third, float *out, int64_t pitch)
{
    input_tiles(rows, third, out, pitch, OUT - 1, OUT);
}

static void input_3x3(const tile_rows *rows, int third, float *out, int64_t pitch)
{
    input_tiles(rows, third, out, pitch, OUT - 1, OUT - 1);
}

void nn_wino_input(const float *plane, const nn_wino_run *run, const nn_wino_blocks *blocks,
                   int third, float *out, int64_t pitch)
{
    static const read_function by_kind[2][2] = {{input_4x4, input_4x3}, {input_3x4, input_3x3}};

    read_run(plane, run, blocks, by_kind[OUT - run->rows][OUT - run->cols], HALO, third, out,
             pitch);
}

/* Where and how a run of tiles of y is written: nn_conv_epilogue. */
typedef struct output_rows {
    nn_epilogue_vecs vecs;
    float *y;
    const float *residual; /* of y[0]; NULL: none */
    int has_tail;          /* more than a bias */
    int64_t row_pitch;
    int64_t n;              /* tiles */
    int64_t rows, cols;     /* of each */
    int64_t n_rows, n_cols; /* of these that exist */
} output_rows;

/* What a loop over tiles is made for; constant where it is called. */
typedef struct output_form {
    int rows, cols;
    int inside, accumulate, has_tail; /* more than a bias */
} output_form;

CVY_INLINE_ALWAYS void store_output_row(const output_rows *rows, float *y, int row,
                                        output_form form, const nn_vec t[IN])
{
    nn_vec out[OUT];

    if (!form.inside && row >= rows->n_rows) return;
    nn_wino_output_line(t, out);
    CVY_UNROLL(4) for (int j = 0; j < form.cols; j++)
    {
        float *at = y + row * rows->row_pitch + j * NN_CPU_BLOCK;
        if (!form.inside && j >= rows->n_cols) continue;
        out[j] += rows->vecs.bias;
        if (form.has_tail) {
            const float *residual = rows->residual != NULL ? rows->residual + (at - rows->y) : NULL;
            out[j] = nn_epilogue_tail(&rows->vecs, residual, out[j]);
        }
        if (form.accumulate) out[j] += nn_vec_load(at);
        nn_vec_store(at, out[j]);
    }
}

/* Even rows of y, from sums of the products at a point and its opposite. */
CVY_INLINE_ALWAYS void output_even(const float *m, int64_t pitch, const output_rows *rows,
                                   output_form form)
{
    float *y = rows->y;

    for (int64_t i = 0; i < rows->n; i++) {
        nn_vec first[IN] = {{0.0f}}, second[IN] = {{0.0f}};
        CVY_UNROLL(6) for (int j = 0; j < form.cols + HALO; j++)
        {
            const float *at = m + j * pitch;
            const nn_vec sum_a = nn_vec_load(at + 2 * IN * pitch) +
                                 nn_vec_load(at + 3 * IN * pitch);
            const nn_vec sum_b = nn_vec_load(at + 4 * IN * pitch) +
                                 nn_vec_load(at + 5 * IN * pitch);
            first[j] = nn_vec_load(at) + sum_a + sum_b;
            second[j] = nn_vec_times(NN_WINO_A2, sum_a) + nn_vec_times(NN_WINO_B2, sum_b);
        }
        store_output_row(rows, y, 0, form, first);
        store_output_row(rows, y, 2, form, second);
        m += NN_CPU_BLOCK;
        y += form.cols * NN_CPU_BLOCK;
    }
}

/* Odd rows, from differences. */
CVY_INLINE_ALWAYS void output_odd(const float *m, int64_t pitch, const output_rows *rows,
                                  output_form form)
{
    float *y = rows->y;

    for (int64_t i = 0; i < rows->n; i++) {
        nn_vec first[IN] = {{0.0f}}, second[IN] = {{0.0f}};
        CVY_UNROLL(6) for (int j = 0; j < form.cols + HALO; j++)
        {
            const float *at = m + j * pitch;
            const nn_vec difference_a = nn_vec_load(at + 2 * IN * pitch) -
                                        nn_vec_load(at + 3 * IN * pitch);
            const nn_vec difference_b = nn_vec_load(at + 4 * IN * pitch) -
                                        nn_vec_load(at + 5 * IN * pitch);
            first[j] = nn_vec_times(NN_WINO_A, difference_a) +
                       nn_vec_times(NN_WINO_B, difference_b);
            if (form.rows < OUT) continue;
            second[j] = nn_vec_load(at + IN * pitch) + nn_vec_times(NN_WINO_B3, difference_b) +
                        nn_vec_times(NN_WINO_A3, difference_a);
        }
        store_output_row(rows, y, 1, form, first);
        if (form.rows == OUT) store_output_row(rows, y, 3, form, second);
        m += NN_CPU_BLOCK;
        y += form.cols * NN_CPU_BLOCK;
    }
}

CVY_INLINE_ALWAYS void output_tiles(const float *m, int64_t pitch, const output_rows *rows,
                                    output_form form, int n_rows, int n_cols)
{
    form.rows = n_rows;
    form.cols = n_cols;
    output_even(m, pitch, rows, form);
    output_odd(m, pitch, rows, form);
}

CVY_INLINE_ALWAYS void output_any(const float *m, int64_t pitch, const output_rows *rows,
                                  output_form form)
{
    if (rows->rows == OUT && rows->cols == OUT) {
        output_tiles(m, pitch, rows, form, OUT, OUT);
    } else if (rows->rows == OUT) {
        output_tiles(m, pitch, rows, form, OUT, OUT - 1);
    } else if (rows->cols == OUT) {
        output_tiles(m, pitch, rows, form, OUT - 1, OUT);
    } else {
        output_tiles(m, pitch, rows, form, OUT - 1, OUT - 1);
    }
}

static void output_inside(const float *m, int64_t pitch, const output_rows *rows)
{
    output_any(m, pitch, rows, (output_form){.inside = 1});
}

static void output_inside_add(const float *m, int64_t pitch, const output_rows *rows)
{
    output_any(m, pitch, rows, (output_form){.inside = 1, .accumulate = 1});
}

static void output_inside_tail(const float *m, int64_t pitch, const output_rows *rows)
{
    output_any(m, pitch, rows, (output_form){.inside = 1, .has_tail = 1});
}

static void output_border(const float *m, int64_t pitch, const output_rows *rows, int accumulate)
{
    output_any(m, pitch, rows, (output_form){.accumulate = accumulate, .has_tail = rows->has_tail});
}

static void output_whole(const float *m, int64_t pitch, const output_rows *rows, int accumulate)
{
    if (rows->n_rows < rows->rows || (accumulate && rows->has_tail)) {
        output_border(m, pitch, rows, accumulate);
    } else if (accumulate) {
        output_inside_add(m, pitch, rows);
    } else if (rows->has_tail) {
        output_inside_tail(m, pitch, rows);
    } else {
        output_inside(m, pitch, rows);
    }
}

void nn_wino_output(const float *m, int64_t pitch, const nn_conv_epilogue *epilogue, int accumulate,
                    float *plane, const nn_wino_run *run)
{
    const int64_t n_whole = nn_cpu_least(run->n, (run->w - run->col) / run->cols);
    const int64_t whole_floats = n_whole * run->cols * NN_CPU_BLOCK;

    for (int v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
        const int64_t at = (run->row * run->w + run->col) * NN_CPU_BLOCK + v;
        output_rows rows = {
            .vecs = nn_epilogue_vecs_of(epilogue, v),
            .has_tail = nn_epilogue_has_tail(epilogue),
            .y = plane + at,
            .residual = epilogue->residual != NULL ? epilogue->residual + at : NULL,
            .row_pitch = run->w * NN_CPU_BLOCK,
            .n = n_whole,
            .rows = run->rows,
            .cols = run->cols,
            .n_rows = nn_cpu_least(run->rows, run->h - run->row),
            .n_cols = run->cols,
        };
        output_whole(m + v, pitch, &rows, accumulate);
        if (n_whole == run->n) continue;
        rows.n = 1;
        rows.n_cols = run->w - run->col - n_whole * run->cols;
        rows.y += whole_floats;
        if (rows.residual != NULL) rows.residual += whole_floats;
        output_border(m + v + n_whole * NN_CPU_BLOCK, pitch, &rows, accumulate);
    }
}

CVY_INLINE_ALWAYS void store_adjoint_row(const nn_vec t[OUT], float *out, int64_t pitch,
                                         tile_form form)
{
    nn_vec v[IN];

    nn_wino_output_adjoint_line(t, v);
    CVY_UNROLL(6) for (int j = 0; j < form.cols + HALO; j++) nn_vec_store(out + j * pitch, v[j]);
}

CVY_INLINE_ALWAYS void adjoint_pair(const tile_rows *rows, float point, float *out, int64_t pitch,
                                    tile_form form)
{
    const float *y0 = rows->row[0] + form.lane, *y1 = rows->row[1] + form.lane;
    const float *y2 = rows->row[2] + form.lane, *y3 = rows->row[3] + form.lane;

    for (int64_t i = 0; i < rows->n; i++) {
        nn_vec plus[OUT] = {{0.0f}}, minus[OUT] = {{0.0f}};
        CVY_UNROLL(4) for (int j = 0; j < form.cols; j++)
        {
            const nn_vec even = pixel(rows, y0, j, form) +
                                nn_vec_times(point * point, pixel(rows, y2, j, form));
            nn_vec odd = nn_vec_times(point, pixel(rows, y1, j, form));
            if (form.rows == OUT) {
                odd += nn_vec_times(point * point * point, pixel(rows, y3, j, form));
            }
            plus[j] = even + odd;
            minus[j] = even - odd;
        }
        store_adjoint_row(plus, out, pitch, form);
        store_adjoint_row(minus, out + IN * pitch, pitch, form);
        y0 += form.cols * NN_CPU_BLOCK;
        y1 += form.cols * NN_CPU_BLOCK;
        y2 += form.cols * NN_CPU_BLOCK;
        if (form.rows == OUT) y3 += form.cols * NN_CPU_BLOCK;
        out += NN_CPU_BLOCK;
    }
}

CVY_INLINE_ALWAYS void adjoint_end(const tile_rows *rows, int row, float *out, int64_t pitch,
                                   tile_form form)
{
    const float *y = rows->row[row] + form.lane;

    for (int64_t i = 0; i < rows->n; i++) {
        nn_vec t[OUT] = {{0.0f}};
        CVY_UNROLL(4) for (int j = 0; j < form.cols; j++) t[j] = pixel(rows, y, j, form);
        store_adjoint_row(t, out, pitch, form);
        y += form.cols * NN_CPU_BLOCK;
        out += NN_CPU_BLOCK;
    }
}

CVY_INLINE_ALWAYS void adjoint_rows(const tile_rows *rows, int third, float *out, int64_t pitch,
                                    tile_form form)
{
    const int is_all = third == NN_WINO_ALL;

    if (third == 0 || is_all) {
        adjoint_end(rows, 0, out, pitch, form);
        if (form.rows == OUT) adjoint_end(rows, OUT - 1, out + IN * pitch, pitch, form);
    }
    if (is_all) out += 2 * IN * pitch;
    if (third == 1 || is_all) adjoint_pair(rows, NN_WINO_A, out, pitch, form);
    if (is_all) out += 2 * IN * pitch;
    if (third == 2 || is_all) adjoint_pair(rows, NN_WINO_B, out, pitch, form);
}

CVY_INLINE_ALWAYS void adjoint_tiles(const tile_rows *rows, int third, float *out, int64_t pitch,
                                     int n_rows, int n_cols)
{
    for (int lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
        tile_form form = {n_rows, n_cols, n_cols, EDGE_NONE, lane};
        switch (rows->edge) {
        case EDGE_NONE:
            adjoint_rows(rows, third, out + lane, pitch, form);
            break;
        case EDGE_LEFT:
            form.edge = EDGE_LEFT;
            adjoint_rows(rows, third, out + lane, pitch, form);
            break;
        case EDGE_RIGHT:
            form.edge = EDGE_RIGHT;
            adjoint_rows(rows, third, out + lane, pitch, form);
            break;
        case EDGE_ANY:
            form.edge = EDGE_ANY;
            adjoint_rows(rows, third, out + lane, pitch, form);
            break;
        }
    }
}

static void adjoint_4x4(const tile_rows *rows, int third, float *out, int64_t pitch)
{
    adjoint_tiles(rows, third, out, pitch, OUT, OUT);
}

static void adjoint_4x3(const tile_rows *rows, int third, float *out, int64_t pitch)
{
    adjoint_tiles(rows, third, out, pitch, OUT, OUT - 1);
}

static void adjoint_3x4(const tile_rows *rows, int third, float *out, int64_t pitch)
{
    adjoint_tiles(rows, third, out, pitch, OUT - 1, OUT);
}

static void adjoint_3x3(const tile_rows *rows, int third, float *out, int64_t pitch)
{
    adjoint_tiles(rows, third, out, pitch, OUT - 1, OUT - 1);
}

void nn_wino_output_adjoint(const float *plane, const nn_wino_run *run,
                            const nn_wino_blocks *blocks, int third, float *out, int64_t pitch)
{
    static const read_function by_kind[2][2] = {{adjoint_4x4, adjoint_4x3},
                                                {adjoint_3x4, adjoint_3x3}};

    read_run(plane, run, blocks, by_kind[OUT - run->rows][OUT - run->cols], 0, third, out, pitch);
}
