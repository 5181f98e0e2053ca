#ifndef CVY_HASH_H
#define CVY_HASH_H

#include <stddef.h>
#include <stdint.h>

/** XXH3 64-bit of a block (seed 0): what records, tensors, files and jobs are known by. */
uint64_t cvy_hash64(const void *bytes, size_t size_bytes);

/** The same of a stream. Open, add any number of times, end once. */
typedef struct cvy_hasher cvy_hasher;
cvy_hasher *cvy_hasher_open(void); /* NULL: no memory */
void cvy_hasher_add(cvy_hasher *hasher, const void *bytes, size_t size_bytes);
uint64_t cvy_hasher_value(const cvy_hasher *hasher); /* of what was added so far */
void cvy_hasher_close(cvy_hasher **hasher);

/** 16 lower-case hexadecimal digits and NUL, and back (0 on success, -1 when it is no such text).
 */
void cvy_hash_text(uint64_t hash, char out[17]);
int cvy_hash_from_text(const char *text, uint64_t *out);

#endif
