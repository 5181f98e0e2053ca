#include "coordinator/checkpoints.h"

#include "tests/coordinator/checkpoint_support.h"

/* --- Publishing, finding, pruning ------------------------------------------------------------ */

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

/* --- What dead runs leave -------------------------------------------------------------------- */

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

/* --- Damage ---------------------------------------------------------------------------------- */

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
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
