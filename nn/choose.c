#include "nn/choose_internal.h"

#include "base/alloc.h"

#include <string.h>

cvy_status nn_choose_type(const cvy_node *section, const char *what, const char *const *names,
                          int n, int default_idx, int *out_idx)
{
    const cvy_node *node = section == NULL ? NULL : cvy_node_find(section, "type");
    char place[256];

    if (cvy_node_is_null(node)) {
        *out_idx = default_idx;
        return CVY_OK;
    }
    cvy_node_place(node, place, sizeof place);
    const char *text = cvy_node_text(node);
    if (text == NULL) {
        return CVY_FAIL(CVY_ERR_CONFIG, "%s: %s.type is no word, expected one such as '%s'", place,
                        what, names[default_idx]);
    }
    for (int i = 0; i < n; i++) {
        if (strcmp(names[i], text) == 0) {
            *out_idx = i;
            return CVY_OK;
        }
    }
    const char *nearest = cvy_nearest_word(names, n, text);
    return CVY_FAIL(CVY_ERR_CONFIG, "%s: no %s '%s'; %s '%s'%s", place, what, text,
                    nearest != NULL ? "did you mean" : "expected one such as",
                    nearest != NULL ? nearest : names[default_idx], nearest != NULL ? "?" : "");
}

cvy_status nn_read_options(const cvy_config_table *table, const char *name, cvy_node *section,
                           void **out)
{
    cvy_status status = CVY_OK;
    void *options = cvy_alloc_zero(1, table->struct_size);

    if (options == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "options of %s", name);
    CVY_GOTO_IF_ERR(fail, status, cvy_config_read(table, section, options));
    if (section != NULL && cvy_node_is_null(cvy_node_find(section, "type"))) {
        CVY_GOTO_IF_ERR(fail, status, cvy_node_add(section, "type", name));
    }
    *out = options;
    return CVY_OK;

fail:
    cvy_free(options);
    return status;
}
