#include "nn/models/models_internal.h"

#include <string.h>

/* The only list of model families. */
#define NN_MODEL_LIST(X) X(lenet) X(resnet_cifar) X(resnet)

#define X(name) extern const nn_model_family nn_model_##name;
NN_MODEL_LIST(X)
#undef X

static const nn_model_family *const family_table[] = {
#define X(name) &nn_model_##name,
    NN_MODEL_LIST(X)
#undef X
};

enum { N_FAMILIES = sizeof family_table / sizeof family_table[0], MAX_ARCHS = 256 };

int nn_model_count(void)
{
    int n = 0;

    for (int i = 0; i < N_FAMILIES; i++) n += family_table[i]->n_archs;
    return n;
}

const nn_model_arch *nn_model_at(int idx)
{
    for (int i = 0; i < N_FAMILIES && idx >= 0; i++) {
        if (idx < family_table[i]->n_archs) return &family_table[i]->archs[idx];
        idx -= family_table[i]->n_archs;
    }
    return NULL;
}

const nn_model_family *nn_model_family_find(const char *arch, int *out_idx)
{
    for (int i = 0; i < N_FAMILIES; i++) {
        for (int j = 0; j < family_table[i]->n_archs; j++) {
            if (strcmp(family_table[i]->archs[j].name, arch) == 0) {
                *out_idx = j;
                return family_table[i];
            }
        }
    }
    return NULL;
}

const nn_model_arch *nn_model_find(const char *arch)
{
    int idx = 0;
    const nn_model_family *family = nn_model_family_find(arch, &idx);

    return family == NULL ? NULL : &family->archs[idx];
}

const char *nn_model_nearest(const char *arch)
{
    const char *names[MAX_ARCHS];
    const int n = nn_model_count();

    CVY_ASSERT(n <= MAX_ARCHS);
    for (int i = 0; i < n; i++) names[i] = nn_model_at(i)->name;
    return cvy_nearest_word(names, n, arch);
}
