#ifndef NN_BACKENDS_CPU_POOL2D_BLOCKS_INTERNAL_H
#define NN_BACKENDS_CPU_POOL2D_BLOCKS_INTERNAL_H

#include "nn/backends/cpu/cpu_internal.h"

/** Pooling of blocked activations: the 16 channels of a pixel at once. argmax lies as y. */
void nn_cpu_maxpool_blocks_forward(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                   float *y, int32_t *argmax);
void nn_cpu_maxpool_blocks_backward(nn_backend *backend, const nn_pool2d_geom *geom,
                                    const float *dy, const int32_t *argmax, float *dx,
                                    int accumulate);
void nn_cpu_avgpool_blocks_forward(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                   float *y);
void nn_cpu_avgpool_blocks_backward(nn_backend *backend, const nn_pool2d_geom *geom,
                                    const float *dy, float *dx, int accumulate);

#endif
