/* test_grids.c - bmvp_nifti.h once a file is read: voxels, orientation, units, affines, resampling, boxes and
   intensity; the transforms against MONAI (fixtures made by reference/nifti_reference.py). Runs from the top folder,
   needs no Python. */
#define BMVP_NIFTI_IMPLEMENTATION
#include "bmvp_nifti.h"
#include "tests/support/nifti.h"

/* ---- transforms against MONAI ------------------------------------------------------------------------------- */

static void apply(bmvp_nii_volume *v, const char *step) {
    static const int64_t area[3] = {11, 8, 9}, grid[3] = {30, 12, 20}, padded[3] = {30, 19, 24};
    static const double fine[3] = {1, 1, 1}, coarse[3] = {2, 3, 2.5}, odd[3] = {1.1, 1.3, 0.9};
    static const bmvp_nii_scale scale = {5, 95, 0, 1, 1, 0, 0};
    bmvp_nii_resample how;
    bmvp_nii_box box;
    memset(&how, 0, sizeof how);
    if (strcmp(step, "PIR") == 0 || strcmp(step, "RAS") == 0) {
        CHECK_OK(bmvp_nii_orient(v, step, &err));
    } else if (strcmp(step, "spacing") == 0) {
        CHECK_OK(bmvp_nii_spacing(v, fine, NULL, &err));
    } else if (strcmp(step, "spacing1.4") == 0 || strcmp(step, "spacing1.5") == 0) {
        double mm[3];
        mm[0] = mm[1] = mm[2] = strtod(step + 7, NULL);
        CHECK_OK(bmvp_nii_spacing(v, mm, NULL, &err));
    } else if (strcmp(step, "diagonal") == 0) {
        const double mm[3] = {2, 2, 2};
        how.diagonal = 1;
        CHECK_OK(bmvp_nii_spacing(v, mm, &how, &err));
    } else if (strcmp(step, "coarse") == 0) {
        CHECK_OK(bmvp_nii_spacing(v, coarse, NULL, &err));
    } else if (strcmp(step, "nearest") == 0) {
        how.mode = BMVP_NII_NEAREST;
        CHECK_OK(bmvp_nii_spacing(v, odd, &how, &err));
    } else if (strcmp(step, "scale") == 0) {
        CHECK_OK(bmvp_nii_scale_percentiles(v, &scale, NULL, &err));
    } else if (strcmp(step, "crop") == 0) {
        CHECK_OK(bmvp_nii_foreground_box(&box, v, 1, 1, &err));
        CHECK_OK(bmvp_nii_crop(v, &box, 0, &err));
    } else if (strcmp(step, "pad") == 0) {
        bmvp_nii_pad_box(&box, v->dim, padded, 0);
        CHECK_OK(bmvp_nii_crop(v, &box, 0, &err));
    } else if (strcmp(step, "area") == 0) {
        CHECK_OK(bmvp_nii_resize(v, area, BMVP_NII_AREA, 0, &err));
    } else {
        CHECK_OK(bmvp_nii_resize(v, grid, strcmp(step, "exact") == 0 ? BMVP_NII_NEAREST_EXACT : BMVP_NII_LINEAR,
                                 strcmp(step, "corners") == 0, &err));
    }
}

static void check_step(const char *name, const char *fixture, const char *step) {
    char in[128], out[128];
    bmvp_nii_volume v, want;
    int i, same = 1;
    snprintf(in, sizeof in, FIXTURES "in_%s.nii.gz", name);
    snprintf(out, sizeof out, FIXTURES "out_%s_%s.nii.gz", name, fixture);
    if (!CHECK_OK(bmvp_nii_read_volume(&v, in, NULL, NULL, &err))) return;
    if (!CHECK_OK(bmvp_nii_read_volume(&want, out, NULL, NULL, &err))) return;
    apply(&v, step);
    for (i = 0; i < 3; i++) same = same && v.dim[i] == want.dim[i];
    check_report(same, __FILE__, __LINE__, "%s %s: size %lld %lld %lld", name, step, (long long)v.dim[0],
                 (long long)v.dim[1], (long long)v.dim[2]);
    for (i = 0; i < 12; i++)
        check_report(fabs(v.affine[i] - want.affine[i]) <= 1e-5, __FILE__, __LINE__, "%s %s: affine[%d] is %g, not %g",
                     name, step, i, v.affine[i], want.affine[i]);
    if (same) CHECK_CLOSE(step, v.data, want.data, voxels(&v), 1e-5);
    bmvp_nii_volume_free(&v);
    bmvp_nii_volume_free(&want);
}

static void test_transforms_as_monai(void) {
    static const char *const straight[] = { "spacing", "coarse", "nearest", "scale",   "crop",
                                            "pad",     "area",   "linear",  "corners", "exact" };
    size_t i;
    if (!HAVE_GZIP) {
        check_skip("fixtures are gzip");
        return;
    }
    for (i = 0; i < sizeof straight / sizeof *straight; i++) check_step("straight", straight[i], straight[i]);
    check_step("straight", "orient", "PIR");
    check_step("oblique", "orient", "RAS");
    check_step("oblique", "spacing", "spacing1.4");
    check_step("sheared", "spacing", "spacing1.5");
    check_step("sheared", "diagonal", "diagonal");
}

/* ---- voxels ------------------------------------------------------------------------------------------------- */

static void test_nonfinite_are_counted(void) {
    bmvp_nii_volume v;
    bmvp_nii_load how;
    memset(&how, 0, sizeof how);
    CHECK_OK(bmvp_nii_read_volume(&v, FIXTURES "nan.nii", &how, NULL, &err));
    CHECK(v.n_nan == 1 && v.n_inf == 2 && !(v.data[(3 * v.dim[1] + 2) * v.dim[0] + 1] == 0));
    bmvp_nii_volume_free(&v);
    how.replace_nonfinite = 1;
    how.replacement = -7;
    how.axcodes = "SLA";                                    /* through the tiles */
    CHECK_OK(bmvp_nii_read_volume(&v, FIXTURES "nan.nii", &how, NULL, &err));
    CHECK(v.n_nan == 1 && v.n_inf == 2);
    {
        int64_t i, seven = 0;
        for (i = 0; i < voxels(&v); i++) seven += v.data[i] >= -7 && v.data[i] <= -7;
        CHECK(seven == 3);
    }
    bmvp_nii_volume_free(&v);
}

