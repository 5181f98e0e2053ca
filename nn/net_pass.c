#include "nn/net_internal.h"

#include "base/clock.h"

/* The two passes. Nothing is allocated here: a call's pointers lie on the stack. */

typedef struct net_pass {
    nn_net *net;
    const nn_batch *batch;
    const float *weights;
    float *grads; /* NULL: not wanted */
} net_pass;

/* One layer's call and what it points to. */
typedef struct layer_call {
    nn_layer_call call;
    nn_shape in_shape[NN_LAYER_MAX_INPUTS];
    nn_shape out_shape;
    const float *x[NN_LAYER_MAX_INPUTS];
    float *dx[NN_LAYER_MAX_INPUTS];
    int accumulate[NN_LAYER_MAX_INPUTS];
    const float *params[NN_LAYER_MAX_PARAMS];
    float *dparams[NN_LAYER_MAX_PARAMS];
} layer_call;

/* A value's shape with the images of this call. */
static nn_shape shape_of(const net_pass *pass, nn_value value)
{
    nn_shape shape = nn_graph_shape(pass->net->graph, value);

    shape.dim[0] = pass->batch->n;
    return shape;
}

static void point_to_params(const net_pass *pass, const nn_graph_layer *layer, layer_call *out)
{
    const nn_params *params = nn_graph_params(pass->net->graph);

    for (int j = 0; j < layer->plan.n_params; j++) {
        const int64_t offset = params->entry[layer->first_param + j].offset;
        out->params[j] = pass->weights + offset;
        out->dparams[j] = pass->grads != NULL ? pass->grads + offset : NULL;
    }
    out->call.params = out->params;
    out->call.dparams = out->dparams;
}

/* What forward and backward have in common. */
static void begin_call(const net_pass *pass, int layer_idx, layer_call *out)
{
    nn_net *net = pass->net;
    const nn_graph_layer *layer = nn_graph_layer_at(net->graph, layer_idx);

    out->call = (nn_layer_call){.backend = net->backend,
                                .attrs = layer->attrs,
                                .plan = &layer->plan,
                                .layer_idx = layer_idx,
                                .is_training = pass->batch->is_training,
                                .seed = pass->batch->seed,
                                .step = pass->batch->step,
                                .replica = pass->batch->replica,
                                .n_inputs = layer->n_inputs,
                                .in_shape = out->in_shape,
                                .out_shape = &out->out_shape,
                                .x = out->x,
                                .saved = nn_net_block(net, net->plan->saved[layer_idx]),
                                .labels = pass->batch->labels,
                                .outcome = &net->outcome,
                                .loss_scale = 1.0f};
    out->out_shape = shape_of(pass, layer->output);
    for (int j = 0; j < layer->n_inputs; j++) out->in_shape[j] = shape_of(pass, layer->input[j]);
    point_to_params(pass, layer, out);
}

/* A chain with a convolution runs by a call of that, whose tail the rest is. */
static cvy_status forward_conv_chain(const net_pass *pass, int end)
{
    nn_net *net = pass->net;
    const nn_plan *plan = net->plan;
    const int norm = plan->chain_norm[end], conv = plan->chain_conv[end];
    const nn_plan_chain chain = nn_plan_chain_at(plan, net->graph, end);
    nn_conv_tail tail = {.is_relu = norm != end};
    layer_call one;

    begin_call(pass, norm, &one);
    nn_graph_layer_at(net->graph, norm)->ops->describe_norm(&one.call, &tail);
    if (chain.residual != NN_NO_VALUE) {
        tail.residual = nn_net_block(net, plan->value[chain.residual]);
    }
    begin_call(pass, conv, &one);
    one.x[0] = nn_net_block(net, plan->value[chain.x]);
    one.call.y = nn_net_block(net, plan->value[chain.y]);
    one.call.workspace = nn_net_block(net, plan->forward_workspace[conv]);
    one.call.conv_tail = &tail;
    return nn_graph_layer_at(net->graph, conv)->ops->forward(&one.call);
}

