#ifndef NN_OPTIMIZER_H
#define NN_OPTIMIZER_H

#include "base/config.h"
#include "base/status.h"
#include "nn/backend.h"
#include "nn/params.h"

#include <stdint.h>

/** Optimizers: one file in nn/optimizers/ and one line of its registry. Elementwise: they work on
 *  any segment of the flat buffer, so their work and state are divided between workers. */
#define NN_OPTIMIZER_MAX_STATES 2

typedef struct nn_optimizer_ops {
    const char *name; /* "sgd" */
    const char *help;
    const cvy_config_table *options; /* tag_key "type" */
    int n_states;
    const char
        *state_name[NN_OPTIMIZER_MAX_STATES]; /* as PyTorch's state dict: "momentum_buffer" */
    /** Update n weights of one parameter. All arrays start at the same element. */
    cvy_status (*update)(nn_backend *backend, const void *options, nn_param_kind kind, double lr,
                         int64_t step, double grad_scale, int64_t n, const float *grad,
                         float *const *state, float *weights);
} nn_optimizer_ops;

typedef struct nn_optimizer nn_optimizer;

/** From the job's `optimizer` section ({type: sgd, ...}; NULL: sgd with defaults). */
cvy_status nn_optimizer_create(cvy_node *section, nn_optimizer **out);
void nn_optimizer_destroy(nn_optimizer **optimizer);
const nn_optimizer_ops *nn_optimizer_get_ops(const nn_optimizer *optimizer);

int nn_optimizer_count(void);
const nn_optimizer_ops *nn_optimizer_at(int idx);

/** What one update needs besides the arrays. */
typedef struct nn_update {
    double lr;
    int64_t step;      /* of this update, from 0 */
    double grad_scale; /* 1 / samples of the global batch */
    double stat_scale; /* 1 / replicas */
} nn_update;

/**
 * Update a segment of the flat buffer: weights by the optimizer, running statistics by average,
 * the tail by copying.
 *
 * @param offset    first position of the segment; the arrays below start there.
 * @param n         floats in the segment.
 * @param grad_sum  sums over all replicas.
 * @param state     [n_states] arrays.
 */
cvy_status nn_optimizer_update(const nn_optimizer *optimizer, nn_backend *backend,
                               const nn_params *params, const nn_update *update, int64_t offset,
                               int64_t n, const float *grad_sum, float *const *state,
                               float *weights);

#endif
