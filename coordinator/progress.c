#include "coordinator/progress.h"

#include "base/alloc.h"
#include "base/log.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define REDRAW_S         0.2
#define FIRST_INTERVAL_S 10.0 /* between plain lines, at first */
#define INTERVAL_S       60.0
#define N_FIRST          6    /* plain lines before the longer interval */
#define SLOW_SHARE       0.10 /* a slowest worker is named from here on */
#define LINE_BYTES       512

struct coordinator_progress {
    coordinator_progress_options options;
    double drawn_at_s, line_at_s;
    int64_t lined_epoch;
    int n_lines;
    double images_per_s;   /* smoothed */
    pthread_mutex_t lock;  /* the terminal and line: any thread may log */
    char line[LINE_BYTES]; /* what stands on the terminal; empty: nothing */
};

void coordinator_text_count(double value, char out[32])
{
    char digits[32];
    const long long whole = llround(fmin(fmax(value, 0), 9e18));
    const int n = snprintf(digits, sizeof digits, "%lld", whole);
    int to = 0;

    for (int i = 0; i < n && to < 30; i++) {
        if (i > 0 && (n - i) % 3 == 0) out[to++] = ',';
        out[to++] = digits[i];
    }
    out[to] = 0;
}

void coordinator_text_duration(double seconds, char out[32])
{
    const long long s = isfinite(seconds) && seconds > 0 ? llround(fmin(seconds, 3.6e9)) : 0;

    if (s < 3600)
        snprintf(out, 32, "%lld:%02lld", s / 60, s % 60);
    else
        snprintf(out, 32, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
}

/* Best effort: a terminal that is gone costs nothing (SIGPIPE is ignored in all of convoy). */
static void put(const char *text)
{
    const int errno_before = errno; /* a caller may log between a failure and its strerror() */
    size_t n_left = strlen(text);

    while (n_left > 0) {
        const ssize_t n = write(STDERR_FILENO, text, n_left);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        text += n;
        n_left -= (size_t)n;
    }
    errno = errno_before;
}

static void erase(coordinator_progress *p)
{
    if (p->line[0] != 0) put("\r\033[K");
}

/* Log lines scroll above the live line: it is erased, the message is written, it is drawn again. */
static void around_log(void *arg, cvy_log_level level, const char *folder, const char *message)
{
    coordinator_progress *p = arg;

    pthread_mutex_lock(&p->lock);
    erase(p);
    cvy_log_to_stderr(level, folder, message);
    put(p->line);
    pthread_mutex_unlock(&p->lock);
}

cvy_status coordinator_progress_create(const coordinator_progress_options *options,
                                       coordinator_progress **out)
{
    coordinator_progress *p = cvy_alloc_zero(1, sizeof *p);

    *out = NULL;
    if (p == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "progress");
    CVY_ASSERT(options->total_steps >= 1 && options->steps_per_epoch >= 1);
    p->options = *options;
    p->drawn_at_s = -INFINITY; /* the first figures are shown at once */
    p->lined_epoch = -1;
    if (pthread_mutex_init(&p->lock, NULL) != 0) {
        cvy_free(p);
        return CVY_FAIL(CVY_ERR_OS, "lock of the progress line");
    }
    if (options->columns > 0) cvy_log_set_sink(around_log, p);
    *out = p;
    return CVY_OK;
}

void coordinator_progress_destroy(coordinator_progress **address)
{
    coordinator_progress *p = *address;

    if (p == NULL) return;
    if (p->options.columns > 0) {
        cvy_log_set_sink(NULL, NULL);
        if (p->line[0] != 0) put("\n");
    }
    (void)pthread_mutex_destroy(&p->lock);
    cvy_free(p);
    *address = NULL;
}

/* "[=====>    ] 41 %" of the epoch. */
static void bar_text(double share, char out[32])
{
    enum { WIDTH = 10 };
    const int n_full = (int)(share * WIDTH);
    char bar[WIDTH + 1];

    for (int i = 0; i < WIDTH; i++) bar[i] = i < n_full ? '=' : i == n_full ? '>' : ' ';
    bar[WIDTH] = 0;
    snprintf(out, 32, "[%s] %2d %%", bar, (int)(100 * share));
}

typedef struct figures {
    int64_t epoch, n_epochs;
    double epoch_share, top1; /* in percent; NaN without a sample */
    char rate[32], left[32], slowest[128];
} figures;

static figures find_figures(const coordinator_progress *p, const comm_metrics *m, int slowest_rank,
                            const char *slowest_host, double slowest_by)
{
    const coordinator_progress_options *o = &p->options;
    const int64_t done = m->step > 0 ? m->step - 1 : 0;
    figures f = {.epoch = done / o->steps_per_epoch + 1,
                 .n_epochs = (o->total_steps + o->steps_per_epoch - 1) / o->steps_per_epoch};

    f.epoch_share = (double)(m->step - (f.epoch - 1) * o->steps_per_epoch) /
                    (double)o->steps_per_epoch;
    f.top1 = m->n_counted > 0 ? 100 * m->n_top1 / (double)m->n_counted : NAN;
    coordinator_text_count(p->images_per_s, f.rate);
    const double n_left = (double)(o->total_steps - m->step) * (double)o->global_batch;
    coordinator_text_duration(p->images_per_s > 0 ? n_left / p->images_per_s : 0, f.left);
    if (slowest_host != NULL && slowest_by >= SLOW_SHARE)
        snprintf(f.slowest, sizeof f.slowest, "  slowest %d (%s) +%.0f %%", slowest_rank,
                 slowest_host, 100 * slowest_by);
    return f;
}

static void draw(coordinator_progress *p, const comm_metrics *m, const figures *f)
{
    char bar[32], text[LINE_BYTES];
    const int width = p->options.columns - 1;

    bar_text(f->epoch_share, bar);
    int n = snprintf(
        text, sizeof text,
        "epoch %lld/%lld %s  step %lld/%lld  loss %.3f  top-1 %.1f %%  %s images/s  %s left%s",
        (long long)f->epoch, (long long)f->n_epochs, bar, (long long)m->step,
        (long long)p->options.total_steps, m->loss, f->top1, f->rate, f->left, f->slowest);
    if (n > width) { /* what matters most, for a narrow terminal */
        n = snprintf(text, sizeof text,
                     "epoch %lld/%lld %2.0f %%  loss %.3f  top-1 %.1f %%  %s/s  %s left",
                     (long long)f->epoch, (long long)f->n_epochs, 100 * f->epoch_share, m->loss,
                     f->top1, f->rate, f->left);
    }
    if (width < n) text[width] = 0;
    pthread_mutex_lock(&p->lock);
    erase(p);
    memcpy(p->line, text, sizeof text);
    put(p->line);
    pthread_mutex_unlock(&p->lock);
}

static int line_is_due(const coordinator_progress *p, int64_t epoch, double now_s)
{
    const double interval_s = p->n_lines < N_FIRST ? FIRST_INTERVAL_S : INTERVAL_S;
    return epoch != p->lined_epoch || now_s - p->line_at_s >= interval_s;
}

void coordinator_progress_update(coordinator_progress *p, const comm_metrics *m, int slowest_rank,
                                 const char *slowest_host, double slowest_by, double now_s)
{
    if (m->seconds > 0 && m->n_samples > 0) {
        const double rate = (double)m->n_samples / m->seconds;
        p->images_per_s = p->images_per_s > 0 ? 0.8 * p->images_per_s + 0.2 * rate : rate;
    }
    const figures f = find_figures(p, m, slowest_rank, slowest_host, slowest_by);
    if (p->options.columns > 0) {
        if (now_s - p->drawn_at_s < REDRAW_S && m->step < p->options.total_steps) return;
        p->drawn_at_s = now_s;
        draw(p, m, &f);
        return;
    }
    /* A line when the next epoch begins, too: its figures are those of the one that ended. */
    if (!line_is_due(p, m->step / p->options.steps_per_epoch, now_s)) return;
    p->line_at_s = now_s;
    p->lined_epoch = m->step / p->options.steps_per_epoch;
    p->n_lines++;
    cvy_log_info(
        "epoch %lld/%lld, step %lld/%lld: loss %.4f, top-1 %.1f %%, %s images/s, %s left%s",
        (long long)f.epoch, (long long)f.n_epochs, (long long)m->step,
        (long long)p->options.total_steps, m->loss, f.top1, f.rate, f.left, f.slowest);
}
