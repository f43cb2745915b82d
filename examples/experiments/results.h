/* results.h - results of experiments: lines of arm, place, seed and metrics.json, their means and spreads, tables */
#ifndef RESULTS_H_INCLUDED
#define RESULTS_H_INCLUDED

#include "bmvp_nifti.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "report/report.h"

enum { MAX_ROWS = 4096, MAX_NAMES = 32, MAX_REGIONS = BMVP_MAX_REGIONS, TEXT = 48 };

typedef struct result { /* of the test cases: mean over them; NaN: not measured */
    int arm, x;
    int64_t seed;
    double dice, hd95, region[MAX_REGIONS], region_hd95[MAX_REGIONS];
} result;

typedef struct results {
    result item[MAX_ROWS];
    int n, arms, xs, regions;
    char arm[MAX_NAMES][TEXT], x[MAX_NAMES][TEXT], region[MAX_REGIONS][TEXT];
} results;

typedef struct spread { double mean, sd; int n; } spread; /* sd: of the sample, n - 1 */

typedef struct table {
    int rows, cols;
    char text[40][MAX_NAMES + 2][64];
    const char *cell[40 * (MAX_NAMES + 2)], *head[MAX_NAMES + 2];
} table;

/* Index of a name in a list that grows; -1: the list is full. */
int name_index(char list[][TEXT], int *n, int most, const char *name);
/* Mean Dice and HD95 of the metrics file, of all regions and of each. */
bmvp_status read_metrics(results *r, result *t, const char *path, bmvp_error *err);
bmvp_status read_results(results *r, const char *path, bmvp_error *err);

spread spread_of(const double *v, int n); /* those that are no numbers are left out */
/* Dice over the seeds of one arm and place (x -1: all places); region -1: the mean of the regions. */
spread cell(const results *r, int arm, int x, int region);
/* Mean Dice of one arm and seed at a place (x -1: over all places). */
double mean_of(const results *r, int arm, int x, int64_t seed);
/* Arm b minus arm a, seed by seed. */
spread difference(const results *r, int a, int b, int x);
void spread_text(spread s, char *buf, size_t size);
void show_table(report_page *page, table *t, const char *caption); /* on the page and on the terminal */

/* The pre-training methods side by side, see baselines.c. */
bmvp_status show_baselines(const char *results_file, const char *costs_file, const char *out, bmvp_error *err);

#endif
