/* method_report.c - the page of a method's run: curves, and what the network makes of a few crops */
#define _DEFAULT_SOURCE
#include "method_report.h"
#include "report.h"
#include "data/files.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOOKS = 3, MAX_CASES = 3, MAX_FIELDS = 64, FIXED = 4 };

static const method_config *config_of(const method_page *p) { return (const method_config *)p->trainer->config; }

/* Crop, what was given, what came back; then the crop again, with what is wanted besides. */
static int64_t look_voxels(const method_row *row, const method_config *k, const prepared_set *data)
{
    return (int64_t)(LOOKS + crop_count(data, row->wants)) * k->crop * k->crop * k->crop;
}
double method_report_bytes(const method_row *row, const method_config *k, const prepared_set *data)
{
    return (double)look_voxels(row, k, data) * (double)sizeof(float);
}

/* >>curves --------------------------------------------------------------------------------------------------------- */

static report_series series(const report_log *log, int column, const char *name, int colour)
{
    report_series s;
    memset(&s, 0, sizeof s);
    s.name = name, s.x = log->value[0], s.y = log->value[column], s.n = log->n, s.colour = colour;
    return s;
}

static void show_curves(report_page *r, const method_page *p)
{
    const char *field[FIXED + BMVP_LOSSES] = { "step", "loss", "lr", "grad_norm" };
    char name[BMVP_LOSSES][64], *path = path_join(p->out, "log.jsonl");
    report_series s[3 + BMVP_LOSSES];
    report_plot plot[3];
    report_log log;
    bmvp_error err;
    int n, i;
    for (n = 0; p->trainer->method.loss[n] && n < BMVP_LOSSES; ++n) {
        snprintf(name[n], sizeof name[n], "loss_%s", p->trainer->method.loss[n]);
        field[FIXED + n] = name[n];
    }
    (void)report_section(r, "Losses", NULL);
    if (!path || report_log_load(path, field, FIXED + n, &log, &err) != BMVP_OK) {
        (void)report_note(r, "No step has been logged yet.");
        free(path);
        return;
    }
    memset(plot, 0, sizeof plot);
    s[0] = series(&log, 1, "total", 3), s[1] = series(&log, 2, "learning rate", 7), s[1].exact = 1;
    s[2] = series(&log, 3, "norm of the gradient", 5);
    for (i = 0; i < n; ++i) s[3 + i] = series(&log, FIXED + i, p->trainer->method.loss[i], i < 3 ? i : i + 1);
    plot[0].title = "Losses", plot[0].series = n > 1 ? s + 3 : s, plot[0].n_series = n > 1 ? n : 1;
    plot[0].about = "What this method makes small, or its parts; less is better, within one method: losses of two "
                    "methods do not compare.";
    plot[1].about = "How far a step may move the weights: it rises during the warm-up and then follows a cosine.";
    plot[2].about = "Length of the gradient of all weights, before clipping; growth and peaks are the first sign of "
                    "training that goes astray.";
    plot[0].y_label = "loss, no unit", plot[1].y_label = "learning rate, no unit";
    plot[2].y_label = "length of the gradient, no unit";
    plot[1].title = "Learning rate", plot[1].series = s + 1, plot[1].n_series = 1, plot[1].small = 1;
    plot[2].title = "Norm of the gradient", plot[2].series = s + 2, plot[2].n_series = 1, plot[2].small = 1;
    for (i = 0; i < 3; ++i) plot[i].x_label = "step", plot[i].scale = i == 1 ? REPORT_LINEAR : REPORT_AUTO;
    (void)report_curves(r, plot, 3);
    report_log_free(&log);
    free(path);
}

/* >>crops ---------------------------------------------------------------------------------------------------------- */

static int has(const method_page *p, int64_t i, int m) { return (int)(p->data->cases[i].modalities >> m & 1u); }

/* The next modality or case that a method may want besides; -1: there is none. */
static int64_t other_of(const method_page *p, int64_t i, int m)
{
    const int64_t n = p->row->wants == METHOD_CASE ? p->data->data.n : p->data->n_modalities;
    int64_t a;
    for (a = 1; a < n && p->row->wants == METHOD_MODALITY; ++a)
        if (has(p, i, (int)((m + a) % n))) return (m + a) % n;
    for (a = 1; a < n && p->row->wants == METHOD_CASE; ++a)
        if (has(p, (i + a) % n, m)) return (i + a) % n;
    return p->row->wants == METHOD_CASE ? i : p->row->wants == METHOD_ALL ? 0 : -1;
}

/* The middle crop of case i, in another modality for each case: into x, with what is wanted besides into more. */
static bmvp_status crop_of(const method_page *p, int64_t i, float *x, float *more, method_item *item, bmvp_error *err)
{
    const int64_t e = config_of(p)->crop;
    bmvp_ssl_item t;
    int64_t start[3];
    bmvp_status st;
    int a, m = 0;
    for (a = 0; a < p->data->n_modalities; ++a) {
        m = (int)((i + a) % p->data->n_modalities);
        if (has(p, i, m)) break;
    }
    for (a = 0; a < 3; ++a) {
        const int64_t room = p->data->cases[i].dim[a] - e;
        start[a] = room >= 0 ? room / 2 : -(-room / 2);
    }
    st = crop_read(p->data, p->row->wants, i, m, other_of(p, i, m), start, e, more, &t, err);
    if (st) return st;
    memcpy(x, t.x, (size_t)(e * e * e) * sizeof *x);
    item->x = x, item->index = i, item->modality = m, item->slot = (uint32_t)i, item->other = t.other;
    item->present = p->data->cases[i].modalities;
    bmvp_template_place(start, p->data->cases[i].dim, p->grid, item->place);
    return BMVP_OK;
}

