#ifndef BENCH_HARNESS_H
#define BENCH_HARNESS_H

#include "base/status.h"

#include <jansson.h>
#include <stdint.h>

/**
 * What the programs of bench/ share. They print one JSON object a line on stdout; with --serve they
 * stay and measure on request, so that several programs can take turns on one machine without being
 * started again. Not collective; one thread.
 */
typedef struct bench_spread {
    double median, min, max;
} bench_spread;

/** values: [n], n >= 1; sorted in place. */
bench_spread bench_spread_of(double *values, int64_t n);

/** The most memory this process has held so far; 0 where the system does not tell. */
int64_t bench_peak_rss_bytes(void);

/** A whole number of an option; CVY_ERR_USAGE (logged, with the option's name) for anything else.
 */
cvy_status bench_parse_count(const char *option, const char *text, int64_t min, int64_t max,
                             int64_t *out);

/** Print an object as one line and flush. Takes the reference; NULL (could not be built):
 *  CVY_ERR_NO_MEMORY. */
cvy_status bench_print(json_t *object);

/** Measure n repetitions; *out is owned by the caller. */
typedef cvy_status (*bench_measure)(void *arg, int64_t n, json_t **out);

/** Measure once and print. */
cvy_status bench_run_once(bench_measure measure, void *arg, int64_t n);

/** Read lines "run N" from stdin, answer each with one line, until end of input. */
cvy_status bench_serve(bench_measure measure, void *arg);

#endif
