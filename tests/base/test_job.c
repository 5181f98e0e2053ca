#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/job.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char whole_job[] =
    "name: cifar10-resnet20\n"
    "model:    {arch: resnet20_cifar, classes: 10}\n"
    "data:\n"
    "  train:  {path: data/cifar10-train.lmdb, augment: [{pad_crop: 4}, {flip: 0.5}]}\n"
    "  val:    {path: data/cifar10-val.lmdb}\n"
    "replicas: 4\n"
    "minibatch: 32\n"
    "epochs:   164\n"
    "optimizer: {type: sgd, momentum: 0.9, nesterov: true, weight_decay: 1e-4}\n"
    "schedule:  {type: step, lr: 0.1, milestones: [82, 123], gamma: 0.1, warmup_epochs: 1}\n"
    "checkpoint: {every_minutes: 10, keep: 3}\n"
    "evaluate:   {every_epochs: 1}\n"
    "device: auto\n"
    "precision: float32\n"
    "reduce: ordered\n"
    "seed: 1\n"
    "run: runs/cifar10-resnet20\n";

static const char least_job[] =
    "name: x\nmodel: {arch: lenet5}\ndata: {train: {path: d}}\nepochs: 2\n";

static cvy_node *parse(const char *text)
{
    cvy_node *root = NULL;

    assert_ok(cvy_node_parse(text, strlen(text), "job.yaml", &root));
    return root;
}

static void refuse(const char *text, const char *assignment, const char *part)
{
    cvy_job job;
    cvy_node *root = parse(text);

    if (assignment != NULL) assert_ok(cvy_node_set(root, assignment));
    test_log_expect(part);
    assert_status(cvy_job_read(root, &job), CVY_ERR_CONFIG);
    if (!test_log_saw(part)) fail_msg("no line says: %s", part);
    cvy_node_destroy(&root);
}

static void whole_job_is_read(void **state)
{
    (void)state;
    cvy_job job;
    cvy_node *root = parse(whole_job);

    assert_ok(cvy_job_read(root, &job));
    assert_string_equal(job.name, "cifar10-resnet20");
    assert_string_equal(cvy_node_text(cvy_node_find(job.model, "arch")), "resnet20_cifar");
    assert_string_equal(job.data.train.path, "data/cifar10-train.lmdb");
    assert_int_equal(cvy_node_n_items(job.data.train.augment), 2);
    assert_string_equal(job.data.val.path, "data/cifar10-val.lmdb");
    assert_null(job.data.val.augment);
    assert_int_equal(job.replicas, 4);
    assert_int_equal(job.minibatch, 32);
    assert_int_equal(job.epochs, 164);
    assert_int_equal(job.steps, 0);
    assert_int_equal(cvy_node_n_items(job.optimizer), 4);
    assert_int_equal(cvy_node_n_items(job.schedule), 5);
    assert_int_equal(job.reduce, CVY_REDUCE_ORDERED);
    assert_string_equal(job.run, "runs/cifar10-resnet20");
    cvy_node_destroy(&root);
}

static void least_job_has_defaults(void **state)
{
    (void)state;
    cvy_job job;
    cvy_node *root = parse(least_job);

    assert_ok(cvy_job_read(root, &job));
    assert_int_equal(job.replicas, 1);
    assert_int_equal(job.minibatch, 32);
    assert_true(job.checkpoint.every_minutes == 10.0);
    assert_int_equal(job.checkpoint.keep, 3);
    assert_int_equal(job.checkpoint.max_failed, 5);
    assert_true(job.evaluate.every_epochs == 0.0); /* nothing to evaluate on */
    assert_int_equal(job.evaluate.hardest, 20);
    assert_true(job.deadline.start_s == 300.0 && job.deadline.step_s == 0.0);
    assert_true(job.deadline.save_s == 600.0 && job.deadline.evaluate_s == 60.0);
    assert_int_equal(job.data.on_bad_record, 0);
    assert_true(job.data.max_bad_fraction == 0.001);
    assert_int_equal(job.data.max_pixels, 64000000);
    assert_int_equal(job.data.channel_order, 0);
    assert_string_equal(job.device, "auto");
    assert_int_equal(job.bucket_kib, 4096);
    assert_int_equal(job.hash_every_steps, 100);
    assert_int_equal(job.metrics_every_steps, 10);
    assert_int_equal(job.max_nan_steps, 5);
    assert_int_equal(job.seed, 1);
    assert_null(job.init_from);
    assert_null(job.optimizer);
    assert_string_equal(job.run, "runs/x");
    assert_string_equal(cvy_node_text(cvy_node_find(root, "run")), "runs/x");
    cvy_node_destroy(&root);
}

