#include "dataset/decode_internal.h"

#include "base/alloc.h"

#include <spng.h>
#include <stdlib.h>
#include <string.h>

/* Of one ancillary chunk (text, colour profile), unpacked, and of all that are kept. */
#define CHUNK_LIMIT_BYTES ((size_t)8 << 20)
#define CACHE_LIMIT_BYTES ((size_t)16 << 20)

static cvy_status bad_png(int error, const char *doing, cvy_reason *reason)
{
    if (error == SPNG_EMEM) return CVY_ERR_NO_MEMORY;
    return cvy_because(reason, CVY_ERR_BAD_DATA, "PNG: %s: %s", doing, spng_strerror(error));
}

static cvy_status decode(spng_ctx *png, const uint8_t *bytes, size_t size_bytes,
                         const dataset_decode_options *options, dataset_image *image,
                         cvy_reason *reason)
{
    struct spng_ihdr header;
    size_t need = 0;
    int error = spng_set_image_limits(png, INT32_MAX, INT32_MAX);

    if (error == 0) error = spng_set_chunk_limits(png, CHUNK_LIMIT_BYTES, CACHE_LIMIT_BYTES);
    if (error == 0) error = spng_set_crc_action(png, SPNG_CRC_ERROR, SPNG_CRC_DISCARD);
    if (error == 0) error = spng_set_png_buffer(png, bytes, size_bytes);
    if (error == 0) error = spng_get_ihdr(png, &header);
    if (error != 0) return bad_png(error, "header", reason);
    CVY_RETURN_IF_ERR(dataset_decode_check_size(header.height, header.width, options, reason));

    const int is_grey = header.color_type == SPNG_COLOR_TYPE_GRAYSCALE ||
                        header.color_type == SPNG_COLOR_TYPE_GRAYSCALE_ALPHA;
    const int wanted = options->channels != 0 ? options->channels : (is_grey ? 1 : 3);
    /* RGB is the one output that every kind of PNG has; alpha and tRNS are dropped in it, and 16
     * bits lose their lower half. */
    const int plain_grey = wanted == 1 && header.color_type == SPNG_COLOR_TYPE_GRAYSCALE &&
                           header.bit_depth <= 8;
    CVY_RETURN_IF_ERR(
        dataset_image_reserve(image, header.height, header.width, plain_grey ? 1 : 3));
    const int format = plain_grey ? SPNG_FMT_G8 : SPNG_FMT_RGB8;
    error = spng_decoded_image_size(png, format, &need);
    if (error != 0) return bad_png(error, "header", reason);
    const size_t size = (size_t)image->height * (size_t)image->width * (size_t)image->channels;
    if (need != size) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "PNG: %zu bytes of pixels, %zu expected", need,
                           size);
    }
    error = spng_decode_image(png, image->pixels, need, format, 0);
    if (error != 0) return bad_png(error, "pixels", reason);
    if (image->channels != wanted) {
        dataset_rgb_to_grey(image->pixels, image->height * image->width, image->pixels);
        image->channels = wanted;
    }
    return CVY_OK;
}

cvy_status dataset_decode_png(const uint8_t *bytes, size_t size_bytes,
                              const dataset_decode_options *options, dataset_image *image,
                              cvy_reason *reason)
{
    spng_ctx *png = spng_ctx_new(0);

    if (png == NULL) return CVY_ERR_NO_MEMORY;
    const cvy_status status = decode(png, bytes, size_bytes, options, image, reason);
    spng_ctx_free(png);
    return status;
}

static cvy_status encode(spng_ctx *png, const dataset_image *image, uint8_t **out,
                         size_t *out_size_bytes)
{
    struct spng_ihdr header = {
        .width = (uint32_t)image->width,
        .height = (uint32_t)image->height,
        .bit_depth = 8,
        .color_type = image->channels == 1 ? SPNG_COLOR_TYPE_GRAYSCALE : SPNG_COLOR_TYPE_TRUECOLOR,
    };
    const size_t size = (size_t)image->height * (size_t)image->width * (size_t)image->channels;
    size_t n = 0;
    int error = spng_set_option(png, SPNG_ENCODE_TO_BUFFER, 1);

    if (error == 0) error = spng_set_ihdr(png, &header);
    if (error == 0) {
        error = spng_encode_image(png, image->pixels, size, SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE);
    }
    if (error == SPNG_EMEM) return CVY_FAIL(CVY_ERR_NO_MEMORY, "PNG of %zu pixel bytes", size);
    if (error != 0) return CVY_FAIL(CVY_ERR_INTERNAL, "PNG: %s", spng_strerror(error));

    void *bytes = spng_get_png_buffer(png, &n, &error); /* ours, from malloc */
    if (bytes == NULL) return CVY_FAIL(CVY_ERR_INTERNAL, "PNG: %s", spng_strerror(error));
    uint8_t *copy = cvy_alloc(n);
    if (copy != NULL) memcpy(copy, bytes, n);
    free(bytes);
    if (copy == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "PNG of %zu bytes", n);
    *out = copy;
    *out_size_bytes = n;
    return CVY_OK;
}

cvy_status dataset_image_to_png(const dataset_image *image, uint8_t **out, size_t *out_size_bytes)
{
    if (image->height <= 0 || image->width <= 0 || image->height > INT32_MAX ||
        image->width > INT32_MAX || (image->channels != 1 && image->channels != 3)) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "PNG of %lld x %lld pixels with %d channels",
                        (long long)image->width, (long long)image->height, image->channels);
    }
    spng_ctx *png = spng_ctx_new(SPNG_CTX_ENCODER);
    if (png == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "PNG encoder");
    const cvy_status status = encode(png, image, out, out_size_bytes);
    spng_ctx_free(png);
    return status;
}
