/* Folders of pictures, SOURCE/CLASS/FILE: the layout of ImageNet and of torchvision's ImageFolder,
 * whose labels (places of the sorted class names) are ours too. */

#include "dataset/importers/import_internal.h"

#include "dataset/sampler.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define ENVELOPE_BYTES 4096u /* what a record has around the file */

/* One picture; its name stands in the listing's text, so that millions of them stay small. */
typedef struct entry {
    size_t name;
    int32_t folder;
    int32_t label;
} entry;

typedef struct listing {
    dataset_names folders;
    char *text;
    size_t text_used, text_room;
    entry *entries;
    int64_t n, room;
    int64_t n_other; /* files that are no pictures by their name */
} listing;

static void free_listing(listing *list)
{
    dataset_names_free(&list->folders);
    cvy_free(list->text);
    cvy_free(list->entries);
}

static int is_picture_name(const char *name)
{
    static const char *const ends[] = {".jpg", ".jpeg", ".png"};
    const char *dot = strrchr(name, '.');

    for (size_t i = 0; dot != NULL && i < sizeof ends / sizeof ends[0]; i++) {
        if (strcasecmp(dot, ends[i]) == 0) return 1;
    }
    return 0;
}

static cvy_status add_entry(listing *list, const char *name, int32_t folder, int32_t label)
{
    const size_t size = strlen(name) + 1;

    if (list->text_used + size > list->text_room) {
        const size_t room = 2 * list->text_room + size + 4096;
        char *larger = cvy_realloc(list->text, room);
        if (larger == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "list of files");
        list->text = larger;
        list->text_room = room;
    }
    if (list->n == list->room) {
        const int64_t room = 2 * list->room + 256;
        entry *larger = cvy_realloc(list->entries, (size_t)room * sizeof *larger);
        if (larger == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "list of files");
        list->entries = larger;
        list->room = room;
    }
    memcpy(list->text + list->text_used, name, size);
    list->entries[list->n++] = (entry){.name = list->text_used, .folder = folder, .label = label};
    list->text_used += size;
    return CVY_OK;
}

static cvy_status visit_class(void *arg, const char *name, const struct stat *info)
{
    listing *list = arg;

    if (!S_ISDIR(info->st_mode)) {
        list->n_other++;
        return CVY_OK;
    }
    return dataset_names_add(&list->folders, name);
}

typedef struct class_visit {
    listing *list;
    int32_t folder, label;
} class_visit;

static cvy_status visit_file(void *arg, const char *name, const struct stat *info)
{
    const class_visit *visit = arg;

    if (!S_ISREG(info->st_mode) || !is_picture_name(name)) {
        visit->list->n_other++;
        return CVY_OK;
    }
    return add_entry(visit->list, name, visit->folder, visit->label);
}

/* The order of a folder is the file system's; that of an import must not be. */
static int compare_entries(const void *a, const void *b, void *arg)
{
    const entry *x = a, *y = b;
    const listing *list = arg;

    if (x->folder != y->folder) return x->folder < y->folder ? -1 : 1;
    return strcmp(list->text + x->name, list->text + y->name);
}

static cvy_status list_class(const char *source, listing *list, int folder, int label)
{
    class_visit visit = {.list = list, .folder = (int32_t)folder, .label = (int32_t)label};
    char *path = cvy_path_join(source, list->folders.name[folder]);

    if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path in %s", source);
    const cvy_status status = dataset_folder_walk(path, 0, visit_file, &visit);
    cvy_free(path);
    return status;
}

/* Entries are sorted by folder. */
static void warn_of_empty_folders(const char *source, const listing *list)
{
    int64_t at = 0;

    for (int32_t i = 0; i < list->folders.n; i++) {
        const int64_t before = at;
        while (at < list->n && list->entries[at].folder == i) at++;
        if (at == before) {
            cvy_log_warn("%s/%s holds no .jpg, .jpeg or .png file", source, list->folders.name[i]);
        }
    }
}

/* Folders and classes must fit. */
static cvy_status check_names(const dataset_import_options *options, const listing *list,
                              const dataset_names *names)
{
    for (int i = 0; i < list->folders.n; i++) {
        if (dataset_names_place(names, list->folders.name[i]) >= 0) continue;
        return CVY_FAIL(CVY_ERR_BAD_DATA, "folder %s/%s is no class of %s", options->source,
                        list->folders.name[i], options->classes_file);
    }
    for (int i = 0; i < names->n; i++) {
        if (dataset_names_place(&list->folders, names->name[i]) >= 0) continue;
        cvy_log_warn("class %s of %s has no folder in %s", names->name[i], options->classes_file,
                     options->source);
    }
    return CVY_OK;
}

