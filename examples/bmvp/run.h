/* run.h - a pre-training run: its folder, its prepared cases and the crops read ahead (used by pretrain and its report)

   A run's folder holds  checkpoint.safetensors  everything to go on
                         log.jsonl               one JSON object a step
                         snapshots.safetensors   the templates' middle slices as they grew
                         report.html             the page to look at */
#ifndef BMVP_RUN_H_INCLUDED
#define BMVP_RUN_H_INCLUDED

#include <pthread.h>
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
/* crop^3 values of run modality m of case i from `start` (D, H, W); zero outside of the volume. */
bmvp_status bmvp_prepared_crop(const bmvp_prepared *p, int64_t i, int m, const int64_t start[3], int64_t crop, float *dst, bmvp_error *err);

/* ---- crops read ahead ------------------------------------------------------------------------------------------------ */

typedef struct bmvp_batch {
    int64_t step;
    int n;
    bmvp_ssl_draw *draw;
    bmvp_ssl_item *item;
    float *voxels; /* 2 crops for each item */
    int ready;
    bmvp_status status;
    bmvp_error err;
} bmvp_batch;

typedef struct bmvp_loader {
    const bmvp_prepared *data;
    bmvp_ssl_config cfg;
    int64_t template_grid[3], next, *order;
    bmvp_batch batch[2];
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int running, quit;
} bmvp_loader;

/* Starts reading the crops of step `first` and those after it. */
bmvp_status bmvp_loader_start(bmvp_loader *l, const bmvp_prepared *data, const bmvp_ssl_config *cfg, const int64_t template_grid[3],
                              int64_t first, bmvp_error *err);
/* Waits for the crops of `step`, which must follow the last one; valid until the next call. NULL and err on a file error. */
const bmvp_batch *bmvp_loader_get(bmvp_loader *l, int64_t step, bmvp_error *err);
void bmvp_loader_stop(bmvp_loader *l);

/* ---- the report --------------------------------------------------------------------------------------------------------- */

/* Adds the templates' middle slices of this step to OUT/snapshots.safetensors. */
bmvp_status bmvp_run_snapshot(bmvp_ssl *s, const char *out, bmvp_error *err);
/* Writes OUT/report.html from the log, the snapshots and a look at a few cases. seconds: time used so far. */
bmvp_status bmvp_run_report(bmvp_ssl *s, const bmvp_prepared *data, const char *out, int64_t total_steps, double seconds, bmvp_error *err);

#endif
