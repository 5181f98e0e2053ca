#include "dataset/guard_internal.h"

#include "base/rng.h"
#include "tests/dataset/store_support.h"

#include <signal.h>
#include <sys/mman.h>

#define N_RECORDS 60

/* What children do with a dataset. */
typedef struct damage {
    const char *path;
    const char *file;
    long new_size;   /* -1: unlink it */
    int has_handler; /* somebody had one before */
} damage;

static int read_while_it_is_cut(void *arg)
{
    const damage *plan = arg;
    dataset_store *store = NULL;
    dataset_reader *reader = NULL;
    dataset_datum datum;

    if (dataset_store_open(plan->path, NULL, &store) != CVY_OK) return 90;
    if (dataset_reader_create(store, &reader) != CVY_OK) return 91;
    if (dataset_reader_get(reader, 0, &datum, NULL) != CVY_OK) return 92;
    if (plan->new_size < 0) {
        if (unlink(plan->file) != 0) return 93;
    } else if (truncate(plan->file, plan->new_size) != 0) {
        return 94;
    }
    for (int64_t i = 0; i < N_RECORDS; i++) {
        /* The page at the cut reads as zeros behind it: a bad record, by its hash. */
        const cvy_status status = dataset_reader_get(reader, i, &datum, NULL);
        if (status == CVY_OK ? !is_test_record(&datum, i) : plan->new_size < 0) return 95;
    }
    if (plan->new_size < 0 && dataset_store_recheck(store) != CVY_OK) return 96;
    dataset_reader_destroy(&reader);
    dataset_store_close(&store);
    return 0;
}

static void file_cut_while_open_ends_with_a_line_and_65(void **state)
{
    static const long sizes[] = {0, 4096, 8192, 60000};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const char *path = new_dataset_path();
        damage plan = {.path = path, .file = path_in(path, "data.mdb"), .new_size = sizes[i]};
        child_end end;
        make_dataset(path, N_RECORDS);
        run_child(read_while_it_is_cut, &plan, &end);
        assert_int_equal(end.exit_code, 65);
        assert_non_null(strstr(end.text, "convoy: "));
        assert_non_null(strstr(end.text, plan.file));
        assert_non_null(strstr(end.text, "the file was cut while it was open"));
    }
}

static void file_unlinked_while_open_is_read_on(void **state)
{
    const char *path = new_dataset_path();
    damage plan = {.path = path, .file = path_in(path, "data.mdb"), .new_size = -1};
    child_end end;

    (void)state;
    make_dataset(path, N_RECORDS);
    run_child(read_while_it_is_cut, &plan, &end);
    assert_int_equal(end.exit_code, 0);
}

static void recheck_sees_a_file_that_was_cut(void **state)
{
    const char *path = new_dataset_path();
    dataset_store *store = NULL;
    dataset_store *other = NULL;

    (void)state;
    make_dataset(path, N_RECORDS);
    open_quietly(path, &store);
    assert_int_equal(truncate(path_in(path, "data.mdb"), 50000), 0);
    test_log_expect("cut off: file has 50000 bytes");
    assert_status(dataset_store_recheck(store), CVY_ERR_BAD_DATA);
    assert_status(dataset_store_open(path, NULL, &other), CVY_ERR_BAD_DATA);
    dataset_store_close(&store);
}

static void on_foreign_fault(int signal_number)
{
    (void)signal_number;
    _exit(42);
}

static void touch_nothing(void)
{
    /* A page that may not be read: a fault that has nothing to do with a dataset. */
    const volatile char *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)*page;
}

static int fault_elsewhere(void *arg)
{
    const damage *plan = arg;
    dataset_store *store = NULL;

    signal(SIGSEGV, plan->has_handler ? on_foreign_fault : SIG_DFL);
    if (dataset_store_open(plan->path, NULL, &store) != CVY_OK) return 90;
    touch_nothing();
    return 91;
}

