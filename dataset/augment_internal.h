#ifndef DATASET_AUGMENT_INTERNAL_H
#define DATASET_AUGMENT_INTERNAL_H

#include "dataset/view_internal.h"

#include "base/config.h"
#include "base/rng.h"

#include <stdint.h>

/** Arguments of all steps; a step's config table fills the member of its own. */
typedef union dataset_step_args {
    struct {
        int64_t padding;
    } pad_crop;
    struct {
        double p;
    } flip;
    struct {
        cvy_int_list size;
    } sized; /* resize, center_crop, random_crop */
    struct {
        cvy_int_list size;
        cvy_real_list scale, ratio;
    } random_resized_crop;
} dataset_step_args;

typedef struct dataset_step dataset_step;

/** What a step is applied to. */
typedef struct dataset_sample {
    dataset_view view;
    dataset_scratch *scratch;
    cvy_rng *rng;
    int64_t max_pixels;
} dataset_sample;

typedef struct dataset_step_ops {
    const char *name;
    const cvy_config_table *table;
    /** Resolve the arguments to step->height and step->width; node: for the message. Optional. */
    cvy_status (*check)(dataset_step *step, const cvy_node *node);
    /** Size after the step; 0 0: differs from record to record. CVY_ERR_CONFIG, logged, where the
     *  step cannot work on this size. */
    cvy_status (*shape)(const dataset_step *step, const cvy_node *node, int64_t *height,
                        int64_t *width);
    cvy_status (*apply)(const dataset_step *step, dataset_sample *sample, cvy_reason *reason);
    int reads_pixels; /* works on bytes of 1 or 3 channels only */
} dataset_step_ops;

struct dataset_step {
    const dataset_step_ops *ops;
    dataset_step_args args;
    int64_t height, width; /* width 0: height is the shorter side */
};

/** Read one entry of an augment list: {name: argument} or a bare name. Wrong ones are
 *  CVY_ERR_CONFIG, logged with their place. */
cvy_status dataset_step_read(const cvy_node *entry, dataset_step *out);

#endif
