#include "tests/support/test_support.h"

#include "dataset/loader.h"
#include "dataset/sampler.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"

#include <math.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SIDE      6
#define N_RECORDS 50
#define ELEMS     (3 * SIDE * SIDE)

/* Records whose bytes tell their number; is_bad(i) ones are encoded and no JPEG. */
typedef int (*badness)(int64_t record);

static int none_is_bad(int64_t record)
{
    (void)record;
    return 0;
}

static int some_are_bad(int64_t record)
{
    return record == 7 || record == 8 || record == N_RECORDS - 1;
}

static int all_are_bad(int64_t record)
{
    (void)record;
    return 1;
}

static void write_dataset(const char *path, badness is_bad)
{
    const dataset_writer_options options = {.n_classes = 10, .source = "test"};
    dataset_writer *writer = NULL;
    uint8_t pixels[ELEMS];

    assert_ok(dataset_writer_create(path, &options, &writer));
    for (int64_t i = 0; i < N_RECORDS; i++) {
        dataset_datum datum = {.channels = 3,
                               .height = SIDE,
                               .width = SIDE,
                               .label = (int32_t)(i % 10),
                               .has_label = 1,
                               .data = pixels,
                               .data_bytes = sizeof pixels};
        for (int k = 0; k < ELEMS; k++) pixels[k] = (uint8_t)(i + k);
        if (is_bad(i)) {
            datum.is_encoded = 1;
            datum.data_bytes = 20;
        }
        assert_ok(dataset_writer_put(writer, &datum));
    }
    assert_ok(dataset_writer_commit(&writer));
}

typedef struct rig {
    char *path;
    dataset_store *store;
    dataset_pipeline *pipeline;
    cvy_node *list;
} rig;

static void rig_open(rig *r, const char *name, badness is_bad, const char *steps)
{
    const dataset_store_options options = {.is_quiet = 1};
    cvy_job_input input = {.max_pixels = 1 << 20};
    dataset_info info;

    *r = (rig){.path = cvy_path_join(test_folder(), name)};
    assert_ok(cvy_file_remove_tree(r->path));
    write_dataset(r->path, is_bad);
    assert_ok(dataset_store_open(r->path, &options, &r->store));
    input.mean = (cvy_real_list){.n = 1, .value = {0.0}};
    input.deviation = (cvy_real_list){.n = 1, .value = {1.0 / 255.0}};
    info = *dataset_store_info(r->store);
    info.channels = 3;
    info.height = info.width = SIDE;
    if (steps != NULL) assert_ok(cvy_node_parse(steps, strlen(steps), "job.yaml", &r->list));
    assert_ok(dataset_pipeline_create(r->list, &input, &info, &r->pipeline));
}

static void rig_close(rig *r)
{
    dataset_pipeline_destroy(&r->pipeline);
    dataset_store_close(&r->store);
    cvy_node_destroy(&r->list);
    cvy_free(r->path);
}

/* Minibatches of 8 over 3 epochs in shuffled order; the last is shorter. */
#define MINIBATCH 8
#define N_ALL     (3 * N_RECORDS)
static int64_t shuffled_plan(const void *arg, int64_t k, dataset_item *items)
{
    const dataset_sampler *sampler = arg;
    int64_t n = 0;

    for (int64_t at = k * MINIBATCH; n < MINIBATCH && at < N_ALL; at++) {
        const int64_t epoch = at / N_RECORDS, position = at % N_RECORDS;
        items[n++] = (dataset_item){.record = dataset_sampler_record(sampler, epoch, position),
                                    .epoch = epoch,
                                    .position = position};
    }
    return n;
}

/* Each record once, in order. */
static int64_t plain_plan(const void *arg, int64_t k, dataset_item *items)
{
    int64_t n = 0;

    (void)arg;
    for (int64_t at = k * MINIBATCH; n < MINIBATCH && at < N_RECORDS; at++) {
        items[n++] = (dataset_item){.record = at, .position = at};
    }
    return n;
}

