#include "dataset/loader.h"

#include "base/alloc.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* Minibatches stand in a ring: k-th in slot k % n_slots. Threads take runs of its samples in order;
 * the caller holds one slot and read_ahead others are filled meanwhile. Everything but the samples
 * themselves and the bitmap of bad records is guarded by `lock`. */

#define MAX_CLAIM                                                                                  \
    16 /* samples that a thread takes at a time: few, so that a batch is ready soon                \
        */

typedef struct slot {
    dataset_item *items; /* (minibatch) */
    float *images;       /* (minibatch, c, h, w) */
    int32_t *labels;
    int64_t *records;
    uint8_t *is_bad;
    int64_t n;         /* -1: not planned yet */
    int64_t n_claimed; /* samples taken by threads */
    int64_t n_done;
} slot;

struct loader_thread {
    dataset_loader *loader;
    dataset_reader *reader;
    dataset_scratch *scratch;
    pthread_t thread;
};

struct dataset_loader {
    dataset_store *store;             /* borrowed */
    const dataset_pipeline *pipeline; /* borrowed */
    dataset_loader_options options;
    dataset_plan plan;
    const void *plan_arg;
    int64_t image_elems;
    int64_t n_records;

    slot *slots;
    int n_slots;
    struct loader_thread *threads;
    int n_started;

    pthread_mutex_t lock;
    pthread_cond_t has_room;  /* threads wait: a slot was freed, or stop */
    pthread_cond_t has_batch; /* the caller waits: a minibatch is whole, or failed */
    int has_lock, has_room_cond, has_batch_cond;

    int64_t k_next;     /* minibatch that threads take samples of */
    int64_t k_freed;    /* minibatches before this one were given back */
    int64_t k_given;    /* the caller's next */
    int is_holding;     /* the caller looks at k_given - 1 */
    int is_planned_out; /* k_next does not exist */
    cvy_status status;
    atomic_int is_stopping;

    _Atomic uint64_t *bad_bits; /* (n_records): known to be bad */
    dataset_bad_record *bad;    /* not yet taken by the caller */
    int64_t n_bad, n_bad_taken, bad_room;
    char last_reason[120]; /* as in dataset_bad_record */
};

static int is_known_bad(dataset_loader *loader, int64_t record)
{
    CVY_ASSERT(record >= 0 && record < loader->n_records);
    const uint64_t bits = atomic_load_explicit(&loader->bad_bits[record / 64],
                                               memory_order_relaxed);
    return (int)(bits >> (record % 64) & 1u);
}

static cvy_status make_room_for_bad(dataset_loader *loader)
{
    if (loader->n_bad < loader->bad_room) return CVY_OK;
    const int64_t room = loader->bad_room * 2;
    dataset_bad_record *larger = cvy_realloc(loader->bad, (size_t)room * sizeof *larger);
    if (larger == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "list of bad records");
    loader->bad = larger;
    loader->bad_room = room;
    return CVY_OK;
}

/* Note a record as bad; the first to find it also lists it for the caller. */
static cvy_status note_bad(dataset_loader *loader, int64_t record, const cvy_reason *reason)
{
    const uint64_t bit = (uint64_t)1 << (record % 64);

    if ((atomic_fetch_or(&loader->bad_bits[record / 64], bit) & bit) != 0) return CVY_OK;
    pthread_mutex_lock(&loader->lock);
    const cvy_status status = make_room_for_bad(loader);
    if (status == CVY_OK) {
        dataset_bad_record *bad = &loader->bad[loader->n_bad++];
        bad->record = record;
        (void)snprintf(bad->reason, sizeof bad->reason, "%.*s", (int)sizeof bad->reason - 1,
                       reason->text);
        memcpy(loader->last_reason, bad->reason, sizeof loader->last_reason);
    }
    pthread_mutex_unlock(&loader->lock);
    return status;
}

