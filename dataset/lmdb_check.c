#include "dataset/lmdb_check_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * The head of an LMDB 0.9 file of a 64-bit machine, from the format as mdb.c lays it out: page 0
 * and page 1 are meta pages, each a page header of 16 bytes (page number 8, pad 2, flags 2, bounds
 * 4) and then
 *
 *     0 magic 4 · 4 version 4 · 8 fixed address 8 · 16 map size 8 · 24 free database 48 ·
 *     72 main database 48 · 120 last page 8 · 128 transaction 8
 *
 * and a database is pad 4 (of the free one: page size) · flags 2 · depth 2 · branch, leaf and
 * overflow pages 8 each · entries 8 · root page 8. Integers are in the byte order of the machine.
 */
#define PAGE_HEAD_BYTES       16
#define PAGE_HEAD_BYTES_32BIT 12
#define META_BYTES            136
#define PAGE_IS_META          0x08
#define MAGIC                 0xbeefc0deU
#define MAGIC_SWAPPED         0xdec0efbeU
#define DATA_VERSION          1
#define MIN_PAGE_BYTES        512
#define MAX_PAGE_BYTES        32768
#define MAX_DEPTH             32 /* LMDB's cursor stack */
#define NO_PAGE               UINT64_MAX
/* Node header, offset and one byte of key: no entry takes less. */
#define MIN_ENTRY_BYTES 11
/* Two meta pages of the usual size: what the shortest file has. */
#define LEAST_FILE_BYTES 8192

typedef struct meta_page {
    uint16_t page_flags;
    uint32_t magic, version, page_bytes;
    uint16_t main_flags, main_depth;
    uint64_t n_entries, root, last_page, transaction;
} meta_page;

static uint64_t take(const unsigned char *bytes, size_t n_bytes)
{
    uint64_t value64 = 0;
    uint32_t value32 = 0;
    uint16_t value16 = 0;

    switch (n_bytes) {
    case 8:
        memcpy(&value64, bytes, 8);
        return value64;
    case 4:
        memcpy(&value32, bytes, 4);
        return value32;
    default:
        memcpy(&value16, bytes, 2);
        return value16;
    }
}

/* 0: read in full; -1: cut or unreadable, errno 0 when cut. */
static int read_at(int fd, uint64_t offset, unsigned char *out, size_t size_bytes)
{
    size_t n_done = 0;

    while (n_done < size_bytes) {
        const ssize_t n_read = pread(fd, out + n_done, size_bytes - n_done,
                                     (off_t)(offset + n_done));
        if (n_read < 0 && errno == EINTR) continue;
        if (n_read < 0) return -1;
        if (n_read == 0) {
            errno = 0;
            return -1;
        }
        n_done += (size_t)n_read;
    }
    return 0;
}

static void decode_meta(const unsigned char *page, meta_page *out)
{
    const unsigned char *meta = page + PAGE_HEAD_BYTES;

    out->page_flags = (uint16_t)take(page + 10, 2);
    out->magic = (uint32_t)take(meta, 4);
    out->version = (uint32_t)take(meta + 4, 4);
    out->page_bytes = (uint32_t)take(meta + 24, 4);
    out->main_flags = (uint16_t)take(meta + 72 + 4, 2);
    out->main_depth = (uint16_t)take(meta + 72 + 6, 2);
    out->n_entries = take(meta + 72 + 32, 8);
    out->root = take(meta + 72 + 40, 8);
    out->last_page = take(meta + 120, 8);
    out->transaction = take(meta + 128, 8);
}

/* What kind of file it is, by the first meta page. */
static cvy_status check_kind(const unsigned char *page, const meta_page *meta, const char *path,
                             cvy_reason *reason)
{
    if (meta->magic == MAGIC_SWAPPED) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "%s: an LMDB file of a machine with the other byte order; import the "
                           "data anew on this one",
                           path);
    }
    if (meta->magic != MAGIC && take(page + PAGE_HEAD_BYTES_32BIT, 4) == MAGIC) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "%s: an LMDB file of a 32-bit machine; import the data anew on this one",
                           path);
    }
    if (meta->magic != MAGIC) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "%s: not an LMDB file: its magic number is %08x, not %08x", path,
                           meta->magic, MAGIC);
    }
    if (meta->version != DATA_VERSION) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "%s: LMDB data version %u, convoy reads version %d", path, meta->version,
                           DATA_VERSION);
    }
    if (meta->page_bytes < MIN_PAGE_BYTES || meta->page_bytes > MAX_PAGE_BYTES ||
        (meta->page_bytes & (meta->page_bytes - 1)) != 0) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "%s: page size %u; LMDB knows powers of two from %d to %d", path,
                           meta->page_bytes, MIN_PAGE_BYTES, MAX_PAGE_BYTES);
    }
    return CVY_OK;
}

static cvy_status check_page(const meta_page *meta, int idx, uint32_t page_bytes, const char *path,
                             cvy_reason *reason)
{
    if ((meta->page_flags & PAGE_IS_META) == 0 || meta->magic != MAGIC ||
        meta->version != DATA_VERSION || meta->page_bytes != page_bytes) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "%s: damaged: meta page %d has flags %#x, magic %08x, version %u and "
                           "page size %u, where %#x, %08x, %d and %u were expected",
                           path, idx, meta->page_flags, meta->magic, meta->version,
                           meta->page_bytes, PAGE_IS_META, MAGIC, DATA_VERSION, page_bytes);
    }
    if (meta->last_page > (uint64_t)INT64_MAX / page_bytes - 1) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "%s: damaged: meta page %d names a last page of %llu", path, idx,
                           (unsigned long long)meta->last_page);
    }
    return CVY_OK;
}

