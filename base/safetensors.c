#include "base/safetensors.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/safetensors_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cvy_safetensors {
    char *bytes; /* the file; the tensors lie in it */
    size_t size_bytes;
    size_t header_bytes;
    char *payload; /* in bytes */
    size_t payload_bytes;
    json_t *header; /* names and metadata lie in it */
    json_t *meta;   /* part of header; NULL: none */
    cvy_tensor_entry *entries;
    const cvy_tensor_entry **by_name; /* sorted */
    int n_entries;
};

static const struct {
    const char *name;
    size_t size_bytes;
} dtypes[] = {[CVY_F32] = {"F32", 4},   [CVY_F64] = {"F64", 8}, [CVY_F16] = {"F16", 2},
              [CVY_BF16] = {"BF16", 2}, [CVY_I64] = {"I64", 8}, [CVY_I32] = {"I32", 4},
              [CVY_U8] = {"U8", 1}};

size_t cvy_dtype_bytes(cvy_dtype dtype)
{
    return dtypes[dtype].size_bytes;
}

const char *cvy_dtype_name(cvy_dtype dtype)
{
    return dtypes[dtype].name;
}

int64_t cvy_tensor_n_elems(const cvy_tensor_entry *entry)
{
    int64_t n_elems = 1;

    for (int i = 0; i < entry->n_dims; i++) n_elems *= entry->dim[i];
    return n_elems;
}

int cvy_tensor_sizes(const cvy_tensor_entry *entry, int64_t *out_elems, size_t *out_bytes)
{
    size_t n_elems = 1, size_bytes = 0;

    if (entry->n_dims < 0 || entry->n_dims > CVY_TENSOR_MAX_DIMS) return 0;
    for (int i = 0; i < entry->n_dims; i++) {
        if (entry->dim[i] < 1 || !cvy_size_mul(n_elems, (size_t)entry->dim[i], &n_elems)) return 0;
    }
    if (!cvy_size_mul(n_elems, cvy_dtype_bytes(entry->dtype), &size_bytes)) return 0;
    if (size_bytes > (size_t)INT64_MAX) return 0;
    *out_elems = (int64_t)n_elems;
    *out_bytes = size_bytes;
    return 1;
}

int cvy_tensor_name_is_good(const char *name, const char **why)
{
    *why = NULL;
    if (name == NULL || name[0] == '\0') {
        *why = "a tensor without a name";
    } else if (strnlen(name, CVY_SAFETENSORS_MAX_NAME + 1) > CVY_SAFETENSORS_MAX_NAME) {
        *why = "a tensor name of more than 512 bytes";
    } else if (strstr(name, "..") != NULL) {
        *why = "a tensor name with '..'";
    } else if (strcmp(name, CVY_SAFETENSORS_META) == 0) {
        *why = "a tensor named __metadata__";
    }
    for (const char *c = name; *why == NULL && *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7F) *why = "a tensor name with a control character";
    }
    return *why == NULL;
}

uint64_t cvy_load_u64(const char *bytes)
{
    uint64_t value = 0;

    for (int i = 7; i >= 0; i--) value = value << 8 | (unsigned char)bytes[i];
    return value;
}

void cvy_store_u64(char *bytes, uint64_t value)
{
    for (int i = 0; i < 8; i++) bytes[i] = (char)(value >> (8 * i) & 0xFF);
}

char *cvy_safetensors_own_hash(char *header, size_t header_bytes)
{
    /* A quote inside a JSON text is escaped, so this can only be the key. */
    static const char key[] = "\"" CVY_HASH_KEY "\":\"";
    char *at = memmem(header, header_bytes, key, sizeof key - 1);

    if (at == NULL) return NULL;
    at += sizeof key - 1;
    return (size_t)(header + header_bytes - at) < CVY_HASH_DIGITS ? NULL : at;
}

uint64_t cvy_safetensors_header_hash(char *file, size_t header_bytes, char *digits)
{
    char saved[CVY_HASH_DIGITS];

    memcpy(saved, digits, sizeof saved);
    memset(digits, '0', sizeof saved);
    const uint64_t hash = cvy_hash64(file, 8 + header_bytes);
    memcpy(digits, saved, sizeof saved);
    return hash;
}

/* --- Reading ---------------------------------------------------------------------------------- */

static cvy_status refuse(cvy_reason *reason, const char *what)
{
    return cvy_because(reason, CVY_ERR_BAD_DATA, "%s", what);
}

static cvy_status refuse_tensor(cvy_reason *reason, const char *name, const char *what)
{
    return cvy_because(reason, CVY_ERR_BAD_DATA, "tensor '%.100s': %s", name, what);
}

