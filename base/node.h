#ifndef CVY_NODE_H
#define CVY_NODE_H

#include "base/status.h"

#include <stddef.h>

/**
 * A YAML document as a tree that remembers where each part stood.
 *
 * Only what job files need: scalars, sequences, mappings with scalar keys; anchors, tags, several
 * documents, duplicate keys, NUL bytes, nesting over 32, more than 1 MiB, 131072 values or 1024
 * keys in a mapping, or text that is not UTF-8 are refused with file, line and column
 * (CVY_ERR_CONFIG, logged). A byte order mark and CRLF are accepted; an empty text is a null. The
 * tree owns all its text.
 */
typedef struct cvy_node cvy_node;

typedef enum cvy_node_kind { CVY_NODE_SCALAR, CVY_NODE_SEQUENCE, CVY_NODE_MAPPING } cvy_node_kind;

/** source: the name that messages give ("job.yaml", "--set"). */
cvy_status cvy_node_parse(const char *text, size_t size_bytes, const char *source, cvy_node **out);
/** Missing, a folder, FIFO or device: CVY_ERR_NOT_FOUND; unreadable: CVY_ERR_PERMISSION. */
cvy_status cvy_node_parse_file(const char *path, cvy_node **out);
void cvy_node_destroy(cvy_node **root);
cvy_status cvy_node_copy(const cvy_node *node, cvy_node **out); /* a root of its own */

/** Override or add: "optimizer.lr=0.1", "data.val.path=x", "augment.0.flip=0.3"; the right side is
 *  YAML. Missing mappings on the way are made. Entries of a list go by number and must exist. */
cvy_status cvy_node_set(cvy_node *root, const char *assignment);

cvy_node_kind cvy_node_get_kind(const cvy_node *node);
const char *cvy_node_text(const cvy_node *node); /* of a scalar; NULL for another kind */
int cvy_node_is_null(const cvy_node *node);      /* empty, ~ or null, unquoted; or node == NULL */
int cvy_node_n_items(const cvy_node *node); /* entries of a sequence or mapping; 0 for scalar */
const cvy_node *cvy_node_item(const cvy_node *node, int idx); /* value of the idx-th entry */
const char *cvy_node_key(const cvy_node *mapping, int idx);   /* its key */
const cvy_node *cvy_node_find(const cvy_node *mapping, const char *key); /* NULL: none */

/** Add key: text (a scalar, quoted when printed if need be) to a mapping that lacks the key; how
 *  defaults become part of the resolved job. */
cvy_status cvy_node_add(cvy_node *mapping, const char *key, const char *text);
/** Add an empty mapping under a key that is lacking; *out is a view into the tree. */
cvy_status cvy_node_add_mapping(cvy_node *mapping, const char *key, cvy_node **out);
/** Take an entry out of a mapping, with all below it; a lacking key is fine. Meant for copies:
 * views of what goes end. */
void cvy_node_remove(cvy_node *mapping, const char *key);

/** "job.yaml:12:5" of a node: for messages. */
void cvy_node_place(const cvy_node *node, char *out, size_t out_size);

/** The tree as YAML text (block style, deterministic, parses back to the same tree); cvy_free(). */
cvy_status cvy_node_print(const cvy_node *root, char **out);

#endif
