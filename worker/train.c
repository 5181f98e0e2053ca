#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/log.h"
#include "worker/worker_internal.h"

#include <math.h>

/*
 * One step, as docs/architecture.md tells it: every carried replica forward and backward, ordered
 * reduction overlapped with the last backward, one small exchange of flags, the update of the own
 * segments, and the new weights gathered.
 */

/* What all workers must know of each other before the update; maxima over workers. */
enum { FLAG_SKIP, FLAG_PAUSE, FLAG_HASH, FLAG_HASH_INVERSE, N_FLAGS };

int64_t worker_nth_training(const void *arg, int64_t k, dataset_item *items)
{
    const worker_train_plan *plan = arg;
    const int64_t step = plan->start_step + k / plan->n_replicas;
    const int64_t replica = plan->first_replica + k % plan->n_replicas;
    const int64_t epoch = step / plan->steps_per_epoch;
    const int64_t first = step % plan->steps_per_epoch * plan->global_batch +
                          replica * plan->minibatch;

    for (int64_t i = 0; i < plan->minibatch; i++) {
        items[i].epoch = epoch;
        items[i].position = first + i;
        items[i].record = dataset_sampler_record(&plan->sampler, epoch, first + i);
    }
    return plan->minibatch;
}

int worker_loader_threads(const worker *w)
{
    const int64_t n = w->job->data.loader_threads;
    return n > 0 ? (int)n : w->backend->n_threads;
}

static cvy_status open_loader(worker *w)
{
    const cvy_job *job = w->job;
    const dataset_loader_options options = {.minibatch = job->minibatch,
                                            .n_threads = worker_loader_threads(w),
                                            .read_ahead = (int)job->data.read_ahead,
                                            .seed = (uint64_t)job->seed,
                                            .substitute_bad = 1};

    w->plan = (worker_train_plan){
        .sampler = {.seed = (uint64_t)job->seed, .n = w->parts->n_train},
        .start_step = w->step,
        .first_replica = w->first_replica,
        .n_replicas = w->n_replicas,
        .minibatch = job->minibatch,
        .global_batch = w->parts->global_batch,
        .steps_per_epoch = w->parts->steps_per_epoch,
    };
    return dataset_loader_create(w->parts->train_store, w->parts->train_pipeline, &options,
                                 worker_nth_training, &w->plan, &w->loader);
}

static cvy_status on_ready(void *arg, int64_t from_offset)
{
    worker *w = arg;
    return comm_reducer_ready(w->reducer, from_offset);
}

static cvy_status run_replica(worker *w, int64_t replica)
{
    dataset_batch data;

    worker_enter(w, COMM_PHASE_DATA);
    double now_s = cvy_clock_now_s();
    (void)cvy_fault_at("step.data", w->step, NULL);
    CVY_RETURN_IF_ERR(worker_next_batch(w, w->loader, &data));
    double before_s = now_s;
    now_s = cvy_clock_now_s();
    w->tally.data_wait_s += now_s - before_s;

    const nn_batch batch = {.n = data.n,
                            .images = data.images,
                            .labels = data.labels,
                            .is_training = 1,
                            .seed = (uint64_t)w->job->seed,
                            .step = (uint64_t)w->step,
                            .replica = (uint64_t)replica};
    float *grads = comm_reducer_begin(w->reducer, replica);
    worker_enter(w, COMM_PHASE_FORWARD);
    (void)cvy_fault_at("step.forward", w->step, NULL);
    CVY_RETURN_IF_ERR(nn_net_forward(w->train_net, &batch, w->weights, grads));
    if (cvy_fault_at("step.loss", w->step, NULL) == CVY_FAULT_NAN)
        grads[w->params->tail_offset + NN_TAIL_LOSS] = NAN;
    worker_enter(w, COMM_PHASE_BACKWARD);
    (void)cvy_fault_at("step.backward", w->step, NULL);
    CVY_RETURN_IF_ERR(nn_net_backward(w->train_net, &batch, w->weights, grads, on_ready, w));
    CVY_RETURN_IF_ERR(comm_reducer_ready(w->reducer, 0));
    before_s = now_s;
    now_s = cvy_clock_now_s();
    w->tally.compute_s += now_s - before_s;
    w->busy_s += now_s - before_s;
    return CVY_OK;
}

