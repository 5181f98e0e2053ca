#include "nn/backends/cpu/batchnorm_blocks_internal.h"
#include "nn/backends/cpu/layout_internal.h"

/* Normalisation, sum and rectifier in one sweep where activations are blocked. In planes, which
 * have few channels, the rectifier is a sweep of its own. */

static int64_t n_elems(const nn_bn_geom *geom)
{
    return geom->n * geom->c * geom->spatial;
}

static nn_cpu_bn bn_of(const nn_bn_geom *geom, const nn_norm_chain *chain)
{
    return (nn_cpu_bn){.geom = geom,
                       .x = chain->x,
                       .residual = chain->residual,
                       .gamma = chain->gamma,
                       .beta = chain->beta,
                       .is_relu = chain->is_relu,
                       .y = chain->y,
                       .mean = chain->mean,
                       .invstd = chain->invstd,
                       .batch_var = chain->batch_var,
                       .scale = chain->scale,
                       .shift = chain->shift};
}

static cvy_status rectify_planes(nn_backend *backend, const nn_cpu_bn *bn)
{
    if (!bn->is_relu) return CVY_OK;
    return nn_cpu_relu_forward(backend, n_elems(bn->geom), bn->y, bn->y);
}

cvy_status nn_cpu_norm_chain_forward(nn_backend *backend, const nn_bn_geom *geom,
                                     const nn_norm_chain *chain)
{
    const nn_cpu_bn bn = bn_of(geom, chain);
    const int is_blocked = nn_cpu_is_blocked(geom->c);

    if (chain->running_var != NULL) {
        (is_blocked ? nn_cpu_bn_inference : nn_cpu_bn_planes_inference)(
            backend, &bn, chain->running_mean, chain->running_var);
    } else {
        (is_blocked ? nn_cpu_bn_forward : nn_cpu_bn_planes_forward)(backend, &bn);
    }
    return is_blocked ? CVY_OK : rectify_planes(backend, &bn);
}

cvy_status nn_cpu_norm_chain_again(nn_backend *backend, const nn_bn_geom *geom,
                                   const nn_norm_chain *chain)
{
    const nn_cpu_bn bn = bn_of(geom, chain);

    if (nn_cpu_is_blocked(geom->c)) {
        nn_cpu_bn_again(backend, &bn);
        return CVY_OK;
    }
    nn_cpu_bn_planes_again(backend, &bn);
    return rectify_planes(backend, &bn);
}

typedef struct plane_signs {
    const nn_bn_geom *geom;
    const nn_norm_chain_gradient *chain;
} plane_signs;

/* dy of an image becomes 0 where y was: its sign by the operations of forward. */
static void sign_chunk(void *arg, int64_t image, int thread_idx)
{
    const plane_signs *signs = arg;
    const nn_norm_chain_gradient *chain = signs->chain;
    const int64_t n = signs->geom->spatial;

    (void)thread_idx;
    for (int64_t c = 0; c < signs->geom->c; c++) {
        const int64_t at = (image * signs->geom->c + c) * n;
        const float mean = chain->mean[c], scale = chain->scale[c], shift = chain->shift[c];
        const float *restrict x = chain->x + at;
        float *restrict d = chain->dy + at;
        for (int64_t i = 0; i < n; i++) d[i] = (x[i] - mean) * scale + shift > 0.0f ? d[i] : 0.0f;
    }
}

static cvy_status gradient_of_planes(nn_backend *backend, const nn_bn_geom *geom,
                                     const nn_norm_chain_gradient *chain)
{
    float *const d = chain->dy;

    if (chain->is_relu && chain->y == NULL) {
        plane_signs signs = {.geom = geom, .chain = chain};
        nn_cpu_run(backend, geom->n, sign_chunk, &signs);
    } else if (chain->is_relu) {
        CVY_RETURN_IF_ERR(nn_cpu_relu_backward(backend, n_elems(geom), chain->y, d, d, 0));
    }
    if (chain->dresidual != NULL && chain->dresidual != d) {
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
    if (!nn_cpu_is_blocked(geom->c)) return gradient_of_planes(backend, geom, chain);
    nn_cpu_bn_backward(backend,
                       &(nn_cpu_bn_gradient){.geom = geom,
                                             .x = chain->x,
                                             .dy = chain->dy,
                                             .is_relu = chain->is_relu,
                                             .y = chain->y,
                                             .scale = chain->scale,
                                             .shift = chain->shift,
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
