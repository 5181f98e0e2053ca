#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "base/node.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static cvy_node *parse(const char *text)
{
    cvy_node *root = NULL;

    assert_ok(cvy_node_parse(text, strlen(text), "job.yaml", &root));
    return root;
}

/* The text is refused with a line that contains part. */
static void refuse_bytes(const char *text, size_t size, const char *part)
{
    cvy_node *root = NULL;

    test_log_expect(part);
    assert_status(cvy_node_parse(text, size, "job.yaml", &root), CVY_ERR_CONFIG);
    assert_null(root);
    if (!test_log_saw(part)) fail_msg("no line says: %s", part);
}

static void refuse(const char *text, const char *part)
{
    refuse_bytes(text, strlen(text), part);
}

static const char *text_at(const cvy_node *root, const char *key)
{
    const cvy_node *node = cvy_node_find(root, key);

    assert_non_null(node);
    return cvy_node_text(node);
}

static void document_becomes_tree(void **state)
{
    (void)state;
    cvy_node *root = parse("name: a\nlist: [1, {x: 'two'}]\nempty:\nquoted: \"null\"\n");

    assert_int_equal(cvy_node_get_kind(root), CVY_NODE_MAPPING);
    assert_int_equal(cvy_node_n_items(root), 4);
    assert_string_equal(cvy_node_key(root, 1), "list");
    assert_string_equal(text_at(root, "name"), "a");
    const cvy_node *list = cvy_node_find(root, "list");
    assert_int_equal(cvy_node_get_kind(list), CVY_NODE_SEQUENCE);
    assert_null(cvy_node_text(list));
    assert_string_equal(text_at(cvy_node_item(list, 1), "x"), "two");
    assert_true(cvy_node_is_null(cvy_node_find(root, "empty")));
    assert_false(cvy_node_is_null(cvy_node_find(root, "quoted")));
    assert_true(cvy_node_is_null(cvy_node_find(root, "lacking")));
    cvy_node_destroy(&root);
    assert_null(root);
}

static void place_gives_line_and_column(void **state)
{
    (void)state;
    char place[64];
    cvy_node *root = parse("a: 1\nb:\n  c: xyz\n");

    cvy_node_place(cvy_node_find(cvy_node_find(root, "b"), "c"), place, sizeof place);
    assert_string_equal(place, "job.yaml:3:6");
    cvy_node_place(cvy_node_find(root, "b"), place, sizeof place);
    assert_string_equal(place, "job.yaml:2:1");
    cvy_node_destroy(&root);
}

static void mark_and_crlf_are_accepted(void **state)
{
    (void)state;
    char place[64];
    cvy_node *root = parse("\xEF\xBB\xBF"
                           "a: 1\r\nb: two words\r\n");

    assert_string_equal(text_at(root, "b"), "two words");
    cvy_node_place(cvy_node_find(root, "b"), place, sizeof place);
    assert_string_equal(place, "job.yaml:2:4");
    cvy_node_destroy(&root);
}

static void empty_text_is_null(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "\n", "# only words\n", "---\n"};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        cvy_node *root = parse(texts[i]);
        assert_true(cvy_node_is_null(root));
        cvy_node_destroy(&root);
    }
}

static void foreign_yaml_is_refused_with_place(void **state)
{
    (void)state;
    refuse("a: 1\nb: 2\na: 3\n",
           "job.yaml:3:1: key 'a' stands here a second time (first at line 1)");
    refuse("a: &x 1\n", "job.yaml:1:4: anchors");
    refuse("a: 1\nb: *x\n", "job.yaml:2:4: aliases");
    refuse("a: !!str 1\n", "job.yaml:1:4: tags");
    refuse("a: 1\n---\nb: 2\n", "job.yaml:2:1: a second document");
    refuse("[a, b]: 1\n", "job.yaml:1:1: a key that is a list");
    refuse("'': 1\n", "job.yaml:1:1: empty key");
    refuse("a: [1, 2\nb: 3\n", "job.yaml:2:2: ");
    refuse("a:\n\t- b\n", "job.yaml:2:1: ");
    refuse("a: \"x\\0y\"\n", "job.yaml:1:4: text with a NUL");
}

