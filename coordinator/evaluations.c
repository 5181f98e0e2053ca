#include "coordinator/evaluations.h"

#include "base/alloc.h"
#include "base/file.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bins of confidence for the calibration: Guo et al. 2017, arXiv:1706.04599, use 15. */
#define N_BINS 15
/* Confusion matrices beyond this many classes are written as their non-zero entries only. */
#define DENSE_CLASSES 200

typedef struct class_counts {
    int64_t n, n_predicted, n_right;
} class_counts;

typedef struct bin {
    int64_t n, n_right;
    double confidence;
} bin;

struct coordinator_evaluation {
    int64_t step, n_records;
    int n_classes;
    const char *const *class_names; /* borrowed; NULL: numbers */
    comm_result *result;            /* [n_records] */
    uint8_t *has;                   /* [n_records] */
    coordinator_evaluation_summary summary;
    class_counts *per_class; /* [n_classes] */
    int64_t *confusion;      /* (label, predicted), n_classes^2 */
    bin bins[N_BINS];
    int64_t *hardest; /* [n_hardest] records, hardest first */
    int64_t n_hardest;
};

cvy_status coordinator_evaluation_create(int64_t step, int64_t n_records, int n_classes,
                                         const char *const *class_names,
                                         coordinator_evaluation **out)
{
    coordinator_evaluation *e = cvy_alloc_zero(1, sizeof *e);
    const size_t n = (size_t)n_classes;

    *out = NULL;
    if (e == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "evaluation");
    e->step = step;
    e->n_records = n_records;
    e->n_classes = n_classes;
    e->class_names = class_names;
    e->result = cvy_alloc_zero((size_t)n_records, sizeof *e->result);
    e->has = cvy_alloc_zero((size_t)n_records, 1);
    e->per_class = cvy_alloc_zero(n, sizeof *e->per_class);
    e->confusion = cvy_alloc_zero(n * n, sizeof *e->confusion);
    if (e->result == NULL || e->has == NULL || e->per_class == NULL || e->confusion == NULL) {
        coordinator_evaluation_destroy(&e);
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "evaluation of %lld records, %d classes",
                        (long long)n_records, n_classes);
    }
    *out = e;
    return CVY_OK;
}

void coordinator_evaluation_destroy(coordinator_evaluation **evaluation)
{
    coordinator_evaluation *e = *evaluation;

    if (e == NULL) return;
    cvy_free(e->hardest);
    cvy_free(e->confusion);
    cvy_free(e->per_class);
    cvy_free(e->has);
    cvy_free(e->result);
    cvy_free(e);
    *evaluation = NULL;
}

cvy_status coordinator_evaluation_add(coordinator_evaluation *e, const comm_result *results,
                                      int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const comm_result *r = &results[i];
        const int is_bad = r->rank < 0;
        if (r->record < 0 || r->record >= e->n_records)
            return CVY_FAIL(CVY_ERR_INTERNAL, "a result for record %lld of %lld",
                            (long long)r->record, (long long)e->n_records);
        if (e->has[r->record])
            return CVY_FAIL(CVY_ERR_INTERNAL, "record %lld was evaluated twice",
                            (long long)r->record);
        if (!is_bad && (r->label < 0 || r->label >= e->n_classes || r->predicted < 0 ||
                        r->predicted >= e->n_classes))
            return CVY_FAIL(CVY_ERR_INTERNAL, "record %lld: label %d, predicted %d of %d classes",
                            (long long)r->record, r->label, r->predicted, e->n_classes);
        e->result[r->record] = *r;
        e->has[r->record] = 1;
    }
    return CVY_OK;
}

/* A loss that is not finite is the hardest of all. */
static double hardness(const comm_result *r)
{
    return isfinite(r->loss) ? (double)r->loss : INFINITY;
}

