/* one file because all steps are tried on one rig, alone and after each other */

#include "tests/support/test_support.h"

#include "tests/dataset/make_jpeg.h"

#include "dataset/augment.h"

#include "base/alloc.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

/* A pipeline on raw or encoded records, with mean 0 and deviation 1 / 255: outputs are bytes. */
typedef struct rig {
    cvy_node *list;
    cvy_job_input input;
    dataset_info info;
    dataset_pipeline *pipeline;
    dataset_scratch *scratch;
} rig;

static void rig_init(rig *r, const char *steps, int64_t c, int64_t h, int64_t w)
{
    *r = (rig){.input = {.max_pixels = 1 << 20},
               .info = {.n_records = 1, .n_classes = 1, .channels = c, .height = h, .width = w}};
    r->input.mean = (cvy_real_list){.n = 1, .value = {0.0}};
    r->input.deviation = (cvy_real_list){.n = 1, .value = {1.0 / 255.0}};
    if (steps != NULL) assert_ok(cvy_node_parse(steps, strlen(steps), "job.yaml", &r->list));
}

static void rig_open(rig *r, const char *steps, int64_t c, int64_t h, int64_t w)
{
    rig_init(r, steps, c, h, w);
    assert_ok(dataset_pipeline_create(r->list, &r->input, &r->info, &r->pipeline));
    assert_ok(dataset_scratch_create(&r->scratch));
}

static void rig_close(rig *r)
{
    dataset_pipeline_destroy(&r->pipeline);
    dataset_scratch_destroy(&r->scratch);
    cvy_node_destroy(&r->list);
}

static void apply(rig *r, const dataset_datum *datum, int64_t position, float *out)
{
    const dataset_sample_key key = {.seed = 5, .epoch = 2, .position = position};
    cvy_reason reason = {""};
    const cvy_status status = dataset_pipeline_apply(r->pipeline, datum, &key, r->scratch, out,
                                                     &reason);

    if (status != CVY_OK) fail_msg("%s", reason.text);
}

static void assert_bad(rig *r, const dataset_datum *datum, const char *part)
{
    const dataset_sample_key key = {.seed = 5, .epoch = 2, .position = 0};
    float out[4096];
    cvy_reason reason = {""};

    assert_status(dataset_pipeline_apply(r->pipeline, datum, &key, r->scratch, out, &reason),
                  CVY_ERR_BAD_DATA);
    if (strstr(reason.text, part) == NULL) fail_msg("'%s' lacks '%s'", reason.text, part);
}

static uint8_t raw_bytes[3 * 6 * 8];
static const uint8_t *raw_pixels(void)
{
    for (size_t i = 0; i < sizeof raw_bytes; i++) raw_bytes[i] = (uint8_t)(1 + i * 7 % 250);
    return raw_bytes;
}

static dataset_datum raw_datum(int64_t c, int64_t h, int64_t w)
{
    return (dataset_datum){.channels = c,
                           .height = h,
                           .width = w,
                           .has_label = 1,
                           .data = raw_pixels(),
                           .data_bytes = (size_t)(c * h * w)};
}

static void assert_near(float got, double want)
{
    if (fabs((double)got - want) > 1e-3) fail_msg("%g, expected %g", (double)got, want);
}

/* out (c, h, w) is the raw record seen through a window with its corner at (y0, x0). */
static void assert_window(const float *out, const dataset_datum *datum, int64_t h, int64_t w,
                          int64_t y0, int64_t x0, int is_mirrored)
{
    for (int64_t i = 0; i < datum->channels * h * w; i++) {
        const int64_t c = i / (h * w), y = y0 + i / w % h;
        const int64_t x = x0 + (is_mirrored ? w - 1 - i % w : i % w);
        const int is_inside = y >= 0 && y < datum->height && x >= 0 && x < datum->width;
        const double want = is_inside ? datum->data[(c * datum->height + y) * datum->width + x]
                                      : 0.0;
        assert_near(out[i], want);
    }
}

