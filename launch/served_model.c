#include "launch/served_model.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "base/safetensors.h"
#include "coordinator/checkpoints.h"
#include "dataset/augment.h"
#include "dataset/store.h"
#include "launch/job_setup.h"
#include "nn/backend.h"
#include "nn/model.h"
#include "nn/net.h"
#include "nn/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_LIMIT_BYTES ((size_t)64 << 30)
#define PATH_BYTES       4096
/* A picture is resized to its crop's side over this, as published for ImageNet (224 of 256). */
#define CROP_SHARE   0.875
#define NUMBER_BYTES 12

struct launch_served_model {
    launch_job job;          /* of the run; root NULL for a bare file */
    cvy_node *model_section; /* owned for a bare file, else a view into job */
    int owns_section;
    char weights_path[PATH_BYTES];
    cvy_safetensors *file;
    dataset_store *store; /* for names and shapes; NULL: none */
    dataset_pipeline *pipeline;
    dataset_scratch *scratch;
    char *names_text;  /* of names_file, cut into lines */
    const char **name; /* [n_classes] */
    char *number;      /* [n_classes] texts of NUMBER_BYTES, for classes without a name */
    int n_classes;
    int64_t dim[3]; /* c, h, w of the net's input */
    nn_backend *backend;
    nn_graph *graph;
    nn_net *net;
    float *weights;
    float *image;
};

/* --- Where weights and job are ---------------------------------------------------------------- */

/* RUN/job.yaml of a checkpoint folder RUN/checkpoints/step-N. */
static cvy_status load_job(launch_served_model *m, const char *folder)
{
    char path[PATH_BYTES];
    const launch_list none = {.n = 0};

    snprintf(path, sizeof path, "%s/../../job.yaml", folder);
    if (!cvy_file_exists(path)) {
        return CVY_FAIL(CVY_ERR_NOT_FOUND,
                        "%s: is not in a run folder with a job.yaml: give its model.safetensors "
                        "and --arch",
                        folder);
    }
    return launch_job_load(path, &none, &m->job);
}

static cvy_status find_source(launch_served_model *m, const launch_serve_options *options)
{
    struct stat about;
    coordinator_state state;
    char *folder = NULL;

    if (stat(options->checkpoint, &about) == 0 && S_ISREG(about.st_mode)) {
        snprintf(m->weights_path, sizeof m->weights_path, "%s", options->checkpoint);
        if (options->arch != NULL) return CVY_OK;
        return CVY_FAIL(CVY_ERR_USAGE, "%s is a bare file: say what net it is of by --arch",
                        options->checkpoint);
    }
    CVY_RETURN_IF_ERR(coordinator_checkpoint_locate(options->checkpoint, &folder, &state));
    snprintf(m->weights_path, sizeof m->weights_path, "%s/model.safetensors", folder);
    const cvy_status status = options->arch != NULL ? CVY_OK : load_job(m, folder);
    cvy_free(folder);
    return status;
}

static cvy_status open_weights(launch_served_model *m)
{
    cvy_reason reason = {""};
    const cvy_status status = cvy_safetensors_open(m->weights_path, FILE_LIMIT_BYTES, &m->file,
                                                   &reason);

    return status == CVY_OK ? CVY_OK : CVY_FAIL(status, "%s: %s", m->weights_path, reason.text);
}

/* --- The net of a bare file ------------------------------------------------------------------- */

static cvy_status make_section(const char *arch, int64_t classes, cvy_node **out)
{
    char text[256];

    snprintf(text, sizeof text, "{arch: %s, classes: %lld}", arch, (long long)classes);
    return cvy_node_parse(text, strlen(text), "--arch", out);
}

