#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/config.h"
#include "base/config_internal.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct inner {
    int64_t size;
    double ratio;
} inner;

typedef struct outer {
    int64_t epochs;
    double lr;
    int is_on;
    const char *path;
    int color;
    cvy_int_list sizes;
    cvy_real_list mean;
    inner crop;
    const cvy_node *rest;
    const char *left_out;
} outer;

static const cvy_config_field inner_fields[] = {
    {.key = "size",
     .type = CVY_CONFIG_INT,
     .offset = offsetof(inner, size),
     .default_text = "8",
     .min = 1,
     .max = 64,
     .unit = "pixels",
     .help = "edge"},
    {.key = "ratio",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(inner, ratio),
     .default_text = "0.75",
     .min = 0,
     .max = INFINITY},
};
static const cvy_config_table inner_table = {.name = "crop",
                                             .struct_size = sizeof(inner),
                                             .tag_key = "type",
                                             .scalar_key = "size",
                                             .n_fields = 2,
                                             .fields = inner_fields};

static const cvy_config_field outer_fields[] = {
    {.key = "epochs",
     .type = CVY_CONFIG_INT,
     .offset = offsetof(outer, epochs),
     .is_required = 1,
     .min = 1,
     .max = 65536,
     .unit = "epochs",
     .help = "how long"},
    {.key = "lr",
     .type = CVY_CONFIG_REAL,
     .offset = offsetof(outer, lr),
     .default_text = "1e-4",
     .min = 1e-12,
     .max = 100},
    {.key = "is_on",
     .type = CVY_CONFIG_BOOL,
     .offset = offsetof(outer, is_on),
     .default_text = "yes"},
    {.key = "path",
     .type = CVY_CONFIG_TEXT,
     .offset = offsetof(outer, path),
     .default_text = "a b"},
    {.key = "color",
     .type = CVY_CONFIG_CHOICE,
     .offset = offsetof(outer, color),
     .default_text = "green",
     .choices = "red|green|blue"},
    {.key = "sizes",
     .type = CVY_CONFIG_INT_LIST,
     .offset = offsetof(outer, sizes),
     .default_text = "[1, 2]",
     .min = 0,
     .max = 9},
    {.key = "mean", .type = CVY_CONFIG_REAL_LIST, .offset = offsetof(outer, mean)},
    {.key = "crop",
     .type = CVY_CONFIG_SECTION,
     .offset = offsetof(outer, crop),
     .section = &inner_table},
    {.key = "rest", .type = CVY_CONFIG_NODE, .offset = offsetof(outer, rest)},
    {.key = "left_out", .type = CVY_CONFIG_TEXT, .offset = offsetof(outer, left_out)},
};
static const cvy_config_table outer_table = {
    .name = "the test", .struct_size = sizeof(outer), .n_fields = 10, .fields = outer_fields};

static cvy_node *parse(const char *text)
{
    cvy_node *root = NULL;

    assert_ok(cvy_node_parse(text, strlen(text), "job.yaml", &root));
    return root;
}

static void refuse(const char *text, const char *part)
{
    outer got;
    cvy_node *root = parse(text);

    test_log_expect(part);
    assert_status(cvy_config_read(&outer_table, root, &got), CVY_ERR_CONFIG);
    if (!test_log_saw(part)) fail_msg("no line says: %s", part);
    cvy_node_destroy(&root);
}

static void values_fill_the_struct(void **state)
{
    (void)state;
    outer got;
    cvy_node *root = parse(
        "{epochs: 12, lr: .5, is_on: Off, path: x, color: blue, sizes: [3, 4, 5],\n"
        " mean: [0.5, -1e3], crop: {size: 9, ratio: 2}, rest: {a: b}}");

    assert_ok(cvy_config_read(&outer_table, root, &got));
    assert_int_equal(got.epochs, 12);
    assert_true(got.lr == 0.5);
    assert_int_equal(got.is_on, 0);
    assert_string_equal(got.path, "x");
    assert_int_equal(got.color, 2);
    assert_int_equal(got.sizes.n, 3);
    assert_int_equal(got.sizes.value[2], 5);
    assert_int_equal(got.mean.n, 2);
    assert_true(got.mean.value[1] == -1000.0);
    assert_int_equal(got.crop.size, 9);
    assert_true(got.crop.ratio == 2.0);
    assert_ptr_equal(got.rest, cvy_node_find(root, "rest"));
    assert_null(got.left_out);
    cvy_node_destroy(&root);
}