static void raw_record_without_steps_is_normalised(void **state)
{
    (void)state;
    rig r;
    float out[3 * 6 * 8];
    const dataset_datum datum = raw_datum(3, 6, 8);

    rig_init(&r, NULL, 3, 6, 8);
    r.input.mean = (cvy_real_list){.n = 3, .value = {0.1, 0.2, 0.3}};
    r.input.deviation = (cvy_real_list){.n = 3, .value = {0.5, 0.25, 0.125}};
    assert_ok(dataset_pipeline_create(NULL, &r.input, &r.info, &r.pipeline));
    assert_ok(dataset_scratch_create(&r.scratch));
    apply(&r, &datum, 0, out);
    for (int i = 0; i < 3 * 6 * 8; i++) {
        const int c = i / 48;
        const double want = (datum.data[i] / 255.0 - r.input.mean.value[c]) /
                            r.input.deviation.value[c];
        assert_true(fabs((double)out[i] - want) < 1e-5);
    }
    rig_close(&r);
}

static void pad_crop_draws_y_then_x(void **state)
{
    (void)state;
    rig r;
    float out[3 * 6 * 8];
    int64_t least = 9, most = -9;
    const dataset_datum datum = raw_datum(3, 6, 8);

    rig_open(&r, "[{pad_crop: 4}]", 3, 6, 8);
    for (int64_t position = 0; position < 50; position++) {
        cvy_rng rng = cvy_rng_open(5, CVY_RNG_AUGMENT, 2, (uint64_t)position);
        const int64_t y = (int64_t)cvy_rng_below(&rng, 9) - 4;
        const int64_t x = (int64_t)cvy_rng_below(&rng, 9) - 4;
        apply(&r, &datum, position, out);
        assert_window(out, &datum, 6, 8, y, x, 0);
        least = x < least ? x : least;
        most = x > most ? x : most;
    }
    assert_int_equal(least, -4);
    assert_int_equal(most, 4);
    rig_close(&r);
}

static void flip_mirrors_with_its_probability(void **state)
{
    (void)state;
    rig r;
    float out[6 * 8];
    int n_flipped = 0;
    const dataset_datum datum = raw_datum(1, 6, 8);

    rig_open(&r, "[{flip: 0.25}]", 1, 6, 8);
    for (int64_t position = 0; position < 400; position++) {
        cvy_rng rng = cvy_rng_open(5, CVY_RNG_AUGMENT, 2, (uint64_t)position);
        const int is_flipped = cvy_rng_double(&rng) < 0.25;
        apply(&r, &datum, position, out);
        assert_window(out, &datum, 6, 8, 0, 0, is_flipped);
        n_flipped += is_flipped;
    }
    assert_in_range(n_flipped, 70, 130);
    rig_close(&r);
}

static void crop_after_flip_keeps_what_was_cut_off_away(void **state)
{
    (void)state;
    rig r;
    float out[6 * 7];
    const dataset_datum datum = raw_datum(1, 6, 8);

    /* mirror, cut the middle 2 x 3, then widen again: the rest must be zeros, not old pixels */
    rig_open(&r, "[{flip: 1}, {center_crop: [2, 3]}, {center_crop: [6, 7]}]", 1, 6, 8);
    apply(&r, &datum, 0, out);
    for (int y = 0; y < 6; y++) {
        for (int x = 0; x < 7; x++) {
            const int is_kept = y >= 2 && y < 4 && x >= 2 && x < 5;
            /* the mirrored middle: half of 5 is 2, so columns 2 to 4 of 7 - x */
            const double want = is_kept ? datum.data[y * 8 + 7 - x] : 0.0;
            assert_near(out[y * 7 + x], want);
        }
    }
    rig_close(&r);
}

static void center_crop_rounds_as_torchvision(void **state)
{
    (void)state;
    /* of 6 x 8: 6-3 = 3, half 1.5 -> 2; 8-3 = 5, half 2.5 -> 2; larger ones are padded */
    static const struct {
        const char *steps;
        int64_t h, w, y, x;
    } cases[] = {{"[{center_crop: 3}]", 3, 3, 2, 2},
                 {"[{center_crop: [4, 2]}]", 4, 2, 1, 3},
                 {"[{center_crop: [9, 8]}]", 9, 8, -1, 0},
                 {"[{center_crop: 1}]", 1, 1, 2, 4}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rig r;
        float out[128];
        int64_t c = 0, h = 0, w = 0;
        const dataset_datum datum = raw_datum(1, 6, 8);
        rig_open(&r, cases[i].steps, 1, 6, 8);
        dataset_pipeline_shape(r.pipeline, &c, &h, &w);
        assert_int_equal(h, cases[i].h);
        assert_int_equal(w, cases[i].w);
        apply(&r, &datum, 0, out);
        assert_window(out, &datum, h, w, cases[i].y, cases[i].x, 0);
        rig_close(&r);
    }
}

