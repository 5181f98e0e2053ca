#include "coordinator/checkpoints.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "base/safetensors.h"
#include "coordinator/state_internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define STEP_PREFIX  "step-"
#define TRASH_PREFIX ".trash-"
#define TMP_MARK     ".tmp-"
#define LATEST_NAME  "latest"
#define PATH_BYTES   1024
#define MAX_LOOKS    100 /* at a folder whose checkpoints come and go meanwhile */

/* Steps, newest first. */
typedef struct step_list {
    int64_t *step; /* owned */
    int n, capacity;
} step_list;

struct coordinator_checkpoints {
    char folder[PATH_BYTES - 128]; /* RUN/checkpoints */
    int64_t keep;
    char tmp[PATH_BYTES];    /* of the last begin; empty: none */
    char newest[PATH_BYTES]; /* what coordinator_checkpoints_newest() gave */
    step_list damaged;       /* what it passed over */
};

/* Step of a published folder's name, "step-00001200"; -1 for any other name. */
static int64_t step_of_name(const char *name)
{
    char *end = NULL;

    if (strncmp(name, STEP_PREFIX, strlen(STEP_PREFIX)) != 0) return -1;
    const char *digits = name + strlen(STEP_PREFIX);
    if (strlen(digits) < 8 || strspn(digits, "0123456789") != strlen(digits)) return -1;
    errno = 0;
    const long long step = strtoll(digits, &end, 10);
    return errno == 0 && *end == 0 && step <= COORDINATOR_MAX_STEP ? step : -1;
}

static void step_name(int64_t step, char *out, size_t out_size)
{
    snprintf(out, out_size, STEP_PREFIX "%08lld", (long long)step);
}

static void close_list(step_list *list)
{
    cvy_free(list->step);
    *list = (step_list){NULL, 0, 0};
}

static int find_step(const step_list *list, int64_t step)
{
    for (int i = 0; i < list->n; i++)
        if (list->step[i] == step) return i;
    return -1;
}

static cvy_status add_step(step_list *list, int64_t step)
{
    if (list->n == list->capacity) {
        const int capacity = list->capacity > 0 ? 2 * list->capacity : 16;
        int64_t *grown = cvy_realloc(list->step, (size_t)capacity * sizeof *grown);
        if (grown == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "list of %d checkpoints", capacity);
        list->step = grown;
        list->capacity = capacity;
    }
    int at = list->n++; /* insertion keeps the newest first; there are a handful */
    for (; at > 0 && list->step[at - 1] < step; at--) list->step[at] = list->step[at - 1];
    list->step[at] = step;
    return CVY_OK;
}

/* All published folders by their names; close_list() them. A folder that cannot be read to its end
 * is an error: a job must not start from zero because half a listing showed no checkpoint. */
static cvy_status list_steps(const char *folder, step_list *out)
{
    step_list list = {NULL, 0, 0};
    cvy_status status = CVY_OK;
    const struct dirent *entry = NULL;
    DIR *handle = opendir(folder);

    *out = list;
    if (handle == NULL && errno == ENOENT) return CVY_OK;
    if (handle == NULL)
        return CVY_FAIL(cvy_status_from_errno(errno), "open %s: %s", folder, strerror(errno));
    for (;;) {
        errno = 0;
        entry = readdir(handle);
        if (entry == NULL) break;
        const int64_t step = step_of_name(entry->d_name);
        if (step >= 0) CVY_GOTO_IF_ERR(done, status, add_step(&list, step));
    }
    if (errno != 0)
        status = CVY_FAIL(cvy_status_from_errno(errno), "list %s: %s", folder, strerror(errno));

done:
    (void)closedir(handle);
    if (status == CVY_OK)
        *out = list;
    else
        close_list(&list);
    return status;
}

/* Is it what a save that was cut short, or a pruning, leaves? */
static int is_leftover(const char *name)
{
    const int may_be_tmp = strncmp(name, STEP_PREFIX, strlen(STEP_PREFIX)) == 0 ||
                           strncmp(name, LATEST_NAME, strlen(LATEST_NAME)) == 0;
    return strncmp(name, TRASH_PREFIX, strlen(TRASH_PREFIX)) == 0 ||
           (may_be_tmp && strstr(name, TMP_MARK) != NULL);
}