/* A volume is one number a voxel: others are refused with their dimensions, unless the caller says which. */
static void test_several_numbers(void) {
    static const struct { int type, ndim, intent; int64_t dim[5]; const char *says; } rows[] = {
        {BMVP_NII_FLOAT32, 5, 1007, {4, 3, 2, 1, 3}, "4 x 3 x 2 x 1 x 3: 3 components of vectors"},
        {BMVP_NII_INT16, 4, 0, {4, 3, 2, 5, 1}, "4 x 3 x 2 x 5: 5 volumes"},
        {BMVP_NII_RGB24, 3, 0, {4, 3, 2, 1, 1}, "4 x 3 x 2, datatype rgb24"},
        {BMVP_NII_RGBA32, 3, 0, {4, 3, 2, 1, 1}, "datatype rgba32"},
        {BMVP_NII_COMPLEX64, 4, 0, {4, 3, 2, 1, 1}, "datatype complex64"},
        {BMVP_NII_UINT8, 5, 1006, {4, 3, 1, 1, 2}, "2 components"},
        {BMVP_NII_FLOAT64, 5, 1005, {4, 3, 2, 1, 6}, "4 x 3 x 2 x 1 x 6: 6 components of vectors"},
        {BMVP_NII_FLOAT32, 5, 0, {4, 3, 2, 7, 2}, "4 x 3 x 2 x 7 x 2: 14 volumes"},
        {BMVP_NII_COMPLEX128, 3, 0, {4, 3, 2, 1, 1}, "datatype complex128"},
        {BMVP_NII_RGB24, 4, 0, {4, 3, 2, 2, 1}, "4 x 3 x 2 x 2: 2 volumes"},
        {BMVP_NII_FLOAT32, 5, 1007, {4, 3, 2, 1, 1}, NULL},
        {BMVP_NII_INT16, 4, 0, {4, 3, 2, 1, 1}, NULL},
    };
    size_t i;
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        bmvp_nii_image im;
        bmvp_nii_volume v;
        bmvp_nii_load how;
        memset(&how, 0, sizeof how);
        CHECK_OK(bmvp_nii_create(&im, rows[i].type, rows[i].ndim, rows[i].dim, NULL, NULL, &err));
        im.intent_code = rows[i].intent;
        if (rows[i].says) {
            CHECK_FAILS(bmvp_nii_to_volume(&v, &im, NULL, NULL, &err), E_FORMAT, rows[i].says);
            CHECK_FAILS(bmvp_nii_to_volume(&v, &im, &how, NULL, &err), E_FORMAT, rows[i].says);
            how.first = 1;
        }
        CHECK_OK(bmvp_nii_to_volume(&v, &im, &how, NULL, &err));
        bmvp_nii_volume_free(&v);
        bmvp_nii_image_free(&im);
    }
}

/* What a file says of its numbers: type, slope, intercept. The value of its voxels, or why there is none. */
static void test_number_forms(void) {
    static const float nan = (float)HUGE_VAL - (float)HUGE_VAL;
    static const unsigned char three = 3, one_byte = 255;
    int16_t minus = -2, wide = 30000;
    uint16_t full = 65535;
    uint32_t most = 4294967295u;
    int64_t far = -5000000000, seven = 7;
    uint64_t all = UINT64_MAX;
    float quarter = 0.25f;
    double tenth = 0.1, huge = 1e300;
    const struct { int type; const void *voxel; double slope, inter, want; const char *says; } rows[] = {
        {BMVP_NII_INT64, &far, 0, 0, -5e9, NULL},            {BMVP_NII_INT64, &seven, -2, 1, -13, NULL},
        {BMVP_NII_UINT64, &all, 0, 0, 18446744073709551616.0, NULL},
        {BMVP_NII_UINT32, &most, 0.5, 0, 2147483647.5, NULL}, {BMVP_NII_UINT16, &full, 1, -32768, 32767, NULL},
        {BMVP_NII_INT16, &minus, -0.5, 10, 11, NULL},        {BMVP_NII_INT16, &wide, 1e-30, 0, 3e-26, NULL},
        {BMVP_NII_UINT8, &three, (double)nan, 7, 3, NULL},   {BMVP_NII_UINT8, &three, 0, 7, 3, NULL},
        {BMVP_NII_UINT8, &three, HUGE_VAL, 0, 3, NULL},      {BMVP_NII_UINT8, &one_byte, 1, -1000, -745, NULL},
        {BMVP_NII_FLOAT32, &quarter, 4, -1, 0, NULL},        {BMVP_NII_FLOAT64, &tenth, 0, 0, 0.1, NULL},
        {BMVP_NII_FLOAT64, &huge, 0, 0, HUGE_VAL, NULL},     {BMVP_NII_FLOAT128, NULL, 0, 0, 0, "float128"},
        {BMVP_NII_COMPLEX256, NULL, 0, 0, 0, "complex256"},
    };
    const int64_t dim[3] = {3, 2, 2};
    size_t i, n;
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        const int size = bmvp_nii_datatype_size(rows[i].type);
        void *bytes = NULL;
        bmvp_nii_image im;
        bmvp_nii_volume v;
        bmvp_status s;
        int k;
        CHECK_OK(bmvp_nii_create(&im, rows[i].type, 3, dim, NULL, NULL, &err));
        for (k = 0; k < 12 && rows[i].voxel; k++) memcpy((char *)im.data + k * size, rows[i].voxel, (size_t)size);
        CHECK_OK(bmvp_nii_write_memory(&bytes, &n, &im, NULL, &err));
        bmvp_nii_image_free(&im);
        put_number((unsigned char *)bytes, 112, 'f', 0, rows[i].slope);
        put_number((unsigned char *)bytes, 116, 'f', 0, rows[i].inter);
        s = bmvp_nii_read_memory(&im, bytes, n, NULL, 0, NULL, &err);
        if (s == BMVP_OK) s = bmvp_nii_to_volume(&v, &im, NULL, NULL, &err);
        if (rows[i].says) {
            CHECK(s == BMVP_E_UNSUPPORTED);
            CHECK_HOLDS(err.message, rows[i].says);
        } else if (CHECK_OK(s)) {
            const double want = rows[i].want;
            for (k = 0; k < 12; k++)
                check_report(!(want < HUGE_VAL) ? v.data[k] > FLT_MAX && v.n_inf == 12
                                                : fabs((double)v.data[k] - want) <= 2e-7 * fabs(want),
                             __FILE__, __LINE__, "row %d: %g, not %g", (int)i, (double)v.data[k], want);
            bmvp_nii_volume_free(&v);
        }
        bmvp_nii_image_free(&im);
        bmvp_nii_bytes_free(bytes, NULL);
    }
}

