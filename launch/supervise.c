#include "launch/supervise.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/checkpoints.h"
#include "coordinator/records.h"
#include "launch/mpirun.h"
#include "launch/outcome.h"
#include "launch/processes_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOK_S         0.25 /* between looks at the ranks */
#define LINGER_S       1.0  /* mpirun without ranks */
#define BROKEN_S       3.0  /* some ranks dead, others not */
#define ESCALATE_S     2.0  /* from a second signal's SIGTERM to SIGKILL */
#define END_S          5.0  /* until what got SIGKILL has gone; what hangs in the kernel stays */
#define MAX_NAMED      256  /* ranks of this host that can be told apart */
#define RESTART_WAIT_S 0.1
#define ONE_REQUEST_S  0.3 /* signals this close are one request: Slurm and systemd hit everyone */

typedef struct supervisor {
    const launch_supervise_options *options;
    char *program; /* of this process */
    char program_name[LAUNCH_NAME_BYTES];
    char **child_argv; /* of mpirun or of the program, NULL-terminated */
    int owns_argv;     /* made by launch_mpirun_argv */
    char outcome_path[256];
    sigset_t watched;
    int attempt;
    int n_stops;           /* requests to stop so far */
    double stopped_at_s;   /* the last of them */
    double escalated_at_s; /* 0: not */
} supervisor;

static cvy_status open_outcome(supervisor *s)
{
    const char *folder = getenv("TMPDIR");

    if (folder != NULL && strlen(folder) > sizeof s->outcome_path - 32) {
        return CVY_FAIL(CVY_ERR_CANNOT_WRITE, "the path in TMPDIR is too long: %s", folder);
    }
    snprintf(s->outcome_path, sizeof s->outcome_path, "%s/convoy-outcome-XXXXXX",
             folder != NULL && folder[0] == '/' ? folder : "/tmp");
    const int fd = mkostemp(s->outcome_path, O_CLOEXEC);
    if (fd < 0) {
        const cvy_status status = cvy_status_from_errno(errno);
        return CVY_FAIL(status == CVY_ERR_NOT_FOUND ? CVY_ERR_CANNOT_WRITE : status,
                        "make %s: %s: let TMPDIR name a folder that can be written to",
                        s->outcome_path, strerror(errno));
    }
    (void)close(fd);
    return CVY_OK;
}

/* What the ranks learn of this launch. */
static cvy_status set_environment(supervisor *s)
{
    char number[32];
    struct winsize size = {0};

    if (truncate(s->outcome_path, 0) != 0)
        return CVY_FAIL(CVY_ERR_IO, "truncate %s: %s", s->outcome_path, strerror(errno));
    snprintf(number, sizeof number, "%d", s->attempt);
    int failed = setenv("CONVOY_ATTEMPT", number, 1) | setenv("CONVOY_OUTCOME", s->outcome_path, 1);
    if (isatty(STDERR_FILENO) && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0) {
        snprintf(number, sizeof number, "%d", size.ws_col > 0 ? size.ws_col : 80);
        failed |= setenv("CONVOY_TERMINAL", number, 1);
    }
    return failed == 0 ? CVY_OK : CVY_FAIL(CVY_ERR_NO_MEMORY, "environment of the ranks");
}

static cvy_status make_argv(supervisor *s)
{
    const launch_supervise_options *options = s->options;

    if (options->workers > 0) {
        s->owns_argv = 1;
        return launch_mpirun_argv(s->program, options->argv, options->workers, options->mpirun_args,
                                  &s->child_argv);
    }
    s->child_argv = cvy_alloc_zero((size_t)options->argc + 2, sizeof *s->child_argv);
    if (s->child_argv == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "arguments of the job");
    s->child_argv[0] = s->program;
    for (int i = 0; i < options->argc; i++) s->child_argv[i + 1] = options->argv[i];
    return CVY_OK;
}

static void free_argv(supervisor *s)
{
    if (s->owns_argv)
        launch_mpirun_free(&s->child_argv);
    else
        cvy_free(s->child_argv);
    s->child_argv = NULL;
}

static void become_child(const supervisor *s, pid_t parent)
{
    sigset_t none;

    (void)setpgid(0, 0);
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(75); /* it died before that line */
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)execvp(s->child_argv[0], s->child_argv);
    fprintf(stderr, "convoy: start %s: %s\n", s->child_argv[0], strerror(errno));
    _exit(71);
}

