#ifndef NN_SCHEDULES_SCHEDULE_INTERNAL_H
#define NN_SCHEDULES_SCHEDULE_INTERNAL_H

#include "nn/schedule.h"

#include <stddef.h>

/** What every schedule takes: the first member of each one's options, called `common`. */
typedef struct nn_schedule_common {
    double lr;
    double warmup_epochs;
    double warmup_start;
} nn_schedule_common;

/** The table lines of these keys, first in each schedule's fields. */
#define NN_SCHEDULE_COMMON_FIELDS(options_type)                                                    \
    {.key = "lr",                                                                                  \
     .type = CVY_CONFIG_REAL,                                                                      \
     .offset = offsetof(options_type, common.lr),                                                  \
     .default_text = "0.1",                                                                        \
     .min = 0,                                                                                     \
     .max = 1e6,                                                                                   \
     .help = "peak learning rate"},                                                                \
        {.key = "warmup_epochs",                                                                   \
         .type = CVY_CONFIG_REAL,                                                                  \
         .offset = offsetof(options_type, common.warmup_epochs),                                   \
         .default_text = "0",                                                                      \
         .min = 0,                                                                                 \
         .max = 1e6,                                                                               \
         .unit = "epochs",                                                                         \
         .help = "rise linearly, step by step, from lr x warmup_start to lr; may be a fraction"},  \
    {                                                                                              \
        .key = "warmup_start", .type = CVY_CONFIG_REAL,                                            \
        .offset = offsetof(options_type, common.warmup_start), .default_text = "0.01", .min = 0,   \
        .max = 1, .help = "share of lr at which the warm-up starts"                                \
    }

#endif
