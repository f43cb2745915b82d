/* test_register.c - registration and brain masks (test_moved.c: resampling, transform files): phantom heads whose truth
   is known exactly, since they are functions of mm that are read on any grid; real heads where BMVP_DATA has them. */
#define BMVP_NIFTI_IMPLEMENTATION
#include "bmvp_nifti.h"
#include "tests/support/nifti.h"
#include "tests/support/overlap.h"
#include <pthread.h>

/* ---- a head as a function of mm -------------------------------------------------------------------------------- */

static double ramp(double x)
{
    return x < -1 ? 0 : x > 1 ? 1 : 0.5 + 0.5 * x * (1.5 - 0.5 * x * x);
}

/* 1 inside of an ellipsoid, with an edge of about 2 mm. */
static double ellipsoid(const double p[3], double x, double y, double z, double a, double b, double c)
{
    const double u = (p[0] - x) / a, v = (p[1] - y) / b, w = (p[2] - z) / c, r = sqrt(u * u + v * v + w * w);
    return ramp((1 - r) * fmin(a, fmin(b, c)));
}

/* Values of scalp, skull, grey, white, ventricle, lesion. */
static const double contrasts[3][6] = {
    { 90, 15, 60, 95, 20, 40 }, { 60, 10, 85, 55, 160, 140 }, { 70, 12, 95, 70, 25, 150 }
};

static double scalp; /* mm more than in others */
static double bulge; /* mm by which the shape differs from others, here so, there otherwise */

static void shape(double out[3], const double p[3])
{
    const double x = p[0], y = p[1], z = p[2];
    out[0] = x + bulge * sin(y / 40);
    out[1] = y + bulge * sin(z / 35 + 1);
    out[2] = z + bulge * sin(x / 45 + 2);
}

static double head(const double at[3], const double *value)
{
    double p[3], q[3], fold, v = 0, w;
    int k;
    shape(p, at);
    fold = 3 * sin(p[0] / 5) * sin(p[1] / 6 + 1) * sin(p[2] / 5.5 + 2);
    for (k = 0; k < 3; ++k) q[k] = p[k] * (1 + fold / 70);
#define LAYER(inside, x) w = inside; v += w * ((x) - v)
    LAYER(ellipsoid(p, 0, 0, 0, 76 + scalp, 94 + scalp, 88 + scalp), value[0]);
    LAYER(ellipsoid(p, 0, 0, 2, 70, 88, 82), value[1]);
    LAYER(ellipsoid(p, 0, 0, 3, 65, 82, 74), value[2]);
    LAYER(ellipsoid(q, 0, 0, 3, 58, 75, 66), value[3]);
    LAYER(ellipsoid(p, 12, 5, 8, 6, 24, 12), value[4]);
    LAYER(ellipsoid(p, -12, 2, 8, 6, 22, 12), value[4]);
    LAYER(ellipsoid(p, 30, -30, 20, 9, 12, 8), value[5]);
    LAYER(ellipsoid(p, 28, 78, -30, 12, 14, 12), value[4]);
    LAYER(ellipsoid(p, -30, 78, -28, 12, 14, 12), value[4]);
#undef LAYER
    return v;
}

/* What a scanner with this grid sees of a head that lies at `pose` (head mm -> scanner mm). Thick slices are means. */
static void scan(bmvp_nii_volume *v, const int64_t dim[3], const double affine[16], const double pose[16], int contrast)
{
    double back[16], mm[3];
    int64_t x, y, z, i = 0;
    int k, parts;
    CHECK_OK(bmvp_nii_volume_create(v, dim, affine, NULL, &err));
    CHECK_OK(bmvp_nii_affine_inverse(back, pose, &err));
    bmvpi_nii_matmul(back, back, affine);
    bmvp_nii_voxel_size(mm, affine);
    parts = mm[2] > 3 ? 3 : 1;
    for (z = 0; z < dim[2]; ++z)
        for (y = 0; y < dim[1]; ++y)
            for (x = 0; x < dim[0]; ++x, ++i) {
                double sum = 0;
                for (k = 0; k < parts; ++k) {
                    double p[3];
                    p[0] = (double)x;
                    p[1] = (double)y;
                    p[2] = (double)z + (k + 0.5) / parts - 0.5;
                    bmvpi_nii_apply(p, back, p);
                    sum += head(p, contrasts[contrast]);
                }
                v->data[i] = (float)(sum / parts + 2 * ((double)(bmvpi_nii_hash((uint32_t)i) & 1023) / 512 - 1));
            }
}

/* A turn of w radians, then a shift, of mm. */
static const int64_t coarse_dim[3] = { 46, 54, 51 };
static const double coarse_affine[16] = { 3.9, 0, 0, -88, 0, 3.9, 0, -104, 0, 0, 3.9, -96, 0, 0, 0, 1 };
static const int64_t fixed_dim[3] = { 72, 84, 80 };
static const double fixed_affine[16] = { 2.5, 0, 0, -88, 0, 2.5, 0, -104, 0, 0, 2.5, -96, 0, 0, 0, 1 };
static const int64_t thick_dim[3] = { 96, 112, 38 };
static const double thick_affine[16] = { -1.9, 0, 0, 92, 0, 1.9, 0, -106, 0, 0, 5, -90, 0, 0, 0, 1 };

static double brain_error(const bmvp_nii_registration *r, const double truth[16])
{
    bmvp_nii_volume grid;
    const double affine[16] = { 13, 0, 0, -65, 0, 16, 0, -80, 0, 0, 14, -70, 0, 0, 0, 1 };
    memset(&grid, 0, sizeof grid);
    grid.dim[0] = grid.dim[1] = grid.dim[2] = 11;
    memcpy(grid.affine, affine, sizeof affine);
    return bmvp_nii_matrix_distance(r->matrix, truth, &grid);
}

/* ---- registration ---------------------------------------------------------------------------------------------- */

