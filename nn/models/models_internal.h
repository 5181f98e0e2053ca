#ifndef NN_MODELS_MODELS_INTERNAL_H
#define NN_MODELS_MODELS_INTERNAL_H

#include "nn/model.h"

/** The family that has this arch, or NULL; *out_idx: which of its archs. */
const nn_model_family *nn_model_family_find(const char *arch, int *out_idx);
/** The nearest registered arch in spelling, or NULL. */
const char *nn_model_nearest(const char *arch);

/** Add the layers of options->net, and the loss if they have none. */
cvy_status nn_model_build_list(nn_graph *graph, const nn_model_options *options);

/** flatten, dropout (if any), fc, loss: how every arch for classification ends. The layer with the
 *  classes is named `last`. */
void nn_model_add_head(nn_graph *graph, const nn_model_options *options, const char *last,
                       nn_value x);

/** Dropout before the last dense layer, or x itself where the rate is 0. */
nn_value nn_model_add_dropout(nn_graph *graph, const nn_model_options *options, nn_value x);
/** The dense layer with the classes, and the loss. */
void nn_model_add_classifier(nn_graph *graph, const nn_model_options *options, const char *name,
                             nn_value x);

/** Which building block of He et al. 2015 a ResNet is made of. */
typedef enum nn_block_kind {
    NN_BLOCK_BASIC,     /* 3x3, 3x3; gives `width` channels */
    NN_BLOCK_BOTTLENECK /* 1x1, 3x3 (with the stride), 1x1; gives 4 x `width` channels */
} nn_block_kind;

/** A run of residual blocks, torchvision's layerN. */
typedef struct nn_stage {
    nn_block_kind kind;
    const char *name; /* "layer1" */
    int64_t n_blocks;
    int64_t width;
    int64_t stride; /* of the first block */
    int zero_init_residual;
} nn_stage;

nn_value nn_model_add_stage(nn_graph *graph, const nn_stage *stage, nn_value x);

#endif
