#include "nn/backends/cpu/winograd_internal.h"
#include "nn/backends/cpu/winograd_lines_internal.h"

#include <stddef.h>

enum { OUT = NN_WINO_OUT, IN = NN_WINO_IN };

/* --- Runs of tiles ---------------------------------------------------------------------------- */

/* A transform takes the rows of its result in passes over the run, each with the columns of these
 * rows alone in registers: all 36 values at once would spill. Rows at a point and its opposite
 * differ in signs and share a pass. */

enum { BORDER_TILES = 7 }; /* of a run that reaches over the plane's upper or lower border */

static const float zeros[(BORDER_TILES * OUT + IN - OUT) * NN_CPU_BLOCK];

/* What a pass reads: rows of pixels, from the first tile's corner on; the next tile is OUT pixels
 * further. Of a single tile some columns may be outside the plane: they are read elsewhere and
 * masked, as branches would cost more. */
typedef struct tile_rows {
    const float *row[IN];
    int64_t step[IN];   /* floats from a row to that of the next block of channels */
    int64_t n;          /* tiles */
    int is_inside;      /* all columns are */
    int64_t offset[IN]; /* of a column's pixel in a row */
    int32_t keep[IN];   /* 0: masked, -1: not */
} tile_rows;

/* The next tiles of a run, size x size pixels each, that one pass can take: all inside the plane
 * from left to right, or a single one. */
static tile_rows cut_run(const float *plane, const nn_wino_run *run, int64_t done, int64_t size)
{
    const int64_t col = run->col + done * OUT, room = run->w - size - col;
    tile_rows rows = {.n = 1, .is_inside = col >= 0 && room >= 0};

    if (rows.is_inside) rows.n = nn_cpu_least(run->n - done, room / OUT + 1);
    const int64_t first = nn_cpu_most(0, -col), end = nn_cpu_least(size, run->w - col);
    for (int64_t j = 0; !rows.is_inside && j < size; j++) {
        rows.keep[j] = j >= first && j < end ? -1 : 0;
        rows.offset[j] = (rows.keep[j] || first >= end ? j : first) * NN_CPU_BLOCK;
    }
    if (run->row < 0 || run->row + size > run->h) rows.n = nn_cpu_least(rows.n, BORDER_TILES);
    for (int64_t i = 0; i < size; i++) {
        const int64_t row = run->row + i;
        const int exists = row >= 0 && row < run->h && first < end;
        rows.row[i] = exists ? plane + (row * run->w + col) * NN_CPU_BLOCK : zeros;
        rows.step[i] = exists ? run->h * run->w * NN_CPU_BLOCK : 0;
    }
    return rows;
}

/* The rows of the next block, from those after some vectors of this one. */
static void next_block(tile_rows *rows, int64_t size)
{
    for (int64_t i = 0; i < size; i++) rows->row[i] += rows->step[i] - NN_CPU_BLOCK;
}

static void next_vec(tile_rows *rows, int64_t size)
{
    for (int64_t i = 0; i < size; i++) rows->row[i] += NN_VEC_LANES;
}

/* The pixels of the next block that tiles above and left have not read. */
static void fetch_next_block(const tile_rows *rows, int64_t size)
{
    for (int64_t i = size - OUT; i < size; i++) {
        const float *at = rows->row[i] + rows->step[i] + (size - OUT) * NN_CPU_BLOCK;
        for (int64_t j = 0; j < rows->n * OUT; j++) CVY_PREFETCH_READ(at + j * NN_CPU_BLOCK);
    }
}

/* Pixel j of a row. */
CVY_INLINE_ALWAYS nn_vec pixel(const tile_rows *rows, const float *row, int j, int inside)
{
    if (inside) return nn_vec_load(row + j * NN_CPU_BLOCK);
    return nn_vec_where((nn_mask){0} + rows->keep[j], nn_vec_load(row + rows->offset[j]));
}

CVY_INLINE_ALWAYS void store_input_row(const nn_vec t[IN], float *out, int64_t pitch)
{
    nn_vec v[IN];

    nn_wino_input_line(t, v);
    CVY_UNROLL(6) for (int j = 0; j < IN; j++) nn_vec_store(out + j * pitch, v[j]);
}

