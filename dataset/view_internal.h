#ifndef DATASET_VIEW_INTERNAL_H
#define DATASET_VIEW_INTERNAL_H

#include "dataset/augment.h"
#include "dataset/resize_internal.h"

#include <stdint.h>

/**
 * A picture somewhere in memory, seen through a window.
 *
 * Cropping, padding and mirroring only move the window; pixels are copied when a step has to read
 * them (resize) and once at the end, by dataset_view_normalise(). The window may reach beyond the
 * picture: what lies outside [lo, hi) counts as 0.
 *
 *     pixel (c, y, x) of the window = base[c * stride_c + (y0 + y) * stride_y
 *                                          + (x0 + x * step_x) * stride_x]
 */
typedef struct dataset_view {
    const uint8_t *bytes; /* or */
    const float *floats;  /* the other is NULL */
    int64_t stride_c, stride_y, stride_x;
    int64_t channels, height, width; /* of the window */
    int64_t y0, x0;
    int64_t step_x; /* 1, or -1: mirrored */
    int64_t lo_y, hi_y, lo_x, hi_x;
} dataset_view;

#define DATASET_SCRATCH_IMAGES 3
struct dataset_scratch {
    dataset_image image[DATASET_SCRATCH_IMAGES];
    int current; /* the image that the view looks at, or -1 */
    dataset_resizer resizer;
};

/** What a record is to be seen as. */
typedef struct dataset_view_wish {
    int channels;      /* 0: as the record has them */
    int channel_order; /* 1: raw records of 3 channels are BGR */
    int64_t max_pixels;
    int middle_slice; /* 1: of a volume take the middle; 0: a volume is refused */
} dataset_view_wish;

/** Look at a record, decoding it if need be. CVY_ERR_BAD_DATA has a reason; CVY_ERR_NO_MEMORY is
 *  not logged, here and below. */
cvy_status dataset_view_open(const dataset_datum *datum, const dataset_view_wish *wish,
                             dataset_scratch *scratch, dataset_view *out, cvy_reason *reason);

/** Make the window height x width with its corner at (y, x) of the present one. */
void dataset_view_move(dataset_view *view, int64_t y, int64_t x, int64_t height, int64_t width);
void dataset_view_mirror(dataset_view *view);

/** Copy a byte view to (h, w, c) of *to. */
cvy_status dataset_view_copy(const dataset_view *view, dataset_image *to);

/** Resize a byte view of 1 or 3 channels; it looks at a scratch image afterwards. */
cvy_status dataset_view_resize(dataset_view *view, dataset_scratch *scratch, int64_t height,
                               int64_t width);

/** out (c, h, w) = (v - shift[c]) * scale[c]: a difference and a product, never contracted, so that
 *  every machine gets the same bits. */
void dataset_view_normalise(const dataset_view *view, const float *shift, const float *scale,
                            float *out);

#endif
