#include "nn/backends/cpu/cpu_internal.h"

/* C forbids the compiler to reorder a sum of floats, so the lanes of a vector register are spelt
 * out: element i goes to lane i % LANES. Lanes are emptied into a double every BLOCK elements,
 * which keeps the error of a lane below 2048 / 32 roundings whatever the length. */
enum { LANES = 32, BLOCK = 2048 };

static double total(const float lanes[LANES])
{
    double sum = 0.0;

    for (int j = 0; j < LANES; j++) sum += (double)lanes[j];
    return sum;
}

static double sum_block(int64_t n, const float *restrict x)
{
    float lanes[LANES] = {0.0f};
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) lanes[j] += x[i + j];
    }
    for (int j = 0; i + j < n; j++) lanes[j] += x[i + j];
    return total(lanes);
}

static double dot_block(int64_t n, const float *restrict x, const float *restrict y)
{
    float lanes[LANES] = {0.0f};
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) lanes[j] += x[i + j] * y[i + j];
    }
    for (int j = 0; i + j < n; j++) lanes[j] += x[i + j] * y[i + j];
    return total(lanes);
}

static void moments_block(int64_t n, const float *restrict x, float centre, double *sum,
                          double *squares)
{
    float lanes[LANES] = {0.0f}, square_lanes[LANES] = {0.0f};
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            const float d = x[i + j] - centre;
            lanes[j] += d;
            square_lanes[j] += d * d;
        }
    }
    for (int j = 0; i + j < n; j++) {
        const float d = x[i + j] - centre;
        lanes[j] += d;
        square_lanes[j] += d * d;
    }
    *sum += total(lanes);
    *squares += total(square_lanes);
}

static double centred_block(int64_t n, const float *restrict dy, const float *restrict x,
                            float mean)
{
    float lanes[LANES] = {0.0f};
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) lanes[j] += dy[i + j] * (x[i + j] - mean);
    }
    for (int j = 0; i + j < n; j++) lanes[j] += dy[i + j] * (x[i + j] - mean);
    return total(lanes);
}

double nn_cpu_sum(int64_t n, const float *x)
{
    double sum = 0.0;

    for (int64_t i = 0; i < n; i += BLOCK) sum += sum_block(nn_cpu_least(BLOCK, n - i), x + i);
    return sum;
}

double nn_cpu_dot(int64_t n, const float *x, const float *y)
{
    double sum = 0.0;

    for (int64_t i = 0; i < n; i += BLOCK) {
        sum += dot_block(nn_cpu_least(BLOCK, n - i), x + i, y + i);
    }
    return sum;
}

void nn_cpu_add_moments(int64_t n, const float *x, float centre, double *sum, double *squares)
{
    for (int64_t i = 0; i < n; i += BLOCK) {
        moments_block(nn_cpu_least(BLOCK, n - i), x + i, centre, sum, squares);
    }
}

double nn_cpu_dot_centred(int64_t n, const float *dy, const float *x, float mean)
{
    double sum = 0.0;

    for (int64_t i = 0; i < n; i += BLOCK) {
        sum += centred_block(nn_cpu_least(BLOCK, n - i), dy + i, x + i, mean);
    }
    return sum;
}