static void assert_defaults(const outer *got)
{
    assert_true(got->lr == 1e-4);
    assert_int_equal(got->is_on, 1);
    assert_string_equal(got->path, "a b");
    assert_int_equal(got->color, 1);
    assert_int_equal(got->sizes.n, 2);
    assert_int_equal(got->sizes.value[1], 2);
    assert_int_equal(got->mean.n, 0);
    assert_int_equal(got->crop.size, 8);
    assert_true(got->crop.ratio == 0.75);
    assert_null(got->rest);
}

static void defaults_become_part_of_the_tree(void **state)
{
    (void)state;
    outer got;
    char *text = NULL;
    cvy_node *root = parse("epochs: 1\ncolor:\n"), *back = NULL;

    assert_ok(cvy_config_read(&outer_table, root, &got));
    assert_defaults(&got);
    assert_ok(cvy_node_print(root, &text));
    assert_string_equal(text, "epochs: 1\ncolor: green\nlr: 1e-4\nis_on: yes\npath: \"a b\"\n"
                              "sizes:\n  - 1\n  - 2\ncrop:\n  size: 8\n  ratio: 0.75\n");
    assert_ok(cvy_node_parse(text, strlen(text), "resolved", &back));
    assert_ok(cvy_config_read(&outer_table, back, &got));
    assert_defaults(&got);
    cvy_free(text);
    cvy_node_destroy(&back);
    cvy_node_destroy(&root);
}

static void no_tree_gives_defaults(void **state)
{
    (void)state;
    inner got;
    outer whole;

    assert_ok(cvy_config_read(&inner_table, NULL, &got));
    assert_int_equal(got.size, 8);
    test_log_expect("the test: epochs is missing, expected an integer from 1 to 65536 epochs");
    assert_status(cvy_config_read(&outer_table, NULL, &whole), CVY_ERR_CONFIG);
}

static void bare_scalar_fills_its_field(void **state)
{
    (void)state;
    outer got;
    char *text = NULL;
    cvy_node *root = parse("{epochs: 1, crop: 4, sizes: 7}");

    assert_ok(cvy_config_read(&outer_table, root, &got));
    assert_int_equal(got.crop.size, 4);
    assert_true(got.crop.ratio == 0.75);
    assert_int_equal(got.sizes.n, 1);
    assert_int_equal(got.sizes.value[0], 7);
    assert_ok(cvy_node_print(root, &text));
    assert_non_null(strstr(text, "crop:\n  size: 4\n  ratio: 0.75\n"));
    cvy_free(text);
    cvy_node_destroy(&root);
    refuse("{epochs: 1, crop: 65}",
           "job.yaml:1:19: crop.size is '65', expected an integer from 1 to "
           "64 pixels");
}

static void tag_key_is_accepted(void **state)
{
    (void)state;
    outer got;
    cvy_node *root = parse("{epochs: 1, crop: {type: x, size: 2}}");

    assert_ok(cvy_config_read(&outer_table, root, &got));
    assert_int_equal(got.crop.size, 2);
    cvy_node_destroy(&root);
}

static void wrong_keys_name_the_nearest(void **state)
{
    (void)state;
    refuse("epochs: 1\nepocs: 2\n", "job.yaml:2:1: unknown key 'epocs' in the test, did you mean "
                                    "'epochs'?");
    refuse("{epochs: 1, crop: {szie: 2}}",
           "job.yaml:1:20: unknown key 'szie' in crop, did you mean "
           "'size'?");
    refuse("{epochs: 1, crop: {tpye: 2}}", "did you mean 'type'?");
    refuse("{epochs: 1, IS-ON: 2}", "did you mean 'is_on'?");
    refuse("{epochs: 1, wombat: 2}",
           "unknown key 'wombat' in the test, expected one of: epochs, lr");
    refuse("{epochs: 1, \"a\\nb\": 2}", "unknown key 'a?b'");
}

