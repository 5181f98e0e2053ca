#include "nn/backends/cpu/batchnorm_blocks_internal.h"

#include "nn/backends/cpu/layout_internal.h"

#include <stddef.h>

/* The backward pass of batchnorm_blocks.c. */

/* dx = a d + (b (x - mean) + c): the formula of the reference with its constants together. The
 * scale and shift of forward tell the sign of y. */
typedef struct back_line {
    float a[NN_CPU_BLOCK], b[NN_CPU_BLOCK], c[NN_CPU_BLOCK];
    float mean[NN_CPU_BLOCK], scale[NN_CPU_BLOCK], shift[NN_CPU_BLOCK];
} back_line;
_Static_assert(sizeof(back_line) <= NN_CPU_LINE * sizeof(float), "a line has its place");

typedef struct back_pass {
    const nn_cpu_bn_gradient *bn;
    nn_bn_cut cut;
    double *partials; /* [share][block] NN_CPU_PARTIAL: sums of d, and of d (x - mean) */
    float *lines;     /* [block] NN_CPU_LINE */
    int64_t planes_per_chunk;
    int is_streamed;
} back_pass;

static back_line *line_at(const back_pass *pass, int64_t block)
{
    return (back_line *)(void *)(pass->lines + block * NN_CPU_LINE);
}

/* How d follows from dy. */
typedef enum sign_form { UNSIGNED, SIGN_OF_Y, SIGN_FROM_X } sign_form;

static sign_form form_of(const nn_cpu_bn_gradient *bn)
{
    if (!bn->is_relu) return UNSIGNED;
    return bn->y != NULL ? SIGN_OF_Y : SIGN_FROM_X;
}

/* The line of a block in registers. */
typedef struct back_vecs {
    nn_vec mean[NN_BN_VECS], scale[NN_BN_VECS], shift[NN_BN_VECS];
} back_vecs;

CVY_INLINE_ALWAYS back_vecs load_line(const back_line *along, sign_form sign)
{
    back_vecs out;

    nn_bn_load(along->mean, out.mean);
    if (sign == SIGN_FROM_X) {
        nn_bn_load(along->scale, out.scale);
        nn_bn_load(along->shift, out.shift);
    }
    return out;
}

CVY_INLINE_ALWAYS nn_vec gradient_at(nn_vec x, const float *dy, const float *y,
                                     const back_vecs *along, int v, sign_form sign)
{
    const nn_vec zero = nn_vec_all(0.0f), value = nn_vec_load(dy);

    if (sign == UNSIGNED) return value;
    const nn_vec sum = sign == SIGN_OF_Y
                           ? nn_vec_load(y)
                           : nn_bn_value(x, along->mean[v], along->scale[v], along->shift[v]);
    return nn_vec_where((nn_mask)(sum > zero), value);
}

/* --- Sums ----------------------------------------------------------------------------------- */

/* Over every second pixel, so that one addition need not wait for the last. */
typedef struct back_sums {
    nn_vec sum[NN_BN_VECS], product[NN_BN_VECS];
} back_sums;

CVY_INLINE_ALWAYS void add_pixel(const float *x, const float *dy, const float *y,
                                 const back_vecs *along, sign_form sign, back_sums *to)
{
    NN_BN_EACH_VEC(v)
    {
        const int at = v * NN_VEC_LANES;
        const nn_vec value = nn_vec_load(x + at);
        const nn_vec d = gradient_at(value, dy + at, sign == SIGN_OF_Y ? y + at : NULL, along, v,
                                     sign);
        to->sum[v] += d;
        to->product[v] += d * (value - along->mean[v]);
    }
}

CVY_INLINE_ALWAYS void sum_run(int64_t n, const float *x, const float *dy, const float *y,
                               const back_line *line, sign_form sign, double *to)
{
    const back_vecs along = load_line(line, sign);
    back_sums even, odd;
    float sums[NN_CPU_BLOCK], products[NN_CPU_BLOCK];
    int64_t i = 0;

    nn_bn_clear(even.sum);
    nn_bn_clear(even.product);
    nn_bn_clear(odd.sum);
    nn_bn_clear(odd.product);
    for (; i + 2 <= n; i += 2) {
        const int64_t at = i * NN_CPU_BLOCK, next = at + NN_CPU_BLOCK;
        add_pixel(x + at, dy + at, sign == SIGN_OF_Y ? y + at : NULL, &along, sign, &even);
        add_pixel(x + next, dy + next, sign == SIGN_OF_Y ? y + next : NULL, &along, sign, &odd);
    }
    if (i < n) {
        const int64_t at = i * NN_CPU_BLOCK;
        add_pixel(x + at, dy + at, sign == SIGN_OF_Y ? y + at : NULL, &along, sign, &even);
    }
    for (int v = 0; v < NN_BN_VECS; v++) {
        even.sum[v] += odd.sum[v];
        even.product[v] += odd.product[v];
    }
    nn_bn_store(even.sum, sums);
    nn_bn_store(even.product, products);
    for (int c = 0; c < NN_CPU_BLOCK; c++) {
        to[c] += (double)sums[c];
        to[NN_CPU_BLOCK + c] += (double)products[c];
    }
}

