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
    k[1].channels = 4;
    refused(p, k, 2, &o, BMVP_E_FORMAT, "3 volumes, not the 4");
    k[1].channels = 3;
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
    v.qoffset[1] += 9; /* a qform that says another place */
    CHECK(bmvp_predict(p, k, 1, &o, &out, &err) == BMVP_OK && out.apart == out.given);
    CHECK(fabs(out.forms_apart - 9) < 1e-3);
    bmvp_prediction_free(&out);
    v.qoffset[1] -= 9;
    bmvp_prepared_mark(v.descrip, &how);
    CHECK(bmvp_predict(p, k, 1, &o, &out, &err) == BMVP_OK && !out.apart);
    bmvp_prediction_free(&out);
    how.percentile_high = 95;
    bmvp_prepared_mark(v.descrip, &how);
    refused(p, k, 1, &o, BMVP_E_ARG, "other settings");
    bmvp_nii_image_free(&v);
    bmvp_nii_volume_free(&other), bmvp_nii_volume_free(&t1), bmvp_nii_volume_free(&flair);
    bmvp_predictor_close(p);
    bmvp_destroy(c);
}

/* Label maps as files have them: what stands in `stored` with this slope and intercept is `want`, or refused. A place
   that only the qform knows is said. */
static void test_label_files(void)
{
    static const struct {
        double slope, inter, pixdim;
        int want;
        const char *says;
    } rows[] = {
        { 0, 0, 1, 4, NULL },           { 1, 0, 1, 4, NULL },
        { 0.25, 0, 1, 1, NULL },        { 2, -6, 1, 2, "value -6" },
        { 0.3f, 0, 1, 0, "value 1.2" }, { 100, 0, 1, 0, "value 400" },
        { 1e-30, 0, 1, 0, "value 4" },  { 1, 0, 2, 4, NULL },
    };
    bmvp_nii_volume t1 = head(0);
    bmvp_image k = of_volume("t1", &t1), label;
    bmvp_preparation how = bmvp_preparation_default();
    bmvp_prepared_images p;
    bmvp_prepare_job job;
    bmvp_nii_image im;
    bmvp_labels l;
    bmvp_error err;
    const int value[3] = { 1, 2, 4 };
    size_t i;
    memset(&l, 0, sizeof l);
    memset(&job, 0, sizeof job);
    memset(&label, 0, sizeof label);
    CHECK(!bmvp_labels_add(&l, "a", value, 3, NULL) && !bmvp_labels_finish(&l, NULL));
    how.spacing = 0;
    label.image = &im;
    job.image = &k, job.n = 1, job.label = &label, job.labels = &l, job.how = &how;
    for (i = 0; i < sizeof rows / sizeof *rows; ++i) {
        CHECK(!bmvp_nii_create(&im, BMVP_NII_UINT8, 3, t1.dim, t1.affine, NULL, NULL));
        ((unsigned char *)im.data)[(10 * E + 10) * E + 10] = 4;
        im.scl_slope = rows[i].slope, im.scl_inter = rows[i].inter;
        if (rows[i].pixdim > 1) { /* sform of another size: the qform is the place */
            int a;
            for (a = 0; a < 3; ++a) im.srow[5 * a] *= rows[i].pixdim;
            bmvp_nii_sform(im.affine, &im);
        }
        if (rows[i].says) {
            CHECK(bmvp_prepare_images(&p, &job, &err) == BMVP_E_FORMAT);
            CHECK_HOLDS(err.message, rows[i].says);
        } else if (CHECK(bmvp_prepare_images(&p, &job, &err) == BMVP_OK)) {
            int64_t q, n = p.label.dim[0] * p.label.dim[1] * p.label.dim[2], there = 0;
            for (q = 0; q < n; ++q) there += p.label.data[q] == (float)rows[i].want;
            CHECK(there == 1 && p.label_cut == 0 && p.label_lost == 0);
            CHECK(p.by_qform == (rows[i].pixdim > 1 ? 1u << BMVP_MODALITIES : 0u) && p.few == 0);
        }
        bmvp_prepared_images_free(&p);
        bmvp_nii_image_free(&im);
    }
    bmvp_nii_volume_free(&t1);
}

