/* Every registered layer against central differences on `ref`: gradients of the scalar
 *
 *     L = sum over i of g[i] y[i]      (double; g random; for a loss layer g = 1)
 *
 * with respect to every input and every trained parameter. Values lie on a grid of 1/64 and the
 * differences are taken over one and two grid steps, so the moved values are exact in float; the
 * five-point formula has an error of order h^4. */
#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "nn/backend.h"
#include "nn/layer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* SMOOTH: normal values. APART: all different by five grid steps and never within two of 0, so that
 * neither a rectifier's kink nor a tie of maxima lies in reach of the differences. */
typedef enum value_style { SMOOTH, APART } value_style;

typedef struct layer_case {
    const char *type, *attrs;
    int n_inputs;
    nn_shape in[3];
    value_style style;
} layer_case;

#define S2(a, b)                                                                                   \
    {                                                                                              \
        .n_dims = 2, .dim = { a, b }                                                               \
    }
#define S4(a, b, c, d)                                                                             \
    {                                                                                              \
        .n_dims = 4, .dim = { a, b, c, d }                                                         \
    }

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
enum { N_CASES = sizeof cases / sizeof cases[0], MAX_N = 8 };

static const float grid = 1.0f / 64.0f;

/* A layer with all its memory, outside of any net. */
typedef struct bench {
    const layer_case *test;
    nn_backend *backend;
    const nn_layer_ops *ops;
    cvy_node *node;
    void *attrs;
    nn_layer_plan plan;
    float *x[3], *dx[3];
    float *y, *dy;
    float *params[NN_LAYER_MAX_PARAMS], *dparams[NN_LAYER_MAX_PARAMS];
    void *saved, *workspace;
    int32_t labels[MAX_N], predicted[MAX_N], rank[MAX_N];
    float loss[MAX_N], confidence[MAX_N];
    nn_outcome outcome;
} bench;

static size_t bytes_of(const nn_shape *shape)
{
    return (size_t)nn_shape_n_elems(shape) * sizeof(float);
}

static void *zeros(size_t size_bytes)
{
    void *block = cvy_alloc_zero(size_bytes > 0 ? size_bytes : 1, 1);

    assert_non_null(block);
    return block;
}

static void fill_smooth(cvy_rng *rng, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) out[i] = grid * roundf(cvy_rng_normal(rng) / grid);
}

static void fill_apart(cvy_rng *rng, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        const float level = 5.0f * ((float)i - floorf((float)n / 2.0f)) + 2.5f;
        out[i] = grid * (level > 0.0f ? ceilf(level) : floorf(level));
    }
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t j = cvy_rng_below(rng, (uint32_t)i + 1);
        const float kept = out[i];
        out[i] = out[j];
        out[j] = kept;
    }
}

static void bench_fill(bench *b, uint64_t seed)
{
    cvy_rng rng = cvy_rng_open(seed, CVY_RNG_TEST, 1, 0);

    for (int i = 0; i < b->test->n_inputs; i++) {
        const int64_t n = nn_shape_n_elems(&b->test->in[i]);
        if (b->test->style == APART) {
            fill_apart(&rng, n, b->x[i]);
        } else {
            fill_smooth(&rng, n, b->x[i]);
        }
    }
    for (int i = 0; i < b->plan.n_params; i++) {
        fill_smooth(&rng, nn_shape_n_elems(&b->plan.params[i].shape), b->params[i]);
    }
    const int64_t n_out = nn_shape_n_elems(&b->plan.out);
    fill_smooth(&rng, n_out, b->dy);
    for (int64_t i = 0; b->plan.is_loss && i < n_out; i++) b->dy[i] = 1.0f;
    for (int64_t i = 0; i < b->test->in[0].dim[0]; i++) {
        b->labels[i] = (int32_t)cvy_rng_below(&rng, (uint32_t)b->test->in[0].dim[1]);
    }
}

