#ifndef COMM_REDUCE_INTERNAL_H
#define COMM_REDUCE_INTERNAL_H

#include "comm/bucket_internal.h"
#include "comm/comm_internal.h"
#include "comm/reduce.h"
#include "comm/tree_internal.h"

/* A node of some worker's range, as its owner's segment sees it. */
typedef struct comm_piece {
    int worker;
    int place; /* own: place on the stack of nodes; others': place among what comes per bucket */
} comm_piece;

/* piece[into] += piece[from] */
typedef struct comm_merge {
    int into, from;
} comm_merge;

struct comm_reducer {
    comm *workers; /* borrowed */
    comm_buckets buckets;
    int mode, rank, n_workers;
    int64_t first, n_carried; /* replicas of this worker */

    /* Folding. The sum of a node lies in the buffer of its last replica. */
    float **buffer; /* (n_buffers, n_elems) */
    int n_buffers;
    int spare[COMM_TREE_MAX_DEPTH + 1], n_spare;
    comm_tree_stack stack;
    int held[COMM_TREE_MAX_DEPTH];  /* buffer of each node on the stack */
    int taken[COMM_TREE_MAX_DEPTH]; /* buffers that the current replica takes in, in this order */
    int n_taken;
    int64_t n_begun; /* replicas of this step */
    cvy_status begin_status;
    int next_bucket; /* the next to be folded, from the last down; -1: all are */

    /* Exchange. */
    int *n_nodes;      /* (n_workers) that each sends per bucket */
    comm_piece *piece; /* (n_pieces) all workers' nodes, left to right; the last holds the sum */
    comm_merge *merge; /* (n_pieces - 1), in order */
    int n_pieces, n_foreign;
    float *incoming;          /* by bucket, the others' pieces of the own segment */
    int64_t *incoming_offset; /* (n_buckets) in elements, of one piece */
    comm_request *receive, *send;
    int64_t n_receives, n_sends;         /* posted in this step's reduction, gather, ... */
    int64_t receive_cursor, send_cursor; /* those before are done */

    int64_t sent_bytes; /* of the last step */
    double waited_s;
};

/* Wait for all that is posted, then forget it. A failure cancels what can be. */
cvy_status comm_reducer_complete(comm_reducer *reducer, comm_wait *wait);
cvy_status comm_reducer_post_send(comm_reducer *reducer, const float *values, int64_t n, int dest,
                                  int tag);
cvy_status comm_reducer_post_receive(comm_reducer *reducer, float *values, int64_t n, int source,
                                     int tag);
/* A failed post: cancel, so that nothing is written to buffers that their owner may free. */
cvy_status comm_reducer_give_up(comm_reducer *reducer, cvy_status status);

#endif
