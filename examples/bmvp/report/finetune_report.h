/* finetune_report.h - the page of a fine-tuning run */
#ifndef FINETUNE_REPORT_H_INCLUDED
#define FINETUNE_REPORT_H_INCLUDED

#include "data/validation.h"

/* Part "finetune" of OUT/report.html: losses, validation, pictures of a few validation cases. seen: of the last
   validation; where there was none they are predicted here. */
bmvp_status finetune_report(bmvp_ft *f, const finetune_data *d, const validation_maps *seen, const char *out,
                            int64_t total, double seconds, bmvp_error *err);

#endif
