#ifndef CVY_SAFETENSORS_H
#define CVY_SAFETENSORS_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/**
 * The safetensors container: 8 bytes little-endian header length, a JSON header, the tensors.
 * Format: huggingface/safetensors README. Neutral between nn (which knows what the tensors mean)
 * and coordinator (which only needs to know that a file is whole), hence in base.
 *
 * Written files carry, in `__metadata__`, "format": "pt", "xxh3.NAME": hex of every tensor, and
 * "xxh3": hex of the length and header themselves (with these digits as zeros), so that one flipped
 * bit anywhere is found, and named where it is in a tensor. Files by others, without these, are
 * read too. The first tensor begins at a multiple of 64.
 *
 * Reading trusts nothing: header at most 16 MiB and inside the file before anything is allocated
 * for it, names UTF-8 of 1 to 512 bytes without control characters or "..", unique, ranks <= 8,
 * dims >= 1, products checked, offsets aligned and ascending without holes or overlap up to the end
 * of the file. A header whose tree could outgrow the file (by more than 16 MiB) is refused before
 * it is built, so memory stays below twice the file's size for all but small files.
 */
typedef enum cvy_dtype { CVY_F32, CVY_F64, CVY_F16, CVY_BF16, CVY_I64, CVY_I32, CVY_U8 } cvy_dtype;
size_t cvy_dtype_bytes(cvy_dtype dtype);
const char *cvy_dtype_name(cvy_dtype dtype); /* "F32" ... as in the format */

#define CVY_TENSOR_MAX_DIMS 8

typedef struct cvy_tensor_entry {
    const char *name;
    cvy_dtype dtype;
    int n_dims; /* 0: a scalar, one element */
    int64_t dim[CVY_TENSOR_MAX_DIMS];
    const void *data; /* row-major, little-endian */
} cvy_tensor_entry;

/** Elements of a tensor; the product was checked when it was read. */
int64_t cvy_tensor_n_elems(const cvy_tensor_entry *entry);

/** key/value pairs of __metadata__. */
typedef struct cvy_tensor_meta {
    const char *key, *value;
} cvy_tensor_meta;

/**
 * Write a new file (cvy_file_writer: exclusive create, fsync). Entries are stored in the order
 * given, so larger dtypes come first; what could not be read back is CVY_ERR_INVALID_ARG. meta has
 * other keys than "format" and "xxh3...". Gives the file's length and XXH3 (each may be NULL).
 * Failures are logged.
 */
cvy_status cvy_safetensors_write(const char *path, const cvy_tensor_entry *entries, int n_entries,
                                 const cvy_tensor_meta *meta, int n_meta, uint64_t *out_size_bytes,
                                 uint64_t *out_hash);

typedef struct cvy_safetensors cvy_safetensors;

/** Read a whole file into memory and check it, tensor hashes included. Quiet: reason says what is
 *  wrong and, where it is one tensor's damage, names it. limit_bytes: refuse larger files. */
cvy_status cvy_safetensors_open(const char *path, size_t limit_bytes, cvy_safetensors **out,
                                cvy_reason *reason);
/** The same from memory, for fuzzing and tests; bytes are copied. */
cvy_status cvy_safetensors_parse(const void *bytes, size_t size_bytes, cvy_safetensors **out,
                                 cvy_reason *reason);
void cvy_safetensors_close(cvy_safetensors **file);

int cvy_safetensors_n(const cvy_safetensors *file);
const cvy_tensor_entry *cvy_safetensors_entry(const cvy_safetensors *file, int idx);
const cvy_tensor_entry *cvy_safetensors_find(const cvy_safetensors *file, const char *name);
const char *cvy_safetensors_meta(const cvy_safetensors *file, const char *key); /* NULL: none */

#endif