/* Whether the summed gradients of the own segments are all finite; the sums of losses ride among
 * them, so a replica whose loss is not finite is seen by the owner of the tail. */
static cvy_status own_sums_are_finite(worker *w, int *out)
{
    *out = 1;
    for (int bucket = 0; bucket < comm_reducer_n_buckets(w->reducer) && *out; bucket++) {
        int64_t offset = 0, n = 0;
        comm_reducer_segment(w->reducer, bucket, comm_rank(w->workers), &offset, &n);
        if (n == 0) continue;
        float *sum = comm_reducer_sum(w->reducer, bucket);
        if (cvy_fault_at("step.gradient", w->step, NULL) == CVY_FAULT_NAN) sum[0] = NAN;
        CVY_RETURN_IF_ERR(w->backend->ops->all_finite(w->backend, n, sum, out));
    }
    return CVY_OK;
}

static cvy_status update_own_segments(worker *w)
{
    const nn_update update = {.lr = nn_schedule_lr(w->parts->schedule, w->step),
                              .step = w->step,
                              .grad_scale = 1.0 / (double)w->parts->global_batch,
                              .stat_scale = 1.0 / (double)w->job->replicas};
    float *state[NN_OPTIMIZER_MAX_STATES];

    for (int i = 0; i < w->n_states; i++) state[i] = w->state[i];
    for (int bucket = 0; bucket < comm_reducer_n_buckets(w->reducer); bucket++) {
        int64_t offset = 0, n = 0;
        comm_reducer_segment(w->reducer, bucket, comm_rank(w->workers), &offset, &n);
        if (n == 0) continue;
        CVY_RETURN_IF_ERR(nn_optimizer_update(w->parts->optimizer, w->backend, w->params, &update,
                                              offset, n, comm_reducer_sum(w->reducer, bucket),
                                              state, w->weights + offset));
        for (int i = 0; i < w->n_states; i++) state[i] += n;
    }
    return CVY_OK;
}

/* The workers' weights were compared and differ: name the minority. Collective. */
static cvy_status name_drifted(worker *w, uint64_t mine)
{
    enum { MAX_NAMED = 4096 };
    const int n = comm_size(w->workers);
    uint64_t *all = NULL;

    if (worker_is_lead(w)) {
        all = cvy_alloc((size_t)n * sizeof *all);
        if (all == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "weights' hashes of %d workers", n);
    }
    const cvy_status status = comm_gather(w->workers, &mine, sizeof mine, 0, all,
                                          worker_step_deadline(w));
    if (status != CVY_OK || all == NULL) {
        cvy_free(all);
        return status != CVY_OK ? status : CVY_ERR_NUMERIC;
    }
    int n_best = 0;
    uint64_t best = all[0];
    for (int i = 0; i < n; i++) {
        int n_same = 0;
        for (int j = 0; j < n; j++) n_same += all[j] == all[i];
        if (n_same > n_best) {
            n_best = n_same;
            best = all[i];
        }
    }
    for (int i = 0; i < n && i < MAX_NAMED; i++) {
        if (all[i] == best && n_best > n / 2) continue;
        cvy_log_error("rank %d on %s: its weights differ from %s at step %lld", i + 1,
                      comm_host(w->workers, i),
                      n_best > n / 2 ? "the other workers'" : "another worker's, no majority",
                      (long long)w->step);
    }
    cvy_free(all);
    return CVY_ERR_NUMERIC;
}

static int is_hash_step(const worker *w)
{
    return w->job->hash_every_steps > 0 && w->step % w->job->hash_every_steps == 0;
}

