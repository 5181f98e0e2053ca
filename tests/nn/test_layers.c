/* Every registered layer against central differences on `ref`: gradients of the scalar
 *
 *     L = sum over i of g[i] y[i]      (double; g random; for a loss layer g = 1)
 *
 * with respect to every input and every trained parameter. Values lie on a grid of 1/64 and the
 * differences are taken over one and two grid steps, so the moved values are exact in float; the
 * five-point formula has an error of order h^4. */
#include "tests/nn/layer_bench.h"

#include <stdio.h>

static const layer_case cases[] = {
    {"conv2d", "{out: 4, kernel: 3, stride: 1, pad: 1}", 1, {S4(2, 3, 5, 7)}, SMOOTH},
    {"conv2d",
     "{out: 5, kernel: [3, 1], stride: [2, 1], pad: [0, 1]}",
     1,
     {S4(3, 2, 7, 4)},
     SMOOTH},
    {"conv2d", "{out: 6, kernel: 3, groups: 2, pad: 1, bias: no}", 1, {S4(2, 4, 5, 3)}, SMOOTH},
    {"conv2d", "{out: 3, kernel: 3, groups: 3, stride: 2, pad: 1}", 1, {S4(1, 3, 6, 5)}, SMOOTH},
    {"conv2d", "{out: 2, kernel: [2, 3], dilation: [3, 2], pad: 2}", 1, {S4(2, 2, 5, 6)}, SMOOTH},
    {"conv2d", "{out: 7, kernel: 1, bias: false}", 1, {S4(3, 5, 1, 3)}, SMOOTH},
    {"batchnorm2d", "{}", 1, {S4(3, 2, 3, 5)}, SMOOTH},
    {"batchnorm2d", "{eps: 0.1}", 1, {S4(5, 3, 1, 1)}, SMOOTH},
    {"relu", "", 1, {S4(2, 3, 5, 1)}, APART},
    {"relu", "", 1, {S2(3, 7)}, APART},
    {"maxpool2d", "{kernel: 2}", 1, {S4(2, 3, 5, 6)}, APART},
    {"maxpool2d", "{kernel: 3, stride: 2, pad: 1}", 1, {S4(1, 2, 7, 5)}, APART},
    {"maxpool2d", "{kernel: [3, 2], stride: [1, 2], pad: [1, 0]}", 1, {S4(2, 1, 4, 5)}, APART},
    {"maxpool2d", "{kernel: 3, stride: 2, ceil_mode: true}", 1, {S4(1, 2, 6, 8)}, APART},
    {"avgpool2d", "{kernel: 2}", 1, {S4(2, 3, 5, 4)}, SMOOTH},
    {"avgpool2d", "{kernel: 3, stride: 2, pad: 1}", 1, {S4(1, 2, 7, 6)}, SMOOTH},
    {"avgpool2d",
     "{kernel: 3, stride: [1, 2], pad: 1, count_include_pad: false}",
     1,
     {S4(2, 1, 4, 5)},
     SMOOTH},
    {"avgpool2d", "{global: true}", 1, {S4(3, 4, 5, 3)}, SMOOTH},
    {"dense", "{out: 4}", 1, {S2(3, 5)}, SMOOTH},
    {"dense", "{out: 1, bias: no, init: normal}", 1, {S2(2, 7)}, SMOOTH},
    {"add", "", 2, {S4(2, 3, 1, 5), S4(2, 3, 1, 5)}, SMOOTH},
    {"add", "", 3, {S2(3, 7), S2(3, 7), S2(3, 7)}, SMOOTH},
    {"concat", "", 2, {S4(2, 3, 2, 3), S4(2, 1, 2, 3)}, SMOOTH},
    {"concat", "", 3, {S2(3, 2), S2(3, 5), S2(3, 1)}, SMOOTH},
    {"dropout", "{rate: 0.3}", 1, {S4(2, 3, 5, 3)}, SMOOTH},
    {"dropout", "{rate: 0}", 1, {S2(2, 3)}, SMOOTH},
    {"flatten", "", 1, {S4(3, 2, 3, 5)}, SMOOTH},
    {"softmax_xent", "", 1, {S2(5, 7)}, SMOOTH},
    {"softmax_xent", "{label_smoothing: 0.1}", 1, {S2(3, 6)}, SMOOTH},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static double loss_at(bench *b)
{
    double sum = 0.0;

    forward(b);
    for (int64_t i = 0; i < nn_shape_n_elems(&b->plan.out); i++) {
        sum += (double)b->dy[i] * (double)b->y[i];
    }
    return sum;
}

static double difference_at(bench *b, float *value)
{
    const float at = *value;
    double loss[5];

    for (int i = 0; i < 5; i++) {
        *value = at + (float)(i - 2) * grid;
        loss[i] = loss_at(b);
    }
    *value = at;
    return (8.0 * (loss[3] - loss[1]) - (loss[4] - loss[0])) / (12.0 * (double)grid);
}

/* Outputs are rounded to 24 bits and divided by a step of 1/64: 2e-4 is some ten times the error
 * seen, and a wrong factor or a missing term is far larger. */
static void check_gradient(bench *b, const char *what, int64_t n, float *value, const float *got)
{
    for (int64_t i = 0; i < n; i++) {
        const double want = difference_at(b, &value[i]);
        if (!(fabs((double)got[i] - want) <= 2e-4 * (1.0 + fabs(want)))) {
            fail_msg("%s %s: gradient of %s[%lld] is %.7g, difference %.7g", b->test->type,
                     b->test->attrs, what, (long long)i, (double)got[i], want);
        }
    }
}

static void check_case(const layer_case *test)
{
    bench b;
    char what[32];

    bench_open(&b, test);
    forward(&b);
    backward(&b);
    for (int i = 0; i < test->n_inputs; i++) {
        snprintf(what, sizeof what, "input %d", i);
        check_gradient(&b, what, nn_shape_n_elems(&test->in[i]), b.x[i], b.dx[i]);
    }
    for (int i = 0; i < b.plan.n_params; i++) {
        const nn_param_decl *decl = &b.plan.params[i];
        if (decl->kind == NN_PARAM_RUNNING) continue;
        check_gradient(&b, decl->suffix, nn_shape_n_elems(&decl->shape), b.params[i], b.dparams[i]);
    }
    bench_close(&b);
}

static void gradient_of_every_case_equals_differences(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) check_case(&cases[i]);
}