static const dataset_sampler sampler = {.seed = 3, .n = N_RECORDS};
static const dataset_loader_options usual = {
    .minibatch = MINIBATCH, .n_threads = 2, .read_ahead = 2, .seed = 3, .substitute_bad = 1};

static void take(dataset_loader *loader, dataset_batch *out)
{
    int is_ready = 0;

    assert_ok(dataset_loader_next(loader, INFINITY, out, &is_ready));
    assert_true(is_ready);
}

/* All that a loader gives, in one array. */
static int64_t collect(rig *r, const dataset_loader_options *options, float *images,
                       int32_t *labels)
{
    dataset_loader *loader = NULL;
    dataset_batch batch;
    int64_t n = 0;

    assert_ok(
        dataset_loader_create(r->store, r->pipeline, options, shuffled_plan, &sampler, &loader));
    for (take(loader, &batch); batch.n > 0; take(loader, &batch)) {
        assert_int_equal((uintptr_t)batch.images % CVY_ALIGN_BYTES, 0);
        memcpy(images + n * ELEMS, batch.images, (size_t)(batch.n * ELEMS) * sizeof *images);
        memcpy(labels + n, batch.labels, (size_t)batch.n * sizeof *labels);
        n += batch.n;
    }
    take(loader, &batch); /* the end stays the end */
    assert_int_equal(batch.n, 0);
    dataset_loader_destroy(&loader);
    assert_null(loader);
    return n;
}

static void batches_depend_on_the_plan_alone(void **state)
{
    (void)state;
    static const struct {
        int n_threads, read_ahead;
    } cases[] = {{1, 1}, {2, 1}, {1, 4}, {3, 2}, {4, 30}};
    static float first[N_ALL * ELEMS], other[N_ALL * ELEMS];
    static int32_t first_labels[N_ALL], other_labels[N_ALL];
    rig r;

    rig_open(&r, "plan", some_are_bad, "[{pad_crop: 2}, {flip: 0.5}]");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        dataset_loader_options options = usual;
        options.n_threads = cases[i].n_threads;
        options.read_ahead = cases[i].read_ahead;
        float *images = i == 0 ? first : other;
        int32_t *labels = i == 0 ? first_labels : other_labels;
        assert_int_equal(collect(&r, &options, images, labels), N_ALL);
        assert_memory_equal(images, first, sizeof first);
        assert_memory_equal(labels, first_labels, sizeof first_labels);
    }
    rig_close(&r);
}

static void batch_holds_the_records_of_the_plan(void **state)
{
    (void)state;
    rig r;
    dataset_loader *loader = NULL;
    dataset_batch batch;
    int64_t at = 0;

    rig_open(&r, "records", none_is_bad, NULL);
    assert_ok(dataset_loader_create(r.store, r.pipeline, &usual, plain_plan, NULL, &loader));
    for (take(loader, &batch); batch.n > 0; take(loader, &batch)) {
        for (int64_t i = 0; i < batch.n; i++, at++) {
            assert_int_equal(batch.records[i], at);
            assert_int_equal(batch.labels[i], at % 10);
            assert_int_equal(batch.is_bad[i], 0);
            for (int k = 0; k < ELEMS; k++) {
                const double want = (uint8_t)(at + k);
                assert_true(fabs((double)batch.images[i * ELEMS + k] - want) < 1e-3);
            }
        }
    }
    assert_int_equal(at, N_RECORDS);
    dataset_loader_destroy(&loader);
    rig_close(&r);
}

