#ifndef NN_NET_INTERNAL_H
#define NN_NET_INTERNAL_H

#include "nn/net.h"
#include "nn/plan_internal.h"

#include <stdint.h>

struct nn_net {
    nn_backend *backend;   /* borrowed */
    const nn_graph *graph; /* borrowed */
    nn_plan *plan;
    unsigned char *arena; /* backend memory */
    int is_inference;
    int loss_idx; /* layer; -1: none */
    nn_net_poll poll;
    void *poll_arg;
    int has_profile;
    nn_layer_time *times; /* [n_layers] */
    nn_outcome outcome;   /* host, [minibatch] each */
    float *logits;        /* host, (minibatch, classes) */
    int64_t forward_n;    /* images of the last forward pass; 0: none succeeded */
    int was_training;
};

/** Where a block starts; NULL for NN_NO_BLOCK. */
static inline void *nn_net_block(const nn_net *net, int block)
{
    return block == NN_NO_BLOCK ? NULL : net->arena + net->plan->blocks[block].offset;
}

/** Where the backward pass reads a value. */
static inline float *nn_net_value_backward(const nn_net *net, int value)
{
    const nn_plan *plan = net->plan;

    return nn_net_block(net, plan->again[value] != NN_NO_BLOCK ? plan->again[value]
                                                               : plan->value[value]);
}

#endif
