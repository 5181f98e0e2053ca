#include "base/clock.h"
#include "base/config.h"
#include "coordinator/progress.h"
#include "dataset/importer.h"
#include "launch/command.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct import_options {
    const char *labels, *classes;
    int64_t resize, limit, seed;
    int is_raw, is_strict;
} import_options;

#define FIELD(kind, member) kind, offsetof(import_options, member)

static const launch_option option_table[] = {
    {"labels", FIELD(LAUNCH_TEXT, labels), 0, 0, "FILE",
     "idx: the file of labels (default: found by the usual names)"},
    {"classes", FIELD(LAUNCH_TEXT, classes), 0, 0, "FILE", "class names, one a line"},
    {"resize", FIELD(LAUNCH_INT, resize), 1, 1 << 15, "PIXELS", "images: shorter side"},
    {"raw", FIELD(LAUNCH_FLAG, is_raw), 0, 0, NULL,
     "images: store pixels, not the file's bytes (larger, faster to read)"},
    {"limit", FIELD(LAUNCH_INT, limit), 1, INT64_MAX, "N", "at most so many records"},
    {"seed", FIELD(LAUNCH_INT, seed), 0, INT64_MAX, "N", "images: order of the records"},
    {"strict", FIELD(LAUNCH_FLAG, is_strict), 0, 0, NULL,
     "fail at the first bad input instead of leaving it out"},
};

static volatile sig_atomic_t is_interrupted;

static void on_interrupt(int number)
{
    (void)number;
    is_interrupted = 1;
}

/* The bar on stderr, redrawn a few times a second; nothing where that is no terminal. */
typedef struct bar {
    int is_terminal, is_drawn;
    double start_s, drawn_at_s;
} bar;

static void draw(bar *b, int64_t n_done, int64_t n_all, double now_s)
{
    enum { WIDTH = 24 };
    char count[32], all[32], rate[32], left[32], cells[WIDTH + 1];
    const double per_s = (double)n_done / (now_s - b->start_s);
    const double share = n_all > 0 ? (double)n_done / (double)n_all : 0;

    b->is_drawn = 1;
    coordinator_text_count((double)n_done, count);
    coordinator_text_count(per_s, rate);
    if (n_all <= 0) {
        fprintf(stderr, "\r\033[K%s records  %s records/s", count, rate);
        return;
    }
    coordinator_text_count((double)n_all, all);
    coordinator_text_duration(per_s > 0 ? (double)(n_all - n_done) / per_s : 0, left);
    for (int i = 0; i < WIDTH; i++) cells[i] = i < (int)(share * WIDTH) ? '=' : ' ';
    cells[WIDTH] = 0;
    fprintf(stderr, "\r\033[K[%s] %s/%s records  %s records/s  %s left", cells, count, all, rate,
            left);
}

static int on_progress(void *arg, int64_t n_done, int64_t n_all)
{
    bar *b = arg;
    const double now_s = cvy_clock_now_s();

    if (b->is_terminal && now_s - b->drawn_at_s > 0.2 && n_done > 0) {
        b->drawn_at_s = now_s;
        draw(b, n_done, n_all, now_s);
    }
    return is_interrupted;
}

static const dataset_importer_ops *find_importer(const char *name, int *out_code)
{
    const dataset_importer_ops *importer = dataset_importer_find(name);
    const char *words[32];
    int n = 0;

    if (importer != NULL) return importer;
    for (; n < dataset_importer_count() && n < 32; n++) words[n] = dataset_importer_at(n)->name;
    const char *nearest = cvy_nearest_word(words, n, name);
    *out_code = launch_usage_error(&launch_cmd_import, "no importer '%s'%s%s%s", name,
                                   nearest != NULL ? ", did you mean '" : "",
                                   nearest != NULL ? nearest : "", nearest != NULL ? "'?" : "");
    return NULL;
}

static int run(int argc, char **argv)
{
    import_options options = {.seed = 1};
    launch_list args;
    bar b = {.is_terminal = isatty(STDERR_FILENO), .start_s = cvy_clock_now_s()};
    int code = launch_parse(&launch_cmd_import, argc, argv, &options, 3, 3, &args);

    if (code >= 0) return code;
    const dataset_importer_ops *importer = find_importer(args.value[0], &code);
    if (importer == NULL) return code;
    const dataset_import_options what = {.source = args.value[1],
                                         .destination = args.value[2],
                                         .labels = options.labels,
                                         .resize = options.resize,
                                         .encode_raw = options.is_raw,
                                         .classes_file = options.classes,
                                         .limit = options.limit,
                                         .shuffle_seed = (uint64_t)options.seed,
                                         .on_bad = options.is_strict,
                                         .progress = on_progress,
                                         .progress_arg = &b};
    dataset_import_result result = {0, 0};
    (void)signal(SIGINT, on_interrupt);
    (void)signal(SIGTERM, on_interrupt);
    const cvy_status status = importer->run(&what, &result);
    if (b.is_drawn) fprintf(stderr, "\r\033[K");
    if (status != CVY_OK) return cvy_status_exit_code(status);
    char count[32], took[32];
    coordinator_text_count((double)result.n_records, count);
    coordinator_text_duration(cvy_clock_now_s() - b.start_s, took);
    printf("%s: %s records", what.destination, count);
    if (result.n_bad > 0) printf(", %lld bad ones left out", (long long)result.n_bad);
    printf(" (%s)\n", took);
    return 0;
}

const launch_command launch_cmd_import = {
    .name = "import",
    .usage = "{images|cifar|idx} SRC DST",
    .summary = "Make an LMDB dataset of image folders, CIFAR's binary files or IDX files.",
    .details =
        "images: SRC/CLASS/FILE, JPEG or PNG. cifar: a data_batch file, or a folder of them.\n"
        "idx: the file of images (.gz too); its labels stand beside it. DST is a new folder,\n"
        "complete or not there at all.",
    .options = option_table,
    .n_options = sizeof option_table / sizeof option_table[0],
    .run = run,
};
