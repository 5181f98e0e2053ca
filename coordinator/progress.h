#ifndef COORDINATOR_PROGRESS_H
#define COORDINATOR_PROGRESS_H

#include "base/status.h"
#include "comm/protocol.h"

#include <stdint.h>

/**
 * What people see while a job runs, on stderr: on a terminal one live line,
 *
 *     epoch 3/10 [====>     ] 41 %  step 1234/3900  loss 0.412  top-1 85.1 %  1,240 images/s ...
 *
 * with time left and the slowest worker, rewritten at most 5 times a second and cut to the width;
 * log lines scroll above it. Otherwise a plain log line per interval (10 s at first, then every
 * minute, and at each epoch's end).
 * The supervisor tells a rank behind mpirun by CONVOY_TERMINAL=columns that a terminal is there.
 */
typedef struct coordinator_progress coordinator_progress;

typedef struct coordinator_progress_options {
    int64_t total_steps, steps_per_epoch, global_batch; /* each at least 1 */
    int columns;                                        /* 0: no terminal */
} coordinator_progress_options;

cvy_status coordinator_progress_create(const coordinator_progress_options *options,
                                       coordinator_progress **out);
void coordinator_progress_destroy(coordinator_progress **progress); /* ends the live line */
/** New figures. slowest: rank, host (NULL: none worth naming) and its time beyond that of the
 * others (0.12: 12 % more). */
void coordinator_progress_update(coordinator_progress *progress, const comm_metrics *metrics,
                                 int slowest_rank, const char *slowest_host, double slowest_by,
                                 double now_s);
/** "1,240" (0 for what is negative or no number), "2:31" (h:mm:ss from an hour): also used by
 * report and commands. */
void coordinator_text_count(double value, char out[32]);
void coordinator_text_duration(double seconds, char out[32]);

#endif