static void bad_record_is_replaced_by_the_next_good_one(void **state)
{
    (void)state;
    rig r;
    dataset_loader *loader = NULL;
    dataset_batch batch;
    dataset_bad_record bad[8];
    int64_t at = 0;

    rig_open(&r, "replaced", some_are_bad, NULL);
    assert_ok(dataset_loader_create(r.store, r.pipeline, &usual, plain_plan, NULL, &loader));
    for (take(loader, &batch); batch.n > 0; take(loader, &batch)) {
        for (int64_t i = 0; i < batch.n; i++, at++) {
            const int64_t want = at == 7 || at == 8 ? 9 : at == N_RECORDS - 1 ? 0 : at;
            assert_int_equal(batch.records[i], at); /* asked for */
            assert_int_equal(batch.labels[i], want % 10);
            assert_true(fabs((double)batch.images[i * ELEMS] - (double)want) < 1e-3);
            assert_int_equal(batch.is_bad[i], 0);
        }
    }
    assert_int_equal(dataset_loader_take_bad(loader, 2, bad), 2);
    assert_int_equal(dataset_loader_take_bad(loader, 6, bad + 2), 1);
    assert_int_equal(dataset_loader_take_bad(loader, 8, bad), 0);
    assert_int_equal(bad[0].record + bad[1].record + bad[2].record, 7 + 8 + N_RECORDS - 1);
    assert_non_null(strstr(bad[0].reason, "neither JPEG nor PNG"));
    dataset_loader_destroy(&loader);
    rig_close(&r);
}

static void bad_record_is_left_out_when_not_to_be_replaced(void **state)
{
    (void)state;
    rig r;
    dataset_loader *loader = NULL;
    dataset_loader_options options = usual;
    dataset_batch batch;
    int64_t at = 0;

    options.substitute_bad = 0;
    rig_open(&r, "left-out", some_are_bad, NULL);
    assert_ok(dataset_loader_create(r.store, r.pipeline, &options, plain_plan, NULL, &loader));
    for (take(loader, &batch); batch.n > 0; take(loader, &batch)) {
        for (int64_t i = 0; i < batch.n; i++, at++) {
            assert_int_equal(batch.is_bad[i], some_are_bad(at));
            if (!some_are_bad(at)) continue;
            assert_int_equal(batch.labels[i], 0);
            for (int k = 0; k < ELEMS; k++) assert_true(batch.images[i * ELEMS + k] == 0.0f);
        }
    }
    dataset_loader_destroy(&loader);
    rig_close(&r);
}

static void dataset_without_a_good_record_fails(void **state)
{
    (void)state;
    rig r;
    dataset_loader *loader = NULL;
    dataset_batch batch;
    dataset_bad_record bad[N_RECORDS + 1];
    int is_ready = 0;

    rig_open(&r, "all-bad", all_are_bad, NULL);
    test_log_expect("none of its 50 records is good (one: neither JPEG nor PNG");
    assert_ok(dataset_loader_create(r.store, r.pipeline, &usual, plain_plan, NULL, &loader));
    assert_status(dataset_loader_next(loader, INFINITY, &batch, &is_ready), CVY_ERR_BAD_DATA);
    assert_status(dataset_loader_next(loader, 0.0, &batch, &is_ready), CVY_ERR_BAD_DATA);
    assert_int_equal(dataset_loader_take_bad(loader, N_RECORDS + 1, bad), N_RECORDS);
    dataset_loader_destroy(&loader);
    rig_close(&r);
}

static void next_without_waiting_only_looks(void **state)
{
    (void)state;
    rig r;
    dataset_loader *loader = NULL;
    dataset_batch batch;
    const cvy_deadline deadline = cvy_deadline_in_s(20.0);
    int is_ready = 0;

    rig_open(&r, "polled", none_is_bad, NULL);
    assert_ok(dataset_loader_create(r.store, r.pipeline, &usual, plain_plan, NULL, &loader));
    while (!is_ready && !cvy_deadline_is_past(deadline)) {
        assert_ok(dataset_loader_next(loader, 0.0, &batch, &is_ready));
    }
    assert_true(is_ready);
    assert_int_equal(batch.n, MINIBATCH);
    dataset_loader_destroy(&loader);
    rig_close(&r);
}

static void destroy_before_the_end_stops_the_threads(void **state)
{
    (void)state;
    rig r;

    rig_open(&r, "stopped", none_is_bad, NULL);
    for (int n_taken = 0; n_taken < 4; n_taken++) {
        dataset_loader *loader = NULL;
        dataset_batch batch;
        assert_ok(
            dataset_loader_create(r.store, r.pipeline, &usual, shuffled_plan, &sampler, &loader));
        for (int i = 0; i < n_taken; i++) take(loader, &batch);
        dataset_loader_destroy(&loader);
    }
    rig_close(&r);
}

