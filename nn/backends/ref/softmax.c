#include "nn/backends/ref/ref_internal.h"

#include <math.h>

/* Source of the stable form: log sum exp(z) = max + log sum exp(z - max). */
static double log_sum_exp(int64_t classes, const float *logits, double *out_max)
{
    double max = -INFINITY, sum = 0.0;

    for (int64_t j = 0; j < classes; j++) {
        if (!isfinite(logits[j])) max = (double)NAN;
        if ((double)logits[j] > max) max = (double)logits[j];
    }
    for (int64_t j = 0; j < classes; j++) sum += exp((double)logits[j] - max);
    *out_max = max;
    return max + log(sum);
}

cvy_status nn_ref_softmax_xent_forward(nn_backend *backend, const nn_xent_geom *geom,
                                       const float *logits, const int32_t *labels, float *prob,
                                       float *loss, int32_t *predicted, int32_t *rank,
                                       float *confidence)
{
    (void)backend;
    for (int64_t n = 0; n < geom->n; n++) {
        const float *z = logits + n * geom->classes;
        const int32_t label = labels[n];
        double max = 0.0, smooth = 0.0;
        const double total = log_sum_exp(geom->classes, z, &max);
        int32_t best = 0, n_beating = 0;

        for (int32_t j = 0; j < geom->classes; j++) {
            prob[n * geom->classes + j] = (float)exp((double)z[j] - total);
            smooth += (total - (double)z[j]) / (double)geom->classes;
            if (z[j] > z[best]) best = j;
            if (z[j] > z[label] || (z[j] == z[label] && j < label)) n_beating++;
        }
        loss[n] = (float)((1.0 - geom->smoothing) * (total - (double)z[label]) +
                          geom->smoothing * smooth);
        predicted[n] = best;
        rank[n] = n_beating;
        confidence[n] = prob[n * geom->classes + best];
    }
    return CVY_OK;
}

cvy_status nn_ref_softmax_xent_backward(nn_backend *backend, const nn_xent_geom *geom,
                                        const float *prob, const int32_t *labels, float scale,
                                        float *dx, int accumulate)
{
    const double base = geom->smoothing / (double)geom->classes;

    (void)backend;
    for (int64_t n = 0; n < geom->n; n++) {
        for (int64_t j = 0; j < geom->classes; j++) {
            const int64_t i = n * geom->classes + j;
            const double target = base + (j == labels[n] ? 1.0 - geom->smoothing : 0.0);
            const float value = (float)((double)scale * ((double)prob[i] - target));
            dx[i] = accumulate ? dx[i] + value : value;
        }
    }
    return CVY_OK;
}
