/* test_moved.c - bmvp_nifti.h beside registration: resampling by a matrix, transform files, distances, components,
   smoothing, what is doubtful of a mask and its holes. Runs from the top folder. It is built as where the system has no
   huge pages, as on macOS and Windows. */
#define _DEFAULT_SOURCE 1
#include <sys/mman.h>
#undef MADV_HUGEPAGE
#define BMVP_NIFTI_IMPLEMENTATION
#include "bmvp_nifti.h"
#include "tests/support/nifti.h"

/* A pool hands a block out again for no more bytes than malloc was asked for. */
static void test_pool(void)
{
    const size_t first = 1500000, more = 2000000;           /* both less than a huge page */
    bmvp_nii_pool pool;
    bmvp_allocator m;
    void *block;
    memset(&pool, 0, sizeof pool);
    m = bmvp_nii_pool_allocator(&pool);
    block = m.alloc(first, m.user);
    CHECK(block != NULL);
    CHECK(pool.entry[0].bytes == (int64_t)first || pool.entry[BMVP_NII_POOL_BLOCKS - 1].bytes == (int64_t)first);
    m.free(block, m.user);
    CHECK(m.alloc(first - 1, m.user) == block);
    m.free(block, m.user);
    block = m.alloc(more, m.user);
    CHECK(block != NULL);
    memset(block, 1, more);                                 /* AddressSanitizer looks at this one */
    m.free(block, m.user);
    bmvp_nii_pool_free(&pool);
}

static void test_resample_to(void)
{
    static const int64_t dim[3] = { 9, 8, 7 };
    static const double affine[16] = { 2, 0.1, 0, 5, 0, 1.5, 0.2, -4, 0.1, 0, 3, 9, 0, 0, 0, 1 };
    double m[16];
    bmvp_nii_volume v, grid, out;
    int64_t x, y, z;
    int mode;
    memset(&grid, 0, sizeof grid);
    CHECK_OK(bmvp_nii_volume_create(&v, dim, affine, NULL, &err));
    for (z = 0; z < 7; ++z)
        for (y = 0; y < 8; ++y)
            for (x = 0; x < 9; ++x) v.data[(z * 8 + y) * 9 + x] = (float)(2 * x - 3 * y + 5 * z + 1);
    pose_of(m, 0.1, 0.2, 0.3, 1, 2, -1);
    grid.dim[0] = grid.dim[1] = grid.dim[2] = 6;
    bmvpi_nii_identity(grid.affine);
    CHECK_OK(bmvp_nii_affine_inverse(grid.affine, m, &err));    /* voxel x of the grid is voxel 0.9 x of v */
    bmvpi_nii_matmul(grid.affine, grid.affine, v.affine);
    for (z = 0; z < 12; ++z) grid.affine[z] *= z % 4 == 3 ? 1 : 0.9;
    for (mode = 0; mode < 2; ++mode) {
        double worst = 0;
        CHECK_OK(bmvp_nii_resample_to(&out, &v, &grid, m, mode ? BMVP_NII_CUBIC : BMVP_NII_LINEAR, -7, &err));
        for (z = 2; z < 6; ++z)                             /* both are exact on a ramp */
            for (y = 2; y < 6; ++y)
                for (x = 2; x < 6; ++x)
                    worst = fmax(worst, fabs((double)out.data[(z * 6 + y) * 6 + x] -
                                             (0.9 * (double)(2 * x - 3 * y + 5 * z) + 1)));
        check_report(worst <= 1e-4, __FILE__, __LINE__, "mode %d: %g off", mode, worst);
        bmvp_nii_volume_free(&out);
    }
    grid.affine[3] += 900;
    CHECK_OK(bmvp_nii_resample_to(&out, &v, &grid, m, BMVP_NII_NEAREST, -7, &err));
    CHECK(out.data[0] < -6.9f && out.data[215] < -6.9f);
    bmvp_nii_volume_free(&out);
    CHECK_FAILS(bmvp_nii_resample_to(&out, &v, &grid, m, BMVP_NII_AREA, 0, &err), E_ARG, "interpolation 3");
    m[0] = HUGE_VAL;
    CHECK_FAILS(bmvp_nii_resample_to(&out, &v, &grid, m, BMVP_NII_LINEAR, 0, &err), E_ARG, "finite");
    bmvp_nii_volume_free(&v);
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    if (!CHECK(f != NULL)) return;
    fputs(text, f);
    fclose(f);
}