static cvy_status find_parts(cvy_safetensors *file, cvy_reason *reason)
{
    if (file->size_bytes < 8) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "%zu bytes are too short for a safetensors file", file->size_bytes);
    }
    const uint64_t length = cvy_load_u64(file->bytes);
    if (length < 2 || length > CVY_SAFETENSORS_MAX_HEADER) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "no safetensors file: header length %llu, expected 2 to 16777216",
                           (unsigned long long)length);
    }
    if (length > file->size_bytes - 8) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "file has %zu bytes, its header alone needs %llu", file->size_bytes,
                           (unsigned long long)length + 8);
    }
    file->header_bytes = (size_t)length;
    file->payload = file->bytes + 8 + file->header_bytes;
    file->payload_bytes = file->size_bytes - 8 - file->header_bytes;
    if (file->bytes[8] != '{') return refuse(reason, "no safetensors file: no JSON header");
    return CVY_OK;
}

/* A JSON tree takes up to 128 bytes a value, many times its text: refuse a header that would make
 * more of it than the file is large, with room for small files. Headers nest three deep. */
static cvy_status check_header_size(const cvy_safetensors *file, cvy_reason *reason)
{
    const char *header = file->bytes + 8;
    size_t n_values = 0;
    int depth = 0, is_in_text = 0;

    for (size_t i = 0; i < file->header_bytes; i++) {
        const char c = header[i];
        if (is_in_text) {
            if (c == '\\') i++; /* what is escaped */
            if (c == '"') is_in_text = 0;
            continue;
        }
        is_in_text = c == '"';
        if (c == '{' || c == '[') depth++;
        if (c == '}' || c == ']') depth--;
        n_values += c == ',' || c == '{' || c == '[';
        if (depth > 3) return refuse(reason, "header nested more than three levels deep");
    }
    if (n_values > file->size_bytes / 128 + ((size_t)16 << 20) / 128) {
        return refuse(reason, "header describes more than a file of this size can hold");
    }
    return CVY_OK;
}

static cvy_status parse_header(cvy_safetensors *file, cvy_reason *reason)
{
    json_error_t error;

    CVY_RETURN_IF_ERR(check_header_size(file, reason));
    file->header = json_loadb(file->bytes + 8, file->header_bytes, JSON_REJECT_DUPLICATES, &error);
    if (file->header == NULL) {
        const int is_memory = json_error_code(&error) == json_error_out_of_memory;
        return cvy_because(reason, is_memory ? CVY_ERR_NO_MEMORY : CVY_ERR_BAD_DATA,
                           "header byte %d: %s", error.position, error.text);
    }
    if (!json_is_object(file->header)) return refuse(reason, "header is no JSON object");
    file->meta = json_object_get(file->header, CVY_SAFETENSORS_META);
    if (file->meta != NULL && !json_is_object(file->meta)) {
        return refuse(reason, "__metadata__ is no JSON object");
    }
    return CVY_OK;
}

/* One damaged bit may hit the very key of the header's hash; the keys of the tensors' hashes then
 * tell that there was one. */
static cvy_status check_header_hash(cvy_safetensors *file, cvy_reason *reason)
{
    int is_expected = 0;
    const char *key, *stored = cvy_safetensors_meta(file, CVY_HASH_KEY);
    json_t *value;
    char text[CVY_HASH_DIGITS + 1];

    json_object_foreach(file->meta, key, value)
    {
        if (!json_is_string(value)) return refuse(reason, "metadata that is no text");
        is_expected |= strncmp(key, CVY_HASH_PREFIX, strlen(CVY_HASH_PREFIX)) == 0;
    }
    if (stored == NULL && !is_expected) return CVY_OK; /* a file by others */
    if (stored == NULL) return refuse(reason, "the hash of the header is missing");
    char *digits = cvy_safetensors_own_hash(file->bytes + 8, file->header_bytes);
    if (digits == NULL) return refuse(reason, "the hash of the header is not where it should be");
    cvy_hash_text(cvy_safetensors_header_hash(file->bytes, file->header_bytes, digits), text);
    if (strcmp(text, stored) != 0) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "header is damaged: its hash is %s, not %s",
                           text, stored);
    }
    return CVY_OK;
}

static int parse_dtype(const json_t *value, cvy_dtype *out)
{
    const char *name = json_string_value(value);

    for (size_t i = 0; name != NULL && i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, name) != 0) continue;
        *out = (cvy_dtype)i;
        return 1;
    }
    return 0;
}

