#include "nn/backends/ref/ref_internal.h"

cvy_status nn_ref_dense_forward(nn_backend *backend, int64_t n, int64_t c, int64_t k,
                                const float *x, const float *weight, const float *bias, float *y)
{
    (void)backend;
    for (int64_t row = 0; row < n; row++) {
        for (int64_t col = 0; col < k; col++) {
            double sum = bias != NULL ? (double)bias[col] : 0.0;
            for (int64_t i = 0; i < c; i++) {
                sum += (double)x[row * c + i] * (double)weight[col * c + i];
            }
            y[row * k + col] = (float)sum;
        }
    }
    return CVY_OK;
}

static void input_gradient(int64_t n, int64_t c, int64_t k, const float *weight, const float *dy,
                           float *dx, int accumulate)
{
    for (int64_t row = 0; row < n; row++) {
        for (int64_t i = 0; i < c; i++) {
            double sum = accumulate ? (double)dx[row * c + i] : 0.0;
            for (int64_t col = 0; col < k; col++) {
                sum += (double)dy[row * k + col] * (double)weight[col * c + i];
            }
            dx[row * c + i] = (float)sum;
        }
    }
}

cvy_status nn_ref_dense_backward(nn_backend *backend, int64_t n, int64_t c, int64_t k,
                                 const float *x, const float *weight, const float *dy, float *dx,
                                 int accumulate, float *dweight, float *dbias)
{
    (void)backend;
    if (dx != NULL) input_gradient(n, c, k, weight, dy, dx, accumulate);
    for (int64_t col = 0; dweight != NULL && col < k; col++) {
        for (int64_t i = 0; i < c; i++) {
            double sum = 0.0;
            for (int64_t row = 0; row < n; row++) {
                sum += (double)dy[row * k + col] * (double)x[row * c + i];
            }
            dweight[col * c + i] = (float)sum;
        }
    }
    for (int64_t col = 0; dbias != NULL && col < k; col++) {
        double sum = 0.0;
        for (int64_t row = 0; row < n; row++) sum += (double)dy[row * k + col];
        dbias[col] = (float)sum;
    }
    return CVY_OK;
}
