#include "nn/backends/cpu/batchnorm_blocks_internal.h"
#include "nn/backends/cpu/layout_internal.h"

#include <math.h>

/* One channel is one chunk: its n runs of `spatial` floats are read two or three times while they
 * are in the cache. Sums over a run are those of reduce.c, runs are added in double in the order of
 * the images. */
typedef struct bn_forward {
    nn_cpu_bn bn;
    int64_t channels_per_chunk;
} bn_forward;

/* Channels of few elements go several to a chunk, so that a chunk is worth its hand-over. */
static int64_t channels_per_chunk(const nn_bn_geom *geom)
{
    return nn_cpu_most(1, 4096 / (geom->n * geom->spatial));
}

static void normalise(int64_t n, const float *restrict x, float mean, float scale, float shift,
                      float *restrict y)
{
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * scale + shift;
}

static void normalise_in_place(int64_t n, float mean, float scale, float shift, float *restrict y)
{
    for (int64_t i = 0; i < n; i++) y[i] = (y[i] - mean) * scale + shift;
}

static void normalise_added(int64_t n, const float *restrict x, float mean, float scale,
                            float shift, float *restrict y)
{
    for (int64_t i = 0; i < n; i++) y[i] += (x[i] - mean) * scale + shift;
}

static void add_row(int64_t n, const float *restrict x, float *restrict y)
{
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

/* What y = (x - mean) scale + shift takes. */
typedef struct channel_line {
    float mean, scale, shift;
} channel_line;

/* y may be x or the residual. */
static void write_channel(const nn_cpu_bn *bn, int64_t c, channel_line line)
{
    const int64_t n_row = bn->geom->spatial;

    for (int64_t n = 0; n < bn->geom->n; n++) {
        const int64_t at = (n * bn->geom->c + c) * n_row;
        float *y = bn->y + at;
        if (bn->residual == bn->y) {
            normalise_added(n_row, bn->x + at, line.mean, line.scale, line.shift, y);
            continue;
        }
        if (bn->x == bn->y) {
            normalise_in_place(n_row, line.mean, line.scale, line.shift, y);
        } else {
            normalise(n_row, bn->x + at, line.mean, line.scale, line.shift, y);
        }
        if (bn->residual != NULL) add_row(n_row, bn->residual + at, y);
    }
}

/* What the mean loses as a float goes into the shift: a mean far from 0 costs no accuracy. */
static void normalise_channel(const nn_cpu_bn *bn, int64_t c, double mean, double scale)
{
    const float centre = (float)mean;
    const channel_line line = {
        .mean = centre,
        .scale = (float)scale,
        .shift = (float)((double)bn->beta[c] - (mean - (double)centre) * scale)};

    write_channel(bn, c, line);
    if (bn->scale == NULL) return;
    bn->scale[c] = line.scale;
    bn->shift[c] = line.shift;
}

/* Mean, and sum of (x - mean)^2. The first pass gives a centre near the mean; what the second finds
 * around it mends the mean and the squares, so an offset of the channel costs no accuracy. */
static void channel_moments(const nn_bn_geom *geom, const float *x, double *out_mean,
                            double *out_squares)
{
    const double count = (double)(geom->n * geom->spatial);
    const int64_t step = geom->c * geom->spatial;
    double rough = 0.0, sum = 0.0, squares = 0.0;

    for (int64_t n = 0; n < geom->n; n++) rough += nn_cpu_sum(geom->spatial, x + n * step);
    const float centre = (float)(rough / count);
    for (int64_t n = 0; n < geom->n; n++) {
        nn_cpu_add_moments(geom->spatial, x + n * step, centre, &sum, &squares);
    }
    squares -= sum * sum / count;
    *out_mean = (double)centre + sum / count;
    *out_squares = squares < 0.0 ? 0.0 : squares;
}

static void forward_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const bn_forward *forward = arg;
    const nn_cpu_bn *bn = &forward->bn;
    const nn_bn_geom *geom = bn->geom;
    const int64_t count = geom->n * geom->spatial;
    const nn_cpu_span span = nn_cpu_part(geom->c, forward->channels_per_chunk, chunk_idx);

    (void)thread_idx;
    for (int64_t c = span.first; c < span.first + span.n; c++) {
        double mean = 0.0, squares = 0.0;
        channel_moments(geom, bn->x + c * geom->spatial, &mean, &squares);
        const double invstd = 1.0 / sqrt(squares / (double)count + geom->eps);

        normalise_channel(bn, c, mean, (double)bn->gamma[c] * invstd);
        bn->mean[c] = (float)mean;
        bn->invstd[c] = (float)invstd;
        bn->batch_var[c] = (float)(squares / (double)(count > 1 ? count - 1 : 1));
    }
}

