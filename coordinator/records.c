#include "coordinator/records.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* More than the metrics of a job of ten million steps. */
#define FILE_LIMIT_BYTES ((size_t)4 << 30)

struct coordinator_records {
    int fd;
    char *path;
    int is_timed;   /* events carry their time */
    int has_failed; /* said once */
    int is_cut;     /* the file ends within a line */
};

/* The JSON object of one line without its newline; NULL for a line that is none (cut, damaged). */
static json_t *parse_line(const char *line, size_t size_bytes)
{
    json_t *object = json_loadb(line, size_bytes, 0, NULL);

    if (json_is_object(object)) return object;
    json_decref(object);
    return NULL;
}

static int is_kept(const json_t *object, int64_t after_step)
{
    const json_t *step = json_object_get(object, "step");
    return after_step < 0 || !json_is_integer(step) || json_integer_value(step) <= after_step;
}

/* Whole lines of text for which is_kept; in place. Returns the new length. */
static size_t keep_lines(char *text, size_t size_bytes, int64_t after_step)
{
    size_t from = 0, to = 0;

    while (from < size_bytes) {
        const char *end = memchr(text + from, '\n', size_bytes - from);
        if (end == NULL) break; /* a last line that was cut */
        const size_t length = (size_t)(end - (text + from));
        json_t *object = parse_line(text + from, length);
        if (object != NULL && is_kept(object, after_step)) {
            memmove(text + to, text + from, length + 1);
            to += length + 1;
        }
        json_decref(object);
        from += length + 1;
    }
    return to;
}

/* Drop what a resumed run will write again, and lines that are none. */
static cvy_status trim(const char *path, int64_t after_step)
{
    char *text = NULL;
    size_t size_bytes = 0;
    cvy_reason reason = {""};
    cvy_status status = cvy_file_read(path, FILE_LIMIT_BYTES, &text, &size_bytes, &reason);

    if (status == CVY_ERR_NOT_FOUND) return CVY_OK;
    if (status != CVY_OK) return CVY_FAIL(status, "%s: %s", path, reason.text);
    const size_t kept_bytes = keep_lines(text, size_bytes, after_step);
    if (kept_bytes != size_bytes) status = cvy_file_replace(path, text, kept_bytes);
    cvy_free(text);
    return status;
}

cvy_status coordinator_records_open(const char *path, int64_t after_step, coordinator_records **out)
{
    coordinator_records *records = NULL;

    *out = NULL;
    CVY_RETURN_IF_ERR(trim(path, after_step));
    records = cvy_alloc_zero(1, sizeof *records);
    if (records == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "records %s", path);
    records->is_timed = after_step < 0;
    records->path = cvy_strdup(path);
    records->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0666);
    const int error = errno;
    if (records->fd >= 0 && records->path != NULL) {
        *out = records;
        return CVY_OK;
    }
    const int has_path = records->path != NULL;
    coordinator_records_close(&records);
    return has_path ? CVY_FAIL(cvy_status_from_errno(error), "open %s: %s", path, strerror(error))
                    : CVY_FAIL(CVY_ERR_NO_MEMORY, "records %s", path);
}

void coordinator_records_close(coordinator_records **address)
{
    coordinator_records *records = *address;

    if (records == NULL) return;
    if (records->fd >= 0) (void)close(records->fd);
    cvy_free(records->path);
    cvy_free(records);
    *address = NULL;
}

static void complain(coordinator_records *records, const char *why)
{
    if (!records->has_failed)
        cvy_log_warn("write %s: %s: these figures are lost, training goes on", records->path, why);
    records->has_failed = 1;
}

static void append_line(coordinator_records *records, const char *line, size_t size_bytes)
{
    ssize_t n = 0;

    do {
        n = write(records->fd, line, size_bytes);
    } while (n < 0 && errno == EINTR);
    if (n == (ssize_t)size_bytes) {
        records->has_failed = records->is_cut = 0;
        return;
    }
    if (n > 0) records->is_cut = 1;
    complain(records, n < 0 ? strerror(errno) : "the disk took only a part of a line");
}

void coordinator_records_append(coordinator_records *records, json_t *object)
{
    char time_text[32];

    if (object == NULL) return;
    if (records->is_timed) {
        cvy_clock_wall_text(time_text);
        (void)json_object_set_new(object, "time", json_string(time_text));
    }
    char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    /* After a line that was cut a new one begins, so that readers drop that one alone. */
    char *line = text != NULL ? cvy_text_format("%s%s\n", records->is_cut ? "\n" : "", text) : NULL;
    if (line != NULL)
        append_line(records, line, strlen(line));
    else
        complain(records, "out of memory");
    cvy_free(line);
    free(text);
    json_decref(object);
}

cvy_status coordinator_records_read(const char *path, json_t **out)
{
    char *text = NULL;
    size_t size_bytes = 0;
    cvy_reason reason = {""};
    json_t *list = json_array();

    *out = NULL;
    if (list == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "records %s", path);
    const cvy_status status = cvy_file_read(path, FILE_LIMIT_BYTES, &text, &size_bytes, &reason);
    if (status != CVY_OK && status != CVY_ERR_NOT_FOUND) {
        json_decref(list);
        return CVY_FAIL(status, "%s: %s", path, reason.text);
    }
    for (size_t from = 0; from < size_bytes;) {
        const char *end = memchr(text + from, '\n', size_bytes - from);
        if (end == NULL) break;
        const size_t length = (size_t)(end - (text + from));
        json_t *object = parse_line(text + from, length);
        if (object != NULL) (void)json_array_append_new(list, object);
        from += length + 1;
    }
    cvy_free(text);
    *out = list;
    return CVY_OK;
}
