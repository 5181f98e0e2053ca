#include "base/alloc.h"
#include "base/file.h"
#include "launch/mpirun.h"
#include "tests/support/test_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char train[] = "train", job[] = "job.yaml";
static char *const args[] = {train, job, NULL};

/* A PATH that leads to an mpirun, or to none. */
static void set_path(int has_mpirun)
{
    char folder[512], file[600];

    snprintf(folder, sizeof folder, "%s/%s", test_folder(), has_mpirun ? "with" : "without");
    assert_ok(cvy_file_make_folders(folder));
    if (has_mpirun) {
        snprintf(file, sizeof file, "%s/mpirun", folder);
        assert_ok(cvy_file_replace(file, "#!/bin/sh\n", 10));
        assert_int_equal(chmod(file, 0755), 0);
    }
    assert_int_equal(setenv("PATH", folder, 1), 0);
}

static int find(char *const *argv, const char *word)
{
    for (int i = 0; argv[i] != NULL; i++)
        if (strcmp(argv[i], word) == 0) return i;
    return -1;
}

/* Value of "--mca NAME VALUE"; NULL without it. */
static const char *parameter(char *const *argv, const char *name)
{
    const int at = find(argv, name);
    return at > 0 && strcmp(argv[at - 1], "--mca") == 0 ? argv[at + 1] : NULL;
}

static int setup(void **state)
{
    static const char *const variables[] = {
        "SLURM_JOB_NODELIST",
        "PBS_NODEFILE",
        "LSB_HOSTS",
        "PE_HOSTFILE",
        "OMPI_MCA_orte_default_hostfile",
        "OMPI_MCA_btl",
        "OMPI_MCA_oob_tcp_if_include",
        "OMPI_COMM_WORLD_SIZE",
        "PMIX_RANK",
        "PMI_RANK",
    };

    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++)
        assert_int_equal(unsetenv(variables[i]), 0);
    set_path(1);
    return test_log_reset(state);
}

static void program_and_its_arguments_come_last(void **state)
{
    char **argv = NULL;

    (void)state;
    assert_ok(launch_mpirun_argv("/opt/convoy", args, 3, "--report-bindings  -x  FOO", &argv));
    assert_string_equal(argv[0], "mpirun");
    const int n_at = find(argv, "-n"), program_at = find(argv, "/opt/convoy");
    assert_true(n_at > 0 && program_at > n_at);
    assert_string_equal(argv[n_at + 1], "4"); /* and the coordinator */
    assert_string_equal(argv[program_at - 3], "--report-bindings");
    assert_string_equal(argv[program_at - 2], "-x");
    assert_string_equal(argv[program_at - 1], "FOO");
    assert_string_equal(argv[program_at + 1], "train");
    assert_string_equal(argv[program_at + 2], "job.yaml");
    assert_null(argv[program_at + 3]);
    launch_mpirun_free(&argv);
    assert_null(argv);
    launch_mpirun_free(&argv); /* nothing: nothing happens */
}

static void one_host_uses_no_network(void **state)
{
    char **argv = NULL;

    (void)state;
    assert_ok(launch_mpirun_argv("p", args, 1000000, NULL, &argv));
    assert_string_equal(parameter(argv, "btl"), "self,vader");
    assert_string_equal(parameter(argv, "oob_tcp_if_include"), "lo");
    assert_string_equal(parameter(argv, "oob_tcp_keepalive_time"), "2");
    assert_true(find(argv, "--oversubscribe") > 0); /* more ranks than any host's processors */
    launch_mpirun_free(&argv);
}

