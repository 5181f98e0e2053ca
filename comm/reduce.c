#include "comm/reduce.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "comm/reduce_internal.h"

#include <string.h>

/* Sums of more than two vectors go in blocks that stay in the first-level cache. */
#define BLOCK_ELEMS 2048

static int64_t round_up(int64_t n)
{
    return (n + COMM_REDUCE_ALIGN - 1) / COMM_REDUCE_ALIGN * COMM_REDUCE_ALIGN;
}

static void add(float *restrict sum, const float *restrict other, int64_t n)
{
    for (int64_t i = 0; i < n; i++) sum[i] += other[i];
}

/* --- What is posted -------------------------------------------------------------------------- */

cvy_status comm_reducer_post_send(comm_reducer *r, const float *values, int64_t n, int dest,
                                  int tag)
{
    if (n == 0) return CVY_OK;
    const size_t size_bytes = (size_t)n * sizeof *values;
    CVY_RETURN_IF_ERR(r->workers->ops->send(r->workers, COMM_CHANNEL_DATA, values, size_bytes, dest,
                                            tag, &r->send[r->n_sends]));
    r->n_sends++;
    if (tag != COMM_TAG_SHARD) r->sent_bytes += (int64_t)size_bytes;
    return CVY_OK;
}

cvy_status comm_reducer_post_receive(comm_reducer *r, float *values, int64_t n, int source, int tag)
{
    if (n == 0) return CVY_OK;
    CVY_RETURN_IF_ERR(r->workers->ops->receive(r->workers, values, (size_t)n * sizeof *values,
                                               source, tag, &r->receive[r->n_receives]));
    r->n_receives++;
    return CVY_OK;
}

cvy_status comm_reducer_give_up(comm_reducer *r, cvy_status status)
{
    r->workers->is_broken = 1;
    (void)comm_cancel_all(r->workers, r->receive, r->n_receives);
    return status;
}

static void forget_posted(comm_reducer *r)
{
    r->n_receives = r->n_sends = r->receive_cursor = r->send_cursor = 0;
}

cvy_status comm_reducer_complete(comm_reducer *r, comm_wait *wait)
{
    cvy_status status = comm_wait_for_all(r->workers, wait, r->receive, r->n_receives);

    if (status == CVY_OK) status = comm_wait_for_all(r->workers, wait, r->send, r->n_sends);
    if (status != CVY_OK) return comm_reducer_give_up(r, status);
    forget_posted(r);
    return CVY_OK;
}

/* --- Creation -------------------------------------------------------------------------------- */

static cvy_status check_options(const comm *workers, const comm_reducer_options *options)
{
    if (options->n_elems < 1 || options->bucket_elems < 1 ||
        options->n_replicas < comm_size(workers) || options->n_replicas > COMM_TREE_MAX_REPLICAS) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG,
                        "reduction of %lld floats in buckets of %lld, %lld replicas on %d workers",
                        (long long)options->n_elems, (long long)options->bucket_elems,
                        (long long)options->n_replicas, comm_size(workers));
    }
    return CVY_OK;
}

/* The worst status of all workers; and do all want the same? */
static cvy_status compare_options(comm *workers, const comm_reducer_options *options,
                                  cvy_status mine, cvy_deadline deadline)
{
    enum { N_OPTIONS = 4 };
    int64_t values[2 * N_OPTIONS + 1] = {options->n_elems, options->bucket_elems,
                                         options->n_replicas, options->mode};

    for (int i = 0; i < N_OPTIONS; i++) values[N_OPTIONS + i] = -values[i];
    values[2 * N_OPTIONS] = -(int64_t)mine;
    CVY_RETURN_IF_ERR(comm_max_i64(workers, values, 2 * N_OPTIONS + 1, deadline));
    if (values[2 * N_OPTIONS] > 0) return (cvy_status)-values[2 * N_OPTIONS];
    for (int i = 0; i < N_OPTIONS; i++) {
        if (values[i] == -values[N_OPTIONS + i]) continue;
        return CVY_FAIL(CVY_ERR_INTERNAL,
                        "workers want different reductions: option %d is %lld to %lld", i,
                        (long long)-values[N_OPTIONS + i], (long long)values[i]);
    }
    return CVY_OK;
}

