/* star.c - see star.h */
#define _DEFAULT_SOURCE
#include "star.h"
#include "sockets.h"
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifdef __APPLE__
#define STAR_CLOCK CLOCK_REALTIME /* conditions have no other */
#else
#define STAR_CLOCK CLOCK_MONOTONIC
#endif

/* What goes over a control connection: one byte, and after STOP a text of STAR_TEXT bytes */
enum { LINK_BEAT = 'b', LINK_LEAVE = 'q', LINK_STOP = 's' };

/* Small enough to fit the buffer of a connection that is read at all; one that is not is silent, and noticed as
   that. */
static void link_send_all(star *k, const void *data, size_t n)
{
    int r;
    for (r = k->first; r < k->end; ++r)
        if (!k->state[r].left) (void)socket_send(k->peer[r].fd[CHANNEL_CONTROL], data, n, 0);
}

/* Under the lock */
static void link_fail_locked(star *k, const char *why)
{
    char message[1 + STAR_TEXT];
    int r;
    if (k->failed) return;
    k->failed = 1;
    memset(message, 0, sizeof message);
    message[0] = LINK_STOP;
    snprintf(message + 1, STAR_TEXT, "%s", why[0] ? why : "a rank has failed, and gave no reason");
    memcpy(k->why, message + 1, STAR_TEXT);
    link_send_all(k, message, sizeof message);
    for (r = k->first; r < k->end; ++r) (void)shutdown(k->peer[r].fd[CHANNEL_DATA], SHUT_RDWR);
    pthread_cond_broadcast(&k->change);
    if (k->s.failed) k->s.failed(k->s.user, k->why);
}

void star_fail(star *k, const char *format, ...)
{
    char why[STAR_TEXT];
    va_list ap;
    va_start(ap, format);
    vsnprintf(why, sizeof why, format, ap);
    va_end(ap);
    pthread_mutex_lock(&k->lock);
    link_fail_locked(k, why);
    pthread_mutex_unlock(&k->lock);
}

bmvp_status star_check(star *k, bmvp_error *err)
{
    bmvp_status st = BMVP_OK;
    pthread_mutex_lock(&k->lock);
    if (k->failed) st = bmvp_error_set(err, BMVP_E_IO, "%s", k->why);
    pthread_mutex_unlock(&k->lock);
    return st;
}

bmvp_status star_lost(star *k, int r, const char *doing, bmvp_error *err)
{
    const double wait = k->s.silent + 2 * k->s.beat;
    struct timespec t;
    int left;
    clock_gettime(STAR_CLOCK, &t);
    t.tv_sec += (time_t)wait + 1;
    pthread_mutex_lock(&k->lock);
    while (!k->failed && !k->state[r].left)
        if (pthread_cond_timedwait(&k->change, &k->lock, &t) == ETIMEDOUT) break;
    left = k->state[r].left;
    pthread_mutex_unlock(&k->lock);
    star_fail(k, "rank %d on %s %s while rank %d calls %s", r, k->peer[r].host,
              left ? "has ended" : "has closed its connection for data", k->l.rank, doing);
    return star_check(k, err);
}

/* >>watching ------------------------------------------------------------------------------------------------------- */

static void link_take(star *k, int r, const char *bytes, size_t n)
{
    star_state *p = &k->state[r];
    size_t i;
    p->heard = clock_now();
    for (i = 0; i < n; ++i) {
        if (p->reading) {
            p->text[p->got++] = bytes[i];
            if (p->got < sizeof p->text) continue;
            p->text[sizeof p->text - 1] = 0;
            p->reading = 0;
            star_fail(k, "%s", p->text);
        } else if (bytes[i] == LINK_STOP) {
            p->reading = 1;
            p->got = 0;
        } else if (bytes[i] == LINK_LEAVE) {
            pthread_mutex_lock(&k->lock);
            p->left = 1;
            pthread_cond_broadcast(&k->change);
            pthread_mutex_unlock(&k->lock);
        }
    }
}

static void link_hear(star *k, int r)
{
    char bytes[512];
    for (;;) {
        const ssize_t n = recv(k->peer[r].fd[CHANNEL_CONTROL], bytes, sizeof bytes, 0);
        if (n > 0) {
            link_take(k, r, bytes, (size_t)n);
        } else if (n == 0 || (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK)) {
            k->state[r].closed = 1;
            if (!k->state[r].left) star_fail(k, "rank %d on %s is gone (connection closed)", r, k->peer[r].host);
            return;
        } else if (errno != EINTR) {
            return;
        }
    }
}

