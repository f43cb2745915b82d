/* tcp.c - the calls of bmvp_comm over TCP, see transport.h

   Each call begins with a header of every other rank to rank 0, which sends nothing before it has compared them all
   with its own: ranks that make different calls get an error and no data. */
#define _DEFAULT_SOURCE
#include "transport.h"
#include "star.h"
#include "sockets.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

typedef struct tcp_flow { /* what is still to go to a peer and to come from it */
    const char *out;
    char *in;
    size_t to_send, to_come;
} tcp_flow;

typedef struct tcp {
    star link;
    tcp_flow *flow;        /* by rank */
    struct pollfd *poll;
    call_header now, *theirs; /* theirs: by rank */
    char doing[CALL_TEXT]; /* the running call, for messages */
    int64_t chunk;         /* floats */
    float *piece;          /* rank 0: a chunk of each rank, its own twice; others: one to send, one that comes */
} tcp;

/* >>moving bytes --------------------------------------------------------------------------------------------------- */

/* 1: something moved, 0: nothing now, -1: the connection is over */
static int tcp_result(ssize_t k)
{
    if (k > 0) return 1;
    return k < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? 0 : -1;
}

static int tcp_move(tcp_flow *f, int fd)
{
    int sent = 0, came = 0;
    if (f->to_send) {
        const ssize_t k = socket_put(fd, f->out, f->to_send);
        sent = tcp_result(k);
        if (sent > 0) {
            f->out += k;
            f->to_send -= (size_t)k;
        }
    }
    if (f->to_come) {
        const ssize_t k = recv(fd, f->in, f->to_come, 0);
        came = tcp_result(k);
        if (came > 0) {
            f->in += k;
            f->to_come -= (size_t)k;
        }
    }
    return sent < 0 || came < 0 ? -1 : sent || came;
}

/* Nothing moved: waits until something may. 0: not within the time of a call */
static int tcp_wait(tcp *t, double until)
{
    const star *k = &t->link;
    const double left = until - clock_now();
    int r, n = 0;
    for (r = k->first; r < k->end; ++r) {
        const tcp_flow *f = &t->flow[r];
        if (!f->to_send && !f->to_come) continue;
        t->poll[n].fd = k->peer[r].fd[CHANNEL_DATA];
        t->poll[n++].events = (short)((f->to_send ? POLLOUT : 0) | (f->to_come ? POLLIN : 0));
    }
    return left > 0 &&
           (poll(t->poll, (nfds_t)n, left < 1e6 ? (int)(left * 1e3) + 1 : 1000000000) != 0 || clock_now() < until);
}

/* Moves all that is in the flows, both ways with all peers at once. */
static bmvp_status tcp_exchange(tcp *t, bmvp_error *err)
{
    star *k = &t->link;
    const double wait = k->s.call * (k->l.rank ? 1.25 : 1) +
                        (k->l.rank ? 2 : 0); /* rank 0 knows better who is late: it speaks first */
    double until = clock_now() + wait;
    for (;;) {
        int r, moved = 0, late = -1;
        for (r = k->first; r < k->end; ++r) {
            const int m = tcp_move(&t->flow[r], k->peer[r].fd[CHANNEL_DATA]);
            if (m < 0) return star_lost(k, r, t->doing, err);
            moved |= m;
            if (late < 0 && (t->flow[r].to_send || t->flow[r].to_come)) late = r;
        }
        if (late < 0) return BMVP_OK;
        if (moved) {
            until = clock_now() + wait;
        } else if (!tcp_wait(t, until)) {
            star_fail(k, "rank %d on %s has not come to %s within %.3g s, where rank %d waits", late,
                      k->peer[late].host, t->doing, wait, k->l.rank);
            return star_check(k, err);
        }
    }
}

static void tcp_flow_set(tcp *t, int r, const void *out, int64_t to_send, void *in, int64_t to_come)
{
    tcp_flow *f = &t->flow[r];
    f->out = (const char *)out;
    f->in = (char *)in;
    f->to_send = (size_t)to_send;
    f->to_come = (size_t)to_come;
}

/* >>headers -------------------------------------------------------------------------------------------------------- */

/* Every call's beginning: all ranks make the same one. */
static bmvp_status tcp_begin(tcp *t, rank_call call, int64_t bytes, int detail, bmvp_error *err)
{
    star *k = &t->link;
    bmvp_status st = star_check(k, err);
    char text[STAR_TEXT];
    int r;
    if (st) return st;
    call_next(&t->now, call, bytes, detail);
    call_name(t->doing, &t->now);
    for (r = k->first; r < k->end; ++r)
        if (k->l.rank == 0) tcp_flow_set(t, r, NULL, 0, &t->theirs[r], sizeof *t->theirs);
        else tcp_flow_set(t, r, &t->now, sizeof t->now, NULL, 0);
    st = tcp_exchange(t, err);
    for (r = k->first; !st && k->l.rank == 0 && r < k->end; ++r) {
        if (!call_differs(text, sizeof text, &t->now, &t->theirs[r], r, k->peer[r].host)) continue;
        star_fail(k, "%s", text);
        st = star_check(k, err);
    }
    return st;
}

