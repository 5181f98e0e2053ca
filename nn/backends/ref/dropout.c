#include "nn/backends/ref/ref_internal.h"

#include "base/rng.h"

static cvy_rng stream_of(const nn_dropout_key *key)
{
    return cvy_rng_open(key->seed, CVY_RNG_DROPOUT, key->step,
                        key->replica * 1048576u + (uint64_t)key->layer_idx);
}

cvy_status nn_ref_dropout_forward(nn_backend *backend, int64_t n, double rate,
                                  const nn_dropout_key *key, const float *x, float *y)
{
    cvy_rng rng = stream_of(key);

    (void)backend;
    for (int64_t i = 0; i < n; i++) {
        const int is_kept = (double)cvy_rng_float(&rng) >= rate;
        y[i] = is_kept ? (float)((double)x[i] / (1.0 - rate)) : 0.0f;
    }
    return CVY_OK;
}

cvy_status nn_ref_dropout_backward(nn_backend *backend, int64_t n, double rate,
                                   const nn_dropout_key *key, const float *dy, float *dx,
                                   int accumulate)
{
    cvy_rng rng = stream_of(key);

    (void)backend;
    for (int64_t i = 0; i < n; i++) {
        const int is_kept = (double)cvy_rng_float(&rng) >= rate;
        const float value = is_kept ? (float)((double)dy[i] / (1.0 - rate)) : 0.0f;
        dx[i] = accumulate ? dx[i] + value : value;
    }
    return CVY_OK;
}
