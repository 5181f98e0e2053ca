#include "launch/command.h"
#include "tests/support/test_support.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What the parser fills in, and what it says on stdout and stderr. */

typedef struct fields {
    int is_dry;
    int64_t n;
    const char *text;
    launch_list list;
} fields;

#define FIELD(kind, member) kind, offsetof(fields, member)

static const launch_option option_table[] = {
    {"dry", FIELD(LAUNCH_FLAG, is_dry), 0, 0, NULL, "a flag"},
    {"workers", FIELD(LAUNCH_INT, n), 1, 100, "N", "a number"},
    {"text", FIELD(LAUNCH_TEXT, text), 0, 0, "TEXT", "a text"},
    {"set", FIELD(LAUNCH_LIST, list), 0, 0, "KEY=VALUE", "a list"},
};

static int never_run(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return 99;
}

static const launch_command command = {
    .name = "probe",
    .usage = "FILE [--workers N]",
    .summary = "One line.",
    .details = "And more.",
    .options = option_table,
    .n_options = 4,
    .run = never_run,
};

typedef struct parsed {
    int code;
    fields fields;
    launch_list args;
    char said[4096]; /* on stdout and stderr */
} parsed;

/* Parse words ending with NULL; what is said goes to a file meanwhile. */
static void parse(parsed *p, int min_args, int max_args, const char *const *words)
{
    char *argv[128] = {(char *)(uintptr_t) "probe"};
    int argc = 1;
    FILE *file = tmpfile();

    assert_non_null(file);
    for (; words[argc - 1] != NULL; argc++) argv[argc] = (char *)(uintptr_t)words[argc - 1];
    memset(p, 0, sizeof *p);
    fflush(NULL);
    const int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
    assert_true(dup2(fileno(file), STDOUT_FILENO) >= 0);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    p->code = launch_parse(&command, argc, argv, &p->fields, min_args, max_args, &p->args);
    fflush(NULL);
    assert_true(dup2(out, STDOUT_FILENO) >= 0);
    assert_true(dup2(err, STDERR_FILENO) >= 0);
    (void)close(out);
    (void)close(err);
    rewind(file);
    p->said[fread(p->said, 1, sizeof p->said - 1, file)] = 0;
    fclose(file);
}

#define PARSE(p, min, max, ...) parse((p), (min), (max), (const char *const[]){__VA_ARGS__, NULL})

static void assert_refused(const parsed *p, const char *part)
{
    assert_int_equal(p->code, 64);
    if (strstr(p->said, part) == NULL) fail_msg("'%s' is not in: %s", part, p->said);
    assert_non_null(strstr(p->said, "convoy probe: "));
    assert_non_null(strstr(p->said, "(try: convoy probe --help)"));
}

static void options_of_every_kind_are_stored(void **state)
{
    parsed p;

    (void)state;
    PARSE(&p, 1, 2, "--dry", "a", "--workers", "7", "--text=x=y", "--set", "k=1", "b", "--set=l=2");
    assert_int_equal(p.code, -1);
    assert_string_equal(p.said, "");
    assert_int_equal(p.fields.is_dry, 1);
    assert_int_equal(p.fields.n, 7);
    assert_string_equal(p.fields.text, "x=y");
    assert_int_equal(p.fields.list.n, 2);
    assert_string_equal(p.fields.list.value[0], "k=1");
    assert_string_equal(p.fields.list.value[1], "l=2");
    assert_int_equal(p.args.n, 2);
    assert_string_equal(p.args.value[0], "a");
    assert_string_equal(p.args.value[1], "b");
}

static void two_dashes_end_the_options(void **state)
{
    parsed p;

    (void)state;
    PARSE(&p, 0, 3, "--", "--dry", "--help", "-");
    assert_int_equal(p.code, -1);
    assert_int_equal(p.fields.is_dry, 0);
    assert_int_equal(p.args.n, 3);
    PARSE(&p, 1, 1, "-"); /* alone it is an argument */
    assert_int_equal(p.code, -1);
}

static void value_may_begin_with_dashes(void **state)
{
    parsed p;

    (void)state;
    PARSE(&p, 0, 0, "--text", "--hostfile hosts");
    assert_int_equal(p.code, -1);
    assert_string_equal(p.fields.text, "--hostfile hosts");
}

static void misspelt_option_gets_the_nearest(void **state)
{
    parsed p;

    (void)state;
    PARSE(&p, 0, 1, "--worker", "2");
    assert_refused(&p, "unknown option --worker, did you mean --workers?");
    PARSE(&p, 0, 1, "--quite-another-thing");
    assert_refused(&p, "unknown option --quite-another-thing (try");
    PARSE(&p, 0, 1, "-w");
    assert_refused(&p, "unknown option -w");
}

static void bad_numbers_are_refused(void **state)
{
    static const char *const bad[] = {
        "0", "101", "-1", "x", "", "7x", "1e2", "1.5", "99999999999999999999"};
    parsed p;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        PARSE(&p, 0, 0, "--workers", bad[i]);
        assert_refused(&p, "expected an integer from 1 to 100");
        assert_int_equal(p.fields.n, 0);
    }
}

static void missing_and_needless_values_are_refused(void **state)
{
    parsed p;

    (void)state;
    PARSE(&p, 0, 0, "--workers");
    assert_refused(&p, "--workers needs a value (N)");
    PARSE(&p, 0, 0, "--dry=1");
    assert_refused(&p, "--dry takes no value");
}

static void wrong_number_of_arguments_is_refused(void **state)
{
    parsed p;

    (void)state;
    PARSE(&p, 1, 1, "--dry");
    assert_refused(&p, "too few arguments; usage: convoy probe FILE [--workers N]");
    PARSE(&p, 1, 1, "a", "b");
    assert_refused(&p, "'b' is one argument too many");
}

static void too_many_of_a_list_are_refused(void **state)
{
    const char *words[LAUNCH_LIST_MAX + 2] = {NULL};
    parsed p;

    (void)state;
    for (int i = 0; i < LAUNCH_LIST_MAX; i++) words[i] = "--set=k=v";
    parse(&p, 0, 0, words);
    assert_int_equal(p.code, -1);
    assert_int_equal(p.fields.list.n, LAUNCH_LIST_MAX);
    words[LAUNCH_LIST_MAX] = "--set=k=v";
    parse(&p, 0, 0, words);
    assert_refused(&p, "--set was given more than 64 times");
}

static void help_is_printed_and_ends_well(void **state)
{
    parsed p;

    (void)state;
    PARSE(&p, 1, 1, "--workers", "3", "--help", "--nonsense");
    assert_int_equal(p.code, 0);
    assert_non_null(strstr(p.said, "usage: convoy probe FILE [--workers N]"));
    assert_non_null(strstr(p.said, "One line."));
    assert_non_null(strstr(p.said, "And more."));
    for (int i = 0; i < command.n_options; i++)
        assert_non_null(strstr(p.said, option_table[i].help));
    PARSE(&p, 1, 1, "-h");
    assert_int_equal(p.code, 0);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(options_of_every_kind_are_stored),
    cvy_unit_test(two_dashes_end_the_options),
    cvy_unit_test(value_may_begin_with_dashes),
    cvy_unit_test(misspelt_option_gets_the_nearest),
    cvy_unit_test(bad_numbers_are_refused),
    cvy_unit_test(missing_and_needless_values_are_refused),
    cvy_unit_test(wrong_number_of_arguments_is_refused),
    cvy_unit_test(too_many_of_a_list_are_refused),
    cvy_unit_test(help_is_printed_and_ends_well),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
