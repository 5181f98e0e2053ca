#include "nn/optimizers/registry_internal.h"

/* The only list of optimizers; index 0 is the default. */
#define NN_OPTIMIZER_LIST(X) X(sgd)

#define X(name) extern const nn_optimizer_ops nn_optimizer_##name;
NN_OPTIMIZER_LIST(X)
#undef X

static const nn_optimizer_ops *const optimizer_table[] = {
#define X(name) &nn_optimizer_##name,
    NN_OPTIMIZER_LIST(X)
#undef X
};

const char *const nn_optimizer_names[] = {
#define X(name) #name,
    NN_OPTIMIZER_LIST(X)
#undef X
};

enum { N_OPTIMIZERS = sizeof optimizer_table / sizeof optimizer_table[0] };

int nn_optimizer_count(void)
{
    return N_OPTIMIZERS;
}

const nn_optimizer_ops *nn_optimizer_at(int idx)
{
    return idx >= 0 && idx < N_OPTIMIZERS ? optimizer_table[idx] : NULL;
}
