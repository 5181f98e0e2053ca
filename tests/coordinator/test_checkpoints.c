#include "coordinator/checkpoints.h"

#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define N_VALUES 64

/* Valid until 32 more were asked for. */
static const char *path_in(const char *folder, const char *name)
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

static void put_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static const char *step_path(const char *run, int64_t step)
{
    char name[64];

    snprintf(name, sizeof name, "checkpoints/step-%08lld", (long long)step);
    return path_in(run, name);
}

/* --- What a lead worker does ------------------------------------------------------------------ */

static cvy_status write_tensors(const char *path, double value, uint64_t *size_bytes,
                                uint64_t *hash)
{
    float values[2][N_VALUES];

    for (int i = 0; i < N_VALUES; i++) values[0][i] = values[1][i] = (float)(value + i);
    const cvy_tensor_entry entries[] = {{"layer1.weight", CVY_F32, 1, {N_VALUES}, values[0]},
                                        {"layer2.weight", CVY_F32, 1, {N_VALUES}, values[1]}};
    return cvy_safetensors_write(path, entries, 2, NULL, 0, size_bytes, hash);
}

static coordinator_state state_of(int64_t step)
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

static cvy_status fill(const char *folder, int64_t step, coordinator_state *out)
{
    char path[2048];

    *out = state_of(step);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    CVY_RETURN_IF_ERR(write_tensors(path, (double)step, &out->model_bytes, &out->model_hash));
    snprintf(path, sizeof path, "%s/optimizer.safetensors", folder);
    return write_tensors(path, (double)-step, &out->optimizer_bytes, &out->optimizer_hash);
}

static cvy_status save(coordinator_checkpoints *c, int64_t step)
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

static coordinator_checkpoints *open_run(const char *run, int64_t keep)
{
    coordinator_checkpoints *c = NULL;

    assert_ok(coordinator_checkpoints_open(run, keep, &c));
    return c;
}

/* The step of the newest whole one; -1 for none at all. */
static int64_t newest_of(coordinator_checkpoints *c)
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

static int count_entries(const char *folder, const char *part)
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
static int count_whole(const char *run)
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

static void flip_byte(const char *path, off_t from_end)
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

/* --- Publishing, finding, pruning ---------------------------------------------------------------
 */

static void run_without_a_checkpoint_has_no_newest(void **state)
{
    (void)state;
    const char *run = test_folder();
    const char *folder = "x";
    char *located = NULL;
    coordinator_state found;

    assert_int_equal(coordinator_checkpoints_newest_step(run), -1);
    coordinator_checkpoints *c = open_run(run, 3);
    assert_ok(coordinator_checkpoints_newest(c, &folder, &found));
    assert_null(folder);
    test_log_expect("has no checkpoint yet");
    assert_status(coordinator_checkpoint_locate(run, &located, &found), CVY_ERR_NOT_FOUND);
    assert_null(located);
    coordinator_checkpoints_close(&c);
    assert_null(c);
    coordinator_checkpoints_close(&c);
}

static void published_checkpoint_is_found_by_every_way(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 3);
    coordinator_state found;
    char *located = NULL, *latest = NULL;
    struct stat about, parent;

    assert_ok(save(c, 1200));
    assert_int_equal(newest_of(c), 1200);
    assert_int_equal(coordinator_checkpoints_newest_step(run), 1200);
    assert_ok(coordinator_checkpoint_locate(run, &located, &found));
    assert_string_equal(located, step_path(run, 1200));
    assert_int_equal(found.step, 1200);
    cvy_free(located);
    assert_ok(coordinator_checkpoint_locate(step_path(run, 1200), &located, &found));
    assert_string_equal(located, step_path(run, 1200));
    cvy_free(located);
    assert_ok(cvy_file_read(path_in(run, "checkpoints/latest"), 100, &latest, NULL, NULL));
    assert_string_equal(latest, "step-00001200");
    cvy_free(latest);
    /* Nothing but the checkpoint and the hint; readable by whoever reads the folder above it. */
    assert_int_equal(count_entries(path_in(run, "checkpoints"), ""), 2);
    assert_int_equal(count_entries(step_path(run, 1200), ""), 3);
    assert_int_equal(stat(step_path(run, 1200), &about), 0);
    assert_int_equal(stat(path_in(run, "checkpoints"), &parent), 0);
    assert_int_equal(about.st_mode & 0777, parent.st_mode & 0777);
    coordinator_checkpoints_close(&c);
}