/* >>sums ----------------------------------------------------------------------------------------------------------- */

typedef struct tcp_place { /* in a list of arrays */
    const bmvp_part *part;
    int64_t at;
} tcp_place;

/* n values at a place to (or, with `back`, from) x; the place moves on. */
static void tcp_copy(tcp_place *p, float *x, int64_t n, int back)
{
    while (n > 0) {
        const int64_t left = p->part->n - p->at, m = left < n ? left : n;
        if (back && m > 0) memcpy(p->part->x + p->at, x, (size_t)m * sizeof *x);
        else if (m > 0) memcpy(x, p->part->x + p->at, (size_t)m * sizeof *x);
        x += m;
        n -= m;
        p->at += m;
        if (p->at < p->part->n) continue;
        ++p->part;
        p->at = 0;
    }
}

/* Rank 0: own += theirs, in the order of the ranks */
static void tcp_add(const tcp *t, float *own, int64_t n)
{
    int64_t i;
    int r;
    for (r = 1; r < t->link.l.size; ++r) {
        const float *x = t->piece + (r + 1) * t->chunk;
        for (i = 0; i < n; ++i) own[i] += x[i];
    }
}

/* The sum over ranks of n values in `from`, to `to` of rank `owner`, -1: of every rank. While piece k comes in, the sum
   of piece k - 1 goes out. */
static bmvp_status tcp_sum(tcp *t, const bmvp_part *from, const bmvp_part *to, int64_t n, int owner, bmvp_error *err)
{
    const star *k = &t->link;
    const int wanted = owner < 0 || owner == k->l.rank, size = (int)sizeof(float);
    tcp_place source, result;
    int64_t at, up, down = 0;
    int turn, r;
    source.part = from;
    result.part = to;
    source.at = result.at = 0;
    for (at = 0, turn = 0; at < n || down > 0; at += up, down = up, turn ^= 1) {
        float *own = t->piece + turn * t->chunk, *other = t->piece + (turn ^ 1) * t->chunk;
        bmvp_status st;
        up = n - at < t->chunk ? n - at : t->chunk;
        tcp_copy(&source, k->l.rank ? t->piece : own, up, 0);
        for (r = k->first; r < k->end; ++r)
            if (k->l.rank == 0)
                tcp_flow_set(t, r, other, owner < 0 || owner == r ? down * size : 0, t->piece + (r + 1) * t->chunk,
                             up * size);
            else tcp_flow_set(t, r, t->piece, up * size, t->piece + t->chunk, wanted ? down * size : 0);
        st = tcp_exchange(t, err);
        if (st) return st;
        if (k->l.rank == 0) tcp_add(t, own, up);
        if (wanted) tcp_copy(&result, k->l.rank ? t->piece + t->chunk : own, k->l.rank ? down : up, 1);
    }
    return BMVP_OK;
}

static bmvp_status tcp_all_reduce(const bmvp_comm *m, const bmvp_part *part, int n, bmvp_error *err)
{
    tcp *t = (tcp *)m->user;
    int64_t all = 0;
    bmvp_status st;
    int i;
    for (i = 0; i < n; ++i) all += part[i].n;
    st = tcp_begin(t, CALL_ALL_REDUCE, all * (int64_t)sizeof(float), n, err);
    return st ? st : tcp_sum(t, part, part, all, -1, err);
}

static bmvp_status tcp_reduce_scatter(const bmvp_comm *m, const float *all, int64_t n, float *own, bmvp_error *err)
{
    tcp *t = (tcp *)m->user;
    bmvp_status st = tcp_begin(t, CALL_REDUCE_SCATTER, n * (int64_t)sizeof *all, 0, err);
    int r;
    for (r = 0; !st && r < m->size; ++r) {
        bmvp_part from, to;
        from.x = (float *)(uintptr_t)(all + r * n); /* only read */
        to.x = own;
        from.n = to.n = n;
        st = tcp_sum(t, &from, &to, n, r, err);
    }
    return st;
}

/* >>bytes ---------------------------------------------------------------------------------------------------------- */

