/* meet.c - fuzzing of what ranks say to one another. The first byte: 0, visitors of rank 0, the rest is what they do;
 * 1, rank 0's answer; 2, the environment of a launcher, a line "NAME=value" each; 3, bytes of control connections.
 * The sockets are pairs within the process. */
#include "tests/fuzz/fuzz.h"
#undef _DEFAULT_SOURCE
#include "examples/bmvp/ranks/rendezvous.c"
#undef _DEFAULT_SOURCE
#include "examples/bmvp/ranks/star.c"
#include "examples/bmvp/ranks/launch.c"

enum { RANKS = 4, VISITORS = 6, MOST_FAR = 40 };

static void open_pair(int p[2])
{
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0);
    FUZZ_CHECK(fcntl(p[0], F_SETFL, O_NONBLOCK) == 0 && fcntl(p[1], F_SETFL, O_NONBLOCK) == 0);
}

/* As far as the other end takes it: it may be closed, or full. */
static void say(int fd, const void *p, size_t n) { (void)!send(fd, p, n, MSG_NOSIGNAL); }

static void told(void *user, const char *why)
{
    (void)user;
    FUZZ_CHECK(why[0] && strlen(why) < STAR_TEXT);
}

static void shown(const char *text) /* a terminal may have it */
{
    for (; *text; ++text) FUZZ_CHECK((unsigned char)*text >= 32 && *text != 127);
}

static launch_place a_place(void)
{
    launch_place l;
    memset(&l, 0, sizeof l);
    l.size = RANKS;
    l.nonce = 0x1122334455667788u;
    l.port = 1;
    strcpy(l.address, "127.0.0.1");
    return l;
}

/* >>visitors: of two bytes of the input the first says who speaks (rank, channel) and how, the second how much ----- */

typedef struct fuzz_far { /* the other ends */
    int fd[MOST_FAR], n;
} fuzz_far;

static void new_visitor(meeting *m, fuzz_far *far)
{
    int q[2];
    open_pair(q);
    if (m->visitors == m->most) meet_dismiss(m, 0);
    memset(&m->visitor[m->visitors], 0, sizeof *m->visitor);
    m->visitor[m->visitors].fd = q[0];
    m->visitor[m->visitors++].until = clock_now() + 5;
    far->fd[far->n++] = q[1];
}

/* A true hello; some have one byte of the input in them, or are cut, or are bytes of the input. Returns those taken. */
static size_t speak(int fd, const launch_place *l, unsigned how, unsigned much, const uint8_t *p, size_t left)
{
    rank_hello h;
    size_t n = sizeof h;
    memset(&h, 0, sizeof h);
    meet_hello(l, &h, 7 + (how & 7));
    h.rank = how & 7;
    h.channel = how >> 3 & 1;
    if (how >> 4 == 1 && left) memcpy((char *)&h + much % sizeof h, p, 1);
    if (how >> 4 == 2) n = much % sizeof h;
    if (how >> 4 == 3) {
        n = much < left ? much : left;
        say(fd, p, n);
        return n;
    }
    say(fd, &h, n);
    return how >> 4 == 1 && left ? 1 : 0;
}

static void seats_agree(const meeting *m)
{
    int r, c, taken = 0;
    for (r = 0; r < RANKS; ++r)
        for (c = 0; c < CHANNELS; ++c) taken += m->peer[r].fd[c] >= 0;
    FUZZ_CHECK(taken + m->missing == CHANNELS * (RANKS - 1));
    FUZZ_CHECK(m->peer[0].fd[0] < 0 && m->peer[0].fd[1] < 0 && m->visitors >= 0 && m->visitors <= m->most);
    for (r = 1; r < RANKS; ++r) shown(m->peer[r].host);
}

static void visitors(const uint8_t *p, size_t n)
{
    const launch_place l = a_place();
    const launch_settings s = launch_settings_default(&l);
    struct pollfd poll[VISITORS + CHANNELS * RANKS];
    meet_visitor visitor[VISITORS + 1];
    rank_peer peer[RANKS];
    fuzz_far far;
    meeting m;
    bmvp_error e;
    int i, turns = 0;
    memset(&m, 0, sizeof m);
    memset(peer, 0, sizeof peer);
    far.n = 0;
    for (i = 0; i < CHANNELS * RANKS; ++i) peer[i / CHANNELS].fd[i % CHANNELS] = -1;
    m.l = &l;
    m.s = &s;
    m.peer = peer;
    m.visitor = visitor;
    m.poll = poll;
    m.most = VISITORS;
    m.missing = CHANNELS * (RANKS - 1);
    while (n >= 2 && far.n < MOST_FAR) {
        const unsigned how = p[0] & 63, much = p[1];
        size_t took = 2;
        if (!(p[0] & 64) || !m.visitors) new_visitor(&m, &far);
        if (far.fd[far.n - 1] >= 0) took += speak(far.fd[far.n - 1], &l, how, much, p + 2, n - 2);
        if ((p[0] & 192) == 192) socket_close(&far.fd[far.n - 1]);
        if (p[0] & 128 && turns++ < 3) meet_turn(&m);
        else if (m.visitors) meet_hear(&m, m.visitors - 1);
        seats_agree(&m);
        p += took;
        n -= took;
    }
    if (meet_gather(&m, clock_now(), &e)) fuzz_refused(e.status, &e);
    rendezvous_close(peer, RANKS);
    for (i = 0; i < far.n; ++i) socket_close(&far.fd[i]);
}

