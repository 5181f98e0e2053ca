#include "worker/parts.h"

#include "base/alloc.h"
#include "base/config.h"
#include "base/file.h"
#include "nn/model.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

/* The datasets must agree with each other and with the job: one line each that names both sides. */
static cvy_status check_classes(const cvy_job *job, worker_parts *parts, cvy_node *model)
{
    const dataset_info *train = parts->train_store != NULL ? dataset_store_info(parts->train_store)
                                                           : NULL;
    const dataset_info *val = parts->val_store != NULL ? dataset_store_info(parts->val_store)
                                                       : NULL;
    const int n_train = train != NULL ? train->n_classes : 0;
    const int n_val = val != NULL ? val->n_classes : 0;
    const int n_data = n_train > n_val ? n_train : n_val;
    const cvy_node *given = cvy_node_find(model, "classes");

    if (cvy_node_is_null(given)) {
        char text[32];
        snprintf(text, sizeof text, "%d", n_data);
        CVY_RETURN_IF_ERR(cvy_node_add(model, "classes", text));
        parts->n_classes = n_data;
        return CVY_OK;
    }
    const char *text = cvy_node_text(given);
    int n = 0;
    char rest = 0;
    if (text == NULL || sscanf(text, "%d%c", &n, &rest) != 1 || n < 1) {
        char place[128];
        cvy_node_place(given, place, sizeof place);
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: classes is '%s', expected an integer from 1 up", place,
                        text != NULL ? text : "no scalar");
    }
    if (n < n_data) {
        char place[128];
        cvy_node_place(given, place, sizeof place);
        return CVY_FAIL(CVY_ERR_CONFIG,
                        "%s: classes is %d, but %s has labels of %d classes: leave it out or give "
                        "at least %d",
                        place, n, n_train >= n_val ? job->data.train.path : job->data.val.path,
                        n_data, n_data);
    }
    parts->n_classes = n;
    return CVY_OK;
}

/* The training set alone says how to normalise, for validation too. An evaluation needs it for that
 * only, and does without where the job has the figures. */
static cvy_status open_train(const cvy_job *job, const dataset_store_options *store_options,
                             int is_evaluation, worker_parts *parts)
{
    const cvy_job_data *train = &job->data.train;

    if (is_evaluation && !cvy_file_exists(train->path)) {
        if (job->data.mean.n > 0) return CVY_OK;
        return CVY_FAIL(
            CVY_ERR_NOT_FOUND,
            "%s is not there, and only the training set tells how to normalise: use the "
            "run's own job.yaml, which has data.mean and data.deviation, or give them",
            train->path);
    }
    CVY_RETURN_IF_ERR(dataset_store_open(train->path, store_options, &parts->train_store));
    parts->n_train = dataset_store_info(parts->train_store)->n_records;
    return dataset_pipeline_create(train->augment, &job->data,
                                   dataset_store_info(parts->train_store), &parts->train_pipeline);
}

static cvy_status set_list(cvy_node *root, const char *key, int n, const double *value)
{
    char text[64 + 32 * CVY_CONFIG_LIST_MAX];
    int at = snprintf(text, sizeof text, "data.%s=[", key);

    for (int i = 0; i < n; i++)
        at += snprintf(text + at, sizeof text - (size_t)at, "%s%.17g", i > 0 ? ", " : "", value[i]);
    snprintf(text + at, sizeof text - (size_t)at, "]");
    return cvy_node_set(root, text);
}

/* How values are normalised becomes part of the resolved job, so that weights can be used later
 * without the dataset. */
static cvy_status settle_statistics(cvy_node *root, const worker_parts *parts, cvy_job_input *input)
{
    const dataset_pipeline *from = parts->train_pipeline;
    const double *mean = NULL, *deviation = NULL;
    int64_t c = 0, h = 0, w = 0;

    if (from == NULL) return CVY_OK;
    dataset_pipeline_shape(from, &c, &h, &w);
    dataset_pipeline_stats(from, &mean, &deviation);
    const int n = c < CVY_CONFIG_LIST_MAX ? (int)c : CVY_CONFIG_LIST_MAX;
    const int is_settled = input->mean.n > 0 && input->deviation.n > 0;
    input->mean.n = input->deviation.n = n;
    for (int i = 0; i < n; i++) {
        input->mean.value[i] = mean[i];
        input->deviation.value[i] = deviation[i];
    }
    if (is_settled) return CVY_OK;
    CVY_RETURN_IF_ERR(set_list(root, "mean", n, mean));
    return set_list(root, "deviation", n, deviation);
}

static cvy_status open_data(cvy_node *root, const cvy_job *job, const worker_parts_options *options,
                            worker_parts *parts)
{
    const dataset_store_options store_options = {.allow_network_fs = job->data.allow_network_fs,
                                                 .is_quiet = options->is_quiet};
    cvy_job_input input = job->data;

    CVY_RETURN_IF_ERR(open_train(job, &store_options, options->is_evaluation, parts));
    CVY_RETURN_IF_ERR(settle_statistics(root, parts, &input));
    if (job->data.val.path == NULL) {
        if (!options->is_evaluation) return CVY_OK;
        return CVY_FAIL(CVY_ERR_CONFIG,
                        "the job has no data.val.path: there is nothing to evaluate");
    }
    CVY_RETURN_IF_ERR(dataset_store_open(job->data.val.path, &store_options, &parts->val_store));
    parts->n_val = dataset_store_info(parts->val_store)->n_records;
    return dataset_pipeline_create(job->data.val.augment, &input,
                                   dataset_store_info(parts->val_store), &parts->val_pipeline);
}

