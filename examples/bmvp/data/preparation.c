/* preparation.c - from images as they are to volumes in [0, 1], see preparation.h */
#define _DEFAULT_SOURCE
#include "preparation.h"
#include "labels.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const prepared_mark = "bmvp prepared";

/* >>one case ------------------------------------------------------------------------------------------------------- */

bmvp_status prepare_failed(bmvp_error *err, const data_case *k, const bmvp_error *e)
{
    return bmvp_error_set(err, e->status, "case '%s': %s", k->id, e->message);
}

/* Few different whole numbers: a label map given as an image. */
static int looks_like_labels(const bmvp_nii_volume *v)
{
    const int64_t n = v->dim[0] * v->dim[1] * v->dim[2];
    float seen[8];
    int n_seen = 0, j;
    int64_t i;
    for (i = 0; i < n; ++i) {
        const float x = v->data[i];
        if (i > 0 && x == v->data[i - 1]) continue;
        for (j = 0; j < n_seen && seen[j] != x; ++j) { }
        if (j < n_seen) continue;
        if (n_seen == 8 || x < 0 || x > 255 || x != (float)(int)x) return 0;
        seen[n_seen++] = x;
    }
    return n_seen > 1;
}

static bmvp_status check_values(const bmvp_nii_volume *v, const data_case *k, int m, bmvp_error *err)
{
    const int64_t n = v->dim[0] * v->dim[1] * v->dim[2];
    int64_t i;
    if (v->n_nan + v->n_inf > 0)
        return bmvp_error_set(err, BMVP_E_FORMAT, "case '%s': %s: %lld voxels are NaN or infinite; repair the file", k->id, k->image[m],
                              (long long)(v->n_nan + v->n_inf));
    for (i = 0; i < n && v->data[i] <= 0; ++i) { }
    if (i == n) return bmvp_error_set(err, BMVP_E_FORMAT, "case '%s': %s: no voxel is above 0: there is no foreground", k->id, k->image[m]);
    if (looks_like_labels(v))
        return bmvp_error_set(err, BMVP_E_FORMAT, "case '%s': %s looks like a label map (only a few whole numbers), but stands as modality %s; "
                              "labels belong under \"label\"", k->id, k->image[m], bmvp_modality_name(m));
    return BMVP_OK;
}

static bmvp_status check_label(const prepared_case *p, const data_case *k, const bmvp_labels *l, bmvp_error *err)
{
    const int64_t dim[3] = { p->label.dim[2], p->label.dim[1], p->label.dim[0] }; /* z, y, x */
    bmvp_error e;
    if (labels_check(l, p->label.data, dim, k->label, &e) == BMVP_OK) return BMVP_OK;
    return bmvp_error_set(err, e.status, "case '%s': %s", k->id, e.message);
}

/* A case on its way: images are held without the zeros around them, each cut out of its grid (which has no data). */
typedef struct frame {
    bmvp_nii_volume first, grid[BMVP_MODALITIES]; /* grid of the first image as read; of each, after resampling */
    int64_t at[BMVP_MODALITIES][3];
} frame;

static bmvp_nii_volume grid_of(const bmvp_nii_volume *v)
{
    bmvp_nii_volume grid = *v;
    grid.data = NULL;
    grid.block = NULL;
    return grid;
}

static bmvp_status resample(bmvp_nii_volume *v, double spacing, int mode, bmvp_error *e)
{
    const double mm[3] = { spacing, spacing, spacing };
    bmvp_nii_resample how;
    memset(&how, 0, sizeof how);
    how.mode = mode;
    return spacing > 0 ? bmvp_nii_spacing(v, mm, &how, e) : BMVP_OK;
}

static bmvp_status trim(bmvp_nii_volume *v, int64_t at[3], bmvp_error *e)
{
    bmvp_nii_box box;
    bmvp_status st = bmvp_nii_nonzero_box(&box, v, e);
    if (st == BMVP_OK && box.end[0] > box.start[0]) st = bmvp_nii_crop(v, &box, 0, e);
    memcpy(at, box.start, sizeof box.start);
    return st;
}

