#include "coordinator/report.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/job.h"
#include "coordinator/checkpoints.h"
#include "coordinator/records.h"
#include "coordinator/report_internal.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#define FILE_LIMIT_BYTES ((size_t)256 << 20)

/* --- Files of the run ------------------------------------------------------------------------- */

static cvy_status read_lines(const char *run, const char *name, json_t **out)
{
    char *path = cvy_path_join(run, name);

    *out = NULL;
    if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of %s", name);
    const cvy_status status = coordinator_records_read(path, out);
    cvy_free(path);
    return status;
}

/* A JSON file, NULL when it is missing or damaged: a report shows what there is. */
static json_t *read_json(const char *path)
{
    char *text = NULL;
    size_t size_bytes = 0;
    cvy_reason reason;

    if (cvy_file_read(path, FILE_LIMIT_BYTES, &text, &size_bytes, &reason) != CVY_OK) return NULL;
    json_t *document = json_loadb(text, size_bytes, 0, NULL);
    cvy_free(text);
    return document;
}

/* By step: names are padded to 8 digits, steps may have more. */
static int by_step(const struct dirent **a, const struct dirent **b)
{
    const long long x = strtoll((*a)->d_name + 5, NULL, 10);
    const long long y = strtoll((*b)->d_name + 5, NULL, 10);
    return x != y ? (x > y) - (x < y) : strcmp((*a)->d_name, (*b)->d_name);
}

static int is_evaluation(const struct dirent *entry)
{
    const size_t n = strlen(entry->d_name);
    return strncmp(entry->d_name, "step-", 5) == 0 && n > 5 &&
           strcmp(entry->d_name + n - 5, ".json") == 0;
}

/* All evaluations by step: a summary of each, and the last one whole. */
static void collect_evaluations(const char *run, json_t *report)
{
    static const char *const kept[] = {"step", "records", "bad_records", "loss", "top1", "top5"};
    struct dirent **entries = NULL;
    json_t *list = json_array(), *last = NULL;
    char path[4096];

    snprintf(path, sizeof path, "%s/eval", run);
    const int n = scandir(path, &entries, is_evaluation, by_step);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/eval/%s", run, entries[i]->d_name);
        json_t *evaluation = read_json(path);
        if (json_is_object(evaluation)) {
            json_t *summary = json_object();
            for (size_t k = 0; k < sizeof kept / sizeof kept[0]; k++)
                (void)json_object_set(summary, kept[k], json_object_get(evaluation, kept[k]));
            (void)json_array_append_new(list, summary);
            json_decref(last);
            last = json_incref(evaluation);
        }
        json_decref(evaluation);
        free(entries[i]); /* scandir's */
    }
    free(entries);
    (void)json_object_set_new(report, "evaluations", list);
    if (last != NULL) (void)json_object_set_new(report, "last_evaluation", last);
}

/* --- Figures ---------------------------------------------------------------------------------- */

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median images per second, and the shares of where worker 1's time went. */
static cvy_status collect_throughput(const json_t *metrics, json_t *report)
{
    static const char *const parts[] = {"data_wait_s", "compute_s", "reduce_s", "update_s"};
    const size_t n = json_array_size(metrics);
    double sum_s[4] = {0}, total_s = 0;
    double *rates = cvy_alloc_zero(n + 1, sizeof *rates);
    size_t n_rates = 0;

    if (rates == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "rates of %zu lines", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *line = json_array_get(metrics, i);
        const double rate = number(line, "images_per_s");
        const double wall_s = number(line, "step_time_s") * number(line, "steps");
        if (isfinite(rate)) rates[n_rates++] = rate;
        if (!isfinite(wall_s)) continue;
        total_s += wall_s;
        for (int k = 0; k < 4; k++) {
            const double part_s = number(line, parts[k]);
            sum_s[k] += isfinite(part_s) ? part_s : 0;
        }
    }
    if (n_rates > 0) {
        qsort(rates, n_rates, sizeof *rates, by_value);
        json_t *shares = json_object();
        double rest = total_s;
        for (int k = 0; k < 4; k++) {
            (void)json_object_set_new(shares, parts[k], json_real(sum_s[k]));
            rest -= sum_s[k];
        }
        (void)json_object_set_new(shares, "other_s", json_real(rest > 0 ? rest : 0));
        (void)json_object_set_new(report, "throughput",
                                  json_pack("{s:f, s:f, s:f, s:f, s:o}", "images_per_s_median",
                                            rates[n_rates / 2], "images_per_s_min", rates[0],
                                            "images_per_s_max", rates[n_rates - 1], "train_s",
                                            total_s, "where_worker_1_spent_it", shares));
    }
    cvy_free(rates);
    return CVY_OK;
}

static const char *event_name(const json_t *event)
{
    const char *name = json_string_value(json_object_get(event, "event"));
    return name != NULL ? name : "";
}

