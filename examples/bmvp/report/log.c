/* log.c - the log of a run and its panels, see report.h */
#include "markup.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void report_log_free(report_log *log)
{
    int i;
    for (i = 0; log->value && i < log->columns; i++) free(log->value[i]);
    free(log->value);
    memset(log, 0, sizeof *log);
}

static int log_allocate(report_log *log, int columns, size_t lines)
{
    int i;
    if (lines >= SIZE_MAX / sizeof(double)) return -1;
    log->value = (double **)calloc((size_t)columns, sizeof *log->value);
    if (!log->value) return -1;
    log->columns = columns;
    for (i = 0; i < columns; i++) {
        log->value[i] = (double *)malloc((lines + 1) * sizeof(double));
        if (!log->value[i]) return -1;
    }
    return 0;
}

/* BMVP_E_OOM, or BMVP_OK also where the line is skipped. */
static bmvp_status log_line(report_log *log, const char *const *name, const char *line, size_t n)
{
    bmvp_json_doc *doc = NULL;
    const bmvp_json *root;
    bmvp_status s = bmvp_json_parse(line, n, "log", NULL, &doc, NULL);
    double first;
    int i;
    if (s == BMVP_E_OOM) return s;
    root = s == BMVP_OK ? bmvp_json_root(doc) : NULL;
    first = bmvp_json_double(bmvp_json_get(root, name[0]), (double)NAN);
    if (isnan(first)) {
        log->skipped++;
    } else {
        while (log->n > 0 && log->value[0][log->n - 1] >= first) log->n--;
        for (i = 0; i < log->columns; i++)
            log->value[i][log->n] = bmvp_json_double(bmvp_json_get(root, name[i]), (double)NAN);
        log->n++;
    }
    bmvp_json_free(doc);
    return BMVP_OK;
}

bmvp_status report_log_load(const char *path, const char *const *name, int columns, report_log *log,
                            bmvp_error *err)
{
    bmvp_bytes text;
    bmvp_status s;
    const char *p, *end;
    size_t lines = 0;
    memset(log, 0, sizeof *log);
    if (columns < 1) return bmvp_error_set(err, BMVP_E_ARG, "%s: no field asked for", path);
    bmvp_bytes_init(&text, NULL);
    s = bmvp_file_read(path, MAX_PAGE, &text, err);
    if (s == BMVP_OK) {
        end = text.data + text.len;
        for (p = text.data; p && p < end; p++) lines += *p == '\n';
        if (log_allocate(log, columns, lines) != 0) s = BMVP_E_OOM;
        for (p = text.data; s == BMVP_OK && p && p < end; ) {
            const char *stop = (const char *)memchr(p, '\n', (size_t)(end - p));
            if (!stop) stop = end;
            if (stop > p) s = log_line(log, name, p, (size_t)(stop - p));
            p = stop + 1;
        }
        if (s == BMVP_E_OOM) bmvp_error_set(err, s, "%s: out of memory", path);
    }
    if (s != BMVP_OK) report_log_free(log);
    bmvp_bytes_free(&text);
    return s;
}

enum { LOG_STEP, LOG_TOTAL, LOG_CROSS, LOG_TEMPLATE, LOG_CONTRAST, LOG_RATE, LOG_SPEED, LOG_FIELDS };

static report_series log_series(const report_log *log, int field, const char *name, int colour, int exact)
{
    report_series s;
    memset(&s, 0, sizeof s);
    s.name = name;
    s.x = log->value[LOG_STEP];
    s.y = log->value[field];
    s.n = log->n;
    s.colour = colour;
    s.exact = exact;
    return s;
}

static int log_has(const report_log *log, int field)
{
    int64_t i;
    for (i = 0; i < log->n; i++)
        if (isfinite(log->value[field][i])) return 1;
    return 0;
}

bmvp_status report_losses(report_page *r, const char *log_path)
{
    static const char *const field[LOG_FIELDS] = { "step", "loss", "loss_cmr", "loss_md", "loss_cl", "lr",
                                                   "samples_per_s" };
    static const char *const title[4] = { "Reconstruction losses", "Contrastive and total loss", "Learning rate",
                                          "Samples per second" };
    static const char *const unit[4] = { "mean squared error of grey values from 0 to 1", "loss, no unit",
                                         "learning rate, no unit", "crops a second" };
    static const char *const about[4] = {
        "How far a rebuilt crop is from the crop, when masked voxels show another modality (cross-modal, equation 2) "
        "or the template (distillation, 3). Less is better; thin lines are single steps, thick ones are smoothed.",
        "Contrast (4, 5) falls when the two views of a crop are told from those of other cases; guessing among n gives "
        "ln n. Total is the weighted sum that training makes small (6).",
        "How far a step may move the weights: it rises during the warm-up and then follows a cosine.",
        "How many crops training takes in a second; a dip means that the machine or its disk was busy."
    };
    report_log log;
    report_series s[6];
    report_plot plot[4];
    int i, n = 0;
    if (report_state(r) != BMVP_OK) return r->error.status;
    if (report_log_load(log_path, field, LOG_FIELDS, &log, &r->error) != BMVP_OK) return r->error.status;
    s[0] = log_series(&log, LOG_CROSS, "cross-modal", 0, 0);
    s[1] = log_series(&log, LOG_TEMPLATE, "distillation", 1, 0);
    s[2] = log_series(&log, LOG_CONTRAST, "contrast", 2, 0);
    s[3] = log_series(&log, LOG_TOTAL, "total", 3, 0);
    s[4] = log_series(&log, LOG_RATE, "learning rate", 7, 1);
    s[5] = log_series(&log, LOG_SPEED, "samples/s", 5, 0);
    memset(plot, 0, sizeof plot);
    for (i = 0; i < 4; i++) {
        int single = i >= 2, first = single ? i + 2 : 2 * i;
        int a = LOG_STEP, b = LOG_STEP;
        if (i == 0) a = LOG_CROSS, b = LOG_TEMPLATE;
        if (i == 1) a = LOG_CONTRAST, b = LOG_TOTAL;
        if (single) a = b = i == 2 ? LOG_RATE : LOG_SPEED;
        if (!log_has(&log, a) && !log_has(&log, b)) continue;
        plot[n].title = title[i];
        plot[n].about = about[i];
        plot[n].x_label = "step";
        plot[n].y_label = unit[i];
        plot[n].series = s + first;
        plot[n].n_series = single ? 1 : 2;
        plot[n].scale = single ? REPORT_LINEAR : REPORT_AUTO;
        plot[n++].small = single;
    }
    if (n) report_curves(r, plot, n);
    else report_note(r, "No step has been logged yet.");
    report_log_free(&log);
    return report_state(r);
}
