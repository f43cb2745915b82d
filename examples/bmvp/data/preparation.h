/* preparation.h - the cases of a data set and the library's preparation of images: names of cases in messages, no more
 */
#ifndef PREPARATION_H_INCLUDED
#define PREPARATION_H_INCLUDED

#include "dataset.h"

/* The images of a case as the library takes them, in the order of the known modalities; returns how many. */
int case_images(const data_case *k, bmvp_image image[BMVP_MODALITIES]);

/* bmvp_prepare_images of a case, its label included. labels: what values that may have; NULL: not checked. io: memory
   for the volumes (a bmvp_nii_pool of the thread saves most page faults), NULL: malloc. Fails with a message that names
   case and file, also when all images are blank. atlas, keep_doubtful: as in bmvp_prepare_job. */
bmvp_status prepare_gather(bmvp_prepared_images *p, const data_case *k, const bmvp_preparation *how,
                           const bmvp_labels *labels, const bmvp_atlas *atlas, int keep_doubtful,
                           const bmvp_nii_options *io, bmvp_error *err);
/* bmvp_prepare_values of one of them. */
bmvp_status prepare_finish(bmvp_nii_volume *v, int is_label, const data_case *k, const bmvp_preparation *how,
                           bmvp_error *err);

/* What prepare wrote is read as it is; anything else is prepared (both without label). */
bmvp_status prepare_or_read(bmvp_prepared_images *p, const data_case *k, const bmvp_preparation *how, bmvp_error *err);

#endif