static void note(coordinator_evaluation *e, const comm_result *r)
{
    const int is_right = r->rank == 0;
    /* A confidence that is NaN counts in the lowest bin. */
    int at = r->confidence > 0 ? (int)(r->confidence * N_BINS) : 0;

    e->summary.loss += (double)r->loss;
    e->summary.n_top1 += is_right;
    e->summary.n_top5 += r->rank < 5;
    e->per_class[r->label].n++;
    e->per_class[r->label].n_right += is_right;
    e->per_class[r->predicted].n_predicted++;
    e->confusion[(int64_t)r->label * e->n_classes + r->predicted]++;
    if (at >= N_BINS) at = N_BINS - 1;
    e->bins[at].n++;
    e->bins[at].n_right += is_right;
    e->bins[at].confidence += isfinite(r->confidence) ? (double)r->confidence : 0.0;
}

/* Keep the hardest in a list that stays sorted; equal ones in record order. */
static void note_hardest(coordinator_evaluation *e, int64_t record, int64_t max)
{
    const double mine = hardness(&e->result[record]);
    int64_t at = e->n_hardest;

    while (at > 0 && hardness(&e->result[e->hardest[at - 1]]) < mine) at--;
    if (at >= max) return;
    const int64_t n_moved = (e->n_hardest < max ? e->n_hardest : max - 1) - at;
    memmove(&e->hardest[at + 1], &e->hardest[at], (size_t)n_moved * sizeof *e->hardest);
    e->hardest[at] = record;
    if (e->n_hardest < max) e->n_hardest++;
}

cvy_status coordinator_evaluation_finish(coordinator_evaluation *e, int64_t n_hardest,
                                         coordinator_evaluation_summary *out)
{
    e->summary = (coordinator_evaluation_summary){.step = e->step, .n_records = e->n_records};
    e->hardest = cvy_alloc_zero((size_t)n_hardest + 1, sizeof *e->hardest);
    if (e->hardest == NULL)
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "list of the %lld hardest records",
                        (long long)n_hardest);
    for (int64_t i = 0; i < e->n_records; i++) {
        if (!e->has[i])
            return CVY_FAIL(CVY_ERR_INTERNAL, "record %lld was not evaluated", (long long)i);
        if (e->result[i].rank < 0) {
            e->summary.n_bad++;
            continue;
        }
        note(e, &e->result[i]);
        if (n_hardest > 0) note_hardest(e, i, n_hardest);
    }
    const int64_t n_good = e->n_records - e->summary.n_bad;
    if (n_good > 0) {
        e->summary.loss /= (double)n_good;
        e->summary.top1 = (double)e->summary.n_top1 / (double)n_good;
        e->summary.top5 = (double)e->summary.n_top5 / (double)n_good;
    }
    *out = e->summary;
    return CVY_OK;
}

/* --- JSON ------------------------------------------------------------------------------------ */

/* JSON has no NaN or infinity. */
static json_t *real_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *class_name(const coordinator_evaluation *e, int class)
{
    char number[16];

    if (e->class_names != NULL) return json_string(e->class_names[class]);
    snprintf(number, sizeof number, "%d", class);
    return json_string(number);
}

static json_t *ratio(int64_t part, int64_t whole)
{
    return whole > 0 ? json_real((double)part / (double)whole) : json_null();
}

static json_t *per_class_json(const coordinator_evaluation *e)
{
    json_t *list = json_array();

    for (int i = 0; i < e->n_classes; i++) {
        const class_counts *c = &e->per_class[i];
        (void)json_array_append_new(
            list,
            json_pack("{s:i, s:o, s:I, s:I, s:I, s:o, s:o, s:o}", "class", i, "name",
                      class_name(e, i), "n", (json_int_t)c->n, "n_predicted",
                      (json_int_t)c->n_predicted, "n_right", (json_int_t)c->n_right, "precision",
                      ratio(c->n_right, c->n_predicted), "recall", ratio(c->n_right, c->n), "f1",
                      ratio(2 * c->n_right, c->n + c->n_predicted)));
    }
    return list;
}

