/* Times steps of one net on synthetic data; one JSON line, or a table of its layers. */

#include "bench/harness.h"
#include "launch/bench_report.h"
#include "launch/figures.h"
#include "launch/stepper.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

enum { MAX_THREADS = 1024, MAX_STEPS = 1000000, MAX_CLASSES = 10000000, MAX_MINIBATCH = 1 << 20 };

static const char usage_text[] =
    "usage: bench_step --arch NAME [options]\n"
    "  --arch NAME       a net that convoy knows: resnet18\n"
    "  --image CxHxW     shape of an image (default: as published for the net)\n"
    "  --classes N       outputs (default 10; 1000 for images of 64 and more)\n"
    "  --minibatch N     images per step (default 32)\n"
    "  --threads N       threads (default 1)\n"
    "  --mode MODE       train (default): forward, backward, SGD with momentum; eval: logits\n"
    "  --backend NAME    backend (default cpu)\n"
    "  --warmup N        steps before the clock starts (default 2)\n"
    "  --steps N         steps to time (default 10)\n"
    "  --layers          a table of layers and passes, the slowest first, behind the figures\n"
    "  --serve           answer each line 'run N' on stdin with the figures of N steps\n";

typedef struct step_options {
    launch_stepper_options net;
    int64_t steps, warmup;
    int has_layers, is_server, is_help;
} step_options;

static cvy_status parse_image(const char *text, nn_shape *out)
{
    if (launch_image_parse(text, out) == CVY_OK) return CVY_OK;
    return CVY_FAIL(CVY_ERR_USAGE, "--image is '%s', expected CxHxW such as 3x224x224", text);
}

static cvy_status parse_mode(const char *text, int *out)
{
    if (strcmp(text, "train") != 0 && strcmp(text, "eval") != 0) {
        return CVY_FAIL(CVY_ERR_USAGE, "--mode is '%s', expected train or eval", text);
    }
    *out = strcmp(text, "train") == 0;
    return CVY_OK;
}

static cvy_status parse_one(int c, step_options *o)
{
    switch (c) {
    case 'a':
        o->net.arch = optarg;
        return CVY_OK;
    case 'b':
        o->net.backend = optarg;
        return CVY_OK;
    case 'i':
        return parse_image(optarg, &o->net.image);
    case 'o':
        return parse_mode(optarg, &o->net.is_training);
    case 'c':
        return bench_parse_count("--classes", optarg, 1, MAX_CLASSES, &o->net.classes);
    case 'm':
        return bench_parse_count("--minibatch", optarg, 1, MAX_MINIBATCH, &o->net.minibatch);
    case 't':
        return bench_parse_count("--threads", optarg, 1, MAX_THREADS, &o->net.threads);
    case 'n':
        return bench_parse_count("--steps", optarg, 1, MAX_STEPS, &o->steps);
    case 'w':
        return bench_parse_count("--warmup", optarg, 0, MAX_STEPS, &o->warmup);
    case 'l':
        o->has_layers = 1;
        return CVY_OK;
    case 's':
        o->is_server = 1;
        return CVY_OK;
    case 'h':
        o->is_help = 1;
        return CVY_OK;
    default:
        fputs(usage_text, stderr);
        return CVY_ERR_USAGE;
    }
}

static cvy_status parse(int argc, char **argv, step_options *out)
{
    static const struct option table[] = {{"arch", required_argument, NULL, 'a'},
                                          {"image", required_argument, NULL, 'i'},
                                          {"classes", required_argument, NULL, 'c'},
                                          {"minibatch", required_argument, NULL, 'm'},
                                          {"threads", required_argument, NULL, 't'},
                                          {"mode", required_argument, NULL, 'o'},
                                          {"backend", required_argument, NULL, 'b'},
                                          {"warmup", required_argument, NULL, 'w'},
                                          {"steps", required_argument, NULL, 'n'},
                                          {"layers", no_argument, NULL, 'l'},
                                          {"serve", no_argument, NULL, 's'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    step_options options = {
        .net = {.backend = "cpu", .minibatch = 32, .threads = 1, .is_training = 1},
        .steps = 10,
        .warmup = 2};
    int c = 0;

    while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
        CVY_RETURN_IF_ERR(parse_one(c, &options));
    }
    if (options.is_help) {
        *out = options;
        return CVY_OK;
    }
    if (optind < argc) {
        fputs(usage_text, stderr);
        return CVY_FAIL(CVY_ERR_USAGE, "'%s' is not an option", argv[optind]);
    }
    if (options.has_layers && options.is_server) {
        return CVY_FAIL(CVY_ERR_USAGE, "--layers and --serve exclude each other");
    }
    if (options.net.arch == NULL) return CVY_FAIL(CVY_ERR_USAGE, "--arch is missing");
    launch_stepper_complete(&options.net);
    *out = options;
    return CVY_OK;
}

static cvy_status measure_steps(void *arg, int64_t n, json_t **out)
{
    launch_step_figures figures;

    CVY_RETURN_IF_ERR(launch_stepper_measure(arg, n, &figures));
    *out = launch_stepper_json(arg, &figures);
    return *out != NULL ? CVY_OK : CVY_FAIL(CVY_ERR_NO_MEMORY, "a line of figures");
}

/* The figures, and the table without the machine's ceilings: `convoy bench` measures them too. */
static cvy_status measure_layers(const step_options *options, launch_stepper *s)
{
    launch_step_figures figures;
    launch_table table;

    CVY_RETURN_IF_ERR(launch_stepper_start_profile(s));
    CVY_RETURN_IF_ERR(launch_stepper_measure(s, options->steps, &figures));
    CVY_RETURN_IF_ERR(launch_json_print(launch_stepper_json(s, &figures)));
    CVY_RETURN_IF_ERR(launch_stepper_table(s, figures.time_s.mean, &table));
    const cvy_status status = launch_report_table(&table, options->net.is_training, NULL);
    launch_table_free(&table);
    if (status == CVY_OK && fflush(stdout) != 0) {
        return CVY_FAIL(CVY_ERR_CANNOT_WRITE, "write to stdout: %s", strerror(errno));
    }
    return status;
}

static cvy_status measure(const step_options *options, launch_stepper *s)
{
    for (int64_t i = 0; i < options->warmup; i++) CVY_RETURN_IF_ERR(launch_stepper_step(s));
    if (options->is_server) {
        CVY_RETURN_IF_ERR(launch_json_print(json_pack("{s:s}", "ready", "convoy")));
        return bench_serve(measure_steps, s);
    }
    return options->has_layers ? measure_layers(options, s)
                               : bench_run_once(measure_steps, s, options->steps);
}

int main(int argc, char **argv)
{
    step_options options = {0};
    launch_stepper s = {0};
    cvy_status status = parse(argc, argv, &options);

    if (status != CVY_OK) return cvy_status_exit_code(status);
    if (options.is_help) return fputs(usage_text, stdout) == EOF ? 1 : 0;
    status = launch_stepper_open(&options.net, &s);
    if (status == CVY_OK) status = measure(&options, &s);
    launch_stepper_close(&s);
    return cvy_status_exit_code(status);
}
