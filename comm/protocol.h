#ifndef COMM_PROTOCOL_H
#define COMM_PROTOCOL_H

#include "comm/comm.h"

#include <stdint.h>

/**
 * What coordinator (rank 0) and workers (ranks 1..W) tell each other. Payloads are the structs
 * below as they lie in memory: all ranks run the same binary (that is checked at the start). Texts
 * are cut to fit.
 *
 *     coordinator -> worker                       worker -> coordinator
 *     RESUME  load this checkpoint, or none        HELLO      who and what I am, after setting up
 *     TRAIN   until step S                         READY      RESUME is done
 *     PAUSE   stop after a common step (-> rank 1) HEARTBEAT  phase, step; about every second
 *             or leave the evaluation (-> all)
 *     HEARTBEAT  I am here (phase: how long I may be silent)
 *     SAVE    a checkpoint of the current step     METRICS    figures of some steps (rank 1)
 *     EVALUATE                                     TRAINED    reached step, and why it ended
 *     STOP    leave                                SAVED      (rank 1) files are on disk, or not
 *                                                  RESULTS    evaluated records
 *                                                  EVALUATED  end of this worker's RESULTS
 *                                                  BAD_RECORD a record that cannot be used
 *                                                  SIGNALLED  this rank got a signal to stop
 *                                                  FAILED     it must end, and why
 */
typedef enum comm_kind {
    COMM_RESUME = 1,
    COMM_TRAIN,
    COMM_PAUSE,
    COMM_SAVE,
    COMM_EVALUATE,
    COMM_STOP,
    COMM_HELLO = 32,
    COMM_READY,
    COMM_HEARTBEAT,
    COMM_METRICS,
    COMM_TRAINED,
    COMM_SAVED,
    COMM_RESULTS,
    COMM_EVALUATED,
    COMM_BAD_RECORD,
    COMM_SIGNALLED,
    COMM_FAILED
} comm_kind;

/** What a rank is doing: named in heartbeats, and in the line about a silent rank. */
#define COMM_PHASE_LIST(X)                                                                         \
    X(START, "start")                                                                              \
    X(IDLE, "idle")                                                                                \
    X(DATA, "data wait")                                                                           \
    X(FORWARD, "forward")                                                                          \
    X(BACKWARD, "backward")                                                                        \
    X(REDUCE, "reduce")                                                                            \
    X(UPDATE, "update")                                                                            \
    X(SNAPSHOT, "snapshot")                                                                        \
    X(EVALUATE, "evaluate")                                                                        \
    X(RESUME, "resume")
typedef enum comm_phase {
#define X(name, text) COMM_PHASE_##name,
    COMM_PHASE_LIST(X)
#undef X
} comm_phase;
const char *comm_phase_text(comm_phase phase);

#define COMM_PATH_BYTES 1024

typedef struct comm_resume {
    int64_t step;                 /* 0 and no folder: start from the beginning */
    char folder[COMM_PATH_BYTES]; /* checkpoint, or a bare safetensors file; empty: none */
    int32_t weights_only;         /* to evaluate: no optimizer state is read */
    int32_t reserved;
} comm_resume;

typedef struct comm_train {
    int64_t until_step; /* exclusive end: stop when so many steps are done */
} comm_train;

typedef struct comm_save {
    int64_t step;
    char folder[COMM_PATH_BYTES]; /* exists, empty; the lead worker writes its files there */
} comm_save;

typedef struct comm_evaluate {
    int64_t step;
} comm_evaluate;

typedef struct comm_stop {
    int32_t status; /* cvy_status with which all end */
} comm_stop;

typedef struct comm_hello {
    char host[64];
    char backend[16];
    char device[96]; /* "AMD EPYC, 2 threads" */
    int32_t threads;
    int32_t local_rank;
    int64_t pid;
    int64_t first_replica, n_replicas;
    int64_t n_trainable; /* parameters */
    int64_t arena_bytes;
    int64_t multiply_adds;   /* forward, one image */
    uint64_t train_identity; /* of the datasets it sees; 0: not opened */
    uint64_t val_identity;
} comm_hello;

typedef struct comm_heartbeat {
    int32_t phase;      /* comm_phase */
    float step_s;       /* duration of the last step */
    int64_t step;       /* being worked on */
    float phase_s;      /* how long in this phase */
    float busy_s;       /* compute of the last step: names the slowest worker */
    int64_t n_progress; /* grows with every step or evaluated batch */
} comm_heartbeat;

typedef struct comm_metrics {
    int64_t step;    /* steps done after these figures */
    int64_t n_steps; /* they cover */
    int64_t n_samples;
    int64_t n_counted; /* of these; a step that was skipped counts for none of the next three */
    double loss;       /* mean per counted sample */
    double n_top1, n_top5;
    double lr;                                         /* of the last step */
    double seconds;                                    /* wall time of these steps */
    double data_wait_s, compute_s, reduce_s, update_s; /* sums, of worker 1 */
    int64_t n_skipped;     /* updates skipped for non-finite values, since the start */
    int64_t reduce_bytes;  /* sent per step by worker 1 */
    int64_t n_allocations; /* by worker 1's process, since it started */
} comm_metrics;

typedef struct comm_trained {
    int64_t step;        /* steps done */
    int32_t status;      /* CVY_OK, or why training cannot go on */
    int32_t was_paused;  /* a PAUSE ended it, not the target */
    double first_step_s; /* when the first step of this process ended; monotonic clock */
} comm_trained;

typedef struct comm_saved {
    int64_t step;
    int32_t status;
    double snapshot_s, write_s; /* blocking and background part */
    uint64_t model_bytes, model_hash, optimizer_bytes, optimizer_hash;
    char message[256];
} comm_saved;

/** One evaluated record; a RESULTS payload is an array of these, whole batches in order. */
typedef struct comm_result {
    int64_t record;
    float loss;
    float confidence;
    int32_t label;
    int32_t predicted;
    int32_t rank; /* of the label among the logits; -1: the record is bad */
    int32_t reserved;
} comm_result;

typedef struct comm_evaluated {
    int64_t step;
    int32_t status;
    int32_t reserved;
    int64_t n_results;
    double seconds;
} comm_evaluated;

typedef struct comm_bad_record {
    int64_t record;
    int32_t is_val;
    char reason[120];
} comm_bad_record;

typedef struct comm_signalled {
    int32_t signal;
} comm_signalled;

typedef struct comm_failed {
    int32_t status;
    int32_t phase;
    int64_t step;
    char message[256];
} comm_failed;

/** Send a fixed-size payload. */
#define COMM_SEND(c, dest, kind, payload)                                                          \
    comm_send((c), (dest), (kind), &(payload), sizeof(payload))
/** View a payload as its struct; NULL when the size does not fit. */
#define COMM_AS(type, message)                                                                     \
    ((message)->size_bytes == sizeof(type) ? (const type *)(message)->payload : NULL)

#endif