static void newest_is_by_number_not_by_name(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 5);

    assert_ok(save(c, 99999999));
    assert_ok(save(c, 100000000)); /* sorts before the other as a text */
    assert_int_equal(newest_of(c), 100000000);
    coordinator_checkpoints_close(&c);
}

static void prune_leaves_the_newest_keep(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 3);

    for (int64_t step = 1; step <= 7; step++) {
        assert_ok(save(c, step));
        assert_int_equal(count_whole(run), step < 3 ? step : 3);
    }
    for (int64_t step = 1; step <= 7; step++)
        assert_int_equal(cvy_file_exists(step_path(run, step)), step >= 5);
    assert_int_equal(count_entries(path_in(run, "checkpoints"), ".trash"), 0);
    coordinator_checkpoints_close(&c);
}

static void prune_never_goes_below_two(void **state)
{
    (void)state;
    for (int64_t keep = -1; keep <= 2; keep++) {
        const char *run = test_folder();
        coordinator_checkpoints *c = open_run(run, keep);
        for (int64_t step = 1; step <= 4; step++) assert_ok(save(c, step));
        assert_int_equal(count_whole(run), 2);
        coordinator_checkpoints_close(&c);
    }
}

static void damaged_ones_do_not_push_whole_ones_out(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 3);

    for (int64_t step = 10; step <= 30; step += 10) assert_ok(save(c, step));
    coordinator_checkpoints_close(&c);
    flip_byte(path_in(step_path(run, 30), "model.safetensors"), 1);
    flip_byte(path_in(step_path(run, 20), "model.safetensors"), 1);

    /* The next launch goes on from step 10 and keeps 2. */
    c = open_run(run, 2);
    test_log_expect("step-00000030 is damaged");
    test_log_expect("step-00000020 is damaged");
    assert_int_equal(newest_of(c), 10);
    assert_ok(save(c, 12));
    assert_true(cvy_file_exists(step_path(run, 10)));
    assert_true(cvy_file_exists(step_path(run, 12)));
    assert_false(cvy_file_exists(step_path(run, 30))); /* two whole ones stand: they may go */
    assert_ok(save(c, 14));
    assert_int_equal(count_whole(run), 2);
    assert_int_equal(newest_of(c), 14);
    coordinator_checkpoints_close(&c);
}

static void damaged_ones_stay_until_enough_others_stand(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 3);
    const char *folder = NULL;
    coordinator_state found;

    assert_ok(save(c, 10));
    assert_ok(save(c, 20));
    flip_byte(path_in(step_path(run, 10), "model.safetensors"), 1);
    flip_byte(path_in(step_path(run, 20), "model.safetensors"), 1);
    test_log_expect("is damaged");
    test_log_expect("none of 2 checkpoints is whole");
    assert_status(coordinator_checkpoints_newest(c, &folder, &found), CVY_ERR_BAD_DATA);
    for (int64_t step = 1; step <= 2; step++) { /* from scratch, as asked */
        assert_ok(save(c, step));
        assert_true(cvy_file_exists(step_path(run, 10)));
        assert_true(cvy_file_exists(step_path(run, 20)));
    }
    assert_ok(save(c, 3));
    assert_false(cvy_file_exists(step_path(run, 10)));
    assert_false(cvy_file_exists(step_path(run, 20)));
    assert_int_equal(count_whole(run), 3);
    coordinator_checkpoints_close(&c);
}

static void damaged_step_saved_again_is_replaced(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 2);

    assert_ok(save(c, 10));
    assert_ok(save(c, 20));
    flip_byte(path_in(step_path(run, 20), "model.safetensors"), 1);
    test_log_expect("step-00000020 is damaged");
    assert_int_equal(newest_of(c), 10);
    assert_ok(save(c, 20));
    assert_int_equal(newest_of(c), 20);
    assert_int_equal(count_whole(run), 2);
    assert_ok(save(c, 30)); /* 20 counts again: 10 goes */
    assert_false(cvy_file_exists(step_path(run, 10)));
    assert_true(cvy_file_exists(step_path(run, 20)));
    coordinator_checkpoints_close(&c);
}

/* --- What dead runs leave ----------------------------------------------------------------------
 */

