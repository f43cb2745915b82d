/* Solutions of lesson 1: the place of a voxel in memory; a volume and its mirror image as two channels. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include <stdio.h>

/* 1. Each axis steps over the product of the axes behind it; the first, of one sample, never steps. */
static int64_t at(const int64_t dim[5], int64_t z, int64_t y, int64_t x, int64_t channel)
{
    return ((z * dim[2] + y) * dim[3] + x) * dim[4] + channel;
}

/* 2. (1, D, H, W, 1) -> (1, D, H, W, 2): with one channel a row is a voxel, and a mirror image is an order of rows. */
static bmvp_tensor *with_mirror(bmvp_ctx *c, bmvp_tensor *x, int32_t *order)
{
    bmvp_tensor *two[2];
    int64_t i;
    const int64_t width = x->dim[3];
    for (i = 0; i < x->numel; ++i) order[i] = (int32_t)(i - i % width + width - 1 - i % width);
    two[0] = x;
    two[1] = bmvp_reshape(c, bmvp_gather_rows(c, x, x->numel, order), 5, x->dim);
    return bmvp_concat(c, 2, two, 4);
}

int main(void)
{
    const int64_t shown[5] = { 1, 2, 3, 4, 2 }, dim[5] = { 1, 3, 4, 5, 1 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    float x[60], both[120];
    int32_t order[60];
    int64_t z, y, k;
    int i, wrong;
    if (!c) return 1;
    wrong = at(shown, 1, 2, 3, 1) != 47; /* what the lesson prints */
    for (i = 0; i < 60; ++i) x[i] = (float)i;
    bmvp_read(c, with_mirror(c, bmvp_input(c, 5, dim, x), order), both);
    for (z = 0; z < 3; ++z)
        for (y = 0; y < 4; ++y)
            for (k = 0; k < 5; ++k) {
                const int64_t two = 2 * at(dim, z, y, k, 0);
                wrong += both[two] != x[at(dim, z, y, k, 0)] || both[two + 1] != x[at(dim, z, y, 4 - k, 0)];
            }
    printf("place of the lesson's voxel: %d; %d of 60 voxels wrong in the volume and its mirror image\n",
           (int)at(shown, 1, 2, 3, 1), wrong);
    wrong += bmvp_failed(c);
    bmvp_destroy(c);
    return wrong != 0;
}
