#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "coordinator/coordinator_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The run folder: lock, log, resolved job, where training goes on, saves. */

static cvy_status open_log(coordinator *c, const char *run)
{
    char *path = cvy_path_join(run, "convoy.log");

    if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of the log");
    c->log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0666);
    const int error = errno;
    cvy_status status = CVY_OK;
    if (c->log_fd >= 0)
        cvy_log_copy_to(c->log_fd);
    else
        status = CVY_FAIL(CVY_ERR_CANNOT_WRITE, "open %s: %s", path, strerror(error));
    cvy_free(path);
    return status;
}

static cvy_status lock_run(coordinator *c, const char *run)
{
    char *path = cvy_path_join(run, "lock");

    if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of the lock");
    const cvy_status status = cvy_file_lock(path, &c->lock_fd);
    cvy_free(path);
    return status;
}

static cvy_status write_job(coordinator *c, const char *run)
{
    char *path = cvy_path_join(run, "job.yaml");
    char *text = NULL;
    cvy_status status = CVY_OK;

    if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of the job");
    CVY_GOTO_IF_ERR(done, status, cvy_node_print(c->options->root, &text));
    status = cvy_file_replace(path, text, strlen(text));

done:
    cvy_free(text);
    cvy_free(path);
    return status;
}

/* Two checkpoints must fit before anything is trained. */
static cvy_status check_space(const coordinator *c, const char *run)
{
    uint64_t free_bytes = 0;
    const uint64_t need = 2 * (uint64_t)c->parts->checkpoint_bytes;

    CVY_RETURN_IF_ERR(cvy_file_free_bytes(run, &free_bytes));
    if (free_bytes >= need) return CVY_OK;
    return CVY_FAIL(CVY_ERR_CANNOT_WRITE,
                    "%s: %llu bytes are free, two checkpoints need %llu: make room or give another "
                    "run folder",
                    run, (unsigned long long)free_bytes, (unsigned long long)need);
}

/* What a checkpoint's job has that this one has not, by the resolved job that its run left. */
static cvy_status refuse_other_job(const coordinator *c, const char *folder)
{
    char difference[320] = "";
    cvy_node *then = NULL;
    char *path = cvy_path_join(c->job->run, "job.yaml");

    if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of the job");
    cvy_log_soften(1);
    if (cvy_file_exists(path) && cvy_node_parse_file(path, &then) == CVY_OK)
        (void)cvy_job_difference(c->options->root, then, difference, sizeof difference);
    cvy_log_soften(-1);
    cvy_node_destroy(&then);
    cvy_free(path);
    return CVY_FAIL(CVY_ERR_BAD_DATA,
                    "%s was made by another job (%s): give another run folder; its weights can be "
                    "started from with init_from",
                    folder, difference[0] != '\0' ? difference : "their digests differ");
}

static cvy_status check_state(const coordinator *c, const char *folder,
                              const coordinator_state *state)
{
    uint64_t digest = 0;
    char then[17], now[17];

    CVY_RETURN_IF_ERR(cvy_job_digest(c->options->root, &digest));
    if (state->job_digest != digest) return refuse_other_job(c, folder);
    if (state->data_identity != c->parts->train_identity) {
        cvy_hash_text(state->data_identity, then);
        cvy_hash_text(c->parts->train_identity, now);
        return CVY_FAIL(CVY_ERR_BAD_DATA,
                        "%s was made with another training set (%s, %s has %s): give another run "
                        "folder",
                        folder, then, c->job->data.train.path, now);
    }
    if (state->step > c->parts->total_steps) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s is of step %lld, beyond the job's end at %lld",
                        folder, (long long)state->step, (long long)c->parts->total_steps);
    }
    return CVY_OK;
}

static cvy_status find_start(coordinator *c, comm_resume *out)
{
    const char *folder = NULL;
    coordinator_state state;

    *out = (comm_resume){.step = 0};
    const cvy_status status = coordinator_checkpoints_newest(c->checkpoints, &folder, &state);
    if (status == CVY_ERR_BAD_DATA && c->options->is_from_scratch) {
        cvy_log_warn("%s: no checkpoint is whole, starting from scratch as asked", c->job->run);
        return CVY_OK;
    }
    CVY_RETURN_IF_ERR(status);
    if (folder == NULL) return CVY_OK;
    CVY_RETURN_IF_ERR(check_state(c, folder, &state));
    out->step = c->step = c->saved_step = state.step;
    c->n_skipped = c->n_skipped_before = state.n_skipped;
    snprintf(out->folder, sizeof out->folder, "%s", folder);
    return CVY_OK;
}

static cvy_status open_records(coordinator *c, const char *run)
{
    char *metrics = cvy_path_join(run, "metrics.jsonl");
    char *events = cvy_path_join(run, "events.jsonl");
    char *evaluations = cvy_path_join(run, "eval");
    cvy_status status = CVY_OK;

    if (metrics == NULL || events == NULL || evaluations == NULL) {
        status = CVY_FAIL(CVY_ERR_NO_MEMORY, "paths of the run's records");
        goto done;
    }
    CVY_GOTO_IF_ERR(done, status, coordinator_evaluations_drop_after(evaluations, c->step));
    CVY_GOTO_IF_ERR(done, status, coordinator_records_open(metrics, c->step, &c->metrics));
    status = coordinator_records_open(events, -1, &c->events);

done:
    cvy_free(evaluations);
    cvy_free(events);
    cvy_free(metrics);
    return status;
}

