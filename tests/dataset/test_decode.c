#include "tests/support/test_support.h"

#include "tests/dataset/make_jpeg.h"

#include "dataset/image.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/rng.h"

#include <spng.h>

#define MAX_PIXELS ((int64_t)64 << 20)

static cvy_status decode(const uint8_t *file, size_t size, int channels, dataset_image *image,
                         cvy_reason *reason)
{
    const dataset_decode_options options = {.max_pixels = MAX_PIXELS, .channels = channels};

    reason->text[0] = '\0';
    return dataset_image_decode(file, size, &options, image, reason);
}

static void assert_refused(const uint8_t *file, size_t size, const char *part)
{
    dataset_image image = {0};
    cvy_reason reason;

    assert_status(decode(file, size, 3, &image, &reason), CVY_ERR_BAD_DATA);
    if (strstr(reason.text, part) == NULL) fail_msg("'%s' lacks '%s'", reason.text, part);
    dataset_image_free(&image);
}

static void assert_close(const dataset_image *image, int tolerance)
{
    for (int y = 0; y < image->height; y++) {
        for (int x = 0; x < image->width; x++) {
            for (int c = 0; c < 3; c++) {
                const int got = image->pixels[(y * image->width + x) * 3 + c];
                const int want = make_pixel(x, y, c);
                if (abs(got - want) > tolerance) fail_msg("(%d,%d,%d): %d, %d", x, y, c, got, want);
            }
        }
    }
}

static const make_jpeg plain = {.width = 37, .height = 21, .components = 3, .quality = 95};

static void baseline_and_progressive_files_give_their_pixels(void **state)
{
    (void)state;
    dataset_image image = {0};
    cvy_reason reason;
    make_jpeg kinds[4] = {plain, plain, plain, plain};
    kinds[1].is_progressive = 1;
    kinds[2].is_scan_by_scan = 1;
    kinds[3].stored = JCS_RGB;

    for (int i = 0; i < 4; i++) {
        size_t size = 0;
        uint8_t *file = make_jpeg_file(&kinds[i], &size);
        assert_ok(decode(file, size, 3, &image, &reason));
        assert_int_equal(image.width, 37);
        assert_int_equal(image.height, 21);
        assert_int_equal(image.channels, 3);
        assert_close(&image, 10);
        free(file);
    }
    dataset_image_free(&image);
}

static void grey_file_as_colour_repeats_it(void **state)
{
    (void)state;
    const make_jpeg grey = {.width = 16, .height = 9, .components = 1, .quality = 95};
    dataset_image one = {0}, three = {0}, own = {0};
    cvy_reason reason;
    size_t size = 0;
    uint8_t *file = make_jpeg_file(&grey, &size);

    assert_ok(decode(file, size, 1, &one, &reason));
    assert_ok(decode(file, size, 3, &three, &reason));
    assert_ok(decode(file, size, 0, &own, &reason));
    assert_int_equal(own.channels, 1);
    for (int i = 0; i < 16 * 9; i++) {
        for (int c = 0; c < 3; c++) assert_int_equal(three.pixels[3 * i + c], one.pixels[i]);
    }
    free(file);
    dataset_image_free(&one);
    dataset_image_free(&three);
    dataset_image_free(&own);
}

static void colour_file_as_grey_is_its_luma(void **state)
{
    (void)state;
    make_jpeg kinds[2] = {plain, plain};
    kinds[1].stored = JCS_RGB;

    for (int i = 0; i < 2; i++) {
        dataset_image grey = {0}, colour = {0};
        cvy_reason reason;
        size_t size = 0;
        uint8_t *file = make_jpeg_file(&kinds[i], &size);
        assert_ok(decode(file, size, 1, &grey, &reason));
        assert_ok(decode(file, size, 3, &colour, &reason));
        assert_int_equal(grey.channels, 1);
        for (int p = 0; p < 37 * 21; p++) {
            const uint8_t *rgb = colour.pixels + 3 * p;
            const double luma = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
            assert_true(abs(grey.pixels[p] - (int)(luma + 0.5)) <= 2); /* chroma is clipped */
        }
        free(file);
        dataset_image_free(&grey);
        dataset_image_free(&colour);
    }
}

