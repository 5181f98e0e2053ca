#include "base/job.h"

#include "base/alloc.h"
#include "base/config_internal.h"
#include "base/hash.h"
#include "base/node_internal.h"

#include <stdio.h>
#include <string.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))
/* One line about a part of the tree; node may be a section that convoy made. */
static cvy_status fail_at(const cvy_node *node, const char *what)
{
    char place[512];

    cvy_node_place(node, place, sizeof place);
    return CVY_FAIL(CVY_ERR_CONFIG, "%s: %s", place, what);
}

/* The name becomes part of a path, so it must not lead anywhere. */
static cvy_status check_name(const cvy_node *root, const char *name)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-";

    if (strlen(name) <= 100 && name[0] != '.' && name[0] != '-' &&
        strspn(name, allowed) == strlen(name)) {
        return CVY_OK;
    }
    return fail_at(cvy_node_find(root, "name"),
                   "name must be up to 100 letters, digits and _ . + -, beginning with a letter, "
                   "digit, _ or +");
}

static cvy_status check_kind(const cvy_node *node, const char *key, cvy_node_kind kind)
{
    char place[512], shown[CVY_SHOWN_SIZE];

    if (node == NULL || cvy_node_get_kind(node) == kind) return CVY_OK;
    cvy_node_place(node, place, sizeof place);
    return CVY_FAIL(CVY_ERR_CONFIG, "%s: %s is %s, expected %s", place, key,
                    cvy_node_shown(node, shown), kind == CVY_NODE_MAPPING ? "a mapping" : "a list");
}

static cvy_status check_sections(const cvy_job *job)
{
    CVY_RETURN_IF_ERR(check_kind(job->model, "model", CVY_NODE_MAPPING));
    CVY_RETURN_IF_ERR(check_kind(job->optimizer, "optimizer", CVY_NODE_MAPPING));
    CVY_RETURN_IF_ERR(check_kind(job->schedule, "schedule", CVY_NODE_MAPPING));
    CVY_RETURN_IF_ERR(check_kind(job->data.train.augment, "data.train.augment", CVY_NODE_SEQUENCE));
    return check_kind(job->data.val.augment, "data.val.augment", CVY_NODE_SEQUENCE);
}

static cvy_status check_data(const cvy_node *root, const cvy_job *job)
{
    const cvy_node *data = cvy_node_find(root, "data");
    const cvy_job_input *input = &job->data;

    if (input->val.path == NULL && input->val.augment != NULL) {
        return fail_at(cvy_node_find(data, "val"),
                       "data.val.path is missing, expected an LMDB folder");
    }
    if (input->val.path == NULL &&
        (job->evaluate.every_epochs > 0 || job->evaluate.every_steps > 0)) {
        return fail_at(cvy_node_find(root, "evaluate"),
                       "evaluate needs a validation set, but data.val.path is missing");
    }
    if (input->mean.n != input->deviation.n) {
        return fail_at(data, "data.mean and data.deviation need one entry per channel each, or "
                             "leave both out");
    }
    return CVY_OK;
}

static cvy_status check_length(const cvy_node *root, const cvy_job *job)
{
    if (job->epochs == 0 && job->steps == 0) {
        return fail_at(root, "epochs is missing, expected how long to train: epochs or steps");
    }
    if (job->epochs != 0 && job->steps != 0) {
        return fail_at(cvy_node_find(root, "steps"), "epochs and steps exclude each other: give "
                                                     "one");
    }
    const int64_t global_batch = job->replicas * job->minibatch;
    if (global_batch > INT32_MAX) {
        return fail_at(cvy_node_find(root, "minibatch"),
                       "replicas x minibatch is over 2147483647 images");
    }
    return CVY_OK;
}

