#ifndef NN_BACKENDS_CPU_SIMD_INTERNAL_H
#define NN_BACKENDS_CPU_SIMD_INTERNAL_H

#include "base/compiler.h"

#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

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

/** Store past the caches, so that the line is not read first: for what is next read when the caches
 *  will have lost it anyway. y is aligned to a vector. The task that stores so ends with
 *  nn_vec_stream_end(), for such stores are not in order with others. */
static inline void nn_vec_stream(float *y, nn_vec v)
{
#if defined(__AVX512F__)
    _mm512_stream_ps(y, (__m512)v);
#elif defined(__AVX__)
    _mm256_stream_ps(y, (__m256)v);
#elif defined(__SSE2__)
    _mm_stream_ps(y, (__m128)v);
#else
    nn_vec_store(y, v);
#endif
}

static inline void nn_vec_stream_end(void)
{
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

static inline nn_vec nn_vec_all(float value)
{
    return value - (nn_vec){0.0f};
}

static inline nn_vec nn_vec_times(float factor, nn_vec x)
{
    return nn_vec_all(factor) * x;
}

/** The first n lanes, 0 < n <= NN_VEC_LANES; the others are 0, and no memory of theirs is touched.
 */
#if defined(__AVX512F__)
static inline nn_vec nn_vec_load_part(const float *x, int n)
{
    return (nn_vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), x);
}

static inline void nn_vec_store_part(float *y, nn_vec v, int n)
{
    _mm512_mask_storeu_ps(y, (__mmask16)((1u << n) - 1u), (__m512)v);
}
#else
static inline nn_vec nn_vec_load_part(const float *x, int n)
{
    nn_vec v = {0.0f};

    memcpy(&v, x, (size_t)n * sizeof(float));
    return v;
}

static inline void nn_vec_store_part(float *y, nn_vec v, int n)
{
    memcpy(y, &v, (size_t)n * sizeof(float));
}
#endif

/** 2 n neighbouring floats, 0 < n <= NN_VEC_LANES: those at even places and those at odd places. */
typedef struct nn_vec_pair {
    nn_vec even, odd;
} nn_vec_pair;

#if defined(__AVX512F__)
#define NN_EVENS 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define NN_ODDS  1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define NN_LOWS  0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define NN_HIGHS 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define NN_AHEAD 1, 2, 3, 16, 5, 6, 7, 20, 9, 10, 11, 24, 13, 14, 15, 28
#elif defined(__AVX2__) || defined(__AVX__)
#define NN_EVENS 0, 2, 4, 6, 8, 10, 12, 14
#define NN_ODDS  1, 3, 5, 7, 9, 11, 13, 15
#define NN_LOWS  0, 8, 1, 9, 2, 10, 3, 11
#define NN_HIGHS 4, 12, 5, 13, 6, 14, 7, 15
#define NN_AHEAD 1, 8, 3, 10, 5, 12, 7, 14
#else
#define NN_EVENS 0, 2, 4, 6
#define NN_ODDS  1, 3, 5, 7
#define NN_LOWS  0, 4, 1, 5
#define NN_HIGHS 2, 6, 3, 7
#define NN_AHEAD 4, 5, 6, 7
#endif

/** Of the floats of two vectors, which follow each other. */
static inline nn_vec_pair nn_vec_split(nn_vec low, nn_vec high)
{
    return (nn_vec_pair){CVY_VECTOR_PICK(low, high, NN_EVENS), CVY_VECTOR_PICK(low, high, NN_ODDS)};
}

static inline nn_vec_pair nn_vec_load_pairs(const float *x, int n)
{
    nn_vec low, high = {0.0f};

    if (n == NN_VEC_LANES) {
        low = nn_vec_load(x);
        high = nn_vec_load(x + NN_VEC_LANES);
    } else if (2 * n > NN_VEC_LANES) {
        low = nn_vec_load(x);
        high = nn_vec_load_part(x + NN_VEC_LANES, 2 * n - NN_VEC_LANES);
    } else {
        low = nn_vec_load_part(x, 2 * n);
    }
    return nn_vec_split(low, high);
}

static inline void nn_vec_store_pairs(float *y, nn_vec_pair pair, int n)
{
    const nn_vec low = CVY_VECTOR_PICK(pair.even, pair.odd, NN_LOWS);
    const nn_vec high = CVY_VECTOR_PICK(pair.even, pair.odd, NN_HIGHS);

    if (n == NN_VEC_LANES) {
        nn_vec_store(y, low);
        nn_vec_store(y + NN_VEC_LANES, high);
    } else if (2 * n > NN_VEC_LANES) {
        nn_vec_store(y, low);
        nn_vec_store_part(y + NN_VEC_LANES, high, 2 * n - NN_VEC_LANES);
    } else {
        nn_vec_store_part(y, low, 2 * n);
    }
}

