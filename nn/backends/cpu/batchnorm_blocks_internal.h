#ifndef NN_BACKENDS_CPU_BATCHNORM_BLOCKS_INTERNAL_H
#define NN_BACKENDS_CPU_BATCHNORM_BLOCKS_INTERNAL_H

#include "nn/backends/cpu/cpu_internal.h"
#include "nn/backends/cpu/simd_internal.h"

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
    float *y;                         /* may be x or residual */
    float *mean, *invstd, *batch_var; /* of training: written */
    float *scale, *shift;             /* as in nn_norm_chain; NULL: not wanted */
} nn_cpu_bn;

void nn_cpu_bn_forward(nn_backend *backend, const nn_cpu_bn *bn);
/** By running statistics; invstd and batch_var of bn are not used, nor is mean. */
void nn_cpu_bn_inference(nn_backend *backend, const nn_cpu_bn *bn, const float *mean,
                         const float *var);
/** By mean, scale and shift of bn. */
void nn_cpu_bn_again(nn_backend *backend, const nn_cpu_bn *bn);

/** The same of activations that lie in planes, but for the rectifier (batchnorm.c). */
void nn_cpu_bn_planes_forward(nn_backend *backend, const nn_cpu_bn *bn);
void nn_cpu_bn_planes_inference(nn_backend *backend, const nn_cpu_bn *bn, const float *mean,
                                const float *var);
void nn_cpu_bn_planes_again(nn_backend *backend, const nn_cpu_bn *bn);

typedef struct nn_cpu_bn_gradient {
    const nn_bn_geom *geom;
    const float *x, *dy;
    int is_relu;                /* dy counts where y > 0 */
    const float *y;             /* NULL: its sign is worked out from x */
    const float *scale, *shift; /* for that */
    const float *gamma, *mean, *invstd;
    float *dx;        /* may be dy */
    float *dresidual; /* gets dy after the rectifier; NULL: not wanted; may be dy, but not dx */
    int accumulate, accumulate_residual;
    float *dgamma, *dbeta;
} nn_cpu_bn_gradient;

void nn_cpu_bn_backward(nn_backend *backend, const nn_cpu_bn_gradient *bn);

/* --- What both directions share ------------------------------------------------------------- */

enum {
    NN_BN_RUN = 256, /* pixels summed in float, 16 KiB: then they go to doubles */
    NN_BN_VECS = NN_VECS_PER_BLOCK
};

/**
 * Channel blocks [first_block, first_block + blocks) of all, a slice: small enough that the second
 * sweep over it finds in the cache what the first one read, and that partial sums have room. The
 * shares of the images follow from the geometry alone; slices only say what is done when, so they
 * may differ with the number of threads.
 */
typedef struct nn_bn_cut {
    int64_t all_blocks, first_block, blocks, images_per_share, n_shares, spatial;
} nn_bn_cut;

/** The slice from first_block on, for a first sweep over so many tensors; 0: there is one sweep. */
nn_bn_cut nn_bn_cut_from(const nn_backend *backend, const nn_bn_geom *geom, int64_t first_block,
                         int n_tensors);

/** Where the plane of a block of the slice starts. */
static inline int64_t nn_bn_plane_at(const nn_bn_cut *cut, int64_t image, int64_t block)
{
    return (image * cut->all_blocks + cut->first_block + block) * cut->spatial * NN_CPU_BLOCK;
}

/** Planes (a block of channels of an image) that a task writes. */
int64_t nn_bn_planes_per_chunk(const nn_bn_geom *geom);

/** Whether what is written is too large to be found in a cache by who reads it next. */
int nn_bn_is_streamed(const nn_backend *backend, const nn_bn_geom *geom);

#define NN_BN_EACH_VEC(v) CVY_UNROLL(4) for (int v = 0; v < NN_BN_VECS; v++)

/** (x - mean) scale + shift: forward, again, and for the sign of y backward, in the same bits. */
CVY_INLINE_ALWAYS nn_vec nn_bn_value(nn_vec x, nn_vec mean, nn_vec scale, nn_vec shift)
{
    return (x - mean) * scale + shift;
}

CVY_INLINE_ALWAYS void nn_bn_load(const float *from, nn_vec to[NN_BN_VECS])
{
    for (int v = 0; v < NN_BN_VECS; v++) to[v] = nn_vec_load(from + v * NN_VEC_LANES);
}

CVY_INLINE_ALWAYS void nn_bn_store(const nn_vec from[NN_BN_VECS], float *to)
{
    for (int v = 0; v < NN_BN_VECS; v++) nn_vec_store(to + v * NN_VEC_LANES, from[v]);
}

CVY_INLINE_ALWAYS void nn_bn_clear(nn_vec values[NN_BN_VECS])
{
    for (int v = 0; v < NN_BN_VECS; v++) values[v] = nn_vec_all(0.0f);
}

#endif
