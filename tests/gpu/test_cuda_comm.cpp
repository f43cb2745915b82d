/* test_cuda_comm.cpp - data parallel on the GPU that tests/gpu/cuda_shim.h plays: ranks are processes, since the shim
   is of one thread, and what they tell each other lies in shared memory. Two ranks with unequal shares of the samples,
   and three, give the gradients and running statistics of one with all of them, through the host and by the NCCL of
   tests/gpu/cuda_nccl.h alike; and what happens when a rank is missing. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "tests/support/check.h"
#include "tests/support/pass.h"
#include "cuda_nccl.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

enum { MOST = 3, SAMPLES = 3, PIECE = 1 << 16, MOST_OUT = 1 << 22 };
enum { HOST = 4, NCCL = 8 }; /* beside PASS_EARLY, PASS_RECOMPUTE: the table has no start; it is NCCL's */

/* ---- ranks as processes ---------------------------------------------------------------------------------------- */

struct answer { /* of a rank, to the test */
    int64_t n, left; /* left: things of the device that were not given back */
    int sent, buckets, calls, started, graphs;
    bmvp_error err;
    float out[MOST_OUT];
};
struct shared {
    pthread_barrier_t meet;
    char piece[MOST][PIECE];
    answer of[MOST];
};
static shared *all_ranks; /* pages that children share */

struct member { int calls, started; };

static bmvp_status host_gather(const bmvp_comm *m, const void *own, int64_t bytes, void *all, bmvp_error *)
{
    ++((member *)m->user)->calls;
    for (int64_t at = 0; at < bytes; at += PIECE) {
        const size_t n = (size_t)(bytes - at < (int64_t)PIECE ? bytes - at : (int64_t)PIECE);
        memcpy(all_ranks->piece[m->rank], (const char *)own + at, n);
        pthread_barrier_wait(&all_ranks->meet);
        for (int r = 0; r < m->size; ++r) memcpy((char *)all + r * bytes + at, all_ranks->piece[r], n);
        pthread_barrier_wait(&all_ranks->meet);
    }
    return BMVP_OK;
}
static bmvp_status host_reduce(const bmvp_comm *m, const bmvp_part *part, int n, bmvp_error *err)
{
    for (int i = 0; i < n; ++i) {
        std::vector<float> all((size_t)(m->size * part[i].n));
        (void)host_gather(m, part[i].x, part[i].n * 4, all.data(), err);
        for (int64_t k = 0; k < part[i].n; ++k) {
            float v = all[(size_t)k];
            for (int r = 1; r < m->size; ++r) v += all[(size_t)(r * part[i].n + k)];
            part[i].x[k] = v;
        }
    }
    return BMVP_OK;
}
static bmvp_status host_broadcast(const bmvp_comm *m, void *data, int64_t bytes, int root, bmvp_error *err)
{
    std::vector<char> all((size_t)(m->size * bytes));
    (void)host_gather(m, data, bytes, all.data(), err);
    memcpy(data, all.data() + root * bytes, (size_t)bytes);
    return BMVP_OK;
}

static bmvp_status host_scatter(const bmvp_comm *m, const float *all, int64_t n, float *own, bmvp_error *err)
{
    std::vector<float> sum(all, all + m->size * n);
    const bmvp_part part = { sum.data(), m->size * n };
    (void)host_reduce(m, &part, 1, err);
    memcpy(own, sum.data() + m->rank * n, (size_t)n * sizeof *own);
    return BMVP_OK;
}
static bmvp_status host_barrier(const bmvp_comm *, bmvp_error *)
{
    pthread_barrier_wait(&all_ranks->meet);
    return BMVP_OK;
}

/* Started sums end at the wait, as with a table that works meanwhile: what the caller had at `x` before it must not
   matter. */
static std::vector<std::pair<bmvp_part, std::vector<float>>> under_way;
static bmvp_status host_start(const bmvp_comm *m, const bmvp_part *part, int n, bmvp_error *err)
{
    ++((member *)m->user)->started;
    for (int i = 0; i < n; ++i) {
        std::vector<float> v(part[i].x, part[i].x + part[i].n);
        const bmvp_part p = { v.data(), part[i].n };
        (void)host_reduce(m, &p, 1, err);
        under_way.push_back({ part[i], v });
    }
    return BMVP_OK;
}
static bmvp_status host_wait(const bmvp_comm *, bmvp_error *)
{
    for (auto &u : under_way) memcpy(u.first.x, u.second.data(), u.second.size() * sizeof(float));
    under_way.clear();
    return BMVP_OK;
}

