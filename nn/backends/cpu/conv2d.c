#include "nn/backends/cpu/conv2d_internal.h"
#include "nn/backends/cpu/conv_gradient_internal.h"
#include "nn/backends/cpu/conv_planes_internal.h"
#include "nn/backends/cpu/conv_sweep_internal.h"
#include "nn/backends/cpu/layout_internal.h"
#include "nn/backends/cpu/winograd_internal.h"

#include <string.h>

/* Which kernel a convolution gets, from its geometry without the number of images: Winograd's, or
 * sweeps over blocks of channels, sweeps over planes, or else the matrix products of
 * conv2d_columns.c on dense copies. */

/* --- Workspace -------------------------------------------------------------------------------- */

static int64_t dense_floats(int64_t n, int64_t c, int64_t spatial)
{
    return nn_cpu_is_blocked(c) ? nn_cpu_div_up(n * c * spatial, NN_CPU_BLOCK) * NN_CPU_BLOCK : 0;
}

static int64_t forward_floats(const nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv_sweep sweep;

    nn_conv_sweep_forward(geom, &sweep);
    return nn_conv_sweep_filter_floats(&sweep) + sweep.dst_blocks * NN_CPU_BLOCK +
           backend->n_threads * sweep.copy_floats;
}

static int64_t data_floats(const nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv_sweep sweep;

    nn_conv_sweep_backward(geom, &sweep);
    return nn_conv_sweep_filter_floats(&sweep) + backend->n_threads * sweep.copy_floats;
}

static int64_t filter_floats(const nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv_gradient plan;

    nn_conv_gradient_plan(geom, &plan);
    return plan.total_floats + backend->n_threads * plan.scratch_floats;
}

static int64_t winograd_floats(const nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_winograd there, back;
    nn_winograd_gradient plan;

    nn_winograd_forward(geom, &there);
    nn_winograd_backward(geom, &back);
    nn_winograd_gradient_plan(geom, &plan);
    const int64_t forward = there.dst_blocks * NN_CPU_BLOCK +
                            nn_winograd_workspace_floats(&there, backend->n_threads);
    const int64_t data = nn_winograd_workspace_floats(&back, backend->n_threads);

    return nn_cpu_most(nn_cpu_most(forward, data),
                       plan.total_floats + backend->n_threads * plan.scratch_floats);
}

/* Dense x and y, and what the columns need. */
static int64_t columns_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    return dense_floats(geom->n, geom->c, geom->h * geom->w) +
           dense_floats(geom->n, geom->k, geom->p * geom->q) +
           nn_cpu_div_up((int64_t)nn_cpu_columns_workspace_bytes(backend, geom), sizeof(float));
}

/* Sweeps over planes, where dst has few channels; 0 where it has not. */
static int64_t planes_floats(const nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv_planes planes;
    int64_t n = 0;

    if (nn_conv_planes_fits_forward(geom)) {
        nn_conv_planes_forward(geom, &planes);
        n = nn_cpu_most(nn_conv_planes_workspace_floats(&planes, backend->n_threads),
                        nn_conv_planes_gradient_floats(geom, backend->n_threads));
    }
    if (nn_conv_planes_fits_backward(geom)) {
        nn_conv_planes_backward(geom, &planes);
        n = nn_cpu_most(n, nn_conv_planes_workspace_floats(&planes, backend->n_threads));
    }
    if (nn_conv_planes_spread_fits(geom)) {
        n = nn_cpu_most(n, nn_conv_planes_spread_floats(geom, backend->n_threads));
    }
    if (nn_conv_planes_outer_fits(geom)) {
        n = nn_cpu_most(n, nn_conv_planes_outer_floats(geom, backend->n_threads));
    }
    return n;
}

static int data_fits(const nn_conv2d_geom *geom)
{
    return nn_conv_sweep_fits(geom) && nn_cpu_is_blocked(geom->c);
}