static void random_crop_reaches_all_places(void **state)
{
    (void)state;
    rig r;
    float out[4 * 5];
    int seen[3 * 4] = {0};
    const dataset_datum datum = raw_datum(1, 6, 8);

    rig_open(&r, "[{random_crop: [4, 5]}]", 1, 6, 8);
    for (int64_t position = 0; position < 200; position++) {
        cvy_rng rng = cvy_rng_open(5, CVY_RNG_AUGMENT, 2, (uint64_t)position);
        const int64_t y = cvy_rng_below(&rng, 3), x = cvy_rng_below(&rng, 4);
        apply(&r, &datum, position, out);
        assert_window(out, &datum, 4, 5, y, x, 0);
        seen[y * 4 + x] = 1;
    }
    for (int i = 0; i < 12; i++) assert_true(seen[i]);
    rig_close(&r);
}

static void resize_equals_the_resizer(void **state)
{
    (void)state;
    rig r;
    float out[3 * 4 * 5];
    uint8_t pixels[6 * 8 * 3];
    dataset_image from = {.height = 6, .width = 8, .channels = 3, .pixels = pixels}, to = {0};
    const dataset_datum datum = raw_datum(3, 6, 8);

    for (int i = 0; i < 48; i++) {
        for (int c = 0; c < 3; c++) pixels[3 * i + c] = datum.data[c * 48 + i];
    }
    assert_ok(dataset_image_resize(&from, 4, 5, &to)); /* 4 * 8 / 6 = 5 */
    rig_open(&r, "[{resize: 4}]", 3, 6, 8);
    apply(&r, &datum, 0, out);
    for (int i = 0; i < 20; i++) {
        for (int c = 0; c < 3; c++) assert_near(out[c * 20 + i], to.pixels[3 * i + c]);
    }
    rig_close(&r);
    dataset_image_free(&to);
}

static void resize_after_flip_and_padding_sees_them(void **state)
{
    (void)state;
    rig r;
    float out[3 * 8];
    uint8_t pixels[8 * 8] = {0};
    dataset_image from = {.height = 8, .width = 8, .channels = 1, .pixels = pixels}, to = {0};
    const dataset_datum datum = raw_datum(1, 6, 8);

    for (int i = 0; i < 48; i++) pixels[8 + i / 8 * 8 + 7 - i % 8] = datum.data[i];
    assert_ok(dataset_image_resize(&from, 3, 8, &to));
    rig_open(&r, "[{flip: 1}, {center_crop: 8}, {resize: [3, 8]}]", 1, 6, 8);
    apply(&r, &datum, 0, out);
    for (int i = 0; i < 24; i++) assert_near(out[i], to.pixels[i]);
    rig_close(&r);
    dataset_image_free(&to);
}

/* A picture whose red is its column and green its row: where a pixel came from can be read off. */
static void random_resized_crop_stays_within_its_bounds(void **state)
{
    (void)state;
    static uint8_t bytes[3 * 60 * 80];
    rig r;
    float out[3 * 16 * 16];
    dataset_datum datum = {
        .channels = 3, .height = 60, .width = 80, .data = bytes, .data_bytes = sizeof bytes};
    double least = 1e9, most = 0.0;

    for (int i = 0; i < 4800; i++) {
        bytes[i] = (uint8_t)(i % 80);
        bytes[4800 + i] = (uint8_t)(i / 80);
    }
    rig_open(&r, "[{random_resized_crop: {size: 16, scale: [0.25, 0.5]}}]", 3, 60, 80);
    for (int64_t position = 0; position < 300; position++) {
        apply(&r, &datum, position, out);
        const double width = (double)(out[15] - out[0]) * 16.0 / 15.0;
        const double height = (double)(out[256 + 240] - out[256]) * 16.0 / 15.0;
        assert_in_range((int)(width / height * 100), 60, 160); /* 3/4 to 4/3, and bytes */
        const double share = width * height / 4800.0;
        least = share < least ? share : least;
        most = share > most ? share : most;
    }
    assert_true(least > 0.2 && least < 0.3);
    assert_true(most > 0.45 && most < 0.56);
    rig_close(&r);
}

