#include "tests/nn/kernel_support.h"

#include "nn/graph.h"
#include "nn/model.h"
#include "nn/net.h"

/* Convolutions of every shape that occurs in the models, fast backends against the reference. */

/* Products of an image's convolution, so few that three images are tried: sums over images. */
enum { MAX_GEOMS = 256, SMALL = 20000000 };

static nn_conv2d_geom geoms[MAX_GEOMS];
static int n_geoms;

/* Keeps the geometry, if it is new, in the place of a convolution. */
static cvy_status record_conv(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                              const float *filter, const float *bias, float *y, void *workspace)
{
    const nn_shape to = kernel_shape(geom->n, geom->k, geom->p, geom->q);
    const int64_t n = backend->ops->activation_elems(backend, &to);

    (void)x;
    (void)filter;
    (void)bias;
    (void)workspace;
    for (int i = 0; i < n_geoms; i++) {
        if (memcmp(&geoms[i], geom, sizeof *geom) == 0) return backend->ops->fill(backend, n, 0, y);
    }
    assert_true(n_geoms < MAX_GEOMS);
    geoms[n_geoms++] = *geom;
    return backend->ops->fill(backend, n, 0, y);
}

static void record_model(nn_backend *backend, const nn_model_arch *arch)
{
    const nn_model_options options = {.arch = arch->name, .classes = 10};
    const nn_shape image = nn_shape_of(
        3, (const int64_t[]){arch->channels, arch->height, arch->width});
    const int64_t n_pixels = nn_shape_n_elems(&image);
    float *images = kernel_random_floats(1, n_pixels);
    nn_graph *graph = NULL;
    nn_net *net = NULL;

    assert_ok(nn_model_build_arch(&options, 1, &image, &graph));
    assert_ok(nn_net_create(backend, graph, &(nn_net_options){.is_inference = 1}, &net));
    float *weights = kernel_floats(nn_graph_params(graph)->n_elems);
    assert_ok(nn_params_init(nn_graph_params(graph), 1, weights));
    assert_ok(nn_net_forward(net, &(nn_batch){.n = 1, .images = images}, weights, NULL));
    nn_net_destroy(&net);
    nn_graph_destroy(&graph);
    cvy_free(weights);
    cvy_free(images);
}

static void record_all_models(void)
{
    nn_backend *backend = kernel_backend("cpu", 1);
    const nn_backend_ops *real = backend->ops;
    nn_backend_ops recording = *real;

    recording.conv2d_forward = record_conv;
    recording.conv2d_tail_forward = NULL;
    backend->ops = &recording;
    n_geoms = 0;
    for (int i = 0; i < nn_model_count(); i++) record_model(backend, nn_model_at(i));
    backend->ops = real;
    nn_backend_close(&backend);
}

/* out: y, dx, dfilter. */
static void run_passes(nn_backend *backend, const void *arg, float *out)
{
    const nn_conv2d_geom *geom = arg;
    const nn_backend_ops *ops = backend->ops;
    const nn_shape in = kernel_shape(geom->n, geom->c, geom->h, geom->w);
    const nn_shape to = kernel_shape(geom->n, geom->k, geom->p, geom->q);
    float *x = kernel_random_activation(backend, 1, &in), *dx = kernel_blank(backend, &in);
    float *dy = kernel_random_activation(backend, 2, &to), *y = kernel_blank(backend, &to);
    float *filter = kernel_random_floats(3, geom->k * geom->c / geom->groups * geom->r * geom->s);
    void *workspace = kernel_spoilt_workspace(backend, geom);
    float *const dx_out = out + nn_shape_n_elems(&to);

    assert_ok(ops->conv2d_forward(backend, geom, x, filter, NULL, y, workspace));
    assert_ok(ops->conv2d_backward_data(backend, geom, dy, filter, dx, 0, workspace));
    assert_ok(ops->conv2d_backward_filter(backend, geom, x, dy, dx_out + nn_shape_n_elems(&in),
                                          NULL, workspace));
    kernel_take(backend, &to, y, out);
    kernel_take(backend, &in, dx, dx_out);
    ops->release(backend, workspace);
    cvy_free(x);
    cvy_free(dy);
    cvy_free(filter);
}

static void conv2d_of_every_model_is_as_reference_at_any_thread_count(void **state)
{
    (void)state;
    record_all_models();
    assert_true(n_geoms > 20);
    for (int i = 0; i < n_geoms; i++) {
        nn_conv2d_geom *geom = &geoms[i];
        geom->n = geom->k * geom->p * geom->q * geom->c * geom->r * geom->s <= SMALL ? 3 : 1;
        const int64_t n_y = geom->n * geom->k * geom->p * geom->q;
        const int64_t n_x = geom->n * geom->c * geom->h * geom->w;
        const int64_t n_filter = geom->k * geom->c / geom->groups * geom->r * geom->s;
        char what[128];

        snprintf(what, sizeof what, "%lldx%lldx%lld to %lld channels by %lldx%lld, stride %lld",
                 (long long)geom->c, (long long)geom->h, (long long)geom->w, (long long)geom->k,
                 (long long)geom->r, (long long)geom->s, (long long)geom->stride_h);
        kernel_check(what, run_passes, geom, n_y + n_x + n_filter, kernel_conv_tolerance(geom));
    }
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(conv2d_of_every_model_is_as_reference_at_any_thread_count),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
