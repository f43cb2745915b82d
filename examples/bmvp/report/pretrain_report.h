/* pretrain_report.h - the page of a pre-training run, and the templates' slices that it shows */
#ifndef PRETRAIN_REPORT_H_INCLUDED
#define PRETRAIN_REPORT_H_INCLUDED

#include "data/prepared.h"

/* Adds the templates' middle slices of this step to OUT/snapshots.safetensors. */
bmvp_status pretrain_snapshot(bmvp_ctx *c, bmvp_ssl *s, const char *out, bmvp_error *err);
/* Writes OUT/report.html from the log, the snapshots and a look at a few cases. seconds: time used so far. */
double pretrain_report_bytes(const bmvp_ssl_config *cfg); /* it needs beside a run's memory */
bmvp_status pretrain_report(bmvp_ssl *s, const prepared_set *data, const char *out, int64_t total_steps, double seconds,
                            bmvp_error *err);

#endif
