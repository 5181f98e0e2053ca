#include "dataset/datum.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "dataset/datum_internal.h"

#include "dataset/datum.pb-c.h"

#include <limits.h>
#include <string.h>

/* Field numbers of datum.proto, as the reader meets them. */
enum {
    FIELD_CHANNELS = 1,
    FIELD_HEIGHT = 2,
    FIELD_WIDTH = 3,
    FIELD_DATA = 4,
    FIELD_LABEL = 5,
    FIELD_FLOAT_DATA = 6,
    FIELD_ENCODED = 7,
    FIELD_INDEX = 99,
    FIELD_DEPTH = 100,
    FIELD_HASH = 101
};

/* Wire types of the encoding (protobuf.dev, "Encoding"). */
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

/* Field 101, wire type 1, as a varint: 101 * 8 + 1 = 809. */
static const uint8_t hash_tag[2] = {0xa9, 0x06};
#define HASH_FIELD_BYTES (sizeof hash_tag + 8)

struct dataset_datum_scratch {
    float *floats; /* owned; the payload of a float record, aligned */
    size_t capacity;
};

/* One field of a message: where it begins, and its value. */
typedef struct wire_field {
    uint32_t number;
    int wire_type;
    size_t start;         /* of the tag */
    uint64_t value;       /* VARINT, WIRE_64, WIRE_32 */
    const uint8_t *bytes; /* WIRE_BYTES */
    size_t n_bytes;
} wire_field;

typedef struct wire_reader {
    const uint8_t *bytes;
    size_t size_bytes;
    size_t at;
} wire_reader;

/*
 * Records are read where they lie, in the map, by this walk over the fields: the generated unpacker
 * would copy every payload and allocate for every field, and a scan would have to read payloads it
 * does not need. What is written is packed by the generated code.
 */
static int read_varint(wire_reader *reader, uint64_t *out)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (reader->at == reader->size_bytes) return 0;
        const uint8_t byte = reader->bytes[reader->at++];
        /* The tenth byte has room for one bit. */
        if (shift == 63 && byte > 1) return 0;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            *out = value;
            return 1;
        }
    }
    return 0;
}

