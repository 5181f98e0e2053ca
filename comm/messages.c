#include "base/alloc.h"
#include "base/clock.h"
#include "comm/comm.h"
#include "comm/comm_internal.h"

#include <stddef.h>
#include <string.h>

/*
 * Sent messages are copied into parcels that return to a pool when the transport is done with them,
 * so heartbeats and figures allocate nothing once as many parcels exist as are ever under way.
 */
struct comm_parcel {
    comm_parcel *next;
    comm_request request;
    int class_idx;
    _Alignas(CVY_ALIGN_BYTES) unsigned char payload[];
};

#define HELD_LIMIT_BYTES ((size_t)256 << 20)
/* Parcels looked at per send: the cost stays the same however many are under way. */
#define N_REAPED_PER_SEND 8

static size_t class_bytes(int class_idx)
{
    return (size_t)COMM_PARCEL_MIN_BYTES << class_idx;
}

static int class_of(size_t size_bytes)
{
    int class_idx = 0;

    while (class_bytes(class_idx) < size_bytes) class_idx++;
    return class_idx;
}

static void queue_unsent(comm_mail *mail, comm_parcel *parcel)
{
    parcel->next = NULL;
    if (mail->unsent == NULL)
        mail->unsent = parcel;
    else
        mail->unsent_last->next = parcel;
    mail->unsent_last = parcel;
}

static comm_parcel *take_unsent(comm_mail *mail)
{
    comm_parcel *parcel = mail->unsent;

    if (parcel != NULL) mail->unsent = parcel->next;
    return parcel;
}

static void keep_spare(comm_mail *mail, comm_parcel *parcel)
{
    parcel->next = mail->spare[parcel->class_idx];
    mail->spare[parcel->class_idx] = parcel;
}

static void free_parcel(comm_mail *mail, comm_parcel *parcel)
{
    mail->held_bytes -= class_bytes(parcel->class_idx);
    cvy_free(parcel);
}

/* Look at up to n parcels; those that have left become spare, the others queue up again (their
 * sends were posted in order: the queue's order means nothing). */
static cvy_status reap(comm *c, int64_t n)
{
    comm_mail *mail = &c->mail;
    comm_parcel *first_kept = NULL;

    for (int64_t i = 0; i < n && mail->unsent != NULL && mail->unsent != first_kept; i++) {
        comm_parcel *parcel = take_unsent(mail);
        const cvy_status status = c->ops->test(c, &parcel->request);
        if (parcel->request.is_open) {
            if (first_kept == NULL) first_kept = parcel;
            queue_unsent(mail, parcel);
        } else {
            keep_spare(mail, parcel);
        }
        CVY_RETURN_IF_ERR(status);
    }
    return CVY_OK;
}

static void free_spares(comm_mail *mail)
{
    for (int i = 0; i < COMM_N_PARCEL_CLASSES; i++) {
        while (mail->spare[i] != NULL) {
            comm_parcel *parcel = mail->spare[i];
            mail->spare[i] = parcel->next;
            free_parcel(mail, parcel);
        }
    }
}

/* A parcel from the pool, or a new one while the limit allows it. */
static cvy_status get_parcel(comm *c, int class_idx, comm_parcel **out)
{
    comm_mail *mail = &c->mail;
    const size_t size_bytes = class_bytes(class_idx);

    CVY_RETURN_IF_ERR(reap(c, N_REAPED_PER_SEND));
    if (mail->spare[class_idx] == NULL && mail->held_bytes + size_bytes > HELD_LIMIT_BYTES) {
        CVY_RETURN_IF_ERR(reap(c, INT64_MAX));
        if (mail->spare[class_idx] == NULL) free_spares(mail);
    }
    if (mail->spare[class_idx] != NULL) {
        *out = mail->spare[class_idx];
        mail->spare[class_idx] = (*out)->next;
        return CVY_OK;
    }
    if (mail->held_bytes + size_bytes > HELD_LIMIT_BYTES) return CVY_ERR_NO_MEMORY;
    comm_parcel *parcel = cvy_alloc(offsetof(comm_parcel, payload) + size_bytes);
    if (parcel == NULL) return CVY_ERR_NO_MEMORY;
    mail->held_bytes += size_bytes;
    parcel->class_idx = class_idx;
    *out = parcel;
    return CVY_OK;
}

