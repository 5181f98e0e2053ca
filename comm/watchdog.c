#include "comm/watchdog.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <string.h>

/* Step times remembered for the automatic deadline. */
#define N_STEPS     100
#define STEP_MIN_S  10.0
#define STEP_FACTOR 5.0

typedef struct watched {
    double heard_s;    /* last message */
    double beat_s;     /* last heartbeat */
    double progress_s; /* when its n_progress last grew */
    int has_beat;
    comm_heartbeat last; /* valid when has_beat */
} watched;

struct comm_watchdog {
    comm_watchdog_options options;
    watched *rank; /* (n_ranks); rank 0 unused */
    comm_phase expected;
    double called_s;   /* last call of any kind: a gap is a pause of the watcher */
    double progress_s; /* of any rank, or of a command */
    int has_stepped;   /* a step was done: the start is over */
    int64_t newest_step;
    int64_t step[N_STEPS]; /* of each remembered time, by step modulo N_STEPS */
    double step_s[N_STEPS];
};

cvy_status comm_watchdog_create(const comm_watchdog_options *options, double now_s,
                                comm_watchdog **out)
{
    *out = NULL;
    if (options->n_ranks < 1)
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "watchdog over %d ranks", options->n_ranks);
    comm_watchdog *w = cvy_alloc_zero(1, sizeof *w);
    watched *ranks = cvy_alloc_zero((size_t)options->n_ranks, sizeof *ranks);
    if (w == NULL || ranks == NULL) {
        cvy_free(ranks);
        cvy_free(w);
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "watchdog over %d ranks", options->n_ranks);
    }
    w->options = *options;
    w->rank = ranks;
    w->expected = COMM_PHASE_START;
    w->called_s = w->progress_s = now_s;
    for (int i = 0; i < options->n_ranks; i++)
        ranks[i].heard_s = ranks[i].beat_s = ranks[i].progress_s = now_s;
    *out = w;
    return CVY_OK;
}

void comm_watchdog_destroy(comm_watchdog **watchdog)
{
    if (*watchdog == NULL) return;
    cvy_free((*watchdog)->rank);
    cvy_free(*watchdog);
    *watchdog = NULL;
}

double comm_watchdog_deadline_s(const comm_watchdog *w)
{
    double slowest_s = 0;

    if (w->options.step_s > 0) return w->options.step_s;
    for (int i = 0; i < N_STEPS; i++) {
        if (w->newest_step - w->step[i] < N_STEPS && w->step_s[i] > slowest_s)
            slowest_s = w->step_s[i];
    }
    const double by_steps_s = STEP_FACTOR * slowest_s;
    return by_steps_s > STEP_MIN_S ? by_steps_s : STEP_MIN_S;
}

const comm_heartbeat *comm_watchdog_last(const comm_watchdog *w, int rank)
{
    if (rank < 0 || rank >= w->options.n_ranks || !w->rank[rank].has_beat) return NULL;
    return &w->rank[rank].last;
}

static void restart_clocks(comm_watchdog *w, double now_s)
{
    w->progress_s = now_s;
    for (int i = 0; i < w->options.n_ranks; i++) w->rank[i].heard_s = w->rank[i].progress_s = now_s;
}

/* Every call passes here: whoever was not running himself cannot say who was silent. */
static void note_call(comm_watchdog *w, double now_s)
{
    if (now_s - w->called_s > comm_watchdog_deadline_s(w) / 2) restart_clocks(w, now_s);
    w->called_s = now_s;
}

static void remember_step(comm_watchdog *w, const comm_heartbeat *beat)
{
    /* The time is that of the step before the one at work. */
    if (beat->step < 1 || !(beat->step_s > 0)) return;
    const int idx = (int)(beat->step % N_STEPS);
    const double step_s = (double)beat->step_s;

    if (beat->step > w->newest_step) w->newest_step = beat->step;
    if (w->step[idx] == beat->step) {
        if (step_s > w->step_s[idx]) w->step_s[idx] = step_s;
    } else if (beat->step > w->step[idx]) {
        w->step[idx] = beat->step;
        w->step_s[idx] = step_s;
    }
}

