#include "bench/stepper.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/rng.h"
#include "bench/harness.h"
#include "nn/model.h"

#include <math.h>
#include <string.h>

static const uint64_t seed = 1;
static const double rate = 1e-3; /* low: labels are random and the run must stay finite */

/* Standard normal images and uniform labels, the same at every run. */
static cvy_status make_batch(stepper *s)
{
    const stepper_options *options = s->options;
    const nn_shape batch = nn_graph_shape(s->graph, 0);
    const int64_t n_elems = nn_shape_n_elems(&batch);
    cvy_rng rng = cvy_rng_open(seed, CVY_RNG_TEST, 0, 0);

    s->images = cvy_alloc((size_t)n_elems * sizeof *s->images);
    s->labels = cvy_alloc((size_t)options->minibatch * sizeof *s->labels);
    if (s->images == NULL || s->labels == NULL)
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "%lld images", (long long)options->minibatch);
    for (int64_t i = 0; i < n_elems; i++) s->images[i] = cvy_rng_normal(&rng);
    for (int64_t i = 0; i < options->minibatch; i++)
        s->labels[i] = (int32_t)cvy_rng_below(&rng, (uint32_t)options->classes);
    return CVY_OK;
}

static cvy_status alloc_flat(stepper *s, float **out)
{
    const int64_t n = nn_graph_params(s->graph)->n_elems;

    *out = s->backend->ops->alloc(s->backend, (size_t)n * sizeof(float));
    if (*out == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "%lld parameters", (long long)n);
    return s->backend->ops->fill(s->backend, n, 0.0f, *out);
}

static cvy_status make_weights(stepper *s)
{
    const nn_params *params = nn_graph_params(s->graph);
    const size_t size_bytes = (size_t)params->n_elems * sizeof(float);
    float *host = cvy_alloc(size_bytes);
    cvy_status status = CVY_OK;

    if (host == NULL) {
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "%lld initial weights", (long long)params->n_elems);
    }
    CVY_GOTO_IF_ERR(end, status, nn_params_init(params, seed, host));
    CVY_GOTO_IF_ERR(end, status, alloc_flat(s, &s->weights));
    CVY_GOTO_IF_ERR(end, status,
                    s->backend->ops->copy_in(s->backend, s->weights, host, size_bytes));
    status = s->backend->ops->sync(s->backend);

end:
    cvy_free(host);
    return status;
}

static cvy_status make_training(stepper *s)
{
    CVY_RETURN_IF_ERR(nn_optimizer_create(NULL, &s->optimizer));
    CVY_RETURN_IF_ERR(alloc_flat(s, &s->grads));
    for (int i = 0; i < nn_optimizer_get_ops(s->optimizer)->n_states; i++)
        CVY_RETURN_IF_ERR(alloc_flat(s, &s->state[i]));
    return CVY_OK;
}

cvy_status stepper_open(const stepper_options *options, stepper *out)
{
    const nn_backend_options backend = {.n_threads = (int)options->threads};
    const nn_model_options model = {.arch = options->arch, .classes = options->classes};
    const nn_net_options net = {.is_inference = !options->is_training};

    *out = (stepper){.options = options};
    CVY_RETURN_IF_ERR(nn_backend_open(options->backend, &backend, &out->backend));
    CVY_RETURN_IF_ERR(
        nn_model_build_arch(&model, options->minibatch, &options->image, &out->graph));
    CVY_RETURN_IF_ERR(nn_net_create(out->backend, out->graph, &net, &out->net));
    CVY_RETURN_IF_ERR(make_batch(out));
    CVY_RETURN_IF_ERR(make_weights(out));
    return options->is_training ? make_training(out) : CVY_OK;
}

void stepper_close(stepper *s)
{
    if (s->backend != NULL) {
        const nn_backend_ops *ops = s->backend->ops;
        for (int i = 0; i < NN_OPTIMIZER_MAX_STATES; i++) {
            if (s->state[i] != NULL) ops->release(s->backend, s->state[i]);
        }
        if (s->grads != NULL) ops->release(s->backend, s->grads);
        if (s->weights != NULL) ops->release(s->backend, s->weights);
    }
    cvy_free(s->images);
    cvy_free(s->labels);
    nn_optimizer_destroy(&s->optimizer);
    nn_net_destroy(&s->net);
    nn_graph_destroy(&s->graph);
    nn_backend_close(&s->backend);
}

static cvy_status train_step(stepper *s, const nn_batch *batch)
{
    const nn_params *params = nn_graph_params(s->graph);
    const nn_update update = {
        .lr = rate, .step = s->step, .grad_scale = 1.0 / (double)batch->n, .stat_scale = 1.0};
    double sum = 0;

    CVY_RETURN_IF_ERR(nn_net_forward(s->net, batch, s->weights, s->grads));
    CVY_RETURN_IF_ERR(nn_net_backward(s->net, batch, s->weights, s->grads, NULL, NULL));
    CVY_RETURN_IF_ERR(nn_optimizer_update(s->optimizer, s->backend, params, &update, 0,
                                          params->n_elems, s->grads, s->state, s->weights));
    CVY_RETURN_IF_ERR(s->backend->ops->sync(s->backend));
    for (int64_t i = 0; i < batch->n; i++) sum += (double)nn_net_outcome(s->net)->loss[i];
    s->loss = sum / (double)batch->n;
    if (!isfinite(s->loss)) {
        return CVY_FAIL(CVY_ERR_NUMERIC, "%s: the loss of step %lld is not finite",
                        s->options->arch, (long long)s->step);
    }
    return CVY_OK;
}