/* Rows of the last matrix of the net, whose name a net of any number of classes tells. */
static cvy_status count_classes(launch_served_model *m, const char *arch, int64_t *out)
{
    cvy_node *section = NULL;
    nn_graph *graph = NULL;
    const nn_shape image = nn_shape_of(3, m->dim);

    CVY_RETURN_IF_ERR(make_section(arch, 2, &section));
    const cvy_status status = nn_model_build(section, 1, &image, &graph);
    cvy_node_destroy(&section);
    CVY_RETURN_IF_ERR(status);
    const nn_params *params = nn_graph_params(graph);
    const cvy_tensor_entry *last = NULL;
    for (int i = 0; i < params->n; i++) {
        if (params->entry[i].decl.kind == NN_PARAM_WEIGHT)
            last = cvy_safetensors_find(m->file, params->entry[i].name);
    }
    *out = last != NULL && last->n_dims > 0 ? last->dim[0] : 0;
    nn_graph_destroy(&graph);
    if (*out > 0) return CVY_OK;
    return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: does not hold the last layer of %s", m->weights_path,
                    arch);
}

static cvy_status describe_bare(launch_served_model *m, const launch_serve_options *options)
{
    const nn_model_arch *arch = nn_model_find(options->arch);
    int64_t classes = options->classes;

    if (arch == NULL) {
        const char *words[256];
        const int n = nn_model_count() < 256 ? nn_model_count() : 256;
        for (int i = 0; i < n; i++) words[i] = nn_model_at(i)->name;
        const char *nearest = cvy_nearest_word(words, n, options->arch);
        return CVY_FAIL(CVY_ERR_USAGE, "--arch: no net '%s'%s%s%s", options->arch,
                        nearest != NULL ? ", did you mean '" : "", nearest != NULL ? nearest : "",
                        nearest != NULL ? "'?" : "");
    }
    m->dim[0] = arch->channels;
    m->dim[1] = options->size > 0 ? options->size : arch->height;
    m->dim[2] = options->size > 0 ? options->size : arch->width;
    if (classes == 0) CVY_RETURN_IF_ERR(count_classes(m, options->arch, &classes));
    m->owns_section = 1;
    return make_section(options->arch, classes, &m->model_section);
}

/* --- The net of a run ------------------------------------------------------------------------- */

static cvy_status describe_run(launch_served_model *m, const launch_serve_options *options)
{
    const cvy_job_input *data = &m->job.job.data;
    const cvy_job_data *of = data->val.path != NULL ? &data->val : &data->train;
    const dataset_store_options store_options = {.allow_network_fs = 1, .is_quiet = 1};
    dataset_pipeline *pipeline = NULL;

    m->model_section = cvy_config_section(m->job.job.model);
    if (!cvy_file_exists(of->path) && cvy_file_exists(data->train.path)) of = &data->train;
    if (!cvy_file_exists(of->path)) {
        return CVY_FAIL(
            CVY_ERR_NOT_FOUND,
            "%s is not there, so the size of the net's input is not known: give %s with "
            "--arch, --size, --mean and --deviation",
            of->path, m->weights_path);
    }
    CVY_RETURN_IF_ERR(dataset_store_open(of->path, &store_options, &m->store));
    CVY_RETURN_IF_ERR(
        dataset_pipeline_create(of->augment, data, dataset_store_info(m->store), &pipeline));
    dataset_pipeline_shape(pipeline, &m->dim[0], &m->dim[1], &m->dim[2]);
    dataset_pipeline_destroy(&pipeline);
    if (options->size > 0) m->dim[1] = m->dim[2] = options->size;
    return CVY_OK;
}

/* --- Preprocessing ---------------------------------------------------------------------------- */

static cvy_status read_list(const char *text, const char *option, int n, cvy_real_list *out)
{
    const char *at = text;

    for (out->n = 0; out->n < CVY_CONFIG_LIST_MAX;) {
        char *end = NULL;
        out->value[out->n] = strtod(at, &end);
        if (end == at || !isfinite(out->value[out->n])) break;
        out->n++;
        at = end + strspn(end, ", ");
    }
    if (*at == 0 && (out->n == n || out->n == 1)) {
        for (; out->n < n; out->n++) out->value[out->n] = out->value[0];
        return CVY_OK;
    }
    return CVY_FAIL(CVY_ERR_USAGE, "%s is '%s', expected 1 or %d numbers", option, text, n);
}

static void fill_list(cvy_real_list *list, int n, const double *three, double one)
{
    list->n = n;
    for (int i = 0; i < n; i++) list->value[i] = n == 3 ? three[i] : one;
}

/* How a picture of any size becomes the net's input: by the job's own steps, or else resized (and
 * for nets of large pictures cropped, as published). */
