#include "nn/backends/cpu/conv_tile_internal.h"

#include <stddef.h>

enum { MOST_VECS = 2 * NN_VECS_PER_BLOCK, MOST_PIXELS = 16 };

/* A tap's inputs: a block of channels; or one, in planes, where the next float is the next pixel;
 * or a block whose channels meet one output each. */
typedef enum tile_input { IN_BLOCKS, IN_PLANES, IN_LANES } tile_input;

/* What is known when the code is compiled. */
typedef struct tile_form {
    int n_out_blocks, n_rows, n_pixels;
    tile_input input;
} tile_form;

/* One input channel: every pixel's value, or its vector, times the vectors of the filter. */
CVY_INLINE_ALWAYS void add_channel(nn_vec sum[MOST_PIXELS][MOST_VECS], const float *x0,
                                   const float *x1, const float *filter, tile_form form)
{
    const int n_vecs = form.n_out_blocks * NN_VECS_PER_BLOCK;
    nn_vec f[MOST_VECS];

    CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++) f[v] = nn_vec_load(filter + v * NN_VEC_LANES);
    CVY_UNROLL(16) for (int i = 0; i < form.n_rows * form.n_pixels; i++)
    {
        const int pitch = form.input == IN_PLANES ? 1 : NN_CPU_BLOCK;
        const float *x = i < form.n_pixels ? x0 + i * pitch : x1 + (i - form.n_pixels) * pitch;
        CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++)
        {
            const nn_vec value = form.input == IN_LANES ? nn_vec_load(x + v * NN_VEC_LANES)
                                                        : nn_vec_all(*x);
            sum[i][v] += value * f[v];
        }
    }
}

CVY_INLINE_ALWAYS nn_vec load_or_0(const float *values, int at)
{
    return values != NULL ? nn_vec_load(values + at) : nn_vec_all(0.0f);
}

CVY_INLINE_ALWAYS void store_tile(const nn_conv_tile *tile, nn_vec sum[MOST_PIXELS][MOST_VECS],
                                  tile_form form)
{
    const nn_conv_epilogue *epilogue = &tile->epilogue;
    const int n_vecs = form.n_out_blocks * NN_VECS_PER_BLOCK, n_pixels = form.n_pixels;

    CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++)
    {
        const int block = v / NN_VECS_PER_BLOCK, lane = v % NN_VECS_PER_BLOCK * NN_VEC_LANES;
        const nn_vec bias = load_or_0(epilogue->bias, v * NN_VEC_LANES);
        const nn_vec mean = load_or_0(epilogue->mean, v * NN_VEC_LANES);
        const nn_vec scale = load_or_0(epilogue->scale, v * NN_VEC_LANES);
        const nn_vec shift = load_or_0(epilogue->shift, v * NN_VEC_LANES);
        CVY_UNROLL(16) for (int i = 0; i < form.n_rows * form.n_pixels; i++)
        {
            const int64_t at = block * tile->y_block_pitch + i / n_pixels * tile->y_row_pitch +
                               i % n_pixels * tile->y_pixel_pitch + lane;
            nn_vec value = sum[i][v] + bias;
            if (epilogue->mean != NULL) value = (value - mean) * scale + shift;
            if (tile->accumulate) value += nn_vec_load(tile->y + at);
            if (epilogue->residual != NULL) value += nn_vec_load(epilogue->residual + at);
            /* A NaN stays one: NaN <= 0 is false. */
            if (epilogue->is_relu) {
                value = nn_vec_where(~(nn_mask)(value <= nn_vec_all(0.0f)), value);
            }
            nn_vec_store(tile->y + at, value);
        }
    }
}

/* The cache lines of y, which stand ready when the sum does. Sums of lanes are so short that the
 * next row's are fetched instead; past the last row there is nothing to lose. */
CVY_INLINE_ALWAYS void fetch_y(const nn_conv_tile *tile, tile_form form)
{
    const int64_t ahead = form.input == IN_LANES ? tile->y_row_pitch : 0;

    CVY_UNROLL(2) for (int block = 0; block < form.n_out_blocks; block++)
    {
        CVY_UNROLL(16) for (int i = 0; i < form.n_rows * form.n_pixels; i++)
        {
            CVY_PREFETCH_WRITE(tile->y + ahead + block * tile->y_block_pitch +
                               i / form.n_pixels * tile->y_row_pitch +
                               i % form.n_pixels * tile->y_pixel_pitch);
        }
    }
}

CVY_INLINE_ALWAYS void fetch_x(const nn_conv_tile *tile, const float *x0, tile_form form)
{
    CVY_UNROLL(16) for (int i = 0; i < form.n_rows * form.n_pixels; i++)
    {
        CVY_PREFETCH_NEAR(x0 + tile->fetch + i / form.n_pixels * tile->x_row_pitch +
                          i % form.n_pixels * NN_CPU_BLOCK);
    }
}

/* Sums to the lanes where the next turn adds to them: nn_conv_turn() changes in this bit. */
CVY_INLINE_ALWAYS void flip_lanes(nn_vec sum[MOST_PIXELS][MOST_VECS], int bit, tile_form form)
{
    CVY_UNROLL(16) for (int i = 0; i < form.n_rows * form.n_pixels; i++)
    {
        if (bit < NN_VEC_LANES) {
            CVY_UNROLL(16) for (int v = 0; v < NN_VECS_PER_BLOCK; v++)
            {
                sum[i][v] = nn_vec_flip(sum[i][v], bit);
            }
        } else { /* the lanes of one vector: neighbours change places */
            CVY_UNROLL(16) for (int v = 0; v + 1 < NN_VECS_PER_BLOCK; v += 2)
            {
                const nn_vec value = sum[i][v];
                sum[i][v] = sum[i][v + 1];
                sum[i][v + 1] = value;
            }
        }
    }
}

