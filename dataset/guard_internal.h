#ifndef DATASET_GUARD_INTERNAL_H
#define DATASET_GUARD_INTERNAL_H

#include "base/compiler.h"

#include <stddef.h>

/**
 * The last line of a process whose dataset is gone from under it.
 *
 * LMDB reads a map without looking: a file cut while open is a SIGBUS, a damaged page may be a
 * SIGSEGV or a failed assertion of LMDB. While a dataset is watched, SIGBUS and SIGSEGV of an
 * address in its map, or of a thread that is just reading it, write one line that names the file
 * and end the process with the exit code of bad data. All other faults go to the handlers that
 * were there before. Thread-safe.
 */

/** Watch a file. @return a slot; -1: all are taken. */
int dataset_guard_add(const char *path);
/** Tell where its map lies (NULL: unknown); until then only threads that read it are watched. */
void dataset_guard_set_map(int slot, const void *start, size_t size_bytes);
void dataset_guard_remove(int slot);

/** Around every look into the map by the calling thread; pairs do not nest. */
void dataset_guard_enter(int slot);
void dataset_guard_leave(void);

/** Write "convoy: dataset: PATH: WHAT" and end with the exit code of bad data. Async-signal-safe.
 */
CVY_NORETURN void dataset_guard_die(int slot, const char *what);

#endif
