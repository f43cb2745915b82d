/* ranks.h - a communicator whose ranks are threads of this process; it adds in the order of the ranks. */
#ifndef RANKS_H_INCLUDED
#define RANKS_H_INCLUDED

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "bmvp_tensor.h"

enum { MOST = 3 };

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

/* A rank's table, as a thread of group g. */
static void join(member *me, group *g, int number, int asynchronous)
{
    bmvp_comm *t = &me->table;
    me->of = g;
    t->user = me;
    t->rank = number;
    t->size = g ? g->size : 1;
    t->all_reduce = all_reduce;
    t->all_gather = all_gather;
    t->reduce_scatter = reduce_scatter;
    t->broadcast = broadcast;
    t->barrier = barrier;
    t->abort = abort_all;
    t->start = asynchronous ? start : NULL;
    t->wait = asynchronous ? wait_all : NULL;
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

#endif
