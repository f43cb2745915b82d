/* test_predict.c - the way of an image to the network and back: placement against scipy (full affines), grids,
   orientations, files and memory, missing and blank images, probabilities, settings; memory that fails, is metered, and
   a run that is stopped */
#include "tests/support/inside.h"
#include "tests/support/check.h"
#include "tests/support/fixture.h"
#include <unistd.h>

static char path[2][64]; /* checkpoints: regions of two modalities, exclusive classes */

/* ---- placement
 * --------------------------------------------------------------------------------------------------------- */

static void get16(bmvp_ckpt *f, const char *name, const char *what, double m[16])
{
    char full[64];
    int64_t i;
    bmvp_error err;
    float x[16];
    snprintf(full, sizeof full, "%s.%s", name, what);
    CHECK(bmvp_ckpt_load_f32(f, bmvp_ckpt_find(f, NULL, full), 0, 16, x, &err) == BMVP_OK);
    for (i = 0; i < 16; ++i) m[i] = (double)x[i];
}

static void test_place(bmvp_ckpt *f, const char *name)
{
    fixture_tensor map = fixture_load(f, "%s.prepared", name), content = fixture_load(f, "%s.content", name);
    fixture_tensor size = fixture_load(f, "%s.size", name), want = fixture_load(f, "%s.expected", name);
    double to[16], from[16], related[16];
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_prepared_images prepared;
    bmvp_prediction out;
    bmvp_labels labels;
    unsigned char *seen = (unsigned char *)malloc((size_t)want.numel);
    bmvp_nii_image image[3];
    const int value[2] = { 1, 2 };
    float *got = (float *)malloc((size_t)want.numel * sizeof *got);
    int64_t at[3], i, n = want.numel / 3;
    int a, k, wrong = 0;
    memset(&labels, 0, sizeof labels);
    memset(&prepared, 0, sizeof prepared);
    memset(&out, 0, sizeof out);
    labels.exclusive = 1;
    CHECK(!bmvp_labels_add(&labels, "a", &value[0], 1, NULL) && !bmvp_labels_add(&labels, "b", &value[1], 1, NULL));
    CHECK(!bmvp_labels_finish(&labels, NULL));
    get16(f, name, "to", to);
    get16(f, name, "from", from);
    for (a = 0; a < 3; ++a) prepared.frame.dim[a] = map.dim[2 - a], at[a] = (int64_t)size.x[a];
    prepared.content = (unsigned char *)malloc((size_t)content.numel);
    for (i = 0; i < content.numel; ++i) prepared.content[i] = content.x[i] > 0;
    CHECK(!inside_relate(related, to, from));
    CHECK(!bmvp_nii_create(&out.label, BMVP_NII_UINT8, 3, at, NULL, NULL, NULL));
    for (k = 0; k < 3; ++k) CHECK(!bmvp_nii_create(&image[k], BMVP_NII_INT16, 3, at, NULL, NULL, NULL));
    for (i = 0; i < n; ++i) ((int16_t *)image[0].data)[i] = 32767;
    out.probability = image;
    CHECK(inside_place(c, &labels, &prepared, related, at, map.x, 3, &out, seen));
    for (i = 0; i < want.numel; ++i) got[i] = (float)((const int16_t *)image[i / n].data)[i % n] / 32767;
    for (i = 0; i < want.numel; ++i) CHECK_NEAR((double)got[i], (double)want.x[i], 1e-4);
    for (i = 0; i < n; ++i) { /* the likeliest of what scipy interpolates, or 0 where nothing is to be seen */
        const float p[3] = { want.x[i], want.x[n + i], want.x[2 * n + i] };
        const int best = p[1] > p[0] && p[1] >= p[2] ? 1
                         : p[2] > p[0]               ? 2
                                                     : 0,
                  label = ((unsigned char *)out.label.data)[i];
        const float most = best ? p[best] : p[0], second = best == 1   ? fmaxf(p[0], p[2])
                                                           : best == 2 ? fmaxf(p[0], p[1])
                                                                       : fmaxf(p[1], p[2]);
        wrong += most - second > 1e-4f && label != (seen[i] ? best : 0);
    }
    CHECK(wrong == 0);
    for (k = 0; k < 3; ++k) bmvp_nii_image_free(&image[k]);
    bmvp_nii_image_free(&out.label);
    free(seen), free(prepared.content), free(got), free(map.x), free(content.x), free(size.x), free(want.x);
    bmvp_destroy(c);
}

