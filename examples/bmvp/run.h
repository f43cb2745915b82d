/* run.h - what pretrain and finetune share: the folder of a run, prepared cases, crops read ahead

   A run's folder holds  checkpoint.safetensors  everything to go on
                         log.jsonl               one JSON object a step
                         report.html             the page to look at
   and of pre-training   snapshots.safetensors   the templates' middle slices as they grew
   of fine-tuning        best.safetensors        the weights with the best validation, for `bmvp predict`
                         split.json              which cases were for what */
#ifndef BMVP_RUN_H_INCLUDED
#define BMVP_RUN_H_INCLUDED

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "bmvp_nifti.h"
#include "data.h"

/* ---- prepared cases: uncompressed NIfTI files, all modalities of a case on one grid ---------------------------------- */

typedef struct bmvp_prepared {
    bmvp_dataset data;
    bmvp_ssl_case *cases;                 /* bit k = run modality k */
    int n_modalities;
    int known[BMVP_MODALITIES];           /* run modality -> known modality */
    const char *names[BMVP_MODALITIES];
    int64_t grid[3];                      /* D, H, W: the largest volume per axis */
} bmvp_prepared;

/* Opens every file once. Fails with file names when files are compressed, missing, or modalities of a case lie on different grids. */
bmvp_status bmvp_prepared_load(bmvp_prepared *p, const char *list_or_dir, bmvp_error *err);
void bmvp_prepared_free(bmvp_prepared *p);
/* Values of run modality m of case i: size[0] x size[1] x size[2] voxels (D, H, W) from `start`; zero outside of the volume. */
bmvp_status bmvp_prepared_crop(const bmvp_prepared *p, int64_t i, int m, const int64_t start[3], const int64_t size[3], float *dst,
                               bmvp_error *err);
/* The same of the case's label map, which must be there and on the grid of its images. */
bmvp_status bmvp_prepared_label(const bmvp_prepared *p, int64_t i, const int64_t start[3], const int64_t size[3], float *dst,
                                bmvp_error *err);

/* The text of the prepare.json beside the list: the settings the cases were prepared with; "" when there is none. */
bmvp_status bmvp_run_preparation(const bmvp_prepared *p, char *text, size_t size, bmvp_error *err);

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

/* Prints what a run will need: its plan, `ahead` bytes of crops read ahead, the program as it stands, and the most of what is needed for
   a while: saving, or `passing` bytes. */
void bmvp_run_print_memory(const bmvp_memory *plan, double ahead, double passing);

/* ---- a step's data, read ahead by a thread --------------------------------------------------------------------------- */

/* Reads what step `step` needs into buffer 0 or 1. */
typedef bmvp_status (*bmvp_ahead_fn)(void *user, int buffer, int64_t step, bmvp_error *err);
typedef struct bmvp_ahead {
    bmvp_ahead_fn fn;
    void *user;
    int64_t next, step[2];
    int ready[2], running, quit;
    bmvp_status status[2];
    bmvp_error err[2];
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
} bmvp_ahead;
/* Starts reading step `first` and those after it. */
bmvp_status bmvp_ahead_start(bmvp_ahead *a, bmvp_ahead_fn fn, void *user, int64_t first, bmvp_error *err);
/* Waits for `step`, which must follow the last one; its buffer stays as it is until the next call. Returns the buffer, -1 after an error. */
int bmvp_ahead_get(bmvp_ahead *a, int64_t step, bmvp_error *err);
void bmvp_ahead_stop(bmvp_ahead *a); /* zero-initialised or stopped: fine */

/* ---- pre-training's crops ---------------------------------------------------------------------------------------------- */

typedef struct bmvp_batch { /* a step */
    int n;
    bmvp_ssl_draw *draw; /* n, of all ranks */
    bmvp_ssl_item *item; /* this rank's share of each pass, one pass after the other */
    float *voxels;       /* 2 crops for each item */
} bmvp_batch;

typedef struct bmvp_loader {
    const bmvp_prepared *data;
    bmvp_ssl_config cfg;
    int rank, size;
    int64_t template_grid[3], *order;
    bmvp_batch batch[2];
    bmvp_ahead ahead;
} bmvp_loader;

double bmvp_loader_bytes(const bmvp_prepared *data, const bmvp_ssl_config *cfg, int size); /* of a running loader of one of `size` ranks */
bmvp_status bmvp_loader_start(bmvp_loader *l, const bmvp_prepared *data, const bmvp_ssl_config *cfg, int rank, int size,
                              const int64_t template_grid[3], int64_t first, bmvp_error *err);
/* Where the pass that begins with draw `from` ends: draws of one modality slot. */
int bmvp_batch_pass(const bmvp_batch *b, const bmvp_ssl_config *cfg, int from);
/* Valid until the next call. NULL and err on a file error. */
const bmvp_batch *bmvp_loader_get(bmvp_loader *l, int64_t step, bmvp_error *err);
void bmvp_loader_stop(bmvp_loader *l);

/* ---- the folder and the session ---------------------------------------------------------------------------------------- */

extern volatile sig_atomic_t bmvp_interrupted; /* the signal that asked to stop, or 0 */
void bmvp_catch_signals(void);                 /* Ctrl-C and TERM set it; a second one ends the program at once */

char *bmvp_run_file(const char *out, const char *name); /* OUT/name, malloc */
/* Makes the folder and removes the files of a session that was killed while it wrote them. */
bmvp_status bmvp_run_open(const char *out, bmvp_error *err);
/* Opens OUT/log.jsonl for appending, without the lines after step `first` (killed after the last checkpoint) and a torn last line.
   seconds: what its last line says. */
bmvp_status bmvp_run_log(const char *out, int64_t first, FILE **log, double *seconds, bmvp_error *err);
/* Appends the finished line. */
bmvp_status bmvp_run_log_line(FILE *log, const char *out, bmvp_jw *w, bmvp_error *err);
double bmvp_peak_memory_mb(void); /* the process's largest resident size so far, in 10^6 bytes */
/* Applies "a=1,b=2" with set(cfg, name, value). */
bmvp_status bmvp_apply_settings(void *cfg, bmvp_status (*set)(void *cfg, const char *name, const char *value, bmvp_error *err),
                                const char *text, bmvp_error *err);

/* ---- the report --------------------------------------------------------------------------------------------------------- */

/* Adds the templates' middle slices of this step to OUT/snapshots.safetensors. */
bmvp_status bmvp_run_snapshot(bmvp_ctx *c, bmvp_ssl *s, const char *out, bmvp_error *err);
/* Writes OUT/report.html from the log, the snapshots and a look at a few cases. seconds: time used so far. */
double bmvp_run_report_bytes(const bmvp_ssl_config *cfg); /* it needs beside a run's memory */
bmvp_status bmvp_run_report(bmvp_ssl *s, const bmvp_prepared *data, const char *out, int64_t total_steps, double seconds, bmvp_error *err);

#endif
