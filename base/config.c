#include "base/config.h"

#include "base/alloc.h"
#include "base/config_internal.h"
#include "base/node_internal.h"

#include <stdio.h>
#include <string.h>

#define PLACE_SIZE    512
#define PATH_SIZE     256
#define EXPECTED_SIZE 192

/* "job.yaml:3:12: epochs is 'ten', expected ..." */
static cvy_status fail_value(const cvy_config_field *field, const cvy_node *node)
{
    char place[PLACE_SIZE], path[PATH_SIZE], expected[EXPECTED_SIZE], shown[CVY_SHOWN_SIZE];
    const char *near = NULL;
    char word[64], near_word[64];

    cvy_node_place(node, place, sizeof place);
    cvy_node_path(node, path, sizeof path);
    cvy_config_describe(field, expected, sizeof expected);
    if (field->type == CVY_CONFIG_CHOICE && node->kind == CVY_NODE_SCALAR) {
        for (int i = 0; near == NULL && cvy_choice_at(field->choices, i, word, sizeof word); i++) {
            const char *const words[] = {word};
            if (cvy_nearest_word(words, 1, node->text) != NULL) {
                snprintf(near_word, sizeof near_word, "%s", word);
                near = near_word;
            }
        }
    }
    if (near != NULL) {
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: %s is %s, expected %s; did you mean '%s'?", place,
                        path, cvy_node_shown(node, shown), expected, near);
    }
    return CVY_FAIL(CVY_ERR_CONFIG, "%s: %s is %s, expected %s", place, path,
                    cvy_node_shown(node, shown), expected);
}

static int is_in_range(const cvy_config_field *field, double value)
{
    return (field->min == 0 && field->max == 0) || (value >= field->min && value <= field->max);
}

/* A number of INT or INT_LIST; 0 on success. */
static int read_int(const cvy_config_field *field, const cvy_node *node, int64_t *out)
{
    if (node->kind != CVY_NODE_SCALAR || cvy_int_from_text(node->text, out) != 0) return -1;
    return is_in_range(field, (double)*out) ? 0 : -1;
}

static int read_real(const cvy_config_field *field, const cvy_node *node, double *out)
{
    if (node->kind != CVY_NODE_SCALAR || cvy_real_from_text(node->text, out) != 0) return -1;
    return is_in_range(field, *out) ? 0 : -1;
}

static cvy_status read_list(const cvy_config_field *field, const cvy_node *node, void *out)
{
    cvy_int_list *ints = out;
    cvy_real_list *reals = out;
    const int is_int = field->type == CVY_CONFIG_INT_LIST;
    const int is_one = node->kind == CVY_NODE_SCALAR;
    const int n = is_one ? 1 : node->n_items;

    if (node->kind == CVY_NODE_MAPPING) return fail_value(field, node);
    if (n > CVY_CONFIG_LIST_MAX) {
        char place[PLACE_SIZE], path[PATH_SIZE];
        cvy_node_place(node, place, sizeof place);
        cvy_node_path(node, path, sizeof path);
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: %s has %d entries, expected at most %d", place, path,
                        n, CVY_CONFIG_LIST_MAX);
    }
    for (int i = 0; i < n; i++) {
        const cvy_node *item = is_one ? node : node->item[i];
        const int is_bad = is_int ? read_int(field, item, &ints->value[i])
                                  : read_real(field, item, &reals->value[i]);
        if (is_bad) return fail_value(field, item);
    }
    if (is_int) {
        ints->n = n;
    } else {
        reals->n = n;
    }
    return CVY_OK;
}

/* A value that is there. */
static cvy_status read_value(const cvy_config_field *field, cvy_node *node, void *out)
{
    const int is_scalar = node->kind == CVY_NODE_SCALAR;
    int is_bad = 0;

    switch (field->type) {
    case CVY_CONFIG_INT:
        is_bad = read_int(field, node, out);
        break;
    case CVY_CONFIG_REAL:
        is_bad = read_real(field, node, out);
        break;
    case CVY_CONFIG_BOOL:
        is_bad = !is_scalar || cvy_bool_from_text(node->text, out) != 0;
        break;
    case CVY_CONFIG_TEXT:
        is_bad = !is_scalar || node->text[0] == '\0';
        if (!is_bad) *(const char **)out = node->text;
        break;
    case CVY_CONFIG_CHOICE: {
        const int choice = is_scalar ? cvy_choice_from_text(field->choices, node->text) : -1;
        is_bad = choice < 0;
        *(int *)out = choice;
        break;
    }
    case CVY_CONFIG_INT_LIST:
    case CVY_CONFIG_REAL_LIST:
        return read_list(field, node, out);
    case CVY_CONFIG_SECTION:
        return cvy_config_read(field->section, node, out);
    case CVY_CONFIG_NODE:
        *(const cvy_node **)out = node;
        break;
    }
    return is_bad ? fail_value(field, node) : CVY_OK;
}

static cvy_status fail_missing(const cvy_config_table *table, const cvy_config_field *field,
                               const cvy_node *parent)
{
    char place[PLACE_SIZE], path[PATH_SIZE], expected[EXPECTED_SIZE];

    cvy_config_describe(field, expected, sizeof expected);
    if (parent == NULL) {
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: %s is missing, expected %s", table->name, field->key,
                        expected);
    }
    cvy_node_place(parent, place, sizeof place);
    cvy_node_path(parent, path, sizeof path);
    return CVY_FAIL(CVY_ERR_CONFIG, "%s: %s%s%s is missing, expected %s", place, path,
                    path[0] == '\0' ? "" : ".", field->key, expected);
}