/* ---- a checkpoint and a head
 * --------------------------------------------------------------------------------------------- */

enum { E = 20, N = E * E * E };

static void make_checkpoint(int exclusive)
{
    const char *names[2] = { "flair", "t1" }, *extra[3] = { "preparation", NULL, NULL };
    const int64_t grid[3] = { E, E, E };
    const int value[3] = { 1, 4, 17 };
    bmvp_preparation how = bmvp_preparation_default();
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config net;
    bmvp_ft_config cfg;
    bmvp_labels l;
    bmvp_error err;
    bmvp_jw w;
    bmvp_ft *f;
    int i;
    memset(&l, 0, sizeof l);
    l.exclusive = exclusive;
    for (i = 0; i < 3; ++i) CHECK(!bmvp_labels_add(&l, i == 0 ? "a" : i == 1 ? "b" : "c", &value[i], 1, NULL));
    CHECK(!bmvp_labels_finish(&l, NULL));
    bmvp_net_preset("uniformer_tiny", &net);
    net.task = BMVP_TASK_SEGMENT;
    bmvp_ft_preset("paper", BMVP_TASK_SEGMENT, net.kind, &cfg);
    cfg.crop_x = cfg.crop_y = cfg.crop_z = 16;
    cfg.batch = 1;
    how.spacing = 0;
    bmvp_jw_init(&w, 0, NULL);
    bmvp_preparation_write(&w, NULL, &how);
    CHECK(bmvp_jw_finish(&w, &err) == BMVP_OK);
    extra[1] = w.out.data;
    f = bmvp_ft_create(c, &net, &cfg, &l, 2, names, grid);
    snprintf(path[exclusive], sizeof path[exclusive], "build/test_predict_%d.safetensors", exclusive);
    CHECK(f && bmvp_ft_save(f, path[exclusive], 0, extra, &err) == BMVP_OK);
    bmvp_jw_free(&w);
    bmvp_ft_destroy(f);
    bmvp_destroy(c);
}

/* An ellipsoid of values that differ, 0 around it. RAS, 1 mm. */
static bmvp_nii_volume head(int kind)
{
    const int64_t dim[3] = { E, E, E };
    double affine[16] = { 1, 0, 0, -7, 0, 1, 0, 3, 0, 0, 1, 11, 0, 0, 0, 1 };
    bmvp_nii_volume v;
    int i;
    CHECK(bmvp_nii_volume_create(&v, dim, affine, NULL, NULL) == BMVP_OK);
    for (i = 0; i < N; ++i) {
        const float x = (float)(i % E) - 9.5f, y = (float)(i / E % E) - 9.5f, z = (float)(i / E / E) - 9.5f;
        if (x * x / 81 + y * y / 64 + z * z / 49 < 1)
            v.data[i] = 100 + (float)((i * (7 + kind)) % 151) + 5 * x + 3 * y - z;
    }
    return v;
}

static bmvp_image of_volume(const char *modality, const bmvp_nii_volume *v)
{
    bmvp_image k;
    memset(&k, 0, sizeof k);
    k.modality = modality;
    k.volume = v;
    return k;
}

static void same_maps(const bmvp_prediction *a, const bmvp_prediction *b)
{
    int k;
    CHECK(a->n == b->n && a->label.n_voxels == b->label.n_voxels);
    CHECK(memcmp(a->label.data, b->label.data, (size_t)a->label.n_voxels) == 0);
    for (k = 0; k < a->n && a->probability && b->probability; ++k)
        CHECK(memcmp(a->probability[k].data, b->probability[k].data, 2 * (size_t)a->label.n_voxels) == 0);
}

