#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/node.h"
#include "nn/schedule.h"

#include <math.h>
#include <string.h>

enum { STEPS_PER_EPOCH = 10, TOTAL_STEPS = 100 };

static cvy_node *parse(const char *text)
{
    cvy_node *node = NULL;
    assert_ok(cvy_node_parse(text, strlen(text), "job.yaml", &node));
    return node;
}

static nn_schedule *create(const char *text)
{
    cvy_node *section = parse(text);
    nn_schedule *schedule = NULL;
    assert_ok(nn_schedule_create(section, STEPS_PER_EPOCH, TOTAL_STEPS, &schedule));
    cvy_node_destroy(&section); /* nothing of the schedule points into it */
    return schedule;
}

static void assert_lr(const nn_schedule *schedule, int64_t step, double expected)
{
    const double got = nn_schedule_lr(schedule, step);
    if (!(fabs(got - expected) <= 1e-12 * fabs(expected) + 1e-17)) {
        fail_msg("rate at step %lld is %.17g, expected %.17g", (long long)step, got, expected);
    }
}

static void without_section_lr_is_constant(void **state)
{
    (void)state;
    nn_schedule *schedule = NULL;
    assert_ok(nn_schedule_create(NULL, STEPS_PER_EPOCH, TOTAL_STEPS, &schedule));
    assert_lr(schedule, 0, 0.1);
    assert_lr(schedule, TOTAL_STEPS - 1, 0.1);
    nn_schedule_destroy(&schedule);
    assert_null(schedule);
    nn_schedule_destroy(&schedule);
}

static void step_drops_where_multi_step_lr_does(void **state)
{
    (void)state;
    nn_schedule *schedule = create("{type: step, lr: 0.5, milestones: [3, 7.55], gamma: 0.1}");
    assert_lr(schedule, 0, 0.5);
    assert_lr(schedule, 29, 0.5);
    assert_lr(schedule, 30, 0.05);
    assert_lr(schedule, 75, 0.05);
    assert_lr(schedule, 76, 0.005); /* the first step that is 7.55 epochs old */
    assert_lr(schedule, 99, 0.005);
    nn_schedule_destroy(&schedule);
}

static void step_takes_milestones_in_any_order_and_twice(void **state)
{
    (void)state;
    nn_schedule *schedule = create("{type: step, lr: 1, milestones: [5, 2, 5], gamma: 0.5}");
    assert_lr(schedule, 19, 1.0);
    assert_lr(schedule, 20, 0.5);
    assert_lr(schedule, 50, 0.125);
    nn_schedule_destroy(&schedule);
}

static void cosine_follows_its_formula_per_step(void **state)
{
    (void)state;
    nn_schedule *schedule = create("{type: cosine, lr: 0.2, min_lr: 0.02}");
    assert_lr(schedule, 0, 0.2);
    assert_lr(schedule, 25, 0.02 + 0.18 * (1.0 + sqrt(0.5)) / 2.0);
    assert_lr(schedule, 50, 0.11);
    assert_true(nn_schedule_lr(schedule, 1) < 0.2); /* not constant within an epoch */
    assert_true(nn_schedule_lr(schedule, 99) > 0.02);
    assert_lr(schedule, 100, 0.02);
    assert_lr(schedule, 1000, 0.02); /* stays at the end, does not rise again */
    nn_schedule_destroy(&schedule);
}

static void polynomial_follows_its_formula_per_step(void **state)
{
    (void)state;
    nn_schedule *schedule = create("{type: polynomial, lr: 2, power: 2, min_lr: 1}");
    assert_lr(schedule, 0, 2.0);
    assert_lr(schedule, 50, 1.25);
    assert_lr(schedule, 90, 1.01);
    assert_lr(schedule, 100, 1.0);
    assert_lr(schedule, 200, 1.0);
    nn_schedule_destroy(&schedule);
}

static void warmup_rises_linearly_to_lr(void **state)
{
    (void)state;
    nn_schedule *schedule = create("{lr: 1, warmup_epochs: 1, warmup_start: 0.2}");
    assert_lr(schedule, 0, 0.2);
    assert_lr(schedule, 5, 0.6);
    assert_lr(schedule, 9, 0.92);
    assert_lr(schedule, 10, 1.0);
    nn_schedule_destroy(&schedule);
}

static void warmup_of_a_fraction_of_an_epoch_counts_steps(void **state)
{
    (void)state;
    nn_schedule *schedule = create("{lr: 1, warmup_epochs: 0.25, warmup_start: 0}");
    assert_lr(schedule, 0, 0.0);
    assert_lr(schedule, 1, 0.4);
    assert_lr(schedule, 2, 0.8);
    assert_lr(schedule, 3, 1.0);
    nn_schedule_destroy(&schedule);
}

static void shape_behind_warmup_counts_from_the_start(void **state)
{
    (void)state;
    nn_schedule *schedule = create("{type: step, lr: 1, milestones: [2], warmup_epochs: 1}");
    assert_lr(schedule, 0, 0.01);
    assert_lr(schedule, 19, 1.0);
    assert_lr(schedule, 20, 0.1);
    nn_schedule_destroy(&schedule);
}

