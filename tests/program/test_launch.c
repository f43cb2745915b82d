/* test_launch.c - how data-parallel runs begin: what the environment says, how ranks meet, and whoever else knocks.
   What they then say to one another is in test_ranks.c. Ranks are threads. */
#define _DEFAULT_SOURCE
#include "bmvp_tensor.h"
#include "examples/bmvp/ranks/rendezvous.h"
#include "tests/support/places.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* >>environment ---------------------------------------------------------------------------------------------------- */

/* "NAME=value;NAME=value": the value, in one of a few buffers */
static const char *value_in(void *user, const char *name)
{
    static char value[16][400];
    static int turn;
    const char *p = (const char *)user;
    const size_t n = strlen(name);
    while (p && *p) {
        const size_t length = strcspn(p, ";");
        if (length > n && strncmp(p, name, n) == 0 && p[n] == '=') {
            turn = (turn + 1) % 16;
            snprintf(value[turn], sizeof value[turn], "%.*s", (int)(length - n - 1), p + n + 1);
            return value[turn];
        }
        p += length + (p[length] == ';');
    }
    return NULL;
}

#define TORCH "RANK=1;WORLD_SIZE=4;LOCAL_RANK=1;MASTER_ADDR=node7;MASTER_PORT=29500"
#define SLURM "SLURM_PROCID=5;SLURM_NTASKS=8;SLURM_LOCALID=1;SLURM_JOB_ID=4711"
#define OMPI "OMPI_COMM_WORLD_RANK=1;OMPI_COMM_WORLD_SIZE=2;OMPI_COMM_WORLD_LOCAL_RANK=1"

static void test_environment(void)
{
    static const struct {
        const char *env;
        int by, rank, size, local;
        const char *address;
        int port; /* 0: derived */
    } row[] = {
        { "", LAUNCH_ALONE, 0, 1, 0, "", 0 },
        { "MASTER_ADDR=x;MASTER_PORT=y", LAUNCH_ALONE, 0, 1, 0, "", 0 },
        { "PMI_SIZE=1;PMI_RANK=0", LAUNCH_ALONE, 0, 1, 0, "", 0 },
        { TORCH, LAUNCH_TORCHRUN, 1, 4, 1, "node7", 29500 },
        { TORCH ";BMVP_PORT=31000", LAUNCH_TORCHRUN, 1, 4, 1, "node7", 31000 },
        { TORCH ";TORCHELASTIC_USE_AGENT_STORE=True", LAUNCH_TORCHRUN, 1, 4, 1, "node7", 29501 },
        { TORCH ";TORCHELASTIC_USE_AGENT_STORE=False", LAUNCH_TORCHRUN, 1, 4, 1, "node7", 29500 },
        { TORCH ";" SLURM, LAUNCH_TORCHRUN, 1, 4, 1, "node7", 29500 },
        { "RANK=0;WORLD_SIZE=1", LAUNCH_TORCHRUN, 0, 1, 0, "", 0 },
        { "RANK=0;WORLD_SIZE=2;MASTER_ADDR=fe80::1%eth0;MASTER_PORT=65535;TORCHELASTIC_USE_AGENT_STORE=True",
          LAUNCH_TORCHRUN, 0, 2, 0, "fe80::1%eth0", 65534 },
        { SLURM ";SLURM_JOB_NODELIST=node[003-007,9],gpu2", LAUNCH_SRUN, 5, 8, 1, "node003", 0 },
        { SLURM ";SLURM_JOB_NODELIST=gpu2,node[003-007,9]", LAUNCH_SRUN, 5, 8, 1, "gpu2", 0 },
        { SLURM ";SLURM_JOB_NODELIST=node9", LAUNCH_SRUN, 5, 8, 1, "node9", 0 },
        { SLURM ";SLURM_JOB_NODELIST=rack[2,5]n[07-11]-ib.x,y", LAUNCH_SRUN, 5, 8, 1, "rack2n07-ib.x", 0 },
        { SLURM ";SLURM_JOB_NODELIST=a[1-2];SLURM_STEP_NODELIST=a2", LAUNCH_SRUN, 5, 8, 1, "a2", 0 },
        { SLURM ";SLURM_JOB_NODELIST=a;MASTER_ADDR=b;MASTER_PORT=1234", LAUNCH_SRUN, 5, 8, 1, "b", 1234 },
        { SLURM ";SLURM_JOB_NODELIST=a;SLURM_STEP_NUM_TASKS=6;TORCHELASTIC_USE_AGENT_STORE=True;MASTER_PORT=7",
          LAUNCH_SRUN, 5, 6, 1, "a", 7 },
        { "SLURM_PROCID=0;SLURM_NTASKS=1", LAUNCH_SRUN, 0, 1, 0, "", 0 },
        { OMPI ";OMPI_COMM_WORLD_LOCAL_SIZE=2;PMIX_NAMESPACE=77", LAUNCH_MPIRUN, 1, 2, 1, "127.0.0.1", 0 },
        { OMPI ";OMPI_COMM_WORLD_LOCAL_SIZE=2;OMPI_MCA_ess_base_jobid=77", LAUNCH_MPIRUN, 1, 2, 1, "127.0.0.1", 0 },
        { OMPI ";OMPI_COMM_WORLD_LOCAL_SIZE=1;MASTER_ADDR=h1;MASTER_PORT=99;" SLURM, LAUNCH_MPIRUN, 1, 2, 1, "h1", 99 },
    };
    size_t i;
    for (i = 0; i < sizeof row / sizeof *row; ++i) {
        launch_place l;
        bmvp_error err;
        const bmvp_status st = launch_read(&l, value_in, (void *)(uintptr_t)row[i].env, &err);
        int port;
        if (!check_report(st == BMVP_OK, __FILE__, __LINE__, "%s: %s", row[i].env, err.message)) continue;
        port = row[i].port || l.size == 1 ? l.port == row[i].port : l.port >= 15000 && l.port < 30000;
        check_report((int)l.by == row[i].by && l.rank == row[i].rank && l.size == row[i].size &&
                         l.local_rank == row[i].local && port && strcmp(l.address, row[i].address) == 0,
                     __FILE__, __LINE__, "%s: by %d, rank %d of %d, local %d, %s:%d", row[i].env, (int)l.by, l.rank,
                     l.size, l.local_rank, l.address, l.port);
    }
}

