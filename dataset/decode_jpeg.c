#include "dataset/decode_internal.h"

#include "base/alloc.h"

#include <setjmp.h>
#include <stdio.h> /* before jpeglib.h, which wants FILE and size_t */

#include <jerror.h>
#include <jpeglib.h>

/* A progressive file may name any number of scans, each of which costs a pass over the picture;
 * encoders use about 10. */
#define MAX_SCANS 100

/* Everything the decoder calls back into; `errors` is first, so that libjpeg's pointer to it is a
 * pointer to this. */
typedef struct jpeg_job {
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    struct jpeg_decompress_struct cinfo;
    jmp_buf out;
    cvy_status status;
    cvy_reason *reason;
} jpeg_job;

static CVY_NORETURN void leave(jpeg_job *job, cvy_status status)
{
    job->status = status;
    longjmp(job->out, 1);
}

static CVY_NORETURN void leave_with_message(j_common_ptr cinfo)
{
    jpeg_job *job = (jpeg_job *)cinfo->err;
    char text[JMSG_LENGTH_MAX];

    cinfo->err->format_message(cinfo, text);
    cvy_because(job->reason, CVY_ERR_BAD_DATA, "JPEG: %s", text);
    leave(job, CVY_ERR_BAD_DATA);
}

static void on_error(j_common_ptr cinfo)
{
    jpeg_job *job = (jpeg_job *)cinfo->err;

    if (cinfo->err->msg_code == JERR_OUT_OF_MEMORY) leave(job, CVY_ERR_NO_MEMORY);
    leave_with_message(cinfo);
}

/* The library goes on after a warning and calls the grey rest of a truncated file a picture. The
 * one warning that says nothing about the pixels is an unknown minor detail of the JFIF header. */
static void on_message(j_common_ptr cinfo, int level)
{
    if (level < 0 && cinfo->err->msg_code != JWRN_JFIF_MAJOR) leave_with_message(cinfo);
}

static void on_progress(j_common_ptr cinfo)
{
    jpeg_job *job = (jpeg_job *)cinfo->err;

    if (job->cinfo.input_scan_number > MAX_SCANS) {
        cvy_because(job->reason, CVY_ERR_BAD_DATA, "JPEG: more than %d scans", MAX_SCANS);
        leave(job, CVY_ERR_BAD_DATA);
    }
}

static cvy_status check_header(const struct jpeg_decompress_struct *cinfo,
                               const dataset_decode_options *options, cvy_reason *reason)
{
    CVY_RETURN_IF_ERR(
        dataset_decode_check_size(cinfo->image_height, cinfo->image_width, options, reason));
    if (cinfo->data_precision != 8) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "JPEG: %d bits a sample, only 8 are supported",
                           cinfo->data_precision);
    }
    if (cinfo->arith_code) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "JPEG: arithmetic coding is not supported");
    }
    if (cinfo->num_components != 1 && cinfo->num_components != 3 && cinfo->num_components != 4) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "JPEG: %d components, 1, 3 or 4 are supported",
                           cinfo->num_components);
    }
    return CVY_OK;
}

/* CMYK as Adobe writes it, 255 = no ink: the lines of the picture are shortened in place. */
static void cmyk_to_rgb(const uint8_t *cmyk, int64_t n, uint8_t *rgb)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t white = cmyk[4 * i + 3];
        for (int c = 0; c < 3; c++) {
            const uint32_t ink = 255u - cmyk[4 * i + c];
            const uint32_t product = ink * white + 128u;
            const uint32_t less = (product + (product >> 8)) >> 8; /* ink * white / 255, rounded */
            rgb[3 * i + c] = (uint8_t)(white - less);
        }
    }
}

static void read_lines(jpeg_job *job, dataset_image *image)
{
    struct jpeg_decompress_struct *cinfo = &job->cinfo;
    const size_t row_bytes = (size_t)image->width * (size_t)image->channels;
    JSAMPARRAY wide = NULL;

    if (cinfo->out_color_space == JCS_CMYK) {
        wide = cinfo->mem->alloc_sarray((j_common_ptr)cinfo, JPOOL_IMAGE, cinfo->output_width * 4u,
                                        1);
    }
    while (cinfo->output_scanline < cinfo->output_height) {
        JSAMPROW row = image->pixels + (size_t)cinfo->output_scanline * row_bytes;
        if (wide == NULL) {
            jpeg_read_scanlines(cinfo, &row, 1);
        } else {
            jpeg_read_scanlines(cinfo, wide, 1);
            cmyk_to_rgb(wide[0], image->width, row);
        }
    }
}

static cvy_status decode(jpeg_job *job, const dataset_decode_options *options, dataset_image *image)
{
    struct jpeg_decompress_struct *cinfo = &job->cinfo;

    jpeg_read_header(cinfo, TRUE);
    CVY_RETURN_IF_ERR(check_header(cinfo, options, job->reason));

    /* Slow integer DCT and smooth chroma: the pixels that Pillow and PyTorch train on. */
    cinfo->dct_method = JDCT_ISLOW;
    cinfo->do_fancy_upsampling = TRUE;
    const int wanted = options->channels != 0 ? options->channels
                                              : (cinfo->num_components == 1 ? 1 : 3);
    if (cinfo->num_components == 4) {
        cinfo->out_color_space = JCS_CMYK;
    } else {
        cinfo->out_color_space = wanted == 1 ? JCS_GRAYSCALE : JCS_RGB;
    }
    const int channels = cinfo->num_components == 4 ? 3 : wanted;
    CVY_RETURN_IF_ERR(
        dataset_image_reserve(image, cinfo->image_height, cinfo->image_width, channels));
    jpeg_start_decompress(cinfo);
    read_lines(job, image);
    jpeg_finish_decompress(cinfo); /* reads up to the end marker, so a cut file is noticed */
    if (channels != wanted) {
        dataset_rgb_to_grey(image->pixels, image->height * image->width, image->pixels);
        image->channels = wanted;
    }
    return CVY_OK;
}

cvy_status dataset_decode_jpeg(const uint8_t *bytes, size_t size_bytes,
                               const dataset_decode_options *options, dataset_image *image,
                               cvy_reason *reason)
{
    jpeg_job job = {.status = CVY_OK, .reason = reason};

    job.cinfo.err = jpeg_std_error(&job.errors);
    job.errors.error_exit = on_error;
    job.errors.emit_message = on_message;
    job.progress.progress_monitor = on_progress;
    if (setjmp(job.out) == 0) {
        jpeg_create_decompress(&job.cinfo);
        job.cinfo.progress = &job.progress;
        /* A second net under the pixel limit: coefficients of 4 components at 2 bytes and room. */
        const int64_t limit = options->max_pixels > INT32_MAX ? INT32_MAX : options->max_pixels;
        job.cinfo.mem->max_memory_to_use = (long)(limit * 16 + (64L << 20));
        jpeg_mem_src(&job.cinfo, bytes, (unsigned long)size_bytes);
        job.status = decode(&job, options, image);
    }
    jpeg_destroy_decompress(&job.cinfo);
    return job.status;
}
