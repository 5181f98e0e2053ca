#ifndef DATASET_LMDB_CHECK_INTERNAL_H
#define DATASET_LMDB_CHECK_INTERNAL_H

#include "base/status.h"

#include <stdint.h>

/** What the two meta pages of an LMDB file say. */
typedef struct dataset_lmdb_shape {
    uint64_t size_bytes;  /* of the file, now */
    uint64_t needs_bytes; /* up to the end of its last page */
    uint64_t n_entries;
    uint32_t page_bytes;
} dataset_lmdb_shape;

/**
 * Check the head of a data.mdb before LMDB maps it, and its length: LMDB trusts both. Quiet; the
 * reason begins with path.
 *
 * @return CVY_ERR_BAD_DATA: empty, no LMDB file, of another version, byte order, word size or
 *         kind, shorter than its last page; CVY_ERR_IO: unreadable.
 */
cvy_status dataset_lmdb_check(int fd, const char *path, dataset_lmdb_shape *out,
                              cvy_reason *reason);

/** Name of the network file system with this statfs(2) type; NULL: a local one. */
const char *dataset_network_fs_name(uint64_t fs_type);

#endif
