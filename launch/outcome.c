#include "launch/outcome.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define FORMAT "%d %d %lld\n"

void launch_outcome_write(const launch_outcome *outcome)
{
    const char *path = getenv("CONVOY_OUTCOME");
    char text[96];

    if (path == NULL || path[0] == 0) return;
    const int n = snprintf(text, sizeof text, FORMAT, (int)outcome->kind, (int)outcome->status,
                           (long long)outcome->step);
    /* Made by the supervisor on its own host; a rank 0 elsewhere finds none and tells by its exit
     * code alone. */
    const int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return;
    if (write(fd, text, (size_t)n) != n) cvy_log_warn("write %s: %s", path, strerror(errno));
    (void)close(fd);
}

void launch_outcome_read(const char *path, launch_outcome *out)
{
    char text[96] = {0};
    int kind = 0, status = 0;
    long long step = 0;

    *out = (launch_outcome){.kind = LAUNCH_OUTCOME_NONE, .step = -1};
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return;
    const ssize_t n = read(fd, text, sizeof text - 1);
    (void)close(fd);
    if (n <= 0 || sscanf(text, FORMAT, &kind, &status, &step) != 3) return;
    if (kind < LAUNCH_OUTCOME_NONE || kind > LAUNCH_OUTCOME_FAILED) return;
    *out = (launch_outcome){
        .kind = (launch_outcome_kind)kind, .status = (cvy_status)status, .step = step};
}

/* Exit codes that another launch would end with as well. */
static int is_final(int code)
{
    static const int codes[] = {64, 65, 66, 69, 70, 71, 73, 76, 77, 78};

    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (codes[i] == code) return 1;
    return 0;
}

/* mpirun ends with 1 for what is wrong with its own arguments, hosts or slots; no rank does. */
static int was_refused(const launch_ending *ending, int code)
{
    return !ending->has_begun && code == 1;
}

int launch_ending_judge(const launch_ending *ending, int is_stop_asked, int can_go_on)
{
    const launch_outcome *outcome = &ending->outcome;
    const int is_told = outcome->kind != LAUNCH_OUTCOME_NONE;
    int code = WIFEXITED(ending->wait_status) ? WEXITSTATUS(ending->wait_status) : -1;

    if (outcome->kind == LAUNCH_OUTCOME_FAILED) code = cvy_status_exit_code(outcome->status);
    /* A rank 0 on another host tells by its exit code alone. */
    if (outcome->kind == LAUNCH_OUTCOME_FINISHED || (!is_told && code == 0)) return 0;
    if (outcome->kind == LAUNCH_OUTCOME_STOPPED) return cvy_status_exit_code(CVY_ERR_STOPPED);
    if (is_final(code)) return code; /* a stop whose state could not be saved, too */
    if (is_stop_asked) return cvy_status_exit_code(CVY_ERR_STOPPED);
    if (!is_told && was_refused(ending, code)) return cvy_status_exit_code(CVY_ERR_UNAVAILABLE);
    if (can_go_on) return LAUNCH_AGAIN;
    return is_told ? code : cvy_status_exit_code(CVY_ERR_PEER_LOST);
}

void launch_ending_describe(const launch_ending *ending, char *out, size_t out_size)
{
    const int status = ending->wait_status;
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    char who[32] = "a rank";

    if (ending->has_dead_rank) snprintf(who, sizeof who, "rank %d", ending->dead_rank);
    if (ending->outcome.kind == LAUNCH_OUTCOME_FAILED) {
        snprintf(out, out_size, "%s at step %lld", cvy_status_text(ending->outcome.status),
                 (long long)ending->outcome.step);
    } else if (ending->was_killed) {
        snprintf(out, out_size, "%s died and the rest could not go on", who);
    } else if (WIFSIGNALED(status)) {
        snprintf(out, out_size, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    } else if (was_refused(ending, code)) {
        snprintf(out, out_size, "mpirun started no rank");
    } else if (code > 128 && code < 128 + NSIG) {
        snprintf(out, out_size, "%s died of signal %d (%s)", who, code - 128,
                 strsignal(code - 128));
    } else {
        snprintf(out, out_size, "exit code %d without a word of rank 0", code);
    }
}
