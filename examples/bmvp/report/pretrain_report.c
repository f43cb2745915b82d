/* pretrain_report.c - the page of a pre-training run: curves, templates as they grew, and what the network makes of a
   few crops */
#define _DEFAULT_SOURCE
#include "pretrain_report.h"
#include "report.h"
#include "data/files.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLANES = 3, MAX_SNAPSHOTS = 64, MAX_CASES = 3 };
static const char *const plane_name[PLANES] = { "axial", "coronal", "sagittal" };

/* >>snapshots: tensors `step.modality.plane` in one small file ----------------------------------------------------- */

/* "rep_template.t1" -> "t1" */
static const char *modality_of(const bmvp_tensor *t)
{
    const char *dot = strrchr(t->name, '.');
    return dot ? dot + 1 : t->name;
}

typedef struct slice { /* one picture on its way between files */
    char name[64];
    int64_t dim[2];
    float *data;
} slice;

typedef struct slices {
    slice *item;
    int n, cap;
} slices;

static void free_slices(slices *s)
{
    int i;
    for (i = 0; i < s->n; ++i) free(s->item[i].data);
    free(s->item);
    memset(s, 0, sizeof *s);
}

/* data becomes the list's, or is freed. 0: out of memory */
static int add_slice(slices *s, const char *name, int64_t rows, int64_t cols, float *data)
{
    if (s->n == s->cap) {
        const int cap = s->cap ? 2 * s->cap : 64;
        slice *grown = (slice *)realloc(s->item, (size_t)cap * sizeof *grown);
        if (!grown) {
            free(data);
            return 0;
        }
        s->item = grown;
        s->cap = cap;
    }
    snprintf(s->item[s->n].name, sizeof s->item[s->n].name, "%s", name);
    s->item[s->n].dim[0] = rows;
    s->item[s->n].dim[1] = cols;
    s->item[s->n++].data = data;
    return data != NULL;
}

/* Snapshots of steps below `before`; a run that was killed may hold later ones. */
static bmvp_status load_snapshots(slices *s, const char *path, int64_t before, bmvp_error *err)
{
    bmvp_ckpt *f = NULL;
    bmvp_status st = bmvp_ckpt_open(path, NULL, &f, err);
    int i;
    for (i = 0; !st && i < f->n_entries; ++i) {
        const bmvp_ckpt_entry *e = &f->entry[i];
        float *data;
        if (e->rank != 2 || strtoll(e->name, NULL, 10) >= before) continue;
        data = (float *)malloc((size_t)e->numel * sizeof *data + 1);
        if (!add_slice(s, e->name, e->dim[0], e->dim[1], data)) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        else st = bmvp_ckpt_load_f32(f, i, 0, e->numel, data, err);
    }
    bmvp_ckpt_close(f);
    return st;
}

static bmvp_status write_snapshots(const slices *s, const char *path, bmvp_error *err)
{
    bmvp_ckpt_writer *w = NULL;
    bmvp_status st = bmvp_ckpt_writer_begin(path, BMVP_CKPT_SAFETENSORS, NULL, &w, err);
    int i;
    if (st) return st;
    for (i = 0; i < s->n && !st; ++i)
        st = bmvp_ckpt_writer_add(w, "", s->item[i].name, BMVP_DTYPE_F32, 2, s->item[i].dim, err);
    for (i = 0; i < s->n && !st; ++i)
        st = bmvp_ckpt_writer_data(w, s->item[i].data, s->item[i].dim[0] * s->item[i].dim[1] * (int64_t)sizeof(float),
                                   err);
    if (!st) return bmvp_ckpt_writer_finish(w, err);
    bmvp_ckpt_writer_abort(w);
    return st;
}

