/* 02_nifti.c - read any NIfTI file, put it into the orientation and spacing a network wants, write it back

   What you learn: bmvp_nifti.h stands alone; a volume is float32 with an affine, and each transform moves both.
   Run: build/02_nifti IN.nii.gz OUT.nii.gz (under a second). It prints the grid before and after; OUT opens in any
   viewer at the same place. */
#define BMVP_NIFTI_IMPLEMENTATION
#include "bmvp_nifti.h"
#include <stdio.h>

static void show(const char *when, const bmvp_nii_volume *v)
{
    double mm[3];
    char codes[4];
    bmvp_nii_voxel_size(mm, v->affine);
    bmvp_nii_axcodes(codes, v->affine);
    printf("%-7s %lld x %lld x %lld voxels of %.2f x %.2f x %.2f mm, axes %s\n", when, (long long)v->dim[0],
           (long long)v->dim[1], (long long)v->dim[2], mm[0], mm[1], mm[2], codes);
}

int main(int argc, char **argv)
{
    const double one_mm[3] = { 1, 1, 1 };
    bmvp_nii_scale scale = { 1, 99, 0, 1, 1, 0, 0 }; /* percentiles 1 and 99 become 0 and 1, clipped */
    bmvp_error err;
    bmvp_nii_volume v;
    bmvp_nii_box box;
    if (argc != 3) {
        printf("usage: %s IN.nii[.gz] OUT.nii[.gz]\n", argv[0]);
        return 2;
    }
    if (bmvp_nii_read_volume(&v, argv[1], NULL, NULL, &err) != BMVP_OK) {
        printf("%s\n", err.message);
        return 1;
    }
    show("before", &v);
    if (bmvp_nii_orient(&v, "RAS", &err) != BMVP_OK || bmvp_nii_spacing(&v, one_mm, NULL, &err) != BMVP_OK ||
        bmvp_nii_foreground_box(&box, &v, 1, 0, &err) != BMVP_OK || bmvp_nii_crop(&v, &box, 0, &err) != BMVP_OK ||
        bmvp_nii_scale_percentiles(&v, &scale, NULL, &err) != BMVP_OK ||
        bmvp_nii_write_volume(argv[2], &v, BMVP_NII_INT16, 1.0 / 32767, 0, NULL, NULL, &err) != BMVP_OK) {
        printf("%s\n", err.message);
        bmvp_nii_volume_free(&v);
        return 1;
    }
    show("after", &v);
    bmvp_nii_volume_free(&v);
    return 0;
}
