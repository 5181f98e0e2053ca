#include "launch/layer_table.h"
#include "tests/support/test_support.h"

#include "nn/model.h"

#include <math.h>
#include <string.h>

/* Bytes, multiply-adds and shares against numbers worked out by hand, with given times. */

enum { MAX_LAYERS = 32, N = 2 }; /* layers of any net here; images */

typedef struct subject {
    nn_backend *backend;
    nn_graph *graph;
    nn_net *net;
    launch_layer_time times[MAX_LAYERS];
    launch_table table;
} subject;

static void open_net(subject *s, const char *backend, int is_inference, nn_graph *graph)
{
    const nn_backend_options options = {.n_threads = 1};
    const nn_net_options net_options = {.is_inference = is_inference};

    memset(s, 0, sizeof *s);
    s->graph = graph;
    assert_true(nn_graph_n_layers(graph) <= MAX_LAYERS);
    assert_ok(nn_backend_open(backend, &options, &s->backend));
    assert_ok(nn_net_create(s->backend, graph, &net_options, &s->net));
}

/* Every layer: 1 ms forward, 3 backward, of which 1 in the gradient of its filter. */
static void make_table(subject *s, int is_training, double step_s, double update_s)
{
    const launch_table_step step = {.step_s = step_s, .update_s = update_s, .n_states = 1};

    for (int i = 0; i < MAX_LAYERS; i++) {
        s->times[i] = (launch_layer_time){.forward_s = 1e-3,
                                          .backward_s = is_training ? 3e-3 : 0,
                                          .filter_s = is_training ? 1e-3 : 0};
    }
    assert_ok(launch_table_make(s->graph, s->net, s->times, &step, &s->table));
}

static void close_net(subject *s)
{
    launch_table_free(&s->table);
    assert_null(s->table.rows);
    nn_net_destroy(&s->net);
    nn_graph_destroy(&s->graph);
    nn_backend_close(&s->backend);
}

static nn_graph *lenet(void)
{
    const nn_model_options options = {.arch = "lenet5", .classes = 10};
    const nn_shape image = {.n_dims = 3, .dim = {1, 28, 28}};
    nn_graph *graph = NULL;

    assert_ok(nn_model_build_arch(&options, N, &image, &graph));
    return graph;
}

static const launch_table_row *row_of(const subject *s, const char *name)
{
    for (int i = 0; i < s->table.n_rows; i++) {
        if (strcmp(s->table.rows[i].name, name) == 0) return &s->table.rows[i];
    }
    fail_msg("no row %s", name);
    return NULL;
}

static void assert_close(double got, double want)
{
    if (!(fabs(got - want) <= 1e-12 + 1e-9 * fabs(want))) fail_msg("%.17g, not %.17g", got, want);
}

static void assert_cost(const launch_table_row *row, launch_pass pass, double time_ms,
                        double multiply_adds, double bytes)
{
    assert_close(row->pass[pass].time_s, 1e-3 * time_ms);
    assert_close(row->pass[pass].multiply_adds, multiply_adds);
    assert_close(row->pass[pass].bytes, bytes);
}

/* --- Figures of a cost ------------------------------------------------------------------------ */

static void figures_follow_from_time_work_and_bytes(void **state)
{
    const launch_cost cost = {.time_s = 0.002, .multiply_adds = 3e8, .bytes = 4e7};
    const launch_cost none = {0};

    (void)state;
    assert_close(launch_cost_gflops(&cost), 300);              /* 0.6 GFLOP in 2 ms */
    assert_close(launch_cost_bandwidth_share(&cost, 40), 0.5); /* 1 ms of 2 */
    assert_close(launch_cost_bandwidth_share(&cost, 0), 0);
    assert_close(launch_cost_gflops(&none), 0);
    assert_close(launch_cost_bandwidth_share(&none, 40), 0);
}

/* --- LeNet-5 on two images of 28 x 28 --------------------------------------------------------- */