/* Whether one of the passes has no kernel but the matrix products. */
static int needs_columns(const nn_conv2d_geom *geom)
{
    return (!nn_conv_sweep_fits(geom) && !nn_conv_planes_fits_forward(geom)) ||
           (!data_fits(geom) && !nn_conv_planes_fits_backward(geom));
}

size_t nn_cpu_conv2d_workspace_bytes(nn_backend *backend, const nn_conv2d_geom *geom)
{
    int64_t n = 0;

    if (nn_winograd_fits(geom)) return (size_t)winograd_floats(backend, geom) * sizeof(float);
    if (nn_conv_sweep_fits(geom)) {
        n = nn_cpu_most(forward_floats(backend, geom), filter_floats(backend, geom));
    }
    n = nn_cpu_most(n, planes_floats(backend, geom));
    if (data_fits(geom)) n = nn_cpu_most(n, data_floats(backend, geom));
    if (needs_columns(geom)) n = nn_cpu_most(n, columns_floats(backend, geom));
    return (size_t)n * sizeof(float);
}

/* --- Dense copies ----------------------------------------------------------------------------- */

/* Where a dense x and y stand in the workspace; blocked ones need it. */
typedef struct dense_copies {
    float *x, *y;
    void *rest;
} dense_copies;

static dense_copies copies_in(const nn_conv2d_geom *geom, void *workspace)
{
    float *const x = workspace;
    float *const y = x + dense_floats(geom->n, geom->c, geom->h * geom->w);

    return (dense_copies){x, y, y + dense_floats(geom->n, geom->k, geom->p * geom->q)};
}

/* The tensor itself if it is dense, else a copy. */
static const float *as_dense(nn_backend *backend, int64_t n, int64_t c, int64_t spatial,
                             const float *x, float *copy)
{
    if (!nn_cpu_is_blocked(c)) return x;
    nn_cpu_unpack_blocks(backend, n, c, spatial, x, copy);
    return copy;
}

static cvy_status columns_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                  const float *filter, const float *bias, float *y, void *workspace)
{
    const dense_copies copies = copies_in(geom, workspace);
    const int is_blocked = nn_cpu_is_blocked(geom->k);
    const float *from = as_dense(backend, geom->n, geom->c, geom->h * geom->w, x, copies.x);

    CVY_RETURN_IF_ERR(nn_cpu_columns_forward(backend, geom, from, filter, bias,
                                             is_blocked ? copies.y : y, copies.rest));
    if (is_blocked) {
        nn_cpu_pack_blocks(backend, geom->n, geom->k, geom->p * geom->q, copies.y, y, 0);
    }
    return CVY_OK;
}

static cvy_status columns_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                        const float *dy, const float *filter, float *dx,
                                        int accumulate, void *workspace)
{
    const dense_copies copies = copies_in(geom, workspace);
    const float *from = as_dense(backend, geom->n, geom->k, geom->p * geom->q, dy, copies.y);

    if (!nn_cpu_is_blocked(geom->c)) {
        return nn_cpu_columns_backward_data(backend, geom, from, filter, dx, accumulate,
                                            copies.rest);
    }
    CVY_RETURN_IF_ERR(
        nn_cpu_columns_backward_data(backend, geom, from, filter, copies.x, 0, copies.rest));
    nn_cpu_pack_blocks(backend, geom->n, geom->c, geom->h * geom->w, copies.x, dx, accumulate);
    return CVY_OK;
}

static cvy_status columns_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                          const float *x, const float *dy, float *dfilter,
                                          float *dbias, void *workspace)
{
    const dense_copies copies = copies_in(geom, workspace);

    return nn_cpu_columns_backward_filter(
        backend, geom, as_dense(backend, geom->n, geom->c, geom->h * geom->w, x, copies.x),
        as_dense(backend, geom->n, geom->k, geom->p * geom->q, dy, copies.y), dfilter, dbias,
        copies.rest);
}

/* --- The slots -------------------------------------------------------------------------------- */

