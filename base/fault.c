#include "base/fault.h"

#include "base/clock.h"
#include "base/compiler.h"
#include "base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FAULTS      16
#define MAX_POINT_BYTES 48

typedef enum fault_deed {
    DEED_NAN,
    DEED_FLIP,
    DEED_ERRNO,
    DEED_KILL,
    DEED_STOP,
    DEED_EXIT,
    DEED_SEGV,
    DEED_HANG
} fault_deed;

typedef struct fault_word {
    const char *text;
    fault_deed deed;
    int errno_value;
} fault_word;

static const fault_word fault_words[] = {
    {"kill", DEED_KILL, 0},         {"stop", DEED_STOP, 0},
    {"exit", DEED_EXIT, 0},         {"segv", DEED_SEGV, 0},
    {"hang", DEED_HANG, 0},         {"nan", DEED_NAN, 0},
    {"flip", DEED_FLIP, 0},         {"eio", DEED_ERRNO, EIO},
    {"enospc", DEED_ERRNO, ENOSPC}, {"edquot", DEED_ERRNO, EDQUOT},
    {"erofs", DEED_ERRNO, EROFS},   {"efbig", DEED_ERRNO, EFBIG},
    {"eacces", DEED_ERRNO, EACCES}, {"eperm", DEED_ERRNO, EPERM},
    {"enoent", DEED_ERRNO, ENOENT}, {"enomem", DEED_ERRNO, ENOMEM},
    {"emfile", DEED_ERRNO, EMFILE}, {"enfile", DEED_ERRNO, ENFILE},
    {"eagain", DEED_ERRNO, EAGAIN}, {"eintr", DEED_ERRNO, EINTR},
    {"estale", DEED_ERRNO, ESTALE}, {"etimedout", DEED_ERRNO, ETIMEDOUT},
};

typedef struct fault_entry {
    char point[MAX_POINT_BYTES];
    int64_t step;  /* -1: any */
    int64_t count; /* fires the count-th time */
    const fault_word *word;
    _Atomic int64_t n_passed;
} fault_entry;

/* Written by cvy_fault_open() before other threads exist, then only read, but for n_passed. */
static fault_entry fault_entries[MAX_FAULTS];
static atomic_int n_faults;
static int fault_rank = -1;

/* One entry as text is taken apart here; -1 means "any". */
typedef struct fault_terms {
    int64_t rank;
    int64_t step;
    int64_t count;
    int64_t attempt;
} fault_terms;

static int parse_number(const char *text, int64_t *out)
{
    char *end = NULL;

    if (text[0] < '0' || text[0] > '9') return -1;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0') return -1;
    *out = value;
    return 0;
}

static int parse_term(const char *term, fault_terms *terms)
{
    if (strncmp(term, "rank=", 5) == 0) return parse_number(term + 5, &terms->rank);
    if (strncmp(term, "step=", 5) == 0) return parse_number(term + 5, &terms->step);
    if (strncmp(term, "attempt=", 8) == 0) return parse_number(term + 8, &terms->attempt);
    if (strncmp(term, "count=", 6) == 0) {
        if (parse_number(term + 6, &terms->count) != 0) return -1;
        return terms->count >= 1 ? 0 : -1;
    }
    return -1;
}

static const fault_word *find_word(const char *text)
{
    for (size_t i = 0; i < sizeof fault_words / sizeof fault_words[0]; i++) {
        if (strcmp(fault_words[i].text, text) == 0) return &fault_words[i];
    }
    return NULL;
}

/* Take "point[:term]...=action" apart, in place; -1 when it is no such text. */
static int parse_entry(char *text, fault_entry *entry, fault_terms *terms)
{
    char *rest = NULL;
    char *equals = strrchr(text, '=');

    if (equals == NULL) return -1;
    *equals = '\0';
    entry->word = find_word(equals + 1);
    if (entry->word == NULL) return -1;
    const char *point = strtok_r(text, ":", &rest);
    if (point == NULL || text[0] == ':' || strlen(point) >= MAX_POINT_BYTES) return -1;
    memcpy(entry->point, point, strlen(point) + 1);
    *terms = (fault_terms){.rank = -1, .step = -1, .count = 1, .attempt = -1};
    for (const char *term = strtok_r(NULL, ":", &rest); term != NULL;
         term = strtok_r(NULL, ":", &rest)) {
        if (parse_term(term, terms) != 0) return -1;
    }
    entry->step = terms->step;
    entry->count = terms->count;
    return 0;
}

