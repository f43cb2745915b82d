/* test_ssl.c - bmvp_ssl.h: masks, template placement, sampler, the three losses, ten steps against PyTorch in double,
   equal bits with any number of threads and over a resume, memory plans, allocation failures, settings and checkpoints.
 */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/check.h"
#include "tests/support/device.h"
#include "tests/support/fixture.h"
#include "tests/support/formula.h"
#include <unistd.h>

enum { MAX_MODALITIES = BMVP_MODALITIES, MAX_BATCH = 4 };

static const char *temporary(char *buf, size_t size, const char *suffix)
{
    snprintf(buf, size, "%s/test_ssl.%ld.%s", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (long)getpid(), suffix);
    return buf;
}

static void check_context(bmvp_ctx *c)
{
    check_report(!bmvp_failed(c), __FILE__, __LINE__, "%s", bmvp_error_of(c)->message);
}

static int is_nan(double v) { return v != v; }

static float *floats(int64_t n)
{
    float *p = (float *)calloc((size_t)n, sizeof *p);
    CHECK(p != NULL);
    return p;
}

/* >>modalities and settings ------------------------------------------------------------------------------------------
 */

static void test_modality_names(void)
{
    static const char *const order[] = { "flair", "t1", "t1c", "t2", "mra", "pd", "dwi", "adc" };
    static const struct {
        const char *name;
        int m;
    } known[] = {
        { "T1", 1 },  { "t1n", 1 },   { "t1ce", 2 }, { "T1c", 2 },  { "t1gd", 2 }, { "T2", 3 },
        { "t2w", 3 }, { "FLAIR", 0 }, { "t2f", 0 },  { "MRA", 4 },  { "PD", 5 },   { "DWI", 6 },
        { "ADC", 7 }, { "", -1 },     { "t3", -1 },  { "seg", -1 }, { "t1 ", -1 }, { "averyveryverylongname", -1 },
    };
    size_t i;
    for (i = 0; i < 8; ++i) {
        CHECK(strcmp(bmvp_modality_name((int)i), order[i]) == 0);
        CHECK(bmvp_modality_find(order[i]) == (int)i);
    }
    CHECK(bmvp_modality_name(-1) == NULL && bmvp_modality_name(8) == NULL && bmvp_modality_find(NULL) == -1);
    for (i = 0; i < sizeof known / sizeof *known; ++i)
        check_report(bmvp_modality_find(known[i].name) == known[i].m, __FILE__, __LINE__, "%s is %d", known[i].name,
                     bmvp_modality_find(known[i].name));
}

static bmvp_ssl_config preset(const char *name)
{
    bmvp_ssl_config k;
    memset(&k, 0, sizeof k);
    CHECK(bmvp_ssl_preset(name, &k));
    CHECK(strcmp(k.preset, name) == 0);
    return k;
}

static void test_presets(void)
{
    bmvp_ssl_config k = preset("paper");
    CHECK(k.crop == 96 && k.mask_form == BMVP_MASK_BOXES && k.mask_patch == 8 && k.mask_ratio == 0.875);
    CHECK(k.weight_cmr == 1 && k.weight_md == 1 && k.weight_cl == 1 && k.temperature == 1 &&
          k.contrast_from_epoch == 1000);
    CHECK(k.template_value == BMVP_TEMPLATE_PLAIN && k.template_only_epochs == 0 && !k.template_update_all &&
          !k.shared_slot);
    CHECK(k.lr == 3e-4 && k.epochs == 1500 && k.batch == 3 && k.weight_decay == 1e-5 && !k.half_period &&
          k.update_every == 1);
    CHECK(k.percentile_low == 1 && k.percentile_high == 99 && k.template_x == 240 && k.template_y == 240 &&
          k.template_z == 155);
    k = preset("release");
    CHECK(k.mask_form == BMVP_MASK_BLOCKS && k.mask_ratio == 0.8 && k.weight_md == 10 && k.weight_cmr == 1 &&
          k.weight_cl == 1);
    CHECK(k.contrast_from_epoch == 0 && k.template_only_epochs == 301 && k.shared_slot &&
          k.template_value == BMVP_TEMPLATE_MINMAX);
    CHECK(k.template_eps == 1e-9 && k.template_update_all && k.percentile_low == 5 && k.half_period &&
          k.update_every == 2);
    k = preset("fast");
    CHECK(k.template_value != BMVP_TEMPLATE_MINMAX || k.template_eps >= 1e-3); /* conditioned templates */
    CHECK(!bmvp_ssl_preset("quick", &k) && !bmvp_ssl_preset("", &k));
}

static void check_set_fails(const char *name, const char *value, const char *part)
{
    bmvp_ssl_config k = preset("paper"), before = k;
    bmvp_error err;
    memset(&err, 0, sizeof err);
    check_report(bmvp_ssl_set(&k, name, value, &err) == BMVP_E_ARG, __FILE__, __LINE__, "%s = '%s' was taken", name,
                 value);
    CHECK_HOLDS(err.message, part);
    CHECK(memcmp(&k, &before, sizeof k) == 0);
}

