#include "nn/graph.h"

#include "nn/params_internal.h"
#include "nn/shape_internal.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A layer and what it owns. Value 0 is the input; layer i puts out value i + 1. */
typedef struct graph_layer {
    nn_graph_layer layer;
    char *name;
    uint64_t name_hash;
    void *attrs;
    cvy_node *node; /* attributes given as text; views of the attributes may point into it */
    int n_readers;
} graph_layer;

struct nn_graph {
    cvy_status status; /* the first failure; every later call gives it back */
    int is_finished;
    int64_t minibatch;
    nn_shape input; /* (n, c, h, w) */
    int n_layers, n_reserved;
    graph_layer *layers;
    nn_value logits;
    nn_params params;
};

/* What nn_add and its siblings ask for. */
typedef struct layer_request {
    const char *type, *name;
    int n_inputs;
    const nn_value *x;
    cvy_node *attrs; /* NULL: none */
    int is_attrs_owned;
} layer_request;

cvy_status nn_graph_create(int64_t minibatch, const nn_shape *image, nn_graph **out)
{
    nn_shape input = {.n_dims = image->n_dims + 1, .dim = {minibatch}};
    char shape[96], size[32];

    *out = NULL;
    if (image->n_dims < 1 || image->n_dims >= NN_MAX_DIMS) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "images of %d dimensions; expected 1 to %d",
                        image->n_dims, NN_MAX_DIMS - 1);
    }
    for (int i = 0; i < image->n_dims; i++) input.dim[i + 1] = image->dim[i];
    if (nn_shape_n_elems(&input) < 0) {
        nn_shape_text(image, shape, sizeof shape);
        nn_bytes_text(nn_shape_product(&input) * (double)sizeof(float), size, sizeof size);
        return CVY_FAIL(CVY_ERR_CONFIG,
                        "minibatch of %lld images of %s (%s); expected 1 or more of each, and at "
                        "most 4 TiB",
                        (long long)minibatch, shape, size);
    }

    nn_graph *graph = cvy_alloc_zero(1, sizeof *graph);
    if (graph == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "graph of a net");
    graph->minibatch = minibatch;
    graph->input = input;
    graph->logits = NN_NO_VALUE;
    *out = graph;
    return CVY_OK;
}

static void clear_layer(graph_layer *layer)
{
    cvy_free(layer->name);
    cvy_free(layer->attrs);
    cvy_node_destroy(&layer->node);
}

void nn_graph_destroy(nn_graph **graph)
{
    if (graph == NULL || *graph == NULL) return;
    for (int i = 0; i < (*graph)->n_layers; i++) clear_layer(&(*graph)->layers[i]);
    cvy_free((*graph)->layers);
    nn_params_clear(&(*graph)->params);
    cvy_free(*graph);
    *graph = NULL;
}

static int is_value(const nn_graph *graph, nn_value value)
{
    return value >= 0 && value <= graph->n_layers;
}

nn_shape nn_graph_shape(const nn_graph *graph, nn_value value)
{
    if (!is_value(graph, value)) return (nn_shape){.n_dims = 0}; /* after a failure */
    return value == 0 ? graph->input : graph->layers[value - 1].layer.plan.out;
}

/* --- Adding a layer ------------------------------------------------------------------------- */

/* Log a failure of a layer, with the place of its attributes in the job file if they have one. */
static cvy_status layer_failed(const layer_request *request, cvy_status status, const char *reason)
{
    char place[128] = "";

    if (request->attrs != NULL && !request->is_attrs_owned) {
        cvy_node_place(request->attrs, place, sizeof place);
    }
    return CVY_FAIL(status, "%s%slayer '%s' (%s): %s", place, place[0] != '\0' ? ": " : "",
                    request->name, request->type, reason);
}

static cvy_status find_ops(const layer_request *request, const nn_layer_ops **out)
{
    cvy_reason reason;
    const char *nearest = NULL;

    *out = nn_layer_find(request->type);
    if (*out != NULL) return CVY_OK;
    nearest = nn_layer_nearest(request->type);
    cvy_because(&reason, CVY_ERR_CONFIG, "no layer type '%s'%s%s%s", request->type,
                nearest != NULL ? "; did you mean '" : "", nearest != NULL ? nearest : "",
                nearest != NULL ? "'?" : "");
    return layer_failed(request, CVY_ERR_CONFIG, reason.text);
}

