#include "base/node.h"

#include "base/alloc.h"
#include "base/node_internal.h"

#include <stdio.h>
#include <string.h>

static cvy_status no_memory(void)
{
    return CVY_FAIL(CVY_ERR_NO_MEMORY, "out of memory for a part of the configuration");
}

cvy_node *cvy_node_new(cvy_node_kind kind, const char *text, size_t text_size)
{
    size_t size;

    if (!cvy_size_add(sizeof(cvy_node) + 1, text_size, &size)) return NULL;
    cvy_node *node = cvy_alloc(size);
    if (node == NULL) return NULL;
    memset(node, 0, sizeof *node);
    node->kind = kind;
    node->text = (char *)(node + 1);
    if (text_size > 0) memcpy(node->text, text, text_size);
    node->text[text_size] = '\0';
    return node;
}

/* Depth is at most CVY_NODE_MAX_DEPTH plus what --set adds, so recursion is bounded. */
static void free_node(cvy_node *node)
{
    for (int i = 0; i < node->n_items; i++) free_node(node->item[i]);
    cvy_free(node->item);
    cvy_free(node->key);
    cvy_free(node->source);
    cvy_free(node);
}

void cvy_node_destroy(cvy_node **root)
{
    if (root == NULL || *root == NULL) return;
    free_node(*root);
    *root = NULL;
}

/* Room for one more entry. */
static cvy_status reserve(cvy_node *parent)
{
    if (parent->n_items < parent->capacity) return CVY_OK;
    const int capacity = parent->capacity == 0 ? 8 : parent->capacity * 2;
    cvy_node **item = cvy_realloc(parent->item, (size_t)capacity * sizeof *item);
    if (item == NULL) return CVY_ERR_NO_MEMORY;
    parent->item = item;
    parent->capacity = capacity;
    return CVY_OK;
}

static cvy_status give_key(cvy_node *child, const char *key)
{
    char *copy = NULL;

    if (key != NULL) {
        copy = cvy_strdup(key);
        if (copy == NULL) return CVY_ERR_NO_MEMORY;
    }
    cvy_free(child->key);
    child->key = copy;
    return CVY_OK;
}

cvy_status cvy_node_append(cvy_node *parent, const char *key, cvy_node **child)
{
    CVY_ASSERT(parent->kind == (key == NULL ? CVY_NODE_SEQUENCE : CVY_NODE_MAPPING));
    CVY_RETURN_IF_ERR(reserve(parent));
    CVY_RETURN_IF_ERR(give_key(*child, key));
    (*child)->parent = parent;
    parent->item[parent->n_items++] = *child;
    *child = NULL;
    return CVY_OK;
}

static int find_idx(const cvy_node *mapping, const char *key)
{
    for (int i = 0; i < mapping->n_items; i++) {
        if (strcmp(mapping->item[i]->key, key) == 0) return i;
    }
    return -1;
}

cvy_status cvy_node_put(cvy_node *mapping, const char *key, cvy_node **child)
{
    const int idx = find_idx(mapping, key);

    if (idx < 0) return cvy_node_append(mapping, key, child);
    CVY_RETURN_IF_ERR(give_key(*child, key));
    (*child)->parent = mapping;
    free_node(mapping->item[idx]);
    mapping->item[idx] = *child;
    *child = NULL;
    return CVY_OK;
}

cvy_status cvy_node_become_mapping(cvy_node *node, const char *key)
{
    if (cvy_node_is_null(node)) {
        node->kind = CVY_NODE_MAPPING;
        return CVY_OK;
    }
    cvy_node *inner = cvy_node_new(node->kind, node->text, strlen(node->text));
    cvy_node **outer_items = cvy_alloc(8 * sizeof *outer_items);
    if (inner == NULL || outer_items == NULL || give_key(inner, key) != CVY_OK) {
        if (inner != NULL) free_node(inner);
        cvy_free(outer_items);
        return no_memory();
    }
    inner->is_quoted = node->is_quoted;
    inner->line = node->line;
    inner->column = node->column;
    inner->item = node->item;
    inner->n_items = node->n_items;
    inner->capacity = node->capacity;
    for (int i = 0; i < inner->n_items; i++) inner->item[i]->parent = inner;
    inner->parent = node;
    node->kind = CVY_NODE_MAPPING;
    node->item = outer_items;
    node->item[0] = inner;
    node->n_items = 1;
    node->capacity = 8;
    return CVY_OK;
}

