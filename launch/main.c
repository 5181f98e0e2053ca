#include "base/config.h"
#include "launch/command.h"

#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* The only list of subcommands. */
static const launch_command *const command_table[] = {
    &launch_cmd_train,   &launch_cmd_eval,   &launch_cmd_predict, &launch_cmd_import,
    &launch_cmd_inspect, &launch_cmd_report, &launch_cmd_bench,   &launch_cmd_help,
};

enum { N_COMMANDS = sizeof command_table / sizeof command_table[0], EXIT_USAGE = 64 };

int launch_command_count(void)
{
    return N_COMMANDS;
}

const launch_command *launch_command_at(int idx)
{
    return idx >= 0 && idx < N_COMMANDS ? command_table[idx] : NULL;
}

static int unknown_command(const char *name)
{
    const char *words[N_COMMANDS];

    for (int i = 0; i < N_COMMANDS; i++) words[i] = command_table[i]->name;
    const char *nearest = cvy_nearest_word(words, N_COMMANDS, name);
    fprintf(stderr, "convoy: unknown command '%s'%s%s%s (try: convoy help)\n", name,
            nearest != NULL ? ", did you mean '" : "", nearest != NULL ? nearest : "",
            nearest != NULL ? "'?" : "");
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    /* A reader that goes away, or a file-size limit, is an error to report, not a death. */
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN);
    (void)setlocale(LC_ALL, "C");

    const char *name = argc > 1 ? argv[1] : "help";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) name = "help";
    if (strcmp(name, "--version") == 0) {
        printf("convoy %s\n", CONVOY_VERSION);
        return 0;
    }
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(command_table[i]->name, name) != 0) continue;
        static char *no_arguments[] = {"help", NULL};
        if (argc < 2) return command_table[i]->run(1, no_arguments);
        return command_table[i]->run(argc - 1, argv + 1);
    }
    return unknown_command(name);
}
