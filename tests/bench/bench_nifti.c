/* bench_nifti.c - speed of bmvp_nifti.h: reading .nii.gz beside nifti_clib and beside the bare decompression by
   libdeflate, the preparation chain, crops; with --register, of a pair of heads: rigid registration, resampling by its
   matrix, the brain's mask by a template, the mask's signed distances (peers: twin.py --register).

   cc -std=c99 -O2 -I. tests/bench/bench_nifti.c -o bench_nifti -ldeflate -lm
   with nifti_clib: -DHAVE_NIFTICLIB -I/usr/include/nifti ... -lnifti2 -lznz -lz; with libdeflate: -DHAVE_LIBDEFLATE
   bench_nifti [--json] FILE.nii.gz [more modalities of the case ...]
   bench_nifti [--json] --register FIXED MOVING TEMPLATE TEMPLATE_BRAIN

   Times are processor time (user and system) of this one-threaded program, medians of 15 runs (masks: 5) with the files
   in the page cache: on a busy machine they mean more than wall time, on an idle one they are the same. */
#define BMVP_NIFTI_IMPLEMENTATION
#include "bmvp_nifti.h"
#include <time.h>
#ifdef HAVE_NIFTICLIB
#include <nifti2_io.h>
#endif
#ifdef HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif

enum { RUNS = 15, LONG_RUNS = 5 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *ms, int runs) {
    qsort(ms, (size_t)runs, sizeof *ms, by_size);
    return ms[runs / 2];
}

/* peer NULL: ours. Text of the last argument: what was measured. */
static void report_of(int json, const char *row, const char *peer, double *ms, int runs, const char *what) {
    const double middle = median(ms, runs);
    if (json) {
        printf("{\"row\":\"%s\",\"median_ms\":%.4f,\"best_ms\":%.4f,\"spread\":%.3f,\"runs\":%d", row, middle, ms[0],
               (ms[runs - 1] - ms[0]) / middle, runs);
        if (peer) printf(",\"layout\":\"%s\"", peer);
        printf("}\n");
    } else printf("%s %s: %.2f ms (%s)\n", row, peer ? peer : "bmvp", middle, what);
}

static void report(int json, const char *row, const char *peer, double *ms, const char *what) {
    report_of(json, row, peer, ms, RUNS, what);
}

static void check(bmvp_status s, const bmvp_error *err) {
    if (s == BMVP_OK) return;
    printf("%s\n", err->message);
    exit(1);
}

/* The same bytes with nothing around: file into memory, one call; the size is the last word of a gzip file. */
#ifdef HAVE_LIBDEFLATE
static void *bare(const char *path) {
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    unsigned char *in = NULL;
    void *out = NULL;
    size_t n, bytes;
    FILE *f = fopen(path, "rb");
    if (!f || !d || fseek(f, 0, SEEK_END) != 0) exit(1);
    n = (size_t)ftell(f);
    rewind(f);
    in = (unsigned char *)malloc(n);
    if (!in || n < 18 || fread(in, 1, n, f) != n) exit(1);
    fclose(f);
    bytes = in[n - 4] | (size_t)in[n - 3] << 8 | (size_t)in[n - 2] << 16 | (size_t)in[n - 1] << 24;
    out = malloc(bytes);
    if (!out || libdeflate_gzip_decompress(d, in, n, out, bytes, NULL) != LIBDEFLATE_SUCCESS) exit(1);
    libdeflate_free_decompressor(d);
    free(in);
    return out;
}
#endif

/* In turn, so that all meet the same machine. */
static void bench_read(int json, const char *path) {
    double ours[RUNS], clib[RUNS] = {0}, alone[RUNS] = {0};
    bmvp_error err;
    int i;
    for (i = -1; i < RUNS; i++) {
        const int k = i < 0 ? 0 : i;
        bmvp_nii_image image;
        double t = now();
        check(bmvp_nii_read(&image, path, NULL, &err), &err);
        ours[k] = now() - t;
        bmvp_nii_image_free(&image);
#ifdef HAVE_LIBDEFLATE
        {
            void *out;
            t = now();
            out = bare(path);
            alone[k] = now() - t;
            free(out);
        }
#endif
#ifdef HAVE_NIFTICLIB
        {
            nifti_image *n;
            t = now();
            n = nifti_image_read(path, 1);
            clib[k] = now() - t;
            nifti_image_free(n);
        }
#endif
    }
    report(json, "read_nii_gz", NULL, ours, path);
    if (clib[0] > 0) report(json, "read_nii_gz", "nifti_clib", clib, path);
    report(json, "read_nii_gz_bare", NULL, ours, path);
    if (alone[0] > 0) report(json, "read_nii_gz_bare", "libdeflate", alone, path);
}

