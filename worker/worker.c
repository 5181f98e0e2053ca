#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "worker/worker_internal.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Waits of a worker end this much later than the coordinator's, which names the silent rank. */
#define COORDINATOR_FIRST_S 1.5
/* After a signal: a step that takes longer than this will never end, because a peer is dead. */
#define SIGNAL_GRACE_S 2.0
/* After a signal: a coordinator that is silent for so long is dead. */
#define COORDINATOR_DEAD_S 3.0

int worker_is_lead(const worker *w)
{
    return comm_rank(w->workers) == 0;
}

double worker_silence_s(const worker *w)
{
    if (w->job->deadline.step_s > 0) return w->job->deadline.step_s;
    const double by_steps = 5 * w->slowest_step_s;
    return by_steps > 10 ? by_steps : 10;
}

cvy_deadline worker_deadline(double limit_s)
{
    return cvy_deadline_in_s(limit_s + COORDINATOR_FIRST_S);
}

cvy_deadline worker_step_deadline(const worker *w)
{
    /* Until the first step is done the others may still be setting up. */
    const double start_s = w->first_step_s > 0 ? 0 : w->job->deadline.start_s;
    const double silence_s = worker_silence_s(w);
    return worker_deadline(start_s > silence_s ? start_s : silence_s);
}

void worker_enter(worker *w, comm_phase phase)
{
    comm_pulse_phase(&w->pulse, phase);
}

/* Keep a command for the main loop. */
static cvy_status keep_command(worker *w, const comm_message *message)
{
    worker_command command = {.kind = message->kind};
    const comm_resume *resume = COMM_AS(comm_resume, message);
    const comm_train *train = COMM_AS(comm_train, message);
    const comm_save *save = COMM_AS(comm_save, message);
    const comm_evaluate *evaluate = COMM_AS(comm_evaluate, message);
    int is_whole = 1;

    if (message->kind == COMM_RESUME && resume != NULL)
        command.body.resume = *resume;
    else if (message->kind == COMM_TRAIN && train != NULL)
        command.body.train = *train;
    else if (message->kind == COMM_SAVE && save != NULL)
        command.body.save = *save;
    else if (message->kind == COMM_EVALUATE && evaluate != NULL)
        command.body.evaluate = *evaluate;
    else
        is_whole = 0;
    if (!is_whole || w->n_pending == WORKER_MAX_COMMANDS)
        return CVY_FAIL(CVY_ERR_INTERNAL, "command %d of %zu bytes, %d others waiting",
                        message->kind, message->size_bytes, w->n_pending);
    w->pending[w->n_pending++] = command;
    /* A PAUSE behind it is meant for it, one before it is not. */
    if (message->kind == COMM_TRAIN || message->kind == COMM_EVALUATE) w->is_paused = 0;
    return CVY_OK;
}

static cvy_status hear(worker *w, const comm_message *message)
{
    w->heard_at_s = cvy_clock_now_s();
    switch (message->kind) {
    case COMM_STOP: {
        const comm_stop *stop = COMM_AS(comm_stop, message);
        w->stop_status = stop != NULL ? (cvy_status)stop->status : CVY_ERR_INTERNAL;
        w->is_stopped = 1;
        return CVY_OK;
    }
    case COMM_PAUSE:
        w->is_paused = 1;
        return CVY_OK;
    case COMM_HEARTBEAT: {
        const comm_heartbeat *beat = COMM_AS(comm_heartbeat, message);
        if (beat != NULL) w->coordinator_phase = (comm_phase)beat->phase;
        return CVY_OK;
    }
    case COMM_RESUME:
    case COMM_TRAIN:
    case COMM_SAVE:
    case COMM_EVALUATE:
        return keep_command(w, message);
    default:
        return CVY_FAIL(CVY_ERR_INTERNAL, "message %d of %zu bytes is not understood",
                        message->kind, message->size_bytes);
    }
}

static cvy_status watch_coordinator(worker *w, double now_s)
{
    double limit_s = worker_silence_s(w);

    if (w->coordinator_phase == COMM_PHASE_SNAPSHOT) limit_s = w->job->deadline.save_s;
    if (w->coordinator_phase == COMM_PHASE_START) limit_s = w->job->deadline.start_s;
    if (now_s - w->heard_at_s <= limit_s) return CVY_OK;
    if (worker_is_lead(w)) {
        return CVY_FAIL(CVY_ERR_PEER_LOST,
                        "rank 0 (coordinator) on %s silent for %.1f s in phase %s: leaving, the "
                        "job goes on from its newest checkpoint",
                        comm_host(w->world, 0), now_s - w->heard_at_s,
                        comm_phase_text(w->coordinator_phase));
    }
    return now_s - w->heard_at_s > limit_s + 1 ? CVY_ERR_PEER_LOST : CVY_OK;
}

