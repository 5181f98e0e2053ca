#ifndef DATASET_IMPORTER_H
#define DATASET_IMPORTER_H

#include "base/status.h"

#include <stdint.h>

/** Importers: one file in dataset/importers/ and one line of its registry. Each makes a new dataset
 *  folder through dataset_writer; an interrupted import leaves nothing behind under the final name.
 */
typedef struct dataset_import_options {
    const char *source;       /* file or folder */
    const char *labels;       /* idx: the label file; NULL: found by the usual names */
    const char *destination;  /* must not exist */
    int64_t resize;           /* shorter side; 0: as is */
    int encode_raw;           /* images: store pixels instead of the file's bytes */
    const char *classes_file; /* class names, one a line; NULL: by the importer's rule */
    int64_t limit;            /* at most so many records; 0: all */
    uint64_t shuffle_seed;    /* order of `images`; records of a class would else stand together */
    int on_bad;               /* 0 skip with a warning and count, 1 fail */
    /** Called now and then with records done and in all (-1 unknown); NULL: none. Return nonzero to
     *  stop: the import fails with CVY_ERR_STOPPED. */
    int (*progress)(void *arg, int64_t n_done, int64_t n_all);
    void *progress_arg;
} dataset_import_options;

typedef struct dataset_import_result {
    int64_t n_records, n_bad;
} dataset_import_result;

typedef struct dataset_importer_ops {
    const char *name;  /* "images" */
    const char *usage; /* "SRC DST" in words */
    const char *help;
    cvy_status (*run)(const dataset_import_options *options, dataset_import_result *out);
} dataset_importer_ops;

int dataset_importer_count(void);
const dataset_importer_ops *dataset_importer_at(int idx);
const dataset_importer_ops *dataset_importer_find(const char *name);

#endif
