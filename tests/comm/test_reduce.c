#include "base/alloc.h"
#include "base/clock.h"
#include "comm/comm.h"
#include "comm/reduce.h"
#include "tests/support/mpi_test.h"

#include <math.h>
#include <string.h>

enum { MAX_REPLICAS = 13 };

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

/* Gradients of very different size, so that every order of adding gives other bits. */
static float gradient(int64_t step, int64_t replica, int64_t i)
{
    uint32_t x = (uint32_t)(step * 7919 + replica * 104729 + i * 1299709 + 1);
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    x *= 2654435761u;
    return ldexpf((float)(int32_t)x, -31 - (int)(x % 23));
}

/* node(level, idx) by its definition in reduce.h, of one element. */
static float node_sum(int64_t step, int level, int64_t idx, int64_t n_replicas, int64_t i)
{
    if (level == 0) return gradient(step, idx, i);
    const float left = node_sum(step, level - 1, 2 * idx, n_replicas, i);
    if ((2 * idx + 1) << (level - 1) >= n_replicas) return left;
    return left + node_sum(step, level - 1, 2 * idx + 1, n_replicas, i);
}

static float serial_sum(int64_t step, int64_t n_replicas, int64_t i)
{
    int level = 0;
    while (((int64_t)1 << level) < n_replicas) level++;
    return node_sum(step, level, 0, n_replicas, i);
}

/* One step as a worker does it, with gradients final from the end in uneven pieces. */
static cvy_status run_step(comm_reducer *r, comm *workers, const comm_reducer_options *options,
                           int64_t step)
{
    int64_t first = 0, n = 0;

    comm_replica_range(options->n_replicas, comm_size(workers), comm_rank(workers), &first, &n);
    for (int64_t replica = first; replica < first + n; replica++) {
        float *g = comm_reducer_begin(r, replica);
        int64_t from = options->n_elems;
        while (from > 0) {
            const int64_t next = from * 2 / 3 - (from % 3 == 0);
            const int64_t to = next > 0 ? next : 0;
            for (int64_t i = to; i < from; i++) g[i] = gradient(step, replica, i);
            from = to;
            CVY_RETURN_IF_ERR(comm_reducer_ready(r, from));
            CVY_RETURN_IF_ERR(comm_reducer_poll(r));
        }
    }
    return comm_reducer_finish(r, soon());
}

/* The own segments, and after the gather all, are the serial sum; tolerance 0: to the bit. */
static int sums_are_right(comm_reducer *r, comm *workers, const comm_reducer_options *options,
                          int64_t step, float *flat, float tolerance)
{
    int is_right = 1;

    for (int64_t i = 0; i < options->n_elems; i++) flat[i] = NAN;
    for (int bucket = 0; bucket < comm_reducer_n_buckets(r); bucket++) {
        int64_t offset = 0, n = 0;
        comm_reducer_segment(r, bucket, comm_rank(workers), &offset, &n);
        if (n > 0) memcpy(flat + offset, comm_reducer_sum(r, bucket), (size_t)n * sizeof *flat);
    }
    is_right &= comm_reducer_gather(r, flat, soon()) == CVY_OK;
    for (int64_t i = 0; i < options->n_elems; i++) {
        const float expected = serial_sum(step, options->n_replicas, i);
        if (tolerance > 0)
            is_right &= fabsf(flat[i] - expected) <= tolerance;
        else
            is_right &= memcmp(&flat[i], &expected, sizeof expected) == 0;
    }
    return is_right;
}

/* Some steps on the first n_workers ranks; 1 on the others. */
static int check(int n_workers, const comm_reducer_options *options, int n_steps, float tolerance)
{
    comm *workers = NULL;
    comm_reducer *r = NULL;
    float *flat = cvy_alloc((size_t)options->n_elems * sizeof *flat);
    int is_right = flat != NULL && comm_group(world, 0, n_workers, soon(), &workers) == CVY_OK;

    if (workers != NULL) {
        is_right &= comm_reducer_create(workers, options, soon(), &r) == CVY_OK;
        for (int64_t step = 0; step < n_steps && is_right; step++) {
            is_right &= run_step(r, workers, options, step) == CVY_OK;
            is_right &= sums_are_right(r, workers, options, step, flat, tolerance);
        }
    }
    comm_reducer_destroy(&r);
    comm_close(&workers);
    cvy_free(flat);
    return is_right;
}

static void any_number_of_workers_gives_the_bits_of_the_serial_sum(void **state)
{
    (void)state;
    for (int n_workers = 1; n_workers <= comm_size(world); n_workers++) {
        for (int64_t n_replicas = n_workers; n_replicas <= MAX_REPLICAS; n_replicas++) {
            const comm_reducer_options options = {
                .n_elems = 1003, .bucket_elems = 128, .n_replicas = n_replicas};
            assert_all_ranks(MPI_COMM_WORLD, check(n_workers, &options, 3, 0));
        }
    }
}

