/* 06_nifti.c - lesson 6: the geometry of NIfTI: voxels are not places

   What you learn: a file holds numbers and a matrix, the affine, that says where in the scanner (in mm; to the right,
   front and top: RAS) each voxel lies. Two scans of one head have different axes, voxels and origins. Compared voxel
   by voxel they are noise; by their affines they are the same head. Labels are never interpolated, images are.
   Run:  cc -O2 -I. examples/06_nifti.c -o 06_nifti -ldeflate -lm -lpthread && ./06_nifti    (no time; compiling: 7 s)
         ./06_nifti IN.nii.gz OUT.nii.gz puts any file into RAS, 1 mm, cropped to what is there, [0, 1].
   You see, numbers within 1 % or 0.002; and 06_nifti.svg, the slices:
   | scan a: 48 x 56 x 40 voxels of 1.00 x 1.00 x 1.00 mm, axes RAS, voxel 0 0 0 at -24 -28 -20 mm
   | scan b: 20 x 56 x 24 voxels of 2.00 x 1.00 x 2.00 mm, axes SPL, voxel 0 0 0 at 23 27 -20 mm
   | the lesion in a: 251 voxels, centre of mass at voxel 33.0 28.0 20.0 = 9.0 0.0 0.0 mm
   | the lesion in b: 55 voxels, centre of mass at voxel 10.0 27.0 7.0 = 9.0 0.0 0.0 mm
   | ml without the voxel size: 0.251 and 0.055; with it: 0.251 and 0.220
   | correlation of a and b, voxel by voxel as they lie: -0.045
   | after bmvp_nii_orient: scan b: 24 x 56 x 20 voxels of 2.00 x 1.00 x 2.00 mm, axes RAS
   | after bmvp_nii_resample_to on the grid of a, one interpolation: correlation 0.976
   | the label, linear: 5 values, nearest: 2 values; Dice with the lesion of a 0.845
   Exercises:
   1. Where is the voxel of b that holds the place 9 0 0 mm? Hint: bmvp_nii_affine_inverse.
   2. Turn a by 90 degrees about the axis to the top by changing its affine alone; which axcodes has it now, and where
      is the lesion? Hint: bmvp_nii_matrix_multiply of a rotation and the affine.
   In the headers: bmvp_nifti.h >>affine, >>volume, >>transform. */
#define BMVP_IMPLEMENTATION
#include "bmvp_nifti.h"
#include "picture.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bmvp_error err; /* the first failure ends the lesson */
static void must(bmvp_status s)
{
    if (s == BMVP_OK) return;
    printf("%s\n", err.message);
    exit(1);
}

static void to_mm(double mm[3], const double affine[16], const double voxel[3])
{
    int i;
    for (i = 0; i < 3; ++i)
        mm[i] = affine[4 * i] * voxel[0] + affine[4 * i + 1] * voxel[1] + affine[4 * i + 2] * voxel[2] +
                affine[4 * i + 3];
}

static void show(const char *when, const bmvp_nii_volume *v, int origin)
{
    double mm[3];
    char codes[4];
    bmvp_nii_voxel_size(mm, v->affine);
    bmvp_nii_axcodes(codes, v->affine);
    printf("%s %d x %d x %d voxels of %.2f x %.2f x %.2f mm, axes %s", when, (int)v->dim[0], (int)v->dim[1],
           (int)v->dim[2], mm[0], mm[1], mm[2], codes);
    if (origin) printf(", voxel 0 0 0 at %.0f %.0f %.0f mm", v->affine[3], v->affine[7], v->affine[11]);
    printf("\n");
}

/* A head that knows no voxels: its brightness at a place in mm. The lesion is a ball on the right. */
static int lesion_at(const double p[3]) { return (p[0] - 9) * (p[0] - 9) + p[1] * p[1] + p[2] * p[2] < 4 * 4; }
static float head_at(const double p[3])
{
    const double skull = p[0] * p[0] / 400 + p[1] * p[1] / 576 + p[2] * p[2] / 289;
    if (skull > 1) return 0;
    if (lesion_at(p)) return 1;
    return (float)(0.4 + 0.2 * sin(p[0] / 4) * cos(p[1] / 5 + p[2] / 3) + (p[1] > 12 ? 0.2 : 0));
}

