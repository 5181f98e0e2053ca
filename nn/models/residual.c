/* Residual blocks, layer for layer and name for name torchvision's (v1.5: the stride of a
 * bottleneck is in its 3x3 convolution). Source: He, Zhang, Ren & Sun 2015, arXiv:1512.03385,
 * figures 2 and 5; shortcuts that change shape are option B, a strided 1x1 convolution with batch
 * norm. */

#include "nn/models/models_internal.h"

#include <stdio.h>

#define NAME_SIZE 64

enum { EXPANSION = 4 }; /* of a bottleneck */

/* One convolution of a block with its batch norm. */
typedef struct block_conv {
    int64_t out, kernel, stride;
    int is_relu_behind;
    int is_zero; /* the batch norm starts at 0 */
} block_conv;

static nn_value add_conv(nn_graph *graph, const char *prefix, int number, const block_conv *conv,
                         nn_value x)
{
    char name[NAME_SIZE];

    snprintf(name, sizeof name, "%s.conv%d", prefix, number);
    x = nn_add(graph, "conv2d", name, x,
               "{out: %lld, kernel: %lld, stride: %lld, pad: %lld, bias: false, init: he_fan_out}",
               (long long)conv->out, (long long)conv->kernel, (long long)conv->stride,
               (long long)(conv->kernel / 2));
    snprintf(name, sizeof name, "%s.bn%d", prefix, number);
    x = nn_add(graph, "batchnorm2d", name, x, conv->is_zero ? "{zero_init: true}" : "{}");
    if (!conv->is_relu_behind) return x;
    snprintf(name, sizeof name, "%s.relu%d", prefix, number);
    return nn_add(graph, "relu", name, x, "{}");
}

static nn_value add_shortcut(nn_graph *graph, const char *prefix, int64_t out, int64_t stride,
                             nn_value x)
{
    char name[NAME_SIZE];

    if (stride == 1 && nn_graph_shape(graph, x).dim[1] == out) return x;
    snprintf(name, sizeof name, "%s.downsample.0", prefix);
    x = nn_add(graph, "conv2d", name, x,
               "{out: %lld, kernel: 1, stride: %lld, bias: false, init: he_fan_out}",
               (long long)out, (long long)stride);
    snprintf(name, sizeof name, "%s.downsample.1", prefix);
    return nn_add(graph, "batchnorm2d", name, x, "{}");
}

static nn_value add_block(nn_graph *graph, const nn_stage *stage, const char *prefix,
                          int64_t stride, nn_value x)
{
    const int is_basic = stage->kind == NN_BLOCK_BASIC;
    const int64_t out = is_basic ? stage->width : EXPANSION * stage->width;
    const block_conv basic[] = {
        {.out = out, .kernel = 3, .stride = stride, .is_relu_behind = 1},
        {.out = out, .kernel = 3, .stride = 1, .is_zero = stage->zero_init_residual}};
    const block_conv bottleneck[] = {
        {.out = stage->width, .kernel = 1, .stride = 1, .is_relu_behind = 1},
        {.out = stage->width, .kernel = 3, .stride = stride, .is_relu_behind = 1},
        {.out = out, .kernel = 1, .stride = 1, .is_zero = stage->zero_init_residual}};
    const block_conv *convs = is_basic ? basic : bottleneck;
    const int n_convs = is_basic ? 2 : 3;
    char name[NAME_SIZE];
    nn_value y[2] = {x, x};

    for (int i = 0; i < n_convs; i++) y[0] = add_conv(graph, prefix, i + 1, &convs[i], y[0]);
    y[1] = add_shortcut(graph, prefix, out, stride, x);
    snprintf(name, sizeof name, "%s.add", prefix);
    x = nn_add_n(graph, "add", name, 2, y, "{}");
    snprintf(name, sizeof name, "%s.relu", prefix);
    return nn_add(graph, "relu", name, x, "{}");
}

nn_value nn_model_add_stage(nn_graph *graph, const nn_stage *stage, nn_value x)
{
    char prefix[NAME_SIZE / 2];

    for (int64_t i = 0; i < stage->n_blocks; i++) {
        snprintf(prefix, sizeof prefix, "%s.%lld", stage->name, (long long)i);
        x = add_block(graph, stage, prefix, i == 0 ? stage->stride : 1, x);
    }
    return x;
}