static cvy_status watch_signal(worker *w, double now_s)
{
    if (*w->options->signal == 0) return CVY_OK;
    if (!w->is_signal_told) {
        const comm_signalled told = {.signal = (int32_t)*w->options->signal};
        w->is_signal_told = 1;
        w->signal_at_s = now_s;
        CVY_RETURN_IF_ERR(COMM_SEND(w->world, 0, COMM_SIGNALLED, told));
    }
    /* A launcher that ends a broken job signals the survivors: they must not wait for the dead. The
     * coordinator speaks every second, unless it is busy with a disk. */
    if (w->coordinator_phase != COMM_PHASE_SNAPSHOT &&
        now_s - w->signal_at_s > COORDINATOR_DEAD_S && now_s - w->heard_at_s > COORDINATOR_DEAD_S) {
        return CVY_ERR_PEER_LOST;
    }
    double grace_s = 5 * w->slowest_step_s;
    if (grace_s < SIGNAL_GRACE_S) grace_s = SIGNAL_GRACE_S;
    const double since_s = w->progress_at_s > w->signal_at_s ? w->progress_at_s : w->signal_at_s;
    const int is_waiting = w->pulse.beat.phase == COMM_PHASE_REDUCE ||
                           w->pulse.beat.phase == COMM_PHASE_UPDATE;
    return is_waiting && now_s - since_s > grace_s ? CVY_ERR_PEER_LOST : CVY_OK;
}

cvy_status worker_attend(void *arg)
{
    worker *w = arg;
    comm_message message;
    int has = 0;

    const double now_s = cvy_clock_now_s();
    CVY_RETURN_IF_ERR(comm_pulse_beat(&w->pulse));
    for (;;) {
        CVY_RETURN_IF_ERR(comm_receive(w->world, &message, &has));
        if (!has) break;
        CVY_RETURN_IF_ERR(hear(w, &message));
    }
    if (w->is_stopped) return CVY_ERR_STOPPED;
    CVY_RETURN_IF_ERR(watch_signal(w, now_s));
    CVY_RETURN_IF_ERR(watch_coordinator(w, now_s));
    if (w->snapshot != NULL) CVY_RETURN_IF_ERR(worker_snapshot_attend(w));
    return CVY_OK;
}

cvy_status worker_next_batch(worker *w, dataset_loader *loader, dataset_batch *out)
{
    int is_ready = 0;

    for (;;) {
        CVY_RETURN_IF_ERR(dataset_loader_next(loader, 0.05, out, &is_ready));
        if (is_ready) return CVY_OK;
        CVY_RETURN_IF_ERR(worker_attend(w));
    }
}

cvy_status worker_tell_bad_records(worker *w, dataset_loader *loader, int is_val)
{
    dataset_bad_record bad[8];

    for (;;) {
        const int n = dataset_loader_take_bad(loader, 8, bad);
        for (int i = 0; i < n; i++) {
            comm_bad_record told = {.record = bad[i].record, .is_val = is_val};
            snprintf(told.reason, sizeof told.reason, "%s", bad[i].reason);
            CVY_RETURN_IF_ERR(COMM_SEND(w->world, 0, COMM_BAD_RECORD, told));
        }
        if (n < 8) return CVY_OK;
    }
}

/* Processors this process may use, shared fairly between the workers of the host. */
static int threads_by_host(const worker *w)
{
    cpu_set_t set;
    int n_workers_here = 0;

    for (int rank = 0; rank < comm_size(w->workers); rank++) {
        if (strcmp(comm_host(w->workers, rank), comm_host(w->workers, comm_rank(w->workers))) == 0)
            n_workers_here++;
    }
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    const int n = CPU_COUNT(&set) / (n_workers_here > 0 ? n_workers_here : 1);
    return n > 1 ? n : 1;
}

