/* motion.c - moving and bending volumes, with a gradient to what moves them: affine matrices, displacements, smoothed
   noise; and what says how well two volumes are aligned. GVSL (gvsl.c) learns and augments by them. */
#include "methods.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Sum of k[i] x^(2 i), times x if odd: sines and tangents of the small angles that there are here, to float32. */
static bmvp_tensor *series(bmvp_ctx *c, bmvp_tensor *x, const double k[5], int odd)
{
    bmvp_tensor *square = bmvp_mul(c, x, x), *y = bmvp_scale(c, square, k[4], k[3]);
    int i;
    for (i = 2; i >= 0; --i) y = bmvp_scale(c, bmvp_mul(c, y, square), 1, k[i]);
    return odd ? bmvp_mul(c, y, x) : y;
}

/* A 3 x 3 matrix: numbers v (1, n) at place[0..count), number, sign each; and ones where `one` has a bit. */
static bmvp_tensor *matrix(bmvp_ctx *c, bmvp_tensor *v, int count, const int (*place)[3], unsigned one)
{
    float put[6 * 9] = { 0 }, base[9];
    const int64_t square[2] = { 3, 3 };
    int64_t dim[2] = { 0, 9 };
    int i;
    if (!v) return NULL;
    for (i = 0; i < 9; ++i) base[i] = (float)(one >> i & 1u);
    for (i = 0; i < count; ++i) put[place[i][1] * 9 + place[i][0]] = (float)place[i][2];
    dim[0] = v->dim[1];
    v = bmvp_matmul(c, v, bmvp_input(c, 2, dim, put), 0, 0);
    dim[0] = 1;
    return bmvp_reshape(c, bmvp_add(c, v, bmvp_input(c, 2, dim, base)), 2, square);
}

/* (3, 4) = [H S Rz Ry Rx | shift] of angles (1, 3), scales (1, 3), shifts (1, 3) and shears (1, 6). */
bmvp_tensor *motion_matrix(bmvp_ctx *c, bmvp_tensor *angle, bmvp_tensor *scale, bmvp_tensor *shift, bmvp_tensor *shear)
{
    static const double sine[5] = { 1, -1 / 6.0, 1 / 120.0, -1 / 5040.0, 1 / 362880.0 },
                        cosine[5] = { 1, -1 / 2.0, 1 / 24.0, -1 / 720.0, 1 / 40320.0 },
                        tangent[5] = { 1, 1 / 3.0, 2 / 15.0, 17 / 315.0, 62 / 2835.0 };
    static const int diagonal[3][3] = { { 0, 0, 1 }, { 4, 1, 1 }, { 8, 2, 1 } },
                     beside[6][3] = { { 1, 0, 1 }, { 2, 1, 1 }, { 3, 2, 1 }, { 5, 3, 1 }, { 6, 4, 1 }, { 7, 5, 1 } };
    const int64_t column[2] = { 3, 1 };
    bmvp_tensor *part[2], *m = NULL, *turn;
    int a;
    part[0] = series(c, angle, sine, 1), part[1] = series(c, angle, cosine, 0);
    turn = bmvp_concat(c, 2, part, 1);
    for (a = 0; a < 3; ++a) {
        const int p = (a + 1) % 3, q = (a + 2) % 3;
        const int place[4][3] = { { 4 * p, 3 + a, 1 }, { 4 * q, 3 + a, 1 }, { 3 * p + q, a, -1 }, { 3 * q + p, a, 1 } };
        bmvp_tensor *r = matrix(c, turn, 4, place, 1u << (4 * a));
        m = a ? bmvp_matmul(c, r, m, 0, 0) : r;
    }
    m = bmvp_matmul(c, matrix(c, scale, 3, diagonal, 0), m, 0, 0);
    part[0] = bmvp_matmul(c, matrix(c, series(c, shear, tangent, 1), 6, beside, 0x111u), m, 0, 0);
    part[1] = bmvp_reshape(c, shift, 2, column);
    return bmvp_concat(c, 2, part, 1);
}