static void test_known_transforms(void)
{
    static const struct { double w[3], t[3]; int contrast, thick, dof; double most; } rows[] = {
        { { 0, 0, 0 }, { 0, 0, 0 }, 0, 0, 6, 0.05 },        { { 0.1, -0.2, 0.15 }, { 8, -11, 5 }, 0, 0, 6, 0.05 },
        { { 0.1, -0.2, 0.15 }, { 8, -11, 5 }, 1, 0, 6, 0.7 }, { { -0.4, 0.3, 0.4 }, { 20, 25, -18 }, 2, 1, 6, 0.7 },
        { { 0.2, 0.1, -0.6 }, { -25, 10, 22 }, 1, 1, 6, 0.7 }, { { 0.1, 0.05, 0.1 }, { 5, 3, -6 }, 0, 0, 12, 0.5 },
        { { 1.5, 0.2, 0.1 }, { 8, -11, 5 }, 1, 0, 6, 0.7 }, { { 0.3, -0.2, 0.4 }, { 40, -12, 10 }, 1, 1, 6, 0.7 },
        { { 0.1, 0.05, 0.1 }, { 5, 3, -6 }, 0, 0, 7, 0.1 },   { { 0.1, 0.05, 0.1 }, { 5, 3, -6 }, 0, 0, 9, 0.1 },
        /* so scaled, it lies best in a turn by 15 degrees more while it has one scale or none */
        { { 0.1, 0.05, 0.1 }, { 5, 3, -6 }, 1, 0, 12, 0.7 },
    };
    double one[16], truth[16], scale[16];
    bmvp_nii_volume f, m;
    size_t i;
    bmvpi_nii_identity(one);
    scan(&f, fixed_dim, fixed_affine, one, 0);
    for (i = 0; i < sizeof rows / sizeof *rows; ++i) {
        bmvp_nii_register_how how;
        bmvp_nii_registration r;
        double off;
        memset(&how, 0, sizeof how);
        how.dof = rows[i].dof;
        how.search = rows[i].w[0] > 1 ? BMVP_NII_SEARCH_ALL : BMVP_NII_SEARCH_SMALL;
        if (i != 1 && i < 7 && !rows[i].thick) how.samples = 50000; /* of 200000, which the others need to be as near */
        pose_of(truth, rows[i].w[0], rows[i].w[1], rows[i].w[2], rows[i].t[0], rows[i].t[1], rows[i].t[2]);
        if (rows[i].dof > 6) { /* 12: an ellipsoid fits itself in many ways, real heads (below) are held to 0.1 */
            bmvpi_nii_identity(scale);
            scale[0] = scale[5] = scale[10] = 1.1;
            if (rows[i].dof > 7) scale[5] = 0.92, scale[10] = 1.05;
            if (rows[i].dof > 9) scale[1] = scale[4] = 0.04;
            bmvpi_nii_matmul(truth, truth, scale);
        }
        if (rows[i].thick) scan(&m, thick_dim, thick_affine, truth, rows[i].contrast);
        else scan(&m, fixed_dim, fixed_affine, truth, rows[i].contrast);
        if (CHECK_OK(bmvp_nii_register(&r, &f, &m, &how, &err))) {
            off = brain_error(&r, truth);
            check_report(off <= rows[i].most, __FILE__, __LINE__,
                         "case %d: %.3f mm off (at most %g), NMI %.4f, %d evaluations", (int)i, off, rows[i].most,
                         r.nmi, r.evaluations);
            CHECK(r.nmi > 1.05 && r.overlap > 0.5 && r.nmi_coarse > 1);
            if (getenv("REGISTER_VERBOSE"))
                printf("case %d: %.3f mm, NMI %.4f, coarse %.4f, next %.4f, overlap %.2f, %d\n", (int)i, off, r.nmi,
                       r.nmi_coarse, r.runner_up, r.overlap, r.evaluations);
        }
        bmvp_nii_volume_free(&m);
    }
    bmvp_nii_volume_free(&f);
}

/* Central differences of the cost in each parameter, at three poses. */
static void test_gradient(void)
{
    double one[16], g[12], linear[9] = { 1, 0, 0, 0, 1, 0, 0, 0, 1 };
    static bmvpi_nii_cost q;
    bmvp_nii_volume f, m, fl, ml, mask;
    int64_t i[3], at;
    bmvpi_nii_io io;
    double has[3];
    int k, n;
    bmvpi_nii_identity(one);
    scan(&f, fixed_dim, fixed_affine, one, 0);
    scan(&m, fixed_dim, fixed_affine, one, 1);
    io = bmvpi_nii_io_of(&f, &err);
    bmvp_nii_voxel_size(has, f.affine);
    CHECK_OK(bmvpi_nii_level(&fl, &f, 4, has, &io));
    bmvp_nii_voxel_size(has, f.affine);
    CHECK_OK(bmvpi_nii_level(&ml, &m, 4, has, &io));
    q.moving = &ml;
    q.bins = 32;
    q.prior = 0.02;
    q.hist = (float (*)[BMVPI_NII_MOST_BINS * BMVPI_NII_MOST_BINS])malloc(BMVPI_NII_CHUNKS * sizeof *q.hist);
    CHECK_OK(bmvp_nii_affine_inverse(q.to_index, ml.affine, &err));
    CHECK_OK(bmvpi_nii_range(&q.low, &q.high, ml.data, ml.dim[0] * ml.dim[1] * ml.dim[2], 0.1, 99.9, &io));
    CHECK_OK(bmvp_nii_volume_copy(&mask, &f, &err));        /* no sample near the border: leaving it is a jump */
    for (i[2] = 0, at = 0; i[2] < 80; ++i[2])
        for (i[1] = 0; i[1] < 84; ++i[1])
            for (i[0] = 0; i[0] < 72; ++i[0], ++at)
                mask.data[at] = i[0] > 8 && i[0] < 64 && i[1] > 8 && i[1] < 76 && i[2] > 8 && i[2] < 72;
    CHECK_OK(bmvpi_nii_draw_samples(&q.s, &fl, &mask, 4, 200000, 32, &io));
    for (n = 0; n < 3; ++n) {
        double largest = 0, worst = 0;
        bmvpi_nii_pose p;
        memset(&p, 0, sizeof p);
        memcpy(p.base, linear, sizeof linear);
        memcpy(p.t0, q.s.centre, sizeof p.t0);
        p.n = 12;
        for (k = 0; k < 12; ++k) p.th[k] = 2 * sin(3.0 * k + n);
        bmvpi_nii_pose_value(&q, &p);
        bmvpi_nii_pose_gradient(&q, &p, g, NULL);
        for (k = 0; k < 12; ++k) {
            bmvpi_nii_pose a = p, b = p;
            double d;
            a.th[k] -= 0.02;
            b.th[k] += 0.02;
            d = (bmvpi_nii_pose_value(&q, &b) - bmvpi_nii_pose_value(&q, &a)) / 0.04;
            worst = fmax(worst, fabs(d - g[k]));
            largest = fmax(largest, fabs(g[k]));
        }
        check_report(worst <= 0.01 * largest, __FILE__, __LINE__, "pose %d: gradient off by %g of %g", n, worst,
                     largest);
    }
    free(q.hist);
    free(q.s.block);
    bmvp_nii_volume_free(&mask);
    bmvp_nii_volume_free(&f);
    bmvp_nii_volume_free(&m);
    bmvp_nii_volume_free(&fl);
    bmvp_nii_volume_free(&ml);
}

