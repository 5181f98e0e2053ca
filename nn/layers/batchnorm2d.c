/* Batch normalisation per channel over (n, h, w):
 *
 *     y = weight (x - mean) / sqrt(var + eps) + bias
 *
 * with the mean and the biased variance of the minibatch in training, running ones otherwise. The
 * running ones move by running += momentum (batch - running), with the unbiased variance, as in
 * PyTorch. Source: Ioffe & Szegedy 2015, arXiv:1502.03167. */

#include "nn/layer.h"

enum { WEIGHT, BIAS, RUNNING_MEAN, RUNNING_VAR, N_PARAMS };

/* Saved, one number a channel each: statistics, and what a chain made its output with. */
enum { SAVED_MEAN, SAVED_INVSTD, SAVED_SCALE, SAVED_SHIFT, N_SAVED };

typedef struct batchnorm2d_attrs {
    double eps, momentum;
    int zero_init;
} batchnorm2d_attrs;

static const cvy_config_field fields[] = {
    {.key = "eps",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(batchnorm2d_attrs, eps),
     .default_text = "1e-5",
     .min = 1e-12,
     .max = 1,
     .help = "added to the variance"},
    {.key = "momentum",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(batchnorm2d_attrs, momentum),
     .default_text = "0.1",
     .min = 0,
     .max = 1,
     .help = "share of the batch in the running statistics"},
    {.key = "zero_init",
     .type = CVY_CONFIG_BOOL,
     .offset = offsetof(batchnorm2d_attrs, zero_init),
     .default_text = "false",
     .help = "start the scale at 0 instead of 1"},
};

static const cvy_config_table table = {.name = "batchnorm2d",
                                       .struct_size = sizeof(batchnorm2d_attrs),
                                       .n_fields = sizeof fields / sizeof fields[0],
                                       .fields = fields};

static int64_t aligned(int64_t n)
{
    return (n + NN_PARAM_ALIGN - 1) / NN_PARAM_ALIGN * NN_PARAM_ALIGN;
}

static nn_param_decl per_channel(int64_t c, const char *suffix, nn_param_kind kind, nn_init init)
{
    return (nn_param_decl){
        .suffix = suffix, .shape = {.n_dims = 1, .dim = {c}}, .kind = kind, .init = init};
}

static cvy_status shape(const void *any, const nn_shape *in, int n_inputs, nn_layer_plan *plan,
                        cvy_reason *reason)
{
    const batchnorm2d_attrs *attrs = any;
    const int64_t c = in[0].dim[1];

    (void)n_inputs;
    if (in[0].n_dims != 4) {
        char text[96];
        nn_shape_text(&in[0], text, sizeof text);
        return cvy_because(reason, CVY_ERR_CONFIG, "input of %s; expected (n, c, h, w)", text);
    }
    plan->out = in[0];
    plan->needs = NN_NEEDS_X | NN_NEEDS_DX;
    plan->saved_bytes = N_SAVED * (size_t)aligned(c) * sizeof(float);
    plan->n_params = N_PARAMS;
    plan->params[WEIGHT] = per_channel(c, "weight", NN_PARAM_NORM,
                                       attrs->zero_init ? NN_INIT_ZERO : NN_INIT_ONE);
    plan->params[BIAS] = per_channel(c, "bias", NN_PARAM_NORM, NN_INIT_ZERO);
    plan->params[RUNNING_MEAN] = per_channel(c, "running_mean", NN_PARAM_RUNNING, NN_INIT_ZERO);
    plan->params[RUNNING_VAR] = per_channel(c, "running_var", NN_PARAM_RUNNING, NN_INIT_ONE);
    plan->params[RUNNING_MEAN].running_rate = attrs->momentum;
    plan->params[RUNNING_VAR].running_rate = attrs->momentum;
    return CVY_OK;
}

static nn_bn_geom geometry(const nn_layer_call *call)
{
    const batchnorm2d_attrs *attrs = call->attrs;
    const nn_shape *in = &call->in_shape[0];

    return (nn_bn_geom){
        .n = in->dim[0], .c = in->dim[1], .spatial = in->dim[2] * in->dim[3], .eps = attrs->eps};
}

static float *saved_at(const nn_layer_call *call, int what)
{
    return (float *)call->saved + what * aligned(call->in_shape[0].dim[1]);
}

