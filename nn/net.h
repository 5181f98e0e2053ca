#ifndef NN_NET_H
#define NN_NET_H

#include "base/status.h"
#include "nn/backend.h"
#include "nn/graph.h"

#include <stdint.h>

/**
 * A graph made runnable on a backend: one arena holds every activation, gradient, saved byte and
 * workspace at planned offsets (what does not live at the same time shares memory), so a step
 * allocates nothing. Weights and gradients are flat buffers that the caller owns and passes in.
 *
 * One net serves all replicas of a worker, one after the other. Not collective; one thread.
 */
typedef struct nn_net nn_net;

typedef struct nn_net_options {
    int is_inference; /* no backward: activations are reused at once */
    /* Where the arena would be larger, backward computes again what it can instead of finding it
     * kept: less memory, a few percent more time, the same bits. 0: NN_NET_KEEP_BYTES. */
    int64_t keep_bytes;
} nn_net_options;

#define NN_NET_KEEP_BYTES ((int64_t)1 << 30)

/** graph: borrowed, must outlive the net. */
cvy_status nn_net_create(nn_backend *backend, const nn_graph *graph, const nn_net_options *options,
                         nn_net **out);
void nn_net_destroy(nn_net **net);
size_t nn_net_arena_bytes(const nn_net *net);

/** Called between layers with this argument: polls communication; anything but CVY_OK ends the pass
 *  with that status. NULL: none. */
typedef cvy_status (*nn_net_poll)(void *arg);
void nn_net_set_poll(nn_net *net, nn_net_poll poll, void *arg);

typedef struct nn_batch {
    int64_t n;                    /* images, <= the graph's minibatch */
    const float *images;          /* (n, c, h, w) host memory, normalised */
    const int32_t *labels;        /* (n), host memory; NULL: no loss is computed (predict) */
    int is_training;              /* batch statistics and dropout; else running statistics */
    uint64_t seed, step, replica; /* dropout */
} nn_batch;

/** Called by backward whenever more of the gradient is final: all positions >= from_offset are. */
typedef cvy_status (*nn_net_ready)(void *arg, int64_t from_offset);

/**
 * Forward pass. In training the places of running statistics in grads take the batch statistics,
 * and the tail its sums; grads may be NULL otherwise.
 *
 * @param weights  flat, backend memory, read only.
 * @param grads    flat, backend memory.
 */
cvy_status nn_net_forward(nn_net *net, const nn_batch *batch, const float *weights, float *grads);
/** Backward pass of the same batch: gradients of the *sum* of the samples' losses, overwriting
 *  grads (gaps stay as they are). ready may be NULL. */
cvy_status nn_net_backward(nn_net *net, const nn_batch *batch, const float *weights, float *grads,
                           nn_net_ready ready, void *ready_arg);

/** Views of the last forward pass, until the next. outcome: host; logits: (n, classes) host copy.
 */
const nn_outcome *nn_net_outcome(const nn_net *net);
cvy_status nn_net_logits(nn_net *net, const float **out);

/** Seconds and calls per layer since creation, when profiling is on. */
typedef struct nn_layer_time {
    double forward_s, backward_s;
    int64_t n_forward, n_backward;
} nn_layer_time;
void nn_net_set_profile(nn_net *net, int is_on);
const nn_layer_time *nn_net_profile(const nn_net *net); /* one per layer of the graph */

/** The layer at whose turn a layer runs, and where the profile has its time, forward and backward:
 *  itself, or the last layer of a chain that the backend does in one sweep. */
int nn_net_runs_at(const nn_net *net, int layer_idx);
/** Whether a layer, or the chain that ends with it, reads its output in the backward pass. */
int nn_net_reads_output(const nn_net *net, int layer_idx);
/** Whether backward passes compute the gradient of a value: in training, where trained parameters
 *  lie before it and the loss behind it, or a layer must write it anyway. */
int nn_net_has_gradient(const nn_net *net, nn_value value);

#endif
