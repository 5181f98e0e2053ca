#include "dataset/view_internal.h"

#include "dataset/decode_internal.h"

#include <string.h>

static void look_at_image(dataset_view *view, dataset_scratch *scratch, int current)
{
    const dataset_image *image = &scratch->image[current];

    scratch->current = current;
    *view = (dataset_view){.bytes = image->pixels,
                           .stride_c = 1,
                           .stride_y = image->width * image->channels,
                           .stride_x = image->channels,
                           .channels = image->channels,
                           .height = image->height,
                           .width = image->width,
                           .step_x = 1,
                           .hi_y = image->height,
                           .hi_x = image->width};
}

/* An image that the view does not look at. */
static int next_image(const dataset_scratch *scratch)
{
    return (scratch->current + 1) % DATASET_SCRATCH_IMAGES;
}

static void look_at_raw(const dataset_datum *datum, const dataset_view_wish *wish,
                        dataset_view *view)
{
    const int64_t plane = datum->height * datum->width;
    const int64_t depth = datum->depth > 0 ? datum->depth : 1;
    int64_t offset = depth / 2 * plane;

    *view = (dataset_view){.stride_c = plane * depth,
                           .stride_y = datum->width,
                           .stride_x = 1,
                           .channels = datum->channels,
                           .height = datum->height,
                           .width = datum->width,
                           .step_x = 1,
                           .hi_y = datum->height,
                           .hi_x = datum->width};
    if (wish->channel_order == 1 && datum->channels == 3) {
        offset += 2 * view->stride_c;
        view->stride_c = -view->stride_c;
    }
    if (datum->float_data != NULL) {
        view->floats = datum->float_data + offset;
    } else {
        view->bytes = datum->data + offset;
    }
}

/* Raw pixels of another number of channels than wished: grey is repeated, RGB is weighed. */
static cvy_status convert_channels(dataset_view *view, int channels, dataset_scratch *scratch,
                                   cvy_reason *reason)
{
    if (view->channels == 1 && channels == 3) {
        view->channels = 3;
        view->stride_c = 0;
        return CVY_OK;
    }
    if (view->channels == 3 && channels == 1 && view->bytes != NULL) {
        const int next = next_image(scratch);
        dataset_image *image = &scratch->image[next];
        CVY_RETURN_IF_ERR(dataset_view_copy(view, image));
        dataset_rgb_to_grey(image->pixels, image->height * image->width, image->pixels);
        image->channels = 1;
        look_at_image(view, scratch, next);
        return CVY_OK;
    }
    return cvy_because(reason, CVY_ERR_BAD_DATA, "%lld channels, %d expected",
                       (long long)view->channels, channels);
}

cvy_status dataset_view_open(const dataset_datum *datum, const dataset_view_wish *wish,
                             dataset_scratch *scratch, dataset_view *out, cvy_reason *reason)
{
    scratch->current = -1;
    if (datum->is_encoded) {
        const dataset_decode_options options = {.max_pixels = wish->max_pixels,
                                                .channels = wish->channels};
        CVY_RETURN_IF_ERR(dataset_image_decode(datum->data, datum->data_bytes, &options,
                                               &scratch->image[0], reason));
        look_at_image(out, scratch, 0);
        return CVY_OK;
    }
    if (datum->depth > 0 && !wish->middle_slice) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "a volume of depth %lld, a picture is expected",
                           (long long)datum->depth);
    }
    look_at_raw(datum, wish, out);
    if (wish->channels == 0 || out->channels == wish->channels) return CVY_OK;
    return convert_channels(out, wish->channels, scratch, reason);
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

void dataset_view_move(dataset_view *view, int64_t y, int64_t x, int64_t height, int64_t width)
{
    /* What the present window cuts off stays cut off, also if a later one is larger. */
    const int64_t left = view->step_x > 0 ? view->x0 : view->x0 - view->width + 1;

    view->lo_y = max64(view->lo_y, view->y0);
    view->hi_y = min64(view->hi_y, view->y0 + view->height);
    view->lo_x = max64(view->lo_x, left);
    view->hi_x = min64(view->hi_x, left + view->width);
    view->y0 += y;
    view->x0 += x * view->step_x;
    view->height = height;
    view->width = width;
}

void dataset_view_mirror(dataset_view *view)
{
    view->x0 += view->step_x * (view->width - 1);
    view->step_x = -view->step_x;
}

/* The part [*begin, *end) of a window's row that lies inside the picture. */
static void clip_row(const dataset_view *view, int64_t y, int64_t *begin, int64_t *end)
{
    *begin = *end = 0;
    if (view->y0 + y < view->lo_y || view->y0 + y >= view->hi_y) return;
    if (view->step_x > 0) {
        *begin = view->lo_x - view->x0;
        *end = view->hi_x - view->x0;
    } else {
        *begin = view->x0 - view->hi_x + 1;
        *end = view->x0 - view->lo_x + 1;
    }
    *begin = min64(max64(*begin, 0), view->width);
    *end = max64(min64(*end, view->width), *begin);
}

