#include "dataset/importers/import_internal.h"

#include "base/alloc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* *out_is_there stays 0 for what is skipped. */
static cvy_status look_at(DIR *dir, const char *path, const char *name, int follow_links,
                          struct stat *out, int *out_is_there)
{
    *out_is_there = 0;
    if (name[0] == '.') return CVY_OK;
    if (fstatat(dirfd(dir), name, out, follow_links ? 0 : AT_SYMLINK_NOFOLLOW) == 0) {
        *out_is_there = !S_ISLNK(out->st_mode);
        return CVY_OK;
    }
    if (errno == ENOENT || errno == ELOOP) return CVY_OK; /* gone, or a link to nothing */
    return CVY_FAIL(cvy_status_from_errno(errno), "%s/%s: %s", path, name, strerror(errno));
}

cvy_status dataset_folder_walk(const char *path, int follow_links, dataset_folder_visit visit,
                               void *arg)
{
    DIR *dir = opendir(path);
    cvy_status status = CVY_OK;

    if (dir == NULL) {
        const cvy_status cause = errno == ENOTDIR ? CVY_ERR_BAD_DATA : cvy_status_from_errno(errno);
        return CVY_FAIL(cause, "folder %s: %s", path, strerror(errno));
    }
    while (status == CVY_OK) {
        struct stat info;
        int is_there = 0;
        errno = 0;
        const struct dirent *item = readdir(dir);
        if (item == NULL) {
            if (errno != 0) {
                status = CVY_FAIL(cvy_status_from_errno(errno), "read of folder %s: %s", path,
                                  strerror(errno));
            }
            break;
        }
        status = look_at(dir, path, item->d_name, follow_links, &info, &is_there);
        if (status == CVY_OK && is_there) status = visit(arg, item->d_name, &info);
    }
    closedir(dir);
    return status;
}

typedef struct files_visit {
    const char *prefix;
    dataset_names *names;
} files_visit;

static cvy_status visit_file(void *arg, const char *name, const struct stat *info)
{
    const files_visit *files = arg;

    if (!S_ISREG(info->st_mode) || strncmp(name, files->prefix, strlen(files->prefix)) != 0) {
        return CVY_OK;
    }
    return dataset_names_add(files->names, name);
}

cvy_status dataset_folder_files(const char *path, const char *prefix, dataset_names *out)
{
    files_visit files = {.prefix = prefix, .names = out};

    CVY_RETURN_IF_ERR(dataset_folder_walk(path, 1, visit_file, &files));
    dataset_names_sort(out);
    return CVY_OK;
}

char *dataset_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (slash == NULL) return cvy_strdup(".");
    return cvy_text_format("%.*s", slash == path ? 1 : (int)(slash - path), path);
}
