/* test_nifti.c - bmvp_nifti.h: files against nibabel (fixtures made by reference/nifti_reference.py), round trips,
   damage of every kind, allocation failure at every call. Runs from the top folder, needs no Python. What happens to a
   volume once it is read: test_grids.c. */
#define BMVP_NIFTI_IMPLEMENTATION
#include "bmvp_nifti.h"
#include "tests/support/nifti.h"
#include <signal.h>
#include <sys/resource.h>

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
    check_report(fabs(squares - want[1]) <= 1e-6 * want[1], __FILE__, __LINE__, "%s: squares %.12g, nibabel %.12g",
                 name, squares, want[1]);
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
    check_report(a->data_bytes == b->data_bytes && memcmp(a->data, b->data, (size_t)a->data_bytes) == 0, __FILE__,
                 __LINE__, "%s: data differ", what);
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
            if (CHECK_OK(bmvp_nii_read_header(&back, path, NULL, &err)))
                CHECK(back.data == NULL && back.n_extensions == 2);
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
    handler = signal(SIGXFSZ, SIG_IGN); /* a file may not grow beyond 2000 bytes: write fails half way */
    small = before;
    small.rlim_cur = 2000;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    if (getrlimit(RLIMIT_FSIZE, &small) || small.rlim_cur != 2000) {
        check_skip("this system has no limit of file size");
        bmvp_nii_image_free(&im);
        return;
    }
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
                unsigned char *in = (unsigned char *)malloc(sizes[i] + 1), *packed,
                              *out = (unsigned char *)malloc(sizes[i] + 1);
                size_t n, k;
                bmvpi_nii_inflate z;
                for (k = 0; k < sizes[i]; k++)
                    in[k] = (unsigned char)(kind == 0      ? draw32()
                                            : kind == 1    ? k / 1000
                                            : draw32() % 5 ? 0
                                                           : draw32() % 20);
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
    put_number(longer, 42, 'h', 30000, 0); /* more than deflate could have packed; then above the limit */
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
    CHECK(strcmp(bmvp_nii_datatype_text(BMVP_NII_INT16), "int16") == 0 &&
          bmvp_nii_datatype_size(BMVP_NII_COMPLEX256) == 32);
    CHECK(strcmp(bmvp_nii_datatype_text(3), "unknown") == 0 && bmvp_nii_datatype_size(3) == 0);
}

static void remove_folder(void) {
    static const char *const names[] = { "a.nii",     "a.nii.gz", "b.hdr",    "b.img",     "c.hdr",
                                         "c.img",     "d.hdr.gz", "d.img.gz", "E.HDR",     "E.IMG",
                                         "large.nii", "old.nii",  "text.nii", "empty.nii", "half.hdr",
                                         "box.nii",   "wide.nii", "cut.nii",  "mem.hdr",   "mem.img" };
    size_t i;
    for (i = 0; i < sizeof names / sizeof *names; i++) remove(in_folder(names[i]));
}

/* After all tests nothing but what they wrote may be in the folder: no temporary file was left behind. */
static void test_nothing_left(void) {
    remove_folder();
    CHECK(rmdir(folder) == 0);
}

/* Lengths in another unit than xyzt_units says: no voxel of a scan is smaller than 0.01 mm or larger than 100. */
static void test_wrong_units(void) {
    static const struct { int unit; double voxel; const char *says; } rows[] = {
        {1, 1, "wrong_unit.nii: xyzt_units is 1 (metre) and pixdim[1] 1: voxels of 1000 mm"},
        {1, 0.2, "voxels of 200 mm"}, {1, 1e-6, "voxels of 0.001 mm"}, {3, 1, "xyzt_units is 3 (micron)"},
        {3, 9, "voxels of 0.009 mm"}, {3, 1e6, "voxels of 1000 mm"}, {1, 0.001, NULL}, {3, 40, NULL}, {1, 0.09, NULL},
    };
    const int64_t dim[3] = {5, 4, 3};
    bmvp_nii_image im;
    bmvp_nii_volume v;
    size_t i;
    int a;
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        double affine[16] = {0};
        for (a = 0; a < 3; a++) affine[5 * a] = rows[i].voxel;
        affine[15] = 1;
        bmvp_nii_create(&im, BMVP_NII_UINT8, 3, dim, affine, NULL, &err);
        im.xyzt_units = rows[i].unit;
        CHECK_OK(bmvp_nii_write(in_folder("wrong_unit.nii"), &im, NULL, &err));
        bmvp_nii_image_free(&im);
        if (rows[i].says)
            CHECK_FAILS(bmvp_nii_read_volume(&v, in_folder("wrong_unit.nii"), NULL, NULL, &err), E_FORMAT,
                        rows[i].says);
        else CHECK_OK(bmvp_nii_read_volume(&v, in_folder("wrong_unit.nii"), NULL, NULL, &err));
        bmvp_nii_volume_free(&v);
        remove(in_folder("wrong_unit.nii"));
    }
}

