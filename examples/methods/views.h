/* views.h - what makes a view of a cubic crop, edge^3 voxels in [0, 1], z y x: resizing, light, blur, flips, bending;
   of 1024 voxels along an axis at most */
#ifndef VIEWS_H_INCLUDED
#define VIEWS_H_INCLUDED

#include <stdint.h>

/* The sub-cube of size^3 voxels at `at` as edge^3: linear, their outer faces in one place (align_corners = False). */
void view_resize(int64_t edge, const int64_t at[3], int64_t size, const float *crop, float *view);
/* The box of size[3] voxels at `at` of a volume of d = D, H, W as to[3] voxels: linear, their outermost voxels in one
   place (align_corners = True). As many as there are: a copy. */
void view_cut(const int64_t d[3], const float *x, const int64_t at[3], const int64_t size[3], const int64_t to[3],
              float *view);
/* Times light, then the distance to the mean times contrast, cut to [0, 1]. */
void view_jitter(int64_t edge, double light, double contrast, float *view);
/* Gaussian of so many voxels, up to three of them, the outermost voxel repeated outside. scratch: edge^3 */
void view_blur(int64_t edge, double sigma, float *view, float *scratch);
void view_solarize(int64_t edge, float *view); /* 1 - v from 0.5 on */
void view_flip(int64_t edge, float *view);     /* left and right: along x */
/* Displacements in voxels of noise in [0, 1): 991 (2 noise - 1), smoothed by a Gaussian of 8 voxels up to 32 of them,
   zeros outside. scratch: as many */
void view_field(const int64_t d[3], const float *noise, double *field, double *scratch);
/* x of d = D, H, W at (i + dy, j + dx, k), linear, mirrored at the outer faces (d c b a | a b c d | d c b a). */
void view_bend(const int64_t d[3], const double *dx, const double *dy, const float *x, float *view);

#endif