static void leftovers_are_swept_at_open_and_nothing_else(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 3);
    char name[128];

    assert_ok(save(c, 5));
    coordinator_checkpoints_close(&c);
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof name, "checkpoints/step-%08d.tmp-%016x", i, (unsigned)i);
        assert_ok(cvy_file_make_folders(path_in(run, name)));
    }
    put_file(path_in(run, "checkpoints/step-00000000.tmp-0000000000000000/model.safetensors"), "x");
    assert_ok(cvy_file_make_folders(path_in(run, "checkpoints/.trash-0123/deeper")));
    put_file(path_in(run, "checkpoints/latest.tmp-0123"), "step-");
    put_file(path_in(run, "checkpoints/step-00000009.tmp-file"), "");
    assert_int_equal(symlink(step_path(run, 5), path_in(run, "checkpoints/.trash-link")), 0);
    put_file(path_in(run, "checkpoints/notes.tmp-mine"), "a user's own");
    put_file(path_in(run, "checkpoints/README"), "a user's own");
    c = open_run(run, 3);
    assert_true(test_log_saw("204 leftovers of an interrupted save removed"));
    assert_int_equal(count_entries(path_in(run, "checkpoints"), ""), 4);
    assert_int_equal(newest_of(c), 5);
    coordinator_checkpoints_close(&c);
}

static void temporary_is_dropped_by_discard_and_by_the_next_begin(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 3);
    const char *folder = NULL;
    struct stat about;

    assert_ok(coordinator_checkpoints_begin(c, 1, &folder));
    assert_int_equal(stat(folder, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0700);
    put_file(path_in(folder, "model.safetensors"), "half");
    assert_ok(coordinator_checkpoints_begin(c, 2, &folder));
    assert_int_equal(count_entries(path_in(run, "checkpoints"), ".tmp-"), 1);
    coordinator_checkpoints_discard(c);
    coordinator_checkpoints_discard(c);
    assert_int_equal(count_entries(path_in(run, "checkpoints"), ""), 0);
    coordinator_checkpoints_close(&c);
}

static void begin_in_a_vanished_folder_fails_and_names_it(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 3);
    const char *folder = NULL;

    assert_ok(cvy_file_remove_tree(path_in(run, "checkpoints")));
    test_log_expect("make folder");
    assert_status(coordinator_checkpoints_begin(c, 1, &folder), CVY_ERR_CANNOT_WRITE);
    assert_ok(cvy_file_make_folders(path_in(run, "checkpoints")));
    assert_ok(save(c, 1));
    coordinator_checkpoints_close(&c);
}

static void latest_is_a_hint_that_is_never_followed(void **state)
{
    (void)state;
    const char *run = test_folder();
    const char *latest = path_in(run, "checkpoints/latest");
    coordinator_checkpoints *c = open_run(run, 3);

    assert_ok(save(c, 1));
    assert_ok(save(c, 2));
    assert_int_equal(unlink(latest), 0);
    assert_int_equal(newest_of(c), 2);
    put_file(latest, "step-00000009");
    assert_int_equal(newest_of(c), 2);
    put_file(latest, "../../../etc");
    assert_int_equal(newest_of(c), 2);
    put_file(latest, "step-00000001");
    assert_int_equal(newest_of(c), 2);
    assert_int_equal(unlink(latest), 0);
    assert_int_equal(symlink("latest", latest), 0);
    assert_int_equal(newest_of(c), 2);
    assert_ok(save(c, 3)); /* and it is replaced, not followed */
    assert_int_equal(newest_of(c), 3);
    coordinator_checkpoints_close(&c);
}

/* --- Damage ------------------------------------------------------------------------------------
 */

static void damaged_file_is_named_and_the_older_one_is_used(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        off_t from_end;
        const char *said;
    } cases[] = {
        {"model.safetensors", 1, "model.safetensors: tensor 'layer2.weight'"},
        {"model.safetensors", 4 * N_VALUES + 1, "model.safetensors: tensor 'layer1.weight'"},
        {"optimizer.safetensors", 1, "optimizer.safetensors: tensor 'layer2.weight'"},
        {"optimizer.safetensors", 8 * N_VALUES + 20, "optimizer.safetensors: "},
        {"state.json", 30, "state.json: "},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *run = test_folder();
        coordinator_checkpoints *c = open_run(run, 3);
        assert_ok(save(c, 1));
        assert_ok(save(c, 2));
        flip_byte(path_in(step_path(run, 2), cases[i].file), cases[i].from_end);
        test_log_expect(cases[i].said);
        test_log_expect("the next older one is tried");
        assert_int_equal(newest_of(c), 1);
        coordinator_checkpoints_close(&c);
    }
}

