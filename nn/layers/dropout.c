/* Dropout: in training each element is 0 with probability rate and x / (1 - rate) otherwise; else
 * y = x. Source: Srivastava et al., JMLR 15, 2014, in the inverted form. */

#include "nn/layer.h"

typedef struct dropout_attrs {
    double rate;
} dropout_attrs;

static const cvy_config_field fields[] = {
    {.key = "rate",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(dropout_attrs, rate),
     .default_text = "0.5",
     .min = 0,
     .max = 1,
     .help = "share of elements set to 0; below 1"},
};

static const cvy_config_table table = {.name = "dropout",
                                       .struct_size = sizeof(dropout_attrs),
                                       .scalar_key = "rate",
                                       .n_fields = sizeof fields / sizeof fields[0],
                                       .fields = fields};

static cvy_status shape(const void *any, const nn_shape *in, int n_inputs, nn_layer_plan *plan,
                        cvy_reason *reason)
{
    const dropout_attrs *attrs = any;

    (void)n_inputs;
    if (attrs->rate >= 1.0) {
        return cvy_because(reason, CVY_ERR_CONFIG, "rate %g leaves nothing; expected [0, 1)",
                           attrs->rate);
    }
    plan->out = in[0];
    plan->can_run_in_place = 1;
    return CVY_OK;
}

static nn_dropout_key key_of(const nn_layer_call *call)
{
    return (nn_dropout_key){.seed = call->seed,
                            .step = call->step,
                            .replica = call->replica,
                            .layer_idx = call->layer_idx};
}

/* Element i of the dense tensor gets number i: another layout is made dense in the workspace. */
static size_t workspace_bytes(nn_backend *backend, const void *attrs, const nn_shape *in,
                              int n_inputs, const nn_layer_plan *plan)
{
    (void)attrs;
    (void)n_inputs;
    (void)plan;
    if (backend->ops->is_dense(backend, &in[0])) return 0;
    return (size_t)nn_shape_n_elems(&in[0]) * sizeof(float);
}

static cvy_status forward(const nn_layer_call *call)
{
    const dropout_attrs *attrs = call->attrs;
    nn_backend *backend = call->backend;
    const nn_backend_ops *ops = backend->ops;
    const nn_shape *shape = call->out_shape;
    const int64_t n = nn_shape_n_elems(shape);
    const nn_dropout_key key = key_of(call);
    float *dense = call->workspace;

    if (!call->is_training) {
        if (call->y == call->x[0]) return CVY_OK;
        return ops->copy(backend, ops->activation_elems(backend, shape), call->x[0], call->y);
    }
    if (ops->is_dense(backend, shape)) {
        return ops->dropout_forward(backend, n, attrs->rate, &key, call->x[0], call->y);
    }
    CVY_RETURN_IF_ERR(ops->unpack(backend, shape, call->x[0], dense));
    CVY_RETURN_IF_ERR(ops->dropout_forward(backend, n, attrs->rate, &key, dense, dense));
    return ops->pack(backend, shape, dense, call->y, 0);
}

static cvy_status backward(const nn_layer_call *call)
{
    const dropout_attrs *attrs = call->attrs;
    nn_backend *backend = call->backend;
    const nn_backend_ops *ops = backend->ops;
    const nn_shape *shape = call->out_shape;
    const int64_t n = nn_shape_n_elems(shape);
    const nn_dropout_key key = key_of(call);
    float *dense = call->workspace;

    if (ops->is_dense(backend, shape)) {
        return ops->dropout_backward(backend, n, attrs->rate, &key, call->dy, call->dx[0],
                                     call->accumulate[0]);
    }
    CVY_RETURN_IF_ERR(ops->unpack(backend, shape, call->dy, dense));
    CVY_RETURN_IF_ERR(ops->dropout_backward(backend, n, attrs->rate, &key, dense, dense, 0));
    return ops->pack(backend, shape, dense, call->dx[0], call->accumulate[0]);
}

extern const nn_layer_ops nn_layer_dropout;
const nn_layer_ops nn_layer_dropout = {
    .name = "dropout",
    .help = "random zeros in training",
    .attrs = &table,
    .min_inputs = 1,
    .max_inputs = 1,
    .shape = shape,
    .workspace_bytes = workspace_bytes,
    .forward = forward,
    .backward = backward,
};