static cvy_status check_name(const nn_graph *graph, const layer_request *request, uint64_t hash)
{
    if (request->name[0] == '\0') return layer_failed(request, CVY_ERR_CONFIG, "no name");
    for (int i = 0; i < graph->n_layers; i++) {
        const graph_layer *other = &graph->layers[i];
        if (other->name_hash == hash && strcmp(other->name, request->name) == 0) {
            return layer_failed(request, CVY_ERR_CONFIG, "another layer has this name");
        }
    }
    return CVY_OK;
}

static cvy_status check_inputs(const nn_graph *graph, const layer_request *request,
                               const nn_layer_ops *ops)
{
    cvy_reason reason;

    if (request->n_inputs < ops->min_inputs || request->n_inputs > ops->max_inputs) {
        cvy_because(&reason, CVY_ERR_CONFIG, "%d inputs; expected %d to %d", request->n_inputs,
                    ops->min_inputs, ops->max_inputs);
        return layer_failed(request, CVY_ERR_CONFIG, reason.text);
    }
    for (int i = 0; i < request->n_inputs; i++) {
        const nn_value x = request->x[i];
        if (!is_value(graph, x)) {
            cvy_because(&reason, CVY_ERR_INVALID_ARG, "input %d is no value of this net", i);
            return layer_failed(request, CVY_ERR_INVALID_ARG, reason.text);
        }
        if (x > 0 && graph->layers[x - 1].layer.plan.is_loss) {
            cvy_because(&reason, CVY_ERR_CONFIG,
                        "input %d is the loss '%s', which nothing may read", i,
                        graph->layers[x - 1].name);
            return layer_failed(request, CVY_ERR_CONFIG, reason.text);
        }
    }
    return CVY_OK;
}

static cvy_status reserve_layer(nn_graph *graph, const layer_request *request)
{
    if (graph->n_layers >= NN_GRAPH_MAX_LAYERS) {
        cvy_reason reason;
        cvy_because(&reason, CVY_ERR_CONFIG, "a net has at most %d layers", NN_GRAPH_MAX_LAYERS);
        return layer_failed(request, CVY_ERR_CONFIG, reason.text);
    }
    if (graph->n_layers < graph->n_reserved) return CVY_OK;

    const int n = graph->n_reserved > 0 ? 2 * graph->n_reserved : 32;
    graph_layer *layers = cvy_realloc(graph->layers, (size_t)n * sizeof *layers);
    if (layers == NULL) return layer_failed(request, CVY_ERR_NO_MEMORY, "out of memory");
    graph->layers = layers;
    graph->n_reserved = n;
    return CVY_OK;
}

static cvy_status read_attrs(const layer_request *request, const nn_layer_ops *ops,
                             graph_layer *layer)
{
    if (ops->attrs != NULL) {
        layer->attrs = cvy_alloc_zero(1, ops->attrs->struct_size);
        if (layer->attrs == NULL) return layer_failed(request, CVY_ERR_NO_MEMORY, "out of memory");
        return cvy_config_read(ops->attrs, request->attrs, layer->attrs);
    }
    if (!cvy_node_is_null(request->attrs) && cvy_node_n_items(request->attrs) > 0) {
        return layer_failed(request, CVY_ERR_CONFIG, "this type takes no attributes");
    }
    return CVY_OK;
}

/* Refuse what no machine can hold before anyone multiplies its extents. */
static cvy_status check_size(const layer_request *request, const char *what, const nn_shape *shape)
{
    cvy_reason reason;
    char shape_text[96], size_text[32];

    if (nn_shape_n_elems(shape) > 0) return CVY_OK;
    nn_shape_text(shape, shape_text, sizeof shape_text);
    nn_bytes_text(nn_shape_product(shape) * (double)sizeof(float), size_text, sizeof size_text);
    cvy_because(&reason, CVY_ERR_CONFIG,
                "%s of %s would take %s of memory, the limit is 4 TiB: make the layer smaller",
                what, shape_text, size_text);
    return layer_failed(request, CVY_ERR_CONFIG, reason.text);
}

static cvy_status shape_layer(const nn_graph *graph, const layer_request *request,
                              nn_graph_layer *layer)
{
    nn_shape in[NN_LAYER_MAX_INPUTS];
    cvy_reason reason = {.text = ""};

    for (int i = 0; i < request->n_inputs; i++) in[i] = nn_graph_shape(graph, request->x[i]);

    const cvy_status status = layer->ops->shape(layer->attrs, in, request->n_inputs, &layer->plan,
                                                &reason);
    if (status != CVY_OK) return layer_failed(request, status, reason.text);

    CVY_ASSERT(layer->plan.n_params <= NN_LAYER_MAX_PARAMS);
    CVY_RETURN_IF_ERR(check_size(request, "an output", &layer->plan.out));
    for (int i = 0; i < layer->plan.n_params; i++) {
        const nn_param_decl *decl = &layer->plan.params[i];
        CVY_RETURN_IF_ERR(check_size(request, decl->suffix, &decl->shape));
    }
    return CVY_OK;
}

