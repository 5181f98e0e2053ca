#include "bench/layer_table.h"

#include "base/alloc.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct row {
    int layer_idx;
    double forward_s, backward_s; /* per call */
    double multiply_adds;         /* of both passes */
} row;

static int slower_first(const void *a, const void *b)
{
    const row *x = a, *y = b;
    const double x_s = x->forward_s + x->backward_s, y_s = y->forward_s + y->backward_s;

    if (x_s != y_s) return x_s < y_s ? 1 : -1;
    return x->layer_idx - y->layer_idx;
}

static row make_row(const nn_graph *graph, const nn_net *net, int idx)
{
    const nn_graph_layer *layer = nn_graph_layer_at(graph, idx);
    const nn_layer_time *time = &nn_net_profile(net)[idx];
    row r = {.layer_idx = idx};

    if (time->n_forward > 0) {
        r.forward_s = time->forward_s / (double)time->n_forward;
        r.multiply_adds += (double)layer->plan.multiply_adds;
    }
    if (time->n_backward > 0) {
        r.backward_s = time->backward_s / (double)time->n_backward;
        /* The gradient of the images is not computed. */
        r.multiply_adds += (double)layer->plan.multiply_adds * (layer->input[0] == 0 ? 1 : 2);
    }
    return r;
}

static void add_row(row *sum, const row *r)
{
    sum->forward_s += r->forward_s;
    sum->backward_s += r->backward_s;
    sum->multiply_adds += r->multiply_adds;
}

static void print_line(const char *name, const char *type, const char *shape, const row *r,
                       double all_s)
{
    const double time_s = r->forward_s + r->backward_s;
    char gflops[16] = "-";

    if (r->multiply_adds > 0 && time_s > 0)
        snprintf(gflops, sizeof gflops, "%.1f", 2 * r->multiply_adds / time_s / 1e9);
    printf("%-28s %-13s %-22s %10.3f %11.3f %8s %6.1f%%\n", name, type, shape, 1e3 * r->forward_s,
           1e3 * r->backward_s, gflops, all_s > 0 ? 100 * time_s / all_s : 0.0);
}

static void print_row(const nn_graph *graph, const row *r, double all_s)
{
    const nn_graph_layer *layer = nn_graph_layer_at(graph, r->layer_idx);
    char shape[64];

    nn_shape_text(&layer->plan.out, shape, sizeof shape);
    print_line(layer->name, layer->ops->name, shape, r, all_s);
}

/* One line per layer type of the net, in the order of the registry. */
static void print_types(const nn_graph *graph, const row *rows, double all_s)
{
    for (int i = 0; i < nn_layer_count(); i++) {
        const nn_layer_ops *ops = nn_layer_at(i);
        row sum = {0};
        char count[32];
        int n = 0;
        for (int j = 0; j < nn_graph_n_layers(graph); j++) {
            if (nn_graph_layer_at(graph, rows[j].layer_idx)->ops != ops) continue;
            add_row(&sum, &rows[j]);
            n++;
        }
        if (n == 0) continue;
        snprintf(count, sizeof count, "%d layer%s", n, n == 1 ? "" : "s");
        print_line("", ops->name, count, &sum, all_s);
    }
}

cvy_status layer_table_print(const nn_graph *graph, const nn_net *net)
{
    const int n = nn_graph_n_layers(graph);
    row *rows = cvy_alloc((size_t)n * sizeof *rows);
    row all = {0};

    if (rows == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "profile of %d layers", n);
    for (int i = 0; i < n; i++) {
        rows[i] = make_row(graph, net, i);
        add_row(&all, &rows[i]);
    }
    const double all_s = all.forward_s + all.backward_s;
    qsort(rows, (size_t)n, sizeof *rows, slower_first);
    printf("%-28s %-13s %-22s %10s %11s %8s %7s\n", "layer", "type", "output", "forward ms",
           "backward ms", "GFLOP/s", "share");
    for (int i = 0; i < n; i++) print_row(graph, &rows[i], all_s);
    print_types(graph, rows, all_s);
    print_line("all layers", "", "", &all, all_s);
    cvy_free(rows);
    if (fflush(stdout) != 0) return CVY_FAIL(CVY_ERR_IO, "write to stdout: %s", strerror(errno));
    return CVY_OK;
}