CVY_INLINE_ALWAYS void sum_planes(const back_pass *pass, int64_t block, nn_cpu_span images,
                                  sign_form sign, double *to)
{
    const nn_cpu_bn_gradient *bn = pass->bn;
    const int64_t spatial = pass->cut.spatial;

    for (int64_t n = images.first; n < images.first + images.n; n++) {
        const int64_t plane = nn_bn_plane_at(&pass->cut, n, block);
        for (int64_t i = 0; i < spatial; i += NN_BN_RUN) {
            const int64_t at = plane + i * NN_CPU_BLOCK;
            sum_run(nn_cpu_least(NN_BN_RUN, spatial - i), bn->x + at, bn->dy + at,
                    sign == SIGN_OF_Y ? bn->y + at : NULL, line_at(pass, block), sign, to);
        }
    }
}

static void sums_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const back_pass *pass = arg;
    const int64_t block = chunk_idx % pass->cut.blocks;
    const nn_cpu_span images = nn_cpu_part(pass->bn->geom->n, pass->cut.images_per_share,
                                           chunk_idx / pass->cut.blocks);
    double *to = pass->partials + chunk_idx * NN_CPU_PARTIAL;

    (void)thread_idx;
    for (int c = 0; c < NN_CPU_PARTIAL; c++) to[c] = 0.0;
    switch (form_of(pass->bn)) {
    case UNSIGNED:
        sum_planes(pass, block, images, UNSIGNED, to);
        break;
    case SIGN_OF_Y:
        sum_planes(pass, block, images, SIGN_OF_Y, to);
        break;
    case SIGN_FROM_X:
        sum_planes(pass, block, images, SIGN_FROM_X, to);
        break;
    }
}

/* --- The constants of a block --------------------------------------------------------------- */

static void begin_lines(const back_pass *pass)
{
    const nn_cpu_bn_gradient *bn = pass->bn;

    for (int64_t block = 0; block < pass->cut.blocks; block++) {
        const int64_t first = (pass->cut.first_block + block) * NN_CPU_BLOCK;
        back_line *to = line_at(pass, block);
        *to = (back_line){.a = {0.0f}};
        for (int64_t i = 0; i < NN_CPU_BLOCK && first + i < bn->geom->c; i++) {
            to->mean[i] = bn->mean[first + i];
            if (form_of(bn) != SIGN_FROM_X) continue;
            to->scale[i] = bn->scale[first + i];
            to->shift[i] = bn->shift[first + i];
        }
    }
}

/* sums: of all images. */
static void finish_block(const back_pass *pass, int64_t block, const double *sums)
{
    const nn_cpu_bn_gradient *bn = pass->bn;
    const int64_t first = (pass->cut.first_block + block) * NN_CPU_BLOCK;
    const double count = (double)(bn->geom->n * bn->geom->spatial);
    back_line *to = line_at(pass, block);

    for (int64_t i = 0; i < NN_CPU_BLOCK && first + i < bn->geom->c; i++) {
        const int64_t c = first + i;
        const double invstd = (double)bn->invstd[c], scale = (double)bn->gamma[c] * invstd;
        to->a[i] = (float)scale;
        to->b[i] = (float)(-scale * invstd * invstd * sums[NN_CPU_BLOCK + i] / count);
        to->c[i] = (float)(-scale * sums[i] / count);
        bn->dbeta[c] = (float)sums[i];
        bn->dgamma[c] = (float)(sums[NN_CPU_BLOCK + i] * invstd);
    }
}

/* Shares are added in their order, into the place of the first. */
static void add_shares(const back_pass *pass)
{
    const int64_t step = pass->cut.blocks * NN_CPU_PARTIAL;

    for (int64_t share = 1; share < pass->cut.n_shares; share++) {
        for (int64_t i = 0; i < step; i++) pass->partials[i] += pass->partials[share * step + i];
    }
    for (int64_t block = 0; block < pass->cut.blocks; block++) {
        finish_block(pass, block, pass->partials + block * NN_CPU_PARTIAL);
    }
}

/* --- dx, and the gradient of the residual --------------------------------------------------- */

/* What a sweep does besides; constant where it is called. */
typedef struct back_form {
    sign_form sign;
    int accumulate, has_residual, accumulate_residual, is_streamed;
} back_form;