/* A file below BMVP_DATA; 0 and a test that is skipped when there is none. */
static int read_real(bmvp_nii_volume *v, const char *file, int visit, const char *name)
{
    const char *data = getenv("BMVP_DATA");
    char path[4096];
    const int n = snprintf(path, sizeof path, "%s/data/", data ? data : "none");
    snprintf(path + n, sizeof path - (size_t)n, file, visit, name);
    if (bmvp_nii_read_volume(v, path, NULL, NULL, &err) == BMVP_OK) return 1;
    check_skip(path);
    return 0;
}

/* Heads as the scanner wrote them, each on its own grid: around FLAIR, T1, T2 and back, and the published transform. */
static void test_real_heads(void)
{
    static const char *const names[3] = { "FLAIR", "T1W", "T2W" };
    bmvp_nii_volume v[3], grid;
    bmvp_nii_registration r[3];
    double loop[16], one[16], published[16];
    char path[4096];
    int i;
    memset(v, 0, sizeof v);
    for (i = 0; i < 3; ++i)
        if (!read_real(&v[i], "raw/openms_raw_01/study%d_%s.nii.gz", 1, names[i])) break;
    bmvpi_nii_identity(one);
    memcpy(loop, one, sizeof loop);
    if (i == 3) {
        grid = v[0];
        grid.data = NULL;
        for (i = 0; i < 3; ++i) {
            CHECK_OK(bmvp_nii_register(&r[i], &v[i], &v[(i + 1) % 3], NULL, &err));
            bmvp_nii_matrix_multiply(loop, r[i].matrix, loop);
        }
        check_report(bmvp_nii_matrix_distance(loop, one, &grid) <= 1, __FILE__, __LINE__, "loop: %.3f mm",
                     bmvp_nii_matrix_distance(loop, one, &grid));
        snprintf(path, sizeof path, "%s/data/raw/openms_raw_01/study1_T1W_to_FLAIR.txt", getenv("BMVP_DATA"));
        CHECK_OK(bmvp_nii_matrix_read(published, path, &err));
        check_report(bmvp_nii_matrix_distance(published, r[0].matrix, &grid) <= 1, __FILE__, __LINE__,
                     "published: %.3f mm", bmvp_nii_matrix_distance(published, r[0].matrix, &grid));
    }
    for (i = 0; i < 3; ++i) bmvp_nii_volume_free(&v[i]);
}

/* The header of one image turned by up to 25 degrees about each axis and moved by up to 25 mm: twelve draws of each
   of four pairs end where the header as it is ends. */
static void test_real_capture(void)
{
    static const char *const names[2] = { "T1W", "T2W" };
    int pair, draw, a;
    for (pair = 0; pair < 4; ++pair) {
        bmvp_nii_volume f, m;
        bmvp_nii_registration want, got;
        double was[16], move[16], by[6], off;
        if (!read_real(&f, "raw/openms_raw_01/study%d_%s.nii.gz", 1 + pair / 2, "FLAIR")) return;
        CHECK(read_real(&m, "raw/openms_raw_01/study%d_%s.nii.gz", 1 + pair / 2, names[pair % 2]));
        CHECK_OK(bmvp_nii_register(&want, &f, &m, NULL, &err));
        memcpy(was, m.affine, sizeof was);
        for (draw = 0; draw < 12; ++draw) {
            for (a = 0; a < 6; ++a)
                by[a] = (double)(bmvpi_nii_hash((uint32_t)(100 * pair + 6 * draw + a)) & 1023) / 511.5 - 1;
            pose_of(move, 0.436 * by[0], 0.436 * by[1], 0.436 * by[2], 25 * by[3], 25 * by[4], 25 * by[5]);
            bmvpi_nii_matmul(m.affine, move, was);
            CHECK_OK(bmvp_nii_register(&got, &f, &m, NULL, &err));
            bmvpi_nii_matmul(move, move, want.matrix);
            off = bmvp_nii_matrix_distance(got.matrix, move, &f);
            check_report(off <= 0.1, __FILE__, __LINE__, "pair %d, draw %d: %.3f mm", pair, draw, off);
        }
        bmvp_nii_volume_free(&f);
        bmvp_nii_volume_free(&m);
    }
}

