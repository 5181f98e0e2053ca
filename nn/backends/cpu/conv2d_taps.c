#include "nn/backends/cpu/conv2d_internal.h"

#include <string.h>

nn_cpu_span nn_cpu_conv_reach(int64_t tap_offset, int64_t stride, int64_t n_in, int64_t n_out)
{
    const int64_t first = nn_cpu_least(n_out, nn_cpu_div_up(nn_cpu_most(0, -tap_offset), stride));
    const int64_t room = n_in - tap_offset; /* position * stride must stay below */
    const int64_t end = room <= 0 ? 0 : nn_cpu_least(n_out, nn_cpu_div_up(room, stride));

    return (nn_cpu_span){first, nn_cpu_most(0, end - first)};
}

/* One tap over one tile: output (row, col) meets input (row stride_h + row_offset, ...). The spans
 * are the outputs inside the tile, counted from its corner, that meet the input at all. */
typedef struct tap_view {
    int64_t row_offset, col_offset;
    nn_cpu_span rows, cols;
    int is_shift; /* input and output rows are equally long and not strided: one long run */
} tap_view;

static nn_cpu_span clip(nn_cpu_span span, int64_t first, int64_t n)
{
    const int64_t low = nn_cpu_most(span.first, first);
    const int64_t high = nn_cpu_least(span.first + span.n, first + n);

    return (nn_cpu_span){low - first, nn_cpu_most(0, high - low)};
}

static tap_view view_tap(const nn_conv2d_geom *geom, int64_t r, int64_t s, nn_cpu_conv_tile tile)
{
    tap_view tap = {.row_offset = r * geom->dil_h - geom->pad_h,
                    .col_offset = s * geom->dil_w - geom->pad_w};

    tap.rows = clip(nn_cpu_conv_reach(tap.row_offset, geom->stride_h, geom->h, geom->p), tile.row,
                    tile.n_rows);
    tap.cols = clip(nn_cpu_conv_reach(tap.col_offset, geom->stride_w, geom->w, geom->q), tile.col,
                    tile.n_cols);
    if (tap.cols.n == 0) tap.rows.n = 0;
    tap.is_shift = geom->stride_h == 1 && geom->stride_w == 1 && geom->q == geom->w &&
                   tile.n_cols == geom->q;
    return tap;
}

static void clear(float *to, int64_t n)
{
    if (n > 0) memset(to, 0, (size_t)n * sizeof(float));
}

/* Zeros left and right of the columns that meet the input. */
static void clear_margins(tap_view tap, int64_t n_cols, float *cols)
{
    const int64_t end = tap.cols.first + tap.cols.n;

    for (int64_t i = tap.rows.first; i < tap.rows.first + tap.rows.n; i++) {
        float *row = cols + i * n_cols;
        for (int64_t j = 0; j < tap.cols.first; j++) row[j] = 0.0f;
        for (int64_t j = end; j < n_cols; j++) row[j] = 0.0f;
    }
}

/* Place in the input plane that output (first column that meets it, row i of the tile) reads. */
static int64_t input_place(const nn_conv2d_geom *geom, tap_view tap, nn_cpu_conv_tile tile,
                           int64_t i)
{
    return ((tile.row + i) * geom->stride_h + tap.row_offset) * geom->w +
           (tile.col + tap.cols.first) * geom->stride_w + tap.col_offset;
}

static void copy_strided(int64_t n, const float *restrict from, int64_t stride, float *restrict to)
{
    if (stride == 1) {
        memcpy(to, from, (size_t)n * sizeof(float));
    } else if (stride == 2) {
        for (int64_t i = 0; i < n; i++) to[i] = from[2 * i];
    } else {
        for (int64_t i = 0; i < n; i++) to[i] = from[i * stride];
    }
}

static void add_strided(int64_t n, const float *restrict from, float *restrict to, int64_t stride)
{
    if (stride == 1) {
        for (int64_t i = 0; i < n; i++) to[i] += from[i];
    } else if (stride == 2) {
        for (int64_t i = 0; i < n; i++) to[2 * i] += from[i];
    } else {
        for (int64_t i = 0; i < n; i++) to[i * stride] += from[i];
    }
}

/* Length of the one run from the first to the last pixel that meets the input; the margins lie
 * within it and hold neighbours' values, to be cleared. */
static int64_t run_length(tap_view tap, int64_t n_cols)
{
    return (tap.rows.n - 1) * n_cols + tap.cols.n;
}