static cvy_status make_pipeline(launch_served_model *m, const launch_serve_options *options)
{
    static const double imagenet_mean[] = {0.485, 0.456, 0.406};
    static const double imagenet_deviation[] = {0.229, 0.224, 0.225};
    const int n = (int)m->dim[0];
    const int has_job = m->job.root != NULL;
    cvy_job_input input = has_job ? m->job.job.data
                                  : (cvy_job_input){.max_pixels = (int64_t)64 << 20};
    const dataset_info info = {
        .n_records = 1, .n_classes = 1, .channels = m->dim[0], .is_encoded = 1};
    cvy_node *steps = NULL;
    char text[128];

    input.channel_order = 0; /* image files decode to RGB */
    if (input.mean.n == 0) fill_list(&input.mean, n, imagenet_mean, 0.5);
    if (input.deviation.n == 0) fill_list(&input.deviation, n, imagenet_deviation, 0.5);
    if (options->mean != NULL)
        CVY_RETURN_IF_ERR(read_list(options->mean, "--mean", n, &input.mean));
    if (options->deviation != NULL)
        CVY_RETURN_IF_ERR(read_list(options->deviation, "--deviation", n, &input.deviation));
    if (has_job && options->size == 0 && m->job.job.data.val.augment != NULL) {
        return dataset_pipeline_create(m->job.job.data.val.augment, &input, &info, &m->pipeline);
    }
    if (m->dim[1] >= 64 && m->dim[1] == m->dim[2]) {
        snprintf(text, sizeof text, "[{resize: %lld}, {center_crop: %lld}]",
                 llround((double)m->dim[1] / CROP_SHARE), (long long)m->dim[1]);
    } else {
        snprintf(text, sizeof text, "[{resize: [%lld, %lld]}]", (long long)m->dim[1],
                 (long long)m->dim[2]);
    }
    CVY_RETURN_IF_ERR(cvy_node_parse(text, strlen(text), "predict", &steps));
    const cvy_status status = dataset_pipeline_create(steps, &input, &info, &m->pipeline);
    cvy_node_destroy(&steps);
    return status;
}

/* --- Names ------------------------------------------------------------------------------------ */

static cvy_status read_names(launch_served_model *m, const char *path)
{
    size_t size_bytes = 0;
    cvy_reason reason = {""};
    int n = 0;

    const cvy_status status = cvy_file_read(path, (size_t)16 << 20, &m->names_text, &size_bytes,
                                            &reason);
    if (status != CVY_OK) return CVY_FAIL(status, "%s: %s", path, reason.text);
    char *rest = NULL;
    for (char *line = strtok_r(m->names_text, "\r\n", &rest); line != NULL && n < m->n_classes;
         line = strtok_r(NULL, "\r\n", &rest)) {
        m->name[n++] = line;
    }
    if (n == m->n_classes) return CVY_OK;
    return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: has %d names, the net has %d classes", path, n,
                    m->n_classes);
}

int launch_served_model_n_classes(const launch_served_model *m)
{
    return m->n_classes;
}

const char *launch_served_model_class_name(const launch_served_model *m, int class)
{
    return m->name[class];
}

/* The dataset's names, else numbers; a file of names replaces them all. */
static cvy_status find_names(launch_served_model *m, const char *names_file)
{
    const dataset_info *info = m->store != NULL ? dataset_store_info(m->store) : NULL;

    m->name = cvy_alloc_zero((size_t)m->n_classes, sizeof *m->name);
    m->number = cvy_alloc_zero((size_t)m->n_classes, NUMBER_BYTES);
    if (m->name == NULL || m->number == NULL)
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "names of %d classes", m->n_classes);
    for (int i = 0; i < m->n_classes; i++) {
        char *number = m->number + (size_t)i * NUMBER_BYTES;
        snprintf(number, NUMBER_BYTES, "%d", i);
        m->name[i] = info != NULL && i < info->n_classes ? info->class_names[i] : number;
    }
    return names_file != NULL ? read_names(m, names_file) : CVY_OK;
}

/* --- Open, use, close ------------------------------------------------------------------------- */

