/* bench_nifti.c - speed of bmvp_nifti.h: reading .nii.gz beside nifti_clib, the preparation chain, crops.

   cc -std=c99 -O2 -I. tests/bench/bench_nifti.c -o bench_nifti -ldeflate -lm
   with nifti_clib: -DHAVE_NIFTICLIB -I/usr/include/nifti ... -lnifti2 -lznz -lz
   bench_nifti FILE.nii.gz [more modalities of the case ...]

   Times are processor time (user and system) of this one-threaded program, medians of 15 runs with the files in the
   page cache: on a busy machine they mean more than wall time, on an idle one they are the same. Reading is measured
   into fresh memory, as nifti_clib reads, and into memory used before, as libdeflate alone on the same bytes. */
#define BMVP_NIFTI_IMPLEMENTATION
#include "bmvp_nifti.h"
#include <time.h>
#ifdef HAVE_NIFTICLIB
#include <nifti2_io.h>
#endif

enum { RUNS = 15 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *ms) {
    qsort(ms, RUNS, sizeof *ms, by_size);
    return ms[RUNS / 2];
}

static void check(bmvp_nii_status s, const bmvp_nii_error *err) {
    if (s == BMVP_NII_OK) return;
    printf("%s\n", err->message);
    exit(1);
}

#if !defined(BMVP_NIFTI_ZLIB) && !defined(BMVP_NIFTI_NO_GZIP)
/* What reading can come down to: the file into memory and libdeflate over it, both into memory used before; ours with a
   pool, so that it is given memory used before as well. */
static void bench_floor(const char *path, double *ours, double *alone) {
    bmvp_nii_pool pool;
    bmvp_nii_options options;
    bmvp_nii_image image;
    bmvp_nii_error err;
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    unsigned char *in, *out;
    size_t cap, got = 0;
    struct stat st;
    int i, fd;
    memset(&pool, 0, sizeof pool);
    memset(&options, 0, sizeof options);
    options.memory = bmvp_nii_pool_memory(&pool);
    check(bmvp_nii_read(&image, path, &options, &err), &err);
    if (!image.is_gzip || stat(path, &st) != 0 || d == NULL) exit(1);
    cap = (size_t)(image.vox_offset + image.data_bytes);
    bmvp_nii_image_free(&image);
    in = (unsigned char *)options.memory.alloc_fn((size_t)st.st_size, &pool);
    out = (unsigned char *)options.memory.alloc_fn(cap, &pool);
    for (i = -1; i < RUNS; i++) {                           /* the first only touches the memory */
        double t = now();
        fd = open(path, O_RDONLY);
        if (read(fd, in, (size_t)st.st_size) != (ssize_t)st.st_size) exit(1);
        close(fd);
        if (libdeflate_gzip_decompress(d, in, (size_t)st.st_size, out, cap, &got) != LIBDEFLATE_SUCCESS) exit(1);
        if (i >= 0) alone[i] = now() - t;
    }
    options.memory.free_fn(in, &pool);
    options.memory.free_fn(out, &pool);
    for (i = 0; i < RUNS; i++) {
        double t = now();
        check(bmvp_nii_read(&image, path, &options, &err), &err);
        ours[i] = now() - t;
        bmvp_nii_image_free(&image);
    }
    libdeflate_free_decompressor(d);
    bmvp_nii_pool_free(&pool);
}
#endif

static void bench_read(const char *path) {
    double ours[RUNS], theirs[RUNS];
    bmvp_nii_error err;
    int i;
    for (i = 0; i < RUNS; i++) {                            /* in turn, so that both meet the same machine */
        bmvp_nii_image image;
        double t = now();
        check(bmvp_nii_read(&image, path, NULL, &err), &err);
        ours[i] = now() - t;
        bmvp_nii_image_free(&image);
        theirs[i] = 0;
#ifdef HAVE_NIFTICLIB
        {
            nifti_image *n;
            t = now();
            n = nifti_image_read(path, 1);
            theirs[i] = now() - t;
            nifti_image_free(n);
        }
#endif
    }
    printf("read %s: %.1f ms", path, median(ours));
    if (theirs[0] > 0) printf(", nifti_clib %.1f ms, ratio %.2f", median(theirs), theirs[RUNS / 2] / ours[RUNS / 2]);
#if !defined(BMVP_NIFTI_ZLIB) && !defined(BMVP_NIFTI_NO_GZIP)
    bench_floor(path, ours, theirs);
    printf("; into memory used before %.1f ms, libdeflate alone %.1f ms, ratio %.2f", median(ours), median(theirs),
           ours[RUNS / 2] / theirs[RUNS / 2]);
#endif
    printf("\n");
}

