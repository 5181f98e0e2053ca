#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/node.h"
#include "nn/graph.h"
#include "nn/optimizer.h"

#include <math.h>
#include <string.h>

/* A small net with every kind of parameter: conv1.weight, conv1.bias, bn1 (weight, bias and two
 * statistics), fc, the tail. */
enum { MINIBATCH = 2, SEGMENT_STEP = 7 };

typedef struct arrays {
    nn_graph *graph;
    const nn_params *params;
    nn_backend *backend;
    float *grad, *momentum, *weights;
    size_t size_bytes;
} arrays;

static nn_graph *make_graph(void)
{
    const nn_shape image = {.n_dims = 3, .dim = {3, 8, 8}};
    nn_graph *g = NULL;

    assert_ok(nn_graph_create(MINIBATCH, &image, &g));
    nn_value x = nn_add(g, "conv2d", "conv1", 0, "{out: 5, kernel: 3}");
    x = nn_add(g, "batchnorm2d", "bn1", x, "{momentum: 0.25}");
    x = nn_add(g, "flatten", "flatten", x, "{}");
    x = nn_add(g, "dense", "fc", x, "{out: 4}");
    nn_add(g, "softmax_xent", "loss", x, "{}");
    assert_ok(nn_graph_finish(g));
    return g;
}

static float *make_array(const arrays *a)
{
    float *array = cvy_alloc_zero(1, a->size_bytes);
    assert_non_null(array);
    return array;
}

static void open_arrays(arrays *a)
{
    const nn_backend_options options = {.n_threads = 1};

    *a = (arrays){.graph = make_graph()};
    a->params = nn_graph_params(a->graph);
    a->size_bytes = (size_t)a->params->n_elems * sizeof(float);
    assert_ok(nn_backend_open("ref", &options, &a->backend));
    a->grad = make_array(a);
    a->momentum = make_array(a);
    a->weights = make_array(a);
    /* Distinct values at every place but the gaps. */
    for (int i = 0; i < a->params->n; i++) {
        const nn_param *param = &a->params->entry[i];
        for (int64_t j = param->offset; j < param->offset + param->n_elems; j++) {
            a->grad[j] = (float)(j % 13) - 6.5f;
            a->weights[j] = 0.25f * (float)(j % 7) - 0.8f;
            a->momentum[j] = 0.125f * (float)(j % 5);
        }
    }
}

static void close_arrays(arrays *a)
{
    cvy_free(a->grad);
    cvy_free(a->momentum);
    cvy_free(a->weights);
    nn_backend_close(&a->backend);
    nn_graph_destroy(&a->graph);
}

static cvy_node *parse(const char *text)
{
    cvy_node *node = NULL;
    assert_ok(cvy_node_parse(text, strlen(text), "job.yaml", &node));
    return node;
}

static nn_optimizer *create(const char *text)
{
    cvy_node *section = parse(text);
    nn_optimizer *optimizer = NULL;
    assert_ok(nn_optimizer_create(section, &optimizer));
    cvy_node_destroy(&section); /* nothing of the optimizer points into it */
    return optimizer;
}

static const nn_update one_update = {.lr = 0.1, .step = 3, .grad_scale = 0.5, .stat_scale = 0.25};

static void apply(const nn_optimizer *optimizer, arrays *a)
{
    assert_ok(nn_optimizer_update(optimizer, a->backend, a->params, &one_update, 0,
                                  a->params->n_elems, a->grad, &a->momentum, a->weights));
}

/* What sgd should make of element `offset + i` of a parameter, in double. */
typedef struct sgd_case {
    double momentum, decay;
    int is_nesterov;
} sgd_case;

static void assert_sgd(const arrays *before, const arrays *after, const char *name,
                       const sgd_case *c)
{
    const nn_param *param = nn_params_find(before->params, name);

    assert_non_null(param);
    for (int64_t i = param->offset; i < param->offset + param->n_elems; i++) {
        const double w = (double)before->weights[i];
        const double g = one_update.grad_scale * (double)before->grad[i] + c->decay * w;
        const double m = c->momentum * (double)before->momentum[i] + g;
        const double move = c->is_nesterov ? g + c->momentum * m : m;
        if (fabs((double)after->weights[i] - (w - one_update.lr * move)) > 1e-6) {
            fail_msg("%s[%lld] became %g, expected %g", name, (long long)(i - param->offset),
                     (double)after->weights[i], w - one_update.lr * move);
        }
        if (c->momentum > 0 && fabs((double)after->momentum[i] - m) > 2e-6) {
            fail_msg("momentum of %s[%lld] became %g, expected %g", name,
                     (long long)(i - param->offset), (double)after->momentum[i], m);
        }
    }
}

