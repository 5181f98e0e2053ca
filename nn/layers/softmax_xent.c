/* Softmax cross-entropy of each sample,
 *
 *     loss = - sum over j of target[j] log softmax(x)[j],
 *     target = (1 - label_smoothing) onehot(label) + label_smoothing / classes.
 *
 * Source: Szegedy et al. 2015, arXiv:1512.00567, section 7; PyTorch's CrossEntropyLoss. */

#include "nn/layer.h"

typedef struct softmax_xent_attrs {
    double label_smoothing;
} softmax_xent_attrs;

static const cvy_config_field fields[] = {
    {.key = "label_smoothing",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(softmax_xent_attrs, label_smoothing),
     .default_text = "0",
     .min = 0,
     .max = 1,
     .help = "share of the target spread evenly over all classes"},
};

static const cvy_config_table table = {.name = "softmax_xent",
                                       .struct_size = sizeof(softmax_xent_attrs),
                                       .n_fields = sizeof fields / sizeof fields[0],
                                       .fields = fields};

/* What is kept: probabilities (n, classes), which backward reads, and the results per sample. They
 * lie in the backend's memory, the outcome in the host's. */
typedef struct saved_parts {
    float *prob;
    int32_t *predicted, *rank;
    float *confidence;
} saved_parts;

static int64_t aligned(int64_t n)
{
    return (n + NN_PARAM_ALIGN - 1) / NN_PARAM_ALIGN * NN_PARAM_ALIGN;
}

static saved_parts parts_of(const nn_layer_call *call)
{
    const int64_t n = call->in_shape[0].dim[0];
    float *const saved = call->saved;
    float *const results = saved + aligned(n * call->in_shape[0].dim[1]);

    return (saved_parts){.prob = saved,
                         .predicted = (int32_t *)(void *)results,
                         .rank = (int32_t *)(void *)(results + aligned(n)),
                         .confidence = results + 2 * aligned(n)};
}

static cvy_status shape(const void *attrs, const nn_shape *in, int n_inputs, nn_layer_plan *plan,
                        cvy_reason *reason)
{
    (void)attrs;
    (void)n_inputs;
    if (in[0].n_dims != 2 || in[0].dim[1] > INT32_MAX) {
        char text[96];
        nn_shape_text(&in[0], text, sizeof text);
        return cvy_because(reason, CVY_ERR_CONFIG, "input of %s; expected (n, classes)", text);
    }
    plan->out = (nn_shape){.n_dims = 1, .dim = {in[0].dim[0]}};
    plan->saved_bytes = (size_t)(aligned(nn_shape_n_elems(&in[0])) + 3 * aligned(in[0].dim[0])) *
                        sizeof(float);
    plan->is_loss = 1;
    return CVY_OK;
}

static nn_xent_geom geometry(const nn_layer_call *call)
{
    const softmax_xent_attrs *attrs = call->attrs;

    return (nn_xent_geom){.n = call->in_shape[0].dim[0],
                          .classes = call->in_shape[0].dim[1],
                          .smoothing = attrs->label_smoothing};
}

static cvy_status check_labels(const nn_layer_call *call, const nn_xent_geom *geom)
{
    for (int64_t i = 0; i < geom->n; i++) {
        if (call->labels[i] < 0 || call->labels[i] >= geom->classes) {
            return CVY_FAIL(CVY_ERR_BAD_DATA,
                            "label %d of sample %lld in the minibatch; expected 0 to %lld: does "
                            "the model have the classes of the dataset?",
                            (int)call->labels[i], (long long)i, (long long)geom->classes - 1);
        }
    }
    return CVY_OK;
}

static cvy_status forward(const nn_layer_call *call)
{
    nn_backend *backend = call->backend;
    const nn_backend_ops *ops = backend->ops;
    const nn_xent_geom geom = geometry(call);
    const saved_parts parts = parts_of(call);
    const size_t size_bytes = (size_t)geom.n * sizeof(float); /* int32_t is as wide */

    CVY_RETURN_IF_ERR(check_labels(call, &geom));
    CVY_RETURN_IF_ERR(ops->softmax_xent_forward(backend, &geom, call->x[0], call->labels,
                                                parts.prob, call->y, parts.predicted, parts.rank,
                                                parts.confidence));
    CVY_RETURN_IF_ERR(ops->copy_out(backend, call->outcome->loss, call->y, size_bytes));
    CVY_RETURN_IF_ERR(
        ops->copy_out(backend, call->outcome->predicted, parts.predicted, size_bytes));
    CVY_RETURN_IF_ERR(ops->copy_out(backend, call->outcome->rank, parts.rank, size_bytes));
    CVY_RETURN_IF_ERR(
        ops->copy_out(backend, call->outcome->confidence, parts.confidence, size_bytes));
    return ops->sync(backend);
}

static cvy_status backward(const nn_layer_call *call)
{
    const nn_xent_geom geom = geometry(call);
    const saved_parts parts = parts_of(call);

    return call->backend->ops->softmax_xent_backward(call->backend, &geom, parts.prob, call->labels,
                                                     call->loss_scale, call->dx[0],
                                                     call->accumulate[0]);
}

extern const nn_layer_ops nn_layer_softmax_xent;
const nn_layer_ops nn_layer_softmax_xent = {
    .name = "softmax_xent",
    .help = "loss: softmax cross-entropy of (n, classes) and labels",
    .attrs = &table,
    .min_inputs = 1,
    .max_inputs = 1,
    .shape = shape,
    .forward = forward,
    .backward = backward,
};
