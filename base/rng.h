#ifndef CVY_RNG_H
#define CVY_RNG_H

#include <stdint.h>

/**
 * Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random
 * numbers: as easy as 1, 2, 3", SC11).
 *
 * The whole state is a key and a counter, so a stream needs nothing saved: the key is the job's
 * seed, the counter names the purpose, two coordinates (epoch and position, or step and replica)
 * and the block. Never key by rank or thread: then the numbers would depend on who computes.
 */
typedef enum cvy_rng_purpose {
    CVY_RNG_INIT = 1,    /* a = parameter index, b = 0 */
    CVY_RNG_SHUFFLE = 2, /* a = epoch, b = round */
    CVY_RNG_AUGMENT = 3, /* a = epoch, b = position in the epoch */
    CVY_RNG_DROPOUT = 4, /* a = step, b = replica * 2^20 + layer index */
    CVY_RNG_TEST = 5
} cvy_rng_purpose;

typedef struct cvy_rng {
    uint32_t key[2];
    uint32_t counter[4]; /* [0] block, [1] purpose and high bits of b, [2] a, [3] low bits of b */
    uint32_t block[4];
    int n_used; /* of block */
} cvy_rng;

/** Start the stream (seed, purpose, a, b). a < 2^40 and b < 2^40, both kept whole. */
cvy_rng cvy_rng_open(uint64_t seed, cvy_rng_purpose purpose, uint64_t a, uint64_t b);

/** The 128-bit block of one counter value: the published function, with its known answers. */
void cvy_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/** Jump: the next number drawn is the first of this block. */
void cvy_rng_seek(cvy_rng *rng, uint32_t block_idx);

uint32_t cvy_rng_u32(cvy_rng *rng);
uint64_t cvy_rng_u64(cvy_rng *rng);
uint32_t cvy_rng_below(cvy_rng *rng,
                       uint32_t bound); /* uniform on [0, bound), unbiased; bound > 0 */
float cvy_rng_float(cvy_rng *rng);      /* uniform on [0, 1), 24 bits */
double cvy_rng_double(cvy_rng *rng);    /* uniform on [0, 1), 53 bits */
float cvy_rng_normal(cvy_rng *rng);     /* mean 0, deviation 1 (Box-Muller) */

#endif