/* One place stored in other ways is one place; a shift, a mirror or another end of an axis is another. */
static void test_same_place(void) {
    static const struct { double m[12]; int same; } rows[] = {
        {{2, 0, 0, 10, 0, 2, 0, 20, 0, 0, 2, 30}, 1},       {{-2, 0, 0, 18, 0, 2, 0, 20, 0, 0, 2, 30}, 1},
        {{-2, 0, 0, 18, 0, -2, 0, 28, 0, 0, -2, 38}, 1},    {{0, 2, 0, 10, 2, 0, 0, 20, 0, 0, 2, 30}, 1},
        {{0, 0, -2, 18, 2, 0, 0, 20, 0, 2, 0, 30}, 1},      {{2, 0, 0, 10.05, 0, 2, 0, 20, 0, 0, 2, 30}, 1},
        {{2, 0, 0, 11, 0, 2, 0, 20, 0, 0, 2, 30}, 0},       {{2, 0, 0, 12, 0, 2, 0, 20, 0, 0, 2, 30}, 0},
        {{-2, 0, 0, 10, 0, 2, 0, 20, 0, 0, 2, 30}, 0},      {{2, 0, 0, 10, 0, 2, 0, 20, 0, 0, 2, 30.2}, 0},
        {{2, 0, 0, 10, 0, 2, 0, 20, 0, 0, 2.1, 30}, 0},     {{2, 0.1, 0, 10, 0, 2, 0, 20, 0, 0, 2, 30}, 0},
        {{-2, 0, 0, 19, 0, -2, 0, 29, 0, 0, 2, 30}, 0},
    };
    const int64_t dim[3] = {5, 5, 5};
    bmvp_nii_volume base;
    size_t i;
    int64_t k;
    memset(&base, 0, sizeof base);
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        bmvp_nii_volume v;
        double affine[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
        memcpy(affine, rows[i].m, sizeof rows[i].m);
        CHECK_OK(bmvp_nii_volume_create(&v, dim, affine, NULL, &err));
        for (k = 0; k < 125; k++) { /* what stands at a place in the scanner */
            const double x = (double)(k % 5), y = (double)(k / 5 % 5), z = (double)(k / 25), *m = rows[i].m;
            v.data[k] = (float)(nearbyint(m[0] * x + m[1] * y + m[2] * z + m[3]) +
                                50 * nearbyint(m[4] * x + m[5] * y + m[6] * z + m[7]) +
                                3000 * nearbyint(m[8] * x + m[9] * y + m[10] * z + m[11]));
        }
        CHECK_OK(bmvp_nii_orient(&v, "RAS", &err));
        if (i == 0) base = v;
        check_report(bmvp_nii_one_grid(&base, &v) == rows[i].same, __FILE__, __LINE__, "row %d", (int)i);
        if (rows[i].same) CHECK_SAME("place", v.data, base.data, 125);
        if (i > 0) bmvp_nii_volume_free(&v);
    }
    bmvp_nii_volume_free(&base);
}

/* The same head stored in mm, metres and micrometres lies at the same place; units that cannot be are named. */
static void test_units(void) {
    static const struct { int unit; double mm; } rows[] = {{2, 1}, {1, 1000}, {3, 0.001}, {0, 1}, {4, 1}};
    const int64_t dim[3] = {5, 4, 3};
    const double affine[16] = {-2, 0.1, 0, 30, 0.1, 1.5, 0, -20, 0, 0, 3, 11, 0, 0, 0, 1};
    bmvp_nii_image im;
    bmvp_nii_volume v;
    size_t i;
    int form, k;
    for (i = 0; i < sizeof rows / sizeof *rows; i++)
        for (form = 0; form < 3; form++) {
            double off = 0;
            bmvp_nii_create(&im, BMVP_NII_UINT8, 3, dim, NULL, NULL, &err);
            im.xyzt_units = rows[i].unit | 8;
            CHECK_OK(bmvp_nii_set_affine(&im, affine, 1, &err));
            CHECK_NEAR(im.srow[0] * rows[i].mm, -2, 1e-9);
            CHECK_NEAR(im.pixdim[3] * rows[i].mm, 3, 1e-9);
            if (form == 1) im.sform_code = 0;
            if (form == 2) im.pixdim[1] *= 1.1;             /* the sform does not fit pixdim: the qform is taken */
            CHECK_OK(bmvp_nii_write(in_folder("unit.nii"), &im, NULL, &err));
            bmvp_nii_image_free(&im);
            if (!CHECK_OK(bmvp_nii_read_volume(&v, in_folder("unit.nii"), NULL, NULL, &err))) continue;
            remove(in_folder("unit.nii"));
            for (k = 0; k < 12; k++) off = fmax(off, fabs(v.affine[k] - affine[k]));
            check_report(off < (form == 0 ? 2e-5 : 0.21), __FILE__, __LINE__, "unit %d, form %d: %g mm off",
                         rows[i].unit, form, off);
            bmvp_nii_volume_free(&v);
        }
}

/* Grids are compared by where their corners lie. */
static void test_grid_distance(void) {
    const int64_t dim[3] = {201, 101, 51};
    double affine[16] = {1, 0, 0, -100, 0, 1, 0, -50, 0, 0, 2, -50, 0, 0, 0, 1};
    bmvp_nii_volume a, b;
    CHECK_OK(bmvp_nii_volume_create(&a, dim, affine, NULL, &err));
    affine[0] += 4e-6;
    CHECK_OK(bmvp_nii_volume_create(&b, dim, affine, NULL, &err));
    CHECK_NEAR(bmvp_nii_grid_distance(&a, &b), 8e-4, 1e-9);
    CHECK(bmvp_nii_one_grid(&a, &b));
    b.affine[0] = 1.01;                                     /* an element within 1e-2, a corner 2 mm away */
    CHECK_NEAR(bmvp_nii_grid_distance(&a, &b), 2, 1e-9);
    CHECK(!bmvp_nii_one_grid(&a, &b));
    memcpy(b.affine, a.affine, sizeof b.affine);
    b.affine[3] += 0.06;
    CHECK(!bmvp_nii_one_grid(&a, &b));
    b.affine[3] -= 0.03;
    CHECK(bmvp_nii_one_grid(&a, &b));
    b.affine[5] = HUGE_VAL - HUGE_VAL;
    CHECK(!bmvp_nii_one_grid(&a, &b));
    memcpy(b.affine, a.affine, sizeof b.affine);
    b.dim[1]--;
    CHECK(!(bmvp_nii_grid_distance(&a, &b) < HUGE_VAL));
    b.dim[1]++;
    bmvp_nii_volume_free(&a);
    bmvp_nii_volume_free(&b);
}