static void foreign_bytes_are_refused_with_place(void **state)
{
    (void)state;
    refuse_bytes("a: 1\nb: \0\n", 10, "job.yaml:2:4: NUL byte");
    refuse("a: 1\nb: \xFF\n", "job.yaml:2:4: byte 0xFF is not UTF-8");
    refuse("a: \xC0\x80\n", "job.yaml:1:4: byte 0xC0");
    refuse("a: \xED\xA0\x80\n", "job.yaml:1:4: byte 0xED");
    refuse("a: \xF4\x90\x80\x80\n", "job.yaml:1:4: byte 0xF4");
    refuse("a: \xE2\x82", "job.yaml:1:4: byte 0xE2");
    refuse("\xFF\xFE"
           "a",
           "job.yaml:1:1: byte 0xFF");
    refuse("a: \x1B[31m\n", "job.yaml:1:4: control character 0x1B");
}

/* prefix n times, as one text; cvy_free() it. */
static char *repeat(const char *part, size_t n, size_t *out_size)
{
    const size_t size = strlen(part);
    char *text = cvy_alloc(n * size + 1);

    assert_non_null(text);
    for (size_t i = 0; i < n; i++) memcpy(text + i * size, part, size);
    text[n * size] = '\0';
    *out_size = n * size;
    return text;
}

static void endless_documents_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *part;
        size_t n;
        const char *message;
    } cases[] = {
        {"[", 33, "job.yaml:1:33: nested more than 32"},
        {"[", 500000, "nested more than 32"},
        {"{a: ", 200000, "nested more than 32"},
        {"- ", 300000, "nested more than 32"},
        {"- 1\n", 262144, "more than 131072 values"},
        {"x", (1 << 20) + 1, "1048577 bytes, expected at most 1 MiB"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t size;
        char *text = repeat(cases[i].part, cases[i].n, &size);
        refuse_bytes(text, size, cases[i].message);
        cvy_free(text);
    }
    size_t size;
    char *keys = cvy_alloc(1 << 20);
    assert_non_null(keys);
    size = 0;
    for (int i = 0; i < 1100; i++)
        size += (size_t)snprintf(keys + size, (1 << 20) - size, "k%d: 1\n", i);
    refuse_bytes(keys, size, "job.yaml:1025:1: more than 1024 keys");
    cvy_free(keys);
}

static void nesting_of_32_is_accepted(void **state)
{
    (void)state;
    cvy_node *root = parse("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]");

    cvy_node_destroy(&root);
}

