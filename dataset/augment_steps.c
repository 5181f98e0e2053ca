#include "dataset/augment_internal.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Where random numbers are drawn, their order is part of what a job's bits depend on: step by step
 * as listed, and within a step as its apply function says. */

#define MAX_SIZE    65535
#define MAX_PADDING 4096

static cvy_status keep_shape(const dataset_step *step, const cvy_node *node, int64_t *height,
                             int64_t *width)
{
    (void)step;
    (void)node;
    (void)height;
    (void)width;
    return CVY_OK;
}

static cvy_status give_shape(const dataset_step *step, const cvy_node *node, int64_t *height,
                             int64_t *width)
{
    (void)node;
    *height = step->height;
    *width = step->width;
    return CVY_OK;
}

static cvy_status resize_shape(const dataset_step *step, const cvy_node *node, int64_t *height,
                               int64_t *width)
{
    if (step->width != 0) return give_shape(step, node, height, width);
    if (*height != 0) dataset_resize_shorter(*height, *width, step->height, height, width);
    return CVY_OK;
}

static cvy_status random_crop_shape(const dataset_step *step, const cvy_node *node, int64_t *height,
                                    int64_t *width)
{
    if (*height != 0 && (*height < step->height || *width < step->width)) {
        char place[256];
        cvy_node_place(node, place, sizeof place);
        return CVY_FAIL(CVY_ERR_CONFIG,
                        "%s: random_crop of %lld x %lld (height x width) is larger than the "
                        "pictures, %lld x %lld; put pad_crop or resize in its place",
                        place, (long long)step->height, (long long)step->width, (long long)*height,
                        (long long)*width);
    }
    return give_shape(step, node, height, width);
}

static cvy_status fail_length(const cvy_node *node, const char *name, const char *key, int n,
                              const char *expected)
{
    char place[256];

    cvy_node_place(node, place, sizeof place);
    return CVY_FAIL(CVY_ERR_CONFIG, "%s: %s of %s has %d numbers, expected %s", place, key, name, n,
                    expected);
}

static cvy_status check_resize(dataset_step *step, const cvy_node *node)
{
    const cvy_int_list *size = &step->args.sized.size;

    if (size->n != 1 && size->n != 2) {
        return fail_length(node, step->ops->name, "size", size->n,
                           "the shorter side or [height, width]");
    }
    step->height = size->value[0];
    step->width = size->n == 2 ? size->value[1] : 0;
    return CVY_OK;
}

/* A crop of one number is square. */
static cvy_status check_crop(dataset_step *step, const cvy_node *node)
{
    const cvy_int_list *size = &step->args.sized.size;

    if (size->n != 1 && size->n != 2) {
        return fail_length(node, step->ops->name, "size", size->n,
                           "one for a square or [height, width]");
    }
    step->height = size->value[0];
    step->width = size->value[size->n - 1];
    return CVY_OK;
}

static cvy_status check_range(const dataset_step *step, const cvy_node *node, const char *key,
                              const cvy_real_list *range)
{
    if (range->n != 2) {
        return fail_length(node, step->ops->name, key, range->n, "[least, most]");
    }
    if (range->value[0] <= range->value[1]) return CVY_OK;

    char place[256];
    cvy_node_place(node, place, sizeof place);
    return CVY_FAIL(CVY_ERR_CONFIG, "%s: %s of %s is [%g, %g], the first must not be larger", place,
                    key, step->ops->name, range->value[0], range->value[1]);
}

static cvy_status check_random_resized_crop(dataset_step *step, const cvy_node *node)
{
    /* size is the first member of both structs of the union */
    CVY_RETURN_IF_ERR(check_crop(step, node));
    CVY_RETURN_IF_ERR(check_range(step, node, "scale", &step->args.random_resized_crop.scale));
    return check_range(step, node, "ratio", &step->args.random_resized_crop.ratio);
}

