#include "nn/weights.h"

#include "base/alloc.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define BATCHES_SUFFIX ".num_batches_tracked"
#define MAX_LISTED     10

/* --- Writing ---------------------------------------------------------------------------------- */

/* Tensors to write, and names that were made for them. */
typedef struct tensor_list {
    int n, n_names;
    cvy_tensor_entry *entries;
    char **names;
} tensor_list;

static void clear_list(tensor_list *list)
{
    for (int i = 0; i < list->n_names; i++) cvy_free(list->names[i]);
    cvy_free(list->names);
    cvy_free(list->entries);
}

static cvy_status reserve_list(const char *path, int n, tensor_list *list)
{
    list->entries = cvy_alloc_zero((size_t)n, sizeof *list->entries);
    list->names = cvy_alloc_zero((size_t)n, sizeof *list->names);
    if (list->entries != NULL && list->names != NULL) return CVY_OK;
    return CVY_FAIL(CVY_ERR_NO_MEMORY, "%s: list of %d tensors", path, n);
}

/* "PREFIX.LAST" in the list's keeping; stem_size: how much of stem is the prefix. */
static cvy_status make_name(const char *path, tensor_list *list, const char *stem, size_t stem_size,
                            const char *last, const char **out)
{
    char *name = cvy_text_format("%.*s%s", (int)stem_size, stem, last);

    if (name == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "%s: name of a tensor", path);
    list->names[list->n_names++] = name;
    *out = name;
    return CVY_OK;
}

static void add_floats(tensor_list *list, const char *name, const nn_shape *shape,
                       const float *data)
{
    cvy_tensor_entry *entry = &list->entries[list->n++];

    entry->name = name;
    entry->dtype = CVY_F32;
    entry->n_dims = shape->n_dims;
    for (int i = 0; i < shape->n_dims; i++) entry->dim[i] = shape->dim[i];
    entry->data = data;
}

static int is_running_mean(const nn_param *param)
{
    return param->decl.kind == NN_PARAM_RUNNING && strcmp(param->decl.suffix, "running_mean") == 0;
}

/* The counters go first: in the file 8-byte numbers lie at multiples of 8. */
static cvy_status list_weights(const char *path, const nn_params *params, const float *weights,
                               const int64_t *n_updates, tensor_list *list)
{
    for (int i = 0; i < params->n; i++) {
        const nn_param *param = &params->entry[i];
        if (!is_running_mean(param)) continue;
        const size_t stem_size = strlen(param->name) - strlen(".running_mean");
        cvy_tensor_entry *entry = &list->entries[list->n];
        CVY_RETURN_IF_ERR(
            make_name(path, list, param->name, stem_size, BATCHES_SUFFIX, &entry->name));
        entry->dtype = CVY_I64;
        entry->data = n_updates;
        list->n++;
    }
    for (int i = 0; i < params->n; i++) {
        const nn_param *param = &params->entry[i];
        if (param->decl.kind == NN_PARAM_TAIL) continue;
        add_floats(list, param->name, &param->decl.shape, weights + param->offset);
    }
    return CVY_OK;
}

cvy_status nn_weights_save(const char *path, const nn_params *params, const float *weights,
                           int64_t n_updates, uint64_t *out_size_bytes, uint64_t *out_hash)
{
    cvy_status status = CVY_OK;
    tensor_list list = {0};

    CVY_GOTO_IF_ERR(end, status, reserve_list(path, 2 * params->n, &list));
    CVY_GOTO_IF_ERR(end, status, list_weights(path, params, weights, &n_updates, &list));
    status = cvy_safetensors_write(path, list.entries, list.n, NULL, 0, out_size_bytes, out_hash);

end:
    clear_list(&list);
    return status;
}

static int is_trained(const nn_param *param)
{
    return param->decl.kind != NN_PARAM_RUNNING && param->decl.kind != NN_PARAM_TAIL;
}

static cvy_status list_states(const char *path, const nn_params *params, int n_states,
                              const char *const *state_names, float *const *states,
                              tensor_list *list)
{
    for (int i = 0; i < params->n; i++) {
        const nn_param *param = &params->entry[i];
        if (!is_trained(param)) continue;
        for (int j = 0; j < n_states; j++) {
            const char *name = NULL;
            char *suffix = cvy_text_format(".%s", state_names[j]);
            if (suffix == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "%s: name of a tensor", path);
            const cvy_status status = make_name(path, list, param->name, strlen(param->name),
                                                suffix, &name);
            cvy_free(suffix);
            CVY_RETURN_IF_ERR(status);
            add_floats(list, name, &param->decl.shape,
                       states == NULL ? NULL : states[j] + param->offset);
        }
    }
    return CVY_OK;
}

