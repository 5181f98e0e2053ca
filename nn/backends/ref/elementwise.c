#include "nn/backends/ref/ref_internal.h"

#include <math.h>

cvy_status nn_ref_fill(nn_backend *backend, int64_t n, float value, float *y)
{
    (void)backend;
    for (int64_t i = 0; i < n; i++) y[i] = value;
    return CVY_OK;
}

cvy_status nn_ref_copy(nn_backend *backend, int64_t n, const float *x, float *y)
{
    (void)backend;
    for (int64_t i = 0; i < n; i++) y[i] = x[i];
    return CVY_OK;
}

cvy_status nn_ref_accumulate(nn_backend *backend, int64_t n, const float *x, float *y)
{
    (void)backend;
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
    return CVY_OK;
}

cvy_status nn_ref_add(nn_backend *backend, int64_t n, const float *a, const float *b, float *y)
{
    (void)backend;
    for (int64_t i = 0; i < n; i++) y[i] = a[i] + b[i];
    return CVY_OK;
}

cvy_status nn_ref_copy_rows(nn_backend *backend, int64_t rows, int64_t cols, const float *x,
                            int64_t x_stride, float *y, int64_t y_stride, int accumulate)
{
    (void)backend;
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t col = 0; col < cols; col++) {
            const float value = x[row * x_stride + col];
            float *to = &y[row * y_stride + col];
            *to = accumulate ? *to + value : value;
        }
    }
    return CVY_OK;
}

/* A NaN stays one: NaN <= 0 is false. */
cvy_status nn_ref_relu_forward(nn_backend *backend, int64_t n, const float *x, float *y)
{
    (void)backend;
    for (int64_t i = 0; i < n; i++) y[i] = x[i] <= 0.0f ? 0.0f : x[i];
    return CVY_OK;
}

cvy_status nn_ref_relu_backward(nn_backend *backend, int64_t n, const float *y, const float *dy,
                                float *dx, int accumulate)
{
    (void)backend;
    for (int64_t i = 0; i < n; i++) {
        const float value = y[i] > 0.0f ? dy[i] : 0.0f;
        dx[i] = accumulate ? dx[i] + value : value;
    }
    return CVY_OK;
}

cvy_status nn_ref_all_finite(nn_backend *backend, int64_t n, const float *x, int *out)
{
    int is_finite = 1;

    (void)backend;
    for (int64_t i = 0; i < n; i++) is_finite = is_finite && isfinite(x[i]);
    *out = is_finite;
    return CVY_OK;
}
