#include "nn/backends/cpu/cpu_internal.h"

#include <string.h>

/* Plain loops that the compiler turns into vector code. `restrict` needs arrays that do not
 * overlap, so every permitted overlap has a loop of its own. */
typedef struct operands {
    int64_t n;
    const float *a, *b;
    float *y;
    float value;
    int accumulate;
} operands;

static void run_chunks(nn_backend *backend, cvy_pool_task task, operands *op)
{
    nn_cpu_run(backend, nn_cpu_div_up(op->n, NN_CPU_CHUNK), task, op);
}

static void fill_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const operands *op = arg;
    const nn_cpu_span span = nn_cpu_part(op->n, NN_CPU_CHUNK, chunk_idx);
    float *restrict y = op->y + span.first;

    (void)thread_idx;
    for (int64_t i = 0; i < span.n; i++) y[i] = op->value;
}

cvy_status nn_cpu_fill(nn_backend *backend, int64_t n, float value, float *y)
{
    run_chunks(backend, fill_chunk, &(operands){.n = n, .value = value, .y = y});
    return CVY_OK;
}

static void copy_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const operands *op = arg;
    const nn_cpu_span span = nn_cpu_part(op->n, NN_CPU_CHUNK, chunk_idx);

    (void)thread_idx;
    memcpy(op->y + span.first, op->a + span.first, (size_t)span.n * sizeof(float));
}

cvy_status nn_cpu_copy(nn_backend *backend, int64_t n, const float *x, float *y)
{
    if (x != y) run_chunks(backend, copy_chunk, &(operands){.n = n, .a = x, .y = y});
    return CVY_OK;
}

static void add_to(int64_t n, const float *restrict x, float *restrict y)
{
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

static void add_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const operands *op = arg;
    const nn_cpu_span span = nn_cpu_part(op->n, NN_CPU_CHUNK, chunk_idx);
    const float *a = op->a + span.first, *b = op->b + span.first;
    float *y = op->y + span.first;

    (void)thread_idx;
    if (a == b) {
        for (int64_t i = 0; i < span.n; i++) y[i] = a[i] + a[i];
    } else if (y == a) {
        add_to(span.n, b, y);
    } else if (y == b) {
        add_to(span.n, a, y);
    } else {
        float *restrict to = y;
        for (int64_t i = 0; i < span.n; i++) to[i] = a[i] + b[i];
    }
}

cvy_status nn_cpu_accumulate(nn_backend *backend, int64_t n, const float *x, float *y)
{
    run_chunks(backend, add_chunk, &(operands){.n = n, .a = x, .b = y, .y = y});
    return CVY_OK;
}

cvy_status nn_cpu_add(nn_backend *backend, int64_t n, const float *a, const float *b, float *y)
{
    run_chunks(backend, add_chunk, &(operands){.n = n, .a = a, .b = b, .y = y});
    return CVY_OK;
}

typedef struct row_copy {
    int64_t rows, cols, rows_per_chunk;
    const float *x;
    int64_t x_stride;
    float *y;
    int64_t y_stride;
    int accumulate;
} row_copy;

static void copy_rows_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const row_copy *copy = arg;
    const nn_cpu_span span = nn_cpu_part(copy->rows, copy->rows_per_chunk, chunk_idx);

    (void)thread_idx;
    for (int64_t row = span.first; row < span.first + span.n; row++) {
        const float *x = copy->x + row * copy->x_stride;
        float *y = copy->y + row * copy->y_stride;
        if (copy->accumulate) {
            add_to(copy->cols, x, y);
        } else {
            memcpy(y, x, (size_t)copy->cols * sizeof(float));
        }
    }
}

cvy_status nn_cpu_copy_rows(nn_backend *backend, int64_t rows, int64_t cols, const float *x,
                            int64_t x_stride, float *y, int64_t y_stride, int accumulate)
{
    row_copy copy = {.rows = rows,
                     .cols = cols,
                     .rows_per_chunk = nn_cpu_most(1, NN_CPU_CHUNK / nn_cpu_most(1, cols)),
                     .x = x,
                     .x_stride = x_stride,
                     .y = y,
                     .y_stride = y_stride,
                     .accumulate = accumulate};

    if (cols > 0) {
        nn_cpu_run(backend, nn_cpu_div_up(rows, copy.rows_per_chunk), copy_rows_chunk, &copy);
    }
    return CVY_OK;
}

/* A NaN stays one: NaN <= 0 is false. */
static void relu_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const operands *op = arg;
    const nn_cpu_span span = nn_cpu_part(op->n, NN_CPU_CHUNK, chunk_idx);
    const float *x = op->a + span.first;
    float *restrict y = op->y + span.first;

    (void)thread_idx;
    if (x == y) {
        for (int64_t i = 0; i < span.n; i++) y[i] = y[i] <= 0.0f ? 0.0f : y[i];
    } else {
        for (int64_t i = 0; i < span.n; i++) y[i] = x[i] <= 0.0f ? 0.0f : x[i];
    }
}

cvy_status nn_cpu_relu_forward(nn_backend *backend, int64_t n, const float *x, float *y)
{
    run_chunks(backend, relu_chunk, &(operands){.n = n, .a = x, .y = y});
    return CVY_OK;
}

static void relu_gradient(int64_t n, const float *restrict y, const float *restrict dy,
                          float *restrict dx)
{
    for (int64_t i = 0; i < n; i++) dx[i] = y[i] > 0.0f ? dy[i] : 0.0f;
}

static void relu_gradient_in_place(int64_t n, const float *restrict y, float *restrict dx)
{
    for (int64_t i = 0; i < n; i++) dx[i] = y[i] > 0.0f ? dx[i] : 0.0f;
}

static void relu_gradient_added(int64_t n, const float *restrict y, const float *restrict dy,
                                float *restrict dx)
{
    for (int64_t i = 0; i < n; i++) dx[i] += y[i] > 0.0f ? dy[i] : 0.0f;
}

static void relu_backward_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const operands *op = arg;
    const nn_cpu_span span = nn_cpu_part(op->n, NN_CPU_CHUNK, chunk_idx);
    const float *y = op->a + span.first, *dy = op->b + span.first;
    float *dx = op->y + span.first;

    (void)thread_idx;
    if (op->accumulate) {
        relu_gradient_added(span.n, y, dy, dx);
    } else if (dx == dy) {
        relu_gradient_in_place(span.n, y, dx);
    } else {
        relu_gradient(span.n, y, dy, dx);
    }
}

cvy_status nn_cpu_relu_backward(nn_backend *backend, int64_t n, const float *y, const float *dy,
                                float *dx, int accumulate)
{
    run_chunks(backend, relu_backward_chunk,
               &(operands){.n = n, .a = y, .b = dy, .y = dx, .accumulate = accumulate});
    return CVY_OK;
}
