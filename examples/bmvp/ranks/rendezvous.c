/* rendezvous.c - see rendezvous.h */
#define _DEFAULT_SOURCE
#include "rendezvous.h"
#include "sockets.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MEET_LISTENERS = 8, MEET_STRANGERS = 64, MEET_HINT = 200 };

void rendezvous_close(rank_peer *peer, int size)
{
    int r, c;
    for (r = 0; r < size; ++r)
        for (c = 0; c < CHANNELS; ++c) socket_close(&peer[r].fd[c]);
}

static void meet_host(char host[HOST_TEXT])
{
    if (gethostname(host, HOST_TEXT - 1) != 0) snprintf(host, HOST_TEXT, "unknown host");
    host[HOST_TEXT - 1] = 0;
}

/* Text from outside goes into messages: only what a terminal shows as it is. */
static void meet_clean(char *text, size_t size)
{
    text[size - 1] = 0;
    for (; *text; ++text) if (*text < 32 || *text > 126) *text = '?';
}

/* >>rank 0 --------------------------------------------------------------------------------------------------------- */

typedef struct meet_visitor { /* a connection that has not said who it is */
    int fd;
    size_t got;
    double until;
    rank_hello hello;
} meet_visitor;

typedef struct meeting {
    const launch_place *l;
    const launch_settings *s;
    rank_peer *peer;
    int listener[MEET_LISTENERS], listeners;
    meet_visitor *visitor; /* in the order of their coming */
    int visitors, most;
    struct pollfd *poll;   /* listeners, visitors, then the peers' */
    int missing;           /* connections */
    char hint[MEET_HINT];  /* what may keep ranks away, "": nothing known */
} meeting;

static void meet_hint_loopback(meeting *m, const struct addrinfo *a)
{
    const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)a->ai_addr;
    if (a->ai_family == AF_INET && ntohl(four->sin_addr.s_addr) >> 24 == 127)
        snprintf(m->hint, sizeof m->hint,
                 "; %.100s is this host's loopback here: ranks on other hosts need an address that they can reach",
                 m->l->address);
}