/* A label that is partly outside of the head, in an image of few values: those may be a mask's. */
static void test_doubts(void)
{
    bmvp_nii_volume t1 = head(0);
    bmvp_image k = of_volume("t1", &t1), label;
    bmvp_preparation how = bmvp_preparation_default();
    bmvp_prepared_images p;
    bmvp_prepare_job job;
    bmvp_nii_image im;
    bmvp_error err;
    size_t i;
    memset(&job, 0, sizeof job);
    memset(&label, 0, sizeof label);
    how.spacing = 0;
    label.image = &im;
    job.image = &k, job.n = 1, job.label = &label, job.how = &how;
    CHECK(!bmvp_nii_create(&im, BMVP_NII_UINT8, 3, t1.dim, t1.affine, NULL, NULL));
    ((unsigned char *)im.data)[(10 * E + 10) * E + 10] = 1, ((unsigned char *)im.data)[0] = 4;
    for (i = 0; i < N; ++i) t1.data[i] = t1.data[i] > 0 ? 0.25f : 0;
    CHECK(bmvp_prepare_images(&p, &job, &err) == BMVP_OK && p.label_cut == 1 && p.label_lost == 4 && p.few == 1u << 1);
    bmvp_prepared_images_free(&p);
    for (i = 0; i < N; ++i) t1.data[i] = t1.data[i] > 0 ? 7 : 0;
    CHECK(bmvp_prepare_images(&p, &job, &err) == BMVP_E_FORMAT);
    CHECK_HOLDS(err.message, "looks like a label map");
    bmvp_nii_image_free(&im);
    bmvp_nii_volume_free(&t1);
}