static void test_settings(void)
{
    const char *name = NULL, *meaning = NULL, *none = NULL;
    char text[64], again[64];
    bmvp_ssl_config k = preset("release"), other = preset("fast");
    bmvp_error err;
    int i, n = 0;
    memset(&err, 0, sizeof err);
    CHECK(bmvp_ssl_set(&k, "mask_ratio", "0.5", &err) == BMVP_OK && k.mask_ratio == 0.5);
    CHECK(bmvp_ssl_set(&k, "batch", "7", &err) == BMVP_OK && k.batch == 7);
    CHECK(bmvp_ssl_set(&k, "lr", "1e-3", NULL) == BMVP_OK && k.lr == 1e-3);
    for (i = 0; bmvp_ssl_field(&k, i, &name, &meaning, text, sizeof text);
         ++i, ++n) { /* every field goes through text */
        CHECK(strlen(meaning) > 5);
        check_report(bmvp_ssl_set(&other, name, text, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        CHECK(bmvp_ssl_field(&other, i, &none, &meaning, again, sizeof again) && strcmp(text, again) == 0);
    }
    memcpy(other.preset, k.preset, sizeof k.preset);
    CHECK(n > 30 && memcmp(&other, &k, sizeof k) == 0);
    check_set_fails("mask_ratio", "1.5", "mask_ratio = '1.5': must be a number (double) from 0 to 1");
    check_set_fails("crop", "7", "from 8 to 1024");
    check_set_fails("crop", "95.5", "(int)");
    check_set_fails("crop", "", "crop = ''");
    check_set_fails("crop", "96x", "96x");
    check_set_fails("lr", "nan", "lr");
    check_set_fails("lr", "inf", "lr");
    check_set_fails("batch", "0", "cases in a step");
    check_set_fails("nonsense", "1", "there is no setting 'nonsense'");
    for (i = 0; bmvp_ssl_field(&k, i, &name, &meaning, text, sizeof text); ++i) check_set_fails("nonsense", "1", name);
}

/* >>masks ------------------------------------------------------------------------------------------------------------
 */

static int64_t count_ones(const float *m, int64_t n)
{
    int64_t i, ones = 0;
    for (i = 0; i < n; ++i) {
        if (m[i] != 0.0f && m[i] != 1.0f) return -1;
        ones += m[i] == 1.0f;
    }
    return ones;
}

/* Kept blocks; -1 when a block is neither kept nor masked as a whole. */
static int64_t kept_blocks(const float *m, const int64_t d[3], int64_t r)
{
    int64_t kept = 0, a, b, c, z, y, x;
    for (a = 0; a < d[0]; a += r)
        for (b = 0; b < d[1]; b += r)
            for (c = 0; c < d[2]; c += r) {
                const float first = m[(a * d[1] + b) * d[2] + c];
                for (z = a; z < a + r && z < d[0]; ++z)
                    for (y = b; y < b + r && y < d[1]; ++y)
                        for (x = c; x < c + r && x < d[2]; ++x)
                            if (m[(z * d[1] + y) * d[2] + x] != first) return -1;
                kept += first == 0.0f;
            }
    return kept;
}

static void test_mask_blocks(void)
{
    static const struct {
        int64_t dim[3], r;
        double ratio;
        int64_t kept;
    } cases[] = {
        { { 96, 96, 96 }, 8, 0.8, 345 }, { { 96, 96, 96 }, 8, 0.875, 216 }, { { 32, 32, 32 }, 8, 0, 64 },
        { { 32, 32, 32 }, 8, 1, 0 },     { { 20, 12, 9 }, 8, 0.75, 3 },     { { 5, 6, 7 }, 8, 0.5, 0 },
        { { 16, 24, 8 }, 4, 0.3, 33 },
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        const int64_t *d = cases[i].dim, n = d[0] * d[1] * d[2];
        float *a = floats(n), *b = floats(n), *c = floats(n);
        bmvp_rng r = bmvp_rng_make(9, 3, 4, 5), same = bmvp_rng_make(9, 3, 4, 5), next = bmvp_rng_make(9, 3, 5, 5);
        bmvp_mask_blocks(a, d, cases[i].r, cases[i].ratio, &r);
        bmvp_mask_blocks(b, d, cases[i].r, cases[i].ratio, &same);
        bmvp_mask_blocks(c, d, cases[i].r, cases[i].ratio, &next);
        CHECK(count_ones(a, n) >= 0);
        check_report(kept_blocks(a, d, cases[i].r) == cases[i].kept, __FILE__, __LINE__,
                     "case %d keeps %d blocks, should keep %d", (int)i, (int)kept_blocks(a, d, cases[i].r),
                     (int)cases[i].kept);
        CHECK(memcmp(a, b, (size_t)n * sizeof *a) == 0);
        if (cases[i].kept > 2) CHECK(cases[i].ratio == 0 || memcmp(a, c, (size_t)n * sizeof *a) != 0);
        free(a);
        free(b);
        free(c);
    }
}

/* How often each voxel was masked over many draws lies within 5 standard deviations of p, where `inside` says that p
 * holds. */
static void check_share(const int *count, int64_t n, int draws, double p, const char *what)
{
    const double sigma = sqrt(p * (1 - p) / draws);
    int64_t i;
    for (i = 0; i < n; ++i)
        if (!check_report(fabs((double)count[i] / draws - p) <= 5 * sigma, __FILE__, __LINE__,
                          "%s: place %d was masked in a share of %g, "
                          "should be %g +- %.2g",
                          what, (int)i, (double)count[i] / draws, p, sigma))
            return;
}

static void test_mask_blocks_distribution(void)
{
    enum { DRAWS = 4000, N = 4 * 3 * 5 };
    static const int64_t dim[3] = { 8, 6, 10 };
    static int single[N], pair[N];
    float m[8 * 6 * 10];
    int i, k;
    for (i = 0; i < DRAWS; ++i) {
        bmvp_rng r = bmvp_rng_make(1, 2, (uint32_t)i, 0);
        bmvp_mask_blocks(m, dim, 2, 0.75, &r);
        for (k = 0; k < N; ++k) {
            const int at = ((k / 15 * 2) * 6 + k / 5 % 3 * 2) * 10 + k % 5 * 2;
            single[k] += m[at] == 1.0f;
            pair[k] += m[at] == 1.0f && m[0] == 1.0f;
        }
    }
    check_share(single, N, DRAWS, 0.75, "block");
    check_share(pair + 1, N - 1, DRAWS, 0.75 * 44 / 59,
                "block, together with the first"); /* drawn without putting back */
}

static void test_mask_boxes(void)
{
    static const struct {
        int64_t dim[3], r;
        double ratio;
    } cases[] = {
        { { 96, 96, 96 }, 8, 0.875 }, { { 32, 32, 32 }, 8, 0.5 }, { { 20, 12, 9 }, 5, 0.7 }, { { 5, 3, 4 }, 8, 0.3 },
        { { 16, 16, 16 }, 8, 0 },     { { 16, 8, 16 }, 3, 1 },    { { 7, 9, 11 }, 1, 0.61 }, { { 1, 1, 1 }, 8, 0.5 },
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        const int64_t *d = cases[i].dim, n = d[0] * d[1] * d[2], r = cases[i].r;
        const double wanted = cases[i].ratio * (double)n;
        float *a = floats(n), *b = floats(n), *c = floats(n);
        bmvp_rng first = bmvp_rng_make(9, 3, 4, 5), same = bmvp_rng_make(9, 3, 4, 5), next = bmvp_rng_make(9, 3, 4, 6);
        int64_t ones;
        bmvp_mask_boxes(a, d, r, cases[i].ratio, &first);
        bmvp_mask_boxes(b, d, r, cases[i].ratio, &same);
        bmvp_mask_boxes(c, d, r, cases[i].ratio, &next);
        ones = count_ones(a, n);
        check_report((double)ones >= wanted && (double)ones < wanted + (double)(r * r * r), __FILE__, __LINE__,
                     "case %d masks %d of %d voxels, should be a share of %g and at most one box more", (int)i,
                     (int)ones, (int)n, cases[i].ratio);
        CHECK(memcmp(a, b, (size_t)n * sizeof *a) == 0);
        if (n > 500 && cases[i].ratio > 0 && cases[i].ratio < 1) CHECK(memcmp(a, c, (size_t)n * sizeof *a) != 0);
        free(a);
        free(b);
        free(c);
    }
}

/* One box: uniform centre, edge r around it, cut at the border. A voxel away from the border is in it with r^3 /
 * voxels. */
static void test_mask_boxes_distribution(void)
{
    enum { DRAWS = 40000, E = 12, R = 3 };
    static const int64_t dim[3] = { E, E, E };
    static int inside[E * E * E], corner[8];
    static float m[E * E * E];
    int64_t inner = 0;
    int i, z, y, x;
    for (i = 0; i < DRAWS; ++i) {
        bmvp_rng r = bmvp_rng_make(1, 2, (uint32_t)i, 0);
        int64_t at = 0;
        bmvp_mask_boxes(m, dim, R, 1e-9, &r);
        for (z = 1; z < E - 1; ++z)
            for (y = 1; y < E - 1; ++y)
                for (x = 1; x < E - 1; ++x) inside[at++] += m[(z * E + y) * E + x] == 1.0f;
        for (z = 0; z < 8; ++z)
            corner[z] += m[((z >> 2) * (E - 1) * E + (z >> 1 & 1) * (E - 1)) * E + (z & 1) * (E - 1)] == 1.0f;
        inner = at;
    }
    check_share(inside, inner, DRAWS, 27.0 / (E * E * E), "voxel");
    check_share(corner, 8, DRAWS, 8.0 / (E * E * E), "corner"); /* centres outside of the volume are not drawn */
}

/* >>placement --------------------------------------------------------------------------------------------------------
 */

static void test_template_place(void)
{
    static const int64_t crop[3] = { 3, 0, -2 }, grid[3] = { 155, 240, 240 }, small[3] = { 100, 101, 160 };
    static const int64_t volume[3] = { 100, 181, 217 }, large[3] = { 155, 240, 241 };
    int64_t at[3];
    bmvp_template_place(crop, volume, grid, at);
    CHECK(at[0] == 3 + 27 && at[1] == 29 && at[2] == -2 + 11); /* floor(55 / 2), floor(59 / 2), floor(23 / 2) */
    bmvp_template_place(crop, large, grid, at);
    CHECK(at[0] == 3 && at[1] == 0 && at[2] == -2 - 1); /* floor(-1 / 2) = -1 */
    bmvp_template_place(crop, grid, small, at);
    CHECK(at[0] == 3 - 28 && at[1] == -70 && at[2] == -2 - 40); /* floor(-55 / 2) = -28, floor(-139 / 2) = -70 */
}

/* >>sampler ----------------------------------------------------------------------------------------------------------
 */

enum { CASES = 7 };
static const bmvp_ssl_case sample_cases[CASES] = {
    /* of five modalities */
    { 0x1f, { 40, 50, 60 } }, { 0x01, { 32, 32, 32 } }, { 0x0a, { 33, 31, 20 } }, { 0x15, { 64, 40, 36 } },
    { 0x10, { 32, 90, 32 } }, { 0x1e, { 48, 48, 48 } }, { 0x03, { 27, 32, 35 } },
};

static int bits(uint32_t v)
{
    int n = 0;
    for (; v; v >>= 1) n += (int)(v & 1);
    return n;
}

static void check_draw(const bmvp_ssl_config *k, const bmvp_ssl_draw *d)
{
    const bmvp_ssl_case *s = &sample_cases[d->index];
    int a;
    CHECK(d->index >= 0 && d->index < CASES && d->modality >= 0 && (s->modalities >> d->modality & 1));
    if (bits(s->modalities) == 1) CHECK(d->other == -1);
    else CHECK(d->other >= 0 && d->other != d->modality && (s->modalities >> d->other & 1));
    for (a = 0; a < 3; ++a) {
        if (s->dim[a] >= k->crop) CHECK(d->crop[a] >= 0 && d->crop[a] <= s->dim[a] - k->crop);
        else CHECK(d->crop[a] == -((k->crop - s->dim[a]) / 2)); /* as much before as after, the odd voxel after */
    }
}

static void test_sampler_epochs(void)
{
    enum { EPOCHS = 6, BATCH = 3 };
    bmvp_ssl_config k = preset("paper");
    bmvp_ssl_draw d[BATCH];
    int64_t order[CASES], seen[EPOCHS][CASES];
    int place[EPOCHS] = { 0 }, i, e, f, same = 0;
    int64_t step;
    k.batch = BATCH;
    k.crop = 32;
    for (step = 0; step < EPOCHS * CASES / BATCH; ++step) {
        CHECK(bmvp_ssl_sample(&k, sample_cases, CASES, 5, step, order, d) == BATCH);
        CHECK(bmvp_ssl_epoch_of(&k, CASES, step) == step * BATCH / CASES);
        for (i = 0; i < BATCH; ++i) {
            e = (int)((step * BATCH + i) / CASES);
            seen[e][place[e]++] = d[i].index;
            CHECK(d[i].weight == 1.0 / BATCH && d[i].slot == (uint32_t)i);
            check_draw(&k, &d[i]);
        }
    }
    for (e = 0; e < EPOCHS; ++e) { /* every case once in every epoch, in changing order */
        int once[CASES] = { 0 };
        CHECK(place[e] == CASES);
        for (i = 0; i < CASES; ++i) ++once[seen[e][i]];
        for (i = 0; i < CASES; ++i) CHECK(once[i] == 1);
        for (f = 0; f < e; ++f) same += memcmp(seen[e], seen[f], sizeof seen[e]) == 0;
    }
    CHECK(same == 0);
}

static void test_sampler_distribution(void)
{
    enum { STEPS = 4000 };
    static int chosen[CASES][5], other[5][5], low, high, middle;
    bmvp_ssl_config k = preset("paper");
    bmvp_ssl_draw d[CASES];
    int64_t order[CASES], step;
    int i, m, n;
    k.batch = CASES; /* a step is an epoch */
    k.crop = 32;
    for (step = 0; step < STEPS; ++step) {
        CHECK(bmvp_ssl_sample(&k, sample_cases, CASES, 5, step, order, d) == CASES);
        for (i = 0; i < CASES; ++i) {
            check_draw(&k, &d[i]);
            ++chosen[d[i].index][d[i].modality];
            if (d[i].index == 0) ++other[d[i].modality][d[i].other];
            if (d[i].index == 3) { /* room of 8 along the second axis: starts 0 to 8 */
                low += d[i].crop[1] == 0;
                high += d[i].crop[1] == 8;
                middle += d[i].crop[1] == 4;
            }
        }
    }
    for (i = 0; i < CASES; ++i)
        for (m = 0; m < 5; ++m) {
            const double p = (double)(sample_cases[i].modalities >> m & 1) / bits(sample_cases[i].modalities);
            CHECK_NEAR((double)chosen[i][m] / STEPS, p, 5 * sqrt(p * (1 - p) / STEPS));
        }
    for (m = 0; m < 5; ++m)
        for (n = 0; n < 5; ++n)
            CHECK_NEAR((double)other[m][n] / STEPS, m == n ? 0 : 0.05, 5 * sqrt(0.05 * 0.95 / STEPS));
    CHECK_NEAR((double)low / STEPS, 1.0 / 9, 0.025);
    CHECK_NEAR((double)high / STEPS, 1.0 / 9, 0.025);
    CHECK_NEAR((double)middle / STEPS, 1.0 / 9, 0.025);
}

static void test_sampler_all_modalities(void)
{
    bmvp_ssl_config k = preset("paper");
    bmvp_ssl_draw d[4 * 5];
    int64_t order[CASES], step;
    int n, i;
    k.batch = 4;
    k.crop = 32;
    k.all_modalities = 1;
    for (step = 0; step < 50; ++step) {
        double sum = 0;
        uint32_t met[4] = { 0, 0, 0, 0 }, used = 0;
        n = bmvp_ssl_sample(&k, sample_cases, CASES, 5, step, order, d);
        for (i = 0; i < n; ++i) {
            check_draw(&k, &d[i]);
            CHECK(d[i].slot < 20 && !(used >> d[i].slot & 1));
            used |= 1u << d[i].slot;
            CHECK(!(met[d[i].slot % 4] >> d[i].modality & 1)); /* every modality of a case once */
            met[d[i].slot % 4] |= 1u << d[i].modality;
            CHECK_NEAR(d[i].weight, 0.25 / bits(sample_cases[d[i].index].modalities), 1e-15);
            CHECK(i == 0 || d[i].slot / 4 >= d[i - 1].slot / 4); /* passes follow each other */
            sum += d[i].weight;
        }
        CHECK_NEAR(sum, 1, 1e-12);
        for (i = 0; i < n; ++i) CHECK(met[d[i].slot % 4] == sample_cases[d[i].index].modalities);
    }
}

static void test_sampler_shared_slot(void)
{
    enum { STEPS = 3000 };
    static int first[3];
    static const bmvp_ssl_case three[4] = {
        { 0x7, { 40, 40, 40 } }, { 0x7, { 40, 40, 40 } }, { 0x7, { 40, 40, 40 } }, { 0x5, { 40, 40, 40 } }
    };
    bmvp_ssl_config k = preset("release");
    bmvp_ssl_draw d[4];
    int64_t order[4], step;
    int i;
    k.batch = 4;
    k.crop = 32;
    for (step = 0; step < STEPS; ++step) {
        int slot = -1;
        CHECK(bmvp_ssl_sample(&k, three, 4, 3, step, order, d) == 4);
        for (i = 0; i < 4; ++i) {
            if (d[i].index == 3) CHECK(d[i].modality == 0 || d[i].modality == 2);
            else if (slot < 0) slot = d[i].modality;
            else CHECK(d[i].modality == slot);
        }
        ++first[slot];
    }
    for (i = 0; i < 3; ++i) CHECK_NEAR((double)first[i] / STEPS, 1.0 / 3, 5 * sqrt(2.0 / 9 / STEPS));
}

static void test_sampler_seed(void)
{
    bmvp_ssl_config k = preset("paper");
    bmvp_ssl_draw a[CASES], b[CASES];
    int64_t order[CASES];
    int i, differ = 0;
    k.batch = CASES;
    k.crop = 16;
    memset(a, 0, sizeof a);
    memset(b, 0, sizeof b);
    (void)bmvp_ssl_sample(&k, sample_cases, CASES, 5, 12, order, a);
    (void)bmvp_ssl_sample(&k, sample_cases, CASES, 5, 13, order, b);
    (void)bmvp_ssl_sample(&k, sample_cases, CASES, 5, 12, order, b);
    for (i = 0; i < CASES; ++i)
        CHECK(a[i].index == b[i].index && a[i].modality == b[i].modality && a[i].other == b[i].other &&
              memcmp(a[i].crop, b[i].crop, sizeof a[i].crop) == 0);
    k.seed = 1;
    (void)bmvp_ssl_sample(&k, sample_cases, CASES, 5, 12, order, b);
    for (i = 0; i < CASES; ++i)
        differ += a[i].index != b[i].index || memcmp(a[i].crop, b[i].crop, sizeof a[i].crop) != 0;
    CHECK(differ > 0);
}

/* >>rig: a small run
 * --------------------------------------------------------------------------------------------------- */

enum { EDGE = 32, CUBE = EDGE * EDGE * EDGE };

/* A bias right before BatchNorm: its gradient is rounding noise. */
static const char *const zero_gradient = "encoder.uniformer.blocks4.0.mlp.fc2.bias";

typedef struct rig {
    bmvp_ctx *c;
    bmvp_ssl *s;
    bmvp_ssl_config cfg;
    bmvp_net_config net;
    float *x[MAX_BATCH], *other[MAX_BATCH], *mask[2 * MAX_BATCH];
    bmvp_ssl_item item[MAX_BATCH];
} rig;

static const char *const rig_names[3] = { "t1", "t2", "dwi" };
static const int64_t rig_grid[3] = { 36, 40, 44 };

static bmvp_net_config small_net(void)
{
    static const int dim[4] = { 8, 16, 24, 32 };
    bmvp_net_config k;
    memset(&k, 0, sizeof k);
    CHECK(bmvp_net_preset("uniformer_tiny", &k));
    memcpy(k.dim, dim, sizeof dim);
    k.depth[2] = 1;
    k.head_dim = 8;
    return k;
}

static void rig_config(rig *r, const char *preset_name)
{
    memset(r, 0, sizeof *r);
    r->cfg = preset(preset_name);
    r->cfg.crop = EDGE;
    r->cfg.batch = 2;
    r->cfg.contrast_from_epoch = 0;
    r->cfg.template_x = r->cfg.template_y = r->cfg.template_z = 0;
    r->cfg.template_only_epochs = 0;
    r->cfg.update_every = 1;
    r->cfg.clip = 0;
    r->net = small_net();
}

/* Items: case i has modality i % 3 as X_im and another one as X_in; masks are given. */
static int rig_begin(rig *r, const bmvp_config *ctx)
{
    static const int64_t dim[3] = { EDGE, EDGE, EDGE };
    int i;
    r->c = ctx ? bmvp_create(ctx, NULL) : device_context();
    r->s = r->c ? bmvp_ssl_create(r->c, &r->net, &r->cfg, 3, rig_names, rig_grid) : NULL;
    if (!check_report(r->s != NULL, __FILE__, __LINE__, "%s", r->c ? bmvp_error_of(r->c)->message : "no context"))
        return 0;
    for (i = 0; i < 3; ++i) { /* templates that differ */
        bmvp_tensor *t = bmvp_ssl_template(r->s, i);
        float *x = floats(t->numel);
        int64_t j;
        for (j = 0; j < t->numel; ++j) x[j] = (float)(0.3 + 0.2 * formula_uniform(formula_stream("template", (uint64_t)i), j));
        bmvp_write(r->c, t, x);
        free(x);
    }
    for (i = 0; i < MAX_BATCH; ++i) {
        r->x[i] = floats(CUBE);
        r->other[i] = floats(CUBE);
        r->mask[2 * i] = floats(CUBE);
        r->mask[2 * i + 1] = floats(CUBE);
        formula_volume(i, i % 3, dim, r->x[i]);
        formula_volume(i, 3, dim, r->other[i]);
        CHECK(formula_mask(2 * i, 0, EDGE, r->mask[2 * i]) && formula_mask(2 * i + 1, 0, EDGE, r->mask[2 * i + 1]));
        r->item[i].x = r->x[i];
        r->item[i].other = r->other[i];
        r->item[i].modality = i % 3;
        r->item[i].slot = (uint32_t)i;
        r->item[i].template_start[0] = i;
        r->item[i].template_start[1] = 2 * i;
        r->item[i].template_start[2] = 3;
        r->item[i].mask_template = r->mask[2 * i];
        r->item[i].mask_modal = r->mask[2 * i + 1];
    }
    return 1;
}

static void rig_end(rig *r)
{
    int i;
    for (i = 0; i < MAX_BATCH; ++i) {
        free(r->x[i]);
        free(r->other[i]);
        free(r->mask[2 * i]);
        free(r->mask[2 * i + 1]);
    }
    bmvp_ssl_destroy(r->s);
    bmvp_destroy(r->c);
}

/* Everything that a step can change: values, statistics, templates, moments, counters. */
static void check_equal_runs(bmvp_ssl *a, bmvp_ssl *b, const char *what)
{
    const bmvp_state_list *p = bmvp_ssl_state(a), *q = bmvp_ssl_state(b);
    const int moments = bmvp_ssl_config_of(a)->optimizer ? 1 : 2;
    int i, w, differ = 0;
    for (i = 0; i < p->n; ++i) {
        differ += p->item[i].counter != q->item[i].counter ||
                  *bmvp_optim_count(bmvp_ssl_trainer(a)->optim, i) != *bmvp_optim_count(bmvp_ssl_trainer(b)->optim, i);
        if (p->item[i].torch_rank == 0) continue;
        differ += memcmp(p->item[i].t->x, q->item[i].t->x, (size_t)p->item[i].t->numel * sizeof(float)) != 0;
        for (w = 0; p->item[i].trained && w < moments; ++w)
            differ += memcmp(bmvp_optim_moment(bmvp_ssl_trainer(a)->optim, i, w)->x, bmvp_optim_moment(bmvp_ssl_trainer(b)->optim, i, w)->x,
                             (size_t)p->item[i].t->numel * sizeof(float)) != 0;
        if (!check_report(differ == 0, __FILE__, __LINE__, "%s: %s differs", what, p->item[i].name)) return;
    }
    CHECK(p->n == q->n && bmvp_ssl_steps(a) == bmvp_ssl_steps(b));
}

/* Names of the parameters whose bits differ from a copy made before. */
static float *copy_state(const bmvp_state_list *l)
{
    int64_t n = 0;
    float *p;
    int i;
    for (i = 0; i < l->n; ++i) n += l->item[i].t->numel;
    p = floats(n);
    for (i = 0, n = 0; i < l->n; n += l->item[i].t->numel, ++i)
        if (l->item[i].torch_rank > 0) memcpy(p + n, l->item[i].t->x, (size_t)l->item[i].t->numel * sizeof *p);
    return p;
}

static int count_changed(const bmvp_state_list *l, const float *before)
{
    int64_t n = 0;
    int i, changed = 0;
    for (i = 0; i < l->n; n += l->item[i].t->numel, ++i)
        if (l->item[i].trained)
            changed += memcmp(before + n, l->item[i].t->x, (size_t)l->item[i].t->numel * sizeof *before) != 0;
    return changed;
}

/* >>losses
 * ------------------------------------------------------------------------------------------------------------- */

static double mean_square(const float *a, const float *b, int64_t n)
{
    double s = 0;
    int64_t i;
    for (i = 0; i < n; ++i) s += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return s / (double)n;
}

/* Symmetric InfoNCE from the features, rows of f and g being pairs. */
static double info_nce(const float *f, const float *g, int pairs, int64_t n, double tau)
{
    double logit[MAX_BATCH][MAX_BATCH], loss = 0;
    int i, j;
    for (i = 0; i < pairs; ++i)
        for (j = 0; j < pairs; ++j) {
            double fg = 0, ff = 0, gg = 0;
            int64_t k;
            for (k = 0; k < n; ++k) {
                fg += (double)f[i * n + k] * (double)g[j * n + k];
                ff += (double)f[i * n + k] * (double)f[i * n + k];
                gg += (double)g[j * n + k] * (double)g[j * n + k];
            }
            logit[i][j] = fg / sqrt(ff * gg) / tau;
        }
    for (i = 0; i < pairs; ++i) {
        double row = 0, col = 0;
        for (j = 0; j < pairs; ++j) {
            row += exp(logit[i][j]);
            col += exp(logit[j][i]);
        }
        loss += 0.5 * (log(row) - logit[i][i] + log(col) - logit[i][i]) / pairs;
    }
    return loss;
}

/* The losses from what the step reports as its reconstructions and features. */
static void test_losses_from_features(void)
{
    const double weight[3] = { 0.2, 0.5, 0.3 };
    bmvp_ssl_losses have;
    bmvp_tensor *rec = NULL;
    const bmvp_features *f;
    double md = 0, cmr = 0;
    int64_t n;
    rig r;
    int i;
    rig_config(&r, "paper");
    r.cfg.weight_cmr = 0.7;
    r.cfg.weight_md = 3;
    r.cfg.weight_cl = 0.25;
    r.cfg.temperature = 0.3;
    if (rig_begin(&r, NULL)) {
        for (i = 0; i < 3; ++i) r.item[i].weight = weight[i];
        bmvp_ssl_keep_features(r.s, 1);
        CHECK(bmvp_ssl_accumulate(r.s, r.item, 3, &have) == BMVP_OK);
        check_context(r.c);
        f = bmvp_ssl_features(r.s, &rec);
        if (CHECK(f->last && f->last->x && rec && rec->x && rec->dim[0] == 6)) {
            for (i = 0; i < 3; ++i) {
                md += weight[i] * mean_square(rec->x + i * CUBE, r.x[i], CUBE);
                cmr += weight[i] * mean_square(rec->x + (3 + i) * CUBE, r.x[i], CUBE);
            }
            n = f->last->numel / 6;
            CHECK_NEAR(have.md / md, 1, 1e-5);
            CHECK_NEAR(have.cmr / cmr, 1, 1e-5);
            CHECK_NEAR(have.cl / info_nce(f->last->x, f->last->x + 3 * n, 3, n, 0.3), 1, 1e-4);
        }
        CHECK_NEAR(have.total, 0.7 * have.cmr + 3 * have.md + 0.25 * have.cl, 1e-6 * have.total);
        CHECK(is_nan(have.grad_norm));
        CHECK(bmvp_ssl_update(r.s, 1e-3, &have) == BMVP_OK && have.grad_norm > 0 && bmvp_ssl_steps(r.s) == 1);
    }
    rig_end(&r);
}

/* One step with the given weights; parts that are off must be NaN, the others as in a step with all three. */
static void check_tasks(double cmr, double md, double cl)
{
    bmvp_ssl_losses have, all;
    rig r;
    float *before;
    int i;
    rig_config(&r, "paper");
    if (!rig_begin(&r, NULL)) return;
    CHECK(bmvp_ssl_accumulate(r.s, r.item, 2, &all) == BMVP_OK);
    rig_end(&r);
    rig_config(&r, "paper");
    r.cfg.weight_cmr = cmr;
    r.cfg.weight_md = md;
    r.cfg.weight_cl = cl;
    if (!rig_begin(&r, NULL)) return;
    before = copy_state(bmvp_ssl_state(r.s));
    CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, &have) == BMVP_OK);
    check_context(r.c);
    CHECK(is_nan(have.cmr) == (cmr == 0) && is_nan(have.md) == (md == 0) && is_nan(have.cl) == (cl == 0));
    if (cmr > 0 && (md > 0 || cl > 0))
        CHECK_NEAR(have.cmr / all.cmr, 1, 1e-5); /* the same views: the same batch statistics */
    if (md > 0 && (cmr > 0 || cl > 0)) CHECK_NEAR(have.md / all.md, 1, 1e-5);
    if (cl > 0) CHECK_NEAR(have.cl / all.cl, 1, 1e-5);
    CHECK_NEAR(have.total, (cmr > 0 ? cmr * have.cmr : 0) + (md > 0 ? md * have.md : 0) + (cl > 0 ? cl * have.cl : 0),
               1e-6 * have.total);
    CHECK(have.total > 0 && have.grad_norm > 0 && count_changed(bmvp_ssl_state(r.s), before) > 20);
    for (i = 0; i < 3; ++i) /* template of an item of the batch, and only with a task that reads it */
        CHECK((bmvp_optim_count(bmvp_ssl_trainer(r.s)->optim, bmvp_ssl_state(r.s)->n - 3 + i)[0] == 1) == (i < 2 && (md > 0 || cl > 0)));
    free(before);
    rig_end(&r);
}

