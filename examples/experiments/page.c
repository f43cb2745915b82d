/* page.c - results of experiments -> a table with spread over seeds and a figure in one HTML page, and the table on the
   terminal

     build/experiments_page KIND RESULTS PAGE      KIND: efficiency, ablation, missing
     build/experiments_page baselines RESULTS COSTS PAGE      baselines.c
     build/experiments_page runs PAGE DATA SPLIT NAME=RUN=PREDICTIONS ...
     build/experiments_page carry MASK IMAGE OUT MATRIX ...      carry.c

   RESULTS has one line for each fine-tuned network and test: arm <tab> x <tab> run <tab> metrics.json of `bmvp
   evaluate`. A run is a split and a seed, whatever it is called: arms are compared within it, case by case.
     efficiency  x: per cent of the labels; rows are arms, columns x. Differences are to the first arm
     ablation    arms in the order of the file; x is not used
     missing     x: the modalities that were there, joined by +; rows x, columns arms
   runs: fine-tuning runs side by side (the demo): their validation curves, the test Dice of each, and pictures of truth
   and predictions. */
#define _DEFAULT_SOURCE
#include "results.h"
#include "data/finetune_data.h"
#include "data/files.h"
#include "report/overlay.h"
#include "commands/cli.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Arms by places, mean of the regions. */
static void table_by_arm(report_page *page, const results *r, table *t, const char *first, const char *caption)
{
    int a, x;
    memset(t, 0, sizeof *t);
    t->rows = r->arms, t->cols = r->xs + 1;
    t->head[0] = first;
    for (x = 0; x < r->xs; ++x) t->head[x + 1] = r->x[x];
    for (a = 0; a < r->arms; ++a) {
        snprintf(t->text[a][0], sizeof t->text[a][0], "%s", r->arm[a]);
        for (x = 0; x < r->xs; ++x) spread_text(cell(r, a, x, -1), t->text[a][x + 1], sizeof t->text[a][0]);
    }
    show_table(page, t, caption);
}

static void table_by_place(report_page *page, const results *r, table *t, const char *first, const char *caption)
{
    int a, x;
    memset(t, 0, sizeof *t);
    t->rows = r->xs + 1, t->cols = r->arms + 1;
    t->head[0] = first;
    for (a = 0; a < r->arms; ++a) t->head[a + 1] = r->arm[a];
    for (x = 0; x <= r->xs; ++x) {
        snprintf(t->text[x][0], sizeof t->text[x][0], "%s", x < r->xs ? r->x[x] : "mean of all");
        for (a = 0; a < r->arms; ++a)
            spread_text(cell(r, a, x < r->xs ? x : -1, -1), t->text[x][a + 1], sizeof t->text[x][0]);
    }
    show_table(page, t, caption);
}

/* Arms by regions. */
static void table_by_region(report_page *page, const results *r, table *t, const char *caption)
{
    int a, k;
    memset(t, 0, sizeof *t);
    t->rows = r->arms, t->cols = r->regions + 2;
    t->head[0] = "";
    t->head[1] = "mean";
    for (k = 0; k < r->regions; ++k) t->head[k + 2] = r->region[k];
    for (a = 0; a < r->arms; ++a) {
        snprintf(t->text[a][0], sizeof t->text[a][0], "%s", r->arm[a]);
        for (k = -1; k < r->regions; ++k) spread_text(cell(r, a, -1, k), t->text[a][k + 2], sizeof t->text[a][0]);
    }
    show_table(page, t, caption);
}

/* >>figures -------------------------------------------------------------------------------------------------------- */

typedef struct figure {
    double x[MAX_NAMES][MAX_NAMES], y[MAX_NAMES][MAX_NAMES], sd[MAX_NAMES][MAX_NAMES];
    report_series series[MAX_NAMES];
    report_plot plot;
} figure;

static void show_figure(report_page *page, figure *f, int n_series, const char *title, const char *about,
                        const char *x_label)
{
    f->plot.title = title;
    f->plot.about = about;
    f->plot.y_label = "test Dice, from 0 to 1";
    f->plot.x_label = x_label;
    f->plot.series = f->series;
    f->plot.n_series = n_series;
    f->plot.scale = REPORT_LINEAR;
    (void)report_curves(page, &f->plot, 1);
}

