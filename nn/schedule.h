#ifndef NN_SCHEDULE_H
#define NN_SCHEDULE_H

#include "base/config.h"
#include "base/status.h"

#include <stdint.h>

/**
 * The learning rate of each step: a pure function of the step, so nothing is saved. One file and
 * one table line each in nn/schedules/: constant, step, cosine, polynomial.
 *
 * All take lr, warmup_epochs (may be a fraction; linear from lr * warmup_start to lr over those
 * steps: Goyal et al. 2017, arXiv:1706.02677) and warmup_start; the shape after the warm-up counts
 * from the start of training (milestones, total length) as PyTorch users expect.
 */
typedef struct nn_schedule nn_schedule;

typedef struct nn_schedule_ops {
    const char *name;
    const char *help;
    const cvy_config_table *options; /* tag_key "type" */
    /** Rate without warm-up at step of total. */
    double (*rate)(const void *options, int64_t step, int64_t steps_per_epoch, int64_t total_steps);
} nn_schedule_ops;

/** From the job's `schedule` section ({type: cosine, lr: 0.1, ...}); NULL: constant 0.1. */
cvy_status nn_schedule_create(cvy_node *section, int64_t steps_per_epoch, int64_t total_steps,
                              nn_schedule **out);
void nn_schedule_destroy(nn_schedule **schedule);
double nn_schedule_lr(const nn_schedule *schedule, int64_t step);

int nn_schedule_count(void);
const nn_schedule_ops *nn_schedule_at(int idx);

#endif