static void test_task_switches(void)
{
    check_tasks(2, 0, 0);
    check_tasks(0, 2, 0);
    check_tasks(0, 0, 2);
    check_tasks(2, 3, 0);
    check_tasks(2, 0, 3);
    check_tasks(0, 2, 3);
    check_tasks(1, 2, 3);
}

static void test_single_modality(void)
{
    bmvp_ssl_losses have, pair;
    rig r;
    int all;
    for (all = 0; all < 2; ++all) {
        rig_config(&r, "paper");
        if (!rig_begin(&r, NULL)) return;
        r.item[1].other = NULL;
        if (all) r.item[0].other = r.item[2].other = NULL;
        CHECK(bmvp_ssl_step(r.s, r.item, 3, 1e-3, &have) == BMVP_OK);
        check_context(r.c);
        CHECK(is_nan(have.cmr) == all && is_nan(have.cl) == all && have.md > 0 && have.total > 0);
        if (!all) CHECK_NEAR(have.total, have.cmr + have.md + have.cl, 1e-6 * have.total);
        else CHECK_NEAR(have.total, have.md, 1e-6 * have.total);
        rig_end(&r);
    }
    rig_config(&r, "paper"); /* two pairs among three items: contrast of these two, weighed with their share */
    r.cfg.weight_cmr = r.cfg.weight_md = 0;
    if (rig_begin(&r, NULL)) {
        r.item[1].other = NULL;
        bmvp_ssl_keep_features(r.s, 1);
        CHECK(bmvp_ssl_accumulate(r.s, r.item, 3, &pair) == BMVP_OK);
        if (CHECK(bmvp_ssl_features(r.s, NULL)->last && bmvp_ssl_features(r.s, NULL)->last->dim[0] == 5)) {
            const int64_t n = bmvp_ssl_features(r.s, NULL)->last->numel / 5;
            float *f = bmvp_ssl_features(r.s, NULL)->last->x;
            memcpy(f + n, f + 2 * n, (size_t)n * sizeof *f); /* template views of items 0 and 2 side by side */
            CHECK_NEAR(pair.cl, 2.0 / 3 * info_nce(f, f + 3 * n, 2, n, 1), 1e-5);
        }
    }
    rig_end(&r);
    rig_config(&r,
               "paper"); /* only cross-modal reconstruction, and nobody has a pair: nothing to do, nothing changes */
    r.cfg.weight_md = r.cfg.weight_cl = 0;
    if (rig_begin(&r, NULL)) {
        float *before = copy_state(bmvp_ssl_state(r.s));
        r.item[0].other = r.item[1].other = NULL;
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, &have) == BMVP_OK);
        CHECK(is_nan(have.cmr) && is_nan(have.md) && is_nan(have.cl));
        CHECK(count_changed(bmvp_ssl_state(r.s), before) == 0 && bmvp_ssl_steps(r.s) == 1);
        check_context(r.c);
        free(before);
    }
    rig_end(&r);
}