static void bench_open(bench *b, const layer_case *test)
{
    const nn_backend_options options = {.n_threads = 1};
    cvy_reason reason = {.text = ""};

    memset(b, 0, sizeof *b);
    b->test = test;
    b->ops = nn_layer_find(test->type);
    assert_non_null(b->ops);
    assert_ok(nn_backend_open("ref", &options, &b->backend));
    if (b->ops->attrs != NULL) {
        b->attrs = zeros(b->ops->attrs->struct_size);
        if (test->attrs[0] != '\0') {
            assert_ok(cvy_node_parse(test->attrs, strlen(test->attrs), test->type, &b->node));
        }
        assert_ok(cvy_config_read(b->ops->attrs, b->node, b->attrs));
    }
    assert_ok(b->ops->shape(b->attrs, test->in, test->n_inputs, &b->plan, &reason));
    for (int i = 0; i < test->n_inputs; i++) {
        b->x[i] = zeros(bytes_of(&test->in[i]));
        b->dx[i] = zeros(bytes_of(&test->in[i]));
    }
    b->y = zeros(bytes_of(&b->plan.out));
    b->dy = zeros(bytes_of(&b->plan.out));
    for (int i = 0; i < b->plan.n_params; i++) {
        b->params[i] = zeros(bytes_of(&b->plan.params[i].shape));
        b->dparams[i] = zeros(bytes_of(&b->plan.params[i].shape));
    }
    b->saved = zeros(b->plan.saved_bytes);
    b->workspace = zeros(
        b->ops->workspace_bytes == NULL
            ? 0
            : b->ops->workspace_bytes(b->backend, b->attrs, test->in, test->n_inputs, &b->plan));
    b->outcome = (nn_outcome){
        .loss = b->loss, .predicted = b->predicted, .rank = b->rank, .confidence = b->confidence};
    bench_fill(b, 1);
}

static void bench_close(bench *b)
{
    for (int i = 0; i < b->test->n_inputs; i++) {
        cvy_free(b->x[i]);
        cvy_free(b->dx[i]);
    }
    for (int i = 0; i < b->plan.n_params; i++) {
        cvy_free(b->params[i]);
        cvy_free(b->dparams[i]);
    }
    cvy_free(b->y);
    cvy_free(b->dy);
    cvy_free(b->saved);
    cvy_free(b->workspace);
    cvy_free(b->attrs);
    cvy_node_destroy(&b->node);
    nn_backend_close(&b->backend);
}

static const int no_accumulate[3] = {0, 0, 0};

static nn_layer_call call_of(bench *b)
{
    return (nn_layer_call){.backend = b->backend,
                           .attrs = b->attrs,
                           .plan = &b->plan,
                           .layer_idx = 3,
                           .is_training = 1,
                           .seed = 5,
                           .step = 6,
                           .replica = 7,
                           .n_inputs = b->test->n_inputs,
                           .in_shape = b->test->in,
                           .out_shape = &b->plan.out,
                           .x = (const float *const *)b->x,
                           .y = b->y,
                           .dx = b->dx,
                           .accumulate = no_accumulate,
                           .params = (const float *const *)b->params,
                           .dparams = b->dparams,
                           .saved = b->saved,
                           .workspace = b->workspace,
                           .labels = b->labels,
                           .outcome = &b->outcome,
                           .loss_scale = 1.0f};
}

/* As the net calls it: what was not asked for is not there. */
static nn_layer_call backward_call_of(bench *b)
{
    static const float *const nothing[3] = {NULL, NULL, NULL};
    nn_layer_call call = call_of(b);

    if ((b->plan.needs & NN_NEEDS_X) == 0) call.x = nothing;
    if ((b->plan.needs & NN_NEEDS_Y) == 0) call.y = NULL;
    if (!b->plan.is_loss) call.dy = b->dy;
    return call;
}

static void forward(bench *b)
{
    const nn_layer_call call = call_of(b);

    assert_ok(b->ops->forward(&call));
}

static void backward(bench *b)
{
    const nn_layer_call call = backward_call_of(b);

    assert_ok(b->ops->backward(&call));
}

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
    static const struct {
        const char *type, *suffix[4];
    } want[] = {{"conv2d", {"weight", "bias"}},
                {"dense", {"weight", "bias"}},
                {"batchnorm2d", {"weight", "bias", "running_mean", "running_var"}}};

    (void)state;
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < N_CASES; i++) {
            if (strcmp(cases[i].type, want[k].type) != 0) continue;
            bench b;
            bench_open(&b, &cases[i]);
            for (int j = 0; j < b.plan.n_params; j++) {
                assert_string_equal(b.plan.params[j].suffix, want[k].suffix[j]);
            }
            bench_close(&b);
        }
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
    cvy_unit_test(gradient_of_every_case_equals_differences),
    cvy_unit_test(every_registered_layer_has_a_case),
    cvy_unit_test(accumulate_adds_to_the_gradient_of_every_input),
    cvy_unit_test(gradients_left_out_do_not_change_the_others),
    cvy_unit_test(in_place_gives_the_same_bits),
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
