/* views.c - see views.h */
#include "views.h"
#include <math.h>
#include <string.h>

enum { LONGEST = 1024, REACH = 16, FAR = 32 }; /* edge, voxels of a blur and of a field's kernel to each side */

/* Where the voxels of a view lie along an axis of the volume: between two of its voxels, how far from the lower one */
typedef struct axis { int32_t low[LONGEST], high[LONGEST]; float share[LONGEST]; } axis;

static void set_place(axis *a, int64_t i, double from, int64_t size)
{
    a->low[i] = (int32_t)from;
    a->high[i] = a->low[i] + (a->low[i] < size - 1);
    a->share[i] = (float)(from - a->low[i]);
}

/* The view (to voxels) of the box at `at` of a volume whose rows are d[2] long, d[1] in a plane */
static void sample(const int64_t d[3], const float *x, const int64_t at[3], const axis *const a[3], const int64_t to[3],
                   float *view)
{
    int64_t z, y, v;
    int i;
    for (z = 0; z < to[0]; ++z)
        for (y = 0; y < to[1]; ++y) {
            const float wz = a[0]->share[z], wy = a[1]->share[y];
            const float *row[4];
            for (i = 0; i < 4; ++i)
                row[i] = x + (((at[0] + (i / 2 ? a[0]->high[z] : a[0]->low[z])) * d[1] + at[1] +
                               (i % 2 ? a[1]->high[y] : a[1]->low[y])) * d[2] + at[2]);
            for (v = 0; v < to[2]; ++v) {
                const int32_t low = a[2]->low[v], high = a[2]->high[v];
                float u[4];
                for (i = 0; i < 4; ++i) u[i] = row[i][low] + (row[i][high] - row[i][low]) * a[2]->share[v];
                u[0] += (u[1] - u[0]) * wy;
                u[2] += (u[3] - u[2]) * wy;
                *view++ = u[0] + (u[2] - u[0]) * wz;
            }
        }
}

void view_resize(int64_t edge, const int64_t at[3], int64_t size, const float *crop, float *view)
{
    const int64_t d[3] = { edge, edge, edge };
    axis a;
    const axis *const all[3] = { &a, &a, &a };
    int64_t i;
    for (i = 0; i < edge; ++i) {
        const double from = ((double)i + 0.5) * (double)size / (double)edge - 0.5;
        set_place(&a, i, from > 0 ? from : 0, size);
    }
    sample(d, crop, at, all, d, view);
}

void view_cut(const int64_t d[3], const float *x, const int64_t at[3], const int64_t size[3], const int64_t to[3],
              float *view)
{
    axis a[3];
    const axis *const all[3] = { a, a + 1, a + 2 };
    int64_t i;
    int k;
    for (k = 0; k < 3; ++k)
        for (i = 0; i < to[k]; ++i)
            set_place(&a[k], i, to[k] > 1 ? (double)(i * (size[k] - 1)) / (double)(to[k] - 1) : 0, size[k]);
    sample(d, x, at, all, to, view);
}

void view_jitter(int64_t edge, double light, double contrast, float *view)
{
    const int64_t n = edge * edge * edge;
    double mean = 0;
    int64_t i;
    for (i = 0; i < n; ++i) mean += (double)view[i] * light / (double)n;
    for (i = 0; i < n; ++i) {
        const double v = ((double)view[i] * light - mean) * contrast + mean;
        view[i] = (float)(v < 0 ? 0 : v > 1 ? 1 : v);
    }
}

/* One axis, whose neighbours are `step` apart, of n voxels */
static void blur_axis(int64_t n, int64_t edge, int64_t step, const float *kernel, int reach, const float *from,
                      float *to)
{
    int64_t i;
    int k;
    for (i = 0; i < n; ++i) {
        const int64_t at = i / step % edge;
        float sum = 0;
        for (k = -reach; k <= reach; ++k) {
            const int64_t a = at + k < 0 ? 0 : at + k >= edge ? edge - 1 : at + k;
            sum += kernel[k + reach] * from[i + (a - at) * step];
        }
        to[i] = sum;
    }
}

