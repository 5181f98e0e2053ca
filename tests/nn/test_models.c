#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/node.h"
#include "nn/backend.h"
#include "nn/model.h"
#include "nn/net.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static cvy_node *parse(const char *text)
{
    cvy_node *node = NULL;
    assert_ok(cvy_node_parse(text, strlen(text), "job.yaml", &node));
    return node;
}

static nn_shape image_of(int64_t c, int64_t h, int64_t w)
{
    return (nn_shape){.n_dims = 3, .dim = {c, h, w}};
}

static nn_graph *build(const char *arch, int64_t classes, nn_shape image)
{
    const nn_model_options options = {.arch = arch, .classes = classes};
    nn_graph *graph = NULL;

    assert_ok(nn_model_build_arch(&options, 2, &image, &graph));
    return graph;
}

static nn_graph *build_text(const char *text, nn_shape image)
{
    cvy_node *section = parse(text);
    nn_graph *graph = NULL;

    assert_ok(nn_model_build(section, 2, &image, &graph));
    cvy_node_destroy(&section); /* nothing of the graph points into it */
    return graph;
}

static const nn_param *param_of(const nn_graph *graph, const char *name)
{
    const nn_param *param = nn_params_find(nn_graph_params(graph), name);
    if (param == NULL) fail_msg("no parameter %s", name);
    return param;
}

static const nn_graph_layer *layer_of(const nn_graph *graph, const char *name)
{
    for (int i = 0; i < nn_graph_n_layers(graph); i++) {
        if (strcmp(nn_graph_layer_at(graph, i)->name, name) == 0) {
            return nn_graph_layer_at(graph, i);
        }
    }
    return NULL;
}

/* --- Archs ------------------------------------------------------------------------------------ */

/* Trained parameters at 1000 classes as torchvision's documentation gives them (resnet), by hand
 * from the layers (lenet5, resnetN_cifar at 10 classes). */
static const struct {
    const char *arch;
    int64_t classes, n_trainable;
} known[] = {
    {"lenet5", 10, 61706},          {"resnet20_cifar", 10, 272474},
    {"resnet32_cifar", 10, 466906}, {"resnet44_cifar", 10, 661338},
    {"resnet56_cifar", 10, 855770}, {"resnet110_cifar", 10, 1730714},
    {"resnet18", 1000, 11689512},   {"resnet34", 1000, 21797672},
    {"resnet50", 1000, 25557032},   {"resnet101", 1000, 44549160},
    {"resnet152", 1000, 60192808},
};

static void archs_have_the_published_number_of_parameters(void **state)
{
    (void)state;
    assert_int_equal(nn_model_count(), sizeof known / sizeof known[0]);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        const nn_model_arch *arch = nn_model_find(known[i].arch);
        assert_non_null(arch);
        nn_graph *graph = build(known[i].arch, known[i].classes,
                                image_of(arch->channels, arch->height, arch->width));
        if (nn_graph_params(graph)->n_trainable != known[i].n_trainable) {
            fail_msg("%s has %lld parameters, expected %lld", known[i].arch,
                     (long long)nn_graph_params(graph)->n_trainable,
                     (long long)known[i].n_trainable);
        }
        const nn_shape logits = nn_graph_shape(graph, nn_graph_logits(graph));
        assert_int_equal(logits.n_dims, 2);
        assert_int_equal(logits.dim[0], 2);
        assert_int_equal(logits.dim[1], known[i].classes);
        nn_graph_destroy(&graph);
    }
}

static void every_arch_is_listed_once_with_help(void **state)
{
    (void)state;
    for (int i = 0; i < nn_model_count(); i++) {
        const nn_model_arch *arch = nn_model_at(i);
        assert_ptr_equal(nn_model_find(arch->name), arch);
        assert_true(strlen(arch->help) > 10);
        assert_true(arch->channels > 0 && arch->height > 0 && arch->width > 0);
    }
    assert_null(nn_model_at(-1));
    assert_null(nn_model_at(nn_model_count()));
    assert_null(nn_model_find("resnet19"));
}