static cvy_status fill_layer(const nn_graph *graph, const layer_request *request,
                             const nn_layer_ops *ops, graph_layer *layer)
{
    layer->name = cvy_strdup(request->name);
    if (layer->name == NULL) return layer_failed(request, CVY_ERR_NO_MEMORY, "out of memory");
    CVY_RETURN_IF_ERR(read_attrs(request, ops, layer));

    layer->layer.name = layer->name;
    layer->layer.ops = ops;
    layer->layer.attrs = layer->attrs;
    layer->layer.n_inputs = request->n_inputs;
    for (int i = 0; i < request->n_inputs; i++) layer->layer.input[i] = request->x[i];
    layer->layer.output = graph->n_layers + 1;
    return shape_layer(graph, request, &layer->layer);
}

static cvy_status append_layer(nn_graph *graph, const layer_request *request)
{
    const nn_layer_ops *ops = NULL;
    graph_layer layer = {.name_hash = cvy_hash64(request->name, strlen(request->name))};

    if (graph->is_finished) {
        return layer_failed(request, CVY_ERR_INVALID_ARG, "the net is finished already");
    }
    CVY_RETURN_IF_ERR(find_ops(request, &ops));
    CVY_RETURN_IF_ERR(check_name(graph, request, layer.name_hash));
    CVY_RETURN_IF_ERR(check_inputs(graph, request, ops));
    CVY_RETURN_IF_ERR(reserve_layer(graph, request));

    const cvy_status status = fill_layer(graph, request, ops, &layer);
    if (status != CVY_OK) {
        clear_layer(&layer);
        return status;
    }
    for (int i = 0; i < request->n_inputs; i++) {
        if (request->x[i] > 0) graph->layers[request->x[i] - 1].n_readers++;
    }
    if (request->is_attrs_owned) layer.node = request->attrs;
    graph->layers[graph->n_layers] = layer;
    graph->n_layers++;
    return CVY_OK;
}

static nn_value add(nn_graph *graph, const layer_request *request)
{
    graph->status = append_layer(graph, request);
    return graph->status == CVY_OK ? graph->n_layers : NN_NO_VALUE;
}

/* The text of a layer's attributes as a node; NULL for an empty text. */
static cvy_status parse_attrs(const char *name, const char *format, va_list args, cvy_node **out)
{
    cvy_status status = CVY_OK;
    va_list again;
    char *text = NULL, *source = NULL;

    *out = NULL;
    va_copy(again, args);
    const int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (length == 0) return CVY_OK;

    text = length > 0 ? cvy_alloc((size_t)length + 1) : NULL;
    source = cvy_text_format("layer '%s'", name);
    if (text == NULL || source == NULL) {
        status = CVY_FAIL(CVY_ERR_NO_MEMORY, "attributes of layer '%s'", name);
    } else {
        vsnprintf(text, (size_t)length + 1, format, args);
        status = cvy_node_parse(text, (size_t)length, source, out);
    }
    cvy_free(text);
    cvy_free(source);
    return status;
}

static nn_value add_with_text(nn_graph *graph, layer_request *request, const char *format,
                              va_list args)
{
    if (graph->status != CVY_OK) return NN_NO_VALUE;
    graph->status = parse_attrs(request->name, format, args, &request->attrs);
    if (graph->status != CVY_OK) return NN_NO_VALUE;

    request->is_attrs_owned = 1;
    const nn_value value = add(graph, request);
    if (value == NN_NO_VALUE) cvy_node_destroy(&request->attrs); /* the layer did not take it */
    return value;
}

nn_value nn_add(nn_graph *graph, const char *type, const char *name, nn_value x, const char *attrs,
                ...)
{
    layer_request request = {.type = type, .name = name, .n_inputs = 1, .x = &x};
    va_list args;

    va_start(args, attrs);
    const nn_value value = add_with_text(graph, &request, attrs, args);
    va_end(args);
    return value;
}

nn_value nn_add_n(nn_graph *graph, const char *type, const char *name, int n_inputs,
                  const nn_value *x, const char *attrs, ...)
{
    layer_request request = {.type = type, .name = name, .n_inputs = n_inputs, .x = x};
    va_list args;

    va_start(args, attrs);
    const nn_value value = add_with_text(graph, &request, attrs, args);
    va_end(args);
    return value;
}

