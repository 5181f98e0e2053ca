#include "nn/backends/cpu/winograd_stem_internal.h"
#include "nn/backends/cpu/winograd_stem_lines_internal.h"

#include <string.h>

/* The input's transform, one channel and the rows of one phase after the other. Columns of the 7x7
 * are transformed first, for all columns of x at once as they lie in memory. Then rows: what tiles
 * read stands 8 floats apart, so vectors of four rows and a bunch of tiles are put together from
 * those that follow each other in memory, which is how they are stored at last. */

enum {
    IN = NN_STEM_IN,
    OUT = NN_STEM_OUT,
    FLOATS = 2 * OUT, /* of x from one tile to the next */
    BUNCH_FLOATS = FLOATS * NN_STEM_BUNCH,
    HALF_ROWS = 4,           /* of a vector */
    NEW_ROW = 2 * (IN - OUT) /* of a tile's: those before it the tile above has read */
};

static const float zeros[NN_VEC_LANES] = {0.0f};

/* What the columns read: every second row of a channel. */
typedef struct phase_rows {
    const float *row[IN];
    int64_t step[IN]; /* 0 for a row that does not exist */
    int64_t n;        /* columns that exist */
    int64_t first;    /* of them, from the first tile's corner */
} phase_rows;

static phase_rows find_rows(const nn_stem *stem, const float *plane, const nn_stem_part *part,
                            int phase)
{
    const nn_conv2d_geom *geom = &stem->geom;
    const int64_t row = part->tile_row * FLOATS + phase - geom->pad_h;
    const int64_t col = part->tile_col * FLOATS - geom->pad_w;
    const int64_t first = nn_cpu_most(0, -col);
    const int64_t end = (nn_stem_n_bunches(part) + 1) * BUNCH_FLOATS;
    phase_rows rows = {.n = nn_cpu_most(0, nn_cpu_least(geom->w - col, end) - first),
                       .first = first};

    for (int i = 0; i < IN; i++) {
        const int64_t h = row + 2 * i;
        const int exists = h >= 0 && h < geom->h && rows.n > 0;
        rows.row[i] = exists ? plane + h * geom->w + col + first : zeros;
        rows.step[i] = exists ? NN_VEC_LANES : 0;
    }
    return rows;
}

CVY_INLINE_ALWAYS void store_columns(const nn_vec x[IN], int n_rows, float *out)
{
    nn_vec t[IN];

    nn_stem_input_line(x, n_rows, t);
    CVY_UNROLL(8) for (int i = 0; i < n_rows; i++) nn_vec_store(out + i * NN_STEM_ROW_FLOATS, t[i]);
}

CVY_INLINE_ALWAYS void transform_columns(phase_rows rows, int n_rows, float *out)
{
    nn_vec x[IN];
    int64_t col = 0;

    for (; col + NN_VEC_LANES <= rows.n; col += NN_VEC_LANES) {
        CVY_UNROLL(8) for (int i = 0; i < IN; i++)
        {
            x[i] = nn_vec_load(rows.row[i]);
            rows.row[i] += rows.step[i];
        }
        store_columns(x, n_rows, out + col);
    }
    if (col == rows.n) return;
    CVY_UNROLL(8) for (int i = 0; i < IN; i++)
    {
        x[i] = nn_vec_load_part(rows.row[i], (int)(rows.n - col));
    }
    store_columns(x, n_rows, out + col);
}

/* Four rows of a bunch, by columns of x: out[m] is every FLOATS-th from column m on. */
CVY_INLINE_ALWAYS void gather(const float *const row[HALF_ROWS], int64_t at, nn_vec out[FLOATS])
{
    nn_vec by_2[2][HALF_ROWS], by_4[4][2];

    CVY_UNROLL(8) for (int i = 0; i < HALF_ROWS; i++)
    {
        const nn_vec_pair pair = nn_vec_split(nn_vec_load(row[i] + at),
                                              nn_vec_load(row[i] + at + NN_VEC_LANES));
        by_2[0][i] = pair.even;
        by_2[1][i] = pair.odd;
    }
    CVY_UNROLL(8) for (int i = 0; i < 4; i++)
    {
        const nn_vec_pair pair = nn_vec_split(by_2[i % 2][i / 2 * 2], by_2[i % 2][i / 2 * 2 + 1]);
        by_4[i % 2][i / 2] = pair.even;
        by_4[i % 2 + 2][i / 2] = pair.odd;
    }
    CVY_UNROLL(8) for (int i = 0; i < 4; i++)
    {
        const nn_vec_pair pair = nn_vec_split(by_4[i][0], by_4[i][1]);
        out[i] = pair.even;
        out[i + 4] = pair.odd;
    }
}

/* One phase of columns of a bunch: by columns of x, of this bunch and the next tile. */
CVY_INLINE_ALWAYS void store_rows(const nn_vec x[FLOATS], const nn_vec next[FLOATS], int phase,
                                  int n_cols, int64_t pitch, float *out)
{
    nn_vec line[IN], t[IN];

    CVY_UNROLL(8) for (int j = 0; j < OUT; j++) line[j] = x[2 * j + phase];
    CVY_UNROLL(8) for (int j = OUT; j < IN; j++)
    {
        const int col = 2 * (j - OUT) + phase;
        line[j] = nn_vec_rows_ahead(x[col], next[col]);
    }
    nn_stem_input_line(line, n_cols, t);
    CVY_UNROLL(8) for (int j = 0; j < n_cols; j++) nn_vec_store(out + j * pitch, t[j]);
}

