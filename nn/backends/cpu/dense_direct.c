#include "nn/backends/cpu/dense_direct_internal.h"

#include "nn/backends/cpu/simd_internal.h"

#include <string.h>

enum {
    MOST_WEIGHTS = 65536,    /* 256 KiB */
    CHUNK_PRODUCTS = 100000, /* some microseconds: a few times what it takes to wake a thread */
    CHUNK_ROWS = 16
};

int nn_dense_direct_fits(int64_t c, int64_t k)
{
    return c <= MOST_WEIGHTS && k <= MOST_WEIGHTS && c * k <= MOST_WEIGHTS;
}

int64_t nn_dense_direct_rows(int64_t products_per_row)
{
    const int64_t n = nn_cpu_div_up(CHUNK_PRODUCTS, nn_cpu_most(1, products_per_row));

    return nn_cpu_div_up(n, CHUNK_ROWS) * CHUNK_ROWS;
}

/* --- y = x weight^T: both run along c, so the lanes of a sum do too -----------------------------
 */

/* A tile has as many sums as a vector has lanes, which are then added up together. */
enum { DOT_COLS = NN_VEC_LANES == 4 ? 2 : 4, DOT_ROWS = NN_VEC_LANES / DOT_COLS };

CVY_INLINE_ALWAYS void add_dots(const float *const x[DOT_ROWS], const float *const w[DOT_COLS],
                                int64_t at, int n, nn_vec sum[NN_VEC_LANES])
{
    nn_vec a[DOT_ROWS];

    CVY_UNROLL(8) for (int row = 0; row < DOT_ROWS; row++)
    {
        a[row] = n == NN_VEC_LANES ? nn_vec_load(x[row] + at) : nn_vec_load_part(x[row] + at, n);
        CVY_KEEP_VECTOR(a[row]);
    }
    CVY_UNROLL(8) for (int col = 0; col < DOT_COLS; col++)
    {
        nn_vec b = n == NN_VEC_LANES ? nn_vec_load(w[col] + at) : nn_vec_load_part(w[col] + at, n);
        CVY_KEEP_VECTOR(b);
        CVY_UNROLL(8) for (int row = 0; row < DOT_ROWS; row++)
        {
            sum[row * DOT_COLS + col] += a[row] * b;
        }
    }
}

/* Lane row * DOT_COLS + col. */
static nn_vec dot_tile(int64_t c, const float *const x[DOT_ROWS], const float *const w[DOT_COLS])
{
    nn_vec sum[NN_VEC_LANES];
    int64_t i = 0;

    CVY_UNROLL(16) for (int j = 0; j < NN_VEC_LANES; j++) sum[j] = nn_vec_all(0.0f);
    for (; i + NN_VEC_LANES <= c; i += NN_VEC_LANES) add_dots(x, w, i, NN_VEC_LANES, sum);
    if (i < c) add_dots(x, w, i, (int)(c - i), sum);
    return nn_vec_sums(sum);
}

void nn_dense_direct_forward(int64_t rows, int64_t c, int64_t k, const float *x,
                             const float *weight, const float *bias, float *y)
{
    const float *x_rows[DOT_ROWS], *w_rows[DOT_COLS];
    float added[DOT_COLS] = {0.0f}, dots[NN_VEC_LANES];

    for (int64_t col = 0; col < k; col += DOT_COLS) {
        const int64_t n_cols = nn_cpu_least(DOT_COLS, k - col);
        for (int64_t j = 0; j < DOT_COLS; j++) { /* past the end: the last one again, not written */
            const int64_t idx = nn_cpu_least(col + j, k - 1);
            w_rows[j] = weight + idx * c;
            if (bias != NULL) added[j] = bias[idx];
        }
        for (int64_t row = 0; row < rows; row += DOT_ROWS) {
            for (int64_t i = 0; i < DOT_ROWS; i++) {
                x_rows[i] = x + nn_cpu_least(row + i, rows - 1) * c;
            }
            nn_vec_store(dots, dot_tile(c, x_rows, w_rows));
            for (int64_t i = 0; i < DOT_ROWS && row + i < rows; i++) {
                float *to = y + (row + i) * k + col;
                for (int64_t j = 0; j < n_cols; j++) to[j] = dots[i * DOT_COLS + j] + added[j];
            }
        }
    }
}