static void put_bytes(const char *path, const char *bytes, size_t size_bytes)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size_bytes, file), size_bytes);
    assert_int_equal(fclose(file), 0);
}

static void cut_or_lengthened_file_is_refused(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 3);
    const char *names[] = {"model.safetensors", "optimizer.safetensors", "state.json"};
    coordinator_state found;
    struct stat about;

    assert_ok(save(c, 1));
    for (int i = 0; i < 3; i++) {
        char *path = cvy_strdup(path_in(step_path(run, 1), names[i]));
        char *bytes = NULL;
        size_t size_bytes = 0;
        assert_int_equal(stat(path, &about), 0);
        assert_ok(cvy_file_read(path, 1 << 20, &bytes, &size_bytes, NULL));
        for (off_t n = 0; n < about.st_size; n += n < 16 ? 1 : 97) {
            cvy_reason reason = {""};
            assert_int_equal(truncate(path, n), 0);
            assert_status(coordinator_checkpoint_read(step_path(run, 1), &found, &reason),
                          CVY_ERR_BAD_DATA);
            assert_non_null(strstr(reason.text, names[i]));
            put_bytes(path, bytes, size_bytes);
        }
        assert_int_equal(truncate(path, about.st_size + 1), 0);
        assert_status(coordinator_checkpoint_read(step_path(run, 1), &found, NULL),
                      CVY_ERR_BAD_DATA);
        put_bytes(path, bytes, size_bytes);
        cvy_free(bytes);
        cvy_free(path);
    }
    assert_ok(coordinator_checkpoint_read(step_path(run, 1), &found, NULL));
    coordinator_checkpoints_close(&c);
}

static void whole_files_of_another_step_are_refused(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 4);
    char from[2048];

    for (int64_t step = 1; step <= 3; step++) assert_ok(save(c, step));
    /* 3 gets 1's weights, 2 is a renamed 1. */
    snprintf(from, sizeof from, "%s/model.safetensors", step_path(run, 1));
    assert_int_equal(unlink(path_in(step_path(run, 3), "model.safetensors")), 0);
    assert_int_equal(link(from, path_in(step_path(run, 3), "model.safetensors")), 0);
    test_log_expect("not the one that was published");
    assert_int_equal(newest_of(c), 2);
    assert_ok(cvy_file_remove_tree(step_path(run, 2)));
    assert_int_equal(rename(step_path(run, 1), step_path(run, 2)), 0);
    test_log_expect("it is of step 1");
    test_log_expect("none of 2 checkpoints is whole");
    const char *folder = "x";
    coordinator_state found = {.step = 77};
    assert_status(coordinator_checkpoints_newest(c, &folder, &found), CVY_ERR_BAD_DATA);
    assert_null(folder);
    assert_int_equal(found.step, 77);
    coordinator_checkpoints_close(&c);
}

static void odd_things_named_like_checkpoints_are_passed_over(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 3);

    assert_ok(save(c, 1));
    put_file(step_path(run, 2), "a file");
    assert_int_equal(mkfifo(step_path(run, 3), 0600), 0);
    assert_int_equal(symlink("step-00000004", step_path(run, 4)), 0);
    assert_ok(cvy_file_make_folders(step_path(run, 5)));
    assert_ok(cvy_file_make_folders(step_path(run, 6)));
    assert_int_equal(mkfifo(path_in(step_path(run, 6), "state.json"), 0600), 0);
    assert_ok(cvy_file_make_folders(path_in(run, "checkpoints/step-9")));
    assert_ok(cvy_file_make_folders(path_in(run, "checkpoints/step-0000000x")));
    assert_ok(cvy_file_make_folders(path_in(run, "checkpoints/step-99999999999999999999")));
    test_log_expect("step-00000006 is damaged");
    test_log_expect("step-00000005 is damaged");
    test_log_expect("step-00000004");
    test_log_expect("step-00000003 is damaged");
    test_log_expect("step-00000002 is damaged");
    assert_int_equal(newest_of(c), 1);
    coordinator_checkpoints_close(&c);
}

