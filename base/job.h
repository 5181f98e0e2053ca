#ifndef CVY_JOB_H
#define CVY_JOB_H

#include "base/config.h"
#include "base/node.h"
#include "base/status.h"

#include <stdint.h>

/**
 * The job file: what to train, on what, how long. `convoy help job` prints its tables.
 *
 * Sections that belong to another folder are left as nodes and read by their owner: model,
 * optimizer and schedule by nn, train.augment and val.augment by dataset. So a new optimizer brings
 * its keys with it and base never changes.
 */
typedef struct cvy_job_data {
    const char *path; /* LMDB folder */
    const cvy_node
        *augment; /* a list of {name: argument}; NULL: none (train), resize/crop as needed (val) */
} cvy_job_data;

typedef struct cvy_job_input {
    cvy_job_data train;
    cvy_job_data val;        /* val.path NULL: no evaluation */
    int channel_order;       /* 0 rgb, 1 bgr: what raw 3-channel records hold */
    cvy_real_list mean;      /* per channel in [0, 1]; empty: from the manifest */
    cvy_real_list deviation; /* likewise */
    int on_bad_record;       /* 0 skip (use the next good one), 1 fail */
    double max_bad_fraction; /* more bad records than this share ends the job with 65 */
    int64_t max_pixels;      /* of one encoded image */
    int allow_network_fs;    /* LMDB on NFS, Lustre and the like */
    int64_t loader_threads;  /* per worker; 0: as many as compute threads */
    int64_t read_ahead;      /* minibatches decoded ahead, per worker */
} cvy_job_input;

typedef struct cvy_job_checkpoint {
    double every_minutes; /* 0: off */
    int64_t every_steps;  /* 0: off */
    double every_epochs;  /* 0: off */
    int64_t keep;         /* >= 2 */
    int64_t max_failed;   /* saves that may fail in a row */
} cvy_job_checkpoint;

typedef struct cvy_job_evaluate {
    double every_epochs; /* 0: only at the end */
    int64_t every_steps; /* 0: off */
    int64_t minibatch;   /* 0: the training minibatch */
    int64_t hardest;     /* how many hardest records a result lists */
} cvy_job_evaluate;

typedef struct cvy_job_deadline {
    double start_s; /* from launch to the first step */
    double step_s;  /* a silent rank within a step; 0: max(10 s, 5 x slowest recent step) */
    double save_s;
    double evaluate_s; /* of silence, not of the whole evaluation */
} cvy_job_deadline;

enum { CVY_REDUCE_ORDERED, CVY_REDUCE_NATIVE };

typedef struct cvy_job {
    const char *name;
    const cvy_node *model; /* arch, classes, ... or net: read by nn */
    cvy_job_input data;
    int64_t replicas;
    int64_t minibatch; /* images per replica and step */
    int64_t epochs;    /* 0: by steps */
    int64_t steps;     /* 0: by epochs; else the job ends after this step */
    const cvy_node *optimizer;
    const cvy_node *schedule;
    cvy_job_checkpoint checkpoint;
    cvy_job_evaluate evaluate;
    cvy_job_deadline deadline;
    const char *device; /* "auto" or a backend's name */
    int64_t threads;    /* compute threads per worker; 0: the processors it may use, shared fairly
                           between the workers of the host */
    int precision;      /* 0 float32 */
    int reduce;         /* CVY_REDUCE_... */
    int64_t bucket_kib; /* size of one gradient bucket */
    int64_t hash_every_steps; /* compare the weights of all workers; 0: only before checkpoints */
    int64_t metrics_every_steps;
    int64_t max_nan_steps; /* updates skipped in a row before the job ends with 76 */
    const char *init_from; /* safetensors file to start from; NULL: by initialisation */
    int64_t seed;
    const char *run; /* run folder */
} cvy_job;

extern const cvy_config_table cvy_job_table;

/**
 * Fill a job from a tree and check what no single table can: epochs or steps given (not both),
 * keep >= 2 and so on. Fails like cvy_config_read(). job holds views into root.
 */
cvy_status cvy_job_read(cvy_node *root, cvy_job *out);

/** XXH3 of what decides the bits of a run: the resolved tree without name, run, threads, deadline,
 *  checkpoint, evaluate, loader settings, device, data paths, hash_every_steps and
 *  metrics_every_steps; the order of keys and the spelling of numbers do not matter. Two jobs with
 *  equal digests end in equal weights, and evaluate them alike: how validation images are prepared
 *  counts, so that all evaluations of a run compare. */
cvy_status cvy_job_digest(const cvy_node *root, uint64_t *out);

/** For messages: the first key that gives two resolved jobs other digests, as "optimizer.momentum
 * is 0.5, was 0.9"; empty where there is none. */
cvy_status cvy_job_difference(const cvy_node *now, const cvy_node *then, char *out,
                              size_t out_size);

#endif
