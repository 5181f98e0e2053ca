#include "nn/backends/cpu/batchnorm_blocks_internal.h"

#include "nn/backends/cpu/layout_internal.h"

#include <math.h>
#include <stddef.h>

enum {
    N_SHARES = NN_CPU_N_PARTIALS / 2, /* tasks at least, if there are so many images */
    RUN = 256,                        /* pixels summed in float, 16 KiB: then they go to doubles */
    N_VECS = NN_VECS_PER_BLOCK
};
_Static_assert(NN_CPU_PARTIAL == 2 * NN_CPU_BLOCK, "two sums for each channel of a block");

/* Channel blocks [first_block, first_block + blocks) of all, and shares of the images. The partial
 * sums have room for so many blocks; more are done one slice after the other. */
typedef struct cutting {
    int64_t all_blocks, first_block, blocks, images_per_share, n_shares, spatial;
} cutting;

static int64_t n_slices(const nn_bn_geom *geom)
{
    return nn_cpu_div_up(nn_cpu_blocks(geom->c), NN_CPU_N_PARTIALS);
}

static cutting cut(const nn_bn_geom *geom, int64_t slice)
{
    const int64_t all = nn_cpu_blocks(geom->c);
    const nn_cpu_span blocks = nn_cpu_part(all, NN_CPU_N_PARTIALS, slice);
    const int64_t n_shares = nn_cpu_least(geom->n, nn_cpu_div_up(N_SHARES, blocks.n));
    const int64_t images = nn_cpu_div_up(geom->n, n_shares);

    return (cutting){.all_blocks = all,
                     .first_block = blocks.first,
                     .blocks = blocks.n,
                     .images_per_share = images,
                     .n_shares = nn_cpu_div_up(geom->n, images),
                     .spatial = geom->spatial};
}

/* Where the plane of a block of the slice starts. */
static int64_t plane_at(const cutting *cuts, int64_t image, int64_t block)
{
    return (image * cuts->all_blocks + cuts->first_block + block) * cuts->spatial * NN_CPU_BLOCK;
}

/* The values of a block of channels as vectors; channels past the last have 0. */
static void load_block(const float *values, int64_t c, int64_t block, nn_vec out[N_VECS])
{
    float padded[NN_CPU_BLOCK] = {0.0f};

    for (int64_t i = 0; i < NN_CPU_BLOCK && block * NN_CPU_BLOCK + i < c; i++) {
        padded[i] = values[block * NN_CPU_BLOCK + i];
    }
    for (int v = 0; v < N_VECS; v++) out[v] = nn_vec_load(padded + v * NN_VEC_LANES);
}

static void clear(nn_vec v[N_VECS])
{
    for (int i = 0; i < N_VECS; i++) v[i] = nn_vec_all(0.0f);
}

static void store_block(const nn_vec v[N_VECS], float out[NN_CPU_BLOCK])
{
    for (int i = 0; i < N_VECS; i++) nn_vec_store(out + i * NN_VEC_LANES, v[i]);
}

/* --- Statistics of the minibatch ----------------------------------------------------------------
 */

/* Mean and sum of squares about it of 16 channels; count elements went in. */
typedef struct moments {
    double mean[NN_CPU_BLOCK], squares[NN_CPU_BLOCK];
    double count;
} moments;

/* Pairwise update: Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for
 * computing sample variances". */
static void merge_moments(const double *restrict mean, const double *restrict squares, double count,
                          moments *restrict to)
{
    const double total = to->count + count;

    for (int c = 0; c < NN_CPU_BLOCK; c++) {
        const double d = mean[c] - to->mean[c];
        to->squares[c] += squares[c] + d * d * (to->count * count / total);
        to->mean[c] += d * (count / total);
    }
    to->count = total;
}

