#include "launch/ceilings.h"
#include "tests/support/test_support.h"

#include "base/alloc.h"

#include <math.h>

static void ceilings_are_measured_with_one_thread_and_with_all(void **state)
{
    launch_ceiling_meter *meter = NULL;
    launch_ceilings found = {0};

    (void)state;
    assert_ok(launch_ceilings_open(3, &meter));
    launch_ceilings_measure(meter, 1, &found);
    launch_ceilings_close(&meter);
    assert_null(meter);
    assert_int_equal(found.n_threads, 3);
    assert_true(found.vector_bits >= 128 && found.vector_bits % 128 == 0);
    assert_true(isfinite(found.gflops_one) && found.gflops_one > 0);
    assert_true(isfinite(found.gflops) && found.gflops > 0);
    assert_true(isfinite(found.gbytes_per_s_one) && found.gbytes_per_s_one > 0);
    assert_true(isfinite(found.gbytes_per_s) && found.gbytes_per_s > 0);

    json_t *object = launch_ceilings_json(&found);
    assert_int_equal(json_integer_value(json_object_get(object, "threads")), 3);
    assert_true(json_real_value(json_object_get(object, "gflops")) == found.gflops);
    assert_true(json_real_value(json_object_get(object, "triad_gbytes_per_s_one_thread")) ==
                found.gbytes_per_s_one);
    json_decref(object);
}

static void missing_memory_is_told_and_nothing_leaks(void **state)
{
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;
    int64_t k = 0;

    (void)state;
    test_log_expect("out of memory");
    cvy_alloc_count(&before);
    for (; status != CVY_OK; k++) {
        launch_ceiling_meter *meter = NULL;
        cvy_alloc_fail_at(k);
        status = launch_ceilings_open(2, &meter);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) {
            assert_status(status, CVY_ERR_NO_MEMORY);
            assert_null(meter);
        }
        launch_ceilings_close(&meter);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
        assert_true(k < 100);
    }
    assert_true(k > 5);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(ceilings_are_measured_with_one_thread_and_with_all),
    cvy_unit_test(missing_memory_is_told_and_nothing_leaks),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
