/* splits.h - which cases are for training, validation and test: by patient, fixed by a seed, kept in a file

   {"seed": 0, "by_class": true (when so made), "train": [ids], "val": [..], "test": [..],
    "fractions": {"20": [..], .., "100": [..]}, "folds": [[..], ..]}

   Fractions are nested parts of "train" (the 40 % hold the 20 %), drawn by the seed where a file has none; folds are
   there when asked for. What a data set brings itself (parts and folds of its list, folders for training and
   validation, nnU-Net's splits_final.json) is not drawn anew unless that is asked for. */
#ifndef SPLITS_H_INCLUDED
#define SPLITS_H_INCLUDED

#include "dataset.h"

enum { SPLIT_PARTS = 3, SPLIT_FRACTIONS = 5, SPLIT_MAX_FOLDS = 64 };

typedef struct data_split {
    uint64_t seed;
    int64_t n;            /* cases of the list */
    signed char *part;    /* of each case: 0 train, 1 val, 2 test; -1: none */
    signed char *fraction; /* smallest fraction of "train" that holds it: 0 (20 %) to 4 (100 %); -1: not for training */
    signed char *fold;    /* number of its fold, -1: there are none */
    int folds;
    int by_class;         /* made so that the parts hold the classes in proportion */
    char how[200];        /* of split_take: what the data set brought and what was drawn; "": it brought nothing */
} data_split;

/* ratio: shares of train, val, test (any positive numbers; 0: none). Every part with a share gets at least one patient:
   BMVP_E_ARG when there are fewer patients than parts. The order of the list does not matter. */
bmvp_status split_make(data_split *s, const dataset *d, const double ratio[SPLIT_PARTS], uint64_t seed,
                       bmvp_error *err);
/* The same with the classes of the cases in proportion in every part and fraction. BMVP_E_ARG naming a case without
   class. */
bmvp_status split_make_by_class(data_split *s, const dataset *d, const double ratio[SPLIT_PARTS], uint64_t seed,
                                bmvp_error *err);
/* The parts and folds that the data set brings, where it has at least two parts, one of them for training, or folds.
   Without a part for validation that is the first fold, else it is drawn from the patients for training by the ratio,
   as it is when nothing of it has a label or class. A data set that brings nothing: split_make. BMVP_E_ARG naming a
   patient whose cases the data set puts apart. */
bmvp_status split_take(data_split *s, const dataset *d, const double ratio[SPLIT_PARTS], uint64_t seed,
                       bmvp_error *err);
/* Adds k folds of equal size (as far as patients allow) over all cases. BMVP_E_ARG: fewer patients than folds. */
bmvp_status split_add_folds(data_split *s, const dataset *d, int folds, bmvp_error *err);
bmvp_status split_save(const data_split *s, const dataset *d, const char *path, bmvp_error *err);
/* Also nnU-Net's splits_final.json: its folds, the first of them for validation. BMVP_E_FORMAT naming the id that the
   list does not have, or that is in two parts, or the patient whose cases are.
   Cases of the list that are in no part stay unused. */
bmvp_status split_load(data_split *s, const dataset *d, const char *path, bmvp_error *err);
void split_free(data_split *s);

/* Indices of the cases of a part, ascending; index has room for all. part: train, val, test, all, train:20 (40, 60, 80,
   100), fold:K, not-fold:K (K from 0). BMVP_E_ARG with what there is. */
bmvp_status split_select(const data_split *s, const char *part, int64_t *index, int64_t *n, bmvp_error *err);

#endif
