/* evaluation.h - predictions against the truth: the figures of each case and their means, and how they are written

   OUT/metrics.json
     {"task": "segment", "data", "predictions", "split", "part", "resamples", "seed", "cases_done": 12, "missing":
     [ids],
      "failed": [{"id", "message"}], "labels": {..}, "empty_rule": "monai", "empty_rule_text",
      "summary": {"monai": {"regions": {"WT": {"dice": {"mean", "low", "high", "n"}, "hd95", "hd", "sensitivity",
      "specificity"}, ..},
                            "mean": {..}}, "brats": {..}},       means with 95 % intervals; "mean": of each case's mean
                            over its regions
      "present": {"WT": 12, ..},                                 cases whose truth has the region
      "cases": [{"id", "voxel_mm": [x, y, z], "regions": {"WT": {"dice", "hd95", .., "truth_voxels",
      "predicted_voxels"}, ..}}]}
     of a classification: "classes", "summary": {"accuracy": {..}, "auc", "f1", "sensitivity", "specificity"},
     "present": [cases of each], "confusion": [by truth][by prediction], "cases": [{"id", "class", "predicted",
     "probabilities"}]
     What is no number (or infinite) is null.
   OUT/metrics.csv  one line for each case and region (classification: each case) */
#ifndef EVALUATION_H_INCLUDED
#define EVALUATION_H_INCLUDED

#include "data/dataset.h"

enum { FIGURE_DICE, FIGURE_HD95, FIGURE_HD, FIGURE_SENSITIVITY, FIGURE_SPECIFICITY, FIGURES, EMPTY_RULES = 2 };
extern const char *const figure_name[FIGURES];         /* "dice" .. */
extern const char
    *const class_figure_name[FIGURES]; /* "accuracy" .., the fields of bmvp_class_metrics in their order */
extern const char *const empty_rule_name[EMPTY_RULES]; /* "monai", "brats" */

typedef struct region_figures {
    double figure[EMPTY_RULES]
                 [FIGURES]; /* sensitivity is NaN without truth, specificity where all is truth, whatever the rule */
    int64_t truth, predicted;            /* voxels */
} region_figures;

typedef enum case_state { CASE_DONE, CASE_MISSING, CASE_FAILED } case_state;
typedef struct evaluated_case { /* one case */
    case_state state;
    char *why;                                   /* why it failed or where its prediction was looked for */
    double mm[3];                                /* D, H, W */
    region_figures region[BMVP_MAX_REGIONS];
    float *probability;                          /* classification: of each class; points into the evaluation */
    int guess;
} evaluated_case;

typedef struct evaluation {
    const char *data, *predictions, *split, *part; /* split NULL: all cases */
    dataset_options files;
    int classify, distances;
    bmvp_empty_rule rule;                          /* of the table and the cases; summaries are made for both */
    int64_t resamples, seed;
    dataset set;
    int64_t *index, n;                             /* the cases of the part */
    evaluated_case *item;                          /* of each */
    int64_t n_state[3];                            /* cases done, without prediction, failed */
    /* segmentation */
    bmvp_interval summary[EMPTY_RULES][BMVP_MAX_REGIONS + 1][FIGURES]; /* [n]: of the cases' means over regions */
    int64_t present[BMVP_MAX_REGIONS + 1];         /* cases with this region (class) in the truth */
    /* classification */
    int classes;
    float *score;                                  /* (cases done, classes) */
    bmvp_interval class_summary[FIGURES];
} evaluation;

void evaluation_print(const evaluation *e, int per_case);
/* BMVP_E_ARG: DIR/metrics.json or DIR/metrics.csv is there and not an evaluation's. */
bmvp_status evaluation_may_write(const char *dir, bmvp_error *err);
/* DIR/metrics.json and DIR/metrics.csv. */
bmvp_status evaluation_write(const evaluation *e, const char *dir, bmvp_error *err);

#endif
