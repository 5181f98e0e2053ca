#ifndef TESTS_DATASET_MAKE_JPEG_H
#define TESTS_DATASET_MAKE_JPEG_H

/* JPEG files of all kinds for the tests of this folder. Include after test_support.h. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

typedef struct make_jpeg {
    int width, height;
    int components;       /* of the pixels: 1 grey, 3 RGB, 4 CMYK, 2 unknown */
    J_COLOR_SPACE stored; /* JCS_UNKNOWN: libjpeg's choice */
    int is_progressive;
    int is_scan_by_scan; /* baseline, each component in a scan of its own */
    int quality;
} make_jpeg;

/* A smooth picture that differs in all channels. */
static inline uint8_t make_pixel(int x, int y, int c)
{
    return (uint8_t)(40 + 3 * x * (c == 0) + 3 * y * (c == 1) + (x + y) * (c == 2) + 20 * c);
}

/* The file; free() it. */
static inline uint8_t *make_jpeg_file(const make_jpeg *want, size_t *out_size)
{
    struct jpeg_compress_struct cinfo;
    struct jpeg_error_mgr errors;
    unsigned char *file = NULL;
    unsigned long size = 0;
    jpeg_scan_info scans[4];
    uint8_t *row = malloc((size_t)want->width * 4);

    memset(&cinfo, 0, sizeof cinfo);
    cinfo.err = jpeg_std_error(&errors);
    jpeg_create_compress(&cinfo);
    jpeg_mem_dest(&cinfo, &file, &size);
    cinfo.image_width = (JDIMENSION)want->width;
    cinfo.image_height = (JDIMENSION)want->height;
    cinfo.input_components = want->components;
    cinfo.in_color_space = want->components == 1   ? JCS_GRAYSCALE
                           : want->components == 3 ? JCS_RGB
                           : want->components == 4 ? JCS_CMYK
                                                   : JCS_UNKNOWN;
    jpeg_set_defaults(&cinfo);
    if (want->stored != JCS_UNKNOWN) jpeg_set_colorspace(&cinfo, want->stored);
    jpeg_set_quality(&cinfo, want->quality, TRUE);
    if (want->is_progressive) jpeg_simple_progression(&cinfo);
    if (want->is_scan_by_scan) {
        for (int c = 0; c < want->components; c++) {
            scans[c] = (jpeg_scan_info){.comps_in_scan = 1, .component_index = {c}, .Se = 63};
        }
        cinfo.scan_info = scans;
        cinfo.num_scans = want->components;
    }
    jpeg_start_compress(&cinfo, TRUE);
    for (int y = 0; y < want->height; y++) {
        JSAMPROW rows[1] = {row};
        for (int x = 0; x < want->width; x++) {
            for (int c = 0; c < want->components; c++) {
                row[x * want->components + c] = make_pixel(x, y, c);
            }
        }
        jpeg_write_scanlines(&cinfo, rows, 1);
    }
    jpeg_finish_compress(&cinfo);
    jpeg_destroy_compress(&cinfo);
    free(row);
    *out_size = size;
    return file;
}

/* Place of the marker ff `code` (the first, or the last), or -1. */
static inline long find_marker(const uint8_t *file, size_t size, int code, int want_last)
{
    long found = -1;

    for (size_t i = 0; i + 1 < size; i++) {
        if (file[i] != 0xff || file[i + 1] != code) continue;
        found = (long)i;
        if (!want_last) break;
    }
    return found;
}

#endif