static void host_table(bmvp_comm *m, member *me, int rank, int size, int flags)
{
    memset(m, 0, sizeof *m);
    m->user = me;
    m->rank = rank;
    m->size = size;
    m->all_reduce = host_reduce;
    m->all_gather = host_gather;
    m->reduce_scatter = host_scatter;
    m->broadcast = host_broadcast;
    m->barrier = host_barrier;
    m->start = flags & HOST ? NULL : host_start;
    m->wait = flags & HOST ? NULL : host_wait;
}

typedef std::vector<unsigned char> ticket; /* to join: rank 0's id */
static ticket new_ticket(void)
{
    ticket id(128);
    bmvp_error err;
    CHECK(bmvp_cuda_comm_id(id.data(), &err) == BMVP_OK);
    return id;
}

/* What a rank does, in a process of its own */
static void run_rank(int rank, int size, const int *share, int flags, const ticket &id)
{
    answer *a = &all_ranks->of[rank];
    bmvp_comm table;
    member me = { 0, 0 };
    pass p;
    memset(&p, 0, sizeof p);
    for (int i = 0; i < rank; ++i) p.first += share[i];
    p.samples = share[rank];
    p.flags = flags;
    shim_seed((uint64_t)rank);
    p.backend = bmvp_cuda_backend(0, &a->err);
    if (!p.backend || (flags & NCCL && bmvp_cuda_comm_join(p.backend, id.data(), rank, size, 200, &table, &a->err)))
        return;
    if (!(flags & NCCL)) host_table(&table, &me, rank, size, flags);
    if (size > 1 || flags & NCCL) p.comm = &table;
    pass_run(&p);
    if (flags & NCCL) bmvp_cuda_comm_leave(&table);
    bmvp_cuda_release(p.backend);
    a->left = (int64_t)shim.memory.size() + (int64_t)shim.sides.size() + shim_nccl_test.open + shim_nccl_test.aborts;
    a->n = p.n;
    a->sent = p.sent;
    a->buckets = p.buckets;
    a->calls = me.calls + shim_nccl_test.collectives;
    a->started = me.started;
    a->graphs = shim.graphs;
    a->err = p.err;
    if (p.out && p.n <= MOST_OUT) memcpy(a->out, p.out, (size_t)p.n * sizeof(float));
    free(p.out);
}

/* Runs f(rank) in `size` processes; 1: all ended well. One that hangs is ended by its alarm. */
template <class F> static int in_processes(int size, F f)
{
    pid_t child[MOST];
    int good = 1;
    for (int i = 0; i < size; ++i) {
        child[i] = fork();
        if (child[i] != 0) continue;
        alarm(240);
        f(i);
        _exit(0);
    }
    for (int i = 0; i < size; ++i) {
        int status = 1;
        good &= child[i] > 0 && waitpid(child[i], &status, 0) == child[i] && status == 0;
    }
    return good;
}
static std::vector<answer> run_group(int size, const int *share, int flags)
{
    pthread_barrierattr_t of_processes;
    memset(all_ranks->of, 0, sizeof all_ranks->of);
    pthread_barrierattr_init(&of_processes);
    pthread_barrierattr_setpshared(&of_processes, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&all_ranks->meet, &of_processes, (unsigned)size);
    const ticket id = flags & NCCL ? new_ticket() : ticket();
    CHECK(in_processes(size, [=](int rank) { run_rank(rank, size, share, flags, id); }));
    pthread_barrier_destroy(&all_ranks->meet);
    pthread_barrierattr_destroy(&of_processes);
    return std::vector<answer>(all_ranks->of, all_ranks->of + size);
}

/* ---- tests ----------------------------------------------------------------------------------------------------- */

static const int shares[2][MOST] = { { 1, 2 }, { 1, 1, 1 } };

static std::vector<answer> one_rank(void)
{
    static const int all[1] = { SAMPLES };
    return run_group(1, all, 0);
}

static void compare_with_one(int size, int flags, const answer &one)
{
    const std::vector<answer> r = run_group(size, shares[size - 2], flags);
    for (int i = 0; i < size; ++i) {
        const answer &a = r[(size_t)i];
        if (!check_report(a.err.status == BMVP_OK && a.n == one.n, __FILE__, __LINE__, "rank %d: %s", i, a.err.message))
            continue;
        CHECK_CLOSE("gradients and statistics", a.out, one.out, one.n, 2e-4);
        CHECK_SAME("all ranks", a.out, r[0].out, one.n);
        CHECK(a.calls > 40 && (a.started > 0) == !(flags & HOST) && (a.sent > 0) == ((flags & PASS_EARLY) != 0) &&
              a.graphs == 0);
        CHECK(a.left == 0);
    }
}

