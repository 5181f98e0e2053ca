#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/safetensors.h"
#include "coordinator/checkpoints.h"
#include "coordinator/progress.h"
#include "dataset/store.h"
#include "launch/command.h"
#include "launch/job_setup.h"
#include "nn/net.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

typedef struct inspect_options {
    launch_list sets;
    int is_quick, has_layers;
} inspect_options;

#define FIELD(kind, member) kind, offsetof(inspect_options, member)

static const launch_option option_table[] = {
    {"set", FIELD(LAUNCH_LIST, sets), 0, 0, "KEY=VALUE", "a job: override a key"},
    {"layers", FIELD(LAUNCH_FLAG, has_layers), 0, 0, NULL, "a job: a line for each layer"},
    {"quick", FIELD(LAUNCH_FLAG, is_quick), 0, 0, NULL,
     "a dataset: do not read all records to see whether it is whole"},
};

static void print_count(const char *what, int64_t value)
{
    char text[32];
    coordinator_text_count((double)value, text);
    printf("%-18s %s\n", what, text);
}

/* --- A dataset -------------------------------------------------------------------------------- */

static cvy_status inspect_dataset(const char *path, const inspect_options *options)
{
    dataset_store *store = NULL;
    const dataset_store_options store_options = {.allow_network_fs = 1};
    char digest[17];

    CVY_RETURN_IF_ERR(dataset_store_open(path, &store_options, &store));
    const dataset_info *info = dataset_store_info(store);
    printf("dataset            %s\n", path);
    print_count("records", info->n_records);
    print_count("classes", info->n_classes);
    if (info->height > 0 && info->channels == 0)
        printf("%-18s %lld x %lld (h, w), %s\n", "record", (long long)info->height,
               (long long)info->width, info->is_encoded ? "encoded" : "raw");
    else if (info->height > 0)
        printf("%-18s %lld x %lld x %lld (c, h, w), %s\n", "record", (long long)info->channels,
               (long long)info->height, (long long)info->width,
               info->is_encoded ? "encoded" : "raw");
    else
        printf("%-18s of several sizes, %s\n", "record", info->is_encoded ? "encoded" : "raw");
    for (int i = 0; i < info->n_channels_stat; i++)
        printf("channel %-10d mean %.4f, deviation %.4f\n", i, info->mean[i], info->deviation[i]);
    cvy_hash_text(info->digest, digest);
    printf("%-18s %s\n", "digest", info->has_manifest ? digest : "none (made by another program)");
    cvy_status status = CVY_OK;
    if (!options->is_quick) {
        cvy_reason reason = {""};
        status = dataset_store_verify(store, NULL, NULL, &reason);
        if (status == CVY_OK)
            printf("%-18s yes: all records read\n", "whole");
        else
            (void)CVY_FAIL(status, "%s: %s", path, reason.text);
    }
    dataset_store_close(&store);
    return status;
}

/* --- A checkpoint ----------------------------------------------------------------------------- */

static cvy_status list_tensors(const char *path)
{
    cvy_safetensors *file = NULL;
    cvy_reason reason = {""};

    const cvy_status status = cvy_safetensors_open(path, (size_t)64 << 30, &file, &reason);
    if (status != CVY_OK) return CVY_FAIL(status, "%s: %s", path, reason.text);
    int64_t n_elems = 0;
    for (int i = 0; i < cvy_safetensors_n(file); i++) {
        const cvy_tensor_entry *tensor = cvy_safetensors_entry(file, i);
        n_elems += cvy_tensor_n_elems(tensor);
        printf("  %-48s %s (", tensor->name, cvy_dtype_name(tensor->dtype));
        for (int k = 0; k < tensor->n_dims; k++)
            printf("%s%lld", k > 0 ? ", " : "", (long long)tensor->dim[k]);
        printf(")\n");
    }
    print_count("values", n_elems);
    printf("%-18s yes\n", "whole");
    cvy_safetensors_close(&file);
    return CVY_OK;
}

static cvy_status inspect_checkpoint(const char *path)
{
    coordinator_state state;
    char *folder = NULL;
    char hash[17];

    CVY_RETURN_IF_ERR(coordinator_checkpoint_locate(path, &folder, &state));
    printf("checkpoint         %s\n", folder);
    printf("%-18s %s, %d classes\n", "net", state.arch, state.n_classes);
    printf("%-18s %lld (epoch %.2f, position %lld)\n", "step", (long long)state.step, state.epoch,
           (long long)state.position);
    printf("%-18s %lld of %lld images, seed %lld\n", "replicas", (long long)state.replicas,
           (long long)state.minibatch, (long long)state.seed);
    cvy_hash_text(state.job_digest, hash);
    printf("%-18s %s\n", "job", hash);
    cvy_hash_text(state.data_identity, hash);
    printf("%-18s %s, %lld records\n", "training set", hash, (long long)state.n_records);
    cvy_hash_text(state.model_hash, hash);
    printf("%-18s %s, %llu bytes\n", "model", hash, (unsigned long long)state.model_bytes);
    cvy_hash_text(state.optimizer_hash, hash);
    printf("%-18s %s, %llu bytes\n", "optimizer", hash, (unsigned long long)state.optimizer_bytes);
    printf("%-18s convoy %s on %s, %s\n", "written by", state.convoy_version, state.device,
           state.written_at);
    printf("%-18s yes: both files match their hashes\n", "whole");
    cvy_free(folder);
    return CVY_OK;
}

