#include "base/alloc.h"

#include "tests/support/test_support.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void block_of_any_size_is_aligned_and_counted(void **state)
{
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4096, (size_t)5 << 20};
    cvy_alloc_counts before, during, after;

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        cvy_alloc_count(&before);
        unsigned char *block = cvy_alloc(sizes[i]);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % CVY_ALIGN_BYTES, 0);
        memset(block, 0xab, sizes[i]);
        cvy_alloc_count(&during);
        cvy_free(block);
        cvy_alloc_count(&after);
        assert_int_equal(during.n_live, before.n_live + 1);
        assert_int_equal(during.live_bytes, before.live_bytes + (int64_t)sizes[i]);
        assert_int_equal(during.n_ever, before.n_ever + 1);
        assert_int_equal(after.n_live, before.n_live);
        assert_int_equal(after.live_bytes, before.live_bytes);
        assert_int_equal(after.n_ever, during.n_ever);
    }
    cvy_free(NULL);
}

static void zeroed_block_is_zero_where_an_old_one_lay(void **state)
{
    (void)state;
    unsigned char *dirty = cvy_alloc(1000);
    assert_non_null(dirty);
    memset(dirty, 0xff, 1000);
    cvy_free(dirty);
    unsigned char *block = cvy_alloc_zero(100, 10);
    assert_non_null(block);
    for (int i = 0; i < 1000; i++) assert_int_equal(block[i], 0);
    cvy_free(block);
}

static void size_that_overflows_gives_null(void **state)
{
    (void)state;
    assert_null(cvy_alloc(SIZE_MAX));
    assert_null(cvy_alloc(SIZE_MAX - 64));
    assert_null(cvy_alloc_zero(SIZE_MAX / 2, 3));
}

static void grown_and_shrunk_block_keeps_its_bytes(void **state)
{
    cvy_alloc_counts before, after;

    (void)state;
    cvy_alloc_count(&before);
    char *block = cvy_realloc(NULL, 8);
    assert_non_null(block);
    memcpy(block, "convoy!", 8);
    block = cvy_realloc(block, 100000);
    assert_non_null(block);
    assert_string_equal(block, "convoy!");
    block = cvy_realloc(block, 4);
    assert_non_null(block);
    assert_memory_equal(block, "conv", 4);
    cvy_free(block);
    cvy_alloc_count(&after);
    assert_int_equal(after.n_live, before.n_live);
    assert_int_equal(after.live_bytes, before.live_bytes);
}

static void block_is_kept_when_growing_it_fails(void **state)
{
    (void)state;
    char *block = cvy_strdup("kept");
    assert_non_null(block);
    cvy_alloc_fail_at(0);
    assert_null(cvy_realloc(block, 1000));
    assert_string_equal(block, "kept");
    cvy_free(block);
}

static void text_is_formatted_to_its_length(void **state)
{
    (void)state;
    char *text = cvy_text_format("%s-%03d", "step", 7);
    assert_non_null(text);
    assert_string_equal(text, "step-007");
    cvy_free(text);
}

static void chosen_allocation_fails_once(void **state)
{
    (void)state;
    cvy_alloc_fail_at(2);
    void *first = cvy_alloc(1);
    void *second = cvy_alloc_zero(1, 1);
    void *third = cvy_alloc(1);
    char *fourth = cvy_strdup("x");
    assert_non_null(first);
    assert_non_null(second);
    assert_null(third);
    assert_non_null(fourth);
    cvy_free(first);
    cvy_free(second);
    cvy_free(fourth);

    cvy_alloc_fail_at(0);
    cvy_alloc_fail_at(-1);
    void *block = cvy_alloc(1);
    assert_non_null(block);
    cvy_free(block);

    cvy_alloc_fail_at(0);
    assert_null(cvy_text_format("%d", 1));
    cvy_alloc_fail_at(0);
    assert_null(cvy_strdup("x"));
}

static void *alloc_many(void *arg)
{
    (void)arg;
    for (int i = 0; i < 5000; i++) cvy_free(cvy_alloc((size_t)(i % 100)));
    return NULL;
}

static void counts_of_several_threads_add_up(void **state)
{
    pthread_t threads[4];
    cvy_alloc_counts before, after;

    (void)state;
    cvy_alloc_count(&before);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, alloc_many, NULL), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    cvy_alloc_count(&after);
    assert_int_equal(after.n_live, before.n_live);
    assert_int_equal(after.live_bytes, before.live_bytes);
    assert_int_equal(after.n_ever, before.n_ever + 4 * 5000);
}

static void checked_sizes_tell_overflow(void **state)
{
    size_t out = 77;

    (void)state;
    assert_true(cvy_size_mul(6, 7, &out));
    assert_int_equal(out, 42);
    assert_true(cvy_size_mul(0, SIZE_MAX, &out));
    assert_int_equal(out, 0);
    assert_true(cvy_size_mul(SIZE_MAX, 1, &out));
    assert_true(out == SIZE_MAX);
    assert_false(cvy_size_mul(SIZE_MAX / 2 + 1, 2, &out));
    assert_true(cvy_size_add(SIZE_MAX - 1, 1, &out));
    assert_true(out == SIZE_MAX);
    assert_false(cvy_size_add(SIZE_MAX, 1, &out));
    assert_true(out == SIZE_MAX); /* written only on success */
}

static void narrowing_keeps_what_fits_and_aborts_on_the_rest(void **state)
{
    int wait_status = 0;

    (void)state;
    assert_int_equal(cvy_to_int(INT_MAX), INT_MAX);
    assert_int_equal(cvy_to_int(INT_MIN), INT_MIN);
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        _exit(cvy_to_int((int64_t)INT_MAX + 1) == 0);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_true(WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGABRT);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(block_of_any_size_is_aligned_and_counted),
        cvy_unit_test(zeroed_block_is_zero_where_an_old_one_lay),
        cvy_unit_test(size_that_overflows_gives_null),
        cvy_unit_test(grown_and_shrunk_block_keeps_its_bytes),
        cvy_unit_test(block_is_kept_when_growing_it_fails),
        cvy_unit_test(text_is_formatted_to_its_length),
        cvy_unit_test(chosen_allocation_fails_once),
        cvy_unit_test(counts_of_several_threads_add_up),
        cvy_unit_test(checked_sizes_tell_overflow),
        cvy_unit_test(narrowing_keeps_what_fits_and_aborts_on_the_rest),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