/* What a scanner sees of src when it lies at `pose`: 1 mm, or slices of 5 mm, with noise of 2 %. */
static void scan_again(bmvp_nii_volume *v, const bmvp_nii_volume *src, const double pose[16], int thick)
{
    static const double slice[3] = { 0, 0, 5 };
    bmvp_nii_volume one, grid = *src;
    bmvpi_nii_io io = bmvpi_nii_io_of(src, &err);
    double back[16];
    float low, high;
    int64_t i, n;
    int a;
    CHECK_OK(bmvp_nii_affine_inverse(back, pose, &err));
    CHECK_OK(bmvp_nii_resample_to(&one, src, &grid, back, BMVP_NII_CUBIC, 0, &err));
    if (thick) {
        CHECK_OK(bmvp_nii_smooth(&one, slice, &err));
        grid.dim[2] /= 5;
        for (a = 0; a < 3; ++a) grid.affine[4 * a + 2] *= 5;
        CHECK_OK(bmvp_nii_resample_to(v, &one, &grid, NULL, BMVP_NII_LINEAR, 0, &err));
        bmvp_nii_volume_free(&one);
    } else *v = one;
    n = v->dim[0] * v->dim[1] * v->dim[2];
    CHECK_OK(bmvpi_nii_range(&low, &high, v->data, n, 0.1, 99.9, &io));
    for (i = 0; i < n; ++i)
        v->data[i] += (float)(0.034 * (double)(high - low) * ((double)(bmvpi_nii_hash((uint32_t)i) & 1023) / 512 - 1));
}

/* Up to 15 degrees about each axis and 15 mm, drawn, or (hard) 40 degrees and 40 mm: about the middle of f. */
static void motion(double truth[16], const bmvp_nii_volume *f, int draw, int hard)
{
    double by[6], middle[3];
    int a, k;
    for (a = 0; a < 6; ++a) by[a] = (double)(bmvpi_nii_hash((uint32_t)(6 * draw + a)) & 1023) / 511.5 - 1;
    if (hard) pose_of(truth, 0.4, -0.3, 0.48, -24, 26, 18);
    else pose_of(truth, 0.26 * by[0], 0.26 * by[1], 0.26 * by[2], 15 * by[3], 15 * by[4], 15 * by[5]);
    for (k = 0; k < 3; ++k) middle[k] = 0.5 * (double)(f->dim[k] - 1);
    bmvpi_nii_apply(middle, f->affine, middle);
    for (a = 0; a < 3; ++a)
        for (truth[4 * a + 3] += middle[a], k = 0; k < 3; ++k) truth[4 * a + 3] -= truth[4 * a + k] * middle[k];
}

/* Motion that the headers do not know, of real brains: the table of registration.md in ../shared. */
static void test_real_contrasts(void)
{
    static const struct {
        const char *file;
        int patient;
        const char *fixed, *moving;
        int thick, hard, dof;
        double most;
    } rows[] = {
        { "patients/openms_%02d/%s.nii.gz", 7, "t1", "t1", 0, 0, 6, 0.05 },
        { "patients/openms_%02d/%s.nii.gz", 7, "t1", "t1", 1, 0, 6, 0.05 },
        { "patients/openms_%02d/%s.nii.gz", 7, "t1", "t1", 0, 0, 12, 0.1 },
        { "patients/openms_%02d/%s.nii.gz", 7, "t1", "t2", 0, 0, 12, 0.7 },
        { "patients/openms_%02d/%s.nii.gz", 7, "t1", "t1c", 0, 0, 6, 0.7 },
        { "patients/openms_%02d/%s.nii.gz", 7, "t1", "t2", 1, 0, 6, 0.7 },
        { "patients/openms_%02d/%s.nii.gz", 7, "t1", "flair", 0, 0, 6, 0.7 },
        { "patients/openms_%02d/%s.nii.gz", 7, "t1", "flair", 1, 1, 6, 0.7 },
        { "patients/openms_%02d/%s.nii.gz", 19, "t1", "t2", 1, 1, 6, 0.7 },
        { "patients/openms_%02d/%s.nii.gz", 19, "t1", "flair", 0, 0, 6, 0.7 },
        { "patients/msd_brats_%03d/%s.nii.gz", 1, "t1c", "t1", 1, 0, 6, 0.7 },
        { "patients/msd_brats_%03d/%s.nii.gz", 1, "t1c", "t2", 0, 0, 6, 0.7 },
        { "patients/msd_brats_%03d/%s.nii.gz", 1, "t1c", "flair", 1, 0, 6, 0.7 },
    };
    double cross[16], truth[16], scale[16];
    int i, n = 0, small = 0;
    for (i = 0; i < (int)(sizeof rows / sizeof *rows); ++i) {
        bmvp_nii_volume f, src, m;
        bmvp_nii_register_how how;
        bmvp_nii_registration r;
        double off;
        if (!read_real(&f, rows[i].file, rows[i].patient, rows[i].fixed)) return;
        CHECK(read_real(&src, rows[i].file, rows[i].patient, rows[i].moving));
        motion(truth, &f, i, rows[i].hard);
        bmvpi_nii_identity(scale);
        scale[0] = 1.1, scale[5] = 0.92, scale[10] = 1.05, scale[1] = scale[4] = 0.05;
        if (rows[i].dof > 6) bmvpi_nii_matmul(truth, truth, scale);
        scan_again(&m, &src, truth, rows[i].thick);
        memset(&how, 0, sizeof how);
        how.dof = rows[i].dof;
        CHECK_OK(bmvp_nii_register(&r, &f, &m, &how, &err));
        off = bmvp_nii_matrix_distance(r.matrix, truth, &f);
        check_report(off <= rows[i].most, __FILE__, __LINE__,
                     "%s of %d on %s, %d degrees of freedom: %.3f mm, at most %g",
                     rows[i].moving, rows[i].patient, rows[i].fixed, rows[i].dof, off, rows[i].most);
        if (getenv("REGISTER_VERBOSE"))
            printf("%s %d %s, %d: %.3f mm\n", rows[i].moving, rows[i].patient, rows[i].fixed, rows[i].dof, off);
        if (rows[i].dof == 6 && rows[i].most > 0.1) cross[n++] = off;
        bmvp_nii_volume_free(&f);
        bmvp_nii_volume_free(&src);
        bmvp_nii_volume_free(&m);
    }
    for (i = 0; i < n; ++i) small += cross[i] <= 0.35;
    check_report(2 * small > n, __FILE__, __LINE__, "%d of %d are within 0.35 mm", small, n);
}