/* A layer of a chain: the last runs all of it, by a call of the normalisation. */
static cvy_status forward_chain(const net_pass *pass, int layer_idx)
{
    nn_net *net = pass->net;
    const nn_plan *plan = net->plan;
    const int norm = plan->chain_norm[layer_idx];
    nn_layer_tail tail = {.is_relu = norm != layer_idx};
    layer_call one;

    if (plan->chain[layer_idx] != layer_idx) return CVY_OK;
    if (plan->chain_conv[layer_idx] != NN_NO_CHAIN) return forward_conv_chain(pass, layer_idx);
    const nn_plan_chain chain = nn_plan_chain_at(plan, net->graph, layer_idx);
    begin_call(pass, norm, &one);
    one.x[0] = nn_net_block(net, plan->value[chain.x]);
    one.call.y = nn_net_block(net, plan->value[chain.y]);
    if (chain.residual != NN_NO_VALUE) {
        tail.residual = nn_net_block(net, plan->value[chain.residual]);
    }
    one.call.tail = &tail;
    return nn_graph_layer_at(net->graph, norm)->ops->forward(&one.call);
}

/* The same once more, into the memory of its output's second life. */
static cvy_status again_chain(const net_pass *pass, int layer_idx)
{
    nn_net *net = pass->net;
    const nn_plan *plan = net->plan;
    const int norm = plan->chain_norm[layer_idx];
    nn_layer_tail tail = {.is_relu = norm != layer_idx, .is_again = 1};
    layer_call one;

    const nn_plan_chain chain = nn_plan_chain_at(plan, net->graph, layer_idx);
    begin_call(pass, norm, &one);
    one.x[0] = nn_net_value_backward(net, chain.x);
    one.call.y = nn_net_value_backward(net, chain.y);
    if (chain.residual != NN_NO_VALUE) tail.residual = nn_net_value_backward(net, chain.residual);
    one.call.tail = &tail;
    return nn_graph_layer_at(net->graph, norm)->ops->forward(&one.call);
}

static cvy_status forward_layer(const net_pass *pass, int layer_idx)
{
    nn_net *net = pass->net;
    const nn_graph_layer *layer = nn_graph_layer_at(net->graph, layer_idx);
    layer_call one;

    if (net->plan->chain[layer_idx] != NN_NO_CHAIN) return forward_chain(pass, layer_idx);
    begin_call(pass, layer_idx, &one);
    for (int j = 0; j < layer->n_inputs; j++) {
        one.x[j] = nn_net_block(net, net->plan->value[layer->input[j]]);
    }
    one.call.y = nn_net_block(net, net->plan->value[layer->output]);
    one.call.workspace = nn_net_block(net, net->plan->forward_workspace[layer_idx]);
    return layer->ops->forward(&one.call);
}

/* The first to write a gradient overwrites it, a later layer adds, and so does a layer that reads
 * one value twice. */
static int adds_to_gradient(const nn_plan *plan, const nn_graph_layer *layer, int layer_idx,
                            int input_idx)
{
    const nn_value x = layer->input[input_idx];

    if (plan->first_writer[x] != layer_idx) return 1;
    for (int j = 0; j < input_idx; j++) {
        if (layer->input[j] == x) return 1;
    }
    return 0;
}

static cvy_status backward_chain(const net_pass *pass, int layer_idx)
{
    nn_net *net = pass->net;
    const nn_plan *plan = net->plan;
    const int norm = plan->chain_norm[layer_idx], add = plan->chain_add[layer_idx];
    nn_layer_tail tail = {.is_relu = norm != layer_idx};
    layer_call one;

    if (plan->chain[layer_idx] != layer_idx) return CVY_OK;
    const nn_graph_layer *layer = nn_graph_layer_at(net->graph, norm);
    const nn_plan_chain chain = nn_plan_chain_at(plan, net->graph, layer_idx);
    begin_call(pass, norm, &one);
    one.x[0] = nn_net_value_backward(net, chain.x);
    one.dx[0] = nn_net_block(net, plan->grad[chain.x]);
    one.accumulate[0] = adds_to_gradient(plan, layer, norm, 0);
    tail.dy = nn_net_block(net, plan->grad[chain.y]);
    one.call.dy = tail.dy;
    if (add >= 0) {
        one.call.y = nn_net_value_backward(net, chain.y);
        tail.dresidual = nn_net_block(net, plan->grad[chain.residual]);
        tail.accumulate = adds_to_gradient(plan, nn_graph_layer_at(net->graph, add), add, 1);
    }
    one.call.dx = one.dx;
    one.call.accumulate = one.accumulate;
    one.call.tail = &tail;
    return layer->ops->backward(&one.call);
}

