#include "base/status.h"

#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct status_row {
    cvy_status status;
    int exit_code;
    const char *name;
    const char *text;
} status_row;

static const status_row status_table[] = {
#define X(name, value, exit_code, text) {name, exit_code, #name, text},
    CVY_STATUS_LIST(X)
#undef X
};

static const status_row *find_row(cvy_status status)
{
    for (size_t i = 0; i < sizeof status_table / sizeof status_table[0]; i++) {
        if (status_table[i].status == status) return &status_table[i];
    }
    return NULL;
}

const char *cvy_status_text(cvy_status status)
{
    const status_row *row = find_row(status);

    return row == NULL ? "unknown status" : row->text;
}

const char *cvy_status_name(cvy_status status)
{
    const status_row *row = find_row(status);

    return row == NULL ? "unknown status" : row->name;
}

int cvy_status_exit_code(cvy_status status)
{
    const status_row *row = find_row(status);

    /* A value that is no status can only be a bug in convoy. */
    return row == NULL ? cvy_status_exit_code(CVY_ERR_INTERNAL) : row->exit_code;
}

cvy_status cvy_status_from_errno(int errno_value)
{
    switch (errno_value) {
    case ENOENT:
        return CVY_ERR_NOT_FOUND;
    case EACCES:
    case EPERM:
        return CVY_ERR_PERMISSION;
    case ENOMEM:
        return CVY_ERR_NO_MEMORY;
    case ENOSPC:
    case EDQUOT:
    case EROFS:
    case EFBIG:
        return CVY_ERR_CANNOT_WRITE;
    case EMFILE:
    case ENFILE:
    case EAGAIN:
        return CVY_ERR_OS;
    default:
        return CVY_ERR_IO;
    }
}

/* "Permission denied (permission denied)" tells nothing twice. */
static int ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcasecmp(text + n - n_end, end) == 0;
}

cvy_status cvy_fail(cvy_status status, const char *folder, const char *format, ...)
{
    char text[2048];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (ends_with(text, cvy_status_text(status)))
        cvy_log_write(CVY_LOG_ERROR, folder, "%s", text);
    else
        cvy_log_write(CVY_LOG_ERROR, folder, "%s (%s)", text, cvy_status_text(status));
    return status;
}

cvy_status cvy_because(cvy_reason *reason, cvy_status status, const char *format, ...)
{
    va_list args;

    if (reason == NULL) return status;
    va_start(args, format);
    vsnprintf(reason->text, sizeof reason->text, format, args);
    va_end(args);
    for (char *c = reason->text; *c != '\0'; c++) {
        const unsigned char byte = (unsigned char)*c;
        if (byte < 0x20 || byte == 0x7f) *c = '?';
    }
    return status;
}

void cvy_assert_failed(const char *condition, const char *file, int line)
{
    cvy_log_write(CVY_LOG_ERROR, "base",
                  "%s:%d: bug in convoy: '%s' does not hold; ending with abort", file, line,
                  condition);
    abort();
}
