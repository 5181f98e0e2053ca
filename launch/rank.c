#include "launch/rank.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/log.h"
#include "comm/comm.h"
#include "launch/job_setup.h"
#include "launch/mpirun.h"
#include "launch/outcome.h"
#include "launch/rank_internal.h"
#include "worker/worker.h"

#include <errno.h>
#include <mpi.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Signals that come this close are one request: Slurm, systemd and docker hit every process of a
 * job, and the supervisor and mpirun hand on what hit them. */
#define ONE_REQUEST_NS 300000000LL

/* Handlers can reach nothing but these: the one state that is found, not passed. */
static volatile sig_atomic_t stop_signal, n_stop_signals;
static volatile sig_atomic_t exit_code_of_alarm;
static int64_t stopped_at_ns; /* the handler's alone: it masks its own signals */

static void on_stop(int number)
{
    const int errno_before = errno;
    struct timespec now = {0};

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    const int64_t now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    errno = errno_before;
    if (n_stop_signals > 0 && now_ns - stopped_at_ns < ONE_REQUEST_NS) return;
    stopped_at_ns = now_ns;
    stop_signal = number;
    if (n_stop_signals < 100) n_stop_signals++;
}

/* mpirun that is told to end its job sends SIGCONT first, SIGTERM and SIGKILL much later: its
 * SIGCONT is the polite request. A shell's SIGCONT to a stopped job comes from elsewhere. */
static void on_continue(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (info->si_code == SI_USER && info->si_pid == getppid()) stop_signal = number;
}

static void on_alarm(int number)
{
    (void)number;
    _exit((int)exit_code_of_alarm);
}

static void install_handlers(void)
{
    const int numbers[] = {SIGTERM, SIGINT, SIGUSR1};
    struct sigaction action;

    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        (void)sigaddset(&action.sa_mask, numbers[i]);
    action.sa_flags = SA_RESTART;
    action.sa_handler = on_stop;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        (void)sigaction(numbers[i], &action, NULL);
    action.sa_handler = on_alarm;
    (void)sigaction(SIGALRM, &action, NULL);
    if (!launch_inside_mpi()) return;
    action.sa_flags = SA_RESTART | SA_SIGINFO;
    action.sa_sigaction = on_continue;
    (void)sigaction(SIGCONT, &action, NULL);
}

int launch_attempt(void)
{
    const char *text = getenv("CONVOY_ATTEMPT");
    return text != NULL ? atoi(text) : 0;
}

static int terminal_columns(void)
{
    const char *text = getenv("CONVOY_TERMINAL");
    const int columns = text != NULL ? atoi(text) : 0;
    return columns >= 20 ? columns : 0;
}

/* --- The job, from rank 0 to all ------------------------------------------------------------- */

/* On rank 0: read the job, make its parts once to check them, and give the resolved text. */
static cvy_status resolve_job(launch_rank *r, char **out_text)
{
    const worker_parts_options parts_options = {.is_evaluation = r->options->evaluate_checkpoint !=
                                                                 NULL};

    CVY_RETURN_IF_ERR(launch_job_load(r->options->job_path, r->options->sets, &r->job));
    if (r->n_workers > r->job.job.replicas) {
        return CVY_FAIL(
            CVY_ERR_CONFIG, "%d workers for %lld replicas: this job can use 1 to %lld workers",
            r->n_workers, (long long)r->job.job.replicas, (long long)r->job.job.replicas);
    }
    CVY_RETURN_IF_ERR(worker_parts_create(r->job.root, &r->job.job, &parts_options, &r->parts));
    launch_job_describe(&r->job, r->parts, &r->described);
    return cvy_node_print(r->job.root, out_text);
}

/* Rank 0's job to every rank of the world. Collective. */
static cvy_status share_job(launch_rank *r)
{
    cvy_status status = CVY_OK;
    char *text = NULL;
    size_t size_bytes = 0;
    const cvy_deadline deadline = cvy_deadline_in_s(START_DEADLINE_S);

    if (comm_rank(r->world) == 0) {
        status = resolve_job(r, &text);
        size_bytes = text != NULL ? strlen(text) : 0;
    }
    CVY_GOTO_IF_ERR(done, status, comm_agree(r->world, status, deadline));
    CVY_GOTO_IF_ERR(done, status,
                    comm_bcast_block(r->world, (void **)&text, &size_bytes, 0, deadline));
    if (comm_rank(r->world) != 0) status = launch_job_parse(text, size_bytes, &r->job);
    status = comm_agree(r->world, status, deadline);

done:
    cvy_free(text);
    return status;
}

