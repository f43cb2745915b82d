/* test_nifti.c - bmvp_nifti.h: files against nibabel, transforms against MONAI (fixtures made by reference/nifti_reference.py), round
   trips, damage of every kind, allocation failure at every call. Runs from the top folder, needs no Python. */
#define BMVP_NIFTI_IMPLEMENTATION
#include "bmvp_nifti.h"
#include "tests/support/check.h"
#include <signal.h>
#include <sys/resource.h>

#define FIXTURES "tests/fixtures/nifti/"

#ifdef BMVP_NIFTI_NO_GZIP
enum { HAVE_GZIP = 0 };
#else
enum { HAVE_GZIP = 1 };
#endif

static bmvp_error err;
static char folder[64];                                     /* scratch, removed at the end */

#define CHECK_OK(call) check_report((call) == BMVP_OK, __FILE__, __LINE__, "%s: %s", #call, err.message)
#define CHECK_FAILS(call, wanted, part)                                                                       \
    do {                                                                                                      \
        const bmvp_status got_ = (call);                                                                  \
        check_report(got_ == BMVP_##wanted, __FILE__, __LINE__, "%s gives \"%s\" (%s)", #call,            \
                     bmvp_status_text(got_), err.message);                                                \
        if (got_ != BMVP_OK) CHECK_HOLDS(err.message, part);                                              \
    } while (0)

static uint32_t seed = 1;

static uint32_t draw32(void) {
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) ^ (seed << 24);
}

static int64_t draw(int64_t n, void *user) {
    (void)user;
    return (int64_t)(draw32() >> 4) % n;
}

static const char *in_folder(const char *name) {
    static char path[2][200];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static int64_t voxels(const bmvp_nii_volume *v) { return v->dim[0] * v->dim[1] * v->dim[2]; }

/* An oblique affine with a flip. */
static void some_affine(double a[16]) {
    static const double m[16] = {-1.2, 0.3, 0.1, 20, 0.25, 1.4, -0.35, -30, 0.12, 0.3, 2.1, 5, 0, 0, 0, 1};
    memcpy(a, m, sizeof m);
}

/* A volume of smooth and rough values, background 0. */
static void make_volume(bmvp_nii_volume *v, int64_t x, int64_t y, int64_t z) {
    const int64_t dim[3] = {x, y, z};
    double a[16];
    int64_t i;
    some_affine(a);
    CHECK_OK(bmvp_nii_volume_create(v, dim, a, NULL, &err));
    for (i = 0; i < voxels(v); i++)
        v->data[i] = i % 7 < 3 ? 0 : (float)((double)(draw32() % 100000) / 37.0 - 500);
}

static void make_image(bmvp_nii_image *im, int datatype, int64_t x, int64_t y, int64_t z, int64_t t) {
    const int64_t dim[4] = {x, y, z, t};
    double a[16];
    int64_t i;
    some_affine(a);
    CHECK_OK(bmvp_nii_create(im, datatype, 4, dim, a, NULL, &err));
    for (i = 0; i < im->data_bytes; i++) ((unsigned char *)im->data)[i] = (unsigned char)(draw32() >> 9);
    strcpy(im->descrip, "made by test_nifti");
    im->cal_max = 12.5;
    CHECK_OK(bmvp_nii_add_extension(im, 6, "a comment that is longer than one unit", 38, &err));
    CHECK_OK(bmvp_nii_add_extension(im, 4, "x", 1, &err));
}

/* An int16 image of 5 x 4 x 3 as the bytes of a file. */
static unsigned char *small_file(size_t *n, int version, int gzip) {
    bmvp_nii_image im;
    bmvp_nii_write_options how;
    void *bytes = NULL;
    make_image(&im, BMVP_NII_INT16, 5, 4, 3, 1);
    memset(&how, 0, sizeof how);
    how.version = version;
    how.store = gzip ? BMVP_NII_STORE_NII_GZ : BMVP_NII_STORE_NII;
    CHECK_OK(bmvp_nii_write_memory(&bytes, n, &im, &how, &err));
    bmvp_nii_image_free(&im);
    return (unsigned char *)bytes;
}

static bmvp_status read_bytes(const void *bytes, size_t n) {
    bmvp_nii_image im;
    bmvp_nii_options o;
    bmvp_status s;
    memset(&o, 0, sizeof o);
    o.max_bytes = 1 << 24;
    s = bmvp_nii_read_memory(&im, bytes, n, NULL, 0, &o, &err);
    bmvp_nii_image_free(&im);
    return s;
}

/* ---- files against nibabel ---------------------------------------------------------------------------------- */

/* expected.txt: name, dim[0..3], sum and sum of squares of the finite real parts, affine. */
static void check_expected(const char *line) {
    char name[64], path[128];
    long long d[4];
    double want[14], sum = 0, squares = 0;
    bmvp_nii_image im;
    bmvp_nii_volume v;
    bmvp_nii_load how;
    int used = 0, i;
    int64_t k;
    if (!CHECK(sscanf(line, "%63s %lld %lld %lld %lld%n", name, d, d + 1, d + 2, d + 3, &used) == 5)) return;
    for (i = 0; i < 14; i++) {
        char *end;
        want[i] = strtod(line + used, &end);
        used = (int)(end - line);
    }
    snprintf(path, sizeof path, FIXTURES "%s", name);
    if (!HAVE_GZIP && strstr(name, ".gz") != NULL) {
        CHECK_FAILS(bmvp_nii_read(&im, path, NULL, &err), E_UNSUPPORTED, "without gzip");
        return;
    }
    if (!CHECK_OK(bmvp_nii_read(&im, path, NULL, &err))) return;
    for (i = 0; i < 4; i++) check_report(im.dim[i] == d[i], __FILE__, __LINE__, "%s: dim[%d]", name, i);
    for (i = 0; i < 12; i++)
        check_report(fabs(im.affine[i] - want[i + 2]) <= 1e-5 * (1 + fabs(want[i + 2])), __FILE__, __LINE__,
                     "%s: affine[%d] is %g, nibabel has %g", name, i, im.affine[i], want[i + 2]);
    memset(&how, 0, sizeof how);
    how.first = 1;
    for (how.t = 0; how.t < im.dim[3]; how.t++) {
        if (!CHECK_OK(bmvp_nii_to_volume(&v, &im, &how, NULL, &err))) break;
        for (k = 0; k < voxels(&v); k++)
            if (bmvpi_nii_finite((double)v.data[k])) {
                sum += (double)v.data[k];
                squares += (double)v.data[k] * (double)v.data[k];
            }
        bmvp_nii_volume_free(&v);
    }
    check_report(fabs(squares - want[1]) <= 1e-6 * want[1], __FILE__, __LINE__, "%s: squares %.12g, nibabel %.12g", name,
                 squares, want[1]);
    check_report(fabs(sum - want[0]) <= 1e-6 * sqrt(want[1] * (double)im.n_voxels), __FILE__, __LINE__,
                 "%s: sum %.12g, nibabel %.12g", name, sum, want[0]);
    bmvp_nii_image_free(&im);
}

static void test_files_as_nibabel(void) {
    char line[1024];
    int n = 0;
    FILE *f = fopen(FIXTURES "expected.txt", "r");
    if (!CHECK(f != NULL)) return;
    while (fgets(line, sizeof line, f) != NULL) {
        check_expected(line);
        n++;
    }
    fclose(f);
    CHECK(n >= 20);
}

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
        check_report(fabs(v.affine[i] - want.affine[i]) <= 1e-5, __FILE__, __LINE__, "%s %s: affine[%d] is %g, not %g", name,
                     step, i, v.affine[i], want.affine[i]);
    if (same) CHECK_CLOSE(step, v.data, want.data, voxels(&v), 1e-5);
    bmvp_nii_volume_free(&v);
    bmvp_nii_volume_free(&want);
}

