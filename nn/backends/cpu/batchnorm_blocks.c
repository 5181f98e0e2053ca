#include "nn/backends/cpu/batchnorm_blocks_internal.h"

#include "nn/backends/cpu/layout_internal.h"

#include <math.h>
#include <stddef.h>

enum {
    N_SHARES = NN_CPU_N_PARTIALS / 2, /* tasks at least, if there are so many images */
    CACHE_BYTES = 1 << 20, /* of a slice, for each thread: not more than their part of a cache */
    STREAM_BYTES = 8 << 20 /* of a tensor, for each thread: more than their part of any cache */
};
_Static_assert(NN_CPU_PARTIAL == 2 * NN_CPU_BLOCK, "two sums for each channel of a block");

/* --- Slices and shares ---------------------------------------------------------------------- */

nn_bn_cut nn_bn_cut_from(const nn_backend *backend, const nn_bn_geom *geom, int64_t first_block,
                         int n_tensors)
{
    const int64_t all = nn_cpu_blocks(geom->c);
    const nn_cpu_span group = nn_cpu_part(all, NN_CPU_N_PARTIALS, first_block / NN_CPU_N_PARTIALS);
    const int64_t n_shares = nn_cpu_least(geom->n, nn_cpu_div_up(N_SHARES, group.n));
    const int64_t images = nn_cpu_div_up(geom->n, n_shares);
    const int64_t block_bytes = geom->n * geom->spatial * NN_CPU_BLOCK * (int64_t)sizeof(float);
    const int64_t cache_bytes = (int64_t)CACHE_BYTES * backend->n_threads;
    const int64_t fitting = n_tensors == 0 ? all : cache_bytes / (block_bytes * n_tensors);
    const int64_t enough = nn_cpu_div_up(2 * (int64_t)backend->n_threads, n_shares); /* to share */
    const int64_t left = group.first + group.n - first_block;

    return (nn_bn_cut){.all_blocks = all,
                       .first_block = first_block,
                       .blocks = nn_cpu_least(nn_cpu_most(fitting, enough), left),
                       .images_per_share = images,
                       .n_shares = nn_cpu_div_up(geom->n, images),
                       .spatial = geom->spatial};
}

int64_t nn_bn_planes_per_chunk(const nn_bn_geom *geom)
{
    return nn_cpu_most(1, NN_CPU_CHUNK / (geom->spatial * NN_CPU_BLOCK));
}

int nn_bn_is_streamed(const nn_backend *backend, const nn_bn_geom *geom)
{
    const int64_t size_bytes = geom->n * nn_cpu_stored_channels(geom->c) * geom->spatial *
                               (int64_t)sizeof(float);

    return size_bytes > (int64_t)STREAM_BYTES * backend->n_threads;
}

