#include "tests/support/test_support.h"

#include "base/log.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LINES    512
#define MAX_EXPECTED 64

typedef struct seen_line {
    cvy_log_level level;
    char *text; /* owned, "folder: message" */
} seen_line;

/* What this test logged and announced. The sink is called from any thread; plain malloc, because
 * tests make cvy_alloc() fail and count it. */
static pthread_mutex_t seen_lock = PTHREAD_MUTEX_INITIALIZER;
static seen_line seen[MAX_LINES];
static int n_seen;
static char *expected[MAX_EXPECTED];
static int n_expected;

static void forget_all(void)
{
    pthread_mutex_lock(&seen_lock);
    for (int i = 0; i < n_seen; i++) free(seen[i].text);
    n_seen = 0;
    for (int i = 0; i < n_expected; i++) free(expected[i]);
    n_expected = 0;
    pthread_mutex_unlock(&seen_lock);
}

static void keep_line(void *arg, cvy_log_level level, const char *folder, const char *message)
{
    (void)arg;
    const size_t size_bytes = strlen(folder) + strlen(message) + 3;
    char *text = malloc(size_bytes);

    if (text == NULL) {
        fputs("test_log: out of memory\n", stderr);
        abort();
    }
    snprintf(text, size_bytes, "%s: %s", folder, message);
    pthread_mutex_lock(&seen_lock);
    /* A test that floods the log loses its later quiet lines, never a warning or error. */
    if (n_seen == MAX_LINES && level > CVY_LOG_WARN) {
        free(text);
        pthread_mutex_unlock(&seen_lock);
        return;
    }
    if (n_seen == MAX_LINES) {
        fputs("test_log: more warnings and errors than a test may log\n", stderr);
        abort();
    }
    seen[n_seen++] = (seen_line){.level = level, .text = text};
    pthread_mutex_unlock(&seen_lock);
}

int test_log_open(void **state)
{
    (void)state;
    cvy_log_open(CVY_LOG_DEBUG, -1);
    cvy_log_set_sink(keep_line, NULL);
    return 0;
}

int test_log_close(void **state)
{
    (void)state;
    cvy_log_set_sink(NULL, NULL);
    forget_all();
    return 0;
}

int test_log_reset(void **state)
{
    (void)state;
    forget_all();
    return 0;
}

static int is_expected(const char *text)
{
    for (int i = 0; i < n_expected; i++) {
        if (strstr(text, expected[i]) != NULL) return 1;
    }
    return 0;
}

static int was_complained(const char *part)
{
    for (int i = 0; i < n_seen; i++) {
        if (seen[i].level <= CVY_LOG_WARN && strstr(seen[i].text, part) != NULL) return 1;
    }
    return 0;
}

int test_log_check(void **state)
{
    int n_wrong = 0;

    (void)state;
    pthread_mutex_lock(&seen_lock);
    for (int i = 0; i < n_seen; i++) {
        if (seen[i].level <= CVY_LOG_WARN && !is_expected(seen[i].text)) {
            fprintf(stderr, "logged, but not announced: %s\n", seen[i].text);
            n_wrong++;
        }
    }
    for (int i = 0; i < n_expected; i++) {
        if (!was_complained(expected[i])) {
            fprintf(stderr, "announced, but not logged: %s\n", expected[i]);
            n_wrong++;
        }
    }
    pthread_mutex_unlock(&seen_lock);
    forget_all();
    return n_wrong == 0 ? 0 : -1;
}

void test_log_expect(const char *part)
{
    char *copy = strdup(part);

    assert_non_null(copy);
    assert_true(n_expected < MAX_EXPECTED);
    pthread_mutex_lock(&seen_lock);
    expected[n_expected++] = copy;
    pthread_mutex_unlock(&seen_lock);
}

int test_log_saw(const char *part)
{
    int found = 0;

    pthread_mutex_lock(&seen_lock);
    for (int i = 0; i < n_seen && !found; i++) found = strstr(seen[i].text, part) != NULL;
    pthread_mutex_unlock(&seen_lock);
    return found;
}
