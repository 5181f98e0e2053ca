#include "nn/backends/cpu/layout_internal.h"

#include <string.h>

int64_t nn_cpu_activation_elems(nn_backend *backend, const nn_shape *shape)
{
    const int64_t n_elems = nn_shape_n_elems(shape);

    (void)backend;
    if (shape->n_dims != 4) return n_elems;
    return n_elems / shape->dim[1] * nn_cpu_stored_channels(shape->dim[1]);
}

/* A plane of one pixel whose channels fill their blocks lies the same way in both. */
int nn_cpu_is_dense(nn_backend *backend, const nn_shape *shape)
{
    (void)backend;
    if (shape->n_dims != 4 || !nn_cpu_is_blocked(shape->dim[1])) return 1;
    return shape->dim[1] % NN_CPU_BLOCK == 0 && shape->dim[2] * shape->dim[3] == 1;
}

typedef struct moving {
    int64_t c, blocks, spatial;
    const float *from;
    float *to;
    int accumulate;
} moving;

/* Chunks are blocks of one image. */
static void pack_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const moving *move = arg;
    const int64_t spatial = move->spatial, image = chunk_idx / move->blocks;
    const int64_t first = chunk_idx % move->blocks * NN_CPU_BLOCK;
    const int64_t n = nn_cpu_least(NN_CPU_BLOCK, move->c - first);
    const float *from = move->from + (image * move->c + first) * spatial;
    float *to = move->to + chunk_idx * spatial * NN_CPU_BLOCK;

    (void)thread_idx;
    for (int64_t i = 0; i < spatial; i++) {
        float *pixel = to + i * NN_CPU_BLOCK;
        if (move->accumulate) {
            for (int64_t c = 0; c < n; c++) pixel[c] += from[c * spatial + i];
        } else {
            for (int64_t c = 0; c < n; c++) pixel[c] = from[c * spatial + i];
            for (int64_t c = n; c < NN_CPU_BLOCK; c++) pixel[c] = 0.0f;
        }
    }
}

void nn_cpu_pack_blocks(nn_backend *backend, int64_t n, int64_t c, int64_t spatial,
                        const float *dense, float *x, int accumulate)
{
    moving move = {.c = c,
                   .blocks = nn_cpu_blocks(c),
                   .spatial = spatial,
                   .from = dense,
                   .to = x,
                   .accumulate = accumulate};

    nn_cpu_run(backend, n * move.blocks, pack_chunk, &move);
}

static void unpack_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const moving *move = arg;
    const int64_t spatial = move->spatial, image = chunk_idx / move->blocks;
    const int64_t first = chunk_idx % move->blocks * NN_CPU_BLOCK;
    const int64_t n = nn_cpu_least(NN_CPU_BLOCK, move->c - first);
    const float *from = move->from + chunk_idx * spatial * NN_CPU_BLOCK;
    float *to = move->to + (image * move->c + first) * spatial;

    (void)thread_idx;
    for (int64_t c = 0; c < n; c++) {
        for (int64_t i = 0; i < spatial; i++) to[c * spatial + i] = from[i * NN_CPU_BLOCK + c];
    }
}

void nn_cpu_unpack_blocks(nn_backend *backend, int64_t n, int64_t c, int64_t spatial,
                          const float *x, float *dense)
{
    moving move = {.c = c, .blocks = nn_cpu_blocks(c), .spatial = spatial, .from = x, .to = dense};

    nn_cpu_run(backend, n * move.blocks, unpack_chunk, &move);
}

cvy_status nn_cpu_pack(nn_backend *backend, const nn_shape *shape, const float *dense, float *x,
                       int accumulate)
{
    if (!nn_cpu_is_dense(backend, shape)) {
        nn_cpu_pack_blocks(backend, shape->dim[0], shape->dim[1], shape->dim[2] * shape->dim[3],
                           dense, x, accumulate);
        return CVY_OK;
    }
    return accumulate ? nn_cpu_accumulate(backend, nn_shape_n_elems(shape), dense, x)
                      : nn_cpu_copy(backend, nn_shape_n_elems(shape), dense, x);
}

