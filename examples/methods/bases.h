/* bases.h - a region cut into a grid of boxes of one size, z y x: what volume contrast (voco.c) asks crops about */
#ifndef BASES_H_INCLUDED
#define BASES_H_INCLUDED

#include "methods.h"

typedef struct bases {
    int64_t edge;      /* of the region, a cube */
    int64_t grid[3];   /* bases along each axis */
    int64_t cut[3];    /* voxels of a base in the region */
    int64_t whole[3];  /* of the region once it is resized: grid cut */
    int64_t seen[3];   /* of a base as the network sees it */
    int64_t n, voxels; /* bases; voxels of one that is seen */
    int flat;
} bases;
/* `along` bases an axis, flat 1: one along z. The region is resized to bases of `cut` voxels (0: edge / along), and
   those to `seen` for the network (0: as they are). */
bases bases_of(int64_t edge, int along, int flat, int64_t cut, int64_t seen);
/* Shares of a box of `size` from `start` that lie in each part of a grid of such boxes, the first axis slowest */
void bases_labels(const int64_t start[3], const int64_t size[3], const int64_t grid[3], float *label);
/* A region's bases, then crops of it, as they are seen; labels (crops, bases); place of the last crop, or NULL. 0: no
   memory. */
int bases_cut(const draws *r, const bases *b, const float *region, int64_t crops, float *out, float *label,
              int64_t place[3]);
/* Each of n bases and crops by itself: chances of a flip along each axis, of 1 to 3 quarter turns in the plane of x and
   y, of another brightness, by so much at most. 0: no memory. */
int bases_change(const draws *r, const bases *b, double flip, double turn, double shift, double by, int64_t n,
                 float *x);
/* Pictures of the region: all but the crop at `place` darker, and bases as bright as their numbers */
void bases_show(const bases *b, const float *region, const int64_t place[3], const float *number, float *crop,
                float *bright);

#endif
