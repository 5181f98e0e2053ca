#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "nn/params.h"
#include "nn/params_internal.h"

#include <math.h>
#include <string.h>

enum { N_INITS = 7, N_EACH = 20000 };

/* One parameter for each way to start, of a size that gives good estimates, and an odd one that
 * leaves a gap. */
static const nn_param_decl odd = {.suffix = "bias",
                                  .shape = {.n_dims = 1, .dim = {5}},
                                  .kind = NN_PARAM_BIAS,
                                  .init = NN_INIT_ONE};

static nn_param_decl large(nn_init init)
{
    return (nn_param_decl){.suffix = "weight",
                           .shape = {.n_dims = 2, .dim = {N_EACH / 10, 10}},
                           .kind = NN_PARAM_WEIGHT,
                           .init = init,
                           .init_arg = 0.25,
                           .fan_in = 8,
                           .fan_out = 50};
}

static cvy_status build(nn_params *params)
{
    CVY_RETURN_IF_ERR(nn_params_reserve(params, N_INITS + 2));
    CVY_RETURN_IF_ERR(nn_params_append(params, "odd", 0, &odd));
    for (int i = 0; i < N_INITS; i++) {
        const nn_param_decl decl = large((nn_init)i);
        const char name[] = {'p', (char)('0' + i), '\0'};
        CVY_RETURN_IF_ERR(nn_params_append(params, name, i + 1, &decl));
    }
    return nn_params_append_tail(params);
}

static void table_lays_entries_out_aligned_in_order(void **state)
{
    (void)state;
    nn_params params = {0};

    assert_ok(build(&params));
    assert_int_equal(params.n, N_INITS + 2);
    assert_int_equal(params.entry[0].offset, 0);
    assert_int_equal(params.entry[1].offset, NN_PARAM_ALIGN);
    for (int i = 0; i < params.n; i++) assert_int_equal(params.entry[i].offset % NN_PARAM_ALIGN, 0);
    assert_int_equal(params.tail_offset, NN_PARAM_ALIGN + N_INITS * N_EACH);
    assert_int_equal(params.n_elems, params.tail_offset + NN_PARAM_ALIGN);
    assert_int_equal(params.n_trainable, 5 + N_INITS * N_EACH);
    assert_int_equal(params.entry[params.n - 1].layer_idx, -1);
    assert_int_equal(params.entry[params.n - 1].decl.kind, NN_PARAM_TAIL);
    nn_params_clear(&params);
}

static void running_statistics_are_not_counted_as_trainable(void **state)
{
    (void)state;
    nn_params params = {0};
    nn_param_decl decl = odd;

    decl.kind = NN_PARAM_RUNNING;
    assert_ok(nn_params_reserve(&params, 2));
    assert_ok(nn_params_append(&params, "bn", 0, &odd));
    assert_ok(nn_params_append(&params, "bn", 0, &decl));
    assert_int_equal(params.n_trainable, 5);
    nn_params_clear(&params);
}

static void at_gives_the_holder_or_the_next_behind(void **state)
{
    (void)state;
    nn_params params = {0};

    assert_ok(build(&params));
    assert_int_equal(nn_params_at(&params, 0), 0);
    assert_int_equal(nn_params_at(&params, 4), 0);
    assert_int_equal(nn_params_at(&params, 5), 1); /* the gap */
    assert_int_equal(nn_params_at(&params, NN_PARAM_ALIGN), 1);
    assert_int_equal(nn_params_at(&params, NN_PARAM_ALIGN + N_EACH - 1), 1);
    assert_int_equal(nn_params_at(&params, NN_PARAM_ALIGN + N_EACH), 2);
    assert_int_equal(nn_params_at(&params, params.tail_offset), params.n - 1);
    assert_int_equal(nn_params_at(&params, params.n_elems - 1), params.n);
    nn_params_clear(&params);
}

static void find_gives_the_entry_of_a_name_or_none(void **state)
{
    (void)state;
    nn_params params = {0};

    assert_ok(build(&params));
    assert_ptr_equal(nn_params_find(&params, "p3.weight"), &params.entry[4]);
    assert_ptr_equal(nn_params_find(&params, "odd.bias"), &params.entry[0]);
    assert_null(nn_params_find(&params, "odd"));
    nn_params_clear(&params);
}

typedef struct moments {
    double mean, deviation, largest;
} moments;

