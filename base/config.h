#ifndef CVY_CONFIG_H
#define CVY_CONFIG_H

#include "base/node.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/**
 * One table per struct: from YAML nodes to C fields, with defaults, ranges and help.
 *
 * The table is the only list of a struct's keys: the parser, `--set`, the help text, the resolved
 * job and the tests all walk it. Text fields are views into the tree, so a filled struct needs no
 * destroy and lives as long as the tree.
 */
#define CVY_CONFIG_LIST_MAX 16

typedef struct cvy_int_list {
    int n;
    int64_t value[CVY_CONFIG_LIST_MAX];
} cvy_int_list;

typedef struct cvy_real_list {
    int n;
    double value[CVY_CONFIG_LIST_MAX];
} cvy_real_list;

typedef enum cvy_config_type {
    CVY_CONFIG_INT,       /* int64_t */
    CVY_CONFIG_REAL,      /* double; finite */
    CVY_CONFIG_BOOL,      /* int; true/false/yes/no/on/off */
    CVY_CONFIG_TEXT,      /* const char *; NULL when absent and the default is NULL */
    CVY_CONFIG_CHOICE,    /* int: place of the word in choices, "a|b|c" */
    CVY_CONFIG_INT_LIST,  /* cvy_int_list; one scalar stands for a list of one */
    CVY_CONFIG_REAL_LIST, /* cvy_real_list; the same */
    CVY_CONFIG_SECTION,   /* a struct inside the struct, by section */
    CVY_CONFIG_NODE       /* const cvy_node *: left for its owner to read; NULL when absent */
} cvy_config_type;

typedef struct cvy_config_table cvy_config_table;

typedef struct cvy_config_field {
    const char *key;
    cvy_config_type type;
    size_t offset;                   /* of the field in its struct */
    const char *default_text;        /* as in YAML; NULL: see is_required */
    int is_required;                 /* absent is an error; else absent stays 0 / NULL / empty */
    double min, max;                 /* INT, REAL and list values; both 0: no bounds */
    const char *choices;             /* CHOICE */
    const cvy_config_table *section; /* SECTION */
    const char *unit;                /* "images", "s"; NULL: none */
    const char *help;                /* one line for `convoy help job` */
} cvy_config_field;

struct cvy_config_table {
    const char *name; /* for help: "checkpoint" */
    size_t struct_size;
    const char
        *tag_key; /* a key that says which table this is ("type"): accepted, not stored; or NULL */
    const char *scalar_key; /* the field that a bare scalar fills ({pad_crop: 4}); or NULL */
    int n_fields;
    const cvy_config_field *fields;
};

/**
 * Fill a struct from a mapping (or a bare scalar where the table allows it; or NULL: all defaults).
 *
 * Unknown keys, wrong types, values out of range and missing required keys are CVY_ERR_CONFIG, one
 * logged line with place, what stands there, what was expected, and the nearest key. Defaults that
 * were taken are added to the tree, so that printing it gives the resolved job.
 *
 * @param node  a view; not const because defaults are added. May be NULL.
 * @param out   table->struct_size bytes, overwritten; unspecified on failure.
 */
cvy_status cvy_config_read(const cvy_config_table *table, cvy_node *node, void *out);

/** The key of a table that is nearest in spelling (Damerau-Levenshtein), or NULL if none is near.
 */
const char *cvy_config_nearest(const cvy_config_table *table, const char *key);
/** The same among n words: registries use it for their names. */
const char *cvy_nearest_word(const char *const *words, int n, const char *word);

/** A line per key: key, type or choices, range, unit, default, help. */
void cvy_config_print_help(const cvy_config_table *table, FILE *out);

/** A view that may be changed of a NODE field's subtree: trees are built by base alone, so this is
 *  the way to hand a section of the job to its owner's cvy_config_read(). */
cvy_node *cvy_config_section(const cvy_node *node);

#endif
