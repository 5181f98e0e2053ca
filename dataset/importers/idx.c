/* IDX files, the format of MNIST and its many relatives: one file of items, one of labels. */

#include "dataset/importers/idx_internal.h"
#include "dataset/importers/import_internal.h"

#include "base/alloc.h"

#include <string.h>

#define MAX_CLASSES 1000000

typedef struct idx_set {
    char *data_path, *labels_path;
    dataset_idx data, labels;
    uint8_t *item;  /* one, as in the file */
    float *floats;  /* the same, where it holds no bytes */
    int32_t *label; /* (n) */
    int n_classes;
    dataset_names classes;
} idx_set;

static void free_set(idx_set *set)
{
    dataset_idx_close(&set->data);
    dataset_idx_close(&set->labels);
    dataset_names_free(&set->classes);
    cvy_free(set->data_path);
    cvy_free(set->labels_path);
    cvy_free(set->item);
    cvy_free(set->floats);
    cvy_free(set->label);
}

/* Room for one label more. It grows with what the file has, not with what its header says. */
static cvy_status make_room(idx_set *set, int64_t i, int64_t *room)
{
    if (i < *room) return CVY_OK;
    *room = *room == 0 ? 4096 : 2 * *room;
    int32_t *larger = cvy_realloc(set->label, (size_t)*room * sizeof *larger);
    if (larger == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "%lld labels", (long long)*room);
    set->label = larger;
    return CVY_OK;
}

/* All labels are read first: their largest tells how many classes there are. */
static cvy_status read_labels(idx_set *set)
{
    const int64_t limit = set->classes.n > 0 ? set->classes.n : MAX_CLASSES;
    int64_t most = 0, room = 0;

    for (int64_t i = 0; i < set->labels.dim[0]; i++) {
        uint8_t bytes[8];
        int64_t label = 0;
        CVY_RETURN_IF_ERR(make_room(set, i, &room));
        CVY_RETURN_IF_ERR(dataset_idx_read(&set->labels, bytes));
        (void)dataset_idx_to_int(&set->labels, bytes, &label); /* the type was checked */
        if (label < 0 || label >= limit) {
            return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: label %lld of item %lld, expected 0 to %lld",
                            set->labels_path, (long long)label, (long long)i, (long long)limit - 1);
        }
        set->label[i] = (int32_t)label;
        most = label > most ? label : most;
    }
    CVY_RETURN_IF_ERR(dataset_idx_check_end(&set->labels));
    set->n_classes = (int)most + 1;
    return CVY_OK;
}

static cvy_status check_labels_header(const idx_set *set)
{
    if (set->labels.n_dims != 1 || set->labels.type == 0x0d || set->labels.type == 0x0e) {
        return CVY_FAIL(CVY_ERR_BAD_DATA,
                        "%s has %d dimensions of type %02x, labels have 1 of integers",
                        set->labels_path, set->labels.n_dims, (unsigned)set->labels.type);
    }
    if (set->labels.dim[0] != set->data.dim[0]) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s has %lld items and %s %lld labels", set->data_path,
                        (long long)set->data.dim[0], set->labels_path,
                        (long long)set->labels.dim[0]);
    }
    return CVY_OK;
}

static cvy_status read_classes(const dataset_import_options *options, idx_set *set)
{
    static const char *const files[] = {"classes.txt", NULL};

    if (options->classes_file != NULL) {
        return dataset_names_read(options->classes_file, &set->classes);
    }
    char *folder = dataset_folder_of(set->data_path);
    if (folder == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of %s", set->data_path);
    const cvy_status status = dataset_names_find(folder, files, &set->classes);
    cvy_free(folder);
    return status;
}

static cvy_status open_set(const dataset_import_options *options, idx_set *set)
{
    CVY_RETURN_IF_ERR(
        dataset_idx_find(options->source, options->labels, &set->data_path, &set->labels_path));
    if (strcmp(set->data_path, set->labels_path) == 0) {
        return CVY_FAIL(CVY_ERR_USAGE, "%s is the label file, expected the data file",
                        set->data_path);
    }
    CVY_RETURN_IF_ERR(dataset_idx_open(set->data_path, &set->data));
    CVY_RETURN_IF_ERR(dataset_idx_open(set->labels_path, &set->labels));
    CVY_RETURN_IF_ERR(check_labels_header(set));
    CVY_RETURN_IF_ERR(read_classes(options, set));
    CVY_RETURN_IF_ERR(read_labels(set));

    const size_t n = (size_t)set->data.n_item_values;
    set->item = cvy_alloc(n * set->data.value_bytes);
    if (set->data.type != 0x08) set->floats = cvy_alloc(n * sizeof *set->floats);
    if (set->item == NULL || (set->data.type != 0x08 && set->floats == NULL)) {
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "an item of %zu values", n);
    }
    return CVY_OK;
}

/* (n), (n, w), (n, h, w), (n, 1 or 3 channels, h, w), (n, depth, h, w). */
static dataset_datum shape_of(const dataset_idx *data)
{
    dataset_datum datum = {.channels = 1, .height = 1, .width = 1, .has_label = 1};

    if (data->n_dims > 1) datum.width = data->dim[data->n_dims - 1];
    if (data->n_dims > 2) datum.height = data->dim[data->n_dims - 2];
    if (data->n_dims == 4) {
        if (data->dim[1] == 1 || data->dim[1] == 3) {
            datum.channels = data->dim[1];
        } else {
            datum.depth = data->dim[1];
        }
    }
    return datum;
}

static cvy_status put_items(dataset_import *import, idx_set *set)
{
    const int64_t n = set->data.dim[0], limit = import->options->limit;
    dataset_datum datum = shape_of(&set->data);

    import->n_all = limit > 0 && limit < n ? limit : n;
    for (int64_t i = 0; i < n && !dataset_import_is_full(import); i++) {
        CVY_RETURN_IF_ERR(dataset_idx_read(&set->data, set->item));
        if (set->floats == NULL) {
            datum.data = set->item;
            datum.data_bytes = (size_t)set->data.n_item_values;
        } else {
            dataset_idx_to_floats(&set->data, set->item, set->data.n_item_values, set->floats);
            datum.float_data = set->floats;
            datum.n_floats = (size_t)set->data.n_item_values;
        }
        datum.label = set->label[i];
        CVY_RETURN_IF_ERR(dataset_import_put_raw(import, &datum));
        CVY_RETURN_IF_ERR(dataset_import_progress(import));
    }
    return import->n_records < n ? CVY_OK : dataset_idx_check_end(&set->data);
}

static cvy_status run(const dataset_import_options *options, dataset_import_result *out)
{
    cvy_status status = CVY_OK;
    idx_set set = {0};
    dataset_import import;

    CVY_GOTO_IF_ERR(done, status, open_set(options, &set));
    CVY_GOTO_IF_ERR(done, status,
                    dataset_import_open(options, &set.classes, set.n_classes, &import));
    status = put_items(&import, &set);
    status = dataset_import_close(&import, status, out);

done:
    free_set(&set);
    return status;
}

const dataset_importer_ops dataset_importer_idx = {
    .name = "idx",
    .usage =
        "SRC DST: the data file, the beginning of a set's names (FOLDER/train, FOLDER/t10k), or "
        "a folder with one set",
    .help =
        "idx files as of MNIST, plain or .gz, of 1 to 4 dimensions (the first counts items; of 4 "
        "the second is channels if it is 1 or 3, else depth); class names from classes.txt",
    .run = run,
};