static void cmyk_and_ycck_files_are_converted(void **state)
{
    (void)state;
    make_jpeg want = {.width = 20, .height = 10, .components = 4, .quality = 100};

    for (int i = 0; i < 2; i++) {
        dataset_image image = {0};
        cvy_reason reason;
        size_t size = 0;
        want.stored = i == 0 ? JCS_CMYK : JCS_YCCK;
        uint8_t *file = make_jpeg_file(&want, &size);
        assert_ok(decode(file, size, 3, &image, &reason));
        for (int y = 0; y < 10; y++) {
            for (int x = 0; x < 20; x++) {
                for (int c = 0; c < 3; c++) { /* as Adobe: 255 is no ink */
                    const int light = make_pixel(x, y, c) * make_pixel(x, y, 3) / 255;
                    assert_true(abs(image.pixels[(y * 20 + x) * 3 + c] - light) <= 6);
                }
            }
        }
        free(file);
        dataset_image_free(&image);
    }
}

static void truncated_jpeg_is_bad_at_every_length(void **state)
{
    (void)state;
    dataset_image image = {0};
    cvy_reason reason;

    for (int is_progressive = 0; is_progressive < 2; is_progressive++) {
        make_jpeg want = plain;
        size_t size = 0;
        want.is_progressive = is_progressive;
        uint8_t *file = make_jpeg_file(&want, &size);
        for (size_t n = 0; n < size; n++) {
            uint8_t *cut = malloc(n + 1); /* so that a sanitizer sees a read past the end */
            memcpy(cut, file, n);
            if (decode(cut, n, 3, &image, &reason) != CVY_ERR_BAD_DATA) fail_msg("cut at %zu", n);
            assert_true(reason.text[0] != '\0');
            free(cut);
        }
        free(file);
    }
    dataset_image_free(&image);
}

static void damaged_bytes_never_crash(void **state)
{
    (void)state;
    dataset_image image = {0};
    cvy_reason reason;
    cvy_rng rng = cvy_rng_open(1, CVY_RNG_TEST, 0, 0);
    int n_bad = 0;

    for (int is_progressive = 0; is_progressive < 2; is_progressive++) {
        make_jpeg want = plain;
        size_t size = 0;
        want.is_progressive = is_progressive;
        uint8_t *file = make_jpeg_file(&want, &size);
        for (int i = 0; i < 1000; i++) {
            const uint32_t at = cvy_rng_below(&rng, (uint32_t)size);
            const uint8_t before = file[at];
            file[at] = (uint8_t)cvy_rng_u32(&rng);
            const cvy_status status = decode(file, size, 3, &image, &reason);
            assert_true(status == CVY_OK || status == CVY_ERR_BAD_DATA);
            n_bad += status == CVY_ERR_BAD_DATA;
            file[at] = before;
        }
        free(file);
    }
    assert_in_range(n_bad, 100, 1990);
    dataset_image_free(&image);
}

/* Set the frame header's dimensions. */
static void set_size(uint8_t *file, size_t size, int sof, int height, int width)
{
    const long at = find_marker(file, size, sof, 0);

    assert_true(at > 0);
    file[at + 5] = (uint8_t)(height >> 8);
    file[at + 6] = (uint8_t)height;
    file[at + 7] = (uint8_t)(width >> 8);
    file[at + 8] = (uint8_t)width;
}

static void huge_dimensions_are_refused_before_decoding(void **state)
{
    (void)state;
    for (int is_progressive = 0; is_progressive < 2; is_progressive++) {
        make_jpeg want = plain;
        size_t size = 0;
        dataset_image image = {0};
        cvy_reason reason;
        double least_s = 1e9;
        want.is_progressive = is_progressive;
        uint8_t *file = make_jpeg_file(&want, &size);
        set_size(file, size, is_progressive ? 0xc2 : 0xc0, 65500, 65500);
        for (int i = 0; i < 10; i++) {
            const double start_s = cvy_clock_now_s();
            assert_status(decode(file, size, 3, &image, &reason), CVY_ERR_BAD_DATA);
            const double took_s = cvy_clock_now_s() - start_s;
            least_s = took_s < least_s ? took_s : least_s;
        }
        assert_non_null(strstr(reason.text, "65500 x 65500"));
        assert_null(image.pixels); /* nothing was asked for */
        assert_true(least_s < 1e-3);
        free(file);
    }
}

