#ifndef NN_GRAPH_H
#define NN_GRAPH_H

#include "base/node.h"
#include "base/status.h"
#include "nn/layer.h"
#include "nn/params.h"
#include "nn/shape.h"

#include <stdint.h>

/**
 * A net as a static directed graph of named layers, built once: by a model function, or from the
 * `net` list of a job file. Shapes are inferred and checked as layers are added.
 *
 * A value is what a layer puts out (or the input). Errors stick: after the first failure every
 * further nn_graph_add does nothing and returns NN_NO_VALUE, so that a model reads as a plain list;
 * nn_graph_finish() reports it. Not collective; one thread.
 */
typedef struct nn_graph nn_graph;
typedef int nn_value;
#define NN_NO_VALUE         (-1)
#define NN_GRAPH_MAX_LAYERS 10000

/** image: (c, h, w) of one input image; minibatch: images per call. The input is value 0. */
cvy_status nn_graph_create(int64_t minibatch, const nn_shape *image, nn_graph **out);
void nn_graph_destroy(nn_graph **graph);

/**
 * Add a layer with one input.
 *
 *     x = nn_add(g, "conv2d", "conv1", x, "{out: 64, kernel: 7, stride: 2, pad: 3, bias: false}");
 *
 * @param type    a registered layer type.
 * @param name    unique; its parameters are NAME.SUFFIX.
 * @param attrs   printf format of a YAML flow mapping, read by the type's own table; "" for none.
 */
nn_value nn_add(nn_graph *graph, const char *type, const char *name, nn_value x, const char *attrs,
                ...) CVY_PRINTF(5, 6);
/** The same with several inputs. */
nn_value nn_add_n(nn_graph *graph, const char *type, const char *name, int n_inputs,
                  const nn_value *x, const char *attrs, ...) CVY_PRINTF(6, 7);
/** The same with attributes as a node (from a job file), whose place messages name. */
nn_value nn_add_node(nn_graph *graph, const char *type, const char *name, int n_inputs,
                     const nn_value *x, cvy_node *attrs);

nn_shape nn_graph_shape(const nn_graph *graph, nn_value value);

/** The values a net gives besides its loss; defaults to the input of the loss layer. */
void nn_graph_set_logits(nn_graph *graph, nn_value value);
/** The first failure, or CVY_OK; builds the parameter table. Call once after the last layer. */
cvy_status nn_graph_finish(nn_graph *graph);

/* After nn_graph_finish (the layers added so far may be looked at before it): */
const nn_params *nn_graph_params(const nn_graph *graph);
nn_value nn_graph_logits(const nn_graph *graph); /* (n, classes) */
int nn_graph_n_layers(const nn_graph *graph);
int64_t nn_graph_minibatch(const nn_graph *graph);
int64_t nn_graph_multiply_adds(const nn_graph *graph); /* forward, one image */

typedef struct nn_graph_layer {
    const char *name;
    const nn_layer_ops *ops;
    const void *attrs;
    nn_layer_plan plan;
    int n_inputs;
    nn_value input[NN_LAYER_MAX_INPUTS];
    nn_value output;
    int first_param; /* index into the parameter table */
} nn_graph_layer;
const nn_graph_layer *nn_graph_layer_at(const nn_graph *graph, int idx);

#endif
