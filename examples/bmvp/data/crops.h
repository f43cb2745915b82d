/* crops.h - the crops of pre-training's steps, read ahead */
#ifndef CROPS_H_INCLUDED
#define CROPS_H_INCLUDED

#include "ahead.h"
#include "prepared.h"
#include "../../methods/methods.h"

typedef struct crop_batch { /* a step */
    int n;
    bmvp_ssl_draw *draw; /* n, of all ranks */
    bmvp_ssl_item *item; /* this rank's share of each pass, one pass after the other */
    float *voxels;       /* for each item its crop and what is wanted besides */
} crop_batch;

typedef struct crop_loader {
    const prepared_set *data;
    bmvp_ssl_config cfg;
    int rank, size;
    method_wants wants;
    int64_t template_grid[3];
    read_start at;
    crop_batch batch[2]; /* in memory */
    read_buffers memory;
    read_ahead ahead;
} crop_loader;

/* A crop of case i in modality m, of edge^3 voxels from start, and behind it in x what is wanted besides: of modality
   `other` (-1: there is none), or of case `other`. Sets t->x, t->other and t->modality. */
bmvp_status crop_read(const prepared_set *p, method_wants wants, int64_t i, int m, int64_t other,
                      const int64_t start[3], int64_t edge, float *x, bmvp_ssl_item *t, bmvp_error *err);
int crop_count(const prepared_set *p, method_wants wants); /* crops of an item, with what is wanted besides */

double crop_loader_bytes(const prepared_set *data, const bmvp_ssl_config *cfg, int size,
                         method_wants wants); /* of a running loader of one of `size` ranks */
bmvp_status crop_loader_start(crop_loader *l, const prepared_set *data, const bmvp_ssl_config *cfg, int rank, int size,
                              const int64_t template_grid[3], read_start at, method_wants wants, bmvp_error *err);
/* Where the pass that begins with draw `from` ends: draws of one modality slot. */
int crop_batch_pass(const crop_batch *b, const bmvp_ssl_config *cfg, int from);
/* Valid until the next call. NULL and err on a file error. */
const crop_batch *crop_loader_get(crop_loader *l, int64_t step, bmvp_error *err);
void crop_loader_stop(crop_loader *l);

#endif
