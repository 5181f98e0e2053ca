#include "coordinator/evaluations.h"

#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/file.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define N_RECORDS 1000
#define N_CLASSES 7
#define N_HARDEST 25

static const char *const names[N_CLASSES] = {"cat",          "dog",      "<script>", "\"quoted\"",
                                             "\xc3\xa4pfel", "no\nline", ""};

/* A small generator of the test's own: what it gives need only be varied and repeatable. */
static uint64_t next_word(uint64_t *word)
{
    *word = *word * 6364136223846793005u + 1442695040888963407u;
    return *word >> 33;
}

static void make_results(comm_result *out, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        const int label = (int)(next_word(&seed) % N_CLASSES);
        const int rank = (int)(next_word(&seed) % N_CLASSES) * (next_word(&seed) % 3 != 0);
        const int predicted = rank == 0 ? label : (label + rank) % N_CLASSES;
        out[i] = (comm_result){.record = i,
                               .loss = (float)(next_word(&seed) % 512) / 64.0f,
                               .confidence = (float)(next_word(&seed) % 1025) / 1024.0f,
                               .label = label,
                               .predicted = predicted,
                               .rank = rank};
        if (next_word(&seed) % 50 == 0) out[i].rank = -1;
    }
}

static coordinator_evaluation *open_evaluation(int64_t n_records)
{
    coordinator_evaluation *e = NULL;

    assert_ok(coordinator_evaluation_create(1200, n_records, N_CLASSES, names, &e));
    return e;
}

/* All results in pieces, in an order of their own. The JSON, parsed; text (may be NULL) gets it. */
static json_t *evaluate(const comm_result *results, int64_t n, uint64_t order, char **text,
                        coordinator_evaluation_summary *summary)
{
    coordinator_evaluation *e = open_evaluation(n);
    comm_result *shuffled = cvy_alloc((size_t)n * sizeof *shuffled);
    char *json = NULL;

    assert_non_null(shuffled);
    memcpy(shuffled, results, (size_t)n * sizeof *shuffled);
    for (int64_t i = n - 1; i > 0 && order != 0; i--) {
        const int64_t k = (int64_t)(next_word(&order) % (uint64_t)(i + 1));
        const comm_result kept = shuffled[i];
        shuffled[i] = shuffled[k];
        shuffled[k] = kept;
    }
    for (int64_t from = 0; from < n;) {
        int64_t n_piece = order == 0 ? n : (int64_t)(next_word(&order) % 40);
        if (n_piece > n - from) n_piece = n - from;
        assert_ok(coordinator_evaluation_add(e, shuffled + from, n_piece));
        from += n_piece;
    }
    assert_ok(coordinator_evaluation_finish(e, N_HARDEST, summary));
    assert_ok(coordinator_evaluation_json(e, &json));
    json_t *document = json_loads(json, 0, NULL);
    assert_non_null(document);
    if (text != NULL)
        *text = json;
    else
        cvy_free(json);
    cvy_free(shuffled);
    coordinator_evaluation_destroy(&e);
    assert_null(e);
    return document;
}

static json_int_t integer(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static double real(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_real(value));
    return json_real_value(value);
}

/* null when the divisor is 0 */
static void assert_ratio(const json_t *object, const char *key, int64_t part, int64_t whole)
{
    if (whole == 0)
        assert_true(json_is_null(json_object_get(object, key)));
    else
        assert_true(real(object, key) == (double)part / (double)whole);
}

/* --- Against a computation of its own -------------------------------------------------------- */

