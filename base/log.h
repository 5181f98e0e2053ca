#ifndef CVY_LOG_H
#define CVY_LOG_H

#include "base/compiler.h"
#include "base/status.h"

#include <stddef.h>

/**
 * Log lines on stderr, `time rank level folder: message`, one write(2) a line.
 *
 *     2026-03-01T12:00:00.123Z 0 info coordinator: epoch 3 done, top-1 91.2 %
 *
 * Before cvy_log_open() the level is info and the rank is left out: a message of a program that
 * never became a rank is `convoy: message`. Safe to call from any thread. A failing or closed
 * stderr is ignored: training goes on. The log is the one process-wide state of base.
 */
typedef enum cvy_log_level {
    CVY_LOG_ERROR,
    CVY_LOG_WARN,
    CVY_LOG_INFO,
    CVY_LOG_DEBUG,
    CVY_LOG_TRACE
} cvy_log_level;

/** rank: shown in every line, -1 for none. */
void cvy_log_open(cvy_log_level level, int rank);

/** "error" ... "trace" -> level; CVY_ERR_INVALID_ARG (not logged) for another word. */
cvy_status cvy_log_level_from_text(const char *text, cvy_log_level *out);

/** Also append every line to this file (the run folder's convoy.log); -1 for none. The descriptor
 *  is borrowed until the next call, which waits for lines that are being written. */
void cvy_log_copy_to(int fd);

/** What a sink gets: one message, without the prefix. */
typedef void (*cvy_log_sink)(void *arg, cvy_log_level level, const char *folder,
                             const char *message);

/** Divert lines to a function instead of stderr (tests, the live line of a terminal); NULL ends it.
 *  Returns when no thread is inside the old one any more: what it used may then be freed. A sink
 * may log; it must not call this or cvy_log_copy_to(). */
void cvy_log_set_sink(cvy_log_sink sink, void *arg);

/** Write one line to stderr alone, past sink, file and level: for a sink that only surrounds what
 *  would have been written. */
void cvy_log_to_stderr(cvy_log_level level, const char *folder, const char *message);

/** Errors are written as warnings while on: for a caller that handles the failure itself. Counts,
 *  so pairs nest; per thread. */
void cvy_log_soften(int delta);

/** Keep the first error of this thread in out (a view until the end, empty until there is one), for
 *  a caller that says why in a line of its own; errors are written as debug lines meanwhile. NULL
 *  ends it. */
void cvy_log_catch(char *out, size_t out_size);

void cvy_log_write(cvy_log_level level, const char *folder, const char *format, ...)
    CVY_PRINTF(3, 4);

#define cvy_log_error(...) cvy_log_write(CVY_LOG_ERROR, CVY_FOLDER, __VA_ARGS__)
#define cvy_log_warn(...)  cvy_log_write(CVY_LOG_WARN, CVY_FOLDER, __VA_ARGS__)
#define cvy_log_info(...)  cvy_log_write(CVY_LOG_INFO, CVY_FOLDER, __VA_ARGS__)
#define cvy_log_debug(...) cvy_log_write(CVY_LOG_DEBUG, CVY_FOLDER, __VA_ARGS__)
#define cvy_log_trace(...) cvy_log_write(CVY_LOG_TRACE, CVY_FOLDER, __VA_ARGS__)

#endif
