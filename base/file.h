#ifndef CVY_FILE_H
#define CVY_FILE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/**
 * Files that survive a crash: written under another name, synced, then renamed. Every call checks
 * every system call, loops over short writes and EINTR, and never calls fsync twice on a file
 * whose fsync failed. Not collective; one thread per file.
 */

/** A file being written; its length and XXH3 hash are known as it goes. */
typedef struct cvy_file_writer cvy_file_writer;

/** Create path (O_EXCL, O_NOFOLLOW, mode 0666 less umask). Status by errno. */
cvy_status cvy_file_writer_open(const char *path, cvy_file_writer **out);
cvy_status cvy_file_writer_write(cvy_file_writer *writer, const void *bytes, size_t size_bytes);
/** fsync and close, both checked; gives length and hash (either may be NULL). The writer is gone
 *  after it, whatever it returns. */
cvy_status cvy_file_writer_commit(cvy_file_writer **writer, uint64_t *out_size_bytes,
                                  uint64_t *out_hash);
/** Close and unlink what was written. NULL and a NULL pointee are fine. */
void cvy_file_writer_discard(cvy_file_writer **writer);

/** Replace path by these bytes or leave it as it was: temporary in the same folder, fsync, rename,
 *  fsync of the folder. */
cvy_status cvy_file_replace(const char *path, const void *bytes, size_t size_bytes);

/** Read a whole regular file of at most limit_bytes (opened O_NONBLOCK, then fstat: a FIFO, device
 *  or folder is CVY_ERR_BAD_DATA). out has a NUL after its last byte; cvy_free() it. Says nothing
 *  in the log: reason (may be NULL) has the text. */
cvy_status cvy_file_read(const char *path, size_t limit_bytes, char **out, size_t *out_size_bytes,
                         cvy_reason *reason);

/** XXH3 and length of a file, read through a fixed buffer. Says nothing in the log. */
cvy_status cvy_file_hash(const char *path, uint64_t *out_size_bytes, uint64_t *out_hash,
                         cvy_reason *reason);

cvy_status cvy_file_sync_folder(const char *path);
/** Make a folder and its missing parents, 0777 less umask; existing is fine. */
cvy_status cvy_file_make_folders(const char *path);
/** rename(2), then fsync of the folder that holds the new name. */
cvy_status cvy_file_rename(const char *from, const char *to);
/** Remove a folder and all in it; never follows a link; missing is fine. */
cvy_status cvy_file_remove_tree(const char *path);
int cvy_file_exists(const char *path);
/** "a/b" from parts, "/" between; cvy_free() it; NULL: no memory. */
char *cvy_path_join(const char *folder, const char *name);
/** Bytes that an ordinary user may still write on the file system of path. */
cvy_status cvy_file_free_bytes(const char *path, uint64_t *out);

/** An exclusive lock on a run folder: flock(2) on path, which then has "pid host time". Fails with
 *  CVY_ERR_CANNOT_WRITE, naming the owner, when another living process holds it. The lock dies
 *  with the process. */
cvy_status cvy_file_lock(const char *path, int *out_fd);
void cvy_file_unlock(int *fd);

#endif