cvy_status comm_send(comm *c, int dest, int kind, const void *payload, size_t size_bytes)
{
    comm_parcel *parcel = NULL;

    if (dest < 0 || dest >= c->size || kind < 0 || size_bytes > COMM_MESSAGE_LIMIT_BYTES) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG, "message %d of %zu bytes to rank %d of %d", kind,
                        size_bytes, dest, c->size);
    }
    cvy_status status = get_parcel(c, class_of(size_bytes), &parcel);
    if (status == CVY_ERR_NO_MEMORY) {
        return CVY_FAIL(status, "message %d of %zu bytes to rank %d: %zu bytes are not sent yet",
                        kind, size_bytes, dest, c->mail.held_bytes);
    }
    CVY_RETURN_IF_ERR(status);
    if (size_bytes > 0) memcpy(parcel->payload, payload, size_bytes);
    parcel->request = (comm_request){0};
    status = c->ops->send(c, COMM_CHANNEL_MESSAGES, parcel->payload, size_bytes, dest, kind,
                          &parcel->request);
    if (parcel->request.is_open)
        queue_unsent(&c->mail, parcel);
    else
        keep_spare(&c->mail, parcel);
    return status;
}

/* Room for the next message; what the last one showed is over. */
static cvy_status grow_inbox(comm_mail *mail, size_t size_bytes)
{
    if (size_bytes <= mail->inbox_bytes) return CVY_OK;
    const size_t room = class_bytes(class_of(size_bytes));
    void *larger = cvy_alloc(room);
    if (larger == NULL)
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "message of %zu bytes from rank %d", size_bytes,
                        mail->letter.source);
    cvy_free(mail->inbox);
    mail->inbox = larger;
    mail->inbox_bytes = room;
    return CVY_OK;
}

/* Begin to take the next message that has come; *out_has 0: none has. */
static cvy_status begin_taking(comm *c, int *out_has)
{
    comm_mail *mail = &c->mail;

    if (!mail->has_letter) CVY_RETURN_IF_ERR(c->ops->probe(c, &mail->letter, &mail->has_letter));
    *out_has = mail->has_letter;
    if (!*out_has) return CVY_OK;
    if (mail->letter.size_bytes > COMM_MESSAGE_LIMIT_BYTES) {
        return CVY_FAIL(CVY_ERR_BAD_DATA, "message %d from rank %d has %zu bytes, at most %u go",
                        mail->letter.kind, mail->letter.source, mail->letter.size_bytes,
                        COMM_MESSAGE_LIMIT_BYTES);
    }
    CVY_RETURN_IF_ERR(grow_inbox(mail, mail->letter.size_bytes));
    mail->has_letter = 0;
    return c->ops->take(c, &mail->letter, mail->inbox, &mail->taking);
}

cvy_status comm_receive(comm *c, comm_message *out, int *out_has)
{
    comm_mail *mail = &c->mail;
    int has = 0;

    *out_has = 0;
    if (!mail->taking.is_open) {
        CVY_RETURN_IF_ERR(begin_taking(c, &has));
        if (!has) return CVY_OK;
    }
    /* A long message takes several calls to come in. */
    if (mail->taking.is_open) CVY_RETURN_IF_ERR(c->ops->test(c, &mail->taking));
    if (mail->taking.is_open) return CVY_OK;
    *out = (comm_message){.source = mail->letter.source,
                          .kind = mail->letter.kind,
                          .payload = mail->inbox,
                          .size_bytes = mail->letter.size_bytes};
    *out_has = 1;
    return CVY_OK;
}

cvy_status comm_flush(comm *c, cvy_deadline deadline)
{
    comm_wait wait = comm_wait_begin(deadline);

    for (;;) {
        CVY_RETURN_IF_ERR(reap(c, INT64_MAX));
        if (c->mail.unsent == NULL) return CVY_OK;
        const cvy_status status = comm_wait_pause(c, &wait);
        if (status != CVY_OK) {
            c->is_broken = 1;
            return status;
        }
    }
}

void comm_mail_close(comm *c)
{
    comm_mail *mail = &c->mail;

    (void)reap(c, INT64_MAX);
    free_spares(mail);
    /* What is still under way belongs to the transport: it stays until the process ends. */
    if (mail->unsent != NULL || mail->taking.is_open) c->is_broken = 1;
    if (!mail->taking.is_open) cvy_free(mail->inbox);
}
