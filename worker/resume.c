#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "base/safetensors.h"
#include "nn/weights.h"
#include "worker/worker_internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/*
 * Where training starts: the lead worker reads, all others get it by broadcast, so a file is opened
 * once however many workers there are. Initial weights are computed by each worker alone.
 */

#define FILE_LIMIT_BYTES ((size_t)64 << 30)

static cvy_status open_file(const char *path, cvy_safetensors **out)
{
    cvy_reason reason = {""};
    const cvy_status status = cvy_safetensors_open(path, FILE_LIMIT_BYTES, out, &reason);

    return status == CVY_OK ? CVY_OK : CVY_FAIL(status, "%s: %s", path, reason.text);
}

static cvy_status read_weights(const worker *w, const char *path, float *out)
{
    cvy_safetensors *file = NULL;

    CVY_RETURN_IF_ERR(open_file(path, &file));
    const cvy_status status = nn_weights_load(file, path, w->params, 0, out);
    cvy_safetensors_close(&file);
    return status;
}

static cvy_status read_states(const worker *w, const char *path, float *const *out)
{
    cvy_safetensors *file = NULL;
    const nn_optimizer_ops *ops = nn_optimizer_get_ops(w->parts->optimizer);

    CVY_RETURN_IF_ERR(open_file(path, &file));
    const cvy_status status = nn_states_load(file, path, w->params, w->n_states, ops->state_name, 0,
                                             out);
    cvy_safetensors_close(&file);
    return status;
}

static int is_folder(const char *path)
{
    struct stat about;
    return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}

/* The weights' file of a command; empty: initial weights. */
static void weights_path(const worker *w, const comm_resume *command, char *out, size_t out_size)
{
    const char *init_from = w->job->init_from;

    if (command->folder[0] == 0) {
        snprintf(out, out_size, "%s", init_from != NULL ? init_from : "");
    } else if (is_folder(command->folder)) {
        snprintf(out, out_size, "%s/model.safetensors", command->folder);
    } else {
        snprintf(out, out_size, "%s", command->folder);
    }
}

static cvy_status share_weights(worker *w, const comm_resume *command, float *host,
                                cvy_deadline deadline)
{
    cvy_status status = CVY_OK;
    char path[COMM_PATH_BYTES + 32];
    const size_t size_bytes = (size_t)w->params->n_elems * sizeof(float);

    /* Whether there is a file is the lead worker's to say: only it looks. */
    int64_t has_file = 0;
    if (worker_is_lead(w)) {
        weights_path(w, command, path, sizeof path);
        has_file = path[0] != 0;
    }
    CVY_RETURN_IF_ERR(comm_bcast(w->workers, &has_file, sizeof has_file, 0, deadline));
    if (!has_file) {
        CVY_RETURN_IF_ERR(nn_params_init(w->params, (uint64_t)w->job->seed, host));
    } else {
        if (worker_is_lead(w)) status = read_weights(w, path, host);
        CVY_RETURN_IF_ERR(comm_agree(w->workers, status, deadline));
        CVY_RETURN_IF_ERR(comm_bcast(w->workers, host, size_bytes, 0, deadline));
    }
    return w->backend->ops->copy_in(w->backend, w->weights, host, size_bytes);
}

/* Optimizer states of a checkpoint to the workers that own their parts; else zeros. flat: on the
 * lead worker, buffers for the whole states. */
static cvy_status share_states(worker *w, const comm_resume *command, float *const *flat,
                               cvy_deadline deadline)
{
    cvy_status status = CVY_OK;
    char path[COMM_PATH_BYTES + 32];
    const size_t own_bytes = (size_t)comm_reducer_own_elems(w->reducer) * sizeof(float);

    if (command->folder[0] == 0) {
        for (int i = 0; i < w->n_states; i++) memset(w->state[i], 0, own_bytes);
        return CVY_OK;
    }
    snprintf(path, sizeof path, "%s/optimizer.safetensors", command->folder);
    if (worker_is_lead(w)) status = read_states(w, path, flat);
    CVY_RETURN_IF_ERR(comm_agree(w->workers, status, deadline));
    for (int i = 0; i < w->n_states; i++)
        CVY_RETURN_IF_ERR(comm_reducer_distribute(w->reducer, flat[i], 0, w->state[i], deadline));
    return CVY_OK;
}

cvy_status worker_resume(worker *w, const comm_resume *command)
{
    cvy_status status = CVY_OK;
    const cvy_deadline deadline = worker_deadline(w->job->deadline.start_s);
    const size_t n = (size_t)w->params->n_elems;
    float *host = NULL, *flat[NN_OPTIMIZER_MAX_STATES] = {NULL};

    worker_enter(w, COMM_PHASE_RESUME);
    dataset_loader_destroy(&w->loader); /* the next TRAIN opens one at the new place */
    host = cvy_alloc_zero(n, sizeof(float));
    int is_whole = host != NULL;
    for (int i = 0; worker_is_lead(w) && i < w->n_states; i++) {
        flat[i] = cvy_alloc_zero(n, sizeof(float));
        is_whole = is_whole && flat[i] != NULL;
    }
    status = is_whole ? CVY_OK : CVY_FAIL(CVY_ERR_NO_MEMORY, "weights: %zu floats", n);
    CVY_GOTO_IF_ERR(done, status, comm_agree(w->workers, status, deadline));
    CVY_GOTO_IF_ERR(done, status, share_weights(w, command, host, deadline));
    if (!command->weights_only && w->parts->optimizer != NULL)
        CVY_GOTO_IF_ERR(done, status, share_states(w, command, flat, deadline));
    w->step = command->step;
    w->n_skipped = w->n_skipped_in_row = 0;
    w->tally = (worker_tally){0};
    w->progress_at_s = cvy_clock_now_s();
    status = comm_send(w->world, 0, COMM_READY, NULL, 0);

done:
    /* A wait that was broken off may leave transfers open into these: they stay, the process goes.
     */
    if (status == CVY_ERR_PEER_LOST || status == CVY_ERR_STOPPED) return status;
    for (int i = 0; i < NN_OPTIMIZER_MAX_STATES; i++) cvy_free(flat[i]);
    cvy_free(host);
    return status;
}
