#include "base/safetensors.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/safetensors_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare_names(const void *a, const void *b)
{
    const cvy_tensor_entry *const *left = a, *const *right = b;
    return strcmp((*left)->name, (*right)->name);
}

static cvy_status check_unique(const char *path, const cvy_tensor_entry *entries, int n_entries)
{
    cvy_status status = CVY_OK;
    const cvy_tensor_entry **sorted = cvy_alloc((size_t)n_entries * sizeof *sorted);

    if (sorted == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "out of memory writing %s", path);
    for (int i = 0; i < n_entries; i++) sorted[i] = &entries[i];
    qsort(sorted, (size_t)n_entries, sizeof *sorted, compare_names);
    for (int i = 1; status == CVY_OK && i < n_entries; i++) {
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0) {
            status = CVY_FAIL(CVY_ERR_INVALID_ARG, "%s: two tensors are named '%s'", path,
                              sorted[i]->name);
        }
    }
    cvy_free(sorted);
    return status;
}

/* What the reader would refuse is refused here too. */
static cvy_status check_entries(const char *path, const cvy_tensor_entry *entries, int n_entries)
{
    size_t offset = 0;

    if (n_entries < 1) return CVY_FAIL(CVY_ERR_INVALID_ARG, "%s: no tensors to write", path);
    for (int i = 0; i < n_entries; i++) {
        const cvy_tensor_entry *entry = &entries[i];
        const char *why = "no data";
        int64_t n_elems = 0;
        size_t size_bytes = 0;
        if (entry->data == NULL || !cvy_tensor_name_is_good(entry->name, &why)) {
            return CVY_FAIL(CVY_ERR_INVALID_ARG, "%s: tensor %d: %s", path, i, why);
        }
        if (!cvy_tensor_sizes(entry, &n_elems, &size_bytes)) {
            return CVY_FAIL(CVY_ERR_INVALID_ARG, "%s: tensor '%s' has no valid shape", path,
                            entry->name);
        }
        if (offset % cvy_dtype_bytes(entry->dtype) != 0) {
            return CVY_FAIL(CVY_ERR_INVALID_ARG,
                            "%s: tensor '%s' would be misaligned, write larger types first", path,
                            entry->name);
        }
        if (!cvy_size_add(offset, size_bytes, &offset)) {
            return CVY_FAIL(CVY_ERR_INVALID_ARG, "%s: more bytes than a file can hold", path);
        }
    }
    return check_unique(path, entries, n_entries);
}

static cvy_status check_meta(const char *path, const cvy_tensor_meta *meta, int n_meta)
{
    for (int i = 0; i < n_meta; i++) {
        const char *key = meta[i].key;
        int is_bad = strcmp(key, "format") == 0 || strcmp(key, CVY_HASH_KEY) == 0 ||
                     strncmp(key, CVY_HASH_PREFIX, strlen(CVY_HASH_PREFIX)) == 0;
        for (int j = 0; j < i; j++) is_bad = is_bad || strcmp(key, meta[j].key) == 0;
        if (is_bad) {
            return CVY_FAIL(CVY_ERR_INVALID_ARG, "%s: metadata key '%s' is taken", path, key);
        }
    }
    return CVY_OK;
}

/* NULL: no memory, or text that is not UTF-8. */
static json_t *make_meta(const cvy_tensor_entry *entries, int n_entries,
                         const cvy_tensor_meta *meta, int n_meta)
{
    json_t *object = json_object();
    int is_bad = json_object_set_new(object, "format", json_string("pt"));

    is_bad |= json_object_set_new(object, CVY_HASH_KEY, json_string("0000000000000000"));
    for (int i = 0; i < n_meta; i++) {
        is_bad |= json_object_set_new(object, meta[i].key, json_string(meta[i].value));
    }
    for (int i = 0; i < n_entries; i++) {
        char key[sizeof CVY_HASH_PREFIX + CVY_SAFETENSORS_MAX_NAME];
        char digits[CVY_HASH_DIGITS + 1];
        int64_t n_elems = 0;
        size_t size_bytes = 0;
        (void)cvy_tensor_sizes(&entries[i], &n_elems, &size_bytes);
        cvy_hash_text(cvy_hash64(entries[i].data, size_bytes), digits);
        /* The name's length was checked. */
        snprintf(key, sizeof key, "%s%s", CVY_HASH_PREFIX, entries[i].name);
        is_bad |= json_object_set_new(object, key, json_string(digits));
    }
    if (!is_bad) return object;
    json_decref(object);
    return NULL;
}