static void warmup_longer_than_training_warns(void **state)
{
    (void)state;
    test_log_expect("warm-up of 11 epochs is longer than training (10 epochs)");
    nn_schedule *schedule = create("{lr: 1, warmup_epochs: 11}");
    nn_schedule_destroy(&schedule);
}

static void defaults_become_part_of_the_section(void **state)
{
    (void)state;
    cvy_node *section = parse("{lr: 0.3}");
    nn_schedule *schedule = NULL;
    assert_ok(nn_schedule_create(section, STEPS_PER_EPOCH, TOTAL_STEPS, &schedule));
    assert_string_equal(cvy_node_text(cvy_node_find(section, "type")), "constant");
    assert_string_equal(cvy_node_text(cvy_node_find(section, "warmup_epochs")), "0");
    assert_string_equal(cvy_node_text(cvy_node_find(section, "lr")), "0.3");
    nn_schedule_destroy(&schedule);

    /* The resolved section reads back. */
    assert_ok(nn_schedule_create(section, STEPS_PER_EPOCH, TOTAL_STEPS, &schedule));
    assert_lr(schedule, 7, 0.3);
    nn_schedule_destroy(&schedule);
    cvy_node_destroy(&section);
}

static void wrong_sections_are_refused_with_place(void **state)
{
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"{type: cosin}", "job.yaml:1:8: no schedule 'cosin'; did you mean 'cosine'?"},
        {"{type: zzzzzzzz}", "no schedule 'zzzzzzzz'; expected one such as 'constant'"},
        {"{type: [a]}", "schedule.type is no word"},
        {"{type: step}", "milestones is missing"},
        {"{type: cosine, milestones: [1]}", "unknown key 'milestones'"},
        {"{lr: -1}", "job.yaml:1:6: lr is '-1'"},
        {"{lr: 0.1, warmup: 5}", "unknown key 'warmup'"},
        {"cosine", "expected a mapping"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cvy_node *section = parse(cases[i].text);
        nn_schedule *schedule = NULL;
        test_log_expect(cases[i].part);
        assert_status(nn_schedule_create(section, STEPS_PER_EPOCH, TOTAL_STEPS, &schedule),
                      CVY_ERR_CONFIG);
        assert_null(schedule);
        cvy_node_destroy(&section);
    }
}

static void no_steps_are_refused(void **state)
{
    (void)state;
    nn_schedule *schedule = NULL;
    test_log_expect("schedule of 0 steps");
    assert_status(nn_schedule_create(NULL, 1, 0, &schedule), CVY_ERR_INVALID_ARG);
    test_log_expect("0 per epoch");
    assert_status(nn_schedule_create(NULL, 0, 1, &schedule), CVY_ERR_INVALID_ARG);
}

static void every_registered_schedule_is_whole(void **state)
{
    (void)state;
    assert_true(nn_schedule_count() >= 4);
    for (int i = 0; i < nn_schedule_count(); i++) {
        const nn_schedule_ops *ops = nn_schedule_at(i);
        assert_non_null(ops->name);
        assert_non_null(ops->help);
        assert_non_null(ops->rate);
        assert_string_equal(ops->options->tag_key, "type");
        assert_string_equal(ops->options->fields[0].key, "lr");
        for (int j = 0; j < i; j++) assert_string_not_equal(ops->name, nn_schedule_at(j)->name);
    }
    assert_null(nn_schedule_at(-1));
    assert_null(nn_schedule_at(nn_schedule_count()));
}

static void creating_without_memory_reports_it_and_leaks_nothing(void **state)
{
    cvy_status status = CVY_ERR_NO_MEMORY;
    cvy_alloc_counts before, after;

    (void)state;
    test_log_expect(": "); /* whoever misses the memory says so */
    cvy_alloc_count(&before);
    for (int64_t k = 0; status != CVY_OK; k++) {
        cvy_node *section = parse("{type: step, milestones: [1, 2]}");
        nn_schedule *schedule = NULL;
        assert_true(k < 1000);
        cvy_alloc_fail_at(k);
        status = nn_schedule_create(section, STEPS_PER_EPOCH, TOTAL_STEPS, &schedule);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        nn_schedule_destroy(&schedule);
        cvy_node_destroy(&section);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(without_section_lr_is_constant),
        cvy_unit_test(step_drops_where_multi_step_lr_does),
        cvy_unit_test(step_takes_milestones_in_any_order_and_twice),
        cvy_unit_test(cosine_follows_its_formula_per_step),
        cvy_unit_test(polynomial_follows_its_formula_per_step),
        cvy_unit_test(warmup_rises_linearly_to_lr),
        cvy_unit_test(warmup_of_a_fraction_of_an_epoch_counts_steps),
        cvy_unit_test(shape_behind_warmup_counts_from_the_start),
        cvy_unit_test(warmup_longer_than_training_warns),
        cvy_unit_test(defaults_become_part_of_the_section),
        cvy_unit_test(wrong_sections_are_refused_with_place),
        cvy_unit_test(no_steps_are_refused),
        cvy_unit_test(every_registered_schedule_is_whole),
        cvy_unit_test(creating_without_memory_reports_it_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
