#ifndef DATASET_DECODE_INTERNAL_H
#define DATASET_DECODE_INTERNAL_H

#include "dataset/image.h"

#include <stddef.h>
#include <stdint.h>

/** Give the image these dimensions and room for them; contents undefined. Never shrinks.
 *  CVY_ERR_NO_MEMORY is not logged. */
cvy_status dataset_image_reserve(dataset_image *image, int64_t height, int64_t width, int channels);

/** Whether a header's dimensions are acceptable: positive and at most options->max_pixels. */
cvy_status dataset_decode_check_size(int64_t height, int64_t width,
                                     const dataset_decode_options *options, cvy_reason *reason);

/** The decoders behind dataset_image_decode(). */
cvy_status dataset_decode_jpeg(const uint8_t *bytes, size_t size_bytes,
                               const dataset_decode_options *options, dataset_image *image,
                               cvy_reason *reason);
cvy_status dataset_decode_png(const uint8_t *bytes, size_t size_bytes,
                              const dataset_decode_options *options, dataset_image *image,
                              cvy_reason *reason);

/** The JFIF luma of n RGB pixels, in place or to another buffer: 0.299 r + 0.587 g + 0.114 b in 16
 *  bits of fraction, rounded. */
void dataset_rgb_to_grey(const uint8_t *rgb, int64_t n, uint8_t *grey);

#endif
