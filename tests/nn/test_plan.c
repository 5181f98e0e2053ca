/* The plan against a shadow of the memory: every tensor that a pass reads must still be what was
 * written, on random graphs, in the order in which a net runs. Nothing here uses the plan's own
 * lives: who reads what when is worked out again from the graph. */
#include "tests/nn/kernel_support.h"

#include "nn/graph.h"
#include "nn/plan_internal.h"

#include <stdio.h>
#include <string.h>

enum { N_GRAPHS = 150, MAX_TENSORS = 400 };

static const nn_plan_options training = {.again_depth = NN_AGAIN_DEPTH};
static const nn_plan_options inference = {.is_inference = 1, .again_depth = NN_AGAIN_DEPTH};

/* --- Random graphs -------------------------------------------------------------------------- */

typedef struct weave {
    nn_graph *graph;
    cvy_rng rng;
    int n_values;
    int is_read[64];
} weave;

static nn_value pick(weave *w)
{
    const nn_value x = (nn_value)cvy_rng_below(&w->rng, (uint32_t)w->n_values);

    w->is_read[x] = 1;
    return x;
}

static void keep(weave *w, nn_value value)
{
    assert_int_equal(value, w->n_values);
    w->n_values++;
}

/* Another value of the same number of channels, perhaps the same one. */
static nn_value pick_alike(weave *w, nn_value like)
{
    const nn_shape want = nn_graph_shape(w->graph, like);
    const int from = (int)cvy_rng_below(&w->rng, (uint32_t)w->n_values);

    for (int i = 0; i < w->n_values; i++) {
        const nn_value x = (from + i) % w->n_values;
        const nn_shape shape = nn_graph_shape(w->graph, x);
        if (!nn_shape_equal(&shape, &want)) continue;
        w->is_read[x] = 1;
        return x;
    }
    return like;
}

static void add_random_layer(weave *w, const char *name)
{
    static const char *const plain[] = {"relu", "dropout", "batchnorm2d", "relu"};
    const uint32_t kind = cvy_rng_below(&w->rng, 9);
    /* Often the newest value: chains are what runs in place. */
    nn_value x = w->n_values - 1;
    if (cvy_rng_below(&w->rng, 3) == 0) x = pick(w);
    w->is_read[x] = 1;

    if (kind < 4) {
        keep(w, nn_add(w->graph, plain[kind], name, x, "{}"));
    } else if (kind < 6) {
        const int out = 2 + 2 * (int)cvy_rng_below(&w->rng, 2);
        keep(w, nn_add(w->graph, "conv2d", name, x, "{out: %d, kernel: 3, pad: 1}", out));
    } else if (kind == 6) {
        keep(w, nn_add(w->graph, "maxpool2d", name, x, "{kernel: 3, stride: 1, pad: 1}"));
    } else if (kind == 7) {
        const nn_value inputs[3] = {x, pick_alike(w, x), pick_alike(w, x)};
        keep(w, nn_add_n(w->graph, "add", name, 2 + (int)cvy_rng_below(&w->rng, 2), inputs, "{}"));
    } else {
        const nn_value inputs[2] = {x, pick(w)};
        keep(w, nn_add_n(w->graph, "concat", name, 2, inputs, "{}"));
    }
}

/* Join what nobody reads yet and end with a loss. */
static void end_graph(weave *w)
{
    nn_value open[NN_LAYER_MAX_INPUTS];
    int n_open = 0;

    for (nn_value x = 1; x < w->n_values && n_open < NN_LAYER_MAX_INPUTS; x++) {
        if (!w->is_read[x]) open[n_open++] = x;
    }
    nn_value x = nn_add_n(w->graph, "concat", "join", n_open, open, "{}");
    x = nn_add(w->graph, "avgpool2d", "pool", x, "{global: true}");
    x = nn_add(w->graph, "flatten", "flatten", x, "{}");
    const nn_value logits = nn_add(w->graph, "dense", "fc", x, "{out: 5}");
    nn_add(w->graph, "softmax_xent", "loss", logits, "{}");
    if (cvy_rng_below(&w->rng, 3) == 0) { /* a branch that the loss does not depend on */
        const nn_value extra = nn_add(w->graph, "dense", "extra", x, "{out: 3}");
        nn_graph_set_logits(w->graph, extra);
    }
}