static void pixel_limit_is_exact(void **state)
{
    (void)state;
    dataset_decode_options options = {.max_pixels = 37 * 21, .channels = 3};
    dataset_image image = {0};
    cvy_reason reason = {""};
    size_t size = 0;
    uint8_t *file = make_jpeg_file(&plain, &size);

    assert_ok(dataset_image_decode(file, size, &options, &image, &reason));
    options.max_pixels--;
    assert_status(dataset_image_decode(file, size, &options, &image, &reason), CVY_ERR_BAD_DATA);
    assert_non_null(strstr(reason.text, "max_pixels is 776"));
    free(file);
    dataset_image_free(&image);
}

static void scan_flood_is_refused_at_the_limit(void **state)
{
    (void)state;
    make_jpeg want = plain;
    size_t size = 0;
    dataset_image image = {0};
    cvy_reason reason;
    want.is_scan_by_scan = 1;
    uint8_t *file = make_jpeg_file(&want, &size);
    const size_t last = (size_t)find_marker(file, size, 0xda, 1);
    const size_t scan_bytes = size - 2 - last; /* without the end marker */

    for (int n_more = 97; n_more <= 98; n_more++) { /* 3 + 97 scans are the limit */
        const size_t n = size + (size_t)n_more * scan_bytes;
        uint8_t *flood = malloc(n);
        memcpy(flood, file, size - 2);
        for (int i = 0; i < n_more; i++) {
            memcpy(flood + size - 2 + (size_t)i * scan_bytes, file + last, scan_bytes);
        }
        memcpy(flood + n - 2, file + size - 2, 2);
        if (n_more == 97) {
            assert_ok(decode(flood, n, 3, &image, &reason));
        } else {
            assert_refused(flood, n, "more than 100 scans");
        }
        free(flood);
    }
    free(file);
    dataset_image_free(&image);
}

static void unsupported_kinds_are_refused_with_the_reason(void **state)
{
    (void)state;
    const make_jpeg two = {.width = 8, .height = 8, .components = 2, .quality = 90};
    size_t size = 0;
    uint8_t *file = make_jpeg_file(&two, &size);
    assert_refused(file, size, "2 components");
    free(file);

    file = make_jpeg_file(&plain, &size);
    const long sof = find_marker(file, size, 0xc0, 0);
    file[sof + 4] = 12;
    assert_refused(file, size, "precision 12");
    file[sof + 4] = 8;
    file[sof + 1] = 0xc9;
    assert_refused(file, size, "arithmetic");
    file[sof + 1] = 0xc3;
    assert_refused(file, size, "SOF type 0xc3");
    free(file);
}

/* Without Huffman tables the library takes the standard ones, as motion JPEG wants it. */
static void missing_tables_are_refused(void **state)
{
    (void)state;
    size_t size = 0;
    uint8_t *file = make_jpeg_file(&plain, &size);
    const long scan = find_marker(file, size, 0xda, 0);

    file[scan + 6] = 0x33; /* of the first component: tables 3 and 3 */
    assert_refused(file, size, "Huffman table 0x03 was not defined");
    file[scan + 6] = 0x00;
    for (long at = find_marker(file, size, 0xdb, 0); at >= 0;
         at = find_marker(file, size, 0xdb, 0)) {
        file[at + 1] = 0xfe; /* quantisation tables become comments */
    }
    assert_refused(file, size, "Quantization table 0x00 was not defined");
    free(file);
}

