#ifndef WORKER_PARTS_H
#define WORKER_PARTS_H

#include "base/job.h"
#include "base/status.h"
#include "dataset/augment.h"
#include "dataset/store.h"
#include "nn/graph.h"
#include "nn/optimizer.h"
#include "nn/schedule.h"

#include <stdint.h>

/**
 * What a job is made of, built from its tree: datasets, pipelines, nets, optimizer, schedule.
 * Workers make theirs to train with; rank 0 makes and drops them before the start, so that whatever
 * is wrong with a job is said once, by one rank, before any step.
 */
typedef struct worker_parts {
    dataset_store *train_store, *val_store; /* val NULL: the job has no validation set */
    dataset_pipeline *train_pipeline, *val_pipeline;
    nn_graph *train_graph; /* minibatch of the job */
    nn_graph *eval_graph;  /* minibatch of evaluations */
    nn_optimizer *optimizer;
    nn_schedule *schedule;
    int64_t n_train, n_val; /* records */
    int n_classes;
    int64_t global_batch;
    int64_t steps_per_epoch; /* the partial last global batch is dropped */
    int64_t total_steps;
} worker_parts;

typedef struct worker_parts_options {
    int is_quiet;      /* log nothing at info level */
    int is_evaluation; /* the validation set and eval_graph alone are needed */
} worker_parts_options;

/**
 * Build all parts. Adds the defaults of the owners' tables to the tree (and the number of classes,
 * when the job leaves it out), so that printing it afterwards gives the resolved job.
 *
 * @param root  the job's tree; job was read from it and both outlive the parts.
 * @return CVY_ERR_CONFIG, CVY_ERR_BAD_DATA, CVY_ERR_NOT_FOUND ..., logged once.
 */
cvy_status worker_parts_create(cvy_node *root, const cvy_job *job,
                               const worker_parts_options *options, worker_parts **out);
void worker_parts_destroy(worker_parts **parts);

#endif
