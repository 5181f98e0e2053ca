/* The binary version of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): records of a label byte (two in
 * CIFAR-100: coarse, fine) and 32 x 32 red, then green, then blue bytes. */

#include "dataset/importers/import_internal.h"

#include "base/alloc.h"
#include "base/file.h"

#include <errno.h>
#include <fnmatch.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SIDE             32
#define PIXEL_BYTES      (3 * SIDE * SIDE)
#define FILE_LIMIT_BYTES ((size_t)1 << 30)

typedef struct kind {
    const char *name;
    int label_bytes; /* the last of them is the label */
    int n_classes;
    const char *pattern;         /* of the training files in a folder */
    const char *const *class_files;
} kind;

static const char *const class_files_10[] = {"batches.meta.txt", "classes.txt", NULL};
static const char *const class_files_100[] = {"fine_label_names.txt", "classes.txt", NULL};
static const kind kinds[] = {
    {"CIFAR-10", 1, 10, "data_batch*.bin", class_files_10},
    {"CIFAR-100", 2, 100, "train.bin", class_files_100},
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (slash == NULL) return cvy_strdup(".");
    return cvy_text_format("%.*s", slash == path ? 1 : (int)(slash - path), path);
}

/* Names in a folder that fit a pattern, sorted. */
static cvy_status match_files(const char *folder, const char *pattern, dataset_names *out)
{
    cvy_status status = CVY_OK;
    glob_t found = {0};
    char *cwd_free = cvy_path_join(folder, pattern);

    if (cwd_free == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path in %s", folder);
    const int error = glob(cwd_free, GLOB_NOESCAPE, NULL, &found);
    cvy_free(cwd_free);
    if (error == GLOB_NOSPACE) status = CVY_FAIL(CVY_ERR_NO_MEMORY, "list of %s", folder);
    if (error == GLOB_ABORTED) status = CVY_FAIL(CVY_ERR_IO, "cannot list folder %s", folder);
    for (size_t i = 0; status == CVY_OK && error == 0 && i < found.gl_pathc; i++) {
        status = dataset_names_add(out, found.gl_pathv[i]);
    }
    if (error == 0) globfree(&found);
    return status;
}
