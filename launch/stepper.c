#include "launch/stepper.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/rng.h"
#include "nn/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const uint64_t seed = 1;
static const double rate = 1e-3; /* low: labels are random and the run must stay finite */

cvy_status launch_image_parse(const char *text, nn_shape *out)
{
    enum { MAX_EXTENT = 1 << 20 };
    long long c = 0, h = 0, w = 0;
    char rest = 0;

    if (sscanf(text, "%9lldx%9lldx%9lld%c", &c, &h, &w, &rest) != 3 || c < 1 || h < 1 || w < 1 ||
        c > MAX_EXTENT || h > MAX_EXTENT || w > MAX_EXTENT)
        return CVY_ERR_USAGE;
    *out = nn_shape_of(3, (const int64_t[]){c, h, w});
    return CVY_OK;
}

int64_t launch_default_classes(const nn_shape *image)
{
    enum { LARGE = 64 };

    return image->dim[1] >= LARGE ? 1000 : 10;
}

void launch_stepper_complete(launch_stepper_options *options)
{
    const nn_model_arch *arch = nn_model_find(options->arch);

    if (options->image.n_dims == 0 && arch != NULL) {
        options->image = nn_shape_of(3,
                                     (const int64_t[]){arch->channels, arch->height, arch->width});
    }
    if (options->classes == 0) options->classes = launch_default_classes(&options->image);
}

/* Standard normal images and uniform labels, the same at every run. */
static cvy_status make_batch(launch_stepper *s)
{
    const launch_stepper_options *options = s->options;
    const nn_shape batch = nn_graph_shape(s->graph, 0);
    const nn_shape logits = nn_graph_shape(s->graph, nn_graph_logits(s->graph));
    const int64_t n_elems = nn_shape_n_elems(&batch);
    cvy_rng rng = cvy_rng_open(seed, CVY_RNG_TEST, 0, 0);

    s->images = cvy_alloc((size_t)n_elems * sizeof *s->images);
    s->labels = cvy_alloc((size_t)options->minibatch * sizeof *s->labels);
    if (s->images == NULL || s->labels == NULL) {
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "%lld images", (long long)options->minibatch);
    }
    for (int64_t i = 0; i < n_elems; i++) s->images[i] = cvy_rng_normal(&rng);
    for (int64_t i = 0; i < options->minibatch; i++) {
        s->labels[i] = (int32_t)cvy_rng_below(&rng, (uint32_t)logits.dim[1]);
    }
    return CVY_OK;
}

static cvy_status alloc_flat(launch_stepper *s, float **out)
{
    const int64_t n = nn_graph_params(s->graph)->n_elems;

    *out = s->backend->ops->alloc(s->backend, (size_t)n * sizeof(float));
    if (*out == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "%lld parameters", (long long)n);
    return s->backend->ops->fill(s->backend, n, 0.0f, *out);
}

static cvy_status make_weights(launch_stepper *s)
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

static cvy_status make_training(launch_stepper *s)
{
    CVY_RETURN_IF_ERR(nn_optimizer_create(NULL, &s->optimizer));
    CVY_RETURN_IF_ERR(alloc_flat(s, &s->grads));
    for (int i = 0; i < nn_optimizer_get_ops(s->optimizer)->n_states; i++) {
        CVY_RETURN_IF_ERR(alloc_flat(s, &s->state[i]));
    }
    return CVY_OK;
}

cvy_status launch_stepper_open(const launch_stepper_options *options, launch_stepper *out)
{
    const nn_backend_options backend = {.n_threads = (int)options->threads};
    const nn_model_options model = {.arch = options->arch, .classes = options->classes};
    const nn_net_options net = {.is_inference = !options->is_training};

    *out = (launch_stepper){.options = options};
    CVY_RETURN_IF_ERR(nn_backend_open(options->backend, &backend, &out->backend));
    if (options->model != NULL) {
        CVY_RETURN_IF_ERR(
            nn_model_build(options->model, options->minibatch, &options->image, &out->graph));
    } else {
        CVY_RETURN_IF_ERR(
            nn_model_build_arch(&model, options->minibatch, &options->image, &out->graph));
    }
    CVY_RETURN_IF_ERR(nn_net_create(out->backend, out->graph, &net, &out->net));
    CVY_RETURN_IF_ERR(make_batch(out));
    CVY_RETURN_IF_ERR(make_weights(out));
    return options->is_training ? make_training(out) : CVY_OK;
}