static void lenet_layers_have_the_work_and_bytes_of_their_shapes(void **state)
{
    subject s;

    (void)state;
    open_net(&s, "ref", 0, lenet());
    make_table(&s, 1, 0.060, 0.002);
    assert_int_equal(s.table.n_rows, nn_graph_n_layers(s.graph));

    /* (2, 1, 28, 28), 6 filters of 5 x 5 with biases, (2, 6, 28, 28); no gradient of images. */
    const launch_table_row *row = row_of(&s, "conv1");
    const double conv1_bytes = 4.0 * (N * 784 + 156 + N * 6 * 784);
    assert_cost(row, LAUNCH_FORWARD, 1, N * 6 * 784 * 25, conv1_bytes);
    assert_cost(row, LAUNCH_BACKWARD_FILTER, 3, N * 6 * 784 * 25, conv1_bytes);
    assert_cost(row, LAUNCH_BACKWARD_DATA, 0, 0, 0);
    assert_close(launch_row_time_s(row), 4e-3);

    /* (2, 6, 14, 14), 16 filters of 6 x 5 x 5 with biases, (2, 16, 10, 10). */
    row = row_of(&s, "conv2");
    const double conv2_bytes = 4.0 * (N * 6 * 196 + 2416 + N * 1600);
    assert_cost(row, LAUNCH_FORWARD, 1, N * 1600 * 150, conv2_bytes);
    assert_cost(row, LAUNCH_BACKWARD_FILTER, 1, N * 1600 * 150, conv2_bytes);
    assert_cost(row, LAUNCH_BACKWARD_DATA, 2, N * 1600 * 150, conv2_bytes);

    /* x and y; then dy, y and dx. */
    row = row_of(&s, "relu1");
    assert_cost(row, LAUNCH_FORWARD, 1, 0, 4.0 * 2 * N * 6 * 196);
    assert_cost(row, LAUNCH_BACKWARD_DATA, 3, 0, 4.0 * 3 * N * 6 * 196);
    assert_cost(row, LAUNCH_BACKWARD_FILTER, 0, 0, 0);

    /* x, y and the places of the maxima; then dy, the places and dx. */
    row = row_of(&s, "pool1");
    assert_cost(row, LAUNCH_FORWARD, 1, 0, 4.0 * N * 6 * (784 + 196 + 196));
    assert_cost(row, LAUNCH_BACKWARD_DATA, 3, 0, 4.0 * N * 6 * (784 + 196 + 196));

    row = row_of(&s, "fc1");
    assert_cost(row, LAUNCH_FORWARD, 1, N * 400 * 120, 4.0 * (N * 400 + 401 * 120 + N * 120));
    assert_cost(row, LAUNCH_BACKWARD_FILTER, 1, N * 400 * 120,
                4.0 * (N * 120 + N * 400 + 401 * 120));
    assert_cost(row, LAUNCH_BACKWARD_DATA, 2, N * 400 * 120, 4.0 * (N * 120 + 401 * 120 + N * 400));
    close_net(&s);
}

