#include "base/file.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of files that do not tell their length, as in /proc. */
#define FIRST_READ_BYTES  ((size_t)4096)
#define HASH_BUFFER_BYTES ((size_t)64 << 10)

static cvy_status because_of(cvy_reason *reason, const char *call, const char *path,
                             int errno_value)
{
    return cvy_because(reason, cvy_status_from_errno(errno_value), "%s %s: %s", call, path,
                       strerror(errno_value));
}

/* Open for reading what must be a regular file. Without O_NONBLOCK a FIFO would wait for ever. */
static cvy_status open_regular(const char *path, int *out_fd, struct stat *out_info,
                               cvy_reason *reason)
{
    int fd = -1;

    do {
        fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0 && (errno == ELOOP || errno == ENXIO || errno == ENODEV)) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "%s is not a regular file: %s", path,
                           strerror(errno));
    }
    if (fd < 0) return because_of(reason, "open", path, errno);
    if (fstat(fd, out_info) != 0) {
        const cvy_status status = because_of(reason, "stat", path, errno);
        close(fd);
        return status;
    }
    if (!S_ISREG(out_info->st_mode)) {
        close(fd);
        return cvy_because(reason, CVY_ERR_BAD_DATA, "%s is not a regular file", path);
    }
    *out_fd = fd;
    return CVY_OK;
}

static ssize_t read_some(int fd, char *out, size_t size_bytes)
{
    ssize_t n_read = 0;

    do {
        n_read = read(fd, out, size_bytes);
    } while (n_read < 0 && errno == EINTR);
    return n_read;
}

/* Read to the end whatever the length was at first: the file may grow meanwhile, and one byte more
 * than the limit is asked for to see that it is passed. */
static cvy_status read_to_end(int fd, const char *path, size_t limit_bytes, size_t first_bytes,
                              char **out, size_t *out_size_bytes, cvy_reason *reason)
{
    size_t capacity_bytes = first_bytes; /* without the NUL */
    size_t size_bytes = 0;
    char *bytes = cvy_alloc(capacity_bytes + 1);

    if (bytes == NULL) goto no_memory;
    for (;;) {
        if (size_bytes == capacity_bytes) {
            capacity_bytes = capacity_bytes < limit_bytes / 2 ? 2 * capacity_bytes
                                                              : limit_bytes + 1;
            char *grown = cvy_realloc(bytes, capacity_bytes + 1);
            if (grown == NULL) goto no_memory;
            bytes = grown;
        }
        const ssize_t n_read = read_some(fd, bytes + size_bytes, capacity_bytes - size_bytes);
        if (n_read < 0) {
            const cvy_status status = because_of(reason, "read", path, errno);
            cvy_free(bytes);
            return status;
        }
        if (n_read == 0) break;
        size_bytes += (size_t)n_read;
        if (size_bytes > limit_bytes) {
            cvy_free(bytes);
            return cvy_because(reason, CVY_ERR_BAD_DATA, "%s is longer than %zu bytes", path,
                               limit_bytes);
        }
    }
    bytes[size_bytes] = '\0';
    *out = bytes;
    *out_size_bytes = size_bytes;
    return CVY_OK;

no_memory:
    cvy_free(bytes);
    return cvy_because(reason, CVY_ERR_NO_MEMORY, "out of memory for %s", path);
}

cvy_status cvy_file_read(const char *path, size_t limit_bytes, char **out, size_t *out_size_bytes,
                         cvy_reason *reason)
{
    int fd = -1;
    size_t size_bytes = 0;
    struct stat info;

    *out = NULL;
    CVY_ASSERT(limit_bytes < SIZE_MAX - 1);
    CVY_RETURN_IF_ERR(open_regular(path, &fd, &info, reason));
    const uint64_t told_bytes = info.st_size > 0 ? (uint64_t)info.st_size : 0;
    cvy_status status = CVY_OK;
    if (told_bytes > limit_bytes) {
        status = cvy_because(reason, CVY_ERR_BAD_DATA, "%s has %llu bytes, at most %zu are read",
                             path, (unsigned long long)told_bytes, limit_bytes);
    } else {
        const size_t first_bytes = told_bytes > 0 ? (size_t)told_bytes + 1 : FIRST_READ_BYTES;
        status = read_to_end(fd, path, limit_bytes, first_bytes, out, &size_bytes, reason);
    }
    close(fd);
    if (status == CVY_OK && out_size_bytes != NULL) *out_size_bytes = size_bytes;
    return status;
}

cvy_status cvy_file_hash(const char *path, uint64_t *out_size_bytes, uint64_t *out_hash,
                         cvy_reason *reason)
{
    char buffer[HASH_BUFFER_BYTES];
    int fd = -1;
    uint64_t size_bytes = 0;
    struct stat info;
    cvy_status status = CVY_OK;

    CVY_RETURN_IF_ERR(open_regular(path, &fd, &info, reason));
    cvy_hasher *hasher = cvy_hasher_open();
    if (hasher == NULL) {
        close(fd);
        return cvy_because(reason, CVY_ERR_NO_MEMORY, "out of memory for the hash of %s", path);
    }
    for (;;) {
        const ssize_t n_read = read_some(fd, buffer, sizeof buffer);
        if (n_read < 0) status = because_of(reason, "read", path, errno);
        if (n_read <= 0) break;
        cvy_hasher_add(hasher, buffer, (size_t)n_read);
        size_bytes += (uint64_t)n_read;
    }
    if (status == CVY_OK) {
        if (out_size_bytes != NULL) *out_size_bytes = size_bytes;
        if (out_hash != NULL) *out_hash = cvy_hasher_value(hasher);
    }
    cvy_hasher_close(&hasher);
    close(fd);
    return status;
}