/* Pass a stop on to the job: politely first, then not. */
static void pass_stop_on(supervisor *s, pid_t child)
{
    const double now_s = cvy_clock_now_s();

    if (s->n_stops > 0 && now_s - s->stopped_at_s < ONE_REQUEST_S) return;
    s->n_stops++;
    s->stopped_at_s = now_s;
    if (s->n_stops == 1) {
        (void)kill(child, SIGUSR1);
        return;
    }
    if (s->n_stops == 2) {
        cvy_log_warn("a second signal: ending the job at once");
        (void)launch_signal_descendants(SIGTERM);
        s->escalated_at_s = now_s;
    }
}

/* The ranks of mpirun on this host: has the job broken while mpirun does not see it? */
typedef struct rank_watch {
    launch_rank_process known[MAX_NAMED]; /* of the largest number seen together */
    int n_known;
    int has_dead, dead_rank; /* who was missing first */
    int n_most;
    double alone_since_s, broken_since_s;
} rank_watch;

/* Note which rank goes first: its death is what ends the others. */
static void watch_names(rank_watch *watch, const supervisor *s, pid_t mpirun)
{
    launch_rank_process now[MAX_NAMED];
    const int n = launch_list_ranks(mpirun, s->program_name, now, MAX_NAMED);

    if (n >= watch->n_known) {
        memcpy(watch->known, now, (size_t)n * sizeof *now);
        watch->n_known = n;
        return;
    }
    for (int i = 0; i < watch->n_known && !watch->has_dead; i++) {
        int is_here = 0;
        for (int k = 0; k < n && !is_here; k++) is_here = now[k].pid == watch->known[i].pid;
        if (is_here) continue;
        watch->has_dead = 1;
        watch->dead_rank = watch->known[i].rank;
    }
}

/* Only ranks count: what else mpirun starts, like ssh to other hosts, comes and goes. */
static int is_hanging(rank_watch *watch, const supervisor *s, pid_t mpirun, double now_s)
{
    int n_ever = 0;
    const int n = launch_count_children(mpirun, s->program_name, &n_ever);

    if (n < 0) return 0;
    if (n_ever > watch->n_most) watch->n_most = n_ever;
    if (watch->n_most == 0) return 0;
    if (!watch->has_dead) watch_names(watch, s, mpirun);
    if (n > 0) watch->alone_since_s = now_s;
    if (n == watch->n_most) watch->broken_since_s = now_s;
    return now_s - watch->alone_since_s > LINGER_S || now_s - watch->broken_since_s > BROKEN_S;
}

/* Ranks that a dead mpirun left behind came to this process as its children. */
static void end_orphans(void)
{
    const cvy_deadline deadline = cvy_deadline_in_s(END_S);

    while (launch_signal_descendants(SIGKILL) > 0 && !cvy_deadline_is_past(deadline)) {
        launch_reap();
        cvy_clock_sleep_s(0.01);
    }
    launch_reap();
}

static void wait_for_child(supervisor *s, pid_t child, launch_ending *out)
{
    const struct timespec nap = {.tv_nsec = (long)(LOOK_S * 1e9)};
    rank_watch watch = {.alone_since_s = cvy_clock_now_s(), .broken_since_s = cvy_clock_now_s()};

    for (;;) {
        const int number = sigtimedwait(&s->watched, NULL, &nap);
        if (number > 0 && number != SIGCHLD) pass_stop_on(s, child);
        if (waitpid(child, &out->wait_status, WNOHANG) == child) break;
        const double now_s = cvy_clock_now_s();
        const int is_overdue = s->escalated_at_s > 0 && now_s - s->escalated_at_s > ESCALATE_S;
        const int is_stuck = s->options->workers > 0 && is_hanging(&watch, s, child, now_s);
        if (!is_overdue && !is_stuck) continue;
        out->was_killed = 1;
        (void)launch_signal_descendants(SIGKILL);
        while (waitpid(child, &out->wait_status, 0) < 0 && errno == EINTR) {}
        break;
    }
    out->has_begun = s->options->workers == 0 || watch.n_most > 0;
    out->has_dead_rank = watch.has_dead;
    out->dead_rank = watch.dead_rank;
    end_orphans();
}

static cvy_status run_once(supervisor *s, launch_ending *out)
{
    const pid_t parent = getpid();

    *out = (launch_ending){.was_killed = 0};
    CVY_RETURN_IF_ERR(set_environment(s));
    CVY_RETURN_IF_ERR(make_argv(s));
    const pid_t child = fork();
    if (child == 0) become_child(s, parent);
    if (child < 0) {
        free_argv(s);
        return CVY_FAIL(CVY_ERR_OS, "fork: %s", strerror(errno));
    }
    (void)setpgid(child, child);
    wait_for_child(s, child, out);
    free_argv(s);
    launch_outcome_read(s->outcome_path, &out->outcome);
    return CVY_OK;
}

static int64_t newest_step(const supervisor *s)
{
    const char *run = s->options->run_folder;
    return run != NULL ? coordinator_checkpoints_newest_step(run) : -1;
}

