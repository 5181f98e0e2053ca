#include "launch/processes_internal.h"

#include "base/alloc.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct process {
    pid_t pid, parent;
    int is_zombie, is_below;
    char name[LAUNCH_NAME_BYTES];
} process;

/* "pid (name) state parent ...": the name may hold anything, so the last ')' counts. */
static int read_process(pid_t pid, process *out)
{
    char path[64], text[512];

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    const ssize_t n = read(fd, text, sizeof text - 1);
    (void)close(fd);
    if (n <= 0) return 0;
    text[n] = 0;
    const char *before = strchr(text, '('), *after = strrchr(text, ')');
    char state = 0;
    int parent = 0;
    if (before == NULL || after == NULL || sscanf(after + 1, " %c %d", &state, &parent) != 2)
        return 0;
    *out = (process){
        .pid = pid, .parent = (pid_t)parent, .is_zombie = state == 'Z' || state == 'X'};
    snprintf(out->name, sizeof out->name, "%.*s", (int)(after - before - 1), before + 1);
    return 1;
}

/* All processes that can be seen; *out is cvy_free()d by the caller. -1: there is no /proc, or no
 * memory. */
static int list_processes(process **out)
{
    DIR *folder = opendir("/proc");
    process *all = NULL;
    int n = 0, room = 0;

    *out = NULL;
    if (folder == NULL) return -1;
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        if (!isdigit((unsigned char)entry->d_name[0])) continue;
        if (n == room) {
            room = room > 0 ? 2 * room : 512;
            process *more = cvy_realloc(all, (size_t)room * sizeof *more);
            if (more == NULL) break;
            all = more;
        }
        n += read_process((pid_t)atoi(entry->d_name), &all[n]);
        *out = all;
    }
    (void)closedir(folder);
    if (*out != NULL) return n;
    cvy_free(all);
    return -1;
}

void launch_process_name(const char *path, char out[LAUNCH_NAME_BYTES])
{
    const char *slash = strrchr(path, '/');
    snprintf(out, LAUNCH_NAME_BYTES, "%s", slash != NULL ? slash + 1 : path);
}

int launch_count_children(pid_t pid, const char *name, int *out_n_ever)
{
    process *all = NULL;
    const int n = list_processes(&all);
    int n_living = 0;

    *out_n_ever = 0;
    if (n < 0) return -1;
    for (int i = 0; i < n; i++) {
        if (all[i].parent != pid || strcmp(all[i].name, name) != 0) continue;
        *out_n_ever += 1;
        n_living += !all[i].is_zombie;
    }
    cvy_free(all);
    return n_living;
}

/* The value of OMPI_COMM_WORLD_RANK in a process' environment; -1: none, or not ours to read. */
static int read_rank(pid_t pid)
{
    static const char variable[] = "OMPI_COMM_WORLD_RANK=";
    char path[64], *line = NULL;
    size_t room = 0;
    int rank = -1;

    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    FILE *file = fopen(path, "re");
    if (file == NULL) return -1;
    while (rank < 0 && getdelim(&line, &room, 0, file) > 0) {
        if (strncmp(line, variable, sizeof variable - 1) == 0)
            rank = atoi(line + sizeof variable - 1);
    }
    free(line); /* getdelim's */
    (void)fclose(file);
    return rank;
}

int launch_list_ranks(pid_t pid, const char *name, launch_rank_process *out, int max)
{
    process *all = NULL;
    const int n = list_processes(&all);
    int n_ranks = 0;

    for (int i = 0; i < n && n_ranks < max; i++) {
        if (all[i].parent != pid || all[i].is_zombie || strcmp(all[i].name, name) != 0) continue;
        const int rank = read_rank(all[i].pid);
        if (rank >= 0) out[n_ranks++] = (launch_rank_process){.pid = all[i].pid, .rank = rank};
    }
    cvy_free(all);
    return n_ranks;
}

/* Mark what descends from those that are marked, one generation. Returns how many came in. */
static int mark_children(process *all, int n, pid_t self)
{
    int n_marked = 0;

    for (int i = 0; i < n; i++) {
        if (all[i].is_below || all[i].pid == self) continue;
        for (int k = 0; k < n && !all[i].is_below; k++)
            all[i].is_below = all[k].pid == all[i].parent &&
                              (all[k].pid == self || all[k].is_below);
        n_marked += all[i].is_below;
    }
    return n_marked;
}

int launch_signal_descendants(int number)
{
    process *all = NULL;
    const int n = list_processes(&all);
    const pid_t self = getpid();
    int n_signalled = 0;

    if (n < 0) return 0;
    while (mark_children(all, n, self) > 0) {}
    for (int i = 0; i < n; i++) {
        if (all[i].is_below && !all[i].is_zombie && kill(all[i].pid, number) == 0) n_signalled++;
    }
    cvy_free(all);
    return n_signalled;
}

void launch_reap(void)
{
    while (waitpid(-1, NULL, WNOHANG) > 0) {}
}