/* How many buffers folding needs: the nodes that wait, and the replica at work. */
static int count_buffers(const comm_reducer *r)
{
    comm_tree_stack stack = comm_tree_open(r->stack.n_replicas);
    int n_most = 0;

    for (int64_t i = 0; i < r->n_carried; i++) {
        if (stack.n + 1 > n_most) n_most = stack.n + 1;
        (void)comm_tree_push_replica(&stack, r->first + i);
    }
    return n_most;
}

static int count_nodes(int64_t n_replicas, int64_t first, int64_t n, comm_tree_stack *out)
{
    *out = comm_tree_open(n_replicas);
    for (int64_t i = 0; i < n; i++) (void)comm_tree_push_replica(out, first + i);
    return out->n;
}

/* All workers' nodes, left to right, and in which order the owner of a segment adds them. With the
 * transport's own sum there is one piece, the own. */
static cvy_status plan_pieces(comm_reducer *r)
{
    const int64_t n_replicas = r->stack.n_replicas;
    comm_tree_stack whole = comm_tree_open(n_replicas), part;
    int waiting[COMM_TREE_MAX_DEPTH], n_merges = 0;

    r->n_nodes = cvy_alloc_zero((size_t)r->n_workers, sizeof *r->n_nodes);
    /* A range of replicas has fewer nodes than twice the depth of the tree. */
    const size_t n_most = (size_t)r->n_workers * COMM_TREE_MAX_DEPTH;
    r->piece = cvy_alloc_zero(n_most, sizeof *r->piece);
    r->merge = cvy_alloc_zero(n_most, sizeof *r->merge);
    if (r->n_nodes == NULL || r->piece == NULL || r->merge == NULL) return CVY_ERR_NO_MEMORY;
    if (r->mode == COMM_REDUCE_NATIVE) {
        r->piece[r->n_pieces++] = (comm_piece){.worker = r->rank};
        return CVY_OK;
    }
    for (int w = 0; w < r->n_workers; w++) {
        int64_t first = 0, n = 0;
        comm_replica_range(n_replicas, r->n_workers, w, &first, &n);
        r->n_nodes[w] = count_nodes(n_replicas, first, n, &part);
        for (int i = 0; i < r->n_nodes[w]; i++) {
            const int n_under = whole.n, n_taken = comm_tree_push(&whole, part.node[i]);
            const int mine = r->n_pieces++;
            r->piece[mine] = (comm_piece){.worker = w, .place = w == r->rank ? i : r->n_foreign++};
            for (int k = 1; k <= n_taken; k++)
                r->merge[n_merges++] = (comm_merge){.into = mine, .from = waiting[n_under - k]};
            waiting[whole.n - 1] = mine;
        }
    }
    CVY_ASSERT(whole.n == 1 && n_merges == r->n_pieces - 1);
    return CVY_OK;
}

static cvy_status allocate(comm_reducer *r)
{
    const size_t n_buckets = (size_t)r->buckets.n_buckets;
    const size_t n_others = (size_t)r->n_workers - 1;
    int64_t n_incoming = 0;

    CVY_RETURN_IF_ERR(plan_pieces(r));
    const size_t n_foreign = (size_t)r->n_foreign, n_nodes = (size_t)r->n_nodes[r->rank];
    /* Enough for the reduction and for gathers, per bucket; at least one for the native sum. */
    r->receive = cvy_alloc_zero(n_buckets * (n_foreign + n_others + 1), sizeof *r->receive);
    r->send = cvy_alloc_zero(n_buckets * n_others * (n_nodes + 1), sizeof *r->send);
    r->incoming_offset = cvy_alloc_zero(n_buckets, sizeof *r->incoming_offset);
    if (r->receive == NULL || r->send == NULL || r->incoming_offset == NULL)
        return CVY_ERR_NO_MEMORY;
    for (int bucket = 0; bucket < r->buckets.n_buckets; bucket++) {
        int64_t offset = 0, n = 0;
        comm_reducer_segment(r, bucket, r->rank, &offset, &n);
        r->incoming_offset[bucket] = n_incoming;
        n_incoming += round_up(n);
    }
    r->incoming = cvy_alloc_zero((size_t)n_incoming * n_foreign, sizeof *r->incoming);
    r->buffer = cvy_alloc_zero((size_t)r->n_buffers, sizeof *r->buffer);
    if (r->incoming == NULL || r->buffer == NULL) return CVY_ERR_NO_MEMORY;
    for (int i = 0; i < r->n_buffers; i++) {
        r->buffer[i] = cvy_alloc_zero((size_t)r->buckets.n_elems, sizeof *r->buffer[i]);
        if (r->buffer[i] == NULL) return CVY_ERR_NO_MEMORY;
    }
    return CVY_OK;
}

