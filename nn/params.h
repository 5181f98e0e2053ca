#ifndef NN_PARAMS_H
#define NN_PARAMS_H

#include "base/status.h"
#include "nn/shape.h"

#include <stdint.h>

/**
 * The parameters of a net as one flat buffer of floats, in the order of the layers.
 *
 * Each entry starts at a multiple of NN_PARAM_ALIGN floats; gaps are zero. Weights, gradients and
 * optimizer states all use this layout, so a bucket is a contiguous run and the backward pass
 * completes it from the end. Running statistics lie among the weights of their layer: their place
 * in the *gradient* buffer takes the replica's batch statistics, which are summed with the
 * gradients. Behind all layers stands the tail: sums that ride along (loss, top-1, top-5 counts of
 * the step), in the gradient buffer per replica, in the weight buffer the sum over all replicas.
 */
#define NN_PARAM_ALIGN 16

typedef enum nn_param_kind {
    NN_PARAM_WEIGHT,  /* decayed */
    NN_PARAM_BIAS,    /* decayed unless the optimizer excludes biases */
    NN_PARAM_NORM,    /* scale or shift of a normalisation: the same */
    NN_PARAM_RUNNING, /* running statistic: averaged, not trained */
    NN_PARAM_TAIL     /* sums that ride along: copied */
} nn_param_kind;

typedef enum nn_init {
    NN_INIT_ZERO,
    NN_INIT_ONE,
    NN_INIT_HE_FAN_OUT, /* normal, deviation sqrt(2 / fan_out): He et al. 2015, torchvision's ResNet
                         */
    NN_INIT_HE_FAN_IN,  /* normal, deviation sqrt(2 / fan_in) */
    NN_INIT_UNIFORM_FAN_IN, /* uniform +- 1 / sqrt(fan_in): PyTorch's default for conv and linear */
    NN_INIT_XAVIER,         /* uniform +- sqrt(6 / (fan_in + fan_out)): Glorot & Bengio 2010 */
    NN_INIT_NORMAL          /* normal, deviation init_arg */
} nn_init;

/** What a layer declares. */
typedef struct nn_param_decl {
    const char *suffix; /* "weight", "bias", "running_mean": constant text */
    nn_shape shape;
    nn_param_kind kind;
    nn_init init;
    double init_arg;
    int64_t fan_in, fan_out;
    double running_rate; /* RUNNING: w += rate (batch - w) */
} nn_param_decl;

typedef struct nn_param {
    char *name;              /* "layer1.0.conv1.weight"; owned by the table */
    int layer_idx;           /* -1 for the tail */
    int64_t offset, n_elems; /* in floats */
    nn_param_decl decl;
} nn_param;

typedef struct nn_params {
    int n;
    nn_param *entry;
    int64_t n_elems; /* length of the flat buffers, tail included, a multiple of the alignment */
    int64_t n_trainable; /* scalars that are trained */
    int64_t tail_offset; /* NN_TAIL_... relative to it */
} nn_params;

enum { NN_TAIL_LOSS, NN_TAIL_TOP1, NN_TAIL_TOP5, NN_TAIL_N };

/** Index of the entry that holds flat position offset or the next one behind it. */
int nn_params_at(const nn_params *params, int64_t offset);
const nn_param *nn_params_find(const nn_params *params, const char *name);

/** Initial values of all entries (gaps and tail 0), host memory: entry i from the stream
 *  CVY_RNG_INIT of (seed, i). */
cvy_status nn_params_init(const nn_params *params, uint64_t seed, float *out_weights);

#endif
