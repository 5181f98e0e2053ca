/* In one file because all tests run on the same nets, which are built here. */
#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "nn/net.h"

#include <math.h>
#include <string.h>

enum { MINIBATCH = 5, C = 3, H = 6, W = 5, CLASSES = 7 };

/* --- A net with everything ------------------------------------------------------------------ */

/* Residual and concatenated branches, one value added to itself, dropout, all poolings, a batch
 * norm on the images and a branch that the loss does not depend on. With a width of 4 activations
 * are dense on every backend; one of 20 fills blocks of channels, and part of one. */
static nn_graph *mixed_graph(int64_t minibatch, int width)
{
    const nn_shape image = {.n_dims = 3, .dim = {C, H, W}};
    nn_graph *g = NULL;

    assert_ok(nn_graph_create(minibatch, &image, &g));
    nn_value x = nn_add(g, "batchnorm2d", "bn0", 0, "{}");
    x = nn_add(g, "conv2d", "conv1", x, "{out: %d, kernel: 3, pad: 1, bias: false}", width);
    x = nn_add(g, "batchnorm2d", "bn1", x, "{}");
    const nn_value stem = nn_add(g, "relu", "relu1", x, "{}");

    x = nn_add(g, "conv2d", "block.conv1", stem, "{out: %d, kernel: 3, pad: 1, groups: 2}", width);
    x = nn_add(g, "batchnorm2d", "block.bn1", x, "{}");
    const nn_value residual[] = {x, stem};
    x = nn_add_n(g, "add", "block.add", 2, residual, "{}");
    x = nn_add(g, "relu", "block.relu", x, "{}");
    const nn_value shortcut = nn_add(g, "batchnorm2d", "block2.down", x, "{}");
    x = nn_add(g, "conv2d", "block2.conv1", x, "{out: %d, kernel: 3, pad: 1}", width);
    x = nn_add(g, "batchnorm2d", "block2.bn1", x, "{}");
    const nn_value second[] = {x, shortcut};
    x = nn_add_n(g, "add", "block2.add", 2, second, "{}");
    x = nn_add(g, "relu", "block2.relu", x, "{}");
    const nn_value pooled[] = {
        nn_add(g, "maxpool2d", "max", x, "{kernel: 3, stride: 2, pad: 1}"),
        nn_add(g, "avgpool2d", "avg", stem, "{kernel: 2, stride: 2, pad: [0, 1]}"),
        nn_add(g, "conv2d", "down", x, "{out: 2, kernel: 1, stride: 2}")};
    x = nn_add_n(g, "concat", "concat", 3, pooled, "{}");
    const nn_value twice[] = {x, x};
    x = nn_add_n(g, "add", "double", 2, twice, "{}");
    x = nn_add(g, "dropout", "dropout", x, "{rate: 0.25}");
    const nn_value flat = nn_add(g, "flatten", "flatten", x, "{}");
    x = nn_add(g, "dense", "fc", flat, "{out: %d}", CLASSES);
    nn_add(g, "softmax_xent", "loss", x, "{label_smoothing: 0.1}");

    x = nn_add(g, "batchnorm2d", "side.bn", stem, "{}");
    x = nn_add(g, "avgpool2d", "side.pool", x, "{global: true}");
    x = nn_add(g, "flatten", "side.flatten", x, "{}");
    nn_graph_set_logits(g, nn_add(g, "dense", "side.fc", x, "{out: 2}"));
    assert_ok(nn_graph_finish(g));
    return g;
}

typedef struct bench {
    nn_backend *backend;
    nn_graph *graph;
    nn_net *net;
    const nn_params *params;
    size_t size_bytes; /* of a flat buffer */
    float *weights, *grads, *images;
    int32_t labels[MINIBATCH];
    nn_batch batch;
} bench;

