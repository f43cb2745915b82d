/* test_masks.c - bmvp_ssl.h: names of modalities, settings, masks, template placement, sampler. */
#include "tests/support/small.h"

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

/* The boxes voxel by voxel, as Algorithm 1 says */
static void plain_boxes(float *m, const int64_t d[3], int64_t r, double ratio, bmvp_rng *rng)
{
    int64_t masked = 0, i, at[3], low[3];
    int a, in;
    for (i = 0; i < d[0] * d[1] * d[2]; ++i) m[i] = 0;
    while ((double)masked < ratio * (double)(d[0] * d[1] * d[2])) {
        for (a = 0; a < 3; ++a) low[a] = (int64_t)bmvp_rng_below(rng, (uint32_t)d[a]) - r / 2;
        for (i = 0; i < r * r * r; ++i) {
            at[0] = low[0] + i / (r * r);
            at[1] = low[1] + i / r % r;
            at[2] = low[2] + i % r;
            for (in = 1, a = 0; a < 3; ++a) in = in && at[a] >= 0 && at[a] < d[a];
            if (!in || m[(at[0] * d[1] + at[1]) * d[2] + at[2]] == 1.0f) continue;
            m[(at[0] * d[1] + at[1]) * d[2] + at[2]] = 1;
            ++masked;
        }
    }
}

static void test_mask_boxes(void)
{
    static const struct {
        int64_t dim[3], r;
        double ratio;
    } cases[] = {
        { { 96, 96, 96 }, 8, 0.875 }, { { 32, 32, 32 }, 8, 0.5 }, { { 20, 12, 9 }, 5, 0.7 }, { { 5, 3, 4 }, 8, 0.3 },
        { { 16, 16, 16 }, 8, 0 },     { { 16, 8, 16 }, 3, 1 },    { { 7, 9, 11 }, 1, 0.61 }, { { 1, 1, 1 }, 8, 0.5 },
        { { 19, 21, 1 }, 4, 0.7 },    { { 30, 1, 1 }, 3, 0.6 },   { { 3, 17, 2 }, 20, 1 }, { { 40, 30, 23 }, 17, 0.9 },
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        const int64_t *d = cases[i].dim, n = d[0] * d[1] * d[2], r = cases[i].r;
        const double wanted = cases[i].ratio * (double)n;
        float *a = floats(n), *b = floats(n), *c = floats(n);
        bmvp_rng first = bmvp_rng_make(9, 3, 4, 5), next = bmvp_rng_make(9, 3, 4, 6), plain = first;
        int64_t ones;
        bmvp_mask_boxes(a, d, r, cases[i].ratio, &first);
        bmvp_mask_boxes(c, d, r, cases[i].ratio, &next);
        plain_boxes(b, d, r, cases[i].ratio, &plain);
        ones = count_ones(a, n);
        check_report((double)ones >= wanted && (double)ones < wanted + (double)(r * r * r), __FILE__, __LINE__,
                     "case %d masks %d of %d voxels, should be a share of %g and at most one box more", (int)i,
                     (int)ones, (int)n, cases[i].ratio);
        CHECK(memcmp(a, b, (size_t)n * sizeof *a) == 0 && memcmp(&first, &plain, sizeof first) == 0);
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

int main(int argc, char **argv)
{
    check_begin(argc, argv);
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
    return check_end();
}
