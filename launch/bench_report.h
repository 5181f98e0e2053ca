#ifndef LAUNCH_BENCH_REPORT_H
#define LAUNCH_BENCH_REPORT_H

#include "base/status.h"
#include "launch/ceilings.h"
#include "launch/layer_table.h"
#include "launch/stepper.h"

#include <jansson.h>

/** What `convoy bench` prints, as text on stdout. The caller flushes, and learns of a full disk. */
void launch_report_ceilings(const launch_ceilings *ceilings);
void launch_report_step(const launch_stepper *s, const launch_step_figures *figures,
                        int64_t n_warmup, const launch_ceilings *ceilings);

/**
 * The layers, the slowest first, those of a chain together; then the sums of each type, the update,
 * the rest of the step.
 *
 * @param is_training  the table has backward passes.
 * @param ceilings     NULL: no shares of them.
 */
cvy_status launch_report_table(const launch_table *table, int is_training,
                               const launch_ceilings *ceilings);

/** The same as members of an object ("layers", in the net's order, "types", "update", "rest_s",
 *  "outside_convolutions"). Takes the reference; NULL: no memory. */
json_t *launch_report_table_json(json_t *object, const launch_table *table,
                                 const launch_ceilings *ceilings);

#endif
