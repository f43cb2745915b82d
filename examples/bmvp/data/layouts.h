/* layouts.h - rows of the table of layouts that stand in a file of their own, see layouts.c and by_folder.c */
#ifndef LAYOUTS_H_INCLUDED
#define LAYOUTS_H_INCLUDED

#include "roles.h"
#include "tree.h"

typedef struct place { /* where a file belongs */
    char id[512], patient[512]; /* patient "": as the id tells */
    char skip[160];             /* not "": it is left out, and why */
    int first_wins;             /* of two files for one role the first in the order of names is taken */
} place;

int is_inner(const char *folder); /* a folder inside of a case, not a case: anat, labels .. */

int folder_role(const char *folder, role *r); /* what a folder's name says, if it says a role and nothing before it */

/* The file's name has no word of a role: r becomes what the nearest folder says that is named by a role and nothing
   else (T1/, flair/, masks/). 0: none is, or the name has said it, or --as. */
int role_by_folder(const char *path, role *r);

/* Where other folders hold images, one in a folder of labels or masks is what the folder says (images/p1_t1.nii,
   masks/p1_t1.nii), and one in predictions/ is left out. images_elsewhere: are there others? holds_truth: is path i in
   such a folder, and none in it a label by its own name? */
int images_elsewhere(const tree *t, const role_rules *rules);
int holds_truth(const tree *t, size_t i, const role_rules *rules);
void qualify_by_folder(const char *path, int truth, role *r, place *p);

int is_by_folder(const tree *t, const role_rules *rules);
void place_by_folder(const tree *t, size_t i, role *r, place *p);

/* FLAIR_001.nii.gz: the number behind the role is the case. */
int is_numbered(const tree *t, const role_rules *rules);
void place_numbered(const tree *t, size_t i, role *r, place *p);

/* imagesTr/ without the dataset.json that says what the channels are. */
int is_bare_nnunet(const tree *t, const role_rules *rules);
void place_bare_nnunet(const tree *t, size_t i, role *r, place *p);
int channel_of(const char *name, size_t *n); /* of CASE_0002.nii.gz; -1: no such name. n: characters of CASE */
int is_nnunet_labels(const char *folder);    /* labelsTr Ts Va Val: but not labelsTs_pred */

#endif
