/* The binary version of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): records of a label byte (two in
 * CIFAR-100: coarse, fine) and 32 x 32 red, then green, then blue bytes. */

#include "dataset/importers/import_internal.h"

#include "base/alloc.h"
#include "base/file.h"

#include <errno.h>
#include <fnmatch.h>
#include <string.h>
#include <sys/stat.h>

#define SIDE             32
#define PIXEL_BYTES      (3 * SIDE * SIDE)
#define FILE_LIMIT_BYTES ((size_t)1 << 30)

typedef struct kind {
    const char *name;
    int label_bytes; /* the last of them is the label */
    int n_classes;
    const char *pattern; /* of the training files in a folder */
    const char *const *class_files;
} kind;

static const char *const class_files_10[] = {"batches.meta.txt", "classes.txt", NULL};
static const char *const class_files_100[] = {"fine_label_names.txt", "classes.txt", NULL};
static const kind kinds[] = {
    {"CIFAR-10", 1, 10, "data_batch*.bin", class_files_10},
    {"CIFAR-100", 2, 100, "train.bin", class_files_100},
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

/* What is to be read, and as what. */
typedef struct source {
    dataset_names files; /* names in folder */
    char *folder;
    const kind *kind;
    dataset_names classes;
    int64_t n_all;
} source;

static void free_source(source *src)
{
    dataset_names_free(&src->files);
    dataset_names_free(&src->classes);
    cvy_free(src->folder);
}

/* The training files of a folder, by the names that the originals have. */
static cvy_status find_files(const char *path, source *src)
{
    dataset_names all = {0};
    cvy_status status = dataset_folder_files(path, "", &all);

    for (size_t k = 0; k < N_KINDS && status == CVY_OK && src->files.n == 0; k++) {
        for (int i = 0; i < all.n && status == CVY_OK; i++) {
            if (fnmatch(kinds[k].pattern, all.name[i], 0) != 0) continue;
            status = dataset_names_add(&src->files, all.name[i]);
        }
    }
    dataset_names_free(&all);
    if (status == CVY_OK && src->files.n == 0) {
        status = CVY_FAIL(CVY_ERR_NOT_FOUND,
                          "%s holds no data_batch*.bin (CIFAR-10) and no train.bin (CIFAR-100); a "
                          "file such as test_batch.bin can be named itself",
                          path);
    }
    return status;
}

/* Which kind a file's length fits; a length that fits both is of CIFAR-10 if its labels do. */
static const kind *kind_of_length(int64_t size_bytes)
{
    for (size_t k = 0; k < N_KINDS; k++) {
        if (size_bytes > 0 && size_bytes % (kinds[k].label_bytes + PIXEL_BYTES) == 0) {
            return &kinds[k];
        }
    }
    return NULL;
}

static cvy_status measure_file(source *src, const char *name)
{
    struct stat info;
    char *path = cvy_path_join(src->folder, name);
    cvy_status status = CVY_OK;

    if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path in %s", src->folder);
    if (stat(path, &info) != 0) {
        status = CVY_FAIL(cvy_status_from_errno(errno), "%s: %s", path, strerror(errno));
    } else {
        const kind *found = kind_of_length((int64_t)info.st_size);
        if (found == NULL) {
            status = CVY_FAIL(CVY_ERR_BAD_DATA,
                              "%s has %lld bytes, expected records of 3073 (CIFAR-10) or 3074 "
                              "(CIFAR-100): truncated or no CIFAR file",
                              path, (long long)info.st_size);
        } else if (src->kind != NULL && found != src->kind) {
            status = CVY_FAIL(CVY_ERR_BAD_DATA, "%s is a %s file, those before it are %s", path,
                              found->name, src->kind->name);
        } else {
            src->kind = found;
            src->n_all += (int64_t)info.st_size / (found->label_bytes + PIXEL_BYTES);
        }
    }
    cvy_free(path);
    return status;
}

static cvy_status open_source(const dataset_import_options *options, source *src)
{
    struct stat info;

    if (stat(options->source, &info) != 0) {
        return CVY_FAIL(cvy_status_from_errno(errno), "%s: %s", options->source, strerror(errno));
    }
    const int is_folder = S_ISDIR(info.st_mode);
    src->folder = is_folder ? cvy_strdup(options->source) : dataset_folder_of(options->source);
    if (src->folder == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of %s", options->source);
    if (is_folder) {
        CVY_RETURN_IF_ERR(find_files(options->source, src));
    } else {
        const char *slash = strrchr(options->source, '/');
        CVY_RETURN_IF_ERR(
            dataset_names_add(&src->files, slash == NULL ? options->source : slash + 1));
    }
    for (int i = 0; i < src->files.n; i++) {
        CVY_RETURN_IF_ERR(measure_file(src, src->files.name[i]));
    }
    if (options->classes_file != NULL) {
        CVY_RETURN_IF_ERR(dataset_names_read(options->classes_file, &src->classes));
    } else {
        CVY_RETURN_IF_ERR(dataset_names_find(src->folder, src->kind->class_files, &src->classes));
    }
    return CVY_OK;
}

static cvy_status put_records(dataset_import *import, const source *src, const char *path,
                              const uint8_t *bytes, size_t size_bytes)
{
    const int n_classes = src->classes.n > 0 ? src->classes.n : src->kind->n_classes;
    const size_t record_bytes = (size_t)src->kind->label_bytes + PIXEL_BYTES;

    if (size_bytes % record_bytes != 0) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s has %zu bytes, expected a multiple of %zu", path,
                        size_bytes, record_bytes);
    }
    for (size_t at = 0; at < size_bytes && !dataset_import_is_full(import); at += record_bytes) {
        const int label = bytes[at + (size_t)src->kind->label_bytes - 1];
        if (label >= n_classes) {
            return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: record %zu has label %d, expected below %d",
                            path, at / record_bytes, label, n_classes);
        }
        const dataset_datum datum = {.channels = 3,
                                     .height = SIDE,
                                     .width = SIDE,
                                     .label = label,
                                     .has_label = 1,
                                     .data = bytes + at + src->kind->label_bytes,
                                     .data_bytes = PIXEL_BYTES};
        CVY_RETURN_IF_ERR(dataset_import_put_raw(import, &datum));
        CVY_RETURN_IF_ERR(dataset_import_progress(import));
    }
    return CVY_OK;
}

