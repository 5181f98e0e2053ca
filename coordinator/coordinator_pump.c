#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/coordinator_internal.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Naps between looks at the transport: short after a message, then so long that an idle coordinator
 * costs next to nothing. */
#define NAP_MIN_S 100e-6
#define NAP_MAX_S 10e-3
#define BEAT_S    1.0
#define WATCH_S   0.05 /* between looks at who is silent, also while messages pour in */
/* Messages taken before the other duties get their turn: thousands of workers may send without end,
 * and must hear from the coordinator nevertheless. */
#define MAX_TAKEN 1024

void coordinator_event(coordinator *c, json_t *event)
{
    if (c->events != NULL && event != NULL)
        coordinator_records_append(c->events, event);
    else
        json_decref(event);
}

cvy_status coordinator_send_all(coordinator *c, int kind, const void *payload, size_t size_bytes)
{
    for (int rank = 1; rank <= c->n_workers; rank++)
        CVY_RETURN_IF_ERR(comm_send(c->world, rank, kind, payload, size_bytes));
    return CVY_OK;
}

static cvy_status beat(coordinator *c, double now_s)
{
    const comm_heartbeat told = {.phase = c->phase, .step = c->step};

    c->beat_at_s = now_s;
    return coordinator_send_all(c, COMM_HEARTBEAT, &told, sizeof told);
}

void coordinator_enter(coordinator *c, comm_phase phase)
{
    c->phase = phase;
    /* A send that fails shows up at the next wait. */
    (void)beat(c, cvy_clock_now_s());
}

/* The worker whose computing took longest in its last step, if it is worth naming. */
static void find_slowest(const coordinator *c, int *out_rank, double *out_by)
{
    enum { MAX_COMPARED = 1024 };
    double slowest_s = 0, sum_s = 0;
    const int n = c->n_workers < MAX_COMPARED ? c->n_workers : MAX_COMPARED;

    *out_rank = 0;
    *out_by = 0;
    for (int rank = 1; rank <= n; rank++) {
        const comm_heartbeat *last = comm_watchdog_last(c->watchdog, rank);
        if (last == NULL || last->busy_s <= 0) return;
        /* Per replica: a worker with more replicas is not slow. */
        const int64_t n_replicas = c->worker[rank - 1].hello.n_replicas;
        const double busy_s = last->busy_s / (double)(n_replicas > 0 ? n_replicas : 1);
        sum_s += busy_s;
        if (busy_s <= slowest_s) continue;
        slowest_s = busy_s;
        *out_rank = rank;
    }
    if (n < 2) {
        *out_rank = 0;
        return;
    }
    const double others_s = (sum_s - slowest_s) / (n - 1);
    *out_by = others_s > 0 ? slowest_s / others_s - 1 : 0;
}

static json_t *worker_times(const coordinator *c)
{
    enum { MAX_LISTED = 64 };
    json_t *times = json_array();
    const int n = c->n_workers < MAX_LISTED ? c->n_workers : MAX_LISTED;

    for (int rank = 1; rank <= n; rank++) {
        const comm_heartbeat *last = comm_watchdog_last(c->watchdog, rank);
        (void)json_array_append_new(times, json_real(last != NULL ? (double)last->busy_s : 0.0));
    }
    return times;
}

/* JSON has no NaN or infinity. */
static json_t *real_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static void hear_metrics(coordinator *c, const comm_metrics *m)
{
    int slowest_rank = 0;
    double slowest_by = 0;

    c->last_metrics = *m;
    c->n_skipped = c->n_skipped_before + m->n_skipped;
    find_slowest(c, &slowest_rank, &slowest_by);
    if (c->progress != NULL) {
        const char *host = slowest_rank > 0 ? comm_host(c->world, slowest_rank) : NULL;
        coordinator_progress_update(c->progress, m, slowest_rank, host, slowest_by,
                                    cvy_clock_now_s());
    }
    if (c->metrics == NULL) return;
    const double n = (double)m->n_samples, n_counted = (double)m->n_counted;
    coordinator_records_append(
        c->metrics,
        json_pack(
            "{s:I, s:f, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:o}",
            "step", (json_int_t)m->step, "epoch",
            (double)m->step / (double)c->parts->steps_per_epoch, "steps", (json_int_t)m->n_steps,
            "loss", real_or_null(m->loss), "top1", real_or_null(m->n_top1 / n_counted), "top5",
            real_or_null(m->n_top5 / n_counted), "lr", real_or_null(m->lr), "images_per_s",
            real_or_null(n / m->seconds), "step_time_s",
            real_or_null(m->seconds / (double)m->n_steps), "data_wait_s", m->data_wait_s,
            "compute_s", m->compute_s, "reduce_s", m->reduce_s, "update_s", m->update_s,
            "reduce_bytes", (json_int_t)m->reduce_bytes, "skipped", (json_int_t)c->n_skipped,
            "allocations", (json_int_t)m->n_allocations, "worker_step_times_s", worker_times(c)));
}