cvy_status nn_states_save(const char *path, const nn_params *params, int n_states,
                          const char *const *state_names, float *const *states,
                          uint64_t *out_size_bytes, uint64_t *out_hash)
{
    cvy_status status = CVY_OK;
    tensor_list list = {0};

    CVY_GOTO_IF_ERR(end, status, reserve_list(path, n_states * params->n, &list));
    CVY_GOTO_IF_ERR(end, status, list_states(path, params, n_states, state_names, states, &list));
    status = cvy_safetensors_write(path, list.entries, list.n, NULL, 0, out_size_bytes, out_hash);

end:
    clear_list(&list);
    return status;
}

/* --- Reading ---------------------------------------------------------------------------------- */

/* IEEE 754 half precision: 1 sign, 5 exponent (bias 15), 10 fraction bits. */
static float float_from_half(uint16_t half)
{
    const int exponent = half >> 10 & 0x1F, fraction = half & 0x3FF;
    double magnitude;

    if (exponent == 0x1F) {
        magnitude = fraction == 0 ? (double)INFINITY : (double)NAN;
    } else if (exponent == 0) {
        magnitude = ldexp(fraction, -24);
    } else {
        magnitude = ldexp(1024 + fraction, exponent - 25);
    }
    return (float)((half & 0x8000) != 0 ? -magnitude : magnitude);
}

/* bfloat16 is the upper half of a float. */
static float float_from_bfloat(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;

    memcpy(&value, &wide, sizeof value);
    return value;
}

static int is_float_dtype(cvy_dtype dtype)
{
    return dtype == CVY_F32 || dtype == CVY_F64 || dtype == CVY_F16 || dtype == CVY_BF16;
}

static void convert(const cvy_tensor_entry *entry, int64_t n, float *out)
{
    const double *doubles = entry->data;
    const uint16_t *halves = entry->data;

    switch (entry->dtype) {
    case CVY_F64:
        for (int64_t i = 0; i < n; i++) out[i] = (float)doubles[i];
        return;
    case CVY_F16:
        for (int64_t i = 0; i < n; i++) out[i] = float_from_half(halves[i]);
        return;
    case CVY_BF16:
        for (int64_t i = 0; i < n; i++) out[i] = float_from_bfloat(halves[i]);
        return;
    default:
        memcpy(out, entry->data, (size_t)n * sizeof *out);
        return;
    }
}

/* What differs between a file and what is expected: text grows up to MAX_LISTED items. */
typedef struct difference {
    int n;
    char text[4096];
} difference;

static void note(difference *diff, const char *format, ...) CVY_PRINTF(2, 3);
static void note(difference *diff, const char *format, ...)
{
    const size_t used = strlen(diff->text);
    va_list args;

    if (diff->n++ >= MAX_LISTED) return;
    va_start(args, format);
    vsnprintf(diff->text + used, sizeof diff->text - used, format, args);
    va_end(args);
}

static void dims_text(const cvy_tensor_entry *entry, char *out, size_t out_size)
{
    size_t used = (size_t)snprintf(out, out_size, "%s (", cvy_dtype_name(entry->dtype));

    for (int i = 0; i < entry->n_dims && used < out_size; i++) {
        used += (size_t)snprintf(out + used, out_size - used, "%s%lld", i == 0 ? "" : ", ",
                                 (long long)entry->dim[i]);
    }
    if (used < out_size) snprintf(out + used, out_size - used, ")");
}

static int has_shape(const cvy_tensor_entry *entry, const cvy_tensor_entry *wanted)
{
    if (!is_float_dtype(entry->dtype) || entry->n_dims != wanted->n_dims) return 0;
    for (int i = 0; i < entry->n_dims; i++) {
        if (entry->dim[i] != wanted->dim[i]) return 0;
    }
    return 1;
}

static int ends_with(const char *text, const char *end)
{
    const size_t text_size = strlen(text), end_size = strlen(end);
    return text_size >= end_size && strcmp(text + text_size - end_size, end) == 0;
}

static int is_wanted(const tensor_list *list, const char *name)
{
    for (int i = 0; i < list->n; i++) {
        if (strcmp(list->entries[i].name, name) == 0) return 1;
    }
    return 0;
}

