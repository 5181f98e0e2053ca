/* A tree as YAML text, and changes to a tree by the words of the command line. */
#include "base/alloc.h"
#include "base/node.h"
#include "base/node_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct text_buffer {
    char *text;
    size_t size, capacity;
    int is_failed;
} text_buffer;

static void put(text_buffer *buffer, const char *bytes, size_t n)
{
    if (buffer->is_failed) return;
    if (buffer->capacity - buffer->size <= n) {
        const size_t capacity = 2 * buffer->capacity + n + 256;
        char *text = cvy_realloc(buffer->text, capacity);
        if (text == NULL) {
            buffer->is_failed = 1;
            return;
        }
        buffer->text = text;
        buffer->capacity = capacity;
    }
    memcpy(buffer->text + buffer->size, bytes, n);
    buffer->size += n;
    buffer->text[buffer->size] = '\0';
}

static void put_text(text_buffer *buffer, const char *text)
{
    put(buffer, text, strlen(text));
}

/* Plain scalars of these characters mean the same in every YAML parser. */
static int is_plain(const char *text)
{
    static const char first[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+";
    static const char other[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-";
    const int is_negative = text[0] == '-' && text[1] != '\0' && text[1] != '-';

    if (!is_negative && (text[0] == '\0' || strchr(first, text[0]) == NULL)) return 0;
    if (strcmp(text, "...") == 0) return 0; /* ends a document */
    return strspn(text, other) == strlen(text);
}

static void put_quoted(text_buffer *buffer, const char *text)
{
    put_text(buffer, "\"");
    for (; *text != '\0'; text++) {
        const unsigned char byte = (unsigned char)*text;
        char escape[8];
        if (byte == '"' || byte == '\\') {
            (void)snprintf(escape, sizeof escape, "\\%c", byte);
            put_text(buffer, escape);
        } else if (byte < 0x20 || byte == 0x7F) {
            (void)snprintf(escape, sizeof escape, "\\x%02X", byte);
            put_text(buffer, escape);
        } else if (byte == 0xC2 && ((unsigned char)text[1] & 0xE0) == 0x80) {
            /* U+0080 to U+009F: controls, and a line break among them */
            (void)snprintf(escape, sizeof escape, "\\x%02X", (unsigned char)text[1]);
            put_text(buffer, escape);
            text++;
        } else if (byte == 0xE2 && (unsigned char)text[1] == 0x80 &&
                   ((unsigned char)text[2] & 0xFE) == 0xA8) {
            /* U+2028 and U+2029 are line breaks in YAML 1.1 */
            put_text(buffer, (unsigned char)text[2] == 0xA8 ? "\\L" : "\\P");
            text += 2;
        } else if (byte == 0xEF && (unsigned char)text[1] == 0xBB &&
                   (unsigned char)text[2] == 0xBF) {
            put_text(buffer, "\\uFEFF"); /* a byte order mark inside a text */
            text += 2;
        } else {
            put(buffer, text, 1);
        }
    }
    put_text(buffer, "\"");
}

static void put_scalar(text_buffer *buffer, const cvy_node *node)
{
    if (cvy_node_is_null(node)) {
        put_text(buffer, node->text); /* may be nothing at all */
    } else if (is_plain(node->text) && !node->is_quoted) {
        put_text(buffer, node->text);
    } else {
        put_quoted(buffer, node->text);
    }
}

static void put_indent(text_buffer *buffer, int indent)
{
    for (int i = 0; i < indent; i++) put_text(buffer, "  ");
}

/* What follows "key:" or "-"; ends with a line break. */
static void put_value(text_buffer *buffer, const cvy_node *node, int indent)
{
    const int is_mapping = node->kind == CVY_NODE_MAPPING;

    if (node->kind == CVY_NODE_SCALAR) {
        if (node->text[0] != '\0' || node->is_quoted) put_text(buffer, " ");
        put_scalar(buffer, node);
        put_text(buffer, "\n");
        return;
    }
    if (node->n_items == 0) {
        put_text(buffer, is_mapping ? " {}\n" : " []\n");
        return;
    }
    put_text(buffer, "\n");
    for (int i = 0; i < node->n_items; i++) {
        const cvy_node *item = node->item[i];
        put_indent(buffer, indent);
        if (is_mapping) {
            if (is_plain(item->key)) {
                put_text(buffer, item->key);
            } else {
                put_quoted(buffer, item->key);
            }
            put_text(buffer, ":");
        } else {
            put_text(buffer, "-");
        }
        put_value(buffer, item, indent + 1);
    }
}

cvy_status cvy_node_print(const cvy_node *root, char **out)
{
    text_buffer buffer = {0};

    *out = NULL;
    put_value(&buffer, root, 0);
    if (buffer.is_failed) {
        cvy_free(buffer.text);
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "out of memory printing the configuration");
    }
    /* put_value() begins with what stands after a key: a space or a line break. */
    if (buffer.size > 1) memmove(buffer.text, buffer.text + 1, buffer.size);
    *out = buffer.text;
    return CVY_OK;
}

/* --- --set ------------------------------------------------------------------------------------ */

static cvy_status fail_set(const char *assignment, const char *word, const char *what)
{
    char shown[CVY_SHOWN_SIZE], shown_word[CVY_SHOWN_SIZE];

    return CVY_FAIL(CVY_ERR_CONFIG, "--set %s: %s %s", cvy_text_shown(assignment, shown),
                    cvy_text_shown(word, shown_word), what);
}

static cvy_status fail_list(const char *assignment, const char *word)
{
    return fail_set(assignment, word, "is no entry of the list, expected its number from 0");
}

static cvy_status fail_scalar(const char *assignment, const char *word)
{
    return fail_set(assignment, word, "cannot be set inside a single value, expected a section");
}

/* Entry of a sequence by its number. */
static cvy_node *item_by_number(cvy_node *sequence, const char *word)
{
    if (word[0] == '\0' || strlen(word) > 6 || strspn(word, "0123456789") != strlen(word)) {
        return NULL;
    }
    const long idx = strtol(word, NULL, 10);
    return idx < sequence->n_items ? sequence->item[idx] : NULL;
}

/* The part of the tree that `word` names under node, made if it is lacking. */
static cvy_status step_into(cvy_node *node, const char *word, const char *assignment,
                            cvy_node **out)
{
    if (node->kind == CVY_NODE_SEQUENCE) {
        *out = item_by_number(node, word);
        if (*out != NULL) return CVY_OK;
        return fail_list(assignment, word);
    }
    if (cvy_node_is_null(node)) CVY_RETURN_IF_ERR(cvy_node_become_mapping(node, NULL));
    if (node->kind != CVY_NODE_MAPPING) {
        return fail_scalar(assignment, word);
    }
    *out = (cvy_node *)cvy_node_find(node, word);
    if (*out != NULL) return CVY_OK;
    return cvy_node_add_mapping(node, word, out);
}

/* Put the value under the last word of the path. */
static cvy_status assign(cvy_node *node, const char *word, const char *assignment, cvy_node **value)
{
    if (node->kind == CVY_NODE_SEQUENCE) {
        const cvy_node *old = item_by_number(node, word);
        if (old == NULL) {
            return fail_list(assignment, word);
        }
        int idx = 0;
        while (node->item[idx] != old) idx++;
        cvy_node_destroy(&node->item[idx]);
        (*value)->parent = node;
        node->item[idx] = *value;
        *value = NULL;
        return CVY_OK;
    }
    if (cvy_node_is_null(node)) CVY_RETURN_IF_ERR(cvy_node_become_mapping(node, NULL));
    if (node->kind != CVY_NODE_MAPPING) {
        return fail_scalar(assignment, word);
    }
    const cvy_status status = cvy_node_put(node, word, value);
    if (status != CVY_OK) return CVY_FAIL(status, "out of memory for --set %s", assignment);
    return CVY_OK;
}

static cvy_status set_path(cvy_node *root, char *path, const char *assignment, cvy_node **value)
{
    cvy_node *node = root;
    int depth = cvy_node_depth(*value);
    char *word = path;

    for (const char *c = path; *c != '\0'; c++) depth += *c == '.';
    if (depth + 1 > CVY_NODE_MAX_DEPTH) {
        return fail_set(assignment, path, "leads to more than 32 levels");
    }
    for (;;) {
        char *dot = strchr(word, '.');
        if (dot != NULL) *dot = '\0';
        if (word[0] == '\0' || strlen(word) > CVY_NODE_MAX_KEY_SIZE) {
            return fail_set(assignment, word, "is no key, expected words with single dots between");
        }
        if (dot == NULL) return assign(node, word, assignment, value);
        CVY_RETURN_IF_ERR(step_into(node, word, assignment, &node));
        word = dot + 1;
    }
}

/* Parts of a value given on the command line have no line and column worth telling. */
static void forget_lines(cvy_node *node)
{
    node->line = node->column = 0;
    for (int i = 0; i < node->n_items; i++) forget_lines(node->item[i]);
}

cvy_status cvy_node_set(cvy_node *root, const char *assignment)
{
    cvy_status status = CVY_OK;
    cvy_node *value = NULL;
    char *path = NULL, *source = NULL;
    const char *equals = strchr(assignment, '=');

    if (equals == NULL || equals == assignment) {
        return fail_set(assignment, assignment, "is no setting, expected key=value");
    }
    path = cvy_strdup(assignment);
    source = cvy_text_format("--set %.*s", (int)(equals - assignment), assignment);
    if (path == NULL || source == NULL) {
        status = CVY_FAIL(CVY_ERR_NO_MEMORY, "out of memory for --set %s", assignment);
        goto done;
    }
    path[equals - assignment] = '\0';
    CVY_GOTO_IF_ERR(done, status, cvy_node_parse(equals + 1, strlen(equals + 1), source, &value));
    forget_lines(value);
    status = set_path(root, path, assignment, &value);

done:
    cvy_node_destroy(&value);
    cvy_free(path);
    cvy_free(source);
    return status;
}
