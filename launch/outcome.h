#ifndef LAUNCH_OUTCOME_H
#define LAUNCH_OUTCOME_H

#include "base/status.h"

#include <stddef.h>
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

/** All that a supervisor knows of one launch that ended. */
typedef struct launch_ending {
    int wait_status; /* of mpirun or of the one process, as waitpid() gave it */
    int was_killed;  /* by the supervisor, because it hung */
    int has_begun;   /* ranks were seen, or none were to be seen: 0 when mpirun started none */
    int has_dead_rank, dead_rank; /* the rank of this host that was seen to go first */
    launch_outcome outcome;
} launch_ending;

/**
 * What comes after a launch.
 *
 * @param is_stop_asked  the supervisor was told to stop the job meanwhile.
 * @param can_go_on      the job has a run folder, from which another launch goes on.
 * @return the exit code to end with: 0 finished; 75 stopped on request; a code that another launch
 *         would end with as well (64 ... 78 but for 74 and 75); 69 when mpirun refused to start
 *         anything. LAUNCH_AGAIN for everything else, or its code when the job cannot go on.
 */
int launch_ending_judge(const launch_ending *ending, int is_stop_asked, int can_go_on);
#define LAUNCH_AGAIN (-1)

/** How it ended, for people: "signal 9 (Killed)". */
void launch_ending_describe(const launch_ending *ending, char *out, size_t out_size);

#endif
