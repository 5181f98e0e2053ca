#ifndef NN_BACKENDS_CPU_BATCHNORM_BLOCKS_INTERNAL_H
#define NN_BACKENDS_CPU_BATCHNORM_BLOCKS_INTERNAL_H

#include "nn/backends/cpu/cpu_internal.h"

/**
 * Batch normalisation of blocked activations, with what may follow it in the same sweep:
 *
 *     y = gamma (x - mean) invstd + beta, + residual if there is one, max(., 0) if is_relu
 *
 * Statistics are gathered by block of channels and share of the images; shares are put together in
 * their order, so bits do not depend on threads.
 */
typedef struct nn_cpu_bn {
    const nn_bn_geom *geom;
    const float *x, *residual; /* residual: NULL for none */
    const float *gamma, *beta;
    int is_relu;
    float *y;
    float *mean, *invstd, *batch_var; /* of training: written */
} nn_cpu_bn;

void nn_cpu_bn_forward(nn_backend *backend, const nn_cpu_bn *bn);
/** By running statistics; mean, invstd and batch_var of bn are not used. */
void nn_cpu_bn_inference(nn_backend *backend, const nn_cpu_bn *bn, const float *mean,
                         const float *var);

typedef struct nn_cpu_bn_gradient {
    const nn_bn_geom *geom;
    const float *x, *dy;
    const float *y; /* for the rectifier: dy counts where y > 0; NULL: there is none */
    const float *gamma, *mean, *invstd;
    float *dx;        /* may be dy */
    float *dresidual; /* gets dy after the rectifier; NULL: not wanted; neither dx nor dy */
    int accumulate, accumulate_residual;
    float *dgamma, *dbeta;
} nn_cpu_bn_gradient;

void nn_cpu_bn_backward(nn_backend *backend, const nn_cpu_bn_gradient *bn);

#endif
