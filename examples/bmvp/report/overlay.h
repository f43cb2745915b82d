/* overlay.h - label maps over images, in the colours of their regions */
#ifndef OVERLAY_H_INCLUDED
#define OVERLAY_H_INCLUDED

#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "report.h"

enum { REGION_COLOURS = 8 };
/* The colours of the regions, with their names, those of a tumour in words; returns how many. */
int region_legend(const bmvp_labels *l, report_colour legend[REGION_COLOURS]);
typedef struct overlay_memory {
    float *grey, *slice;
    unsigned char *label, *rgb;
} overlay_memory; /* what a row's pictures point to */
/* Image, truth over it and prediction over it: the axial plane with most labelled voxels. truth, predicted: colour
   numbers from 1, 0 none. */
bmvp_status overlay_row(const float *image, const unsigned char *truth, const unsigned char *predicted,
                        const int64_t dim[3], report_picture row[3], overlay_memory *m);
void overlay_free(overlay_memory *m);
/* Label values become colour numbers: the smallest region that holds the value, from 1; 0: none. */
void region_numbers(const bmvp_labels *l, unsigned char *v, int64_t n);

#endif