/* Read, RAS, 1 mm, centred foreground box, percentiles, int16 file: what `prepare` does to a case. */
static void bench_chain(char **paths, int n, const char *out) {
    static const char *const names[] = {"read + RAS", "spacing", "box + crop", "percentiles", "write"};
    double total[RUNS], step[5] = {0};
    bmvp_nii_error err;
    bmvp_nii_pool pool;
    bmvp_nii_options options;
    int i, m;
    memset(&pool, 0, sizeof pool);
    memset(&options, 0, sizeof options);
    options.memory = bmvp_nii_pool_memory(&pool);
    for (i = 0; i < RUNS; i++) {
        bmvp_nii_volume v[16];
        bmvp_nii_load how;
        bmvp_nii_scale scale;
        bmvp_nii_box box;
        const double mm[3] = {1, 1, 1};
        double t[6], start = now();
        memset(&how, 0, sizeof how);
        memset(&scale, 0, sizeof scale);
        how.axcodes = "RAS";
        scale.lower = 1;
        scale.upper = 99;
        scale.b_max = 1;
        scale.clip = 1;
        t[0] = start;
        for (m = 0; m < n; m++) check(bmvp_nii_read_volume(&v[m], paths[m], &how, &options, &err), &err);
        t[1] = now();
        for (m = 0; m < n; m++) check(bmvp_nii_spacing(&v[m], mm, NULL, &err), &err);
        t[2] = now();
        check(bmvp_nii_center_foreground_box(&box, v, n, &err), &err);
        for (m = 0; m < n; m++) check(bmvp_nii_crop(&v[m], &box, 0, &err), &err);
        t[3] = now();
        for (m = 0; m < n; m++) check(bmvp_nii_scale_percentiles(&v[m], &scale, NULL, &err), &err);
        t[4] = now();
        for (m = 0; m < n; m++) {
            bmvp_nii_write_options fast;
            memset(&fast, 0, sizeof fast);
            fast.no_sync = 1;
            check(bmvp_nii_write_volume(out, &v[m], BMVP_NII_INT16, 1.0 / 32767, 0, NULL, &fast, &err), &err);
        }
        t[5] = now();
        for (m = 0; m < n; m++) bmvp_nii_volume_free(&v[m]);
        total[i] = now() - start;
        for (m = 0; m < 5; m++) step[m] += (t[m + 1] - t[m]) / RUNS;
    }
    bmvp_nii_pool_free(&pool);
    printf("prepare a case of %d modalities: %.0f ms (mean ms:", n, median(total));
    for (m = 0; m < 5; m++) printf("%s %s %.1f", m ? "," : "", names[m], step[m]);
    printf(")\n");
}

static void bench_box(const char *path) {
    double ms[RUNS];
    bmvp_nii_error err;
    bmvp_nii_file file;
    float *crop = (float *)malloc(sizeof(float) * 96 * 96 * 96);
    uint32_t r = 1;
    int i, a;
    check(bmvp_nii_open(&file, path, NULL, &err), &err);
    for (i = 0; i < RUNS; i++) {
        bmvp_nii_box box;
        double t;
        for (a = 0; a < 3; a++) {
            int64_t room = file.image.dim[a] - 96;
            r = r * 1664525u + 1013904223u;
            box.start[a] = room > 0 ? (int64_t)(r >> 8) % (room + 1) : 0;
            box.end[a] = box.start[a] + 96;
        }
        t = now();
        check(bmvp_nii_read_box(crop, &file, &box, 0, &err), &err);
        ms[i] = now() - t;
    }
    printf("read a 96x96x96 box of %s: %.2f ms\n", path, median(ms));
    bmvp_nii_close(&file);
    free(crop);
}

int main(int argc, char **argv) {
    const char *out = "bench_nifti_case.nii";
    int i;
    if (argc < 2 || argc > 17) {
        printf("usage: bench_nifti FILE.nii.gz [more modalities of the case ...]\n");
        return 2;
    }
    for (i = 1; i < argc; i++) bench_read(argv[i]);
    bench_chain(argv + 1, argc - 1, out);
    bench_box(out);
    remove(out);
    return 0;
}