static cvy_status make(comm *workers, const comm_reducer_options *options, comm_reducer **out)
{
    CVY_RETURN_IF_ERR(check_options(workers, options));
    comm_reducer *r = cvy_alloc_zero(1, sizeof *r);
    cvy_status status = r != NULL ? CVY_OK : CVY_ERR_NO_MEMORY;

    if (r != NULL) {
        r->workers = workers;
        r->mode = options->mode;
        r->rank = comm_rank(workers);
        r->n_workers = comm_size(workers);
        r->next_bucket = -1;
        r->stack = comm_tree_open(options->n_replicas);
        r->buckets = comm_buckets_make(options->n_elems, options->bucket_elems, r->n_workers);
        comm_replica_range(options->n_replicas, r->n_workers, r->rank, &r->first, &r->n_carried);
        r->n_buffers = count_buffers(r);
        status = allocate(r);
    }
    if (status == CVY_OK) {
        *out = r;
        return CVY_OK;
    }
    comm_reducer_destroy(&r);
    return CVY_FAIL(status, "reduction of %lld floats, %lld replicas on %d workers",
                    (long long)options->n_elems, (long long)options->n_replicas,
                    comm_size(workers));
}

cvy_status comm_reducer_create(comm *workers, const comm_reducer_options *options,
                               cvy_deadline deadline, comm_reducer **out)
{
    comm_reducer *r = NULL;

    *out = NULL;
    cvy_status status = make(workers, options, &r);
    status = compare_options(workers, options, status, deadline);
    if (status == CVY_OK && options->mode == COMM_REDUCE_NATIVE)
        status = workers->ops->native_open(workers, deadline);
    if (status == CVY_OK)
        *out = r;
    else
        comm_reducer_destroy(&r);
    return status;
}

void comm_reducer_destroy(comm_reducer **address)
{
    comm_reducer *r = *address;
    int64_t n_open = 0;

    if (r == NULL) return;
    *address = NULL;
    if (r->receive != NULL) n_open += comm_cancel_all(r->workers, r->receive, r->n_receives);
    for (int64_t i = 0; i < r->n_sends; i++) {
        if (r->send[i].is_open) (void)r->workers->ops->test(r->workers, &r->send[i]);
        n_open += r->send[i].is_open;
    }
    /* What the transport may still touch stays until the process ends. */
    if (n_open > 0) {
        r->workers->is_broken = 1;
        return;
    }
    for (int i = 0; r->buffer != NULL && i < r->n_buffers; i++) cvy_free(r->buffer[i]);
    cvy_free(r->buffer);
    cvy_free(r->incoming);
    cvy_free(r->incoming_offset);
    cvy_free(r->send);
    cvy_free(r->receive);
    cvy_free(r->merge);
    cvy_free(r->piece);
    cvy_free(r->n_nodes);
    cvy_free(r);
}

/* --- Folding --------------------------------------------------------------------------------- */

/* Where the own segment of a piece lies. */
static float *piece_values(const comm_reducer *r, int bucket, int idx)
{
    const comm_piece *piece = &r->piece[idx];
    int64_t offset = 0, n = 0;

    comm_reducer_segment(r, bucket, r->rank, &offset, &n);
    if (piece->worker == r->rank) return r->buffer[r->held[piece->place]] + offset;
    return r->incoming + r->incoming_offset[bucket] * r->n_foreign + round_up(n) * piece->place;
}

