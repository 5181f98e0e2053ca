#include "launch/processes_internal.h"
#include "tests/support/test_support.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Children that tell when they are ready and then wait to be ended. */

/* A child of this name; with_child: and one below it that leaves the process group. Returns when
 * all are there. */
static pid_t start_child(const char *name, int with_child)
{
    int ready[2];
    char byte = 0;

    assert_int_equal(pipe(ready), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)prctl(PR_SET_NAME, name);
        if (with_child && fork() == 0) (void)setsid();
        (void)!write(ready[1], "r", 1);
        for (;;) pause();
    }
    for (int i = 0; i < 1 + with_child; i++) assert_int_equal(read(ready[0], &byte, 1), 1);
    (void)close(ready[0]);
    (void)close(ready[1]);
    return child;
}

/* Until it has died; it stays unreaped. */
static void wait_for_zombie(pid_t pid)
{
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
}

static void name_is_the_last_part_and_cut(void **state)
{
    char name[LAUNCH_NAME_BYTES];

    (void)state;
    launch_process_name("/opt/bin/convoy", name);
    assert_string_equal(name, "convoy");
    launch_process_name("convoy", name);
    assert_string_equal(name, "convoy");
    launch_process_name("/opt/a-program-of-a-long-name", name);
    assert_string_equal(name, "a-program-of-a-");
}

static void ranks_are_told_by_their_environment(void **state)
{
    char program[] = "/bin/sleep", seconds[] = "60", rank[] = "OMPI_COMM_WORLD_RANK=3";
    char *argv[] = {program, seconds, NULL}, *environment[] = {rank, NULL}, *nothing[] = {NULL};
    const pid_t is_rank = fork();
    launch_rank_process found[4];
    int n = 0;

    (void)state;
    if (is_rank == 0) _exit(execve(program, argv, environment));
    const pid_t is_other = fork();
    if (is_other == 0) _exit(execve(program, argv, nothing));
    for (int tries = 0; tries < 500 && n == 0; tries++) { /* until both have become the program */
        int n_ever = 0;
        (void)usleep(10000);
        if (launch_count_children(getpid(), "sleep", &n_ever) == 2)
            n = launch_list_ranks(getpid(), "sleep", found, 4);
    }
    (void)kill(is_rank, SIGKILL);
    (void)kill(is_other, SIGKILL);
    assert_int_equal(waitpid(is_rank, NULL, 0), is_rank);
    assert_int_equal(waitpid(is_other, NULL, 0), is_other);
    assert_int_equal(n, 1);
    assert_int_equal(found[0].pid, is_rank);
    assert_int_equal(found[0].rank, 3);
}

static void children_are_counted_by_name(void **state)
{
    const pid_t one = start_child("rank) 1 (x", 0), other = start_child("ssh", 1);
    int n_ever = -1;

    (void)state;
    assert_int_equal(launch_count_children(getpid(), "rank) 1 (x", &n_ever), 1);
    assert_int_equal(n_ever, 1);
    /* The one below it is a grandchild. */
    assert_int_equal(launch_count_children(getpid(), "ssh", &n_ever), 1);
    assert_int_equal(launch_count_children(other, "ssh", &n_ever), 1);
    assert_int_equal(launch_count_children(getpid(), "rank", &n_ever), 0);
    assert_int_equal(n_ever, 0);
    assert_true(launch_signal_descendants(SIGKILL) >= 3);
    wait_for_zombie(one);
    wait_for_zombie(other);
    launch_reap();
}

static void dead_child_counts_as_gone_but_seen(void **state)
{
    const pid_t child = start_child("rank", 0);
    int n_ever = -1;

    (void)state;
    assert_int_equal(kill(child, SIGKILL), 0);
    wait_for_zombie(child);
    assert_int_equal(launch_count_children(getpid(), "rank", &n_ever), 0);
    assert_int_equal(n_ever, 1);
    assert_int_equal(launch_signal_descendants(SIGKILL), 0); /* nobody is left to hear it */
    launch_reap();
    assert_int_equal(launch_count_children(getpid(), "rank", &n_ever), 0);
    assert_int_equal(n_ever, 0);
}

static void descendants_of_all_generations_are_signalled(void **state)
{
    int status = 0;

    (void)state;
    /* An orphan comes to this process, which is then the one to end it. */
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    const pid_t child = start_child("mpirun", 1);
    assert_int_equal(launch_signal_descendants(0), 2);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(launch_signal_descendants(SIGTERM), 1);
    assert_true(waitpid(-1, &status, 0) > 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    assert_int_equal(launch_signal_descendants(0), 0);
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(name_is_the_last_part_and_cut),
    cvy_unit_test(ranks_are_told_by_their_environment),
    cvy_unit_test(children_are_counted_by_name),
    cvy_unit_test(dead_child_counts_as_gone_but_seen),
    cvy_unit_test(descendants_of_all_generations_are_signalled),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
