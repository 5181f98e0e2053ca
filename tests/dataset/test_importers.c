/* one file because all importers are driven and checked by the same helpers */

#include "tests/support/test_support.h"

#include "tests/dataset/make_jpeg.h"

#include "dataset/image.h"
#include "dataset/importer.h"
#include "dataset/store.h"

#include "base/alloc.h"
#include "base/file.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

/* A fresh folder for the test of this name; and paths in it, valid until the 256th next. */
static char place[512];

static const char *in(const char *name)
{
    static char paths[256][1024];
    static int next;
    char *path = paths[next++ % 256];

    snprintf(path, sizeof paths[0], "%s/%s", place, name);
    return path;
}

static void begin(const char *name)
{
    snprintf(place, sizeof place, "%s/%s", test_folder(), name);
    assert_ok(cvy_file_remove_tree(place));
    assert_ok(cvy_file_make_folders(place));
}

static void put_file(const char *name, const void *bytes, size_t size)
{
    char path[1024];

    snprintf(path, sizeof path, "%s", in(name));
    *strrchr(path, '/') = '\0';
    assert_ok(cvy_file_make_folders(path));
    FILE *file = fopen(in(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void put_text(const char *name, const char *text)
{
    put_file(name, text, strlen(text));
}

static void put_gz(const char *name, const void *bytes, size_t size)
{
    gzFile file = gzopen(in(name), "wb");

    assert_non_null(file);
    assert_int_equal(gzwrite(file, bytes, (unsigned)size), (int)size);
    assert_int_equal(gzclose(file), Z_OK);
}

static dataset_import_options usual(const char *source)
{
    return (dataset_import_options){.source = in(source), .destination = in("out.lmdb")};
}

static cvy_status run(const char *importer, const dataset_import_options *options,
                      dataset_import_result *out)
{
    const dataset_importer_ops *ops = dataset_importer_find(importer);

    assert_non_null(ops);
    return ops->run(options, out);
}

/* Nothing may be left of a failed import, under the final or a temporary name. */
static void assert_fails(const char *importer, const dataset_import_options *options,
                         cvy_status status, const char *message)
{
    dataset_import_result result;

    test_log_expect(message);
    assert_status(run(importer, options, &result), status);
    if (cvy_file_exists(options->destination)) fail_msg("left after: %s", message);
}

static dataset_store *open_result(void)
{
    const dataset_store_options options = {.is_quiet = 1};
    dataset_store *store = NULL;

    assert_ok(dataset_store_open(in("out.lmdb"), &options, &store));
    assert_true(dataset_store_info(store)->has_manifest);
    return store;
}

static dataset_datum get(dataset_reader *reader, int64_t idx)
{
    dataset_datum datum;
    cvy_reason reason = {""};

    if (dataset_reader_get(reader, idx, &datum, &reason) != CVY_OK) fail_msg("%s", reason.text);
    return datum;
}

static void registry_is_complete(void **state)
{
    (void)state;
    assert_true(dataset_importer_count() >= 3);
    for (int i = 0; i < dataset_importer_count(); i++) {
        const dataset_importer_ops *ops = dataset_importer_at(i);
        assert_ptr_equal(dataset_importer_find(ops->name), ops);
        assert_true(ops->usage[0] != '\0' && ops->help[0] != '\0' && ops->run != NULL);
    }
    assert_null(dataset_importer_find("webdataset"));
    assert_null(dataset_importer_at(-1));
    assert_null(dataset_importer_at(dataset_importer_count()));
}

/* Two classes, cat and dog: 3 and 2 JPEG files of a grey or colour kind, and things to leave out.
 */
static void put_pictures(int is_mixed)
{
    static const char *const names[] = {"src/cat/a.jpg", "src/cat/b.JPEG", "src/cat/c.jpg",
                                        "src/dog/d.jpg", "src/dog/e.jpeg"};

    for (int i = 0; i < 5; i++) {
        const make_jpeg want = {
            .width = 20 + i, .height = 16, .components = is_mixed && i == 2 ? 1 : 3, .quality = 90};
        size_t size = 0;
        uint8_t *file = make_jpeg_file(&want, &size);
        put_file(names[i], file, size);
        free(file);
    }
    put_text("src/cat/.hidden.jpg", "hidden");
    put_text("src/cat/readme.txt", "no picture");
    put_text("src/list.txt", "no folder");
    assert_int_equal(symlink(in("src/cat/a.jpg"), in("src/dog/link.jpg")), 0);
    assert_int_equal(symlink(in("src/cat"), in("src/linked")), 0);
}

static void images_keep_their_bytes_and_sorted_labels(void **state)
{
    (void)state;
    dataset_import_result result;
    dataset_reader *reader = NULL;
    dataset_import_options options;
    int n_of[2] = {0}, seen_width[30] = {0};

    begin("images");
    put_pictures(0);
    options = usual("src");
    assert_ok(run("images", &options, &result));
    assert_int_equal(result.n_records, 5);
    assert_int_equal(result.n_bad, 0);
    dataset_store *store = open_result();
    const dataset_info *info = dataset_store_info(store);
    assert_int_equal(info->n_classes, 2);
    assert_string_equal(info->class_names[0], "cat");
    assert_string_equal(info->class_names[1], "dog");
    assert_true(info->is_encoded);
    assert_int_equal(info->channels, 3);
    assert_int_equal(info->n_channels_stat, 3);
    assert_ok(dataset_reader_create(store, &reader));
    for (int64_t i = 0; i < 5; i++) {
        const dataset_datum datum = get(reader, i);
        const make_jpeg want = {
            .width = (int)datum.width, .height = 16, .components = 3, .quality = 90};
        size_t size = 0;
        uint8_t *file = make_jpeg_file(&want, &size);
        assert_int_equal(datum.data_bytes, size);
        assert_memory_equal(datum.data, file, size);
        assert_int_equal(datum.label, datum.width >= 23);
        n_of[datum.label]++;
        seen_width[datum.width]++;
        free(file);
    }
    assert_true(n_of[0] == 3 && n_of[1] == 2);
    for (int w = 20; w < 25; w++) assert_int_equal(seen_width[w], 1);
    dataset_reader_destroy(&reader);
    dataset_store_close(&store);
}

static void images_order_follows_the_seed(void **state)
{
    (void)state;
    int64_t order[3][5];

    for (int i = 0; i < 3; i++) {
        dataset_import_result result;
        dataset_reader *reader = NULL;
        begin("order");
        put_pictures(0);
        dataset_import_options options = usual("src");
        options.shuffle_seed = i == 2 ? 12 : 11;
        assert_ok(run("images", &options, &result));
        dataset_store *store = open_result();
        assert_ok(dataset_reader_create(store, &reader));
        for (int64_t k = 0; k < 5; k++) order[i][k] = get(reader, k).width;
        dataset_reader_destroy(&reader);
        dataset_store_close(&store);
    }
    assert_memory_equal(order[0], order[1], sizeof order[0]);
    assert_memory_not_equal(order[0], order[2], sizeof order[0]);
}

static void images_as_pixels_are_resized_and_counted(void **state)
{
    (void)state;
    dataset_import_result result;
    dataset_reader *reader = NULL;
    dataset_image image = {0};
    double sum[3] = {0}, squares[3] = {0}, n = 0.0;

    begin("raw");
    put_pictures(1);
    dataset_import_options options = usual("src");
    options.resize = 8;
    assert_ok(run("images", &options, &result));
    dataset_store *store = open_result();
    const dataset_info *info = dataset_store_info(store);
    assert_false(info->is_encoded);
    assert_int_equal(info->height, 8);
    assert_int_equal(info->width, 0);    /* 20 to 24 wide */
    assert_int_equal(info->channels, 0); /* a grey one is among them */
    assert_ok(dataset_reader_create(store, &reader));
    for (int64_t i = 0; i < 5; i++) {
        const dataset_datum datum = get(reader, i);
        const int64_t plane = 8 * datum.width;
        assert_in_range(datum.width, 10, 12);
        n += (double)plane;
        for (int64_t k = 0; k < 3 * plane; k++) {
            const double v = datum.data[datum.channels == 1 ? k % plane : k] / 255.0;
            sum[k / plane] += v;
            squares[k / plane] += v * v;
        }
    }
    assert_int_equal(info->n_channels_stat, 3);
    for (int c = 0; c < 3; c++) {
        const double mean = sum[c] / n;
        assert_true(fabs(info->mean[c] - mean) < 1e-9);
        assert_true(fabs(info->deviation[c] - sqrt(squares[c] / n - mean * mean)) < 1e-6);
    }
    dataset_reader_destroy(&reader);
    dataset_store_close(&store);
    dataset_image_free(&image);
}

static void bad_image_is_skipped_or_fails(void **state)
{
    (void)state;
    dataset_import_result result;

    begin("bad");
    put_pictures(0);
    put_text("src/dog/f.png", "<!DOCTYPE html>");
    dataset_import_options options = usual("src");
    options.on_bad = 1;
    assert_fails("images", &options, CVY_ERR_BAD_DATA,
                 "dog/f.png: neither JPEG nor PNG but an HTML");
    options.on_bad = 0;
    test_log_expect("an HTML page (15 bytes); left out");
    assert_ok(run("images", &options, &result));
    assert_int_equal(result.n_records, 5);
    assert_int_equal(result.n_bad, 1);
}

static void images_limit_and_classes_file_are_kept(void **state)
{
    (void)state;
    dataset_import_result result;

    begin("limit");
    put_pictures(0);
    put_text("names.txt", "dog\r\nbird\ncat\n\n");
    dataset_import_options options = usual("src");
    options.limit = 2;
    options.classes_file = in("names.txt");
    test_log_expect("class bird of");
    assert_ok(run("images", &options, &result));
    assert_int_equal(result.n_records, 2);
    dataset_store *store = open_result();
    assert_int_equal(dataset_store_info(store)->n_classes, 3);
    assert_string_equal(dataset_store_info(store)->class_names[0], "dog");
    dataset_store_close(&store);

    assert_ok(cvy_file_remove_tree(options.destination));
    put_text("names.txt", "dog\n");
    assert_fails("images", &options, CVY_ERR_BAD_DATA, "src/cat is no class of");
    put_text("names.txt", "dog\ncat\ndog\n");
    assert_fails("images", &options, CVY_ERR_BAD_DATA, "names.txt:3: class dog is also on line 1");
    put_text("names.txt", "dog\n\ncat\n");
    assert_fails("images", &options, CVY_ERR_BAD_DATA, "names.txt:2: empty line before class cat");
}

static void wrong_image_folders_are_refused(void **state)
{
    (void)state;
    begin("wrong");
    dataset_import_options options = usual("src");
    assert_fails("images", &options, CVY_ERR_NOT_FOUND, "No such file or directory");
    put_text("src", "a file");
    assert_fails("images", &options, CVY_ERR_BAD_DATA, "Not a directory");
    options.source = in("empty");
    assert_ok(cvy_file_make_folders(options.source));
    assert_fails("images", &options, CVY_ERR_BAD_DATA, "holds no class folders, expected");
    assert_ok(cvy_file_make_folders(in("empty/cat")));
    assert_fails("images", &options, CVY_ERR_BAD_DATA, "the 1 class folders hold no .jpg");
}

static int stop_after(void *arg, int64_t n_done, int64_t n_all)
{
    int *calls = arg;

    assert_true(n_all == 5 && n_done <= n_all);
    return ++*calls > 0;
}

static void stopped_import_leaves_nothing(void **state)
{
    (void)state;
    int calls = 0;

    begin("stop");
    put_pictures(0);
    dataset_import_options options = usual("src");
    options.progress = stop_after;
    options.progress_arg = &calls;
    assert_fails("images", &options, CVY_ERR_STOPPED, "stopped after 1 records");
    assert_int_equal(calls, 1);
    /* only the source is left in the folder */
    assert_int_equal(unlink(in("src/dog/link.jpg")), 0);
    assert_ok(cvy_file_remove_tree(in("src")));
    assert_int_equal(rmdir(place), 0);
}

static void existing_destination_is_refused(void **state)
{
    (void)state;
    dataset_import_result result;

    begin("exists");
    put_pictures(0);
    put_text("out.lmdb", "precious");
    const dataset_import_options options = usual("src");
    test_log_expect("out.lmdb");
    assert_true(run("images", &options, &result) != CVY_OK);
    assert_true(cvy_file_exists(in("out.lmdb")));
}

static void put_cifar(const char *name, int n, int label_bytes, int first)
{
    const size_t record = (size_t)label_bytes + 3072;
    uint8_t *bytes = malloc((size_t)n * record);

    for (int i = 0; i < n; i++) {
        uint8_t *at = bytes + (size_t)i * record;
        memset(at, 0, record);
        at[label_bytes - 1] = (uint8_t)((first + i) % 10);
        for (int k = 0; k < 3072; k++) at[label_bytes + k] = (uint8_t)(first + i + k / 1024);
    }
    put_file(name, bytes, (size_t)n * record);
    free(bytes);
}

static void cifar_folder_joins_its_batches_in_order(void **state)
{
    (void)state;
    dataset_import_result result;
    dataset_reader *reader = NULL;

    begin("cifar");
    put_cifar("src/data_batch_2.bin", 3, 1, 4);
    put_cifar("src/data_batch_1.bin", 4, 1, 0);
    put_cifar("src/test_batch.bin", 5, 1, 100);
    put_text("src/batches.meta.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n");
    const dataset_import_options options = usual("src");
    assert_ok(run("cifar", &options, &result));
    assert_int_equal(result.n_records, 7);
    dataset_store *store = open_result();
    const dataset_info *info = dataset_store_info(store);
    assert_int_equal(info->n_classes, 10);
    assert_string_equal(info->class_names[9], "j");
    assert_true(info->channels == 3 && info->height == 32 && info->width == 32);
    assert_true(fabs(info->mean[1] - 4.0 / 255.0) < 1e-9); /* 0 to 6, and 1 for the channel */
    assert_true(fabs(info->deviation[1] - 2.0 / 255.0) < 1e-9);
    assert_ok(dataset_reader_create(store, &reader));
    for (int64_t i = 0; i < 7; i++) {
        const dataset_datum datum = get(reader, i);
        assert_int_equal(datum.label, i);
        assert_int_equal(datum.data[0], i);
        assert_int_equal(datum.data[3071], i + 2);
    }
    dataset_reader_destroy(&reader);
    dataset_store_close(&store);
}

static void cifar_file_may_be_of_either_kind(void **state)
{
    (void)state;
    for (int label_bytes = 1; label_bytes <= 2; label_bytes++) {
        dataset_import_result result;
        begin("cifar-file");
        put_cifar("test.bin", 6, label_bytes, 0);
        dataset_import_options options = usual("test.bin");
        options.limit = 5;
        assert_ok(run("cifar", &options, &result));
        assert_int_equal(result.n_records, 5);
        dataset_store *store = open_result();
        assert_int_equal(dataset_store_info(store)->n_classes, label_bytes == 1 ? 10 : 100);
        dataset_store_close(&store);
    }
}

static void wrong_cifar_files_are_refused(void **state)
{
    (void)state;
    uint8_t record[3073] = {10};

    begin("cifar-wrong");
    put_file("a.bin", record, sizeof record);
    dataset_import_options options = usual("a.bin");
    assert_fails("cifar", &options, CVY_ERR_BAD_DATA, "record 0 has label 10, expected below 10");
    put_file("a.bin", record, 3000);
    assert_fails("cifar", &options, CVY_ERR_BAD_DATA, "a.bin has 3000 bytes, expected records of");
    put_file("a.bin", record, 0);
    assert_fails("cifar", &options, CVY_ERR_BAD_DATA, "a.bin has 0 bytes");
    options = usual("none");
    assert_fails("cifar", &options, CVY_ERR_NOT_FOUND, "No such file");
    assert_ok(cvy_file_make_folders(in("none")));
    assert_fails("cifar", &options, CVY_ERR_NOT_FOUND, "holds no data_batch*.bin");
}

/* An idx file: type, dimensions, then bytes that count up. */
static size_t make_idx(uint8_t *out, int type, int n_dims, const int *dims, size_t n_bytes)
{
    uint8_t *at = out;

    *at++ = 0;
    *at++ = 0;
    *at++ = (uint8_t)type;
    *at++ = (uint8_t)n_dims;
    for (int i = 0; i < n_dims; i++) {
        for (int shift = 24; shift >= 0; shift -= 8) *at++ = (uint8_t)(dims[i] >> shift);
    }
    for (size_t i = 0; i < n_bytes; i++) *at++ = (uint8_t)i;
    return (size_t)(at - out);
}

static void idx_of_all_dimensions_is_read(void **state)
{
    (void)state;
    static const struct {
        int n_dims, dims[4];
        int64_t c, d, h, w;
    } cases[] = {{1, {4}, 1, 0, 1, 1},
                 {2, {4, 6}, 1, 0, 1, 6},
                 {3, {4, 3, 5}, 1, 0, 3, 5},
                 {4, {4, 3, 2, 5}, 3, 0, 2, 5},
                 {4, {4, 2, 3, 2}, 1, 2, 3, 2}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        dataset_import_result result;
        dataset_reader *reader = NULL;
        uint8_t bytes[512];
        const int64_t depth = cases[i].d > 0 ? cases[i].d : 1;
        const size_t item = (size_t)(cases[i].c * depth * cases[i].h * cases[i].w);
        begin("idx");
        put_file("train-data-idx9-ubyte", bytes,
                 make_idx(bytes, 8, cases[i].n_dims, cases[i].dims, 4 * item));
        put_gz("train-labels-idx1-ubyte.gz", bytes, make_idx(bytes, 8, 1, (const int[]){4}, 4));
        const dataset_import_options options = usual("");
        assert_ok(run("idx", &options, &result));
        assert_int_equal(result.n_records, 4);
        dataset_store *store = open_result();
        assert_int_equal(dataset_store_info(store)->n_classes, 4);
        assert_ok(dataset_reader_create(store, &reader));
        for (int64_t k = 0; k < 4; k++) {
            const dataset_datum datum = get(reader, k);
            assert_int_equal(datum.channels, cases[i].c);
            assert_int_equal(datum.depth, cases[i].d);
            assert_int_equal(datum.height, cases[i].h);
            assert_int_equal(datum.width, cases[i].w);
            assert_int_equal(datum.label, k);
            for (size_t b = 0; b < item; b++) assert_int_equal(datum.data[b], (size_t)k * item + b);
        }
        dataset_reader_destroy(&reader);
        dataset_store_close(&store);
    }
}

static void idx_of_wider_types_becomes_floats(void **state)
{
    (void)state;
    /* 1.5 and -2 as float32; 258 and -2 as int16; -2 and 3 as int8, big-endian */
    static const struct {
        int type;
        uint8_t bytes[8];
        size_t n;
        float want[2];
    } cases[] = {{0x0d, {0x3f, 0xc0, 0, 0, 0xc0, 0, 0, 0}, 8, {1.5f, -2.0f}},
                 {0x0b, {1, 2, 0xff, 0xfe}, 4, {258.0f, -2.0f}},
                 {0x09, {0xfe, 3}, 2, {-2.0f, 3.0f}}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        dataset_import_result result;
        dataset_reader *reader = NULL;
        uint8_t bytes[64];
        begin("idx-float");
        const size_t n = make_idx(bytes, cases[i].type, 2, (const int[]){1, 2}, 0);
        memcpy(bytes + n, cases[i].bytes, cases[i].n);
        put_file("x.idx2", bytes, n + cases[i].n);
        put_file("y", bytes, make_idx(bytes, 8, 1, (const int[]){1}, 1));
        dataset_import_options options = usual("x.idx2");
        options.labels = in("y");
        assert_ok(run("idx", &options, &result));
        dataset_store *store = open_result();
        assert_ok(dataset_reader_create(store, &reader));
        const dataset_datum datum = get(reader, 0);
        assert_int_equal(datum.n_floats, 2);
        assert_true(datum.float_data[0] == cases[i].want[0]);
        assert_true(datum.float_data[1] == cases[i].want[1]);
        dataset_reader_destroy(&reader);
        dataset_store_close(&store);
    }
}

static void idx_set_is_chosen_by_the_beginning_of_its_names(void **state)
{
    (void)state;
    dataset_import_result result;
    uint8_t bytes[64];

    begin("idx-sets");
    const size_t two = make_idx(bytes, 8, 2, (const int[]){2, 3}, 6);
    put_file("train-images-idx2-ubyte", bytes, two);
    put_gz("train-images-idx2-ubyte.gz", bytes, two); /* the same again */
    put_gz("t10k-images-idx2-ubyte.gz", bytes, make_idx(bytes, 8, 2, (const int[]){3, 3}, 9));
    put_file("train-labels-idx1-ubyte", bytes, make_idx(bytes, 8, 1, (const int[]){2}, 2));
    put_file("t10k-labels-idx1-ubyte", bytes, make_idx(bytes, 8, 1, (const int[]){3}, 3));
    put_text("classes.txt", "zero\none\ntwo\n");
    dataset_import_options options = usual("");
    assert_fails("idx", &options, CVY_ERR_USAGE, "has 2 idx data files");
    static const struct {
        const char *source;
        int n;
    } cases[] = {{"train", 2}, {"t10k", 3}, {"t10k-images-idx2-ubyte.gz", 3}};
    for (int i = 0; i < 3; i++) {
        options = usual(cases[i].source);
        assert_ok(run("idx", &options, &result));
        assert_int_equal(result.n_records, cases[i].n);
        dataset_store *store = open_result();
        assert_string_equal(dataset_store_info(store)->class_names[2], "two");
        dataset_store_close(&store);
        assert_ok(cvy_file_remove_tree(options.destination));
    }
}

static void wrong_idx_files_are_refused_with_numbers(void **state)
{
    (void)state;
    static const int dims[] = {4, 3, 5};
    uint8_t data[128], labels[128], gz[256];
    size_t n = 0;

    begin("idx-wrong");
    const size_t n_data = make_idx(data, 8, 3, dims, 60);
    const size_t n_labels = make_idx(labels, 8, 1, dims, 4);
    dataset_import_options options = usual("x-images-idx3");
    put_file("x-labels-idx1", labels, n_labels);

    put_file("x-images-idx3", data, n_data - 16);
    assert_fails("idx", &options, CVY_ERR_BAD_DATA,
                 "truncated: has 2 whole items of 15 bytes, its header says 4");
    put_file("x-images-idx3", data, n_data + 1);
    assert_fails("idx", &options, CVY_ERR_BAD_DATA, "goes on after the 4 items");
    put_file("x-images-idx3", data, 9);
    assert_fails("idx", &options, CVY_ERR_BAD_DATA, "ends within its header of 16 bytes");
    put_file("x-images-idx3", "PNG?", 4);
    assert_fails("idx", &options, CVY_ERR_BAD_DATA, "begins with 50 4e 47 3f");
    data[3] = 5;
    put_file("x-images-idx3", data, n_data);
    assert_fails("idx", &options, CVY_ERR_BAD_DATA, "has 5 dimensions, expected 1 to 4");
    data[3] = 3;
    data[7] = 5;
    put_file("x-images-idx3", data, n_data);
    assert_fails("idx", &options, CVY_ERR_BAD_DATA, "has 5 items and");
    data[7] = 4;
    memset(data + 8, 0xff, 8);
    put_file("x-images-idx3", data, n_data);
    assert_fails("idx", &options, CVY_ERR_BAD_DATA, "an item has more than");
    memset(data + 8, 0, 8);
    put_file("x-images-idx3", data, n_data);
    assert_fails("idx", &options, CVY_ERR_BAD_DATA, "dimension 2 is 0");

    (void)make_idx(data, 8, 3, dims, 60);
    put_gz("x-images-idx3", data, n_data);
    FILE *file = fopen(in("x-images-idx3"), "rb");
    assert_non_null(file);
    n = fread(gz, 1, sizeof gz, file);
    fclose(file);
    put_file("x-images-idx3", gz, n - 4); /* all pixels are there, but not the end of the stream */
    assert_fails("idx", &options, CVY_ERR_BAD_DATA, "x-images-idx3: ");
    gz[n - 6] ^= 1; /* the checksum */
    put_file("x-images-idx3", gz, n);
    assert_fails("idx", &options, CVY_ERR_BAD_DATA, "x-images-idx3: ");

    put_text("names.txt", "a\nb\nc\n");
    options.classes_file = in("names.txt");
    put_file("x-images-idx3", data, n_data);
    assert_fails("idx", &options, CVY_ERR_BAD_DATA, "label 3 of item 3, expected 0 to 2");
    options = usual("x-labels-idx1");
    assert_fails("idx", &options, CVY_ERR_USAGE, "is the label file");
    options = usual("nothing");
    assert_fails("idx", &options, CVY_ERR_NOT_FOUND, "has no idx data file nothing*");
}

static void raw_records_are_resized_where_they_can_be(void **state)
{
    (void)state;
    dataset_import_result result;
    uint8_t bytes[512];

    begin("idx-resize");
    put_file("a-images-idx3", bytes, make_idx(bytes, 8, 3, (const int[]){2, 8, 10}, 160));
    put_file("a-labels-idx1", bytes, make_idx(bytes, 8, 1, (const int[]){2}, 2));
    dataset_import_options options = usual("a");
    options.resize = 4;
    assert_ok(run("idx", &options, &result));
    dataset_store *store = open_result();
    assert_true(dataset_store_info(store)->height == 4 && dataset_store_info(store)->width == 5);
    dataset_store_close(&store);
    assert_ok(cvy_file_remove_tree(options.destination));
    put_file("a-images-idx3", bytes, make_idx(bytes, 8, 4, (const int[]){2, 4, 4, 5}, 160));
    assert_fails("idx", &options, CVY_ERR_USAGE, "--resize works on pictures of bytes");
}

/* Where only the sync after the final rename failed, the dataset is there, and is whole. */
static void discard_if_whole(void)
{
    if (!cvy_file_exists(in("out.lmdb"))) return;
    dataset_store *store = open_result();
    assert_int_equal(dataset_store_info(store)->n_records, 2);
    dataset_store_close(&store);
    assert_ok(cvy_file_remove_tree(in("out.lmdb")));
}

static void failed_allocation_leaves_all_or_nothing(void **state)
{
    (void)state;
    static const char *const importers[] = {"images", "cifar", "idx"};
    static const char *const sources[] = {"src", "c.bin", "a"};
    uint8_t bytes[64];

    begin("memory");
    test_log_expect("(out of memory)"); /* stands for every line */
    put_pictures(0);
    put_cifar("c.bin", 2, 1, 0);
    put_file("a-images-idx2", bytes, make_idx(bytes, 8, 2, (const int[]){2, 3}, 6));
    put_file("a-labels-idx1", bytes, make_idx(bytes, 8, 1, (const int[]){2}, 2));
    for (int i = 0; i < 3; i++) {
        cvy_status status = CVY_ERR_NO_MEMORY;
        cvy_alloc_counts before, after;
        int k = 0;
        cvy_alloc_count(&before);
        for (; status == CVY_ERR_NO_MEMORY; k++) {
            dataset_import_options options = usual(sources[i]);
            dataset_import_result result;
            options.limit = 2;
            options.resize = i == 0 ? 8 : 0;
            cvy_alloc_fail_at(k);
            status = run(importers[i], &options, &result);
            cvy_alloc_fail_at(-1);
            if (status != CVY_OK) discard_if_whole();
            cvy_alloc_count(&after);
            assert_int_equal(after.n_live, before.n_live);
        }
        assert_ok(status);
        assert_true(k > 10);
        assert_ok(cvy_file_remove_tree(in("out.lmdb")));
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(registry_is_complete),
        cvy_unit_test(images_keep_their_bytes_and_sorted_labels),
        cvy_unit_test(images_order_follows_the_seed),
        cvy_unit_test(images_as_pixels_are_resized_and_counted),
        cvy_unit_test(bad_image_is_skipped_or_fails),
        cvy_unit_test(images_limit_and_classes_file_are_kept),
        cvy_unit_test(wrong_image_folders_are_refused),
        cvy_unit_test(stopped_import_leaves_nothing),
        cvy_unit_test(existing_destination_is_refused),
        cvy_unit_test(cifar_folder_joins_its_batches_in_order),
        cvy_unit_test(cifar_file_may_be_of_either_kind),
        cvy_unit_test(wrong_cifar_files_are_refused),
        cvy_unit_test(idx_of_all_dimensions_is_read),
        cvy_unit_test(idx_of_wider_types_becomes_floats),
        cvy_unit_test(idx_set_is_chosen_by_the_beginning_of_its_names),
        cvy_unit_test(wrong_idx_files_are_refused_with_numbers),
        cvy_unit_test(raw_records_are_resized_where_they_can_be),
        cvy_unit_test(failed_allocation_leaves_all_or_nothing),
    };
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
