#include "bench/harness.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_SIZE = 256, MAX_REPETITIONS = 1000000 };

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

bench_spread bench_spread_of(double *values, int64_t n)
{
    CVY_ASSERT(n >= 1);
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return (bench_spread){.median = (values[(n - 1) / 2] + values[n / 2]) / 2,
                          .min = values[0],
                          .max = values[n - 1]};
}

int64_t bench_peak_rss_bytes(void)
{
    /* VmHWM and not getrusage: the latter starts with the parent's size after fork and exec. */
    char line[LINE_SIZE];
    long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");

    if (file == NULL) return 0;
    while (fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "VmHWM: %lld", &kib) == 1) break;
    }
    fclose(file);
    return (int64_t)kib * 1024;
}

cvy_status bench_parse_count(const char *option, const char *text, int64_t min, int64_t max,
                             int64_t *out)
{
    char *end = NULL;

    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end != 0 || errno != 0 || value < min || value > max) {
        return CVY_FAIL(CVY_ERR_USAGE, "%s is '%s', expected a whole number from %lld to %lld",
                        option, text, (long long)min, (long long)max);
    }
    *out = value;
    return CVY_OK;
}

cvy_status bench_print(json_t *object)
{
    if (object == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "a line of figures");
    const int is_bad = json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)) != 0;
    json_decref(object);
    if (is_bad || putchar('\n') == EOF || fflush(stdout) != 0)
        return CVY_FAIL(CVY_ERR_IO, "write to stdout: %s", strerror(errno));
    return CVY_OK;
}

cvy_status bench_run_once(bench_measure measure, void *arg, int64_t n)
{
    json_t *object = NULL;

    CVY_RETURN_IF_ERR(measure(arg, n, &object));
    return bench_print(object);
}

cvy_status bench_serve(bench_measure measure, void *arg)
{
    char line[LINE_SIZE];

    while (fgets(line, sizeof line, stdin) != NULL) {
        int64_t n = 0;
        line[strcspn(line, "\r\n")] = 0;
        if (strncmp(line, "run ", 4) != 0)
            return CVY_FAIL(CVY_ERR_USAGE, "stdin: '%s', expected lines 'run N'", line);
        CVY_RETURN_IF_ERR(bench_parse_count("run", line + 4, 1, MAX_REPETITIONS, &n));
        CVY_RETURN_IF_ERR(bench_run_once(measure, arg, n));
    }
    return CVY_OK;
}