static const char *source_of(const cvy_node *node)
{
    while (node->source == NULL && node->parent != NULL) node = node->parent;
    return node->source == NULL ? "configuration" : node->source;
}

static cvy_node *copy_tree(const cvy_node *node)
{
    cvy_node *copy = cvy_node_new(node->kind, node->text, strlen(node->text));

    if (copy == NULL) return NULL;
    copy->is_quoted = node->is_quoted;
    copy->line = node->line;
    copy->column = node->column;
    copy->key_line = node->key_line;
    copy->key_column = node->key_column;
    int is_whole = 1;
    if (node->source != NULL) {
        copy->source = cvy_strdup(node->source);
        is_whole = copy->source != NULL;
    }
    for (int i = 0; is_whole && i < node->n_items; i++) {
        cvy_node *child = copy_tree(node->item[i]);
        is_whole = child != NULL && cvy_node_append(copy, node->item[i]->key, &child) == CVY_OK;
        if (child != NULL) free_node(child);
    }
    if (!is_whole) cvy_node_destroy(&copy);
    return copy;
}

cvy_status cvy_node_copy(const cvy_node *node, cvy_node **out)
{
    *out = NULL;
    cvy_node *copy = copy_tree(node);
    if (copy == NULL) return no_memory();
    if (copy->source == NULL) {
        copy->source = cvy_strdup(source_of(node));
        if (copy->source == NULL) {
            cvy_node_destroy(&copy);
            return no_memory();
        }
    }
    *out = copy;
    return CVY_OK;
}

cvy_node_kind cvy_node_get_kind(const cvy_node *node)
{
    return node->kind;
}

const char *cvy_node_text(const cvy_node *node)
{
    return node->kind == CVY_NODE_SCALAR ? node->text : NULL;
}

int cvy_node_is_null(const cvy_node *node)
{
    if (node == NULL) return 1;
    if (node->kind != CVY_NODE_SCALAR || node->is_quoted) return 0;
    const char *text = node->text;
    return text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0 ||
           strcmp(text, "Null") == 0 || strcmp(text, "NULL") == 0;
}

int cvy_node_n_items(const cvy_node *node)
{
    return node->n_items;
}

const cvy_node *cvy_node_item(const cvy_node *node, int idx)
{
    CVY_ASSERT(idx >= 0 && idx < node->n_items);
    return node->item[idx];
}

const char *cvy_node_key(const cvy_node *mapping, int idx)
{
    CVY_ASSERT(mapping->kind == CVY_NODE_MAPPING && idx >= 0 && idx < mapping->n_items);
    return mapping->item[idx]->key;
}

const cvy_node *cvy_node_find(const cvy_node *mapping, const char *key)
{
    if (mapping == NULL || mapping->kind != CVY_NODE_MAPPING) return NULL;
    const int idx = find_idx(mapping, key);
    return idx < 0 ? NULL : mapping->item[idx];
}

/* Add a new node under a key that is lacking, or in the place of a null. */
static cvy_status add_node(cvy_node *mapping, const char *key, cvy_node *child, cvy_node **out)
{
    if (child == NULL) return no_memory();
    CVY_ASSERT(mapping->kind == CVY_NODE_MAPPING);
    CVY_ASSERT(cvy_node_is_null(cvy_node_find(mapping, key)));
    cvy_node *view = child;
    if (cvy_node_put(mapping, key, &child) != CVY_OK) {
        free_node(child);
        return no_memory();
    }
    if (out != NULL) *out = view;
    return CVY_OK;
}