static int get_signal_from_outside(void *arg)
{
    dataset_store *store = NULL;

    signal(SIGBUS, SIG_DFL);
    if (dataset_store_open(arg, NULL, &store) != CVY_OK) return 90;
    raise(SIGBUS);
    return 91;
}

static void faults_elsewhere_go_where_they_went_before(void **state)
{
    const char *path = new_dataset_path();
    damage plan = {.path = path, .has_handler = 1};
    child_end end;

    (void)state;
    make_dataset(path, 3);
    run_child(fault_elsewhere, &plan, &end);
    assert_int_equal(end.exit_code, 42);
    plan.has_handler = 0;
    run_child(fault_elsewhere, &plan, &end);
    assert_int_equal(end.signal, SIGSEGV);
    run_child(get_signal_from_outside, (void *)(uintptr_t)path, &end);
    assert_int_equal(end.signal, SIGBUS);
}

static void handlers_are_put_back_after_the_last_store(void **state)
{
    const char *path = new_dataset_path();
    dataset_store *store = NULL;
    struct sigaction before;
    struct sigaction during;
    struct sigaction after;

    (void)state;
    make_dataset(path, 3);
    assert_int_equal(sigaction(SIGBUS, NULL, &before), 0);
    open_quietly(path, &store);
    assert_int_equal(sigaction(SIGBUS, NULL, &during), 0);
    dataset_store_close(&store);
    assert_int_equal(sigaction(SIGBUS, NULL, &after), 0);
    assert_true(during.sa_handler != before.sa_handler);
    assert_true(after.sa_handler == before.sa_handler);
}

/* A fault inside LMDB that is far from the map, and one of its assertions, cannot be had at will;
 * the line they lead to can. */
static int die_inside(void *arg)
{
    const int slot = dataset_guard_add(arg);

    dataset_guard_enter(slot);
    touch_nothing();
    return 91;
}

static void fault_of_a_reading_thread_names_its_dataset(void **state)
{
    child_end end;

    (void)state;
    run_child(die_inside, (char[]){"some/data.mdb"}, &end);
    assert_int_equal(end.exit_code, 65);
    assert_string_equal(end.text, "convoy: some/data.mdb: its pages are damaged; ending; "
                                  "copy it again, then 'convoy inspect' it (bad data)\n");
}

/* ---- 2,000 damaged bytes ---- */

#define N_FLIPS 2000

typedef struct flip {
    long offset;
    uint8_t mask;
} flip;

/* Shared with the children, which die now and then. */
typedef struct flip_state {
    const char *path;
    const char *file;
    int next; /* flip under test, or the next one */
    int n_good_reads, n_bad_reads, n_refused;
    int n_wrong; /* changed samples that were taken for good */
    flip flips[N_FLIPS];
} flip_state;

static void read_all(flip_state *shared)
{
    dataset_store *store = NULL;
    dataset_reader *reader = NULL;
    const dataset_store_options options = {.is_quiet = 1};

    if (dataset_store_open(shared->path, &options, &store) != CVY_OK) {
        shared->n_refused++;
        return;
    }
    if (dataset_reader_create(store, &reader) == CVY_OK) {
        for (int64_t i = 0; i < dataset_store_info(store)->n_records; i++) {
            dataset_datum datum;
            const cvy_status status = dataset_reader_get(reader, i, &datum, NULL);
            if (status != CVY_OK)
                shared->n_bad_reads++;
            else if (is_test_record(&datum, i))
                shared->n_good_reads++;
            else
                shared->n_wrong++;
        }
    }
    dataset_reader_destroy(&reader);
    dataset_store_close(&store);
}

static int work_off_flips(void *arg)
{
    flip_state *shared = arg;
    const int fd = open(shared->file, O_RDWR);

    for (; shared->next < N_FLIPS; shared->next++) {
        const flip *now = &shared->flips[shared->next];
        uint8_t byte = 0;
        if (pread(fd, &byte, 1, now->offset) != 1) return 90;
        const uint8_t damaged = byte ^ now->mask;
        if (pwrite(fd, &damaged, 1, now->offset) != 1) return 91;
        read_all(shared);
        if (pwrite(fd, &byte, 1, now->offset) != 1) return 92;
    }
    return 0;
}

