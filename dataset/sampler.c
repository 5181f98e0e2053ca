#include "dataset/sampler.h"

#include "base/rng.h"
#include "base/status.h"

/* Four rounds make a pseudo-random permutation of a large domain (Luby & Rackoff 1988). On a domain
 * of 16 the orders are as even as they get from 12 on, and rounds cost little beside decoding a
 * picture. What is left is that such a network is an even permutation of its domain, which makes
 * odd and even orders of a handful of records unequally likely by a few percent. */
#define N_ROUNDS 12

/* Half the bits of the smallest domain 2^(2h), h >= 1, that holds n values. */
static unsigned half_bits(uint64_t n)
{
    unsigned half = 1;

    while (half < 32 && (n - 1) >> (2 * half) != 0) half++;
    return half;
}

/* One pass through the network: (left, right) -> (right, left ^ f(right)), N_ROUNDS times. */
static uint64_t permute(uint64_t seed, uint64_t epoch, unsigned half, uint64_t value)
{
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    uint64_t left = value >> half;
    uint64_t right = value & mask;

    for (uint64_t round = 0; round < N_ROUNDS; round++) {
        cvy_rng rng = cvy_rng_open(seed, CVY_RNG_SHUFFLE, epoch, round);
        cvy_rng_seek(&rng, (uint32_t)right);
        const uint64_t mixed = left ^ (cvy_rng_u32(&rng) & mask);
        left = right;
        right = mixed;
    }
    return left << half | right;
}

int64_t dataset_sampler_record(const dataset_sampler *sampler, int64_t epoch, int64_t position)
{
    CVY_ASSERT(sampler->n > 0 && epoch >= 0);
    CVY_ASSERT(position >= 0 && position < sampler->n);
    const uint64_t n = (uint64_t)sampler->n;
    if (n == 1) return 0;

    /* Cycle-walking: the domain is less than 4 n + 4, so a few passes do, and the walk ends because
     * it would else come back to position, which lies inside. */
    const unsigned half = half_bits(n);
    uint64_t value = (uint64_t)position;
    do {
        value = permute(sampler->seed, (uint64_t)epoch, half, value);
    } while (value >= n);
    return (int64_t)value;
}
