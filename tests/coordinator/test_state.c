#include "coordinator/state_internal.h"

#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static coordinator_state make_state(void)
{
    return (coordinator_state){.step = 1200,
                               .position = 153600,
                               .epoch = 3.0720000000000001,
                               .n_skipped = 2,
                               .seed = -7,
                               .replicas = 4,
                               .minibatch = 32,
                               .n_records = 50000,
                               .job_digest = 0x0123456789abcdef,
                               .data_identity = UINT64_MAX,
                               .model_bytes = 1097728,
                               .model_hash = 0xfedcba9876543210,
                               .optimizer_bytes = 0,
                               .optimizer_hash = 1,
                               .arch = "resnet20_cifar",
                               .n_classes = 10,
                               .device = "cpu",
                               .convoy_version = "0.1.0",
                               .written_at = "2026-03-01T12:00:00.123Z"};
}

static char *text_of(const coordinator_state *state)
{
    char *text = NULL;

    assert_ok(coordinator_state_to_text(state, &text));
    return text;
}

/* A state's text with one member replaced (or removed: NULL) and a self-hash that fits again. */
static char *forge(const char *key, json_t *value)
{
    enum { FLAGS = JSON_SORT_KEYS | JSON_INDENT(2) | JSON_REAL_PRECISION(17) };
    const coordinator_state state = make_state();
    char *text = text_of(&state);
    json_t *document = json_loads(text, 0, NULL);
    char hex[17];

    cvy_free(text);
    assert_non_null(document);
    assert_int_equal(json_object_del(document, "self_hash"), 0);
    if (value != NULL)
        assert_int_equal(json_object_set_new(document, key, value), 0);
    else
        assert_int_equal(json_object_del(document, key), 0);
    char *bare = json_dumps(document, FLAGS);
    char *line = cvy_text_format("%s\n", bare);
    cvy_hash_text(cvy_hash64(line, strlen(line)), hex);
    cvy_free(line);
    free(bare);
    assert_int_equal(json_object_set_new(document, "self_hash", json_string(hex)), 0);
    bare = json_dumps(document, FLAGS);
    line = cvy_text_format("%s\n", bare);
    free(bare);
    json_decref(document);
    return line;
}

static void assert_refused(const char *text, size_t size_bytes, const char *why)
{
    coordinator_state out = {.step = 77};
    cvy_reason reason = {""};

    assert_status(coordinator_state_from_text(text, size_bytes, &out, &reason), CVY_ERR_BAD_DATA);
    assert_int_equal(out.step, 77); /* written only on success */
    if (strstr(reason.text, why) == NULL) fail_msg("'%s' has no '%s'", reason.text, why);
}

static void assert_forged_refused(const char *key, json_t *value, const char *why)
{
    char *text = forge(key, value);

    assert_refused(text, strlen(text), why);
    cvy_free(text);
}

static void text_read_back_gives_the_same_state(void **state)
{
    (void)state;
    const coordinator_state first = make_state();
    coordinator_state second;
    char *text = text_of(&first);

    assert_ok(coordinator_state_from_text(text, strlen(text), &second, NULL));
    assert_true(coordinator_state_equal(&first, &second));
    assert_int_equal(second.seed, -7);
    assert_true(second.epoch == first.epoch);
    assert_true(second.data_identity == UINT64_MAX);
    assert_string_equal(second.arch, "resnet20_cifar");
    assert_string_equal(second.convoy_version, "0.1.0");
    cvy_free(text);
}

static void forged_text_with_a_fitting_hash_is_taken(void **state)
{
    (void)state;
    coordinator_state out;
    char *text = forge("step", json_integer(1201));

    /* So the refusals below are due to the member, not to the forging. */
    assert_ok(coordinator_state_from_text(text, strlen(text), &out, NULL));
    assert_int_equal(out.step, 1201);
    cvy_free(text);
}