static void lenet_sums_agree_with_the_step(void **state)
{
    subject s;
    double types_s = 0, rows_s = 0;

    (void)state;
    open_net(&s, "ref", 0, lenet());
    make_table(&s, 1, 0.060, 0.002);
    for (int i = 0; i < s.table.n_rows; i++) rows_s += launch_row_time_s(&s.table.rows[i]);
    for (int i = 0; i < s.table.n_types; i++) {
        types_s += launch_row_time_s(&s.table.types[i]);
        assert_true(i == 0 || launch_row_time_s(&s.table.types[i - 1]) >=
                                  launch_row_time_s(&s.table.types[i]));
    }
    /* 13 layers of 4 ms: 2 conv2d, 4 relu, 2 maxpool2d, flatten, 3 dense, loss. */
    assert_close(rows_s, 0.052);
    assert_close(types_s, 0.052);
    assert_close(launch_table_rest_s(&s.table), 0.060 - 0.052 - 0.002);
    assert_close(launch_table_outside_convolutions(&s.table), 1 - 0.008 / 0.060);
    assert_string_equal(s.table.types[0].type, "relu");
    assert_int_equal(s.table.types[0].n_layers, 4);
    assert_int_equal(s.table.n_types, 6);
    const double params = (double)nn_graph_params(s.graph)->n_elems;
    assert_close(s.table.update.time_s, 0.002);
    assert_close(s.table.update.bytes, 4 * 5 * params); /* gradient; weights, momentum twice */
    assert_int_equal(launch_multiply_adds(s.graph, s.net),
                     N * (2 * 117600 + 3 * (240000 + 48000 + 10080 + 840)));
    close_net(&s);
}

static void inference_has_forward_passes_only(void **state)
{
    subject s;

    (void)state;
    open_net(&s, "ref", 1, lenet());
    make_table(&s, 0, 0.020, 0);
    for (int i = 0; i < s.table.n_rows; i++) {
        const launch_table_row *row = &s.table.rows[i];
        assert_close(row->pass[LAUNCH_FORWARD].time_s, 1e-3);
        assert_cost(row, LAUNCH_BACKWARD_DATA, 0, 0, 0);
        assert_cost(row, LAUNCH_BACKWARD_FILTER, 0, 0, 0);
    }
    assert_close(s.table.update.bytes, 0);
    assert_int_equal(launch_multiply_adds(s.graph, s.net), N * 416520);
    close_net(&s);
}

static void layer_that_took_no_time_did_not_run(void **state)
{
    const launch_table_step step = {.step_s = 1e-3};
    subject s;

    (void)state;
    open_net(&s, "ref", 1, lenet());
    assert_ok(launch_table_make(s.graph, s.net, s.times, &step, &s.table));
    for (int i = 0; i < s.table.n_rows; i++) assert_cost(&s.table.rows[i], LAUNCH_FORWARD, 0, 0, 0);
    assert_close(launch_table_rest_s(&s.table), 1e-3);
    assert_close(launch_table_outside_convolutions(&s.table), 1);
    close_net(&s);
}

/* --- Other nets ------------------------------------------------------------------------------- */

static void gradient_that_nobody_reads_is_not_counted(void **state)
{
    const nn_shape image = {.n_dims = 3, .dim = {1, 4, 4}};
    nn_graph *g = NULL;
    subject s;

    (void)state;
    assert_ok(nn_graph_create(N, &image, &g));
    nn_value x = nn_add(g, "flatten", "flatten", 0, "{}"); /* of the images: no gradient either */
    x = nn_add(g, "dense", "fc1", x, "{out: 5}");
    x = nn_add(g, "dense", "fc2", x, "{out: 3}");
    nn_add(g, "softmax_xent", "loss", x, "{}");
    assert_ok(nn_graph_finish(g));
    open_net(&s, "ref", 0, g);
    make_table(&s, 1, 0.060, 0.002);
    assert_cost(row_of(&s, "flatten"), LAUNCH_BACKWARD_DATA, 0, 0, 0);
    assert_cost(row_of(&s, "fc1"), LAUNCH_BACKWARD_DATA, 0, 0, 0);
    assert_cost(row_of(&s, "fc1"), LAUNCH_BACKWARD_FILTER, 3, N * 16 * 5, 4.0 * (N * 21 + 17 * 5));
    assert_int_equal(launch_multiply_adds(s.graph, s.net), N * (2 * 16 * 5 + 3 * 5 * 3));
    close_net(&s);
}