static void assert_totals(const json_t *json, const comm_result *r, int64_t n)
{
    int64_t n_bad = 0, n_top1 = 0, n_top5 = 0;
    double loss = 0;

    for (int64_t i = 0; i < n; i++) {
        n_bad += r[i].rank < 0;
        n_top1 += r[i].rank == 0;
        n_top5 += r[i].rank >= 0 && r[i].rank < 5;
        if (r[i].rank >= 0) loss += (double)r[i].loss;
    }
    assert_true(n_bad > 0);
    assert_int_equal(integer(json, "step"), 1200);
    assert_int_equal(integer(json, "records"), n);
    assert_int_equal(integer(json, "bad_records"), n_bad);
    assert_int_equal(integer(json, "n_top1"), n_top1);
    assert_int_equal(integer(json, "n_top5"), n_top5);
    assert_ratio(json, "top1", n_top1, n - n_bad);
    assert_ratio(json, "top5", n_top5, n - n_bad);
    assert_true(real(json, "loss") == loss / (double)(n - n_bad));
}

static void assert_classes(const json_t *json, const comm_result *r, int64_t n)
{
    for (int a = 0; a < N_CLASSES; a++) {
        const json_t *row = json_array_get(json_object_get(json, "classes"), (size_t)a);
        const json_t *counts = json_array_get(
            json_object_get(json_object_get(json, "confusion"), "counts"), (size_t)a);
        int64_t n_label = 0, n_predicted = 0, n_right = 0, n_pair[N_CLASSES] = {0};
        for (int64_t i = 0; i < n; i++) {
            if (r[i].rank < 0) continue;
            n_label += r[i].label == a;
            n_predicted += r[i].predicted == a;
            n_right += r[i].label == a && r[i].rank == 0;
            if (r[i].label == a) n_pair[r[i].predicted]++;
        }
        assert_int_equal(integer(row, "class"), a);
        assert_string_equal(json_string_value(json_object_get(row, "name")), names[a]);
        assert_int_equal(integer(row, "n"), n_label);
        assert_int_equal(integer(row, "n_predicted"), n_predicted);
        assert_int_equal(integer(row, "n_right"), n_right);
        assert_ratio(row, "precision", n_right, n_predicted);
        assert_ratio(row, "recall", n_right, n_label);
        assert_ratio(row, "f1", 2 * n_right, n_label + n_predicted);
        assert_int_equal(json_array_size(counts), N_CLASSES);
        for (int b = 0; b < N_CLASSES; b++)
            assert_int_equal(json_integer_value(json_array_get(counts, (size_t)b)), n_pair[b]);
    }
}

static void assert_calibration(const json_t *json, const comm_result *r, int64_t n)
{
    const json_t *calibration = json_object_get(json, "calibration");
    double error = 0;
    int64_t n_good = 0;

    for (int64_t i = 0; i < n; i++) n_good += r[i].rank >= 0;
    assert_int_equal(json_array_size(json_object_get(calibration, "bins")), 15);
    for (int b = 0; b < 15; b++) {
        const json_t *bin = json_array_get(json_object_get(calibration, "bins"), (size_t)b);
        int64_t n_in = 0, n_right = 0;
        double confidence = 0;
        for (int64_t i = 0; i < n; i++) {
            const double c = (double)r[i].confidence;
            const int is_in = c * 15 >= b && (c * 15 < b + 1 || b == 14);
            if (r[i].rank < 0 || !is_in) continue;
            n_in++;
            n_right += r[i].rank == 0;
            confidence += c;
        }
        assert_int_equal(integer(bin, "n"), n_in);
        assert_true(real(bin, "from") == b / 15.0 && real(bin, "to") == (b + 1) / 15.0);
        assert_ratio(bin, "accuracy", n_right, n_in);
        if (n_in == 0) continue;
        const double k = (double)n_in;
        assert_true(real(bin, "confidence") == confidence / k);
        error += k / (double)n_good * fabs(confidence / k - (double)n_right / k);
    }
    assert_true(fabs(real(calibration, "expected_calibration_error") - error) < 1e-12);
}

