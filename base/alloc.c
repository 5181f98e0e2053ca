#include "base/alloc.h"

#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* In front of every block; padded to a whole alignment so that what follows is aligned too. */
typedef union block_head {
    size_t size_bytes;
    unsigned char padding[CVY_ALIGN_BYTES];
} block_head;

/* From this size on a block starts on a huge page and asks for such pages: weights, gradients and
 * workspaces are swept from end to end, and with 4 KiB pages the TLB misses show. */
#define HUGE_PAGE_BYTES  ((size_t)2 << 20)
#define HUGE_BLOCK_BYTES ((size_t)4 << 20)

static _Atomic int64_t n_live;
static _Atomic int64_t live_bytes;
static _Atomic int64_t n_ever;
static _Atomic int64_t n_until_failure = -1; /* -1: off */

/* Whether this allocation is the one that must fail. */
static int is_made_to_fail(void)
{
    int64_t left = atomic_load_explicit(&n_until_failure, memory_order_relaxed);

    while (left >= 0) {
        if (atomic_compare_exchange_weak(&n_until_failure, &left, left - 1)) return left == 0;
    }
    return 0;
}

static block_head *head_of(void *block)
{
    return (block_head *)block - 1;
}

void *cvy_alloc(size_t size_bytes)
{
    void *memory = NULL;
    size_t total_bytes = 0;

    if (is_made_to_fail()) return NULL;
    if (!cvy_size_add(size_bytes, sizeof(block_head), &total_bytes)) return NULL;
    if (total_bytes > (size_t)PTRDIFF_MAX) return NULL;
    const int is_huge = size_bytes >= HUGE_BLOCK_BYTES;
    if (posix_memalign(&memory, is_huge ? HUGE_PAGE_BYTES : CVY_ALIGN_BYTES, total_bytes) != 0) {
        return NULL;
    }
    /* Advice only: a kernel without huge pages serves the block just as well, slower. */
    if (is_huge) (void)madvise(memory, total_bytes, MADV_HUGEPAGE);

    block_head *head = memory;
    head->size_bytes = size_bytes;
    atomic_fetch_add_explicit(&n_live, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&live_bytes, (int64_t)size_bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&n_ever, 1, memory_order_relaxed);
    return head + 1;
}

void *cvy_alloc_zero(size_t n, size_t size_bytes)
{
    size_t total_bytes = 0;

    if (!cvy_size_mul(n, size_bytes, &total_bytes)) return NULL;
    void *block = cvy_alloc(total_bytes);
    if (block != NULL) memset(block, 0, total_bytes);
    return block;
}

void *cvy_realloc(void *block, size_t size_bytes)
{
    void *grown = cvy_alloc(size_bytes);

    if (grown == NULL || block == NULL) return grown;
    const size_t old_bytes = head_of(block)->size_bytes;
    memcpy(grown, block, old_bytes < size_bytes ? old_bytes : size_bytes);
    cvy_free(block);
    return grown;
}

char *cvy_strdup(const char *text)
{
    const size_t size_bytes = strlen(text) + 1;
    char *copy = cvy_alloc(size_bytes);

    if (copy != NULL) memcpy(copy, text, size_bytes);
    return copy;
}

char *cvy_text_format(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    const int n_chars = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n_chars < 0) return NULL;
    char *text = cvy_alloc((size_t)n_chars + 1);
    if (text == NULL) return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)n_chars + 1, format, args);
    va_end(args);
    return text;
}

void cvy_free(void *block)
{
    if (block == NULL) return;
    block_head *head = head_of(block);
    atomic_fetch_sub_explicit(&n_live, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&live_bytes, (int64_t)head->size_bytes, memory_order_relaxed);
    free(head);
}

void cvy_alloc_count(cvy_alloc_counts *out)
{
    out->n_live = atomic_load(&n_live);
    out->live_bytes = atomic_load(&live_bytes);
    out->n_ever = atomic_load(&n_ever);
}

void cvy_alloc_fail_at(int64_t k)
{
    atomic_store(&n_until_failure, k < 0 ? -1 : k);
}

int cvy_size_mul(size_t a, size_t b, size_t *out)
{
    if (b != 0 && a > SIZE_MAX / b) return 0;
    *out = a * b;
    return 1;
}

int cvy_size_add(size_t a, size_t b, size_t *out)
{
    if (a > SIZE_MAX - b) return 0;
    *out = a + b;
    return 1;
}

int cvy_to_int(int64_t value)
{
    CVY_ASSERT(value >= INT_MIN && value <= INT_MAX);
    return (int)value;
}