CVY_INLINE_ALWAYS void run_tile(const nn_conv_tile *tile, tile_form form)
{
    const int n_vecs = form.n_out_blocks * NN_VECS_PER_BLOCK;
    const int n_channels = form.input == IN_BLOCKS ? NN_CPU_BLOCK : 1;
    const float *filter = tile->filter;
    nn_vec sum[MOST_PIXELS][MOST_VECS];

    CVY_UNROLL(16) for (int i = 0; i < form.n_rows * form.n_pixels; i++)
    {
        CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++) sum[i][v] = nn_vec_all(0.0f);
    }
    fetch_y(tile, form);
    for (int64_t block = 0; block < tile->n_blocks; block++) {
        const float *x = tile->x + block * tile->x_block_pitch;
        if (form.input == IN_LANES && block > 0) flip_lanes(sum, (int)(block & -block), form);
        for (int64_t tap = 0; tap < tile->n_taps; tap++) {
            const float *x0 = x + tile->tap_offset[tap];
            const float *x1 = x0 + tile->x_row_pitch;
            if (form.input == IN_BLOCKS && tile->fetch != 0) fetch_x(tile, x0, form);
            for (int c = 0; c < n_channels; c++) {
                add_channel(sum, x0 + c, x1 + c, filter, form);
                filter += n_vecs * NN_VEC_LANES;
            }
        }
    }
    store_tile(tile, sum, form);
}

/* One function per shape of tile, so that each keeps its sums in registers. */
#define UP_TO_4(X, blocks, rows, input)                                                            \
    X(blocks, rows, 1, input)                                                                      \
    X(blocks, rows, 2, input) X(blocks, rows, 3, input) X(blocks, rows, 4, input)
#define UP_TO_7(X, blocks, rows, input)                                                            \
    UP_TO_4(X, blocks, rows, input)                                                                \
    X(blocks, rows, 5, input) X(blocks, rows, 6, input) X(blocks, rows, 7, input)
#define UP_TO_10(X, blocks, rows, input)                                                           \
    UP_TO_7(X, blocks, rows, input)                                                                \
    X(blocks, rows, 8, input) X(blocks, rows, 9, input) X(blocks, rows, 10, input)
#define UP_TO_14(X, blocks, rows, input)                                                           \
    UP_TO_10(X, blocks, rows, input)                                                               \
    X(blocks, rows, 11, input)                                                                     \
    X(blocks, rows, 12, input) X(blocks, rows, 13, input) X(blocks, rows, 14, input)
#define ONE_BLOCK(X, input)                                                                        \
    UP_TO_14(X, 1, 1, input)                                                                       \
    X(1, 1, 15, input) X(1, 1, 16, input) UP_TO_7(X, 1, 2, input) X(1, 2, 8, input)
#define BLOCK_TILES(X)                                                                             \
    ONE_BLOCK(X, IN_BLOCKS) UP_TO_14(X, 2, 1, IN_BLOCKS) UP_TO_7(X, 2, 2, IN_BLOCKS)
#define PLANE_TILES(X)                                                                             \
    UP_TO_14(X, 1, 1, IN_PLANES)                                                                   \
    X(1, 1, 15, IN_PLANES) X(1, 1, 16, IN_PLANES) UP_TO_14(X, 2, 1, IN_PLANES)
#define LANE_TILES(X) ONE_BLOCK(X, IN_LANES)

#define DEFINE(blocks, rows, pixels, input)                                                        \
    static void tile_##blocks##_##rows##_##pixels##_##input(const nn_conv_tile *tile)              \
    {                                                                                              \
        run_tile(tile, (tile_form){blocks, rows, pixels, input});                                  \
    }
BLOCK_TILES(DEFINE)
PLANE_TILES(DEFINE)
LANE_TILES(DEFINE)
#undef DEFINE

typedef void (*tile_function)(const nn_conv_tile *tile);

#define ENTRY(blocks, rows, pixels, input)                                                         \
    [blocks - 1][rows - 1][pixels - 1] = tile_##blocks##_##rows##_##pixels##_##input,
static const tile_function block_tiles[2][2][MOST_PIXELS] = {BLOCK_TILES(ENTRY)};
static const tile_function plane_tiles[2][1][MOST_PIXELS] = {PLANE_TILES(ENTRY)};
static const tile_function lane_tiles[1][2][MOST_PIXELS] = {LANE_TILES(ENTRY)};
#undef ENTRY

void nn_conv_tile_run(const nn_conv_tile *tile, int n_out_blocks, int n_rows, int n_pixels)
{
    block_tiles[n_out_blocks - 1][n_rows - 1][n_pixels - 1](tile);
}

void nn_conv_tile_run_planes(const nn_conv_tile *tile, int n_out_blocks, int n_pixels)
{
    plane_tiles[n_out_blocks - 1][0][n_pixels - 1](tile);
}

void nn_conv_tile_run_lanes(const nn_conv_tile *tile, int n_rows, int n_pixels)
{
    lane_tiles[0][n_rows - 1][n_pixels - 1](tile);
}
