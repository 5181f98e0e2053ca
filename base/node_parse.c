/* YAML text to a tree, by the events of libyaml: nothing is built that was not counted first. */
#include "base/alloc.h"
#include "base/file.h"
#include "base/node.h"
#include "base/node_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

typedef struct yaml_reader {
    yaml_parser_t parser;
    const char *source;
    int n_nodes;
} yaml_reader;

static cvy_status fail_at(const yaml_reader *reader, yaml_mark_t mark, const char *what)
{
    return CVY_FAIL(CVY_ERR_CONFIG, "%s:%zu:%zu: %s", reader->source, mark.line + 1,
                    mark.column + 1, what);
}

static cvy_status no_memory(const yaml_reader *reader)
{
    return CVY_FAIL(CVY_ERR_NO_MEMORY, "out of memory reading %s", reader->source);
}

/* Bytes of the UTF-8 character at text (1 to 4), 0 if it is none: RFC 3629, without surrogates and
 * overlong forms. */
static size_t utf8_size(const unsigned char *text, size_t left)
{
    const unsigned char first = text[0];
    size_t n;
    unsigned char low = 0x80, high = 0xBF; /* of the second byte */

    if (first < 0x80) return 1;
    if (first >= 0xC2 && first <= 0xDF) {
        n = 2;
    } else if ((first & 0xF0) == 0xE0) {
        n = 3;
        if (first == 0xE0) low = 0xA0;
        if (first == 0xED) high = 0x9F;
    } else if (first >= 0xF0 && first <= 0xF4) {
        n = 4;
        if (first == 0xF0) low = 0x90;
        if (first == 0xF4) high = 0x8F;
    } else {
        return 0;
    }
    if (left < n || text[1] < low || text[1] > high) return 0;
    for (size_t i = 2; i < n; i++) {
        if ((text[i] & 0xC0) != 0x80) return 0;
    }
    return n;
}

/* libyaml would take UTF-16 and stop at a NUL; both get a line of their own here. */
static cvy_status check_text(const char *text, size_t size_bytes, const char *source)
{
    const unsigned char *bytes = (const unsigned char *)text;
    size_t line = 1, column = 1;

    for (size_t i = 0; i < size_bytes;) {
        const size_t n = utf8_size(bytes + i, size_bytes - i);
        if (n == 0) {
            return CVY_FAIL(CVY_ERR_CONFIG,
                            "%s:%zu:%zu: byte 0x%02X is not UTF-8 text; save the file as UTF-8",
                            source, line, column, bytes[i]);
        }
        if (bytes[i] == 0) {
            return CVY_FAIL(CVY_ERR_CONFIG, "%s:%zu:%zu: NUL byte, expected UTF-8 text", source,
                            line, column);
        }
        if ((bytes[i] < 0x20 && strchr("\t\n\r", bytes[i]) == NULL) || bytes[i] == 0x7F) {
            return CVY_FAIL(CVY_ERR_CONFIG,
                            "%s:%zu:%zu: control character 0x%02X, expected plain text", source,
                            line, column, bytes[i]);
        }
        const int is_crlf = bytes[i] == '\r' && i + 1 < size_bytes && bytes[i + 1] == '\n';
        column++;
        if (bytes[i] == '\n' || (bytes[i] == '\r' && !is_crlf)) {
            line++;
            column = 1;
        }
        i += n;
    }
    return CVY_OK;
}

static cvy_status fail_syntax(const yaml_reader *reader)
{
    const yaml_parser_t *parser = &reader->parser;
    const char *problem = parser->problem == NULL ? "not YAML" : parser->problem;

    if (parser->error == YAML_MEMORY_ERROR) return no_memory(reader);
    if (parser->error == YAML_READER_ERROR) {
        return CVY_FAIL(CVY_ERR_CONFIG, "%s:%zu:%zu: %s (0x%02X)", reader->source,
                        parser->mark.line + 1, parser->mark.column + 1, problem,
                        (unsigned)parser->problem_value);
    }
    if (parser->context == NULL) return fail_at(reader, parser->problem_mark, problem);
    return CVY_FAIL(CVY_ERR_CONFIG, "%s:%zu:%zu: %s, %s that began at line %zu", reader->source,
                    parser->problem_mark.line + 1, parser->problem_mark.column + 1, problem,
                    parser->context, parser->context_mark.line + 1);
}

static cvy_status next_event(yaml_reader *reader, yaml_event_t *event)
{
    if (!yaml_parser_parse(&reader->parser, event)) return fail_syntax(reader);
    return CVY_OK;
}

static cvy_status refuse_anchor(const yaml_reader *reader, const yaml_event_t *event,
                                const yaml_char_t *anchor, const yaml_char_t *tag)
{
    if (anchor != NULL) {
        return fail_at(reader, event->start_mark, "anchors (&name) are not used in job files");
    }
    if (tag != NULL) {
        return fail_at(reader, event->start_mark, "tags (!name) are not used in job files");
    }
    return CVY_OK;
}

