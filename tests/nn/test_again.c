/* What the backward pass computes again instead of keeping it: which values, when, and that not a
 * bit depends on it. */
#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "nn/net.h"
#include "nn/plan_internal.h"

#include <stdio.h>

enum { N_BLOCKS = 6, MINIBATCH = 3, C = 20, H = 7, W = 6 };

static nn_backend *open_cpu(void)
{
    nn_backend *backend = NULL;

    assert_ok(nn_backend_open("cpu", &(nn_backend_options){.n_threads = 2}, &backend));
    return backend;
}

/* A value of a layer named after its block. */
static nn_value add_to(nn_graph *g, const char *type, int block, int number, nn_value x,
                       const char *attrs)
{
    char name[32];

    snprintf(name, sizeof name, "block%d.%s%d", block, type, number);
    return nn_add(g, type, name, x, "%s", attrs);
}

/* A stage of residual blocks; the first has a convolution and a normalisation in its shortcut. */
typedef struct stage {
    nn_graph *graph;
    nn_value y[N_BLOCKS], inner[N_BLOCKS], shortcut;
} stage;

static nn_value add_block(stage *s, int i, nn_value x)
{
    static const char conv[] = "{out: 20, kernel: 3, pad: 1, bias: false}";
    nn_graph *g = s->graph;
    nn_value y[2] = {add_to(g, "conv2d", i, 0, x, conv), x};
    char name[32];

    y[0] = add_to(g, "batchnorm2d", i, 0, y[0], "{}");
    s->inner[i] = y[0] = add_to(g, "relu", i, 0, y[0], "{}");
    y[0] = add_to(g, "conv2d", i, 1, y[0], conv);
    y[0] = add_to(g, "batchnorm2d", i, 1, y[0], "{}");
    if (i == 0) {
        y[1] = add_to(g, "conv2d", i, 2, x, "{out: 20, kernel: 1, bias: false}");
        s->shortcut = y[1] = add_to(g, "batchnorm2d", i, 2, y[1], "{}");
    }
    snprintf(name, sizeof name, "block%d.add", i);
    y[0] = nn_add_n(g, "add", name, 2, y, "{}");
    return s->y[i] = add_to(g, "relu", i, 1, y[0], "{}");
}

static stage build(void)
{
    const nn_shape image = {.n_dims = 3, .dim = {C, H, W}};
    stage s = {0};

    assert_ok(nn_graph_create(MINIBATCH, &image, &s.graph));
    nn_value x = nn_add(s.graph, "conv2d", "stem", 0, "{out: 20, kernel: 1}");
    for (int i = 0; i < N_BLOCKS; i++) x = add_block(&s, i, x);
    x = nn_add(s.graph, "batchnorm2d", "bn", x, "{}"); /* alone, and of a sum */
    x = nn_add(s.graph, "conv2d", "last", x, "{out: 8, kernel: 3}");
    x = nn_add(s.graph, "flatten", "flatten", x, "{}");
    x = nn_add(s.graph, "dense", "fc", x, "{out: 5}");
    nn_add(s.graph, "softmax_xent", "loss", x, "{}");
    assert_ok(nn_graph_finish(s.graph));
    return s;
}

static void every_third_sum_of_a_stage_is_kept(void **state)
{
    (void)state;
    const nn_plan_options options = {.again_depth = NN_AGAIN_DEPTH};
    nn_backend *backend = open_cpu();
    stage s = build();
    nn_plan *plan = NULL;

    assert_ok(nn_plan_create(backend, s.graph, &options, &plan));
    for (int i = 0; i < N_BLOCKS; i++) {
        const int is_kept = i % (NN_AGAIN_DEPTH + 1) == NN_AGAIN_DEPTH;
        assert_int_equal(plan->again_at[s.y[i]] == NN_NEVER, is_kept);
        /* Before the second convolution of its block, the only one to read it. */
        assert_int_equal(plan->again_at[s.inner[i]], nn_plan_backward_tick(plan, s.inner[i]));
        if (is_kept) continue;
        /* With the last sum that leans on it, which the next block's convolution reads. */
        const int last = i - i % (NN_AGAIN_DEPTH + 1) + NN_AGAIN_DEPTH - 1;
        assert_int_equal(plan->again_at[s.y[i]], nn_plan_backward_tick(plan, s.y[last]));
    }
    /* Nobody reads the shortcut backward but the sum of its block that is computed again. */
    assert_int_equal(plan->again_at[s.shortcut], plan->again_at[s.y[0]]);
    nn_plan_destroy(&plan);
    nn_graph_destroy(&s.graph);
    nn_backend_close(&backend);
}