static void random_resized_crop_of_a_strip_takes_its_middle(void **state)
{
    (void)state;
    static uint8_t bytes[100];
    rig r;
    float out[9];
    const dataset_datum datum = {
        .channels = 1, .height = 1, .width = 100, .data = bytes, .data_bytes = sizeof bytes};

    for (int i = 0; i < 100; i++) bytes[i] = (uint8_t)i;
    rig_open(&r, "[{random_resized_crop: {size: 3, scale: [1, 1], ratio: [1, 1]}}]", 1, 1, 100);
    apply(&r, &datum, 0, out);
    for (int i = 0; i < 9; i++) assert_near(out[i], 49.0); /* (100 - 1) / 2 */
    rig_close(&r);
}

static void samples_depend_on_their_key_alone(void **state)
{
    (void)state;
    rig r, other;
    float first[3 * 48], again[3 * 48];
    const dataset_datum datum = raw_datum(3, 6, 8);
    const char *steps = "[{pad_crop: 2}, {flip: 0.5}, {random_resized_crop: [6, 8]}]";
    int n_same = 0;

    rig_open(&r, steps, 3, 6, 8);
    rig_open(&other, steps, 3, 6, 8);
    for (int64_t position = 0; position < 20; position++) {
        apply(&r, &datum, position, first);
        apply(&other, &datum, 19 - position, again);
        apply(&other, &datum, position, again);
        assert_memory_equal(first, again, sizeof first);
        apply(&other, &datum, position + 1, again);
        n_same += memcmp(first, again, sizeof first) == 0;
    }
    assert_int_equal(n_same, 0);
    rig_close(&r);
    rig_close(&other);
}

static void bgr_records_come_out_rgb(void **state)
{
    (void)state;
    rig r;
    float out[3 * 48];
    const dataset_datum datum = raw_datum(3, 6, 8);

    rig_init(&r, NULL, 3, 6, 8);
    r.input.channel_order = 1;
    assert_ok(dataset_pipeline_create(NULL, &r.input, &r.info, &r.pipeline));
    assert_ok(dataset_scratch_create(&r.scratch));
    apply(&r, &datum, 0, out);
    for (int i = 0; i < 144; i++) assert_near(out[i], datum.data[(2 - i / 48) * 48 + i % 48]);
    rig_close(&r);
}

static void grey_and_colour_records_are_converted(void **state)
{
    (void)state;
    rig r;
    float out[3 * 48];
    const dataset_datum grey = raw_datum(1, 6, 8), colour = raw_datum(3, 6, 8);

    rig_open(&r, NULL, 0, 6, 8); /* channels differ: colour */
    apply(&r, &grey, 0, out);
    for (int i = 0; i < 144; i++) assert_near(out[i], grey.data[i % 48]);
    rig_close(&r);
    rig_open(&r, NULL, 1, 6, 8);
    apply(&r, &colour, 0, out);
    for (int i = 0; i < 48; i++) {
        const uint8_t *p = colour.data + i;
        assert_near(out[i], floor(0.299 * p[0] + 0.587 * p[48] + 0.114 * p[96] + 0.5));
    }
    rig_close(&r);
}

static void float_records_are_taken_as_they_are(void **state)
{
    (void)state;
    rig r;
    float values[2 * 12], out[2 * 12];
    const dataset_datum datum = {
        .channels = 2, .height = 3, .width = 4, .float_data = values, .n_floats = 24};

    for (int i = 0; i < 24; i++) values[i] = -1.5f + 0.25f * (float)i;
    rig_init(&r, "[{flip: 1}]", 2, 3, 4);
    r.input.mean = (cvy_real_list){.n = 2, .value = {0.5, -0.5}};
    r.input.deviation = (cvy_real_list){.n = 2, .value = {2.0, 4.0}};
    assert_ok(dataset_pipeline_create(r.list, &r.input, &r.info, &r.pipeline));
    assert_ok(dataset_scratch_create(&r.scratch));
    apply(&r, &datum, 0, out);
    for (int i = 0; i < 24; i++) {
        const int c = i / 12, from = i - i % 4 + 3 - i % 4;
        const double want = ((double)values[from] - (c == 0 ? 0.5 : -0.5)) / (c == 0 ? 2.0 : 4.0);
        assert_near(out[i], want);
    }
    rig_close(&r);
}

