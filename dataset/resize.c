#include "dataset/resize_internal.h"

#include "dataset/decode_internal.h"

#include "base/alloc.h"

#include <math.h>
#include <string.h>

/* Two passes, first along rows, then along columns, each rounded to bytes. Weights are integers
 * with WEIGHT_BITS of fraction: 8 bits of pixel, 22 of weight and 2 to spare make 32, and integer
 * sums are the same on every machine. These are the figures of Pillow, and so are the pixels. */
#define WEIGHT_BITS 22

/* Tables grow in steps, so that crops of ever other sizes do not each bring a new block. */
#define GROW_ELEMS ((size_t)4096)

void dataset_resizer_free(dataset_resizer *resizer)
{
    if (resizer == NULL) return;
    cvy_free(resizer->weights);
    cvy_free(resizer->first);
    dataset_image_free(&resizer->middle);
    *resizer = (dataset_resizer){0};
}

static cvy_status grow(int32_t **block, size_t *room, size_t n)
{
    size_t bytes = 0;

    if (n <= *room) return CVY_OK;
    if (!cvy_size_add(n, GROW_ELEMS, &n)) return CVY_ERR_NO_MEMORY;
    n = n / GROW_ELEMS * GROW_ELEMS;
    if (!cvy_size_mul(n, sizeof **block, &bytes)) return CVY_ERR_NO_MEMORY;
    int32_t *larger = cvy_alloc(bytes);
    if (larger == NULL) return CVY_ERR_NO_MEMORY;
    cvy_free(*block);
    *block = larger;
    *room = n;
    return CVY_OK;
}

/* Taps and weights of one axis: which inputs an output place is the mean of. */
typedef struct axis {
    int64_t n_in, n_out;
    int64_t n_taps; /* stride of weights */
} axis;

/* The triangle of half width max(1, scale) about the place's centre, normalised to sum 1. */
static void plan_place(const axis *ax, int64_t place, int32_t *weights, int32_t *first,
                       int32_t *count)
{
    const double scale = (double)ax->n_in / (double)ax->n_out;
    const double reach = scale > 1.0 ? scale : 1.0;
    const double centre = ((double)place + 0.5) * scale;
    int64_t lo = (int64_t)(centre - reach + 0.5), hi = (int64_t)(centre + reach + 0.5);
    double sum = 0.0;

    lo = lo < 0 ? 0 : lo;
    hi = hi > ax->n_in ? ax->n_in : hi;
    for (int64_t i = lo; i < hi; i++) {
        const double away = fabs(((double)i - centre + 0.5) / reach);
        sum += away < 1.0 ? 1.0 - away : 0.0;
    }
    for (int64_t i = lo; i < hi; i++) {
        const double away = fabs(((double)i - centre + 0.5) / reach);
        const double weight = away < 1.0 ? (1.0 - away) / sum : 0.0;
        weights[i - lo] = (int32_t)(weight * (double)(1 << WEIGHT_BITS) + 0.5);
    }
    *first = (int32_t)lo;
    *count = (int32_t)(hi - lo);
}

static cvy_status plan_axis(dataset_resizer *resizer, int64_t n_in, int64_t n_out, axis *out)
{
    const double scale = (double)n_in / (double)n_out;
    const axis ax = {
        .n_in = n_in, .n_out = n_out, .n_taps = (int64_t)ceil(scale > 1.0 ? scale : 1.0) * 2 + 1};

    size_t n_weights = 0;
    if (!cvy_size_mul((size_t)ax.n_taps, (size_t)n_out, &n_weights)) return CVY_ERR_NO_MEMORY;
    CVY_RETURN_IF_ERR(grow(&resizer->weights, &resizer->n_weights, n_weights));
    CVY_RETURN_IF_ERR(grow(&resizer->first, &resizer->n_first, 2 * (size_t)n_out));
    for (int64_t i = 0; i < n_out; i++) {
        plan_place(&ax, i, resizer->weights + i * ax.n_taps, &resizer->first[2 * i],
                   &resizer->first[2 * i + 1]);
    }
    *out = ax;
    return CVY_OK;
}

