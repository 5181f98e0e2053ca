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

static cvy_status forward(const nn_layer_call *call)
{
    const int64_t n = call->out_shape->dim[0], stride = image_elems(call->out_shape);
    float *y = call->y;

    for (int i = 0; i < call->n_inputs; i++) {
        const int64_t cols = image_elems(&call->in_shape[i]);
        CVY_RETURN_IF_ERR(
            call->backend->ops->copy_rows(call->backend, n, cols, call->x[i], cols, y, stride, 0));
        y += cols;
    }
    return CVY_OK;
}

static cvy_status backward(const nn_layer_call *call)
{
    const int64_t n = call->out_shape->dim[0], stride = image_elems(call->out_shape);
    const float *dy = call->dy;

    for (int i = 0; i < call->n_inputs; i++) {
        const int64_t cols = image_elems(&call->in_shape[i]);
        if (call->dx[i] != NULL) {
            CVY_RETURN_IF_ERR(call->backend->ops->copy_rows(
                call->backend, n, cols, dy, stride, call->dx[i], cols, call->accumulate[i]));
        }
        dy += cols;
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
