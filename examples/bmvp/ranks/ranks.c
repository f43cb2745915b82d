/* ranks.c - a command that several ranks run together, see ranks.h */
#define _DEFAULT_SOURCE
#include "ranks.h"
#include "sockets.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* >>the table that counts seconds ---------------------------------------------------------------------------------- */

static const bmvp_comm *link_of(const bmvp_comm *m) { return &((rank_group *)m->user)->link; }

static bmvp_status counted(const bmvp_comm *m, double since, bmvp_status st)
{
    ((rank_group *)m->user)->waited += clock_now() - since;
    return st;
}

static bmvp_status ranks_all_reduce(const bmvp_comm *m, const bmvp_part *part, int n, bmvp_error *err)
{
    const double t = clock_now();
    return counted(m, t, link_of(m)->all_reduce(link_of(m), part, n, err));
}
static bmvp_status ranks_all_gather(const bmvp_comm *m, const void *own, int64_t bytes, void *all, bmvp_error *err)
{
    const double t = clock_now();
    return counted(m, t, link_of(m)->all_gather(link_of(m), own, bytes, all, err));
}
static bmvp_status ranks_reduce_scatter(const bmvp_comm *m, const float *all, int64_t n, float *own, bmvp_error *err)
{
    const double t = clock_now();
    return counted(m, t, link_of(m)->reduce_scatter(link_of(m), all, n, own, err));
}
static bmvp_status ranks_broadcast(const bmvp_comm *m, void *data, int64_t bytes, int root, bmvp_error *err)
{
    const double t = clock_now();
    return counted(m, t, link_of(m)->broadcast(link_of(m), data, bytes, root, err));
}
static bmvp_status ranks_barrier(const bmvp_comm *m, bmvp_error *err)
{
    const double t = clock_now();
    return counted(m, t, link_of(m)->barrier(link_of(m), err));
}
static bmvp_status ranks_start(const bmvp_comm *m, const bmvp_part *part, int n, bmvp_error *err)
{
    return link_of(m)->start(link_of(m), part, n, err);
}
static bmvp_status ranks_wait(const bmvp_comm *m, bmvp_error *err)
{
    const double t = clock_now();
    return counted(m, t, link_of(m)->wait(link_of(m), err));
}
static void ranks_abort(const bmvp_comm *m, const char *why) { link_of(m)->abort(link_of(m), why); }

static void count_calls(rank_group *r)
{
    r->comm = r->link;
    r->comm.user = r;
    r->comm.all_reduce = ranks_all_reduce;
    r->comm.all_gather = ranks_all_gather;
    r->comm.reduce_scatter = ranks_reduce_scatter;
    r->comm.broadcast = ranks_broadcast;
    r->comm.barrier = ranks_barrier;
    r->comm.abort = ranks_abort;
    if (r->link.start) r->comm.start = ranks_start;
    if (r->link.wait) r->comm.wait = ranks_wait;
}

/* >>GPUs ----------------------------------------------------------------------------------------------------------- */

/* A rank is gone: the GPU, which may wait for it, learns of it, too. */
static void tell_gpu(void *user, const char *why)
{
    rank_group *r = (rank_group *)user;
    pthread_mutex_lock(&r->lock);
    if (r->has_gpu) r->gpu.abort(&r->gpu, why);
    pthread_mutex_unlock(&r->lock);
}

#ifdef PROGRAM_CUDA
/* Rank 0's id goes to all, or its failure. BMVP_E_UNSUPPORTED on all: made without NCCL, or a rank has no GPU. */
static bmvp_status join_gpus(rank_group *r, const bmvp_backend *backend, bmvp_error *err)
{
    struct { bmvp_error err; unsigned char id[128]; } first;
    int without = backend == NULL;
    bmvp_comm gpu;
    bmvp_status st = ranks_any(r, &without, err);
    if (!st && without) st = BMVP_E_UNSUPPORTED;
    if (st) return st;
    memset(&first, 0, sizeof first);
    if (r->launch.rank == 0) first.err.status = bmvp_cuda_comm_id(first.id, &first.err);
    st = r->comm.broadcast(&r->comm, &first, (int64_t)sizeof first, 0, err);
    if (st) return st;
    if (first.err.status) return bmvp_error_set(err, first.err.status, "%s", first.err.message);
    st = bmvp_cuda_comm_join(backend, first.id, r->launch.rank, r->launch.size,
                             launch_settings_default(&r->launch).call, &gpu, err);
    if (st) return st;
    pthread_mutex_lock(&r->lock);
    r->gpu = gpu;
    r->has_gpu = 1;
    pthread_mutex_unlock(&r->lock);
    return BMVP_OK;
}