/* n pixels: their mean first, then the squares about it, and what the mean missed. */
static void add_run(const float *x, int64_t n, moments *to)
{
    nn_vec sum[4][N_VECS], rest[2][N_VECS], square[2][N_VECS], centre[N_VECS];
    float centres[NN_CPU_BLOCK], rests[NN_CPU_BLOCK], squared[NN_CPU_BLOCK];
    double mean[NN_CPU_BLOCK], squares[NN_CPU_BLOCK];

    for (int j = 0; j < 4; j++) clear(sum[j]);
    for (int j = 0; j < 2; j++) {
        clear(rest[j]);
        clear(square[j]);
    }
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        for (int j = 0; j < 4; j++) {
            for (int v = 0; v < N_VECS; v++) {
                sum[j][v] += nn_vec_load(x + (i + j) * NN_CPU_BLOCK + v * NN_VEC_LANES);
            }
        }
    }
    for (; i < n; i++) {
        for (int v = 0; v < N_VECS; v++) {
            sum[0][v] += nn_vec_load(x + i * NN_CPU_BLOCK + v * NN_VEC_LANES);
        }
    }
    for (int v = 0; v < N_VECS; v++) {
        centre[v] = (sum[0][v] + sum[1][v] + sum[2][v] + sum[3][v]) * nn_vec_all(1.0f / (float)n);
    }
    for (i = 0; i + 2 <= n; i += 2) {
        for (int j = 0; j < 2; j++) {
            for (int v = 0; v < N_VECS; v++) {
                const nn_vec d = nn_vec_load(x + (i + j) * NN_CPU_BLOCK + v * NN_VEC_LANES) -
                                 centre[v];
                rest[j][v] += d;
                square[j][v] += d * d;
            }
        }
    }
    for (int v = 0; i < n && v < N_VECS; v++) {
        const nn_vec d = nn_vec_load(x + i * NN_CPU_BLOCK + v * NN_VEC_LANES) - centre[v];
        rest[0][v] += d;
        square[0][v] += d * d;
    }
    for (int v = 0; v < N_VECS; v++) {
        rest[0][v] += rest[1][v];
        square[0][v] += square[1][v];
    }
    store_block(centre, centres);
    store_block(rest[0], rests);
    store_block(square[0], squared);
    for (int c = 0; c < NN_CPU_BLOCK; c++) {
        const double missed = (double)rests[c] / (double)n;
        mean[c] = (double)centres[c] + missed;
        squares[c] = (double)squared[c] - (double)rests[c] * missed;
    }
    merge_moments(mean, squares, (double)n, to);
}

typedef struct bn_pass {
    const nn_cpu_bn *bn;
    cutting cut;
    const float *mean, *var; /* of inference */
    double *partials;        /* [share][block] NN_CPU_PARTIAL, when there are several shares */
    int64_t planes_per_chunk;
} bn_pass;

static int64_t images_in(const bn_pass *pass, int64_t share)
{
    return nn_cpu_part(pass->bn->geom->n, pass->cut.images_per_share, share).n;
}

static void finish_block(const bn_pass *pass, int64_t block, const moments *all)
{
    const nn_cpu_bn *bn = pass->bn;

    for (int64_t i = 0; i < NN_CPU_BLOCK && block * NN_CPU_BLOCK + i < bn->geom->c; i++) {
        const int64_t c = block * NN_CPU_BLOCK + i;
        /* A NaN must stay one, so the comparison is this way round. */
        const double squares = all->squares[i] < 0.0 ? 0.0 : all->squares[i];
        bn->mean[c] = (float)all->mean[i];
        bn->invstd[c] = (float)(1.0 / sqrt(squares / all->count + bn->geom->eps));
        bn->batch_var[c] = (float)(squares / (all->count > 1.0 ? all->count - 1.0 : 1.0));
    }
}

static void moments_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const bn_pass *pass = arg;
    const cutting *cuts = &pass->cut;
    const int64_t block = chunk_idx % cuts->blocks;
    const nn_cpu_span images = nn_cpu_part(pass->bn->geom->n, cuts->images_per_share,
                                           chunk_idx / cuts->blocks);
    moments all = {.count = 0.0};

    (void)thread_idx;
    for (int64_t n = images.first; n < images.first + images.n; n++) {
        const float *x = pass->bn->x + plane_at(cuts, n, block);
        for (int64_t i = 0; i < cuts->spatial; i += RUN) {
            add_run(x + i * NN_CPU_BLOCK, nn_cpu_least(RUN, cuts->spatial - i), &all);
        }
    }
    double *to = pass->partials + chunk_idx * NN_CPU_PARTIAL;
    for (int c = 0; c < NN_CPU_BLOCK; c++) {
        to[c] = all.mean[c];
        to[NN_CPU_BLOCK + c] = all.squares[c];
    }
}

