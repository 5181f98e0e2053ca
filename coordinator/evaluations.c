#include "coordinator/evaluations.h"

#include "base/alloc.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    int64_t *confusion;      /* (label, predicted) of good records in sorted order, n_good pairs */
    bin bins[N_BINS];
    int64_t *hardest; /* [n_hardest] records, hardest first */
    int64_t n_hardest;
    int is_finished;
};

cvy_status coordinator_evaluation_create(int64_t step, int64_t n_records, int n_classes,
                                         const char *const *class_names,
                                         coordinator_evaluation **out)
{
    coordinator_evaluation *e = cvy_alloc_zero(1, sizeof *e);

    *out = NULL;
    CVY_ASSERT(n_records >= 1 && n_classes >= 1);
    if (e == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "evaluation");
    e->step = step;
    e->n_records = n_records;
    e->n_classes = n_classes;
    e->class_names = class_names;
    e->result = cvy_alloc_zero((size_t)n_records, sizeof *e->result);
    e->has = cvy_alloc_zero((size_t)n_records, 1);
    e->per_class = cvy_alloc_zero((size_t)n_classes, sizeof *e->per_class);
    e->confusion = cvy_alloc_zero((size_t)n_records, sizeof *e->confusion);
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
                        r->predicted >= e->n_classes || r->rank >= e->n_classes))
            return CVY_FAIL(CVY_ERR_INTERNAL,
                            "record %lld: label %d, predicted %d, rank %d of %d classes",
                            (long long)r->record, r->label, r->predicted, r->rank, e->n_classes);
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

/* [from, to) of a confidence; 1 belongs to the last bin, one that is NaN to the lowest. */
static int bin_of(double confidence)
{
    if (!(confidence > 0)) return 0;
    return confidence < 1 ? (int)(confidence * N_BINS) : N_BINS - 1;
}

static void note(coordinator_evaluation *e, const comm_result *r, int64_t at)
{
    const int is_right = r->rank == 0;
    bin *b = &e->bins[bin_of((double)r->confidence)];

    e->summary.loss += (double)r->loss;
    e->summary.n_top1 += is_right;
    e->summary.n_top5 += r->rank < 5;
    e->per_class[r->label].n++;
    e->per_class[r->label].n_right += is_right;
    e->per_class[r->predicted].n_predicted++;
    e->confusion[at] = (int64_t)r->label * e->n_classes + r->predicted;
    b->n++;
    b->n_right += is_right;
    b->confidence += isfinite(r->confidence) ? (double)r->confidence : 0.0;
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

static int by_value(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

cvy_status coordinator_evaluation_finish(coordinator_evaluation *e, int64_t n_hardest,
                                         coordinator_evaluation_summary *out)
{
    int64_t n_good = 0;

    CVY_ASSERT(!e->is_finished);
    for (int64_t i = 0; i < e->n_records; i++) {
        if (!e->has[i])
            return CVY_FAIL(CVY_ERR_INTERNAL, "record %lld was not evaluated", (long long)i);
    }
    e->summary = (coordinator_evaluation_summary){.step = e->step, .n_records = e->n_records};
    e->hardest = cvy_alloc_zero((size_t)n_hardest + 1, sizeof *e->hardest);
    if (e->hardest == NULL)
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "list of the %lld hardest records",
                        (long long)n_hardest);
    for (int64_t i = 0; i < e->n_records; i++) {
        if (e->result[i].rank < 0) continue;
        note(e, &e->result[i], n_good++);
        if (n_hardest > 0) note_hardest(e, i, n_hardest);
    }
    qsort(e->confusion, (size_t)n_good, sizeof *e->confusion, by_value);
    const double n = n_good > 0 ? (double)n_good : NAN;
    e->summary.n_bad = e->n_records - n_good;
    e->summary.loss /= n;
    e->summary.top1 = (double)e->summary.n_top1 / n;
    e->summary.top5 = (double)e->summary.n_top5 / n;
    e->is_finished = 1;
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
    /* A name that is not UTF-8 has no place in JSON: the number stands for it. */
    json_t *name = e->class_names != NULL ? json_string(e->class_names[class]) : NULL;

    if (name != NULL) return name;
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

/* How often each pair occurs: counted along the sorted list. */
static json_t *confusion_json(const coordinator_evaluation *e)
{
    const int is_dense = e->n_classes <= DENSE_CLASSES;
    const int64_t n_good = e->n_records - e->summary.n_bad;
    json_t *rows = json_array();

    for (int label = 0; is_dense && label < e->n_classes; label++) {
        json_t *row = json_array();
        for (int k = 0; k < e->n_classes; k++) (void)json_array_append_new(row, json_integer(0));
        (void)json_array_append_new(rows, row);
    }
    for (int64_t i = 0, n = 0; i < n_good; i += n) {
        const int64_t pair = e->confusion[i];
        const int label = (int)(pair / e->n_classes), predicted = (int)(pair % e->n_classes);
        for (n = 1; i + n < n_good && e->confusion[i + n] == pair;) n++;
        if (is_dense)
            (void)json_integer_set(
                json_array_get(json_array_get(rows, (size_t)label), (size_t)predicted),
                (json_int_t)n);
        else
            (void)json_array_append_new(rows,
                                        json_pack("[i, i, I]", label, predicted, (json_int_t)n));
    }
    return json_pack("{s:s, s:o}", "form", is_dense ? "rows" : "[label, predicted, n]", "counts",
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

    CVY_ASSERT(e->is_finished);
    json_t *document = json_pack(
        "{s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "format",
        "convoy-evaluation", "version", 1, "step", (json_int_t)s->step, "records",
        (json_int_t)s->n_records, "bad_records", (json_int_t)s->n_bad, "n_top1",
        (json_int_t)s->n_top1, "n_top5", (json_int_t)s->n_top5, "loss", real_or_null(s->loss),
        "top1", real_or_null(s->top1), "top5", real_or_null(s->top5), "classes", per_class_json(e),
        "confusion", confusion_json(e), "calibration", calibration_json(e), "hardest",
        hardest_json(e));
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

cvy_status coordinator_evaluations_drop_after(const char *folder, int64_t step)
{
    cvy_status status = CVY_OK;
    DIR *handle = opendir(folder);
    const struct dirent *entry = NULL;

    if (handle == NULL && errno == ENOENT) return CVY_OK;
    if (handle == NULL)
        return CVY_FAIL(cvy_status_from_errno(errno), "open %s: %s", folder, strerror(errno));
    for (errno = 0; (entry = readdir(handle)) != NULL; errno = 0) {
        char name[64];
        long long of_step = 0;
        if (sscanf(entry->d_name, "step-%lld-", &of_step) != 1 || of_step <= step) continue;
        snprintf(name, sizeof name, COORDINATOR_EVALUATION_NAME, of_step);
        if (strcmp(name, entry->d_name) != 0) continue; /* another's file */
        if (unlinkat(dirfd(handle), name, 0) != 0) break;
    }
    if (errno != 0)
        status = CVY_FAIL(cvy_status_from_errno(errno), "remove later evaluations of %s: %s",
                          folder, strerror(errno));
    (void)closedir(handle);
    return status;
}
