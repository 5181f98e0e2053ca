#include "nn/backends/cpu/conv_dft_internal.h"

/* The transforms of conv_dft_internal.h, on vectors whose lanes have nothing to do with each other.
 */

/* --- Lines of 7 ------------------------------------------------------------------------------- */

/* cos(2 pi j / 7) and sin(2 pi j / 7) for j = 1, 2, 3: the others are the same but for signs. */
typedef struct factors {
    nn_vec c1, c2, c3, s1, s2, s3;
} factors;

CVY_INLINE_ALWAYS factors get_factors(void)
{
    factors f = {.c1 = nn_vec_all(0.62348980185873353f),
                 .c2 = nn_vec_all(-0.22252093395631440f),
                 .c3 = nn_vec_all(-0.90096886790241913f),
                 .s1 = nn_vec_all(0.78183148246802981f),
                 .s2 = nn_vec_all(0.97492791218182361f),
                 .s3 = nn_vec_all(0.43388373911755812f)};

    if (NN_VEC_LANES == 16) { /* else there are not so many registers */
        CVY_KEEP_VECTOR(f.c1);
        CVY_KEEP_VECTOR(f.c2);
        CVY_KEEP_VECTOR(f.c3);
        CVY_KEEP_VECTOR(f.s1);
        CVY_KEEP_VECTOR(f.s2);
        CVY_KEEP_VECTOR(f.s3);
    }
    return f;
}

/* even[m] = p[0] + sum of p[j] cos(2 pi jm / 7), odd[m] = sum of q[j] sin(2 pi jm / 7), j = 1, 2,
 * 3, for m = 0, 1, 2, 3. q[0] is not there, odd[0] is 0 and not written. */
CVY_INLINE_ALWAYS void turn(const factors *f, const nn_vec p[4], const nn_vec q[4], nn_vec even[4],
                            nn_vec odd[4])
{
    even[0] = (p[0] + p[1]) + (p[2] + p[3]);
    even[1] = p[0] + f->c1 * p[1] + f->c2 * p[2] + f->c3 * p[3];
    even[2] = p[0] + f->c2 * p[1] + f->c3 * p[2] + f->c1 * p[3];
    even[3] = p[0] + f->c3 * p[1] + f->c1 * p[2] + f->c2 * p[3];
    odd[1] = f->s1 * q[1] + f->s2 * q[2] + f->s3 * q[3];
    odd[2] = f->s2 * q[1] - f->s3 * q[2] - f->s1 * q[3];
    odd[3] = f->s3 * q[1] - f->s1 * q[2] + f->s2 * q[3];
}

/* The transform of 7 real numbers: real parts of X[0] to X[3], imaginary ones of X[1] to X[3]. */
CVY_INLINE_ALWAYS void line_forward(const factors *f, const nn_vec x[NN_DFT_HALF], nn_vec re[4],
                                    nn_vec im[4])
{
    const nn_vec p[4] = {x[0], x[1] + x[6], x[2] + x[5], x[3] + x[4]};
    const nn_vec q[4] = {x[0], x[1] - x[6], x[2] - x[5], x[3] - x[4]};

    turn(f, p, q, re, im);
}

CVY_INLINE_ALWAYS void line_back(const factors *f, const nn_vec re[4], const nn_vec im[4],
                                 nn_vec x[NN_DFT_HALF])
{
    nn_vec even[4], odd[4];

    turn(f, re, im, even, odd);
    x[0] = even[0];
    CVY_UNROLL(4) for (int j = 1; j < 4; j++)
    {
        x[j] = even[j] + odd[j];
        x[7 - j] = even[j] - odd[j];
    }
}

/* --- Forward ---------------------------------------------------------------------------------- */

/* Of a part, lines along its rows: X[0], then real and imaginary parts of X[1] to X[3]. */
typedef nn_vec part_lines[NN_DFT_HALF][NN_DFT_HALF];

CVY_INLINE_ALWAYS void put_line(const factors *f, const nn_vec x[NN_DFT_HALF],
                                nn_vec out[NN_DFT_HALF])
{
    nn_vec re[4], im[4];

    line_forward(f, x, re, im);
    out[0] = re[0];
    CVY_UNROLL(4) for (int m = 1; m < 4; m++)
    {
        out[2 * m - 1] = re[m];
        out[2 * m] = im[m];
    }
}

