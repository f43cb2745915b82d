/* bases.c - see bases.h */
#include "bases.h"
#include "views.h"
#include <stdlib.h>
#include <string.h>

bases bases_of(int64_t edge, int along, int flat, int64_t cut, int64_t seen)
{
    bases b;
    int a;
    b.edge = edge, b.flat = flat, b.n = b.voxels = 1;
    for (a = 0; a < 3; ++a) {
        b.grid[a] = a == 0 && flat ? 1 : along;
        b.cut[a] = cut ? cut : edge / along;
        b.whole[a] = b.grid[a] * b.cut[a];
        b.seen[a] = seen ? seen : b.cut[a];
        b.n *= b.grid[a];
        b.voxels *= b.seen[a];
    }
    return b;
}

void bases_labels(const int64_t start[3], const int64_t size[3], const int64_t grid[3], float *label)
{
    int64_t i;
    int a;
    for (i = 0; i < grid[0] * grid[1] * grid[2]; ++i) {
        const int64_t at[3] = { i / (grid[1] * grid[2]), i / grid[2] % grid[1], i % grid[2] };
        double share = 1;
        for (a = 0; a < 3; ++a) {
            const int64_t off = start[a] - at[a] * size[a], apart = off < 0 ? -off : off;
            share *= apart < size[a] ? (double)(size[a] - apart) / (double)size[a] : 0;
        }
        label[i] = (float)share;
    }
}

int bases_cut(const draws *r, const bases *b, const float *region, int64_t crops, float *out, float *label,
              int64_t place[3])
{
    const int64_t edge[3] = { b->edge, b->edge, b->edge }, corner[3] = { 0, 0, 0 };
    float *whole = (float *)malloc((size_t)(b->whole[0] * b->whole[1] * b->whole[2]) * sizeof *whole);
    int64_t at[3] = { 0, 0, 0 }, i;
    int a;
    if (!whole) return 0;
    view_cut(edge, region, corner, edge, b->whole, whole);
    for (i = 0; i < b->n + crops; ++i, out += b->voxels) {
        at[0] = i / (b->grid[1] * b->grid[2]) * b->cut[0];
        at[1] = i / b->grid[2] % b->grid[1] * b->cut[1];
        at[2] = i % b->grid[2] * b->cut[2];
        for (a = 0; a < 3 && i >= b->n; ++a) { /* in a plane VoCo's draw leaves out the last place */
            const int64_t room = b->whole[a] - b->cut[a];
            at[a] = room > 0 ? r->whole(r->user, 0, room - b->flat) : 0;
        }
        view_cut(b->whole, whole, at, b->cut, b->seen, out);
        if (i >= b->n) bases_labels(at, b->cut, b->grid, label + (i - b->n) * b->n);
    }
    if (place) memcpy(place, at, sizeof at);
    free(whole);
    return 1;
}

int bases_change(const draws *r, const bases *b, double flip, double turn, double shift, double by, int64_t n,
                 float *x)
{
    float *turned = (float *)malloc((size_t)b->voxels * sizeof *turned);
    int64_t i, v;
    int axis;
    for (i = 0; i < n && turned; ++i, x += b->voxels) {
        for (axis = 0; axis < 3; ++axis)
            if (r->uniform(r->user) < flip) genesis_flip(x, b->seen, axis);
        if (r->uniform(r->user) < turn) {
            swin_ssl_turn((int)r->whole(r->user, 1, 3), b->seen, 2, 1, x, turned);
            memcpy(x, turned, (size_t)b->voxels * sizeof *x);
        }
        if (r->uniform(r->user) < shift) {
            const double light = by * (2 * r->uniform(r->user) - 1);
            for (v = 0; v < b->voxels; ++v) x[v] = (float)((double)x[v] + light);
        }
    }
    free(turned);
    return turned != NULL;
}

void bases_show(const bases *b, const float *region, const int64_t place[3], const float *number, float *crop,
                float *bright)
{
    const int64_t e = b->edge;
    int64_t i, base, p;
    int a, in;
    for (i = 0; i < e * e * e; ++i) {
        const int64_t v[3] = { i / (e * e), i / e % e, i % e };
        for (a = 0, in = 1, base = 0; a < 3; ++a) {
            p = v[a] * b->whole[a] / e;
            in = in && p >= place[a] && p < place[a] + b->cut[a];
            base = base * b->grid[a] + p / b->cut[a];
        }
        crop[i] = in ? region[i] : 0.3f * region[i];
        bright[i] = number[base] * region[i];
    }
}
