#include "nn/plan_internal.h"

/* Which values are not kept from forward to backward but computed again, and when. What a chain
 * puts out costs one sweep to compute again, to the bit, from what its backward pass reads anyway;
 * a value that a matrix product or a convolution put out is kept.
 *
 * A chain with a sum reads its residual as well, which may be such a value itself. How many of them
 * may lean on each other is the depth: with 1 every second output of a stage of residual blocks is
 * kept, with more all but every (depth + 1)-th are computed again one after the other, when the
 * backward pass first reads the last of them. */

int nn_plan_reads_x(const nn_plan *plan, const nn_graph_layer *layer)
{
    return plan->runs_backward[layer->output - 1] && (layer->plan.needs & NN_NEEDS_X) != 0;
}

int nn_plan_reads_y(const nn_plan *plan, const nn_graph_layer *layer)
{
    const int idx = layer->output - 1, end = plan->chain[idx];

    if (!plan->runs_backward[idx]) return 0;
    if (end == NN_NO_CHAIN) return (layer->plan.needs & NN_NEEDS_Y) != 0;
    return end == idx && plan->chain_add[idx] >= 0; /* without a sum x tells as much */
}

nn_plan_chain nn_plan_chain_at(const nn_plan *plan, const nn_graph *graph, int end)
{
    const int add = plan->chain_add[end];

    const int conv = plan->chain_conv[end];
    const int first = conv != NN_NO_CHAIN ? conv : plan->chain_norm[end];

    return (nn_plan_chain){.x = nn_graph_layer_at(graph, first)->input[0],
                           .residual = add >= 0 ? nn_graph_layer_at(graph, add)->input[1]
                                                : NN_NO_VALUE,
                           .y = nn_graph_layer_at(graph, end)->output};
}

static void read_at(nn_plan *plan, nn_value value, int tick)
{
    int *first = &plan->again_at[value];

    if (*first == NN_NEVER || tick < *first) *first = tick;
}

/* again_at becomes the first tick at which the backward pass reads each value. */
static void find_first_reads(const nn_graph *graph, nn_plan *plan)
{
    for (int v = 0; v < plan->n_values; v++) plan->again_at[v] = NN_NEVER;
    for (int i = 0; i < plan->n_layers; i++) {
        const nn_graph_layer *layer = nn_graph_layer_at(graph, i);
        const int tick = nn_plan_backward_tick(plan, nn_plan_runs_at(plan, i));
        for (int j = 0; nn_plan_reads_x(plan, layer) && j < layer->n_inputs; j++) {
            read_at(plan, layer->input[j], tick);
        }
        if (nn_plan_reads_y(plan, layer)) read_at(plan, layer->output, tick);
    }
}

/* How many values a chain's output would lean on; NN_NEVER: it cannot be computed again. */
static int lean_of(const nn_plan *plan, const nn_plan_chain *chain, const int *lean)
{
    int n = lean[chain->x] == NN_NEVER ? 0 : lean[chain->x] + 1;

    if (chain->residual == NN_NO_VALUE) return n;
    const int of_residual = lean[chain->residual];
    /* What is not kept for another reader would have to be kept for this. */
    if (of_residual == NN_NEVER && plan->again_at[chain->residual] == NN_NEVER) return NN_NEVER;
    const int m = of_residual == NN_NEVER ? 1 : of_residual + 1;
    return m > n ? m : n;
}

static int is_chain_end(const nn_plan *plan, nn_value value)
{
    return value > 0 && plan->chain[value - 1] == value - 1 && plan->runs_backward[value - 1];
}

void nn_again_choose(const nn_graph *graph, int depth, int *lean, nn_plan *plan)
{
    find_first_reads(graph, plan);
    for (nn_value v = 0; v < plan->n_values; v++) {
        lean[v] = NN_NEVER;
        if (!is_chain_end(plan, v) || v == nn_graph_logits(graph)) continue;
        const nn_plan_chain chain = nn_plan_chain_at(plan, graph, v - 1);
        lean[v] = lean_of(plan, &chain, lean);
        if (lean[v] > depth) lean[v] = NN_NEVER;
    }
    for (nn_value v = plan->n_values - 1; v >= 0; v--) {
        if (lean[v] == NN_NEVER) plan->again_at[v] = NN_NEVER;
        if (plan->again_at[v] == NN_NEVER) continue;
        const nn_plan_chain chain = nn_plan_chain_at(plan, graph, v - 1);
        const int tick = plan->again_at[v];
        if (lean[chain.x] != NN_NEVER) read_at(plan, chain.x, tick);
        if (chain.residual != NN_NO_VALUE && lean[chain.residual] != NN_NEVER) {
            read_at(plan, chain.residual, tick);
        }
    }
}
