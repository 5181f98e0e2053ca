#include "dataset/importer.h"

#include <string.h>

/* The only list of importers. */
#define DATASET_IMPORTER_LIST(X) X(images) X(cifar) X(idx)

#define X(name) extern const dataset_importer_ops dataset_importer_##name;
DATASET_IMPORTER_LIST(X)
#undef X

static const dataset_importer_ops *const importer_table[] = {
#define X(name) &dataset_importer_##name,
    DATASET_IMPORTER_LIST(X)
#undef X
};

int dataset_importer_count(void)
{
    return (int)(sizeof importer_table / sizeof importer_table[0]);
}

const dataset_importer_ops *dataset_importer_at(int idx)
{
    return idx >= 0 && idx < dataset_importer_count() ? importer_table[idx] : NULL;
}

const dataset_importer_ops *dataset_importer_find(const char *name)
{
    for (int i = 0; i < dataset_importer_count(); i++) {
        if (strcmp(importer_table[i]->name, name) == 0) return importer_table[i];
    }
    return NULL;
}
