/* transport.h - what launch_join is made of: a table that moves bytes, and a queue before it that gives it start and
   wait */
#ifndef TRANSPORT_H_INCLUDED
#define TRANSPORT_H_INCLUDED

#include "launch.h"

typedef struct transport {
    bmvp_comm comm;                   /* without start and wait; one call at a time, abort at any time */
    void (*close)(bmvp_comm *comm);
} transport;

/* A call as ranks compare it before data moves */
typedef enum rank_call {
    CALL_ALL_REDUCE, CALL_ALL_GATHER, CALL_REDUCE_SCATTER, CALL_BROADCAST, CALL_BARRIER, CALLS
} rank_call;
typedef struct call_header {
    uint64_t number;       /* of the call, from 1 */
    uint32_t call, detail; /* detail: root of a broadcast, number of arrays of an all_reduce */
    uint64_t bytes;
} call_header;
enum { CALL_TEXT = 80 };
void call_next(call_header *h, rank_call call, int64_t bytes, int detail);
void call_name(char text[CALL_TEXT], const call_header *h);
/* What is wrong when they differ, 0: nothing. host: of rank r, NULL: not known */
int call_differs(char *text, size_t size, const call_header *first, const call_header *h, int r, const char *host);

/* Over TCP, a star with rank 0 in its middle. Sums are made by rank 0, in pieces of s->chunk bytes. */
bmvp_status tcp_open(transport *t, const launch_place *l, const launch_settings *s, bmvp_error *err);

/* Over MPI (a program made with MPI=1), which mpirun must have started. Pieces of s->chunk bytes; abort ends all ranks
   at once. */
bmvp_status mpi_open(transport *t, const launch_place *l, const launch_settings *s, bmvp_error *err);

/* Takes t over: *out calls it in the order of the calls, started ones from a thread. */
bmvp_status queue_open(bmvp_comm *out, const transport *t, bmvp_error *err);
void queue_close(bmvp_comm *m); /* waits for what was started */

#endif /* TRANSPORT_H_INCLUDED */