/* 0 when it is no list of up to 8 positive integers. */
static int parse_shape(const json_t *shape, cvy_tensor_entry *entry)
{
    const size_t n_dims = json_array_size(shape);

    if (!json_is_array(shape) || n_dims > CVY_TENSOR_MAX_DIMS) return 0;
    for (size_t i = 0; i < n_dims; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 1) return 0;
        entry->dim[i] = json_integer_value(dim);
    }
    entry->n_dims = (int)n_dims;
    return 1;
}

/* Where a tensor lies; *end is where the one before it ended and becomes its own. */
static cvy_status parse_offsets(const cvy_safetensors *file, const json_t *offsets,
                                cvy_tensor_entry *entry, size_t *end, cvy_reason *reason)
{
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    int64_t n_elems = 0;
    size_t size_bytes = 0;

    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last)) {
        return refuse_tensor(reason, entry->name, "data_offsets are not two integers");
    }
    if (!cvy_tensor_sizes(entry, &n_elems, &size_bytes)) {
        return refuse_tensor(reason, entry->name, "shape is larger than any file");
    }
    if (json_integer_value(first) != (json_int_t)*end) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "tensor '%.100s': begins at %lld, expected %zu (no holes, no overlap)",
                           entry->name, (long long)json_integer_value(first), *end);
    }
    if (size_bytes > file->payload_bytes - *end) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "tensor '%.100s': file has %zu bytes, needs at least %zu more",
                           entry->name, file->size_bytes,
                           size_bytes - (file->payload_bytes - *end));
    }
    if (json_integer_value(last) != (json_int_t)(*end + size_bytes)) {
        return refuse_tensor(reason, entry->name, "data_offsets do not fit its shape and dtype");
    }
    if (*end % cvy_dtype_bytes(entry->dtype) != 0) {
        return refuse_tensor(reason, entry->name, "is misaligned");
    }
    entry->data = file->payload + *end;
    *end += size_bytes;
    return CVY_OK;
}

static cvy_status parse_tensor(const cvy_safetensors *file, const char *name, const json_t *tensor,
                               cvy_tensor_entry *entry, size_t *end, cvy_reason *reason)
{
    const char *why = NULL;

    entry->name = name;
    if (!cvy_tensor_name_is_good(name, &why)) return refuse(reason, why);
    if (!json_is_object(tensor) || json_object_size(tensor) != 3) {
        return refuse_tensor(reason, name, "expected dtype, shape and data_offsets");
    }
    if (!parse_dtype(json_object_get(tensor, "dtype"), &entry->dtype)) {
        return refuse_tensor(reason, name, "dtype is none of F32 F64 F16 BF16 I64 I32 U8");
    }
    if (!parse_shape(json_object_get(tensor, "shape"), entry)) {
        return refuse_tensor(reason, name, "shape is no list of up to 8 positive integers");
    }
    return parse_offsets(file, json_object_get(tensor, "data_offsets"), entry, end, reason);
}

static int compare_names(const void *a, const void *b)
{
    const cvy_tensor_entry *const *left = a, *const *right = b;
    return strcmp((*left)->name, (*right)->name);
}

static cvy_status parse_tensors(cvy_safetensors *file, cvy_reason *reason)
{
    const size_t n = json_object_size(file->header) - (file->meta != NULL);
    const char *name;
    json_t *tensor;
    size_t end = 0;

    if (n == 0) return refuse(reason, "no tensors");
    file->entries = cvy_alloc_zero(n, sizeof *file->entries);
    file->by_name = cvy_alloc_zero(n, sizeof *file->by_name);
    if (file->entries == NULL || file->by_name == NULL) {
        return cvy_because(reason, CVY_ERR_NO_MEMORY, "out of memory for %zu tensors", n);
    }
    json_object_foreach(file->header, name, tensor)
    {
        if (tensor == file->meta) continue;
        cvy_tensor_entry *entry = &file->entries[file->n_entries];
        CVY_RETURN_IF_ERR(parse_tensor(file, name, tensor, entry, &end, reason));
        file->by_name[file->n_entries++] = entry;
    }
    if (end != file->payload_bytes) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "%zu bytes of junk after the last tensor",
                           file->payload_bytes - end);
    }
    qsort(file->by_name, n, sizeof *file->by_name, compare_names);
    return CVY_OK;
}

