/* validation.h - what a network that is being fine-tuned makes of whole cases */
#ifndef VALIDATION_H_INCLUDED
#define VALIDATION_H_INCLUDED

#include "finetune_data.h"

typedef struct validation_score {
    double region[BMVP_MAX_REGIONS]; /* mean Dice over the cases in which the region occurs; NaN: in none */
    double accuracy, auc;            /* classification */
    double mean; /* what the best checkpoint is chosen by: mean Dice, or AUC (accuracy where that is undefined) */
} validation_score;
enum { VALIDATION_MAPS = 3 };
typedef struct validation_maps { /* what the last validation made of the first cases; all zero: there was none */
    int n;
    int64_t step;                /* of the run */
    unsigned char *map[VALIDATION_MAPS];
    double dice[VALIDATION_MAPS][BMVP_MAX_REGIONS];
} validation_maps;
void validation_maps_free(validation_maps *m);
double validation_bytes(const finetune_data *d,
                        const bmvp_ft_config *cfg); /* it and the report need beside a run's memory */
/* Segmentation: maps of the first cases are kept in m, none of them after a failure. */
bmvp_status validation_run(bmvp_ft *f, const finetune_data *d, validation_score *out, validation_maps *m,
                           bmvp_error *err);
/* Label map of case i (dim voxels) as the network sees it now, and its Dice by region (NULL: not wanted). */
bmvp_status validation_look(bmvp_ft *f, const finetune_data *d, int64_t i, unsigned char *out, double *dice,
                            bmvp_error *err);

#endif
