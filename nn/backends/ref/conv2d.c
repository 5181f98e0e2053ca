#include "nn/backends/ref/ref_internal.h"

/* Cross-correlation as in nn/backend.h. Channel c of group g is the input's g * (c / groups) + c,
 * output k belongs to group k / (k / groups). */

static const float *image_at(const nn_conv2d_geom *geom, const float *x, int64_t n, int64_t c)
{
    return x + (n * geom->c + c) * geom->h * geom->w;
}

static const float *filter_at(const nn_conv2d_geom *geom, const float *filter, int64_t k, int64_t c)
{
    return filter + (k * (geom->c / geom->groups) + c) * geom->r * geom->s;
}

static int64_t first_channel(const nn_conv2d_geom *geom, int64_t k)
{
    return k / (geom->k / geom->groups) * (geom->c / geom->groups);
}

size_t nn_ref_conv2d_workspace_bytes(nn_backend *backend, const nn_conv2d_geom *geom)
{
    (void)backend;
    (void)geom;
    return 0;
}

static double output_at(const nn_conv2d_geom *geom, const float *x, const float *filter, int64_t n,
                        int64_t k, int64_t p, int64_t q)
{
    double sum = 0.0;

    for (int64_t c = 0; c < geom->c / geom->groups; c++) {
        const float *image = image_at(geom, x, n, first_channel(geom, k) + c); /* (h, w) */
        const float *taps = filter_at(geom, filter, k, c);                     /* (r, s) */
        for (int64_t r = 0; r < geom->r; r++) {
            const int64_t row = p * geom->stride_h - geom->pad_h + r * geom->dil_h;
            if (row < 0 || row >= geom->h) continue;
            for (int64_t s = 0; s < geom->s; s++) {
                const int64_t col = q * geom->stride_w - geom->pad_w + s * geom->dil_w;
                if (col < 0 || col >= geom->w) continue;
                sum += (double)image[row * geom->w + col] * (double)taps[r * geom->s + s];
            }
        }
    }
    return sum;
}

cvy_status nn_ref_conv2d_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                 const float *filter, const float *bias, float *y, void *workspace)
{
    int64_t i = 0;

    (void)backend;
    (void)workspace;
    for (int64_t n = 0; n < geom->n; n++) {
        for (int64_t k = 0; k < geom->k; k++) {
            for (int64_t p = 0; p < geom->p; p++) {
                for (int64_t q = 0; q < geom->q; q++) {
                    const double sum = output_at(geom, x, filter, n, k, p, q);
                    y[i++] = (float)(sum + (bias != NULL ? (double)bias[k] : 0.0));
                }
            }
        }
    }
    return CVY_OK;
}

/* The output position that meets input position at through this tap, or -1 when none does. */
static int64_t output_of(int64_t at, int64_t tap, int64_t pad, int64_t stride, int64_t dil,
                         int64_t n_out)
{
    const int64_t from = at + pad - tap * dil;

    if (from < 0 || from % stride != 0) return -1;
    return from / stride < n_out ? from / stride : -1;
}

static double input_gradient_at(const nn_conv2d_geom *geom, const float *dy, const float *filter,
                                int64_t n, int64_t c, int64_t h, int64_t w)
{
    const int64_t group_c = geom->c / geom->groups, group_k = geom->k / geom->groups;
    const int64_t group = c / group_c;
    double sum = 0.0;

    for (int64_t k = group * group_k; k < (group + 1) * group_k; k++) {
        const float *plane = dy + (n * geom->k + k) * geom->p * geom->q; /* (p, q) */
        const float *taps = filter_at(geom, filter, k, c % group_c);     /* (r, s) */
        for (int64_t r = 0; r < geom->r; r++) {
            const int64_t p = output_of(h, r, geom->pad_h, geom->stride_h, geom->dil_h, geom->p);
            if (p < 0) continue;
            for (int64_t s = 0; s < geom->s; s++) {
                const int64_t q = output_of(w, s, geom->pad_w, geom->stride_w, geom->dil_w,
                                            geom->q);
                if (q < 0) continue;
                sum += (double)plane[p * geom->q + q] * (double)taps[r * geom->s + s];
            }
        }
    }
    return sum;
}

cvy_status nn_ref_conv2d_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                       const float *dy, const float *filter, float *dx,
                                       int accumulate, void *workspace)
{
    int64_t i = 0;

    (void)backend;
    (void)workspace;
    for (int64_t n = 0; n < geom->n; n++) {
        for (int64_t c = 0; c < geom->c; c++) {
            for (int64_t h = 0; h < geom->h; h++) {
                for (int64_t w = 0; w < geom->w; w++, i++) {
                    const double sum = input_gradient_at(geom, dy, filter, n, c, h, w);
                    dx[i] = (float)(accumulate ? (double)dx[i] + sum : sum);
                }
            }
        }
    }
    return CVY_OK;
}

static double filter_gradient_at(const nn_conv2d_geom *geom, const float *x, const float *dy,
                                 int64_t k, int64_t c, int64_t r, int64_t s)
{
    double sum = 0.0;

    for (int64_t n = 0; n < geom->n; n++) {
        const float *image = image_at(geom, x, n, first_channel(geom, k) + c); /* (h, w) */
        const float *plane = dy + (n * geom->k + k) * geom->p * geom->q;       /* (p, q) */
        for (int64_t p = 0; p < geom->p; p++) {
            const int64_t row = p * geom->stride_h - geom->pad_h + r * geom->dil_h;
            if (row < 0 || row >= geom->h) continue;
            for (int64_t q = 0; q < geom->q; q++) {
                const int64_t col = q * geom->stride_w - geom->pad_w + s * geom->dil_w;
                if (col < 0 || col >= geom->w) continue;
                sum += (double)image[row * geom->w + col] * (double)plane[p * geom->q + q];
            }
        }
    }
    return sum;
}

static void bias_gradient(const nn_conv2d_geom *geom, const float *dy, float *dbias)
{
    const int64_t plane = geom->p * geom->q;

    for (int64_t k = 0; k < geom->k; k++) {
        double sum = 0.0;
        for (int64_t n = 0; n < geom->n; n++) {
            for (int64_t i = 0; i < plane; i++) sum += (double)dy[(n * geom->k + k) * plane + i];
        }
        dbias[k] = (float)sum;
    }
}

cvy_status nn_ref_conv2d_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                         const float *x, const float *dy, float *dfilter,
                                         float *dbias, void *workspace)
{
    int64_t i = 0;

    (void)backend;
    (void)workspace;
    for (int64_t k = 0; k < geom->k; k++) {
        for (int64_t c = 0; c < geom->c / geom->groups; c++) {
            for (int64_t r = 0; r < geom->r; r++) {
                for (int64_t s = 0; s < geom->s; s++) {
                    dfilter[i++] = (float)filter_gradient_at(geom, x, dy, k, c, r, s);
                }
            }
        }
    }
    if (dbias != NULL) bias_gradient(geom, dy, dbias);
    return CVY_OK;
}
