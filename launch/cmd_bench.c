#include "base/config.h"
#include "launch/bench_report.h"
#include "launch/command.h"
#include "launch/job_setup.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    MAX_THREADS = 1024,
    MAX_MINIBATCH = 65536, /* as in job files */
    MAX_CLASSES = 10000000,
    MAX_STEPS = 1000000,
    DEFAULT_MINIBATCH = 32,
    DEFAULT_STEPS = 10,
    DEFAULT_WARMUP = 2
};

typedef struct bench_options {
    const char *arch, *image, *mode, *backend;
    int64_t classes, minibatch, threads, steps, warmup;
    int is_json;
} bench_options;

#define FIELD(kind, member) kind, offsetof(bench_options, member)

static const launch_option option_table[] = {
    {"arch", FIELD(LAUNCH_TEXT, arch), 0, 0, "NAME", "a net, of `convoy help models`"},
    {"image", FIELD(LAUNCH_TEXT, image), 0, 0, "CxHxW",
     "shape of an image (default: as published, or of the job's dataset)"},
    {"classes", FIELD(LAUNCH_INT, classes), 1, MAX_CLASSES, "N",
     "outputs (default: the job's, else 10, or 1000 for images of 64 pixels and more)"},
    {"minibatch", FIELD(LAUNCH_INT, minibatch), 1, MAX_MINIBATCH, "N",
     "images per step (default: the job's, else 32)"},
    {"threads", FIELD(LAUNCH_INT, threads), 1, MAX_THREADS, "N",
     "compute threads (default: the job's, else the processors this process may use)"},
    {"mode", FIELD(LAUNCH_TEXT, mode), 0, 0, "MODE",
     "train (default): forward, backward, SGD with momentum; eval: forward to the logits"},
    {"backend", FIELD(LAUNCH_TEXT, backend), 0, 0, "NAME",
     "device (default: the job's, else auto)"},
    {"steps", FIELD(LAUNCH_INT, steps), 1, MAX_STEPS, "N", "steps to time (default 10)"},
    {"warmup", FIELD(LAUNCH_INT, warmup), 0, MAX_STEPS, "N", "steps before these (default 2)"},
    {"json", FIELD(LAUNCH_FLAG, is_json), 0, 0, NULL, "print one JSON object"},
};

/* A net to run, and what its options point into. */
typedef struct bench_net {
    launch_job job; /* root NULL: none was given */
    launch_stepper_options options;
} bench_net;

/* --- Which net -------------------------------------------------------------------------------- */

static int usable_processors(void)
{
    cpu_set_t set;
    const int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;

    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n;
}

/* The shape of the job's images, by its datasets; adds the classes to the job's tree. */
static cvy_status ask_datasets(launch_job *job, launch_stepper_options *out)
{
    const worker_parts_options how = {.is_quiet = 1};
    worker_parts *parts = NULL;

    CVY_RETURN_IF_ERR(worker_parts_create(job->root, &job->job, &how, &parts));
    const nn_graph *graph = out->is_training || parts->eval_graph == NULL ? parts->train_graph
                                                                          : parts->eval_graph;
    const nn_shape batch = nn_graph_shape(graph, 0);
    out->image = nn_shape_of(3, &batch.dim[1]);
    worker_parts_destroy(&parts);
    return CVY_OK;
}

/* --arch and --classes as overrides of the job's keys. */
static cvy_status load_job(const char *path, const bench_options *options, launch_job *out)
{
    char arch[256], classes[64];
    launch_list sets = {.n = 0};

    if (options->arch != NULL) {
        snprintf(arch, sizeof arch, "model.arch=%s", options->arch);
        sets.value[sets.n++] = arch;
    }
    if (options->classes > 0) {
        snprintf(classes, sizeof classes, "model.classes=%lld", (long long)options->classes);
        sets.value[sets.n++] = classes;
    }
    return launch_job_load(path, &sets, out);
}

