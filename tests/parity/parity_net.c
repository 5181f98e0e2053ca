/* Runs a net on tensors from a file, for scripts that compare it with another system.
 *
 *     parity_net --arch resnet18 --classes 10 --image 3x64x64 --batch 4
 *                --weights IN.safetensors --data DATA.safetensors
 *                [--steps N --lr R --momentum R --weight-decay R] [--nesterov]
 *                [--logits OUT.safetensors] [--save OUT.safetensors]
 *                [--backend ref|cpu] [--threads N]
 *
 * DATA has `images` (N, c, h, w) float32 and `labels` (N) int64. With --steps, step s trains on
 * images s * batch ... and prints {"step": s, "loss": mean} per line. Then --logits writes the
 * logits of the first batch in evaluation mode and --save the weights. */

#include "base/alloc.h"
#include "base/node.h"
#include "base/safetensors.h"
#include "nn/backend.h"
#include "nn/model.h"
#include "nn/net.h"
#include "nn/optimizer.h"
#include "nn/weights.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE_BYTES = 1 << 30 };

typedef struct arguments {
    const char *arch, *weights, *data, *logits, *save, *backend;
    const char *lr, *momentum, *weight_decay, *nesterov;
    int64_t classes, batch, steps;
    nn_shape image;
    int n_threads;
} arguments;

typedef struct session {
    nn_graph *graph;
    nn_backend *backend;
    nn_net *net;
    nn_optimizer *optimizer;
    cvy_safetensors *data;
    float *host;                       /* weights on their way in or out */
    float *weights, *grads, *momentum; /* flat, backend memory */
    const float *images;               /* (n, c, h, w), view of data */
    int32_t *labels;                   /* (n) */
    int64_t n_images;
} session;

/* One per option, in the order of option_table. */
enum {
    ARCH,
    CLASSES,
    IMAGE,
    BATCH,
    WEIGHTS,
    DATA,
    LOGITS,
    SAVE,
    STEPS,
    LR,
    MOMENTUM,
    WEIGHT_DECAY,
    NESTEROV,
    BACKEND,
    THREADS,
    N_OPTIONS
};

static const struct option option_table[N_OPTIONS + 1] = {
    {"arch", 1, NULL, ARCH},         {"classes", 1, NULL, CLASSES},
    {"image", 1, NULL, IMAGE},       {"batch", 1, NULL, BATCH},
    {"weights", 1, NULL, WEIGHTS},   {"data", 1, NULL, DATA},
    {"logits", 1, NULL, LOGITS},     {"save", 1, NULL, SAVE},
    {"steps", 1, NULL, STEPS},       {"lr", 1, NULL, LR},
    {"momentum", 1, NULL, MOMENTUM}, {"weight-decay", 1, NULL, WEIGHT_DECAY},
    {"nesterov", 0, NULL, NESTEROV}, {"backend", 1, NULL, BACKEND},
    {"threads", 1, NULL, THREADS}};

static cvy_status read_arguments(int argc, char **argv, arguments *args)
{
    const char *text[N_OPTIONS] = {
        [BATCH] = "1",      [CLASSES] = "0",      [STEPS] = "0",     [LR] = "0.1",
        [MOMENTUM] = "0.9", [WEIGHT_DECAY] = "0", [BACKEND] = "cpu", [THREADS] = "1"};
    long long dim[3] = {0, 0, 0};

    for (int key; (key = getopt_long(argc, argv, "", option_table, NULL)) != -1;) {
        if (key < 0 || key >= N_OPTIONS) {
            return CVY_FAIL(CVY_ERR_USAGE, "parity_net: its options are at the top of its source");
        }
        text[key] = optarg != NULL ? optarg : "true";
    }
    if (text[ARCH] == NULL || text[WEIGHTS] == NULL || text[DATA] == NULL || text[IMAGE] == NULL ||
        sscanf(text[IMAGE], "%lldx%lldx%lld", &dim[0], &dim[1], &dim[2]) != 3) {
        return CVY_FAIL(CVY_ERR_USAGE,
                        "parity_net: --arch, --classes, --image CxHxW, --weights and --data are "
                        "needed");
    }
    *args = (arguments){.arch = text[ARCH],
                        .weights = text[WEIGHTS],
                        .data = text[DATA],
                        .logits = text[LOGITS],
                        .save = text[SAVE],
                        .backend = text[BACKEND],
                        .lr = text[LR],
                        .momentum = text[MOMENTUM],
                        .weight_decay = text[WEIGHT_DECAY],
                        .nesterov = text[NESTEROV] != NULL ? "true" : "false",
                        .classes = atoll(text[CLASSES]),
                        .batch = atoll(text[BATCH]),
                        .steps = atoll(text[STEPS]),
                        .image = {.n_dims = 3, .dim = {dim[0], dim[1], dim[2]}},
                        .n_threads = atoi(text[THREADS])};
    return CVY_OK;
}

