#include "dataset/augment_internal.h"

#include "dataset/decode_internal.h"

#include "base/alloc.h"
#include "base/log.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_CHANNELS CVY_CONFIG_LIST_MAX /* mean and deviation are lists of a job */
#define MAX_STEPS    32

struct dataset_pipeline {
    int n_steps;
    dataset_step step[MAX_STEPS];
    int64_t channels, height, width;
    dataset_view_wish wish;
    double mean[MAX_CHANNELS], deviation[MAX_CHANNELS];
    float byte_shift[MAX_CHANNELS], byte_scale[MAX_CHANNELS];   /* of 0 to 255 */
    float float_shift[MAX_CHANNELS], float_scale[MAX_CHANNELS]; /* of values as they are */
};

static cvy_status take_channels(dataset_pipeline *pipeline, const dataset_info *info)
{
    /* Pictures of colour and of grey mixed, or of unknown kind, are all made colour. */
    pipeline->channels = info->channels;
    if (info->channels == 0 || (info->is_encoded && info->channels != 1)) pipeline->channels = 3;
    if (pipeline->channels <= MAX_CHANNELS) return CVY_OK;
    return CVY_FAIL(CVY_ERR_CONFIG, "the records have %lld channels, at most %d are supported",
                    (long long)pipeline->channels, MAX_CHANNELS);
}

static cvy_status read_steps(dataset_pipeline *pipeline, const cvy_node *list)
{
    const int n = list == NULL ? 0 : cvy_node_n_items(list);
    char place[256];

    if (list != NULL && !cvy_node_is_null(list) && cvy_node_get_kind(list) != CVY_NODE_SEQUENCE) {
        cvy_node_place(list, place, sizeof place);
        return CVY_FAIL(CVY_ERR_CONFIG,
                        "%s: augment is a list of steps, as in [{pad_crop: 4}, {flip: 0.5}]",
                        place);
    }
    if (n > MAX_STEPS) {
        cvy_node_place(list, place, sizeof place);
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: %d augment steps, expected at most %d", place, n,
                        MAX_STEPS);
    }
    for (int i = 0; i < n; i++) {
        CVY_RETURN_IF_ERR(dataset_step_read(cvy_node_item(list, i), &pipeline->step[i]));
    }
    pipeline->n_steps = n;
    return CVY_OK;
}

/* The one size of all outputs, from the records' and the steps'. */
static cvy_status infer_shape(dataset_pipeline *pipeline, const cvy_node *list,
                              const dataset_info *info)
{
    int64_t height = info->height, width = info->width;
    char place[256] = "";

    if (height == 0 || width == 0) height = width = 0;
    for (int i = 0; i < pipeline->n_steps; i++) {
        const dataset_step *step = &pipeline->step[i];
        const cvy_node *entry = cvy_node_item(list, i);
        if (step->ops->reads_pixels && pipeline->channels != 1 && pipeline->channels != 3) {
            cvy_node_place(entry, place, sizeof place);
            return CVY_FAIL(CVY_ERR_CONFIG,
                            "%s: %s works on 1 or 3 channels, the records have %lld", place,
                            step->ops->name, (long long)pipeline->channels);
        }
        CVY_RETURN_IF_ERR(step->ops->shape(step, entry, &height, &width));
    }
    if (height == 0) {
        if (list != NULL) cvy_node_place(list, place, sizeof place);
        return CVY_FAIL(CVY_ERR_CONFIG,
                        "%s%sthe records differ in size and no augment step makes them equal: end "
                        "the list with random_resized_crop: 224 (training), or resize: 256 and "
                        "center_crop: 224 (validation), or resize: [224, 224]",
                        place, place[0] == '\0' ? "" : ": ");
    }
    pipeline->height = height;
    pipeline->width = width;
    return CVY_OK;
}

/* One list of the job: a number per channel, or one for all. */
static cvy_status take_list(const cvy_real_list *list, const char *key, int64_t channels,
                            double *out)
{
    if (list->n != 1 && list->n != channels) {
        return CVY_FAIL(CVY_ERR_CONFIG, "data.%s has %d numbers, the records have %lld channels",
                        key, list->n, (long long)channels);
    }
    for (int64_t c = 0; c < channels; c++) out[c] = list->value[list->n == 1 ? 0 : c];
    return CVY_OK;
}

