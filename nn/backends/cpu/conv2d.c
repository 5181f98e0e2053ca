#include "nn/backends/cpu/conv2d_internal.h"
#include "nn/backends/cpu/conv_depthwise_internal.h"
#include "nn/backends/cpu/conv_gradient_internal.h"
#include "nn/backends/cpu/conv_sweep_internal.h"
#include "nn/backends/cpu/layout_internal.h"
#include "nn/backends/cpu/winograd_internal.h"

#include <math.h>

/* Which kernel a convolution gets, from its geometry without the number of images: Winograd's, or
 * sweeps over blocks of channels, or else the matrix products of conv2d_columns.c on dense copies.
 */

/* --- Workspace -------------------------------------------------------------------------------- */

static int64_t dense_floats(int64_t n, int64_t c, int64_t spatial)
{
    return nn_cpu_is_blocked(c) ? nn_cpu_div_up(n * c * spatial, NN_CPU_BLOCK) * NN_CPU_BLOCK : 0;
}

/* A scale and a shift of every stored channel of y. */
static int64_t epilogue_floats(const nn_conv2d_geom *geom)
{
    return 2 * nn_cpu_blocks(geom->k) * NN_CPU_BLOCK;
}

static int64_t forward_floats(const nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv_sweep sweep;

    nn_conv_sweep_forward(geom, &sweep);
    return epilogue_floats(geom) + nn_conv_sweep_filter_floats(&sweep) +
           backend->n_threads * sweep.copy_floats;
}

static int64_t data_floats(const nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv_sweep sweep;

    nn_conv_sweep_backward(geom, &sweep);
    return nn_conv_sweep_filter_floats(&sweep) + backend->n_threads * sweep.copy_floats;
}

static int has_turns(const nn_conv2d_geom *geom)
{
    nn_conv_sweep sweep;

    nn_conv_sweep_forward(geom, &sweep);
    return sweep.turns > 0;
}

static int64_t filter_floats(const nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv_gradient plan;

    if (has_turns(geom)) {
        nn_conv_depthwise depthwise;
        nn_conv_depthwise_plan(geom, &depthwise);
        return depthwise.total_floats + backend->n_threads * depthwise.scratch_floats;
    }
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
    const int64_t forward = epilogue_floats(geom) +
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

static int data_fits(const nn_conv2d_geom *geom)
{
    return nn_conv_sweep_fits(geom) && nn_cpu_is_blocked(geom->c);
}

size_t nn_cpu_conv2d_workspace_bytes(nn_backend *backend, const nn_conv2d_geom *geom)
{
    int64_t n = 0;

    if (nn_winograd_fits(geom)) return (size_t)winograd_floats(backend, geom) * sizeof(float);
    if (nn_conv_sweep_fits(geom)) {
        n = nn_cpu_most(forward_floats(backend, geom), filter_floats(backend, geom));
    }
    n = nn_cpu_most(n,
                    data_fits(geom) ? data_floats(backend, geom) : columns_floats(backend, geom));
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

/* Where the rest of the workspace starts, behind an epilogue's constants. */
static float *behind_epilogue(const nn_conv2d_geom *geom, void *workspace)
{
    return (float *)workspace + epilogue_floats(geom);
}

/* The epilogue of a bias and a tail, either may be NULL; constants (epilogue_floats()) take its
 * scale and shift. */
static nn_conv_epilogue make_epilogue(const nn_conv2d_geom *geom, const float *bias,
                                      const nn_conv_tail *tail, float *constants)
{
    const int64_t n = nn_cpu_blocks(geom->k) * NN_CPU_BLOCK;
    float *const shifts = constants, *const scales = constants + n;

    for (int64_t i = 0; i < n; i++) {
        double scale = 1.0, shift = 0.0;
        if (i < geom->k && bias != NULL) shift = (double)bias[i];
        if (i < geom->k && tail != NULL) {
            scale = (double)tail->gamma[i] / sqrt((double)tail->running_var[i] + tail->eps);
            shift = (double)tail->beta[i] + (shift - (double)tail->running_mean[i]) * scale;
        }
        scales[i] = (float)scale;
        shifts[i] = (float)shift;
    }
    return (nn_conv_epilogue){.scale = tail != NULL ? scales : NULL,
                              .shift = tail != NULL || bias != NULL ? shifts : NULL,
                              .residual = tail != NULL ? tail->residual : NULL,
                              .is_relu = tail != NULL && tail->is_relu};
}

static void winograd_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                             const float *filter, const float *bias, float *y, float *workspace)
{
    nn_winograd wino;

    nn_winograd_forward(geom, &wino);
    const nn_wino_filters filters = {.at = filter, .dst_stride = geom->c * 9, .src_stride = 9};
    const nn_conv_epilogue epilogue = make_epilogue(geom, bias, NULL, workspace);
    nn_winograd_run(backend, &wino, x, &filters, epilogue.shift, y, 0,
                    behind_epilogue(geom, workspace));
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

static void sweep_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                          const float *filter, nn_conv_epilogue epilogue, float *y, float *packed)
{
    const int64_t n_taps = geom->r * geom->s;
    nn_conv_sweep sweep;

    nn_conv_sweep_forward(geom, &sweep);
    nn_conv_sweep_pack_filter(backend, &sweep, filter, geom->c / geom->groups * n_taps, n_taps,
                              packed);
    nn_conv_sweep_run(backend, &sweep, x, packed, &epilogue, y, 0,
                      packed + nn_conv_sweep_filter_floats(&sweep));
}

cvy_status nn_cpu_conv2d_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                 const float *filter, const float *bias, float *y, void *workspace)
{
    if (nn_winograd_fits(geom)) {
        winograd_forward(backend, geom, x, filter, bias, y, workspace);
        return CVY_OK;
    }
    if (!nn_conv_sweep_fits(geom)) {
        return columns_forward(backend, geom, x, filter, bias, y, workspace);
    }
    sweep_forward(backend, geom, x, filter, make_epilogue(geom, bias, NULL, workspace), y,
                  behind_epilogue(geom, workspace));
    return CVY_OK;
}