static cvy_status check_event(yaml_reader *reader, const yaml_event_t *event, int depth)
{
    const yaml_mark_t mark = event->start_mark;

    switch (event->type) {
    case YAML_SCALAR_EVENT:
        CVY_RETURN_IF_ERR(
            refuse_anchor(reader, event, event->data.scalar.anchor, event->data.scalar.tag));
        if (strlen((const char *)event->data.scalar.value) != event->data.scalar.length) {
            return fail_at(reader, mark, "text with a NUL character");
        }
        break;
    case YAML_SEQUENCE_START_EVENT:
        CVY_RETURN_IF_ERR(refuse_anchor(reader, event, event->data.sequence_start.anchor,
                                        event->data.sequence_start.tag));
        break;
    case YAML_MAPPING_START_EVENT:
        CVY_RETURN_IF_ERR(refuse_anchor(reader, event, event->data.mapping_start.anchor,
                                        event->data.mapping_start.tag));
        break;
    default:
        return fail_at(reader, mark, "aliases (*name) are not used in job files");
    }
    if (depth > CVY_NODE_MAX_DEPTH) return fail_at(reader, mark, "nested more than 32 levels deep");
    if (++reader->n_nodes > CVY_NODE_MAX_NODES) {
        return fail_at(reader, mark, "more than 131072 values in one file");
    }
    return CVY_OK;
}

static cvy_status read_node(yaml_reader *reader, const yaml_event_t *event, int depth,
                            cvy_node **out);

static cvy_status read_items(yaml_reader *reader, cvy_node *sequence, int depth)
{
    for (;;) {
        cvy_status status = CVY_OK;
        cvy_node *child = NULL;
        yaml_event_t event;

        CVY_RETURN_IF_ERR(next_event(reader, &event));
        const int is_end = event.type == YAML_SEQUENCE_END_EVENT;
        if (!is_end) status = read_node(reader, &event, depth + 1, &child);
        yaml_event_delete(&event);
        if (is_end || status != CVY_OK) return status;
        if (cvy_node_append(sequence, NULL, &child) != CVY_OK) {
            cvy_node_destroy(&child);
            return no_memory(reader);
        }
    }
}

static cvy_status check_key(yaml_reader *reader, const yaml_event_t *event, const cvy_node *mapping)
{
    char shown[CVY_SHOWN_SIZE];
    const yaml_mark_t mark = event->start_mark;

    if (event->type != YAML_SCALAR_EVENT && event->type != YAML_ALIAS_EVENT) {
        return fail_at(reader, mark, "a key that is a list or a mapping, expected a word");
    }
    CVY_RETURN_IF_ERR(check_event(reader, event, 0));
    const char *key = (const char *)event->data.scalar.value;
    if (key[0] == '\0') return fail_at(reader, mark, "empty key, expected a word before ':'");
    if (strlen(key) > CVY_NODE_MAX_KEY_SIZE) {
        return fail_at(reader, mark, "key longer than 256 bytes");
    }
    if (mapping->n_items >= CVY_NODE_MAX_KEYS) {
        return fail_at(reader, mark, "more than 1024 keys in one mapping");
    }
    const cvy_node *first = cvy_node_find(mapping, key);
    if (first != NULL) {
        return CVY_FAIL(CVY_ERR_CONFIG,
                        "%s:%zu:%zu: key %s stands here a second time (first at line %d); "
                        "remove one",
                        reader->source, mark.line + 1, mark.column + 1, cvy_text_shown(key, shown),
                        first->key_line);
    }
    return CVY_OK;
}

static cvy_status read_value(yaml_reader *reader, const yaml_event_t *key, cvy_node *mapping,
                             int depth)
{
    cvy_node *child = NULL;
    yaml_event_t event;

    CVY_RETURN_IF_ERR(check_key(reader, key, mapping));
    CVY_RETURN_IF_ERR(next_event(reader, &event));
    const cvy_status status = read_node(reader, &event, depth + 1, &child);
    yaml_event_delete(&event);
    CVY_RETURN_IF_ERR(status);
    child->key_line = (int)key->start_mark.line + 1;
    child->key_column = (int)key->start_mark.column + 1;
    if (child->kind != CVY_NODE_SCALAR || child->text[0] == '\0') {
        /* The key is where a reader looks for a section or an empty value. */
        child->line = child->key_line;
        child->column = child->key_column;
    }
    if (cvy_node_append(mapping, (const char *)key->data.scalar.value, &child) != CVY_OK) {
        cvy_node_destroy(&child);
        return no_memory(reader);
    }
    return CVY_OK;
}

static cvy_status read_entries(yaml_reader *reader, cvy_node *mapping, int depth)
{
    for (;;) {
        cvy_status status = CVY_OK;
        yaml_event_t key;

        CVY_RETURN_IF_ERR(next_event(reader, &key));
        const int is_end = key.type == YAML_MAPPING_END_EVENT;
        if (!is_end) status = read_value(reader, &key, mapping, depth);
        yaml_event_delete(&key);
        if (is_end || status != CVY_OK) return status;
    }
}