/* Two rows, at the points near and -near; far is the other pair's. */
CVY_INLINE_ALWAYS void input_pair(const tile_rows *rows, float near, float far, float *out,
                                  int64_t pitch, int inside)
{
    const float *x1 = rows->row[1], *x2 = rows->row[2], *x3 = rows->row[3], *x4 = rows->row[4];

    for (int64_t i = 0; i < rows->n; i++) {
        nn_vec plus[IN], minus[IN];
        CVY_UNROLL(6) for (int j = 0; j < IN; j++)
        {
            const nn_vec even = pixel(rows, x4, j, inside) -
                                nn_vec_times(far * far, pixel(rows, x2, j, inside));
            const nn_vec odd = nn_vec_times(near, pixel(rows, x3, j, inside)) -
                               nn_vec_times(far, pixel(rows, x1, j, inside));
            plus[j] = even + odd;
            minus[j] = even - odd;
        }
        store_input_row(plus, out, pitch);
        store_input_row(minus, out + IN * pitch, pitch);
        x1 += OUT * NN_CPU_BLOCK;
        x2 += OUT * NN_CPU_BLOCK;
        x3 += OUT * NN_CPU_BLOCK;
        x4 += OUT * NN_CPU_BLOCK;
        out += NN_CPU_BLOCK;
    }
}

/* The row at 0, or with first = 1 the one at infinity. */
CVY_INLINE_ALWAYS void input_end(const tile_rows *rows, int first, float *out, int64_t pitch,
                                 int inside)
{
    const float *x0 = rows->row[first], *x2 = rows->row[first + 2], *x4 = rows->row[first + 4];

    for (int64_t i = 0; i < rows->n; i++) {
        nn_vec t[IN];
        CVY_UNROLL(6) for (int j = 0; j < IN; j++)
        {
            t[j] = pixel(rows, x0, j, inside) + pixel(rows, x4, j, inside) -
                   nn_vec_times(NN_WINO_A2 + NN_WINO_B2, pixel(rows, x2, j, inside));
        }
        store_input_row(t, out, pitch);
        x0 += OUT * NN_CPU_BLOCK;
        x2 += OUT * NN_CPU_BLOCK;
        x4 += OUT * NN_CPU_BLOCK;
        out += NN_CPU_BLOCK;
    }
}

/* A third of the positions, the rows of which are row_gap floats apart. */
CVY_INLINE_ALWAYS void input_rows(const tile_rows *rows, int third, float *out, int64_t pitch,
                                  int inside)
{
    const int is_all = third == NN_WINO_ALL;

    if (third == 0 || is_all) {
        input_end(rows, 0, out, pitch, inside);
        input_end(rows, 1, out + (is_all ? (IN - 1) * IN : IN) * pitch, pitch, inside);
    }
    if (third == 1 || is_all) {
        input_pair(rows, NN_WINO_A, NN_WINO_B, out + (is_all ? IN : 0) * pitch, pitch, inside);
    }
    if (third == 2 || is_all) {
        input_pair(rows, NN_WINO_B, NN_WINO_A, out + (is_all ? 3 * IN : 0) * pitch, pitch, inside);
    }
}

void nn_wino_input(const float *plane, const nn_wino_run *run, const nn_wino_blocks *blocks,
                   int third, float *out, int64_t pitch)
{
    for (int64_t i = 0; i < run->n;) {
        tile_rows rows = cut_run(plane, run, i, IN);
        for (int64_t j = 0; j < blocks->n; j++) {
            if (j + 1 < blocks->n) fetch_next_block(&rows, IN);
            for (int v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
                float *const to = out + j * blocks->pitch + i * NN_CPU_BLOCK + v;
                if (rows.is_inside) {
                    input_rows(&rows, third, to, pitch, 1);
                } else {
                    input_rows(&rows, third, to, pitch, 0);
                }
                next_vec(&rows, IN);
            }
            next_block(&rows, IN);
        }
        i += rows.n;
    }
}