static void test_ranks_over_the_host(void)
{
    const std::vector<answer> one = one_rank();
    if (!check_report(one[0].err.status == BMVP_OK && one[0].n > 0, __FILE__, __LINE__, "%s", one[0].err.message))
        return;
    compare_with_one(2, PASS_EARLY, one[0]);
    compare_with_one(2, PASS_RECOMPUTE | HOST, one[0]);
    compare_with_one(3, PASS_EARLY | HOST, one[0]);
}

/* The same numbers to the bit, by device memory; one rank's are those of a run without a table. */
static void test_nccl(void)
{
    static const int all[1] = { SAMPLES };
    for (int size = 1; size <= 3; ++size) {
        const int *share = size == 1 ? all : shares[size - 2], flags = size == 3 ? PASS_RECOMPUTE : PASS_EARLY;
        const std::vector<answer> host = run_group(size, share, flags), r = run_group(size, share, flags | NCCL);
        for (int i = 0; i < size; ++i) {
            const answer &a = r[(size_t)i], &want = host[(size_t)i];
            if (!check_report(a.err.status == BMVP_OK && a.n == want.n && a.n > 0, __FILE__, __LINE__, "rank %d: %s", i,
                              a.err.message))
                continue;
            CHECK_SAME("gradients and statistics", a.out, want.out, a.n);
            CHECK(a.calls > 40 && (size == 1 || a.sent == want.sent) && a.graphs == 0 && a.left == 0);
        }
    }
}

/* Floats of the device */
struct numbers {
    bmvp_ctx *c;
    bmvp_tensor *t;
    numbers(bmvp_ctx *k, int64_t n, float first) : c(k), t(bmvp_buffer(k, "t", 1, &n))
    {
        std::vector<float> v((size_t)n);
        for (int64_t i = 0; i < n; ++i) v[(size_t)i] = first + (float)(i % 1000);
        bmvp_write(c, t, v.data());
    }
    float at(int64_t i) const
    {
        std::vector<float> v((size_t)t->numel);
        (void)bmvp_read(c, t, v.data());
        return v[(size_t)i];
    }
};

/* A rank with a context and a table: f says with 0 that something was wrong. */
template <class F> static int as_rank(int rank, int size, double deadline, const ticket &id, F f)
{
    bmvp_error err;
    bmvp_comm m;
    const bmvp_backend *b = bmvp_cuda_backend(0, &err);
    bmvp_config k = bmvp_config_default();
    bmvp_ctx *c;
    int good;
    k.threads = 1;
    k.backend = b;
    shim_nccl_test.aborts = 0;
    if (!b || bmvp_cuda_comm_join(b, id.data(), rank, size, deadline, &m, &err)) return 0;
    c = bmvp_create(&k, &err);
    bmvp_set_comm(c, &m);
    good = f(c, &m);
    bmvp_destroy(c);
    bmvp_cuda_comm_leave(&m);
    bmvp_cuda_release(b);
    return good && shim.memory.empty() && shim_nccl_test.open == 0;
}
template <class F> static void check_ranks(int size, double deadline, F f)
{
    const ticket id = new_ticket();
    CHECK(in_processes(size, [=](int rank) {
        if (!as_rank(rank, size, deadline, id, [=](bmvp_ctx *c, const bmvp_comm *m) { return f(c, m); })) _exit(1);
    }));
}

/* Every call of the table, of more than a piece */
static int every_call(bmvp_ctx *c, const bmvp_comm *m)
{
    const int64_t n = 300000, last = n - 1;
    const numbers a(c, n, 1.0f + (float)m->rank), b(c, 2 * n, 10), all(c, 2 * n, 0), half(c, n, 0),
        root(c, n, (float)m->rank), s(c, n, 0.5f);
    const bmvp_part two[2] = { { b.t->x, 2 * n }, { s.t->x, n } };
    const float end = (float)(last % 1000);
    bmvp_error err;
    int bad = m->all_gather(m, a.t->x, n * 4, all.t->x, &err) || m->reduce_scatter(m, all.t->x, n, half.t->x, &err) ||
              m->broadcast(m, root.t->x, n * 4, 1, &err) || m->start(m, two, 2, &err) ||
              m->all_reduce(m, &two[1], 1, &err) || m->wait(m, &err) || m->barrier(m, &err);
    bad |= !(all.at(last) == 1 + end && all.at(n + last) == 2 + end);
    bad |= !(half.at(last) == 2 * (1 + (float)m->rank + end)) || !(root.at(last) == 1 + end);
    bad |= !(b.at(2 * n - 1) == 2 * (10 + (float)((2 * n - 1) % 1000))) || !(s.at(0) == 2);
    for (int i = 0; i < 8; ++i) { /* the read comes after the sum */
        bad |= m->start(m, &two[1], 1, &err) || m->wait(m, &err);
        bad |= !(s.at(0) == (float)(4 << i));
    }
    return !bad && !bmvp_failed(c);
}