static void test_matrix_files(void)
{
    const char *const names[2] = { in_folder("moved.mat"), in_folder("moved.tfm") };
    double m[16], back[16];
    int i, k;
    pose_of(m, 0.3, -0.2, 0.5, 10, -20, 30);
    m[0] *= 1.1;
    for (i = 0; i < 2; ++i) {
        double worst = 0;
        CHECK_OK(bmvp_nii_matrix_write(names[i], m, &err));
        CHECK_OK(bmvp_nii_matrix_read(back, names[i], &err));
        for (k = 0; k < 16; ++k) worst = fmax(worst, fabs(m[k] - back[k]));
        check_report(worst <= 0, __FILE__, __LINE__, "%s: %g off", names[i], worst);
        remove(names[i]);
    }
    /* a quarter turn about z and a shift of (1, 2, 3) in LPS, about the centre (10, 0, 0), as ITK writes it */
    put(names[1], "#Insight Transform File V1.0\n#Transform 0\nTransform: Euler3DTransform_double_3_3\n"
                  "Parameters: 0 0 1.5707963267948966 1 2 3\nFixedParameters: 10 0 0\n");
    CHECK_OK(bmvp_nii_matrix_read(back, names[1], &err));
    {
        double p[3] = { -10, 0, 0 };                        /* RAS of the centre: goes to LPS (11, 2, 3) */
        bmvpi_nii_apply(p, back, p);
        CHECK_NEAR(p[0], -11, 1e-9);
        CHECK_NEAR(p[1], -2, 1e-9);
        CHECK_NEAR(p[2], 3, 1e-9);
        p[0] = -11;                                         /* LPS (11, 0, 0) turns to (10, 1, 0) + (1, 2, 3) */
        p[1] = p[2] = 0;
        bmvpi_nii_apply(p, back, p);
        CHECK_NEAR(p[0], -11, 1e-9);
        CHECK_NEAR(p[1], -3, 1e-9);
        CHECK_NEAR(p[2], 3, 1e-9);
    }
    put(names[1], "#Insight Transform File V1.0\n#Transform 0\nTransform: VersorRigid3DTransform_double_3_3\n"
                  "Parameters: 0 0 0.7071067811865476 1 2 3\nFixedParameters: 10 0 0\n");
    CHECK_OK(bmvp_nii_matrix_read(m, names[1], &err));
    for (k = 0; k < 16; ++k) CHECK_NEAR(m[k], back[k], 1e-9);
    put(names[1], "#Insight Transform File V1.0\nTransform: BSplineTransform_double_3_3\nParameters: 1\n");
    CHECK_FAILS(bmvp_nii_matrix_read(m, names[1], &err), E_FORMAT, "is none of");
    put(names[1], "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\nParameters: 1 0 0 0 1\n");
    CHECK_FAILS(bmvp_nii_matrix_read(m, names[1], &err), E_FORMAT, "5 numbers, not 12");
    put(names[1], "1 0 0 0\n0 1 0 0\n0 0 1 0\n");
    CHECK_FAILS(bmvp_nii_matrix_read(m, names[1], &err), E_FORMAT, "16 numbers");
    put(names[1], "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 1 1\n");
    CHECK_FAILS(bmvp_nii_matrix_read(m, names[1], &err), E_FORMAT, "last row");
    put(names[1], "nan 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n");
    CHECK_FAILS(bmvp_nii_matrix_read(m, names[1], &err), E_FORMAT, "finite");
    remove(names[1]);
    CHECK_FAILS(bmvp_nii_matrix_read(m, names[1], &err), E_IO, "cannot be opened");
}

/* Against every pair of voxels. */
static void test_distance(void)
{
    static const int64_t dim[3] = { 9, 7, 6 };
    static const double affine[16] = { -1.2, 0, 0, 0, 0, 0.8, 0, 0, 0, 0, 2.5, 0, 0, 0, 0, 1 },
                        mm[3] = { 1.2, 0.8, 2.5 };
    bmvp_nii_volume mask, d;
    int64_t n = 9 * 7 * 6, i, j;
    int round, a;
    for (round = 0; round < 4; ++round) {
        double worst = 0;
        CHECK_OK(bmvp_nii_volume_create(&mask, dim, affine, NULL, &err));
        for (i = 0; i < n; ++i)
            mask.data[i] = round == 3 ? 0 : (bmvpi_nii_hash((uint32_t)(i + 1000 * round)) & 7) < (round == 1 ? 1u : 4u);
        CHECK_OK(bmvp_nii_distance(&d, &mask, &err));
        for (i = 0; i < n; ++i) {
            double best = HUGE_VAL, want;
            for (j = 0; j < n; ++j) {
                const int64_t to[3] = { j % 9 - i % 9, j / 9 % 7 - i / 9 % 7, j / 63 - i / 63 };
                double sum = 0;
                if ((mask.data[i] > 0) == (mask.data[j] > 0)) continue;
                for (a = 0; a < 3; ++a) sum += (double)(to[a] * to[a]) * mm[a] * mm[a];
                best = fmin(best, sum);
            }
            want = sqrt(best) - 0.75;
            if (want > 1e6) want = 1e6;
            if (mask.data[i] > 0) want = -want;
            worst = fmax(worst, fabs(want - (double)d.data[i]));
        }
        check_report(worst <= 1e-5, __FILE__, __LINE__, "round %d: %g mm off", round, worst);
        bmvp_nii_volume_free(&d);
        bmvp_nii_volume_free(&mask);
    }
}