cvy_status nn_cpu_unpack(nn_backend *backend, const nn_shape *shape, const float *x, float *dense)
{
    if (!nn_cpu_is_dense(backend, shape)) {
        nn_cpu_unpack_blocks(backend, shape->dim[0], shape->dim[1], shape->dim[2] * shape->dim[3],
                             x, dense);
        return CVY_OK;
    }
    return nn_cpu_copy(backend, nn_shape_n_elems(shape), x, dense);
}

/* --- Some channels of one tensor as some of another ------------------------------------------- */

typedef struct channel_copy {
    const nn_channels_geom *geom;
    const float *x;
    float *y;
    int accumulate;
} channel_copy;

typedef struct channel_place {
    int64_t at, pitch; /* of the first pixel; from one pixel to the next */
} channel_place;

static channel_place place_of(int64_t image, int64_t n_channels, int64_t channel, int64_t spatial)
{
    const int64_t first = image * nn_cpu_stored_channels(n_channels) * spatial;

    if (!nn_cpu_is_blocked(n_channels)) return (channel_place){first + channel * spatial, 1};
    return (channel_place){first + channel / NN_CPU_BLOCK * NN_CPU_BLOCK * spatial +
                               channel % NN_CPU_BLOCK,
                           NN_CPU_BLOCK};
}

/* Channels [c, c + n) of an image, whole blocks on both sides, or one channel. */
static void copy_run(const channel_copy *copy, int64_t image, int64_t c, int is_blocks)
{
    const nn_channels_geom *geom = copy->geom;
    const channel_place from = place_of(image, geom->x_c, geom->x_first + c, geom->spatial);
    const channel_place to = place_of(image, geom->y_c, geom->y_first + c, geom->spatial);
    const int64_t n = is_blocks ? geom->spatial * NN_CPU_BLOCK : geom->spatial;
    const int64_t x_pitch = is_blocks ? 1 : from.pitch, y_pitch = is_blocks ? 1 : to.pitch;
    const float *restrict x = copy->x + from.at;
    float *restrict y = copy->y + to.at;

    if (copy->accumulate) {
        for (int64_t i = 0; i < n; i++) y[i * y_pitch] += x[i * x_pitch];
    } else if (x_pitch == 1 && y_pitch == 1) {
        memcpy(y, x, (size_t)n * sizeof(float));
    } else {
        for (int64_t i = 0; i < n; i++) y[i * y_pitch] = x[i * x_pitch];
    }
}

/* Where y ends with these channels, its padding channels. */
static void clear_padding(const channel_copy *copy, int64_t image)
{
    const nn_channels_geom *geom = copy->geom;
    const int64_t stored = nn_cpu_stored_channels(geom->y_c);

    if (copy->accumulate || geom->y_first + geom->c != geom->y_c) return;
    for (int64_t c = geom->y_c; c < stored; c++) {
        const channel_place to = place_of(image, geom->y_c, c, geom->spatial);
        for (int64_t i = 0; i < geom->spatial; i++) copy->y[to.at + i * to.pitch] = 0.0f;
    }
}

static void copy_channels_chunk(void *arg, int64_t image, int thread_idx)
{
    const channel_copy *copy = arg;
    const nn_channels_geom *geom = copy->geom;
    const int is_aligned = nn_cpu_is_blocked(geom->x_c) && nn_cpu_is_blocked(geom->y_c) &&
                           geom->x_first % NN_CPU_BLOCK == 0 && geom->y_first % NN_CPU_BLOCK == 0;
    int64_t c = 0;

    (void)thread_idx;
    for (; is_aligned && c + NN_CPU_BLOCK <= geom->c; c += NN_CPU_BLOCK) {
        copy_run(copy, image, c, 1);
    }
    for (; c < geom->c; c++) copy_run(copy, image, c, 0);
    clear_padding(copy, image);
}

cvy_status nn_cpu_copy_channels(nn_backend *backend, const nn_channels_geom *geom, const float *x,
                                float *y, int accumulate)
{
    channel_copy copy = {.geom = geom, .x = x, .y = y, .accumulate = accumulate};

    nn_cpu_run(backend, geom->n, copy_channels_chunk, &copy);
    return CVY_OK;
}
