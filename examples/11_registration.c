/* 11_registration.c - lesson 11: registration: climbing a hill of mutual information, and the wrong hill

   What you learn: two scans of one head in two contrasts have no brightness in common, but one predicts the other
   where they lie right: their joint histogram is sharp, and (H(a) + H(b)) / H(a,b), the normalised mutual information
   (NMI), is large: 1 says independent, 2 says one is a function of the other. So registration is: move, measure, keep
   what is better. Fifty lines do it, from near. From too far they climb another hill and stop there, content; the
   library starts from many places, compares, and says how near the runner-up was.
   Run:  cc -O2 -I. examples/11_registration.c -o 11_registration -ldeflate -lm -lpthread && ./11_registration
                                                                                          (2 s; compiling: 7 s)
   You see, numbers within 3 % or 0.3; and 11_registration.svg: slices and joint histograms, before and after:
   | headers: NMI 1.072, 8.8 mm from the truth
   | truth: NMI 1.331, 0.0 mm from the truth
   | sweep 1, steps of 4.00: NMI 1.214
   | climbed from the headers: NMI 1.332, 0.2 mm from the truth
   | climbed from too far: NMI #, # mm from the truth
   | bmvp_nii_register, that start alone: NMI #, # mm from the truth
   | bmvp_nii_register, its many starts: NMI 1.269, 0.1 mm from the truth
   | on 8 mm: NMI 1.383, of the runner-up 1.371
   Exercises:
   1. From which turns about z does climb() come home? Try 0, 30 .. 180 degrees. Hint: `turned`'s last number, no shift.
   2. Climb on the correlation of the two brightnesses in place of the NMI. How near does it end? Hint: fat is bright
      in both scans, but water is dark in one and bright in the other.
   In the headers: bmvp_nifti.h >>register; >>mutual information (windows, gradient), >>search (the many places). */
#define BMVP_IMPLEMENTATION
#include "bmvp_nifti.h"
#include "picture.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { X = 44, Y = 52, Z = 36, BINS = 24, MIDDLE = Z / 2 * X * Y, SWEEPS = 60 };

static bmvp_error err; /* the first failure ends the lesson */
static void must(bmvp_status s)
{
    if (s == BMVP_OK) return;
    printf("%s\n", err.message);
    exit(1);
}

/* pose: shifts along x, y, z in mm, turns about x, y, z in degrees -> a matrix, fixed mm to moving mm */
static void matrix_of(double m[16], const double pose[6])
{
    int i, k;
    memset(m, 0, 16 * sizeof *m);
    for (i = 0; i < 4; ++i) m[5 * i] = 1;
    for (i = 0; i < 3; ++i) { /* a turn about axis i mixes the two others */
        const double s = sin(pose[3 + i] * acos(-1.0) / 180), c = cos(pose[3 + i] * acos(-1.0) / 180);
        double turn[16] = { 0 };
        for (k = 0; k < 4; ++k) turn[5 * k] = k == i || k == 3 ? 1 : c;
        turn[4 * ((i + 1) % 3) + (i + 2) % 3] = -s, turn[4 * ((i + 2) % 3) + (i + 1) % 3] = s;
        bmvp_nii_matrix_multiply(m, m, turn);
    }
    for (i = 0; i < 3; ++i) m[4 * i + 3] = pose[i];
}

/* A head that knows no voxels: in its own mm, in two contrasts. Skull, brain, ventricles, a lesion, and folds. */
static float head_at(const double p[3], int t2)
{
    const double r = p[0] * p[0] / 289 + p[1] * p[1] / 441 + p[2] * p[2] / 225;
    const double fold = sin(p[0] / 3) * cos(p[1] / 4 + p[2] / 5);
    const double vx = fabs(p[0]) - 4, vy = p[1] - 2, vz = p[2] - 1;
    const double lx = p[0] - 8, ly = p[1] + 7, lz = p[2] - 4;
    if (r > 1) return 0;
    if (r > 0.8) return t2 ? 0.9f : 0.95f;                                                /* fat: bright in both */
    if (vx * vx / 9 + vy * vy / 64 + vz * vz / 25 < 1) return t2 ? 1.0f : 0.1f;           /* water */
    if (lx * lx + ly * ly + lz * lz < 16) return t2 ? 0.8f : 0.3f;                        /* lesion */
    return fold + p[1] / 30 > 0.2 ? t2 ? 0.35f : 0.7f : t2 ? 0.6f : 0.45f;                /* white, grey matter */
}

