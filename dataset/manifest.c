#include "dataset/manifest_internal.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"

#include <jansson.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT            "convoy-dataset"
#define LIMIT_BYTES       ((size_t)64 << 20)
#define DIGITS_OF_A_CLASS 8 /* DATASET_MAX_CLASSES has 7, and the NUL */

char **dataset_number_names(int n_classes)
{
    const size_t n = (size_t)n_classes;
    char **names = cvy_alloc(n * (sizeof *names + DIGITS_OF_A_CLASS));

    if (names == NULL) return NULL;
    char *text = (char *)(names + n);
    for (size_t i = 0; i < n; i++, text += DIGITS_OF_A_CLASS) {
        snprintf(text, DIGITS_OF_A_CLASS, "%u", (unsigned)i % 10000000U);
        names[i] = text;
    }
    return names;
}

void dataset_manifest_destroy(dataset_manifest **manifest_address)
{
    if (manifest_address == NULL || *manifest_address == NULL) return;
    dataset_manifest *manifest = *manifest_address;
    for (int i = 0; manifest->class_names != NULL && i < manifest->n_classes; i++) {
        cvy_free(manifest->class_names[i]);
    }
    cvy_free(manifest->class_names);
    cvy_free(manifest->class_counts);
    cvy_free(manifest);
    *manifest_address = NULL;
}

/* An integer member from 0 to most. 0: it is not that. */
static int take_integer(const json_t *value, int64_t most, int64_t *out)
{
    if (!json_is_integer(value)) return 0;
    const int64_t number = json_integer_value(value);
    if (number < 0 || number > most) return 0;
    *out = number;
    return 1;
}

static cvy_status read_head(const json_t *root, dataset_manifest *manifest, cvy_reason *reason)
{
    const char *format = json_string_value(json_object_get(root, "format"));
    int64_t version = 0;

    if (format == NULL || strcmp(format, FORMAT) != 0) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "format is %s, not \"" FORMAT "\"",
                           format == NULL ? "lacking" : format);
    }
    if (!take_integer(json_object_get(root, "version"), INT64_MAX, &version) || version < 1) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "version is not a positive integer");
    }
    if (version > DATASET_MANIFEST_VERSION) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "version %lld needs a newer convoy; this one reads up to version %d",
                           (long long)version, DATASET_MANIFEST_VERSION);
    }
    if (!take_integer(json_object_get(root, "count"), INT64_MAX, &manifest->n_records) ||
        manifest->n_records < 1) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "count is not a positive integer");
    }
    const char *digest = json_string_value(json_object_get(root, "digest"));
    if (digest == NULL || cvy_hash_from_text(digest, &manifest->digest) != 0) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "digest is not 16 hexadecimal digits");
    }
    return CVY_OK;
}

static cvy_status read_classes(const json_t *root, dataset_manifest *manifest, cvy_reason *reason)
{
    const json_t *names = json_object_get(root, "classes");
    const json_t *counts = json_object_get(root, "class_counts");
    const size_t n = json_array_size(names);
    int64_t n_counted = 0;

    if (n < 1 || n > DATASET_MAX_CLASSES) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "classes is not a list of 1 to %d names",
                           DATASET_MAX_CLASSES);
    }
    if (json_array_size(counts) != n) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "class_counts has %zu entries for %zu classes",
                           json_array_size(counts), n);
    }
    manifest->class_names = cvy_alloc_zero(n, sizeof *manifest->class_names);
    manifest->class_counts = cvy_alloc_zero(n, sizeof *manifest->class_counts);
    if (manifest->class_names == NULL || manifest->class_counts == NULL) {
        return cvy_because(reason, CVY_ERR_NO_MEMORY, "no memory for %zu classes", n);
    }
    manifest->n_classes = (int)n;
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(names, i));
        if (name == NULL) {
            return cvy_because(reason, CVY_ERR_BAD_DATA, "the name of class %zu is no text", i);
        }
        if (!take_integer(json_array_get(counts, i), manifest->n_records - n_counted,
                          &manifest->class_counts[i])) {
            return cvy_because(reason, CVY_ERR_BAD_DATA, "class_counts do not add up to count");
        }
        n_counted += manifest->class_counts[i];
        manifest->class_names[i] = cvy_strdup(name);
        if (manifest->class_names[i] == NULL) {
            return cvy_because(reason, CVY_ERR_NO_MEMORY, "no memory for %zu classes", n);
        }
    }
    if (n_counted != manifest->n_records) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "class_counts do not add up to count");
    }
    return CVY_OK;
}

static cvy_status read_stats(const json_t *root, const char *key, double least, double *values,
                             size_t *out_n, cvy_reason *reason)
{
    const json_t *list = json_object_get(root, key);
    const size_t n = json_array_size(list);

    *out_n = 0;
    if (list == NULL) return CVY_OK;
    if (n < 1 || n > DATASET_MAX_STATS) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "%s is not a list of 1 to %d numbers", key,
                           DATASET_MAX_STATS);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *number = json_array_get(list, i);
        values[i] = json_number_value(number);
        if (!json_is_number(number) || !isfinite(values[i]) || values[i] < least) {
            return cvy_because(reason, CVY_ERR_BAD_DATA, "%s %zu is not a number from %g on", key,
                               i, least);
        }
    }
    *out_n = n;
    return CVY_OK;
}

