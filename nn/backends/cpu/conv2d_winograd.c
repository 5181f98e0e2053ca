#include "nn/backends/cpu/conv2d_internal.h"
#include "nn/backends/cpu/winograd_internal.h"
#include "nn/backends/cpu/winograd_stem_internal.h"
#include "nn/backends/cpu/winograd_strided_internal.h"
#include "nn/backends/cpu/winograd_tile_internal.h"

/* Winograd's kernels as the tables of conv2d.c take them. */

int64_t nn_conv_winograd_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_winograd wino;

    nn_winograd_forward(geom, &wino);
    return nn_winograd_workspace_floats(&wino, backend->n_threads);
}

cvy_status nn_conv_winograd_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                    const float *filter, const nn_conv_epilogue *epilogue, float *y,
                                    float *workspace)
{
    const nn_wino_filters filters = {.at = filter,
                                     .dst_stride = nn_conv_k_stride(geom),
                                     .src_stride = nn_conv_taps(geom),
                                     .transform = nn_wino_filter};
    nn_winograd wino;

    nn_winograd_forward(geom, &wino);
    nn_winograd_run(backend, &wino, x, &filters, epilogue, y, 0, workspace);
    return CVY_OK;
}

int64_t nn_conv_stem_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_stem stem;

    nn_stem_of(geom, &stem);
    return nn_stem_workspace_floats(&stem, backend->n_threads);
}

cvy_status nn_conv_stem_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                const float *filter, const nn_conv_epilogue *epilogue, float *y,
                                float *workspace)
{
    nn_stem stem;

    nn_stem_of(geom, &stem);
    nn_stem_run(backend, &stem, x, filter, epilogue, y, workspace);
    return CVY_OK;
}

int64_t nn_conv_strided_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_strided plan;

    nn_strided_forward(geom, &plan);
    return nn_strided_workspace_floats(&plan, backend->n_threads);
}

cvy_status nn_conv_strided_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                   const float *filter, const nn_conv_epilogue *epilogue, float *y,
                                   float *workspace)
{
    const nn_wino_filters filters = {.at = filter,
                                     .dst_stride = nn_conv_k_stride(geom),
                                     .src_stride = nn_conv_taps(geom),
                                     .transform = nn_strided_filter};
    nn_strided plan;

    nn_strided_forward(geom, &plan);
    nn_strided_run(backend, &plan, x, &filters, epilogue, y, 0, workspace);
    return CVY_OK;
}

int64_t nn_conv_winograd_data_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_winograd wino;

    nn_winograd_backward(geom, &wino);
    return nn_winograd_workspace_floats(&wino, backend->n_threads);
}

cvy_status nn_conv_winograd_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                          const float *dy, const float *filter, float *dx,
                                          int accumulate, float *workspace)
{
    const nn_wino_filters filters = {.at = filter,
                                     .dst_stride = nn_conv_taps(geom),
                                     .src_stride = nn_conv_k_stride(geom),
                                     .is_turned = 1,
                                     .transform = nn_wino_filter};
    nn_winograd wino;

    nn_winograd_backward(geom, &wino);
    nn_winograd_run(backend, &wino, dy, &filters, &(nn_conv_epilogue){0}, dx, accumulate,
                    workspace);
    return CVY_OK;
}

int64_t nn_conv_strided_data_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_strided plan;

    nn_strided_backward(geom, &plan);
    return nn_strided_workspace_floats(&plan, backend->n_threads);
}

cvy_status nn_conv_strided_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                         const float *dy, const float *filter, float *dx,
                                         int accumulate, float *workspace)
{
    const nn_wino_filters filters = {.at = filter,
                                     .dst_stride = nn_conv_taps(geom),
                                     .src_stride = nn_conv_k_stride(geom),
                                     .is_turned = 1,
                                     .transform = nn_strided_filter};
    nn_strided plan;

    nn_strided_backward(geom, &plan);
    nn_strided_run(backend, &plan, dy, &filters, &(nn_conv_epilogue){0}, dx, accumulate, workspace);
    return CVY_OK;
}

int64_t nn_conv_winograd_filter_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_winograd_gradient plan;

    nn_winograd_gradient_plan(geom, &plan);
    return plan.total_floats + backend->n_threads * plan.scratch_floats;
}

cvy_status nn_conv_winograd_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                            const float *x, const float *dy, float *dfilter,
                                            float *dbias, float *workspace)
{
    nn_winograd_gradient plan;

    (void)dbias;
    nn_winograd_gradient_plan(geom, &plan);
    nn_winograd_gradient_run(backend, &plan, x, dy, dfilter, workspace,
                             workspace + plan.total_floats);
    return CVY_OK;
}

int64_t nn_conv_stem_filter_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_stem stem;

    nn_stem_of(geom, &stem);
    return nn_stem_gradient_floats(&stem, backend->n_threads);
}

cvy_status nn_conv_stem_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                        const float *x, const float *dy, float *dfilter,
                                        float *dbias, float *workspace)
{
    nn_stem stem;

    (void)dbias;
    nn_stem_of(geom, &stem);
    nn_stem_gradient_run(backend, &stem, x, dy, dfilter, workspace);
    return CVY_OK;
}

int64_t nn_conv_strided_filter_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    nn_strided_gradient plan;

    nn_strided_gradient_plan(geom, &plan);
    return plan.total_floats + backend->n_threads * plan.scratch_floats;
}

cvy_status nn_conv_strided_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                           const float *x, const float *dy, float *dfilter,
                                           float *dbias, float *workspace)
{
    nn_strided_gradient plan;

    (void)dbias;
    nn_strided_gradient_plan(geom, &plan);
    nn_strided_gradient_run(backend, &plan, x, dy, dfilter, workspace,
                            workspace + plan.total_floats);
    return CVY_OK;
}
