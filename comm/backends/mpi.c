#include "base/alloc.h"
#include "base/clock.h"
#include "comm/backends/transports_internal.h"
#include "comm/comm.h"
#include "comm/comm_internal.h"

#include <mpi.h>
#include <stdio.h>
#include <string.h>

/*
 * Ranks as MPI processes. Each communicator has two of MPI's own, one a channel, that span the
 * world even where only some ranks use them: MPI can duplicate a communicator without waiting, but
 * not make one of fewer ranks.
 */
typedef struct comm_mpi {
    comm base;
    int is_group;
    int first; /* its rank 0 in the world */
    MPI_Comm channel[COMM_N_CHANNELS];
    MPI_Comm native; /* of its ranks only; MPI_COMM_NULL: not made ready */
} comm_mpi;

_Static_assert(sizeof(MPI_Request) <= sizeof(uint64_t), "a request's handle holds MPI_Request");
_Static_assert(sizeof(MPI_Message) <= sizeof(uint64_t), "a letter's handle holds MPI_Message");

static comm_mpi *mpi_of(comm *c)
{
    return (comm_mpi *)c;
}

/* What MPI says when it fails: a wrong call is a bug, anything else is the other side's or the
 * network's doing. */
static cvy_status check(int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int class = MPI_ERR_UNKNOWN, n_chars = 0;

    if (CVY_LIKELY(code == MPI_SUCCESS)) return CVY_OK;
    (void)MPI_Error_class(code, &class);
    if (MPI_Error_string(code, text, &n_chars) != MPI_SUCCESS)
        snprintf(text, sizeof text, "MPI error %d", code);
    switch (class) {
    case MPI_ERR_NO_MEM:
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "%s: %s", what, text);
    case MPI_ERR_BUFFER:
    case MPI_ERR_COUNT:
    case MPI_ERR_TYPE:
    case MPI_ERR_TAG:
    case MPI_ERR_COMM:
    case MPI_ERR_RANK:
    case MPI_ERR_REQUEST:
    case MPI_ERR_ROOT:
    case MPI_ERR_GROUP:
    case MPI_ERR_OP:
    case MPI_ERR_ARG:
    case MPI_ERR_TRUNCATE:
        return CVY_FAIL(CVY_ERR_INTERNAL, "%s: %s", what, text);
    default:
        return CVY_FAIL(CVY_ERR_PEER_LOST, "%s: %s", what, text);
    }
}

static MPI_Request load_request(const comm_request *request)
{
    MPI_Request handle;
    memcpy(&handle, &request->handle, sizeof handle);
    return handle;
}

/* A request that MPI has completed already is not open. */
static void store_request(comm_request *request, MPI_Request handle)
{
    memcpy(&request->handle, &handle, sizeof handle);
    request->is_open = handle != MPI_REQUEST_NULL;
}

static cvy_status mpi_send(comm *c, comm_channel channel, const void *bytes, size_t size_bytes,
                           int dest, int tag, comm_request *out)
{
    const comm_mpi *mpi = mpi_of(c);
    MPI_Request handle = MPI_REQUEST_NULL;

    CVY_RETURN_IF_ERR(check(MPI_Isend(bytes, cvy_to_int((int64_t)size_bytes), MPI_BYTE,
                                      mpi->first + dest, tag, mpi->channel[channel], &handle),
                            "MPI_Isend"));
    *out = (comm_request){.peer = dest, .tag = tag};
    store_request(out, handle);
    return CVY_OK;
}

static cvy_status mpi_receive(comm *c, void *bytes, size_t size_bytes, int source, int tag,
                              comm_request *out)
{
    const comm_mpi *mpi = mpi_of(c);
    MPI_Request handle = MPI_REQUEST_NULL;

    CVY_RETURN_IF_ERR(
        check(MPI_Irecv(bytes, cvy_to_int((int64_t)size_bytes), MPI_BYTE, mpi->first + source, tag,
                        mpi->channel[COMM_CHANNEL_DATA], &handle),
              "MPI_Irecv"));
    *out = (comm_request){
        .is_receive = 1, .peer = source, .tag = tag, .bytes = bytes, .size_bytes = size_bytes};
    store_request(out, handle);
    return CVY_OK;
}