/* Sorted by loss, equal ones by record; checked by what it must be, not by sorting again. */
static void assert_hardest(const json_t *json, const comm_result *r, int64_t n)
{
    const json_t *list = json_object_get(json, "hardest");
    float last_loss = INFINITY;
    json_int_t last = -1;
    int64_t n_harder = 0;

    assert_int_equal(json_array_size(list), N_HARDEST);
    for (size_t i = 0; i < N_HARDEST; i++) {
        const json_t *hard = json_array_get(list, i);
        const json_int_t record = integer(hard, "record");
        const comm_result *mine = &r[record];
        char key[32];
        assert_true(mine->rank >= 0);
        assert_true(mine->loss < last_loss || (mine->loss == last_loss && record > last));
        last_loss = mine->loss;
        last = record;
        snprintf(key, sizeof key, "%08lld", (long long)record);
        assert_string_equal(json_string_value(json_object_get(hard, "key")), key);
        assert_int_equal(integer(hard, "label"), mine->label);
        assert_int_equal(integer(hard, "predicted"), mine->predicted);
        assert_string_equal(json_string_value(json_object_get(hard, "label_name")),
                            names[mine->label]);
        assert_string_equal(json_string_value(json_object_get(hard, "predicted_name")),
                            names[mine->predicted]);
        assert_true(real(hard, "loss") == (double)mine->loss);
        assert_true(real(hard, "confidence") == (double)mine->confidence);
    }
    for (int64_t i = 0; i < n; i++)
        n_harder += r[i].rank >= 0 &&
                    (r[i].loss > last_loss || (r[i].loss == last_loss && i <= last));
    assert_int_equal(n_harder, N_HARDEST);
}

static void figures_equal_a_plain_computation(void **state)
{
    (void)state;
    static comm_result results[N_RECORDS];
    coordinator_evaluation_summary summary;

    for (uint64_t seed = 1; seed <= 5; seed++) {
        make_results(results, N_RECORDS, seed);
        json_t *json = evaluate(results, N_RECORDS, seed + 100, NULL, &summary);
        assert_totals(json, results, N_RECORDS);
        assert_classes(json, results, N_RECORDS);
        assert_calibration(json, results, N_RECORDS);
        assert_hardest(json, results, N_RECORDS);
        assert_int_equal(summary.n_records, N_RECORDS);
        assert_int_equal(summary.n_bad, integer(json, "bad_records"));
        assert_int_equal(summary.n_top1, integer(json, "n_top1"));
        assert_true(summary.loss == real(json, "loss"));
        assert_true(summary.top5 == real(json, "top5"));
        json_decref(json);
    }
}

static void json_is_the_same_bytes_in_any_order_of_arrival(void **state)
{
    (void)state;
    static comm_result results[N_RECORDS];
    coordinator_evaluation_summary summary;
    char *first = NULL;

    make_results(results, N_RECORDS, 7);
    results[3].loss = NAN;
    results[4].loss = 1e-30f; /* sums in another order would differ */
    results[5].loss = 1e30f;
    results[3].rank = results[4].rank = results[5].rank = 1;
    json_decref(evaluate(results, N_RECORDS, 0, &first, &summary));
    for (uint64_t order = 1; order <= 10; order++) {
        char *text = NULL;
        json_decref(evaluate(results, N_RECORDS, order, &text, &summary));
        assert_string_equal(text, first);
        cvy_free(text);
    }
    cvy_free(first);
}

/* --- Odd results ----------------------------------------------------------------------------- */

