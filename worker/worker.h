#ifndef WORKER_WORKER_H
#define WORKER_WORKER_H

#include "base/job.h"
#include "base/status.h"
#include "comm/comm.h"

#include <signal.h>

/**
 * A worker: carries a contiguous range of the job's replicas and does what the coordinator says
 * (comm/protocol.h) until it says STOP.
 */
typedef struct worker_options {
    comm *world;        /* borrowed; rank >= 1 of it */
    comm *workers;      /* borrowed; all ranks >= 1; rank 0 of it is the lead worker */
    cvy_node *root;     /* resolved tree; borrowed */
    const cvy_job *job; /* read from it */
    int is_evaluation;  /* this launch only evaluates: no training parts are made */
    const volatile sig_atomic_t *signal; /* set by the process' handlers; told to the coordinator */
} worker_options;

/**
 * Run to the end.
 *
 * @param out_is_clean  1 when it stopped at rest and freed everything; 0: transfers may be open
 * into its memory, which stays, and the process must leave without MPI_Finalize.
 * @return the status of the coordinator's STOP; CVY_ERR_PEER_LOST when the coordinator or a worker
 *         is silent past the deadline (logged only when the coordinator, who would say it, is the
 *         silent one); otherwise why this worker cannot go on (logged, and told to the
 * coordinator).
 */
cvy_status worker_run(const worker_options *options, int *out_is_clean);

#endif