static void test_component_and_smoothing(void)
{
    static const int64_t dim[3] = { 12, 12, 12 };
    static const double affine[16] = { 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1 };
    const double fwhm[3] = { 2, 4, 0 };
    bmvp_nii_volume v;
    double sum = 0, along[3] = { 0, 0, 0 };
    int64_t i;
    CHECK_OK(bmvp_nii_volume_create(&v, dim, affine, NULL, &err));
    for (i = 0; i < 10; ++i) v.data[i] = 3; /* a row of ten, and a square of nine that only touches by a corner */
    for (i = 0; i < 9; ++i) v.data[144 + 12 + 10 + i % 2 + 12 * (i / 2)] = 1;
    CHECK_OK(bmvp_nii_largest_component(&v, &err));
    for (i = 0; i < 1728; ++i) sum += (double)v.data[i];
    CHECK_NEAR(sum, 10, 0);
    memset(v.data, 0, 1728 * sizeof *v.data);
    v.data[(6 * 12 + 6) * 12 + 6] = 1;
    CHECK_OK(bmvp_nii_smooth(&v, fwhm, &err));
    for (sum = 0, i = 0; i < 1728; ++i) {
        const double d[3] = { (double)(i % 12 - 6), 2 * (double)(i / 12 % 12 - 6), (double)(i / 144 - 6) };
        int a;
        sum += (double)v.data[i];
        for (a = 0; a < 3; ++a) along[a] += (double)v.data[i] * d[a] * d[a];
    }
    CHECK_NEAR(sum, 1, 1e-5);
    CHECK_NEAR(sqrt(along[0]) * 2.3548, 2, 0.1);            /* cut at 3 sigma: a little narrower */
    CHECK_NEAR(sqrt(along[1]) * 2.3548, 4, 0.15);
    CHECK_NEAR(along[2], 0, 1e-9);
    bmvp_nii_volume_free(&v);
}

/* What a doubtful mask is said to be. */
static void test_doubts(void)
{
    bmvp_nii_brain_report r;
    char text[200];
    memset(&r, 0, sizeof r);
    r.stretch[0] = r.stretch[1] = r.stretch[2] = 1;
    r.litres = 1.4;
    r.kept = 0.95;
    CHECK(bmvp_nii_brain_doubts(&r, text, sizeof text) == 0 && text[0] == 0);
    r.litres = 2.5;
    r.stretch[2] = 0.5;
    r.against = 0.75;
    CHECK(bmvp_nii_brain_doubts(&r, text, sizeof text) == 3);
    CHECK(strstr(text, "0.50") && strstr(text, "2.50 litres") && strstr(text, "0.75 of it"));
    CHECK(bmvp_nii_brain_doubts(&r, NULL, 0) == 3);
    CHECK(bmvp_nii_brain_doubts(&r, text, 8) == 3 && strlen(text) == 7);
    r.edge = 0.06;
    CHECK(bmvp_nii_brain_doubts(&r, text, sizeof text) == 4 && strstr(text, "0.06 of its surface"));
}

/* Holes are filled; what comes from outside over two faces of the grid, a corner that the mask cuts off, is none. */
static void test_holes(void)
{
    const int64_t dim[3] = { 12, 12, 4 };
    double one[16];
    bmvp_nii_volume v;
    int64_t x, y, z;
    bmvpi_nii_identity(one);
    CHECK_OK(bmvp_nii_volume_create(&v, dim, one, NULL, &err));
    for (z = 0; z < 4; ++z)
        for (y = 0; y < 12; ++y)
            for (x = 0; x < 12; ++x) v.data[(z * 12 + y) * 12 + x] = x > 2 && (x > 5 || y > 3);
    v.data[(1 * 12 + 8) * 12 + 8] = 0;                      /* a hole */
    v.data[(0 * 12 + 8) * 12 + 4] = 0;                      /* a dent of the first slice */
    for (z = 0; z < 4; ++z) v.data[(z * 12 + 11) * 12 + 11] = 0;
    CHECK_OK(bmvpi_nii_keep_largest(&v, 0, &err));
    CHECK(v.data[(1 * 12 + 8) * 12 + 8] > 0 && v.data[(0 * 12 + 8) * 12 + 4] > 0);
    CHECK(!(v.data[11 * 12 + 11] > 0) && !(v.data[0] > 0) && v.data[8] > 0);
    bmvp_nii_volume_free(&v);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    strcpy(folder, "/tmp/bmvp_test_moved_XXXXXX");
    if (mkdtemp(folder) == NULL) return 1;
    CHECK_RUN(test_pool);
    CHECK_RUN(test_resample_to);
    CHECK_RUN(test_matrix_files);
    CHECK_RUN(test_distance);
    CHECK_RUN(test_component_and_smoothing);
    CHECK_RUN(test_doubts);
    CHECK_RUN(test_holes);
    CHECK(rmdir(folder) == 0);
    return check_end();
}
