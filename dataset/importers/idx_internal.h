#ifndef DATASET_IMPORTERS_IDX_INTERNAL_H
#define DATASET_IMPORTERS_IDX_INTERNAL_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define DATASET_IDX_MAX_DIMS 4

/** A file of the MNIST format: two zero bytes, a type byte, the number of dimensions, each as a
 *  big-endian 32-bit integer, then the values, big-endian, last dimension fastest; may be gzipped.
 */
typedef struct dataset_idx {
    char *path;   /* owned */
    void *stream; /* gzFile */
    int type;     /* 0x08 ... 0x0e */
    int n_dims;
    int64_t dim[DATASET_IDX_MAX_DIMS];
    size_t value_bytes;
    int64_t n_item_values; /* product of all dimensions but the first */
    int64_t n_items_read;
} dataset_idx;

/** Open and check the header. Failures are logged, here and below. */
cvy_status dataset_idx_open(const char *path, dataset_idx *out);
void dataset_idx_close(dataset_idx *idx);
/** The next item's bytes, n_item_values * value_bytes. */
cvy_status dataset_idx_read(dataset_idx *idx, uint8_t *out);
/** After the last item: nothing may follow, and a gzip stream must be whole. */
cvy_status dataset_idx_check_end(dataset_idx *idx);
/** n values as floats, or as integers where the type has no fraction (-1: it has). */
void dataset_idx_to_floats(const dataset_idx *idx, const uint8_t *bytes, int64_t n, float *out);
int dataset_idx_to_int(const dataset_idx *idx, const uint8_t *bytes, int64_t *out);

/** The files of one set: SOURCE is a folder with one set, the beginning of a set's path
 *  (FOLDER/train), or the data file itself; labels NULL: found by its name. Both cvy_free(). */
cvy_status dataset_idx_find(const char *source, const char *labels, char **out_data,
                            char **out_labels);

#endif
