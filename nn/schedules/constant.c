/* rate = lr. */

#include "nn/schedules/schedule_internal.h"

typedef struct constant_options {
    nn_schedule_common common;
} constant_options;

static const cvy_config_field fields[] = {NN_SCHEDULE_COMMON_FIELDS(constant_options)};

static const cvy_config_table table = {.name = "schedule constant",
                                       .struct_size = sizeof(constant_options),
                                       .tag_key = "type",
                                       .n_fields = sizeof fields / sizeof fields[0],
                                       .fields = fields};

static double rate(const void *any, int64_t step, int64_t steps_per_epoch, int64_t total_steps)
{
    const constant_options *options = any;

    (void)step;
    (void)steps_per_epoch;
    (void)total_steps;
    return options->common.lr;
}

extern const nn_schedule_ops nn_schedule_constant;
const nn_schedule_ops nn_schedule_constant = {
    .name = "constant", .help = "lr throughout", .options = &table, .rate = rate};
