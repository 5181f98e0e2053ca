#include "nn/backends/ref/ref_internal.h"

#include <math.h>

/* The part of a window that lies inside the plane: rows [row0, row1), columns [col0, col1). */
typedef struct window {
    int64_t row0, row1, col0, col1;
} window;

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static window window_at(const nn_pool2d_geom *geom, int64_t p, int64_t q)
{
    const int64_t row = p * geom->stride_h - geom->pad_h, col = q * geom->stride_w - geom->pad_w;

    return (window){most(row, 0), least(row + geom->r, geom->h), most(col, 0),
                    least(col + geom->s, geom->w)};
}

static int64_t place_of_max(const nn_pool2d_geom *geom, const float *plane, window at)
{
    int64_t best = at.row0 * geom->w + at.col0;

    for (int64_t row = at.row0; row < at.row1; row++) {
        for (int64_t col = at.col0; col < at.col1; col++) {
            const float value = plane[row * geom->w + col];
            if (isnan(plane[best])) return best;
            if (value > plane[best] || isnan(value)) best = row * geom->w + col;
        }
    }
    return best;
}

cvy_status nn_ref_maxpool2d_forward(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                    float *y, int32_t *argmax)
{
    int64_t i = 0;

    (void)backend;
    for (int64_t plane_idx = 0; plane_idx < geom->n * geom->c; plane_idx++) {
        const float *plane = x + plane_idx * geom->h * geom->w;
        for (int64_t p = 0; p < geom->p; p++) {
            for (int64_t q = 0; q < geom->q; q++, i++) {
                const int64_t best = place_of_max(geom, plane, window_at(geom, p, q));
                y[i] = plane[best];
                argmax[i] = (int32_t)best;
            }
        }
    }
    return CVY_OK;
}

static void clear_unless(int accumulate, const nn_pool2d_geom *geom, float *dx)
{
    if (accumulate) return;
    for (int64_t i = 0; i < geom->n * geom->c * geom->h * geom->w; i++) dx[i] = 0.0f;
}

cvy_status nn_ref_maxpool2d_backward(nn_backend *backend, const nn_pool2d_geom *geom,
                                     const float *dy, const int32_t *argmax, float *dx,
                                     int accumulate)
{
    const int64_t n_out = geom->p * geom->q;

    (void)backend;
    clear_unless(accumulate, geom, dx);
    for (int64_t i = 0; i < geom->n * geom->c * n_out; i++) {
        dx[i / n_out * geom->h * geom->w + argmax[i]] += dy[i];
    }
    return CVY_OK;
}

static double divisor(const nn_pool2d_geom *geom, window at)
{
    if (geom->count_include_pad) return (double)(geom->r * geom->s);
    return (double)((at.row1 - at.row0) * (at.col1 - at.col0));
}

cvy_status nn_ref_avgpool2d_forward(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                    float *y)
{
    int64_t i = 0;

    (void)backend;
    for (int64_t plane_idx = 0; plane_idx < geom->n * geom->c; plane_idx++) {
        const float *plane = x + plane_idx * geom->h * geom->w;
        for (int64_t p = 0; p < geom->p; p++) {
            for (int64_t q = 0; q < geom->q; q++, i++) {
                const window at = window_at(geom, p, q);
                double sum = 0.0;
                for (int64_t row = at.row0; row < at.row1; row++) {
                    for (int64_t col = at.col0; col < at.col1; col++) {
                        sum += (double)plane[row * geom->w + col];
                    }
                }
                y[i] = (float)(sum / divisor(geom, at));
            }
        }
    }
    return CVY_OK;
}

cvy_status nn_ref_avgpool2d_backward(nn_backend *backend, const nn_pool2d_geom *geom,
                                     const float *dy, float *dx, int accumulate)
{
    int64_t i = 0;

    (void)backend;
    clear_unless(accumulate, geom, dx);
    for (int64_t plane_idx = 0; plane_idx < geom->n * geom->c; plane_idx++) {
        float *plane = dx + plane_idx * geom->h * geom->w;
        for (int64_t p = 0; p < geom->p; p++) {
            for (int64_t q = 0; q < geom->q; q++, i++) {
                const window at = window_at(geom, p, q);
                const float share = (float)((double)dy[i] / divisor(geom, at));
                for (int64_t row = at.row0; row < at.row1; row++) {
                    for (int64_t col = at.col0; col < at.col1; col++) {
                        plane[row * geom->w + col] += share;
                    }
                }
            }
        }
    }
    return CVY_OK;
}
