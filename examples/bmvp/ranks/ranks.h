/* ranks.h - a command that several ranks run together: meeting, agreeing, who prints, what the waiting costs */
#ifndef RANKS_H_INCLUDED
#define RANKS_H_INCLUDED

#include <pthread.h>
#include "launch.h"

typedef struct rank_group {
    launch_place launch;
    bmvp_comm link;   /* moves the bytes */
    bmvp_comm comm;   /* the same, and counts the seconds in calls */
    bmvp_comm gpu;    /* NCCL's, of GPUs */
    pthread_mutex_t lock; /* of gpu's coming and going */
    double waited;    /* seconds in calls of comm so far */
    int joined, has_gpu;
    int here;         /* ranks on this host */
    char prefix[32];  /* "rank 3: " for messages; "" when alone */
} rank_group;

/* Reads the environment, and meets nobody. */
bmvp_status ranks_look(rank_group *r, bmvp_error *err);
/* Reads the environment and, with several ranks, meets them (launch_join). */
bmvp_status ranks_open(rank_group *r, bmvp_error *err);
/* This rank has failed: the others fail with the reason. Over MPI the process may end here. */
void ranks_stop(rank_group *r, const char *why);
/* After the last context, before the backend is closed. */
void ranks_close(rank_group *r);
/* Several ranks: the table for bmvp_set_comm and what it goes over: NCCL where all have a GPU and the program was made
   with it, else as launched, through the host. NULL and err when the GPUs cannot meet. backend NULL: the CPU. */
const bmvp_comm *ranks_table(rank_group *r, const bmvp_backend *backend, const char **over, bmvp_error *err);
int ranks_several(const rank_group *r);
int ranks_lead(const rank_group *r); /* 1: rank 0, or alone: it prints and writes */
/* Whether any rank says yes, the same answer on all. */
bmvp_status ranks_any(rank_group *r, int *yes, bmvp_error *err);
/* BMVP_E_ARG on all ranks when a rank's `bytes` differ from those of rank 0. what: "configuration", for the message. */
bmvp_status ranks_same(rank_group *r, const char *what, const void *data, size_t bytes, bmvp_error *err);
/* n numbers of each rank, by rank; all holds size x n. */
bmvp_status ranks_gather(rank_group *r, const double *own, int n, double *all, bmvp_error *err);
/* Threads of each rank for --threads 0: the processors of this host, shared by its ranks. */
int ranks_threads(const rank_group *r);

#endif /* RANKS_H_INCLUDED */