static cvy_status open_nets(worker *w)
{
    const cvy_job *job = w->job;
    const worker_parts_options parts_options = {.is_quiet = 1,
                                                .is_evaluation = w->options->is_evaluation};
    const nn_backend_options backend_options = {
        .n_threads = job->threads > 0 ? (int)job->threads : threads_by_host(w),
        .local_rank = comm_local_rank(w->workers, comm_rank(w->workers))};

    CVY_RETURN_IF_ERR(worker_parts_create(w->options->root, job, &parts_options, &w->parts));
    CVY_RETURN_IF_ERR(nn_backend_open(job->device, &backend_options, &w->backend));
    nn_graph *graph = w->parts->train_graph != NULL ? w->parts->train_graph : w->parts->eval_graph;
    w->params = nn_graph_params(graph);
    if (w->parts->train_graph != NULL) {
        const nn_net_options options = {.is_inference = 0};
        CVY_RETURN_IF_ERR(
            nn_net_create(w->backend, w->parts->train_graph, &options, &w->train_net));
        nn_net_set_poll(w->train_net, worker_attend, w);
    }
    if (w->parts->eval_graph != NULL) {
        const nn_net_options options = {.is_inference = 1};
        CVY_RETURN_IF_ERR(nn_net_create(w->backend, w->parts->eval_graph, &options, &w->eval_net));
        nn_net_set_poll(w->eval_net, worker_attend, w);
    }
    return CVY_OK;
}

static cvy_status open_buffers(worker *w)
{
    const size_t size_bytes = (size_t)w->params->n_elems * sizeof(float);

    w->weights = w->backend->ops->alloc(w->backend, size_bytes);
    if (w->weights == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "weights: %zu bytes", size_bytes);
    CVY_RETURN_IF_ERR(w->backend->ops->fill(w->backend, w->params->n_elems, 0, w->weights));
    if (w->parts->optimizer == NULL) return CVY_OK;

    const nn_optimizer_ops *ops = nn_optimizer_get_ops(w->parts->optimizer);
    const comm_reducer_options options = {
        .n_elems = w->params->n_elems,
        .bucket_elems = w->job->bucket_kib * 1024 / (int64_t)sizeof(float),
        .n_replicas = w->job->replicas,
        .mode = w->job->reduce == CVY_REDUCE_NATIVE ? COMM_REDUCE_NATIVE : COMM_REDUCE_ORDERED};
    CVY_RETURN_IF_ERR(
        comm_reducer_create(w->workers, &options, worker_step_deadline(w), &w->reducer));
    const int64_t n_own = comm_reducer_own_elems(w->reducer);
    w->n_states = ops->n_states;
    for (int i = 0; i < w->n_states; i++) {
        w->state[i] = cvy_alloc_zero((size_t)n_own + 1, sizeof(float));
        if (w->state[i] == NULL)
            return CVY_FAIL(CVY_ERR_NO_MEMORY, "optimizer state: %lld floats", (long long)n_own);
    }
    if (worker_is_lead(w)) {
        CVY_RETURN_IF_ERR(
            worker_snapshot_create(w->params, w->n_states, ops->state_name, &w->snapshot));
    }
    return CVY_OK;
}

static cvy_status say_hello(worker *w)
{
    nn_graph *graph = w->parts->train_graph != NULL ? w->parts->train_graph : w->parts->eval_graph;
    comm_hello hello = {.threads = w->backend->n_threads,
                        .local_rank = comm_local_rank(w->workers, comm_rank(w->workers)),
                        .pid = (int64_t)getpid(),
                        .first_replica = w->first_replica,
                        .n_replicas = w->n_replicas,
                        .n_trainable = w->params->n_trainable,
                        .arena_bytes = 0,
                        .multiply_adds = nn_graph_multiply_adds(graph)};

    if (w->parts->train_store != NULL)
        hello.train_identity = dataset_store_info(w->parts->train_store)->identity;
    if (w->parts->val_store != NULL)
        hello.val_identity = dataset_store_info(w->parts->val_store)->identity;
    if (w->train_net != NULL) hello.arena_bytes += (int64_t)nn_net_arena_bytes(w->train_net);
    if (w->eval_net != NULL) hello.arena_bytes += (int64_t)nn_net_arena_bytes(w->eval_net);
    snprintf(hello.host, sizeof hello.host, "%s", comm_host(w->world, comm_rank(w->world)));
    snprintf(hello.backend, sizeof hello.backend, "%s", w->backend->ops->name);
    snprintf(hello.device, sizeof hello.device, "%s, %d thread%s", w->backend->ops->name,
             w->backend->n_threads, w->backend->n_threads == 1 ? "" : "s");
    return COMM_SEND(w->world, 0, COMM_HELLO, hello);
}

static cvy_status carry_out(worker *w, const worker_command *command)
{
    w->progress_at_s = cvy_clock_now_s();
    switch (command->kind) {
    case COMM_RESUME:
        return worker_resume(w, &command->body.resume);
    case COMM_TRAIN:
        return worker_train(w, &command->body.train);
    case COMM_SAVE:
        return worker_save(w, &command->body.save);
    default:
        return worker_evaluate(w, &command->body.evaluate);
    }
}