/* 3 % of vessels: percentiles 5 and 95 are both 0, and the contrast of what is not 0 is kept. */
static void test_sparse_scaling(void) {
    const int64_t dim[3] = {20, 20, 20};
    bmvp_nii_scale scale = {5, 95, 0, 1, 1, 0, 1};
    float ab[2];
    bmvp_nii_volume v;
    int64_t i;
    CHECK_OK(bmvp_nii_volume_create(&v, dim, NULL, NULL, &err));
    for (i = 0; i < 201; i++) v.data[i * 33] = (float)(100 + i);
    CHECK_OK(bmvp_nii_scale_percentiles(&v, &scale, ab, &err));
    CHECK_NEAR((double)ab[0], 110, 1e-4);
    CHECK_NEAR((double)ab[1], 290, 1e-4);
    CHECK_NEAR((double)v.data[100 * 33], 0.5, 1e-6);
    CHECK_NEAR((double)v.data[1], 0, 0);
    memset(v.data, 0, 8000 * sizeof *v.data);
    v.data[17] = 4;                                         /* one value: the range of all */
    CHECK_OK(bmvp_nii_scale_percentiles(&v, &scale, ab, &err));
    CHECK(v.data[17] > 0.999f && v.data[16] <= 0);
    memset(v.data, 0, 8000 * sizeof *v.data);               /* nothing at all: as MONAI */
    CHECK_OK(bmvp_nii_scale_percentiles(&v, &scale, ab, &err));
    CHECK_NEAR((double)v.data[5], 0, 0);
    bmvp_nii_volume_free(&v);
}

static void test_components(void) {
    const int64_t dim[3] = {2, 1, 1};
    static const float pairs[4] = {3, -4, 0, 2};
    static const unsigned char colours[6] = {10, 20, 30, 255, 0, 1};
    static const struct { int type, component; double want[2];
    } rows[] = {
        { BMVP_NII_COMPLEX64, BMVP_NII_REAL, { 3, 0 } },
        { BMVP_NII_COMPLEX64, BMVP_NII_IMAGINARY, { -4, 2 } },
        { BMVP_NII_COMPLEX64, BMVP_NII_MAGNITUDE, { 5, 2 } },
        { BMVP_NII_COMPLEX64, BMVP_NII_PHASE, { -0.927295218, 1.570796327 } },
        { BMVP_NII_RGB24, BMVP_NII_GREEN, { 20, 0 } },
        { BMVP_NII_RGB24, BMVP_NII_GREY, { 18.15, 76.359 } },
        { BMVP_NII_RGB24, BMVP_NII_BLUE, { 30, 1 } },
        { BMVP_NII_COMPLEX64, 0, { 3, 0 } },
    };
    size_t i;
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        bmvp_nii_image im;
        bmvp_nii_volume v;
        bmvp_nii_load how;
        memset(&how, 0, sizeof how);
        how.component = rows[i].component;
        how.first = 1;
        CHECK_OK(bmvp_nii_create(&im, rows[i].type, 3, dim, NULL, NULL, &err));
        memcpy(im.data, rows[i].type == BMVP_NII_RGB24 ? (const void *)colours : (const void *)pairs,
               (size_t)im.data_bytes);
        if (CHECK_OK(bmvp_nii_to_volume(&v, &im, &how, NULL, &err))) {
            CHECK_NEAR((double)v.data[0], rows[i].want[0], 1e-5);
            CHECK_NEAR((double)v.data[1], rows[i].want[1], 1e-5);
        }
        bmvp_nii_volume_free(&v);
        how.component = rows[i].type == BMVP_NII_RGB24 ? BMVP_NII_ALPHA : BMVP_NII_RED;
        CHECK_FAILS(bmvp_nii_to_volume(&v, &im, &how, NULL, &err), E_ARG, "component");
        bmvp_nii_image_free(&im);
    }
}

