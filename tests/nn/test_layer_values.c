/* What single layers compute: values worked out by hand, statistics, outcomes. */
#include "tests/nn/layer_bench.h"

/* Outputs worked out by hand on the plane 1 2 3 4 / 5 6 7 8 / 9 10 11 12, with attributes that
 * differ between height and width. */
typedef struct known_answer {
    const char *type, *attrs;
    int64_t p, q;
    float y[12];
} known_answer;

static const known_answer known_answers[] = {
    /* The filter is 1 10 over 100 1000, the bias 0.5. */
    {"conv2d",
     "{out: 1, kernel: 2, stride: [1, 3], pad: [0, 1]}",
     2,
     2,
     {5010.5f, 8743.5f, 9050.5f, 13187.5f}},
    {"conv2d", "{out: 1, kernel: 2, dilation: [2, 3]}", 1, 1, {12941.5f}},
    {"maxpool2d",
     "{kernel: [1, 2], stride: [2, 1], pad: [0, 1]}",
     2,
     5,
     {1, 2, 3, 4, 4, 9, 10, 11, 12, 12}},
    {"maxpool2d", "{kernel: [2, 3], ceil_mode: true}", 2, 2, {7, 8, 11, 12}},
    {"avgpool2d",
     "{kernel: [1, 2], stride: [2, 1], pad: [0, 1]}",
     2,
     5,
     {0.5f, 1.5f, 2.5f, 3.5f, 2, 4.5f, 9.5f, 10.5f, 11.5f, 6}},
    {"avgpool2d",
     "{kernel: [1, 2], stride: [2, 1], pad: [0, 1], count_include_pad: no}",
     2,
     5,
     {1, 1.5f, 2.5f, 3.5f, 4, 9, 9.5f, 10.5f, 11.5f, 12}},
    {"avgpool2d", "{global: true}", 1, 1, {6.5f}},
};

static void windows_on_a_small_plane_give_known_answers(void **state)
{
    static const float filter[4] = {1, 10, 100, 1000};

    (void)state;
    for (size_t k = 0; k < sizeof known_answers / sizeof known_answers[0]; k++) {
        const known_answer *want = &known_answers[k];
        const layer_case test = {want->type, want->attrs, 1, {S4(1, 1, 3, 4)}, SMOOTH};
        bench b;
        bench_open(&b, &test);
        for (int i = 0; i < 12; i++) b.x[0][i] = (float)(i + 1);
        if (b.plan.n_params == 2) {
            memcpy(b.params[0], filter, sizeof filter);
            b.params[1][0] = 0.5f;
        }
        forward(&b);
        assert_int_equal(b.plan.out.dim[2], want->p);
        assert_int_equal(b.plan.out.dim[3], want->q);
        for (int i = 0; i < want->p * want->q; i++) {
            if (!(b.y[i] == want->y[i])) {
                fail_msg("%s %s: y[%d] is %g, expected %g", want->type, want->attrs, i,
                         (double)b.y[i], (double)want->y[i]);
            }
        }
        bench_close(&b);
    }
}

static void concat_puts_channels_side_by_side(void **state)
{
    static const layer_case test = {"concat", "", 2, {S4(2, 1, 1, 2), S4(2, 2, 1, 2)}, SMOOTH};
    static const float want[] = {0, 1, 10, 11, 12, 13, 2, 3, 14, 15, 16, 17};
    bench b;

    (void)state;
    bench_open(&b, &test);
    for (int i = 0; i < 4; i++) b.x[0][i] = (float)i;
    for (int i = 0; i < 8; i++) b.x[1][i] = (float)(10 + i);
    forward(&b);
    assert_int_equal(b.plan.out.dim[1], 3);
    assert_memory_equal(b.y, want, sizeof want);
    bench_close(&b);
}

static void declared_parameters_are_torchvisions(void **state)
{
    static const layer_case layers[] = {
        {"conv2d", "{out: 4, kernel: 3}", 1, {S4(2, 3, 5, 7)}, SMOOTH},
        {"dense", "{out: 4}", 1, {S2(3, 5)}, SMOOTH},
        {"batchnorm2d", "{}", 1, {S4(3, 2, 3, 5)}, SMOOTH},
    };
    static const char *const suffixes[3][5] = {
        {"weight", "bias"}, {"weight", "bias"}, {"weight", "bias", "running_mean", "running_var"}};

    (void)state;
    for (int k = 0; k < 3; k++) {
        bench b;
        int n = 0;
        bench_open(&b, &layers[k]);
        for (; suffixes[k][n] != NULL; n++) {
            assert_string_equal(b.plan.params[n].suffix, suffixes[k][n]);
        }
        assert_int_equal(b.plan.n_params, n);
        bench_close(&b);
    }
}

