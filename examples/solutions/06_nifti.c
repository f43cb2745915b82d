/* Solutions of lesson 6: which voxel holds a place; a turn that changes the affine and no voxel. */
#define BMVP_IMPLEMENTATION
#include "bmvp_nifti.h"
#include <math.h>
#include <stdio.h>

static void map(double out[3], const double m[16], const double p[3])
{
    int i;
    for (i = 0; i < 3; ++i) out[i] = m[4 * i] * p[0] + m[4 * i + 1] * p[1] + m[4 * i + 2] * p[2] + m[4 * i + 3];
}

int main(void)
{
    const double affine_a[16] = { 1, 0, 0, -24, 0, 1, 0, -28, 0, 0, 1, -20, 0, 0, 0, 1 };
    const double affine_b[16] = { 0, 0, -2, 23, 0, -1, 0, 27, 2, 0, 0, -20, 0, 0, 0, 1 };
    const double turn[16] = { 0, -1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1 }; /* x becomes y, y becomes -x */
    const double place[3] = { 9, 0, 0 };
    double back[16], turned[16], voxel[3], there[3];
    bmvp_error err;
    char codes[4];
    int bad;
    if (bmvp_nii_affine_inverse(back, affine_b, &err) != BMVP_OK) return 1;
    map(voxel, back, place);
    printf("9 0 0 mm is voxel %.0f %.0f %.0f of b\n", voxel[0], voxel[1], voxel[2]);
    map(there, affine_b, voxel);
    bad = fabs(voxel[0] - 10) + fabs(voxel[1] - 27) + fabs(voxel[2] - 7) > 1e-9 || fabs(there[0] - 9) > 1e-9;

    /* First the old affine, then the turn: the numbers stay where they lie, their places move. */
    bmvp_nii_matrix_multiply(turned, turn, affine_a);
    bmvp_nii_axcodes(codes, turned);
    if (bmvp_nii_affine_inverse(back, affine_a, &err) != BMVP_OK) return 1;
    map(voxel, back, place); /* the lesion's voxel */
    map(there, turned, voxel);
    printf("a turned: axes %s, its lesion at %.0f %.0f %.0f mm\n", codes, there[0], there[1], there[2]);
    bad |= fabs(there[0]) + fabs(there[1] - 9) + fabs(there[2]) > 1e-9;
    return bad || codes[0] != 'A' || codes[1] != 'L' || codes[2] != 'S';
}
