#include "nn/backends/cpu/cpu_internal.h"

#include "base/rng.h"

/* Numbers in one block of the generator: a chunk starts at a block of its own. */
enum { NUMBERS_PER_BLOCK = 4 };
_Static_assert(NN_CPU_CHUNK % NUMBERS_PER_BLOCK == 0, "chunks start where blocks do");

typedef struct dropping {
    int64_t n;
    double rate;
    const nn_dropout_key *key;
    const float *x;
    float *y;
    int accumulate;
} dropping;

static void drop_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const dropping *drop = arg;
    const nn_cpu_span span = nn_cpu_part(drop->n, NN_CPU_CHUNK, chunk_idx);
    const float *x = drop->x + span.first;
    float *y = drop->y + span.first;
    const double scale = 1.0 / (1.0 - drop->rate);
    cvy_rng rng = cvy_rng_open(drop->key->seed, CVY_RNG_DROPOUT, drop->key->step,
                               drop->key->replica * 1048576u + (uint64_t)drop->key->layer_idx);

    (void)thread_idx;
    cvy_rng_seek(&rng, (uint32_t)(span.first / NUMBERS_PER_BLOCK));
    for (int64_t i = 0; i < span.n; i++) {
        const int is_kept = (double)cvy_rng_float(&rng) >= drop->rate;
        const float value = is_kept ? (float)((double)x[i] * scale) : 0.0f;
        y[i] = drop->accumulate ? y[i] + value : value;
    }
}

cvy_status nn_cpu_dropout_forward(nn_backend *backend, int64_t n, double rate,
                                  const nn_dropout_key *key, const float *x, float *y)
{
    dropping drop = {.n = n, .rate = rate, .key = key, .x = x, .y = y};

    nn_cpu_run(backend, nn_cpu_div_up(n, NN_CPU_CHUNK), drop_chunk, &drop);
    return CVY_OK;
}

cvy_status nn_cpu_dropout_backward(nn_backend *backend, int64_t n, double rate,
                                   const nn_dropout_key *key, const float *dy, float *dx,
                                   int accumulate)
{
    dropping drop = {.n = n, .rate = rate, .key = key, .x = dy, .y = dx, .accumulate = accumulate};

    nn_cpu_run(backend, nn_cpu_div_up(n, NN_CPU_CHUNK), drop_chunk, &drop);
    return CVY_OK;
}