static void leave_gpus(rank_group *r)
{
    pthread_mutex_lock(&r->lock);
    r->has_gpu = 0;
    pthread_mutex_unlock(&r->lock);
    bmvp_cuda_comm_leave(&r->gpu);
}
#else
static bmvp_status join_gpus(rank_group *r, const bmvp_backend *backend, bmvp_error *err)
{
    (void)r;
    (void)backend;
    return bmvp_error_set(err, BMVP_E_UNSUPPORTED, "made without CUDA");
}
static void leave_gpus(rank_group *r) { (void)r; }
#endif

const bmvp_comm *ranks_table(rank_group *r, const bmvp_backend *backend, const char **over, bmvp_error *err)
{
    const bmvp_status st = join_gpus(r, backend, err);
    *over = st ? launch_over(&r->launch) : "NCCL";
    if (st == BMVP_OK) return &r->gpu;
    return st == BMVP_E_UNSUPPORTED ? &r->comm : NULL;
}

/* >>meeting -------------------------------------------------------------------------------------------------------- */

/* How many ranks are on this host: those whose host has the same name. */
static bmvp_status count_here(rank_group *r, bmvp_error *err)
{
    char name[64] = "", *all = (char *)malloc(sizeof name * (size_t)r->comm.size);
    bmvp_status st = all ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    int i;
    (void)gethostname(name, sizeof name - 1);
    if (!st) st = r->comm.all_gather(&r->comm, name, (int64_t)sizeof name, all, err);
    for (i = 0, r->here = 0; !st && i < r->comm.size; ++i)
        r->here += memcmp(all + i * (int)sizeof name, name, sizeof name) == 0;
    free(all);
    return st;
}

bmvp_status ranks_look(rank_group *r, bmvp_error *err)
{
    bmvp_status st;
    memset(r, 0, sizeof *r);
    r->here = 1;
    st = launch_read(&r->launch, NULL, NULL, err);
    if (!st && r->launch.size > 1) snprintf(r->prefix, sizeof r->prefix, "rank %d: ", r->launch.rank);
    return st;
}

bmvp_status ranks_open(rank_group *r, bmvp_error *err)
{
    bmvp_status st = ranks_look(r, err);
    launch_settings s;
    if (st || r->launch.size == 1) return st;
    s = launch_settings_default(&r->launch);
    s.failed = tell_gpu;
    s.user = r;
    pthread_mutex_init(&r->lock, NULL);
    st = launch_join(&r->launch, &s, &r->link, err);
    if (st) return st;
    r->joined = 1;
    count_calls(r);
    return count_here(r, err);
}

void ranks_stop(rank_group *r, const char *why)
{
    if (r->joined) r->link.abort(&r->link, why);
}

void ranks_close(rank_group *r)
{
    if (!r->joined) return;
    leave_gpus(r);
    launch_leave(&r->link);
    pthread_mutex_destroy(&r->lock);
    r->joined = 0;
}

int ranks_several(const rank_group *r) { return r->launch.size > 1; }
int ranks_lead(const rank_group *r) { return r->launch.rank == 0; }

/* >>agreeing ------------------------------------------------------------------------------------------------------- */

bmvp_status ranks_gather(rank_group *r, const double *own, int n, double *all, bmvp_error *err)
{
    if (ranks_several(r)) return r->comm.all_gather(&r->comm, own, n * (int64_t)sizeof *own, all, err);
    memcpy(all, own, (size_t)n * sizeof *own);
    return BMVP_OK;
}

bmvp_status ranks_any(rank_group *r, int *yes, bmvp_error *err)
{
    double own = *yes != 0, all[LAUNCH_MOST];
    const bmvp_status st = ranks_gather(r, &own, 1, all, err);
    int i;
    for (i = 0; !st && i < r->launch.size; ++i) *yes |= all[i] > 0;
    return st;
}

bmvp_status ranks_same(rank_group *r, const char *what, const void *data, size_t bytes, bmvp_error *err)
{
    double all[2 * LAUNCH_MOST], own[2];
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    bmvp_status st;
    size_t k;
    int i;
    for (k = 0; k < bytes; ++k) hash = (hash ^ ((const unsigned char *)data)[k]) * 1099511628211u;
    own[0] = (double)(hash >> 32);
    own[1] = (double)(hash & 0xffffffffu);
    st = ranks_gather(r, own, 2, all, err);
    for (i = 1; !st && i < r->launch.size; ++i)
        if (all[2 * i] != all[0] || all[2 * i + 1] != all[1])
            st = bmvp_error_set(
                err, BMVP_E_ARG,
                "the %s of rank %d is not that of rank 0: start all ranks with the same command on the same data", what,
                i);
    return st;
}

int ranks_threads(const rank_group *r)
{
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    if (r->here == 1) return 0;
    return n > r->here ? (int)(n / r->here) : 1;
}