/* (-1)^j (a - b). */
CVY_INLINE_ALWAYS nn_vec difference(nn_vec a, nn_vec b, int is_odd)
{
    return is_odd ? b - a : a - b;
}

/* What is known of two rows when the code is compiled. */
typedef struct row_form {
    int is_odd, has_bottom, n_cols;
} row_form;

/* Rows i and, if there is one, i + 7, of n_cols pixels each, to row i of all parts. */
CVY_INLINE_ALWAYS void split_rows(const factors *f, const float *top, const float *bottom,
                                  int64_t pixel, row_form form, part_lines *parts, int row)
{
    const int is_odd = form.is_odd, has_bottom = form.has_bottom, n_cols = form.n_cols;
    const nn_vec zero = nn_vec_all(0.0f);

    CVY_UNROLL(2) for (int minus = 0; minus < 2; minus++)
    {
        nn_vec x[NN_DFT_SIDE], sum[NN_DFT_HALF];
        CVY_UNROLL(16) for (int j = 0; j < n_cols; j++)
        {
            const nn_vec a = nn_vec_load(top + j * pixel);
            const nn_vec b = has_bottom ? nn_vec_load(bottom + j * pixel) : zero;
            if (has_bottom) {
                x[j] = minus ? difference(a, b, is_odd) : a + b;
            } else {
                x[j] = minus && is_odd ? zero - a : a;
            }
        }
        CVY_UNROLL(8) for (int j = 0; j < NN_DFT_HALF; j++)
        {
            sum[j] = j + 7 < n_cols ? x[j] + x[j + 7] : j < n_cols ? x[j] : zero;
        }
        put_line(f, sum, parts[2 * minus][row]);
        CVY_UNROLL(8) for (int j = 0; j < NN_DFT_HALF; j++)
        {
            const nn_vec b = j + 7 < n_cols ? x[j + 7] : zero;
            if (j >= n_cols) continue;
            sum[j] = j + 7 < n_cols || j % 2 == 1 ? difference(x[j], b, j % 2) : x[j];
        }
        put_line(f, sum, parts[2 * minus + 1][row]);
    }
}

/* Lines along the columns of a part. */
CVY_INLINE_ALWAYS void put_columns(const factors *f, part_lines lines, int64_t slot, float *slots)
{
    nn_vec x[NN_DFT_HALF], re[4], im[4];

    CVY_UNROLL(8) for (int i = 0; i < NN_DFT_HALF; i++) x[i] = lines[i][0];
    line_forward(f, x, re, im);
    nn_vec_store(slots, re[0]);
    CVY_UNROLL(4) for (int m = 1; m < 4; m++)
    {
        nn_vec_store(slots + (2 * m - 1) * slot, re[m]);
        nn_vec_store(slots + 2 * m * slot, im[m]);
    }
    for (int col = 1; col < NN_DFT_HALF; col += 2) {
        float *const to = slots + (NN_DFT_HALF + (col - 1) * NN_DFT_HALF) * slot;
        nn_vec re_i[4], im_i[4]; /* of the imaginary parts */
        CVY_UNROLL(8) for (int i = 0; i < NN_DFT_HALF; i++) x[i] = lines[i][col];
        line_forward(f, x, re, im);
        CVY_UNROLL(8) for (int i = 0; i < NN_DFT_HALF; i++) x[i] = lines[i][col + 1];
        line_forward(f, x, re_i, im_i);
        nn_vec_store(to, re[0]);
        nn_vec_store(to + slot, re_i[0]);
        CVY_UNROLL(4) for (int m = 1; m < 4; m++)
        {
            nn_vec_store(to + 2 * m * slot, re[m] - im_i[m]);
            nn_vec_store(to + (2 * m + 1) * slot, im[m] + re_i[m]);
            nn_vec_store(to + 2 * (7 - m) * slot, re[m] + im_i[m]);
            nn_vec_store(to + (2 * (7 - m) + 1) * slot, re_i[m] - im[m]);
        }
    }
}