static uint64_t load_le(const uint8_t *bytes, int n_bytes)
{
    uint64_t value = 0;

    for (int i = 0; i < n_bytes; i++) value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

/* The next field. 0: it is cut off or no such thing exists. */
static int read_field(wire_reader *reader, wire_field *out)
{
    uint64_t tag = 0;
    uint64_t n_bytes = 0;

    out->start = reader->at;
    if (!read_varint(reader, &tag) || tag >> 3 == 0 || tag > UINT32_MAX) return 0;
    out->number = (uint32_t)(tag >> 3);
    out->wire_type = (int)(tag & 7);
    switch (out->wire_type) {
    case WIRE_VARINT:
        return read_varint(reader, &out->value);
    case WIRE_64:
        n_bytes = 8;
        break;
    case WIRE_32:
        n_bytes = 4;
        break;
    case WIRE_BYTES:
        if (!read_varint(reader, &n_bytes)) return 0;
        break;
    default:
        return 0; /* groups: nobody writes them into a Datum */
    }
    if (n_bytes > reader->size_bytes - reader->at) return 0;
    out->bytes = reader->bytes + reader->at;
    out->n_bytes = (size_t)n_bytes;
    if (out->wire_type != WIRE_BYTES) out->value = load_le(out->bytes, (int)n_bytes);
    reader->at += (size_t)n_bytes;
    return 1;
}

/* The low 32 bits as a signed number: what protobuf does with an int32. */
static int32_t to_int32(uint64_t value)
{
    const uint32_t bits = (uint32_t)value;
    int32_t number = 0;

    memcpy(&number, &bits, sizeof number);
    return number;
}

static int has_right_type(const wire_field *field)
{
    switch (field->number) {
    case FIELD_CHANNELS:
    case FIELD_HEIGHT:
    case FIELD_WIDTH:
    case FIELD_LABEL:
    case FIELD_ENCODED:
    case FIELD_INDEX:
    case FIELD_DEPTH:
        return field->wire_type == WIRE_VARINT;
    case FIELD_DATA:
        return field->wire_type == WIRE_BYTES;
    case FIELD_FLOAT_DATA: /* one by one, or packed */
        return field->wire_type == WIRE_32 ||
               (field->wire_type == WIRE_BYTES && field->n_bytes % 4 == 0);
    case FIELD_HASH:
        return field->wire_type == WIRE_64;
    default:
        return 1; /* unknown fields are allowed, and skipped */
    }
}

static void take_field(const wire_field *field, dataset_datum *datum)
{
    switch (field->number) {
    case FIELD_CHANNELS:
        datum->channels = to_int32(field->value);
        break;
    case FIELD_HEIGHT:
        datum->height = to_int32(field->value);
        break;
    case FIELD_WIDTH:
        datum->width = to_int32(field->value);
        break;
    case FIELD_DATA:
        datum->data = field->bytes;
        datum->data_bytes = field->n_bytes;
        break;
    case FIELD_LABEL:
        datum->label = to_int32(field->value);
        datum->has_label = 1;
        break;
    case FIELD_FLOAT_DATA:
        datum->n_floats += field->wire_type == WIRE_32 ? 1 : field->n_bytes / 4;
        break;
    case FIELD_ENCODED:
        datum->is_encoded = field->value != 0;
        break;
    case FIELD_INDEX:
        memcpy(&datum->index, &field->value, sizeof datum->index);
        datum->has_index = 1;
        break;
    case FIELD_DEPTH:
        datum->depth = to_int32(field->value);
        break;
    case FIELD_HASH:
        datum->has_hash = 1;
        break;
    default:
        break;
    }
}

/* Whether dimensions and payload fit each other; what is refused here was never allocated for. */
static cvy_status check_payload(const dataset_datum *datum, cvy_reason *reason)
{
    const int64_t depth = datum->depth == 0 ? 1 : datum->depth;
    const int64_t dims[4] = {datum->channels, depth, datum->height, datum->width};
    static const char *const names[4] = {"channels", "depth", "height", "width"};
    size_t n_values = 1;

    if (datum->data_bytes > 0 && datum->n_floats > 0) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "has both data and float_data");
    }
    for (int i = 0; i < 4; i++) {
        const int64_t least = datum->is_encoded ? 0 : 1;
        if (dims[i] < least || dims[i] > INT32_MAX) {
            return cvy_because(reason, CVY_ERR_BAD_DATA, "%s is %lld", names[i],
                               (long long)dims[i]);
        }
        if (!cvy_size_mul(n_values, (size_t)dims[i], &n_values)) {
            return cvy_because(reason, CVY_ERR_BAD_DATA,
                               "%lld x %lld x %lld x %lld values are more than can be counted",
                               (long long)dims[0], (long long)dims[1], (long long)dims[2],
                               (long long)dims[3]);
        }
    }
    if (datum->is_encoded) {
        if (datum->data_bytes > 0) return CVY_OK;
        return cvy_because(reason, CVY_ERR_BAD_DATA, "says encoded, but has no data");
    }
    const size_t n_found = datum->n_floats > 0 ? datum->n_floats : datum->data_bytes;
    if (n_found == n_values) return CVY_OK;
    return cvy_because(reason, CVY_ERR_BAD_DATA,
                       "%lld x %lld x %lld x %lld (channels, depth, height, width) are %zu values, "
                       "but it has %zu",
                       (long long)dims[0], (long long)dims[1], (long long)dims[2],
                       (long long)dims[3], n_values, n_found);
}

