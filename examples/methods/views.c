/* views.c - see views.h */
#include "views.h"
#include <math.h>
#include <string.h>

enum { LONGEST = 1024, REACH = 16 }; /* edge, voxels of a kernel to each side */

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
