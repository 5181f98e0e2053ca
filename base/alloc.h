#ifndef CVY_ALLOC_H
#define CVY_ALLOC_H

#include "base/compiler.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/**
 * Memory of convoy's own objects. Every block is CVY_ALIGN_BYTES aligned, counted, and can be made
 * to fail for tests. Thread-safe. Returns NULL when there is none (not logged: the caller knows
 * for what it was). Size 0 gives a valid pointer to free.
 */
void *cvy_alloc(size_t size_bytes);                /* contents undefined */
void *cvy_alloc_zero(size_t n, size_t size_bytes); /* n * size_bytes, checked; all zero */
void *cvy_realloc(void *block, size_t size_bytes); /* block may be NULL; on failure it is kept */
char *cvy_strdup(const char *text);
char *cvy_text_format(const char *format, ...) CVY_PRINTF(1, 2); /* NULL: no memory */
void cvy_free(void *block);                                      /* NULL is fine */

/** Blocks and bytes that are allocated now, and the number of allocations ever made: a step must
 *  not move any of them. */
typedef struct cvy_alloc_counts {
    int64_t n_live;
    int64_t live_bytes;
    int64_t n_ever;
} cvy_alloc_counts;
void cvy_alloc_count(cvy_alloc_counts *out);

/** Make the k-th allocation from now (0 = the next) return NULL, once; -1 switches it off. For
 *  fault tests. */
void cvy_alloc_fail_at(int64_t k);

/** a * b and a + b in size_t; false when they overflow. */
int cvy_size_mul(size_t a, size_t b, size_t *out);
int cvy_size_add(size_t a, size_t b, size_t *out);

/** int64_t -> int where a foreign interface wants int; asserts that it fits. */
int cvy_to_int(int64_t value);

#endif
