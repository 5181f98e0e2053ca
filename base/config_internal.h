#ifndef CVY_CONFIG_INTERNAL_H
#define CVY_CONFIG_INTERNAL_H

#include "base/config.h"

#include <stddef.h>
#include <stdint.h>

/* Numbers as job files spell them, the same in every locale. 0 on success; -1: not such a number
 * (also: out of the range of the type, infinite or NaN). */
int cvy_int_from_text(const char *text, int64_t *out);
int cvy_real_from_text(const char *text, double *out);
int cvy_bool_from_text(const char *text, int *out);

/* Place of a word among "a|b|c", -1: none. */
int cvy_choice_from_text(const char *choices, const char *text);
/* The idx-th word of choices; 0 when there is none. */
int cvy_choice_at(const char *choices, int idx, char *out, size_t out_size);

/* "an integer from 1 to 65536 images", "float32", "on or off": what a field takes. */
void cvy_config_describe(const cvy_config_field *field, char *out, size_t out_size);

#endif