/* --- A job ------------------------------------------------------------------------------------ */

static void print_layers(const nn_graph *graph)
{
    const double n = (double)nn_graph_minibatch(graph);

    printf("\n%-32s %-14s %-26s %16s\n", "layer", "type", "output", "multiply-adds");
    for (int i = 0; i < nn_graph_n_layers(graph); i++) {
        const nn_graph_layer *layer = nn_graph_layer_at(graph, i);
        char shape[96], count[32];
        nn_shape_text(&layer->plan.out, shape, sizeof shape);
        coordinator_text_count((double)layer->plan.multiply_adds / n, count);
        printf("%-32s %-14s %-26s %16s\n", layer->name, layer->ops->name, shape, count);
    }
}

static cvy_status print_job(const launch_job *job, const worker_parts *parts, int has_layers)
{
    const nn_backend_options backend_options = {.n_threads = 1};
    const nn_net_options net_options = {.is_inference = 0};
    nn_backend *backend = NULL;
    nn_net *net = NULL;
    char size[32];

    printf("job                %s\n", job->job.name);
    print_count("parameters", nn_graph_params(parts->train_graph)->n_trainable);
    print_count("multiply-adds", nn_graph_multiply_adds(parts->train_graph));
    print_count("training records", parts->n_train);
    print_count("validation records", parts->n_val);
    print_count("classes", parts->n_classes);
    print_count("global batch", parts->global_batch);
    print_count("steps an epoch", parts->steps_per_epoch);
    print_count("steps", parts->total_steps);
    CVY_RETURN_IF_ERR(nn_backend_open("cpu", &backend_options, &backend));
    const cvy_status status = nn_net_create(backend, parts->train_graph, &net_options, &net);
    if (status == CVY_OK) {
        coordinator_text_count((double)nn_net_arena_bytes(net) / 1e6, size);
        printf("%-18s %s MB of activations and gradients a worker\n", "memory", size);
        if (has_layers) print_layers(parts->train_graph);
    }
    nn_net_destroy(&net);
    nn_backend_close(&backend);
    return status;
}

static cvy_status inspect_job(const char *path, const inspect_options *options)
{
    launch_job job;
    worker_parts *parts = NULL;
    const worker_parts_options parts_options = {.is_quiet = 1};

    CVY_RETURN_IF_ERR(launch_job_load(path, &options->sets, &job));
    cvy_status status = worker_parts_create(job.root, &job.job, &parts_options, &parts);
    if (status == CVY_OK) status = print_job(&job, parts, options->has_layers);
    worker_parts_destroy(&parts);
    launch_job_close(&job);
    return status;
}

/* --- Which of them is it? --------------------------------------------------------------------- */

static int has_file(const char *folder, const char *name)
{
    char *path = cvy_path_join(folder, name);
    const int has = path != NULL && cvy_file_exists(path);

    cvy_free(path);
    return has;
}

static int ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static int run(int argc, char **argv)
{
    inspect_options options = {.is_quick = 0};
    launch_list args;
    struct stat about;
    const int code = launch_parse(&launch_cmd_inspect, argc, argv, &options, 1, 1, &args);

    if (code >= 0) return code;
    const char *path = args.value[0];
    const int is_folder = stat(path, &about) == 0 && S_ISDIR(about.st_mode);
    cvy_status status = CVY_OK;
    if (is_folder && has_file(path, "data.mdb"))
        status = inspect_dataset(path, &options);
    else if (is_folder)
        status = inspect_checkpoint(path);
    else if (ends_with(path, ".safetensors"))
        status = list_tensors(path);
    else
        status = inspect_job(path, &options);
    return cvy_status_exit_code(status);
}

const launch_command launch_cmd_inspect = {
    .name = "inspect",
    .usage = "{DATASET|CHECKPOINT|RUN|FILE.safetensors|JOB.yaml}",
    .summary = "What is in it, and is it whole; parameters, FLOPs and memory of a job's net.",
    .options = option_table,
    .n_options = sizeof option_table / sizeof option_table[0],
    .run = run,
};
