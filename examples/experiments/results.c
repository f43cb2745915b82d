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

/* A case's mean over its regions of "dice" or "hd95"; NaN where none has a number. */
static double case_mean(const bmvp_json *regions, const char *name)
{
    const bmvp_json *k;
    double sum = 0;
    int n = 0;
    for (k = regions ? regions->first : NULL; k; k = k->next) {
        const double v = bmvp_json_double(bmvp_json_get(k, name), NAN);
        if (v == v) sum += v, ++n;
    }
    return n ? sum / n : NAN;
}

static bmvp_status read_cases(results *r, result *t, const bmvp_json *cases, const char *path, bmvp_error *err)
{
    const bmvp_json *k;
    size_t n = 1;
    for (k = cases ? cases->first : NULL; k; k = k->next) ++n;
    t->of_case = (int *)calloc(n, sizeof *t->of_case);
    t->value[DICE] = (double *)calloc(n, sizeof(double));
    t->value[HD95] = (double *)calloc(n, sizeof(double));
    if (!t->of_case || !t->value[DICE] || !t->value[HD95]) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (k = cases ? cases->first : NULL; k; k = k->next) {
        const bmvp_json *regions = bmvp_json_get(k, "regions");
        const char *id = bmvp_json_string(bmvp_json_get(k, "id"), NULL);
        const int at = id ? name_index(r->id, &r->cases, MAX_CASES, id) : -1;
        if (at < 0)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: a case without id, or more than %d cases", path, MAX_CASES);
        t->of_case[t->cases] = at;
        t->value[DICE][t->cases] = case_mean(regions, "dice");
        t->value[HD95][t->cases++] = case_mean(regions, "hd95");
    }
    return BMVP_OK;
}

/* RUN/log.jsonl of RUN/TEST/metrics.json */
static void place_of_log(const char *metrics, char *buf, size_t size)
{
    const char *end = strrchr(metrics, '/');
    while (end && end > metrics && *--end != '/') { }
    if (end) snprintf(buf, size, "%.*s/log.jsonl", (int)(end - metrics), metrics);
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
    place_of_log(path, t->log, sizeof t->log);
    st = all ? read_cases(r, t, bmvp_json_get(bmvp_json_root(doc), "cases"), path, err)
             : bmvp_error_set(err, BMVP_E_FORMAT, "%s: not what `bmvp evaluate` writes for a segmentation", path);
    bmvp_json_free(doc);
    return st;
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
            st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: line %d is not arm, x, run, file with tabs between them",
                                path, r->n + 1);
            break;
        }
        t->arm = name_index(r->arm, &r->arms, MAX_NAMES, word[0]);
        t->x = name_index(r->x, &r->xs, MAX_NAMES, word[1]);
        t->run = name_index(r->run, &r->runs, MAX_RUNS, word[2]);
        if (t->arm < 0 || t->x < 0 || t->run < 0)
            st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: more than %d arms or places, or %d runs", path, MAX_NAMES,
                                MAX_RUNS);
        else st = read_metrics(r, t, word[3], err);
        ++r->n;
    }
    fclose(f);
    return !st && r->n == 0 ? bmvp_error_set(err, BMVP_E_FORMAT, "%s: no results", path) : st;
}

