#ifndef COMM_WATCHDOG_H
#define COMM_WATCHDOG_H

#include "base/status.h"
#include "comm/comm.h"
#include "comm/protocol.h"

#include <stdint.h>

/**
 * Who is silent. The coordinator notes every heartbeat; a rank is lost when nothing came from it
 * for the deadline, or when it alone holds the others up: no progress anywhere for the deadline
 * while it is not in the phase where the others wait for it.
 *
 * Deadline of a step: as configured, or max(10 s, 5 x the slowest of the last 100 steps).
 */
typedef struct comm_watchdog comm_watchdog;

typedef struct comm_watchdog_options {
    int n_ranks;   /* of the world; rank 0 is not watched */
    double step_s; /* 0: automatic */
    double start_s, evaluate_s, save_s;
} comm_watchdog_options;

cvy_status comm_watchdog_create(const comm_watchdog_options *options, double now_s,
                                comm_watchdog **out);
void comm_watchdog_destroy(comm_watchdog **watchdog);

/** A message of a rank came (any kind); heartbeat NULL when it was none. */
void comm_watchdog_hear(comm_watchdog *watchdog, int rank, const comm_heartbeat *heartbeat,
                        double now_s);

/** Commands that change what is awaited: ranks that are to be idle owe heartbeats only. */
void comm_watchdog_expect(comm_watchdog *watchdog, comm_phase phase, double now_s);

typedef struct comm_silent {
    int rank;
    double silent_s; /* since its last heartbeat, or since the last progress */
    int is_stuck;    /* it speaks but does not move */
    comm_phase phase;
    int64_t step;
} comm_silent;

/** 1 when a rank is past its deadline; the worst one is described. A pause of the watcher itself
 *  (SIGSTOP, suspended machine: more than half a deadline between two calls) restarts all clocks.
 */
int comm_watchdog_check(comm_watchdog *watchdog, double now_s, comm_silent *out);

double comm_watchdog_deadline_s(const comm_watchdog *watchdog);
/** Last heartbeat of a rank: busy_s names the slowest worker. */
const comm_heartbeat *comm_watchdog_last(const comm_watchdog *watchdog, int rank);

/** The worker's side: sends a heartbeat when the last is older than interval_s; cheap enough to be
 *  called between layers. */
typedef struct comm_pulse {
    comm *world;
    double interval_s, last_sent_s, phase_since_s;
    comm_heartbeat beat;
} comm_pulse;
void comm_pulse_open(comm_pulse *pulse, comm *world, double interval_s);
void comm_pulse_phase(comm_pulse *pulse, comm_phase phase); /* a new phase begins */
cvy_status comm_pulse_beat(comm_pulse *pulse);              /* if due */

#endif
