#ifndef LAUNCH_OUTCOME_H
#define LAUNCH_OUTCOME_H

#include "base/status.h"

#include <stdint.h>

/** How a launch ended, told by rank 0 to its supervisor through the file that CONVOY_OUTCOME names
 *  (made by the supervisor in a private folder; nothing is written without the variable). The last
 *  one written counts. */
typedef enum launch_outcome_kind {
    LAUNCH_OUTCOME_NONE, /* the file is empty: rank 0 died */
    LAUNCH_OUTCOME_FINISHED,
    LAUNCH_OUTCOME_STOPPED, /* politely, on request; state saved */
    LAUNCH_OUTCOME_FAILED   /* with a status */
} launch_outcome_kind;

typedef struct launch_outcome {
    launch_outcome_kind kind;
    cvy_status status;
    int64_t step; /* steps done */
} launch_outcome;

void launch_outcome_write(const launch_outcome *outcome);
/** path: the supervisor's file. */
void launch_outcome_read(const char *path, launch_outcome *out);

#endif