/* A scan of 1 mm whose header puts its middle at 0; the head lies in it as `truth` (head mm -> scan mm) says. */
static void scan(bmvp_nii_volume *v, const double truth[16], int t2)
{
    const int64_t dim[3] = { X, Y, Z };
    const double mm[3] = { t2 ? 0.9 : 1, t2 ? 0.95 : 1, t2 ? 1.15 : 1 };
    const double affine[16] = { mm[0], 0, 0, -mm[0] * (X / 2), 0, mm[1], 0, -mm[1] * (Y / 2),
                                0, 0, mm[2], -mm[2] * (Z / 2), 0, 0, 0, 1 };
    double back[16], to[16], p[3];
    uint32_t noise = 1;
    int i, k;
    must(bmvp_nii_volume_create(v, dim, affine, NULL, &err));
    must(bmvp_nii_affine_inverse(back, truth, &err));
    bmvp_nii_matrix_multiply(to, back, affine);
    for (i = 0; i < X * Y * Z; ++i) {
        for (k = 0; k < 3; ++k)
            p[k] = to[4 * k] * (i % X) + to[4 * k + 1] * (i / X % Y) + to[4 * k + 2] * (i / X / Y) + to[4 * k + 3];
        noise = noise * 1664525u + 1013904223u;
        v->data[i] = head_at(p, t2) + 0.06f * (float)(noise >> 8) / 16777216.0f;
    }
}

/* How often brightness x of a meets brightness y of b, as shares; both are below BINS */
static void joint_histogram(float *joint, const bmvp_nii_volume *a, const bmvp_nii_volume *b)
{
    const float bins = 0.93f * (float)BINS;
    int i;
    memset(joint, 0, BINS * BINS * sizeof *joint);
    for (i = 0; i < X * Y * Z; ++i)
        joint[(int)(b->data[i] * bins) * BINS + (int)(a->data[i] * bins)] += 1.0f / (X * Y * Z);
}

static double entropy(const float *p, int n)
{
    double h = 0;
    int i;
    for (i = 0; i < n; ++i) if (p[i] > 0) h -= (double)p[i] * log((double)p[i]);
    return h;
}

/* (H(a) + H(b)) / H(a,b) of fixed, and moving seen through the matrix. joint: BINS^2 numbers */
static double nmi_of(const bmvp_nii_volume *fixed, const bmvp_nii_volume *moving, const double m[16], float *joint)
{
    float side[2][BINS] = { { 0 } };
    bmvp_nii_volume seen;
    int i;
    must(bmvp_nii_resample_to(&seen, moving, fixed, m, BMVP_NII_LINEAR, 0, &err));
    joint_histogram(joint, fixed, &seen);
    bmvp_nii_volume_free(&seen);
    for (i = 0; i < BINS * BINS; ++i) side[0][i % BINS] += joint[i], side[1][i / BINS] += joint[i];
    return (entropy(side[0], BINS) + entropy(side[1], BINS)) / entropy(joint, BINS * BINS);
}

/* Each of the six numbers a step up and down; what is better is kept; when nothing is, steps are halved. A measure that
   is wrong may rise for ever: SWEEPS at most. Returns the NMI it ends at; m becomes the matrix. */