/* ---- what is given
 * --------------------------------------------------------------------------------------------------------- */

/* Files, images and volumes give the same maps, along any axes; codes and affine are the input's. */
static void test_sources(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_error err;
    bmvp_predictor *p = bmvp_predictor_open(c, path[0], &err);
    bmvp_nii_volume t1 = head(0), flair = head(1), turned;
    bmvp_image k[2] = { of_volume("T1", &t1), of_volume("flair", &flair) };
    bmvp_predict_options o = bmvp_predict_options_default();
    bmvp_prediction a, b;
    bmvp_nii_image image;
    int64_t i, n = 0;
    double affine[16];
    o.probabilities = 1;
    CHECK(p && bmvp_predict(p, k, 2, &o, &a, &err) == BMVP_OK);
    CHECK(a.given == 3 && a.filled == 0 && a.n == 3 && a.label.sform_code == 1);
    for (i = 0; i < N; ++i) { /* nothing where no image has content */
        n += ((unsigned char *)a.label.data)[i] != 0;
        if (t1.data[i] == 0 && flair.data[i] == 0) CHECK(((unsigned char *)a.label.data)[i] == 0);
    }
    CHECK(n > 0);
    CHECK(bmvp_nii_from_volume(&image, &t1, BMVP_NII_FLOAT32, 1, 0, NULL, NULL, NULL) == BMVP_OK);
    image.sform_code = 3;
    CHECK(bmvp_nii_write("build/test_predict_t1.nii.gz", &image, NULL, &err) == BMVP_OK);
    k[0].volume = NULL, k[0].image = &image;
    CHECK(bmvp_predict(p, k, 2, &o, &b, &err) == BMVP_OK);
    same_maps(&a, &b);
    CHECK(b.label.sform_code == 3 && memcmp(b.label.srow, image.srow, sizeof image.srow) == 0);
    bmvp_prediction_free(&b);
    k[0].image = NULL, k[0].path = "build/test_predict_t1.nii.gz";
    CHECK(bmvp_predict(p, k, 2, &o, &b, &err) == BMVP_OK);
    same_maps(&a, &b);
    bmvp_prediction_free(&b);
    CHECK(bmvp_nii_volume_copy(&turned, &t1, NULL) == BMVP_OK && bmvp_nii_orient(&turned, "PIR", NULL) == BMVP_OK);
    k[0] = of_volume("t1", &turned);
    CHECK(bmvp_predict(p, k, 2, &o, &b, &err) ==
          BMVP_OK); /* one along other axes than the other: the grid is the first's */
    (void)bmvp_nii_rectify_affine(affine, &b.label);
    for (i = 0; i < 16; ++i) CHECK_NEAR(affine[i], turned.affine[i], 1e-5);
    k[0].modality = "t1", k[0].volume = &turned;
    o.grid = "FLAIR"; /* .. or that of the one that is named */
    bmvp_prediction_free(&b);
    CHECK(bmvp_predict(p, k, 2, &o, &b, &err) == BMVP_OK);
    same_maps(&a, &b);
    bmvp_prediction_free(&b);
    bmvp_prediction_free(&a);
    bmvp_nii_image_free(&image);
    bmvp_nii_volume_free(&turned), bmvp_nii_volume_free(&t1), bmvp_nii_volume_free(&flair);
    bmvp_predictor_close(p);
    bmvp_destroy(c);
}

/* The same prepared map on the grids of blank images with random affines: linear interpolation by the full affine, to
 * 1e-3. */
