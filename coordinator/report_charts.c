#include "coordinator/report_internal.h"

#include <math.h>
#include <stdio.h>

/* The drawing: a box in user units of the SVG, with room for the axes' texts. */
#define WIDTH      560.0
#define HEIGHT     240.0
#define LEFT       56.0
#define RIGHT      12.0
#define TOP        28.0
#define BOTTOM     36.0
#define N_TICKS    5
#define MAX_POINTS 400 /* of a line: more are averaged, the eye sees no difference */

typedef struct range {
    double min, max, step;
} range;

/* Ticks at 1, 2 or 5 times a power of ten (Heckbert, "Nice numbers for graph labels", Graphics
 * Gems, 1990). */
static range nice_range(double min, double max)
{
    if (!(max > min)) {
        max = min + (fabs(min) > 0 ? fabs(min) * 0.1 : 1.0);
    }
    const double rough = (max - min) / N_TICKS;
    const double power = pow(10.0, floor(log10(rough)));
    const double mantissa = rough / power;
    const double step = power * (mantissa < 1.5 ? 1 : mantissa < 3 ? 2 : mantissa < 7 ? 5 : 10);
    return (range){floor(min / step) * step, ceil(max / step) * step, step};
}

static int find_extent(const report_chart *chart, range *x, range *y)
{
    double x_min = INFINITY, x_max = -INFINITY, y_min = INFINITY, y_max = -INFINITY;

    for (int s = 0; s < chart->n_series; s++) {
        const report_series *series = &chart->series[s];
        for (int i = 0; i < series->n; i++) {
            if (!isfinite(series->y[i]) || !isfinite(series->x[i])) continue;
            x_min = fmin(x_min, series->x[i]);
            x_max = fmax(x_max, series->x[i]);
            y_min = fmin(y_min, series->y[i]);
            y_max = fmax(y_max, series->y[i]);
        }
    }
    if (!(x_max >= x_min)) return 0;
    if (chart->is_from_zero) y_min = fmin(y_min, 0);
    *x = nice_range(x_min, x_max);
    x->min = x_min; /* along x the line fills the box */
    x->max = x_max > x_min ? x_max : x_min + 1;
    *y = nice_range(y_min, y_max);
    return 1;
}

static double place_x(const range *r, double value)
{
    return LEFT + (value - r->min) / (r->max - r->min) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const range *r, double value)
{
    return HEIGHT - BOTTOM - (value - r->min) / (r->max - r->min) * (HEIGHT - TOP - BOTTOM);
}

static void add_axes(report_text *text, const report_chart *chart, const range *x, const range *y)
{
    for (int i = 0; i <= 2 * N_TICKS; i++) {
        const double value = y->min + i * y->step;
        if (value > y->max + 1e-9 * y->step) break;
        const double at = place_y(y, value);
        report_add(text, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>",
                   LEFT, WIDTH - RIGHT, at, at);
        report_add(text, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%g</text>", LEFT - 6,
                   at + 4, fabs(value) < 1e-9 * y->step ? 0.0 : value);
    }
    for (int i = 0; i <= 2 * N_TICKS; i++) {
        const double value = (ceil(x->min / x->step - 1e-9) + i) * x->step;
        if (value > x->max + 1e-9 * x->step) break;
        report_add(text, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>",
                   place_x(x, value), HEIGHT - BOTTOM + 16, value);
    }
    report_add(text, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">", (LEFT + WIDTH) / 2,
               HEIGHT - 4);
    report_add_escaped(text, chart->x_name);
    report_add(text, "</text>");
}

/* The points of one line, runs of them averaged when there are too many. */
static void add_line(report_text *text, const report_series *series, const range *x, const range *y)
{
    const int per_point = (series->n + MAX_POINTS - 1) / MAX_POINTS;
    int n_drawn = 0;
    double last_x = 0, last_y = 0;

    report_add(text, "<polyline class=\"%s\" points=\"", series->css_class);
    for (int i = 0; i < series->n; i += per_point) {
        double x_sum = 0, y_sum = 0;
        int n = 0;
        for (int k = i; k < i + per_point && k < series->n; k++) {
            if (!isfinite(series->x[k]) || !isfinite(series->y[k])) continue;
            x_sum += series->x[k];
            y_sum += series->y[k];
            n++;
        }
        if (n == 0) continue;
        last_x = place_x(x, x_sum / n);
        last_y = place_y(y, y_sum / n);
        report_add(text, "%.1f,%.1f ", last_x, last_y);
        n_drawn++;
    }
    report_add(text, "\"/>");
    if (n_drawn == 1)
        report_add(text, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>",
                   series->css_class, last_x, last_y);
}

static void add_legend(report_text *text, const report_chart *chart)
{
    double at = LEFT;

    report_add(text, "<text class=\"title\" x=\"%.1f\" y=\"14\">", LEFT);
    report_add_escaped(text, chart->title);
    report_add(text, "</text>");
    if (chart->n_series < 2) return;
    for (int s = 0; s < chart->n_series; s++) {
        at = WIDTH - RIGHT - 110.0 * (chart->n_series - s);
        report_add(text,
                   "<line class=\"%s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"10\" y2=\"10\"/><text "
                   "x=\"%.1f\" y=\"14\">",
                   chart->series[s].css_class, at, at + 18, at + 24);
        report_add_escaped(text, chart->series[s].name);
        report_add(text, "</text>");
    }
}

void report_add_chart(report_text *text, const report_chart *chart)
{
    range x, y;

    if (!find_extent(chart, &x, &y)) return;
    report_add(text, "<svg class=\"chart\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"",
               WIDTH, HEIGHT);
    report_add_escaped(text, chart->title);
    report_add(text, "\">");
    add_axes(text, chart, &x, &y);
    for (int s = 0; s < chart->n_series; s++) add_line(text, &chart->series[s], &x, &y);
    add_legend(text, chart);
    report_add(text, "</svg>\n");
}