CVY_INLINE_ALWAYS void nn_vec_fold(nn_vec *v, int half)
{
    CVY_UNROLL(8) for (int i = 0; i < half; i++)
    {
        v[i] = CVY_VECTOR_PICK(v[i], v[i + half], NN_LOWS) +
               CVY_VECTOR_PICK(v[i], v[i + half], NN_HIGHS);
    }
}

/** Lane i is the sum of the lanes of v[i]; v is lost. */
CVY_INLINE_ALWAYS nn_vec nn_vec_sums(nn_vec v[NN_VEC_LANES])
{
    if (NN_VEC_LANES >= 16) nn_vec_fold(v, 8);
    if (NN_VEC_LANES >= 8) nn_vec_fold(v, 4);
    nn_vec_fold(v, 2);
    nn_vec_fold(v, 1);
    return v[0];
}

/** Lane j of v[i] becomes lane i of v[j]. */
CVY_INLINE_ALWAYS void nn_vec_transpose(nn_vec v[NN_VEC_LANES])
{
    nn_vec w[NN_VEC_LANES];

    CVY_UNROLL(4) for (int n = 1; n < NN_VEC_LANES; n *= 2)
    {
        CVY_UNROLL(8) for (int i = 0; i < NN_VEC_LANES / 2; i++)
        {
            w[2 * i] = CVY_VECTOR_PICK(v[i], v[i + NN_VEC_LANES / 2], NN_LOWS);
            w[2 * i + 1] = CVY_VECTOR_PICK(v[i], v[i + NN_VEC_LANES / 2], NN_HIGHS);
        }
        CVY_UNROLL(16) for (int i = 0; i < NN_VEC_LANES; i++) v[i] = w[i];
    }
}

/** Lanes are four rows of NN_VEC_LANES / 4: each goes on by one, with the first of the row of next
 *  at its end. */
static inline nn_vec nn_vec_rows_ahead(nn_vec v, nn_vec next)
{
    return CVY_VECTOR_PICK(v, next, NN_AHEAD);
}
#undef NN_AHEAD
#undef NN_EVENS
#undef NN_ODDS
#undef NN_LOWS
#undef NN_HIGHS

/** A maximum and where it is. */
typedef struct nn_vec_max {
    nn_vec value;
    nn_mask place;
} nn_vec_max;

/** The greater of best and value, best if they are equal. A NaN beats numbers and is never beaten.
 */
static inline nn_vec_max nn_vec_greater(nn_vec_max best, nn_vec value, nn_mask place)
{
#if defined(__AVX512F__)
    const __mmask16 is_number = _mm512_cmp_ps_mask((__m512)best.value, (__m512)best.value,
                                                   _CMP_ORD_Q);
    const __mmask16 beats = _mm512_mask_cmp_ps_mask(is_number, (__m512)value, (__m512)best.value,
                                                    _CMP_NLE_UQ);

    return (nn_vec_max){(nn_vec)_mm512_mask_mov_ps((__m512)best.value, beats, (__m512)value),
                        (nn_mask)_mm512_mask_mov_epi32((__m512i)best.place, beats, (__m512i)place)};
#else
    const nn_mask beats = ~(nn_mask)(value <= best.value) & (nn_mask)(best.value == best.value);

    return (nn_vec_max){(nn_vec)(((nn_mask)value & beats) | ((nn_mask)best.value & ~beats)),
                        (place & beats) | (best.place & ~beats)};
#endif
}

/** Lane i of the result is lane i ^ bit; bit < NN_VEC_LANES. */
static inline nn_vec nn_vec_flip(nn_vec value, int bit)
{
#if defined(CVY_VECTOR_SHUFFLE)
    static const int32_t lanes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    nn_mask order;

    memcpy(&order, lanes, sizeof order);
    return CVY_VECTOR_SHUFFLE(value, order ^ bit);
#else
    float from[NN_VEC_LANES], to[NN_VEC_LANES];

    nn_vec_store(from, value);
    for (int i = 0; i < NN_VEC_LANES; i++) to[i] = from[i ^ bit];
    return nn_vec_load(to);
#endif
}

/** value where mask is all ones, else 0. */
static inline nn_vec nn_vec_where(nn_mask mask, nn_vec value)
{
    return (nn_vec)((nn_mask)value & mask);
}

#endif