static void test_epochs_of_tasks(void)
{
    bmvp_ssl_losses have;
    rig r;
    int64_t epoch;
    rig_config(&r, "paper");
    r.cfg.contrast_from_epoch = 2;
    r.cfg.template_only_epochs = 1;
    if (rig_begin(&r, NULL)) {
        for (epoch = 0; epoch < 4; ++epoch) {
            bmvp_ssl_set_epoch(r.s, epoch);
            CHECK(bmvp_ssl_accumulate(r.s, r.item, 2, &have) == BMVP_OK);
            CHECK(is_nan(have.cl) == (epoch < 2) && !is_nan(have.cmr) && !is_nan(have.md));
            r.item[0].mask_modal = r.item[0].mask_template;
            r.item[1].mask_modal = r.item[1].mask_template;
            CHECK(bmvp_ssl_accumulate(r.s, r.item, 2, &have) == BMVP_OK);
            if (epoch < 1)
                CHECK_NEAR(have.cmr / have.md, 1, 1e-6); /* both views from the template: with equal masks the same */
            else CHECK(fabs(have.cmr / have.md - 1) > 1e-6);
            r.item[0].mask_modal = r.mask[1];
            r.item[1].mask_modal = r.mask[3];
        }
        check_context(r.c);
    }
    rig_end(&r);
}

/* >>templates
 * ------------------------------------------------------------------------------------------------------------ */

/* Gradient in the masked voxels of the crop and nowhere else; only in the templates of the batch. */
static void test_template_gradient(void)
{
    const bmvp_tensor *t;
    int64_t z, y, x, wrong = 0, zero = 0, masked = 0;
    rig r;
    int a;
    rig_config(&r, "paper");
    if (rig_begin(&r, NULL)) {
        const int64_t start[3] = { -3, 5, 20 }; /* reaches out of the grid of 36 x 40 x 44 on two sides */
        memcpy(r.item[0].template_start, start, sizeof start);
        CHECK(bmvp_ssl_accumulate(r.s, r.item, 1, NULL) == BMVP_OK);
        t = bmvp_ssl_template(r.s, 0);
        CHECK(bmvp_has_grad(t) && !bmvp_has_grad(bmvp_ssl_template(r.s, 1)) &&
              !bmvp_has_grad(bmvp_ssl_template(r.s, 2)));
        CHECK(bmvp_ssl_template(r.s, 3) == NULL && bmvp_ssl_template(r.s, -1) == NULL);
        for (z = 0; z < t->dim[0]; ++z)
            for (y = 0; y < t->dim[1]; ++y)
                for (x = 0; x < t->dim[2]; ++x) {
                    const int64_t at[3] = { z - start[0], y - start[1], x - start[2] };
                    const float g = t->g[(z * t->dim[1] + y) * t->dim[2] + x];
                    int in = 1;
                    for (a = 0; a < 3; ++a) in = in && at[a] >= 0 && at[a] < EDGE;
                    in = in && r.mask[0][(at[0] * EDGE + at[1]) * EDGE + at[2]] == 1.0f;
                    wrong += !in && g != 0.0f;
                    zero += in && g == 0.0f;
                    masked += in;
                }
        CHECK(masked > 5000 && wrong == 0 && zero * 100 < masked);
    }
    rig_end(&r);
}

/* Both masked views and both values of a template, from their definition; then that looking changes nothing. */
static void test_views(void)
{
    bmvp_ssl_preview look;
    float *view[2], *rec[2], *before;
    int64_t z, y, x;
    rig r;
    int minmax, i;
    for (minmax = 0; minmax < 2; ++minmax) {
        rig_config(&r, "paper");
        r.cfg.template_value = minmax;
        r.cfg.template_eps = 0.5;
        if (!rig_begin(&r, NULL)) return;
        for (i = 0; i < 2; ++i) {
            view[i] = floats(CUBE);
            rec[i] = floats(CUBE);
        }
        look.view_modal = view[0];
        look.view_template = view[1];
        look.rec_modal = rec[0];
        look.rec_template = rec[1];
        r.item[1].template_start[0] = 20;
        r.item[1].template_start[1] = -7;
        before = copy_state(bmvp_ssl_state(r.s));
        CHECK(bmvp_ssl_look(r.s, &r.item[1], &look) == BMVP_OK);
        check_context(r.c);
        {
            const bmvp_tensor *t = bmvp_ssl_template(r.s, 1);
            double low = 1e9, high = -1e9;
            int64_t wrong = 0;
            for (x = 0; x < t->numel; ++x) {
                low = (double)t->x[x] < low ? (double)t->x[x] : low;
                high = (double)t->x[x] > high ? (double)t->x[x] : high;
            }
            for (z = 0; z < EDGE; ++z)
                for (y = 0; y < EDGE; ++y)
                    for (x = 0; x < EDGE; ++x) {
                        const int64_t at = (z * EDGE + y) * EDGE + x, tz = z + 20, ty = y - 7, tx = x + 3;
                        const int in = tz < t->dim[0] && ty >= 0 && ty < t->dim[1] && tx < t->dim[2];
                        double fill = in ? (double)t->x[(tz * t->dim[1] + ty) * t->dim[2] + tx] : 0;
                        if (minmax && in) fill = (fill - low) / (high - low + 0.5);
                        if (r.mask[2][at] == 0.0f) fill = (double)r.x[1][at];
                        wrong += !(fabs((double)view[1][at] - fill) <= 1e-6);
                        wrong += view[0][at] != (r.mask[3][at] == 1.0f ? r.other[1][at] : r.x[1][at]);
                    }
            CHECK(wrong == 0);
        }
        CHECK(mean_square(rec[0], rec[1], CUBE) > 0 && mean_square(rec[0], r.x[1], CUBE) < 1e3);
        CHECK(count_changed(bmvp_ssl_state(r.s), before) == 0 && bmvp_ssl_steps(r.s) == 0);
        memset(&look, 0, sizeof look);
        CHECK(bmvp_ssl_look(r.s, &r.item[1], &look) == BMVP_OK); /* nothing wanted */
        for (i = 0; i < 2; ++i) {
            free(view[i]);
            free(rec[i]);
        }
        free(before);
        rig_end(&r);
    }
}

