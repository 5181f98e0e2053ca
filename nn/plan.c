#include "nn/plan_internal.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

/* What is known while a plan is made. */
typedef struct planning {
    nn_plan *plan;
    nn_backend *backend;
    const nn_graph *graph;
    const nn_plan_options *options;
    int *is_wanted; /* [n_values] whether the gradient of the value is of use */
} planning;

static const nn_graph_layer *layer_at(const planning *planner, int idx)
{
    return nn_graph_layer_at(planner->graph, idx);
}

/* --- Which gradients are of use ------------------------------------------------------------- */

static int has_trainable(const nn_layer_plan *plan)
{
    for (int i = 0; i < plan->n_params; i++) {
        if (plan->params[i].kind != NN_PARAM_RUNNING) return 1;
    }
    return 0;
}

/* A value's gradient is of use when a trained parameter lies before it and the loss behind it. */
static void find_wanted(planning *planner)
{
    nn_plan *plan = planner->plan;
    int *is_wanted = planner->is_wanted;

    for (int i = 0; i < plan->n_layers; i++) {
        const nn_graph_layer *layer = layer_at(planner, i);
        is_wanted[layer->output] = has_trainable(&layer->plan);
        for (int j = 0; j < layer->n_inputs; j++) {
            is_wanted[layer->output] |= is_wanted[layer->input[j]];
        }
    }
    if (planner->options->is_inference) return;

    /* runs_backward first says whether the loss depends on the layer. */
    for (int i = plan->n_layers - 1; i >= 0; i--) {
        const nn_graph_layer *layer = layer_at(planner, i);
        plan->runs_backward[i] |= layer->plan.is_loss;
        if (!plan->runs_backward[i]) continue;
        for (int j = 0; j < layer->n_inputs; j++) {
            if (layer->input[j] > 0) plan->runs_backward[layer->input[j] - 1] = 1;
        }
    }
    for (int i = 0; i < plan->n_layers; i++) {
        plan->runs_backward[i] &= is_wanted[i + 1];
        is_wanted[i + 1] = plan->runs_backward[i] && !layer_at(planner, i)->plan.is_loss;
    }
}

static void find_first_writers(planning *planner)
{
    nn_plan *plan = planner->plan;

    for (int i = 0; i < plan->n_layers; i++) {
        const nn_graph_layer *layer = layer_at(planner, i);
        if (plan->runs_backward[i] && (layer->plan.needs & NN_NEEDS_DX) != 0) {
            planner->is_wanted[layer->input[0]] = 1;
        }
    }
    for (int v = 0; v < plan->n_values; v++) plan->first_writer[v] = -1;
    for (int i = 0; i < plan->n_layers; i++) {
        const nn_graph_layer *layer = layer_at(planner, i);
        for (int j = 0; plan->runs_backward[i] && j < layer->n_inputs; j++) {
            const nn_value x = layer->input[j];
            if (!planner->is_wanted[x]) continue;
            /* The one that runs last forward is the first backward. */
            const int other = plan->first_writer[x];
            if (other >= 0 && nn_plan_runs_at(plan, other) > nn_plan_runs_at(plan, i)) continue;
            plan->first_writer[x] = i;
        }
    }
}

/* --- Blocks and their lives ----------------------------------------------------------------- */

static int64_t aligned_bytes(size_t size_bytes)
{
    return (int64_t)((size_bytes + CVY_ALIGN_BYTES - 1) / CVY_ALIGN_BYTES * CVY_ALIGN_BYTES);
}

static int new_block(nn_plan *plan, size_t size_bytes, int first, int last)
{
    if (size_bytes == 0) return NN_NO_BLOCK;
    plan->blocks[plan->n_blocks] = (nn_plan_block){
        .size_bytes = aligned_bytes(size_bytes), .first = first, .last = last};
    return plan->n_blocks++;
}

static void live_until(nn_plan *plan, int block, int tick)
{
    if (block != NN_NO_BLOCK && plan->blocks[block].last < tick) plan->blocks[block].last = tick;
}