static void vectors_of_odd_sizes_are_summed(void **state)
{
    static const int64_t sizes[][2] = {{1, 1}, {15, 16}, {17, 16}, {33, 100}, {5000, 4999}};
    const int n_workers = comm_size(world);
    (void)state;

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const comm_reducer_options options = {
            .n_elems = sizes[i][0], .bucket_elems = sizes[i][1], .n_replicas = n_workers + 2};
        assert_all_ranks(MPI_COMM_WORLD, check(n_workers, &options, 2, 0));
    }
}

static void long_segments_are_summed(void **state)
{
    const comm_reducer_options options = {
        .n_elems = 700001, .bucket_elems = 1 << 18, .n_replicas = comm_size(world) + 1};
    (void)state;
    assert_all_ranks(MPI_COMM_WORLD, check(comm_size(world), &options, 2, 0));
}

static void native_sums_are_equal_within_rounding(void **state)
{
    (void)state;
    for (int n_workers = 1; n_workers <= comm_size(world); n_workers++) {
        const comm_reducer_options options = {.n_elems = 1003,
                                              .bucket_elems = 128,
                                              .n_replicas = n_workers + 3,
                                              .mode = COMM_REDUCE_NATIVE};
        /* Up to 8 addends below 1: a few units in the last place of their sum. */
        assert_all_ranks(MPI_COMM_WORLD, check(n_workers, &options, 3, 4e-6f));
    }
}

static void steps_do_not_allocate(void **state)
{
    const comm_reducer_options options = {
        .n_elems = 5000, .bucket_elems = 1024, .n_replicas = comm_size(world) + 2};
    cvy_alloc_counts before, after;
    comm_reducer *r = NULL;
    static float flat[5000];
    (void)state;

    int is_right = comm_reducer_create(world, &options, soon(), &r) == CVY_OK;
    assert_all_ranks(MPI_COMM_WORLD, is_right);
    cvy_alloc_count(&before);
    for (int64_t step = 0; step < 100 && is_right; step++) {
        is_right &= run_step(r, world, &options, step) == CVY_OK;
        is_right &= comm_reducer_gather(r, flat, soon()) == CVY_OK;
    }
    cvy_alloc_count(&after);
    assert_all_ranks(MPI_COMM_WORLD, is_right && after.n_ever == before.n_ever);
    comm_reducer_destroy(&r);
}

static void shards_are_collected_and_distributed(void **state)
{
    const comm_reducer_options options = {
        .n_elems = 5003, .bucket_elems = 1000, .n_replicas = comm_size(world)};
    const int rank = comm_rank(world), size = comm_size(world);
    comm_reducer *r = NULL;
    static float flat[5003], shard[5003], again[5003];
    (void)state;

    const cvy_status made = comm_reducer_create(world, &options, soon(), &r);
    assert_all_ranks(MPI_COMM_WORLD, made == CVY_OK);
    const int64_t n_own = comm_reducer_own_elems(r);
    for (int root = 0; root < size; root++) {
        int64_t at = 0;
        int is_right = 1;
        for (int bucket = 0; bucket < comm_reducer_n_buckets(r); bucket++) {
            int64_t offset = 0, n = 0;
            comm_reducer_segment(r, bucket, rank, &offset, &n);
            for (int64_t i = 0; i < n; i++) shard[at++] = (float)(offset + i + root);
        }
        is_right &= at == n_own;
        memset(flat, 0, sizeof flat);
        is_right &= comm_reducer_collect(r, shard, root, rank == root ? flat : NULL, soon()) ==
                    CVY_OK;
        for (int i = 0; i < 5003 && rank == root; i++) is_right &= flat[i] == (float)(i + root);
        memset(again, 0, sizeof again);
        is_right &= comm_reducer_distribute(r, rank == root ? flat : NULL, root, again, soon()) ==
                    CVY_OK;
        is_right &= memcmp(again, shard, (size_t)n_own * sizeof *shard) == 0;
        assert_all_ranks(MPI_COMM_WORLD, is_right);
    }
    comm_reducer_destroy(&r);
}

static void figures_tell_the_bytes_of_a_step(void **state)
{
    /* One node a worker and equal segments: reduce-scatter and all-gather send (W - 1) / W of the
     * vector each. */
    const int size = comm_size(world);
    const comm_reducer_options options = {
        .n_elems = 480 * size, .bucket_elems = 240 * size, .n_replicas = size};
    static float flat[480 * 16];
    comm_reducer *r = NULL;
    int64_t n_bytes = -1;
    double wait_s = -1;
    (void)state;

    int is_right = comm_reducer_create(world, &options, soon(), &r) == CVY_OK;
    assert_all_ranks(MPI_COMM_WORLD, is_right);
    for (int64_t step = 0; step < 2; step++) {
        is_right &= run_step(r, world, &options, step) == CVY_OK;
        is_right &= comm_reducer_gather(r, flat, soon()) == CVY_OK;
    }
    comm_reducer_figures(r, &n_bytes, &wait_s);
    assert_all_ranks(MPI_COMM_WORLD, is_right && wait_s >= 0);
    assert_all_ranks(MPI_COMM_WORLD, n_bytes == 2 * 480 * (size - 1) * (int64_t)sizeof(float));
    comm_reducer_destroy(&r);
}

