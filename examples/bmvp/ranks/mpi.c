/* mpi.c - the calls of bmvp_comm over MPI, see transport.h

   MPI only moves bytes: each rank gets its share of a block from all others and adds in the order of the ranks, so that
   bits are those of TCP with any MPI library. Every call begins with a header that all ranks compare. */
#include "transport.h"

#ifndef PROGRAM_MPI

bmvp_status mpi_open(transport *out, const launch_place *l, const launch_settings *s, bmvp_error *err)
{
    (void)out;
    (void)l;
    (void)s;
    return bmvp_error_set(err, BMVP_E_UNSUPPORTED, "this program was built without MPI; build it with: make MPI=1");
}

#else

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct mpi {
    call_header now, *all; /* all: of every rank */
    int64_t share;         /* floats of a block that one rank adds */
    float *out, *in;       /* a block: size shares */
    int rank, size;
    int broken;                 /* MPI itself failed: it may not end in peace */
    bmvp_error failed;          /* the first failure, the answer to all later calls */
} mpi;

/* >>calls ---------------------------------------------------------------------------------------------------------- */

/* code: of an MPI function. The first failure is kept. */
static bmvp_status mpi_check(mpi *t, int code, bmvp_error *err)
{
    char text[MPI_MAX_ERROR_STRING + 1] = "", name[CALL_TEXT];
    int n = 0;
    if (code == MPI_SUCCESS) return BMVP_OK;
    MPI_Error_string(code, text, &n);
    call_name(name, &t->now);
    t->broken = 1;
    bmvp_error_set(&t->failed, BMVP_E_IO, "rank %d, %s: MPI says: %.300s", t->rank, name, text);
    *err = t->failed;
    return err->status;
}

static bmvp_status mpi_begin(mpi *t, rank_call call, int64_t bytes, int detail, bmvp_error *err)
{
    char text[400];
    bmvp_status st;
    int r;
    if (t->failed.status) {
        *err = t->failed;
        return err->status;
    }
    call_next(&t->now, call, bytes, detail);
    st = mpi_check(
        t, MPI_Allgather(&t->now, (int)sizeof t->now, MPI_BYTE, t->all, (int)sizeof t->now, MPI_BYTE, MPI_COMM_WORLD),
        err);
    for (r = 1; !st && r < t->size; ++r) {
        if (!call_differs(text, sizeof text, &t->all[0], &t->all[r], r, NULL)) continue;
        st = bmvp_error_set(&t->failed, BMVP_E_IO, "%s", text);
        *err = t->failed;
    }
    return st;
}

/* Share `rank` of everybody's block `out`, `share` floats, summed in the order of the ranks into sum. */
static bmvp_status mpi_sum_share(mpi *t, int64_t share, float *sum, bmvp_error *err)
{
    const bmvp_status st = mpi_check(
        t, MPI_Alltoall(t->out, (int)share, MPI_FLOAT, t->in, (int)share, MPI_FLOAT, MPI_COMM_WORLD), err);
    int64_t i;
    int r;
    if (st) return st;
    memcpy(sum, t->in, (size_t)share * sizeof *sum);
    for (r = 1; r < t->size; ++r)
        for (i = 0; i < share; ++i) sum[i] += t->in[r * share + i];
    return BMVP_OK;
}

/* n values in place */
static bmvp_status mpi_sum(mpi *t, float *x, int64_t n, bmvp_error *err)
{
    while (n > 0) {
        const int64_t block = n < t->share * t->size ? n : t->share * t->size, share = (block + t->size - 1) / t->size;
        bmvp_status st;
        memcpy(t->out, x, (size_t)block * sizeof *x);
        memset(t->out + block, 0, (size_t)(share * t->size - block) * sizeof *x);
        st = mpi_sum_share(t, share, t->out, err);
        if (!st)
            st = mpi_check(
                t, MPI_Allgather(t->out, (int)share, MPI_FLOAT, t->in, (int)share, MPI_FLOAT, MPI_COMM_WORLD), err);
        if (st) return st;
        memcpy(x, t->in, (size_t)block * sizeof *x);
        x += block;
        n -= block;
    }
    return BMVP_OK;
}

static bmvp_status mpi_all_reduce(const bmvp_comm *m, const bmvp_part *part, int n, bmvp_error *err)
{
    mpi *t = (mpi *)m->user;
    int64_t all = 0;
    bmvp_status st;
    int i;
    for (i = 0; i < n; ++i) all += part[i].n;
    st = mpi_begin(t, CALL_ALL_REDUCE, all * (int64_t)sizeof(float), n, err);
    for (i = 0; !st && i < n; ++i) st = mpi_sum(t, part[i].x, part[i].n, err);
    return st;
}

static bmvp_status mpi_reduce_scatter(const bmvp_comm *m, const float *all, int64_t n, float *own, bmvp_error *err)
{
    mpi *t = (mpi *)m->user;
    bmvp_status st = mpi_begin(t, CALL_REDUCE_SCATTER, n * (int64_t)sizeof *all, 0, err);
    int64_t at, share;
    int r;
    for (at = 0; !st && at < n; at += share) {
        share = n - at < t->share ? n - at : t->share;
        for (r = 0; r < t->size; ++r) memcpy(t->out + r * share, all + r * n + at, (size_t)share * sizeof *all);
        st = mpi_sum_share(t, share, own + at, err);
    }
    return st;
}

