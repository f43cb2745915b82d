/* finetune_report.c - the page of a fine-tuning run: losses, validation, truth and prediction of a few cases */
#define _DEFAULT_SOURCE
#include "finetune.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CASES = 3, COLUMNS = 3 };

const bmvp_report_colour bmvp_region_colour[BMVP_REGION_COLOURS] = {
    { "", { 66, 166, 90 } },   { "", { 235, 170, 40 } }, { "", { 225, 65, 60 } },  { "", { 70, 130, 225 } },
    { "", { 160, 90, 200 } },  { "", { 40, 190, 190 } }, { "", { 230, 120, 180 } }, { "", { 150, 150, 60 } },
};

static void show_state(bmvp_report *r, bmvp_ft *f, const bmvp_ft_data *d, int64_t total, double seconds)
{
    const char *const name[5] = { "step", "training cases", "validation cases", "network", "minutes" };
    char step[64], train[32], val[32], minutes[32];
    const char *value[5];
    snprintf(step, sizeof step, "%lld of %lld", (long long)bmvp_ft_steps(f), (long long)total);
    snprintf(train, sizeof train, "%lld", (long long)d->n_train);
    snprintf(val, sizeof val, "%lld", (long long)d->n_val);
    snprintf(minutes, sizeof minutes, "%.1f", seconds / 60);
    value[0] = step, value[1] = train, value[2] = val, value[3] = bmvp_net_config_of(bmvp_ft_net(f))->name, value[4] = minutes;
    (void)bmvp_report_tiles(r, name, value, 5);
}

/* One panel with the fields that the log has. */
static int panel(const bmvp_report_log *log, const char *const *field, const int *column, int n, bmvp_report_series *series)
{
    int i, k = 0;
    int64_t j;
    for (i = 0; i < n; ++i) {
        for (j = 0; j < log->n && !(log->value[column[i]][j] == log->value[column[i]][j]); ++j) { }
        if (j == log->n) continue;
        memset(&series[k], 0, sizeof series[k]);
        series[k].name = field[i];
        series[k].x = log->value[0];
        series[k].y = log->value[column[i]];
        series[k].n = log->n;
        series[k++].colour = i % 8;
    }
    return k;
}

static void show_curves(bmvp_report *r, const bmvp_ft_data *d, const char *log_path)
{
    enum { LOSSES = 4, FIXED = 8 };
    static const char *const loss_name[LOSSES] = { "total", "Dice", "cross-entropy", "consistency" };
    static const int loss_column[LOSSES] = { 1, 2, 3, 4 };
    const char *field[FIXED + BMVP_MAX_REGIONS] = { "step", "loss", "loss_dice", "loss_ce", "loss_consistency", "lr",
                                                    d->segment ? "val_dice" : "val_auc", d->segment ? "val_dice" : "val_accuracy" };
    const char *val_name[BMVP_MAX_REGIONS + 2] = { d->segment ? "mean" : "AUC", "accuracy" };
    char name[BMVP_MAX_REGIONS][48];
    int val_column[BMVP_MAX_REGIONS + 2] = { 6, 7 }, n = FIXED, k = d->segment ? 1 : 2, i, plots = 0;
    bmvp_report_series series[LOSSES + BMVP_MAX_REGIONS + 2];
    bmvp_report_plot plot[2];
    bmvp_report_log log;
    for (i = 0; d->segment && i < d->all.data.labels.n; ++i) {
        snprintf(name[i], sizeof name[i], "val_dice_%s", d->all.data.labels.region[i]);
        field[n] = name[i];
        val_name[k] = d->all.data.labels.region[i];
        val_column[k++] = n++;
    }
    if (bmvp_report_log_load(log_path, field, n, &log, &r->error) != BMVP_OK) return;
    memset(plot, 0, sizeof plot);
    plot[0].title = "Losses";
    plot[0].series = series;
    plot[0].n_series = panel(&log, loss_name, loss_column, LOSSES, series);
    plots += plot[0].n_series > 0;
    plot[plots].title = d->segment ? "Dice in validation" : "Validation";
    plot[plots].series = series + plot[0].n_series;
    plot[plots].scale = BMVP_REPORT_LINEAR;
    plot[plots].n_series = panel(&log, val_name, val_column, k, series + plot[0].n_series);
    for (i = 0; i < plot[plots].n_series; ++i) series[plot[0].n_series + i].exact = 1;
    plots += plot[plots].n_series > 0;
    for (i = 0; i < plots; ++i) plot[i].x_label = "step";
    if (plots) (void)bmvp_report_curves(r, plot, plots);
    bmvp_report_log_free(&log);
}