static void encoded_record_equals_its_pixels(void **state)
{
    (void)state;
    const make_jpeg want = {.width = 40, .height = 30, .components = 3, .quality = 90};
    const dataset_decode_options decode = {.max_pixels = 1 << 20, .channels = 3};
    dataset_image image = {0};
    cvy_reason reason;
    rig r;
    static float out[3 * 16 * 12];
    dataset_datum datum = {.is_encoded = 1};
    uint8_t *file = make_jpeg_file(&want, &datum.data_bytes);

    datum.data = file;
    assert_ok(dataset_image_decode(file, datum.data_bytes, &decode, &image, &reason));
    rig_init(&r, "[{flip: 1}, {random_crop: [16, 12]}]", 0, 0, 0);
    r.info.is_encoded = 1;
    assert_ok(dataset_pipeline_create(r.list, &r.input, &r.info, &r.pipeline));
    assert_ok(dataset_scratch_create(&r.scratch));
    apply(&r, &datum, 3, out);
    cvy_rng rng = cvy_rng_open(5, CVY_RNG_AUGMENT, 2, 3);
    (void)cvy_rng_double(&rng);
    const int y0 = (int)cvy_rng_below(&rng, 30 - 16 + 1);
    const int x0 = (int)cvy_rng_below(&rng, 40 - 12 + 1);
    for (int i = 0; i < 3 * 16 * 12; i++) {
        const int c = i / 192, y = y0 + i / 12 % 16, x = 39 - (x0 + i % 12);
        assert_near(out[i], image.pixels[(y * 40 + x) * 3 + c]);
    }
    rig_close(&r);
    dataset_image_free(&image);
    free(file);
}

static void unfit_records_are_bad_with_the_reason(void **state)
{
    (void)state;
    rig r;
    float values[48] = {0};
    static uint8_t strip[2000];
    dataset_datum datum = raw_datum(1, 5, 8);

    rig_open(&r, NULL, 1, 6, 8);
    assert_bad(&r, &datum, "8 x 5 pixels, 8 x 6 expected");
    datum = raw_datum(2, 6, 8);
    assert_bad(&r, &datum, "2 channels, 1 expected");
    datum = raw_datum(1, 6, 8);
    datum.depth = 3;
    assert_bad(&r, &datum, "a volume of depth 3");
    datum = (dataset_datum){.is_encoded = 1, .data = (const uint8_t *)"GIF89a", .data_bytes = 6};
    assert_bad(&r, &datum, "GIF");
    rig_close(&r);

    rig_open(&r, "[{random_crop: 7}]", 1, 0, 0);
    datum = raw_datum(1, 6, 8);
    assert_bad(&r, &datum, "smaller than random_crop 7 x 7");
    rig_close(&r);

    rig_open(&r, "[{resize: 4}, {center_crop: 4}]", 1, 0, 0);
    datum = (dataset_datum){
        .channels = 1, .height = 6, .width = 8, .float_data = values, .n_floats = 48};
    assert_bad(&r, &datum, "resize works on bytes");
    rig_close(&r);

    rig_open(&r, "[{resize: 60}, {center_crop: 4}]", 1, 0, 0);
    datum = (dataset_datum){
        .channels = 1, .height = 1, .width = 2000, .data = strip, .data_bytes = 2000};
    assert_bad(&r, &datum, "max_pixels is 1048576");
    rig_close(&r);
}

