#include "launch/command.h"
#include "launch/job_setup.h"
#include "launch/mpirun.h"
#include "launch/rank.h"
#include "launch/supervise.h"

#include <stdio.h>

typedef struct train_options {
    int64_t workers;
    launch_list sets;
    int is_from_scratch;
    int64_t max_restarts;
    const char *mpirun_args, *log_level;
} train_options;

#define FIELD(kind, member) kind, offsetof(train_options, member)

static const launch_option option_table[] = {
    {"workers", FIELD(LAUNCH_INT, workers), 1, 1000000, "N",
     "start mpirun with a coordinator and N workers (default: one process is both)"},
    {"set", FIELD(LAUNCH_LIST, sets), 0, 0, "KEY=VALUE",
     "override a key of the job: optimizer.momentum=0.8"},
    {"from-scratch", FIELD(LAUNCH_FLAG, is_from_scratch), 0, 0, NULL,
     "start anew even if no checkpoint of the run is whole"},
    {"max-restarts", FIELD(LAUNCH_INT, max_restarts), 0, 1000, "N",
     "restarts in a row without a newer checkpoint (default 3)"},
    {"mpirun-args", FIELD(LAUNCH_TEXT, mpirun_args), 0, 0, "WORDS",
     "more words for mpirun: \"--hostfile hosts\""},
    {"log-level", FIELD(LAUNCH_TEXT, log_level), 0, 0, "LEVEL",
     "error, warn, info (default), debug or trace"},
};

/* The job is read here already: what is wrong with it is said before anything is started. */
static int supervise(const train_options *options, const char *path, int argc, char **argv)
{
    launch_job job;
    cvy_status status = launch_job_load(path, &options->sets, &job);

    if (status != CVY_OK) return cvy_status_exit_code(status);
    int code = cvy_status_exit_code(CVY_ERR_CONFIG);
    if (options->workers > job.job.replicas) {
        (void)CVY_FAIL(CVY_ERR_CONFIG,
                       "--workers is %lld, but the job has %lld replicas: it can use 1 to %lld "
                       "workers",
                       (long long)options->workers, (long long)job.job.replicas,
                       (long long)job.job.replicas);
    } else {
        const launch_supervise_options how = {.argc = argc,
                                              .argv = argv,
                                              .workers = (int)options->workers,
                                              .mpirun_args = options->mpirun_args,
                                              .run_folder = job.job.run,
                                              .max_restarts = (int)options->max_restarts};
        code = launch_supervise(&how);
    }
    launch_job_close(&job);
    return code;
}

static int run(int argc, char **argv)
{
    train_options options = {.max_restarts = 3};
    launch_list args;
    const int code = launch_parse(&launch_cmd_train, argc, argv, &options, 1, 1, &args);

    if (code >= 0) return code;
    if (!launch_log_level_is_known(options.log_level)) return cvy_status_exit_code(CVY_ERR_USAGE);
    if (!launch_inside_mpi() && launch_attempt() == 0)
        return supervise(&options, args.value[0], argc, argv);
    const launch_rank_options rank = {.job_path = args.value[0],
                                      .sets = &options.sets,
                                      .is_from_scratch = options.is_from_scratch,
                                      .log_level = options.log_level,
                                      .argc = argc,
                                      .argv = argv};
    return launch_rank_run(&rank);
}

const launch_command launch_cmd_train = {
    .name = "train",
    .usage = "JOB.yaml [--workers N] [--set KEY=VALUE]...",
    .summary =
        "Train the job of a file; go on from the newest checkpoint of its run folder if there "
        "is one.",
    .details = "Under mpirun or srun each process becomes a rank: 0 the coordinator, the others\n"
               "workers. Exit codes: 0 done, 75 stopped and saved (start again to go on), 78 bad\n"
               "job file, 65 bad data, 66 missing input, 73 cannot write, 76 numeric failure,\n"
               "70 no progress.",
    .options = option_table,
    .n_options = sizeof option_table / sizeof option_table[0],
    .run = run,
};