static cvy_status mpi_test(comm *c, comm_request *request)
{
    MPI_Request handle = load_request(request);
    MPI_Status got;
    int is_done = 0, n_bytes = 0;

    (void)c;
    const int code = MPI_Test(&handle, &is_done, &got);
    store_request(request, handle);
    CVY_RETURN_IF_ERR(check(code, "MPI_Test"));
    if (!is_done || !request->is_receive) return CVY_OK;
    CVY_RETURN_IF_ERR(check(MPI_Get_count(&got, MPI_BYTE, &n_bytes), "MPI_Get_count"));
    if (n_bytes == cvy_to_int((int64_t)request->size_bytes)) return CVY_OK;
    return CVY_FAIL(CVY_ERR_INTERNAL, "%d bytes came from rank %d under tag %d, not %zu", n_bytes,
                    request->peer, request->tag, request->size_bytes);
}

static void mpi_cancel(comm *c, comm_request *request)
{
    MPI_Request handle = load_request(request);
    MPI_Status got;
    int is_done = 0;

    (void)c;
    /* A receive that nothing has matched ends at once; another goes on and stays open. */
    if (MPI_Cancel(&handle) != MPI_SUCCESS) return;
    if (MPI_Test(&handle, &is_done, &got) != MPI_SUCCESS) return;
    store_request(request, handle);
}

static cvy_status mpi_probe(comm *c, comm_letter *out, int *out_has)
{
    const comm_mpi *mpi = mpi_of(c);
    MPI_Message handle = MPI_MESSAGE_NULL;
    MPI_Status got;
    int n_bytes = 0;

    CVY_RETURN_IF_ERR(
        check(MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, mpi->channel[COMM_CHANNEL_MESSAGES], out_has,
                          &handle, &got),
              "MPI_Improbe"));
    if (!*out_has) return CVY_OK;
    CVY_RETURN_IF_ERR(check(MPI_Get_count(&got, MPI_BYTE, &n_bytes), "MPI_Get_count"));
    *out = (comm_letter){
        .source = got.MPI_SOURCE - mpi->first, .kind = got.MPI_TAG, .size_bytes = (size_t)n_bytes};
    memcpy(&out->handle, &handle, sizeof handle);
    return CVY_OK;
}

static cvy_status mpi_take(comm *c, comm_letter *letter, void *buffer, comm_request *out)
{
    MPI_Request handle = MPI_REQUEST_NULL;
    MPI_Message message;

    (void)c;
    memcpy(&message, &letter->handle, sizeof message);
    CVY_RETURN_IF_ERR(check(
        MPI_Imrecv(buffer, cvy_to_int((int64_t)letter->size_bytes), MPI_BYTE, &message, &handle),
        "MPI_Imrecv"));
    *out = (comm_request){.is_receive = 1,
                          .peer = letter->source,
                          .tag = letter->kind,
                          .bytes = buffer,
                          .size_bytes = letter->size_bytes};
    store_request(out, handle);
    return CVY_OK;
}

/* --- MPI's own all-reduce -------------------------------------------------------------------- */

static cvy_status mpi_native_open(comm *c, cvy_deadline deadline)
{
    comm_mpi *mpi = mpi_of(c);
    MPI_Group world = MPI_GROUP_NULL, members = MPI_GROUP_NULL;
    int range[1][3] = {{mpi->first, mpi->first + c->size - 1, 1}};

    if (mpi->native != MPI_COMM_NULL || c->size == 1) return CVY_OK;
    CVY_RETURN_IF_ERR(
        check(MPI_Comm_group(mpi->channel[COMM_CHANNEL_DATA], &world), "MPI_Comm_group"));
    cvy_status status = check(MPI_Group_range_incl(world, 1, range, &members),
                              "MPI_Group_range_incl");
    /* MPI knows no form of this that does not wait. All have just spoken when it begins, so it
     * takes no longer than its few messages. */
    status = comm_agree(c, status, deadline);
    if (status == CVY_OK) {
        status = check(
            MPI_Comm_create_group(mpi->channel[COMM_CHANNEL_DATA], members, 0, &mpi->native),
            "MPI_Comm_create_group");
    }
    if (members != MPI_GROUP_NULL) (void)MPI_Group_free(&members);
    (void)MPI_Group_free(&world);
    return status;
}

