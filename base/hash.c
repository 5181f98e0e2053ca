#include "base/hash.h"

#include "base/alloc.h"

/* The size of the state, so that it can lie in memory of cvy_alloc(). */
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

struct cvy_hasher {
    XXH3_state_t state;
};

uint64_t cvy_hash64(const void *bytes, size_t size_bytes)
{
    return XXH3_64bits(bytes, size_bytes);
}

cvy_hasher *cvy_hasher_open(void)
{
    cvy_hasher *hasher = cvy_alloc_zero(1, sizeof *hasher);

    if (hasher == NULL) return NULL;
    XXH3_INITSTATE(&hasher->state);
    (void)XXH3_64bits_reset(&hasher->state); /* fails only for a NULL state */
    return hasher;
}

void cvy_hasher_add(cvy_hasher *hasher, const void *bytes, size_t size_bytes)
{
    if (size_bytes == 0) return;
    const XXH_errorcode code = XXH3_64bits_update(&hasher->state, bytes, size_bytes);
    CVY_ASSERT(code == XXH_OK);
}

uint64_t cvy_hasher_value(const cvy_hasher *hasher)
{
    return XXH3_64bits_digest(&hasher->state);
}

void cvy_hasher_close(cvy_hasher **hasher)
{
    if (hasher == NULL) return;
    cvy_free(*hasher);
    *hasher = NULL;
}

void cvy_hash_text(uint64_t hash, char out[17])
{
    for (int i = 0; i < 16; i++) out[i] = "0123456789abcdef"[(hash >> (60 - 4 * i)) & 15];
    out[16] = '\0';
}

int cvy_hash_from_text(const char *text, uint64_t *out)
{
    uint64_t hash = 0;

    for (int i = 0; i < 16; i++) {
        const char c = text[i];
        uint64_t digit = 0;
        if (c >= '0' && c <= '9') {
            digit = (uint64_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            digit = (uint64_t)(c - 'a' + 10);
        } else {
            return -1; /* also the NUL of a shorter text */
        }
        hash = hash << 4 | digit;
    }
    if (text[16] != '\0') return -1;
    *out = hash;
    return 0;
}