static void multiply_adds_are_the_published_ones(void **state)
{
    (void)state;
    /* torchvision: 1.81 and 4.09 GFLOPs (multiply-adds) at 224 x 224. */
    nn_graph *graph = build("resnet18", 1000, image_of(3, 224, 224));
    assert_true(fabs((double)nn_graph_multiply_adds(graph) / 1.814e9 - 1.0) < 0.005);
    nn_graph_destroy(&graph);
    graph = build("resnet50", 1000, image_of(3, 224, 224));
    assert_true(fabs((double)nn_graph_multiply_adds(graph) / 4.089e9 - 1.0) < 0.005);
    nn_graph_destroy(&graph);
}

static void assert_shape(const nn_graph *graph, const char *name, int n_dims, int64_t a, int64_t b,
                         int64_t c)
{
    const nn_shape *shape = &param_of(graph, name)->decl.shape;

    assert_int_equal(shape->n_dims, n_dims);
    assert_int_equal(shape->dim[0], a);
    if (n_dims > 1) assert_int_equal(shape->dim[1], b);
    if (n_dims > 2) assert_int_equal(shape->dim[2], c);
}

static void resnet_parameters_have_torchvision_names_and_order(void **state)
{
    static const char *const first[] = {"conv1.weight",
                                        "bn1.weight",
                                        "bn1.bias",
                                        "bn1.running_mean",
                                        "bn1.running_var",
                                        "layer1.0.conv1.weight",
                                        "layer1.0.bn1.weight",
                                        "layer1.0.bn1.bias",
                                        "layer1.0.bn1.running_mean",
                                        "layer1.0.bn1.running_var",
                                        "layer1.0.conv2.weight"};
    (void)state;
    nn_graph *graph = build("resnet50", 7, image_of(3, 64, 64));
    for (size_t i = 0; i < sizeof first / sizeof first[0]; i++) {
        assert_string_equal(nn_graph_params(graph)->entry[i].name, first[i]);
    }
    assert_shape(graph, "layer1.0.downsample.0.weight", 4, 256, 64, 1);
    assert_shape(graph, "layer1.0.downsample.1.running_var", 1, 256, 0, 0);
    assert_shape(graph, "layer3.5.conv3.weight", 4, 1024, 256, 1);
    assert_shape(graph, "layer4.0.conv2.weight", 4, 512, 512, 3);
    assert_shape(graph, "fc.weight", 2, 7, 2048, 0);
    assert_null(nn_params_find(nn_graph_params(graph), "layer1.1.downsample.0.weight"));
    assert_null(nn_params_find(nn_graph_params(graph), "layer3.6.conv1.weight"));
    /* v1.5: the 1x1 convolution before keeps the size, the 3x3 halves it. */
    const nn_graph_layer *conv1 = layer_of(graph, "layer2.0.conv1");
    const nn_graph_layer *conv2 = layer_of(graph, "layer2.0.conv2");
    assert_int_equal(conv1->plan.out.dim[2], 16);
    assert_int_equal(conv2->plan.out.dim[2], 8);
    nn_graph_destroy(&graph);
}

static void small_and_odd_images_are_taken(void **state)
{
    static const struct {
        const char *arch;
        int64_t c, h, w;
    } cases[] = {
        {"resnet18", 3, 32, 32},       {"resnet18", 1, 28, 28},       {"resnet50", 3, 32, 32},
        {"resnet34", 3, 97, 131},      {"resnet20_cifar", 1, 28, 28}, {"resnet20_cifar", 3, 8, 8},
        {"resnet20_cifar", 3, 33, 40}, {"lenet5", 1, 32, 32},         {"lenet5", 3, 28, 28},
        {"lenet5", 3, 64, 48},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        nn_graph *graph = build(cases[i].arch, 10, image_of(cases[i].c, cases[i].h, cases[i].w));
        assert_int_equal(param_of(graph, "conv1.weight")->decl.shape.dim[1], cases[i].c);
        nn_graph_destroy(&graph);
    }
}