void launch_stepper_close(launch_stepper *s)
{
    launch_pass_split_close(&s->split);
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

static cvy_status train_step(launch_stepper *s, const nn_batch *batch)
{
    const nn_params *params = nn_graph_params(s->graph);
    const nn_update update = {
        .lr = rate, .step = s->step, .grad_scale = 1.0 / (double)batch->n, .stat_scale = 1.0};
    double sum = 0;

    CVY_RETURN_IF_ERR(nn_net_forward(s->net, batch, s->weights, s->grads));
    CVY_RETURN_IF_ERR(nn_net_backward(s->net, batch, s->weights, s->grads, NULL, NULL));
    const double start_s = cvy_clock_now_s();
    CVY_RETURN_IF_ERR(nn_optimizer_update(s->optimizer, s->backend, params, &update, 0,
                                          params->n_elems, s->grads, s->state, s->weights));
    CVY_RETURN_IF_ERR(s->backend->ops->sync(s->backend));
    s->update_s += cvy_clock_now_s() - start_s;
    for (int64_t i = 0; i < batch->n; i++) sum += (double)nn_net_outcome(s->net)->loss[i];
    s->loss = sum / (double)batch->n;
    if (!isfinite(s->loss)) {
        return CVY_FAIL(CVY_ERR_NUMERIC, "%s: the loss of step %lld is not finite",
                        s->options->arch, (long long)s->step);
    }
    return CVY_OK;
}

cvy_status launch_stepper_step(launch_stepper *s)
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

/* Digits of a hash of all weights: equal for equal bits. Taken piece by piece: a whole copy would
 * show in the peak of the memory. */
static cvy_status weights_text(launch_stepper *s, char out[17])
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

json_t *launch_stepper_json(const launch_stepper *s, const launch_step_figures *figures)
{
    const launch_stepper_options *options = s->options;
    const launch_spread *time_s = &figures->time_s;
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "program", "convoy", "arch",
        options->arch, "backend", s->backend->ops->name, "mode",
        options->is_training ? "train" : "eval", "minibatch", (json_int_t)options->minibatch,
        "threads", (json_int_t)options->threads, "steps", (json_int_t)figures->n_steps,
        "step_median_s", time_s->median, "step_mean_s", time_s->mean, "step_min_s", time_s->min,
        "step_max_s", time_s->max, "images_per_s", (double)options->minibatch / time_s->median);
    const struct {
        const char *key;
        json_t *value;
    } rest[] = {
        {"multiply_adds", json_integer((json_int_t)figures->multiply_adds)},
        {"gflops", json_real(2e-9 * (double)figures->multiply_adds / time_s->median)},
        {"peak_rss_bytes", json_integer((json_int_t)figures->peak_rss_bytes)},
        {"arena_bytes", json_integer((json_int_t)nn_net_arena_bytes(s->net))},
        {"weights_xxh3", json_string(figures->weights_xxh3)},
    };

    for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++) {
        object = launch_json_with(object, rest[i].key, rest[i].value);
    }
    return options->is_training ? launch_json_with(object, "loss", json_real(s->loss)) : object;
}

cvy_status launch_stepper_measure(launch_stepper *s, int64_t n, launch_step_figures *out)
{
    launch_step_figures figures = {.n_steps = n,
                                   .multiply_adds = launch_multiply_adds(s->graph, s->net)};
    cvy_status status = CVY_OK;
    double *times_s = cvy_alloc_zero((size_t)n, sizeof *times_s);

    if (times_s == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "times of %lld steps", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        const double start_s = cvy_clock_now_s();
        CVY_GOTO_IF_ERR(end, status, launch_stepper_step(s));
        times_s[i] = cvy_clock_now_s() - start_s;
    }
    figures.peak_rss_bytes = launch_peak_rss_bytes();
    CVY_GOTO_IF_ERR(end, status, weights_text(s, figures.weights_xxh3));
    figures.time_s = launch_spread_of(times_s, n);
    *out = figures;

end:
    cvy_free(times_s);
    return status;
}

cvy_status launch_stepper_start_profile(launch_stepper *s)
{
    if (s->options->is_training) {
        CVY_RETURN_IF_ERR(launch_pass_split_open(s->backend, nn_graph_params(s->graph),
                                                 nn_graph_n_layers(s->graph), s->grads, &s->split));
    }
    nn_net_set_profile(s->net, 1);
    s->profile_step = s->step;
    s->profile_update_s = s->update_s;
    return CVY_OK;
}

cvy_status launch_stepper_table(const launch_stepper *s, double step_s, launch_table *out)
{
    const int n_layers = nn_graph_n_layers(s->graph);
    const double n_steps = (double)(s->step - s->profile_step);
    const nn_layer_time *profile = nn_net_profile(s->net);
    launch_layer_time *times = cvy_alloc_zero((size_t)n_layers, sizeof *times);
    launch_table_step step = {.step_s = step_s};

    if (times == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "profile of %d layers", n_layers);
    for (int i = 0; i < n_layers; i++) {
        times[i].forward_s = profile[i].forward_s / n_steps;
        times[i].backward_s = profile[i].backward_s / n_steps;
        if (s->split == NULL) continue;
        times[i].filter_s = launch_pass_split_filter_s(s->split)[i] / n_steps;
    }
    if (s->optimizer != NULL) {
        step.update_s = (s->update_s - s->profile_update_s) / n_steps;
        step.n_states = nn_optimizer_get_ops(s->optimizer)->n_states;
    }
    const cvy_status status = launch_table_make(s->graph, s->net, times, &step, out);
    cvy_free(times);
    return status;
}