static void take_usual_stats(dataset_pipeline *pipeline, const dataset_info *info)
{
    static const double imagenet_mean[3] = {0.485, 0.456, 0.406};
    static const double imagenet_deviation[3] = {0.229, 0.224, 0.225};
    const int64_t n = pipeline->channels;

    for (int64_t c = 0; c < n; c++) {
        if (info->n_channels_stat == n) {
            /* A channel that never varies is only shifted. */
            const int is_flat = !(info->deviation[c] > 1e-6);
            pipeline->mean[c] = info->mean[c];
            pipeline->deviation[c] = is_flat ? 1.0 : info->deviation[c];
        } else {
            pipeline->mean[c] = n == 3 ? imagenet_mean[c] : 0.5;
            pipeline->deviation[c] = n == 3 ? imagenet_deviation[c] : 0.5;
        }
    }
}

static cvy_status take_stats(dataset_pipeline *pipeline, const cvy_job_input *input,
                             const dataset_info *info)
{
    const int64_t n = pipeline->channels;

    take_usual_stats(pipeline, info);
    if (info->n_channels_stat != n && (input->mean.n == 0 || input->deviation.n == 0)) {
        cvy_log_info("the dataset has no mean and deviation: taking %s; set data.mean and "
                     "data.deviation to choose",
                     n == 3 ? "ImageNet's" : "0.5 and 0.5");
    }
    if (input->mean.n > 0) {
        CVY_RETURN_IF_ERR(take_list(&input->mean, "mean", n, pipeline->mean));
    }
    if (input->deviation.n > 0) {
        CVY_RETURN_IF_ERR(take_list(&input->deviation, "deviation", n, pipeline->deviation));
    }
    for (int64_t c = 0; c < n; c++) {
        if (!(pipeline->deviation[c] > 0.0) || !isfinite(pipeline->deviation[c]) ||
            !isfinite(pipeline->mean[c])) {
            return CVY_FAIL(CVY_ERR_CONFIG,
                            "data.mean and data.deviation of channel %lld are %g and %g: expected "
                            "finite numbers and a deviation above 0",
                            (long long)c, pipeline->mean[c], pipeline->deviation[c]);
        }
        pipeline->byte_shift[c] = (float)(255.0 * pipeline->mean[c]);
        pipeline->byte_scale[c] = (float)(1.0 / (255.0 * pipeline->deviation[c]));
        pipeline->float_shift[c] = (float)pipeline->mean[c];
        pipeline->float_scale[c] = (float)(1.0 / pipeline->deviation[c]);
    }
    return CVY_OK;
}

cvy_status dataset_pipeline_create(const cvy_node *list, const cvy_job_input *input,
                                   const dataset_info *info, dataset_pipeline **out)
{
    cvy_status status = CVY_OK;
    dataset_pipeline *pipeline = cvy_alloc_zero(1, sizeof *pipeline);

    *out = NULL;
    if (pipeline == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "augmentation pipeline");
    CVY_GOTO_IF_ERR(fail, status, take_channels(pipeline, info));
    pipeline->wish = (dataset_view_wish){.channels = (int)pipeline->channels,
                                         .channel_order = input->channel_order,
                                         .max_pixels = input->max_pixels};
    CVY_GOTO_IF_ERR(fail, status, read_steps(pipeline, list));
    CVY_GOTO_IF_ERR(fail, status, infer_shape(pipeline, list, info));
    CVY_GOTO_IF_ERR(fail, status, take_stats(pipeline, input, info));
    *out = pipeline;
    return CVY_OK;

fail:
    dataset_pipeline_destroy(&pipeline);
    return status;
}

void dataset_pipeline_destroy(dataset_pipeline **pipeline)
{
    if (pipeline == NULL || *pipeline == NULL) return;
    cvy_free(*pipeline);
    *pipeline = NULL;
}

void dataset_pipeline_shape(const dataset_pipeline *pipeline, int64_t *out_channels,
                            int64_t *out_height, int64_t *out_width)
{
    *out_channels = pipeline->channels;
    *out_height = pipeline->height;
    *out_width = pipeline->width;
}

void dataset_pipeline_stats(const dataset_pipeline *pipeline, const double **out_mean,
                            const double **out_deviation)
{
    *out_mean = pipeline->mean;
    *out_deviation = pipeline->deviation;
}

cvy_status dataset_scratch_create(dataset_scratch **out)
{
    *out = cvy_alloc_zero(1, sizeof **out);
    return *out != NULL ? CVY_OK : CVY_FAIL(CVY_ERR_NO_MEMORY, "scratch of a loader thread");
}

