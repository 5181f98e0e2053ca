#include "base/alloc.h"
#include "base/clock.h"
#include "comm/backends/transports_internal.h"
#include "comm/comm.h"
#include "comm/comm_internal.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/*
 * Ranks as threads of one process. What is sent is copied into a note in the receiver's queue, so a
 * send is over at once and outlives its sender; notes return to a pool.
 */
enum { MAX_RANKS = 2 };

/* More than this waiting to be received as messages is too much. */
#define QUEUED_LIMIT_BYTES ((size_t)256 << 20)
/* Notes with more room than this are not kept: broadcasts of large blocks are rare. */
#define SPARE_LIMIT_BYTES ((size_t)1 << 20)

typedef struct note {
    struct note *next;
    int source, tag;
    size_t size_bytes, room_bytes;
    _Alignas(CVY_ALIGN_BYTES) unsigned char bytes[];
} note;

typedef struct queue {
    note *first, *last;
    size_t size_bytes;
} queue;

/* What the ranks share; freed by the last of them. */
typedef struct hub {
    pthread_mutex_t mutex; /* guards all below */
    int n_owners;
    queue queues[MAX_RANKS][COMM_N_CHANNELS];
    note *spare;
} hub;

typedef struct comm_self {
    comm base;
    int is_group;
    hub *hub;
} comm_self;

static hub *hub_of(comm *c)
{
    return ((comm_self *)c)->hub;
}

/* --- Notes and queues; the mutex is held ------------------------------------------------------ */

static note *get_note(hub *h, size_t size_bytes)
{
    const size_t room = size_bytes > 256 ? size_bytes : 256;

    for (note **at = &h->spare; *at != NULL; at = &(*at)->next) {
        note *found = *at;
        if (found->room_bytes < size_bytes) continue;
        *at = found->next;
        return found;
    }
    note *made = cvy_alloc(sizeof *made + room);
    if (made != NULL) made->room_bytes = room;
    return made;
}

static void put_note(hub *h, note *used)
{
    if (used->room_bytes > SPARE_LIMIT_BYTES) {
        cvy_free(used);
        return;
    }
    used->next = h->spare;
    h->spare = used;
}

static void append(queue *q, note *sent)
{
    sent->next = NULL;
    if (q->first == NULL)
        q->first = sent;
    else
        q->last->next = sent;
    q->last = sent;
    q->size_bytes += sent->size_bytes;
}

/* The first note that fits; any of source and tag with -1. */
static note *find(const queue *q, int source, int tag)
{
    note *n = q->first;

    while (n != NULL && !((source < 0 || n->source == source) && (tag < 0 || n->tag == tag)))
        n = n->next;
    return n;
}

static void take_out(queue *q, note *taken)
{
    note *before = NULL;

    for (note *n = q->first; n != taken; n = n->next) before = n;
    if (before == NULL)
        q->first = taken->next;
    else
        before->next = taken->next;
    if (q->last == taken) q->last = before;
    q->size_bytes -= taken->size_bytes;
}

static void free_notes(note *first)
{
    while (first != NULL) {
        note *next = first->next;
        cvy_free(first);
        first = next;
    }
}

/* --- The transport --------------------------------------------------------------------------- */

static cvy_status self_send(comm *c, comm_channel channel, const void *bytes, size_t size_bytes,
                            int dest, int tag, comm_request *out)
{
    hub *h = hub_of(c);
    queue *q = &h->queues[dest][channel];

    *out = (comm_request){0};
    pthread_mutex_lock(&h->mutex);
    const size_t queued_bytes = q->size_bytes;
    const int is_full = channel == COMM_CHANNEL_MESSAGES &&
                        queued_bytes + size_bytes > QUEUED_LIMIT_BYTES;
    note *sent = is_full ? NULL : get_note(h, size_bytes);
    if (sent != NULL) {
        sent->source = c->rank;
        sent->tag = tag;
        sent->size_bytes = size_bytes;
        if (size_bytes > 0) memcpy(sent->bytes, bytes, size_bytes);
        append(q, sent);
    }
    pthread_mutex_unlock(&h->mutex);
    if (sent != NULL) return CVY_OK;
    return CVY_FAIL(CVY_ERR_NO_MEMORY, "%zu bytes to rank %d, which has not received %zu bytes yet",
                    size_bytes, dest, queued_bytes);
}