/* What dead runs left: temporaries and trash. Nothing here is worth failing for. */
static void sweep(const char *folder)
{
    DIR *handle = opendir(folder);
    char path[PATH_BYTES + 300];
    int n = 0;

    if (handle == NULL) return;
    for (const struct dirent *entry = readdir(handle); entry != NULL; entry = readdir(handle)) {
        if (!is_leftover(entry->d_name)) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        cvy_log_soften(1);
        n += unlink(path) == 0 || cvy_file_remove_tree(path) == CVY_OK;
        cvy_log_soften(-1);
    }
    (void)closedir(handle);
    if (n > 0)
        cvy_log_info("%s: %d leftover%s of an interrupted save removed", folder, n,
                     n == 1 ? "" : "s");
}

cvy_status coordinator_checkpoints_open(const char *run_folder, int64_t keep,
                                        coordinator_checkpoints **out)
{
    coordinator_checkpoints *c = cvy_alloc_zero(1, sizeof *c);

    *out = NULL;
    if (c == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "checkpoints of %s", run_folder);
    c->keep = keep < 2 ? 2 : keep;
    const int n = snprintf(c->folder, sizeof c->folder, "%s/checkpoints", run_folder);
    cvy_status status = CVY_OK;
    if (n < 0 || (size_t)n >= sizeof c->folder)
        status = CVY_FAIL(CVY_ERR_CONFIG, "the path of the run folder is too long: %s", run_folder);
    if (status == CVY_OK) status = cvy_file_make_folders(c->folder);
    if (status != CVY_OK) {
        coordinator_checkpoints_close(&c);
        return status;
    }
    sweep(c->folder);
    *out = c;
    return CVY_OK;
}

void coordinator_checkpoints_close(coordinator_checkpoints **checkpoints)
{
    if (*checkpoints == NULL) return;
    close_list(&(*checkpoints)->damaged);
    cvy_free(*checkpoints);
    *checkpoints = NULL;
}

/* A name that no other process can guess or hit by chance. */
static uint64_t random_word(void)
{
    uint64_t word = 0;
    struct timespec now;

    if (getrandom(&word, sizeof word, GRND_NONBLOCK) == (ssize_t)sizeof word) return word;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15u ^ (uint64_t)getpid();
}

cvy_status coordinator_checkpoints_begin(coordinator_checkpoints *c, int64_t step,
                                         const char **out_folder)
{
    char name[64];

    coordinator_checkpoints_discard(c);
    step_name(step, name, sizeof name);
    snprintf(c->tmp, sizeof c->tmp, "%s/%s" TMP_MARK "%016llx", c->folder, name,
             (unsigned long long)random_word());
    if (mkdir(c->tmp, 0700) != 0) {
        const int error = errno;
        const cvy_status status = CVY_FAIL(error == ENOENT ? CVY_ERR_CANNOT_WRITE
                                                           : cvy_status_from_errno(error),
                                           "make folder %s: %s", c->tmp, strerror(error));
        c->tmp[0] = 0;
        return status;
    }
    *out_folder = c->tmp;
    return CVY_OK;
}

void coordinator_checkpoints_discard(coordinator_checkpoints *c)
{
    if (c->tmp[0] == 0) return;
    cvy_log_soften(1);
    (void)cvy_file_remove_tree(c->tmp); /* else the next start sweeps it */
    cvy_log_soften(-1);
    c->tmp[0] = 0;
}

static cvy_status write_state(const char *folder, const coordinator_state *state)
{
    cvy_status status = CVY_OK;
    char *text = NULL;
    char path[PATH_BYTES + 32];
    cvy_file_writer *writer = NULL;

    CVY_RETURN_IF_ERR(coordinator_state_to_text(state, &text));
    snprintf(path, sizeof path, "%s/" COORDINATOR_STATE_FILE, folder);
    CVY_GOTO_IF_ERR(done, status, cvy_file_writer_open(path, &writer));
    CVY_GOTO_IF_ERR(done, status, cvy_file_writer_write(writer, text, strlen(text)));
    CVY_GOTO_IF_ERR(done, status, cvy_file_writer_commit(&writer, NULL, NULL));
    status = cvy_file_sync_folder(folder);

done:
    cvy_file_writer_discard(&writer);
    cvy_free(text);
    return status;
}

static void trash_name(const coordinator_checkpoints *c, char out[PATH_BYTES])
{
    snprintf(out, PATH_BYTES, "%s/" TRASH_PREFIX "%016llx", c->folder,
             (unsigned long long)random_word());
}