static void lenet_sees_the_published_planes_at_28_and_32(void **state)
{
    (void)state;
    for (int64_t size = 28; size <= 32; size += 4) {
        nn_graph *graph = build("lenet5", 10, image_of(1, size, size));
        assert_int_equal(layer_of(graph, "conv1")->plan.out.dim[2], 28);
        assert_int_equal(layer_of(graph, "conv2")->plan.out.dim[2], 10);
        assert_shape(graph, "fc1.weight", 2, 120, 400, 0);
        assert_shape(graph, "fc3.weight", 2, 10, 84, 0);
        nn_graph_destroy(&graph);
    }
}

static void images_too_small_are_refused_naming_the_layer(void **state)
{
    const nn_model_options options = {.arch = "lenet5", .classes = 10};
    const nn_shape image = image_of(1, 8, 8);
    nn_graph *graph = NULL;

    (void)state;
    test_log_expect("layer 'conv2' (conv2d): kernel 5 x 5 does not fit");
    assert_status(nn_model_build_arch(&options, 2, &image, &graph), CVY_ERR_CONFIG);
    assert_null(graph);
}

static void initial_values_are_torchvisions(void **state)
{
    (void)state;
    nn_graph *graph = build("resnet18", 10, image_of(3, 64, 64));
    assert_int_equal(param_of(graph, "conv1.weight")->decl.init, NN_INIT_HE_FAN_OUT);
    assert_int_equal(param_of(graph, "conv1.weight")->decl.fan_out, 64 * 7 * 7);
    assert_int_equal(param_of(graph, "layer2.0.downsample.0.weight")->decl.init,
                     NN_INIT_HE_FAN_OUT);
    assert_int_equal(param_of(graph, "layer1.0.bn2.weight")->decl.init, NN_INIT_ONE);
    assert_int_equal(param_of(graph, "layer1.0.bn2.bias")->decl.init, NN_INIT_ZERO);
    assert_int_equal(param_of(graph, "fc.weight")->decl.init, NN_INIT_UNIFORM_FAN_IN);
    assert_int_equal(param_of(graph, "fc.bias")->decl.init, NN_INIT_UNIFORM_FAN_IN);
    assert_int_equal(param_of(graph, "fc.bias")->decl.fan_in, 512);
    nn_graph_destroy(&graph);
}

static void zero_init_residual_zeroes_the_last_norm_of_each_branch(void **state)
{
    (void)state;
    nn_graph *graph = build_text("{arch: resnet18, classes: 10, zero_init_residual: true}",
                                 image_of(3, 32, 32));
    assert_int_equal(param_of(graph, "layer1.0.bn1.weight")->decl.init, NN_INIT_ONE);
    assert_int_equal(param_of(graph, "layer1.0.bn2.weight")->decl.init, NN_INIT_ZERO);
    assert_int_equal(param_of(graph, "layer2.0.downsample.1.weight")->decl.init, NN_INIT_ONE);
    nn_graph_destroy(&graph);
    graph = build_text("{arch: resnet50, classes: 10, zero_init_residual: true}",
                       image_of(3, 32, 32));
    assert_int_equal(param_of(graph, "layer4.2.bn2.weight")->decl.init, NN_INIT_ONE);
    assert_int_equal(param_of(graph, "layer4.2.bn3.weight")->decl.init, NN_INIT_ZERO);
    nn_graph_destroy(&graph);
}

static void dropout_stands_before_the_last_dense_layer(void **state)
{
    (void)state;
    for (int i = 0; i < nn_model_count(); i++) {
        char text[128];
        const nn_model_arch *arch = nn_model_at(i);
        const nn_shape image = image_of(arch->channels, 32, 32);
        snprintf(text, sizeof text, "{arch: %s, classes: 4, dropout: 0.25}", arch->name);
        nn_graph *with = build_text(text, image), *without = build(arch->name, 4, image);
        const nn_graph_layer *dropout = layer_of(with, "dropout");
        assert_non_null(dropout);
        assert_null(layer_of(without, "dropout"));
        /* logits <- dense <- dropout */
        const nn_graph_layer *dense = nn_graph_layer_at(with, nn_graph_logits(with) - 1);
        assert_string_equal(dense->ops->name, "dense");
        assert_int_equal(dense->input[0], dropout->output);
        nn_graph_destroy(&with);
        nn_graph_destroy(&without);
    }
}

