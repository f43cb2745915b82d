/* evaluation.c - the table, metrics.json and metrics.csv of an evaluation, see evaluation.h */
#include "evaluation.h"
#include "data/files.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const figure_name[FIGURES] = { "dice", "hd95", "hd", "sensitivity", "specificity" };
const char *const class_figure_name[FIGURES] = { "accuracy", "auc", "f1", "sensitivity", "specificity" };
const char *const empty_rule_name[EMPTY_RULES] = { "monai", "brats" };
static const char *const state_text[3] = { "", "no prediction", "failed" };

static const data_case *case_of(const evaluation *e, int64_t i) { return &e->set.item[e->index[i]]; }

/* >>the table ------------------------------------------------------------------------------------------------------ */

/* "0.9123", "-" where there is no number. */
static const char *number_text(double v, int digits, char *buf, size_t size)
{
    if (v == v) snprintf(buf, size, "%.*f", digits, v);
    else snprintf(buf, size, "-");
    return buf;
}

/* "0.9123 [0.9001, 0.9240] 12": the mean, its interval, of how many cases. */
static void print_interval(const bmvp_interval *v, int digits)
{
    char mean[32], low[32], high[32], text[128];
    number_text(v->mean, digits, mean, sizeof mean);
    number_text(v->low, digits, low, sizeof low);
    number_text(v->high, digits, high, sizeof high);
    if (v->n_used > 0) snprintf(text, sizeof text, "%s [%s, %s] %lld", mean, low, high, (long long)v->n_used);
    else snprintf(text, sizeof text, "-");
    printf("  %-28s", text);
}

static int region_width(const evaluation *e)
{
    size_t n = strlen("region");
    int r;
    for (r = 0; r < e->set.labels.n; ++r) n = strlen(e->set.labels.region[r]) > n ? strlen(e->set.labels.region[r]) : n;
    return (int)n;
}

static void print_summary(const evaluation *e)
{
    const bmvp_labels *l = &e->set.labels;
    const int width = region_width(e),
              rows = l->n > 1 ? l->n + 1 : l->n; /* the mean over one region would say nothing new */
    char hd[32], sensitivity[32], specificity[32];
    int r;
    printf("\n%-*s  %-28s  %-28s %8s  sensitivity  specificity\n", width, "region", "Dice [95 % interval] cases",
           "HD95 mm", "HD mm");
    for (r = 0; r < rows; ++r) {
        const bmvp_interval *v = e->summary[e->rule][r];
        printf("%-*s", width, r < l->n ? l->region[r] : "mean");
        print_interval(&v[FIGURE_DICE], 4);
        print_interval(&v[FIGURE_HD95], 2);
        printf(" %8s  %11s  %11s\n", number_text(v[FIGURE_HD].mean, 2, hd, sizeof hd),
               number_text(v[FIGURE_SENSITIVITY].mean, 4, sensitivity, sizeof sensitivity),
               number_text(v[FIGURE_SPECIFICITY].mean, 4, specificity, sizeof specificity));
    }
    for (r = 0; r < l->n; ++r)
        if (e->present[r] == 0)
            printf("%s: never in the truth of these %lld cases\n", l->region[r], (long long)e->n_state[CASE_DONE]);
}

static void print_cases(const evaluation *e)
{
    const bmvp_labels *l = &e->set.labels;
    const int width = region_width(e);
    char text[32];
    int64_t i;
    int r, f;
    printf("\n%-20s  %-*s  %10s %10s %10s %11s %11s %10s %10s\n", "case", width, "region", "Dice", "HD95 mm", "HD mm",
           "sensitivity", "specificity", "truth", "predicted");
    for (i = 0; i < e->n; ++i)
        for (r = 0; r < l->n; ++r) {
            const region_figures *v = &e->item[i].region[r];
            if (e->item[i].state != CASE_DONE) continue;
            printf("%-20s  %-*s ", case_of(e, i)->id, width, l->region[r]);
            for (f = 0; f < FIGURES; ++f)
                printf(
                    " %*s", f < FIGURE_SENSITIVITY ? 10 : 11,
                    number_text(v->figure[e->rule][f], f == FIGURE_HD95 || f == FIGURE_HD ? 2 : 4, text, sizeof text));
            printf(" %10lld %10lld\n", (long long)v->truth, (long long)v->predicted);
        }
}