static cvy_status import_file(dataset_import *import, const source *src, const char *name)
{
    cvy_reason reason = {""};
    char *bytes = NULL;
    size_t size = 0;
    char *path = cvy_path_join(src->folder, name);

    if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path in %s", src->folder);
    cvy_status status = cvy_file_read(path, FILE_LIMIT_BYTES, &bytes, &size, &reason);
    if (status == CVY_OK) {
        status = put_records(import, src, path, (const uint8_t *)bytes, size);
    } else {
        status = CVY_FAIL(status, "%s", reason.text);
    }
    cvy_free(bytes);
    cvy_free(path);
    return status;
}

static cvy_status run(const dataset_import_options *options, dataset_import_result *out)
{
    cvy_status status = CVY_OK;
    source src = {0};
    dataset_import import;

    CVY_GOTO_IF_ERR(done, status, open_source(options, &src));
    CVY_GOTO_IF_ERR(done, status,
                    dataset_import_open(options, &src.classes, src.kind->n_classes, &import));
    import.n_all = options->limit > 0 && options->limit < src.n_all ? options->limit : src.n_all;
    for (int i = 0; i < src.files.n && status == CVY_OK && !dataset_import_is_full(&import); i++) {
        status = import_file(&import, &src, src.files.name[i]);
    }
    status = dataset_import_close(&import, status, out);

done:
    free_source(&src);
    return status;
}

const dataset_importer_ops dataset_importer_cifar = {
    .name = "cifar",
    .usage = "FOLDER_OR_FILE DST: data_batch*.bin or train.bin of a folder, or one .bin file",
    .help = "the binary version of CIFAR-10 or CIFAR-100 (fine labels); class names from "
            "batches.meta.txt, fine_label_names.txt or classes.txt beside the files",
    .run = run,
};