/* A value that is not there: take the default and make it part of the tree. */
static cvy_status take_default(const cvy_config_table *table, const cvy_config_field *field,
                               cvy_node *parent, void *out)
{
    cvy_status status = CVY_OK;
    cvy_node *value = NULL;

    if (field->is_required) return fail_missing(table, field, parent);
    if (field->default_text == NULL) return CVY_OK;
    if (field->type == CVY_CONFIG_TEXT) {
        *(const char **)out = field->default_text;
        return parent == NULL ? CVY_OK : cvy_node_add(parent, field->key, field->default_text);
    }
    CVY_RETURN_IF_ERR(
        cvy_node_parse(field->default_text, strlen(field->default_text), field->key, &value));
    /* A NODE is a view into the tree, so without a tree it has no default. */
    if (parent != NULL || field->type != CVY_CONFIG_NODE) {
        status = read_value(field, value, out);
    }
    if (status == CVY_OK && parent != NULL) {
        value->line = value->column = 0;
        cvy_free(value->source);
        value->source = NULL;
        status = cvy_node_put(parent, field->key, &value);
        if (status != CVY_OK) {
            status = CVY_FAIL(status, "out of memory for the default of %s", field->key);
        }
    }
    cvy_node_destroy(&value);
    return status;
}

static cvy_status fail_key(const cvy_config_table *table, const cvy_node *item)
{
    char place[PLACE_SIZE], path[PATH_SIZE], shown[CVY_SHOWN_SIZE], keys[512] = "";
    const char *near = cvy_config_nearest(table, item->key);
    const char *key = cvy_text_shown(item->key, shown);

    cvy_node_key_place(item, place, sizeof place);
    cvy_node_path(item->parent, path, sizeof path);
    const char *where = path[0] == '\0' ? table->name : path;
    if (near != NULL) {
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: unknown key %s in %s, did you mean '%s'?", place, key,
                        where, near);
    }
    for (int i = 0; i < table->n_fields; i++) {
        const size_t used = strlen(keys);
        (void)snprintf(keys + used, sizeof keys - used, "%s%s", used == 0 ? "" : ", ",
                       table->fields[i].key);
    }
    return CVY_FAIL(CVY_ERR_CONFIG, "%s: unknown key %s in %s, expected one of: %s", place, key,
                    where, keys);
}

static const cvy_config_field *find_field(const cvy_config_table *table, const char *key)
{
    for (int i = 0; i < table->n_fields; i++) {
        if (strcmp(table->fields[i].key, key) == 0) return &table->fields[i];
    }
    return NULL;
}

static cvy_status check_keys(const cvy_config_table *table, const cvy_node *node)
{
    for (int i = 0; i < node->n_items; i++) {
        const char *key = node->item[i]->key;
        if (table->tag_key != NULL && strcmp(key, table->tag_key) == 0) continue;
        if (find_field(table, key) == NULL) return fail_key(table, node->item[i]);
    }
    return CVY_OK;
}

/* Turn what stands in the place of a mapping into one where the table allows it. */
static cvy_status make_mapping(const cvy_config_table *table, cvy_node *node)
{
    if (node->kind == CVY_NODE_MAPPING) return CVY_OK;
    if (cvy_node_is_null(node)) return cvy_node_become_mapping(node, NULL);
    if (table->scalar_key != NULL) {
        const cvy_config_field *field = find_field(table, table->scalar_key);
        CVY_ASSERT(field != NULL);
        if (node->kind == CVY_NODE_SCALAR || field->type == CVY_CONFIG_INT_LIST ||
            field->type == CVY_CONFIG_REAL_LIST) {
            return cvy_node_become_mapping(node, table->scalar_key);
        }
    }
    char place[PLACE_SIZE], path[PATH_SIZE], shown[CVY_SHOWN_SIZE];
    cvy_node_place(node, place, sizeof place);
    cvy_node_path(node, path, sizeof path);
    return CVY_FAIL(CVY_ERR_CONFIG, "%s: %s is %s, expected a mapping (key: value)", place,
                    path[0] == '\0' ? table->name : path, cvy_node_shown(node, shown));
}

/* A section that is not there still has its defaults. */
static cvy_status read_absent_section(const cvy_config_field *field, cvy_node *parent, void *out)
{
    cvy_node *section = NULL;

    if (parent != NULL) CVY_RETURN_IF_ERR(cvy_node_add_mapping(parent, field->key, &section));
    return cvy_config_read(field->section, section, out);
}

cvy_status cvy_config_read(const cvy_config_table *table, cvy_node *node, void *out)
{
    memset(out, 0, table->struct_size);
    if (node != NULL) {
        CVY_RETURN_IF_ERR(make_mapping(table, node));
        CVY_RETURN_IF_ERR(check_keys(table, node));
    }
    for (int i = 0; i < table->n_fields; i++) {
        const cvy_config_field *field = &table->fields[i];
        void *value = (char *)out + field->offset;
        cvy_node *given = node == NULL ? NULL : (cvy_node *)cvy_node_find(node, field->key);
        if (!cvy_node_is_null(given)) {
            CVY_RETURN_IF_ERR(read_value(field, given, value));
        } else if (field->type == CVY_CONFIG_SECTION && !field->is_required) {
            CVY_RETURN_IF_ERR(read_absent_section(field, node, value));
        } else {
            CVY_RETURN_IF_ERR(take_default(table, field, node, value));
        }
    }
    return CVY_OK;
}

cvy_node *cvy_config_section(const cvy_node *node)
{
    return (cvy_node *)node;
}
