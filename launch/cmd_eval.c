#include "base/log.h"
#include "launch/command.h"
#include "launch/job_setup.h"
#include "launch/mpirun.h"
#include "launch/rank.h"
#include "launch/supervise.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct eval_options {
    int64_t workers;
    launch_list sets;
    const char *checkpoint, *out, *mpirun_args, *log_level;
    int is_json;
} eval_options;

#define FIELD(kind, member) kind, offsetof(eval_options, member)

static const launch_option option_table[] = {
    {"checkpoint", FIELD(LAUNCH_TEXT, checkpoint), 0, 0, "PATH",
     "checkpoint folder, run folder (its newest) or safetensors file"},
    {"workers", FIELD(LAUNCH_INT, workers), 1, 1000000, "N",
     "start mpirun with a coordinator and N workers (default: one process is both)"},
    {"set", FIELD(LAUNCH_LIST, sets), 0, 0, "KEY=VALUE", "override a key of the job"},
    {"out", FIELD(LAUNCH_TEXT, out), 0, 0, "FILE", "write the result as JSON to a file"},
    {"json", FIELD(LAUNCH_FLAG, is_json), 0, 0, NULL, "print the result as JSON"},
    {"mpirun-args", FIELD(LAUNCH_TEXT, mpirun_args), 0, 0, "WORDS", "more words for mpirun"},
    {"log-level", FIELD(LAUNCH_TEXT, log_level), 0, 0, "LEVEL",
     "error, warn (default), info, debug or trace"},
};

/* A pipe may be closed or a disk full: then the figures are nowhere. */
static cvy_status end_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return CVY_OK;
    return CVY_FAIL(CVY_ERR_CANNOT_WRITE, "write the result to stdout: %s", strerror(errno));
}

static cvy_status print_text(const coordinator_result *result)
{
    const double n = result->n_records > 0 ? (double)result->n_records : 1.0;

    printf("step %lld: %lld records, loss %.6f, top-1 %.2f %% (%lld), top-5 %.2f %% (%lld)\n",
           (long long)result->step, (long long)result->n_records, result->loss,
           100 * (double)result->n_top1 / n, (long long)result->n_top1,
           100 * (double)result->n_top5 / n, (long long)result->n_top5);
    return end_output();
}

static cvy_status print_json(const coordinator_result *result)
{
    printf("%s", result->evaluation_json);
    return end_output();
}

/* Before hours of evaluation: can its result be written? */
static cvy_status check_out(const char *path)
{
    char folder[4096];
    const char *slash = strrchr(path, '/');
    const int n = slash != NULL ? (int)(slash - path) + 1 : 1;

    snprintf(folder, sizeof folder, "%.*s", n, slash != NULL ? path : ".");
    if (access(folder, W_OK | X_OK) == 0) return CVY_OK;
    return CVY_FAIL(CVY_ERR_CANNOT_WRITE, "--out %s: folder %s: %s", path, folder, strerror(errno));
}

static int supervise(const eval_options *options, const char *path, int argc, char **argv)
{
    launch_job job;
    const cvy_status status = launch_job_load(path, &options->sets, &job);

    if (status != CVY_OK) return cvy_status_exit_code(status);
    launch_job_close(&job);
    const launch_supervise_options how = {.argc = argc,
                                          .argv = argv,
                                          .workers = (int)options->workers,
                                          .mpirun_args = options->mpirun_args};
    return launch_supervise(&how);
}

static int run(int argc, char **argv)
{
    eval_options options = {.log_level = "warn"};
    launch_list args;
    const int code = launch_parse(&launch_cmd_eval, argc, argv, &options, 1, 1, &args);

    if (code >= 0) return code;
    if (options.checkpoint == NULL)
        return launch_usage_error(&launch_cmd_eval, "--checkpoint PATH is missing");
    if (!launch_log_level_is_known(options.log_level)) return cvy_status_exit_code(CVY_ERR_USAGE);
    if (!launch_inside_mpi() && options.out != NULL && check_out(options.out) != CVY_OK)
        return cvy_status_exit_code(CVY_ERR_CANNOT_WRITE);
    if (!launch_inside_mpi() && launch_attempt() == 0 && options.workers > 0)
        return supervise(&options, args.value[0], argc, argv);
    const launch_rank_options rank = {.job_path = args.value[0],
                                      .sets = &options.sets,
                                      .log_level = options.log_level,
                                      .evaluate_checkpoint = options.checkpoint,
                                      .evaluate_out = options.out,
                                      .argc = argc,
                                      .argv = argv,
                                      .on_result = options.is_json ? print_json : print_text};
    return launch_rank_run(&rank);
}

const launch_command launch_cmd_eval = {
    .name = "eval",
    .usage = "JOB.yaml --checkpoint PATH [--workers N]",
    .summary = "Evaluate a checkpoint on the job's validation set: each record exactly once.",
    .details = "The figures and the JSON are the same bytes at any number of workers.",
    .options = option_table,
    .n_options = sizeof option_table / sizeof option_table[0],
    .run = run,
};
