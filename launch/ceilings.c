#include "launch/ceilings.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/pool.h"

#include <string.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

typedef float lanes CVY_VECTOR(VECTOR_BYTES);

enum {
    N_LANES = sizeof(lanes) / sizeof(float),
    N_CHAINS = 12, /* latency 4 x 2 units a cycle want 8; leaves registers for constants */
    ROUNDS_PER_CHUNK = 1 << 20,
    CHUNKS_PER_THREAD = 8,
    TRIAD_CHUNK = 1 << 18, /* floats: 1 MiB of each array */
    TRIAD_MIN_CHUNKS = 64
};

struct launch_ceiling_meter {
    cvy_pool *one, *all;
    int64_t n_triad_chunks;
    float *a, *b, *c; /* (n_triad_chunks * TRIAD_CHUNK) */
    float *sums;      /* (CHUNKS_PER_THREAD * threads): what was computed is used */
    float factor, addend;
};

static void multiply_add_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    launch_ceiling_meter *m = arg;
    lanes x[N_CHAINS], factor, addend;
    float parts[N_LANES], sum = 0;

    (void)thread_idx;
    memset(x, 0, sizeof x);
    memset(&factor, 0, sizeof factor);
    addend = factor + m->addend;
    factor = factor + m->factor;
    for (int i = 0; i < N_CHAINS; i++) x[i] = x[i] + (float)(i + (int)chunk_idx);
    for (int round = 0; round < ROUNDS_PER_CHUNK; round++) {
        for (int i = 0; i < N_CHAINS; i++) x[i] = x[i] * factor + addend;
    }
    for (int i = 1; i < N_CHAINS; i++) x[0] = x[0] + x[i];
    memcpy(parts, &x[0], sizeof parts);
    for (int i = 0; i < N_LANES; i++) sum += parts[i];
    m->sums[chunk_idx] = sum;
}

static void triad_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const launch_ceiling_meter *m = arg;
    const int64_t first = chunk_idx * TRIAD_CHUNK;
    float *restrict a = m->a + first;
    const float *restrict b = m->b + first, *restrict c = m->c + first;

    (void)thread_idx;
    for (int64_t i = 0; i < TRIAD_CHUNK; i++) a[i] = b[i] + m->factor * c[i];
}

/* Written by all threads: pages then lie near them, not all at the memory of one socket. */
static void first_touch(void *arg, int64_t chunk_idx, int thread_idx)
{
    const launch_ceiling_meter *m = arg;

    (void)thread_idx;
    for (int64_t i = chunk_idx * TRIAD_CHUNK; i < (chunk_idx + 1) * TRIAD_CHUNK; i++) {
        m->a[i] = 0.0f;
        m->b[i] = 1.0f;
        m->c[i] = 2.0f;
    }
}

static double multiply_add_gflops(launch_ceiling_meter *m, cvy_pool *pool)
{
    const int64_t n_chunks = (int64_t)CHUNKS_PER_THREAD * cvy_pool_n_threads(pool);
    const double flop = 2.0 * N_LANES * N_CHAINS * ROUNDS_PER_CHUNK * (double)n_chunks;
    const double start_s = cvy_clock_now_s();

    cvy_pool_run(pool, n_chunks, multiply_add_chunk, m);
    return flop / (cvy_clock_now_s() - start_s) / 1e9;
}

static double triad_gbytes_per_s(launch_ceiling_meter *m, cvy_pool *pool)
{
    const double bytes = 3.0 * sizeof(float) * TRIAD_CHUNK * (double)m->n_triad_chunks;
    const double start_s = cvy_clock_now_s();

    cvy_pool_run(pool, m->n_triad_chunks, triad_chunk, m);
    return bytes / (cvy_clock_now_s() - start_s) / 1e9;
}

static void keep_best(double *most, double value)
{
    if (value > *most) *most = value;
}

void launch_ceilings_measure(launch_ceiling_meter *meter, int64_t n_rounds, launch_ceilings *out)
{
    launch_ceilings best = {.vector_bits = (int)(8 * sizeof(lanes)),
                            .n_threads = cvy_pool_n_threads(meter->all)};

    for (int64_t i = 0; i < n_rounds; i++) {
        keep_best(&best.gflops_one, multiply_add_gflops(meter, meter->one));
        keep_best(&best.gflops, multiply_add_gflops(meter, meter->all));
        keep_best(&best.gbytes_per_s_one, triad_gbytes_per_s(meter, meter->one));
        keep_best(&best.gbytes_per_s, triad_gbytes_per_s(meter, meter->all));
    }
    *out = best;
}

cvy_status launch_ceilings_open(int n_threads, launch_ceiling_meter **out)
{
    cvy_status status = CVY_OK;
    launch_ceiling_meter *meter = NULL;

    *out = NULL;
    meter = cvy_alloc_zero(1, sizeof *meter);
    if (meter == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "a meter of ceilings");
    meter->factor = 0.999f;
    meter->addend = 0.001f;
    meter->n_triad_chunks = (int64_t)CHUNKS_PER_THREAD * n_threads;
    if (meter->n_triad_chunks < TRIAD_MIN_CHUNKS) meter->n_triad_chunks = TRIAD_MIN_CHUNKS;
    const size_t size_bytes = (size_t)meter->n_triad_chunks * TRIAD_CHUNK * sizeof(float);
    meter->a = cvy_alloc(size_bytes);
    meter->b = cvy_alloc(size_bytes);
    meter->c = cvy_alloc(size_bytes);
    meter->sums = cvy_alloc_zero((size_t)CHUNKS_PER_THREAD * (size_t)n_threads, sizeof(float));
    if (meter->a == NULL || meter->b == NULL || meter->c == NULL || meter->sums == NULL) {
        status = CVY_FAIL(CVY_ERR_NO_MEMORY, "three arrays of %zu bytes to measure the memory",
                          size_bytes);
        goto fail;
    }
    CVY_GOTO_IF_ERR(fail, status, cvy_pool_create(1, &meter->one));
    CVY_GOTO_IF_ERR(fail, status, cvy_pool_create(n_threads, &meter->all));
    cvy_pool_run(meter->all, meter->n_triad_chunks, first_touch, meter);
    *out = meter;
    return CVY_OK;

fail:
    launch_ceilings_close(&meter);
    return status;
}

void launch_ceilings_close(launch_ceiling_meter **meter)
{
    if (meter == NULL || *meter == NULL) return;
    cvy_pool_destroy(&(*meter)->one);
    cvy_pool_destroy(&(*meter)->all);
    cvy_free((*meter)->a);
    cvy_free((*meter)->b);
    cvy_free((*meter)->c);
    cvy_free((*meter)->sums);
    cvy_free(*meter);
    *meter = NULL;
}

json_t *launch_ceilings_json(const launch_ceilings *ceilings)
{
    return json_pack("{s:i, s:i, s:f, s:f, s:f, s:f}", "vector_bits", ceilings->vector_bits,
                     "threads", ceilings->n_threads, "gflops_one_thread", ceilings->gflops_one,
                     "gflops", ceilings->gflops, "triad_gbytes_per_s_one_thread",
                     ceilings->gbytes_per_s_one, "triad_gbytes_per_s", ceilings->gbytes_per_s);
}
