/* finetune_data.h - fine-tuning's cases and their crops, read ahead */
#ifndef FINETUNE_DATA_H_INCLUDED
#define FINETUNE_DATA_H_INCLUDED

#include "ahead.h"
#include "prepared.h"
#include "splits.h"

/* >>cases ---------------------------------------------------------------------------------------------------------- */

typedef struct label_places { /* where labelled voxels are: a case's crops can be centred on them */
    int32_t *voxel;           /* (z H + y) W + x, ascending; a regular selection of at most 4096 of them */
    int64_t n;
} label_places;

typedef struct finetune_data {
    prepared_set all;
    data_split split;
    int segment;
    int classes;                        /* classification: how many */
    int64_t *train, *val, n_train, n_val; /* indices into `all` */
    bmvp_ssl_case *cases;             /* of the training cases, in the order of `train` */
    label_places *places;             /* the same order; segmentation */
    /* Training voxels (classification: cases) of each class; regions: of each region, then all. The same of the cases
       for validation. */
    int64_t voxels[BMVP_MAX_REGIONS + 1], val_voxels[BMVP_MAX_REGIONS + 1];
    int64_t ignored; /* training voxels whose label is ignored: not among these */
} finetune_data;

typedef struct finetune_source { /* what is wanted of a data list */
    const char *data, *split, *train, *val; /* split: file or NULL: one by 6:1:3 */
    const char *modalities;                 /* "t1,t1c" or NULL: all of the list */
    const char *labels;                     /* built-in definition that replaces the list's, or NULL */
    int segment, allow_absent;
    int64_t classes;                        /* 0: one more than the largest */
    uint64_t seed;
} finetune_source;

/* Loads the list, restricts it to the modalities, takes or makes the split, reads every label once: unknown values,
   labels on another grid, cases without label or class and regions or classes that never occur are errors with
   names. */
bmvp_status finetune_data_load(finetune_data *d, bmvp_ctx *c, const finetune_source *o, bmvp_error *err);
void finetune_data_free(finetune_data *d);

/* >>crops, read ahead ---------------------------------------------------------------------------------------------- */

typedef struct finetune_batch {
    int n;               /* items: this rank's share */
    bmvp_ft_draw *draw;  /* of all ranks */
    bmvp_ft_item *item;
    float *voxels; /* modalities + 1 crops for each item */
} finetune_batch;
typedef struct finetune_loader {
    const finetune_data *data;
    bmvp_ft_config cfg;
    int rank, size;
    int64_t template_grid[3];
    read_start at;
    finetune_batch batch[2]; /* in memory */
    read_buffers memory;
    read_ahead ahead;
} finetune_loader;
double finetune_loader_bytes(const finetune_data *data, const bmvp_ft_config *cfg); /* of a running loader */
bmvp_status finetune_loader_start(finetune_loader *l, const finetune_data *data, const bmvp_ft_config *cfg, int rank,
                                  int size, const int64_t template_grid[3], read_start at, bmvp_error *err);
const finetune_batch *finetune_loader_get(finetune_loader *l, int64_t step, bmvp_error *err);
void finetune_loader_stop(finetune_loader *l);

#endif
