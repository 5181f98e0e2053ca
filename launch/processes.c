#include "launch/processes_internal.h"

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
    const char *after = strrchr(text, ')');
    char state = 0;
    int parent = 0;
    if (after == NULL || sscanf(after + 1, " %c %d", &state, &parent) != 2) return 0;
    if (state == 'Z' || state == 'X') return 0;
    *out = (process){.pid = pid, .parent = (pid_t)parent};
    return 1;
}

static int list_processes(process *out, int max)
{
    DIR *folder = opendir("/proc");
    int n = 0;

    if (folder == NULL) return -1;
    for (const struct dirent *entry = readdir(folder); entry != NULL && n < max;
         entry = readdir(folder)) {
        if (!isdigit((unsigned char)entry->d_name[0])) continue;
        n += read_process((pid_t)atoi(entry->d_name), &out[n]);
    }
    (void)closedir(folder);
    return n;
}

int launch_count_children(pid_t pid)
{
    static process all[LAUNCH_MAX_PROCESSES]; /* too large for a small stack; one thread calls */
    const int n = list_processes(all, LAUNCH_MAX_PROCESSES);
    int n_children = 0;

    if (n < 0) return -1;
    for (int i = 0; i < n; i++) n_children += all[i].parent == pid;
    return n_children;
}

int launch_signal_descendants(int number)
{
    static process all[LAUNCH_MAX_PROCESSES];
    static char is_below[LAUNCH_MAX_PROCESSES];
    const int n = list_processes(all, LAUNCH_MAX_PROCESSES);
    const pid_t self = getpid();
    int n_signalled = 0, has_grown = 1;

    if (n < 0) return 0;
    memset(is_below, 0, sizeof is_below);
    while (has_grown) {
        has_grown = 0;
        for (int i = 0; i < n; i++) {
            if (is_below[i] || all[i].pid == self) continue;
            int has_parent = all[i].parent == self;
            for (int k = 0; k < n && !has_parent; k++)
                has_parent = is_below[k] && all[k].pid == all[i].parent;
            if (!has_parent) continue;
            is_below[i] = 1;
            has_grown = 1;
        }
    }
    for (int i = 0; i < n; i++)
        if (is_below[i] && kill(all[i].pid, number) == 0) n_signalled++;
    return n_signalled;
}

void launch_reap(void)
{
    while (waitpid(-1, NULL, WNOHANG) > 0) {}
}
