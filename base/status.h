#ifndef CVY_STATUS_H
#define CVY_STATUS_H

#include "base/compiler.h"

/**
 * The outcome of a call that can fail: 0 is success, failures are negative.
 *
 * One list: name, value, exit code of the process that ends with it, text. The exit codes are
 * those of BSD's sysexits.h, with 75 (try again) for everything that a restart cures and 76 for
 * numeric failure; `docs/architecture.md` has them in words.
 */
#define CVY_STATUS_LIST(X)                                                                         \
    X(CVY_OK, 0, 0, "ok")                                                                          \
    X(CVY_ERR_INVALID_ARG, -1, 70, "invalid argument")                                             \
    X(CVY_ERR_NO_MEMORY, -2, 71, "out of memory")                                                  \
    X(CVY_ERR_OS, -3, 71, "operating system limit")                                                \
    X(CVY_ERR_IO, -4, 74, "input/output error")                                                    \
    X(CVY_ERR_CANNOT_WRITE, -5, 73, "cannot write")                                                \
    X(CVY_ERR_NOT_FOUND, -6, 66, "not found")                                                      \
    X(CVY_ERR_PERMISSION, -7, 77, "permission denied")                                             \
    X(CVY_ERR_BAD_DATA, -8, 65, "bad data")                                                        \
    X(CVY_ERR_CONFIG, -9, 78, "bad configuration")                                                 \
    X(CVY_ERR_USAGE, -10, 64, "wrong usage")                                                       \
    X(CVY_ERR_UNAVAILABLE, -11, 69, "unavailable")                                                 \
    X(CVY_ERR_UNSUPPORTED, -12, 69, "unsupported")                                                 \
    X(CVY_ERR_PEER_LOST, -13, 75, "peer lost")                                                     \
    X(CVY_ERR_STOPPED, -14, 75, "stopped on request")                                              \
    X(CVY_ERR_NUMERIC, -15, 76, "numeric failure")                                                 \
    X(CVY_ERR_NO_PROGRESS, -16, 70, "no progress")                                                 \
    X(CVY_ERR_INTERNAL, -17, 70, "internal error")

typedef enum cvy_status {
#define X(name, value, exit_code, text) name = value,
    CVY_STATUS_LIST(X)
#undef X
} cvy_status;

/** A constant text for a status; "unknown status" for a value that is none. */
const char *cvy_status_text(cvy_status status);

/** The spelling of the constant, e.g. "CVY_ERR_IO". */
const char *cvy_status_name(cvy_status status);

/** The exit code (sysexits) of a process that ends because of this status. */
int cvy_status_exit_code(cvy_status status);

/** The status that fits an errno value: ENOENT -> NOT_FOUND, EACCES/EPERM -> PERMISSION, ENOMEM ->
 *  NO_MEMORY, ENOSPC/EDQUOT/EROFS/EFBIG -> CANNOT_WRITE, EMFILE/ENFILE/EAGAIN -> OS, else IO. */
cvy_status cvy_status_from_errno(int errno_value);

/**
 * Report a failure where it is first known: logs one error line and yields the status, so that
 * callers only pass it up:
 *
 *     return CVY_FAIL(CVY_ERR_IO, "open %s: %s", path, strerror(errno));
 *
 * A call that only judges an input (is this record good, is this checkpoint whole) does not use
 * it: it fills a cvy_reason and lets its caller decide how loud to be.
 */
#define CVY_FAIL(status, ...) cvy_fail((status), CVY_FOLDER, __VA_ARGS__)
cvy_status cvy_fail(cvy_status status, const char *folder, const char *format, ...)
    CVY_PRINTF(3, 4);

/** Why an input was judged bad; always a NUL-terminated single line. */
typedef struct cvy_reason {
    char text[256];
} cvy_reason;

/** Write a reason (cut to fit, control bytes replaced by '?') and yield the status. reason may be
 *  NULL. */
cvy_status cvy_because(cvy_reason *reason, cvy_status status, const char *format, ...)
    CVY_PRINTF(3, 4);

/** These two macros alone contain a jump. */
#define CVY_RETURN_IF_ERR(call)                                                                    \
    do {                                                                                           \
        const cvy_status cvy_status_ = (call);                                                     \
        if (cvy_status_ != CVY_OK) return cvy_status_;                                             \
    } while (0)

#define CVY_GOTO_IF_ERR(label, status, call)                                                       \
    do {                                                                                           \
        (status) = (call);                                                                         \
        if ((status) != CVY_OK) goto label;                                                        \
    } while (0)

/** For bugs in convoy itself; stays on in release builds. Logs and aborts. */
#define CVY_ASSERT(condition)                                                                      \
    ((condition) ? (void)0 : cvy_assert_failed(#condition, __FILE__, __LINE__))
CVY_NORETURN void cvy_assert_failed(const char *condition, const char *file, int line);

/* CMake defines CVY_FOLDER per library ("nn", "dataset", ...): the sender named in log lines. */
#ifndef CVY_FOLDER
#define CVY_FOLDER "?"
#endif

#endif