void comm_watchdog_hear(comm_watchdog *w, int rank, const comm_heartbeat *heartbeat, double now_s)
{
    note_call(w, now_s);
    if (rank < 1 || rank >= w->options.n_ranks) return;
    watched *r = &w->rank[rank];
    r->heard_s = now_s;
    if (heartbeat == NULL) return;
    if (r->has_beat && heartbeat->n_progress > r->last.n_progress) {
        r->progress_s = w->progress_s = now_s;
    } else if (!r->has_beat) {
        r->progress_s = w->progress_s = now_s; /* its first word is progress too */
    }
    if (heartbeat->step_s > 0) w->has_stepped = 1;
    remember_step(w, heartbeat);
    r->last = *heartbeat;
    r->beat_s = now_s;
    r->has_beat = 1;
}

void comm_watchdog_expect(comm_watchdog *w, comm_phase phase, double now_s)
{
    note_call(w, now_s);
    w->expected = phase;
    w->progress_s = now_s;
    for (int i = 0; i < w->options.n_ranks; i++) w->rank[i].progress_s = now_s;
}

/* How long a phase may take without a word or progress; the step's deadline where it has none of
 * its own. */
static double phase_limit_s(const comm_watchdog *w, comm_phase phase)
{
    double own_s = 0;

    if (phase == COMM_PHASE_START || phase == COMM_PHASE_RESUME) own_s = w->options.start_s;
    if (phase == COMM_PHASE_EVALUATE) own_s = w->options.evaluate_s;
    if (phase == COMM_PHASE_SNAPSHOT) own_s = w->options.save_s;
    return own_s > 0 ? own_s : comm_watchdog_deadline_s(w);
}

static int is_training(const comm_watchdog *w)
{
    return w->expected >= COMM_PHASE_DATA && w->expected <= COMM_PHASE_UPDATE;
}

static comm_phase phase_of(const watched *r)
{
    return r->has_beat ? (comm_phase)r->last.phase : COMM_PHASE_START;
}

/* A rank has as long as what is expected of it, or what it said it was doing, may take. */
static double limit_s(const comm_watchdog *w, const watched *r)
{
    double longest_s = phase_limit_s(w, w->expected);
    const double its_s = phase_limit_s(w, phase_of(r));

    if (its_s > longest_s) longest_s = its_s;
    /* The first step sets up what later ones find ready. */
    if (is_training(w) && !w->has_stepped && w->options.start_s > longest_s)
        longest_s = w->options.start_s;
    return longest_s;
}

static void describe(const comm_watchdog *w, int rank, int is_stuck, double silent_s,
                     comm_silent *out)
{
    const watched *r = &w->rank[rank];
    *out = (comm_silent){.rank = rank,
                         .silent_s = silent_s,
                         .is_stuck = is_stuck,
                         .phase = phase_of(r),
                         .step = r->has_beat ? r->last.step : 0};
}

/* The rank that is furthest past its limit without a word. *out_is_doubtful: some rank has been
 * silent for half of its limit and may be the one that holds the others up. */
static int find_silent(const comm_watchdog *w, double now_s, int *out_is_doubtful, comm_silent *out)
{
    double worst_s = 0;
    int worst = 0;

    *out_is_doubtful = 0;
    for (int rank = 1; rank < w->options.n_ranks; rank++) {
        const watched *r = &w->rank[rank];
        const double silent_s = now_s - r->heard_s, over_s = silent_s - limit_s(w, r);
        if (silent_s > limit_s(w, r) / 2) *out_is_doubtful = 1;
        if (over_s <= worst_s) continue;
        worst_s = over_s;
        worst = rank;
    }
    if (worst == 0) return 0;
    describe(w, worst, 0, now_s - w->rank[worst].heard_s, out);
    return 1;
}

/* Who holds up whom: a rank at work holds up those that wait for it in the reduction or the update;
 * an idle one comes next (it did not hear the command), then the one that is furthest behind. */
static int blame_class(const watched *r)
{
    switch (phase_of(r)) {
    case COMM_PHASE_IDLE:
        return 1;
    case COMM_PHASE_REDUCE:
    case COMM_PHASE_UPDATE:
        return 2;
    default:
        return 0;
    }
}

