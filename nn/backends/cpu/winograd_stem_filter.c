#include "nn/backends/cpu/winograd_stem_internal.h"
#include "nn/backends/cpu/winograd_stem_lines_internal.h"

enum { IN = NN_STEM_IN, TAPS = NN_STEM_TAPS };

int64_t nn_stem_column_floats(const nn_stem_column *column)
{
    return (column->n_full * IN + column->n_rest * (IN - 1)) * NN_CPU_BLOCK;
}

int64_t nn_stem_filter_floats(const nn_stem *stem)
{
    return (IN - 1) * nn_stem_column_floats(&stem->finite) + nn_stem_column_floats(&stem->infinite);
}

/* The taps (TAPS, TAPS, 16) of a lane and a block of outputs. */
static void gather_taps(const nn_stem *stem, const float *filter, int64_t block, int64_t lane,
                        float taps[TAPS * TAPS * NN_CPU_BLOCK])
{
    const nn_conv2d_geom *geom = &stem->geom;
    const int64_t c = lane % geom->c, phase_h = lane / geom->c / 2, phase_w = lane / geom->c % 2;

    for (int64_t i = 0; i < TAPS * TAPS; i++) {
        const int64_t r = 2 * (i / TAPS) + phase_h, s = 2 * (i % TAPS) + phase_w;
        for (int64_t k = 0; k < NN_CPU_BLOCK; k++) {
            const int64_t row = (block * NN_CPU_BLOCK + k) * geom->c + c;
            const int exists = r < geom->r && s < geom->s && block * NN_CPU_BLOCK + k < geom->k;
            taps[i * NN_CPU_BLOCK + k] = exists ? filter[(row * geom->r + r) * geom->s + s] : 0.0f;
        }
    }
}

/* out: (IN, IN, 16). */
static void transform_taps(const float *taps, float *out)
{
    for (int v = 0; v < NN_CPU_BLOCK; v += NN_VEC_LANES) {
        nn_vec t[TAPS][IN];
        for (int i = 0; i < TAPS; i++) {
            nn_vec g[TAPS];
            for (int j = 0; j < TAPS; j++) {
                g[j] = nn_vec_load(taps + (i * TAPS + j) * NN_CPU_BLOCK + v);
            }
            nn_stem_filter_line(g, t[i]);
        }
        for (int j = 0; j < IN; j++) {
            const nn_vec column[TAPS] = {t[0][j], t[1][j], t[2][j], t[3][j]};
            nn_vec u[IN];
            nn_stem_filter_line(column, u);
            for (int i = 0; i < IN; i++) nn_vec_store(out + (i * IN + j) * NN_CPU_BLOCK + v, u[i]);
        }
    }
}

void nn_stem_filter(const nn_stem *stem, const float *filter, int64_t block, float *out)
{
    float all[NN_STEM_MOST_LANES][IN * IN * NN_CPU_BLOCK], taps[TAPS * TAPS * NN_CPU_BLOCK];

    for (int64_t lane = 0; lane < stem->n_lanes; lane++) {
        gather_taps(stem, filter, block, lane, taps);
        transform_taps(taps, all[lane]);
    }
    for (int j = 0; j < IN; j++) {
        const nn_stem_column *column = nn_stem_column_at(stem, j);
        for (int n = 0; n < column->n_full + column->n_rest; n++) {
            const float *from = all[column->lane[n]] + j * NN_CPU_BLOCK;
            for (int i = 0; i < (n < column->n_full ? IN : IN - 1); i++) {
                for (int k = 0; k < NN_CPU_BLOCK; k++) {
                    *out++ = from[i * IN * NN_CPU_BLOCK + k];
                }
            }
        }
    }
}