static cvy_status list_source(const dataset_import_options *options, listing *list,
                              dataset_names *names)
{
    CVY_RETURN_IF_ERR(dataset_folder_walk(options->source, 0, visit_class, list));
    if (list->folders.n == 0) {
        return CVY_FAIL(CVY_ERR_BAD_DATA,
                        "%s holds no class folders, expected %s/CLASS/FILE.jpg or .png",
                        options->source, options->source);
    }
    dataset_names_sort(&list->folders);
    if (options->classes_file != NULL) {
        CVY_RETURN_IF_ERR(dataset_names_read(options->classes_file, names));
        CVY_RETURN_IF_ERR(check_names(options, list, names));
    } else {
        for (int i = 0; i < list->folders.n; i++) {
            CVY_RETURN_IF_ERR(dataset_names_add(names, list->folders.name[i]));
        }
    }
    for (int i = 0; i < list->folders.n; i++) {
        const int label = dataset_names_place(names, list->folders.name[i]);
        CVY_RETURN_IF_ERR(list_class(options->source, list, i, label));
    }
    if (list->n == 0) {
        return CVY_FAIL(CVY_ERR_BAD_DATA,
                        "%s: the %d class folders hold no .jpg, .jpeg or .png file",
                        options->source, list->folders.n);
    }
    qsort_r(list->entries, (size_t)list->n, sizeof *list->entries, compare_entries, list);
    warn_of_empty_folders(options->source, list);
    if (list->n_other > 0) {
        cvy_log_info("%s: %lld other files and folders are left out", options->source,
                     (long long)list->n_other);
    }
    return CVY_OK;
}

/* Failures that concern this one file. */
static int is_file_status(cvy_status status)
{
    return status == CVY_ERR_BAD_DATA || status == CVY_ERR_NOT_FOUND ||
           status == CVY_ERR_PERMISSION;
}

/* Every file is decoded, also where its bytes are stored: a bad one is found now and not in
 * training, and the statistics are of pixels. */
static cvy_status import_file(dataset_import *import, const char *path, int32_t label)
{
    const dataset_decode_options decode = {.max_pixels = DATASET_IMPORT_MAX_PIXELS};
    cvy_reason reason = {""};
    char *bytes = NULL;
    size_t size = 0;

    cvy_status status = cvy_file_read(path, DATASET_RECORD_LIMIT_BYTES - ENVELOPE_BYTES, &bytes,
                                      &size, &reason);
    if (status == CVY_OK) {
        status = dataset_image_decode((const uint8_t *)bytes, size, &decode, &import->picture,
                                      &reason);
    }
    if (status == CVY_ERR_NO_MEMORY) {
        cvy_free(bytes);
        return CVY_FAIL(status, "%s: %s", path, reason.text);
    }
    if (status == CVY_OK) {
        status = dataset_import_put_picture(import, &import->picture, label, (const uint8_t *)bytes,
                                            size, &reason);
        if (!is_file_status(status) || reason.text[0] == '\0') {
            cvy_free(bytes);
            return status; /* logged by the writer */
        }
    }
    cvy_free(bytes);
    if (is_file_status(status)) return dataset_import_skip(import, path, &reason);
    return CVY_FAIL(status, "%s", reason.text);
}

static cvy_status import_all(dataset_import *import, const listing *list)
{
    const dataset_sampler order = {.seed = import->options->shuffle_seed, .n = list->n};
    const int64_t limit = import->options->limit;

    import->n_all = limit > 0 && limit < list->n ? limit : list->n;
    for (int64_t i = 0; i < list->n && !dataset_import_is_full(import); i++) {
        const entry *e = &list->entries[dataset_sampler_record(&order, 0, i)];
        char *path = cvy_text_format("%s/%s/%s", import->options->source,
                                     list->folders.name[e->folder], list->text + e->name);
        if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path in %s", import->options->source);
        const cvy_status status = import_file(import, path, e->label);
        cvy_free(path);
        CVY_RETURN_IF_ERR(status);
        CVY_RETURN_IF_ERR(dataset_import_progress(import));
    }
    return CVY_OK;
}

static cvy_status run(const dataset_import_options *options, dataset_import_result *out)
{
    cvy_status status = CVY_OK;
    listing list = {0};
    dataset_names names = {0};
    dataset_import import;

    CVY_GOTO_IF_ERR(done, status, list_source(options, &list, &names));
    CVY_GOTO_IF_ERR(done, status, dataset_import_open(options, &names, 0, &import));
    status = import_all(&import, &list);
    status = dataset_import_close(&import, status, out);

done:
    free_listing(&list);
    dataset_names_free(&names);
    return status;
}

const dataset_importer_ops dataset_importer_images = {
    .name = "images",
    .usage = "FOLDER DST: pictures FOLDER/CLASS/FILE.jpg, .jpeg or .png",
    .help =
        "class folders of JPEG and PNG files; sorted folder names (or the classes file) give the "
        "labels, the order is shuffled, each file is checked by decoding it",
    .run = run,
};