static nn_graph *random_graph(uint64_t seed)
{
    const nn_shape image = {.n_dims = 3, .dim = {2, 3, 3}};
    weave w = {.rng = cvy_rng_open(seed, CVY_RNG_TEST, 2, 0), .n_values = 1};
    char name[32];

    assert_ok(nn_graph_create(3, &image, &w.graph));
    const int n_layers = 2 + (int)cvy_rng_below(&w.rng, 24);
    for (int i = 0; i < n_layers; i++) {
        snprintf(name, sizeof name, "layer%d", i);
        add_random_layer(&w, name);
    }
    /* pick_alike may mark a value that a two-input add then leaves out. */
    for (int v = 0; v < w.n_values; v++) w.is_read[v] = 0;
    for (int i = 0; i < nn_graph_n_layers(w.graph); i++) {
        const nn_graph_layer *layer = nn_graph_layer_at(w.graph, i);
        for (int j = 0; j < layer->n_inputs; j++) w.is_read[layer->input[j]] = 1;
    }
    end_graph(&w);
    assert_ok(nn_graph_finish(w.graph));
    return w.graph;
}

/* --- The shadow ----------------------------------------------------------------------------- */

typedef enum tensor_kind { VALUE, GRAD, SAVED, WORKSPACE, AGAIN } tensor_kind;

typedef struct tensor {
    tensor_kind kind;
    int idx;
    int64_t begin, end;
    int is_valid;
} tensor;

typedef struct shadow {
    const nn_plan *plan;
    const nn_graph *graph;
    int n_again; /* values computed again so far */
    int n;
    tensor tensors[MAX_TENSORS];
    /* Of the layer that runs now. */
    int n_reads, n_writes;
    tensor reads[40], writes[40];
} shadow;

static tensor tensor_of(const shadow *s, tensor_kind kind, int idx)
{
    const nn_plan *plan = s->plan;
    const int block = kind == VALUE   ? plan->value[idx]
                      : kind == GRAD  ? plan->grad[idx]
                      : kind == SAVED ? plan->saved[idx]
                      : kind == AGAIN ? plan->again[idx]
                                      : idx; /* a workspace is named by its block */
    tensor t = {.kind = kind, .idx = idx};

    if (block != NN_NO_BLOCK) {
        t.begin = plan->blocks[block].offset;
        t.end = t.begin + plan->blocks[block].size_bytes;
        assert_true(t.begin >= 0 && t.end <= plan->arena_bytes);
        assert_int_equal(t.begin % CVY_ALIGN_BYTES, 0);
    }
    return t;
}

static int overlap(const tensor *a, const tensor *b)
{
    return a->begin < b->end && b->begin < a->end;
}

static void reads(shadow *s, tensor_kind kind, int idx)
{
    const tensor want = tensor_of(s, kind, idx);

    for (int i = 0; i < s->n; i++) {
        if (s->tensors[i].kind != kind || s->tensors[i].idx != idx) continue;
        if (!s->tensors[i].is_valid) break;
        s->reads[s->n_reads++] = want;
        return;
    }
    fail_msg("tensor %d of kind %d is read, but was overwritten or never written", idx, (int)kind);
}

static void writes(shadow *s, tensor_kind kind, int idx)
{
    s->writes[s->n_writes++] = tensor_of(s, kind, idx);
}

/* A layer's writes must not touch what it reads or writes besides, but for the pair that may run in
 * place. */
