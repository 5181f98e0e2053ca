#include "dataset/importers/idx_internal.h"

#include "dataset/datum.h"

#include "base/alloc.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#define ITEM_LIMIT_BYTES ((size_t)DATASET_RECORD_LIMIT_BYTES - 4096)

/* Bytes of a value by type; 0: no such type. */
static size_t bytes_of_type(int type)
{
    switch (type) {
    case 0x08: /* uint8 */
    case 0x09: /* int8 */
        return 1;
    case 0x0b: /* int16 */
        return 2;
    case 0x0c: /* int32 */
    case 0x0d: /* float32 */
        return 4;
    case 0x0e: /* float64 */
        return 8;
    default:
        return 0;
    }
}

static uint64_t big_endian(const uint8_t *bytes, size_t n)
{
    uint64_t value = 0;

    for (size_t i = 0; i < n; i++) value = value << 8 | bytes[i];
    return value;
}

/* What zlib or the system says about a stream that failed. */
static const char *stream_error(dataset_idx *idx)
{
    int code = Z_OK;
    const char *text = gzerror(idx->stream, &code);

    return code == Z_ERRNO ? strerror(errno) : text;
}

/* Up to size bytes; fewer at the end. */
static cvy_status read_bytes(dataset_idx *idx, uint8_t *out, size_t size, size_t *out_n)
{
    const int n = gzread(idx->stream, out, (unsigned)size);
    int code = Z_OK;

    (void)gzerror(idx->stream, &code);
    /* Z_BUF_ERROR: a gzip stream ends in its middle; the caller finds too few bytes. */
    if (n < 0 || (code != Z_OK && code != Z_BUF_ERROR)) {
        return CVY_FAIL(code == Z_ERRNO ? CVY_ERR_IO : CVY_ERR_BAD_DATA, "%s: %s", idx->path,
                        stream_error(idx));
    }
    *out_n = (size_t)n;
    return CVY_OK;
}

static cvy_status read_dims(dataset_idx *idx)
{
    uint8_t bytes[4 * DATASET_IDX_MAX_DIMS];
    size_t n = 0, item_bytes = idx->value_bytes;

    CVY_RETURN_IF_ERR(read_bytes(idx, bytes, 4 * (size_t)idx->n_dims, &n));
    if (n < 4 * (size_t)idx->n_dims) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: ends within its header of %d bytes", idx->path,
                        4 + 4 * idx->n_dims);
    }
    for (int i = 0; i < idx->n_dims; i++) {
        idx->dim[i] = (int64_t)big_endian(bytes + 4 * i, 4);
        if (idx->dim[i] == 0) {
            return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: dimension %d is 0", idx->path, i + 1);
        }
        if (i > 0 && (!cvy_size_mul(item_bytes, (size_t)idx->dim[i], &item_bytes) ||
                      item_bytes > ITEM_LIMIT_BYTES)) {
            return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: an item has more than %zu bytes", idx->path,
                            ITEM_LIMIT_BYTES);
        }
    }
    idx->n_item_values = (int64_t)(item_bytes / idx->value_bytes);
    return CVY_OK;
}

static cvy_status read_header(dataset_idx *idx)
{
    uint8_t magic[4];
    size_t n = 0;

    CVY_RETURN_IF_ERR(read_bytes(idx, magic, sizeof magic, &n));
    if (n < sizeof magic) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: %zu bytes are no idx file", idx->path, n);
    }
    idx->type = magic[2];
    idx->n_dims = magic[3];
    idx->value_bytes = bytes_of_type(idx->type);
    if (magic[0] != 0 || magic[1] != 0 || idx->value_bytes == 0) {
        return CVY_FAIL(CVY_ERR_BAD_DATA,
                        "%s begins with %02x %02x %02x %02x, an idx file with 00 00, a type (08, "
                        "09, 0b to 0e) and the number of dimensions",
                        idx->path, magic[0], magic[1], magic[2], magic[3]);
    }
    if (idx->n_dims < 1 || idx->n_dims > DATASET_IDX_MAX_DIMS) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s has %d dimensions, expected 1 to %d", idx->path,
                        idx->n_dims, DATASET_IDX_MAX_DIMS);
    }
    return read_dims(idx);
}