static uint64_t hash_weights(const worker *w)
{
    /* One bit less, so that its negative is a number too. */
    return cvy_hash64(w->weights, (size_t)w->params->tail_offset * sizeof(float)) >> 1;
}

cvy_status worker_compare_weights(worker *w)
{
    const uint64_t mine = hash_weights(w);
    int64_t extremes[2] = {(int64_t)mine, -(int64_t)mine};

    CVY_RETURN_IF_ERR(comm_max_i64(w->workers, extremes, 2, worker_step_deadline(w)));
    return extremes[0] == -extremes[1] ? CVY_OK : name_drifted(w, mine);
}

static cvy_status exchange_flags(worker *w, int is_skipped, int64_t flags[N_FLAGS])
{
    uint64_t hash = 0;

    if (is_hash_step(w)) {
        if (cvy_fault_at("weights", w->step, NULL) == CVY_FAULT_FLIP) w->weights[0] += 1e-3f;
        hash = hash_weights(w);
    }
    flags[FLAG_SKIP] = is_skipped;
    flags[FLAG_PAUSE] = w->is_paused;
    flags[FLAG_HASH] = (int64_t)hash;
    flags[FLAG_HASH_INVERSE] = -(int64_t)hash;
    CVY_RETURN_IF_ERR(comm_max_i64(w->workers, flags, N_FLAGS, worker_step_deadline(w)));
    if (flags[FLAG_HASH] != -flags[FLAG_HASH_INVERSE]) return name_drifted(w, hash);
    return CVY_OK;
}

static cvy_status skip_step(worker *w)
{
    w->n_skipped++;
    w->n_skipped_in_row++;
    if (worker_is_lead(w)) {
        cvy_log_warn("step %lld: a loss or gradient is not finite, the update is skipped (%lld in "
                     "a row)",
                     (long long)w->step, (long long)w->n_skipped_in_row);
    }
    if (w->n_skipped_in_row < w->job->max_nan_steps) return CVY_OK;
    if (!worker_is_lead(w)) return CVY_ERR_NUMERIC;
    return CVY_FAIL(CVY_ERR_NUMERIC,
                    "step %lld: %lld updates in a row were not finite: lower schedule.lr or give a "
                    "longer warm-up",
                    (long long)w->step, (long long)w->n_skipped_in_row);
}

static void tally_step(worker *w, int is_skipped)
{
    const float *tail = w->weights + w->params->tail_offset;

    w->tally.n_steps++;
    w->tally.n_skipped += is_skipped;
    if (is_skipped) return;
    w->tally.loss += tail[NN_TAIL_LOSS];
    w->tally.n_top1 += tail[NN_TAIL_TOP1];
    w->tally.n_top5 += tail[NN_TAIL_TOP5];
}

static cvy_status tell_metrics(worker *w)
{
    const double now_s = cvy_clock_now_s();
    worker_tally *tally = &w->tally;
    int64_t bytes = 0;
    double wait_s = 0;
    cvy_alloc_counts allocations;

    if (worker_is_lead(w) && tally->n_steps > 0) {
        const int64_t n_counted = (tally->n_steps - tally->n_skipped) * w->parts->global_batch;
        comm_reducer_figures(w->reducer, &bytes, &wait_s);
        cvy_alloc_count(&allocations);
        const comm_metrics metrics = {.step = w->step,
                                      .n_steps = tally->n_steps,
                                      .n_samples = tally->n_steps * w->parts->global_batch,
                                      .n_counted = n_counted,
                                      .loss = tally->loss / (double)n_counted,
                                      .n_top1 = tally->n_top1,
                                      .n_top5 = tally->n_top5,
                                      .lr = nn_schedule_lr(w->parts->schedule, w->step - 1),
                                      .seconds = now_s - tally->since_s,
                                      .data_wait_s = tally->data_wait_s,
                                      .compute_s = tally->compute_s,
                                      .reduce_s = tally->reduce_s,
                                      .update_s = tally->update_s,
                                      .n_skipped = w->n_skipped,
                                      .reduce_bytes = bytes,
                                      .n_allocations = allocations.n_ever};
        CVY_RETURN_IF_ERR(COMM_SEND(w->world, 0, COMM_METRICS, metrics));
    }
    *tally = (worker_tally){.since_s = now_s};
    return CVY_OK;
}

