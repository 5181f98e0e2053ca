/* (n, c, h, w) as (n, c h w), the elements in their order: PyTorch's Flatten. */

#include "nn/layer.h"

static cvy_status shape(const void *attrs, const nn_shape *in, int n_inputs, nn_layer_plan *plan,
                        cvy_reason *reason)
{
    (void)attrs;
    (void)n_inputs;
    (void)reason;
    plan->out = (nn_shape){.n_dims = 2,
                           .dim = {in[0].dim[0], nn_shape_n_elems(&in[0]) / in[0].dim[0]}};
    plan->can_run_in_place = 1; /* where the plan finds both sides dense */
    return CVY_OK;
}

static cvy_status forward(const nn_layer_call *call)
{
    if (call->y == call->x[0]) return CVY_OK;
    return call->backend->ops->unpack(call->backend, &call->in_shape[0], call->x[0], call->y);
}

static cvy_status backward(const nn_layer_call *call)
{
    if (call->dx[0] == call->dy) return CVY_OK;
    return call->backend->ops->pack(call->backend, &call->in_shape[0], call->dy, call->dx[0],
                                    call->accumulate[0]);
}

extern const nn_layer_ops nn_layer_flatten;
const nn_layer_ops nn_layer_flatten = {
    .name = "flatten",
    .help = "all dimensions behind the first as one",
    .min_inputs = 1,
    .max_inputs = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
};
