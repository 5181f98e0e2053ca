#ifndef DATASET_DATUM_H
#define DATASET_DATUM_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/**
 * One record: a Caffe `Datum` protobuf message (caffe.proto: channels 1, height 2, width 3, data 4,
 * label 5, float_data 6, encoded 7), so that what `convert_imageset` wrote is read as it is. convoy
 * adds, in field numbers that Caffe skips, index (99, the record's place, so that a crossed link in
 * a damaged file is found), depth (100, volumes) and hash (101, fixed64, the last field): XXH3 of
 * the message without field 101.
 */
#define DATASET_RECORD_LIMIT_BYTES (64u << 20)

typedef struct dataset_datum {
    int64_t channels, height, width; /* 0 where an encoded record leaves them out */
    int64_t depth;                   /* 0: a picture */
    int32_t label;
    int has_label;
    int is_encoded;      /* data holds JPEG or PNG bytes */
    const uint8_t *data; /* (c, h, w) bytes or an encoded image; view */
    size_t data_bytes;
    const float *float_data; /* (c, h, w) instead of data; view; NULL: none */
    size_t n_floats;
    int64_t index; /* the place it was written for; dataset_writer sets it */
    int has_index;
    int has_hash; /* it was there and it fits */
} dataset_datum;

/** Scratch of one reader: parsing never allocates once it is large enough. */
typedef struct dataset_datum_scratch dataset_datum_scratch;
cvy_status dataset_datum_scratch_create(dataset_datum_scratch **out);
void dataset_datum_scratch_destroy(dataset_datum_scratch **scratch);

/**
 * Parse and check a record: length limits before parsing, dimensions > 0 and products checked,
 * payload length equal to the dimensions, hash (when present). Quiet: reason says what is wrong.
 *
 * @param out  views into bytes or scratch, valid until the next call with this scratch.
 * @return CVY_ERR_BAD_DATA with a reason; CVY_ERR_NO_MEMORY, logged.
 */
cvy_status dataset_datum_parse(const void *bytes, size_t size_bytes, dataset_datum_scratch *scratch,
                               dataset_datum *out, cvy_reason *reason);

/** Bytes of a record with its hash; *out is cvy_alloc()ed. A record that dataset_datum_parse()
 * would refuse is CVY_ERR_BAD_DATA, logged. */
cvy_status dataset_datum_pack(const dataset_datum *datum, uint8_t **out, size_t *out_size_bytes);

#endif