/* Half of the rows of one channel and phase, for both phases of columns, the first n of theirs. */
CVY_INLINE_ALWAYS void transform_rows(const nn_stem *stem, const float *rows, int half,
                                      int64_t n_bunches, int n_even, int n_odd, float *out)
{
    const int64_t pitch = stem->n_lanes * NN_STEM_LANE_FLOATS;
    const int64_t odd_at = stem->geom.c * NN_STEM_LANE_FLOATS;
    const float *row[HALF_ROWS];
    nn_vec x[FLOATS], next[FLOATS];

    for (int i = 0; i < HALF_ROWS; i++) { /* the eighth is never read */
        const int from = half * HALF_ROWS + i;
        row[i] = rows + (from < IN ? from : IN - 1) * NN_STEM_ROW_FLOATS;
    }
    gather(row, 0, x);
    for (int64_t bunch = 0; bunch < n_bunches; bunch++) {
        gather(row, (bunch + 1) * BUNCH_FLOATS, next);
        store_rows(x, next, 0, n_even, pitch, out);
        store_rows(x, next, 1, n_odd, pitch, out + odd_at);
        CVY_UNROLL(8) for (int m = 0; m < FLOATS; m++) x[m] = next[m];
        out += IN * pitch;
    }
}

static void transform_rows_as(const nn_stem *stem, const float *rows, int half, int64_t n_bunches,
                              float *out)
{
    float *const to = out + half * NN_VEC_LANES;

    if (stem->full_w == 1) {
        transform_rows(stem, rows, half, n_bunches, IN, IN - 1, to);
    } else if (stem->full_w == 0) {
        transform_rows(stem, rows, half, n_bunches, IN - 1, IN - 1, to);
    } else {
        transform_rows(stem, rows, half, n_bunches, IN, IN, to);
    }
}

void nn_stem_input(const nn_stem *stem, const float *x, const nn_stem_part *part, float *rows,
                   float *out)
{
    const nn_conv2d_geom *geom = &stem->geom;
    const int64_t n_bunches = nn_stem_n_bunches(part);

    /* Columns outside x stay 0: those that exist are at the same place in all rows. */
    memset(rows, 0, NN_STEM_ROWS_FLOATS * sizeof *rows);
    for (int64_t c = 0; c < geom->c; c++) {
        const float *plane = x + (part->image * geom->c + c) * geom->h * geom->w;
        for (int phase = 0; phase < 2; phase++) {
            const phase_rows from = find_rows(stem, plane, part, phase);
            float *const to = out + (2 * phase * geom->c + c) * NN_STEM_LANE_FLOATS;
            if (phase < stem->full_h) {
                transform_columns(from, IN, rows + NN_CPU_BLOCK);
            } else {
                transform_columns(from, IN - 1, rows + NN_CPU_BLOCK);
            }
            for (int half = 0; half < 2; half++) {
                transform_rows_as(stem, rows + NN_CPU_BLOCK - from.first, half, n_bunches, to);
            }
        }
    }
}

nn_stem_fetch nn_stem_fetch_of(const nn_stem *stem, const float *x, const nn_stem_part *part)
{
    const nn_conv2d_geom *geom = &stem->geom;
    const int64_t first_row = part->tile_row * FLOATS - geom->pad_h;
    const int64_t row = nn_cpu_most(0, part->tile_row > 0 ? first_row + NEW_ROW : first_row);
    const int64_t end_row = nn_cpu_least(geom->h, first_row + 2 * IN);
    const int64_t col = nn_cpu_most(0, part->tile_col * FLOATS - geom->pad_w);
    const int64_t end = nn_cpu_least(geom->w, (part->tile_col + part->n_tiles + 1) * FLOATS);
    const int64_t plane_floats = geom->h * geom->w;

    return (nn_stem_fetch){.plane = x + part->image * geom->c * plane_floats + row * geom->w + col,
                           .row_floats = geom->w,
                           .plane_floats = plane_floats,
                           .n_rows = nn_cpu_most(0, end_row - row),
                           .n_lines = nn_cpu_div_up(nn_cpu_most(0, end - col), NN_CPU_BLOCK),
                           .n_planes = geom->c};
}

void nn_stem_fetch_lines(nn_stem_fetch *fetch, int64_t n)
{
    while (n > 0 && fetch->n_planes > 0) {
        const float *at = fetch->plane + fetch->row * fetch->row_floats;
        const int64_t end = nn_cpu_least(fetch->n_lines, fetch->line + n);
        n -= end - fetch->line;
        for (int64_t i = fetch->line; i < end; i++) CVY_PREFETCH_READ(at + i * NN_CPU_BLOCK);
        fetch->line = end;
        if (end < fetch->n_lines) return;
        fetch->line = 0;
        if (++fetch->row < fetch->n_rows) continue;
        fetch->row = 0;
        fetch->plane += fetch->plane_floats;
        fetch->n_planes--;
    }
}