static void bench_open_wide(bench *b, const char *backend, int n_threads, int64_t minibatch,
                            int is_inference, int width)
{
    const nn_backend_options options = {.n_threads = n_threads};
    const nn_net_options net_options = {.is_inference = is_inference};
    cvy_rng rng = cvy_rng_open(11, CVY_RNG_TEST, 3, 0);

    memset(b, 0, sizeof *b);
    assert_ok(nn_backend_open(backend, &options, &b->backend));
    b->graph = mixed_graph(minibatch, width);
    b->params = nn_graph_params(b->graph);
    assert_ok(nn_net_create(b->backend, b->graph, &net_options, &b->net));
    b->size_bytes = (size_t)b->params->n_elems * sizeof(float);
    b->weights = cvy_alloc(b->size_bytes);
    b->grads = cvy_alloc_zero(b->size_bytes, 1);
    b->images = cvy_alloc(MINIBATCH * C * H * W * sizeof(float));
    assert_true(b->weights != NULL && b->grads != NULL && b->images != NULL);
    assert_ok(nn_params_init(b->params, 8, b->weights));
    for (int i = 0; i < MINIBATCH * C * H * W; i++) b->images[i] = cvy_rng_normal(&rng);
    for (int i = 0; i < MINIBATCH; i++) b->labels[i] = (int32_t)cvy_rng_below(&rng, CLASSES);
    b->batch = (nn_batch){.n = minibatch,
                          .images = b->images,
                          .labels = b->labels,
                          .is_training = !is_inference,
                          .seed = 1,
                          .step = 2,
                          .replica = 3};
}

static void bench_open(bench *b, const char *backend, int n_threads, int64_t minibatch,
                       int is_inference)
{
    bench_open_wide(b, backend, n_threads, minibatch, is_inference, 4);
}

static void bench_close(bench *b)
{
    nn_net_destroy(&b->net);
    assert_null(b->net);
    nn_graph_destroy(&b->graph);
    nn_backend_close(&b->backend);
    cvy_free(b->weights);
    cvy_free(b->grads);
    cvy_free(b->images);
}

static void forward(bench *b)
{
    assert_ok(nn_net_forward(b->net, &b->batch, b->weights, b->grads));
}

static void backward(bench *b)
{
    assert_ok(nn_net_backward(b->net, &b->batch, b->weights, b->grads, NULL, NULL));
}

static double loss_of(const bench *b)
{
    double sum = 0.0;

    for (int64_t i = 0; i < b->batch.n; i++) sum += (double)nn_net_outcome(b->net)->loss[i];
    return sum;
}

/* --- Gradients ------------------------------------------------------------------------------ */

static double difference_at(bench *b, float *value)
{
    const float step = 1.0f / 4096.0f, at = *value;
    double loss[5];

    for (int i = 0; i < 5; i++) {
        *value = at + (float)(i - 2) * step;
        forward(b);
        loss[i] = loss_of(b);
    }
    *value = at;
    return (8.0 * (loss[3] - loss[1]) - (loss[4] - loss[0])) / (12.0 * (double)step);
}

static double largest(const float *x, int64_t n)
{
    double most = 0.0;

    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs((double)x[i]));
    return most;
}

/* Activations and losses are rounded to 24 bits, which a step of 1/4096 turns into errors of some
 * 1e-3; a larger step crosses more kinks of rectifiers and changes more maxima, each of which bends
 * a difference. With the seeds above few are near and the worst error is a seventh of the
 * tolerance; a wrong term is far larger than that. */
static void gradient_of_the_net_equals_differences(void **state)
{
    bench b;

    (void)state;
    bench_open(&b, "ref", 1, MINIBATCH, 0);
    forward(&b);
    backward(&b);
    float *got = cvy_alloc(b.size_bytes);
    memcpy(got, b.grads, b.size_bytes);
    for (int k = 0; k < b.params->n; k++) {
        const nn_param *param = &b.params->entry[k];
        if (param->decl.kind == NN_PARAM_RUNNING || param->decl.kind == NN_PARAM_TAIL) continue;
        const float *grad = got + param->offset;
        const double tolerance = 4e-3 + 0.01 * largest(grad, param->n_elems);
        for (int64_t i = 0; i < param->n_elems; i++) {
            const double want = difference_at(&b, &b.weights[param->offset + i]);
            if (!(fabs((double)grad[i] - want) <= tolerance)) {
                fail_msg("gradient of %s[%lld] is %.7g, difference %.7g", param->name, (long long)i,
                         (double)grad[i], want);
            }
        }
    }
    cvy_free(got);
    bench_close(&b);
}

