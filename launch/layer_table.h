#ifndef BENCH_LAYER_TABLE_H
#define BENCH_LAYER_TABLE_H

#include "base/status.h"
#include "nn/graph.h"
#include "nn/net.h"

/**
 * Print the profile of a net on stdout, the slowest layer first, then the sums by layer type:
 * milliseconds per call of forward and backward, GFLOP/s (2 per multiply-add) and share of all
 * layers' time. The profile must have been on for at least one step.
 */
cvy_status layer_table_print(const nn_graph *graph, const nn_net *net);

#endif
