/* finetune_report.c - the page of a fine-tuning run: losses, validation, truth and prediction of a few cases */
#define _DEFAULT_SOURCE
#include "finetune_report.h"
#include "overlay.h"
#include "data/files.h"
#include "data/validation.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CASES = VALIDATION_MAPS, COLUMNS = 3 };

static void show_state(report_page *r, bmvp_ft *f, const finetune_data *d, int64_t total, double seconds)
{
    const char *const name[5] = { "step", "training cases", "validation cases", "network", "minutes" };
    char step[64], train[32], val[32], minutes[32];
    const char *value[5];
    snprintf(step, sizeof step, "%lld of %lld", (long long)bmvp_ft_steps(f), (long long)total);
    snprintf(train, sizeof train, "%lld", (long long)d->n_train);
    snprintf(val, sizeof val, "%lld", (long long)d->n_val);
    snprintf(minutes, sizeof minutes, "%.1f", seconds / 60);
    value[0] = step, value[1] = train, value[2] = val, value[3] = bmvp_net_config_of(bmvp_ft_net(f))->name,
    value[4] = minutes;
    (void)report_tiles(r, name, value, 5);
}

/* One panel with the fields that the log has. */
static int panel(const report_log *log, const char *const *field, const int *column, int n, report_series *series)
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

static void show_curves(report_page *r, const finetune_data *d, const char *log_path)
{
    enum { LOSSES = 4, FIXED = 8 };
    static const char *const loss_name[LOSSES] = { "total", "Dice", "cross-entropy", "consistency" };
    static const int loss_column[LOSSES] = { 1, 2, 3, 4 };
    const char *field[FIXED + BMVP_MAX_REGIONS] = { "step",
                                                    "loss",
                                                    "loss_dice",
                                                    "loss_ce",
                                                    "loss_consistency",
                                                    "lr",
                                                    d->segment ? "val_dice" : "val_auc",
                                                    d->segment ? "val_dice" : "val_accuracy" };
    const char *val_name[BMVP_MAX_REGIONS + 2] = { d->segment ? "mean" : "AUC", "accuracy" };
    char name[BMVP_MAX_REGIONS][BMVP_LABEL_NAME + 16];
    int val_column[BMVP_MAX_REGIONS + 2] = { 6, 7 }, n = FIXED, k = d->segment ? 1 : 2, i, plots = 0;
    report_series series[LOSSES + BMVP_MAX_REGIONS + 2];
    report_plot plot[2];
    report_log log;
    for (i = 0; d->segment && i < d->all.data.labels.n; ++i) {
        snprintf(name[i], sizeof name[i], "val_dice_%s", d->all.data.labels.region[i]);
        field[n] = name[i];
        val_name[k] = d->all.data.labels.region[i];
        val_column[k++] = n++;
    }
    if (report_log_load(log_path, field, n, &log, &r->error) != BMVP_OK) return;
    memset(plot, 0, sizeof plot);
    plot[0].title = "Losses";
    plot[0].about = d->segment
                        ? "Total is what training makes small, a weighted sum: Dice is one minus the overlap with the "
                          "truth, cross-entropy is high where voxels are wrong or unsure, consistency where two "
                          "copies of a case with different modalities missing disagree."
                        : "Total is what training makes small, a weighted sum: cross-entropy is high where answers "
                          "are wrong or unsure, consistency where two copies of a case with different modalities "
                          "missing disagree.";
    plot[0].y_label = "loss, no unit";
    plot[0].series = series;
    plot[0].n_series = panel(&log, loss_name, loss_column, LOSSES, series);
    plots += plot[0].n_series > 0;
    plot[plots].title = d->segment ? "Dice in validation" : "Validation";
    plot[plots].series = series + plot[0].n_series;
    plot[plots].about =
        d->segment ? "Overlap of prediction and truth in cases that are not trained on: 1 is perfect, 0 is none. The "
                     "step with the highest mean is kept in best.safetensors."
                   : "In cases that are not trained on: accuracy is the share of right answers; AUC is how often a "
                     "case of a class is ranked above one that is of another: 0.5 is guessing, 1 perfect.";
    plot[plots].y_label = d->segment ? "Dice, from 0 to 1" : "share, from 0 to 1";
    plot[plots].scale = REPORT_LINEAR;
    plot[plots].n_series = panel(&log, val_name, val_column, k, series + plot[0].n_series);
    for (i = 0; i < plot[plots].n_series; ++i) series[plot[0].n_series + i].exact = 1;
    plots += plot[plots].n_series > 0;
    for (i = 0; i < plots; ++i) plot[i].x_label = "step";
    if (plots) (void)report_curves(r, plot, plots);
    report_log_free(&log);
}

/* The j-th case for validation as the last validation saw it, or case i as the network sees it now. */
static bmvp_status predicted_map(bmvp_ft *f, const finetune_data *d, const validation_maps *seen, int j, int64_t i,
                                 unsigned char *out, double *dice, bmvp_error *err)
{
    const int64_t *dim = d->all.cases[i].dim;
    if (j >= seen->n) return validation_look(f, d, i, out, dice, err);
    memcpy(out, seen->map[j], (size_t)(dim[0] * dim[1] * dim[2]));
    memcpy(dice, seen->dice[j], sizeof seen->dice[j]);
    return BMVP_OK;
}

