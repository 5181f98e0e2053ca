#ifndef LAUNCH_RANK_INTERNAL_H
#define LAUNCH_RANK_INTERNAL_H

#include "base/clock.h"
#include "base/log.h"
#include "comm/comm.h"
#include "launch/job_setup.h"
#include "launch/rank.h"

/** Until the job is known, which has its own deadlines. */
#define START_DEADLINE_S 120.0
/** The end of MPI, and of the worker's thread, may take so long. */
#define FINALIZE_LIMIT_S 10
/** After a failure that all ranks learn of: until the last of them has let go of its peers' memory.
 */
#define LEAVE_TOGETHER_S 0.2

/** All of one rank. */
typedef struct launch_rank {
    const launch_rank_options *options;
    cvy_log_level log_level;
    comm *world, *workers; /* workers: NULL on rank 0 */
    int n_workers;
    launch_job job;
    worker_parts *parts; /* rank 0: for checking, and the figures below */
    coordinator_parts described;
    coordinator_result result;
    int has_begun;            /* the ranks parted: one coordinates, the others work */
    int is_worker_clean;      /* it left no transfer open */
    cvy_status worker_status; /* of the worker's thread */
} launch_rank;

/** Do all ranks run the same program with the same arguments? CVY_ERR_CONFIG on all if not, logged
 *  by rank 0 with the rank, its host and the field. Collective. */
cvy_status launch_compare_ranks(const launch_rank *r, cvy_deadline deadline);

#endif
