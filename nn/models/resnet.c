/* ResNet-18 to ResNet-152 as torchvision has them: He, Zhang, Ren & Sun 2015, arXiv:1512.03385,
 * table 1, in the form v1.5 (the stride of a bottleneck is in its 3x3 convolution). Convolutions
 * start He-normal by fan-out, batch norm at 1 and 0, fc by PyTorch's default. Published for
 * 224 x 224; any image that its layers fit is taken. */

#include "nn/models/models_internal.h"

#include <stdio.h>
#include <string.h>

enum { N_STAGES = 4 };

#define IMAGENET .channels = 3, .height = 224, .width = 224

static const nn_model_arch archs[] = {
    {.name = "resnet18", .help = "ResNet-18 (He et al. 2015), torchvision's", IMAGENET},
    {.name = "resnet34", .help = "ResNet-34 (He et al. 2015), torchvision's", IMAGENET},
    {.name = "resnet50", .help = "ResNet-50 v1.5 (He et al. 2015), torchvision's", IMAGENET},
    {.name = "resnet101", .help = "ResNet-101 v1.5 (He et al. 2015), torchvision's", IMAGENET},
    {.name = "resnet152", .help = "ResNet-152 v1.5 (He et al. 2015), torchvision's", IMAGENET},
};

enum { N_ARCHS = sizeof archs / sizeof archs[0] };

/* In the order of archs. */
static const struct {
    nn_block_kind kind;
    int n_blocks[N_STAGES];
} depths[N_ARCHS] = {
    {NN_BLOCK_BASIC, {2, 2, 2, 2}},       {NN_BLOCK_BASIC, {3, 4, 6, 3}},
    {NN_BLOCK_BOTTLENECK, {3, 4, 6, 3}},  {NN_BLOCK_BOTTLENECK, {3, 4, 23, 3}},
    {NN_BLOCK_BOTTLENECK, {3, 8, 36, 3}},
};

static void build(nn_graph *graph, const nn_model_options *options)
{
    int idx = 0;
    char name[16];
    nn_value x = nn_add(graph, "conv2d", "conv1", 0,
                        "{out: 64, kernel: 7, stride: 2, pad: 3, bias: false, init: he_fan_out}");

    while (strcmp(archs[idx].name, options->arch) != 0) idx++;
    x = nn_add(graph, "batchnorm2d", "bn1", x, "{}");
    x = nn_add(graph, "relu", "relu", x, "{}");
    x = nn_add(graph, "maxpool2d", "maxpool", x, "{kernel: 3, stride: 2, pad: 1}");
    for (int i = 0; i < N_STAGES; i++) {
        const nn_stage stage = {.kind = depths[idx].kind,
                                .name = name,
                                .n_blocks = depths[idx].n_blocks[i],
                                .width = (int64_t)64 << i,
                                .stride = i == 0 ? 1 : 2,
                                .zero_init_residual = options->zero_init_residual};
        snprintf(name, sizeof name, "layer%d", i + 1);
        x = nn_model_add_stage(graph, &stage, x);
    }
    x = nn_add(graph, "avgpool2d", "avgpool", x, "{global: true}");
    nn_model_add_head(graph, options, "fc", x);
}

extern const nn_model_family nn_model_resnet;
const nn_model_family nn_model_resnet = {.n_archs = N_ARCHS, .archs = archs, .build = build};