static cvy_status read_shape(const json_t *root, dataset_manifest *manifest, cvy_reason *reason)
{
    const json_t *shape = json_object_get(root, "shape");
    const json_t *encoded = json_object_get(root, "encoded");
    int64_t *const dims[3] = {&manifest->channels, &manifest->height, &manifest->width};
    size_t n_means = 0;
    size_t n_deviations = 0;

    for (size_t i = 0; i < 3; i++) {
        if (json_array_size(shape) != 3 ||
            !take_integer(json_array_get(shape, i), INT32_MAX, dims[i])) {
            return cvy_because(reason, CVY_ERR_BAD_DATA,
                               "shape is not [channels, height, width], integers from 0 on");
        }
    }
    if (!json_is_boolean(encoded)) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "encoded is not true or false");
    }
    manifest->is_encoded = json_is_true(encoded);
    CVY_RETURN_IF_ERR(read_stats(root, "mean", -HUGE_VAL, manifest->mean, &n_means, reason));
    CVY_RETURN_IF_ERR(
        read_stats(root, "deviation", 1e-12, manifest->deviation, &n_deviations, reason));
    if (n_means != n_deviations) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "%zu means, but %zu deviations", n_means,
                           n_deviations);
    }
    manifest->n_stats = (int)n_means;
    return CVY_OK;
}

static cvy_status parse(const char *text, size_t size_bytes, dataset_manifest *manifest,
                        cvy_reason *reason)
{
    json_error_t error;
    json_t *root = json_loadb(text, size_bytes, JSON_REJECT_DUPLICATES, &error);

    if (root == NULL) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "not JSON: line %d, column %d: %s", error.line,
                           error.column, error.text);
    }
    cvy_status status = read_head(root, manifest, reason);
    if (status == CVY_OK) status = read_classes(root, manifest, reason);
    if (status == CVY_OK) status = read_shape(root, manifest, reason);
    json_decref(root);
    return status;
}

static cvy_status read_path(const char *path, dataset_manifest **out)
{
    char *text = NULL;
    size_t size_bytes = 0;
    cvy_reason reason;

    cvy_status status = cvy_file_read(path, LIMIT_BYTES, &text, &size_bytes, &reason);
    if (status == CVY_ERR_NOT_FOUND) return CVY_OK;
    if (status != CVY_OK) return CVY_FAIL(status, "%s", reason.text);
    dataset_manifest *manifest = cvy_alloc_zero(1, sizeof *manifest);
    if (manifest == NULL) {
        status = cvy_because(&reason, CVY_ERR_NO_MEMORY, "no memory");
    } else {
        status = parse(text, size_bytes, manifest, &reason);
    }
    cvy_free(text);
    if (status != CVY_OK) {
        dataset_manifest_destroy(&manifest);
        return CVY_FAIL(status, "%s: %s", path, reason.text);
    }
    *out = manifest;
    return CVY_OK;
}

cvy_status dataset_manifest_read(const char *folder, dataset_manifest **out)
{
    *out = NULL;
    char *path = cvy_path_join(folder, "manifest.json");
    if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of %s", folder);
    const cvy_status status = read_path(path, out);
    cvy_free(path);
    return status;
}

static json_t *number_list(const double *values, int n)
{
    json_t *list = json_array();

    for (int i = 0; i < n; i++) json_array_append_new(list, json_real(values[i]));
    return list;
}

/* NULL: no memory, or a text that is not UTF-8. */
static json_t *to_json(const dataset_manifest *manifest, const char *source)
{
    char digest[17];
    char number[DIGITS_OF_A_CLASS + 8];
    json_t *names = json_array();
    json_t *counts = json_array();

    cvy_hash_text(manifest->digest, digest);
    for (int i = 0; i < manifest->n_classes; i++) {
        snprintf(number, sizeof number, "%d", i);
        const char *name = manifest->class_names == NULL ? number : manifest->class_names[i];
        int rc = json_array_append_new(names, json_string(name));
        if (rc == 0) rc = json_array_append_new(counts, json_integer(manifest->class_counts[i]));
        if (rc != 0) {
            json_decref(names);
            json_decref(counts);
            return NULL;
        }
    }
    json_t *root = json_pack("{ss si ss sI so so s[III] sb ss}", "format", FORMAT, "version",
                             DATASET_MANIFEST_VERSION, "made_by", "convoy " CONVOY_VERSION, "count",
                             (json_int_t)manifest->n_records, "classes", names, "class_counts",
                             counts, "shape", (json_int_t)manifest->channels,
                             (json_int_t)manifest->height, (json_int_t)manifest->width, "encoded",
                             manifest->is_encoded, "digest", digest);
    int rc = root == NULL ? -1 : 0;
    if (rc == 0 && source != NULL) {
        rc = json_object_set_new(root, "source", json_string(source));
    }
    if (rc == 0 && manifest->n_stats > 0) {
        rc = json_object_set_new(root, "mean", number_list(manifest->mean, manifest->n_stats));
        if (rc == 0) {
            rc = json_object_set_new(root, "deviation",
                                     number_list(manifest->deviation, manifest->n_stats));
        }
    }
    if (rc == 0) return root;
    json_decref(root);
    return NULL;
}

cvy_status dataset_manifest_write(const char *folder, const dataset_manifest *manifest,
                                  const char *source)
{
    cvy_status status = CVY_OK;
    json_t *root = to_json(manifest, source);
    char *text = root == NULL ? NULL : json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    char *path = cvy_path_join(folder, "manifest.json");

    if (path == NULL) {
        status = CVY_FAIL(CVY_ERR_NO_MEMORY, "path of %s", folder);
    } else if (text == NULL) {
        status = CVY_FAIL(CVY_ERR_BAD_DATA,
                          "%s: a class name or the source is not UTF-8, which JSON wants", path);
    } else {
        status = cvy_file_replace(path, text, strlen(text));
    }
    cvy_free(path);
    free(text);
    json_decref(root);
    return status;
}
