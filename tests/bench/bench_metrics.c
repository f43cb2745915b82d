/* bench_metrics.c - HD95 and Dice of two 240 x 240 x 155 masks on one core: a tumour, a brain, two tumours in opposite corners.

   bench_metrics [--reps N] [--json]        twin.py --metrics times MONAI on the same masks

   Times are processor time (user and system) of this one-threaded program, medians. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include <time.h>

enum { D = 155, H = 240, W = 240, VOXELS = D * H * W, MOST_REPS = 101 };

/* Two pairs of ellipsoids, each a centre and radii in D, H, W: prediction and truth are unions of two. */
typedef struct pair { const char *name; int e[4][6]; } pair;
static const pair pairs[] = {
    { "tumour",
      { { 77, 120, 120, 30, 35, 32 }, { 95, 140, 100, 14, 20, 25 }, { 79, 123, 118, 31, 33, 34 }, { 93, 143, 103, 16, 18, 22 } } },
    { "brain",
      { { 77, 120, 120, 70, 90, 75 }, { 60, 70, 120, 40, 30, 50 }, { 78, 121, 119, 69, 91, 74 }, { 62, 72, 118, 40, 31, 48 } } },
    { "far",
      { { 40, 60, 60, 35, 55, 55 }, { 60, 90, 80, 20, 25, 25 }, { 110, 180, 180, 40, 55, 55 }, { 95, 150, 160, 20, 22, 30 } } },
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
    printf(json ? "{\"row\":\"%s_%s\",\"median_ms\":%.4f,\"value\":%.6g}\n" : "%s_%s: %.2f ms (%.6g)\n", what, name, ms[reps / 2], value);
}

static void bench(const pair *k, int reps, int json)
{
    static const int64_t dim[3] = { D, H, W };
    static const double mm[3] = { 1, 1, 1 };
    double hd[MOST_REPS], dice[MOST_REPS], distance = 0, overlap = 0;
    int i;
    memset(mask, 0, sizeof mask);
    for (i = 0; i < 4; ++i) paint(mask[i / 2], k->e[i]);
    for (i = 0; i < reps; ++i) {
        const double start = now();
        if (bmvp_hausdorff(mask[0], mask[1], dim, mm, 95, BMVP_EMPTY_MONAI, NULL, &distance) != BMVP_OK) exit(1);
        hd[i] = now();
        overlap = bmvp_dice(mask[0], mask[1], VOXELS, BMVP_EMPTY_MONAI);
        dice[i] = now() - hd[i];
        hd[i] -= start;
    }
    report(json, "hd95", k->name, hd, reps, distance);
    report(json, "dice", k->name, dice, reps, overlap);
}

int main(int argc, char **argv)
{
    int reps = 7, json = 0, i;
    for (i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--json") == 0) json = 1;
        else if (strcmp(argv[i], "--reps") == 0 && i + 1 < argc) reps = atoi(argv[++i]);
        else reps = 0;
    }
    if (reps < 1 || reps > MOST_REPS) {
        printf("usage: bench_metrics [--reps 1..%d] [--json]\n", MOST_REPS);
        return 2;
    }
    for (i = 0; i < (int)(sizeof pairs / sizeof *pairs); ++i) bench(&pairs[i], reps, json);
    return 0;
}
