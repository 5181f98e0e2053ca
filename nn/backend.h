#ifndef NN_BACKEND_H
#define NN_BACKEND_H

#include "base/status.h"
#include "nn/shape.h"

#include <stddef.h>
#include <stdint.h>

/**
 * A backend is a table of kernels on one kind of device. `ref` (plain loops, sums in double)
 * defines what is correct; `cpu` is fast; `cuda` runs on a GPU. Layers call through the table and
 * never ask which backend they run on. A kernel that no backend has is a new slot: `ref` first.
 *
 * Rules for every kernel:
 * - tensors are float32, in the backend's memory, 64-byte aligned. Weights (KCRS), their gradients
 *   and all that has less than four dimensions are dense;
 * - activations (n, c, h, w), and the gradients of them, lie as the backend likes ("Layout" below).
 *   Geometry is always logical;
 * - results do not depend on the number of threads: outputs are split, sums run over fixed chunks
 *   in a fixed order;
 * - nothing is allocated; scratch comes as workspace whose size was asked before;
 * - arguments and shapes were checked when the net was shaped: kernels trust them;
 * - `accumulate` != 0 adds to the output gradient instead of overwriting it;
 * - asynchronous on a GPU: results are ready after sync(). Not collective. One thread calls at a
 *   time.
 */
typedef struct nn_backend_ops nn_backend_ops;

typedef struct nn_backend {
    const nn_backend_ops *ops; /* first member of each backend's own struct */
    int n_threads;
} nn_backend;

/** Dimensions in cuDNN's letters: input n c h w, filters k r s, output p q. */
typedef struct nn_conv2d_geom {
    int64_t n, c, h, w;
    int64_t k, r, s;
    int64_t p, q; /* p = floor((h + 2 pad_h - dil_h (r - 1) - 1) / stride_h) + 1, q likewise */
    int64_t stride_h, stride_w, pad_h, pad_w, dil_h, dil_w;
    int64_t groups; /* divides c and k; filters are (k, c / groups, r, s) */
} nn_conv2d_geom;

/** What follows a convolution in evaluation, in one sweep: y = f(batchnorm(conv) + residual) by
 *  running statistics, where f is the rectifier or nothing. */
typedef struct nn_conv_tail {
    const float *gamma, *beta, *running_mean, *running_var; /* (k) */
    double eps;
    const float *residual; /* laid out as y, which it may be; NULL: none */
    int is_relu;
} nn_conv_tail;

typedef struct nn_pool2d_geom {
    int64_t n, c, h, w;
    int64_t r, s;
    int64_t p, q;
    int64_t stride_h, stride_w, pad_h, pad_w;
    int count_include_pad; /* average only: divide by r*s, or by the elements inside */
} nn_pool2d_geom;

/** Channels [x_first, x_first + c) of x (n, x_c, spatial) as channels from y_first of
 *  y (n, y_c, spatial). */
typedef struct nn_channels_geom {
    int64_t n, spatial, c;
    int64_t x_c, x_first, y_c, y_first;
} nn_channels_geom;

/** x is (n, c, spatial). */
typedef struct nn_bn_geom {
    int64_t n, c, spatial;
    double eps;
} nn_bn_geom;

/** y = batchnorm(x) + residual, then max(., 0) if is_relu, in one sweep. Training writes mean,
 * invstd and batch_var; inference is given running statistics instead. Both write what y was made
 * with,
 *
 *      y = (x - mean) scale + shift, + residual, max(., 0),
 *
 *  where the mean of inference is the running one; norm_chain_again reads it. */
typedef struct nn_norm_chain {
    const float *x, *residual; /* residual: NULL for none */
    const float *gamma, *beta;
    const float *running_mean, *running_var; /* NULL: training */
    int is_relu;
    float *y; /* may be x or residual */
    float *mean, *invstd, *batch_var;
    float *scale, *shift;
} nn_norm_chain;

/** With d = dy where y > 0 (dy itself without is_relu): dx and dgamma, dbeta as batchnorm_backward
 *  of d, and dresidual = d. */
typedef struct nn_norm_chain_gradient {
    const float *x, *gamma, *mean, *invstd, *scale, *shift;
    const float *y; /* NULL: there was no residual, so the sign of y follows from x */
    int is_relu;
    float *dy; /* contents lost */
    float *dx; /* may be dy, unless it adds or dresidual is */
    int accumulate;
    float *dresidual; /* NULL: not wanted; may be dy, unless it adds; not dx */
    int accumulate_residual;
    float *dgamma, *dbeta;
} nn_norm_chain_gradient;

typedef struct nn_xent_geom {
    int64_t n, classes;
    double smoothing; /* target = (1 - smoothing) onehot + smoothing / classes */
} nn_xent_geom;

/** Which random numbers: the stream CVY_RNG_DROPOUT of (seed, step, replica * 2^20 + layer_idx);
 *  element i of the tensor uses number i. */