static void add_series(figure *f, int i, const char *name, int n)
{
    f->series[i].name = name;
    f->series[i].x = f->x[i];
    f->series[i].y = f->y[i];
    f->series[i].spread = f->sd[i];
    f->series[i].n = n;
    f->series[i].colour = i;
    f->series[i].exact = 1;
}

static int modalities_in(const char *place)
{
    int n = 1;
    for (; *place; ++place) n += *place == '+';
    return n;
}

/* A line for each arm over the number at each place: per cent, or how many modalities are there (all places with that
   number). */
static void figure_over_places(report_page *page, const results *r, figure *f, int count, const char *title,
                               const char *x_label)
{
    double v[MAX_ROWS];
    int a, i, k, n;
    memset(f, 0, sizeof *f);
    for (a = 0; a < r->arms; ++a) {
        int points = 0;
        for (k = count ? 1 : 0; count ? k <= BMVP_MODALITIES : k < r->xs; ++k) {
            spread s;
            for (i = 0, n = 0; i < r->n; ++i)
                if (r->item[i].arm == a && (count ? modalities_in(r->x[r->item[i].x]) == k : r->item[i].x == k))
                    v[n++] = r->item[i].dice;
            s = spread_of(v, n);
            if (s.n == 0) continue;
            f->x[a][points] = count ? k : strtod(r->x[k], NULL);
            f->y[a][points] = s.mean;
            f->sd[a][points++] = s.n > 1 ? s.sd : 0;
        }
        add_series(f, a, r->arm[a], points);
    }
    show_figure(page, f, r->arms, title,
                "Mean over the runs, and a band of one standard deviation to either side: where bands overlap, a "
                "difference may be chance.",
                x_label);
}

static void figure_of_arms(report_page *page, const results *r, figure *f)
{
    static char about[640];
    size_t used = (size_t)snprintf(about, sizeof about, "Mean over the seeds, and a band of one standard deviation");
    int a;
    memset(f, 0, sizeof *f);
    for (a = 0; a < r->arms; ++a) {
        const spread s = cell(r, a, -1, -1);
        f->x[0][a] = a;
        f->y[0][a] = s.mean;
        f->sd[0][a] = s.n > 1 ? s.sd : 0;
        if (used < sizeof about)
            used += (size_t)snprintf(about + used, sizeof about - used, "%s%d: %s", a ? ", " : ", at ", a, r->arm[a]);
    }
    add_series(f, 0, "test Dice", r->arms);
    show_figure(page, f, 1, "Test Dice after fine-tuning", about, "pre-training, numbered as below");
}

/* >>experiments ---------------------------------------------------------------------------------------------------- */

static void tell(report_page *page, const char *text)
{
    printf("%s\n", text);
    (void)report_note(page, text);
}

static bmvp_status say_difference(report_page *page, const results *r, int a, int b, int x, const char *where,
                                  bmvp_error *err)
{
    static const char *const name[MEASURES] = { "Dice", "HD95 in mm" };
    paired d;
    char text[320], figures[64];
    int m;
    for (m = 0; m < MEASURES; ++m) {
        if (difference(r, a, b, x, m, &d, err) != BMVP_OK) return err->status;
        if (d.runs == 0) continue;
        paired_text(d, figures, sizeof figures);
        snprintf(text, sizeof text, "%s: %s minus %s, %s: %s, %d runs, %d cases: %s", where, r->arm[b], r->arm[a],
                 name[m], figures, d.runs, d.cases, verdict(d, m));
        tell(page, text);
    }
    return BMVP_OK;
}

/* Whether fine-tuning had come to its end. 0.01: about the standard deviation of a mean Dice over seeds. */
static void say_plateaus(report_page *page, const results *r)
{
    char text[320];
    int a, x;
    for (a = 0; a < r->arms; ++a)
        for (x = 0; x < r->xs; ++x) {
            const plateau p = plateau_of(r, a, x);
            if (p.runs == 0) continue;
            snprintf(text, sizeof text,
                     "Validation of %s at %s: Dice %.3f in the last quarter of the steps, %.3f before it (%d runs): %s",
                     r->arm[a], r->x[x], p.last, p.before, p.runs,
                     p.last - p.before < 0.01 ? "on a plateau" : "still rising, not converged");
            tell(page, text);
        }
}

