#include "base/alloc.h"
#include "base/log.h"
#include "coordinator/progress.h"
#include "coordinator/report_internal.h"
#include "dataset/augment.h"
#include "dataset/store.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_CONFUSION 40  /* classes: a larger matrix is no picture */
#define MAX_PICTURE   160 /* pixels of a hardest image's longer side */
#define MAX_PIXELS    ((int64_t)64 << 20)
#define MAX_EVENTS    500

static const char style[] =
    "<style>\n"
    ":root{--bg:#fff;--fg:#1c2128;--dim:#66707c;--line:#dde1e6;--card:#f6f7f9;--a:#0b6bcb;"
    "--b:#c2410c;--c:#15803d;--d:#7e22ce}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14171c;--fg:#e4e7eb;--dim:#98a2ae;"
    "--line:#30363f;--card:#1c2128;--a:#58a6ff;--b:#fb923c;--c:#4ade80;--d:#c084fc}}\n"
    "body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;margin:0 auto;"
    "max-width:1180px;padding:24px}\n"
    "h1{font-size:24px;margin:0}h2{font-size:18px;margin:36px 0 8px}.dim{color:var(--dim)}\n"
    ".cards{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}.card{background:var(--card);"
    "border-radius:8px;padding:10px 16px}.card b{display:block;font-size:21px}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(420px,1fr));gap:16px}\n"
    "svg.chart{width:100%;background:var(--card);border-radius:8px}svg text{fill:var(--dim);"
    "font-size:11px}svg text.title{fill:var(--fg);font-size:13px;font-weight:600}\n"
    "svg .grid{stroke:var(--line)}svg polyline{fill:none;stroke-width:1.6}\n"
    "svg .s0{stroke:var(--a)}svg .s1{stroke:var(--b)}svg .s2{stroke:var(--c)}"
    "svg .s3{stroke:var(--d)}svg line.s0,svg line.s1,svg line.s2{stroke-width:3}\n"
    "table{border-collapse:collapse;font-size:13px}th,td{padding:3px 10px;text-align:right;"
    "border-bottom:1px solid var(--line)}th:first-child,td:first-child{text-align:left}\n"
    ".scroll{overflow-x:auto}table.matrix td,table.matrix th{padding:3px 5px;text-align:center;"
    "border:1px solid var(--line);min-width:24px}\n"
    ".hard{display:flex;flex-wrap:wrap;gap:12px}.hard figure{margin:0;width:170px;font-size:12px;"
    "background:var(--card);border-radius:8px;padding:8px}.hard img{width:100%;height:150px;"
    "object-fit:contain;image-rendering:pixelated}\n"
    ".bar{display:flex;height:22px;margin-bottom:8px;border-radius:6px;overflow:hidden;max-width:"
    "700px}"
    ".bar span{display:block;height:100%}\n"
    "pre{background:var(--card);border-radius:8px;padding:12px;overflow-x:auto;font-size:12px}\n"
    "</style>\n";

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static const char *string(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

/* --- Summary ---------------------------------------------------------------------------------- */

static void add_card(report_text *text, const char *what, const char *value)
{
    report_add(text, "<div class=\"card\"><b>");
    report_add_escaped(text, value);
    report_add(text, "</b>%s</div>\n", what);
}

static void add_share_card(report_text *text, const char *what, double share)
{
    char value[32];

    if (!isfinite(share)) return;
    snprintf(value, sizeof value, "%.2f %%", 100 * share);
    add_card(text, what, value);
}

static void add_summary(report_text *text, const json_t *report)
{
    const json_t *last = json_object_get(report, "last_evaluation");
    const json_t *throughput = json_object_get(report, "throughput");
    const size_t n = json_array_size(json_object_get(report, "metrics"));
    const json_t *metrics = json_object_get(report, "metrics");
    char value[32];

    report_add(text, "<h1>");
    report_add_escaped(text, string(report, "name"));
    report_add(text, "</h1>\n<div class=\"dim\">");
    report_add_escaped(text, string(report, "arch"));
    report_add(text, " &middot; %.0f replicas of %.0f images &middot; ", number(report, "replicas"),
               number(report, "minibatch"));
    report_add_escaped(text, string(report, "status"));
    report_add(text, "</div>\n<div class=\"cards\">\n");
    add_share_card(text, "validation top-1", number(last, "top1"));
    add_share_card(text, "validation top-5", number(last, "top5"));
    if (isfinite(number(last, "loss"))) {
        snprintf(value, sizeof value, "%.4f", number(last, "loss"));
        add_card(text, "validation loss", value);
    }
    if (n > 0) {
        coordinator_text_count(number(json_array_get(metrics, n - 1), "step"), value);
        add_card(text, "steps", value);
    }
    if (isfinite(number(report, "newest_checkpoint_step"))) {
        coordinator_text_count(number(report, "newest_checkpoint_step"), value);
        add_card(text, "step of the newest checkpoint", value);
    }
    if (throughput != NULL) {
        coordinator_text_count(number(throughput, "images_per_s_median"), value);
        add_card(text, "images/s (median)", value);
        coordinator_text_duration(number(throughput, "train_s"), value);
        add_card(text, "training time", value);
    }
    snprintf(value, sizeof value, "%.0f", number(report, "restarts"));
    add_card(text, "restarts", value);
    report_add(text, "</div>\n");
    if (n == 0) report_add(text, "<p class=\"dim\">No figures of training are there yet.</p>\n");
    if (last == NULL)
        report_add(text, "<p class=\"dim\">No evaluation has been made in this run yet.</p>\n");
}

/* --- Curves ----------------------------------------------------------------------------------- */

/* One member of all objects of a list as doubles; cvy_free() it. */
static double *column(const json_t *list, const char *key)
{
    const size_t n = json_array_size(list);
    double *values = cvy_alloc_zero(n + 1, sizeof *values);

    for (size_t i = 0; i < n && values != NULL; i++)
        values[i] = number(json_array_get(list, i), key);
    return values;
}

static void add_curve(report_text *text, const char *title, int is_from_zero, const json_t *metrics,
                      const json_t *evaluations, const char *key)
{
    double *x = column(metrics, "step"), *y = column(metrics, key);
    double *x_eval = column(evaluations, "step"), *y_eval = column(evaluations, key);

    if (x == NULL || y == NULL || x_eval == NULL || y_eval == NULL) {
        text->has_failed = 1;
    } else {
        const report_series series[] = {
            {"training", "s0", (int)json_array_size(metrics), x, y},
            {"validation", "s1", (int)json_array_size(evaluations), x_eval, y_eval}};
        const report_chart chart = {.title = title,
                                    .x_name = "step",
                                    .n_series = json_array_size(evaluations) > 0 ? 2 : 1,
                                    .series = series,
                                    .is_from_zero = is_from_zero};
        report_add_chart(text, &chart);
    }
    cvy_free(y_eval);
    cvy_free(x_eval);
    cvy_free(y);
    cvy_free(x);
}

static void add_curves(report_text *text, const json_t *report)
{
    const json_t *metrics = json_object_get(report, "metrics");
    const json_t *evaluations = json_object_get(report, "evaluations");

    if (json_array_size(metrics) == 0 && json_array_size(evaluations) == 0) return;
    report_add(text, "<h2>Curves</h2>\n<div class=\"charts\">\n");
    add_curve(text, "Loss", 0, metrics, evaluations, "loss");
    add_curve(text, "Top-1 accuracy", 0, metrics, evaluations, "top1");
    add_curve(text, "Learning rate", 1, metrics, NULL, "lr");
    add_curve(text, "Throughput, images/s", 1, metrics, NULL, "images_per_s");
    report_add(text, "</div>\n");
}

/* --- Classes ---------------------------------------------------------------------------------- */

static void add_share_cell(report_text *text, const json_t *object, const char *key)
{
    const double share = number(object, key);
    if (isfinite(share))
        report_add(text, "<td>%.2f %%</td>", 100 * share);
    else
        report_add(text, "<td class=\"dim\">none</td>");
}

static void add_classes(report_text *text, const json_t *evaluation)
{
    const json_t *classes = json_object_get(evaluation, "classes");
    size_t i = 0;
    const json_t *row = NULL;

    if (json_array_size(classes) == 0) return;
    report_add(text, "<h2>Classes</h2>\n<div class=\"scroll\"><table><tr><th>class</th><th>n</th>"
                     "<th>predicted</th><th>precision</th><th>recall</th><th>F1</th></tr>\n");
    json_array_foreach((json_t *)(uintptr_t)classes, i, row)
    {
        report_add(text, "<tr><td>");
        report_add_escaped(text, string(row, "name"));
        report_add(text, "</td><td>%.0f</td><td>%.0f</td>", number(row, "n"),
                   number(row, "n_predicted"));
        add_share_cell(text, row, "precision");
        add_share_cell(text, row, "recall");
        add_share_cell(text, row, "f1");
        report_add(text, "</tr>\n");
    }
    report_add(text, "</table></div>\n");
}

static void add_confusion(report_text *text, const json_t *evaluation)
{
    const json_t *confusion = json_object_get(evaluation, "confusion");
    const json_t *rows = json_object_get(confusion, "counts");
    const json_t *classes = json_object_get(evaluation, "classes");
    const size_t n = json_array_size(classes);

    if (n == 0) return;
    if (n > MAX_CONFUSION || strcmp(string(confusion, "form"), "rows") != 0) {
        report_add(text,
                   "<h2>Confusion matrix</h2>\n<p class=\"dim\">%zu classes are too many to "
                   "show; the evaluation's JSON has the counts.</p>\n",
                   n);
        return;
    }
    report_add(text, "<h2>Confusion matrix</h2>\n<p class=\"dim\">Rows: labels; columns: "
                     "predictions; the shade is the share of the row.</p>\n<div class=\"scroll\">"
                     "<table class=\"matrix\"><tr><th></th>");
    for (size_t k = 0; k < n; k++) {
        report_add(text, "<th>");
        report_add_escaped(text, string(json_array_get(classes, k), "name"));
        report_add(text, "</th>");
    }
    report_add(text, "</tr>\n");
    for (size_t i = 0; i < n; i++) {
        const json_t *row = json_array_get(rows, i);
        const double total = number(json_array_get(classes, i), "n");
        report_add(text, "<tr><th>");
        report_add_escaped(text, string(json_array_get(classes, i), "name"));
        report_add(text, "</th>");
        for (size_t k = 0; k < n; k++) {
            const json_int_t count = json_integer_value(json_array_get(row, k));
            const double share = total > 0 ? (double)count / total : 0;
            report_add(text,
                       "<td%s style=\"background:color-mix(in srgb,var(--%s) %.0f%%,transparent)"
                       "\">%lld</td>",
                       count == 0 ? " class=\"dim\"" : "", i == k ? "c" : "b", 70 * sqrt(share),
                       (long long)count);
        }
        report_add(text, "</tr>\n");
    }
    report_add(text, "</table></div>\n");
}

static void add_calibration(report_text *text, const json_t *evaluation)
{
    const json_t *calibration = json_object_get(evaluation, "calibration");
    const json_t *bins = json_object_get(calibration, "bins");
    double *x = column(bins, "confidence"), *y = column(bins, "accuracy");
    const double line[] = {0, 1};

    if (x == NULL || y == NULL) {
        text->has_failed = 1;
    } else if (json_array_size(bins) > 0) {
        const report_series series[] = {{"accuracy", "s0", (int)json_array_size(bins), x, y},
                                        {"perfect", "s2", 2, line, line}};
        const report_chart chart = {.title = "Accuracy by confidence",
                                    .x_name = "confidence",
                                    .n_series = 2,
                                    .series = series,
                                    .is_from_zero = 1};
        report_add(text,
                   "<h2>Calibration</h2>\n<p class=\"dim\">Expected calibration error "
                   "%.4f.</p>\n<div class=\"charts\">\n",
                   number(calibration, "expected_calibration_error"));
        report_add_chart(text, &chart);
        report_add(text, "</div>\n");
    }
    cvy_free(y);
    cvy_free(x);
}

/* --- Hardest images --------------------------------------------------------------------------- */

/* A record as a picture of bounded size. */
static cvy_status make_picture(dataset_reader *reader, int64_t n_records, int64_t record,
                               int channel_order, uint8_t **out, size_t *out_bytes)
{
    dataset_datum datum;
    dataset_image image = {.pixels = NULL}, small = {.pixels = NULL};
    cvy_reason reason;

    if (record < 0 || record >= n_records) return CVY_ERR_NOT_FOUND; /* not the same dataset */
    cvy_status status = dataset_reader_get(reader, record, &datum, &reason);
    if (status == CVY_OK)
        status = dataset_datum_to_image(&datum, channel_order, MAX_PIXELS, &image, &reason);
    const int64_t longer = image.height > image.width ? image.height : image.width;
    if (status == CVY_OK && longer > MAX_PICTURE) {
        const double scale = (double)MAX_PICTURE / (double)longer;
        const int64_t h = llround((double)image.height * scale);
        const int64_t w = llround((double)image.width * scale);
        status = dataset_image_resize(&image, h > 0 ? h : 1, w > 0 ? w : 1, &small);
        if (status == CVY_OK) status = dataset_image_to_png(&small, out, out_bytes);
    } else if (status == CVY_OK) {
        status = dataset_image_to_png(&image, out, out_bytes);
    }
    dataset_image_free(&small);
    dataset_image_free(&image);
    return status;
}

static void add_hard(report_text *text, const json_t *hard, dataset_reader *reader,
                     int64_t n_records, int channel_order)
{
    uint8_t *png = NULL;
    size_t png_bytes = 0;
    const int64_t record = (int64_t)json_integer_value(json_object_get(hard, "record"));

    report_add(text, "<figure>");
    if (reader != NULL &&
        make_picture(reader, n_records, record, channel_order, &png, &png_bytes) == CVY_OK) {
        report_add(text, "<img alt=\"record %lld\" src=\"data:image/png;base64,",
                   (long long)record);
        report_add_base64(text, png, png_bytes);
        report_add(text, "\">");
    }
    cvy_free(png);
    report_add(text, "<figcaption><b>");
    report_add_escaped(text, string(hard, "label_name"));
    report_add(text, "</b><br>taken for ");
    report_add_escaped(text, string(hard, "predicted_name"));
    if (isfinite(number(hard, "confidence")))
        report_add(text, " (%.1f %%)", 100 * number(hard, "confidence"));
    report_add(text, "<br><span class=\"dim\">record %lld, ", (long long)record);
    if (isfinite(number(hard, "loss")))
        report_add(text, "loss %.3f", number(hard, "loss"));
    else
        report_add(text, "a loss that is no number");
    report_add(text, "</span></figcaption></figure>\n");
}

static void add_hardest(report_text *text, const json_t *report)
{
    const json_t *hardest = json_object_get(json_object_get(report, "last_evaluation"), "hardest");
    const char *path = string(report, "val_data");
    const dataset_store_options options = {.allow_network_fs = 1, .is_quiet = 1};
    dataset_store *store = NULL;
    dataset_reader *reader = NULL;
    size_t i = 0;
    const json_t *hard = NULL;

    if (json_array_size(hardest) == 0) return;
    report_add(text, "<h2>Hardest images</h2>\n");
    /* Without the dataset the list is shown without pictures. */
    cvy_log_soften(1);
    if (path[0] != 0 && dataset_store_open(path, &options, &store) == CVY_OK &&
        dataset_reader_create(store, &reader) != CVY_OK) {
        reader = NULL;
    }
    cvy_log_soften(-1);
    if (reader == NULL) {
        report_add(text, "<p class=\"dim\">The validation set could not be opened at ");
        report_add_escaped(text, path);
        report_add(text, ": no pictures.</p>\n");
    }
    report_add(text, "<div class=\"hard\">\n");
    json_array_foreach((json_t *)(uintptr_t)hardest, i, hard)
        add_hard(text, hard, reader, reader != NULL ? dataset_store_info(store)->n_records : 0,
                 (int)number(report, "channel_order"));
    report_add(text, "</div>\n");
    dataset_reader_destroy(&reader);
    dataset_store_close(&store);
}

/* --- Time, workers, events, environment ------------------------------------------------------- */

static void add_time(report_text *text, const json_t *report)
{
    static const struct {
        const char *key, *name, *colour;
    } parts[] = {{"compute_s", "computing", "var(--c)"},
                 {"data_wait_s", "waiting for data", "var(--b)"},
                 {"reduce_s", "reducing gradients", "var(--a)"},
                 {"update_s", "updating and gathering weights", "var(--d)"},
                 {"other_s", "other", "var(--dim)"}};
    const json_t *throughput = json_object_get(report, "throughput");
    const json_t *where = json_object_get(throughput, "where_worker_1_spent_it");
    const double total_s = number(throughput, "train_s");

    if (where == NULL || !(total_s > 0)) return;
    report_add(text, "<h2>Where the time went</h2>\n<p class=\"dim\">Worker 1, in training.</p>\n"
                     "<div class=\"bar\">");
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        report_add(text, "<span style=\"width:%.2f%%;background:%s\"></span>",
                   100 * number(where, parts[i].key) / total_s, parts[i].colour);
    report_add(text, "</div>\n<table>");
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        report_add(text,
                   "<tr><td><span style=\"color:%s\">&#9632;</span> %s</td><td>%.1f s</td>"
                   "<td>%.1f %%</td></tr>",
                   parts[i].colour, parts[i].name, number(where, parts[i].key),
                   100 * number(where, parts[i].key) / total_s);
    report_add(text, "</table>\n");
}

static void add_workers(report_text *text, const json_t *report)
{
    const json_t *list = json_object_get(json_object_get(report, "workers"), "workers");
    const json_t *metrics = json_object_get(report, "metrics");
    const json_t *times = json_object_get(
        json_array_get(metrics, json_array_size(metrics) > 0 ? json_array_size(metrics) - 1 : 0),
        "worker_step_times_s");
    size_t i = 0;
    const json_t *worker = NULL;

    if (json_array_size(list) == 0) return;
    report_add(text, "<h2>Workers</h2>\n<table><tr><th>rank</th><th>host</th><th>device</th>"
                     "<th>replicas</th><th>computing, last step</th></tr>\n");
    json_array_foreach((json_t *)(uintptr_t)list, i, worker)
    {
        report_add(text, "<tr><td>%.0f</td><td>", number(worker, "rank"));
        report_add_escaped(text, string(worker, "host"));
        report_add(text, "</td><td>");
        report_add_escaped(text, string(worker, "device"));
        report_add(text, "</td><td>%.0f from %.0f</td>", number(worker, "replicas"),
                   number(worker, "first_replica"));
        const json_t *time = json_array_get(times, i);
        if (json_number_value(time) > 0) /* 0: the job was over before the worker told */
            report_add(text, "<td>%.1f ms</td></tr>\n", 1e3 * json_number_value(time));
        else
            report_add(text, "<td></td></tr>\n");
    }
    report_add(text, "</table>\n");
}

static void add_events(report_text *text, const json_t *report)
{
    const json_t *events = json_object_get(report, "events");
    const size_t n = json_array_size(events);
    const size_t first = n > MAX_EVENTS ? n - MAX_EVENTS : 0;

    if (n == 0) return;
    report_add(text,
               "<h2>Events</h2>\n<details><summary>%zu event%s%s</summary><table><tr><th>time"
               "</th><th>event</th><th>details</th></tr>\n",
               n, n == 1 ? "" : "s", first > 0 ? ", the newest of them shown" : "");
    for (size_t i = first; i < n; i++) {
        const json_t *event = json_array_get(events, i);
        const char *key = NULL;
        const json_t *value = NULL;
        report_add(text, "<tr><td>");
        report_add_escaped(text, string(event, "time"));
        report_add(text, "</td><td>");
        report_add_escaped(text, string(event, "event"));
        report_add(text, "</td><td>");
        json_object_foreach((json_t *)(uintptr_t)event, key, value)
        {
            if (strcmp(key, "time") == 0 || strcmp(key, "event") == 0) continue;
            if (json_is_string(value)) {
                report_add_escaped(text, key);
                report_add(text, " ");
                report_add_escaped(text, json_string_value(value));
                report_add(text, "; ");
            } else if (json_is_number(value)) {
                report_add_escaped(text, key);
                report_add(text, " %.9g; ", json_number_value(value));
            }
        }
        report_add(text, "</td></tr>\n");
    }
    report_add(text, "</table></details>\n");
}

static void add_environment(report_text *text, const json_t *report)
{
    const json_t *environment = json_object_get(report, "environment");
    const char *key = NULL;
    const json_t *value = NULL;

    report_add(text, "<h2>Environment</h2>\n<table>");
    json_object_foreach((json_t *)(uintptr_t)environment, key, value)
    {
        report_add(text, "<tr><td>%s</td><td>", key);
        if (json_is_string(value))
            report_add_escaped(text, json_string_value(value));
        else
            report_add(text, "%lld", (long long)json_integer_value(value));
        report_add(text, "</td></tr>");
    }
    report_add(text, "</table>\n<h2>Job</h2>\n<pre>");
    report_add_escaped(text, string(report, "job"));
    report_add(text, "</pre>\n");
}

cvy_status report_render(const json_t *report, report_text *out)
{
    const json_t *last = json_object_get(report, "last_evaluation");

    report_add(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                    "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                    "<title>");
    report_add_escaped(out, string(report, "name"));
    report_add(out, "</title>\n%s</head>\n<body>\n", style);
    add_summary(out, report);
    add_curves(out, report);
    add_hardest(out, report);
    add_confusion(out, last);
    add_classes(out, last);
    add_calibration(out, last);
    add_time(out, report);
    add_workers(out, report);
    add_events(out, report);
    add_environment(out, report);
    report_add(out, "</body>\n</html>\n");
    return out->has_failed ? CVY_FAIL(CVY_ERR_NO_MEMORY, "page of the report") : CVY_OK;
}
