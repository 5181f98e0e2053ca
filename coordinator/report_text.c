#include "base/alloc.h"
#include "coordinator/report_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int reserve(report_text *text, size_t more_bytes)
{
    if (text->has_failed) return 0;
    const size_t need = text->size_bytes + more_bytes + 1;
    if (need <= text->capacity_bytes) return 1;
    size_t capacity = text->capacity_bytes > 0 ? text->capacity_bytes : 4096;
    while (capacity < need) capacity *= 2;
    char *bytes = cvy_realloc(text->bytes, capacity);
    if (bytes == NULL) {
        text->has_failed = 1;
        return 0;
    }
    text->bytes = bytes;
    text->capacity_bytes = capacity;
    return 1;
}

void report_add(report_text *text, const char *format, ...)
{
    va_list args, again;

    va_start(args, format);
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, format, args);
    if (n < 0) {
        text->has_failed = 1;
    } else if (reserve(text, (size_t)n)) {
        vsnprintf(text->bytes + text->size_bytes, (size_t)n + 1, format, again);
        text->size_bytes += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

/* No HTML may hold these, not even escaped. */
static int is_control(char c)
{
    const unsigned char byte = (unsigned char)c;
    return byte == 0x7f || (byte < 0x20 && byte != '\n' && byte != '\t');
}

void report_add_escaped(report_text *text, const char *from)
{
    for (; from != NULL && *from != 0; from++) {
        switch (*from) {
        case '&':
            report_add(text, "&amp;");
            break;
        case '<':
            report_add(text, "&lt;");
            break;
        case '>':
            report_add(text, "&gt;");
            break;
        case '"':
            report_add(text, "&quot;");
            break;
        case '\'':
            report_add(text, "&#39;");
            break;
        default:
            if (!reserve(text, 1)) return;
            text->bytes[text->size_bytes++] = is_control(*from) ? '?' : *from;
            text->bytes[text->size_bytes] = 0;
        }
    }
}

void report_add_base64(report_text *text, const unsigned char *bytes, size_t size_bytes)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    if (!reserve(text, (size_bytes + 2) / 3 * 4)) return;
    char *to = text->bytes + text->size_bytes;
    for (size_t i = 0; i < size_bytes; i += 3) {
        const size_t n = size_bytes - i < 3 ? size_bytes - i : 3;
        const unsigned word = (unsigned)bytes[i] << 16 | (n > 1 ? (unsigned)bytes[i + 1] << 8 : 0) |
                              (n > 2 ? (unsigned)bytes[i + 2] : 0);
        *to++ = digits[word >> 18 & 63];
        *to++ = digits[word >> 12 & 63];
        *to++ = n > 1 ? digits[word >> 6 & 63] : '=';
        *to++ = n > 2 ? digits[word & 63] : '=';
    }
    *to = 0;
    text->size_bytes = (size_t)(to - text->bytes);
}
