/* What the processor can do at most, to hold measured steps against: float32 multiply-adds on
 * registers and the bandwidth of main memory, with one thread and with all that were asked for. */

#include "bench/harness.h"
#include "launch/ceilings.h"
#include "launch/figures.h"

#include <getopt.h>
#include <stdio.h>

enum { MAX_THREADS = 1024 };

static const char usage_text[] =
    "usage: bench_peak [--threads N] [--repeat N] [--serve]\n"
    "  --threads N  threads of the second figures (default 2)\n"
    "  --repeat N   measurements; the best counts (default 5)\n"
    "  --serve      answer each line 'run N' on stdin with the best of N\n";

static cvy_status measure(void *arg, int64_t n, json_t **out)
{
    launch_ceilings ceilings;

    launch_ceilings_measure(arg, n, &ceilings);
    *out = launch_json_with(launch_ceilings_json(&ceilings), "program", json_string("bench_peak"));
    return *out != NULL ? CVY_OK : CVY_FAIL(CVY_ERR_NO_MEMORY, "a line of figures");
}

typedef struct peak_options {
    int64_t threads, repeat;
    int is_server, is_help;
} peak_options;

static cvy_status parse(int argc, char **argv, peak_options *out)
{
    static const struct option table[] = {{"threads", required_argument, NULL, 't'},
                                          {"repeat", required_argument, NULL, 'r'},
                                          {"serve", no_argument, NULL, 's'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    peak_options options = {.threads = 2, .repeat = 5};
    int c = 0;

    while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
        if (c == 't') {
            CVY_RETURN_IF_ERR(
                bench_parse_count("--threads", optarg, 1, MAX_THREADS, &options.threads));
        } else if (c == 'r') {
            CVY_RETURN_IF_ERR(bench_parse_count("--repeat", optarg, 1, 1000, &options.repeat));
        } else if (c == 's') {
            options.is_server = 1;
        } else if (c == 'h') {
            options.is_help = 1;
        } else {
            fputs(usage_text, stderr);
            return CVY_ERR_USAGE;
        }
    }
    if (optind < argc) {
        fputs(usage_text, stderr);
        return CVY_FAIL(CVY_ERR_USAGE, "'%s' is not an option", argv[optind]);
    }
    *out = options;
    return CVY_OK;
}

int main(int argc, char **argv)
{
    peak_options options = {0};
    launch_ceiling_meter *meter = NULL;
    cvy_status status = parse(argc, argv, &options);

    if (status != CVY_OK) return cvy_status_exit_code(status);
    if (options.is_help) return fputs(usage_text, stdout) == EOF ? 1 : 0;
    CVY_GOTO_IF_ERR(end, status, launch_ceilings_open((int)options.threads, &meter));
    if (options.is_server) {
        CVY_GOTO_IF_ERR(end, status, launch_json_print(json_pack("{s:s}", "ready", "bench_peak")));
        CVY_GOTO_IF_ERR(end, status, bench_serve(measure, meter));
    } else {
        CVY_GOTO_IF_ERR(end, status, bench_run_once(measure, meter, options.repeat));
    }

end:
    launch_ceilings_close(&meter);
    return cvy_status_exit_code(status);
}