static void wrong_lists_are_named_with_place_and_nearest(void **state)
{
    (void)state;
    static const struct {
        const char *steps, *message;
    } cases[] = {
        {"[{pad_crup: 4}]", "unknown augment step 'pad_crup', did you mean 'pad_crop'?"},
        {"[{blurrrr: 4}]", "expected one of: pad_crop, flip, resize, center_crop, random_crop, "},
        {"[{pad_crop: -1}]", "job.yaml:1:13"},
        {"[{flip: 1.5}]", "job.yaml:1:9"},
        {"[pad_crop]", "padding is missing"},
        {"[{flip: 0.5, pad_crop: 4}]", "is one name with its argument"},
        {"[[1, 2]]", "is one name with its argument"},
        {"{flip: 0.5}", "augment is a list of steps"},
        {"[{resize: [1, 2, 3]}]", "size of resize has 3 numbers"},
        {"[{random_resized_crop: {size: 8, scale: [0.5, 0.1]}}]", "the first must not be larger"},
        {"[{random_resized_crop: {size: 8, sale: [0.5, 0.1]}}]", "did you mean 'scale'?"},
        {"[{random_resized_crop: {size: 8, ratio: [1]}}]", "ratio of random_resized_crop has 1"},
        {"[{random_crop: 7}]", "random_crop of 7 x 7 (height x width) is larger than the pictures"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rig r;
        rig_init(&r, cases[i].steps, 1, 6, 8);
        test_log_expect(cases[i].message);
        assert_status(dataset_pipeline_create(r.list, &r.input, &r.info, &r.pipeline),
                      CVY_ERR_CONFIG);
        assert_null(r.pipeline);
        rig_close(&r);
    }
}

static void differing_sizes_without_a_step_are_refused(void **state)
{
    (void)state;
    static const char *const lists[] = {NULL, "[{flip: 0.5}]", "[{resize: 8}]"};

    for (int i = 0; i < 3; i++) {
        rig r;
        rig_init(&r, lists[i], 3, 0, 0);
        test_log_expect("the records differ in size");
        assert_status(dataset_pipeline_create(r.list, &r.input, &r.info, &r.pipeline),
                      CVY_ERR_CONFIG);
        rig_close(&r);
    }
    rig r;
    rig_open(&r, "[{resize: 8}, {center_crop: 8}]", 3, 0, 0);
    rig_close(&r);
}

static void wrong_statistics_are_refused(void **state)
{
    (void)state;
    rig r;

    rig_init(&r, NULL, 3, 6, 8);
    r.input.mean.n = 2;
    test_log_expect("data.mean has 2 numbers, the records have 3 channels");
    assert_status(dataset_pipeline_create(NULL, &r.input, &r.info, &r.pipeline), CVY_ERR_CONFIG);
    r.input.mean.n = 1;
    r.input.deviation.value[0] = 0.0;
    test_log_expect("a deviation above 0");
    assert_status(dataset_pipeline_create(NULL, &r.input, &r.info, &r.pipeline), CVY_ERR_CONFIG);
    r.info.channels = 17;
    test_log_expect("17 channels, at most 16");
    assert_status(dataset_pipeline_create(NULL, &r.input, &r.info, &r.pipeline), CVY_ERR_CONFIG);
}

static void statistics_come_from_the_manifest_or_are_the_usual(void **state)
{
    (void)state;
    const double *mean = NULL, *deviation = NULL;
    rig r;

    rig_init(&r, NULL, 3, 6, 8);
    r.input.mean.n = r.input.deviation.n = 0;
    assert_ok(dataset_pipeline_create(NULL, &r.input, &r.info, &r.pipeline));
    assert_true(test_log_saw("taking ImageNet's"));
    dataset_pipeline_stats(r.pipeline, &mean, &deviation);
    assert_true(mean[0] == 0.485 && deviation[2] == 0.225);
    dataset_pipeline_destroy(&r.pipeline);

    r.info.n_channels_stat = 3;
    r.info.mean[1] = 0.25;
    r.info.deviation[1] = 0.75; /* the others never vary */
    assert_ok(dataset_pipeline_create(NULL, &r.input, &r.info, &r.pipeline));
    dataset_pipeline_stats(r.pipeline, &mean, &deviation);
    assert_true(mean[1] == 0.25 && deviation[1] == 0.75 && deviation[0] == 1.0);
    dataset_pipeline_destroy(&r.pipeline);
}

static void image_of_a_record_is_for_people(void **state)
{
    (void)state;
    dataset_image image = {0};
    cvy_reason reason;
    float values[4] = {-1.0f, 0.0f, 1.0f, NAN};
    dataset_datum datum = raw_datum(3, 6, 8);

    assert_ok(dataset_datum_to_image(&datum, 1, 100, &image, &reason)); /* BGR */
    assert_int_equal(image.channels, 3);
    assert_int_equal(image.pixels[0], datum.data[96]);
    datum = raw_datum(2, 6, 8);
    assert_ok(dataset_datum_to_image(&datum, 0, 100, &image, &reason));
    assert_int_equal(image.channels, 1);
    assert_memory_equal(image.pixels, datum.data, 48);
    datum = raw_datum(1, 4, 8); /* 4 slices of 4 x 8: the third */
    datum.depth = 4;
    assert_ok(dataset_datum_to_image(&datum, 0, 100, &image, &reason));
    assert_memory_equal(image.pixels, datum.data + 64, 32);
    datum = (dataset_datum){
        .channels = 1, .height = 1, .width = 4, .float_data = values, .n_floats = 4};
    assert_ok(dataset_datum_to_image(&datum, 0, 100, &image, &reason));
    assert_int_equal(image.pixels[0], 0);
    assert_int_equal(image.pixels[1], 128);
    assert_int_equal(image.pixels[2], 255);
    assert_int_equal(image.pixels[3], 0);
    dataset_image_free(&image);
}

static void warm_pipeline_allocates_nothing(void **state)
{
    (void)state;
    cvy_alloc_counts before, after;
    rig r;
    float out[3 * 49];
    const dataset_datum datum = raw_datum(3, 6, 8);

    rig_open(&r, "[{pad_crop: 1}, {flip: 0.5}, {random_resized_crop: 7}]", 3, 6, 8);
    apply(&r, &datum, 0, out);
    cvy_alloc_count(&before);
    for (int64_t position = 0; position < 50; position++) apply(&r, &datum, position, out);
    cvy_alloc_count(&after);
    assert_int_equal(after.n_ever, before.n_ever);
    rig_close(&r);
}

static void failed_allocation_reports_no_memory(void **state)
{
    (void)state;
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;
    int k = 0;

    test_log_expect("(out of memory)"); /* stands for every line */
    for (; status == CVY_ERR_NO_MEMORY; k++) {
        const dataset_datum datum = raw_datum(3, 6, 8);
        const dataset_sample_key key = {.seed = 5};
        cvy_reason reason = {""};
        float out[3 * 49];
        rig r;
        cvy_alloc_count(&before);
        rig_init(&r, "[{flip: 1}, {resize: 7}, {center_crop: 7}]", 3, 6, 8);
        cvy_alloc_fail_at(k);
        status = dataset_pipeline_create(r.list, &r.input, &r.info, &r.pipeline);
        if (status == CVY_OK) status = dataset_scratch_create(&r.scratch);
        if (status == CVY_OK) {
            status = dataset_pipeline_apply(r.pipeline, &datum, &key, r.scratch, out, &reason);
        }
        cvy_alloc_fail_at(-1);
        rig_close(&r);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
    assert_ok(status);
    assert_true(k > 5);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(raw_record_without_steps_is_normalised),
        cvy_unit_test(pad_crop_draws_y_then_x),
        cvy_unit_test(flip_mirrors_with_its_probability),
        cvy_unit_test(crop_after_flip_keeps_what_was_cut_off_away),
        cvy_unit_test(center_crop_rounds_as_torchvision),
        cvy_unit_test(random_crop_reaches_all_places),
        cvy_unit_test(resize_equals_the_resizer),
        cvy_unit_test(resize_after_flip_and_padding_sees_them),
        cvy_unit_test(random_resized_crop_stays_within_its_bounds),
        cvy_unit_test(random_resized_crop_of_a_strip_takes_its_middle),
        cvy_unit_test(samples_depend_on_their_key_alone),
        cvy_unit_test(bgr_records_come_out_rgb),
        cvy_unit_test(grey_and_colour_records_are_converted),
        cvy_unit_test(float_records_are_taken_as_they_are),
        cvy_unit_test(encoded_record_equals_its_pixels),
        cvy_unit_test(unfit_records_are_bad_with_the_reason),
        cvy_unit_test(wrong_lists_are_named_with_place_and_nearest),
        cvy_unit_test(differing_sizes_without_a_step_are_refused),
        cvy_unit_test(wrong_statistics_are_refused),
        cvy_unit_test(statistics_come_from_the_manifest_or_are_the_usual),
        cvy_unit_test(image_of_a_record_is_for_people),
        cvy_unit_test(warm_pipeline_allocates_nothing),
        cvy_unit_test(failed_allocation_reports_no_memory),
    };
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
