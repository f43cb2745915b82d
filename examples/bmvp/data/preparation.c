/* preparation.c - cases and the library's preparation, see preparation.h */
#include "preparation.h"
#include "files.h"
#include "labels.h"
#include <stdio.h>
#include <string.h>

static bmvp_status of_case(const data_case *k, bmvp_status st, const bmvp_error *e, bmvp_error *err)
{
    return st ? bmvp_error_set(err, st, "case '%s': %s", k->id, e->message) : BMVP_OK;
}

int case_images(const data_case *k, bmvp_image image[BMVP_MODALITIES])
{
    int m, n = 0;
    memset(image, 0, BMVP_MODALITIES * sizeof *image);
    for (m = 0; m < BMVP_MODALITIES; ++m) {
        if (!k->image[m]) continue;
        image[n].modality = bmvp_modality_name(m);
        image[n].channel = k->channel[m] + 1;
        image[n].channels = k->channels[m];
        image[n++].path = k->image[m];
    }
    return n;
}

/* What was replaced or may be meant otherwise. */
static void say_doubts(const data_case *k, const bmvp_prepared_images *p)
{
    int m;
    for (m = 0; m <= BMVP_MODALITIES; ++m) {
        const char *file = m < BMVP_MODALITIES ? k->image[m] : k->label;
        if (p->by_qform >> m & 1u)
            say(stderr,
                    "\nbmvp: case '%s': %s: placed by its qform: its sform is singular or does not fit the voxel size, "
                    "and says another place\n",
                    k->id, file);
        if (p->forms_apart[m] > 0)
            say(stderr,
                "\nbmvp: case '%s': %s: its sform and its qform place it %.1f mm apart; the sform is taken (`bmvp "
                "info` shows both codes)\n",
                k->id, file, p->forms_apart[m]);
        if (p->few >> m & 1u)
            say(stderr,
                    "\nbmvp: case '%s': %s has fewer than nine different values: is it a mask or a map of labels? It "
                    "is taken as %s\n",
                    k->id, file, bmvp_modality_name(m));
    }
}

bmvp_status prepare_gather(bmvp_prepared_images *p, const data_case *k, const bmvp_preparation *how,
                           const bmvp_labels *labels, const bmvp_atlas *atlas, int keep_doubtful,
                           const bmvp_nii_options *io, bmvp_error *err)
{
    bmvp_image image[BMVP_MODALITIES], label;
    bmvp_prepare_job job;
    bmvp_error e;
    bmvp_status st;
    memset(&job, 0, sizeof job);
    memset(&label, 0, sizeof label);
    label.path = k->label;
    job.n = case_images(k, image);
    job.image = image;
    if (k->label) job.label = &label;
    job.labels = k->labels ? k->labels : labels;
    job.how = how;
    job.atlas = atlas;
    job.keep_doubtful = keep_doubtful;
    job.io = io;
    job.constants = 1; /* as in prediction: scaled, it would be 0 everywhere */
    st = bmvp_prepare_images(p, &job, &e);
    if (!st && !p->frame.dim[0]) { /* no image but those of one value: what is above 0 is prepared */
        job.constants = 0;
        st = bmvp_prepare_images(p, &job, &e);
        if (!st && p->frame.dim[0])
            say(stderr,
                    "\nbmvp: case '%s': %s has one value everywhere, and there is no other image: it becomes 0\n",
                    k->id, image[0].path);
    }
    if (!st && !p->frame.dim[0])
        st = bmvp_error_set(&e, BMVP_E_FORMAT, "%s: no voxel is above 0: there is no foreground", image[0].path);
    if (!st) say_doubts(k, p);
    if (!st && p->label.data && k->labels && labels)
        st = labels_translate(k->labels, labels, p->label.data, p->label.dim[0] * p->label.dim[1] * p->label.dim[2],
                              k->label, &e);
    if (st) bmvp_prepared_images_free(p);
    return of_case(k, st, &e, err);
}

bmvp_status prepare_finish(bmvp_nii_volume *v, int is_label, const data_case *k, const bmvp_preparation *how,
                           bmvp_error *err)
{
    bmvp_error e;
    return of_case(k, bmvp_prepare_values(v, is_label, how, &e), &e, err);
}

/* Did prepare write all of them? */
static bmvp_status are_prepared(const bmvp_image *image, int n, int *ready, bmvp_error *err)
{
    bmvp_nii_image header;
    int i;
    for (i = 0, *ready = 1; i < n; ++i) {
        const bmvp_status st = bmvp_nii_read_header(&header, image[i].path, NULL, err);
        if (st) return st;
        *ready = *ready && bmvp_is_prepared(&header);
        bmvp_nii_image_free(&header);
    }
    return BMVP_OK;
}

bmvp_status prepare_or_read(bmvp_prepared_images *p, const data_case *k, const bmvp_preparation *how, bmvp_error *err)
{
    data_case images = *k;
    bmvp_image image[BMVP_MODALITIES];
    const int n = case_images(k, image);
    bmvp_error e;
    bmvp_status st;
    int m, i, ready;
    memset(p, 0, sizeof *p);
    images.label = NULL;
    st = of_case(k, are_prepared(image, n, &ready, &e), &e, err);
    if (st) return st;
    for (i = 0; i < n && ready && !st; ++i)
        st =
            of_case(k, bmvp_image_read(&p->image[bmvp_modality_find(image[i].modality)], &image[i], NULL, &e), &e, err);
    if (!ready) st = prepare_gather(p, &images, how, NULL, NULL, 0, NULL, err);
    for (m = 0; m < BMVP_MODALITIES && !ready && !st; ++m) st = prepare_finish(&p->image[m], 0, k, how, err);
    if (st) bmvp_prepared_images_free(p);
    return st;
}