static cvy_status backward_layer(const net_pass *pass, int layer_idx)
{
    nn_net *net = pass->net;
    const nn_plan *plan = net->plan;
    const nn_graph_layer *layer = nn_graph_layer_at(net->graph, layer_idx);
    layer_call one;

    if (plan->chain[layer_idx] != NN_NO_CHAIN) return backward_chain(pass, layer_idx);
    begin_call(pass, layer_idx, &one);
    for (int j = 0; j < layer->n_inputs; j++) {
        const nn_value x = layer->input[j];
        one.x[j] = layer->plan.needs & NN_NEEDS_X ? nn_net_value_backward(net, x) : NULL;
        one.dx[j] = nn_net_block(net, plan->grad[x]);
        one.accumulate[j] = adds_to_gradient(plan, layer, layer_idx, j);
    }
    if (layer->plan.needs & NN_NEEDS_Y) one.call.y = nn_net_value_backward(net, layer->output);
    if (!layer->plan.is_loss) one.call.dy = nn_net_block(net, plan->grad[layer->output]);
    one.call.dx = one.dx;
    one.call.accumulate = one.accumulate;
    one.call.workspace = nn_net_block(net, plan->backward_workspace[layer_idx]);
    return layer->ops->backward(&one.call);
}

/* Parameters that the loss does not depend on have the gradient 0. */
static cvy_status clear_gradients(const net_pass *pass, int layer_idx)
{
    nn_backend *backend = pass->net->backend;
    const nn_graph_layer *layer = nn_graph_layer_at(pass->net->graph, layer_idx);
    const nn_params *params = nn_graph_params(pass->net->graph);

    for (int j = 0; j < layer->plan.n_params; j++) {
        const nn_param *param = &params->entry[layer->first_param + j];
        if (param->decl.kind == NN_PARAM_RUNNING) continue;
        CVY_RETURN_IF_ERR(
            backend->ops->fill(backend, param->n_elems, 0.0f, pass->grads + param->offset));
    }
    return CVY_OK;
}

static cvy_status backward_or_clear(const net_pass *pass, int layer_idx)
{
    return pass->net->plan->runs_backward[layer_idx] ? backward_layer(pass, layer_idx)
                                                     : clear_gradients(pass, layer_idx);
}

/* Run one layer, timed if wanted; a device is waited for, else the time would be the launch's. */
static cvy_status run_layer(const net_pass *pass, int layer_idx,
                            cvy_status (*run)(const net_pass *, int), double *seconds,
                            int64_t *n_calls)
{
    nn_net *net = pass->net;

    if (net->poll != NULL) CVY_RETURN_IF_ERR(net->poll(net->poll_arg));
    if (!net->has_profile) return run(pass, layer_idx);

    const double start_s = cvy_clock_now_s();
    CVY_RETURN_IF_ERR(run(pass, layer_idx));
    CVY_RETURN_IF_ERR(net->backend->ops->sync(net->backend));
    *seconds += cvy_clock_now_s() - start_s;
    (*n_calls)++;
    return CVY_OK;
}

/* --- Forward -------------------------------------------------------------------------------- */

static cvy_status check_forward(const net_pass *pass)
{
    const nn_net *net = pass->net;
    const nn_batch *batch = pass->batch;
    const int64_t minibatch = nn_graph_minibatch(net->graph);

    if (batch->n < 1 || batch->n > minibatch) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "net: %lld images; expected 1 to %lld",
                        (long long)batch->n, (long long)minibatch);
    }
    if (!batch->is_training) return CVY_OK;
    if (net->is_inference) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "net: training with a net made for inference");
    }
    if (pass->grads == NULL || batch->labels == NULL || net->loss_idx < 0) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "net: training needs %s",
                        net->loss_idx < 0       ? "a loss layer"
                        : batch->labels == NULL ? "labels"
                                                : "a place for gradients");
    }
    return CVY_OK;
}

/* The sums that ride along with the gradients. Always in the order of the samples. */
static cvy_status write_tail(const net_pass *pass)
{
    nn_net *net = pass->net;
    const nn_outcome *outcome = &net->outcome;
    double loss = 0.0, top1 = 0.0, top5 = 0.0;

    for (int64_t i = 0; i < pass->batch->n; i++) {
        loss += (double)outcome->loss[i];
        top1 += outcome->rank[i] < 1;
        top5 += outcome->rank[i] < 5;
    }
    float tail[NN_TAIL_N];
    tail[NN_TAIL_LOSS] = (float)loss;
    tail[NN_TAIL_TOP1] = (float)top1;
    tail[NN_TAIL_TOP5] = (float)top5;
    CVY_RETURN_IF_ERR(net->backend->ops->copy_in(
        net->backend, pass->grads + nn_graph_params(net->graph)->tail_offset, tail, sizeof tail));
    return net->backend->ops->sync(net->backend); /* tail lies on this stack */
}

