#ifndef LAUNCH_SERVED_MODEL_H
#define LAUNCH_SERVED_MODEL_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/** A trained net ready to classify single image files, with the preprocessing it was trained with.
 */
typedef struct launch_served_model launch_served_model;

typedef struct launch_serve_options {
    const char *checkpoint; /* run folder, checkpoint folder inside one, or a safetensors file */
    const char *arch;       /* of a bare file; NULL: by the run's job */
    int64_t classes;        /* of a bare file; 0: by the weights' own shape */
    int64_t size;           /* side of the net's input; 0: by the job, or as published */
    const char *mean, *deviation; /* "0.5, 0.5, 0.5"; NULL: the job's, or ImageNet's */
    const char *names_file;       /* class names, one a line; NULL: the dataset's, or numbers */
    int64_t threads;
} launch_serve_options;

cvy_status launch_served_model_open(const launch_serve_options *options, launch_served_model **out);
void launch_served_model_close(launch_served_model **model);

int launch_served_model_n_classes(const launch_served_model *model);
/** Name of a class, or its number as text. */
const char *launch_served_model_class_name(const launch_served_model *model, int class);

/**
 * Classify the bytes of one JPEG or PNG file.
 *
 * @param out_logits  n_classes floats, a view until the next call.
 * @return CVY_ERR_BAD_DATA with a reason (not logged) for an image that cannot be used.
 */
cvy_status launch_served_model_classify(launch_served_model *model, const uint8_t *bytes,
                                        size_t size_bytes, const float **out_logits,
                                        cvy_reason *reason);

#endif
