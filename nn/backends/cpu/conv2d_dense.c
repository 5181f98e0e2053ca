#include "nn/backends/cpu/conv2d_internal.h"
#include "nn/backends/cpu/layout_internal.h"

/* The matrix products of conv2d_columns.c on dense copies of what lies in blocks. */

static int64_t dense_floats(int64_t n, int64_t c, int64_t spatial)
{
    return nn_cpu_is_blocked(c) ? nn_cpu_div_up(n * c * spatial, NN_CPU_BLOCK) * NN_CPU_BLOCK : 0;
}

/* Where a dense x and y stand in the workspace; blocked ones need it. */
typedef struct dense_copies {
    float *x, *y;
    void *rest;
} dense_copies;

static dense_copies copies_in(const nn_conv2d_geom *geom, float *workspace)
{
    float *const x = workspace;
    float *const y = x + dense_floats(geom->n, geom->c, geom->h * geom->w);

    return (dense_copies){x, y, y + dense_floats(geom->n, geom->k, geom->p * geom->q)};
}

/* The tensor itself if it is dense, else a copy. */
static const float *as_dense(nn_backend *backend, int64_t n, int64_t c, int64_t spatial,
                             const float *x, float *copy)
{
    if (!nn_cpu_is_blocked(c)) return x;
    nn_cpu_unpack_blocks(backend, n, c, spatial, x, copy);
    return copy;
}

int nn_conv_dense_fits(const nn_conv2d_geom *geom)
{
    (void)geom;
    return 1;
}

int64_t nn_conv_dense_floats(nn_backend *backend, const nn_conv2d_geom *geom)
{
    return dense_floats(geom->n, geom->c, geom->h * geom->w) +
           dense_floats(geom->n, geom->k, geom->p * geom->q) +
           nn_cpu_div_up((int64_t)nn_cpu_columns_workspace_bytes(backend, geom), sizeof(float));
}

cvy_status nn_conv_dense_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                 const float *filter, const nn_conv_epilogue *epilogue, float *y,
                                 float *workspace)
{
    const dense_copies copies = copies_in(geom, workspace);
    const int is_blocked = nn_cpu_is_blocked(geom->k);
    const float *from = as_dense(backend, geom->n, geom->c, geom->h * geom->w, x, copies.x);

    CVY_RETURN_IF_ERR(nn_cpu_columns_forward(backend, geom, from, filter, epilogue->bias,
                                             is_blocked ? copies.y : y, copies.rest));
    if (is_blocked) {
        nn_cpu_pack_blocks(backend, geom->n, geom->k, geom->p * geom->q, copies.y, y, 0);
    }
    return CVY_OK;
}

cvy_status nn_conv_dense_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                       const float *dy, const float *filter, float *dx,
                                       int accumulate, float *workspace)
{
    const dense_copies copies = copies_in(geom, workspace);
    const float *from = as_dense(backend, geom->n, geom->k, geom->p * geom->q, dy, copies.y);

    if (!nn_cpu_is_blocked(geom->c)) {
        return nn_cpu_columns_backward_data(backend, geom, from, filter, dx, accumulate,
                                            copies.rest);
    }
    CVY_RETURN_IF_ERR(
        nn_cpu_columns_backward_data(backend, geom, from, filter, copies.x, 0, copies.rest));
    nn_cpu_pack_blocks(backend, geom->n, geom->c, geom->h * geom->w, copies.x, dx, accumulate);
    return CVY_OK;
}

cvy_status nn_conv_dense_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                         const float *x, const float *dy, float *dfilter,
                                         float *dbias, float *workspace)
{
    const dense_copies copies = copies_in(geom, workspace);

    return nn_cpu_columns_backward_filter(
        backend, geom, as_dense(backend, geom->n, geom->c, geom->h * geom->w, x, copies.x),
        as_dense(backend, geom->n, geom->k, geom->p * geom->q, dy, copies.y), dfilter, dbias,
        copies.rest);
}
