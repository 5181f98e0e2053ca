#include "base/clock.h"
#include "comm/comm.h"
#include "tests/support/mpi_test.h"

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

static void agree_without_failure_is_ok_on_every_rank(void **state)
{
    (void)state;
    const cvy_status got = comm_agree(world, CVY_OK, soon());
    assert_all_ranks(MPI_COMM_WORLD, got == CVY_OK);
}

static void agree_returns_the_status_of_the_one_that_failed(void **state)
{
    (void)state;
    for (int failed = 0; failed < comm_size(world); failed++) {
        const cvy_status mine = comm_rank(world) == failed ? CVY_ERR_IO : CVY_OK;
        const cvy_status got = comm_agree(world, mine, soon());
        assert_all_ranks(MPI_COMM_WORLD, got == CVY_ERR_IO);
    }
}

static void agree_returns_the_worst_status_on_every_rank(void **state)
{
    const int last = comm_size(world) - 1;
    (void)state;

    for (int worst = 0; worst <= last; worst++) {
        const cvy_status mine = comm_rank(world) == worst ? CVY_ERR_INTERNAL : CVY_ERR_NO_MEMORY;
        const cvy_status got = comm_agree(world, mine, soon());
        assert_all_ranks(MPI_COMM_WORLD, got == CVY_ERR_INTERNAL);
    }
}

static void agree_many_times_in_a_row_stays_in_step(void **state)
{
    int n_wrong = 0;
    (void)state;

    for (int i = 0; i < 500; i++) {
        const int is_failing = comm_rank(world) == i % comm_size(world);
        const cvy_status expected = i % 3 ? CVY_ERR_BAD_DATA : CVY_ERR_CONFIG;
        n_wrong += comm_agree(world, is_failing ? expected : CVY_OK, soon()) != expected;
    }
    assert_all_ranks(MPI_COMM_WORLD, n_wrong == 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(agree_without_failure_is_ok_on_every_rank),
        cvy_unit_test(agree_returns_the_status_of_the_one_that_failed),
        cvy_unit_test(agree_returns_the_worst_status_on_every_rank),
        cvy_unit_test(agree_many_times_in_a_row_stays_in_step),
    };
    return cmocka_run_group_tests(tests, open_world, close_world);
}