/* One volume in 13 orders of its axes: each lies on the one before. */
static void test_real_orientations(void)
{
    static const char *const names[13] = { "RAS", "AIL", "ASL", "ILA", "IRP", "LAS", "LIA",
                                           "LPS", "PIR", "PLI", "RPI", "SPL", "SRP" };
    bmvp_nii_volume v[2];
    double one[16], off;
    int i;
    memset(v, 0, sizeof v);
    bmvpi_nii_identity(one);
    for (i = 0; i < 13 && read_real(&v[i % 2], "reference/orientation/%.0d%s.nii.gz", 0, names[i]); ++i) {
        bmvp_nii_registration r;
        if (i > 0) {
            CHECK_OK(bmvp_nii_register(&r, &v[1 - i % 2], &v[i % 2], NULL, &err));
            off = bmvp_nii_matrix_distance(r.matrix, one, &v[1 - i % 2]);
            check_report(off <= 0.02, __FILE__, __LINE__, "%s: %.4f mm", names[i], off);
        }
        bmvp_nii_volume_free(&v[1 - i % 2]);
    }
    for (i = 0; i < 2; ++i) bmvp_nii_volume_free(&v[i]);
}

/* ---- brain masks ------------------------------------------------------------------------------------------------- */

/* The brain of a head that lies at `pose`, on the grid of v. */
static void brain_of(bmvp_nii_volume *mask, const bmvp_nii_volume *v, const double pose[16])
{
    double back[16];
    int64_t x, y, z, i = 0;
    CHECK_OK(bmvp_nii_volume_create(mask, v->dim, v->affine, NULL, &err));
    CHECK_OK(bmvp_nii_affine_inverse(back, pose, &err));
    bmvpi_nii_matmul(back, back, v->affine);
    for (z = 0; z < v->dim[2]; ++z)
        for (y = 0; y < v->dim[1]; ++y)
            for (x = 0; x < v->dim[0]; ++x, ++i) {
                double p[3];
                p[0] = (double)x;
                p[1] = (double)y;
                p[2] = (double)z;
                bmvpi_nii_apply(p, back, p);
                shape(p, p);
                mask->data[i] = ellipsoid(p, 0, 0, 3, 65, 82, 74) >= 0.5;
            }
}

static void test_brain_mask(void)
{
    static const struct { double w[3], t[3], size[3], scalp, bulge; int contrast, thick, cut; } rows[] = {
        { { 0, 0, 0 }, { 0, 0, 0 }, { 1, 1, 1 }, 0, 0, 0, 0, 0 },
        { { 0.1, -0.1, 0.2 }, { 6, -5, 4 }, { 1.06, 0.94, 1.03 }, 3, 6, 1, 0, 0 },
        { { -0.2, 0.1, 0.1 }, { -6, 8, -5 }, { 0.93, 0.97, 1.05 }, 4, 0, 2, 1, 0 },
        { { 0.05, 0, 0.1 }, { 3, 2, 0 }, { 1, 1.02, 1 }, 2, 0, 1, 1, 14 },  /* the brain reaches the edge */
    };
    bmvp_nii_volume tmpl, brain, v[2], truth, mask;
    double one[16], pose[16];
    size_t i;
    int k;
    bmvpi_nii_identity(one);
    scalp = 0;
    scan(&tmpl, coarse_dim, coarse_affine, one, 0);
    brain_of(&brain, &tmpl, one);
    for (i = 0; i < sizeof rows / sizeof *rows; ++i) {
        bmvp_nii_brain_report report;
        int64_t dim[3];
        pose_of(pose, rows[i].w[0], rows[i].w[1], rows[i].w[2], rows[i].t[0], rows[i].t[1], rows[i].t[2]);
        for (k = 0; k < 12; ++k)
            if (k % 4 < 3) pose[k] *= rows[i].size[k % 4];
        scalp = rows[i].scalp, bulge = rows[i].bulge;
        memcpy(dim, rows[i].thick ? thick_dim : coarse_dim, sizeof dim);
        dim[2] -= rows[i].cut;
        for (k = 0; k < 2; ++k)
            scan(&v[k], dim, rows[i].thick ? thick_affine : coarse_affine, pose, (rows[i].contrast + k) % 3);
        brain_of(&truth, &v[0], pose);
        if (CHECK_OK(bmvp_nii_brain_mask(&mask, v, 2, &tmpl, &brain, NULL, &report, &err))) {
            check_report(dice(&mask, &truth) >= 0.97, __FILE__, __LINE__, "case %d: Dice %.4f, %.2f l, kept %.3f, "
                         "edge %.2f", (int)i, dice(&mask, &truth), report.litres, report.kept, report.edge);
            CHECK(report.doubtful == (rows[i].cut > 0) && report.against < 0.3);
            CHECK((report.edge > 0.05) == (rows[i].cut > 0));
            if (getenv("REGISTER_VERBOSE"))
                printf("case %d: Dice %.4f, %.2f l, kept %.3f, edge %.3f, stretch %.2f %.2f\n", (int)i,
                       dice(&mask, &truth), report.litres, report.kept, report.edge, report.stretch[0],
                       report.stretch[2]);
            bmvp_nii_volume_free(&mask);
        }
        CHECK(!bmvp_nii_is_stripped(&v[0]));
        for (k = 0; k < (int)(dim[0] * dim[1] * dim[2]); ++k) v[0].data[k] *= truth.data[k];
        CHECK(bmvp_nii_is_stripped(&v[0]));
        bmvp_nii_volume_free(&truth);
        for (k = 0; k < 2; ++k) bmvp_nii_volume_free(&v[k]);
    }
    scalp = bulge = 0;
    CHECK_FAILS(bmvp_nii_brain_mask(&mask, NULL, 0, &tmpl, &brain, NULL, NULL, &err), E_ARG, "volumes is NULL");
    brain.affine[3] += 9;
    CHECK_FAILS(bmvp_nii_brain_mask(&mask, &tmpl, 1, &tmpl, &brain, NULL, NULL, &err), E_ARG, "tmpl_brain");
    bmvp_nii_volume_free(&tmpl);
    bmvp_nii_volume_free(&brain);
}