/* Recursion is bounded by the depth that check_event() lets pass. */
static cvy_status read_node(yaml_reader *reader, const yaml_event_t *event, int depth,
                            cvy_node **out)
{
    cvy_status status = CVY_OK;
    cvy_node *node = NULL;

    CVY_RETURN_IF_ERR(check_event(reader, event, depth));
    if (event->type == YAML_SCALAR_EVENT) {
        node = cvy_node_new(CVY_NODE_SCALAR, (const char *)event->data.scalar.value,
                            event->data.scalar.length);
    } else {
        node = cvy_node_new(
            event->type == YAML_SEQUENCE_START_EVENT ? CVY_NODE_SEQUENCE : CVY_NODE_MAPPING, "", 0);
    }
    if (node == NULL) return no_memory(reader);
    node->line = (int)event->start_mark.line + 1;
    node->column = (int)event->start_mark.column + 1;
    if (node->kind == CVY_NODE_SCALAR) {
        node->is_quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    } else if (node->kind == CVY_NODE_SEQUENCE) {
        status = read_items(reader, node, depth);
    } else {
        status = read_entries(reader, node, depth);
    }
    if (status != CVY_OK) cvy_node_destroy(&node);
    *out = node;
    return status;
}

/* The events around the one document. */
static cvy_status read_stream(yaml_reader *reader, cvy_node **out)
{
    cvy_status status = CVY_OK;

    for (;;) {
        yaml_event_t event;
        status = next_event(reader, &event);
        if (status != CVY_OK) break;
        const yaml_event_type_t type = event.type;
        if (type == YAML_DOCUMENT_START_EVENT && *out != NULL) {
            status = fail_at(reader, event.start_mark, "a second document, expected only one");
        } else if (type == YAML_SCALAR_EVENT || type == YAML_SEQUENCE_START_EVENT ||
                   type == YAML_MAPPING_START_EVENT || type == YAML_ALIAS_EVENT) {
            status = read_node(reader, &event, 1, out);
        }
        yaml_event_delete(&event);
        if (status != CVY_OK || type == YAML_STREAM_END_EVENT) break;
    }
    if (status != CVY_OK) cvy_node_destroy(out);
    return status;
}

cvy_status cvy_node_parse(const char *text, size_t size_bytes, const char *source, cvy_node **out)
{
    cvy_node *root = NULL;
    yaml_reader reader = {.source = source};

    *out = NULL;
    if (size_bytes > CVY_NODE_MAX_BYTES) {
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: %zu bytes, expected at most 1 MiB", source,
                        size_bytes);
    }
    if (size_bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) { /* byte order mark */
        text += 3;
        size_bytes -= 3;
    }
    CVY_RETURN_IF_ERR(check_text(text, size_bytes, source));
    if (!yaml_parser_initialize(&reader.parser)) return no_memory(&reader);
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, size_bytes);
    cvy_status status = read_stream(&reader, &root);
    yaml_parser_delete(&reader.parser);
    CVY_RETURN_IF_ERR(status);
    if (root == NULL) { /* nothing but comments */
        root = cvy_node_new(CVY_NODE_SCALAR, "", 0);
        if (root == NULL) return no_memory(&reader);
        root->line = root->column = 1;
    }
    root->source = cvy_strdup(source);
    if (root->source == NULL) {
        cvy_node_destroy(&root);
        return no_memory(&reader);
    }
    *out = root;
    return CVY_OK;
}

static const char *file_kind(mode_t mode)
{
    if (S_ISDIR(mode)) return "a folder";
    if (S_ISFIFO(mode)) return "a FIFO";
    if (S_ISSOCK(mode)) return "a socket";
    return "a device";
}

cvy_status cvy_node_parse_file(const char *path, cvy_node **out)
{
    struct stat info;
    cvy_reason reason = {{0}};
    char *text = NULL;
    size_t size_bytes = 0;

    *out = NULL;
    if (stat(path, &info) != 0) {
        return CVY_FAIL(cvy_status_from_errno(errno), "%s: %s", path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode)) {
        return CVY_FAIL(CVY_ERR_NOT_FOUND, "%s: is %s, expected a YAML file", path,
                        file_kind(info.st_mode));
    }
    if (info.st_size > (off_t)CVY_NODE_MAX_BYTES) {
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: %lld bytes, expected at most 1 MiB", path,
                        (long long)info.st_size);
    }
    cvy_status status = cvy_file_read(path, CVY_NODE_MAX_BYTES, &text, &size_bytes, &reason);
    if (status != CVY_OK) return CVY_FAIL(status, "%s", reason.text);
    status = cvy_node_parse(text, size_bytes, path, out);
    cvy_free(text);
    return status;
}