static void long_comments_are_passed_over(void **state)
{
    (void)state;
    const size_t n_comments = 100, comment_bytes = 65537;
    dataset_image image = {0};
    cvy_reason reason;
    size_t size = 0;
    uint8_t *file = make_jpeg_file(&plain, &size);
    const size_t n = size + n_comments * comment_bytes;
    uint8_t *larger = calloc(n, 1);

    memcpy(larger, file, 2);
    for (size_t i = 0; i < n_comments; i++) {
        static const uint8_t head[4] = {0xff, 0xfe, 0xff, 0xff}; /* 65535 bytes with the length */
        memcpy(larger + 2 + i * comment_bytes, head, sizeof head);
    }
    memcpy(larger + 2 + n_comments * comment_bytes, file + 2, size - 2);
    assert_ok(decode(larger, n, 3, &image, &reason));
    assert_close(&image, 10);
    free(larger);
    free(file);
    dataset_image_free(&image);
}

static void bytes_after_the_end_do_not_matter(void **state)
{
    (void)state;
    dataset_image image = {0};
    cvy_reason reason;
    size_t size = 0, png_size = 0;
    uint8_t *png = NULL;
    uint8_t *file = make_jpeg_file(&plain, &size);
    uint8_t *twice = malloc(2 * size);

    memcpy(twice, file, size);
    memcpy(twice + size, file, size);
    assert_ok(decode(twice, 2 * size, 3, &image, &reason));
    assert_ok(dataset_image_to_png(&image, &png, &png_size));
    uint8_t *junk = calloc(png_size + 1000, 1);
    memcpy(junk, png, png_size);
    assert_ok(decode(junk, png_size + 1000, 3, &image, &reason));
    free(junk);
    free(twice);
    free(file);
    cvy_free(png);
    dataset_image_free(&image);
}

static void other_formats_are_named(void **state)
{
    (void)state;
    assert_refused((const uint8_t *)"", 0, "empty image");
    assert_refused((const uint8_t *)"GIF89a", 6, "a GIF");
    assert_refused((const uint8_t *)"<!DOCTYPE html>", 15, "an HTML page");
    assert_refused((const uint8_t *)"\x89PNG", 4, "unknown format");
    assert_refused((const uint8_t *)"\xff", 1, "unknown format");
    assert_refused((const uint8_t *)"\xff\xd8", 2, "JPEG");
}

/* A PNG of this kind, pixels as stored in it; free() it. */
static uint8_t *make_png(const struct spng_ihdr *header, const void *pixels, size_t n,
                         size_t *out_size)
{
    spng_ctx *png = spng_ctx_new(SPNG_CTX_ENCODER);
    struct spng_ihdr copy = *header;
    int error = 0;

    assert_int_equal(spng_set_option(png, SPNG_ENCODE_TO_BUFFER, 1), 0);
    assert_int_equal(spng_set_ihdr(png, &copy), 0);
    if (header->color_type == SPNG_COLOR_TYPE_INDEXED) {
        struct spng_plte palette = {.n_entries = 2};
        palette.entries[0] = (struct spng_plte_entry){.red = 10, .green = 20, .blue = 30};
        palette.entries[1] = (struct spng_plte_entry){.red = 200, .green = 100, .blue = 50};
        assert_int_equal(spng_set_plte(png, &palette), 0);
    }
    assert_int_equal(spng_encode_image(png, pixels, n, SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE), 0);
    uint8_t *file = spng_get_png_buffer(png, out_size, &error);
    assert_non_null(file);
    spng_ctx_free(png);
    return file;
}