static void evaluation_is_on_by_default_with_a_validation_set(void **state)
{
    (void)state;
    cvy_job job;
    cvy_node *root = parse(least_job);

    assert_ok(cvy_node_set(root, "data.val.path=v"));
    assert_ok(cvy_job_read(root, &job));
    assert_true(job.evaluate.every_epochs == 1.0);
    cvy_node_destroy(&root);
}

static void resolved_job_is_read_back_unchanged(void **state)
{
    (void)state;
    static const char *const texts[] = {whole_job, least_job};

    for (int i = 0; i < 2; i++) {
        cvy_job first_job, second_job;
        char *first = NULL, *second = NULL;
        cvy_node *root = parse(texts[i]);
        assert_ok(cvy_job_read(root, &first_job));
        assert_ok(cvy_node_print(root, &first));
        cvy_node *back = parse(first);
        assert_ok(cvy_job_read(back, &second_job));
        assert_ok(cvy_node_print(back, &second));
        assert_string_equal(first, second);
        assert_string_equal(first_job.run, second_job.run);
        cvy_free(first);
        cvy_free(second);
        cvy_node_destroy(&root);
        cvy_node_destroy(&back);
    }
}

static void keys_out_of_range_are_refused(void **state)
{
    (void)state;
    refuse(whole_job, "minibatch=0",
           "--set minibatch: minibatch is '0', expected an integer from 1 to "
           "65536 images");
    refuse(whole_job, "minibatch=1e18", "minibatch is '1e18', expected an integer from 1 to 65536");
    refuse(whole_job, "replicas=0", "replicas is '0', expected an integer from 1");
    refuse(whole_job, "epochs=0", "epochs is '0', expected an integer from 1");
    refuse(whole_job, "seed=-1", "seed is '-1', expected an integer from 0 to 9007199254740991");
    refuse(whole_job, "checkpoint.keep=1", "checkpoint.keep is '1', expected an integer from 2");
    refuse(whole_job, "checkpoint.every_minutes=nan", "expected a finite number from 0");
    refuse(whole_job, "precision=float16", "expected float32; did you mean 'float32'?");
    refuse(whole_job, "reduce=natve", "expected ordered or native; did you mean 'native'?");
    refuse(whole_job, "data.channel_order=grb", "expected rgb or bgr");
    refuse(whole_job, "epocs=3", "unknown key 'epocs' in the job, did you mean 'epochs'?");
    refuse(whole_job, "data.train.pth=3", "unknown key 'pth' in data.train, did you mean 'path'?");
}

static void missing_parts_are_named(void **state)
{
    (void)state;
    refuse("name: x\nmodel: {}\nepochs: 1\n", NULL, "job.yaml:1:1: data.train.path is missing");
    refuse("model: {}\ndata: {train: {path: d}}\nepochs: 1\n", NULL, "name is missing");
    refuse("name: x\ndata: {train: {path: d}}\nepochs: 1\n", NULL, "model is missing");
    refuse("name: x\nmodel: {}\ndata: {train: {path: d}}\n", NULL,
           "epochs is missing, expected how long to train: epochs or steps");
    refuse("", NULL, "job.yaml:1:1: the job is empty");
    refuse("[1]", NULL, "the job is a list, expected a mapping");
}