static size_t value_bytes(const planning *planner, nn_value value)
{
    const nn_shape shape = nn_graph_shape(planner->graph, value);

    return (size_t)planner->backend->ops->activation_elems(planner->backend, &shape) *
           sizeof(float);
}

/* Whether two values lie in memory the same way: of one shape, or both dense. */
static int lie_alike(const planning *planner, nn_value a, nn_value b)
{
    const nn_shape shape_a = nn_graph_shape(planner->graph, a);
    const nn_shape shape_b = nn_graph_shape(planner->graph, b);
    nn_backend *backend = planner->backend;

    if (nn_shape_equal(&shape_a, &shape_b)) return 1;
    return value_bytes(planner, a) == value_bytes(planner, b) &&
           backend->ops->is_dense(backend, &shape_a) && backend->ops->is_dense(backend, &shape_b);
}

/* Last tick at which each value is read in its only life, or in its first one (of which the
 * backward pass reads nothing) and its second; NN_NEVER: never. */
typedef struct last_reads {
    int *first_life, *second_life;
} last_reads;

static void read_backward(const nn_plan *plan, nn_value value, int tick, const last_reads *last)
{
    int *const of = plan->again_at[value] == NN_NEVER ? last->first_life : last->second_life;

    if (of[value] < tick) of[value] = tick;
}

static void find_last_reads(const planning *planner, const last_reads *last)
{
    nn_plan *plan = planner->plan;

    for (int v = 0; v < plan->n_values; v++) last->first_life[v] = last->second_life[v] = NN_NEVER;
    for (int i = 0; i < plan->n_layers; i++) {
        const nn_graph_layer *layer = layer_at(planner, i);
        const int tick = nn_plan_runs_at(plan, i);
        for (int j = 0; j < layer->n_inputs; j++) {
            int *first = &last->first_life[layer->input[j]];
            if (*first < tick) *first = tick;
        }
    }
    for (int i = 0; i < plan->n_layers; i++) {
        const nn_graph_layer *layer = layer_at(planner, i);
        const int tick = nn_plan_backward_tick(plan, nn_plan_runs_at(plan, i));
        for (int j = 0; nn_plan_reads_x(plan, layer) && j < layer->n_inputs; j++) {
            read_backward(plan, layer->input[j], tick, last);
        }
        if (nn_plan_reads_y(plan, layer)) read_backward(plan, layer->output, tick, last);
        if (plan->again_at[layer->output] == NN_NEVER) continue;
        const nn_plan_chain chain = nn_plan_chain_at(plan, planner->graph, i);
        read_backward(plan, chain.x, plan->again_at[chain.y], last);
        if (chain.residual == NN_NO_VALUE) continue;
        read_backward(plan, chain.residual, plan->again_at[chain.y], last);
    }
    last->first_life[nn_graph_logits(planner->graph)] = plan->n_ticks - 1; /* for the caller */
}

static int reads_once(const nn_graph_layer *layer, nn_value value)
{
    int n = 0;

    for (int j = 0; j < layer->n_inputs; j++) n += layer->input[j] == value;
    return n == 1;
}

/* A layer that only hands a value on inside a chain. */
static int is_inside_chain(const nn_plan *plan, int layer_idx)
{
    return plan->chain[layer_idx] != NN_NO_CHAIN && plan->chain[layer_idx] != layer_idx;
}

/* The input whose memory a layer, or a chain, can write its output to; NN_NO_VALUE: none. */
static nn_value place_for_output(const planning *planner, int layer_idx, const int *last_read)
{
    const nn_plan *plan = planner->plan;
    const nn_graph_layer *layer = layer_at(planner, layer_idx);
    const nn_value x = layer->input[0];

    if (plan->chain[layer_idx] != NN_NO_CHAIN) {
        const nn_plan_chain chain = nn_plan_chain_at(plan, planner->graph, layer_idx);
        const int has_conv = plan->chain_conv[layer_idx] != NN_NO_CHAIN; /* reads around a pixel */
        if (has_conv && chain.residual == chain.x) return NN_NO_VALUE;
        if (!has_conv && last_read[chain.x] == layer_idx) return chain.x;
        if (chain.residual == NN_NO_VALUE || last_read[chain.residual] != layer_idx) {
            return NN_NO_VALUE;
        }
        return chain.residual;
    }
    return layer->plan.can_run_in_place && last_read[x] == layer_idx && reads_once(layer, x) &&
                   lie_alike(planner, x, layer->output)
               ? x
               : NN_NO_VALUE;
}

