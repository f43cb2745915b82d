/* results.h - results of experiments: lines of arm, place, run and metrics.json, their means and spreads, paired
   differences with bootstrap intervals, tables */
#ifndef RESULTS_H_INCLUDED
#define RESULTS_H_INCLUDED

#include "bmvp_nifti.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "report/report.h"

enum { MAX_ROWS = 4096, MAX_NAMES = 32, MAX_RUNS = 128, MAX_CASES = 1024, MAX_REGIONS = BMVP_MAX_REGIONS, TEXT = 48 };
enum { DICE, HD95, MEASURES };

typedef struct result { /* of the test cases: mean over them; NaN: not measured */
    int arm, x, run; /* run: index of the split and seed that arms have in common */
    double dice, hd95, region[MAX_REGIONS], region_hd95[MAX_REGIONS];
    int cases, *of_case; /* of the test cases: index, and mean over the regions */
    double *value[MEASURES];
    char log[512]; /* the log of the fine-tuning beside it */
} result;

typedef struct results {
    result item[MAX_ROWS];
    int n, arms, xs, regions, runs, cases;
    char arm[MAX_NAMES][TEXT], x[MAX_NAMES][TEXT], region[MAX_REGIONS][TEXT], run[MAX_RUNS][TEXT];
    char id[MAX_CASES][TEXT];
} results;

typedef struct spread { double mean, sd; int n; } spread; /* sd: of the sample, n - 1 */
/* Of paired differences: their mean, and the middle 95 per cent of it under the bootstrap. runs 0: there are none. */
typedef struct paired { double mean, low, high; int runs, cases; } paired;

typedef struct table {
    int rows, cols;
    char text[40][MAX_NAMES + 2][64];
    const char *cell[40 * (MAX_NAMES + 2)], *head[MAX_NAMES + 2];
} table;

/* Index of a name in a list that grows; -1: the list is full. */
int name_index(char list[][TEXT], int *n, int most, const char *name);
/* Mean Dice and HD95 of the metrics file, of all regions, of each, and of each case. */
bmvp_status read_metrics(results *r, result *t, const char *path, bmvp_error *err);
bmvp_status read_results(results *r, const char *path, bmvp_error *err);
void free_results(results *r);

spread spread_of(const double *v, int n); /* those that are no numbers are left out */
/* Dice over the runs of one arm and place (x -1: all places); region -1: the mean of the regions. */
spread cell(const results *r, int arm, int x, int region);
/* Arm b minus arm a, run by run and case by case (x -1: mean over the places that both have). The bootstrap draws runs
   and cases anew, each with replacement and independently: the differences of one run have its luck in common, those of
   one case its difficulty (Owen 2007, "The pigeonhole bootstrap", which is wide rather than narrow). Always the same
   numbers. Cases where a figure is none (no such region, nothing found) count in neither. */
bmvp_status difference(const results *r, int a, int b, int x, int measure, paired *out, bmvp_error *err);
/* "+0.031 [+0.012, +0.050]" */
void paired_text(paired d, char *buf, size_t size);
/* What an interval says: "better", "worse" (more is better; HD95: less), "no difference seen". */
const char *verdict(paired d, int measure);
/* Dice of validation: mean over an arm's runs at a place, of its validations in the third and in the last quarter of
   the steps. runs 0: no logs. */
typedef struct plateau { double before, last; int runs; } plateau;
plateau plateau_of(const results *r, int arm, int x);
void spread_text(spread s, char *buf, size_t size);
void show_table(report_page *page, table *t, const char *caption); /* on the page and on the terminal */

/* The pre-training methods side by side, see baselines.c. */
bmvp_status show_baselines(const char *results_file, const char *costs_file, const char *out, bmvp_error *err);

/* A mask on the grid of another image, by transform files, see carry.c. */
bmvp_status carry_mask(const char *mask_file, const char *image_file, const char *out, char **matrices, int n,
                       bmvp_error *err);

#endif
