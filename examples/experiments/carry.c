/* carry.c - a mask on the grid of another image, by the transform files that sets publish beside their raw images */
#include "results.h"
#include <string.h>

/* The matrices lead from the mask to the image, each from points of one image to points of the next: an ITK file called
   A_to_B takes points of B to points of A, since it was made to resample A onto B. */
bmvp_status carry_mask(const char *mask_file, const char *image_file, const char *out, char **matrices, int n,
                       bmvp_error *err)
{
    double way[16] = { 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1 }, m[16];
    bmvp_nii_volume mask, image, carried;
    bmvp_status st;
    int k;
    memset(&mask, 0, sizeof mask);
    memset(&image, 0, sizeof image);
    memset(&carried, 0, sizeof carried);
    st = bmvp_nii_read_volume(&mask, mask_file, NULL, NULL, err);
    if (!st) st = bmvp_nii_read_volume(&image, image_file, NULL, NULL, err);
    for (k = 0; k < n && !st; ++k) {
        st = bmvp_nii_matrix_read(m, matrices[k], err);
        if (!st) bmvp_nii_matrix_multiply(way, m, way);
    }
    if (!st) st = bmvp_nii_affine_inverse(way, way, err);
    if (!st) st = bmvp_nii_resample_to(&carried, &mask, &image, way, BMVP_NII_NEAREST, 0, err);
    if (!st) st = bmvp_nii_write_volume(out, &carried, BMVP_NII_UINT8, 1, 0, NULL, NULL, err);
    bmvp_nii_volume_free(&mask);
    bmvp_nii_volume_free(&image);
    bmvp_nii_volume_free(&carried);
    return st;
}
