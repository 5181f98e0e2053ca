#ifndef NN_PLAN_INTERNAL_H
#define NN_PLAN_INTERNAL_H

#include "base/status.h"
#include "nn/backend.h"
#include "nn/graph.h"

#include <stddef.h>
#include <stdint.h>

/**
 * Where everything of a net lies in its arena.
 *
 * Time runs in ticks: layer i runs forward at tick i and, when training, backward at tick
 * 2 n_layers - 1 - i. A block lives from the first tick that touches it to the last, both included;
 * blocks whose lives meet never overlap. Blocks are placed largest first, each into the smallest
 * gap that takes it (greedy by size: Pisarchyk & Lee 2020, arXiv:2001.03288).
 *
 * A layer that can run in place shares the block of its first input when nothing reads that input
 * later; backward, its dx is its dy when it is the first to write that gradient.
 *
 * Where the backend has a kernel for a whole chain of layers, the chain runs at the turn of its
 * last layer, both ways; what its layers touch lives from or until then, and what they would hand
 * to each other has no block. Its output may lie where one of its inputs did.
 *
 * What a chain puts out need not be kept for the backward pass: it may have a second life, from the
 * tick at which it is computed again, just before its first reader runs backward.
 */
typedef struct nn_plan_block {
    int64_t size_bytes, offset; /* multiples of CVY_ALIGN_BYTES */
    int first, last;            /* ticks */
} nn_plan_block;

#define NN_NO_BLOCK (-1)
#define NN_NO_CHAIN (-1)
#define NN_NO_VALUE (-1)
#define NN_NEVER    (-1)

/** Blocks by index; NN_NO_BLOCK where there is none. Values are 0 (the input) to n_layers. */
typedef struct nn_plan {
    int n_layers, n_values, n_ticks;
    int n_blocks;
    nn_plan_block *blocks;
    int *value;              /* [n_values] */
    int *grad;               /* [n_values] */
    int *saved;              /* [n_layers] */
    int *forward_workspace;  /* [n_layers] */
    int *backward_workspace; /* [n_layers] */
    int *chain; /* [n_layers] layer at which the chain that this one is part of runs; NN_NO_CHAIN */
    int *chain_norm, *chain_add; /* [n_layers] of that layer: the chain's others; add: -1 if none.
                                    A chain may be a normalisation alone */
    int *chain_conv; /* [n_layers] of that layer: the convolution that runs with it; NN_NO_CHAIN */
    int *again;      /* [n_values] block of the second life */
    int *again_at;   /* [n_values] tick at which the value is computed again; NN_NEVER: it is not */
    int images_staging, logits_staging; /* dense, where the value itself is not */
    int *first_writer;  /* [n_values] layer that overwrites the gradient; others add; -1: none */
    int *runs_backward; /* [n_layers] whether the loss's gradient reaches it and is of use */
    int64_t arena_bytes;
} nn_plan;

/** How many values computed again may lean on each other (again.c) at most. Every third output of a
 *  stage of residual blocks is then kept; more would save little memory, for more sweeps. */
enum { NN_AGAIN_DEPTH = 2 };

typedef struct nn_plan_options {
    int is_inference;
    int again_depth; /* NN_NEVER: everything is kept */
} nn_plan_options;

/** graph: finished. */
cvy_status nn_plan_create(nn_backend *backend, const nn_graph *graph,
                          const nn_plan_options *options, nn_plan **out);
/** The least depth with which the arena has keep_bytes at most, or NN_AGAIN_DEPTH: what is kept
 *  costs no time. */
cvy_status nn_plan_create_within(nn_backend *backend, const nn_graph *graph, int is_inference,
                                 int64_t keep_bytes, nn_plan **out);
void nn_plan_destroy(nn_plan **plan);

/** Find the chains that the backend does in one sweep (fuse.c): fills plan->chain..., reads
 *  plan->runs_backward. n_reads: scratch of n_values. */
void nn_fuse(const nn_backend *backend, const nn_graph *graph, int is_inference, int *n_reads,
             nn_plan *plan);

/** What a chain reads and writes; residual: NN_NO_VALUE if none. */
typedef struct nn_plan_chain {
    nn_value x, residual, y;
} nn_plan_chain;
nn_plan_chain nn_plan_chain_at(const nn_plan *plan, const nn_graph *graph, int end);

/** Whether a layer, or the chain that it is part of, reads its inputs, or its output, backward. */
int nn_plan_reads_x(const nn_plan *plan, const nn_graph_layer *layer);
int nn_plan_reads_y(const nn_plan *plan, const nn_graph_layer *layer);

/** Choose what is computed again (again.c): fills plan->again_at. lean: scratch of n_values. */
void nn_again_choose(const nn_graph *graph, int depth, int *lean, nn_plan *plan);

/** The layer at whose turn a layer runs: itself, or the end of its chain. */
static inline int nn_plan_runs_at(const nn_plan *plan, int layer_idx)
{
    return plan->chain[layer_idx] == NN_NO_CHAIN ? layer_idx : plan->chain[layer_idx];
}

static inline int nn_plan_backward_tick(const nn_plan *plan, int layer_idx)
{
    return 2 * plan->n_layers - 1 - layer_idx;
}

#endif
