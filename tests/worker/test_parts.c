#include "base/alloc.h"
#include "base/log.h"
#include "base/node.h"
#include "dataset/store.h"
#include "tests/support/test_support.h"
#include "worker/parts.h"

#include <stdio.h>
#include <string.h>

/* Parts of small jobs on datasets made here, and what is wrong with a job that its file alone does
 * not show. */

enum { SIDE = 28, TRAIN = 40, VAL = 10, CLASSES = 4 };

static char train_path[512], val_path[512];

static void make_dataset(const char *path, int64_t n, int n_classes, int64_t channels)
{
    static uint8_t pixels[3 * SIDE * SIDE];
    const dataset_writer_options options = {.n_classes = n_classes};
    dataset_writer *writer = NULL;

    assert_ok(dataset_writer_create(path, &options, &writer));
    for (int64_t i = 0; i < n; i++) {
        const dataset_datum datum = {.channels = channels,
                                     .height = SIDE,
                                     .width = SIDE,
                                     .label = (int32_t)(i % n_classes),
                                     .has_label = 1,
                                     .data = pixels,
                                     .data_bytes = (size_t)(channels * SIDE * SIDE)};
        memset(pixels, (int)(i * 5 % 256), sizeof pixels);
        assert_ok(dataset_writer_put(writer, &datum));
    }
    for (int c = 0; c < channels; c++) dataset_writer_add_stat(writer, c, 1000, 400, 200);
    assert_ok(dataset_writer_commit(&writer));
}

static int make_datasets(void **state)
{
    const int failed = test_log_open(state);

    snprintf(train_path, sizeof train_path, "%s/train.lmdb", test_folder());
    snprintf(val_path, sizeof val_path, "%s/val.lmdb", test_folder());
    make_dataset(train_path, TRAIN, CLASSES, 1);
    make_dataset(val_path, VAL, CLASSES, 1);
    return failed;
}

typedef struct small_job {
    cvy_node *root;
    cvy_job job;
} small_job;

/* The job of the tests; sets: NULL-terminated assignments on top. */
static void open_job(const char *const *sets, small_job *out)
{
    char text[2048], set[600];
    const int n = snprintf(text, sizeof text,
                           "name: small\nmodel: {arch: lenet5}\n"
                           "data: {train: {path: none}, val: {path: none}}\n"
                           "replicas: 2\nminibatch: 4\nepochs: 3\n"
                           "optimizer: {type: sgd, momentum: 0.9}\n"
                           "schedule: {type: constant, lr: 0.1}\n");

    out->root = NULL;
    assert_ok(cvy_node_parse(text, (size_t)n, "small.yaml", &out->root));
    snprintf(set, sizeof set, "data.train.path=%s", train_path);
    assert_ok(cvy_node_set(out->root, set));
    snprintf(set, sizeof set, "data.val.path=%s", val_path);
    assert_ok(cvy_node_set(out->root, set));
    for (; *sets != NULL; sets++) assert_ok(cvy_node_set(out->root, *sets));
    assert_ok(cvy_job_read(out->root, &out->job));
}

/* A job and its parts. */
typedef struct made {
    small_job job;
    worker_parts *parts;
} made;

static cvy_status make_parts(made *m, int is_evaluation, const char *const *sets)
{
    const worker_parts_options options = {.is_quiet = 1, .is_evaluation = is_evaluation};

    open_job(sets, &m->job);
    return worker_parts_create(m->job.root, &m->job.job, &options, &m->parts);
}

static void close_parts(made *m)
{
    worker_parts_destroy(&m->parts);
    assert_null(m->parts);
    worker_parts_destroy(&m->parts); /* nothing: nothing happens */
    cvy_node_destroy(&m->job.root);
}

#define PARTS(m, ...) make_parts((m), 0, (const char *const[]){__VA_ARGS__, NULL})

static void assert_refused(cvy_status status, cvy_status expected, made *m)
{
    assert_status(status, expected);
    assert_null(m->parts);
    cvy_node_destroy(&m->job.root);
}

static void steps_follow_from_records_and_global_batch(void **state)
{
    made m;

    (void)state;
    assert_ok(PARTS(&m, "seed=1"));
    assert_int_equal(m.parts->n_train, TRAIN);
    assert_int_equal(m.parts->n_val, VAL);
    assert_int_equal(m.parts->n_classes, CLASSES);
    assert_int_equal(m.parts->global_batch, 8);
    assert_int_equal(m.parts->steps_per_epoch, 5);
    assert_int_equal(m.parts->total_steps, 15);
    assert_int_equal(nn_graph_minibatch(m.parts->train_graph), 4);
    close_parts(&m);

    assert_ok(PARTS(&m, "minibatch=3", "evaluate.minibatch=7"));
    assert_int_equal(m.parts->steps_per_epoch, 6); /* 40 / 6, the partial one is dropped */
    assert_int_equal(nn_graph_minibatch(m.parts->eval_graph), 7);
    close_parts(&m);
}

