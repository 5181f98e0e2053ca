#include "coordinator/report_internal.h"

#include "tests/coordinator/html_support.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void base64_pads_every_length(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
    } cases[] = {{"", ""},
                 {"f", "Zg=="},
                 {"fo", "Zm8="},
                 {"foo", "Zm9v"},
                 {"foob", "Zm9vYg=="},
                 {"fooba", "Zm9vYmE="},
                 {"foobar", "Zm9vYmFy"}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) { /* RFC 4648, section 10 */
        report_text text = {NULL, 0, 0, 0};
        report_add_base64(&text, (const unsigned char *)cases[i].from, strlen(cases[i].from));
        assert_string_equal(text.bytes, cases[i].to);
        assert_int_equal(text.size_bytes, strlen(cases[i].to));
        cvy_free(text.bytes);
    }
}

static char *draw(const report_series *series, int n_series)
{
    report_text text = {NULL, 0, 0, 0};
    const report_chart chart = {
        .title = "t <1>", .x_name = "x", .n_series = n_series, .series = series};

    report_add_chart(&text, &chart);
    assert_false(text.has_failed);
    if (text.bytes != NULL) {
        assert_well_formed(text.bytes);
        assert_null(strstr(text.bytes, "nan"));
        assert_null(strstr(text.bytes, "inf"));
    }
    return text.bytes;
}

static void chart_leaves_out_what_is_no_number(void **state)
{
    (void)state;
    const double x[] = {0, 1, 2, NAN, 4}, y[] = {1, NAN, 3, 4, INFINITY};
    const report_series series = {"s", "s0", 5, x, y};
    const report_series none = {"s", "s0", 1, x + 3, y};

    char *text = draw(&series, 1);
    const char *points = strstr(text, "points=\"");
    int n_commas = 0;
    for (const char *at = points + 8; *at != '"'; at++) n_commas += *at == ',';
    assert_int_equal(n_commas, 2);
    cvy_free(text);
    assert_null(draw(&none, 1));
    assert_null(draw(NULL, 0));
}

static void chart_stays_in_its_box_for_odd_ranges(void **state)
{
    (void)state;
    static const double values[][2] = {
        {0, 0}, {5, 5}, {-3, -3}, {1e-300, 2e-300}, {-1e30, 1e30}, {1e6, 1e6 + 1}, {0.1, 0.30001}};
    const double x[] = {100, 200};

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        const report_series series = {"s", "s0", 2, x, values[i]};
        char *text = draw(&series, 1);
        const char *at = strstr(text, "points=\"") + 8;
        for (int k = 0; k < 2; k++) {
            char *end = NULL;
            const double px = strtod(at, &end), py = strtod(end + 1, &end);
            assert_true(px >= 0 && px <= 560 && py >= 0 && py <= 240);
            at = end;
        }
        cvy_free(text);
    }
}

static void long_line_is_averaged_to_few_points(void **state)
{
    (void)state;
    enum { N = 100000 };
    double *x = cvy_alloc(N * sizeof *x), *y = cvy_alloc(N * sizeof *y);

    assert_true(x != NULL && y != NULL);
    for (int i = 0; i < N; i++) {
        x[i] = i;
        y[i] = i % 2;
    }
    const report_series series = {"s", "s0", N, x, y};
    char *text = draw(&series, 1);
    assert_true(strlen(text) < 12000);
    cvy_free(text);
    cvy_free(y);
    cvy_free(x);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(base64_pads_every_length),
    cvy_unit_test(chart_leaves_out_what_is_no_number),
    cvy_unit_test(chart_stays_in_its_box_for_odd_ranges),
    cvy_unit_test(long_line_is_averaged_to_few_points),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
