#ifndef DATASET_IMAGE_H
#define DATASET_IMAGE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/** A decoded picture: interleaved bytes (h, w, c), c 1 or 3 (RGB). Grows its buffer, keeps it. */
typedef struct dataset_image {
    int64_t height, width;
    int channels;
    uint8_t *pixels;
    size_t capacity_bytes;
} dataset_image;
void dataset_image_free(dataset_image *image);

typedef struct dataset_decode_options {
    int64_t max_pixels; /* refused before anything is decoded */
    int channels; /* 1 or 3: what the net wants, converted by the JFIF luma rule; 0: as the file
                   * has it, grey 1 and all else 3 */
} dataset_decode_options;

/**
 * Decode JPEG (libjpeg-turbo) or PNG (libspng), told apart by their first bytes. Warnings of the
 * decoder, truncation, more than 100 scans, unknown formats and too many pixels are
 * CVY_ERR_BAD_DATA with a reason; never a crash, never more memory than max_pixels needs.
 * CMYK and YCCK are converted. EXIF orientation is not applied (as PyTorch's loaders).
 */
cvy_status dataset_image_decode(const uint8_t *bytes, size_t size_bytes,
                                const dataset_decode_options *options, dataset_image *image,
                                cvy_reason *reason);

/** Bilinear resize with the half-pixel rule and, when shrinking, a triangle filter as wide as the
 *  scale (Pillow's antialiased BILINEAR). */
cvy_status dataset_image_resize(const dataset_image *from, int64_t height, int64_t width,
                                dataset_image *to);

/** PNG bytes of a picture (for reports); cvy_free() them. */
cvy_status dataset_image_to_png(const dataset_image *image, uint8_t **out, size_t *out_size_bytes);

#endif