static void parameters_without_a_way_to_the_loss_have_gradient_zero(void **state)
{
    bench b;

    (void)state;
    bench_open(&b, "ref", 1, MINIBATCH, 0);
    memset(b.grads, 0xff, b.size_bytes); /* NaN */
    forward(&b);
    const nn_param *weight = nn_params_find(b.params, "side.fc.weight");
    const nn_param *var = nn_params_find(b.params, "side.bn.running_var");
    const double seen = largest(b.grads + var->offset, var->n_elems);
    backward(&b);
    assert_true(largest(b.grads + weight->offset, weight->n_elems) == 0.0);
    assert_true(seen > 0.0 && largest(b.grads + var->offset, var->n_elems) == seen);
    for (int k = 0; k < b.params->n; k++) {
        const nn_param *param = &b.params->entry[k];
        for (int64_t i = 0; i < param->n_elems; i++) {
            assert_true(isfinite(b.grads[param->offset + i]));
        }
    }
    bench_close(&b);
}

static void cpu_agrees_at_width(int width)
{
    bench ref, cpu;

    bench_open_wide(&ref, "ref", 1, MINIBATCH, 0, width);
    bench_open_wide(&cpu, "cpu", 2, MINIBATCH, 0, width);
    forward(&ref);
    forward(&cpu);
    backward(&ref);
    backward(&cpu);
    assert_true(fabs(loss_of(&ref) - loss_of(&cpu)) < 1e-5 * loss_of(&ref));
    for (int k = 0; k < ref.params->n; k++) {
        const nn_param *param = &ref.params->entry[k];
        /* Both round to 24 bits; the sums of some hundred terms differ in the last few. */
        const double tolerance = 1e-6 + 2e-5 * largest(ref.grads + param->offset, param->n_elems);
        for (int64_t i = 0; i < param->n_elems; i++) {
            const double want = (double)ref.grads[param->offset + i];
            const double got = (double)cpu.grads[param->offset + i];
            if (!(fabs(got - want) <= tolerance)) {
                fail_msg("%s[%lld]: cpu %.7g, ref %.7g", param->name, (long long)i, got, want);
            }
        }
    }
    bench_close(&ref);
    bench_close(&cpu);
}

static void cpu_agrees_with_ref(void **state)
{
    (void)state;
    cpu_agrees_at_width(4);
    cpu_agrees_at_width(20);
}

static void bits_do_not_depend_on_the_number_of_threads(void **state)
{
    bench one, other;

    (void)state;
    bench_open_wide(&one, "cpu", 1, MINIBATCH, 0, 20);
    forward(&one);
    backward(&one);
    for (int n_threads = 2; n_threads <= 3; n_threads++) {
        bench_open_wide(&other, "cpu", n_threads, MINIBATCH, 0, 20);
        forward(&other);
        backward(&other);
        assert_memory_equal(other.grads, one.grads, one.size_bytes);
        assert_memory_equal(nn_net_outcome(other.net)->loss, nn_net_outcome(one.net)->loss,
                            MINIBATCH * sizeof(float));
        bench_close(&other);
    }
    bench_close(&one);
}

/* --- Batches -------------------------------------------------------------------------------- */

static void short_batch_equals_the_same_images_in_a_smaller_net(void **state)
{
    static const char *const backends[] = {"ref", "cpu"};

    (void)state;
    for (int k = 0; k < 4; k++) {
        bench large, small;
        bench_open_wide(&large, backends[k % 2], 2, MINIBATCH, 0, k < 2 ? 4 : 20);
        bench_open_wide(&small, backends[k % 2], 2, 3, 0, k < 2 ? 4 : 20);
        forward(&large); /* leaves a full batch behind in the arena */
        large.batch.n = 3;
        forward(&large);
        forward(&small);
        assert_memory_equal(nn_net_outcome(large.net)->loss, nn_net_outcome(small.net)->loss,
                            3 * sizeof(float));
        backward(&large);
        backward(&small);
        assert_memory_equal(large.grads, small.grads, large.size_bytes);
        bench_close(&large);
        bench_close(&small);
    }
}

