/* test_comm.c - data parallel: ranks as threads of this process, with a communicator that adds in the order of the
   ranks. Two ranks with half of the samples each, and three with unequal shares, give the gradients and running
   statistics of one with all of them. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "tests/support/check.h"
#include "tests/support/pass.h"
#include "tests/support/ranks.h"

enum { SAMPLES = 5 };

/* >>a training pass ---------------------------------------------------------------------------------------------- */

enum { EARLY = PASS_EARLY, RECOMPUTE = PASS_RECOMPUTE, ASYNC = 4 };

typedef struct rank {
    member me;
    pass p;
} rank;

static void *run_rank(void *arg)
{
    pass_run(&((rank *)arg)->p);
    return NULL;
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
        join(&r[i].me, size > 1 ? &g : NULL, i, flags & ASYNC);
        r[i].me.fail_at = fail_at;
        r[i].p.comm = size > 1 ? &r[i].me.table : NULL;
        r[i].p.first = first;
        r[i].p.samples = share[i];
        r[i].p.flags = flags;
        first += share[i];
    }
    for (i = 0; i < size; ++i) CHECK(pthread_create(&thread[i], NULL, run_rank, &r[i]) == 0);
    for (i = 0; i < size; ++i) pthread_join(thread[i], NULL);
    group_close(&g);
}

static void release(rank *r)
{
    int i;
    for (i = 0; i < MOST; ++i) free(r[i].p.out);
}

/* >>tests -------------------------------------------------------------------------------------------------------- */

/* Losses are means over a rank's samples times their number: the mean over voxels is that of the whole batch times
   SAMPLES. */
static void compare_with_one(int size, const int *share, int flags, const rank *one)
{
    rank r[MOST], again[MOST];
    int i;
    run_group(r, size, share, flags, 0);
    run_group(again, size, share, flags, 0);
    for (i = 0; i < size; ++i) {
        if (!check_report(r[i].p.err.status == BMVP_OK && r[i].p.n == one->p.n, __FILE__, __LINE__, "rank %d: %s", i,
                          r[i].p.err.message))
            continue;
        CHECK_CLOSE("gradients and statistics", r[i].p.out, one->p.out, one->p.n, 2e-4);
        CHECK_SAME("all ranks", r[i].p.out, r[0].p.out, r[0].p.n);
        CHECK_SAME("a second run", again[i].p.out, r[i].p.out, r[i].p.n);
        CHECK(r[i].p.buckets > 1 && (r[i].p.sent > 0) == ((flags & EARLY) != 0) &&
              (r[i].me.started > 0) == ((flags & ASYNC) != 0));
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
    CHECK(one[0].p.err.status == BMVP_OK && one[0].p.n > 0);
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
    r->p.n = t->reduce_scatter(t, all, 2, own, &r->p.err) == BMVP_OK && own[0] == 2 * all[2 * t->rank] &&
             own[1] == 2 * all[2 * t->rank + 1];
    r->p.n += t->barrier(t, &r->p.err) == BMVP_OK;
    if (t->rank == 1) t->abort(t, "disk full");
    r->p.n += t->barrier(t, &r->p.err) == BMVP_E_IO;
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
    for (i = 0; i < 2; ++i) join(&r[i].me, &g, i, 0);
    for (i = 0; i < 2; ++i) CHECK(pthread_create(&thread[i], NULL, call_and_stop, &r[i]) == 0);
    for (i = 0; i < 2; ++i) pthread_join(thread[i], NULL);
    for (i = 0; i < 2; ++i) CHECK(r[i].p.n == 3);
    for (i = 0; i < 2; ++i) CHECK_HOLDS(r[i].p.err.message, "rank 1 stopped: disk full");
    group_close(&g);
}

/* Any call may fail: the first failure is the context's, with the message that names the rank, and nothing hangs or
   leaks. */
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
        CHECK(r[0].p.err.status == BMVP_E_IO && r[1].p.err.status == BMVP_E_IO);
        CHECK_HOLDS(r[0].p.err.message, "rank 1 is gone");
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
