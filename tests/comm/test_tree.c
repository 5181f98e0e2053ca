#include "comm/bucket_internal.h"
#include "comm/protocol.h"
#include "comm/reduce.h"
#include "comm/tree_internal.h"
#include "tests/support/test_support.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { MAX_REPLICAS = 70, TEXT_BYTES = 2048 };

/* The tree by its definition, as text: "((0 1) 2)". */
static void write_node(int level, int64_t idx, int64_t n_replicas, char *out)
{
    char left[TEXT_BYTES / 2], right[TEXT_BYTES / 2];

    if (level == 0) {
        snprintf(out, TEXT_BYTES / 2, "%d", (int)idx);
        return;
    }
    write_node(level - 1, 2 * idx, n_replicas, left);
    if ((2 * idx + 1) << (level - 1) >= n_replicas) {
        snprintf(out, TEXT_BYTES / 2, "%s", left);
        return;
    }
    write_node(level - 1, 2 * idx + 1, n_replicas, right);
    const size_t n_left = strlen(left), n_right = strlen(right);
    assert_true(n_left + n_right + 4 < TEXT_BYTES / 2);
    out[0] = '(';
    memcpy(out + 1, left, n_left);
    out[n_left + 1] = ' ';
    memcpy(out + n_left + 2, right, n_right);
    memcpy(out + n_left + n_right + 2, ")", 2);
}

/* Texts pushed as nodes are; each entry is the text of a node on the stack. */
typedef struct text_stack {
    int n;
    char text[COMM_TREE_MAX_DEPTH][TEXT_BYTES / 2];
} text_stack;

static void push_text(text_stack *stack, int n_taken, const char *text)
{
    char node[TEXT_BYTES / 2], joined[TEXT_BYTES];

    snprintf(node, sizeof node, "%s", text);
    for (int i = 0; i < n_taken; i++) {
        snprintf(joined, sizeof joined, "(%s %s)", stack->text[--stack->n], node);
        assert_true(strlen(joined) < sizeof node);
        memcpy(node, joined, strlen(joined) + 1);
    }
    memcpy(stack->text[stack->n++], node, sizeof node);
}

static void any_number_of_workers_builds_the_tree_of_the_definition(void **state)
{
    char expected[TEXT_BYTES / 2];
    static text_stack whole_text, part_text;
    (void)state;

    for (int64_t n_replicas = 1; n_replicas <= MAX_REPLICAS; n_replicas++) {
        int level = 0;
        while (((int64_t)1 << level) < n_replicas) level++;
        write_node(level, 0, n_replicas, expected);
        for (int n_workers = 1; n_workers <= n_replicas; n_workers += n_workers < 9 ? 1 : 7) {
            comm_tree_stack whole = comm_tree_open(n_replicas);
            whole_text.n = 0;
            for (int w = 0; w < n_workers; w++) {
                comm_tree_stack part = comm_tree_open(n_replicas);
                int64_t first = 0, n = 0;
                comm_replica_range(n_replicas, n_workers, w, &first, &n);
                part_text.n = 0;
                for (int64_t i = first; i < first + n; i++) {
                    char leaf[16];
                    snprintf(leaf, sizeof leaf, "%d", (int)i);
                    push_text(&part_text, comm_tree_push_replica(&part, i), leaf);
                    assert_int_equal(part.n, part_text.n);
                }
                for (int i = 0; i < part.n; i++)
                    push_text(&whole_text, comm_tree_push(&whole, part.node[i]), part_text.text[i]);
            }
            assert_int_equal(whole.n, 1);
            assert_string_equal(whole_text.text[0], expected);
        }
    }
}

static void large_tree_needs_few_waiting_nodes(void **state)
{
    const int64_t n_replicas = 1000003;
    comm_tree_stack stack = comm_tree_open(n_replicas);
    int n_most = 0;
    (void)state;

    for (int64_t i = 0; i < n_replicas; i++) {
        (void)comm_tree_push_replica(&stack, i);
        if (stack.n > n_most) n_most = stack.n;
    }
    assert_int_equal(stack.n, 1);
    assert_true(n_most <= 20);
}

static void replica_ranges_are_contiguous_and_even(void **state)
{
    (void)state;
    for (int64_t n_replicas = 1; n_replicas < 40; n_replicas++) {
        for (int n_workers = 1; n_workers <= n_replicas; n_workers++) {
            int64_t next = 0, before = INT64_MAX;
            for (int w = 0; w < n_workers; w++) {
                int64_t first = -1, n = -1;
                comm_replica_range(n_replicas, n_workers, w, &first, &n);
                assert_int_equal(first, next);
                assert_true(n >= n_replicas / n_workers && n <= n_replicas / n_workers + 1);
                assert_true(n <= before);
                before = n;
                next += n;
            }
            assert_int_equal(next, n_replicas);
        }
    }
}

static void segments_cover_the_vector_once(void **state)
{
    static const int64_t sizes[] = {1, 15, 16, 17, 100, 1000, 4096, 4097, 65537};
    static const int64_t bucket_sizes[] = {1, 16, 100, 1024, 1 << 20};
    (void)state;

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (size_t j = 0; j < sizeof bucket_sizes / sizeof bucket_sizes[0]; j++) {
            for (int n_workers = 1; n_workers <= 7; n_workers++) {
                const comm_buckets b = comm_buckets_make(sizes[i], bucket_sizes[j], n_workers);
                int64_t next = 0;
                assert_int_equal(b.bucket_elems % COMM_REDUCE_ALIGN, 0);
                for (int bucket = 0; bucket < b.n_buckets; bucket++) {
                    assert_int_equal(comm_bucket_offset(&b, bucket), next);
                    assert_true(comm_bucket_n(&b, bucket) > 0);
                    for (int w = 0; w < n_workers; w++) {
                        int64_t offset = -1, n = -1;
                        comm_bucket_segment(&b, bucket, w, &offset, &n);
                        assert_int_equal(offset, next);
                        assert_true(n == 0 || offset % COMM_REDUCE_ALIGN == 0);
                        next += n;
                    }
                }
                assert_int_equal(next, sizes[i]);
            }
        }
    }
}

static void segments_of_a_bucket_differ_by_one_unit_at_most(void **state)
{
    const comm_buckets b = comm_buckets_make(1 << 20, 100000, 3);
    (void)state;

    for (int bucket = 0; bucket < b.n_buckets - 1; bucket++) {
        int64_t least = INT64_MAX, most = 0;
        for (int w = 0; w < 3; w++) {
            int64_t offset = 0, n = 0;
            comm_bucket_segment(&b, bucket, w, &offset, &n);
            if (n < least) least = n;
            if (n > most) most = n;
        }
        assert_true(most - least <= COMM_REDUCE_ALIGN);
    }
}

static void phase_outside_the_list_has_a_text(void **state)
{
    (void)state;
    assert_string_equal(comm_phase_text(COMM_PHASE_START), "start");
    assert_string_equal(comm_phase_text(COMM_PHASE_RESUME), "resume");
    assert_string_equal(comm_phase_text((comm_phase)(COMM_PHASE_RESUME + 1)), "unknown");
    assert_string_equal(comm_phase_text((comm_phase)-1), "unknown");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(any_number_of_workers_builds_the_tree_of_the_definition),
        cvy_unit_test(large_tree_needs_few_waiting_nodes),
        cvy_unit_test(replica_ranges_are_contiguous_and_even),
        cvy_unit_test(segments_cover_the_vector_once),
        cvy_unit_test(segments_of_a_bucket_differ_by_one_unit_at_most),
        cvy_unit_test(phase_outside_the_list_has_a_text),
    };
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