/* >>the others ----------------------------------------------------------------------------------------------------- */

static void answer(const uint8_t *p, size_t n)
{
    const char *problem = NULL;
    char host[HOST_TEXT] = "";
    rank_answer a;
    bmvp_error e;
    int q[2], r;
    memset(&a, 0, sizeof a);
    memcpy(a.magic, PROTOCOL_MAGIC, sizeof a.magic);
    a.protocol = PROTOCOL_VERSION;
    a.accepted = n & 1;
    open_pair(q);
    if (n & 2) { /* its text, else the whole answer */
        memcpy(a.text, p, n < sizeof a.text ? n : sizeof a.text);
        FUZZ_CHECK(write(q[1], &a, sizeof a) == sizeof a);
    } else FUZZ_CHECK(n == 0 || write(q[1], p, n < 1000 ? n : 1000) > 0);
    close(q[1]);
    r = meet_read(q[0], host, &problem, &e);
    if (r < 0) fuzz_refused(BMVP_E_IO, &e);
    FUZZ_CHECK(r != 0 || problem);
    shown(host);
    close(q[0]);
}

/* Of the lines NAME=value (with 0 in place of = and the line's end) the value of the name */
static const char *value_of(void *user, const char *name)
{
    const fuzz_bytes *lines = (const fuzz_bytes *)user;
    const char *p = (const char *)lines->data, *end = p + lines->n;
    while (p < end) {
        const char *value = p + strlen(p) + 1;
        if (value >= end) break;
        if (strcmp(p, name) == 0) return value;
        p = value + strlen(value) + 1;
    }
    return NULL;
}

static void environment(const uint8_t *p, size_t n)
{
    fuzz_bytes lines;
    launch_place l;
    bmvp_error e;
    bmvp_status s;
    size_t i;
    int name = 1;
    memset(&lines, 0, sizeof lines);
    fuzz_put(&lines, p, n);
    fuzz_number(&lines, 0, 2);
    for (i = 0; i < n; ++i) {
        const int cut = lines.data[i] == '\n' || (name && lines.data[i] == '=');
        if (cut) name = lines.data[i] == '\n';
        if (cut) lines.data[i] = 0;
    }
    s = launch_read(&l, value_of, &lines, &e);
    if (s) fuzz_refused(s, &e);
    else {
        FUZZ_CHECK(l.size >= 1 && l.size <= LAUNCH_MOST && l.rank >= 0 && l.rank < l.size && l.local_rank >= 0);
        FUZZ_CHECK(l.size == 1 || (l.port >= 1 && l.port <= 65535 && l.address[0]));
        FUZZ_CHECK(memchr(l.address, 0, sizeof l.address) != NULL);
    }
    free(lines.data);
}

/* A byte says which rank and how many bytes follow from it. */
static void control(const uint8_t *p, size_t n)
{
    star_state state[RANKS];
    rank_peer peer[RANKS];
    int q[RANKS][2], r;
    bmvp_error e;
    star k;
    memset(&k, 0, sizeof k);
    memset(state, 0, sizeof state);
    memset(peer, 0, sizeof peer);
    k.l = a_place();
    k.s = launch_settings_default(&k.l);
    k.s.failed = told;
    k.peer = peer;
    k.state = state;
    k.first = 1;
    k.end = RANKS;
    pthread_mutex_init(&k.lock, NULL);
    pthread_cond_init(&k.change, NULL);
    for (r = 0; r < RANKS; ++r) {
        open_pair(q[r]);
        peer[r].fd[CHANNEL_CONTROL] = q[r][0];
        peer[r].fd[CHANNEL_DATA] = -1;
        strcpy(peer[r].host, "h");
    }
    while (n > 0) {
        const size_t most = (size_t)(*p & 63) * 8, m = most < n - 1 ? most : n - 1;
        r = 1 + (*p >> 6) % (RANKS - 1);
        say(q[r][1], p + 1, m);
        p += 1 + m;
        n -= 1 + m;
        link_hear(&k, r);
    }
    if (star_check(&k, &e)) fuzz_refused(e.status, &e);
    for (r = 0; r < RANKS; ++r) close(q[r][0]), close(q[r][1]);
    pthread_mutex_destroy(&k.lock);
    pthread_cond_destroy(&k.change);
}

int FUZZ_ONE(const uint8_t *data, size_t n)
{
    const double began = fuzz_now();
    if (n < 1) return 0;
    fuzz_counted_begin(n);
    switch (data[0] & 3) {
    case 0: visitors(data + 1, n - 1); break;
    case 1: answer(data + 1, n - 1); break;
    case 2: environment(data + 1, n - 1); break;
    default: control(data + 1, n - 1); break;
    }
    fuzz_counted_end();
    FUZZ_CHECK(fuzz_now() - began <= 2 + 1e-6 * (double)n);
    return 0;
}