static void remove_step(const coordinator_checkpoints *c, int64_t step)
{
    char name[64], from[PATH_BYTES], to[PATH_BYTES];

    step_name(step, name, sizeof name);
    snprintf(from, sizeof from, "%s/%s", c->folder, name);
    trash_name(c, to);
    if (cvy_file_rename(from, to) == CVY_OK) (void)cvy_file_remove_tree(to);
}

/* Keep the newest `keep` that are not known to be damaged. One that is newer than the one just
 * published is damaged too: training had gone on from it otherwise. Those make room only when
 * enough others stand. */
static void prune(const coordinator_checkpoints *c, int64_t published)
{
    step_list steps = {NULL, 0, 0};
    int64_t n_good = 0;

    cvy_log_soften(1);
    if (list_steps(c->folder, &steps) != CVY_OK) steps.n = 0;
    for (int pass = 0; pass < 2; pass++) {
        const int is_enough = n_good >= c->keep;
        n_good = 0;
        for (int i = 0; i < steps.n; i++) {
            const int64_t step = steps.step[i];
            const int is_bad = step > published || find_step(&c->damaged, step) >= 0;
            n_good += !is_bad;
            if (pass == 1 && (is_bad ? is_enough : n_good > c->keep)) remove_step(c, step);
        }
    }
    cvy_log_soften(-1);
    close_list(&steps);
}

/* Give the temporary its name. A checkpoint of the same step that stands already is one that could
 * not be read (else training had gone on from it): it makes way, and comes back should the new one
 * not get there. */
static cvy_status put_in_place(coordinator_checkpoints *c, const char *target)
{
    char aside[PATH_BYTES];
    struct stat about;
    const int is_taken = lstat(target, &about) == 0;

    /* 0700 kept others out of the unfinished one; whoever may see the rest may see it now. */
    if (stat(c->folder, &about) != 0 || chmod(c->tmp, about.st_mode & 0777) != 0) {
        return CVY_FAIL(cvy_status_from_errno(errno), "chmod %s: %s", c->tmp, strerror(errno));
    }
    if (!is_taken) return cvy_file_rename(c->tmp, target);
    trash_name(c, aside);
    cvy_status status = cvy_file_rename(target, aside);
    if (status == CVY_OK) status = cvy_file_rename(c->tmp, target);
    if (status != CVY_OK && lstat(target, &about) != 0) {
        (void)rename(aside, target);
    } else {
        cvy_log_soften(1);
        if (unlink(aside) != 0) (void)cvy_file_remove_tree(aside); /* else the next start does */
        cvy_log_soften(-1);
    }
    return status;
}

cvy_status coordinator_checkpoints_publish(coordinator_checkpoints *c,
                                           const coordinator_state *state)
{
    cvy_status status = CVY_OK;
    cvy_reason reason = {""};
    coordinator_state again;
    char name[64], target[PATH_BYTES], latest[PATH_BYTES];

    CVY_ASSERT(c->tmp[0] != 0);
    step_name(state->step, name, sizeof name);
    snprintf(target, sizeof target, "%s/%s", c->folder, name);
    snprintf(latest, sizeof latest, "%s/" LATEST_NAME, c->folder);

    CVY_GOTO_IF_ERR(fail, status, write_state(c->tmp, state));
    status = coordinator_checkpoint_read(c->tmp, &again, &reason);
    if (status == CVY_OK && !coordinator_state_equal(state, &again))
        status = cvy_because(&reason, CVY_ERR_IO, COORDINATOR_STATE_FILE " has other values");
    if (status != CVY_OK) {
        status = CVY_FAIL(status == CVY_ERR_NO_MEMORY ? status : CVY_ERR_IO,
                          "%s was written, but reads back wrong: %s", c->tmp, reason.text);
        goto fail;
    }
    CVY_GOTO_IF_ERR(fail, status, put_in_place(c, target));
    c->tmp[0] = 0;
    const int was_damaged = find_step(&c->damaged, state->step);
    if (was_damaged >= 0) c->damaged.step[was_damaged] = -1; /* replaced by a whole one */

    /* From here on the checkpoint stands; what fails below costs nothing. */
    cvy_log_soften(1);
    (void)cvy_file_replace(latest, name, strlen(name));
    cvy_log_soften(-1);
    prune(c, state->step);
    return CVY_OK;

fail:
    coordinator_checkpoints_discard(c);
    return status;
}