static cvy_status self_receive(comm *c, void *bytes, size_t size_bytes, int source, int tag,
                               comm_request *out)
{
    (void)c;
    *out = (comm_request){.is_open = 1,
                          .is_receive = 1,
                          .peer = source,
                          .tag = tag,
                          .bytes = bytes,
                          .size_bytes = size_bytes};
    return CVY_OK;
}

static cvy_status self_test(comm *c, comm_request *request)
{
    hub *h = hub_of(c);
    queue *q = &h->queues[c->rank][COMM_CHANNEL_DATA];
    size_t came_bytes = request->size_bytes;

    pthread_mutex_lock(&h->mutex);
    note *came = find(q, request->peer, request->tag);
    if (came != NULL) {
        take_out(q, came);
        came_bytes = came->size_bytes;
        if (came_bytes == request->size_bytes && came_bytes > 0)
            memcpy(request->bytes, came->bytes, came_bytes);
        put_note(h, came);
        request->is_open = 0;
    }
    pthread_mutex_unlock(&h->mutex);
    if (came_bytes == request->size_bytes) return CVY_OK;
    return CVY_FAIL(CVY_ERR_INTERNAL, "%zu bytes came from rank %d under tag %d, not %zu",
                    came_bytes, request->peer, request->tag, request->size_bytes);
}

static void self_cancel(comm *c, comm_request *request)
{
    (void)c;
    request->is_open = 0;
}

static cvy_status self_probe(comm *c, comm_letter *out, int *out_has)
{
    hub *h = hub_of(c);

    pthread_mutex_lock(&h->mutex);
    const note *came = find(&h->queues[c->rank][COMM_CHANNEL_MESSAGES], -1, -1);
    *out_has = came != NULL;
    if (came != NULL) {
        *out = (comm_letter){
            .source = came->source, .kind = came->tag, .size_bytes = came->size_bytes};
    }
    pthread_mutex_unlock(&h->mutex);
    return CVY_OK;
}

/* The letter is the first of the queue still: only this rank takes from it. */
static cvy_status self_take(comm *c, comm_letter *letter, void *buffer, comm_request *out)
{
    hub *h = hub_of(c);
    queue *q = &h->queues[c->rank][COMM_CHANNEL_MESSAGES];

    *out = (comm_request){0};
    pthread_mutex_lock(&h->mutex);
    note *came = q->first;
    take_out(q, came);
    if (letter->size_bytes > 0) memcpy(buffer, came->bytes, letter->size_bytes);
    put_note(h, came);
    pthread_mutex_unlock(&h->mutex);
    return CVY_OK;
}

static cvy_status self_native_open(comm *c, cvy_deadline deadline)
{
    (void)deadline;
    if (c->size == 1) return CVY_OK;
    return CVY_FAIL(CVY_ERR_UNSUPPORTED, "reduce: native of %d ranks in one process", c->size);
}

/* Of one rank: the sum is there. */
static cvy_status self_native_sum(comm *c, float *values, int64_t n, comm_request *out)
{
    (void)c;
    (void)values;
    (void)n;
    *out = (comm_request){0};
    return CVY_OK;
}

/* --- Opening and closing --------------------------------------------------------------------- */

static hub *make_hub(void)
{
    hub *h = cvy_alloc_zero(1, sizeof *h);

    if (h == NULL) return NULL;
    if (pthread_mutex_init(&h->mutex, NULL) == 0) return h;
    cvy_free(h);
    return NULL;
}

