/* 04_convolution.c - lesson 4: a 3-D convolution by hand, and why a fast one is fast

   What you learn: the formula is eight loops, and so is a program that is right. Then the same products in other
   orders, timed: blocked, with a border of zeros in place of ifs and numbers that are used again while they are in
   registers; four at a time; and the op of the library, with wider vectors and fewer products (Winograd).
   Run:  cc -O2 -I. examples/04_convolution.c -o 04_convolution -lm -lpthread && ./04_convolution
                                                                                          (a second; compiling: 10 s)
   You see, numbers within 0.1 % or 0.001, times (#) as your machine is:
   | 16^3 voxels, 16 -> 16 channels, kernel 3^3, zeros around: 28.3 million products
   | naive # ms
   | blocked # ms, largest difference from naive 0.00000
   | vector # ms, largest difference from naive 0.00000
   | conv3d # ms, largest difference from naive 0.00000
   | y at the first voxel -0.0482 and in the middle -0.3914, sum of squares 1641457
   | gradient of w by hand and by the op: largest difference 0.00000
   Exercises:
   1. The gradient of x by hand. Hint: it is a convolution of the gradient of y, with the kernel mirrored and its two
      channel axes exchanged.
   2. What does the naive loop cost with kernels of 5^3, and what do three convolutions in a row, 5x1x1, 1x5x1, 1x1x5?
      Count the products. Hint: 125 against 15.
   In the headers: bmvp_tensor.h >>op conv3d (the same loops, and both gradients), >>kernel conv for the fast one.
   At length, with Winograd and the GPU: conv3d.md. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { E = 16, CI = 16, CO = 16, K = 3, B = E + 2 }; /* B: with a border of one voxel */
static float x[E * E * E * CI], w[K * K * K * CI * CO], y[E * E * E * CO], first[E * E * E * CO];
static float bordered[B * B * B * CI];

/* Numbers between -1 and 1 that the twin in PyTorch makes, too. */
static void fill(float *v, int64_t n, int64_t salt)
{
    int64_t i;
    for (i = 0; i < n; ++i) v[i] = (float)((i * 7919 + salt * 104729) % 2003) / 1001.5f - 1;
}

/* y[z,y,x,o] = sum over kernel places and input channels of x[z + kz - 1, ...] w[kz,ky,kx,i,o]; outside x is 0 */
static void naive(void)
{
    int z, r, c, o, kz, ky, kx, i; /* r, c: row and column */
    for (z = 0; z < E; ++z)
        for (r = 0; r < E; ++r)
            for (c = 0; c < E; ++c)
                for (o = 0; o < CO; ++o) {
                    float sum = 0;
                    for (kz = 0; kz < K; ++kz)
                        for (ky = 0; ky < K; ++ky)
                            for (kx = 0; kx < K; ++kx) {
                                const int a = z + kz - 1, b = r + ky - 1, d = c + kx - 1;
                                if (a < 0 || a >= E || b < 0 || b >= E || d < 0 || d >= E) continue;
                                for (i = 0; i < CI; ++i)
                                    sum += x[((a * E + b) * E + d) * CI + i] *
                                           w[(((kz * K + ky) * K + kx) * CI + i) * CO + o];
                            }
                    y[((z * E + r) * E + c) * CO + o] = sum;
                }
}

/* Where output voxel (z, r, c) finds its input at kernel place k, in the copy that has a border. */
static const float *input_of(int z, int r, int c, int k)
{
    return bordered + (((z + k / 9) * B + r + k / 3 % 3) * B + c + k % 3) * CI;
}
static void add_border(void)
{
    int z, r;
    for (z = 0; z < E; ++z)
        for (r = 0; r < E; ++r)
            memcpy(bordered + (((z + 1) * B + r + 1) * B + 1) * CI, x + (z * E + r) * E * CI, E * CI * sizeof *x);
}

/* No ifs; output channels innermost, so that weights are read in the order in which they lie; four voxels of a row at
   once, so that each weight that was read is used four times. */
static void blocked(void)
{
    int v, k, i, o, n;
    add_border();
    for (v = 0; v < E * E * E; v += 4) {
        float sum[4][CO] = { { 0 } };
        for (k = 0; k < 27; ++k) {
            const float *in = input_of(v / E / E, v / E % E, v % E, k);
            for (i = 0; i < CI; ++i)
                for (o = 0; o < CO; ++o)
                    for (n = 0; n < 4; ++n) sum[n][o] += in[n * CI + i] * w[(k * CI + i) * CO + o];
        }
        memcpy(y + v * CO, sum, sizeof sum);
    }
}