/* The share of a view that is filled, found by a crop of zeros and a filler of ones. */
static double drawn_mask(rig *r, uint32_t slot, int modal, float *view)
{
    bmvp_ssl_preview look;
    bmvp_ssl_item item = r->item[0];
    memset(&look, 0, sizeof look);
    item.mask_template = item.mask_modal = NULL;
    item.x = r->x[2];
    item.other = r->x[3];
    item.slot = slot;
    memset(item.template_start, 0, sizeof item.template_start);
    if (modal) look.view_modal = view;
    else look.view_template = view;
    CHECK(bmvp_ssl_look(r->s, &item, &look) == BMVP_OK);
    return (double)count_ones(view, CUBE) / CUBE;
}

/* Masks nobody gave: drawn with the ratio of the settings, of one kind or the other, anew for each view, item and step.
 */
static void test_drawn_masks(void)
{
    float *view[5];
    rig r;
    int form, i, j;
    for (form = 0; form < 2; ++form) {
        rig_config(&r, "paper");
        r.cfg.mask_form = form;
        r.cfg.mask_ratio = 0.75;
        if (!rig_begin(&r, NULL)) return;
        bmvp_fill(r.c, bmvp_ssl_template(r.s, 0), 1);
        for (i = 0; i < CUBE; ++i) r.x[2][i] = 0, r.x[3][i] = 1;
        for (i = 0; i < 5; ++i) view[i] = floats(CUBE);
        for (i = 0; i < 4; ++i) { /* slots 0 and 1, template and modal view */
            const double share = drawn_mask(&r, (uint32_t)(i / 2), i % 2, view[i]);
            const int64_t dim[3] = { EDGE, EDGE, EDGE };
            if (form == BMVP_MASK_BLOCKS) CHECK(share == 0.75 && kept_blocks(view[i], dim, 8) == 16);
            else CHECK(share >= 0.75 && share < 0.75 + 512.0 / CUBE && kept_blocks(view[i], dim, 8) == -1);
        }
        (void)drawn_mask(&r, 0, 0, view[4]);
        CHECK(memcmp(view[0], view[4], CUBE * sizeof(float)) == 0); /* the same in the same step */
        CHECK(bmvp_ssl_step(r.s, r.item, 1, 0, NULL) == BMVP_OK);
        bmvp_fill(r.c, bmvp_ssl_template(r.s, 0), 1);
        (void)drawn_mask(&r, 0, 0, view[4]);
        for (i = 0; i < 5; ++i)
            for (j = 0; j < i; ++j) CHECK(memcmp(view[i], view[j], CUBE * sizeof(float)) != 0);
        check_context(r.c);
        for (i = 0; i < 5; ++i) free(view[i]);
        rig_end(&r);
    }
}

/* Losses of a step are those of its passes together, whether or not they were asked for at once; a loaded run takes its steps again. */
static void test_losses_of_steps(void)
{
    bmvp_ssl_losses part[2], all, again;
    char path[256];
    bmvp_error err;
    rig r;
    int i;
    rig_config(&r, "fast");
    if (!rig_begin(&r, NULL)) return;
    memset(&err, 0, sizeof err);
    temporary(path, sizeof path, "losses");
    CHECK(bmvp_ssl_losses_of(r.s, 0, &all) == BMVP_E_ARG);
    bmvp_clear_error(r.c);
    for (i = 0; i < 2; ++i) CHECK(bmvp_ssl_accumulate(r.s, &r.item[i], 1, &part[i]) == BMVP_OK);
    CHECK(bmvp_ssl_update(r.s, 1e-3, &part[1]) == BMVP_OK && bmvp_ssl_losses_of(r.s, 0, &all) == BMVP_OK);
    CHECK(all.total == part[0].total + part[1].total && all.md == part[0].md + part[1].md && all.grad_norm == part[1].grad_norm);
    check_report(!bmvp_ssl_save(r.s, path, NULL, &err), __FILE__, __LINE__, "%s", err.message);
    for (i = 0; i < 2; ++i) {
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, i ? &again : NULL) == BMVP_OK && bmvp_ssl_losses_of(r.s, 1, i ? &again : &all) == BMVP_OK);
        CHECK(bmvp_ssl_load(r.s, path, &err) == BMVP_OK);
        CHECK(bmvp_ssl_losses_of(r.s, 1, &part[0]) == BMVP_E_ARG);
        bmvp_clear_error(r.c);
    }
    CHECK(all.total > 0 && again.total == all.total && again.grad_norm == all.grad_norm);
    remove(path);
    rig_end(&r);
}

/* A step after looking is the same step. */
static void test_look_leaves_no_trace(void)
{
    bmvp_ssl_preview look;
    bmvp_ssl_losses la, lb;
    float *rec = floats(CUBE);
    rig a, b;
    rig_config(&a, "fast");
    rig_config(&b, "fast");
    memset(&look, 0, sizeof look);
    look.rec_template = rec;
    if (rig_begin(&a, NULL) && rig_begin(&b, NULL)) {
        CHECK(bmvp_ssl_look(b.s, &b.item[0], &look) == BMVP_OK);
        CHECK(bmvp_ssl_step(a.s, a.item, 2, 1e-3, &la) == BMVP_OK &&
              bmvp_ssl_step(b.s, b.item, 2, 1e-3, &lb) == BMVP_OK);
        CHECK(la.total == lb.total);
        check_equal_runs(a.s, b.s, "after looking");
    }
    rig_end(&a);
    rig_end(&b);
    free(rec);
}

/* >>steps
 * ---------------------------------------------------------------------------------------------------------------- */

/* The exact mean over a case's modalities: gradient of the step = mean of the gradients of single passes. */
static void test_all_modalities_is_the_mean(void)
{
    bmvp_ssl_losses one, sum[2];
    const bmvp_state_list *l;
    float *mean = NULL;
    int64_t n, k;
    double total = 0;
    rig r;
    int i, m;
    for (m = 0; m < 3; ++m) { /* two single passes, then both with half the weight */
        rig_config(&r, "paper");
        if (!rig_begin(&r, NULL)) return;
        l = bmvp_ssl_state(r.s);
        for (i = 0, n = 0; i < l->n; ++i) n += l->item[i].t->numel;
        if (!mean) mean = floats(n);
        r.item[2].modality = 1; /* items 0, 1 are one modality of two cases, 2, 3 the other */
        if (m < 2) CHECK(bmvp_ssl_accumulate(r.s, &r.item[2 * m], 2, &one) == BMVP_OK);
        for (i = 0; i < 4 && m == 2; ++i) r.item[i].weight = 0.25;
        for (i = 0; i < 2 && m == 2; ++i) CHECK(bmvp_ssl_accumulate(r.s, &r.item[2 * i], 2, &sum[i]) == BMVP_OK);
        check_context(r.c);
        if (m < 2) total += one.total / 2;
        for (i = 0, n = 0; i < l->n; n += l->item[i].t->numel, ++i)
            if (bmvp_has_grad(l->item[i].t)) {
                if (m < 2)
                    for (k = 0; k < l->item[i].t->numel; ++k) mean[n + k] += 0.5f * l->item[i].t->g[k];
                else if (strcmp(l->item[i].name, zero_gradient) != 0)
                    CHECK_CLOSE(l->item[i].name, l->item[i].t->g, mean + n, l->item[i].t->numel, 1e-4);
            }
        rig_end(&r);
    }
    CHECK_NEAR(sum[0].total + sum[1].total, total, 1e-6 * total);
    free(mean);
}

static void test_accumulation(void)
{
    bmvp_ssl_losses loss;
    bmvp_error err;
    char path[400];
    float *before, *middle;
    rig r, once;
    int i;
    temporary(path, sizeof path, "pending");
    rig_config(&r, "paper");
    r.cfg.update_every = 2;
    r.cfg.optimizer = 1;
    r.cfg.weight_decay = 0;
    rig_config(&once, "paper");
    once.cfg.optimizer = 1;
    once.cfg.weight_decay = 0;
    if (rig_begin(&r, NULL) && rig_begin(&once, NULL)) {
        const bmvp_state_list *l = bmvp_ssl_state(r.s), *m = bmvp_ssl_state(once.s);
        before = copy_state(l);
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 0.01, &loss) == BMVP_OK && is_nan(loss.grad_norm));
        CHECK(count_changed(l, before) == 0 && bmvp_ssl_steps(r.s) == 1);
        CHECK(bmvp_ssl_save(r.s, path, NULL, &err) == BMVP_E_STATE); /* gradients would be lost */
        CHECK_HOLDS(err.message, "update_every 2");
        CHECK(access(path, F_OK) != 0);
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 0.01, &loss) == BMVP_OK && loss.grad_norm > 0);
        CHECK(count_changed(l, before) > 20 && bmvp_ssl_steps(r.s) == 2);
        CHECK(bmvp_ssl_step(once.s, once.item, 2, 0.02, &loss) == BMVP_OK); /* the sum of two equal gradients */
        middle = copy_state(m);
        for (i = 0; i < l->n; ++i)
            if (l->item[i].trained)
                CHECK_CLOSE(l->item[i].name, l->item[i].t->x, m->item[i].t->x, l->item[i].t->numel, 1e-5);
        check_context(r.c);
        free(before);
        free(middle);
    }
    rig_end(&r);
    rig_end(&once);
}

