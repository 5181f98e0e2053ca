#ifndef LAUNCH_COMMAND_H
#define LAUNCH_COMMAND_H

/** A subcommand: one file launch/cmd_NAME.c and one line of the table in main.c. */
typedef struct launch_command {
    const char *name;
    const char *usage;    /* after "convoy NAME" */
    const char *summary;  /* one line */
    const char *details;  /* the rest of --help: options, one a line */
    /** argv[0] is the subcommand's name; returns the exit code. */
    int (*run)(int argc, char **argv);
} launch_command;

extern const launch_command launch_cmd_train, launch_cmd_eval, launch_cmd_predict,
    launch_cmd_import, launch_cmd_inspect, launch_cmd_report, launch_cmd_help;

int launch_command_count(void);
const launch_command *launch_command_at(int idx);
/** Print --help of a command on stdout. */
void launch_command_print_help(const launch_command *command);
/** "convoy train: unknown option --worker, did you mean --workers?" -> 64. */
int launch_usage_error(const launch_command *command, const char *format, ...);

#endif