/* Without refinement the template's own surface is left: the deformation must bring it nearer than the affine. */
static void test_deformation(void)
{
    bmvp_nii_volume tmpl, brain, v, truth, mask;
    double one[16], by[2];
    int k;
    bmvpi_nii_identity(one);
    scan(&tmpl, coarse_dim, coarse_affine, one, 0);
    brain_of(&brain, &tmpl, one);
    bulge = 8;
    scan(&v, coarse_dim, coarse_affine, one, 1);
    brain_of(&truth, &v, one);
    bulge = 0;
    for (k = 0; k < 2; ++k) {
        bmvp_nii_brain_how how;
        memset(&how, 0, sizeof how);
        how.no_refine = 1;
        how.no_deform = !k;
        CHECK_OK(bmvp_nii_brain_mask(&mask, &v, 1, &tmpl, &brain, &how, NULL, &err));
        by[k] = dice(&mask, &truth);
        bmvp_nii_volume_free(&mask);
    }
    check_report(by[1] >= 0.98 && 1 - by[1] < 0.6 * (1 - by[0]), __FILE__, __LINE__, "affine %.4f, deformed %.4f",
                 by[0], by[1]);
    bmvp_nii_volume_free(&truth);
    bmvp_nii_volume_free(&v);
    bmvp_nii_volume_free(&brain);
    bmvp_nii_volume_free(&tmpl);
}

/* ---- the same bits with threads ---------------------------------------------------------------------------------- */

typedef struct pool {
    int threads;
    int64_t next, n;
    bmvp_task_fn fn;
    void *arg;
    pthread_mutex_t lock;
} pool;

static void *pool_main(void *user)
{
    pool *p = (pool *)user;
    for (;;) {
        int64_t i;
        pthread_mutex_lock(&p->lock);
        i = p->n - ++p->next;                               /* backwards: not the order of one thread */
        pthread_mutex_unlock(&p->lock);
        if (i < 0) return NULL;
        p->fn(p->arg, i, 0);
    }
}

static void pool_run(void *user, int64_t n, bmvp_task_fn fn, void *arg)
{
    pool *p = (pool *)user;
    pthread_t t[4];
    int i;
    p->next = 0;
    p->n = n;
    p->fn = fn;
    p->arg = arg;
    for (i = 0; i < p->threads; ++i) pthread_create(&t[i], NULL, pool_main, p);
    for (i = 0; i < p->threads; ++i) pthread_join(t[i], NULL);
}

static int after_so_many(void *user, const char *what, int64_t done, int64_t of)
{
    CHECK(strcmp(what, "poses") == 0 && done > 0 && of == 0);
    return --*(int *)user == 0;
}

static void test_threads_and_both_ways(void)
{
    double one[16], truth[16], loop[16];
    bmvp_nii_volume f, m;
    bmvp_nii_registration r, other;
    bmvp_nii_register_how how;
    int n;
    bmvpi_nii_identity(one);
    pose_of(truth, 0.1, 0.2, -0.1, 6, -4, 9);
    scan(&f, fixed_dim, fixed_affine, one, 0);
    scan(&m, thick_dim, thick_affine, truth, 2);
    memset(&how, 0, sizeof how);
    how.level[0] = 8;
    how.level[1] = 4;
    how.samples = 30000;
    CHECK_OK(bmvp_nii_register(&r, &f, &m, &how, &err));
    for (n = 1; n <= 3; ++n) {
        pool p;
        memset(&p, 0, sizeof p);
        p.threads = n;
        pthread_mutex_init(&p.lock, NULL);
        how.parallel = pool_run;
        how.parallel_user = &p;
        CHECK_OK(bmvp_nii_register(&other, &f, &m, &how, &err));
        CHECK(memcmp(&r, &other, sizeof r) == 0);
        pthread_mutex_destroy(&p.lock);
    }
    how.parallel = NULL;
    how.progress = after_so_many;
    how.progress_user = &n;
    n = 40;
    CHECK(bmvp_nii_register(&other, &f, &m, &how, &err) == BMVP_E_CANCELLED && n == 0 && other.nmi == 0);
    CHECK_HOLDS(err.message, "stopped, as was asked for");
    n = 1 << 30;
    CHECK_OK(bmvp_nii_register(&other, &f, &m, &how, &err));
    CHECK(memcmp(&r, &other, sizeof r) == 0 && n < (1 << 30) - 40);
    how.progress = NULL;
    CHECK_OK(bmvp_nii_register(&other, &m, &f, &how, &err));
    bmvpi_nii_matmul(loop, other.matrix, r.matrix);
    memcpy(other.matrix, loop, sizeof loop);
    check_report(brain_error(&other, one) <= 0.4, __FILE__, __LINE__, "there and back: %.3f mm",
                 brain_error(&other, one));
    bmvp_nii_volume_free(&f);
    bmvp_nii_volume_free(&m);
}

/* ---- bad input --------------------------------------------------------------------------------------------------- */

typedef struct counting { long calls, fail_at, open; } counting;

static void *count_alloc(size_t n, void *user)
{
    counting *c = (counting *)user;
    if (++c->calls == c->fail_at) return NULL;
    ++c->open;
    return malloc(n);
}

static void count_free(void *p, void *user)
{
    if (p) --((counting *)user)->open;
    free(p);
}

/* Asks to stop at the left-th time that it is told of `at`; counts what is computed after that. */
typedef struct halting { const char *at; int left, stopped, after, asked; } halting;

static int halt(void *user, const char *what, int64_t done, int64_t of)
{
    halting *h = (halting *)user;
    CHECK(!h->stopped && done >= 0 && of == 0);
    ++h->asked;
    h->stopped = strcmp(what, h->at) == 0 && --h->left == 0;
    return h->stopped;
}

