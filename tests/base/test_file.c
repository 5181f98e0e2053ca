#include "base/file.h"

#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/fault.h"
#include "base/hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A path in a folder of this test, valid until the same slot is asked for again. */
static const char *path_in(const char *folder, const char *name)
{
    static char paths[4][1024];
    static int slot;

    slot = (slot + 1) % 4;
    snprintf(paths[slot], sizeof paths[slot], "%s/%s", folder, name);
    return paths[slot];
}

static void put_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void assert_file_is(const char *path, const char *text)
{
    char *bytes = NULL;
    size_t size_bytes = 0;

    assert_ok(cvy_file_read(path, 1 << 20, &bytes, &size_bytes, NULL));
    assert_int_equal(size_bytes, strlen(text));
    assert_string_equal(bytes, text);
    cvy_free(bytes);
}

static int count_entries(const char *path)
{
    int n_entries = 0;
    DIR *folder = opendir(path);

    assert_non_null(folder);
    while (readdir(folder) != NULL) n_entries++;
    closedir(folder);
    return n_entries - 2; /* . and .. */
}

static void inject(const char *text)
{
    assert_int_equal(setenv("CONVOY_FAULT", text, 1), 0);
    cvy_fault_open(0);
}

static void stop_injecting(void)
{
    assert_int_equal(unsetenv("CONVOY_FAULT"), 0);
    cvy_fault_open(0);
}

static void written_file_has_the_told_length_and_hash(void **state)
{
    const char *path = path_in(test_folder(), "a");
    cvy_file_writer *writer = NULL;
    uint64_t size_bytes = 0, hash = 0, read_bytes = 0, read_hash = 0;

    (void)state;
    assert_ok(cvy_file_writer_open(path, &writer));
    assert_ok(cvy_file_writer_write(writer, "con", 3));
    assert_ok(cvy_file_writer_write(writer, "", 0));
    assert_ok(cvy_file_writer_write(writer, "voy", 3));
    assert_ok(cvy_file_writer_commit(&writer, &size_bytes, &hash));
    assert_null(writer);
    assert_int_equal(size_bytes, 6);
    assert_true(hash == cvy_hash64("convoy", 6));
    assert_file_is(path, "convoy");
    assert_ok(cvy_file_hash(path, &read_bytes, &read_hash, NULL));
    assert_true(read_bytes == size_bytes && read_hash == hash);
}

static void existing_file_and_link_are_not_written_through(void **state)
{
    const char *folder = test_folder();
    const char *path = path_in(folder, "a");
    const char *link_path = path_in(folder, "link");
    cvy_file_writer *writer = NULL;

    (void)state;
    put_file(path, "old");
    test_log_expect("create");
    assert_status(cvy_file_writer_open(path, &writer), CVY_ERR_IO);
    assert_null(writer);
    assert_int_equal(symlink("nowhere", link_path), 0);
    assert_status(cvy_file_writer_open(link_path, &writer), CVY_ERR_IO);
    assert_file_is(path, "old");
    assert_false(cvy_file_exists(path_in(folder, "nowhere")));
}

static void discarded_file_is_gone(void **state)
{
    const char *path = path_in(test_folder(), "a");
    cvy_file_writer *writer = NULL;

    (void)state;
    assert_ok(cvy_file_writer_open(path, &writer));
    assert_ok(cvy_file_writer_write(writer, "x", 1));
    cvy_file_writer_discard(&writer);
    assert_null(writer);
    assert_false(cvy_file_exists(path));
    cvy_file_writer_discard(&writer);
    cvy_file_writer_discard(NULL);
}

