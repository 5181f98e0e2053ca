#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "nn/weights.h"
#include "worker/worker_internal.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/*
 * A checkpoint is taken in two parts: a snapshot of weights and optimizer state into host memory at
 * a step boundary, which is all that training waits for, and the writing of the files by a thread.
 */
struct worker_snapshot {
    const nn_params *params; /* borrowed */
    int n_states;
    const char *const *state_names; /* borrowed */
    float *weights;                 /* host copies, flat */
    float *states[NN_OPTIMIZER_MAX_STATES];

    pthread_t thread;
    int is_writing;     /* a thread was started and not joined */
    atomic_int is_done; /* set last by the thread */
    char folder[COMM_PATH_BYTES];
    comm_saved saved; /* the thread's until is_done */
};

cvy_status worker_snapshot_create(const nn_params *params, int n_states,
                                  const char *const *state_names, worker_snapshot **out)
{
    worker_snapshot *snapshot = cvy_alloc_zero(1, sizeof *snapshot);
    const size_t n = (size_t)params->n_elems;

    *out = NULL;
    if (snapshot == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "snapshot");
    snapshot->params = params;
    snapshot->n_states = n_states;
    snapshot->state_names = state_names;
    snapshot->weights = cvy_alloc_zero(n, sizeof(float));
    int is_whole = snapshot->weights != NULL;
    for (int i = 0; i < n_states; i++) {
        snapshot->states[i] = cvy_alloc_zero(n, sizeof(float));
        is_whole = is_whole && snapshot->states[i] != NULL;
    }
    if (!is_whole) {
        worker_snapshot_destroy(&snapshot);
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "snapshot of %zu floats, %d times", n, n_states + 1);
    }
    *out = snapshot;
    return CVY_OK;
}

static void join_writer(worker_snapshot *snapshot)
{
    if (snapshot->is_writing) (void)pthread_join(snapshot->thread, NULL);
    snapshot->is_writing = 0;
}

void worker_snapshot_destroy(worker_snapshot **address)
{
    worker_snapshot *snapshot = *address;

    if (snapshot == NULL) return;
    join_writer(snapshot);
    for (int i = 0; i < NN_OPTIMIZER_MAX_STATES; i++) cvy_free(snapshot->states[i]);
    cvy_free(snapshot->weights);
    cvy_free(snapshot);
    *address = NULL;
}

static cvy_status write_files(worker_snapshot *snapshot)
{
    comm_saved *saved = &snapshot->saved;
    char path[COMM_PATH_BYTES + 32];

    snprintf(path, sizeof path, "%s/model.safetensors", snapshot->folder);
    CVY_RETURN_IF_ERR(nn_weights_save(path, snapshot->params, snapshot->weights, saved->step,
                                      &saved->model_bytes, &saved->model_hash));
    snprintf(path, sizeof path, "%s/optimizer.safetensors", snapshot->folder);
    return nn_states_save(path, snapshot->params, snapshot->n_states, snapshot->state_names,
                          snapshot->states, &saved->optimizer_bytes, &saved->optimizer_hash);
}

static void *writer_main(void *arg)
{
    worker_snapshot *snapshot = arg;
    const double start_s = cvy_clock_now_s();

    /* A save that fails costs nothing yet: the coordinator says why, in one line. */
    cvy_log_catch(snapshot->saved.message, sizeof snapshot->saved.message);
    (void)cvy_fault_at("save.write", snapshot->saved.step, NULL);
    const cvy_status status = write_files(snapshot);
    cvy_log_catch(NULL, 0);
    snapshot->saved.status = status;
    snapshot->saved.write_s = cvy_clock_now_s() - start_s;
    atomic_store(&snapshot->is_done, 1);
    return NULL;
}

static cvy_status start_writer(worker_snapshot *snapshot)
{
    sigset_t all, old;

    atomic_store(&snapshot->is_done, 0);
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
    const int error = pthread_create(&snapshot->thread, NULL, writer_main, snapshot);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error != 0) return CVY_FAIL(CVY_ERR_OS, "thread of the checkpoint: %s", strerror(error));
    snapshot->is_writing = 1;
    return CVY_OK;
}

cvy_status worker_save(worker *w, const comm_save *command)
{
    const double start_s = cvy_clock_now_s();
    const cvy_deadline deadline = worker_deadline(w->job->deadline.save_s);

    worker_enter(w, COMM_PHASE_SNAPSHOT);
    (void)cvy_fault_at("save.snapshot", w->step, NULL);
    if (command->step != w->step)
        return CVY_FAIL(CVY_ERR_INTERNAL, "told to save step %lld at step %lld",
                        (long long)command->step, (long long)w->step);
    /* Nothing is published from weights that drifted apart. */
    CVY_RETURN_IF_ERR(worker_compare_weights(w));
    if (w->snapshot != NULL) join_writer(w->snapshot);
    for (int i = 0; i < w->n_states; i++) {
        float *flat = w->snapshot != NULL ? w->snapshot->states[i] : NULL;
        CVY_RETURN_IF_ERR(comm_reducer_collect(w->reducer, w->state[i], 0, flat, deadline));
    }
    w->progress_at_s = cvy_clock_now_s();
    w->pulse.beat.n_progress++;
    if (w->snapshot == NULL) return CVY_OK;

    worker_snapshot *snapshot = w->snapshot;
    CVY_RETURN_IF_ERR(w->backend->ops->copy_out(w->backend, snapshot->weights, w->weights,
                                                (size_t)w->params->n_elems * sizeof(float)));
    snprintf(snapshot->folder, sizeof snapshot->folder, "%s", command->folder);
    snapshot->saved = (comm_saved){.step = w->step, .snapshot_s = cvy_clock_now_s() - start_s};
    return start_writer(snapshot);
}

int worker_snapshot_is_writing(const worker_snapshot *snapshot)
{
    return snapshot->is_writing && !atomic_load(&snapshot->is_done);
}

cvy_status worker_snapshot_attend(worker *w)
{
    worker_snapshot *snapshot = w->snapshot;

    if (!snapshot->is_writing || !atomic_load(&snapshot->is_done)) return CVY_OK;
    join_writer(snapshot);
    return COMM_SEND(w->world, 0, COMM_SAVED, snapshot->saved);
}
