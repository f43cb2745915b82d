/* finetune_report.h - the page of a fine-tuning run */
#ifndef FINETUNE_REPORT_H_INCLUDED
#define FINETUNE_REPORT_H_INCLUDED

#include "data/finetune_data.h"

/* Part "finetune" of OUT/report.html: losses, validation, pictures of a few validation cases. */
bmvp_status finetune_report(bmvp_ft *f, const finetune_data *d, const char *out, int64_t total, double seconds,
                            bmvp_error *err);

#endif