/* --- Statistics of the minibatch ------------------------------------------------------------ */

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
    nn_vec sum[4][NN_BN_VECS], rest[2][NN_BN_VECS], square[2][NN_BN_VECS], centre[NN_BN_VECS];
    float centres[NN_CPU_BLOCK], rests[NN_CPU_BLOCK], squared[NN_CPU_BLOCK];
    double mean[NN_CPU_BLOCK], squares[NN_CPU_BLOCK];

    for (int j = 0; j < 4; j++) nn_bn_clear(sum[j]);
    for (int j = 0; j < 2; j++) {
        nn_bn_clear(rest[j]);
        nn_bn_clear(square[j]);
    }
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        for (int j = 0; j < 4; j++) {
            for (int v = 0; v < NN_BN_VECS; v++) {
                sum[j][v] += nn_vec_load(x + (i + j) * NN_CPU_BLOCK + v * NN_VEC_LANES);
            }
        }
    }
    for (; i < n; i++) {
        for (int v = 0; v < NN_BN_VECS; v++) {
            sum[0][v] += nn_vec_load(x + i * NN_CPU_BLOCK + v * NN_VEC_LANES);
        }
    }
    for (int v = 0; v < NN_BN_VECS; v++) {
        centre[v] = (sum[0][v] + sum[1][v] + sum[2][v] + sum[3][v]) * nn_vec_all(1.0f / (float)n);
    }
    for (i = 0; i + 2 <= n; i += 2) {
        for (int j = 0; j < 2; j++) {
            for (int v = 0; v < NN_BN_VECS; v++) {
                const nn_vec d = nn_vec_load(x + (i + j) * NN_CPU_BLOCK + v * NN_VEC_LANES) -
                                 centre[v];
                rest[j][v] += d;
                square[j][v] += d * d;
            }
        }
    }
    for (int v = 0; i < n && v < NN_BN_VECS; v++) {
        const nn_vec d = nn_vec_load(x + i * NN_CPU_BLOCK + v * NN_VEC_LANES) - centre[v];
        rest[0][v] += d;
        square[0][v] += d * d;
    }
    for (int v = 0; v < NN_BN_VECS; v++) {
        rest[0][v] += rest[1][v];
        square[0][v] += square[1][v];
    }
    nn_bn_store(centre, centres);
    nn_bn_store(rest[0], rests);
    nn_bn_store(square[0], squared);
    for (int c = 0; c < NN_CPU_BLOCK; c++) {
        const double missed = (double)rests[c] / (double)n;
        mean[c] = (double)centres[c] + missed;
        squares[c] = (double)squared[c] - (double)rests[c] * missed;
    }
    merge_moments(mean, squares, (double)n, to);
}

/* What y = (x - mean) scale + shift of a block of channels takes; 0 past the last channel. */
typedef struct line {
    float mean[NN_CPU_BLOCK], scale[NN_CPU_BLOCK], shift[NN_CPU_BLOCK];
} line;
_Static_assert(sizeof(line) <= NN_CPU_LINE * sizeof(float), "a line has its place");

typedef struct bn_pass {
    const nn_cpu_bn *bn;
    nn_bn_cut cut;
    double *partials; /* [share][block] NN_CPU_PARTIAL */
    float *lines;     /* [block] NN_CPU_LINE */
    int64_t planes_per_chunk;
    int is_streamed;
} bn_pass;

static bn_pass pass_from(const nn_backend *backend, const nn_cpu_bn *bn, int64_t first_block,
                         int n_tensors)
{
    const nn_cpu *cpu = (const nn_cpu *)backend;

    return (bn_pass){.bn = bn,
                     .cut = nn_bn_cut_from(backend, bn->geom, first_block, n_tensors),
                     .partials = cpu->partials,
                     .lines = cpu->lines,
                     .planes_per_chunk = nn_bn_planes_per_chunk(bn->geom),
                     .is_streamed = bn->y != bn->x && bn->y != bn->residual &&
                                    nn_bn_is_streamed(backend, bn->geom)};
}

static line *line_at(const bn_pass *pass, int64_t block)
{
    return (line *)(void *)(pass->lines + block * NN_CPU_LINE);
}

static int64_t images_in(const bn_pass *pass, int64_t share)
{
    return nn_cpu_part(pass->bn->geom->n, pass->cut.images_per_share, share).n;
}

/* What the mean loses as a float goes into the shift: a mean far from 0 costs no accuracy. */
static void set_line(const nn_cpu_bn *bn, int64_t c, double mean, double invstd, line *to)
{
    const int64_t lane = c % NN_CPU_BLOCK;

    to->mean[lane] = (float)mean;
    to->scale[lane] = (float)((double)bn->gamma[c] * invstd);
    to->shift[lane] = (float)((double)bn->beta[c] -
                              (mean - (double)to->mean[lane]) * (double)to->scale[lane]);
    if (bn->scale == NULL) return;
    bn->scale[c] = to->scale[lane];
    bn->shift[c] = to->shift[lane];
}