typedef struct nn_dropout_key {
    uint64_t seed, step, replica;
    int layer_idx;
} nn_dropout_key;

typedef struct nn_backend_options {
    int n_threads;  /* >= 1 */
    int local_rank; /* among the workers of the host: picks the GPU */
} nn_backend_options;

struct nn_backend_ops {
    const char *name; /* the spelling used in job files */
    cvy_status (*open)(const nn_backend_options *options, nn_backend **out);
    void (*close)(nn_backend *backend);

    /* Memory. Host backends: cvy_alloc and memcpy. */
    void *(*alloc)(nn_backend *backend, size_t size_bytes); /* NULL: none; contents undefined */
    void (*release)(nn_backend *backend, void *block);
    cvy_status (*copy_in)(nn_backend *backend, void *device, const void *host, size_t size_bytes);
    cvy_status (*copy_out)(nn_backend *backend, void *host, const void *device, size_t size_bytes);
    cvy_status (*sync)(nn_backend *backend);

    /* Layout of activations. A layout depends on the shape alone, and two shapes that differ only
     * in h and w of equal product have the same. Elementwise kernels work on all activation_elems()
     * floats; what a layout pads with stays 0 under all of them. */
    int64_t (*activation_elems)(nn_backend *backend, const nn_shape *shape); /* floats it takes */
    int (*is_dense)(nn_backend *backend, const nn_shape *shape); /* whether it lies as NCHW */
    /* From dense NCHW, and to it; accumulate != 0 adds to x. */
    cvy_status (*pack)(nn_backend *backend, const nn_shape *shape, const float *dense, float *x,
                       int accumulate);
    cvy_status (*unpack)(nn_backend *backend, const nn_shape *shape, const float *x, float *dense);
    /* Between activations of several channel counts (concat, split). Where y's last channel is
     * written, so is y's padding. */
    cvy_status (*copy_channels)(nn_backend *backend, const nn_channels_geom *geom, const float *x,
                                float *y, int accumulate);

    /* Elementwise on n floats. */
    cvy_status (*fill)(nn_backend *backend, int64_t n, float value, float *y);
    cvy_status (*copy)(nn_backend *backend, int64_t n, const float *x, float *y);
    cvy_status (*accumulate)(nn_backend *backend, int64_t n, const float *x, float *y); /* y += x */
    cvy_status (*add)(nn_backend *backend, int64_t n, const float *a, const float *b,
                      float *y); /* y may be a or b */
    /* rows of cols floats between matrices of other row strides (concat, split, crop). */
    cvy_status (*copy_rows)(nn_backend *backend, int64_t rows, int64_t cols, const float *x,
                            int64_t x_stride, float *y, int64_t y_stride, int accumulate);

    /* conv2d: y[n,k,p,q] = bias[k] + sum_{c,r,s} x[n,c,p stride_h - pad_h + r dil_h, ...] *
     * filter[k,c,r,s]; x is 0 outside (Dumoulin & Visin 2016, arXiv:1603.07285). bias, dbias may be
     * NULL. dfilter and dbias are overwritten. The workspace serves all three. */
    size_t (*conv2d_workspace_bytes)(nn_backend *backend, const nn_conv2d_geom *geom);
    cvy_status (*conv2d_forward)(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                                 const float *filter, const float *bias, float *y, void *workspace);
    cvy_status (*conv2d_backward_data)(nn_backend *backend, const nn_conv2d_geom *geom,
                                       const float *dy, const float *filter, float *dx,
                                       int accumulate, void *workspace);
    cvy_status (*conv2d_backward_filter)(nn_backend *backend, const nn_conv2d_geom *geom,
                                         const float *x, const float *dy, float *dfilter,
                                         float *dbias, void *workspace);

    /* Optional (NULL: the layers run one by one): a convolution with its tail. */
    cvy_status (*conv2d_tail_forward)(nn_backend *backend, const nn_conv2d_geom *geom,
                                      const float *x, const float *filter, const float *bias,
                                      const nn_conv_tail *tail, float *y, void *workspace);

    /* dense: y[n,k] = bias[k] + sum_c x[n,c] weight[k,c]; bias may be NULL, and so may each of dx,
     * dweight and dbias: not wanted. */
    cvy_status (*dense_forward)(nn_backend *backend, int64_t n, int64_t c, int64_t k,
                                const float *x, const float *weight, const float *bias, float *y);
    cvy_status (*dense_backward)(nn_backend *backend, int64_t n, int64_t c, int64_t k,
                                 const float *x, const float *weight, const float *dy, float *dx,
                                 int accumulate, float *dweight, float *dbias);

