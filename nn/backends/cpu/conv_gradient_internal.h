#ifndef NN_BACKENDS_CPU_CONV_GRADIENT_INTERNAL_H
#define NN_BACKENDS_CPU_CONV_GRADIENT_INTERNAL_H

#include "nn/backends/cpu/conv_sweep_internal.h"

/**
 * The gradient of a filter whose slices (conv_sweep_internal.h) are whole blocks, dfilter[k,c,r,s]
 * = sum over images and output pixels of dy times x.
 *
 * Work is cut into shares of the images and parts of the filter: some groups of output channels by
 * some blocks of input channels, whose sums stay in the second-level cache. A task reads x and dy
 * once, step by step; shares are added in their order, whatever thread computed them, and written
 * as KCRS.
 */
typedef struct nn_conv_gradient {
    nn_conv2d_geom geom; /* of a slice; a plane is one long row where no tap leaves its pixel */
    nn_conv_sweep sweep; /* the forward one: its taps, and its copy where x is in planes */
    int64_t groups_per_part, n_group_parts;
    int64_t c_blocks_per_part, n_c_parts;
    int64_t images_per_share, n_shares;
    int64_t rows_per_band; /* of planes, whose x is copied at once */
    int64_t images_per_step, rows_per_step, cols_per_step; /* that stay in the first-level cache */
    int64_t n_inputs; /* rows of a group's sum: 16 per tap and block; or taps of planes, rounded */
    int64_t sum_floats;     /* of one (share, part) */
    int64_t total_floats;   /* sums of all tasks, 0 when a thread's own will do */
    int64_t scratch_floats; /* of a thread */
} nn_conv_gradient;

void nn_conv_gradient_plan(const nn_conv2d_geom *geom, nn_conv_gradient *out);
/** sums: total_floats; scratch: scratch_floats for each thread. */
void nn_conv_gradient_run(nn_backend *backend, const nn_conv_gradient *plan, const float *x,
                          const float *dy, float *dfilter, float *sums, float *scratch);

#endif
