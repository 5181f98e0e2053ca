#include "dataset/importers/import_internal.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"

#include <string.h>

#define MAX_BAD_LINES    20
#define PROGRESS_EVERY_S 0.1

cvy_status dataset_import_open(const dataset_import_options *options, const dataset_names *names,
                               int n_classes, dataset_import *out)
{
    const int has_names = names != NULL && names->n > 0;
    const dataset_writer_options writer_options = {
        .n_classes = has_names ? names->n : n_classes,
        .class_names = has_names ? (const char *const *)names->name : NULL,
        .source = options->source};

    *out = (dataset_import){.options = options, .n_all = -1};
    return dataset_writer_create(options->destination, &writer_options, &out->writer);
}

static void tally_bytes(dataset_import *import, int kind, int c, const uint8_t *bytes, int64_t n,
                        int64_t step)
{
    uint64_t sum = 0, squares = 0;

    for (int64_t i = 0; i < n; i++) {
        const uint32_t v = bytes[i * step];
        sum += v;
        squares += v * v;
    }
    import->tally[kind].n[c] += (double)n;
    import->tally[kind].sum[c] += (double)sum / 255.0;
    import->tally[kind].sum_squares[c] += (double)squares / (255.0 * 255.0);
}

static void tally_floats(dataset_import *import, int c, const float *values, int64_t n)
{
    double sum = 0.0, squares = 0.0;

    for (int64_t i = 0; i < n; i++) {
        sum += (double)values[i];
        squares += (double)values[i] * (double)values[i];
    }
    import->tally[0].n[c] += (double)n;
    import->tally[0].sum[c] += sum;
    import->tally[0].sum_squares[c] += squares;
}

static cvy_status put(dataset_import *import, const dataset_datum *datum)
{
    CVY_RETURN_IF_ERR(dataset_writer_put(import->writer, datum));
    import->n_records++;
    return CVY_OK;
}

/* Resize a picture to options->resize; *out is it or the scratch that has the result. */
static cvy_status resize(dataset_import *import, const dataset_image *picture,
                         const dataset_image **out, cvy_reason *reason)
{
    int64_t height = 0, width = 0;
    const dataset_pixels pixels = {.pixels = picture->pixels,
                                   .row_bytes = picture->width * picture->channels,
                                   .height = picture->height,
                                   .width = picture->width,
                                   .channels = picture->channels};

    *out = picture;
    if (import->options->resize <= 0) return CVY_OK;
    dataset_resize_shorter(picture->height, picture->width, import->options->resize, &height,
                           &width);
    if (height > DATASET_IMPORT_MAX_PIXELS / width) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "resizing %lld x %lld pixels gives %lld x %lld",
                           (long long)picture->width, (long long)picture->height, (long long)width,
                           (long long)height);
    }
    *out = &import->resized;
    const cvy_status status = dataset_resize(&import->resizer, &pixels, height, width,
                                             &import->resized);
    if (status == CVY_OK) return CVY_OK;
    return CVY_FAIL(status, "memory for a picture of %lld x %lld", (long long)width,
                    (long long)height);
}

/* (h, w, c) of a picture to (c, h, w) in planes. */
static cvy_status split_planes(dataset_import *import, const dataset_image *picture)
{
    const int64_t n = picture->height * picture->width, c_count = picture->channels;

    if (dataset_image_reserve(&import->planes, picture->height, picture->width,
                              picture->channels) != CVY_OK) {
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "memory for a picture of %lld x %lld",
                        (long long)picture->width, (long long)picture->height);
    }
    for (int64_t c = 0; c < c_count; c++) {
        for (int64_t i = 0; i < n; i++) {
            import->planes.pixels[c * n + i] = picture->pixels[i * c_count + c];
        }
    }
    return CVY_OK;
}

cvy_status dataset_import_put_picture(dataset_import *import, const dataset_image *picture,
                                      int32_t label, const uint8_t *encoded, size_t encoded_bytes,
                                      cvy_reason *reason)
{
    const dataset_image *stored = NULL;
    const int is_raw = import->options->encode_raw || import->options->resize > 0 ||
                       encoded == NULL;

    CVY_RETURN_IF_ERR(resize(import, picture, &stored, reason));
    dataset_datum datum = {.channels = stored->channels,
                           .height = stored->height,
                           .width = stored->width,
                           .label = label,
                           .has_label = 1};
    if (is_raw) {
        CVY_RETURN_IF_ERR(split_planes(import, stored));
        datum.data = import->planes.pixels;
        datum.data_bytes = (size_t)(stored->channels * stored->height * stored->width);
    } else {
        datum.is_encoded = 1;
        datum.data = encoded;
        datum.data_bytes = encoded_bytes;
    }
    for (int c = 0; c < stored->channels; c++) {
        tally_bytes(import, stored->channels == 3, c, stored->pixels + c,
                    stored->height * stored->width, stored->channels);
    }
    return put(import, &datum);
}