/* A job that leaves the classes to its dataset gets some where that is not asked. */
static cvy_status add_classes(cvy_node *model, const nn_shape *image)
{
    char text[32];

    if (!cvy_node_is_null(cvy_node_find(model, "classes"))) return CVY_OK;
    cvy_node_remove(model, "classes"); /* null */
    snprintf(text, sizeof text, "%lld", (long long)launch_default_classes(image));
    return cvy_node_add(model, "classes", text);
}

/* The model of a job file, and what else it decides of a step. */
static cvy_status take_job(const char *path, const bench_options *options, bench_net *net)
{
    launch_stepper_options *o = &net->options;

    CVY_RETURN_IF_ERR(load_job(path, options, &net->job));
    const cvy_job *job = &net->job.job;
    if (options->minibatch == 0) {
        const int64_t of_evaluation = job->evaluate.minibatch;
        o->minibatch = !o->is_training && of_evaluation > 0 ? of_evaluation : job->minibatch;
    }
    if (options->threads == 0 && job->threads > 0) o->threads = job->threads;
    if (options->backend == NULL) o->backend = job->device;
    o->model = cvy_config_section(cvy_node_find(net->job.root, "model"));
    const cvy_node *arch = cvy_node_find(o->model, "arch");
    o->arch = cvy_node_is_null(arch) ? "net" : cvy_node_text(arch);
    if (o->arch == NULL) o->arch = "net"; /* a list: refused when the net is built */
    return o->image.n_dims == 0 ? ask_datasets(&net->job, o) : add_classes(o->model, &o->image);
}

/* --- Measuring -------------------------------------------------------------------------------- */

static cvy_status end_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return CVY_OK;
    return CVY_FAIL(CVY_ERR_CANNOT_WRITE, "write figures to stdout: %s", strerror(errno));
}

/* Best of a few rounds: fewer when few steps are wanted, for then the answer is wanted soon. */
static cvy_status measure_ceilings(const bench_options *options, int64_t threads,
                                   launch_ceilings *out)
{
    enum { MIN_ROUNDS = 3, MAX_ROUNDS = 10 };
    const int64_t n = options->steps < MIN_ROUNDS   ? MIN_ROUNDS
                      : options->steps > MAX_ROUNDS ? MAX_ROUNDS
                                                    : options->steps;
    launch_ceiling_meter *meter = NULL;

    CVY_RETURN_IF_ERR(launch_ceilings_open((int)threads, &meter));
    launch_ceilings_measure(meter, n, out);
    launch_ceilings_close(&meter);
    return CVY_OK;
}

static json_t *head_json(const launch_ceilings *ceilings)
{
    char host[256] = "";

    (void)gethostname(host, sizeof host - 1);
    return launch_json_with(json_pack("{s:s, s:s}", "convoy", CONVOY_VERSION, "host", host),
                            "ceilings", launch_ceilings_json(ceilings));
}

static cvy_status report(const bench_options *options, const launch_stepper *s,
                         const launch_step_figures *figures, const launch_table *table,
                         const launch_ceilings *ceilings)
{
    if (options->is_json) {
        json_t *object = launch_json_with(head_json(ceilings), "step",
                                          launch_stepper_json(s, figures));
        return launch_json_print(launch_report_table_json(object, table, ceilings));
    }
    launch_report_ceilings(ceilings);
    launch_report_step(s, figures, options->warmup, ceilings);
    printf("\npeak: of %.1f GFLOP/s, by the FLOPs of direct convolutions, of which Winograd's need "
           "fewer.\nmem: time of the least traffic (inputs and outputs once) at %.1f GB/s, of the "
           "time taken: near\n100 %% memory is the limit; caches may give more.\n",
           ceilings->gflops, ceilings->gbytes_per_s);
    CVY_RETURN_IF_ERR(launch_report_table(table, s->options->is_training, ceilings));
    return end_output();
}