static void link_beat(star *k)
{
    const char beat = LINK_BEAT;
    pthread_mutex_lock(&k->lock);
    link_send_all(k, &beat, 1);
    pthread_mutex_unlock(&k->lock);
}

/* Waits for something to read until `until`. 0: the pipe says that it is over. */
static int link_poll(star *k, double until)
{
    const double left = until - clock_now();
    int r;
    k->poll[0].fd = k->wake[0];
    k->poll[0].events = POLLIN;
    for (r = k->first; r < k->end; ++r) {
        struct pollfd *p = &k->poll[1 + r - k->first];
        p->fd = k->state[r].closed ? -1 : k->peer[r].fd[CHANNEL_CONTROL];
        p->events = POLLIN;
    }
    if (poll(k->poll, (nfds_t)(1 + k->end - k->first), left > 0 ? (int)(left * 1e3) + 1 : 0) < 0) return 1;
    for (r = k->first; r < k->end; ++r) if (k->poll[1 + r - k->first].fd >= 0) link_hear(k, r);
    return k->poll[0].revents == 0;
}

static void *link_watch(void *arg)
{
    star *k = (star *)arg;
    double beat = clock_now(), before = beat, now;
    int r;
    for (r = k->first; r < k->end; ++r) k->state[r].heard = beat;
    while (link_poll(k, beat)) {
        now = clock_now();
        if (now >= beat) {
            link_beat(k);
            beat = now + k->s.beat;
        }
        for (r = k->first; r < k->end; ++r) {
            star_state *p = &k->state[r];
            if (now - before > k->s.silent / 2)
                p->heard = now; /* this process was stopped, the others perhaps with it */
            if (!p->closed && !p->left && now - p->heard > k->s.silent)
                star_fail(k,
                          "rank %d on %s has given no sign of life for %.3g s (stopped, or its host cannot be reached)",
                          r, k->peer[r].host, k->s.silent);
        }
        before = now;
    }
    return NULL;
}

/* Waits by STAR_CLOCK, which nobody sets back. */
static void condition_init(pthread_cond_t *c)
{
#ifdef __APPLE__
    pthread_cond_init(c, NULL);
#else
    pthread_condattr_t how;
    pthread_condattr_init(&how);
    pthread_condattr_setclock(&how, STAR_CLOCK);
    pthread_cond_init(c, &how);
    pthread_condattr_destroy(&how);
#endif
}

/* >>open and close ------------------------------------------------------------------------------------------------- */

bmvp_status star_open(star *k, const launch_place *l, const launch_settings *s, bmvp_error *err)
{
    bmvp_status st;
    memset(k, 0, sizeof *k);
    k->l = *l;
    k->s = *s;
    k->wake[0] = k->wake[1] = -1;
    k->first = l->rank == 0 ? 1 : 0;
    k->end = l->rank == 0 ? l->size : 1;
    pthread_mutex_init(&k->lock, NULL);
    condition_init(&k->change);
    k->peer = (rank_peer *)calloc((size_t)l->size, sizeof *k->peer);
    k->state = (star_state *)calloc((size_t)l->size, sizeof *k->state);
    k->poll = (struct pollfd *)calloc((size_t)l->size + 1, sizeof *k->poll);
    if (k->peer && k->state && k->poll) {
        st = rendezvous_meet(l, s, k->peer, err);
    } else {
        st = bmvp_error_set(err, BMVP_E_OOM, "%d ranks: out of memory", l->size);
        free(k->peer); /* has no connections to close */
        k->peer = NULL;
    }
    if (!st && l->size > 1) k->watching = pipe(k->wake) == 0 && thread_start(&k->thread, link_watch, k);
    if (!st && l->size > 1 && !k->watching)
        st = bmvp_error_set(err, BMVP_E_OOM, "rank %d could not start its watching thread", l->rank);
    if (st) star_close(k);
    return st;
}

void star_close(star *k)
{
    const char leave = LINK_LEAVE;
    if (k->watching) {
        pthread_mutex_lock(&k->lock);
        link_send_all(k, &leave, 1);
        pthread_mutex_unlock(&k->lock);
        socket_close(&k->wake[1]);
        pthread_join(k->thread, NULL);
    }
    socket_close(&k->wake[0]);
    socket_close(&k->wake[1]);
    if (k->peer) rendezvous_close(k->peer, k->l.size);
    free(k->peer);
    free(k->state);
    free(k->poll);
    pthread_cond_destroy(&k->change);
    pthread_mutex_destroy(&k->lock);
}
