#ifndef LAUNCH_LAYER_TABLE_H
#define LAUNCH_LAYER_TABLE_H

#include "base/status.h"
#include "nn/graph.h"
#include "nn/net.h"

#include <stdint.h>

/**
 * Where the time of a net's step goes: what each layer costs in each pass, in seconds,
 * multiply-adds and bytes. Arithmetic alone: times come from the caller. Not collective; one
 * thread.
 *
 * Multiply-adds are those of direct convolutions and matrix products, whatever the backend does
 * instead; elementwise work counts as none. Bytes are the least that must move: every tensor that a
 * pass is given or gives (inputs, weights, what was kept from the forward pass; outputs) once,
 * dense float32. Caches may save some of them, and a backend may move more.
 *
 * A layer that is part of a chain which the backend does in one sweep (nn_net_runs_at) has no
 * figures: the last layer of the chain has them, for what enters and leaves the chain.
 */
typedef enum launch_pass {
    LAUNCH_FORWARD,
    LAUNCH_BACKWARD_DATA,   /* gradients of inputs; of a layer that gives both at once, both */
    LAUNCH_BACKWARD_FILTER, /* gradients of weights, of layers that multiply by them */
    LAUNCH_N_PASSES
} launch_pass;

/** One pass of one layer; time_s == 0: it has no such pass, or did not run it. */
typedef struct launch_cost {
    double time_s, multiply_adds, bytes;
} launch_cost;

double launch_cost_gflops(const launch_cost *cost); /* 2 FLOP each; 0 where nothing is multiplied */
/** Time that the bytes take at this bandwidth, as a share of the time; 0 where that is unknown. */
double launch_cost_bandwidth_share(const launch_cost *cost, double gbytes_per_s);

enum { LAUNCH_TYPE_SIZE = 96 };

typedef struct launch_table_row {
    const char *name;            /* a view into the graph; NULL: the sum of a type */
    char type[LAUNCH_TYPE_SIZE]; /* of a chain: of its layers, "batchnorm2d+relu" */
    nn_shape out;                /* of a layer */
    int layer_idx, runs_at;      /* of a layer: as nn_net_runs_at */
    int n_layers;                /* of a type */
    int has_convolution;
    launch_cost pass[LAUNCH_N_PASSES];
} launch_table_row;

double launch_row_time_s(const launch_table_row *row); /* all passes */

typedef struct launch_table {
    int n_rows, n_types;
    launch_table_row *rows;  /* in the net's order; owned */
    launch_table_row *types; /* the slowest first; owned */
    launch_cost update;      /* of all weights by the optimizer */
    double step_s;
} launch_table;

/** Seconds per step of a layer, or of the chain that runs at its turn. */
typedef struct launch_layer_time {
    double forward_s, backward_s;
    double filter_s; /* of backward_s, in the gradients of filters */
} launch_layer_time;

typedef struct launch_table_step {
    double step_s, update_s;
    int n_states; /* flat buffers of the optimizer beside weights and gradients */
} launch_table_step;

/**
 * @param times  [layers of the graph].
 * @param out    to be freed; its names are views into graph.
 */
cvy_status launch_table_make(const nn_graph *graph, const nn_net *net,
                             const launch_layer_time *times, const launch_table_step *step,
                             launch_table *out);
void launch_table_free(launch_table *table);

double launch_table_rest_s(const launch_table *table); /* step less layers and update */
/** Share of the step that is not in layers with a convolution. */
double launch_table_outside_convolutions(const launch_table *table);

/** Multiply-adds of one step: the forward pass and, in a net made for training, the gradients of
 *  weights and of those inputs that have one (not the images). */
int64_t launch_multiply_adds(const nn_graph *graph, const nn_net *net);

#endif