/* Normalisation and sum; the rectifier is the caller's. */
void nn_cpu_bn_planes_forward(nn_backend *backend, const nn_cpu_bn *bn)
{
    bn_forward forward = {.bn = *bn, .channels_per_chunk = channels_per_chunk(bn->geom)};

    nn_cpu_run(backend, nn_cpu_div_up(bn->geom->c, forward.channels_per_chunk), forward_chunk,
               &forward);
}

cvy_status nn_cpu_batchnorm_forward(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                    const float *gamma, const float *beta, float *y, float *mean,
                                    float *invstd, float *batch_var)
{
    const nn_cpu_bn bn = {.geom = geom,
                          .x = x,
                          .gamma = gamma,
                          .beta = beta,
                          .y = y,
                          .mean = mean,
                          .invstd = invstd,
                          .batch_var = batch_var};

    if (nn_cpu_is_blocked(geom->c)) {
        nn_cpu_bn_forward(backend, &bn);
    } else {
        nn_cpu_bn_planes_forward(backend, &bn);
    }
    return CVY_OK;
}

typedef struct bn_inference {
    nn_cpu_bn bn;
    int64_t channels_per_chunk;
    const float *mean, *var; /* var NULL: by scale and shift of bn */
} bn_inference;

static void inference_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const bn_inference *inference = arg;
    const nn_cpu_bn *bn = &inference->bn;
    const nn_cpu_span span = nn_cpu_part(bn->geom->c, inference->channels_per_chunk, chunk_idx);

    (void)thread_idx;
    for (int64_t c = span.first; c < span.first + span.n; c++) {
        if (inference->var == NULL) {
            write_channel(bn, c, (channel_line){bn->mean[c], bn->scale[c], bn->shift[c]});
            continue;
        }
        normalise_channel(bn, c, (double)inference->mean[c],
                          (double)bn->gamma[c] / sqrt((double)inference->var[c] + bn->geom->eps));
    }
}

static void run_inference(nn_backend *backend, bn_inference *inference)
{
    const nn_bn_geom *geom = inference->bn.geom;

    inference->channels_per_chunk = channels_per_chunk(geom);
    nn_cpu_run(backend, nn_cpu_div_up(geom->c, inference->channels_per_chunk), inference_chunk,
               inference);
}

void nn_cpu_bn_planes_inference(nn_backend *backend, const nn_cpu_bn *bn, const float *mean,
                                const float *var)
{
    bn_inference inference = {.bn = *bn, .mean = mean, .var = var};

    run_inference(backend, &inference);
}

void nn_cpu_bn_planes_again(nn_backend *backend, const nn_cpu_bn *bn)
{
    bn_inference inference = {.bn = *bn};

    run_inference(backend, &inference);
}

cvy_status nn_cpu_batchnorm_inference(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                      const float *gamma, const float *beta, const float *mean,
                                      const float *var, float *y)
{
    const nn_cpu_bn bn = {.geom = geom, .x = x, .gamma = gamma, .beta = beta, .y = y};

    if (nn_cpu_is_blocked(geom->c)) {
        nn_cpu_bn_inference(backend, &bn, mean, var);
    } else {
        nn_cpu_bn_planes_inference(backend, &bn, mean, var);
    }
    return CVY_OK;
}

typedef struct bn_backward {
    const nn_bn_geom *geom;
    int64_t channels_per_chunk;
    const float *x, *dy, *gamma, *mean, *invstd;
    float *dx, *dgamma, *dbeta;
    int accumulate;
} bn_backward;