/* The moments of all shares, in the place of the first. */
static void merge_shares(const bn_pass *pass)
{
    for (int64_t block = 0; block < pass->cut.blocks; block++) {
        double *first = pass->partials + block * NN_CPU_PARTIAL;
        moments all = {.count = 0.0};
        for (int64_t share = 0; share < pass->cut.n_shares; share++) {
            const double *from = first + share * pass->cut.blocks * NN_CPU_PARTIAL;
            merge_moments(from, from + NN_CPU_BLOCK,
                          (double)(images_in(pass, share) * pass->cut.spatial), &all);
        }
        for (int c = 0; c < NN_CPU_BLOCK; c++) first[c] = all.mean[c];
        finish_block(pass, pass->cut.first_block + block, &all);
    }
}

/* --- y ------------------------------------------------------------------------------------------
 */

typedef struct line {
    nn_vec mean[N_VECS], scale[N_VECS], shift[N_VECS];
} line;

CVY_INLINE_ALWAYS void write_plane(int64_t n, const float *x, const float *residual, line along,
                                   int has_residual, int is_relu, float *y)
{
    for (int64_t i = 0; i < n; i++) {
        CVY_UNROLL(4) for (int v = 0; v < N_VECS; v++)
        {
            const int64_t at = i * NN_CPU_BLOCK + v * NN_VEC_LANES;
            nn_vec value = (nn_vec_load(x + at) - along.mean[v]) * along.scale[v] + along.shift[v];
            if (has_residual) value += nn_vec_load(residual + at);
            /* A NaN stays one: NaN <= 0 is false. */
            if (is_relu) value = nn_vec_where(~(nn_mask)(value <= nn_vec_all(0.0f)), value);
            nn_vec_store(y + at, value);
        }
    }
}

/* What the mean loses as a float goes into the shift: a mean far from 0 costs no accuracy. */
static line line_of(const bn_pass *pass, int64_t block)
{
    const nn_cpu_bn *bn = pass->bn;
    const int64_t first = (pass->cut.first_block + block) * NN_CPU_BLOCK;
    float centre[NN_CPU_BLOCK] = {0.0f}, scale[NN_CPU_BLOCK] = {0.0f}, shift[NN_CPU_BLOCK] = {0.0f};
    line out;

    for (int64_t i = 0; i < NN_CPU_BLOCK && first + i < bn->geom->c; i++) {
        const int64_t c = first + i;
        const double mean = pass->var != NULL ? (double)pass->mean[c]
                                              : pass->partials[block * NN_CPU_PARTIAL + i];
        const double invstd = pass->var != NULL ? 1.0 / sqrt((double)pass->var[c] + bn->geom->eps)
                                                : (double)bn->invstd[c];
        centre[i] = (float)mean;
        scale[i] = (float)((double)bn->gamma[c] * invstd);
        shift[i] = (float)((double)bn->beta[c] - (mean - (double)centre[i]) * (double)scale[i]);
    }
    for (int v = 0; v < N_VECS; v++) {
        out.mean[v] = nn_vec_load(centre + v * NN_VEC_LANES);
        out.scale[v] = nn_vec_load(scale + v * NN_VEC_LANES);
        out.shift[v] = nn_vec_load(shift + v * NN_VEC_LANES);
    }
    return out;
}

/* Chunks are some planes (a block of channels of an image). */
static void write_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const bn_pass *pass = arg;
    const nn_cpu_bn *bn = pass->bn;
    const int64_t n = pass->cut.spatial;
    const nn_cpu_span planes = nn_cpu_part(bn->geom->n * pass->cut.blocks, pass->planes_per_chunk,
                                           chunk_idx);

    (void)thread_idx;
    for (int64_t i = planes.first; i < planes.first + planes.n; i++) {
        const int64_t block = i % pass->cut.blocks;
        const int64_t at = plane_at(&pass->cut, i / pass->cut.blocks, block);
        const line along = line_of(pass, block);
        const float *residual = bn->residual == NULL ? NULL : bn->residual + at;
        if (residual != NULL && bn->is_relu) {
            write_plane(n, bn->x + at, residual, along, 1, 1, bn->y + at);
        } else if (residual != NULL) {
            write_plane(n, bn->x + at, residual, along, 1, 0, bn->y + at);
        } else if (bn->is_relu) {
            write_plane(n, bn->x + at, NULL, along, 0, 1, bn->y + at);
        } else {
            write_plane(n, bn->x + at, NULL, along, 0, 0, bn->y + at);
        }
    }
}