static void flipped_bit_anywhere_is_refused(void **state)
{
    (void)state;
    const coordinator_state first = make_state();
    char *text = text_of(&first);
    const size_t size_bytes = strlen(text);
    coordinator_state out;

    for (size_t bit = 0; bit < 8 * size_bytes; bit++) {
        text[bit / 8] = (char)(text[bit / 8] ^ (1 << bit % 8));
        if (coordinator_state_from_text(text, size_bytes, &out, NULL) != CVY_ERR_BAD_DATA)
            fail_msg("bit %zu of byte %zu may be flipped", bit % 8, bit / 8);
        text[bit / 8] = (char)(text[bit / 8] ^ (1 << bit % 8));
    }
    assert_ok(coordinator_state_from_text(text, size_bytes, &out, NULL));
    cvy_free(text);
}

static void cut_anywhere_is_refused(void **state)
{
    (void)state;
    const coordinator_state first = make_state();
    char *text = text_of(&first);
    coordinator_state out;

    for (size_t n = 0; n < strlen(text); n++) {
        if (coordinator_state_from_text(text, n, &out, NULL) != CVY_ERR_BAD_DATA)
            fail_msg("a cut to %zu of %zu bytes is taken", n, strlen(text));
    }
    cvy_free(text);
}

static void same_meaning_in_other_bytes_is_refused(void **state)
{
    (void)state;
    const coordinator_state first = make_state();
    char *text = text_of(&first);
    char *longer = cvy_text_format("%s\n", text);
    char *spaced = cvy_text_format(" %s", text);

    assert_refused(longer, strlen(longer), "self_hash");
    assert_refused(spaced, strlen(spaced), "self_hash");
    cvy_free(spaced);
    cvy_free(longer);
    cvy_free(text);
}

static void foreign_texts_are_refused_with_their_reason(void **state)
{
    (void)state;
    char *huge = cvy_alloc(COORDINATOR_STATE_LIMIT_BYTES + 1);

    assert_non_null(huge);
    memset(huge, ' ', COORDINATOR_STATE_LIMIT_BYTES + 1);
    assert_refused(huge, COORDINATOR_STATE_LIMIT_BYTES + 1, "more than any state");
    cvy_free(huge);
    assert_refused("", 0, "no JSON");
    assert_refused("\0\0\0\0", 4, "no JSON");
    assert_refused("[1, 2]", 6, "no object");
    assert_refused("{}", 2, "\"format\"");
    assert_refused("{\"a\": 1, \"a\": 2}", 16, "duplicate");
    assert_forged_refused("format", json_string("convoy-job"), "convoy-checkpoint");
}

static void newer_version_is_refused_and_named(void **state)
{
    (void)state;
    assert_forged_refused("version", json_integer(2), "use a newer one");
    assert_forged_refused("version", json_string("1"), "version");
    assert_forged_refused("version", json_integer(0), "self_hash");
}

static void missing_or_foreign_member_is_refused_and_named(void **state)
{
    (void)state;
    static const char *const keys[] = {
        "step",        "position",   "epoch",           "n_skipped",      "seed",
        "replicas",    "minibatch",  "n_records",       "job_digest",     "data_identity",
        "model_bytes", "model_hash", "optimizer_bytes", "optimizer_hash", "arch",
        "n_classes",   "device",     "convoy_version",  "written_at"};

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        assert_forged_refused(keys[i], NULL, keys[i]);
        assert_forged_refused(keys[i], json_true(), keys[i]);
        assert_forged_refused(keys[i], json_null(), keys[i]);
    }
    assert_forged_refused("step", json_real(1200.0), "step");
    assert_forged_refused("epoch", json_integer(3), "epoch");
    assert_forged_refused("model_hash", json_string("123"), "model_hash");
    assert_forged_refused("more", json_integer(1), "self_hash");
}

static void absurd_value_is_refused_and_named(void **state)
{
    (void)state;
    assert_forged_refused("step", json_integer(INT64_MAX), "step");
    assert_forged_refused("step", json_integer(-1), "step");
    assert_forged_refused("position", json_integer(-1), "position");
    assert_forged_refused("epoch", json_real(1e300), "epoch");
    assert_forged_refused("epoch", json_real(-0.5), "epoch");
    assert_forged_refused("replicas", json_integer(0), "replicas");
    assert_forged_refused("minibatch", json_integer(1LL << 40), "minibatch");
    assert_forged_refused("n_records", json_integer(0), "n_records");
    assert_forged_refused("n_classes", json_integer(-3), "n_classes");
    assert_forged_refused("n_classes", json_integer(1LL << 32), "n_classes");
    assert_forged_refused("model_bytes", json_integer(-1), "model_bytes");
    assert_forged_refused("optimizer_bytes", json_integer(1LL << 60), "optimizer_bytes");
    assert_forged_refused("n_skipped", json_integer(-1), "n_skipped");
}