/* Place in base of a pixel of the window. */
static int64_t place_of(const dataset_view *view, int64_t c, int64_t y, int64_t x)
{
    return c * view->stride_c + (view->y0 + y) * view->stride_y +
           (view->x0 + x * view->step_x) * view->stride_x;
}

cvy_status dataset_view_copy(const dataset_view *view, dataset_image *to)
{
    const int64_t n = view->channels, step = view->step_x * view->stride_x;

    CVY_RETURN_IF_ERR(dataset_image_reserve(to, view->height, view->width, (int)n));
    for (int64_t y = 0; y < view->height; y++) {
        uint8_t *row = to->pixels + y * view->width * n;
        int64_t begin = 0, end = 0;
        clip_row(view, y, &begin, &end);
        memset(row, 0, (size_t)(begin * n));
        memset(row + end * n, 0, (size_t)((view->width - end) * n));
        for (int64_t c = 0; c < n && begin < end; c++) {
            const uint8_t *from = view->bytes + place_of(view, c, y, begin);
            uint8_t *out = row + begin * n + c;
            for (int64_t i = 0; i < end - begin; i++) out[i * n] = from[i * step];
        }
    }
    return CVY_OK;
}

/* Whether the window lies in an interleaved picture just as it is. */
static int is_plain(const dataset_view *view)
{
    return view->step_x == 1 && (view->channels == 1 || view->stride_c == 1) &&
           view->stride_x == view->channels && view->y0 >= view->lo_y && view->x0 >= view->lo_x &&
           view->y0 + view->height <= view->hi_y && view->x0 + view->width <= view->hi_x;
}

cvy_status dataset_view_resize(dataset_view *view, dataset_scratch *scratch, int64_t height,
                               int64_t width)
{
    if (!is_plain(view)) {
        const int copy = next_image(scratch);
        CVY_RETURN_IF_ERR(dataset_view_copy(view, &scratch->image[copy]));
        look_at_image(view, scratch, copy);
    }
    const dataset_pixels pixels = {.pixels = view->bytes + place_of(view, 0, 0, 0),
                                   .row_bytes = view->stride_y,
                                   .height = view->height,
                                   .width = view->width,
                                   .channels = (int)view->channels};
    const int next = next_image(scratch);
    CVY_RETURN_IF_ERR(
        dataset_resize(&scratch->resizer, &pixels, height, width, &scratch->image[next]));
    look_at_image(view, scratch, next);
    return CVY_OK;
}

/* One run of pixels. The strides that occur are constants in their calls below, so that each
 * becomes a loop of vector instructions. */
static inline void scale_bytes(const uint8_t *restrict from, int64_t step, int64_t n, float shift,
                               float scale, float *restrict out)
{
    for (int64_t i = 0; i < n; i++) out[i] = ((float)from[i * step] - shift) * scale;
}

static void scale_byte_run(const uint8_t *from, int64_t step, int64_t n, float shift, float scale,
                           float *out)
{
    switch (step) {
    case 1:
        scale_bytes(from, 1, n, shift, scale, out);
        break;
    case -1:
        scale_bytes(from, -1, n, shift, scale, out);
        break;
    case 3:
        scale_bytes(from, 3, n, shift, scale, out);
        break;
    case -3:
        scale_bytes(from, -3, n, shift, scale, out);
        break;
    default:
        scale_bytes(from, step, n, shift, scale, out);
    }
}

static void scale_float_run(const float *restrict from, int64_t step, int64_t n, float shift,
                            float scale, float *restrict out)
{
    for (int64_t i = 0; i < n; i++) out[i] = (from[i * step] - shift) * scale;
}

void dataset_view_normalise(const dataset_view *view, const float *shift, const float *scale,
                            float *out)
{
    const int64_t step = view->step_x * view->stride_x;

    for (int64_t c = 0; c < view->channels; c++) {
        const float outside = (0.0f - shift[c]) * scale[c];
        for (int64_t y = 0; y < view->height; y++, out += view->width) {
            int64_t begin = 0, end = 0;
            clip_row(view, y, &begin, &end);
            for (int64_t i = 0; i < begin; i++) out[i] = outside;
            for (int64_t i = end; i < view->width; i++) out[i] = outside;
            if (begin == end) continue;
            const int64_t place = place_of(view, c, y, begin);
            if (view->bytes != NULL) {
                scale_byte_run(view->bytes + place, step, end - begin, shift[c], scale[c],
                               out + begin);
            } else {
                scale_float_run(view->floats + place, step, end - begin, shift[c], scale[c],
                                out + begin);
            }
        }
    }
}
