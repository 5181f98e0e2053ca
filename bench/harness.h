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
/** A whole number of an option; CVY_ERR_USAGE (logged, with the option's name) for anything else.
 */
cvy_status bench_parse_count(const char *option, const char *text, int64_t min, int64_t max,
                             int64_t *out);

/** Measure n repetitions; *out is owned by the caller. */
typedef cvy_status (*bench_measure)(void *arg, int64_t n, json_t **out);

/** Measure once and print. */
cvy_status bench_run_once(bench_measure measure, void *arg, int64_t n);

/** Read lines "run N" from stdin, answer each with one line, until end of input. */
cvy_status bench_serve(bench_measure measure, void *arg);

#endif