static void end_layer(shadow *s, const tensor *from, const tensor *to)
{
    for (int i = 0; i < s->n_writes; i++) {
        const tensor *w = &s->writes[i];
        for (int j = 0; j < i; j++) assert_false(overlap(w, &s->writes[j]));
        for (int j = 0; j < s->n_reads; j++) {
            const tensor *r = &s->reads[j];
            const int may_share = from != NULL && w->kind == to->kind && w->idx == to->idx &&
                                  r->kind == from->kind && r->idx == from->idx &&
                                  r->begin == w->begin;
            const int adds = w->kind == r->kind && w->idx == r->idx;
            if (!may_share && !adds) assert_false(overlap(w, r));
        }
    }
    for (int i = 0; i < s->n_writes; i++) {
        tensor *slot = NULL;
        for (int j = 0; j < s->n; j++) {
            tensor *t = &s->tensors[j];
            if (t->kind == s->writes[i].kind && t->idx == s->writes[i].idx) slot = t;
            if (overlap(t, &s->writes[i])) t->is_valid = 0;
        }
        if (slot == NULL) {
            assert_true(s->n < MAX_TENSORS);
            slot = &s->tensors[s->n++];
        }
        *slot = s->writes[i];
        slot->is_valid = 1;
    }
    s->n_reads = 0;
    s->n_writes = 0;
}

static int n_of_input(const nn_graph_layer *layer, nn_value x)
{
    int n = 0;

    for (int j = 0; j < layer->n_inputs; j++) n += layer->input[j] == x;
    return n;
}

static int has_saved(const nn_graph_layer *layer)
{
    return layer->plan.saved_bytes > 0 || layer->plan.saved_per_output > 0;
}

/* What the backward pass reads of a value: its second life, if it has one. */
static tensor_kind backward_kind(const shadow *s, int value)
{
    return s->plan->again_at[value] == NN_NEVER ? VALUE : AGAIN;
}

/* A whole chain at the turn of its last layer, as fuse.c joined it. Its output may take the place
 * of one of its inputs. */
static void chain_forward_in(shadow *s, int i)
{
    const int conv = s->plan->chain_conv[i];
    const nn_plan_chain chain = nn_plan_chain_at(s->plan, s->graph, i);
    const tensor y = tensor_of(s, VALUE, chain.y);
    tensor from = tensor_of(s, VALUE, chain.x);

    reads(s, VALUE, chain.x);
    if (chain.residual >= 0) {
        reads(s, VALUE, chain.residual);
        const tensor other = tensor_of(s, VALUE, chain.residual);
        if (overlap(&other, &y)) from = other;
    }
    writes(s, VALUE, chain.y);
    if (conv >= 0) { /* reads x around each pixel: y must not lie there */
        assert_false(overlap(&y, &s->reads[0]));
        writes(s, WORKSPACE, s->plan->forward_workspace[conv]);
    } else {
        writes(s, SAVED, s->plan->chain_norm[i]);
    }
    end_layer(s, &from, &y);
}

/* The same into the second life of its output, from what backward may read by then. */
static void chain_again_in(shadow *s, int i)
{
    const nn_plan_chain chain = nn_plan_chain_at(s->plan, s->graph, i);

    reads(s, backward_kind(s, chain.x), chain.x);
    reads(s, SAVED, s->plan->chain_norm[i]);
    if (chain.residual >= 0) reads(s, backward_kind(s, chain.residual), chain.residual);
    writes(s, AGAIN, chain.y);
    end_layer(s, NULL, NULL);
    s->n_again++;
}

static void compute_again_in(shadow *s, int layer_idx)
{
    for (int i = 0; i < s->plan->n_layers; i++) {
        if (s->plan->again_at[i + 1] != 2 * s->plan->n_layers - 1 - layer_idx) continue;
        chain_again_in(s, i);
    }
}

static void chain_backward_in(shadow *s, int i)
{
    const nn_plan *plan = s->plan;
    const int norm = plan->chain_norm[i], add = plan->chain_add[i];
    const nn_plan_chain chain = nn_plan_chain_at(plan, s->graph, i);
    const nn_value x = chain.x, residual = chain.residual;
    const tensor dy = tensor_of(s, GRAD, chain.y);
    tensor over = tensor_of(s, GRAD, x); /* what may lie where dy does */

    reads(s, GRAD, chain.y);
    if (add >= 0) reads(s, backward_kind(s, chain.y), chain.y);
    reads(s, backward_kind(s, x), x);
    reads(s, SAVED, norm);
    assert_true(plan->grad[x] != NN_NO_BLOCK);
    if (plan->first_writer[x] != norm) {
        reads(s, GRAD, x);
        assert_false(overlap(&over, &dy));
    }
    writes(s, GRAD, x);
    if (add >= 0 && plan->grad[residual] != NN_NO_BLOCK) {
        const tensor other = tensor_of(s, GRAD, residual);
        if (plan->first_writer[residual] != add) {
            reads(s, GRAD, residual);
            assert_false(overlap(&other, &dy));
        } else if (overlap(&other, &dy)) {
            over = other;
        }
        writes(s, GRAD, residual);
    }
    end_layer(s, &dy, &over);
}