static void injected_failure_of_write_or_fsync_leaves_no_file(void **state)
{
    static const struct {
        const char *fault;
        const char *line;
        cvy_status status;
    } rows[] = {
        {"file.write=enospc", "write ", CVY_ERR_CANNOT_WRITE},
        {"file.fsync=eio", "fsync ", CVY_ERR_IO},
        {"file.fsync=edquot", "fsync ", CVY_ERR_CANNOT_WRITE},
    };
    const char *path = path_in(test_folder(), "a");

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cvy_file_writer *writer = NULL;
        inject(rows[i].fault);
        test_log_expect(rows[i].line);
        assert_ok(cvy_file_writer_open(path, &writer));
        cvy_status status = cvy_file_writer_write(writer, "abc", 3);
        /* A failed writer stays failed, and says so only once. */
        if (status != CVY_OK) assert_status(cvy_file_writer_write(writer, "abc", 3), status);
        assert_status(cvy_file_writer_commit(&writer, NULL, NULL), rows[i].status);
        assert_null(writer);
        assert_false(cvy_file_exists(path));
        stop_injecting();
    }
}

/* A limit on the file's size cuts a write short, then fails the rest with EFBIG: runs in a child,
 * since the limit is the process's. */
static void short_write_is_continued_and_its_failure_reported(void **state)
{
    const char *path = path_in(test_folder(), "a");
    int wait_status = 0;

    (void)state;
    const pid_t child = fork();
    if (child == 0) {
        const struct rlimit limit = {.rlim_cur = 4000, .rlim_max = 4000};
        cvy_file_writer *writer = NULL;
        char bytes[6000] = {0};
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(1);
        if (cvy_file_writer_open(path, &writer) != CVY_OK) _exit(2);
        if (cvy_file_writer_write(writer, bytes, 3000) != CVY_OK) _exit(3);
        if (cvy_file_writer_write(writer, bytes, 3000) != CVY_ERR_CANNOT_WRITE) _exit(4);
        if (cvy_file_writer_commit(&writer, NULL, NULL) != CVY_ERR_CANNOT_WRITE) _exit(5);
        _exit(cvy_file_exists(path) ? 6 : 0);
    }
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 0);
}

static void replace_makes_or_changes_the_whole_file(void **state)
{
    const char *folder = test_folder();
    const char *path = path_in(folder, "a");

    (void)state;
    assert_ok(cvy_file_replace(path, "first", 5));
    assert_file_is(path, "first");
    assert_ok(cvy_file_replace(path, "second one", 10));
    assert_file_is(path, "second one");
    assert_ok(cvy_file_replace(path, "", 0));
    assert_file_is(path, "");
    assert_int_equal(count_entries(folder), 1);
}

static void failed_replace_keeps_the_old_file_and_no_temporary(void **state)
{
    static const char *const faults[] = {"file.write=enospc", "file.fsync=eio", "file.rename=eio"};
    const char *folder = test_folder();
    const char *path = path_in(folder, "a");

    (void)state;
    assert_ok(cvy_file_replace(path, "old", 3));
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        inject(faults[i]);
        test_log_expect("a.tmp-");
        assert_true(cvy_file_replace(path, "new", 3) != CVY_OK);
        stop_injecting();
        assert_file_is(path, "old");
        assert_int_equal(count_entries(folder), 1);
    }
}

static void replace_whose_folder_sync_fails_is_reported(void **state)
{
    const char *folder = test_folder();
    const char *path = path_in(folder, "a");

    (void)state;
    inject("file.fsync:count=2=eio");
    test_log_expect("sync folder");
    assert_status(cvy_file_replace(path, "new", 3), CVY_ERR_IO);
    stop_injecting();
    assert_file_is(path, "new");
    assert_int_equal(count_entries(folder), 1);
}

static void replace_of_a_link_replaces_the_link_itself(void **state)
{
    const char *folder = test_folder();
    const char *target = path_in(folder, "target");
    const char *link_path = path_in(folder, "link");
    struct stat info;

    (void)state;
    put_file(target, "kept");
    assert_int_equal(symlink("target", link_path), 0);
    assert_ok(cvy_file_replace(link_path, "new", 3));
    assert_int_equal(lstat(link_path, &info), 0);
    assert_true(S_ISREG(info.st_mode));
    assert_file_is(target, "kept");
}