/* A scanner: it asks the head at the place of each voxel, and writes a file. */
static void scan(const char *path, const int64_t dim[3], const double affine[16], int label)
{
    bmvp_nii_volume v;
    double voxel[3], mm[3];
    int64_t i;
    must(bmvp_nii_volume_create(&v, dim, affine, NULL, &err));
    for (i = 0; i < dim[0] * dim[1] * dim[2]; ++i) {
        voxel[0] = (double)(i % dim[0]), voxel[1] = (double)(i / dim[0] % dim[1]);
        voxel[2] = (double)(i / dim[0] / dim[1]);
        to_mm(mm, affine, voxel);
        v.data[i] = label ? (float)lesion_at(mm) : head_at(mm);
    }
    must(bmvp_nii_write_volume(path, &v, label ? BMVP_NII_UINT8 : BMVP_NII_INT16, label ? 1 : 1.0 / 1000, 0, NULL, NULL,
                               &err));
    bmvp_nii_volume_free(&v);
}

/* Voxels above one half, and their centre of mass. */
static int64_t centre(const bmvp_nii_volume *v, double voxel[3])
{
    int64_t n = 0, i;
    voxel[0] = voxel[1] = voxel[2] = 0;
    for (i = 0; i < v->dim[0] * v->dim[1] * v->dim[2]; ++i) {
        if (v->data[i] <= 0.5f) continue;
        voxel[0] += (double)(i % v->dim[0]), voxel[1] += (double)(i / v->dim[0] % v->dim[1]);
        voxel[2] += (double)(i / v->dim[0] / v->dim[1]);
        ++n;
    }
    for (i = 0; i < 3; ++i) voxel[i] /= n ? (double)n : 1;
    return n;
}

/* Correlation of the first n numbers. */
static double correlation(const float *a, const float *b, int64_t n)
{
    double sa = 0, sb = 0, aa = 0, bb = 0, ab = 0;
    int64_t i;
    for (i = 0; i < n; ++i) {
        sa += (double)a[i], sb += (double)b[i], ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i], bb += (double)b[i] * (double)b[i];
    }
    return ((double)n * ab - sa * sb) / sqrt(((double)n * aa - sa * sa) * ((double)n * bb - sb * sb));
}

static int count_values(const bmvp_nii_volume *v) /* how many hundredths of [0, 1] occur */
{
    int seen[101] = { 0 }, n = 0;
    int64_t i;
    for (i = 0; i < v->dim[0] * v->dim[1] * v->dim[2]; ++i) seen[(int)(100 * v->data[i] + 0.5f)] = 1;
    for (i = 0; i <= 100; ++i) n += seen[i];
    return n;
}

static int prepare(const char *from, const char *to)
{
    const double one_mm[3] = { 1, 1, 1 };
    const bmvp_nii_scale scale = { 1, 99, 0, 1, 1, 0, 0 }; /* percentiles 1 and 99 become 0 and 1, clipped */
    bmvp_nii_volume v;
    bmvp_nii_box box;
    must(bmvp_nii_read_volume(&v, from, NULL, NULL, &err));
    show("before", &v, 0);
    must(bmvp_nii_orient(&v, "RAS", &err));
    must(bmvp_nii_spacing(&v, one_mm, NULL, &err));
    must(bmvp_nii_foreground_box(&box, &v, 1, 0, &err));
    must(bmvp_nii_crop(&v, &box, 0, &err));
    must(bmvp_nii_scale_percentiles(&v, &scale, NULL, &err));
    must(bmvp_nii_write_volume(to, &v, BMVP_NII_INT16, 1.0 / 32767, 0, NULL, NULL, &err));
    show("after", &v, 0);
    bmvp_nii_volume_free(&v);
    return 0;
}