static int is_more_to_blame(const watched *a, const watched *b)
{
    if (blame_class(a) != blame_class(b)) return blame_class(a) < blame_class(b);
    if (a->last.step != b->last.step) return a->last.step < b->last.step;
    if (blame_class(a) == 2 && a->last.phase != b->last.phase) return a->last.phase < b->last.phase;
    /* In its phase since; heartbeats come at different times. */
    return a->beat_s - (double)a->last.phase_s < b->beat_s - (double)b->last.phase_s;
}

/* Nothing moves: in training and at the start the ranks go together, so the progress of any is that
 * of all. */
static int find_culprit(const comm_watchdog *w, double now_s, comm_silent *out)
{
    int worst = 0;

    for (int rank = 1; rank < w->options.n_ranks; rank++) {
        if (worst == 0 || is_more_to_blame(&w->rank[rank], &w->rank[worst])) worst = rank;
    }
    if (worst == 0 || now_s - w->progress_s <= limit_s(w, &w->rank[worst])) return 0;
    describe(w, worst, 1, now_s - w->progress_s, out);
    return 1;
}

/* In an evaluation each goes its own way, and is idle when it is done. */
static int find_stuck_alone(const comm_watchdog *w, double now_s, comm_silent *out)
{
    double worst_s = 0;
    int worst = 0;

    for (int rank = 1; rank < w->options.n_ranks; rank++) {
        const watched *r = &w->rank[rank];
        const double over_s = now_s - r->progress_s - limit_s(w, r);
        if (phase_of(r) == COMM_PHASE_IDLE || over_s <= worst_s) continue;
        worst_s = over_s;
        worst = rank;
    }
    if (worst == 0) return 0;
    describe(w, worst, 1, now_s - w->rank[worst].progress_s, out);
    return 1;
}

int comm_watchdog_check(comm_watchdog *w, double now_s, comm_silent *out)
{
    int is_doubtful = 0;

    note_call(w, now_s);
    if (find_silent(w, now_s, &is_doubtful, out)) return 1;
    /* Who has stopped speaking is named for that, a little later. */
    if (is_doubtful || w->expected == COMM_PHASE_IDLE) return 0;
    if (w->expected == COMM_PHASE_EVALUATE) return find_stuck_alone(w, now_s, out);
    return find_culprit(w, now_s, out);
}

/* --- The worker's side ----------------------------------------------------------------------- */

void comm_pulse_open(comm_pulse *pulse, comm *world, double interval_s)
{
    const double now_s = cvy_clock_now_s();

    *pulse = (comm_pulse){.world = world,
                          .interval_s = interval_s,
                          .last_sent_s = now_s - interval_s,
                          .phase_since_s = now_s,
                          .beat = {.phase = COMM_PHASE_START}};
}

/* Phases that may be silent for longer than a step. */
static int has_own_deadline(int phase)
{
    return phase == COMM_PHASE_START || phase == COMM_PHASE_RESUME ||
           phase == COMM_PHASE_EVALUATE || phase == COMM_PHASE_SNAPSHOT;
}

void comm_pulse_phase(comm_pulse *pulse, comm_phase phase)
{
    const int before = pulse->beat.phase;
    const double now_s = cvy_clock_now_s();

    pulse->beat.phase = (int32_t)phase;
    pulse->phase_since_s = now_s;
    const int is_news = has_own_deadline(before) || has_own_deadline((int)phase) ||
                        before == (int)COMM_PHASE_IDLE;
    if (before == (int)phase || !is_news) return;
    /* The coordinator must know which deadline counts now, and that an order was heard. A send that
     * fails shows up at the next beat or wait. */
    pulse->last_sent_s = now_s - pulse->interval_s;
    (void)comm_pulse_beat(pulse);
}

cvy_status comm_pulse_beat(comm_pulse *pulse)
{
    const double now_s = cvy_clock_now_s();

    if (now_s - pulse->last_sent_s < pulse->interval_s) return CVY_OK;
    pulse->last_sent_s = now_s;
    pulse->beat.phase_s = (float)(now_s - pulse->phase_since_s);
    return COMM_SEND(pulse->world, 0, COMM_HEARTBEAT, pulse->beat);
}
