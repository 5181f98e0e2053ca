#include "nn/backends/cpu/conv2d_internal.h"
#include "nn/backends/cpu/conv_depthwise_internal.h"
#include "nn/backends/cpu/conv_dft_internal.h"
#include "nn/backends/cpu/conv_gradient_internal.h"
#include "nn/backends/cpu/conv_lines_internal.h"
#include "nn/backends/cpu/conv_planes_internal.h"
#include "nn/backends/cpu/conv_sweep_internal.h"
#include "nn/backends/cpu/layout_internal.h"
#include "nn/backends/cpu/winograd_internal.h"
#include "nn/backends/cpu/winograd_stem_internal.h"
#include "nn/backends/cpu/winograd_strided_internal.h"

#include <math.h>

/* The convolution's slots. Each pass has a table of kernels and takes the first that fits the
 * geometry, whatever the number of images. An image's result does not depend on that number either,
 * but for the matrix products at the end of the tables, whose sums are cut by it. */

typedef int (*fits_function)(const nn_conv2d_geom *geom);
typedef int64_t (*floats_function)(nn_backend *backend, const nn_conv2d_geom *geom);

/* --- Forward ---------------------------------------------------------------------------------- */

static int64_t planes_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv_planes planes;

    nn_conv_planes_forward(geom, &planes);
    return nn_conv_planes_workspace_floats(&planes, backend->n_threads);
}

static cvy_status planes_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                             const float *filter, const nn_conv_epilogue *epilogue, float *y,
                             float *workspace)
{
    const nn_planes_filter filters = {
        .at = filter, .dst_stride = nn_conv_k_stride(geom), .src_stride = nn_conv_taps(geom)};
    nn_conv_planes planes;

    nn_conv_planes_forward(geom, &planes);
    nn_conv_planes_run(backend, &planes, x, filters, epilogue->bias, y, 0, workspace);
    return CVY_OK;
}

static int64_t spread_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    return nn_conv_planes_spread_floats(geom, backend->n_threads);
}

static cvy_status spread_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                             const float *filter, const nn_conv_epilogue *epilogue, float *y,
                             float *workspace)
{
    nn_conv_planes_spread_run(backend, geom, x, filter, epilogue->bias, y, workspace);
    return CVY_OK;
}

static int64_t sweep_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv_sweep sweep;

    nn_conv_sweep_forward(geom, &sweep);
    return nn_conv_sweep_filter_floats(&sweep) + backend->n_threads * sweep.copy_floats;
}

static cvy_status sweep_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                            const float *filter, const nn_conv_epilogue *epilogue, float *y,
                            float *workspace)
{
    nn_conv_sweep sweep;

    nn_conv_sweep_forward(geom, &sweep);
    nn_conv_sweep_pack_filter(backend, &sweep, filter, nn_conv_k_stride(geom), nn_conv_taps(geom),
                              workspace);
    nn_conv_sweep_run(backend, &sweep, x, workspace, epilogue, y, 0,
                      workspace + nn_conv_sweep_filter_floats(&sweep));
    return CVY_OK;
}

typedef struct forward_kernel {
    fits_function fits;
    floats_function floats;
    cvy_status (*run)(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                      const float *filter, const nn_conv_epilogue *epilogue, float *y,
                      float *workspace);
    int has_tail; /* runs all of an epilogue, else only the bias */
} forward_kernel;

static const forward_kernel forward_kernels[] = {
    {nn_winograd_fits, nn_conv_winograd_floats, nn_conv_winograd_forward, 1},
    {nn_stem_fits, nn_conv_stem_floats, nn_conv_stem_forward, 1},
    {nn_strided_fits_forward, nn_conv_strided_floats, nn_conv_strided_forward, 1},
    {nn_conv_planes_fits_forward, planes_floats, planes_run, 0},
    {nn_conv_dft_fits, nn_conv_dft_floats, nn_conv_dft_forward, 0},
    {nn_conv_planes_spread_fits, spread_floats, spread_run, 0},
    {nn_conv_sweep_fits, sweep_floats, sweep_run, 1},
    {nn_conv_dense_fits, nn_conv_dense_floats, nn_conv_dense_forward, 0},
};