static const char about_intervals[] =
    "Differences: mean over runs (split and seed) and test cases, of the same run and case, with the middle 95 per "
    "cent under a bootstrap of runs and cases. Pre-training ran once: its own luck is in no interval. An interval that "
    "contains zero means: no difference seen.";

static bmvp_status show_efficiency(report_page *page, const results *r, table *t, figure *f, bmvp_error *err)
{
    bmvp_status st = BMVP_OK;
    char where[64];
    int x, b;
    (void)report_section(page, "Label efficiency",
                         "Mean test Dice of the regions after fine-tuning on a share of the labelled cases; "
                         "\302\261 and bands: standard deviation over runs.");
    table_by_arm(page, r, t, "per cent of the labels", "Mean test Dice by share of the labels");
    figure_over_places(page, r, f, 0, "Test Dice by share of the labels", "per cent of the labelled training cases");
    tell(page, about_intervals);
    for (b = 1; b < r->arms; ++b)
        for (x = 0; x < r->xs && !st; ++x) {
            snprintf(where, sizeof where, "at %s per cent", r->x[x]);
            st = say_difference(page, r, 0, b, x, where, err);
        }
    say_plateaus(page, r);
    return st;
}

static bmvp_status show_ablation(report_page *page, const results *r, table *t, figure *f, bmvp_error *err)
{
    bmvp_status st = BMVP_OK;
    int b;
    (void)report_section(page, "Ablation of the tasks",
                         "The same fine-tuning after pre-training with more and more of the tasks, as measured.");
    table_by_region(page, r, t, "Test Dice by pre-training task");
    figure_of_arms(page, r, f);
    tell(page, about_intervals);
    for (b = 1; b < r->arms && !st; ++b) st = say_difference(page, r, b - 1, b, -1, "step", err);
    say_plateaus(page, r);
    return st;
}

static bmvp_status show_missing(report_page *page, const results *r, table *t, figure *f, bmvp_error *err)
{
    bmvp_status st = BMVP_OK;
    int b;
    (void)report_section(page, "Missing modalities",
                         "Test Dice when only some modalities are there. Each network stands in for the others in "
                         "the way it was trained with.");
    table_by_place(page, r, t, "modalities present", "Mean test Dice by the modalities that are present");
    figure_over_places(page, r, f, 1, "Test Dice by number of modalities", "modalities present");
    tell(page, about_intervals);
    for (b = 0; b + 1 < r->arms && !st; ++b) st = say_difference(page, r, b, r->arms - 1, -1, "all subsets", err);
    return st;
}