static void files_that_are_none_are_refused(void **state)
{
    (void)state;
    char path[700];
    cvy_node *root = NULL;
    const char *folder = test_folder();

    test_log_expect("is a folder, expected a YAML file");
    assert_status(cvy_node_parse_file(folder, &root), CVY_ERR_NOT_FOUND);

    snprintf(path, sizeof path, "%s/fifo", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    test_log_expect("fifo: is a FIFO, expected a YAML file");
    assert_status(cvy_node_parse_file(path, &root), CVY_ERR_NOT_FOUND);

    snprintf(path, sizeof path, "%s/none.yaml", folder);
    test_log_expect("none.yaml: No such file");
    assert_status(cvy_node_parse_file(path, &root), CVY_ERR_NOT_FOUND);

    test_log_expect("/dev/null: is a device");
    assert_status(cvy_node_parse_file("/dev/null", &root), CVY_ERR_NOT_FOUND);
    assert_null(root);
}

static void large_file_is_refused_by_size(void **state)
{
    (void)state;
    char path[700];
    cvy_node *root = NULL;

    snprintf(path, sizeof path, "%s/large.yaml", test_folder());
    assert_ok(cvy_file_replace(path, "a: 1\n", 5));
    assert_int_equal(truncate(path, 100 << 20), 0);
    test_log_expect("large.yaml: 104857600 bytes, expected at most 1 MiB");
    assert_status(cvy_node_parse_file(path, &root), CVY_ERR_CONFIG);
}

static void unreadable_file_is_a_permission_error(void **state)
{
    (void)state;
    char path[700];
    cvy_node *root = NULL;
    const int is_root = geteuid() == 0;

    snprintf(path, sizeof path, "%s", test_folder());
    assert_int_equal(chmod(path, 0755), 0);
    *strrchr(path, '/') = '\0';
    assert_int_equal(chmod(path, 0755), 0);
    snprintf(path, sizeof path, "%s/job.yaml", test_folder());
    assert_ok(cvy_file_replace(path, "a: 1\n", 5));
    assert_int_equal(chmod(path, 0), 0);
    test_log_expect("job.yaml");
    if (is_root) assert_int_equal(seteuid(65534), 0); /* root reads everything */
    const cvy_status status = cvy_node_parse_file(path, &root);
    if (is_root) assert_int_equal(seteuid(0), 0);
    assert_status(status, CVY_ERR_PERMISSION);
}

static void file_is_parsed_and_named(void **state)
{
    (void)state;
    char path[700], place[800];
    cvy_node *root = NULL;

    snprintf(path, sizeof path, "%s/job.yaml", test_folder());
    assert_ok(cvy_file_replace(path, "a: 1\n", 5));
    assert_ok(cvy_node_parse_file(path, &root));
    cvy_node_place(cvy_node_find(root, "a"), place, sizeof place);
    assert_string_equal(place + strlen(path), ":1:4");
    cvy_node_destroy(&root);
}

static void set(cvy_node *root, const char *assignment)
{
    assert_ok(cvy_node_set(root, assignment));
}

static void set_overrides_adds_and_makes_the_way(void **state)
{
    (void)state;
    char place[64];
    cvy_node *root = parse("optimizer: {lr: 1}\naugment: [{pad: 4}, {flip: 0.5}]\nval:\n");

    set(root, "optimizer.lr=0.1");
    set(root, "augment.1.flip=0.3");
    set(root, "augment.0={crop: 8}");
    set(root, "data.val.path=a=b");
    set(root, "val.path=x");
    set(root, "list=[1, 2]");
    set(root, "nothing=");
    assert_string_equal(text_at(cvy_node_find(root, "optimizer"), "lr"), "0.1");
    const cvy_node *augment = cvy_node_find(root, "augment");
    assert_string_equal(text_at(cvy_node_item(augment, 1), "flip"), "0.3");
    assert_string_equal(text_at(cvy_node_item(augment, 0), "crop"), "8");
    const cvy_node *path = cvy_node_find(cvy_node_find(cvy_node_find(root, "data"), "val"), "path");
    assert_string_equal(cvy_node_text(path), "a=b");
    assert_int_equal(cvy_node_n_items(cvy_node_find(root, "list")), 2);
    assert_true(cvy_node_is_null(cvy_node_find(root, "nothing")));
    cvy_node_place(path, place, sizeof place);
    assert_string_equal(place, "--set data.val.path");
    cvy_node_destroy(&root);
}

static void set_refuses_what_leads_nowhere(void **state)
{
    (void)state;
    static const struct {
        const char *assignment, *message;
    } cases[] = {
        {"a", "expected key=value"},
        {"=1", "expected key=value"},
        {"a.b=1", "'b' cannot be set inside a single value"},
        {"a.b.c=1", "'b' cannot be set inside a single value"},
        {"list.7=1", "'7' is no entry of the list"},
        {"list.x.y=1", "'x' is no entry of the list"},
        {"b..c=1", "'' is no key"},
        {"c=[1", "--set c:"},
        {"a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a=1",
         "more than 32 levels"},
    };
    cvy_node *root = parse("a: 1\nlist: [1]\n");

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        test_log_expect(cases[i].message);
        assert_status(cvy_node_set(root, cases[i].assignment), CVY_ERR_CONFIG);
        if (!test_log_saw(cases[i].message)) fail_msg("no line says: %s", cases[i].message);
    }
    cvy_node_destroy(&root);
}

static void assert_same_tree(const cvy_node *a, const cvy_node *b)
{
    assert_int_equal(cvy_node_get_kind(a), cvy_node_get_kind(b));
    assert_int_equal(cvy_node_is_null(a), cvy_node_is_null(b));
    assert_int_equal(cvy_node_n_items(a), cvy_node_n_items(b));
    if (cvy_node_get_kind(a) == CVY_NODE_SCALAR) {
        assert_string_equal(cvy_node_text(a), cvy_node_text(b));
    }
    for (int i = 0; i < cvy_node_n_items(a); i++) {
        if (cvy_node_get_kind(a) == CVY_NODE_MAPPING) {
            assert_string_equal(cvy_node_key(a, i), cvy_node_key(b, i));
        }
        assert_same_tree(cvy_node_item(a, i), cvy_node_item(b, i));
    }
}

