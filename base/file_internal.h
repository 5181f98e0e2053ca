#ifndef CVY_FILE_INTERNAL_H
#define CVY_FILE_INTERNAL_H

#include "base/status.h"

/** Log "CALL PATH: text of the errno" and yield the status that fits it. */
cvy_status cvy_file_fail(const char *call, const char *path, int errno_value);

/** Pass a fault point; when it fires, errno is the injected one and the result 1. */
int cvy_file_injected(const char *point);

/** The folder that holds path ("." for a bare name); cvy_free() it; NULL: no memory. */
char *cvy_file_parent(const char *path);

/** fsync of a folder: 0, or -1 with errno. */
int cvy_file_sync_folder_quietly(const char *path);

#endif
