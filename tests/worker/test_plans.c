#include "base/alloc.h"
#include "comm/reduce.h"
#include "tests/support/test_support.h"
#include "worker/worker_internal.h"

#include <string.h>

/* Who computes which record: whatever the number of workers, each sample of a step and each record
 * of an evaluation has exactly one place. */

enum { REPLICAS = 7, MINIBATCH = 3, GLOBAL_BATCH = REPLICAS * MINIBATCH, RECORDS = 100 };
enum { STEPS_PER_EPOCH = RECORDS / GLOBAL_BATCH };

static worker_train_plan plan_of(int n_workers, int worker_idx, int64_t start_step)
{
    worker_train_plan plan = {.sampler = {.seed = 5, .n = RECORDS},
                              .start_step = start_step,
                              .minibatch = MINIBATCH,
                              .global_batch = GLOBAL_BATCH,
                              .steps_per_epoch = STEPS_PER_EPOCH};
    comm_replica_range(REPLICAS, n_workers, worker_idx, &plan.first_replica, &plan.n_replicas);
    return plan;
}

/* All items of a step in replica order, as n_workers workers that started at start_step see them.
 */
static void items_of_step(int n_workers, int64_t start_step, int64_t step,
                          dataset_item out[GLOBAL_BATCH])
{
    for (int w = 0; w < n_workers; w++) {
        const worker_train_plan plan = plan_of(n_workers, w, start_step);
        for (int64_t i = 0; i < plan.n_replicas; i++) {
            const int64_t k = (step - start_step) * plan.n_replicas + i;
            dataset_item *items = out + (plan.first_replica + i) * MINIBATCH;
            assert_int_equal(worker_nth_training(&plan, k, items), MINIBATCH);
        }
    }
}

static void samples_of_a_step_do_not_depend_on_workers_or_start(void **state)
{
    dataset_item expected[GLOBAL_BATCH], got[GLOBAL_BATCH];

    (void)state;
    for (int64_t step = 0; step < 3 * STEPS_PER_EPOCH; step++) {
        items_of_step(1, 0, step, expected);
        for (int n_workers = 1; n_workers <= REPLICAS; n_workers++) {
            for (int64_t start = 0; start <= step; start++) { /* resumed there */
                memset(got, 0xff, sizeof got);
                items_of_step(n_workers, start, step, got);
                assert_memory_equal(got, expected, sizeof got);
            }
        }
    }
}

static void epoch_takes_each_record_at_most_once(void **state)
{
    dataset_item items[GLOBAL_BATCH];

    (void)state;
    for (int64_t epoch = 0; epoch < 4; epoch++) {
        int n_taken[RECORDS] = {0}, n_all = 0;
        for (int64_t i = 0; i < STEPS_PER_EPOCH; i++) {
            items_of_step(3, 0, epoch * STEPS_PER_EPOCH + i, items);
            for (int64_t k = 0; k < GLOBAL_BATCH; k++) {
                assert_in_range(items[k].record, 0, RECORDS - 1);
                assert_int_equal(items[k].epoch, epoch);
                assert_int_equal(items[k].position, i * GLOBAL_BATCH + k);
                assert_int_equal(n_taken[items[k].record]++, 0);
                n_all++;
            }
        }
        assert_int_equal(n_all, STEPS_PER_EPOCH * GLOBAL_BATCH); /* the partial batch is dropped */
    }
}

static void epochs_are_shuffled_differently(void **state)
{
    dataset_item first[GLOBAL_BATCH], second[GLOBAL_BATCH];
    int n_same = 0;

    (void)state;
    items_of_step(1, 0, 0, first);
    items_of_step(1, 0, STEPS_PER_EPOCH, second);
    for (int k = 0; k < GLOBAL_BATCH; k++) n_same += first[k].record == second[k].record;
    assert_true(n_same < GLOBAL_BATCH / 2);
}

static void check_evaluation(int64_t n_records, int64_t minibatch, int n_workers)
{
    int *n_seen = cvy_alloc_zero((size_t)n_records, sizeof *n_seen);
    dataset_item items[64];

    assert_non_null(n_seen);
    for (int w = 0; w < n_workers; w++) {
        const worker_evaluate_plan plan = {
            .n_records = n_records, .minibatch = minibatch, .n_workers = n_workers, .worker = w};
        for (int64_t k = 0;; k++) {
            const int64_t n = worker_nth_evaluation(&plan, k, items);
            if (n == 0) break;
            /* Batches lie where they lie at one worker, so that their figures have the same bits.
             */
            assert_int_equal(items[0].record % minibatch, 0);
            assert_true(n == minibatch || items[n - 1].record == n_records - 1);
            for (int64_t i = 0; i < n; i++) {
                assert_int_equal(items[i].record, items[0].record + i);
                assert_int_equal(items[i].position, items[i].record);
                assert_int_equal(items[i].epoch, 0);
                n_seen[items[i].record]++;
            }
        }
        assert_int_equal(worker_nth_evaluation(&plan, INT64_C(1) << 40, items), 0);
    }
    for (int64_t i = 0; i < n_records; i++) assert_int_equal(n_seen[i], 1);
    cvy_free(n_seen);
}

static void evaluation_takes_each_record_once(void **state)
{
    static const int64_t sizes[] = {1, 2, 31, 32, 33, 64, 100, 1007};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (int n_workers = 1; n_workers <= 9; n_workers++) {
            check_evaluation(sizes[i], 1, n_workers);
            check_evaluation(sizes[i], 7, n_workers);
            check_evaluation(sizes[i], 32, n_workers);
            check_evaluation(sizes[i], 64, n_workers);
        }
    }
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(samples_of_a_step_do_not_depend_on_workers_or_start),
    cvy_unit_test(epoch_takes_each_record_at_most_once),
    cvy_unit_test(epochs_are_shuffled_differently),
    cvy_unit_test(evaluation_takes_each_record_once),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