/* settings.tsv beside the results: lines of name <tab> value, how the experiment was run and where. None: nothing. */
static void show_settings(report_page *page, const char *results_file)
{
    static char text[40][2][200];
    const char *key[40], *value[40], *slash = strrchr(results_file, '/');
    char path[600], line[512], *tab;
    FILE *f;
    int n = 0;
    snprintf(path, sizeof path, "%.*ssettings.tsv", slash ? (int)(slash + 1 - results_file) : 0, results_file);
    if (!(f = fopen(path, "r"))) return;
    while (n < 40 && fgets(line, (int)sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        if (!(tab = strchr(line, '\t'))) continue;
        *tab++ = 0;
        snprintf(text[n][0], sizeof text[n][0], "%.199s", line);
        snprintf(text[n][1], sizeof text[n][1], "%.199s", tab);
        key[n] = text[n][0], value[n] = text[n][1], ++n;
    }
    fclose(f);
    if (n) (void)report_pairs(page, "Settings and machine", key, value, n);
}

static bmvp_status show_results(const char *kind, const char *path, const char *out, bmvp_error *err)
{
    static results r;
    static table t;
    static figure f;
    report_page page;
    bmvp_status st = read_results(&r, path, err);
    if (!st && (r.arms + 1 > MAX_NAMES || r.xs + 1 > 40 || r.arms > 40))
        st = bmvp_error_set(err, BMVP_E_ARG, "%s: too many arms for a table", path);
    if (!st && report_open(&page, out, "BrainMVP experiments", kind, kind) != BMVP_OK)
        st = bmvp_error_set(err, page.error.status, "%s", page.error.message);
    if (st) {
        free_results(&r);
        return st;
    }
    st = strcmp(kind, "efficiency") == 0 ? show_efficiency(&page, &r, &t, &f, err)
         : strcmp(kind, "ablation") == 0 ? show_ablation(&page, &r, &t, &f, err)
                                         : show_missing(&page, &r, &t, &f, err);
    show_settings(&page, path);
    free_results(&r);
    if (st) report_discard(&page);
    else if (report_close(&page) != BMVP_OK) st = bmvp_error_set(err, page.error.status, "%s", page.error.message);
    return st;
}

/* >>runs side by side ---------------------------------------------------------------------------------------------- */

typedef struct run { /* NAME=RUN=PREDICTIONS */
    char name[TEXT], dir[512], predictions[512];
    report_log log;
} run;

static int parse_run(const char *text, run *r)
{
    const size_t n = strcspn(text, "="), m = text[n] ? strcspn(text + n + 1, "=") : 0;
    if (!text[n] || !text[n + 1 + m] || n >= sizeof r->name || m >= sizeof r->dir ||
        strlen(text + n + m + 2) >= sizeof r->predictions)
        return 0;
    memcpy(r->name, text, n);
    memcpy(r->dir, text + n + 1, m);
    snprintf(r->predictions, sizeof r->predictions, "%s", text + n + m + 2);
    return 1;
}

static bmvp_status show_runs_table(report_page *page, run *runs, int n, bmvp_error *err)
{
    static results r;
    static table t;
    bmvp_status st = BMVP_OK;
    char path[600];
    int i;
    for (i = 0; i < n && !st; ++i) {
        result *item = &r.item[r.n++];
        item->arm = name_index(r.arm, &r.arms, MAX_NAMES, runs[i].name);
        snprintf(path, sizeof path, "%s/metrics.json", runs[i].predictions);
        st = read_metrics(&r, item, path, err);
    }
    if (!st) table_by_region(page, &r, &t, "Dice of the test cases, mean over cases");
    free_results(&r);
    return st;
}

static bmvp_status show_runs_curves(report_page *page, run *runs, int n, bmvp_error *err)
{
    static const char *const field[3] = { "step", "val_dice", "loss" };
    report_series series[2][MAX_NAMES];
    report_plot plot[2];
    char path[600];
    int i, k;
    memset(series, 0, sizeof series);
    memset(plot, 0, sizeof plot);
    for (i = 0; i < n; ++i) {
        snprintf(path, sizeof path, "%s/log.jsonl", runs[i].dir);
        if (report_log_load(path, field, 3, &runs[i].log, err) != BMVP_OK) return err->status;
        for (k = 0; k < 2; ++k) {
            series[k][i].name = runs[i].name;
            series[k][i].x = runs[i].log.value[0];
            series[k][i].y = runs[i].log.value[1 + k];
            series[k][i].n = runs[i].log.n;
            series[k][i].colour = i;
            series[k][i].exact = k == 0;
        }
    }
    for (k = 0; k < 2; ++k) {
        plot[k].title = k ? "Training loss" : "Dice in validation";
        plot[k].about = k ? "What fine-tuning makes small; the networks differ only in where they started."
                          : "Overlap of prediction and truth in cases that are not trained on: 1 is perfect. A start "
                            "that helps rises earlier, or higher.";
        plot[k].x_label = "step";
        plot[k].y_label = k ? "loss, no unit" : "mean Dice of the regions, from 0 to 1";
        plot[k].series = series[k];
        plot[k].n_series = n;
        plot[k].scale = k ? REPORT_AUTO : REPORT_LINEAR;
    }
    (void)report_curves(page, plot, 2);
    return BMVP_OK;
}

/* A volume in RAS; n floats x fastest, dim as D, H, W. */
static bmvp_status read_ras(const char *path, bmvp_nii_volume *v, int64_t dim[3], bmvp_error *err)
{
    bmvp_nii_load how;
    bmvp_error e;
    int a;
    memset(&how, 0, sizeof how);
    how.axcodes = "RAS";
    if (bmvp_nii_read_volume(v, path, &how, NULL, &e) != BMVP_OK)
        return bmvp_error_set(err, BMVP_E_IO, "%s", e.message);
    for (a = 0; a < 3; ++a) dim[a] = v->dim[2 - a];
    return BMVP_OK;
}

static unsigned char *label_numbers(const bmvp_labels *l, const bmvp_nii_volume *v)
{
    const int64_t n = v->dim[0] * v->dim[1] * v->dim[2];
    unsigned char *p = (unsigned char *)malloc((size_t)n);
    int64_t i;
    for (i = 0; p && i < n; ++i)
        p[i] = v->data[i] >= 0 && v->data[i] < BMVP_LABEL_VALUES ? (unsigned char)v->data[i] : 0;
    if (p) region_numbers(l, p, n);
    return p;
}

/* One row: image, truth, and the prediction of every run. */
static bmvp_status picture_row(const dataset *d, const data_case *k, run *runs, int n, report_picture *row,
                               overlay_memory *m, bmvp_error *err)
{
    bmvp_nii_volume image, truth, predicted;
    bmvp_nii_scale scale;
    bmvp_error e;
    report_picture three[3];
    unsigned char *t = NULL, *p = NULL;
    int64_t dim[3], other[3];
    char path[800];
    bmvp_status st;
    int i, c;
    memset(&image, 0, sizeof image);
    memset(&truth, 0, sizeof truth);
    for (c = 0; c + 1 < BMVP_MODALITIES && !k->image[c]; ++c) { }
    st = read_ras(k->image[c], &image, dim, err);
    memset(&scale, 0, sizeof scale); /* files hold scanner units, pictures show 0 to 1 */
    scale.lower = 1, scale.upper = 99.5, scale.b_max = 1, scale.clip = 1;
    if (!st && bmvp_nii_scale_percentiles(&image, &scale, NULL, &e) != BMVP_OK)
        st = bmvp_error_set(err, BMVP_E_FORMAT, "%s", e.message);
    if (!st) st = read_ras(k->label, &truth, other, err);
    if (!st && !(t = label_numbers(&d->labels, &truth))) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (i = 0; i < n && !st; ++i) {
        memset(&predicted, 0, sizeof predicted);
        snprintf(path, sizeof path, "%s/%s.nii.gz", runs[i].predictions, k->id);
        st = read_ras(path, &predicted, other, err);
        if (!st && memcmp(dim, other, sizeof dim) != 0)
            st = bmvp_error_set(err, BMVP_E_SHAPE, "%s: not on the grid of its image", path);
        if (!st && !(p = label_numbers(&d->labels, &predicted))) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        if (!st) st = overlay_row(image.data, t, p, dim, three, &m[i]);
        if (!st && i == 0) memcpy(row, three, 2 * sizeof *row);
        if (!st) row[2 + i] = three[2];
        free(p);
        p = NULL;
        bmvp_nii_volume_free(&predicted);
    }
    free(t);
    bmvp_nii_volume_free(&image);
    bmvp_nii_volume_free(&truth);
    return st;
}

static bmvp_status show_runs_pictures(report_page *page, const char *data, const char *split, run *runs, int n,
                                      bmvp_error *err)
{
    enum { ROWS = 3 };
    report_picture picture[ROWS * (MAX_NAMES + 2)];
    overlay_memory memory[ROWS][MAX_NAMES];
    report_colour legend[REGION_COLOURS];
    const char *column[MAX_NAMES + 2] = { "image", "truth" }, *row[ROWS];
    report_grid grid;
    dataset d;
    data_split s;
    int64_t *index = NULL, cases = 0;
    bmvp_status st = dataset_load(&d, data, err);
    int i, k;
    if (st) return st;
    memset(memory, 0, sizeof memory);
    memset(&grid, 0, sizeof grid);
    st = split_load(&s, &d, split, err);
    index = (int64_t *)malloc((size_t)d.n * sizeof *index + 1);
    if (!st && index) st = split_select(&s, "test", index, &cases, err);
    for (i = 0; i < ROWS && i < cases && !st; ++i) {
        row[i] = d.item[index[i]].id;
        st = picture_row(&d, &d.item[index[i]], runs, n, picture + i * (n + 2), memory[i], err);
    }
    for (k = 0; k < n; ++k) column[2 + k] = runs[k].name;
    grid.caption = "Test cases: the axial plane with most labelled voxels";
    grid.about = "Regions in colour: the more a prediction looks like the truth, the better.";
    grid.row_name = row;
    grid.col_name = column;
    grid.picture = picture;
    grid.rows = i;
    grid.cols = n + 2;
    grid.legend = legend;
    grid.n_legend = region_legend(&d.labels, legend);
    if (!st) (void)report_images(page, &grid);
    for (i = 0; i < ROWS; ++i)
        for (k = 0; k < n; ++k) overlay_free(&memory[i][k]);
    free(index);
    split_free(&s);
    dataset_free(&d);
    return st;
}

static bmvp_status show_runs(const char *out, const char *data, const char *split, char **text, int n, bmvp_error *err)
{
    static run runs[MAX_NAMES];
    report_page page;
    bmvp_status st = BMVP_OK;
    int i;
    for (i = 0; i < n && !st; ++i)
        if (n > MAX_NAMES || !parse_run(text[i], &runs[i]))
            st = bmvp_error_set(err, BMVP_E_ARG, "'%s' must be NAME=RUN=PREDICTIONS", text[i]);
    if (st) return st;
    if (report_open(&page, out, NULL, "runs", "Fine-tuning") != BMVP_OK)
        return bmvp_error_set(err, page.error.status, "%s", page.error.message);
    (void)report_section(&page, "Segmentation",
                         "The same fine-tuning with and without pre-training, and what it makes of the test cases. "
                         "Dice is the overlap of prediction and truth: 0 is none, 1 is perfect.");
    st = show_runs_table(&page, runs, n, err);
    if (!st) st = show_runs_curves(&page, runs, n, err);
    if (!st) st = show_runs_pictures(&page, data, split, runs, n, err);
    for (i = 0; i < n; ++i) report_log_free(&runs[i].log);
    if (st) report_discard(&page);
    else if (report_close(&page) != BMVP_OK) st = bmvp_error_set(err, page.error.status, "%s", page.error.message);
    return st;
}

int main(int argc, char **argv)
{
    bmvp_error err;
    bmvp_status st;
    const int kind = argc == 4 && (strcmp(argv[1], "efficiency") == 0 || strcmp(argv[1], "ablation") == 0 ||
                                   strcmp(argv[1], "missing") == 0);
    const int baselines = argc == 5 && strcmp(argv[1], "baselines") == 0;
    const int carry = argc > 5 && strcmp(argv[1], "carry") == 0;
    if (!kind && !baselines && !carry && !(argc > 5 && strcmp(argv[1], "runs") == 0)) {
        fprintf(stderr, "usage: experiments_page efficiency|ablation|missing RESULTS PAGE\n"
                        "       experiments_page baselines RESULTS COSTS PAGE\n"
                        "       experiments_page runs PAGE DATA SPLIT NAME=RUN=PREDICTIONS ...\n"
                        "       experiments_page carry MASK IMAGE OUT MATRIX ...\n");
        return CLI_USAGE;
    }
    st = kind        ? show_results(argv[1], argv[2], argv[3], &err)
         : baselines ? show_baselines(argv[2], argv[3], argv[4], &err)
         : carry     ? carry_mask(argv[2], argv[3], argv[4], argv + 5, argc - 5, &err)
                     : show_runs(argv[2], argv[3], argv[4], argv + 5, argc - 5, &err);
    if (!st) return CLI_DONE;
    fprintf(stderr, "experiments_page: %s\n", err.message);
    return CLI_FAILED;
}