static void finish_block(const bn_pass *pass, int64_t block, const moments *all)
{
    const nn_cpu_bn *bn = pass->bn;
    const int64_t first = (pass->cut.first_block + block) * NN_CPU_BLOCK;
    line *to = line_at(pass, block);

    *to = (line){.mean = {0.0f}};
    for (int64_t i = 0; i < NN_CPU_BLOCK && first + i < bn->geom->c; i++) {
        const int64_t c = first + i;
        /* A NaN must stay one, so the comparison is this way round. */
        const double squares = all->squares[i] < 0.0 ? 0.0 : all->squares[i];
        bn->mean[c] = (float)all->mean[i];
        bn->invstd[c] = (float)(1.0 / sqrt(squares / all->count + bn->geom->eps));
        bn->batch_var[c] = (float)(squares / (all->count > 1.0 ? all->count - 1.0 : 1.0));
        set_line(bn, c, all->mean[i], (double)bn->invstd[c], to);
    }
}

static void moments_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const bn_pass *pass = arg;
    const nn_bn_cut *cut = &pass->cut;
    const int64_t block = chunk_idx % cut->blocks;
    const nn_cpu_span images = nn_cpu_part(pass->bn->geom->n, cut->images_per_share,
                                           chunk_idx / cut->blocks);
    moments all = {.count = 0.0};

    (void)thread_idx;
    for (int64_t n = images.first; n < images.first + images.n; n++) {
        const float *x = pass->bn->x + nn_bn_plane_at(cut, n, block);
        for (int64_t i = 0; i < cut->spatial; i += NN_BN_RUN) {
            add_run(x + i * NN_CPU_BLOCK, nn_cpu_least(NN_BN_RUN, cut->spatial - i), &all);
        }
    }
    double *to = pass->partials + chunk_idx * NN_CPU_PARTIAL;
    for (int c = 0; c < NN_CPU_BLOCK; c++) {
        to[c] = all.mean[c];
        to[NN_CPU_BLOCK + c] = all.squares[c];
    }
}

static void merge_shares(const bn_pass *pass)
{
    for (int64_t block = 0; block < pass->cut.blocks; block++) {
        const double *first = pass->partials + block * NN_CPU_PARTIAL;
        moments all = {.count = 0.0};
        for (int64_t share = 0; share < pass->cut.n_shares; share++) {
            const double *from = first + share * pass->cut.blocks * NN_CPU_PARTIAL;
            merge_moments(from, from + NN_CPU_BLOCK,
                          (double)(images_in(pass, share) * pass->cut.spatial), &all);
        }
        finish_block(pass, block, &all);
    }
}

/* --- y -------------------------------------------------------------------------------------- */

/* What a sweep does besides; constant where it is called. */
typedef struct sweep_form {
    int has_residual, is_relu, is_streamed;
} sweep_form;

CVY_INLINE_ALWAYS void write_plane(int64_t n, const float *x, const float *residual,
                                   const line *along, sweep_form form, float *y)
{
    nn_vec mean[NN_BN_VECS], scale[NN_BN_VECS], shift[NN_BN_VECS];

    nn_bn_load(along->mean, mean);
    nn_bn_load(along->scale, scale);
    nn_bn_load(along->shift, shift);
    for (int64_t i = 0; i < n; i++) {
        NN_BN_EACH_VEC(v)
        {
            const int64_t at = i * NN_CPU_BLOCK + v * NN_VEC_LANES;
            nn_vec value = nn_bn_value(nn_vec_load(x + at), mean[v], scale[v], shift[v]);
            if (form.has_residual) value += nn_vec_load(residual + at);
            /* A NaN stays one: NaN <= 0 is false. */
            if (form.is_relu) value = nn_vec_where(~(nn_mask)(value <= nn_vec_all(0.0f)), value);
            if (form.is_streamed) {
                nn_vec_stream(y + at, value);
            } else {
                nn_vec_store(y + at, value);
            }
        }
    }
}

