#include "nn/backends/cpu/pool2d_blocks_internal.h"

#include "nn/backends/cpu/layout_internal.h"

#include <string.h>

/* Planes (a block of channels of an image) are independent: a chunk is some of them. */
typedef struct pooling {
    const nn_pool2d_geom *geom;
    int64_t planes_per_chunk;
    const float *from; /* x, or dy */
    float *to;         /* y, or dx */
    int32_t *argmax;
    const int32_t *chosen;
    int accumulate;
} pooling;

static void run_planes(nn_backend *backend, cvy_pool_task task, pooling *pool)
{
    const nn_pool2d_geom *geom = pool->geom;
    const int64_t n = geom->n * nn_cpu_blocks(geom->c);

    pool->planes_per_chunk = nn_cpu_most(1, NN_CPU_CHUNK / (geom->h * geom->w * NN_CPU_BLOCK));
    nn_cpu_run(backend, nn_cpu_div_up(n, pool->planes_per_chunk), task, pool);
}

static nn_cpu_span planes_of(const pooling *pool, int64_t chunk_idx)
{
    return nn_cpu_part(pool->geom->n * nn_cpu_blocks(pool->geom->c), pool->planes_per_chunk,
                       chunk_idx);
}

/* Places [first, first + n) of an axis that window idx covers. */
static nn_cpu_span window_at(int64_t idx, int64_t stride, int64_t pad, int64_t size, int64_t extent)
{
    const int64_t low = idx * stride - pad, first = low > 0 ? low : 0;
    const int64_t end = low + size < extent ? low + size : extent;

    return (nn_cpu_span){first, end - first};
}

static nn_cpu_span rows_at(const nn_pool2d_geom *geom, int64_t p)
{
    return window_at(p, geom->stride_h, geom->pad_h, geom->r, geom->h);
}

static nn_cpu_span cols_at(const nn_pool2d_geom *geom, int64_t q)
{
    return window_at(q, geom->stride_w, geom->pad_w, geom->s, geom->w);
}

/* --- Maximum ------------------------------------------------------------------------------------
 */

/* corner: the window's first place; y, argmax: of one pixel. */
CVY_INLINE_ALWAYS void max_of_places(const float *plane, int64_t width, int64_t corner,
                                     int64_t n_rows, int64_t n_cols, float *y, int32_t *argmax)
{
    for (int v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
        nn_vec_max best = {nn_vec_load(plane + corner * NN_CPU_BLOCK + v),
                           (nn_mask){0} + (int32_t)corner};
        for (int64_t row = 0; row < n_rows; row++) {
            const int64_t first = corner + row * width;
            const float *x = plane + first * NN_CPU_BLOCK + v;
            for (int64_t col = 0; col < n_cols; col++) {
                best = nn_vec_greater(best, nn_vec_load(x + col * NN_CPU_BLOCK),
                                      (nn_mask){0} + (int32_t)(first + col));
            }
        }
        nn_vec_store(y + v, best.value);
        memcpy(argmax + v, &best.place, sizeof best.place);
    }
}

/* The windows that nets use have code of their own, without loops. */
static void max_of_window(const nn_pool2d_geom *geom, const float *plane, nn_cpu_span rows,
                          nn_cpu_span cols, float *y, int32_t *argmax)
{
    const int64_t corner = rows.first * geom->w + cols.first;

    if (rows.n == 3 && cols.n == 3) {
        max_of_places(plane, geom->w, corner, 3, 3, y, argmax);
    } else if (rows.n == 2 && cols.n == 2) {
        max_of_places(plane, geom->w, corner, 2, 2, y, argmax);
    } else {
        max_of_places(plane, geom->w, corner, rows.n, cols.n, y, argmax);
    }
}

static void maxpool_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const pooling *pool = arg;
    const nn_pool2d_geom *geom = pool->geom;
    const nn_cpu_span planes = planes_of(pool, chunk_idx);

    (void)thread_idx;
    for (int64_t i = planes.first; i < planes.first + planes.n; i++) {
        const float *plane = pool->from + i * geom->h * geom->w * NN_CPU_BLOCK;
        int64_t at = i * geom->p * geom->q * NN_CPU_BLOCK;
        for (int64_t p = 0; p < geom->p; p++) {
            const nn_cpu_span rows = rows_at(geom, p);
            for (int64_t q = 0; q < geom->q; q++) {
                max_of_window(geom, plane, rows, cols_at(geom, q), pool->to + at,
                              pool->argmax + at);
                at += NN_CPU_BLOCK;
            }
        }
    }
}

void nn_cpu_maxpool_blocks_forward(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                   float *y, int32_t *argmax)
{
    run_planes(backend, maxpool_chunk,
               &(pooling){.geom = geom, .from = x, .to = y, .argmax = argmax});
}

static void clear_planes(const pooling *pool, nn_cpu_span planes)
{
    const int64_t size = pool->geom->h * pool->geom->w * NN_CPU_BLOCK;

    if (pool->accumulate) return;
    memset(pool->to + planes.first * size, 0, (size_t)(planes.n * size) * sizeof(float));
}