static void inference_net_gives_the_bits_of_the_training_net(void **state)
{
    bench training, inference;
    const float *a = NULL, *b = NULL;
    float kept[MINIBATCH * 2];

    (void)state;
    bench_open(&training, "cpu", 1, MINIBATCH, 0);
    bench_open(&inference, "cpu", 1, MINIBATCH, 1);
    assert_true(nn_net_arena_bytes(inference.net) < nn_net_arena_bytes(training.net));
    forward(&training);
    assert_ok(nn_net_logits(training.net, &a));
    memcpy(kept, a, sizeof kept);

    training.batch.is_training = 0;
    forward(&training);
    forward(&inference);
    assert_ok(nn_net_logits(training.net, &a));
    assert_ok(nn_net_logits(inference.net, &b));
    assert_memory_equal(a, b, sizeof kept);
    assert_true(memcmp(a, kept, sizeof kept) != 0); /* batch statistics and dropout differ */
    assert_true(loss_of(&training) == loss_of(&inference));

    inference.batch.labels = NULL; /* prediction */
    assert_ok(nn_net_forward(inference.net, &inference.batch, inference.weights, NULL));
    assert_ok(nn_net_logits(inference.net, &b));
    assert_memory_equal(a, b, sizeof kept);
    bench_close(&training);
    bench_close(&inference);
}

static void dropout_depends_on_step_and_replica(void **state)
{
    bench b;
    double loss[4];

    (void)state;
    bench_open(&b, "ref", 1, MINIBATCH, 0);
    for (int i = 0; i < 4; i++) {
        b.batch.step = i == 1 ? 20 : 2;
        b.batch.replica = i == 2 ? 30 : 3;
        forward(&b);
        loss[i] = loss_of(&b);
    }
    assert_true(loss[0] != loss[1] && loss[0] != loss[2] && loss[0] == loss[3]);
    bench_close(&b);
}

static void tail_and_statistics_ride_along(void **state)
{
    bench b;
    double mean[C] = {0};
    int top1 = 0, top5 = 0;

    (void)state;
    bench_open(&b, "ref", 1, MINIBATCH, 0);
    forward(&b);
    for (int i = 0; i < MINIBATCH; i++) {
        top1 += nn_net_outcome(b.net)->rank[i] == 0;
        top5 += nn_net_outcome(b.net)->rank[i] < 5;
        for (int c = 0; c < C; c++) {
            for (int j = 0; j < H * W; j++) {
                mean[c] += (double)b.images[(i * C + c) * H * W + j] / (MINIBATCH * H * W);
            }
        }
    }
    const float *tail = b.grads + b.params->tail_offset;
    assert_true(tail[NN_TAIL_LOSS] == (float)loss_of(&b));
    assert_true(tail[NN_TAIL_TOP1] == (float)top1);
    assert_true(tail[NN_TAIL_TOP5] == (float)top5);
    assert_true(top5 > top1); /* else the two could be swapped */

    const nn_param *running = nn_params_find(b.params, "bn0.running_mean");
    for (int pass = 0; pass < 2; pass++) {
        for (int c = 0; c < C; c++) {
            assert_true(fabs((double)b.grads[running->offset + c] - mean[c]) < 1e-6);
        }
        if (pass == 0) backward(&b); /* which leaves them and the tail */
    }
    assert_true(tail[NN_TAIL_LOSS] == (float)loss_of(&b));
    bench_close(&b);
}

static void logits_outlive_the_backward_pass(void **state)
{
    bench b;
    const float *logits = NULL;
    float kept[MINIBATCH * 2];

    (void)state;
    bench_open(&b, "cpu", 1, MINIBATCH, 0);
    forward(&b);
    assert_ok(nn_net_logits(b.net, &logits));
    memcpy(kept, logits, sizeof kept);
    backward(&b);
    assert_ok(nn_net_logits(b.net, &logits));
    assert_memory_equal(logits, kept, sizeof kept);
    bench_close(&b);
}

/* --- What is called in between -------------------------------------------------------------- */

typedef struct watch {
    const bench *bench;
    float *seen; /* the gradient as it was when it was said to be final */
    int64_t final_from;
    int n_calls, stop_at;
} watch;

static cvy_status note_final(void *arg, int64_t from_offset)
{
    watch *w = arg;

    assert_true(from_offset < w->final_from);
    memcpy(w->seen + from_offset, w->bench->grads + from_offset,
           (size_t)(w->final_from - from_offset) * sizeof(float));
    w->final_from = from_offset;
    w->n_calls++;
    return w->n_calls == w->stop_at ? CVY_ERR_PEER_LOST : CVY_OK;
}

