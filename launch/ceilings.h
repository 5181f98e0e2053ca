#ifndef LAUNCH_CEILINGS_H
#define LAUNCH_CEILINGS_H

#include "base/status.h"

#include <jansson.h>
#include <stdint.h>

/**
 * What the machine can do at most, to hold measured steps against: float32 multiply-adds on
 * registers, as wide as this build's vectors are, and the bandwidth of main memory by STREAM's
 * triad (McCalpin 1995: a = b + s c, two arrays read, one written), with one thread and with all
 * that are asked for. A multiply-add counts as 2 FLOP. Not collective; one thread calls.
 */
typedef struct launch_ceilings {
    int vector_bits, n_threads;
    double gflops_one, gflops;             /* GFLOP/s with one thread, with n_threads */
    double gbytes_per_s_one, gbytes_per_s; /* likewise */
} launch_ceilings;

/** Threads and arrays of the measurement: 24 MiB a thread, at least 192 MiB, beyond the caches. */
typedef struct launch_ceiling_meter launch_ceiling_meter;

cvy_status launch_ceilings_open(int n_threads, launch_ceiling_meter **out);
void launch_ceilings_close(launch_ceiling_meter **meter);

/** Measure everything n_rounds times in turns, some 10 ms each; the best of each counts. */
void launch_ceilings_measure(launch_ceiling_meter *meter, int64_t n_rounds, launch_ceilings *out);

/** As an object of its own; NULL: no memory. */
json_t *launch_ceilings_json(const launch_ceilings *ceilings);

#endif
