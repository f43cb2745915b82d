/* test_stopped.c - a preparation that is stopped: bmvp_prepare_images with images on grids of their own, so that each
   kind of question is asked. Runs from the top folder. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_nifti.h"
#include "bmvp_ssl.h"
#include "tests/support/check.h"
#include <math.h>

/* An ellipsoid with two others in it, 4 mm voxels; another contrast and some mm away for kind 2. */
static bmvp_nii_volume head(int kind)
{
    const int64_t dim[3] = { 40, 46, 42 };
    const double affine[16] = { 4, 0, 0, -80, 0, 4, 0, -92, 0, 0, 4, -84, 0, 0, 0, 1 };
    bmvp_nii_volume v;
    int64_t x, y, z;
    CHECK(bmvp_nii_volume_create(&v, dim, affine, NULL, NULL) == BMVP_OK);
    for (z = 0; z < dim[2]; ++z)
        for (y = 0; y < dim[1]; ++y)
            for (x = 0; x < dim[0]; ++x) {
                const double a = (double)(4 * x) - 80 - kind, b = (double)(4 * y) - 92 + kind, c = (double)(4 * z) - 84;
                const double outer = a * a / 4900 + b * b / 6400 + c * c / 4400;
                const double left = (a + 25) * (a + 25) / 300 + (b - 20) * (b - 20) / 900 + c * c / 500;
                const double low = a * a / 1500 + (b + 40) * (b + 40) / 400 + (c + 20) * (c + 20) / 300;
                v.data[(z * dim[1] + y) * dim[0] + x] =
                    outer > 1 ? 0
                              : (float)(60 + (left < 1 ? 40 - 25 * kind : 0) + (low < 1 ? 20 * kind - 30 : 0) - b / 9);
            }
    return v;
}

enum { STOP_KINDS = 4 };
typedef struct stopping {
    char kind[STOP_KINDS][16];
    int kinds, asked[STOP_KINDS], at;
    const char *stop; /* this kind at its question `at`; NULL: none */
} stopping;

static int stop_kind(void *user, const char *what, int64_t done, int64_t of)
{
    stopping *s = (stopping *)user;
    int i = 0;
    CHECK(done >= 0 && (of == 0 || done < of));
    while (i < s->kinds && strcmp(s->kind[i], what) != 0) ++i;
    if (i == s->kinds && CHECK(i < STOP_KINDS)) snprintf(s->kind[s->kinds++], sizeof s->kind[0], "%s", what);
    ++s->asked[i];
    return s->stop && strcmp(what, s->stop) == 0 && s->asked[i] == s->at;
}

/* Stopped at the first and at the last question of each kind: nothing is left, and the job given again has the bits of
   one that was never stopped. */
static void test_prepare_stopped(void)
{
    bmvp_nii_volume t1 = head(0), flair = head(2);
    bmvp_image k[2];
    bmvp_preparation how = bmvp_preparation_default();
    bmvp_prepared_images p, again;
    bmvp_prepare_job job;
    stopping s, all;
    bmvp_error err;
    int i, m, last;
    memset(&job, 0, sizeof job);
    memset(&s, 0, sizeof s);
    memset(k, 0, sizeof k);
    k[0].modality = "t1", k[0].volume = &t1;
    k[1].modality = "flair", k[1].volume = &flair;
    how.spacing = 0, how.align = BMVP_ALIGN_RIGID;
    job.image = k, job.n = 2, job.how = &how, job.keep_doubtful = 1;
    job.progress = stop_kind, job.progress_user = &s;
    check_report(bmvp_prepare_images(&p, &job, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
    CHECK(s.kinds == 3);
    all = s;
    for (i = 0; i < all.kinds; ++i)
        for (last = 0; last < 2; ++last) {
            memset(&s, 0, sizeof s);
            s.stop = all.kind[i], s.at = last ? all.asked[i] : 1;
            CHECK(bmvp_prepare_images(&again, &job, &err) == BMVP_E_CANCELLED && err.status == BMVP_E_CANCELLED);
            CHECK_HOLDS(err.message, "stopped, as was asked for");
            for (m = 0; m < BMVP_MODALITIES; ++m) CHECK(!again.image[m].data);
        }
    memset(&s, 0, sizeof s);
    CHECK(bmvp_prepare_images(&again, &job, &err) == BMVP_OK && memcmp(s.asked, all.asked, sizeof s.asked) == 0);
    for (i = 0; i < BMVP_MODALITIES; ++i) {
        const bmvp_nii_volume *a = &p.image[i], *b = &again.image[i];
        CHECK(!a->data == !b->data && memcmp(a->dim, b->dim, sizeof a->dim) == 0);
        if (a->data && b->data)
            CHECK(memcmp(a->data, b->data, (size_t)(a->dim[0] * a->dim[1] * a->dim[2]) * sizeof *a->data) == 0);
    }
    bmvp_prepared_images_free(&p), bmvp_prepared_images_free(&again);
    bmvp_nii_volume_free(&t1), bmvp_nii_volume_free(&flair);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_prepare_stopped);
    return check_end();
}