nn_value nn_add_node(nn_graph *graph, const char *type, const char *name, int n_inputs,
                     const nn_value *x, cvy_node *attrs)
{
    const layer_request request = {
        .type = type, .name = name, .n_inputs = n_inputs, .x = x, .attrs = attrs};

    if (graph->status != CVY_OK) return NN_NO_VALUE;
    return add(graph, &request);
}

/* --- Finishing ------------------------------------------------------------------------------ */

void nn_graph_set_logits(nn_graph *graph, nn_value value)
{
    if (graph->status != CVY_OK) return;
    if (!is_value(graph, value)) {
        graph->status = CVY_FAIL(CVY_ERR_INVALID_ARG, "logits: %d is no value of this net", value);
        return;
    }
    graph->logits = value;
}

/* At most one loss; it says which value the logits are unless they were set. */
static cvy_status choose_logits(nn_graph *graph)
{
    const graph_layer *loss = NULL;

    for (int i = 0; i < graph->n_layers; i++) {
        const graph_layer *layer = &graph->layers[i];
        if (!layer->layer.plan.is_loss) continue;
        if (loss != NULL) {
            return CVY_FAIL(CVY_ERR_CONFIG,
                            "net: layers '%s' and '%s' are both losses; expected one", loss->name,
                            layer->name);
        }
        loss = layer;
    }
    if (graph->logits == NN_NO_VALUE) {
        graph->logits = loss != NULL ? loss->layer.input[0] : graph->n_layers;
    }
    return CVY_OK;
}

static cvy_status check_all_read(const nn_graph *graph)
{
    for (int i = 0; i < graph->n_layers; i++) {
        const graph_layer *layer = &graph->layers[i];
        if (layer->n_readers == 0 && !layer->layer.plan.is_loss &&
            layer->layer.output != graph->logits) {
            return CVY_FAIL(CVY_ERR_CONFIG,
                            "net: nothing reads layer '%s' (%s); leave it out, or use its output",
                            layer->name, layer->layer.ops->name);
        }
    }
    return CVY_OK;
}

static cvy_status build_params(nn_graph *graph)
{
    int n = 1; /* the tail */

    for (int i = 0; i < graph->n_layers; i++) n += graph->layers[i].layer.plan.n_params;
    CVY_RETURN_IF_ERR(nn_params_reserve(&graph->params, n));
    for (int i = 0; i < graph->n_layers; i++) {
        nn_graph_layer *layer = &graph->layers[i].layer;
        layer->first_param = graph->params.n;
        for (int j = 0; j < layer->plan.n_params; j++) {
            CVY_RETURN_IF_ERR(
                nn_params_append(&graph->params, layer->name, i, &layer->plan.params[j]));
        }
    }
    return nn_params_append_tail(&graph->params);
}

static cvy_status finish(nn_graph *graph)
{
    if (graph->n_layers == 0) return CVY_FAIL(CVY_ERR_CONFIG, "net: no layers");
    CVY_RETURN_IF_ERR(choose_logits(graph));
    CVY_RETURN_IF_ERR(check_all_read(graph));
    return build_params(graph);
}

cvy_status nn_graph_finish(nn_graph *graph)
{
    if (graph->status != CVY_OK || graph->is_finished) return graph->status;
    graph->status = finish(graph);
    graph->is_finished = graph->status == CVY_OK;
    return graph->status;
}

const nn_params *nn_graph_params(const nn_graph *graph)
{
    return &graph->params;
}

nn_value nn_graph_logits(const nn_graph *graph)
{
    return graph->logits;
}

int nn_graph_n_layers(const nn_graph *graph)
{
    return graph->n_layers;
}

int64_t nn_graph_minibatch(const nn_graph *graph)
{
    return graph->minibatch;
}

int64_t nn_graph_multiply_adds(const nn_graph *graph)
{
    double sum = 0.0; /* exact up to 2^53, and far larger sums do not wrap */

    for (int i = 0; i < graph->n_layers; i++) {
        sum += (double)graph->layers[i].layer.plan.multiply_adds;
    }
    sum /= (double)graph->minibatch;
    return sum < 9.2e18 ? (int64_t)sum : INT64_MAX;
}

const nn_graph_layer *nn_graph_layer_at(const nn_graph *graph, int idx)
{
    return idx >= 0 && idx < graph->n_layers ? &graph->layers[idx].layer : NULL;
}
