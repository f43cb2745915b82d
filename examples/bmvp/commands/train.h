/* train.h - the run loop of pretrain and finetune: steps, log, checkpoints, signals, several ranks */
#ifndef TRAIN_H_INCLUDED
#define TRAIN_H_INCLUDED

#include "cli.h"
#include "device.h"
#include "run.h"
#include "ranks/ranks.h"
#include "bmvp_ssl.h"

/* Rows of a command's table of options, into a struct with members of these names: how a run is computed, kept and
   continued. */
#define TRAIN_OPTIONS(o) \
    cli_int("threads", &(o).threads, 0, 0, 1024, \
            "of each rank; 0: one for each processor; the result does not depend on it"), \
    cli_flag("resume", &(o).resume, "go on from RUN/checkpoint.safetensors with the settings stored there"), \
    cli_flag("recompute", &(o).recompute, \
             "less memory, more time: backward computes blocks again; the result does not depend on it"), \
    cli_string("set", &(o).set, NULL, "NAME=VALUE,..", "any field of the configuration"), \
    cli_int("save-every", &(o).save_every, 0, 0, 1e12, \
            "steps between checkpoints; 0: every ten minutes and at the end"), \
    cli_int("stop-after", &(o).stop_after, 0, 0, 1e12, "stop after this many steps of the session, resumable"), \
    cli_choice("simd", &(o).simd, 0, "auto|plain|vector|avx2|avx512", "instruction set"), \
    device_option(&(o).device), precision_option(&(o).precision), graph_option(&(o).graph), \
    cli_flag("plan", &(o).plan, "print configuration and memory, then stop")

typedef struct train_loop {
    const char *command, *out;
    rank_group *ranks;
    bmvp_trainer *trainer;
    int64_t first, total, stop_after; /* steps: where the session begins, of the run, of the session (0: to the end) */
    int64_t cases, save_every;        /* in an epoch; 0: every ten minutes */
    int ahead;                        /* 1: a device, which works on while the log of the step before is written */
    int64_t samples;                  /* taken when the session begins; set by train_run */
    FILE *log;
    double before;                    /* seconds of earlier sessions */
    bmvp_error *err;
    void *user;
    /* What the commands differ in. step reads the data of a step and gives them to the trainer. reads: something is
       due after this step that reads what it has made. Then, on the lead: before_log (validation), the log,
       after_log (pictures, report). columns: more members of the log line and words for the status line. Any but
       step and save may be NULL. */
    bmvp_status (*step)(void *user, int64_t step, double lr);
    int (*reads)(const void *user, int64_t step);
    bmvp_status (*before_log)(void *user, int64_t step);
    void (*columns)(void *user, int64_t step, bmvp_jw *w, char *words, size_t size);
    bmvp_status (*after_log)(void *user, int64_t step);
    bmvp_status (*save)(void *user);
    /* the loop's own */
    cli_progress progress;
    const char *doing;                /* of train_tell */
    int64_t case_now, case_of;        /* while it goes over cases */
    double lr[2], saved;              /* of step s at s % 2; seconds when the last checkpoint was written */
} train_loop;

/* Trains up to the end of the session, or an interrupt: one rank's is that of all. */
bmvp_status train_run(train_loop *t);
/* What the run does now that is not a step, on the status line; NULL: nothing any more. */
void train_tell(train_loop *t, const char *what);
/* bmvp_config.progress, user: the loop. Says how far the work of train_tell has come; nonzero after a signal, but for
   steps: these end. */
int train_progress(void *user, const char *what, int64_t done, int64_t of);
double train_seconds(train_loop *t); /* of all sessions */
/* The samples that the run has taken before this step of the session, in steps of its batch of today. */
int64_t train_position(const train_loop *t, int64_t step);
/* 1: with this step an update is complete. */
int train_updates(const train_loop *t, int64_t step);
/* 1: a multiple of `every` positions lies in the update that ends with this step. */
int train_crosses(const train_loop *t, int64_t step, int64_t every);
/* 0, or what the program ends with after an interrupt. */
int train_exit_code(const train_loop *t);
/* Prints the failure, and the other ranks fail with it. Returns code. */
int train_give_up(rank_group *r, const char *command, int code, const bmvp_error *err);
/* Before the trainer is made: the context's ranks, if there are several. */
bmvp_status train_set_ranks(rank_group *r, bmvp_ctx *c, const bmvp_backend *device, bmvp_error *err);
/* All ranks must train the same: the network, the method's fields, the cases, the number of steps. */
bmvp_status train_compare_ranks(rank_group *r, const char *network, const bmvp_method *m, const void *config,
                                const bmvp_ssl_case *cases, int64_t n, int64_t total, bmvp_error *err);
bmvp_status train_failed(const bmvp_ctx *c, bmvp_error *err); /* the context's failure becomes err */

#endif
