/* test_ranks.c - what the ranks of a data-parallel run say to one another, and what happens when one of them goes,
   stops or makes another call. Ranks are threads, or processes where they are killed; started by a launcher with the
   word as-rank or until-failure this program is one rank of its run (launch.sh). */
#define _DEFAULT_SOURCE
#include "bmvp_tensor.h"
#include "tests/support/places.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* >>calls ---------------------------------------------------------------------------------------------------------- */

typedef struct member { /* a rank of a run, as a thread */
    launch_place l;
    launch_settings s;
    bmvp_comm comm;
    void (*run)(struct member *me);
    bmvp_error err;   /* of joining, and then run's own */
    int ok;           /* run's own */
    pthread_t thread;
} member;

static void *take_part(void *arg)
{
    member *m = (member *)arg;
    if (launch_join(&m->l, &m->s, &m->comm, &m->err) == BMVP_OK) {
        m->run(m);
        launch_leave(&m->comm);
    }
    return NULL;
}

static void run_members(member *m, int size, void (*run)(member *), double call)
{
    const int port = free_port();
    int r;
    memset(m, 0, (size_t)size * sizeof *m);
    for (r = 0; r < size; ++r) {
        m[r].l = launch_of(r, size, "127.0.0.1", port);
        m[r].s = quick();
        m[r].s.call = call;
        m[r].run = run;
        CHECK(pthread_create(&m[r].thread, NULL, take_part, &m[r]) == 0);
    }
    for (r = 0; r < size; ++r) pthread_join(m[r].thread, NULL);
}

/* Values whose sums depend on the order of adding */
static float value_of(int rank, int64_t i, int call)
{
    uint64_t state = (uint64_t)(rank + 1) * 1000003u + (uint64_t)i * 7919u + (uint64_t)call * 104729u;
    (void)noise(&state);
    return ((float)noise(&state) * 1e-9f - 1.0f) * (i % 3 ? 1.0f : 1e5f);
}
static float sum_of(int size, int64_t i, int call)
{
    float s = value_of(0, i, call);
    int r;
    for (r = 1; r < size; ++r) s += value_of(r, i, call);
    return s;
}

enum { ARRAYS = 6, LONGEST = 5000 };
static const int64_t lengths[ARRAYS] = { 7, 0, 1, LONGEST, 1024, 0 };

/* part: arrays of these lengths in x */
static void lay_out(bmvp_part *part, float *x, int rank, int call)
{
    int64_t i, at = 0;
    int a;
    for (a = 0; a < ARRAYS; ++a) {
        part[a].x = x + at;
        part[a].n = lengths[a];
        for (i = 0; i < lengths[a]; ++i, ++at) x[at] = value_of(rank, at, call);
    }
}
static int is_sum(const float *x, int size, int call)
{
    int64_t i, n = 0;
    int a, same = 1;
    for (a = 0; a < ARRAYS; ++a) n += lengths[a];
    for (i = 0; i < n; ++i) same &= x[i] == sum_of(size, i, call);
    return same;
}

static int all_reduce_right(member *me)
{
    static const int in_flight = 3;
    float *x = (float *)malloc(sizeof *x * 3 * 8192);
    bmvp_part part[3][ARRAYS];
    const bmvp_comm *m = &me->comm;
    int i, ok = 1;
    lay_out(part[0], x, m->rank, 0);
    ok &= m->all_reduce(m, part[0], ARRAYS, &me->err) == BMVP_OK && is_sum(x, m->size, 0);
    ok &= m->all_reduce(m, part[0], 0, &me->err) == BMVP_OK;
    for (i = 0; i < in_flight; ++i) {
        bmvp_part given[ARRAYS];
        lay_out(part[i], x + i * 8192, m->rank, 1 + i);
        memcpy(given, part[i], sizeof given);
        ok &= m->start(m, given, ARRAYS, &me->err) == BMVP_OK;
        memset(given, 0, sizeof given); /* read before start returns */
        if (i == 1) ok &= m->barrier(m, &me->err) == BMVP_OK; /* a call between */
    }
    ok &= m->wait(m, &me->err) == BMVP_OK && m->wait(m, &me->err) == BMVP_OK;
    for (i = 0; i < in_flight; ++i) ok &= is_sum(x + i * 8192, m->size, 1 + i);
    free(x);
    return ok;
}