static void add_values(planning *planner, const last_reads *last)
{
    nn_plan *plan = planner->plan;
    const int *last_read = last->first_life;

    plan->value[0] = new_block(plan, value_bytes(planner, 0), 0,
                               last_read[0] > 0 ? last_read[0] : 0);
    plan->again[0] = NN_NO_BLOCK;
    for (int i = 0; i < plan->n_layers; i++) {
        const nn_value y = layer_at(planner, i)->output;
        const int last_tick = last_read[y] > i ? last_read[y] : i;
        plan->value[y] = plan->again[y] = NN_NO_BLOCK;
        if (is_inside_chain(plan, i)) continue;
        const nn_value place = place_for_output(planner, i, last_read);
        if (place != NN_NO_VALUE) {
            plan->value[y] = plan->value[place];
            live_until(plan, plan->value[y], last_tick);
        } else {
            plan->value[y] = new_block(plan, value_bytes(planner, y), i, last_tick);
        }
        if (plan->again_at[y] == NN_NEVER) continue;
        plan->again[y] = new_block(plan, value_bytes(planner, y), plan->again_at[y],
                                   last->second_life[y]);
    }
}

/* Whether the gradient of a value can lie where that of its first writer's output does. Of a chain
 * the residual's gradient does so, or the input's if there is none. */
static int takes_over_gradient(const planning *planner, nn_value v, int writer)
{
    const nn_plan *plan = planner->plan;
    const nn_graph_layer *layer = layer_at(planner, writer);
    const int end = plan->chain[writer];

    if (end != NN_NO_CHAIN) {
        const nn_plan_chain chain = nn_plan_chain_at(plan, planner->graph, end);
        return v == chain.residual || chain.residual == NN_NO_VALUE ||
               plan->first_writer[chain.residual] != plan->chain_add[end];
    }
    return layer->plan.can_run_in_place && layer->input[0] == v && reads_once(layer, v) &&
           plan->grad[layer->output] != NN_NO_BLOCK && lie_alike(planner, v, layer->output);
}

/* A gradient lives from its first writer to the layer that put the value out. */
static void add_grads(planning *planner)
{
    nn_plan *plan = planner->plan;

    for (int v = 0; v < plan->n_values; v++) plan->grad[v] = NN_NO_BLOCK;
    for (nn_value v = plan->n_values - 1; v >= 0; v--) {
        const int writer = plan->first_writer[v];
        if (writer < 0 || (v > 0 && is_inside_chain(plan, v - 1))) continue;

        const int runs_at = nn_plan_runs_at(plan, writer);
        const int last = nn_plan_backward_tick(plan, v > 0 ? v - 1 : 0);
        if (takes_over_gradient(planner, v, writer)) {
            plan->grad[v] = plan->grad[layer_at(planner, runs_at)->output];
            live_until(plan, plan->grad[v], last);
        } else {
            plan->grad[v] = new_block(plan, value_bytes(planner, v),
                                      nn_plan_backward_tick(plan, runs_at), last);
        }
    }
}

static size_t workspace_bytes(const planning *planner, const nn_graph_layer *layer)
{
    nn_shape in[NN_LAYER_MAX_INPUTS];

    if (layer->ops->workspace_bytes == NULL) return 0;
    for (int j = 0; j < layer->n_inputs; j++) {
        in[j] = nn_graph_shape(planner->graph, layer->input[j]);
    }
    return layer->ops->workspace_bytes(planner->backend, layer->attrs, in, layer->n_inputs,
                                       &layer->plan);
}

