#include "nn/backends/cpu/cpu_internal.h"
#include "nn/backends/cpu/layout_internal.h"
#include "nn/backends/cpu/pool2d_blocks_internal.h"
#include "nn/backends/cpu/pool2d_pairs_internal.h"

#include <string.h>

/* Planes (n, c) are independent: a chunk is some planes, one or more as they are large or small.
 * Inside a plane an output row is swept once per tap of the window, so that the loops run along
 * rows. */
typedef struct pooling {
    const nn_pool2d_geom *geom;
    int64_t planes_per_chunk;
    const float *from; /* x, or dy */
    float *to;         /* y, or dx */
    int32_t *argmax;
    const int32_t *chosen; /* argmax of backward */
    int accumulate;
    int is_global; /* one window, which is the plane */
    int is_pairs;  /* 2x2 windows side by side */
} pooling;

static void run_planes(nn_backend *backend, cvy_pool_task task, pooling *pool)
{
    const nn_pool2d_geom *geom = pool->geom;

    pool->is_global = geom->p == 1 && geom->q == 1 && geom->pad_h == 0 && geom->pad_w == 0 &&
                      geom->r == geom->h && geom->s == geom->w;
    pool->is_pairs = nn_cpu_maxpool_pairs_fits(geom);
    pool->planes_per_chunk = nn_cpu_most(1, NN_CPU_CHUNK / (geom->h * geom->w));
    nn_cpu_run(backend, nn_cpu_div_up(geom->n * geom->c, pool->planes_per_chunk), task, pool);
}

/* Output columns [first, first + n) whose window has tap s inside the plane. */
static nn_cpu_span columns_of(const nn_pool2d_geom *geom, int64_t s)
{
    const int64_t first = nn_cpu_div_up(nn_cpu_most(geom->pad_w - s, 0), geom->stride_w);
    const int64_t past = geom->w + geom->pad_w - s; /* q stride_w must stay below */
    const int64_t end = past <= 0 ? 0 : nn_cpu_least(geom->q, nn_cpu_div_up(past, geom->stride_w));

    return (nn_cpu_span){first, nn_cpu_most(0, end - first)};
}

/* Rows of the plane, [first, first + n), that output row p looks at. */
static nn_cpu_span rows_of(const nn_pool2d_geom *geom, int64_t p)
{
    const int64_t top = p * geom->stride_h - geom->pad_h;
    const int64_t first = nn_cpu_most(top, 0);

    return (nn_cpu_span){first, nn_cpu_least(top + geom->r, geom->h) - first};
}

/* Where tap s of output column q reads: row[q stride_w + offset]. */
static int64_t offset_of(const nn_pool2d_geom *geom, int64_t s)
{
    return s - geom->pad_w;
}

/* A NaN beats numbers and is never beaten. */
static int beats(float value, float best)
{
    return (value > best) | ((value != value) & (best == best));
}

/* Take x where it beats the best so far. The strides that nets use have loops of their own: with a
 * constant stride the compiler loads whole vectors. */
static void take_greater(int32_t n, const float *restrict x, int32_t stride, int32_t place,
                         float *restrict best, int32_t *restrict argmax)
{
    if (stride == 1) {
        for (int32_t i = 0; i < n; i++) {
            const int is_better = beats(x[i], best[i]);
            best[i] = is_better ? x[i] : best[i];
            argmax[i] = is_better ? place + i : argmax[i];
        }
    } else if (stride == 2) {
        for (int32_t i = 0; i < n; i++) {
            const int is_better = beats(x[2 * i], best[i]);
            best[i] = is_better ? x[2 * i] : best[i];
            argmax[i] = is_better ? place + 2 * i : argmax[i];
        }
    } else {
        for (int32_t i = 0; i < n; i++) {
            const float value = x[(int64_t)i * stride];
            const int is_better = beats(value, best[i]);
            best[i] = is_better ? value : best[i];
            argmax[i] = is_better ? place + i * stride : argmax[i];
        }
    }
}

static void maxpool_row(const nn_pool2d_geom *geom, const float *plane, int64_t p, float *y,
                        int32_t *argmax)
{
    const nn_cpu_span rows = rows_of(geom, p);

    for (int64_t q = 0; q < geom->q; q++) { /* the first element of each window */
        const int64_t col = nn_cpu_most(q * geom->stride_w - geom->pad_w, 0);
        const int64_t place = rows.first * geom->w + col;
        y[q] = plane[place];
        argmax[q] = (int32_t)place;
    }
    for (int64_t row = rows.first; row < rows.first + rows.n; row++) {
        for (int64_t s = 0; s < geom->s; s++) {
            const nn_cpu_span cols = columns_of(geom, s);
            const int64_t place = row * geom->w + cols.first * geom->stride_w + offset_of(geom, s);
            if (cols.n == 0) continue;
            take_greater((int32_t)cols.n, plane + place, (int32_t)geom->stride_w, (int32_t)place,
                         y + cols.first, argmax + cols.first);
        }
    }
}

