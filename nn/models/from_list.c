/* A net from the `net` list of a job file:
 *
 *     net:
 *       - {type: conv2d, name: conv1, out: 16, kernel: 3, pad: 1}
 *       - {type: relu}
 *       - {type: add, input: [conv1, relu1]}
 *
 * Every item is a layer: its type, its name (default: the type and a number, "relu1"), its input
 * (one name or a list; default: the layer before, for the first one the images, which are called
 * "input") and the attributes of the type. A net without a loss layer gets softmax_xent. */

#include "nn/models/models_internal.h"

#include "base/alloc.h"

#include <stdio.h>
#include <string.h>

#define NAME_SIZE   128
#define PLACE_SIZE  256
#define IMAGES_NAME "input"

static const char *const item_keys[] = {"type", "name", "input"};

/* Value 0, or the output of a layer with this name; NN_NO_VALUE: none. */
static nn_value find_value(const nn_graph *graph, const char *name)
{
    if (strcmp(name, IMAGES_NAME) == 0) return 0;
    for (int i = 0; i < nn_graph_n_layers(graph); i++) {
        const nn_graph_layer *layer = nn_graph_layer_at(graph, i);
        if (strcmp(layer->name, name) == 0) return layer->output;
    }
    return NN_NO_VALUE;
}

static cvy_status fail_input(const nn_graph *graph, const cvy_node *node, const char *name)
{
    const int n = nn_graph_n_layers(graph) + 1;
    const char **names = cvy_alloc((size_t)n * sizeof *names);
    char place[PLACE_SIZE];

    if (names == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "names of %d layers", n);
    names[0] = IMAGES_NAME;
    for (int i = 1; i < n; i++) names[i] = nn_graph_layer_at(graph, i - 1)->name;
    cvy_node_place(node, place, sizeof place);
    const char *nearest = cvy_nearest_word(names, n, name);
    const cvy_status status = CVY_FAIL(CVY_ERR_CONFIG,
                                       "%s: no layer '%s' stands before this one%s%s%s", place,
                                       name, nearest != NULL ? "; did you mean '" : "",
                                       nearest != NULL ? nearest : "", nearest != NULL ? "'?" : "");
    cvy_free(names);
    return status;
}

static cvy_status read_input(const nn_graph *graph, const cvy_node *node, nn_value *out)
{
    const char *name = cvy_node_is_null(node) ? NULL : cvy_node_text(node);
    char place[PLACE_SIZE];

    if (name == NULL) {
        cvy_node_place(node, place, sizeof place);
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: input is no name of a layer", place);
    }
    *out = find_value(graph, name);
    return *out == NN_NO_VALUE ? fail_input(graph, node, name) : CVY_OK;
}

/* One name, a list of names, or by default the value before. */
static cvy_status read_inputs(const nn_graph *graph, const cvy_node *item, nn_value before,
                              nn_value out[NN_LAYER_MAX_INPUTS], int *out_n)
{
    const cvy_node *node = cvy_node_find(item, "input");
    char place[PLACE_SIZE];

    *out_n = 1;
    out[0] = before;
    if (cvy_node_is_null(node)) return CVY_OK;
    if (cvy_node_get_kind(node) != CVY_NODE_SEQUENCE) return read_input(graph, node, &out[0]);

    *out_n = cvy_node_n_items(node);
    if (*out_n < 1 || *out_n > NN_LAYER_MAX_INPUTS) {
        cvy_node_place(node, place, sizeof place);
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: input has %d names, expected 1 to %d", place, *out_n,
                        NN_LAYER_MAX_INPUTS);
    }
    for (int i = 0; i < *out_n; i++) {
        CVY_RETURN_IF_ERR(read_input(graph, cvy_node_item(node, i), &out[i]));
    }
    return CVY_OK;
}

static cvy_status read_type(const cvy_node *item, const char **out)
{
    const cvy_node *node = cvy_node_get_kind(item) == CVY_NODE_MAPPING ? cvy_node_find(item, "type")
                                                                       : NULL;
    char place[PLACE_SIZE];

    *out = cvy_node_is_null(node) ? NULL : cvy_node_text(node);
    if (*out != NULL && nn_layer_find(*out) != NULL) return CVY_OK;
    cvy_node_place(*out == NULL ? item : node, place, sizeof place);
    if (*out == NULL) {
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: a layer without a type, expected {type: conv2d, ...}",
                        place);
    }
    const char *nearest = nn_layer_nearest(*out);
    return CVY_FAIL(CVY_ERR_CONFIG, "%s: no layer type '%s'; %s '%s'%s", place, *out,
                    nearest != NULL ? "did you mean" : "expected one such as",
                    nearest != NULL ? nearest : "conv2d", nearest != NULL ? "?" : "");
}