cvy_status stepper_step(stepper *s)
{
    const nn_batch batch = {.n = s->options->minibatch,
                            .images = s->images,
                            .labels = s->options->is_training ? s->labels : NULL,
                            .is_training = s->options->is_training,
                            .seed = seed,
                            .step = (uint64_t)s->step};

    if (s->options->is_training) {
        CVY_RETURN_IF_ERR(train_step(s, &batch));
    } else {
        const float *logits = NULL;
        CVY_RETURN_IF_ERR(nn_net_forward(s->net, &batch, s->weights, NULL));
        CVY_RETURN_IF_ERR(nn_net_logits(s->net, &logits));
    }
    s->step++;
    return CVY_OK;
}

int64_t stepper_multiply_adds(const stepper *s)
{
    int64_t sum = 0;

    for (int i = 0; i < nn_graph_n_layers(s->graph); i++) {
        const nn_graph_layer *layer = nn_graph_layer_at(s->graph, i);
        const int n_passes = !s->options->is_training ? 1 : layer->input[0] == 0 ? 2 : 3;
        sum += n_passes * layer->plan.multiply_adds;
    }
    return sum;
}

/* Digits of a hash of all weights: equal for equal bits. Taken piece by piece: a whole copy would
 * show in the peak of the memory. */
static cvy_status weights_text(stepper *s, char out[17])
{
    enum { PIECE_BYTES = 1 << 20 };
    const size_t size_bytes = (size_t)nn_graph_params(s->graph)->tail_offset * sizeof(float);
    unsigned char *piece = cvy_alloc(PIECE_BYTES);
    cvy_hasher *hasher = cvy_hasher_open();
    cvy_status status = CVY_OK;

    if (piece == NULL || hasher == NULL) {
        status = CVY_FAIL(CVY_ERR_NO_MEMORY, "a hash of the weights");
    }
    for (size_t at = 0; status == CVY_OK && at < size_bytes; at += PIECE_BYTES) {
        const size_t n = size_bytes - at < PIECE_BYTES ? size_bytes - at : PIECE_BYTES;
        const nn_backend_ops *ops = s->backend->ops;
        status = ops->copy_out(s->backend, piece, (const char *)(const void *)s->weights + at, n);
        if (status == CVY_OK) status = ops->sync(s->backend);
        if (status == CVY_OK) cvy_hasher_add(hasher, piece, n);
    }
    if (status == CVY_OK) cvy_hash_text(cvy_hasher_value(hasher), out);
    cvy_hasher_close(&hasher);
    cvy_free(piece);
    return status;
}

static json_t *result(const stepper *s, int64_t n, const bench_spread *time_s, const char *weights)
{
    const stepper_options *options = s->options;
    const int64_t multiply_adds = stepper_multiply_adds(s);
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "program", "convoy", "arch",
        options->arch, "backend", s->backend->ops->name, "mode",
        options->is_training ? "train" : "eval", "minibatch", (json_int_t)options->minibatch,
        "threads", (json_int_t)options->threads, "steps", (json_int_t)n, "step_median_s",
        time_s->median, "step_min_s", time_s->min, "step_max_s", time_s->max, "images_per_s",
        (double)options->minibatch / time_s->median);
    json_t *rest = json_pack("{s:I, s:f, s:I, s:I, s:s}", "multiply_adds",
                             (json_int_t)multiply_adds, "gflops",
                             2e-9 * (double)multiply_adds / time_s->median, "peak_rss_bytes",
                             (json_int_t)bench_peak_rss_bytes(), "arena_bytes",
                             (json_int_t)nn_net_arena_bytes(s->net), "weights_xxh3", weights);
    int is_bad = object == NULL || rest == NULL || json_object_update(object, rest) != 0;

    json_decref(rest);
    if (!is_bad && options->is_training)
        is_bad = json_object_set_new(object, "loss", json_real(s->loss)) != 0;
    if (!is_bad) return object;
    json_decref(object);
    return NULL;
}

cvy_status stepper_measure(void *arg, int64_t n, json_t **out)
{
    stepper *s = arg;
    char weights[17];
    cvy_status status = CVY_OK;
    double *times_s = cvy_alloc((size_t)n * sizeof *times_s);

    if (times_s == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "times of %lld steps", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        const double start_s = cvy_clock_now_s();
        CVY_GOTO_IF_ERR(end, status, stepper_step(s));
        times_s[i] = cvy_clock_now_s() - start_s;
    }
    CVY_GOTO_IF_ERR(end, status, weights_text(s, weights));
    const bench_spread spread = bench_spread_of(times_s, n);
    *out = result(s, n, &spread, weights);
    if (*out == NULL) status = CVY_FAIL(CVY_ERR_NO_MEMORY, "a line of figures");

end:
    cvy_free(times_s);
    return status;
}