/* Read, RAS, 1 mm, centred foreground box, percentiles, int16 file: what `prepare` does to a case. */
static void bench_chain(int json, char **paths, int n, const char *out) {
    static const char *const names[] = {"read + RAS", "spacing", "box + crop", "percentiles", "write"};
    double total[RUNS], step[5] = {0};
    bmvp_error err;
    bmvp_nii_pool pool;
    bmvp_nii_options options;
    int i, m;
    memset(&pool, 0, sizeof pool);
    memset(&options, 0, sizeof options);
    options.allocator = bmvp_nii_pool_allocator(&pool);
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
    if (json) return; /* run.sh times the program itself */
    printf("prepare a case of %d modalities: %.0f ms (mean ms:", n, median(total, RUNS));
    for (m = 0; m < 5; m++) printf("%s %s %.1f", m ? "," : "", names[m], step[m]);
    printf(")\n");
}

static void bench_box(int json, const char *path) {
    double ms[RUNS];
    bmvp_error err;
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
    report(json, "read_crop", NULL, ms, "a box of 96x96x96");
    bmvp_nii_close(&file);
    free(crop);
}

/* What is measured of a pair of heads; each leaves its result for the next. */
typedef struct pair {
    bmvp_nii_volume fixed, moving, tmpl, brain, moved, mask, mm;
    bmvp_nii_registration r;
} pair;

static bmvp_status align(pair *p, bmvp_error *err) {
    return bmvp_nii_register(&p->r, &p->fixed, &p->moving, NULL, err);
}

static bmvp_status resample(pair *p, bmvp_error *err) {
    bmvp_nii_volume_free(&p->moved);
    return bmvp_nii_resample_to(&p->moved, &p->moving, &p->fixed, p->r.matrix, BMVP_NII_LINEAR, 0, err);
}

static bmvp_status strip(pair *p, bmvp_error *err) {
    bmvp_nii_volume_free(&p->mask);
    return bmvp_nii_brain_mask(&p->mask, &p->fixed, 1, &p->tmpl, &p->brain, NULL, NULL, err);
}

static bmvp_status distances(pair *p, bmvp_error *err) {
    bmvp_nii_volume_free(&p->mm);
    return bmvp_nii_distance(&p->mm, &p->mask, err);
}

static void bench_pair(int json, char **paths) {
    static const struct {
        const char *row, *what;
        bmvp_status (*run)(pair *p, bmvp_error *err);
        int runs;
    } rows[] = {{"register", "rigid, of two images", align, RUNS},
                {"resample", "linear, onto the fixed", resample, RUNS},
                {"brain_mask", "one image", strip, LONG_RUNS},
                {"distance", "signed, of the mask", distances, RUNS}};
    pair p;
    bmvp_nii_volume *const all[] = {&p.fixed, &p.moving, &p.tmpl, &p.brain, &p.moved, &p.mask, &p.mm};
    bmvp_error err;
    int i, k;
    memset(&p, 0, sizeof p);
    for (i = 0; i < 4; i++) check(bmvp_nii_read_volume(all[i], paths[i], NULL, NULL, &err), &err);
    for (k = 0; k < (int)(sizeof rows / sizeof *rows); k++) {
        double ms[RUNS];
        for (i = 0; i < rows[k].runs; i++) {
            const double start = now();
            check(rows[k].run(&p, &err), &err);
            ms[i] = now() - start;
        }
        report_of(json, rows[k].row, NULL, ms, rows[k].runs, rows[k].what);
    }
    for (i = 0; i < (int)(sizeof all / sizeof *all); i++) bmvp_nii_volume_free(all[i]);
}

int main(int argc, char **argv) {
    const char *out = "bench_nifti_case.nii";
    const int json = argc > 1 && strcmp(argv[1], "--json") == 0;
    int i;
    if (argc == 6 + json && strcmp(argv[1 + json], "--register") == 0) {
        bench_pair(json, argv + 2 + json);
        return 0;
    }
    if (argc < 2 + json || argc > 17 + json || argv[1 + json][0] == '-') {
        printf("usage: bench_nifti [--json] FILE.nii.gz [more modalities of the case ...]\n"
               "       bench_nifti [--json] --register FIXED MOVING TEMPLATE TEMPLATE_BRAIN\n");
        return 2;
    }
    for (i = 1 + json; i < argc; i++) bench_read(json, argv[i]);
    bench_chain(json, argv + 1 + json, argc - 1 - json, out);
    bench_box(json, out);
    remove(out);
    return 0;
}