/* The tail by itself, of a convolution that stands in y. */
static cvy_status run_tail(nn_backend *backend, const nn_conv2d_geom *geom,
                           const nn_conv_tail *tail, float *y)
{
    const nn_bn_geom norm = {
        .n = geom->n, .c = geom->k, .spatial = geom->p * geom->q, .eps = tail->eps};
    const nn_shape shape = {.n_dims = 4, .dim = {geom->n, geom->k, geom->p, geom->q}};
    const int64_t n = nn_cpu_activation_elems(backend, &shape);

    CVY_RETURN_IF_ERR(nn_cpu_batchnorm_inference(backend, &norm, y, tail->gamma, tail->beta,
                                                 tail->running_mean, tail->running_var, y));
    if (tail->residual != NULL) {
        CVY_RETURN_IF_ERR(nn_cpu_accumulate(backend, n, tail->residual, y));
    }
    return tail->is_relu ? nn_cpu_relu_forward(backend, n, y, y) : CVY_OK;
}

cvy_status nn_cpu_conv2d_tail_forward(nn_backend *backend, const nn_conv2d_geom *geom,
                                      const float *x, const float *filter, const float *bias,
                                      const nn_conv_tail *tail, float *y, void *workspace)
{
    if (nn_winograd_fits(geom) || !nn_conv_sweep_fits(geom)) {
        CVY_RETURN_IF_ERR(nn_cpu_conv2d_forward(backend, geom, x, filter, bias, y, workspace));
        return run_tail(backend, geom, tail, y);
    }
    sweep_forward(backend, geom, x, filter, make_epilogue(geom, bias, tail, workspace), y,
                  behind_epilogue(geom, workspace));
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
    if (!data_fits(geom)) {
        return columns_backward_data(backend, geom, dy, filter, dx, accumulate, workspace);
    }
    nn_conv_sweep_backward(geom, &sweep);
    const int64_t n_taps = geom->r * geom->s;
    float *const packed = workspace;

    nn_conv_sweep_pack_filter(backend, &sweep, filter, n_taps, geom->c / geom->groups * n_taps,
                              packed);
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
    if (nn_winograd_fits(geom)) {
        nn_winograd_gradient plan;
        nn_winograd_gradient_plan(geom, &plan);
        nn_winograd_gradient_run(backend, &plan, x, dy, dfilter, workspace,
                                 (float *)workspace + plan.total_floats);
    } else if (nn_conv_sweep_fits(geom) && has_turns(geom)) {
        nn_conv_depthwise plan;
        nn_conv_depthwise_plan(geom, &plan);
        nn_conv_depthwise_run(backend, &plan, x, dy, dfilter, workspace,
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