static void test_affines(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_error err;
    bmvp_predictor *p = bmvp_predictor_open(c, path[0], &err);
    bmvp_nii_volume t1 = head(0), blank;
    bmvp_image k[2] = { of_volume("t1", &t1), of_volume("flair", &blank) };
    bmvp_predict_options o = bmvp_predict_options_default();
    const int64_t dim[3] = { 17, 14, 19 };
    bmvp_rng r = bmvp_rng_make(3, 0, 0, 0);
    bmvp_prediction at, on;
    static float map[N];
    int trial, i, a;
    o.probabilities = 1;
    t1.data[0] = t1.data[N - 1] = 50; /* the box is the volume */
    CHECK(p && bmvp_predict(p, k, 1, &o, &at, &err) == BMVP_OK && at.filled == 1);
    for (trial = 0; trial < 6; ++trial) {
        double m[16] = { 0 }, to[16], most = 0, q[3];
        for (i = 0; i < 3; ++i)
            for (a = 0; a < 3; ++a)
                m[4 * i + a] = (a == (i + trial) % 3) * (trial % 2 ? -1.2 : 1.1) + 0.5 * (bmvp_rng_uniform(&r) - 0.5f);
        m[15] = 1;
        for (i = 0; i < 3; ++i)
            for (m[4 * i + 3] = t1.affine[4 * i + 3] + 9.5, a = 0; a < 3; ++a)
                m[4 * i + 3] -= m[4 * i + a] * (double)(dim[a] - 1) / 2;
        CHECK(bmvp_nii_volume_create(&blank, dim, m, NULL, NULL) == BMVP_OK);
        o.grid = "flair";
        CHECK(bmvp_predict(p, k, 2, &o, &on, &err) == BMVP_OK && on.blank == 1 && on.given == 2);
        CHECK(inside_relate(to, t1.affine, m) == BMVP_OK);
        for (i = 0; i < N; ++i) map[i] = (float)((const int16_t *)at.probability[2].data)[i] / 32767;
        for (i = 0; i < on.label.n_voxels; ++i) {
            const double x = (double)(i % dim[0]), y = (double)(i / dim[0] % dim[1]), z = (double)(i / dim[0] / dim[1]);
            double diff;
            for (a = 0; a < 3; ++a) q[a] = to[4 * a] * x + to[4 * a + 1] * y + to[4 * a + 2] * z + to[4 * a + 3];
            diff =
                fabs((double)inside_linear_at(map, t1.dim, q) - ((const int16_t *)on.probability[2].data)[i] / 32767.0);
            most = diff > most ? diff : most;
        }
        CHECK(most < 1e-3);
        bmvp_prediction_free(&on);
        bmvp_nii_volume_free(&blank);
    }
    bmvp_prediction_free(&at);
    bmvp_nii_volume_free(&t1);
    bmvp_predictor_close(p);
    bmvp_destroy(c);
}

/* Exclusive classes: a distribution in every voxel, background 1 outside of the head. */
static void test_classes(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_error err;
    bmvp_predictor *p = bmvp_predictor_open(c, path[1], &err);
    bmvp_nii_volume t1 = head(0);
    bmvp_image k = of_volume("t1", &t1);
    bmvp_predict_options o = bmvp_predict_options_default();
    bmvp_prediction a;
    int i, j;
    o.probabilities = 1;
    o.window.mirror = 7;
    o.window.gaussian = 1;
    CHECK(p && bmvp_predict(p, &k, 1, &o, &a, &err) == BMVP_OK && a.n == 4);
    for (i = 0; i < N && a.n == 4; ++i) {
        int sum = 0;
        for (j = 0; j < 4; ++j) sum += ((const int16_t *)a.probability[j].data)[i];
        CHECK(abs(sum - 32767) <= 3);
        if (t1.data[i] == 0)
            CHECK(((const int16_t *)a.probability[0].data)[i] == 32767 && !((unsigned char *)a.label.data)[i]);
    }
    bmvp_prediction_free(&a);
    bmvp_nii_volume_free(&t1);
    bmvp_predictor_close(p);
    bmvp_destroy(c);
}

/* ---- what is refused, by name
 * ------------------------------------------------------------------------------------------------ */