static void test_transforms_as_monai(void) {
    static const char *const straight[] = {"spacing", "coarse", "nearest", "scale", "crop", "pad", "area", "linear", "corners",
                                           "exact"};
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

/* ---- writing and reading back ------------------------------------------------------------------------------- */

static void check_equal(const bmvp_nii_image *a, const bmvp_nii_image *b, const char *what) {
    int i, same = a->ndim == b->ndim && a->datatype == b->datatype && a->n_extensions == b->n_extensions;
    for (i = 0; i < 7; i++) same = same && a->dim[i] == b->dim[i];
    for (i = 0; i < 8; i++) same = same && fabs(a->pixdim[i] - b->pixdim[i]) <= 1e-6;
    for (i = 0; i < 16; i++) same = same && fabs(a->affine[i] - b->affine[i]) <= 1e-5;
    same = same && strcmp(a->descrip, b->descrip) == 0 && fabs(a->cal_max - b->cal_max) <= 0;
    same = same && a->qform_code == b->qform_code && a->sform_code == b->sform_code;
    for (i = 0; same && i < a->n_extensions; i++)
        same = a->extensions[i].code == b->extensions[i].code && b->extensions[i].size >= a->extensions[i].size &&
               memcmp(a->extensions[i].data, b->extensions[i].data, (size_t)a->extensions[i].size) == 0;
    check_report(same, __FILE__, __LINE__, "%s: fields differ", what);
    check_report(a->data_bytes == b->data_bytes && memcmp(a->data, b->data, (size_t)a->data_bytes) == 0, __FILE__, __LINE__,
                 "%s: data differ", what);
}

static void test_round_trips(void) {
    static const char *const names[] = {"a.nii", "a.nii.gz", "b.hdr", "c.img", "d.hdr.gz", "E.IMG"};
    static const int types[] = {BMVP_NII_UINT8, BMVP_NII_INT16, BMVP_NII_FLOAT32, BMVP_NII_COMPLEX128, BMVP_NII_RGB24,
                                BMVP_NII_FLOAT128};
    size_t i, k;
    for (i = 0; i < sizeof names / sizeof *names; i++)
        for (k = 0; k < 12; k++) {
            bmvp_nii_image im, back;
            bmvp_nii_write_options how;
            const char *path = in_folder(names[i]);
            memset(&how, 0, sizeof how);
            how.version = (int)(k % 2) + 1;
            how.no_sync = 1;
            how.level = (int)(k % 10);
            if (strstr(names[i], ".gz") != NULL && !HAVE_GZIP) continue;
            make_image(&im, types[k % 6], 5 + (int64_t)k, 3, 4, 2);
            CHECK_OK(bmvp_nii_write(path, &im, &how, &err));
            if (CHECK_OK(bmvp_nii_read(&back, path, NULL, &err))) check_equal(&im, &back, path);
            CHECK(back.version == how.version);
            bmvp_nii_image_free(&back);
            if (CHECK_OK(bmvp_nii_read_header(&back, path, NULL, &err))) CHECK(back.data == NULL && back.n_extensions == 2);
            bmvp_nii_image_free(&back);
            bmvp_nii_image_free(&im);
        }
}

static void test_large_dims_choose_version_2(void) {
    const int64_t dim[2] = {40000, 2};
    bmvp_nii_image im, back;
    bmvp_nii_write_options how;
    CHECK_OK(bmvp_nii_create(&im, BMVP_NII_UINT8, 2, dim, NULL, NULL, &err));
    CHECK_OK(bmvp_nii_write(in_folder("large.nii"), &im, NULL, &err));
    CHECK_OK(bmvp_nii_read(&back, in_folder("large.nii"), NULL, &err));
    CHECK(back.version == 2 && back.dim[0] == 40000 && back.affine_source == BMVP_NII_AFFINE_FALLBACK);
    memset(&how, 0, sizeof how);
    how.version = 1;
    CHECK_FAILS(bmvp_nii_write(in_folder("large1.nii"), &im, &how, &err), E_ARG, "dim[0] does not fit");
    CHECK(access(in_folder("large1.nii"), F_OK) != 0);
    bmvp_nii_image_free(&im);
    bmvp_nii_image_free(&back);
}

static void test_write_failures(void) {
    bmvp_nii_image im, none;
    make_image(&im, BMVP_NII_INT16, 3, 3, 3, 1);
    memset(&none, 0, sizeof none);
    CHECK_FAILS(bmvp_nii_write(in_folder("no/such/folder.nii"), &im, NULL, &err), E_IO, "folder.nii");
    CHECK_FAILS(bmvp_nii_write(in_folder("a.txt"), &im, NULL, &err), E_ARG, "must end in .nii");
    CHECK_FAILS(bmvp_nii_write(in_folder("a.nii"), &none, NULL, &err), E_ARG, "no data");
    im.dim[1] = 4;
    CHECK_FAILS(bmvp_nii_write(in_folder("a.nii"), &im, NULL, &err), E_ARG, "n_voxels");
    im.dim[1] = 3;
    CHECK_OK(bmvp_nii_write(in_folder("old.nii"), &im, NULL, &err));
    im.intent_code = 1 << 20;                               /* does not fit: the old file must stay as it is */
    CHECK_FAILS(bmvp_nii_write(in_folder("old.nii"), &im, NULL, &err), E_ARG, "intent_code");
    CHECK_OK(bmvp_nii_read(&none, in_folder("old.nii"), NULL, &err));
    CHECK(none.intent_code == 0);
    bmvp_nii_image_free(&none);
    bmvp_nii_image_free(&im);
    if (!HAVE_GZIP) {
        make_image(&im, BMVP_NII_INT16, 3, 3, 3, 1);
        CHECK_FAILS(bmvp_nii_write(in_folder("z.nii.gz"), &im, NULL, &err), E_UNSUPPORTED, "without gzip");
        bmvp_nii_image_free(&im);
    }
}

static void test_full_disk_keeps_the_old_file(void) {
    bmvp_nii_image im, back;
    struct rlimit before, small;
    void (*handler)(int);
    make_image(&im, BMVP_NII_INT16, 30, 30, 3, 1);
    CHECK_OK(bmvp_nii_write(in_folder("old.nii"), &im, NULL, &err));
    ((int16_t *)im.data)[0]++;
    if (!CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0)) return;
    handler = signal(SIGXFSZ, SIG_IGN);                     /* a file may not grow beyond 2000 bytes: write fails half way */
    small = before;
    small.rlim_cur = 2000;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK_FAILS(bmvp_nii_write(in_folder("old.nii"), &im, NULL, &err), E_IO, "old.nii: writing failed");
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    signal(SIGXFSZ, handler);
    ((int16_t *)im.data)[0]--;
    if (CHECK_OK(bmvp_nii_read(&back, in_folder("old.nii"), NULL, &err))) check_equal(&im, &back, "old.nii");
    bmvp_nii_image_free(&back);
    bmvp_nii_image_free(&im);
}