static void test_clipping(void)
{
    bmvp_ssl_losses loss;
    double square = 0;
    int64_t n = 0, k;
    rig r;
    int i;
    rig_config(&r, "paper");
    r.cfg.optimizer = 1;
    r.cfg.weight_decay = 0;
    r.cfg.template_lr_scale = 1;
    r.cfg.clip = 0.01;
    if (rig_begin(&r, NULL)) {
        const bmvp_state_list *l = bmvp_ssl_state(r.s);
        float *before = copy_state(l);
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1, &loss) == BMVP_OK && loss.grad_norm > 0.01);
        for (i = 0; i < l->n; n += l->item[i].t->numel, ++i)
            for (k = 0; l->item[i].trained && k < l->item[i].t->numel; ++k) {
                const double d = (double)l->item[i].t->x[k] - (double)before[n + k];
                square += d * d;
            }
        CHECK_NEAR(sqrt(square), 0.01, 1e-4);
        free(before);
    }
    rig_end(&r);
}

/* In `release` the optimizer sees zeros for templates that were not in the batch: they decay. */
static void test_template_update_all(void)
{
    bmvp_ssl_losses loss;
    rig r;
    int all;
    for (all = 0; all < 2; ++all) {
        rig_config(&r, "paper");
        r.cfg.template_update_all = all;
        r.cfg.weight_decay = 0.5;
        if (rig_begin(&r, NULL)) {
            const float was = bmvp_ssl_template(r.s, 2)->x[7];
            CHECK(bmvp_ssl_step(r.s, r.item, 2, 0.1, &loss) == BMVP_OK);
            CHECK_NEAR((double)bmvp_ssl_template(r.s, 2)->x[7], (double)was * (all ? 0.95 : 1), 1e-7);
        }
        rig_end(&r);
    }
}

/* A step that cannot be used says so and leaves the parameters alone. */
static void test_not_finite(void)
{
    bmvp_ssl_losses loss;
    rig r;
    rig_config(&r, "paper");
    if (rig_begin(&r, NULL)) {
        float *before = copy_state(bmvp_ssl_state(r.s));
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 0, &loss) == BMVP_OK);
        r.x[1][77] = (float)NAN;
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, &loss) == BMVP_E_STATE);
        CHECK_HOLDS(bmvp_error_of(r.c)->message, "step 1");
        CHECK(count_changed(bmvp_ssl_state(r.s), before) == 0);
        free(before);
    }
    rig_end(&r);
}

static void test_schedule_of_run(void)
{
    bmvp_ssl_losses loss;
    rig r;
    rig_config(&r, "fast");
    r.cfg.lr = 0.01;
    r.cfg.warmup = 1;
    r.cfg.lr_floor = 1e-3;
    if (rig_begin(&r, NULL)) {
        CHECK_NEAR(bmvp_ssl_lr(r.s, 11), 0.005, 1e-12);
        CHECK(bmvp_ssl_step(r.s, r.item, 1, 0, &loss) == BMVP_OK);
        CHECK_NEAR(bmvp_ssl_lr(r.s, 11), 0.01, 1e-12);
        CHECK(bmvp_ssl_step(r.s, r.item, 1, 0, &loss) == BMVP_OK);
        CHECK_NEAR(bmvp_ssl_lr(r.s, 11), 0.001 + 0.009 * 0.5 * (1 + cos(3.14159265358979 / 10)), 1e-9);
        bmvp_ssl_config_of(r.s)->half_period = 1;
        CHECK_NEAR(bmvp_ssl_lr(r.s, 11), 0.001 + 0.009 * 0.5 * (1 + cos(3.14159265358979 / 5)), 1e-9);
    }
    rig_end(&r);
}

/* >>fixture: ten steps of the whole method against PyTorch in double
 * ------------------------------------------------------- */

enum { FIXTURE_STEPS = 10 };

static void check_fixture_tensor(bmvp_ckpt *f, const char *kind, const bmvp_state *s, const float *ours, double tol,
                                 double floor)
{
    char name[200];
    const char *text;
    fixture_tensor want;
    float *torch = floats(s->t->numel);
    double square = 0, rms, worst = 0;
    int64_t step, i, n = 0;
    snprintf(name, sizeof name, "%s.%s", kind, s->stacked ? "template" : s->name);
    text = fixture_text(f, "%s.step", name);
    want = fixture_load(f, "%s", name);
    step = text ? strtoll(text, NULL, 10) : 1;
    if (s->stacked) memcpy(torch, ours, (size_t)s->t->numel * sizeof *torch); /* stored in our order */
    else bmvp_state_to_torch(s, ours, torch);
    if (check_report(want.x && text, __FILE__, __LINE__, "%s is missing", name)) {
        for (i = 0; i < want.numel; ++i) square += (double)want.x[i] * (double)want.x[i];
        rms = sqrt(square / (double)want.numel);
        for (i = 0; i < s->t->numel; i += step, ++n) {
            const double used = fabs((double)torch[i] - (double)want.x[n]) / (tol * rms + floor);
            worst = used <= worst ? worst : used == used ? used : HUGE_VAL;
        }
        check_report(worst <= 1 && n == want.numel, __FILE__, __LINE__, "%s: %.0f%% of the allowance", name,
                     100 * worst);
        if (worst <= 1 && worst > check_all.most_used) {
            check_all.most_used = worst;
            snprintf(check_all.most_used_by, sizeof check_all.most_used_by, "%s", name);
        }
    }
    free(torch);
    free(want.x);
}

static void check_fixture_gradients(bmvp_ckpt *f, const rig *r)
{
    const bmvp_state_list *l = bmvp_ssl_state(r->s);
    float *g;
    int i, n = 0;
    for (i = 0; i < l->n; ++i) {
        const bmvp_state *e = &l->item[i];
        if (strcmp(e->name, "encoder.uniformer.patch_embed1.proj.weight") != 0 &&
            strcmp(e->name, "decoder.out_1.conv.conv.weight") != 0 &&
            strcmp(e->name, "encoder.uniformer.blocks3.0.attn.qkv.weight") != 0 && !(e->stacked && e->part == 1))
            continue;
        g = device_copy(r->c, e->t, 1);
        if (CHECK(g != NULL)) check_fixture_tensor(f, "grad", e, g, 1e-3, 0);
        free(g);
        ++n;
    }
    CHECK(n == 4);
}

/* AdamW turns the rounding noise of a zero gradient into whole steps: ten steps of 3e-4 are allowed where that is so.
 */
static void check_fixture_end(bmvp_ckpt *f, const rig *r)
{
    const bmvp_state_list *l = bmvp_ssl_state(r->s);
    float *x;
    int i, n = 0;
    for (i = 0; i < l->n; ++i) {
        const bmvp_state *e = &l->item[i];
        const int noise = formula_ends_with(e->name, "qkv.bias") || strcmp(e->name, zero_gradient) == 0;
        if ((e->stacked && e->part != 1) || e->torch_rank == 0 || strstr(e->name, "conv_block") ||
            strstr(e->name, "proj1."))
            continue;
        x = device_copy(r->c, e->t, 0);
        if (CHECK(x != NULL))
            check_fixture_tensor(f, "after", e, x, e->trained ? 1e-4 : 1e-3, !e->trained ? 0 : noise ? 10 * 3e-4 * 1.1 : 3e-5);
        free(x);
        ++n;
    }
    CHECK(n == 109);
}

static void test_ten_steps(void)
{
    static const char *const names[2] = { "flair", "t1" };
    bmvp_ckpt *f = fixture_open("nets/pretrain_tiny.safetensors");
    const int64_t dim[3] = { EDGE, EDGE, EDGE };
    int64_t whole[3], start[2][3], grid[3];
    fixture_tensor curve;
    bmvp_ssl_losses have;
    rig r;
    int i, step;
    if (!f) return;
    rig_config(&r, "release");
    r.net.depth[2] = 2;
    CHECK(fixture_numbers(fixture_text(f, "template"), whole, 3) == 3); /* X, Y, Z */
    CHECK(fixture_numbers(fixture_text(f, "start0"), start[0], 3) == 3 &&
          fixture_numbers(fixture_text(f, "start1"), start[1], 3) == 3);
    for (i = 0; i < 3; ++i) grid[i] = whole[2 - i];
    curve = fixture_load(f, "losses");
    if (!CHECK(curve.x && curve.numel == 4 * FIXTURE_STEPS) || !rig_begin(&r, NULL)) return;
    bmvp_ssl_destroy(r.s);
    r.s = bmvp_ssl_create(r.c, &r.net, &r.cfg, 2, names, grid);
    if (CHECK(r.s && formula_state(r.c, bmvp_ssl_state(r.s), 0))) {
        for (i = 0; i < 2; ++i) {
            int a;
            formula_volume(i, 1, dim, r.x[i]);
            CHECK(formula_mask(i, 0, EDGE, r.mask[2 * i]) && formula_mask(2 + i, 0, EDGE, r.mask[2 * i + 1]));
            r.item[i].modality = 1;
            for (a = 0; a < 3; ++a) r.item[i].template_start[a] = start[i][2 - a];
        }
        for (step = 0; step < FIXTURE_STEPS; ++step) {
            const float *want = curve.x + 4 * step;
            if (!CHECK(bmvp_ssl_accumulate(r.s, r.item, 2, &have) == BMVP_OK)) break;
            if (step == 0) check_fixture_gradients(f, &r);
            CHECK_NEAR(have.md / (double)want[0], 1, step ? 1e-4 : 1e-5);
            CHECK_NEAR(have.cmr / (double)want[1], 1, step ? 1e-4 : 1e-5);
            CHECK_NEAR(have.cl / (double)want[2], 1, step ? 1e-4 : 1e-5);
            CHECK_NEAR(have.total / (double)want[3], 1, step ? 1e-4 : 1e-5);
            CHECK(bmvp_ssl_update(r.s, 3e-4, &have) == BMVP_OK);
        }
        check_context(r.c);
        check_fixture_end(f, &r);
    }
    free(curve.x);
    rig_end(&r);
    bmvp_ckpt_close(f);
}

/* >>bits
 * -------------------------------------------------------------------------------------------------------------------
 */

/* Draws, crops and masks of step `step`, as a program does it. */
static void free_running_step(rig *r, int64_t total)
{
    static const bmvp_ssl_case cases[3] = { { 0x7, { 32, 32, 32 } }, { 0x3, { 32, 32, 32 } }, { 0x4, { 32, 32, 32 } } };
    const int64_t step = bmvp_ssl_steps(r->s);
    bmvp_ssl_item item[MAX_BATCH];
    bmvp_ssl_draw d[MAX_BATCH * 3];
    bmvp_ssl_losses loss;
    int64_t order[3], volume[3] = { 32, 32, 32 };
    int i, n = bmvp_ssl_sample(&r->cfg, cases, 3, 3, step, order, d);
    bmvp_ssl_set_epoch(r->s, bmvp_ssl_epoch_of(&r->cfg, 3, step));
    memset(item, 0, sizeof item);
    for (i = 0; i < n; ++i) {
        item[i].x = r->x[(d[i].index + d[i].modality) % MAX_BATCH];
        item[i].other = d[i].other >= 0 ? r->other[(d[i].index + d[i].other) % MAX_BATCH] : NULL;
        item[i].modality = d[i].modality;
        item[i].slot = d[i].slot;
        item[i].weight = d[i].weight;
        bmvp_template_place(d[i].crop, volume, rig_grid, item[i].template_start);
    }
    check_report(bmvp_ssl_step(r->s, item, n, bmvp_ssl_lr(r->s, total), &loss) == BMVP_OK, __FILE__, __LINE__,
                 "step %d: %s", (int)step, bmvp_error_of(r->c)->message);
}