static void print_classes(const evaluation *e, int per_case)
{
    int64_t i;
    int f, k;
    printf("\n");
    for (f = 0; f < FIGURES; ++f) {
        printf("%-11s", class_figure_name[f]);
        print_interval(&e->class_summary[f], 4);
        printf("\n");
    }
    for (k = 0; k < e->classes; ++k)
        if (e->present[k] == 0)
            printf("class %d: never in the truth of these %lld cases\n", k, (long long)e->n_state[CASE_DONE]);
    if (per_case) printf("\n%-20s  class  predicted  probabilities\n", "case");
    for (i = 0; i < e->n && per_case; ++i) {
        if (e->item[i].state != CASE_DONE) continue;
        printf("%-20s  %5lld  %9d ", case_of(e, i)->id, (long long)case_of(e, i)->class_index, e->item[i].guess);
        for (k = 0; k < e->classes; ++k) printf(" %.4f", (double)e->item[i].probability[k]);
        printf("\n");
    }
}

void evaluation_print(const evaluation *e, int per_case)
{
    const bmvp_labels *l = &e->set.labels;
    int64_t i;
    int r;
    printf("cases      %lld of %s", (long long)e->n_state[CASE_DONE], e->set.path);
    if (e->split) printf(", part %s of %s", e->part, e->split);
    printf("; %lld without prediction, %lld failed\n", (long long)e->n_state[CASE_MISSING],
           (long long)e->n_state[CASE_FAILED]);
    for (i = 0; i < e->n; ++i)
        if (e->item[i].state != CASE_DONE) printf("  %s: %s\n", case_of(e, i)->id, state_text[e->item[i].state]);
    if (e->classify) {
        printf("classes    %d\n", e->classes);
        print_classes(e, per_case);
        return;
    }
    printf("labels     %s, %s:", l->name, l->exclusive ? "classes" : "regions");
    for (r = 0; r < l->n; ++r) printf(" %s", l->region[r]);
    printf("\nempty      %s\n", bmvp_empty_rule_text(e->rule));
    if (per_case) print_cases(e);
    print_summary(e);
}

/* >>metrics.json --------------------------------------------------------------------------------------------------- */

static void write_interval(bmvp_jw *w, const char *key, const bmvp_interval *v)
{
    bmvp_jw_object(w, key);
    bmvp_jw_double(w, "mean", v->mean);
    bmvp_jw_double(w, "low", v->low);
    bmvp_jw_double(w, "high", v->high);
    bmvp_jw_int(w, "n", v->n_used);
    bmvp_jw_end(w);
}

static void write_row(bmvp_jw *w, const char *key, const bmvp_interval row[FIGURES], const char *const *name)
{
    int f;
    bmvp_jw_object(w, key);
    for (f = 0; f < FIGURES; ++f) write_interval(w, name[f], &row[f]);
    bmvp_jw_end(w);
}

static void write_head(bmvp_jw *w, const evaluation *e)
{
    int64_t i;
    bmvp_jw_string(w, "task", e->classify ? "classify" : "segment");
    bmvp_jw_string(w, "data", e->set.path);
    bmvp_jw_string(w, "predictions", e->predictions);
    bmvp_jw_string(w, "split", e->split);
    bmvp_jw_string(w, "part", e->split ? e->part : "all");
    bmvp_jw_int(w, "resamples", e->resamples);
    bmvp_jw_int(w, "seed", e->seed);
    bmvp_jw_int(w, "cases_done", e->n_state[CASE_DONE]);
    bmvp_jw_array(w, "missing");
    for (i = 0; i < e->n; ++i)
        if (e->item[i].state == CASE_MISSING) bmvp_jw_string(w, NULL, case_of(e, i)->id);
    bmvp_jw_end(w);
    bmvp_jw_array(w, "failed");
    for (i = 0; i < e->n; ++i) {
        if (e->item[i].state != CASE_FAILED) continue;
        bmvp_jw_object(w, NULL);
        bmvp_jw_string(w, "id", case_of(e, i)->id);
        bmvp_jw_string(w, "message", e->item[i].why);
        bmvp_jw_end(w);
    }
    bmvp_jw_end(w);
}

