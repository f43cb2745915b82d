/* ranks.h - a command that several ranks run together: meeting, agreeing, who prints, what the waiting costs */
#ifndef BMVP_RANKS_H_INCLUDED
#define BMVP_RANKS_H_INCLUDED

#include <pthread.h>
#include "launch.h"

typedef struct bmvp_ranks {
    bmvp_launch launch;
    bmvp_comm link;   /* moves the bytes */
    bmvp_comm comm;   /* the same, and counts the seconds in calls */
    bmvp_comm gpu;    /* NCCL's, of GPUs */
    pthread_mutex_t lock; /* of gpu's coming and going */
    double waited;    /* seconds in calls of comm so far */
    int joined, has_gpu;
    int here;         /* ranks on this host */
    char prefix[32];  /* "rank 3: " for messages; "" when alone */
} bmvp_ranks;

/* Reads the environment, and meets nobody. */
bmvp_status bmvp_ranks_look(bmvp_ranks *r, bmvp_error *err);
/* Reads the environment and, with several ranks, meets them (bmvp_launch_join). */
bmvp_status bmvp_ranks_open(bmvp_ranks *r, bmvp_error *err);
/* This rank has failed: the others fail with the reason. Over MPI the process may end here. */
void bmvp_ranks_stop(bmvp_ranks *r, const char *why);
/* After the last context, before the backend is closed. */
void bmvp_ranks_close(bmvp_ranks *r);
/* Several ranks: the table for bmvp_set_comm and what it goes over. GPUs exchange by NCCL in a program made with it, else through the host. NULL
   and err when the GPUs cannot meet. backend NULL: the CPU. */
const bmvp_comm *bmvp_ranks_table(bmvp_ranks *r, const bmvp_backend *backend, const char **over, bmvp_error *err);
int bmvp_ranks_several(const bmvp_ranks *r);
int bmvp_ranks_lead(const bmvp_ranks *r); /* 1: rank 0, or alone: it prints and writes */
/* Whether any rank says yes, the same answer on all. */
bmvp_status bmvp_ranks_any(bmvp_ranks *r, int *yes, bmvp_error *err);
/* BMVP_E_ARG on all ranks when a rank's `bytes` differ from those of rank 0. what: "configuration", for the message. */
bmvp_status bmvp_ranks_same(bmvp_ranks *r, const char *what, const void *data, size_t bytes, bmvp_error *err);
/* n numbers of each rank, by rank; all holds size x n. */
bmvp_status bmvp_ranks_gather(bmvp_ranks *r, const double *own, int n, double *all, bmvp_error *err);
/* Threads of each rank for --threads 0: the processors of this host, shared by its ranks. */
int bmvp_ranks_threads(const bmvp_ranks *r);

#endif /* BMVP_RANKS_H_INCLUDED */
