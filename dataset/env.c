#include "dataset/env_internal.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "dataset/guard_internal.h"
#include "dataset/lmdb_check_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Slots of LMDB's reader table: ranks x threads of a node, with room. 64 bytes each. */
#define MAX_READERS 4096

/* LMDB forbids to open a file twice in a process and does not notice it: the list of what is open
 * can only be the process's own. */
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static dataset_env *registry;

static cvy_status fail_lmdb(const char *call, const char *file, int rc)
{
    cvy_status status = CVY_ERR_BAD_DATA; /* what LMDB's own codes mean for a reader */

    if (rc > 0) status = cvy_status_from_errno(rc);
    if (rc == MDB_READERS_FULL) status = CVY_ERR_OS;
    return CVY_FAIL(status, "%s: %s: %s", file, call, mdb_strerror(rc));
}

static void on_assert(MDB_env *lmdb, const char *text)
{
    const dataset_env *env = mdb_env_get_userctx(lmdb);

    (void)text; /* a line of LMDB's source: tells users nothing */
    dataset_guard_die(env->guard_slot, "its pages are damaged (an assertion of LMDB failed); "
                                       "ending; copy it again, then 'convoy inspect' it");
}

/* Open the file as it is checked, not yet as LMDB opens it. */
static cvy_status open_file(const char *folder, const char *file, int *out_fd, struct stat *out)
{
    struct stat info;

    if (stat(folder, &info) != 0) {
        return CVY_FAIL(cvy_status_from_errno(errno), "dataset %s: %s%s", folder, strerror(errno),
                        errno == ENOENT ? ": correct its path, or make it with 'convoy import'"
                                        : "");
    }
    if (!S_ISDIR(info.st_mode)) {
        return CVY_FAIL(CVY_ERR_NOT_FOUND,
                        "dataset %s: not a folder; a dataset is a folder that holds data.mdb",
                        folder);
    }
    int fd = -1;
    do {
        fd = open(file, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) return CVY_FAIL(cvy_status_from_errno(errno), "%s: %s", file, strerror(errno));
    if (fstat(fd, out) != 0 || !S_ISREG(out->st_mode)) {
        close(fd);
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: not a regular file", file);
    }
    *out_fd = fd;
    return CVY_OK;
}

static cvy_status check_file_system(int fd, const char *file)
{
    struct statfs info;

    if (fstatfs(fd, &info) != 0) {
        return CVY_FAIL(cvy_status_from_errno(errno), "statfs %s: %s", file, strerror(errno));
    }
    const char *name = dataset_network_fs_name((uint64_t)info.f_type);
    if (name == NULL) return CVY_OK;
    return CVY_FAIL(CVY_ERR_CONFIG,
                    "%s: lies on %s, where LMDB's locks and maps are not safe; copy the dataset to "
                    "a local disk, or set data.allow_network_fs: true for one that nobody writes",
                    file, name);
}

static size_t to_whole_pages(uint64_t size_bytes)
{
    const uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);

    return (size_t)((size_bytes + page_bytes - 1) / page_bytes * page_bytes);
}

static unsigned reader_flags(uint64_t size_bytes)
{
    const uint64_t n_pages = (uint64_t)sysconf(_SC_PHYS_PAGES);
    const uint64_t memory_bytes = n_pages * (uint64_t)sysconf(_SC_PAGESIZE);

    /* Read-ahead of shuffled records fills the memory with what is not needed next. */
    return MDB_RDONLY | MDB_NOTLS | (size_bytes > memory_bytes ? MDB_NORDAHEAD : 0);
}

static cvy_status try_open(dataset_env *env, const char *folder, const dataset_lmdb_shape *shape,
                           unsigned flags, int *out_rc)
{
    int rc = mdb_env_create(&env->lmdb);

    if (rc != 0) return fail_lmdb("mdb_env_create", env->file, rc);
    /* The map of the file as it is: the size in it may be a terabyte, or damaged. */
    rc = mdb_env_set_mapsize(env->lmdb, to_whole_pages(shape->needs_bytes));
    if (rc == 0) rc = mdb_env_set_maxreaders(env->lmdb, MAX_READERS);
    if (rc == 0) rc = mdb_env_set_userctx(env->lmdb, env);
    if (rc == 0) rc = mdb_env_set_assert(env->lmdb, on_assert);
    if (rc != 0) return fail_lmdb("set up", env->file, rc);
    dataset_guard_enter(env->guard_slot);
    *out_rc = mdb_env_open(env->lmdb, folder, flags, 0664);
    dataset_guard_leave();
    return CVY_OK;
}