static void leave_hub(hub *h)
{
    pthread_mutex_lock(&h->mutex);
    const int n_left = --h->n_owners;
    pthread_mutex_unlock(&h->mutex);
    if (n_left > 0) return;
    for (int rank = 0; rank < MAX_RANKS; rank++) {
        for (int i = 0; i < COMM_N_CHANNELS; i++) free_notes(h->queues[rank][i].first);
    }
    free_notes(h->spare);
    pthread_mutex_destroy(&h->mutex);
    cvy_free(h);
}

static void self_close(comm *c)
{
    leave_hub(hub_of(c));
    /* Nothing outlives a wait here: a broken communicator can be freed whole. */
    if (c->is_broken) cvy_free(c->places);
    cvy_free(c);
}

static cvy_status make_comm(hub *h, int is_group, int rank, int size, comm **out)
{
    comm_self *self = cvy_alloc_zero(1, sizeof *self);
    comm_place *places = cvy_alloc_zero((size_t)size, sizeof *places);

    if (self == NULL || places == NULL) {
        cvy_free(places);
        cvy_free(self);
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "communicator of %d threads", size);
    }
    for (int i = 0; i < size; i++) {
        if (gethostname(places[i].host, sizeof places[i].host - 1) != 0 ||
            places[i].host[0] == '\0') {
            snprintf(places[i].host, sizeof places[i].host, "localhost");
        }
    }
    comm_count_places(places, size);
    self->is_group = is_group;
    self->hub = h;
    self->base.ops = &comm_transport_self;
    self->base.rank = rank;
    self->base.size = size;
    self->base.places = places;
    h->n_owners++; /* before a second thread knows it */
    *out = &self->base;
    return CVY_OK;
}

/* Both ends of a new hub. */
static cvy_status make_pair(int is_group, comm **out_first, comm **out_second)
{
    hub *h = make_hub();
    comm *first = NULL;

    if (h == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "queues between two threads");
    cvy_status status = make_comm(h, is_group, 0, 2, &first);
    if (status != CVY_OK) {
        h->n_owners = 1; /* the hub itself */
        leave_hub(h);
        return status;
    }
    status = make_comm(h, is_group, 1, 2, out_second);
    if (status != CVY_OK)
        comm_close(&first);
    else
        *out_first = first;
    return status;
}

cvy_status comm_self_open(comm **out_coordinator, comm **out_worker)
{
    *out_coordinator = *out_worker = NULL;
    comm_sharpen_naps();
    return make_pair(0, out_coordinator, out_worker);
}

static cvy_status make_single(comm **out)
{
    hub *h = make_hub();

    if (h == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "queues of one thread");
    const cvy_status status = make_comm(h, 1, 0, 1, out);
    if (status == CVY_OK) return CVY_OK;
    h->n_owners = 1;
    leave_hub(h);
    return status;
}

static cvy_status self_group(comm *world, int first, int n, cvy_deadline deadline, comm **out)
{
    comm *ends[MAX_RANKS] = {NULL, NULL};
    cvy_status status = CVY_OK;

    if (((comm_self *)world)->is_group)
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "a group is made of the world only");
    if (n == 1) {
        if (world->rank == first) status = make_single(&ends[world->rank]);
    } else if (world->rank == 0) {
        status = make_pair(1, &ends[0], &ends[1]);
    }
    status = comm_agree(world, status, deadline);
    /* One process: the other thread's end is handed over as it is. */
    if (status == CVY_OK && n == 2) status = comm_bcast(world, ends, sizeof ends, 0, deadline);
    if (status == CVY_OK) {
        *out = ends[world->rank];
        return CVY_OK;
    }
    if (world->rank == 0 || n == 1) {
        comm_close(&ends[0]);
        comm_close(&ends[1]);
    }
    return status;
}

const comm_ops comm_transport_self = {.name = "self",
                                      .close = self_close,
                                      .send = self_send,
                                      .receive = self_receive,
                                      .test = self_test,
                                      .cancel = self_cancel,
                                      .probe = self_probe,
                                      .take = self_take,
                                      .group = self_group,
                                      .native_open = self_native_open,
                                      .native_sum = self_native_sum};
