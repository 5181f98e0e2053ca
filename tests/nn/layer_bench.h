#ifndef TESTS_NN_LAYER_BENCH_H
#define TESTS_NN_LAYER_BENCH_H

/* One layer on the backend `ref` with all its memory, outside of any net: what the tests of layers
 * share. */
#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "nn/backend.h"
#include "nn/layer.h"

#include <math.h>
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

enum { MAX_N = 8 };

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

static inline size_t bytes_of(const nn_shape *shape)
{
    return (size_t)nn_shape_n_elems(shape) * sizeof(float);
}

static inline void *zeros(size_t size_bytes)
{
    void *block = cvy_alloc_zero(size_bytes > 0 ? size_bytes : 1, 1);

    assert_non_null(block);
    return block;
}

static inline void fill_smooth(cvy_rng *rng, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) out[i] = grid * roundf(cvy_rng_normal(rng) / grid);
}

static inline void fill_apart(cvy_rng *rng, int64_t n, float *out)
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

static inline void bench_fill(bench *b, uint64_t seed)
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

static inline void bench_open(bench *b, const layer_case *test)
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
    b->saved = zeros(b->plan.saved_bytes +
                     (size_t)b->plan.saved_per_output * bytes_of(&b->plan.out));
    b->workspace = zeros(
        b->ops->workspace_bytes == NULL
            ? 0
            : b->ops->workspace_bytes(b->backend, b->attrs, test->in, test->n_inputs, &b->plan));
    b->outcome = (nn_outcome){
        .loss = b->loss, .predicted = b->predicted, .rank = b->rank, .confidence = b->confidence};
    bench_fill(b, 1);
}

static inline void bench_close(bench *b)
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

static inline nn_layer_call call_of(bench *b)
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
static inline nn_layer_call backward_call_of(bench *b)
{
    static const float *const nothing[3] = {NULL, NULL, NULL};
    nn_layer_call call = call_of(b);

    if ((b->plan.needs & NN_NEEDS_X) == 0) call.x = nothing;
    if ((b->plan.needs & NN_NEEDS_Y) == 0) call.y = NULL;
    if (!b->plan.is_loss) call.dy = b->dy;
    return call;
}

static inline void forward(bench *b)
{
    const nn_layer_call call = call_of(b);

    assert_ok(b->ops->forward(&call));
}

static inline void backward(bench *b)
{
    const nn_layer_call call = backward_call_of(b);

    assert_ok(b->ops->backward(&call));
}

#endif
