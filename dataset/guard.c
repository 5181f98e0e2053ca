#include "dataset/guard_internal.h"

#include "base/status.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define N_SLOTS 64
/* How far beyond the map a damaged offset of a page leads: offsets have 16 bits. */
#define REACH_BYTES ((uintptr_t)128 << 10)

typedef struct guard_slot {
    atomic_int is_used; /* the other members hold while it is 1 */
    atomic_uintptr_t start, end;
    char path[PATH_MAX];
} guard_slot;

/* Signal handlers belong to the process and get no argument: so does their table. */
static guard_slot slots[N_SLOTS];
static pthread_mutex_t guard_lock = PTHREAD_MUTEX_INITIALIZER;
static int n_used;
static struct sigaction old_bus;
static struct sigaction old_segv;

static _Thread_local volatile sig_atomic_t inside = -1; /* slot that this thread reads */
static _Thread_local int is_unblocked;

static size_t append(char *line, size_t capacity, size_t at, const char *text)
{
    while (*text != '\0' && at < capacity) line[at++] = *text++;
    return at;
}

CVY_NORETURN void dataset_guard_die(int slot, const char *what)
{
    char line[PATH_MAX + 512];
    size_t n_chars = append(line, sizeof line - 1, 0, "convoy: ");

    n_chars = append(line, sizeof line - 1, n_chars, slots[slot].path);
    n_chars = append(line, sizeof line - 1, n_chars, ": ");
    n_chars = append(line, sizeof line - 1, n_chars, what);
    n_chars = append(line, sizeof line - 1, n_chars, " (");
    n_chars = append(line, sizeof line - 1, n_chars, cvy_status_text(CVY_ERR_BAD_DATA));
    n_chars = append(line, sizeof line - 1, n_chars, ")");
    line[n_chars++] = '\n';
    /* Nothing can be done about a standard error that takes no line. */
    const ssize_t n_written = write(STDERR_FILENO, line, n_chars);
    (void)n_written;
    _exit(cvy_status_exit_code(CVY_ERR_BAD_DATA));
}

/* The watched dataset that a fault belongs to; -1: none. */
static int find_slot(const siginfo_t *info)
{
    const uintptr_t address = (uintptr_t)info->si_addr;

    if (info->si_code <= 0) return -1; /* sent by kill(2), not by the processor */
    for (int i = 0; i < N_SLOTS; i++) {
        if (atomic_load(&slots[i].is_used) == 0) continue;
        if (address >= atomic_load(&slots[i].start) && address < atomic_load(&slots[i].end)) {
            return i;
        }
    }
    return (int)inside;
}

/* Let the fault happen as if convoy had no handler. */
static void pass_on(int signal_number, siginfo_t *info, void *context)
{
    const struct sigaction *old = signal_number == SIGBUS ? &old_bus : &old_segv;

    if ((old->sa_flags & SA_SIGINFO) != 0) {
        old->sa_sigaction(signal_number, info, context);
        return;
    }
    if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
        old->sa_handler(signal_number);
        return;
    }
    signal(signal_number, SIG_DFL);
    /* A fault comes again when the handler returns; a signal that was sent does not. */
    if (info->si_code <= 0) (void)raise(signal_number);
}

static void on_fault(int signal_number, siginfo_t *info, void *context)
{
    const int slot = find_slot(info);

    if (slot >= 0) {
        dataset_guard_die(slot, signal_number == SIGBUS
                                    ? "a page cannot be read: the file was cut while it was open, "
                                      "or its disk fails; ending"
                                    : "its pages are damaged; ending; copy it again, then "
                                      "'convoy inspect' it");
    }
    pass_on(signal_number, info, context);
}

static void install(void)
{
    struct sigaction action = {0};

    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    const int bus_rc = sigaction(SIGBUS, &action, &old_bus);
    const int segv_rc = sigaction(SIGSEGV, &action, &old_segv);
    CVY_ASSERT(bus_rc == 0 && segv_rc == 0);
}

/* Put the old handler back, unless somebody has put a third one over ours since. */
static void restore(int signal_number, const struct sigaction *old)
{
    struct sigaction now;

    if (sigaction(signal_number, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) != 0 &&
        now.sa_sigaction == on_fault) {
        (void)sigaction(signal_number, old, NULL);
    }
}

int dataset_guard_add(const char *path)
{
    int slot = -1;

    pthread_mutex_lock(&guard_lock);
    for (int i = 0; i < N_SLOTS && slot < 0; i++) {
        if (atomic_load(&slots[i].is_used) == 0) slot = i;
    }
    if (slot >= 0) {
        guard_slot *free_slot = &slots[slot];
        atomic_store(&free_slot->start, 0);
        atomic_store(&free_slot->end, 0);
        free_slot->path[append(free_slot->path, sizeof free_slot->path - 1, 0, path)] = '\0';
        atomic_store(&free_slot->is_used, 1);
        if (n_used++ == 0) install();
    }
    pthread_mutex_unlock(&guard_lock);
    return slot;
}

void dataset_guard_set_map(int slot, const void *start, size_t size_bytes)
{
    if (start == NULL) return;
    atomic_store(&slots[slot].start, (uintptr_t)start);
    atomic_store(&slots[slot].end, (uintptr_t)start + size_bytes + REACH_BYTES);
}

void dataset_guard_remove(int slot)
{
    pthread_mutex_lock(&guard_lock);
    atomic_store(&slots[slot].is_used, 0);
    if (--n_used == 0) {
        restore(SIGBUS, &old_bus);
        restore(SIGSEGV, &old_segv);
    }
    pthread_mutex_unlock(&guard_lock);
}

void dataset_guard_enter(int slot)
{
    if (!is_unblocked) {
        /* A fault of a thread that blocks the signal ends the process without a word. */
        sigset_t faults;
        sigemptyset(&faults);
        sigaddset(&faults, SIGBUS);
        sigaddset(&faults, SIGSEGV);
        pthread_sigmask(SIG_UNBLOCK, &faults, NULL);
        is_unblocked = 1;
    }
    inside = slot;
    atomic_signal_fence(memory_order_seq_cst);
}

void dataset_guard_leave(void)
{
    atomic_signal_fence(memory_order_seq_cst);
    inside = -1;
}