/* What is wrong, and the two things its message must name: the variable and what to do */
static void test_bad_environment(void)
{
    static const struct { const char *env, *variable, *advice; } row[] = {
        { "RANK=1", "WORLD_SIZE is not set", "or neither" },
        { "WORLD_SIZE=2", "RANK is not set", "or neither" },
        { "RANK=4;WORLD_SIZE=4;MASTER_ADDR=a;MASTER_PORT=1", "RANK=4", "from 0 to 3" },
        { "RANK=-1;WORLD_SIZE=4", "RANK=-1", "from 0" },
        { "RANK= 1;WORLD_SIZE=4", "RANK= 1", "whole number" },
        { "RANK=1x;WORLD_SIZE=4", "RANK=1x", "whole number" },
        { "RANK=99999999999999999999;WORLD_SIZE=4", "RANK=9999", "whole number" },
        { "RANK=0;WORLD_SIZE=0", "WORLD_SIZE=0", "from 1 to" },
        { "RANK=0;WORLD_SIZE=1000000", "WORLD_SIZE=1000000", "from 1 to" },
        { "RANK=0;WORLD_SIZE=2;LOCAL_RANK=one", "LOCAL_RANK=one", "whole number" },
        { "RANK=0;WORLD_SIZE=2;MASTER_PORT=1", "MASTER_ADDR is not set", "host of rank 0" },
        { "RANK=0;WORLD_SIZE=2;MASTER_ADDR=a", "MASTER_PORT is not set", "free port" },
        { "RANK=0;WORLD_SIZE=2;MASTER_ADDR=a;MASTER_PORT=65536", "MASTER_PORT=65536", "to 65535" },
        { "RANK=0;WORLD_SIZE=2;MASTER_ADDR=a;MASTER_PORT=0", "MASTER_PORT=0", "from 1" },
        { "RANK=0;WORLD_SIZE=2;MASTER_ADDR=a;MASTER_PORT=5;BMVP_PORT=no", "BMVP_PORT=no", "whole number" },
        { "RANK=0;WORLD_SIZE=2;MASTER_ADDR=http://a/;MASTER_PORT=5", "MASTER_ADDR=http://a/", "without a port" },
        { "SLURM_PROCID=0", "SLURM_NTASKS is not set", "srun" },
        { "SLURM_PROCID=8;SLURM_NTASKS=8", "SLURM_PROCID=8", "from 0 to 7" },
        { "SLURM_PROCID=0;SLURM_NTASKS=2;SLURM_JOB_ID=1", "SLURM_JOB_NODELIST is not set", "MASTER_ADDR" },
        { "SLURM_PROCID=0;SLURM_NTASKS=2;SLURM_JOB_NODELIST=a", "MASTER_PORT is not set", "free port" },
        { SLURM ";SLURM_JOB_NODELIST=node[003-007", "SLURM_JOB_NODELIST=node[003", "MASTER_ADDR" },
        { SLURM ";SLURM_JOB_NODELIST=node[]", "SLURM_JOB_NODELIST=node[]", "MASTER_ADDR" },
        { SLURM ";SLURM_JOB_NODELIST=node[a-b]", "SLURM_JOB_NODELIST=node[a-b]", "MASTER_ADDR" },
        { SLURM ";SLURM_JOB_NODELIST=node]3", "SLURM_JOB_NODELIST=node]3", "MASTER_ADDR" },
        { SLURM ";SLURM_JOB_NODELIST=,a", "SLURM_JOB_NODELIST=,a", "MASTER_ADDR" },
        { "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK is not set", "mpirun" },
        { "OMPI_COMM_WORLD_RANK=2;OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK=2", "from 0 to 1" },
        { OMPI ";OMPI_COMM_WORLD_LOCAL_SIZE=1", "MASTER_ADDR is not set", "mpirun -x" },
        { OMPI ";OMPI_COMM_WORLD_LOCAL_SIZE=2", "MASTER_PORT is not set", "mpirun -x" },
        { "PMI_RANK=1;PMI_SIZE=2", "PMI_SIZE=2", "as torchrun does" },
        { "BMVP_TIMEOUT=soon", "BMVP_TIMEOUT=soon", "whole number" },
    };
    char list[700] = SLURM ";SLURM_JOB_NODELIST=";
    launch_place l;
    bmvp_error err;
    size_t i;
    for (i = 0; i < sizeof row / sizeof *row; ++i) {
        if (!check_report(launch_read(&l, value_in, (void *)(uintptr_t)row[i].env, &err) == BMVP_E_ARG, __FILE__,
                          __LINE__, "%s: taken", row[i].env))
            continue;
        CHECK_HOLDS(err.message, row[i].variable);
        CHECK_HOLDS(err.message, row[i].advice);
    }
    memset(list + strlen(list), 'n', 300); /* a name longer than any */
    CHECK(launch_read(&l, value_in, list, &err) == BMVP_E_ARG);
}