cvy_status coordinator_open_run(coordinator *c, comm_resume *out_resume)
{
    const char *run = c->job->run;
    char *evaluations = cvy_path_join(run, "eval");

    if (evaluations == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of evaluations");
    const cvy_status made = cvy_file_make_folders(evaluations);
    cvy_free(evaluations);
    CVY_RETURN_IF_ERR(made);
    CVY_RETURN_IF_ERR(lock_run(c, run));
    CVY_RETURN_IF_ERR(open_log(c, run));
    CVY_RETURN_IF_ERR(check_space(c, run));
    CVY_RETURN_IF_ERR(coordinator_checkpoints_open(run, c->job->checkpoint.keep, &c->checkpoints));
    CVY_RETURN_IF_ERR(find_start(c, out_resume));
    CVY_RETURN_IF_ERR(write_job(c, run));
    CVY_RETURN_IF_ERR(open_records(c, run));
    const coordinator_progress_options options = {.total_steps = c->parts->total_steps,
                                                  .steps_per_epoch = c->parts->steps_per_epoch,
                                                  .global_batch = c->parts->global_batch,
                                                  .columns = c->options->columns};
    return coordinator_progress_create(&options, &c->progress);
}

/* A save failed: training goes on unless that was one too many. */
static cvy_status count_failed_save(coordinator *c, const char *why, cvy_status status)
{
    if (why[0] == '\0') why = cvy_status_text(status);
    c->n_failed_saves++;
    c->saved_at_s = cvy_clock_now_s(); /* the next one is tried at its own time */
    coordinator_event(c, json_pack("{s:s, s:I, s:s}", "event", "save_failed", "step",
                                   (json_int_t)c->saving_step, "reason", why));
    if (c->n_failed_saves < c->job->checkpoint.max_failed) {
        cvy_log_warn("the checkpoint of step %lld was not saved: %s; training goes on (failure %d "
                     "in a row, at most %lld; the newest checkpoint is of step %lld)",
                     (long long)c->saving_step, why, c->n_failed_saves,
                     (long long)c->job->checkpoint.max_failed - 1,
                     (long long)(c->saved_step > 0 ? c->saved_step : 0));
        return CVY_OK;
    }
    return CVY_FAIL(CVY_ERR_CANNOT_WRITE,
                    "the checkpoint of step %lld was not saved: %s; that was failure %d in a row, "
                    "checkpoint.max_failed is %lld: make room and start again",
                    (long long)c->saving_step, why, c->n_failed_saves,
                    (long long)c->job->checkpoint.max_failed);
}

cvy_status coordinator_begin_save(coordinator *c)
{
    const char *folder = NULL;
    comm_save save = {.step = c->step};
    char why[sizeof((comm_saved){0}).message];

    c->saving_step = c->step;
    cvy_log_catch(why, sizeof why);
    const cvy_status status = coordinator_checkpoints_begin(c->checkpoints, c->step, &folder);
    cvy_log_catch(NULL, 0);
    if (status != CVY_OK) return count_failed_save(c, why, status);
    c->is_saving = 1;
    c->saving_since_s = cvy_clock_now_s();
    snprintf(save.folder, sizeof save.folder, "%s", folder);
    return coordinator_send_all(c, COMM_SAVE, &save, sizeof save);
}

static cvy_status publish(coordinator *c, const comm_saved *saved)
{
    coordinator_state state = {.step = saved->step,
                               .position = saved->step * c->parts->global_batch,
                               .epoch = (double)saved->step / (double)c->parts->steps_per_epoch,
                               .n_skipped = c->n_skipped,
                               .seed = c->job->seed,
                               .replicas = c->job->replicas,
                               .minibatch = c->job->minibatch,
                               .n_records = c->parts->n_train,
                               .data_identity = c->parts->train_identity,
                               .model_bytes = saved->model_bytes,
                               .model_hash = saved->model_hash,
                               .optimizer_bytes = saved->optimizer_bytes,
                               .optimizer_hash = saved->optimizer_hash,
                               .n_classes = c->parts->n_classes};

    CVY_RETURN_IF_ERR(cvy_job_digest(c->options->root, &state.job_digest));
    snprintf(state.arch, sizeof state.arch, "%s", c->parts->arch);
    snprintf(state.device, sizeof state.device, "%s", c->worker[0].hello.backend);
    snprintf(state.convoy_version, sizeof state.convoy_version, "%s", CONVOY_VERSION);
    cvy_clock_wall_text(state.written_at);
    return coordinator_checkpoints_publish(c->checkpoints, &state);
}

cvy_status coordinator_end_save(coordinator *c, const comm_saved *saved)
{
    const double start_s = cvy_clock_now_s();

    if (!c->is_saving || saved->step != c->saving_step)
        return CVY_FAIL(CVY_ERR_INTERNAL, "step %lld was saved unasked", (long long)saved->step);
    c->is_saving = 0;
    if (saved->status != CVY_OK) {
        coordinator_checkpoints_discard(c->checkpoints);
        return count_failed_save(c, saved->message, (cvy_status)saved->status);
    }
    const comm_phase phase = c->phase;
    coordinator_enter(c, COMM_PHASE_SNAPSHOT); /* a slow disk is not a dead coordinator */
    char why[sizeof saved->message];
    cvy_log_catch(why, sizeof why);
    const cvy_status status = publish(c, saved);
    cvy_log_catch(NULL, 0);
    coordinator_enter(c, phase);
    if (status != CVY_OK) return count_failed_save(c, why, status);
    c->n_failed_saves = 0;
    c->saved_step = saved->step;
    c->saved_at_s = cvy_clock_now_s();
    cvy_log_debug("step %lld saved", (long long)saved->step);
    coordinator_event(c,
                      json_pack("{s:s, s:I, s:f, s:f, s:f}", "event", "saved", "step",
                                (json_int_t)saved->step, "snapshot_s", saved->snapshot_s, "write_s",
                                saved->write_s, "publish_s", c->saved_at_s - start_s));
    return CVY_OK;
}