static int64_t planes_per_chunk(const nn_bn_geom *geom)
{
    return nn_cpu_most(1, NN_CPU_CHUNK / (geom->spatial * NN_CPU_BLOCK));
}

static void write_all(nn_backend *backend, bn_pass *pass)
{
    pass->planes_per_chunk = planes_per_chunk(pass->bn->geom);
    nn_cpu_run(backend, nn_cpu_div_up(pass->bn->geom->n * pass->cut.blocks, pass->planes_per_chunk),
               write_chunk, pass);
}

void nn_cpu_bn_forward(nn_backend *backend, const nn_cpu_bn *bn)
{
    for (int64_t slice = 0; slice < n_slices(bn->geom); slice++) {
        bn_pass pass = {
            .bn = bn, .cut = cut(bn->geom, slice), .partials = ((nn_cpu *)backend)->partials};
        nn_cpu_run(backend, pass.cut.blocks * pass.cut.n_shares, moments_chunk, &pass);
        merge_shares(&pass);
        write_all(backend, &pass);
    }
}

void nn_cpu_bn_inference(nn_backend *backend, const nn_cpu_bn *bn, const float *mean,
                         const float *var)
{
    for (int64_t slice = 0; slice < n_slices(bn->geom); slice++) {
        bn_pass pass = {.bn = bn, .cut = cut(bn->geom, slice), .mean = mean, .var = var};
        write_all(backend, &pass);
    }
}

/* --- Backward -----------------------------------------------------------------------------------
 */

typedef struct back_pass {
    const nn_cpu_bn_gradient *bn;
    cutting cut;
    double *partials; /* [share][block] NN_CPU_PARTIAL: sums of dy, and of dy (x - mean) */
    int64_t planes_per_chunk;
} back_pass;

CVY_INLINE_ALWAYS nn_vec rectified(const float *dy, const float *y, int is_relu)
{
    const nn_vec value = nn_vec_load(dy);

    return is_relu ? nn_vec_where((nn_mask)(nn_vec_load(y) > nn_vec_all(0.0f)), value) : value;
}

/* Sums over every second pixel, so that one addition need not wait for the last. */
typedef struct back_sums {
    nn_vec sum[N_VECS], product[N_VECS];
} back_sums;

CVY_INLINE_ALWAYS void add_pixel(const float *x, const float *dy, const float *y,
                                 const nn_vec mean[N_VECS], int is_relu, back_sums *to)
{
    CVY_UNROLL(4) for (int v = 0; v < N_VECS; v++)
    {
        const int at = v * NN_VEC_LANES;
        const nn_vec d = rectified(dy + at, is_relu ? y + at : NULL, is_relu);
        to->sum[v] += d;
        to->product[v] += d * (nn_vec_load(x + at) - mean[v]);
    }
}

CVY_INLINE_ALWAYS void sum_run(int64_t n, const float *x, const float *dy, const float *y,
                               const nn_vec mean[N_VECS], int is_relu, double *to)
{
    back_sums even, odd;
    float sums[NN_CPU_BLOCK], products[NN_CPU_BLOCK];
    int64_t i = 0;

    clear(even.sum);
    clear(even.product);
    clear(odd.sum);
    clear(odd.product);
    for (; i + 2 <= n; i += 2) {
        const int64_t at = i * NN_CPU_BLOCK, next = at + NN_CPU_BLOCK;
        add_pixel(x + at, dy + at, is_relu ? y + at : NULL, mean, is_relu, &even);
        add_pixel(x + next, dy + next, is_relu ? y + next : NULL, mean, is_relu, &odd);
    }
    if (i < n) {
        const int64_t at = i * NN_CPU_BLOCK;
        add_pixel(x + at, dy + at, is_relu ? y + at : NULL, mean, is_relu, &even);
    }
    for (int v = 0; v < N_VECS; v++) {
        even.sum[v] += odd.sum[v];
        even.product[v] += odd.product[v];
    }
    store_block(even.sum, sums);
    store_block(even.product, products);
    for (int c = 0; c < NN_CPU_BLOCK; c++) {
        to[c] += (double)sums[c];
        to[NN_CPU_BLOCK + c] += (double)products[c];
    }
}