/* An image whose sform and qform are far apart is said; voxels that no head has are refused with any spacing. */
static void test_geometry(void)
{
    static const struct {
        double mm, spacing, moved; /* edge of a voxel; mm between the two */
        const char *says;
    } rows[] = {
        { 1, 0, 0, NULL },     { 1, 1, 30, NULL },      { 0.1, 0, 0, NULL },
        { 0.1, 1, 0, "t1: 20x20x20 voxels of 0.1 x 0.1 x 0.1 mm would become 8 of 1 mm: is pixdim in the unit" },
        { 0.15, 1, 0, "voxels of 0.15 x" }, { 0.3, 1, 0, NULL },
        { 0.001, 0, 0, "voxels of 0.001 x 0.001 x 0.001 mm: is pixdim in the unit of xyzt_units?" },
        { 1000, 0, 0, "voxels of 1000 x" }, { 0.004, 0, 0, "voxels of 0.004 x" }, { 1, 6, 0, NULL },
    };
    bmvp_nii_volume t1 = head(0);
    bmvp_image k;
    bmvp_preparation how = bmvp_preparation_default();
    bmvp_prepared_images p;
    bmvp_prepare_job job;
    bmvp_nii_image im;
    bmvp_error err;
    size_t i;
    int a;
    memset(&job, 0, sizeof job);
    memset(&k, 0, sizeof k);
    k.modality = "t1", k.image = &im;
    job.image = &k, job.n = 1, job.how = &how;
    for (a = 0; a < 12; ++a) t1.affine[a] = a % 5 == 0;
    for (i = 0; i < sizeof rows / sizeof *rows; ++i) {
        for (a = 0; a < 3; ++a) t1.affine[5 * a] = rows[i].mm;
        CHECK(!bmvp_nii_from_volume(&im, &t1, BMVP_NII_FLOAT32, 1, 0, NULL, NULL, NULL));
        im.qoffset[0] += rows[i].moved;
        how.spacing = rows[i].spacing;
        if (rows[i].says) {
            CHECK(bmvp_prepare_images(&p, &job, &err) == BMVP_E_FORMAT);
            CHECK_HOLDS(err.message, rows[i].says);
        } else {
            check_report(bmvp_prepare_images(&p, &job, &err) == BMVP_OK, __FILE__, __LINE__, "row %d: %s", (int)i,
                         err.message);
            CHECK(fabs(p.forms_apart[bmvp_modality_find("t1")] - rows[i].moved) < 1e-3 && p.forms_apart[0] <= 0);
        }
        bmvp_prepared_images_free(&p);
        bmvp_nii_image_free(&im);
    }
    bmvp_nii_volume_free(&t1);
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

/* A hook that stops at call `at`; counts what it was told. */
typedef struct asked {
    int n, at, windows;
} asked;

static int ask(void *user, const char *what, int64_t done, int64_t of)
{
    asked *a = (asked *)user;
    CHECK(done >= 0 && what && (of == 0 || done <= of));
    a->windows += strcmp(what, "windows") == 0;
    return ++a->n == a->at;
}

/* Stopped at each place where it asks, in preparation and in windows: nothing is left, the next case goes through. */
static void test_cancel(void)
{
    bmvp_config cfg = bmvp_config_default();
    asked a = { 0, 0, 0 };
    bmvp_ctx *c;
    bmvp_error err;
    bmvp_predictor *p;
    bmvp_nii_volume t1 = head(0);
    bmvp_image k = of_volume("t1", &t1);
    bmvp_prediction out;
    int at, total;
    cfg.progress = ask;
    cfg.progress_user = &a;
    c = bmvp_create(&cfg, NULL);
    p = bmvp_predictor_open(c, path[0], &err);
    CHECK(p && bmvp_predict(p, &k, 1, NULL, &out, &err) == BMVP_OK);
    bmvp_prediction_free(&out);
    total = a.n;
    CHECK(a.windows == 2 && total > 2); /* the box of 18 x 16 x 14 voxels takes two windows */
    for (at = 1; at <= total; ++at) {
        a.n = 0, a.at = at;
        CHECK(bmvp_predict(p, &k, 1, NULL, &out, &err) == BMVP_E_CANCELLED);
        CHECK(err.status == BMVP_E_CANCELLED && a.n == at && !out.label.data);
        bmvp_clear_error(c);
    }
    a.n = a.at = 0;
    CHECK(bmvp_predict(p, &k, 1, NULL, &out, &err) == BMVP_OK && a.n == total);
    bmvp_prediction_free(&out);
    bmvp_nii_volume_free(&t1);
    bmvp_predictor_close(p);
    bmvp_destroy(c);
}

/* ---- weights of other programs
 * ------------------------------------------------------------------------------------------- */

#define WEIGHTS "build/test_predict_weights.pt"

/* A state dict and nothing else, as torch.save writes it. */
static void write_weights(void)
{
    bmvp_net_config k = bmvp_net_config_default("swin_unetr");
    bmvp_state_part part = { NULL, NULL, NULL, 0 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_ckpt_writer *w = NULL;
    bmvp_ckpt *f = NULL;
    bmvp_error err;
    bmvp_net *net;
    int i;
    k.task = BMVP_TASK_SEGMENT, k.in_channels = 2, k.outputs = 3;
    CHECK(bmvp_net_config_set(&k, "feature_size=3 num_heads=3 depth=1,1,1,1 window_size=3", NULL) == BMVP_OK);
    net = bmvp_net_create(c, &k);
    bmvp_net_init(net, 5);
    part.c = c, part.list = bmvp_net_state(net);
    CHECK(bmvp_ckpt_writer_begin(WEIGHTS, BMVP_CKPT_PT, NULL, &w, &err) == BMVP_OK);
    CHECK(bmvp_state_declare(w, "state_dict", &part, &err) == BMVP_OK && bmvp_state_data(w, &part, &err) == BMVP_OK);
    CHECK(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
    CHECK(bmvp_ckpt_open(WEIGHTS, NULL, &f, &err) == BMVP_OK);
    i = bmvp_ckpt_find(f, "state_dict", "swinViT.layers1.0.blocks.0.attn.relative_position_index");
    if (CHECK(i >= 0 && f->entry[i].dtype == BMVP_DTYPE_I64 && f->entry[i].dim[0] == 27)) {
        int64_t index[729];
        CHECK(bmvp_ckpt_load(f, i, index, sizeof index, &err) == BMVP_OK);
        CHECK(index[0] == 62 && index[1] == 61 && index[728] == 62); /* (2 * 5 + 2) * 5 + 2 */
    }
    bmvp_ckpt_close(f);
}

/* What is said of it: t1 and flair, regions a, b, c. */
static bmvp_ft_weights told(const bmvp_labels *l)
{
    bmvp_ft_weights w = bmvp_ft_weights_default();
    w.network = "swin_unetr";
    w.n_modalities = 2;
    w.names[0] = "t1", w.names[1] = "flair";
    w.labels = l;
    w.window[0] = 64, w.window[1] = w.window[2] = 32;
    w.preparation.spacing = 0;
    w.preparation.intensity = BMVP_INTENSITY_ZSCORE;
    return w;
}

static void predict_with(const bmvp_ft_weights *w, const bmvp_image k[2], bmvp_prediction *out, bmvp_ctx **c)
{
    bmvp_predict_options o = bmvp_predict_options_default();
    bmvp_predictor *p;
    bmvp_error err;
    *c = bmvp_create(NULL, NULL);
    o.probabilities = 1;
    p = bmvp_predictor_open_weights(*c, WEIGHTS, w, &err);
    memset(out, 0, sizeof *out);
    if (!check_report(p != NULL, __FILE__, __LINE__, "%s", err.message)) return;
    CHECK(bmvp_predictor_info(p)->net.depth[3] == 1 && bmvp_predictor_info(p)->n_left == 0);
    CHECK(bmvp_predictor_preparation(p)->intensity == BMVP_INTENSITY_ZSCORE);
    check_report(bmvp_predict(p, k, 2, &o, out, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
    bmvp_predictor_close(p);
}

static void weights_refused(const bmvp_ft_weights *w, const char *file, bmvp_status st, const char *text)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_error err;
    CHECK(bmvp_predictor_open_weights(c, file, w, &err) == NULL);
    check_report(err.status == st && strstr(err.message, text), __FILE__, __LINE__, "not '%s': %s", text, err.message);
    bmvp_destroy(c);
}

/* The order of channels and outputs is what is said of it; classes add up to 1. */
static void test_weights(void)
{
    const int value[3] = { 1, 4, 17 };
    bmvp_nii_volume t1 = head(0), flair = head(1);
    bmvp_image k[2] = { of_volume("t1", &t1), of_volume("flair", &flair) };
    bmvp_labels l, classes;
    bmvp_prediction a, b;
    bmvp_ft_weights w;
    bmvp_ctx *c, *d;
    int64_t i;
    int r;
    memset(&l, 0, sizeof l);
    memset(&classes, 0, sizeof classes);
    classes.exclusive = 1;
    for (r = 0; r < 3; ++r) CHECK(!bmvp_labels_add(&l, r == 0 ? "a" : r == 1 ? "b" : "c", &value[r], 1, NULL));
    for (r = 0; r < 2; ++r) CHECK(!bmvp_labels_add(&classes, r == 0 ? "a" : "b", &value[r], 1, NULL));
    CHECK(!bmvp_labels_finish(&l, NULL) && !bmvp_labels_finish(&classes, NULL));
    write_weights();
    w = told(&l);
    predict_with(&w, k, &a, &c);
    w.outputs[0] = "b", w.outputs[1] = "c", w.outputs[2] = "a";
    w.names[0] = "flair", w.names[1] = "t1";
    k[0].volume = &flair, k[1].volume = &t1; /* each goes into the same channel as before */
    predict_with(&w, k, &b, &d);
    if (CHECK(a.n == 3 && b.n == 3))
        for (r = 0; r < 3; ++r)
            CHECK(memcmp(a.probability[r].data, b.probability[(r + 1) % 3].data, 2 * (size_t)N) == 0);
    bmvp_prediction_free(&b);
    bmvp_destroy(d);
    w = told(&classes);
    predict_with(&w, k, &b, &d);
    for (i = 0; i < N && b.n == 3; ++i) {
        int sum = 0;
        for (r = 0; r < 3; ++r) sum += ((int16_t *)b.probability[r].data)[i];
        CHECK(abs(sum - 32767) <= 2);
    }
    weights_refused(&w, path[0], BMVP_E_ARG, "says itself what it is");
    w.outputs[0] = "a", w.outputs[1] = "a";
    weights_refused(&w, WEIGHTS, BMVP_E_ARG, "is there twice");
    w = told(&l);
    w.network = "unetr";
    weights_refused(&w, WEIGHTS, BMVP_E_FORMAT,
                    "holds a Swin-UNETR (its tensor 'swinViT.patch_embed.proj.weight'), no UNETR");
    w = told(&l);
    w.fields = "new_merging=1 feature_size=48";
    weights_refused(&w, WEIGHTS, BMVP_E_ARG, "say other than 'feature_size=48'");
    w = told(NULL);
    weights_refused(&w, WEIGHTS, BMVP_E_ARG, "tensor 'out.conv.conv.weight' gives 3 outputs: say what they are");
    w = told(&l);
    w.window[0] = 40;
    weights_refused(&w, WEIGHTS, BMVP_E_ARG, "multiple of 32");
    bmvp_prediction_free(&a), bmvp_prediction_free(&b);
    bmvp_destroy(c), bmvp_destroy(d);
    bmvp_nii_volume_free(&t1), bmvp_nii_volume_free(&flair);
    remove(WEIGHTS);
}

/* What only other programs' networks want of a preparation: to text and back, and the values. */
static void test_intensities(void)
{
    static const float in[8] = { 0, 0, 1, 2, 3, 4, 5, 9 };
    const int64_t dim[3] = { 2, 2, 2 };
    bmvp_preparation p = bmvp_preparation_default(), q;
    char text[160], mark[81];
    bmvp_nii_volume v;
    bmvp_error err;
    bmvp_jw w;
    p.whole = 1, p.intensity = BMVP_INTENSITY_RANGE, p.range_low = -10, p.range_high = 30;
    strcpy(p.axes, "LPS");
    bmvp_jw_init(&w, 0, NULL);
    bmvp_preparation_write(&w, NULL, &p);
    CHECK(bmvp_jw_finish(&w, NULL) == BMVP_OK && bmvp_preparation_read(w.out.data, "x", &q, &err) == BMVP_OK);
    CHECK(!bmvp_preparation_differs(&p, &q, text, sizeof text) && q.range_low == -10 && q.range_high == 30);
    q = bmvp_preparation_default();
    CHECK(bmvp_preparation_differs(&p, &q, text, sizeof text));
    CHECK(strcmp(text, "range -10-30 whole LPS, 1-99% box") == 0);
    bmvp_prepared_mark(mark, &q);
    CHECK(strcmp(mark, "bmvp prepared 1 mm 1-99% box") == 0); /* as it always was */
    bmvp_jw_free(&w);
    q.axes[0] = 'R', q.axes[1] = 'L', q.axes[2] = 'S';
    CHECK(bmvp_preparation_check(&q, &err) == BMVP_E_ARG && strstr(err.message, "axes 'RLS'"));
    CHECK(bmvp_preparation_read("{\"spacing\": 1, \"percentile_low\": 1, \"percentile_high\": 99, \"centre_crop\": "
                                "false, \"intensity\": \"zscor\"}", "x", &q, &err) == BMVP_E_FORMAT);
    CHECK(bmvp_nii_volume_create(&v, dim, NULL, NULL, NULL) == BMVP_OK);
    memcpy(v.data, in, sizeof in);
    p.intensity = BMVP_INTENSITY_ZSCORE; /* of 1 2 3 4 5 9: mean 4, variance 40 / 6 */
    CHECK(bmvp_prepare_values(&v, 0, &p, &err) == BMVP_OK);
    CHECK(v.data[0] == 0);
    CHECK_NEAR((double)v.data[2], -3 / sqrt(40.0 / 6), 1e-6);
    CHECK_NEAR((double)v.data[7], 5 / sqrt(40.0 / 6), 1e-6);
    memcpy(v.data, in, sizeof in);
    p.intensity = BMVP_INTENSITY_ZSCORE_ALL; /* mean 3, variance 64 / 8 */
    CHECK(bmvp_prepare_values(&v, 0, &p, &err) == BMVP_OK);
    CHECK_NEAR((double)v.data[0], -3 / sqrt(8.0), 1e-6);
    memcpy(v.data, in, sizeof in);
    p.intensity = BMVP_INTENSITY_RANGE, p.range_low = 1, p.range_high = 5;
    CHECK(bmvp_prepare_values(&v, 0, &p, &err) == BMVP_OK);
    CHECK(v.data[0] == 0 && v.data[3] == 0.25f && v.data[7] == 1);
    bmvp_nii_volume_free(&v);
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
    CHECK_RUN(test_label_files);
    CHECK_RUN(test_doubts);
    CHECK_RUN(test_geometry);
    CHECK_RUN(test_preparation);
    CHECK_RUN(test_allocations);
    CHECK_RUN(test_cancel);
    CHECK_RUN(test_weights);
    CHECK_RUN(test_intensities);
    unlink(path[0]), unlink(path[1]), unlink("build/test_predict_t1.nii.gz");
    return check_end();
}