cvy_status cvy_node_add(cvy_node *mapping, const char *key, const char *text)
{
    cvy_node *child = cvy_node_new(CVY_NODE_SCALAR, text, strlen(text));

    /* A text is meant, never null. */
    if (child != NULL) child->is_quoted = cvy_node_is_null(child);
    return add_node(mapping, key, child, NULL);
}

cvy_status cvy_node_add_mapping(cvy_node *mapping, const char *key, cvy_node **out)
{
    return add_node(mapping, key, cvy_node_new(CVY_NODE_MAPPING, "", 0), out);
}

void cvy_node_remove(cvy_node *mapping, const char *key)
{
    CVY_ASSERT(mapping->kind == CVY_NODE_MAPPING);
    const int idx = find_idx(mapping, key);

    if (idx < 0) return;
    free_node(mapping->item[idx]);
    mapping->n_items--;
    memmove(&mapping->item[idx], &mapping->item[idx + 1],
            (size_t)(mapping->n_items - idx) * sizeof mapping->item[0]);
}

void cvy_node_place(const cvy_node *node, char *out, size_t out_size)
{
    const cvy_node *read = node;

    /* A part that convoy added stands where the part around it stands. */
    while (read->line == 0 && read->source == NULL && read->parent != NULL) read = read->parent;
    if (read->line == 0) {
        (void)snprintf(out, out_size, "%s", source_of(read));
    } else {
        (void)snprintf(out, out_size, "%s:%d:%d", source_of(read), read->line, read->column);
    }
}

void cvy_node_key_place(const cvy_node *node, char *out, size_t out_size)
{
    if (node->key_line == 0) {
        cvy_node_place(node, out, out_size);
    } else {
        (void)snprintf(out, out_size, "%s:%d:%d", source_of(node), node->key_line,
                       node->key_column);
    }
}

void cvy_node_path(const cvy_node *node, char *out, size_t out_size)
{
    if (node->parent == NULL) {
        out[0] = '\0';
        return;
    }
    cvy_node_path(node->parent, out, out_size);
    const size_t used = strlen(out);
    const char *dot = used == 0 ? "" : ".";
    if (node->key != NULL) {
        char shown[CVY_SHOWN_SIZE];
        const char *key = cvy_text_shown(node->key, shown) + 1;
        (void)snprintf(out + used, out_size - used, "%s%.*s", dot, (int)strlen(key) - 1, key);
        return;
    }
    int idx = 0;
    while (idx < node->parent->n_items && node->parent->item[idx] != node) idx++;
    (void)snprintf(out + used, out_size - used, "%s%d", dot, idx);
}

const char *cvy_text_shown(const char *text, char out[CVY_SHOWN_SIZE])
{
    const size_t limit = 60;
    size_t n = strlen(text);
    const int is_cut = n > limit;

    if (is_cut) {
        n = limit;
        while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
    }
    out[0] = '\'';
    for (size_t i = 0; i < n; i++) {
        const unsigned char byte = (unsigned char)text[i];
        out[i + 1] = byte < 0x20 || byte == 0x7F ? '?' : text[i];
    }
    (void)snprintf(out + n + 1, CVY_SHOWN_SIZE - n - 1, "%s", is_cut ? "...'" : "'");
    return out;
}

const char *cvy_node_shown(const cvy_node *node, char out[CVY_SHOWN_SIZE])
{
    if (node->kind == CVY_NODE_SEQUENCE) return "a list";
    if (node->kind == CVY_NODE_MAPPING) return "a mapping";
    if (cvy_node_is_null(node)) return "empty";
    return cvy_text_shown(node->text, out);
}

int cvy_node_depth(const cvy_node *node)
{
    int deepest = 0;

    for (int i = 0; i < node->n_items; i++) {
        const int depth = cvy_node_depth(node->item[i]);
        if (depth > deepest) deepest = depth;
    }
    return deepest + 1;
}
