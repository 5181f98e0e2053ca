#include "nn/backends/cpu/conv_dft_internal.h"

#include <string.h>

/* The forward pass, and what all passes share. The lanes of x's transforms are planes, those of the
 * filter's and of y's are output channels. */

enum {
    TILE_IMAGES = 4, /* whose products share a load of the filter's */
    LANES = NN_VEC_LANES
};

/* Of the transformed filters of 16 output channels. */
static int64_t block_floats(const nn_conv2d_geom *geom)
{
    return NN_DFT_SLOTS * geom->c * NN_CPU_BLOCK;
}

int nn_conv_dft_fits(const nn_conv2d_geom *geom)
{
    return geom->groups == 1 && geom->stride_h == 1 && geom->stride_w == 1 && geom->dil_h == 1 &&
           geom->dil_w == 1 && geom->r == NN_DFT_TAPS && geom->s == NN_DFT_TAPS &&
           geom->h + 2 * geom->pad_h == NN_DFT_SIDE && geom->w + 2 * geom->pad_w == NN_DFT_SIDE &&
           geom->c >= NN_DFT_LEAST_CHANNELS && geom->c <= NN_DFT_CHANNELS &&
           nn_cpu_is_blocked(geom->k) &&
           nn_cpu_blocks(geom->k) * block_floats(geom) <= NN_DFT_FILTER_FLOATS;
}

/* --- The filter ------------------------------------------------------------------------------- */

/* Then whether they are there. */
int64_t nn_dft_filter_floats(const nn_conv2d_geom *geom)
{
    return nn_cpu_blocks(geom->k) * block_floats(geom) + NN_CPU_BLOCK;
}

static float *ready_flag(const nn_conv2d_geom *geom, float *own)
{
    return own + nn_cpu_blocks(geom->k) * block_floats(geom);
}

void nn_dft_filters_clear(const nn_conv2d_geom *geom, int n_threads, int64_t pitch, float *first)
{
    for (int i = 0; i < n_threads; i++) *ready_flag(geom, first + i * pitch) = 0.0f;
}

/* One channel of x in one block of y's. */
static void transform_channel(const nn_conv2d_geom *geom, const float *filter, int64_t block,
                              int64_t c, float *spectra)
{
    enum { N_TAPS = NN_DFT_TAPS * NN_DFT_TAPS };
    const int64_t n_k = nn_cpu_least(NN_CPU_BLOCK, geom->k - block * NN_CPU_BLOCK);
    const nn_dft_pitch pitch = {
        .row = NN_DFT_TAPS * NN_CPU_BLOCK, .pixel = NN_CPU_BLOCK, .slot = geom->c * NN_CPU_BLOCK};
    float *const slots = spectra + block * block_floats(geom) + c * NN_CPU_BLOCK;
    _Alignas(CVY_ALIGN_BYTES) float taps[N_TAPS * NN_CPU_BLOCK] = {0.0f};

    for (int64_t k = 0; k < n_k; k++) {
        const float *from = filter + ((block * NN_CPU_BLOCK + k) * geom->c + c) * N_TAPS;
        for (int tap = 0; tap < N_TAPS; tap++) {
            taps[tap * NN_CPU_BLOCK + k] = from[tap] * NN_DFT_SCALE;
        }
    }
    for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane += LANES) {
        nn_dft_of_taps(taps + lane, pitch, slots + lane);
        for (int part = 0; part < NN_DFT_PARTS; part++) {
            float *const real = slots + lane + part * NN_DFT_PART_SLOTS * pitch.slot;
            nn_vec_store(real, nn_vec_times(0.5f, nn_vec_load(real)));
        }
    }
}

void nn_dft_filter_make(const nn_conv2d_geom *geom, const float *filter, float *own)
{
    float *const is_ready = ready_flag(geom, own);

    if (*is_ready != 0.0f) return;
    for (int64_t block = 0; block < nn_cpu_blocks(geom->k); block++) {
        for (int64_t c = 0; c < geom->c; c++) transform_channel(geom, filter, block, c, own);
    }
    *is_ready = 1.0f;
}

/* --- Planes and lanes ------------------------------------------------------------------------- */

int64_t nn_dft_x_pitch(const nn_conv2d_geom *geom)
{
    return nn_cpu_div_up(NN_DFT_IMAGES * geom->c, NN_CPU_BLOCK) * NN_CPU_BLOCK;
}

/* The first n_planes of LANES planes to the lanes of a window, 0 in the others. Whole vectors are
 * written: beyond a row's end zeros, where the margin is 0, or the next row comes over them. */