static void steady_state_allocates_nothing(void **state)
{
    (void)state;
    rig r;
    dataset_loader *loader = NULL;
    dataset_loader_options options = usual;
    dataset_batch batch;
    cvy_alloc_counts before, after;

    options.n_threads = 1; /* so that its scratch is warm after the first batches */
    rig_open(&r, "steady", none_is_bad, "[{pad_crop: 2}, {flip: 0.5}, {resize: 6}]");
    assert_ok(
        dataset_loader_create(r.store, r.pipeline, &options, shuffled_plan, &sampler, &loader));
    for (int i = 0; i < 4; i++) take(loader, &batch);
    cvy_alloc_count(&before);
    while (batch.n > 0) take(loader, &batch);
    cvy_alloc_count(&after);
    assert_int_equal(after.n_ever, before.n_ever);
    dataset_loader_destroy(&loader);
    rig_close(&r);
}

static void impossible_options_are_refused(void **state)
{
    (void)state;
    rig r;
    dataset_loader *loader = NULL;
    dataset_loader_options options = usual;

    rig_open(&r, "options", none_is_bad, NULL);
    options.n_threads = 0;
    test_log_expect("loader of minibatch 8 with 0 threads");
    assert_status(dataset_loader_create(r.store, r.pipeline, &options, plain_plan, NULL, &loader),
                  CVY_ERR_INVALID_ARG);
    assert_null(loader);
    rig_close(&r);
}

static void signals_go_to_the_caller(void **state)
{
    (void)state;
    rig r;
    dataset_loader *loader = NULL;
    sigset_t set, pending, before;

    /* With the signal blocked here, a loader thread that did not block it would take it. */
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    rig_open(&r, "signals", none_is_bad, NULL);
    assert_ok(dataset_loader_create(r.store, r.pipeline, &usual, plain_plan, NULL, &loader));
    assert_int_equal(pthread_sigmask(SIG_BLOCK, &set, &before), 0);
    assert_int_equal(kill(getpid(), SIGUSR1), 0);
    assert_int_equal(sigpending(&pending), 0);
    assert_int_equal(sigismember(&pending, SIGUSR1), 1);
    const struct timespec none = {0};
    assert_int_equal(sigtimedwait(&set, NULL, &none), SIGUSR1);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
    dataset_loader_destroy(&loader);
    rig_close(&r);
}

static void failed_allocation_reports_no_memory(void **state)
{
    (void)state;
    rig r;
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;
    int k = 0;

    rig_open(&r, "memory", none_is_bad, NULL);
    test_log_expect("(out of memory)"); /* stands for every line */
    cvy_alloc_count(&before);
    for (; status == CVY_ERR_NO_MEMORY; k++) {
        dataset_loader *loader = NULL;
        cvy_alloc_fail_at(k);
        status = dataset_loader_create(r.store, r.pipeline, &usual, plain_plan, NULL, &loader);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) assert_null(loader);
        dataset_loader_destroy(&loader);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
    assert_ok(status);
    assert_true(k > 10);
    rig_close(&r);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(batches_depend_on_the_plan_alone),
        cvy_unit_test(batch_holds_the_records_of_the_plan),
        cvy_unit_test(bad_record_is_replaced_by_the_next_good_one),
        cvy_unit_test(bad_record_is_left_out_when_not_to_be_replaced),
        cvy_unit_test(dataset_without_a_good_record_fails),
        cvy_unit_test(next_without_waiting_only_looks),
        cvy_unit_test(destroy_before_the_end_stops_the_threads),
        cvy_unit_test(steady_state_allocates_nothing),
        cvy_unit_test(impossible_options_are_refused),
        cvy_unit_test(signals_go_to_the_caller),
        cvy_unit_test(failed_allocation_reports_no_memory),
    };
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