/* A failure that no rank could tell of is told here. */
static void say_end(const launch_ending *ending, int code, const char *how)
{
    if (code == 0 || ending->outcome.kind != LAUNCH_OUTCOME_NONE) return;
    if (!ending->has_begun)
        cvy_log_error(
            "%s: too few slots, a host that cannot be reached, or words it does not know in "
            "--mpirun-args",
            how);
    else if (code == cvy_status_exit_code(CVY_ERR_PEER_LOST))
        cvy_log_error("the launch ended: %s", how);
}

/* A launch that did not end by itself left no word in the run folder: leave one for it, and let
 * what is logged next be in its log too. Without the folder there is nothing to note. */
static void open_run_log(const supervisor *s, const char *how, int *out_fd)
{
    char path[4096];
    coordinator_records *events = NULL;

    *out_fd = -1;
    if (s->options->run_folder == NULL) return;
    snprintf(path, sizeof path, "%s/events.jsonl", s->options->run_folder);
    if (access(path, F_OK) != 0) return;
    if (coordinator_records_open(path, -1, &events) == CVY_OK)
        coordinator_records_append(events, json_pack("{s:s, s:i, s:s}", "event", "ended", "attempt",
                                                     s->attempt, "how", how));
    coordinator_records_close(&events);
    snprintf(path, sizeof path, "%s/convoy.log", s->options->run_folder);
    *out_fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
    cvy_log_copy_to(*out_fd);
}

static void close_run_log(int fd)
{
    cvy_log_copy_to(-1);
    if (fd >= 0) (void)close(fd);
}

/* Say what becomes of a job whose launch ended badly; 0: it is given up. */
static int go_on(const supervisor *s, const char *how, int64_t step, int n_vain)
{
    const int is_hopeless = n_vain > s->options->max_restarts;
    int fd = -1;

    open_run_log(s, how, &fd);
    if (is_hopeless) {
        cvy_log_error("launch %d ended: %s; %d restarts brought no checkpoint after step %lld: "
                      "giving up",
                      s->attempt, how, s->options->max_restarts, (long long)step);
    } else {
        cvy_log_warn("launch %d ended: %s; starting again from step %lld (try %d of %d without a "
                     "newer checkpoint)",
                     s->attempt, how, (long long)step, n_vain, s->options->max_restarts);
    }
    close_run_log(fd);
    return !is_hopeless;
}

static int run_to_end(supervisor *s)
{
    int64_t known_step = newest_step(s);
    int n_vain = 0; /* restarts in a row without a newer checkpoint */

    for (s->attempt = 1;; s->attempt++) {
        launch_ending ending;
        char how[160];
        const cvy_status status = run_once(s, &ending);
        if (status != CVY_OK) return cvy_status_exit_code(status);
        const int code = launch_ending_judge(&ending, s->n_stops > 0,
                                             s->options->run_folder != NULL);
        launch_ending_describe(&ending, how, sizeof how);
        if (code != LAUNCH_AGAIN) {
            say_end(&ending, code, how);
            return code;
        }

        const int64_t step = newest_step(s);
        n_vain = step > known_step ? 1 : n_vain + 1;
        known_step = step > known_step ? step : known_step;
        if (!go_on(s, how, known_step < 0 ? 0 : known_step, n_vain))
            return cvy_status_exit_code(CVY_ERR_NO_PROGRESS);
        cvy_clock_sleep_s(RESTART_WAIT_S);
    }
}

static cvy_status open_supervisor(supervisor *s)
{
    char path[4096];
    const ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);

    if (n <= 0) return CVY_FAIL(CVY_ERR_OS, "read /proc/self/exe: %s", strerror(errno));
    path[n] = 0;
    s->program = cvy_strdup(path);
    if (s->program == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of this program");
    launch_process_name(s->program, s->program_name);
    CVY_RETURN_IF_ERR(open_outcome(s));
    sigemptyset(&s->watched);
    sigaddset(&s->watched, SIGTERM);
    sigaddset(&s->watched, SIGINT);
    sigaddset(&s->watched, SIGUSR1);
    sigaddset(&s->watched, SIGCHLD);
    (void)sigprocmask(SIG_BLOCK, &s->watched, NULL);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1); /* orphaned ranks come here, to be ended */
    return CVY_OK;
}

int launch_supervise(const launch_supervise_options *options)
{
    supervisor s = {.options = options};
    cvy_status status = open_supervisor(&s);
    const int code = status == CVY_OK ? run_to_end(&s) : cvy_status_exit_code(status);

    if (s.outcome_path[0] != 0) (void)unlink(s.outcome_path);
    cvy_free(s.program);
    return code;
}
