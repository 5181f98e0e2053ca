#include "base/alloc.h"
#include "base/clock.h"
#include "comm/comm.h"
#include "comm/comm_internal.h"

#include <string.h>

/*
 * Collectives over point-to-point transfers, so that every wait has a deadline and an idle function
 * and no rank outside the communicator takes part. All ranks run the collectives of a communicator
 * in the same order and order is kept per pair, so one tag serves them all.
 */

/* A broadcast goes down the tree in pieces, so that all its levels work at once. */
#define PIECE_BYTES  ((size_t)4 << 20)
#define MAX_CHILDREN 32

/* c->sent_values to dest and c->got_values from source. */
static cvy_status exchange(comm *c, comm_wait *wait, int dest, int source, size_t size_bytes)
{
    comm_request requests[2] = {{0}};

    CVY_RETURN_IF_ERR(
        c->ops->receive(c, c->got_values, size_bytes, source, COMM_TAG_COLLECTIVE, &requests[0]));
    CVY_RETURN_IF_ERR(c->ops->send(c, COMM_CHANNEL_DATA, c->sent_values, size_bytes, dest,
                                   COMM_TAG_COLLECTIVE, &requests[1]));
    return comm_wait_for_all(c, wait, requests, 2);
}

/* Dissemination (Hensgen, Finkel & Manber, 1988): in round k every rank tells the one 2^k further
 * what it knows; after ceil(log2 size) rounds all know all. A maximum may be taken twice, so any
 * size will do. */
cvy_status comm_max_i64(comm *c, int64_t *values, int n, cvy_deadline deadline)
{
    comm_wait wait = comm_wait_begin(deadline);

    if (n < 1 || n > COMM_MAX_VALUES) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "maximum of %d values, at most %d go", n,
                        COMM_MAX_VALUES);
    }
    const size_t size_bytes = (size_t)n * sizeof *values;
    memcpy(c->sent_values, values, size_bytes);
    for (int distance = 1; distance < c->size; distance *= 2) {
        const int dest = (c->rank + distance) % c->size;
        const int source = (c->rank - distance + c->size) % c->size;
        CVY_RETURN_IF_ERR(exchange(c, &wait, dest, source, size_bytes));
        for (int i = 0; i < n; i++) {
            if (c->got_values[i] > c->sent_values[i]) c->sent_values[i] = c->got_values[i];
        }
    }
    memcpy(values, c->sent_values, size_bytes);
    return CVY_OK;
}

cvy_status comm_barrier(comm *c, cvy_deadline deadline)
{
    int64_t nothing = 0;
    return comm_max_i64(c, &nothing, 1, deadline);
}

cvy_status comm_agree(comm *c, cvy_status mine, cvy_deadline deadline)
{
    int64_t badness = -(int64_t)mine; /* worst is lowest */

    CVY_RETURN_IF_ERR(comm_max_i64(c, &badness, 1, deadline));
    return (cvy_status)-badness;
}

/* Binomial tree over ranks counted from root: the parent of a rank lacks its lowest set bit.
 * Children come largest subtree first. */
static int find_children(const comm *c, int root, int *out_parent, int children[MAX_CHILDREN])
{
    const int place = (c->rank - root + c->size) % c->size;
    int bit = 1, n = 0;

    while (bit < c->size && !(place & bit)) bit <<= 1;
    *out_parent = place == 0 ? -1 : ((place & ~bit) + root) % c->size;
    for (bit >>= 1; bit > 0; bit >>= 1) {
        if (place + bit < c->size) children[n++] = (place + bit + root) % c->size;
    }
    return n;
}

