#ifndef LAUNCH_PASS_SPLIT_H
#define LAUNCH_PASS_SPLIT_H

#include "base/status.h"
#include "nn/backend.h"
#include "nn/params.h"

/**
 * How long the gradients of filters take, layer by layer: what the profile of a net (nn/net.h) does
 * not tell apart from the gradients of inputs.
 *
 * While it is open, a backend's table of kernels is a copy of its own in which
 * conv2d_backward_filter and dense_backward read the clock. The layer is told from where the
 * gradient goes. Results are the same bits. Without it nothing is measured and nothing is slower.
 * Not collective; one thread.
 */
typedef struct launch_pass_split launch_pass_split;

/**
 * @param backend  borrowed; its table is exchanged until _close().
 * @param params   borrowed; of the net that runs.
 * @param grads    borrowed; the flat buffer that its backward passes are given.
 */
cvy_status launch_pass_split_open(nn_backend *backend, const nn_params *params, int n_layers,
                                  const float *grads, launch_pass_split **out);
void launch_pass_split_close(launch_pass_split **split);

/** Seconds so far of each layer, [n_layers]. */
const double *launch_pass_split_filter_s(const launch_pass_split *split);

#endif