void bmvp_region_numbers(const bmvp_labels *l, unsigned char *v, int64_t n)
{
    unsigned char number[BMVP_LABEL_VALUES];
    int64_t i;
    int k, r;
    memset(number, 0, sizeof number);
    for (k = 0; k < BMVP_LABEL_VALUES; ++k)
        for (r = 0; r < l->n; ++r)
            if (l->in[r][k]) number[k] = (unsigned char)(r % BMVP_REGION_COLOURS + 1);
    for (i = 0; i < n; ++i) v[i] = number[v[i]];
}

/* The axial plane with most labelled voxels. */
static int64_t fullest_plane(const unsigned char *v, const int64_t dim[3])
{
    const int64_t area = dim[1] * dim[2];
    int64_t z, i, most = 0, at = dim[0] / 2;
    for (z = 0; z < dim[0]; ++z) {
        int64_t n = 0;
        for (i = 0; i < area; ++i) n += v[z * area + i] != 0;
        if (n > most) most = n, at = z;
    }
    return at;
}

bmvp_status bmvp_overlay_row(const float *image, const unsigned char *truth, const unsigned char *predicted, const int64_t dim[3],
                             bmvp_report_picture row[3], bmvp_overlay_memory *m)
{
    const int64_t n = dim[0] * dim[1] * dim[2], z = fullest_plane(truth, dim);
    int64_t pixels, i;
    int width, height, k;
    float *volume = (float *)malloc((size_t)n * sizeof *volume);
    pixels = bmvp_report_slice(image, dim, BMVP_REPORT_AXIAL, z, NULL, &width, &height);
    m->grey = (float *)malloc((size_t)pixels * sizeof *m->grey + 1);
    m->label = (unsigned char *)malloc((size_t)pixels + 1);
    m->rgb = (unsigned char *)malloc((size_t)(6 * pixels) + 1);
    m->slice = (float *)malloc((size_t)pixels * sizeof *m->slice + 1);
    if (!volume || pixels <= 0 || !m->grey || !m->label || !m->rgb || !m->slice) {
        free(volume);
        return BMVP_E_OOM;
    }
    (void)bmvp_report_slice(image, dim, BMVP_REPORT_AXIAL, z, m->grey, &width, &height);
    for (k = 0; k < 3; ++k) {
        memset(&row[k], 0, sizeof row[k]);
        row[k].width = width;
        row[k].height = height;
        row[k].hi = 1;
        if (k == 0) {
            row[k].grey = m->grey;
            continue;
        }
        for (i = 0; i < n; ++i) volume[i] = (float)(k == 1 ? truth : predicted)[i];
        (void)bmvp_report_slice(volume, dim, BMVP_REPORT_AXIAL, z, m->slice, &width, &height);
        for (i = 0; i < pixels; ++i) m->label[i] = (unsigned char)m->slice[i];
        bmvp_report_overlay(m->grey, m->label, pixels, 0, 1, bmvp_region_colour, BMVP_REGION_COLOURS, 0.55, m->rgb + (k - 1) * 3 * pixels);
        row[k].rgb = m->rgb + (k - 1) * 3 * pixels;
    }
    free(volume);
    return BMVP_OK;
}

void bmvp_overlay_free(bmvp_overlay_memory *m)
{
    free(m->grey);
    free(m->slice);
    free(m->label);
    free(m->rgb);
    memset(m, 0, sizeof *m);
}

static bmvp_status case_row(bmvp_ctx *c, bmvp_ft *f, const bmvp_ft_data *d, int64_t i, bmvp_report_picture row[COLUMNS],
                            bmvp_overlay_memory *m, char *caption, size_t size, bmvp_error *err)
{
    static const int64_t origin[3] = { 0, 0, 0 };
    const bmvp_labels *l = bmvp_ft_labels(f);
    const int64_t *dim = d->all.cases[i].dim, n = dim[0] * dim[1] * dim[2];
    float *image = (float *)malloc((size_t)n * sizeof *image), *values = (float *)malloc((size_t)n * sizeof *values);
    unsigned char *truth = (unsigned char *)malloc((size_t)n), *predicted = (unsigned char *)malloc((size_t)n);
    bmvp_status st = image && values && truth && predicted ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    double dice[BMVP_MAX_REGIONS];
    int64_t v;
    size_t used = 0;
    int k;
    for (k = 0; k + 1 < d->all.n_modalities && !(d->all.cases[i].modalities >> k & 1u); ++k) { }
    if (!st) st = bmvp_prepared_crop(&d->all, i, k, origin, dim, image, err);
    if (!st) st = bmvp_prepared_label(&d->all, i, origin, dim, values, err);
    if (!st) st = bmvp_ft_look(c, f, d, i, predicted, dice, err);
    for (v = 0; v < n && !st; ++v) truth[v] = (unsigned char)values[v];
    if (!st) {
        bmvp_region_numbers(l, truth, n);
        bmvp_region_numbers(l, predicted, n);
        st = bmvp_overlay_row(image, truth, predicted, dim, row, m);
        if (st) bmvp_error_set(err, st, "out of memory for the pictures");
    }
    caption[0] = 0;
    for (k = 0; k < l->n && !st && used < size; ++k)
        used += (size_t)snprintf(caption + used, size - used, "%s%s %.2f", k ? ", " : "Dice ", l->region[k], dice[k]);
    free(image);
    free(values);
    free(truth);
    free(predicted);
    return st;
}

