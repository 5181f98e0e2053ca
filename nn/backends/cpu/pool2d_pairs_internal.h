#ifndef NN_BACKENDS_CPU_POOL2D_PAIRS_INTERNAL_H
#define NN_BACKENDS_CPU_POOL2D_PAIRS_INTERNAL_H

#include "nn/backends/cpu/cpu_internal.h"

/**
 * Maximum pooling of a plane over windows of 2x2 that neither overlap nor leave gaps, the pooling
 * of most small nets. The lanes of a vector are neighbouring outputs of a row.
 */
int nn_cpu_maxpool_pairs_fits(const nn_pool2d_geom *geom);
/** One plane: x (h, w), y and argmax (p, q). */
void nn_cpu_maxpool_pairs_forward(const nn_pool2d_geom *geom, const float *x, float *y,
                                  int32_t *argmax);
/** One plane: dx (h, w), overwritten unless accumulate. */
void nn_cpu_maxpool_pairs_backward(const nn_pool2d_geom *geom, const float *dy,
                                   const int32_t *argmax, float *dx, int accumulate);

#endif