static void add_scratch(planning *planner)
{
    nn_plan *plan = planner->plan;

    for (int i = 0; i < plan->n_layers; i++) {
        const nn_graph_layer *layer = layer_at(planner, i);
        const size_t size_bytes = workspace_bytes(planner, layer);
        const int tick = nn_plan_backward_tick(plan, i);
        const int is_kept = plan->runs_backward[i];
        const size_t saved_bytes = layer->plan.saved_bytes + (size_t)layer->plan.saved_per_output *
                                                                 value_bytes(planner, i + 1);
        plan->saved[i] = new_block(plan, saved_bytes, i, is_kept ? tick : nn_plan_runs_at(plan, i));
        const int runs_at = nn_plan_runs_at(plan, i);
        plan->forward_workspace[i] = new_block(plan, size_bytes, runs_at, runs_at);
        plan->backward_workspace[i] = new_block(plan, is_kept ? size_bytes : 0, tick, tick);
    }
}

/* Images and logits pass through a dense block where the backend lays them out otherwise. */
static void add_staging(planning *planner)
{
    nn_plan *plan = planner->plan;
    nn_backend *backend = planner->backend;
    const nn_shape images = nn_graph_shape(planner->graph, 0);
    const nn_shape logits = nn_graph_shape(planner->graph, nn_graph_logits(planner->graph));
    const size_t images_bytes = backend->ops->is_dense(backend, &images)
                                    ? 0
                                    : (size_t)nn_shape_n_elems(&images) * sizeof(float);
    const size_t logits_bytes = backend->ops->is_dense(backend, &logits)
                                    ? 0
                                    : (size_t)nn_shape_n_elems(&logits) * sizeof(float);

    plan->images_staging = new_block(plan, images_bytes, 0, 0);
    plan->logits_staging = new_block(plan, logits_bytes, 0, plan->n_ticks - 1);
}

/* --- Placing -------------------------------------------------------------------------------- */

static int larger_first(const void *a, const void *b)
{
    const nn_plan_block *x = *(nn_plan_block *const *)a, *y = *(nn_plan_block *const *)b;

    if (x->size_bytes != y->size_bytes) return x->size_bytes > y->size_bytes ? -1 : 1;
    return x < y ? -1 : x > y; /* they lie in one array: the order is the same everywhere */
}

static int live_together(const nn_plan_block *a, const nn_plan_block *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* Offset of the smallest gap between placed blocks (in order of offset) that takes this one. */
static int64_t best_gap(nn_plan_block *const *placed, int n_placed, const nn_plan_block *block)
{
    int64_t end = 0, best = -1, best_size = INT64_MAX;

    for (int i = 0; i < n_placed; i++) {
        const nn_plan_block *other = placed[i];
        if (!live_together(block, other)) continue;

        const int64_t gap = other->offset - end;
        if (gap >= block->size_bytes && gap < best_size) {
            best = end;
            best_size = gap;
        }
        if (other->offset + other->size_bytes > end) end = other->offset + other->size_bytes;
    }
    return best >= 0 ? best : end;
}

static void insert_by_offset(nn_plan_block **placed, int n_placed, nn_plan_block *block)
{
    int i = n_placed;

    for (; i > 0 && placed[i - 1]->offset > block->offset; i--) placed[i] = placed[i - 1];
    placed[i] = block;
}

static cvy_status place_blocks(nn_plan *plan)
{
    const size_t n = (size_t)plan->n_blocks;
    nn_plan_block **order = cvy_alloc_zero(2 * n, sizeof *order);
    nn_plan_block **placed = order + n;

    if (order == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "plan of a net");
    for (size_t i = 0; i < n; i++) order[i] = &plan->blocks[i];
    qsort(order, n, sizeof *order, larger_first);
    for (int i = 0; i < plan->n_blocks; i++) {
        nn_plan_block *block = order[i];
        block->offset = best_gap(placed, i, block);
        insert_by_offset(placed, i, block);
        if (block->offset + block->size_bytes > plan->arena_bytes) {
            plan->arena_bytes = block->offset + block->size_bytes;
        }
    }
    cvy_free(order);
    return CVY_OK;
}

/* --- Making and destroying ------------------------------------------------------------------ */

static cvy_status alloc_plan(const nn_graph *graph, int is_inference, nn_plan **out)
{
    const int n_layers = nn_graph_n_layers(graph);
    const size_t n = (size_t)n_layers + 1;
    nn_plan *plan = cvy_alloc_zero(1, sizeof *plan);
    int *table = NULL;

    if (plan == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "plan of a net");
    *out = plan; /* destroyed by the caller, whatever is missing */
    plan->n_layers = n_layers;
    plan->n_values = n_layers + 1;
    plan->n_ticks = is_inference ? n_layers : 2 * n_layers;
    plan->blocks = cvy_alloc_zero(6 * n + 2, sizeof *plan->blocks); /* tables below, staging */
    plan->value = table = cvy_alloc_zero(13 * n, sizeof *table);
    if (plan->blocks == NULL || table == NULL) {
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "plan of a net");
    }
    plan->grad = table + n;
    plan->saved = table + 2 * n;
    plan->forward_workspace = table + 3 * n;
    plan->backward_workspace = table + 4 * n;
    plan->first_writer = table + 5 * n;
    plan->runs_backward = table + 6 * n;
    plan->chain = table + 7 * n;
    plan->chain_norm = table + 8 * n;
    plan->chain_add = table + 9 * n;
    plan->again = table + 10 * n;
    plan->again_at = table + 11 * n;
    plan->chain_conv = table + 12 * n;
    return CVY_OK;
}