static void same_with_threads(const char *preset_name, const char *net_name)
{
    bmvp_config ctx = bmvp_config_default();
    rig r[3];
    int i, k, ok = 1;
    for (i = 0; i < 3; ++i) {
        rig_config(&r[i], preset_name);
        if (net_name) CHECK(bmvp_net_preset(net_name, &r[i].net));
        if (r[i].net.kind == BMVP_NET_UNET3D)
            r[i].cfg.crop = EDGE / 2; /* saves time: its first level has the input's size */
        ctx.threads = i + 1;
        ok = rig_begin(&r[i], &ctx) && ok;
        CHECK(bmvp_threads(r[i].c) == i + 1);
        for (k = 0; k < 3 && ok; ++k) free_running_step(&r[i], 10);
    }
    if (ok) {
        check_equal_runs(r[0].s, r[1].s, "2 threads");
        check_equal_runs(r[0].s, r[2].s, "3 threads");
    }
    for (i = 0; i < 3; ++i) rig_end(&r[i]);
}

static void test_threads_paper(void) { same_with_threads("paper", NULL); }
static void test_threads_fast(void) { same_with_threads("fast", "uniformer_tiny"); }
static void test_threads_release_unet3d(void) { same_with_threads("release", "unet3d_tiny"); }

static int same_files(const char *a, const char *b)
{
    FILE *f = fopen(a, "rb"), *g = fopen(b, "rb");
    int x = 0, y = 0;
    int64_t n = 0;
    while (f && g && x == y && x != EOF) {
        x = fgetc(f);
        y = fgetc(g);
        ++n;
    }
    if (f) fclose(f);
    if (g) fclose(g);
    return f && g && x == y && n > 1000;
}

/* 20 steps = 10 steps, file, another context, 10 steps; bit for bit, and so are the files written at the end. */
static void resume(const char *preset_name, const char *net_name, int optimizer)
{
    char half[400], end[2][400];
    bmvp_error err;
    rig r[3];
    int i, k;
    temporary(half, sizeof half, "half");
    temporary(end[0], sizeof end[0], "end0");
    temporary(end[1], sizeof end[1], "end1");
    memset(&err, 0, sizeof err);
    for (i = 0; i < 3; ++i) {
        rig_config(&r[i], preset_name);
        if (net_name) CHECK(bmvp_net_preset(net_name, &r[i].net));
        if (r[i].net.kind == BMVP_NET_UNET3D)
            r[i].cfg.crop = EDGE / 2; /* saves time: its first level has the input's size */
        r[i].cfg.optimizer = optimizer;
        r[i].cfg.warmup = 3;
        r[i].cfg.lr = 1e-3;
        r[i].cfg.clip = 1;
        if (!rig_begin(&r[i], NULL)) return;
    }
    for (k = 0; k < 20; ++k) free_running_step(&r[0], 20);
    for (k = 0; k < 10; ++k) free_running_step(&r[1], 20);
    check_report(bmvp_ssl_save(r[1].s, half, NULL, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
    free_running_step(&r[2], 20); /* whatever was there before is replaced */
    check_report(bmvp_ssl_load(r[2].s, half, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
    check_equal_runs(r[1].s, r[2].s, "after loading");
    CHECK(bmvp_ssl_steps(r[2].s) == 10 && bmvp_ssl_trainer(r[2].s)->epoch == bmvp_ssl_trainer(r[1].s)->epoch);
    for (k = 0; k < 10; ++k) free_running_step(&r[2], 20);
    check_equal_runs(r[0].s, r[2].s, "resumed");
    for (i = 0; i < 2; ++i) CHECK(bmvp_ssl_save(r[2 * i].s, end[i], NULL, &err) == BMVP_OK);
    CHECK(same_files(end[0], end[1]) && !same_files(end[0], half));
    for (i = 0; i < 3; ++i) rig_end(&r[i]);
    remove(half);
    remove(end[0]);
    remove(end[1]);
}

static void test_resume_fast(void) { resume("fast", NULL, 0); }
static void test_resume_release(void) { resume("release", "uniformer_tiny", 0); }
static void test_resume_sgd_unet3d(void) { resume("paper", "unet3d_tiny", 1); }

/* >>memory
 * -------------------------------------------------------------------------------------------------------------------
 */

static void test_plan(void)
{
    static const char *const net[3] = { "uniformer_tiny", "unet3d_tiny", "uniformer_tiny" };
    static const char *const preset_name[3] = { "paper", "release", "fast" };
    bmvp_memory plan, real;
    bmvp_error err;
    rig r;
    int i;
    for (i = 0; i < 3; ++i) {
        rig_config(&r, preset_name[i]);
        CHECK(bmvp_net_preset(net[i], &r.net));
        r.net.plain_decoder = i == 2;
        memset(&err, 0, sizeof err);
        check_report(bmvp_ssl_plan(NULL, &r.net, &r.cfg, 3, rig_names, rig_grid, &plan, &err) == BMVP_OK, __FILE__,
                     __LINE__, "%s", err.message);
        if (rig_begin(&r, NULL)) {
            CHECK(bmvp_reserve(r.c, plan.step_peak) == BMVP_OK);
            free_running_step(&r, 10);
            CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, NULL) == BMVP_OK);
            real = bmvp_memory_of(r.c);
            check_report(real.step_peak == plan.step_peak && real.persistent == plan.persistent, __FILE__, __LINE__,
                         "%s %s: planned %lld + %lld bytes, used %lld + %lld", preset_name[i], net[i],
                         (long long)plan.persistent, (long long)plan.step_peak, (long long)real.persistent,
                         (long long)real.step_peak);
        }
        rig_end(&r);
    }
    rig_config(&r, "paper");
    r.cfg.crop = 40;
    CHECK(bmvp_ssl_plan(NULL, &r.net, &r.cfg, 3, rig_names, rig_grid, &plan, &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "crop 40");
}

typedef struct counter {
    int64_t calls, fail_at, live;
} counter;
static void *counter_alloc(size_t size, void *user)
{
    counter *n = (counter *)user;
    void *p = ++n->calls == n->fail_at ? NULL : malloc(size);
    n->live += p != NULL;
    return p;
}
static void counter_free(void *p, void *user)
{
    --((counter *)user)->live;
    free(p);
}

/* Creation, two steps, file written and read; call number fail_at of the allocator fails. Returns the status. */
static bmvp_status short_of_memory(const rig *like, counter *n, int64_t fail_at, const char *path)
{
    bmvp_config ctx = bmvp_config_default();
    bmvp_ssl_losses loss;
    bmvp_status st = BMVP_OK;
    bmvp_error err;
    bmvp_ctx *c;
    bmvp_ssl *s;
    int k;
    memset(n, 0, sizeof *n);
    n->fail_at = fail_at;
    ctx.allocator.alloc = counter_alloc;
    ctx.allocator.free = counter_free;
    ctx.allocator.user = n;
    ctx.threads = 1;
    memset(&err, 0, sizeof err);
    c = bmvp_create(&ctx, &err);
    if (!c) return err.status;
    s = bmvp_ssl_create(c, &like->net, &like->cfg, 3, rig_names, rig_grid);
    if (!s) st = bmvp_error_of(c)->status;
    for (k = 0; k < 2 && !st; ++k) {
        st = bmvp_ssl_step(s, like->item, 2, 1e-3, &loss);
        CHECK(st == bmvp_error_of(c)->status);
    }
    if (!st) st = bmvp_ssl_save(s, path, NULL, &err);
    if (!st) st = bmvp_ssl_load(s, path, &err);
    bmvp_ssl_destroy(s);
    bmvp_destroy(c);
    return st;
}

static void test_allocation_failures(void)
{
    char path[400];
    counter n;
    int64_t calls, k;
    rig r;
    temporary(path, sizeof path, "oom");
    rig_config(&r, "release");
    if (rig_begin(&r, NULL)) {
        CHECK(short_of_memory(&r, &n, 0, path) == BMVP_OK && n.live == 0);
        calls = n.calls;
        CHECK(calls > 100);
        for (k = 1; k <= calls; k += k < 20 || k > calls - 20 ? 1 : 1 + calls / 60) {
            const bmvp_status st = short_of_memory(&r, &n, k, path);
            check_report(st == BMVP_E_OOM, __FILE__, __LINE__, "call %d of %d: status '%s'", (int)k, (int)calls,
                         bmvp_status_text(st));
            check_report(n.live == 0, __FILE__, __LINE__, "call %d of %d: %d blocks leaked", (int)k, (int)calls,
                         (int)n.live);
        }
    }
    rig_end(&r);
    remove(path);
}

/* >>refused
 * ------------------------------------------------------------------------------------------------------------------ */

static void check_refused(const bmvp_net_config *net, const bmvp_ssl_config *cfg, int n, const char *const *names,
                          const char *part)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    CHECK(bmvp_ssl_create(c, net, cfg, n, names, rig_grid) == NULL && bmvp_error_of(c)->status == BMVP_E_ARG);
    CHECK_HOLDS(bmvp_error_of(c)->message, part);
    bmvp_destroy(c);
}

static void test_refused(void)
{
    static const char *const twice[2] = { "t1", "T1n" }, *const order[2] = { "t2", "t1" },
                             *const unknown[2] = { "t1", "seg" };
    rig r;
    rig_config(&r, "paper");
    check_refused(&r.net, &r.cfg, 2, twice, "twice");
    check_refused(&r.net, &r.cfg, 2, order, "'t1'");
    check_refused(&r.net, &r.cfg, 2, unknown, "'seg'");
    check_refused(&r.net, &r.cfg, 0, unknown, "not 0");
    check_refused(&r.net, &r.cfg, 9, rig_names, "not 9");
    r.cfg.crop = 40;
    check_refused(&r.net, &r.cfg, 3, rig_names, "multiple of 16");
    r.cfg.crop = EDGE;
    r.cfg.weight_cmr = r.cfg.weight_md = r.cfg.weight_cl = 0;
    check_refused(&r.net, &r.cfg, 3, rig_names, "all three tasks are off");
    rig_config(&r, "paper");
    r.net.head_dim = 7;
    check_refused(&r.net, &r.cfg, 3, rig_names, "head size 7");
}

static void test_bad_items(void)
{
    bmvp_ssl_losses loss;
    rig r;
    rig_config(&r, "paper");
    if (rig_begin(&r, NULL)) {
        r.item[1].modality = 3;
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, &loss) == BMVP_E_ARG);
        CHECK_HOLDS(bmvp_error_of(r.c)->message, "modality 3");
        CHECK(bmvp_ssl_update(r.s, 1e-3, &loss) == BMVP_E_ARG); /* stays until cleared */
        bmvp_clear_error(r.c);
        r.item[1].modality = 1;
        CHECK(bmvp_ssl_step(r.s, r.item, 0, 1e-3, &loss) == BMVP_E_ARG);
        bmvp_clear_error(r.c);
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, &loss) == BMVP_OK && loss.total > 0);
    }
    rig_end(&r);
}