static void read_gives_the_bytes_and_a_nul(void **state)
{
    const char *path = path_in(test_folder(), "a");
    char *bytes = NULL;
    size_t size_bytes = 0;

    (void)state;
    assert_ok(cvy_file_replace(path, "a\0b", 3));
    assert_ok(cvy_file_read(path, 3, &bytes, &size_bytes, NULL));
    assert_int_equal(size_bytes, 3);
    assert_memory_equal(bytes, "a\0b", 4);
    cvy_free(bytes);
}

static void read_of_a_file_that_tells_no_length_gets_all(void **state)
{
    char *bytes = NULL;
    size_t size_bytes = 0;

    (void)state;
    assert_ok(cvy_file_read("/proc/self/status", 1 << 20, &bytes, &size_bytes, NULL));
    assert_true(size_bytes > 0 && strlen(bytes) == size_bytes);
    assert_non_null(strstr(bytes, "Threads:"));
    cvy_free(bytes);
    assert_status(cvy_file_read("/proc/self/status", 10, &bytes, &size_bytes, NULL),
                  CVY_ERR_BAD_DATA);
    assert_null(bytes);
}

static void read_beyond_the_limit_is_bad_data_and_silent(void **state)
{
    const char *path = path_in(test_folder(), "a");
    char *bytes = NULL;
    cvy_reason reason;

    (void)state;
    put_file(path, "12345");
    assert_status(cvy_file_read(path, 4, &bytes, NULL, &reason), CVY_ERR_BAD_DATA);
    assert_null(bytes);
    assert_non_null(strstr(reason.text, "5 bytes, at most 4"));
}

static void what_is_no_regular_file_is_bad_data(void **state)
{
    const char *folder = test_folder();
    const char *fifo = path_in(folder, "fifo");
    const char *loop = path_in(folder, "loop");
    const char *paths[] = {folder, fifo, loop, "/dev/zero"};
    cvy_reason reason;

    (void)state;
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(symlink("loop", loop), 0);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        char *bytes = NULL;
        uint64_t size_bytes = 0, hash = 0;
        assert_status(cvy_file_read(paths[i], 100, &bytes, NULL, &reason), CVY_ERR_BAD_DATA);
        assert_non_null(strstr(reason.text, "not a regular file"));
        assert_status(cvy_file_hash(paths[i], &size_bytes, &hash, &reason), CVY_ERR_BAD_DATA);
    }
}

static void missing_file_is_not_found_and_silent(void **state)
{
    const char *path = path_in(test_folder(), "none");
    char *bytes = NULL;
    uint64_t size_bytes = 0, hash = 0;
    cvy_reason reason;

    (void)state;
    assert_status(cvy_file_read(path, 100, &bytes, NULL, &reason), CVY_ERR_NOT_FOUND);
    assert_non_null(strstr(reason.text, path));
    assert_status(cvy_file_hash(path, &size_bytes, &hash, NULL), CVY_ERR_NOT_FOUND);
    assert_false(cvy_file_exists(path));
}

static void hash_of_a_long_file_equals_the_hash_of_its_bytes(void **state)
{
    const char *path = path_in(test_folder(), "a");
    const size_t size_bytes = 200001;
    uint64_t read_bytes = 0, hash = 0;
    unsigned char *bytes = cvy_alloc(size_bytes);

    (void)state;
    assert_non_null(bytes);
    for (size_t i = 0; i < size_bytes; i++) bytes[i] = (unsigned char)(i * 7);
    assert_ok(cvy_file_replace(path, bytes, size_bytes));
    assert_ok(cvy_file_hash(path, &read_bytes, &hash, NULL));
    assert_int_equal(read_bytes, size_bytes);
    assert_true(hash == cvy_hash64(bytes, size_bytes));
    cvy_free(bytes);
}

