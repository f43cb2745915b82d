/* Solutions of lesson 4: the gradient of the input by hand; what large kernels and three thin ones cost. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include <math.h>
#include <stdio.h>

enum { E = 6, CI = 3, CO = 4, K = 3 };

/* 1. x at voxel v went into y at v + 1 - k by weight k: so dL/dx[v, i] = sum over k, o of g[v + 1 - k, o] w[k, i, o], a
   convolution of g with the kernel mirrored (K - 1 - k), in which o is the input and i the output channel. */
static void input_gradient(const float *g, const float *w, float *dx)
{
    int v, k, i, o;
    for (v = 0; v < E * E * E; ++v)
        for (i = 0; i < CI; ++i) {
            float sum = 0;
            for (k = 0; k < K * K * K; ++k) {
                const int z = v / E / E + 1 - k / 9, y = v / E % E + 1 - k / 3 % 3, x = v % E + 1 - k % 3;
                if (z < 0 || z >= E || y < 0 || y >= E || x < 0 || x >= E) continue;
                for (o = 0; o < CO; ++o) sum += g[((z * E + y) * E + x) * CO + o] * w[(k * CI + i) * CO + o];
            }
            dx[v * CI + i] = sum;
        }
}

int main(void)
{
    static float x[E * E * E * CI], w[K * K * K * CI * CO], g[E * E * E * CO], hand[E * E * E * CI], op[E * E * E * CI];
    const int64_t xd[5] = { 1, E, E, E, CI }, wd[5] = { K, K, K, CI, CO }, voxels = 16 * 16 * 16, channels = 16;
    const bmvp_conv_shape same = bmvp_conv_same(1, 1);
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_rng r = bmvp_rng_make(1, 1, 0, 0);
    bmvp_tensor *leaf;
    double worst = 0;
    int i, bad;
    if (!c) return 1;
    for (i = 0; i < E * E * E * CI; ++i) x[i] = bmvp_rng_normal(&r);
    for (i = 0; i < K * K * K * CI * CO; ++i) w[i] = bmvp_rng_normal(&r);
    for (i = 0; i < E * E * E * CO; ++i) g[i] = bmvp_rng_normal(&r); /* random: ones would hide a mirrored kernel */
    leaf = bmvp_leaf(c, 5, xd, x);
    bmvp_backward_from(c, bmvp_conv3d(c, leaf, bmvp_input(c, 5, wd, w), NULL, &same), g);
    bad = bmvp_read_grad(c, leaf, op) != BMVP_OK;
    input_gradient(g, w, hand);
    for (i = 0; i < E * E * E * CI; ++i) {
        const double d = fabs((double)hand[i] - (double)op[i]);
        if (d > worst || isnan(d)) worst = d; /* a NaN stays: nothing is larger than it */
    }
    printf("gradient of x by hand and by the op: largest difference %.6f\n", worst);

    /* 2. A product for each voxel, place of the kernel, and pair of channels. */
    printf("million products: 3^3 %.1f, 5^3 %.1f, 5x1x1 and 1x5x1 and 1x1x5 %.1f\n",
           1e-6 * (double)(voxels * channels * channels * 27), 1e-6 * (double)(voxels * channels * channels * 125),
           1e-6 * (double)(voxels * channels * channels * 15));
    bmvp_destroy(c);
    return bad || !(worst < 1e-4);
}