static int reduce_scatter_right(member *me, int64_t n)
{
    const bmvp_comm *m = &me->comm;
    float *all = (float *)malloc(sizeof *all * (size_t)(m->size * n + 1)),
          *own = (float *)malloc(sizeof *own * (size_t)(n + 1));
    int64_t i;
    int ok = 1;
    for (i = 0; i < m->size * n; ++i) all[i] = value_of(m->rank, i, 9);
    ok &= m->reduce_scatter(m, all, n, own, &me->err) == BMVP_OK;
    for (i = 0; ok && i < n; ++i) ok &= own[i] == sum_of(m->size, m->rank * n + i, 9);
    for (i = 0; i < m->size * n; ++i) ok &= all[i] == value_of(m->rank, i, 9);
    free(all);
    free(own);
    return ok;
}

static int bytes_right(member *me, int64_t n)
{
    const bmvp_comm *m = &me->comm;
    char *own = (char *)malloc((size_t)n + 1), *all = (char *)malloc((size_t)(m->size * n) + 1);
    int64_t i;
    int r, ok = 1;
    for (i = 0; i < n; ++i) own[i] = (char)(m->rank * 31 + i * 7);
    ok &= m->all_gather(m, own, n, all, &me->err) == BMVP_OK;
    for (r = 0; ok && r < m->size; ++r)
        for (i = 0; i < n; ++i) ok &= all[r * n + i] == (char)(r * 31 + i * 7);
    for (r = 0; ok && r < m->size; ++r) {
        for (i = 0; i < n; ++i) own[i] = (char)(m->rank * 31 + i * 7);
        ok &= m->broadcast(m, own, n, r, &me->err) == BMVP_OK;
        for (i = 0; i < n; ++i) ok &= own[i] == (char)(r * 31 + i * 7);
    }
    free(own);
    free(all);
    return ok;
}

static void every_call(member *me)
{
    me->ok = all_reduce_right(me) && reduce_scatter_right(me, 0) && reduce_scatter_right(me, 1) &&
             reduce_scatter_right(me, 3001) && bytes_right(me, 0) && bytes_right(me, 13) && bytes_right(me, 1 << 20) &&
             all_reduce_right(me);
}

static void test_calls(void)
{
    member m[MOST];
    int size, r;
    for (size = 1; size <= MOST; size += size == 3 ? 2 : 1) {
        run_members(m, size, every_call, 20);
        for (r = 0; r < size; ++r)
            check_report(m[r].ok, __FILE__, __LINE__, "rank %d of %d: %s", r, size, m[r].err.message);
    }
}

/* Nobody comes out of a barrier before all have gone in. */
static pthread_mutex_t count_lock = PTHREAD_MUTEX_INITIALIZER;
static int count_in;
static void through_barriers(member *me)
{
    int i;
    for (i = 1, me->ok = 1; i <= 20; ++i) {
        if (me->comm.rank == i % 3) clock_sleep(0.005);
        pthread_mutex_lock(&count_lock);
        ++count_in;
        pthread_mutex_unlock(&count_lock);
        me->ok &= me->comm.barrier(&me->comm, &me->err) == BMVP_OK;
        pthread_mutex_lock(&count_lock);
        me->ok &= count_in >= 3 * i;
        pthread_mutex_unlock(&count_lock);
    }
}
static void test_barrier(void)
{
    member m[3];
    int r;
    count_in = 0;
    run_members(m, 3, through_barriers, 20);
    for (r = 0; r < 3; ++r) CHECK(m[r].ok);
}

/* >>failures ------------------------------------------------------------------------------------------------------- */