static void folders_are_made_with_their_parents(void **state)
{
    const char *folder = test_folder();

    (void)state;
    assert_ok(cvy_file_make_folders(path_in(folder, "a//b/c/")));
    assert_ok(cvy_file_make_folders(path_in(folder, "a/b/c")));
    assert_true(cvy_file_exists(path_in(folder, "a/b/c")));
    put_file(path_in(folder, "file"), "x");
    test_log_expect("Not a directory");
    assert_true(cvy_file_make_folders(path_in(folder, "file")) != CVY_OK);
    assert_true(cvy_file_make_folders(path_in(folder, "file/below")) != CVY_OK);
}

static void rename_moves_and_reports_failure(void **state)
{
    const char *folder = test_folder();
    const char *from = path_in(folder, "from");
    const char *to = path_in(folder, "to");

    (void)state;
    put_file(from, "x");
    assert_ok(cvy_file_rename(from, to));
    assert_false(cvy_file_exists(from));
    assert_file_is(to, "x");
    test_log_expect("rename ");
    assert_status(cvy_file_rename(from, to), CVY_ERR_NOT_FOUND);
    inject("file.rename=erofs");
    assert_status(cvy_file_rename(to, from), CVY_ERR_CANNOT_WRITE);
    stop_injecting();
    assert_file_is(to, "x");
}

static void removed_tree_is_gone_and_links_are_not_followed(void **state)
{
    const char *folder = test_folder();
    char tree[600];
    char kept[600];

    (void)state;
    snprintf(tree, sizeof tree, "%s/tree", folder);
    snprintf(kept, sizeof kept, "%s/kept", folder);
    assert_ok(cvy_file_make_folders(path_in(tree, "a/b")));
    assert_ok(cvy_file_make_folders(kept));
    put_file(path_in(tree, "a/b/f"), "x");
    put_file(path_in(kept, "f"), "x");
    assert_int_equal(symlink(kept, path_in(tree, "a/link")), 0);
    assert_ok(cvy_file_remove_tree(tree));
    assert_false(cvy_file_exists(tree));
    assert_true(cvy_file_exists(path_in(kept, "f")));
    assert_ok(cvy_file_remove_tree(tree)); /* missing is fine */

    assert_int_equal(symlink(kept, tree), 0);
    test_log_expect("remove folder");
    assert_true(cvy_file_remove_tree(path_in(folder, "tree/")) != CVY_OK);
    assert_true(cvy_file_exists(path_in(kept, "f")));
}

static void paths_are_joined_with_one_slash(void **state)
{
    static const char *const rows[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {"", "b", "b"}};

    (void)state;
    for (int i = 0; i < 4; i++) {
        char *path = cvy_path_join(rows[i][0], rows[i][1]);
        assert_non_null(path);
        assert_string_equal(path, rows[i][2]);
        cvy_free(path);
    }
}

static void free_bytes_are_known_for_a_folder_only_where_it_is(void **state)
{
    const char *folder = test_folder();
    uint64_t n_bytes = 0;

    (void)state;
    assert_ok(cvy_file_free_bytes(folder, &n_bytes));
    assert_true(n_bytes > 0);
    test_log_expect("free space of");
    assert_status(cvy_file_free_bytes(path_in(folder, "none"), &n_bytes), CVY_ERR_NOT_FOUND);
}

static void held_lock_names_its_owner(void **state)
{
    const char *path = path_in(test_folder(), "lock");
    char owner[32];
    int fd = -1, second_fd = -1;

    (void)state;
    assert_ok(cvy_file_lock(path, &fd));
    assert_true(fd >= 0);
    snprintf(owner, sizeof owner, "%ld ", (long)getpid());
    test_log_expect(owner);
    /* flock(2) locks belong to the open file, so the same process is refused like another. */
    assert_status(cvy_file_lock(path, &second_fd), CVY_ERR_CANNOT_WRITE);
    assert_int_equal(second_fd, -1);
    cvy_file_unlock(&fd);
    assert_int_equal(fd, -1);
    cvy_file_unlock(&fd);
    assert_ok(cvy_file_lock(path, &second_fd));
    cvy_file_unlock(&second_fd);
}