static bmvp_status tcp_all_gather(const bmvp_comm *m, const void *own, int64_t bytes, void *all, bmvp_error *err)
{
    tcp *t = (tcp *)m->user;
    bmvp_status st = tcp_begin(t, CALL_ALL_GATHER, bytes, 0, err);
    int r;
    if (st) return st;
    if (m->rank) {
        tcp_flow_set(t, 0, own, bytes, all, m->size * bytes);
        return tcp_exchange(t, err);
    }
    if (bytes > 0) memcpy(all, own, (size_t)bytes);
    for (r = 1; r < m->size; ++r) tcp_flow_set(t, r, NULL, 0, (char *)all + r * bytes, bytes);
    st = tcp_exchange(t, err);
    for (r = 1; r < m->size; ++r) tcp_flow_set(t, r, all, m->size * bytes, NULL, 0);
    return st ? st : tcp_exchange(t, err);
}

static bmvp_status tcp_broadcast(const bmvp_comm *m, void *data, int64_t bytes, int root, bmvp_error *err)
{
    tcp *t = (tcp *)m->user;
    bmvp_status st = tcp_begin(t, CALL_BROADCAST, bytes, root, err);
    int r;
    if (st) return st;
    if (m->rank) {
        if (m->rank == root) tcp_flow_set(t, 0, data, bytes, NULL, 0);
        else tcp_flow_set(t, 0, NULL, 0, data, bytes);
        return tcp_exchange(t, err);
    }
    if (root) {
        tcp_flow_set(t, root, NULL, 0, data, bytes);
        st = tcp_exchange(t, err);
    }
    for (r = 1; r < m->size; ++r) tcp_flow_set(t, r, data, r == root ? 0 : bytes, NULL, 0);
    return st ? st : tcp_exchange(t, err);
}

/* Rank 0 has heard of all when its header goes back. */
static bmvp_status tcp_barrier(const bmvp_comm *m, bmvp_error *err)
{
    tcp *t = (tcp *)m->user;
    bmvp_status st = tcp_begin(t, CALL_BARRIER, 0, 0, err);
    int r;
    for (r = t->link.first; r < t->link.end; ++r)
        if (m->rank == 0) tcp_flow_set(t, r, &t->now, sizeof t->now, NULL, 0);
        else tcp_flow_set(t, r, NULL, 0, &t->theirs[r], sizeof *t->theirs);
    return st ? st : tcp_exchange(t, err);
}

static void tcp_abort(const bmvp_comm *m, const char *why)
{
    star_fail(&((tcp *)m->user)->link, "rank %d stopped: %s", m->rank, why);
}

/* >>open and close ------------------------------------------------------------------------------------------------- */

static void tcp_free(tcp *t)
{
    free(t->flow);
    free(t->poll);
    free(t->theirs);
    free(t->piece);
    free(t);
}

static void tcp_close(bmvp_comm *m)
{
    tcp *t = (tcp *)m->user;
    star_close(&t->link);
    tcp_free(t);
}

static tcp *tcp_create(const launch_place *l, int64_t chunk)
{
    const size_t size = (size_t)l->size, pieces = l->rank ? 2 : size + 1;
    tcp *t = (tcp *)calloc(1, sizeof *t);
    if (!t) return NULL;
    t->chunk = chunk / (int64_t)sizeof(float) > 0 ? chunk / (int64_t)sizeof(float) : 1;
    t->flow = (tcp_flow *)calloc(size, sizeof *t->flow);
    t->poll = (struct pollfd *)calloc(size, sizeof *t->poll);
    t->theirs = (call_header *)calloc(size, sizeof *t->theirs);
    t->piece = (float *)malloc(pieces * (size_t)t->chunk * sizeof *t->piece);
    if (t->flow && t->poll && t->theirs && t->piece) return t;
    tcp_free(t);
    return NULL;
}

bmvp_status tcp_open(transport *out, const launch_place *l, const launch_settings *s, bmvp_error *err)
{
    tcp *t = tcp_create(l, s->chunk);
    bmvp_comm *m = &out->comm;
    bmvp_status st;
    memset(out, 0, sizeof *out);
    if (!t) return bmvp_error_set(err, BMVP_E_OOM, "%d ranks: out of memory", l->size);
    st = star_open(&t->link, l, s, err);
    if (st) {
        tcp_free(t);
        return st;
    }
    m->user = t;
    m->rank = l->rank;
    m->size = l->size;
    m->all_reduce = tcp_all_reduce;
    m->all_gather = tcp_all_gather;
    m->reduce_scatter = tcp_reduce_scatter;
    m->broadcast = tcp_broadcast;
    m->barrier = tcp_barrier;
    m->abort = tcp_abort;
    out->close = tcp_close;
    return BMVP_OK;
}