/* Two pixels in each kind of PNG, and what they are as RGB. */
static void png_of_every_kind_gives_rgb(void **state)
{
    (void)state;
    static const struct {
        uint8_t depth, type;
        uint8_t stored[16];
        size_t n;
        uint8_t rgb[6];
    } kinds[] = {
        {1, SPNG_COLOR_TYPE_GRAYSCALE, {0x40}, 1, {0, 0, 0, 255, 255, 255}},
        {2, SPNG_COLOR_TYPE_GRAYSCALE, {0x60}, 1, {85, 85, 85, 170, 170, 170}},
        {4, SPNG_COLOR_TYPE_GRAYSCALE, {0x1f}, 1, {17, 17, 17, 255, 255, 255}},
        {8, SPNG_COLOR_TYPE_GRAYSCALE, {7, 99}, 2, {7, 7, 7, 99, 99, 99}},
        {16, SPNG_COLOR_TYPE_GRAYSCALE, {1, 2, 3, 4}, 4, {1, 1, 1, 3, 3, 3}}, /* host order below */
        {8, SPNG_COLOR_TYPE_TRUECOLOR, {1, 2, 3, 4, 5, 6}, 6, {1, 2, 3, 4, 5, 6}},
        {8, SPNG_COLOR_TYPE_TRUECOLOR_ALPHA, {1, 2, 3, 0, 4, 5, 6, 9}, 8, {1, 2, 3, 4, 5, 6}},
        {8, SPNG_COLOR_TYPE_GRAYSCALE_ALPHA, {7, 0, 8, 255}, 4, {7, 7, 7, 8, 8, 8}},
        {8, SPNG_COLOR_TYPE_INDEXED, {1, 0}, 2, {200, 100, 50, 10, 20, 30}},
        {1, SPNG_COLOR_TYPE_INDEXED, {0x40}, 1, {10, 20, 30, 200, 100, 50}},
    };

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        for (uint8_t interlace = 0; interlace < 2; interlace++) {
            const struct spng_ihdr header = {.width = 2,
                                             .height = 1,
                                             .bit_depth = kinds[i].depth,
                                             .color_type = kinds[i].type,
                                             .interlace_method = interlace};
            dataset_image image = {0};
            cvy_reason reason;
            uint16_t wide[2] = {0x0102, 0x0304};
            size_t size = 0;
            const void *pixels = kinds[i].depth == 16 ? (const void *)wide : kinds[i].stored;
            uint8_t *file = make_png(&header, pixels, kinds[i].n, &size);
            assert_ok(decode(file, size, 3, &image, &reason));
            assert_memory_equal(image.pixels, kinds[i].rgb, 6);
            assert_ok(decode(file, size, 1, &image, &reason));
            assert_int_equal(image.channels, 1);
            const uint8_t *rgb = kinds[i].rgb;
            const double luma = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
            assert_int_equal(image.pixels[0], (int)(luma + 0.5));
            free(file);
            dataset_image_free(&image);
        }
    }
}

static void written_png_reads_back_the_same(void **state)
{
    (void)state;
    for (int channels = 1; channels <= 3; channels += 2) {
        uint8_t pixels[5 * 7 * 3];
        dataset_image image = {.height = 5, .width = 7, .channels = channels, .pixels = pixels};
        dataset_image back = {0};
        cvy_reason reason;
        uint8_t *png = NULL;
        size_t size = 0;
        for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(31 * i);
        assert_ok(dataset_image_to_png(&image, &png, &size));
        assert_ok(decode(png, size, 0, &back, &reason));
        assert_int_equal(back.channels, channels);
        assert_memory_equal(back.pixels, pixels, (size_t)(5 * 7 * channels));
        cvy_free(png);
        dataset_image_free(&back);
    }
}

static void truncated_or_damaged_png_is_bad(void **state)
{
    (void)state;
    uint8_t pixels[16 * 16 * 3];
    dataset_image image = {.height = 16, .width = 16, .channels = 3, .pixels = pixels};
    dataset_image back = {0};
    cvy_reason reason;
    uint8_t *png = NULL;
    size_t size = 0;
    cvy_rng rng = cvy_rng_open(2, CVY_RNG_TEST, 0, 0);

    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)cvy_rng_u32(&rng);
    assert_ok(dataset_image_to_png(&image, &png, &size));
    for (size_t n = 0; n + 16 < size; n++) { /* the end marker and the checksum before it apart */
        uint8_t *cut = malloc(n + 1);
        memcpy(cut, png, n);
        if (decode(cut, n, 3, &back, &reason) != CVY_ERR_BAD_DATA) fail_msg("cut at %zu", n);
        free(cut);
    }
    for (int i = 0; i < 500; i++) {
        const uint32_t at = cvy_rng_below(&rng, (uint32_t)size - 20);
        png[at] ^= 0x10;
        assert_status(decode(png, size, 3, &back, &reason), CVY_ERR_BAD_DATA);
        png[at] ^= 0x10;
    }
    cvy_free(png);
    dataset_image_free(&back);
}