static cvy_status mpi_native_sum(comm *c, float *values, int64_t n, comm_request *out)
{
    const comm_mpi *mpi = mpi_of(c);
    MPI_Request handle = MPI_REQUEST_NULL;

    *out = (comm_request){0};
    if (c->size == 1) return CVY_OK;
    CVY_RETURN_IF_ERR(check(MPI_Iallreduce(MPI_IN_PLACE, values, cvy_to_int(n), MPI_FLOAT, MPI_SUM,
                                           mpi->native, &handle),
                            "MPI_Iallreduce"));
    store_request(out, handle);
    return CVY_OK;
}

/* --- Opening and closing --------------------------------------------------------------------- */

/* waiter: whose idle function is called; any communicator. */
static cvy_status duplicate(comm *waiter, MPI_Comm parent, cvy_deadline deadline, MPI_Comm *out)
{
    comm_wait wait = comm_wait_begin(deadline);
    MPI_Request request = MPI_REQUEST_NULL;
    int is_done = 0;

    *out = MPI_COMM_NULL;
    CVY_RETURN_IF_ERR(check(MPI_Comm_idup(parent, out, &request), "MPI_Comm_idup"));
    for (;;) {
        CVY_RETURN_IF_ERR(check(MPI_Test(&request, &is_done, MPI_STATUS_IGNORE), "MPI_Test"));
        if (is_done) return CVY_OK;
        const cvy_status status = comm_wait_pause(waiter, &wait);
        if (status != CVY_OK) {
            waiter->is_broken = 1;
            return status;
        }
    }
}

static void free_channels(comm_mpi *mpi)
{
    int is_finalized = 0;

    if (MPI_Finalized(&is_finalized) != MPI_SUCCESS || is_finalized) return;
    for (int i = 0; i < COMM_N_CHANNELS; i++) {
        if (mpi->channel[i] != MPI_COMM_NULL) (void)MPI_Comm_free(&mpi->channel[i]);
    }
    if (mpi->native != MPI_COMM_NULL) (void)MPI_Comm_free(&mpi->native);
}

static void mpi_close(comm *c)
{
    if (c->is_broken) return;
    free_channels(mpi_of(c));
    cvy_free(c);
}

/* A copy on the heap of a communicator whose channels exist, with places of its ranks; NULL: no
 * memory. */
static comm_mpi *settle(const comm_mpi *seed)
{
    comm_mpi *mpi = cvy_alloc(sizeof *mpi);
    comm_place *places = cvy_alloc_zero((size_t)seed->base.size, sizeof *places);

    if (mpi == NULL || places == NULL) {
        cvy_free(places);
        cvy_free(mpi);
        (void)CVY_FAIL(CVY_ERR_NO_MEMORY, "communicator of %d ranks", seed->base.size);
        return NULL;
    }
    *mpi = *seed;
    mpi->base.places = places;
    return mpi;
}

static cvy_status share_places(comm_mpi *mpi, cvy_deadline deadline)
{
    comm *c = &mpi->base;
    comm_place mine = {.local_rank = 0};
    char name[MPI_MAX_PROCESSOR_NAME + 1] = "";
    int n_chars = 0;

    CVY_RETURN_IF_ERR(check(MPI_Get_processor_name(name, &n_chars), "MPI_Get_processor_name"));
    name[sizeof name - 1] = '\0';
    const size_t room = sizeof mine.host - 1, length = strlen(name);
    memcpy(mine.host, name, length < room ? length : room);
    CVY_RETURN_IF_ERR(comm_gather(c, &mine, sizeof mine, 0, c->places, deadline));
    CVY_RETURN_IF_ERR(comm_bcast(c, c->places, (size_t)c->size * sizeof *c->places, 0, deadline));
    comm_count_places(c->places, c->size);
    return CVY_OK;
}