    /* batchnorm (Ioffe & Szegedy 2015, arXiv:1502.03167), per channel over (n, spatial):
     *     y = gamma (x - mean) invstd + beta, invstd = 1 / sqrt(var + eps), var biased.
     * Training gives mean and invstd (for backward) and the unbiased variance batch_var (biased
     * when there is one element). Inference normalises by running statistics. */
    cvy_status (*batchnorm_forward)(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                    const float *gamma, const float *beta, float *y, float *mean,
                                    float *invstd, float *batch_var);
    cvy_status (*batchnorm_inference)(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                      const float *gamma, const float *beta, const float *mean,
                                      const float *var, float *y);
    cvy_status (*batchnorm_backward)(nn_backend *backend, const nn_bn_geom *geom, const float *x,
                                     const float *dy, const float *gamma, const float *mean,
                                     const float *invstd, float *dx, int accumulate, float *dgamma,
                                     float *dbeta);

    /* Optional (all or none; NULL: the layers run one by one): a batchnorm, a sum and a rectifier.
     * Again: the bits of y once more, from x, residual, mean, scale and shift as forward left them.
     */
    cvy_status (*norm_chain_forward)(nn_backend *backend, const nn_bn_geom *geom,
                                     const nn_norm_chain *chain);
    cvy_status (*norm_chain_again)(nn_backend *backend, const nn_bn_geom *geom,
                                   const nn_norm_chain *chain);
    cvy_status (*norm_chain_backward)(nn_backend *backend, const nn_bn_geom *geom,
                                      const nn_norm_chain_gradient *chain);

    /* relu: y = max(x, 0) (y may be x); dx = dy where y > 0 (dx may be dy). */
    cvy_status (*relu_forward)(nn_backend *backend, int64_t n, const float *x, float *y);
    cvy_status (*relu_backward)(nn_backend *backend, int64_t n, const float *y, const float *dy,
                                float *dx, int accumulate);

    /* maxpool2d: the first of equal maxima in row order wins; argmax (laid out as y) = its place
     * h*W + w in the input plane. NaN wins over numbers. avgpool2d: sums over the window. */
    cvy_status (*maxpool2d_forward)(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                    float *y, int32_t *argmax);
    cvy_status (*maxpool2d_backward)(nn_backend *backend, const nn_pool2d_geom *geom,
                                     const float *dy, const int32_t *argmax, float *dx,
                                     int accumulate);
    cvy_status (*avgpool2d_forward)(nn_backend *backend, const nn_pool2d_geom *geom, const float *x,
                                    float *y);
    cvy_status (*avgpool2d_backward)(nn_backend *backend, const nn_pool2d_geom *geom,
                                     const float *dy, float *dx, int accumulate);

    /* dropout: y = x / (1 - rate) where u >= rate, else 0 (y may be x). Backward draws again, so
     * nothing is kept. */
    cvy_status (*dropout_forward)(nn_backend *backend, int64_t n, double rate,
                                  const nn_dropout_key *key, const float *x, float *y);
    cvy_status (*dropout_backward)(nn_backend *backend, int64_t n, double rate,
                                   const nn_dropout_key *key, const float *dy, float *dx,
                                   int accumulate);

    /* softmax cross-entropy. Forward: prob (n, classes) and per sample loss, the predicted class
     * (first of equal logits), rank = logits that beat the label's (greater, or equal with a
     * smaller index) and confidence = prob of the prediction. Backward: dx = scale (prob - target).
     * labels lie in host memory, in [0, classes). A non-finite logit makes the loss NaN. */
    cvy_status (*softmax_xent_forward)(nn_backend *backend, const nn_xent_geom *geom,
                                       const float *logits, const int32_t *labels, float *prob,
                                       float *loss, int32_t *predicted, int32_t *rank,
                                       float *confidence);
    cvy_status (*softmax_xent_backward)(nn_backend *backend, const nn_xent_geom *geom,
                                        const float *prob, const int32_t *labels, float scale,
                                        float *dx, int accumulate);

    /* Updates of n weights by their summed gradients (times grad_scale).
     * sgd: g = grad_scale * grad + decay * w; m = momentum * m + g; w -= lr * (nesterov ? g +
     * momentum * m : m): PyTorch's form (Sutskever et al. 2013), without dampening; m NULL: plain.
     * average: w += rate * (scale * sum - w): running statistics. */
    cvy_status (*sgd_update)(nn_backend *backend, int64_t n, double lr, double momentum,
                             int is_nesterov, double decay, double grad_scale, const float *grad,
                             float *m, float *w);
    cvy_status (*average_update)(nn_backend *backend, int64_t n, double rate, double scale,
                                 const float *sum, float *w);
    /* *out = 1 if every one of n floats is finite. */
    cvy_status (*all_finite)(nn_backend *backend, int64_t n, const float *x, int *out);
};

/** Open a backend by name; "auto" takes the best that this machine has. CVY_ERR_CONFIG names the
 *  nearest for an unknown name, CVY_ERR_UNAVAILABLE when the machine lacks the device. */
cvy_status nn_backend_open(const char *name, const nn_backend_options *options, nn_backend **out);
void nn_backend_close(nn_backend **backend);

/** Registered backends, in order of preference last to first ("ref" is index 0). */
int nn_backend_count(void);
const nn_backend_ops *nn_backend_at(int idx);

#endif
