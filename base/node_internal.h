#ifndef CVY_NODE_INTERNAL_H
#define CVY_NODE_INTERNAL_H

#include "base/node.h"

#include <stddef.h>

/* Limits of a document. The last two bound the memory (about 200 bytes a node) and the time (a new
 * key is compared with those before it) that a hostile file can take. */
#define CVY_NODE_MAX_BYTES    ((size_t)1 << 20)
#define CVY_NODE_MAX_DEPTH    32
#define CVY_NODE_MAX_NODES    131072
#define CVY_NODE_MAX_KEYS     1024
#define CVY_NODE_MAX_KEY_SIZE 256

/* One block holds the node, its key and its text. */
struct cvy_node {
    cvy_node_kind kind;
    int is_quoted; /* a scalar in quotes is a text, even "null" */
    int line;      /* from 1; 0: made by convoy, not read */
    int column;    /* from 1 */
    int key_line;  /* of its key, likewise */
    int key_column;
    cvy_node *parent; /* NULL: a root */
    char *source;     /* own block; NULL: the parent's */
    char *key;        /* own block; NULL: not in a mapping */
    char *text;       /* in the node's block; of a scalar */
    cvy_node **item;  /* own block, owned nodes */
    int n_items;
    int capacity;
};

/* A parsed or made part, before it is put in a tree. NULL: no memory. Text is copied; text_size
 * without NUL. */
cvy_node *cvy_node_new(cvy_node_kind kind, const char *text, size_t text_size);

/* Append to a sequence (key NULL) or mapping; takes *child on success. Not logged. */
cvy_status cvy_node_append(cvy_node *parent, const char *key, cvy_node **child);

/* The same in the place of an entry that exists. */
cvy_status cvy_node_put(cvy_node *mapping, const char *key, cvy_node **child);

/* A null becomes {}; another scalar or a sequence becomes {key: itself}. In place: views stay. */
cvy_status cvy_node_become_mapping(cvy_node *node, const char *key);

/* "data.train.path" of a node, as --set spells it; "" for a root. */
void cvy_node_path(const cvy_node *node, char *out, size_t out_size);

/* As cvy_node_place(), of the key of an entry. */
void cvy_node_key_place(const cvy_node *node, char *out, size_t out_size);

/* A text from outside made fit for a message: quotes around it, control bytes replaced, cut at
 * about 60 bytes on a character. Gives out. */
#define CVY_SHOWN_SIZE 80
const char *cvy_text_shown(const char *text, char out[CVY_SHOWN_SIZE]);

/* What a node is, for messages: its text in quotes, "a list", "a mapping" or "empty". */
const char *cvy_node_shown(const cvy_node *node, char out[CVY_SHOWN_SIZE]);

int cvy_node_depth(const cvy_node *node); /* levels below and with this one */

#endif
