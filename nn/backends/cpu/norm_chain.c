#include "nn/backends/cpu/batchnorm_blocks_internal.h"
#include "nn/backends/cpu/layout_internal.h"

/* Normalisation, sum and rectifier in one sweep where activations are blocked, else one by one. */

static int64_t n_elems(const nn_bn_geom *geom)
{
    return geom->n * geom->c * geom->spatial;
}

static cvy_status forward_apart(nn_backend *backend, const nn_bn_geom *geom,
                                const nn_norm_chain *chain)
{
    if (chain->running_var != NULL) {
        CVY_RETURN_IF_ERR(nn_cpu_batchnorm_inference(backend, geom, chain->x, chain->gamma,
                                                     chain->beta, chain->running_mean,
                                                     chain->running_var, chain->y));
    } else {
        CVY_RETURN_IF_ERR(nn_cpu_batchnorm_forward(backend, geom, chain->x, chain->gamma,
                                                   chain->beta, chain->y, chain->mean,
                                                   chain->invstd, chain->batch_var));
    }
    if (chain->residual != NULL) {
        CVY_RETURN_IF_ERR(nn_cpu_accumulate(backend, n_elems(geom), chain->residual, chain->y));
    }
    return nn_cpu_relu_forward(backend, n_elems(geom), chain->y, chain->y);
}

cvy_status nn_cpu_norm_chain_forward(nn_backend *backend, const nn_bn_geom *geom,
                                     const nn_norm_chain *chain)
{
    const nn_cpu_bn bn = {.geom = geom,
                          .x = chain->x,
                          .residual = chain->residual,
                          .gamma = chain->gamma,
                          .beta = chain->beta,
                          .is_relu = 1,
                          .y = chain->y,
                          .mean = chain->mean,
                          .invstd = chain->invstd,
                          .batch_var = chain->batch_var};

    if (!nn_cpu_is_blocked(geom->c)) return forward_apart(backend, geom, chain);
    if (chain->running_var != NULL) {
        nn_cpu_bn_inference(backend, &bn, chain->running_mean, chain->running_var);
    } else {
        nn_cpu_bn_forward(backend, &bn);
    }
    return CVY_OK;
}

static cvy_status backward_apart(nn_backend *backend, const nn_bn_geom *geom,
                                 const nn_norm_chain_gradient *chain)
{
    float *const d = chain->dy;

    CVY_RETURN_IF_ERR(nn_cpu_relu_backward(backend, n_elems(geom), chain->y, d, d, 0));
    if (chain->dresidual != NULL) {
        CVY_RETURN_IF_ERR(chain->accumulate_residual
                              ? nn_cpu_accumulate(backend, n_elems(geom), d, chain->dresidual)
                              : nn_cpu_copy(backend, n_elems(geom), d, chain->dresidual));
    }
    return nn_cpu_batchnorm_backward(backend, geom, chain->x, d, chain->gamma, chain->mean,
                                     chain->invstd, chain->dx, chain->accumulate, chain->dgamma,
                                     chain->dbeta);
}

cvy_status nn_cpu_norm_chain_backward(nn_backend *backend, const nn_bn_geom *geom,
                                      const nn_norm_chain_gradient *chain)
{
    if (!nn_cpu_is_blocked(geom->c)) return backward_apart(backend, geom, chain);
    nn_cpu_bn_backward(backend,
                       &(nn_cpu_bn_gradient){.geom = geom,
                                             .x = chain->x,
                                             .dy = chain->dy,
                                             .y = chain->y,
                                             .gamma = chain->gamma,
                                             .mean = chain->mean,
                                             .invstd = chain->invstd,
                                             .dx = chain->dx,
                                             .dresidual = chain->dresidual,
                                             .accumulate = chain->accumulate,
                                             .accumulate_residual = chain->accumulate_residual,
                                             .dgamma = chain->dgamma,
                                             .dbeta = chain->dbeta});
    return CVY_OK;
}
