/* Stochastic gradient descent with momentum, in PyTorch's form without dampening (Sutskever et al.
 * 2013, "On the importance of initialization and momentum in deep learning"):
 *
 *     g = gradient + weight_decay * w
 *     m = momentum * m + g
 *     w = w - lr * (nesterov ? g + momentum * m : m)
 *
 * Weight decay is on every parameter, as in PyTorch, unless norms or biases are excluded. With
 * momentum 0 the state stays as it is and nesterov changes nothing. */

#include "nn/optimizer.h"

#include <stddef.h>

typedef struct sgd_options {
    double momentum;
    int is_nesterov;
    double weight_decay;
    int decay_norm;
    int decay_bias;
} sgd_options;

static const cvy_config_field fields[] = {
    {.key = "momentum",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(sgd_options, momentum),
     .default_text = "0.9",
     .min = 0,
     .max = 1,
     .help = "share of the last move in the next; 0: plain SGD"},
    {.key = "nesterov",
     .type = CVY_CONFIG_BOOL,
     .offset = offsetof(sgd_options, is_nesterov),
     .default_text = "false",
     .help = "Nesterov momentum"},
    {.key = "weight_decay",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(sgd_options, weight_decay),
     .default_text = "0",
     .min = 0,
     .max = 1e6,
     .help = "factor of the weights added to their gradients"},
    {.key = "decay_norm",
     .type = CVY_CONFIG_BOOL,
     .offset = offsetof(sgd_options, decay_norm),
     .default_text = "true",
     .help = "decay scales and shifts of normalisations too; false: none on batch norm"},
    {.key = "decay_bias",
     .type = CVY_CONFIG_BOOL,
     .offset = offsetof(sgd_options, decay_bias),
     .default_text = "true",
     .help = "decay biases too; with decay_norm false as well: filters and matrices only"},
};

static const cvy_config_table table = {.name = "optimizer sgd",
                                       .struct_size = sizeof(sgd_options),
                                       .tag_key = "type",
                                       .n_fields = sizeof fields / sizeof fields[0],
                                       .fields = fields};

static cvy_status update(nn_backend *backend, const void *any, nn_param_kind kind, double lr,
                         int64_t step, double grad_scale, int64_t n, const float *grad,
                         float *const *state, float *weights)
{
    const sgd_options *options = any;
    const int is_decayed = !(kind == NN_PARAM_NORM && !options->decay_norm) &&
                           !(kind == NN_PARAM_BIAS && !options->decay_bias);
    float *momentum = options->momentum > 0 ? state[0] : NULL;

    (void)step;
    return backend->ops->sgd_update(backend, n, lr, options->momentum, options->is_nesterov,
                                    is_decayed ? options->weight_decay : 0.0, grad_scale, grad,
                                    momentum, weights);
}

extern const nn_optimizer_ops nn_optimizer_sgd;
const nn_optimizer_ops nn_optimizer_sgd = {
    .name = "sgd",
    .help = "stochastic gradient descent with momentum",
    .options = &table,
    .n_states = 1,
    .state_name = {"momentum_buffer"},
    .update = update,
};
