#include "nn/backends/cpu/conv_outer_internal.h"

enum { MOST_VECS = 2 * NN_VECS_PER_BLOCK, MOST_INPUTS = 16 };

CVY_INLINE_ALWAYS void load_dy(const nn_conv_outer *outer, const float *dy, int n_vecs,
                               nn_vec out[MOST_VECS])
{
    CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++)
    {
        out[v] = nn_vec_load(dy + v / NN_VECS_PER_BLOCK * outer->dy_block_pitch +
                             v % NN_VECS_PER_BLOCK * NN_VEC_LANES);
    }
}

CVY_INLINE_ALWAYS void clear(nn_vec sum[MOST_INPUTS][MOST_VECS], int n_inputs, int n_vecs)
{
    CVY_UNROLL(16) for (int i = 0; i < n_inputs; i++)
    {
        CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++) sum[i][v] = nn_vec_all(0.0f);
    }
}

CVY_INLINE_ALWAYS void put_sum(nn_vec sum[MOST_INPUTS][MOST_VECS], int n_inputs, int n_vecs,
                               int is_new, float *to)
{
    CVY_UNROLL(16) for (int i = 0; is_new && i < n_inputs; i++)
    {
        CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++)
        {
            nn_vec_store(to + (i * n_vecs + v) * NN_VEC_LANES, sum[i][v]);
        }
    }
    CVY_UNROLL(16) for (int i = 0; !is_new && i < n_inputs; i++)
    {
        CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++)
        {
            float *at = to + (i * n_vecs + v) * NN_VEC_LANES;
            nn_vec_store(at, nn_vec_load(at) + sum[i][v]);
        }
    }
}

CVY_INLINE_ALWAYS void fetch(const nn_conv_outer *outer, const float *x, const float *dy,
                             int n_vecs)
{
    CVY_PREFETCH_READ(x + outer->x_fetch);
    CVY_UNROLL(2) for (int block = 0; block < n_vecs / NN_VECS_PER_BLOCK; block++)
    {
        CVY_PREFETCH_READ(dy + outer->dy_fetch + block * outer->dy_block_pitch);
    }
}

CVY_INLINE_ALWAYS void sum_block(const nn_conv_outer *outer, const float *from, float *to,
                                 int n_inputs, int n_vecs, int is_fetching)
{
    nn_vec sum[MOST_INPUTS][MOST_VECS];

    for (int i = 0; i < n_inputs * n_vecs * NN_VEC_LANES; i += NN_CPU_BLOCK) {
        CVY_PREFETCH_NEAR(to + i);
    }
    clear(sum, n_inputs, n_vecs);
    for (int64_t image = 0; image < outer->n_images; image++) {
        for (int64_t row = 0; row < outer->n_rows; row++) {
            const float *x = from + image * outer->x_image_pitch + row * outer->x_row_pitch;
            const float *dy = outer->dy + image * outer->dy_image_pitch + row * outer->dy_row_pitch;
            for (int64_t col = 0; col < outer->n_cols; col++) {
                nn_vec d[MOST_VECS];
                load_dy(outer, dy, n_vecs, d);
                if (is_fetching) {
                    fetch(outer, x, dy, n_vecs);
                } else {
                    CVY_PREFETCH_NEAR(x + outer->x_near);
                }
                CVY_UNROLL(16) for (int i = 0; i < n_inputs; i++)
                {
                    const nn_vec value = nn_vec_all(x[i]);
                    CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++) sum[i][v] += value * d[v];
                }
                x += outer->x_col_pitch;
                dy += NN_CPU_BLOCK;
            }
        }
    }
    put_sum(sum, n_inputs, n_vecs, outer->is_new, to);
}

/* As many channels at once as registers hold: a block in one go or in parts. */
enum { ONE_INPUTS = NN_VEC_LANES == 16 ? 16 : NN_OUTER_CHANNELS, TWO_INPUTS = NN_OUTER_CHANNELS };

/* The first part of the channels fetches for all. */
CVY_INLINE_ALWAYS void sum_channels(const nn_conv_outer *outer, int n_inputs, int n_vecs)
{
    int i = 0;

    if (outer->x_fetch != 0 || outer->dy_fetch != 0) {
        sum_block(outer, outer->x, outer->sum, n_inputs, n_vecs, 1);
        i = n_inputs;
    }
    for (; i < NN_CPU_BLOCK; i += n_inputs) {
        sum_block(outer, outer->x + i, outer->sum + i * n_vecs * NN_VEC_LANES, n_inputs, n_vecs, 0);
    }
}

void nn_conv_outer_block(const nn_conv_outer *outer, int n_out_blocks)
{
    if (n_out_blocks == 2) {
        sum_channels(outer, TWO_INPUTS, 2 * NN_VECS_PER_BLOCK);
    } else {
        sum_channels(outer, ONE_INPUTS, NN_VECS_PER_BLOCK);
    }
}

CVY_INLINE_ALWAYS void sum_taps(const nn_conv_outer *outer, const int64_t *offset, int n_inputs,
                                int n_vecs)
{
    nn_vec sum[MOST_INPUTS][MOST_VECS];

    clear(sum, n_inputs, n_vecs);
    for (int64_t image = 0; image < outer->n_images; image++) {
        for (int64_t row = 0; row < outer->n_rows; row++) {
            const float *from = outer->x + image * outer->x_image_pitch + row * outer->x_row_pitch;
            const float *dy = outer->dy + image * outer->dy_image_pitch + row * outer->dy_row_pitch;
            const float *x[MOST_INPUTS];
            CVY_UNROLL(16) for (int i = 0; i < n_inputs; i++) x[i] = from + offset[i];
            for (int64_t col = 0; col < outer->n_cols; col++) {
                nn_vec d[MOST_VECS];
                load_dy(outer, dy + col * NN_CPU_BLOCK, n_vecs, d);
                CVY_UNROLL(16) for (int i = 0; i < n_inputs; i++)
                {
                    const nn_vec value = nn_vec_all(x[i][col]);
                    CVY_UNROLL(16) for (int v = 0; v < n_vecs; v++) sum[i][v] += value * d[v];
                }
            }
        }
    }
    put_sum(sum, n_inputs, n_vecs, outer->is_new, outer->sum);
}

void nn_conv_outer_taps(const nn_conv_outer *outer, int n_out_blocks, const int64_t *offset)
{
    if (n_out_blocks == 2) {
        sum_taps(outer, offset, NN_OUTER_TAPS_TWO, 2 * NN_VECS_PER_BLOCK);
    } else {
        sum_taps(outer, offset, 2 * NN_OUTER_TAPS_TWO, NN_VECS_PER_BLOCK);
    }
}