static cvy_status add_run(cvy_node *root, cvy_job *job)
{
    if (job->run != NULL) return CVY_OK;
    char *run = cvy_text_format("runs/%s", job->name);
    if (run == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "out of memory for the run folder's name");
    const cvy_status status = cvy_node_add(root, "run", run);
    cvy_free(run);
    CVY_RETURN_IF_ERR(status);
    job->run = cvy_node_text(cvy_node_find(root, "run"));
    return CVY_OK;
}

/* Without a validation set the default is never to evaluate. It has to be in the tree, because a
 * resolved job is read again, on other ranks and when it resumes. */
static cvy_status add_evaluate(cvy_node *root)
{
    cvy_node *section = NULL;
    const cvy_node *val = cvy_node_find(cvy_node_find(root, "data"), "val");

    if (cvy_node_get_kind(root) != CVY_NODE_MAPPING ||
        !cvy_node_is_null(cvy_node_find(root, "evaluate")) ||
        !cvy_node_is_null(cvy_node_find(val, "path"))) {
        return CVY_OK;
    }
    CVY_RETURN_IF_ERR(cvy_node_add_mapping(root, "evaluate", &section));
    return cvy_node_add(section, "every_epochs", "0");
}

cvy_status cvy_job_read(cvy_node *root, cvy_job *out)
{
    if (cvy_node_is_null(root)) return fail_at(root, "the job is empty, expected keys and values");
    CVY_RETURN_IF_ERR(add_evaluate(root));
    CVY_RETURN_IF_ERR(cvy_config_read(&cvy_job_table, root, out));
    CVY_RETURN_IF_ERR(check_name(root, out->name));
    CVY_RETURN_IF_ERR(check_sections(out));
    CVY_RETURN_IF_ERR(check_data(root, out));
    CVY_RETURN_IF_ERR(check_length(root, out));
    return add_run(root, out);
}

/* --- Digest ----------------------------------------------------------------------------------- */

static int is_left_out(const char *path)
{
    static const char *const left_out[] = {"name",
                                           "run",
                                           "threads",
                                           "deadline",
                                           "checkpoint",
                                           "evaluate",
                                           "device",
                                           "data.train.path",
                                           "data.val.path",
                                           "data.loader_threads",
                                           "data.read_ahead",
                                           "data.allow_network_fs",
                                           "hash_every_steps",
                                           "metrics_every_steps"};

    for (int i = 0; i < COUNT(left_out); i++) {
        if (strcmp(path, left_out[i]) == 0) return 1;
    }
    return 0;
}

/* Equal numbers count as equal however they are spelled: 1e-4 and 0.0001. */
static void add_scalar(cvy_hasher *hasher, const char *text)
{
    char number[64];
    int64_t whole = 0;
    double real = 0;

    if (cvy_int_from_text(text, &whole) == 0) {
        (void)snprintf(number, sizeof number, "%lld", (long long)whole);
        text = number;
    } else if (cvy_real_from_text(text, &real) == 0) {
        (void)snprintf(number, sizeof number, "%.17g", real);
        text = number;
    }
    cvy_hasher_add(hasher, "s", 1);
    cvy_hasher_add(hasher, text, strlen(text) + 1);
}

/* The idx of the smallest key that is greater than last, -1: none. Mappings are small. */
static int next_key(const cvy_node *mapping, const char *last)
{
    int best = -1;

    for (int i = 0; i < cvy_node_n_items(mapping); i++) {
        const char *key = cvy_node_key(mapping, i);
        if (last != NULL && strcmp(key, last) <= 0) continue;
        if (best < 0 || strcmp(key, cvy_node_key(mapping, best)) < 0) best = i;
    }
    return best;
}