static void greater_depth_needs_less_memory(void **state)
{
    (void)state;
    nn_backend *backend = open_cpu();
    stage s = build();
    int64_t last_bytes = INT64_MAX;

    for (int depth = NN_NEVER; depth <= NN_AGAIN_DEPTH; depth++) {
        const nn_plan_options options = {.again_depth = depth};
        nn_plan *plan = NULL;
        assert_ok(nn_plan_create(backend, s.graph, &options, &plan));
        assert_true(plan->arena_bytes < last_bytes);
        last_bytes = plan->arena_bytes;
        nn_plan_destroy(&plan);
    }
    nn_graph_destroy(&s.graph);
    nn_backend_close(&backend);
}

static void no_more_is_computed_again_than_memory_asks_for(void **state)
{
    (void)state;
    nn_backend *backend = open_cpu();
    stage s = build();
    int64_t keep_bytes = INT64_MAX;

    for (int depth = NN_NEVER; depth <= NN_AGAIN_DEPTH; depth++) {
        const nn_plan_options options = {.again_depth = depth};
        nn_plan *expected = NULL, *plan = NULL;
        assert_ok(nn_plan_create(backend, s.graph, &options, &expected));
        assert_ok(nn_plan_create_within(backend, s.graph, 0, keep_bytes, &plan));
        assert_int_equal(plan->arena_bytes, expected->arena_bytes);
        keep_bytes = plan->arena_bytes - 1;
        nn_plan_destroy(&plan);
        assert_ok(nn_plan_create_within(backend, s.graph, 0, keep_bytes + 1, &plan));
        assert_int_equal(plan->arena_bytes, expected->arena_bytes);
        nn_plan_destroy(&plan);
        nn_plan_destroy(&expected);
    }
    nn_graph_destroy(&s.graph);
    nn_backend_close(&backend);
}

static void reference_backend_keeps_everything(void **state)
{
    (void)state;
    const nn_plan_options options = {.again_depth = NN_AGAIN_DEPTH};
    nn_backend *backend = NULL;
    stage s = build();
    nn_plan *plan = NULL;

    assert_ok(nn_backend_open("ref", &(nn_backend_options){.n_threads = 1}, &backend));
    assert_ok(nn_plan_create(backend, s.graph, &options, &plan));
    for (int v = 0; v < plan->n_values; v++) assert_int_equal(plan->again_at[v], NN_NEVER);
    nn_plan_destroy(&plan);
    nn_graph_destroy(&s.graph);
    nn_backend_close(&backend);
}

/* Gradients of two steps of one batch of n images, the second into memory that is in use. */
static float *gradients(nn_backend *backend, const nn_graph *graph, int64_t keep_bytes, int64_t n)
{
    const nn_params *params = nn_graph_params(graph);
    const nn_net_options options = {.keep_bytes = keep_bytes};
    float *weights = cvy_alloc((size_t)params->n_elems * sizeof(float));
    float *grads = cvy_alloc_zero((size_t)params->n_elems, sizeof(float));
    static float images[MINIBATCH * C * H * W];
    static const int32_t labels[MINIBATCH] = {1, 4, 0};
    const nn_batch batch = {.n = n, .images = images, .labels = labels, .is_training = 1};
    cvy_rng rng = cvy_rng_open(5, CVY_RNG_TEST, 1, 0);
    nn_net *net = NULL;

    assert_true(weights != NULL && grads != NULL);
    assert_ok(nn_params_init(params, 3, weights));
    for (int i = 0; i < MINIBATCH * C * H * W; i++) images[i] = cvy_rng_normal(&rng);
    assert_ok(nn_net_create(backend, graph, &options, &net));
    for (int step = 0; step < 2; step++) {
        assert_ok(nn_net_forward(net, &batch, weights, grads));
        assert_ok(nn_net_backward(net, &batch, weights, grads, NULL, NULL));
    }
    nn_net_destroy(&net);
    cvy_free(weights);
    return grads;
}

static void values_computed_again_change_no_bit(void **state)
{
    (void)state;
    nn_backend *backend = open_cpu();
    stage s = build();
    const size_t size_bytes = (size_t)nn_graph_params(s.graph)->n_elems * sizeof(float);

    for (int64_t n = 2; n <= MINIBATCH; n++) {
        float *again = gradients(backend, s.graph, 1, n);
        float *kept = gradients(backend, s.graph, INT64_MAX, n);
        assert_memory_equal(again, kept, size_bytes);
        cvy_free(again);
        cvy_free(kept);
    }
    nn_graph_destroy(&s.graph);
    nn_backend_close(&backend);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(every_third_sum_of_a_stage_is_kept),
    cvy_unit_test(greater_depth_needs_less_memory),
    cvy_unit_test(no_more_is_computed_again_than_memory_asks_for),
    cvy_unit_test(reference_backend_keeps_everything),
    cvy_unit_test(values_computed_again_change_no_bit),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