static void maxpool_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const pooling *pool = arg;
    const nn_pool2d_geom *geom = pool->geom;
    const nn_cpu_span span = nn_cpu_part(geom->n * geom->c, pool->planes_per_chunk, chunk_idx);

    (void)thread_idx;
    for (int64_t i = span.first; i < span.first + span.n; i++) {
        if (pool->is_pairs) {
            const int64_t at = i * geom->p * geom->q;
            nn_cpu_maxpool_pairs_forward(geom, pool->from + i * geom->h * geom->w, pool->to + at,
                                         pool->argmax + at);
            continue;
        }
        for (int64_t p = 0; p < geom->p; p++) {
            const int64_t at = (i * geom->p + p) * geom->q;
            maxpool_row(geom, pool->from + i * geom->h * geom->w, p, pool->to + at,
                        pool->argmax + at);
        }
    }
}

cvy_status nn_cpu_maxpool2d_forward(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                    float *y, int32_t *argmax)
{
    if (nn_cpu_is_blocked(geom->c)) {
        nn_cpu_maxpool_blocks_forward(backend, geom, x, y, argmax);
        return CVY_OK;
    }
    run_planes(backend, maxpool_chunk,
               &(pooling){.geom = geom, .from = x, .to = y, .argmax = argmax});
    return CVY_OK;
}

static void clear_planes(const pooling *pool, nn_cpu_span planes)
{
    const int64_t size = pool->geom->h * pool->geom->w;

    memset(pool->to + planes.first * size, 0, (size_t)(planes.n * size) * sizeof(float));
}

static void maxpool_backward_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const pooling *pool = arg;
    const nn_pool2d_geom *geom = pool->geom;
    const int64_t n_out = geom->p * geom->q;
    const nn_cpu_span span = nn_cpu_part(geom->n * geom->c, pool->planes_per_chunk, chunk_idx);

    (void)thread_idx;
    if (!pool->accumulate && !pool->is_pairs) clear_planes(pool, span);
    for (int64_t i = span.first; i < span.first + span.n; i++) {
        float *restrict dx = pool->to + i * geom->h * geom->w;
        const float *restrict dy = pool->from + i * n_out;
        const int32_t *restrict chosen = pool->chosen + i * n_out;
        if (pool->is_pairs) {
            nn_cpu_maxpool_pairs_backward(geom, dy, chosen, dx, pool->accumulate);
            continue;
        }
        for (int64_t j = 0; j < n_out; j++) dx[chosen[j]] += dy[j];
    }
}

cvy_status nn_cpu_maxpool2d_backward(nn_backend *backend, const nn_pool2d_geom *geom,
                                     const float *dy, const int32_t *argmax, float *dx,
                                     int accumulate)
{
    if (nn_cpu_is_blocked(geom->c)) {
        nn_cpu_maxpool_blocks_backward(backend, geom, dy, argmax, dx, accumulate);
        return CVY_OK;
    }
    run_planes(
        backend, maxpool_backward_chunk,
        &(pooling){.geom = geom, .from = dy, .to = dx, .chosen = argmax, .accumulate = accumulate});
    return CVY_OK;
}

/* scale[i] = 1 / (elements that the average at column first + i counts). */
static void find_shares(const nn_pool2d_geom *geom, nn_cpu_span rows, nn_cpu_span cols,
                        float *scale)
{
    const int64_t n_rows = geom->count_include_pad ? geom->r : rows.n;
    const float whole = (float)(1.0 / (double)(n_rows * geom->s));

    for (int64_t i = 0; i < cols.n; i++) {
        const int64_t left = (cols.first + i) * geom->stride_w - geom->pad_w;
        const int64_t end = left + geom->s;
        scale[i] = whole;
        if (!geom->count_include_pad && (left < 0 || end > geom->w)) {
            const int64_t n_cols = nn_cpu_least(end, geom->w) - nn_cpu_most(left, 0);
            scale[i] = (float)(1.0 / (double)(n_rows * n_cols));
        }
    }
}

/* Columns of an output row that are averaged at once. */
enum { BLOCK = 256 };

/* Columns of a block that have tap s inside the plane. */
static nn_cpu_span block_columns(const nn_pool2d_geom *geom, int64_t s, nn_cpu_span block)
{
    const nn_cpu_span cols = columns_of(geom, s);
    const int64_t first = nn_cpu_most(cols.first, block.first);
    const int64_t end = nn_cpu_least(cols.first + cols.n, block.first + block.n);

    return (nn_cpu_span){first, nn_cpu_most(0, end - first)};
}

static void add_taps(int64_t n, const float *restrict x, int64_t stride, float *restrict y)
{
    if (stride == 1) {
        for (int64_t i = 0; i < n; i++) y[i] += x[i];
    } else {
        for (int64_t i = 0; i < n; i++) y[i] += x[i * stride];
    }
}