/* Where and how a run of tiles of y is written: nn_conv_epilogue. */
typedef struct output_rows {
    nn_vec bias, mean, scale, shift;
    float *y;
    const float *residual; /* of y[0]; NULL: none */
    int has_norm, is_relu;
    int64_t row_pitch;
    int64_t n;              /* tiles */
    int64_t n_rows, n_cols; /* of each that exist */
} output_rows;

/* What a loop over tiles does besides; constant where it is called. */
typedef struct output_form {
    int inside, accumulate, has_tail; /* more than a bias */
} output_form;

CVY_INLINE_ALWAYS nn_vec with_tail(const output_rows *rows, const float *at, nn_vec value)
{
    if (rows->has_norm) value = (value - rows->mean) * rows->scale + rows->shift;
    if (rows->residual != NULL) value += nn_vec_load(rows->residual + (at - rows->y));
    /* A NaN stays one: NaN <= 0 is false. */
    return rows->is_relu ? nn_vec_where(~(nn_mask)(value <= nn_vec_all(0.0f)), value) : value;
}

CVY_INLINE_ALWAYS void store_output_row(const output_rows *rows, float *y, int row,
                                        output_form form, const nn_vec t[IN])
{
    nn_vec out[OUT];

    if (!form.inside && row >= rows->n_rows) return;
    nn_wino_output_line(t, out);
    CVY_UNROLL(4) for (int j = 0; j < OUT; j++)
    {
        float *at = y + row * rows->row_pitch + j * NN_CPU_BLOCK;
        if (!form.inside && j >= rows->n_cols) continue;
        out[j] += rows->bias;
        if (form.has_tail) out[j] = with_tail(rows, at, out[j]);
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
        nn_vec first[IN], second[IN];
        CVY_UNROLL(6) for (int j = 0; j < IN; j++)
        {
            const float *at = m + j * pitch;
            const nn_vec sum_a = nn_vec_load(at + IN * pitch) + nn_vec_load(at + 2 * IN * pitch);
            const nn_vec sum_b = nn_vec_load(at + 3 * IN * pitch) +
                                 nn_vec_load(at + 4 * IN * pitch);
            first[j] = nn_vec_load(at) + sum_a + sum_b;
            second[j] = nn_vec_times(NN_WINO_A2, sum_a) + nn_vec_times(NN_WINO_B2, sum_b);
        }
        store_output_row(rows, y, 0, form, first);
        store_output_row(rows, y, 2, form, second);
        m += NN_CPU_BLOCK;
        y += OUT * NN_CPU_BLOCK;
    }
}

/* Odd rows, from differences. */
CVY_INLINE_ALWAYS void output_odd(const float *m, int64_t pitch, const output_rows *rows,
                                  output_form form)
{
    float *y = rows->y;

    for (int64_t i = 0; i < rows->n; i++) {
        nn_vec first[IN], second[IN];
        CVY_UNROLL(6) for (int j = 0; j < IN; j++)
        {
            const float *at = m + j * pitch;
            const nn_vec difference_a = nn_vec_load(at + IN * pitch) -
                                        nn_vec_load(at + 2 * IN * pitch);
            const nn_vec difference_b = nn_vec_load(at + 3 * IN * pitch) -
                                        nn_vec_load(at + 4 * IN * pitch);
            first[j] = nn_vec_times(NN_WINO_A, difference_a) +
                       nn_vec_times(NN_WINO_B, difference_b);
            second[j] = nn_vec_load(at + 5 * IN * pitch) + nn_vec_times(NN_WINO_B3, difference_b) +
                        nn_vec_times(NN_WINO_A3, difference_a);
        }
        store_output_row(rows, y, 1, form, first);
        store_output_row(rows, y, 3, form, second);
        m += NN_CPU_BLOCK;
        y += OUT * NN_CPU_BLOCK;
    }
}

static void output_inside(const float *m, int64_t pitch, const output_rows *rows)
{
    output_even(m, pitch, rows, (output_form){.inside = 1});
    output_odd(m, pitch, rows, (output_form){.inside = 1});
}

static void output_inside_add(const float *m, int64_t pitch, const output_rows *rows)
{
    output_even(m, pitch, rows, (output_form){.inside = 1, .accumulate = 1});
    output_odd(m, pitch, rows, (output_form){.inside = 1, .accumulate = 1});
}

