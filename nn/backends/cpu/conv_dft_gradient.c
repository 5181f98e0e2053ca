#include "nn/backends/cpu/conv_dft_internal.h"

#include <string.h>

/* The gradient of the filter: the lanes of dy's transforms and of the sums are output channels.
 * Images are cut into shares, whose sums are transformed back and then added in their order. The
 * sum of dy, for the bias, is the first slot of its transform. */

enum {
    LANES = NN_VEC_LANES,
    MOST_SHARES = 16,
    N_TAPS = NN_DFT_TAPS * NN_DFT_TAPS,
    N_PIXELS = NN_DFT_OUTPUTS * NN_DFT_OUTPUTS,
    DY_SLOT = NN_DFT_IMAGES * NN_CPU_BLOCK,    /* floats: (image, 16) */
    TILE_CHANNELS = NN_VEC_LANES == 16 ? 8 : 4 /* whose sums registers have room for */
};

typedef struct gradient_plan {
    int64_t blocks;
    int64_t sum_floats;   /* of a block: (slot, c, 16), then 16 for the bias */
    int64_t block_floats; /* of a share's block: (c, tap, 16), then 16 for the bias */
    int64_t share_floats;
    int64_t images_per_share, n_shares, most_shares;
    int64_t scratch_floats; /* of a thread: the window, the transforms of x and of dy, the sums */
} gradient_plan;

static gradient_plan plan_of(const nn_conv2d_geom *geom)
{
    gradient_plan plan = {.blocks = nn_cpu_blocks(geom->k)};
    const int64_t n_runs = nn_cpu_div_up(geom->n, NN_DFT_IMAGES);

    plan.sum_floats = (NN_DFT_SLOTS * geom->c + 1) * NN_CPU_BLOCK;
    plan.block_floats = (N_TAPS * geom->c + 1) * NN_CPU_BLOCK;
    plan.share_floats = plan.blocks * plan.block_floats;
    plan.most_shares = nn_cpu_least(n_runs, MOST_SHARES);
    plan.images_per_share = nn_cpu_div_up(n_runs, plan.most_shares) * NN_DFT_IMAGES;
    plan.n_shares = nn_cpu_div_up(geom->n, plan.images_per_share);
    plan.scratch_floats = NN_DFT_WINDOW_FLOATS + NN_DFT_SLOTS * nn_dft_x_pitch(geom) +
                          NN_DFT_SLOTS * DY_SLOT + plan.blocks * plan.sum_floats;
    return plan;
}

int64_t nn_conv_dft_filter_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    const gradient_plan plan = plan_of(geom);

    return plan.most_shares * plan.share_floats + backend->n_threads * plan.scratch_floats;
}

typedef struct gradient_pass {
    const nn_conv2d_geom *geom;
    gradient_plan plan;
    const float *x, *dy;
    float *dfilter, *dbias;
    float *shares, *scratch;
} gradient_pass;

/* --- Products --------------------------------------------------------------------------------- */

/* Some images and channels of x: x (image, c), dy (image, 16), sum (c, 16). */
typedef struct product {
    const float *x, *dy;
    float *sum;
    int64_t n_images, c, x_slot, sum_slot; /* floats to the next slot */
} product;

CVY_INLINE_ALWAYS void add_real(const product *at, int n_channels)
{
    nn_vec sum[TILE_CHANNELS];

    CVY_UNROLL(8) for (int c = 0; c < n_channels; c++)
    {
        sum[c] = nn_vec_load(at->sum + c * NN_CPU_BLOCK);
    }
    for (int64_t i = 0; i < at->n_images; i++) {
        const nn_vec dy = nn_vec_load(at->dy + i * NN_CPU_BLOCK);
        CVY_UNROLL(8) for (int c = 0; c < n_channels; c++)
        {
            sum[c] += nn_vec_all(at->x[i * at->c + c]) * dy;
        }
    }
    CVY_UNROLL(8) for (int c = 0; c < n_channels; c++)
    {
        nn_vec_store(at->sum + c * NN_CPU_BLOCK, sum[c]);
    }
}

