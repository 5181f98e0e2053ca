#ifndef LAUNCH_RANK_H
#define LAUNCH_RANK_H

#include "coordinator/coordinator.h"
#include "launch/command.h"

#include <stdint.h>

/**
 * This process as one rank of a job: MPI, signals, the job from rank 0, then coordinator or worker
 * to the end. Without MPI one process is both, on two threads.
 */
typedef struct launch_rank_options {
    const char *job_path;
    const launch_list *sets;
    int is_from_scratch;
    const char *log_level;           /* NULL: info */
    const char *evaluate_checkpoint; /* not NULL: only evaluate */
    const char *evaluate_out;
    int argc; /* of the subcommand: all ranks must have the same */
    char **argv;
    /** On rank 0 after a job without failure, before MPI ends. */
    cvy_status (*on_result)(const coordinator_result *result);
} launch_rank_options;

/** A usage error, said on stderr, when the text is no level: checked before anything is started. */
int launch_log_level_is_known(const char *text);

/** Run to the end; returns the exit code of the process. May not return: a rank that lost its peers
 *  leaves at once. */
int launch_rank_run(const launch_rank_options *options);

/** Which launch of its job this process belongs to, from 1; 0: no supervisor started it. */
int launch_attempt(void);

#endif
