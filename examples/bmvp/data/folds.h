/* folds.h - nnU-Net's splits_final.json: [{"train": [ids], "val": [ids]}, ..]

   An entry is a split of its own. Entries whose val lists have no case in common and whose train lists are the others'
   are folds; one entry alone is training and validation. */
#ifndef FOLDS_H_INCLUDED
#define FOLDS_H_INCLUDED

#include "dataset.h"

/* part and fold: room for each case; what the file does not say stays as it is. *unknown: an id of it that the data
   lack (of the JSON's memory), NULL: none. BMVP_E_FORMAT: no such file, or entries that are neither. */
bmvp_status folds_read(const dataset *d, const bmvp_json *entries, const char *path, data_part *part, int64_t *fold,
                       const char **unknown, bmvp_error *err);

/* Gives the cases the folds of the splits_final.json in dir, where there is one; cases that it does not have are in no
   part, but for those of a test part. A file that is none, a splits_final.pkl alone, and ids that the data lack, are
   noted. */
bmvp_status folds_of_folder(dataset *d, const char *dir, bmvp_error *err);

/* BMVP_E_UNSUPPORTED with what makes JSON of it, if the file is a pickle: nnU-Net 1 wrote splits_final.pkl. */
bmvp_status folds_check_pickle(const char *path, bmvp_error *err);

#endif
