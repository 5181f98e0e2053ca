#include "base/alloc.h"
#include "base/clock.h"
#include "comm/comm.h"
#include "comm/protocol.h"
#include "tests/support/mpi_test.h"

#include <string.h>

static comm *world;

static cvy_deadline soon(void)
{
    return cvy_deadline_in_s(30);
}

static int open_world(void **state)
{
    if (mpi_test_open(state) != 0) return -1;
    return comm_mpi_open(soon(), &world) == CVY_OK ? 0 : -1;
}

static int close_world(void **state)
{
    comm_close(&world);
    return mpi_test_close(state);
}

/* The next message; a status instead of a wait without end. */
static cvy_status receive(comm_message *out)
{
    const cvy_deadline deadline = soon();
    int has = 0;

    for (int n_tries = 0;; n_tries++) {
        CVY_RETURN_IF_ERR(comm_receive(world, out, &has));
        if (has) return CVY_OK;
        if (cvy_deadline_is_past(deadline)) return CVY_ERR_PEER_LOST;
        if (n_tries > 100) cvy_clock_sleep_s(50e-6);
    }
}

static void messages_keep_order_per_pair(void **state)
{
    enum { N = 50, MAX_RANKS = 16 };
    const int rank = comm_rank(world), size = comm_size(world);
    int next[MAX_RANKS] = {0}, is_right = 1;
    (void)state;

    /* Sizes around what goes at once and what needs a handshake; to all, itself included. */
    static int payload[4000];
    for (int i = 0; i < N; i++) {
        payload[0] = i;
        const size_t size_bytes = i % 3 == 0 ? sizeof payload : sizeof(int) * (size_t)(i % 3);
        for (int dest = 0; dest < size; dest++)
            is_right &= comm_send(world, dest, 10 + rank, payload, size_bytes) == CVY_OK;
    }
    for (int n = 0; n < N * size && is_right; n++) {
        comm_message got;
        is_right &= receive(&got) == CVY_OK;
        if (!is_right) break;
        const int i = next[got.source]++;
        is_right &= got.kind == 10 + got.source && *(const int *)got.payload == i;
        is_right &= got.size_bytes == (i % 3 == 0 ? sizeof payload : sizeof(int) * (size_t)(i % 3));
    }
    is_right &= comm_flush(world, soon()) == CVY_OK;
    assert_all_ranks(MPI_COMM_WORLD, is_right);
}

static void ten_thousand_small_messages_arrive(void **state)
{
    enum { N = 10000 };
    const int rank = comm_rank(world), size = comm_size(world);
    int is_right = 1;
    (void)state;

    if (rank > 0) {
        for (int i = 0; i < N; i++) is_right &= COMM_SEND(world, 0, COMM_METRICS, i) == CVY_OK;
        is_right &= comm_flush(world, soon()) == CVY_OK;
    } else {
        int next[16] = {0};
        for (int n = 0; n < N * (size - 1) && is_right; n++) {
            comm_message got;
            is_right &= receive(&got) == CVY_OK;
            if (is_right) is_right &= *(const int *)got.payload == next[got.source]++;
        }
    }
    assert_all_ranks(MPI_COMM_WORLD, is_right);
}

static void empty_message_arrives(void **state)
{
    const int rank = comm_rank(world), size = comm_size(world);
    comm_message got = {.size_bytes = 1};
    (void)state;

    int is_right = comm_send(world, (rank + 1) % size, COMM_PAUSE, NULL, 0) == CVY_OK;
    is_right &= receive(&got) == CVY_OK && got.kind == COMM_PAUSE && got.size_bytes == 0;
    is_right &= got.source == (rank + size - 1) % size;
    assert_all_ranks(MPI_COMM_WORLD, is_right);
}

static void message_of_64_mib_arrives(void **state)
{
    const size_t n = COMM_MESSAGE_LIMIT_BYTES / sizeof(uint32_t);
    const int rank = comm_rank(world), last = comm_size(world) - 1;
    int is_right = 1;
    (void)state;

    if (rank == last) {
        uint32_t *values = cvy_alloc(n * sizeof *values);
        is_right = values != NULL;
        for (size_t i = 0; i < n && is_right; i++) values[i] = (uint32_t)i * 2654435761u;
        is_right = is_right &&
                   comm_send(world, 0, COMM_RESULTS, values, COMM_MESSAGE_LIMIT_BYTES) == CVY_OK;
        cvy_free(values); /* it was copied */
        test_log_expect("message 1 of 67108865 bytes");
        is_right &= comm_send(world, 0, 1, NULL, COMM_MESSAGE_LIMIT_BYTES + 1) ==
                    CVY_ERR_INVALID_ARG;
        if (last != 0) is_right &= comm_flush(world, soon()) == CVY_OK;
    }
    if (rank == 0) {
        comm_message got;
        is_right &= receive(&got) == CVY_OK;
        is_right = is_right && got.size_bytes == COMM_MESSAGE_LIMIT_BYTES && got.source == last;
        const uint32_t *values = got.payload;
        for (size_t i = 0; i < n && is_right; i++)
            is_right = values[i] == (uint32_t)i * 2654435761u;
    }
    assert_all_ranks(MPI_COMM_WORLD, is_right);
}

