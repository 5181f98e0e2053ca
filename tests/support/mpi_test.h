#ifndef TESTS_SUPPORT_MPI_TEST_H
#define TESTS_SUPPORT_MPI_TEST_H

#include "tests/support/test_support.h"

#include <mpi.h>

/**
 * Tests that run on several ranks. The same tests run in the same order on all of them; the group
 * fixtures start and end MPI:
 *
 *     int main(void) { return cmocka_run_group_tests(tests, mpi_test_open, mpi_test_close); }
 *
 * A failed assertion leaves its test by longjmp on one rank alone, and the others would wait for it
 * in the next collective: so what may differ between ranks is asserted only by assert_all_ranks.
 */
int mpi_test_open(void **state);
int mpi_test_close(void **state);

int mpi_test_rank(void); /* in MPI_COMM_WORLD */
int mpi_test_size(void);

/** Fail on all ranks when the condition is false on any; says which. Collective over the MPI
 *  communicator. */
#define assert_all_ranks(mpi_comm, condition)                                                      \
    mpi_test_assert((mpi_comm), (condition), #condition, __FILE__, __LINE__)
void mpi_test_assert(MPI_Comm mpi_comm, int is_true, const char *text, const char *file, int line);

#endif