cvy_status dataset_idx_open(const char *path, dataset_idx *out)
{
    cvy_status status = CVY_OK;
    struct stat info;
    dataset_idx idx = {0};

    if (stat(path, &info) != 0) {
        return CVY_FAIL(cvy_status_from_errno(errno), "%s: %s", path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode)) return CVY_FAIL(CVY_ERR_BAD_DATA, "%s is not a regular file", path);
    idx.path = cvy_strdup(path);
    if (idx.path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path %s", path);
    errno = 0;
    idx.stream = gzopen(path, "rbe");
    if (idx.stream == NULL) {
        status = CVY_FAIL(errno != 0 ? cvy_status_from_errno(errno) : CVY_ERR_NO_MEMORY,
                          "open %s: %s", path, errno != 0 ? strerror(errno) : "no memory");
    } else {
        gzbuffer(idx.stream, 1u << 17);
        status = read_header(&idx);
    }
    if (status != CVY_OK) {
        dataset_idx_close(&idx);
        return status;
    }
    *out = idx;
    return CVY_OK;
}

void dataset_idx_close(dataset_idx *idx)
{
    if (idx->stream != NULL) gzclose_r(idx->stream);
    cvy_free(idx->path);
    *idx = (dataset_idx){0};
}

cvy_status dataset_idx_read(dataset_idx *idx, uint8_t *out)
{
    const size_t size = (size_t)idx->n_item_values * idx->value_bytes;
    size_t n = 0;

    CVY_RETURN_IF_ERR(read_bytes(idx, out, size, &n));
    if (n < size) {
        return CVY_FAIL(CVY_ERR_BAD_DATA,
                        "%s: truncated: has %lld whole items of %zu bytes, its header says %lld",
                        idx->path, (long long)idx->n_items_read, size, (long long)idx->dim[0]);
    }
    idx->n_items_read++;
    return CVY_OK;
}

cvy_status dataset_idx_check_end(dataset_idx *idx)
{
    uint8_t more = 0;
    size_t n = 0;
    int code = Z_OK;

    CVY_RETURN_IF_ERR(read_bytes(idx, &more, 1, &n));
    if (n > 0) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: goes on after the %lld items that its header says",
                        idx->path, (long long)idx->dim[0]);
    }
    gzerror(idx->stream, &code);
    if (code != Z_OK) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: the gzip stream is truncated at its end", idx->path);
    }
    return CVY_OK;
}

int dataset_idx_to_int(const dataset_idx *idx, const uint8_t *bytes, int64_t *out)
{
    const uint64_t value = big_endian(bytes, idx->value_bytes);

    switch (idx->type) {
    case 0x08:
        *out = (int64_t)value;
        return 0;
    case 0x09:
        *out = (int8_t)value;
        return 0;
    case 0x0b:
        *out = (int16_t)value;
        return 0;
    case 0x0c:
        *out = (int32_t)value;
        return 0;
    default:
        return -1;
    }
}

void dataset_idx_to_floats(const dataset_idx *idx, const uint8_t *bytes, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *at = bytes + (size_t)i * idx->value_bytes;
        const uint64_t bits = big_endian(at, idx->value_bytes);
        int64_t whole = 0;
        if (dataset_idx_to_int(idx, at, &whole) == 0) {
            out[i] = (float)whole;
        } else if (idx->type == 0x0d) {
            const uint32_t bits32 = (uint32_t)bits;
            memcpy(&out[i], &bits32, sizeof bits32);
        } else {
            double value = 0.0;
            memcpy(&value, &bits, sizeof value);
            out[i] = (float)value;
        }
    }
}
