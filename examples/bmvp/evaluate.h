/* evaluate.h - predictions against the truth: the figures of each case and their means (evaluate.c), and how they are written
   (evaluate_write.c)

   OUT/metrics.json
     {"task": "segment", "data", "predictions", "split", "part", "resamples", "seed", "cases_done": 12, "missing": [ids],
      "failed": [{"id", "message"}], "labels": {..}, "empty_rule": "monai", "empty_rule_text",
      "summary": {"monai": {"regions": {"WT": {"dice": {"mean", "low", "high", "n"}, "hd95", "hd", "sensitivity", "specificity"}, ..},
                            "mean": {..}}, "brats": {..}},       means with 95 % intervals; "mean": of each case's mean over its regions
      "present": {"WT": 12, ..},                                 cases whose truth has the region
      "cases": [{"id", "voxel_mm": [x, y, z], "regions": {"WT": {"dice", "hd95", .., "truth_voxels", "predicted_voxels"}, ..}}]}
     of a classification: "classes", "summary": {"accuracy": {..}, "auc", "f1", "sensitivity", "specificity"}, "present": [cases of each],
     "confusion": [by truth][by prediction], "cases": [{"id", "class", "predicted", "probabilities"}]
     What is no number (or infinite) is null.
   OUT/metrics.csv  one line for each case and region (classification: each case) */
#ifndef BMVP_EVALUATE_H_INCLUDED
#define BMVP_EVALUATE_H_INCLUDED

#include "data.h"

enum { BMVP_DICE, BMVP_HD95, BMVP_HD, BMVP_SENSITIVITY, BMVP_SPECIFICITY, BMVP_FIGURES, BMVP_EMPTY_RULES = 2 };
extern const char *const bmvp_figure_name[BMVP_FIGURES];         /* "dice" .. */
extern const char *const bmvp_class_figure_name[BMVP_FIGURES];   /* "accuracy" .., the fields of bmvp_class_metrics in their order */
extern const char *const bmvp_empty_rule_name[BMVP_EMPTY_RULES]; /* "monai", "brats" */

typedef struct bmvp_region_figures {
    double figure[BMVP_EMPTY_RULES][BMVP_FIGURES]; /* sensitivity is NaN without truth, specificity where all is truth, whatever the rule */
    int64_t truth, predicted;                      /* voxels */
} bmvp_region_figures;

/* All regions of two label maps on one grid, dim and mm in D, H, W order. distances 0: HD95 and HD are NaN. */
bmvp_status bmvp_compare_maps(const bmvp_labels *l, const float *prediction, const float *truth, const int64_t dim[3], const double mm[3],
                              int distances, bmvp_region_figures out[BMVP_MAX_REGIONS], bmvp_error *err);

typedef enum bmvp_case_state { BMVP_CASE_DONE, BMVP_CASE_MISSING, BMVP_CASE_FAILED } bmvp_case_state;
typedef struct bmvp_evaluated { /* one case */
    bmvp_case_state state;
    char *why;                                   /* why it failed or where its prediction was looked for */
    double mm[3];                                /* D, H, W */
    bmvp_region_figures region[BMVP_MAX_REGIONS];
    float *probability;                          /* classification: of each class; points into the evaluation */
    int guess;
} bmvp_evaluated;

typedef struct bmvp_evaluation {
    const char *data, *predictions, *split, *part; /* split NULL: all cases */
    int classify, distances;
    bmvp_empty_rule rule;                          /* of the table and the cases; summaries are made for both */
    int64_t resamples, seed;
    bmvp_dataset set;
    int64_t *index, n;                             /* the cases of the part */
    bmvp_evaluated *item;                          /* of each */
    int64_t n_state[3];                            /* cases done, without prediction, failed */
    /* segmentation */
    bmvp_interval summary[BMVP_EMPTY_RULES][BMVP_MAX_REGIONS + 1][BMVP_FIGURES]; /* [n]: of the cases' means over regions */
    int64_t present[BMVP_MAX_REGIONS + 1];         /* cases with this region (class) in the truth */
    /* classification */
    int classes;
    float *score;                                  /* (cases done, classes) */
    bmvp_interval class_summary[BMVP_FIGURES];
} bmvp_evaluation;

void bmvp_evaluation_print(const bmvp_evaluation *e, int per_case);
/* DIR/metrics.json and DIR/metrics.csv. */
bmvp_status bmvp_evaluation_write(const bmvp_evaluation *e, const char *dir, bmvp_error *err);

#endif
