/* views.c - see views.h */
#include "views.h"
#include <math.h>
#include <string.h>

enum { LONGEST = 1024, REACH = 16 }; /* edge, voxels of a kernel to each side */

void view_resize(int64_t edge, const int64_t at[3], int64_t size, const float *crop, float *view)
{
    int32_t low[LONGEST], high[LONGEST];
    float share[LONGEST];
    int64_t i, z, y, x;
    for (i = 0; i < edge; ++i) {
        const double to = ((double)i + 0.5) * (double)size / (double)edge - 0.5, from = to > 0 ? to : 0;
        low[i] = (int32_t)from;
        high[i] = low[i] + (low[i] < size - 1);
        share[i] = (float)(from - low[i]);
    }
    for (z = 0; z < edge; ++z)
        for (y = 0; y < edge; ++y) {
            const float *row[4];
            const float wz = share[z], wy = share[y];
            for (i = 0; i < 4; ++i)
                row[i] = crop + (((at[0] + (i / 2 ? high[z] : low[z])) * edge + at[1] + (i % 2 ? high[y] : low[y])) *
                                 edge + at[2]);
            for (x = 0; x < edge; ++x) {
                float v[4];
                for (i = 0; i < 4; ++i) v[i] = row[i][low[x]] + (row[i][high[x]] - row[i][low[x]]) * share[x];
                v[0] += (v[1] - v[0]) * wy;
                v[2] += (v[3] - v[2]) * wy;
                *view++ = v[0] + (v[2] - v[0]) * wz;
            }
        }
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