static void loss_that_is_no_number_is_null_and_hardest(void **state)
{
    (void)state;
    comm_result results[4];
    coordinator_evaluation_summary summary;

    for (int i = 0; i < 4; i++)
        results[i] = (comm_result){.record = i, .loss = 1e20f, .confidence = 0.5f, .label = i};
    results[2].loss = NAN;
    results[3].loss = INFINITY;
    results[3].confidence = INFINITY;
    results[1].confidence = NAN;
    json_t *json = evaluate(results, 4, 0, NULL, &summary);
    const json_t *hardest = json_object_get(json, "hardest");
    const json_t *bins = json_object_get(json_object_get(json, "calibration"), "bins");
    assert_true(isnan(summary.loss));
    assert_true(json_is_null(json_object_get(json, "loss")));
    assert_true(summary.top1 == 1.0); /* counts are not touched by it */
    assert_int_equal(integer(json_array_get(hardest, 0), "record"), 2);
    assert_int_equal(integer(json_array_get(hardest, 1), "record"), 3);
    assert_int_equal(integer(json_array_get(hardest, 2), "record"), 0);
    assert_true(json_is_null(json_object_get(json_array_get(hardest, 0), "loss")));
    assert_true(json_is_null(json_object_get(json_array_get(hardest, 1), "confidence")));
    assert_int_equal(integer(json_array_get(bins, 0), "n"), 1);  /* NaN */
    assert_int_equal(integer(json_array_get(bins, 14), "n"), 1); /* infinite */
    json_decref(json);
}

static void all_bad_records_leave_no_figure(void **state)
{
    (void)state;
    comm_result results[3] = {{.record = 0, .rank = -1},
                              {.record = 1, .rank = -1, .label = 99},
                              {.record = 2, .rank = -1, .label = -1, .predicted = -1}};
    coordinator_evaluation_summary summary;

    json_t *json = evaluate(results, 3, 0, NULL, &summary);
    assert_int_equal(summary.n_bad, 3);
    assert_true(isnan(summary.loss) && isnan(summary.top1) && isnan(summary.top5));
    assert_true(json_is_null(json_object_get(json, "top1")));
    assert_int_equal(json_array_size(json_object_get(json, "hardest")), 0);
    json_decref(json);
}

static void one_record_without_names_is_evaluated(void **state)
{
    (void)state;
    const comm_result result = {
        .record = 0, .loss = 0.25f, .confidence = 1.0f, .label = 2, .predicted = 1, .rank = 1};
    coordinator_evaluation_summary summary;
    coordinator_evaluation *e = NULL;
    char *text = NULL;

    assert_ok(coordinator_evaluation_create(0, 1, 3, NULL, &e));
    assert_ok(coordinator_evaluation_add(e, &result, 1));
    assert_ok(coordinator_evaluation_finish(e, 0, &summary));
    assert_true(summary.loss == 0.25 && summary.top1 == 0 && summary.top5 == 1);
    assert_ok(coordinator_evaluation_json(e, &text));
    json_t *json = json_loads(text, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(
                            json_array_get(json_object_get(json, "classes"), 2), "name")),
                        "2");
    assert_int_equal(json_array_size(json_object_get(json, "hardest")), 0);
    json_decref(json);
    cvy_free(text);
    coordinator_evaluation_destroy(&e);
}

static void name_that_is_not_utf8_becomes_its_number(void **state)
{
    (void)state;
    static const char *const bad_names[] = {"good", "b\xe4 d"};
    const comm_result result = {.record = 0, .label = 1, .predicted = 0, .rank = 1};
    coordinator_evaluation_summary summary;
    coordinator_evaluation *e = NULL;
    char *text = NULL;

    assert_ok(coordinator_evaluation_create(0, 1, 2, bad_names, &e));
    assert_ok(coordinator_evaluation_add(e, &result, 1));
    assert_ok(coordinator_evaluation_finish(e, 1, &summary));
    assert_ok(coordinator_evaluation_json(e, &text));
    assert_non_null(
        strstr(text, "\"label_name\":\"1\",\"predicted\":0,\"predicted_name\":\"good\""));
    cvy_free(text);
    coordinator_evaluation_destroy(&e);
}