/* Run one update of a fresh net and check all trained parameters against their cases. */
static void check_update(const char *text, const sgd_case *weight, const sgd_case *norm,
                         const sgd_case *bias)
{
    arrays before, after;
    nn_optimizer *optimizer = create(text);

    open_arrays(&before);
    open_arrays(&after);
    apply(optimizer, &after);
    assert_sgd(&before, &after, "conv1.weight", weight);
    assert_sgd(&before, &after, "fc.weight", weight);
    assert_sgd(&before, &after, "bn1.weight", norm);
    assert_sgd(&before, &after, "bn1.bias", norm);
    assert_sgd(&before, &after, "conv1.bias", bias);
    assert_sgd(&before, &after, "fc.bias", bias);
    close_arrays(&before);
    close_arrays(&after);
    nn_optimizer_destroy(&optimizer);
}

static void sgd_by_default_has_momentum_and_no_decay(void **state)
{
    const sgd_case all = {.momentum = 0.9};
    (void)state;
    check_update("{}", &all, &all, &all);
}

static void sgd_decays_all_parameters_like_pytorch(void **state)
{
    const sgd_case all = {.momentum = 0.8, .decay = 0.05, .is_nesterov = 1};
    (void)state;
    check_update("{type: sgd, momentum: 0.8, weight_decay: 0.05, nesterov: true}", &all, &all,
                 &all);
}

static void sgd_without_norm_decay_spares_batch_norm(void **state)
{
    const sgd_case decayed = {.momentum = 0.9, .decay = 0.05}, spared = {.momentum = 0.9};
    (void)state;
    check_update("{weight_decay: 0.05, decay_norm: false}", &decayed, &spared, &decayed);
}

static void sgd_without_bias_decay_spares_biases(void **state)
{
    const sgd_case decayed = {.momentum = 0.9, .decay = 0.05}, spared = {.momentum = 0.9};
    (void)state;
    check_update("{weight_decay: 0.05, decay_bias: false}", &decayed, &decayed, &spared);
}

static void sgd_without_momentum_leaves_the_state(void **state)
{
    const sgd_case all = {.momentum = 0};
    arrays before, after;
    nn_optimizer *optimizer = create("{momentum: 0}");

    (void)state;
    check_update("{momentum: 0}", &all, &all, &all);
    open_arrays(&before);
    open_arrays(&after);
    apply(optimizer, &after);
    assert_memory_equal(before.momentum, after.momentum, before.size_bytes);
    close_arrays(&before);
    close_arrays(&after);
    nn_optimizer_destroy(&optimizer);
}

static void running_statistics_are_averaged_over_replicas(void **state)
{
    arrays before, after;
    nn_optimizer *optimizer = create("{weight_decay: 0.1}");

    (void)state;
    open_arrays(&before);
    open_arrays(&after);
    apply(optimizer, &after);
    const nn_param *param = nn_params_find(before.params, "bn1.running_var");
    assert_non_null(param);
    for (int64_t i = param->offset; i < param->offset + param->n_elems; i++) {
        const double w = (double)before.weights[i];
        const double mean = one_update.stat_scale * (double)before.grad[i];
        assert_true(fabs((double)after.weights[i] - (w + 0.25 * (mean - w))) < 1e-6);
        assert_true(after.momentum[i] == before.momentum[i]);
    }
    close_arrays(&before);
    close_arrays(&after);
    nn_optimizer_destroy(&optimizer);
}

static void tail_is_copied_and_gaps_stay_zero(void **state)
{
    arrays a;
    nn_optimizer *optimizer = create("{weight_decay: 0.1}");

    (void)state;
    open_arrays(&a);
    apply(optimizer, &a);
    for (int i = 0; i < NN_TAIL_N; i++) {
        assert_true(a.weights[a.params->tail_offset + i] == a.grad[a.params->tail_offset + i]);
    }
    int64_t n_gaps = 0;
    for (int i = 0; i < a.params->n; i++) {
        const nn_param *param = &a.params->entry[i];
        const int64_t next = i + 1 < a.params->n ? a.params->entry[i + 1].offset
                                                 : a.params->n_elems;
        for (int64_t j = param->offset + param->n_elems; j < next; j++, n_gaps++) {
            assert_true(a.weights[j] == 0.0f && a.momentum[j] == 0.0f);
        }
    }
    assert_true(n_gaps > 0);
    close_arrays(&a);
    nn_optimizer_destroy(&optimizer);
}

/* Whoever owns which segment, the bits are those of one update of everything. */
static void segments_of_any_cut_give_the_same_bits(void **state)
{
    arrays whole, cut;
    nn_optimizer *optimizer = create("{weight_decay: 0.1, nesterov: true}");

    (void)state;
    open_arrays(&whole);
    open_arrays(&cut);
    apply(optimizer, &whole);
    for (int64_t first = 0; first < cut.params->n_elems; first += SEGMENT_STEP) {
        const int64_t left = cut.params->n_elems - first;
        float *momentum = cut.momentum + first;
        assert_ok(nn_optimizer_update(optimizer, cut.backend, cut.params, &one_update, first,
                                      left < SEGMENT_STEP ? left : SEGMENT_STEP, cut.grad + first,
                                      &momentum, cut.weights + first));
    }
    assert_memory_equal(whole.weights, cut.weights, whole.size_bytes);
    assert_memory_equal(whole.momentum, cut.momentum, whole.size_bytes);
    close_arrays(&whole);
    close_arrays(&cut);
    nn_optimizer_destroy(&optimizer);
}

