#ifndef LAUNCH_SUPERVISE_H
#define LAUNCH_SUPERVISE_H

#include "base/status.h"

/**
 * Run a job to its end outside MPI: start it (mpirun, or this program itself for one process),
 * pass stop signals on, and start it again from the newest checkpoint when it dies.
 *
 * - SIGTERM, SIGINT and SIGUSR1 are passed on as SIGUSR1 to mpirun (which hands it to every rank)
 *   or to the child; signals within 0.3 s are one request; a second request escalates: SIGTERM,
 * then SIGKILL after 2 s. The child runs in a process group of its own, so that a terminal's ^C
 * reaches the supervisor alone.
 * - How a launch ended is told by its outcome file and its exit status; what follows from them is
 *   launch_ending_judge()'s to say (launch/outcome.h).
 * - After max_restarts restarts in a row without a newer checkpoint: 70, with one line a death:
 *   attempt, how it ended, newest step.
 * - When all ranks that are children of mpirun (processes of this program's name) have gone while
 *   mpirun lingers for more than 1 s, or some rank has died and others are still there 3 s later,
 *   the whole tree is killed.
 * - At its own death (SIGKILL) nothing is left behind: the child has PR_SET_PDEATHSIG SIGTERM, and
 *   a rank whose coordinator or launcher is gone leaves.
 */
typedef struct launch_supervise_options {
    int argc; /* of the subcommand, its name first, as the user typed it */
    char *const *argv;
    int workers;             /* 0: one process, no MPI */
    const char *mpirun_args; /* the user's own words for mpirun; NULL: none */
    const char *run_folder;  /* its checkpoints tell of progress; NULL: none, no restarts */
    int max_restarts;        /* without progress; 3 */
} launch_supervise_options;

/** Returns the exit code for the process. */
int launch_supervise(const launch_supervise_options *options);

#endif