/* x (1, D, H, W, C) under a matrix of (x, y, z, 1) from -1 to 1, whose first row is the last axis, shifts in voxels. */
bmvp_tensor *motion_affine(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *m)
{
    const int64_t *d = x ? x->dim + 1 : NULL, n = x ? d[0] * d[1] * d[2] : 0, rows[2] = { 3, 4 }, square[2] = { 3, 3 };
    int64_t dim[5] = { 1, 0, 0, 0, 3 }, i;
    float factor[12], flip[9] = { 0 }, offset[12] = { 0 }, *at;
    bmvp_tensor *p;
    if (!x || !m) return NULL;
    at = (float *)malloc((size_t)(4 * n) * sizeof *at);
    if (!at) return (bmvp_tensor *)bmvp_fail(c, BMVP_E_OOM, "motion: no memory for positions");
    for (i = 0; i < 12; ++i) factor[i] = i % 4 == 3 ? 1 / (float)d[i / 4] : 1;
    for (i = 0; i < 3; ++i) flip[3 * i + 2 - i] = (float)d[i] / 2, offset[4 * i + 3] = (float)(d[i] - 1) / 2;
    for (i = 0; i < n; ++i) {
        at[4 * i] = (float)((2 * (double)(i % d[2]) + 1) / (double)d[2] - 1);
        at[4 * i + 1] = (float)((2 * (double)(i / d[2] % d[1]) + 1) / (double)d[1] - 1);
        at[4 * i + 2] = (float)((2 * (double)(i / (d[1] * d[2])) + 1) / (double)d[0] - 1);
        at[4 * i + 3] = 1;
    }
    m = bmvp_mul(c, m, bmvp_input(c, 2, rows, factor));
    m = bmvp_add(c, bmvp_matmul(c, bmvp_input(c, 2, square, flip), m, 0, 0), bmvp_input(c, 2, rows, offset));
    dim[0] = n, dim[1] = 4;
    p = bmvp_matmul(c, bmvp_input(c, 2, dim, at), m, 0, 1);
    free(at);
    memcpy(dim + 1, d, 3 * sizeof *d), dim[0] = 1;
    return bmvp_grid_sample3d(c, x, bmvp_reshape(c, p, 5, dim));
}

/* x (1, D, H, W, C) at every voxel's place + flow (1, D, H, W, 3), by the code's scale. */
bmvp_tensor *motion_warp(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *flow)
{
    const int64_t three = 3, n = flow ? flow->numel : 0;
    float stretch[3], *at = (float *)malloc((size_t)n * sizeof *at + 1);
    int64_t i;
    if (!flow || !at) {
        free(at);
        return flow ? (bmvp_tensor *)bmvp_fail(c, BMVP_E_OOM, "motion: no memory for positions") : NULL;
    }
    for (i = 0; i < 3; ++i) stretch[i] = (float)((double)flow->dim[1 + i] / (double)(flow->dim[1 + i] - 1));
    for (i = 0; i < n; ++i) {
        const int64_t v = i / 3, *d = flow->dim + 1;
        const int64_t place = i % 3 == 0 ? v / (d[1] * d[2]) : i % 3 == 1 ? v / d[2] % d[1] : v % d[2];
        at[i] = (float)((double)place * (double)stretch[i % 3] - 0.5);
    }
    flow = bmvp_add(c, bmvp_mul(c, flow, bmvp_input(c, 1, &three, stretch)), bmvp_input(c, 5, flow->dim, at));
    free(at);
    return bmvp_grid_sample3d(c, x, flow);
}

/* Noise (D, H, W) smoothed by a Gaussian that ends at `radius` voxels, zeros outside: a matrix along each axis. */
bmvp_tensor *motion_smooth(bmvp_ctx *c, bmvp_tensor *noise, double sigma, int radius)
{
    static const int turn[3] = { 1, 2, 0 };
    int a;
    for (a = 0; a < 3 && noise; ++a) {
        const int64_t n = noise->dim[0], flat[2] = { n, noise->numel / n }, square[2] = { n, n };
        const int64_t dim[3] = { n, noise->dim[1], noise->dim[2] };
        float *band = (float *)calloc((size_t)(n * n), sizeof *band);
        double sum = 0;
        int64_t i, j;
        if (!band) return (bmvp_tensor *)bmvp_fail(c, BMVP_E_OOM, "motion: no memory for a filter");
        for (i = -radius; i <= radius; ++i) sum += exp(-0.5 * (double)(i * i) / (sigma * sigma));
        for (i = 0; i < n; ++i)
            for (j = 0; j < n; ++j)
                if (i - j <= radius && j - i <= radius)
                    band[i * n + j] = (float)(exp(-0.5 * (double)((i - j) * (i - j)) / (sigma * sigma)) / sum);
        noise = bmvp_matmul(c, bmvp_input(c, 2, square, band), bmvp_reshape(c, noise, 2, flat), 0, 0);
        noise = bmvp_permute(c, bmvp_reshape(c, noise, 3, dim), turn);
        free(band);
    }
    return noise;
}