/* --- The gradient of the input ---------------------------------------------------------------- */

static int64_t planes_data_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv_planes planes;

    nn_conv_planes_backward(geom, &planes);
    return nn_conv_planes_workspace_floats(&planes, backend->n_threads);
}

static cvy_status planes_data_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *dy,
                                  const float *filter, float *dx, int accumulate, float *workspace)
{
    const nn_planes_filter filters = {.at = filter,
                                      .dst_stride = nn_conv_taps(geom),
                                      .src_stride = nn_conv_k_stride(geom),
                                      .is_turned = 1};
    nn_conv_planes planes;

    nn_conv_planes_backward(geom, &planes);
    nn_conv_planes_run(backend, &planes, dy, filters, NULL, dx, accumulate, workspace);
    return CVY_OK;
}

static int sweep_data_fits(const nn_conv2d_geom *geom)
{
    return nn_conv_sweep_fits(geom) && nn_cpu_is_blocked(geom->c);
}

static int64_t sweep_data_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv_sweep sweep;

    nn_conv_sweep_backward(geom, &sweep);
    return nn_conv_sweep_filter_floats(&sweep) + backend->n_threads * sweep.copy_floats;
}

static cvy_status sweep_data_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *dy,
                                 const float *filter, float *dx, int accumulate, float *workspace)
{
    nn_conv_sweep sweep;

    nn_conv_sweep_backward(geom, &sweep);
    nn_conv_sweep_pack_filter(backend, &sweep, filter, nn_conv_taps(geom), nn_conv_k_stride(geom),
                              workspace);
    nn_conv_sweep_run(backend, &sweep, dy, workspace, NULL, dx, accumulate,
                      workspace + nn_conv_sweep_filter_floats(&sweep));
    return CVY_OK;
}

typedef struct data_kernel {
    fits_function fits;
    floats_function floats;
    cvy_status (*run)(nn_backend *backend, const nn_conv2d_geom *geom, const float *dy,
                      const float *filter, float *dx, int accumulate, float *workspace);
} data_kernel;

static const data_kernel data_kernels[] = {
    {nn_winograd_fits, nn_conv_winograd_data_floats, nn_conv_winograd_backward_data},
    {nn_strided_fits_backward, nn_conv_strided_data_floats, nn_conv_strided_backward_data},
    {nn_conv_dft_fits, nn_conv_dft_data_floats, nn_conv_dft_backward_data},
    {nn_conv_planes_fits_backward, planes_data_floats, planes_data_run},
    {sweep_data_fits, sweep_data_floats, sweep_data_run},
    {nn_conv_dense_fits, nn_conv_dense_floats, nn_conv_dense_backward_data},
};

/* --- The gradient of the filter --------------------------------------------------------------- */

static int64_t planes_filter_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    return nn_conv_planes_gradient_floats(geom, backend->n_threads);
}

static cvy_status planes_filter_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                    const float *dy, float *dfilter, float *dbias, float *workspace)
{
    nn_conv_planes_gradient_run(backend, geom, x, dy, dfilter, dbias, workspace);
    return CVY_OK;
}

static int64_t outer_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    return nn_conv_planes_outer_floats(geom, backend->n_threads);
}

static cvy_status outer_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                            const float *dy, float *dfilter, float *dbias, float *workspace)
{
    nn_conv_planes_outer_run(backend, geom, x, dy, dfilter, dbias, workspace);
    return CVY_OK;
}

/* Groups that are parts of a block. */
static int depthwise_fits(const nn_conv2d_geom *geom)
{
    nn_conv_sweep sweep;

    if (!nn_conv_sweep_fits(geom)) return 0;
    nn_conv_sweep_forward(geom, &sweep);
    return sweep.turns > 0;
}

static int64_t depthwise_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv_depthwise plan;

    nn_conv_depthwise_plan(geom, &plan);
    return plan.total_floats + backend->n_threads * plan.scratch_floats;
}

