/* star.h - the star of connections between rank 0 and the others, and who of them lives

   A thread sends a byte each s->beat seconds over the control connections and listens to theirs. A rank whose
   connection closes, or which is silent for s->silent seconds, is a failure; so is what a rank tells (star_fail). The
   first failure is everybody's: rank 0 hands it on, and each process shuts its data connections down, which wakes
   whoever waits there. */
#ifndef STAR_H_INCLUDED
#define STAR_H_INCLUDED

#include <pthread.h>
#include "rendezvous.h"

enum { STAR_TEXT = 400 };

typedef struct star_state { /* of a peer, for the watching thread; `left` is under the lock */
    double heard;
    int left;          /* it has said that it ends */
    int closed;        /* nothing more comes */
    int reading;       /* 1: amid a reason */
    size_t got;
    char text[STAR_TEXT];
} star_state;

typedef struct star {
    launch_place l;
    launch_settings s;
    rank_peer *peer;   /* by rank */
    int first, end;    /* peers of this rank: first <= r < end */
    star_state *state;
    struct pollfd *poll; /* of the watching thread */
    int wake[2];       /* a pipe that ends the thread */
    int watching;      /* the thread runs */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t change;
    int failed;
    char why[STAR_TEXT];
} star;

bmvp_status star_open(star *k, const launch_place *l, const launch_settings *s, bmvp_error *err);
/* Tells the others that this rank ends as it should, and closes. */
void star_close(star *k);
/* The first failure: kept, told to all, and whoever waits for data is woken. Later ones change nothing. Any thread. */
void star_fail(star *k, const char *format, ...) BMVP_PRINTF(2, 3);
/* BMVP_OK, or BMVP_E_IO and the failure */
bmvp_status star_check(star *k, bmvp_error *err);
/* The data connection to rank r ended amid `doing`: waits until it is known why. Never BMVP_OK. */
bmvp_status star_lost(star *k, int r, const char *doing, bmvp_error *err);

#endif /* STAR_H_INCLUDED */
