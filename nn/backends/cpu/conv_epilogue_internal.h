#ifndef NN_BACKENDS_CPU_CONV_EPILOGUE_INTERNAL_H
#define NN_BACKENDS_CPU_CONV_EPILOGUE_INTERNAL_H

#include "nn/backends/cpu/conv_tile_internal.h"

/** The epilogue of some channels, in vectors. */
typedef struct nn_epilogue_vecs {
    nn_vec bias, mean, scale, shift;
    int has_norm, is_relu;
} nn_epilogue_vecs;

static inline nn_vec nn_epilogue_load(const float *values, int64_t channel)
{
    return values != NULL ? nn_vec_load(values + channel) : nn_vec_all(0.0f);
}

/** Of the channels from `channel` on. */
static inline nn_epilogue_vecs nn_epilogue_vecs_of(const nn_conv_epilogue *epilogue,
                                                   int64_t channel)
{
    return (nn_epilogue_vecs){.bias = nn_epilogue_load(epilogue->bias, channel),
                              .mean = nn_epilogue_load(epilogue->mean, channel),
                              .scale = nn_epilogue_load(epilogue->scale, channel),
                              .shift = nn_epilogue_load(epilogue->shift, channel),
                              .has_norm = epilogue->mean != NULL,
                              .is_relu = epilogue->is_relu};
}

/** Whether there is more than a bias. */
static inline int nn_epilogue_has_tail(const nn_conv_epilogue *epilogue)
{
    return epilogue->mean != NULL || epilogue->residual != NULL || epilogue->is_relu;
}

/** All of it but the bias; residual: of this value, or NULL. */
CVY_INLINE_ALWAYS nn_vec nn_epilogue_tail(const nn_epilogue_vecs *vecs, const float *residual,
                                          nn_vec value)
{
    if (vecs->has_norm) value = (value - vecs->mean) * vecs->scale + vecs->shift;
    if (residual != NULL) value += nn_vec_load(residual);
    /* A NaN stays one: NaN <= 0 is false. */
    return vecs->is_relu ? nn_vec_where(~(nn_mask)(value <= nn_vec_all(0.0f)), value) : value;
}

#endif
