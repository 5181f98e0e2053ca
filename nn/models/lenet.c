/* LeNet-5: LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document
 * recognition", Proc. IEEE 86, 1998, section II.B. As it is trained today: ReLU for the scaled
 * tanh, max pooling for the trainable subsampling, all maps of conv2 connected to all of conv1, and
 * softmax cross-entropy for the radial basis functions. PyTorch's default initialisation.
 *
 * The published input is 32 x 32, MNIST's 28 x 28 with a margin of 2: smaller images get that
 * margin as padding of conv1, so 28 x 28 gives the published planes too. */

#include "nn/models/models_internal.h"

enum { PUBLISHED_SIZE = 32 };

static void build(nn_graph *graph, const nn_model_options *options)
{
    const nn_shape in = nn_graph_shape(graph, 0);
    const int is_small = in.n_dims == 4 &&
                         (in.dim[2] < PUBLISHED_SIZE || in.dim[3] < PUBLISHED_SIZE);
    nn_value x = nn_add(graph, "conv2d", "conv1", 0, "{out: 6, kernel: 5, pad: %d}",
                        is_small ? 2 : 0);

    /* The maximum before the rectifier: the same values and gradients with a quarter of the work.
     */
    x = nn_add(graph, "maxpool2d", "pool1", x, "{kernel: 2, stride: 2}");
    x = nn_add(graph, "relu", "relu1", x, "{}");
    x = nn_add(graph, "conv2d", "conv2", x, "{out: 16, kernel: 5}");
    x = nn_add(graph, "maxpool2d", "pool2", x, "{kernel: 2, stride: 2}");
    x = nn_add(graph, "relu", "relu2", x, "{}");
    x = nn_add(graph, "flatten", "flatten", x, "{}");
    x = nn_add(graph, "dense", "fc1", x, "{out: 120}");
    x = nn_add(graph, "relu", "relu3", x, "{}");
    x = nn_add(graph, "dense", "fc2", x, "{out: 84}");
    x = nn_add(graph, "relu", "relu4", x, "{}");
    x = nn_model_add_dropout(graph, options, x);
    nn_model_add_classifier(graph, options, "fc3", x);
}

static const nn_model_arch archs[] = {
    {.name = "lenet5",
     .help = "LeNet-5 (LeCun et al. 1998) with ReLU and max pooling; for 28x28 and 32x32 digits",
     .channels = 1,
     .height = 28,
     .width = 28},
};

extern const nn_model_family nn_model_lenet;
const nn_model_family nn_model_lenet = {
    .n_archs = sizeof archs / sizeof archs[0], .archs = archs, .build = build};
