#include "nn/layer.h"

#include <string.h>

/* The only list of layer types. */
#define NN_LAYER_LIST(X)                                                                           \
    X(conv2d)                                                                                      \
    X(batchnorm2d)                                                                                 \
    X(relu)                                                                                        \
    X(maxpool2d)                                                                                   \
    X(avgpool2d)                                                                                   \
    X(dense)                                                                                       \
    X(add)                                                                                         \
    X(concat)                                                                                      \
    X(dropout)                                                                                     \
    X(flatten)                                                                                     \
    X(softmax_xent)

#define X(name) extern const nn_layer_ops nn_layer_##name;
NN_LAYER_LIST(X)
#undef X

static const nn_layer_ops *const layer_table[] = {
#define X(name) &nn_layer_##name,
    NN_LAYER_LIST(X)
#undef X
};

static const char *const layer_names[] = {
#define X(name) #name,
    NN_LAYER_LIST(X)
#undef X
};

enum { N_LAYERS = sizeof layer_table / sizeof layer_table[0] };

int nn_layer_count(void)
{
    return N_LAYERS;
}

const nn_layer_ops *nn_layer_at(int idx)
{
    return idx >= 0 && idx < N_LAYERS ? layer_table[idx] : NULL;
}

const nn_layer_ops *nn_layer_find(const char *name)
{
    for (int i = 0; i < N_LAYERS; i++) {
        if (strcmp(layer_table[i]->name, name) == 0) return layer_table[i];
    }
    return NULL;
}

const char *nn_layer_nearest(const char *name)
{
    return cvy_nearest_word(layer_names, N_LAYERS, name);
}
