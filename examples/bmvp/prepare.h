/* prepare.h - the preparation of images that training and embedding share */
#ifndef BMVP_PREPARE_H_INCLUDED
#define BMVP_PREPARE_H_INCLUDED

#include "bmvp_tensor.h"
#include "bmvp_nifti.h"
#include "data.h"

typedef struct bmvp_prepare_options {
    double spacing;          /* mm, isotropic; 0: as the file */
    double low, high;        /* percentiles that become 0 and 1 */
    int centre;              /* 1: box symmetric about the volume's centre (release), 0: box of the foreground */
    int64_t resize[3];       /* then resized to so many voxels (x, y, z); 0: not */
    const bmvp_labels *labels; /* what label values may occur; NULL: not checked */
} bmvp_prepare_options;

typedef struct bmvp_prepared_case {
    bmvp_nii_volume image[BMVP_MODALITIES]; /* by known modality; data NULL: missing */
    bmvp_nii_volume label;
} bmvp_prepared_case;

/* io: memory for the volumes (a bmvp_nii_pool of the thread saves most page faults), NULL: malloc. RAS, spacing, foreground crop, percentiles to [0, 1]. Fails with a message that names case and file: unreadable, NaN, all zero, a label map
   among the images, modalities on different grids. */
bmvp_status bmvp_prepare_case(bmvp_prepared_case *p, const bmvp_case *k, const bmvp_prepare_options *o, const bmvp_nii_options *io,
                              bmvp_error *err);
void bmvp_prepared_case_free(bmvp_prepared_case *p);

/* What prepare wrote is read as it is (without its label); anything else is prepared. */
bmvp_status bmvp_prepare_or_read(bmvp_prepared_case *p, const bmvp_case *k, const bmvp_prepare_options *o, bmvp_error *err);

/* The settings as the JSON object of prepare.json, and back: what is not in the text stays as it was. */
bmvp_status bmvp_prepare_write(const bmvp_prepare_options *o, bmvp_jw *w, bmvp_error *err);
bmvp_status bmvp_prepare_read(const char *text, const char *name, bmvp_prepare_options *o, bmvp_error *err);

/* The header text that marks what prepare wrote. */
extern const char *const bmvp_prepared_mark;

#endif
