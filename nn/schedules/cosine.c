/* rate = min_lr + (lr - min_lr) (1 + cos(pi t / T)) / 2 at step t of T: PyTorch's CosineAnnealingLR
 * advanced per step (Loshchilov & Hutter 2016, arXiv:1608.03983, without restarts). */

#include "nn/schedules/schedule_internal.h"

#include <math.h>

typedef struct cosine_options {
    nn_schedule_common common;
    double min_lr;
} cosine_options;

static const cvy_config_field fields[] = {
    NN_SCHEDULE_COMMON_FIELDS(cosine_options),
    {.key = "min_lr",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(cosine_options, min_lr),
     .default_text = "0",
     .min = 0,
     .max = 1e6,
     .help = "rate at the end of training"},
};

static const cvy_config_table table = {.name = "schedule cosine",
                                       .struct_size = sizeof(cosine_options),
                                       .tag_key = "type",
                                       .n_fields = sizeof fields / sizeof fields[0],
                                       .fields = fields};

static double rate(const void *any, int64_t step, int64_t steps_per_epoch, int64_t total_steps)
{
    static const double pi = 3.14159265358979323846;
    const cosine_options *options = any;
    const double done = step < total_steps ? (double)step / (double)total_steps : 1.0;

    (void)steps_per_epoch;
    return options->min_lr + (options->common.lr - options->min_lr) * (1.0 + cos(pi * done)) / 2.0;
}

extern const nn_schedule_ops nn_schedule_cosine;
const nn_schedule_ops nn_schedule_cosine = {
    .name = "cosine", .help = "half a cosine from lr to min_lr", .options = &table, .rate = rate};
