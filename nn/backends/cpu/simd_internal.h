#ifndef NN_BACKENDS_CPU_SIMD_INTERNAL_H
#define NN_BACKENDS_CPU_SIMD_INTERNAL_H

#include "base/compiler.h"

#include <stdint.h>
#include <string.h>

/**
 * Vectors of floats, as wide as the processor's registers, in GCC's vector extension: a + b * c of
 * vectors is one fused multiply-add where the processor has it.
 *
 * A block of NN_CPU_BLOCK channels is NN_VECS_PER_BLOCK vectors on every processor, so layouts and
 * kernels are the same everywhere; only the tiles differ, which are as large as registers allow.
 */
enum { NN_CPU_BLOCK = 16 };

#if defined(__AVX512F__)
enum { NN_VEC_LANES = 16, NN_TILE_BLOCKS = 2, NN_TILE_PIXELS = 14, NN_TILE_PIXELS_ONE = 16 };
enum { NN_OUTER_CHANNELS = 8, NN_OUTER_TAPS_TWO = 7 };
#elif defined(__AVX2__) || defined(__AVX__)
enum { NN_VEC_LANES = 8, NN_TILE_BLOCKS = 1, NN_TILE_PIXELS = 6, NN_TILE_PIXELS_ONE = 6 };
enum { NN_OUTER_CHANNELS = 4, NN_OUTER_TAPS_TWO = 2 };
#else
enum { NN_VEC_LANES = 4, NN_TILE_BLOCKS = 1, NN_TILE_PIXELS = 2, NN_TILE_PIXELS_ONE = 2 };
enum { NN_OUTER_CHANNELS = 2, NN_OUTER_TAPS_TWO = 1 };
#endif
enum { NN_VECS_PER_BLOCK = NN_CPU_BLOCK / NN_VEC_LANES };

typedef float nn_vec CVY_VECTOR(NN_VEC_LANES * 4);
/* The same, wherever floats lie: alignment 4, and it may alias float. */
typedef float nn_vec_loose CVY_VECTOR_LOOSE(NN_VEC_LANES * 4);
typedef int32_t nn_mask CVY_VECTOR(NN_VEC_LANES * 4);

static inline nn_vec nn_vec_load(const float *x)
{
    return *(const nn_vec_loose *)(const void *)x;
}

static inline void nn_vec_store(float *y, nn_vec v)
{
    *(nn_vec_loose *)(void *)y = v;
}

static inline nn_vec nn_vec_all(float value)
{
    return value - (nn_vec){0.0f};
}

/** Lane i of the result is lane i ^ bit; bit < NN_VEC_LANES. */
static inline nn_vec nn_vec_flip(nn_vec value, int bit)
{
    static const int32_t lanes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    nn_mask order;

    memcpy(&order, lanes, sizeof order);
    return CVY_VECTOR_SHUFFLE(value, order ^ bit);
}

/** value where mask is all ones, else 0. */
static inline nn_vec nn_vec_where(nn_mask mask, nn_vec value)
{
    return (nn_vec)((nn_mask)value & mask);
}

#endif
