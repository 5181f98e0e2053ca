#include "nn/backends/cpu/cpu_internal.h"

#include <stdatomic.h>

/* Updates run in double as in the reference: they wait for memory, not for arithmetic. */
typedef struct sgd_step {
    int64_t n;
    double lr, momentum, decay, grad_scale;
    int is_nesterov;
    const float *grad;
    float *m, *w;
} sgd_step;

static void sgd_plain(const sgd_step *step, int64_t n, const float *restrict grad,
                      float *restrict w)
{
    const double lr = step->lr, decay = step->decay, scale = step->grad_scale;

    for (int64_t i = 0; i < n; i++) {
        const double g = scale * (double)grad[i] + decay * (double)w[i];
        w[i] = (float)((double)w[i] - lr * g);
    }
}

static void sgd_momentum(const sgd_step *step, int64_t n, const float *restrict grad,
                         float *restrict m, float *restrict w)
{
    const double lr = step->lr, decay = step->decay, scale = step->grad_scale;
    const double momentum = step->momentum;

    for (int64_t i = 0; i < n; i++) {
        const double g = scale * (double)grad[i] + decay * (double)w[i];
        const double velocity = momentum * (double)m[i] + g;
        m[i] = (float)velocity;
        w[i] = (float)((double)w[i] - lr * velocity);
    }
}

static void sgd_nesterov(const sgd_step *step, int64_t n, const float *restrict grad,
                         float *restrict m, float *restrict w)
{
    const double lr = step->lr, decay = step->decay, scale = step->grad_scale;
    const double momentum = step->momentum;

    for (int64_t i = 0; i < n; i++) {
        const double g = scale * (double)grad[i] + decay * (double)w[i];
        const double velocity = momentum * (double)m[i] + g;
        m[i] = (float)velocity;
        w[i] = (float)((double)w[i] - lr * (g + momentum * velocity));
    }
}

static void sgd_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const sgd_step *step = arg;
    const nn_cpu_span span = nn_cpu_part(step->n, NN_CPU_CHUNK, chunk_idx);
    const int64_t at = span.first;

    (void)thread_idx;
    if (step->m == NULL) {
        sgd_plain(step, span.n, step->grad + at, step->w + at);
    } else if (step->is_nesterov) {
        sgd_nesterov(step, span.n, step->grad + at, step->m + at, step->w + at);
    } else {
        sgd_momentum(step, span.n, step->grad + at, step->m + at, step->w + at);
    }
}

cvy_status nn_cpu_sgd_update(nn_backend *backend, int64_t n, double lr, double momentum,
                             int is_nesterov, double decay, double grad_scale, const float *grad,
                             float *m, float *w)
{
    sgd_step step = {.n = n,
                     .lr = lr,
                     .momentum = momentum,
                     .decay = decay,
                     .grad_scale = grad_scale,
                     .is_nesterov = is_nesterov,
                     .grad = grad,
                     .m = m,
                     .w = w};

    nn_cpu_run(backend, nn_cpu_div_up(n, NN_CPU_CHUNK), sgd_chunk, &step);
    return CVY_OK;
}

typedef struct average_step {
    int64_t n;
    double rate, scale;
    const float *sum;
    float *w;
} average_step;

static void average_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const average_step *step = arg;
    const nn_cpu_span span = nn_cpu_part(step->n, NN_CPU_CHUNK, chunk_idx);
    const double rate = step->rate, scale = step->scale;
    const float *restrict sum = step->sum + span.first;
    float *restrict w = step->w + span.first;

    (void)thread_idx;
    for (int64_t i = 0; i < span.n; i++) {
        w[i] = (float)((double)w[i] + rate * (scale * (double)sum[i] - (double)w[i]));
    }
}

cvy_status nn_cpu_average_update(nn_backend *backend, int64_t n, double rate, double scale,
                                 const float *sum, float *w)
{
    average_step step = {.n = n, .rate = rate, .scale = scale, .sum = sum, .w = w};

    nn_cpu_run(backend, nn_cpu_div_up(n, NN_CPU_CHUNK), average_chunk, &step);
    return CVY_OK;
}

typedef struct finite_check {
    int64_t n;
    const float *x;
    atomic_int is_finite;
} finite_check;

/* x - x is 0 for a finite number and NaN for all others; a NaN in a sum stays. */
static void finite_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    enum { LANES = 32 };
    finite_check *check = arg;
    const nn_cpu_span span = nn_cpu_part(check->n, NN_CPU_CHUNK, chunk_idx);
    const float *restrict x = check->x + span.first;
    float lanes[LANES] = {0.0f};
    float sum = 0.0f;
    int64_t i = 0;

    (void)thread_idx;
    for (; i + LANES <= span.n; i += LANES) {
        for (int j = 0; j < LANES; j++) lanes[j] += x[i + j] - x[i + j];
    }
    for (; i < span.n; i++) sum += x[i] - x[i];
    for (int j = 0; j < LANES; j++) sum += lanes[j];
    if (!(sum == 0.0f)) atomic_store(&check->is_finite, 0);
}

cvy_status nn_cpu_all_finite(nn_backend *backend, int64_t n, const float *x, int *out)
{
    finite_check check = {.n = n, .x = x, .is_finite = 1};

    nn_cpu_run(backend, nn_cpu_div_up(n, NN_CPU_CHUNK), finite_chunk, &check);
    *out = atomic_load(&check.is_finite);
    return CVY_OK;
}
