#ifndef CVY_CLOCK_H
#define CVY_CLOCK_H

#include <stdint.h>

/** Seconds on the monotonic clock: only differences mean something; steps of the wall clock do not
 *  move it. */
double cvy_clock_now_s(void);

/** Sleep, in full even if signals come. */
void cvy_clock_sleep_s(double seconds);

/** Wall clock as ISO 8601 in UTC with milliseconds, 24 characters and NUL: for people and logs
 *  only. */
void cvy_clock_wall_text(char out[32]);

/** A moment on the monotonic clock after which a wait is over. */
typedef struct cvy_deadline {
    double at_s;
} cvy_deadline;

cvy_deadline cvy_deadline_in_s(double seconds); /* INFINITY: never */
int cvy_deadline_is_past(cvy_deadline deadline);
double cvy_deadline_left_s(cvy_deadline deadline); /* negative when past */

#endif
