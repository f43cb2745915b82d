/* finetune.h - a fine-tuning run: its cases, their crops, validation (used by finetune.c, finetune_data.c and finetune_report.c) */
#ifndef BMVP_FINETUNE_H_INCLUDED
#define BMVP_FINETUNE_H_INCLUDED

#include "run.h"
#include "split.h"
#include "report.h"

/* ---- cases ---------------------------------------------------------------------------------------------------------------- */

typedef struct bmvp_ft_places { /* where labelled voxels are: a case's crops can be centred on them */
    int32_t *voxel;             /* (z H + y) W + x, ascending; a regular selection of at most 4096 of them */
    int64_t n;
} bmvp_ft_places;

typedef struct bmvp_ft_data {
    bmvp_prepared all;
    bmvp_split split;
    int segment;
    int classes;                        /* classification: how many */
    int64_t *train, *val, n_train, n_val; /* indices into `all` */
    bmvp_ssl_case *cases;               /* of the training cases, in the order of `train` */
    bmvp_ft_places *places;             /* the same order; segmentation */
    int64_t voxels[BMVP_MAX_REGIONS + 1]; /* training voxels (classification: cases) of each class; regions: of each region, then all */
} bmvp_ft_data;

typedef struct bmvp_ft_source { /* what is wanted of a data list */
    const char *data, *split, *train, *val; /* split: file or NULL: one by 6:1:3 */
    const char *modalities;                 /* "t1,t1c" or NULL: all of the list */
    const char *labels;                     /* built-in definition that replaces the list's, or NULL */
    int segment, allow_absent;
    int64_t classes;                        /* 0: one more than the largest */
    uint64_t seed;
} bmvp_ft_source;

/* Loads the list, restricts it to the modalities, takes or makes the split, reads every label once: unknown values, labels on another grid,
   cases without label or class and regions or classes that never occur are errors with names. */
bmvp_status bmvp_ft_data_load(bmvp_ft_data *d, bmvp_ctx *c, const bmvp_ft_source *o, bmvp_error *err);
void bmvp_ft_data_free(bmvp_ft_data *d);

/* ---- crops, read ahead ------------------------------------------------------------------------------------------------------ */

typedef struct bmvp_ft_batch {
    bmvp_ft_draw *draw;
    bmvp_ft_item *item;
    float *voxels; /* modalities + 1 crops for each item */
} bmvp_ft_batch;
typedef struct bmvp_ft_loader {
    const bmvp_ft_data *data;
    bmvp_ft_config cfg;
    int64_t template_grid[3], *order;
    bmvp_ft_batch batch[2];
    bmvp_ahead ahead;
} bmvp_ft_loader;
double bmvp_ft_loader_bytes(const bmvp_ft_data *data, const bmvp_ft_config *cfg); /* of a running loader */
bmvp_status bmvp_ft_loader_start(bmvp_ft_loader *l, const bmvp_ft_data *data, const bmvp_ft_config *cfg, const int64_t template_grid[3],
                                 int64_t first, bmvp_error *err);
const bmvp_ft_batch *bmvp_ft_loader_get(bmvp_ft_loader *l, int64_t step, bmvp_error *err);
void bmvp_ft_loader_stop(bmvp_ft_loader *l);

/* ---- validation ---------------------------------------------------------------------------------------------------------------- */

typedef struct bmvp_ft_score {
    double region[BMVP_MAX_REGIONS]; /* mean Dice over the cases in which the region occurs; NaN: in none */
    double accuracy, auc;            /* classification */
    double mean;                     /* what the best checkpoint is chosen by: mean Dice, or AUC (accuracy where that is undefined) */
} bmvp_ft_score;
double bmvp_ft_validation_bytes(const bmvp_ft_data *d, const bmvp_ft_config *cfg); /* it and the report need beside a run's memory */
bmvp_status bmvp_ft_validate(bmvp_ctx *c, bmvp_ft *f, const bmvp_ft_data *d, bmvp_ft_score *out, bmvp_error *err);
/* Label map of case i (dim voxels) as the network sees it now, and its Dice by region (NULL: not wanted). */
bmvp_status bmvp_ft_look(bmvp_ctx *c, bmvp_ft *f, const bmvp_ft_data *d, int64_t i, unsigned char *out, double *dice, bmvp_error *err);

/* ---- the report ---------------------------------------------------------------------------------------------------------------- */

/* Part "finetune" of OUT/report.html: losses, validation, pictures of a few validation cases. */
bmvp_status bmvp_ft_report(bmvp_ctx *c, bmvp_ft *f, const bmvp_ft_data *d, const char *out, int64_t total, double seconds, bmvp_error *err);

enum { BMVP_REGION_COLOURS = 8 };
extern const bmvp_report_colour bmvp_region_colour[BMVP_REGION_COLOURS]; /* of region 0, 1 ...; without names */
typedef struct bmvp_overlay_memory { float *grey, *slice; unsigned char *label, *rgb; } bmvp_overlay_memory; /* what a row's pictures point to */
/* Image, truth over it and prediction over it: the axial plane with most labelled voxels. truth, predicted: colour numbers from 1, 0 none. */
bmvp_status bmvp_overlay_row(const float *image, const unsigned char *truth, const unsigned char *predicted, const int64_t dim[3],
                             bmvp_report_picture row[3], bmvp_overlay_memory *m);
void bmvp_overlay_free(bmvp_overlay_memory *m);
/* Label values become colour numbers: the smallest region that holds the value, from 1; 0: none. */
void bmvp_region_numbers(const bmvp_labels *l, unsigned char *v, int64_t n);

#endif
