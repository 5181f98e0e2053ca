#ifndef TESTS_COORDINATOR_CHECKPOINT_SUPPORT_H
#define TESTS_COORDINATOR_CHECKPOINT_SUPPORT_H

/* What the tests of checkpoints share: a run folder, saves such as a lead worker makes, damage. */
#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "base/safetensors.h"
#include "coordinator/checkpoints.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define N_VALUES 64

/* Valid until 32 more were asked for. */
static inline const char *path_in(const char *folder, const char *name)
{
    static char *paths[32];
    static int slot;
    char *path = NULL;

    slot = (slot + 1) % 32;
    assert_true(asprintf(&path, "%s/%s", folder, name) > 0);
    free(paths[slot]);
    paths[slot] = path;
    return path;
}

static inline void put_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static inline const char *step_path(const char *run, int64_t step)
{
    char name[64];

    snprintf(name, sizeof name, "checkpoints/step-%08lld", (long long)step);
    return path_in(run, name);
}

/* --- What a lead worker does ----------------------------------------------------------------- */

static inline cvy_status write_tensors(const char *path, double value, uint64_t *size_bytes,
                                       uint64_t *hash)
{
    float values[2][N_VALUES];

    for (int i = 0; i < N_VALUES; i++) values[0][i] = values[1][i] = (float)(value + i);
    const cvy_tensor_entry entries[] = {{"layer1.weight", CVY_F32, 1, {N_VALUES}, values[0]},
                                        {"layer2.weight", CVY_F32, 1, {N_VALUES}, values[1]}};
    return cvy_safetensors_write(path, entries, 2, NULL, 0, size_bytes, hash);
}

static inline coordinator_state state_of(int64_t step)
{
    return (coordinator_state){.step = step,
                               .position = 32 * step,
                               .epoch = 0.5 * (double)step,
                               .seed = 1,
                               .replicas = 2,
                               .minibatch = 16,
                               .n_records = 64,
                               .job_digest = 11,
                               .data_identity = 12,
                               .arch = "lenet5",
                               .n_classes = 10,
                               .device = "cpu",
                               .convoy_version = "0.1.0",
                               .written_at = "2026-03-01T12:00:00.123Z"};
}

static inline cvy_status fill(const char *folder, int64_t step, coordinator_state *out)
{
    char path[2048];

    *out = state_of(step);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    CVY_RETURN_IF_ERR(write_tensors(path, (double)step, &out->model_bytes, &out->model_hash));
    snprintf(path, sizeof path, "%s/optimizer.safetensors", folder);
    return write_tensors(path, (double)-step, &out->optimizer_bytes, &out->optimizer_hash);
}

static inline cvy_status save(coordinator_checkpoints *c, int64_t step)
{
    const char *folder = NULL;
    coordinator_state state;

    CVY_RETURN_IF_ERR(coordinator_checkpoints_begin(c, step, &folder));
    const cvy_status status = fill(folder, step, &state);
    if (status != CVY_OK) {
        coordinator_checkpoints_discard(c);
        return status;
    }
    return coordinator_checkpoints_publish(c, &state);
}

static inline coordinator_checkpoints *open_run(const char *run, int64_t keep)
{
    coordinator_checkpoints *c = NULL;

    assert_ok(coordinator_checkpoints_open(run, keep, &c));
    return c;
}

/* The step of the newest whole one; -1 for none at all. */
static inline int64_t newest_of(coordinator_checkpoints *c)
{
    const char *folder = NULL;
    coordinator_state state = {.step = -1};

    assert_ok(coordinator_checkpoints_newest(c, &folder, &state));
    if (folder == NULL) return -1;
    const coordinator_state wanted = state_of(state.step);
    assert_int_equal(state.position, wanted.position);
    assert_true(cvy_file_exists(folder));
    return state.step;
}

static inline int count_entries(const char *folder, const char *part)
{
    int n = 0;
    DIR *handle = opendir(folder);

    assert_non_null(handle);
    for (const struct dirent *entry = readdir(handle); entry != NULL; entry = readdir(handle)) {
        if (entry->d_name[0] == '.' && entry->d_name[1 + (entry->d_name[1] == '.')] == 0) continue;
        n += strstr(entry->d_name, part) != NULL;
    }
    closedir(handle);
    return n;
}

/* Published folders alone, each of which must be whole. */
static inline int count_whole(const char *run)
{
    int n = 0;
    DIR *handle = opendir(path_in(run, "checkpoints"));

    assert_non_null(handle);
    for (const struct dirent *entry = readdir(handle); entry != NULL; entry = readdir(handle)) {
        coordinator_state state;
        cvy_reason reason = {""};
        if (strncmp(entry->d_name, "step-", 5) != 0 || strchr(entry->d_name, '.') != NULL) continue;
        const char *path = path_in(path_in(run, "checkpoints"), entry->d_name);
        if (coordinator_checkpoint_read(path, &state, &reason) != CVY_OK)
            fail_msg("%s: %s", path, reason.text);
        n++;
    }
    closedir(handle);
    return n;
}

static inline void flip_byte(const char *path, off_t from_end)
{
    unsigned char byte = 0;
    const int fd = open(path, O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    const off_t at = lseek(fd, 0, SEEK_END) - from_end;
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

#endif
