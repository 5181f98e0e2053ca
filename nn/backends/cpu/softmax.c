#include "nn/backends/cpu/cpu_internal.h"

#include <math.h>

/* Rows are independent; a chunk is some rows. The exponentials are floats, their sum and the loss
 * doubles. */
typedef struct xent_pass {
    const nn_xent_geom *geom;
    int64_t rows_per_chunk;
    const float *logits; /* or prob, in backward */
    const int32_t *labels;
    float *prob, *loss, *confidence; /* prob: dx, in backward */
    int32_t *predicted, *rank;
    float scale;
    int accumulate;
} xent_pass;

static void run_rows(nn_backend *backend, cvy_pool_task task, xent_pass *pass)
{
    pass->rows_per_chunk = nn_cpu_most(1, 4096 / pass->geom->classes);
    nn_cpu_run(backend, nn_cpu_div_up(pass->geom->n, pass->rows_per_chunk), task, pass);
}

/* The place of the first largest logit, and the largest, which is NaN if a logit is not finite. */
static int32_t find_largest(int64_t classes, const float *z, float *out_max)
{
    int32_t best = 0;
    int is_finite = 1;

    for (int32_t j = 0; j < classes; j++) {
        is_finite = is_finite && isfinite(z[j]);
        if (z[j] > z[best]) best = j;
    }
    *out_max = is_finite ? z[best] : NAN;
    return best;
}

static int32_t count_beating(int64_t classes, const float *restrict z, int32_t label)
{
    int32_t n = 0;

    for (int32_t j = 0; j < label; j++) n += z[j] >= z[label];
    for (int32_t j = label + 1; j < classes; j++) n += z[j] > z[label];
    return n;
}

/* log of the sum of exp(z); prob becomes exp(z) / sum, smooth the sum of z. */
static double softmax_row(int64_t classes, const float *restrict z, float max, float *restrict prob,
                          double *out_sum_z)
{
    double sum = 0.0, sum_z = 0.0;

    for (int64_t j = 0; j < classes; j++) {
        prob[j] = expf(z[j] - max);
        sum += (double)prob[j];
        sum_z += (double)z[j];
    }
    const float scale = (float)(1.0 / sum);
    for (int64_t j = 0; j < classes; j++) prob[j] *= scale;
    *out_sum_z = sum_z;
    return (double)max + log(sum);
}

static void forward_row(const xent_pass *pass, int64_t n)
{
    const int64_t classes = pass->geom->classes;
    const double smoothing = pass->geom->smoothing;
    const float *z = pass->logits + n * classes;
    float *prob = pass->prob + n * classes;
    const int32_t label = pass->labels[n];
    float max = 0.0f;
    double sum_z = 0.0;

    pass->predicted[n] = find_largest(classes, z, &max);
    pass->rank[n] = count_beating(classes, z, label);
    const double total = softmax_row(classes, z, max, prob, &sum_z);
    pass->loss[n] = (float)((1.0 - smoothing) * (total - (double)z[label]) +
                            smoothing * (total - sum_z / (double)classes));
    pass->confidence[n] = prob[pass->predicted[n]];
}

static void forward_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const xent_pass *pass = arg;
    const nn_cpu_span span = nn_cpu_part(pass->geom->n, pass->rows_per_chunk, chunk_idx);

    (void)thread_idx;
    for (int64_t n = span.first; n < span.first + span.n; n++) forward_row(pass, n);
}

cvy_status nn_cpu_softmax_xent_forward(nn_backend *backend, const nn_xent_geom *geom,
                                       const float *logits, const int32_t *labels, float *prob,
                                       float *loss, int32_t *predicted, int32_t *rank,
                                       float *confidence)
{
    run_rows(backend, forward_chunk,
             &(xent_pass){.geom = geom,
                          .logits = logits,
                          .labels = labels,
                          .prob = prob,
                          .loss = loss,
                          .predicted = predicted,
                          .rank = rank,
                          .confidence = confidence});
    return CVY_OK;
}

/* dx = scale (prob - target), every class as if it were none of the row's label, then the label. */
static void backward_row(int64_t classes, const float *restrict prob, float scale, float base,
                         int accumulate, float *restrict dx)
{
    if (accumulate) {
        for (int64_t j = 0; j < classes; j++) dx[j] += scale * (prob[j] - base);
    } else {
        for (int64_t j = 0; j < classes; j++) dx[j] = scale * (prob[j] - base);
    }
}

static void backward_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const xent_pass *pass = arg;
    const int64_t classes = pass->geom->classes;
    const double base = pass->geom->smoothing / (double)classes;
    const double target = base + 1.0 - pass->geom->smoothing;
    const nn_cpu_span span = nn_cpu_part(pass->geom->n, pass->rows_per_chunk, chunk_idx);

    (void)thread_idx;
    for (int64_t n = span.first; n < span.first + span.n; n++) {
        const float *prob = pass->logits + n * classes;
        float *dx = pass->prob + n * classes;
        const int32_t label = pass->labels[n];
        const float before = pass->accumulate ? dx[label] : 0.0f;
        const double at_label = (double)prob[label];
        backward_row(classes, prob, pass->scale, (float)base, pass->accumulate, dx);
        dx[label] = before + (float)((double)pass->scale * (at_label - target));
    }
}

cvy_status nn_cpu_softmax_xent_backward(nn_backend *backend, const nn_xent_geom *geom,
                                        const float *prob, const int32_t *labels, float scale,
                                        float *dx, int accumulate)
{
    run_rows(backend, backward_chunk,
             &(xent_pass){.geom = geom,
                          .logits = prob,
                          .labels = labels,
                          .prob = dx,
                          .scale = scale,
                          .accumulate = accumulate});
    return CVY_OK;
}
