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

static cvy_status forward(const nn_layer_call *call)
{
    const dropout_attrs *attrs = call->attrs;
    const nn_backend_ops *ops = call->backend->ops;
    const int64_t n = nn_shape_n_elems(call->out_shape);
    const nn_dropout_key key = key_of(call);

    if (call->is_training) {
        return ops->dropout_forward(call->backend, n, attrs->rate, &key, call->x[0], call->y);
    }
    return call->y == call->x[0] ? CVY_OK : ops->copy(call->backend, n, call->x[0], call->y);
}

static cvy_status backward(const nn_layer_call *call)
{
    const dropout_attrs *attrs = call->attrs;
    const int64_t n = nn_shape_n_elems(call->out_shape);
    const nn_dropout_key key = key_of(call);

    return call->backend->ops->dropout_backward(call->backend, n, attrs->rate, &key, call->dy,
                                                call->dx[0], call->accumulate[0]);
}

extern const nn_layer_ops nn_layer_dropout;
const nn_layer_ops nn_layer_dropout = {
    .name = "dropout",
    .help = "random zeros in training",
    .attrs = &table,
    .min_inputs = 1,
    .max_inputs = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
};
