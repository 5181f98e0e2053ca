#include "nn/backends/cpu/conv_dft_internal.h"
#include "nn/backends/cpu/conv_planes_internal.h"

/* The gradient of x. The lanes are images throughout, so that a sum over channels is no sum of
 * lanes: a chunk is as many images as a vector has lanes. */

enum {
    LANES = NN_VEC_LANES,
    N_PIXELS = NN_DFT_OUTPUTS * NN_DFT_OUTPUTS,
    DY_SLOT = (NN_CPU_BLOCK + 1) * LANES, /* floats; not a power of 2, which the cache would mind */
    TILE_CHANNELS = NN_VEC_LANES == 16 ? 8 : 4 /* whose sums registers have room for */
};

static int64_t round_up(int64_t n)
{
    return nn_cpu_div_up(n, NN_CPU_BLOCK) * NN_CPU_BLOCK;
}

/* A thread's scratch: the filter's transforms; the window; dy of a block, (k, pixel, lane); its
 * transforms, (slot, k, lane); those of dx, (slot, c, lane). */
enum { DY_FLOATS = NN_CPU_BLOCK * N_PIXELS * LANES, DY_SLOTS_FLOATS = NN_DFT_SLOTS * DY_SLOT };

static int64_t scratch_floats(const nn_conv2d_geom *geom)
{
    return nn_dft_filter_floats(geom) + NN_DFT_WINDOW_FLOATS + DY_FLOATS + DY_SLOTS_FLOATS +
           round_up(NN_DFT_SLOTS * geom->c * LANES);
}

int64_t nn_conv_dft_data_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    return backend->n_threads * scratch_floats(geom);
}

typedef struct data_pass {
    const nn_conv2d_geom *geom;
    const float *dy, *filter;
    float *dx, *scratch;
    int accumulate;
} data_pass;

/* --- dy --------------------------------------------------------------------------------------- */

/* A block of the images' dy to (k, pixel, image); 0 where there is no image. */
static void block_to_lanes(const data_pass *pass, nn_cpu_span images, int64_t block, float *to)
{
    static const float zeros[NN_CPU_BLOCK] = {0.0f};
    const int64_t pitch = nn_cpu_blocks(pass->geom->k) * N_PIXELS * NN_CPU_BLOCK;
    const float *from[LANES];
    int64_t step[LANES];

    for (int64_t i = 0; i < LANES; i++) {
        const int is_there = i < images.n;
        from[i] = is_there ? pass->dy + (images.first + i) * pitch + block * N_PIXELS * NN_CPU_BLOCK
                           : zeros;
        step[i] = is_there ? NN_CPU_BLOCK : 0;
    }
    for (int64_t pixel = 0; pixel < N_PIXELS; pixel++) {
        for (int64_t k = 0; k < NN_CPU_BLOCK; k += LANES) {
            nn_vec v[LANES];
            CVY_UNROLL(16) for (int i = 0; i < LANES; i++)
            {
                v[i] = nn_vec_load(from[i] + pixel * step[i] + k);
            }
            nn_vec_transpose(v);
            CVY_UNROLL(16) for (int i = 0; i < LANES; i++)
            {
                nn_vec_store(to + ((k + i) * N_PIXELS + pixel) * LANES, v[i]);
            }
        }
    }
}

/* --- Products --------------------------------------------------------------------------------- */

/* Some channels of dx: dy (k, lane), w (c, 16), dx (c, lane). */
typedef struct product {
    const float *dy, *w;
    float *dx;
    int64_t n_k, w_slot, dx_slot; /* floats to the next slot */
    int accumulate;
} product;

