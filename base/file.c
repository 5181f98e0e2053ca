#include "base/file.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/file_internal.h"
#include "base/hash.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* One write(2) never asks for more: Linux cuts at 2 GiB, some file systems do worse below that. */
#define MAX_WRITE_BYTES ((size_t)64 << 20)

struct cvy_file_writer {
    int fd;
    char *path;         /* owned */
    cvy_hasher *hasher; /* owned */
    uint64_t size_bytes;
    cvy_status failed; /* the first failure; nothing is written after it */
};

cvy_status cvy_file_fail(const char *call, const char *path, int errno_value)
{
    return CVY_FAIL(cvy_status_from_errno(errno_value), "%s %s: %s", call, path,
                    strerror(errno_value));
}

int cvy_file_injected(const char *point)
{
    int errno_value = 0;

    if (cvy_fault_at(point, -1, &errno_value) != CVY_FAULT_ERRNO) return 0;
    errno = errno_value;
    return 1;
}

/* Never called twice for a descriptor whose fsync failed: the kernel marks the lost pages clean,
 * so a second call would succeed without the data being anywhere. */
static int sync_fd(int fd)
{
    if (cvy_file_injected("file.fsync")) return -1;
    while (fsync(fd) != 0) {
        if (errno != EINTR) return -1;
    }
    return 0;
}

static int write_all(int fd, const unsigned char *bytes, size_t size_bytes)
{
    if (cvy_file_injected("file.write")) return -1;
    while (size_bytes > 0) {
        const size_t n_wanted = size_bytes < MAX_WRITE_BYTES ? size_bytes : MAX_WRITE_BYTES;
        const ssize_t n_written = write(fd, bytes, n_wanted);
        if (n_written < 0) {
            if (errno == EINTR) continue;
            return -1;
        }
        if (n_written == 0) { /* no progress and no reason: do not loop on it */
            errno = EIO;
            return -1;
        }
        bytes += n_written;
        size_bytes -= (size_t)n_written;
    }
    return 0;
}

/* Linux closes the descriptor whatever close(2) returns, EINTR included: it is never repeated. */
static int close_fd(int *fd)
{
    const int rc = close(*fd);

    *fd = -1;
    return rc == 0 || errno == EINTR ? 0 : -1;
}

cvy_status cvy_file_writer_open(const char *path, cvy_file_writer **out)
{
    *out = NULL;
    cvy_file_writer *writer = cvy_alloc_zero(1, sizeof *writer);
    if (writer == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "writer of %s", path);
    writer->fd = -1;
    writer->path = cvy_strdup(path);
    writer->hasher = cvy_hasher_open();
    if (writer->path == NULL || writer->hasher == NULL) {
        cvy_file_writer_discard(&writer);
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "writer of %s", path);
    }
    do {
        writer->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    } while (writer->fd < 0 && errno == EINTR);
    if (writer->fd < 0) {
        const cvy_status status = cvy_file_fail("create", path, errno);
        cvy_file_writer_discard(&writer);
        return status;
    }
    *out = writer;
    return CVY_OK;
}

cvy_status cvy_file_writer_write(cvy_file_writer *writer, const void *bytes, size_t size_bytes)
{
    if (writer->failed != CVY_OK) return writer->failed;
    if (size_bytes == 0) return CVY_OK;
    if (write_all(writer->fd, bytes, size_bytes) != 0) {
        writer->failed = cvy_file_fail("write", writer->path, errno);
        return writer->failed;
    }
    cvy_hasher_add(writer->hasher, bytes, size_bytes);
    writer->size_bytes += size_bytes;
    return CVY_OK;
}

cvy_status cvy_file_writer_commit(cvy_file_writer **writer_address, uint64_t *out_size_bytes,
                                  uint64_t *out_hash)
{
    cvy_file_writer *writer = *writer_address;
    cvy_status status = writer->failed;

    if (status == CVY_OK && sync_fd(writer->fd) != 0) {
        status = cvy_file_fail("fsync", writer->path, errno);
    }
    if (status == CVY_OK && close_fd(&writer->fd) != 0) {
        status = cvy_file_fail("close", writer->path, errno);
    }
    if (status == CVY_OK) {
        if (out_size_bytes != NULL) *out_size_bytes = writer->size_bytes;
        if (out_hash != NULL) *out_hash = cvy_hasher_value(writer->hasher);
        cvy_hasher_close(&writer->hasher);
        cvy_free(writer->path);
        cvy_free(writer);
        *writer_address = NULL;
        return CVY_OK;
    }
    /* What may be on the disk is not what was written: nobody may take it for a file. */
    if (writer->fd < 0) (void)unlink(writer->path);
    cvy_file_writer_discard(writer_address);
    return status;
}