static cvy_status open_file(const char *path, cvy_safetensors **out)
{
    cvy_reason reason = {.text = ""};
    const cvy_status status = cvy_safetensors_open(path, MAX_FILE_BYTES, out, &reason);

    return status == CVY_OK ? CVY_OK : CVY_FAIL(status, "%s: %s", path, reason.text);
}

static cvy_status open_data(const arguments *args, session *s)
{
    CVY_RETURN_IF_ERR(open_file(args->data, &s->data));
    const cvy_tensor_entry *images = cvy_safetensors_find(s->data, "images");
    const cvy_tensor_entry *labels = cvy_safetensors_find(s->data, "labels");
    const int64_t n_needed = args->batch * (args->steps > 1 ? args->steps : 1);

    if (images == NULL || labels == NULL || images->dtype != CVY_F32 || images->n_dims != 4 ||
        labels->dtype != CVY_I64 || labels->n_dims != 1 || labels->dim[0] != images->dim[0] ||
        images->dim[0] < n_needed || images->dim[1] != args->image.dim[0] ||
        images->dim[2] != args->image.dim[1] || images->dim[3] != args->image.dim[2]) {
        return CVY_FAIL(CVY_ERR_BAD_DATA,
                        "%s: expected images (%lld or more, c, h, w) F32 and as many labels I64",
                        args->data, (long long)n_needed);
    }
    s->n_images = images->dim[0];
    s->images = images->data;
    s->labels = cvy_alloc((size_t)s->n_images * sizeof *s->labels);
    if (s->labels == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "labels");
    for (int64_t i = 0; i < s->n_images; i++) {
        s->labels[i] = (int32_t)((const int64_t *)labels->data)[i];
    }
    return CVY_OK;
}

static cvy_status create_optimizer(const arguments *args, session *s)
{
    cvy_node *section = NULL;
    char *text = cvy_text_format("{momentum: %s, weight_decay: %s, nesterov: %s}", args->momentum,
                                 args->weight_decay, args->nesterov);

    if (text == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "optimizer");
    cvy_status status = cvy_node_parse(text, strlen(text), "arguments", &section);
    if (status == CVY_OK) status = nn_optimizer_create(section, &s->optimizer);
    cvy_node_destroy(&section);
    cvy_free(text);
    return status;
}

static cvy_status create_arrays(session *s)
{
    const size_t n = (size_t)nn_graph_params(s->graph)->n_elems;
    float **const arrays[] = {&s->weights, &s->grads, &s->momentum};

    s->host = cvy_alloc_zero(n, sizeof(float));
    if (s->host == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "%zu weights", n);
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        *arrays[i] = s->backend->ops->alloc(s->backend, n * sizeof(float));
        if (*arrays[i] == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "%zu weights", n);
        CVY_RETURN_IF_ERR(s->backend->ops->fill(s->backend, (int64_t)n, 0.0f, *arrays[i]));
    }
    return CVY_OK;
}

static cvy_status load_weights(const arguments *args, session *s)
{
    const nn_params *params = nn_graph_params(s->graph);
    cvy_safetensors *file = NULL;

    CVY_RETURN_IF_ERR(open_file(args->weights, &file));
    const cvy_status status = nn_weights_load(file, args->weights, params, 0, s->host);
    cvy_safetensors_close(&file);
    CVY_RETURN_IF_ERR(status);
    return s->backend->ops->copy_in(s->backend, s->weights, s->host,
                                    (size_t)params->n_elems * sizeof(float));
}