/* Which tensor is it that is damaged? Read the file as what it is. path has a '/'. */
static cvy_status name_damage(const char *path, cvy_reason *reason)
{
    cvy_safetensors *file = NULL;
    cvy_reason inner = {""};
    const cvy_status status = cvy_safetensors_open(path, (size_t)64 << 30, &file, &inner);

    cvy_safetensors_close(&file);
    return cvy_because(reason, CVY_ERR_BAD_DATA, "%s: %s", strrchr(path, '/') + 1,
                       status != CVY_OK ? inner.text
                                        : "a whole file, but not the one that was published");
}

/* Of a file that cannot be read: is it the checkpoint's fault, or another's? */
static cvy_status kind_of(cvy_status status)
{
    return status == CVY_ERR_PERMISSION || status == CVY_ERR_NO_MEMORY ? status : CVY_ERR_BAD_DATA;
}

static cvy_status check_file(const char *folder, const char *name, uint64_t size_bytes,
                             uint64_t hash, cvy_reason *reason)
{
    char path[PATH_BYTES + 32];
    uint64_t found_bytes = 0, found_hash = 0;
    cvy_reason inner = {""};

    snprintf(path, sizeof path, "%s/%s", folder, name);
    const cvy_status status = cvy_file_hash(path, &found_bytes, &found_hash, &inner);
    if (status != CVY_OK) return cvy_because(reason, kind_of(status), "%s: %s", name, inner.text);
    if (found_bytes != size_bytes) {
        return cvy_because(reason, CVY_ERR_BAD_DATA, "%s has %llu bytes, expected %llu", name,
                           (unsigned long long)found_bytes, (unsigned long long)size_bytes);
    }
    return found_hash == hash ? CVY_OK : name_damage(path, reason);
}

cvy_status coordinator_checkpoint_read(const char *folder, coordinator_state *out,
                                       cvy_reason *reason)
{
    char path[PATH_BYTES + 32];
    char *text = NULL;
    size_t size_bytes = 0;
    coordinator_state state;
    cvy_reason inner = {""};

    if (strlen(folder) >= PATH_BYTES)
        return cvy_because(reason, CVY_ERR_BAD_DATA, "its path is too long");
    snprintf(path, sizeof path, "%s/" COORDINATOR_STATE_FILE, folder);
    cvy_status status = cvy_file_read(path, COORDINATOR_STATE_LIMIT_BYTES, &text, &size_bytes,
                                      &inner);
    if (status != CVY_OK) {
        return cvy_because(reason, kind_of(status), COORDINATOR_STATE_FILE ": %s", inner.text);
    }
    status = coordinator_state_from_text(text, size_bytes, &state, &inner);
    cvy_free(text);
    if (status != CVY_OK)
        return cvy_because(reason, status, COORDINATOR_STATE_FILE ": %s", inner.text);
    CVY_RETURN_IF_ERR(
        check_file(folder, COORDINATOR_MODEL_FILE, state.model_bytes, state.model_hash, reason));
    CVY_RETURN_IF_ERR(check_file(folder, COORDINATOR_OPTIMIZER_FILE, state.optimizer_bytes,
                                 state.optimizer_hash, reason));
    *out = state;
    return CVY_OK;
}

/* Read one published folder; *out_is_gone when a trainer pruned it meanwhile. */
static cvy_status read_step(const char *path, int64_t step, coordinator_state *out,
                            cvy_reason *reason, int *out_is_gone)
{
    coordinator_state state;
    struct stat about;

    cvy_status status = coordinator_checkpoint_read(path, &state, reason);
    *out_is_gone = status != CVY_OK && lstat(path, &about) != 0 && errno == ENOENT;
    if (status == CVY_OK && state.step != step) {
        status = cvy_because(reason, CVY_ERR_BAD_DATA,
                             COORDINATOR_STATE_FILE ": it is of step %lld", (long long)state.step);
    }
    if (status == CVY_OK) *out = state;
    return status;
}

/* The newest whole one of these steps; out is empty when all are damaged. *out_is_gone: one was
 * pruned while it was looked at, so newer ones have come. */