static cvy_status run_step(worker *w, int *out_is_paused)
{
    const double start_s = cvy_clock_now_s();
    int64_t flags[N_FLAGS];
    int is_finite = 1;

    w->pulse.beat.step = w->step;
    w->busy_s = 0;
    for (int64_t i = 0; i < w->n_replicas; i++)
        CVY_RETURN_IF_ERR(run_replica(w, w->first_replica + i));

    worker_enter(w, COMM_PHASE_REDUCE);
    double now_s = cvy_clock_now_s();
    (void)cvy_fault_at("step.reduce", w->step, NULL);
    CVY_RETURN_IF_ERR(comm_reducer_finish(w->reducer, worker_step_deadline(w)));
    CVY_RETURN_IF_ERR(own_sums_are_finite(w, &is_finite));
    CVY_RETURN_IF_ERR(exchange_flags(w, !is_finite, flags));
    double before_s = now_s;
    now_s = cvy_clock_now_s();
    w->tally.reduce_s += now_s - before_s;

    worker_enter(w, COMM_PHASE_UPDATE);
    (void)cvy_fault_at("step.update", w->step, NULL);
    if (flags[FLAG_SKIP]) {
        CVY_RETURN_IF_ERR(skip_step(w));
    } else {
        w->n_skipped_in_row = 0;
        CVY_RETURN_IF_ERR(update_own_segments(w));
        CVY_RETURN_IF_ERR(comm_reducer_gather(w->reducer, w->weights, worker_step_deadline(w)));
    }
    w->step++;
    tally_step(w, flags[FLAG_SKIP] != 0);
    now_s = cvy_clock_now_s();
    w->tally.update_s += now_s - before_s;
    w->progress_at_s = now_s;
    w->pulse.beat.n_progress++;
    w->pulse.beat.step_s = (float)(now_s - start_s);
    w->pulse.beat.busy_s = (float)w->busy_s; /* of whole steps only */
    if (w->first_step_s <= 0) w->first_step_s = now_s;
    /* A slowly forgetting maximum: one slow step does not stretch the deadline for ever. */
    w->slowest_step_s *= 0.99;
    if (now_s - start_s > w->slowest_step_s) w->slowest_step_s = now_s - start_s;
    *out_is_paused = flags[FLAG_PAUSE] != 0;
    return CVY_OK;
}

cvy_status worker_train(worker *w, const comm_train *command)
{
    int is_paused = 0;

    if (w->loader == NULL) CVY_RETURN_IF_ERR(open_loader(w));
    w->tally = (worker_tally){.since_s = cvy_clock_now_s()};
    while (w->step < command->until_step && !is_paused) {
        CVY_RETURN_IF_ERR(run_step(w, &is_paused));
        CVY_RETURN_IF_ERR(worker_attend(w));
        CVY_RETURN_IF_ERR(worker_tell_bad_records(w, w->loader, 0));
        if (w->step % w->parts->steps_per_epoch == 0)
            CVY_RETURN_IF_ERR(dataset_store_recheck(w->parts->train_store));
        if (w->tally.n_steps >= w->job->metrics_every_steps) CVY_RETURN_IF_ERR(tell_metrics(w));
    }
    CVY_RETURN_IF_ERR(tell_metrics(w));
    const comm_trained trained = {.step = w->step,
                                  .status = CVY_OK,
                                  .was_paused = is_paused,
                                  .first_step_s = w->first_step_s};
    return COMM_SEND(w->world, 0, COMM_TRAINED, trained);
}
