#include "launch/pass_split.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <stdint.h>

struct launch_pass_split {
    nn_backend_ops ops; /* first member: the backend's table while this is open */
    const nn_backend_ops *inner;
    nn_backend *backend;
    const nn_params *params;
    const float *grads;
    double *filter_s; /* [n_layers] */
};

static launch_pass_split *split_of(const nn_backend *backend)
{
    return (launch_pass_split *)(uintptr_t)(const void *)backend->ops;
}

/* Add the time since start_s to the layer whose gradient was written. */
static cvy_status took(launch_pass_split *split, const float *gradient, double start_s)
{
    CVY_RETURN_IF_ERR(split->inner->sync(split->backend));
    const int param = nn_params_at(split->params, gradient - split->grads);
    split->filter_s[split->params->entry[param].layer_idx] += cvy_clock_now_s() - start_s;
    return CVY_OK;
}

static cvy_status conv2d_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                         const float *x, const float *dy, float *dfilter,
                                         float *dbias, void *workspace)
{
    launch_pass_split *split = split_of(backend);
    const double start_s = cvy_clock_now_s();

    CVY_RETURN_IF_ERR(
        split->inner->conv2d_backward_filter(backend, geom, x, dy, dfilter, dbias, workspace));
    return took(split, dfilter, start_s);
}

static cvy_status dense_backward(nn_backend *backend, int64_t n, int64_t c, int64_t k,
                                 const float *x, const float *weight, const float *dy, float *dx,
                                 int accumulate, float *dweight, float *dbias)
{
    launch_pass_split *split = split_of(backend);
    const double start_s = cvy_clock_now_s();

    CVY_RETURN_IF_ERR(
        split->inner->dense_backward(backend, n, c, k, x, weight, dy, NULL, 0, dweight, dbias));
    CVY_RETURN_IF_ERR(took(split, dweight, start_s));
    if (dx == NULL) return CVY_OK;
    return split->inner->dense_backward(backend, n, c, k, x, weight, dy, dx, accumulate, NULL,
                                        NULL);
}

cvy_status launch_pass_split_open(nn_backend *backend, const nn_params *params, int n_layers,
                                  const float *grads, launch_pass_split **out)
{
    launch_pass_split *split = cvy_alloc_zero(1, sizeof *split);

    *out = NULL;
    if (split == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "times of passes");
    split->filter_s = cvy_alloc_zero((size_t)n_layers, sizeof *split->filter_s);
    if (split->filter_s == NULL) {
        cvy_free(split);
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "times of %d layers", n_layers);
    }
    split->inner = backend->ops;
    split->backend = backend;
    split->params = params;
    split->grads = grads;
    split->ops = *backend->ops;
    split->ops.conv2d_backward_filter = conv2d_backward_filter;
    split->ops.dense_backward = dense_backward;
    backend->ops = &split->ops;
    *out = split;
    return CVY_OK;
}

void launch_pass_split_close(launch_pass_split **split)
{
    if (split == NULL || *split == NULL) return;
    (*split)->backend->ops = (*split)->inner;
    cvy_free((*split)->filter_s);
    cvy_free(*split);
    *split = NULL;
}

const double *launch_pass_split_filter_s(const launch_pass_split *split)
{
    return split->filter_s;
}
