#include "launch/bench_report.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_WIDTH = 26, TYPE_WIDTH = 22, SHAPE_WIDTH = 20, SHARE_WIDTH = 7, CELL_WIDTH = 29 };

static const char *const pass_titles[LAUNCH_N_PASSES] = {"forward", "backward-data",
                                                         "backward-filter"};
static const char *const pass_keys[LAUNCH_N_PASSES] = {"forward", "backward_data",
                                                       "backward_filter"};

/* --- Text: ceilings and step ------------------------------------------------------------------ */

void launch_report_ceilings(const launch_ceilings *ceilings)
{
    char all[32];

    snprintf(all, sizeof all, "%d thread%s", ceilings->n_threads,
             ceilings->n_threads == 1 ? "" : "s");
    printf("%-26s %12s %12s\n", "ceilings of this machine", "1 thread", all);
    printf("%-26s %12.1f %12.1f   float32, 2 FLOP each, %d-bit vectors\n", "multiply-adds, GFLOP/s",
           ceilings->gflops_one, ceilings->gflops, ceilings->vector_bits);
    printf("%-26s %12.1f %12.1f   triad: two arrays read, one written\n", "memory, GB/s",
           ceilings->gbytes_per_s_one, ceilings->gbytes_per_s);
}

void launch_report_step(const launch_stepper *s, const launch_step_figures *figures,
                        int64_t n_warmup, const launch_ceilings *ceilings)
{
    const launch_stepper_options *options = s->options;
    const launch_spread *time_s = &figures->time_s;
    const double flop = 2.0 * (double)figures->multiply_adds;
    const double gflops = 1e-9 * flop / time_s->median;
    const nn_shape batch = nn_graph_shape(s->graph, 0);
    const nn_shape logits = nn_graph_shape(s->graph, nn_graph_logits(s->graph));
    char shape[64];

    nn_shape_text(&batch, shape, sizeof shape);
    printf("\n%s, %s: images %s, %lld classes, %lld thread%s, backend %s\n", options->arch,
           options->is_training ? "a training step" : "evaluation", shape, (long long)logits.dim[1],
           (long long)options->threads, options->threads == 1 ? "" : "s", s->backend->ops->name);
    printf("%-18s %.3f ms median (%.3f to %.3f) of %lld, after %lld to warm up\n", "step",
           1e3 * time_s->median, 1e3 * time_s->min, 1e3 * time_s->max, (long long)figures->n_steps,
           (long long)n_warmup);
    printf("%-18s %.1f\n", "images/s", (double)options->minibatch / time_s->median);
    printf("%-18s %.1f: %.1f %% of the peak; %.3f GFLOP a step, as direct convolutions\n",
           "GFLOP/s", gflops, 100 * gflops / ceilings->gflops, 1e-9 * flop);
    printf("%-18s %.1f MB at most, %.1f MB of them activations and gradients\n", "memory",
           1e-6 * (double)figures->peak_rss_bytes, 1e-6 * (double)nn_net_arena_bytes(s->net));
}

/* --- Text: the table -------------------------------------------------------------------------- */

typedef struct printing {
    const launch_table *table;
    const launch_ceilings *ceilings; /* NULL: unknown */
    int n_passes;
} printing;

static void print_cell(const printing *p, const launch_cost *cost)
{
    char gflops[16] = "-", peak[16] = "-", memory[16] = "-";

    if (!(cost->time_s > 0)) {
        printf(" |%9s %8s %5s %5s", "-", "-", "-", "-");
        return;
    }
    if (cost->multiply_adds > 0) snprintf(gflops, sizeof gflops, "%.1f", launch_cost_gflops(cost));
    if (cost->multiply_adds > 0 && p->ceilings != NULL) {
        snprintf(peak, sizeof peak, "%.0f%%", 100 * launch_cost_gflops(cost) / p->ceilings->gflops);
    }
    if (p->ceilings != NULL) {
        snprintf(memory, sizeof memory, "%.0f%%",
                 100 * launch_cost_bandwidth_share(cost, p->ceilings->gbytes_per_s));
    }
    printf(" |%9.3f %8s %5s %5s", 1e3 * cost->time_s, gflops, peak, memory);
}

static void print_left(const char *name, const char *type, const char *shape, double share)
{
    printf("%-*s %-*s %-*s", NAME_WIDTH, name, TYPE_WIDTH, type, SHAPE_WIDTH, shape);
    if (share >= 0) {
        printf(" %*.1f%%", SHARE_WIDTH - 1, 100 * share);
    } else
        printf(" %*s", SHARE_WIDTH, "");
}

static double share_of_step(const launch_table *table, double time_s)
{
    return table->step_s > 0 ? time_s / table->step_s : 0.0;
}

static void print_row(const printing *p, const launch_table_row *row)
{
    char shape[64];

    if (row->name == NULL) {
        snprintf(shape, sizeof shape, "%d", row->n_layers);
    } else
        nn_shape_text(&row->out, shape, sizeof shape);
    if (row->name != NULL && row->runs_at != row->layer_idx) {
        print_left(row->name, row->type, shape, -1);
        printf(" | within %s\n", p->table->rows[row->runs_at].name);
        return;
    }
    print_left(row->name != NULL ? row->name : "", row->type, shape,
               share_of_step(p->table, launch_row_time_s(row)));
    for (int i = 0; i < p->n_passes; i++) print_cell(p, &row->pass[i]);
    printf("\n");
}

