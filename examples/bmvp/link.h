/* link.h - the star of connections between rank 0 and the others, and who of them lives

   A thread sends a byte each s->beat seconds over the control connections and listens to theirs. A rank whose connection closes, or which is silent
   for s->silent seconds, is a failure; so is what a rank tells (bmvp_link_fail). The first failure is everybody's: rank 0 hands it on, and each
   process shuts its data connections down, which wakes whoever waits there. */
#ifndef BMVP_LINK_H_INCLUDED
#define BMVP_LINK_H_INCLUDED

#include <pthread.h>
#include "rendezvous.h"

enum { BMVP_LINK_TEXT = 400 };

typedef struct bmvp_link_state { /* of a peer, for the watching thread; `left` is under the lock */
    double heard;
    int left;          /* it has said that it ends */
    int closed;        /* nothing more comes */
    int reading;       /* 1: amid a reason */
    size_t got;
    char text[BMVP_LINK_TEXT];
} bmvp_link_state;

typedef struct bmvp_link {
    bmvp_launch l;
    bmvp_launch_settings s;
    bmvp_peer *peer;   /* by rank */
    int first, end;    /* peers of this rank: first <= r < end */
    bmvp_link_state *state;
    struct pollfd *poll; /* of the watching thread */
    int wake[2];       /* a pipe that ends the thread */
    int watching;      /* the thread runs */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t change;
    int failed;
    char why[BMVP_LINK_TEXT];
} bmvp_link;

bmvp_status bmvp_link_open(bmvp_link *k, const bmvp_launch *l, const bmvp_launch_settings *s, bmvp_error *err);
/* Tells the others that this rank ends as it should, and closes. */
void bmvp_link_close(bmvp_link *k);
/* The first failure: kept, told to all, and whoever waits for data is woken. Later ones change nothing. Any thread. */
void bmvp_link_fail(bmvp_link *k, const char *format, ...) BMVP_PRINTF(2, 3);
/* BMVP_OK, or BMVP_E_IO and the failure */
bmvp_status bmvp_link_check(bmvp_link *k, bmvp_error *err);
/* The data connection to rank r ended amid `doing`: waits until it is known why. Never BMVP_OK. */
bmvp_status bmvp_link_lost(bmvp_link *k, int r, const char *doing, bmvp_error *err);

#endif /* BMVP_LINK_H_INCLUDED */
