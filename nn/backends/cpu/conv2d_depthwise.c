#include "nn/backends/cpu/conv2d_internal.h"

#include <string.h>

/* One input channel per group, group_k = k / c outputs for each. A product of matrices would have
 * r s rows: too few. So every tap is a sweep along the rows of a plane; a chunk is one plane. */
typedef struct depthwise_pass {
    const nn_conv2d_geom *geom;
    const float *x, *filter, *bias, *dy;
    float *y, *dx, *dfilter;
    int accumulate;
} depthwise_pass;

/* y += weight * x, x strided. */
static void add_scaled(int64_t n, float weight, const float *restrict x, int64_t stride,
                       float *restrict y)
{
    if (stride == 1) {
        for (int64_t i = 0; i < n; i++) y[i] += weight * x[i];
    } else {
        for (int64_t i = 0; i < n; i++) y[i] += weight * x[i * stride];
    }
}

/* x += weight * y, x strided. */
static void add_scaled_back(int64_t n, float weight, const float *restrict y, float *restrict x,
                            int64_t stride)
{
    if (stride == 1) {
        for (int64_t i = 0; i < n; i++) x[i] += weight * y[i];
    } else {
        for (int64_t i = 0; i < n; i++) x[i * stride] += weight * y[i];
    }
}

/* Column j goes to lane j % LANES: rows are too short for sums that start anew at each. */
enum { LANES = 16 };

static void add_products(int64_t n, const float *restrict x, int64_t stride,
                         const float *restrict y, float lanes[LANES])
{
    int64_t i = 0;

    if (stride == 1) {
        for (; i + LANES <= n; i += LANES) {
            for (int j = 0; j < LANES; j++) lanes[j] += x[i + j] * y[i + j];
        }
        for (int j = 0; i + j < n; j++) lanes[j] += x[i + j] * y[i + j];
        return;
    }
    for (; i < n; i++) lanes[i % LANES] += x[i * stride] * y[i];
}

/* One tap of a filter over a plane: output rows and columns that meet the input, and the place of
 * the input that the first of them meets. */
typedef struct sweep {
    nn_cpu_span rows, cols;
    int64_t from, row_step;
} sweep;

static sweep sweep_of(const nn_conv2d_geom *geom, int64_t tap_idx)
{
    const int64_t row_offset = tap_idx / geom->s * geom->dil_h - geom->pad_h;
    const int64_t col_offset = tap_idx % geom->s * geom->dil_w - geom->pad_w;
    sweep of = {.rows = nn_cpu_conv_reach(row_offset, geom->stride_h, geom->h, geom->p),
                .cols = nn_cpu_conv_reach(col_offset, geom->stride_w, geom->w, geom->q),
                .row_step = geom->stride_h * geom->w};

    of.from = (of.rows.first * geom->stride_h + row_offset) * geom->w +
              of.cols.first * geom->stride_w + col_offset;
    if (of.cols.n == 0) of.rows.n = 0; /* from is then no place in the plane */
    return of;
}

static int64_t output_place(const nn_conv2d_geom *geom, sweep tap, int64_t row)
{
    return (tap.rows.first + row) * geom->q + tap.cols.first;
}

static void forward_plane(void *arg, int64_t plane_idx, int thread_idx)
{
    const depthwise_pass *pass = arg;
    const nn_conv2d_geom *geom = pass->geom;
    const int64_t n = plane_idx / geom->k, k = plane_idx % geom->k, taps = geom->r * geom->s;
    const int64_t c = k / (geom->k / geom->groups);
    const float *x = pass->x + (n * geom->c + c) * geom->h * geom->w;
    float *y = pass->y + plane_idx * geom->p * geom->q;
    const float start = pass->bias != NULL ? pass->bias[k] : 0.0f;

    (void)thread_idx;
    for (int64_t i = 0; i < geom->p * geom->q; i++) y[i] = start;
    for (int64_t tap_idx = 0; tap_idx < taps; tap_idx++) {
        const sweep tap = sweep_of(geom, tap_idx);
        for (int64_t row = 0; row < tap.rows.n; row++) {
            add_scaled(tap.cols.n, pass->filter[k * taps + tap_idx],
                       x + tap.from + row * tap.row_step, geom->stride_w,
                       y + output_place(geom, tap, row));
        }
    }
}

