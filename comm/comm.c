#include "comm/comm.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "comm/comm_internal.h"

#include <sched.h>
#include <string.h>
#include <sys/prctl.h>

/* Tests with only a yield between them: what is about to come costs no nap. */
#define N_YIELDS 40
/* Then naps of a sixteenth of the time already waited: a wait is at most some 6 % longer for them,
 * and a long one costs next to no processor time. */
#define NAP_FRACTION (1.0 / 16)
#define NAP_MIN_S    20e-6
#define NAP_MAX_S    1e-3

void comm_close(comm **address)
{
    comm *c = *address;

    if (c == NULL) return;
    *address = NULL;
    comm_mail_close(c);
    if (!c->is_broken) cvy_free(c->places);
    c->ops->close(c);
}

int comm_rank(const comm *c)
{
    return c->rank;
}

int comm_size(const comm *c)
{
    return c->size;
}

static const comm_place *place_of(const comm *c, int rank)
{
    CVY_ASSERT(rank >= 0 && rank < c->size);
    return &c->places[rank];
}

const char *comm_host(const comm *c, int rank)
{
    return place_of(c, rank)->host;
}

int comm_local_rank(const comm *c, int rank)
{
    return place_of(c, rank)->local_rank;
}

int comm_local_size(const comm *c, int rank)
{
    return place_of(c, rank)->local_size;
}

const char *comm_transport(const comm *c)
{
    return c->ops->name;
}

void comm_count_places(comm_place *places, int n)
{
    for (int i = 0; i < n; i++) {
        places[i].local_rank = places[i].local_size = 0;
        for (int j = 0; j < n; j++) {
            if (strcmp(places[i].host, places[j].host) != 0) continue;
            places[i].local_size++;
            if (j < i) places[i].local_rank++;
        }
    }
}

cvy_status comm_group(comm *world, int first, int n, cvy_deadline deadline, comm **out)
{
    *out = NULL;
    if (first < 0 || n < 1 || first > world->size - n) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "group of %d ranks from rank %d in a world of %d", n,
                        first, world->size);
    }
    return world->ops->group(world, first, n, deadline, out);
}

void comm_set_idle(comm *c, comm_idle idle, void *arg)
{
    c->idle = idle;
    c->idle_arg = arg;
}

/* --- Waiting --------------------------------------------------------------------------------- */

void comm_sharpen_naps(void)
{
    /* A kernel that refuses only naps longer. */
    (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
}

comm_wait comm_wait_begin(cvy_deadline deadline)
{
    return (comm_wait){.deadline = deadline};
}

void comm_wait_restart(comm_wait *wait)
{
    wait->n_tests = 0;
}

cvy_status comm_wait_pause(comm *c, comm_wait *wait)
{
    const double now_s = cvy_clock_now_s();

    if (wait->n_tests++ == 0) wait->since_s = now_s;
    if (wait->n_tests <= N_YIELDS) {
        (void)sched_yield();
        return CVY_OK;
    }
    if (c->idle != NULL) CVY_RETURN_IF_ERR(c->idle(c->idle_arg));
    if (now_s > wait->deadline.at_s) return CVY_ERR_PEER_LOST;
    double nap_s = (now_s - wait->since_s) * NAP_FRACTION;
    if (nap_s < NAP_MIN_S) nap_s = NAP_MIN_S;
    if (nap_s > NAP_MAX_S) nap_s = NAP_MAX_S;
    cvy_clock_sleep_s(nap_s);
    return CVY_OK;
}

int64_t comm_cancel_all(comm *c, comm_request *requests, int64_t n)
{
    int64_t n_open = 0;

    for (int64_t i = 0; i < n; i++) {
        if (!requests[i].is_open) continue;
        if (requests[i].is_receive) c->ops->cancel(c, &requests[i]);
        n_open += requests[i].is_open;
    }
    return n_open;
}

static cvy_status wait_for(comm *c, comm_wait *wait, comm_request *request)
{
    int is_late = 0;

    while (request->is_open) {
        CVY_RETURN_IF_ERR(c->ops->test(c, request));
        if (!request->is_open) break;
        is_late = 1;
        CVY_RETURN_IF_ERR(comm_wait_pause(c, wait));
    }
    if (is_late) {
        wait->waited_s += cvy_clock_now_s() - wait->since_s;
        comm_wait_restart(wait);
    }
    return CVY_OK;
}

cvy_status comm_wait_for(comm *c, comm_wait *wait, comm_request *request)
{
    return comm_wait_for_all(c, wait, request, 1);
}

cvy_status comm_wait_for_all(comm *c, comm_wait *wait, comm_request *requests, int64_t n)
{
    cvy_status status = CVY_OK;

    /* In order: every test moves all transfers on, so nothing is gained by testing the later ones.
     */
    for (int64_t i = 0; i < n && status == CVY_OK; i++) status = wait_for(c, wait, &requests[i]);
    if (status == CVY_OK) return CVY_OK;
    c->is_broken = 1;
    (void)comm_cancel_all(c, requests, n);
    return status;
}
