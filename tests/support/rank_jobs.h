/* rank_jobs.h - the same training run on one rank and on several (threads, see ranks.h), and how far apart they end. */
#ifndef RANK_JOBS_H_INCLUDED
#define RANK_JOBS_H_INCLUDED

#include "bmvp_nn.h"
#include "tests/support/check.h"
#include "tests/support/ranks.h"

#include <math.h>

/* What every rank has; the first member of a test's own struct of a job, of which there are MOST. */
typedef struct rank_job {
    member me;
    float *start, *end; /* of all tensors, one after the other */
    int64_t n;
    bmvp_error err;
} rank_job;

static inline rank_job *job_of(void *jobs, size_t each, int i) { return (rank_job *)((char *)jobs + each * (size_t)i); }

static inline float *read_state(bmvp_ctx *c, const bmvp_state_list *l, int64_t *n)
{
    float *x;
    int i;
    for (i = 0, *n = 0; i < l->n; ++i) if (l->item[i].torch_rank > 0) *n += l->item[i].t->numel;
    x = (float *)calloc((size_t)*n, sizeof *x);
    for (i = 0, *n = 0; i < l->n; ++i) {
        if (l->item[i].torch_rank == 0) continue;
        (void)bmvp_read(c, l->item[i].t, x + *n);
        *n += l->item[i].t->numel;
    }
    return x;
}

/* run gets each of the `size` jobs on a thread of its own; one rank has no communicator. */
static inline void run_ranks(void *jobs, size_t each, int size, void *(*run)(void *))
{
    static group g;
    pthread_t thread[MOST];
    int i;
    group_open(&g, size);
    for (i = 0; i < size; ++i) join(&job_of(jobs, each, i)->me, size > 1 ? &g : NULL, i, 1);
    for (i = 0; i < size; ++i) CHECK(pthread_create(&thread[i], NULL, run, job_of(jobs, each, i)) == 0);
    for (i = 0; i < size; ++i) pthread_join(thread[i], NULL);
    group_close(&g);
}

static inline void check_ranks(void *jobs, size_t each, int size)
{
    int i;
    for (i = 0; i < size; ++i) {
        const rank_job *j = job_of(jobs, each, i);
        check_report(j->err.status == BMVP_OK, __FILE__, __LINE__, "rank %d of %d: %s", i, size, j->err.message);
    }
}

static inline void release_ranks(void *jobs, size_t each)
{
    int i;
    for (i = 0; i < MOST; ++i) {
        free(job_of(jobs, each, i)->start);
        free(job_of(jobs, each, i)->end);
    }
}

/* A loss that is off, or has no items in a step, is NaN on both sides. */
static inline void check_loss(double a, double b, double tol)
{
    if (b == b) CHECK_NEAR(a, b, tol * fabs(b));
    else CHECK(a != a);
}

/* Differences as a share of how far the parameters went, in root mean squares. */
static inline void compare_states(const rank_job *got, const rank_job *want, double tol)
{
    double moved = 0, apart = 0;
    int64_t i;
    if (!CHECK(got->n == want->n && got->end && want->end)) return;
    for (i = 0; i < want->n; ++i) {
        const double d = (double)want->end[i] - (double)want->start[i], e = (double)got->end[i] - (double)want->end[i];
        moved += d * d;
        apart += e * e;
    }
    CHECK(moved > 0);
    check_report(sqrt(apart / moved) <= tol, __FILE__, __LINE__, "parameters are %.2e of their way apart",
                 sqrt(apart / moved));
}

#endif
