#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "nn/graph.h"

#include <stdio.h>
#include <string.h>

static nn_graph *new_graph(int64_t minibatch, int64_t c, int64_t h, int64_t w)
{
    const int64_t dim[3] = {c, h, w};
    const nn_shape image = nn_shape_of(3, dim);
    nn_graph *graph = NULL;

    assert_ok(nn_graph_create(minibatch, &image, &graph));
    return graph;
}

static void assert_shape(const nn_graph *graph, nn_value value, const char *want)
{
    const nn_shape shape = nn_graph_shape(graph, value);
    char text[96];

    nn_shape_text(&shape, text, sizeof text);
    assert_string_equal(text, want);
}

/* A small residual net: every kind of wiring in a few layers. */
static nn_value add_small_net(nn_graph *g)
{
    nn_value x = nn_add(g, "conv2d", "conv1", 0, "{out: %d, kernel: 3, pad: 1, bias: false}", 4);
    x = nn_add(g, "batchnorm2d", "bn1", x, "{}");
    x = nn_add(g, "relu", "relu1", x, "%s", "");
    nn_value branch = nn_add(g, "conv2d", "layer1.0.conv1", x, "{out: 4, kernel: 3, pad: 1}");
    const nn_value both[] = {branch, x};
    x = nn_add_n(g, "add", "layer1.0.add", 2, both, "{}");
    x = nn_add(g, "avgpool2d", "pool", x, "{global: true}");
    x = nn_add(g, "flatten", "flatten", x, "{}");
    x = nn_add(g, "dense", "fc", x, "{out: 10}");
    return nn_add(g, "softmax_xent", "loss", x, "{}");
}

static void net_has_shapes_parameters_and_counts(void **state)
{
    (void)state;
    nn_graph *g = new_graph(8, 3, 5, 7);
    const nn_value loss = add_small_net(g);

    assert_ok(nn_graph_finish(g));
    assert_ok(nn_graph_finish(g)); /* again is fine */
    assert_int_equal(nn_graph_n_layers(g), 9);
    assert_int_equal(nn_graph_minibatch(g), 8);
    assert_shape(g, 0, "(8, 3, 5, 7)");
    assert_shape(g, 5, "(8, 4, 5, 7)");
    assert_shape(g, loss, "(8)");
    assert_int_equal(nn_graph_logits(g), loss - 1);
    assert_int_equal(nn_graph_multiply_adds(g), 5 * 7 * 4 * 27 + 5 * 7 * 4 * 36 + 40);

    static const char *const names[] = {"conv1.weight",
                                        "bn1.weight",
                                        "bn1.bias",
                                        "bn1.running_mean",
                                        "bn1.running_var",
                                        "layer1.0.conv1.weight",
                                        "layer1.0.conv1.bias",
                                        "fc.weight",
                                        "fc.bias",
                                        "tail"};
    const nn_params *params = nn_graph_params(g);
    assert_int_equal(params->n, 10);
    for (int i = 0; i < 10; i++) assert_string_equal(params->entry[i].name, names[i]);
    assert_int_equal(params->n_trainable, 4 * 27 + 8 + 4 * 36 + 4 + 40 + 10);
    assert_int_equal(params->entry[0].decl.fan_in, 27);
    assert_int_equal(params->entry[0].decl.fan_out, 36);

    const nn_graph_layer *layer = nn_graph_layer_at(g, 3);
    assert_string_equal(layer->name, "layer1.0.conv1");
    assert_string_equal(layer->ops->name, "conv2d");
    assert_int_equal(layer->first_param, 5);
    assert_int_equal(layer->output, 4);
    assert_int_equal(layer->input[0], 3);
    assert_null(nn_graph_layer_at(g, 9));
    nn_graph_destroy(&g);
    assert_null(g);
}

/* One wrong layer on an input of (16, 3, 5, 5), and what is said about it. */
typedef struct wrong_layer {
    const char *type, *attrs, *message;
} wrong_layer;

