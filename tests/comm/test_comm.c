#include "base/alloc.h"
#include "base/clock.h"
#include "comm/comm.h"
#include "tests/support/mpi_test.h"

#include <string.h>
#include <time.h>

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

static void world_knows_ranks_and_places(void **state)
{
    const int rank = comm_rank(world), size = comm_size(world);
    char name[MPI_MAX_PROCESSOR_NAME + 1] = "";
    int n_chars = 0, is_right = 1;
    (void)state;

    (void)MPI_Get_processor_name(name, &n_chars);
    assert_all_ranks(MPI_COMM_WORLD, rank == mpi_test_rank() && size == mpi_test_size());
    assert_all_ranks(MPI_COMM_WORLD, strncmp(comm_host(world, rank), name, 63) == 0);
    for (int i = 0; i < size; i++) { /* all are on one host in this test */
        is_right &= comm_local_rank(world, i) == i && comm_local_size(world, i) == size;
        is_right &= strcmp(comm_host(world, i), comm_host(world, rank)) == 0;
    }
    assert_all_ranks(MPI_COMM_WORLD, is_right);
    assert_all_ranks(MPI_COMM_WORLD, strcmp(comm_transport(world), "mpi") == 0);
}

static void group_has_ranks_and_collectives_of_its_own(void **state)
{
    const int rank = comm_rank(world), size = comm_size(world);
    (void)state;

    for (int first = 0; first < size; first++) {
        for (int n = 1; n <= size - first; n++) {
            const int is_member = rank >= first && rank < first + n;
            comm *group = NULL;
            int64_t most = rank;
            cvy_status status = comm_group(world, first, n, soon(), &group);
            int is_right = status == CVY_OK && (group != NULL) == is_member;
            if (group != NULL) {
                is_right &= comm_rank(group) == rank - first && comm_size(group) == n;
                is_right &= comm_local_rank(group, n - 1) == n - 1 &&
                            comm_local_size(group, 0) == n;
                status = comm_max_i64(group, &most, 1, soon());
                is_right &= status == CVY_OK && most == first + n - 1;
            }
            comm_close(&group);
            assert_all_ranks(MPI_COMM_WORLD, is_right);
        }
    }
}

static void group_outside_the_world_is_refused(void **state)
{
    comm *group = NULL;
    (void)state;

    test_log_expect("in a world of");
    const cvy_status status = comm_group(world, 0, comm_size(world) + 1, soon(), &group);
    assert_all_ranks(MPI_COMM_WORLD, status == CVY_ERR_INVALID_ARG && group == NULL);
}

static void broadcast_of_any_size_from_any_root_arrives(void **state)
{
    static const size_t sizes[] = {0, 1, 1000, 4u << 20, (9u << 20) + 7};
    const int rank = comm_rank(world), size = comm_size(world);
    unsigned char *bytes = cvy_alloc(sizes[4]);
    (void)state;

    assert_all_ranks(MPI_COMM_WORLD, bytes != NULL);
    for (int root = 0; root < size; root++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            int is_right = 1;
            for (size_t k = 0; k < sizes[i]; k++)
                bytes[k] = rank == root ? (unsigned char)(k * 7 + (size_t)root) : 0;
            is_right &= comm_bcast(world, bytes, sizes[i], root, soon()) == CVY_OK;
            for (size_t k = 0; k < sizes[i]; k++)
                is_right &= bytes[k] == (unsigned char)(k * 7 + (size_t)root);
            assert_all_ranks(MPI_COMM_WORLD, is_right);
        }
    }
    cvy_free(bytes);
}

static void broadcast_block_brings_its_size(void **state)
{
    static const char text[] = "a resolved job, say";
    const int rank = comm_rank(world), size = comm_size(world);
    (void)state;

    for (int root = 0; root < size; root++) {
        char copy[sizeof text];
        memcpy(copy, text, sizeof text);
        void *block = rank == root ? copy : NULL;
        size_t size_bytes = rank == root ? sizeof copy : 0;
        const cvy_status status = comm_bcast_block(world, &block, &size_bytes, root, soon());
        const int is_right = status == CVY_OK && size_bytes == sizeof text &&
                             memcmp(block, text, sizeof text) == 0;
        assert_all_ranks(MPI_COMM_WORLD, is_right && (block == copy) == (rank == root));
        if (rank != root) cvy_free(block);
    }
}