static void test_all_orientations(void) {
    static const char letters[3][3] = {"LR", "PA", "IS"};
    static const int order[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    int o, f, a, n_same = 0;
    for (o = 0; o < 6; o++)
        for (f = 0; f < 8; f++) {
            char codes[4] = {0}, got[4];
            bmvp_nii_volume v, u;
            bmvp_nii_image im;
            bmvp_nii_load how;
            for (a = 0; a < 3; a++) codes[a] = letters[order[o][a]][f >> a & 1];
            make_volume(&v, 70, 5, 67);
            CHECK_OK(bmvp_nii_from_volume(&im, &v, BMVP_NII_FLOAT32, 0, 0, NULL, NULL, &err));
            memset(&how, 0, sizeof how);
            how.axcodes = codes;
            CHECK_OK(bmvp_nii_to_volume(&u, &im, &how, NULL, &err));
            CHECK_OK(bmvp_nii_orient(&v, codes, &err));
            bmvp_nii_axcodes(got, v.affine);
            CHECK(strcmp(got, codes) == 0);
            CHECK(bmvp_nii_same_grid(&u, &v, 0, 1e-5));
            CHECK_SAME(codes, u.data, v.data, voxels(&v));
            CHECK_OK(bmvp_nii_orient(&v, "LAS", &err));     /* what it was */
            n_same += memcmp(v.data, im.data, (size_t)im.data_bytes) == 0;
            bmvp_nii_image_free(&im);
            bmvp_nii_volume_free(&u);
            bmvp_nii_volume_free(&v);
        }
    CHECK(n_same == 48);
}

static void test_orientation_errors(void) {
    bmvp_nii_volume v;
    make_volume(&v, 3, 3, 3);
    CHECK_FAILS(bmvp_nii_orient(&v, "RAA", &err), E_ARG, "RAA");
    CHECK_FAILS(bmvp_nii_orient(&v, "RASX", &err), E_ARG, "three letters");
    v.affine[0] = v.affine[4] = v.affine[8] = 0;
    CHECK_FAILS(bmvp_nii_orient(&v, "RAS", &err), E_ARG, "axis 0");
    v.affine[0] = HUGE_VAL;
    CHECK_FAILS(bmvp_nii_orient(&v, "RAS", &err), E_ARG, "finite");
    bmvp_nii_volume_free(&v);
}

static void test_quantisation(void) {
    const int64_t dim[3] = {9, 1, 1};
    static const float values[9] = {0, 0.5f, 1.5f, 2.5f, -0.5f, 300, -1, 254.4f, 7};
    static const unsigned char want[9] = {0, 0, 2, 2, 0, 255, 0, 254, 7};
    bmvp_nii_volume v;
    bmvp_nii_image im;
    int64_t clamped = -1;
    int i;
    CHECK_OK(bmvp_nii_volume_create(&v, dim, NULL, NULL, &err));
    memcpy(v.data, values, sizeof values);
    CHECK_OK(bmvp_nii_from_volume(&im, &v, BMVP_NII_UINT8, 1, 0, &clamped, NULL, &err));
    CHECK(memcmp(im.data, want, 9) == 0 && clamped == 2);
    bmvp_nii_image_free(&im);
    v.data[3] = (float)HUGE_VAL - (float)HUGE_VAL;          /* NaN */
    CHECK_OK(bmvp_nii_from_volume(&im, &v, BMVP_NII_INT16, 0, 0, &clamped, NULL, &err));
    CHECK(clamped == 1);
    for (i = 0; i < 9; i++)
        if (i != 3)
            CHECK_NEAR(((int16_t *)im.data)[i] * im.scl_slope + im.scl_inter, (double)values[i], 301.0 / 65535 * 0.51);
    bmvp_nii_image_free(&im);
    CHECK_FAILS(bmvp_nii_from_volume(&im, &v, BMVP_NII_RGB24, 1, 0, NULL, NULL, &err), E_ARG, "rgb24");
    bmvp_nii_volume_free(&v);
}

/* ---- affines ------------------------------------------------------------------------------------------------ */

static void test_affines(void) {
    double a[16], q[16], inverse[16], r[9];
    int i, k;
    bmvp_nii_image im;
    const int64_t dim[3] = {4, 5, 6};
    CHECK_OK(bmvp_nii_create(&im, BMVP_NII_UINT8, 3, dim, NULL, NULL, &err));
    CHECK(im.affine_source == BMVP_NII_AFFINE_FALLBACK);
    CHECK_NEAR(im.affine[0], -1, 0);
    CHECK_NEAR(im.affine[3], 1.5, 0);
    for (k = 0; k < 200; k++) {                             /* random rotations, also by half turns, with flips */
        double u[4], n = 0;
        for (i = 0; i < 4; i++) u[i] = (double)(draw32() % 2001) / 1000 - 1;
        if (k % 3 == 0) u[0] = 0;
        for (i = 0; i < 4; i++) n += u[i] * u[i];
        bmvpi_nii_rotation(r, u[0], u[1], u[2], u[3]);
        bmvpi_nii_identity(a);
        for (i = 0; i < 9; i++) a[4 * (i / 3) + i % 3] = r[i] * (1 + i % 3) * (k % 2 && i % 3 == 2 ? -1 : 1);
        a[3] = k;
        if (n < 0.01) continue;
        CHECK_OK(bmvp_nii_set_affine(&im, a, 2, &err));
        bmvp_nii_qform(q, &im);
        for (i = 0; i < 16; i++) CHECK_NEAR(q[i], a[i], 1e-6);
        CHECK(im.pixdim[0] * (k % 2 ? -1 : 1) > 0);
        CHECK_OK(bmvp_nii_affine_inverse(inverse, a, &err));
        bmvpi_nii_matmul(q, inverse, a);
        for (i = 0; i < 16; i++) CHECK_NEAR(q[i], i % 5 == 0 ? 1 : 0, 1e-9);
    }
    memset(a, 0, sizeof a);
    CHECK_FAILS(bmvp_nii_set_affine(&im, a, 2, &err), E_ARG, "column 0");
    CHECK_FAILS(bmvp_nii_affine_inverse(inverse, a, &err), E_ARG, "singular");
    im.quatern[0] = 1.1;                                    /* longer than 1: normalised, a half turn about x */
    im.quatern[1] = im.quatern[2] = 0;
    im.pixdim[0] = im.pixdim[1] = im.pixdim[2] = im.pixdim[3] = 1;
    bmvp_nii_qform(q, &im);
    CHECK_NEAR(q[0], 1, 1e-12);
    CHECK_NEAR(q[5], -1, 1e-12);
    bmvp_nii_image_free(&im);
}

/* A sform that is no place, or not that of the voxel size, stands back for a qform; that is said where it matters. */
static void test_rectify(void) {
    static const double srow[][12] = {
        {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},         {1, 1, 0, 5, 0, 0, 0, 6, 0, 0, 1, 7}, /* lengths fit */
        {1, 0, 0, 5, 0, 0, 0, 6, 0, 0, 1, 7},         {0.6, 0.6, 0.6, 0, 0.8, 0.8, 0.8, 0, 0, 0, 0, 0},
        {2, 0, 0, 5, 0, 2, 0, 6, 0, 0, 2, 7},         {1, 0, 0, 9, 0, 1, 0, 6, 0, 0, 1, 7},
        {1.00003, 0, 0, 5, 0, 1, 0, 6, 0, 0, 1, 7},
    };
    static const struct { int row, qcode, source, said; } rows[] = {
        {0, 1, BMVP_NII_AFFINE_RECTIFIED, 1}, {1, 1, BMVP_NII_AFFINE_RECTIFIED, 1},
        {2, 2, BMVP_NII_AFFINE_RECTIFIED, 1}, {3, 1, BMVP_NII_AFFINE_RECTIFIED, 1},
        {4, 1, BMVP_NII_AFFINE_RECTIFIED, 1}, {5, 1, BMVP_NII_AFFINE_SFORM, 0},
        {6, 1, BMVP_NII_AFFINE_RECTIFIED, 0}, {4, 0, BMVP_NII_AFFINE_SFORM, 0},
        {1, 0, 0, 0},                         {0, 0, 0, 0},
    };
    const double place[16] = {1, 0, 0, 5, 0, 1, 0, 6, 0, 0, 1, 7, 0, 0, 0, 1};
    const int64_t dim[3] = {4, 3, 2};
    bmvp_nii_load how;
    bmvp_nii_image im;
    bmvp_nii_volume v;
    double a[16];
    size_t i;
    memset(&how, 0, sizeof how);
    how.axcodes = "RAS";
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        CHECK_OK(bmvp_nii_create(&im, BMVP_NII_FLOAT32, 3, dim, place, NULL, &err));
        im.qform_code = rows[i].qcode;
        memcpy(im.srow, srow[rows[i].row], sizeof im.srow);
        bmvp_nii_sform(im.affine, &im);
        if (rows[i].source == 0) { /* nothing to go by */
            CHECK_FAILS(bmvp_nii_to_volume(&v, &im, &how, NULL, &err), E_FORMAT, "singular");
            bmvp_nii_image_free(&im);
            continue;
        }
        CHECK((int)bmvp_nii_rectify_affine(a, &im) == rows[i].source);
        if (CHECK_OK(bmvp_nii_to_volume(&v, &im, &how, NULL, &err))) {
            check_report(v.by_qform == rows[i].said, __FILE__, __LINE__, "row %d", (int)i);
            CHECK_NEAR(v.affine[3], rows[i].row == 5 ? 9 : 5, 1e-9);
            CHECK_NEAR(v.affine[0], rows[i].row == 4 && rows[i].qcode == 0 ? 2 : 1, 1e-9);
        }
        bmvp_nii_volume_free(&v);
        bmvp_nii_image_free(&im);
    }
    CHECK_OK(bmvp_nii_read_header(&im, FIXTURES "sform_wrong.nii", NULL, &err));
    CHECK(im.affine_source == BMVP_NII_AFFINE_SFORM);
    CHECK(bmvp_nii_rectify_affine(a, &im) == BMVP_NII_AFFINE_SFORM);   /* 4-D: MONAI's test counts the translation */
    im.ndim = 3;
    CHECK(bmvp_nii_rectify_affine(a, &im) == BMVP_NII_AFFINE_RECTIFIED);
    CHECK(fabs(a[0]) < 2 && fabs(im.affine[0]) > 8);
    CHECK_HOLDS(bmvp_nii_affine_reason(BMVP_NII_AFFINE_RECTIFIED), "qform");
    bmvp_nii_image_free(&im);
}