/* Names become those of tensors in files: letters, digits, "_", "-", and single dots inside. */
static int is_good_name(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    const size_t size = strlen(name);

    return size > 0 && size < NAME_SIZE && strspn(name, letters) > 0 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") ==
               size &&
           name[size - 1] != '.' && strstr(name, "..") == NULL && strcmp(name, IMAGES_NAME) != 0;
}

static cvy_status read_name(const nn_graph *graph, const cvy_node *item, const char *type,
                            char out[NAME_SIZE])
{
    const cvy_node *node = cvy_node_find(item, "name");
    char place[PLACE_SIZE];
    int number = 1;

    if (cvy_node_is_null(node)) {
        for (int i = 0; i < nn_graph_n_layers(graph); i++) {
            number += strcmp(nn_graph_layer_at(graph, i)->ops->name, type) == 0;
        }
        snprintf(out, NAME_SIZE, "%s%d", type, number);
        return CVY_OK;
    }
    const char *name = cvy_node_text(node);
    if (name == NULL || !is_good_name(name)) {
        cvy_node_place(node, place, sizeof place);
        return CVY_FAIL(CVY_ERR_CONFIG,
                        "%s: name is '%s', expected letters, digits, '_', '-' and single dots, and "
                        "not '" IMAGES_NAME "'",
                        place, name != NULL ? name : "no text");
    }
    snprintf(out, NAME_SIZE, "%s", name);
    return CVY_OK;
}

/* The attributes are read from a copy without the keys that every layer has. No attribute is a text
 * or a node, so nothing of the graph points into the copy. */
static cvy_status add_item(nn_graph *graph, const cvy_node *item, nn_value *value)
{
    const char *type = NULL;
    char name[NAME_SIZE];
    nn_value inputs[NN_LAYER_MAX_INPUTS];
    int n_inputs = 0;
    cvy_node *attrs = NULL;

    CVY_RETURN_IF_ERR(read_type(item, &type));
    CVY_RETURN_IF_ERR(read_name(graph, item, type, name));
    CVY_RETURN_IF_ERR(read_inputs(graph, item, *value, inputs, &n_inputs));
    CVY_RETURN_IF_ERR(cvy_node_copy(item, &attrs));
    for (size_t i = 0; i < sizeof item_keys / sizeof item_keys[0]; i++) {
        cvy_node_remove(attrs, item_keys[i]);
    }
    *value = nn_add_node(graph, type, name, n_inputs, inputs, attrs);
    cvy_node_destroy(&attrs);
    return *value == NN_NO_VALUE ? nn_graph_finish(graph) : CVY_OK; /* which gives the failure */
}

static int has_loss(const nn_graph *graph)
{
    for (int i = 0; i < nn_graph_n_layers(graph); i++) {
        if (nn_graph_layer_at(graph, i)->plan.is_loss) return 1;
    }
    return 0;
}

/* Options that mean nothing here would be dropped silently. */
static cvy_status check_options(const nn_model_options *options, const nn_graph *graph)
{
    const char *key = options->dropout > 0          ? "dropout"
                      : options->zero_init_residual ? "zero_init_residual"
                                                    : NULL;
    char place[PLACE_SIZE];

    cvy_node_place(options->net, place, sizeof place);
    if (key != NULL) {
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: model.%s is for an arch; say it in the layers of net",
                        place, key);
    }
    if (has_loss(graph) && options->label_smoothing > 0) {
        return CVY_FAIL(CVY_ERR_CONFIG,
                        "%s: net has a loss layer of its own: give it the label_smoothing", place);
    }
    return CVY_OK;
}

cvy_status nn_model_build_list(nn_graph *graph, const nn_model_options *options)
{
    nn_value value = 0;
    char place[PLACE_SIZE];

    if (cvy_node_get_kind(options->net) != CVY_NODE_SEQUENCE ||
        cvy_node_n_items(options->net) == 0) {
        cvy_node_place(options->net, place, sizeof place);
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: model.net is no list of layers", place);
    }
    for (int i = 0; i < cvy_node_n_items(options->net); i++) {
        CVY_RETURN_IF_ERR(add_item(graph, cvy_node_item(options->net, i), &value));
    }
    CVY_RETURN_IF_ERR(check_options(options, graph));
    if (!has_loss(graph)) {
        nn_add(graph, "softmax_xent", "loss", value, "{label_smoothing: %.17g}",
               options->label_smoothing);
    }
    return CVY_OK;
}
