/* Tensors side by side along the channels, y[n, c0 + c, ...] = x[i][n, c, ...]: Szegedy et al.
 * 2014, arXiv:1409.4842. */

#include "nn/layer.h"

/* Elements of one image. */
static int64_t image_elems(const nn_shape *shape)
{
    return nn_shape_n_elems(shape) / shape->dim[0];
}

static int differs_beside_channels(const nn_shape *a, const nn_shape *b)
{
    nn_shape other = *b;

    if (a->n_dims != b->n_dims) return 1;
    other.dim[1] = a->dim[1];
    return !nn_shape_equal(a, &other);
}

static cvy_status shape(const void *attrs, const nn_shape *in, int n_inputs, nn_layer_plan *plan,
                        cvy_reason *reason)
{
    (void)attrs;
    plan->out = in[0];
    for (int i = 1; i < n_inputs; i++) {
        if (differs_beside_channels(&in[0], &in[i])) {
            char first[96], other[96];
            nn_shape_text(&in[0], first, sizeof first);
            nn_shape_text(&in[i], other, sizeof other);
            return cvy_because(reason, CVY_ERR_CONFIG,
                               "input %d is %s and input 0 is %s; only channels may differ", i,
                               other, first);
        }
        plan->out.dim[1] += in[i].dim[1];
    }
    return CVY_OK;
}

static nn_channels_geom geometry(const nn_layer_call *call, int i, int64_t first)
{
    const nn_shape *in = &call->in_shape[i];
    const int64_t c = in->dim[1];

    return (nn_channels_geom){.n = in->dim[0],
                              .spatial = image_elems(in) / c,
                              .c = c,
                              .x_c = c,
                              .x_first = 0,
                              .y_c = call->out_shape->dim[1],
                              .y_first = first};
}

static cvy_status copy(const nn_layer_call *call, const nn_channels_geom *geom, const float *x,
                       float *y, int accumulate)
{
    const nn_backend_ops *ops = call->backend->ops;
    const int64_t x_cols = geom->x_c * geom->spatial, y_cols = geom->y_c * geom->spatial;

    if (call->out_shape->n_dims == 4) {
        return ops->copy_channels(call->backend, geom, x, y, accumulate);
    }
    return ops->copy_rows(call->backend, geom->n, geom->c * geom->spatial,
                          x + geom->x_first * geom->spatial, x_cols,
                          y + geom->y_first * geom->spatial, y_cols, accumulate);
}

static cvy_status forward(const nn_layer_call *call)
{
    int64_t first = 0;

    for (int i = 0; i < call->n_inputs; i++) {
        const nn_channels_geom geom = geometry(call, i, first);
        CVY_RETURN_IF_ERR(copy(call, &geom, call->x[i], call->y, 0));
        first += geom.c;
    }
    return CVY_OK;
}

static cvy_status backward(const nn_layer_call *call)
{
    int64_t first = 0;

    for (int i = 0; i < call->n_inputs; i++) {
        const nn_channels_geom there = geometry(call, i, first);
        const nn_channels_geom back = {.n = there.n,
                                       .spatial = there.spatial,
                                       .c = there.c,
                                       .x_c = there.y_c,
                                       .x_first = first,
                                       .y_c = there.c,
                                       .y_first = 0};
        first += there.c;
        if (call->dx[i] == NULL) continue;
        CVY_RETURN_IF_ERR(copy(call, &back, call->dy, call->dx[i], call->accumulate[i]));
    }
    return CVY_OK;
}

extern const nn_layer_ops nn_layer_concat;
const nn_layer_ops nn_layer_concat = {
    .name = "concat",
    .help = "tensors side by side along the channels",
    .min_inputs = 1,
    .max_inputs = NN_LAYER_MAX_INPUTS,
    .shape = shape,
    .forward = forward,
    .backward = backward,
};
