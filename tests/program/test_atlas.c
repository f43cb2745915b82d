/* test_atlas.c - the template of --template: what cannot be one is refused by name, and Colin27 as `auto` gives it
   finds the brains of real heads. */
#include "examples/bmvp/data/atlas.h"
#include "tests/support/check.h"
#include "tests/support/overlap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bmvp_error err;

#define CHECK_OK(call) check_report((call) == BMVP_OK, __FILE__, __LINE__, "%s: %s", #call, err.message)

static const char *const head_file = "build/test_atlas_head.nii", *const brain_file = "build/test_atlas_brain.nii";

static void refused(const bmvp_nii_volume *head, const bmvp_nii_volume *brain, const char *text)
{
    atlas a;
    bmvp_status st;
    CHECK_OK(bmvp_nii_write_volume(head_file, head, BMVP_NII_FLOAT32, 1, 0, NULL, NULL, &err));
    if (brain)
        CHECK_OK(bmvp_nii_write_volume(brain_file, brain, BMVP_NII_FLOAT32, 1, 0, NULL, NULL, &err));
    memset(&err, 0, sizeof err);
    st = atlas_load(&a, head_file, brain ? brain_file : NULL, &err);
    if (text) check_report(st && strstr(err.message, text) && strstr(err.message, "test_atlas_"), __FILE__, __LINE__,
                           "status %d, '%s' is not in '%s'", (int)st, text, err.message);
    else check_report(!st && a.is.name[0], __FILE__, __LINE__, "%s", err.message);
    if (st) CHECK(!a.head.data && !a.brain.data && !a.is.head);
    atlas_free(&a);
}

static void test_refused(void)
{
    static const int64_t dim[3] = { 6, 7, 8 }, flat[3] = { 6, 7, 1 };
    bmvp_nii_volume head, brain, thin;
    int i;
    CHECK_OK(bmvp_nii_volume_create(&head, dim, NULL, NULL, &err));
    CHECK_OK(bmvp_nii_volume_create(&brain, dim, NULL, NULL, &err));
    CHECK_OK(bmvp_nii_volume_create(&thin, flat, NULL, NULL, &err));
    refused(&head, NULL, "all voxels are 0");
    for (i = 0; i < 336; ++i) head.data[i] = (float)(i % 50);
    for (i = 0; i < 42; ++i) thin.data[i] = (float)i;
    refused(&head, NULL, NULL);
    refused(&thin, NULL, "6 x 7 x 1");
    refused(&head, &brain, "is nowhere");
    for (i = 0; i < 336; ++i) brain.data[i] = 1;
    refused(&head, &brain, "is everywhere");
    brain.data[0] = 0;
    refused(&head, &brain, NULL);
    brain.affine[3] += 4;
    refused(&head, &brain, "another grid");
    brain.affine[3] -= 4;
    brain.data[9] = (float)NAN;
    refused(&head, &brain, "1 voxels are NaN");
    head.data[5] = (float)HUGE_VAL;
    refused(&head, NULL, "1 voxels are NaN or infinite");
    bmvp_nii_volume_free(&head);
    bmvp_nii_volume_free(&brain);
    bmvp_nii_volume_free(&thin);
    remove(head_file);
    remove(brain_file);
}

/* The publishers' mask, which their matrices carry: common space -> FLAIR of a visit -> this image. */
static void carried(bmvp_nii_volume *truth, const bmvp_nii_volume *common, const bmvp_nii_volume *v, const char *folder,
                    int visit, const char *name)
{
    double way[16], to_common[16];
    char path[4096];
    snprintf(path, sizeof path, "%s/study%d_FLAIR_to_common_space.txt", folder, visit);
    CHECK_OK(bmvp_nii_matrix_read(to_common, path, &err));
    memcpy(way, to_common, sizeof way);
    if (strcmp(name, "FLAIR") != 0) {
        snprintf(path, sizeof path, "%s/study%d_%s_to_FLAIR.txt", folder, visit, name);
        CHECK_OK(bmvp_nii_matrix_read(way, path, &err));
        bmvp_nii_matrix_multiply(way, way, to_common);
    }
    CHECK_OK(bmvp_nii_affine_inverse(way, way, &err));
    CHECK_OK(bmvp_nii_resample_to(truth, common, v, way, BMVP_NII_NEAREST, 0, &err));
}

/* Each image of both visits alone, against the publishers' mask. */
static void test_real_brains(void)
{
    static const char *const names[3] = { "FLAIR", "T1W", "T2W" };
    const char *data = getenv("BMVP_DATA");
    char folder[2048] = "", path[4096];
    bmvp_nii_volume common, v, truth, mask;
    atlas colin;
    int i;
    memset(&common, 0, sizeof common);
    memset(&colin, 0, sizeof colin);
    snprintf(folder, sizeof folder, "%s/data/raw/openms_raw_01", data ? data : "none");
    snprintf(path, sizeof path, "%s/brainmask_common_space.nii.gz", folder);
    if (bmvp_nii_read_volume(&common, path, NULL, NULL, &err) || atlas_load(&colin, "auto", NULL, &err)) {
        check_skip("no heads below BMVP_DATA/data/raw, or no mricron-data");
        bmvp_nii_volume_free(&common);
        return;
    }
    for (i = 0; i < 6; ++i) {
        bmvp_nii_brain_report r;
        snprintf(path, sizeof path, "%s/study%d_%s.nii.gz", folder, 1 + i / 3, names[i % 3]);
        CHECK_OK(bmvp_nii_read_volume(&v, path, NULL, NULL, &err));
        carried(&truth, &common, &v, folder, 1 + i / 3, names[i % 3]);
        CHECK_OK(bmvp_nii_brain_mask(&mask, &v, 1, &colin.head, &colin.brain, NULL, &r, &err));
        check_report(dice(&mask, &truth) >= 0.94, __FILE__, __LINE__, "%s: Dice %.4f, %.2f l, NMI %.4f, kept %.3f",
                     path, dice(&mask, &truth), r.litres, r.nmi, r.kept);
        if (getenv("REGISTER_VERBOSE"))
            printf("%d %s: Dice %.4f, %.2f l, NMI %.4f, kept %.3f, against %.2f, edge %.3f, doubts %d\n", 1 + i / 3,
                   names[i % 3], dice(&mask, &truth), r.litres, r.nmi, r.kept, r.against, r.edge, r.doubtful);
        bmvp_nii_volume_free(&mask);
        bmvp_nii_volume_free(&truth);
        bmvp_nii_volume_free(&v);
    }
    atlas_free(&colin);
    bmvp_nii_volume_free(&common);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_refused);
    CHECK_RUN(test_real_brains);
    return check_end();
}
