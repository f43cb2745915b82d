/* test_comm.c - data parallel: ranks as threads of this process, with a communicator that adds in the order of the ranks. Two ranks with half of
   the samples each, and three with unequal shares, give the gradients and running statistics of one with all of them. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "check.h"
#include "pass.h"

#include <pthread.h>
#include <stdlib.h>

enum { MOST = 3, SAMPLES = 5 };

/* >>ranks as threads ------------------------------------------------------------------------------------------------- */

typedef struct group { /* what the ranks share */
    pthread_mutex_t lock;
    pthread_cond_t turn;
    int size, arrived, round, stopped; /* stopped: 1 + the rank that did */
    char why[64];
    const void *place[MOST];
} group;
typedef struct member {
    bmvp_comm table;
    group *of;
    int calls, started, fail_at; /* fail_at: number of the call that fails, from 1; 0: none */
} member;

static bmvp_status meet(group *g, bmvp_error *err)
{
    int round, stopped;
    pthread_mutex_lock(&g->lock);
    round = g->round;
    if (!g->stopped && ++g->arrived == g->size) {
        g->arrived = 0;
        ++g->round;
        pthread_cond_broadcast(&g->turn);
    }
    while (round == g->round && !g->stopped) pthread_cond_wait(&g->turn, &g->lock);
    stopped = round == g->round ? g->stopped : 0;
    pthread_mutex_unlock(&g->lock);
    return stopped ? bmvp_error_set(err, BMVP_E_IO, "rank %d stopped: %s", stopped - 1, g->why) : BMVP_OK;
}

/* All have shown where their data lies. */
static bmvp_status show(const bmvp_comm *m, const void *data, bmvp_error *err)
{
    member *me = (member *)m->user;
    if (++me->calls == me->fail_at) return bmvp_error_set(err, BMVP_E_IO, "rank %d is gone", 1 - m->rank);
    me->of->place[m->rank] = data;
    return meet(me->of, err);
}

static bmvp_status all_gather(const bmvp_comm *m, const void *own, int64_t bytes, void *all, bmvp_error *err)
{
    const group *g = ((member *)m->user)->of;
    const bmvp_status st = show(m, own, err);
    int r;
    if (st) return st;
    for (r = 0; r < m->size; ++r) memcpy((char *)all + r * bytes, g->place[r], (size_t)bytes);
    return meet(((member *)m->user)->of, err);
}

static bmvp_status all_reduce(const bmvp_comm *m, const bmvp_part *part, int n, bmvp_error *err)
{
    int i, r;
    for (i = 0; i < n; ++i) {
        float *all = (float *)malloc((size_t)(m->size * part[i].n) * sizeof *all);
        const bmvp_status st = all_gather(m, part[i].x, part[i].n * (int64_t)sizeof *all, all, err);
        int64_t k;
        for (k = 0; !st && k < part[i].n; ++k)
            for (part[i].x[k] = all[k], r = 1; r < m->size; ++r) part[i].x[k] += all[r * part[i].n + k];
        free(all);
        if (st) return st;
    }
    return BMVP_OK;
}

static bmvp_status reduce_scatter(const bmvp_comm *m, const float *all, int64_t n, float *own, bmvp_error *err)
{
    const group *g = ((member *)m->user)->of;
    const bmvp_status st = show(m, all, err);
    int64_t k;
    int r;
    for (r = 0; !st && r < m->size; ++r)
        for (k = 0; k < n; ++k) own[k] = (r ? own[k] : 0) + ((const float *)g->place[r])[m->rank * n + k];
    return st ? st : meet(((member *)m->user)->of, err);
}

static bmvp_status barrier(const bmvp_comm *m, bmvp_error *err) { return show(m, NULL, err); }

static void abort_all(const bmvp_comm *m, const char *why)
{
    group *g = ((member *)m->user)->of;
    pthread_mutex_lock(&g->lock);
    if (!g->stopped) snprintf(g->why, sizeof g->why, "%s", why);
    if (!g->stopped) g->stopped = 1 + m->rank;
    pthread_cond_broadcast(&g->turn);
    pthread_mutex_unlock(&g->lock);
}

static bmvp_status broadcast(const bmvp_comm *m, void *data, int64_t bytes, int root, bmvp_error *err)
{
    const group *g = ((member *)m->user)->of;
    const bmvp_status st = show(m, data, err);
    if (st) return st;
    if (m->rank != root) memcpy(data, g->place[root], (size_t)bytes);
    return meet(((member *)m->user)->of, err);
}

static bmvp_status start(const bmvp_comm *m, const bmvp_part *part, int n, bmvp_error *err)
{
    ++((member *)m->user)->started;
    return all_reduce(m, part, n, err);
}
static bmvp_status wait_all(const bmvp_comm *m, bmvp_error *err)
{
    (void)m;
    (void)err;
    return BMVP_OK;
}

/* >>a training pass ------------------------------------------------------------------------------------------------------- */

enum { EARLY = PASS_EARLY, RECOMPUTE = PASS_RECOMPUTE, ASYNC = 4 };

typedef struct rank {
    member me;
    pass p;
} rank;

static void *run_rank(void *arg)
{
    pass_run(&((rank *)arg)->p);
    return NULL;
}

/* A rank's table, as a thread of group g. */
static void join(member *me, group *g, int number, int flags, int fail_at)
{
    bmvp_comm *t = &me->table;
    me->of = g;
    me->fail_at = fail_at;
    t->user = me;
    t->rank = number;
    t->size = g ? g->size : 1;
    t->all_reduce = all_reduce;
    t->all_gather = all_gather;
    t->reduce_scatter = reduce_scatter;
    t->broadcast = broadcast;
    t->barrier = barrier;
    t->abort = abort_all;
    t->start = flags & ASYNC ? start : NULL;
    t->wait = flags & ASYNC ? wait_all : NULL;
}