/* Displacements (1, D, H, W, 3) of noise, three volumes in [0, 1): smoothed, times alpha, and half a voxel where a side
   is even, as the code of GVSL has it. */
bmvp_tensor *motion_field(bmvp_ctx *c, const int64_t d[3], const float *noise, double alpha, double sigma)
{
    const int64_t n = d[0] * d[1] * d[2], dim[5] = { 1, d[0], d[1], d[2], 1 };
    bmvp_tensor *axis[3], *u;
    int a;
    for (a = 0; a < 3; ++a) {
        u = bmvp_scale(c, bmvp_input(c, 3, d, noise + a * n), 2, -1);
        u = motion_smooth(c, u, sigma, (int)(4 * sigma + 0.5));
        axis[a] = bmvp_reshape(c, bmvp_scale(c, u, alpha, d[a] % 2 ? 0 : 0.5), 5, dim);
    }
    return bmvp_concat(c, 3, axis, 4);
}

static bmvp_tensor *between(bmvp_ctx *c, const draws *r, int n, double low, double high)
{
    const int64_t dim[2] = { 1, n };
    float x[6];
    int i;
    for (i = 0; i < n; ++i) x[i] = (float)(low + (high - low) * r->uniform(r->user));
    return bmvp_input(c, 2, dim, x);
}

/* x (1, edge, edge, edge, C) moved and bent, all channels alike: up to this share of turns of 20 degrees, sizes of a
   quarter, shears of 10 degrees, shifts of a tenth, and displacements of noise times `bend`. */
bmvp_tensor *motion_augment(bmvp_ctx *c, const draws *r, double share, double bend, int edge, bmvp_tensor *x)
{
    const double turn = share * acos(-1.0) / 9, size = share * 0.25, far = share * 0.1 * edge;
    const int64_t d[3] = { edge, edge, edge }, n = d[0] * d[1] * d[2];
    bmvp_tensor *angle = between(c, r, 3, -turn, turn), *scale = between(c, r, 3, 1 - size, 1 + size),
                *shear = between(c, r, 6, -turn / 2, turn / 2), *shift = between(c, r, 3, -far, far);
    const double alpha = bend * r->uniform(r->user), sigma = 10 + 3 * r->uniform(r->user);
    float *noise = (float *)malloc(3 * (size_t)n * sizeof *noise);
    if (!noise) return (bmvp_tensor *)bmvp_fail(c, BMVP_E_OOM, "motion: no memory for noise");
    r->noise(r->user, 3 * n, noise);
    x = motion_affine(c, x, motion_matrix(c, angle, scale, shift, shear));
    x = motion_warp(c, x, motion_field(c, d, noise, alpha, sigma));
    free(noise);
    return x;
}

/* >>alignment ------------------------------------------------------------------------------------------------------ */

/* Sums of a a, a b, b b about the means of windows of 9^3, counted as 729 also at the border. */
void motion_products(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b, bmvp_tensor *s[3])
{
    bmvp_tensor *x[2], *sum[2];
    int i;
    x[0] = a, x[1] = b;
    for (i = 0; i < 2; ++i) sum[i] = bmvp_box_sum3d(c, x[i], 9);
    for (i = 0; i < 3; ++i) {
        s[i] = bmvp_box_sum3d(c, bmvp_mul(c, x[i / 2], x[(i + 1) / 2]), 9);
        s[i] = bmvp_sub(c, s[i], bmvp_scale(c, bmvp_mul(c, sum[i / 2], sum[(i + 1) / 2]), 1 / 729.0, 0));
    }
}

/* 1 - mean squared correlation in these windows. */
bmvp_tensor *motion_correlation(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b)
{
    bmvp_tensor *s[3];
    motion_products(c, a, b, s);
    a = bmvp_div(c, bmvp_mul(c, s[1], s[1]), bmvp_scale(c, bmvp_mul(c, s[0], s[2]), 1, 1e-5));
    return bmvp_scale(c, bmvp_mean(c, a), -1, 1);
}

/* Mean square of the differences of neighbours, over the three axes. */
bmvp_tensor *motion_smoothness(bmvp_ctx *c, bmvp_tensor *flow)
{
    bmvp_tensor *sum = NULL, *d;
    int a;
    for (a = 1; a < 4 && flow; ++a) {
        d = bmvp_mse(c, bmvp_slice(c, flow, a, 1, flow->dim[a] - 1), bmvp_slice(c, flow, a, 0, flow->dim[a] - 1));
        sum = a > 1 ? bmvp_add(c, sum, d) : d;
    }
    return bmvp_scale(c, sum, 1 / 3.0, 0);
}