static bmvp_status show_cases(bmvp_report *r, bmvp_ctx *c, bmvp_ft *f, const bmvp_ft_data *d, bmvp_error *err)
{
    static const char *const column[COLUMNS] = { "image", "truth", "prediction" };
    const int64_t *from = d->n_val > 0 ? d->val : d->train, most = d->n_val > 0 ? d->n_val : d->n_train;
    const int n = most < MAX_CASES ? (int)most : MAX_CASES;
    bmvp_report_picture picture[MAX_CASES * COLUMNS];
    bmvp_overlay_memory memory[MAX_CASES];
    bmvp_report_colour legend[BMVP_REGION_COLOURS];
    const char *name[MAX_CASES];
    char caption[MAX_CASES][256];
    bmvp_report_grid grid;
    bmvp_status st = BMVP_OK;
    int i;
    memset(memory, 0, sizeof memory);
    memset(&grid, 0, sizeof grid);
    for (i = 0; i < n && !st; ++i) {
        name[i] = d->all.data.item[from[i]].id;
        st = case_row(c, f, d, from[i], picture + i * COLUMNS, &memory[i], caption[i], sizeof caption[i], err);
        picture[i * COLUMNS + 2].caption = caption[i];
    }
    memcpy(legend, bmvp_region_colour, sizeof legend);
    grid.n_legend = bmvp_ft_labels(f)->n < BMVP_REGION_COLOURS ? bmvp_ft_labels(f)->n : BMVP_REGION_COLOURS;
    for (i = 0; i < grid.n_legend; ++i) legend[i].name = bmvp_ft_labels(f)->region[i];
    grid.row_name = name;
    grid.col_name = column;
    grid.picture = picture;
    grid.rows = n;
    grid.cols = COLUMNS;
    grid.legend = legend;
    if (!st) (void)bmvp_report_section(r, d->n_val > 0 ? "Validation cases" : "Training cases",
                                       "The axial plane with most labelled voxels; the network is that of the last step.");
    if (!st) (void)bmvp_report_images(r, &grid);
    for (i = 0; i < n; ++i) bmvp_overlay_free(&memory[i]);
    return st;
}

static void show_configuration(bmvp_report *r, bmvp_ft *f)
{
    enum { MAX_FIELDS = 64 };
    const char *key[MAX_FIELDS], *text[MAX_FIELDS], *meaning;
    char value[MAX_FIELDS][32];
    int n = 0;
    while (n < MAX_FIELDS && bmvp_ft_field(bmvp_ft_config_of(f), n, &key[n], &meaning, value[n], sizeof value[n])) {
        text[n] = value[n];
        ++n;
    }
    (void)bmvp_report_section(r, "Configuration", NULL);
    (void)bmvp_report_pairs(r, bmvp_ft_config_of(f)->preset, key, text, n);
}

bmvp_status bmvp_ft_report(bmvp_ctx *c, bmvp_ft *f, const bmvp_ft_data *d, const char *out, int64_t total, double seconds, bmvp_error *err)
{
    char *path = bmvp_run_file(out, "report.html"), *log = bmvp_run_file(out, "log.jsonl");
    bmvp_report r;
    bmvp_status st = BMVP_OK;
    if (!path || !log) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    else if (bmvp_report_open(&r, path, "BrainMVP fine-tuning", "finetune", "Fine-tuning") != BMVP_OK) {
        st = bmvp_error_set(err, r.error.status, "%s", r.error.message);
    } else {
        show_state(&r, f, d, total, seconds);
        (void)bmvp_report_section(&r, "Training", NULL);
        show_curves(&r, d, log);
        if (d->segment) st = show_cases(&r, c, f, d, err);
        show_configuration(&r, f);
        if (st) bmvp_report_discard(&r);
        else if (bmvp_report_close(&r) != BMVP_OK) st = bmvp_error_set(err, r.error.status, "%s", r.error.message);
    }
    free(path);
    free(log);
    return st;
}
