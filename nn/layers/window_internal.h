#ifndef NN_LAYERS_WINDOW_INTERNAL_H
#define NN_LAYERS_WINDOW_INTERNAL_H

#include "base/config.h"
#include "base/status.h"
#include "nn/backend.h"
#include "nn/params.h"
#include "nn/shape.h"

#include <stdint.h>

/* What layers that slide a window over planes have in common, and the initialisation that layers
 * with weights offer. */

/** Index 0 is the height, 1 the width. */
typedef struct nn_window {
    int64_t kernel[2], stride[2], pad[2], dilation[2];
} nn_window;

/** The lists of a layer's attributes, of one or two values each. */
typedef struct nn_window_lists {
    cvy_int_list kernel, stride, pad, dilation;
} nn_window_lists;

/** An empty stride is the kernel's size, an empty pad 0 and an empty dilation 1. */
cvy_status nn_window_of(const nn_window_lists *lists, nn_window *out, cvy_reason *reason);

/** Output height and width, floor((in + 2 pad - dilation (kernel - 1) - 1) / stride) + 1; rounded
 *  up instead in ceil_mode, but never with a window that starts in the padding at the end. */
cvy_status nn_window_out(const nn_window *window, const nn_shape *in, int ceil_mode, int64_t out[2],
                         cvy_reason *reason);

/** A pooling window must meet the plane wherever it stands: pad is at most half of the kernel. */
cvy_status nn_window_check_pool_pad(const nn_window *window, cvy_reason *reason);
nn_pool2d_geom nn_window_pool_geom(const nn_window *window, const nn_shape *in,
                                   const nn_shape *out);

/** A sum of products that may be too large for an integer: then INT64_MAX. */
int64_t nn_count_of(double count);

/** Choices of the `init` attribute, in the order of nn_weight_init()'s argument. */
#define NN_INIT_CHOICES "uniform_fan_in|he_fan_out|he_fan_in|xavier|normal"
nn_init nn_weight_init(int choice);
/** PyTorch draws the bias too where it draws the weights by its default; else it is zero. */
nn_init nn_bias_init(int choice);

#endif