/* Read and prepare one record. Whether it is bad depends on the record alone, never on the key. */
static cvy_status load_record(struct loader_thread *self, int64_t record,
                              const dataset_sample_key *key, float *image, int32_t *label)
{
    dataset_loader *loader = self->loader;
    dataset_datum datum;
    cvy_reason reason;

    if (is_known_bad(loader, record)) return CVY_ERR_BAD_DATA;
    reason.text[0] = '\0';
    cvy_status status = dataset_reader_get(self->reader, record, &datum, &reason);
    if (status == CVY_OK) {
        status = dataset_pipeline_apply(loader->pipeline, &datum, key, self->scratch, image,
                                        &reason);
    }
    if (status == CVY_ERR_BAD_DATA) {
        CVY_RETURN_IF_ERR(note_bad(loader, record, &reason));
        return CVY_ERR_BAD_DATA;
    }
    if (status == CVY_OK) *label = datum.label;
    return status;
}

static cvy_status fail_no_good(dataset_loader *loader)
{
    char reason[sizeof loader->bad->reason];

    pthread_mutex_lock(&loader->lock);
    memcpy(reason, loader->last_reason, sizeof reason);
    pthread_mutex_unlock(&loader->lock);
    return CVY_FAIL(CVY_ERR_BAD_DATA, "%s: none of its %lld records is good (one: %s)",
                    dataset_store_path(loader->store), (long long)loader->n_records, reason);
}

/* One sample: its record, or the next good one, or none. */
static cvy_status load_sample(struct loader_thread *self, slot *s, int64_t i)
{
    dataset_loader *loader = self->loader;
    const dataset_item *item = &s->items[i];
    const dataset_sample_key key = {
        .seed = loader->options.seed, .epoch = item->epoch, .position = item->position};
    float *image = s->images + i * loader->image_elems;
    int64_t record = item->record;
    const int64_t n_tries = loader->options.substitute_bad ? loader->n_records : 1;

    s->records[i] = item->record;
    s->labels[i] = 0;
    s->is_bad[i] = 0;
    for (int64_t k = 0; k < n_tries; k++) {
        const cvy_status status = load_record(self, record, &key, image, &s->labels[i]);
        if (status != CVY_ERR_BAD_DATA) return status;
        if (atomic_load(&loader->is_stopping)) return CVY_OK;
        record = record + 1 < loader->n_records ? record + 1 : 0;
    }
    if (loader->options.substitute_bad) {
        return fail_no_good(loader);
    }
    memset(image, 0, (size_t)loader->image_elems * sizeof *image);
    s->is_bad[i] = 1;
    return CVY_OK;
}

/* With the lock held: find samples to load; NULL: the thread is to end. */
static slot *claim(dataset_loader *loader, int64_t *out_first, int64_t *out_n)
{
    for (;;) {
        if (atomic_load(&loader->is_stopping)) return NULL;
        if (loader->is_planned_out || loader->k_next >= loader->k_freed + loader->n_slots) {
            pthread_cond_wait(&loader->has_room, &loader->lock);
            continue;
        }
        slot *s = &loader->slots[loader->k_next % loader->n_slots];
        if (s->n < 0) {
            s->n_claimed = s->n_done = 0;
            s->n = loader->plan(loader->plan_arg, loader->k_next, s->items);
            CVY_ASSERT(s->n >= 0 && s->n <= loader->options.minibatch);
            if (s->n == 0) {
                loader->is_planned_out = 1;
                pthread_cond_broadcast(&loader->has_batch);
                continue;
            }
        }
        if (s->n_claimed == s->n) {
            loader->k_next++;
            continue;
        }
        int64_t n = s->n / (2 * loader->options.n_threads);
        n = n < 1 ? 1 : n > MAX_CLAIM ? MAX_CLAIM : n;
        *out_first = s->n_claimed;
        *out_n = n < s->n - s->n_claimed ? n : s->n - s->n_claimed;
        s->n_claimed += *out_n;
        return s;
    }
}