/* The main loop: at rest a worker listens and beats, with naps. */
static cvy_status serve(worker *w)
{
    double nap_s = 50e-6;

    for (;;) {
        CVY_RETURN_IF_ERR(worker_attend(w));
        if (w->n_pending > 0) {
            const worker_command command = w->pending[0];
            w->n_pending--;
            memmove(&w->pending[0], &w->pending[1], (size_t)w->n_pending * sizeof w->pending[0]);
            nap_s = 50e-6;
            CVY_RETURN_IF_ERR(carry_out(w, &command));
            worker_enter(w, COMM_PHASE_IDLE);
            continue;
        }
        cvy_clock_sleep_s(nap_s);
        if (nap_s < 1e-3) nap_s *= 1.5;
    }
}

/* Tell the coordinator why this worker must end, then wait for its word to all. */
static cvy_status give_up(worker *w, cvy_status why)
{
    comm_failed failed = {.status = why, .phase = w->pulse.beat.phase, .step = w->step};

    snprintf(failed.message, sizeof failed.message, "%s", cvy_status_text(why));
    if (COMM_SEND(w->world, 0, COMM_FAILED, failed) != CVY_OK) return why;
    const cvy_deadline deadline = cvy_deadline_in_s(5);
    while (!w->is_stopped && !cvy_deadline_is_past(deadline)) {
        comm_message message;
        int has = 0;
        if (comm_receive(w->world, &message, &has) != CVY_OK) break;
        if (has)
            hear(w, &message);
        else
            cvy_clock_sleep_s(1e-3);
    }
    return w->is_stopped && w->stop_status != CVY_OK ? w->stop_status : why;
}

static void close_worker(worker *w)
{
    worker_snapshot_destroy(&w->snapshot);
    dataset_loader_destroy(&w->loader);
    comm_reducer_destroy(&w->reducer);
    for (int i = 0; i < NN_OPTIMIZER_MAX_STATES; i++) cvy_free(w->state[i]);
    if (w->weights != NULL) w->backend->ops->release(w->backend, w->weights);
    nn_net_destroy(&w->eval_net);
    nn_net_destroy(&w->train_net);
    if (w->backend != NULL) nn_backend_close(&w->backend);
    worker_parts_destroy(&w->parts);
    cvy_free(w);
}

/* Once a second, or a tenth of a deadline that is shorter than the usual one. */
static double beat_interval_s(const cvy_job *job)
{
    const double tenth_s = job->deadline.step_s / 10;
    return tenth_s > 0 && tenth_s < 1 ? tenth_s : 1.0;
}

cvy_status worker_run(const worker_options *options, int *out_is_clean)
{
    cvy_status status = CVY_OK;
    worker *w = cvy_alloc_zero(1, sizeof *w);

    *out_is_clean = 0;

    if (w == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "worker");
    w->options = options;
    w->world = options->world;
    w->workers = options->workers;
    w->job = options->job;
    w->heard_at_s = cvy_clock_now_s();
    w->coordinator_phase = COMM_PHASE_START;
    comm_pulse_open(&w->pulse, w->world, beat_interval_s(w->job));
    worker_enter(w, COMM_PHASE_START);
    comm_set_idle(w->workers, worker_attend, w);
    comm_replica_range(w->job->replicas, comm_size(w->workers), comm_rank(w->workers),
                       &w->first_replica, &w->n_replicas);

    /* Setting up may fail on one rank alone: agree, so that all leave together. */
    status = open_nets(w);
    if (status == CVY_OK) {
        status = comm_agree(w->workers, CVY_OK, worker_deadline(w->job->deadline.start_s));
    } else {
        (void)comm_agree(w->workers, status, worker_deadline(w->job->deadline.start_s));
    }
    if (status == CVY_OK) status = open_buffers(w);
    if (status == CVY_OK) status = say_hello(w);
    if (status == CVY_OK) {
        worker_enter(w, COMM_PHASE_IDLE);
        status = serve(w);
    }
    /* A STOP at rest leaves nothing open. One in the middle of a command, a lost peer or a failure
     * may leave transfers open into these buffers: then they stay, and the process must go. So it
     * must while a checkpoint is being written, whose disk may hang. */
    *out_is_clean = w->is_stopped && w->pulse.beat.phase == COMM_PHASE_IDLE &&
                    !(w->snapshot != NULL && worker_snapshot_is_writing(w->snapshot));
    if (w->is_stopped)
        status = w->stop_status;
    else if (status != CVY_ERR_PEER_LOST)
        status = give_up(w, status);
    if (!*out_is_clean) return status;
    comm_set_idle(w->workers, NULL, NULL);
    close_worker(w);
    return status;
}