/* ---- damage ------------------------------------------------------------------------------------------------- */

static void test_every_truncation(void) {
    int version, gzip;
    for (version = 1; version <= 2; version++)
        for (gzip = 0; gzip <= HAVE_GZIP; gzip++) {
            size_t n, k;
            unsigned char *bytes = small_file(&n, version, gzip);
            CHECK_OK(read_bytes(bytes, n));
            for (k = 0; k < n; k++) {
                unsigned char *part = (unsigned char *)malloc(k + 1);   /* its own block: overreads are caught */
                bmvp_status s;
                memcpy(part, bytes, k);
                s = read_bytes(part, k);
                check_report(s == BMVP_E_FORMAT, __FILE__, __LINE__,
                             "NIfTI-%d%s cut to %d of %d bytes: %s", version, gzip ? " gzip" : "", (int)k, (int)n,
                             bmvp_status_text(s));
                free(part);
            }
            bmvp_nii_bytes_free(bytes, NULL);
        }
}

static void put_number(unsigned char *bytes, int at, char type, int64_t whole, double real) {
    bmvpi_nii_put(bytes + at, type, whole, real);
}

static void test_hostile_headers(void) {
    static const struct { int at; char type; double value; bmvp_status status; const char *part; } rows[] = {
        {40, 'h', 0, BMVP_E_FORMAT, "dim[0] is 0"},         {40, 'h', 8, BMVP_E_FORMAT, "dim[0] is 8"},
        {40, 'h', -1, BMVP_E_FORMAT, "dim[0] is -1"},       {40, 'h', 200, BMVP_E_FORMAT, "dim[0] is 200"},
        {42, 'h', 0, BMVP_E_FORMAT, "dim[1] is 0"},         {44, 'h', -7, BMVP_E_FORMAT, "dim[2] is -7"},
        {44, 'h', 32767, BMVP_E_FORMAT, "declares"},     {70, 'h', 1, BMVP_E_FORMAT, "1 bit"},
        {70, 'h', 77, BMVP_E_FORMAT, "datatype is 77"},     {108, 'f', -1, BMVP_E_FORMAT, "vox_offset is -1"},
        {108, 'f', 1e30, BMVP_E_FORMAT, "vox_offset"},      {108, 'f', 1e15, BMVP_E_FORMAT, "declares"},
        {344, 'b', 'x', BMVP_E_ARG, "pair"},           {0, 'i', 77, BMVP_OK, ""},
        {46, 'h', 0, BMVP_OK, ""},                          {80, 'f', 0, BMVP_OK, ""},
        {76, 'f', 0, BMVP_OK, ""},                          {252, 'h', 99, BMVP_OK, ""},
        {108, 'f', 100, BMVP_OK, ""},                       {256, 'f', 5, BMVP_OK, ""},
    };
    size_t n, i;
    unsigned char *bytes = small_file(&n, 1, 0), keep[400];
    memcpy(keep, bytes, sizeof keep);
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        bmvp_status s;
        put_number(bytes, rows[i].at, rows[i].type, rows[i].type == 'f' ? 0 : (int64_t)rows[i].value, rows[i].value);
        s = read_bytes(bytes, n);
        check_report(s == rows[i].status, __FILE__, __LINE__, "%g at byte %d: %s (%s)", rows[i].value, rows[i].at,
                     bmvp_status_text(s), err.message);
        if (s != BMVP_OK) CHECK_HOLDS(err.message, rows[i].part);
        memcpy(bytes, keep, sizeof keep);
    }
    for (i = 0; i < 3; i++) {                               /* fields that are not numbers */
        static const int at[3] = {108, 116, 80};
        const uint32_t nan = 0x7fc00000u;
        put_number(bytes, 112, 'f', 0, 2);
        memcpy(bytes + at[i], &nan, 4);
        if (i < 2) CHECK_FAILS(read_bytes(bytes, n), E_FORMAT, i == 0 ? "vox_offset" : "scl_inter");
        else CHECK_OK(read_bytes(bytes, n));
        memcpy(bytes, keep, sizeof keep);
    }
    for (i = 0; i < 7; i++) put_number(bytes, 42 + 2 * (int)i, 'h', 32767, 0);
    put_number(bytes, 40, 'h', 7, 0);
    CHECK_FAILS(read_bytes(bytes, n), E_FORMAT, "63 bits");
    bmvp_nii_bytes_free(bytes, NULL);
}

