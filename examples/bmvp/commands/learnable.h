/* learnable.h - what cannot be learned with these data and settings, said before the first step */
#ifndef LEARNABLE_H_INCLUDED
#define LEARNABLE_H_INCLUDED

#include "data/finetune_data.h"

/* Prints a line for each task that these cases, this batch (shared by so many ranks) and this length (steps, samples)
   leave nothing to learn from. say 0: prints nothing. BMVP_E_ARG: that is true of all of them. */
bmvp_status learnable_tasks(const prepared_set *p, const bmvp_ssl_config *cfg, int ranks, int64_t steps,
                            int64_t samples, int say, bmvp_error *err);
/* .. for each class or region without a voxel (or case), and for what cannot be validated. */
void learnable_labels(const finetune_data *d, const bmvp_ft_config *cfg, int64_t steps);

#endif