/* Launches, restarts, how it ended, and who worked last. */
static void collect_events(json_t *events, json_t *report)
{
    const char *status = "unfinished";
    json_int_t n_launches = 0, n_restarts = 0, n_bad = 0, n_failed_saves = 0;
    size_t i = 0;
    json_t *event = NULL, *workers = NULL;

    json_array_foreach(events, i, event)
    {
        const char *name = event_name(event);
        if (strcmp(name, "workers") == 0) {
            /* Going on after a stop or an end is no restart: nothing had failed. */
            const int has_ended = strcmp(status, "stopped") == 0 || strcmp(status, "finished") == 0;
            n_restarts += n_launches > 0 && !has_ended;
            n_launches++;
            workers = event;
            status = "unfinished";
        }
        if (strcmp(name, "bad_record") == 0) n_bad++;
        if (strcmp(name, "save_failed") == 0) n_failed_saves++;
        if (strcmp(name, "finished") == 0 || strcmp(name, "stopped") == 0 ||
            strcmp(name, "failed") == 0) {
            status = name;
        }
    }
    (void)json_object_set_new(report, "status", json_string(status));
    (void)json_object_set_new(report, "launches", json_integer(n_launches));
    (void)json_object_set_new(report, "restarts", json_integer(n_restarts));
    (void)json_object_set_new(report, "bad_records_found", json_integer(n_bad));
    (void)json_object_set_new(report, "failed_saves", json_integer(n_failed_saves));
    if (workers != NULL) (void)json_object_set(report, "workers", workers);
    (void)json_object_set(report, "events", events);
}

static void collect_environment(json_t *report)
{
    struct utsname name;
    char cpu[256] = "", line[512];
    FILE *file = fopen("/proc/cpuinfo", "re");

    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || colon == NULL) continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(cpu, sizeof cpu, "%.*s", (int)strcspn(colon, "\n"), colon);
        break;
    }
    if (file != NULL) (void)fclose(file);
    const int has_name = uname(&name) == 0;
    (void)json_object_set_new(report, "environment",
                              json_pack("{s:s, s:s, s:s, s:s, s:I}", "convoy", CONVOY_VERSION,
                                        "compiler", __VERSION__, "system",
                                        has_name ? name.release : "?", "processor", cpu,
                                        "processors", (json_int_t)sysconf(_SC_NPROCESSORS_ONLN)));
}

/* The job's text as it was resolved, and what the page needs of it. */
static cvy_status collect_job(const char *run, json_t *report)
{
    cvy_node *root = NULL;
    cvy_job job;
    char *text = NULL;
    size_t size_bytes = 0;
    cvy_reason reason = {""};
    char *path = cvy_path_join(run, "job.yaml");

    if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of the job");
    cvy_status status = cvy_file_read(path, FILE_LIMIT_BYTES, &text, &size_bytes, &reason);
    if (status != CVY_OK) {
        status = CVY_FAIL(status, "%s: %s: is %s a run folder?", path, reason.text, run);
        goto done;
    }
    CVY_GOTO_IF_ERR(done, status, cvy_node_parse(text, size_bytes, path, &root));
    CVY_GOTO_IF_ERR(done, status, cvy_job_read(root, &job));
    const cvy_node *arch = cvy_node_find(job.model, "arch");
    (void)json_object_set_new(report, "name", json_string(job.name));
    (void)json_object_set_new(report, "arch",
                              json_string(cvy_node_is_null(arch) ? "net" : cvy_node_text(arch)));
    (void)json_object_set_new(report, "replicas", json_integer((json_int_t)job.replicas));
    (void)json_object_set_new(report, "minibatch", json_integer((json_int_t)job.minibatch));
    (void)json_object_set_new(report, "train_data", json_string(job.data.train.path));
    if (job.data.val.path != NULL)
        (void)json_object_set_new(report, "val_data", json_string(job.data.val.path));
    (void)json_object_set_new(report, "channel_order", json_integer(job.data.channel_order));
    (void)json_object_set_new(report, "job", json_string(text));

done:
    cvy_node_destroy(&root);
    cvy_free(text);
    cvy_free(path);
    return status;
}

cvy_status report_collect(const char *run, json_t **out)
{
    cvy_status status = CVY_OK;
    json_t *metrics = NULL, *events = NULL;
    json_t *report = json_pack("{s:s, s:i, s:s}", "format", "convoy-report", "version", 1, "run",
                               run);

    *out = NULL;
    if (report == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "report of %s", run);
    CVY_GOTO_IF_ERR(fail, status, collect_job(run, report));
    CVY_GOTO_IF_ERR(fail, status, read_lines(run, "metrics.jsonl", &metrics));
    CVY_GOTO_IF_ERR(fail, status, read_lines(run, "events.jsonl", &events));
    collect_evaluations(run, report);
    CVY_GOTO_IF_ERR(fail, status, collect_throughput(metrics, report));
    collect_events(events, report);
    collect_environment(report);
    const int64_t saved_step = coordinator_checkpoints_newest_step(run);
    (void)json_object_set_new(report, "newest_checkpoint_step",
                              saved_step >= 0 ? json_integer((json_int_t)saved_step) : json_null());
    (void)json_object_set(report, "metrics", metrics);
    json_decref(metrics);
    json_decref(events);
    *out = report;
    return CVY_OK;

fail:
    json_decref(metrics);
    json_decref(events);
    json_decref(report);
    return status;
}

static cvy_status replace_in(const char *run, const char *name, const char *text, size_t size_bytes)
{
    char *path = cvy_path_join(run, name);

    if (path == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "path of %s", name);
    const cvy_status status = cvy_file_replace(path, text, size_bytes);
    cvy_free(path);
    return status;
}

cvy_status coordinator_report_write(const char *run)
{
    json_t *report = NULL;
    report_text page = {NULL, 0, 0, 0};

    CVY_RETURN_IF_ERR(report_collect(run, &report));
    char *json = json_dumps(report, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    cvy_status status = json != NULL ? replace_in(run, "report.json", json, strlen(json))
                                     : CVY_FAIL(CVY_ERR_NO_MEMORY, "report.json of %s", run);
    free(json);
    if (status == CVY_OK) status = report_render(report, &page);
    if (status == CVY_OK) status = replace_in(run, "report.html", page.bytes, page.size_bytes);
    cvy_free(page.bytes);
    json_decref(report);
    return status;
}