/* The same four voxels, four channels in one register, sixteen sums at a time. */
typedef float four __attribute__((vector_size(16)));
static void vectors(void)
{
    int v, k, i, o, n;
    add_border();
    for (v = 0; v < E * E * E; v += 4)
        for (o = 0; o < CO; o += 8) {
            four sum[4][2], weight[2];
            memset(sum, 0, sizeof sum);
            for (k = 0; k < 27; ++k) {
                const float *in = input_of(v / E / E, v / E % E, v % E, k);
                for (i = 0; i < CI; ++i) {
                    memcpy(weight, w + (k * CI + i) * CO + o, sizeof weight);
                    for (n = 0; n < 4; ++n) {
                        sum[n][0] += weight[0] * in[n * CI + i];
                        sum[n][1] += weight[1] * in[n * CI + i];
                    }
                }
            }
            for (n = 0; n < 4; ++n) memcpy(y + (v + n) * CO + o, sum[n], sizeof sum[n]);
        }
}

static double difference(const float *a, const float *b, int n)
{
    double worst = 0;
    int i;
    for (i = 0; i < n; ++i) {
        const double d = fabs((double)a[i] - (double)b[i]);
        if (d > worst || isnan(d)) worst = d; /* a NaN stays: nothing is larger than it */
    }
    return worst;
}

static void timed(const char *name, void (*convolve)(void))
{
    clock_t best = 0, t;
    int i;
    for (i = 0; i < 3; ++i) {
        t = clock();
        convolve();
        t = clock() - t;
        if (!i || t < best) best = t;
    }
    printf("%s %.2f ms", name, 1e3 * (double)best / CLOCKS_PER_SEC);
    if (convolve == naive) memcpy(first, y, sizeof y), printf("\n");
    else printf(", largest difference from naive %.5f\n", difference(y, first, E * E * E * CO));
}

static bmvp_ctx *ctx;
static void by_library(void)
{
    const int64_t xd[5] = { 1, E, E, E, CI }, wd[5] = { K, K, K, CI, CO };
    const bmvp_conv_shape same = bmvp_conv_same(1, 1); /* stride 1, one voxel of zeros around */
    bmvp_step_begin(ctx);
    bmvp_read(ctx, bmvp_conv3d(ctx, bmvp_input(ctx, 5, xd, x), bmvp_input(ctx, 5, wd, w), NULL, &same), y);
}

/* dL/dw[k,i,o] = sum over voxels of x at the kernel's place times the gradient g of y; L = sum y g. */
static double weight_gradient(const float *g)
{
    static float by_hand[K * K * K * CI * CO], by_op[K * K * K * CI * CO];
    const int64_t xd[5] = { 1, E, E, E, CI }, wd[5] = { K, K, K, CI, CO };
    const bmvp_conv_shape same = bmvp_conv_same(1, 1);
    bmvp_tensor *leaf, *t;
    int v, k, i, o;
    for (k = 0; k < 27; ++k)
        for (v = 0; v < E * E * E; ++v)
            for (i = 0; i < CI; ++i)
                for (o = 0; o < CO; ++o)
                    by_hand[(k * CI + i) * CO + o] += input_of(v / E / E, v / E % E, v % E, k)[i] * g[v * CO + o] / 64;
    bmvp_step_begin(ctx);
    leaf = bmvp_leaf(ctx, 5, wd, w);
    t = bmvp_conv3d(ctx, bmvp_input(ctx, 5, xd, x), leaf, NULL, &same);
    bmvp_backward_from(ctx, bmvp_scale(ctx, t, 1.0 / 64, 0), g);
    return bmvp_read_grad(ctx, leaf, by_op) ? HUGE_VAL : difference(by_hand, by_op, K * K * K * CI * CO);
}

int main(void)
{
    const int middle = ((E / 2 * E + E / 2) * E + E / 2) * CO;
    bmvp_config cfg = bmvp_config_default();
    double squares = 0;
    int i;
    cfg.threads = 1; /* as many as the loops have */
    ctx = bmvp_create(&cfg, NULL);
    if (!ctx) return 1;
    fill(x, E * E * E * CI, 1);
    fill(w, K * K * K * CI * CO, 2);
    printf("%d^3 voxels, %d -> %d channels, kernel %d^3, zeros around: %.1f million products\n", E, CI, CO, K,
           1e-6 * (double)(E * E * E * 27 * CI * CO));
    timed("naive", naive);
    timed("blocked", blocked);
    timed("vector", vectors);
    timed("conv3d", by_library);
    for (i = 0; i < E * E * E * CO; ++i) squares += (double)y[i] * (double)y[i];
    printf("y at the first voxel %.4f and in the middle %.4f, sum of squares %.0f\n", (double)y[0], (double)y[middle],
           squares);
    printf("gradient of w by hand and by the op: largest difference %.5f\n", weight_gradient(first));
    bmvp_destroy(ctx);
    return 0;
}