/* One socket for each address of the name; *problem: errno of the last that could not be */
static void meet_listen_on(meeting *m, const struct addrinfo *list, int *problem)
{
    const struct addrinfo *a;
    for (a = list; a && m->listeners < MEET_LISTENERS; a = a->ai_next) {
        const int on = 1;
        int fd = socket(a->ai_family, SOCK_STREAM, 0);
        if (fd >= 0) (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (fd >= 0 && a->ai_family == AF_INET6) (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
        if (fd >= 0 && socket_prepare(fd) && bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 512) == 0) {
            m->listener[m->listeners++] = fd;
            meet_hint_loopback(m, a);
        } else {
            *problem = errno;
            socket_close(&fd);
        }
    }
}

/* An earlier run may still hold the port, and a name may not be known yet: tried again for a while. */
static bmvp_status meet_listen(meeting *m, double until, bmvp_error *err)
{
    double wait = 0.05;
    for (;;) {
        const char *why = NULL;
        int problem = 0;
        struct addrinfo *list = socket_resolve(m->l->address, m->l->port, &why);
        if (list) {
            meet_listen_on(m, list, &problem);
            freeaddrinfo(list);
            why = strerror(problem);
        }
        if (m->listeners) return BMVP_OK;
        if (clock_now() + wait > until)
            return bmvp_error_set(
                err, BMVP_E_IO,
                "rank 0 cannot listen at %.200s port %d: %s; MASTER_ADDR must be this host's name or number, "
                "MASTER_PORT or BMVP_PORT a free port",
                m->l->address, m->l->port, why);
        clock_sleep(wait);
        wait = wait < 0.5 ? 1.5 * wait : wait;
    }
}

static void meet_answer(int fd, int accepted, const char *text)
{
    rank_answer a;
    memset(&a, 0, sizeof a);
    memcpy(a.magic, PROTOCOL_MAGIC, sizeof a.magic);
    a.protocol = PROTOCOL_VERSION;
    a.accepted = (uint32_t)accepted;
    snprintf(a.text, sizeof a.text, "%.*s", (int)sizeof a.text - 1, text);
    (void)socket_send(fd, &a, sizeof a, 0); /* who does not take it has gone, and is missed later */
}

static void meet_answer_all(meeting *m, int accepted, const char *text)
{
    int r, c;
    for (r = 1; r < m->l->size; ++r)
        for (c = 0; c < CHANNELS; ++c)
            if (m->peer[r].fd[c] >= 0) meet_answer(m->peer[r].fd[c], accepted, text);
}

static void meet_dismiss(meeting *m, int i)
{
    socket_close(&m->visitor[i].fd);
    --m->visitors;
    memmove(m->visitor + i, m->visitor + i + 1, (size_t)(m->visitors - i) * sizeof *m->visitor);
}

/* A rank that is gone leaves its place; it may come again. */
static void meet_unseat(meeting *m, int r)
{
    int c;
    for (c = 0; c < CHANNELS; ++c) {
        m->missing += m->peer[r].fd[c] >= 0;
        socket_close(&m->peer[r].fd[c]);
    }
    m->peer[r].token = 0;
}

/* Why the hello is refused, in text; 0: it is not. */
static int meet_objection(meeting *m, rank_hello *h, char *text, size_t size)
{
    const uint32_t ranks = (uint32_t)m->l->size;
    rank_peer *p;
    int c;
    meet_clean(h->host, sizeof h->host);
    if (h->protocol != PROTOCOL_VERSION || h->library != BMVP_TENSOR_VERSION)
        return snprintf(text, size,
                        "this rank's program is of version %u (protocol %u), rank 0's of %u (%u): start the same "
                        "program on all hosts",
                        h->library, h->protocol, (unsigned)BMVP_TENSOR_VERSION, (unsigned)PROTOCOL_VERSION);
    if (h->nonce != m->l->nonce)
        return snprintf(
            text, size,
            "rank 0 there is of another job: choose another MASTER_PORT or BMVP_PORT, and check that BMVP_JOB is the "
            "same for all ranks");
    if (h->size != ranks)
        return snprintf(text, size, "this rank counts %u ranks, rank 0 %u: start all with the same number", h->size,
                        ranks);
    if (h->rank == 0 || h->rank >= ranks || h->channel >= CHANNELS)
        return snprintf(text, size, "rank %u (channel %u) is none of ranks 1 to %u that rank 0 waits for", h->rank,
                        h->channel, ranks - 1);
    p = &m->peer[h->rank];
    for (c = 0; c < CHANNELS; ++c)
        if (p->fd[c] >= 0 && socket_over(p->fd[c])) meet_unseat(m, (int)h->rank);
    if ((p->token && p->token != h->token) || p->fd[h->channel] >= 0)
        return snprintf(text, size, "rank %u is there already, from host %s: each rank must be started once", h->rank,
                        p->host);
    return 0;
}

/* The visitor has said all: it is seated or sent away. */
static void meet_greet(meeting *m, int i)
{
    meet_visitor *v = &m->visitor[i];
    char text[256];
    if (meet_objection(m, &v->hello, text, sizeof text)) {
        meet_answer(v->fd, 0, text);
    } else {
        rank_peer *p = &m->peer[v->hello.rank];
        p->fd[v->hello.channel] = v->fd;
        p->until = clock_now() + m->s->hello;
        p->token = v->hello.token;
        memcpy(p->host, v->hello.host, sizeof p->host);
        --m->missing;
        v->fd = -1;
    }
    meet_dismiss(m, i);
}

/* Reads on. Whatever does not begin as a hello is closed without a word. */
static void meet_hear(meeting *m, int i)
{
    meet_visitor *v = &m->visitor[i];
    const ssize_t k = recv(v->fd, (char *)&v->hello + v->got, sizeof v->hello - v->got, 0);
    if (k < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (k > 0) v->got += (size_t)k;
    if (k <= 0 || memcmp(v->hello.magic, PROTOCOL_MAGIC, v->got < 8 ? v->got : 8) != 0) meet_dismiss(m, i);
    else if (v->got == sizeof v->hello) meet_greet(m, i);
}

/* Ranks of the job speak at once, so that of too many visitors the oldest is the one to go. */
static void meet_accept(meeting *m, int listener)
{
    int round;
    for (round = 0; round < MEET_STRANGERS; ++round) {
        meet_visitor *v;
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) {
            if (errno != EMFILE && errno != ENFILE) return;
            snprintf(m->hint, sizeof m->hint, "; too many open files: raise ulimit -n");
            if (m->visitors) meet_dismiss(m, 0);
            return;
        }
        if (m->visitors == m->most) meet_dismiss(m, 0);
        if (!socket_prepare(fd)) {
            socket_close(&fd);
            continue;
        }
        v = &m->visitor[m->visitors++];
        memset(v, 0, sizeof *v);
        v->fd = fd;
        v->until = clock_now() + m->s->hello;
    }
}

static void meet_watch(struct pollfd *p, int fd)
{
    p->fd = fd; /* below 0: left out */
    p->events = POLLIN;
    p->revents = 0;
}

/* A rank says both its hellos at once: half of one that stays half is a stranger, or has lost its other half. */
static void meet_part(meeting *m)
{
    int r;
    for (r = 1; r < m->l->size; ++r) {
        const rank_peer *p = &m->peer[r];
        const int halves = (p->fd[CHANNEL_DATA] >= 0) + (p->fd[CHANNEL_CONTROL] >= 0);
        if (halves == 1 && clock_now() > p->until) meet_unseat(m, r);
    }
}

/* Waits a little and does what is to be done then. */
static void meet_turn(meeting *m)
{
    const int from_peers = m->listeners + m->visitors, n = from_peers + CHANNELS * m->l->size;
    int i;
    for (i = 0; i < m->listeners; ++i) meet_watch(&m->poll[i], m->listener[i]);
    for (i = 0; i < m->visitors; ++i) meet_watch(&m->poll[m->listeners + i], m->visitor[i].fd);
    for (i = 0; i < CHANNELS * m->l->size; ++i)
        meet_watch(&m->poll[from_peers + i], m->peer[i / CHANNELS].fd[i % CHANNELS]);
    if (poll(m->poll, (nfds_t)n, 50) < 0) return; /* a signal, or no memory for now */
    for (i = 0; i < n - from_peers; ++i)
        if (m->poll[from_peers + i].revents) meet_unseat(m, i / CHANNELS); /* nobody speaks before the answer */
    for (i = m->visitors - 1; i >= 0; --i) {
        if (clock_now() > m->visitor[i].until) meet_dismiss(m, i);
        else if (m->poll[m->listeners + i].revents) meet_hear(m, i);
    }
    for (i = 0; i < m->listeners; ++i) if (m->poll[i].revents) meet_accept(m, m->listener[i]);
    meet_part(m);
}

/* "1, 3 and 2 more" */
static void meet_absent(const meeting *m, char *text, size_t size)
{
    int r, n = 0;
    size_t at = 0;
    text[0] = 0;
    for (r = 1; r < m->l->size; ++r) {
        if (m->peer[r].fd[CHANNEL_DATA] >= 0 && m->peer[r].fd[CHANNEL_CONTROL] >= 0) continue;
        if (++n <= 12) at += (size_t)snprintf(text + at, size - at, "%s%d", n > 1 ? ", " : "", r);
    }
    if (n > 12) snprintf(text + at, size - at, " and %d more", n - 12);
}

static bmvp_status meet_gather(meeting *m, double until, bmvp_error *err)
{
    char absent[160], host[HOST_TEXT];
    int i;
    while (m->missing > 0 && clock_now() < until) meet_turn(m);
    for (i = m->visitors - 1; i >= 0; --i) meet_dismiss(m, i);
    for (i = 0; i < m->listeners; ++i) socket_close(&m->listener[i]);
    if (m->missing > 0) {
        meet_absent(m, absent, sizeof absent);
        (void)bmvp_error_set(err, BMVP_E_IO, "rank %s of %d did not come within %.3g s to rank 0 at %.60s port %d%s",
                             absent, m->l->size, m->s->join, m->l->address, m->l->port, m->hint);
        meet_answer_all(m, 0, err->message);
        return err->status;
    }
    meet_host(host);
    meet_answer_all(m, 1, host);
    return BMVP_OK;
}

static bmvp_status meet_host_of_all(const launch_place *l, const launch_settings *s, rank_peer *peer, bmvp_error *err)
{
    const double now = clock_now();
    meeting m;
    bmvp_status st;
    memset(&m, 0, sizeof m);
    m.l = l;
    m.s = s;
    m.peer = peer;
    m.missing = CHANNELS * (l->size - 1);
    if (l->by == LAUNCH_SRUN)
        snprintf(m.hint, sizeof m.hint,
                 "; in a Slurm job the program is started with srun, for one rank with srun -n 1");
    m.most = MEET_STRANGERS + m.missing;
    m.visitor = (meet_visitor *)calloc((size_t)m.most, sizeof *m.visitor);
    m.poll = (struct pollfd *)calloc((size_t)(MEET_LISTENERS + m.most + CHANNELS * l->size), sizeof *m.poll);
    if (!m.visitor || !m.poll) st = bmvp_error_set(err, BMVP_E_OOM, "rendezvous of %d ranks: out of memory", l->size);
    else st = meet_listen(&m, now + (s->join < 10 ? s->join : 10), err);
    if (!st) st = meet_gather(&m, now + s->join, err);
    free(m.visitor);
    free(m.poll);
    return st;
}

/* >>other ranks ---------------------------------------------------------------------------------------------------- */

static void meet_hello(const launch_place *l, rank_hello *h, uint64_t token)
{
    memset(h, 0, sizeof *h);
    memcpy(h->magic, PROTOCOL_MAGIC, sizeof h->magic);
    h->protocol = PROTOCOL_VERSION;
    h->library = BMVP_TENSOR_VERSION;
    h->size = (uint32_t)l->size;
    h->rank = (uint32_t)l->rank;
    h->nonce = l->nonce;
    h->token = token;
    meet_host(h->host);
}

static uint64_t meet_token(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (((uint64_t)t.tv_sec * 1000000007u + (uint64_t)t.tv_nsec) * 1000003u + (uint64_t)getpid()) | 1u;
}

/* Both connections to one address, and the hello on each. 0: *problem says why not. */
static int meet_knock(const struct addrinfo *a, rank_peer *p, rank_hello *h, double until, const char **problem)
{
    int c;
    for (c = 0; c < CHANNELS; ++c) {
        const double left = until - clock_now();
        h->channel = (uint32_t)c;
        p->fd[c] = socket_connect(a, left > 5 ? 5 : left > 0.1 ? left : 0.1);
        if (p->fd[c] < 0) *problem = strerror(errno);
        else if (socket_send(p->fd[c], h, sizeof *h, until)) continue;
        else *problem = "the connection broke";
        return 0;
    }
    return 1;
}

/* What rank 0 says on one connection. 1: accepted; 0: try again; -1: it has refused, err says why */
static int meet_read(int fd, char *host, const char **problem, bmvp_error *err)
{
    rank_answer a;
    if (!socket_receive(fd, &a, sizeof a, clock_now() + 5)) {
        *problem = "closed without an answer";
        return 0;
    }
    meet_clean(a.text, sizeof a.text);
    if (memcmp(a.magic, PROTOCOL_MAGIC, sizeof a.magic) == 0 && a.protocol == PROTOCOL_VERSION && a.accepted) {
        snprintf(host, HOST_TEXT, "%.63s", a.text);
        return 1;
    }
    if (memcmp(a.magic, PROTOCOL_MAGIC, sizeof a.magic) == 0)
        (void)bmvp_error_set(err, BMVP_E_IO, "%s", a.text[0] ? a.text : "it gives no reason");
    else
        (void)bmvp_error_set(
            err, BMVP_E_IO,
            "what answers there is not rank 0 of this program: choose another MASTER_PORT or BMVP_PORT");
    return -1;
}

/* Waits for the answers on both connections at once, either of which may be closed. As meet_read */
static int meet_wait(rank_peer *p, double until, const char **problem, bmvp_error *err)
{
    struct pollfd both[CHANNELS];
    int c, waiting = CHANNELS, done;
    for (c = 0; c < CHANNELS; ++c) meet_watch(&both[c], p->fd[c]);
    while (waiting > 0) {
        const double left = until - clock_now();
        if (left <= 0) {
            *problem = "no answer; does another program listen there?";
            return 0;
        }
        if (poll(both, CHANNELS, (int)(left < 1e6 ? left * 1e3 : 1e9) + 1) <= 0) continue;
        for (c = 0; c < CHANNELS; ++c) {
            if (both[c].fd < 0 || !both[c].revents) continue;
            done = meet_read(p->fd[c], p->host, problem, err);
            if (done <= 0) return done;
            both[c].fd = -1;
            --waiting;
        }
    }
    return 1;
}

/* One attempt at all addresses of the name, as meet_wait */
static int meet_try(const launch_place *l, rank_peer *p, double until, const char **problem, bmvp_error *err)
{
    struct addrinfo *list = socket_resolve(l->address, l->port, problem), *a;
    int done = 0;
    for (a = list; a && !done; a = a->ai_next) {
        rank_hello h;
        meet_hello(l, &h, meet_token());
        if (meet_knock(a, p, &h, until, problem))
            done = meet_wait(p, until + 2, problem, err); /* rank 0's own reason comes at its end */
        if (done <= 0) rendezvous_close(p, 1);
    }
    if (list) freeaddrinfo(list);
    return done;
}

static bmvp_status meet_come(const launch_place *l, const launch_settings *s, rank_peer *p, bmvp_error *err)
{
    const double until = clock_now() + s->join;
    const char *problem = "";
    double wait = 0.02;
    for (;;) {
        bmvp_error why;
        const int done = meet_try(l, p, until, &problem, &why);
        if (done > 0) return BMVP_OK;
        if (done < 0)
            return bmvp_error_set(err, BMVP_E_IO, "rank %d is not accepted by rank 0 at %.60s port %d: %.380s", l->rank,
                                  l->address, l->port, why.message);
        if (clock_now() + wait > until)
            return bmvp_error_set(err, BMVP_E_IO, "rank %d did not reach rank 0 at %.200s port %d within %.3g s: %s",
                                  l->rank, l->address, l->port, s->join, problem);
        clock_sleep(wait);
        wait = wait < 1 ? 1.5 * wait : wait;
    }
}

bmvp_status rendezvous_meet(const launch_place *l, const launch_settings *s, rank_peer *peer, bmvp_error *err)
{
    bmvp_status st = BMVP_OK;
    int r, c;
    memset(peer, 0, (size_t)l->size * sizeof *peer);
    for (r = 0; r < l->size; ++r)
        for (c = 0; c < CHANNELS; ++c) peer[r].fd[c] = -1;
    if (l->size > 1) st = l->rank == 0 ? meet_host_of_all(l, s, peer, err) : meet_come(l, s, &peer[0], err);
    if (st) rendezvous_close(peer, l->size);
    return st;
}
