#include "coordinator/coordinator.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "coordinator/coordinator_internal.h"
#include "coordinator/report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The life of a job. Messages are taken in by coordinator_pump(); here is what is asked for and
 * waited for, in order. */

#define RETRY_S 2.0 /* between tries of a last save */

/* --- Waits ----------------------------------------------------------------------------------- */

typedef int (*condition)(const coordinator *c);

static int all_have_hello(const coordinator *c)
{
    for (int i = 0; i < c->n_workers; i++)
        if (!c->worker[i].has_hello) return 0;
    return 1;
}

static int all_are_ready(const coordinator *c)
{
    for (int i = 0; i < c->n_workers; i++)
        if (!c->worker[i].is_ready) return 0;
    return 1;
}

static int all_are_trained(const coordinator *c)
{
    for (int i = 0; i < c->n_workers; i++)
        if (!c->worker[i].is_trained) return 0;
    return 1;
}

static int all_are_evaluated(const coordinator *c)
{
    for (int i = 0; i < c->n_workers; i++)
        if (!c->worker[i].is_evaluated) return 0;
    return 1;
}

static int save_is_over(const coordinator *c)
{
    return !c->is_saving;
}

static cvy_status wait_until(coordinator *c, condition is_met)
{
    c->nap_s = 100e-6;
    while (!is_met(c)) CVY_RETURN_IF_ERR(coordinator_pump(c));
    return CVY_OK;
}

/* --- The start ------------------------------------------------------------------------------- */

static cvy_status check_identity(const coordinator *c, int rank, const char *field, uint64_t theirs,
                                 uint64_t ours)
{
    char text[2][17];

    if (theirs == 0 || theirs == ours) return CVY_OK;
    cvy_hash_text(theirs, text[0]);
    cvy_hash_text(ours, text[1]);
    return CVY_FAIL(
        CVY_ERR_CONFIG,
        "rank %d on %s sees another dataset at %s (%s) than rank 0 on %s (%s): give all "
        "hosts the same data",
        rank, comm_host(c->world, rank), field, text[0], comm_host(c->world, 0), text[1]);
}

static cvy_status check_hellos(coordinator *c)
{
    json_t *workers = json_array();

    for (int i = 0; i < c->n_workers; i++) {
        const comm_hello *hello = &c->worker[i].hello;
        CVY_RETURN_IF_ERR(check_identity(c, i + 1, "data.train.path", hello->train_identity,
                                         c->parts->train_identity));
        CVY_RETURN_IF_ERR(
            check_identity(c, i + 1, "data.val.path", hello->val_identity, c->parts->val_identity));
        if (strcmp(hello->backend, c->worker[0].hello.backend) != 0) {
            return CVY_FAIL(CVY_ERR_CONFIG,
                            "rank %d on %s computes on %s, rank 1 on %s: name one in device", i + 1,
                            hello->host, hello->backend, c->worker[0].hello.backend);
        }
        (void)json_array_append_new(
            workers,
            json_pack("{s:i, s:s, s:I, s:s, s:i, s:I, s:I}", "rank", i + 1, "host", hello->host,
                      "pid", (json_int_t)hello->pid, "device", hello->device, "threads",
                      (int)hello->threads, "first_replica", (json_int_t)hello->first_replica,
                      "replicas", (json_int_t)hello->n_replicas));
    }
    const comm_hello *lead = &c->worker[0].hello;
    coordinator_event(c, json_pack("{s:s, s:o, s:s, s:I, s:I, s:I}", "event", "workers", "workers",
                                   workers, "transport", comm_transport(c->world), "parameters",
                                   (json_int_t)lead->n_trainable, "arena_bytes",
                                   (json_int_t)lead->arena_bytes, "multiply_adds",
                                   (json_int_t)lead->multiply_adds));
    return CVY_OK;
}

static void say_start(coordinator *c)
{
    const comm_hello *lead = &c->worker[0].hello;

    coordinator_event(
        c, json_pack("{s:s, s:i, s:I, s:i, s:s, s:s}", "event", c->step > 0 ? "resumed" : "start",
                     "attempt", c->options->attempt, "step", (json_int_t)c->step, "n_workers",
                     c->n_workers, "host", comm_host(c->world, 0), "version", CONVOY_VERSION));
    cvy_log_info("%s: %s, %lld parameters, %lld images, %d classes; %lld replicas of %lld on %d "
                 "worker%s (%s)",
                 c->job->name, c->parts->arch, (long long)lead->n_trainable,
                 (long long)c->parts->n_train, c->parts->n_classes, (long long)c->job->replicas,
                 (long long)c->job->minibatch, c->n_workers, c->n_workers == 1 ? "" : "s",
                 lead->device);
    if (c->step >= c->parts->total_steps)
        cvy_log_info("all %lld steps are done already: nothing is left to train",
                     (long long)c->parts->total_steps);
    else if (c->step > 0)
        cvy_log_info("going on from the checkpoint of step %lld of %lld", (long long)c->step,
                     (long long)c->parts->total_steps);
}