static void many_classes_are_written_as_entries(void **state)
{
    (void)state;
    enum { N = 300, CLASSES = 21841 };
    coordinator_evaluation_summary summary;
    coordinator_evaluation *e = NULL;
    cvy_alloc_counts before, after;
    char *text = NULL;
    int64_t n_seen = 0;

    cvy_alloc_count(&before);
    assert_ok(coordinator_evaluation_create(0, N, CLASSES, NULL, &e));
    cvy_alloc_count(&after);
    assert_true(after.live_bytes - before.live_bytes < 1 << 20); /* no classes^2 */
    for (int i = N - 1; i >= 0; i--) {
        const comm_result r = {.record = i,
                               .label = i % 3 * 10000,
                               .predicted = i % 5 * 5000,
                               .rank = i % 3 * 2 == i % 5 ? 0 : 20000};
        assert_ok(coordinator_evaluation_add(e, &r, 1));
    }
    assert_ok(coordinator_evaluation_finish(e, 0, &summary));
    assert_ok(coordinator_evaluation_json(e, &text));
    json_t *json = json_loads(text, 0, NULL);
    const json_t *confusion = json_object_get(json, "confusion");
    const json_t *entries = json_object_get(confusion, "counts");
    assert_string_equal(json_string_value(json_object_get(confusion, "form")),
                        "[label, predicted, n]");
    assert_int_equal(json_array_size(entries), 15);
    for (size_t i = 0; i < 15; i++) {
        const json_t *entry = json_array_get(entries, i);
        assert_int_equal(json_integer_value(json_array_get(entry, 0)), i / 5 * 10000);
        assert_int_equal(json_integer_value(json_array_get(entry, 1)), i % 5 * 5000);
        n_seen += json_integer_value(json_array_get(entry, 2));
    }
    assert_int_equal(n_seen, N);
    json_decref(json);
    cvy_free(text);
    coordinator_evaluation_destroy(&e);
}

/* --- Errors of convoy itself ----------------------------------------------------------------- */

static void record_that_came_twice_or_never_is_named(void **state)
{
    (void)state;
    coordinator_evaluation *e = open_evaluation(10);
    coordinator_evaluation_summary summary;
    comm_result results[10];

    for (int i = 0; i < 10; i++) results[i] = (comm_result){.record = i};
    assert_ok(coordinator_evaluation_add(e, results, 6));
    assert_ok(coordinator_evaluation_add(e, results + 7, 3));
    test_log_expect("record 4 was evaluated twice");
    assert_status(coordinator_evaluation_add(e, results + 4, 1), CVY_ERR_INTERNAL);
    test_log_expect("record 6 was not evaluated");
    assert_status(coordinator_evaluation_finish(e, 5, &summary), CVY_ERR_INTERNAL);
    assert_ok(coordinator_evaluation_add(e, results + 6, 1));
    assert_ok(coordinator_evaluation_finish(e, 5, &summary));
    assert_int_equal(summary.n_top1, 10);
    coordinator_evaluation_destroy(&e);
}

static void result_beyond_records_or_classes_is_refused(void **state)
{
    (void)state;
    static const comm_result wrong[] = {
        {.record = -1},
        {.record = 10},
        {.record = INT64_MAX},
        {.record = 1, .label = -1},
        {.record = 1, .label = N_CLASSES},
        {.record = 1, .predicted = N_CLASSES},
        {.record = 1, .predicted = INT32_MIN},
        {.record = 1, .rank = N_CLASSES},
    };
    coordinator_evaluation *e = open_evaluation(10);

    test_log_expect("a result for record");
    test_log_expect("of 7 classes");
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_status(coordinator_evaluation_add(e, &wrong[i], 1), CVY_ERR_INTERNAL);
    coordinator_evaluation_destroy(&e);
    coordinator_evaluation_destroy(&e);
}

/* --- Files ----------------------------------------------------------------------------------- */

