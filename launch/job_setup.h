#ifndef LAUNCH_JOB_SETUP_H
#define LAUNCH_JOB_SETUP_H

#include "base/job.h"
#include "base/node.h"
#include "base/status.h"
#include "coordinator/coordinator.h"
#include "launch/command.h"
#include "worker/parts.h"

/** A job file with its overrides, read and checked. */
typedef struct launch_job {
    cvy_node *root; /* owned */
    cvy_job job;    /* views into root */
} launch_job;

/** From a file and --set values. Failures are logged. */
cvy_status launch_job_load(const char *path, const launch_list *sets, launch_job *out);
/** From the text of a resolved job: what rank 0 sends to the others. */
cvy_status launch_job_parse(const char *text, size_t size_bytes, launch_job *out);
void launch_job_close(launch_job *job);

/** The figures the coordinator needs, as views into parts and job. */
void launch_job_describe(const launch_job *job, const worker_parts *parts, coordinator_parts *out);

#endif
