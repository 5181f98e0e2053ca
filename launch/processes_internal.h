#ifndef LAUNCH_PROCESSES_INTERNAL_H
#define LAUNCH_PROCESSES_INTERNAL_H

#include <sys/types.h>

/** Processes below this one, read from /proc. Zombies count as gone. */

/** The name that the kernel gives to a process which runs this file (cut at 15 characters). */
#define LAUNCH_NAME_BYTES 16
void launch_process_name(const char *path, char out[LAUNCH_NAME_BYTES]);

/** Direct children of pid of this name that live. out_n_ever counts those too that died and were
 *  not reaped yet. -1 when /proc cannot be read. */
int launch_count_children(pid_t pid, const char *name, int *out_n_ever);

/** A rank of mpirun on this host. */
typedef struct launch_rank_process {
    pid_t pid;
    int rank;
} launch_rank_process;

/** The living children of pid of this name that are ranks (by OMPI_COMM_WORLD_RANK of their
 *  environment), at most max of them. Returns how many. */
int launch_list_ranks(pid_t pid, const char *name, launch_rank_process *out, int max);

/** Send a signal to all descendants of this process, deepest generation included, except the
 *  process itself. Returns how many got it. */
int launch_signal_descendants(int number);

/** Reap what died and was inherited. */
void launch_reap(void);

#endif
