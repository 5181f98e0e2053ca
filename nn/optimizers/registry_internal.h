#ifndef NN_OPTIMIZERS_REGISTRY_INTERNAL_H
#define NN_OPTIMIZERS_REGISTRY_INTERNAL_H

#include "nn/optimizer.h"

/** [nn_optimizer_count()] the names of the registered optimizers, in their order. */
extern const char *const nn_optimizer_names[];

#endif
