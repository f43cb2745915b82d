/* results.c - see results.h */
#include "results.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* >>reading -------------------------------------------------------------------------------------------------------- */

int name_index(char list[][TEXT], int *n, int most, const char *name)
{
    int i;
    for (i = 0; i < *n; ++i)
        if (strcmp(list[i], name) == 0) return i;
    if (*n == most) return -1;
    snprintf(list[*n], TEXT, "%s", name);
    return (*n)++;
}

static double figure(const bmvp_json *of, const char *name)
{
    return bmvp_json_double(bmvp_json_get(bmvp_json_get(of, name), "mean"), NAN);
}

bmvp_status read_metrics(results *r, result *t, const char *path, bmvp_error *err)
{
    bmvp_json_doc *doc = NULL;
    const bmvp_json *all, *k;
    bmvp_status st = bmvp_json_read(path, NULL, &doc, err);
    int i;
    if (st) return st;
    all = bmvp_json_get(bmvp_json_get(bmvp_json_root(doc), "summary"), "monai");
    t->dice = figure(bmvp_json_get(all, "mean"), "dice");
    t->hd95 = figure(bmvp_json_get(all, "mean"), "hd95");
    k = bmvp_json_get(all, "regions");
    for (k = k ? k->first : NULL; k; k = k->next) {
        i = name_index(r->region, &r->regions, MAX_REGIONS, k->key);
        if (i >= 0) t->region[i] = figure(k, "dice"), t->region_hd95[i] = figure(k, "hd95");
    }
    bmvp_json_free(doc);
    return all ? BMVP_OK
               : bmvp_error_set(err, BMVP_E_FORMAT, "%s: not what `bmvp evaluate` writes for a segmentation", path);
}

bmvp_status read_results(results *r, const char *path, bmvp_error *err)
{
    char line[2048], *word[4];
    bmvp_status st = BMVP_OK;
    FILE *f = fopen(path, "r");
    int i;
    if (!f) return bmvp_error_set(err, BMVP_E_IO, "%s: cannot be read", path);
    while (!st && fgets(line, (int)sizeof line, f)) {
        result *t = &r->item[r->n];
        line[strcspn(line, "\n")] = 0;
        for (i = 0, word[0] = line; i < 3 && word[i]; ++i) {
            word[i + 1] = strchr(word[i], '\t');
            if (word[i + 1]) *word[i + 1]++ = 0;
        }
        if (i < 3 || !word[3] || r->n == MAX_ROWS) {
            st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: line %d is not arm, x, seed, file with tabs between them",
                                path, r->n + 1);
            break;
        }
        t->arm = name_index(r->arm, &r->arms, MAX_NAMES, word[0]);
        t->x = name_index(r->x, &r->xs, MAX_NAMES, word[1]);
        t->seed = strtoll(word[2], NULL, 10);
        if (t->arm < 0 || t->x < 0)
            st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: more than %d arms or places", path, MAX_NAMES);
        else st = read_metrics(r, t, word[3], err);
        ++r->n;
    }
    fclose(f);
    return !st && r->n == 0 ? bmvp_error_set(err, BMVP_E_FORMAT, "%s: no results", path) : st;
}

/* >>numbers -------------------------------------------------------------------------------------------------------- */

spread spread_of(const double *v, int n)
{
    spread s = { 0, 0, 0 };
    int i;
    for (i = 0; i < n; ++i)
        if (v[i] == v[i]) s.mean += v[i], ++s.n;
    s.mean = s.n ? s.mean / s.n : NAN;
    for (i = 0; i < n; ++i)
        if (v[i] == v[i]) s.sd += (v[i] - s.mean) * (v[i] - s.mean);
    s.sd = s.n > 1 ? sqrt(s.sd / (s.n - 1)) : NAN;
    return s;
}

/* region -1: the mean of the regions */
static double value_of(const result *t, int region) { return region < 0 ? t->dice : t->region[region]; }

spread cell(const results *r, int arm, int x, int region)
{
    double v[MAX_ROWS];
    int i, n = 0;
    for (i = 0; i < r->n; ++i)
        if (r->item[i].arm == arm && (x < 0 || r->item[i].x == x)) v[n++] = value_of(&r->item[i], region);
    return spread_of(v, n);
}

double mean_of(const results *r, int arm, int x, int64_t seed)
{
    double v[MAX_ROWS];
    int i, n = 0;
    for (i = 0; i < r->n; ++i)
        if (r->item[i].arm == arm && r->item[i].seed == seed && (x < 0 || r->item[i].x == x)) v[n++] = r->item[i].dice;
    return spread_of(v, n).mean;
}

spread difference(const results *r, int a, int b, int x)
{
    double v[MAX_ROWS];
    int i, j, n = 0;
    for (i = 0; i < r->n; ++i) {
        for (j = 0; j < i && r->item[j].seed != r->item[i].seed; ++j) { }
        if (j == i) v[n++] = mean_of(r, b, x, r->item[i].seed) - mean_of(r, a, x, r->item[i].seed);
    }
    return spread_of(v, n);
}

void spread_text(spread s, char *buf, size_t size)
{
    if (s.n == 0) snprintf(buf, size, "-");
    else if (s.n == 1) snprintf(buf, size, "%.3f", s.mean);
    else snprintf(buf, size, "%.3f \302\261\302\240%.3f", s.mean, s.sd); /* no line ends after the sign */
}

/* >>tables --------------------------------------------------------------------------------------------------------- */

void show_table(report_page *page, table *t, const char *caption)
{
    int i, k;
    printf("\n%s\n", caption);
    for (i = 0; i < t->cols; ++i) printf("%s%-*s", i ? "  " : "", i ? 15 : 34, t->head[i]);
    printf("\n");
    for (i = 0; i < t->rows; ++i)
        for (k = 0; k < t->cols; ++k) {
            /* the plus-minus sign and the space after it are two bytes and one column each */
            const int extra = strstr(t->text[i][k], "\302\261") ? 2 : 0;
            printf("%s%-*s%s", k ? "  " : "", (k ? 15 : 34) + extra, t->text[i][k], k + 1 == t->cols ? "\n" : "");
            t->cell[i * t->cols + k] = t->text[i][k];
        }
    (void)report_table(page, caption, t->head, t->cell, t->rows, t->cols);
}
