#include "nn/backend.h"

#include "base/config.h"
#include "base/log.h"

#include <string.h>

/* The only list of backends, the one to prefer last. */
#define NN_BACKEND_LIST(X) X(ref) X(cpu)

#define X(name) extern const nn_backend_ops nn_backend_##name;
NN_BACKEND_LIST(X)
#undef X

static const nn_backend_ops *const backend_table[] = {
#define X(name) &nn_backend_##name,
    NN_BACKEND_LIST(X)
#undef X
};

static const char *const backend_names[] = {
#define X(name) #name,
    NN_BACKEND_LIST(X)
#undef X
        "auto",
};

enum { N_BACKENDS = sizeof backend_table / sizeof backend_table[0] };

int nn_backend_count(void)
{
    return N_BACKENDS;
}

const nn_backend_ops *nn_backend_at(int idx)
{
    return idx >= 0 && idx < N_BACKENDS ? backend_table[idx] : NULL;
}

/* Take the best that the machine has; a backend whose device is missing is passed over, and what it
 * said of that is a warning as long as there is another. */
static cvy_status open_best(const nn_backend_options *options, nn_backend **out)
{
    cvy_status status = CVY_ERR_UNAVAILABLE;

    for (int i = N_BACKENDS - 1; i >= 0 && status == CVY_ERR_UNAVAILABLE; i--) {
        if (i > 0) cvy_log_soften(1);
        status = backend_table[i]->open(options, out);
        if (i > 0) cvy_log_soften(-1);
    }
    return status;
}

cvy_status nn_backend_open(const char *name, const nn_backend_options *options, nn_backend **out)
{
    *out = NULL;
    if (options->n_threads < 1) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "backend %s: %d threads", name, options->n_threads);
    }
    if (strcmp(name, "auto") == 0) return open_best(options, out);
    for (int i = 0; i < N_BACKENDS; i++) {
        if (strcmp(backend_table[i]->name, name) == 0) return backend_table[i]->open(options, out);
    }

    const char *nearest = cvy_nearest_word(backend_names, N_BACKENDS + 1, name);
    return nearest != NULL ? CVY_FAIL(CVY_ERR_CONFIG, "device: no backend '%s'; did you mean '%s'?",
                                      name, nearest)
                           : CVY_FAIL(CVY_ERR_CONFIG, "device: no backend '%s'", name);
}

void nn_backend_close(nn_backend **backend)
{
    if (backend == NULL || *backend == NULL) return;
    (*backend)->ops->close(*backend);
    *backend = NULL;
}