CVY_INLINE_ALWAYS void multiply_real(const product *at, int n_channels)
{
    nn_vec sum[TILE_CHANNELS];

    CVY_UNROLL(8) for (int c = 0; c < n_channels; c++)
    {
        sum[c] = at->accumulate ? nn_vec_load(at->dx + c * LANES) : nn_vec_all(0.0f);
    }
    for (int64_t k = 0; k < at->n_k; k++) {
        const nn_vec dy = nn_vec_load(at->dy + k * LANES);
        CVY_UNROLL(8) for (int c = 0; c < n_channels; c++)
        {
            sum[c] += nn_vec_all(at->w[c * NN_CPU_BLOCK + k]) * dy;
        }
    }
    CVY_UNROLL(8) for (int c = 0; c < n_channels; c++) nn_vec_store(at->dx + c * LANES, sum[c]);
}

CVY_INLINE_ALWAYS void multiply_complex(const product *at, int n_channels)
{
    nn_vec re[TILE_CHANNELS], im[TILE_CHANNELS];
    float *const dx_im = at->dx + at->dx_slot;
    const float *const w_im = at->w + at->w_slot;

    CVY_UNROLL(8) for (int c = 0; c < n_channels; c++)
    {
        re[c] = at->accumulate ? nn_vec_load(at->dx + c * LANES) : nn_vec_all(0.0f);
        im[c] = at->accumulate ? nn_vec_load(dx_im + c * LANES) : nn_vec_all(0.0f);
    }
    for (int64_t k = 0; k < at->n_k; k++) {
        nn_vec dy_re = nn_vec_load(at->dy + k * LANES);
        nn_vec dy_im = nn_vec_load(at->dy + DY_SLOT + k * LANES);
        CVY_KEEP_VECTOR(dy_re);
        CVY_KEEP_VECTOR(dy_im);
        CVY_UNROLL(8) for (int c = 0; c < n_channels; c++)
        {
            nn_vec a = nn_vec_all(at->w[c * NN_CPU_BLOCK + k]);
            nn_vec b = nn_vec_all(w_im[c * NN_CPU_BLOCK + k]);
            CVY_KEEP_VECTOR(a);
            CVY_KEEP_VECTOR(b);
            re[c] += dy_re * a;
            im[c] += dy_im * a;
            re[c] -= dy_im * b;
            im[c] += dy_re * b;
        }
    }
    CVY_UNROLL(8) for (int c = 0; c < n_channels; c++)
    {
        nn_vec_store(at->dx + c * LANES, re[c]);
        nn_vec_store(dx_im + c * LANES, im[c]);
    }
}

/* All slots. */
CVY_INLINE_ALWAYS void multiply(product at, int n_channels)
{
    for (int part = 0; part < NN_DFT_PARTS; part++) {
        multiply_real(&at, n_channels);
        at.dy += DY_SLOT, at.w += at.w_slot, at.dx += at.dx_slot;
        for (int i = 1; i < NN_DFT_PART_SLOTS; i += 2) {
            multiply_complex(&at, n_channels);
            at.dy += 2 * DY_SLOT, at.w += 2 * at.w_slot, at.dx += 2 * at.dx_slot;
        }
    }
}

/* One function per number of channels, so that each keeps its sums in registers. */
#if defined(__AVX512F__)
#define ALL_TILES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#else
#define ALL_TILES(X) X(1) X(2) X(3) X(4)
#endif

#define DEFINE(channels)                                                                           \
    static void multiply_##channels(product at)                                                    \
    {                                                                                              \
        multiply(at, channels);                                                                    \
    }
ALL_TILES(DEFINE)
#undef DEFINE

#define ENTRY(channels) [channels - 1] = multiply_##channels,
static void (*const multiply_tiles[TILE_CHANNELS])(product at) = {ALL_TILES(ENTRY)};
#undef ENTRY