/* Draws: y, x. */
static cvy_status apply_pad_crop(const dataset_step *step, dataset_sample *sample,
                                 cvy_reason *reason)
{
    const int64_t padding = step->args.pad_crop.padding;
    const uint32_t n_places = (uint32_t)(2 * padding + 1);
    const int64_t y = (int64_t)cvy_rng_below(sample->rng, n_places) - padding;
    const int64_t x = (int64_t)cvy_rng_below(sample->rng, n_places) - padding;

    (void)reason;
    dataset_view_move(&sample->view, y, x, sample->view.height, sample->view.width);
    return CVY_OK;
}

/* Draws: whether. */
static cvy_status apply_flip(const dataset_step *step, dataset_sample *sample, cvy_reason *reason)
{
    (void)reason;
    if (cvy_rng_double(sample->rng) < step->args.flip.p) dataset_view_mirror(&sample->view);
    return CVY_OK;
}

static cvy_status resize_to(dataset_sample *sample, const char *name, int64_t height, int64_t width,
                            cvy_reason *reason)
{
    if (sample->view.bytes == NULL) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "%s works on bytes, the record holds floats",
                           name);
    }
    /* A strip of 1 x 65535 pixels can become a huge picture. */
    if (height > sample->max_pixels / width) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "%s of %lld x %lld pixels gives %lld x %lld, max_pixels is %lld", name,
                           (long long)sample->view.width, (long long)sample->view.height,
                           (long long)width, (long long)height, (long long)sample->max_pixels);
    }
    return dataset_view_resize(&sample->view, sample->scratch, height, width);
}

static cvy_status apply_resize(const dataset_step *step, dataset_sample *sample, cvy_reason *reason)
{
    int64_t height = step->height, width = step->width;

    if (width == 0) {
        dataset_resize_shorter(sample->view.height, sample->view.width, step->height, &height,
                               &width);
    }
    return resize_to(sample, step->ops->name, height, width, reason);
}

/* Half of what is over, halves to even; of what is lacking, rounded down: torchvision's rule. */
static int64_t centre(int64_t have, int64_t want)
{
    const int64_t half = (have - want) / 2;

    return have > want && (have - want) % 2 != 0 ? half + half % 2 : half;
}

/* A picture smaller than the crop is padded with zeros on all sides. */
static cvy_status apply_center_crop(const dataset_step *step, dataset_sample *sample,
                                    cvy_reason *reason)
{
    (void)reason;
    dataset_view_move(&sample->view, centre(sample->view.height, step->height),
                      centre(sample->view.width, step->width), step->height, step->width);
    return CVY_OK;
}

/* Draws: y, x. */
static cvy_status apply_random_crop(const dataset_step *step, dataset_sample *sample,
                                    cvy_reason *reason)
{
    const int64_t more_y = sample->view.height - step->height;
    const int64_t more_x = sample->view.width - step->width;

    if (more_y < 0 || more_x < 0) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "picture of %lld x %lld pixels is smaller than random_crop %lld x %lld",
                           (long long)sample->view.width, (long long)sample->view.height,
                           (long long)step->width, (long long)step->height);
    }
    const int64_t y = cvy_rng_below(sample->rng, (uint32_t)more_y + 1);
    const int64_t x = cvy_rng_below(sample->rng, (uint32_t)more_x + 1);
    dataset_view_move(&sample->view, y, x, step->height, step->width);
    return CVY_OK;
}

/* The largest centred part whose proportion is within bounds: when no random one was found. */
static void crop_centre_in_ratio(const cvy_real_list *ratio, dataset_view *view)
{
    const double have = (double)view->width / (double)view->height;
    int64_t height = view->height, width = view->width;

    if (have < ratio->value[0]) {
        height = (int64_t)rint((double)width / ratio->value[0]);
    } else if (have > ratio->value[1]) {
        width = (int64_t)rint((double)height * ratio->value[1]);
    }
    height = height < 1 ? 1 : height;
    width = width < 1 ? 1 : width;
    dataset_view_move(view, (view->height - height) / 2, (view->width - width) / 2, height, width);
}

