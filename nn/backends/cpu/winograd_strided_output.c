#include "nn/backends/cpu/winograd_strided_internal.h"

#include "nn/backends/cpu/conv_epilogue_internal.h"

/* From positions to pixels. As in winograd_tile.c a row or two of the result are made after the
 * other, each in a pass over tiles beside each other. A tile that reaches over the plane is written
 * to a buffer first, of which then what exists is taken. */

enum { SIZE = NN_STRIDED_SIZE, POINTS = NN_STRIDED_POINTS, LINE = NN_STRIDED_LINE };

/* Constant wherever a pass is made: a tile's outputs, pixels from one of them to the next, and what
 * is done besides. */
typedef struct tile_form {
    int h, w, step;
    int accumulate, has_tail;
} tile_form;

#define SIZES(X) X(4, 4) X(4, 3) X(3, 4) X(3, 3)

CVY_INLINE_ALWAYS void outputs_of(int size, const nn_vec m[POINTS], nn_vec out[SIZE])
{
    const nn_vec sum_a = m[0] + m[1], difference_a = m[0] - m[1];
    const nn_vec sum_b = m[2] + m[3], difference_b = m[2] - m[3];

    out[0] = sum_a + sum_b;
    out[1] = nn_vec_times(NN_STRIDED_A, difference_a) + nn_vec_times(NN_STRIDED_B, difference_b);
    out[2] = nn_vec_times(NN_STRIDED_A2, sum_a) + nn_vec_times(NN_STRIDED_B2, sum_b);
    if (size == 4) {
        out[3] = m[4] + nn_vec_times(NN_STRIDED_A * NN_STRIDED_A2, difference_a) +
                 nn_vec_times(NN_STRIDED_B * NN_STRIDED_B2, difference_b);
    }
}

typedef struct output_pass {
    const float *m;
    const int64_t *places;
    int64_t n;
    float *y;
    int64_t row_pitch;
    nn_epilogue_vecs vecs;
    const float *plane, *residual; /* these lanes of the first pixel; NULL: none */
} output_pass;

CVY_INLINE_ALWAYS void store_pixel(const output_pass *pass, tile_form form, float *at, nn_vec value)
{
    const float *residual = pass->residual;

    if (form.step == 1) value += pass->vecs.bias;
    if (form.has_tail) {
        if (residual != NULL) residual += at - pass->plane;
        value = nn_epilogue_tail(&pass->vecs, residual, value);
    }
    if (form.accumulate) value += nn_vec_load(at);
    nn_vec_store(at, value);
}

/* Both phases are added up (y), or written side by side (dx). */
CVY_INLINE_ALWAYS void store_pixels(const output_pass *pass, tile_form form, float *y,
                                    const nn_vec t[LINE])
{
    nn_vec out[SIZE];

    outputs_of(form.w, t, out);
    CVY_UNROLL(4) for (int i = 0; i < form.w; i++)
    {
        const nn_vec middle = t[form.w + 1 + i];
        float *at = y + i * form.step * NN_CPU_BLOCK;
        if (form.step == 1) {
            store_pixel(pass, form, at, out[i] + middle);
        } else {
            store_pixel(pass, form, at, middle);
            store_pixel(pass, form, at + NN_CPU_BLOCK, out[i]);
        }
    }
}

/* Two rows of outputs, or one. */
CVY_INLINE_ALWAYS void output_points(const output_pass *pass, tile_form form, int first, int second)
{
    const int line = 2 * form.w + 1;
    const int64_t *places = pass->places;
    const float *m = pass->m;
    float *y = pass->y + (form.step - 1) * pass->row_pitch;

    for (int64_t tile = 0; tile < pass->n; tile++) {
        nn_vec t[2][LINE];
        CVY_UNROLL(9) for (int j = 0; j < line; j++)
        {
            nn_vec d[POINTS] = {{0.0f}}, v[SIZE];
            CVY_UNROLL(5) for (int i = 0; i <= form.h; i++)
            {
                d[i] = nn_vec_load(m + places[i * line + j]);
            }
            outputs_of(form.h, d, v);
            t[0][j] = v[first];
            t[1][j] = v[second];
            if (form.step == 1) {
                t[0][j] += nn_vec_load(m + places[(form.h + 1 + first) * line + j]);
                t[1][j] += nn_vec_load(m + places[(form.h + 1 + second) * line + j]);
            }
        }
        store_pixels(pass, form, y + first * form.step * pass->row_pitch, t[0]);
        if (second != first) {
            store_pixels(pass, form, y + second * form.step * pass->row_pitch, t[1]);
        }
        m += NN_CPU_BLOCK;
        y += form.w * form.step * NN_CPU_BLOCK;
    }
}

/* A row of dx that meets the middle tap. */
CVY_INLINE_ALWAYS void output_middle(const output_pass *pass, tile_form form, int i)
{
    const int line = 2 * form.w + 1;
    const int64_t *places = pass->places + (form.h + 1 + i) * line;
    const float *m = pass->m;
    float *y = pass->y + i * form.step * pass->row_pitch;

    for (int64_t tile = 0; tile < pass->n; tile++) {
        nn_vec t[LINE];
        CVY_UNROLL(9) for (int j = 0; j < line; j++) t[j] = nn_vec_load(m + places[j]);
        store_pixels(pass, form, y, t);
        m += NN_CPU_BLOCK;
        y += form.w * form.step * NN_CPU_BLOCK;
    }
}

