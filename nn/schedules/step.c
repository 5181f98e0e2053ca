/* rate = lr * gamma^(milestones that have passed): PyTorch's MultiStepLR. A milestone of m epochs
 * has passed from step ceil(m * steps_per_epoch) on, so whole epochs change the rate where PyTorch
 * does and fractions are allowed. */

#include "nn/schedules/schedule_internal.h"

#include <math.h>

typedef struct step_options {
    nn_schedule_common common;
    cvy_real_list milestones;
    double gamma;
} step_options;

static const cvy_config_field fields[] = {
    NN_SCHEDULE_COMMON_FIELDS(step_options),
    {.key = "milestones",
     .type = CVY_CONFIG_REAL_LIST,
     .offset = offsetof(step_options, milestones),
     .is_required = 1,
     .min = 0,
     .max = 1e9,
     .unit = "epochs",
     .help = "when the rate is multiplied by gamma, counted from the start of training"},
    {.key = "gamma",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(step_options, gamma),
     .default_text = "0.1",
     .min = 0,
     .max = 1e3,
     .help = "factor at each milestone"},
};

static const cvy_config_table table = {.name = "schedule step",
                                       .struct_size = sizeof(step_options),
                                       .tag_key = "type",
                                       .n_fields = sizeof fields / sizeof fields[0],
                                       .fields = fields};

static double rate(const void *any, int64_t step, int64_t steps_per_epoch, int64_t total_steps)
{
    const step_options *options = any;
    int n_passed = 0;

    (void)total_steps;
    for (int i = 0; i < options->milestones.n; i++) {
        n_passed += (double)step >= options->milestones.value[i] * (double)steps_per_epoch;
    }
    return options->common.lr * pow(options->gamma, n_passed);
}

extern const nn_schedule_ops nn_schedule_step;
const nn_schedule_ops nn_schedule_step = {
    .name = "step", .help = "lr x gamma at each milestone", .options = &table, .rate = rate};