static uint64_t nonce_of(const char *env)
{
    launch_place l;
    bmvp_error err;
    CHECK(launch_read(&l, value_in, (void *)(uintptr_t)env, &err) == BMVP_OK);
    return l.nonce;
}

/* Of the job and of nothing that differs between its ranks */
static void test_nonce(void)
{
    const char *one = "SLURM_PROCID=0;SLURM_NTASKS=8;SLURM_JOB_ID=4711;SLURM_JOB_NODELIST=a",
               *two = SLURM ";SLURM_JOB_NODELIST=a";
    CHECK(nonce_of(one) == nonce_of(two));
    CHECK(nonce_of(SLURM ";SLURM_JOB_NODELIST=a;SLURM_STEP_ID=0") !=
          nonce_of(SLURM ";SLURM_JOB_NODELIST=a;SLURM_STEP_ID=1"));
    CHECK(nonce_of(SLURM "1;SLURM_JOB_NODELIST=a") != nonce_of(two));
    CHECK(nonce_of(TORCH ";TORCHELASTIC_RUN_ID=a") != nonce_of(TORCH ";TORCHELASTIC_RUN_ID=b"));
    CHECK(nonce_of(TORCH) != nonce_of("RANK=1;WORLD_SIZE=4;MASTER_ADDR=node7;MASTER_PORT=29501"));
    CHECK(nonce_of(TORCH ";BMVP_JOB=a") == nonce_of(SLURM ";SLURM_JOB_NODELIST=a;BMVP_JOB=a"));
    CHECK(nonce_of(TORCH ";BMVP_JOB=a") != nonce_of(TORCH ";BMVP_JOB=b"));
}

/* >>meeting -------------------------------------------------------------------------------------------------------- */

typedef struct comer { /* a rank that comes to the meeting, in a thread of its own */
    launch_place l;
    launch_settings s;
    rank_peer peer[MOST];
    bmvp_status st;
    bmvp_error err;
    pthread_t thread;
} comer;

