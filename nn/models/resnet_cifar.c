/* The small ResNets for 32 x 32 images: He, Zhang, Ren & Sun 2015, arXiv:1512.03385, section 4.2.
 * 6 n + 2 layers: a 3x3 convolution, three stages of n basic blocks with 16, 32 and 64 channels,
 * global average, fc. The paper's shortcuts between stages are option A (subsampling and zero
 * channels, no parameters); these are option B (a strided 1x1 convolution with batch norm), which
 * adds 2.7 thousand parameters. Names and initialisation as torchvision's larger ResNets. */

#include "nn/models/models_internal.h"

#include <stdio.h>
#include <string.h>

enum { N_STAGES = 3 };

#define CIFAR(layers)                                                                              \
    {                                                                                              \
        .name = "resnet" #layers "_cifar",                                                         \
        .help = "ResNet-" #layers " for CIFAR (He et al. 2015, section 4.2) with 1x1 convolution " \
                "shortcuts (option B)",                                                            \
        .channels = 3, .height = 32, .width = 32                                                   \
    }

static const nn_model_arch archs[] = {CIFAR(20), CIFAR(32), CIFAR(44), CIFAR(56), CIFAR(110)};

enum { N_ARCHS = sizeof archs / sizeof archs[0] };

static const int n_blocks[N_ARCHS] = {3, 5, 7, 9, 18}; /* in the order of archs */

static void build(nn_graph *graph, const nn_model_options *options)
{
    int idx = 0;
    char name[16];
    nn_value x = nn_add(graph, "conv2d", "conv1", 0,
                        "{out: 16, kernel: 3, pad: 1, bias: false, init: he_fan_out}");

    while (strcmp(archs[idx].name, options->arch) != 0) idx++;
    x = nn_add(graph, "batchnorm2d", "bn1", x, "{}");
    x = nn_add(graph, "relu", "relu", x, "{}");
    for (int i = 0; i < N_STAGES; i++) {
        const nn_stage stage = {.kind = NN_BLOCK_BASIC,
                                .name = name,
                                .n_blocks = n_blocks[idx],
                                .width = (int64_t)16 << i,
                                .stride = i == 0 ? 1 : 2,
                                .zero_init_residual = options->zero_init_residual};
        snprintf(name, sizeof name, "layer%d", i + 1);
        x = nn_model_add_stage(graph, &stage, x);
    }
    x = nn_add(graph, "avgpool2d", "avgpool", x, "{global: true}");
    nn_model_add_head(graph, options, "fc", x);
}

extern const nn_model_family nn_model_resnet_cifar;
const nn_model_family nn_model_resnet_cifar = {.n_archs = N_ARCHS, .archs = archs, .build = build};
