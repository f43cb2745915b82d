/* queue.c - start and wait for a table that has only all_reduce, see transport.h

   Started sums are made by a thread in their order. Any other call first waits for them: the order of the calls is that
   of the program, which is the same on all ranks. */
#define _DEFAULT_SOURCE
#include "transport.h"
#include "sockets.h"
#include <stdlib.h>
#include <string.h>

typedef struct queue_job {
    struct queue_job *next;
    int n;
    bmvp_part part[1]; /* n */
} queue_job;

typedef struct queue {
    transport inner;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t change;
    queue_job *first, *last; /* the first one is running */
    int quit;
    bmvp_error err;          /* the first failure of a started sum */
} queue;

static void *queue_run(void *arg)
{
    queue *q = (queue *)arg;
    pthread_mutex_lock(&q->lock);
    for (;;) {
        queue_job *job;
        bmvp_error err;
        while (!q->first && !q->quit) pthread_cond_wait(&q->change, &q->lock);
        job = q->first;
        if (!job) break;
        if (!q->err.status) {
            pthread_mutex_unlock(&q->lock);
            if (!q->inner.comm.all_reduce(&q->inner.comm, job->part, job->n, &err)) err.status = BMVP_OK;
            pthread_mutex_lock(&q->lock);
            if (err.status) q->err = err;
        }
        q->first = job->next;
        free(job);
        pthread_cond_broadcast(&q->change);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

static bmvp_status queue_wait(const bmvp_comm *m, bmvp_error *err)
{
    queue *q = (queue *)m->user;
    bmvp_status st;
    pthread_mutex_lock(&q->lock);
    while (q->first) pthread_cond_wait(&q->change, &q->lock);
    st = q->err.status;
    if (st) bmvp_error_set(err, st, "%s", q->err.message);
    pthread_mutex_unlock(&q->lock);
    return st;
}

static bmvp_status queue_start(const bmvp_comm *m, const bmvp_part *part, int n, bmvp_error *err)
{
    queue *q = (queue *)m->user;
    queue_job *job = (queue_job *)malloc(sizeof *job + (size_t)n * sizeof *part);
    if (!job) {
        m->abort(m, "out of memory");
        return bmvp_error_set(err, BMVP_E_OOM, "all_reduce of %d arrays: out of memory", n);
    }
    job->next = NULL;
    job->n = n;
    if (n > 0) memcpy(job->part, part, (size_t)n * sizeof *part);
    pthread_mutex_lock(&q->lock);
    if (q->first) q->last->next = job;
    else q->first = job;
    q->last = job;
    pthread_cond_broadcast(&q->change);
    pthread_mutex_unlock(&q->lock);
    return BMVP_OK;
}

static const bmvp_comm *queue_inner(const bmvp_comm *m) { return &((queue *)m->user)->inner.comm; }

static bmvp_status queue_all_reduce(const bmvp_comm *m, const bmvp_part *part, int n, bmvp_error *err)
{
    const bmvp_status st = queue_wait(m, err);
    return st ? st : queue_inner(m)->all_reduce(queue_inner(m), part, n, err);
}
static bmvp_status queue_all_gather(const bmvp_comm *m, const void *own, int64_t bytes, void *all, bmvp_error *err)
{
    const bmvp_status st = queue_wait(m, err);
    return st ? st : queue_inner(m)->all_gather(queue_inner(m), own, bytes, all, err);
}
static bmvp_status queue_reduce_scatter(const bmvp_comm *m, const float *all, int64_t n, float *own, bmvp_error *err)
{
    const bmvp_status st = queue_wait(m, err);
    return st ? st : queue_inner(m)->reduce_scatter(queue_inner(m), all, n, own, err);
}
static bmvp_status queue_broadcast(const bmvp_comm *m, void *data, int64_t bytes, int root, bmvp_error *err)
{
    const bmvp_status st = queue_wait(m, err);
    return st ? st : queue_inner(m)->broadcast(queue_inner(m), data, bytes, root, err);
}
static bmvp_status queue_barrier(const bmvp_comm *m, bmvp_error *err)
{
    const bmvp_status st = queue_wait(m, err);
    return st ? st : queue_inner(m)->barrier(queue_inner(m), err);
}
static void queue_abort(const bmvp_comm *m, const char *why) { queue_inner(m)->abort(queue_inner(m), why); }

static void queue_free(queue *q)
{
    pthread_cond_destroy(&q->change);
    pthread_mutex_destroy(&q->lock);
    q->inner.close(&q->inner.comm);
    free(q);
}

bmvp_status queue_open(bmvp_comm *out, const transport *t, bmvp_error *err)
{
    queue *q = (queue *)calloc(1, sizeof *q);
    transport inner = *t;
    if (!q) {
        inner.close(&inner.comm);
        return bmvp_error_set(err, BMVP_E_OOM, "joining %d ranks: out of memory", t->comm.size);
    }
    q->inner = inner;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->change, NULL);
    if (!thread_start(&q->thread, queue_run, q)) {
        queue_free(q);
        return bmvp_error_set(err, BMVP_E_OOM, "joining %d ranks: a thread could not be started", t->comm.size);
    }
    *out = inner.comm;
    out->user = q;
    out->all_reduce = queue_all_reduce;
    out->all_gather = queue_all_gather;
    out->reduce_scatter = queue_reduce_scatter;
    out->broadcast = queue_broadcast;
    out->barrier = queue_barrier;
    out->abort = queue_abort;
    out->start = queue_start;
    out->wait = queue_wait;
    return BMVP_OK;
}

void queue_close(bmvp_comm *m)
{
    queue *q = (queue *)m->user;
    pthread_mutex_lock(&q->lock);
    q->quit = 1;
    pthread_cond_broadcast(&q->change);
    pthread_mutex_unlock(&q->lock);
    pthread_join(q->thread, NULL);
    queue_free(q);
    memset(m, 0, sizeof *m);
}