/* Walk over the fields. *out_hash_at is the start of field 101, if there is one. */
static cvy_status walk(const uint8_t *bytes, size_t size_bytes, dataset_datum *out,
                       size_t *out_hash_at, cvy_reason *reason)
{
    wire_reader reader = {.bytes = bytes, .size_bytes = size_bytes};
    dataset_datum datum = {0};

    if (size_bytes == 0) return cvy_because(reason, CVY_ERR_BAD_DATA, "record of 0 bytes");
    if (size_bytes > DATASET_RECORD_LIMIT_BYTES) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "record of %zu bytes, the limit is %u",
                           size_bytes, DATASET_RECORD_LIMIT_BYTES);
    }
    while (reader.at < size_bytes) {
        wire_field field = {0};
        if (datum.has_hash) {
            return cvy_because(reason, CVY_ERR_BAD_DATA,
                               "its hash is not the last field (at byte %zu of %zu)", reader.at,
                               size_bytes);
        }
        if (!read_field(&reader, &field)) {
            return cvy_because(reason, CVY_ERR_BAD_DATA,
                               "not a Datum message, or cut: the field at byte %zu of %zu",
                               field.start, size_bytes);
        }
        if (!has_right_type(&field)) {
            return cvy_because(reason, CVY_ERR_BAD_DATA,
                               "not a Datum message: field %u has wire type %d", field.number,
                               field.wire_type);
        }
        take_field(&field, &datum);
        *out_hash_at = field.start;
    }
    *out = datum;
    return CVY_OK;
}

cvy_status dataset_datum_outline(const void *bytes, size_t size_bytes, dataset_datum *out,
                                 cvy_reason *reason)
{
    dataset_datum datum = {0};
    size_t hash_at = 0;

    CVY_RETURN_IF_ERR(walk(bytes, size_bytes, &datum, &hash_at, reason));
    CVY_RETURN_IF_ERR(check_payload(&datum, reason));
    *out = datum;
    return CVY_OK;
}

uint64_t dataset_datum_digest(const void *bytes, size_t size_bytes)
{
    const uint8_t *end = (const uint8_t *)bytes + size_bytes;

    if (size_bytes > HASH_FIELD_BYTES &&
        memcmp(end - HASH_FIELD_BYTES, hash_tag, sizeof hash_tag) == 0) {
        return load_le(end - 8, 8);
    }
    return cvy_hash64(bytes, size_bytes);
}

cvy_status dataset_datum_scratch_create(dataset_datum_scratch **out)
{
    *out = NULL;
    dataset_datum_scratch *scratch = cvy_alloc_zero(1, sizeof *scratch);
    if (scratch == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "scratch of a record");
    *out = scratch;
    return CVY_OK;
}

void dataset_datum_scratch_destroy(dataset_datum_scratch **scratch)
{
    if (scratch == NULL || *scratch == NULL) return;
    cvy_free((*scratch)->floats);
    cvy_free(*scratch);
    *scratch = NULL;
}

/* Gather the values of field 6, which lie unaligned and perhaps one by one. The message has been
 * walked over already, so every field of it is whole. */
static cvy_status gather_floats(const uint8_t *bytes, size_t size_bytes,
                                dataset_datum_scratch *scratch, dataset_datum *datum)
{
    wire_reader reader = {.bytes = bytes, .size_bytes = size_bytes};
    size_t n_done = 0;

    if (scratch->capacity < datum->n_floats) {
        float *grown = cvy_alloc(datum->n_floats * sizeof *grown);
        if (grown == NULL) {
            return CVY_FAIL(CVY_ERR_NO_MEMORY, "%zu floats of a record", datum->n_floats);
        }
        cvy_free(scratch->floats);
        scratch->floats = grown;
        scratch->capacity = datum->n_floats;
    }
    while (reader.at < size_bytes) {
        wire_field field = {0};
        const int is_whole = read_field(&reader, &field);
        CVY_ASSERT(is_whole);
        if (field.number != FIELD_FLOAT_DATA) continue;
        for (size_t i = 0; i < field.n_bytes; i += 4) {
            const uint32_t bits = (uint32_t)load_le(field.bytes + i, 4);
            memcpy(&scratch->floats[n_done++], &bits, sizeof bits);
        }
    }
    CVY_ASSERT(n_done == datum->n_floats);
    datum->float_data = scratch->floats;
    return CVY_OK;
}