void dataset_scratch_destroy(dataset_scratch **scratch)
{
    if (scratch == NULL || *scratch == NULL) return;
    for (int i = 0; i < DATASET_SCRATCH_IMAGES; i++) dataset_image_free(&(*scratch)->image[i]);
    dataset_resizer_free(&(*scratch)->resizer);
    cvy_free(*scratch);
    *scratch = NULL;
}

static cvy_status apply_steps(const dataset_pipeline *pipeline, const dataset_datum *datum,
                              const dataset_sample_key *key, dataset_sample *sample,
                              cvy_reason *reason)
{
    cvy_rng rng = cvy_rng_open(key->seed, CVY_RNG_AUGMENT, (uint64_t)key->epoch,
                               (uint64_t)key->position);

    sample->rng = &rng;
    CVY_RETURN_IF_ERR(
        dataset_view_open(datum, &pipeline->wish, sample->scratch, &sample->view, reason));
    for (int i = 0; i < pipeline->n_steps; i++) {
        const dataset_step *step = &pipeline->step[i];
        CVY_RETURN_IF_ERR(step->ops->apply(step, sample, reason));
    }
    if (sample->view.height == pipeline->height && sample->view.width == pipeline->width) {
        return CVY_OK;
    }
    return cvy_because(reason, CVY_ERR_BAD_DATA, "%lld x %lld pixels, %lld x %lld expected",
                       (long long)sample->view.width, (long long)sample->view.height,
                       (long long)pipeline->width, (long long)pipeline->height);
}

cvy_status dataset_pipeline_apply(const dataset_pipeline *pipeline, const dataset_datum *datum,
                                  const dataset_sample_key *key, dataset_scratch *scratch,
                                  float *out, cvy_reason *reason)
{
    dataset_sample sample = {.scratch = scratch, .max_pixels = pipeline->wish.max_pixels};
    const cvy_status status = apply_steps(pipeline, datum, key, &sample, reason);

    if (status == CVY_ERR_NO_MEMORY) return CVY_FAIL(status, "no memory to prepare a picture");
    CVY_RETURN_IF_ERR(status);
    if (sample.view.bytes != NULL) {
        dataset_view_normalise(&sample.view, pipeline->byte_shift, pipeline->byte_scale, out);
    } else {
        dataset_view_normalise(&sample.view, pipeline->float_shift, pipeline->float_scale, out);
    }
    return CVY_OK;
}

/* Floats for people: the least black, the most white. Not finite ones count as 0. */
static cvy_status floats_to_image(const dataset_view *view, dataset_image *out)
{
    const int64_t n = view->height * view->width;
    float least = INFINITY, most = -INFINITY;

    CVY_RETURN_IF_ERR(dataset_image_reserve(out, view->height, view->width, (int)view->channels));
    for (int64_t c = 0; c < view->channels; c++) {
        for (int64_t i = 0; i < n; i++) {
            const float v = view->floats[c * view->stride_c + i];
            if (isfinite(v) && v < least) least = v;
            if (isfinite(v) && v > most) most = v;
        }
    }
    const double range = most > least ? (double)most - (double)least : 1.0;
    for (int64_t c = 0; c < view->channels; c++) {
        for (int64_t i = 0; i < n; i++) {
            const float v = view->floats[c * view->stride_c + i];
            const double share = isfinite(v) ? ((double)v - (double)least) / range : 0.0;
            out->pixels[i * view->channels + c] = (uint8_t)(255.0 * share + 0.5);
        }
    }
    return CVY_OK;
}

cvy_status dataset_datum_to_image(const dataset_datum *datum, int channel_order, int64_t max_pixels,
                                  dataset_image *out, cvy_reason *reason)
{
    const dataset_view_wish wish = {
        .channel_order = channel_order, .max_pixels = max_pixels, .middle_slice = 1};
    dataset_scratch *scratch = NULL;
    dataset_view view;

    CVY_RETURN_IF_ERR(dataset_scratch_create(&scratch));
    cvy_status status = dataset_view_open(datum, &wish, scratch, &view, reason);
    if (status == CVY_OK) {
        if (view.channels != 3) view.channels = 1; /* of other stacks the first shows most */
        status = view.bytes != NULL ? dataset_view_copy(&view, out) : floats_to_image(&view, out);
    }
    dataset_scratch_destroy(&scratch);
    if (status == CVY_ERR_NO_MEMORY) return CVY_FAIL(status, "no memory for a picture");
    return status;
}