static const wrong_layer wrong_layers[] = {
    {"conv2", "{}", "layer 'x' (conv2): no layer type 'conv2'; did you mean 'conv2d'?"},
    {"attention", "{}", "layer 'x' (attention): no layer type 'attention'"},
    {"conv2d", "{out: 4, kernel: 7}",
     "layer 'x' (conv2d): kernel 7 x 7 does not fit the input of (16, 3, 5, 5) with pad 0"},
    {"conv2d", "{out: 4, kernel: 3, dilation: 3}", "with pad 0 and dilation 3"},
    {"conv2d", "{out: 4, kernel: [1, 2, 3]}", "kernel has 3 values; expected one, or"},
    {"conv2d", "{out: 4, kernel: 3, groups: 2}",
     "2 groups do not divide both 3 input and 4 output channels"},
    {"conv2d", "{out: 0, kernel: 3}", "out"},
    {"conv2d", "{out: 4}", "kernel"},
    {"conv2d", "{out: 4, kernel: 3, strid: 2}", "stride"},
    {"conv2d", "{out: 1000000000000, kernel: 3}", "an output of (16, 1000000000000, 3, 3) would"},
    {"conv2d", "{out: 100, kernel: 1000000, pad: 1000000}", "of memory, the limit is 4 TiB"},
    {"maxpool2d", "{kernel: 6}", "kernel 6 x 6 does not fit the input of (16, 3, 5, 5)"},
    {"maxpool2d", "{kernel: 2, pad: 2}", "pad 2 is more than half of kernel 2"},
    {"avgpool2d", "{}", "no kernel; give one, or global: true"},
    {"avgpool2d", "{global: true, kernel: 2}", "global pooling takes no kernel"},
    {"dense", "{out: 4}", "input of (16, 3, 5, 5); expected (n, c): put a flatten layer before it"},
    {"dropout", "{rate: 1}", "rate 1 leaves nothing"},
    {"add", "", "layer 'x' (add): 1 inputs; expected 2 to 16"},
    {"relu", "{slope: 0.1}", "layer 'x' (relu): this type takes no attributes"},
    {"softmax_xent", "", "input of (16, 3, 5, 5); expected (n, classes)"},
};

static void wrong_layers_are_refused_with_the_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrong_layers / sizeof wrong_layers[0]; i++) {
        const wrong_layer *wrong = &wrong_layers[i];
        nn_graph *g = new_graph(16, 3, 5, 5);
        test_log_expect(wrong->message);
        assert_int_equal(nn_add(g, wrong->type, "x", 0, "%s", wrong->attrs), NN_NO_VALUE);
        if (!test_log_saw(wrong->message)) fail_msg("%s %s", wrong->type, wrong->attrs);
        assert_status(nn_graph_finish(g), CVY_ERR_CONFIG);
        nn_graph_destroy(&g);
    }
}

static void weights_no_machine_can_hold_are_refused_naming_layer_and_memory(void **state)
{
    (void)state;
    nn_graph *g = new_graph(2, 100, 100, 100);
    const nn_value x = nn_add(g, "flatten", "flatten", 0, "{}");

    test_log_expect("layer 'fc' (dense): weight of (10000000, 1000000) would take 36.4 TiB of "
                    "memory, the limit is 4 TiB");
    assert_int_equal(nn_add(g, "dense", "fc", x, "{out: 10000000}"), NN_NO_VALUE);
    assert_status(nn_graph_finish(g), CVY_ERR_CONFIG);
    nn_graph_destroy(&g);
}

static void unequal_inputs_are_refused(void **state)
{
    (void)state;
    static const char *const types[] = {"add", "concat"};

    test_log_expect("(add): input 1 is (2, 3, 2, 2) and input 0 is (2, 3, 4, 4); expected equal");
    test_log_expect("(concat): input 1 is (2, 3, 2, 2) and input 0 is (2, 3, 4, 4); only channels");
    for (int i = 0; i < 2; i++) {
        nn_graph *g = new_graph(2, 3, 4, 4);
        const nn_value x[] = {0, nn_add(g, "maxpool2d", "pool", 0, "{kernel: 2}")};
        assert_int_equal(nn_add_n(g, types[i], "join", 2, x, "{}"), NN_NO_VALUE);
        assert_status(nn_graph_finish(g), CVY_ERR_CONFIG);
        nn_graph_destroy(&g);
    }
}

