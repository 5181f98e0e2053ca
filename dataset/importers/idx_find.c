#include "dataset/importers/idx_internal.h"

#include "dataset/importers/import_internal.h"

#include "base/alloc.h"
#include "base/file.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

/* Whether a name is that of an idx file: "train-images-idx3-ubyte", ".idx3-", with or without .gz.
 */
static int is_idx_name(const char *name)
{
    const char *at = strstr(name, "idx");

    return at != NULL && at > name && (at[-1] == '-' || at[-1] == '.' || at[-1] == '_') &&
           isdigit((unsigned char)at[3]);
}

/* "NAME.gz" is passed over where NAME is there too. */
static int has_plain_twin(const dataset_names *names, const char *name)
{
    const size_t n = strlen(name);

    if (n < 3 || strcmp(name + n - 3, ".gz") != 0) return 0;
    for (int i = 0; i < names->n; i++) {
        if (strlen(names->name[i]) == n - 3 && strncmp(names->name[i], name, n - 3) == 0) return 1;
    }
    return 0;
}

static cvy_status list_files(const char *folder, const char *prefix, int want_labels,
                             dataset_names *out)
{
    dataset_names all = {0};
    cvy_status status = dataset_folder_files(folder, prefix, &all);

    for (int i = 0; i < all.n && status == CVY_OK; i++) {
        const char *name = all.name[i];
        const int is_labels = strstr(name, "label") != NULL;
        if (!is_idx_name(name) || is_labels != want_labels || has_plain_twin(&all, name)) continue;
        status = dataset_names_add(out, name);
    }
    dataset_names_free(&all);
    return status;
}

/* The one file that fits. */
static cvy_status find_one(const char *folder, const char *prefix, int want_labels, char **out)
{
    dataset_names found = {0};
    const char *what = want_labels ? "label" : "data";
    cvy_status status = list_files(folder, prefix, want_labels, &found);

    if (status == CVY_OK && found.n == 0) {
        status = CVY_FAIL(
            CVY_ERR_NOT_FOUND, "%s has no idx %s file %s*, expected a name such as %s", folder,
            what, prefix,
            want_labels ? "train-labels-idx1-ubyte[.gz]" : "train-images-idx3-ubyte[.gz]");
    } else if (status == CVY_OK && found.n > 1) {
        status = CVY_FAIL(CVY_ERR_USAGE,
                          "%s has %d idx %s files (%s, %s%s): name one set by the beginning of its "
                          "files, as in %s/%.*s",
                          folder, found.n, what, found.name[0], found.name[1],
                          found.n > 2 ? ", ..." : "", folder, (int)strcspn(found.name[0], "-._"),
                          found.name[0]);
    } else if (status == CVY_OK) {
        *out = cvy_path_join(folder, found.name[0]);
        if (*out == NULL) status = CVY_FAIL(CVY_ERR_NO_MEMORY, "path in %s", folder);
    }
    dataset_names_free(&found);
    return status;
}

/* Folder and beginning of the names of a set, from SOURCE. */
typedef struct place {
    char *folder, *prefix; /* owned */
    int is_file;           /* SOURCE is the data file */
} place;

static cvy_status split_source(const char *source, place *out)
{
    struct stat info;
    const int is_there = stat(source, &info) == 0;
    const char *slash = strrchr(source, '/');
    const char *base = slash == NULL ? source : slash + 1;

    if (is_there && S_ISDIR(info.st_mode)) {
        out->folder = cvy_strdup(source);
        out->prefix = cvy_strdup("");
    } else {
        out->is_file = is_there;
        out->folder = dataset_folder_of(source);
        /* the labels of "train-images..." are those that begin with "train-" */
        const char *dash = is_there ? strchr(base, '-') : NULL;
        out->prefix = is_there
                          ? cvy_text_format("%.*s", dash == NULL ? 0 : (int)(dash + 1 - base), base)
                          : cvy_strdup(base);
    }
    if (out->folder != NULL && out->prefix != NULL) return CVY_OK;
    return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of %s", source);
}

cvy_status dataset_idx_find(const char *source, const char *labels, char **out_data,
                            char **out_labels)
{
    cvy_status status = CVY_OK;
    place at = {0};
    char *data_path = NULL, *labels_path = NULL;

    CVY_GOTO_IF_ERR(done, status, split_source(source, &at));
    if (!at.is_file) {
        CVY_GOTO_IF_ERR(done, status, find_one(at.folder, at.prefix, 0, &data_path));
    } else if ((data_path = cvy_strdup(source)) == NULL) {
        status = CVY_FAIL(CVY_ERR_NO_MEMORY, "path of %s", source);
        goto done;
    }
    if (labels == NULL) {
        CVY_GOTO_IF_ERR(done, status, find_one(at.folder, at.prefix, 1, &labels_path));
    } else if ((labels_path = cvy_strdup(labels)) == NULL) {
        status = CVY_FAIL(CVY_ERR_NO_MEMORY, "path of %s", labels);
        goto done;
    }
    *out_data = data_path;
    *out_labels = labels_path;
    data_path = labels_path = NULL;

done:
    cvy_free(at.folder);
    cvy_free(at.prefix);
    cvy_free(data_path);
    cvy_free(labels_path);
    return status;
}