static void test_freesurfer_dims(void) {
    size_t n, cap;
    unsigned char *small = small_file(&n, 1, 0), *bytes;
    bmvp_nii_image im;
    cap = 600 + 2 * 163842;
    bytes = (unsigned char *)calloc(1, cap);
    memcpy(bytes, small, n);
    put_number(bytes, 40, 'h', 3, 0);
    put_number(bytes, 42, 'h', -1, 0);
    put_number(bytes, 44, 'h', 1, 0);
    put_number(bytes, 46, 'h', 1, 0);
    put_number(bytes, 144, 'i', 50, 0);
    CHECK_OK(bmvp_nii_read_memory(&im, bytes, cap, NULL, 0, NULL, &err));
    CHECK(im.dim[0] == 50 && im.n_voxels == 50);
    bmvp_nii_image_free(&im);
    put_number(bytes, 42, 'h', 27307, 0);
    put_number(bytes, 46, 'h', 6, 0);
    CHECK_OK(bmvp_nii_read_memory(&im, bytes, cap, NULL, 0, NULL, &err));
    CHECK(im.dim[0] == 163842 && im.dim[2] == 1);
    bmvp_nii_image_free(&im);
    free(bytes);
    bmvp_nii_bytes_free(small, NULL);
}

/* ---- transforms: properties --------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static void test_percentiles(void) {
    static const int64_t sizes[] = {1, 2, 10, 1001, 1000000, 1000001};
    static const double q[6] = {0, 1, 37.5, 50, 99, 100};
    int i, k;
    for (i = 0; i < 6; i++) {
        int64_t n = sizes[i], j;
        float *x = (float *)malloc((size_t)n * 4), *y = (float *)malloc((size_t)n * 4), got[6];
        for (j = 0; j < n; j++) x[j] = j % 3 ? (float)((double)draw32() / 1e7 - 200) : 0;
        memcpy(y, x, (size_t)n * 4);
        qsort(y, (size_t)n, 4, by_value);
        CHECK_OK(bmvp_nii_percentiles(got, q, 6, x, n, NULL, &err));
        for (k = 0; k < 6; k++) {
            double h = (double)(n - 1) * q[k] / 100;
            int64_t low = (int64_t)floor(h - 0.07 < 0 ? 0 : h - 0.07),
                    high = (int64_t)ceil(h + 0.07); /* float32 ranks */
            if (high > n - 1) high = n - 1;
            CHECK(got[k] >= y[low] && got[k] <= y[high]);
        }
        x[n / 2] = (float)HUGE_VAL - (float)HUGE_VAL;
        CHECK_OK(bmvp_nii_percentiles(got, q, 6, x, n, NULL, &err));
        CHECK(!(got[0] == got[0]) && !(got[5] == got[5]));
        free(x);
        free(y);
    }
    CHECK_FAILS(bmvp_nii_percentiles(NULL, q, 9, NULL, 1, NULL, &err), E_ARG, "percentiles");
}

static void test_constant_volume(void) {
    static const bmvp_nii_scale scale = {5, 95, 0.25, 1, 1, 0, 0};
    bmvp_nii_volume v;
    const int64_t dim[3] = {4, 4, 4};
    int i;
    CHECK_OK(bmvp_nii_volume_create(&v, dim, NULL, NULL, &err));
    for (i = 0; i < 64; i++) v.data[i] = 7;
    v.data[5] = 100;                                        /* above the percentile, and not clipped */
    CHECK_OK(bmvp_nii_scale_percentiles(&v, &scale, NULL, &err));
    CHECK_NEAR((double)v.data[0], 0.25, 1e-6);
    CHECK_NEAR((double)v.data[5], 93.25, 1e-4);
    bmvp_nii_volume_free(&v);
}

/* Whole ranks of many numbers, which no interpolation blurs: random with ties, constant, rising, negative, and numbers
   that are far from the others exactly where a regular sample looks. */
static void test_percentiles_of_many(void) {
    static const double q[5] = {0, 25, 50, 75, 100};
    const int64_t n = 1000001;
    float *x = (float *)malloc((size_t)n * 4), *y = (float *)malloc((size_t)n * 4), got[5];
    int64_t j;
    int kind, k;
    for (kind = 0; kind < 5; kind++) {
        for (j = 0; j < n; j++) {
            const float random = (float)(draw32() % 5000);
            x[j] = kind == 0   ? (j % 2 ? random : 0)
                   : kind == 1 ? 7
                   : kind == 2 ? (float)j
                   : kind == 3 ? -random
                               : random;
        }
        for (j = 0; kind == 4 && j < 4096; j++) x[j * (n / 4096) + j * (n % 4096) / 4096] = 1e6f + (float)j;
        memcpy(y, x, (size_t)n * 4);
        qsort(y, (size_t)n, 4, by_value);
        CHECK_OK(bmvp_nii_percentiles(got, q, 5, x, n, NULL, &err));
        for (k = 0; k < 5; k++) CHECK_NEAR((double)got[k], (double)y[k * (n / 4)], 0);
    }
    free(x);
    free(y);
}