static void pooling_in_ceil_mode_keeps_the_last_window(void **state)
{
    (void)state;
    nn_graph *g = new_graph(1, 1, 6, 7);

    const nn_value floor_value = nn_add(g, "maxpool2d", "a", 0, "{kernel: 3, stride: 2}");
    const nn_value ceil_value = nn_add(g, "maxpool2d", "b", 0,
                                       "{kernel: 3, stride: 2, ceil_mode: true}");
    const nn_value padded = nn_add(g, "maxpool2d", "c", 0,
                                   "{kernel: 2, stride: 3, pad: 1, ceil_mode: true}");
    assert_shape(g, floor_value, "(1, 1, 2, 3)");
    assert_shape(g, ceil_value, "(1, 1, 3, 3)");
    assert_shape(g, padded, "(1, 1, 3, 3)");
    nn_graph_destroy(&g);
}

static void first_failure_sticks_and_is_logged_once(void **state)
{
    (void)state;
    nn_graph *g = new_graph(2, 3, 4, 4);

    test_log_expect("layer 'conv1' (conv2d): kernel 9 x 9");
    nn_value x = nn_add(g, "conv2d", "conv1", 0, "{out: 4, kernel: 9}");
    x = nn_add(g, "nonsense", "y", x, "{]");
    nn_graph_set_logits(g, x);
    assert_int_equal(x, NN_NO_VALUE);
    assert_int_equal(nn_graph_shape(g, x).n_dims, 0);
    assert_status(nn_graph_finish(g), CVY_ERR_CONFIG);
    assert_int_equal(nn_graph_n_layers(g), 0);
    nn_graph_destroy(&g);
}

static void bad_wiring_is_refused(void **state)
{
    (void)state;
    nn_graph *g = new_graph(2, 3, 4, 4);
    nn_add(g, "relu", "a", 0, "{}");
    test_log_expect("layer 'a' (relu): another layer has this name");
    assert_int_equal(nn_add(g, "relu", "a", 1, "{}"), NN_NO_VALUE);
    nn_graph_destroy(&g);

    g = new_graph(2, 3, 4, 4);
    test_log_expect("layer 'a' (relu): input 0 is no value of this net");
    assert_int_equal(nn_add(g, "relu", "a", 1, "{}"), NN_NO_VALUE);
    assert_status(nn_graph_finish(g), CVY_ERR_INVALID_ARG);
    nn_graph_destroy(&g);

    g = new_graph(2, 3, 4, 4);
    test_log_expect("layer '' (relu): no name");
    assert_int_equal(nn_add(g, "relu", "", 0, "{}"), NN_NO_VALUE);
    nn_graph_destroy(&g);

    g = new_graph(2, 3, 4, 4);
    const nn_value loss = add_small_net(g);
    test_log_expect("layer 'after' (relu): input 0 is the loss 'loss', which nothing may read");
    assert_int_equal(nn_add(g, "relu", "after", loss, "{}"), NN_NO_VALUE);
    nn_graph_destroy(&g);
}

static void finish_refuses_nets_that_are_none(void **state)
{
    (void)state;
    nn_graph *g = new_graph(2, 3, 4, 4);
    test_log_expect("net: no layers");
    assert_status(nn_graph_finish(g), CVY_ERR_CONFIG);
    nn_graph_destroy(&g);

    g = new_graph(2, 3, 4, 4);
    add_small_net(g);
    nn_add(g, "relu", "lonely", 1, "{}");
    test_log_expect("net: nothing reads layer 'lonely' (relu)");
    assert_status(nn_graph_finish(g), CVY_ERR_CONFIG);
    nn_graph_destroy(&g);

    g = new_graph(2, 3, 4, 4);
    const nn_value loss = add_small_net(g);
    nn_add(g, "softmax_xent", "loss2", loss - 1, "{}");
    test_log_expect("net: layers 'loss' and 'loss2' are both losses");
    assert_status(nn_graph_finish(g), CVY_ERR_CONFIG);
    nn_graph_destroy(&g);

    g = new_graph(2, 3, 4, 4);
    add_small_net(g);
    assert_ok(nn_graph_finish(g));
    test_log_expect("layer 'late' (relu): the net is finished already");
    assert_int_equal(nn_add(g, "relu", "late", 1, "{}"), NN_NO_VALUE);
    nn_graph_destroy(&g);
}