static cvy_status open_net(launch_served_model *m, const launch_serve_options *options)
{
    const nn_shape image = nn_shape_of(3, m->dim);
    const nn_backend_options backend_options = {.n_threads = (int)options->threads};
    const nn_net_options net_options = {.is_inference = 1};

    CVY_RETURN_IF_ERR(nn_model_build(m->model_section, 1, &image, &m->graph));
    const nn_params *params = nn_graph_params(m->graph);
    m->n_classes = (int)nn_graph_shape(m->graph, nn_graph_logits(m->graph)).dim[1];
    CVY_RETURN_IF_ERR(nn_backend_open("auto", &backend_options, &m->backend));
    CVY_RETURN_IF_ERR(nn_net_create(m->backend, m->graph, &net_options, &m->net));

    float *host = cvy_alloc_zero((size_t)params->n_elems, sizeof *host);
    m->weights = m->backend->ops->alloc(m->backend, (size_t)params->n_elems * sizeof(float));
    m->image = cvy_alloc((size_t)(m->dim[0] * m->dim[1] * m->dim[2]) * sizeof(float));
    cvy_status status = CVY_OK;
    if (host == NULL || m->weights == NULL || m->image == NULL)
        status = CVY_FAIL(CVY_ERR_NO_MEMORY, "weights of %s", m->weights_path);
    if (status == CVY_OK) status = nn_weights_load(m->file, m->weights_path, params, 0, host);
    if (status == CVY_OK)
        status = m->backend->ops->copy_in(m->backend, m->weights, host,
                                          (size_t)params->n_elems * sizeof(float));
    cvy_free(host);
    return status;
}

static cvy_status open_parts(launch_served_model *m, const launch_serve_options *options)
{
    CVY_RETURN_IF_ERR(find_source(m, options));
    CVY_RETURN_IF_ERR(open_weights(m));
    CVY_RETURN_IF_ERR(options->arch != NULL ? describe_bare(m, options) : describe_run(m, options));
    CVY_RETURN_IF_ERR(make_pipeline(m, options));
    CVY_RETURN_IF_ERR(dataset_scratch_create(&m->scratch));
    CVY_RETURN_IF_ERR(open_net(m, options));
    cvy_safetensors_close(&m->file); /* its bytes are in the net now */
    return find_names(m, options->names_file);
}

cvy_status launch_served_model_open(const launch_serve_options *options, launch_served_model **out)
{
    launch_served_model *m = cvy_alloc_zero(1, sizeof *m);

    *out = NULL;
    if (m == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "model of %s", options->checkpoint);
    const cvy_status status = open_parts(m, options);
    if (status != CVY_OK) launch_served_model_close(&m);
    *out = m;
    return status;
}

void launch_served_model_close(launch_served_model **address)
{
    launch_served_model *m = *address;

    if (m == NULL) return;
    cvy_free(m->image);
    if (m->weights != NULL) m->backend->ops->release(m->backend, m->weights);
    nn_net_destroy(&m->net);
    nn_graph_destroy(&m->graph);
    nn_backend_close(&m->backend);
    cvy_free(m->number);
    cvy_free(m->name);
    cvy_free(m->names_text);
    dataset_scratch_destroy(&m->scratch);
    dataset_pipeline_destroy(&m->pipeline);
    dataset_store_close(&m->store);
    cvy_safetensors_close(&m->file);
    if (m->owns_section) cvy_node_destroy(&m->model_section);
    launch_job_close(&m->job);
    cvy_free(m);
    *address = NULL;
}

cvy_status launch_served_model_classify(launch_served_model *m, const uint8_t *bytes,
                                        size_t size_bytes, const float **out_logits,
                                        cvy_reason *reason)
{
    const dataset_datum datum = {.is_encoded = 1, .data = bytes, .data_bytes = size_bytes};
    const dataset_sample_key key = {.seed = 0};
    const nn_batch batch = {.n = 1, .images = m->image};

    CVY_RETURN_IF_ERR(
        dataset_pipeline_apply(m->pipeline, &datum, &key, m->scratch, m->image, reason));
    CVY_RETURN_IF_ERR(nn_net_forward(m->net, &batch, m->weights, NULL));
    return nn_net_logits(m->net, out_logits);
}