static void maxpool_backward_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const pooling *pool = arg;
    const nn_pool2d_geom *geom = pool->geom;
    const int64_t n_out = geom->p * geom->q * NN_CPU_BLOCK;
    const nn_cpu_span planes = planes_of(pool, chunk_idx);

    (void)thread_idx;
    clear_planes(pool, planes);
    for (int64_t i = planes.first; i < planes.first + planes.n; i++) {
        float *restrict dx = pool->to + i * geom->h * geom->w * NN_CPU_BLOCK;
        const float *restrict dy = pool->from + i * n_out;
        const int32_t *restrict chosen = pool->chosen + i * n_out;
        for (int64_t j = 0; j < n_out; j += NN_CPU_BLOCK) {
            for (int c = 0; c < NN_CPU_BLOCK; c++) {
                dx[(int64_t)chosen[j + c] * NN_CPU_BLOCK + c] += dy[j + c];
            }
        }
    }
}

void nn_cpu_maxpool_blocks_backward(nn_backend *backend, const nn_pool2d_geom *geom,
                                    const float *dy, const int32_t *argmax, float *dx,
                                    int accumulate)
{
    run_planes(
        backend, maxpool_backward_chunk,
        &(pooling){.geom = geom, .from = dy, .to = dx, .chosen = argmax, .accumulate = accumulate});
}

/* --- Mean ---------------------------------------------------------------------------------------
 */

static double share_of(const nn_pool2d_geom *geom, nn_cpu_span rows, nn_cpu_span cols)
{
    return 1.0 / (double)(geom->count_include_pad ? geom->r * geom->s : rows.n * cols.n);
}

/* Rows are summed in float, and added up in double. */
static void mean_of_window(const nn_pool2d_geom *geom, const float *plane, nn_cpu_span rows,
                           nn_cpu_span cols, float *y)
{
    const double share = share_of(geom, rows, cols);
    double sum[NN_CPU_BLOCK] = {0.0};

    for (int64_t row = rows.first; row < rows.first + rows.n; row++) {
        const float *x = plane + (row * geom->w + cols.first) * NN_CPU_BLOCK;
        float lanes[NN_CPU_BLOCK] = {0.0f};
        for (int64_t col = 0; col < cols.n; col++) {
            for (int c = 0; c < NN_CPU_BLOCK; c++) lanes[c] += x[col * NN_CPU_BLOCK + c];
        }
        for (int c = 0; c < NN_CPU_BLOCK; c++) sum[c] += (double)lanes[c];
    }
    for (int c = 0; c < NN_CPU_BLOCK; c++) y[c] = (float)(sum[c] * share);
}

static void avgpool_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const pooling *pool = arg;
    const nn_pool2d_geom *geom = pool->geom;
    const nn_cpu_span planes = planes_of(pool, chunk_idx);

    (void)thread_idx;
    for (int64_t i = planes.first; i < planes.first + planes.n; i++) {
        const float *plane = pool->from + i * geom->h * geom->w * NN_CPU_BLOCK;
        float *y = pool->to + i * geom->p * geom->q * NN_CPU_BLOCK;
        for (int64_t p = 0; p < geom->p; p++) {
            const nn_cpu_span rows = rows_at(geom, p);
            for (int64_t q = 0; q < geom->q; q++) {
                mean_of_window(geom, plane, rows, cols_at(geom, q), y);
                y += NN_CPU_BLOCK;
            }
        }
    }
}

void nn_cpu_avgpool_blocks_forward(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                   float *y)
{
    run_planes(backend, avgpool_chunk, &(pooling){.geom = geom, .from = x, .to = y});
}

static void spread_window(const nn_pool2d_geom *geom, nn_cpu_span rows, nn_cpu_span cols,
                          const float *restrict dy, float *restrict plane)
{
    const float share = (float)share_of(geom, rows, cols);

    for (int64_t row = rows.first; row < rows.first + rows.n; row++) {
        float *to = plane + (row * geom->w + cols.first) * NN_CPU_BLOCK;
        for (int64_t col = 0; col < cols.n; col++) {
            for (int c = 0; c < NN_CPU_BLOCK; c++) to[col * NN_CPU_BLOCK + c] += dy[c] * share;
        }
    }
}

static void avgpool_backward_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const pooling *pool = arg;
    const nn_pool2d_geom *geom = pool->geom;
    const nn_cpu_span planes = planes_of(pool, chunk_idx);

    (void)thread_idx;
    clear_planes(pool, planes);
    for (int64_t i = planes.first; i < planes.first + planes.n; i++) {
        float *plane = pool->to + i * geom->h * geom->w * NN_CPU_BLOCK;
        const float *dy = pool->from + i * geom->p * geom->q * NN_CPU_BLOCK;
        for (int64_t p = 0; p < geom->p; p++) {
            const nn_cpu_span rows = rows_at(geom, p);
            for (int64_t q = 0; q < geom->q; q++) {
                spread_window(geom, rows, cols_at(geom, q), dy, plane);
                dy += NN_CPU_BLOCK;
            }
        }
    }
}

void nn_cpu_avgpool_blocks_backward(nn_backend *backend, const nn_pool2d_geom *geom,
                                    const float *dy, float *dx, int accumulate)
{
    run_planes(backend, avgpool_backward_chunk,
               &(pooling){.geom = geom, .from = dy, .to = dx, .accumulate = accumulate});
}