static void different_options_are_refused_on_all(void **state)
{
    const comm_reducer_options options = {
        .n_elems = 100 + comm_rank(world), .bucket_elems = 64, .n_replicas = comm_size(world)};
    comm_reducer *r = NULL;
    (void)state;

    if (comm_size(world) == 1) return;
    test_log_expect("workers want different reductions");
    const cvy_status status = comm_reducer_create(world, &options, soon(), &r);
    assert_all_ranks(MPI_COMM_WORLD, status == CVY_ERR_INTERNAL && r == NULL);
}

static void creation_without_memory_on_one_rank_fails_on_all(void **state)
{
    const comm_reducer_options options = {
        .n_elems = 100, .bucket_elems = 64, .n_replicas = comm_size(world) + 3};
    const int is_poor = comm_rank(world) == comm_size(world) - 1;
    cvy_alloc_counts before, after;
    (void)state;

    cvy_alloc_count(&before);
    if (is_poor) test_log_expect("reduction of 100 floats");
    for (int64_t k = 0;; k++) {
        comm_reducer *r = NULL;
        if (is_poor) cvy_alloc_fail_at(k);
        const cvy_status status = comm_reducer_create(world, &options, soon(), &r);
        cvy_alloc_fail_at(-1);
        const int is_made = r != NULL;
        comm_reducer_destroy(&r);
        assert_all_ranks(MPI_COMM_WORLD, is_made == (status == CVY_OK));
        if (status == CVY_OK) break;
        assert_all_ranks(MPI_COMM_WORLD, status == CVY_ERR_NO_MEMORY);
    }
    cvy_alloc_count(&after);
    assert_all_ranks(MPI_COMM_WORLD, after.n_live == before.n_live);
}

/* The last rank takes no part in the step: the others give up in time, and what is still under way
 * may outlive the reducer. */
static void lost_worker_ends_the_reduction_at_the_deadline(void **state)
{
    const comm_reducer_options options = {
        .n_elems = 200000, .bucket_elems = 50000, .n_replicas = comm_size(world)};
    const int rank = comm_rank(world), size = comm_size(world);
    comm *workers = NULL;
    comm_reducer *r = NULL;
    (void)state;

    if (size == 1) return;
    cvy_status status = comm_group(world, 0, size, soon(), &workers);
    if (status == CVY_OK) status = comm_reducer_create(workers, &options, soon(), &r);
    assert_all_ranks(MPI_COMM_WORLD, status == CVY_OK);
    int is_right = 1;
    if (rank != size - 1) {
        float *g = comm_reducer_begin(r, rank);
        memset(g, 0, 200000 * sizeof *g);
        is_right &= comm_reducer_ready(r, 0) == CVY_OK;
        const double start_s = cvy_clock_now_s();
        is_right &= comm_reducer_finish(r, cvy_deadline_in_s(0.3)) == CVY_ERR_PEER_LOST;
        const double took_s = cvy_clock_now_s() - start_s;
        is_right &= took_s >= 0.3 && took_s < 1.3;
    }
    assert_all_ranks(MPI_COMM_WORLD, is_right);
    /* It comes back and takes what was sent to it, so that MPI can end in good order. */
    if (rank == size - 1) {
        float *g = comm_reducer_begin(r, rank);
        memset(g, 0, 200000 * sizeof *g);
        (void)comm_reducer_ready(r, 200000);
        for (int i = 0; i < 300; i++) {
            is_right &= comm_reducer_poll(r) == CVY_OK;
            cvy_clock_sleep_s(1e-3);
        }
    } else {
        cvy_clock_sleep_s(0.1);
    }
    assert_all_ranks(MPI_COMM_WORLD, is_right);
    comm_reducer_destroy(&r);
    comm_close(&workers);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(any_number_of_workers_gives_the_bits_of_the_serial_sum),
        cvy_unit_test(vectors_of_odd_sizes_are_summed),
        cvy_unit_test(long_segments_are_summed),
        cvy_unit_test(native_sums_are_equal_within_rounding),
        cvy_unit_test(steps_do_not_allocate),
        cvy_unit_test(shards_are_collected_and_distributed),
        cvy_unit_test(figures_tell_the_bytes_of_a_step),
        cvy_unit_test(different_options_are_refused_on_all),
        cvy_unit_test(creation_without_memory_on_one_rank_fails_on_all),
        cvy_unit_test(lost_worker_ends_the_reduction_at_the_deadline),
    };
    return cmocka_run_group_tests(tests, open_world, close_world);
}