void nn_cpu_depthwise_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                              const float *filter, const float *bias, float *y)
{
    depthwise_pass pass = {.geom = geom, .x = x, .filter = filter, .bias = bias, .y = y};

    nn_cpu_run(backend, geom->n * geom->k, forward_plane, &pass);
}

static void data_plane(void *arg, int64_t plane_idx, int thread_idx)
{
    const depthwise_pass *pass = arg;
    const nn_conv2d_geom *geom = pass->geom;
    const int64_t n = plane_idx / geom->c, c = plane_idx % geom->c, taps = geom->r * geom->s;
    const int64_t group_k = geom->k / geom->groups, size = geom->h * geom->w;
    float *dx = pass->dx + plane_idx * size;

    (void)thread_idx;
    if (!pass->accumulate) memset(dx, 0, (size_t)size * sizeof(float));
    for (int64_t k = c * group_k; k < (c + 1) * group_k; k++) {
        const float *dy = pass->dy + (n * geom->k + k) * geom->p * geom->q;
        for (int64_t tap_idx = 0; tap_idx < taps; tap_idx++) {
            const sweep tap = sweep_of(geom, tap_idx);
            for (int64_t row = 0; row < tap.rows.n; row++) {
                add_scaled_back(tap.cols.n, pass->filter[k * taps + tap_idx],
                                dy + output_place(geom, tap, row),
                                dx + tap.from + row * tap.row_step, geom->stride_w);
            }
        }
    }
}

void nn_cpu_depthwise_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                    const float *dy, const float *filter, float *dx, int accumulate)
{
    depthwise_pass pass = {
        .geom = geom, .dy = dy, .filter = filter, .dx = dx, .accumulate = accumulate};

    nn_cpu_run(backend, geom->n * geom->c, data_plane, &pass);
}

/* Sum over a plane of x under the tap times dy. */
static double tap_product(const nn_conv2d_geom *geom, sweep tap, const float *x, const float *dy)
{
    float lanes[LANES] = {0.0f};
    double sum = 0.0;

    for (int64_t row = 0; row < tap.rows.n; row++) {
        add_products(tap.cols.n, x + tap.from + row * tap.row_step, geom->stride_w,
                     dy + output_place(geom, tap, row), lanes);
    }
    for (int j = 0; j < LANES; j++) sum += (double)lanes[j];
    return sum;
}

/* A chunk is one output channel: its taps, images in order. */
static void filter_plane(void *arg, int64_t k, int thread_idx)
{
    const depthwise_pass *pass = arg;
    const nn_conv2d_geom *geom = pass->geom;
    const int64_t c = k / (geom->k / geom->groups), taps = geom->r * geom->s;

    (void)thread_idx;
    for (int64_t tap_idx = 0; tap_idx < taps; tap_idx++) {
        const sweep tap = sweep_of(geom, tap_idx);
        double sum = 0.0;
        for (int64_t n = 0; n < geom->n; n++) {
            sum += tap_product(geom, tap, pass->x + (n * geom->c + c) * geom->h * geom->w,
                               pass->dy + (n * geom->k + k) * geom->p * geom->q);
        }
        pass->dfilter[k * taps + tap_idx] = (float)sum;
    }
}

void nn_cpu_depthwise_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                      const float *x, const float *dy, float *dfilter)
{
    depthwise_pass pass = {.geom = geom, .x = x, .dy = dy, .dfilter = dfilter};

    nn_cpu_run(backend, geom->k, filter_plane, &pass);
}