/* Both channels of a seed, from a communicator of MPI that spans the world. */
static cvy_status open_channels(comm_mpi *seed, comm *waiter, MPI_Comm parent,
                                cvy_deadline deadline)
{
    for (int i = 0; i < COMM_N_CHANNELS; i++)
        CVY_RETURN_IF_ERR(duplicate(waiter, parent, deadline, &seed->channel[i]));
    return CVY_OK;
}

static const comm_mpi empty_seed = {
    .base = {.ops = &comm_transport_mpi},
    .channel = {MPI_COMM_NULL, MPI_COMM_NULL},
    .native = MPI_COMM_NULL,
};

/* The seed lives on the stack, so that a rank without memory can still tell the others. */
cvy_status comm_mpi_open(cvy_deadline deadline, comm **out_world)
{
    comm_mpi seed = empty_seed;
    comm *world = NULL;
    int is_initialized = 0;

    *out_world = NULL;
    CVY_RETURN_IF_ERR(check(MPI_Initialized(&is_initialized), "MPI_Initialized"));
    if (!is_initialized)
        return CVY_FAIL(CVY_ERR_INTERNAL, "the world was opened before MPI_Init_thread");
    CVY_RETURN_IF_ERR(check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN),
                            "MPI_Comm_set_errhandler"));
    CVY_RETURN_IF_ERR(check(MPI_Comm_rank(MPI_COMM_WORLD, &seed.base.rank), "MPI_Comm_rank"));
    CVY_RETURN_IF_ERR(check(MPI_Comm_size(MPI_COMM_WORLD, &seed.base.size), "MPI_Comm_size"));
    comm_sharpen_naps();

    CVY_RETURN_IF_ERR(open_channels(&seed, &seed.base, MPI_COMM_WORLD, deadline));
    comm_mpi *mpi = settle(&seed);
    cvy_status status = comm_agree(&seed.base, mpi != NULL ? CVY_OK : CVY_ERR_NO_MEMORY, deadline);
    if (status == CVY_OK) status = share_places(mpi, deadline);
    if (status == CVY_OK) {
        *out_world = &mpi->base;
        return CVY_OK;
    }
    if (mpi != NULL) {
        mpi->base.is_broken |= seed.base.is_broken;
        world = &mpi->base;
        comm_close(&world);
    } else if (!seed.base.is_broken) {
        free_channels(&seed);
    }
    return status;
}

static cvy_status mpi_group(comm *world, int first, int n, cvy_deadline deadline, comm **out)
{
    const comm_mpi *parent = mpi_of(world);
    const int is_member = world->rank >= first && world->rank < first + n;
    comm_mpi seed = empty_seed, *mpi = NULL;
    cvy_status status = CVY_OK;

    if (parent->is_group) return CVY_FAIL(CVY_ERR_INVALID_ARG, "a group is made of the world only");
    seed.is_group = 1;
    seed.base.rank = world->rank - first;
    seed.base.size = n;
    seed.first = first;
    CVY_RETURN_IF_ERR(open_channels(&seed, world, parent->channel[COMM_CHANNEL_DATA], deadline));
    if (is_member) {
        mpi = settle(&seed);
        if (mpi == NULL) status = CVY_ERR_NO_MEMORY;
    }
    status = comm_agree(world, status, deadline);
    if (mpi == NULL) {
        if (!world->is_broken) free_channels(&seed);
        return status;
    }
    memcpy(mpi->base.places, world->places + first, (size_t)n * sizeof *world->places);
    comm_count_places(mpi->base.places, n);
    mpi->base.is_broken = world->is_broken;
    *out = &mpi->base;
    if (status != CVY_OK) comm_close(out);
    return status;
}

const comm_ops comm_transport_mpi = {.name = "mpi",
                                     .close = mpi_close,
                                     .send = mpi_send,
                                     .receive = mpi_receive,
                                     .test = mpi_test,
                                     .cancel = mpi_cancel,
                                     .probe = mpi_probe,
                                     .take = mpi_take,
                                     .group = mpi_group,
                                     .native_open = mpi_native_open,
                                     .native_sum = mpi_native_sum};
