#ifndef NN_CHOOSE_INTERNAL_H
#define NN_CHOOSE_INTERNAL_H

#include "base/config.h"
#include "base/node.h"
#include "base/status.h"

/**
 * Which entry of a registry a section names by its `type` key.
 *
 * @param what         the section, for messages: "optimizer".
 * @param names        [n] the registry's names.
 * @param default_idx  taken when the section is NULL, no mapping (its reader then complains) or has
 *                     no type.
 * @return CVY_ERR_CONFIG, logged with place and nearest name, when there is no such entry.
 */
cvy_status nn_choose_type(const cvy_node *section, const char *what, const char *const *names,
                          int n, int default_idx, int *out_idx);

/** Read the rest of the section into new memory and make the type part of the tree.
 *  @param out  owned by the caller: cvy_free(). */
cvy_status nn_read_options(const cvy_config_table *table, const char *name, cvy_node *section,
                           void **out);

#endif