static json_t *make_tensor(const cvy_tensor_entry *entry, size_t begin, size_t end)
{
    json_t *shape = json_array();
    int is_bad = 0;

    for (int i = 0; i < entry->n_dims; i++) {
        is_bad |= json_array_append_new(shape, json_integer(entry->dim[i]));
    }
    json_t *object = json_pack("{s:s, s:o, s:[I, I]}", "dtype", cvy_dtype_name(entry->dtype),
                               "shape", shape, "data_offsets", (json_int_t)begin, (json_int_t)end);
    if (!is_bad || object == NULL) return object;
    json_decref(object);
    return NULL;
}

static json_t *make_header(const cvy_tensor_entry *entries, int n_entries,
                           const cvy_tensor_meta *meta, int n_meta)
{
    json_t *header = json_object();
    size_t begin = 0;
    int is_bad = json_object_set_new(header, CVY_SAFETENSORS_META,
                                     make_meta(entries, n_entries, meta, n_meta));

    for (int i = 0; i < n_entries; i++) {
        int64_t n_elems = 0;
        size_t size_bytes = 0;
        (void)cvy_tensor_sizes(&entries[i], &n_elems, &size_bytes);
        is_bad |= json_object_set_new(header, entries[i].name,
                                      make_tensor(&entries[i], begin, begin + size_bytes));
        begin += size_bytes;
    }
    if (!is_bad) return header;
    json_decref(header);
    return NULL;
}

/* Length, header and padding as they stand in the file, own hash filled in; cvy_free() it. */
static cvy_status make_head(const char *path, json_t *header, char **out, size_t *out_size)
{
    const size_t size = json_dumpb(header, NULL, 0, JSON_COMPACT);
    const size_t rest = (8 + size) % CVY_SAFETENSORS_ALIGN;
    const size_t header_bytes = size + (rest == 0 ? 0 : CVY_SAFETENSORS_ALIGN - rest);

    if (size == 0) return CVY_FAIL(CVY_ERR_NO_MEMORY, "out of memory writing %s", path);
    if (header_bytes > CVY_SAFETENSORS_MAX_HEADER) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "%s: header of %zu bytes, at most 16 MiB can be read",
                        path, header_bytes);
    }
    char *head = cvy_alloc(8 + header_bytes);
    if (head == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "out of memory writing %s", path);
    cvy_store_u64(head, header_bytes);
    memset(head + 8, ' ', header_bytes);
    (void)json_dumpb(header, head + 8, size, JSON_COMPACT);
    char *digits = cvy_safetensors_own_hash(head + 8, header_bytes);
    CVY_ASSERT(digits != NULL);
    char text[CVY_HASH_DIGITS + 1];
    cvy_hash_text(cvy_safetensors_header_hash(head, header_bytes, digits), text);
    memcpy(digits, text, CVY_HASH_DIGITS);
    *out = head;
    *out_size = 8 + header_bytes;
    return CVY_OK;
}

static cvy_status write_file(const char *path, const char *head, size_t head_bytes,
                             const cvy_tensor_entry *entries, int n_entries,
                             cvy_file_writer **writer)
{
    CVY_RETURN_IF_ERR(cvy_file_writer_open(path, writer));
    CVY_RETURN_IF_ERR(cvy_file_writer_write(*writer, head, head_bytes));
    for (int i = 0; i < n_entries; i++) {
        int64_t n_elems = 0;
        size_t size_bytes = 0;
        (void)cvy_tensor_sizes(&entries[i], &n_elems, &size_bytes);
        CVY_RETURN_IF_ERR(cvy_file_writer_write(*writer, entries[i].data, size_bytes));
    }
    return CVY_OK;
}

cvy_status cvy_safetensors_write(const char *path, const cvy_tensor_entry *entries, int n_entries,
                                 const cvy_tensor_meta *meta, int n_meta, uint64_t *out_size_bytes,
                                 uint64_t *out_hash)
{
    cvy_status status = CVY_OK;
    char *head = NULL;
    size_t head_bytes = 0;
    cvy_file_writer *writer = NULL;

    CVY_RETURN_IF_ERR(check_entries(path, entries, n_entries));
    CVY_RETURN_IF_ERR(check_meta(path, meta, n_meta));
    json_t *header = make_header(entries, n_entries, meta, n_meta);
    if (header == NULL) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG,
                        "%s: no header can be made: a name or metadata text is not UTF-8, or out "
                        "of memory",
                        path);
    }
    status = make_head(path, header, &head, &head_bytes);
    json_decref(header);
    if (status == CVY_OK) {
        status = write_file(path, head, head_bytes, entries, n_entries, &writer);
    }
    if (status == CVY_OK) status = cvy_file_writer_commit(&writer, out_size_bytes, out_hash);
    cvy_file_writer_discard(&writer);
    cvy_free(head);
    return status;
}