static void print_head(const printing *p, const char *name, const char *shape)
{
    print_left("", "", "", -1);
    for (int i = 0; i < p->n_passes; i++) {
        printf(" | %-*s", i + 1 < p->n_passes ? CELL_WIDTH : 0, pass_titles[i]);
    }
    printf("\n%-*s %-*s %-*s %*s", NAME_WIDTH, name, TYPE_WIDTH, "type", SHAPE_WIDTH, shape,
           SHARE_WIDTH, "share");
    for (int i = 0; i < p->n_passes; i++) {
        printf(" |%9s %8s %5s %5s", "ms", "GFLOP/s", "peak", "mem");
    }
    printf("\n");
}

static void print_ends(const printing *p)
{
    const launch_table *table = p->table;
    const double rest_s = launch_table_rest_s(table);

    if (table->update.time_s > 0) {
        print_left("update of the weights", "", "", share_of_step(table, table->update.time_s));
        print_cell(p, &table->update);
        printf("\n");
    }
    print_left("rest of the step", "", "", share_of_step(table, rest_s > 0 ? rest_s : 0));
    printf(" |%9.3f\n", 1e3 * rest_s);
    print_left("mean step", "", "", 1);
    printf(" |%9.3f\n", 1e3 * table->step_s);
    printf("outside convolutions: %.1f %% of the step\n",
           100 * launch_table_outside_convolutions(table));
}

/* Rows of one table, by pointers: the turn's time, then the net's order. */
static int slower_turn_first(const void *a, const void *b)
{
    const launch_table_row *x = *(const launch_table_row *const *)a;
    const launch_table_row *y = *(const launch_table_row *const *)b;
    const double x_s = launch_row_time_s(x + (x->runs_at - x->layer_idx));
    const double y_s = launch_row_time_s(y + (y->runs_at - y->layer_idx));

    if (x_s != y_s) return x_s < y_s ? 1 : -1;
    if (x->runs_at != y->runs_at) return x->runs_at - y->runs_at;
    return x->layer_idx - y->layer_idx;
}

cvy_status launch_report_table(const launch_table *table, int is_training,
                               const launch_ceilings *ceilings)
{
    const printing p = {
        .table = table, .ceilings = ceilings, .n_passes = is_training ? LAUNCH_N_PASSES : 1};
    const launch_table_row **order = cvy_alloc((size_t)table->n_rows * sizeof *order);

    if (order == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "table of %d layers", table->n_rows);
    for (int i = 0; i < table->n_rows; i++) order[i] = &table->rows[i];
    qsort(order, (size_t)table->n_rows, sizeof *order, slower_turn_first);
    printf("\n");
    print_head(&p, "layer", "output");
    for (int i = 0; i < table->n_rows; i++) print_row(&p, order[i]);
    printf("\n");
    print_head(&p, "sums", "layers");
    for (int i = 0; i < table->n_types; i++) print_row(&p, &table->types[i]);
    print_ends(&p);
    cvy_free(order);
    return CVY_OK;
}

/* --- JSON ------------------------------------------------------------------------------------- */

static json_t *cost_json(const launch_cost *cost, const launch_ceilings *ceilings)
{
    return json_pack("{s:f, s:f, s:I, s:f, s:I, s:f}", "time_s", cost->time_s, "gflops",
                     launch_cost_gflops(cost), "multiply_adds", (json_int_t)cost->multiply_adds,
                     "share_of_peak", launch_cost_gflops(cost) / ceilings->gflops, "bytes",
                     (json_int_t)cost->bytes, "share_of_bandwidth",
                     launch_cost_bandwidth_share(cost, ceilings->gbytes_per_s));
}

static json_t *shape_json(const nn_shape *shape)
{
    json_t *list = json_array();

    for (int i = 0; i < shape->n_dims; i++) {
        if (json_array_append_new(list, json_integer((json_int_t)shape->dim[i])) == 0) continue;
        json_decref(list);
        return NULL;
    }
    return list;
}

static json_t *row_json(const launch_table *table, const launch_table_row *row,
                        const launch_ceilings *ceilings)
{
    json_t *object = json_pack("{s:s}", "type", row->type);

    if (row->name != NULL) {
        object = launch_json_with(object, "name", json_string(row->name));
        object = launch_json_with(object, "output", shape_json(&row->out));
    } else {
        object = launch_json_with(object, "layers", json_integer(row->n_layers));
    }
    if (row->name != NULL && row->runs_at != row->layer_idx) {
        const char *name = table->rows[row->runs_at].name;
        return launch_json_with(object, "within", json_string(name));
    }
    object = launch_json_with(object, "share_of_step",
                              json_real(share_of_step(table, launch_row_time_s(row))));
    for (int i = 0; i < LAUNCH_N_PASSES; i++) {
        if (!(row->pass[i].time_s > 0)) continue;
        object = launch_json_with(object, pass_keys[i], cost_json(&row->pass[i], ceilings));
    }
    return object;
}

static json_t *rows_json(const launch_table *table, const launch_table_row *rows, int n,
                         const launch_ceilings *ceilings)
{
    json_t *list = json_array();

    for (int i = 0; i < n; i++) {
        if (json_array_append_new(list, row_json(table, &rows[i], ceilings)) == 0) continue;
        json_decref(list);
        return NULL;
    }
    return list;
}

json_t *launch_report_table_json(json_t *object, const launch_table *table,
                                 const launch_ceilings *ceilings)
{
    object = launch_json_with(object, "layers",
                              rows_json(table, table->rows, table->n_rows, ceilings));
    object = launch_json_with(object, "types",
                              rows_json(table, table->types, table->n_types, ceilings));
    if (table->update.time_s > 0) {
        object = launch_json_with(object, "update", cost_json(&table->update, ceilings));
    }
    object = launch_json_with(object, "rest_s", json_real(launch_table_rest_s(table)));
    return launch_json_with(object, "outside_convolutions",
                            json_real(launch_table_outside_convolutions(table)));
}
