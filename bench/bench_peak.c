/* What the processor can do at most, to hold measured steps against: float32 multiply-adds on
 * registers and the bandwidth of main memory, with one thread and with all that were asked for. */

#include "base/alloc.h"
#include "base/clock.h"
#include "base/pool.h"
#include "bench/harness.h"

#include <getopt.h>
#include <stdio.h>
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
    TRIAD_CHUNKS = 64,     /* 3 x 64 MiB: well beyond the caches */
    MAX_THREADS = 1024
};

static const char usage_text[] =
    "usage: bench_peak [--threads N] [--repeat N] [--serve]\n"
    "  --threads N  threads of the second figures (default 2)\n"
    "  --repeat N   measurements; the best counts (default 5)\n"
    "  --serve      answer each line 'run N' on stdin with the best of N\n";

typedef struct peak {
    cvy_pool *one, *all;
    float *a, *b, *c; /* (TRIAD_CHUNKS * TRIAD_CHUNK) */
    float factor, addend;
    volatile float sink; /* what was computed is used */
} peak;

static void multiply_add_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    peak *p = arg;
    lanes x[N_CHAINS], factor, addend;
    float parts[N_LANES], sum = 0;

    (void)thread_idx;
    memset(x, 0, sizeof x);
    memset(&factor, 0, sizeof factor);
    addend = factor + p->addend;
    factor = factor + p->factor;
    for (int i = 0; i < N_CHAINS; i++) x[i] = x[i] + (float)(i + (int)chunk_idx);
    for (int round = 0; round < ROUNDS_PER_CHUNK; round++) {
        for (int i = 0; i < N_CHAINS; i++) x[i] = x[i] * factor + addend;
    }
    for (int i = 1; i < N_CHAINS; i++) x[0] = x[0] + x[i];
    memcpy(parts, &x[0], sizeof parts);
    for (int i = 0; i < N_LANES; i++) sum += parts[i];
    p->sink = sum;
}

static void triad_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const peak *p = arg;
    const int64_t first = chunk_idx * TRIAD_CHUNK;
    float *restrict a = p->a + first;
    const float *restrict b = p->b + first, *restrict c = p->c + first;

    (void)thread_idx;
    for (int64_t i = 0; i < TRIAD_CHUNK; i++) a[i] = b[i] + p->factor * c[i];
}

static double multiply_add_gflops(peak *p, cvy_pool *pool)
{
    const int64_t n_chunks = (int64_t)CHUNKS_PER_THREAD * cvy_pool_n_threads(pool);
    const double flop = 2.0 * N_LANES * N_CHAINS * ROUNDS_PER_CHUNK * (double)n_chunks;
    const double start_s = cvy_clock_now_s();

    cvy_pool_run(pool, n_chunks, multiply_add_chunk, p);
    return flop / (cvy_clock_now_s() - start_s) / 1e9;
}

/* As STREAM counts: two arrays read, one written. */
static double triad_gbytes_per_s(peak *p, cvy_pool *pool)
{
    const double bytes = 3.0 * sizeof(float) * TRIAD_CHUNKS * TRIAD_CHUNK;
    const double start_s = cvy_clock_now_s();

    cvy_pool_run(pool, TRIAD_CHUNKS, triad_chunk, p);
    return bytes / (cvy_clock_now_s() - start_s) / 1e9;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static cvy_status measure(void *arg, int64_t n, json_t **out)
{
    peak *p = arg;
    double flops_one = 0, flops_all = 0, bytes_one = 0, bytes_all = 0;

    for (int64_t i = 0; i < n; i++) {
        flops_one = larger(flops_one, multiply_add_gflops(p, p->one));
        flops_all = larger(flops_all, multiply_add_gflops(p, p->all));
        bytes_one = larger(bytes_one, triad_gbytes_per_s(p, p->one));
        bytes_all = larger(bytes_all, triad_gbytes_per_s(p, p->all));
    }
    *out = json_pack("{s:s, s:i, s:i, s:f, s:f, s:f, s:f}", "program", "bench_peak", "vector_bits",
                     (int)(8 * sizeof(lanes)), "threads", cvy_pool_n_threads(p->all),
                     "gflops_one_thread", flops_one, "gflops", flops_all,
                     "triad_gbytes_per_s_one_thread", bytes_one, "triad_gbytes_per_s", bytes_all);
    return CVY_OK;
}

static void peak_close(peak *p)
{
    cvy_pool_destroy(&p->one);
    cvy_pool_destroy(&p->all);
    cvy_free(p->a);
    cvy_free(p->b);
    cvy_free(p->c);
}

static cvy_status peak_open(peak *p, int n_threads)
{
    const size_t n = (size_t)TRIAD_CHUNKS * TRIAD_CHUNK;

    p->factor = 0.999f;
    p->addend = 0.001f;
    p->a = cvy_alloc_zero(n, sizeof *p->a);
    p->b = cvy_alloc_zero(n, sizeof *p->b);
    p->c = cvy_alloc_zero(n, sizeof *p->c);
    if (p->a == NULL || p->b == NULL || p->c == NULL)
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "three arrays of %zu floats", n);
    for (size_t i = 0; i < n; i++) { /* pages of zeros alone may all be one page */
        p->b[i] = 1.0f;
        p->c[i] = 2.0f;
    }
    CVY_RETURN_IF_ERR(cvy_pool_create(1, &p->one));
    return cvy_pool_create(n_threads, &p->all);
}

typedef struct peak_options {
    int64_t threads, repeat;
    int is_server, is_help;
} peak_options;

static cvy_status parse(int argc, char **argv, peak_options *out)
{
    static const struct option table[] = {{"threads", required_argument, NULL, 't'},
                                          {"repeat", required_argument, NULL, 'r'},
                                          {"serve", no_argument, NULL, 's'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    peak_options options = {.threads = 2, .repeat = 5};
    int c = 0;

    while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
        if (c == 't') {
            CVY_RETURN_IF_ERR(
                bench_parse_count("--threads", optarg, 1, MAX_THREADS, &options.threads));
        } else if (c == 'r') {
            CVY_RETURN_IF_ERR(bench_parse_count("--repeat", optarg, 1, 1000, &options.repeat));
        } else if (c == 's') {
            options.is_server = 1;
        } else if (c == 'h') {
            options.is_help = 1;
        } else {
            fputs(usage_text, stderr);
            return CVY_ERR_USAGE;
        }
    }
    if (optind < argc) {
        fputs(usage_text, stderr);
        return CVY_FAIL(CVY_ERR_USAGE, "'%s' is not an option", argv[optind]);
    }
    *out = options;
    return CVY_OK;
}

int main(int argc, char **argv)
{
    peak_options options = {0};
    peak p = {0};
    cvy_status status = parse(argc, argv, &options);

    if (status != CVY_OK) return cvy_status_exit_code(status);
    if (options.is_help) return fputs(usage_text, stdout) == EOF ? 1 : 0;
    CVY_GOTO_IF_ERR(end, status, peak_open(&p, (int)options.threads));
    if (options.is_server) {
        CVY_GOTO_IF_ERR(end, status, bench_print(json_pack("{s:s}", "ready", "bench_peak")));
        CVY_GOTO_IF_ERR(end, status, bench_serve(measure, &p));
    } else {
        CVY_GOTO_IF_ERR(end, status, bench_run_once(measure, &p, options.repeat));
    }

end:
    peak_close(&p);
    return cvy_status_exit_code(status);
}
