#include "nn/backends/cpu/cpu_internal.h"

#include "base/alloc.h"
#include "nn/backends/cpu/layout_internal.h"

#include <string.h>

void nn_cpu_run(nn_backend *backend, int64_t n_chunks, cvy_pool_task task, void *arg)
{
    if (n_chunks == 1) {
        task(arg, 0, 0);
    } else if (n_chunks > 1) {
        cvy_pool_run(((nn_cpu *)backend)->pool, n_chunks, task, arg);
    }
}

nn_cpu_span nn_cpu_part(int64_t n, int64_t part_size, int64_t idx)
{
    const int64_t first = idx * part_size;

    return (nn_cpu_span){first, nn_cpu_least(part_size, n - first)};
}

static cvy_status open_cpu(const nn_backend_options *options, nn_backend **out);

static void close_cpu(nn_backend *backend)
{
    if (backend != NULL) {
        cvy_pool_destroy(&((nn_cpu *)backend)->pool);
        cvy_free(((nn_cpu *)backend)->partials);
        cvy_free(((nn_cpu *)backend)->lines);
    }
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

/* Kernels return when they are done. */
static cvy_status sync_nothing(nn_backend *backend)
{
    (void)backend;
    return CVY_OK;
}

extern const nn_backend_ops nn_backend_cpu;
const nn_backend_ops nn_backend_cpu = {
    .name = "cpu",
    .open = open_cpu,
    .close = close_cpu,
    .alloc = alloc_block,
    .release = release_block,
    .copy_in = copy_bytes,
    .copy_out = copy_bytes,
    .sync = sync_nothing,
    .activation_elems = nn_cpu_activation_elems,
    .is_dense = nn_cpu_is_dense,
    .pack = nn_cpu_pack,
    .unpack = nn_cpu_unpack,
    .copy_channels = nn_cpu_copy_channels,
    .fill = nn_cpu_fill,
    .copy = nn_cpu_copy,
    .accumulate = nn_cpu_accumulate,
    .add = nn_cpu_add,
    .copy_rows = nn_cpu_copy_rows,
    .conv2d_workspace_bytes = nn_cpu_conv2d_workspace_bytes,
    .conv2d_forward = nn_cpu_conv2d_forward,
    .conv2d_tail_forward = nn_cpu_conv2d_tail_forward,
    .conv2d_backward_data = nn_cpu_conv2d_backward_data,
    .conv2d_backward_filter = nn_cpu_conv2d_backward_filter,
    .dense_forward = nn_cpu_dense_forward,
    .dense_backward = nn_cpu_dense_backward,
    .batchnorm_forward = nn_cpu_batchnorm_forward,
    .batchnorm_inference = nn_cpu_batchnorm_inference,
    .batchnorm_backward = nn_cpu_batchnorm_backward,
    .norm_chain_forward = nn_cpu_norm_chain_forward,
    .norm_chain_again = nn_cpu_norm_chain_again,
    .norm_chain_backward = nn_cpu_norm_chain_backward,
    .relu_forward = nn_cpu_relu_forward,
    .relu_backward = nn_cpu_relu_backward,
    .maxpool2d_forward = nn_cpu_maxpool2d_forward,
    .maxpool2d_backward = nn_cpu_maxpool2d_backward,
    .avgpool2d_forward = nn_cpu_avgpool2d_forward,
    .avgpool2d_backward = nn_cpu_avgpool2d_backward,
    .dropout_forward = nn_cpu_dropout_forward,
    .dropout_backward = nn_cpu_dropout_backward,
    .softmax_xent_forward = nn_cpu_softmax_xent_forward,
    .softmax_xent_backward = nn_cpu_softmax_xent_backward,
    .sgd_update = nn_cpu_sgd_update,
    .average_update = nn_cpu_average_update,
    .all_finite = nn_cpu_all_finite,
};

static cvy_status open_cpu(const nn_backend_options *options, nn_backend **out)
{
    cvy_status status = CVY_OK;
    nn_cpu *cpu = cvy_alloc_zero(1, sizeof *cpu);

    if (cpu == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "backend cpu");
    cpu->base.ops = &nn_backend_cpu;
    cpu->base.n_threads = options->n_threads;
    cpu->partials = cvy_alloc_zero(NN_CPU_N_PARTIALS * NN_CPU_PARTIAL, sizeof *cpu->partials);
    cpu->lines = cvy_alloc_zero(NN_CPU_N_PARTIALS * NN_CPU_LINE, sizeof *cpu->lines);
    if (cpu->partials == NULL || cpu->lines == NULL) {
        close_cpu(&cpu->base);
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "backend cpu");
    }
    nn_cpu_gemm_open();
    CVY_GOTO_IF_ERR(fail, status, nn_cpu_gemm_check(nn_cpu_gemm));
    CVY_GOTO_IF_ERR(fail, status, cvy_pool_create(options->n_threads, &cpu->pool));
    *out = &cpu->base;
    return CVY_OK;

fail:
    close_cpu(&cpu->base);
    return status;
}