static void parts_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    refuse(least_job, "steps=5", "epochs and steps exclude each other");
    refuse(least_job, "evaluate.every_steps=5", "evaluate needs a validation set");
    refuse(least_job, "evaluate.every_epochs=1", "evaluate needs a validation set");
    refuse(least_job, "data.val.augment=[]", "data.val.path is missing");
    refuse(least_job, "model=resnet18", "--set model: model is 'resnet18', expected a mapping");
    refuse(least_job, "optimizer=[1]", "optimizer is a list, expected a mapping");
    refuse(least_job, "schedule=cosine", "schedule is 'cosine', expected a mapping");
    refuse(least_job, "data.train.augment={a: 1}",
           "data.train.augment is a mapping, expected a list");
    refuse(least_job, "data.mean=[0.5]", "data.mean and data.deviation");
    refuse(least_job, "name=../x", "name must be");
    refuse(least_job, "name=a/b", "name must be");
    refuse("name: x\nmodel: {}\ndata: {train: {path: d}}\nsteps: 5\nreplicas: 65536\n"
           "minibatch: 65536\n",
           NULL, "job.yaml:6:12: replicas x minibatch is over");
}

static uint64_t digest(const char *text, const char *assignment)
{
    cvy_job job;
    uint64_t got = 0;
    cvy_node *root = parse(text);

    if (assignment != NULL) assert_ok(cvy_node_set(root, assignment));
    assert_ok(cvy_job_read(root, &job));
    assert_ok(cvy_job_digest(root, &got));
    cvy_node_destroy(&root);
    return got;
}

static void digest_depends_on_what_decides_the_bits(void **state)
{
    (void)state;
    static const char *const same[] = {"name=y",
                                       "run=elsewhere",
                                       "threads=3",
                                       "deadline.save_s=7",
                                       "checkpoint.keep=9",
                                       "evaluate.hardest=3",
                                       "device=ref",
                                       "data.train.path=z",
                                       "data.val.path=z",
                                       "data.loader_threads=2",
                                       "data.read_ahead=9",
                                       "data.allow_network_fs=true",
                                       "hash_every_steps=1",
                                       "metrics_every_steps=1",
                                       "seed=01",
                                       "minibatch=32",
                                       "init_from=",
                                       "optimizer.weight_decay=0.0001"};
    static const char *const other[] = {"seed=2",
                                        "minibatch=31",
                                        "replicas=2",
                                        "epochs=3",
                                        "model.classes=11",
                                        "optimizer.type=lars",
                                        "schedule.lr=0.2",
                                        "schedule.milestones=[123, 82]",
                                        "data.train.augment.0.pad_crop=5",
                                        "data.val.augment=[{center_crop: 28}]",
                                        "reduce=native",
                                        "data.channel_order=bgr",
                                        "data.on_bad_record=fail"};
    const uint64_t base = digest(whole_job, NULL);

    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        if (digest(whole_job, same[i]) != base) fail_msg("%s changes the digest", same[i]);
    }
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        if (digest(whole_job, other[i]) == base) fail_msg("%s leaves the digest", other[i]);
    }
}