static cvy_status build_graphs(cvy_node *root, const cvy_job *job, int is_evaluation,
                               worker_parts *parts)
{
    cvy_node *model = cvy_config_section(cvy_node_find(root, "model"));
    int64_t dim[3] = {0, 0, 0};

    CVY_RETURN_IF_ERR(check_classes(job, parts, model));
    if (parts->train_pipeline != NULL && !is_evaluation) {
        dataset_pipeline_shape(parts->train_pipeline, &dim[0], &dim[1], &dim[2]);
        const nn_shape image = nn_shape_of(3, dim);
        CVY_RETURN_IF_ERR(nn_model_build(model, job->minibatch, &image, &parts->train_graph));
    }
    if (parts->val_pipeline != NULL) {
        int64_t val_dim[3] = {0, 0, 0};
        dataset_pipeline_shape(parts->val_pipeline, &val_dim[0], &val_dim[1], &val_dim[2]);
        if (parts->train_graph != NULL && dim[0] != val_dim[0]) {
            return CVY_FAIL(CVY_ERR_CONFIG, "%s has %lld channels and %s has %lld",
                            job->data.train.path, (long long)dim[0], job->data.val.path,
                            (long long)val_dim[0]);
        }
        const nn_shape image = nn_shape_of(3, val_dim);
        const int64_t minibatch = job->evaluate.minibatch > 0 ? job->evaluate.minibatch
                                                              : job->minibatch;
        CVY_RETURN_IF_ERR(nn_model_build(model, minibatch, &image, &parts->eval_graph));
        if (parts->train_graph != NULL && nn_graph_params(parts->eval_graph)->n_elems !=
                                              nn_graph_params(parts->train_graph)->n_elems) {
            return CVY_FAIL(
                CVY_ERR_CONFIG,
                "the model has other parameters for images of %lld x %lld (training) "
                "and %lld x %lld (validation): give both the same size in data.*.augment",
                (long long)dim[1], (long long)dim[2], (long long)val_dim[1], (long long)val_dim[2]);
        }
    }
    return CVY_OK;
}

static cvy_status plan_steps(cvy_node *root, const cvy_job *job, worker_parts *parts)
{
    parts->global_batch = job->replicas * job->minibatch;
    parts->steps_per_epoch = parts->n_train / parts->global_batch;
    if (parts->steps_per_epoch < 1) {
        return CVY_FAIL(CVY_ERR_BAD_DATA,
                        "%s: has %lld records, fewer than one global batch of %lld replicas x %lld "
                        "images: give a smaller minibatch or fewer replicas",
                        job->data.train.path, (long long)parts->n_train, (long long)job->replicas,
                        (long long)job->minibatch);
    }
    if (job->steps > 0) {
        parts->total_steps = job->steps;
    } else {
        parts->total_steps = job->epochs * parts->steps_per_epoch;
    }
    CVY_RETURN_IF_ERR(nn_optimizer_create(cvy_config_section(cvy_node_find(root, "optimizer")),
                                          &parts->optimizer));
    return nn_schedule_create(cvy_config_section(cvy_node_find(root, "schedule")),
                              parts->steps_per_epoch, parts->total_steps, &parts->schedule);
}

/* What a worker needs besides the activations, against what the machine has at all: a net that
 * cannot fit is refused here, with the figures, not by the kernel in the first step. */
static cvy_status check_memory(const worker_parts *parts)
{
    const nn_graph *graph = parts->train_graph != NULL ? parts->train_graph : parts->eval_graph;
    const int n_states = parts->optimizer != NULL ? nn_optimizer_get_ops(parts->optimizer)->n_states
                                                  : 0;
    /* Weights, gradients, sums, optimizer states. */
    const double need = (double)nn_graph_params(graph)->n_elems * sizeof(float) * (3 + n_states);
    const double has = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);

    if (has <= 0 || need <= has) return CVY_OK;
    return CVY_FAIL(CVY_ERR_CONFIG,
                    "model: its %lld weights need %.1f GB with gradients and optimizer state, this "
                    "machine has %.1f GB: make it smaller",
                    (long long)nn_graph_params(graph)->n_trainable, need / 1e9, has / 1e9);
}

cvy_status worker_parts_create(cvy_node *root, const cvy_job *job,
                               const worker_parts_options *options, worker_parts **out)
{
    cvy_status status = CVY_OK;
    worker_parts *parts = NULL;

    *out = NULL;
    parts = cvy_alloc_zero(1, sizeof *parts);
    if (parts == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "parts of job %s", job->name);
    CVY_GOTO_IF_ERR(fail, status, open_data(root, job, options, parts));
    CVY_GOTO_IF_ERR(fail, status, build_graphs(root, job, options->is_evaluation, parts));
    if (!options->is_evaluation) CVY_GOTO_IF_ERR(fail, status, plan_steps(root, job, parts));
    CVY_GOTO_IF_ERR(fail, status, check_memory(parts));
    *out = parts;
    return CVY_OK;

fail:
    worker_parts_destroy(&parts);
    return status;
}

void worker_parts_destroy(worker_parts **address)
{
    worker_parts *parts = *address;

    if (parts == NULL) return;
    nn_schedule_destroy(&parts->schedule);
    nn_optimizer_destroy(&parts->optimizer);
    nn_graph_destroy(&parts->eval_graph);
    nn_graph_destroy(&parts->train_graph);
    dataset_pipeline_destroy(&parts->val_pipeline);
    dataset_pipeline_destroy(&parts->train_pipeline);
    dataset_store_close(&parts->val_store);
    dataset_store_close(&parts->train_store);
    cvy_free(parts);
    *address = NULL;
}