/* The tree that LMDB will start from. */
static cvy_status check_tree(const meta_page *meta, const dataset_lmdb_shape *shape,
                             const char *path, cvy_reason *reason)
{
    if (meta->main_flags != 0) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "%s: no dataset: its database has the flags %#x (sorted duplicates, "
                           "integer or reversed keys), datasets have none",
                           path, meta->main_flags);
    }
    const int is_empty = meta->n_entries == 0;
    if (meta->main_depth > MAX_DEPTH || (meta->root == NO_PAGE) != is_empty ||
        (!is_empty && (meta->root < 2 || meta->root > meta->last_page)) ||
        meta->n_entries > shape->needs_bytes / MIN_ENTRY_BYTES) {
        return cvy_because(reason, CVY_ERR_BAD_DATA,
                           "%s: damaged: %llu entries under page %lld, %u deep, cannot lie in %llu "
                           "pages",
                           path, (unsigned long long)meta->n_entries, (long long)meta->root,
                           meta->main_depth, (unsigned long long)meta->last_page + 1);
    }
    return CVY_OK;
}

static cvy_status read_meta(int fd, uint64_t offset, const char *path, unsigned char *page,
                            meta_page *out, cvy_reason *reason)
{
    if (read_at(fd, offset, page, PAGE_HEAD_BYTES + META_BYTES) != 0) {
        if (errno != 0) {
            return cvy_because(reason, CVY_ERR_IO, "read %s: %s", path, strerror(errno));
        }
        return cvy_because(reason, CVY_ERR_BAD_DATA, "%s: changed while it was opened", path);
    }
    decode_meta(page, out);
    return CVY_OK;
}

static cvy_status because_too_short(cvy_reason *reason, const char *path, uint64_t size_bytes,
                                    uint64_t needs_bytes)
{
    return cvy_because(reason, CVY_ERR_BAD_DATA,
                       "%s: cut off: file has %llu bytes, needs %llu; copy it again", path,
                       (unsigned long long)size_bytes, (unsigned long long)needs_bytes);
}

cvy_status dataset_lmdb_check(int fd, const char *path, dataset_lmdb_shape *out, cvy_reason *reason)
{
    unsigned char page[PAGE_HEAD_BYTES + META_BYTES];
    dataset_lmdb_shape shape = {0};
    meta_page metas[2];
    struct stat info;

    if (fstat(fd, &info) != 0) {
        return cvy_because(reason, CVY_ERR_IO, "stat %s: %s", path, strerror(errno));
    }
    shape.size_bytes = (uint64_t)info.st_size;
    if (shape.size_bytes == 0)
        return cvy_because(reason, CVY_ERR_BAD_DATA, "%s: empty; copy it again", path);
    if (shape.size_bytes < sizeof page) {
        return because_too_short(reason, path, shape.size_bytes, LEAST_FILE_BYTES);
    }
    CVY_RETURN_IF_ERR(read_meta(fd, 0, path, page, &metas[0], reason));
    CVY_RETURN_IF_ERR(check_kind(page, &metas[0], path, reason));
    shape.page_bytes = metas[0].page_bytes;
    CVY_RETURN_IF_ERR(check_page(&metas[0], 0, shape.page_bytes, path, reason));
    if (shape.size_bytes < 2 * (uint64_t)shape.page_bytes) {
        return because_too_short(reason, path, shape.size_bytes, 2 * (uint64_t)shape.page_bytes);
    }
    CVY_RETURN_IF_ERR(read_meta(fd, shape.page_bytes, path, page, &metas[1], reason));
    CVY_RETURN_IF_ERR(check_page(&metas[1], 1, shape.page_bytes, path, reason));

    /* The file never shrinks, so both pages' last pages lie in it. */
    const uint64_t last_page = metas[0].last_page > metas[1].last_page ? metas[0].last_page
                                                                       : metas[1].last_page;
    shape.needs_bytes = (last_page + 1) * shape.page_bytes;
    if (shape.size_bytes < shape.needs_bytes) {
        return because_too_short(reason, path, shape.size_bytes, shape.needs_bytes);
    }
    const meta_page *newer = metas[0].transaction < metas[1].transaction ? &metas[1] : &metas[0];
    CVY_RETURN_IF_ERR(check_tree(newer, &shape, path, reason));
    shape.n_entries = newer->n_entries;
    *out = shape;
    return CVY_OK;
}

const char *dataset_network_fs_name(uint64_t fs_type)
{
    /* statfs(2) and the file systems' own sources. */
    static const struct {
        uint32_t type;
        const char *name;
    } table[] = {
        {0x00006969, "NFS"},      {0x0000517b, "SMB"},    {0xff534d42, "CIFS"},
        {0xfe534d42, "SMB2"},     {0x0bd00bd0, "Lustre"}, {0x47504653, "GPFS"},
        {0x65735546, "FUSE"},     {0x00c36400, "Ceph"},   {0x5346414f, "AFS"},
        {0x01021997, "9P"},       {0x19830326, "BeeGFS"}, {0x7461636f, "OCFS2"},
        {0x01161970, "GFS2"},     {0xaad7aaea, "PanFS"},  {0x73757245, "Coda"},
        {0x20030528, "OrangeFS"},
    };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        /* Some architectures sign-extend the type. */
        if (table[i].type == (uint32_t)fs_type) return table[i].name;
    }
    return NULL;
}