void cvy_file_writer_discard(cvy_file_writer **writer_address)
{
    if (writer_address == NULL || *writer_address == NULL) return;
    cvy_file_writer *writer = *writer_address;
    if (writer->fd >= 0) {
        (void)close_fd(&writer->fd);
        if (unlink(writer->path) != 0) {
            cvy_log_warn("unlink %s: %s; the file is left behind", writer->path, strerror(errno));
        }
    }
    cvy_hasher_close(&writer->hasher);
    cvy_free(writer->path);
    cvy_free(writer);
    *writer_address = NULL;
}

char *cvy_file_parent(const char *path)
{
    size_t n_chars = strlen(path);

    while (n_chars > 1 && path[n_chars - 1] == '/') n_chars--; /* of "a/b/" it is "a" too */
    while (n_chars > 0 && path[n_chars - 1] != '/') n_chars--;
    while (n_chars > 1 && path[n_chars - 1] == '/') n_chars--;
    if (n_chars == 0) return cvy_strdup(".");
    char *parent = cvy_strdup(path);
    if (parent != NULL) parent[n_chars] = '\0';
    return parent;
}

int cvy_file_sync_folder_quietly(const char *path)
{
    int fd = -1;

    do {
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) return -1;
    int rc = sync_fd(fd);
    if (rc != 0 && errno == EINVAL) rc = 0; /* a file system that syncs no folders (some FUSE) */
    const int errno_value = errno;
    (void)close_fd(&fd); /* opened for reading: nothing of it can be lost */
    errno = errno_value;
    return rc;
}

cvy_status cvy_file_sync_folder(const char *path)
{
    if (cvy_file_sync_folder_quietly(path) != 0) {
        return cvy_file_fail("sync folder", path, errno);
    }
    return CVY_OK;
}

static cvy_status sync_parent(const char *path)
{
    char *parent = cvy_file_parent(path);

    if (parent == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "folder of %s", path);
    const cvy_status status = cvy_file_sync_folder(parent);
    cvy_free(parent);
    return status;
}

cvy_status cvy_file_rename(const char *from, const char *to)
{
    if (cvy_file_injected("file.rename") || rename(from, to) != 0) {
        const int errno_value = errno;
        return CVY_FAIL(cvy_status_from_errno(errno_value), "rename %s to %s: %s", from, to,
                        strerror(errno_value));
    }
    return sync_parent(to);
}

/* A name beside path that nobody else has: O_EXCL would refuse one that exists, be it left behind
 * by a crash or planted. */
static char *temporary_name(const char *path)
{
    uint64_t noise = 0;
    char digits[17];

    if (getrandom(&noise, sizeof noise, 0) != (ssize_t)sizeof noise) {
        noise = (uint64_t)getpid() << 40 ^ (uint64_t)(1e9 * cvy_clock_now_s());
    }
    cvy_hash_text(noise, digits);
    return cvy_text_format("%s.tmp-%s", path, digits);
}

cvy_status cvy_file_replace(const char *path, const void *bytes, size_t size_bytes)
{
    cvy_status status = CVY_OK;
    cvy_file_writer *writer = NULL;
    int is_written = 0;
    char *temporary = temporary_name(path);

    if (temporary == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "temporary of %s", path);
    CVY_GOTO_IF_ERR(done, status, cvy_file_writer_open(temporary, &writer));
    CVY_GOTO_IF_ERR(done, status, cvy_file_writer_write(writer, bytes, size_bytes));
    CVY_GOTO_IF_ERR(done, status, cvy_file_writer_commit(&writer, NULL, NULL));
    is_written = 1;
    CVY_GOTO_IF_ERR(done, status, cvy_file_rename(temporary, path));

done:
    cvy_file_writer_discard(&writer);
    /* Gone already when the rename worked and only the folder's fsync failed. */
    if (is_written && status != CVY_OK) (void)unlink(temporary);
    cvy_free(temporary);
    return status;
}