static void classes_may_be_given_but_not_too_few(void **state)
{
    made m;

    (void)state;
    assert_ok(PARTS(&m, "model.classes=9"));
    assert_int_equal(m.parts->n_classes, 9);
    close_parts(&m);
    test_log_expect("classes is 3, but");
    assert_refused(PARTS(&m, "model.classes=3"), CVY_ERR_CONFIG, &m);
    test_log_expect("classes is 'many', expected an integer");
    assert_refused(PARTS(&m, "model.classes=many"), CVY_ERR_CONFIG, &m);
}

static void global_batch_beyond_the_records_is_refused(void **state)
{
    made m;

    (void)state;
    test_log_expect("has 40 records, fewer than one global batch of 2 replicas x 21 images");
    assert_refused(PARTS(&m, "minibatch=21"), CVY_ERR_BAD_DATA, &m);
}

static void missing_dataset_is_named(void **state)
{
    made m;

    (void)state;
    test_log_expect("/nowhere.lmdb");
    assert_refused(PARTS(&m, "data.train.path=/nowhere.lmdb"), CVY_ERR_NOT_FOUND, &m);
}

static void sets_of_other_channels_do_not_go_together(void **state)
{
    made m;
    char path[512], set[600];

    (void)state;
    snprintf(path, sizeof path, "%s/colour.lmdb", test_folder());
    make_dataset(path, VAL, CLASSES, 3);
    snprintf(set, sizeof set, "data.val.path=%s", path);
    test_log_expect("channel");
    assert_refused(PARTS(&m, set), CVY_ERR_CONFIG, &m);
}

static void evaluation_needs_the_validation_set_and_how_to_normalise(void **state)
{
    static const char *const told[] = {"data.train.path=/nowhere.lmdb", "data.mean=0.5",
                                       "data.deviation=0.25", NULL};
    static const char *const untold[] = {"data.train.path=/nowhere.lmdb", NULL};
    static const char *const without[] = {"seed=1", NULL};
    made m;

    (void)state;
    assert_ok(make_parts(&m, 1, without));
    assert_null(m.parts->train_graph);
    assert_null(m.parts->optimizer);
    assert_non_null(m.parts->eval_graph);
    close_parts(&m);
    assert_ok(make_parts(&m, 1, told));
    assert_int_equal(m.parts->n_val, VAL);
    close_parts(&m);
    test_log_expect("only the training set tells how to normalise");
    assert_status(make_parts(&m, 1, untold), CVY_ERR_NOT_FOUND);
    cvy_node_destroy(&m.job.root);
}

static void normalisation_becomes_part_of_the_job(void **state)
{
    static const char *const sets[] = {NULL};
    const worker_parts_options options = {.is_quiet = 1};
    worker_parts *parts = NULL;
    small_job job, again;
    char *text = NULL;

    (void)state;
    open_job(sets, &job);
    assert_ok(worker_parts_create(job.root, &job.job, &options, &parts));
    assert_ok(cvy_node_print(job.root, &text));
    again.root = NULL;
    assert_ok(cvy_node_parse(text, strlen(text), "resolved", &again.root));
    assert_ok(cvy_job_read(again.root, &again.job));
    assert_int_equal(again.job.data.mean.n, 1);
    assert_int_equal(again.job.data.deviation.n, 1);
    assert_true(again.job.data.mean.value[0] > 0);
    const cvy_node *classes = cvy_node_find(cvy_node_find(again.root, "model"), "classes");
    assert_string_equal(cvy_node_text(classes), "4");
    cvy_free(text);
    worker_parts_destroy(&parts);
    cvy_node_destroy(&again.root);
    cvy_node_destroy(&job.root);
}

static void failed_allocation_is_told_and_leaks_nothing(void **state)
{
    static const char *const sets[] = {NULL};
    const worker_parts_options options = {.is_quiet = 1};
    cvy_status status = CVY_ERR_NO_MEMORY;
    int n_failures = 0;

    (void)state;
    for (int64_t k = 0; status != CVY_OK; k++) {
        cvy_alloc_counts before, after;
        worker_parts *parts = NULL;
        small_job job;
        char reason[256];

        cvy_alloc_count(&before);
        open_job(sets, &job);
        cvy_log_catch(reason, sizeof reason);
        cvy_alloc_fail_at(k);
        status = worker_parts_create(job.root, &job.job, &options, &parts);
        cvy_alloc_fail_at(-1);
        cvy_log_catch(NULL, 0);
        if (status != CVY_OK) {
            n_failures++;
            assert_status(status, CVY_ERR_NO_MEMORY);
            assert_null(parts);
            assert_true(reason[0] != 0); /* said once */
        }
        worker_parts_destroy(&parts);
        cvy_node_destroy(&job.root);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
    assert_true(n_failures > 20);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(steps_follow_from_records_and_global_batch),
    cvy_unit_test(classes_may_be_given_but_not_too_few),
    cvy_unit_test(global_batch_beyond_the_records_is_refused),
    cvy_unit_test(missing_dataset_is_named),
    cvy_unit_test(sets_of_other_channels_do_not_go_together),
    cvy_unit_test(evaluation_needs_the_validation_set_and_how_to_normalise),
    cvy_unit_test(normalisation_becomes_part_of_the_job),
    cvy_unit_test(failed_allocation_is_told_and_leaks_nothing),
};

int main(void)
{
    return cmocka_run_group_tests(tests, make_datasets, test_log_close);
}