/* bias: stored channels, as kernels read it; NULL stays NULL. */
static const float *padded_bias(int64_t k, const float *bias, float *padded)
{
    if (bias == NULL) return NULL;
    for (int64_t i = 0; i < nn_cpu_blocks(k) * NN_CPU_BLOCK; i++)
        padded[i] = i < k ? bias[i] : 0.0f;
    return padded;
}

static void winograd_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                             const float *filter, const float *bias, float *y, float *workspace)
{
    nn_winograd wino;

    nn_winograd_forward(geom, &wino);
    const nn_wino_filters filters = {.at = filter, .dst_stride = geom->c * 9, .src_stride = 9};
    nn_winograd_run(backend, &wino, x, &filters, padded_bias(geom->k, bias, workspace), y, 0,
                    workspace + wino.dst_blocks * NN_CPU_BLOCK);
}

static void winograd_backward_data(nn_backend *backend, const nn_conv2d_geom *geom, const float *dy,
                                   const float *filter, float *dx, int accumulate, float *workspace)
{
    nn_winograd wino;

    nn_winograd_backward(geom, &wino);
    const nn_wino_filters filters = {
        .at = filter, .dst_stride = 9, .src_stride = geom->c * 9, .is_turned = 1};
    nn_winograd_run(backend, &wino, dy, &filters, NULL, dx, accumulate, workspace);
}

static void planes_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                           const float *filter, const float *bias, float *y, float *workspace)
{
    const int64_t n_taps = geom->r * geom->s;
    nn_conv_planes planes;

    nn_conv_planes_forward(geom, &planes);
    nn_conv_planes_run(
        backend, &planes, x,
        (nn_planes_filter){.at = filter, .dst_stride = geom->c * n_taps, .src_stride = n_taps},
        bias, y, 0, workspace);
}

static void planes_backward_data(nn_backend *backend, const nn_conv2d_geom *geom, const float *dy,
                                 const float *filter, float *dx, int accumulate, float *workspace)
{
    const int64_t n_taps = geom->r * geom->s;
    nn_conv_planes planes;

    nn_conv_planes_backward(geom, &planes);
    nn_conv_planes_run(
        backend, &planes, dy,
        (nn_planes_filter){
            .at = filter, .dst_stride = n_taps, .src_stride = geom->c * n_taps, .is_turned = 1},
        NULL, dx, accumulate, workspace);
}

cvy_status nn_cpu_conv2d_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                 const float *filter, const float *bias, float *y, void *workspace)
{
    nn_conv_sweep sweep;

    if (nn_winograd_fits(geom)) {
        winograd_forward(backend, geom, x, filter, bias, y, workspace);
        return CVY_OK;
    }
    if (nn_conv_planes_fits_forward(geom)) {
        planes_forward(backend, geom, x, filter, bias, y, workspace);
        return CVY_OK;
    }
    if (nn_conv_planes_spread_fits(geom)) {
        nn_conv_planes_spread_run(backend, geom, x, filter, bias, y, workspace);
        return CVY_OK;
    }
    if (!nn_conv_sweep_fits(geom)) {
        return columns_forward(backend, geom, x, filter, bias, y, workspace);
    }
    nn_conv_sweep_forward(geom, &sweep);
    const int64_t n_taps = geom->r * geom->s;
    float *const packed = workspace;
    float *const place = packed + nn_conv_sweep_filter_floats(&sweep);

    nn_conv_sweep_pack_filter(backend, &sweep, filter, geom->c * n_taps, n_taps, packed);
    nn_conv_sweep_run(backend, &sweep, x, packed, padded_bias(geom->k, bias, place), y, 0,
                      place + sweep.dst_blocks * NN_CPU_BLOCK);
    return CVY_OK;
}

