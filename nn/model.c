#include "nn/model.h"

#include "nn/models/models_internal.h"

#include <stdio.h>

static const cvy_config_field fields[] = {
    {.key = "arch",
     .type = CVY_CONFIG_TEXT,
     .offset = offsetof(nn_model_options, arch),
     .help = "a known net, such as resnet20_cifar or resnet50; or give net"},
    {.key = "classes",
     .type = CVY_CONFIG_INT,
     .offset = offsetof(nn_model_options, classes),
     .min = 1,
     .max = 1e7,
     .help = "outputs of the last layer; absent in training: as many as the dataset has"},
    {.key = "label_smoothing",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(nn_model_options, label_smoothing),
     .default_text = "0",
     .min = 0,
     .max = 0.999,
     .help = "share of each target that is spread over all classes"},
    {.key = "dropout",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(nn_model_options, dropout),
     .default_text = "0",
     .min = 0,
     .max = 0.999,
     .help = "rate of a dropout before the last dense layer of an arch; 0: none"},
    {.key = "zero_init_residual",
     .type = CVY_CONFIG_BOOL,
     .offset = offsetof(nn_model_options, zero_init_residual),
     .default_text = "false",
     .help = "resnets: the last batch norm of each residual branch starts at 0"},
    {.key = "net",
     .type = CVY_CONFIG_NODE,
     .offset = offsetof(nn_model_options, net),
     .help = "instead of arch: a list of layers, each {type, name, input, its attributes}; input "
             "is one name or a list, default the layer before; the images are 'input'; the loss "
             "may be left out"},
};

const cvy_config_table nn_model_table = {.name = "model",
                                         .struct_size = sizeof(nn_model_options),
                                         .n_fields = sizeof fields / sizeof fields[0],
                                         .fields = fields};

nn_value nn_model_add_dropout(nn_graph *graph, const nn_model_options *options, nn_value x)
{
    if (options->dropout <= 0) return x;
    return nn_add(graph, "dropout", "dropout", x, "{rate: %.17g}", options->dropout);
}

void nn_model_add_classifier(nn_graph *graph, const nn_model_options *options, const char *name,
                             nn_value x)
{
    x = nn_add(graph, "dense", name, x, "{out: %lld}", (long long)options->classes);
    nn_add(graph, "softmax_xent", "loss", x, "{label_smoothing: %.17g}", options->label_smoothing);
}

void nn_model_add_head(nn_graph *graph, const nn_model_options *options, const char *last,
                       nn_value x)
{
    x = nn_add(graph, "flatten", "flatten", x, "{}");
    x = nn_model_add_dropout(graph, options, x);
    nn_model_add_classifier(graph, options, last, x);
}

/* Exactly one of arch and net, and a number of classes. place: "job.yaml:3:8: " or "". */
static cvy_status check_options(const nn_model_options *options, const char *place)
{
    int idx = 0;

    if ((options->arch == NULL) == (options->net == NULL)) {
        return CVY_FAIL(CVY_ERR_CONFIG, "%smodel has %s arch %s net, expected one of the two",
                        place, options->arch == NULL ? "neither" : "both",
                        options->arch == NULL ? "nor" : "and");
    }
    if (options->classes < 1) {
        return CVY_FAIL(CVY_ERR_CONFIG, "%smodel.classes is missing: the number of classes", place);
    }
    if (options->arch == NULL || nn_model_family_find(options->arch, &idx) != NULL) return CVY_OK;

    const char *nearest = nn_model_nearest(options->arch);
    return CVY_FAIL(CVY_ERR_CONFIG, "%sno arch '%s'; %s '%s'%s", place, options->arch,
                    nearest != NULL ? "did you mean" : "expected one such as",
                    nearest != NULL ? nearest : "resnet18", nearest != NULL ? "?" : "");
}

static cvy_status check_logits(const nn_model_options *options, const nn_graph *graph,
                               const char *place)
{
    const nn_shape shape = nn_graph_shape(graph, nn_graph_logits(graph));
    char text[96];

    if (shape.n_dims == 2 && shape.dim[1] == options->classes) return CVY_OK;
    nn_shape_text(&shape, text, sizeof text);
    return CVY_FAIL(CVY_ERR_CONFIG, "%sthe net gives %s, expected (%lld, %lld) for %lld classes",
                    place, text, (long long)nn_graph_minibatch(graph), (long long)options->classes,
                    (long long)options->classes);
}

static cvy_status build(const nn_model_options *options, const char *place, int64_t minibatch,
                        const nn_shape *image, nn_graph **out)
{
    cvy_status status = CVY_OK;
    nn_graph *graph = NULL;
    int idx = 0;

    *out = NULL;
    CVY_RETURN_IF_ERR(check_options(options, place));
    CVY_RETURN_IF_ERR(nn_graph_create(minibatch, image, &graph));
    if (options->net != NULL) {
        CVY_GOTO_IF_ERR(fail, status, nn_model_build_list(graph, options));
    } else {
        nn_model_family_find(options->arch, &idx)->build(graph, options);
    }
    CVY_GOTO_IF_ERR(fail, status, nn_graph_finish(graph));
    CVY_GOTO_IF_ERR(fail, status, check_logits(options, graph, place));
    *out = graph;
    return CVY_OK;

fail:
    nn_graph_destroy(&graph);
    return status;
}

cvy_status nn_model_build(cvy_node *section, int64_t minibatch, const nn_shape *image,
                          nn_graph **out)
{
    nn_model_options options;
    char at[256], place[260] = "";

    *out = NULL;
    CVY_RETURN_IF_ERR(cvy_config_read(&nn_model_table, section, &options));
    if (section != NULL) {
        const cvy_node *arch = cvy_node_find(section, "arch");
        cvy_node_place(cvy_node_is_null(arch) ? section : arch, at, sizeof at);
        snprintf(place, sizeof place, "%s: ", at);
    }
    return build(&options, place, minibatch, image, out);
}

cvy_status nn_model_build_arch(const nn_model_options *options, int64_t minibatch,
                               const nn_shape *image, nn_graph **out)
{
    return build(options, "", minibatch, image, out);
}
