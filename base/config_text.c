/* The words of configuration: numbers, choices, what a field expects, and near spellings. */
#include "base/config.h"
#include "base/config_internal.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int cvy_int_from_text(const char *text, int64_t *out)
{
    const int is_negative = text[0] == '-';
    const char *digit = text + (text[0] == '-' || text[0] == '+');
    uint64_t value = 0;
    const uint64_t limit = (uint64_t)INT64_MAX + (uint64_t)is_negative;

    if (*digit == '\0') return -1;
    for (; *digit != '\0'; digit++) {
        if (*digit < '0' || *digit > '9') return -1;
        const uint64_t add = (uint64_t)(*digit - '0');
        if (value > (limit - add) / 10) return -1;
        value = value * 10 + add;
    }
    if (is_negative) {
        *out = value == (uint64_t)INT64_MAX + 1 ? INT64_MIN : -(int64_t)value;
    } else {
        *out = (int64_t)value;
    }
    return 0;
}

static const char *skip_digits(const char *text)
{
    while (*text >= '0' && *text <= '9') text++;
    return text;
}

/* [sign] digits [. digits] [e [sign] digits] with a digit before the exponent. */
static int is_real_text(const char *text)
{
    const char *at = text + (text[0] == '-' || text[0] == '+');
    const char *after = skip_digits(at);
    int n_digits = (int)(after > at);

    at = after;
    if (*at == '.') {
        after = skip_digits(++at);
        n_digits += (int)(after > at);
        at = after;
    }
    if (n_digits == 0) return 0;
    if (*at == 'e' || *at == 'E') {
        at++;
        if (*at == '-' || *at == '+') at++;
        after = skip_digits(at);
        if (after == at) return 0;
        at = after;
    }
    return *at == '\0';
}

int cvy_real_from_text(const char *text, double *out)
{
    if (!is_real_text(text)) return -1;
    /* strtod() reads the decimal point of the locale of the thread, which a library may have set.
     */
    const locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (plain == (locale_t)0) return -1;
    const locale_t before = uselocale(plain);
    const double value = strtod(text, NULL);
    (void)uselocale(before);
    freelocale(plain);
    if (!isfinite(value)) return -1; /* 1e999 */
    *out = value;
    return 0;
}

int cvy_bool_from_text(const char *text, int *out)
{
    static const char *const yes[] = {"true", "yes", "on"};
    static const char *const no[] = {"false", "no", "off"};

    for (int i = 0; i < 3; i++) {
        if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
            *out = strcasecmp(text, yes[i]) == 0;
            return 0;
        }
    }
    return -1;
}

int cvy_choice_at(const char *choices, int idx, char *out, size_t out_size)
{
    const char *word = choices;

    for (; idx > 0; idx--) {
        word = strchr(word, '|');
        if (word == NULL) return 0;
        word++;
    }
    (void)snprintf(out, out_size, "%.*s", (int)strcspn(word, "|"), word);
    return 1;
}

int cvy_choice_from_text(const char *choices, const char *text)
{
    char word[64];

    for (int i = 0; cvy_choice_at(choices, i, word, sizeof word); i++) {
        if (strcmp(word, text) == 0) return i;
    }
    return -1;
}

static void append(char *out, size_t out_size, const char *text)
{
    const size_t used = strlen(out);
    (void)snprintf(out + used, out_size - used, "%s", text);
}

static void append_bound(char *out, size_t out_size, const cvy_config_field *field, double bound)
{
    const int is_int = field->type == CVY_CONFIG_INT || field->type == CVY_CONFIG_INT_LIST;
    char text[64];

    if (is_int) {
        (void)snprintf(text, sizeof text, "%.0f", bound);
    } else {
        (void)snprintf(text, sizeof text, "%.15g", bound);
    }
    append(out, out_size, text);
}

static void append_range(char *out, size_t out_size, const cvy_config_field *field)
{
    if (field->min == 0 && field->max == 0) return;
    if (isinf(field->max)) {
        append(out, out_size, " of at least ");
        append_bound(out, out_size, field, field->min);
    } else if (isinf(field->min)) {
        append(out, out_size, " of at most ");
        append_bound(out, out_size, field, field->max);
    } else {
        append(out, out_size, " from ");
        append_bound(out, out_size, field, field->min);
        append(out, out_size, " to ");
        append_bound(out, out_size, field, field->max);
    }
}