static void wrong_values_name_place_and_range(void **state)
{
    (void)state;
    refuse("lr: 1\n",
           "job.yaml:1:1: epochs is missing, expected an integer from 1 to 65536 epochs");
    refuse("epochs: 0\n",
           "job.yaml:1:9: epochs is '0', expected an integer from 1 to 65536 epochs");
    refuse("epochs: -1\n", "epochs is '-1', expected an integer from 1 to 65536");
    refuse("epochs: 1e18\n", "epochs is '1e18', expected an integer");
    refuse("epochs: 99999999999999999999\n", "expected an integer");
    refuse("epochs: 1.0\n", "expected an integer");
    refuse("epochs: 0x10\n", "expected an integer");
    refuse("epochs: [1]\n", "epochs is a list, expected an integer");
    refuse("{epochs: 1, lr: nan}",
           "job.yaml:1:17: lr is 'nan', expected a finite number from 1e-12 to "
           "100");
    refuse("{epochs: 1, lr: .inf}", "expected a finite number");
    refuse("{epochs: 1, lr: 1e999}", "expected a finite number");
    refuse("{epochs: 1, lr: -0.1}", "expected a finite number");
    refuse("{epochs: 1, lr: '0,1'}", "expected a finite number");
    refuse("{epochs: 1, is_on: 2}", "is_on is '2', expected true or false");
    refuse("{epochs: 1, path: {}}", "path is a mapping, expected a text");
    refuse("{epochs: 1, path: ''}", "path is '', expected a text");
    refuse("{epochs: 1, color: gren}", "color is 'gren', expected red, green or blue; did you mean "
                                       "'green'?");
    refuse("{epochs: 1, color: 1}", "color is '1', expected red, green or blue");
    refuse("{epochs: 1, sizes: [1, 10]}",
           "job.yaml:1:24: sizes.1 is '10', expected a list of integers "
           "from 0 to 9");
    refuse("{epochs: 1, sizes: {}}", "sizes is a mapping, expected a list of integers");
    refuse("{epochs: 1, sizes: [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}",
           "sizes has 17 entries, expected at most 16");
    refuse("{epochs: 1, crop: [1]}", "crop is a list, expected a mapping");
    refuse("{epochs: 1, crop: {ratio: -1}}", "crop.ratio is '-1', expected a finite number of at "
                                             "least 0");
    refuse("[1]", "the test is a list, expected a mapping");
}

static void numbers_are_read_in_full_or_not_at_all(void **state)
{
    (void)state;
    int64_t whole = 0;
    double real = 0;
    static const char *const no_reals[] = {"",    ".",  "-",  "+.e1", "1e",  "1e+", "0x1p3", "nan",
                                           "inf", "1 ", " 1", "1,5",  "1_0", "--1", "1e400"};
    static const char *const no_ints[] = {"",
                                          "-",
                                          "+",
                                          "1.",
                                          "1e3",
                                          " 1",
                                          "1_0",
                                          "9223372036854775808",
                                          "0x1",
                                          "--1",
                                          "-9223372036854775809"};

    for (size_t i = 0; i < sizeof no_reals / sizeof no_reals[0]; i++) {
        assert_int_equal(cvy_real_from_text(no_reals[i], &real), -1);
    }
    for (size_t i = 0; i < sizeof no_ints / sizeof no_ints[0]; i++) {
        assert_int_equal(cvy_int_from_text(no_ints[i], &whole), -1);
    }
    assert_int_equal(cvy_int_from_text("-9223372036854775808", &whole), 0);
    assert_true(whole == INT64_MIN);
    assert_int_equal(cvy_int_from_text("+9223372036854775807", &whole), 0);
    assert_true(whole == INT64_MAX);
    assert_int_equal(cvy_real_from_text("-1.5e-3", &real), 0);
    assert_true(real == -1.5e-3);
    assert_int_equal(cvy_real_from_text("5.", &real), 0);
    assert_true(real == 5.0);
}