static void *come(void *arg)
{
    comer *c = (comer *)arg;
    c->st = rendezvous_meet(&c->l, &c->s, c->peer, &c->err);
    return NULL;
}
static void send_for(comer *c, int rank, int size, const char *address, int port)
{
    memset(c, 0, sizeof *c);
    c->l = launch_of(rank, size, address, port);
    c->s = quick();
}
static void set_out(comer *c) { CHECK(pthread_create(&c->thread, NULL, come, c) == 0); }

/* Both channels of every pair join the right two: rank 0 hears each rank's number where that rank has its
   connection. */
static void check_met(comer *c, int size)
{
    const double until = clock_now() + 5;
    int r, k, ok = 1;
    for (r = 0; r < size; ++r) {
        pthread_join(c[r].thread, NULL);
        ok &= check_report(c[r].st == BMVP_OK, __FILE__, __LINE__, "rank %d of %d: %s", r, size, c[r].err.message);
    }
    for (r = 1; ok && r < size; ++r)
        for (k = 0; k < CHANNELS; ++k) {
            const int said = 100 * k + r;
            int heard = -1, echo = -1;
            CHECK(socket_send(c[r].peer[0].fd[k], &said, sizeof said, until) &&
                  socket_receive(c[0].peer[r].fd[k], &heard, sizeof heard, until));
            CHECK(socket_send(c[0].peer[r].fd[k], &heard, sizeof heard, until) &&
                  socket_receive(c[r].peer[0].fd[k], &echo, sizeof echo, until));
            CHECK(heard == said && echo == said);
            CHECK(c[0].peer[r].host[0] && c[r].peer[0].host[0]);
        }
    for (r = 0; r < size; ++r) rendezvous_close(c[r].peer, size);
}

static void test_meeting(void)
{
    static const char *const address[3] = { "127.0.0.1", "localhost", "::1" };
    int size, a, r;
    for (a = 0; a < 3; ++a)
        for (size = 1; size <= MOST; size += size == 3 ? 2 : 1) {
            comer c[MOST];
            const int port = free_port();
            if (a == 2) {
                int fd = socket(AF_INET6, SOCK_STREAM, 0);
                struct sockaddr_in6 six;
                memset(&six, 0, sizeof six);
                six.sin6_family = AF_INET6;
                six.sin6_addr = in6addr_loopback;
                r = fd >= 0 && bind(fd, (struct sockaddr *)&six, sizeof six) == 0;
                socket_close(&fd);
                if (!r) continue; /* a machine without IPv6 */
            }
            for (r = size - 1; r >= 0; --r) { /* rank 0 comes last: the others try again */
                send_for(&c[r], r, size, address[a], port);
                set_out(&c[r]);
            }
            check_met(c, size);
        }
}

/* >>strangers ------------------------------------------------------------------------------------------------------ */

static int knock(int port)
{
    struct sockaddr_in a;
    int fd = socket(AF_INET, SOCK_STREAM, 0), tries;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a.sin_port = htons((uint16_t)port);
    for (tries = 0; connect(fd, (struct sockaddr *)&a, sizeof a) != 0; ++tries) {
        if (!CHECK(tries < 500)) break;
        clock_sleep(0.01);
    }
    CHECK(socket_prepare(fd));
    return fd;
}

static rank_hello hello_of(int rank, int channel, uint64_t token)
{
    rank_hello h;
    memset(&h, 0, sizeof h);
    memcpy(h.magic, PROTOCOL_MAGIC, sizeof h.magic);
    h.protocol = PROTOCOL_VERSION;
    h.library = BMVP_TENSOR_VERSION;
    h.size = 3;
    h.rank = (uint32_t)rank;
    h.channel = (uint32_t)channel;
    h.nonce = launch_of(0, 3, "", 0).nonce;
    h.token = token;
    memcpy(h.host, "\033[31mred", 9);
    return h;
}

/* The hello is answered by a refusal that holds the words. */
static void refused(int port, const rank_hello *h, const char *words)
{
    const double until = clock_now() + 5;
    rank_answer a;
    int fd = knock(port);
    memset(&a, 0, sizeof a);
    CHECK(socket_send(fd, h, sizeof *h, until) && socket_receive(fd, &a, sizeof a, until) && !a.accepted);
    CHECK_HOLDS(a.text, words);
    socket_close(&fd);
}