static void printed_tree_parses_back_to_itself(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "a: 1\nb: {c: [], d: {}, e: [[1, 2], [x: y]], f: ~}\ng:\n",
        "a: 'null'\nb: \"\"\nc: '~'\nd: null\ne: \"x\\ty\\n z\\\\ \\\" \\x85 \\L \\uFEFF \\e\"\n",
        "'key: with # all': '- x'\n\"\\n\": '...'\n'---': '---'\n",
        "a: -1\nb: -.5\nc: '-'\nd: |\n  several\n   lines\n\ne: >\n  folded\n  text\n",
        "- - - 1\n- \n- a: b\n  c: d\n",
        "\xC3\xA9t\xC3\xA9: \xE2\x82\xAC \xF0\x9F\x9A\x80\n",
        "[]",
        "{}",
        "word",
        "",
        "'two words: '",
    };

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char *first = NULL, *second = NULL;
        cvy_node *back = NULL, *root = parse(texts[i]);
        assert_ok(cvy_node_print(root, &first));
        assert_ok(cvy_node_parse(first, strlen(first), "printed", &back));
        assert_same_tree(root, back);
        assert_ok(cvy_node_print(back, &second));
        assert_string_equal(first, second);
        cvy_free(first);
        cvy_free(second);
        cvy_node_destroy(&back);
        cvy_node_destroy(&root);
    }
}

static void print_is_block_style(void **state)
{
    (void)state;
    char *text = NULL;
    cvy_node *root = parse("{a: {b: [1, {c: d e}]}, f: []}");

    assert_ok(cvy_node_print(root, &text));
    assert_string_equal(text, "a:\n  b:\n    - 1\n    -\n      c: \"d e\"\nf: []\n");
    cvy_free(text);
    cvy_node_destroy(&root);
}

static void added_nodes_are_found_and_placed(void **state)
{
    (void)state;
    char place[64];
    cvy_node *root = parse("a: 1\nb:\n"), *section = NULL;

    assert_ok(cvy_node_add(root, "b", "null"));
    assert_ok(cvy_node_add_mapping(root, "c", &section));
    assert_ok(cvy_node_add(section, "d", "x y"));
    assert_false(cvy_node_is_null(cvy_node_find(root, "b")));
    assert_string_equal(text_at(cvy_node_find(root, "c"), "d"), "x y");
    assert_int_equal(cvy_node_n_items(root), 3);
    cvy_node_place(section, place, sizeof place);
    assert_string_equal(place, "job.yaml:1:1");
    cvy_node_destroy(&root);
}

static void removed_entries_are_gone_and_the_others_keep_their_order(void **state)
{
    (void)state;
    cvy_node *root = NULL;
    const char text[] = "{a: 1, b: {x: [1, 2]}, c: 3}";
    assert_ok(cvy_node_parse(text, strlen(text), "job.yaml", &root));
    cvy_node_remove(root, "b");
    cvy_node_remove(root, "b"); /* lacking is fine */
    assert_int_equal(cvy_node_n_items(root), 2);
    assert_string_equal(cvy_node_key(root, 0), "a");
    assert_string_equal(cvy_node_text(cvy_node_find(root, "c")), "3");
    assert_null(cvy_node_find(root, "b"));
    cvy_node_remove(root, "a");
    cvy_node_remove(root, "c");
    assert_int_equal(cvy_node_n_items(root), 0);
    assert_ok(cvy_node_add(root, "d", "4"));
    assert_string_equal(cvy_node_text(cvy_node_find(root, "d")), "4");
    cvy_node_destroy(&root);
}

static void copy_is_a_root_of_its_own(void **state)
{
    (void)state;
    char place[64];
    cvy_node *root = parse("a: {b: [1, 'null'], c: }\n"), *copy = NULL;

    assert_ok(cvy_node_copy(cvy_node_find(root, "a"), &copy));
    assert_same_tree(cvy_node_find(root, "a"), copy);
    cvy_node_destroy(&root);
    cvy_node_place(cvy_node_item(cvy_node_find(copy, "b"), 0), place, sizeof place);
    assert_string_equal(place, "job.yaml:1:9");
    cvy_node_destroy(&copy);
}

/* Parse, change, copy and print; the first failure comes back. */
static cvy_status work(void)
{
    static const char text[] = "a: {b: [1, 2, 3, 4, 5, 6, 7, 8, 9]}\nc: x\n";
    cvy_status status = CVY_OK;
    cvy_node *root = NULL, *copy = NULL;
    char *printed = NULL;

    CVY_GOTO_IF_ERR(done, status, cvy_node_parse(text, strlen(text), "job.yaml", &root));
    CVY_GOTO_IF_ERR(done, status, cvy_node_set(root, "d.e.f=[1, 2]"));
    CVY_GOTO_IF_ERR(done, status, cvy_node_set(root, "c=y"));
    CVY_GOTO_IF_ERR(done, status, cvy_node_add(root, "g", "h"));
    CVY_GOTO_IF_ERR(done, status, cvy_node_copy(root, &copy));
    CVY_GOTO_IF_ERR(done, status, cvy_node_print(copy, &printed));
done:
    cvy_free(printed);
    cvy_node_destroy(&copy);
    cvy_node_destroy(&root);
    return status;
}