static void impossible_inputs_are_refused(void **state)
{
    (void)state;
    static const int64_t minibatches[] = {0, -1, 1000000000000000000};
    const nn_shape image = {.n_dims = 3, .dim = {3, 32, 32}}, none = {.n_dims = 0};
    nn_graph *g = NULL;

    test_log_expect("images of (3, 32, 32)");
    for (int i = 0; i < 3; i++) {
        assert_status(nn_graph_create(minibatches[i], &image, &g), CVY_ERR_CONFIG);
        assert_null(g);
    }
    test_log_expect("images of 0 dimensions");
    assert_status(nn_graph_create(1, &none, &g), CVY_ERR_INVALID_ARG);
}

static void logits_may_be_another_value(void **state)
{
    (void)state;
    nn_graph *g = new_graph(2, 3, 4, 4);
    const nn_value loss = add_small_net(g);
    const nn_value extra = nn_add(g, "dense", "extra", loss - 2, "{out: 3}");

    nn_graph_set_logits(g, extra);
    assert_ok(nn_graph_finish(g));
    assert_int_equal(nn_graph_logits(g), extra);
    nn_graph_destroy(&g);
}

static void attributes_from_a_job_file_are_named_by_their_place(void **state)
{
    (void)state;
    static const char text[] = "good: {out: 4, kernel: 3}\nbad:\n  out: 4\n  kernel: 30\n";
    cvy_node *job = NULL;
    nn_graph *g = new_graph(2, 3, 4, 4);
    nn_value x = 0;

    assert_ok(cvy_node_parse(text, strlen(text), "job.yaml", &job));
    x = nn_add_node(g, "conv2d", "a", 1, &x, cvy_config_section(cvy_node_find(job, "good")));
    assert_shape(g, x, "(2, 4, 2, 2)");
    test_log_expect("job.yaml:2:1: layer 'b' (conv2d): kernel 30 x 30");
    x = nn_add_node(g, "conv2d", "b", 1, &x, cvy_config_section(cvy_node_find(job, "bad")));
    assert_int_equal(x, NN_NO_VALUE);
    nn_graph_destroy(&g);
    cvy_node_destroy(&job);
}

static void more_layers_than_allowed_are_refused(void **state)
{
    (void)state;
    nn_graph *g = new_graph(1, 1, 1, 1);
    nn_value x = 0;
    char name[32];

    test_log_expect("a net has at most 10000 layers");
    for (int i = 0; i < NN_GRAPH_MAX_LAYERS; i++) {
        snprintf(name, sizeof name, "relu%d", i);
        x = nn_add(g, "relu", name, x, "{}");
        assert_int_equal(x, i + 1);
    }
    assert_int_equal(nn_add(g, "relu", "one more", x, "{}"), NN_NO_VALUE);
    assert_status(nn_graph_finish(g), CVY_ERR_CONFIG);
    nn_graph_destroy(&g);
}

static cvy_status build_small(nn_graph **out)
{
    const nn_shape image = {.n_dims = 3, .dim = {3, 4, 4}};

    CVY_RETURN_IF_ERR(nn_graph_create(2, &image, out));
    add_small_net(*out);
    return nn_graph_finish(*out);
}

static void building_without_memory_reports_it_and_leaks_nothing(void **state)
{
    (void)state;
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;

    test_log_expect(": "); /* whoever misses the memory says so */
    cvy_alloc_count(&before);
    for (int64_t k = 0; status != CVY_OK; k++) {
        nn_graph *g = NULL;
        cvy_alloc_fail_at(k);
        status = build_small(&g);
        cvy_alloc_fail_at(-1);
        nn_graph_destroy(&g);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        assert_true(k < 1000);
    }
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(net_has_shapes_parameters_and_counts),
    cvy_unit_test(wrong_layers_are_refused_with_the_reason),
    cvy_unit_test(weights_no_machine_can_hold_are_refused_naming_layer_and_memory),
    cvy_unit_test(unequal_inputs_are_refused),
    cvy_unit_test(pooling_in_ceil_mode_keeps_the_last_window),
    cvy_unit_test(first_failure_sticks_and_is_logged_once),
    cvy_unit_test(bad_wiring_is_refused),
    cvy_unit_test(finish_refuses_nets_that_are_none),
    cvy_unit_test(impossible_inputs_are_refused),
    cvy_unit_test(logits_may_be_another_value),
    cvy_unit_test(attributes_from_a_job_file_are_named_by_their_place),
    cvy_unit_test(more_layers_than_allowed_are_refused),
    cvy_unit_test(building_without_memory_reports_it_and_leaks_nothing),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
