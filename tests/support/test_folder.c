#include "tests/support/test_support.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The one folder of this program; test folders are numbered within it. A path short enough for
 * sockets and long enough for any TMPDIR a test machine sets. */
static char root[512];
static char current[600];
static int n_folders;
static pid_t owner;

static void remove_root(void)
{
    /* A forked child that exits must not take its parent's folder away. */
    if (getpid() == owner) (void)cvy_file_remove_tree(root);
}

static void make_root(void)
{
    const char *parent = getenv("TMPDIR");

    if (parent == NULL || parent[0] != '/') parent = "/tmp";
    const int n_chars = snprintf(root, sizeof root, "%s/convoy-test-XXXXXX", parent);
    assert_true(n_chars > 0 && (size_t)n_chars < sizeof root);
    if (mkdtemp(root) == NULL) {
        root[0] = '\0';
        fail_msg("no folder for tests can be made in %s", parent);
    }
    owner = getpid();
    assert_int_equal(atexit(remove_root), 0);
}

const char *test_folder(void)
{
    if (root[0] == '\0') make_root();
    snprintf(current, sizeof current, "%s/%d", root, n_folders++);
    assert_ok(cvy_file_make_folders(current));
    return current;
}