static cvy_status hear_bad_record(coordinator *c, const comm_bad_record *bad)
{
    const int which = bad->is_val != 0;
    coordinator_bad *known = &c->bad[which];
    const char *path = which ? c->job->data.val.path : c->job->data.train.path;

    if (bad->record < 0 || bad->record >= known->n_records) return CVY_OK;
    uint8_t *byte = &known->seen[bad->record / 8];
    const uint8_t bit = (uint8_t)(1u << (bad->record % 8));
    if (*byte & bit) return CVY_OK;
    *byte |= bit;
    known->n++;
    coordinator_event(c, json_pack("{s:s, s:s, s:I, s:s}", "event", "bad_record", "dataset", path,
                                   "record", (json_int_t)bad->record, "reason", bad->reason));
    if (c->job->data.on_bad_record == 1) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: record %lld: %s (data.on_bad_record is fail)", path,
                        (long long)bad->record, bad->reason);
    }
    cvy_log_warn("%s: record %lld: %s; %s (%lld bad so far)", path, (long long)bad->record,
                 bad->reason, which ? "left out" : "the next good one is used",
                 (long long)known->n);
    const double limit = c->job->data.max_bad_fraction * (double)known->n_records;
    if ((double)known->n <= limit) return CVY_OK;
    return CVY_FAIL(CVY_ERR_BAD_DATA,
                    "%s: %lld of %lld records are bad, data.max_bad_fraction allows %g of them: "
                    "mend the dataset, or raise that",
                    path, (long long)known->n, (long long)known->n_records,
                    c->job->data.max_bad_fraction);
}

static cvy_status hear_trained(coordinator *c, coordinator_worker *from,
                               const comm_trained *trained)
{
    from->is_trained = 1;
    c->step = trained->step;
    return (cvy_status)trained->status;
}

/* The worker logged why; the run's own log gets who. */
static cvy_status hear_failed(const coordinator *c, int rank, const comm_failed *failed)
{
    cvy_log_info("rank %d on %s must end, in phase %s at step %lld: %.*s", rank,
                 comm_host(c->world, rank), comm_phase_text((comm_phase)failed->phase),
                 (long long)failed->step, (int)sizeof failed->message, failed->message);
    return failed->status < 0 ? (cvy_status)failed->status : CVY_ERR_INTERNAL;
}

static cvy_status hear_results(coordinator *c, const comm_message *message)
{
    const size_t n = message->size_bytes / sizeof(comm_result);

    if (c->evaluation == NULL || message->size_bytes % sizeof(comm_result) != 0)
        return CVY_FAIL(CVY_ERR_INTERNAL, "rank %d: results out of turn", message->source);
    return coordinator_evaluation_add(c->evaluation, message->payload, (int64_t)n);
}

static void hear_signal(coordinator *c, int rank, int signal_number)
{
    if (c->is_stop_wanted) return;
    c->is_stop_wanted = 1;
    c->stop_signal = signal_number;
    c->stop_rank = rank;
    if (signal_number == SIGCONT) { /* mpirun's first word when it ends a job */
        cvy_log_info(
            "mpirun ends the job, as told or because a rank died (SIGCONT to rank %d on %s)", rank,
            comm_host(c->world, rank));
        return;
    }
    const char *name = sigabbrev_np(signal_number);
    cvy_log_info("asked to stop (SIG%s to rank %d on %s): finishing this step and saving",
                 name != NULL ? name : "?", rank, comm_host(c->world, rank));
}

/* One message; the sizes of fixed payloads are checked here once. */
static cvy_status hear(coordinator *c, const comm_message *message)
{
    if (message->source < 1 || message->source > c->n_workers) return CVY_OK;
    coordinator_worker *from = &c->worker[message->source - 1];
    const double now_s = cvy_clock_now_s();

    comm_watchdog_hear(c->watchdog, message->source,
                       message->kind == COMM_HEARTBEAT ? COMM_AS(comm_heartbeat, message) : NULL,
                       now_s);
#define CASE(kind, type, ...)                                                                      \
    case kind: {                                                                                   \
        const type *body = COMM_AS(type, message);                                                 \
        if (body == NULL) break;                                                                   \
        __VA_ARGS__;                                                                               \
        return CVY_OK;                                                                             \
    }
    switch (message->kind) {
        CASE(COMM_HEARTBEAT, comm_heartbeat, (void)body)
        CASE(COMM_HELLO, comm_hello, from->hello = *body, from->has_hello = 1)
        CASE(COMM_METRICS, comm_metrics, hear_metrics(c, body))
        CASE(COMM_TRAINED, comm_trained, CVY_RETURN_IF_ERR(hear_trained(c, from, body)))
        CASE(COMM_SAVED, comm_saved, CVY_RETURN_IF_ERR(coordinator_end_save(c, body)))
        CASE(COMM_BAD_RECORD, comm_bad_record, CVY_RETURN_IF_ERR(hear_bad_record(c, body)))
        CASE(COMM_SIGNALLED, comm_signalled, hear_signal(c, message->source, body->signal))
        CASE(COMM_EVALUATED, comm_evaluated, from->is_evaluated = 1,
             c->is_evaluation_left |= body->status != CVY_OK)
        CASE(COMM_FAILED, comm_failed, return hear_failed(c, message->source, body))
    case COMM_READY:
        from->is_ready = 1;
        return CVY_OK;
    case COMM_RESULTS:
        return hear_results(c, message);
    default:
        break;
    }
#undef CASE
    return CVY_FAIL(CVY_ERR_INTERNAL, "rank %d: message %d of %zu bytes is not understood",
                    message->source, message->kind, message->size_bytes);
}

