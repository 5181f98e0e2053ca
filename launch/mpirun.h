#ifndef LAUNCH_MPIRUN_H
#define LAUNCH_MPIRUN_H

#include "base/status.h"

/** Is this process a rank already (started by mpirun or srun)? By the launcher's environment:
 *  OMPI_COMM_WORLD_SIZE, PMIX_RANK, PMI_RANK. */
int launch_inside_mpi(void);

/**
 * The argument vector of mpirun for `program args...` with one coordinator and n_workers workers:
 * binding, oversubscription when the host has fewer processors than ranks, keepalive of the
 * launcher, root permission in containers, CONVOY_* and OPENBLAS_* variables to pass on. The user's
 * own settings (OMPI_MCA_* variables, user_args) win. Inside a Slurm allocation hosts come from
 * Slurm.
 *
 * @param args       of the program, NULL-terminated.
 * @param user_args  words for mpirun between ours and the program, or NULL.
 * @param out_argv   NULL-terminated; launch_mpirun_free() it.
 * @return CVY_ERR_UNAVAILABLE when no mpirun is in PATH, naming Debian's package.
 */
cvy_status launch_mpirun_argv(const char *program, char *const *args, int n_workers,
                              const char *user_args, char ***out_argv);
void launch_mpirun_free(char ***argv);

#endif
