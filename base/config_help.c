#include "base/config.h"

#include "base/config_internal.h"

#include <stdio.h>

static void print_table(const cvy_config_table *table, const char *prefix, FILE *out)
{
    for (int i = 0; i < table->n_fields; i++) {
        const cvy_config_field *field = &table->fields[i];
        char key[128], expected[192];

        (void)snprintf(key, sizeof key, "%s%s", prefix, field->key);
        if (field->type == CVY_CONFIG_SECTION) {
            (void)snprintf(key, sizeof key, "%s%s.", prefix, field->key);
            print_table(field->section, key, out);
            continue;
        }
        cvy_config_describe(field, expected, sizeof expected);
        (void)fprintf(out, "  %-26s %s: %s", key, field->help == NULL ? "" : field->help, expected);
        if (field->is_required) {
            (void)fprintf(out, "; required\n");
        } else if (field->default_text != NULL) {
            (void)fprintf(out, "; default %s\n", field->default_text);
        } else {
            (void)fprintf(out, "; may be left out\n");
        }
    }
}

void cvy_config_print_help(const cvy_config_table *table, FILE *out)
{
    print_table(table, "", out);
}