void view_blur(int64_t edge, double sigma, float *view, float *scratch)
{
    const int reach = sigma * 3 < (double)REACH ? (int)ceil(sigma * 3) : REACH;
    const int64_t n = edge * edge * edge;
    float kernel[2 * REACH + 1];
    double sum = 0;
    int k;
    for (k = -reach; k <= reach; ++k) sum += exp(-0.5 * k * k / (sigma * sigma));
    for (k = -reach; k <= reach; ++k) kernel[k + reach] = (float)(exp(-0.5 * k * k / (sigma * sigma)) / sum);
    blur_axis(n, edge, 1, kernel, reach, view, scratch);
    blur_axis(n, edge, edge, kernel, reach, scratch, view);
    blur_axis(n, edge, edge * edge, kernel, reach, view, scratch);
    memcpy(view, scratch, (size_t)n * sizeof *view);
}

void view_solarize(int64_t edge, float *view)
{
    int64_t i;
    for (i = 0; i < edge * edge * edge; ++i) view[i] = view[i] < 0.5f ? view[i] : 1 - view[i];
}

void view_flip(int64_t edge, float *view)
{
    int64_t i, x;
    for (i = 0; i < edge * edge; ++i, view += edge)
        for (x = 0; x < edge / 2; ++x) {
            const float v = view[x];
            view[x] = view[edge - 1 - x];
            view[edge - 1 - x] = v;
        }
}

/* Along one axis, from v to out: whole rows of the later axes at once */
static void smooth_axis(const int64_t d[3], int a, const double *kernel, const double *v, double *out)
{
    const int64_t step = a == 0 ? d[1] * d[2] : a == 1 ? d[2] : 1, n = d[a], all = d[0] * d[1] * d[2];
    int64_t from, i, t, s;
    memset(out, 0, (size_t)all * sizeof *out);
    for (from = 0; from < all; from += n * step)
        for (i = 0; i < n; ++i) {
            const int64_t low = i < FAR ? -i : -FAR, high = n - 1 - i < FAR ? n - 1 - i : FAR;
            double *to = out + from + i * step;
            for (t = low; t <= high; ++t) {
                const double *row = v + from + (i + t) * step, share = kernel[t + FAR];
                for (s = 0; s < step; ++s) to[s] += share * row[s];
            }
        }
}

void view_field(const int64_t d[3], const float *noise, double *field, double *scratch)
{
    const int64_t n = d[0] * d[1] * d[2];
    double kernel[2 * FAR + 1], sum = 0;
    int64_t i;
    for (i = -FAR; i <= FAR; ++i) sum += exp(-(double)(i * i) / 128);
    for (i = -FAR; i <= FAR; ++i) kernel[i + FAR] = exp(-(double)(i * i) / 128) / sum;
    for (i = 0; i < n; ++i) scratch[i] = 991 * (2 * (double)noise[i] - 1);
    smooth_axis(d, 0, kernel, scratch, field);
    smooth_axis(d, 1, kernel, field, scratch);
    smooth_axis(d, 2, kernel, scratch, field);
}

/* Where a place outside of 0 .. n - 1 is mirrored to */
static double mirrored(double at, int64_t n)
{
    const double whole = 2 * (double)n;
    at = fmod(at + 0.5, whole);
    if (at < 0) at += whole;
    at = (at > (double)n ? whole - at : at) - 0.5;
    return at < 0 ? 0 : at > (double)(n - 1) ? (double)(n - 1) : at;
}

void view_bend(const int64_t d[3], const double *dx, const double *dy, const float *x, float *view)
{
    int64_t i, j, k, v = 0;
    for (i = 0; i < d[0]; ++i)
        for (j = 0; j < d[1]; ++j)
            for (k = 0; k < d[2]; ++k, ++v) {
                const double p = mirrored((double)i + dy[v], d[0]), q = mirrored((double)j + dx[v], d[1]);
                const int64_t a = (int64_t)p, b = (int64_t)q, down = a < d[0] - 1 ? d[1] * d[2] : 0;
                const float *at = x + (a * d[1] + b) * d[2] + k, *beside = b < d[1] - 1 ? at + d[2] : at;
                const double u = p - (double)a, w = q - (double)b;
                view[v] = (float)((1 - u) * ((1 - w) * (double)*at + w * (double)*beside) +
                                  u * ((1 - w) * (double)at[down] + w * (double)beside[down]));
            }
}
