#ifndef COORDINATOR_COORDINATOR_H
#define COORDINATOR_COORDINATOR_H

#include "base/job.h"
#include "base/status.h"
#include "comm/comm.h"

#include <signal.h>
#include <stdint.h>

/**
 * The coordinator: rank 0. It tells the workers what to do (comm/protocol.h), watches them, commits
 * checkpoints, computes evaluations and writes the run folder. It trains nothing and sleeps between
 * messages.
 *
 * Life of a training job: lock the run folder, find the newest whole checkpoint, wait for every
 * worker's HELLO, RESUME, then segments of TRAIN up to the next step at which something is due
 * (an evaluation, a checkpoint, the end); a checkpoint that is due by time, and a stop, are asked
 * for by PAUSE, which reaches all workers at the same step. The last segment is followed by the
 * final evaluation, the final checkpoint and the report.
 */

/** What the coordinator needs to know of the job's parts, which are made by others. */
typedef struct coordinator_parts {
    const char *arch; /* "resnet20_cifar", or "net" */
    int n_classes;
    const char *const *class_names; /* n_classes; NULL: "0", "1", ... */
    int64_t n_train, n_val;         /* records; n_val 0: no evaluation */
    int64_t steps_per_epoch, total_steps, global_batch;
    uint64_t train_identity,
        val_identity;         /* dataset_info.identity; every worker must find the same */
    int64_t checkpoint_bytes; /* about: weights and optimizer state */
} coordinator_parts;

typedef struct coordinator_options {
    comm *world;        /* borrowed; this process is rank 0 of it */
    cvy_node *root;     /* resolved tree; borrowed */
    const cvy_job *job; /* read from it */
    const coordinator_parts *parts;
    const volatile sig_atomic_t *signal;    /* number of the last signal to stop; 0: none */
    const volatile sig_atomic_t *n_signals; /* how many came */
    int columns;                            /* of the terminal for the live line; 0: none */
    int attempt;                            /* which launch of the job this is, from 1 */
    int is_from_scratch;             /* start anew although no checkpoint of the run is whole */
    const char *evaluate_checkpoint; /* not NULL: only evaluate this (folder, run or file) */
    const char *evaluate_out;        /* where its JSON goes; NULL: nowhere */
} coordinator_options;

typedef struct coordinator_result {
    int64_t step; /* steps done */
    int has_evaluation;
    int64_t n_records, n_top1, n_top5; /* of the last evaluation */
    double loss;
    char *evaluation_json; /* of evaluate_checkpoint; cvy_free() it */
} coordinator_result;

/**
 * Run to the end. All workers have been told STOP when it returns, unless a peer was lost.
 *
 * @return CVY_OK when the job is complete; CVY_ERR_STOPPED after a polite stop (state saved);
 *         CVY_ERR_PEER_LOST when a rank is silent past its deadline (one line names rank, host and
 *         phase); the status of a worker or of the job's own trouble otherwise. Logged once.
 */
cvy_status coordinator_run(const coordinator_options *options, coordinator_result *out);

#endif