/* Two valid matrices that say different places: how far apart, in mm, and whether reading keeps that. */
static void test_forms_apart(void) {
    static const struct { int at; double add; int qcode, scode, unit; double apart, kept; } rows[] = {
        {3, 0, 1, 1, 2, 0, 0},     {3, 25, 1, 1, 2, 25, 25},   {7, -40, 1, 4, 2, 40, 40}, /* moved */
        {3, 1.5, 1, 1, 2, 1.5, 0},                                          /* within the longest edge of a voxel */
        {0, -2, 2, 1, 2, 58, 58},                                           /* left is right, of 29 steps */
        {3, 25, 0, 1, 2, 0, 0},    {3, 25, 1, 0, 2, 0, 0},                  /* one matrix alone */
        {3, 0.025, 1, 2, 1, 25, 25},                                        /* metres */
    };
    const int64_t dim[3] = {30, 40, 20};
    bmvp_nii_image im;
    bmvp_nii_volume v;
    size_t i;
    int k;
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        const double unit = rows[i].unit == 1 ? 0.001 : 1;
        double affine[16] = {unit, 0, 0, 0, 0, unit, 0, 0, 0, 0, 2 * unit, 0, 0, 0, 0, 1};
        bmvp_nii_create(&im, BMVP_NII_FLOAT32, 3, dim, affine, NULL, &err);
        im.xyzt_units = rows[i].unit;
        im.srow[rows[i].at] += rows[i].add;
        im.qform_code = rows[i].qcode, im.sform_code = rows[i].scode;
        CHECK_OK(bmvp_nii_write(in_folder("forms.nii"), &im, NULL, &err));
        bmvp_nii_image_free(&im);
        if (!CHECK_OK(bmvp_nii_read_header(&im, in_folder("forms.nii"), NULL, &err))) continue;
        check_report(fabs(bmvp_nii_forms_apart(&im) - rows[i].apart) < 1e-4, __FILE__, __LINE__, "row %d: %g mm apart",
                     (int)i, bmvp_nii_forms_apart(&im));
        bmvp_nii_image_free(&im);
        for (k = 0; k < 2; k++) {
            bmvp_nii_load how;
            memset(&how, 0, sizeof how);
            how.axcodes = k ? "LPS" : NULL;
            if (!CHECK_OK(bmvp_nii_read_volume(&v, in_folder("forms.nii"), &how, NULL, &err))) continue;
            check_report(fabs(v.forms_apart - rows[i].kept) < 1e-4 && !v.by_qform, __FILE__, __LINE__,
                         "row %d: %g mm kept", (int)i, v.forms_apart);
            bmvp_nii_volume_free(&v);
        }
        remove(in_folder("forms.nii"));
    }
}

int main(int argc, char **argv) {
    check_begin(argc, argv);
    strcpy(folder, "/tmp/bmvp_test_nifti_XXXXXX");
    if (mkdtemp(folder) == NULL) return 1;
    CHECK_RUN(test_files_as_nibabel);
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
    CHECK_RUN(test_allocation_failure);
    CHECK_RUN(test_file_allocation_failure);
    CHECK_RUN(test_pool);
    CHECK_RUN(test_limit);
    CHECK_RUN(test_long_names);
    CHECK_RUN(test_texts);
    CHECK_RUN(test_wrong_units);
    CHECK_RUN(test_forms_apart);
    CHECK_RUN(test_nothing_left);
    if (check_all.only != NULL) {
        remove_folder();
        rmdir(folder);
    }
    return check_end();
}