static void broadcast_block_without_memory_on_one_rank_fails_on_all(void **state)
{
    const int rank = comm_rank(world), size = comm_size(world);
    char text[] = "text";
    void *block = rank == 0 ? text : NULL;
    size_t size_bytes = rank == 0 ? sizeof text : 0;
    (void)state;

    if (size == 1) return; /* nobody but root */
    if (rank == size - 1) {
        test_log_expect("block of 5 bytes from rank 0");
        cvy_alloc_fail_at(0);
    }
    const cvy_status status = comm_bcast_block(world, &block, &size_bytes, 0, soon());
    cvy_alloc_fail_at(-1);
    assert_all_ranks(MPI_COMM_WORLD, status == CVY_ERR_NO_MEMORY);
    assert_all_ranks(MPI_COMM_WORLD, block == (rank == 0 ? text : NULL));
}

static void gather_keeps_rank_order(void **state)
{
    const int rank = comm_rank(world), size = comm_size(world);
    int64_t got[16][3];
    (void)state;

    for (int root = 0; root < size; root++) {
        const int64_t mine[3] = {rank, rank * rank, root};
        memset(got, 0xff, sizeof got);
        int is_right = comm_gather(world, mine, sizeof mine, root, rank == root ? got : NULL,
                                   soon()) == CVY_OK;
        for (int i = 0; i < size && rank == root; i++)
            is_right &= got[i][0] == i && got[i][1] == i * i && got[i][2] == root;
        assert_all_ranks(MPI_COMM_WORLD, is_right);
    }
}

static void maximum_is_taken_of_each_value(void **state)
{
    const int rank = comm_rank(world), size = comm_size(world);
    int64_t values[16];
    (void)state;

    for (int i = 0; i < 16; i++) values[i] = i % 2 ? -(rank + i) : (int64_t)(rank + i) << 40;
    const cvy_status status = comm_max_i64(world, values, 16, soon());
    int is_right = status == CVY_OK;
    for (int i = 0; i < 16; i++)
        is_right &= values[i] == (i % 2 ? -i : (int64_t)(size - 1 + i) << 40);
    assert_all_ranks(MPI_COMM_WORLD, is_right);
    test_log_expect("maximum of 17 values");
    assert_all_ranks(MPI_COMM_WORLD,
                     comm_max_i64(world, values, 17, soon()) == CVY_ERR_INVALID_ARG);
}

static void barrier_holds_until_the_last_rank_comes(void **state)
{
    const int last = comm_size(world) - 1;
    double came_s = 0;
    (void)state;

    if (comm_rank(world) == last) {
        cvy_clock_sleep_s(0.1);
        came_s = cvy_clock_now_s();
    }
    int is_right = comm_barrier(world, soon()) == CVY_OK;
    const double left_s = cvy_clock_now_s(); /* one host: one monotonic clock */
    is_right &= comm_bcast(world, &came_s, sizeof came_s, last, soon()) == CVY_OK;
    assert_all_ranks(MPI_COMM_WORLD, is_right && left_s >= came_s);
}

/* The ranks of a group wait for one that takes no part until they have given up. */
static void silent_rank_is_lost_within_the_deadline_and_a_second(void **state)
{
    const double deadline_s = 0.5;
    const int rank = comm_rank(world), size = comm_size(world), silent = size - 1;
    comm *group = NULL;
    (void)state;

    if (size == 1) return;
    const cvy_status made = comm_group(world, 0, size, soon(), &group);
    assert_all_ranks(MPI_COMM_WORLD, made == CVY_OK);
    int is_right = 1;
    if (rank != silent) {
        const double start_s = cvy_clock_now_s();
        const cvy_status status = comm_barrier(group, cvy_deadline_in_s(deadline_s));
        const double took_s = cvy_clock_now_s() - start_s;
        is_right = status == CVY_ERR_PEER_LOST && took_s >= deadline_s && took_s < deadline_s + 1;
    }
    assert_all_ranks(MPI_COMM_WORLD, is_right);
    comm_close(&group);
    assert_all_ranks(MPI_COMM_WORLD, comm_barrier(world, soon()) == CVY_OK);
}

