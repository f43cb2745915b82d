/* test_metrics.c - the metrics of bmvp_ssl.h: Dice and surface distances against MONAI on masks given by formula and on
   real ones, distance transforms against SciPy, classification against scikit-learn
   (tests/reference/metrics_reference.py), all of them against their definitions on many small volumes, the bootstrap,
   and arguments that are refused. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "bmvp_nifti.h"
#include "tests/support/check.h"
#include "tests/support/fixture.h"
#include "tests/support/formula.h"
#include <time.h>

static const double percentiles[4] = { 100, 95, 50, 5 };

static int is_nan(double v) { return v != v; }

/* NaN only equals NaN, infinity only infinity; else within tol. */
static void check_number(const char *what, double got, double want, double tol)
{
    const int same = is_nan(want) ? is_nan(got) : got == want || fabs(got - want) <= tol;
    check_report(same, __FILE__, __LINE__, "%s is %.12g, should be %.12g within %.1e", what, got, want, tol);
}

static unsigned char *bytes(int64_t n)
{
    unsigned char *p = (unsigned char *)calloc((size_t)n, 1);
    CHECK(p != NULL);
    return p;
}

/* ---- fixtures: lines of fields between bars ---------------------------------------------------------------------- */

enum { FIELDS = 6 };
typedef struct table {
    FILE *f;
    char line[600], *field[FIELDS];
} table;

static int table_open(table *t, const char *name)
{
    char path[300];
    snprintf(path, sizeof path, "%s/metrics/%s", TEST_FIXTURES, name);
    t->f = fopen(path, "r");
    return check_report(t->f != NULL, __FILE__, __LINE__, "%s cannot be read", path);
}

/* Next line that is not a comment; returns its number of fields, 0 at the end. */
static int table_next(table *t)
{
    char *p;
    int n = 0;
    do p = fgets(t->line, (int)sizeof t->line, t->f); while (p && *p == '#');
    while (p && n < FIELDS) {
        t->field[n++] = p;
        p = strpbrk(p, "|\n");
        if (p) p = *p == '\n' ? (*p = 0, (char *)NULL) : (*p = 0, p + 1);
    }
    if (n == 0) fclose(t->f);
    return n;
}

/* Numbers of a field, separated by spaces; all n must be there. */
static int numbers_of(const char *text, double *out, int n)
{
    char *end;
    int i;
    for (i = 0; i < n; ++i, text = end) {
        out[i] = strtod(text, &end);
        if (end == text) return check_report(0, __FILE__, __LINE__, "%d numbers wanted in '%s'", n, text);
    }
    return 1;
}

static void sizes_of(const char *text, int64_t dim[3])
{
    double v[3] = { 0, 0, 0 };
    int a;
    numbers_of(text, v, 3);
    for (a = 0; a < 3; ++a) dim[a] = (int64_t)v[a];
}

/* ---- masks by formula, as in metrics_reference.py ---------------------------------------------------------------- */

static void paint_ball(unsigned char *m, const int64_t dim[3], const int64_t at[3], int64_t r)
{
    int64_t z, y, x;
    for (z = 0; z < dim[0]; ++z)
        for (y = 0; y < dim[1]; ++y)
            for (x = 0; x < dim[2]; ++x) {
                const int64_t dz = z - at[0], dy = y - at[1], dx = x - at[2];
                if (dz * dz + dy * dy + dx * dx <= r * r) m[(z * dim[1] + y) * dim[2] + x] = 1;
            }
}

static void paint_balls(unsigned char *m, const int64_t dim[3], uint64_t seed, int64_t count, int64_t radius)
{
    const uint64_t stream = formula_stream("balls", seed);
    int64_t i, at[3];
    int a;
    for (i = 0; i < count; ++i) {
        for (a = 0; a < 3; ++a) at[a] = (int64_t)(formula_uniform(stream, 4 * i + a) * (double)dim[a]);
        paint_ball(m, dim, at, 1 + (int64_t)(formula_uniform(stream, 4 * i + 3) * (double)radius));
    }
}

static void paint_box(unsigned char *m, const int64_t dim[3], const double v[6])
{
    int64_t z, y;
    for (z = (int64_t)v[0]; z < (int64_t)v[3]; ++z)
        for (y = (int64_t)v[1]; y < (int64_t)v[4]; ++y)
            memset(m + (z * dim[1] + y) * dim[2] + (int64_t)v[2], 1, (size_t)(v[5] - v[2]));
}

