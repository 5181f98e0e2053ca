#include "nn/backends/cpu/cpu_internal.h"
#include "nn/backends/cpu/dense_direct_internal.h"

/* Three matrix products, each cut into blocks of a fixed number of weight rows or columns; small
 * ones are cut by rows alone, and done without BLAS. */
enum { BLOCK_K = 64, BLOCK_C = 256, BLOCK_N = 256 };

typedef struct dense_pass {
    int64_t n, c, k;
    const float *x, *weight, *bias, *dy;
    float *y, *dx, *dweight, *dbias;
    int accumulate;
    int64_t rows_per_chunk; /* of a small product */
} dense_pass;

/* Chunks: blocks of outputs within blocks of images. */
static void forward_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const dense_pass *pass = arg;
    const int64_t n_blocks = nn_cpu_div_up(pass->k, BLOCK_K), c = pass->c;
    const nn_cpu_span rows = nn_cpu_part(pass->n, BLOCK_N, chunk_idx / n_blocks);
    const nn_cpu_span cols = nn_cpu_part(pass->k, BLOCK_K, chunk_idx % n_blocks);
    float *y = pass->y + rows.first * pass->k + cols.first;

    (void)thread_idx;
    for (int64_t row = 0; pass->bias != NULL && row < rows.n; row++) {
        for (int64_t col = 0; col < cols.n; col++) {
            y[row * pass->k + col] = pass->bias[cols.first + col];
        }
    }
    nn_cpu_gemm(rows.n, cols.n, c, (nn_cpu_matrix){pass->x + rows.first * c, c, 0},
                (nn_cpu_matrix){pass->weight + cols.first * c, c, 1},
                pass->bias != NULL ? 1.0f : 0.0f, y, pass->k);
}

/* Chunks: images. */
static void small_forward_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const dense_pass *pass = arg;
    const nn_cpu_span rows = nn_cpu_part(pass->n, pass->rows_per_chunk, chunk_idx);

    (void)thread_idx;
    nn_dense_direct_forward(rows.n, pass->c, pass->k, pass->x + rows.first * pass->c, pass->weight,
                            pass->bias, pass->y + rows.first * pass->k);
}

cvy_status nn_cpu_dense_forward(nn_backend *backend, int64_t n, int64_t c, int64_t k,
                                const float *x, const float *weight, const float *bias, float *y)
{
    dense_pass pass = {.n = n, .c = c, .k = k, .x = x, .weight = weight, .bias = bias, .y = y};

    if (nn_dense_direct_fits(c, k)) {
        pass.rows_per_chunk = nn_dense_direct_rows(c * k);
        nn_cpu_run(backend, nn_cpu_div_up(n, pass.rows_per_chunk), small_forward_chunk, &pass);
        return CVY_OK;
    }
    nn_cpu_run(backend, nn_cpu_div_up(n, BLOCK_N) * nn_cpu_div_up(k, BLOCK_K), forward_chunk,
               &pass);
    return CVY_OK;
}

/* dx (n, c) = dy (n, k) weight (k, c), by columns. */
static void input_gradient_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const dense_pass *pass = arg;
    const int64_t n_blocks = nn_cpu_div_up(pass->c, BLOCK_C);
    const nn_cpu_span rows = nn_cpu_part(pass->n, BLOCK_N, chunk_idx / n_blocks);
    const nn_cpu_span cols = nn_cpu_part(pass->c, BLOCK_C, chunk_idx % n_blocks);

    (void)thread_idx;
    nn_cpu_gemm(
        rows.n, cols.n, pass->k, (nn_cpu_matrix){pass->dy + rows.first * pass->k, pass->k, 0},
        (nn_cpu_matrix){pass->weight + cols.first, pass->c, 0}, pass->accumulate ? 1.0f : 0.0f,
        pass->dx + rows.first * pass->c + cols.first, pass->c);
}

