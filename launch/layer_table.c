#include "launch/layer_table.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double launch_cost_gflops(const launch_cost *cost)
{
    return cost->time_s > 0 ? 2e-9 * cost->multiply_adds / cost->time_s : 0.0;
}

double launch_cost_bandwidth_share(const launch_cost *cost, double gbytes_per_s)
{
    return cost->time_s > 0 && gbytes_per_s > 0 ? cost->bytes / (1e9 * gbytes_per_s) / cost->time_s
                                                : 0.0;
}

double launch_row_time_s(const launch_table_row *row)
{
    double sum = 0;

    for (int i = 0; i < LAUNCH_N_PASSES; i++) sum += row->pass[i].time_s;
    return sum;
}

/* --- What enters and leaves a turn ------------------------------------------------------------ */

/* The layers that run at one turn, as one: bytes and multiply-adds. */
typedef struct turn {
    double x, weights, saved, y, kept_x, kept_y; /* forward; kept: read again backward */
    double dx, dweights;
    double multiply_adds;
    int n_dx; /* inputs that have a gradient */
} turn;

static double value_bytes(const nn_graph *graph, nn_value value)
{
    const nn_shape shape = nn_graph_shape(graph, value);

    return (double)nn_shape_n_elems(&shape) * (double)sizeof(float);
}

static int comes_from(const nn_net *net, nn_value value, int at)
{
    return value > 0 && nn_net_runs_at(net, value - 1) == at;
}

/* Add a layer to its turn. */
static void join(const nn_graph *graph, const nn_net *net, int layer_idx, turn *t)
{
    const int at = nn_net_runs_at(net, layer_idx);
    const nn_graph_layer *layer = nn_graph_layer_at(graph, layer_idx);
    const nn_layer_plan *plan = &layer->plan;
    const double y = value_bytes(graph, layer->output);

    for (int j = 0; j < layer->n_inputs; j++) {
        const nn_value x = layer->input[j];
        if (comes_from(net, x, at)) continue; /* stays inside a chain */
        const double bytes = value_bytes(graph, x);
        t->x += bytes;
        if ((plan->needs & NN_NEEDS_X) != 0) t->kept_x += bytes;
        if (!nn_net_has_gradient(net, x)) continue;
        t->dx += bytes;
        t->n_dx++;
    }
    for (int j = 0; j < plan->n_params; j++) {
        const double n_elems = (double)nn_shape_n_elems(&plan->params[j].shape);
        t->weights += n_elems * (double)sizeof(float);
        if (plan->params[j].kind != NN_PARAM_RUNNING) {
            t->dweights += n_elems * (double)sizeof(float);
        }
    }
    t->saved += (double)plan->saved_bytes + (double)plan->saved_per_output * y;
    t->multiply_adds += (double)plan->multiply_adds;
    if (layer_idx != at) return;
    t->y = y;
    if (nn_net_reads_output(net, layer_idx)) t->kept_y = y;
}

static void make_turn(const nn_graph *graph, const nn_net *net, int at, turn *out)
{
    *out = (turn){0};
    for (int i = 0; i <= at; i++) {
        if (nn_net_runs_at(net, i) == at) join(graph, net, i, out);
    }
}

static int runs_backward(const nn_graph *graph, const nn_net *net, int at)
{
    const nn_graph_layer *layer = nn_graph_layer_at(graph, at);

    return layer->plan.is_loss ? nn_net_has_gradient(net, layer->input[0])
                               : nn_net_has_gradient(net, layer->output);
}

/* Fill bytes and multiply-adds of a row's passes. */
static void count(const nn_graph *graph, const nn_net *net, launch_table_row *row)
{
    const nn_graph_layer *layer = nn_graph_layer_at(graph, row->layer_idx);
    launch_cost *pass = row->pass;
    turn t;

    make_turn(graph, net, row->layer_idx, &t);
    pass[LAUNCH_FORWARD].bytes = t.x + t.weights + t.saved + t.y;
    pass[LAUNCH_FORWARD].multiply_adds = t.multiply_adds;
    if (!runs_backward(graph, net, row->layer_idx)) return;
    const double dy = layer->plan.is_loss ? 0 : t.y;
    if (t.multiply_adds > 0) {
        pass[LAUNCH_BACKWARD_FILTER].bytes = dy + t.kept_x + t.dweights;
        pass[LAUNCH_BACKWARD_FILTER].multiply_adds = t.multiply_adds;
        if (t.n_dx == 0) return;
        pass[LAUNCH_BACKWARD_DATA].bytes = dy + t.weights + t.saved + t.kept_y + t.dx;
        pass[LAUNCH_BACKWARD_DATA].multiply_adds = t.multiply_adds;
    } else {
        pass[LAUNCH_BACKWARD_DATA].bytes = dy + t.kept_x + t.kept_y + t.weights + t.saved + t.dx +
                                           t.dweights;
    }
}

int64_t launch_multiply_adds(const nn_graph *graph, const nn_net *net)
{
    double sum = 0;

    for (int i = 0; i < nn_graph_n_layers(graph); i++) {
        launch_table_row row = {.layer_idx = i};
        if (nn_net_runs_at(net, i) != i) continue;
        count(graph, net, &row);
        for (int k = 0; k < LAUNCH_N_PASSES; k++) sum += row.pass[k].multiply_adds;
    }
    return (int64_t)sum;
}

/* --- Rows ------------------------------------------------------------------------------------- */

