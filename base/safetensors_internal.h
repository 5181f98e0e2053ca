#ifndef CVY_SAFETENSORS_INTERNAL_H
#define CVY_SAFETENSORS_INTERNAL_H

#include "base/safetensors.h"

#include <stddef.h>
#include <stdint.h>

#define CVY_SAFETENSORS_MAX_HEADER ((size_t)16 << 20)
#define CVY_SAFETENSORS_MAX_NAME   512
#define CVY_SAFETENSORS_ALIGN      64 /* where the first tensor begins in files we write */
#define CVY_SAFETENSORS_META       "__metadata__"

/* Keys of __metadata__ that carry hashes. CVY_HASH_KEY is the header's own: of the length and the
 * header as they stand in the file, with these 16 digits as zeros. It has no dot, so that no tensor
 * name can lead to it. */
#define CVY_HASH_KEY    "xxh3"
#define CVY_HASH_PREFIX "xxh3."
#define CVY_HASH_DIGITS 16

/* Whether a tensor may have this name; else why is set. */
int cvy_tensor_name_is_good(const char *name, const char **why);

/* Product of the dims and bytes of a tensor; 0 when n_dims, a dim or a product is out of range. */
int cvy_tensor_sizes(const cvy_tensor_entry *entry, int64_t *out_elems, size_t *out_bytes);

/* Where the digits of the header's own hash stand in it; NULL: nowhere. */
char *cvy_safetensors_own_hash(char *header, size_t header_bytes);

/* The hash of the first 8 + header_bytes bytes of a file whose own hash digits are at digits. They
 * are zeros during the call. */
uint64_t cvy_safetensors_header_hash(char *file, size_t header_bytes, char *digits);

uint64_t cvy_load_u64(const char *bytes); /* little-endian */
void cvy_store_u64(char *bytes, uint64_t value);

#endif