/* One pass of training and one of evaluation: all wired, finite, and no unused parameter. */
static void check_trains(const char *arch, nn_shape image)
{
    const nn_backend_options backend_options = {.n_threads = 1};
    const nn_net_options net_options = {.is_inference = 0};
    nn_graph *graph = build(arch, 3, image);
    const nn_params *params = nn_graph_params(graph);
    const size_t n_pixels = (size_t)(2 * nn_shape_n_elems(&image));
    float *weights = cvy_alloc_zero((size_t)params->n_elems, sizeof(float));
    float *grads = cvy_alloc_zero((size_t)params->n_elems, sizeof(float));
    float *images = cvy_alloc(n_pixels * sizeof(float));
    const int32_t labels[2] = {0, 2};
    const nn_batch batch = {.n = 2, .images = images, .labels = labels, .is_training = 1};
    nn_backend *backend = NULL;
    nn_net *net = NULL;

    assert_true(weights != NULL && grads != NULL && images != NULL);
    for (size_t i = 0; i < n_pixels; i++) images[i] = (float)((i * 37 + 11) % 101) / 50.0f - 1.0f;
    assert_ok(nn_backend_open("auto", &backend_options, &backend));
    assert_ok(nn_net_create(backend, graph, &net_options, &net));
    assert_ok(nn_params_init(params, 1, weights));
    assert_ok(nn_net_forward(net, &batch, weights, grads));
    assert_true(nn_net_outcome(net)->loss[0] > 0 && isfinite(nn_net_outcome(net)->loss[0]));
    assert_ok(nn_net_backward(net, &batch, weights, grads, NULL, NULL));
    for (int i = 0; i < params->n - 1; i++) {
        const nn_param *param = &params->entry[i];
        double norm = 0;
        for (int64_t j = 0; j < param->n_elems; j++) {
            norm += fabs((double)grads[param->offset + j]);
        }
        if (!(norm > 0 && isfinite(norm))) fail_msg("%s: gradient %g", param->name, norm);
    }
    nn_net_destroy(&net);
    nn_backend_close(&backend);
    cvy_free(weights);
    cvy_free(grads);
    cvy_free(images);
    nn_graph_destroy(&graph);
}

static void gradients_reach_every_parameter(void **state)
{
    (void)state;
    check_trains("lenet5", image_of(1, 28, 28));
    check_trains("resnet20_cifar", image_of(3, 16, 16));
    check_trains("resnet18", image_of(3, 48, 48));
    check_trains("resnet50", image_of(3, 48, 48));
}

/* --- Sections --------------------------------------------------------------------------------- */

static void label_smoothing_reaches_the_loss(void **state)
{
    (void)state;
    nn_graph *graph = build_text("{arch: lenet5, classes: 10, label_smoothing: 0.1}",
                                 image_of(1, 28, 28));
    const nn_graph_layer *loss = layer_of(graph, "loss");
    double smoothing = 0; /* the first field of the table */
    assert_string_equal(loss->ops->attrs->fields[0].key, "label_smoothing");
    memcpy(&smoothing, (const char *)loss->attrs + loss->ops->attrs->fields[0].offset,
           sizeof smoothing);
    assert_true(smoothing == 0.1);
    nn_graph_destroy(&graph);
}

static void sections_take_their_defaults_and_build_again(void **state)
{
    cvy_node *section = parse("{arch: resnet20_cifar, classes: 10}");
    const nn_shape image = image_of(3, 32, 32);
    nn_graph *graph = NULL;

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_ok(nn_model_build(section, 2, &image, &graph));
        nn_graph_destroy(&graph);
    }
    assert_string_equal(cvy_node_text(cvy_node_find(section, "label_smoothing")), "0");
    assert_null(cvy_node_find(section, "net"));
    cvy_node_destroy(&section);
}

