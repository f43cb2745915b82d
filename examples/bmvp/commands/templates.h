/* templates.h - whether fine-tuning needs the templates of --init, and whether they fit its cases */
#ifndef TEMPLATES_H_INCLUDED
#define TEMPLATES_H_INCLUDED

#include "data/finetune_data.h"

/* 1: a template may be looked at: copies drop modalities, or a case to train or to validate lacks one. */
int templates_used(const finetune_data *d, const bmvp_ft_config *cfg);
/* grid: that of the templates of the checkpoint `init` (0: it has none). why: why they are of no use for these cases,
   which were prepared so (JSON); "" when they fit. Fails when the file cannot be read. */
bmvp_status templates_look(const char *init, const finetune_data *d, const char *preparation, int64_t grid[3],
                           char *why, size_t size, bmvp_error *err);

#endif
