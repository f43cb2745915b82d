/* test_cuda_comm.cpp - data parallel on the GPU that tests/cuda_shim.h plays: ranks are processes, since the shim is of one thread, and what
   they tell each other lies in shared memory. Two ranks with unequal shares of the samples, and three, give the gradients and running
   statistics of one with all of them. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "check.h"
#include "pass.h"
#include "cuda_shim.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

enum { MOST = 3, SAMPLES = 3, PIECE = 1 << 16, MOST_OUT = 1 << 22 };
enum { HOST = 4 }; /* beside PASS_EARLY, PASS_RECOMPUTE: the table has no start */

/* ---- ranks as processes -------------------------------------------------------------------------------------------------------------- */

struct answer { /* of a rank, to the test */
    int64_t n;
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

/* Started sums end at the wait, as with a table that works meanwhile: what the caller had at `x` before it must not matter. */
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

static const bmvp_backend *gpu(bmvp_error *err) { return bmvp_cuda_backend(0, err); }

/* What a rank does, in a process of its own */
static void run_rank(int rank, int size, const int *share, int flags)
{
    answer *a = &all_ranks->of[rank];
    bmvp_comm table;
    member me = { 0, 0 };
    pass p;
    memset(&p, 0, sizeof p);
    for (int i = 0; i < rank; ++i) p.first += share[i];
    p.samples = share[rank];
    p.flags = flags;
    p.backend = gpu(&a->err);
    if (!p.backend) return;
    host_table(&table, &me, rank, size, flags);
    if (size > 1) p.comm = &table;
    pass_run(&p);
    bmvp_cuda_release(p.backend);
    a->n = p.n;
    a->sent = p.sent;
    a->buckets = p.buckets;
    a->calls = me.calls;
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
    CHECK(in_processes(size, [=](int rank) { run_rank(rank, size, share, flags); }));
    pthread_barrier_destroy(&all_ranks->meet);
    pthread_barrierattr_destroy(&of_processes);
    return std::vector<answer>(all_ranks->of, all_ranks->of + size);
}

/* ---- tests --------------------------------------------------------------------------------------------------------------------------- */

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
        if (!check_report(a.err.status == BMVP_OK && a.n == one.n, __FILE__, __LINE__, "rank %d: %s", i, a.err.message)) continue;
        CHECK_CLOSE("gradients and statistics", a.out, one.out, one.n, 2e-4);
        CHECK_SAME("all ranks", a.out, r[0].out, one.n);
        CHECK(a.calls > 40 && (a.started > 0) == !(flags & HOST) && (a.sent > 0) == ((flags & PASS_EARLY) != 0) && a.graphs == 0);
    }
}

static void test_ranks_over_the_host(void)
{
    const std::vector<answer> one = one_rank();
    if (!check_report(one[0].err.status == BMVP_OK && one[0].n > 0, __FILE__, __LINE__, "%s", one[0].err.message)) return;
    compare_with_one(2, PASS_EARLY, one[0]);
    compare_with_one(2, PASS_RECOMPUTE | HOST, one[0]);
    compare_with_one(3, PASS_EARLY | HOST, one[0]);
}

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
    all_ranks = (shared *)mmap(NULL, sizeof *all_ranks, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all_ranks == MAP_FAILED) return 1;
    CHECK_RUN(test_ranks_over_the_host);
    CHECK_RUN(test_device_table_on_the_cpu);
    return check_end();
}