static void too_much_unsent_is_refused_and_nothing_is_lost(void **state)
{
    const size_t size_bytes = COMM_MESSAGE_LIMIT_BYTES / 2;
    const int rank = comm_rank(world);
    int n_sent = 0, is_right = 1;
    (void)state;

    if (comm_size(world) == 1) return;
    if (rank == 0) {
        void *block = cvy_alloc_zero(1, size_bytes);
        test_log_expect("bytes are not sent yet");
        while (is_right && comm_send(world, 1, COMM_RESULTS, block, size_bytes) == CVY_OK)
            is_right = ++n_sent < 9;
        cvy_free(block);
        is_right &= n_sent > 4;
    }
    is_right &= comm_bcast(world, &n_sent, sizeof n_sent, 0, soon()) == CVY_OK;
    assert_all_ranks(MPI_COMM_WORLD, is_right);
    for (int i = 0; i < n_sent && rank == 1 && is_right; i++) {
        comm_message got;
        is_right = receive(&got) == CVY_OK && got.size_bytes == size_bytes;
    }
    if (rank == 0) is_right &= comm_flush(world, soon()) == CVY_OK;
    /* There is room again. */
    if (rank == 0) is_right &= comm_send(world, 1, COMM_PAUSE, NULL, 0) == CVY_OK;
    if (rank == 1) {
        comm_message got;
        is_right &= receive(&got) == CVY_OK && got.kind == COMM_PAUSE;
    }
    assert_all_ranks(MPI_COMM_WORLD, is_right);
}

static void heartbeats_do_not_allocate_once_warm(void **state)
{
    const comm_heartbeat beat = {.phase = COMM_PHASE_FORWARD};
    const comm_metrics metrics = {.step = 3};
    cvy_alloc_counts before = {0}, after;
    comm *used = world; /* its pools are full of what other tests sent */
    (void)state;

    int is_right = comm_mpi_open(soon(), &world) == CVY_OK;
    const int rank = comm_rank(world), size = comm_size(world);
    for (int i = 0; i < 200 && is_right; i++) {
        if (i == 10) cvy_alloc_count(&before);
        if (rank > 0) {
            is_right &= COMM_SEND(world, 0, COMM_HEARTBEAT, beat) == CVY_OK;
            is_right &= COMM_SEND(world, 0, COMM_METRICS, metrics) == CVY_OK;
        }
        for (int n = 0; rank == 0 && n < 2 * (size - 1) && is_right; n++) {
            comm_message got;
            is_right = receive(&got) == CVY_OK;
        }
        is_right &= comm_barrier(world, soon()) == CVY_OK;
    }
    cvy_alloc_count(&after);
    comm_close(&world);
    world = used;
    assert_all_ranks(MPI_COMM_WORLD, is_right && after.n_ever == before.n_ever);
}

static cvy_status send_beat(void *arg)
{
    int *n_beats = arg;
    const comm_heartbeat beat = {.step = (*n_beats)++};
    return COMM_SEND(world, 0, COMM_HEARTBEAT, beat);
}

/* As a worker does that waits in the reduction: messages of another communicator go on. */
static void messages_are_sent_while_a_group_waits(void **state)
{
    const int rank = comm_rank(world), size = comm_size(world);
    comm *workers = NULL;
    int n_beats = 0, is_right = 1, n_heard = 0;
    (void)state;

    if (size < 3) return; /* a coordinator and two workers at least */
    const cvy_status made = comm_group(world, 1, size - 1, soon(), &workers);
    assert_all_ranks(MPI_COMM_WORLD, made == CVY_OK);
    if (workers != NULL) {
        comm_set_idle(workers, send_beat, &n_beats);
        if (rank == size - 1) cvy_clock_sleep_s(0.05);
        is_right &= comm_barrier(workers, soon()) == CVY_OK;
        is_right &= rank == size - 1 || n_beats > 0;
        is_right &= comm_send(world, 0, COMM_TRAINED, NULL, 0) == CVY_OK;
    }
    for (int n_done = 0; rank == 0 && n_done < size - 1 && is_right;) {
        comm_message got;
        is_right = receive(&got) == CVY_OK;
        n_done += is_right && got.kind == COMM_TRAINED;
        n_heard += is_right && got.kind == COMM_HEARTBEAT;
    }
    assert_all_ranks(MPI_COMM_WORLD, is_right && (rank > 0 || n_heard > 0));
    comm_close(&workers);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(messages_keep_order_per_pair),
        cvy_unit_test(ten_thousand_small_messages_arrive),
        cvy_unit_test(empty_message_arrives),
        cvy_unit_test(message_of_64_mib_arrives),
        cvy_unit_test(too_much_unsent_is_refused_and_nothing_is_lost),
        cvy_unit_test(heartbeats_do_not_allocate_once_warm),
        cvy_unit_test(messages_are_sent_while_a_group_waits),
    };
    return cmocka_run_group_tests(tests, open_world, close_world);
}