static void add_node(cvy_hasher *hasher, const cvy_node *node, const char *path)
{
    const char *key = NULL;

    if (cvy_node_get_kind(node) == CVY_NODE_SCALAR) {
        add_scalar(hasher, cvy_node_text(node));
        return;
    }
    if (cvy_node_get_kind(node) == CVY_NODE_SEQUENCE) {
        cvy_hasher_add(hasher, "[", 1);
        for (int i = 0; i < cvy_node_n_items(node); i++) {
            add_node(hasher, cvy_node_item(node, i), "-");
        }
        cvy_hasher_add(hasher, "]", 1);
        return;
    }
    cvy_hasher_add(hasher, "{", 1);
    for (int i = next_key(node, NULL); i >= 0; i = next_key(node, key)) {
        char inner[128];
        key = cvy_node_key(node, i);
        (void)snprintf(inner, sizeof inner, "%s%s%s", path, path[0] == '\0' ? "" : ".", key);
        if (is_left_out(inner) || cvy_node_is_null(cvy_node_item(node, i))) continue;
        cvy_hasher_add(hasher, "k", 1);
        cvy_hasher_add(hasher, key, strlen(key) + 1);
        add_node(hasher, cvy_node_item(node, i), inner);
    }
    cvy_hasher_add(hasher, "}", 1);
}

static cvy_status digest_node(const cvy_node *node, const char *path, uint64_t *out)
{
    cvy_hasher *hasher = cvy_hasher_open();

    if (hasher == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "out of memory for the job's digest");
    add_node(hasher, node, path);
    *out = cvy_hasher_value(hasher);
    cvy_hasher_close(&hasher);
    return CVY_OK;
}

cvy_status cvy_job_digest(const cvy_node *root, uint64_t *out)
{
    return digest_node(root, "", out);
}

static const char *describe(const cvy_node *node)
{
    if (cvy_node_is_null(node)) return "not given";
    if (cvy_node_get_kind(node) == CVY_NODE_SCALAR) return cvy_node_text(node);
    return cvy_node_get_kind(node) == CVY_NODE_SEQUENCE ? "another list" : "a mapping";
}

static cvy_status compare_mappings(const cvy_node *now, const cvy_node *then, const char *path,
                                   char *out, size_t out_size);

/* Two values of one key; at most one of them is absent. */
static cvy_status compare_values(const cvy_node *now, const cvy_node *then, const char *path,
                                 char *out, size_t out_size)
{
    uint64_t digest[2] = {0, 0};
    const int is_one_absent = cvy_node_is_null(now) || cvy_node_is_null(then);

    if (!is_one_absent && cvy_node_get_kind(now) == CVY_NODE_MAPPING &&
        cvy_node_get_kind(then) == CVY_NODE_MAPPING) {
        return compare_mappings(now, then, path, out, out_size);
    }
    if (!is_one_absent) {
        CVY_RETURN_IF_ERR(digest_node(now, path, &digest[0]));
        CVY_RETURN_IF_ERR(digest_node(then, path, &digest[1]));
        if (digest[0] == digest[1]) return CVY_OK;
    }
    (void)snprintf(out, out_size, "%s is %.60s, was %.60s", path, describe(now), describe(then));
    return CVY_OK;
}

static cvy_status compare_mappings(const cvy_node *now, const cvy_node *then, const char *path,
                                   char *out, size_t out_size)
{
    const cvy_node *const side[2] = {now, then};

    for (int s = 0; s < 2; s++) {
        for (int i = 0; i < cvy_node_n_items(side[s]) && out[0] == '\0'; i++) {
            char inner[128];
            const char *key = cvy_node_key(side[s], i);
            const cvy_node *value[2] = {cvy_node_find(now, key), cvy_node_find(then, key)};
            (void)snprintf(inner, sizeof inner, "%s%s%s", path, path[0] == '\0' ? "" : ".", key);
            if (is_left_out(inner)) continue;
            if (cvy_node_is_null(value[0]) && cvy_node_is_null(value[1])) continue;
            CVY_RETURN_IF_ERR(compare_values(value[0], value[1], inner, out, out_size));
        }
    }
    return CVY_OK;
}

cvy_status cvy_job_difference(const cvy_node *now, const cvy_node *then, char *out, size_t out_size)
{
    out[0] = '\0';
    return compare_values(now, then, "", out, out_size);
}
