#include "launch/mpirun.h"

#include "base/alloc.h"

#include <ctype.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

int launch_inside_mpi(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") != NULL || getenv("PMIX_RANK") != NULL ||
           getenv("PMI_RANK") != NULL;
}

/* A list of words that grows; the first failure sticks. */
typedef struct words {
    char **word;
    int n, capacity;
    int has_failed;
} words;

static void add(words *w, const char *text)
{
    if (w->has_failed) return;
    if (w->n + 2 > w->capacity) {
        const int capacity = w->capacity > 0 ? 2 * w->capacity : 64;
        char **word = cvy_realloc(w->word, (size_t)capacity * sizeof *word);
        if (word == NULL) {
            w->has_failed = 1;
            return;
        }
        w->word = word;
        w->capacity = capacity;
    }
    w->word[w->n] = cvy_strdup(text);
    w->has_failed = w->word[w->n] == NULL;
    w->n += !w->has_failed;
    w->word[w->n] = NULL;
}

/* An MCA parameter, unless the user has set it. */
static void add_parameter(words *w, const char *name, const char *value)
{
    char variable[128];

    snprintf(variable, sizeof variable, "OMPI_MCA_%s", name);
    if (getenv(variable) != NULL) return;
    add(w, "--mca");
    add(w, name);
    add(w, value);
}

/* Hosts beside this one take part: by a batch system, or by the user's own arguments for mpirun
 * ("-H", "--host", "--hostfile", "--default-hostfile", "--machinefile", "--rankfile", ...). */
static int spans_hosts(const char *user_args)
{
    static const char *const variables[] = {"SLURM_JOB_NODELIST", "PBS_NODEFILE", "LSB_HOSTS",
                                            "PE_HOSTFILE", "OMPI_MCA_orte_default_hostfile"};
    static const char *const parts[] = {"host", "machinefile", "rankfile"};

    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++)
        if (getenv(variables[i]) != NULL) return 1;
    if (user_args == NULL) return 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (strstr(user_args, parts[i]) != NULL) return 1;
    const char *at = strstr(user_args, "-H");
    return at != NULL && (at == user_args || isspace((unsigned char)at[-1]));
}

static void add_user_args(words *w, const char *user_args)
{
    char *copy = cvy_strdup(user_args);
    char *rest = NULL;

    if (copy == NULL) {
        w->has_failed = 1;
        return;
    }
    for (char *word = strtok_r(copy, " \t\n", &rest); word != NULL;
         word = strtok_r(NULL, " \t\n", &rest)) {
        add(w, word);
    }
    cvy_free(copy);
}

static void add_variables(words *w)
{
    static const char *const prefixes[] = {"CONVOY_", "OPENBLAS_"};

    for (char **variable = environ; *variable != NULL; variable++) {
        const char *equals = strchr(*variable, '=');
        char name[128];
        for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
            if (equals == NULL || strncmp(*variable, prefixes[i], strlen(prefixes[i])) != 0)
                continue;
            snprintf(name, sizeof name, "%.*s", (int)(equals - *variable), *variable);
            add(w, "-x");
            add(w, name);
        }
    }
}

static cvy_status check_mpirun(void)
{
    const char *path = getenv("PATH");
    char *copy = cvy_strdup(path != NULL ? path : "/usr/bin:/bin");
    char *rest = NULL, file[4096];
    int has = 0;

    if (copy == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "arguments of mpirun");
    for (char *folder = strtok_r(copy, ":", &rest); folder != NULL && !has;
         folder = strtok_r(NULL, ":", &rest)) {
        snprintf(file, sizeof file, "%s/mpirun", folder);
        has = access(file, X_OK) == 0;
    }
    cvy_free(copy);
    if (has) return CVY_OK;
    return CVY_FAIL(CVY_ERR_UNAVAILABLE,
                    "mpirun is not in PATH: apt-get install openmpi-bin, or leave out --workers "
                    "to run as one process");
}

cvy_status launch_mpirun_argv(const char *program, char *const *args, int n_workers,
                              const char *user_args, char ***out_argv)
{
    words w = {NULL, 0, 0, 0};
    char count[16];
    cpu_set_t set;
    const int is_spread = spans_hosts(user_args);

    *out_argv = NULL;
    CVY_RETURN_IF_ERR(check_mpirun());
    snprintf(count, sizeof count, "%d", n_workers + 1);
    add(&w, "mpirun");
    add(&w, "--quiet");
    add(&w, "-n");
    add(&w, count);
    add(&w, "--bind-to"); /* a worker's threads share its processors */
    add(&w, "none");
    const int n_processors = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    if (!is_spread && n_processors < n_workers + 1) add(&w, "--oversubscribe");
    if (geteuid() == 0) add(&w, "--allow-run-as-root");
    add_parameter(&w, "mpi_yield_when_idle", "1");
    /* A signal to mpirun is a polite stop: the step that runs, and the save, need their time. */
    add_parameter(&w, "odls_base_sigkill_timeout", "20");
    /* A host that is cut off is noticed in seconds, not in minutes. */
    add_parameter(&w, "oob_tcp_keepalive_time", "2");
    add_parameter(&w, "oob_tcp_keepalive_intvl", "1");
    add_parameter(&w, "oob_tcp_keepalive_probes", "3");
    if (!is_spread) { /* one host: no stray network interface may matter */
        add_parameter(&w, "btl", "self,vader");
        add_parameter(&w, "oob_tcp_if_include", "lo");
    }
    add_variables(&w);
    if (user_args != NULL) add_user_args(&w, user_args);
    add(&w, program);
    for (int i = 0; args[i] != NULL; i++) add(&w, args[i]);
    if (w.has_failed) {
        launch_mpirun_free(&w.word);
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "arguments of mpirun");
    }
    *out_argv = w.word;
    return CVY_OK;
}

void launch_mpirun_free(char ***argv)
{
    if (*argv == NULL) return;
    for (int i = 0; (*argv)[i] != NULL; i++) cvy_free((*argv)[i]);
    cvy_free(*argv);
    *argv = NULL;
}