/* Raw planes to be resized are made a picture first. */
static cvy_status put_resized(dataset_import *import, const dataset_datum *datum)
{
    const int64_t n = datum->height * datum->width;
    cvy_reason reason = {""};

    if (datum->data == NULL || datum->depth > 0 || (datum->channels != 1 && datum->channels != 3)) {
        return CVY_FAIL(CVY_ERR_USAGE,
                        "%s: --resize works on pictures of bytes with 1 or 3 channels",
                        import->options->source);
    }
    if (dataset_image_reserve(&import->picture, datum->height, datum->width,
                              (int)datum->channels) != CVY_OK) {
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "memory for a picture of %lld x %lld",
                        (long long)datum->width, (long long)datum->height);
    }
    for (int64_t c = 0; c < datum->channels; c++) {
        for (int64_t i = 0; i < n; i++) {
            import->picture.pixels[i * datum->channels + c] = datum->data[c * n + i];
        }
    }
    const cvy_status status = dataset_import_put_picture(import, &import->picture, datum->label,
                                                         NULL, 0, &reason);
    if (status != CVY_ERR_BAD_DATA) return status;
    return CVY_FAIL(status, "%s: %s", import->options->source, reason.text);
}

cvy_status dataset_import_put_raw(dataset_import *import, const dataset_datum *datum)
{
    const int64_t depth = datum->depth > 0 ? datum->depth : 1;
    const int64_t plane = depth * datum->height * datum->width;

    if (import->options->resize > 0) return put_resized(import, datum);
    for (int64_t c = 0; c < datum->channels && c < DATASET_IMPORT_MAX_CHANNELS; c++) {
        if (datum->data != NULL) {
            tally_bytes(import, 0, (int)c, datum->data + c * plane, plane, 1);
        } else {
            tally_floats(import, (int)c, datum->float_data + c * plane, plane);
        }
    }
    return put(import, datum);
}

cvy_status dataset_import_skip(dataset_import *import, const char *path, const cvy_reason *reason)
{
    if (import->options->on_bad == 1) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: %s", path, reason->text);
    }
    import->n_bad++;
    if (import->n_bad <= MAX_BAD_LINES) cvy_log_warn("%s: %s; left out", path, reason->text);
    if (import->n_bad == MAX_BAD_LINES) cvy_log_warn("further bad files are only counted");
    return CVY_OK;
}

int dataset_import_is_full(const dataset_import *import)
{
    return import->options->limit > 0 && import->n_records >= import->options->limit;
}

static cvy_status call_progress(dataset_import *import)
{
    const dataset_import_options *options = import->options;

    if (options->progress == NULL) return CVY_OK;
    const int64_t n_done = import->n_records + import->n_bad;
    if (options->progress(options->progress_arg, n_done, import->n_all) == 0) return CVY_OK;
    return CVY_FAIL(CVY_ERR_STOPPED, "import of %s stopped after %lld records", options->source,
                    (long long)import->n_records);
}

cvy_status dataset_import_progress(dataset_import *import)
{
    const double now_s = cvy_clock_now_s();

    if (import->last_progress_s > 0.0 && now_s - import->last_progress_s < PROGRESS_EVERY_S) {
        return CVY_OK;
    }
    import->last_progress_s = now_s;
    return call_progress(import);
}

/* Grey pictures among coloured ones are trained on as colour: they count for every channel. */
static void write_tallies(dataset_import *import)
{
    const int has_colour = import->tally[1].n[0] > 0.0;

    for (int c = 0; c < DATASET_IMPORT_MAX_CHANNELS; c++) {
        const int from = has_colour && c < 3 ? 0 : c;
        const double n = import->tally[0].n[from] + import->tally[1].n[c];
        if (n <= 0.0) continue;
        dataset_writer_add_stat(
            import->writer, c, n, import->tally[0].sum[from] + import->tally[1].sum[c],
            import->tally[0].sum_squares[from] + import->tally[1].sum_squares[c]);
    }
}

static cvy_status finish(dataset_import *import)
{
    if (import->n_records == 0) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: no record to import (%lld bad)",
                        import->options->source, (long long)import->n_bad);
    }
    import->n_all = import->n_records + import->n_bad;
    CVY_RETURN_IF_ERR(call_progress(import));
    write_tallies(import);
    return dataset_writer_commit(&import->writer);
}

cvy_status dataset_import_close(dataset_import *import, cvy_status status,
                                dataset_import_result *out)
{
    if (status == CVY_OK) status = finish(import);
    if (status == CVY_OK) {
        *out = (dataset_import_result){.n_records = import->n_records, .n_bad = import->n_bad};
    }
    dataset_writer_discard(&import->writer);
    dataset_resizer_free(&import->resizer);
    dataset_image_free(&import->picture);
    dataset_image_free(&import->resized);
    dataset_image_free(&import->planes);
    return status;
}