static void batchnorm_in_training_gives_its_statistics(void **state)
{
    static const layer_case test = {"batchnorm2d", "{momentum: 0.25}", 1, {S4(3, 2, 3, 5)}, SMOOTH};
    bench b;

    (void)state;
    bench_open(&b, &test);
    assert_true(b.plan.params[2].running_rate == 0.25 && b.plan.params[3].running_rate == 0.25);
    forward(&b);
    for (int64_t c = 0; c < 2; c++) {
        double mean = 0.0, squares = 0.0;
        for (int64_t i = 0; i < 45; i++) {
            mean += (double)b.x[0][(i / 15 * 2 + c) * 15 + i % 15] / 45.0;
        }
        for (int64_t i = 0; i < 45; i++) {
            const double d = (double)b.x[0][(i / 15 * 2 + c) * 15 + i % 15] - mean;
            squares += d * d;
        }
        assert_true(fabs((double)b.dparams[2][c] - mean) < 1e-6);
        assert_true(fabs((double)b.dparams[3][c] - squares / 44.0) < 1e-5);
    }
    bench_close(&b);
}

static void batchnorm_in_inference_uses_running_statistics(void **state)
{
    static const layer_case test = {"batchnorm2d", "{}", 1, {S4(1, 2, 1, 2)}, SMOOTH};
    bench b;

    (void)state;
    bench_open(&b, &test);
    for (int c = 0; c < 2; c++) {
        b.params[0][c] = 2.0f;
        b.params[1][c] = 1.0f;
        b.params[2][c] = 3.0f;
        b.params[3][c] = 4.0f;
    }
    nn_layer_call call = call_of(&b);
    call.is_training = 0;
    call.dparams = NULL;
    assert_ok(b.ops->forward(&call));
    for (int i = 0; i < 4; i++) {
        const double want = 2.0 * ((double)b.x[0][i] - 3.0) / sqrt(4.0 + 1e-5) + 1.0;
        assert_true(fabs((double)b.y[i] - want) < 1e-5);
    }
    bench_close(&b);
}

static void dropout_in_inference_copies(void **state)
{
    static const layer_case test = {"dropout", "0.9", 1, {S2(3, 7)}, SMOOTH};
    bench b;

    (void)state;
    bench_open(&b, &test);
    nn_layer_call call = call_of(&b);
    call.is_training = 0;
    assert_ok(b.ops->forward(&call));
    assert_memory_equal(b.y, b.x[0], bytes_of(&b.plan.out));
    bench_close(&b);
}

static void softmax_xent_fills_the_outcome(void **state)
{
    static const layer_case test = {"softmax_xent", "", 1, {S2(2, 7)}, SMOOTH};
    bench b;

    (void)state;
    bench_open(&b, &test);
    for (int i = 0; i < 14; i++) b.x[0][i] = (float)(i % 7);
    b.labels[0] = 6;
    b.labels[1] = 1;
    forward(&b);
    double sum = 0.0;
    for (int j = 0; j < 7; j++) sum += exp((double)j);
    assert_int_equal(b.predicted[0], 6);
    assert_int_equal(b.predicted[1], 6);
    assert_int_equal(b.rank[0], 0);
    assert_int_equal(b.rank[1], 5);
    assert_true(fabs((double)b.loss[0] - (log(sum) - 6.0)) < 1e-6);
    assert_true(fabs((double)b.loss[1] - (log(sum) - 1.0)) < 1e-6);
    assert_true(fabs((double)b.confidence[1] - exp(6.0) / sum) < 1e-6);
    bench_close(&b);
}

static void softmax_xent_with_a_wrong_label_reports_it(void **state)
{
    static const layer_case test = {"softmax_xent", "", 1, {S2(2, 7)}, SMOOTH};
    bench b;

    (void)state;
    bench_open(&b, &test);
    const nn_layer_call call = call_of(&b);
    b.labels[1] = 7;
    assert_status(b.ops->forward(&call), CVY_ERR_BAD_DATA);
    test_log_expect("label 7 of sample 1 in the minibatch; expected 0 to 6");
    b.labels[1] = -1;
    assert_status(b.ops->forward(&call), CVY_ERR_BAD_DATA);
    test_log_expect("label -1 of sample 1");
    bench_close(&b);
}

static void registry_finds_names_and_suggests_the_nearest(void **state)
{
    (void)state;
    for (int i = 0; i < nn_layer_count(); i++) {
        const nn_layer_ops *ops = nn_layer_at(i);
        assert_ptr_equal(nn_layer_find(ops->name), ops);
        assert_non_null(ops->help);
        assert_non_null(ops->shape);
        assert_non_null(ops->forward);
        assert_non_null(ops->backward);
        assert_true(ops->min_inputs >= 1 && ops->max_inputs <= NN_LAYER_MAX_INPUTS);
    }
    assert_null(nn_layer_at(-1));
    assert_null(nn_layer_at(nn_layer_count()));
    assert_null(nn_layer_find("conv"));
    assert_string_equal(nn_layer_nearest("conv2"), "conv2d");
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(windows_on_a_small_plane_give_known_answers),
    cvy_unit_test(concat_puts_channels_side_by_side),
    cvy_unit_test(declared_parameters_are_torchvisions),
    cvy_unit_test(batchnorm_in_training_gives_its_statistics),
    cvy_unit_test(batchnorm_in_inference_uses_running_statistics),
    cvy_unit_test(dropout_in_inference_copies),
    cvy_unit_test(softmax_xent_fills_the_outcome),
    cvy_unit_test(softmax_xent_with_a_wrong_label_reports_it),
    cvy_unit_test(registry_finds_names_and_suggests_the_nearest),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