/* Every stored number is that of the division, rounded half to even, also beside halves and the ends of the range. */
static void test_stored_numbers(void) {
    static const struct { int type; double low, high; } types[] = {
        {BMVP_NII_UINT8, 0, 255}, {BMVP_NII_INT16, -32768, 32767}, {BMVP_NII_INT32, -2147483648.0, 2147483647}};
    static const double slopes[] = {1, 1.0 / 32767, 0.3, -49};
    const int64_t dim[3] = {16, 64, 20};
    const int64_t n = dim[0] * dim[1] * dim[2];
    bmvp_nii_volume v;
    bmvp_nii_image im;
    int64_t i;
    int t, k;
    CHECK_OK(bmvp_nii_volume_create(&v, dim, NULL, NULL, &err));
    for (t = 0; t < 3; t++)
        for (k = 0; k < 8; k++) {
            const double slope = (double)(float)slopes[k % 4], inter = k < 4 ? 0 : 2.5;
            int64_t clamped = 0, expected = 0, bad = 0;
            for (i = 0; i < n; i++) {
                double whole = types[t].low + (types[t].high - types[t].low) * (double)draw32() / 4294967295.0;
                if (i % 64 < 16)
                    whole = i % 3 ? types[t].high + (double)(i % 16) - 8 : types[t].low + (double)(i % 16) - 8;
                if (i % 5 == 0) whole = floor(whole) + 0.5;
                v.data[i] = i % 256 < 48 ? 0 : (float)(whole * slope + inter);
            }
            v.data[n - 100] = (float)HUGE_VAL;
            v.data[n - 300] = (float)HUGE_VAL - (float)HUGE_VAL;
            CHECK_OK(bmvp_nii_from_volume(&im, &v, types[t].type, slope, inter, &clamped, NULL, &err));
            for (i = 0; i < n; i++) {
                const double q = ((double)v.data[i] - inter) / slope;
                double want = q == q ? nearbyint(q < types[t].low    ? types[t].low
                                                 : q > types[t].high ? types[t].high
                                                                     : q)
                                     : 0;
                const double got = t == 0   ? ((uint8_t *)im.data)[i]
                                   : t == 1 ? ((int16_t *)im.data)[i]
                                            : ((int32_t *)im.data)[i];
                expected += !(q >= types[t].low - 0.5 && q <= types[t].high + 0.5);
                bad += !(fabs(got - want) <= 0);
            }
            CHECK(bad == 0);
            CHECK(clamped == expected);
            bmvp_nii_image_free(&im);
        }
    bmvp_nii_volume_free(&v);
}

/* Boxes against a look at every voxel; what nonzero_box cuts away comes back as it was. */
static void test_boxes_of_random_volumes(void) {
    const int64_t dim[3] = {37, 21, 9};
    int round, nonzero, a;
    for (round = 0; round < 60; round++) {
        bmvp_nii_volume v, w;
        bmvp_nii_box box, back, want;
        const int64_t n = dim[0] * dim[1] * dim[2];
        int64_t i;
        int hits = round % 6;
        CHECK_OK(bmvp_nii_volume_create(&v, dim, NULL, NULL, &err));
        while (hits-- > 0) v.data[draw32() % (uint32_t)n] = hits % 3 ? 2.0f : hits ? -1.0f : -0.0f;
        for (nonzero = 0; nonzero < 2; nonzero++) {
            memset(&want, 0, sizeof want);
            for (i = 0; i < n; i++) {
                const int64_t at[3] = {i % dim[0], i / dim[0] % dim[1], i / dim[0] / dim[1]};
                static const float zero = 0;
                if (nonzero ? memcmp(&v.data[i], &zero, 4) == 0 : !(v.data[i] > 0)) continue;
                for (a = 0; a < 3; a++) {
                    if (want.end[a] == 0 || at[a] < want.start[a]) want.start[a] = at[a];
                    if (at[a] >= want.end[a]) want.end[a] = at[a] + 1;
                }
            }
            if (nonzero) CHECK_OK(bmvp_nii_nonzero_box(&box, &v, &err));
            else CHECK_OK(bmvp_nii_foreground_box(&box, &v, 1, 0, &err));
            CHECK(memcmp(&box, &want, sizeof box) == 0);
        }
        if (box.end[0] > 0) {
            CHECK_OK(bmvp_nii_volume_copy(&w, &v, &err));
            CHECK_OK(bmvp_nii_crop(&w, &box, 0, &err));
            for (a = 0; a < 3; a++) {
                back.start[a] = -box.start[a];
                back.end[a] = dim[a] - box.start[a];
            }
            CHECK_OK(bmvp_nii_crop(&w, &back, 0, &err));
            CHECK(memcmp(w.dim, dim, sizeof dim) == 0 && memcmp(w.data, v.data, (size_t)n * 4) == 0);
            CHECK(memcmp(w.affine, v.affine, sizeof w.affine) == 0);
            bmvp_nii_volume_free(&w);
        }
        bmvp_nii_volume_free(&v);
    }
}

static void test_boxes(void) {
    bmvp_nii_volume v[2];
    bmvp_nii_box box;
    const int64_t dim[3] = {20, 15, 10}, pad[3] = {25, 15, 0};
    int i;
    double corner;
    for (i = 0; i < 2; i++) CHECK_OK(bmvp_nii_volume_create(&v[i], dim, NULL, NULL, &err));
    CHECK_OK(bmvp_nii_foreground_box(&box, v, 2, 3, &err));
    CHECK(box.end[0] == 0 && box.end[2] == 0);
    CHECK_FAILS(bmvp_nii_crop(&v[0], &box, 0, &err), E_ARG, "empty");
    CHECK_OK(bmvp_nii_center_foreground_box(&box, v, 2, &err));
    CHECK(box.start[0] == 0 && box.end[0] == 20 && box.end[1] == 15 && box.end[2] == 10);
    v[0].data[(4 * 15 + 3) * 20 + 2] = 1;
    v[1].data[(6 * 15 + 9) * 20 + 17] = 2;
    CHECK_OK(bmvp_nii_foreground_box(&box, v, 2, 0, &err));
    CHECK(box.start[0] == 2 && box.start[1] == 3 && box.start[2] == 4);
    CHECK(box.end[0] == 18 && box.end[1] == 10 && box.end[2] == 7);
    CHECK_OK(bmvp_nii_center_foreground_box(&box, v, 2, &err));
    CHECK(box.start[0] == 2 && box.end[0] == 18 && box.start[1] == 3 && box.end[1] == 12 && box.start[2] == 3 &&
          box.end[2] == 7);
    CHECK_OK(bmvp_nii_foreground_box(&box, v, 2, 5, &err));
    CHECK(box.start[0] == 0 && box.end[0] == 20 && box.start[2] == 0 && box.end[2] == 10 && box.start[1] == 0 &&
          box.end[1] == 15);
    bmvp_nii_pad_box(&box, dim, pad, 0);
    CHECK(box.start[0] == -2 && box.end[0] == 23 && box.start[1] == 0 && box.end[1] == 15 && box.start[2] == 0);
    CHECK_OK(bmvp_nii_crop(&v[0], &box, -1, &err));
    corner = v[0].affine[3];
    CHECK(v[0].dim[0] == 25 && v[0].data[0] < 0 && v[0].data[(4 * 15 + 3) * 25 + 4] > 0);
    CHECK_NEAR(corner, -2, 0);
    for (i = 0; i < 2; i++) bmvp_nii_volume_free(&v[i]);
}