static void test_hostile_nifti2(void) {
    size_t n;
    unsigned char *bytes = small_file(&n, 2, 0);
    CHECK_OK(read_bytes(bytes, n));
    put_number(bytes, 24, 'q', INT64_MAX / 2, 0);
    CHECK_FAILS(read_bytes(bytes, n), E_FORMAT, "dim");
    put_number(bytes, 24, 'q', 5, 0);
    put_number(bytes, 16, 'q', (int64_t)1 << 40, 0);
    CHECK_FAILS(read_bytes(bytes, n), E_FORMAT, "dim[0]");
    put_number(bytes, 16, 'q', 4, 0);
    put_number(bytes, 168, 'q', -1, 0);
    CHECK_FAILS(read_bytes(bytes, n), E_FORMAT, "vox_offset");
    put_number(bytes, 168, 'q', INT64_MAX, 0);
    CHECK_FAILS(read_bytes(bytes, n), E_FORMAT, "vox_offset");
    put_number(bytes, 168, 'q', (int64_t)544 + 48 + 16, 0);
    bytes[8] = '\n';
    CHECK_FAILS(read_bytes(bytes, n), E_FORMAT, "copied as text");
    memset(bytes + 8, 0, 4);                                /* tolerated, as nibabel does */
    CHECK_OK(read_bytes(bytes, n));
    bmvp_nii_bytes_free(bytes, NULL);
}

static void test_bad_extensions_are_ignored(void) {
    static const int sizes[] = {0, -16, 4, 7, 1 << 20, INT32_MAX, INT32_MIN};
    size_t n, i;
    unsigned char *bytes = small_file(&n, 1, 0);
    for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        bmvp_nii_image im;
        put_number(bytes, 352, 'i', sizes[i], 0);
        if (CHECK_OK(bmvp_nii_read_memory(&im, bytes, n, NULL, 0, NULL, &err))) CHECK(im.n_extensions == 0);
        bmvp_nii_image_free(&im);
    }
    put_number(bytes, 108, 'f', 0, 352);                    /* the flag is set, but there is no room for one */
    CHECK_OK(read_bytes(bytes, n));
    bmvp_nii_bytes_free(bytes, NULL);
}

static void test_mutations(void) {
    size_t n;
    int version, gzip, i, ok = 0, k;
    for (version = 1; version <= 2; version++)
        for (gzip = 0; gzip <= HAVE_GZIP; gzip++) {
            unsigned char *bytes = small_file(&n, version, gzip), *copy = (unsigned char *)malloc(n);
            for (i = 0; i < 3000; i++) {
                size_t m = n;
                memcpy(copy, bytes, n);
                for (k = 1 + (int)(draw32() % 4); k > 0; k--) {
                    size_t at = draw32() % (gzip ? n : n < 600 ? n : 600);
                    copy[at] = draw32() % 3 ? (unsigned char)draw32() : (unsigned char)(draw32() % 2 ? 255 : 0);
                }
                if (draw32() % 4 == 0) m = draw32() % (n + 1);
                ok += read_bytes(copy, m) == BMVP_OK;
            }
            free(copy);
            bmvp_nii_bytes_free(bytes, NULL);
        }
    CHECK(ok > 100);                                        /* the checks must not refuse what is harmless */
}

/* Every result of a mutated image must also survive conversion and transforms. */
static void test_mutated_headers_through_the_chain(void) {
    size_t n;
    unsigned char *bytes = small_file(&n, 1, 0), *copy = (unsigned char *)malloc(n);
    const double mm[3] = {2, 2, 2};
    int i, k, done = 0;
    for (i = 0; i < 2000; i++) {
        bmvp_nii_image im;
        bmvp_nii_volume v;
        bmvp_nii_load how;
        bmvp_nii_options o;
        memcpy(copy, bytes, n);
        for (k = 1 + (int)(draw32() % 3); k > 0; k--) copy[40 + draw32() % 300] = (unsigned char)draw32();
        memset(&how, 0, sizeof how);
        memset(&o, 0, sizeof o);
        o.max_bytes = 1 << 22;
        how.axcodes = "RAS";
        if (bmvp_nii_read_memory(&im, copy, n, NULL, 0, &o, &err) != BMVP_OK) continue;
        if (bmvp_nii_to_volume(&v, &im, &how, &o, &err) == BMVP_OK) {
            double length[3];
            bmvp_nii_voxel_size(length, v.affine);
            if (length[0] < 50 && length[1] < 50 && length[2] < 50) (void)bmvp_nii_spacing(&v, mm, NULL, &err);
            done++;
            bmvp_nii_volume_free(&v);
        }
        bmvp_nii_image_free(&im);
    }
    CHECK(done > 200);
    free(copy);
    bmvp_nii_bytes_free(bytes, NULL);
}

/* ---- gzip --------------------------------------------------------------------------------------------------- */

#ifndef BMVP_NIFTI_NO_GZIP

static size_t gzip_bytes(unsigned char **out, const unsigned char *in, size_t n, int level) {
    size_t cap = bmvpi_nii_codec_bound(n);
    *out = (unsigned char *)malloc(cap);
    return bmvpi_nii_codec_gzip(*out, cap, in, n, level);
}

static void inflate_prefix(bmvpi_nii_inflate *z, unsigned char *out, size_t cap, const unsigned char *in, size_t n) {
    bmvpi_nii_z_start(z, out, cap, in, n);
    bmvpi_nii_z_run(z);
}