/* In the order in which buckets are sent, and per bucket and worker in the order of its nodes. */
static cvy_status post_receives(comm_reducer *r)
{
    for (int bucket = r->buckets.n_buckets - 1; bucket >= 0; bucket--) {
        int64_t offset = 0, n = 0;
        comm_reducer_segment(r, bucket, r->rank, &offset, &n);
        for (int i = 0; i < r->n_pieces; i++) {
            if (r->piece[i].worker == r->rank) continue;
            CVY_RETURN_IF_ERR(comm_reducer_post_receive(r, piece_values(r, bucket, i), n,
                                                        r->piece[i].worker, COMM_TAG_SUM));
        }
    }
    return CVY_OK;
}

static void begin_step(comm_reducer *r)
{
    r->stack.n = 0;
    r->n_spare = 0;
    for (int i = r->n_buffers - 1; i >= 0; i--) r->spare[r->n_spare++] = i;
    r->sent_bytes = 0;
    r->waited_s = 0;
    forget_posted(r);
    /* Before anything is sent, so that what comes has its place. */
    r->begin_status = post_receives(r);
    if (r->begin_status != CVY_OK) (void)comm_reducer_give_up(r, r->begin_status);
}

float *comm_reducer_begin(comm_reducer *r, int64_t replica)
{
    CVY_ASSERT(replica == r->first + r->n_begun && r->n_begun < r->n_carried);
    CVY_ASSERT(r->next_bucket < 0);
    if (r->n_begun == 0) begin_step(r);
    const int mine = r->spare[--r->n_spare];
    const int n_under = r->stack.n;
    r->n_taken = comm_tree_push_replica(&r->stack, replica);
    if (r->mode == COMM_REDUCE_NATIVE && r->n_begun == r->n_carried - 1) {
        r->n_taken = n_under; /* the rest in any order: this one, from the right */
        r->stack.n = 1;
    }
    for (int i = 0; i < r->n_taken; i++) r->taken[i] = r->held[n_under - 1 - i];
    r->held[r->stack.n - 1] = mine;
    r->next_bucket = r->buckets.n_buckets - 1;
    r->n_begun++;
    return r->buffer[mine];
}

static void fold_bucket(comm_reducer *r, int bucket)
{
    const int64_t n = comm_bucket_n(&r->buckets, bucket);
    const int64_t offset = comm_bucket_offset(&r->buckets, bucket);
    float *sum = r->buffer[r->held[r->stack.n - 1]] + offset;

    if (r->n_taken == 0) return;
    for (int64_t at = 0; at < n; at += BLOCK_ELEMS) {
        const int64_t n_block = n - at < BLOCK_ELEMS ? n - at : BLOCK_ELEMS;
        for (int i = 0; i < r->n_taken; i++)
            add(sum + at, r->buffer[r->taken[i]] + offset + at, n_block);
    }
}

static cvy_status send_bucket(comm_reducer *r, int bucket)
{
    int64_t offset = 0, n = 0;

    if (r->mode == COMM_REDUCE_NATIVE) {
        n = comm_bucket_n(&r->buckets, bucket);
        float *values = r->buffer[r->held[0]] + comm_bucket_offset(&r->buckets, bucket);
        CVY_RETURN_IF_ERR(
            r->workers->ops->native_sum(r->workers, values, n, &r->receive[r->n_receives]));
        r->n_receives++;
        if (r->n_workers > 1) r->sent_bytes += n * (int64_t)sizeof *values;
        return CVY_OK;
    }
    /* Each begins with its right neighbour, so that not all send to the same one at once. */
    for (int i = 1; i < r->n_workers; i++) {
        const int dest = (r->rank + i) % r->n_workers;
        comm_reducer_segment(r, bucket, dest, &offset, &n);
        for (int node = 0; node < r->stack.n; node++) {
            CVY_RETURN_IF_ERR(comm_reducer_post_send(r, r->buffer[r->held[node]] + offset, n, dest,
                                                     COMM_TAG_SUM));
        }
    }
    return CVY_OK;
}