static void text_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    char longest[65];
    coordinator_state out;

    memset(longest, 'a', 64);
    longest[64] = 0;
    assert_forged_refused("arch", json_string(longest), "arch");
    char *text = forge("arch", json_string(longest + 1)); /* 63 characters and the NUL fit */
    assert_ok(coordinator_state_from_text(text, strlen(text), &out, NULL));
    assert_string_equal(out.arch, longest + 1);
    cvy_free(text);
}

static void absurd_state_is_not_written(void **state)
{
    (void)state;
    char *text = NULL;
    coordinator_state wrong = make_state();

    wrong.epoch = (double)NAN;
    test_log_expect("state of a checkpoint: epoch");
    assert_status(coordinator_state_to_text(&wrong, &text), CVY_ERR_INTERNAL);
    wrong = make_state();
    memset(wrong.device, 'x', sizeof wrong.device);
    test_log_expect("device is too long");
    assert_status(coordinator_state_to_text(&wrong, &text), CVY_ERR_INTERNAL);
    wrong = make_state();
    memcpy(wrong.arch, "\xff\xfe", 3);
    test_log_expect("arch is not UTF-8");
    assert_status(coordinator_state_to_text(&wrong, &text), CVY_ERR_INTERNAL);
    assert_null(text);
}

static void equality_sees_every_field(void **state)
{
    (void)state;
    const coordinator_state first = make_state();
    coordinator_state second = first;

    second.arch[40] = 'x'; /* behind the NUL: no part of the value */
    assert_true(coordinator_state_equal(&first, &second));
    second.epoch = nextafter(second.epoch, 9.0);
    assert_false(coordinator_state_equal(&first, &second));
    second = first;
    second.optimizer_hash++;
    assert_false(coordinator_state_equal(&first, &second));
    second = first;
    second.written_at[0] = '1';
    assert_false(coordinator_state_equal(&first, &second));
}

static void failed_allocation_is_reported_without_a_leak(void **state)
{
    (void)state;
    const coordinator_state first = make_state();
    coordinator_state second;
    cvy_alloc_counts before, after;
    char *text = NULL;
    int k = 0;

    cvy_alloc_count(&before);
    test_log_expect("text of a checkpoint's state");
    for (;; k++) {
        cvy_alloc_fail_at(k);
        const cvy_status status = coordinator_state_to_text(&first, &text);
        cvy_alloc_fail_at(-1);
        if (status == CVY_OK) break;
        assert_status(status, CVY_ERR_NO_MEMORY);
        assert_null(text);
    }
    assert_true(k >= 2);
    for (k = 0;; k++) {
        cvy_alloc_fail_at(k);
        const cvy_status status = coordinator_state_from_text(text, strlen(text), &second, NULL);
        cvy_alloc_fail_at(-1);
        if (status == CVY_OK) break;
        assert_status(status, CVY_ERR_NO_MEMORY);
    }
    assert_true(k >= 2);
    cvy_free(text);
    cvy_alloc_count(&after);
    assert_int_equal(after.n_live, before.n_live);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(text_read_back_gives_the_same_state),
    cvy_unit_test(forged_text_with_a_fitting_hash_is_taken),
    cvy_unit_test(flipped_bit_anywhere_is_refused),
    cvy_unit_test(cut_anywhere_is_refused),
    cvy_unit_test(same_meaning_in_other_bytes_is_refused),
    cvy_unit_test(foreign_texts_are_refused_with_their_reason),
    cvy_unit_test(newer_version_is_refused_and_named),
    cvy_unit_test(missing_or_foreign_member_is_refused_and_named),
    cvy_unit_test(absurd_value_is_refused_and_named),
    cvy_unit_test(text_that_does_not_fit_is_refused),
    cvy_unit_test(absurd_state_is_not_written),
    cvy_unit_test(equality_sees_every_field),
    cvy_unit_test(failed_allocation_is_reported_without_a_leak),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
