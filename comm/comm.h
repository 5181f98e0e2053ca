#ifndef COMM_COMM_H
#define COMM_COMM_H

#include "base/clock.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/**
 * Ranks and what they say to each other, over MPI or inside one process.
 *
 * Every wait has a deadline and never burns a core: the non-blocking form is posted, then tested
 * with naps that grow from 20 us to 1 ms. While waiting, the communicator's idle function is called
 * (heartbeats, messages). Past the deadline a call returns CVY_ERR_PEER_LOST (not logged: the
 * caller knows the phase). After that the communicator may only be abandoned: leave the process.
 *
 * A *collective* function is called in the same order by all ranks of the communicator and returns
 * the same status on all of them, lost peers apart. One thread per communicator.
 */
typedef struct comm comm;

/** The world of an MPI job; MPI_Init_thread was called before (launch). Collective. */
cvy_status comm_mpi_open(cvy_deadline deadline, comm **out_world);
/** Two ranks in one process, without MPI: 0 for the coordinator's thread, 1 for the worker's. */
cvy_status comm_self_open(comm **out_coordinator, comm **out_worker);
/** Local: frees what this rank holds; never waits. */
void comm_close(comm **c);

int comm_rank(const comm *c);
int comm_size(const comm *c);
/** Host name of a rank of this communicator, and its place among the ranks of its host. */
const char *comm_host(const comm *c, int rank);
int comm_local_rank(const comm *c, int rank);
int comm_local_size(const comm *c, int rank);
const char *comm_transport(const comm *c); /* "mpi", "self" */

/** A communicator of the contiguous ranks [first, first + n) of the world; NULL on other ranks.
 *  Collective over the world. */
cvy_status comm_group(comm *world, int first, int n, cvy_deadline deadline, comm **out);

/** Called while a call on this communicator waits; anything but CVY_OK ends the wait with that
 *  status. May send and poll messages of another communicator. NULL: none. */
typedef cvy_status (*comm_idle)(void *arg);
void comm_set_idle(comm *c, comm_idle idle, void *arg);

/* --- Collective calls ------------------------------------------------------------------------ */

cvy_status comm_barrier(comm *c, cvy_deadline deadline);
cvy_status comm_bcast(comm *c, void *bytes, size_t size_bytes, int root, cvy_deadline deadline);
/** Broadcast a block whose size only root knows; *out is cvy_alloc()ed on every rank but root,
 *  where it is the argument. */
cvy_status comm_bcast_block(comm *c, void **block, size_t *size_bytes, int root,
                            cvy_deadline deadline);
/** size_bytes of each rank, in rank order, to root (out may be NULL elsewhere). */
cvy_status comm_gather(comm *c, const void *bytes, size_t size_bytes, int root, void *out,
                       cvy_deadline deadline);
/** Elementwise maximum over ranks, n <= 16, in place. */
cvy_status comm_max_i64(comm *c, int64_t *values, int n, cvy_deadline deadline);
/** Every rank gets the worst status of all, so they part together: agree before you part. Worst is
 *  the one with the lowest value. */
cvy_status comm_agree(comm *c, cvy_status mine, cvy_deadline deadline);

/* --- Messages -------------------------------------------------------------------------------- */

#define COMM_MESSAGE_LIMIT_BYTES (64u << 20)

typedef struct comm_message {
    int source;
    int kind;            /* protocol.h */
    const void *payload; /* a view until the next comm_receive on this communicator */
    size_t size_bytes;
} comm_message;

/** Send to one rank; the payload is copied, the call returns at once. Order is kept per pair of
 *  ranks. CVY_ERR_NO_MEMORY when too much is unsent. */
cvy_status comm_send(comm *c, int dest, int kind, const void *payload, size_t size_bytes);
/** The next message, if one has come; never waits. *out_has tells. */
cvy_status comm_receive(comm *c, comm_message *out, int *out_has);
/** Wait until all sent messages have left. */
cvy_status comm_flush(comm *c, cvy_deadline deadline);

#endif
