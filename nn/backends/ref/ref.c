#include "nn/backends/ref/ref_internal.h"

#include "base/alloc.h"

#include <string.h>

/* Memory of the reference backend is the host's, and all it does is done when a call returns. */

static cvy_status open_ref(const nn_backend_options *options, nn_backend **out);

static void close_ref(nn_backend *backend)
{
    cvy_free(backend);
}

static void *alloc_block(nn_backend *backend, size_t size_bytes)
{
    (void)backend;
    return cvy_alloc(size_bytes);
}

static void release_block(nn_backend *backend, void *block)
{
    (void)backend;
    cvy_free(block);
}

static cvy_status copy_bytes(nn_backend *backend, void *to, const void *from, size_t size_bytes)
{
    (void)backend;
    if (size_bytes > 0) memcpy(to, from, size_bytes);
    return CVY_OK;
}

static cvy_status sync_nothing(nn_backend *backend)
{
    (void)backend;
    return CVY_OK;
}

extern const nn_backend_ops nn_backend_ref;
const nn_backend_ops nn_backend_ref = {
    .name = "ref",
    .open = open_ref,
    .close = close_ref,
    .alloc = alloc_block,
    .release = release_block,
    .copy_in = copy_bytes,
    .copy_out = copy_bytes,
    .sync = sync_nothing,
    .activation_elems = nn_ref_activation_elems,
    .is_dense = nn_ref_is_dense,
    .pack = nn_ref_pack,
    .unpack = nn_ref_unpack,
    .copy_channels = nn_ref_copy_channels,
    .fill = nn_ref_fill,
    .copy = nn_ref_copy,
    .accumulate = nn_ref_accumulate,
    .add = nn_ref_add,
    .copy_rows = nn_ref_copy_rows,
    .conv2d_workspace_bytes = nn_ref_conv2d_workspace_bytes,
    .conv2d_forward = nn_ref_conv2d_forward,
    .conv2d_backward_data = nn_ref_conv2d_backward_data,
    .conv2d_backward_filter = nn_ref_conv2d_backward_filter,
    .dense_forward = nn_ref_dense_forward,
    .dense_backward = nn_ref_dense_backward,
    .batchnorm_forward = nn_ref_batchnorm_forward,
    .batchnorm_inference = nn_ref_batchnorm_inference,
    .batchnorm_backward = nn_ref_batchnorm_backward,
    .relu_forward = nn_ref_relu_forward,
    .relu_backward = nn_ref_relu_backward,
    .maxpool2d_forward = nn_ref_maxpool2d_forward,
    .maxpool2d_backward = nn_ref_maxpool2d_backward,
    .avgpool2d_forward = nn_ref_avgpool2d_forward,
    .avgpool2d_backward = nn_ref_avgpool2d_backward,
    .dropout_forward = nn_ref_dropout_forward,
    .dropout_backward = nn_ref_dropout_backward,
    .softmax_xent_forward = nn_ref_softmax_xent_forward,
    .softmax_xent_backward = nn_ref_softmax_xent_backward,
    .sgd_update = nn_ref_sgd_update,
    .average_update = nn_ref_average_update,
    .all_finite = nn_ref_all_finite,
};

static cvy_status open_ref(const nn_backend_options *options, nn_backend **out)
{
    nn_backend *backend = cvy_alloc_zero(1, sizeof *backend);

    (void)options; /* one thread, whatever is asked for */
    if (backend == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "backend ref");
    backend->ops = &nn_backend_ref;
    backend->n_threads = 1;
    *out = backend;
    return CVY_OK;
}
