#ifndef LAUNCH_COMMAND_H
#define LAUNCH_COMMAND_H

#include <stddef.h>
#include <stdint.h>

/** One option of a subcommand. The parser, the nearest-name errors and --help walk the table. */
typedef enum launch_option_kind {
    LAUNCH_FLAG, /* int: 1 when given */
    LAUNCH_INT,  /* int64_t within [min, max] */
    LAUNCH_TEXT, /* const char *: a view into argv */
    LAUNCH_LIST  /* launch_list: may be given many times */
} launch_option_kind;

#define LAUNCH_LIST_MAX 64

typedef struct launch_list {
    int n;
    const char *value[LAUNCH_LIST_MAX];
} launch_list;

typedef struct launch_option {
    const char *name; /* without "--" */
    launch_option_kind kind;
    size_t offset;          /* of the field in the command's struct */
    int64_t min, max;       /* INT */
    const char *value_name; /* for help: "N"; NULL: a flag */
    const char *help;
} launch_option;

/** A subcommand: one file launch/cmd_NAME.c and one line of the table in main.c. */
typedef struct launch_command {
    const char *name;
    const char *usage;   /* after "convoy NAME": "JOB.yaml [--workers N]" */
    const char *summary; /* one line */
    const char *details; /* text after the options in --help; NULL: none */
    const launch_option *options;
    int n_options;
    /** argv[0] is the subcommand's name; returns the exit code. */
    int (*run)(int argc, char **argv);
} launch_command;

extern const launch_command launch_cmd_train, launch_cmd_eval, launch_cmd_predict,
    launch_cmd_import, launch_cmd_inspect, launch_cmd_report, launch_cmd_bench, launch_cmd_help;

int launch_command_count(void);
const launch_command *launch_command_at(int idx);
/** Print --help of a command on stdout. */
void launch_command_print_help(const launch_command *command);
/** "convoy train: unknown option --worker, did you mean --workers?" on stderr -> 64. */
int launch_usage_error(const launch_command *command, const char *format, ...);

/**
 * Parse argv of a subcommand into its struct (zeroed or with defaults before) and the rest into
 * arguments. "--name value" and "--name=value"; "--" ends the options.
 *
 * @param min_args, max_args  how many arguments besides options are wanted.
 * @return -1 to go on, otherwise the exit code to end with: 0 after --help, 64 after an error that
 *         was said on stderr.
 */
int launch_parse(const launch_command *command, int argc, char **argv, void *out, int min_args,
                 int max_args, launch_list *out_args);

#endif
