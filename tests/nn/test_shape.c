#include "tests/support/test_support.h"

#include "nn/shape.h"
#include "nn/shape_internal.h"

#include <string.h>

static nn_shape shape_3(int64_t a, int64_t b, int64_t c)
{
    const int64_t dim[3] = {a, b, c};

    return nn_shape_of(3, dim);
}

static void n_elems_of_a_shape_is_its_product(void **state)
{
    (void)state;
    const nn_shape shape = shape_3(2, 3, 5), scalar = {.n_dims = 0};

    assert_int_equal(nn_shape_n_elems(&shape), 30);
    assert_int_equal(nn_shape_n_elems(&scalar), 1);
}

static void n_elems_of_an_impossible_shape_is_negative(void **state)
{
    (void)state;
    const nn_shape zero = shape_3(2, 0, 5), negative = shape_3(2, -3, -5);
    const nn_shape limit = shape_3(1 << 20, 1 << 20, 1), beyond = shape_3(1 << 20, 1 << 20, 2);
    const nn_shape wraps = shape_3(INT64_MAX, INT64_MAX, 4);
    const nn_shape many = {.n_dims = NN_MAX_DIMS + 1, .dim = {1, 1, 1, 1, 1}};

    assert_int_equal(nn_shape_n_elems(&zero), -1);
    assert_int_equal(nn_shape_n_elems(&negative), -1);
    assert_int_equal(nn_shape_n_elems(&limit), (int64_t)1 << 40);
    assert_int_equal(nn_shape_n_elems(&beyond), -1);
    assert_int_equal(nn_shape_n_elems(&wraps), -1);
    assert_int_equal(nn_shape_n_elems(&many), -1);
}

static void equal_compares_extents_and_their_number(void **state)
{
    (void)state;
    const int64_t dim[4] = {2, 3, 5, 1};
    const nn_shape a = shape_3(2, 3, 5), same = shape_3(2, 3, 5), other = shape_3(2, 3, 6);
    const nn_shape longer = nn_shape_of(4, dim);

    assert_true(nn_shape_equal(&a, &same));
    assert_false(nn_shape_equal(&a, &other));
    assert_false(nn_shape_equal(&a, &longer));
}

static void text_of_a_shape_is_written_and_cut_to_fit(void **state)
{
    (void)state;
    const nn_shape shape = shape_3(64, 3, 32), scalar = {.n_dims = 0};
    char text[32], small[6];

    nn_shape_text(&shape, text, sizeof text);
    assert_string_equal(text, "(64, 3, 32)");
    nn_shape_text(&scalar, text, sizeof text);
    assert_string_equal(text, "()");
    memset(small, 'x', sizeof small);
    nn_shape_text(&shape, small, 5);
    assert_string_equal(small, "(64,");
    assert_int_equal(small[5], 'x');
}

static void bytes_text_takes_the_fitting_unit(void **state)
{
    (void)state;
    char text[32];

    nn_bytes_text(17, text, sizeof text);
    assert_string_equal(text, "17 bytes");
    nn_bytes_text(1536, text, sizeof text);
    assert_string_equal(text, "1.5 KiB");
    nn_bytes_text(4e13, text, sizeof text);
    assert_string_equal(text, "36.4 TiB");
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(n_elems_of_a_shape_is_its_product),
    cvy_unit_test(n_elems_of_an_impossible_shape_is_negative),
    cvy_unit_test(equal_compares_extents_and_their_number),
    cvy_unit_test(text_of_a_shape_is_written_and_cut_to_fit),
    cvy_unit_test(bytes_text_takes_the_fitting_unit),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