/* Ranks whose calls differ: every one of them gets the error, and so do later calls. */
static int odd_call;
static void calls_differ(member *me)
{
    const bmvp_comm *m = &me->comm;
    static const double pause[3] = { 0, 0.05, 0.02 };
    float x[20], all[MOST * 10];
    bmvp_part part[2];
    bmvp_error err;
    memset(x, 0, sizeof x);
    part[0].x = part[1].x = x;
    part[0].n = 15;
    part[1].n = 5;
    clock_sleep(pause[m->rank % 3]);
    if (m->rank != 1) m->all_reduce(m, part, 2, &me->err);
    else if (odd_call == 0) m->all_gather(m, x, 40, all, &me->err);
    else if (odd_call == 1) m->all_reduce(m, part, 1, &me->err);
    else if (odd_call == 2) m->broadcast(m, x, 80, 2, &me->err);
    else m->barrier(m, &me->err);
    me->ok = m->barrier(m, &err) == BMVP_E_IO && m->start(m, part, 1, &err) == BMVP_OK &&
             m->wait(m, &err) == BMVP_E_IO && strcmp(err.message, me->err.message) == 0;
}
static void test_different_calls(void)
{
    static const char *const said[4] = { "all_gather of 40 bytes", "all_reduce of 60 bytes in 1 arrays",
                                         "broadcast of 80 bytes from rank 2", "calls barrier where" };
    member m[3];
    int r;
    for (odd_call = 0; odd_call < 4; ++odd_call) {
        run_members(m, 3, calls_differ, 20);
        for (r = 0; r < 3; ++r) {
            CHECK(m[r].ok && m[r].err.status == BMVP_E_IO);
            CHECK_HOLDS(m[r].err.message, "rank 1 on ");
            CHECK_HOLDS(m[r].err.message, said[odd_call]);
            CHECK_HOLDS(m[r].err.message, "rank 0 calls all_reduce of 80 bytes in 2 arrays (call 1)");
        }
    }
}

static int stopper;
static void *stop_soon(void *arg)
{
    const bmvp_comm *m = (const bmvp_comm *)arg;
    clock_sleep(0.1);
    m->abort(m, "disk full");
    m->abort(m, "and later reasons do not count");
    return NULL;
}
static void is_stopped(member *me)
{
    pthread_t other;
    const int stops = me->comm.rank == stopper;
    bmvp_error err;
    if (stops) pthread_create(&other, NULL, stop_soon, &me->comm);
    if (stops) pthread_join(other, NULL);
    me->comm.barrier(&me->comm, &me->err);
    me->ok = me->comm.barrier(&me->comm, &err) == BMVP_E_IO;
}
static void test_abort(void)
{
    char want[40];
    member m[3];
    int r;
    for (stopper = 0; stopper < 3; ++stopper) {
        run_members(m, 3, is_stopped, 20);
        snprintf(want, sizeof want, "rank %d stopped: disk full", stopper);
        for (r = 0; r < 3; ++r) {
            CHECK(m[r].ok);
            CHECK_HOLDS(m[r].err.message, want);
        }
    }
}

/* A rank that lives and does not come, and one that leaves: `stopper` again. */
static void comes_late(member *me)
{
    if (me->comm.rank == stopper) clock_sleep(stopper ? 0.6 : 2.9);
    me->comm.barrier(&me->comm, &me->err);
}
static void leaves(member *me)
{
    if (me->comm.rank != stopper) me->comm.barrier(&me->comm, &me->err);
}
static void test_late_and_left(void)
{
    char want[60];
    member m[3];
    int r;
    for (stopper = 0; stopper < 3; ++stopper) {
        run_members(m, 3, comes_late, 0.2);
        for (r = 0; r < 3; ++r) {
            CHECK(m[r].err.status == BMVP_E_IO);
            CHECK_HOLDS(m[r].err.message, "has not come to barrier");
        }
        run_members(m, 3, leaves, 20);
        snprintf(want, sizeof want, "rank %d on ", stopper);
        for (r = 0; r < 3; ++r) {
            if (r == stopper) continue;
            CHECK(m[r].err.status == BMVP_E_IO);
            CHECK_HOLDS(m[r].err.message, want);
            CHECK_HOLDS(m[r].err.message, "has ended while");
        }
    }
}

/* A rank as a process: calls until one fails, and writes why. */
static void live(int rank, int size, int port, int to)
{
    const launch_place l = launch_of(rank, size, "127.0.0.1", port);
    launch_settings s = quick();
    bmvp_comm m;
    bmvp_error err;
    float x[3000];
    bmvp_part part;
    memset(x, 0, sizeof x);
    memset(&err, 0, sizeof err);
    part.x = x;
    part.n = 3000;
    s.silent = 2;
    if (launch_join(&l, &s, &m, &err) == BMVP_OK) {
        if (write(to, "joined", 7) != 7) _exit(1);
        while (m.start(&m, &part, 1, &err) == BMVP_OK && m.wait(&m, &err) == BMVP_OK && m.barrier(&m, &err) == BMVP_OK)
            clock_sleep(0.002 * rank);
        launch_leave(&m);
    }
    if (write(to, err.message, strlen(err.message) + 1) < 0) _exit(1);
    _exit(0);
}