bmvp_status pretrain_snapshot(bmvp_ctx *c, bmvp_ssl *s, const char *out, bmvp_error *err)
{
    const int64_t step = bmvp_ssl_steps(s);
    char *path = path_join(out, "snapshots.safetensors"), name[64];
    bmvp_status st = BMVP_OK;
    slices all;
    int m, p, width, height;
    memset(&all, 0, sizeof all);
    if (!path) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (step > 0 && file_exists(path)) st = load_snapshots(&all, path, step, err);
    for (m = 0; !st && bmvp_ssl_template(s, m); ++m) {
        const bmvp_tensor *t = bmvp_ssl_template(s, m);
        float *v = (float *)malloc((size_t)t->numel * sizeof *v);
        if (!v) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        else if (bmvp_read(c, t, v))
            st = bmvp_error_set(err, bmvp_error_of(c)->status, "%s", bmvp_error_of(c)->message);
        for (p = 0; p < PLANES && !st; ++p) {
            const int64_t pixels = report_slice(v, t->dim, (report_plane)p, -1, NULL, &width, &height);
            float *data = (float *)malloc((size_t)pixels * sizeof *data + 1);
            if (data) (void)report_slice(v, t->dim, (report_plane)p, -1, data, &width, &height);
            snprintf(name, sizeof name, "%lld.%s.%s", (long long)step, modality_of(t), plane_name[p]);
            if (!add_slice(&all, name, height, width, data)) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        }
        free(v);
    }
    if (!st) st = write_snapshots(&all, path, err);
    free_slices(&all);
    free(path);
    return st;
}

/* >>the page ------------------------------------------------------------------------------------------------------- */

/* A row for each plane and a column for each snapshot of one modality's template. */
static void show_template(report_page *r, const slices *all, const char *modality)
{
    report_snapshot shot[MAX_SNAPSHOTS];
    char want[64];
    int i, p, n = 0;
    memset(shot, 0, sizeof shot);
    for (p = 0; p < PLANES; ++p) {
        snprintf(want, sizeof want, ".%s.%s", modality, plane_name[p]);
        for (i = 0, n = 0; i < all->n && n < MAX_SNAPSHOTS; ++i) {
            const slice *s = &all->item[i];
            if (strcmp(s->name + strcspn(s->name, "."), want) != 0) continue;
            shot[n].step = strtoll(s->name, NULL, 10);
            shot[n].plane[p] = s->data;
            shot[n].height[p] = (int)s->dim[0];
            shot[n++].width[p] = (int)s->dim[1];
        }
    }
    if (n > 0) (void)report_templates(r, modality, shot, n);
}

static bmvp_status show_templates(report_page *r, bmvp_ssl *s, const char *out, bmvp_error *err)
{
    char *path = path_join(out, "snapshots.safetensors");
    bmvp_status st = path ? BMVP_OK : BMVP_E_OOM;
    slices all;
    int m;
    memset(&all, 0, sizeof all);
    if (!st && file_exists(path)) st = load_snapshots(&all, path, INT64_MAX, err);
    (void)report_section(
        r, "Templates",
        "A template is a brain that is learned: what the crops of one modality have in common. It fills masked "
        "voxels, and later stands in for a modality that a patient lacks. Its middle slices over training, from "
        "left to right, should come to look like a typical brain.");
    for (m = 0; !st && bmvp_ssl_template(s, m); ++m) show_template(r, &all, modality_of(bmvp_ssl_template(s, m)));
    free_slices(&all);
    free(path);
    return st;
}

/* The middle crop of case i, its first modality rebuilt from the second and from the template. */
static bmvp_status show_case(report_page *r, bmvp_ssl *s, const prepared_set *data, int64_t i, float *v,
                             bmvp_error *err)
{
    const int64_t e = bmvp_ssl_config_of(s)->crop, n = e * e * e, size[3] = { e, e, e };
    bmvp_ssl_preview look;
    report_case page;
    bmvp_ssl_item item;
    bmvp_status st;
    int64_t start[3];
    int m, found[2] = { -1, -1 }, k = 0, a, first = (int)i;
    memset(&item, 0, sizeof item);
    memset(&page, 0, sizeof page);
    for (a = 0; a < data->n_modalities && k < 2; ++a) { /* another modality first in each case */
        m = (first + a) % data->n_modalities;
        if (data->cases[i].modalities >> m & 1u) found[k++] = m;
    }
    for (a = 0; a < 3; ++a) {
        const int64_t room = data->cases[i].dim[a] - e;
        start[a] = room >= 0 ? room / 2 : -(-room / 2);
    }
    item.x = v;
    item.modality = found[0];
    item.slot = (uint32_t)i;
    bmvp_template_place(start, data->cases[i].dim, bmvp_ssl_template(s, 0)->dim, item.template_start);
    st = prepared_crop(data, i, found[0], start, size, v, err);
    if (!st && k > 1) {
        item.other = v + n;
        st = prepared_crop(data, i, found[1], start, size, v + n, err);
    }
    look.view_modal = v + 2 * n, look.rec_modal = v + 3 * n, look.view_template = v + 4 * n,
    look.rec_template = v + 5 * n;
    if (!st && bmvp_ssl_look(s, &item, &look))
        st = bmvp_error_set(err, BMVP_E_STATE, "the look at case %s failed", data->data.item[i].id);
    if (st) return st;
    page.name = data->data.item[i].id;
    page.modality = data->names[found[0]];
    page.other = k > 1 ? data->names[found[1]] : NULL;
    page.dim[0] = page.dim[1] = page.dim[2] = e;
    page.input = v;
    page.cross_view = k > 1 ? look.view_modal : NULL;
    page.cross_output = k > 1 ? look.rec_modal : NULL;
    page.template_view = look.view_template;
    page.template_output = look.rec_template;
    page.planes = 3;
    (void)report_reconstruction(r, &page);
    return BMVP_OK;
}

