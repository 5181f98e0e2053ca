#include "nn/backends/cpu/conv_depthwise_internal.h"

#include "nn/backends/cpu/layout_internal.h"

#include <string.h>

enum {
    N_TASKS = 32,       /* with more threads than that some idle */
    STEP_FLOATS = 8192, /* x and dy of a step, 32 KiB, stay in the first-level cache */
    INPUTS = 9          /* summed at once: a 3x3 filter, and sums enough to hide their latency */
};

void nn_conv_depthwise_plan(const nn_conv2d_geom *geom, nn_conv_depthwise *out)
{
    memset(out, 0, sizeof *out);
    out->geom = *geom;
    nn_conv_sweep_forward(geom, &out->sweep);
    const nn_conv_sweep *sweep = &out->sweep;
    const int64_t n_shares = nn_cpu_least(nn_cpu_div_up(N_TASKS, sweep->n_slices), geom->n);

    out->images_per_share = nn_cpu_div_up(geom->n, n_shares);
    out->n_shares = nn_cpu_div_up(geom->n, out->images_per_share);
    out->rows_per_step = nn_cpu_most(
        1, STEP_FLOATS / (geom->q * NN_CPU_BLOCK + sweep->src_step_h * sweep->row_floats));
    out->n_inputs = nn_cpu_div_up(sweep->n_taps, INPUTS) * INPUTS;
    out->sum_floats = sweep->turns * out->n_inputs * NN_CPU_BLOCK;
    /* Shares may be fewer with more images, but the room for them is not. */
    out->total_floats = out->sum_floats * sweep->n_slices * n_shares;
    out->scratch_floats = sweep->block_floats;
}

typedef struct depthwise_pass {
    const nn_conv_depthwise *plan;
    const float *x, *dy;
    float *dfilter, *sums, *scratch;
} depthwise_pass;

/* Rows of dy, and the first pixel of the copy that they meet. */
typedef struct step_rows {
    int64_t n, n_cols;
    const float *x, *dy;
    int64_t x_pitch, dy_pitch;
} step_rows;

/* sum[i][lane] += x[offset[i]][lane] * dy[lane ^ turn] over all pixels, one vector of a block at a
 * time. */
CVY_INLINE_ALWAYS void add_inputs(const step_rows *rows, const int64_t offset[INPUTS], int turn,
                                  int is_turned, float *sum)
{
    for (int lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
        nn_vec sums[INPUTS];
        CVY_UNROLL(16) for (int i = 0; i < INPUTS; i++)
        {
            sums[i] = nn_vec_all(0.0f);
        }
        for (int64_t row = 0; row < rows->n; row++) {
            const float *dy = rows->dy + row * rows->dy_pitch +
                              (lane ^ turn) / NN_VEC_LANES * NN_VEC_LANES;
            const float *x[INPUTS];
            CVY_UNROLL(16) for (int i = 0; i < INPUTS; i++)
            {
                x[i] = rows->x + offset[i] + row * rows->x_pitch + lane;
            }
            for (int64_t at = 0; at < rows->n_cols * NN_CPU_BLOCK; at += NN_CPU_BLOCK) {
                nn_vec d = nn_vec_load(dy + at);
                if (is_turned) d = nn_vec_flip(d, turn % NN_VEC_LANES);
                CVY_UNROLL(16) for (int i = 0; i < INPUTS; i++)
                {
                    sums[i] += nn_vec_load(x[i] + at) * d;
                }
            }
        }
        CVY_UNROLL(16) for (int i = 0; i < INPUTS; i++)
        {
            float *to = sum + i * NN_CPU_BLOCK + lane;
            nn_vec_store(to, nn_vec_load(to) + sums[i]);
        }
    }
}

/* All taps and turns over some rows. */
static void add_step(const nn_conv_depthwise *plan, const step_rows *rows, float *sums)
{
    const nn_conv_sweep *sweep = &plan->sweep;

    for (int64_t first = 0; first < sweep->n_taps; first += INPUTS) {
        int64_t offset[INPUTS];
        for (int64_t i = 0; i < INPUTS; i++) { /* what is past the end is computed and not used */
            offset[i] = sweep->taps[nn_cpu_least(first + i, sweep->n_taps - 1)].offset;
        }
        add_inputs(rows, offset, 0, 0, sums + first * NN_CPU_BLOCK);
        for (int turn = 1; turn < sweep->turns; turn++) {
            add_inputs(rows, offset, turn, 1,
                       sums + (turn * plan->n_inputs + first) * NN_CPU_BLOCK);
        }
    }
}