int main(int argc, char **argv)
{
    const int64_t dim_a[3] = { 48, 56, 40 }, dim_b[3] = { 20, 56, 24 };
    const double affine_a[16] = { 1, 0, 0, -24, 0, 1, 0, -28, 0, 0, 1, -20, 0, 0, 0, 1 };
    const double affine_b[16] = { 0, 0, -2, 23, 0, -1, 0, 27, 2, 0, 0, -20, 0, 0, 0, 1 }; /* up, back, left */
    bmvp_nii_volume a, b, la, lb, on_a, linear, nearest;
    double va[3], vb[3], mm[3];
    picture look[3];
    int64_t na, nb, i, both = 0;
    if (argc == 3) return prepare(argv[1], argv[2]);
    scan("a.nii", dim_a, affine_a, 0), scan("b.nii", dim_b, affine_b, 0);
    scan("a_label.nii", dim_a, affine_a, 1), scan("b_label.nii", dim_b, affine_b, 1);
    must(bmvp_nii_read_volume(&a, "a.nii", NULL, NULL, &err));
    must(bmvp_nii_read_volume(&b, "b.nii", NULL, NULL, &err));
    must(bmvp_nii_read_volume(&la, "a_label.nii", NULL, NULL, &err));
    must(bmvp_nii_read_volume(&lb, "b_label.nii", NULL, NULL, &err));
    remove("a.nii"), remove("b.nii"), remove("a_label.nii"), remove("b_label.nii");
    show("scan a:", &a, 1), show("scan b:", &b, 1);
    na = centre(&la, va), nb = centre(&lb, vb);
    to_mm(mm, la.affine, va);
    printf("the lesion in a: %d voxels, centre of mass at voxel %.1f %.1f %.1f = %.1f %.1f %.1f mm\n", (int)na, va[0],
           va[1], va[2], mm[0], mm[1], mm[2]);
    to_mm(mm, lb.affine, vb);
    printf("the lesion in b: %d voxels, centre of mass at voxel %.1f %.1f %.1f = %.1f %.1f %.1f mm\n", (int)nb, vb[0],
           vb[1], vb[2], mm[0], mm[1], mm[2]);
    printf("ml without the voxel size: %.3f and %.3f; with it: %.3f and %.3f\n", 1e-3 * (double)na, 1e-3 * (double)nb,
           1e-3 * (double)na, 4e-3 * (double)nb);
    printf("correlation of a and b, voxel by voxel as they lie: %.3f\n", correlation(a.data, b.data, 20 * 56 * 24));

    must(bmvp_nii_resample_to(&on_a, &b, &a, NULL, BMVP_NII_LINEAR, 0, &err)); /* by both affines at once */
    must(bmvp_nii_resample_to(&linear, &lb, &a, NULL, BMVP_NII_LINEAR, 0, &err));
    must(bmvp_nii_resample_to(&nearest, &lb, &a, NULL, BMVP_NII_NEAREST, 0, &err));
    for (i = 0; i < 48 * 56 * 40; ++i) both += nearest.data[i] > 0.5f && la.data[i] > 0.5f;
    look[0].title = "a, the middle slice", look[0].width = 48, look[0].height = 56;
    look[0].value = a.data + 20 * 48 * 56;
    look[1].title = "b as it lies", look[1].width = 20, look[1].height = 56, look[1].value = b.data + 12 * 20 * 56;
    look[2] = look[0], look[2].title = "b on the grid of a", look[2].value = on_a.data + 20 * 48 * 56;
    look[0].low = look[1].low = look[2].low = 0, look[0].high = look[1].high = look[2].high = 1;
    must(bmvp_nii_orient(&b, "RAS", &err)); /* axes in another order: no number is changed */
    show("after bmvp_nii_orient: scan b:", &b, 0);
    printf("after bmvp_nii_resample_to on the grid of a, one interpolation: correlation %.3f\n",
           correlation(a.data, on_a.data, 48 * 56 * 40));
    printf("the label, linear: %d values, nearest: %d values; Dice with the lesion of a %.3f\n", count_values(&linear),
           count_values(&nearest), 2 * (double)both / (double)(na + centre(&nearest, vb)));
    if (picture_write("06_nifti.svg", "The same head: b's axes go up, back and left, with voxels of 2 mm; white: the "
                      "lesion.", look, 3)) return 1;
    bmvp_nii_volume_free(&a), bmvp_nii_volume_free(&b), bmvp_nii_volume_free(&la), bmvp_nii_volume_free(&lb);
    bmvp_nii_volume_free(&on_a), bmvp_nii_volume_free(&linear), bmvp_nii_volume_free(&nearest);
    return 0;
}
