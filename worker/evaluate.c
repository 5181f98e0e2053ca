#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "worker/worker_internal.h"

/*
 * Exact evaluation: batch b holds the records [b M, (b + 1) M) of the validation set, worker b mod
 * W computes it. So each record is computed once, in the same batch at any number of workers, and
 * its figures have the same bits.
 */

int64_t worker_nth_evaluation(const void *arg, int64_t k, dataset_item *items)
{
    const worker_evaluate_plan *plan = arg;
    const int64_t first = (k * plan->n_workers + plan->worker) * plan->minibatch;
    int64_t n = plan->n_records - first;

    if (n <= 0) return 0;
    if (n > plan->minibatch) n = plan->minibatch;
    for (int64_t i = 0; i < n; i++)
        items[i] = (dataset_item){.record = first + i, .epoch = 0, .position = first + i};
    return n;
}

static cvy_status run_batch(worker *w, const dataset_batch *data, comm_result *results)
{
    const nn_batch batch = {
        .n = data->n, .images = data->images, .labels = data->labels, .is_training = 0};

    CVY_RETURN_IF_ERR(nn_net_forward(w->eval_net, &batch, w->weights, NULL));
    const nn_outcome *outcome = nn_net_outcome(w->eval_net);
    for (int64_t i = 0; i < data->n; i++) {
        results[i] = (comm_result){.record = data->records[i],
                                   .loss = outcome->loss[i],
                                   .confidence = outcome->confidence[i],
                                   .label = data->labels[i],
                                   .predicted = outcome->predicted[i],
                                   .rank = outcome->rank[i]};
        if (data->is_bad[i]) results[i] = (comm_result){.record = data->records[i], .rank = -1};
    }
    return comm_send(w->world, 0, COMM_RESULTS, results, (size_t)data->n * sizeof *results);
}

static cvy_status run_batches(worker *w, dataset_loader *loader, comm_result *results,
                              int64_t *n_results)
{
    dataset_batch data;

    while (!w->is_paused) {
        (void)cvy_fault_at("evaluate", w->step, NULL);
        CVY_RETURN_IF_ERR(worker_next_batch(w, loader, &data));
        if (data.n == 0) break;
        CVY_RETURN_IF_ERR(run_batch(w, &data, results));
        *n_results += data.n;
        w->pulse.beat.n_progress++;
        w->progress_at_s = cvy_clock_now_s();
        CVY_RETURN_IF_ERR(worker_tell_bad_records(w, loader, 1));
        CVY_RETURN_IF_ERR(worker_attend(w));
    }
    return worker_tell_bad_records(w, loader, 1);
}

cvy_status worker_evaluate(worker *w, const comm_evaluate *command)
{
    cvy_status status = CVY_OK;
    dataset_loader *loader = NULL;
    comm_result *results = NULL;
    const double start_s = cvy_clock_now_s();
    comm_evaluated evaluated = {.step = command->step};

    worker_enter(w, COMM_PHASE_EVALUATE);
    if (w->eval_net == NULL)
        return CVY_FAIL(CVY_ERR_INTERNAL, "told to evaluate a job without a validation set");
    const worker_evaluate_plan plan = {.n_records = w->parts->n_val,
                                       .minibatch = nn_graph_minibatch(w->parts->eval_graph),
                                       .n_workers = comm_size(w->workers),
                                       .worker = comm_rank(w->workers)};
    const dataset_loader_options options = {.minibatch = plan.minibatch,
                                            .n_threads = worker_loader_threads(w),
                                            .read_ahead = (int)w->job->data.read_ahead,
                                            .seed = (uint64_t)w->job->seed,
                                            .substitute_bad = 0};

    results = cvy_alloc((size_t)plan.minibatch * sizeof *results);
    if (results == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "results of one minibatch");
    CVY_GOTO_IF_ERR(done, status,
                    dataset_loader_create(w->parts->val_store, w->parts->val_pipeline, &options,
                                          worker_nth_evaluation, &plan, &loader));
    CVY_GOTO_IF_ERR(done, status, run_batches(w, loader, results, &evaluated.n_results));
    if (w->is_paused) evaluated.status = CVY_ERR_STOPPED;
    evaluated.seconds = cvy_clock_now_s() - start_s;
    status = COMM_SEND(w->world, 0, COMM_EVALUATED, evaluated);

done:
    dataset_loader_destroy(&loader);
    cvy_free(results);
    return status;
}