static cvy_status open_lmdb(dataset_env *env, const char *folder, const dataset_lmdb_shape *shape,
                            int is_quiet)
{
    const unsigned flags = reader_flags(shape->size_bytes);
    int rc = 0;

    CVY_RETURN_IF_ERR(try_open(env, folder, shape, flags, &rc));
    if (rc == EACCES || rc == EPERM || rc == EROFS || rc == ENOENT) {
        mdb_env_close(env->lmdb);
        env->lmdb = NULL;
        if (!is_quiet) {
            cvy_log_info("%s: read without a lock file, which cannot be made here: %s", env->file,
                         mdb_strerror(rc));
        }
        CVY_RETURN_IF_ERR(try_open(env, folder, shape, flags | MDB_NOLOCK, &rc));
    }
    if (rc != 0) return fail_lmdb("open", env->file, rc);
    return CVY_OK;
}

/* Where LMDB put the map: it does not tell, but the kernel does. */
static void find_map(dataset_env *env, size_t map_bytes)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[PATH_MAX + 256];
    const unsigned char *other = NULL; /* of the right size, of another inode (overlays) */
    int n_others = 0;

    if (maps == NULL) return;
    while (fgets(line, sizeof line, maps) != NULL) {
        uintptr_t start = 0;
        uintptr_t end = 0;
        uint64_t offset = 0;
        uint64_t inode = 0;
        char mode[5] = "";

        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %" SCNx64 " %*s %" SCNu64, &start, &end,
                   mode, &offset, &inode) != 5) {
            continue;
        }
        if (strcmp(mode, "r--s") != 0 || offset != 0 || end - start != map_bytes) continue;
        if (inode == (uint64_t)env->inode) {
            env->map = (const unsigned char *)start;
            break;
        }
        other = (const unsigned char *)start;
        n_others++;
    }
    if (env->map == NULL && n_others == 1) env->map = other;
    if (env->map != NULL) env->map_bytes = map_bytes;
    (void)fclose(maps); /* only read */
}

static cvy_status open_database(dataset_env *env)
{
    MDB_txn *txn = NULL;
    MDB_stat stat = {0};

    dataset_guard_enter(env->guard_slot);
    int rc = mdb_txn_begin(env->lmdb, NULL, MDB_RDONLY, &txn);
    if (rc == 0) rc = mdb_dbi_open(txn, NULL, 0, &env->dbi);
    if (rc == 0) rc = mdb_stat(txn, env->dbi, &stat);
    mdb_txn_abort(txn);
    dataset_guard_leave();
    if (rc != 0) return fail_lmdb("begin a transaction", env->file, rc);
    env->n_records = (int64_t)stat.ms_entries;
    if (env->n_records == 0) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: holds no records", env->file);
    }
    return CVY_OK;
}

static void free_env(dataset_env *env)
{
    if (env == NULL) return;
    /* In a forked child the environment is the parent's: LMDB may not touch it. */
    if (env->lmdb != NULL && env->pid == getpid()) mdb_env_close(env->lmdb);
    if (env->guard_slot >= 0) dataset_guard_remove(env->guard_slot);
    if (env->has_scan_lock) pthread_mutex_destroy(&env->scan_lock);
    cvy_free(env->scan.key_bytes);
    cvy_free(env->scan.key_starts);
    cvy_free(env->file);
    cvy_free(env);
}