static void output_inside_tail(const float *m, int64_t pitch, const output_rows *rows)
{
    output_even(m, pitch, rows, (output_form){.inside = 1, .has_tail = 1});
    output_odd(m, pitch, rows, (output_form){.inside = 1, .has_tail = 1});
}

static int has_tail(const output_rows *rows)
{
    return rows->has_norm || rows->residual != NULL || rows->is_relu;
}

static void output_border(const float *m, int64_t pitch, const output_rows *rows, int accumulate)
{
    const output_form form = {.accumulate = accumulate, .has_tail = has_tail(rows)};

    output_even(m, pitch, rows, form);
    output_odd(m, pitch, rows, form);
}

static void output_whole(const float *m, int64_t pitch, const output_rows *rows, int accumulate)
{
    if (rows->n_rows < OUT || (accumulate && has_tail(rows))) {
        output_border(m, pitch, rows, accumulate);
    } else if (accumulate) {
        output_inside_add(m, pitch, rows);
    } else if (has_tail(rows)) {
        output_inside_tail(m, pitch, rows);
    } else {
        output_inside(m, pitch, rows);
    }
}

static nn_vec load_or_0(const float *values, int at)
{
    return values != NULL ? nn_vec_load(values + at) : nn_vec_all(0.0f);
}

void nn_wino_output(const float *m, int64_t pitch, const nn_conv_epilogue *epilogue, int accumulate,
                    float *plane, const nn_wino_run *run)
{
    const int64_t n_whole = nn_cpu_least(run->n, (run->w - run->col) / OUT);
    const int64_t whole_floats = n_whole * OUT * NN_CPU_BLOCK;

    for (int v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
        const int64_t at = (run->row * run->w + run->col) * NN_CPU_BLOCK + v;
        output_rows rows = {
            .bias = load_or_0(epilogue->bias, v),
            .mean = load_or_0(epilogue->mean, v),
            .scale = load_or_0(epilogue->scale, v),
            .shift = load_or_0(epilogue->shift, v),
            .has_norm = epilogue->mean != NULL,
            .y = plane + at,
            .residual = epilogue->residual != NULL ? epilogue->residual + at : NULL,
            .is_relu = epilogue->is_relu,
            .row_pitch = run->w * NN_CPU_BLOCK,
            .n = n_whole,
            .n_rows = nn_cpu_least(OUT, run->h - run->row),
            .n_cols = OUT,
        };
        output_whole(m + v, pitch, &rows, accumulate);
        if (n_whole == run->n) continue;
        rows.n = 1;
        rows.n_cols = run->w - run->col - n_whole * OUT;
        rows.y += whole_floats;
        if (rows.residual != NULL) rows.residual += whole_floats;
        output_border(m + v + n_whole * NN_CPU_BLOCK, pitch, &rows, accumulate);
    }
}

CVY_INLINE_ALWAYS void store_adjoint_row(const nn_vec t[OUT], float *out, int64_t pitch)
{
    nn_vec v[IN];

    nn_wino_output_adjoint_line(t, v);
    CVY_UNROLL(6) for (int j = 0; j < IN; j++) nn_vec_store(out + j * pitch, v[j]);
}

CVY_INLINE_ALWAYS void adjoint_pair(const tile_rows *rows, float point, float *out, int64_t pitch,
                                    int inside)
{
    const float *y0 = rows->row[0], *y1 = rows->row[1], *y2 = rows->row[2], *y3 = rows->row[3];

    for (int64_t i = 0; i < rows->n; i++) {
        nn_vec plus[OUT], minus[OUT];
        CVY_UNROLL(4) for (int j = 0; j < OUT; j++)
        {
            const nn_vec even = pixel(rows, y0, j, inside) +
                                nn_vec_times(point * point, pixel(rows, y2, j, inside));
            const nn_vec odd = nn_vec_times(point, pixel(rows, y1, j, inside)) +
                               nn_vec_times(point * point * point, pixel(rows, y3, j, inside));
            plus[j] = even + odd;
            minus[j] = even - odd;
        }
        store_adjoint_row(plus, out, pitch);
        store_adjoint_row(minus, out + IN * pitch, pitch);
        y0 += OUT * NN_CPU_BLOCK;
        y1 += OUT * NN_CPU_BLOCK;
        y2 += OUT * NN_CPU_BLOCK;
        y3 += OUT * NN_CPU_BLOCK;
        out += NN_CPU_BLOCK;
    }
}