/* One piece: from the parent (-1: none), then to the children. */
static cvy_status pass_on(comm *c, comm_wait *wait, unsigned char *piece, size_t n, int parent,
                          const int *children, int n_children, comm_request *requests)
{
    comm_request *incoming = &requests[n_children];

    if (parent >= 0) {
        CVY_RETURN_IF_ERR(c->ops->receive(c, piece, n, parent, COMM_TAG_COLLECTIVE, incoming));
    }
    /* The piece before goes out while this one comes in. */
    CVY_RETURN_IF_ERR(comm_wait_for_all(c, wait, requests, n_children + 1));
    for (int i = 0; i < n_children; i++) {
        CVY_RETURN_IF_ERR(c->ops->send(c, COMM_CHANNEL_DATA, piece, n, children[i],
                                       COMM_TAG_COLLECTIVE, &requests[i]));
    }
    return CVY_OK;
}

cvy_status comm_bcast(comm *c, void *bytes, size_t size_bytes, int root, cvy_deadline deadline)
{
    comm_request requests[MAX_CHILDREN + 1] = {{0}};
    int children[MAX_CHILDREN], parent = -1;
    comm_wait wait = comm_wait_begin(deadline);

    if (root < 0 || root >= c->size)
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "broadcast from rank %d of %d", root, c->size);
    const int n_children = find_children(c, root, &parent, children);
    for (size_t offset = 0; offset < size_bytes; offset += PIECE_BYTES) {
        const size_t left = size_bytes - offset;
        CVY_RETURN_IF_ERR(pass_on(c, &wait, (unsigned char *)bytes + offset,
                                  left < PIECE_BYTES ? left : PIECE_BYTES, parent, children,
                                  n_children, requests));
    }
    return comm_wait_for_all(c, &wait, requests, n_children);
}

cvy_status comm_bcast_block(comm *c, void **block, size_t *size_bytes, int root,
                            cvy_deadline deadline)
{
    uint64_t n = c->rank == root ? *size_bytes : 0;
    cvy_status status = CVY_OK;
    void *copy = NULL;

    CVY_RETURN_IF_ERR(comm_bcast(c, &n, sizeof n, root, deadline));
    if (c->rank != root) {
        copy = cvy_alloc((size_t)n);
        if (copy == NULL)
            status = CVY_FAIL(CVY_ERR_NO_MEMORY, "block of %llu bytes from rank %d",
                              (unsigned long long)n, root);
    }
    CVY_GOTO_IF_ERR(fail, status, comm_agree(c, status, deadline));
    CVY_GOTO_IF_ERR(fail, status,
                    comm_bcast(c, c->rank == root ? *block : copy, (size_t)n, root, deadline));
    if (c->rank == root) return CVY_OK;
    *block = copy;
    *size_bytes = (size_t)n;
    return CVY_OK;

fail:
    /* A broken wait may leave a receive into it open. */
    if (!c->is_broken) cvy_free(copy);
    return status;
}

cvy_status comm_gather(comm *c, const void *bytes, size_t size_bytes, int root, void *out,
                       cvy_deadline deadline)
{
    comm_wait wait = comm_wait_begin(deadline);
    comm_request request = {0};

    if (root < 0 || root >= c->size || size_bytes > COMM_TRANSFER_LIMIT_BYTES) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "gather of %zu bytes on rank %d of %d", size_bytes,
                        root, c->size);
    }
    if (c->rank != root) {
        CVY_RETURN_IF_ERR(c->ops->send(c, COMM_CHANNEL_DATA, bytes, size_bytes, root,
                                       COMM_TAG_COLLECTIVE, &request));
        return comm_wait_for(c, &wait, &request);
    }
    for (int rank = 0; rank < c->size; rank++) {
        unsigned char *place = (unsigned char *)out + (size_t)rank * size_bytes;
        if (rank == root) {
            memmove(place, bytes, size_bytes);
            continue;
        }
        CVY_RETURN_IF_ERR(
            c->ops->receive(c, place, size_bytes, rank, COMM_TAG_COLLECTIVE, &request));
        CVY_RETURN_IF_ERR(comm_wait_for(c, &wait, &request));
    }
    return CVY_OK;
}