static void every_registered_layer_has_a_case(void **state)
{
    (void)state;
    assert_true(nn_layer_count() > 0);
    for (int i = 0; i < nn_layer_count(); i++) {
        int n = 0;
        for (int j = 0; j < N_CASES; j++) n += strcmp(cases[j].type, nn_layer_at(i)->name) == 0;
        if (n == 0) fail_msg("layer %s has no gradient case", nn_layer_at(i)->name);
    }
}

/* With `accumulate` the gradient is added to what is there. */
static void accumulate_adds_to_the_gradient_of_every_input(void **state)
{
    static const int all[3] = {1, 1, 1};

    (void)state;
    for (int k = 0; k < N_CASES; k++) {
        bench b;
        bench_open(&b, &cases[k]);
        forward(&b);
        backward(&b);
        float *plain[3];
        for (int i = 0; i < b.test->n_inputs; i++) {
            const int64_t n = nn_shape_n_elems(&b.test->in[i]);
            plain[i] = b.dx[i];
            b.dx[i] = zeros((size_t)n * sizeof(float));
            for (int64_t j = 0; j < n; j++) b.dx[i][j] = 2.0f;
        }
        nn_layer_call call = backward_call_of(&b);
        call.accumulate = all;
        assert_ok(b.ops->backward(&call));
        for (int i = 0; i < b.test->n_inputs; i++) {
            for (int64_t j = 0; j < nn_shape_n_elems(&b.test->in[i]); j++) {
                assert_true(fabsf(b.dx[i][j] - 2.0f - plain[i][j]) <=
                            2e-6f * (1.0f + fabsf(plain[i][j])));
            }
            cvy_free(plain[i]);
        }
        bench_close(&b);
    }
}

/* Gradients nobody wants may be left out, and the rest stays the same bits. */
static void gradients_left_out_do_not_change_the_others(void **state)
{
    (void)state;
    for (int k = 0; k < N_CASES; k++) {
        bench b;
        float *plain[NN_LAYER_MAX_PARAMS], *no_dx[3] = {NULL, NULL, NULL};
        bench_open(&b, &cases[k]);
        const int wants_dx = (b.plan.needs & NN_NEEDS_DX) != 0 || b.plan.n_params == 0;
        forward(&b);
        backward(&b);
        for (int i = 0; i < b.plan.n_params; i++) {
            plain[i] = b.dparams[i];
            b.dparams[i] = zeros(bytes_of(&b.plan.params[i].shape));
            if (b.plan.params[i].kind == NN_PARAM_RUNNING) {
                memcpy(b.dparams[i], plain[i], bytes_of(&b.plan.params[i].shape));
            }
        }
        nn_layer_call call = backward_call_of(&b);
        if (!wants_dx) call.dx = no_dx;
        if (b.test->n_inputs > 1) { /* of several inputs, the first is left out */
            no_dx[1] = b.dx[1];
            no_dx[2] = b.dx[2];
            call.dx = no_dx;
        }
        assert_ok(b.ops->backward(&call));
        for (int i = 0; i < b.plan.n_params; i++) {
            assert_memory_equal(b.dparams[i], plain[i], bytes_of(&b.plan.params[i].shape));
            cvy_free(plain[i]);
        }
        bench_close(&b);
    }
}

static void in_place_gives_the_same_bits(void **state)
{
    int n_checked = 0;

    (void)state;
    for (int k = 0; k < N_CASES; k++) {
        bench b;
        bench_open(&b, &cases[k]);
        if (b.plan.can_run_in_place) {
            const size_t size_bytes = bytes_of(&b.plan.out);
            float *const y = b.y, *const dx0 = b.dx[0];
            forward(&b);
            backward(&b);
            b.y = b.x[0];
            b.dx[0] = b.dy;
            forward(&b);
            assert_memory_equal(b.y, y, size_bytes);
            backward(&b);
            assert_memory_equal(b.dx[0], dx0, size_bytes);
            b.y = y;
            b.dx[0] = dx0;
            n_checked++;
        }
        bench_close(&b);
    }
    assert_true(n_checked >= 4);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(gradient_of_every_case_equals_differences),
    cvy_unit_test(every_registered_layer_has_a_case),
    cvy_unit_test(accumulate_adds_to_the_gradient_of_every_input),
    cvy_unit_test(gradients_left_out_do_not_change_the_others),
    cvy_unit_test(in_place_gives_the_same_bits),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