static void ready_tells_what_is_final_from_the_end(void **state)
{
    bench b;

    (void)state;
    bench_open(&b, "cpu", 2, MINIBATCH, 0);
    watch w = {.bench = &b, .seen = cvy_alloc(b.size_bytes), .final_from = b.params->n_elems};
    forward(&b);
    assert_ok(nn_net_backward(b.net, &b.batch, b.weights, b.grads, note_final, &w));
    assert_int_equal(w.final_from, 0);
    assert_int_equal(w.n_calls, 12); /* layers with parameters */
    assert_memory_equal(w.seen, b.grads, b.size_bytes);

    w.final_from = b.params->n_elems;
    w.n_calls = 0;
    w.stop_at = 2;
    forward(&b);
    assert_status(nn_net_backward(b.net, &b.batch, b.weights, b.grads, note_final, &w),
                  CVY_ERR_PEER_LOST);
    assert_int_equal(w.n_calls, 2);
    cvy_free(w.seen);
    bench_close(&b);
}

static cvy_status count_down(void *arg)
{
    int *left = arg;

    return (*left)-- > 0 ? CVY_OK : CVY_ERR_STOPPED;
}

static void poll_is_called_between_layers_and_ends_a_pass(void **state)
{
    bench b;
    int left = 1000000;

    (void)state;
    bench_open(&b, "ref", 1, MINIBATCH, 0);
    const int n_layers = nn_graph_n_layers(b.graph);
    nn_net_set_poll(b.net, count_down, &left);
    forward(&b);
    backward(&b);
    assert_int_equal(1000000 - left, 2 * n_layers);

    left = 3;
    assert_status(nn_net_forward(b.net, &b.batch, b.weights, b.grads), CVY_ERR_STOPPED);
    left = n_layers + 3;
    forward(&b);
    assert_status(nn_net_backward(b.net, &b.batch, b.weights, b.grads, NULL, NULL),
                  CVY_ERR_STOPPED);
    nn_net_set_poll(b.net, NULL, NULL);
    forward(&b); /* the net is fit for the next pass */
    backward(&b);
    bench_close(&b);
}

static void profile_counts_calls_while_it_is_on(void **state)
{
    bench b;

    (void)state;
    bench_open(&b, "ref", 1, MINIBATCH, 0);
    forward(&b);
    nn_net_set_profile(b.net, 1);
    for (int i = 0; i < 3; i++) {
        forward(&b);
        backward(&b);
    }
    const nn_layer_time *times = nn_net_profile(b.net);
    for (int i = 0; i < nn_graph_n_layers(b.graph); i++) {
        assert_int_equal(times[i].n_forward, 3);
        assert_int_equal(times[i].n_backward, 3);
        assert_true(times[i].forward_s >= 0.0 && times[i].backward_s >= 0.0);
    }
    assert_true(times[4].forward_s > 0.0); /* a convolution takes time */
    bench_close(&b);
}

/* --- Memory --------------------------------------------------------------------------------- */

static void passes_allocate_nothing(void **state)
{
    static const char *const backends[] = {"ref", "cpu"};
    cvy_alloc_counts before, after;

    (void)state;
    for (int k = 0; k < 2; k++) {
        bench b;
        const float *logits = NULL;
        bench_open(&b, backends[k], 2, MINIBATCH, 0);
        cvy_alloc_count(&before);
        for (int i = 0; i < 100; i++) {
            b.batch.step++;
            forward(&b);
            backward(&b);
            assert_ok(nn_net_logits(b.net, &logits));
        }
        cvy_alloc_count(&after);
        assert_int_equal(after.n_ever, before.n_ever);
        assert_int_equal(after.n_live, before.n_live);
        assert_int_equal(after.live_bytes, before.live_bytes);
        bench_close(&b);
    }
}