cvy_status comm_reducer_ready(comm_reducer *r, int64_t from_offset)
{
    const int is_last = r->n_begun == r->n_carried;

    CVY_RETURN_IF_ERR(r->begin_status);
    if (r->next_bucket < 0) return comm_reducer_poll(r);
    while (r->next_bucket >= 0 && comm_bucket_offset(&r->buckets, r->next_bucket) >= from_offset) {
        fold_bucket(r, r->next_bucket);
        if (is_last) {
            const cvy_status status = send_bucket(r, r->next_bucket);
            if (status != CVY_OK) return comm_reducer_give_up(r, status);
        }
        r->next_bucket--;
    }
    if (r->next_bucket < 0) {
        for (int i = r->n_taken - 1; i >= 0; i--) r->spare[r->n_spare++] = r->taken[i];
        r->n_taken = 0;
    }
    return comm_reducer_poll(r);
}

/* One that is open gets a test, which moves all of them on. */
static cvy_status poll_from(comm_reducer *r, comm_request *requests, int64_t n, int64_t *cursor)
{
    for (; *cursor < n; (*cursor)++) {
        if (!requests[*cursor].is_open) continue;
        CVY_RETURN_IF_ERR(r->workers->ops->test(r->workers, &requests[*cursor]));
        if (requests[*cursor].is_open) return CVY_OK;
    }
    return CVY_OK;
}

cvy_status comm_reducer_poll(comm_reducer *r)
{
    cvy_status status = poll_from(r, r->receive, r->n_receives, &r->receive_cursor);

    if (status == CVY_OK) status = poll_from(r, r->send, r->n_sends, &r->send_cursor);
    return status == CVY_OK ? CVY_OK : comm_reducer_give_up(r, status);
}

/* --- The sum of the own segments ------------------------------------------------------------- */

static void add_pieces(comm_reducer *r, int bucket)
{
    int64_t offset = 0, n = 0;

    comm_reducer_segment(r, bucket, r->rank, &offset, &n);
    for (int64_t at = 0; at < n; at += BLOCK_ELEMS) {
        const int64_t n_block = n - at < BLOCK_ELEMS ? n - at : BLOCK_ELEMS;
        for (int i = 0; i < r->n_pieces - 1; i++) {
            add(piece_values(r, bucket, r->merge[i].into) + at,
                piece_values(r, bucket, r->merge[i].from) + at, n_block);
        }
    }
}

static cvy_status sum_own_segments(comm_reducer *r, comm_wait *wait)
{
    comm_request *receive = r->receive;

    for (int bucket = r->buckets.n_buckets - 1; bucket >= 0; bucket--) {
        int64_t offset = 0, n = 0;
        comm_reducer_segment(r, bucket, r->rank, &offset, &n);
        if (n == 0) continue;
        CVY_RETURN_IF_ERR(comm_wait_for_all(r->workers, wait, receive, r->n_foreign));
        receive += r->n_foreign;
        add_pieces(r, bucket);
    }
    return CVY_OK;
}

cvy_status comm_reducer_finish(comm_reducer *r, cvy_deadline deadline)
{
    comm_wait wait = comm_wait_begin(deadline);

    CVY_ASSERT(r->n_begun == r->n_carried && r->next_bucket < 0);
    r->n_begun = 0;
    if (r->mode == COMM_REDUCE_ORDERED) {
        const cvy_status status = sum_own_segments(r, &wait);
        if (status != CVY_OK) return comm_reducer_give_up(r, status);
    }
    const cvy_status status = comm_reducer_complete(r, &wait);
    r->waited_s += wait.waited_s;
    return status;
}

float *comm_reducer_sum(comm_reducer *r, int bucket)
{
    return piece_values(r, bucket, r->n_pieces - 1);
}

int comm_reducer_n_buckets(const comm_reducer *r)
{
    return r->buckets.n_buckets;
}

void comm_reducer_segment(const comm_reducer *r, int bucket, int worker, int64_t *offset,
                          int64_t *n)
{
    comm_bucket_segment(&r->buckets, bucket, worker, offset, n);
}

void comm_reducer_figures(const comm_reducer *r, int64_t *out_bytes, double *out_wait_s)
{
    *out_bytes = r->sent_bytes;
    *out_wait_s = r->waited_s;
}