static bmvp_status mpi_all_gather(const bmvp_comm *m, const void *own, int64_t bytes, void *all, bmvp_error *err)
{
    mpi *t = (mpi *)m->user;
    const int64_t most = t->share * (int64_t)sizeof(float);
    bmvp_status st = mpi_begin(t, CALL_ALL_GATHER, bytes, 0, err);
    int64_t at, piece;
    int r;
    for (at = 0; !st && at < bytes; at += piece) {
        piece = bytes - at < most ? bytes - at : most;
        memcpy(t->out, (const char *)own + at, (size_t)piece);
        st = mpi_check(t, MPI_Allgather(t->out, (int)piece, MPI_BYTE, t->in, (int)piece, MPI_BYTE, MPI_COMM_WORLD),
                       err);
        for (r = 0; !st && r < t->size; ++r)
            memcpy((char *)all + r * bytes + at, (const char *)t->in + r * piece, (size_t)piece);
    }
    return st;
}

static bmvp_status mpi_broadcast(const bmvp_comm *m, void *data, int64_t bytes, int root, bmvp_error *err)
{
    mpi *t = (mpi *)m->user;
    bmvp_status st = mpi_begin(t, CALL_BROADCAST, bytes, root, err);
    int64_t at, piece;
    for (at = 0; !st && at < bytes; at += piece) {
        piece = bytes - at < 1 << 30 ? bytes - at : 1 << 30;
        st = mpi_check(t, MPI_Bcast((char *)data + at, (int)piece, MPI_BYTE, root, MPI_COMM_WORLD), err);
    }
    return st;
}

/* Nobody has the headers of all before all have come. */
static bmvp_status mpi_barrier(const bmvp_comm *m, bmvp_error *err)
{
    return mpi_begin((mpi *)m->user, CALL_BARRIER, 0, 0, err);
}

static void mpi_abort(const bmvp_comm *m, const char *why)
{
    fprintf(stderr, "bmvp: rank %d stopped: %s\n", m->rank, why);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

/* >>open and close ------------------------------------------------------------------------------------------------- */

static void mpi_free(mpi *t)
{
    free(t->all);
    free(t->out);
    free(t->in);
    free(t);
}

static void mpi_close(bmvp_comm *m)
{
    mpi *t = (mpi *)m->user;
    if (t->broken) MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Finalize();
    mpi_free(t);
}

static mpi *mpi_create(int rank, int size, int64_t chunk)
{
    mpi *t = (mpi *)calloc(1, sizeof *t);
    if (!t) return NULL;
    t->rank = rank;
    t->size = size;
    t->share = chunk / (int64_t)sizeof(float) / size > 0 ? chunk / (int64_t)sizeof(float) / size : 1;
    t->all = (call_header *)calloc((size_t)size, sizeof *t->all);
    t->out = (float *)malloc((size_t)(size * t->share) * sizeof *t->out);
    t->in = (float *)malloc((size_t)(size * t->share) * sizeof *t->in);
    if (t->all && t->out && t->in) return t;
    mpi_free(t);
    return NULL;
}

static bmvp_status mpi_init(const launch_place *l, bmvp_error *err)
{
    int given = MPI_THREAD_SINGLE, rank = -1, size = -1;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &given) != MPI_SUCCESS)
        return bmvp_error_set(err, BMVP_E_IO, "MPI_Init_thread failed");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (given < MPI_THREAD_SERIALIZED)
        return bmvp_error_set(
            err, BMVP_E_UNSUPPORTED,
            "this MPI library allows no calls from threads; build the program without MPI=1 to use TCP");
    if (rank != l->rank || size != l->size)
        return bmvp_error_set(
            err, BMVP_E_IO,
            "MPI counts this process as rank %d of %d, mpirun's variables as rank %d of %d: start the program with "
            "the mpirun of the MPI library that it was built with",
            rank, size, l->rank, l->size);
    return BMVP_OK;
}

bmvp_status mpi_open(transport *out, const launch_place *l, const launch_settings *s, bmvp_error *err)
{
    bmvp_comm *m = &out->comm;
    bmvp_status st = mpi_init(l, err);
    mpi *t;
    memset(out, 0, sizeof *out);
    if (st) return st;
    t = mpi_create(l->rank, l->size, s->chunk);
    if (!t) return bmvp_error_set(err, BMVP_E_OOM, "%d ranks: out of memory", l->size);
    m->user = t;
    m->rank = l->rank;
    m->size = l->size;
    m->all_reduce = mpi_all_reduce;
    m->all_gather = mpi_all_gather;
    m->reduce_scatter = mpi_reduce_scatter;
    m->broadcast = mpi_broadcast;
    m->barrier = mpi_barrier;
    m->abort = mpi_abort;
    out->close = mpi_close;
    return BMVP_OK;
}

#endif
