#include "nn/params.h"

#include "nn/params_internal.h"

#include "base/alloc.h"

#include <string.h>

static int64_t round_up(int64_t n)
{
    return (n + NN_PARAM_ALIGN - 1) / NN_PARAM_ALIGN * NN_PARAM_ALIGN;
}

cvy_status nn_params_reserve(nn_params *params, int n)
{
    params->entry = cvy_alloc_zero((size_t)n, sizeof *params->entry);
    if (params->entry == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "table of %d parameters", n);
    return CVY_OK;
}

/* The entry's place is the end of the table so far; name is owned from here on. */
static void place(nn_params *params, char *name, int layer_idx, const nn_param_decl *decl)
{
    nn_param *entry = &params->entry[params->n];

    entry->name = name;
    entry->layer_idx = layer_idx;
    entry->offset = params->n_elems;
    entry->n_elems = nn_shape_n_elems(&decl->shape);
    entry->decl = *decl;
    params->n++;
    params->n_elems = round_up(entry->offset + entry->n_elems);
}

cvy_status nn_params_append(nn_params *params, const char *layer_name, int layer_idx,
                            const nn_param_decl *decl)
{
    char *name = cvy_text_format("%s.%s", layer_name, decl->suffix);

    if (name == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "name of a parameter of %s", layer_name);
    place(params, name, layer_idx, decl);
    if (decl->kind != NN_PARAM_RUNNING) {
        params->n_trainable += params->entry[params->n - 1].n_elems;
    }
    return CVY_OK;
}

cvy_status nn_params_append_tail(nn_params *params)
{
    const nn_param_decl decl = {.suffix = "tail",
                                .shape = {.n_dims = 1, .dim = {NN_TAIL_N}},
                                .kind = NN_PARAM_TAIL,
                                .init = NN_INIT_ZERO};
    char *name = cvy_strdup("tail");

    if (name == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "name of the tail");
    params->tail_offset = params->n_elems;
    place(params, name, -1, &decl);
    return CVY_OK;
}

void nn_params_clear(nn_params *params)
{
    for (int i = 0; i < params->n; i++) cvy_free(params->entry[i].name);
    cvy_free(params->entry);
    memset(params, 0, sizeof *params);
}

int nn_params_at(const nn_params *params, int64_t offset)
{
    int low = 0, high = params->n;

    while (low < high) {
        const int middle = low + (high - low) / 2;
        const nn_param *entry = &params->entry[middle];
        if (entry->offset + entry->n_elems > offset) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

const nn_param *nn_params_find(const nn_params *params, const char *name)
{
    for (int i = 0; i < params->n; i++) {
        if (strcmp(params->entry[i].name, name) == 0) return &params->entry[i];
    }
    return NULL;
}
