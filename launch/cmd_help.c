#include "base/config.h"
#include "base/job.h"
#include "dataset/augment.h"
#include "launch/command.h"
#include "nn/layer.h"
#include "nn/model.h"
#include "nn/optimizer.h"
#include "nn/schedule.h"

#include <stdio.h>
#include <string.h>

static void print_commands(void)
{
    printf("convoy %s: trains convolutional networks on many machines\n\nusage: convoy COMMAND "
           "...\n\n",
           CONVOY_VERSION);
    for (int i = 0; i < launch_command_count(); i++) {
        const launch_command *command = launch_command_at(i);
        printf("  %-10s %s\n", command->name, command->summary);
    }
    printf("\n`convoy COMMAND --help` tells more; `convoy help job|models|layers` lists what a job "
           "file can say.\n");
}

static void print_table(const char *title, const cvy_config_table *table)
{
    printf("\n%s\n", title);
    if (table != NULL) cvy_config_print_help(table, stdout);
}

static void print_optimizers(void)
{
    for (int i = 0; i < nn_optimizer_count(); i++) {
        const nn_optimizer_ops *ops = nn_optimizer_at(i);
        printf("%soptimizer: {type: %s}  %s\n", i > 0 ? "\n" : "", ops->name, ops->help);
        if (ops->options != NULL) cvy_config_print_help(ops->options, stdout);
    }
}

static void print_schedules(void)
{
    for (int i = 0; i < nn_schedule_count(); i++) {
        const nn_schedule_ops *ops = nn_schedule_at(i);
        printf("%sschedule: {type: %s}  %s\n", i > 0 ? "\n" : "", ops->name, ops->help);
        if (ops->options != NULL) cvy_config_print_help(ops->options, stdout);
    }
}

static void print_augment(void)
{
    dataset_pipeline_print_help(stdout);
}

static void print_job(void)
{
    printf("The keys of a job file (YAML), with type or choices, range, unit, default.\n");
    cvy_config_print_help(&cvy_job_table, stdout);
    print_table("model", &nn_model_table);
    printf("\n");
    print_optimizers();
    printf("\n");
    print_schedules();
    print_augment();
}

static void print_models(void)
{
    for (int i = 0; i < nn_model_count(); i++) {
        const nn_model_arch *arch = nn_model_at(i);
        printf("%-18s %lld x %lld x %lld  %s\n", arch->name, (long long)arch->channels,
               (long long)arch->height, (long long)arch->width, arch->help);
    }
}

static void print_layers(void)
{
    for (int i = 0; i < nn_layer_count(); i++) {
        const nn_layer_ops *ops = nn_layer_at(i);
        printf("%s%s  %s\n", i > 0 ? "\n" : "", ops->name, ops->help);
        if (ops->attrs != NULL) cvy_config_print_help(ops->attrs, stdout);
    }
}

static int run(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*print)(void);
    } topics[] = {{"job", print_job},
                  {"models", print_models},
                  {"layers", print_layers},
                  {"optimizer", print_optimizers},
                  {"schedule", print_schedules},
                  {"augment", print_augment}};
    enum { N_TOPICS = sizeof topics / sizeof topics[0] };
    const char *words[N_TOPICS + 64];
    int n_words = 0, nothing = 0;
    launch_list args;
    const int code = launch_parse(&launch_cmd_help, argc, argv, &nothing, 0, 1, &args);

    if (code >= 0) return code;
    if (args.n == 0) {
        print_commands();
        return 0;
    }
    for (int i = 0; i < N_TOPICS; i++) {
        words[n_words++] = topics[i].name;
        if (strcmp(topics[i].name, args.value[0]) != 0) continue;
        topics[i].print();
        return 0;
    }
    for (int i = 0; i < launch_command_count(); i++) {
        words[n_words++] = launch_command_at(i)->name;
        if (strcmp(launch_command_at(i)->name, args.value[0]) != 0) continue;
        launch_command_print_help(launch_command_at(i));
        return 0;
    }
    const char *nearest = cvy_nearest_word(words, n_words, args.value[0]);
    return launch_usage_error(&launch_cmd_help, "nothing is known of '%s'%s%s%s", args.value[0],
                              nearest != NULL ? ", did you mean '" : "",
                              nearest != NULL ? nearest : "", nearest != NULL ? "'?" : "");
}

const launch_command launch_cmd_help = {
    .name = "help",
    .usage = "[COMMAND|job|models|layers|optimizer|schedule|augment]",
    .summary = "Help for a command, or the keys of a job file.",
    .run = run,
};