/* Draws, up to 10 times until the part fits: area, proportion; then, of the one that fits, y, x. */
static cvy_status apply_random_resized_crop(const dataset_step *step, dataset_sample *sample,
                                            cvy_reason *reason)
{
    const cvy_real_list *scale = &step->args.random_resized_crop.scale;
    const cvy_real_list *ratio = &step->args.random_resized_crop.ratio;
    const double least = log(ratio->value[0]), most = log(ratio->value[1]);
    dataset_view *view = &sample->view;
    const double area = (double)view->height * (double)view->width;
    int is_found = 0;

    for (int i = 0; i < 10 && !is_found; i++) {
        const double u = cvy_rng_double(sample->rng), v = cvy_rng_double(sample->rng);
        const double part = area * (scale->value[0] + (scale->value[1] - scale->value[0]) * u);
        const double proportion = exp(least + (most - least) * v);
        const int64_t width = (int64_t)rint(sqrt(part * proportion));
        const int64_t height = (int64_t)rint(sqrt(part / proportion));
        is_found = width > 0 && height > 0 && width <= view->width && height <= view->height;
        if (is_found) {
            const int64_t y = cvy_rng_below(sample->rng, (uint32_t)(view->height - height) + 1);
            const int64_t x = cvy_rng_below(sample->rng, (uint32_t)(view->width - width) + 1);
            dataset_view_move(view, y, x, height, width);
        }
    }
    if (!is_found) crop_centre_in_ratio(ratio, view);
    return resize_to(sample, step->ops->name, step->height, step->width, reason);
}

#define FIELD(step_name, member, ...)                                                              \
    {                                                                                              \
        .offset = offsetof(dataset_step_args, step_name.member), .key = #member, __VA_ARGS__       \
    }
