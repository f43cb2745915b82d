/* validation.h - what a network that is being fine-tuned makes of whole cases */
#ifndef VALIDATION_H_INCLUDED
#define VALIDATION_H_INCLUDED

#include "finetune_data.h"

typedef struct validation_score {
    double region[BMVP_MAX_REGIONS]; /* mean Dice over the cases in which the region occurs; NaN: in none */
    double accuracy, auc;            /* classification */
    double mean; /* what the best checkpoint is chosen by: mean Dice, or AUC (accuracy where that is undefined) */
} validation_score;
double validation_bytes(const finetune_data *d,
                        const bmvp_ft_config *cfg); /* it and the report need beside a run's memory */
bmvp_status validation_run(bmvp_ft *f, const finetune_data *d, validation_score *out, bmvp_error *err);
/* Label map of case i (dim voxels) as the network sees it now, and its Dice by region (NULL: not wanted). */
bmvp_status validation_look(bmvp_ft *f, const finetune_data *d, int64_t i, unsigned char *out, double *dice,
                            bmvp_error *err);

#endif
