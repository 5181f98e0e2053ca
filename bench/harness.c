#include "bench/harness.h"

#include "launch/figures.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_SIZE = 256, MAX_REPETITIONS = 1000000 };

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

cvy_status bench_run_once(bench_measure measure, void *arg, int64_t n)
{
    json_t *object = NULL;

    CVY_RETURN_IF_ERR(measure(arg, n, &object));
    return launch_json_print(object);
}

cvy_status bench_serve(bench_measure measure, void *arg)
{
    char line[LINE_SIZE];

    while (fgets(line, sizeof line, stdin) != NULL) {
        int64_t n = 0;
        line[strcspn(line, "\r\n")] = 0;
        if (strncmp(line, "run ", 4) != 0) {
            return CVY_FAIL(CVY_ERR_USAGE, "stdin: '%s', expected lines 'run N'", line);
        }
        CVY_RETURN_IF_ERR(bench_parse_count("run", line + 4, 1, MAX_REPETITIONS, &n));
        CVY_RETURN_IF_ERR(bench_run_once(measure, arg, n));
    }
    return CVY_OK;
}
