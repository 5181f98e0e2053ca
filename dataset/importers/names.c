#include "dataset/importers/import_internal.h"

#include "base/alloc.h"
#include "base/file.h"

#include <stdlib.h>
#include <string.h>

#define FILE_LIMIT_BYTES ((size_t)16 << 20)

void dataset_names_free(dataset_names *names)
{
    for (int i = 0; i < names->n; i++) cvy_free(names->name[i]);
    cvy_free(names->name);
    *names = (dataset_names){0};
}

cvy_status dataset_names_add(dataset_names *names, const char *name)
{
    if (names->n == names->room) {
        const int room = names->room == 0 ? 16 : 2 * names->room;
        char **larger = cvy_realloc(names->name, (size_t)room * sizeof *larger);
        if (larger == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "list of %d names", room);
        names->name = larger;
        names->room = room;
    }
    names->name[names->n] = cvy_strdup(name);
    if (names->name[names->n] == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "name %s", name);
    names->n++;
    return CVY_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void dataset_names_sort(dataset_names *names)
{
    if (names->n > 1) {
        qsort(names->name, (size_t)names->n, sizeof *names->name, compare_names);
    }
}

int dataset_names_place(const dataset_names *names, const char *name)
{
    for (int i = 0; i < names->n; i++) {
        if (strcmp(names->name[i], name) == 0) return i;
    }
    return -1;
}

/* Cut blanks off both ends, in place. */
static char *trim(char *line)
{
    size_t n = strlen(line);

    while (n > 0 && strchr(" \t\r", line[n - 1]) != NULL) line[--n] = '\0';
    return line + strspn(line, " \t");
}

static cvy_status add_lines(const char *path, char *text, dataset_names *names)
{
    int n_empty = 0, number = 0;

    for (char *line = text; line != NULL; number++) {
        char *end = strchr(line, '\n');
        if (end != NULL) *end = '\0';
        const char *name = trim(line);
        line = end == NULL ? NULL : end + 1;
        if (name[0] == '\0') {
            n_empty++;
            continue;
        }
        if (n_empty > 0) {
            return CVY_FAIL(CVY_ERR_BAD_DATA, "%s:%d: empty line before class %s", path, number,
                            name);
        }
        const int place = dataset_names_place(names, name);
        if (place >= 0) {
            return CVY_FAIL(CVY_ERR_BAD_DATA, "%s:%d: class %s is also on line %d", path,
                            number + 1, name, place + 1);
        }
        CVY_RETURN_IF_ERR(dataset_names_add(names, name));
    }
    if (names->n > 0) return CVY_OK;
    return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: no class names, expected one a line", path);
}

cvy_status dataset_names_read(const char *path, dataset_names *out)
{
    dataset_names names = {0};
    cvy_reason reason = {""};
    char *text = NULL;
    size_t size = 0;

    cvy_status status = cvy_file_read(path, FILE_LIMIT_BYTES, &text, &size, &reason);
    if (status != CVY_OK) return CVY_FAIL(status, "%s", reason.text);
    if (memchr(text, '\0', size) != NULL) {
        status = CVY_FAIL(CVY_ERR_BAD_DATA, "%s: has NUL bytes, expected text", path);
    } else {
        status = add_lines(path, text, &names);
    }
    cvy_free(text);
    if (status == CVY_OK) {
        *out = names;
    } else {
        dataset_names_free(&names);
    }
    return status;
}

cvy_status dataset_names_find(const char *folder, const char *const *files, dataset_names *out)
{
    cvy_status status = CVY_OK;
    int is_found = 0;

    for (int i = 0; files[i] != NULL && !is_found && status == CVY_OK; i++) {
        char *path = cvy_path_join(folder, files[i]);
        if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path in %s", folder);
        is_found = cvy_file_exists(path);
        if (is_found) status = dataset_names_read(path, out);
        cvy_free(path);
    }
    return status;
}