/* --- Rank 0 and the others ------------------------------------------------------------------- */

static cvy_status coordinate(launch_rank *r)
{
    const coordinator_options options = {.world = r->world,
                                         .root = r->job.root,
                                         .job = &r->job.job,
                                         .parts = &r->described,
                                         .signal = &stop_signal,
                                         .n_signals = &n_stop_signals,
                                         .columns = terminal_columns(),
                                         .attempt = launch_attempt() > 0 ? launch_attempt() : 1,
                                         .is_from_scratch = r->options->is_from_scratch,
                                         .evaluate_checkpoint = r->options->evaluate_checkpoint,
                                         .evaluate_out = r->options->evaluate_out};
    return coordinator_run(&options, &r->result);
}

static cvy_status work(launch_rank *r)
{
    const worker_options options = {.world = r->world,
                                    .workers = r->workers,
                                    .root = r->job.root,
                                    .job = &r->job.job,
                                    .is_evaluation = r->options->evaluate_checkpoint != NULL,
                                    .signal = &stop_signal};
    return worker_run(&options, &r->is_worker_clean);
}

static void tell_outcome(const launch_rank *r, cvy_status status)
{
    launch_outcome outcome = {
        .kind = LAUNCH_OUTCOME_FAILED, .status = status, .step = r->result.step};

    if (status == CVY_OK) outcome.kind = LAUNCH_OUTCOME_FINISHED;
    if (status == CVY_ERR_STOPPED) outcome.kind = LAUNCH_OUTCOME_STOPPED;
    launch_outcome_write(&outcome);
}

static void close_rank(launch_rank *r)
{
    cvy_free(r->result.evaluation_json);
    worker_parts_destroy(&r->parts);
    launch_job_close(&r->job);
    comm_close(&r->workers);
    comm_close(&r->world);
}

/* The end of rank 0: a result that cannot be told is a failure. */
static int report_result(const launch_rank *r, cvy_status status)
{
    tell_outcome(r, status);
    if (status == CVY_OK && r->options->on_result != NULL)
        status = r->options->on_result(&r->result);
    return cvy_status_exit_code(status);
}

/* --- Under MPI ------------------------------------------------------------------------------- */

/* N tasks that each believe to be alone: they were started by a launcher MPI knows nothing of. */
static cvy_status check_world(int world_size)
{
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");

    if (world_size > 1) return CVY_OK;
    if (tasks != NULL && atoi(tasks) > 1) {
        return CVY_FAIL(CVY_ERR_CONFIG,
                        "%s tasks, world of 1: start with mpirun, or with srun --mpi=pmix", tasks);
    }
    return CVY_FAIL(CVY_ERR_CONFIG,
                    "a world of 1 rank has no worker: start at least 2 ranks, or without mpirun");
}

static cvy_status run_under_mpi(launch_rank *r)
{
    const cvy_deadline deadline = cvy_deadline_in_s(START_DEADLINE_S);

    CVY_RETURN_IF_ERR(comm_mpi_open(deadline, &r->world));
    r->n_workers = comm_size(r->world) - 1;
    CVY_RETURN_IF_ERR(check_world(comm_size(r->world)));
    CVY_RETURN_IF_ERR(launch_compare_ranks(r, deadline));
    CVY_RETURN_IF_ERR(share_job(r));
    CVY_RETURN_IF_ERR(comm_group(r->world, 1, r->n_workers, deadline, &r->workers));
    r->has_begun = 1;
    return comm_rank(r->world) == 0 ? coordinate(r) : work(r);
}

/* Leave without waiting for anyone: peers may be dead, and requests open into our memory. */
static void leave_at_once(int code)
{
    fflush(NULL);
    _exit(code);
}