static void sums_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const back_pass *pass = arg;
    const nn_cpu_bn_gradient *bn = pass->bn;
    const int64_t block = chunk_idx % pass->cut.blocks, spatial = pass->cut.spatial;
    const nn_cpu_span images = nn_cpu_part(bn->geom->n, pass->cut.images_per_share,
                                           chunk_idx / pass->cut.blocks);
    double *to = pass->partials + chunk_idx * NN_CPU_PARTIAL;
    nn_vec mean[N_VECS];

    (void)thread_idx;
    load_block(bn->mean, bn->geom->c, pass->cut.first_block + block, mean);
    for (int c = 0; c < NN_CPU_PARTIAL; c++) to[c] = 0.0;
    for (int64_t n = images.first; n < images.first + images.n; n++) {
        const int64_t plane = plane_at(&pass->cut, n, block);
        for (int64_t i = 0; i < spatial; i += RUN) {
            const int64_t at = plane + i * NN_CPU_BLOCK, len = nn_cpu_least(RUN, spatial - i);
            if (bn->y != NULL) {
                sum_run(len, bn->x + at, bn->dy + at, bn->y + at, mean, 1, to);
            } else {
                sum_run(len, bn->x + at, bn->dy + at, NULL, mean, 0, to);
            }
        }
    }
}

/* dx = a dy + (b (x - mean) + c): the formula of the reference with its constants together. */
typedef struct back_line {
    nn_vec a[N_VECS], b[N_VECS], c[N_VECS], mean[N_VECS];
} back_line;

/* Block: of the slice. */
static back_line back_line_of(const back_pass *pass, int64_t block)
{
    const nn_cpu_bn_gradient *bn = pass->bn;
    const double *sums = pass->partials + block * NN_CPU_PARTIAL;
    const int64_t first = (pass->cut.first_block + block) * NN_CPU_BLOCK;
    const double count = (double)(bn->geom->n * bn->geom->spatial);
    float a[NN_CPU_BLOCK] = {0.0f}, b[NN_CPU_BLOCK] = {0.0f}, shift[NN_CPU_BLOCK] = {0.0f};
    back_line out;

    for (int64_t i = 0; i < NN_CPU_BLOCK && first + i < bn->geom->c; i++) {
        const int64_t c = first + i;
        const double invstd = (double)bn->invstd[c], scale = (double)bn->gamma[c] * invstd;
        a[i] = (float)scale;
        b[i] = (float)(-scale * invstd * invstd * sums[NN_CPU_BLOCK + i] / count);
        shift[i] = (float)(-scale * sums[i] / count);
    }
    for (int v = 0; v < N_VECS; v++) {
        out.a[v] = nn_vec_load(a + v * NN_VEC_LANES);
        out.b[v] = nn_vec_load(b + v * NN_VEC_LANES);
        out.c[v] = nn_vec_load(shift + v * NN_VEC_LANES);
    }
    load_block(bn->mean, bn->geom->c, pass->cut.first_block + block, out.mean);
    return out;
}

/* What a loop of the backward sweep does besides; constant where it is called. */
typedef struct back_form {
    int is_relu, accumulate, has_residual, accumulate_residual;
} back_form;

