/* overlap.h - how well two masks on one grid agree. After bmvp_nifti.h. */
#ifndef BMVP_TEST_OVERLAP_H
#define BMVP_TEST_OVERLAP_H

/* Dice of the voxels above 0 */
static inline double dice(const bmvp_nii_volume *a, const bmvp_nii_volume *b)
{
    const int64_t n = a->dim[0] * a->dim[1] * a->dim[2];
    int64_t i, both = 0, sum = 0;
    for (i = 0; i < n; ++i) {
        both += a->data[i] > 0 && b->data[i] > 0;
        sum += (a->data[i] > 0) + (b->data[i] > 0);
    }
    return 2 * (double)both / (double)sum;
}

#endif
