#ifndef TESTS_DATASET_STORE_SUPPORT_H
#define TESTS_DATASET_STORE_SUPPORT_H

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "dataset/store.h"
#include "tests/support/test_support.h"

#include <lmdb.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Small datasets to try things on, and children to let them die. */

#define MAX_WIDTH 3000

/* "FOLDER/NAME"; lives to the end of the program. */
static inline const char *path_in(const char *folder, const char *name)
{
    static char text[1 << 18];
    static size_t n_used;
    char *path = text + n_used;
    const size_t n_folder = strlen(folder);
    const size_t n_name = strlen(name) + 1;

    assert_true(n_used + n_folder + 1 + n_name <= sizeof text);
    memcpy(path, folder, n_folder);
    path[n_folder] = '/';
    memcpy(path + n_folder + 1, name, n_name);
    n_used += n_folder + 1 + n_name;
    return path;
}

/* A name for a new dataset that no other test has. */
static inline const char *new_dataset_path(void)
{
    return path_in(test_folder(), "set.lmdb");
}

/* Record idx of a test dataset: 1 x 1 x W bytes, some longer than a page of LMDB. */
static inline dataset_datum test_record(int64_t idx, uint8_t pixels[MAX_WIDTH])
{
    const int64_t width = 20 + idx * 137 % 2900;

    for (int64_t i = 0; i < width; i++) pixels[i] = (uint8_t)(idx * 31 + i * i);
    const dataset_datum datum = {.channels = 1,
                                 .height = 1,
                                 .width = width,
                                 .label = (int32_t)(idx % 3),
                                 .has_label = 1,
                                 .data = pixels,
                                 .data_bytes = (size_t)width};
    return datum;
}

static inline int is_test_record(const dataset_datum *datum, int64_t idx)
{
    uint8_t pixels[MAX_WIDTH];
    const dataset_datum expected = test_record(idx, pixels);

    return datum->label == expected.label && datum->width == expected.width &&
           datum->channels == 1 && datum->height == 1 && datum->data_bytes == expected.data_bytes &&
           memcmp(datum->data, expected.data, expected.data_bytes) == 0;
}

static inline void make_dataset(const char *path, int64_t n)
{
    static const char *const names[] = {"ant", "bee", "cat"};
    const dataset_writer_options options = {.n_classes = 3, .class_names = names, .source = "test"};
    uint8_t pixels[MAX_WIDTH];
    dataset_writer *writer = NULL;

    assert_ok(dataset_writer_create(path, &options, &writer));
    for (int64_t i = 0; i < n; i++) {
        const dataset_datum datum = test_record(i, pixels);
        assert_ok(dataset_writer_put(writer, &datum));
    }
    dataset_writer_add_stat(writer, 0, 4.0, 2.0, 1.5);
    assert_ok(dataset_writer_commit(&writer));
    /* Tests damage it, not only when they run as root. */
    assert_int_equal(chmod(path_in(path, "data.mdb"), 0644), 0);
}

/* A database as another program writes it. */
static inline void make_foreign(const char *path, unsigned dbi_flags, int n, MDB_val *keys,
                                MDB_val *values)
{
    MDB_env *env = NULL;
    MDB_txn *txn = NULL;
    MDB_dbi dbi = 0;

    assert_ok(cvy_file_make_folders(path));
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_set_mapsize(env, (size_t)1 << 40), 0); /* as Caffe did */
    assert_int_equal(mdb_env_open(env, path, 0, 0664), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, NULL, dbi_flags, &dbi), 0);
    for (int i = 0; i < n; i++) assert_int_equal(mdb_put(txn, dbi, &keys[i], &values[i], 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

static inline void open_quietly(const char *path, dataset_store **out)
{
    assert_ok(dataset_store_open(path, NULL, out));
}

/* Overwrite bytes of a file. */
static inline void poke(const char *file, long offset, const void *bytes, size_t n)
{
    const int fd = open(file, O_WRONLY);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, offset), (ssize_t)n);
    close(fd);
}

static inline void write_text(const char *file, const void *bytes, size_t n)
{
    const int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), (ssize_t)n);
    close(fd);
}

/* Replace the first `from` of a text file by `to`. */
static inline void edit_text(const char *file, const char *from, const char *to)
{
    char *text = NULL;
    size_t size_bytes = 0;
    char edited[65536];

    assert_ok(cvy_file_read(file, sizeof edited, &text, &size_bytes, NULL));
    const char *place = strstr(text, from);
    assert_non_null(place);
    const int n = snprintf(edited, sizeof edited, "%.*s%s%s", (int)(place - text), text, to,
                           place + strlen(from));
    write_text(file, edited, (size_t)n);
    cvy_free(text);
}

static inline MDB_val text_key(const char *text)
{
    const MDB_val key = {.mv_size = strlen(text), .mv_data = (void *)(uintptr_t)text};

    return key;
}

/* Everything that allocates on the way to a record. */
static inline cvy_status open_and_read(const char *path)
{
    dataset_store *store = NULL;
    dataset_reader *reader = NULL;
    dataset_datum datum;
    cvy_status status = dataset_store_open(path, NULL, &store);

    if (status == CVY_OK) status = dataset_reader_create(store, &reader);
    if (status == CVY_OK) status = dataset_reader_get(reader, 0, &datum, NULL);
    if (status == CVY_OK) status = dataset_store_verify(store, NULL, NULL, NULL);
    dataset_reader_destroy(&reader);
    dataset_store_close(&store);
    return status;
}

static inline void fail_every_allocation(const char *path)
{
    cvy_alloc_counts before;
    cvy_alloc_counts after;
    int k = 0;

    cvy_alloc_count(&before);
    test_log_expect("out of memory");
    for (;; k++) {
        cvy_alloc_fail_at(k);
        const cvy_status status = open_and_read(path);
        cvy_alloc_fail_at(-1);
        cvy_alloc_count(&after);
        assert_int_equal(before.n_live, after.n_live);
        if (status == CVY_OK) break;
        assert_status(status, CVY_ERR_NO_MEMORY);
    }
    assert_true(k > 8);
}

/* How a child ended, and the start of what it wrote to stderr. */
typedef struct child_end {
    int exit_code; /* -1: by a signal */
    int signal;
    char text[8192];
} child_end;

/* Run a function in a child whose lines go to its own stderr; it may return an exit code. A child
 * that hangs is killed by SIGALRM. */
static inline void run_child(int (*function)(void *arg), void *arg, child_end *out)
{
    char name[] = "/tmp/convoy-child-XXXXXX";
    int status = 0;
    const int fd = mkstemp(name);

    assert_true(fd >= 0);
    assert_int_equal(unlink(name), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(60);
        dup2(fd, STDERR_FILENO);
        cvy_log_set_sink(NULL, NULL);
        _exit(function(arg));
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    memset(out, 0, sizeof *out);
    out->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    out->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    const ssize_t n = pread(fd, out->text, sizeof out->text - 1, 0);
    assert_true(n >= 0);
    close(fd);
}

/* Give up root, whom no permission stops; 0: done, or was not root. */
static inline int become_nobody(void)
{
    if (geteuid() != 0) return 0;
    return setgid(65534) == 0 && setuid(65534) == 0 ? 0 : -1;
}

/* Let everybody into the folder that tests have of their own, which only root may enter. */
static inline void open_to_nobody(const char *path)
{
    char parent[1024];

    snprintf(parent, sizeof parent, "%s", path);
    for (int i = 0; i < 2; i++) {
        *strrchr(parent, '/') = '\0';
        assert_int_equal(chmod(parent, 0755), 0);
    }
}

#endif