static cvy_status take_images(const net_pass *pass, const nn_shape *shape)
{
    nn_net *net = pass->net;
    const nn_backend_ops *ops = net->backend->ops;
    const size_t size_bytes = (size_t)nn_shape_n_elems(shape) * sizeof(float);
    float *staging = nn_net_block(net, net->plan->images_staging);
    float *images = nn_net_block(net, net->plan->value[0]);

    if (staging == NULL) return ops->copy_in(net->backend, images, pass->batch->images, size_bytes);
    CVY_RETURN_IF_ERR(ops->copy_in(net->backend, staging, pass->batch->images, size_bytes));
    return ops->pack(net->backend, shape, staging, images, 0);
}

cvy_status nn_net_forward(nn_net *net, const nn_batch *batch, const float *weights, float *grads)
{
    const net_pass pass = {.net = net, .batch = batch, .weights = weights, .grads = grads};
    const nn_shape input = shape_of(&pass, 0);

    net->forward_n = 0;
    CVY_RETURN_IF_ERR(check_forward(&pass));
    CVY_RETURN_IF_ERR(take_images(&pass, &input));
    for (int i = 0; i < net->plan->n_layers; i++) {
        nn_layer_time *spent = &net->times[i];
        if (i == net->loss_idx && batch->labels == NULL) continue;
        CVY_RETURN_IF_ERR(run_layer(&pass, i, forward_layer, &spent->forward_s, &spent->n_forward));
    }
    if (batch->is_training) CVY_RETURN_IF_ERR(write_tail(&pass));
    net->forward_n = batch->n;
    net->was_training = batch->is_training;
    return CVY_OK;
}

/* --- Backward ------------------------------------------------------------------------------- */

static cvy_status check_backward(const net_pass *pass)
{
    const nn_net *net = pass->net;

    if (net->forward_n == 0 || !net->was_training || !pass->batch->is_training ||
        net->forward_n != pass->batch->n) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG,
                        "net: backward pass without the training forward pass of the same batch");
    }
    return CVY_OK;
}

/* What is due to be computed again before a layer runs backward, inputs before outputs. A profile
 * shows it where the value's own layer has its backward time. */
static cvy_status compute_again(const net_pass *pass, int layer_idx)
{
    nn_net *net = pass->net;
    const nn_plan *plan = net->plan;
    const int tick = nn_plan_backward_tick(plan, layer_idx);
    int64_t n_calls = 0; /* of the layer itself */

    for (nn_value v = 1; v <= layer_idx + 1; v++) {
        if (plan->again_at[v] != tick) continue;
        CVY_RETURN_IF_ERR(
            run_layer(pass, v - 1, again_chain, &net->times[v - 1].backward_s, &n_calls));
    }
    return CVY_OK;
}

cvy_status nn_net_backward(nn_net *net, const nn_batch *batch, const float *weights, float *grads,
                           nn_net_ready ready, void *ready_arg)
{
    const net_pass pass = {.net = net, .batch = batch, .weights = weights, .grads = grads};
    const nn_params *params = nn_graph_params(net->graph);
    int64_t final_from = params->n_elems;

    CVY_RETURN_IF_ERR(check_backward(&pass));
    net->forward_n = 0; /* activations are lost from here on; logits are not */
    for (int i = net->plan->n_layers - 1; i >= 0; i--) {
        const nn_graph_layer *layer = nn_graph_layer_at(net->graph, i);
        nn_layer_time *spent = &net->times[i];
        CVY_RETURN_IF_ERR(compute_again(&pass, i));
        CVY_RETURN_IF_ERR(
            run_layer(&pass, i, backward_or_clear, &spent->backward_s, &spent->n_backward));
        if (layer->plan.n_params == 0) continue;
        final_from = params->entry[layer->first_param].offset;
        if (ready != NULL) CVY_RETURN_IF_ERR(ready(ready_arg, final_from));
    }
    net->forward_n = batch->n;
    net->was_training = 0; /* one backward pass for each forward pass */
    if (final_from > 0 && ready != NULL) return ready(ready_arg, 0);
    return CVY_OK;
}
