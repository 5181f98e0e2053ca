#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/file_internal.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* convoy's own folders are 3 deep; each level holds a descriptor open. */
#define MAX_TREE_DEPTH 64
#define MAX_PASSES     8 /* over one folder while others still write into it */

static int is_folder(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static cvy_status make_one_folder(const char *path)
{
    if (mkdir(path, 0777) != 0) {
        const int errno_value = errno;
        /* Another rank may make it at the same time; a read-only parent may well have it. */
        if (is_folder(path)) return CVY_OK;
        return cvy_file_fail("make folder", path, errno_value == EEXIST ? ENOTDIR : errno_value);
    }
    char *parent = cvy_file_parent(path);
    if (parent == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "folder of %s", path);
    const int rc = cvy_file_sync_folder_quietly(parent);
    const int errno_value = errno;
    cvy_free(parent);
    /* A parent that may be written but not read cannot be opened for fsync. */
    if (rc != 0 && errno_value != EACCES) return cvy_file_fail("sync folder of", path, errno_value);
    return CVY_OK;
}

cvy_status cvy_file_make_folders(const char *path)
{
    cvy_status status = CVY_OK;
    char *part = cvy_strdup(path);

    if (part == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "folder %s", path);
    for (char *c = part; *c != '\0' && status == CVY_OK; c++) {
        if (*c != '/' || c == part || c[-1] == '/') continue;
        *c = '\0';
        status = make_one_folder(part);
        *c = '/';
    }
    if (status == CVY_OK) status = make_one_folder(part);
    cvy_free(part);
    return status;
}

/* Remove what is in the folder behind fd, which is used up. Relative to descriptors, so that a
 * folder swapped for a link while this runs is not followed. */
static int empty_folder(int fd, int depth);

static int remove_entry(int folder_fd, const char *name, int depth)
{
    if (unlinkat(folder_fd, name, 0) == 0 || errno == ENOENT) return 0;
    if (errno != EISDIR && errno != EPERM) return -1; /* POSIX says EPERM, Linux EISDIR */
    const int errno_value = errno;
    const int fd = openat(folder_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOTDIR) errno = errno_value;
        return errno == ENOENT ? 0 : -1;
    }
    if (empty_folder(fd, depth + 1) != 0) return -1;
    return unlinkat(folder_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : -1;
}

static int empty_folder(int fd, int depth)
{
    int rc = 0;
    int n_entries = 1;

    if (depth > MAX_TREE_DEPTH) {
        close(fd);
        errno = ENAMETOOLONG;
        return -1;
    }
    DIR *folder = fdopendir(fd);
    if (folder == NULL) {
        close(fd);
        return -1;
    }
    /* Again until it is seen empty: a listing may miss entries while some are removed. */
    for (int pass = 0; pass < MAX_PASSES && n_entries > 0 && rc == 0; pass++) {
        n_entries = 0;
        rewinddir(folder);
        for (const struct dirent *entry = readdir(folder); entry != NULL && rc == 0;
             entry = readdir(folder)) {
            if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
            n_entries++;
            rc = remove_entry(dirfd(folder), entry->d_name, depth);
        }
    }
    const int errno_value = errno;
    closedir(folder);
    errno = errno_value;
    return rc;
}

cvy_status cvy_file_remove_tree(const char *path)
{
    cvy_status status = CVY_OK;
    size_t n_chars = strlen(path);
    char *plain = cvy_strdup(path);

    if (plain == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "removal of %s", path);
    /* "link/" would follow the link. */
    while (n_chars > 1 && plain[n_chars - 1] == '/') plain[--n_chars] = '\0';
    const int fd = open(plain, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        if (errno != ENOENT) status = cvy_file_fail("remove folder", plain, errno);
    } else if (empty_folder(fd, 0) != 0 || (rmdir(plain) != 0 && errno != ENOENT)) {
        status = cvy_file_fail("remove folder", plain, errno);
    }
    cvy_free(plain);
    return status;
}

int cvy_file_exists(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0;
}

char *cvy_path_join(const char *folder, const char *name)
{
    const size_t n_chars = strlen(folder);

    if (n_chars == 0) return cvy_strdup(name);
    return cvy_text_format(folder[n_chars - 1] == '/' ? "%s%s" : "%s/%s", folder, name);
}

cvy_status cvy_file_free_bytes(const char *path, uint64_t *out)
{
    struct statvfs info;
    int rc = 0;

    do {
        rc = statvfs(path, &info);
    } while (rc != 0 && errno == EINTR);
    if (rc != 0) return cvy_file_fail("free space of", path, errno);
    *out = (uint64_t)info.f_bavail * (uint64_t)info.f_frsize;
    return CVY_OK;
}

/* Who holds a lock, by what the owner wrote into the file. */
static void read_owner(int fd, char *out, size_t out_bytes)
{
    char text[384], host[256], time_text[32];
    long pid = 0;
    const ssize_t n_read = pread(fd, text, sizeof text - 1, 0);

    text[n_read > 0 ? n_read : 0] = '\0';
    if (sscanf(text, "%ld %255s %31s", &pid, host, time_text) == 3)
        snprintf(out, out_bytes, "process %ld on %s since %s", pid, host, time_text);
    else
        snprintf(out, out_bytes, "another process");
}

static cvy_status write_owner(int fd, const char *path)
{
    char host[256] = "";
    char time_text[32];
    char text[384];

    if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0') memcpy(host, "?", 2);
    cvy_clock_wall_text(time_text);
    const int n_chars = snprintf(text, sizeof text, "%ld %s %s\n", (long)getpid(), host, time_text);
    CVY_ASSERT(n_chars > 0 && (size_t)n_chars < sizeof text);
    if (ftruncate(fd, 0) != 0) return cvy_file_fail("write lock", path, errno);
    const ssize_t n_written = pwrite(fd, text, (size_t)n_chars, 0);
    if (n_written == n_chars) return CVY_OK;
    return cvy_file_fail("write lock", path, n_written < 0 ? errno : ENOSPC);
}

cvy_status cvy_file_lock(const char *path, int *out_fd)
{
    char owner[384];
    int fd = -1;
    int rc = 0;

    *out_fd = -1;
    do {
        fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) return cvy_file_fail("open lock", path, errno);
    do {
        rc = flock(fd, LOCK_EX | LOCK_NB);
    } while (rc != 0 && errno == EINTR);
    cvy_status status = CVY_OK;
    if (rc != 0 && errno == EWOULDBLOCK) {
        read_owner(fd, owner, sizeof owner);
        status = CVY_FAIL(CVY_ERR_CANNOT_WRITE,
                          "%s is locked by %s; wait for it, end it, or give another run folder",
                          path, owner);
    } else if (rc != 0) {
        status = cvy_file_fail("lock", path, errno);
    } else {
        status = write_owner(fd, path);
    }
    if (status != CVY_OK) {
        close(fd);
        return status;
    }
    *out_fd = fd;
    return CVY_OK;
}

void cvy_file_unlock(int *fd)
{
    if (fd == NULL || *fd < 0) return;
    /* The file stays: unlinking it could take the lock from under a process that just opened it. */
    if (ftruncate(*fd, 0) != 0) cvy_log_debug("empty a lock that is let go: %s", strerror(errno));
    close(*fd);
    *fd = -1;
}
