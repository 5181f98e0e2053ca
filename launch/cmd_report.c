#include "coordinator/report.h"
#include "launch/command.h"

#include <stdio.h>

static int run(int argc, char **argv)
{
    launch_list args;
    int nothing = 0;
    const int code = launch_parse(&launch_cmd_report, argc, argv, &nothing, 1, 1, &args);

    if (code >= 0) return code;
    const cvy_status status = coordinator_report_write(args.value[0]);
    if (status == CVY_OK) printf("%s/report.html\n", args.value[0]);
    return cvy_status_exit_code(status);
}

const launch_command launch_cmd_report = {
    .name = "report",
    .usage = "RUN",
    .summary = "Write RUN/report.html and RUN/report.json again from what lies in the run folder.",
    .run = run,
};