static cvy_status count_then_stop(void *arg)
{
    int *n_left = arg;
    return --*n_left > 0 ? CVY_OK : CVY_ERR_STOPPED;
}

static void idle_function_is_called_and_its_error_ends_the_wait(void **state)
{
    const int rank = comm_rank(world), size = comm_size(world);
    comm *group = NULL;
    int n_left = 10, is_right = 1;
    unsigned char byte = 0;
    (void)state;

    if (size == 1) return;
    const cvy_status made = comm_group(world, 0, size, soon(), &group);
    assert_all_ranks(MPI_COMM_WORLD, made == CVY_OK);
    if (rank != 0) { /* root does not broadcast */
        comm_set_idle(group, count_then_stop, &n_left);
        is_right = comm_bcast(group, &byte, 1, 0, soon()) == CVY_ERR_STOPPED && n_left == 0;
    }
    assert_all_ranks(MPI_COMM_WORLD, is_right);
    comm_close(&group);
}

static void long_wait_costs_little_processor_time(void **state)
{
    const int is_late = comm_rank(world) == comm_size(world) - 1;
    struct timespec before, after;
    (void)state;

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    if (is_late) cvy_clock_sleep_s(0.5);
    const cvy_status status = comm_barrier(world, soon());
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    const double cpu_s = (double)(after.tv_sec - before.tv_sec) +
                         (double)(after.tv_nsec - before.tv_nsec) * 1e-9;
    /* Some 2 % when the machine is free; a wait that spins takes half a core or more. */
    assert_all_ranks(MPI_COMM_WORLD, status == CVY_OK && cpu_s < 0.15);
}

static void opening_without_memory_on_one_rank_fails_on_all(void **state)
{
    const int is_poor = comm_rank(world) == comm_size(world) - 1;
    cvy_alloc_counts before, after;
    int n_failed = 0;
    (void)state;

    cvy_alloc_count(&before);
    if (is_poor) test_log_expect("communicator of");
    for (int64_t k = 0;; k++) {
        comm *second = NULL, *group = NULL;
        if (is_poor) cvy_alloc_fail_at(k);
        cvy_status status = comm_mpi_open(soon(), &second);
        if (status == CVY_OK) status = comm_group(second, 0, comm_size(second), soon(), &group);
        cvy_alloc_fail_at(-1);
        comm_close(&group);
        comm_close(&second);
        if (status == CVY_OK) break;
        n_failed++;
        assert_all_ranks(MPI_COMM_WORLD, status == CVY_ERR_NO_MEMORY);
    }
    cvy_alloc_count(&after);
    assert_all_ranks(MPI_COMM_WORLD, n_failed == 4 && after.n_live == before.n_live);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(world_knows_ranks_and_places),
        cvy_unit_test(group_has_ranks_and_collectives_of_its_own),
        cvy_unit_test(group_outside_the_world_is_refused),
        cvy_unit_test(broadcast_of_any_size_from_any_root_arrives),
        cvy_unit_test(broadcast_block_brings_its_size),
        cvy_unit_test(broadcast_block_without_memory_on_one_rank_fails_on_all),
        cvy_unit_test(gather_keeps_rank_order),
        cvy_unit_test(maximum_is_taken_of_each_value),
        cvy_unit_test(barrier_holds_until_the_last_rank_comes),
        cvy_unit_test(silent_rank_is_lost_within_the_deadline_and_a_second),
        cvy_unit_test(idle_function_is_called_and_its_error_ends_the_wait),
        cvy_unit_test(long_wait_costs_little_processor_time),
        cvy_unit_test(opening_without_memory_on_one_rank_fails_on_all),
    };
    return cmocka_run_group_tests(tests, open_world, close_world);
}