CVY_INLINE_ALWAYS void write_planes(const bn_pass *pass, nn_cpu_span planes, sweep_form form)
{
    const nn_cpu_bn *bn = pass->bn;

    for (int64_t i = planes.first; i < planes.first + planes.n; i++) {
        const int64_t block = i % pass->cut.blocks;
        const int64_t at = nn_bn_plane_at(&pass->cut, i / pass->cut.blocks, block);
        write_plane(pass->cut.spatial, bn->x + at, form.has_residual ? bn->residual + at : NULL,
                    line_at(pass, block), form, bn->y + at);
    }
    if (form.is_streamed) nn_vec_stream_end();
}

CVY_INLINE_ALWAYS void write_as(const bn_pass *pass, nn_cpu_span planes, int is_streamed)
{
    const nn_cpu_bn *bn = pass->bn;

    if (bn->residual != NULL && bn->is_relu) {
        write_planes(pass, planes, (sweep_form){1, 1, is_streamed});
    } else if (bn->residual != NULL) {
        write_planes(pass, planes, (sweep_form){1, 0, is_streamed});
    } else if (bn->is_relu) {
        write_planes(pass, planes, (sweep_form){0, 1, is_streamed});
    } else {
        write_planes(pass, planes, (sweep_form){0, 0, is_streamed});
    }
}

static void write_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const bn_pass *pass = arg;
    const nn_cpu_span planes = nn_cpu_part(pass->bn->geom->n * pass->cut.blocks,
                                           pass->planes_per_chunk, chunk_idx);

    (void)thread_idx;
    if (pass->is_streamed) {
        write_as(pass, planes, 1);
    } else {
        write_as(pass, planes, 0);
    }
}

static void write_slice(nn_backend *backend, bn_pass *pass)
{
    nn_cpu_run(backend, nn_cpu_div_up(pass->bn->geom->n * pass->cut.blocks, pass->planes_per_chunk),
               write_chunk, pass);
}

void nn_cpu_bn_forward(nn_backend *backend, const nn_cpu_bn *bn)
{
    const int64_t blocks = nn_cpu_blocks(bn->geom->c);

    for (int64_t first = 0; first < blocks;) {
        bn_pass pass = pass_from(backend, bn, first, 1);
        nn_cpu_run(backend, pass.cut.blocks * pass.cut.n_shares, moments_chunk, &pass);
        merge_shares(&pass);
        write_slice(backend, &pass);
        first += pass.cut.blocks;
    }
}

/* The line of one channel: of running statistics, or as forward left it (var NULL). */
static void fill_line(const nn_cpu_bn *bn, int64_t c, const float *mean, const float *var, line *to)
{
    if (var != NULL) {
        set_line(bn, c, (double)mean[c], 1.0 / sqrt((double)var[c] + bn->geom->eps), to);
        return;
    }
    to->mean[c % NN_CPU_BLOCK] = mean[c];
    to->scale[c % NN_CPU_BLOCK] = bn->scale[c];
    to->shift[c % NN_CPU_BLOCK] = bn->shift[c];
}

static void write_by_lines(nn_backend *backend, const nn_cpu_bn *bn, const float *mean,
                           const float *var)
{
    const int64_t blocks = nn_cpu_blocks(bn->geom->c);

    for (int64_t first = 0; first < blocks;) {
        bn_pass pass = pass_from(backend, bn, first, 0);
        for (int64_t i = 0; i < pass.cut.blocks; i++) {
            const int64_t end = nn_cpu_least((first + i + 1) * NN_CPU_BLOCK, bn->geom->c);
            line *to = line_at(&pass, i);
            *to = (line){.mean = {0.0f}};
            for (int64_t c = (first + i) * NN_CPU_BLOCK; c < end; c++) {
                fill_line(bn, c, mean, var, to);
            }
        }
        write_slice(backend, &pass);
        first += pass.cut.blocks;
    }
}

void nn_cpu_bn_inference(nn_backend *backend, const nn_cpu_bn *bn, const float *mean,
                         const float *var)
{
    write_by_lines(backend, bn, mean, var);
}

void nn_cpu_bn_again(nn_backend *backend, const nn_cpu_bn *bn)
{
    write_by_lines(backend, bn, bn->mean, NULL);
}
