#ifndef TESTS_COORDINATOR_HTML_SUPPORT_H
#define TESTS_COORDINATOR_HTML_SUPPORT_H

/* Is HTML, as the report writes it, well formed? Tags balanced, attributes closed, nothing bare. */
#include "tests/support/test_support.h"

#include <ctype.h>
#include <string.h>

static inline int is_one_of(const char *name, const char *const *list)
{
    for (; *list != NULL; list++)
        if (strcmp(name, *list) == 0) return 1;
    return 0;
}

/* Skip one tag from its '<', keeping the stack of open elements. */
static inline const char *take_tag(const char *at, char stack[][16], int *depth)
{
    static const char *const voids[] = {"!doctype", "meta", "br", "img", NULL};
    const int is_end = at[1] == '/';
    const char *name_at = at + 1 + is_end;
    char name[16];
    char quote = 0;
    size_t n = 0;

    while (n < sizeof name - 1 && (isalnum((unsigned char)name_at[n]) || name_at[n] == '!')) n++;
    memcpy(name, name_at, n);
    name[n] = 0;
    if (n == 0) fail_msg("a bare '<': %.60s", at);
    const char *end = name_at + n;
    for (; *end != 0 && (quote != 0 || *end != '>'); end++) {
        if (quote == 0 && (*end == '"' || *end == '\''))
            quote = *end;
        else if (*end == quote)
            quote = 0;
        else if (*end == '<')
            fail_msg("a '<' within a tag: %.60s", at);
    }
    assert_int_equal(*end, '>');
    if (is_end) {
        if (*depth == 0 || strcmp(stack[*depth - 1], name) != 0)
            fail_msg("</%s> ends what <%s> began: %.60s", name, *depth > 0 ? stack[*depth - 1] : "",
                     at);
        --*depth;
    } else if (end[-1] != '/' && !is_one_of(name, voids)) {
        assert_true(*depth < 64);
        memcpy(stack[(*depth)++], name, sizeof name);
    }
    return end + 1;
}

static inline void assert_entity(const char *at)
{
    static const char *const known[] = {"&amp;", "&lt;",     "&gt;",   "&quot;",
                                        "&#39;", "&middot;", "&#9632;"};

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strncmp(at, known[i], strlen(known[i])) == 0) return;
    fail_msg("a bare '&': %.60s", at);
}

static inline void assert_well_formed(const char *page)
{
    char stack[64][16];
    int depth = 0;

    for (const char *at = page; *at != 0;) {
        if (strncmp(at, "<style>", 7) == 0) {
            at = strstr(at, "</style>");
            assert_non_null(at);
            at += 8;
        } else if (*at == '<') {
            at = take_tag(at, stack, &depth);
        } else {
            if (*at == '&') assert_entity(at);
            if ((unsigned char)*at < 0x20 && *at != '\n' && *at != '\t')
                fail_msg("a control character: %.60s", at);
            at++;
        }
    }
    if (depth != 0) fail_msg("<%s> is left open", stack[depth - 1]);
}

#endif
