/* Fully connected layer, y[n,k] = bias[k] + sum over c of x[n,c] weight[k,c]. Source: Goodfellow,
 * Bengio & Courville, "Deep Learning", 2016, section 6.1; the layout (k, c) of the weights is
 * PyTorch's. */

#include "nn/layer.h"

#include "nn/layers/window_internal.h"

enum { WEIGHT, BIAS };

typedef struct dense_attrs {
    int64_t out;
    int has_bias;
    int init;
    double init_std;
} dense_attrs;

static const cvy_config_field fields[] = {
    {.key = "out",
     .type = CVY_CONFIG_INT,
     .offset = offsetof(dense_attrs, out),
     .is_required = 1,
     .min = 1,
     .max = 1e12,
     .unit = "features",
     .help = "output features"},
    {.key = "bias",
     .type = CVY_CONFIG_BOOL,
     .offset = offsetof(dense_attrs, has_bias),
     .default_text = "true",
     .help = "add a bias per output feature"},
    {.key = "init",
     .type = CVY_CONFIG_CHOICE,
     .offset = offsetof(dense_attrs, init),
     .default_text = "uniform_fan_in",
     .choices = NN_INIT_CHOICES,
     .help = "initial weights"},
    {.key = "init_std",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(dense_attrs, init_std),
     .default_text = "0.01",
     .min = 0,
     .max = 1e6,
     .help = "deviation of init normal"},
};

static const cvy_config_table table = {.name = "dense",
                                       .struct_size = sizeof(dense_attrs),
                                       .n_fields = sizeof fields / sizeof fields[0],
                                       .fields = fields};

static cvy_status shape(const void *any, const nn_shape *in, int n_inputs, nn_layer_plan *plan,
                        cvy_reason *reason)
{
    const dense_attrs *attrs = any;
    const int64_t n = in[0].dim[0], c = in[0].dim[1], k = attrs->out;

    (void)n_inputs;
    if (in[0].n_dims != 2) {
        char text[96];
        nn_shape_text(&in[0], text, sizeof text);
        return cvy_because(reason, CVY_ERR_CONFIG,
                           "input of %s; expected (n, c): put a flatten layer before it", text);
    }
    plan->out = (nn_shape){.n_dims = 2, .dim = {n, k}};
    plan->needs = NN_NEEDS_X;
    plan->n_params = attrs->has_bias ? 2 : 1;
    plan->params[WEIGHT] = (nn_param_decl){.suffix = "weight",
                                           .shape = {.n_dims = 2, .dim = {k, c}},
                                           .kind = NN_PARAM_WEIGHT,
                                           .init = nn_weight_init(attrs->init),
                                           .init_arg = attrs->init_std,
                                           .fan_in = c,
                                           .fan_out = k};
    plan->params[BIAS] = (nn_param_decl){.suffix = "bias",
                                         .shape = {.n_dims = 1, .dim = {k}},
                                         .kind = NN_PARAM_BIAS,
                                         .init = nn_bias_init(attrs->init),
                                         .fan_in = c,
                                         .fan_out = k};
    plan->multiply_adds = nn_count_of((double)n * (double)c * (double)k);
    return CVY_OK;
}

static cvy_status forward(const nn_layer_call *call)
{
    const dense_attrs *attrs = call->attrs;
    const float *bias = attrs->has_bias ? call->params[BIAS] : NULL;

    return call->backend->ops->dense_forward(call->backend, call->in_shape[0].dim[0],
                                             call->in_shape[0].dim[1], attrs->out, call->x[0],
                                             call->params[WEIGHT], bias, call->y);
}

static cvy_status backward(const nn_layer_call *call)
{
    const dense_attrs *attrs = call->attrs;
    float *dbias = attrs->has_bias ? call->dparams[BIAS] : NULL;

    return call->backend->ops->dense_backward(call->backend, call->in_shape[0].dim[0],
                                              call->in_shape[0].dim[1], attrs->out, call->x[0],
                                              call->params[WEIGHT], call->dy, call->dx[0],
                                              call->accumulate[0], call->dparams[WEIGHT], dbias);
}

extern const nn_layer_ops nn_layer_dense;
const nn_layer_ops nn_layer_dense = {
    .name = "dense",
    .help = "fully connected layer on (n, c)",
    .attrs = &table,
    .min_inputs = 1,
    .max_inputs = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
};