static void large_png_header_is_refused(void **state)
{
    (void)state;
    const struct spng_ihdr header = {
        .width = 2, .height = 1, .bit_depth = 8, .color_type = SPNG_COLOR_TYPE_TRUECOLOR};
    const uint8_t pixels[6] = {0};
    size_t size = 0;
    uint8_t *file = make_png(&header, pixels, sizeof pixels, &size);
    const dataset_decode_options options = {.max_pixels = 1, .channels = 3};
    dataset_image image = {0};
    cvy_reason reason = {""};

    assert_status(dataset_image_decode(file, size, &options, &image, &reason), CVY_ERR_BAD_DATA);
    assert_string_equal(reason.text, "image of 2 x 1 pixels, max_pixels is 1");
    assert_null(image.pixels);
    free(file);
}

static void failed_allocation_reports_no_memory(void **state)
{
    (void)state;
    cvy_alloc_counts before, after;
    cvy_reason reason;
    size_t size = 0;
    uint8_t *file = make_jpeg_file(&plain, &size);
    cvy_status status = CVY_ERR_NO_MEMORY;
    int k = 0;

    cvy_alloc_count(&before);
    for (; status == CVY_ERR_NO_MEMORY; k++) {
        dataset_image image = {0};
        cvy_alloc_fail_at(k);
        status = decode(file, size, 3, &image, &reason);
        cvy_alloc_fail_at(-1);
        if (status == CVY_ERR_NO_MEMORY) assert_non_null(strstr(reason.text, "no memory"));
        dataset_image_free(&image);
    }
    assert_ok(status);
    assert_true(k > 1);
    cvy_alloc_count(&after);
    assert_int_equal(after.n_live, before.n_live);
    free(file);
}

static void second_decode_allocates_nothing_of_ours(void **state)
{
    (void)state;
    cvy_alloc_counts before, after;
    dataset_image image = {0};
    cvy_reason reason;
    size_t size = 0;
    uint8_t *file = make_jpeg_file(&plain, &size);

    assert_ok(decode(file, size, 3, &image, &reason));
    cvy_alloc_count(&before);
    assert_ok(decode(file, size, 3, &image, &reason));
    cvy_alloc_count(&after);
    assert_int_equal(after.n_ever, before.n_ever);
    free(file);
    dataset_image_free(&image);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(baseline_and_progressive_files_give_their_pixels),
        cvy_unit_test(grey_file_as_colour_repeats_it),
        cvy_unit_test(colour_file_as_grey_is_its_luma),
        cvy_unit_test(cmyk_and_ycck_files_are_converted),
        cvy_unit_test(truncated_jpeg_is_bad_at_every_length),
        cvy_unit_test(damaged_bytes_never_crash),
        cvy_unit_test(huge_dimensions_are_refused_before_decoding),
        cvy_unit_test(pixel_limit_is_exact),
        cvy_unit_test(scan_flood_is_refused_at_the_limit),
        cvy_unit_test(unsupported_kinds_are_refused_with_the_reason),
        cvy_unit_test(missing_tables_are_refused),
        cvy_unit_test(long_comments_are_passed_over),
        cvy_unit_test(bytes_after_the_end_do_not_matter),
        cvy_unit_test(other_formats_are_named),
        cvy_unit_test(png_of_every_kind_gives_rgb),
        cvy_unit_test(written_png_reads_back_the_same),
        cvy_unit_test(truncated_or_damaged_png_is_bad),
        cvy_unit_test(large_png_header_is_refused),
        cvy_unit_test(failed_allocation_reports_no_memory),
        cvy_unit_test(second_decode_allocates_nothing_of_ours),
    };
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