static void test_small_inflate(void) {
    static const size_t sizes[] = {0, 1, 100, 70000, 300000};
    size_t i;
    int kind, level;
    for (i = 0; i < 5; i++)
        for (kind = 0; kind < 3; kind++)
            for (level = 1; level <= 9; level += 4) {
                unsigned char *in = (unsigned char *)malloc(sizes[i] + 1), *packed, *out = (unsigned char *)malloc(sizes[i] + 1);
                size_t n, k;
                bmvpi_nii_inflate z;
                for (k = 0; k < sizes[i]; k++)
                    in[k] = (unsigned char)(kind == 0 ? draw32() : kind == 1 ? k / 1000 : draw32() % 5 ? 0 : draw32() % 20);
                n = gzip_bytes(&packed, in, sizes[i], level);
                CHECK(n > 0);
                inflate_prefix(&z, out, sizes[i], packed, n);
                CHECK(z.state == BMVPI_NII_Z_DONE && z.len == sizes[i] && memcmp(in, out, sizes[i]) == 0);
                inflate_prefix(&z, out, sizes[i] / 2, packed, n);
                CHECK(z.len == sizes[i] / 2 && memcmp(in, out, z.len) == 0);
                inflate_prefix(&z, out, sizes[i], packed, n / 2);
                CHECK(z.state == BMVPI_NII_Z_SHORT && memcmp(in, out, z.len) == 0);
                free(in);
                free(out);
                free(packed);
            }
}

static void test_gzip_forms(void) {
    size_t n, a, b, c;
    unsigned char *plain = small_file(&n, 1, 0), *one, *two, *all, *longer;
    a = gzip_bytes(&one, plain, 100, 6);
    b = gzip_bytes(&two, plain + 100, n - 100, 9);
    all = (unsigned char *)malloc(a + b + 50);
    memcpy(all, one, a);
    memcpy(all + a, two, b);
    memset(all + a + b, 'x', 50);
    CHECK_OK(read_bytes(all, a + b));                       /* two members */
    CHECK_OK(read_bytes(all, a + b + 50));                  /* and garbage behind them */
    all[a + b - 8] ^= 1;
    CHECK_FAILS(read_bytes(all, a + b), E_FORMAT, "gzip CRC mismatch in member 2");
    all[a + b - 8] ^= 1;
    all[a + b - 2] ^= 1;
    CHECK_FAILS(read_bytes(all, a + b), E_FORMAT, "length mismatch");
    all[a + b - 2] ^= 1;
    CHECK_FAILS(read_bytes(all, a), E_FORMAT, "has only 100 bytes");
    CHECK_FAILS(read_bytes(all, a + b - 20), E_FORMAT, "gzip stream ends");
    free(one);
    free(two);
    longer = (unsigned char *)calloc(1, n + 50000000);      /* a bomb: only what the header declares is inflated */
    memcpy(longer, plain, n);
    for (c = n; c < n + 100000; c++) longer[c] = (unsigned char)(draw32() % 7);
    a = gzip_bytes(&one, longer, n + 5000000, 6);
    CHECK_OK(read_bytes(one, a));
    one[a - 8] ^= 1;                                        /* the CRC counts for what is cut off as well */
    CHECK_FAILS(read_bytes(one, a), E_FORMAT, "damaged");
    free(one);
    a = gzip_bytes(&one, longer, n + 50000000, 6);
    CHECK_FAILS(read_bytes(one, a), E_FORMAT, "16 MiB beyond");
    free(one);
    put_number(longer, 42, 'h', 30000, 0);                  /* more than deflate could have packed; then above the limit */
    put_number(longer, 44, 'h', 30000, 0);
    a = gzip_bytes(&one, longer, n + 50000000, 6);
    CHECK_FAILS(read_bytes(one, a), E_FORMAT, "declares");
    put_number(longer, 44, 'h', 200, 0);
    free(one);
    a = gzip_bytes(&one, longer, n + 50000000, 6);
    CHECK_FAILS(read_bytes(one, a), E_OOM, "limit");
    free(one);
    free(longer);
    free(all);
    bmvp_nii_bytes_free(plain, NULL);
}

static void test_damaged_stream(void) {
    size_t n, i;
    int bad = 0;
    unsigned char *bytes = small_file(&n, 1, 1);
    for (i = 10; i < n; i++) {
        bytes[i] ^= 0x55;
        bad += read_bytes(bytes, n) != BMVP_OK;
        bytes[i] ^= 0x55;
    }
    CHECK(bad == (int)n - 10);                              /* no flipped byte goes unnoticed */
    bmvp_nii_bytes_free(bytes, NULL);
}

#endif

/* ---- reading: places and names ------------------------------------------------------------------------------ */

static void test_files_that_are_not_there(void) {
    bmvp_nii_image im;
    bmvp_nii_file file;
    FILE *f;
    CHECK_FAILS(bmvp_nii_read(&im, in_folder("missing.nii"), NULL, &err), E_IO, "missing.nii: cannot be opened");
    CHECK_FAILS(bmvp_nii_read(&im, folder, NULL, &err), E_IO, "not a regular file");
    f = fopen(in_folder("text.nii"), "w");
    CHECK(f != NULL && fprintf(f, "%500s", "hello") == 500 && fclose(f) == 0);
    CHECK_FAILS(bmvp_nii_read(&im, in_folder("text.nii"), NULL, &err), E_FORMAT, "is no NIfTI file");
    f = fopen(in_folder("empty.nii"), "w");
    CHECK(f != NULL && fclose(f) == 0);
    CHECK_FAILS(bmvp_nii_read(&im, in_folder("empty.nii"), NULL, &err), E_FORMAT, "has only 0 bytes");
    make_image(&im, BMVP_NII_INT16, 3, 3, 3, 1);
    CHECK_OK(bmvp_nii_write(in_folder("half.hdr"), &im, NULL, &err));
    bmvp_nii_image_free(&im);
    CHECK(remove(in_folder("half.img")) == 0);
    CHECK_FAILS(bmvp_nii_read(&im, in_folder("half.hdr"), NULL, &err), E_IO, "half.img");
    CHECK_OK(bmvp_nii_read_header(&im, in_folder("half.hdr"), NULL, &err));
    bmvp_nii_image_free(&im);
    CHECK_FAILS(bmvp_nii_open(&file, in_folder("half.hdr"), NULL, &err), E_IO, "half.img");
    bmvp_nii_close(&file);
}