#define TABLE(step_name, member)                                                                   \
    {                                                                                              \
        .name = #step_name, .struct_size = sizeof(dataset_step_args), .scalar_key = #member,       \
        .n_fields = (int)(sizeof step_name##_fields / sizeof step_name##_fields[0]),               \
        .fields = step_name##_fields                                                               \
    }

static const cvy_config_field pad_crop_fields[] = {
    FIELD(pad_crop, padding, .type = CVY_CONFIG_INT, .is_required = 1, .min = 0, .max = MAX_PADDING,
          .unit = "pixels",
          .help = "zeros added on each side before a random crop of the old size"),
};
static const cvy_config_field flip_fields[] = {
    FIELD(flip, p, .type = CVY_CONFIG_REAL, .default_text = "0.5", .min = 0, .max = 1,
          .help = "probability to mirror left and right"),
};
static const cvy_config_field resize_fields[] = {
    FIELD(sized, size, .type = CVY_CONFIG_INT_LIST, .is_required = 1, .min = 1, .max = MAX_SIZE,
          .unit = "pixels", .help = "the shorter side, or [height, width]"),
};
static const cvy_config_field center_crop_fields[] = {
    FIELD(sized, size, .type = CVY_CONFIG_INT_LIST, .is_required = 1, .min = 1, .max = MAX_SIZE,
          .unit = "pixels", .help = "the middle, square or [height, width]"),
};
static const cvy_config_field random_crop_fields[] = {
    FIELD(sized, size, .type = CVY_CONFIG_INT_LIST, .is_required = 1, .min = 1, .max = MAX_SIZE,
          .unit = "pixels", .help = "a random part, square or [height, width]"),
};
static const cvy_config_field random_resized_crop_fields[] = {
    FIELD(random_resized_crop, size, .type = CVY_CONFIG_INT_LIST, .is_required = 1, .min = 1,
          .max = MAX_SIZE, .unit = "pixels", .help = "of the result, square or [height, width]"),
    FIELD(random_resized_crop, scale, .type = CVY_CONFIG_REAL_LIST, .default_text = "[0.08, 1]",
          .min = 1e-6, .max = 1, .help = "least and most share of the area to cut out"),
    FIELD(random_resized_crop, ratio, .type = CVY_CONFIG_REAL_LIST,
          .default_text = "[0.75, 1.3333333333333333]", .min = 0.01, .max = 100,
          .help = "least and most width / height of what is cut out"),
};

static const cvy_config_table pad_crop_table = TABLE(pad_crop, padding);
static const cvy_config_table flip_table = TABLE(flip, p);
static const cvy_config_table resize_table = TABLE(resize, size);
static const cvy_config_table center_crop_table = TABLE(center_crop, size);
static const cvy_config_table random_crop_table = TABLE(random_crop, size);
static const cvy_config_table random_resized_crop_table = TABLE(random_resized_crop, size);

static const dataset_step_ops step_table[] = {
    {"pad_crop", &pad_crop_table, NULL, keep_shape, apply_pad_crop, 0},
    {"flip", &flip_table, NULL, keep_shape, apply_flip, 0},
    {"resize", &resize_table, check_resize, resize_shape, apply_resize, 1},
    {"center_crop", &center_crop_table, check_crop, give_shape, apply_center_crop, 0},
    {"random_crop", &random_crop_table, check_crop, random_crop_shape, apply_random_crop, 0},
    {"random_resized_crop", &random_resized_crop_table, check_random_resized_crop, give_shape,
     apply_random_resized_crop, 1},
};
#define N_STEPS ((int)(sizeof step_table / sizeof step_table[0]))

static cvy_status fail_name(const cvy_node *entry, const char *name)
{
    const char *names[N_STEPS];
    char place[256], list[256] = "";

    for (int i = 0; i < N_STEPS; i++) {
        const size_t used = strlen(list);
        names[i] = step_table[i].name;
        (void)snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ", names[i]);
    }
    cvy_node_place(entry, place, sizeof place);
    const char *near = cvy_nearest_word(names, N_STEPS, name);
    if (near != NULL) {
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: unknown augment step '%s', did you mean '%s'?", place,
                        name, near);
    }
    return CVY_FAIL(CVY_ERR_CONFIG, "%s: unknown augment step '%s', expected one of: %s", place,
                    name, list);
}

cvy_status dataset_step_read(const cvy_node *entry, dataset_step *out)
{
    const cvy_node_kind kind = cvy_node_get_kind(entry);
    const cvy_node *argument = NULL;
    const char *name = NULL;

    if (kind == CVY_NODE_SCALAR && !cvy_node_is_null(entry)) {
        name = cvy_node_text(entry);
    } else if (kind == CVY_NODE_MAPPING && cvy_node_n_items(entry) == 1) {
        name = cvy_node_key(entry, 0);
        argument = cvy_node_item(entry, 0);
    } else {
        char place[256];
        cvy_node_place(entry, place, sizeof place);
        return CVY_FAIL(CVY_ERR_CONFIG,
                        "%s: an augment step is one name with its argument, as in "
                        "[{pad_crop: 4}, {flip: 0.5}]",
                        place);
    }
    for (int i = 0; i < N_STEPS; i++) {
        if (strcmp(step_table[i].name, name) != 0) continue;
        *out = (dataset_step){.ops = &step_table[i]};
        CVY_RETURN_IF_ERR(
            cvy_config_read(out->ops->table, cvy_config_section(argument), &out->args));
        return out->ops->check == NULL ? CVY_OK : out->ops->check(out, entry);
    }
    return fail_name(entry, name);
}

void dataset_pipeline_print_help(FILE *out)
{
    fprintf(out, "\naugment: a list of steps, {name: argument} or {name: {key: value}}\n");
    for (int i = 0; i < N_STEPS; i++) {
        fprintf(out, "%s\n", step_table[i].name);
        cvy_config_print_help(step_table[i].table, out);
    }
}
