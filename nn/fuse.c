#include "nn/plan_internal.h"

/* Chains batchnorm2d -> relu and batchnorm2d -> add -> relu that a backend does in one sweep. The
 * chain runs where its rectifier stands, forward and backward; its other layers then do nothing.
 * Any other batchnorm2d is a chain by itself. In evaluation a chain takes in the conv2d before it.
 */

static const nn_graph_layer *producer(const nn_graph *graph, nn_value value)
{
    return value > 0 ? nn_graph_layer_at(graph, value - 1) : NULL;
}

/* The number of times that layers read each value; logits are read by the caller as well. */
static void count_reads(const nn_graph *graph, int *n_reads)
{
    const int n_layers = nn_graph_n_layers(graph);

    for (int v = 0; v <= n_layers; v++) n_reads[v] = 0;
    for (int i = 0; i < n_layers; i++) {
        const nn_graph_layer *layer = nn_graph_layer_at(graph, i);
        for (int j = 0; j < layer->n_inputs; j++) n_reads[layer->input[j]]++;
    }
    n_reads[nn_graph_logits(graph)]++;
}

static int has_role(const nn_graph_layer *layer, nn_layer_role role)
{
    return layer != NULL && layer->ops->role == role;
}

/* Join the chain that ends with this rectifier, if there is one. */
static void join(const nn_graph *graph, const int *n_reads, int relu, nn_plan *plan)
{
    const nn_graph_layer *last = nn_graph_layer_at(graph, relu);
    const nn_graph_layer *before = producer(graph, last->input[0]);
    int add = -1;

    if (has_role(before, NN_ROLE_ADD) && before->n_inputs == 2 && n_reads[before->output] == 1 &&
        before->input[0] != before->input[1]) {
        add = before->output - 1;
        before = producer(graph, before->input[0]);
    }
    if (!has_role(before, NN_ROLE_NORM) || n_reads[before->output] != 1) return;

    const int norm = before->output - 1;
    /* The kernel writes both gradients at once, so they must be two. */
    if (add >= 0 && nn_graph_layer_at(graph, add)->input[1] == before->input[0]) return;
    if (plan->runs_backward[norm] != plan->runs_backward[relu]) return;
    plan->chain[norm] = relu;
    plan->chain[relu] = relu;
    plan->chain_norm[relu] = norm;
    plan->chain_add[relu] = add;
    if (add >= 0) plan->chain[add] = relu;
}

/* Let the convolution before a chain run with it: the chain is its tail. */
static void take_in_conv(const nn_graph *graph, const int *n_reads, int end, nn_plan *plan)
{
    const nn_value x = nn_graph_layer_at(graph, plan->chain_norm[end])->input[0];
    const nn_graph_layer *conv = producer(graph, x);

    if (!has_role(conv, NN_ROLE_CONV) || n_reads[x] != 1) return;
    plan->chain[conv->output - 1] = end;
    plan->chain_conv[end] = conv->output - 1;
}

void nn_fuse(const nn_backend *backend, const nn_graph *graph, int is_inference, int *n_reads,
             nn_plan *plan)
{
    const nn_backend_ops *ops = backend->ops;

    for (int i = 0; i < plan->n_layers; i++) plan->chain[i] = plan->chain_conv[i] = NN_NO_CHAIN;
    if (ops->norm_chain_forward == NULL || ops->norm_chain_again == NULL ||
        ops->norm_chain_backward == NULL) {
        return;
    }
    count_reads(graph, n_reads);
    for (int i = 0; i < plan->n_layers; i++) {
        if (has_role(nn_graph_layer_at(graph, i), NN_ROLE_RELU)) join(graph, n_reads, i, plan);
    }
    for (int i = 0; i < plan->n_layers; i++) {
        if (plan->chain[i] != NN_NO_CHAIN || !has_role(nn_graph_layer_at(graph, i), NN_ROLE_NORM)) {
            continue;
        }
        plan->chain[i] = i;
        plan->chain_norm[i] = i;
        plan->chain_add[i] = -1;
    }
    if (!is_inference || ops->conv2d_tail_forward == NULL) return;
    for (int i = 0; i < plan->n_layers; i++) {
        if (plan->chain[i] == i) take_in_conv(graph, n_reads, i, plan);
    }
}
