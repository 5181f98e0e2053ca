#include "nn/backends/ref/ref_internal.h"

#include <math.h>

/* Element i of channel c, i running over images and then over the plane. */
static int64_t place(const nn_bn_geom *geom, int64_t c, int64_t i)
{
    return (i / geom->spatial * geom->c + c) * geom->spatial + i % geom->spatial;
}

cvy_status nn_ref_batchnorm_forward(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                    const float *gamma, const float *beta, float *y, float *mean,
                                    float *invstd, float *batch_var)
{
    const int64_t count = geom->n * geom->spatial;

    (void)backend;
    for (int64_t c = 0; c < geom->c; c++) {
        double sum = 0.0, squares = 0.0;
        for (int64_t i = 0; i < count; i++) sum += (double)x[place(geom, c, i)];
        const double mu = sum / (double)count;
        for (int64_t i = 0; i < count; i++) {
            const double d = (double)x[place(geom, c, i)] - mu;
            squares += d * d;
        }
        const double scale = 1.0 / sqrt(squares / (double)count + geom->eps);
        for (int64_t i = 0; i < count; i++) {
            const double d = (double)x[place(geom, c, i)] - mu;
            y[place(geom, c, i)] = (float)((double)gamma[c] * d * scale + (double)beta[c]);
        }
        mean[c] = (float)mu;
        invstd[c] = (float)scale;
        batch_var[c] = (float)(squares / (double)(count > 1 ? count - 1 : 1));
    }
    return CVY_OK;
}

cvy_status nn_ref_batchnorm_inference(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                      const float *gamma, const float *beta, const float *mean,
                                      const float *var, float *y)
{
    const int64_t count = geom->n * geom->spatial;

    (void)backend;
    for (int64_t c = 0; c < geom->c; c++) {
        const double scale = 1.0 / sqrt((double)var[c] + geom->eps);
        for (int64_t i = 0; i < count; i++) {
            const double d = (double)x[place(geom, c, i)] - (double)mean[c];
            y[place(geom, c, i)] = (float)((double)gamma[c] * d * scale + (double)beta[c]);
        }
    }
    return CVY_OK;
}

/* With xhat = (x - mean) invstd and m elements per channel:
 *     dx = gamma invstd (dy - sum(dy) / m - xhat sum(dy xhat) / m). */
cvy_status nn_ref_batchnorm_backward(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                     const float *dy, const float *gamma, const float *mean,
                                     const float *invstd, float *dx, int accumulate, float *dgamma,
                                     float *dbeta)
{
    const int64_t count = geom->n * geom->spatial;

    (void)backend;
    for (int64_t c = 0; c < geom->c; c++) {
        const double mu = (double)mean[c], scale = (double)invstd[c];
        double sum = 0.0, product = 0.0;
        for (int64_t i = 0; i < count; i++) {
            const int64_t at = place(geom, c, i);
            sum += (double)dy[at];
            product += (double)dy[at] * ((double)x[at] - mu) * scale;
        }
        for (int64_t i = 0; i < count; i++) {
            const int64_t at = place(geom, c, i);
            const double xhat = ((double)x[at] - mu) * scale;
            const double value = (double)gamma[c] * scale *
                                 ((double)dy[at] - (sum + xhat * product) / (double)count);
            dx[at] = (float)(accumulate ? (double)dx[at] + value : value);
        }
        dgamma[c] = (float)product;
        dbeta[c] = (float)sum;
    }
    return CVY_OK;
}