static void gather_tap(const nn_conv2d_geom *geom, const float *plane, tap_view tap,
                       nn_cpu_conv_tile tile, float *cols)
{
    const int64_t n_cols = tile.n_cols, first = tap.rows.first, end = first + tap.rows.n;

    if (tap.rows.n == 0) {
        clear(cols, tile.n_rows * n_cols);
        return;
    }
    clear(cols, first * n_cols);
    clear(cols + end * n_cols, (tile.n_rows - end) * n_cols);
    if (tap.is_shift) {
        memcpy(cols + first * n_cols + tap.cols.first, plane + input_place(geom, tap, tile, first),
               (size_t)run_length(tap, n_cols) * sizeof(float));
    } else {
        for (int64_t i = first; i < end; i++) {
            copy_strided(tap.cols.n, plane + input_place(geom, tap, tile, i), geom->stride_w,
                         cols + i * n_cols + tap.cols.first);
        }
    }
    if (tap.cols.n < n_cols) clear_margins(tap, n_cols, cols);
}

static void scatter_tap(const nn_conv2d_geom *geom, float *cols, tap_view tap,
                        nn_cpu_conv_tile tile, float *plane)
{
    const int64_t n_cols = tile.n_cols, first = tap.rows.first;

    if (tap.rows.n == 0) return;
    if (tap.is_shift) {
        float *to = plane + input_place(geom, tap, tile, first);
        if (tap.cols.n < n_cols) clear_margins(tap, n_cols, cols);
        add_strided(run_length(tap, n_cols), cols + first * n_cols + tap.cols.first, to, 1);
        return;
    }
    for (int64_t i = first; i < first + tap.rows.n; i++) {
        float *to = plane + input_place(geom, tap, tile, i);
        add_strided(tap.cols.n, cols + i * n_cols + tap.cols.first, to, geom->stride_w);
    }
}

void nn_cpu_conv_gather(const nn_cpu_conv_plan *plan, const float *x, nn_cpu_span channels,
                        nn_cpu_conv_tile tile, float *cols)
{
    const nn_conv2d_geom *geom = plan->geom;
    const int64_t plane = geom->h * geom->w, image_px = tile.n_rows * tile.n_cols;

    for (int64_t tap_idx = 0; tap_idx < plan->taps; tap_idx++) {
        const tap_view tap = view_tap(geom, tap_idx / geom->s, tap_idx % geom->s, tile);
        for (int64_t c = 0; c < channels.n; c++) {
            float *row = cols + (c * plan->taps + tap_idx) * tile.px;
            for (int64_t i = 0; i < tile.n_images; i++) {
                const int64_t at = (tile.image + i) * geom->c + channels.first + c;
                gather_tap(geom, x + at * plane, tap, tile, row + i * image_px);
            }
        }
    }
}

void nn_cpu_conv_scatter(const nn_cpu_conv_plan *plan, float *cols, nn_cpu_span channels,
                         nn_cpu_conv_tile tile, float *dx)
{
    const nn_conv2d_geom *geom = plan->geom;
    const int64_t plane = geom->h * geom->w, image_px = tile.n_rows * tile.n_cols;

    for (int64_t tap_idx = 0; tap_idx < plan->taps; tap_idx++) {
        const tap_view tap = view_tap(geom, tap_idx / geom->s, tap_idx % geom->s, tile);
        for (int64_t c = 0; c < channels.n; c++) {
            float *row = cols + (c * plan->taps + tap_idx) * tile.px;
            for (int64_t i = 0; i < tile.n_images; i++) {
                const int64_t at = (tile.image + i) * geom->c + channels.first + c;
                scatter_tap(geom, row + i * image_px, tap, tile, dx + at * plane);
            }
        }
    }
}

nn_cpu_matrix nn_cpu_conv_dy(const nn_cpu_conv_plan *plan, const float *dy, int64_t group,
                             nn_cpu_conv_tile tile, float *side)
{
    const nn_conv2d_geom *geom = plan->geom;
    const float *from = dy + (tile.image * geom->k + group * plan->group_k) * plan->px;

    if (plan->images_per_tile == 1) {
        return (nn_cpu_matrix){from + tile.offset, plan->px, 0};
    }
    for (int64_t k = 0; k < plan->group_k; k++) {
        for (int64_t i = 0; i < tile.n_images; i++) {
            memcpy(side + k * tile.px + i * plan->px, from + (i * geom->k + k) * plan->px,
                   (size_t)plan->px * sizeof(float));
        }
    }
    return (nn_cpu_matrix){side, tile.px, 0};
}
