/* Maximum over windows of each plane; the first of equal maxima gets the gradient. Source:
 * Dumoulin & Visin 2016, arXiv:1603.07285, section 1.2; attributes as PyTorch's MaxPool2d. */

#include "nn/layer.h"

#include "nn/layers/window_internal.h"

typedef struct maxpool2d_attrs {
    nn_window_lists window;
    int ceil_mode;
} maxpool2d_attrs;

static const cvy_config_field fields[] = {
    {.key = "kernel",
     .type = CVY_CONFIG_INT_LIST,
     .offset = offsetof(maxpool2d_attrs, window.kernel),
     .is_required = 1,
     .min = 1,
     .max = 1e6,
     .help = "size of the window: n or [height, width]"},
    {.key = "stride",
     .type = CVY_CONFIG_INT_LIST,
     .offset = offsetof(maxpool2d_attrs, window.stride),
     .min = 1,
     .max = 1e6,
     .help = "step of the window; absent: its size"},
    {.key = "pad",
     .type = CVY_CONFIG_INT_LIST,
     .offset = offsetof(maxpool2d_attrs, window.pad),
     .default_text = "0",
     .min = 0,
     .max = 1e6,
     .help = "places around the input that never win"},
    {.key = "ceil_mode",
     .type = CVY_CONFIG_BOOL,
     .offset = offsetof(maxpool2d_attrs, ceil_mode),
     .default_text = "false",
     .help = "keep a last window that lies partly outside"},
};

static const cvy_config_table table = {.name = "maxpool2d",
                                       .struct_size = sizeof(maxpool2d_attrs),
                                       .n_fields = sizeof fields / sizeof fields[0],
                                       .fields = fields};

static cvy_status shape(const void *any, const nn_shape *in, int n_inputs, nn_layer_plan *plan,
                        cvy_reason *reason)
{
    const maxpool2d_attrs *attrs = any;
    nn_window window;
    int64_t pq[2];

    (void)n_inputs;
    CVY_RETURN_IF_ERR(nn_window_of(&attrs->window, &window, reason));
    CVY_RETURN_IF_ERR(nn_window_check_pool_pad(&window, reason));
    CVY_RETURN_IF_ERR(nn_window_out(&window, &in[0], attrs->ceil_mode, pq, reason));

    plan->out = (nn_shape){.n_dims = 4, .dim = {in[0].dim[0], in[0].dim[1], pq[0], pq[1]}};
    const int64_t n_out = nn_shape_n_elems(&plan->out);
    const double plane = (double)in[0].dim[2] * (double)in[0].dim[3];
    if (n_out < 0 || plane > (double)INT32_MAX) {
        char text[96];
        nn_shape_text(&in[0], text, sizeof text);
        return cvy_because(reason, CVY_ERR_CONFIG, "input of %s is too large", text);
    }
    plan->saved_per_output = 1; /* places of the maxima */
    return CVY_OK;
}

static nn_pool2d_geom geometry(const nn_layer_call *call)
{
    const maxpool2d_attrs *attrs = call->attrs;
    nn_window window;
    /* Checked when the net was shaped. */
    const cvy_status status = nn_window_of(&attrs->window, &window, NULL);

    CVY_ASSERT(status == CVY_OK);
    return nn_window_pool_geom(&window, &call->in_shape[0], call->out_shape);
}

static cvy_status forward(const nn_layer_call *call)
{
    const nn_pool2d_geom geom = geometry(call);

    return call->backend->ops->maxpool2d_forward(call->backend, &geom, call->x[0], call->y,
                                                 call->saved);
}

static cvy_status backward(const nn_layer_call *call)
{
    const nn_pool2d_geom geom = geometry(call);

    return call->backend->ops->maxpool2d_backward(call->backend, &geom, call->dy, call->saved,
                                                  call->dx[0], call->accumulate[0]);
}

extern const nn_layer_ops nn_layer_maxpool2d;
const nn_layer_ops nn_layer_maxpool2d = {
    .name = "maxpool2d",
    .help = "maximum over windows of (n, c, h, w)",
    .attrs = &table,
    .min_inputs = 1,
    .max_inputs = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
};