static double climb(const bmvp_nii_volume *fixed, const bmvp_nii_volume *moving, double pose[6], double m[16],
                    float *joint)
{
    double step = 4, best, now, was;
    int k, sweep = 0;
    matrix_of(m, pose), best = nmi_of(fixed, moving, m, joint);
    while (step > 0.2 && sweep < SWEEPS) {
        was = best;
        for (k = 0; k < 12; ++k) {
            const double d = k % 2 ? -step : step;
            pose[k / 2] += d; /* mm or degrees: 20 mm from the middle three degrees are one mm */
            matrix_of(m, pose);
            now = nmi_of(fixed, moving, m, joint);
            if (now > best) best = now;
            else pose[k / 2] -= d;
        }
        printf("  sweep %d, steps of %.2f: NMI %.3f\n", ++sweep, step, best);
        if (best < was + 0.001) step /= 2;
    }
    matrix_of(m, pose);
    return nmi_of(fixed, moving, m, joint);
}

static void show(const bmvp_nii_volume *t1, const bmvp_nii_volume *t2, const bmvp_nii_volume *on_t1,
                 float (*joint)[BINS * BINS])
{
    static const char *const title[6] = { "t1", "t2, by its header", "t2, registered", "histogram: by headers",
                                          "registered", "from too far" };
    const float *const what[3] = { t1->data + MIDDLE, t2->data + MIDDLE, on_t1->data + MIDDLE };
    picture p[6];
    int i;
    for (i = 0; i < 6; ++i) {
        p[i].title = title[i], p[i].value = i < 3 ? what[i] : joint[i - 3];
        p[i].width = i < 3 ? X : BINS, p[i].height = i < 3 ? Y : BINS;
        p[i].low = 0, p[i].high = i < 3 ? 1 : 0.004f;
    }
    if (picture_write("11_registration.svg", "Histograms: brightness of t1 to the right, of t2 downwards; white: "
                      "often. Where the scans lie right they are sharp.", p, 6)) exit(1);
}

static void say(const char *what, double nmi, const double m[16], const double truth[16], const bmvp_nii_volume *grid)
{
    printf("%s: NMI %.3f, %.1f mm from the truth\n", what, nmi, bmvp_nii_matrix_distance(m, truth, grid));
}

int main(void)
{
    static float joint[3][BINS * BINS];
    const double moved[6] = { 5, -6, 3, 4, -3, 7 };
    double home[6] = { 0 }, turned[6] = { 0, 14, 0, 0, 0, 100 }, start[16], truth[16], m[16], nmi;
    bmvp_nii_register_how how;
    bmvp_nii_registration r;
    bmvp_nii_volume t1, t2, on_t1;
    matrix_of(m, home), matrix_of(truth, moved), matrix_of(start, turned);
    scan(&t1, m, 0), scan(&t2, truth, 1);
    say("headers", nmi_of(&t1, &t2, m, joint[0]), m, truth, &t1);
    say("truth", nmi_of(&t1, &t2, truth, joint[1]), truth, truth, &t1);
    nmi = climb(&t1, &t2, home, m, joint[1]);
    say("climbed from the headers", nmi, m, truth, &t1);
    must(bmvp_nii_resample_to(&on_t1, &t2, &t1, m, BMVP_NII_LINEAR, 0, &err));
    nmi = climb(&t1, &t2, turned, m, joint[2]);
    say("climbed from too far", nmi, m, truth, &t1);

    memset(&how, 0, sizeof how); /* zeros: rigid, levels of 8, 4 and 2 mm, many starts */
    how.start = start, how.search = BMVP_NII_SEARCH_NONE;
    must(bmvp_nii_register(&r, &t1, &t2, &how, &err));
    say("bmvp_nii_register, that start alone", r.nmi, r.matrix, truth, &t1);
    how.start = NULL, how.search = BMVP_NII_SEARCH_SMALL;
    must(bmvp_nii_register(&r, &t1, &t2, &how, &err));
    say("bmvp_nii_register, its many starts", r.nmi, r.matrix, truth, &t1);
    printf("on 8 mm: NMI %.3f, of the runner-up %.3f\n", r.nmi_coarse, r.runner_up);
    show(&t1, &t2, &on_t1, joint);
    bmvp_nii_volume_free(&t1), bmvp_nii_volume_free(&t2), bmvp_nii_volume_free(&on_t1);
    return 0;
}