CVY_INLINE_ALWAYS void output_rows(const output_pass *pass, tile_form form)
{
    output_points(pass, form, 0, 2);
    output_points(pass, form, 1, form.h == 4 ? 3 : 1);
    for (int i = 0; form.step == 2 && i < form.h; i++) output_middle(pass, form, i);
}

typedef void (*output_function)(const output_pass *pass);

#define DEFINE(h, w)                                                                               \
    static void output_##h##_##w##_y(const output_pass *pass)                                      \
    {                                                                                              \
        output_rows(pass, (tile_form){h, w, 1, 0, 0});                                             \
    }                                                                                              \
    static void output_##h##_##w##_tail(const output_pass *pass)                                   \
    {                                                                                              \
        output_rows(pass, (tile_form){h, w, 1, 0, 1});                                             \
    }                                                                                              \
    static void output_##h##_##w##_dx(const output_pass *pass)                                     \
    {                                                                                              \
        output_rows(pass, (tile_form){h, w, 2, 0, 0});                                             \
    }                                                                                              \
    static void output_##h##_##w##_add(const output_pass *pass)                                    \
    {                                                                                              \
        output_rows(pass, (tile_form){h, w, 2, 1, 0});                                             \
    }
SIZES(DEFINE)
#undef DEFINE

/* [step - 1][has a tail, or adds] */
#define ENTRY(h, w)                                                                                \
    [h - 3][w - 3] = {{output_##h##_##w##_y, output_##h##_##w##_tail},                             \
                      {output_##h##_##w##_dx, output_##h##_##w##_add}},
static const output_function output_functions[2][2][2][2] = {SIZES(ENTRY)};
#undef ENTRY

/* What exists of a tile of h x w pixels, from a buffer. */
static void store_part(const output_pass *to, const float *buffer, const nn_strided_tiles *tiles,
                       int64_t col, tile_form form)
{
    const int64_t w = form.w * form.step;
    const int64_t n_rows = nn_cpu_least(form.h * form.step, tiles->plane_h - tiles->row);
    const int64_t n_cols = nn_cpu_least(w, tiles->plane_w - col);

    for (int64_t i = 0; i < n_rows; i++) {
        for (int64_t j = 0; j < n_cols; j++) {
            store_pixel(to, form, to->y + i * to->row_pitch + j * NN_CPU_BLOCK,
                        nn_vec_load(buffer + (i * w + j) * NN_CPU_BLOCK));
        }
    }
}

/* Tiles of a plane; form.accumulate and has_tail say what is done besides. */
static void write_tiles(const float *m, const int64_t *places, const nn_conv_epilogue *epilogue,
                        float *plane, const nn_strided_tiles *tiles, tile_form form)
{
    const output_function *const output = output_functions[form.h - 3][form.w - 3][form.step - 1];
    const int64_t h = form.h * form.step, w = form.w * form.step;
    const int has_more = form.accumulate || form.has_tail;
    float buffer[4 * SIZE * SIZE * NN_CPU_BLOCK];

    for (int64_t tile = 0, n = 0; tile < tiles->n; tile += n) {
        const int64_t col = tiles->col + tile * w;
        const int64_t n_inside = tiles->row + h <= tiles->plane_h
                                     ? nn_strided_count_inside(tiles, tile, w, w)
                                     : 0;
        n = nn_cpu_most(1, n_inside);
        for (int lane = 0; lane < NN_CPU_BLOCK; lane += NN_VEC_LANES) {
            output_pass pass = {.m = m + tile * NN_CPU_BLOCK + lane,
                                .places = places,
                                .n = n,
                                .y = plane + (tiles->row * tiles->plane_w + col) * NN_CPU_BLOCK +
                                     lane,
                                .row_pitch = tiles->plane_w * NN_CPU_BLOCK,
                                .vecs = nn_epilogue_vecs_of(epilogue, lane),
                                .plane = plane + lane};
            if (epilogue->residual != NULL) pass.residual = epilogue->residual + lane;
            if (n_inside > 0) {
                output[has_more](&pass);
                continue;
            }
            const output_pass whole = {.m = pass.m,
                                       .places = places,
                                       .n = 1,
                                       .y = buffer + lane,
                                       .row_pitch = w * NN_CPU_BLOCK};
            output[0](&whole);
            store_part(&pass, buffer + lane, tiles, col, form);
        }
    }
}

void nn_strided_output(const float *m, const int64_t *places, const nn_conv_epilogue *epilogue,
                       float *plane, const nn_strided_tiles *tiles)
{
    write_tiles(m, places, epilogue, plane, tiles,
                (tile_form){tiles->h, tiles->w, 1, 0, nn_epilogue_has_tail(epilogue)});
}

void nn_strided_output_phases(const float *m, const int64_t *places, int accumulate, float *plane,
                              const nn_strided_tiles *tiles)
{
    write_tiles(m, places, &(nn_conv_epilogue){0}, plane, tiles,
                (tile_form){tiles->h, tiles->w, 2, accumulate != 0, 0});
}