cvy_status nn_cpu_conv2d_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                       const float *dy, const float *filter, float *dx,
                                       int accumulate, void *workspace)
{
    nn_conv_sweep sweep;

    if (nn_winograd_fits(geom)) {
        winograd_backward_data(backend, geom, dy, filter, dx, accumulate, workspace);
        return CVY_OK;
    }
    if (nn_conv_planes_fits_backward(geom)) {
        planes_backward_data(backend, geom, dy, filter, dx, accumulate, workspace);
        return CVY_OK;
    }
    if (!data_fits(geom)) {
        return columns_backward_data(backend, geom, dy, filter, dx, accumulate, workspace);
    }
    nn_conv_sweep_backward(geom, &sweep);
    const int64_t n_taps = geom->r * geom->s;
    float *const packed = workspace;

    nn_conv_sweep_pack_filter(backend, &sweep, filter, n_taps, geom->c * n_taps, packed);
    nn_conv_sweep_run(backend, &sweep, dy, packed, NULL, dx, accumulate,
                      packed + nn_conv_sweep_filter_floats(&sweep));
    return CVY_OK;
}

typedef struct bias_pass {
    const nn_conv2d_geom *geom;
    const float *dy;
    float *dbias;
} bias_pass;

/* One block of channels: float lanes over some pixels, then doubles, images in order. */
static void bias_chunk(void *arg, int64_t block, int thread_idx)
{
    enum { RUN = 256 };
    const bias_pass *pass = arg;
    const nn_conv2d_geom *geom = pass->geom;
    const int64_t spatial = geom->p * geom->q, blocks = nn_cpu_blocks(geom->k);
    double sum[NN_CPU_BLOCK] = {0.0};

    (void)thread_idx;
    for (int64_t n = 0; n < geom->n; n++) {
        const float *dy = pass->dy + (n * blocks + block) * spatial * NN_CPU_BLOCK;
        for (int64_t first = 0; first < spatial; first += RUN) {
            const int64_t end = nn_cpu_least(spatial, first + RUN);
            float lanes[NN_CPU_BLOCK] = {0.0f};
            for (int64_t i = first; i < end; i++) {
                for (int c = 0; c < NN_CPU_BLOCK; c++) lanes[c] += dy[i * NN_CPU_BLOCK + c];
            }
            for (int c = 0; c < NN_CPU_BLOCK; c++) sum[c] += (double)lanes[c];
        }
    }
    for (int64_t c = 0; c < NN_CPU_BLOCK && block * NN_CPU_BLOCK + c < geom->k; c++) {
        pass->dbias[block * NN_CPU_BLOCK + c] = (float)sum[c];
    }
}

cvy_status nn_cpu_conv2d_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                         const float *x, const float *dy, float *dfilter,
                                         float *dbias, void *workspace)
{
    if (nn_conv_planes_fits_forward(geom)) {
        nn_conv_planes_gradient_run(backend, geom, x, dy, dfilter, dbias, workspace);
        return CVY_OK;
    }
    if (nn_conv_planes_outer_fits(geom)) {
        nn_conv_planes_outer_run(backend, geom, x, dy, dfilter, dbias, workspace);
        return CVY_OK;
    }
    if (nn_winograd_fits(geom)) {
        nn_winograd_gradient plan;
        nn_winograd_gradient_plan(geom, &plan);
        nn_winograd_gradient_run(backend, &plan, x, dy, dfilter, workspace,
                                 (float *)workspace + plan.total_floats);
    } else if (nn_conv_sweep_fits(geom)) {
        nn_conv_gradient plan;
        nn_conv_gradient_plan(geom, &plan);
        nn_conv_gradient_run(backend, &plan, x, dy, dfilter, workspace,
                             (float *)workspace + plan.total_floats);
    } else {
        return columns_backward_filter(backend, geom, x, dy, dfilter, dbias, workspace);
    }
    if (dbias != NULL) {
        nn_cpu_run(backend, nn_cpu_blocks(geom->k), bias_chunk,
                   &(bias_pass){.geom = geom, .dy = dy, .dbias = dbias});
    }
    return CVY_OK;
}