static cvy_status start_workers(coordinator *c, const comm_resume *resume)
{
    CVY_RETURN_IF_ERR(wait_until(c, all_have_hello));
    CVY_RETURN_IF_ERR(check_hellos(c));
    CVY_RETURN_IF_ERR(coordinator_send_all(c, COMM_RESUME, resume, sizeof *resume));
    comm_watchdog_expect(c->watchdog, COMM_PHASE_RESUME, cvy_clock_now_s());
    CVY_RETURN_IF_ERR(wait_until(c, all_are_ready));
    coordinator_enter(c, COMM_PHASE_IDLE);
    comm_watchdog_expect(c->watchdog, COMM_PHASE_IDLE, cvy_clock_now_s());
    return CVY_OK;
}

/* --- What is due ----------------------------------------------------------------------------- */

/* The first multiple of period (in steps, may be a fraction) beyond step, rounded up to a step;
 * INT64_MAX without a period. */
static int64_t next_multiple(double period, int64_t step)
{
    if (!(period > 0)) return INT64_MAX;
    double k = floor((double)step / period);
    while (ceil(k * period - 1e-9) <= (double)step) k += 1;
    return (int64_t)ceil(k * period - 1e-9);
}

static int is_multiple(double period, int64_t step)
{
    return step > 0 && next_multiple(period, step - 1) == step;
}

static double epochs_to_steps(const coordinator *c, double epochs)
{
    return epochs * (double)c->parts->steps_per_epoch;
}

static int64_t next_due_step(const coordinator *c)
{
    const double periods[] = {
        (double)c->job->checkpoint.every_steps,
        epochs_to_steps(c, c->job->checkpoint.every_epochs),
        c->parts->n_val > 0 ? (double)c->job->evaluate.every_steps : 0,
        c->parts->n_val > 0 ? epochs_to_steps(c, c->job->evaluate.every_epochs) : 0,
    };
    int64_t due = c->parts->total_steps;

    for (size_t i = 0; i < sizeof periods / sizeof periods[0]; i++) {
        const int64_t next = next_multiple(periods[i], c->step);
        if (next < due) due = next;
    }
    return due;
}

static char *evaluation_path(const coordinator *c)
{
    return cvy_text_format("%s/eval/" COORDINATOR_EVALUATION_NAME, c->job->run, (long long)c->step);
}

/* An evaluation that an earlier launch finished is not done again: what lies there is of the
 * weights that training goes on from, later ones were removed at the start. */
static int evaluation_is_due(const coordinator *c)
{
    if (c->parts->n_val == 0 || c->step == 0 || c->evaluated_step == c->step) return 0;
    if (c->step < c->parts->total_steps &&
        !is_multiple((double)c->job->evaluate.every_steps, c->step) &&
        !is_multiple(epochs_to_steps(c, c->job->evaluate.every_epochs), c->step)) {
        return 0;
    }
    char *path = evaluation_path(c);
    const int is_done = path != NULL && cvy_file_exists(path);
    cvy_free(path);
    return !is_done;
}

static int save_is_due(const coordinator *c, double now_s)
{
    const cvy_job_checkpoint *job = &c->job->checkpoint;

    if (c->step == 0 || c->saved_step == c->step || (c->is_saving && c->saving_step == c->step))
        return 0;
    return c->step >= c->parts->total_steps || is_multiple((double)job->every_steps, c->step) ||
           is_multiple(epochs_to_steps(c, job->every_epochs), c->step) ||
           (job->every_minutes > 0 && now_s - c->saved_at_s >= job->every_minutes * 60);
}

/* --- What is done ---------------------------------------------------------------------------- */