static void add_image(const depthwise_pass *pass, int64_t slice, int64_t image, float *copy,
                      float *sums)
{
    const nn_conv_depthwise *plan = pass->plan;
    const nn_conv_sweep *sweep = &plan->sweep;
    const int64_t row_floats = sweep->src_step_h * sweep->row_floats;
    const int64_t dy_row = plan->geom.q * NN_CPU_BLOCK;
    const float *x = pass->x + slice * sweep->src_h * sweep->src_w * NN_CPU_BLOCK;
    const float *dy = pass->dy + (image * sweep->n_slices + slice) * plan->geom.p * dy_row;

    for (int64_t band = 0; band < sweep->n_bands; band++) {
        const nn_cpu_span rows = nn_cpu_part(sweep->rows, sweep->rows_per_band, band);
        nn_conv_sweep_copy(sweep, x, image, rows.first, rows.n, copy);
        for (int64_t i = 0; i < rows.n; i += plan->rows_per_step) {
            const step_rows step = {.n = nn_cpu_least(plan->rows_per_step, rows.n - i),
                                    .n_cols = plan->geom.q,
                                    .x = copy + i * row_floats,
                                    .dy = dy + (rows.first + i) * dy_row,
                                    .x_pitch = row_floats,
                                    .dy_pitch = dy_row};
            add_step(plan, &step, sums);
        }
    }
}

/* Chunks: blocks of channels within shares of the images. */
static void sum_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const depthwise_pass *pass = arg;
    const nn_conv_depthwise *plan = pass->plan;
    const int64_t n_slices = plan->sweep.n_slices;
    const nn_cpu_span images = nn_cpu_part(plan->geom.n, plan->images_per_share,
                                           chunk_idx / n_slices);
    float *const sums = pass->sums + chunk_idx * plan->sum_floats;

    memset(sums, 0, (size_t)plan->sum_floats * sizeof *sums);
    for (int64_t i = images.first; i < images.first + images.n; i++) {
        add_image(pass, chunk_idx % n_slices, i, pass->scratch + thread_idx * plan->scratch_floats,
                  sums);
    }
}

/* The shares of one block, in their order, and from there to KCRS. */
static void reduce_chunk(void *arg, int64_t slice, int thread_idx)
{
    const depthwise_pass *pass = arg;
    const nn_conv_depthwise *plan = pass->plan;
    const int64_t m = plan->sweep.turns, n_taps = plan->sweep.n_taps;
    const int64_t first = slice * NN_CPU_BLOCK, step = plan->sweep.n_slices * plan->sum_floats;
    float *restrict sums = pass->sums + slice * plan->sum_floats;

    (void)thread_idx;
    for (int64_t share = 1; share < plan->n_shares; share++) {
        const float *restrict from = sums + share * step;
        for (int64_t i = 0; i < plan->sum_floats; i++) sums[i] += from[i];
    }
    for (int64_t k = 0; k < nn_cpu_least(NN_CPU_BLOCK, plan->geom.k - first); k++) {
        float *restrict to = pass->dfilter + (first + k) * m * n_taps;
        for (int64_t i = 0; i < m; i++) {
            const int64_t lane = k - k % m + i, turn = k ^ lane;
            const float *from = sums + turn * plan->n_inputs * NN_CPU_BLOCK + lane;
            for (int64_t tap = 0; tap < n_taps; tap++) {
                to[i * n_taps + tap] = from[tap * NN_CPU_BLOCK];
            }
        }
    }
}

void nn_conv_depthwise_run(nn_backend *backend, const nn_conv_depthwise *plan, const float *x,
                           const float *dy, float *dfilter, float *sums, float *scratch)
{
    depthwise_pass pass = {
        .plan = plan, .x = x, .dy = dy, .dfilter = dfilter, .sums = sums, .scratch = scratch};

    nn_cpu_run(backend, plan->sweep.n_slices * plan->n_shares, sum_chunk, &pass);
    nn_cpu_run(backend, plan->sweep.n_slices, reduce_chunk, &pass);
}
