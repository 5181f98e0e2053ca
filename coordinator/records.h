#ifndef COORDINATOR_RECORDS_H
#define COORDINATOR_RECORDS_H

#include "base/status.h"

#include <jansson.h>
#include <stdint.h>

/**
 * The run folder's line files: metrics.jsonl (figures of steps) and events.jsonl (what happened:
 * "start", "workers", "resumed", "evaluated", "saved", "save_failed", "bad_record", "skipped",
 * "silent", "stopped", "finished", "failed"). One JSON object a line, appended with one write(2);
 * a disk that fails is one warning until it works again; what could not be written is lost and
 * training goes on. A line that was cut is dropped on reading.
 */
typedef struct coordinator_records coordinator_records;

/**
 * Open for appending. after_step >= 0: lines with "step" beyond it are removed first (the file is
 * replaced), so that a resumed run leaves one contiguous record; -1: keep all (events).
 */
cvy_status coordinator_records_open(const char *path, int64_t after_step,
                                    coordinator_records **out);
void coordinator_records_close(coordinator_records **records);
/** Append one object; takes the reference. "time" (ISO 8601, UTC) is added to events. */
void coordinator_records_append(coordinator_records *records, json_t *object);

/** All objects of a file as a JSON array (new reference); a missing file is an empty array. */
cvy_status coordinator_records_read(const char *path, json_t **out);

#endif