CVY_INLINE_ALWAYS void back_plane(const nn_cpu_bn_gradient *bn, int64_t at_plane, int64_t n,
                                  back_line along, back_form form)
{
    const float *const x = bn->x + at_plane, *const dy = bn->dy + at_plane;
    const float *const y = form.is_relu ? bn->y + at_plane : NULL;
    float *const dx = bn->dx + at_plane;
    float *const residual = form.has_residual ? bn->dresidual + at_plane : NULL;

    for (int64_t i = 0; i < n; i++) {
        CVY_UNROLL(4) for (int v = 0; v < N_VECS; v++)
        {
            const int64_t at = i * NN_CPU_BLOCK + v * NN_VEC_LANES;
            const nn_vec d = rectified(dy + at, form.is_relu ? y + at : NULL, form.is_relu);
            nn_vec value = along.a[v] * d +
                           (along.b[v] * (nn_vec_load(x + at) - along.mean[v]) + along.c[v]);
            if (form.accumulate) value += nn_vec_load(dx + at);
            if (form.has_residual) {
                nn_vec_store(residual + at,
                             form.accumulate_residual ? nn_vec_load(residual + at) + d : d);
            }
            nn_vec_store(dx + at, value);
        }
    }
}

static void back_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const back_pass *pass = arg;
    const nn_cpu_bn_gradient *bn = pass->bn;
    const int64_t n = pass->cut.spatial;
    const nn_cpu_span planes = nn_cpu_part(bn->geom->n * pass->cut.blocks, pass->planes_per_chunk,
                                           chunk_idx);

    (void)thread_idx;
    for (int64_t i = planes.first; i < planes.first + planes.n; i++) {
        const int64_t block = i % pass->cut.blocks;
        const int64_t at = plane_at(&pass->cut, i / pass->cut.blocks, block);
        const back_line along = back_line_of(pass, block);
        if (bn->dresidual != NULL && bn->accumulate) {
            back_plane(bn, at, n, along, (back_form){bn->y != NULL, 1, 1, bn->accumulate_residual});
        } else if (bn->dresidual != NULL && bn->accumulate_residual) {
            back_plane(bn, at, n, along, (back_form){bn->y != NULL, 0, 1, 1});
        } else if (bn->dresidual != NULL) {
            back_plane(bn, at, n, along, (back_form){bn->y != NULL, 0, 1, 0});
        } else if (bn->accumulate) {
            back_plane(bn, at, n, along, (back_form){bn->y != NULL, 1, 0, 0});
        } else if (bn->y != NULL) {
            back_plane(bn, at, n, along, (back_form){1, 0, 0, 0});
        } else {
            back_plane(bn, at, n, along, (back_form){0, 0, 0, 0});
        }
    }
}

/* Totals of the shares, in the place of the first; and the gradients of gamma and beta. */
static void add_shares(const back_pass *pass)
{
    const nn_cpu_bn_gradient *bn = pass->bn;
    const int64_t step = pass->cut.blocks * NN_CPU_PARTIAL;

    for (int64_t share = 1; share < pass->cut.n_shares; share++) {
        for (int64_t i = 0; i < step; i++) pass->partials[i] += pass->partials[share * step + i];
    }
    const int64_t first = pass->cut.first_block * NN_CPU_BLOCK;
    const int64_t n = nn_cpu_least(pass->cut.blocks * NN_CPU_BLOCK, bn->geom->c - first);
    for (int64_t i = 0; i < n; i++) {
        const double *sums = pass->partials + i / NN_CPU_BLOCK * NN_CPU_PARTIAL;
        const int64_t c = first + i, lane = i % NN_CPU_BLOCK;
        bn->dbeta[c] = (float)sums[lane];
        bn->dgamma[c] = (float)(sums[NN_CPU_BLOCK + lane] * (double)bn->invstd[c]);
    }
}

void nn_cpu_bn_backward(nn_backend *backend, const nn_cpu_bn_gradient *bn)
{
    for (int64_t slice = 0; slice < n_slices(bn->geom); slice++) {
        back_pass pass = {.bn = bn,
                          .cut = cut(bn->geom, slice),
                          .partials = ((nn_cpu *)backend)->partials,
                          .planes_per_chunk = planes_per_chunk(bn->geom)};
        nn_cpu_run(backend, pass.cut.blocks * pass.cut.n_shares, sums_chunk, &pass);
        add_shares(&pass);
        nn_cpu_run(backend, nn_cpu_div_up(bn->geom->n * pass.cut.blocks, pass.planes_per_chunk),
                   back_chunk, &pass);
    }
}
