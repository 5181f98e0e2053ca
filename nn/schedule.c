#include "nn/schedule.h"

#include "nn/choose_internal.h"
#include "nn/schedules/registry_internal.h"
#include "nn/schedules/schedule_internal.h"

#include "base/alloc.h"
#include "base/log.h"

struct nn_schedule {
    const nn_schedule_ops *ops;
    void *options; /* begins with a nn_schedule_common */
    int64_t steps_per_epoch, total_steps;
    double n_warmup; /* steps; may be a fraction */
};

cvy_status nn_schedule_create(cvy_node *section, int64_t steps_per_epoch, int64_t total_steps,
                              nn_schedule **out)
{
    cvy_status status = CVY_OK;
    nn_schedule *schedule = NULL;
    int idx = 0;

    *out = NULL;
    if (steps_per_epoch < 1 || total_steps < 1) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG,
                        "schedule of %lld steps, %lld per epoch: expected 1 or more of each",
                        (long long)total_steps, (long long)steps_per_epoch);
    }
    CVY_RETURN_IF_ERR(
        nn_choose_type(section, "schedule", nn_schedule_names, nn_schedule_count(), 0, &idx));
    schedule = cvy_alloc_zero(1, sizeof *schedule);
    if (schedule == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "schedule");
    schedule->ops = nn_schedule_at(idx);
    schedule->steps_per_epoch = steps_per_epoch;
    schedule->total_steps = total_steps;
    CVY_GOTO_IF_ERR(
        fail, status,
        nn_read_options(schedule->ops->options, schedule->ops->name, section, &schedule->options));

    const nn_schedule_common *common = schedule->options;
    schedule->n_warmup = common->warmup_epochs * (double)steps_per_epoch;
    if (schedule->n_warmup > (double)total_steps) {
        cvy_log_warn("schedule: the warm-up of %g epochs is longer than training (%g epochs): the "
                     "rate never reaches %g",
                     common->warmup_epochs, (double)total_steps / (double)steps_per_epoch,
                     common->lr);
    }
    *out = schedule;
    return CVY_OK;

fail:
    nn_schedule_destroy(&schedule);
    return status;
}

void nn_schedule_destroy(nn_schedule **schedule)
{
    if (schedule == NULL || *schedule == NULL) return;
    cvy_free((*schedule)->options);
    cvy_free(*schedule);
    *schedule = NULL;
}

double nn_schedule_lr(const nn_schedule *schedule, int64_t step)
{
    const nn_schedule_common *common = schedule->options;

    if ((double)step < schedule->n_warmup) {
        const double done = (double)step / schedule->n_warmup;
        return common->lr * (common->warmup_start + (1.0 - common->warmup_start) * done);
    }
    return schedule->ops->rate(schedule->options, step, schedule->steps_per_epoch,
                               schedule->total_steps);
}
