/* dataset.h - data sets: which files make a case

   What dataset_load takes:
     our list          {"cases": [{"id": "a", "images": {"t1": "a/t1.nii.gz", ..}, "label": "a/seg.nii.gz", "class": 1,
                       "patient": "p", "part": "train", "fold": 0, "labels": ..}]}
     MONAI, decathlon  {"training": [{"image": [..] or "..", "label": ".."}], "validation": [..], "test": [..]}; entries
                       are objects or paths, or have a key for each modality ({"t1": "..", "flair": "..", "seg": ".."});
                       "fold", "class" and what ours have are used; one file of several channels is split as "modality"
                       says (MSD)
     nnU-Net           a folder with dataset.json and imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, of version 1
                       ("modality") or 2 ("channel_names")
     a folder          in any layout of layouts.c: case folders, BIDS, INDI (ADHD-200, ABIDE), ADNI, IXI, UPENN-GBM ..;
                       a folder that has a dataset.json is what that says
   Roles of files are told by roles.c. Paths are relative to the list, or to --root. "class" is a whole number from 0; a
   number as "label" is the class as well. A case's "patient" (default: by the naming of the data sets, else its id)
   keeps its cases in one part of a split. "labels" says what the values of label maps mean: the name of a built-in
   definition ("brats2021", see bmvp_labels_names), name -> value or values ({"WT": [1, 2, 4], "ET": 4}), or value ->
   name as in decathlon lists ({"0": "background", "1": "edema"}). Sets that overlap are regions, disjoint ones classes;
   "labels_kind": "regions" or "classes" says otherwise. "ignore" (nnU-Net) is no class: its voxels are left out of
   losses and figures. A case may have "labels" of its own: `bmvp prepare` writes its map in the list's values,
   region by region.

   What is not used - files, keys, cases - is noted with its reason (dataset_say); a file that cannot be placed costs at
   most its case. */
#ifndef DATASET_H_INCLUDED
#define DATASET_H_INCLUDED

#include <stddef.h>
#include <stdint.h>
#include "bmvp_nifti.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "roles.h"

typedef enum data_part { PART_NONE, PART_TRAIN, PART_VAL, PART_TEST } data_part; /* what a data set brings */
extern const char *const data_part_name[4]; /* "", "train", "val", "test" */

typedef struct data_case {
    char *id;
    int id_is_made;                   /* of its files: the list does not say it */
    char *image[BMVP_MODALITIES];     /* path by known modality; NULL: missing */
    int64_t channel[BMVP_MODALITIES]; /* volume of a file that holds several, -1: it holds one */
    int64_t channels[BMVP_MODALITIES]; /* so many the file must hold, 0: it is not said */
    char *label;                      /* path or NULL */
    int64_t class_index;                    /* -1: none */
    char *patient;                    /* NULL: the id */
    data_part part;
    int64_t fold;                     /* -1: none */
    bmvp_labels *labels;              /* its own definition, NULL: the list's */
} data_case;

typedef struct data_note { /* something that is not used, or used and doubtful */
    char *id;      /* of its case, or NULL */
    char *file;    /* or key; NULL: the whole case */
    char *why;
    int used;
} data_note;

typedef struct dataset {
    char *path;            /* of the list or directory */
    const char *layout;    /* "list", "case folders", "BIDS" .. */
    data_case *item;
    int64_t n, cap;
    uint32_t modalities;   /* bit m: some case has known modality m */
    bmvp_labels labels;
    int has_labels;        /* the list says what label values mean */
    data_note *note;
    int64_t n_notes, cap_notes, n_unused; /* n_unused: notes of files and keys that are not used, not of cases */
    int64_t n_dropped;     /* cases left out */
    char doubt[640];       /* who the patients are was guessed: how, for dataset_say; "": nothing was */
    char **class_name;     /* of classes that came as text; NULL: none */
    int n_class_names;
} dataset;

typedef struct dataset_options { /* all may be NULL */
    const char *as;        /* --as, see roles.h */
    const char *root;      /* --root: where the paths of a list begin */
    const char *classes;   /* --classes: a CSV or TSV with a line a case, see classes.c */
    const char *id_column, *class_column;
} dataset_options;

/* Fails with a message that names file and entry: unreadable, bad JSON, no case that can be used, a modality or an id
   of a list twice, a label, class or patient of the wrong kind, labels that are no definition. */
bmvp_status dataset_load(dataset *d, const char *list_or_dir, bmvp_error *err);
/* The same with options. After a failure the notes are still there: dataset_say, then dataset_free. */
bmvp_status dataset_load_as(dataset *d, const char *list_or_dir, const dataset_options *o, bmvp_error *err);
void dataset_free(dataset *d);

/* What is not used, once: "bmvp COMMAND: left out: FILE: WHY" on stderr; of many with one reason the first three and
   their number. */
void dataset_say(const dataset *d, const char *command);

/* Writes our list, with paths relative to the folder of `path` where they lie below it. */
bmvp_status dataset_save(const dataset *d, const char *path, bmvp_error *err);

/* Appends an empty case with a copy of id; NULL when memory is short. */
data_case *dataset_add(dataset *d, const char *id);
/* Removes case i and notes why. */
void dataset_drop(dataset *d, int64_t i, const char *why);
/* Notes a file (or key) that is not used; id and file may be NULL. dataset_doubt: one that is used. */
void dataset_note(dataset *d, const char *id, const char *file, const char *format, ...) BMVP_PRINTF(4, 5);
void dataset_doubt(dataset *d, const char *id, const char *file, const char *format, ...) BMVP_PRINTF(4, 5);
bmvp_status dataset_set_image(dataset *d, data_case *k, int modality, const char *dir, const char *file,
                              bmvp_error *err);
/* Ids that are paths of folders become their last parts, and where two cases would have one name, all with the folders
   above before it, as many as are needed. */
bmvp_status dataset_shorten_ids(dataset *d, bmvp_error *err);
const char *data_patient(const data_case *k); /* its patient, or its id */

/* Parts of loading, for dataset.c */
bmvp_status dataset_find_patients(dataset *d, bmvp_error *err); /* patients.c */
bmvp_status list_load(dataset *d, const dataset_options *o, const role_rules *rules, bmvp_error *err); /* lists.c */
bmvp_status layout_load(dataset *d, const role_rules *rules, bmvp_error *err);                         /* layouts.c */
bmvp_status layout_nnunet(dataset *d, const char *dir, const bmvp_json *root, const role_rules *rules, bmvp_error *err);
bmvp_status classes_load(dataset *d, const dataset_options *o, bmvp_error *err); /* classes.c */

#endif