CVY_INLINE_ALWAYS void add_complex(const product *at, int n_channels)
{
    nn_vec re[TILE_CHANNELS], im[TILE_CHANNELS];
    float *const sum_im = at->sum + at->sum_slot;

    CVY_UNROLL(8) for (int c = 0; c < n_channels; c++)
    {
        re[c] = nn_vec_load(at->sum + c * NN_CPU_BLOCK);
        im[c] = nn_vec_load(sum_im + c * NN_CPU_BLOCK);
    }
    for (int64_t i = 0; i < at->n_images; i++) {
        const float *const x_re = at->x + i * at->c, *const x_im = x_re + at->x_slot;
        nn_vec dy_re = nn_vec_load(at->dy + i * NN_CPU_BLOCK);
        nn_vec dy_im = nn_vec_load(at->dy + DY_SLOT + i * NN_CPU_BLOCK);
        CVY_KEEP_VECTOR(dy_re);
        CVY_KEEP_VECTOR(dy_im);
        CVY_UNROLL(8) for (int c = 0; c < n_channels; c++)
        {
            nn_vec a = nn_vec_all(x_re[c]), b = nn_vec_all(x_im[c]);
            CVY_KEEP_VECTOR(a);
            CVY_KEEP_VECTOR(b);
            re[c] += a * dy_re;
            im[c] += b * dy_re;
            re[c] += b * dy_im;
            im[c] -= a * dy_im;
        }
    }
    CVY_UNROLL(8) for (int c = 0; c < n_channels; c++)
    {
        nn_vec_store(at->sum + c * NN_CPU_BLOCK, re[c]);
        nn_vec_store(sum_im + c * NN_CPU_BLOCK, im[c]);
    }
}