static unsigned char *mask_of(const char *text, const int64_t dim[3])
{
    const int64_t n = dim[0] * dim[1] * dim[2];
    unsigned char *m = bytes(n);
    double v[6] = { 0, 0, 0, 0, 0, 0 };
    int64_t i;
    if (strncmp(text, "full", 4) == 0) memset(m, 1, (size_t)n);
    else if (strncmp(text, "noise ", 6) == 0 && numbers_of(text + 6, v, 2))
        for (i = 0; i < n; ++i) m[i] = formula_uniform(formula_stream("noise", (uint64_t)v[0]), i) * 1000 < v[1];
    else if (strncmp(text, "voxel ", 6) == 0 && numbers_of(text + 6, v, 3))
        m[((int64_t)v[0] * dim[1] + (int64_t)v[1]) * dim[2] + (int64_t)v[2]] = 1;
    else if (strncmp(text, "box ", 4) == 0 && numbers_of(text + 4, v, 6)) paint_box(m, dim, v);
    else if (strncmp(text, "balls ", 6) == 0 && numbers_of(text + 6, v, 3))
        paint_balls(m, dim, (uint64_t)v[0], (int64_t)v[1], (int64_t)v[2]);
    else CHECK(strcmp(text, "empty") == 0);
    return m;
}

/* ---- Dice and surface distances against MONAI -------------------------------------------------------------------- */

static double hausdorff(const unsigned char *p, const unsigned char *t, const int64_t dim[3], const double mm[3],
                        double percentile, bmvp_empty_rule rule)
{
    double d = -1;
    CHECK(bmvp_hausdorff(p, t, dim, mm, percentile, rule, NULL, &d) == BMVP_OK);
    return d;
}

/* want: Dice, the maximum, the percentiles 95, 50, 5 as float32. The order of the masks does not matter to
   distances. */
static void check_pair(const unsigned char *p, const unsigned char *t, const int64_t dim[3], const double mm[3],
                       const double want[5])
{
    char what[40];
    int i;
    check_number("Dice", bmvp_dice(p, t, dim[0] * dim[1] * dim[2], BMVP_EMPTY_MONAI), want[0], 1e-7);
    for (i = 0; i < 4; ++i) {
        const double d = hausdorff(p, t, dim, mm, percentiles[i], BMVP_EMPTY_MONAI);
        snprintf(what, sizeof what, "distance, percentile %g", percentiles[i]);
        check_number(what, d, want[1 + i], 1e-5);
        check_number("the other way round", hausdorff(t, p, dim, mm, percentiles[i], BMVP_EMPTY_MONAI), d, 0);
    }
    check_number("percentile 0", hausdorff(p, t, dim, mm, 0, BMVP_EMPTY_MONAI), want[1], 1e-5);
}

static void check_brats(const unsigned char *p, const unsigned char *t, const int64_t dim[3], const double mm[3],
                        const double want[5])
{
    const int64_t n = dim[0] * dim[1] * dim[2];
    const int empty_p = !memchr(p, 1, (size_t)n), empty_t = !memchr(t, 1, (size_t)n);
    int i;
    check_number("Dice (BraTS)", bmvp_dice(p, t, n, BMVP_EMPTY_BRATS),
                 empty_p && empty_t ? 1 : empty_p || empty_t ? 0 : want[0], 1e-7);
    for (i = 0; i < 4; ++i)
        check_number("distance (BraTS)", hausdorff(p, t, dim, mm, percentiles[i], BMVP_EMPTY_BRATS),
                     empty_p && empty_t ? 0 : empty_p || empty_t ? 374 : want[1 + i], 1e-5);
}

static void test_masks(void)
{
    table t;
    int n = 0;
    if (!table_open(&t, "masks.txt")) return;
    while (table_next(&t) == 6) {
        double mm[3], want[5];
        int64_t dim[3], i;
        unsigned char *p, *q;
        if (!check_start("masks: %s", t.field[0])) continue;
        sizes_of(t.field[1], dim);
        p = mask_of(t.field[3], dim);
        q = mask_of(t.field[4], dim);
        if (numbers_of(t.field[2], mm, 3) && numbers_of(t.field[5], want, 5)) {
            check_pair(p, q, dim, mm, want);
            check_brats(p, q, dim, mm, want);
            for (i = 0; i < dim[0] * dim[1] * dim[2]; ++i)
                p[i] = (unsigned char)(p[i] * (1 + i % 255)); /* any value but 0 */
            check_pair(p, q, dim, mm, want);
        }
        free(p);
        free(q);
        check_finish();
        ++n;
    }
    if (check_all.only) return;
    (void)check_start("masks");
    CHECK(n == 31);
    check_finish();
}

