#include "nn/backends/cpu/winograd_internal.h"

/* The products at one position. As in conv_tile.c sums stay in registers over all channels of src,
 * but the tiles of a block follow each other, then the blocks, so that what comes next is known and
 * fetched while this block is multiplied. */

enum { MOST_VECS = 2 * NN_VECS_PER_BLOCK, MOST_TILES = 14 };

CVY_INLINE_ALWAYS void multiply_tiles(const float *x, const float *filter, int64_t n_blocks,
                                      int n_tiles, int n_out_blocks, float *y)
{
    const int n_vecs = n_out_blocks * NN_VECS_PER_BLOCK;
    nn_vec sum[MOST_TILES][MOST_VECS];

    CVY_UNROLL(16) for (int i = 0; i < n_tiles; i++)
    {
        CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++) sum[i][v] = nn_vec_all(0.0f);
    }
    for (int64_t block = 0; block < n_blocks; block++) {
        for (int c = 0; c < NN_CPU_BLOCK; c++) {
            nn_vec f[MOST_VECS];
            CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++)
            {
                f[v] = nn_vec_load(filter + v * NN_VEC_LANES);
            }
            CVY_UNROLL(16) for (int i = 0; i < n_tiles; i++)
            {
                const nn_vec value = nn_vec_all(x[i * NN_CPU_BLOCK + c]);
                CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++) sum[i][v] += value * f[v];
            }
            CVY_PREFETCH_NEAR(x + (NN_TILE_PIXELS + c) * NN_CPU_BLOCK);
            CVY_PREFETCH_NEAR(filter + NN_CPU_BLOCK * n_vecs * NN_VEC_LANES);
            if (n_out_blocks == 2) {
                CVY_PREFETCH_NEAR(filter + (NN_CPU_BLOCK * n_vecs + 1) * NN_VEC_LANES);
            }
            filter += n_vecs * NN_VEC_LANES;
        }
        x += NN_TILE_PIXELS * NN_CPU_BLOCK;
    }
    CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++)
    {
        float *to = y + v / NN_VECS_PER_BLOCK * NN_TILE_PIXELS * NN_CPU_BLOCK +
                    v % NN_VECS_PER_BLOCK * NN_VEC_LANES;
        CVY_UNROLL(16) for (int i = 0; i < n_tiles; i++)
        {
            nn_vec_store(to + i * NN_CPU_BLOCK, sum[i][v]);
        }
    }
}

/* One function per number of tiles and of blocks, so that each keeps its sums in registers. */
#define UP_TO_5(X, blocks) X(blocks, 1) X(blocks, 2) X(blocks, 3) X(blocks, 4) X(blocks, 5)
#define UP_TO_10(X, blocks)                                                                        \
    UP_TO_5(X, blocks)                                                                             \
    X(blocks, 6) X(blocks, 7) X(blocks, 8) X(blocks, 9) X(blocks, 10)
#define UP_TO_14(X, blocks)                                                                        \
    UP_TO_10(X, blocks)                                                                            \
    X(blocks, 11) X(blocks, 12) X(blocks, 13) X(blocks, 14)
#define DEFINE(blocks, tiles)                                                                      \
    static void multiply_##blocks##_##tiles(const float *x, const float *filter, int64_t n_blocks, \
                                            float *y)                                              \
    {                                                                                              \
        multiply_tiles(x, filter, n_blocks, tiles < NN_TILE_PIXELS ? tiles : NN_TILE_PIXELS,       \
                       blocks < NN_TILE_BLOCKS ? blocks : NN_TILE_BLOCKS, y);                      \
    }
UP_TO_14(DEFINE, 1)
UP_TO_14(DEFINE, 2)
#undef DEFINE

typedef void (*multiply_function)(const float *x, const float *filter, int64_t n_blocks, float *y);

#define ENTRY(blocks, tiles) [blocks - 1][tiles - 1] = multiply_##blocks##_##tiles,
static const multiply_function multiply[2][MOST_TILES] = {UP_TO_14(ENTRY, 1) UP_TO_14(ENTRY, 2)};
#undef ENTRY

/* One block of src and of dst: the filters stay in registers, where these are enough. */
enum { SINGLE_TILES = 8 };

static void multiply_single(const float *x, const float *filter, int64_t n_tiles, float *y)
{
    nn_vec f[NN_CPU_BLOCK];

    CVY_UNROLL(16) for (int c = 0; c < NN_CPU_BLOCK; c++)
    {
        f[c] = nn_vec_load(filter + c * NN_CPU_BLOCK);
    }
    for (int64_t first = 0; first < n_tiles; first += SINGLE_TILES) {
        nn_vec sum[SINGLE_TILES];
        CVY_UNROLL(16) for (int i = 0; i < SINGLE_TILES; i++) sum[i] = nn_vec_all(0.0f);
        CVY_UNROLL(16) for (int c = 0; c < NN_CPU_BLOCK; c++)
        {
            CVY_UNROLL(16) for (int i = 0; i < SINGLE_TILES; i++)
            {
                sum[i] += nn_vec_all(x[i * NN_CPU_BLOCK + c]) * f[c];
            }
        }
        CVY_UNROLL(16) for (int i = 0; i < SINGLE_TILES; i++)
        {
            nn_vec_store(y + i * NN_CPU_BLOCK, sum[i]);
        }
        x += SINGLE_TILES * NN_CPU_BLOCK;
        y += SINGLE_TILES * NN_CPU_BLOCK;
    }
}

void nn_wino_multiply(const nn_wino_product *product, int n_blocks)
{
    const int64_t width = product->src->width, src_blocks = product->src->blocks;
    const float *x = product->x;
    float *y = product->y;

    /* Where the last tiles do not fill the registers, the rest of the set is multiplied as well. */
    if (NN_VECS_PER_BLOCK == 1 && n_blocks == 1 && src_blocks == 1 && width % SINGLE_TILES == 0) {
        multiply_single(x, product->filter, product->n_tiles, y);
        return;
    }
    for (int64_t i = 0; i < product->n_tiles; i += width) {
        const int64_t n = nn_cpu_least(width, product->n_tiles - i);
        multiply[n_blocks - 1][n - 1](x, product->filter, src_blocks, y);
        x += src_blocks * width * NN_CPU_BLOCK;
        y += product->dst->blocks * width * NN_CPU_BLOCK;
    }
}