static void refused(bmvp_predictor *p, const bmvp_image *k, int n, const bmvp_predict_options *o, bmvp_status st,
                    const char *text)
{
    bmvp_prediction out;
    bmvp_error err;
    CHECK(bmvp_predict(p, k, n, o, &out, &err) == st);
    CHECK_HOLDS(err.message, text);
    CHECK(!out.label.data && !out.probability && !out.score);
}

static void test_refusals(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_error err;
    bmvp_predictor *p = bmvp_predictor_open(c, path[0], &err);
    bmvp_nii_volume t1 = head(0), flair = head(1);
    bmvp_image k[2] = { of_volume("t1", &t1), of_volume("flair", &flair) };
    bmvp_predict_options o = bmvp_predict_options_default();
    refused(p, k, 0, &o, BMVP_E_ARG, "no image");
    k[1].modality = "T1w";
    refused(p, k, 2, &o, BMVP_E_ARG, "both given as t1");
    k[1].modality = "ct";
    refused(p, k, 2, &o, BMVP_E_ARG, "'ct'");
    k[1].modality = "t2";
    refused(p, &k[1], 1, &o, BMVP_E_ARG, "none of the modalities");
    k[1].modality = "flair";
    o.grid = "t2";
    refused(p, k, 2, &o, BMVP_E_ARG, "grid of 't2'");
    o.grid = NULL;
    k[1].path = "absent.nii";
    refused(p, k, 2, &o, BMVP_E_ARG, "absent.nii: give one of");
    k[1].volume = NULL;
    refused(p, k, 2, &o, BMVP_E_IO, "absent.nii");
    bmvp_nii_volume_free(&t1), bmvp_nii_volume_free(&flair);
    bmvp_predictor_close(p);
    CHECK(!bmvp_predictor_open(c, "absent.safetensors", &err));
    bmvp_destroy(c);
}

/* Several numbers a voxel, other grids, other settings: refused, unless it is said what is meant. */
static void test_refusals_of_images(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_error err;
    bmvp_predictor *p = bmvp_predictor_open(c, path[0], &err);
    bmvp_nii_volume t1 = head(0), flair = head(1);
    bmvp_image k[2] = { of_volume("t1", &t1), of_volume("flair", &flair) };
    bmvp_predict_options o = bmvp_predict_options_default();
    bmvp_preparation how = *bmvp_predictor_preparation(p);
    const int64_t five[5] = { 8, 8, 8, 1, 3 }, grid[3] = { 10, 10, 10 };
    bmvp_nii_volume other;
    bmvp_prediction out;
    bmvp_nii_image v;
    int i;
    /* several numbers a voxel */
    CHECK(bmvp_nii_create(&v, BMVP_NII_FLOAT32, 5, five, NULL, NULL, NULL) == BMVP_OK);
    for (i = 0; i < v.n_voxels; ++i) ((float *)v.data)[i] = (float)(i % 97) + 0.5f;
    k[1].volume = NULL, k[1].image = &v;
    refused(p, k, 2, &o, BMVP_E_FORMAT, "flair");
    k[1].channel = 3;
    o.other_grids = 1;
    CHECK(bmvp_predict(p, k, 2, &o, &out, &err) == BMVP_OK); /* .. unless it is said which */
    bmvp_prediction_free(&out);
    bmvp_nii_image_free(&v);
    /* another grid of the same world */
    k[1] = of_volume("flair", &other);
    o.other_grids = 0;
    CHECK(bmvp_nii_volume_create(&other, grid, flair.affine, NULL, NULL) == BMVP_OK);
    for (i = 0; i < 1000; ++i) other.data[i] = flair.data[(i / 100 * 2 * E + i / 10 % 10 * 2) * E + i % 10 * 2];
    for (i = 0; i < 12; ++i)
        if (i % 4 < 3) other.affine[i] *= 2;
    refused(p, k, 2, &o, BMVP_E_SHAPE, "on different grids");
    o.other_grids = 1;
    CHECK(bmvp_predict(p, k, 2, &o, &out, &err) == BMVP_OK && out.given == 3);
    bmvp_prediction_free(&out);
    /* prepared with other settings */
    CHECK(bmvp_nii_from_volume(&v, &t1, BMVP_NII_FLOAT32, 1, 0, NULL, NULL, NULL) == BMVP_OK);
    memset(&k[0], 0, sizeof k[0]);
    k[0].modality = "t1", k[0].image = &v;
    bmvp_prepared_mark(v.descrip, &how);
    CHECK(bmvp_predict(p, k, 1, &o, &out, &err) == BMVP_OK);
    bmvp_prediction_free(&out);
    how.percentile_high = 95;
    bmvp_prepared_mark(v.descrip, &how);
    refused(p, k, 1, &o, BMVP_E_ARG, "other settings");
    bmvp_nii_image_free(&v);
    bmvp_nii_volume_free(&other), bmvp_nii_volume_free(&t1), bmvp_nii_volume_free(&flair);
    bmvp_predictor_close(p);
    bmvp_destroy(c);
}