/* The supervisor's count of launches; 0 where none counts. */
static int64_t current_attempt(void)
{
    int64_t attempt = 0;
    const char *text = getenv("CONVOY_ATTEMPT");

    if (text == NULL || parse_number(text, &attempt) != 0) return 0;
    return attempt;
}

void cvy_fault_open(int rank)
{
    char text[1024];
    char *rest = NULL;
    int n_found = 0;
    const char *variable = getenv("CONVOY_FAULT");

    atomic_store(&n_faults, 0);
    fault_rank = rank;
    if (variable == NULL || variable[0] == '\0') return;
    const int n_chars = snprintf(text, sizeof text, "%s", variable);
    if (n_chars < 0 || (size_t)n_chars >= sizeof text) {
        cvy_log_warn("CONVOY_FAULT has %d characters, at most %zu are read: ignored", n_chars,
                     sizeof text - 1);
        return;
    }
    for (char *part = strtok_r(text, ",", &rest); part != NULL; part = strtok_r(NULL, ",", &rest)) {
        char shown[128];
        fault_terms terms;
        if (n_found == MAX_FAULTS) {
            cvy_log_warn("CONVOY_FAULT has more than %d entries: the rest is ignored", MAX_FAULTS);
            break;
        }
        fault_entry *entry = &fault_entries[n_found];
        snprintf(shown, sizeof shown, "%s", part);
        if (parse_entry(part, entry, &terms) != 0) {
            cvy_log_warn("CONVOY_FAULT: '%s' is ignored, wanted "
                         "point[:rank=R][:step=S][:count=K][:attempt=A]=action",
                         shown);
            continue;
        }
        if (terms.rank >= 0 && terms.rank != rank) continue;
        if (terms.attempt >= 0 && terms.attempt != current_attempt()) continue;
        atomic_store(&entry->n_passed, 0);
        n_found++;
    }
    atomic_store(&n_faults, n_found);
}

static cvy_fault_action carry_out(const fault_entry *entry, int64_t step, int *out_errno)
{
    cvy_log_info("fault point %s at step %lld on rank %d: %s", entry->point, (long long)step,
                 fault_rank, entry->word->text);
    switch (entry->word->deed) {
    case DEED_NAN:
        return CVY_FAULT_NAN;
    case DEED_FLIP:
        return CVY_FAULT_FLIP;
    case DEED_ERRNO:
        if (out_errno != NULL) *out_errno = entry->word->errno_value;
        return CVY_FAULT_ERRNO;
    case DEED_KILL:
        (void)raise(SIGKILL);
        break;
    case DEED_STOP:
        (void)raise(SIGSTOP); /* goes on from here after SIGCONT */
        break;
    case DEED_EXIT:
        _exit(1); /* what a library that gives up does: no cleaning, no message to the others */
    case DEED_SEGV:
        (void)raise(SIGSEGV);
        break;
    case DEED_HANG:
        for (;;) cvy_clock_sleep_s(3600.0); /* this thread only, as a lost peer would make it */
    }
    return CVY_FAULT_NONE;
}

static cvy_fault_action pass_entries(const char *point, int64_t step, int *out_errno, int n_entries)
{
    const fault_entry *fired = NULL;

    /* Every entry counts the pass; the first that is due acts. */
    for (int i = 0; i < n_entries; i++) {
        fault_entry *entry = &fault_entries[i];
        if (strcmp(entry->point, point) != 0) continue;
        if (entry->step >= 0 && entry->step != step) continue;
        if (atomic_fetch_add(&entry->n_passed, 1) + 1 == entry->count && fired == NULL) {
            fired = entry;
        }
    }
    return fired == NULL ? CVY_FAULT_NONE : carry_out(fired, step, out_errno);
}

cvy_fault_action cvy_fault_at(const char *point, int64_t step, int *out_errno)
{
    const int n_entries = atomic_load_explicit(&n_faults, memory_order_relaxed);

    if (CVY_LIKELY(n_entries == 0)) return CVY_FAULT_NONE;
    return pass_entries(point, step, out_errno, n_entries);
}