static const struct {
    const char *text, *part;
} wrong[] = {
    {"{arch: resnet51, classes: 10}", "job.yaml:1:8: no arch 'resnet51'; did you mean 'resnet"},
    {"{arch: zzzzzzzzzzz, classes: 10}", "expected one such as 'resnet18'"},
    {"{arch: resnet18}", "model.classes is missing"},
    {"{classes: 10}", "model has neither arch nor net"},
    {"{arch: lenet5, classes: 4, net: [{type: relu}]}", "model has both arch and net"},
    {"{arch: lenet5, clases: 4}", "unknown key 'clases'"},
    {"{arch: lenet5, classes: 4, dropout: 1}", "dropout is '1'"},
    {"{classes: 4, net: 7}", "model.net is no list of layers"},
    {"{classes: 4, net: []}", "model.net is no list of layers"},
    {"{classes: 4, net: [{type: cond2d}]}",
     "job.yaml:1:27: no layer type 'cond2d'; did you mean 'conv2d'?"},
    {"{classes: 4, net: [{name: a}]}", "a layer without a type"},
    {"{classes: 4, net: [relu]}", "job.yaml:1:20: a layer without a type"},
    {"{classes: 4, net: [{type: relu, name: a..b}]}", "name is 'a..b'"},
    {"{classes: 4, net: [{type: relu, name: input}]}", "name is 'input'"},
    {"{classes: 4, net: [{type: relu, name: stem}, {type: relu, input: sten}]}",
     "job.yaml:1:66: no layer 'sten' stands before this one; did you mean 'stem'?"},
    {"{classes: 4, net: [{type: relu, input: relu2}, {type: relu}]}", "no layer 'relu2' stands"},
    {"{classes: 4, net: [{type: add, input: []}]}", "input has 0 names"},
    {"{classes: 4, net: [{type: add, input: [[input]]}]}", "input is no name of a layer"},
    {"{classes: 4, net: [{type: conv2d, out: 4, kernal: 3}]}",
     "job.yaml:1:43: unknown key 'kernal' in conv2d, did you mean 'kernel'?"},
    {"{classes: 4, net: [{type: relu, slope: 3}]}", "this type takes no attributes"},
    {"{classes: 4, net: [{type: conv2d, name: c, out: 4, kernel: 99}]}",
     "layer 'c' (conv2d): kernel 99 x 99 does not fit"},
    {"{classes: 4, net: [{type: flatten}, {type: dense, out: 5}]}",
     "the net gives (2, 5), expected (2, 4) for 4 classes"},
    {"{classes: 4, dropout: 0.5, net: [{type: flatten}, {type: dense, out: 4}]}",
     "model.dropout is for an arch"},
    {"{classes: 4, label_smoothing: 0.5, net: [{type: flatten}, {type: dense, out: 4}, {type: "
     "softmax_xent}]}",
     "net has a loss layer of its own"},
};

static void wrong_sections_are_refused_with_place_and_nearest(void **state)
{
    const nn_shape image = image_of(1, 28, 28);

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        cvy_node *section = parse(wrong[i].text);
        nn_graph *graph = NULL;
        test_log_expect(wrong[i].part);
        assert_status(nn_model_build(section, 2, &image, &graph), CVY_ERR_CONFIG);
        assert_null(graph);
        cvy_node_destroy(&section);
    }
}

static const char residual_net[] =
    "classes: 4\n"
    "net:\n"
    "- {type: conv2d, name: stem, out: 8, kernel: [3, 1], pad: [1, 0]}\n"
    "- {type: relu}\n"
    "- {type: conv2d, name: branch.conv, out: 8, kernel: 3, pad: 1}\n"
    "- {type: add, input: [branch.conv, relu1]}\n"
    "- {type: relu}\n"
    "- {type: conv2d, name: other, input: input, out: 2, kernel: 1}\n"
    "- {type: concat, input: [relu2, other]}\n"
    "- {type: avgpool2d, global: true}\n"
    "- {type: flatten}\n"
    "- {type: dense, name: fc, out: 4}\n";