static void make_flips(flip_state *shared)
{
    cvy_rng rng = cvy_rng_open(4, CVY_RNG_TEST, 0, 0);
    struct stat info;

    assert_int_equal(stat(shared->file, &info), 0);
    for (int i = 0; i < N_FLIPS; i++) {
        const uint32_t n_pages = (uint32_t)(info.st_size / 4096);
        /* Every second one into what LMDB itself reads: the head of a page and its offsets. */
        const long anywhere = (long)cvy_rng_below(&rng, (uint32_t)info.st_size);
        const long in_head = 4096L * cvy_rng_below(&rng, n_pages) + cvy_rng_below(&rng, 48);
        shared->flips[i].offset = i % 2 == 0 ? anywhere : in_head;
        shared->flips[i].mask = (uint8_t)(1 + cvy_rng_below(&rng, 255));
    }
}

/* Undo the flip under which a child died. */
static void undo_flip(const flip_state *shared, const uint8_t *original)
{
    const long offset = shared->flips[shared->next].offset;

    poke(shared->file, offset, original + offset, 1);
}

static void work_off_all(flip_state *shared, int *out_n_deaths)
{
    char *original = NULL;
    size_t size_bytes = 0;

    assert_ok(cvy_file_read(shared->file, (size_t)1 << 24, &original, &size_bytes, NULL));
    *out_n_deaths = 0;
    while (shared->next < N_FLIPS) {
        child_end end;
        run_child(work_off_flips, shared, &end);
        if (end.exit_code == 0) break;
        const flip *last = &shared->flips[shared->next];
        if (end.exit_code != 65 || strstr(end.text, "convoy: ") == NULL) {
            fail_msg("byte %ld ^ %02x: exit code %d, signal %d, %.500s", last->offset, last->mask,
                     end.exit_code, end.signal, end.text);
        }
        (*out_n_deaths)++;
        undo_flip(shared, (const uint8_t *)original);
        shared->next++;
    }
    cvy_free(original);
}

static void check_flips(int has_manifest)
{
    const char *path = new_dataset_path();
    int n_deaths = 0;
    flip_state *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(shared != MAP_FAILED);
    make_dataset(path, N_RECORDS);
    if (!has_manifest) assert_int_equal(unlink(path_in(path, "manifest.json")), 0);
    shared->path = path;
    shared->file = path_in(path, "data.mdb");
    make_flips(shared);
    work_off_all(shared, &n_deaths);
    print_message("%d good and %d bad reads, %d refused at open, %d ended with a line\n",
                  shared->n_good_reads, shared->n_bad_reads, shared->n_refused, n_deaths);
    assert_int_equal(shared->next, N_FLIPS);
    assert_true(shared->n_bad_reads > 500 && shared->n_refused > 5);
    assert_true(shared->n_good_reads > N_FLIPS * N_RECORDS / 2);
    /* Without a manifest nobody knows which record belongs where. */
    if (has_manifest) assert_int_equal(shared->n_wrong, 0);
    munmap(shared, sizeof *shared);
}

static void damaged_bytes_never_change_a_sample_nor_end_it_silently(void **state)
{
    (void)state;
    check_flips(1);
}

static void damaged_bytes_of_a_foreign_dataset_never_end_it_silently(void **state)
{
    (void)state;
    check_flips(0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(file_cut_while_open_ends_with_a_line_and_65),
        cvy_unit_test(file_unlinked_while_open_is_read_on),
        cvy_unit_test(recheck_sees_a_file_that_was_cut),
        cvy_unit_test(faults_elsewhere_go_where_they_went_before),
        cvy_unit_test(handlers_are_put_back_after_the_last_store),
        cvy_unit_test(fault_of_a_reading_thread_names_its_dataset),
        cvy_unit_test(damaged_bytes_never_change_a_sample_nor_end_it_silently),
        cvy_unit_test(damaged_bytes_of_a_foreign_dataset_never_end_it_silently),
    };

    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
