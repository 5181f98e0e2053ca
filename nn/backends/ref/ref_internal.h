#ifndef NN_BACKENDS_REF_INTERNAL_H
#define NN_BACKENDS_REF_INTERNAL_H

#include "nn/backend.h"

#include <stddef.h>
#include <stdint.h>

/* The kernels of the reference backend: plain loops over the formulas of nn/backend.h, every sum in
 * double, one thread. They define what is correct; nobody makes them fast. */

int64_t nn_ref_activation_elems(nn_backend *backend, const nn_shape *shape);
int nn_ref_is_dense(nn_backend *backend, const nn_shape *shape);
cvy_status nn_ref_pack(nn_backend *backend, const nn_shape *shape, const float *dense, float *x,
                       int accumulate);
cvy_status nn_ref_unpack(nn_backend *backend, const nn_shape *shape, const float *x, float *dense);
cvy_status nn_ref_copy_channels(nn_backend *backend, const nn_channels_geom *geom, const float *x,
                                float *y, int accumulate);
cvy_status nn_ref_fill(nn_backend *backend, int64_t n, float value, float *y);
cvy_status nn_ref_copy(nn_backend *backend, int64_t n, const float *x, float *y);
cvy_status nn_ref_accumulate(nn_backend *backend, int64_t n, const float *x, float *y);
cvy_status nn_ref_add(nn_backend *backend, int64_t n, const float *a, const float *b, float *y);
cvy_status nn_ref_copy_rows(nn_backend *backend, int64_t rows, int64_t cols, const float *x,
                            int64_t x_stride, float *y, int64_t y_stride, int accumulate);
cvy_status nn_ref_relu_forward(nn_backend *backend, int64_t n, const float *x, float *y);
cvy_status nn_ref_relu_backward(nn_backend *backend, int64_t n, const float *y, const float *dy,
                                float *dx, int accumulate);
cvy_status nn_ref_all_finite(nn_backend *backend, int64_t n, const float *x, int *out);

size_t nn_ref_conv2d_workspace_bytes(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_ref_conv2d_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                 const float *filter, const float *bias, float *y, void *workspace);
cvy_status nn_ref_conv2d_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                       const float *dy, const float *filter, float *dx,
                                       int accumulate, void *workspace);
cvy_status nn_ref_conv2d_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                         const float *x, const float *dy, float *dfilter,
                                         float *dbias, void *workspace);

cvy_status nn_ref_dense_forward(nn_backend *backend, int64_t n, int64_t c, int64_t k,
                                const float *x, const float *weight, const float *bias, float *y);
cvy_status nn_ref_dense_backward(nn_backend *backend, int64_t n, int64_t c, int64_t k,
                                 const float *x, const float *weight, const float *dy, float *dx,
                                 int accumulate, float *dweight, float *dbias);

cvy_status nn_ref_batchnorm_forward(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                    const float *gamma, const float *beta, float *y, float *mean,
                                    float *invstd, float *batch_var);
cvy_status nn_ref_batchnorm_inference(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                      const float *gamma, const float *beta, const float *mean,
                                      const float *var, float *y);
cvy_status nn_ref_batchnorm_backward(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                     const float *dy, const float *gamma, const float *mean,
                                     const float *invstd, float *dx, int accumulate, float *dgamma,
                                     float *dbeta);

cvy_status nn_ref_maxpool2d_forward(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                    float *y, int32_t *argmax);
cvy_status nn_ref_maxpool2d_backward(nn_backend *backend, const nn_pool2d_geom *geom,
                                     const float *dy, const int32_t *argmax, float *dx,
                                     int accumulate);
cvy_status nn_ref_avgpool2d_forward(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                    float *y);
cvy_status nn_ref_avgpool2d_backward(nn_backend *backend, const nn_pool2d_geom *geom,
                                     const float *dy, float *dx, int accumulate);

cvy_status nn_ref_dropout_forward(nn_backend *backend, int64_t n, double rate,
                                  const nn_dropout_key *key, const float *x, float *y);
cvy_status nn_ref_dropout_backward(nn_backend *backend, int64_t n, double rate,
                                   const nn_dropout_key *key, const float *dy, float *dx,
                                   int accumulate);

cvy_status nn_ref_softmax_xent_forward(nn_backend *backend, const nn_xent_geom *geom,
                                       const float *logits, const int32_t *labels, float *prob,
                                       float *loss, int32_t *predicted, int32_t *rank,
                                       float *confidence);
cvy_status nn_ref_softmax_xent_backward(nn_backend *backend, const nn_xent_geom *geom,
                                        const float *prob, const int32_t *labels, float scale,
                                        float *dx, int accumulate);

cvy_status nn_ref_sgd_update(nn_backend *backend, int64_t n, double lr, double momentum,
                             int is_nesterov, double decay, double grad_scale, const float *grad,
                             float *m, float *w);
cvy_status nn_ref_average_update(nn_backend *backend, int64_t n, double rate, double scale,
                                 const float *sum, float *w);

#endif
