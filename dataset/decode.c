#include "dataset/decode_internal.h"

#include "base/alloc.h"

#include <string.h>

/* Buffers grow in steps, so that pictures of almost one size do not each bring a new block. */
#define GROW_BYTES ((size_t)64 << 10)

void dataset_image_free(dataset_image *image)
{
    if (image == NULL) return;
    cvy_free(image->pixels);
    *image = (dataset_image){0};
}

cvy_status dataset_image_reserve(dataset_image *image, int64_t height, int64_t width, int channels)
{
    size_t need = 0;

    if (height <= 0 || width <= 0 || channels <= 0 ||
        !cvy_size_mul((size_t)height, (size_t)width, &need) ||
        !cvy_size_mul(need, (size_t)channels, &need) || !cvy_size_add(need, GROW_BYTES, &need)) {
        return CVY_ERR_NO_MEMORY;
    }
    need -= GROW_BYTES;
    if (need > image->capacity_bytes) {
        const size_t capacity = (need + GROW_BYTES - 1) / GROW_BYTES * GROW_BYTES;
        uint8_t *pixels = cvy_alloc(capacity); /* not realloc: the old contents are not wanted */
        if (pixels == NULL) return CVY_ERR_NO_MEMORY;
        cvy_free(image->pixels);
        image->pixels = pixels;
        image->capacity_bytes = capacity;
    }
    image->height = height;
    image->width = width;
    image->channels = channels;
    return CVY_OK;
}

cvy_status dataset_decode_check_size(int64_t height, int64_t width,
                                     const dataset_decode_options *options, cvy_reason *reason)
{
    if (height <= 0 || width <= 0) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "image of %lld x %lld pixels",
                           (long long)width, (long long)height);
    }
    if (height > options->max_pixels / width) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "image of %lld x %lld pixels, max_pixels is %lld", (long long)width,
                           (long long)height, (long long)options->max_pixels);
    }
    return CVY_OK;
}

void dataset_rgb_to_grey(const uint8_t *rgb, int64_t n, uint8_t *grey)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t r = rgb[3 * i], g = rgb[3 * i + 1], b = rgb[3 * i + 2];
        grey[i] = (uint8_t)((19595u * r + 38470u * g + 7471u * b + 32768u) >> 16);
    }
}

/* What a file that is no picture seems to be, for the reason. */
static const char *guess_kind(const uint8_t *bytes, size_t size_bytes)
{
    static const struct {
        const char *magic;
        size_t n;
        const char *kind;
    } kinds[] = {
        {"GIF8", 4, "a GIF"},
        {"BM", 2, "a BMP"},
        {"RIFF", 4, "a WebP or RIFF file"},
        {"II*\0", 4, "a TIFF"},
        {"MM\0*", 4, "a TIFF"},
        {"<!", 2, "an HTML page"},
        {"<html", 5, "an HTML page"},
        {"PK\3\4", 4, "a ZIP archive"},
        {"\x1f\x8b", 2, "gzip data"},
    };

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (size_bytes >= kinds[i].n && memcmp(bytes, kinds[i].magic, kinds[i].n) == 0) {
            return kinds[i].kind;
        }
    }
    return "an unknown format";
}

cvy_status dataset_image_decode(const uint8_t *bytes, size_t size_bytes,
                                const dataset_decode_options *options, dataset_image *image,
                                cvy_reason *reason)
{
    static const uint8_t png_magic[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

    cvy_status status = CVY_ERR_BAD_DATA;

    if (size_bytes == 0) return cvy_because(reason, CVY_ERR_BAD_DATA, "empty image");
    if (size_bytes >= 2 && bytes[0] == 0xff && bytes[1] == 0xd8) {
        status = dataset_decode_jpeg(bytes, size_bytes, options, image, reason);
    } else if (size_bytes >= sizeof png_magic && memcmp(bytes, png_magic, sizeof png_magic) == 0) {
        status = dataset_decode_png(bytes, size_bytes, options, image, reason);
    } else {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "neither JPEG nor PNG but %s (%zu bytes)",
                           guess_kind(bytes, size_bytes), size_bytes);
    }
    if (status == CVY_ERR_NO_MEMORY) {
        return cvy_because(reason, status, "no memory to decode an image of %zu bytes", size_bytes);
    }
    return status;
}