static void planes_to_lanes(const nn_conv2d_geom *geom, const float *planes, int64_t n_planes,
                            float *window)
{
    const int64_t plane = geom->h * geom->w;

    for (int64_t i = 0; i < geom->h; i++) {
        for (int64_t col = 0; col < geom->w; col += LANES) {
            const int n = (int)nn_cpu_least(LANES, geom->w - col);
            const float *from = planes + i * geom->w + col;
            float *to = window + ((geom->pad_h + i) * NN_DFT_SIDE + geom->pad_w + col) * LANES;
            nn_vec v[LANES];
            CVY_UNROLL(16) for (int lane = 0; lane < LANES; lane++)
            {
                v[lane] = lane < n_planes ? nn_vec_load_part(from + lane * plane, n)
                                          : nn_vec_all(0.0f);
            }
            nn_vec_transpose(v);
            CVY_UNROLL(16) for (int j = 0; j < LANES; j++) nn_vec_store(to + j * LANES, v[j]);
        }
    }
}

void nn_dft_of_planes(const nn_conv2d_geom *geom, const float *x, nn_cpu_span images, float *window,
                      float *spectra)
{
    const nn_dft_pitch pitch = {
        .row = NN_DFT_SIDE * LANES, .pixel = LANES, .slot = nn_dft_x_pitch(geom)};
    const int64_t n_planes = images.n * geom->c, plane = geom->h * geom->w;

    memset(window, 0, NN_DFT_WINDOW_FLOATS * sizeof *window);
    for (int64_t first = 0; first < n_planes; first += LANES) {
        planes_to_lanes(geom, x + (images.first * geom->c + first) * plane,
                        nn_cpu_least(LANES, n_planes - first), window);
        nn_dft_of_window(window, pitch, spectra + first);
    }
}

/* --- Forward ---------------------------------------------------------------------------------- */

/* A thread's scratch: the filter's transforms, the window, the transforms of x, and those of y,
 * (slot, image, 16). */
static int64_t y_floats(void)
{
    return NN_DFT_SLOTS * NN_DFT_IMAGES * NN_CPU_BLOCK;
}

static int64_t forward_scratch_floats(const nn_conv2d_geom *geom)
{
    return nn_dft_filter_floats(geom) + NN_DFT_WINDOW_FLOATS + NN_DFT_SLOTS * nn_dft_x_pitch(geom) +
           y_floats();
}

int64_t nn_conv_dft_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    return backend->n_threads * forward_scratch_floats(geom);
}

/* One slot of real numbers, or two of complex ones, for some images: x (image, c), w (c, 16), y
 * (image, 16). */
typedef struct product {
    const float *x, *w, *bias;
    float *y;
    int64_t c, x_slot, w_slot, y_slot; /* floats to the next slot */
} product;

CVY_INLINE_ALWAYS void multiply_real(const product *at, int n_images)
{
    nn_vec sum[TILE_IMAGES];

    CVY_UNROLL(4) for (int i = 0; i < n_images; i++) sum[i] = nn_vec_all(0.0f);
    for (int64_t c = 0; c < at->c; c++) {
        const nn_vec w = nn_vec_load(at->w + c * NN_CPU_BLOCK);
        CVY_UNROLL(4) for (int i = 0; i < n_images; i++)
        {
            sum[i] += nn_vec_all(at->x[i * at->c + c]) * w;
        }
    }
    CVY_UNROLL(4) for (int i = 0; i < n_images; i++)
    {
        const nn_vec bias = at->bias != NULL ? nn_vec_load(at->bias) : nn_vec_all(0.0f);
        nn_vec_store(at->y + i * NN_CPU_BLOCK, sum[i] + bias);
    }
}

CVY_INLINE_ALWAYS void multiply_complex(const product *at, int n_images)
{
    nn_vec re[TILE_IMAGES], im[TILE_IMAGES];

    CVY_UNROLL(4) for (int i = 0; i < n_images; i++) re[i] = im[i] = nn_vec_all(0.0f);
    for (int64_t c = 0; c < at->c; c++) {
        nn_vec w_re = nn_vec_load(at->w + c * NN_CPU_BLOCK);
        nn_vec w_im = nn_vec_load(at->w + at->w_slot + c * NN_CPU_BLOCK);
        CVY_KEEP_VECTOR(w_re);
        CVY_KEEP_VECTOR(w_im);
        CVY_UNROLL(4) for (int i = 0; i < n_images; i++)
        {
            nn_vec x_re = nn_vec_all(at->x[i * at->c + c]);
            nn_vec x_im = nn_vec_all(at->x[at->x_slot + i * at->c + c]);
            CVY_KEEP_VECTOR(x_re);
            CVY_KEEP_VECTOR(x_im);
            re[i] += x_re * w_re;
            im[i] += x_im * w_re;
            re[i] += x_im * w_im;
            im[i] -= x_re * w_im;
        }
    }
    CVY_UNROLL(4) for (int i = 0; i < n_images; i++)
    {
        nn_vec_store(at->y + i * NN_CPU_BLOCK, re[i]);
        nn_vec_store(at->y + at->y_slot + i * NN_CPU_BLOCK, im[i]);
    }
}