static json_t *confusion_json(const coordinator_evaluation *e)
{
    json_t *rows = json_array();

    for (int i = 0; i < e->n_classes; i++) {
        const int64_t *row = e->confusion + (int64_t)i * e->n_classes;
        json_t *counts = e->n_classes <= DENSE_CLASSES ? json_array() : NULL;
        for (int k = 0; k < e->n_classes; k++) {
            if (counts != NULL) {
                (void)json_array_append_new(counts, json_integer((json_int_t)row[k]));
            } else if (row[k] != 0) {
                (void)json_array_append_new(rows, json_pack("[i, i, I]", i, k, (json_int_t)row[k]));
            }
        }
        if (counts != NULL) (void)json_array_append_new(rows, counts);
    }
    return json_pack("{s:s, s:o}", "form",
                     e->n_classes <= DENSE_CLASSES ? "rows" : "[label, predicted, n]", "counts",
                     rows);
}

static json_t *calibration_json(const coordinator_evaluation *e)
{
    json_t *list = json_array();
    const int64_t n_good = e->summary.n_records - e->summary.n_bad;
    double error = 0;

    for (int i = 0; i < N_BINS; i++) {
        const bin *b = &e->bins[i];
        const double n = (double)b->n;
        if (b->n > 0 && n_good > 0)
            error += n / (double)n_good * fabs(b->confidence / n - (double)b->n_right / n);
        (void)json_array_append_new(
            list, json_pack("{s:f, s:f, s:I, s:o, s:o}", "from", (double)i / N_BINS, "to",
                            (double)(i + 1) / N_BINS, "n", (json_int_t)b->n, "confidence",
                            b->n > 0 ? json_real(b->confidence / n) : json_null(), "accuracy",
                            ratio(b->n_right, b->n)));
    }
    return json_pack("{s:f, s:o}", "expected_calibration_error", error, "bins", list);
}

static json_t *hardest_json(const coordinator_evaluation *e)
{
    json_t *list = json_array();
    char key[32];

    for (int64_t i = 0; i < e->n_hardest; i++) {
        const comm_result *r = &e->result[e->hardest[i]];
        snprintf(key, sizeof key, "%08lld", (long long)r->record);
        (void)json_array_append_new(
            list,
            json_pack("{s:I, s:s, s:i, s:o, s:i, s:o, s:o, s:o}", "record", (json_int_t)r->record,
                      "key", key, "label", (int)r->label, "label_name", class_name(e, r->label),
                      "predicted", (int)r->predicted, "predicted_name", class_name(e, r->predicted),
                      "confidence", real_or_null((double)r->confidence), "loss",
                      real_or_null((double)r->loss)));
    }
    return list;
}

cvy_status coordinator_evaluation_json(const coordinator_evaluation *e, char **out)
{
    const coordinator_evaluation_summary *s = &e->summary;
    json_t *document = json_pack(
        "{s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:o, s:f, s:f, s:o, s:o, s:o, s:o}", "format",
        "convoy-evaluation", "version", 1, "step", (json_int_t)s->step, "records",
        (json_int_t)s->n_records, "bad_records", (json_int_t)s->n_bad, "n_top1",
        (json_int_t)s->n_top1, "n_top5", (json_int_t)s->n_top5, "loss", real_or_null(s->loss),
        "top1", s->top1, "top5", s->top5, "classes", per_class_json(e), "confusion",
        confusion_json(e), "calibration", calibration_json(e), "hardest", hardest_json(e));
    char *text = document != NULL ? json_dumps(document, JSON_COMPACT | JSON_REAL_PRECISION(17))
                                  : NULL;

    *out = text != NULL ? cvy_text_format("%s\n", text) : NULL;
    free(text);
    json_decref(document);
    return *out != NULL ? CVY_OK : CVY_FAIL(CVY_ERR_NO_MEMORY, "JSON of an evaluation");
}

cvy_status coordinator_evaluation_write(const coordinator_evaluation *e, const char *path)
{
    char *text = NULL;

    CVY_RETURN_IF_ERR(coordinator_evaluation_json(e, &text));
    const cvy_status status = cvy_file_replace(path, text, strlen(text));
    cvy_free(text);
    return status;
}