void free_results(results *r)
{
    int i, m;
    for (i = 0; i < r->n; ++i) {
        free(r->item[i].of_case);
        for (m = 0; m < MEASURES; ++m) free(r->item[i].value[m]);
    }
    r->n = 0;
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

/* >>pairs ---------------------------------------------------------------------------------------------------------- */

/* Sum of differences and how many, for each run and case. */
typedef struct pairs {
    double *sum;
    int *n, runs, cases;
} pairs;

static void add_pair(pairs *p, const result *a, const result *b, int measure)
{
    int i, k;
    for (i = 0; i < b->cases; ++i)
        for (k = 0; k < a->cases; ++k) {
            const double d = b->value[measure][i] - a->value[measure][k];
            if (a->of_case[k] != b->of_case[i] || !(d == d)) continue;
            p->sum[b->run * p->cases + b->of_case[i]] += d;
            ++p->n[b->run * p->cases + b->of_case[i]];
        }
}

/* Mean over cells, each by the weights of its run and case; NaN without any. */
static double weighted(const pairs *p, const int *run, const int *which)
{
    double sum = 0, n = 0;
    int i, k;
    for (i = 0; i < p->runs; ++i)
        for (k = 0; run[i] && k < p->cases; ++k) {
            const int at = i * p->cases + k, w = run[i] * which[k];
            if (w && p->n[at]) sum += w * p->sum[at] / p->n[at], n += w;
        }
    return n > 0 ? sum / n : NAN;
}

/* How often each of n is drawn in as many draws as there are that count (use). */
static void draw_again(bmvp_rng *r, const int *use, int n, int *times)
{
    int i, all = 0, list[MAX_CASES];
    for (i = 0; i < n; ++i) {
        times[i] = 0;
        if (use[i]) list[all++] = i;
    }
    for (i = 0; i < all; ++i) ++times[list[bmvp_rng_below(r, (uint32_t)all)]];
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bootstrap(const pairs *p, const int *run, const int *which, paired *out)
{
    enum { TIMES = 2000 };
    static double mean[TIMES];
    int runs[MAX_RUNS], cases[MAX_CASES], i, n = 0;
    for (i = 0; i < TIMES; ++i) {
        bmvp_rng r = bmvp_rng_make(0, 0x424F4F54, (uint32_t)i, 0);
        draw_again(&r, run, p->runs, runs);
        draw_again(&r, which, p->cases, cases);
        mean[n] = weighted(p, runs, cases);
        n += mean[n] == mean[n];
    }
    qsort(mean, (size_t)n, sizeof *mean, by_size);
    out->low = n ? mean[(int)(0.025 * (n - 1) + 0.5)] : NAN;
    out->high = n ? mean[(int)(0.975 * (n - 1) + 0.5)] : NAN;
}

bmvp_status difference(const results *r, int a, int b, int x, int measure, paired *out, bmvp_error *err)
{
    const size_t cells = (size_t)(r->runs * r->cases) + 1;
    pairs p = { (double *)calloc(cells, sizeof(double)), (int *)calloc(cells, sizeof(int)), r->runs, r->cases };
    int run[MAX_RUNS], which[MAX_CASES], i, k;
    memset(out, 0, sizeof *out);
    memset(run, 0, sizeof run);
    memset(which, 0, sizeof which);
    for (i = 0; p.sum && p.n && i < r->n; ++i)
        for (k = 0; r->item[i].arm == b && (x < 0 || r->item[i].x == x) && k < r->n; ++k)
            if (r->item[k].arm == a && r->item[k].x == r->item[i].x && r->item[k].run == r->item[i].run)
                add_pair(&p, &r->item[k], &r->item[i], measure);
    for (i = 0; p.sum && p.n && i < r->runs; ++i)
        for (k = 0; k < r->cases; ++k)
            if (p.n[i * r->cases + k]) run[i] = which[k] = 1;
    for (i = 0; i < r->runs; ++i) out->runs += run[i];
    for (k = 0; k < r->cases; ++k) out->cases += which[k];
    if (out->runs) {
        out->mean = weighted(&p, run, which);
        bootstrap(&p, run, which, out);
    }
    i = p.sum && p.n;
    free(p.sum);
    free(p.n);
    return i ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
}

void paired_text(paired d, char *buf, size_t size)
{
    const int digits = fabs(d.mean) < 1 ? 3 : 1;
    if (d.runs == 0) snprintf(buf, size, "-");
    else snprintf(buf, size, "%+.*f [%+.*f, %+.*f]", digits, d.mean, digits, d.low, digits, d.high);
}

const char *verdict(paired d, int measure)
{
    if (d.low > 0) return measure == HD95 ? "worse" : "better";
    if (d.high < 0) return measure == HD95 ? "better" : "worse";
    return "no difference seen";
}

/* >>plateau -------------------------------------------------------------------------------------------------------- */

/* Mean validation Dice of a log between two shares of its steps. */
static double stretch(const report_log *log, double from, double to)
{
    const double steps = log->n ? log->value[0][log->n - 1] : 0;
    double sum = 0;
    int64_t i;
    int n = 0;
    for (i = 0; i < log->n; ++i) {
        const double at = log->value[0][i], dice = log->value[1][i];
        if (dice == dice && at > from * steps && at <= to * steps) sum += dice, ++n;
    }
    return n ? sum / n : NAN;
}

plateau plateau_of(const results *r, int arm, int x)
{
    static const char *const field[2] = { "step", "val_dice" };
    plateau p = { 0, 0, 0 };
    report_log log;
    bmvp_error err;
    int i, k;
    for (i = 0; i < r->n; ++i) {
        double before, last;
        if (r->item[i].arm != arm || r->item[i].x != x) continue;
        for (k = 0; k < i && !(r->item[k].arm == arm && strcmp(r->item[k].log, r->item[i].log) == 0); ++k) { }
        if (k < i || report_log_load(r->item[i].log, field, 2, &log, &err) != BMVP_OK) continue;
        before = stretch(&log, 0.5, 0.75), last = stretch(&log, 0.75, 1);
        if (before == before && last == last) p.before += before, p.last += last, ++p.runs;
        report_log_free(&log);
    }
    if (p.runs) p.before /= p.runs, p.last /= p.runs;
    return p;
}

/* >>texts ---------------------------------------------------------------------------------------------------------- */

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
