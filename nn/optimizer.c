#include "nn/optimizer.h"

#include "nn/choose_internal.h"
#include "nn/optimizers/registry_internal.h"

#include "base/alloc.h"

struct nn_optimizer {
    const nn_optimizer_ops *ops;
    void *options; /* ops->options' struct */
};

/* The key that other systems have here: say where it is instead of "unknown key". */
static cvy_status check_no_lr(const cvy_node *section)
{
    const cvy_node *lr = section == NULL ? NULL : cvy_node_find(section, "lr");
    char place[256];

    if (lr == NULL) return CVY_OK;
    cvy_node_place(lr, place, sizeof place);
    return CVY_FAIL(CVY_ERR_CONFIG,
                    "%s: optimizer has no lr: the learning rate is schedule.lr (schedule: {lr: "
                    "...})",
                    place);
}

cvy_status nn_optimizer_create(cvy_node *section, nn_optimizer **out)
{
    cvy_status status = CVY_OK;
    nn_optimizer *optimizer = NULL;
    int idx = 0;

    *out = NULL;
    CVY_RETURN_IF_ERR(
        nn_choose_type(section, "optimizer", nn_optimizer_names, nn_optimizer_count(), 0, &idx));
    CVY_RETURN_IF_ERR(check_no_lr(section));
    optimizer = cvy_alloc_zero(1, sizeof *optimizer);
    if (optimizer == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "optimizer");
    optimizer->ops = nn_optimizer_at(idx);
    CVY_GOTO_IF_ERR(fail, status,
                    nn_read_options(optimizer->ops->options, optimizer->ops->name, section,
                                    &optimizer->options));
    *out = optimizer;
    return CVY_OK;

fail:
    nn_optimizer_destroy(&optimizer);
    return status;
}

void nn_optimizer_destroy(nn_optimizer **optimizer)
{
    if (optimizer == NULL || *optimizer == NULL) return;
    cvy_free((*optimizer)->options);
    cvy_free(*optimizer);
    *optimizer = NULL;
}

const nn_optimizer_ops *nn_optimizer_get_ops(const nn_optimizer *optimizer)
{
    return optimizer->ops;
}

/* The arrays of a segment; all start at the same element. */
typedef struct segment_arrays {
    const float *grad_sum;
    float *const *state; /* [n_states] */
    float *weights;
} segment_arrays;

/* The part of one parameter that lies in the segment: n floats, at `at` of the segment's arrays. */
static cvy_status update_part(const nn_optimizer *optimizer, nn_backend *backend,
                              const nn_param_decl *decl, const nn_update *update,
                              const segment_arrays *arrays, int64_t at, int64_t n)
{
    const nn_optimizer_ops *ops = optimizer->ops;
    const float *grad_sum = arrays->grad_sum + at;
    float *weights = arrays->weights + at;
    float *state[NN_OPTIMIZER_MAX_STATES] = {NULL};

    if (decl->kind == NN_PARAM_RUNNING) {
        return backend->ops->average_update(backend, n, decl->running_rate, update->stat_scale,
                                            grad_sum, weights);
    }
    if (decl->kind == NN_PARAM_TAIL) {
        return backend->ops->copy(backend, n, grad_sum, weights);
    }
    for (int i = 0; i < ops->n_states; i++) state[i] = arrays->state[i] + at;
    return ops->update(backend, optimizer->options, decl->kind, update->lr, update->step,
                       update->grad_scale, n, grad_sum, state, weights);
}

cvy_status nn_optimizer_update(const nn_optimizer *optimizer, nn_backend *backend,
                               const nn_params *params, const nn_update *update, int64_t offset,
                               int64_t n, const float *grad_sum, float *const *state,
                               float *weights)
{
    const segment_arrays arrays = {.grad_sum = grad_sum, .state = state, .weights = weights};
    const int64_t end = offset + n;

    for (int i = nn_params_at(params, offset); i < params->n; i++) {
        const nn_param *param = &params->entry[i];
        const int64_t param_end = param->offset + param->n_elems;
        const int64_t first = param->offset > offset ? param->offset : offset;
        const int64_t last = param_end < end ? param_end : end;
        if (first >= end) break;
        CVY_RETURN_IF_ERR(update_part(optimizer, backend, &param->decl, update, &arrays,
                                      first - offset, last - first));
    }
    return CVY_OK;
}