static cvy_status check_tensor_hash(const cvy_safetensors *file, const cvy_tensor_entry *entry,
                                    cvy_reason *reason)
{
    char key[sizeof CVY_HASH_PREFIX + CVY_SAFETENSORS_MAX_NAME];
    char text[CVY_HASH_DIGITS + 1];
    int64_t n_elems = 0;
    size_t size_bytes = 0;

    snprintf(key, sizeof key, "%s%s", CVY_HASH_PREFIX, entry->name); /* its length was checked */
    const char *stored = cvy_safetensors_meta(file, key);
    if (stored == NULL) {
        if (cvy_safetensors_meta(file, CVY_HASH_KEY) == NULL) return CVY_OK;
        return refuse_tensor(reason, entry->name, "has no hash");
    }
    (void)cvy_tensor_sizes(entry, &n_elems, &size_bytes);
    cvy_hash_text(cvy_hash64(entry->data, size_bytes), text);
    if (strcmp(text, stored) == 0) return CVY_OK;
    return cvy_because(reason, CVY_ERR_BAD_DATA,
                       "tensor '%.100s' is damaged: its hash is %s, not %s", entry->name, text,
                       stored);
}

/* Files by others may begin their payload anywhere; then move it to where floats may lie. */
static void align_payload(cvy_safetensors *file)
{
    if ((8 + file->header_bytes) % 8 == 0) return;
    for (int i = 0; i < file->n_entries; i++) {
        const size_t offset = (size_t)((const char *)file->entries[i].data - file->payload);
        file->entries[i].data = file->bytes + offset;
    }
    memmove(file->bytes, file->payload, file->payload_bytes);
    file->payload = file->bytes;
}

/* Takes bytes, whatever it returns. */
static cvy_status adopt(char *bytes, size_t size_bytes, cvy_safetensors **out, cvy_reason *reason)
{
    cvy_status status = CVY_OK;
    cvy_safetensors *file = cvy_alloc_zero(1, sizeof *file);

    if (file == NULL) {
        cvy_free(bytes);
        return cvy_because(reason, CVY_ERR_NO_MEMORY, "out of memory");
    }
    file->bytes = bytes;
    file->size_bytes = size_bytes;
    CVY_GOTO_IF_ERR(fail, status, find_parts(file, reason));
    CVY_GOTO_IF_ERR(fail, status, parse_header(file, reason));
    CVY_GOTO_IF_ERR(fail, status, check_header_hash(file, reason));
    CVY_GOTO_IF_ERR(fail, status, parse_tensors(file, reason));
    for (int i = 0; i < file->n_entries; i++) {
        CVY_GOTO_IF_ERR(fail, status, check_tensor_hash(file, &file->entries[i], reason));
    }
    align_payload(file);
    *out = file;
    return CVY_OK;

fail:
    cvy_safetensors_close(&file);
    return status;
}

cvy_status cvy_safetensors_open(const char *path, size_t limit_bytes, cvy_safetensors **out,
                                cvy_reason *reason)
{
    char *bytes = NULL;
    size_t size_bytes = 0;

    *out = NULL;
    CVY_RETURN_IF_ERR(cvy_file_read(path, limit_bytes, &bytes, &size_bytes, reason));
    return adopt(bytes, size_bytes, out, reason);
}

cvy_status cvy_safetensors_parse(const void *bytes, size_t size_bytes, cvy_safetensors **out,
                                 cvy_reason *reason)
{
    *out = NULL;
    char *copy = cvy_alloc(size_bytes);
    if (copy == NULL) {
        return cvy_because(reason, CVY_ERR_NO_MEMORY, "out of memory for %zu bytes", size_bytes);
    }
    if (size_bytes > 0) memcpy(copy, bytes, size_bytes);
    return adopt(copy, size_bytes, out, reason);
}

void cvy_safetensors_close(cvy_safetensors **file)
{
    if (file == NULL || *file == NULL) return;
    json_decref((*file)->header);
    cvy_free((*file)->entries);
    cvy_free(((*file)->by_name));
    cvy_free((*file)->bytes);
    cvy_free(*file);
    *file = NULL;
}

int cvy_safetensors_n(const cvy_safetensors *file)
{
    return file->n_entries;
}

const cvy_tensor_entry *cvy_safetensors_entry(const cvy_safetensors *file, int idx)
{
    CVY_ASSERT(idx >= 0 && idx < file->n_entries);
    return &file->entries[idx];
}

const cvy_tensor_entry *cvy_safetensors_find(const cvy_safetensors *file, const char *name)
{
    const cvy_tensor_entry wanted = {.name = name}, *key = &wanted;
    const cvy_tensor_entry **found = bsearch(&key, file->by_name, (size_t)file->n_entries,
                                             sizeof *file->by_name, compare_names);

    return found == NULL ? NULL : *found;
}

const char *cvy_safetensors_meta(const cvy_safetensors *file, const char *key)
{
    return json_string_value(json_object_get(file->meta, key));
}
