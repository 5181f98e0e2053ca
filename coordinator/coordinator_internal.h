#ifndef COORDINATOR_COORDINATOR_INTERNAL_H
#define COORDINATOR_COORDINATOR_INTERNAL_H

#include "comm/protocol.h"
#include "comm/watchdog.h"
#include "coordinator/checkpoints.h"
#include "coordinator/coordinator.h"
#include "coordinator/evaluations.h"
#include "coordinator/progress.h"
#include "coordinator/records.h"

#include <stdint.h>

/** What is known of one worker: rank idx + 1. */
typedef struct coordinator_worker {
    comm_hello hello;
    int has_hello, is_ready, is_trained, is_evaluated;
} coordinator_worker;

/** Records of one dataset that cannot be used, each counted once. */
typedef struct coordinator_bad {
    uint8_t *seen; /* a bit a record */
    int64_t n, n_records;
} coordinator_bad;

typedef struct coordinator {
    const coordinator_options *options;
    comm *world;
    const cvy_job *job;
    const coordinator_parts *parts;

    int n_workers;
    coordinator_worker *worker; /* [n_workers] */
    comm_watchdog *watchdog;
    double beat_at_s;    /* last heartbeat to the workers */
    double watched_at_s; /* last look at who is silent */
    comm_phase phase;    /* told in it: how long the coordinator may be silent */

    /* The run folder; all NULL when only evaluating. */
    int lock_fd, log_fd;
    coordinator_checkpoints *checkpoints;
    coordinator_records *metrics, *events;
    coordinator_progress *progress;

    int64_t step;             /* steps done, by all */
    int64_t n_skipped;        /* updates, since the start of the job */
    int64_t n_skipped_before; /* of these, before this launch */
    int64_t saved_step;       /* of the newest checkpoint; -1: none */
    double saved_at_s;
    int64_t evaluated_step; /* by this process, written or not; -1: none */
    int is_saving;          /* a SAVE is on its way */
    int64_t saving_step;
    double saving_since_s;
    int n_failed_saves; /* in a row */

    int is_training, is_evaluating; /* such a command is being carried out */
    int is_pause_sent;              /* in this segment */
    int is_stop_wanted;             /* a signal came, to any rank */
    int stop_signal, stop_rank;
    int is_evaluation_left; /* a worker left the evaluation early */
    coordinator_evaluation *evaluation;
    coordinator_bad bad[2]; /* training, validation */
    comm_metrics last_metrics;
    double nap_s;
} coordinator;

/* coordinator_run.c: the run folder. */
cvy_status coordinator_open_run(coordinator *c, comm_resume *out_resume);
/** Ask for a checkpoint of the current step; a failure is counted, not returned, until there are
 *  too many in a row. */
cvy_status coordinator_begin_save(coordinator *c);
cvy_status coordinator_end_save(coordinator *c, const comm_saved *saved);

/* coordinator_pump.c: messages in. */
/** Take all messages, watch signals and silent ranks, beat; nap when nothing came. */
cvy_status coordinator_pump(coordinator *c);
cvy_status coordinator_send_all(coordinator *c, int kind, const void *payload, size_t size_bytes);
void coordinator_enter(coordinator *c, comm_phase phase); /* and tell the workers at once */
void coordinator_event(coordinator *c, json_t *event);    /* takes the reference */

#endif