/* >>checkpoints
 * --------------------------------------------------------------------------------------------------------------- */

static void check_load_fails(const rig *from, const char *path, const char *change, const char *part)
{
    static const char *const two[2] = { "t1", "t2" };
    bmvp_net_config net = from->net;
    bmvp_ssl_config cfg = from->cfg;
    int64_t grid[3] = { 36, 40, 44 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_error err;
    bmvp_ssl *s;
    int n = 3;
    if (strcmp(change, "network") == 0) net.dim[1] = 24;
    if (strcmp(change, "kind") == 0) CHECK(bmvp_net_preset("unet3d_tiny", &net));
    if (strcmp(change, "grid") == 0) grid[0] = 35;
    if (strcmp(change, "modalities") == 0) n = 2;
    s = bmvp_ssl_create(c, &net, &cfg, n, n == 2 ? two : rig_names, grid);
    memset(&err, 0, sizeof err);
    if (CHECK(s != NULL)) {
        float *before = copy_state(bmvp_ssl_state(s));
        CHECK(bmvp_ssl_load(s, path, &err) != BMVP_OK);
        CHECK_HOLDS(err.message, part);
        CHECK_HOLDS(err.message, path);
        CHECK(count_changed(bmvp_ssl_state(s), before) == 0);
        free(before);
    }
    bmvp_ssl_destroy(s);
    bmvp_destroy(c);
}

static void test_other_checkpoints(void)
{
    char path[400];
    bmvp_error err;
    rig r;
    temporary(path, sizeof path, "other");
    rig_config(&r, "paper");
    if (rig_begin(&r, NULL)) {
        CHECK(bmvp_ssl_save(r.s, path, NULL, &err) == BMVP_OK);
        check_load_fails(&r, path, "network",
                         "'encoder.uniformer.patch_embed2.proj.weight' has shape (16, 8, 2, 2, 2)");
        check_load_fails(&r, path, "kind", "'conv1a.weight' is missing");
        check_load_fails(&r, path, "grid", "'rep_template' has shape (3, 44, 40, 36)");
        check_load_fails(&r, path, "modalities", "'rep_template'");
        remove(path);
        check_load_fails(&r, path, "nothing", "");
    }
    rig_end(&r);
}

static void test_inspect_ours(void)
{
    static const char *const extra[] = { "note", "hello", NULL };
    char path[400];
    const char *name, *meaning;
    char have[64], want[64];
    bmvp_ssl_info info;
    bmvp_error err;
    bmvp_ckpt *f = NULL;
    rig r;
    int i;
    temporary(path, sizeof path, "inspect");
    rig_config(&r, "fast");
    r.cfg.mask_ratio = 0.62;
    r.cfg.seed = 2147483647;
    if (rig_begin(&r, NULL)) {
        for (i = 0; i < 3; ++i) CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, NULL) == BMVP_OK);
        CHECK(bmvp_ssl_save(r.s, path, extra, &err) == BMVP_OK);
        check_report(bmvp_ssl_inspect(path, &info, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        CHECK(info.step == 3 && info.n_modalities == 3 && memcmp(info.grid, rig_grid, sizeof rig_grid) == 0);
        for (i = 0; i < 3; ++i) CHECK(info.names[i] && strcmp(info.names[i], rig_names[i]) == 0);
        CHECK(memcmp(info.net.dim, r.net.dim, sizeof r.net.dim) == 0 &&
              memcmp(info.net.depth, r.net.depth, sizeof r.net.depth) == 0);
        CHECK(info.net.head_dim == 8 && info.net.kind == BMVP_NET_UNIFORMER && strcmp(info.cfg.preset, "fast") == 0);
        for (i = 0; bmvp_ssl_field(&r.cfg, i, &name, &meaning, want, sizeof want); ++i) {
            (void)bmvp_ssl_field(&info.cfg, i, &name, &meaning, have, sizeof have);
            check_report(strcmp(have, want) == 0, __FILE__, __LINE__, "%s is %s, should be %s", name, have, want);
        }
        if (CHECK(bmvp_ckpt_open(path, NULL, &f, &err) == BMVP_OK)) {
            const bmvp_ckpt_meta *note = bmvp_ckpt_find_meta(f, "", "note");
            CHECK(note && strcmp(note->value, "hello") == 0);
            CHECK(bmvp_ckpt_find(f, "state_dict", "rep_template") >= 0 &&
                  bmvp_ckpt_find(f, "exp_avg_sq", "rep_template") >= 0);
        }
        bmvp_ckpt_close(f);
    }
    rig_end(&r);
    remove(path);
}

/* The released layout: .pt, group state_dict, names with "module.", further entries beside. */
static void write_released(bmvp_ckpt *from, const char *path)
{
    bmvp_ckpt_writer *w = NULL;
    bmvp_error err;
    char name[256];
    int i;
    CHECK(bmvp_ckpt_writer_begin(path, BMVP_CKPT_PT, NULL, &w, &err) == BMVP_OK);
    CHECK(bmvp_ckpt_writer_meta_int(w, "", "current_epoch", 17, &err) == BMVP_OK);
    for (i = 0; i < from->n_entries; ++i) {
        if (strcmp(from->entry[i].group, "state_dict") != 0) continue;
        snprintf(name, sizeof name, "module.%s", from->entry[i].name);
        CHECK(bmvp_ckpt_writer_add(w, "state_dict", name, from->entry[i].dtype, from->entry[i].rank, from->entry[i].dim,
                                   &err) == BMVP_OK);
    }
    for (i = 0; i < from->n_entries; ++i) {
        void *data = malloc((size_t)from->entry[i].bytes + 1);
        if (strcmp(from->entry[i].group, "state_dict") == 0) {
            CHECK(data && bmvp_ckpt_load(from, i, data, from->entry[i].bytes, &err) == BMVP_OK);
            CHECK(bmvp_ckpt_writer_data(w, data, from->entry[i].bytes, &err) == BMVP_OK);
        }
        free(data);
    }
    check_report(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
}

static void test_inspect_released(void)
{
    char ours[400], theirs[400];
    bmvp_ssl_info info;
    bmvp_error err;
    bmvp_ckpt *f = NULL;
    rig r, fresh;
    int i;
    temporary(ours, sizeof ours, "ours");
    temporary(theirs, sizeof theirs, "pt");
    rig_config(&r, "release");
    rig_config(&fresh, "release");
    fresh.cfg.seed = 5;
    if (rig_begin(&r, NULL) && rig_begin(&fresh, NULL)) {
        const bmvp_state_list *a = bmvp_ssl_state(r.s), *b = bmvp_ssl_state(fresh.s);
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, NULL) == BMVP_OK);
        CHECK(bmvp_ssl_save(r.s, ours, NULL, &err) == BMVP_OK && bmvp_ckpt_open(ours, NULL, &f, &err) == BMVP_OK);
        write_released(f, theirs);
        check_report(bmvp_ssl_inspect(theirs, &info, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        CHECK(info.step == 0 && info.n_modalities == 3 && memcmp(info.grid, rig_grid, sizeof rig_grid) == 0);
        for (i = 0; i < 3; ++i) CHECK(info.names[i] && strcmp(info.names[i], bmvp_modality_name(i)) == 0);
        CHECK(memcmp(info.net.dim, r.net.dim, sizeof r.net.dim) == 0 &&
              memcmp(info.net.depth, r.net.depth, sizeof r.net.depth) == 0);
        CHECK(info.net.head_dim == 8 && info.net.mlp_ratio == 4 && info.net.in_channels == 1);
        CHECK(strcmp(info.cfg.preset, "release") == 0 && info.cfg.template_x == 44 && info.cfg.template_y == 40 &&
              info.cfg.template_z == 36);
        check_report(bmvp_ssl_load(fresh.s, theirs, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        for (i = 0; i < a->n; ++i) {
            CHECK(a->item[i].counter == b->item[i].counter);
            if (a->item[i].torch_rank > 0)
                CHECK_SAME(a->item[i].name, b->item[i].t->x, a->item[i].t->x, a->item[i].t->numel);
        }
        CHECK(bmvp_ssl_steps(fresh.s) == 0);
        bmvp_ckpt_close(f);
    }
    rig_end(&r);
    rig_end(&fresh);
    CHECK(bmvp_ssl_inspect("/nonexistent/file", &info, &err) == BMVP_E_IO);
    CHECK_HOLDS(err.message, "/nonexistent/file");
    remove(ours);
    remove(theirs);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    if (!device_open()) return check_end();
    CHECK_RUN(test_ten_steps);
    if (DEVICE_IS_GPU) {
        device_close();
        return check_end();
    }
    CHECK_RUN(test_modality_names);
    CHECK_RUN(test_presets);
    CHECK_RUN(test_settings);
    CHECK_RUN(test_mask_blocks);
    CHECK_RUN(test_mask_blocks_distribution);
    CHECK_RUN(test_mask_boxes);
    CHECK_RUN(test_mask_boxes_distribution);
    CHECK_RUN(test_template_place);
    CHECK_RUN(test_sampler_epochs);
    CHECK_RUN(test_sampler_distribution);
    CHECK_RUN(test_sampler_all_modalities);
    CHECK_RUN(test_sampler_shared_slot);
    CHECK_RUN(test_sampler_seed);
    CHECK_RUN(test_losses_from_features);
    CHECK_RUN(test_task_switches);
    CHECK_RUN(test_single_modality);
    CHECK_RUN(test_epochs_of_tasks);
    CHECK_RUN(test_template_gradient);
    CHECK_RUN(test_views);
    CHECK_RUN(test_drawn_masks);
    CHECK_RUN(test_losses_of_steps);
    CHECK_RUN(test_look_leaves_no_trace);
    CHECK_RUN(test_all_modalities_is_the_mean);
    CHECK_RUN(test_accumulation);
    CHECK_RUN(test_clipping);
    CHECK_RUN(test_template_update_all);
    CHECK_RUN(test_not_finite);
    CHECK_RUN(test_schedule_of_run);
    CHECK_RUN(test_threads_paper);
    CHECK_RUN(test_threads_fast);
    CHECK_RUN(test_threads_release_unet3d);
    CHECK_RUN(test_resume_fast);
    CHECK_RUN(test_resume_release);
    CHECK_RUN(test_resume_sgd_unet3d);
    CHECK_RUN(test_plan);
    CHECK_RUN(test_allocation_failures);
    CHECK_RUN(test_refused);
    CHECK_RUN(test_bad_items);
    CHECK_RUN(test_other_checkpoints);
    CHECK_RUN(test_inspect_ours);
    CHECK_RUN(test_inspect_released);
    return check_end();
}
