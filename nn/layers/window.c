#include "nn/layers/window_internal.h"

#include <stdio.h>

static cvy_status read_pair(const char *key, const cvy_int_list *list, const int64_t absent[2],
                            int64_t out[2], cvy_reason *reason)
{
    if (list->n > 2) {
        return cvy_because(reason, CVY_ERR_CONFIG,
                           "%s has %d values; expected one, or [height, width]", key, list->n);
    }
    for (int i = 0; i < 2; i++) {
        out[i] = list->n == 0 ? absent[i] : list->value[list->n == 2 ? i : 0];
    }
    return CVY_OK;
}

cvy_status nn_window_of(const nn_window_lists *lists, nn_window *out, cvy_reason *reason)
{
    static const int64_t zeros[2] = {0, 0}, ones[2] = {1, 1};

    CVY_RETURN_IF_ERR(read_pair("kernel", &lists->kernel, ones, out->kernel, reason));
    CVY_RETURN_IF_ERR(read_pair("stride", &lists->stride, out->kernel, out->stride, reason));
    CVY_RETURN_IF_ERR(read_pair("pad", &lists->pad, zeros, out->pad, reason));
    return read_pair("dilation", &lists->dilation, ones, out->dilation, reason);
}

static void pair_text(const int64_t pair[2], char out[48])
{
    if (pair[0] == pair[1]) {
        snprintf(out, 48, "%lld", (long long)pair[0]);
    } else {
        snprintf(out, 48, "[%lld, %lld]", (long long)pair[0], (long long)pair[1]);
    }
}

static cvy_status does_not_fit(const nn_window *window, const nn_shape *in, cvy_reason *reason)
{
    char shape[96], pad[48], dilation[48];
    const int is_dilated = window->dilation[0] > 1 || window->dilation[1] > 1;

    nn_shape_text(in, shape, sizeof shape);
    pair_text(window->pad, pad);
    pair_text(window->dilation, dilation);
    return cvy_because(reason, CVY_ERR_CONFIG,
                       "kernel %lld x %lld does not fit the input of %s with pad %s%s%s",
                       (long long)window->kernel[0], (long long)window->kernel[1], shape, pad,
                       is_dilated ? " and dilation " : "", is_dilated ? dilation : "");
}

cvy_status nn_window_out(const nn_window *window, const nn_shape *in, int ceil_mode, int64_t out[2],
                         cvy_reason *reason)
{
    char shape[96];

    if (in->n_dims != 4) {
        nn_shape_text(in, shape, sizeof shape);
        return cvy_because(reason, CVY_ERR_CONFIG, "input of %s; expected (n, c, h, w)", shape);
    }
    for (int i = 0; i < 2; i++) {
        const int64_t extent = in->dim[2 + i];
        const int64_t stride = window->stride[i];
        const int64_t room = extent + 2 * window->pad[i] -
                             (window->dilation[i] * (window->kernel[i] - 1) + 1);
        if (room < 0) return does_not_fit(window, in, reason);

        out[i] = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
        if (ceil_mode && (out[i] - 1) * stride >= extent + window->pad[i]) out[i]--;
    }
    return CVY_OK;
}

cvy_status nn_window_check_pool_pad(const nn_window *window, cvy_reason *reason)
{
    for (int i = 0; i < 2; i++) {
        if (window->pad[i] > window->kernel[i] / 2) {
            return cvy_because(reason, CVY_ERR_CONFIG, "pad %lld is more than half of kernel %lld",
                               (long long)window->pad[i], (long long)window->kernel[i]);
        }
    }
    return CVY_OK;
}

nn_pool2d_geom nn_window_pool_geom(const nn_window *window, const nn_shape *in, const nn_shape *out)
{
    return (nn_pool2d_geom){.n = in->dim[0],
                            .c = in->dim[1],
                            .h = in->dim[2],
                            .w = in->dim[3],
                            .r = window->kernel[0],
                            .s = window->kernel[1],
                            .p = out->dim[2],
                            .q = out->dim[3],
                            .stride_h = window->stride[0],
                            .stride_w = window->stride[1],
                            .pad_h = window->pad[0],
                            .pad_w = window->pad[1]};
}

int64_t nn_count_of(double count)
{
    return count < 9.2e18 ? (int64_t)count : INT64_MAX;
}

nn_init nn_weight_init(int choice)
{
    static const nn_init inits[] = {NN_INIT_UNIFORM_FAN_IN, NN_INIT_HE_FAN_OUT, NN_INIT_HE_FAN_IN,
                                    NN_INIT_XAVIER, NN_INIT_NORMAL};

    CVY_ASSERT(choice >= 0 && choice < (int)(sizeof inits / sizeof inits[0]));
    return inits[choice];
}

nn_init nn_bias_init(int choice)
{
    return nn_weight_init(choice) == NN_INIT_UNIFORM_FAN_IN ? NN_INIT_UNIFORM_FAN_IN : NN_INIT_ZERO;
}