static void test_preparation(void)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        { "{\"spacing\":1,\"percentile_low\":1,\"percentile_high\":99}", "centre_crop is missing" },
        { "{\"spacing\":-1,\"percentile_low\":1,\"percentile_high\":99,\"centre_crop\":false}", "spacing must be" },
        { "{\"spacing\":1,\"percentile_low\":99,\"percentile_high\":1,\"centre_crop\":false}", "not below" },
        { "{\"spacing\":1,\"percentile_low\":1,\"percentile_high\":99,\"centre_crop\":1}", "true or false" },
        { "{\"spacing\":1,\"percentile_low\":1,\"percentile_high\":99,\"centre_crop\":true,\"resize\":[1,2]}",
          "resize" },
        { "{\"spacing\":1,\"percentile_low\":1,\"percentile_high\":99,\"centre_crop\":true,\"denoise\":1}",
          "'denoise'" },
        { "[]", "no JSON object" },
    };
    bmvp_preparation a = bmvp_preparation_default(), b;
    char text[160];
    bmvp_error err;
    bmvp_jw w;
    size_t i;
    for (i = 0; i < sizeof bad / sizeof *bad; ++i) {
        CHECK(bmvp_preparation_read(bad[i].text, "x", &b, &err) == BMVP_E_FORMAT);
        CHECK_HOLDS(err.message, bad[i].says);
    }
    a.spacing = 1.2, a.centre_crop = 1;
    a.resize[0] = 128, a.resize[1] = 96, a.resize[2] = 64;
    bmvp_jw_init(&w, 1, NULL);
    bmvp_preparation_write(&w, NULL, &a);
    CHECK(bmvp_jw_finish(&w, &err) == BMVP_OK && bmvp_preparation_read(w.out.data, "x", &b, &err) == BMVP_OK);
    CHECK(!bmvp_preparation_differs(&a, &b, text, sizeof text));
    b.resize[2] = 65;
    CHECK(bmvp_preparation_differs(&a, &b, text, sizeof text) == 1);
    CHECK_HOLDS(text, "128x96x65");
    bmvp_jw_free(&w);
}

/* ---- memory and stopping
 * --------------------------------------------------------------------------------------------------- */

typedef struct meter {
    size_t live, peak;
    long calls, fail;
} meter;
static void *meter_alloc(size_t n, void *user)
{
    meter *m = (meter *)user;
    size_t *p = m->fail && ++m->calls >= m->fail ? NULL : (size_t *)malloc(n + 64);
    if (!p) return NULL;
    *p = n;
    m->live += n;
    m->peak = m->live > m->peak ? m->live : m->peak;
    return (char *)p + 64;
}
static void meter_free(void *p, void *user)
{
    size_t *q = (size_t *)(void *)((char *)p - 64);
    ((meter *)user)->live -= *q;
    free(q);
}

static bmvp_ctx *metered(meter *m, bmvp_config *k)
{
    k->allocator.alloc = meter_alloc;
    k->allocator.free = meter_free;
    k->allocator.user = m;
    k->threads = 1;
    return bmvp_create(k, NULL);
}

