/* transport.h - what bmvp_launch_join is made of: a table that moves bytes, and a queue before it that gives it start and wait */
#ifndef BMVP_TRANSPORT_H_INCLUDED
#define BMVP_TRANSPORT_H_INCLUDED

#include "launch.h"

typedef struct bmvp_transport {
    bmvp_comm comm;                   /* without start and wait; one call at a time, abort at any time */
    void (*close)(bmvp_comm *comm);
} bmvp_transport;

/* A call as ranks compare it before data moves */
typedef enum bmvp_call {
    BMVP_CALL_ALL_REDUCE, BMVP_CALL_ALL_GATHER, BMVP_CALL_REDUCE_SCATTER, BMVP_CALL_BROADCAST, BMVP_CALL_BARRIER, BMVP_CALLS
} bmvp_call;
typedef struct bmvp_call_header {
    uint64_t number;       /* of the call, from 1 */
    uint32_t call, detail; /* detail: root of a broadcast, number of arrays of an all_reduce */
    uint64_t bytes;
} bmvp_call_header;
enum { BMVP_CALL_TEXT = 80 };
void bmvp_call_next(bmvp_call_header *h, bmvp_call call, int64_t bytes, int detail);
void bmvp_call_name(char text[BMVP_CALL_TEXT], const bmvp_call_header *h);
/* What is wrong when they differ, 0: nothing. host: of rank r, NULL: not known */
int bmvp_call_differs(char *text, size_t size, const bmvp_call_header *first, const bmvp_call_header *h, int r, const char *host);

/* Over TCP, a star with rank 0 in its middle. Sums are made by rank 0, in pieces of s->chunk bytes. */
bmvp_status bmvp_tcp_open(bmvp_transport *t, const bmvp_launch *l, const bmvp_launch_settings *s, bmvp_error *err);

/* Over MPI (a program made with MPI=1), which mpirun must have started. Pieces of s->chunk bytes; abort ends all ranks at once. */
bmvp_status bmvp_mpi_open(bmvp_transport *t, const bmvp_launch *l, const bmvp_launch_settings *s, bmvp_error *err);

/* Takes t over: *out calls it in the order of the calls, started ones from a thread. */
bmvp_status bmvp_queue_open(bmvp_comm *out, const bmvp_transport *t, bmvp_error *err);
void bmvp_queue_close(bmvp_comm *m); /* waits for what was started */

#endif /* BMVP_TRANSPORT_H_INCLUDED */