static void written_file_holds_the_json(void **state)
{
    (void)state;
    coordinator_evaluation *e = open_evaluation(1);
    const comm_result result = {.record = 0};
    coordinator_evaluation_summary summary;
    char *path = cvy_path_join(test_folder(), "e.json");
    char *text = NULL, *read = NULL;

    assert_ok(coordinator_evaluation_add(e, &result, 1));
    assert_ok(coordinator_evaluation_finish(e, 1, &summary));
    assert_ok(coordinator_evaluation_write(e, path));
    assert_ok(coordinator_evaluation_write(e, path));
    assert_ok(coordinator_evaluation_json(e, &text));
    assert_ok(cvy_file_read(path, 1 << 20, &read, NULL, NULL));
    assert_string_equal(read, text);
    test_log_expect("create");
    assert_status(coordinator_evaluation_write(e, "/nonexistent-folder/e.json"), CVY_ERR_NOT_FOUND);
    cvy_free(read);
    cvy_free(text);
    cvy_free(path);
    coordinator_evaluation_destroy(&e);
}

static void later_evaluations_alone_are_dropped(void **state)
{
    (void)state;
    const char *folder = test_folder();
    static const struct {
        const char *name;
        int is_kept;
    } files[] = {{"step-00000100-val.json", 1},     {"step-00000200-val.json", 1},
                 {"step-00000201-val.json", 0},     {"step-123456789-val.json", 0},
                 {"step-00000300-test.json", 1},    {"step-300-val.json", 1},
                 {"step-00000300-val.json.bak", 1}, {"notes", 1}};

    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char *path = cvy_path_join(folder, files[i].name);
        assert_ok(cvy_file_replace(path, "x", 1));
        cvy_free(path);
    }
    assert_ok(coordinator_evaluations_drop_after(folder, 200));
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char *path = cvy_path_join(folder, files[i].name);
        assert_int_equal(cvy_file_exists(path), files[i].is_kept);
        cvy_free(path);
    }
    char *missing = cvy_path_join(folder, "missing");
    assert_ok(coordinator_evaluations_drop_after(missing, 0));
    cvy_free(missing);
}

/* --- Memory ---------------------------------------------------------------------------------- */

static cvy_status evaluate_once(void)
{
    coordinator_evaluation *e = NULL;
    coordinator_evaluation_summary summary;
    comm_result results[5];
    char *text = NULL;

    for (int i = 0; i < 5; i++) results[i] = (comm_result){.record = i, .loss = 1.0f};
    cvy_status status = coordinator_evaluation_create(1, 5, N_CLASSES, names, &e);
    if (status != CVY_OK) return status;
    status = coordinator_evaluation_add(e, results, 5);
    if (status == CVY_OK) status = coordinator_evaluation_finish(e, 3, &summary);
    if (status == CVY_OK) status = coordinator_evaluation_json(e, &text);
    cvy_free(text);
    coordinator_evaluation_destroy(&e);
    return status;
}

static void failed_allocation_is_reported_without_a_leak(void **state)
{
    (void)state;
    cvy_alloc_counts before, after;
    int k = 0;

    cvy_alloc_count(&before);
    test_log_expect("evaluation");
    test_log_expect("list of the 3 hardest records");
    for (;; k++) {
        cvy_alloc_fail_at(k);
        const cvy_status status = evaluate_once();
        cvy_alloc_fail_at(-1);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
        if (status == CVY_OK) break;
        assert_status(status, CVY_ERR_NO_MEMORY);
    }
    assert_true(k >= 6);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(figures_equal_a_plain_computation),
    cvy_unit_test(json_is_the_same_bytes_in_any_order_of_arrival),
    cvy_unit_test(loss_that_is_no_number_is_null_and_hardest),
    cvy_unit_test(all_bad_records_leave_no_figure),
    cvy_unit_test(one_record_without_names_is_evaluated),
    cvy_unit_test(name_that_is_not_utf8_becomes_its_number),
    cvy_unit_test(many_classes_are_written_as_entries),
    cvy_unit_test(record_that_came_twice_or_never_is_named),
    cvy_unit_test(result_beyond_records_or_classes_is_refused),
    cvy_unit_test(written_file_holds_the_json),
    cvy_unit_test(later_evaluations_alone_are_dropped),
    cvy_unit_test(failed_allocation_is_reported_without_a_leak),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