static cvy_status train_segment(coordinator *c)
{
    const comm_train train = {.until_step = next_due_step(c)};

    for (int i = 0; i < c->n_workers; i++) c->worker[i].is_trained = 0;
    c->is_training = 1;
    c->is_pause_sent = 0;
    CVY_RETURN_IF_ERR(coordinator_send_all(c, COMM_TRAIN, &train, sizeof train));
    comm_watchdog_expect(c->watchdog, COMM_PHASE_FORWARD, cvy_clock_now_s());
    CVY_RETURN_IF_ERR(wait_until(c, all_are_trained));
    c->is_training = 0;
    comm_watchdog_expect(c->watchdog, COMM_PHASE_IDLE, cvy_clock_now_s());
    coordinator_event(c, json_pack("{s:s, s:I}", "event", "trained", "step", (json_int_t)c->step));
    (void)cvy_fault_at("coordinator.segment", c->step, NULL);
    return CVY_OK;
}

/* Evaluate the weights that the workers hold. *out_is_whole is 0 when a stop cut it short. */
static cvy_status run_evaluation(coordinator *c, coordinator_evaluation_summary *summary,
                                 int *out_is_whole)
{
    const comm_evaluate evaluate = {.step = c->step};

    coordinator_evaluation_destroy(&c->evaluation);
    CVY_RETURN_IF_ERR(coordinator_evaluation_create(c->step, c->parts->n_val, c->parts->n_classes,
                                                    c->parts->class_names, &c->evaluation));
    for (int i = 0; i < c->n_workers; i++) c->worker[i].is_evaluated = 0;
    c->is_evaluating = 1;
    c->is_evaluation_left = c->is_pause_sent = 0;
    CVY_RETURN_IF_ERR(coordinator_send_all(c, COMM_EVALUATE, &evaluate, sizeof evaluate));
    comm_watchdog_expect(c->watchdog, COMM_PHASE_EVALUATE, cvy_clock_now_s());
    CVY_RETURN_IF_ERR(wait_until(c, all_are_evaluated));
    c->is_evaluating = 0;
    comm_watchdog_expect(c->watchdog, COMM_PHASE_IDLE, cvy_clock_now_s());
    *out_is_whole = !c->is_evaluation_left;
    if (c->is_evaluation_left) return CVY_OK;
    /* Millions of records, or a slow disk for the result, are no dead coordinator. */
    coordinator_enter(c, COMM_PHASE_SNAPSHOT);
    return coordinator_evaluation_finish(c->evaluation, c->job->evaluate.hardest, summary);
}

static void note_evaluation(const coordinator_evaluation_summary *summary, coordinator_result *out)
{
    out->has_evaluation = 1;
    out->n_records = summary->n_records - summary->n_bad;
    out->n_top1 = summary->n_top1;
    out->n_top5 = summary->n_top5;
    out->loss = summary->loss;
}

/* JSON has no NaN or infinity. */
static json_t *real_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static cvy_status evaluate_in_training(coordinator *c, coordinator_result *out)
{
    coordinator_evaluation_summary summary;
    int is_whole = 0;
    const double start_s = cvy_clock_now_s();

    CVY_RETURN_IF_ERR(run_evaluation(c, &summary, &is_whole));
    if (!is_whole) return CVY_OK;
    c->evaluated_step = c->step;
    note_evaluation(&summary, out);
    char *path = evaluation_path(c);
    if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of an evaluation");
    cvy_log_soften(1);
    const cvy_status status = coordinator_evaluation_write(c->evaluation, path);
    cvy_log_soften(-1);
    cvy_free(path);
    coordinator_enter(c, COMM_PHASE_IDLE);
    if (status != CVY_OK)
        cvy_log_warn("the evaluation of step %lld was not written: training goes on",
                     (long long)c->step);
    cvy_log_info("epoch %.2f, step %lld: validation loss %.4f, top-1 %.2f %% (%lld of %lld), top-5 "
                 "%.2f %%",
                 (double)c->step / (double)c->parts->steps_per_epoch, (long long)c->step,
                 summary.loss, 100 * summary.top1, (long long)summary.n_top1,
                 (long long)(summary.n_records - summary.n_bad), 100 * summary.top5);
    coordinator_event(c, json_pack("{s:s, s:I, s:o, s:o, s:o, s:f}", "event", "evaluated", "step",
                                   (json_int_t)c->step, "loss", real_or_null(summary.loss), "top1",
                                   real_or_null(summary.top1), "top5", real_or_null(summary.top5),
                                   "seconds", cvy_clock_now_s() - start_s));
    return CVY_OK;
}

