#ifndef LAUNCH_FIGURES_H
#define LAUNCH_FIGURES_H

#include "base/status.h"

#include <jansson.h>
#include <stdint.h>

/** Small things that measuring programs share. Not collective; one thread. */
typedef struct launch_spread {
    double median, mean, min, max;
} launch_spread;

/** values: [n], n >= 1; sorted in place. */
launch_spread launch_spread_of(double *values, int64_t n);

/** The most memory this process has held so far; 0 where the system does not tell. */
int64_t launch_peak_rss_bytes(void);

/** Set a key of an object; takes the reference to value. Either may be NULL (could not be built):
 *  then object, too, is dropped and NULL is returned. */
json_t *launch_json_with(json_t *object, const char *key, json_t *value);

/** Print an object as one line on stdout and flush. Takes the reference; NULL (could not be built):
 *  CVY_ERR_NO_MEMORY. */
cvy_status launch_json_print(json_t *object);

#endif