static cvy_status watch(coordinator *c, double now_s)
{
    comm_silent silent;

    if (!comm_watchdog_check(c->watchdog, now_s, &silent)) return CVY_OK;
    const char *host = comm_host(c->world, silent.rank);
    coordinator_event(c,
                      json_pack("{s:s, s:i, s:s, s:s, s:I, s:f}", "event", "silent", "rank",
                                silent.rank, "host", host, "phase", comm_phase_text(silent.phase),
                                "step", (json_int_t)silent.step, "silent_s", silent.silent_s));
    return CVY_FAIL(CVY_ERR_PEER_LOST,
                    "rank %d on %s %s for %.1f s in phase %s at step %lld (deadline %.1f s): the "
                    "job goes on from its newest checkpoint",
                    silent.rank, host, silent.is_stuck ? "has not moved" : "silent",
                    silent.silent_s, comm_phase_text(silent.phase), (long long)silent.step,
                    comm_watchdog_deadline_s(c->watchdog));
}

static cvy_status watch_signals(coordinator *c)
{
    const int signal_number = (int)*c->options->signal;

    if (signal_number != 0) hear_signal(c, 0, signal_number);
    if (*c->options->n_signals < 2) return CVY_OK;
    cvy_log_warn("a second signal: leaving at once; the newest checkpoint is of step %lld",
                 (long long)c->saved_step);
    return CVY_ERR_STOPPED;
}

/* A stop, or a checkpoint that is due by time, ends the segment or evaluation that is running. */
static cvy_status pause_if_due(coordinator *c, double now_s)
{
    const double every_s = c->job->checkpoint.every_minutes * 60;
    const int is_save_due = c->is_training && every_s > 0 && !c->is_saving &&
                            now_s - c->saved_at_s >= every_s;

    if (c->is_pause_sent || !(c->is_training || c->is_evaluating)) return CVY_OK;
    if (!c->is_stop_wanted && !is_save_due) return CVY_OK;
    c->is_pause_sent = 1;
    /* In training the lead worker hands it on with the next reduction. */
    if (c->is_training) return comm_send(c->world, 1, COMM_PAUSE, NULL, 0);
    return coordinator_send_all(c, COMM_PAUSE, NULL, 0);
}

/* The lead worker writes in the background, so that no phase tells of a file system that hangs. */
static cvy_status watch_save(const coordinator *c, double now_s)
{
    const double limit_s = c->job->deadline.save_s;

    if (!c->is_saving || now_s - c->saving_since_s <= limit_s) return CVY_OK;
    return CVY_FAIL(
        CVY_ERR_IO,
        "the checkpoint of step %lld is not written after %.0f s (deadline.save_s): the "
        "file system of %s hangs; the newest checkpoint is of step %lld",
        (long long)c->saving_step, now_s - c->saving_since_s, c->job->run,
        (long long)(c->saved_step > 0 ? c->saved_step : 0));
}

cvy_status coordinator_pump(coordinator *c)
{
    comm_message message;
    int n_heard = 0, has = 0;

    do {
        CVY_RETURN_IF_ERR(comm_receive(c->world, &message, &has));
        if (!has) break;
        CVY_RETURN_IF_ERR(hear(c, &message));
    } while (++n_heard < MAX_TAKEN);
    const double now_s = cvy_clock_now_s();
    if (now_s - c->beat_at_s >= BEAT_S) CVY_RETURN_IF_ERR(beat(c, now_s));
    CVY_RETURN_IF_ERR(watch_signals(c));
    CVY_RETURN_IF_ERR(pause_if_due(c, now_s));
    /* Only when all is read can anyone be called silent. */
    if (!has && now_s - c->watched_at_s >= WATCH_S) {
        c->watched_at_s = now_s;
        CVY_RETURN_IF_ERR(watch(c, now_s));
        CVY_RETURN_IF_ERR(watch_save(c, now_s));
    }
    if (n_heard > 0) {
        c->nap_s = NAP_MIN_S;
        return CVY_OK;
    }
    cvy_clock_sleep_s(c->nap_s);
    if (c->nap_s < NAP_MAX_S) c->nap_s *= 1.5;
    return CVY_OK;
}
