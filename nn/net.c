#include "nn/net_internal.h"

#include "nn/shape_internal.h"

#include "base/alloc.h"

/* Host memory of one net: everything that a pass gives back. */
static cvy_status alloc_results(nn_net *net)
{
    const size_t n = (size_t)nn_graph_minibatch(net->graph);
    const nn_shape logits = nn_graph_shape(net->graph, nn_graph_logits(net->graph));
    const size_t n_logits = (size_t)nn_shape_n_elems(&logits);
    nn_outcome *outcome = &net->outcome;

    net->times = cvy_alloc_zero((size_t)nn_graph_n_layers(net->graph), sizeof *net->times);
    outcome->loss = cvy_alloc_zero(n, sizeof *outcome->loss);
    outcome->predicted = cvy_alloc_zero(n, sizeof *outcome->predicted);
    outcome->rank = cvy_alloc_zero(n, sizeof *outcome->rank);
    outcome->confidence = cvy_alloc_zero(n, sizeof *outcome->confidence);
    net->logits = cvy_alloc_zero(n_logits, sizeof *net->logits);
    if (net->times == NULL || outcome->loss == NULL || outcome->predicted == NULL ||
        outcome->rank == NULL || outcome->confidence == NULL || net->logits == NULL) {
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "results of a net, minibatch %zu", n);
    }
    return CVY_OK;
}

static cvy_status alloc_arena(nn_net *net)
{
    const int64_t size_bytes = net->plan->arena_bytes;
    char text[32];

    net->arena = net->backend->ops->alloc(net->backend, (size_t)size_bytes);
    if (net->arena != NULL) return CVY_OK;
    nn_bytes_text((double)size_bytes, text, sizeof text);
    return CVY_FAIL(CVY_ERR_NO_MEMORY,
                    "net: %s for activations and gradients at minibatch %lld; try a smaller one",
                    text, (long long)nn_graph_minibatch(net->graph));
}

cvy_status nn_net_create(nn_backend *backend, const nn_graph *graph, const nn_net_options *options,
                         nn_net **out)
{
    cvy_status status = CVY_OK;
    nn_net *net = NULL;

    *out = NULL;
    net = cvy_alloc_zero(1, sizeof *net);
    if (net == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "net");
    net->backend = backend;
    net->graph = graph;
    net->is_inference = options != NULL && options->is_inference;
    net->loss_idx = -1;
    for (int i = 0; i < nn_graph_n_layers(graph); i++) {
        if (nn_graph_layer_at(graph, i)->plan.is_loss) net->loss_idx = i;
    }
    const int64_t keep_bytes = options != NULL && options->keep_bytes > 0 ? options->keep_bytes
                                                                          : NN_NET_KEEP_BYTES;
    CVY_GOTO_IF_ERR(
        fail, status,
        nn_plan_create_within(backend, graph, net->is_inference, keep_bytes, &net->plan));
    CVY_GOTO_IF_ERR(fail, status, alloc_results(net));
    CVY_GOTO_IF_ERR(fail, status, alloc_arena(net));
    *out = net;
    return CVY_OK;

fail:
    nn_net_destroy(&net);
    return status;
}

void nn_net_destroy(nn_net **net)
{
    if (net == NULL || *net == NULL) return;
    if ((*net)->arena != NULL) (*net)->backend->ops->release((*net)->backend, (*net)->arena);
    nn_plan_destroy(&(*net)->plan);
    cvy_free((*net)->times);
    cvy_free((*net)->outcome.loss);
    cvy_free((*net)->outcome.predicted);
    cvy_free((*net)->outcome.rank);
    cvy_free((*net)->outcome.confidence);
    cvy_free((*net)->logits);
    cvy_free(*net);
    *net = NULL;
}

size_t nn_net_arena_bytes(const nn_net *net)
{
    return (size_t)net->plan->arena_bytes;
}

void nn_net_set_poll(nn_net *net, nn_net_poll poll, void *arg)
{
    net->poll = poll;
    net->poll_arg = arg;
}

const nn_outcome *nn_net_outcome(const nn_net *net)
{
    return &net->outcome;
}

cvy_status nn_net_logits(nn_net *net, const float **out)
{
    const nn_value value = nn_graph_logits(net->graph);
    nn_shape shape = nn_graph_shape(net->graph, value);

    if (net->forward_n == 0) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "logits of a net before its first forward pass");
    }
    shape.dim[0] = net->forward_n;
    const float *logits = nn_net_block(net, net->plan->value[value]);
    float *staging = nn_net_block(net, net->plan->logits_staging);
    if (staging != NULL) {
        CVY_RETURN_IF_ERR(net->backend->ops->unpack(net->backend, &shape, logits, staging));
        logits = staging;
    }
    CVY_RETURN_IF_ERR(net->backend->ops->copy_out(
        net->backend, net->logits, logits, (size_t)nn_shape_n_elems(&shape) * sizeof(float)));
    CVY_RETURN_IF_ERR(net->backend->ops->sync(net->backend));
    *out = net->logits;
    return CVY_OK;
}

void nn_net_set_profile(nn_net *net, int is_on)
{
    net->has_profile = is_on;
}

const nn_layer_time *nn_net_profile(const nn_net *net)
{
    return net->times;
}

int nn_net_runs_at(const nn_net *net, int layer_idx)
{
    return nn_plan_runs_at(net->plan, layer_idx);
}

int nn_net_reads_output(const nn_net *net, int layer_idx)
{
    return nn_plan_reads_y(net->plan, nn_graph_layer_at(net->graph, layer_idx));
}

int nn_net_has_gradient(const nn_net *net, nn_value value)
{
    return net->plan->grad[value] != NN_NO_BLOCK;
}