static nn_graph *residual_net(void)
{
    const nn_shape image = {.n_dims = 3, .dim = {3, 6, 6}};
    nn_graph *g = NULL;

    assert_ok(nn_graph_create(N, &image, &g));
    nn_value x = nn_add(g, "conv2d", "conv1", 0, "{out: 16, kernel: 3, pad: 1, bias: false}");
    x = nn_add(g, "batchnorm2d", "bn1", x, "{}");
    const nn_value stem = nn_add(g, "relu", "relu1", x, "{}");
    x = nn_add(g, "conv2d", "conv2", stem, "{out: 16, kernel: 3, pad: 1, bias: false}");
    x = nn_add(g, "batchnorm2d", "bn2", x, "{}");
    const nn_value both[] = {x, stem};
    x = nn_add_n(g, "add", "add", 2, both, "{}");
    x = nn_add(g, "relu", "relu2", x, "{}");
    x = nn_add(g, "flatten", "flatten", x, "{}");
    x = nn_add(g, "dense", "fc", x, "{out: 3}");
    nn_add(g, "softmax_xent", "loss", x, "{}");
    assert_ok(nn_graph_finish(g));
    return g;
}

static void chain_is_one_row_with_what_enters_and_leaves_it(void **state)
{
    enum { PLANES = N * 16 * 36, SAVED = 4 * 16, PARAMS = 4 * 16, TRAINED = 2 * 16 };
    subject s;

    (void)state;
    open_net(&s, "cpu", 0, residual_net());
    make_table(&s, 1, 0.060, 0.002);
    for (int i = 0; i < s.table.n_rows; i++) {
        const launch_table_row *row = &s.table.rows[i];
        assert_int_equal(row->runs_at, nn_net_runs_at(s.net, i));
        if (row->runs_at != i) assert_close(launch_row_time_s(row), 0);
    }
    const launch_table_row *row = row_of(&s, "relu1");
    assert_string_equal(row->type, "batchnorm2d+relu");
    assert_int_equal(row_of(&s, "bn1")->runs_at, row->layer_idx);
    /* x, y; then x, y, dy, dx: nothing between norm and rectifier. */
    assert_cost(row, LAUNCH_FORWARD, 1, 0, 4.0 * (2 * PLANES + PARAMS + SAVED));
    assert_cost(row, LAUNCH_BACKWARD_DATA, 3, 0, 4.0 * (3 * PLANES + PARAMS + TRAINED + SAVED));

    row = row_of(&s, "relu2");
    assert_string_equal(row->type, "batchnorm2d+add+relu");
    assert_int_equal(row_of(&s, "add")->runs_at, row->layer_idx);
    assert_cost(row, LAUNCH_FORWARD, 1, 0, 4.0 * (3 * PLANES + PARAMS + SAVED));
    assert_cost(row, LAUNCH_BACKWARD_DATA, 3, 0, 4.0 * (5 * PLANES + PARAMS + TRAINED + SAVED));
    assert_false(row->has_convolution);
    close_net(&s);
}

static void without_chains_every_layer_has_its_own_row(void **state)
{
    subject s;

    (void)state;
    open_net(&s, "ref", 0, residual_net());
    make_table(&s, 1, 0.060, 0.002);
    for (int i = 0; i < s.table.n_rows; i++) {
        assert_int_equal(s.table.rows[i].runs_at, i);
        assert_string_equal(s.table.rows[i].type, nn_graph_layer_at(s.graph, i)->ops->name);
    }
    close_net(&s);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(figures_follow_from_time_work_and_bytes),
    cvy_unit_test(lenet_layers_have_the_work_and_bytes_of_their_shapes),
    cvy_unit_test(lenet_sums_agree_with_the_step),
    cvy_unit_test(inference_has_forward_passes_only),
    cvy_unit_test(layer_that_took_no_time_did_not_run),
    cvy_unit_test(gradient_that_nobody_reads_is_not_counted),
    cvy_unit_test(chain_is_one_row_with_what_enters_and_leaves_it),
    cvy_unit_test(without_chains_every_layer_has_its_own_row),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