static double mean_error(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    int64_t i;
    for (i = 0; i < n; ++i) sum += fabs((double)a[i] - (double)b[i]);
    return sum / (double)n;
}

/* A row for each plane: the crop, what the network was given, what it made of it. */
static bmvp_status show_case(report_page *r, const method_page *p, int64_t i, float *v, bmvp_error *err)
{
    static const char *const plane[3] = { "axial", "coronal", "sagittal" };
    const char *const back = p->row->back, *const column[LOOKS] = { "crop", "given to the network",
                                                                    back ? back : "came back" };
    const int64_t e = config_of(p)->crop, n = e * e * e, dim[3] = { e, e, e };
    report_picture picture[3 * LOOKS];
    report_grid grid;
    method_item item;
    char caption[256], error[64];
    float *pixels = (float *)malloc((size_t)(3 * LOOKS * e * e) * sizeof *pixels);
    bmvp_status st = pixels ? crop_of(p, i, v, v + LOOKS * n, &item, err)
                            : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    int a, k;
    if (!st && p->row->look(p->trainer, &item, v + n, v + 2 * n))
        st = bmvp_error_set(err, bmvp_error_of(p->trainer->c)->status, "%s", bmvp_error_of(p->trainer->c)->message);
    memset(picture, 0, sizeof picture);
    memset(&grid, 0, sizeof grid);
    for (a = 0; a < 3 && !st; ++a)
        for (k = 0; k < LOOKS; ++k) {
            report_picture *q = &picture[a * LOOKS + k];
            float *const to = pixels + (a * LOOKS + k) * e * e;
            (void)report_slice(v + k * n, dim, (report_plane)a, -1, to, &q->width, &q->height);
            q->grey = to, q->lo = 0, q->hi = 1;
        }
    if (!st) {
        snprintf(caption, sizeof caption, "%s, %s", p->data->data.item[i].id, p->data->names[item.modality]);
        snprintf(error, sizeof error, "mean absolute error %.3f", mean_error(v, v + 2 * n, n));
        if (!back) picture[2].caption = error;
        grid.caption = caption, grid.row_name = plane, grid.col_name = column;
        grid.picture = picture, grid.rows = 3, grid.cols = LOOKS;
        (void)report_images(r, &grid);
    }
    free(pixels);
    return st;
}

static bmvp_status show_cases(report_page *r, const method_page *p, bmvp_error *err)
{
    const int64_t n = p->data->data.n < MAX_CASES ? p->data->data.n : MAX_CASES;
    float *v = (float *)malloc((size_t)look_voxels(p->row, config_of(p), p->data) * sizeof *v);
    bmvp_status st = v ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    int64_t i;
    (void)report_section(r, "Crops",
                         "Middle crops of a few cases, what the method made of them before the network saw them, and "
                         "what the network made of that. One grey window, 0 to 1.");
    for (i = 0; i < n && !st; ++i) st = show_case(r, p, i, v, err);
    free(v);
    return st;
}

/* >>the page ------------------------------------------------------------------------------------------------------- */

static void show_configuration(report_page *r, const method_page *p)
{
    const char *key[MAX_FIELDS], *text[MAX_FIELDS], *meaning;
    char value[MAX_FIELDS][32];
    int n = 0;
    while (n < MAX_FIELDS &&
           bmvp_field_get(p->trainer->method.fields, p->trainer->config, n, &key[n], &meaning, value[n], 32)) {
        text[n] = value[n];
        ++n;
    }
    (void)report_section(r, "Configuration", NULL);
    (void)report_pairs(r, config_of(p)->preset, key, text, n);
}

static void show_state(report_page *r, const method_page *p)
{
    const char *const name[5] = { "method", "step", "cases", "network", "minutes" };
    char step[64], cases[32], minutes[32];
    const char *value[5];
    snprintf(step, sizeof step, "%lld of %lld", (long long)p->trainer->steps, (long long)p->total);
    snprintf(cases, sizeof cases, "%lld", (long long)p->data->data.n);
    snprintf(minutes, sizeof minutes, "%.1f", p->seconds / 60);
    value[0] = p->row->title, value[1] = step, value[2] = cases, value[3] = p->trainer->net_config.name;
    value[4] = minutes;
    (void)report_tiles(r, name, value, 5);
}

bmvp_status method_report(const method_page *p, bmvp_error *err)
{
    char title[128], *path = path_join(p->out, "report.html");
    report_page r;
    bmvp_status st = BMVP_OK;
    snprintf(title, sizeof title, "%s pre-training", p->row->title);
    if (!path) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    else if (report_open(&r, path, title, "pretrain", "Pre-training") != BMVP_OK) {
        st = bmvp_error_set(err, r.error.status, "%s", r.error.message);
    } else {
        show_state(&r, p);
        show_curves(&r, p);
        if (p->row->look) st = show_cases(&r, p, err);
        show_configuration(&r, p);
        if (st) report_discard(&r);
        else if (report_close(&r) != BMVP_OK) st = bmvp_error_set(err, r.error.status, "%s", r.error.message);
    }
    free(path);
    return st;
}