/* From the k-th allocation on there is none: every call fails with BMVP_E_OOM, and nothing is left behind. */
static void test_allocations(void)
{
    bmvp_nii_volume t1 = head(0), flair = head(1);
    bmvp_image k[2] = { of_volume("t1", &t1), of_volume("flair", &flair) };
    bmvp_predict_options o = bmvp_predict_options_default();
    long at, done = 0;
    o.probabilities = 1;
    for (at = 1; at < 100000 && !done; ++at) {
        meter m = { 0, 0, 0, 0 };
        bmvp_config cfg = bmvp_config_default();
        bmvp_ctx *c = metered(&m, &cfg);
        bmvp_prediction out;
        bmvp_error err = { BMVP_OK, "" };
        bmvp_predictor *p;
        m.fail = at;
        p = bmvp_predictor_open(c, path[0], &err);
        if (!p) CHECK(err.status == BMVP_E_OOM);
        else {
            const bmvp_status st = bmvp_predict(p, k, 2, &o, &out, &err);
            CHECK(st == BMVP_OK || st == BMVP_E_OOM);
            CHECK(st == BMVP_OK || !out.label.data);
            done = st == BMVP_OK;
            bmvp_prediction_free(&out);
        }
        bmvp_predictor_close(p);
        bmvp_destroy(c);
        CHECK(m.live == 0);
    }
    CHECK(done && at > 50);
    bmvp_nii_volume_free(&t1), bmvp_nii_volume_free(&flair);
}

static int count_down(void *user, const char *what, int64_t done, int64_t of)
{
    int *left = (int *)user;
    CHECK(done > 0 && done <= of && what);
    return --*left == 0;
}

static void test_cancel(void)
{
    bmvp_config cfg = bmvp_config_default();
    int left = 1;
    bmvp_ctx *c;
    bmvp_error err;
    bmvp_predictor *p;
    bmvp_nii_volume t1 = head(0);
    bmvp_image k = of_volume("t1", &t1);
    bmvp_prediction out;
    cfg.progress = count_down;
    cfg.progress_user = &left;
    c = bmvp_create(&cfg, NULL);
    p = bmvp_predictor_open(c, path[0], &err);
    CHECK(p && bmvp_predict(p, &k, 1, NULL, &out, &err) == BMVP_E_CANCELLED);
    CHECK(err.status == BMVP_E_CANCELLED && left == 0);
    bmvp_clear_error(c);
    CHECK(bmvp_predict(p, &k, 1, NULL, &out, &err) == BMVP_OK);
    CHECK(left == -2); /* the box of 18 x 16 x 14 voxels takes two windows */
    bmvp_prediction_free(&out);
    bmvp_nii_volume_free(&t1);
    bmvp_predictor_close(p);
    bmvp_destroy(c);
}

int main(int argc, char **argv)
{
    bmvp_ckpt *f;
    char name[64];
    const char *p;
    check_begin(argc, argv);
    f = fixture_open("predict/place.safetensors");
    for (p = f ? fixture_text(f, "cases") : NULL; p && *p; p += strcspn(p, ",") + (p[strcspn(p, ",")] == ',')) {
        snprintf(name, sizeof name, "%.*s", (int)strcspn(p, ","), p);
        if (!check_start("place %s", name)) continue;
        test_place(f, name);
        check_finish();
    }
    bmvp_ckpt_close(f);
    (void)check_start("checkpoints");
    make_checkpoint(0);
    make_checkpoint(1);
    CHECK_RUN(test_sources);
    CHECK_RUN(test_affines);
    CHECK_RUN(test_classes);
    CHECK_RUN(test_refusals);
    CHECK_RUN(test_refusals_of_images);
    CHECK_RUN(test_preparation);
    CHECK_RUN(test_allocations);
    CHECK_RUN(test_cancel);
    unlink(path[0]), unlink(path[1]), unlink("build/test_predict_t1.nii.gz");
    return check_end();
}
