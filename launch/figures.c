#include "launch/figures.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

launch_spread launch_spread_of(double *values, int64_t n)
{
    double sum = 0;

    CVY_ASSERT(n >= 1);
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    for (int64_t i = 0; i < n; i++) sum += values[i];
    return (launch_spread){.median = (values[(n - 1) / 2] + values[n / 2]) / 2,
                           .mean = sum / (double)n,
                           .min = values[0],
                           .max = values[n - 1]};
}

int64_t launch_peak_rss_bytes(void)
{
    /* VmHWM and not getrusage: the latter starts with the parent's size after fork and exec. */
    char line[256];
    long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");

    if (file == NULL) return 0;
    while (fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "VmHWM: %lld", &kib) == 1) break;
    }
    fclose(file);
    return (int64_t)kib * 1024;
}

json_t *launch_json_with(json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, value) == 0) return object; /* frees value on failure */
    json_decref(object);
    return NULL;
}

cvy_status launch_json_print(json_t *object)
{
    if (object == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "a line of figures");
    const int is_bad = json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)) != 0;
    json_decref(object);
    if (is_bad || putchar('\n') == EOF || fflush(stdout) != 0) {
        return CVY_FAIL(CVY_ERR_CANNOT_WRITE, "write figures to stdout: %s", strerror(errno));
    }
    return CVY_OK;
}