static cvy_status save_now(coordinator *c)
{
    CVY_RETURN_IF_ERR(wait_until(c, save_is_over)); /* of an earlier step */
    if (c->saved_step == c->step) return CVY_OK;
    return coordinator_begin_save(c);
}

/* A final save that failed gets the tries it has left, so that the work is not lost; the disk gets
 * some time between them. */
static cvy_status save_at_last(coordinator *c)
{
    for (int n_tries = 0; c->saved_step != c->step; n_tries++) {
        const cvy_deadline pause = cvy_deadline_in_s(n_tries > 0 ? RETRY_S : 0);
        while (!cvy_deadline_is_past(pause)) CVY_RETURN_IF_ERR(coordinator_pump(c));
        CVY_RETURN_IF_ERR(save_now(c));
        CVY_RETURN_IF_ERR(wait_until(c, save_is_over));
    }
    return CVY_OK;
}

/* The report is written while the workers wait: a rank that left would look like a dead one. One
 * that cannot be written costs the job nothing. */
static void write_report(coordinator *c)
{
    const char *run = c->job->run;

    coordinator_progress_destroy(&c->progress);
    coordinator_enter(c, COMM_PHASE_SNAPSHOT);
    if (coordinator_report_write(run) == CVY_OK) cvy_log_info("report: %s/report.html", run);
}

static cvy_status stop_politely(coordinator *c)
{
    if (c->step > 0) CVY_RETURN_IF_ERR(save_now(c));
    CVY_RETURN_IF_ERR(wait_until(c, save_is_over));
    if (c->step > 0 && c->saved_step != c->step) {
        return CVY_FAIL(CVY_ERR_CANNOT_WRITE,
                        "stopping at step %lld, whose checkpoint could not be saved: the newest is "
                        "of step %lld",
                        (long long)c->step, (long long)c->saved_step);
    }
    coordinator_event(c, json_pack("{s:s, s:I, s:i}", "event", "stopped", "step",
                                   (json_int_t)c->step, "signal", c->stop_signal));
    cvy_log_info("stopped at step %lld of %lld%s: start the same job again to go on",
                 (long long)c->step, (long long)c->parts->total_steps,
                 c->step > 0 ? ", saved" : "");
    write_report(c);
    return CVY_ERR_STOPPED;
}

static cvy_status train(coordinator *c, coordinator_result *out)
{
    comm_resume resume;

    CVY_RETURN_IF_ERR(coordinator_open_run(c, &resume));
    CVY_RETURN_IF_ERR(start_workers(c, &resume));
    say_start(c);
    c->saved_at_s = cvy_clock_now_s();
    for (;;) {
        if (c->is_stop_wanted) return stop_politely(c);
        if (save_is_due(c, cvy_clock_now_s())) CVY_RETURN_IF_ERR(save_now(c));
        if (evaluation_is_due(c)) {
            CVY_RETURN_IF_ERR(evaluate_in_training(c, out));
            continue; /* a stop may have come meanwhile */
        }
        if (c->step >= c->parts->total_steps) break;
        CVY_RETURN_IF_ERR(train_segment(c));
        out->step = c->step;
    }
    CVY_RETURN_IF_ERR(wait_until(c, save_is_over));
    CVY_RETURN_IF_ERR(save_at_last(c));
    coordinator_event(c, json_pack("{s:s, s:I}", "event", "finished", "step", (json_int_t)c->step));
    write_report(c);
    return CVY_OK;
}

/* --- Evaluating only ------------------------------------------------------------------------- */

static cvy_status find_weights(coordinator *c, comm_resume *out)
{
    const char *path = c->options->evaluate_checkpoint;
    struct stat about;
    char *folder = NULL;
    coordinator_state state;

    *out = (comm_resume){.weights_only = 1};
    if (strlen(path) >= sizeof out->folder)
        return CVY_FAIL(CVY_ERR_CONFIG, "the path of the checkpoint is too long: %s", path);
    if (stat(path, &about) == 0 && S_ISREG(about.st_mode)) {
        snprintf(out->folder, sizeof out->folder, "%s", path);
        return CVY_OK;
    }
    CVY_RETURN_IF_ERR(coordinator_checkpoint_locate(path, &folder, &state));
    out->step = c->step = state.step;
    snprintf(out->folder, sizeof out->folder, "%s", folder);
    cvy_free(folder);
    return CVY_OK;
}