/* With the lock held. */
static void stop_all(dataset_loader *loader)
{
    atomic_store(&loader->is_stopping, 1);
    pthread_cond_broadcast(&loader->has_room);
    pthread_cond_broadcast(&loader->has_batch);
}

static void *loader_main(void *arg)
{
    struct loader_thread *self = arg;
    dataset_loader *loader = self->loader;
    int64_t first = 0, n = 0;

    pthread_mutex_lock(&loader->lock);
    for (slot *s = claim(loader, &first, &n); s != NULL; s = claim(loader, &first, &n)) {
        cvy_status status = CVY_OK;
        pthread_mutex_unlock(&loader->lock);
        for (int64_t i = first; i < first + n && status == CVY_OK; i++) {
            if (atomic_load(&loader->is_stopping)) break;
            status = load_sample(self, s, i);
        }
        pthread_mutex_lock(&loader->lock);
        s->n_done += n;
        if (status != CVY_OK) {
            if (loader->status == CVY_OK) loader->status = status;
            stop_all(loader);
        } else if (s->n_done == s->n) {
            pthread_cond_signal(&loader->has_batch);
        }
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

static cvy_status create_lock(dataset_loader *loader)
{
    pthread_condattr_t attr;
    int error = pthread_mutex_init(&loader->lock, NULL);

    loader->has_lock = error == 0;
    if (error == 0) error = pthread_condattr_init(&attr);
    if (error != 0) return CVY_FAIL(CVY_ERR_OS, "loader lock: %s", strerror(error));
    error = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (error == 0) error = pthread_cond_init(&loader->has_batch, &attr);
    loader->has_batch_cond = error == 0;
    if (error == 0) error = pthread_cond_init(&loader->has_room, &attr);
    loader->has_room_cond = loader->has_batch_cond && error == 0;
    pthread_condattr_destroy(&attr);
    return error == 0 ? CVY_OK : CVY_FAIL(CVY_ERR_OS, "loader lock: %s", strerror(error));
}

static cvy_status create_slots(dataset_loader *loader)
{
    const int64_t n = loader->options.minibatch;
    size_t image_bytes = 0;

    loader->slots = cvy_alloc_zero((size_t)loader->n_slots, sizeof *loader->slots);
    if (loader->slots == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "loader ring");
    if (!cvy_size_mul((size_t)n, (size_t)loader->image_elems * sizeof(float), &image_bytes)) {
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "minibatch of %lld images", (long long)n);
    }
    for (int i = 0; i < loader->n_slots; i++) {
        slot *s = &loader->slots[i];
        s->n = -1;
        s->items = cvy_alloc_zero((size_t)n, sizeof *s->items);
        s->images = cvy_alloc(image_bytes);
        s->labels = cvy_alloc_zero((size_t)n, sizeof *s->labels);
        s->records = cvy_alloc_zero((size_t)n, sizeof *s->records);
        s->is_bad = cvy_alloc_zero((size_t)n, sizeof *s->is_bad);
        if (s->items == NULL || s->images == NULL || s->labels == NULL || s->records == NULL ||
            s->is_bad == NULL) {
            return CVY_FAIL(CVY_ERR_NO_MEMORY, "%d minibatches of %lld images, %zu bytes each",
                            loader->n_slots, (long long)n, image_bytes);
        }
    }
    return CVY_OK;
}

static cvy_status create_bad_list(dataset_loader *loader)
{
    const size_t n_words = (size_t)loader->n_records / 64 + 1;

    loader->bad_room = 64;
    loader->bad_bits = cvy_alloc_zero(n_words, sizeof *loader->bad_bits);
    loader->bad = cvy_alloc((size_t)loader->bad_room * sizeof *loader->bad);
    if (loader->bad_bits == NULL || loader->bad == NULL) {
        return CVY_FAIL(CVY_ERR_NO_MEMORY, "list of bad records");
    }
    return CVY_OK;
}

/* The threads get no signals, so that handlers run on the main thread; but those that their own
 * instructions raise must reach the handler of the store. */
static cvy_status start_threads(dataset_loader *loader)
{
    static const int own_signals[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGABRT};
    sigset_t all, before;
    int error = 0;

    sigfillset(&all);
    for (size_t i = 0; i < sizeof own_signals / sizeof own_signals[0]; i++) {
        sigdelset(&all, own_signals[i]);
    }
    error = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (error != 0) return CVY_FAIL(CVY_ERR_OS, "signal mask: %s", strerror(error));
    for (int i = 0; i < loader->options.n_threads && error == 0; i++) {
        struct loader_thread *self = &loader->threads[i];
        error = pthread_create(&self->thread, NULL, loader_main, self);
        if (error == 0) loader->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0) return CVY_OK;
    return CVY_FAIL(CVY_ERR_OS, "start of loader thread %d of %d: %s", loader->n_started + 1,
                    loader->options.n_threads, strerror(error));
}

static cvy_status create_threads(dataset_loader *loader)
{
    const int n = loader->options.n_threads;

    loader->threads = cvy_alloc_zero((size_t)n, sizeof *loader->threads);
    if (loader->threads == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "loader threads");
    for (int i = 0; i < n; i++) {
        struct loader_thread *self = &loader->threads[i];
        self->loader = loader;
        CVY_RETURN_IF_ERR(dataset_reader_create(loader->store, &self->reader));
        CVY_RETURN_IF_ERR(dataset_scratch_create(&self->scratch));
    }
    return start_threads(loader);
}

cvy_status dataset_loader_create(dataset_store *store, const dataset_pipeline *pipeline,
                                 const dataset_loader_options *options, dataset_plan plan,
                                 const void *plan_arg, dataset_loader **out)
{
    cvy_status status = CVY_OK;
    dataset_loader *loader = NULL;
    int64_t c = 0, h = 0, w = 0;

    *out = NULL;
    if (options->minibatch < 1 || options->n_threads < 1 || options->read_ahead < 1) {
        return CVY_FAIL(CVY_ERR_INVALID_ARG,
                        "loader of minibatch %lld with %d threads and read-ahead %d",
                        (long long)options->minibatch, options->n_threads, options->read_ahead);
    }
    loader = cvy_alloc_zero(1, sizeof *loader);
    if (loader == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "loader");
    dataset_pipeline_shape(pipeline, &c, &h, &w);
    loader->store = store;
    loader->pipeline = pipeline;
    loader->options = *options;
    loader->plan = plan;
    loader->plan_arg = plan_arg;
    loader->image_elems = c * h * w;
    loader->n_records = dataset_store_info(store)->n_records;
    loader->n_slots = options->read_ahead + 1; /* and the one that the caller looks at */
    CVY_GOTO_IF_ERR(fail, status, create_lock(loader));
    CVY_GOTO_IF_ERR(fail, status, create_slots(loader));
    CVY_GOTO_IF_ERR(fail, status, create_bad_list(loader));
    CVY_GOTO_IF_ERR(fail, status, create_threads(loader));
    *out = loader;
    return CVY_OK;

fail:
    dataset_loader_destroy(&loader);
    return status;
}

static void free_slot(slot *s)
{
    cvy_free(s->items);
    cvy_free(s->images);
    cvy_free(s->labels);
    cvy_free(s->records);
    cvy_free(s->is_bad);
}

void dataset_loader_destroy(dataset_loader **loader_ptr)
{
    if (loader_ptr == NULL || *loader_ptr == NULL) return;
    dataset_loader *loader = *loader_ptr;

    if (loader->n_started > 0) {
        pthread_mutex_lock(&loader->lock);
        stop_all(loader);
        pthread_mutex_unlock(&loader->lock);
    }
    for (int i = 0; i < loader->n_started; i++) pthread_join(loader->threads[i].thread, NULL);
    for (int i = 0; loader->threads != NULL && i < loader->options.n_threads; i++) {
        dataset_reader_destroy(&loader->threads[i].reader);
        dataset_scratch_destroy(&loader->threads[i].scratch);
    }
    for (int i = 0; loader->slots != NULL && i < loader->n_slots; i++) {
        free_slot(&loader->slots[i]);
    }
    if (loader->has_room_cond) pthread_cond_destroy(&loader->has_room);
    if (loader->has_batch_cond) pthread_cond_destroy(&loader->has_batch);
    if (loader->has_lock) pthread_mutex_destroy(&loader->lock);
    cvy_free(loader->threads);
    cvy_free(loader->slots);
    cvy_free(loader->bad_bits);
    cvy_free(loader->bad);
    cvy_free(loader);
    *loader_ptr = NULL;
}

/* With the lock held: give the caller's last slot back to the threads. */
static void release_held(dataset_loader *loader)
{
    if (!loader->is_holding) return;
    loader->slots[loader->k_freed % loader->n_slots].n = -1;
    loader->k_freed++;
    loader->is_holding = 0;
    pthread_cond_broadcast(&loader->has_room);
}

static int is_ready(const dataset_loader *loader)
{
    const slot *s = &loader->slots[loader->k_given % loader->n_slots];

    if (loader->status != CVY_OK) return 1;
    return s->n >= 0 && s->n_done == s->n; /* an n of 0 is the end of the plan */
}

/* With the lock held. */
static void wait_ready(dataset_loader *loader, double wait_s)
{
    const int is_bounded = wait_s < 1e9;
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    if (is_bounded) {
        const double whole = floor(wait_s);
        until.tv_sec += (time_t)whole;
        until.tv_nsec += (long)((wait_s - whole) * 1e9);
        if (until.tv_nsec >= 1000000000L) {
            until.tv_nsec -= 1000000000L;
            until.tv_sec++;
        }
    }
    while (!is_ready(loader)) {
        const int error = is_bounded
                              ? pthread_cond_timedwait(&loader->has_batch, &loader->lock, &until)
                              : pthread_cond_wait(&loader->has_batch, &loader->lock);
        if (error == ETIMEDOUT) return;
        CVY_ASSERT(error == 0);
    }
}

cvy_status dataset_loader_next(dataset_loader *loader, double wait_s, dataset_batch *out,
                               int *out_is_ready)
{
    cvy_status status = CVY_OK;

    *out_is_ready = 0;
    pthread_mutex_lock(&loader->lock);
    release_held(loader);
    if (wait_s > 0.0 && !is_ready(loader)) wait_ready(loader, wait_s);
    status = loader->status;
    if (status == CVY_OK && is_ready(loader)) {
        const slot *s = &loader->slots[loader->k_given % loader->n_slots];
        *out = (dataset_batch){.n = s->n,
                               .images = s->images,
                               .labels = s->labels,
                               .records = s->records,
                               .is_bad = s->is_bad};
        *out_is_ready = 1;
        if (s->n > 0) {
            loader->k_given++;
            loader->is_holding = 1;
        }
    }
    pthread_mutex_unlock(&loader->lock);
    return status;
}

int dataset_loader_take_bad(dataset_loader *loader, int max, dataset_bad_record *out)
{
    pthread_mutex_lock(&loader->lock);
    int64_t n = loader->n_bad - loader->n_bad_taken;
    n = n < max ? n : max;
    if (n > 0) {
        memcpy(out, loader->bad + loader->n_bad_taken, (size_t)n * sizeof *out);
        loader->n_bad_taken += n;
        if (loader->n_bad_taken == loader->n_bad) loader->n_bad = loader->n_bad_taken = 0;
    }
    pthread_mutex_unlock(&loader->lock);
    return n > 0 ? (int)n : 0;
}