static void run_here(void *user, int64_t n, bmvp_task_fn fn, void *arg)
{
    halting *h = (halting *)user;
    int64_t i;
    h->after += h->stopped;
    for (i = 0; i < n; ++i) fn(arg, i, 0);
}

/* Where it is stopped, in the search, in a climb, at a bracket of scales, on the next level: no pose is looked at any
   more, nothing stays, and the same call goes through. */
static void test_stopped(void)
{
    static const int left[8] = { 1, 80, 82, 90, 130, 180, 210, 100000 };
    double one[16], truth[16];
    bmvp_nii_volume f, m;
    bmvp_nii_registration r, other;
    bmvp_nii_register_how how;
    counting memory;
    int i;
    memset(&memory, 0, sizeof memory);
    bmvpi_nii_identity(one);
    pose_of(truth, 0.1, 0.2, -0.1, 6, -4, 9);
    scan(&f, coarse_dim, coarse_affine, one, 0);
    scan(&m, coarse_dim, coarse_affine, truth, 2);
    f.allocator.alloc = count_alloc, f.allocator.free = count_free, f.allocator.user = &memory;
    memset(&how, 0, sizeof how);
    how.dof = BMVP_NII_AFFINE;
    how.level[0] = 16;
    how.level[1] = 8;
    how.samples = 2000;
    CHECK_OK(bmvp_nii_register(&r, &f, &m, &how, &err));
    for (i = 0; i < 8; ++i) {
        halting h = { "poses", 0, 0, 0, 0 };
        h.left = left[i];
        how.progress = halt, how.parallel = run_here;
        how.progress_user = how.parallel_user = &h;
        if (i == 7) {
            CHECK_OK(bmvp_nii_register(&other, &f, &m, &how, &err));
            CHECK(memcmp(&r, &other, sizeof r) == 0 && h.asked > 250);
        } else {
            CHECK_FAILS(bmvp_nii_register(&other, &f, &m, &how, &err), E_CANCELLED, "stopped, as was asked for");
            CHECK(h.stopped && h.after == 0 && h.asked == left[i] && other.nmi == 0 && memory.open == 0);
        }
    }
    f.allocator.alloc = NULL, f.allocator.free = NULL;
    bmvp_nii_volume_free(&f);
    bmvp_nii_volume_free(&m);
}

static void test_mask_stopped(void)
{
    static const struct { const char *at; int left; } row[6] = {
        { "poses", 1 }, { "poses", 120 }, { "rounds", 1 }, { "rounds", 3 }, { "masks", 1 }, { "nothing", 1 }
    };
    bmvp_nii_volume tmpl, brain, v, mask[2];
    bmvp_nii_brain_report report[2];
    bmvp_nii_brain_how how;
    counting memory;
    double one[16];
    int i, k;
    memset(&memory, 0, sizeof memory);
    memset(&how, 0, sizeof how);
    bmvpi_nii_identity(one);
    scan(&tmpl, coarse_dim, coarse_affine, one, 0);
    brain_of(&brain, &tmpl, one);
    scan(&v, coarse_dim, coarse_affine, one, 1);
    CHECK_OK(bmvp_nii_brain_mask(&mask[0], &v, 1, &tmpl, &brain, NULL, &report[0], &err));
    v.allocator.alloc = count_alloc, v.allocator.free = count_free, v.allocator.user = &memory;
    for (i = 0; i < 6; ++i) {
        halting h = { NULL, 0, 0, 0, 0 };
        h.at = row[i].at, h.left = row[i].left;
        how.progress = halt, how.progress_user = &h;
        how.parallel = run_here, how.parallel_user = &h;
        k = bmvp_nii_brain_mask(&mask[1], &v, 1, &tmpl, &brain, &how, &report[1], &err) == BMVP_OK;
        CHECK(k == (i == 5) && h.stopped == !k && h.after == 0);
        if (k) continue;
        CHECK(err.status == BMVP_E_CANCELLED && !mask[1].data && report[1].litres == 0 && memory.open == 0);
        CHECK_HOLDS(err.message, "stopped, as was asked for");
    }
    CHECK(memcmp(&report[0], &report[1], sizeof report[0]) == 0);
    k = (int)(v.dim[0] * v.dim[1] * v.dim[2]);
    CHECK(mask[1].data && memcmp(mask[0].data, mask[1].data, (size_t)k * sizeof(float)) == 0);
    bmvp_nii_volume_free(&mask[1]);
    CHECK(memory.open == 0);
    v.allocator.alloc = NULL, v.allocator.free = NULL;
    bmvp_nii_volume_free(&v);
    bmvp_nii_volume_free(&mask[0]);
    bmvp_nii_volume_free(&brain);
    bmvp_nii_volume_free(&tmpl);
}

