/* preparation.h - the preparation of images that training and embedding share */
#ifndef PREPARATION_H_INCLUDED
#define PREPARATION_H_INCLUDED

#include "bmvp_tensor.h"
#include "bmvp_nifti.h"
#include "dataset.h"

typedef struct prepare_options {
    double spacing;          /* mm, isotropic; 0: as the file */
    double low, high;        /* percentiles that become 0 and 1 */
    int centre;              /* 1: box symmetric about the volume's centre (release), 0: box of the foreground */
    int64_t resize[3];       /* then resized to so many voxels (x, y, z); 0: not */
    const bmvp_labels *labels; /* what label values may occur; NULL: not checked */
} prepare_options;

typedef struct prepared_case {
    bmvp_nii_volume image[BMVP_MODALITIES]; /* by known modality; data NULL: missing */
    bmvp_nii_volume label;
} prepared_case;

/* io: memory for the volumes (a bmvp_nii_pool of the thread saves most page faults), NULL: malloc. RAS, spacing, foreground crop, percentiles to [0, 1]. Fails with a message that names case and file: unreadable, NaN, all zero, a label map
   among the images, modalities on different grids. */
bmvp_status prepare_case(prepared_case *p, const data_case *k, const prepare_options *o, const bmvp_nii_options *io,
                         bmvp_error *err);
void prepared_case_free(prepared_case *p);

/* The two halves of prepare_case, for who needs one volume at a time: everything that needs all images together; then the rest, for one
   image or the label (nothing for one that is missing). */
bmvp_status prepare_gather(prepared_case *p, const data_case *k, const prepare_options *o, const bmvp_nii_options *io,
                           bmvp_error *err);
bmvp_status prepare_finish(bmvp_nii_volume *v, int is_label, const data_case *k, const prepare_options *o, bmvp_error *err);
/* The error with the case's name. */
bmvp_status prepare_failed(bmvp_error *err, const data_case *k, const bmvp_error *e);

/* What prepare wrote is read as it is (without its label); anything else is prepared. */
bmvp_status prepare_or_read(prepared_case *p, const data_case *k, const prepare_options *o, bmvp_error *err);

/* The settings as the JSON object of prepare.json, and back: what is not in the text stays as it was. */
bmvp_status prepare_write(const prepare_options *o, bmvp_jw *w, bmvp_error *err);
bmvp_status prepare_read(const char *text, const char *name, prepare_options *o, bmvp_error *err);

/* The header text that marks what prepare wrote. */
extern const char *const prepared_mark;

#endif