static void wrong_sections_are_refused_with_place(void **state)
{
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"{type: sdg}", "job.yaml:1:8: no optimizer 'sdg'; did you mean 'sgd'?"},
        {"{momentun: 0.9}", "unknown key 'momentun'"},
        {"{momentum: 1.5}", "job.yaml:1:12: momentum is '1.5'"},
        {"{type: sgd, lr: 0.1}", "job.yaml:1:17: optimizer has no lr: the learning rate is "
                                 "schedule.lr"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cvy_node *section = parse(cases[i].text);
        nn_optimizer *optimizer = NULL;
        test_log_expect(cases[i].part);
        assert_status(nn_optimizer_create(section, &optimizer), CVY_ERR_CONFIG);
        assert_null(optimizer);
        cvy_node_destroy(&section);
    }
}

static void defaults_become_part_of_the_section(void **state)
{
    cvy_node *section = parse("{nesterov: true}");
    nn_optimizer *optimizer = NULL;

    (void)state;
    assert_ok(nn_optimizer_create(section, &optimizer));
    assert_string_equal(cvy_node_text(cvy_node_find(section, "type")), "sgd");
    assert_string_equal(cvy_node_text(cvy_node_find(section, "momentum")), "0.9");
    assert_string_equal(cvy_node_text(cvy_node_find(section, "decay_norm")), "true");
    nn_optimizer_destroy(&optimizer);
    cvy_node_destroy(&section);
}

static void without_section_sgd_is_taken(void **state)
{
    nn_optimizer *optimizer = NULL;

    (void)state;
    assert_ok(nn_optimizer_create(NULL, &optimizer));
    assert_string_equal(nn_optimizer_get_ops(optimizer)->name, "sgd");
    assert_string_equal(nn_optimizer_get_ops(optimizer)->state_name[0], "momentum_buffer");
    nn_optimizer_destroy(&optimizer);
    assert_null(optimizer);
    nn_optimizer_destroy(&optimizer);
}

static void every_registered_optimizer_is_whole(void **state)
{
    (void)state;
    assert_true(nn_optimizer_count() >= 1);
    for (int i = 0; i < nn_optimizer_count(); i++) {
        const nn_optimizer_ops *ops = nn_optimizer_at(i);
        assert_non_null(ops->name);
        assert_non_null(ops->help);
        assert_non_null(ops->update);
        assert_string_equal(ops->options->tag_key, "type");
        assert_true(ops->n_states >= 0 && ops->n_states <= NN_OPTIMIZER_MAX_STATES);
        for (int j = 0; j < ops->n_states; j++) assert_non_null(ops->state_name[j]);
    }
    assert_null(nn_optimizer_at(-1));
    assert_null(nn_optimizer_at(nn_optimizer_count()));
}

static void creating_without_memory_reports_it_and_leaks_nothing(void **state)
{
    cvy_status status = CVY_ERR_NO_MEMORY;
    cvy_alloc_counts before, after;

    (void)state;
    test_log_expect(": "); /* whoever misses the memory says so */
    cvy_alloc_count(&before);
    for (int64_t k = 0; status != CVY_OK; k++) {
        cvy_node *section = parse("{momentum: 0.5}");
        nn_optimizer *optimizer = NULL;
        assert_true(k < 1000);
        cvy_alloc_fail_at(k);
        status = nn_optimizer_create(section, &optimizer);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        nn_optimizer_destroy(&optimizer);
        cvy_node_destroy(&section);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(sgd_by_default_has_momentum_and_no_decay),
        cvy_unit_test(sgd_decays_all_parameters_like_pytorch),
        cvy_unit_test(sgd_without_norm_decay_spares_batch_norm),
        cvy_unit_test(sgd_without_bias_decay_spares_biases),
        cvy_unit_test(sgd_without_momentum_leaves_the_state),
        cvy_unit_test(running_statistics_are_averaged_over_replicas),
        cvy_unit_test(tail_is_copied_and_gaps_stay_zero),
        cvy_unit_test(segments_of_any_cut_give_the_same_bits),
        cvy_unit_test(wrong_sections_are_refused_with_place),
        cvy_unit_test(defaults_become_part_of_the_section),
        cvy_unit_test(without_section_sgd_is_taken),
        cvy_unit_test(every_registered_optimizer_is_whole),
        cvy_unit_test(creating_without_memory_reports_it_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
