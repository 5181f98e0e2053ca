#include "nn/schedules/registry_internal.h"

/* The only list of schedules; index 0 is the default. */
#define NN_SCHEDULE_LIST(X) X(constant) X(step) X(cosine) X(polynomial)

#define X(name) extern const nn_schedule_ops nn_schedule_##name;
NN_SCHEDULE_LIST(X)
#undef X

static const nn_schedule_ops *const schedule_table[] = {
#define X(name) &nn_schedule_##name,
    NN_SCHEDULE_LIST(X)
#undef X
};

const char *const nn_schedule_names[] = {
#define X(name) #name,
    NN_SCHEDULE_LIST(X)
#undef X
};

enum { N_SCHEDULES = sizeof schedule_table / sizeof schedule_table[0] };

int nn_schedule_count(void)
{
    return N_SCHEDULES;
}

const nn_schedule_ops *nn_schedule_at(int idx)
{
    return idx >= 0 && idx < N_SCHEDULES ? schedule_table[idx] : NULL;
}