static bmvp_status read_images(prepared_case *p, frame *f, const data_case *k, double spacing, const bmvp_nii_options *io,
                               bmvp_error *err)
{
    int m, first = -1;
    bmvp_nii_load how;
    bmvp_error e;
    bmvp_status st;
    memset(&how, 0, sizeof how);
    how.axcodes = "RAS";
    for (m = 0; m < BMVP_MODALITIES; ++m) {
        bmvp_nii_volume *v = &p->image[m];
        if (!k->image[m]) continue;
        how.t = k->channel[m] > 0 ? k->channel[m] : 0;
        how.first = k->channel[m] >= 0;
        if (bmvp_nii_read_volume(v, k->image[m], &how, io, &e) != BMVP_OK) return prepare_failed(err, k, &e);
        st = check_values(v, k, m, err);
        if (st) return st;
        if (first < 0) {
            first = m;
            f->first = grid_of(v);
        } else if (bmvp_nii_one_grid(&f->first, v)) {
            memcpy(v->affine, f->first.affine, sizeof v->affine);
        } else
            return bmvp_error_set(err, BMVP_E_SHAPE, "case '%s': %s (%lldx%lldx%lld) and %s (%lldx%lldx%lld) are on different grids; register and "
                                  "resample them to one", k->id, k->image[first], (long long)f->first.dim[0], (long long)f->first.dim[1],
                                  (long long)f->first.dim[2], k->image[m], (long long)v->dim[0], (long long)v->dim[1], (long long)v->dim[2]);
        if (resample(v, spacing, BMVP_NII_LINEAR, &e) != BMVP_OK) return prepare_failed(err, k, &e);
        f->grid[m] = grid_of(v);
        if (trim(v, f->at[m], &e) != BMVP_OK) return prepare_failed(err, k, &e);
    }
    return BMVP_OK;
}

static bmvp_status read_label(prepared_case *p, const frame *f, const data_case *k, const prepare_options *o,
                              const bmvp_nii_options *io, bmvp_error *err)
{
    bmvp_nii_load how;
    bmvp_error e;
    bmvp_status st;
    int first = 0;
    if (!k->label) return BMVP_OK;
    memset(&how, 0, sizeof how);
    how.axcodes = "RAS";
    while (!k->image[first]) ++first;
    if (bmvp_nii_read_volume(&p->label, k->label, &how, io, &e) != BMVP_OK) return prepare_failed(err, k, &e);
    if (!bmvp_nii_one_grid(&f->first, &p->label))
        return bmvp_error_set(err, BMVP_E_SHAPE, "case '%s': label %s and image %s are on different grids", k->id, k->label, k->image[first]);
    memcpy(p->label.affine, f->first.affine, sizeof p->label.affine);
    st = check_label(p, k, k->labels ? k->labels : o->labels, err);
    if (!st && k->labels && o->labels)
        st = labels_translate(k->labels, o->labels, p->label.data, p->label.dim[0] * p->label.dim[1] * p->label.dim[2], k->label, err);
    if (st) return st;
    return resample(&p->label, o->spacing, BMVP_NII_NEAREST, &e) == BMVP_OK ? BMVP_OK : prepare_failed(err, k, &e);
}

/* The box of voxels above 0 in any modality, in the grid they share. */
static bmvp_status foreground(bmvp_nii_box *box, const prepared_case *p, const frame *f, const data_case *k, int centre, bmvp_error *err)
{
    const int64_t *dim = NULL;
    bmvp_error e;
    int m, a;
    memset(box, 0, sizeof *box);
    for (m = 0; m < BMVP_MODALITIES; ++m) {
        bmvp_nii_box own;
        if (!p->image[m].data) continue;
        if (dim && memcmp(dim, f->grid[m].dim, sizeof f->grid[m].dim) != 0)
            return bmvp_error_set(err, BMVP_E_SHAPE, "case '%s': %s has another size than the other images after resampling", k->id, k->image[m]);
        dim = f->grid[m].dim;
        if (bmvp_nii_foreground_box(&own, &p->image[m], 1, 0, &e) != BMVP_OK) return prepare_failed(err, k, &e);
        if (own.end[0] == own.start[0]) continue;
        for (a = 0; a < 3; ++a) {
            const int64_t start = own.start[a] + f->at[m][a], end = own.end[a] + f->at[m][a];
            own.start[a] = box->end[a] > 0 && box->start[a] < start ? box->start[a] : start;
            own.end[a] = box->end[a] > end ? box->end[a] : end;
        }
        *box = own;
    }
    if (centre) bmvp_nii_center_box(box, dim);
    return BMVP_OK;
}

/* One box for all modalities and the label. */
static bmvp_status crop(prepared_case *p, const frame *f, const data_case *k, int centre, bmvp_error *err)
{
    bmvp_error e;
    bmvp_nii_box box;
    int m, a;
    bmvp_status st = foreground(&box, p, f, k, centre, err);
    if (st) return st;
    for (m = 0; m < BMVP_MODALITIES; ++m) {
        bmvp_nii_box own = box;
        if (!p->image[m].data) continue;
        for (a = 0; a < 3; ++a) {
            own.start[a] -= f->at[m][a];
            own.end[a] -= f->at[m][a];
        }
        if (bmvp_nii_crop(&p->image[m], &own, 0, &e) != BMVP_OK) return prepare_failed(err, k, &e);
        bmvp_nii_box_affine(p->image[m].affine, f->grid[m].affine, &box); /* the numbers of one crop, not of two */
    }
    if (p->label.data && bmvp_nii_crop(&p->label, &box, 0, &e) != BMVP_OK) return prepare_failed(err, k, &e);
    return BMVP_OK;
}