static void wrong_hellos(int port)
{
    rank_hello h = hello_of(1, 0, 1);
    h.protocol ^= 2;
    refused(port, &h, "same program");
    h = hello_of(1, 0, 1);
    ++h.library;
    refused(port, &h, "same program");
    h = hello_of(1, 0, 1);
    h.nonce ^= 1;
    refused(port, &h, "another job");
    h = hello_of(1, 0, 1);
    h.size = 4;
    refused(port, &h, "counts 4 ranks");
    h = hello_of(0, 0, 1);
    refused(port, &h, "rank 0 ");
    h = hello_of(3, 0, 1);
    refused(port, &h, "rank 3 ");
    h = hello_of(-1, 0, 1);
    refused(port, &h, "none of ranks");
    h = hello_of(1, CHANNELS, 1);
    refused(port, &h, "none of ranks");
}

/* Random bytes, and hellos with random bytes in them (never whole ones: the nonce's place is always hit) */
static void garbage(int port, int *open, int n)
{
    uint64_t state = 42;
    int i;
    for (i = 0; i < n; ++i) {
        char bytes[300];
        rank_hello h = hello_of(1 + i % 2, i % 2, 9);
        size_t k, length = 1 + noise(&state) % sizeof bytes;
        for (k = 0; k < sizeof bytes; ++k) bytes[k] = (char)noise(&state);
        h.nonce ^= 1 + noise(&state);
        if (i % 2) memcpy(bytes, &h, sizeof h);
        if (i % 4 == 3) bytes[noise(&state) % sizeof h] = (char)noise(&state);
        open[i] = knock(port);
        (void)socket_send(open[i], bytes, length, 0);
        if (i % 3 == 0) socket_close(&open[i]);
    }
}

/* One byte at a time: the connection's time is over before it has said all. */
static void slow(int port)
{
    const rank_hello h = hello_of(1, 0, 1);
    size_t i;
    int fd = knock(port);
    for (i = 0; i < sizeof h && !socket_over(fd); ++i) {
        (void)socket_send(fd, (const char *)&h + i, 1, clock_now() + 1);
        clock_sleep(0.02);
    }
    CHECK(i < sizeof h);
    socket_close(&fd);
}

/* Takes rank 1's place rightly and goes before the meeting is complete: the place is free again. Or says more than it
   should. */
static void comes_and_goes(int port, int talks)
{
    const double until = clock_now() + 20;
    int c, fd[CHANNELS];
    for (c = 0; c < CHANNELS; ++c) {
        const rank_hello h = hello_of(1, c, 5);
        fd[c] = knock(port);
        CHECK(socket_send(fd[c], &h, sizeof h, until));
    }
    if (talks) CHECK(socket_send(fd[0], "more", 4, until));
    else clock_sleep(0.1);
    for (c = 0; c < CHANNELS; ++c) {
        char byte;
        if (talks) CHECK(!socket_receive(fd[c], &byte, 1, until) && clock_now() < until);
        socket_close(&fd[c]);
    }
}

/* Only one of rank 1's connections, as when the other was lost before rank 0 saw this one: it keeps no place. */
static void half(int port)
{
    const double until = clock_now() + 10;
    const rank_hello h = hello_of(1, CHANNEL_CONTROL, 6);
    int fd = knock(port);
    char byte;
    CHECK(socket_send(fd, &h, sizeof h, until));
    CHECK(!socket_receive(fd, &byte, 1, until) && clock_now() < until);
    socket_close(&fd);
}

static void test_strangers(void)
{
    enum { CROWD = 300 };
    static int silent[CROWD], noisy[CROWD];
    const int port = free_port();
    rank_hello again = hello_of(1, 0, 77);
    comer c[3];
    int i;
    for (i = 0; i < 3; ++i) send_for(&c[i], i, 3, "127.0.0.1", port);
    c[0].s.join = 60; /* all these strangers take a slow machine a while */
    set_out(&c[0]);
    for (i = 0; i < CROWD; ++i) {
        silent[i] = knock(port);
        if (i % 5 == 0) socket_close(&silent[i]);
    }
    wrong_hellos(port);
    slow(port);
    garbage(port, noisy, CROWD);
    comes_and_goes(port, 0);
    comes_and_goes(port, 1);
    half(port);
    set_out(&c[1]);
    clock_sleep(1);
    refused(port, &again, "is there already");
    again = hello_of(1, 1, 78);
    refused(port, &again, "is there already");
    set_out(&c[2]);
    check_met(c, 3);
    for (i = 0; i < CROWD; ++i) {
        socket_close(&silent[i]);
        socket_close(&noisy[i]);
    }
    send_for(&c[1], 1, 3, "127.0.0.1", port);
    c[1].s.join = 0.2;
    CHECK(come(&c[1]) == NULL && c[1].st == BMVP_E_IO); /* nobody listens any more */
    CHECK_HOLDS(c[1].err.message, "rank 1 did not reach rank 0 at 127.0.0.1");
}

