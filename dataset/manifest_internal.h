#ifndef DATASET_MANIFEST_INTERNAL_H
#define DATASET_MANIFEST_INTERNAL_H

#include "base/status.h"

#include <stdint.h>

#define DATASET_MANIFEST_VERSION 1
#define DATASET_MAX_STATS        16
/* Labels from here on are taken for damage: names and counts are kept for every class. */
#define DATASET_MAX_CLASSES (1 << 20)

/**
 * manifest.json: what is known of a dataset without reading it.
 *
 *     {"format": "convoy-dataset", "version": 1, "made_by": "convoy 0.1.0", "source": "...",
 *      "count": 60000, "classes": ["cat", ...], "class_counts": [6000, ...],
 *      "shape": [3, 32, 32], "encoded": false, "mean": [...], "deviation": [...],
 *      "digest": "16 hexadecimal digits"}
 *
 * shape is [channels, height, width], 0 where records differ; mean and deviation may be lacking;
 * the digest is the XXH3 of the records' hashes (field 101, 8 bytes each, little-endian) in key
 * order.
 */
typedef struct dataset_manifest {
    int64_t n_records;
    int n_classes;
    char **class_names;    /* owned, n_classes; each owned */
    int64_t *class_counts; /* owned, n_classes */
    int64_t channels, height, width;
    int is_encoded;
    int n_stats; /* 0: unknown */
    double mean[DATASET_MAX_STATS], deviation[DATASET_MAX_STATS];
    uint64_t digest;
} dataset_manifest;

/**
 * Read and check FOLDER/manifest.json.
 *
 * @param out  NULL when there is none.
 * @return CVY_ERR_BAD_DATA for a damaged or a newer one, logged.
 */
cvy_status dataset_manifest_read(const char *folder, dataset_manifest **out);
void dataset_manifest_destroy(dataset_manifest **manifest);

/** Write it durably. source NULL: not said. class_names NULL: numbers. */
cvy_status dataset_manifest_write(const char *folder, const dataset_manifest *manifest,
                                  const char *source);

/** "0", "1", ... for n classes: an array of n texts in one block to be cvy_free()d; NULL: no
 *  memory. */
char **dataset_number_names(int n_classes);

#endif