static void test_refused(void)
{
    static const int64_t dim[3] = { 20, 22, 24 }, flat[3] = { 20, 22, 1 };
    static const double affine[16] = { 9, 0, 0, -90, 0, 9, 0, -100, 0, 0, 9, -100, 0, 0, 0, 1 };
    bmvp_nii_volume f, m, bad;
    bmvp_nii_registration r;
    bmvp_nii_register_how how;
    double one[16], away[16];
    bmvpi_nii_identity(one);
    scan(&f, dim, affine, one, 0);
    scan(&m, dim, affine, one, 1);
    memset(&how, 0, sizeof how);
    CHECK_OK(bmvp_nii_volume_create(&bad, dim, affine, NULL, &err));
    CHECK_FAILS(bmvp_nii_register(&r, &f, &bad, NULL, &err), E_ARG, "moving: all voxels are 0");
    CHECK(r.matrix[15] <= 0 && r.nmi <= 0);
    bad.data[7] = (float)(HUGE_VAL - HUGE_VAL);
    CHECK_FAILS(bmvp_nii_register(&r, &bad, &m, NULL, &err), E_ARG, "fixed: 1 voxels are NaN");
    bmvp_nii_volume_free(&bad);
    CHECK_OK(bmvp_nii_volume_create(&bad, flat, affine, NULL, &err));
    CHECK_FAILS(bmvp_nii_register(&r, &f, &bad, NULL, &err), E_ARG, "moving: dim[2] is 1");
    bmvp_nii_volume_free(&bad);
    CHECK_OK(bmvp_nii_volume_copy(&bad, &m, &err));
    bad.affine[0] = 0;
    CHECK_FAILS(bmvp_nii_register(&r, &f, &bad, NULL, &err), E_ARG, "moving: affine is singular");
    bmvp_nii_volume_free(&bad);
    how.search = BMVP_NII_SEARCH_NONE;
    pose_of(away, 0, 0, 0, 900, 0, 0);
    how.start = away;
    CHECK_FAILS(bmvp_nii_register(&r, &f, &m, &how, &err), E_ARG, "overlap");
    how.start = NULL;
    how.dof = 8;
    CHECK_FAILS(bmvp_nii_register(&r, &f, &m, &how, &err), E_ARG, "dof is 8");
    how.dof = 0;
    how.bins = 65;
    CHECK_FAILS(bmvp_nii_register(&r, &f, &m, &how, &err), E_ARG, "bins is 65");
    how.bins = 0;
    how.level[0] = 4;
    how.level[1] = 8;
    CHECK_FAILS(bmvp_nii_register(&r, &f, &m, &how, &err), E_ARG, "level[1] is 8");
    bmvp_nii_volume_free(&f);
    bmvp_nii_volume_free(&m);
}

static void test_no_memory(void)
{
    static const int64_t dim[3] = { 20, 22, 24 };
    static const double affine[16] = { 9, 0, 0, -90, 0, 9, 0, -100, 0, 0, 9, -100, 0, 0, 0, 1 };
    bmvp_nii_volume f, m;
    bmvp_nii_register_how how;
    double one[16];
    long k;
    int worked = 0;
    bmvpi_nii_identity(one);
    scan(&f, dim, affine, one, 0);
    scan(&m, dim, affine, one, 1);
    memset(&how, 0, sizeof how);
    how.level[0] = 10;
    how.level[1] = 8;
    how.search = BMVP_NII_SEARCH_NONE;
    for (k = 1; k < 200 && !worked; ++k) {
        counting c;
        bmvp_nii_registration r;
        bmvp_nii_volume owned = f, smooth, away;
        bmvp_status s;
        const double fwhm[3] = { 12, 12, 12 };
        memset(&c, 0, sizeof c);
        owned.allocator.alloc = count_alloc;
        owned.allocator.free = count_free;
        owned.allocator.user = &c;
        c.fail_at = k;
        s = bmvp_nii_register(&r, &owned, &m, &how, &err);
        if (s == BMVP_OK) s = bmvp_nii_distance(&away, &owned, &err);
        else memset(&away, 0, sizeof away);
        if (s == BMVP_OK) {
            s = bmvp_nii_smooth(&away, fwhm, &err);
            if (s == BMVP_OK) s = bmvp_nii_largest_component(&away, &err);
            if (s == BMVP_OK) {
                s = bmvp_nii_resample_to(&smooth, &away, &f, NULL, BMVP_NII_CUBIC, 0, &err);
                bmvp_nii_volume_free(&smooth);
            }
        }
        bmvp_nii_volume_free(&away);
        CHECK(s == BMVP_OK || s == BMVP_E_OOM);
        CHECK(c.open == 0);
        worked = s == BMVP_OK && c.calls < k;
    }
    CHECK(worked);
    bmvp_nii_volume_free(&f);
    bmvp_nii_volume_free(&m);
}

/* The k-th allocation fails, for k from `from` on, in growing steps; until none does. */
static void brain_without_memory(long from, int no_deform)
{
    static const int64_t dim[3] = { 20, 22, 24 };
    static const double affine[16] = { 9, 0, 0, -90, 0, 9, 0, -100, 0, 0, 9, -100, 0, 0, 0, 1 };
    bmvp_nii_volume f, brain, mask;
    bmvp_nii_brain_how how;
    double one[16];
    long k;
    int worked = 0;
    memset(&how, 0, sizeof how);
    how.no_deform = no_deform;
    bmvpi_nii_identity(one);
    scan(&f, dim, affine, one, 0);
    brain_of(&brain, &f, one);
    for (k = 0; k < 12; ++k) f.affine[k] = brain.affine[k] = affine[k] / 3; /* a small head has few samples */
    for (k = from; k < 100000 && !worked; k += no_deform ? 1 + k / 5 : k) {
        counting c;
        bmvp_nii_volume own = f, of = brain;
        bmvp_status s;
        memset(&c, 0, sizeof c);
        own.allocator.alloc = count_alloc;
        own.allocator.free = count_free;
        own.allocator.user = &c;
        of.allocator = own.allocator;
        c.fail_at = k;
        s = bmvp_nii_brain_mask(&mask, &own, 1, &own, &of, &how, NULL, &err);
        CHECK(s == BMVP_OK || (s == BMVP_E_OOM && !mask.data));
        bmvp_nii_volume_free(&mask);
        CHECK(c.open == 0);
        worked = s == BMVP_OK && c.calls < k;
    }
    CHECK(worked);
    bmvp_nii_volume_free(&f);
    bmvp_nii_volume_free(&brain);
}

static void test_brain_without_memory(void)
{
    brain_without_memory(1, 1);
    brain_without_memory(60, 0);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_gradient);
    CHECK_RUN(test_refused);
    CHECK_RUN(test_no_memory);
    CHECK_RUN(test_brain_without_memory);
    CHECK_RUN(test_threads_and_both_ways);
    CHECK_RUN(test_stopped);
    CHECK_RUN(test_mask_stopped);
    CHECK_RUN(test_known_transforms);
    CHECK_RUN(test_brain_mask);
    CHECK_RUN(test_deformation);
    CHECK_RUN(test_real_heads);
    CHECK_RUN(test_real_capture);
    CHECK_RUN(test_real_contrasts);
    CHECK_RUN(test_real_orientations);
    return check_end();
}
