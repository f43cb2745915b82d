/* transport.h - what bmvp_launch_join is made of: a table that moves bytes, and a queue before it that gives it start and wait */
#ifndef BMVP_TRANSPORT_H_INCLUDED
#define BMVP_TRANSPORT_H_INCLUDED

#include "launch.h"

typedef struct bmvp_transport {
    bmvp_comm comm;                   /* without start and wait; one call at a time, abort at any time */
    void (*close)(bmvp_comm *comm);
} bmvp_transport;

/* Over TCP, a star with rank 0 in its middle. Sums are made by rank 0, in pieces of s->chunk bytes. */
bmvp_status bmvp_tcp_open(bmvp_transport *t, const bmvp_launch *l, const bmvp_launch_settings *s, bmvp_error *err);

/* Takes t over: *out calls it in the order of the calls, started ones from a thread. */
bmvp_status bmvp_queue_open(bmvp_comm *out, const bmvp_transport *t, bmvp_error *err);
void bmvp_queue_close(bmvp_comm *m); /* waits for what was started */

#endif /* BMVP_TRANSPORT_H_INCLUDED */