static bmvp_status case_row(bmvp_ft *f, const finetune_data *d, const validation_maps *seen, int j, int64_t i,
                            report_picture row[COLUMNS], overlay_memory *m, char *caption, size_t size,
                            bmvp_error *err)
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
    if (!st) st = prepared_crop(&d->all, i, k, origin, dim, image, err);
    if (!st) st = prepared_label(&d->all, i, origin, dim, values, err);
    if (!st) st = predicted_map(f, d, seen, j, i, predicted, dice, err);
    for (v = 0; v < n && !st; ++v) truth[v] = (unsigned char)values[v];
    if (!st) {
        region_numbers(l, truth, n);
        region_numbers(l, predicted, n);
        st = overlay_row(image, truth, predicted, dim, row, m);
        if (st) bmvp_error_set(err, st, "out of memory for the pictures");
    }
    caption[0] = 0;
    for (k = 0; k < l->n && !st && used < size; ++k) {
        char text[16] = "not there"; /* no voxel of it in the truth */
        if (dice[k] == dice[k]) snprintf(text, sizeof text, "%.2f", dice[k]);
        used += (size_t)snprintf(caption + used, size - used, "%s%s %s", k ? ", " : "Dice ", l->region[k], text);
    }
    free(image);
    free(values);
    free(truth);
    free(predicted);
    return st;
}

static bmvp_status show_cases(report_page *r, bmvp_ft *f, const finetune_data *d, const validation_maps *seen,
                              bmvp_error *err)
{
    static const char *const column[COLUMNS] = { "image", "truth", "prediction" };
    const int64_t *from = d->n_val > 0 ? d->val : d->train, most = d->n_val > 0 ? d->n_val : d->n_train;
    const int n = most < MAX_CASES ? (int)most : MAX_CASES;
    report_picture picture[MAX_CASES * COLUMNS];
    overlay_memory memory[MAX_CASES];
    report_colour legend[REGION_COLOURS];
    const char *name[MAX_CASES];
    char caption[MAX_CASES][256], about[256];
    report_grid grid;
    bmvp_status st = BMVP_OK;
    int i;
    memset(memory, 0, sizeof memory);
    memset(&grid, 0, sizeof grid);
    for (i = 0; i < n && !st; ++i) {
        name[i] = d->all.data.item[from[i]].id;
        st = case_row(f, d, seen, i, from[i], picture + i * COLUMNS, &memory[i], caption[i], sizeof caption[i], err);
        picture[i * COLUMNS + 2].caption = caption[i];
    }
    grid.n_legend = region_legend(bmvp_ft_labels(f), legend);
    grid.row_name = name;
    grid.col_name = column;
    grid.picture = picture;
    grid.rows = n;
    grid.cols = COLUMNS;
    grid.legend = legend;
    snprintf(about, sizeof about,
             "The axial plane with most labelled voxels, with the regions in colour: the more the prediction looks "
             "like the truth, the better. The network is that of step %lld.",
             (long long)(seen->n ? seen->step : bmvp_ft_steps(f)));
    if (!st) (void)report_section(r, d->n_val > 0 ? "Validation cases" : "Training cases", about);
    if (!st) (void)report_images(r, &grid);
    for (i = 0; i < n; ++i) overlay_free(&memory[i]);
    return st;
}

static void show_configuration(report_page *r, bmvp_ft *f)
{
    enum { MAX_FIELDS = 64 };
    const char *key[MAX_FIELDS], *text[MAX_FIELDS], *meaning;
    char value[MAX_FIELDS][32];
    int n = 0;
    while (n < MAX_FIELDS && bmvp_ft_field(bmvp_ft_config_of(f), n, &key[n], &meaning, value[n], sizeof value[n])) {
        text[n] = value[n];
        ++n;
    }
    (void)report_section(r, "Configuration", NULL);
    (void)report_pairs(r, bmvp_ft_config_of(f)->preset, key, text, n);
}

bmvp_status finetune_report(bmvp_ft *f, const finetune_data *d, const validation_maps *seen, const char *out,
                            int64_t total, double seconds, bmvp_error *err)
{
    char *path = path_join(out, "report.html"), *log = path_join(out, "log.jsonl");
    report_page r;
    bmvp_status st = BMVP_OK;
    if (!path || !log) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    else if (report_open(&r, path, "BrainMVP fine-tuning", "finetune", "Fine-tuning") != BMVP_OK) {
        st = bmvp_error_set(err, r.error.status, "%s", r.error.message);
    } else {
        show_state(&r, f, d, total, seconds);
        (void)report_section(&r, "Training", NULL);
        show_curves(&r, d, log);
        if (d->segment) st = show_cases(&r, f, d, seen, err);
        show_configuration(&r, f);
        if (st) report_discard(&r);
        else if (report_close(&r) != BMVP_OK) st = bmvp_error_set(err, r.error.status, "%s", r.error.message);
    }
    free(path);
    free(log);
    return st;
}