cvy_status dataset_datum_parse(const void *bytes, size_t size_bytes, dataset_datum_scratch *scratch,
                               dataset_datum *out, cvy_reason *reason)
{
    const uint8_t *message = bytes;
    dataset_datum datum = {0};
    size_t hash_at = 0;

    CVY_RETURN_IF_ERR(walk(message, size_bytes, &datum, &hash_at, reason));
    if (datum.has_hash) {
        const uint64_t written = load_le(message + size_bytes - 8, 8);
        const uint64_t found = cvy_hash64(message, hash_at);
        if (written != found) {
            return cvy_because(reason, CVY_ERR_BAD_DATA,
                               "damaged: its hash is %016llx, its bytes give %016llx",
                               (unsigned long long)written, (unsigned long long)found);
        }
    }
    CVY_RETURN_IF_ERR(check_payload(&datum, reason));
    if (datum.n_floats > 0) {
        const cvy_status status = gather_floats(message, size_bytes, scratch, &datum);
        if (status != CVY_OK) return cvy_because(reason, status, "out of memory");
    }
    *out = datum;
    return CVY_OK;
}

static void fill_message(const dataset_datum *datum, Dataset__Datum *message)
{
    dataset__datum__init(message);
    message->has_channels = datum->channels > 0;
    message->channels = (int32_t)datum->channels;
    message->has_height = datum->height > 0;
    message->height = (int32_t)datum->height;
    message->has_width = datum->width > 0;
    message->width = (int32_t)datum->width;
    message->has_depth = datum->depth > 0;
    message->depth = (int32_t)datum->depth;
    message->has_label = datum->has_label != 0;
    message->label = datum->label;
    message->has_encoded = datum->is_encoded != 0;
    message->encoded = datum->is_encoded != 0;
    message->has_index = datum->has_index != 0;
    message->index = datum->index;
    message->has_data = datum->data_bytes > 0;
    message->data.len = datum->data_bytes;
    /* The generated struct serves reading as well, hence its pointers to what may be changed;
     * packing only reads. */
    memcpy(&message->data.data, &datum->data, sizeof message->data.data);
    message->n_float_data = datum->n_floats;
    memcpy(&message->float_data, &datum->float_data, sizeof message->float_data);
}

cvy_status dataset_datum_pack(const dataset_datum *datum, uint8_t **out, size_t *out_size_bytes)
{
    Dataset__Datum message;
    cvy_reason reason;

    *out = NULL;
    const cvy_status status = check_payload(datum, &reason);
    if (status != CVY_OK) return CVY_FAIL(status, "record to be written: %s", reason.text);
    /* Before the sizes are added up: they would overflow in the packed length. */
    if (datum->data_bytes > DATASET_RECORD_LIMIT_BYTES ||
        datum->n_floats > DATASET_RECORD_LIMIT_BYTES / sizeof(float)) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "record to be written: more than %u bytes of payload",
                        DATASET_RECORD_LIMIT_BYTES);
    }
    fill_message(datum, &message);
    const size_t body_bytes = dataset__datum__get_packed_size(&message);
    const size_t size_bytes = body_bytes + HASH_FIELD_BYTES;
    if (size_bytes > DATASET_RECORD_LIMIT_BYTES) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "record to be written: %zu bytes, the limit is %u",
                        size_bytes, DATASET_RECORD_LIMIT_BYTES);
    }
    uint8_t *bytes = cvy_alloc(size_bytes);
    if (bytes == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "record of %zu bytes", size_bytes);
    const size_t n_packed = dataset__datum__pack(&message, bytes);
    CVY_ASSERT(n_packed == body_bytes);
    memcpy(bytes + body_bytes, hash_tag, sizeof hash_tag);
    const uint64_t hash = cvy_hash64(bytes, body_bytes);
    for (int i = 0; i < 8; i++) {
        bytes[body_bytes + sizeof hash_tag + (size_t)i] = (uint8_t)(hash >> (8 * i));
    }
    *out = bytes;
    *out_size_bytes = size_bytes;
    return CVY_OK;
}
