#include "base/rng.h"

#include "base/status.h"

#include <math.h>
#include <string.h>

/* The constants of the published function: two multipliers, and the Weyl steps of the key (golden
 * ratio and square root of 3, less one). */
#define PHILOX_M0 UINT32_C(0xD2511F53)
#define PHILOX_M1 UINT32_C(0xCD9E8D57)
#define PHILOX_W0 UINT32_C(0x9E3779B9)
#define PHILOX_W1 UINT32_C(0xBB67AE85)

#define TWO_PI 6.283185307179586476925286766559

void cvy_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];

    for (int round = 0; round < 10; round++) {
        const uint64_t product0 = (uint64_t)PHILOX_M0 * x0;
        const uint64_t product1 = (uint64_t)PHILOX_M1 * x2;
        x0 = (uint32_t)(product1 >> 32) ^ x1 ^ k0;
        x1 = (uint32_t)product1;
        x2 = (uint32_t)(product0 >> 32) ^ x3 ^ k1;
        x3 = (uint32_t)product0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = x0;
    out[1] = x1;
    out[2] = x2;
    out[3] = x3;
}

cvy_rng cvy_rng_open(uint64_t seed, cvy_rng_purpose purpose, uint64_t a, uint64_t b)
{
    cvy_rng rng;

    CVY_ASSERT(a < UINT64_C(1) << 40);
    CVY_ASSERT(b < UINT64_C(1) << 40);
    CVY_ASSERT((unsigned)purpose < 1u << 16);
    memset(&rng, 0, sizeof rng);
    rng.key[0] = (uint32_t)seed;
    rng.key[1] = (uint32_t)(seed >> 32);
    /* Purpose, then the 8 high bits of a and of b: different arguments, different counters. */
    rng.counter[1] = (uint32_t)purpose << 16 | (uint32_t)(a >> 32) << 8 | (uint32_t)(b >> 32);
    rng.counter[2] = (uint32_t)a;
    rng.counter[3] = (uint32_t)b;
    cvy_rng_seek(&rng, 0);
    return rng;
}

void cvy_rng_seek(cvy_rng *rng, uint32_t block_idx)
{
    rng->counter[0] = block_idx;
    rng->n_used = 4;
}

uint32_t cvy_rng_u32(cvy_rng *rng)
{
    if (rng->n_used == 4) {
        cvy_philox4x32_10(rng->counter, rng->key, rng->block);
        rng->counter[0]++;
        rng->n_used = 0;
    }
    return rng->block[rng->n_used++];
}

uint64_t cvy_rng_u64(cvy_rng *rng)
{
    const uint64_t low = cvy_rng_u32(rng);
    const uint64_t high = cvy_rng_u32(rng);

    return high << 32 | low;
}

/* Lemire, "Fast random integer generation in an interval", 2019: the high half of a product, with
 * the few draws rejected that would make some results likelier. */
uint32_t cvy_rng_below(cvy_rng *rng, uint32_t bound)
{
    CVY_ASSERT(bound > 0);
    uint64_t product = (uint64_t)cvy_rng_u32(rng) * bound;
    if ((uint32_t)product < bound) {
        const uint32_t n_rejected = (0u - bound) % bound; /* 2^32 mod bound */
        while ((uint32_t)product < n_rejected) product = (uint64_t)cvy_rng_u32(rng) * bound;
    }
    return (uint32_t)(product >> 32);
}

float cvy_rng_float(cvy_rng *rng)
{
    return (float)(cvy_rng_u32(rng) >> 8) * 0x1p-24f;
}

double cvy_rng_double(cvy_rng *rng)
{
    return (double)(cvy_rng_u64(rng) >> 11) * 0x1p-53;
}

/* One number for two draws: the second of the pair would be state. In double, so that the float is
 * the same wherever the C library rounds within an ulp or so. */
float cvy_rng_normal(cvy_rng *rng)
{
    const double u = ((double)cvy_rng_u32(rng) + 1.0) * 0x1p-32; /* (0, 1]: no log of 0 */
    const double v = (double)cvy_rng_u32(rng) * 0x1p-32;

    return (float)(sqrt(-2.0 * log(u)) * cos(TWO_PI * v));
}
