#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "launch/command.h"
#include "launch/served_model.h"

#include <jansson.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#define IMAGE_LIMIT_BYTES ((size_t)256 << 20)
#define N_SHOWN           5

typedef struct predict_options {
    const char *checkpoint, *arch, *mean, *deviation, *names;
    int64_t classes, size, threads;
    int is_json;
} predict_options;

#define FIELD(kind, member) kind, offsetof(predict_options, member)

static const launch_option option_table[] = {
    {"checkpoint", FIELD(LAUNCH_TEXT, checkpoint), 0, 0, "PATH",
     "run folder, checkpoint folder, or with --arch a safetensors file"},
    {"arch", FIELD(LAUNCH_TEXT, arch), 0, 0, "NAME", "net of a bare file: resnet50, ..."},
    {"classes", FIELD(LAUNCH_INT, classes), 1, 1 << 24, "N",
     "classes of a bare file (default: as its weights say)"},
    {"size", FIELD(LAUNCH_INT, size), 1, 1 << 15, "PIXELS",
     "side of the net's input (default: the job's, or as published)"},
    {"mean", FIELD(LAUNCH_TEXT, mean), 0, 0, "A,B,C",
     "per channel in [0, 1] (default: the job's, or ImageNet's)"},
    {"deviation", FIELD(LAUNCH_TEXT, deviation), 0, 0, "A,B,C", "likewise"},
    {"names", FIELD(LAUNCH_TEXT, names), 0, 0, "FILE", "class names, one a line"},
    {"threads", FIELD(LAUNCH_INT, threads), 1, 1024, "N", "default: all processors"},
    {"json", FIELD(LAUNCH_FLAG, is_json), 0, 0, NULL,
     "one JSON object an image, with logits and probabilities"},
};

/* Softmax in double: exp(x - max) / sum. */
static void find_probabilities(const float *logits, int n, double *out)
{
    double max = (double)logits[0], sum = 0;

    for (int i = 1; i < n; i++) max = fmax(max, (double)logits[i]);
    for (int i = 0; i < n; i++) sum += out[i] = exp((double)logits[i] - max);
    for (int i = 0; i < n; i++) out[i] /= sum;
}

/* The best of those not yet taken; taken ones are marked in place by a probability of -1. */
static int take_best(double *probability, int n, double *out)
{
    int best = 0;

    for (int i = 1; i < n; i++)
        if (probability[i] > probability[best]) best = i;
    *out = probability[best];
    probability[best] = -1;
    return best;
}

static void print_text(const launch_served_model *model, const char *path, double *probability)
{
    const int n = launch_served_model_n_classes(model);

    printf("%s:", path);
    for (int i = 0; i < n && i < N_SHOWN; i++) {
        double p = 0;
        const int best = take_best(probability, n, &p);
        printf("%s %s %.4f", i > 0 ? "," : "", launch_served_model_class_name(model, best), p);
    }
    printf("\n");
}

static void print_json(const launch_served_model *model, const char *path, const float *logits,
                       const double *probability)
{
    const int n = launch_served_model_n_classes(model);
    json_t *all_logits = json_array(), *all_probabilities = json_array();
    int best = 0;

    for (int i = 0; i < n; i++) {
        if (probability[i] > probability[best]) best = i;
        (void)json_array_append_new(all_logits, json_real((double)logits[i]));
        (void)json_array_append_new(all_probabilities, json_real(probability[i]));
    }
    json_t *line = json_pack("{s:s, s:i, s:s, s:f, s:o, s:o}", "image", path, "class", best, "name",
                             launch_served_model_class_name(model, best), "confidence",
                             probability[best], "logits", all_logits, "probabilities",
                             all_probabilities);
    char *text = line != NULL ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    printf("%s\n", text != NULL ? text : "null");
    free(text);
    json_decref(line);
}

static cvy_status classify(launch_served_model *model, const predict_options *options,
                           const char *path, double *probability)
{
    char *bytes = NULL;
    size_t size_bytes = 0;
    const float *logits = NULL;
    cvy_reason reason = {""};

    cvy_status status = cvy_file_read(path, IMAGE_LIMIT_BYTES, &bytes, &size_bytes, &reason);
    if (status == CVY_OK)
        status = launch_served_model_classify(model, (const uint8_t *)bytes, size_bytes, &logits,
                                              &reason);
    cvy_free(bytes);
    if (status != CVY_OK) return CVY_FAIL(status, "%s: %s", path, reason.text);
    find_probabilities(logits, launch_served_model_n_classes(model), probability);
    if (options->is_json)
        print_json(model, path, logits, probability);
    else
        print_text(model, path, probability);
    return CVY_OK;
}

/* All images are tried; the first failure is the outcome. */
static cvy_status classify_all(const predict_options *options, const launch_serve_options *serve,
                               const launch_list *images)
{
    launch_served_model *model = NULL;
    cvy_status outcome = CVY_OK;

    CVY_RETURN_IF_ERR(launch_served_model_open(serve, &model));
    double *probability = cvy_alloc_zero((size_t)launch_served_model_n_classes(model),
                                         sizeof(double));
    if (probability == NULL) outcome = CVY_FAIL(CVY_ERR_NO_MEMORY, "probabilities");
    for (int i = 0; i < images->n && probability != NULL; i++) {
        const cvy_status status = classify(model, options, images->value[i], probability);
        if (outcome == CVY_OK) outcome = status;
    }
    cvy_free(probability);
    launch_served_model_close(&model);
    return outcome;
}

static int run(int argc, char **argv)
{
    predict_options options = {.threads = 0};
    launch_list images;
    const int code = launch_parse(&launch_cmd_predict, argc, argv, &options, 1, LAUNCH_LIST_MAX,
                                  &images);

    if (code >= 0) return code;
    if (options.checkpoint == NULL)
        return launch_usage_error(&launch_cmd_predict, "--checkpoint PATH is missing");
    cpu_set_t set;
    if (options.threads == 0)
        options.threads = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    const launch_serve_options serve = {.checkpoint = options.checkpoint,
                                        .arch = options.arch,
                                        .classes = options.classes,
                                        .size = options.size,
                                        .mean = options.mean,
                                        .deviation = options.deviation,
                                        .names_file = options.names,
                                        .threads = options.threads};
    return cvy_status_exit_code(classify_all(&options, &serve, &images));
}

const launch_command launch_cmd_predict = {
    .name = "predict",
    .usage = "--checkpoint PATH IMAGE...",
    .summary = "Classify image files (JPEG or PNG).",
    .details = "Without --json: the five most probable classes of each image.",
    .options = option_table,
    .n_options = sizeof option_table / sizeof option_table[0],
    .run = run,
};
