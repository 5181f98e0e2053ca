#include "nn/backends/ref/ref_internal.h"

cvy_status nn_ref_sgd_update(nn_backend *backend, int64_t n, double lr, double momentum,
                             int is_nesterov, double decay, double grad_scale, const float *grad,
                             float *m, float *w)
{
    (void)backend;
    for (int64_t i = 0; i < n; i++) {
        const double g = grad_scale * (double)grad[i] + decay * (double)w[i];
        double step = g;
        if (m != NULL) {
            const double velocity = momentum * (double)m[i] + g;
            step = is_nesterov ? g + momentum * velocity : velocity;
            m[i] = (float)velocity;
        }
        w[i] = (float)((double)w[i] - lr * step);
    }
    return CVY_OK;
}

cvy_status nn_ref_average_update(nn_backend *backend, int64_t n, double rate, double scale,
                                 const float *sum, float *w)
{
    (void)backend;
    for (int64_t i = 0; i < n; i++) {
        w[i] = (float)((double)w[i] + rate * (scale * (double)sum[i] - (double)w[i]));
    }
    return CVY_OK;
}
