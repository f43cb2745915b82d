/* prepare.c - `bmvp prepare`: method section 3, from images as they are to int16 .nii files in [0, 1] that any viewer opens */
#define _DEFAULT_SOURCE
#include "prepare.h"
#include "cli.h"
#include "commands.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const bmvp_prepared_mark = "bmvp prepared";

/* ---- one case ----------------------------------------------------------------------------------------------------------- */

static bmvp_status failed(bmvp_error *err, const bmvp_case *k, const bmvp_nii_error *e)
{
    return bmvp_error_set(err, BMVP_E_IO, "case '%s': %s", k->id, e->message);
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

static bmvp_status check_values(const bmvp_nii_volume *v, const bmvp_case *k, int m, bmvp_error *err)
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

static bmvp_status check_label(const bmvp_prepared_case *p, const bmvp_case *k, const bmvp_labels *l, bmvp_error *err)
{
    const int64_t dim[3] = { p->label.dim[2], p->label.dim[1], p->label.dim[0] }; /* z, y, x */
    bmvp_error e;
    if (bmvp_labels_check(l, p->label.data, dim, k->label, &e) == BMVP_OK) return BMVP_OK;
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

static bmvp_nii_status resample(bmvp_nii_volume *v, double spacing, int mode, bmvp_nii_error *e)
{
    const double mm[3] = { spacing, spacing, spacing };
    bmvp_nii_resample how;
    memset(&how, 0, sizeof how);
    how.mode = mode;
    return spacing > 0 ? bmvp_nii_spacing(v, mm, &how, e) : BMVP_NII_OK;
}

static bmvp_nii_status trim(bmvp_nii_volume *v, int64_t at[3], bmvp_nii_error *e)
{
    bmvp_nii_box box;
    bmvp_nii_status st = bmvp_nii_nonzero_box(&box, v, e);
    if (st == BMVP_NII_OK && box.end[0] > box.start[0]) st = bmvp_nii_crop(v, &box, 0, e);
    memcpy(at, box.start, sizeof box.start);
    return st;
}

static bmvp_status read_images(bmvp_prepared_case *p, frame *f, const bmvp_case *k, double spacing, const bmvp_nii_options *io,
                               bmvp_error *err)
{
    int m, first = -1;
    bmvp_nii_load how;
    bmvp_nii_error e;
    bmvp_status st;
    memset(&how, 0, sizeof how);
    how.axcodes = "RAS";
    for (m = 0; m < BMVP_MODALITIES; ++m) {
        bmvp_nii_volume *v = &p->image[m];
        if (!k->image[m]) continue;
        if (bmvp_nii_read_volume(v, k->image[m], &how, io, &e) != BMVP_NII_OK) return failed(err, k, &e);
        st = check_values(v, k, m, err);
        if (st) return st;
        if (first < 0) {
            first = m;
            f->first = grid_of(v);
        } else if (!bmvp_nii_same_grid(&f->first, v, 1e-4, 1e-2))
            return bmvp_error_set(err, BMVP_E_SHAPE, "case '%s': %s (%lldx%lldx%lld) and %s (%lldx%lldx%lld) are on different grids; register and "
                                  "resample them to one", k->id, k->image[first], (long long)f->first.dim[0], (long long)f->first.dim[1],
                                  (long long)f->first.dim[2], k->image[m], (long long)v->dim[0], (long long)v->dim[1], (long long)v->dim[2]);
        if (resample(v, spacing, BMVP_NII_LINEAR, &e) != BMVP_NII_OK) return failed(err, k, &e);
        f->grid[m] = grid_of(v);
        if (trim(v, f->at[m], &e) != BMVP_NII_OK) return failed(err, k, &e);
    }
    return BMVP_OK;
}

static bmvp_status read_label(bmvp_prepared_case *p, const frame *f, const bmvp_case *k, const bmvp_prepare_options *o,
                              const bmvp_nii_options *io, bmvp_error *err)
{
    bmvp_nii_load how;
    bmvp_nii_error e;
    bmvp_status st;
    int first = 0;
    if (!k->label) return BMVP_OK;
    memset(&how, 0, sizeof how);
    how.axcodes = "RAS";
    while (!k->image[first]) ++first;
    if (bmvp_nii_read_volume(&p->label, k->label, &how, io, &e) != BMVP_NII_OK) return failed(err, k, &e);
    if (!bmvp_nii_same_grid(&f->first, &p->label, 1e-4, 1e-2))
        return bmvp_error_set(err, BMVP_E_SHAPE, "case '%s': label %s and image %s are on different grids", k->id, k->label, k->image[first]);
    st = o->labels ? check_label(p, k, o->labels, err) : BMVP_OK;
    if (st) return st;
    return resample(&p->label, o->spacing, BMVP_NII_NEAREST, &e) == BMVP_NII_OK ? BMVP_OK : failed(err, k, &e);
}

/* The box of voxels above 0 in any modality, in the grid they share. */
static bmvp_status foreground(bmvp_nii_box *box, const bmvp_prepared_case *p, const frame *f, const bmvp_case *k, int centre, bmvp_error *err)
{
    const int64_t *dim = NULL;
    bmvp_nii_error e;
    int m, a;
    memset(box, 0, sizeof *box);
    for (m = 0; m < BMVP_MODALITIES; ++m) {
        bmvp_nii_box own;
        if (!p->image[m].data) continue;
        if (dim && memcmp(dim, f->grid[m].dim, sizeof f->grid[m].dim) != 0)
            return bmvp_error_set(err, BMVP_E_SHAPE, "case '%s': %s has another size than the other images after resampling", k->id, k->image[m]);
        dim = f->grid[m].dim;
        if (bmvp_nii_foreground_box(&own, &p->image[m], 1, 0, &e) != BMVP_NII_OK) return failed(err, k, &e);
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
static bmvp_status crop(bmvp_prepared_case *p, const frame *f, const bmvp_case *k, int centre, bmvp_error *err)
{
    bmvp_nii_error e;
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
        if (bmvp_nii_crop(&p->image[m], &own, 0, &e) != BMVP_NII_OK) return failed(err, k, &e);
        bmvp_nii_box_affine(p->image[m].affine, f->grid[m].affine, &box); /* the numbers of one crop, not of two */
    }
    if (p->label.data && bmvp_nii_crop(&p->label, &box, 0, &e) != BMVP_NII_OK) return failed(err, k, &e);
    return BMVP_OK;
}

/* Everything that needs all images together. */
static bmvp_status gather_case(bmvp_prepared_case *p, const bmvp_case *k, const bmvp_prepare_options *o, const bmvp_nii_options *io,
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

/* The rest, for one image or the label; nothing for one that is missing. */
static bmvp_status finish(bmvp_nii_volume *v, int is_label, const bmvp_case *k, const bmvp_prepare_options *o, bmvp_error *err)
{
    bmvp_nii_scale scale;
    bmvp_nii_error e;
    memset(&scale, 0, sizeof scale);
    scale.lower = o->low;
    scale.upper = o->high;
    scale.b_max = 1;
    scale.clip = 1;
    if (!v->data) return BMVP_OK;
    if (!is_label && bmvp_nii_scale_percentiles(v, &scale, NULL, &e) != BMVP_NII_OK) return failed(err, k, &e);
    if (o->resize[0] > 0 && bmvp_nii_resize(v, o->resize, is_label ? BMVP_NII_NEAREST : BMVP_NII_LINEAR, 0, &e) != BMVP_NII_OK)
        return failed(err, k, &e);
    return BMVP_OK;
}

bmvp_status bmvp_prepare_case(bmvp_prepared_case *p, const bmvp_case *k, const bmvp_prepare_options *o, const bmvp_nii_options *io,
                              bmvp_error *err)
{
    bmvp_status st = gather_case(p, k, o, io, err);
    int m;
    for (m = 0; m < BMVP_MODALITIES && !st; ++m) st = finish(&p->image[m], 0, k, o, err);
    if (!st) st = finish(&p->label, 1, k, o, err);
    if (st) bmvp_prepared_case_free(p);
    return st;
}

bmvp_status bmvp_prepare_or_read(bmvp_prepared_case *p, const bmvp_case *k, const bmvp_prepare_options *o, bmvp_error *err)
{
    bmvp_nii_image head;
    bmvp_nii_error e;
    int m, ready = 1;
    memset(p, 0, sizeof *p);
    for (m = 0; m < BMVP_MODALITIES; ++m) {
        if (!k->image[m]) continue;
        if (bmvp_nii_read_header(&head, k->image[m], NULL, &e) != BMVP_NII_OK) return failed(err, k, &e);
        ready = ready && strcmp(head.descrip, bmvp_prepared_mark) == 0;
        bmvp_nii_image_free(&head);
    }
    if (!ready) return bmvp_prepare_case(p, k, o, NULL, err);
    for (m = 0; m < BMVP_MODALITIES; ++m)
        if (k->image[m] && bmvp_nii_read_volume(&p->image[m], k->image[m], NULL, NULL, &e) != BMVP_NII_OK) {
            bmvp_prepared_case_free(p);
            return failed(err, k, &e);
        }
    return BMVP_OK;
}

bmvp_status bmvp_prepare_write(const bmvp_prepare_options *o, bmvp_jw *w, bmvp_error *err)
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

bmvp_status bmvp_prepare_read(const char *text, const char *name, bmvp_prepare_options *o, bmvp_error *err)
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

void bmvp_prepared_case_free(bmvp_prepared_case *p)
{
    int m;
    for (m = 0; m < BMVP_MODALITIES; ++m) bmvp_nii_volume_free(&p->image[m]);
    bmvp_nii_volume_free(&p->label);
}

/* ---- all cases ------------------------------------------------------------------------------------------------------------ */

typedef struct job {
    bmvp_dataset in, out;
    bmvp_prepare_options o;
    const char *dir;
    char *done;          /* for each case: 1 written or already there */
    int64_t n_done, n_failed, n_kept;
    bmvp_nii_pool *pool; /* one for each worker */
    pthread_mutex_t lock;
    bmvp_cli_progress progress;
} job;

/* Path of one output file, made in the case's folder. */
static char *output_path(const job *j, const char *id, const char *name)
{
    char *dir = bmvp_path_join(j->dir, id), *path = NULL, file[64];
    snprintf(file, sizeof file, "%s.nii", name);
    if (dir) path = bmvp_path_join(dir, file);
    free(dir);
    return path;
}

static int already_there(const job *j, const bmvp_case *k)
{
    int m, all = 1;
    char *path;
    for (m = 0; m < BMVP_MODALITIES && all; ++m) {
        if (!k->image[m]) continue;
        path = output_path(j, k->id, bmvp_modality_name(m));
        all = path && bmvp_file_exists(path);
        free(path);
    }
    if (!k->label || !all) return all;
    path = output_path(j, k->id, "seg");
    all = path && bmvp_file_exists(path);
    free(path);
    return all;
}

/* Finishes, writes and frees one image or label: the next one gets its memory while that is still in the cache. */
static bmvp_status write_one(const job *j, const bmvp_case *k, const char *name, bmvp_nii_volume *v, int is_label, const bmvp_nii_options *io,
                             bmvp_error *err)
{
    char *path;
    bmvp_nii_image image;
    bmvp_nii_error e;
    bmvp_nii_status st;
    bmvp_status done;
    if (!v->data) return BMVP_OK;
    done = finish(v, is_label, k, &j->o, err);
    if (done) return done;
    path = output_path(j, k->id, name);
    if (!path) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    st = bmvp_nii_from_volume(&image, v, BMVP_NII_INT16, is_label ? 1 : 1.0 / 32767, 0, NULL, io, &e);
    bmvp_nii_volume_free(v);
    if (st == BMVP_NII_OK) {
        snprintf(image.descrip, sizeof image.descrip, "%s", bmvp_prepared_mark);
        st = bmvp_nii_write(path, &image, NULL, &e);
        bmvp_nii_image_free(&image);
    }
    free(path);
    return st == BMVP_NII_OK ? BMVP_OK : failed(err, k, &e);
}

static bmvp_status prepare_and_write(const job *j, const bmvp_case *k, const bmvp_nii_options *io, bmvp_error *err)
{
    char *dir = bmvp_path_join(j->dir, k->id);
    bmvp_prepared_case p;
    bmvp_status st = gather_case(&p, k, &j->o, io, err);
    int m;
    if (!st && (!dir || bmvp_cli_make_dir(dir) != 0))
        st = bmvp_error_set(err, BMVP_E_IO, "case '%s': folder %s: %s", k->id, dir ? dir : "?", strerror(errno));
    free(dir);
    for (m = 0; m < BMVP_MODALITIES && !st; ++m) st = write_one(j, k, bmvp_modality_name(m), &p.image[m], 0, io, err);
    if (!st) st = write_one(j, k, "seg", &p.label, 1, io, err);
    bmvp_prepared_case_free(&p);
    return st;
}

static void prepare_task(void *arg, int64_t i, int worker)
{
    job *j = (job *)arg;
    const bmvp_case *k = &j->in.item[i];
    const int kept = already_there(j, k);
    bmvp_status st = BMVP_OK;
    bmvp_nii_options io;
    bmvp_error err;
    double seconds, left;
    memset(&io, 0, sizeof io);
    io.memory = bmvp_nii_pool_memory(&j->pool[worker]);
    if (!kept) st = prepare_and_write(j, k, &io, &err);
    pthread_mutex_lock(&j->lock);
    j->done[i] = st == BMVP_OK;
    j->n_kept += kept;
    ++j->n_done;
    if (st) {
        ++j->n_failed;
        fprintf(stderr, "\nbmvp prepare: left out: %s\n", err.message);
    }
    seconds = bmvp_cli_elapsed(&j->progress);
    left = j->n_done > j->n_kept ? seconds / (double)(j->n_done - j->n_kept) * (double)(j->in.n - j->n_done) : 0;
    bmvp_cli_status(&j->progress, j->n_done == j->in.n, "%lld of %lld cases  %lld left out  %.0f s, %.0f s left", (long long)j->n_done,
                    (long long)j->in.n, (long long)j->n_failed, seconds, left);
    pthread_mutex_unlock(&j->lock);
}

/* The list of what is there, with the paths of the prepared files. */
static bmvp_status list_done(job *j, bmvp_error *err)
{
    char *path = bmvp_path_join(j->dir, "dataset.json");
    bmvp_status st = BMVP_OK;
    int64_t i;
    int m;
    for (i = 0; i < j->in.n; ++i) {
        const bmvp_case *from = &j->in.item[i];
        bmvp_case *to;
        if (!j->done[i]) continue;
        to = bmvp_dataset_add(&j->out, from->id);
        if (!to) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        for (m = 0; m < BMVP_MODALITIES; ++m)
            if (from->image[m]) to->image[m] = output_path(j, from->id, bmvp_modality_name(m));
        if (from->label) to->label = output_path(j, from->id, "seg");
        to->klass = from->klass;
        if (from->patient) to->patient = bmvp_text_copy(from->patient);
    }
    j->out.labels = j->in.labels;
    j->out.has_labels = j->in.has_labels;
    st = path ? bmvp_dataset_save(&j->out, path, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    free(path);
    return st;
}

/* OUT/prepare.json holds the settings: files made with others are not mixed in. */
static bmvp_status check_settings(const job *j, bmvp_error *err)
{
    char *path = bmvp_path_join(j->dir, "prepare.json"), *text;
    bmvp_status st;
    size_t size;
    bmvp_jw w;
    bmvp_jw_init(&w, 1, NULL);
    st = path ? bmvp_prepare_write(&j->o, &w, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    text = st ? NULL : bmvp_cli_read_file(path, &size);
    if (!st && text && strcmp(text, w.out.data) != 0)
        st = bmvp_error_set(err, BMVP_E_ARG, "%s: the files there were prepared with other settings; choose another --out or remove it", path);
    else if (!st && !text) st = bmvp_file_write(path, w.out.data, w.out.len, NULL, err);
    free(text);
    free(path);
    bmvp_jw_free(&w);
    return st;
}

static int run(job *j, int64_t threads)
{
    bmvp_config k = bmvp_config_default();
    bmvp_error err;
    bmvp_ctx *c;
    int i;
    bmvp_status st = bmvp_cli_make_dir(j->dir) == 0 ? BMVP_OK : bmvp_error_set(&err, BMVP_E_IO, "--out %s: %s", j->dir, strerror(errno));
    if (!st) st = check_settings(j, &err);
    k.threads = (int)threads;
    c = st ? NULL : bmvp_create(&k, &err);
    j->done = (char *)calloc((size_t)j->in.n, 1);
    j->pool = c ? (bmvp_nii_pool *)calloc((size_t)bmvp_threads(c), sizeof *j->pool) : NULL;
    if (!st && (!c || !j->done || !j->pool)) st = bmvp_error_set(&err, BMVP_E_OOM, "out of memory");
    if (!st) {
        pthread_mutex_init(&j->lock, NULL);
        (void)bmvp_cli_elapsed(&j->progress);
        bmvp_parallel(c, j->in.n, prepare_task, j);
        pthread_mutex_destroy(&j->lock);
        st = list_done(j, &err);
    }
    for (i = 0; j->pool && i < bmvp_threads(c); ++i) bmvp_nii_pool_free(&j->pool[i]);
    free(j->pool);
    bmvp_destroy(c);
    if (st) return bmvp_cli_fail(BMVP_CLI_FAILED, "prepare", "%s", err.message);
    printf("%s/dataset.json: %lld cases (%lld new, %lld were there), %lld left out\n", j->dir, (long long)j->out.n,
           (long long)(j->out.n - j->n_kept), (long long)j->n_kept, (long long)j->n_failed);
    return j->n_failed ? BMVP_CLI_FAILED : BMVP_CLI_DONE;
}

static int parse_size(const char *text, int64_t size[3])
{
    char *end;
    int a;
    for (a = 0; a < 3; ++a, text = end + 1) {
        size[a] = strtoll(text, &end, 10);
        if (end == text || size[a] < 1 || size[a] > 4096 || *end != (a < 2 ? ',' : 0)) return 0;
    }
    return 1;
}

int bmvp_cmd_prepare(int argc, char **argv)
{
    const char *data, *dir, *size;
    int64_t threads;
    int preset, code;
    bmvp_error err;
    job j;
    memset(&j, 0, sizeof j);
    {
        bmvp_cli_option opt[] = {
            bmvp_cli_required("data", &data, "LIST|DIR", "data list (ours or decathlon-style), or a directory with one folder a case"),
            bmvp_cli_required("out", &dir, "DIR", "folder for the prepared cases and their dataset.json"),
            bmvp_cli_choice("preset", &preset, 0, "paper|release|fast|finetune",
                            "percentiles 1-99 and foreground box; release: 5-95 and centred box; finetune: 5-95 and foreground box"),
            bmvp_cli_float("spacing", &j.o.spacing, 1, 0, 100, "voxel size in mm; 0 keeps that of each file"),
            bmvp_cli_float("low", &j.o.low, 1, 0, 100, "percentile that becomes 0"),
            bmvp_cli_float("high", &j.o.high, 99, 0, 100, "percentile that becomes 1"),
            bmvp_cli_string("resize", &size, NULL, "X,Y,Z", "then resize to so many voxels (classification: 128,128,64)"),
            bmvp_cli_int("threads", &threads, 0, 0, 1024, "0: one for each processor"),
        };
        const int n = (int)(sizeof opt / sizeof *opt);
        code = bmvp_cli_parse("prepare", "Reorient, resample, crop and scale cases for training. Run again, it does what is missing.", opt, n,
                              argc, argv);
        if (code >= 0) return code;
        j.o.centre = preset == 1;
        if (preset % 2 == 1 && !bmvp_cli_given(opt, n, "low")) j.o.low = 5; /* release and finetune */
        if (preset % 2 == 1 && !bmvp_cli_given(opt, n, "high")) j.o.high = 95;
    }
    if (size && !parse_size(size, j.o.resize))
        return bmvp_cli_fail(BMVP_CLI_USAGE, "prepare", "--resize %s: must be three whole numbers from 1 to 4096, as 128,128,64", size);
    if (j.o.low >= j.o.high) return bmvp_cli_fail(BMVP_CLI_USAGE, "prepare", "--low %g must be below --high %g", j.o.low, j.o.high);
    j.dir = dir;
    if (bmvp_dataset_load(&j.in, data, &err)) return bmvp_cli_fail(BMVP_CLI_FAILED, "prepare", "%s", err.message);
    j.o.labels = j.in.has_labels ? &j.in.labels : NULL;
    code = run(&j, threads);
    free(j.done);
    bmvp_dataset_free(&j.in);
    bmvp_dataset_free(&j.out);
    return code;
}