CVY_INLINE_ALWAYS void write_plane(const nn_cpu_bn_gradient *bn, int64_t at_plane, int64_t n,
                                   const back_line *line, back_form form)
{
    const float *const x = bn->x + at_plane, *const dy = bn->dy + at_plane;
    const float *const y = form.sign == SIGN_OF_Y ? bn->y + at_plane : NULL;
    float *const dx = bn->dx + at_plane;
    float *const residual = form.has_residual ? bn->dresidual + at_plane : NULL;
    const back_vecs along = load_line(line, form.sign);
    nn_vec a[NN_BN_VECS], b[NN_BN_VECS], c[NN_BN_VECS];

    nn_bn_load(line->a, a);
    nn_bn_load(line->b, b);
    nn_bn_load(line->c, c);
    for (int64_t i = 0; i < n; i++) {
        NN_BN_EACH_VEC(v)
        {
            const int64_t at = i * NN_CPU_BLOCK + v * NN_VEC_LANES;
            const nn_vec of_x = nn_vec_load(x + at);
            const nn_vec d = gradient_at(of_x, dy + at, form.sign == SIGN_OF_Y ? y + at : NULL,
                                         &along, v, form.sign);
            nn_vec value = a[v] * d + (b[v] * (of_x - along.mean[v]) + c[v]);
            if (form.accumulate) value += nn_vec_load(dx + at);
            if (form.has_residual) {
                nn_vec_store(residual + at,
                             form.accumulate_residual ? nn_vec_load(residual + at) + d : d);
            }
            if (form.is_streamed) {
                nn_vec_stream(dx + at, value);
            } else {
                nn_vec_store(dx + at, value);
            }
        }
    }
}

CVY_INLINE_ALWAYS void write_planes(const back_pass *pass, nn_cpu_span planes, back_form form)
{
    for (int64_t i = planes.first; i < planes.first + planes.n; i++) {
        const int64_t block = i % pass->cut.blocks;
        write_plane(pass->bn, nn_bn_plane_at(&pass->cut, i / pass->cut.blocks, block),
                    pass->cut.spatial, line_at(pass, block), form);
    }
    if (form.is_streamed) nn_vec_stream_end();
}

CVY_INLINE_ALWAYS void write_without_residual(const back_pass *pass, nn_cpu_span planes,
                                              sign_form sign)
{
    if (pass->bn->accumulate) {
        write_planes(pass, planes, (back_form){sign, 1, 0, 0, 0});
    } else if (pass->is_streamed) {
        write_planes(pass, planes, (back_form){sign, 0, 0, 0, 1});
    } else {
        write_planes(pass, planes, (back_form){sign, 0, 0, 0, 0});
    }
}

CVY_INLINE_ALWAYS void write_with_residual(const back_pass *pass, nn_cpu_span planes,
                                           sign_form sign, int accumulate_residual)
{
    if (pass->bn->accumulate) {
        write_planes(pass, planes, (back_form){sign, 1, 1, accumulate_residual, 0});
    } else if (pass->is_streamed) {
        write_planes(pass, planes, (back_form){sign, 0, 1, accumulate_residual, 1});
    } else {
        write_planes(pass, planes, (back_form){sign, 0, 1, accumulate_residual, 0});
    }
}

CVY_INLINE_ALWAYS void write_as(const back_pass *pass, nn_cpu_span planes, sign_form sign)
{
    if (pass->bn->dresidual == NULL) {
        write_without_residual(pass, planes, sign);
    } else if (pass->bn->accumulate_residual) {
        write_with_residual(pass, planes, sign, 1);
    } else {
        write_with_residual(pass, planes, sign, 0);
    }
}

static void write_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const back_pass *pass = arg;
    const nn_cpu_span planes = nn_cpu_part(pass->bn->geom->n * pass->cut.blocks,
                                           pass->planes_per_chunk, chunk_idx);

    (void)thread_idx;
    switch (form_of(pass->bn)) {
    case UNSIGNED:
        write_as(pass, planes, UNSIGNED);
        break;
    case SIGN_OF_Y:
        write_as(pass, planes, SIGN_OF_Y);
        break;
    case SIGN_FROM_X:
        write_as(pass, planes, SIGN_FROM_X);
        break;
    }
}

void nn_cpu_bn_backward(nn_backend *backend, const nn_cpu_bn_gradient *bn)
{
    const int64_t blocks = nn_cpu_blocks(bn->geom->c);
    const int n_tensors = form_of(bn) == SIGN_OF_Y ? 3 : 2;

    for (int64_t first = 0; first < blocks;) {
        const nn_cpu *cpu = (const nn_cpu *)backend;
        back_pass pass = {.bn = bn,
                          .cut = nn_bn_cut_from(backend, bn->geom, first, n_tensors),
                          .partials = cpu->partials,
                          .lines = cpu->lines,
                          .planes_per_chunk = nn_bn_planes_per_chunk(bn->geom),
                          .is_streamed = bn->dx != bn->dy && nn_bn_is_streamed(backend, bn->geom)};
        begin_lines(&pass);
        nn_cpu_run(backend, pass.cut.blocks * pass.cut.n_shares, sums_chunk, &pass);
        add_shares(&pass);
        nn_cpu_run(backend, nn_cpu_div_up(bn->geom->n * pass.cut.blocks, pass.planes_per_chunk),
                   write_chunk, &pass);
        first += pass.cut.blocks;
    }
}
