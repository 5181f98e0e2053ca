#ifndef COORDINATOR_EVALUATIONS_H
#define COORDINATOR_EVALUATIONS_H

#include "base/status.h"
#include "comm/protocol.h"

#include <stdint.h>

/**
 * One evaluation: results of single records in, exact figures out. Workers send their results in
 * any order; each record is stored at its own place, so sums run in record order and the figures
 * and the JSON are the same bytes at any number of workers. A record that came twice or never is an
 * error of convoy and is reported as such.
 *
 * Written as RUN/eval/step-00001200-val.json: step, records, bad records, loss, top-1, top-5,
 * counts, per class (name, n, precision, recall, F1), confusion matrix, calibration (15 bins of
 * confidence: count, mean confidence, accuracy; expected calibration error, Guo et al. 2017),
 * hardest records (index, key, label, predicted, confidence, loss). No times and no worker counts
 * in it.
 */
typedef struct coordinator_evaluation coordinator_evaluation;

typedef struct coordinator_evaluation_summary {
    int64_t step, n_records, n_bad;
    int64_t n_top1, n_top5;
    double loss, top1, top5; /* means over good records; shares in [0, 1] */
} coordinator_evaluation_summary;

cvy_status coordinator_evaluation_create(int64_t step, int64_t n_records, int n_classes,
                                         const char *const *class_names,
                                         coordinator_evaluation **out);
void coordinator_evaluation_destroy(coordinator_evaluation **evaluation);
/** Add a RESULTS payload. */
cvy_status coordinator_evaluation_add(coordinator_evaluation *evaluation,
                                      const comm_result *results, int64_t n);
/** All records in? Compute; CVY_ERR_INTERNAL names the first one missing. */
cvy_status coordinator_evaluation_finish(coordinator_evaluation *evaluation, int64_t n_hardest,
                                         coordinator_evaluation_summary *out);
/** The JSON text; cvy_free() it. After finish. */
cvy_status coordinator_evaluation_json(const coordinator_evaluation *evaluation, char **out);
/** Replace path by the JSON. */
cvy_status coordinator_evaluation_write(const coordinator_evaluation *evaluation, const char *path);

#endif
