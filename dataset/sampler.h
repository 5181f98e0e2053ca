#ifndef DATASET_SAMPLER_H
#define DATASET_SAMPLER_H

#include <stdint.h>

/**
 * Which record stands at a place of an epoch: a keyed bijection on [0, n), computed in O(1) without
 * a list or state. A Feistel network over the next even number of bits with Philox as its round
 * function (seed, CVY_RNG_SHUFFLE, epoch, round), cycle-walking back into [0, n) (Black & Rogaway
 * 2002, "Ciphers with arbitrary finite domains").
 *
 * The place of a sample in training is one integer, so any number of workers sees the same samples
 * in the same replicas.
 */
typedef struct dataset_sampler {
    uint64_t seed;
    int64_t n;
} dataset_sampler;

/** position in [0, n) of this epoch -> record index in [0, n). */
int64_t dataset_sampler_record(const dataset_sampler *sampler, int64_t epoch, int64_t position);

#endif