static void avgpool_block(const nn_pool2d_geom *geom, const float *plane, nn_cpu_span rows,
                          nn_cpu_span block, float *y)
{
    float scale[BLOCK];

    find_shares(geom, rows, block, scale);
    for (int64_t i = 0; i < block.n; i++) y[i] = 0.0f;
    for (int64_t s = 0; s < geom->s; s++) {
        const nn_cpu_span cols = block_columns(geom, s, block);
        const int64_t from = cols.first * geom->stride_w + offset_of(geom, s);
        for (int64_t row = rows.first; cols.n > 0 && row < rows.first + rows.n; row++) {
            add_taps(cols.n, plane + row * geom->w + from, geom->stride_w,
                     y + cols.first - block.first);
        }
    }
    for (int64_t i = 0; i < block.n; i++) y[i] *= scale[i];
}

static void avgpool_row(const nn_pool2d_geom *geom, const float *plane, int64_t p, float *y)
{
    const nn_cpu_span rows = rows_of(geom, p);

    for (int64_t i = 0; i * BLOCK < geom->q; i++) {
        const nn_cpu_span block = nn_cpu_part(geom->q, BLOCK, i);
        avgpool_block(geom, plane, rows, block, y + block.first);
    }
}

static void avgpool_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const pooling *pool = arg;
    const nn_pool2d_geom *geom = pool->geom;
    const int64_t size = geom->h * geom->w;
    const nn_cpu_span span = nn_cpu_part(geom->n * geom->c, pool->planes_per_chunk, chunk_idx);

    (void)thread_idx;
    for (int64_t i = span.first; i < span.first + span.n; i++) {
        const float *plane = pool->from + i * size;
        if (pool->is_global) {
            pool->to[i] = (float)(nn_cpu_sum(size, plane) / (double)size);
            continue;
        }
        for (int64_t p = 0; p < geom->p; p++) {
            avgpool_row(geom, plane, p, pool->to + (i * geom->p + p) * geom->q);
        }
    }
}

cvy_status nn_cpu_avgpool2d_forward(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                    float *y)
{
    if (nn_cpu_is_blocked(geom->c)) {
        nn_cpu_avgpool_blocks_forward(backend, geom, x, y);
        return CVY_OK;
    }
    run_planes(backend, avgpool_chunk, &(pooling){.geom = geom, .from = x, .to = y});
    return CVY_OK;
}

static void spread_taps(int64_t n, const float *restrict share, float *restrict dx, int64_t stride)
{
    if (stride == 1) {
        for (int64_t i = 0; i < n; i++) dx[i] += share[i];
    } else {
        for (int64_t i = 0; i < n; i++) dx[i * stride] += share[i];
    }
}

static void avgpool_backward_block(const nn_pool2d_geom *geom, nn_cpu_span rows, nn_cpu_span block,
                                   const float *dy, float *plane)
{
    float share[BLOCK];

    find_shares(geom, rows, block, share);
    for (int64_t i = 0; i < block.n; i++) share[i] *= dy[i];
    for (int64_t s = 0; s < geom->s; s++) {
        const nn_cpu_span cols = block_columns(geom, s, block);
        const int64_t to = cols.first * geom->stride_w + offset_of(geom, s);
        for (int64_t row = rows.first; cols.n > 0 && row < rows.first + rows.n; row++) {
            spread_taps(cols.n, share + cols.first - block.first, plane + row * geom->w + to,
                        geom->stride_w);
        }
    }
}

static void avgpool_backward_row(const nn_pool2d_geom *geom, int64_t p, const float *dy,
                                 float *plane)
{
    const nn_cpu_span rows = rows_of(geom, p);

    for (int64_t i = 0; i * BLOCK < geom->q; i++) {
        const nn_cpu_span block = nn_cpu_part(geom->q, BLOCK, i);
        avgpool_backward_block(geom, rows, block, dy + block.first, plane);
    }
}

static void spread(int64_t n, float value, int accumulate, float *restrict y)
{
    if (accumulate) {
        for (int64_t i = 0; i < n; i++) y[i] += value;
    } else {
        for (int64_t i = 0; i < n; i++) y[i] = value;
    }
}

static void avgpool_backward_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const pooling *pool = arg;
    const nn_pool2d_geom *geom = pool->geom;
    const int64_t size = geom->h * geom->w;
    const nn_cpu_span span = nn_cpu_part(geom->n * geom->c, pool->planes_per_chunk, chunk_idx);

    (void)thread_idx;
    if (!pool->accumulate && !pool->is_global) clear_planes(pool, span);
    for (int64_t i = span.first; i < span.first + span.n; i++) {
        float *plane = pool->to + i * size;
        if (pool->is_global) {
            spread(size, (float)((double)pool->from[i] / (double)size), pool->accumulate, plane);
            continue;
        }
        for (int64_t p = 0; p < geom->p; p++) {
            avgpool_backward_row(geom, p, pool->from + (i * geom->p + p) * geom->q, plane);
        }
    }
}

cvy_status nn_cpu_avgpool2d_backward(nn_backend *backend, const nn_pool2d_geom *geom,
                                     const float *dy, float *dx, int accumulate)
{
    if (nn_cpu_is_blocked(geom->c)) {
        nn_cpu_avgpool_blocks_backward(backend, geom, dy, dx, accumulate);
        return CVY_OK;
    }
    run_planes(backend, avgpool_backward_chunk,
               &(pooling){.geom = geom, .from = dy, .to = dx, .accumulate = accumulate});
    return CVY_OK;
}