static cvy_status open_session(const arguments *args, session *s)
{
    const nn_model_options model = {.arch = args->arch, .classes = args->classes};
    const nn_backend_options backend = {.n_threads = args->n_threads};
    const nn_net_options net = {.is_inference = args->steps == 0};

    CVY_RETURN_IF_ERR(nn_model_build_arch(&model, args->batch, &args->image, &s->graph));
    CVY_RETURN_IF_ERR(nn_backend_open(args->backend, &backend, &s->backend));
    CVY_RETURN_IF_ERR(nn_net_create(s->backend, s->graph, &net, &s->net));
    CVY_RETURN_IF_ERR(open_data(args, s));
    CVY_RETURN_IF_ERR(create_optimizer(args, s));
    CVY_RETURN_IF_ERR(create_arrays(s));
    return load_weights(args, s);
}

static void close_session(session *s)
{
    float *const arrays[] = {s->weights, s->grads, s->momentum};

    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        if (arrays[i] != NULL) s->backend->ops->release(s->backend, arrays[i]);
    }
    nn_net_destroy(&s->net);
    nn_backend_close(&s->backend);
    nn_optimizer_destroy(&s->optimizer);
    nn_graph_destroy(&s->graph);
    cvy_safetensors_close(&s->data);
    cvy_free(s->labels);
    cvy_free(s->host);
}

static cvy_status train_step(const arguments *args, session *s, int64_t step)
{
    const nn_params *params = nn_graph_params(s->graph);
    const int64_t first = step * args->batch;
    const nn_batch batch = {.n = args->batch,
                            .images = s->images + first * nn_shape_n_elems(&args->image),
                            .labels = s->labels + first,
                            .is_training = 1};
    const nn_update update = {.lr = atof(args->lr),
                              .step = step,
                              .grad_scale = 1.0 / (double)args->batch,
                              .stat_scale = 1.0};
    double loss = 0.0;

    CVY_RETURN_IF_ERR(nn_net_forward(s->net, &batch, s->weights, s->grads));
    for (int64_t i = 0; i < batch.n; i++) loss += (double)nn_net_outcome(s->net)->loss[i];
    printf("{\"step\": %lld, \"loss\": %.9g}\n", (long long)step, loss / (double)batch.n);
    CVY_RETURN_IF_ERR(nn_net_backward(s->net, &batch, s->weights, s->grads, NULL, NULL));
    return nn_optimizer_update(s->optimizer, s->backend, params, &update, 0, params->n_elems,
                               s->grads, &s->momentum, s->weights);
}

static cvy_status write_logits(const arguments *args, session *s)
{
    const nn_batch batch = {.n = args->batch, .images = s->images};
    const float *logits = NULL;

    CVY_RETURN_IF_ERR(nn_net_forward(s->net, &batch, s->weights, NULL));
    CVY_RETURN_IF_ERR(nn_net_logits(s->net, &logits));
    const cvy_tensor_entry entry = {.name = "logits",
                                    .dtype = CVY_F32,
                                    .n_dims = 2,
                                    .dim = {args->batch, args->classes},
                                    .data = logits};
    return cvy_safetensors_write(args->logits, &entry, 1, NULL, 0, NULL, NULL);
}

static cvy_status save_weights(const arguments *args, session *s)
{
    const nn_params *params = nn_graph_params(s->graph);

    CVY_RETURN_IF_ERR(s->backend->ops->copy_out(s->backend, s->host, s->weights,
                                                (size_t)params->n_elems * sizeof(float)));
    CVY_RETURN_IF_ERR(s->backend->ops->sync(s->backend));
    return nn_weights_save(args->save, params, s->host, args->steps, NULL, NULL);
}

static cvy_status run(const arguments *args, session *s)
{
    CVY_RETURN_IF_ERR(open_session(args, s));
    for (int64_t step = 0; step < args->steps; step++) {
        CVY_RETURN_IF_ERR(train_step(args, s, step));
    }
    if (args->logits != NULL) CVY_RETURN_IF_ERR(write_logits(args, s));
    return args->save != NULL ? save_weights(args, s) : CVY_OK;
}

int main(int argc, char **argv)
{
    arguments args;
    session s = {0};
    cvy_status status = read_arguments(argc, argv, &args);

    if (status == CVY_OK) status = run(&args, &s);
    close_session(&s);
    return cvy_status_exit_code(status);
}