static cvy_status depthwise_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                const float *dy, float *dfilter, float *dbias, float *workspace)
{
    nn_conv_depthwise plan;

    (void)dbias;
    nn_conv_depthwise_plan(geom, &plan);
    nn_conv_depthwise_run(backend, &plan, x, dy, dfilter, workspace, workspace + plan.total_floats);
    return CVY_OK;
}

static int64_t gradient_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_conv_gradient plan;

    nn_conv_gradient_plan(geom, &plan);
    return plan.total_floats + backend->n_threads * plan.scratch_floats;
}

static cvy_status gradient_run(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                               const float *dy, float *dfilter, float *dbias, float *workspace)
{
    nn_conv_gradient plan;

    (void)dbias;
    nn_conv_gradient_plan(geom, &plan);
    nn_conv_gradient_run(backend, &plan, x, dy, dfilter, workspace, workspace + plan.total_floats);
    return CVY_OK;
}

typedef struct filter_kernel {
    fits_function fits;
    floats_function floats;
    cvy_status (*run)(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                      const float *dy, float *dfilter, float *dbias, float *workspace);
    int has_bias; /* computes dbias, if wanted, as well */
} filter_kernel;

static const filter_kernel filter_kernels[] = {
    {nn_conv_lines_gradient_fits, nn_conv_lines_gradient_floats, nn_conv_lines_backward_filter, 1},
    {nn_conv_planes_fits_forward, planes_filter_floats, planes_filter_run, 1},
    {nn_conv_dft_fits, nn_conv_dft_filter_floats, nn_conv_dft_backward_filter, 1},
    {nn_conv_planes_outer_fits, outer_floats, outer_run, 1},
    {nn_winograd_fits, nn_conv_winograd_filter_floats, nn_conv_winograd_backward_filter, 0},
    {nn_stem_fits, nn_conv_stem_filter_floats, nn_conv_stem_backward_filter, 0},
    {nn_strided_fits_filter, nn_conv_strided_filter_floats, nn_conv_strided_backward_filter, 0},
    {depthwise_fits, depthwise_floats, depthwise_run, 0},
    {nn_conv_sweep_fits, gradient_floats, gradient_run, 0},
    {nn_conv_dense_fits, nn_conv_dense_floats, nn_conv_dense_backward_filter, 1},
};

/* --- Choosing --------------------------------------------------------------------------------- */

static const forward_kernel *choose_forward(const nn_conv2d_geom *geom)
{
    const forward_kernel *kernel = forward_kernels;

    while (!kernel->fits(geom)) kernel++; /* the last fits all */
    return kernel;
}

static const data_kernel *choose_data(const nn_conv2d_geom *geom)
{
    const data_kernel *kernel = data_kernels;

    while (!kernel->fits(geom)) kernel++;
    return kernel;
}

static const filter_kernel *choose_filter(const nn_conv2d_geom *geom)
{
    const filter_kernel *kernel = filter_kernels;

    while (!kernel->fits(geom)) kernel++;
    return kernel;
}

/* --- Epilogues -------------------------------------------------------------------------------- */

/* A bias, a mean, a scale and a shift of every stored channel of y. */
static int64_t epilogue_floats(const nn_conv2d_geom *geom)
{
    return 4 * nn_cpu_blocks(geom->k) * NN_CPU_BLOCK;
}

/* The epilogue of a bias and a tail, either may be NULL; constants (epilogue_floats()) take its
 * values for every stored channel. */
static nn_conv_epilogue make_epilogue(const nn_conv2d_geom *geom, const float *bias,
                                      const nn_conv_tail *tail, float *constants)
{
    const int64_t n = nn_cpu_blocks(geom->k) * NN_CPU_BLOCK;
    float *const biases = constants, *const means = constants + n;
    float *const scales = constants + 2 * n, *const shifts = constants + 3 * n;

    for (int64_t i = 0; i < n; i++) {
        biases[i] = means[i] = scales[i] = shifts[i] = 0.0f;
        if (i < geom->k && bias != NULL) biases[i] = bias[i];
        if (i >= geom->k || tail == NULL) continue;
        const double invstd = 1.0 / sqrt((double)tail->running_var[i] + tail->eps);
        means[i] = tail->running_mean[i];
        scales[i] = (float)((double)tail->gamma[i] * invstd);
        shifts[i] = tail->beta[i];
    }
    return (nn_conv_epilogue){.bias = bias != NULL ? biases : NULL,
                              .mean = tail != NULL ? means : NULL,
                              .scale = tail != NULL ? scales : NULL,
                              .shift = tail != NULL ? shifts : NULL,
                              .residual = tail != NULL ? tail->residual : NULL,
                              .is_relu = tail != NULL && tail->is_relu};
}