static void no_whole_checkpoint_is_an_error_that_says_what_to_do(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 3);
    const char *folder = NULL;
    char *located = NULL;
    coordinator_state found;

    assert_ok(save(c, 1));
    assert_ok(save(c, 2));
    flip_byte(path_in(step_path(run, 1), "state.json"), 3);
    assert_int_equal(unlink(path_in(step_path(run, 2), "state.json")), 0);
    test_log_expect("there is no older one");
    test_log_expect("is damaged");
    test_log_expect("--from-scratch");
    assert_status(coordinator_checkpoints_newest(c, &folder, &found), CVY_ERR_BAD_DATA);
    assert_status(coordinator_checkpoint_locate(run, &located, &found), CVY_ERR_BAD_DATA);
    test_log_expect("no whole checkpoint: state.json");
    assert_status(coordinator_checkpoint_locate(step_path(run, 2), &located, &found),
                  CVY_ERR_BAD_DATA);
    test_log_expect("No such file");
    assert_status(coordinator_checkpoint_locate(path_in(run, "none"), &located, &found),
                  CVY_ERR_NOT_FOUND);
    test_log_expect("neither a checkpoint nor a run folder");
    put_file(path_in(run, "file"), "");
    assert_status(coordinator_checkpoint_locate(path_in(run, "file"), &located, &found),
                  CVY_ERR_BAD_DATA);
    coordinator_checkpoints_close(&c);
}

/* --- Failing disks -----------------------------------------------------------------------------
 */

/* Publish step with one fault; whatever comes of it, what stands is whole and the newest is old or
 * new. Returns 0 when the fault no longer fires: all calls have been through it. */
static int publish_with_fault(const char *run, coordinator_checkpoints *c, int64_t step,
                              const char *fault)
{
    const char *folder = NULL;
    coordinator_state written;
    const int64_t old = newest_of(c);

    assert_ok(coordinator_checkpoints_begin(c, step, &folder));
    assert_ok(fill(folder, step, &written));
    inject(fault);
    (void)test_log_reset(NULL);
    cvy_log_soften(1);
    const cvy_status status = coordinator_checkpoints_publish(c, &written);
    cvy_log_soften(-1);
    stop_injecting();
    const int has_fired = test_log_saw("fault point");
    if (status != CVY_OK) {
        assert_true(has_fired);
        assert_true(test_log_saw(run)); /* it names the file */
        assert_true(test_log_saw("Input/output error") || test_log_saw("No space left"));
    }
    (void)test_log_reset(NULL);
    /* The step is there when publish says so. When it says no it may be there too: a rename whose
     * folder could not be synced. */
    const int64_t now = newest_of(c);
    assert_true(status == CVY_OK ? now == step : now == old || now == step);
    assert_true(count_whole(run) >= 2);
    assert_int_equal(count_entries(path_in(run, "checkpoints"), ".tmp-"), 0);
    return has_fired;
}

static void fault_at_any_call_never_costs_a_checkpoint(void **state)
{
    (void)state;
    static const char *const points[] = {"file.write", "file.fsync", "file.rename"};
    char fault[64];

    for (int i = 0; i < 3; i++) {
        const char *run = test_folder();
        coordinator_checkpoints *c = open_run(run, 2);
        int64_t step = 0;
        int n_fired = 0;
        assert_ok(save(c, ++step));
        assert_ok(save(c, ++step));
        for (int k = 1;; k++) {
            snprintf(fault, sizeof fault, "%s:count=%d=%s", points[i], k, k % 2 ? "eio" : "enospc");
            if (!publish_with_fault(run, c, ++step, fault)) break;
            n_fired++;
        }
        assert_true(n_fired >= 2);
        assert_ok(save(c, ++step));
        assert_int_equal(newest_of(c), step);
        assert_int_equal(count_whole(run), 2);
        coordinator_checkpoints_close(&c);
    }
}