static void write_region_summary(bmvp_jw *w, const evaluation *e)
{
    const bmvp_labels *l = &e->set.labels;
    int k, r;
    bmvp_labels_write(w, "labels", l);
    bmvp_jw_string(w, "empty_rule", empty_rule_name[e->rule]);
    bmvp_jw_string(w, "empty_rule_text", bmvp_empty_rule_text(e->rule));
    bmvp_jw_object(w, "summary");
    for (k = 0; k < EMPTY_RULES; ++k) {
        bmvp_jw_object(w, empty_rule_name[k]);
        bmvp_jw_object(w, "regions");
        for (r = 0; r < l->n; ++r) write_row(w, l->region[r], e->summary[k][r], figure_name);
        bmvp_jw_end(w);
        write_row(w, "mean", e->summary[k][l->n], figure_name);
        bmvp_jw_end(w);
    }
    bmvp_jw_end(w);
    bmvp_jw_object(w, "present");
    for (r = 0; r < l->n; ++r) bmvp_jw_int(w, l->region[r], e->present[r]);
    bmvp_jw_end(w);
}

static void write_class_summary(bmvp_jw *w, const evaluation *e)
{
    int64_t i, n;
    int t, p;
    bmvp_jw_int(w, "classes", e->classes);
    write_row(w, "summary", e->class_summary, class_figure_name);
    bmvp_jw_array(w, "present");
    for (t = 0; t < e->classes; ++t) bmvp_jw_int(w, NULL, e->present[t]);
    bmvp_jw_end(w);
    bmvp_jw_array(w, "confusion");
    for (t = 0; t < e->classes; ++t) {
        bmvp_jw_array(w, NULL);
        for (p = 0; p < e->classes; ++p) {
            for (i = 0, n = 0; i < e->n; ++i)
                n += e->item[i].state == CASE_DONE && case_of(e, i)->class_index == t && e->item[i].guess == p;
            bmvp_jw_int(w, NULL, n);
        }
        bmvp_jw_end(w);
    }
    bmvp_jw_end(w);
}

static void write_regions_of_case(bmvp_jw *w, const evaluation *e, const evaluated_case *v)
{
    const bmvp_labels *l = &e->set.labels;
    int r, f;
    bmvp_jw_array(w, "voxel_mm");
    for (f = 2; f >= 0; --f) bmvp_jw_double(w, NULL, v->mm[f]);
    bmvp_jw_end(w);
    bmvp_jw_object(w, "regions");
    for (r = 0; r < l->n; ++r) {
        bmvp_jw_object(w, l->region[r]);
        for (f = 0; f < FIGURES; ++f) bmvp_jw_double(w, figure_name[f], v->region[r].figure[e->rule][f]);
        bmvp_jw_int(w, "truth_voxels", v->region[r].truth);
        bmvp_jw_int(w, "predicted_voxels", v->region[r].predicted);
        bmvp_jw_end(w);
    }
    bmvp_jw_end(w);
}

static bmvp_status write_json(const evaluation *e, const char *path, bmvp_error *err)
{
    bmvp_status st;
    int64_t i;
    bmvp_jw w;
    int k;
    bmvp_jw_init(&w, 1, NULL);
    bmvp_jw_object(&w, NULL);
    write_head(&w, e);
    if (e->classify) write_class_summary(&w, e);
    else write_region_summary(&w, e);
    bmvp_jw_array(&w, "cases");
    for (i = 0; i < e->n; ++i) {
        if (e->item[i].state != CASE_DONE) continue;
        bmvp_jw_object(&w, NULL);
        bmvp_jw_string(&w, "id", case_of(e, i)->id);
        if (!e->classify) write_regions_of_case(&w, e, &e->item[i]);
        else {
            bmvp_jw_int(&w, "class", case_of(e, i)->class_index);
            bmvp_jw_int(&w, "predicted", e->item[i].guess);
            bmvp_jw_array(&w, "probabilities");
            for (k = 0; k < e->classes; ++k) bmvp_jw_float(&w, NULL, e->item[i].probability[k]);
            bmvp_jw_end(&w);
        }
        bmvp_jw_end(&w);
    }
    bmvp_jw_end(&w);
    bmvp_jw_end(&w);
    st = bmvp_jw_finish(&w, err);
    if (!st) st = bmvp_file_write(path, w.out.data, w.out.len, NULL, err);
    bmvp_jw_free(&w);
    return st;
}