static void several_hosts_keep_the_network(void **state)
{
    static const char *const words[] = {"--hostfile hosts", "-H a:2,b:2",      "-x A -H a",
                                        "--host a,b",       "--machinefile m", "--rankfile r"};
    static const char *const variables[] = {"SLURM_JOB_NODELIST", "PBS_NODEFILE", "LSB_HOSTS",
                                            "PE_HOSTFILE", "OMPI_MCA_orte_default_hostfile"};
    char **argv = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        assert_ok(launch_mpirun_argv("p", args, 2, words[i], &argv));
        assert_null(parameter(argv, "btl"));
        assert_null(parameter(argv, "oob_tcp_if_include"));
        assert_int_equal(find(argv, "--oversubscribe"), -1);
        launch_mpirun_free(&argv);
    }
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        assert_int_equal(setenv(variables[i], "x", 1), 0);
        assert_ok(launch_mpirun_argv("p", args, 2, NULL, &argv));
        assert_null(parameter(argv, "btl"));
        launch_mpirun_free(&argv);
        assert_int_equal(unsetenv(variables[i]), 0);
    }
    assert_ok(launch_mpirun_argv("p", args, 2, "-x MY-HOME", &argv)); /* no list of hosts */
    assert_non_null(parameter(argv, "btl"));
    launch_mpirun_free(&argv);
}

static void setting_of_the_user_wins(void **state)
{
    char **argv = NULL;

    (void)state;
    assert_int_equal(setenv("OMPI_MCA_btl", "self,tcp", 1), 0);
    assert_ok(launch_mpirun_argv("p", args, 2, NULL, &argv));
    assert_null(parameter(argv, "btl"));
    launch_mpirun_free(&argv);
    assert_int_equal(unsetenv("OMPI_MCA_btl"), 0);
}

static void variables_of_convoy_are_passed_on(void **state)
{
    char **argv = NULL;

    (void)state;
    assert_int_equal(setenv("CONVOY_PROBE", "1", 1), 0);
    assert_int_equal(setenv("NOT_CONVOY_PROBE", "1", 1), 0);
    assert_ok(launch_mpirun_argv("p", args, 2, NULL, &argv));
    const int at = find(argv, "CONVOY_PROBE");
    assert_true(at > 0);
    assert_string_equal(argv[at - 1], "-x");
    assert_int_equal(find(argv, "NOT_CONVOY_PROBE"), -1);
    launch_mpirun_free(&argv);
    assert_int_equal(unsetenv("CONVOY_PROBE"), 0);
}

static void missing_mpirun_names_its_package(void **state)
{
    char **argv = NULL;

    (void)state;
    set_path(0);
    test_log_expect("apt-get install openmpi-bin");
    assert_status(launch_mpirun_argv("p", args, 2, NULL, &argv), CVY_ERR_UNAVAILABLE);
    assert_null(argv);
}

static void rank_is_known_by_its_environment(void **state)
{
    static const char *const variables[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};

    (void)state;
    assert_int_equal(launch_inside_mpi(), 0);
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        assert_int_equal(setenv(variables[i], "0", 1), 0);
        assert_int_equal(launch_inside_mpi(), 1);
        assert_int_equal(unsetenv(variables[i]), 0);
    }
}

static void failed_allocation_is_told_and_leaks_nothing(void **state)
{
    cvy_alloc_counts before, after;
    cvy_status status = CVY_ERR_NO_MEMORY;
    int n_failures = 0;

    (void)state;
    test_log_expect("arguments of mpirun");
    cvy_alloc_count(&before);
    for (int64_t k = 0; status != CVY_OK; k++) {
        char **argv = NULL;
        cvy_alloc_fail_at(k);
        status = launch_mpirun_argv("p", args, 2, "-x A", &argv);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) {
            n_failures++;
            assert_true(status == CVY_ERR_NO_MEMORY);
            assert_null(argv);
        }
        launch_mpirun_free(&argv);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
    assert_true(n_failures > 10);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, test_log_check)

static const struct CMUnitTest tests[] = {
    TEST(program_and_its_arguments_come_last), TEST(one_host_uses_no_network),
    TEST(several_hosts_keep_the_network),      TEST(setting_of_the_user_wins),
    TEST(variables_of_convoy_are_passed_on),   TEST(missing_mpirun_names_its_package),
    TEST(rank_is_known_by_its_environment),    TEST(failed_allocation_is_told_and_leaks_nothing),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
