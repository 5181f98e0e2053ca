#ifndef DATASET_IMPORTERS_IMPORT_INTERNAL_H
#define DATASET_IMPORTERS_IMPORT_INTERNAL_H

#include "dataset/decode_internal.h"
#include "dataset/importer.h"
#include "dataset/resize_internal.h"
#include "dataset/store.h"

#include <stddef.h>
#include <stdint.h>

/** Largest picture that an importer decodes. */
#define DATASET_IMPORT_MAX_PIXELS   ((int64_t)64 << 20)
#define DATASET_IMPORT_MAX_CHANNELS 16

/** Names of classes in the order of their labels. */
typedef struct dataset_names {
    char **name; /* owned */
    int n, room;
} dataset_names;
void dataset_names_free(dataset_names *names);
cvy_status dataset_names_add(dataset_names *names, const char *name);
/** One name a line; blanks at the ends and empty last lines are dropped. Logged. */
cvy_status dataset_names_read(const char *path, dataset_names *out);
/** The first of these files that folder has, or none: n stays 0. files ends with NULL. */
cvy_status dataset_names_find(const char *folder, const char *const *files, dataset_names *out);
void dataset_names_sort(dataset_names *names);                         /* by bytes */
int dataset_names_place(const dataset_names *names, const char *name); /* -1: none */

struct stat;
/** Visit what a folder holds but hidden files, in no certain order; links are skipped or, wanted,
 *  followed. Failures are logged. */
typedef cvy_status (*dataset_folder_visit)(void *arg, const char *name, const struct stat *info);
cvy_status dataset_folder_walk(const char *path, int follow_links, dataset_folder_visit visit,
                               void *arg);
/** Names of the regular files (or links to them) that begin with prefix, sorted. */
cvy_status dataset_folder_files(const char *path, const char *prefix, dataset_names *out);
/** The folder of a path: "." when it has none; cvy_free() it; NULL: no memory. */
char *dataset_folder_of(const char *path);

/** One running import: the writer, sums for the manifest, counts, progress. */
typedef struct dataset_import {
    const dataset_import_options *options;
    dataset_writer *writer;
    int64_t n_all; /* records to come, for progress; -1: unknown */
    int64_t n_records, n_bad;
    double last_progress_s;
    /* [0]: grey pictures and records of any channels; [1]: colour, where both kinds may occur */
    struct {
        double n[DATASET_IMPORT_MAX_CHANNELS], sum[DATASET_IMPORT_MAX_CHANNELS],
            sum_squares[DATASET_IMPORT_MAX_CHANNELS];
    } tally[2];
    dataset_resizer resizer;
    dataset_image picture, resized; /* scratch */
    dataset_image planes;           /* (c, h, w) bytes of a record */
} dataset_import;

/** names: NULL or empty: n_classes numbers. */
cvy_status dataset_import_open(const dataset_import_options *options, const dataset_names *names,
                               int n_classes, dataset_import *out);

/** Add a raw record of bytes or floats, resized if the options say so, and count its values. */
cvy_status dataset_import_put_raw(dataset_import *import, const dataset_datum *datum);

/** Add a decoded picture, resized if need be; encoded: its file, stored as it is unless the options
 *  want pixels; NULL: none. A picture that cannot be resized is CVY_ERR_BAD_DATA with a reason, not
 *  logged. */
cvy_status dataset_import_put_picture(dataset_import *import, const dataset_image *picture,
                                      int32_t label, const uint8_t *encoded, size_t encoded_bytes,
                                      cvy_reason *reason);

/** A bad input: CVY_OK, said as a warning (the first ones) and counted, or the failure. */
cvy_status dataset_import_skip(dataset_import *import, const char *path, const cvy_reason *reason);

/** Whether options->limit records are there. */
int dataset_import_is_full(const dataset_import *import);
/** Call the options' progress function if it is time; CVY_ERR_STOPPED, logged, when it says so. */
cvy_status dataset_import_progress(dataset_import *import);

/** End: with status CVY_OK the dataset is committed, else removed; frees all in any case. */
cvy_status dataset_import_close(dataset_import *import, cvy_status status,
                                dataset_import_result *out);

#endif