/* The types of all layers of a turn, in the net's order, joined by "+". */
static void name_type(const nn_graph *graph, const nn_net *net, launch_table_row *row)
{
    size_t used = 0;

    for (int i = 0; i <= row->layer_idx; i++) {
        const char *type = nn_graph_layer_at(graph, i)->ops->name;
        if (nn_net_runs_at(net, i) != row->layer_idx) continue;
        if (strcmp(type, "conv2d") == 0) row->has_convolution = 1;
        const int n = snprintf(row->type + used, sizeof row->type - used, "%s%s",
                               used > 0 ? "+" : "", type);
        used += (size_t)n;
        if (used >= sizeof row->type) return; /* cut: a chain of very many */
    }
}

/* What backward spends outside the gradients of filters goes to those of inputs, if there are any.
 * A pass that took no time was not run: the loss, without labels. */
static void give_times(const launch_layer_time *time, launch_table_row *row)
{
    launch_cost *pass = row->pass;

    pass[LAUNCH_FORWARD].time_s = time->forward_s;
    if (pass[LAUNCH_BACKWARD_FILTER].bytes > 0 && pass[LAUNCH_BACKWARD_DATA].bytes > 0) {
        pass[LAUNCH_BACKWARD_FILTER].time_s = time->filter_s;
        pass[LAUNCH_BACKWARD_DATA].time_s = time->backward_s - time->filter_s;
    } else if (pass[LAUNCH_BACKWARD_FILTER].bytes > 0) {
        pass[LAUNCH_BACKWARD_FILTER].time_s = time->backward_s;
    } else if (pass[LAUNCH_BACKWARD_DATA].bytes > 0) {
        pass[LAUNCH_BACKWARD_DATA].time_s = time->backward_s;
    }
    for (int k = 0; k < LAUNCH_N_PASSES; k++) {
        if (!(pass[k].time_s > 0)) pass[k] = (launch_cost){0};
    }
}

static launch_table_row make_row(const nn_graph *graph, const nn_net *net, int idx,
                                 const launch_layer_time *time)
{
    const nn_graph_layer *layer = nn_graph_layer_at(graph, idx);
    launch_table_row row = {.name = layer->name,
                            .out = layer->plan.out,
                            .layer_idx = idx,
                            .runs_at = nn_net_runs_at(net, idx),
                            .n_layers = 1};

    snprintf(row.type, sizeof row.type, "%s", layer->ops->name);
    if (row.runs_at != idx) return row;
    name_type(graph, net, &row);
    count(graph, net, &row);
    give_times(time, &row);
    return row;
}

static void add_to_type(launch_table *table, const launch_table_row *row)
{
    int i = 0;

    while (i < table->n_types && strcmp(table->types[i].type, row->type) != 0) i++;
    launch_table_row *sum = &table->types[i];
    if (i == table->n_types) {
        table->n_types++;
        memcpy(sum->type, row->type, sizeof sum->type);
        sum->layer_idx = sum->runs_at = row->layer_idx; /* the first of them: for the order */
        sum->has_convolution = row->has_convolution;
    }
    sum->n_layers++;
    for (int k = 0; k < LAUNCH_N_PASSES; k++) {
        sum->pass[k].time_s += row->pass[k].time_s;
        sum->pass[k].multiply_adds += row->pass[k].multiply_adds;
        sum->pass[k].bytes += row->pass[k].bytes;
    }
}

static int slower_first(const void *a, const void *b)
{
    const launch_table_row *x = a, *y = b;
    const double x_s = launch_row_time_s(x), y_s = launch_row_time_s(y);

    if (x_s != y_s) return x_s < y_s ? 1 : -1;
    return x->layer_idx - y->layer_idx;
}

cvy_status launch_table_make(const nn_graph *graph, const nn_net *net,
                             const launch_layer_time *times, const launch_table_step *step,
                             launch_table *out)
{
    const int n = nn_graph_n_layers(graph);
    const double flat_bytes = (double)nn_graph_params(graph)->n_elems * (double)sizeof(float);
    launch_table table = {.n_rows = n, .step_s = step->step_s};

    *out = (launch_table){0};
    table.rows = cvy_alloc_zero(2 * (size_t)n, sizeof *table.rows);
    if (table.rows == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "table of %d layers", n);
    table.types = table.rows + n;
    for (int i = 0; i < n; i++) {
        table.rows[i] = make_row(graph, net, i, &times[i]);
        if (table.rows[i].runs_at == i) add_to_type(&table, &table.rows[i]);
    }
    qsort(table.types, (size_t)table.n_types, sizeof *table.types, slower_first);
    if (step->update_s > 0) { /* gradients are read; weights and states read and written */
        table.update = (launch_cost){.time_s = step->update_s,
                                     .bytes = flat_bytes * (double)(3 + 2 * step->n_states)};
    }
    *out = table;
    return CVY_OK;
}

void launch_table_free(launch_table *table)
{
    cvy_free(table->rows);
    *table = (launch_table){0};
}

double launch_table_rest_s(const launch_table *table)
{
    double rest_s = table->step_s - table->update.time_s;

    for (int i = 0; i < table->n_types; i++) rest_s -= launch_row_time_s(&table->types[i]);
    return rest_s;
}

double launch_table_outside_convolutions(const launch_table *table)
{
    double outside_s = table->step_s;

    for (int i = 0; i < table->n_types; i++) {
        if (table->types[i].has_convolution) outside_s -= launch_row_time_s(&table->types[i]);
    }
    return table->step_s > 0 ? outside_s / table->step_s : 0.0;
}