/* --- Products whose lanes are neighbouring columns ----------------------------------------------
 */

enum { ROWS = NN_VEC_LANES == 16 ? 8 : 4, VECS = NN_VEC_LANES == 16 ? 3 : 2 };

typedef struct product {
    int64_t depth, cols;
    nn_dense_factor a;
    const float *b;
    float *out;
    int accumulate;
} product;

CVY_INLINE_ALWAYS nn_vec load_first(const float *from, int n)
{
    return n == NN_VEC_LANES ? nn_vec_load(from) : nn_vec_load_part(from, n);
}

/* n: lanes of the last vector. */
CVY_INLINE_ALWAYS void product_tile(const product *p, int64_t row, int64_t col, int n_rows,
                                    int n_vecs, int n)
{
    const float *a = p->a.at + row * p->a.row_stride, *b = p->b + col;
    float *const out = p->out + row * p->cols + col;
    nn_vec sum[ROWS][VECS];

    CVY_UNROLL(8) for (int i = 0; i < n_rows; i++)
    {
        CVY_UNROLL(8) for (int v = 0; v < n_vecs; v++) sum[i][v] = nn_vec_all(0.0f);
    }
    for (int64_t step = 0; step < p->depth; step++) {
        nn_vec x[VECS];
        CVY_UNROLL(8) for (int v = 0; v < n_vecs; v++)
        {
            x[v] = load_first(b + v * NN_VEC_LANES, v == n_vecs - 1 ? n : NN_VEC_LANES);
            CVY_KEEP_VECTOR(x[v]);
        }
        CVY_UNROLL(8) for (int i = 0; i < n_rows; i++)
        {
            const nn_vec factor = nn_vec_all(a[i * p->a.row_stride]);
            CVY_UNROLL(8) for (int v = 0; v < n_vecs; v++) sum[i][v] += factor * x[v];
        }
        a += p->a.step;
        b += p->cols;
    }
    CVY_UNROLL(8) for (int i = 0; i < n_rows; i++)
    {
        CVY_UNROLL(8) for (int v = 0; v < n_vecs; v++)
        {
            float *to = out + i * p->cols + v * NN_VEC_LANES;
            const int lanes = v == n_vecs - 1 ? n : NN_VEC_LANES;
            if (p->accumulate) sum[i][v] += load_first(to, lanes);
            if (lanes == NN_VEC_LANES) {
                nn_vec_store(to, sum[i][v]);
            } else {
                nn_vec_store_part(to, sum[i][v], lanes);
            }
        }
    }
}

/* One function per shape of tile, so that each keeps its sums in registers. */
static void tile_many(const product *p, int64_t row, int64_t col)
{
    product_tile(p, row, col, ROWS, VECS, NN_VEC_LANES);
}

static void tile_many_last(const product *p, int64_t row, int64_t col, int n)
{
    product_tile(p, row, col, ROWS, 1, n);
}

static void tile_one(const product *p, int64_t row, int64_t col)
{
    product_tile(p, row, col, 1, VECS, NN_VEC_LANES);
}

static void tile_one_last(const product *p, int64_t row, int64_t col, int n)
{
    product_tile(p, row, col, 1, 1, n);
}

void nn_dense_direct_product(int64_t rows, int64_t depth, int64_t cols, nn_dense_factor a,
                             const float *b, float *out, int accumulate)
{
    enum { WIDTH = VECS * NN_VEC_LANES };
    const product p = {
        .depth = depth, .cols = cols, .a = a, .b = b, .out = out, .accumulate = accumulate};
    int64_t col = 0;

    for (; col + WIDTH <= cols; col += WIDTH) { /* a strip of b stays in the first-level cache */
        int64_t row = 0;
        for (; row + ROWS <= rows; row += ROWS) tile_many(&p, row, col);
        for (; row < rows; row++) tile_one(&p, row, col);
    }
    for (; col < cols; col += NN_VEC_LANES) {
        const int n = (int)nn_cpu_least(NN_VEC_LANES, cols - col);
        int64_t row = 0;
        for (; row + ROWS <= rows; row += ROWS) tile_many_last(&p, row, col, n);
        for (; row < rows; row++) tile_one_last(&p, row, col, n);
    }
}