static void forward_in(shadow *s, int i)
{
    if (s->plan->chain[i] != NN_NO_CHAIN) {
        if (s->plan->chain[i] == i) chain_forward_in(s, i);
        return;
    }
    const nn_graph_layer *layer = nn_graph_layer_at(s->graph, i);
    const tensor x0 = tensor_of(s, VALUE, layer->input[0]), y = tensor_of(s, VALUE, layer->output);
    const int in_place = layer->plan.can_run_in_place && n_of_input(layer, layer->input[0]) == 1;

    for (int j = 0; j < layer->n_inputs; j++) reads(s, VALUE, layer->input[j]);
    writes(s, VALUE, layer->output);
    if (has_saved(layer)) writes(s, SAVED, i);
    if (s->plan->forward_workspace[i] != NN_NO_BLOCK) {
        writes(s, WORKSPACE, s->plan->forward_workspace[i]);
    }
    end_layer(s, in_place ? &x0 : NULL, &y);
}

static void backward_in(shadow *s, int i)
{
    const nn_plan *plan = s->plan;
    if (plan->chain[i] != NN_NO_CHAIN) {
        if (plan->chain[i] == i) chain_backward_in(s, i);
        return;
    }
    const nn_graph_layer *layer = nn_graph_layer_at(s->graph, i);
    const nn_value x0 = layer->input[0];
    const tensor dy = tensor_of(s, GRAD, layer->output), dx0 = tensor_of(s, GRAD, x0);
    const int in_place = layer->plan.can_run_in_place && n_of_input(layer, x0) == 1 &&
                         plan->first_writer[x0] == i;

    if (!layer->plan.is_loss) reads(s, GRAD, layer->output);
    if (layer->plan.needs & NN_NEEDS_Y) reads(s, backward_kind(s, layer->output), layer->output);
    if (has_saved(layer)) reads(s, SAVED, i);
    for (int j = 0; j < layer->n_inputs; j++) {
        const nn_value x = layer->input[j];
        if (layer->plan.needs & NN_NEEDS_X) reads(s, backward_kind(s, x), x);
        if (plan->grad[x] == NN_NO_BLOCK) {
            assert_false(j == 0 && (layer->plan.needs & NN_NEEDS_DX));
            continue;
        }
        if (plan->first_writer[x] != i) reads(s, GRAD, x); /* it adds */
        int is_first = 1;
        for (int k = 0; k < j; k++) is_first &= layer->input[k] != x;
        if (is_first) writes(s, GRAD, x);
    }
    if (plan->backward_workspace[i] != NN_NO_BLOCK) {
        writes(s, WORKSPACE, plan->backward_workspace[i]);
    }
    end_layer(s, in_place ? &dy : NULL, &dx0);
}

/* Whether the loss can be reached from a value. */
static int reaches_loss(const nn_graph *graph, nn_value x)
{
    for (int i = 0; i < nn_graph_n_layers(graph); i++) {
        const nn_graph_layer *layer = nn_graph_layer_at(graph, i);
        if (n_of_input(layer, x) == 0) continue;
        if (layer->plan.is_loss || reaches_loss(graph, layer->output)) return 1;
    }
    return 0;
}

/* Whether a trained parameter lies at or before a layer. */
static int has_parameters_before(const nn_graph *graph, const nn_graph_layer *layer)
{
    if (layer->plan.n_params > 0) return 1;
    for (int j = 0; j < layer->n_inputs; j++) {
        if (layer->input[j] == 0) continue;
        if (has_parameters_before(graph, nn_graph_layer_at(graph, layer->input[j] - 1))) return 1;
    }
    return 0;
}