static cvy_status try_steps(const char *folder, const step_list *steps, step_list *damaged,
                            char out[PATH_BYTES], coordinator_state *out_state, int *out_is_gone)
{
    char name[64], path[PATH_BYTES];
    cvy_reason reason = {""};

    out[0] = 0;
    for (int i = 0; i < steps->n; i++) {
        step_name(steps->step[i], name, sizeof name);
        snprintf(path, sizeof path, "%s/%s", folder, name);
        const cvy_status status = read_step(path, steps->step[i], out_state, &reason, out_is_gone);
        if (status == CVY_OK) snprintf(out, PATH_BYTES, "%s", path);
        if (status == CVY_OK || *out_is_gone) return CVY_OK;
        if (status == CVY_ERR_NO_MEMORY) return CVY_FAIL(status, "%s: %s", path, reason.text);
        cvy_log_warn("%s %s (%s): %s", path,
                     status == CVY_ERR_BAD_DATA ? "is damaged" : "cannot be read", reason.text,
                     i + 1 < steps->n ? "the next older one is tried" : "there is no older one");
        if (damaged != NULL) CVY_RETURN_IF_ERR(add_step(damaged, steps->step[i]));
    }
    return CVY_OK;
}

/* The newest whole checkpoint below RUN/checkpoints; out is empty when there is none at all.
 * damaged (may be NULL) gets those that were passed over. */
static cvy_status find_newest(const char *folder, step_list *damaged, char out[PATH_BYTES],
                              coordinator_state *out_state)
{
    cvy_status status = CVY_OK;
    int is_gone = 1;
    int n = 0;

    out[0] = 0;
    for (int look = 0; look < MAX_LOOKS && is_gone && status == CVY_OK; look++) {
        step_list steps = {NULL, 0, 0};
        CVY_RETURN_IF_ERR(list_steps(folder, &steps));
        n = steps.n;
        is_gone = 0;
        status = try_steps(folder, &steps, damaged, out, out_state, &is_gone);
        /* A folder whose entries are all replaced while it is read may look empty. */
        if (n == 0) is_gone = 1;
        close_list(&steps);
    }
    if (status != CVY_OK || out[0] != 0 || n == 0) return status;
    return CVY_FAIL(CVY_ERR_BAD_DATA,
                    "%s: none of %d checkpoint%s is whole: put a copy back, or start anew with "
                    "--from-scratch",
                    folder, n, n == 1 ? "" : "s");
}

cvy_status coordinator_checkpoints_newest(coordinator_checkpoints *c, const char **out_folder,
                                          coordinator_state *out_state)
{
    *out_folder = NULL;
    c->damaged.n = 0;
    CVY_RETURN_IF_ERR(find_newest(c->folder, &c->damaged, c->newest, out_state));
    if (c->newest[0] != 0) *out_folder = c->newest;
    return CVY_OK;
}

cvy_status coordinator_checkpoint_locate(const char *path, char **out_folder,
                                         coordinator_state *out_state)
{
    char below[PATH_BYTES], found[PATH_BYTES];
    cvy_reason reason = {""};
    struct stat about;

    *out_folder = NULL;
    if (stat(path, &about) != 0)
        return CVY_FAIL(cvy_status_from_errno(errno), "%s: %s", path, strerror(errno));
    if (!S_ISDIR(about.st_mode) || strlen(path) >= PATH_BYTES - 64)
        return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: neither a checkpoint nor a run folder", path);
    snprintf(below, sizeof below, "%s/checkpoints", path);
    if (stat(below, &about) == 0) {
        CVY_RETURN_IF_ERR(find_newest(below, NULL, found, out_state));
        if (found[0] == 0) return CVY_FAIL(CVY_ERR_NOT_FOUND, "%s: has no checkpoint yet", path);
    } else {
        const cvy_status status = coordinator_checkpoint_read(path, out_state, &reason);
        if (status != CVY_OK)
            return CVY_FAIL(status, "%s: no whole checkpoint: %s", path, reason.text);
        snprintf(found, sizeof found, "%s", path);
    }
    *out_folder = cvy_strdup(found);
    return *out_folder != NULL ? CVY_OK : CVY_FAIL(CVY_ERR_NO_MEMORY, "path of a checkpoint");
}

int64_t coordinator_checkpoints_newest_step(const char *run_folder)
{
    char folder[PATH_BYTES];
    step_list steps = {NULL, 0, 0};
    const int n = snprintf(folder, sizeof folder, "%s/checkpoints", run_folder);

    if (n < 0 || (size_t)n >= sizeof folder) return -1;
    cvy_log_soften(1);
    (void)list_steps(folder, &steps);
    cvy_log_soften(-1);
    const int64_t newest = steps.n > 0 ? steps.step[0] : -1;
    close_list(&steps);
    return newest;
}