static cvy_status forward_chain(const nn_layer_call *call, const nn_bn_geom *geom)
{
    const nn_backend_ops *ops = call->backend->ops;
    const nn_norm_chain chain = {
        .x = call->x[0],
        .residual = call->tail->residual,
        .gamma = call->params[WEIGHT],
        .beta = call->params[BIAS],
        .running_mean = call->is_training ? NULL : call->params[RUNNING_MEAN],
        .running_var = call->is_training ? NULL : call->params[RUNNING_VAR],
        .is_relu = call->tail->is_relu,
        .y = call->y,
        .mean = saved_at(call, SAVED_MEAN),
        .invstd = saved_at(call, SAVED_INVSTD),
        .batch_var = call->is_training ? call->dparams[RUNNING_VAR] : NULL,
        .scale = saved_at(call, SAVED_SCALE),
        .shift = saved_at(call, SAVED_SHIFT)};

    return call->tail->is_again ? ops->norm_chain_again(call->backend, geom, &chain)
                                : ops->norm_chain_forward(call->backend, geom, &chain);
}

static cvy_status forward(const nn_layer_call *call)
{
    const nn_backend_ops *ops = call->backend->ops;
    const nn_bn_geom geom = geometry(call);
    float *mean = saved_at(call, SAVED_MEAN);

    if (call->tail != NULL) {
        CVY_RETURN_IF_ERR(forward_chain(call, &geom));
        if (!call->is_training || call->tail->is_again) return CVY_OK;
        return ops->copy(call->backend, geom.c, mean, call->dparams[RUNNING_MEAN]);
    }
    if (!call->is_training) {
        return ops->batchnorm_inference(call->backend, &geom, call->x[0], call->params[WEIGHT],
                                        call->params[BIAS], call->params[RUNNING_MEAN],
                                        call->params[RUNNING_VAR], call->y);
    }
    CVY_RETURN_IF_ERR(ops->batchnorm_forward(
        call->backend, &geom, call->x[0], call->params[WEIGHT], call->params[BIAS], call->y, mean,
        saved_at(call, SAVED_INVSTD), call->dparams[RUNNING_VAR]));
    /* Backward reads the saved mean: the one among the gradients may have been sent by then. */
    return ops->copy(call->backend, geom.c, mean, call->dparams[RUNNING_MEAN]);
}

static cvy_status backward_chain(const nn_layer_call *call, const nn_bn_geom *geom)
{
    const nn_norm_chain_gradient chain = {.x = call->x[0],
                                          .gamma = call->params[WEIGHT],
                                          .mean = saved_at(call, SAVED_MEAN),
                                          .invstd = saved_at(call, SAVED_INVSTD),
                                          .scale = saved_at(call, SAVED_SCALE),
                                          .shift = saved_at(call, SAVED_SHIFT),
                                          .y = call->y,
                                          .is_relu = call->tail->is_relu,
                                          .dy = call->tail->dy,
                                          .dx = call->dx[0],
                                          .accumulate = call->accumulate[0],
                                          .dresidual = call->tail->dresidual,
                                          .accumulate_residual = call->tail->accumulate,
                                          .dgamma = call->dparams[WEIGHT],
                                          .dbeta = call->dparams[BIAS]};

    return call->backend->ops->norm_chain_backward(call->backend, geom, &chain);
}

static cvy_status backward(const nn_layer_call *call)
{
    const nn_bn_geom geom = geometry(call);

    if (call->tail != NULL) return backward_chain(call, &geom);
    return call->backend->ops->batchnorm_backward(
        call->backend, &geom, call->x[0], call->dy, call->params[WEIGHT],
        saved_at(call, SAVED_MEAN), saved_at(call, SAVED_INVSTD), call->dx[0], call->accumulate[0],
        call->dparams[WEIGHT], call->dparams[BIAS]);
}

static void describe_norm(const nn_layer_call *call, nn_conv_tail *out)
{
    const batchnorm2d_attrs *attrs = call->attrs;

    out->gamma = call->params[WEIGHT];
    out->beta = call->params[BIAS];
    out->running_mean = call->params[RUNNING_MEAN];
    out->running_var = call->params[RUNNING_VAR];
    out->eps = attrs->eps;
}

extern const nn_layer_ops nn_layer_batchnorm2d;
const nn_layer_ops nn_layer_batchnorm2d = {
    .name = "batchnorm2d",
    .help = "batch normalisation of (n, c, h, w) per channel",
    .attrs = &table,
    .min_inputs = 1,
    .max_inputs = 1,
    .role = NN_ROLE_NORM,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .describe_norm = describe_norm,
};
