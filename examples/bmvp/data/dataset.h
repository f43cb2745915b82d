/* dataset.h - data lists: which files make a case

   Accepted by dataset_load:
     our list          {"cases": [{"id": "a", "images": {"t1": "a/t1.nii.gz", ...}, "label": "a/seg.nii.gz", "class": 1}]}
     decathlon / MONAI {"training": [{"image": ["a_t1.nii.gz", ...], "label": "a_seg.nii.gz"}]}: the modality is taken from the end
                       of each file name (..._t1ce.nii.gz), or from the list's {"modality": {"0": "FLAIR", ...}}
     a directory       one folder a case (or the folder of a single one), the modality again from the end of the file names; seg*, label*,
                       mask* are labels
   Paths are relative to the list (or absolute). Modality names as bmvp_modality_find knows them.
   "class" is a whole number from 0; a number as "label" is the class as well (lists for classification). A case may name its "patient"
   (default: its id): all cases of a patient go to one part of a split.
   "labels" of a list says what the values of label maps mean: the name of a built-in definition ("brats2021", see
   bmvp_labels_names), name -> value or values ({"WT": [1, 2, 4], "ET": 4}), or value -> name as in decathlon lists
   ({"0": "background", "1": "edema"}). Sets that overlap are regions, disjoint ones classes; "labels_kind": "regions" or "classes"
   says otherwise. Built-in definitions are handed on by name, others with their values; every value of a label map must be in it. */
#ifndef DATASET_H_INCLUDED
#define DATASET_H_INCLUDED

#include <stddef.h>
#include <stdint.h>
#include "bmvp_nifti.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"

typedef struct data_case {
    char *id;
    char *image[BMVP_MODALITIES]; /* path by known modality; NULL: missing */
    char *label;                  /* path or NULL */
    int64_t klass;                /* -1: none */
    char *patient;                /* NULL: the id */
} data_case;

typedef struct dataset {
    char *path;            /* of the list or directory */
    data_case *item;
    int64_t n, cap;
    uint32_t modalities;   /* bit m: some case has known modality m */
    bmvp_labels labels;
    int has_labels;        /* the list says what label values mean */
} dataset;

/* Fails with a message that names file and entry: unreadable, bad JSON, no cases, a case without images, an unknown modality, a modality or
   an id twice, a label, class or patient of the wrong kind, labels that are no definition. */
bmvp_status dataset_load(dataset *d, const char *list_or_dir, bmvp_error *err);
void dataset_free(dataset *d);

/* Writes our list, with paths relative to the folder of `path` where they lie below it. */
bmvp_status dataset_save(const dataset *d, const char *path, bmvp_error *err);

/* Appends an empty case with a copy of id; NULL when memory is short. */
data_case *dataset_add(dataset *d, const char *id);

#endif