/* >>metrics.csv ---------------------------------------------------------------------------------------------------- */

static void put(bmvp_bytes *b, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bmvp_bytes_append(b, text, strlen(text));
}

/* In quotes where it must be (RFC 4180). */
static void put_text(bmvp_bytes *b, const char *text)
{
    const int plain = strpbrk(text, ",\"\r\n") == NULL;
    if (plain) {
        bmvp_bytes_append(b, text, strlen(text));
        return;
    }
    bmvp_bytes_append(b, "\"", 1);
    for (; *text; ++text) bmvp_bytes_append(b, *text == '"' ? "\"\"" : text, *text == '"' ? 2 : 1);
    bmvp_bytes_append(b, "\"", 1);
}

static void put_regions(bmvp_bytes *b, const evaluation *e, int64_t i)
{
    const bmvp_labels *l = &e->set.labels;
    int r, f;
    for (r = 0; r < l->n; ++r) {
        const region_figures *v = &e->item[i].region[r];
        put_text(b, case_of(e, i)->id);
        put(b, ",");
        put_text(b, l->region[r]);
        for (f = 0; f < FIGURES; ++f) {
            const double x = v->figure[e->rule][f];
            if (x == x) put(b, ",%.9g", x);
            else put(b, ",nan");
        }
        put(b, ",%lld,%lld,%s\n", (long long)v->truth, (long long)v->predicted, empty_rule_name[e->rule]);
    }
}

static bmvp_status write_csv(const evaluation *e, const char *path, bmvp_error *err)
{
    bmvp_status st;
    bmvp_bytes b;
    int64_t i;
    int k;
    bmvp_bytes_init(&b, NULL);
    if (e->classify) {
        put(&b, "id,class,predicted");
        for (k = 0; k < e->classes; ++k) put(&b, ",probability_%d", k);
        put(&b, "\n");
    } else put(&b, "id,region,dice,hd95_mm,hd_mm,sensitivity,specificity,truth_voxels,predicted_voxels,empty_rule\n");
    for (i = 0; i < e->n; ++i) {
        if (e->item[i].state != CASE_DONE) continue;
        if (!e->classify) {
            put_regions(&b, e, i);
            continue;
        }
        put_text(&b, case_of(e, i)->id);
        put(&b, ",%lld,%d", (long long)case_of(e, i)->class_index, e->item[i].guess);
        for (k = 0; k < e->classes; ++k) put(&b, ",%.9g", (double)e->item[i].probability[k]);
        put(&b, "\n");
    }
    st = b.failed ? bmvp_error_set(err, BMVP_E_OOM, "out of memory") : bmvp_file_write(path, b.data, b.len, NULL, err);
    bmvp_bytes_free(&b);
    return st;
}

bmvp_status evaluation_may_write(const char *dir, bmvp_error *err)
{
    char *json = path_join(dir, "metrics.json"), *csv = path_join(dir, "metrics.csv");
    bmvp_status st = json && csv ? file_may_replace(json, "summary", err)
                                 : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (!st && file_exists(csv) && !file_exists(json)) /* ours have the other beside them */
        st = bmvp_error_set(err, BMVP_E_ARG, "%s: is there already, and bmvp has not written it; choose another --out",
                            csv);
    free(json);
    free(csv);
    return st;
}

bmvp_status evaluation_write(const evaluation *e, const char *dir, bmvp_error *err)
{
    char *json = path_join(dir, "metrics.json"), *csv = path_join(dir, "metrics.csv");
    bmvp_status st = json && csv ? write_json(e, json, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (!st) st = write_csv(e, csv, err);
    free(json);
    free(csv);
    return st;
}
