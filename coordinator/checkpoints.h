#ifndef COORDINATOR_CHECKPOINTS_H
#define COORDINATOR_CHECKPOINTS_H

#include "base/status.h"

#include <stdint.h>

/**
 * The checkpoints of a run: RUN/checkpoints/step-00001200/ with model.safetensors,
 * optimizer.safetensors and, written last, state.json. A folder without a valid state.json does not
 * exist for convoy.
 *
 * Publishing: coordinator_checkpoints_begin() makes `step-N.tmp-RANDOM` (0700, exclusive); the lead
 * worker writes and syncs the two big files in it; _publish() writes state.json, syncs it and the
 * folder, reads everything back against its hashes, renames, syncs the parent, replaces `latest`
 * (a hint, never trusted), and only then prunes: rename to `.trash-...`, remove. The newest keep
 * (>= 2) stay, of which the one just read back is always one; a checkpoint that _newest() found
 * damaged does not count and goes when keep others stand. Any error drops the temporary: the older
 * checkpoints are never touched. Written by one process at a time (the run folder is locked);
 * others may read meanwhile.
 */
typedef struct coordinator_state {
    int64_t step;      /* steps done */
    int64_t position;  /* step x global batch: place in the endless sequence of samples */
    double epoch;      /* position / records per epoch */
    int64_t n_skipped; /* updates skipped so far */
    int64_t seed;
    int64_t replicas, minibatch, n_records;
    uint64_t job_digest;              /* cvy_job_digest */
    uint64_t data_identity;           /* dataset_info.identity of the training set */
    uint64_t model_bytes, model_hash; /* XXH3 of the file */
    uint64_t optimizer_bytes, optimizer_hash;
    char arch[64];
    int n_classes;
    char device[16];         /* backend that made it: bits are promised for the same one */
    char convoy_version[32]; /* of convoy */
    char written_at[32];     /* wall clock, for people */
} coordinator_state;

typedef struct coordinator_checkpoints coordinator_checkpoints;

/** Make RUN/checkpoints if need be; remove temporaries and trash that dead runs left. */
cvy_status coordinator_checkpoints_open(const char *run_folder, int64_t keep,
                                        coordinator_checkpoints **out);
void coordinator_checkpoints_close(coordinator_checkpoints **checkpoints);

/** A fresh temporary folder for this step; *out_folder is a view until the next call. Failure is a
 *  warning for the caller to count, logged once. */
cvy_status coordinator_checkpoints_begin(coordinator_checkpoints *checkpoints, int64_t step,
                                         const char **out_folder);
/** Publish what lies in the temporary folder of the last begin. */
cvy_status coordinator_checkpoints_publish(coordinator_checkpoints *checkpoints,
                                           const coordinator_state *state);
/** Drop the temporary of the last begin. */
void coordinator_checkpoints_discard(coordinator_checkpoints *checkpoints);

/**
 * The newest checkpoint that is whole: every hash read and compared. Damaged ones are passed over
 * with one warning each that names file and, where known, tensor. *out_folder is a view until the
 * next call, NULL when the run has no checkpoint at all.
 *
 * @return CVY_ERR_BAD_DATA (logged) when there are checkpoints but none is whole: the job must not
 *         start from zero silently.
 */
cvy_status coordinator_checkpoints_newest(coordinator_checkpoints *checkpoints,
                                          const char **out_folder, coordinator_state *out_state);

/** Read and verify one checkpoint folder, quietly: CVY_ERR_BAD_DATA, CVY_ERR_PERMISSION or
 *  CVY_ERR_NO_MEMORY with a reason that names the file. */
cvy_status coordinator_checkpoint_read(const char *folder, coordinator_state *out,
                                       cvy_reason *reason);

/** Find what PATH means for eval, predict and inspect: a checkpoint folder itself, or the newest
 *  whole one of a run folder, which may be training; cvy_free() *out_folder. Failures are logged.
 */
cvy_status coordinator_checkpoint_locate(const char *path, char **out_folder,
                                         coordinator_state *out_state);

/** Step of the newest published folder by name alone, -1 for none: cheap, for the supervisor. */
int64_t coordinator_checkpoints_newest_step(const char *run_folder);

#endif