/* Returns how many values the backward pass computes again. */
static int check_plan(nn_backend *backend, const nn_graph *graph, const nn_plan_options *options)
{
    nn_plan *plan = NULL;
    shadow s = {.graph = graph};

    assert_ok(nn_plan_create(backend, graph, options, &plan));
    s.plan = plan;
    writes(&s, VALUE, 0);
    end_layer(&s, NULL, NULL);
    for (int i = 0; i < plan->n_layers; i++) forward_in(&s, i);
    for (int i = plan->n_layers - 1; i >= 0; i--) {
        const nn_graph_layer *layer = nn_graph_layer_at(graph, i);
        const int is_useful = (layer->plan.is_loss || reaches_loss(graph, layer->output)) &&
                              has_parameters_before(graph, layer);
        assert_int_equal(plan->runs_backward[i] != 0, is_useful && !options->is_inference);
        compute_again_in(&s, i);
        if (plan->runs_backward[i]) backward_in(&s, i);
    }
    reads(&s, VALUE, nn_graph_logits(graph)); /* kept to the end */
    nn_plan_destroy(&plan);
    return s.n_again;
}

static int count_chains(nn_backend *backend, const nn_graph *graph, int *n_sums)
{
    nn_plan *plan = NULL;
    int n = 0; /* of two layers and more */

    assert_ok(nn_plan_create(backend, graph, &training, &plan));
    for (int i = 0; i < plan->n_layers; i++) {
        n += plan->chain[i] == i && plan->chain_norm[i] != i;
        *n_sums += plan->chain[i] == i && plan->chain_add[i] >= 0;
    }
    nn_plan_destroy(&plan);
    return n;
}

static void random_graphs_never_overwrite_what_is_read_later(void **state)
{
    enum { MAX_DEPTH = 4 };
    int n_chains = 0, n_sums = 0, n_again[MAX_DEPTH + 1] = {0};

    (void)state;
    nn_backend *backend = kernel_backend("cpu", 1); /* its kernels want workspaces */

    for (uint64_t seed = 0; seed < N_GRAPHS; seed++) {
        nn_graph *graph = random_graph(seed);
        for (int depth = NN_NEVER; depth < MAX_DEPTH; depth++) {
            const nn_plan_options options = {.again_depth = depth};
            n_again[depth + 1] += check_plan(backend, graph, &options);
        }
        assert_int_equal(check_plan(backend, graph, &inference), 0);
        n_chains += count_chains(backend, graph, &n_sums);
        nn_graph_destroy(&graph);
    }
    assert_true(n_chains > n_sums && n_sums > 0); /* both forms were among them */
    assert_int_equal(n_again[0], 0);
    assert_true(n_again[1] > 50 && n_again[2] > n_again[1]);
    nn_backend_close(&backend);
}

/* --- How much memory ------------------------------------------------------------------------ */

static int64_t largest_sum_of_lives(const nn_plan *plan)
{
    int64_t largest = 0;

    for (int tick = 0; tick < plan->n_ticks; tick++) {
        int64_t sum = 0;
        for (int i = 0; i < plan->n_blocks; i++) {
            const nn_plan_block *b = &plan->blocks[i];
            if (b->first <= tick && tick <= b->last) sum += b->size_bytes;
        }
        if (sum > largest) largest = sum;
    }
    return largest;
}

static void arena_is_little_more_than_what_lives_at_once(void **state)
{
    (void)state;
    nn_backend *backend = kernel_backend("ref", 1);
    int64_t arena = 0, bound = 0;

    for (uint64_t seed = 0; seed < 60; seed++) {
        nn_graph *graph = random_graph(seed);
        nn_plan *plan = NULL;
        assert_ok(nn_plan_create(backend, graph, &training, &plan));
        assert_true(plan->arena_bytes >= largest_sum_of_lives(plan));
        arena += plan->arena_bytes;
        bound += largest_sum_of_lives(plan);
        nn_plan_destroy(&plan);
        nn_graph_destroy(&graph);
    }
    assert_true(arena * 100 <= bound * 105); /* 5 % over a bound no plan can beat */
    nn_backend_close(&backend);
}

