#ifndef NN_BACKENDS_CPU_LAYOUT_INTERNAL_H
#define NN_BACKENDS_CPU_LAYOUT_INTERNAL_H

#include "nn/backends/cpu/cpu_internal.h"
#include "nn/backends/cpu/simd_internal.h"

/**
 * How activations and their gradients lie in memory.
 *
 * (n, c, h, w) with enough channels is blocked: (n, blocks of 16 channels, h, w, 16), so that the
 * 16 channels of a pixel are one cache line and one vector. Channels that fill the last block up
 * are 0 and stay 0. With few channels (images, the first layers of small nets) that would waste
 * more than it gains: these, and tensors that are no images, lie densely as NCHW.
 */
enum { NN_CPU_BLOCKED_FROM = 9 }; /* channels */

static inline int nn_cpu_is_blocked(int64_t c)
{
    return c >= NN_CPU_BLOCKED_FROM;
}

static inline int64_t nn_cpu_blocks(int64_t c)
{
    return (c + NN_CPU_BLOCK - 1) / NN_CPU_BLOCK;
}

/** Channels as they are stored. */
static inline int64_t nn_cpu_stored_channels(int64_t c)
{
    return nn_cpu_is_blocked(c) ? nn_cpu_blocks(c) * NN_CPU_BLOCK : c;
}

/** Between dense NCHW and the layout of an activation with c channels; x must not be dense. Padding
 *  channels become 0, or are left alone where the result is added. */
void nn_cpu_pack_blocks(nn_backend *backend, int64_t n, int64_t c, int64_t spatial,
                        const float *dense, float *x, int accumulate);
void nn_cpu_unpack_blocks(nn_backend *backend, int64_t n, int64_t c, int64_t spatial,
                          const float *x, float *dense);

int64_t nn_cpu_activation_elems(nn_backend *backend, const nn_shape *shape);
int nn_cpu_is_dense(nn_backend *backend, const nn_shape *shape);
cvy_status nn_cpu_pack(nn_backend *backend, const nn_shape *shape, const float *dense, float *x,
                       int accumulate);
cvy_status nn_cpu_unpack(nn_backend *backend, const nn_shape *shape, const float *x, float *dense);
cvy_status nn_cpu_copy_channels(nn_backend *backend, const nn_channels_geom *geom, const float *x,
                                float *y, int accumulate);

#endif
