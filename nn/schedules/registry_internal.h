#ifndef NN_SCHEDULES_REGISTRY_INTERNAL_H
#define NN_SCHEDULES_REGISTRY_INTERNAL_H

#include "nn/schedule.h"

/** [nn_schedule_count()] the names of the registered schedules, in their order. */
extern const char *const nn_schedule_names[];

#endif
