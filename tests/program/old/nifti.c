#define BMVP_NIFTI_IMPLEMENTATION
#include "bmvp_nifti.h"
#include <stdio.h>
int main(int argc, char **argv) {
    const double mm[3] = {1, 1, 1};
    bmvp_nii_error err;
    bmvp_nii_volume v;
    bmvp_nii_box box;
    bmvp_nii_load how = {0};
    bmvp_nii_scale scale = {1, 99, 0, 1, 1, 0};
    if (argc != 3) return 2;
    how.axcodes = "RAS";
    if (bmvp_nii_read_volume(&v, argv[1], &how, NULL, &err) != BMVP_NII_OK ||
        bmvp_nii_spacing(&v, mm, NULL, &err) != BMVP_NII_OK ||
        bmvp_nii_foreground_box(&box, &v, 1, 0, &err) != BMVP_NII_OK ||
        bmvp_nii_crop(&v, &box, 0, &err) != BMVP_NII_OK ||
        bmvp_nii_scale_percentiles(&v, &scale, NULL, &err) != BMVP_NII_OK ||
        bmvp_nii_write_volume(argv[2], &v, BMVP_NII_INT16, 1.0 / 32767, 0, NULL, NULL, &err) != BMVP_NII_OK) {
        printf("%s\n", err.message);
        return 1;
    }
    bmvp_nii_volume_free(&v);
    return 0;
}
