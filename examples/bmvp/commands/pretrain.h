/* pretrain.h - what `bmvp pretrain` does for every method, and what it asks of one

   pretrain.c holds the session: options, data, plan, trainer, run loop, files. A method is a method_row
   (examples/methods/methods.h) and a pretrain_kind: BrainMVP has one of its own (pretrain_brainmvp.c), as it has
   templates; all others share one (pretrain_method.c). */
#ifndef PRETRAIN_H_INCLUDED
#define PRETRAIN_H_INCLUDED

#include "cli.h"
#include "device.h"
#include "resume.h"
#include "train.h"
#include "data/crops.h"
#include "../../methods/methods.h"

typedef struct pretrain_options {
    const char *data, *out, *method, *network, *set, *device;
    int preset, resume, all_modalities, simd, precision, graph, plan, recompute;
    int64_t crop, batch, epochs, steps, seed, threads, save_every, report_every, stop_after;
    double lr;
} pretrain_options;

typedef struct pretraining { /* what one call of the command holds */
    pretrain_options o;
    const method_row *row;
    const struct pretrain_kind *kind;
    const bmvp_method *m;
    rank_group ranks;
    prepared_set data;
    void *config, *was;         /* the method's; of the run that goes on */
    bmvp_net_config net;
    const bmvp_backend *device; /* NULL: the CPU */
    bmvp_ctx *c;
    bmvp_trainer *trainer;
    void *own;                  /* kind->own bytes */
    crop_loader loader;
    train_loop loop;
    resume_state past;
    int64_t step, samples;      /* taken by the run that goes on */
    run_length length;
    char *list;                 /* --data of the run that goes on, when it is not given */
    char *kept;                 /* what the checkpoint keeps of the command line */
    char preparation[512];      /* settings of `bmvp prepare`, kept in the checkpoint */
    bmvp_error err;
} pretraining;

/* Functions that may be NULL are marked; all others are there. */
typedef struct pretrain_kind {
    size_t own;                                              /* bytes of the kind's part, zeros at first */
    /* A run's checkpoint: was, net, step, samples. */
    bmvp_status (*inspect)(pretraining *s, const char *path);
    bmvp_status (*fits)(pretraining *s);                     /* NULL; do the data fit the run that goes on? */
    bmvp_status (*learnable)(pretraining *s);                /* NULL; says what data and settings cannot teach */
    bmvp_ssl_config (*sampling)(const pretraining *s);       /* which case, modality and crop */
    bmvp_status (*plan)(pretraining *s, const bmvp_config *k, const void *share, bmvp_memory *m);
    bmvp_trainer *(*create)(pretraining *s);
    void (*destroy)(pretraining *s);
    const int64_t *(*grid)(const pretraining *s);            /* of the templates, D, H, W */
    bmvp_status (*fresh)(pretraining *s);                    /* NULL; a new run, before its first step */
    bmvp_status (*pass)(pretraining *s, const bmvp_ssl_item *item, const bmvp_ssl_draw *draw, int n);
    int (*looks)(const pretraining *s, int64_t done);        /* NULL; is look due after so many steps? */
    bmvp_status (*look)(pretraining *s);
    double (*report_bytes)(const pretraining *s);
    bmvp_status (*report)(pretraining *s);
} pretrain_kind;

extern const pretrain_kind pretrain_brainmvp, pretrain_method;

#endif