static moments moments_of(const float *x, int64_t n)
{
    moments m = {0};
    double squares = 0.0;

    for (int64_t i = 0; i < n; i++) {
        m.mean += (double)x[i] / (double)n;
        squares += (double)x[i] * (double)x[i] / (double)n;
        if (fabs((double)x[i]) > m.largest) m.largest = fabs((double)x[i]);
    }
    m.deviation = sqrt(squares - m.mean * m.mean);
    return m;
}

/* The sample deviation of 20000 numbers is within 2 % of the true one (4 standard errors). */
static void check_init(const nn_params *params, const float *weights, nn_init init,
                       double deviation, double bound)
{
    const nn_param *param = &params->entry[1 + (int)init];
    const moments m = moments_of(weights + param->offset, param->n_elems);

    assert_true(fabs(m.mean) < 0.03 * deviation);
    assert_true(fabs(m.deviation - deviation) < 0.02 * deviation);
    if (bound > 0.0) assert_true(m.largest <= bound * 1.000001 && m.largest > 0.99 * bound);
    if (bound == 0.0) assert_true(m.largest > 3.0 * deviation); /* a normal has tails */
}

static void init_follows_the_published_distributions(void **state)
{
    (void)state;
    nn_params params = {0};

    assert_ok(build(&params));
    float *weights = cvy_alloc((size_t)params.n_elems * sizeof *weights);
    assert_non_null(weights);
    memset(weights, 0xff, (size_t)params.n_elems * sizeof *weights);
    assert_ok(nn_params_init(&params, 7, weights));

    for (int i = 0; i < NN_PARAM_ALIGN; i++) assert_true(weights[i] == (i < 5 ? 1.0f : 0.0f));
    for (int64_t i = params.tail_offset; i < params.n_elems; i++) assert_true(weights[i] == 0.0f);
    const moments zero = moments_of(weights + params.entry[1].offset, N_EACH);
    const moments one = moments_of(weights + params.entry[2].offset, N_EACH);
    assert_true(zero.largest == 0.0);
    assert_true(one.largest == 1.0 && fabs(one.mean - 1.0) < 1e-9);
    check_init(&params, weights, NN_INIT_HE_FAN_OUT, sqrt(2.0 / 50.0), 0.0);
    check_init(&params, weights, NN_INIT_HE_FAN_IN, sqrt(2.0 / 8.0), 0.0);
    check_init(&params, weights, NN_INIT_UNIFORM_FAN_IN, 1.0 / sqrt(3.0 * 8.0), 1.0 / sqrt(8.0));
    check_init(&params, weights, NN_INIT_XAVIER, sqrt(2.0 / 58.0), sqrt(6.0 / 58.0));
    check_init(&params, weights, NN_INIT_NORMAL, 0.25, 0.0);
    cvy_free(weights);
    nn_params_clear(&params);
}

static void init_depends_on_the_seed_alone(void **state)
{
    (void)state;
    nn_params params = {0};

    assert_ok(build(&params));
    const size_t size_bytes = (size_t)params.n_elems * sizeof(float);
    float *a = cvy_alloc(size_bytes), *b = cvy_alloc(size_bytes);
    assert_ok(nn_params_init(&params, 7, a));
    assert_ok(nn_params_init(&params, 7, b));
    assert_memory_equal(a, b, size_bytes);
    assert_ok(nn_params_init(&params, 8, b));
    assert_true(memcmp(a, b, size_bytes) != 0);
    cvy_free(a);
    cvy_free(b);
    nn_params_clear(&params);
}

static void building_without_memory_reports_it_and_leaks_nothing(void **state)
{
    (void)state;
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;

    cvy_alloc_count(&before);
    for (int64_t k = 0; status != CVY_OK; k++) {
        nn_params params = {0};
        cvy_alloc_fail_at(k);
        status = build(&params);
        cvy_alloc_fail_at(-1);
        nn_params_clear(&params);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
        if (status != CVY_OK) {
            assert_status(status, CVY_ERR_NO_MEMORY);
            test_log_expect("nn: ");
        }
        assert_true(k < 100);
    }
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(table_lays_entries_out_aligned_in_order),
    cvy_unit_test(running_statistics_are_not_counted_as_trainable),
    cvy_unit_test(at_gives_the_holder_or_the_next_behind),
    cvy_unit_test(find_gives_the_entry_of_a_name_or_none),
    cvy_unit_test(init_follows_the_published_distributions),
    cvy_unit_test(init_depends_on_the_seed_alone),
    cvy_unit_test(building_without_memory_reports_it_and_leaks_nothing),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
