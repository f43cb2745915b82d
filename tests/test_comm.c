/* test_comm.c - data parallel: ranks as threads of this process, with a communicator that adds in the order of the ranks. Two ranks with half of
   the samples each, and three with unequal shares, give the gradients and running statistics of one with all of them. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "check.h"

#include <pthread.h>
#include <stdlib.h>

enum { MOST = 3, SAMPLES = 5, EDGE = 32, VOXELS = EDGE * EDGE * EDGE };

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

enum { EARLY = 1, RECOMPUTE = 2, ASYNC = 4 };

typedef struct rank {
    member me;
    int first, samples, flags;
    float *out; /* gradients, then running statistics, of the whole list */
    int64_t n;
    int sent, buckets;
    bmvp_error err;
} rank;

static float sample_value(int sample, int64_t i) { return (float)((sample * 7919 + i * 104729) % 1000) * 1e-3f - 0.2f; }

/* The sum over this rank's samples of a loss of theirs alone, so that the ranks' gradients add up to those of the whole batch. */
static bmvp_tensor *loss_of(bmvp_ctx *c, bmvp_net *net, const rank *r)
{
    const int64_t dim[5] = { r->samples, EDGE, EDGE, EDGE, 1 };
    float *x = (float *)malloc((size_t)(r->samples * VOXELS) * sizeof *x);
    bmvp_features f;
    bmvp_tensor *in, *y;
    int64_t i;
    for (i = 0; i < r->samples * VOXELS; ++i) x[i] = sample_value(r->first + (int)(i / VOXELS), i % VOXELS);
    in = bmvp_leaf(c, 5, dim, x);
    free(x);
    f = bmvp_net_encode(net, in, 1);
    y = bmvp_net_reconstruct(net, &f);
    y = bmvp_add(c, bmvp_mse(c, y, in), bmvp_mean(c, bmvp_mul(c, f.map[3], f.map[3])));
    return bmvp_scale(c, y, (double)r->samples, 0);
}

static void read_all(bmvp_ctx *c, const bmvp_state_list *l, rank *r)
{
    int i;
    for (i = 0; i < l->n; ++i) if (l->item[i].torch_rank > 0) r->n += l->item[i].t->numel;
    r->out = (float *)calloc((size_t)r->n, sizeof *r->out);
    for (r->n = 0, i = 0; i < l->n; ++i) {
        bmvp_tensor *t = l->item[i].t;
        if (l->item[i].torch_rank == 0) continue;
        if (!l->item[i].trained) bmvp_read(c, t, r->out + r->n);
        else if (bmvp_has_grad(t)) bmvp_read_grad(c, t, r->out + r->n);
        r->n += t->numel;
    }
}

static void *run_rank(void *arg)
{
    rank *r = (rank *)arg;
    bmvp_config k = bmvp_config_default();
    bmvp_net_config cfg;
    bmvp_ctx *c;
    bmvp_net *net;
    bmvp_reducer *reducer = NULL;
    k.threads = 1;
    c = bmvp_create(&k, &r->err);
    bmvp_net_preset("uniformer_tiny", &cfg);
    net = bmvp_net_create(c, &cfg);
    bmvp_net_init(net, 1 + (uint64_t)r->me.table.rank); /* differ, until rank 0's go to all */
    bmvp_net_set_recompute(net, r->flags & RECOMPUTE);
    if (r->me.of) bmvp_set_comm(c, &r->me.table);
    bmvp_state_broadcast(c, bmvp_net_state(net), NULL);
    reducer = bmvp_reducer_create(c, bmvp_net_state(net));
    if (reducer && r->flags & EARLY) bmvp_reducer_start(reducer);
    bmvp_backward(c, loss_of(c, net, r));
    if (reducer) {
        bmvp_reducer_finish(reducer);
        r->buckets = bmvp_reducer_buckets(reducer, &r->sent);
    }
    r->err = *bmvp_error_of(c);
    if (!bmvp_failed(c)) read_all(c, bmvp_net_state(net), r);
    bmvp_reducer_destroy(reducer);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
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
        r[i].first = first;
        r[i].samples = share[i];
        r[i].flags = flags;
        first += share[i];
    }
    for (i = 0; i < size; ++i) CHECK(pthread_create(&thread[i], NULL, run_rank, &r[i]) == 0);
    for (i = 0; i < size; ++i) pthread_join(thread[i], NULL);
    group_close(&g);
}

static void release(rank *r)
{
    int i;
    for (i = 0; i < MOST; ++i) free(r[i].out);
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
        if (!check_report(r[i].err.status == BMVP_OK && r[i].n == one->n, __FILE__, __LINE__, "rank %d: %s", i, r[i].err.message)) continue;
        CHECK_CLOSE("gradients and statistics", r[i].out, one->out, one->n, 2e-4);
        CHECK_SAME("all ranks", r[i].out, r[0].out, r[0].n);
        CHECK_SAME("a second run", again[i].out, r[i].out, r[i].n);
        CHECK(r[i].buckets > 1 && (r[i].sent > 0) == ((flags & EARLY) != 0) && (r[i].me.started > 0) == ((flags & ASYNC) != 0));
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
    CHECK(one[0].err.status == BMVP_OK && one[0].n > 0);
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
    r->n = t->reduce_scatter(t, all, 2, own, &r->err) == BMVP_OK && own[0] == 2 * all[2 * t->rank] && own[1] == 2 * all[2 * t->rank + 1];
    r->n += t->barrier(t, &r->err) == BMVP_OK;
    if (t->rank == 1) t->abort(t, "disk full");
    r->n += t->barrier(t, &r->err) == BMVP_E_IO;
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
    for (i = 0; i < 2; ++i) CHECK(r[i].n == 3);
    for (i = 0; i < 2; ++i) CHECK_HOLDS(r[i].err.message, "rank 1 stopped: disk full");
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
        CHECK(r[0].err.status == BMVP_E_IO && r[1].err.status == BMVP_E_IO);
        CHECK_HOLDS(r[0].err.message, "rank 1 is gone");
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
