#ifndef WORKER_WORKER_INTERNAL_H
#define WORKER_WORKER_INTERNAL_H

#include "comm/protocol.h"
#include "comm/reduce.h"
#include "comm/watchdog.h"
#include "dataset/loader.h"
#include "dataset/sampler.h"
#include "nn/backend.h"
#include "nn/net.h"
#include "worker/parts.h"
#include "worker/worker.h"

#include <stdint.h>

typedef struct worker_snapshot worker_snapshot;

/** Which minibatch comes k-th, as dataset_plan functions. In training: of the carried replicas,
 * step by step. */
typedef struct worker_train_plan {
    dataset_sampler sampler;
    int64_t start_step, first_replica, n_replicas;
    int64_t minibatch, global_batch, steps_per_epoch;
} worker_train_plan;
int64_t worker_nth_training(const void *plan, int64_t k, dataset_item *items);

/** In an evaluation: every n_workers-th minibatch of the records in their order. */
typedef struct worker_evaluate_plan {
    int64_t n_records, minibatch, n_workers, worker;
} worker_evaluate_plan;
int64_t worker_nth_evaluation(const void *plan, int64_t k, dataset_item *items);

/** Sums since the last METRICS message. */
typedef struct worker_tally {
    int64_t n_steps, n_skipped;
    double loss, n_top1, n_top5;
    double since_s, data_wait_s, compute_s, reduce_s, update_s;
} worker_tally;

/** A command that came, kept until the main loop carries it out. */
typedef struct worker_command {
    int kind; /* comm_kind */
    union {
        comm_resume resume;
        comm_train train;
        comm_save save;
        comm_evaluate evaluate;
    } body;
} worker_command;

#define WORKER_MAX_COMMANDS 4

typedef struct worker {
    const worker_options *options;
    comm *world, *workers;
    const cvy_job *job;
    worker_parts *parts;
    nn_backend *backend;
    nn_net *train_net, *eval_net;
    const nn_params *params;
    comm_reducer *reducer;
    dataset_loader *loader; /* of training; NULL until the first TRAIN after a RESUME */
    worker_train_plan plan;
    worker_snapshot *snapshot; /* the lead worker's alone */

    float *weights;                        /* flat; running statistics and tail included */
    float *state[NN_OPTIMIZER_MAX_STATES]; /* own shards */
    int n_states;
    int64_t first_replica, n_replicas;
    int64_t step; /* steps done */
    int64_t n_skipped, n_skipped_in_row;
    worker_tally tally;
    double first_step_s; /* 0: none yet */
    double slowest_step_s;
    double busy_s; /* computing in the step that runs */

    comm_pulse pulse;
    cvy_status stop_status; /* of a STOP message; valid when is_stopped */
    int is_stopped, is_paused, is_signal_told;
    worker_command pending[WORKER_MAX_COMMANDS]; /* oldest first */
    int n_pending;
    double signal_at_s;           /* 0: no signal yet */
    double heard_at_s;            /* last word of the coordinator */
    comm_phase coordinator_phase; /* what it said it would be doing */
    double progress_at_s;         /* last step or batch done, or command begun */
} worker;

/** Beat, listen, watch the coordinator: called between layers and in every wait. Commands that come
 *  meanwhile (EVALUATE right behind SAVE) are kept for the main loop. */
cvy_status worker_attend(void *arg);
/** Change the phase, remembering it for the heartbeat. */
void worker_enter(worker *w, comm_phase phase);
/** Wait for the next minibatch of a loader while attending. */
cvy_status worker_next_batch(worker *w, dataset_loader *loader, dataset_batch *out);
/** Tell the coordinator of bad records that a loader met. */
cvy_status worker_tell_bad_records(worker *w, dataset_loader *loader, int is_val);
/** Deadline of a wait on other workers, for which the coordinator's is limit_s: a little later, so
 *  that the coordinator speaks first and names the silent one. */
cvy_deadline worker_deadline(double limit_s);
cvy_deadline worker_step_deadline(const worker *w); /* in a step */
double worker_silence_s(const worker *w);           /* configured or automatic step deadline */
int worker_is_lead(const worker *w);
int worker_loader_threads(const worker *w);
/** Do all workers hold the same weights? CVY_ERR_NUMERIC, naming the minority, if not. Collective
 *  over the workers. */
cvy_status worker_compare_weights(worker *w);

cvy_status worker_train(worker *w, const comm_train *command);
cvy_status worker_evaluate(worker *w, const comm_evaluate *command);

/** Background writer of checkpoints. */
cvy_status worker_snapshot_create(const nn_params *params, int n_states,
                                  const char *const *state_names, worker_snapshot **out);
void worker_snapshot_destroy(worker_snapshot **snapshot);    /* waits for a write in progress */
cvy_status worker_save(worker *w, const comm_save *command); /* collective over the workers */
/** Whether files are being written at this moment. */
int worker_snapshot_is_writing(const worker_snapshot *snapshot);
/** Send SAVED when the background write is done. */
cvy_status worker_snapshot_attend(worker *w);
/** Load a checkpoint, or make initial weights; collective over the workers. */
cvy_status worker_resume(worker *w, const comm_resume *command);

#endif