static int says(const bmvp_error *err, const char *text)
{
    return err->status == BMVP_E_IO && strstr(err->message, text) != NULL;
}

/* Rank 1 has left: rank 0's next wait for the GPU ends with its deadline, and so does all that follows. */
static int alone(bmvp_ctx *c, const bmvp_comm *m)
{
    const numbers a(c, 4, 1);
    const bmvp_part part = { a.t->x, 4 };
    bmvp_error err;
    if (m->rank == 1) _exit(0);
    if (m->all_reduce(m, &part, 1, &err)) return 0;
    if (a.at(0) == a.at(0)) return 0;
    return says(bmvp_error_of(c), "nccl: rank 0 of 2: wait: no answer from the other ranks for 0.3 s") &&
           m->barrier(m, &err) && says(&err, "no answer from the other ranks") && shim_nccl_test.aborts == 1;
}
/* NCCL finds out itself. */
static int warned(bmvp_ctx *c, const bmvp_comm *m)
{
    const numbers a(c, 4, 1);
    const bmvp_part part = { a.t->x, 4 };
    bmvp_error err;
    if (m->rank == 1) _exit(0);
    if (m->start(m, &part, 1, &err)) return 0;
    shim_nccl_test.fails = ncclRemoteError;
    return m->wait(m, &err) && says(&err, "rank 0 of 2: wait: remote process exited") && shim_nccl_test.aborts == 1;
}
static int stopped(bmvp_ctx *c, const bmvp_comm *m)
{
    const numbers a(c, 4, 1);
    bmvp_error err;
    if (m->barrier(m, &err)) return 0;
    m->abort(m, "disk full");
    return m->broadcast(m, a.t->x, 16, 0, &err) && says(&err, "rank 0 of 1: broadcast: rank 0 stopped: disk full");
}
static void test_missing_ranks(void)
{
    bmvp_error err;
    bmvp_comm m;
    const bmvp_backend *b = bmvp_cuda_backend(0, &err);
    const ticket id = new_ticket();
    CHECK(bmvp_cuda_comm_join(b, id.data(), 0, 2, 0.2, &m, &err) == BMVP_E_IO && m.user == NULL);
    CHECK_HOLDS(err.message, "nccl: rank 0 of 2: join (is every rank started");
    CHECK_HOLDS(err.message, "no answer from the other ranks for 0.2 s");
    (void)remove((const char *)id.data());
    CHECK(bmvp_cuda_comm_join(b, id.data(), 2, 2, 1, &m, &err) == BMVP_E_ARG);
    CHECK(bmvp_cuda_comm_join(b, id.data(), 0, 2, 0, &m, &err) == BMVP_E_ARG);
    CHECK(bmvp_cuda_comm_join(bmvp_cpu_backend(), id.data(), 0, 1, 1, &m, &err) == BMVP_E_ARG);
    bmvp_cuda_comm_leave(&m);
    bmvp_cuda_release(b);
    CHECK(shim.memory.empty() && shim.sides.empty() && shim_nccl_test.open == 0);
    check_ranks(2, 0.3, alone);
    check_ranks(2, 100, warned);
    check_ranks(1, 100, stopped);
}
static void test_calls(void) { check_ranks(2, 30, every_call); }

/* The CPU takes no table of device memory. */
static void test_device_table_on_the_cpu(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_comm m;
    member me = { 0, 0 };
    host_table(&m, &me, 0, 1, 0);
    m.on_device = 1;
    bmvp_set_comm(c, &m);
    CHECK(bmvp_error_of(c)->status == BMVP_E_ARG);
    CHECK_HOLDS(bmvp_error_of(c)->message, "set_comm: the table exchanges memory of a device");
    bmvp_destroy(c);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    all_ranks = (shared *)mmap(NULL, sizeof *all_ranks, PROT_READ | PROT_WRITE,
                               MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all_ranks == MAP_FAILED) return 1;
    CHECK_RUN(test_ranks_over_the_host);
    CHECK_RUN(test_nccl);
    CHECK_RUN(test_calls);
    CHECK_RUN(test_missing_ranks);
    CHECK_RUN(test_device_table_on_the_cpu);
    return check_end();
}