static void list_builds_a_graph_with_branches(void **state)
{
    (void)state;
    nn_graph *graph = build_text(residual_net, image_of(3, 12, 12));
    assert_shape(graph, "stem.weight", 4, 8, 3, 3);
    assert_shape(graph, "branch.conv.bias", 1, 8, 0, 0);
    assert_shape(graph, "other.weight", 4, 2, 3, 1);
    assert_shape(graph, "fc.weight", 2, 4, 10, 0);
    const nn_graph_layer *add = layer_of(graph, "add1");
    assert_int_equal(add->n_inputs, 2);
    assert_int_equal(add->input[0], layer_of(graph, "branch.conv")->output);
    assert_int_equal(add->input[1], layer_of(graph, "relu1")->output);
    assert_int_equal(layer_of(graph, "other")->input[0], 0);
    assert_non_null(layer_of(graph, "loss"));
    assert_int_equal(nn_graph_logits(graph), layer_of(graph, "fc")->output);
    nn_graph_destroy(&graph);
}

static void list_keeps_its_own_loss(void **state)
{
    (void)state;
    nn_graph *graph = build_text("{classes: 4, net: [{type: flatten}, {type: dense, out: 4}, "
                                 "{type: softmax_xent, name: xent, label_smoothing: 0.2}]}",
                                 image_of(1, 6, 6));
    assert_int_equal(nn_graph_n_layers(graph), 3);
    assert_null(layer_of(graph, "loss"));
    nn_graph_destroy(&graph);
}

/* Attributes are read from a copy that does not outlive the building: texts would dangle. */
static void layer_attributes_are_never_views(void **state)
{
    (void)state;
    for (int i = 0; i < nn_layer_count(); i++) {
        const cvy_config_table *table = nn_layer_at(i)->attrs;
        for (int j = 0; table != NULL && j < table->n_fields; j++) {
            assert_int_not_equal(table->fields[j].type, CVY_CONFIG_TEXT);
            assert_int_not_equal(table->fields[j].type, CVY_CONFIG_NODE);
        }
    }
}

static void check_without_memory(const char *text)
{
    cvy_status status = CVY_ERR_NO_MEMORY;
    const nn_shape image = image_of(3, 16, 16);
    cvy_alloc_counts before, after;

    cvy_alloc_count(&before);
    for (int64_t k = 0; status != CVY_OK; k++) {
        cvy_node *section = parse(text);
        nn_graph *graph = NULL;
        assert_true(k < 5000);
        cvy_alloc_fail_at(k);
        status = nn_model_build(section, 2, &image, &graph);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        nn_graph_destroy(&graph);
        cvy_node_destroy(&section);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
}

static void building_without_memory_reports_it_and_leaks_nothing(void **state)
{
    (void)state;
    test_log_expect(": "); /* whoever misses the memory says so */
    check_without_memory("{arch: lenet5, classes: 4, dropout: 0.1}");
    check_without_memory("{classes: 4, net: [{type: conv2d, out: 2, kernel: 3}, {type: flatten}, "
                         "{type: dense, out: 4, input: flatten1}]}");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(archs_have_the_published_number_of_parameters),
        cvy_unit_test(every_arch_is_listed_once_with_help),
        cvy_unit_test(multiply_adds_are_the_published_ones),
        cvy_unit_test(resnet_parameters_have_torchvision_names_and_order),
        cvy_unit_test(small_and_odd_images_are_taken),
        cvy_unit_test(lenet_sees_the_published_planes_at_28_and_32),
        cvy_unit_test(images_too_small_are_refused_naming_the_layer),
        cvy_unit_test(initial_values_are_torchvisions),
        cvy_unit_test(zero_init_residual_zeroes_the_last_norm_of_each_branch),
        cvy_unit_test(dropout_stands_before_the_last_dense_layer),
        cvy_unit_test(gradients_reach_every_parameter),
        cvy_unit_test(label_smoothing_reaches_the_loss),
        cvy_unit_test(sections_take_their_defaults_and_build_again),
        cvy_unit_test(wrong_sections_are_refused_with_place_and_nearest),
        cvy_unit_test(list_builds_a_graph_with_branches),
        cvy_unit_test(list_keeps_its_own_loss),
        cvy_unit_test(layer_attributes_are_never_views),
        cvy_unit_test(building_without_memory_reports_it_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
