#include "launch/job_setup.h"

#include <string.h>

static cvy_status read_job(launch_job *job)
{
    const cvy_status status = cvy_job_read(job->root, &job->job);

    if (status != CVY_OK) launch_job_close(job);
    return status;
}

cvy_status launch_job_load(const char *path, const launch_list *sets, launch_job *out)
{
    *out = (launch_job){.root = NULL};
    CVY_RETURN_IF_ERR(cvy_node_parse_file(path, &out->root));
    for (int i = 0; i < sets->n; i++) {
        const cvy_status status = cvy_node_set(out->root, sets->value[i]);
        if (status == CVY_OK) continue;
        launch_job_close(out);
        return status;
    }
    return read_job(out);
}

cvy_status launch_job_parse(const char *text, size_t size_bytes, launch_job *out)
{
    *out = (launch_job){.root = NULL};
    CVY_RETURN_IF_ERR(cvy_node_parse(text, size_bytes, "resolved job", &out->root));
    return read_job(out);
}

void launch_job_close(launch_job *job)
{
    cvy_node_destroy(&job->root);
    memset(&job->job, 0, sizeof job->job);
}

void launch_job_describe(const launch_job *job, const worker_parts *parts, coordinator_parts *out)
{
    const dataset_info *train = parts->train_store != NULL ? dataset_store_info(parts->train_store)
                                                           : NULL;
    const dataset_info *val = parts->val_store != NULL ? dataset_store_info(parts->val_store)
                                                       : NULL;
    const dataset_info *named = train != NULL && train->n_classes == parts->n_classes ? train : val;
    const cvy_node *arch = cvy_node_find(job->job.model, "arch");
    const nn_graph *graph = parts->train_graph != NULL ? parts->train_graph : parts->eval_graph;

    *out = (coordinator_parts){
        .arch = cvy_node_is_null(arch) ? "net" : cvy_node_text(arch),
        .n_classes = parts->n_classes,
        .class_names = named != NULL && named->n_classes == parts->n_classes ? named->class_names
                                                                             : NULL,
        .n_train = parts->n_train,
        .n_val = parts->n_val,
        .steps_per_epoch = parts->steps_per_epoch > 0 ? parts->steps_per_epoch : 1,
        .total_steps = parts->total_steps,
        .global_batch = parts->global_batch,
        .train_identity = train != NULL ? train->identity : 0,
        .val_identity = val != NULL ? val->identity : 0,
        .checkpoint_bytes =
            nn_graph_params(graph)->n_elems * (int64_t)sizeof(float) *
            (1 + (parts->optimizer != NULL ? nn_optimizer_get_ops(parts->optimizer)->n_states : 0)),
    };
}