static cvy_status evaluate_only(coordinator *c, coordinator_result *out)
{
    comm_resume resume;
    coordinator_evaluation_summary summary;
    int is_whole = 0;

    CVY_RETURN_IF_ERR(find_weights(c, &resume));
    CVY_RETURN_IF_ERR(start_workers(c, &resume));
    if (c->is_stop_wanted) return CVY_ERR_STOPPED;
    CVY_RETURN_IF_ERR(run_evaluation(c, &summary, &is_whole));
    if (!is_whole) return CVY_ERR_STOPPED;
    note_evaluation(&summary, out);
    CVY_RETURN_IF_ERR(coordinator_evaluation_json(c->evaluation, &out->evaluation_json));
    if (c->options->evaluate_out == NULL) return CVY_OK;
    return coordinator_evaluation_write(c->evaluation, c->options->evaluate_out);
}

/* --- Open, close ----------------------------------------------------------------------------- */

static cvy_status open_bad(coordinator_bad *bad, int64_t n_records)
{
    bad->n_records = n_records;
    bad->seen = cvy_alloc_zero((size_t)n_records / 8 + 1, 1);
    return bad->seen != NULL ? CVY_OK : CVY_FAIL(CVY_ERR_NO_MEMORY, "marks of bad records");
}

static cvy_status open_coordinator(coordinator *c, const coordinator_options *options)
{
    const cvy_job_deadline *deadline = &options->job->deadline;
    const comm_watchdog_options watchdog = {.n_ranks = comm_size(options->world),
                                            .step_s = deadline->step_s,
                                            .start_s = deadline->start_s,
                                            .evaluate_s = deadline->evaluate_s,
                                            .save_s = deadline->save_s};

    *c = (coordinator){.options = options,
                       .world = options->world,
                       .job = options->job,
                       .parts = options->parts,
                       .n_workers = comm_size(options->world) - 1,
                       .phase = COMM_PHASE_START,
                       .lock_fd = -1,
                       .log_fd = -1,
                       .saved_step = -1,
                       .evaluated_step = -1};
    c->worker = cvy_alloc_zero((size_t)c->n_workers, sizeof *c->worker);
    if (c->worker == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "%d workers", c->n_workers);
    CVY_RETURN_IF_ERR(open_bad(&c->bad[0], c->parts->n_train));
    CVY_RETURN_IF_ERR(open_bad(&c->bad[1], c->parts->n_val));
    CVY_RETURN_IF_ERR(comm_watchdog_create(&watchdog, cvy_clock_now_s(), &c->watchdog));
    comm_watchdog_expect(c->watchdog, COMM_PHASE_START, cvy_clock_now_s());
    return CVY_OK;
}

static void close_coordinator(coordinator *c)
{
    if (c->is_saving && c->checkpoints != NULL) coordinator_checkpoints_discard(c->checkpoints);
    coordinator_progress_destroy(&c->progress);
    coordinator_evaluation_destroy(&c->evaluation);
    coordinator_records_close(&c->events);
    coordinator_records_close(&c->metrics);
    coordinator_checkpoints_close(&c->checkpoints);
    cvy_log_copy_to(-1);
    if (c->log_fd >= 0) (void)close(c->log_fd);
    cvy_file_unlock(&c->lock_fd);
    comm_watchdog_destroy(&c->watchdog);
    for (int i = 0; i < 2; i++) cvy_free(c->bad[i].seen);
    cvy_free(c->worker);
}

/* Everyone leaves with the same status. A job whose peer is lost cannot be told. */
static void dismiss(coordinator *c, cvy_status status)
{
    const comm_stop stop = {.status = status};

    if (status == CVY_ERR_PEER_LOST) return;
    if (coordinator_send_all(c, COMM_STOP, &stop, sizeof stop) != CVY_OK) return;
    (void)comm_flush(c->world, cvy_deadline_in_s(2));
}

cvy_status coordinator_run(const coordinator_options *options, coordinator_result *out)
{
    coordinator c;
    const int is_evaluation = options->evaluate_checkpoint != NULL;

    *out = (coordinator_result){.step = 0};
    cvy_status status = open_coordinator(&c, options);
    if (status == CVY_OK) status = is_evaluation ? evaluate_only(&c, out) : train(&c, out);
    out->step = c.step;
    if (status != CVY_OK && status != CVY_ERR_STOPPED) {
        coordinator_event(&c, json_pack("{s:s, s:I, s:s}", "event", "failed", "step",
                                        (json_int_t)c.step, "status", cvy_status_text(status)));
    }
    dismiss(&c, status);
    close_coordinator(&c);
    return status;
}
