#ifndef COORDINATOR_EVALUATIONS_H
#define COORDINATOR_EVALUATIONS_H

#include "base/status.h"
#include "comm/protocol.h"

#include <stdint.h>

/**
 * One evaluation: results of single records in, exact figures out. Workers send their results in
 * any order; each record is stored at its own place, so sums run in record order and the figures
 * and the JSON are the same bytes at any number of workers. A record that came twice or never is an
 * error of convoy and is reported as such. Every record takes 33 bytes until the end.
 *
 * Written as RUN/eval/step-00001200-val.json: step, records, bad records, loss, top-1, top-5,
 * counts, per class (name, n, precision, recall, F1), confusion matrix, calibration (15 bins of
 * confidence: count, mean confidence, accuracy; expected calibration error, Guo et al. 2017),
 * hardest records (index, key, label, predicted, confidence, loss). No times and no worker counts
 * in it. Up to 200 classes the confusion matrix has a row a label, beyond that only its non-zero
 * entries. What is not a finite number is null.
 */
typedef struct coordinator_evaluation coordinator_evaluation;

typedef struct coordinator_evaluation_summary {
    int64_t step, n_records, n_bad;
    int64_t n_top1, n_top5;
    double loss, top1, top5; /* means over good records, shares in [0, 1]; NaN without any */
} coordinator_evaluation_summary;

/** class_names: n_classes texts, borrowed until destroy; NULL: numbers. n_records and n_classes are
 *  at least 1. */
cvy_status coordinator_evaluation_create(int64_t step, int64_t n_records, int n_classes,
                                         const char *const *class_names,
                                         coordinator_evaluation **out);
void coordinator_evaluation_destroy(coordinator_evaluation **evaluation);
/** Add a RESULTS payload. CVY_ERR_INTERNAL, logged: a record beyond the end or twice, or a label,
 *  prediction or rank beyond the classes. */
cvy_status coordinator_evaluation_add(coordinator_evaluation *evaluation,
                                      const comm_result *results, int64_t n);
/** All records in? Compute, once; CVY_ERR_INTERNAL names the first one missing. */
cvy_status coordinator_evaluation_finish(coordinator_evaluation *evaluation, int64_t n_hardest,
                                         coordinator_evaluation_summary *out);
/** The JSON text; cvy_free() it. After finish. */
cvy_status coordinator_evaluation_json(const coordinator_evaluation *evaluation, char **out);
/** The name of a written evaluation, by its step; below RUN/eval. */
#define COORDINATOR_EVALUATION_NAME "step-%08lld-val.json"

/** Remove the evaluations in a folder that are of later steps: a run that goes on from this step
 *  makes them again. A missing folder is fine. */
cvy_status coordinator_evaluations_drop_after(const char *folder, int64_t step);
/** Replace path by the JSON. */
cvy_status coordinator_evaluation_write(const coordinator_evaluation *evaluation, const char *path);

#endif