CVY_INLINE_ALWAYS void forward(const float *pixels, nn_dft_pitch pitch, int extent, float *slots)
{
    const factors f = get_factors();
    part_lines parts[NN_DFT_PARTS];

    for (int i = 0; i < NN_DFT_HALF; i++) {
        const float *top = pixels + i * pitch.row, *bottom = top + NN_DFT_HALF * pitch.row;
        if (i >= extent) {
            for (int part = 0; part < NN_DFT_PARTS; part++) {
                for (int j = 0; j < NN_DFT_HALF; j++) parts[part][i][j] = nn_vec_all(0.0f);
            }
        } else if (i + NN_DFT_HALF < extent) {
            if (i % 2 == 0) {
                split_rows(&f, top, bottom, pitch.pixel, (row_form){0, 1, extent}, parts, i);
            } else {
                split_rows(&f, top, bottom, pitch.pixel, (row_form){1, 1, extent}, parts, i);
            }
        } else if (i % 2 == 0) {
            split_rows(&f, top, top, pitch.pixel, (row_form){0, 0, extent}, parts, i);
        } else {
            split_rows(&f, top, top, pitch.pixel, (row_form){1, 0, extent}, parts, i);
        }
    }
    for (int part = 0; part < NN_DFT_PARTS; part++) {
        put_columns(&f, parts[part], pitch.slot, slots + part * NN_DFT_PART_SLOTS * pitch.slot);
    }
}

void nn_dft_of_window(const float *pixels, nn_dft_pitch pitch, float *slots)
{
    forward(pixels, pitch, NN_DFT_SIDE, slots);
}

void nn_dft_of_outputs(const float *pixels, nn_dft_pitch pitch, float *slots)
{
    forward(pixels, pitch, NN_DFT_OUTPUTS, slots);
}

void nn_dft_of_taps(const float *pixels, nn_dft_pitch pitch, float *slots)
{
    forward(pixels, pitch, NN_DFT_TAPS, slots);
}

/* --- Back ------------------------------------------------------------------------------------- */

/* A pair of columns of a part, real and imaginary parts, from their transforms. */
CVY_INLINE_ALWAYS void column_back(const factors *f, const float *from, int64_t slot, int col,
                                   part_lines lines)
{
    nn_vec sum_r[4], sum_i[4], diff_r[4], diff_i[4]; /* of X[m] and X[7 - m] */
    nn_vec even_r[4], even_i[4], odd_r[4], odd_i[4];

    sum_r[0] = nn_vec_load(from);
    sum_i[0] = nn_vec_load(from + slot);
    CVY_UNROLL(4) for (int m = 1; m < 4; m++)
    {
        const nn_vec re = nn_vec_load(from + 2 * m * slot);
        const nn_vec im = nn_vec_load(from + (2 * m + 1) * slot);
        const nn_vec other_re = nn_vec_load(from + 2 * (7 - m) * slot);
        const nn_vec other_im = nn_vec_load(from + (2 * (7 - m) + 1) * slot);
        sum_r[m] = re + other_re;
        sum_i[m] = im + other_im;
        diff_r[m] = re - other_re;
        diff_i[m] = im - other_im;
    }
    turn(f, sum_r, diff_i, even_r, odd_i);
    lines[0][col] = even_r[0];
    CVY_UNROLL(4) for (int i = 1; i < 4; i++)
    {
        lines[i][col] = even_r[i] + odd_i[i];
        lines[7 - i][col] = even_r[i] - odd_i[i];
    }
    turn(f, sum_i, diff_r, even_i, odd_r);
    lines[0][col + 1] = even_i[0];
    CVY_UNROLL(4) for (int i = 1; i < 4; i++)
    {
        lines[i][col + 1] = even_i[i] - odd_r[i];
        lines[7 - i][col + 1] = even_i[i] + odd_r[i];
    }
}