static void test_boxes_of_a_file(void) {
    static const int types[] = {BMVP_NII_INT16, BMVP_NII_UINT8, BMVP_NII_INT32, BMVP_NII_COMPLEX64};
    int i, k, a;
    for (i = 0; i < 4; i++) {
        bmvp_nii_image im;
        bmvp_nii_file file;
        bmvp_nii_volume v;
        bmvp_nii_load how;
        make_image(&im, types[i], i == 3 ? 5000 : 31, 17, 9, 2);
        im.scl_slope = 0.25;
        im.scl_inter = -3;
        CHECK_OK(bmvp_nii_write(in_folder("box.nii"), &im, NULL, &err));
        memset(&how, 0, sizeof how);
        how.t = 1;
        how.first = 1;
        CHECK_OK(bmvp_nii_to_volume(&v, &im, &how, NULL, &err));
        if (!CHECK_OK(bmvp_nii_open(&file, in_folder("box.nii"), NULL, &err))) return;
        for (k = 0; k < 60; k++) {
            bmvp_nii_box box;
            int64_t size[3], x, y, z;
            float *got;
            int wrong = 0;
            for (a = 0; a < 3; a++) {
                box.start[a] = (int64_t)(draw32() % (uint32_t)(im.dim[a] + 10)) - 5;
                box.end[a] = box.start[a] + (int64_t)(draw32() % (uint32_t)(im.dim[a] + 6));
                size[a] = box.end[a] - box.start[a];
            }
            got = (float *)malloc((size_t)(size[0] * size[1] * size[2]) * 4 + 4);
            CHECK_OK(bmvp_nii_read_box(got, &file, &box, 1, &err));
            for (z = 0; z < size[2]; z++)
                for (y = 0; y < size[1]; y++)
                    for (x = 0; x < size[0]; x++) {
                        int64_t u = x + box.start[0], w = y + box.start[1], q = z + box.start[2];
                        int in = u >= 0 && w >= 0 && q >= 0 && u < v.dim[0] && w < v.dim[1] && q < v.dim[2];
                        float want = in ? v.data[(q * v.dim[1] + w) * v.dim[0] + u] : 0;
                        wrong += memcmp(&want, &got[(z * size[1] + y) * size[0] + x], 4) != 0;
                    }
            CHECK(wrong == 0);
            free(got);
        }
        CHECK_FAILS(bmvp_nii_read_box(NULL, &file, NULL, 2, &err), E_ARG, "t = 2");
        bmvp_nii_close(&file);
        bmvp_nii_image_free(&im);
        bmvp_nii_volume_free(&v);
    }
}

