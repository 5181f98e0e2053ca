#ifndef COORDINATOR_REPORT_H
#define COORDINATOR_REPORT_H

#include "base/status.h"

/**
 * Write RUN/report.json and RUN/report.html from what lies in the run folder: job.yaml,
 * metrics.jsonl, events.jsonl, eval/, checkpoints/, and the validation set for pictures of the
 * hardest records. The HTML is one self-contained file without scripts from elsewhere, fonts or
 * network: summary; loss and accuracy curves and learning rate (inline SVG, light and dark);
 * confusion matrix; per-class table; calibration; hardest images as pictures (data URIs) with
 * label, prediction and confidence; throughput over time and where the time went; workers and the
 * slowest; restarts and other events; environment and the resolved job. Works on unfinished and
 * interrupted runs too: what is missing is left out and said. All text from data is escaped.
 */
cvy_status coordinator_report_write(const char *run_folder);

#endif