/* All slots. */
CVY_INLINE_ALWAYS void multiply(product at, int n_images)
{
    for (int part = 0; part < NN_DFT_PARTS; part++) {
        multiply_real(&at, n_images);
        at.bias = NULL;
        at.x += at.x_slot, at.w += at.w_slot, at.y += at.y_slot;
        for (int i = 1; i < NN_DFT_PART_SLOTS; i += 2) {
            multiply_complex(&at, n_images);
            at.x += 2 * at.x_slot, at.w += 2 * at.w_slot, at.y += 2 * at.y_slot;
        }
    }
}

static void multiply_tile(product at)
{
    multiply(at, TILE_IMAGES);
}

static void multiply_image(product at)
{
    multiply(at, 1);
}

typedef struct forward_pass {
    const nn_conv2d_geom *geom;
    const float *x, *filter, *bias; /* bias: (k), padded, or NULL */
    float *y, *scratch;
} forward_pass;

/* Of some images and a block of output channels, LANES of these. */
static void forward_lanes(const forward_pass *pass, nn_cpu_span images, const float *x_slots,
                          const float *w, int64_t block, int64_t lane, float *y_slots)
{
    const nn_conv2d_geom *geom = pass->geom;
    const nn_dft_pitch pitch = {.row = NN_DFT_OUTPUTS * NN_CPU_BLOCK,
                                .pixel = NN_CPU_BLOCK,
                                .slot = NN_DFT_IMAGES * NN_CPU_BLOCK};
    const int64_t plane = NN_DFT_OUTPUTS * NN_DFT_OUTPUTS * NN_CPU_BLOCK;
    product at = {.x = x_slots,
                  .w = w + block * block_floats(geom) + lane,
                  .bias = pass->bias != NULL ? pass->bias + block * NN_CPU_BLOCK + lane : NULL,
                  .y = y_slots,
                  .c = geom->c,
                  .x_slot = nn_dft_x_pitch(geom),
                  .w_slot = geom->c * NN_CPU_BLOCK,
                  .y_slot = pitch.slot};

    for (int64_t i = 0; i < images.n;) {
        const int64_t n = images.n - i >= TILE_IMAGES ? TILE_IMAGES : 1;
        if (n == TILE_IMAGES) {
            multiply_tile(at);
        } else {
            multiply_image(at);
        }
        at.x += n * geom->c;
        at.y += n * NN_CPU_BLOCK;
        i += n;
    }
    for (int64_t i = 0; i < images.n; i++) {
        float *const y = pass->y + ((images.first + i) * nn_cpu_blocks(geom->k) + block) * plane +
                         lane;
        nn_dft_to_outputs(y_slots + i * NN_CPU_BLOCK, pitch, y);
    }
}

static void forward_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const forward_pass *pass = arg;
    const nn_conv2d_geom *geom = pass->geom;
    const nn_cpu_span images = nn_cpu_part(geom->n, NN_DFT_IMAGES, chunk_idx);
    float *const own = pass->scratch + thread_idx * forward_scratch_floats(geom);
    float *const window = own + nn_dft_filter_floats(geom);
    float *const x_slots = window + NN_DFT_WINDOW_FLOATS;
    float *const y_slots = x_slots + NN_DFT_SLOTS * nn_dft_x_pitch(geom);

    nn_dft_filter_make(geom, pass->filter, own);
    nn_dft_of_planes(geom, pass->x, images, window, x_slots);
    for (int64_t block = 0; block < nn_cpu_blocks(geom->k); block++) {
        for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane += LANES) {
            forward_lanes(pass, images, x_slots, own, block, lane, y_slots);
        }
    }
}

cvy_status nn_conv_dft_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                               const float *filter, const nn_conv_epilogue *epilogue, float *y,
                               float *workspace)
{
    forward_pass pass = {.geom = geom,
                         .x = x,
                         .filter = filter,
                         .bias = epilogue->bias,
                         .y = y,
                         .scratch = workspace};

    nn_dft_filters_clear(geom, backend->n_threads, forward_scratch_floats(geom), workspace);
    nn_cpu_run(backend, nn_cpu_div_up(geom->n, NN_DFT_IMAGES), forward_chunk, &pass);
    return CVY_OK;
}
