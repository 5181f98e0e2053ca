#include "nn/backends/ref/ref_internal.h"

/* Activations are dense NCHW. */

int64_t nn_ref_activation_elems(nn_backend *backend, const nn_shape *shape)
{
    (void)backend;
    return nn_shape_n_elems(shape);
}

int nn_ref_is_dense(nn_backend *backend, const nn_shape *shape)
{
    (void)backend;
    (void)shape;
    return 1;
}

cvy_status nn_ref_pack(nn_backend *backend, const nn_shape *shape, const float *dense, float *x,
                       int accumulate)
{
    const int64_t n = nn_shape_n_elems(shape);

    return accumulate ? nn_ref_accumulate(backend, n, dense, x) : nn_ref_copy(backend, n, dense, x);
}

cvy_status nn_ref_unpack(nn_backend *backend, const nn_shape *shape, const float *x, float *dense)
{
    return nn_ref_copy(backend, nn_shape_n_elems(shape), x, dense);
}

cvy_status nn_ref_copy_channels(nn_backend *backend, const nn_channels_geom *geom, const float *x,
                                float *y, int accumulate)
{
    return nn_ref_copy_rows(backend, geom->n, geom->c * geom->spatial,
                            x + geom->x_first * geom->spatial, geom->x_c * geom->spatial,
                            y + geom->y_first * geom->spatial, geom->y_c * geom->spatial,
                            accumulate);
}