/* Chunks: images. */
static void small_input_gradient_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const dense_pass *pass = arg;
    const nn_cpu_span rows = nn_cpu_part(pass->n, pass->rows_per_chunk, chunk_idx);
    const nn_dense_factor dy = {pass->dy + rows.first * pass->k, pass->k, 1};

    (void)thread_idx;
    nn_dense_direct_product(rows.n, pass->k, pass->c, dy, pass->weight,
                            pass->dx + rows.first * pass->c, pass->accumulate);
}

/* Of some outputs, images in order. */
static void bias_gradient(const dense_pass *pass, nn_cpu_span rows)
{
    enum { RUN = 32 };

    for (int64_t first = 0; pass->dbias != NULL && first < rows.n; first += RUN) {
        const nn_cpu_span run = {rows.first + first, nn_cpu_least(RUN, rows.n - first)};
        const float *dy = pass->dy + run.first;
        double sum[RUN] = {0.0};
        for (int64_t n = 0; n < pass->n; n++) {
            for (int64_t i = 0; i < run.n; i++) sum[i] += (double)dy[n * pass->k + i];
        }
        for (int64_t i = 0; i < run.n; i++) pass->dbias[run.first + i] = (float)sum[i];
    }
}

/* Chunks: outputs. */
static void small_weight_gradient_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const dense_pass *pass = arg;
    const nn_cpu_span rows = nn_cpu_part(pass->k, pass->rows_per_chunk, chunk_idx);
    const nn_dense_factor dy = {pass->dy + rows.first, 1, pass->k};

    (void)thread_idx;
    if (pass->dweight != NULL) {
        nn_dense_direct_product(rows.n, pass->n, pass->c, dy, pass->x,
                                pass->dweight + rows.first * pass->c, 0);
    }
    bias_gradient(pass, rows);
}

static void small_backward(nn_backend *backend, dense_pass *pass)
{
    if (pass->dx != NULL) {
        pass->rows_per_chunk = nn_dense_direct_rows(pass->c * pass->k);
        nn_cpu_run(backend, nn_cpu_div_up(pass->n, pass->rows_per_chunk),
                   small_input_gradient_chunk, pass);
    }
    if (pass->dweight == NULL && pass->dbias == NULL) return;
    pass->rows_per_chunk = nn_dense_direct_rows(pass->c * pass->n);
    nn_cpu_run(backend, nn_cpu_div_up(pass->k, pass->rows_per_chunk), small_weight_gradient_chunk,
               pass);
}

/* dweight (k, c) = dy^T (k, n) x (n, c), by rows; dbias of the same rows. */
static void weight_gradient_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const dense_pass *pass = arg;
    const nn_cpu_span rows = nn_cpu_part(pass->k, BLOCK_K, chunk_idx);

    (void)thread_idx;
    if (pass->dweight != NULL) {
        nn_cpu_gemm(rows.n, pass->c, pass->n, (nn_cpu_matrix){pass->dy + rows.first, pass->k, 1},
                    (nn_cpu_matrix){pass->x, pass->c, 0}, 0.0f,
                    pass->dweight + rows.first * pass->c, pass->c);
    }
    bias_gradient(pass, rows);
}

cvy_status nn_cpu_dense_backward(nn_backend *backend, int64_t n, int64_t c, int64_t k,
                                 const float *x, const float *weight, const float *dy, float *dx,
                                 int accumulate, float *dweight, float *dbias)
{
    dense_pass pass = {.n = n,
                       .c = c,
                       .k = k,
                       .x = x,
                       .weight = weight,
                       .dy = dy,
                       .dx = dx,
                       .dweight = dweight,
                       .dbias = dbias,
                       .accumulate = accumulate};

    if (nn_dense_direct_fits(c, k)) {
        small_backward(backend, &pass);
        return CVY_OK;
    }
    if (dx != NULL) {
        nn_cpu_run(backend, nn_cpu_div_up(n, BLOCK_N) * nn_cpu_div_up(c, BLOCK_C),
                   input_gradient_chunk, &pass);
    }
    if (dweight != NULL || dbias != NULL) {
        nn_cpu_run(backend, nn_cpu_div_up(k, BLOCK_K), weight_gradient_chunk, &pass);
    }
    return CVY_OK;
}