static int listen_at(int port)
{
    const int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in a;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a.sin_port = htons((uint16_t)port);
    (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    CHECK(bind(listener, (struct sockaddr *)&a, sizeof a) == 0 && listen(listener, 8) == 0);
    return listener;
}

/* Rank 0 loses one of a rank's two connections before it has read there: the rank comes again. */
static void test_half_seen(void)
{
    const int port = free_port();
    const double until = clock_now() + 5;
    rank_hello h;
    comer c;
    int listener = listen_at(port), fd[3], i;
    send_for(&c, 1, 3, "127.0.0.1", port);
    c.s.join = 2;
    set_out(&c);
    for (i = 0; i < 3; ++i) {
        fd[i] = accept(listener, NULL, NULL);
        CHECK(fd[i] >= 0 && socket_prepare(fd[i]) && socket_receive(fd[i], &h, sizeof h, until));
        CHECK(h.rank == 1 && h.channel == (uint32_t)(i % CHANNELS) && h.size == 3 &&
              memcmp(h.magic, PROTOCOL_MAGIC, 8) == 0);
        if (i == CHANNEL_CONTROL) socket_close(&fd[i]);
    }
    CHECK(clock_now() < until - 3); /* long before its time was over */
    socket_close(&listener);
    for (i = 0; i < 3; ++i) socket_close(&fd[i]);
    pthread_join(c.thread, NULL);
    CHECK(c.st == BMVP_E_IO);
}

/* A refusal without a reason is said to be one. */
static void test_no_reason(void)
{
    const int port = free_port();
    int listener = listen_at(port), fd[CHANNELS], i;
    rank_answer a;
    rank_hello h;
    comer c;
    memset(&a, 0, sizeof a);
    memcpy(a.magic, PROTOCOL_MAGIC, sizeof a.magic);
    a.protocol = PROTOCOL_VERSION;
    send_for(&c, 1, 3, "127.0.0.1", port);
    set_out(&c);
    for (i = 0; i < CHANNELS; ++i) {
        fd[i] = accept(listener, NULL, NULL);
        CHECK(fd[i] >= 0 && socket_prepare(fd[i]) && socket_receive(fd[i], &h, sizeof h, clock_now() + 5));
        CHECK(socket_send(fd[i], &a, sizeof a, clock_now() + 5));
    }
    pthread_join(c.thread, NULL);
    CHECK(c.st == BMVP_E_IO);
    CHECK_HOLDS(c.err.message, "is not accepted by rank 0 at 127.0.0.1");
    CHECK_HOLDS(c.err.message, "it gives no reason");
    for (i = 0; i < CHANNELS; ++i) socket_close(&fd[i]);
    socket_close(&listener);
}

/* Who is missing is said on all ranks that came. */
static void test_absent(void)
{
    const int port = free_port();
    comer c[4];
    int i;
    for (i = 0; i < 3; ++i) {
        send_for(&c[i], i, 4, "127.0.0.1", port);
        c[i].s.join = i == 0 ? 0.6 : 20;
        c[i].l.nonce ^= i == 2;
        set_out(&c[i]);
    }
    for (i = 0; i < 3; ++i) {
        pthread_join(c[i].thread, NULL);
        CHECK(c[i].st == BMVP_E_IO);
        CHECK_HOLDS(c[i].err.message, i < 2 ? "rank 2, 3 of 4 did not come" : "another job");
    }
    send_for(&c[0], 0, 2, "192.0.2.1", port); /* not this host's */
    c[0].s.join = 0.1;
    (void)come(&c[0]);
    CHECK(c[0].st == BMVP_E_IO);
    CHECK_HOLDS(c[0].err.message, "cannot listen at 192.0.2.1");
    send_for(&c[0], 0, 2, "no.such.host.invalid", port);
    c[0].s.join = 0.1;
    (void)come(&c[0]);
    CHECK(c[0].st == BMVP_E_IO);
    CHECK_HOLDS(c[0].err.message, "MASTER_ADDR");
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_environment);
    CHECK_RUN(test_bad_environment);
    CHECK_RUN(test_nonce);
    CHECK_RUN(test_meeting);
    CHECK_RUN(test_strangers);
    CHECK_RUN(test_half_seen);
    CHECK_RUN(test_no_reason);
    CHECK_RUN(test_absent);
    return check_end();
}