/* What a tail is run on where the kernel does not: y itself may be the residual. */
static int64_t before_tail_floats(const nn_conv2d_geom *geom)
{
    const int64_t n = geom->n * nn_cpu_stored_channels(geom->k) * geom->p * geom->q;

    return choose_forward(geom)->has_tail ? 0 : nn_cpu_div_up(n, NN_CPU_BLOCK) * NN_CPU_BLOCK;
}

/* The tail by itself. */
static cvy_status run_tail(nn_backend *backend, const nn_conv2d_geom *geom,
                           const nn_conv_tail *tail, const float *x, float *y)
{
    const nn_bn_geom norm = {
        .n = geom->n, .c = geom->k, .spatial = geom->p * geom->q, .eps = tail->eps};

    return nn_cpu_norm_chain_forward(backend, &norm,
                                     &(nn_norm_chain){.x = x,
                                                      .residual = tail->residual,
                                                      .gamma = tail->gamma,
                                                      .beta = tail->beta,
                                                      .running_mean = tail->running_mean,
                                                      .running_var = tail->running_var,
                                                      .is_relu = tail->is_relu,
                                                      .y = y});
}

/* --- The slots -------------------------------------------------------------------------------- */

size_t nn_cpu_conv2d_workspace_bytes(nn_backend *backend, const nn_conv2d_geom *geom)
{
    const int64_t forward = epilogue_floats(geom) + before_tail_floats(geom) +
                            choose_forward(geom)->floats(backend, geom);
    const int64_t n = nn_cpu_most(choose_data(geom)->floats(backend, geom),
                                  choose_filter(geom)->floats(backend, geom));

    return (size_t)nn_cpu_most(forward, n) * sizeof(float);
}

cvy_status nn_cpu_conv2d_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                 const float *filter, const float *bias, float *y, void *workspace)
{
    const nn_conv_epilogue epilogue = make_epilogue(geom, bias, NULL, workspace);

    return choose_forward(geom)->run(backend, geom, x, filter, &epilogue, y,
                                     (float *)workspace + epilogue_floats(geom));
}

cvy_status nn_cpu_conv2d_tail_forward(nn_backend *backend, const nn_conv2d_geom *geom,
                                      const float *x, const float *filter, const float *bias,
                                      const nn_conv_tail *tail, float *y, void *workspace)
{
    const nn_conv_epilogue epilogue = make_epilogue(geom, bias, tail, workspace);
    const forward_kernel *kernel = choose_forward(geom);
    float *const before = (float *)workspace + epilogue_floats(geom);

    if (kernel->has_tail) return kernel->run(backend, geom, x, filter, &epilogue, y, before);
    CVY_RETURN_IF_ERR(kernel->run(backend, geom, x, filter, &epilogue, before,
                                  before + before_tail_floats(geom)));
    return run_tail(backend, geom, tail, before, y);
}

cvy_status nn_cpu_conv2d_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                       const float *dy, const float *filter, float *dx,
                                       int accumulate, void *workspace)
{
    return choose_data(geom)->run(backend, geom, dy, filter, dx, accumulate, workspace);
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
    const filter_kernel *kernel = choose_filter(geom);

    CVY_RETURN_IF_ERR(kernel->run(backend, geom, x, dy, dfilter, dbias, workspace));
    if (dbias != NULL && !kernel->has_bias) {
        nn_cpu_run(backend, nn_cpu_blocks(geom->k), bias_chunk,
                   &(bias_pass){.geom = geom, .dy = dy, .dbias = dbias});
    }
    return CVY_OK;
}