/* Two crops, two views of them and what is rebuilt from these. */
static int64_t case_voxels(int64_t e) { return 6 * e * e * e; }

double pretrain_report_bytes(const bmvp_ssl_config *cfg)
{
    return (double)case_voxels(cfg->crop) * (double)sizeof(float);
}

static bmvp_status show_cases(report_page *r, bmvp_ssl *s, const prepared_set *data, bmvp_error *err)
{
    const int64_t e = bmvp_ssl_config_of(s)->crop, n = data->data.n < MAX_CASES ? data->data.n : MAX_CASES;
    float *v = (float *)malloc((size_t)case_voxels(e) * sizeof *v);
    bmvp_status st = v ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    int64_t i;
    (void)report_section(r, "Reconstructions",
                         "The middle crop of a few cases. In a view, masked voxels show another modality "
                         "(cross-modal) or the template; a reconstruction is what the network makes of that view "
                         "alone; where its error is black it is right. Grey from 0 to 1 throughout.");
    for (i = 0; i < n && !st; ++i) st = show_case(r, s, data, i, v, err);
    free(v);
    return st;
}

static void show_configuration(report_page *r, bmvp_ssl *s)
{
    enum { MAX_FIELDS = 64 };
    const char *key[MAX_FIELDS], *text[MAX_FIELDS], *meaning;
    char value[MAX_FIELDS][32];
    int n = 0;
    while (n < MAX_FIELDS && bmvp_ssl_field(bmvp_ssl_config_of(s), n, &key[n], &meaning, value[n], sizeof value[n])) {
        text[n] = value[n];
        ++n;
    }
    (void)report_section(r, "Configuration", NULL);
    (void)report_pairs(r, bmvp_ssl_config_of(s)->preset, key, text, n);
}

static void show_state(report_page *r, bmvp_ssl *s, const prepared_set *data, int64_t total, double seconds)
{
    const char *const name[4] = { "step", "cases", "network", "minutes" };
    char step[64], cases[64], minutes[32];
    const char *value[4];
    snprintf(step, sizeof step, "%lld of %lld", (long long)bmvp_ssl_steps(s), (long long)total);
    snprintf(cases, sizeof cases, "%lld", (long long)data->data.n);
    snprintf(minutes, sizeof minutes, "%.1f", seconds / 60);
    value[0] = step, value[1] = cases, value[2] = bmvp_net_config_of(bmvp_ssl_net(s))->name, value[3] = minutes;
    (void)report_tiles(r, name, value, 4);
}

bmvp_status pretrain_report(bmvp_ssl *s, const prepared_set *data, const char *out, int64_t total_steps, double seconds,
                            bmvp_error *err)
{
    char *path = path_join(out, "report.html"), *log = path_join(out, "log.jsonl");
    report_page r;
    bmvp_status st = BMVP_OK;
    if (!path || !log) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    else if (report_open(&r, path, "BrainMVP pre-training", "pretrain", "Pre-training") != BMVP_OK) {
        st = bmvp_error_set(err, r.error.status, "%s", r.error.message);
    } else {
        show_state(&r, s, data, total_steps, seconds);
        (void)report_section(&r, "Losses", NULL);
        (void)report_losses(&r, log);
        st = show_templates(&r, s, out, err);
        if (!st) st = show_cases(&r, s, data, err);
        show_configuration(&r, s);
        if (st) report_discard(&r);
        else if (report_close(&r) != BMVP_OK) st = bmvp_error_set(err, r.error.status, "%s", r.error.message);
    }
    free(path);
    free(log);
    return st;
}