static uint8_t to_byte(int32_t sum)
{
    const int32_t value = sum >> WEIGHT_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void resize_row_grey(const dataset_resizer *resizer, const axis *ax, const uint8_t *in,
                            uint8_t *out)
{
    for (int64_t i = 0; i < ax->n_out; i++) {
        const int32_t *weights = resizer->weights + i * ax->n_taps;
        const uint8_t *taps = in + resizer->first[2 * i];
        const int32_t n = resizer->first[2 * i + 1];
        int32_t sum = 1 << (WEIGHT_BITS - 1);
        for (int32_t k = 0; k < n; k++) sum += weights[k] * taps[k];
        out[i] = to_byte(sum);
    }
}

static void resize_row_rgb(const dataset_resizer *resizer, const axis *ax, const uint8_t *in,
                           uint8_t *out)
{
    for (int64_t i = 0; i < ax->n_out; i++) {
        const int32_t *weights = resizer->weights + i * ax->n_taps;
        const uint8_t *taps = in + 3 * (int64_t)resizer->first[2 * i];
        const int32_t n = resizer->first[2 * i + 1];
        int32_t r = 1 << (WEIGHT_BITS - 1), g = r, b = r;
        for (int32_t k = 0; k < n; k++) {
            r += weights[k] * taps[3 * k];
            g += weights[k] * taps[3 * k + 1];
            b += weights[k] * taps[3 * k + 2];
        }
        out[3 * i] = to_byte(r);
        out[3 * i + 1] = to_byte(g);
        out[3 * i + 2] = to_byte(b);
    }
}

/* Rows are summed a piece at a time, so that the sums stay in the first cache. */
#define PIECE 512

static void resize_columns(const dataset_resizer *resizer, const axis *ax, const uint8_t *in,
                           int64_t row_bytes, int64_t n, uint8_t *out)
{
    int32_t sums[PIECE];

    for (int64_t y = 0; y < ax->n_out; y++) {
        const int32_t *weights = resizer->weights + y * ax->n_taps;
        const int64_t first = resizer->first[2 * y];
        const int32_t n_taps = resizer->first[2 * y + 1];
        for (int64_t x = 0; x < n; x += PIECE) {
            const int64_t size = n - x < PIECE ? n - x : PIECE;
            for (int64_t i = 0; i < size; i++) sums[i] = 1 << (WEIGHT_BITS - 1);
            for (int32_t k = 0; k < n_taps; k++) {
                const uint8_t *row = in + (first + k) * row_bytes + x;
                const int32_t weight = weights[k];
                for (int64_t i = 0; i < size; i++) sums[i] += weight * row[i];
            }
            for (int64_t i = 0; i < size; i++) out[y * n + x + i] = to_byte(sums[i]);
        }
    }
}

static cvy_status resize_rows(dataset_resizer *resizer, const dataset_pixels *from, int64_t width,
                              dataset_image *to)
{
    axis ax;

    CVY_RETURN_IF_ERR(plan_axis(resizer, from->width, width, &ax));
    CVY_RETURN_IF_ERR(dataset_image_reserve(to, from->height, width, from->channels));
    for (int64_t y = 0; y < from->height; y++) {
        const uint8_t *in = from->pixels + y * from->row_bytes;
        uint8_t *out = to->pixels + y * width * from->channels;
        if (from->channels == 1) {
            resize_row_grey(resizer, &ax, in, out);
        } else {
            resize_row_rgb(resizer, &ax, in, out);
        }
    }
    return CVY_OK;
}

static void copy_rows(const dataset_pixels *from, uint8_t *out)
{
    const int64_t n = from->width * from->channels;

    for (int64_t y = 0; y < from->height; y++) {
        memcpy(out + y * n, from->pixels + y * from->row_bytes, (size_t)n);
    }
}

cvy_status dataset_resize(dataset_resizer *resizer, const dataset_pixels *from, int64_t height,
                          int64_t width, dataset_image *to)
{
    dataset_pixels rows = *from;
    axis ax;

    if (height == from->height) {
        if (width != from->width) return resize_rows(resizer, from, width, to);
        CVY_RETURN_IF_ERR(dataset_image_reserve(to, height, width, from->channels));
        copy_rows(from, to->pixels);
        return CVY_OK;
    }
    if (width != from->width) {
        CVY_RETURN_IF_ERR(resize_rows(resizer, from, width, &resizer->middle));
        rows.pixels = resizer->middle.pixels;
        rows.row_bytes = width * from->channels;
    }
    CVY_RETURN_IF_ERR(plan_axis(resizer, from->height, height, &ax));
    CVY_RETURN_IF_ERR(dataset_image_reserve(to, height, width, from->channels));
    resize_columns(resizer, &ax, rows.pixels, rows.row_bytes, width * from->channels, to->pixels);
    return CVY_OK;
}

void dataset_resize_shorter(int64_t height, int64_t width, int64_t shorter, int64_t *out_height,
                            int64_t *out_width)
{
    if (height <= width) {
        *out_height = shorter;
        *out_width = shorter * width / height;
    } else {
        *out_height = shorter * height / width;
        *out_width = shorter;
    }
}

cvy_status dataset_image_resize(const dataset_image *from, int64_t height, int64_t width,
                                dataset_image *to)
{
    dataset_resizer resizer = {0};

    if (from->height < 1 || from->width < 1 || height < 1 || width < 1 || height > INT32_MAX ||
        width > INT32_MAX || from->height > INT32_MAX || from->width > INT32_MAX ||
        (from->channels != 1 && from->channels != 3)) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "resize %lld x %lld x %d to %lld x %lld",
                        (long long)from->height, (long long)from->width, from->channels,
                        (long long)height, (long long)width);
    }
    const dataset_pixels pixels = {.pixels = from->pixels,
                                   .row_bytes = from->width * from->channels,
                                   .height = from->height,
                                   .width = from->width,
                                   .channels = from->channels};
    const cvy_status status = dataset_resize(&resizer, &pixels, height, width, to);
    dataset_resizer_free(&resizer);
    if (status == CVY_OK) return CVY_OK;
    return CVY_FAIL(status, "memory for a picture of %lld x %lld", (long long)height,
                    (long long)width);
}
