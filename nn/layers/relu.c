/* Rectifier, y = max(x, 0). Source: Nair & Hinton, "Rectified linear units improve restricted
 * Boltzmann machines", ICML 2010. */

#include "nn/layer.h"

static cvy_status shape(const void *attrs, const nn_shape *in, int n_inputs, nn_layer_plan *plan,
                        cvy_reason *reason)
{
    (void)attrs;
    (void)n_inputs;
    (void)reason;
    plan->out = in[0];
    plan->needs = NN_NEEDS_Y;
    plan->can_run_in_place = 1;
    return CVY_OK;
}

static cvy_status forward(const nn_layer_call *call)
{
    const nn_backend_ops *ops = call->backend->ops;
    const int64_t n = ops->activation_elems(call->backend, call->out_shape);

    return ops->relu_forward(call->backend, n, call->x[0], call->y);
}

static cvy_status backward(const nn_layer_call *call)
{
    const nn_backend_ops *ops = call->backend->ops;
    const int64_t n = ops->activation_elems(call->backend, call->out_shape);

    return ops->relu_backward(call->backend, n, call->y, call->dy, call->dx[0],
                              call->accumulate[0]);
}

extern const nn_layer_ops nn_layer_relu;
const nn_layer_ops nn_layer_relu = {
    .name = "relu",
    .help = "rectifier: the larger of x and 0",
    .min_inputs = 1,
    .max_inputs = 1,
    .role = NN_ROLE_RELU,
    .shape = shape,
    .forward = forward,
    .backward = backward,
};