/* Tensors of the file that nobody asked for; batch counters may be there or not. */
static void note_extra(const cvy_safetensors *file, const tensor_list *list, int n_found,
                       difference *diff)
{
    int n_ignored = 0;

    for (int i = 0; i < cvy_safetensors_n(file); i++) {
        n_ignored += ends_with(cvy_safetensors_entry(file, i)->name, BATCHES_SUFFIX);
    }
    if (n_found + n_ignored == cvy_safetensors_n(file)) return;
    for (int i = 0; i < cvy_safetensors_n(file); i++) {
        const char *name = cvy_safetensors_entry(file, i)->name;
        if (ends_with(name, BATCHES_SUFFIX) || is_wanted(list, name)) continue;
        note(diff, "; extra %.200s", name);
    }
}

/* Compare names, shapes and types of all before a value is read. */
static cvy_status check_tensors(const cvy_safetensors *file, const char *path, const char *what,
                                const tensor_list *list)
{
    difference diff = {.n = 0, .text = ""};
    int n_found = 0;

    for (int i = 0; i < list->n; i++) {
        const cvy_tensor_entry *wanted = &list->entries[i];
        const cvy_tensor_entry *entry = cvy_safetensors_find(file, wanted->name);
        n_found += entry != NULL;
        if (entry == NULL) {
            note(&diff, "; missing %.200s", wanted->name);
        } else if (!has_shape(entry, wanted)) {
            char there[160], expected[160];
            dims_text(entry, there, sizeof there);
            dims_text(wanted, expected, sizeof expected);
            note(&diff, "; %.200s is %s, expected %s", wanted->name, there, expected);
        }
    }
    note_extra(file, list, n_found, &diff);
    if (diff.n == 0) return CVY_OK;
    return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: not the %s of this model, %d tensor%s differ%s%s%s",
                    path, what, diff.n, diff.n == 1 ? "" : "s", diff.n == 1 ? "s" : "", diff.text,
                    diff.n > MAX_LISTED ? "; and more" : "");
}

static cvy_status check_finite(const char *path, const char *name, const float *values, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(values[i])) {
            return CVY_FAIL(CVY_ERR_NUMERIC,
                            "%s: %s has %g at element %lld: training diverged before this was "
                            "saved; --allow-nonfinite loads it all the same",
                            path, name, (double)values[i], (long long)i);
        }
    }
    return CVY_OK;
}

/* list->entries[i].data says where tensor i goes. */
static cvy_status fill(const cvy_safetensors *file, const char *path, const char *what,
                       int allow_nonfinite, const tensor_list *list)
{
    CVY_RETURN_IF_ERR(check_tensors(file, path, what, list));
    for (int i = 0; i < list->n; i++) {
        const cvy_tensor_entry *entry = cvy_safetensors_find(file, list->entries[i].name);
        const int64_t n = cvy_tensor_n_elems(entry);
        float *out = (float *)list->entries[i].data;
        convert(entry, n, out);
        if (!allow_nonfinite) CVY_RETURN_IF_ERR(check_finite(path, entry->name, out, n));
    }
    return CVY_OK;
}

cvy_status nn_weights_load(const cvy_safetensors *file, const char *path, const nn_params *params,
                           int allow_nonfinite, float *out_weights)
{
    cvy_status status = CVY_OK;
    tensor_list list = {0};

    CVY_GOTO_IF_ERR(end, status, reserve_list(path, params->n, &list));
    memset(out_weights, 0, (size_t)params->n_elems * sizeof *out_weights); /* gaps and tail */
    for (int i = 0; i < params->n; i++) {
        const nn_param *param = &params->entry[i];
        if (param->decl.kind == NN_PARAM_TAIL) continue;
        add_floats(&list, param->name, &param->decl.shape, out_weights + param->offset);
    }
    status = fill(file, path, "weights", allow_nonfinite, &list);

end:
    clear_list(&list);
    return status;
}

cvy_status nn_states_load(const cvy_safetensors *file, const char *path, const nn_params *params,
                          int n_states, const char *const *state_names, int allow_nonfinite,
                          float *const *out_states)
{
    cvy_status status = CVY_OK;
    tensor_list list = {0};

    CVY_GOTO_IF_ERR(end, status, reserve_list(path, n_states * params->n, &list));
    for (int i = 0; i < n_states; i++) {
        memset(out_states[i], 0, (size_t)params->n_elems * sizeof *out_states[i]);
    }
    CVY_GOTO_IF_ERR(end, status,
                    list_states(path, params, n_states, state_names, out_states, &list));
    status = fill(file, path, "optimizer state", allow_nonfinite, &list);

end:
    clear_list(&list);
    return status;
}