static nn_graph *chain(const char *type, const char *attrs, int n_layers)
{
    const nn_shape image = {.n_dims = 3, .dim = {4, 8, 8}};
    nn_graph *graph = NULL;
    nn_value x = 0;
    char name[32];

    assert_ok(nn_graph_create(2, &image, &graph));
    for (int i = 0; i < n_layers; i++) {
        snprintf(name, sizeof name, "layer%d", i);
        x = nn_add(graph, type, name, x, "%s", attrs);
    }
    assert_ok(nn_graph_finish(graph));
    return graph;
}

static void chain_in_inference_needs_two_activations_or_one_in_place(void **state)
{
    (void)state;
    const int64_t value_bytes = 2 * 4 * 8 * 8 * 4;
    nn_backend *backend = kernel_backend("ref", 1);
    nn_graph *graph = chain("conv2d", "{out: 4, kernel: 3, pad: 1}", 30);
    nn_plan *plan = NULL;
    assert_ok(nn_plan_create(backend, graph, &inference, &plan));
    assert_int_equal(plan->arena_bytes, 2 * value_bytes);
    nn_plan_destroy(&plan);
    nn_graph_destroy(&graph);

    graph = chain("relu", "{}", 30);
    assert_ok(nn_plan_create(backend, graph, &inference, &plan));
    assert_int_equal(plan->arena_bytes, value_bytes);
    nn_plan_destroy(&plan);
    nn_graph_destroy(&graph);
    nn_backend_close(&backend);
}

static void rectifier_after_batchnorm_shares_its_memory(void **state)
{
    (void)state;
    const nn_shape image = {.n_dims = 3, .dim = {4, 8, 8}};
    nn_backend *backend = kernel_backend("ref", 1);
    nn_graph *g = NULL;
    nn_plan *plan = NULL;

    assert_ok(nn_graph_create(2, &image, &g));
    const nn_value conv = nn_add(g, "conv2d", "conv", 0, "{out: 4, kernel: 1}");
    const nn_value bn = nn_add(g, "batchnorm2d", "bn", conv, "{}");
    const nn_value relu = nn_add(g, "relu", "relu", bn, "{}");
    const nn_value flat = nn_add(g, "flatten", "flatten", relu, "{}");
    nn_add(g, "softmax_xent", "loss", nn_add(g, "dense", "fc", flat, "{out: 3}"), "{}");
    assert_ok(nn_graph_finish(g));
    assert_ok(nn_plan_create(backend, g, &training, &plan));
    assert_int_equal(plan->value[bn], plan->value[relu]);
    assert_int_not_equal(plan->value[conv], plan->value[bn]);   /* batch norm reads it backward */
    assert_int_not_equal(plan->value[relu], plan->value[flat]); /* the rectifier reads its output */
    assert_int_equal(plan->grad[flat], plan->grad[relu]);
    assert_int_equal(plan->grad[relu], plan->grad[bn]);
    assert_int_equal(plan->grad[0], NN_NO_BLOCK); /* of the images nobody wants it */
    nn_plan_destroy(&plan);
    nn_graph_destroy(&g);
    nn_backend_close(&backend);
}

static void plan_without_memory_reports_it_and_leaks_nothing(void **state)
{
    (void)state;
    nn_backend *backend = kernel_backend("ref", 1);
    nn_graph *graph = random_graph(3);
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;

    test_log_expect("plan of a net");
    cvy_alloc_count(&before);
    for (int64_t k = 0; status != CVY_OK; k++) {
        nn_plan *plan = NULL;
        cvy_alloc_fail_at(k);
        status = nn_plan_create(backend, graph, &training, &plan);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) {
            assert_status(status, CVY_ERR_NO_MEMORY);
            assert_null(plan);
        }
        nn_plan_destroy(&plan);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
        assert_true(k < 100);
    }
    nn_graph_destroy(&graph);
    nn_backend_close(&backend);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(random_graphs_never_overwrite_what_is_read_later),
    cvy_unit_test(arena_is_little_more_than_what_lives_at_once),
    cvy_unit_test(chain_in_inference_needs_two_activations_or_one_in_place),
    cvy_unit_test(rectifier_after_batchnorm_shares_its_memory),
    cvy_unit_test(plan_without_memory_reports_it_and_leaks_nothing),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
