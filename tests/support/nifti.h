/* nifti.h - what tests of bmvp_nifti.h share: a folder for files, random numbers, small volumes, images and files. The
   including file has the implementation. */
#ifndef BMVP_TEST_NIFTI_H
#define BMVP_TEST_NIFTI_H

#include "bmvp_nifti.h"
#include "tests/support/check.h"

#define FIXTURES "tests/fixtures/nifti/"

#ifdef BMVP_NIFTI_NO_GZIP
enum { HAVE_GZIP = 0 };
#else
enum { HAVE_GZIP = 1 };
#endif

static bmvp_error err;
static char folder[64]; /* scratch, removed at the end */

#define CHECK_OK(call) check_report((call) == BMVP_OK, __FILE__, __LINE__, "%s: %s", #call, err.message)
#define CHECK_FAILS(call, wanted, part)                                                                       \
    do {                                                                                                      \
        const bmvp_status got_ = (call);                                                                  \
        check_report(got_ == BMVP_##wanted, __FILE__, __LINE__, "%s gives \"%s\" (%s)", #call,            \
                     bmvp_status_text(got_), err.message);                                                \
        if (got_ != BMVP_OK) CHECK_HOLDS(err.message, part);                                              \
    } while (0)

static uint32_t seed = 1;

static inline uint32_t draw32(void) {
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) ^ (seed << 24);
}

static inline int64_t draw(int64_t n, void *user) {
    (void)user;
    return (int64_t)(draw32() >> 4) % n;
}

static inline const char *in_folder(const char *name) {
    static char path[2][200];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

/* Turns about x, y, z (a rotation vector in radians), then a shift in mm. */
static inline void pose_of(double m[16], double wx, double wy, double wz, double x, double y, double z) {
    double r[9];
    int k;
    bmvpi_nii_turn3(r, wx, wy, wz);
    bmvpi_nii_identity(m);
    for (k = 0; k < 9; ++k) m[4 * (k / 3) + k % 3] = r[k];
    m[3] = x;
    m[7] = y;
    m[11] = z;
}

static inline int64_t voxels(const bmvp_nii_volume *v) { return v->dim[0] * v->dim[1] * v->dim[2]; }

/* An oblique affine with a flip. */
static inline void some_affine(double a[16]) {
    static const double m[16] = {-1.2, 0.3, 0.1, 20, 0.25, 1.4, -0.35, -30, 0.12, 0.3, 2.1, 5, 0, 0, 0, 1};
    memcpy(a, m, sizeof m);
}

/* A volume of smooth and rough values, background 0. */
static inline void make_volume(bmvp_nii_volume *v, int64_t x, int64_t y, int64_t z) {
    const int64_t dim[3] = {x, y, z};
    double a[16];
    int64_t i;
    some_affine(a);
    CHECK_OK(bmvp_nii_volume_create(v, dim, a, NULL, &err));
    for (i = 0; i < voxels(v); i++)
        v->data[i] = i % 7 < 3 ? 0 : (float)((double)(draw32() % 100000) / 37.0 - 500);
}

static inline void make_image(bmvp_nii_image *im, int datatype, int64_t x, int64_t y, int64_t z, int64_t t) {
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
static inline unsigned char *small_file(size_t *n, int version, int gzip) {
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

static inline bmvp_status read_bytes(const void *bytes, size_t n) {
    bmvp_nii_image im;
    bmvp_nii_options o;
    bmvp_status s;
    memset(&o, 0, sizeof o);
    o.max_bytes = 1 << 24;
    s = bmvp_nii_read_memory(&im, bytes, n, NULL, 0, &o, &err);
    bmvp_nii_image_free(&im);
    return s;
}

static inline void put_number(unsigned char *bytes, int at, char type, int64_t whole, double real) {
    bmvpi_nii_put(bytes + at, type, whole, real);
}

#endif