/* Reads from a pipe up to a 0; "" when there is none within 10 seconds. */
static void read_text(int from, char *text, size_t size)
{
    const double until = clock_now() + 10;
    size_t n = 0;
    text[0] = 0;
    CHECK(socket_prepare(from));
    while (n < size && clock_now() < until) {
        if (read(from, text + n, 1) != 1) clock_sleep(0.005);
        else if (text[n++] == 0) return;
    }
    text[0] = 0;
}

static void signal_all(const pid_t *pid, int number)
{
    int r;
    for (r = 0; r < 3; ++r) kill(pid[r], number);
}

/* One of three processes gets a signal: the others end within 10 seconds and name it. pause_all: before that all are
   stopped for longer than a rank may be silent and go on, as with Ctrl-Z and fg, which is no failure. */
static void one_goes(int victim, int signal_number, const char *how, int pause_all)
{
    char text[3][512], want[60];
    int pipes[3][2], r;
    pid_t pid[3];
    const int port = free_port();
    for (r = 0; r < 3; ++r) {
        CHECK(pipe(pipes[r]) == 0);
        pid[r] = fork();
        if (pid[r] == 0) live(r, 3, port, pipes[r][1]);
        close(pipes[r][1]);
    }
    for (r = 0; r < 3; ++r) {
        read_text(pipes[r][0], text[r], sizeof text[r]);
        CHECK(strcmp(text[r], "joined") == 0);
    }
    if (pause_all) {
        signal_all(pid, SIGSTOP);
        clock_sleep(2.5);
        signal_all(pid, SIGCONT);
    }
    clock_sleep(0.3);
    kill(pid[victim], signal_number);
    snprintf(want, sizeof want, "rank %d on ", victim);
    for (r = 0; r < 3; ++r) {
        if (r == victim) continue;
        read_text(pipes[r][0], text[r], sizeof text[r]);
        CHECK_HOLDS(text[r], want);
        CHECK_HOLDS(text[r], how);
    }
    kill(pid[victim], SIGKILL);
    for (r = 0; r < 3; ++r) {
        waitpid(pid[r], NULL, 0);
        close(pipes[r][0]);
    }
}
static void test_killed(void)
{
    int victim;
    for (victim = 0; victim < 3; ++victim) {
        one_goes(victim, SIGKILL, "is gone (connection closed)", victim == 1);
        one_goes(victim, SIGSTOP, "no sign of life for 2 s", 0);
    }
}

/* This process is one rank of those that a launcher has started. Once: makes all calls, then different ones. Else:
   calls until one fails. */
static int as_rank(int once)
{
    member me;
    memset(&me, 0, sizeof me);
    if (launch_read(&me.l, NULL, NULL, &me.err) == BMVP_OK && launch_join(&me.l, NULL, &me.comm, &me.err) == BMVP_OK) {
        every_call(&me);
        if (me.ok) printf("rank %d of %d over %s: right\n", me.l.rank, me.l.size, launch_over(&me.l));
        fflush(stdout);
        if (me.ok && once && me.l.size > 1) calls_differ(&me);
        while (me.ok && !once && me.comm.barrier(&me.comm, &me.err) == BMVP_OK) clock_sleep(0.05);
        launch_leave(&me.comm);
    }
    printf("rank %d of %d: %s\n", me.l.rank, me.l.size, me.err.message);
    return !me.ok;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "as-rank") == 0) return as_rank(1);
    if (argc == 2 && strcmp(argv[1], "until-failure") == 0) return as_rank(0);
    check_begin(argc, argv);
    CHECK_RUN(test_calls);
    CHECK_RUN(test_barrier);
    CHECK_RUN(test_different_calls);
    CHECK_RUN(test_abort);
    CHECK_RUN(test_late_and_left);
    CHECK_RUN(test_killed);
    return check_end();
}
