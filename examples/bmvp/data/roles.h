/* roles.h - what a file is, told by its whole name: an image of which modality, the label map, a mask, or not ours

   The one place where names are read; layouts, lists and all commands ask here. A name is cut into words at _ - . and
   blanks, in any case of letters; names that begin with sub- (BIDS) give their entities first (ce-, acq-, run-, desc-
   ...). One table in roles.c says what words mean:

       modality    flair t1 t1c t2 mra pd dwi adc and the data sets' names for them (t1n t1w mprage t1ce t1gd t2w t2f
                   tof trace ...)
       contrast    ce gd post gadolinium ... after or before a T1 word make it t1c; pre, native leave it t1
       label       seg segm segmentation dseg label msk gt lesion ...; mask where no brain and no image is named with it
       mask        brain mask, bet mask, face mask, t1_mask: named and left out, never a label
       variant     bias reg resampled stripped 1mm mni ...: the same image made another way; it stands back where the
                   plain one is there
       foreign     asl swi bold dti gm diff ...: images that no modality of ours stands for
       predicted   pred prediction inference output nnunet synthseg ...: what a program made of the images is no label
       map         prob softmax uncertainty diff ...: numbers, no label either
       drawn       lesion manual pred synthetic ... beside a modality, and no word of a label: image or map? left out

   Words before the first of these are the case's name, and so are words that every file of a folder shares. A word
   after it that the table does not have makes the file one that cannot be placed: it is left out and named, never
   guessed. */
#ifndef ROLES_H_INCLUDED
#define ROLES_H_INCLUDED

#include <stddef.h>
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"

typedef enum role_kind { ROLE_OTHER, ROLE_IMAGE, ROLE_LABEL, ROLE_MASK } role_kind;

typedef struct role {
    role_kind kind;
    int modality;    /* of an image */
    int variant; /* 0: the plain one. Of several files for one role the lowest is taken; two lowest ones are an error */
    int space;       /* 1, 2: made on the grid of T1, of T2 (refT1, space-T1w); 0: not said */
    size_t
        id; /* so many characters of the file's name are the case's: "BraTS2021_00000" of BraTS2021_00000_t1ce.nii.gz */
    size_t tail;     /* where a number of three digits or more begins that may be the case's, of a name that has none
                        before its role: FLAIR_001; 0: there is none */
    char why[128];   /* why it is no image or label, or what makes it a variant */
} role;

/* What the user said about names: NAME=PATTERN, NAME a modality, "label" or "none"; * and ? in PATTERN, which is held
   against the file's name, or against its whole path where it has a /. The first that fits decides. */
enum { ROLE_RULES = 32 };
typedef struct role_rules {
    int n;
    struct { int modality; role_kind kind; const char *pattern; } rule[ROLE_RULES];
    char text[2048];
} role_rules;
/* "t1=*_anat.nii*,label=*lesion*". BMVP_E_ARG with what is wrong. */
bmvp_status role_rules_read(role_rules *r, const char *text, bmvp_error *err);

/* shared: words that all files of the folder have, as role_shared made them, or NULL. rules: NULL: none. */
role role_of(const char *path, const char *shared, const role_rules *rules);
/* The words that n names have in common, each with a blank before and after; "" for fewer than two names. */
void role_shared(const char *const *names, size_t n, char *out, size_t size);
/* Modality of a channel's name ("T1ce", "T2-FLAIR", "t1gd"), -1: none. */
int role_modality(const char *text);

/* Does a folder of the path say that its files are predictions (predictions/, preds/, inference/ ..)? */
int role_folder_predicted(const char *path);

int role_is_nifti(const char *name);             /* .nii .nii.gz .hdr .img, in any case of letters */
int role_is_volume(const char *name);            /* a volume of any format: .mgz .nrrd .mha .nii.zst ... too */
size_t role_stem(const char *name);              /* characters of a file's name before these endings */
const char *path_base(const char *path);         /* what stands behind the last / */

/* "flair|t1|t1c..": all modalities, for options and messages. */
const char *role_modality_words(char *text, size_t size, char between);

/* The patient of a case by the naming of the data sets (BraTS-GLI-00006-101: time point 101 of BraTS-GLI-00006;
   UPENN-GBM-00001_21; UCSF-PDGM-0391_FU016d; sub-01_ses-02; ADNI's 002_S_0295; ..): its length in id, 0: the id itself
   is all that is known. */
size_t role_patient(const char *id);
/* The same by what may also mean something else, to be believed where several patients are named so. sign: 4: a date;
   3: a visit's word behind a name with a number (P01_V2, 100_post, OAS1_0001_MR2); 2: behind another name (X-T0,
   A_month12, W_bl), or without a sign between (P01V1); 1: a number of one or two digits (Y.1, 007_2). */
size_t role_patient_maybe(const char *id, int *sign);

#endif
