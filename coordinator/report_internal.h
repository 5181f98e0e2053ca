#ifndef COORDINATOR_REPORT_INTERNAL_H
#define COORDINATOR_REPORT_INTERNAL_H

#include "base/compiler.h"
#include "base/status.h"

#include <jansson.h>
#include <stddef.h>

/** Text that grows; the first failure sticks and everything after it does nothing. */
typedef struct report_text {
    char *bytes; /* NUL-terminated once something was added; cvy_free() it */
    size_t size_bytes, capacity_bytes;
    int has_failed;
} report_text;

void report_add(report_text *text, const char *format, ...) CVY_PRINTF(2, 3);
/** Text from data (UTF-8), with &, <, >, " and ' escaped for HTML, control characters as '?'. */
void report_add_escaped(report_text *text, const char *from);
void report_add_base64(report_text *text, const unsigned char *bytes, size_t size_bytes);

/** One line of a chart: n points, x ascending. NaN values are left out. */
typedef struct report_series {
    const char *name;
    const char *css_class; /* colour: "s0" ... "s3" */
    int n;
    const double *x, *y;
} report_series;

typedef struct report_chart {
    const char *title, *x_name; /* the title says what y is */
    int n_series;
    const report_series *series;
    int is_from_zero; /* y axis begins at 0 */
} report_chart;

/** An inline SVG with axes, ticks and a legend; nothing when no series has a point. */
void report_add_chart(report_text *text, const report_chart *chart);

/** What the run folder holds, as one JSON document: report.json. New reference. */
cvy_status report_collect(const char *run_folder, json_t **out);
/** That document as a page; pictures come from the validation set it names. */
cvy_status report_render(const json_t *report, report_text *out);

#endif