/* All slots. */
CVY_INLINE_ALWAYS void add_products(product at, int n_channels)
{
    for (int part = 0; part < NN_DFT_PARTS; part++) {
        add_real(&at, n_channels);
        at.x += at.x_slot, at.dy += DY_SLOT, at.sum += at.sum_slot;
        for (int i = 1; i < NN_DFT_PART_SLOTS; i += 2) {
            add_complex(&at, n_channels);
            at.x += 2 * at.x_slot, at.dy += 2 * DY_SLOT, at.sum += 2 * at.sum_slot;
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
    static void add_products_##channels(product at)                                                \
    {                                                                                              \
        add_products(at, channels);                                                                \
    }
ALL_TILES(DEFINE)
#undef DEFINE

#define ENTRY(channels) [channels - 1] = add_products_##channels,
static void (*const tiles[TILE_CHANNELS])(product at) = {ALL_TILES(ENTRY)};
#undef ENTRY

/* --- Shares ----------------------------------------------------------------------------------- */

/* LANES channels of a block for some images. */
static void add_lanes(const gradient_pass *pass, const float *x_slots, const float *dy_slots,
                      int64_t n_images, float *sums)
{
    const int64_t n_c = pass->geom->c, n_tiles = nn_cpu_div_up(n_c, TILE_CHANNELS);
    const int64_t size = nn_cpu_div_up(n_c, n_tiles);

    for (int64_t tile = 0; tile < n_tiles; tile++) {
        const nn_cpu_span channels = nn_cpu_part(n_c, size, tile);
        tiles[channels.n - 1]((product){.x = x_slots + channels.first,
                                        .dy = dy_slots,
                                        .sum = sums + channels.first * NN_CPU_BLOCK,
                                        .n_images = n_images,
                                        .c = n_c,
                                        .x_slot = nn_dft_x_pitch(pass->geom),
                                        .sum_slot = n_c * NN_CPU_BLOCK});
    }
}

/* Some images, of which x is transformed, and a block of dy. */
static void add_block(const gradient_pass *pass, nn_cpu_span images, int64_t block,
                      const float *x_slots, float *dy_slots, float *sums)
{
    const nn_dft_pitch pitch = {
        .row = NN_DFT_OUTPUTS * NN_CPU_BLOCK, .pixel = NN_CPU_BLOCK, .slot = DY_SLOT};

    for (int64_t lane = 0; lane < NN_CPU_BLOCK; lane += LANES) {
        float *const bias = sums + pass->plan.sum_floats - NN_CPU_BLOCK + lane;
        nn_vec sum = nn_vec_load(bias);
        for (int64_t i = 0; i < images.n; i++) {
            const float *dy = pass->dy + ((images.first + i) * pass->plan.blocks + block) *
                                             N_PIXELS * NN_CPU_BLOCK;
            nn_dft_of_outputs(dy + lane, pitch, dy_slots + i * NN_CPU_BLOCK);
            sum += nn_vec_load(dy_slots + i * NN_CPU_BLOCK);
        }
        nn_vec_store(bias, sum);
        add_lanes(pass, x_slots, dy_slots, images.n, sums + lane);
    }
}

/* A block's sums to its part of a share. */
static void sums_to_taps(const gradient_plan *plan, int64_t n_c, float *sums, float *to)
{
    const nn_dft_pitch pitch = {
        .row = NN_DFT_TAPS * NN_CPU_BLOCK, .pixel = NN_CPU_BLOCK, .slot = n_c * NN_CPU_BLOCK};

    for (int64_t v = 0; v < n_c * NN_CPU_BLOCK; v += LANES) {
        for (int part = 0; part < NN_DFT_PARTS; part++) {
            float *const real = sums + part * NN_DFT_PART_SLOTS * pitch.slot + v;
            nn_vec_store(real, nn_vec_times(0.5f, nn_vec_load(real)));
        }
        nn_dft_to_taps(sums + v, pitch,
                       to + v / NN_CPU_BLOCK * N_TAPS * NN_CPU_BLOCK + v % NN_CPU_BLOCK);
    }
    memcpy(to + plan->block_floats - NN_CPU_BLOCK, sums + plan->sum_floats - NN_CPU_BLOCK,
           NN_CPU_BLOCK * sizeof *to);
}

static void share_chunk(void *arg, int64_t share, int thread_idx)
{
    const gradient_pass *pass = arg;
    const gradient_plan *plan = &pass->plan;
    const nn_cpu_span all = nn_cpu_part(pass->geom->n, plan->images_per_share, share);
    float *const window = pass->scratch + thread_idx * plan->scratch_floats;
    float *const x_slots = window + NN_DFT_WINDOW_FLOATS;
    float *const dy_slots = x_slots + NN_DFT_SLOTS * nn_dft_x_pitch(pass->geom);
    float *const sums = dy_slots + NN_DFT_SLOTS * DY_SLOT;

    memset(sums, 0, (size_t)(plan->blocks * plan->sum_floats) * sizeof *sums);
    for (int64_t first = 0; first < all.n; first += NN_DFT_IMAGES) {
        const nn_cpu_span images = {all.first + first, nn_cpu_least(NN_DFT_IMAGES, all.n - first)};
        nn_dft_of_planes(pass->geom, pass->x, images, window, x_slots);
        for (int64_t block = 0; block < plan->blocks; block++) {
            add_block(pass, images, block, x_slots, dy_slots, sums + block * plan->sum_floats);
        }
    }
    for (int64_t block = 0; block < plan->blocks; block++) {
        sums_to_taps(plan, pass->geom->c, sums + block * plan->sum_floats,
                     pass->shares + share * plan->share_floats + block * plan->block_floats);
    }
}

/* --- From shares to the gradients ------------------------------------------------------------- */

/* The sum of all shares, 16 floats that start at `at` of each, times a factor. */
static void total(const gradient_pass *pass, int64_t at, float factor, float out[NN_CPU_BLOCK])
{
    for (int64_t v = 0; v < NN_CPU_BLOCK; v += LANES) {
        nn_vec sum = nn_vec_load(pass->shares + at + v);
        for (int64_t share = 1; share < pass->plan.n_shares; share++) {
            sum += nn_vec_load(pass->shares + share * pass->plan.share_floats + at + v);
        }
        nn_vec_store(out + v, nn_vec_times(factor, sum));
    }
}

/* One block of channels. */
static void total_chunk(void *arg, int64_t block, int thread_idx)
{
    const gradient_pass *pass = arg;
    const int64_t first = block * NN_CPU_BLOCK, n = pass->geom->c * N_TAPS;
    const int64_t n_k = nn_cpu_least(NN_CPU_BLOCK, pass->geom->k - first);
    float sum[NN_CPU_BLOCK];

    (void)thread_idx;
    for (int64_t i = 0; i < n; i++) {
        total(pass, block * pass->plan.block_floats + i * NN_CPU_BLOCK, NN_DFT_SCALE, sum);
        for (int64_t k = 0; k < n_k; k++) pass->dfilter[(first + k) * n + i] = sum[k];
    }
    if (pass->dbias == NULL) return;
    total(pass, block * pass->plan.block_floats + n * NN_CPU_BLOCK, 1.0f, sum);
    for (int64_t k = 0; k < n_k; k++) pass->dbias[first + k] = sum[k];
}

cvy_status nn_conv_dft_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                       const float *x, const float *dy, float *dfilter,
                                       float *dbias, float *workspace)
{
    gradient_pass pass = {.geom = geom,
                          .plan = plan_of(geom),
                          .x = x,
                          .dy = dy,
                          .dfilter = dfilter,
                          .dbias = dbias,
                          .shares = workspace};

    pass.scratch = workspace + pass.plan.most_shares * pass.plan.share_floats;
    nn_cpu_run(backend, pass.plan.n_shares, share_chunk, &pass);
    nn_cpu_run(backend, pass.plan.blocks, total_chunk, &pass);
    return CVY_OK;
}