CVY_INLINE_ALWAYS void columns_back(const factors *f, const float *slots, int64_t slot,
                                    part_lines lines)
{
    nn_vec re[4], im[4], x[NN_DFT_HALF];

    re[0] = nn_vec_load(slots);
    CVY_UNROLL(4) for (int m = 1; m < 4; m++)
    {
        re[m] = nn_vec_load(slots + (2 * m - 1) * slot);
        im[m] = nn_vec_load(slots + 2 * m * slot);
    }
    line_back(f, re, im, x);
    CVY_UNROLL(8) for (int i = 0; i < NN_DFT_HALF; i++) lines[i][0] = x[i];
    for (int col = 1; col < NN_DFT_HALF; col += 2) {
        column_back(f, slots + (NN_DFT_HALF + (col - 1) * NN_DFT_HALF) * slot, slot, col, lines);
    }
}

/* A row of a part. */
CVY_INLINE_ALWAYS void row_back(const factors *f, const nn_vec line[NN_DFT_HALF],
                                nn_vec x[NN_DFT_HALF])
{
    nn_vec re[4], im[4];

    re[0] = line[0];
    CVY_UNROLL(4) for (int m = 1; m < 4; m++)
    {
        re[m] = line[2 * m - 1];
        im[m] = line[2 * m];
    }
    line_back(f, re, im, x);
}

/* Row i of all parts to rows i and, if there is one, i + 7. */
CVY_INLINE_ALWAYS void join_rows(const factors *f, part_lines *parts, int row, row_form form,
                                 float *top, float *bottom, int64_t pixel)
{
    const int is_odd = form.is_odd, has_bottom = form.has_bottom, n_cols = form.n_cols;
    nn_vec x[2][NN_DFT_SIDE];

    CVY_UNROLL(2) for (int minus = 0; minus < 2; minus++)
    {
        nn_vec sum[NN_DFT_HALF], diff[NN_DFT_HALF];
        row_back(f, parts[2 * minus][row], sum);
        row_back(f, parts[2 * minus + 1][row], diff);
        CVY_UNROLL(8) for (int j = 0; j < NN_DFT_HALF; j++)
        {
            x[minus][j] = j % 2 ? sum[j] - diff[j] : sum[j] + diff[j];
            x[minus][j + 7] = j % 2 ? sum[j] + diff[j] : sum[j] - diff[j];
        }
    }
    CVY_UNROLL(16) for (int j = 0; j < n_cols; j++)
    {
        const nn_vec plus = x[0][j] + x[1][j], less = x[0][j] - x[1][j];
        nn_vec_store(top + j * pixel, is_odd ? less : plus);
        if (has_bottom) nn_vec_store(bottom + j * pixel, is_odd ? plus : less);
    }
}

CVY_INLINE_ALWAYS void back(const float *slots, nn_dft_pitch pitch, int extent, float *pixels)
{
    const factors f = get_factors();
    part_lines parts[NN_DFT_PARTS];

    for (int part = 0; part < NN_DFT_PARTS; part++) {
        columns_back(&f, slots + part * NN_DFT_PART_SLOTS * pitch.slot, pitch.slot, parts[part]);
    }
    for (int i = 0; i < NN_DFT_HALF && i < extent; i++) {
        float *const top = pixels + i * pitch.row;
        if (i + NN_DFT_HALF < extent) {
            float *const bottom = top + NN_DFT_HALF * pitch.row;
            if (i % 2 == 0) {
                join_rows(&f, parts, i, (row_form){0, 1, extent}, top, bottom, pitch.pixel);
            } else {
                join_rows(&f, parts, i, (row_form){1, 1, extent}, top, bottom, pitch.pixel);
            }
        } else if (i % 2 == 0) {
            join_rows(&f, parts, i, (row_form){0, 0, extent}, top, top, pitch.pixel);
        } else {
            join_rows(&f, parts, i, (row_form){1, 0, extent}, top, top, pitch.pixel);
        }
    }
}

void nn_dft_to_window(const float *slots, nn_dft_pitch pitch, float *pixels)
{
    back(slots, pitch, NN_DFT_SIDE, pixels);
}

void nn_dft_to_outputs(const float *slots, nn_dft_pitch pitch, float *pixels)
{
    back(slots, pitch, NN_DFT_OUTPUTS, pixels);
}

void nn_dft_to_taps(const float *slots, nn_dft_pitch pitch, float *pixels)
{
    back(slots, pitch, NN_DFT_TAPS, pixels);
}
