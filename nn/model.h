#ifndef NN_MODEL_H
#define NN_MODEL_H

#include "base/config.h"
#include "base/node.h"
#include "base/status.h"
#include "nn/graph.h"

#include <stdint.h>

/**
 * Model families: one file in nn/models/ and one line of its registry. Layers, parameters and
 * defaults are named as torchvision names them where it has the model.
 */
typedef struct nn_model_options {
    const char *arch; /* "resnet18" */
    int64_t classes;
    double label_smoothing;
    double dropout;         /* before the last dense layer; 0: as published */
    int zero_init_residual; /* last batch norm of each residual branch starts at 0 */
    const cvy_node *net;    /* layers instead of an arch */
} nn_model_options;
extern const cvy_config_table nn_model_table;

typedef struct nn_model_arch {
    const char *name;
    const char *help;                /* source, one line */
    int64_t channels, height, width; /* the published input */
} nn_model_arch;

typedef struct nn_model_family {
    int n_archs;
    const nn_model_arch *archs;
    /** Add all layers up to the loss. The graph keeps the first failure. */
    void (*build)(nn_graph *graph, const nn_model_options *options);
} nn_model_family;

int nn_model_count(void); /* all archs of all families */
const nn_model_arch *nn_model_at(int idx);
const nn_model_arch *nn_model_find(const char *arch); /* NULL: none; quiet */

/**
 * Build the net of a job's `model` section for images of this shape.
 *
 * @param section    the mapping; defaults are added to it.
 * @param minibatch  images per call.
 * @param image      (c, h, w).
 * @param out        owned by the caller.
 * @return CVY_ERR_CONFIG (logged, with place and nearest name, layer and shape) if it cannot be.
 */
cvy_status nn_model_build(cvy_node *section, int64_t minibatch, const nn_shape *image,
                          nn_graph **out);
/** The same from options in C. */
cvy_status nn_model_build_arch(const nn_model_options *options, int64_t minibatch,
                               const nn_shape *image, nn_graph **out);

#endif
