/* bench_metrics.c - HD95 and Dice of two 240 x 240 x 155 masks on one core: a tumour, a brain, two tumours in opposite
   corners, blobs all over the volume, and what is labelled in a real file beside its copy moved by 2, -3, 4 voxels
   along D, H, W.

   bench_metrics [--reps N] [--json] [--seg FILE.nii.gz]        twin.py --metrics times MONAI on the same masks

   Times are processor time (user and system) of this one-threaded program, medians. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "bmvp_nifti.h"
#include <time.h>

enum { D = 155, H = 240, W = 240, VOXELS = D * H * W, BLOBS = 20, MOST_REPS = 101 };

/* Two pairs of ellipsoids, each a centre and radii in D, H, W: prediction and truth are unions of two. */
typedef struct pair { const char *name; int e[4][6]; } pair;
static const pair pairs[] = {
    { "tumour",
      { { 77, 120, 120, 30, 35, 32 },
        { 95, 140, 100, 14, 20, 25 },
        { 79, 123, 118, 31, 33, 34 },
        { 93, 143, 103, 16, 18, 22 } } },
    { "brain",
      { { 77, 120, 120, 70, 90, 75 },
        { 60, 70, 120, 40, 30, 50 },
        { 78, 121, 119, 69, 91, 74 },
        { 62, 72, 118, 40, 31, 48 } } },
    { "far",
      { { 40, 60, 60, 35, 55, 55 },
        { 60, 90, 80, 20, 25, 25 },
        { 110, 180, 180, 40, 55, 55 },
        { 95, 150, 160, 20, 22, 30 } } },
};
static unsigned char mask[2][VOXELS];

static void paint(unsigned char *m, const int e[6])
{
    const int64_t full = (int64_t)e[3] * e[4] * e[5];
    int z, y, x;
    for (z = 0; z < D; ++z)
        for (y = 0; y < H; ++y)
            for (x = 0; x < W; ++x) {
                const int64_t a = (int64_t)(z - e[0]) * e[4] * e[5], b = (int64_t)(y - e[1]) * e[3] * e[5];
                const int64_t c = (int64_t)(x - e[2]) * e[3] * e[4];
                if (a * a + b * b + c * c <= full * full) m[((int64_t)z * H + y) * W + x] = 1;
            }
}

/* Balls of radius 8 to 23 anywhere. */
static void paint_blobs(unsigned char *m, uint32_t r)
{
    static const uint32_t below[4] = { D, H, W, 16 };
    int k, a, e[6];
    for (k = 0; k < BLOBS; ++k) {
        for (a = 0; a < 4; ++a) {
            r = r * 1664525u + 1013904223u;
            e[a] = (int)((r >> 8) % below[a]);
        }
        e[3] = e[4] = e[5] = e[3] + 8;
        paint(m, e);
    }
}

/* 0: said why it cannot be had. */
static int load_real(const char *path)
{
    bmvp_nii_volume v;
    bmvp_error err;
    int z, y, x;
    if (bmvp_nii_read_volume(&v, path, NULL, NULL, &err) != BMVP_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 0;
    }
    if (v.dim[0] != W || v.dim[1] != H || v.dim[2] != D) {
        fprintf(stderr, "%s: a file of 240 x 240 x 155 voxels is wanted\n", path);
        bmvp_nii_volume_free(&v);
        return 0;
    }
    memset(mask, 0, sizeof mask);
    for (z = 0; z < D; ++z)
        for (y = 0; y < H; ++y)
            for (x = 0; x < W; ++x) {
                if (!(v.data[(z * H + y) * W + x] > 0)) continue;
                mask[1][(z * H + y) * W + x] = 1;
                if (z + 2 < D && y >= 3 && x + 4 < W) mask[0][((z + 2) * H + y - 3) * W + x + 4] = 1;
            }
    bmvp_nii_volume_free(&v);
    return 1;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void report(int json, const char *what, const char *name, double *ms, int reps, double value)
{
    qsort(ms, (size_t)reps, sizeof *ms, by_size);
    if (json)
        printf("{\"row\":\"%s_%s\",\"median_ms\":%.4f,\"best_ms\":%.4f,\"spread\":%.3f,\"runs\":%d,\"value\":%.6g}\n",
               what, name, ms[reps / 2], ms[0], (ms[reps - 1] - ms[0]) / ms[reps / 2], reps, value);
    else printf("%s_%s: %.2f ms (%.6g)\n", what, name, ms[reps / 2], value);
}

static void bench(const char *name, int reps, int json)
{
    static const int64_t dim[3] = { D, H, W };
    static const double mm[3] = { 1, 1, 1 };
    double hd[MOST_REPS], dice[MOST_REPS], distance = 0, overlap = 0;
    int i;
    for (i = 0; i < reps; ++i) {
        const double start = now();
        if (bmvp_hausdorff(mask[0], mask[1], dim, mm, 95, BMVP_EMPTY_MONAI, NULL, &distance) != BMVP_OK) exit(1);
        hd[i] = now();
        overlap = bmvp_dice(mask[0], mask[1], VOXELS, BMVP_EMPTY_MONAI);
        dice[i] = now() - hd[i];
        hd[i] -= start;
    }
    report(json, "hd95", name, hd, reps, distance);
    report(json, "dice", name, dice, reps, overlap);
}

int main(int argc, char **argv)
{
    const char *seg = NULL;
    int reps = 7, json = 0, i, k;
    for (i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--json") == 0) json = 1;
        else if (strcmp(argv[i], "--reps") == 0 && i + 1 < argc) reps = atoi(argv[++i]);
        else if (strcmp(argv[i], "--seg") == 0 && i + 1 < argc) seg = argv[++i];
        else reps = 0;
    }
    if (reps < 1 || reps > MOST_REPS) {
        printf("usage: bench_metrics [--reps 1..%d] [--json] [--seg FILE.nii.gz]\n", MOST_REPS);
        return 2;
    }
    for (i = 0; i < (int)(sizeof pairs / sizeof *pairs); ++i) {
        memset(mask, 0, sizeof mask);
        for (k = 0; k < 4; ++k) paint(mask[k / 2], pairs[i].e[k]);
        bench(pairs[i].name, reps, json);
    }
    memset(mask, 0, sizeof mask);
    for (k = 0; k < 2; ++k) paint_blobs(mask[k], (uint32_t)k + 1);
    bench("blobs", reps, json);
    if (seg && load_real(seg)) bench("real", reps, json);
    return 0;
}
