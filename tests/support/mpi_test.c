#include "tests/support/mpi_test.h"

#include <stdio.h>

int mpi_test_open(void **state)
{
    int level = 0;

    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level) != MPI_SUCCESS) return -1;
    return test_log_open(state);
}

int mpi_test_close(void **state)
{
    const int status = test_log_close(state);
    return MPI_Finalize() == MPI_SUCCESS ? status : -1;
}

int mpi_test_rank(void)
{
    int rank = -1;
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

int mpi_test_size(void)
{
    int size = 0;
    (void)MPI_Comm_size(MPI_COMM_WORLD, &size);
    return size;
}

void mpi_test_assert(MPI_Comm mpi_comm, int is_true, const char *text, const char *file, int line)
{
    int rank = 0, size = 0, first_failed = 0;
    char message[512];

    (void)MPI_Comm_rank(mpi_comm, &rank);
    (void)MPI_Comm_size(mpi_comm, &size);
    const int mine = is_true ? size : rank;
    if (MPI_Allreduce(&mine, &first_failed, 1, MPI_INT, MPI_MIN, mpi_comm) != MPI_SUCCESS)
        first_failed = rank;
    if (first_failed == size) return;
    snprintf(message, sizeof message, "%s (rank %d of %d is the first where it is false)", text,
             first_failed, size);
    _assert_true(0, message, file, line);
}