/* dx = a dy + (b (x - mean) + c): the formula of the reference with its constants taken together.
 */
typedef struct bn_line {
    float a, b, c, mean;
} bn_line;

static void gradient(int64_t n, const float *restrict x, const float *restrict dy, bn_line line,
                     float *restrict dx)
{
    for (int64_t i = 0; i < n; i++) {
        dx[i] = line.a * dy[i] + (line.b * (x[i] - line.mean) + line.c);
    }
}

static void gradient_in_place(int64_t n, const float *restrict x, bn_line line, float *restrict dx)
{
    for (int64_t i = 0; i < n; i++) {
        dx[i] = line.a * dx[i] + (line.b * (x[i] - line.mean) + line.c);
    }
}

static void gradient_added(int64_t n, const float *restrict x, const float *restrict dy,
                           bn_line line, float *restrict dx)
{
    for (int64_t i = 0; i < n; i++) {
        dx[i] += line.a * dy[i] + (line.b * (x[i] - line.mean) + line.c);
    }
}

static void backward_channel(const bn_backward *bn, int64_t c)
{
    const nn_bn_geom *geom = bn->geom;
    const int64_t step = geom->c * geom->spatial;
    const float *x = bn->x + c * geom->spatial, *dy = bn->dy + c * geom->spatial;
    float *dx = bn->dx + c * geom->spatial;
    const double count = (double)(geom->n * geom->spatial), invstd = (double)bn->invstd[c];
    double sum = 0.0, product = 0.0;

    for (int64_t n = 0; n < geom->n; n++) {
        sum += nn_cpu_sum(geom->spatial, dy + n * step);
        product += nn_cpu_dot_centred(geom->spatial, dy + n * step, x + n * step, bn->mean[c]);
    }
    product *= invstd;
    bn->dgamma[c] = (float)product;
    bn->dbeta[c] = (float)sum;

    const double a = (double)bn->gamma[c] * invstd;
    const bn_line line = {.a = (float)a,
                          .b = (float)(-a * invstd * product / count),
                          .c = (float)(-a * sum / count),
                          .mean = bn->mean[c]};
    for (int64_t n = 0; n < geom->n; n++) {
        const int64_t at = n * step;
        if (bn->accumulate) {
            gradient_added(geom->spatial, x + at, dy + at, line, dx + at);
        } else if (dx == dy) {
            gradient_in_place(geom->spatial, x + at, line, dx + at);
        } else {
            gradient(geom->spatial, x + at, dy + at, line, dx + at);
        }
    }
}

static void backward_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const bn_backward *bn = arg;
    const nn_cpu_span span = nn_cpu_part(bn->geom->c, bn->channels_per_chunk, chunk_idx);

    (void)thread_idx;
    for (int64_t c = span.first; c < span.first + span.n; c++) backward_channel(bn, c);
}

cvy_status nn_cpu_batchnorm_backward(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                     const float *dy, const float *gamma, const float *mean,
                                     const float *invstd, float *dx, int accumulate, float *dgamma,
                                     float *dbeta)
{
    if (nn_cpu_is_blocked(geom->c)) {
        nn_cpu_bn_backward(backend, &(nn_cpu_bn_gradient){.geom = geom,
                                                          .x = x,
                                                          .dy = dy,
                                                          .gamma = gamma,
                                                          .mean = mean,
                                                          .invstd = invstd,
                                                          .dx = dx,
                                                          .accumulate = accumulate,
                                                          .dgamma = dgamma,
                                                          .dbeta = dbeta});
        return CVY_OK;
    }
    bn_backward bn = {.geom = geom,
                      .channels_per_chunk = channels_per_chunk(geom),
                      .x = x,
                      .dy = dy,
                      .gamma = gamma,
                      .mean = mean,
                      .invstd = invstd,
                      .dx = dx,
                      .dgamma = dgamma,
                      .dbeta = dbeta,
                      .accumulate = accumulate};

    nn_cpu_run(backend, nn_cpu_div_up(geom->c, bn.channels_per_chunk), backward_chunk, &bn);
    return CVY_OK;
}
