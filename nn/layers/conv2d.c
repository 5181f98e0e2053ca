/* Convolution of planes, with groups and dilation:
 *
 *     y[n,k,p,q] = bias[k] + sum over c,r,s of
 *                  x[n, c, p stride_h - pad_h + r dil_h, q stride_w - pad_w + s dil_w] *
 *                  weight[k,c,r,s]
 *
 * where x is 0 outside its bounds and c runs over the channels of k's group. Source: Dumoulin &
 * Visin 2016, arXiv:1603.07285. */

#include "nn/layer.h"

#include "nn/layers/window_internal.h"

enum { WEIGHT, BIAS };

typedef struct conv2d_attrs {
    int64_t out, groups;
    nn_window_lists window;
    int has_bias;
    int init;
    double init_std;
} conv2d_attrs;

static const cvy_config_field fields[] = {
    {.key = "out",
     .type = CVY_CONFIG_INT,
     .offset = offsetof(conv2d_attrs, out),
     .is_required = 1,
     .min = 1,
     .max = 1e12,
     .unit = "channels",
     .help = "output channels"},
    {.key = "kernel",
     .type = CVY_CONFIG_INT_LIST,
     .offset = offsetof(conv2d_attrs, window.kernel),
     .is_required = 1,
     .min = 1,
     .max = 1e6,
     .help = "size of the filters: n or [height, width]"},
    {.key = "stride",
     .type = CVY_CONFIG_INT_LIST,
     .offset = offsetof(conv2d_attrs, window.stride),
     .default_text = "1",
     .min = 1,
     .max = 1e6,
     .help = "step of the window"},
    {.key = "pad",
     .type = CVY_CONFIG_INT_LIST,
     .offset = offsetof(conv2d_attrs, window.pad),
     .default_text = "0",
     .min = 0,
     .max = 1e6,
     .help = "zeros around the input"},
    {.key = "dilation",
     .type = CVY_CONFIG_INT_LIST,
     .offset = offsetof(conv2d_attrs, window.dilation),
     .default_text = "1",
     .min = 1,
     .max = 1e6,
     .help = "distance between the taps of a filter"},
    {.key = "groups",
     .type = CVY_CONFIG_INT,
     .offset = offsetof(conv2d_attrs, groups),
     .default_text = "1",
     .min = 1,
     .max = 1e12,
     .help = "independent groups of channels; divides the channels on both sides"},
    {.key = "bias",
     .type = CVY_CONFIG_BOOL,
     .offset = offsetof(conv2d_attrs, has_bias),
     .default_text = "true",
     .help = "add a bias per output channel"},
    {.key = "init",
     .type = CVY_CONFIG_CHOICE,
     .offset = offsetof(conv2d_attrs, init),
     .default_text = "uniform_fan_in",
     .choices = NN_INIT_CHOICES,
     .help = "initial weights"},
    {.key = "init_std",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(conv2d_attrs, init_std),
     .default_text = "0.01",
     .min = 0,
     .max = 1e6,
     .help = "deviation of init normal"},
};

static const cvy_config_table table = {.name = "conv2d",
                                       .struct_size = sizeof(conv2d_attrs),
                                       .n_fields = sizeof fields / sizeof fields[0],
                                       .fields = fields};

static void declare(const conv2d_attrs *attrs, const nn_window *window, int64_t group_c,
                    nn_layer_plan *plan)
{
    const int64_t taps = window->kernel[0] * window->kernel[1];
    const double fan_in = (double)group_c * (double)taps;
    const double fan_out = (double)attrs->out * (double)taps;

    plan->params[WEIGHT] = (nn_param_decl){
        .suffix = "weight",
        .shape = {.n_dims = 4, .dim = {attrs->out, group_c, window->kernel[0], window->kernel[1]}},
        .kind = NN_PARAM_WEIGHT,
        .init = nn_weight_init(attrs->init),
        .init_arg = attrs->init_std,
        .fan_in = nn_count_of(fan_in),
        .fan_out = nn_count_of(fan_out)}; /* as PyTorch counts: groups do not divide it */
    plan->params[BIAS] = (nn_param_decl){.suffix = "bias",
                                         .shape = {.n_dims = 1, .dim = {attrs->out}},
                                         .kind = NN_PARAM_BIAS,
                                         .init = nn_bias_init(attrs->init),
                                         .fan_in = nn_count_of(fan_in),
                                         .fan_out = nn_count_of(fan_out)};
    plan->n_params = attrs->has_bias ? 2 : 1;
}