/* "a", "a or b", "a, b or c" */
static void append_choices(char *out, size_t out_size, const char *choices)
{
    char word[64], next[64];

    for (int i = 0; cvy_choice_at(choices, i, word, sizeof word); i++) {
        const int is_last = !cvy_choice_at(choices, i + 1, next, sizeof next);
        if (i > 0) append(out, out_size, is_last ? " or " : ", ");
        append(out, out_size, word);
    }
}

void cvy_config_describe(const cvy_config_field *field, char *out, size_t out_size)
{
    static const char *const noun[] = {
        [CVY_CONFIG_INT] = "an integer",
        [CVY_CONFIG_REAL] = "a finite number",
        [CVY_CONFIG_BOOL] = "true or false",
        [CVY_CONFIG_TEXT] = "a text",
        [CVY_CONFIG_CHOICE] = "",
        [CVY_CONFIG_INT_LIST] = "a list of integers",
        [CVY_CONFIG_REAL_LIST] = "a list of finite numbers",
        [CVY_CONFIG_SECTION] = "a mapping",
        [CVY_CONFIG_NODE] = "a list or mapping",
    };

    (void)snprintf(out, out_size, "%s", noun[field->type]);
    if (field->type == CVY_CONFIG_CHOICE) {
        append_choices(out, out_size, field->choices);
        return;
    }
    if (field->type == CVY_CONFIG_INT || field->type == CVY_CONFIG_REAL ||
        field->type == CVY_CONFIG_INT_LIST || field->type == CVY_CONFIG_REAL_LIST) {
        append_range(out, out_size, field);
    }
    if (field->unit != NULL) {
        append(out, out_size, " ");
        append(out, out_size, field->unit);
    }
}

/* --- Near spellings --------------------------------------------------------------------------- */

#define PREFIX_MIN 4
#define WORD_MAX   40

static char fold(char c)
{
    if (c >= 'A' && c <= 'Z') return (char)(c - 'A' + 'a');
    return (char)(c == '-' ? '_' : c);
}

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours. Damerau
 * 1964, Levenshtein 1966. Longer words than WORD_MAX are near nothing. */
static int distance(const char *a, const char *b)
{
    int row[3][WORD_MAX + 1]; /* distances of a's prefix to each prefix of b, last three prefixes */
    const int n = (int)strnlen(a, WORD_MAX + 1), m = (int)strnlen(b, WORD_MAX + 1);

    if (n > WORD_MAX || m > WORD_MAX) return WORD_MAX;
    for (int j = 0; j <= m; j++) row[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = row[i % 3];
        const int *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            const int is_other = fold(a[i - 1]) != fold(b[j - 1]);
            now[j] = min_int(last[j - 1] + is_other, 1 + min_int(last[j], now[j - 1]));
            if (i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) &&
                fold(a[i - 2]) == fold(b[j - 1])) {
                now[j] = min_int(now[j], before[j - 2] + 1);
            }
        }
    }
    return row[n % 3][m];
}

/* Near: a third of the letters may differ, and one in any word of two letters or more. */
static void keep_nearer(const char *candidate, const char *word, const char **best, int *best_cost)
{
    const int cost = distance(candidate, word);
    const int n = (int)strnlen(word, WORD_MAX);

    if (n < 2 || cost > min_int(3, n / 3 > 1 ? n / 3 : 1) || cost >= *best_cost) return;
    *best = candidate;
    *best_cost = cost;
}

const char *cvy_nearest_word(const char *const *words, int n, const char *word)
{
    const char *best = NULL;
    int best_cost = WORD_MAX;
    const size_t length = strlen(word);

    /* A name that was begun right but not ended is meant before one that differs in a letter. */
    for (int i = 0; i < n && length >= PREFIX_MIN; i++) {
        if (strncmp(words[i], word, length) == 0) return words[i];
    }
    for (int i = 0; i < n; i++) keep_nearer(words[i], word, &best, &best_cost);
    return best;
}

const char *cvy_config_nearest(const cvy_config_table *table, const char *key)
{
    const char *best = NULL;
    int best_cost = WORD_MAX;

    for (int i = 0; i < table->n_fields; i++) {
        keep_nearer(table->fields[i].key, key, &best, &best_cost);
    }
    if (table->tag_key != NULL) keep_nearer(table->tag_key, key, &best, &best_cost);
    return best;
}