static int run_mpi_rank(launch_rank *r)
{
    int provided = 0, rank = 0;

    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
        fprintf(stderr, "convoy: MPI_Init_thread failed\n");
        return cvy_status_exit_code(CVY_ERR_UNAVAILABLE);
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    cvy_log_open(r->log_level, rank);
    cvy_fault_open(rank);
    install_handlers(); /* after MPI_Init, which may install its own */

    const cvy_status status = run_under_mpi(r);
    const int code = rank == 0 ? report_result(r, status) : cvy_status_exit_code(status);
    /* A failure may find workers in the middle of a command: those leave without MPI's end, and the
     * others would wait for them in it. */
    const int has_failed = r->has_begun && status != CVY_OK && status != CVY_ERR_STOPPED;
    const int is_hasty = status == CVY_ERR_PEER_LOST || n_stop_signals > 1;
    if (has_failed && !is_hasty) cvy_clock_sleep_s(LEAVE_TOGETHER_S);
    if (is_hasty || has_failed || (r->workers != NULL && !r->is_worker_clean)) leave_at_once(code);
    /* All ranks come here, or one has just died and would keep MPI waiting. */
    exit_code_of_alarm = code;
    (void)alarm(FINALIZE_LIMIT_S);
    close_rank(r);
    MPI_Finalize();
    (void)alarm(0);
    return code;
}

/* --- Both parts in one process --------------------------------------------------------------- */

static void *worker_thread(void *arg)
{
    launch_rank *r = arg;

    r->worker_status = comm_group(r->world, 1, 1, cvy_deadline_in_s(START_DEADLINE_S), &r->workers);
    if (r->worker_status == CVY_OK) r->worker_status = work(r);
    return NULL;
}

static cvy_status run_both(launch_rank *coordinator, launch_rank *worker)
{
    pthread_t thread;
    sigset_t stop, old;
    comm *none = NULL;
    char *text = NULL;

    CVY_RETURN_IF_ERR(comm_self_open(&coordinator->world, &worker->world));
    coordinator->n_workers = 1;
    CVY_RETURN_IF_ERR(resolve_job(coordinator, &text));
    const cvy_status parsed = launch_job_parse(text, strlen(text), &worker->job);
    cvy_free(text);
    CVY_RETURN_IF_ERR(parsed);

    sigfillset(&stop);
    (void)pthread_sigmask(SIG_SETMASK, &stop, &old); /* signals are the coordinator's */
    const int error = pthread_create(&thread, NULL, worker_thread, worker);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error != 0) return CVY_FAIL(CVY_ERR_OS, "thread of the worker: %s", strerror(error));

    cvy_status status = comm_group(coordinator->world, 1, 1, cvy_deadline_in_s(START_DEADLINE_S),
                                   &none);
    if (status == CVY_OK) status = coordinate(coordinator);
    if (status == CVY_ERR_PEER_LOST) {
        tell_outcome(coordinator, status);
        leave_at_once(cvy_status_exit_code(status));
    }
    exit_code_of_alarm = cvy_status_exit_code(status);
    (void)alarm(FINALIZE_LIMIT_S);
    (void)pthread_join(thread, NULL);
    (void)alarm(0);
    return status;
}

static int run_alone(launch_rank *r)
{
    launch_rank worker = {.options = r->options};

    cvy_log_open(r->log_level, 0);
    cvy_fault_open(0);
    install_handlers();
    const cvy_status status = run_both(r, &worker);
    const int code = report_result(r, status);
    close_rank(&worker);
    close_rank(r);
    return code;
}

int launch_log_level_is_known(const char *text)
{
    cvy_log_level level = CVY_LOG_INFO;

    if (text == NULL || cvy_log_level_from_text(text, &level) == CVY_OK) return 1;
    fprintf(stderr, "convoy: --log-level is '%s', expected error, warn, info, debug or trace\n",
            text);
    return 0;
}

int launch_rank_run(const launch_rank_options *options)
{
    launch_rank r = {.options = options, .log_level = CVY_LOG_INFO};

    if (options->log_level != NULL) (void)cvy_log_level_from_text(options->log_level, &r.log_level);
    return launch_inside_mpi() ? run_mpi_rank(&r) : run_alone(&r);
}