static void no_memory_is_reported_and_nothing_leaks(void **state)
{
    (void)state;
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;
    int64_t k = 0;

    test_log_expect("out of memory");
    cvy_alloc_count(&before);
    for (; status != CVY_OK; k++) {
        cvy_alloc_fail_at(k);
        status = work();
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
    assert_true(k > 30);
}

static void drop(void *arg, cvy_log_level level, const char *folder, const char *message)
{
    (void)level;
    (void)folder;
    assert_non_null(message);
    ++*(int *)arg;
}

static unsigned next_random(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void mutate(char *text, size_t *size, unsigned *seed)
{
    static const char marks[] = "[]{}:,-&*!|>'\"%@`#?~\n\t ";
    const size_t at = next_random(seed) % *size;
    const unsigned kind = next_random(seed) % 4;

    if (kind == 0) text[at] = (char)next_random(seed);
    if (kind == 1) text[at] = marks[next_random(seed) % (sizeof marks - 1)];
    if (kind == 2) text[at] = text[next_random(seed) % *size];
    if (kind == 3 && next_random(seed) % 8 == 0) *size = at + 1;
}

static void mutated_documents_never_crash(void **state)
{
    static const char valid[] =
        "name: x\nmodel: {arch: resnet20, classes: 10}\ndata:\n  train: {path: "
        "\"d\\n\", augment: [{pad: 4}, {flip: 0.5}]}\n  val:\n    path: 'e'\n"
        "# note\nlist:\n- a\n- |\n  text\n- 7\n";
    int n_lines = 0, n_good = 0;
    unsigned seed = 1;

    cvy_log_set_sink(drop, &n_lines);
    for (int i = 0; i < 20000; i++) {
        char text[sizeof valid];
        size_t size = sizeof valid - 1;
        cvy_node *root = NULL;
        memcpy(text, valid, sizeof valid);
        for (unsigned n = 1 + next_random(&seed) % 4; n > 0; n--) mutate(text, &size, &seed);
        const cvy_status status = cvy_node_parse(text, size, "fuzz", &root);
        assert_true(status == CVY_OK || status == CVY_ERR_CONFIG);
        if (status == CVY_OK) {
            char *printed = NULL;
            cvy_node *back = NULL;
            n_good++;
            assert_ok(cvy_node_print(root, &printed));
            assert_ok(cvy_node_parse(printed, strlen(printed), "printed", &back));
            assert_same_tree(root, back);
            cvy_free(printed);
            cvy_node_destroy(&back);
        }
        cvy_node_destroy(&root);
    }
    assert_int_equal(test_log_open(state), 0);
    assert_int_equal(n_lines + n_good, 20000); /* one line a refusal */
    assert_true(n_good > 100);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(document_becomes_tree),
    cvy_unit_test(place_gives_line_and_column),
    cvy_unit_test(mark_and_crlf_are_accepted),
    cvy_unit_test(empty_text_is_null),
    cvy_unit_test(foreign_yaml_is_refused_with_place),
    cvy_unit_test(foreign_bytes_are_refused_with_place),
    cvy_unit_test(endless_documents_are_refused),
    cvy_unit_test(nesting_of_32_is_accepted),
    cvy_unit_test(files_that_are_none_are_refused),
    cvy_unit_test(large_file_is_refused_by_size),
    cvy_unit_test(unreadable_file_is_a_permission_error),
    cvy_unit_test(file_is_parsed_and_named),
    cvy_unit_test(set_overrides_adds_and_makes_the_way),
    cvy_unit_test(set_refuses_what_leads_nowhere),
    cvy_unit_test(printed_tree_parses_back_to_itself),
    cvy_unit_test(print_is_block_style),
    cvy_unit_test(added_nodes_are_found_and_placed),
    cvy_unit_test(removed_entries_are_gone_and_the_others_keep_their_order),
    cvy_unit_test(copy_is_a_root_of_its_own),
    cvy_unit_test(no_memory_is_reported_and_nothing_leaks),
    cvy_unit_test(mutated_documents_never_crash),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