static void group_open(group *g, int size)
{
    memset(g, 0, sizeof *g);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->turn, NULL);
    g->size = size;
}
static void group_close(group *g)
{
    pthread_cond_destroy(&g->turn);
    pthread_mutex_destroy(&g->lock);
}

/* `size` ranks, each a thread; share: samples of each. */
static void run_group(rank *r, int size, const int *share, int flags, int fail_at)
{
    static group g;
    pthread_t thread[MOST];
    int i, first = 0;
    memset(r, 0, MOST * sizeof *r);
    group_open(&g, size);
    for (i = 0; i < size; ++i) {
        join(&r[i].me, size > 1 ? &g : NULL, i, flags, fail_at);
        r[i].p.comm = size > 1 ? &r[i].me.table : NULL;
        r[i].p.first = first;
        r[i].p.samples = share[i];
        r[i].p.flags = flags;
        first += share[i];
    }
    for (i = 0; i < size; ++i) CHECK(pthread_create(&thread[i], NULL, run_rank, &r[i]) == 0);
    for (i = 0; i < size; ++i) pthread_join(thread[i], NULL);
    group_close(&g);
}

static void release(rank *r)
{
    int i;
    for (i = 0; i < MOST; ++i) free(r[i].p.out);
}

/* >>tests ---------------------------------------------------------------------------------------------------------------- */

/* Losses are means over a rank's samples times their number: the mean over voxels is that of the whole batch times SAMPLES. */
static void compare_with_one(int size, const int *share, int flags, const rank *one)
{
    rank r[MOST], again[MOST];
    int i;
    run_group(r, size, share, flags, 0);
    run_group(again, size, share, flags, 0);
    for (i = 0; i < size; ++i) {
        if (!check_report(r[i].p.err.status == BMVP_OK && r[i].p.n == one->p.n, __FILE__, __LINE__, "rank %d: %s", i, r[i].p.err.message)) continue;
        CHECK_CLOSE("gradients and statistics", r[i].p.out, one->p.out, one->p.n, 2e-4);
        CHECK_SAME("all ranks", r[i].p.out, r[0].p.out, r[0].p.n);
        CHECK_SAME("a second run", again[i].p.out, r[i].p.out, r[i].p.n);
        CHECK(r[i].p.buckets > 1 && (r[i].p.sent > 0) == ((flags & EARLY) != 0) && (r[i].me.started > 0) == ((flags & ASYNC) != 0));
    }
    release(r);
    release(again);
}

static void test_ranks(void)
{
    static const int all[1] = { SAMPLES }, two[2] = { 2, 3 }, three[3] = { 1, 3, 1 };
    rank one[MOST];
    int flags;
    run_group(one, 1, all, 0, 0);
    CHECK(one[0].p.err.status == BMVP_OK && one[0].p.n > 0);
    for (flags = 0; flags < 8; ++flags) compare_with_one(2, two, flags, &one[0]);
    compare_with_one(3, three, EARLY | ASYNC, &one[0]);
    release(one);
}

static void *call_and_stop(void *arg)
{
    rank *r = (rank *)arg;
    const bmvp_comm *t = &r->me.table;
    const float all[4] = { 1, 2, 30, 40 };
    float own[2] = { 0, 0 };
    r->p.n = t->reduce_scatter(t, all, 2, own, &r->p.err) == BMVP_OK && own[0] == 2 * all[2 * t->rank] && own[1] == 2 * all[2 * t->rank + 1];
    r->p.n += t->barrier(t, &r->p.err) == BMVP_OK;
    if (t->rank == 1) t->abort(t, "disk full");
    r->p.n += t->barrier(t, &r->p.err) == BMVP_E_IO;
    return NULL;
}

static void test_calls(void)
{
    static group g;
    pthread_t thread[2];
    rank r[2];
    int i;
    memset(r, 0, sizeof r);
    group_open(&g, 2);
    for (i = 0; i < 2; ++i) join(&r[i].me, &g, i, 0, 0);
    for (i = 0; i < 2; ++i) CHECK(pthread_create(&thread[i], NULL, call_and_stop, &r[i]) == 0);
    for (i = 0; i < 2; ++i) pthread_join(thread[i], NULL);
    for (i = 0; i < 2; ++i) CHECK(r[i].p.n == 3);
    for (i = 0; i < 2; ++i) CHECK_HOLDS(r[i].p.err.message, "rank 1 stopped: disk full");
    group_close(&g);
}

/* Any call may fail: the first failure is the context's, with the message that names the rank, and nothing hangs or leaks. */
static void test_failing_calls(void)
{
    static const int two[2] = { 1, 1 };
    rank r[MOST];
    int at, calls;
    run_group(r, 2, two, EARLY, 0);
    calls = r[0].me.calls;
    CHECK(calls > 100 && r[1].me.calls == calls);
    release(r);
    for (at = 1; at <= calls; at += at < 4 || calls - at < 4 ? 1 : (calls - at) / 2) {
        run_group(r, 2, two, EARLY, at);
        CHECK(r[0].p.err.status == BMVP_E_IO && r[1].p.err.status == BMVP_E_IO);
        CHECK_HOLDS(r[0].p.err.message, "rank 1 is gone");
        release(r);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_calls);
    CHECK_RUN(test_ranks);
    CHECK_RUN(test_failing_calls);
    return check_end();
}