static void difference_names_the_first_key(void **state)
{
    static const struct {
        const char *set, *expected;
    } row[] = {
        {"seed=7", "seed is 7, was "},
        {"optimizer.momentum=0.25", "optimizer.momentum is 0.25, was "},
        {"optimizer.novel=1", "optimizer.novel is 1, was not given"},
        {"minibatch=null", "minibatch is not given, was "},
        {"data.train.augment=[{flip: 0.25}]", "data.train.augment is another list, was another"},
        {"name=other", ""},
        {"checkpoint.keep=7", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        cvy_node *now = NULL, *then = NULL;
        char text[320] = "x";
        assert_ok(cvy_node_parse(whole_job, strlen(whole_job), "now", &now));
        assert_ok(cvy_node_parse(whole_job, strlen(whole_job), "then", &then));
        assert_ok(cvy_node_set(now, row[i].set));
        assert_ok(cvy_job_difference(now, then, text, sizeof text));
        if (strncmp(text, row[i].expected, strlen(row[i].expected)) != 0 ||
            (row[i].expected[0] == '\0' && text[0] != '\0')) {
            fail_msg("%s: '%s', expected '%s'", row[i].set, text, row[i].expected);
        }
        cvy_node_destroy(&then);
        cvy_node_destroy(&now);
    }
}

static void digest_ignores_the_order_of_keys(void **state)
{
    (void)state;
    static const char turned[] =
        "epochs: 2\ndata: {train: {path: d}}\nmodel: {arch: lenet5}\nname: x\n";

    assert_true(digest(least_job, NULL) == digest(turned, NULL));
    assert_true(digest(least_job, NULL) != digest(whole_job, NULL));
}

static void help_lists_every_key_of_the_job(void **state)
{
    (void)state;
    static const char *const keys[] = {"name",
                                       "data.train.path",
                                       "checkpoint.every_minutes",
                                       "deadline.step_s",
                                       "evaluate.hardest",
                                       "max_nan_steps",
                                       "run"};
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    assert_non_null(out);
    cvy_config_print_help(&cvy_job_table, out);
    assert_int_equal(fclose(out), 0);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        assert_non_null(strstr(text, keys[i]));
    assert_null(strstr(text, "(null)"));
    free(text);
}

static void no_memory_is_reported_and_nothing_leaks(void **state)
{
    (void)state;
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;
    int64_t k = 0;

    test_log_expect("out of memory");
    for (; status != CVY_OK; k++) {
        cvy_job job;
        uint64_t hash = 0;
        cvy_alloc_count(&before);
        cvy_node *root = parse(least_job);
        cvy_alloc_fail_at(k);
        status = cvy_job_read(root, &job);
        if (status == CVY_OK) status = cvy_job_digest(root, &hash);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        cvy_node_destroy(&root);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
    assert_true(k > 50);
}

static void drop(void *arg, cvy_log_level level, const char *folder, const char *message)
{
    (void)level;
    (void)folder;
    assert_non_null(message);
    ++*(int *)arg;
}

static unsigned next_random(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void mutated_jobs_never_crash(void **state)
{
    int n_lines = 0, n_good = 0, n_bad = 0;
    unsigned seed = 7;

    cvy_log_set_sink(drop, &n_lines);
    for (int i = 0; i < 5000; i++) {
        char text[sizeof whole_job];
        cvy_job job;
        cvy_node *root = NULL;
        memcpy(text, whole_job, sizeof text);
        for (unsigned n = 1 + next_random(&seed) % 3; n > 0; n--) {
            const size_t at = next_random(&seed) % (sizeof text - 1);
            text[at] = text[next_random(&seed) % (sizeof text - 1)];
        }
        cvy_status status = cvy_node_parse(text, sizeof text - 1, "fuzz", &root);
        if (status == CVY_OK) status = cvy_job_read(root, &job);
        assert_true(status == CVY_OK || status == CVY_ERR_CONFIG);
        n_good += status == CVY_OK;
        n_bad += status != CVY_OK;
        cvy_node_destroy(&root);
    }
    assert_int_equal(test_log_open(state), 0);
    assert_int_equal(n_lines, n_bad); /* one line a refusal */
    assert_true(n_good > 100 && n_bad > 100);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(whole_job_is_read),
    cvy_unit_test(least_job_has_defaults),
    cvy_unit_test(evaluation_is_on_by_default_with_a_validation_set),
    cvy_unit_test(resolved_job_is_read_back_unchanged),
    cvy_unit_test(keys_out_of_range_are_refused),
    cvy_unit_test(missing_parts_are_named),
    cvy_unit_test(parts_that_do_not_fit_are_refused),
    cvy_unit_test(digest_depends_on_what_decides_the_bits),
    cvy_unit_test(difference_names_the_first_key),
    cvy_unit_test(digest_ignores_the_order_of_keys),
    cvy_unit_test(help_lists_every_key_of_the_job),
    cvy_unit_test(no_memory_is_reported_and_nothing_leaks),
    cvy_unit_test(mutated_jobs_never_crash),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