static void fault_while_a_step_is_replaced_keeps_the_one_that_stands(void **state)
{
    (void)state;
    static const char *const points[] = {"file.write", "file.fsync", "file.rename"};
    char fault[64];
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 2);

    assert_ok(save(c, 1));
    assert_ok(save(c, 2));
    for (int i = 0; i < 3; i++) {
        for (int k = 1;; k++) {
            snprintf(fault, sizeof fault, "%s:count=%d=eio", points[i], k);
            if (!publish_with_fault(run, c, 2, fault)) break;
        }
    }
    assert_int_equal(newest_of(c), 2);
    coordinator_checkpoints_close(&c);
}

static void damaged_write_is_not_published(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 2);
    const char *folder = NULL;
    coordinator_state written;

    assert_ok(save(c, 1));
    assert_ok(coordinator_checkpoints_begin(c, 2, &folder));
    assert_ok(fill(folder, 2, &written));
    flip_byte(path_in(folder, "model.safetensors"), 1);
    test_log_expect("reads back wrong: model.safetensors: tensor 'layer2.weight'");
    assert_status(coordinator_checkpoints_publish(c, &written), CVY_ERR_IO);
    assert_false(cvy_file_exists(step_path(run, 2)));
    assert_int_equal(newest_of(c), 1);
    coordinator_checkpoints_close(&c);
}

/* --- Death -------------------------------------------------------------------------------------
 */

/* A trainer in a process of its own that saves step after step. */
static void publish_and_exit(const char *run, int64_t first, int64_t last)
{
    coordinator_checkpoints *c = NULL;

    cvy_log_set_sink(NULL, NULL);
    cvy_log_open(CVY_LOG_ERROR, -1);
    if (coordinator_checkpoints_open(run, 2, &c) != CVY_OK) _exit(2);
    for (int64_t step = first; step <= last; step++)
        if (save(c, step) != CVY_OK) _exit(3);
    coordinator_checkpoints_close(&c);
    _exit(0);
}

static int wait_for(pid_t child)
{
    int status = 0;

    while (waitpid(child, &status, 0) < 0) assert_int_equal(errno, EINTR);
    return status;
}

static void death_at_any_call_leaves_old_or_new(void **state)
{
    (void)state;
    static const char *const points[] = {"file.write", "file.fsync", "file.rename"};
    char fault[64];

    for (int i = 0; i < 3; i++) {
        const char *run = test_folder();
        coordinator_checkpoints *c = open_run(run, 2);
        int64_t step = 3;
        int status = 1;
        for (int64_t first = 1; first <= 3; first++) assert_ok(save(c, first));
        coordinator_checkpoints_close(&c);
        for (int k = 1; status != 0; k++) {
            snprintf(fault, sizeof fault, "%s:count=%d=kill", points[i], k);
            const pid_t child = fork();
            assert_true(child >= 0);
            if (child == 0) {
                inject(fault);
                publish_and_exit(run, step + 1, step + 1);
            }
            status = wait_for(child);
            assert_true(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
            c = open_run(run, 2);
            const int64_t now = newest_of(c);
            assert_true(now == step || now == step + 1);
            assert_true(status != 0 || now == step + 1);
            assert_true(count_whole(run) >= 2);
            assert_int_equal(count_entries(path_in(run, "checkpoints"), ".t"), 0);
            step = now;
            coordinator_checkpoints_close(&c);
        }
    }
}

static void death_at_any_time_leaves_old_or_new(void **state)
{
    (void)state;
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 2);
    int64_t last = 2;

    assert_ok(save(c, 1));
    assert_ok(save(c, 2));
    coordinator_checkpoints_close(&c);
    srand(20260301);
    for (int i = 0; i < 15; i++) {
        const struct timespec pause = {0, 1000L * (500 + rand() % 12000)};
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) publish_and_exit(run, last + 1, last + 100000);
        nanosleep(&pause, NULL);
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(WTERMSIG(wait_for(child)), SIGKILL);
        c = open_run(run, 2);
        const int64_t now = newest_of(c);
        assert_true(now >= last);
        assert_true(count_whole(run) >= 2);
        last = now;
        coordinator_checkpoints_close(&c);
    }
    assert_true(last > 2);
}