static void numbers_are_read_alike_in_every_locale(void **state)
{
    (void)state;
    double real = 0;
    /* The first of these that the machine has; in none of them is the comma allowed. */
    const char *before = setlocale(LC_NUMERIC, NULL);
    char saved[64];
    snprintf(saved, sizeof saved, "%s", before);
    if (setlocale(LC_NUMERIC, "de_DE.UTF-8") == NULL &&
        setlocale(LC_NUMERIC, "fr_FR.UTF-8") == NULL) {
        print_message("no locale with a decimal comma on this machine\n");
        skip();
    }
    assert_int_equal(cvy_real_from_text("0.25", &real), 0);
    const int comma = cvy_real_from_text("0,25", &real);
    setlocale(LC_NUMERIC, saved);
    assert_true(real == 0.25);
    assert_int_equal(comma, -1);
}

static void near_words_are_found(void **state)
{
    (void)state;
    static const char *const words[] = {"resnet18", "resnet20", "vgg16", "lenet"};

    assert_string_equal(cvy_nearest_word(words, 4, "resnet19"), "resnet18");
    assert_string_equal(cvy_nearest_word(words, 4, "lenet5"), "lenet");
    assert_string_equal(cvy_nearest_word(words, 4, "vgg61"), "vgg16");
    assert_string_equal(cvy_nearest_word(words, 4, "ResNet-20"), "resnet20");
    assert_null(cvy_nearest_word(words, 4, "transformer"));
    assert_null(cvy_nearest_word(words, 4, ""));
    assert_null(cvy_nearest_word(words, 0, "x"));
    assert_null(
        cvy_nearest_word(words, 4, "a_word_that_is_longer_than_any_word_of_a_table_is_near_none"));
    assert_string_equal(cvy_config_nearest(&inner_table, "sise"), "size");
}

static void help_has_a_line_a_key(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size = 0;
    int n_lines = 0;
    FILE *out = open_memstream(&text, &size);

    assert_non_null(out);
    cvy_config_print_help(&outer_table, out);
    assert_int_equal(fclose(out), 0);
    for (const char *c = text; *c != '\0'; c++) n_lines += *c == '\n';
    assert_int_equal(n_lines, 11);
    assert_non_null(strstr(text, "epochs"));
    assert_non_null(strstr(text, "how long: an integer from 1 to 65536 epochs; required\n"));
    assert_non_null(strstr(text, "crop.size"));
    assert_non_null(strstr(text, "edge: an integer from 1 to 64 pixels; default 8\n"));
    assert_non_null(strstr(text, "red, green or blue; default green\n"));
    free(text);
}

static void no_memory_is_reported_and_nothing_leaks(void **state)
{
    (void)state;
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;
    outer got;

    test_log_expect("out of memory");
    for (int64_t k = 0; status != CVY_OK; k++) {
        cvy_alloc_count(&before);
        cvy_node *root = parse("{epochs: 1, crop: 3}");
        cvy_alloc_fail_at(k);
        status = cvy_config_read(&outer_table, root, &got);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        cvy_node_destroy(&root);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(values_fill_the_struct),
    cvy_unit_test(defaults_become_part_of_the_tree),
    cvy_unit_test(no_tree_gives_defaults),
    cvy_unit_test(bare_scalar_fills_its_field),
    cvy_unit_test(tag_key_is_accepted),
    cvy_unit_test(wrong_keys_name_the_nearest),
    cvy_unit_test(wrong_values_name_place_and_range),
    cvy_unit_test(numbers_are_read_in_full_or_not_at_all),
    cvy_unit_test(numbers_are_read_alike_in_every_locale),
    cvy_unit_test(near_words_are_found),
    cvy_unit_test(help_has_a_line_a_key),
    cvy_unit_test(no_memory_is_reported_and_nothing_leaks),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
