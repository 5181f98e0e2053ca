/* rate = min_lr + (lr - min_lr) (1 - t / T)^power at step t of T: PyTorch's PolynomialLR (min_lr 0)
 * advanced per step; power 2 is the schedule of LARS (You et al. 2017, arXiv:1708.03888). */

#include "nn/schedules/schedule_internal.h"

#include <math.h>

typedef struct polynomial_options {
    nn_schedule_common common;
    double power;
    double min_lr;
} polynomial_options;

static const cvy_config_field fields[] = {
    NN_SCHEDULE_COMMON_FIELDS(polynomial_options),
    {.key = "power",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(polynomial_options, power),
     .default_text = "1",
     .min = 0,
     .max = 100,
     .help = "1: a straight line"},
    {.key = "min_lr",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(polynomial_options, min_lr),
     .default_text = "0",
     .min = 0,
     .max = 1e6,
     .help = "rate at the end of training"},
};

static const cvy_config_table table = {.name = "schedule polynomial",
                                       .struct_size = sizeof(polynomial_options),
                                       .tag_key = "type",
                                       .n_fields = sizeof fields / sizeof fields[0],
                                       .fields = fields};

static double rate(const void *any, int64_t step, int64_t steps_per_epoch, int64_t total_steps)
{
    const polynomial_options *options = any;
    const double left = step < total_steps ? 1.0 - (double)step / (double)total_steps : 0.0;

    (void)steps_per_epoch;
    return options->min_lr + (options->common.lr - options->min_lr) * pow(left, options->power);
}

extern const nn_schedule_ops nn_schedule_polynomial;
const nn_schedule_ops nn_schedule_polynomial = {.name = "polynomial",
                                                .help = "(1 - t / T)^power from lr to min_lr",
                                                .options = &table,
                                                .rate = rate};