/* Steps first: the arrays of the ceilings would count in the process's peak memory. */
static cvy_status measure_net(const bench_options *options, launch_stepper *s)
{
    launch_step_figures figures;
    launch_ceilings ceilings;
    launch_table table;

    for (int64_t i = 0; i < options->warmup; i++) CVY_RETURN_IF_ERR(launch_stepper_step(s));
    CVY_RETURN_IF_ERR(launch_stepper_start_profile(s));
    CVY_RETURN_IF_ERR(launch_stepper_measure(s, options->steps, &figures));
    CVY_RETURN_IF_ERR(measure_ceilings(options, s->options->threads, &ceilings));
    CVY_RETURN_IF_ERR(launch_stepper_table(s, figures.time_s.mean, &table));
    const cvy_status status = report(options, s, &figures, &table, &ceilings);
    launch_table_free(&table);
    return status;
}

static cvy_status bench_net_run(const bench_options *options, const char *job_path, bench_net *net)
{
    launch_stepper s = {0};
    cvy_status status = CVY_OK;

    if (job_path != NULL) {
        CVY_RETURN_IF_ERR(take_job(job_path, options, net));
    } else {
        launch_stepper_complete(&net->options);
    }
    status = launch_stepper_open(&net->options, &s);
    if (status == CVY_OK) status = measure_net(options, &s);
    launch_stepper_close(&s);
    return status;
}

static cvy_status bench_machine(const bench_options *options, int64_t threads)
{
    launch_ceilings ceilings;

    CVY_RETURN_IF_ERR(measure_ceilings(options, threads, &ceilings));
    if (options->is_json) return launch_json_print(head_json(&ceilings));
    launch_report_ceilings(&ceilings);
    return end_output();
}

static int run(int argc, char **argv)
{
    bench_options options = {.steps = DEFAULT_STEPS, .warmup = DEFAULT_WARMUP};
    bench_net net = {.job = {.root = NULL}};
    launch_list args;
    const int code = launch_parse(&launch_cmd_bench, argc, argv, &options, 0, 1, &args);

    if (code >= 0) return code;
    const int is_eval = options.mode != NULL && strcmp(options.mode, "eval") == 0;
    if (options.mode != NULL && !is_eval && strcmp(options.mode, "train") != 0) {
        return launch_usage_error(&launch_cmd_bench, "--mode is '%s', expected train or eval",
                                  options.mode);
    }
    if (options.image != NULL && launch_image_parse(options.image, &net.options.image) != CVY_OK) {
        return launch_usage_error(
            &launch_cmd_bench, "--image is '%s', expected CxHxW such as 3x224x224", options.image);
    }
    const char *job_path = args.n > 0 ? args.value[0] : NULL;
    const int has_net = job_path != NULL || options.arch != NULL;
    if (!has_net && (options.image != NULL || options.classes > 0 || options.minibatch > 0 ||
                     options.backend != NULL || options.mode != NULL)) {
        return launch_usage_error(&launch_cmd_bench,
                                  "there is no net: give --arch NAME or a job file");
    }
    launch_stepper_options *o = &net.options;
    o->arch = options.arch;
    o->classes = options.classes;
    o->backend = options.backend != NULL ? options.backend : "auto";
    o->minibatch = options.minibatch > 0 ? options.minibatch : DEFAULT_MINIBATCH;
    o->threads = options.threads > 0 ? options.threads : usable_processors();
    o->is_training = !is_eval;
    const cvy_status status = has_net ? bench_net_run(&options, job_path, &net)
                                      : bench_machine(&options, o->threads);
    launch_job_close(&net.job);
    return cvy_status_exit_code(status);
}

const launch_command launch_cmd_bench = {
    .name = "bench",
    .usage = "[JOB.yaml] [--arch NAME]",
    .summary =
        "What this machine can do, and where the time of a net's step goes, by layer and pass.",
    .details =
        "Without a net only the ceilings are measured: float32 multiply-adds and memory "
        "bandwidth,\n"
        "with one thread and with all. With one, by --arch or as a job has it (then options\n"
        "override the job's), steps on random images are timed: no data loading, no "
        "communication.\n"
        "A job's images have the shape that its dataset gives them; --image needs no dataset.\n"
        "Layers are listed the slowest first; bench/README.md says how each figure is counted.",
    .options = option_table,
    .n_options = sizeof option_table / sizeof option_table[0],
    .run = run,
};