static cvy_status make_env(const char *folder, const char *file, int fd, const struct stat *info,
                           const dataset_store_options *options, dataset_env **out)
{
    dataset_lmdb_shape shape;
    cvy_reason reason;
    cvy_status status = dataset_lmdb_check(fd, file, &shape, &reason);

    if (status != CVY_OK) return CVY_FAIL(status, "%s", reason.text);
    if (!options->allow_network_fs) CVY_RETURN_IF_ERR(check_file_system(fd, file));

    dataset_env *env = cvy_alloc_zero(1, sizeof *env);
    if (env == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "environment of %s", file);
    env->guard_slot = -1;
    env->pid = getpid();
    env->device = info->st_dev;
    env->inode = info->st_ino;
    env->n_users = 1;
    env->has_scan_lock = pthread_mutex_init(&env->scan_lock, NULL) == 0;
    env->file = cvy_strdup(file);
    if (env->file == NULL || !env->has_scan_lock) {
        status = CVY_FAIL(CVY_ERR_NO_MEMORY, "environment of %s", file);
        goto fail;
    }
    env->guard_slot = dataset_guard_add(file);
    if (env->guard_slot < 0) {
        status = CVY_FAIL(CVY_ERR_OS, "%s: too many datasets are open in one process", file);
        goto fail;
    }
    CVY_GOTO_IF_ERR(fail, status, open_lmdb(env, folder, &shape, options->is_quiet));
    find_map(env, to_whole_pages(shape.needs_bytes));
    if (env->map == NULL) cvy_log_debug("%s: the place of its map is unknown", file);
    dataset_guard_set_map(env->guard_slot, env->map, env->map_bytes);
    CVY_GOTO_IF_ERR(fail, status, open_database(env));
    *out = env;
    return CVY_OK;

fail:
    free_env(env);
    return status;
}

static dataset_env *find_env(const struct stat *info)
{
    for (dataset_env *env = registry; env != NULL; env = env->next) {
        if (env->device == info->st_dev && env->inode == info->st_ino && env->pid == getpid()) {
            return env;
        }
    }
    return NULL;
}

/* With the registry locked. */
static cvy_status open_or_share(const char *folder, const char *file,
                                const dataset_store_options *options, dataset_env **out)
{
    struct stat info;
    int fd = -1;
    cvy_reason reason;

    CVY_RETURN_IF_ERR(open_file(folder, file, &fd, &info));
    dataset_env *env = find_env(&info);
    if (env != NULL) {
        close(fd);
        const cvy_status status = dataset_env_recheck(env, &reason);
        if (status != CVY_OK) return CVY_FAIL(status, "%s", reason.text);
        env->n_users++;
        *out = env;
        return CVY_OK;
    }
    const cvy_status status = make_env(folder, file, fd, &info, options, &env);
    close(fd);
    if (status != CVY_OK) return status;
    env->next = registry;
    registry = env;
    *out = env;
    return CVY_OK;
}

cvy_status dataset_env_open(const char *folder, const dataset_store_options *options,
                            dataset_env **out)
{
    *out = NULL;
    char *file = cvy_path_join(folder, "data.mdb");
    if (file == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of %s", folder);
    pthread_mutex_lock(&registry_lock);
    const cvy_status status = open_or_share(folder, file, options, out);
    pthread_mutex_unlock(&registry_lock);
    cvy_free(file);
    return status;
}

void dataset_env_close(dataset_env **env_address)
{
    if (env_address == NULL || *env_address == NULL) return;
    dataset_env *env = *env_address;

    pthread_mutex_lock(&registry_lock);
    if (--env->n_users == 0) {
        dataset_env **link = &registry;
        while (*link != env) link = &(*link)->next;
        *link = env->next;
        free_env(env);
    }
    pthread_mutex_unlock(&registry_lock);
    *env_address = NULL;
}

cvy_status dataset_env_recheck(const dataset_env *env, cvy_reason *reason)
{
    dataset_lmdb_shape shape;
    mdb_filehandle_t fd = -1;
    const int rc = mdb_env_get_fd(env->lmdb, &fd);

    CVY_ASSERT(rc == 0);
    return dataset_lmdb_check(fd, env->file, &shape, reason);
}

int dataset_env_holds(const dataset_env *env, const MDB_val *value)
{
    const uintptr_t start = (uintptr_t)value->mv_data;
    const uintptr_t map = (uintptr_t)env->map;

    if (env->map == NULL) return value->mv_size <= DATASET_RECORD_LIMIT_BYTES;
    return start >= map && start - map <= env->map_bytes &&
           value->mv_size <= env->map_bytes - (start - map);
}