static void lock_of_a_killed_process_is_taken_over(void **state)
{
    const char *path = path_in(test_folder(), "lock");
    int ends[2];
    int wait_status = 0, fd = -1;
    char byte = 0;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        int child_fd = -1;
        const char done = cvy_file_lock(path, &child_fd) == CVY_OK ? 'y' : 'n';
        if (write(ends[1], &done, 1) != 1) _exit(1);
        for (;;) pause();
    }
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    test_log_expect(" is locked by process ");
    assert_status(cvy_file_lock(path, &fd), CVY_ERR_CANNOT_WRITE);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_ok(cvy_file_lock(path, &fd));
    cvy_file_unlock(&fd);
    close(ends[0]);
    close(ends[1]);
}

/* One call of everything that allocates; the k-th allocation fails. */
static cvy_status use_everything(const char *folder)
{
    char *bytes = NULL;
    uint64_t hash = 0;
    const char *path = path_in(folder, "sub/a");

    CVY_RETURN_IF_ERR(cvy_file_make_folders(path_in(folder, "sub")));
    CVY_RETURN_IF_ERR(cvy_file_replace(path, "abc", 3));
    CVY_RETURN_IF_ERR(cvy_file_read(path, 100, &bytes, NULL, NULL));
    cvy_free(bytes);
    CVY_RETURN_IF_ERR(cvy_file_hash(path, NULL, &hash, NULL));
    return cvy_file_remove_tree(path_in(folder, "sub"));
}

static void failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    const char *folder = test_folder();
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;
    int k = 0;

    (void)state;
    cvy_alloc_count(&before);
    test_log_expect("out of memory");
    for (; status != CVY_OK; k++) {
        cvy_alloc_fail_at(k);
        status = use_everything(folder);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
    assert_true(k > 5);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(written_file_has_the_told_length_and_hash),
        cvy_unit_test(existing_file_and_link_are_not_written_through),
        cvy_unit_test(discarded_file_is_gone),
        cvy_unit_test(injected_failure_of_write_or_fsync_leaves_no_file),
        cvy_unit_test(short_write_is_continued_and_its_failure_reported),
        cvy_unit_test(replace_makes_or_changes_the_whole_file),
        cvy_unit_test(failed_replace_keeps_the_old_file_and_no_temporary),
        cvy_unit_test(replace_whose_folder_sync_fails_is_reported),
        cvy_unit_test(replace_of_a_link_replaces_the_link_itself),
        cvy_unit_test(read_gives_the_bytes_and_a_nul),
        cvy_unit_test(read_of_a_file_that_tells_no_length_gets_all),
        cvy_unit_test(read_beyond_the_limit_is_bad_data_and_silent),
        cvy_unit_test(what_is_no_regular_file_is_bad_data),
        cvy_unit_test(missing_file_is_not_found_and_silent),
        cvy_unit_test(hash_of_a_long_file_equals_the_hash_of_its_bytes),
        cvy_unit_test(folders_are_made_with_their_parents),
        cvy_unit_test(rename_moves_and_reports_failure),
        cvy_unit_test(removed_tree_is_gone_and_links_are_not_followed),
        cvy_unit_test(paths_are_joined_with_one_slash),
        cvy_unit_test(free_bytes_are_known_for_a_folder_only_where_it_is),
        cvy_unit_test(held_lock_names_its_owner),
        cvy_unit_test(lock_of_a_killed_process_is_taken_over),
        cvy_unit_test(failed_allocation_is_reported_and_leaks_nothing),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
