#ifndef COMM_COMM_INTERNAL_H
#define COMM_COMM_INTERNAL_H

#include "comm/comm.h"

#include <stddef.h>
#include <stdint.h>

/*
 * A transport moves bytes between pairs of ranks and never waits. Everything else (waiting,
 * collectives, message buffers, reduction) is written once, above it.
 *
 * Two channels keep apart what is received differently: data are received where they belong, by
 * source and tag; messages are received in the order of arrival, whoever sent them. Per channel,
 * pair of ranks and tag, order is kept; so one tag per purpose is enough.
 */
typedef enum comm_channel {
    COMM_CHANNEL_DATA,
    COMM_CHANNEL_MESSAGES,
    COMM_N_CHANNELS
} comm_channel;

enum { COMM_TAG_COLLECTIVE = 1, COMM_TAG_SUM, COMM_TAG_WEIGHTS, COMM_TAG_SHARD };

/* One transfer is at most this long: MPI counts are int. */
#define COMM_TRANSFER_LIMIT_BYTES ((size_t)1 << 30)

/* A posted transfer. All zero: none. The bytes belong to the transport while it is open. */
typedef struct comm_request {
    int is_open;
    int is_receive;
    int peer, tag;
    void *bytes;       /* of a receive */
    size_t size_bytes; /* of a receive: exactly so many come */
    uint64_t handle;   /* the transport's own */
} comm_request;

/* A message that has come but was not taken. */
typedef struct comm_letter {
    int source, kind;
    size_t size_bytes;
    uint64_t handle; /* the transport's own */
} comm_letter;

/* None of these waits, and none allocates once its pools are warm. */
typedef struct comm_ops {
    const char *name;
    /* Free what the transport holds and the object itself; after a broken wait it keeps what open
     * requests may still touch. */
    void (*close)(comm *c);
    cvy_status (*send)(comm *c, comm_channel channel, const void *bytes, size_t size_bytes,
                       int dest, int tag, comm_request *out);
    cvy_status (*receive)(comm *c, void *bytes, size_t size_bytes, int source, int tag,
                          comm_request *out);
    cvy_status (*test)(comm *c, comm_request *request); /* closes it when it is done */
    void (*cancel)(comm *c, comm_request *request);     /* a receive; may leave it open */
    cvy_status (*probe)(comm *c, comm_letter *out, int *out_has);
    cvy_status (*take)(comm *c, comm_letter *letter, void *buffer, comm_request *out);
    cvy_status (*group)(comm *world, int first, int n, cvy_deadline deadline, comm **out);
    /* The transport's own all-reduce: made ready once (collective), then n floats in place. */
    cvy_status (*native_open)(comm *c, cvy_deadline deadline);
    cvy_status (*native_sum)(comm *c, float *values, int64_t n, comm_request *out);
} comm_ops;

#define COMM_MAX_VALUES 16

typedef struct comm_place {
    char host[64];
    int32_t local_rank, local_size;
} comm_place;

typedef struct comm_parcel comm_parcel;

/* Parcels have sizes 256 B x 2^i, up to the largest message. */
#define COMM_PARCEL_MIN_BYTES 256u
#define COMM_N_PARCEL_CLASSES 19

typedef struct comm_mail {
    comm_parcel *unsent, *unsent_last;         /* FIFO */
    comm_parcel *spare[COMM_N_PARCEL_CLASSES]; /* by size */
    size_t held_bytes;                         /* payload room of all parcels */
    void *inbox;                               /* what comm_receive shows */
    size_t inbox_bytes;
    comm_letter letter; /* being taken while taking is open */
    int has_letter;     /* it has come, and waits for room */
    comm_request taking;
} comm_mail;

struct comm { /* first member of each transport's own struct */
    const comm_ops *ops;
    int rank, size;
    comm_place *places; /* (size), owned */
    comm_idle idle;
    void *idle_arg;
    int is_broken; /* a wait ended early: requests may be open for ever */
    /* Of comm_max_i64: here, so that a transfer that outlives a broken wait has somewhere to go. */
    int64_t sent_values[COMM_MAX_VALUES], got_values[COMM_MAX_VALUES];
    comm_mail mail;
};

/* --- Waiting (comm.c) ------------------------------------------------------------------------ */

typedef struct comm_wait {
    cvy_deadline deadline;
    int n_tests;     /* in vain, since something came */
    double since_s;  /* when the first of these was */
    double waited_s; /* sum of all waits */
} comm_wait;

comm_wait comm_wait_begin(cvy_deadline deadline);
/* After a test in vain: yields, later naps; calls the idle function; PEER_LOST past the deadline.
 */
cvy_status comm_wait_pause(comm *c, comm_wait *wait);
/* Something came: naps start short again. */
void comm_wait_restart(comm_wait *wait);
/* Until a request is closed, or all of n. Receives among them are cancelled when the wait fails. */
cvy_status comm_wait_for(comm *c, comm_wait *wait, comm_request *request);
cvy_status comm_wait_for_all(comm *c, comm_wait *wait, comm_request *requests, int64_t n);
/* Cancel the open receives of n: their buffers may be the caller's stack. Sends, and what is half
 * received, stay open. Returns how many do. */
int64_t comm_cancel_all(comm *c, comm_request *requests, int64_t n);

/* Naps of some 20 us come out as 70 us with the kernel's default timer slack. Of the calling thread
 * and those it starts later. */
void comm_sharpen_naps(void);

/* Fill local ranks from the host names. */
void comm_count_places(comm_place *places, int n);

/* Free the buffers of messages (messages.c). */
void comm_mail_close(comm *c);

#endif