static void multiply_block(const nn_conv2d_geom *geom, const float *w, int64_t block,
                           const float *dy_slots, float *dx_slots)
{
    const int64_t w_slot = geom->c * NN_CPU_BLOCK, dx_slot = geom->c * LANES;
    const int64_t n_tiles = nn_cpu_div_up(geom->c, TILE_CHANNELS);
    const int64_t size = nn_cpu_div_up(geom->c, n_tiles);

    for (int64_t tile = 0; tile < n_tiles; tile++) {
        const nn_cpu_span channels = nn_cpu_part(geom->c, size, tile);
        multiply_tiles[channels.n - 1](
            (product){.dy = dy_slots,
                      .w = w + block * NN_DFT_SLOTS * w_slot + channels.first * NN_CPU_BLOCK,
                      .dx = dx_slots + channels.first * LANES,
                      .n_k = nn_cpu_least(NN_CPU_BLOCK, geom->k - block * NN_CPU_BLOCK),
                      .w_slot = w_slot,
                      .dx_slot = dx_slot,
                      .accumulate = block > 0});
    }
}

/* --- dx --------------------------------------------------------------------------------------- */

/* The lanes of a window to a plane of each image. */
static void lanes_to_planes(const data_pass *pass, const float *window, nn_cpu_span images,
                            int64_t channel)
{
    const nn_conv2d_geom *geom = pass->geom;
    const int64_t image = geom->c * geom->h * geom->w;
    float *const planes = pass->dx + (images.first * geom->c + channel) * geom->h * geom->w;

    for (int64_t i = 0; i < geom->h; i++) {
        for (int64_t col = 0; col < geom->w; col += LANES) {
            const int n = (int)nn_cpu_least(LANES, geom->w - col);
            const float *from = window +
                                ((geom->pad_h + i) * NN_DFT_SIDE + geom->pad_w + col) * LANES;
            float *const to = planes + i * geom->w + col;
            nn_vec v[LANES];
            CVY_UNROLL(16) for (int j = 0; j < LANES; j++) v[j] = nn_vec_load(from + j * LANES);
            nn_vec_transpose(v);
            CVY_UNROLL(16) for (int lane = 0; lane < LANES; lane++)
            {
                if (lane >= images.n) continue;
                nn_planes_put(to + lane * image, v[lane], n, pass->accumulate);
            }
        }
    }
}

static void data_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const data_pass *pass = arg;
    const nn_conv2d_geom *geom = pass->geom;
    const nn_cpu_span images = nn_cpu_part(geom->n, LANES, chunk_idx);
    const nn_dft_pitch from = {.row = NN_DFT_OUTPUTS * LANES, .pixel = LANES, .slot = DY_SLOT};
    const nn_dft_pitch to = {.row = NN_DFT_SIDE * LANES, .pixel = LANES, .slot = geom->c * LANES};
    float *const own = pass->scratch + thread_idx * scratch_floats(geom);
    float *const window = own + nn_dft_filter_floats(geom);
    float *const dy = window + NN_DFT_WINDOW_FLOATS, *const dy_slots = dy + DY_FLOATS;
    float *const dx_slots = dy_slots + DY_SLOTS_FLOATS;

    nn_dft_filter_make(geom, pass->filter, own);
    for (int64_t block = 0; block < nn_cpu_blocks(geom->k); block++) {
        block_to_lanes(pass, images, block, dy);
        for (int64_t k = 0; k < NN_CPU_BLOCK && block * NN_CPU_BLOCK + k < geom->k; k++) {
            nn_dft_of_outputs(dy + k * N_PIXELS * LANES, from, dy_slots + k * LANES);
        }
        multiply_block(geom, own, block, dy_slots, dx_slots);
    }
    for (int64_t c = 0; c < geom->c; c++) {
        nn_dft_to_window(dx_slots + c * LANES, to, window);
        lanes_to_planes(pass, window, images, c);
    }
}

cvy_status nn_conv_dft_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                     const float *dy, const float *filter, float *dx,
                                     int accumulate, float *workspace)
{
    data_pass pass = {.geom = geom,
                      .dy = dy,
                      .filter = filter,
                      .dx = dx,
                      .scratch = workspace,
                      .accumulate = accumulate};

    nn_dft_filters_clear(geom, backend->n_threads, scratch_floats(geom), workspace);
    nn_cpu_run(backend, nn_cpu_div_up(geom->n, LANES), data_chunk, &pass);
    return CVY_OK;
}
