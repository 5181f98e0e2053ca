#include "base/config.h"
#include "base/log.h"
#include "launch/command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_USAGE 64
#define GO_ON      (-1)

int launch_usage_error(const launch_command *command, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "convoy %s: %s (try: convoy %s --help)\n", command->name, text, command->name);
    return EXIT_USAGE;
}

void launch_command_print_help(const launch_command *command)
{
    printf("usage: convoy %s %s\n\n%s\n", command->name, command->usage, command->summary);
    if (command->n_options > 0) printf("\noptions:\n");
    for (int i = 0; i < command->n_options; i++) {
        const launch_option *option = &command->options[i];
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", option->name, option->value_name != NULL ? " " : "",
                 option->value_name != NULL ? option->value_name : "");
        printf("  %-24s %s\n", left, option->help);
    }
    if (command->details != NULL) printf("\n%s\n", command->details);
}

static int unknown_option(const launch_command *command, const char *name)
{
    const char *words[64];
    const int n = command->n_options < 64 ? command->n_options : 64;

    for (int i = 0; i < n; i++) words[i] = command->options[i].name;
    const char *nearest = cvy_nearest_word(words, n, name);
    return nearest != NULL ? launch_usage_error(command, "unknown option --%s, did you mean --%s?",
                                                name, nearest)
                           : launch_usage_error(command, "unknown option --%s", name);
}

static int store(const launch_command *command, const launch_option *option, const char *value,
                 void *out)
{
    void *field = (char *)out + option->offset;
    char *end = NULL;

    switch (option->kind) {
    case LAUNCH_FLAG:
        *(int *)field = 1;
        return GO_ON;
    case LAUNCH_TEXT:
        *(const char **)field = value;
        return GO_ON;
    case LAUNCH_LIST: {
        launch_list *list = field;
        if (list->n == LAUNCH_LIST_MAX)
            return launch_usage_error(command, "--%s was given more than %d times", option->name,
                                      LAUNCH_LIST_MAX);
        list->value[list->n++] = value;
        return GO_ON;
    }
    case LAUNCH_INT:
        break;
    }
    errno = 0;
    const long long number = strtoll(value, &end, 10);
    if (errno != 0 || end == value || *end != 0 || number < option->min || number > option->max) {
        return launch_usage_error(command, "--%s is '%s', expected an integer from %lld to %lld",
                                  option->name, value, (long long)option->min,
                                  (long long)option->max);
    }
    *(int64_t *)field = number;
    return GO_ON;
}

/* One "--name[=value]"; *i is moved past a value of its own. */
static int parse_option(const launch_command *command, int argc, char **argv, int *i, void *out)
{
    char name[64];
    const char *text = argv[*i] + 2;
    const char *equals = strchr(text, '=');
    const size_t length = equals != NULL ? (size_t)(equals - text) : strlen(text);

    snprintf(name, sizeof name, "%.*s", (int)(length < 63 ? length : 63), text);
    for (int k = 0; k < command->n_options; k++) {
        const launch_option *option = &command->options[k];
        if (strcmp(option->name, name) != 0) continue;
        if (option->kind == LAUNCH_FLAG) {
            if (equals != NULL) return launch_usage_error(command, "--%s takes no value", name);
            return store(command, option, NULL, out);
        }
        if (equals != NULL) return store(command, option, equals + 1, out);
        if (*i + 1 >= argc)
            return launch_usage_error(command, "--%s needs a value (%s)", name, option->value_name);
        return store(command, option, argv[++*i], out);
    }
    return unknown_option(command, name);
}

int launch_parse(const launch_command *command, int argc, char **argv, void *out, int min_args,
                 int max_args, launch_list *out_args)
{
    int only_args = 0;

    *out_args = (launch_list){.n = 0};
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (!only_args && strcmp(word, "--") == 0) {
            only_args = 1;
        } else if (!only_args && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)) {
            launch_command_print_help(command);
            return 0;
        } else if (!only_args && strncmp(word, "--", 2) == 0) {
            const int code = parse_option(command, argc, argv, &i, out);
            if (code != GO_ON) return code;
        } else if (!only_args && word[0] == '-' && word[1] != 0) {
            return launch_usage_error(command, "unknown option %s", word);
        } else if (out_args->n == max_args || out_args->n == LAUNCH_LIST_MAX) {
            return launch_usage_error(command, "'%s' is one argument too many", word);
        } else {
            out_args->value[out_args->n++] = word;
        }
    }
    if (out_args->n >= min_args) return GO_ON;
    return launch_usage_error(command, "too few arguments; usage: convoy %s %s", command->name,
                              command->usage);
}
