#include "base/log.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE_BYTES 2560 /* longer messages are cut */
#define LINE_BYTES    (MESSAGE_BYTES + 128)

static const char *const level_names[] = {"error", "warn", "info", "debug", "trace"};

/* What lines look like and where they go; under the lock, but for the level, which every call
 * reads. */
typedef struct log_state {
    int is_open;
    int rank;
    int copy_fd;
    cvy_log_sink sink;
    void *sink_arg;
} log_state;

static atomic_int log_level = CVY_LOG_INFO;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
/* Held for reading while a line is handed out, for writing while its receivers change: what a sink
 * or a copy needs may be freed once it was replaced. Readers do not shut each other out, so a sink
 * may log. */
static pthread_rwlock_t receivers_lock = PTHREAD_RWLOCK_INITIALIZER;
static log_state log_now = {.rank = -1, .copy_fd = -1};
static _Thread_local int n_softened;
static _Thread_local char *caught; /* of cvy_log_catch(); NULL: off */
static _Thread_local size_t caught_size;

void cvy_log_open(cvy_log_level level, int rank)
{
    atomic_store(&log_level, (int)level);
    pthread_mutex_lock(&log_lock);
    log_now.is_open = 1;
    log_now.rank = rank;
    pthread_mutex_unlock(&log_lock);
}

cvy_status cvy_log_level_from_text(const char *text, cvy_log_level *out)
{
    for (int i = 0; i <= CVY_LOG_TRACE; i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *out = (cvy_log_level)i;
            return CVY_OK;
        }
    }
    return CVY_ERR_INVALID_ARG;
}

void cvy_log_copy_to(int fd)
{
    pthread_rwlock_wrlock(&receivers_lock);
    pthread_mutex_lock(&log_lock);
    log_now.copy_fd = fd;
    pthread_mutex_unlock(&log_lock);
    pthread_rwlock_unlock(&receivers_lock);
}

void cvy_log_set_sink(cvy_log_sink sink, void *arg)
{
    pthread_rwlock_wrlock(&receivers_lock);
    pthread_mutex_lock(&log_lock);
    log_now.sink = sink;
    log_now.sink_arg = arg;
    pthread_mutex_unlock(&log_lock);
    pthread_rwlock_unlock(&receivers_lock);
}

void cvy_log_soften(int delta)
{
    n_softened += delta;
}

void cvy_log_catch(char *out, size_t out_size)
{
    caught = out;
    caught_size = out_size;
    if (out != NULL) out[0] = '\0';
}

/* Write a line and forget about failures: a full disk or a closed terminal must not stop training.
 * Without the mask a closed pipe would end the process by SIGPIPE. */
static void write_line(int fd, const char *line, size_t size_bytes)
{
    sigset_t pipe_set;
    sigset_t old_set;
    sigset_t pending_set;
    const struct timespec now = {0};
    int is_broken = 0;

    sigemptyset(&pipe_set);
    sigaddset(&pipe_set, SIGPIPE);
    sigemptyset(&pending_set);
    sigpending(&pending_set);
    const int was_pending = sigismember(&pending_set, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_set, &old_set);
    while (size_bytes > 0) {
        const ssize_t n_written = write(fd, line, size_bytes);
        if (n_written < 0) {
            if (errno == EINTR) continue;
            is_broken = errno == EPIPE;
            break;
        }
        line += n_written;
        size_bytes -= (size_t)n_written;
    }
    if (is_broken && !was_pending) {
        while (sigtimedwait(&pipe_set, NULL, &now) < 0 && errno == EINTR) continue;
    }
    pthread_sigmask(SIG_SETMASK, &old_set, NULL);
}

/* Keep a message one line, whatever a file name or a peer put into it. */
static void make_one_line(char *message, size_t n_chars)
{
    while (n_chars > 0 && message[n_chars - 1] == '\n') message[--n_chars] = '\0';
    for (size_t i = 0; i < n_chars; i++) {
        const unsigned char byte = (unsigned char)message[i];
        if (byte == '\t') {
            message[i] = ' ';
        } else if (byte < 0x20 || byte == 0x7f) {
            message[i] = '?';
        }
    }
}

static size_t format_line(const log_state *state, cvy_log_level level, const char *folder,
                          const char *message, char out[LINE_BYTES])
{
    char time_text[32];
    int n_chars = 0;

    if (!state->is_open) {
        n_chars = snprintf(out, LINE_BYTES, "convoy: %s\n", message);
    } else {
        cvy_clock_wall_text(time_text);
        if (state->rank < 0) {
            n_chars = snprintf(out, LINE_BYTES, "%s %s %s: %s\n", time_text, level_names[level],
                               folder, message);
        } else {
            n_chars = snprintf(out, LINE_BYTES, "%s %d %s %s: %s\n", time_text, state->rank,
                               level_names[level], folder, message);
        }
    }
    if (n_chars < 0) return 0;
    if (n_chars >= LINE_BYTES) { /* only a very long folder name leads here */
        n_chars = LINE_BYTES - 1;
        out[n_chars - 1] = '\n';
    }
    return (size_t)n_chars;
}

void cvy_log_to_stderr(cvy_log_level level, const char *folder, const char *message)
{
    char line[LINE_BYTES];

    pthread_mutex_lock(&log_lock);
    const log_state state = log_now;
    pthread_mutex_unlock(&log_lock);
    write_line(STDERR_FILENO, line, format_line(&state, level, folder, message, line));
}

static void keep_error(const char *format, va_list args)
{
    if (caught[0] != '\0') return;
    (void)vsnprintf(caught, caught_size, format, args);
    make_one_line(caught, strlen(caught));
}

void cvy_log_write(cvy_log_level level, const char *folder, const char *format, ...)
{
    char message[MESSAGE_BYTES];
    char line[LINE_BYTES];
    va_list args;

    if (level == CVY_LOG_ERROR && caught != NULL) {
        va_start(args, format);
        keep_error(format, args);
        va_end(args);
        level = CVY_LOG_DEBUG;
    }
    if (level == CVY_LOG_ERROR && n_softened > 0) level = CVY_LOG_WARN;
    if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed)) return;

    const int errno_before = errno; /* a caller may log between a failure and its strerror() */
    va_start(args, format);
    const int n_chars = vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (n_chars < 0) {
        errno = errno_before;
        return;
    }
    if (n_chars >= MESSAGE_BYTES) memcpy(message + MESSAGE_BYTES - 4, "...", 4);
    make_one_line(message, strlen(message));

    pthread_rwlock_rdlock(&receivers_lock);
    pthread_mutex_lock(&log_lock);
    const log_state state = log_now;
    pthread_mutex_unlock(&log_lock);
    /* Outside the state's lock: a slow terminal must not hold up other threads, and a sink may log.
     */
    if (state.sink != NULL) state.sink(state.sink_arg, level, folder, message);
    if (state.sink == NULL || state.copy_fd >= 0) {
        const size_t size_bytes = format_line(&state, level, folder, message, line);
        if (state.sink == NULL) write_line(STDERR_FILENO, line, size_bytes);
        if (state.copy_fd >= 0) write_line(state.copy_fd, line, size_bytes);
    }
    pthread_rwlock_unlock(&receivers_lock);
    errno = errno_before;
}