static cvy_status make(planning *planner)
{
    nn_plan *plan = planner->plan;
    const int n = plan->n_values;
    int *scratch = cvy_alloc_zero(3 * (size_t)n, sizeof *scratch);
    const last_reads last = {.first_life = scratch + n, .second_life = scratch + 2 * n};

    if (scratch == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "plan of a net");
    planner->is_wanted = scratch;
    find_wanted(planner);
    nn_fuse(planner->backend, planner->graph, planner->options->is_inference, scratch + n, plan);
    find_first_writers(planner);
    nn_again_choose(planner->graph, planner->options->again_depth, scratch + n, plan);
    find_last_reads(planner, &last);
    add_values(planner, &last);
    add_grads(planner);
    add_scratch(planner);
    add_staging(planner);
    cvy_free(scratch);
    return place_blocks(plan);
}

cvy_status nn_plan_create(nn_backend *backend, const nn_graph *graph,
                          const nn_plan_options *options, nn_plan **out)
{
    cvy_status status = CVY_OK;
    nn_plan *plan = NULL;

    *out = NULL;
    CVY_GOTO_IF_ERR(fail, status, alloc_plan(graph, options->is_inference, &plan));
    planning planner = {.plan = plan, .backend = backend, .graph = graph, .options = options};
    CVY_GOTO_IF_ERR(fail, status, make(&planner));
    *out = plan;
    return CVY_OK;

fail:
    nn_plan_destroy(&plan);
    return status;
}

cvy_status nn_plan_create_within(nn_backend *backend, const nn_graph *graph, int is_inference,
                                 int64_t keep_bytes, nn_plan **out)
{
    nn_plan_options options = {.is_inference = is_inference, .again_depth = NN_NEVER};

    CVY_RETURN_IF_ERR(nn_plan_create(backend, graph, &options, out));
    while (!is_inference && (*out)->arena_bytes > keep_bytes &&
           options.again_depth < NN_AGAIN_DEPTH) {
        options.again_depth++;
        nn_plan_destroy(out);
        CVY_RETURN_IF_ERR(nn_plan_create(backend, graph, &options, out));
    }
    return CVY_OK;
}

void nn_plan_destroy(nn_plan **plan)
{
    if (plan == NULL || *plan == NULL) return;
    cvy_free((*plan)->blocks);
    cvy_free((*plan)->value);
    cvy_free(*plan);
    *plan = NULL;
}