static cvy_status shape(const void *any, const nn_shape *in, int n_inputs, nn_layer_plan *plan,
                        cvy_reason *reason)
{
    const conv2d_attrs *attrs = any;
    nn_window window;
    int64_t pq[2];

    (void)n_inputs;
    CVY_RETURN_IF_ERR(nn_window_of(&attrs->window, &window, reason));
    CVY_RETURN_IF_ERR(nn_window_out(&window, &in[0], 0, pq, reason));

    const int64_t n = in[0].dim[0], c = in[0].dim[1];
    if (c % attrs->groups != 0 || attrs->out % attrs->groups != 0) {
        return cvy_because(reason, CVY_ERR_CONFIG,
                           "%lld groups do not divide both %lld input and %lld output channels",
                           (long long)attrs->groups, (long long)c, (long long)attrs->out);
    }
    plan->out = (nn_shape){.n_dims = 4, .dim = {n, attrs->out, pq[0], pq[1]}};
    plan->needs = NN_NEEDS_X;
    declare(attrs, &window, c / attrs->groups, plan);
    plan->multiply_adds = nn_count_of((double)n * (double)attrs->out * (double)pq[0] *
                                      (double)pq[1] * (double)(c / attrs->groups) *
                                      (double)window.kernel[0] * (double)window.kernel[1]);
    return CVY_OK;
}

static nn_conv2d_geom geometry(const conv2d_attrs *attrs, const nn_shape *in, const nn_shape *out)
{
    nn_window window;
    /* Checked when the net was shaped. */
    const cvy_status status = nn_window_of(&attrs->window, &window, NULL);

    CVY_ASSERT(status == CVY_OK);
    return (nn_conv2d_geom){.n = in->dim[0],
                            .c = in->dim[1],
                            .h = in->dim[2],
                            .w = in->dim[3],
                            .k = out->dim[1],
                            .r = window.kernel[0],
                            .s = window.kernel[1],
                            .p = out->dim[2],
                            .q = out->dim[3],
                            .stride_h = window.stride[0],
                            .stride_w = window.stride[1],
                            .pad_h = window.pad[0],
                            .pad_w = window.pad[1],
                            .dil_h = window.dilation[0],
                            .dil_w = window.dilation[1],
                            .groups = attrs->groups};
}

static size_t workspace_bytes(nn_backend *backend, const void *any, const nn_shape *in,
                              int n_inputs, const nn_layer_plan *plan)
{
    const nn_conv2d_geom geom = geometry(any, &in[0], &plan->out);

    (void)n_inputs;
    return backend->ops->conv2d_workspace_bytes(backend, &geom);
}

static cvy_status forward(const nn_layer_call *call)
{
    const conv2d_attrs *attrs = call->attrs;
    const nn_conv2d_geom geom = geometry(attrs, &call->in_shape[0], call->out_shape);
    const float *bias = attrs->has_bias ? call->params[BIAS] : NULL;

    if (call->conv_tail != NULL) {
        return call->backend->ops->conv2d_tail_forward(call->backend, &geom, call->x[0],
                                                       call->params[WEIGHT], bias, call->conv_tail,
                                                       call->y, call->workspace);
    }
    return call->backend->ops->conv2d_forward(call->backend, &geom, call->x[0],
                                              call->params[WEIGHT], bias, call->y, call->workspace);
}

static cvy_status backward(const nn_layer_call *call)
{
    const conv2d_attrs *attrs = call->attrs;
    const nn_backend_ops *ops = call->backend->ops;
    const nn_conv2d_geom geom = geometry(attrs, &call->in_shape[0], call->out_shape);
    float *dbias = attrs->has_bias ? call->dparams[BIAS] : NULL;

    CVY_RETURN_IF_ERR(ops->conv2d_backward_filter(call->backend, &geom, call->x[0], call->dy,
                                                  call->dparams[WEIGHT], dbias, call->workspace));
    if (call->dx[0] == NULL) return CVY_OK;
    return ops->conv2d_backward_data(call->backend, &geom, call->dy, call->params[WEIGHT],
                                     call->dx[0], call->accumulate[0], call->workspace);
}

extern const nn_layer_ops nn_layer_conv2d;
const nn_layer_ops nn_layer_conv2d = {
    .name = "conv2d",
    .help = "convolution of (n, c, h, w), with groups and dilation",
    .attrs = &table,
    .min_inputs = 1,
    .max_inputs = 1,
    .role = NN_ROLE_CONV,
    .shape = shape,
    .workspace_bytes = workspace_bytes,
    .forward = forward,
    .backward = backward,
};