static void net_without_memory_reports_it_and_leaks_nothing(void **state)
{
    const nn_backend_options options = {.n_threads = 1};
    nn_backend *backend = NULL;
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;

    (void)state;
    assert_ok(nn_backend_open("ref", &options, &backend));
    nn_graph *graph = mixed_graph(MINIBATCH, 4);
    test_log_expect("net");
    test_log_expect("for activations and gradients at minibatch 5; try a smaller one");
    cvy_alloc_count(&before);
    for (int64_t k = 0; status != CVY_OK; k++) {
        nn_net *net = NULL;
        cvy_alloc_fail_at(k);
        status = nn_net_create(backend, graph, NULL, &net);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) {
            assert_status(status, CVY_ERR_NO_MEMORY);
            assert_null(net);
        }
        nn_net_destroy(&net);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
        assert_true(k < 100);
    }
    nn_graph_destroy(&graph);
    nn_backend_close(&backend);
}

/* --- Misuse --------------------------------------------------------------------------------- */

static void wrong_calls_are_refused(void **state)
{
    bench b;
    const float *logits = NULL;

    (void)state;
    bench_open(&b, "ref", 1, MINIBATCH, 0);
    test_log_expect("logits of a net before its first forward pass");
    assert_status(nn_net_logits(b.net, &logits), CVY_ERR_INVALID_ARG);
    test_log_expect("backward pass without the training forward pass of the same batch");
    assert_status(nn_net_backward(b.net, &b.batch, b.weights, b.grads, NULL, NULL),
                  CVY_ERR_INVALID_ARG);

    test_log_expect("images; expected 1 to 5");
    b.batch.n = MINIBATCH + 1;
    assert_status(nn_net_forward(b.net, &b.batch, b.weights, b.grads), CVY_ERR_INVALID_ARG);
    b.batch.n = 0;
    assert_status(nn_net_forward(b.net, &b.batch, b.weights, b.grads), CVY_ERR_INVALID_ARG);
    b.batch.n = MINIBATCH;
    test_log_expect("training needs a place for gradients");
    assert_status(nn_net_forward(b.net, &b.batch, b.weights, NULL), CVY_ERR_INVALID_ARG);

    b.batch.is_training = 0;
    forward(&b);
    b.batch.is_training = 1;
    assert_status(nn_net_backward(b.net, &b.batch, b.weights, b.grads, NULL, NULL),
                  CVY_ERR_INVALID_ARG);
    forward(&b);
    backward(&b);
    assert_status(nn_net_backward(b.net, &b.batch, b.weights, b.grads, NULL, NULL),
                  CVY_ERR_INVALID_ARG); /* the activations are gone */

    b.labels[2] = CLASSES;
    test_log_expect("label 7 of sample 2 in the minibatch; expected 0 to 6");
    assert_status(nn_net_forward(b.net, &b.batch, b.weights, b.grads), CVY_ERR_BAD_DATA);
    b.batch.labels = NULL;
    test_log_expect("training needs labels");
    assert_status(nn_net_forward(b.net, &b.batch, b.weights, b.grads), CVY_ERR_INVALID_ARG);
    bench_close(&b);

    bench_open(&b, "ref", 1, MINIBATCH, 1);
    b.batch.is_training = 1;
    test_log_expect("training with a net made for inference");
    assert_status(nn_net_forward(b.net, &b.batch, b.weights, b.grads), CVY_ERR_INVALID_ARG);
    bench_close(&b);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(gradient_of_the_net_equals_differences),
    cvy_unit_test(parameters_without_a_way_to_the_loss_have_gradient_zero),
    cvy_unit_test(cpu_agrees_with_ref),
    cvy_unit_test(bits_do_not_depend_on_the_number_of_threads),
    cvy_unit_test(short_batch_equals_the_same_images_in_a_smaller_net),
    cvy_unit_test(inference_net_gives_the_bits_of_the_training_net),
    cvy_unit_test(dropout_depends_on_step_and_replica),
    cvy_unit_test(tail_and_statistics_ride_along),
    cvy_unit_test(logits_outlive_the_backward_pass),
    cvy_unit_test(ready_tells_what_is_final_from_the_end),
    cvy_unit_test(poll_is_called_between_layers_and_ends_a_pass),
    cvy_unit_test(profile_counts_calls_while_it_is_on),
    cvy_unit_test(passes_allocate_nothing),
    cvy_unit_test(net_without_memory_reports_it_and_leaks_nothing),
    cvy_unit_test(wrong_calls_are_refused),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