CVY_INLINE_ALWAYS void adjoint_end(const tile_rows *rows, int row, float *out, int64_t pitch,
                                   int inside)
{
    const float *y = rows->row[row];

    for (int64_t i = 0; i < rows->n; i++) {
        nn_vec t[OUT];
        CVY_UNROLL(4) for (int j = 0; j < OUT; j++) t[j] = pixel(rows, y, j, inside);
        store_adjoint_row(t, out, pitch);
        y += OUT * NN_CPU_BLOCK;
        out += NN_CPU_BLOCK;
    }
}

CVY_INLINE_ALWAYS void adjoint_rows(const tile_rows *rows, int third, float *out, int64_t pitch,
                                    int inside)
{
    const int is_all = third == NN_WINO_ALL;

    if (third == 0 || is_all) {
        adjoint_end(rows, 0, out, pitch, inside);
        adjoint_end(rows, OUT - 1, out + (is_all ? (IN - 1) * IN : IN) * pitch, pitch, inside);
    }
    if (third == 1 || is_all) {
        adjoint_pair(rows, NN_WINO_A, out + (is_all ? IN : 0) * pitch, pitch, inside);
    }
    if (third == 2 || is_all) {
        adjoint_pair(rows, NN_WINO_B, out + (is_all ? 3 * IN : 0) * pitch, pitch, inside);
    }
}

void nn_wino_output_adjoint(const float *plane, const nn_wino_run *run,
                            const nn_wino_blocks *blocks, int third, float *out, int64_t pitch)
{
    for (int64_t i = 0; i < run->n;) {
        tile_rows rows = cut_run(plane, run, i, OUT);
        for (int64_t j = 0; j < blocks->n; j++) {
            if (j + 1 < blocks->n) fetch_next_block(&rows, OUT);
            for (int v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
                float *const to = out + j * blocks->pitch + i * NN_CPU_BLOCK + v;
                if (rows.is_inside) {
                    adjoint_rows(&rows, third, to, pitch, 1);
                } else {
                    adjoint_rows(&rows, third, to, pitch, 0);
                }
                next_vec(&rows, OUT);
            }
            next_block(&rows, OUT);
        }
        i += rows.n;
    }
}

void nn_wino_filter(const float *filter, float *out, int64_t pitch)
{
    for (int lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
        nn_vec t[3][IN];
        for (int i = 0; i < 3; i++) {
            nn_vec g[3];
            for (int j = 0; j < 3; j++) {
                g[j] = nn_vec_load(filter + (i * 3 + j) * NN_CPU_BLOCK + lane);
            }
            nn_wino_filter_line(g, t[i]);
        }
        for (int j = 0; j < IN; j++) {
            const nn_vec column[3] = {t[0][j], t[1][j], t[2][j]};
            nn_vec u[IN];
            nn_wino_filter_line(column, u);
            for (int i = 0; i < IN; i++) nn_vec_store(out + (i * IN + j) * pitch + lane, u[i]);
        }
    }
}

void nn_wino_filter_adjoint(const float *sum, int64_t pitch, float *out)
{
    for (int lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
        nn_vec t[3][IN];
        for (int j = 0; j < IN; j++) {
            nn_vec column[IN], s[3];
            for (int i = 0; i < IN; i++) column[i] = nn_vec_load(sum + (i * IN + j) * pitch + lane);
            nn_wino_filter_adjoint_line(column, s);
            for (int i = 0; i < 3; i++) t[i][j] = s[i];
        }
        for (int i = 0; i < 3; i++) {
            nn_vec g[3];
            nn_wino_filter_adjoint_line(t[i], g);
            for (int j = 0; j < 3; j++) {
                nn_vec_store(out + (i * 3 + j) * NN_CPU_BLOCK + lane, g[j]);
            }
        }
    }
}
