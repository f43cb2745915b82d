/* method_report.h - the page of a pre-training run of a method of examples/methods */
#ifndef METHOD_REPORT_H_INCLUDED
#define METHOD_REPORT_H_INCLUDED

#include "data/crops.h"

typedef struct method_page {
    const method_row *row;
    bmvp_trainer *trainer;
    const prepared_set *data;
    const int64_t *grid;    /* in which crops have a place, D, H, W */
    const char *out;
    int64_t total;
    double seconds;         /* used so far */
} method_page;

/* it needs beside a run's memory */
double method_report_bytes(const method_row *row, const method_config *k, const prepared_set *data);
/* Writes OUT/report.html from the log and a look at the middle crops of a few cases: what the method did to them and
   what the network made of it. */
bmvp_status method_report(const method_page *p, bmvp_error *err);

#endif