static void test_random_boxes(void) {
    const int64_t dim[3] = {10, 4, 8};
    int seen[7] = {0}, i, outside = 0;
    bmvp_nii_random_crop how;
    bmvp_nii_box box;
    memset(&how, 0, sizeof how);
    how.size[0] = 4;
    how.size[1] = 6;
    for (i = 0; i < 7000; i++) {
        CHECK_OK(bmvp_nii_random_box(&box, dim, &how, draw, NULL, &err));
        if (box.start[0] >= 0 && box.start[0] <= 6) seen[box.start[0]]++;
        outside += box.end[0] - box.start[0] != 4 || box.start[1] != 0 || box.end[1] != 4 || box.end[2] != 8;
    }
    CHECK(outside == 0);
    for (i = 0; i < 7; i++) CHECK(seen[i] > 850 && seen[i] < 1150);
    how.random_size = 1;
    CHECK_FAILS(bmvp_nii_random_box(&box, dim, &how, draw, NULL, &err), E_ARG, "axis 1");
    how.random_size = 0;
    how.fixed_center = 1;
    CHECK_OK(bmvp_nii_random_box(&box, dim, &how, NULL, NULL, &err));
    CHECK(box.start[0] == 3 && box.end[0] == 7 && box.start[1] == 0 && box.end[1] == 4);
}

static void test_spacing_forms_agree(void) {
    const double mm[3] = {1.1, 1.7, 0.8};
    int nearest;
    for (nearest = 0; nearest < 2; nearest++) {             /* axes, rows and voxel by voxel: one answer */
        bmvp_nii_volume v, fast, slow;
        double x[16], one[16], length[3];
        int64_t size[3];
        bmvp_nii_resample how;
        int same;
        bmvpi_nii_io io;
        float *work = (float *)malloc(3 * 40 * sizeof(float));
        memset(&how, 0, sizeof how);
        how.mode = nearest ? BMVP_NII_NEAREST : BMVP_NII_LINEAR;
        bmvpi_nii_identity(one);
        make_volume(&v, 33, 21, 17);
        bmvp_nii_voxel_size(length, v.affine);
        memcpy(v.affine, one, sizeof one);
        for (same = 0; same < 3; same++) v.affine[5 * same] = length[same];
        io = bmvpi_nii_io_of(&v, &err);
        CHECK_OK(bmvpi_nii_target(size, x, &same, &v, mm, NULL, &err));
        CHECK_OK(bmvp_nii_volume_create(&slow, size, one, NULL, &err));
        CHECK_OK(bmvp_nii_volume_create(&fast, size, one, NULL, &err));
        bmvpi_nii_sample_volume(&slow, &v, x, nearest);
        bmvpi_nii_sample_rows(&fast, &v, x, nearest, work);
        CHECK_CLOSE("rows", fast.data, slow.data, voxels(&fast), 1e-6);
        CHECK_OK(bmvpi_nii_resample_volume(&fast, &v, x, nearest, &io));
        CHECK_CLOSE("axes", fast.data, slow.data, voxels(&fast), 1e-6);
        CHECK_OK(bmvp_nii_spacing(&v, mm, &how, &err));
        CHECK_CLOSE("spacing", v.data, slow.data, voxels(&v), 1e-6);
        bmvp_nii_volume_free(&v);
        bmvp_nii_volume_free(&fast);
        bmvp_nii_volume_free(&slow);
        free(work);
    }
}

static void test_spacing_edges(void) {
    bmvp_nii_volume v;
    bmvp_nii_resample how;
    const double mm[3] = {0.5, 0.5, 0.5}, tiny[3] = {1e-12, 1, 1}, keep[3] = {0, -1, 1.0005};
    const int64_t dim[3] = {2, 3, 1};
    int i;
    CHECK_OK(bmvp_nii_volume_create(&v, dim, NULL, NULL, &err));
    for (i = 0; i < 6; i++) v.data[i] = (float)i;
    CHECK_OK(bmvp_nii_spacing(&v, keep, NULL, &err));
    CHECK(v.dim[0] == 2 && v.dim[1] == 3 && v.dim[2] == 1);
    CHECK_FAILS(bmvp_nii_spacing(&v, tiny, NULL, &err), E_ARG, "too large");
    CHECK_OK(bmvp_nii_spacing(&v, mm, NULL, &err));
    CHECK(v.dim[0] == 3 && v.dim[1] == 5 && v.dim[2] == 1);
    CHECK_NEAR((double)v.data[1], 0.5, 1e-6);
    CHECK_NEAR((double)v.data[14], 5, 1e-6);
    memset(&how, 0, sizeof how);
    how.dim[0] = 7;
    CHECK_OK(bmvp_nii_spacing(&v, mm, &how, &err));
    CHECK(v.dim[0] == 7);
    CHECK_NEAR((double)v.data[6], 1, 1e-6);                 /* the border is repeated */
    how.mode = BMVP_NII_AREA;
    CHECK_FAILS(bmvp_nii_spacing(&v, mm, &how, &err), E_ARG, "mode");
    v.affine[1] = 1e5 * v.affine[0];                        /* a step of y goes along x, 1e5 voxels far */
    CHECK_FAILS(bmvp_nii_spacing(&v, keep, NULL, &err), E_ARG, "sheared");
    v.affine[0] = 0;
    CHECK_FAILS(bmvp_nii_spacing(&v, mm, NULL, &err), E_ARG, "singular");
    bmvp_nii_volume_free(&v);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    strcpy(folder, "/tmp/bmvp_test_grids_XXXXXX");
    if (mkdtemp(folder) == NULL) return 1;
    CHECK_RUN(test_transforms_as_monai);
    CHECK_RUN(test_nonfinite_are_counted);
    CHECK_RUN(test_components);
    CHECK_RUN(test_several_numbers);
    CHECK_RUN(test_number_forms);
    CHECK_RUN(test_units);
    CHECK_RUN(test_grid_distance);
    CHECK_RUN(test_same_place);
    CHECK_RUN(test_sparse_scaling);
    CHECK_RUN(test_all_orientations);
    CHECK_RUN(test_orientation_errors);
    CHECK_RUN(test_quantisation);
    CHECK_RUN(test_affines);
    CHECK_RUN(test_rectify);
    CHECK_RUN(test_freesurfer_dims);
    CHECK_RUN(test_percentiles);
    CHECK_RUN(test_constant_volume);
    CHECK_RUN(test_percentiles_of_many);
    CHECK_RUN(test_stored_numbers);
    CHECK_RUN(test_boxes);
    CHECK_RUN(test_boxes_of_random_volumes);
    CHECK_RUN(test_random_boxes);
    CHECK_RUN(test_spacing_forms_agree);
    CHECK_RUN(test_spacing_edges);
    CHECK(rmdir(folder) == 0);
    return check_end();
}