bmvp_status prepare_gather(prepared_case *p, const data_case *k, const prepare_options *o, const bmvp_nii_options *io,
                           bmvp_error *err)
{
    bmvp_status st;
    frame f;
    memset(p, 0, sizeof *p);
    memset(&f, 0, sizeof f);
    st = read_images(p, &f, k, o->spacing, io, err);
    if (!st) st = read_label(p, &f, k, o, io, err);
    if (!st) st = crop(p, &f, k, o->centre, err);
    return st;
}

bmvp_status prepare_finish(bmvp_nii_volume *v, int is_label, const data_case *k, const prepare_options *o, bmvp_error *err)
{
    bmvp_nii_scale scale;
    bmvp_error e;
    memset(&scale, 0, sizeof scale);
    scale.lower = o->low;
    scale.upper = o->high;
    scale.b_max = 1;
    scale.clip = 1;
    scale.sparse = 1;
    if (!v->data) return BMVP_OK;
    if (!is_label && bmvp_nii_scale_percentiles(v, &scale, NULL, &e) != BMVP_OK) return prepare_failed(err, k, &e);
    if (o->resize[0] > 0 && bmvp_nii_resize(v, o->resize, is_label ? BMVP_NII_NEAREST : BMVP_NII_LINEAR, 0, &e) != BMVP_OK)
        return prepare_failed(err, k, &e);
    return BMVP_OK;
}

bmvp_status prepare_case(prepared_case *p, const data_case *k, const prepare_options *o, const bmvp_nii_options *io,
                         bmvp_error *err)
{
    bmvp_status st = prepare_gather(p, k, o, io, err);
    int m;
    for (m = 0; m < BMVP_MODALITIES && !st; ++m) st = prepare_finish(&p->image[m], 0, k, o, err);
    if (!st) st = prepare_finish(&p->label, 1, k, o, err);
    if (st) prepared_case_free(p);
    return st;
}

bmvp_status prepare_or_read(prepared_case *p, const data_case *k, const prepare_options *o, bmvp_error *err)
{
    bmvp_nii_image head;
    bmvp_error e;
    int m, ready = 1;
    memset(p, 0, sizeof *p);
    for (m = 0; m < BMVP_MODALITIES; ++m) {
        if (!k->image[m]) continue;
        if (bmvp_nii_read_header(&head, k->image[m], NULL, &e) != BMVP_OK) return prepare_failed(err, k, &e);
        ready = ready && strcmp(head.descrip, prepared_mark) == 0;
        bmvp_nii_image_free(&head);
    }
    if (!ready) return prepare_case(p, k, o, NULL, err);
    for (m = 0; m < BMVP_MODALITIES; ++m)
        if (k->image[m] && bmvp_nii_read_volume(&p->image[m], k->image[m], NULL, NULL, &e) != BMVP_OK) {
            prepared_case_free(p);
            return prepare_failed(err, k, &e);
        }
    return BMVP_OK;
}

bmvp_status prepare_write(const prepare_options *o, bmvp_jw *w, bmvp_error *err)
{
    int a;
    bmvp_jw_object(w, NULL);
    bmvp_jw_double(w, "spacing", o->spacing);
    bmvp_jw_double(w, "percentile_low", o->low);
    bmvp_jw_double(w, "percentile_high", o->high);
    bmvp_jw_bool(w, "centre_crop", o->centre);
    if (o->resize[0] > 0) {
        bmvp_jw_array(w, "resize");
        for (a = 0; a < 3; ++a) bmvp_jw_int(w, NULL, o->resize[a]);
        bmvp_jw_end(w);
    }
    bmvp_jw_end(w);
    return bmvp_jw_finish(w, err);
}

bmvp_status prepare_read(const char *text, const char *name, prepare_options *o, bmvp_error *err)
{
    bmvp_json_doc *doc = NULL;
    bmvp_status st = bmvp_json_parse(text, strlen(text), name, NULL, &doc, err);
    const bmvp_json *root = st ? NULL : bmvp_json_root(doc);
    int a;
    if (st) return st;
    o->spacing = bmvp_json_double(bmvp_json_get(root, "spacing"), o->spacing);
    o->low = bmvp_json_double(bmvp_json_get(root, "percentile_low"), o->low);
    o->high = bmvp_json_double(bmvp_json_get(root, "percentile_high"), o->high);
    o->centre = bmvp_json_bool(bmvp_json_get(root, "centre_crop"), o->centre);
    for (a = 0; a < 3; ++a) o->resize[a] = bmvp_json_int(bmvp_json_at(bmvp_json_get(root, "resize"), a), o->resize[a]);
    bmvp_json_free(doc);
    return BMVP_OK;
}

void prepared_case_free(prepared_case *p)
{
    int m;
    for (m = 0; m < BMVP_MODALITIES; ++m) bmvp_nii_volume_free(&p->image[m]);
    bmvp_nii_volume_free(&p->label);
}
