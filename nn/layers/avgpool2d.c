/* Mean over windows of each plane, or over the whole plane (global). Source: Dumoulin & Visin 2016,
 * arXiv:1603.07285, section 1.2; global pooling: Lin, Chen & Yan 2013, arXiv:1312.4400. Attributes
 * as PyTorch's AvgPool2d. */

#include "nn/layer.h"

#include "nn/layers/window_internal.h"

typedef struct avgpool2d_attrs {
    nn_window_lists window;
    int count_include_pad;
    int is_global;
} avgpool2d_attrs;

static const cvy_config_field fields[] = {
    {.key = "kernel",
     .type = CVY_CONFIG_INT_LIST,
     .offset = offsetof(avgpool2d_attrs, window.kernel),
     .min = 1,
     .max = 1e6,
     .help = "size of the window: n or [height, width]; needed unless global"},
    {.key = "stride",
     .type = CVY_CONFIG_INT_LIST,
     .offset = offsetof(avgpool2d_attrs, window.stride),
     .min = 1,
     .max = 1e6,
     .help = "step of the window; absent: its size"},
    {.key = "pad",
     .type = CVY_CONFIG_INT_LIST,
     .offset = offsetof(avgpool2d_attrs, window.pad),
     .default_text = "0",
     .min = 0,
     .max = 1e6,
     .help = "zeros around the input"},
    {.key = "count_include_pad",
     .type = CVY_CONFIG_BOOL,
     .offset = offsetof(avgpool2d_attrs, count_include_pad),
     .default_text = "true",
     .help = "divide by the size of the window also where it lies partly in the padding"},
    {.key = "global",
     .type = CVY_CONFIG_BOOL,
     .offset = offsetof(avgpool2d_attrs, is_global),
     .default_text = "false",
     .help = "one window: the whole plane"},
};

static const cvy_config_table table = {.name = "avgpool2d",
                                       .struct_size = sizeof(avgpool2d_attrs),
                                       .n_fields = sizeof fields / sizeof fields[0],
                                       .fields = fields};

static cvy_status window_of(const avgpool2d_attrs *attrs, const nn_shape *in, nn_window *out,
                            cvy_reason *reason)
{
    CVY_RETURN_IF_ERR(nn_window_of(&attrs->window, out, reason));
    if (attrs->is_global) {
        for (int i = 0; i < 2; i++) {
            out->kernel[i] = in->dim[2 + i];
            out->stride[i] = in->dim[2 + i];
        }
    }
    return CVY_OK;
}

static cvy_status check_attrs(const avgpool2d_attrs *attrs, cvy_reason *reason)
{
    const nn_window_lists *lists = &attrs->window;
    const int has_pad = lists->pad.n > 0 &&
                        (lists->pad.value[0] != 0 || lists->pad.value[lists->pad.n - 1] != 0);

    if (attrs->is_global && (lists->kernel.n > 0 || lists->stride.n > 0 || has_pad)) {
        return cvy_because(
            reason, CVY_ERR_CONFIG,
            "global pooling takes no kernel, stride or pad: its window is the plane");
    }
    if (!attrs->is_global && lists->kernel.n == 0) {
        return cvy_because(reason, CVY_ERR_CONFIG, "no kernel; give one, or global: true");
    }
    return CVY_OK;
}

static cvy_status shape(const void *any, const nn_shape *in, int n_inputs, nn_layer_plan *plan,
                        cvy_reason *reason)
{
    const avgpool2d_attrs *attrs = any;
    nn_window window;
    int64_t pq[2];

    (void)n_inputs;
    CVY_RETURN_IF_ERR(check_attrs(attrs, reason));
    CVY_RETURN_IF_ERR(window_of(attrs, &in[0], &window, reason));
    CVY_RETURN_IF_ERR(nn_window_check_pool_pad(&window, reason));
    CVY_RETURN_IF_ERR(nn_window_out(&window, &in[0], 0, pq, reason));
    plan->out = (nn_shape){.n_dims = 4, .dim = {in[0].dim[0], in[0].dim[1], pq[0], pq[1]}};
    return CVY_OK;
}

static nn_pool2d_geom geometry(const nn_layer_call *call)
{
    const avgpool2d_attrs *attrs = call->attrs;
    nn_window window;
    /* Checked when the net was shaped. */
    const cvy_status status = window_of(attrs, &call->in_shape[0], &window, NULL);
    nn_pool2d_geom geom;

    CVY_ASSERT(status == CVY_OK);
    geom = nn_window_pool_geom(&window, &call->in_shape[0], call->out_shape);
    geom.count_include_pad = attrs->count_include_pad;
    return geom;
}

static cvy_status forward(const nn_layer_call *call)
{
    const nn_pool2d_geom geom = geometry(call);

    return call->backend->ops->avgpool2d_forward(call->backend, &geom, call->x[0], call->y);
}

static cvy_status backward(const nn_layer_call *call)
{
    const nn_pool2d_geom geom = geometry(call);

    return call->backend->ops->avgpool2d_backward(call->backend, &geom, call->dy, call->dx[0],
                                                  call->accumulate[0]);
}

extern const nn_layer_ops nn_layer_avgpool2d;
const nn_layer_ops nn_layer_avgpool2d = {
    .name = "avgpool2d",
    .help = "mean over windows of (n, c, h, w), or over whole planes",
    .attrs = &table,
    .min_inputs = 1,
    .max_inputs = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
};
