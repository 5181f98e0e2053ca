#include "launch/stepper.h"
#include "tests/support/test_support.h"

#include "base/alloc.h"

#include <math.h>
#include <string.h>

static const launch_stepper_options lenet = {.arch = "lenet5",
                                             .backend = "cpu",
                                             .image = {.n_dims = 3, .dim = {1, 28, 28}},
                                             .classes = 10,
                                             .minibatch = 2,
                                             .threads = 2,
                                             .is_training = 1};

/* Profiling splits a backward pass in two calls of the backend: that must not show in the bits. */
static void profile_leaves_the_bits_alone(void **state)
{
    launch_step_figures plain, profiled;
    launch_stepper s;

    (void)state;
    assert_ok(launch_stepper_open(&lenet, &s));
    assert_ok(launch_stepper_measure(&s, 3, &plain));
    launch_stepper_close(&s);
    assert_ok(launch_stepper_open(&lenet, &s));
    assert_ok(launch_stepper_step(&s));
    assert_ok(launch_stepper_start_profile(&s));
    assert_ok(launch_stepper_measure(&s, 2, &profiled));
    assert_string_equal(profiled.weights_xxh3, plain.weights_xxh3);
    launch_stepper_close(&s);
}

static void profile_tells_the_passes_apart(void **state)
{
    launch_step_figures figures;
    launch_table table;
    launch_stepper s;

    (void)state;
    assert_ok(launch_stepper_open(&lenet, &s));
    assert_ok(launch_stepper_start_profile(&s));
    assert_ok(launch_stepper_measure(&s, 2, &figures));
    assert_ok(launch_stepper_table(&s, figures.time_s.mean, &table));
    for (int i = 0; i < table.n_rows; i++) {
        const launch_table_row *row = &table.rows[i];
        const int has_filter = strcmp(row->type, "conv2d") == 0 || strcmp(row->type, "dense") == 0;
        assert_true(row->pass[LAUNCH_FORWARD].time_s > 0);
        assert_int_equal(row->pass[LAUNCH_BACKWARD_FILTER].time_s > 0, has_filter);
        assert_int_equal(row->pass[LAUNCH_BACKWARD_DATA].time_s > 0, i > 0); /* not of images */
    }
    assert_true(table.update.time_s > 0);
    assert_true(launch_table_rest_s(&table) > 0); /* all clocks tick within the step's */
    launch_table_free(&table);
    launch_stepper_close(&s);
}

static void evaluation_has_no_backward_pass_and_no_update(void **state)
{
    launch_stepper_options options = lenet;
    launch_step_figures figures;
    launch_table table;
    launch_stepper s;

    (void)state;
    options.is_training = 0;
    assert_ok(launch_stepper_open(&options, &s));
    assert_ok(launch_stepper_start_profile(&s));
    assert_ok(launch_stepper_measure(&s, 1, &figures));
    assert_ok(launch_stepper_table(&s, figures.time_s.mean, &table));
    assert_int_equal(figures.multiply_adds, 2 * 416520);
    for (int i = 0; i < table.n_rows; i++) {
        const int is_loss = i == table.n_rows - 1; /* without labels it does not run */
        assert_int_equal(table.rows[i].pass[LAUNCH_FORWARD].time_s > 0, !is_loss);
        assert_true(table.rows[i].pass[LAUNCH_BACKWARD_DATA].time_s == 0);
        assert_true(table.rows[i].pass[LAUNCH_BACKWARD_FILTER].time_s == 0);
    }
    assert_true(table.update.time_s == 0);
    launch_table_free(&table);
    launch_stepper_close(&s);
}

static void model_section_of_a_job_is_built(void **state)
{
    static const char text[] = "{net: [{type: flatten}, {type: dense, out: 4}], classes: 4}";
    launch_stepper_options options = lenet;
    launch_step_figures figures;
    cvy_node *model = NULL;
    launch_stepper s;

    (void)state;
    assert_ok(cvy_node_parse(text, sizeof text - 1, "test", &model));
    options.model = model;
    options.classes = 0;
    assert_ok(launch_stepper_open(&options, &s));
    assert_ok(launch_stepper_measure(&s, 1, &figures));
    assert_int_equal(figures.multiply_adds, 2 * 2 * 784 * 4); /* forward and filter, two images */
    launch_stepper_close(&s);
    cvy_node_destroy(&model);
}

static cvy_status whole_measurement(const launch_stepper_options *options)
{
    launch_step_figures figures;
    launch_table table = {0};
    launch_stepper s;
    cvy_status status = launch_stepper_open(options, &s);

    if (status == CVY_OK) status = launch_stepper_start_profile(&s);
    if (status == CVY_OK) status = launch_stepper_measure(&s, 1, &figures);
    if (status == CVY_OK) status = launch_stepper_table(&s, figures.time_s.mean, &table);
    launch_table_free(&table);
    launch_stepper_close(&s);
    return status;
}

static void missing_memory_is_told_and_nothing_leaks(void **state)
{
    launch_stepper_options options = lenet;
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;
    int64_t k = 0;

    (void)state;
    options.backend = "ref";
    options.minibatch = 1;
    test_log_expect("out of memory");
    cvy_alloc_count(&before);
    for (; status != CVY_OK; k++) {
        cvy_alloc_fail_at(k);
        status = whole_measurement(&options);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
        assert_true(k < 1000);
    }
    assert_true(k > 10);
}

static void spread_of_values(void **state)
{
    double odd[] = {3, 1, 2}, even[] = {4, 1, 3, 2};

    (void)state;
    launch_spread spread = launch_spread_of(odd, 3);
    assert_true(spread.median == 2 && spread.mean == 2 && spread.min == 1 && spread.max == 3);
    spread = launch_spread_of(even, 4);
    assert_true(spread.median == 2.5 && spread.mean == 2.5 && spread.min == 1 && spread.max == 4);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(profile_leaves_the_bits_alone),
    cvy_unit_test(profile_tells_the_passes_apart),
    cvy_unit_test(evaluation_has_no_backward_pass_and_no_update),
    cvy_unit_test(model_section_of_a_job_is_built),
    cvy_unit_test(missing_memory_is_told_and_nothing_leaks),
    cvy_unit_test(spread_of_values),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