static void test_open_refuses(void) {
    bmvp_nii_file file;
    bmvp_nii_image im;
    make_image(&im, BMVP_NII_FLOAT128, 3, 3, 3, 1);
    CHECK_OK(bmvp_nii_write(in_folder("wide.nii"), &im, NULL, &err));
    CHECK_FAILS(bmvp_nii_open(&file, in_folder("wide.nii"), NULL, &err), E_UNSUPPORTED, "float128");
    bmvp_nii_image_free(&im);
    make_image(&im, BMVP_NII_INT16, 3, 3, 3, 1);
    CHECK_OK(bmvp_nii_write(in_folder("cut.nii"), &im, NULL, &err));
    bmvp_nii_image_free(&im);
    CHECK(truncate(in_folder("cut.nii"), 420) == 0);
    CHECK_FAILS(bmvp_nii_open(&file, in_folder("cut.nii"), NULL, &err), E_FORMAT, "declares");
    if (HAVE_GZIP) CHECK_FAILS(bmvp_nii_open(&file, FIXTURES "in_oblique.nii.gz", NULL, &err), E_UNSUPPORTED, "gzip");
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
            check_report(off < (form == 0 ? 2e-5 : 0.21), __FILE__, __LINE__, "unit %d, form %d: %g mm off", rows[i].unit, form, off);
            bmvp_nii_volume_free(&v);
        }
    bmvp_nii_create(&im, BMVP_NII_UINT8, 3, dim, affine, NULL, &err);
    im.xyzt_units = 1;
    CHECK_OK(bmvp_nii_write(in_folder("wrong_unit.nii"), &im, NULL, &err));
    CHECK_FAILS(bmvp_nii_read_volume(&v, in_folder("wrong_unit.nii"), NULL, NULL, &err), E_FORMAT,
                "wrong_unit.nii: xyzt_units is 1 (metre) and pixdim[1]");
    remove(in_folder("wrong_unit.nii"));
    bmvp_nii_image_free(&im);
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
    static const struct { int type, component; double want[2]; } rows[] = {
        {BMVP_NII_COMPLEX64, BMVP_NII_REAL, {3, 0}},        {BMVP_NII_COMPLEX64, BMVP_NII_IMAGINARY, {-4, 2}},
        {BMVP_NII_COMPLEX64, BMVP_NII_MAGNITUDE, {5, 2}},   {BMVP_NII_COMPLEX64, BMVP_NII_PHASE, {-0.927295218, 1.570796327}},
        {BMVP_NII_RGB24, BMVP_NII_GREEN, {20, 0}},          {BMVP_NII_RGB24, BMVP_NII_GREY, {18.15, 76.359}},
        {BMVP_NII_RGB24, BMVP_NII_BLUE, {30, 1}},           {BMVP_NII_COMPLEX64, 0, {3, 0}},
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
        memcpy(im.data, rows[i].type == BMVP_NII_RGB24 ? (const void *)colours : (const void *)pairs, (size_t)im.data_bytes);
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

static void test_rectify(void) {
    bmvp_nii_image im;
    double a[16];
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
            int64_t low = (int64_t)floor(h - 0.07 < 0 ? 0 : h - 0.07), high = (int64_t)ceil(h + 0.07);   /* float32 ranks */
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
            x[j] = kind == 0 ? (j % 2 ? random : 0) : kind == 1 ? 7 : kind == 2 ? (float)j : kind == 3 ? -random : random;
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
                if (i % 64 < 16) whole = i % 3 ? types[t].high + (double)(i % 16) - 8 : types[t].low + (double)(i % 16) - 8;
                if (i % 5 == 0) whole = floor(whole) + 0.5;
                v.data[i] = i % 256 < 48 ? 0 : (float)(whole * slope + inter);
            }
            v.data[n - 100] = (float)HUGE_VAL;
            v.data[n - 300] = (float)HUGE_VAL - (float)HUGE_VAL;
            CHECK_OK(bmvp_nii_from_volume(&im, &v, types[t].type, slope, inter, &clamped, NULL, &err));
            for (i = 0; i < n; i++) {
                const double q = ((double)v.data[i] - inter) / slope;
                double want = q == q ? nearbyint(q < types[t].low ? types[t].low : q > types[t].high ? types[t].high : q) : 0;
                const double got = t == 0 ? ((uint8_t *)im.data)[i] : t == 1 ? ((int16_t *)im.data)[i] : ((int32_t *)im.data)[i];
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
    CHECK(box.start[0] == 2 && box.end[0] == 18 && box.start[1] == 3 && box.end[1] == 12 && box.start[2] == 3 && box.end[2] == 7);
    CHECK_OK(bmvp_nii_foreground_box(&box, v, 2, 5, &err));
    CHECK(box.start[0] == 0 && box.end[0] == 20 && box.start[2] == 0 && box.end[2] == 10 && box.start[1] == 0 && box.end[1] == 15);
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
    v.affine[0] = 0;
    CHECK_FAILS(bmvp_nii_spacing(&v, mm, NULL, &err), E_ARG, "singular");
    bmvp_nii_volume_free(&v);
}

/* ---- memory ------------------------------------------------------------------------------------------------- */

typedef struct counting { long calls, fail_at, open; } counting;

static void *count_alloc(size_t n, void *user) {
    counting *c = (counting *)user;
    if (++c->calls == c->fail_at) return NULL;
    c->open++;
    return malloc(n);
}

static void count_free(void *block, void *user) {
    ((counting *)user)->open--;
    free(block);
}

/* Reads, converts, transforms, writes to memory; any call may fail, nothing may leak. */
static bmvp_status whole_chain(const unsigned char *bytes, size_t n, counting *c) {
    static const bmvp_nii_scale scale = {5, 95, 0, 1, 1, 0, 0};
    const double mm[3] = {1, 1, 1}, oblique[3] = {0.9, 0.9, 0.9};
    const int64_t size[3] = {6, 7, 8};
    bmvp_nii_image im, made;
    bmvp_nii_volume v;
    bmvp_nii_load how;
    bmvp_nii_options o;
    bmvp_nii_write_options w;
    bmvp_nii_box box = {{-1, 0, 0}, {5, 4, 3}};
    void *out = NULL;
    size_t n_out;
    bmvp_status s;
    memset(&how, 0, sizeof how);
    memset(&o, 0, sizeof o);
    memset(&w, 0, sizeof w);
    memset(&v, 0, sizeof v);
    memset(&made, 0, sizeof made);
    o.allocator.alloc = count_alloc;
    o.allocator.free = count_free;
    o.allocator.user = c;
    how.axcodes = "PIR";
    w.store = HAVE_GZIP ? BMVP_NII_STORE_NII_GZ : BMVP_NII_STORE_NII;
    s = bmvp_nii_read_memory(&im, bytes, n, NULL, 0, &o, &err);
    if (s == BMVP_OK) s = bmvp_nii_to_volume(&v, &im, &how, &o, &err);
    if (s == BMVP_OK) s = bmvp_nii_orient(&v, "LPS", &err);
    if (s == BMVP_OK) s = bmvp_nii_spacing(&v, mm, NULL, &err);
    if (s == BMVP_OK) s = bmvp_nii_spacing(&v, oblique, NULL, &err);
    if (s == BMVP_OK) s = bmvp_nii_crop(&v, &box, 0, &err);
    if (s == BMVP_OK) s = bmvp_nii_resize(&v, size, BMVP_NII_LINEAR, 0, &err);
    if (s == BMVP_OK) s = bmvp_nii_scale_percentiles(&v, &scale, NULL, &err);
    if (s == BMVP_OK) s = bmvp_nii_from_volume(&made, &v, BMVP_NII_INT16, 0, 0, NULL, &o, &err);
    if (s == BMVP_OK) s = bmvp_nii_add_extension(&made, 6, "text", 4, &err);
    if (s == BMVP_OK) s = bmvp_nii_write_memory(&out, &n_out, &made, &w, &err);
    bmvp_nii_bytes_free(out, &o.allocator);
    bmvp_nii_image_free(&im);
    bmvp_nii_image_free(&made);
    bmvp_nii_volume_free(&v);
    return s;
}

static void test_allocation_failure(void) {
    int gzip;
    for (gzip = 0; gzip <= HAVE_GZIP; gzip++) {
        size_t n;
        unsigned char *bytes = small_file(&n, 1, gzip);
        counting c = {0, 0, 0};
        long k, calls;
        CHECK_OK(whole_chain(bytes, n, &c));
        CHECK(c.open == 0);
        calls = c.calls;
        CHECK(calls > 15);
        for (k = 1; k <= calls; k++) {
            bmvp_status s;
            memset(&c, 0, sizeof c);
            c.fail_at = k;
            s = whole_chain(bytes, n, &c);
            check_report(s == BMVP_E_OOM && c.open == 0, __FILE__, __LINE__, "call %ld of %ld: %s, %ld blocks left", k,
                         calls, bmvp_status_text(s), c.open);
        }
        bmvp_nii_bytes_free(bytes, NULL);
    }
}

static void test_file_allocation_failure(void) {
    bmvp_nii_image im;
    long k;
    int worked = 0;
    make_image(&im, BMVP_NII_INT16, 9, 8, 7, 2);
    CHECK_OK(bmvp_nii_write(in_folder("mem.hdr"), &im, NULL, &err));
    bmvp_nii_image_free(&im);
    for (k = 1; k < 40 && !worked; k++) {
        counting c = {0, 0, 0};
        bmvp_nii_options o;
        bmvp_nii_load how;
        bmvp_nii_volume v;
        bmvp_status s;
        memset(&o, 0, sizeof o);
        o.allocator.alloc = count_alloc;
        o.allocator.free = count_free;
        o.allocator.user = &c;
        c.fail_at = k;
        memset(&how, 0, sizeof how);
        how.first = 1;
        s = bmvp_nii_read_volume(&v, in_folder("mem.hdr"), &how, &o, &err);
        worked = s == BMVP_OK && c.calls < k;
        CHECK(worked || s == BMVP_E_OOM);
        bmvp_nii_volume_free(&v);
        CHECK(c.open == 0);
    }
    CHECK(worked);
}

static void test_pool(void) {
    bmvp_nii_pool pool;
    bmvp_allocator m;
    void *a, *b, *many[BMVP_NII_POOL_BLOCKS + 5];
    int i;
    memset(&pool, 0, sizeof pool);
    m = bmvp_nii_pool_allocator(&pool);
    a = m.alloc(3000000, m.user);
    CHECK(a != NULL);
    m.free(a, m.user);
    b = m.alloc(2900000, m.user);
    CHECK(b == a);
    a = m.alloc(2900000, m.user);
    CHECK(a != NULL && a != b);
    memset(a, 1, 2900000);
    m.free(a, m.user);
    m.free(b, m.user);
    b = m.alloc(100, m.user);
    m.free(b, m.user);
    for (i = 0; i < BMVP_NII_POOL_BLOCKS + 5; i++) {        /* more than the table holds */
        many[i] = m.alloc(70000 + (size_t)i, m.user);
        CHECK(many[i] != NULL);
        memset(many[i], 2, 70000);
    }
    for (i = 0; i < BMVP_NII_POOL_BLOCKS + 5; i++) m.free(many[i], m.user);
    bmvp_nii_pool_free(&pool);
    {
        bmvp_nii_options o;
        bmvp_nii_volume v;
        memset(&o, 0, sizeof o);
        o.allocator = bmvp_nii_pool_allocator(&pool);
        for (i = 0; i < 3; i++) {
            const int64_t dim[3] = {64, 64, 32};
            CHECK_OK(bmvp_nii_volume_create(&v, dim, NULL, &o, &err));
            CHECK_OK(bmvp_nii_orient(&v, "SAR", &err));
            bmvp_nii_volume_free(&v);
        }
        bmvp_nii_pool_free(&pool);
    }
}

static void test_limit(void) {
    bmvp_nii_options o;
    bmvp_nii_image im;
    size_t n;
    unsigned char *bytes = small_file(&n, 1, 0);
    memset(&o, 0, sizeof o);
    o.max_bytes = 119;                                      /* data are 120 bytes, the extension section is longer */
    CHECK_FAILS(bmvp_nii_read_memory(&im, bytes, n, NULL, 0, &o, &err), E_OOM, "limit is 119");
    bmvp_nii_bytes_free(bytes, NULL);
}

static void test_long_names(void) {
    char name[6000];
    bmvp_nii_image im;
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    CHECK_FAILS(bmvp_nii_read(&im, name, NULL, &err), E_ARG, "name is too long");
    name[3000] = 0;
    CHECK_FAILS(bmvp_nii_read(&im, name, NULL, &err), E_IO, "cannot be opened");
    CHECK(strlen(err.message) < sizeof err.message);
}

static void test_texts(void) {
    CHECK(strcmp(bmvp_status_text(BMVP_OK), "ok") == 0);
    CHECK(strcmp(bmvp_status_text((bmvp_status)12345), "unknown status") == 0);
    CHECK(strcmp(bmvp_nii_datatype_text(BMVP_NII_INT16), "int16") == 0 && bmvp_nii_datatype_size(BMVP_NII_COMPLEX256) == 32);
    CHECK(strcmp(bmvp_nii_datatype_text(3), "unknown") == 0 && bmvp_nii_datatype_size(3) == 0);
}

static void remove_folder(void) {
    static const char *const names[] = {"a.nii", "a.nii.gz", "b.hdr", "b.img", "c.hdr", "c.img", "d.hdr.gz", "d.img.gz", "E.HDR",
                                        "E.IMG", "large.nii", "old.nii", "text.nii", "empty.nii", "half.hdr", "box.nii",
                                        "wide.nii", "cut.nii", "mem.hdr", "mem.img"};
    size_t i;
    for (i = 0; i < sizeof names / sizeof *names; i++) remove(in_folder(names[i]));
}

/* After all tests nothing but what they wrote may be in the folder: no temporary file was left behind. */
static void test_nothing_left(void) {
    remove_folder();
    CHECK(rmdir(folder) == 0);
}

int main(int argc, char **argv) {
    check_begin(argc, argv);
    strcpy(folder, "/tmp/bmvp_test_nifti_XXXXXX");
    if (mkdtemp(folder) == NULL) return 1;
    CHECK_RUN(test_files_as_nibabel);
    CHECK_RUN(test_transforms_as_monai);
    CHECK_RUN(test_round_trips);
    CHECK_RUN(test_large_dims_choose_version_2);
    CHECK_RUN(test_write_failures);
    CHECK_RUN(test_full_disk_keeps_the_old_file);
    CHECK_RUN(test_every_truncation);
    CHECK_RUN(test_hostile_headers);
    CHECK_RUN(test_hostile_nifti2);
    CHECK_RUN(test_bad_extensions_are_ignored);
    CHECK_RUN(test_mutations);
    CHECK_RUN(test_mutated_headers_through_the_chain);
#ifndef BMVP_NIFTI_NO_GZIP
    CHECK_RUN(test_small_inflate);
    CHECK_RUN(test_gzip_forms);
    CHECK_RUN(test_damaged_stream);
#endif
    CHECK_RUN(test_files_that_are_not_there);
    CHECK_RUN(test_boxes_of_a_file);
    CHECK_RUN(test_open_refuses);
    CHECK_RUN(test_nonfinite_are_counted);
    CHECK_RUN(test_components);
    CHECK_RUN(test_several_numbers);
    CHECK_RUN(test_units);
    CHECK_RUN(test_grid_distance);
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
    CHECK_RUN(test_allocation_failure);
    CHECK_RUN(test_file_allocation_failure);
    CHECK_RUN(test_pool);
    CHECK_RUN(test_limit);
    CHECK_RUN(test_long_names);
    CHECK_RUN(test_texts);
    CHECK_RUN(test_nothing_left);
    if (check_all.only != NULL) {
        remove_folder();
        rmdir(folder);
    }
    return check_end();
}