static void reader_beside_a_trainer_sees_whole_checkpoints_only(void **state)
{
    (void)state;
    enum { N_SAVES = 100 };
    const char *run = test_folder();
    coordinator_checkpoints *c = open_run(run, 2);
    int64_t last = 0;
    int status = 0, n_reads = 0;

    assert_ok(save(c, 1));
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) publish_and_exit(run, 2, N_SAVES);
    while (waitpid(child, &status, WNOHANG) == 0) {
        char *folder = NULL;
        coordinator_state found;
        assert_ok(coordinator_checkpoint_locate(run, &folder, &found));
        assert_true(found.step >= last);
        assert_int_equal(found.position, 32 * found.step);
        last = found.step;
        cvy_free(folder);
        n_reads++;
    }
    assert_int_equal(status, 0);
    assert_true(n_reads > 1);
    assert_int_equal(newest_of(c), N_SAVES);
    coordinator_checkpoints_close(&c);
}

/* --- Memory ------------------------------------------------------------------------------------
 */

static cvy_status open_save_find(const char *run, int64_t step)
{
    coordinator_checkpoints *c = NULL;
    const char *folder = NULL;
    char *located = NULL;
    coordinator_state found;

    cvy_status status = coordinator_checkpoints_open(run, 2, &c);
    if (status != CVY_OK) return status;
    status = save(c, step);
    if (status == CVY_OK) status = coordinator_checkpoints_newest(c, &folder, &found);
    if (status == CVY_OK) status = coordinator_checkpoint_locate(run, &located, &found);
    cvy_free(located);
    coordinator_checkpoints_close(&c);
    return status;
}

static void failed_allocation_is_reported_without_a_leak(void **state)
{
    (void)state;
    const char *run = test_folder();
    cvy_alloc_counts before, after;
    int64_t n_failed = 0;

    assert_ok(open_save_find(run, 1));
    assert_ok(open_save_find(run, 2));
    cvy_alloc_count(&before);
    assert_ok(open_save_find(run, 3)); /* prunes, as all below do */
    cvy_alloc_count(&after);
    const int64_t n_allocations = after.n_ever - before.n_ever;
    cvy_log_soften(1);
    for (int64_t k = 0; k <= n_allocations; k++) {
        coordinator_checkpoints *c = NULL;
        cvy_alloc_fail_at(k);
        const cvy_status status = open_save_find(run, 4 + k);
        cvy_alloc_fail_at(-1);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
        (void)test_log_reset(NULL);
        /* What fails after the rename (latest, pruning) is no failure of the save. */
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        if (k == n_allocations) assert_ok(status);
        n_failed += status != CVY_OK;
        c = open_run(run, 2);
        assert_true(newest_of(c) >= 3);
        coordinator_checkpoints_close(&c);
    }
    cvy_log_soften(-1);
    assert_true(n_failed > n_allocations / 2);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(run_without_a_checkpoint_has_no_newest),
    cvy_unit_test(published_checkpoint_is_found_by_every_way),
    cvy_unit_test(newest_is_by_number_not_by_name),
    cvy_unit_test(prune_leaves_the_newest_keep),
    cvy_unit_test(prune_never_goes_below_two),
    cvy_unit_test(damaged_ones_do_not_push_whole_ones_out),
    cvy_unit_test(damaged_ones_stay_until_enough_others_stand),
    cvy_unit_test(damaged_step_saved_again_is_replaced),
    cvy_unit_test(leftovers_are_swept_at_open_and_nothing_else),
    cvy_unit_test(temporary_is_dropped_by_discard_and_by_the_next_begin),
    cvy_unit_test(begin_in_a_vanished_folder_fails_and_names_it),
    cvy_unit_test(latest_is_a_hint_that_is_never_followed),
    cvy_unit_test(damaged_file_is_named_and_the_older_one_is_used),
    cvy_unit_test(cut_or_lengthened_file_is_refused),
    cvy_unit_test(whole_files_of_another_step_are_refused),
    cvy_unit_test(odd_things_named_like_checkpoints_are_passed_over),
    cvy_unit_test(no_whole_checkpoint_is_an_error_that_says_what_to_do),
    cvy_unit_test(fault_at_any_call_never_costs_a_checkpoint),
    cvy_unit_test(fault_while_a_step_is_replaced_keeps_the_one_that_stands),
    cvy_unit_test(damaged_write_is_not_published),
    cvy_unit_test(death_at_any_call_leaves_old_or_new),
    cvy_unit_test(death_at_any_time_leaves_old_or_new),
    cvy_unit_test(reader_beside_a_trainer_sees_whole_checkpoints_only),
    cvy_unit_test(failed_allocation_is_reported_without_a_leak),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
