#include "coordinator/checkpoints.h"

#include "base/alloc.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/safetensors.h"
#include "coordinator/state_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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
#define PATH_BYTES   1024

struct coordinator_checkpoints {
    char folder[PATH_BYTES - 128]; /* RUN/checkpoints */
    int64_t keep;
    char tmp[PATH_BYTES];    /* of the last begin; empty: none */
    char newest[PATH_BYTES]; /* what coordinator_checkpoints_newest() gave */
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

/* Steps of all published folders, newest first; cvy_free() them. */
static cvy_status list_steps(const char *folder, int64_t **out, int *out_n)
{
    int64_t *steps = NULL;
    int n = 0, capacity = 0;
    DIR *handle = opendir(folder);

    *out = NULL;
    *out_n = 0;
    if (handle == NULL) {
        return errno == ENOENT
                   ? CVY_OK
                   : CVY_FAIL(cvy_status_from_errno(errno), "open %s: %s", folder, strerror(errno));
    }
    for (const struct dirent *entry = readdir(handle); entry != NULL; entry = readdir(handle)) {
        const int64_t step = step_of_name(entry->d_name);
        if (step < 0) continue;
        if (n == capacity) {
            capacity = capacity > 0 ? 2 * capacity : 16;
            int64_t *grown = cvy_realloc(steps, (size_t)capacity * sizeof *steps);
            if (grown == NULL) {
                cvy_free(steps);
                (void)closedir(handle);
                return CVY_FAIL(CVY_ERR_NO_MEMORY, "list of %s", folder);
            }
            steps = grown;
        }
        int at = n++; /* insertion keeps the newest first; there are a handful */
        for (; at > 0 && steps[at - 1] < step; at--) steps[at] = steps[at - 1];
        steps[at] = step;
    }
    (void)closedir(handle);
    *out = steps;
    *out_n = n;
    return CVY_OK;
}

/* What dead runs left: temporaries and trash. Nothing here is worth failing for. */
static void sweep(const char *folder)
{
    DIR *handle = opendir(folder);
    char path[PATH_BYTES + 300];
    int n = 0;

    if (handle == NULL) return;
    for (const struct dirent *entry = readdir(handle); entry != NULL; entry = readdir(handle)) {
        const char *name = entry->d_name;
        const int is_trash = strncmp(name, TRASH_PREFIX, strlen(TRASH_PREFIX)) == 0;
        const int is_tmp = strncmp(name, STEP_PREFIX, strlen(STEP_PREFIX)) == 0 &&
                           strstr(name, TMP_MARK) != NULL;
        if (!is_trash && !is_tmp) continue;
        snprintf(path, sizeof path, "%s/%s", folder, name);
        cvy_log_soften(1);
        n += cvy_file_remove_tree(path) == CVY_OK;
        cvy_log_soften(-1);
    }
    (void)closedir(handle);
    if (n > 0) cvy_log_info("%s: %d leftovers of an interrupted save removed", folder, n);
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

/* Remove what is not among the newest `keep`. The one just published has been read back, so even
 * the oldest kept one is never the only whole one. */
static void prune(const coordinator_checkpoints *c)
{
    int64_t *steps = NULL;
    int n = 0;
    char name[64], from[PATH_BYTES], to[PATH_BYTES];

    cvy_log_soften(1);
    if (list_steps(c->folder, &steps, &n) == CVY_OK) {
        for (int i = (int)c->keep; i < n; i++) {
            step_name(steps[i], name, sizeof name);
            snprintf(from, sizeof from, "%s/%s", c->folder, name);
            snprintf(to, sizeof to, "%s/" TRASH_PREFIX "%s-%016llx", c->folder, name,
                     (unsigned long long)random_word());
            if (cvy_file_rename(from, to) == CVY_OK) (void)cvy_file_remove_tree(to);
        }
    }
    cvy_log_soften(-1);
    cvy_free(steps);
}

/* A checkpoint of the same step that stands already is one that could not be read (else training
 * had gone on from it): it makes way. */
static cvy_status make_way(const coordinator_checkpoints *c, const char *target)
{
    char to[PATH_BYTES];

    if (!cvy_file_exists(target)) return CVY_OK;
    snprintf(to, sizeof to, "%s/" TRASH_PREFIX "%016llx", c->folder,
             (unsigned long long)random_word());
    CVY_RETURN_IF_ERR(cvy_file_rename(target, to));
    return cvy_file_remove_tree(to);
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
    snprintf(latest, sizeof latest, "%s/latest", c->folder);

    CVY_GOTO_IF_ERR(fail, status, write_state(c->tmp, state));
    status = coordinator_checkpoint_read(c->tmp, &again, &reason);
    if (status != CVY_OK || !coordinator_state_equal(state, &again)) {
        status = CVY_FAIL(CVY_ERR_IO, "%s was written, but reads back wrong: %s", c->tmp,
                          reason.text);
        goto fail;
    }
    CVY_GOTO_IF_ERR(fail, status, make_way(c, target));
    if (chmod(c->tmp, 0755) != 0) { /* 0700 kept others out of the unfinished one only */
        status = CVY_FAIL(CVY_ERR_IO, "chmod %s: %s", c->tmp, strerror(errno));
        goto fail;
    }
    CVY_GOTO_IF_ERR(fail, status, cvy_file_rename(c->tmp, target));
    c->tmp[0] = 0;

    /* From here on the checkpoint stands; what fails below costs nothing. */
    cvy_log_soften(1);
    (void)cvy_file_replace(latest, name, strlen(name));
    cvy_log_soften(-1);
    prune(c);
    return CVY_OK;

fail:
    coordinator_checkpoints_discard(c);
    return status;
}

/* Which tensor is it that is damaged? Read the file as what it is. */
static cvy_status name_damage(const char *path, cvy_reason *reason)
{
    cvy_safetensors *file = NULL;
    cvy_reason inner = {""};
    const cvy_status status = cvy_safetensors_open(path, (size_t)64 << 30, &file, &inner);

    cvy_safetensors_close(&file);
    const char *base = strrchr(path, '/');
    return cvy_because(reason, CVY_ERR_BAD_DATA, "%s: %s", base != NULL ? base + 1 : path,
                       status != CVY_OK ? inner.text : "not the file that was published");
}

static cvy_status check_file(const char *folder, const char *name, uint64_t size_bytes,
                             uint64_t hash, cvy_reason *reason)
{
    char path[PATH_BYTES + 32];
    uint64_t found_bytes = 0, found_hash = 0;
    cvy_reason inner = {""};

    snprintf(path, sizeof path, "%s/%s", folder, name);
    const cvy_status status = cvy_file_hash(path, &found_bytes, &found_hash, &inner);
    if (status != CVY_OK) return cvy_because(reason, CVY_ERR_BAD_DATA, "%s: %s", name, inner.text);
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
        return cvy_because(reason, status == CVY_ERR_PERMISSION ? status : CVY_ERR_BAD_DATA,
                           COORDINATOR_STATE_FILE ": %s", inner.text);
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

/* The newest whole checkpoint below RUN/checkpoints; *out is empty when there is none at all. */
static cvy_status find_newest(const char *folder, char out[PATH_BYTES], coordinator_state *state)
{
    cvy_status status = CVY_OK;
    int64_t *steps = NULL;
    int n = 0;
    char name[64];

    out[0] = 0;
    CVY_RETURN_IF_ERR(list_steps(folder, &steps, &n));
    for (int i = 0; i < n; i++) {
        cvy_reason reason = {""};
        char path[PATH_BYTES];
        step_name(steps[i], name, sizeof name);
        snprintf(path, sizeof path, "%s/%s", folder, name);
        status = coordinator_checkpoint_read(path, state, &reason);
        if (status == CVY_OK && state->step == steps[i]) {
            snprintf(out, PATH_BYTES, "%s", path);
            break;
        }
        if (status == CVY_OK)
            snprintf(reason.text, sizeof reason.text, "it holds step %lld", (long long)state->step);
        status = CVY_ERR_BAD_DATA;
        cvy_log_warn("%s is damaged (%s): %s", path, reason.text,
                     i + 1 < n ? "the next older one is tried" : "there is no older one");
    }
    cvy_free(steps);
    if (status != CVY_OK) {
        return CVY_FAIL(CVY_ERR_BAD_DATA,
                        "%s: none of %d checkpoints is whole: put a copy back, or start anew with "
                        "--from-scratch",
                        folder, n);
    }
    return CVY_OK;
}

cvy_status coordinator_checkpoints_newest(coordinator_checkpoints *c, const char **out_folder,
                                          coordinator_state *out_state)
{
    *out_folder = NULL;
    CVY_RETURN_IF_ERR(find_newest(c->folder, c->newest, out_state));
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
        CVY_RETURN_IF_ERR(find_newest(below, found, out_state));
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
    int64_t *steps = NULL;
    int n = 0;

    snprintf(folder, sizeof folder, "%s/checkpoints", run_folder);
    cvy_log_soften(1);
    const cvy_status status = list_steps(folder, &steps, &n);
    cvy_log_soften(-1);
    const int64_t newest = status == CVY_OK && n > 0 ? steps[0] : -1;
    cvy_free(steps);
    return newest;
}
