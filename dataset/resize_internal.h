#ifndef DATASET_RESIZE_INTERNAL_H
#define DATASET_RESIZE_INTERNAL_H

#include "dataset/image.h"

#include <stddef.h>
#include <stdint.h>

/** Scratch of the resizer; zeroed by its owner, kept between calls, freed at the end. */
typedef struct dataset_resizer {
    int32_t *weights; /* of one axis: taps of every output place, then of its next */
    int32_t *first;   /* input place of the first tap; and, behind it, the number of taps */
    size_t n_weights, n_first; /* room */
    dataset_image middle;      /* rows needed, already of the new width */
} dataset_resizer;
void dataset_resizer_free(dataset_resizer *resizer);

/** Pixels to be resized: a rectangle inside a larger picture. */
typedef struct dataset_pixels {
    const uint8_t *pixels; /* (h, w, c) of the rectangle's first row */
    int64_t row_bytes;     /* from a row to the next */
    int64_t height, width;
    int channels; /* 1 or 3 */
} dataset_pixels;

/** dataset_image_resize() of a rectangle, without allocations once the scratch is large enough.
 *  CVY_ERR_NO_MEMORY is not logged. */
cvy_status dataset_resize(dataset_resizer *resizer, const dataset_pixels *from, int64_t height,
                          int64_t width, dataset_image *to);

/** Size whose shorter side is `shorter`, the longer one in proportion, rounded down. */
void dataset_resize_shorter(int64_t height, int64_t width, int64_t shorter, int64_t *out_height,
                            int64_t *out_width);

#endif