static void test_distance_transform(void)
{
    bmvp_ckpt *f = fixture_open("metrics/distance.safetensors");
    int k;
    for (k = 0; f && k < 6; ++k) {
        fixture_tensor want = fixture_load(f, "distance%d", k);
        const char *text = fixture_text(f, "case%d", k), *bar = text ? strchr(text, '|') : NULL;
        double mm[3];
        int64_t dim[3], i;
        unsigned char *m;
        float *got;
        char what[40];
        if (!CHECK(want.x && bar && strchr(bar + 1, '|'))) break;
        sizes_of(text, dim);
        CHECK(numbers_of(bar + 1, mm, 3) && want.numel == dim[0] * dim[1] * dim[2]);
        m = mask_of(strchr(bar + 1, '|') + 1, dim);
        got = (float *)malloc((size_t)want.numel * sizeof *got);
        CHECK(got && bmvp_distance_transform(m, dim, mm, got, NULL) == BMVP_OK);
        for (i = 0; i < want.numel; ++i) got[i] = (float)sqrt((double)got[i]);
        snprintf(what, sizeof what, "case %d", k);
        for (i = 0; i < want.numel; ++i)
            if (!(fabs((double)got[i] - (double)want.x[i]) <= 1e-6 * (double)want.x[i])) break;
        check_report(i == want.numel, __FILE__, __LINE__, "%s: [%lld] is not as SciPy has it", what, (long long)i);
        free(got);
        free(m);
        free(want.x);
    }
    bmvp_ckpt_close(f);
}

/* ---- against the definitions, on many small volumes -------------------------------------------------------------- */

enum { SMALL = 12, SMALL_VOXELS = SMALL * SMALL * SMALL };

static double squared_between(const int64_t dim[3], const double mm[3], int64_t i, int64_t k)
{
    const double z = mm[0] * (double)(i / (dim[1] * dim[2]) - k / (dim[1] * dim[2]));
    const double y = mm[1] * (double)(i / dim[2] % dim[1] - k / dim[2] % dim[1]),
                 x = mm[2] * (double)(i % dim[2] - k % dim[2]);
    return z * z + y * y + x * x;
}

static double nearest(const unsigned char *m, const int64_t dim[3], const double mm[3], int64_t i)
{
    double best = HUGE_VAL;
    int64_t k;
    for (k = 0; k < dim[0] * dim[1] * dim[2]; ++k)
        if (m[k]) best = fmin(best, squared_between(dim, mm, i, k));
    return best;
}

static int set_at(const unsigned char *m, const int64_t dim[3], int64_t z, int64_t y, int64_t x)
{
    return z >= 0 && y >= 0 && x >= 0 && z < dim[0] && y < dim[1] && x < dim[2] && m[(z * dim[1] + y) * dim[2] + x];
}

