/* Sum of tensors of one shape, y = x[0] + x[1] + ...: the shortcut of He et al. 2015,
 * arXiv:1512.03385. */

#include "nn/layer.h"

static cvy_status shape(const void *attrs, const nn_shape *in, int n_inputs, nn_layer_plan *plan,
                        cvy_reason *reason)
{
    (void)attrs;
    for (int i = 1; i < n_inputs; i++) {
        if (!nn_shape_equal(&in[0], &in[i])) {
            char first[96], other[96];
            nn_shape_text(&in[0], first, sizeof first);
            nn_shape_text(&in[i], other, sizeof other);
            return cvy_because(reason, CVY_ERR_CONFIG,
                               "input %d is %s and input 0 is %s; expected equal shapes", i, other,
                               first);
        }
    }
    plan->out = in[0];
    plan->can_run_in_place = 1;
    return CVY_OK;
}

static cvy_status forward(const nn_layer_call *call)
{
    const nn_backend_ops *ops = call->backend->ops;
    const int64_t n = ops->activation_elems(call->backend, call->out_shape);

    CVY_RETURN_IF_ERR(ops->add(call->backend, n, call->x[0], call->x[1], call->y));
    for (int i = 2; i < call->n_inputs; i++) {
        CVY_RETURN_IF_ERR(ops->accumulate(call->backend, n, call->x[i], call->y));
    }
    return CVY_OK;
}

/* In place, dx[0] is dy itself and has its value already. */
static cvy_status backward(const nn_layer_call *call)
{
    const nn_backend_ops *ops = call->backend->ops;
    const int64_t n = ops->activation_elems(call->backend, call->out_shape);

    for (int i = 0; i < call->n_inputs; i++) {
        float *dx = call->dx[i];
        if (dx == NULL || dx == call->dy) continue;
        CVY_RETURN_IF_ERR(call->accumulate[i] ? ops->accumulate(call->backend, n, call->dy, dx)
                                              : ops->copy(call->backend, n, call->dy, dx));
    }
    return CVY_OK;
}

extern const nn_layer_ops nn_layer_add;
const nn_layer_ops nn_layer_add = {
    .name = "add",
    .help = "sum of tensors of one shape",
    .min_inputs = 2,
    .max_inputs = NN_LAYER_MAX_INPUTS,
    .role = NN_ROLE_ADD,
    .shape = shape,
    .forward = forward,
    .backward = backward,
};