static void surface_of(const unsigned char *m, const int64_t dim[3], unsigned char *s)
{
    int64_t z, y, x;
    for (z = 0; z < dim[0]; ++z)
        for (y = 0; y < dim[1]; ++y)
            for (x = 0; x < dim[2]; ++x)
                *s++ = set_at(m, dim, z, y, x) &&
                       !(set_at(m, dim, z - 1, y, x) && set_at(m, dim, z + 1, y, x) && set_at(m, dim, z, y - 1, x) &&
                         set_at(m, dim, z, y + 1, x) && set_at(m, dim, z, y, x - 1) && set_at(m, dim, z, y, x + 1));
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* One direction of the distance between two surfaces. */
static double slow_direction(const unsigned char *from, const unsigned char *to, const int64_t dim[3],
                             const double mm[3], double percentile)
{
    static double d[SMALL_VOXELS + 1];
    int64_t i, n = 0;
    double rank;
    for (i = 0; i < dim[0] * dim[1] * dim[2]; ++i)
        if (from[i]) d[n++] = sqrt(nearest(to, dim, mm, i));
    qsort(d, (size_t)n, sizeof *d, by_value);
    d[n] = d[n - 1];
    rank = percentile / 100 * (double)(n - 1);
    i = (int64_t)rank;
    return d[i] + (rank - (double)i) * (d[i + 1] - d[i]);
}

/* Edges from 1 to SMALL, spacings from 0.3 to 3 mm, masks from one voxel to nearly full, dense ones near sparse ones:
   both ways of computing the distance are taken. */
static void small_case(bmvp_rng *r, int64_t dim[3], double mm[3], unsigned char *m[2])
{
    int64_t n = 1, i;
    int a;
    for (a = 0; a < 3; ++a) {
        dim[a] = 1 + bmvp_rng_below(r, SMALL);
        mm[a] = 0.3 + 2.7 * (double)bmvp_rng_uniform(r);
        n *= dim[a];
    }
    for (a = 0; a < 2; ++a) {
        const uint32_t parts = 1u << bmvp_rng_below(r, 9), most = 1 + bmvp_rng_below(r, 3);
        for (i = 0; i < n; ++i) m[a][i] = bmvp_rng_below(r, parts) < most && parts > 1;
        m[a][bmvp_rng_below(r, (uint32_t)n)] = 1;
    }
}

static void test_against_definitions(void)
{
    static unsigned char mask[2][SMALL_VOXELS], surface[2][SMALL_VOXELS];
    static float squared[SMALL_VOXELS];
    bmvp_rng r = bmvp_rng_make(1, 0, 0, 0);
    unsigned char *m[2] = { mask[0], mask[1] };
    int k, worst = 0;
    for (k = 0; k < 400 && !worst; ++k) {
        int64_t dim[3], i;
        double mm[3], percentile = k % 3 ? 99.9 * (double)bmvp_rng_uniform(&r) + 0.01 : 100, both[2];
        small_case(&r, dim, mm, m);
        CHECK(bmvp_distance_transform(mask[0], dim, mm, squared, NULL) == BMVP_OK);
        for (i = 0; i < dim[0] * dim[1] * dim[2]; ++i) {
            const double want = nearest(mask[0], dim, mm, i);
            worst |= !check_report(fabs((double)squared[i] - want) <= 3e-7 * want, __FILE__, __LINE__,
                                   "transform %d [%d] is %.9g, should be %.9g", k, (int)i, (double)squared[i], want);
        }
        for (i = 0; i < 2; ++i) surface_of(mask[i], dim, surface[i]);
        for (i = 0; i < 2; ++i) both[i] = slow_direction(surface[i], surface[!i], dim, mm, percentile);
        worst |= !CHECK_NEAR(hausdorff(mask[0], mask[1], dim, mm, percentile, BMVP_EMPTY_MONAI), fmax(both[0], both[1]),
                             1e-5);
    }
}

/* ---- real masks -------------------------------------------------------------------------------------------------- */

#ifndef BMVP_NIFTI_NO_GZIP
static int find_real(const char *name, char *path, size_t size)
{
    static const char *const below[] = { "patients", "data/patients" };
    const char *data = getenv("BMVP_DATA");
    int i;
    for (i = 0; i < 2; ++i) {
        FILE *f;
        snprintf(path, size, "%s/%s/%s", data && *data ? data : "../shared", below[i], name);
        f = fopen(path, "rb");
        if (f) fclose(f);
        if (f) return 1;
    }
    return 0;
}

static void shift_mask(unsigned char *m, const int64_t dim[3], const double by[3])
{
    unsigned char *old = bytes(dim[0] * dim[1] * dim[2]);
    int64_t z, y, x;
    memcpy(old, m, (size_t)(dim[0] * dim[1] * dim[2]));
    for (z = 0; z < dim[0]; ++z)
        for (y = 0; y < dim[1]; ++y)
            for (x = 0; x < dim[2]; ++x)
                *m++ = (unsigned char)set_at(old, dim, z - (int64_t)by[0], y - (int64_t)by[1], x - (int64_t)by[2]);
    free(old);
}

static void dilate_mask(unsigned char *m, const int64_t dim[3])
{
    unsigned char *old = bytes(dim[0] * dim[1] * dim[2]);
    int64_t z, y, x;
    memcpy(old, m, (size_t)(dim[0] * dim[1] * dim[2]));
    for (z = 0; z < dim[0]; ++z)
        for (y = 0; y < dim[1]; ++y)
            for (x = 0; x < dim[2]; ++x, ++m)
                *m = *m || set_at(old, dim, z - 1, y, x) || set_at(old, dim, z + 1, y, x) ||
                     set_at(old, dim, z, y - 1, x) || set_at(old, dim, z, y + 1, x) || set_at(old, dim, z, y, x - 1) ||
                     set_at(old, dim, z, y, x + 1);
    free(old);
}

/* how: label bits, shift, dilations of the prediction */
static void check_real(const bmvp_nii_volume *v, const double mm[3], const double how[5], int truth_bits,
                       const double want[5])
{
    const int64_t dim[3] = { v->dim[2], v->dim[1], v->dim[0] }, n = dim[0] * dim[1] * dim[2];
    unsigned char *p = bytes(n), *t = bytes(n);
    int64_t i;
    double start, d = 0;
    for (i = 0; i < n; ++i) {
        p[i] = (unsigned char)((int)how[0] >> (int)v->data[i] & 1);
        t[i] = (unsigned char)(truth_bits >> (int)v->data[i] & 1);
    }
    shift_mask(p, dim, how + 1);
    for (i = 0; i < (int64_t)how[4]; ++i) dilate_mask(p, dim);
    check_pair(p, t, dim, mm, want);
    start = (double)clock();
    CHECK(bmvp_hausdorff(p, t, dim, mm, 95, BMVP_EMPTY_MONAI, NULL, &d) == BMVP_OK);
    printf("%s: HD95 %.4f in %.1f ms\n", check_all.test, d, ((double)clock() - start) * 1e3 / (double)CLOCKS_PER_SEC);
    free(p);
    free(t);
}

static void test_real(void)
{
    table t;
    if (!table_open(&t, "real.txt")) return;
    while (table_next(&t) == 5) {
        double mm[3], how[5], bits, want[5];
        char path[600];
        bmvp_nii_volume v;
        bmvp_nii_load load;
        bmvp_error err;
        if (!check_start("real: %s %s | %s", t.field[0], t.field[2], t.field[3])) continue;
        if (!find_real(t.field[0], path, sizeof path)) {
            check_skip("no such file below BMVP_DATA/patients");
            continue;
        }
        memset(&load, 0, sizeof load);
        if (check_report(bmvp_nii_read_volume(&v, path, &load, NULL, &err) == BMVP_OK, __FILE__, __LINE__, "%s",
                         err.message)) {
            if (numbers_of(t.field[1], mm, 3) && numbers_of(t.field[2], how, 5) && numbers_of(t.field[3], &bits, 1) &&
                numbers_of(t.field[4], want, 5))
                check_real(&v, mm, how, (int)bits, want);
            bmvp_nii_volume_free(&v);
        }
        check_finish();
    }
}
#endif

/* ---- classification against scikit-learn ------------------------------------------------------------------------- */

/* cases, classes, classes that occur, seed, bonus: as class_case of metrics_reference.py */
static void class_case(const int how[5], float *score, int *truth)
{
    const uint64_t seed = (uint64_t)how[3];
    const int classes = how[1];
    int i, k;
    for (i = 0; i < how[0]; ++i) {
        int points[8], sum = 0;
        truth[i] = (int)(formula_uniform(formula_stream("truth", seed), i) * how[2]);
        for (k = 0; k < classes; ++k) {
            points[k] = 1 + (int)(formula_uniform(formula_stream("points", seed), i * classes + k) * 12) +
                        (k == truth[i] ? how[4] : 0);
            sum += points[k];
        }
        for (k = 0; k < classes; ++k) score[i * classes + k] = (float)((double)points[k] / sum);
    }
}

static void check_classes(const float *score, const int *truth, int n, int classes, const double want[5])
{
    bmvp_class_metrics m;
    float *one = (float *)malloc((size_t)n * sizeof *one);
    int *is = (int *)malloc((size_t)n * sizeof *is), i, k;
    double auc = 0;
    CHECK(one && is && bmvp_classification(score, truth, n, classes, NULL, &m) == BMVP_OK);
    check_number("accuracy", m.accuracy, want[0], 1e-12);
    check_number("AUC", m.auc, want[1], 1e-12);
    check_number("F1", m.f1, want[2], 1e-12);
    check_number("sensitivity", m.sensitivity, want[3], 1e-12);
    check_number("specificity", m.specificity, want[4], 1e-12);
    for (k = classes == 2; k < classes; ++k) {
        for (i = 0; i < n; ++i) one[i] = score[i * classes + k], is[i] = truth[i] == k ? -3 : 0;
        auc += bmvp_auc(one, is, n, NULL) / (classes == 2 ? 1 : classes);
    }
    check_number("AUC of one score", auc, want[1], 1e-12);
    free(one);
    free(is);
}

static void test_classification(void)
{
    static float score[10000];
    static int truth[10000];
    table t;
    int n = 0;
    if (!table_open(&t, "classes.txt")) return;
    while (table_next(&t) == 3) {
        double v[5], want[5];
        int how[5], i;
        if (!check_start("classification: %s", t.field[0])) continue;
        if (numbers_of(t.field[1], v, 5) && numbers_of(t.field[2], want, 5) &&
            CHECK(v[0] * v[1] <= 10000 && v[1] <= 8)) {
            for (i = 0; i < 5; ++i) how[i] = (int)v[i];
            class_case(how, score, truth);
            check_classes(score, truth, how[0], how[1], want);
        }
        check_finish();
        ++n;
    }
    if (check_all.only) return;
    (void)check_start("classification");
    CHECK(n == 11);
    check_finish();
}

/* Ties, signed zeros, infinities: by counting pairs. */
static void test_auc_pairs(void)
{
    static const float values[6] = { -(float)HUGE_VAL, -1, -0.0f, 0, 2, (float)HUGE_VAL };
    float score[40];
    int truth[40], i, k, round;
    bmvp_rng r = bmvp_rng_make(2, 0, 0, 0);
    for (round = 0; round < 50; ++round) {
        double won = 0, pairs = 0;
        for (i = 0; i < 40; ++i) {
            score[i] = values[bmvp_rng_below(&r, 6)];
            truth[i] = (int)bmvp_rng_below(&r, 3);
        }
        for (i = 0; i < 40; ++i)
            for (k = 0; k < 40; ++k)
                if (truth[i] && !truth[k]) {
                    won += score[i] > score[k] ? 1 : score[i] == score[k] ? 0.5 : 0;
                    pairs += 1;
                }
        CHECK_NEAR(bmvp_auc(score, truth, 40, NULL), won / pairs, 1e-15);
    }
    score[3] = (float)NAN;
    CHECK(is_nan(bmvp_auc(score, truth, 40, NULL)));
    CHECK(is_nan(bmvp_auc(score, truth, 3, NULL)) || bmvp_auc(score, truth, 3, NULL) >= 0);
    CHECK(is_nan(bmvp_auc(NULL, NULL, 0, NULL)) && is_nan(bmvp_auc(score, truth, -1, NULL)));
}

/* ---- bootstrap --------------------------------------------------------------------------------------------------- */

static void test_bootstrap_normal(void)
{
    enum { N = 2000 };
    static double x[N + 2];
    bmvp_interval have, again, other;
    bmvp_rng r = bmvp_rng_make(3, 0, 0, 0);
    double sum = 0, square = 0, error;
    int i;
    for (i = 0; i < N; ++i) {
        x[i] = (double)bmvp_rng_normal(&r) + 5;
        sum += x[i];
        square += x[i] * x[i];
    }
    x[N] = x[N + 1] = (double)NAN; /* left out */
    error = sqrt((square / N - sum / N * (sum / N)) / N);
    CHECK(bmvp_bootstrap(x, N + 2, 4000, 7, NULL, &have) == BMVP_OK);
    CHECK(bmvp_bootstrap(x, N, 4000, 7, NULL, &again) == BMVP_OK);
    CHECK(bmvp_bootstrap(x, N, 4000, 8, NULL, &other) == BMVP_OK);
    CHECK(have.n_used == N && have.mean == sum / N);
    CHECK_NEAR(have.low, have.mean - 1.959964 * error, 0.12 * error);
    CHECK_NEAR(have.high, have.mean + 1.959964 * error, 0.12 * error);
    CHECK(have.low == again.low && have.high == again.high && have.mean == again.mean);
    CHECK(have.low != other.low && have.high != other.high && have.mean == other.mean);
}

/* Three values: the ends of the interval are known. A seed's numbers stay what they are. */
static void test_bootstrap_small(void)
{
    static const double x[3] = { 0, 0, 3 }, ten[10] = { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512 };
    bmvp_interval have;
    CHECK(bmvp_bootstrap(x, 3, 20000, 1, NULL, &have) == BMVP_OK); /* means 0, 1, 2, 3: shares 8, 12, 6, 1 of 27 */
    CHECK(have.mean == 1 && have.low == 0 && have.high == 3 && have.n_used == 3);
    CHECK(bmvp_bootstrap(x, 3, 1, 1, NULL, &have) == BMVP_OK);
    CHECK(have.low == have.high);
    CHECK(bmvp_bootstrap(x + 2, 1, 100, 5, NULL, &have) == BMVP_OK);
    CHECK(have.mean == 3 && have.low == 3 && have.high == 3 && have.n_used == 1);
    CHECK(bmvp_bootstrap(ten, 10, 1000, 5, NULL, &have) == BMVP_OK);
    CHECK_NEAR(have.low, 18.2975, 1e-12); /* Philox and numpy.percentile in Python */
    CHECK_NEAR(have.high, 210.1525, 1e-12);
}

static void test_bootstrap_odd(void)
{
    double x[3];
    bmvp_interval have;
    x[0] = x[1] = (double)NAN, x[2] = HUGE_VAL;
    CHECK(bmvp_bootstrap(x, 2, 100, 1, NULL, &have) == BMVP_OK);
    CHECK(have.n_used == 0 && is_nan(have.mean) && is_nan(have.low) && is_nan(have.high));
    CHECK(bmvp_bootstrap(NULL, 0, 100, 1, NULL, &have) == BMVP_OK && have.n_used == 0 && is_nan(have.mean));
    CHECK(bmvp_bootstrap(x, 3, 100, 1, NULL, &have) == BMVP_OK);
    CHECK(have.n_used == 1 && have.mean == HUGE_VAL && have.low == HUGE_VAL && have.high == HUGE_VAL);
    x[0] = 1;
    CHECK(bmvp_bootstrap(x, 3, 1000, 1, NULL, &have) == BMVP_OK); /* a quarter of the resamples has only the 1 */
    CHECK(have.n_used == 2 && have.mean == HUGE_VAL && have.low == 1 && have.high == HUGE_VAL);
    CHECK(bmvp_bootstrap(x, 3, 0, 1, NULL, &have) == BMVP_E_ARG && is_nan(have.mean));
    CHECK(bmvp_bootstrap(x, -1, 10, 1, NULL, &have) == BMVP_E_ARG && have.n_used == 0);
}

/* ---- arguments and memory ---------------------------------------------------------------------------------------- */

static void test_empty_rules(void)
{
    static const unsigned char none[1] = { 0 };
    CHECK_HOLDS(bmvp_empty_rule_text(BMVP_EMPTY_MONAI), "MONAI");
    CHECK_HOLDS(bmvp_empty_rule_text(BMVP_EMPTY_BRATS), "BraTS");
    CHECK_HOLDS(bmvp_empty_rule_text(BMVP_EMPTY_BRATS), "374 mm");
    CHECK(is_nan(bmvp_dice(none, none, 0, BMVP_EMPTY_MONAI)) && bmvp_dice(none, none, 0, BMVP_EMPTY_BRATS) == 1);
}

static void check_refused(const int64_t dim[3], const double mm[3], double percentile)
{
    static const unsigned char m[8] = { 1, 1, 1, 1, 1, 1, 1, 1 };
    float squared[8];
    double out = 5;
    CHECK(bmvp_hausdorff(m, m, dim, mm, percentile, BMVP_EMPTY_BRATS, NULL, &out) == BMVP_E_ARG && is_nan(out));
    if (percentile == 95) CHECK(bmvp_distance_transform(m, dim, mm, squared, NULL) == BMVP_E_ARG);
}

static void test_refused_volumes(void)
{
    static const double bad_mm[] = { 0, -1, 1e-13, 1e13, HUGE_VAL, (double)NAN };
    static const double bad_percentile[] = { -0.001, 100.001, HUGE_VAL, (double)NAN };
    static const int64_t bad_dim[] = { 0, -1, INT64_MAX };
    int64_t dim[3] = { 2, 2, 2 };
    double mm[3] = { 1, 1, 1 };
    size_t i;
    int a;
    for (a = 0; a < 3; ++a) {
        for (i = 0; i < sizeof bad_mm / sizeof *bad_mm; ++i) {
            mm[a] = bad_mm[i];
            check_refused(dim, mm, 95);
        }
        mm[a] = 1;
        for (i = 0; i < sizeof bad_dim / sizeof *bad_dim; ++i) {
            dim[a] = bad_dim[i];
            check_refused(dim, mm, 95);
        }
        dim[a] = 2;
    }
    for (i = 0; i < sizeof bad_percentile / sizeof *bad_percentile; ++i) check_refused(dim, mm, bad_percentile[i]);
}

static void test_refused_classes(void)
{
    float score[4] = { 0.5f, 0.5f, 0.25f, 0.75f };
    int truth[2] = { 0, 1 };
    bmvp_class_metrics m;
    CHECK(bmvp_classification(score, truth, 2, 2, NULL, &m) == BMVP_OK && m.accuracy == 1);
    CHECK(bmvp_classification(score, truth, 0, 2, NULL, &m) == BMVP_E_ARG && is_nan(m.accuracy) && is_nan(m.f1));
    CHECK(bmvp_classification(score, truth, -1, 2, NULL, &m) == BMVP_E_ARG);
    CHECK(bmvp_classification(score, truth, 2, 1, NULL, &m) == BMVP_E_ARG && is_nan(m.auc));
    truth[1] = 2;
    CHECK(bmvp_classification(score, truth, 2, 2, NULL, &m) == BMVP_E_ARG);
    truth[1] = -1;
    CHECK(bmvp_classification(score, truth, 2, 2, NULL, &m) == BMVP_E_ARG && is_nan(m.accuracy));
    truth[1] = 1;
    score[3] = (float)NAN;
    CHECK(bmvp_classification(score, truth, 2, 2, NULL, &m) == BMVP_E_ARG && is_nan(m.sensitivity));
}

typedef struct counter {
    int calls, fail_at, alive;
} counter;

static void *counter_alloc(size_t size, void *user)
{
    counter *n = (counter *)user;
    void *p = ++n->calls == n->fail_at ? NULL : malloc(size);
    n->alive += p != NULL;
    return p;
}

static void counter_free(void *p, void *user)
{
    --((counter *)user)->alive;
    free(p);
}

/* Function number `which` with an allocator whose call number fail_at fails. */
static bmvp_status run_counted(int which, counter *n)
{
    static const int64_t dim[3] = { 1, 2, 2 };
    static const double mm[3] = { 1, 1, 1 }, value[2] = { 1, 2 };
    static const unsigned char p[4] = { 1, 0, 0, 0 }, t[4] = { 0, 1, 1, 0 };
    static const float score[4] = { 0.25f, 0.75f, 0.5f, 0.5f };
    static const int truth[2] = { 1, 0 };
    bmvp_class_metrics m;
    bmvp_interval interval;
    bmvp_allocator a;
    float squared[4];
    double d = 0;
    a.alloc = counter_alloc;
    a.free = counter_free;
    a.user = n;
    switch (which) {
    case 0: return bmvp_hausdorff(p, t, dim, mm, 95, BMVP_EMPTY_MONAI, &a, &d);
    case 1: return bmvp_distance_transform(p, dim, mm, squared, &a);
    case 2: return bmvp_classification(score, truth, 2, 2, &a, &m);
    case 3: return bmvp_bootstrap(value, 2, 10, 1, &a, &interval);
    default: return is_nan(bmvp_auc(score, truth, 2, &a)) ? BMVP_E_OOM : BMVP_OK;
    }
}

static void test_memory(void)
{
    int which, fail, needed;
    for (which = 0; which < 5; ++which) {
        counter n = { 0, 0, 0 };
        CHECK(run_counted(which, &n) == BMVP_OK && n.calls > 0 && n.alive == 0);
        needed = n.calls;
        for (fail = 1; fail <= needed; ++fail) {
            memset(&n, 0, sizeof n);
            n.fail_at = fail;
            check_report(run_counted(which, &n) == BMVP_E_OOM && n.alive == 0, __FILE__, __LINE__,
                         "function %d, allocation %d", which, fail);
        }
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    test_masks();
    CHECK_RUN(test_distance_transform);
    CHECK_RUN(test_against_definitions);
#ifndef BMVP_NIFTI_NO_GZIP
    test_real();
#endif
    test_classification();
    CHECK_RUN(test_auc_pairs);
    CHECK_RUN(test_bootstrap_normal);
    CHECK_RUN(test_bootstrap_small);
    CHECK_RUN(test_bootstrap_odd);
    CHECK_RUN(test_empty_rules);
    CHECK_RUN(test_refused_volumes);
    CHECK_RUN(test_refused_classes);
    CHECK_RUN(test_memory);
    return check_end();
}
